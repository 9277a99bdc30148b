//! The thread that owns the sink: takes decisions out of the queue, makes lines of them and writes those in batches.
//!
//! It may be as slow as the disk is. What fails is tried again, ever more rarely; a line that was written in part goes on
//! where it stopped. It is woken by the first decision after a rest and looks by itself after that, so that a busy decision
//! path wakes nobody.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use super::chain::{Hash, Last, Link, Seal};
use super::record::{Event, Gap, Hashing, Members, Personal};
use super::sink::{Opened, Rotated, Sink, SinkError};
use super::{Begin, Drops, Message, Queue, Rotation, Settings, Target};
use crate::clock::Now;

pub(super) struct Writer {
    receiver: Receiver<Message>,
    queue: Arc<Queue>,
    config: u64,
    open: Option<Open>,
}

/// A sink, and the chain in it.
struct Open {
    sink: Sink,
    seal: Seal,
    hashing: Hashing,
    rotation: Rotation,
    /// The last line, be it written or in `batch`.
    last: Last,
    batch: Vec<u8>,
    /// How much of the batch is written.
    written: usize,
    /// How many of its lines are decisions and events.
    lines: u64,
    looked: Instant,
    counted: Instant,
    sampled: Instant,
    is_synced: bool,
    /// What the batch says was dropped, and left out.
    said: (Option<Drops>, u64),
    /// The line that says the last of it.
    said_seq: u64,
    /// Whether the last rotation failed, so that it is told once.
    is_stuck: bool,
}

impl Writer {
    pub(super) fn new(receiver: Receiver<Message>, queue: Arc<Queue>) -> Writer {
        Writer { receiver, queue, config: 0, open: None }
    }

