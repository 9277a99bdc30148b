//! The audit trail: a line for each decision, chained by hashes, that costs a decision next to nothing and never delays it.
//!
//! Reading order: this file (what the decision path sees: one branch where there is no trail, else a move into a queue with
//! a bound), `writer` (the thread that owns the sink), `record` (what a line says), `chain` (how lines follow from each
//! other), `sink` (the file, its lock and its rotation). For whoever reads a trail: `trail` (its files and lines), `verify`
//! (whether it is whole), `export` (which of its lines, and one decision).

mod chain;
pub mod export;
mod record;
mod sink;
#[cfg(test)]
mod tests;
pub mod trail;
pub mod verify;
mod writer;

use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use serde_json::Value;

pub use chain::{Hash, Seal};
pub use record::{PPM, Personal, show_share, show_time};
pub use sink::SinkError;

use crate::clock::{Clock, Now};
use crate::decision::{Decision, Summary, Verdict};
use crate::identity::Identity;
use crate::identity::grants::GrantChange;
use crate::secret::Secret;
use crate::supervise;
use record::{Entry, Event, Hashing};
use sink::{Opened, Sink};
use writer::Writer;

/// What the config says of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where lines go.
    pub target: Target,
    /// When a file is full.
    pub rotation: Rotation,
    /// How many of the allowed are written, in parts in a million; refusals all are.
    pub sampled_ppm: u32,
    /// Which fields are written as a keyed hash.
    pub hashed: Vec<Personal>,
    /// The key for those.
    pub hash_key: Option<Secret>,
    /// The key of the chain, without which it cannot be made anew.
    pub chain_key: Option<Secret>,
    /// How many lines wait for a slow disk. Together they have 1 KiB for each.
    pub queue: usize,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// When a file is full, and how many full ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// At this size, or a little above.
    pub bytes: u64,
    /// At this age too, by its first line.
    pub every: Option<Duration>,
    /// Those beyond it are removed, oldest first.
    pub keep: usize,
}

/// The trail, as the decision path and whoever shows figures see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Queue>);

/// What the decision path and the writer share.
#[derive(Debug)]
struct Queue {
    sender: Sender<Message>,
    clock: Clock,
    agent: u32,
    on: AtomicBool,
    sampled_ppm: AtomicU32,
    /// So that nobody can tell beforehand which decisions are written.
    seed: foldhash::fast::RandomState,
    bytes_max: AtomicUsize,
    bytes: AtomicUsize,
    lines_queued: AtomicU64,
    /// Somebody waits for the writer to be done with its sink.
    urgent: AtomicBool,
    sampled_out: AtomicU64,
    drops: Mutex<Option<Drops>>,
    /// Since the first drop, until lines flow again.
    dropping: AtomicBool,
    failing: AtomicBool,
    figures: Mutex<Figures>,
    /// The settings in force, and the receiving end until there is a writer.
    control: Mutex<Control>,
}

#[derive(Debug)]
struct Control {
    settings: Option<Settings>,
    idle: Option<Receiver<Message>>,
}

/// Lines dropped since the trail last said so.
#[derive(Clone, Copy, Debug)]
struct Drops {
    count: u64,
    since_us: u64,
    until_us: u64,
}

