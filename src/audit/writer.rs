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

use super::chain::{Last, Seal};
use super::record::{Event, Gap, Hashing, Members};
use super::sink::{Opened, Sink, SinkError};
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
                open.append(&members, entry.asked);
            }
            Message::Event(event, now) => self.event(&event, now),
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
            let mut members = Members::begin(now.unix_us(), self.queue.agent, self.config);
            members.event(event, &open.hashing);
            open.append(&members, now);
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
            if open.sink.is_elsewhere() && open.sink.reopen().is_ok() {
                // The new file gets the whole of the line that the old one has a part of.
                let written = open.batch.get(..open.written).unwrap_or_default();
                open.written = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
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
            Ok((from, removed)) => {
                open.is_stuck = false;
                self.event(&Event::Rotated { from: Some(from), removed }, now);
                self.write();
            }
            Err(error) => open.complain_unless(Err(error)),
        }
    }

    /// Goes on in another file where the one being written was moved away. What is in the batch is written before.
    fn follow_file(&mut self) {
        let Some(open) = self.open.as_mut().filter(|open| open.sink.is_elsewhere()) else { return };
        let event = match open.sink.reopen() {
            Ok(false) => Event::Rotated { from: None, removed: Vec::new() },
            Ok(true) => {
                tracing::warn!("another file stands where the audit trail is written; it goes on in that one");
                Event::Gap { what: Gap::Replaced }
            }
            Err(error) => return open.complain_unless(Err(error)),
        };
        open.is_stuck = false;
        self.event(&event, self.queue.clock.now());
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
            is_stuck: false,
        }
    }

    fn append(&mut self, members: &Members, now: Now) {
        self.sink.begins(self.last.seq + 1, now.unix_us());
        self.last.append(members.as_str(), &self.seal, &mut self.batch);
        self.lines += 1;
    }

    /// Forgets what is not written: those lines are dropped, and what they said is still to be said.
    fn give_up(&mut self, queue: &Queue) {
        let rest = self.batch.get(self.written..).unwrap_or_default();
        let lost = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.batch.clear();
        (self.written, self.lines) = (0, 0);
        let (drops, sampled_out) = std::mem::take(&mut self.said);
        queue.sampled_out.fetch_add(sampled_out, Ordering::Relaxed);
        queue.drop_lines(lost, queue.clock.now());
        let mut to_say = queue.drops.lock();
        *to_say = Drops::add(drops, *to_say);
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
    let hashed = settings.hashed.clone();
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
