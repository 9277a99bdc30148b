//! What is revoked: whoever bears it is refused, by every agent, within a second.
//!
//! Reading order: `record` (one revocation), `book` (all that is known, a union that has no order), `snapshot` (what a
//! request is held against), `store` with `revoked.lua` (Redis, where agents meet), `follow` (keeping up with it), `copy`
//! (what outlives the process), `register` (the side of `tollgate revoke`).
//!
//! A credential is verified first and held against the list afterwards, cached or not, so that no verdict in a cache
//! need be found and withdrawn. While nothing is revoked that is one atomic load.

mod book;
mod copy;
mod follow;
mod record;
mod register;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::settings::{AtStart, RevocationSettings};
use super::{Identity, Rejection};
use crate::clock::{Clock, Now};
use crate::link::StoreError;
use book::Book;
use copy::Copy;
use follow::Pace;
pub use record::{Fingerprint, Id, Revocation, What};
pub use register::{Register, RegisterError, Revoked, Undone, expires_at_s};
pub use snapshot::Marks;
use snapshot::Snapshot;
use store::Store;

/// How the list does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationStatus {
    /// Revocations known, ended ones for an hour longer.
    pub entries: u64,
    /// Since Redis last said that they are all, in seconds; `None` before it ever did.
    pub age_s: Option<u64>,
    /// Whether Redis pushes them.
    pub listening: bool,
}

/// The revocations of one Redis.
pub(crate) struct Revocations {
    settings: RevocationSettings,
    list: Arc<List>,
    store: Arc<Store>,
    pace: Pace,
    spawned: AtomicBool,
    /// Ends the task with the last stage that has this list.
    end: CancellationToken,
    _end: DropGuard,
}

/// What the task keeps up to date and requests are held against.
struct List {
    snapshot: ArcSwap<InForce>,
    book: Mutex<Book>,
    copy: Option<Copy>,
    entries: AtomicU64,
    listening: AtomicBool,
    pulled_at: Mutex<Option<Instant>>,
    /// Redis was read for the first time, or once more.
    pulled: Notify,
}

/// What a request sees.
#[derive(Debug)]
enum InForce {
    /// Nothing was read yet, from Redis or from a copy.
    Unknown {
        /// Whether whoever presents a credential is refused until then.
        refuses: bool,
    },
    Known(Snapshot),
}

impl Revocations {
    /// Begins with what `previous` knows, or else with the copy below `state_dir`. A list of the same Redis is kept.
    pub(crate) fn new(
        settings: &RevocationSettings,
        state_dir: Option<&Path>,
        previous: Option<&Arc<Revocations>>,
    ) -> Result<Arc<Revocations>, StoreError> {
        let copy = state_dir.map(Copy::of);
        if let Some(previous) = previous.filter(|previous| previous.settings == *settings && previous.list.copy == copy)
        {
            return Ok(Arc::clone(previous));
        }
        Revocations::with_pace(settings, copy, previous, Pace::PRODUCTION)
    }

    fn with_pace(
        settings: &RevocationSettings,
        copy: Option<Copy>,
        previous: Option<&Arc<Revocations>>,
        pace: Pace,
    ) -> Result<Arc<Revocations>, StoreError> {
        let store = Arc::new(Store::new(&settings.redis)?);
        let known = match previous.filter(|previous| previous.list.is_known()) {
            Some(previous) => Some(previous.list.book.lock().clone()),
            None => copy.as_ref().and_then(|copy| {
                copy.load().unwrap_or_else(|error| {
                    tracing::warn!(%error, "a copy of revocations is passed over");
                    None
                })
            }),
        };
        let refuses = settings.at_start == AtStart::Wait;
        let list = List {
            snapshot: ArcSwap::from_pointee(InForce::Unknown { refuses }),
            copy,
            book: Mutex::default(),
            entries: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            pulled_at: Mutex::new(None),
            pulled: Notify::new(),
        };
        if let Some(book) = known {
            *list.book.lock() = book;
            list.put_in_force();
        }
        let end = CancellationToken::new();
        Ok(Arc::new(Revocations {
            settings: settings.clone(),
            list: Arc::new(list),
            store,
            pace,
            spawned: AtomicBool::new(false),
            _end: end.clone().drop_guard(),
            end,
        }))
    }

    /// Keeps up with Redis in the background until `stop`, or until the last stage that has this list is dropped. Does
    /// nothing where that is being done already.
    pub(crate) fn spawn(&self, clock: &Clock, stop: &CancellationToken) {
        if self.spawned.swap(true, Ordering::Relaxed) {
            return;
        }
        let (list, store, clock, pace) = (Arc::clone(&self.list), Arc::clone(&self.store), clock.clone(), self.pace);
        let (stop, end) = (stop.clone(), self.end.clone());
        tokio::spawn(async move {
            loop {
                let following = follow::follow(Arc::clone(&list), Arc::clone(&store), clock.clone(), pace);
                let ended = tokio::select! {
                    () = stop.cancelled() => break,
                    () = end.cancelled() => break,
                    ended = AssertUnwindSafe(following).catch_unwind() => ended,
                };
                if ended.is_err() {
                    tracing::error!("keeping up with revocations panicked; it begins again");
                }
                list.listening.store(false, Ordering::Relaxed);
                // What panics at once must not take a processor.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// Refuses what is revoked. `credential` is the secret that was presented, where that is a name of its own: a token,
    /// a key, and neither a password nor a certificate.
    ///
    /// On every request: one atomic load while nothing is revoked, else four look-ups at most.
    pub(crate) fn check(&self, identity: &Identity, credential: Option<&[u8]>, now: Now) -> Result<(), Rejection> {
        match &**self.list.snapshot.load() {
            InForce::Known(snapshot) if snapshot.is_empty() => Ok(()),
            InForce::Known(snapshot) if snapshot.refuses(identity, credential, now.unix_s()) => {
                Err(Rejection::TokenRevoked)
            }
            InForce::Unknown { refuses: true } => Err(Rejection::RevocationsUnknown),
            InForce::Known(_) | InForce::Unknown { refuses: false } => Ok(()),
        }
    }

    /// Resolves once Redis has been read; at once where it was, or where nobody does.
    pub(crate) async fn pulled(&self) {
        loop {
            // Asked for before looking, so that nothing in between is missed.
            let pulled = self.list.pulled.notified();
            if !self.spawned.load(Ordering::Relaxed) || self.list.pulled_at.lock().is_some() {
                return;
            }
            pulled.await;
        }
    }

    /// How it does.
    pub(crate) fn status(&self, now: Now) -> RevocationStatus {
        let pulled_at = *self.list.pulled_at.lock();
        RevocationStatus {
            entries: self.list.entries.load(Ordering::Relaxed),
            age_s: pulled_at.map(|at| now.instant().saturating_duration_since(at).as_secs()),
            listening: self.list.listening.load(Ordering::Relaxed),
        }
    }
}

impl List {
    /// Puts the book in force; gives how many revocations that are.
    fn put_in_force(&self) -> u64 {
        // Held, so that of two that do this at once the later book wins.
        let book = self.book.lock();
        let entries = book.revocations().count() as u64;
        self.entries.store(entries, Ordering::Relaxed);
        self.snapshot.store(Arc::new(InForce::Known(book.snapshot())));
        entries
    }

    fn is_known(&self) -> bool {
        matches!(**self.snapshot.load(), InForce::Known(_))
    }
}