impl Drops {
    /// Both together.
    fn add(one: Option<Drops>, other: Option<Drops>) -> Option<Drops> {
        let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
        Some(Drops {
            count: one.count + other.count,
            since_us: one.since_us.min(other.since_us),
            until_us: one.until_us.max(other.until_us),
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    lines: u64,
    dropped: u64,
    sampled_out: u64,
    last: Option<chain::Last>,
}

/// How the trail is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The file, or `stdout`.
    pub target: String,
    /// Whether lines are written: neither a failing disk nor one that is too slow.
    pub up: bool,
    /// Lines written by this process.
    pub lines: u64,
    /// Lines dropped by it.
    pub dropped: u64,
    /// Allows left out because the config asks for a sample.
    pub sampled_out: u64,
    /// Lines that wait.
    pub queued: u64,
    /// The number of the last line written, and its hash as hex.
    pub last: Option<(u64, String)>,
}

// Nearly all of them are decisions, and a box for each would be an allocation on the decision path.
#[allow(clippy::large_enum_variant)]
enum Message {
    Decision(Entry, usize),
    /// The last is what it counts for in the queue.
    Event(Event, Now, usize),
    /// From here on another sink, or only other settings for the same one.
    Begin(Box<Begin>),
    /// Another config, by its version.
    Config(u64),
    /// Look whether the file was moved away.
    Reopen,
    /// Write what is there and close; `true` ends the thread too.
    Stop(&'static str, Option<mpsc::SyncSender<()>>),
}

struct Begin {
    settings: Box<Settings>,
    opened: Option<Opened>,
    config: u64,
}

/// What [`Audit::prepare`] found possible.
#[derive(Debug)]
pub struct Change(Prepared);

#[derive(Debug)]
enum Prepared {
    Off,
    Same,
    Begin(Box<Settings>, Option<Opened>),
}

impl Audit {
    /// No trail yet. `agent` should be random; it is in each line.
    pub fn new(clock: Clock, agent: u32) -> Audit {
        let (sender, receiver) = mpsc::channel();
        Audit(Arc::new(Queue {
            sender,
            clock,
            agent,
            on: AtomicBool::new(false),
            sampled_ppm: AtomicU32::new(PPM),
            seed: foldhash::fast::RandomState::default(),
            bytes_max: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            lines_queued: AtomicU64::new(0),
            urgent: AtomicBool::new(false),
            sampled_out: AtomicU64::new(0),
            drops: Mutex::new(None),
            dropping: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            figures: Mutex::default(),
            control: Mutex::new(Control { settings: None, idle: Some(receiver) }),
        }))
    }

    /// Takes a decision that has left. Never waits: where the queue has no room the line is dropped and counted.
    #[inline]
    pub fn record(&self, decision: Decision, asked: Now, latency: Duration) {
        if self.0.on.load(Ordering::Relaxed) {
            self.0.take(decision, asked, latency);
        }
    }

    /// Opens what `settings` need, so that a config whose trail cannot be written is refused before anything changes.
    pub fn prepare(&self, settings: Option<&Settings>) -> Result<Change, SinkError> {
        // Opening takes as long as a slow disk does, and whoever asks for the status meanwhile must not wait for it.
        let in_force = self.0.control.lock().settings.clone();
        let prepared = match (settings, &in_force) {
            (None, None) => Prepared::Same,
            (None, Some(_)) => Prepared::Off,
            (Some(next), Some(now)) if next == now => Prepared::Same,
            (Some(next), Some(now)) if next.target == now.target => {
                // A chain has one key from its first line to its last, and so has a log that holds several chains.
                if next.chain_key != now.chain_key {
                    return Err(match &next.target {
                        Target::Stdout => SinkError::StdoutKeyChanged,
                        Target::File(path) => SinkError::KeyChanged { path: path.clone() },
                    });
                }
                Prepared::Begin(Box::new(next.clone()), None)
            }
            (Some(next), _) => {
                let opened = Sink::open(&next.target, &next.seal())?;
                Prepared::Begin(Box::new(next.clone()), Some(opened))
            }
        };
        Ok(Change(prepared))
    }

    /// Goes on as prepared, between two decisions: those before are written as before. `config` is in force from here on.
    pub fn apply(&self, change: Change, config: u64) -> Result<(), SinkError> {
        let queue = &self.0;
        let mut control = queue.control.lock();
        match change.0 {
            Prepared::Same => {
                if control.settings.is_some() {
                    self.send(Message::Config(config));
                    self.send(Message::Reopen);
                }
            }
            Prepared::Off => {
                queue.on.store(false, Ordering::Relaxed);
                control.settings = None;
                queue.urgent.store(true, Ordering::Relaxed);
                self.send(Message::Stop("reload", None));
            }
            Prepared::Begin(settings, opened) => {
                if let Some(receiver) = control.idle.take() {
                    let mut writer = Writer::new(receiver, Arc::clone(queue));
                    supervise::thread("audit", move || writer.run()).map_err(|source| SinkError::Thread { source })?;
                }
                queue.urgent.store(opened.is_some(), Ordering::Relaxed);
                queue.sampled_ppm.store(settings.sampled_ppm, Ordering::Relaxed);
                queue.bytes_max.store(settings.queue.saturating_mul(LINE_BYTES), Ordering::Relaxed);
                control.settings = Some((*settings).clone());
                self.send(Message::Begin(Box::new(Begin { settings, opened, config })));
                queue.on.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// A config was refused; the trail says so.
    pub fn reload_refused(&self, problem: &str) {
        if self.0.on.load(Ordering::Relaxed) {
            let first = problem.lines().next().unwrap_or_default();
            let problem = Summary::printable(first.as_bytes());
            let bytes = problem.len();
            self.0.take_event(Event::ReloadRefused { problem }, bytes);
        }
    }

    /// Something has become of a grant.
    pub fn grant(&self, change: GrantChange) {
        if self.0.on.load(Ordering::Relaxed) {
            let GrantChange { grant, .. } = &change;
            let texts = [&grant.issuer, &grant.user, &grant.group, &grant.reason, &grant.by];
            let bytes = size_of::<GrantChange>() + texts.iter().map(|text| text.capacity()).sum::<usize>();
            self.0.take_event(Event::Grant(Box::new(change)), bytes);
        }
    }

    /// Writes what is queued and closes; gives up after `within`, because nothing makes a blocked pipe move. Whether all
    /// of it was written.
    pub fn stop(&self, within: Duration) -> bool {
        if !self.0.on.swap(false, Ordering::Relaxed) {
            return true;
        }
        self.0.urgent.store(true, Ordering::Relaxed);
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Message::Stop("stop", Some(done)));
        let written = wait.recv_timeout(within).is_ok();
        self.0.control.lock().settings = None;
        written && !self.0.failing.load(Ordering::Relaxed)
    }

    /// How it is doing; `None` where there is none.
    pub fn status(&self) -> Option<Status> {
        let queue = &self.0;
        let target = queue.control.lock().settings.as_ref()?.target.name();
        let figures = *queue.figures.lock();
        Some(Status {
            target,
            up: !queue.failing.load(Ordering::Relaxed) && !queue.dropping.load(Ordering::Relaxed),
            lines: figures.lines,
            dropped: figures.dropped,
            sampled_out: figures.sampled_out + queue.sampled_out.load(Ordering::Relaxed),
            queued: queue.lines_queued.load(Ordering::Relaxed),
            last: figures.last.map(|last| (last.seq, last.hash.to_string())),
        })
    }

    fn send(&self, message: Message) {
        // The writer ends with the process only.
        let _ = self.0.sender.send(message);
    }
}

impl Queue {
    fn take(&self, decision: Decision, asked: Now, latency: Duration) {
        let sampled_ppm = self.sampled_ppm.load(Ordering::Relaxed);
        // What was allowed without some part that should have had a say is as interesting as a refusal.
        if sampled_ppm < PPM && decision.verdict() == Verdict::Allow && !decision.degraded {
            let drawn = self.seed.hash_one(decision.id) % u64::from(PPM);
            if drawn >= u64::from(sampled_ppm) {
                self.sampled_out.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let bytes = weight(&decision);
        if self.has_room(bytes, asked) {
            let _ = self.sender.send(Message::Decision(Entry { decision, asked, latency }, bytes));
        }
    }

    /// Events that come from outside have no more room than decisions: somebody can make as many.
    fn take_event(&self, event: Event, bytes: usize) {
        let now = self.clock.now();
        let bytes = (size_of::<Message>() + bytes).max(LINE_BYTES);
        if self.has_room(bytes, now) {
            let _ = self.sender.send(Message::Event(event, now, bytes));
        }
    }

    /// Takes the room for a line, or counts it as dropped.
    fn has_room(&self, bytes: usize, now: Now) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.bytes_max.load(Ordering::Relaxed) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.drop_lines(1, now);
            return false;
        }
        self.lines_queued.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts lines that nobody will read.
    fn drop_lines(&self, count: u64, now: Now) {
        let at_us = now.unix_us();
        {
            let mut drops = self.drops.lock();
            *drops = Drops::add(*drops, Some(Drops { count, since_us: at_us, until_us: at_us }));
        }
        self.figures.lock().dropped += count;
        if !self.dropping.swap(true, Ordering::Relaxed) {
            tracing::error!("the audit trail has no room; lines are dropped and counted until it takes some again");
        }
    }
}

impl Target {
    /// The file, or `stdout`.
    fn name(&self) -> String {
        match self {
            Target::Stdout => "stdout".to_owned(),
            Target::File(path) => path.display().to_string(),
        }
    }
}

impl Settings {
    /// How lines are hashed.
    pub fn seal(&self) -> Seal {
        Seal::new(self.chain_key.as_ref().map(|key| key.expose().as_bytes()))
    }

    fn hashing(&self) -> Hashing {
        let key = self.hash_key.as_ref().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()));
        Hashing(key.map(|key| (Personal::with_twins(self.hashed.clone()), key)))
    }
}

/// About what a decision holds while it waits.
fn weight(decision: &Decision) -> usize {
    let summary = decision.summary.as_deref().map_or(0, |summary| {
        let Summary { method, host, path, src, request_id, token, problem, .. } = summary;
        let texts = [method, host, path, src, request_id, token];
        texts.iter().map(|text| text.capacity()).sum::<usize>() + problem.as_ref().map_or(0, String::capacity)
    });
    let nonce = decision.dpop_nonce.as_ref().map_or(0, String::capacity);
    // The token cache lets go of an identity when it likes, and what is queued may be all that holds it then. Lines of the
    // same identity share it; one of the holders is the cache.
    let holders = Arc::strong_count(&decision.identity).saturating_sub(1).max(1);
    (size_of::<Message>() + summary + nonce + 128 + identity_bytes(&decision.identity) / holders).max(LINE_BYTES)
}

/// About what an identity holds.
fn identity_bytes(identity: &Identity) -> usize {
    let Identity { issuer, user, subject, email, name, client_id, groups_joined, granted, scopes, claims, .. } =
        identity;
    let texts = [issuer, user, subject, email, name, client_id, groups_joined];
    let texts = texts.into_iter().chain(granted).chain(scopes).map(|text| size_of::<String>() + text.capacity());
    let claims = claims.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.capacity(),
            Value::Array(items) => items.len() * NESTED_BYTES,
            Value::Object(members) => members.len() * 2 * NESTED_BYTES,
            _ => 0,
        };
        size_of::<(String, Value)>() + name.len() + value
    });
    size_of::<Identity>() + texts.sum::<usize>() + claims.sum::<usize>()
}

/// What an item of a claim is taken to hold: a look at each would cost the decision path more than it is worth.
const NESTED_BYTES: usize = 64;

/// What a line counts for in the queue, at least.
pub const LINE_BYTES: usize = 1024;