    /// Runs until it is told to stop. Begun again after a panic it goes on with what it has.
    pub(super) fn run(&mut self) {
        loop {
            match self.receiver.recv_timeout(LOOK) {
                Ok(message) => {
                    if self.take(message) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.queue.lines_queued.load(Ordering::Relaxed) < BATCH_LINES {
                // What comes meanwhile finds nobody to wake, and is written together.
                thread::sleep(LINGER);
            }
            while self.open.as_ref().is_none_or(|open| open.batch.len() < BATCH_BYTES) {
                let Ok(message) = self.receiver.try_recv() else { break };
                if self.take(message) {
                    return;
                }
            }
            self.say_counts(self.queue.clock.now(), false);
            self.write();
            self.look();
        }
    }

    /// Does what a message says; whether the thread ends.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Decision(entry, bytes) => {
                self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.queue.lines_queued.fetch_sub(1, Ordering::Relaxed);
                let config = entry.decision.summary.as_ref().map_or(self.config, |summary| summary.config);
                // Where the trail was just turned off there is nothing to write to.
                let Some(open) = &mut self.open else { return false };
                let mut members = Members::begin(entry.asked.unix_us(), self.queue.agent, config);
                members.decision(&entry, &open.hashing);
                open.append(members.as_str(), entry.asked);
            }
            Message::Event(event, now, bytes) => {
                self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.queue.lines_queued.fetch_sub(1, Ordering::Relaxed);
                self.event(&event, now);
            }
            Message::Config(config) => {
                self.config = config;
                self.event(&Event::Reload, self.queue.clock.now());
            }
            Message::Begin(begin) => self.begin(*begin),
            Message::Reopen => {
                self.write();
                self.follow_file();
            }
            Message::Stop(why, done) => return self.stop(why, done),
        }
        false
    }

    fn event(&mut self, event: &Event, now: Now) {
        if let Some(open) = &mut self.open {
            open.event(event, now, self.queue.agent, self.config);
        }
    }

    fn begin(&mut self, Begin { settings, opened, config }: Begin) {
        let now = self.queue.clock.now();
        let is_first = self.open.is_none();
        match (opened, &mut self.open) {
            (Some(opened), _) => {
                self.close("reload");
                self.config = config;
                let gap = opened.gap.clone();
                self.open = Some(Open::new(opened, &settings, now.instant()));
                if let Some(what) = gap {
                    tracing::warn!(what = what.name(), "the audit trail does not end as it should; a `gap` says so");
                    self.event(&Event::Gap { what }, now);
                }
                self.event(&start(&settings), now);
                if !is_first {
                    self.event(&Event::Reload, now);
                }
            }
            (None, Some(_)) => {
                self.event(&Event::Stop { why: "reload" }, now);
                self.config = config;
                if let Some(open) = &mut self.open {
                    open.hashing = settings.hashing();
                    open.rotation = settings.rotation;
                }
                self.event(&start(&settings), now);
                self.event(&Event::Reload, now);
            }
            (None, None) => {}
        }
        self.queue.urgent.store(false, Ordering::Relaxed);
    }

    fn stop(&mut self, why: &'static str, done: Option<SyncSender<()>>) -> bool {
        self.close(why);
        self.queue.urgent.store(false, Ordering::Relaxed);
        let Some(done) = done else { return false };
        let _ = done.try_send(());
        true
    }

    /// Writes the end of a sink's own story.
    fn close(&mut self, why: &'static str) {
        if self.open.is_none() {
            return;
        }
        let now = self.queue.clock.now();
        self.say_counts(now, true);
        self.event(&Event::Stop { why }, now);
        self.write();
        if let Some(open) = self.open.take()
            && let Err(error) = open.sink.sync()
        {
            tracing::warn!(%error, "the audit trail may not be on the disk");
        }
    }

    /// Writes the batch, for as long as that takes; gives it up only where somebody waits for the sink to be left.
    fn write(&mut self) {
        let Some(open) = &mut self.open else { return };
        if open.batch.is_empty() {
            return;
        }
        let queue = &self.queue;
        let (mut pause, mut tries) = (PAUSE_MIN, 0);
        while let Some(rest) = open.batch.get(open.written..).filter(|rest| !rest.is_empty()) {
            let error = match open.sink.write(rest) {
                Ok(written) => {
                    open.written += written;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if !queue.failing.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, "the audit trail cannot be written; trying again, decisions go on");
            }
            tries += 1;
            if tries > 1 && queue.urgent.load(Ordering::Relaxed) {
                open.give_up(queue);
                return;
            }
            // The disk may be full of the very file that somebody has removed.
            if open.sink.is_elsewhere()
                && let Ok(is_anothers) = open.sink.reopen()
            {
                open.move_on(is_anothers, queue.clock.now(), queue.agent, self.config);
                continue;
            }
            sleep(pause, queue);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        open.batch.clear();
        open.written = 0;
        open.is_synced = false;
        {
            let mut figures = queue.figures.lock();
            figures.lines += std::mem::take(&mut open.lines);
            figures.last = Some(open.last);
            figures.sampled_out += open.said.1;
        }
        if queue.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the audit trail is written again");
        }
        if std::mem::take(&mut open.said).0.is_some() {
            queue.dropping.store(false, Ordering::Relaxed);
        }
    }

    /// Puts into the trail what is not in it, as far as nothing has been said of it yet.
    fn say_counts(&mut self, now: Now, at_once: bool) {
        let Some(open) = &mut self.open else { return };
        let since = now.instant().saturating_duration_since(open.counted);
        if !at_once && since < LOOK {
            return;
        }
        open.counted = now.instant();
        let drops = self.queue.drops.lock().take();
        let mut sampled_out = 0;
        if at_once || now.instant().saturating_duration_since(open.sampled) >= SAMPLED_EVERY {
            open.sampled = now.instant();
            sampled_out = self.queue.sampled_out.swap(0, Ordering::Relaxed);
        }
        if sampled_out > 0 {
            self.event(&Event::SampledOut { count: sampled_out }, now);
        }
        if let Some(Drops { count, since_us, until_us }) = drops {
            self.event(&Event::Dropped { count, since_us, until_us }, now);
        }
        if let Some(open) = &mut self.open {
            open.said.0 = Drops::add(open.said.0, drops);
            open.said.1 += sampled_out;
            if drops.is_some() || sampled_out > 0 {
                open.said_seq = open.last.seq;
            }
        }
    }

    /// Looks after the file, once a second: is it on the disk, is it full, is it still there.
    fn look(&mut self) {
        let Some(open) = &mut self.open else { return };
        let now = self.queue.clock.now();
        if now.instant().saturating_duration_since(open.looked) >= LOOK {
            open.looked = now.instant();
            if !open.is_synced {
                let synced = open.sink.sync();
                open.is_synced = true;
                open.complain_unless(synced.map_err(|source| SinkError::Sync { source }));
            }
            self.follow_file();
        }
        let Some(open) = self.open.as_ref().filter(|open| open.sink.is_full(open.rotation, now.unix_us())) else {
            return;
        };
        if open.is_stuck && now.instant() != open.looked {
            return;
        }
        self.say_counts(now, true);
        self.write();
        let Some(open) = &mut self.open else { return };
        match open.sink.rotate(open.rotation.keep) {
            Ok(Some(Rotated { from, removed, kept })) => {
                open.is_stuck = false;
                if let Some(error) = kept {
                    let cause = error.source().map(ToString::to_string).unwrap_or_default();
                    tracing::error!(%error, cause, "the audit trail was rotated and grows on");
                }
                self.event(&Event::Rotated { from: Some(from), removed }, now);
                self.write();
            }
            Ok(None) => {}
            Err(error) => open.complain_unless(Err(error)),
        }
    }

    /// Goes on in another file where the one being written was moved away. What is in the batch is written before.
    fn follow_file(&mut self) {
        let Some(open) = self.open.as_mut().filter(|open| open.sink.is_elsewhere()) else { return };
        match open.sink.reopen() {
            Ok(is_anothers) => open.move_on(is_anothers, self.queue.clock.now(), self.queue.agent, self.config),
            Err(error) => return open.complain_unless(Err(error)),
        }
        self.write();
    }
}

