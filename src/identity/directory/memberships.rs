//! Who is in which groups, as far as a directory has told: asked in the background, kept while it is away, retired when
//! it says otherwise.
//!
//! The request path looks into a map and at worst leaves a name for the task; it never asks a directory. One task a
//! directory does all the asking, eight people at once. Each person has one entry with one time at which something falls
//! due: to be asked about again, to be given up, or to be forgotten because nobody has needed it for a while.
//!
//! What a verdict rests on here is a [`Membership`], or an [`Ignorance`] where nothing is known. Both end when they are
//! no longer so, and with them whatever was cached on their ground.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::cache::Ground;
use super::super::outbound::chain;
use super::super::source::random_unit;
use super::entra::Entra;
use super::file::GroupFile;
use super::google::Google;
use super::ldap::LdapGroups;
use super::{Absent, Directory, DirectoryError, DirectoryKind, DirectorySettings};
use crate::clock::{Clock, Now};

/// One directory, and what is known of its people. Dropping it ends its task.
pub struct Memberships {
    settings: DirectorySettings,
    source: Source,
    /// Ends the task, which holds the source itself.
    end: CancellationToken,
    _end_on_drop: DropGuard,
}

enum Source {
    Asked(Arc<Asked>),
    File(Arc<GroupFile>),
}

/// Somebody's groups.
#[derive(Debug)]
pub struct Membership {
    /// Sorted, each once.
    groups: Box<[Box<str>]>,
    standing: Standing,
}

/// That somebody's groups are not known.
#[derive(Debug, Default)]
pub struct Ignorance(Standing);

/// Whether something that was found out is still so.
#[derive(Debug, Default)]
struct Standing {
    over: AtomicBool,
    /// Whether anybody has relied on it since the last look at this. Whoever is cached does not come back to ask, and is
    /// there all the same.
    used: AtomicBool,
}

impl Membership {
    pub(super) fn new(groups: Vec<String>) -> Arc<Membership> {
        let mut groups: Vec<Box<str>> = groups.into_iter().map(String::into_boxed_str).collect();
        groups.sort_unstable();
        groups.dedup();
        Arc::new(Membership { groups: groups.into(), standing: Standing::default() })
    }

    /// The groups' names as the directory has them, sorted, each once.
    pub fn groups(&self) -> &[Box<str>] {
        &self.groups
    }

    /// Whether this is still what is known. Once it is not, it never will be again.
    pub fn is_live(&self) -> bool {
        self.standing.holds()
    }

    pub(super) fn retire(&self) {
        self.standing.end();
    }

    fn bytes(&self) -> usize {
        // A small allocation takes some 16 bytes more than is asked for.
        self.groups.iter().map(|group| group.len() + size_of::<Box<str>>() + 16).sum()
    }
}

impl Ignorance {
    pub(super) fn end(&self) {
        self.0.end();
    }
}

impl Standing {
    fn holds(&self) -> bool {
        // Read first: a line that all processors write would be one that they wait for.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        !self.over.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
    }
}

impl Ground for Membership {
    fn holds(&self) -> bool {
        self.standing.holds()
    }
}

impl Ground for Ignorance {
    fn holds(&self) -> bool {
        self.0.holds()
    }
}

/// What is known of somebody's groups at this moment.
#[derive(Debug)]
pub enum Look {
    /// These they are. What is built on them holds as long as they do.
    Known(Arc<Membership>),
    /// They may be any.
    Unknown {
        /// Resolves when a question that is under way has been answered or has failed; look again then, once. `None`
        /// where there is nothing to wait for.
        wait: Option<MembershipWait>,
        /// What a verdict with unknown groups rests on: it ends when something becomes known. Where there is none such a
        /// verdict must not be kept.
        ignorance: Option<Arc<Ignorance>>,
    },
}

/// Resolves when the question that is under way about somebody has ended, one way or the other. The caller bounds it by
/// its own deadline; dropping it stops nothing.
pub struct MembershipWait(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for MembershipWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for MembershipWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MembershipWait")
    }
}

