//! As many connections at once as there are places; whoever rests longest gives its place to whoever waits for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::sparing::Sparing;
use crate::clock::Clock;

/// The places of all connections.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    places_max: usize,
    /// Connections that were accepted and have no place yet.
    waiting: AtomicUsize,
    /// Wakes the one that has rested longest: those who wait here are woken in the order they came.
    wanted: Notify,
    full: Sparing,
}

/// Given back when it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

impl Places {
    pub(super) fn new(places_max: usize) -> Places {
        Places {
            free: Arc::new(Semaphore::new(places_max)),
            places_max,
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            full: Sparing::default(),
        }
    }

    /// A place, if need be of somebody who rests.
    pub(super) async fn take(&self, clock: &Clock) -> Option<Place> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(place);
        }
        if let Some(times) = self.full.say(clock.now()) {
            tracing::warn!(
                times,
                "as many connections as `spop.max_connections` allows; the next one waits for a place"
            );
        }
        let _waits = Counted::new(&self.waiting);
        let place = Arc::clone(&self.free).acquire_owned();
        tokio::pin!(place);
        loop {
            self.wanted.notify_one();
            // Whoever was asked may have been asked a question in that moment, and stays.
            if let Ok(place) = tokio::time::timeout(ASK_AGAIN, &mut place).await {
                return place.ok();
            }
        }
    }

    /// Whether half of them are taken: from then on a place is not for whoever says nothing.
    pub(super) fn are_few(&self) -> bool {
        self.free.available_permits() < self.places_max / 2
    }

    /// Ends when somebody waits for a place, and has waited here longer than all others.
    pub(super) async fn wanted(&self) {
        loop {
            self.wanted.notified().await;
            // It may be an old wish, which somebody else's end has granted.
            if self.waiting.load(Ordering::Relaxed) > 0 {
                return;
            }
        }
    }
}

/// One more, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Counted<'_> {
    fn new(count: &AtomicUsize) -> Counted<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A goodbye and a close take far less; HAProxy's `timeout processing` is more.
const ASK_AGAIN: Duration = Duration::from_millis(100);
