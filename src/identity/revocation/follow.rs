//! Keeping up with Redis: what it pushes, what it is asked for, and giving back what it lost.
//!
//! A push says what changed, and is all that an agent needs as long as it missed none: each carries the version before
//! and the version after. Whoever has another version than the one before, or finds another when it asks, four times a
//! second, reads everything. So a push that is lost is noticed in time, and nobody waits for a connection to be found dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::List;
use super::book::{Book, Noted};
use super::record::{Id, Record};
use super::store::Store;
use crate::clock::Clock;
use crate::link::StoreError;

/// How often, and in which ways, an agent keeps up. Tests turn one of them off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) polls: bool,
    pub(super) listens: bool,
}

impl Pace {
    pub(super) const PRODUCTION: Pace = Pace { polls: true, listens: true };
}

/// Keeps `list` up to date for as long as it is polled.
pub(super) async fn follow(list: Arc<List>, store: Arc<Store>, clock: Clock, pace: Pace) {
    // A thousand pushes of 1 KiB; when there is no room for more Redis is not listened to for a moment.
    let (sender, heard) = mpsc::channel(1024);
    let deaf = Notify::new();
    let mut follower = Follower {
        list,
        store: Arc::clone(&store),
        clock,
        pace,
        version: None,
        unheard: 0,
        refused: 0,
        failing: false,
        saving_fails: false,
        unsaved: false,
        saved_at: None,
        tidied_at: None,
    };
    tokio::select! {
        () = listen(&store, pace, &sender, &deaf) => {}
        () = follower.run(heard, &deaf) => {}
    }
}

/// What came in.
enum Heard {
    /// Pushes come from now on; what was pushed before is to be asked for.
    Listening,
    Push(String),
    /// Pushes come no more.
    Deaf,
    /// Redis does not let us listen.
    Refused(StoreError),
}