/// How a directory is doing, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryStatus {
    /// The config's name of it.
    pub name: Arc<str>,
    /// People whose groups are known, or asked for.
    pub people: usize,
    /// What they take in bytes, about; 0 for a file.
    pub bytes: usize,
    /// Seconds since the directory last answered; for a file, since it was last seen to have changed.
    pub age_s: Option<u64>,
    /// People who wait to be asked about.
    pub queued: usize,
    /// People who are being asked about.
    pub in_flight: usize,
    /// Questions that have ended.
    pub fetches: u64,
    /// Those that brought no answer.
    pub failures: u64,
    /// Of these, those that were told to be slower.
    pub throttled: u64,
    /// Questions that were not asked because too many others waited.
    pub dropped: u64,
    /// People who were forgotten because there were too many.
    pub evicted: u64,
    /// For how many seconds more nobody is asked.
    pub paused_s: Option<u64>,
    /// Why the last question brought no answer; `None` after one that did. Names hosts, holds no secret.
    pub last_error: Option<String>,
}

/// How often things happen and how much there may be. Tests bring their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How often it is looked what falls due, or whether a file has changed.
    pub(super) tick: Duration,
    /// Pause after the first failure; doubles up to `backoff_max`.
    pub(super) backoff_first: Duration,
    pub(super) backoff_max: Duration,
    /// One person's groups, with all pages and groups of groups.
    pub(super) fetch_max: Duration,
    /// Who is not there, or cannot be told, is asked about again after this.
    pub(super) absent: Duration,
    /// Who has not been seen for so long is forgotten.
    pub(super) idle: Duration,
    pub(super) in_flight_max: usize,
    pub(super) queued_max: usize,
    pub(super) people_max: usize,
    pub(super) bytes_max: usize,
}

impl Pace {
    pub(super) const PRODUCTION: Pace = Pace {
        tick: Duration::from_secs(1),
        backoff_first: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        // A thousand groups of groups, four at once, 50 ms each, are 13 seconds.
        fetch_max: Duration::from_secs(60),
        absent: Duration::from_secs(60),
        // Somebody who reads a page for a quarter of an hour finds their groups as fresh as before.
        idle: Duration::from_secs(900),
        in_flight_max: 8,
        // At eight in flight and 100 ms each, two minutes' worth: who stands further back is not helped by standing.
        queued_max: 10_000,
        people_max: 100_000,
        // 100,000 people in 20 groups with names of 36 bytes.
        bytes_max: 160 * 1024 * 1024,
    };
}

impl Memberships {
    /// A file is read here, and blocks; others are asked after [`Memberships::spawn`].
    pub fn new(settings: &DirectorySettings) -> Memberships {
        Memberships::with_pace(settings, Pace::PRODUCTION)
    }

    pub(super) fn with_pace(settings: &DirectorySettings, pace: Pace) -> Memberships {
        let asked = |directory: Box<dyn Directory>| Source::Asked(Asked::new(settings, directory, pace));
        let source = match &settings.kind {
            DirectoryKind::Google(google) => asked(Box::new(Google::new(google, settings.refresh))),
            DirectoryKind::Entra(entra) => asked(Box::new(Entra::new(entra))),
            DirectoryKind::Ldap(ldap) => asked(Box::new(LdapGroups::new(ldap))),
            DirectoryKind::File(path) => Source::File(Arc::new(GroupFile::new(settings, path, pace.tick))),
        };
        Memberships::of(settings, source)
    }

    #[cfg(test)]
    pub(super) fn asking(settings: &DirectorySettings, directory: Box<dyn Directory>, pace: Pace) -> Memberships {
        Memberships::of(settings, Source::Asked(Asked::new(settings, directory, pace)))
    }

    fn of(settings: &DirectorySettings, source: Source) -> Memberships {
        let end = CancellationToken::new();
        Memberships { settings: settings.clone(), source, _end_on_drop: end.clone().drop_guard(), end }
    }

    /// What it was made of.
    pub fn settings(&self) -> &DirectorySettings {
        &self.settings
    }

    /// Starts the task, once; needs a Tokio runtime. It ends with `stop`, or when this is dropped.
    pub fn spawn(&self, clock: Clock, stop: CancellationToken) {
        match &self.source {
            Source::Asked(asked) => {
                if asked.begin() {
                    tokio::spawn(Arc::clone(asked).run(clock, self.end.clone(), stop));
                }
            }
            Source::File(file) => {
                if file.begin() {
                    tokio::spawn(Arc::clone(file).run(clock, self.end.clone(), stop));
                }
            }
        }
    }

    /// What is known of `user`'s groups. Never blocks and never asks: who is not known is left for the task.
    pub fn look(&self, user: &str, now: Now) -> Look {
        match &self.source {
            Source::Asked(asked) => asked.look(user, now),
            Source::File(file) => file.look(user),
        }
    }