impl Open {
    fn new(opened: Opened, settings: &Settings, now: Instant) -> Open {
        Open {
            sink: opened.sink,
            seal: settings.seal(),
            hashing: settings.hashing(),
            rotation: settings.rotation,
            last: opened.last,
            batch: Vec::new(),
            written: 0,
            lines: 0,
            looked: now,
            counted: now,
            sampled: now,
            is_synced: true,
            said: (None, 0),
            said_seq: 0,
            is_stuck: false,
        }
    }

    fn event(&mut self, event: &Event, now: Now, agent: u32, config: u64) {
        let mut members = Members::begin(now.unix_us(), agent, config);
        members.event(event, &self.hashing);
        if self.sink.is_unbegun() {
            members.first();
        }
        self.append(members.as_str(), now);
    }

    fn append(&mut self, members: &str, now: Now) {
        self.sink.begins(self.last.seq + 1, now.unix_us());
        self.last.append(members, &self.seal, &mut self.batch);
        self.lines += 1;
    }

    /// Where in the batch the first line begins that is not written as a whole.
    fn rest_begins(&self) -> usize {
        let written = self.batch.get(..self.written).unwrap_or_default();
        written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
    }

    /// The rest of the batch is for another file than it was made for. What has happened is the first line there, and the
    /// others follow that one.
    fn move_on(&mut self, is_anothers: bool, now: Now, agent: u32, config: u64) {
        self.is_stuck = false;
        let begin = self.rest_begins();
        let batch = std::mem::take(&mut self.batch);
        let rest = batch.get(begin..).unwrap_or_default();
        let torn = batch.get(begin..std::mem::take(&mut self.written)).unwrap_or_default();
        let links: Vec<Link<'_>> = rest.split(|byte| *byte == b'\n').filter_map(Link::read).collect();
        if let Some(first) = links.first() {
            self.last = first.before();
        }
        self.lines = self.lines.saturating_sub(links.len() as u64);
        if !torn.is_empty() {
            let what = Gap::Torn { bytes: torn.len() as u64, sha256: Hash::sha256(torn) };
            self.event(&Event::Gap { what }, now, agent, config);
        }
        if is_anothers {
            tracing::warn!("another file stands where the audit trail is written; it goes on in that one");
            self.event(&Event::Gap { what: Gap::Replaced }, now, agent, config);
        } else if torn.is_empty() {
            self.event(&Event::Rotated { from: None, removed: Vec::new() }, now, agent, config);
        }
        for link in links {
            self.append(&String::from_utf8_lossy(link.members), now);
        }
        self.said_seq = self.last.seq;
    }

    /// Forgets what is not written: those lines are dropped, and what they said is still to be said. A line that is in the
    /// file in part stays, and goes on where it stopped should there be room again.
    fn give_up(&mut self, queue: &Queue) {
        let begin = self.rest_begins();
        let rest = self.batch.get(begin..).unwrap_or_default();
        let is_in_part = self.written > begin;
        let kept = rest.iter().position(|byte| *byte == b'\n').filter(|_| is_in_part).map_or(0, |end| end + 1);
        let first = rest.split(|byte| *byte == b'\n').next().and_then(Link::read);
        let before = first.map_or(self.last, |link| link.before());
        self.last = first.filter(|_| is_in_part).map_or(before, |link| link.last());
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let (lost, written) =
            (lines(rest.get(kept..).unwrap_or_default()), lines(self.batch.get(..begin).unwrap_or_default()));
        self.batch.truncate(begin + kept);
        self.batch.drain(..begin.min(self.batch.len()));
        (self.written, self.lines) = (self.written - begin, u64::from(is_in_part));
        let was_said = self.said_seq <= self.last.seq;
        let (drops, sampled_out) = std::mem::take(&mut self.said);
        {
            let mut figures = queue.figures.lock();
            figures.lines += written;
            figures.last = Some(before).filter(|last| last.seq > 0).or(figures.last);
            figures.sampled_out += if was_said { sampled_out } else { 0 };
        }
        queue.drop_lines(lost, queue.clock.now());
        if !was_said {
            queue.sampled_out.fetch_add(sampled_out, Ordering::Relaxed);
            let mut to_say = queue.drops.lock();
            *to_say = Drops::add(drops, *to_say);
        }
    }

    /// Says once that the file cannot be looked after. What is open is written on.
    fn complain_unless(&mut self, done: Result<(), SinkError>) {
        if let Err(error) = done
            && !std::mem::replace(&mut self.is_stuck, true)
        {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "the audit trail is written on in the file that is open");
        }
    }
}