/// Subscribes, passes on what is pushed, and begins again whenever that ends or `deaf` says that it should.
async fn listen(store: &Store, pace: Pace, heard: &mpsc::Sender<Heard>, deaf: &Notify) {
    if !pace.listens {
        std::future::pending::<()>().await;
    }
    loop {
        let last = match store.listen().await {
            Err(error) => Heard::Refused(error),
            Ok(mut pushes) => {
                let mut said = heard.send(Heard::Listening).await;
                while said.is_ok() {
                    let push = tokio::select! {
                        push = pushes.next() => push,
                        () = deaf.notified() => None,
                    };
                    let Some(push) = push else { break };
                    said = heard.send(Heard::Push(push)).await;
                }
                Heard::Deaf
            }
        };
        if heard.send(last).await.is_err() {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

struct Follower {
    list: Arc<List>,
    store: Arc<Store>,
    clock: Clock,
    pace: Pace,
    /// The one that the list is of; `None` where everything must be read. Empty is the version of an empty Redis.
    version: Option<String>,
    /// Changes in a row that were found by asking although there should have been a push.
    unheard: u8,
    /// How often in a row listening was refused while asking was not.
    refused: u32,
    failing: bool,
    saving_fails: bool,
    unsaved: bool,
    saved_at: Option<Instant>,
    tidied_at: Option<Instant>,
}

impl Follower {
    async fn run(&mut self, mut heard: mpsc::Receiver<Heard>, deaf: &Notify) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Without polls everything is read once, and from then on only what is pushed.
        let mut first = true;
        loop {
            tokio::select! {
                // What is heard first: a tick reads everything only because something was not heard.
                biased;
                event = heard.recv() => match event {
                    None => return,
                    Some(event) => self.hear(event, &mut heard).await,
                },
                _ = ticks.tick() => {
                    if self.pace.polls || first {
                        let missed = self.poll().await;
                        self.unheard += u8::from(missed && self.list.listening.load(Ordering::Relaxed));
                        if self.unheard >= 2 {
                            // Once may be a push on its way; twice, and the connection is dead without either end knowing.
                            self.unheard = 0;
                            deaf.notify_one();
                        }
                        first = false;
                    }
                    self.tidy().await;
                    self.save().await;
                }
            }
        }
    }

    /// One event, and whatever else has come with it, so that many revocations at once are put in force once.
    async fn hear(&mut self, event: Heard, more: &mut mpsc::Receiver<Heard>) {
        let (mut changed, mut read_all, mut next) = (false, false, Some(event));
        while let Some(event) = next {
            match event {
                Heard::Listening => {
                    self.list.listening.store(true, Ordering::Relaxed);
                    (self.refused, read_all) = (0, true);
                }
                Heard::Refused(error) => {
                    self.refused = self.refused.saturating_add(1);
                    if self.refused == REFUSED_MAX {
                        // An access list, as a rule: `&tg:revoked` is missing.
                        tracing::warn!(%error, "Redis does not push revocations; it is asked four times a second");
                    }
                }
                Heard::Deaf => self.list.listening.store(false, Ordering::Relaxed),
                Heard::Push(push) => {
                    self.unheard = 0;
                    match self.take_in(&push) {
                        Some(news) => changed |= news,
                        None => read_all = true,
                    }
                }
            }
            next = more.try_recv().ok();
        }
        if changed {
            self.put_in_force().await;
        }
        if read_all {
            let read = self.read_all().await;
            self.learn(read.err());
        }
    }

    /// A push that follows on what is known. `None` where something before it was missed.
    fn take_in(&mut self, push: &str) -> Option<bool> {
        let mut parts = push.splitn(4, ' ');
        let (before, after) = (parts.next()?, parts.next()?);
        if self.version.as_deref() == Some(after) {
            return Some(false);
        }
        // Two Redis databases share their channels: the empty version is no proof that the push is about ours.
        if before.is_empty() || self.version.as_deref() != Some(before) {
            return None;
        }
        let (id, record) = (Id::parse(parts.next()?)?, Record::decode(parts.next()?)?);
        let noted = self.list.book.lock().note(id, record);
        self.version = Some(after.to_owned());
        self.list.pulled_at.lock().replace(self.clock.now().instant());
        complain_if_full(usize::from(noted == Noted::Full));
        Some(noted == Noted::Changed)
    }

    /// Asks for the version, and reads everything where it is another. Gives whether it was.
    async fn poll(&mut self) -> bool {
        let asked = self.store.version().await;
        let read = match asked {
            Ok(version) if self.version.as_ref() == Some(&version) => {
                self.list.pulled_at.lock().replace(self.clock.now().instant());
                self.learn(None);
                return false;
            }
            Ok(_) => self.read_all().await,
            Err(error) => Err(error),
        };
        let (missed, failed) = (self.version.is_some() && read.is_ok(), read.err());
        self.learn(failed);
        missed
    }

    /// Reads everything, takes it in, and gives back what Redis does not have any more.
    async fn read_all(&mut self) -> Result<(), StoreError> {
        let version = self.store.version().await?;
        // What changes while the pages are read has another version, and is seen at the next look.
        let theirs = self.store.read_all().await?;
        let (list, now) = (Arc::clone(&self.list), self.clock.now());
        let merging = tokio::task::spawn_blocking(move || merge(&mut list.book.lock(), &theirs, now.unix_s()));
        let Merged { changed, full, missing } = merging.await.map_err(|_| StoreError::Garbage)?;
        complain_if_full(full);
        if changed || !self.list.is_known() {
            // The known ones first: what Redis lost may take a while.
            self.put_in_force().await;
        }
        self.version = Some(version);
        self.list.pulled_at.lock().replace(now.instant());
        self.list.pulled.notify_waiters();
        self.give_back(&missing).await
    }

    async fn give_back(&mut self, missing: &[(Id, Record)]) -> Result<(), StoreError> {
        let (mut given, mut no_room) = (0, 0);
        for batch in missing.chunks(Store::BATCH) {
            let put = self.store.put(batch).await?;
            given += put.changed;
            no_room += put.full;
            // Where somebody else changed something in between, that is still to be read.
            self.version = self.version.take().filter(|version| *version == put.before).map(|_| put.after);
        }
        if given > 0 {
            tracing::warn!(given, "Redis had lost revocations; it was given them back");
        }
        if no_room > 0 {
            tracing::error!(no_room, "Redis has no room for revocations that this agent knows; they hold here only");
        }
        Ok(())
    }

    async fn put_in_force(&mut self) {
        let list = Arc::clone(&self.list);
        // A hundred thousand are some 70 ms of work: away from the threads that answer HAProxy.
        let counted = tokio::task::spawn_blocking(move || list.put_in_force()).await;
        if let Ok(revocations) = counted {
            tracing::info!(revocations, "other revocations are in force");
        }
        self.unsaved = true;
    }

    /// One log line when it stops answering, one when it answers again.
    fn learn(&mut self, failed: Option<StoreError>) {
        if failed.is_some() {
            self.refused = 0;
        }
        match (failed, self.failing) {
            (Some(error), false) => {
                self.failing = true;
                tracing::warn!(%error, "revocations cannot be read from Redis; the known ones hold");
            }
            (None, true) => {
                self.failing = false;
                tracing::info!("revocations can be read from Redis again");
            }
            _ => {}
        }
    }

    /// Forgets what has ended, here and in Redis.
    async fn tidy(&mut self) {
        let now = self.clock.now();
        let due = self.tidied_at.is_none_or(|at| now.instant().saturating_duration_since(at) >= TIDY);
        if !due || self.version.is_none() {
            return;
        }
        self.tidied_at = Some(now.instant());
        // By Redis's clock, which they were made by: an agent whose own is hours ahead would take from all others what
        // still holds.
        let Ok(now_s) = self.store.now_s().await else { return };
        let ended = self.list.book.lock().forget_ended(now_s);
        if !ended.is_empty() {
            self.put_in_force().await;
            // Another agent may do the same, or the next round; nothing depends on it.
            let _ = self.store.forget(&ended).await;
        }
    }

    async fn save(&mut self) {
        let Some(copy) = self.list.copy.clone().filter(|_| self.unsaved) else { return };
        let now = self.clock.now().instant();
        if self.saved_at.is_some_and(|at| now.saturating_duration_since(at) < SAVE) {
            return;
        }
        (self.saved_at, self.unsaved) = (Some(now), false);
        let list = Arc::clone(&self.list);
        let saved = tokio::task::spawn_blocking(move || {
            let book: Book = list.book.lock().clone();
            copy.save(&book)
        });
        match saved.await {
            Ok(Err(error)) if !self.saving_fails => {
                self.saving_fails = true;
                tracing::warn!(%error, "revocations cannot be kept for the next start");
            }
            Ok(Ok(())) => self.saving_fails = false,
            _ => {}
        }
    }
}

/// What came of reading everything.
struct Merged {
    changed: bool,
    /// How many had no room.
    full: usize,
    /// What Redis does not have.
    missing: Vec<(Id, Record)>,
}

fn merge(book: &mut Book, theirs: &Book, now_s: i64) -> Merged {
    let (mut changed, mut full) = (false, 0);
    for (id, record) in theirs.records() {
        match book.note(id, record.clone()) {
            Noted::Changed => changed = true,
            Noted::Full => full += 1,
            Noted::Nothing => {}
        }
    }
    let missing = book.beyond(theirs, now_s).map(|(id, record)| (id, record.clone())).collect();
    Merged { changed, full, missing }
}

fn complain_if_full(left_out: usize) {
    if left_out > 0 {
        tracing::error!(left_out, "there are more revocations than an agent holds; some do not hold here");
    }
}

/// A revocation is to hold everywhere within a second, a lost push included, and reading 100,000 and putting them in force
/// takes half of that on a busy machine.
const POLL: Duration = Duration::from_millis(250);

/// A Redis that is away refuses both, and has its own line in the log.
const REFUSED_MAX: u32 = 5;

/// What has ended does no harm, but takes room.
const TIDY: Duration = Duration::from_secs(600);

/// A copy of 100,000 revocations is 13 MB: not for each of them.
const SAVE: Duration = Duration::from_secs(2);