    /// How it is doing.
    pub fn status(&self, now: Now) -> DirectoryStatus {
        match &self.source {
            Source::Asked(asked) => asked.status(now),
            Source::File(file) => file.status(now),
        }
    }
}

/// A directory that is asked about one person at a time.
struct Asked {
    name: Arc<str>,
    refresh: Duration,
    keep: Duration,
    absent: Absent,
    directory: Box<dyn Directory>,
    pace: Pace,
    desk: Mutex<Desk>,
    /// Wakes the task: somebody is queued.
    wanted: Notify,
}

/// All that changes. Held for a look-up and a few links at a time, never while anybody is asked.
#[derive(Default)]
struct Desk {
    running: bool,
    people: HashMap<Arc<str>, Person, foldhash::fast::RandomState>,
    /// Everybody once, soonest first.
    due: BTreeSet<(Instant, Arc<str>)>,
    bytes: usize,
    /// Nothing is known of them, and requests may be waiting. Names that are no longer wanted are passed over.
    unknown: VecDeque<Arc<str>>,
    /// What is known of them is getting old.
    aging: VecDeque<Arc<str>>,
    in_flight: usize,
    paused_until: Option<Instant>,
    /// Pauses so far: an attempt that began before the last one says nothing about how it went on.
    pauses: u64,
    failures_in_a_row: u32,
    /// The last question failed, which has been logged.
    is_down: bool,
    /// A failure about one person was logged then.
    odd_logged_at: Option<Instant>,
    answered_at: Option<Instant>,
    fetches: u64,
    failures: u64,
    throttled: u64,
    dropped: u64,
    evicted: u64,
    last_error: Option<String>,
}

struct Person {
    known: Option<Known>,
    ignorance: Arc<Ignorance>,
    seen_at: Instant,
    due_at: Instant,
    question: Option<Question>,
    bytes: usize,
}

struct Known {
    membership: Arc<Membership>,
    fetched_at: Instant,
}

/// Somebody is queued, or being asked about.
struct Question {
    is_in_flight: bool,
    /// Cancelled when the question is dropped, which tells those who wait.
    ended: CancellationToken,
    _end_on_drop: DropGuard,
}