/// Waits, but for no longer than somebody else can.
fn sleep(pause: Duration, queue: &Queue) {
    let mut left = pause;
    while !left.is_zero() && !queue.urgent.load(Ordering::Relaxed) {
        let piece = left.min(PAUSE_MIN);
        thread::sleep(piece);
        left -= piece;
    }
}

fn start(settings: &Settings) -> Event {
    let hashed = Personal::with_twins(settings.hashed.clone());
    let to = match settings.target {
        Target::Stdout => "stdout",
        Target::File(_) => "file",
    };
    Event::Start { to, chain: settings.seal().name(), sampled_ppm: settings.sampled_ppm, hashed }
}

/// How often the file is looked after, and what was dropped is told.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is told how many allows were left out.
const SAMPLED_EVERY: Duration = Duration::from_secs(60);

/// What comes within this is written together.
const LINGER: Duration = Duration::from_millis(2);

/// With more of them waiting there is no time to linger.
const BATCH_LINES: u64 = 256;

/// What one write has at most, a line more or less.
const BATCH_BYTES: usize = 256 * 1024;

/// Between two tries after a failure: from this, doubling, to that.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::audit::record::PPM;
    use crate::audit::{Audit, trail, verify};
    use crate::clock::Clock;

    fn settings(path: &Path) -> Settings {
        Settings {
            target: Target::File(path.to_owned()),
            rotation: Rotation { bytes: 100 << 20, every: None, keep: 10 },
            sampled_ppm: PPM,
            hashed: Vec::new(),
            hash_key: None,
            chain_key: None,
            queue: 100,
        }
    }

    /// A file with lines in a batch, of which so many bytes were written.
    fn written_in_part(path: &Path, bytes: usize) -> Option<Open> {
        let settings = settings(path);
        let opened = Sink::open(&settings.target, &settings.seal()).unwrap();
        let now = Clock::by_hand(1_800_000_000).now();
        let mut open = Open::new(opened, &settings, now.instant());
        open.event(&start(&settings), now, 7, 1);
        (0..3).for_each(|n| open.append(&format!("\"n\":{n}"), now));
        let piece = open.batch.get(..bytes)?.to_vec();
        write(&mut open, &piece);
        open.written = bytes;
        Some(open)
    }

    fn write(open: &mut Open, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = open.sink.write(bytes).unwrap();
            bytes = &bytes[written..];
        }
    }

    /// The disk is full, and somebody moves the file away, or gives it to the trail's rotated ones.
    #[test]
    fn a_batch_that_goes_on_in_another_file_goes_on_in_its_chain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        for bytes in 0.. {
            let Some(mut open) = written_in_part(&path, bytes) else { return assert!(bytes > 500) };
            let moved = trail::rotated_name(&path, 1);
            std::fs::rename(&path, &moved).unwrap();
            assert!(!open.sink.reopen().unwrap());
            open.move_on(false, Clock::by_hand(1_800_000_001).now(), 7, 1);
            assert_eq!((open.written, open.lines), (0, 5));
            let rest = open.batch.clone();
            write(&mut open, &rest);
            let lines = std::fs::read_to_string(&path).unwrap();
            assert!(lines.lines().next().unwrap().contains("\"first\":true"), "{bytes} bytes: {lines}");
            let report = verify::verify(&trail::open(&path).unwrap(), &Seal::Plain, None).unwrap();
            assert!(report.is_whole() && report.last.as_ref().unwrap().0 == 5, "{bytes} bytes: {report:?}");
            drop(open);
            std::fs::remove_file(&path).unwrap();
            std::fs::remove_file(&moved).unwrap();
        }
    }

    /// The disk is full, somebody waits for the sink, and there is room again just then.
    #[test]
    fn what_was_given_up_leaves_no_hole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::new(Clock::by_hand(1_800_000_000), 7);
        for bytes in 0.. {
            let Some(mut open) = written_in_part(&path, bytes) else { return assert!(bytes > 500) };
            let lines_before = audit.0.figures.lock().lines;
            audit.0.drops.lock().take();
            open.give_up(&audit.0);
            let lost = audit.0.drops.lock().map_or(0, |drops| drops.count);
            let written = audit.0.figures.lock().lines - lines_before;
            assert_eq!(lost + written + open.lines, 4, "{bytes} bytes");
            open.event(&Event::Stop { why: "stop" }, Clock::by_hand(1_800_000_001).now(), 7, 1);
            let rest = open.batch[open.written..].to_vec();
            write(&mut open, &rest);
            let report = verify::verify(&trail::open(&path).unwrap(), &Seal::Plain, None).unwrap();
            assert!(report.is_whole(), "{bytes} bytes: {report:?}");
            assert_eq!(report.lines, 5 - lost, "{bytes} bytes");
            drop(open);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