impl Asked {
    fn new(settings: &DirectorySettings, directory: Box<dyn Directory>, pace: Pace) -> Arc<Asked> {
        Arc::new(Asked {
            name: Arc::clone(&settings.name),
            refresh: settings.refresh,
            keep: settings.keep,
            absent: settings.absent,
            directory,
            pace,
            desk: Mutex::default(),
            wanted: Notify::new(),
        })
    }

    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.desk.lock().running, true)
    }

    fn look(&self, user: &str, now: Now) -> Look {
        let nothing = Look::Unknown { wait: None, ignorance: None };
        if user.is_empty() || user.len() > USER_BYTES_MAX {
            return nothing;
        }
        let at = now.instant();
        let mut desk = self.desk.lock();
        let desk = &mut *desk;
        if !desk.people.contains_key(user) {
            if !desk.running {
                return nothing;
            }
            if desk.unknown.len() >= self.pace.queued_max {
                desk.dropped += 1;
                return nothing;
            }
            self.admit(desk, user.into(), at);
        }
        let Some(person) = desk.people.get_mut(user) else { return nothing };
        person.seen_at = person.seen_at.max(at);
        if let Some(known) = &person.known {
            // The task gives up what is too old; should it be late, it is too old all the same.
            if at.saturating_duration_since(known.fetched_at) < self.keep {
                return Look::Known(Arc::clone(&known.membership));
            }
            return nothing;
        }
        let is_paused = desk.paused_until.is_some_and(|until| at < until);
        let wait = person.question.as_ref().filter(|question| question.is_in_flight || !is_paused).map(Question::wait);
        Look::Unknown { wait, ignorance: Some(Arc::clone(&person.ignorance)) }
    }

    /// Somebody new: queued to be asked about.
    fn admit(&self, desk: &mut Desk, user: Arc<str>, at: Instant) {
        let due_at = at + self.pace.absent;
        let bytes = PERSON_BYTES + user.len();
        let person = Person {
            known: None,
            ignorance: Arc::default(),
            seen_at: at,
            due_at,
            question: Some(Question::new()),
            bytes,
        };
        self.make_room(desk, 1, bytes);
        desk.bytes += bytes;
        desk.people.insert(Arc::clone(&user), person);
        desk.due.insert((due_at, Arc::clone(&user)));
        desk.unknown.push_back(user);
        self.wanted.notify_one();
    }

    fn status(&self, now: Now) -> DirectoryStatus {
        let desk = self.desk.lock();
        let at = now.instant();
        DirectoryStatus {
            name: Arc::clone(&self.name),
            people: desk.people.len(),
            bytes: desk.bytes,
            age_s: desk.answered_at.map(|answered| at.saturating_duration_since(answered).as_secs()),
            queued: desk.unknown.len() + desk.aging.len(),
            in_flight: desk.in_flight,
            fetches: desk.fetches,
            failures: desk.failures,
            throttled: desk.throttled,
            dropped: desk.dropped,
            evicted: desk.evicted,
            paused_s: desk.paused_until.filter(|until| at < *until).map(|until| (until - at).as_secs()),
            last_error: desk.last_error.clone(),
        }
    }

    /// The task.
    async fn run(self: Arc<Self>, clock: Clock, end: CancellationToken, stop: CancellationToken) {
        let work = async {
            let mut in_flight = FuturesUnordered::new();
            let mut tick = tokio::time::interval(self.pace.tick);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                while let Some((user, pauses)) = self.begin_next(clock.now()) {
                    in_flight.push(self.attempt(user, pauses, &clock));
                }
                tokio::select! {
                    Some((user, pauses, outcome)) = in_flight.next() => {
                        self.conclude(&user, pauses, outcome, clock.now());
                    }
                    () = self.wanted.notified() => {}
                    _ = tick.tick() => {
                        while self.look_after(clock.now()) {
                            // The lock was let go; others may have it before the next thousand.
                            tokio::task::yield_now().await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = end.cancelled() => {}
            () = stop.cancelled() => {}
            () = work => {}
        }
        // What is known stays: requests that are still being answered need it. Nobody need wait any more.
        let mut desk = self.desk.lock();
        desk.running = false;
        desk.in_flight = 0;
        desk.unknown.clear();
        desk.aging.clear();
        for person in desk.people.values_mut() {
            person.question = None;
        }
    }

    /// Asks the directory. It may panic in a dependency and it may take for ever; neither is let through.
    async fn attempt(
        &self,
        user: Arc<str>,
        pauses: u64,
        clock: &Clock,
    ) -> (Arc<str>, u64, Result<Vec<String>, DirectoryError>) {
        let asking = async { self.directory.groups_of(&user, clock).await };
        let asking = AssertUnwindSafe(tokio::time::timeout(self.pace.fetch_max, asking)).catch_unwind();
        let outcome = match asking.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(DirectoryError::Slow(self.pace.fetch_max)),
            Err(_) => Err(DirectoryError::Broken),
        };
        (user, pauses, outcome)
    }

    /// Takes the next to be asked about, if somebody may be asked about now.
    fn begin_next(&self, now: Now) -> Option<(Arc<str>, u64)> {
        let mut desk = self.desk.lock();
        let desk = &mut *desk;
        if desk.paused_until.is_some_and(|until| now.instant() < until) {
            return None;
        }
        // After a failure one tries for all.
        let in_flight_max = if desk.failures_in_a_row > 0 { 1 } else { self.pace.in_flight_max };
        while desk.in_flight < in_flight_max {
            let user = desk.unknown.pop_front().or_else(|| desk.aging.pop_front())?;
            let question = desk.people.get_mut(&user).and_then(|person| person.question.as_mut());
            if let Some(question) = question.filter(|question| !question.is_in_flight) {
                question.is_in_flight = true;
                desk.in_flight += 1;
                return Some((user, desk.pauses));
            }
        }
        None
    }

    /// Takes over what came of a question. `pauses` is how many there had been when it began.
    fn conclude(&self, user: &Arc<str>, pauses: u64, outcome: Result<Vec<String>, DirectoryError>, now: Now) {
        let at = now.instant();
        let mut desk = self.desk.lock();
        let desk = &mut *desk;
        desk.in_flight = desk.in_flight.saturating_sub(1);
        desk.fetches += 1;
        match outcome {
            Ok(groups) => {
                self.answered(desk, pauses, at);
                self.learn(desk, user, groups, self.refresh, at);
            }
            Err(DirectoryError::NoSuchUser) => {
                self.answered(desk, pauses, at);
                match self.absent {
                    Absent::NoGroups => self.learn(desk, user, Vec::new(), self.pace.absent, at),
                    // Also of somebody who was there a moment ago: they were taken out.
                    Absent::Unknown => {
                        self.settle(desk, user, at + self.pace.absent, |person| person.unlearn());
                    }
                }
            }
            Err(error) => {
                let again_at = self.failed(desk, pauses, &error, at);
                let keep = self.keep;
                let expiry = |person: &mut Person| person.known.as_ref().map(|known| known.fetched_at + keep);
                // What is known goes on being so, for as long as is said.
                let expires_at = desk.people.get_mut(user).and_then(expiry);
                let due_at = expires_at.map_or(again_at, |expires_at| again_at.min(expires_at));
                self.settle(desk, user, due_at, |_| {});
            }
        }
    }

    fn answered(&self, desk: &mut Desk, pauses: u64, at: Instant) {
        desk.answered_at = Some(at);
        // An answer to what was asked before the last pause does not end what made it.
        if pauses != desk.pauses {
            return;
        }
        desk.failures_in_a_row = 0;
        desk.last_error = None;
        if std::mem::take(&mut desk.is_down) {
            tracing::info!(directory = &*self.name, "groups can be asked for again");
        }
    }

    /// Notes a failure, and gives when to try again for this person.
    fn failed(&self, desk: &mut Desk, pauses: u64, error: &DirectoryError, at: Instant) -> Instant {
        desk.failures += 1;
        desk.throttled += u64::from(matches!(error, DirectoryError::Throttled { .. }));
        let chain = chain(error);
        if error.is_of_user() {
            // One such person a minute is told of; who it is stays out of the log.
            let told = desk.odd_logged_at.is_some_and(|told| at.saturating_duration_since(told) < self.pace.absent);
            if !told {
                desk.odd_logged_at = Some(at);
                tracing::warn!(directory = &*self.name, error = chain, "one person's groups cannot be told");
            }
            desk.last_error = Some(chain);
            return at + self.pace.absent;
        }
        // Once an episode: the metric tells how long it lasts.
        if !std::mem::replace(&mut desk.is_down, true) {
            tracing::warn!(directory = &*self.name, error = chain, "groups cannot be asked for");
        }
        desk.last_error = Some(chain);
        if pauses == desk.pauses {
            desk.pauses += 1;
            desk.failures_in_a_row = desk.failures_in_a_row.saturating_add(1);
        }
        let doublings = desk.failures_in_a_row.saturating_sub(1).min(16);
        let backoff = self.pace.backoff_first.saturating_mul(1 << doublings).min(self.pace.backoff_max);
        let backoff = backoff.mul_f64(0.5 + random_unit() / 2.0);
        let until = at + backoff.max(error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX));
        desk.paused_until = desk.paused_until.max(Some(until));
        desk.paused_until.unwrap_or(until)
    }

    /// Takes over what the directory says of somebody. Where that is no news, what rests on it goes on.
    fn learn(&self, desk: &mut Desk, user: &Arc<str>, groups: Vec<String>, refresh: Duration, at: Instant) {
        // Up to a tenth earlier, so that those who came together do not stay together.
        let due_at = at + refresh.mul_f64(1.0 - random_unit() / 10.0).min(self.keep);
        let fresh = Membership::new(groups);
        self.settle(desk, user, due_at, |person| match &mut person.known {
            Some(known) if known.membership.groups() == fresh.groups() => known.fetched_at = at,
            Some(known) => {
                let old = std::mem::replace(known, Known { membership: fresh, fetched_at: at });
                old.membership.retire();
            }
            None => {
                person.known = Some(Known { membership: fresh, fetched_at: at });
                person.ignorance.end();
                person.ignorance = Arc::default();
            }
        });
    }

    /// Ends the question about somebody with `change`, and sets when they fall due next. Who waits is told after that.
    fn settle(&self, desk: &mut Desk, user: &Arc<str>, due_at: Instant, change: impl FnOnce(&mut Person)) {
        // Who was forgotten meanwhile stays so.
        let Some(person) = desk.people.get_mut(user) else { return };
        change(person);
        let bytes = PERSON_BYTES + user.len() + person.known.as_ref().map_or(0, |known| known.membership.bytes());
        desk.bytes = desk.bytes.saturating_sub(person.bytes) + bytes;
        person.bytes = bytes;
        person.question = None;
        desk.due.remove(&(person.due_at, Arc::clone(user)));
        person.due_at = due_at;
        // Before they are in line again, so that it is others who go.
        self.make_room(desk, 0, 0);
        desk.due.insert((due_at, Arc::clone(user)));
    }

    /// Sees to what has fallen due, a thousand at a time; whether there may be more.
    fn look_after(&self, now: Now) -> bool {
        let at = now.instant();
        let mut desk = self.desk.lock();
        for _ in 0..AT_ONCE {
            let Some((due_at, _)) = desk.due.first() else { return false };
            if at < *due_at {
                return false;
            }
            let Some((_, user)) = desk.due.pop_first() else { return false };
            self.fall_due(&mut desk, user, at);
        }
        true
    }

    /// `user` is in `people` and no longer in `due`.
    fn fall_due(&self, desk: &mut Desk, user: Arc<str>, at: Instant) {
        let Some(person) = desk.people.get_mut(&user) else { return };
        if person.was_used() {
            person.seen_at = at;
        }
        if person.known.as_ref().is_some_and(|known| at.saturating_duration_since(known.fetched_at) >= self.keep) {
            person.unlearn();
        }
        if at.saturating_duration_since(person.seen_at) > self.pace.idle {
            // Nobody refreshes it any more, so nobody may rely on it either.
            desk.forget(&user);
            return;
        }
        let due_at = match &person.known {
            Some(known) => known.fetched_at + self.keep,
            None => at + self.pace.absent,
        };
        person.due_at = due_at;
        desk.due.insert((due_at, Arc::clone(&user)));
        if person.question.is_none() {
            let queue = if person.known.is_some() { &mut desk.aging } else { &mut desk.unknown };
            if queue.len() < self.pace.queued_max {
                person.question = Some(Question::new());
                queue.push_back(user);
            } else {
                desk.dropped += 1;
                // In its turn it will be there again, unless `keep` is nearer.
                let again_at = due_at.min(at + self.pace.absent);
                desk.due.remove(&(due_at, Arc::clone(&user)));
                person.due_at = again_at;
                desk.due.insert((again_at, user));
            }
        }
    }

    /// Forgets those who fall due soonest, until the rest fits together with what is to come.
    fn make_room(&self, desk: &mut Desk, people: usize, bytes: usize) {
        while desk.people.len() + people > self.pace.people_max || desk.bytes + bytes > self.pace.bytes_max {
            let Some((_, user)) = desk.due.pop_first() else { return };
            desk.evicted += 1;
            desk.forget(&user);
        }
    }
}

impl Desk {
    /// Takes somebody out; what rested on what was known of them rests on nothing.
    fn forget(&mut self, user: &Arc<str>) {
        if let Some(mut person) = self.people.remove(user) {
            self.due.remove(&(person.due_at, Arc::clone(user)));
            self.bytes = self.bytes.saturating_sub(person.bytes);
            person.unlearn();
            person.ignorance.end();
        }
    }
}

impl Person {
    /// What was known is known no longer.
    fn unlearn(&mut self) {
        if let Some(known) = self.known.take() {
            known.membership.retire();
        }
    }

    fn was_used(&self) -> bool {
        let known = self.known.as_ref().map(|known| &known.membership.standing);
        [known, Some(&self.ignorance.0)]
            .into_iter()
            .flatten()
            .any(|standing| standing.used.swap(false, Ordering::Relaxed))
    }
}

impl Question {
    fn new() -> Question {
        let ended = CancellationToken::new();
        Question { is_in_flight: false, _end_on_drop: ended.clone().drop_guard(), ended }
    }

    fn wait(&self) -> MembershipWait {
        MembershipWait(Box::pin(self.ended.clone().cancelled_owned()))
    }
}

/// Longer than an e-mail address (254) or a GUID; a distinguished name has some 200.
const USER_BYTES_MAX: usize = 512;

/// A `Person` (about 120), its name's `Arc` twice referenced, its place in the map, the set and a queue, and the `Arc`s of
/// membership, ignorance and question.
const PERSON_BYTES: usize = 512;

/// How many fall due under one hold of the lock: about a millisecond.
const AT_ONCE: usize = 1_000;

/// A directory that says "come back tomorrow" would leave everybody's groups as they were until `keep`, and then unknown
/// until tomorrow.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
