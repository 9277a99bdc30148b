//! What only the response of a request makes known: a place is free again, a cost is another than was charged.
//!
//! Nobody waits for it. What cannot be told to Redis is lost and counted: a place's lease ends by itself, and what was
//! charged beforehand stays charged.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Cmd;
use tokio::sync::mpsc;

use super::calendar::Page;
use super::counter::{Held, StoreTime};
use super::gcra::{Cell, Tat};
use super::key::CounterKey;
use super::lua::{self, By, Lua};
use super::quota::Quota;
use super::sliding::Slide;
use super::slots::Holder;
use crate::link::{Link, StoreError};

/// One change to a counter, after the fact.
#[derive(Clone, Debug)]
pub(super) struct Settlement {
    /// The quota by which it was charged.
    pub(super) quota: Quota,
    /// Which counter.
    pub(super) key: CounterKey,
    /// Whose place it is; of no meaning to other kinds.
    pub(super) holder: Holder,
    /// What is to be done.
    pub(super) change: Change,
    /// When it was charged, in microseconds of the store's clock.
    pub(super) charged_us: u64,
}

/// What is to be done with a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Give back so many of what was charged; of places, the one that is held.
    Back(u32),
    /// Charge so many more, whatever is left; no place is ever taken like this.
    More(u32),
}

impl Settlement {
    /// Makes the change in memory.
    pub(super) fn apply(&self, held: &mut Held, time: StoreTime) {
        let StoreTime { flow_us, wall_us } = time;
        let (more, number) = match self.change {
            Change::Back(number) => (false, number),
            Change::More(number) => (true, number),
        };
        match (&self.quota, held) {
            (_, Held::Banned(until_us)) if *until_us > flow_us => {}
            (Quota::Rate(rate), held) => {
                let cell = Cell::new(*rate, number).with_debts();
                let stored = if let Held::Rate(tat) = held { Some(*tat) } else { None };
                let begin = cell.begin(stored, flow_us);
                let after = if more { cell.forced(begin, flow_us) } else { cell.returned(begin) };
                // Idle, it is as if it had never been.
                *held = Held::Rate(if after.us < flow_us { Tat::default() } else { after });
            }
            (Quota::Sliding(sliding), held) => {
                let slide = Slide::new(*sliding, number);
                let stored = if let Held::Sliding(buckets) = held { Some(*buckets) } else { None };
                let mut buckets = slide.begin(stored, flow_us);
                let charged = self.charged_us / sliding.period_us();
                let number = u64::from(number);
                if more {
                    buckets.current = (buckets.current + number).min(2 * sliding.count());
                } else if charged >= buckets.index {
                    buckets.current = buckets.current.saturating_sub(number);
                } else if charged + 1 == buckets.index {
                    buckets.previous = buckets.previous.saturating_sub(number);
                }
                *held = Held::Sliding(buckets);
            }
            (Quota::Calendar(calendar), held) => {
                let page = Page::new(calendar, number, wall_us);
                let stored = if let Held::Calendar(used) = held { Some(*used) } else { None };
                let Some(mut used) = page.begin(stored, wall_us) else { return };
                let number = u64::from(number);
                if more {
                    used.used = (used.used + number).min(2 * calendar.count());
                } else if (used.from_us..used.until_us).contains(&self.charged_us) {
                    used.used = used.used.saturating_sub(number);
                }
                *held = Held::Calendar(used);
            }
            (Quota::Concurrent(_), Held::Places(places)) => places.retain(|(holder, _)| *holder != self.holder),
            (Quota::Concurrent(_), _) => {}
        }
    }
}

/// What waits to be told to Redis.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Vec<Settlement>>,
    lost: Arc<AtomicU64>,
}

/// Responses that may wait: at 20 µs each, all of them are told within the time that a question may take.
const QUEUE_MAX: usize = 4096;

/// Told in one script call.
const BATCH_MAX: usize = 64;

/// Nobody waits for it, so it may take longer than a question; but a Redis that takes this long is away.
const TIMEOUT: Duration = Duration::from_secs(1);

impl Queue {
    /// Must be called inside a Tokio runtime. Ends with its last clone.
    pub(super) fn new(link: Link) -> Queue {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        tokio::spawn(tell(link, receiver, Arc::clone(&lost)));
        Queue { sender, lost }
    }

    pub(super) fn add(&self, settlements: Vec<Settlement>) {
        let number = settlements.len() as u64;
        if self.sender.try_send(settlements).is_err() {
            self.lost.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Settlements that never reached Redis.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn tell(link: Link, mut receiver: mpsc::Receiver<Vec<Settlement>>, lost: Arc<AtomicU64>) {
    while let Some(first) = receiver.recv().await {
        let mut batch = first;
        while batch.len() < BATCH_MAX
            && let Ok(more) = receiver.try_recv()
        {
            batch.extend(more);
        }
        // A script sees one slot of a Cluster.
        batch.sort_by_key(|settlement| link.slot(settlement.key.as_bytes()));
        let parts = batch.chunk_by(|a, b| link.slot(a.key.as_bytes()) == link.slot(b.key.as_bytes()));
        let told = parts.map(|part| tell_one(&link, part));
        lost.fetch_add(futures_util::future::join_all(told).await.into_iter().sum(), Ordering::Relaxed);
    }
}

/// Says how many were lost. A cost must not be charged twice, so what may have been told is not told again. A place can be
/// given back as often as one likes.
async fn tell_one(link: &Link, part: &[Settlement]) -> u64 {
    if send(link, &part.iter().collect::<Vec<_>>()).await.is_ok() {
        return 0;
    }
    let places: Vec<_> = part.iter().filter(|one| matches!(one.quota, Quota::Concurrent(_))).collect();
    let again = if places.is_empty() { Ok(()) } else { send(link, &places).await };
    (if again.is_ok() { part.len() - places.len() } else { part.len() }) as u64
}

async fn send(link: &Link, batch: &[&Settlement]) -> Result<(), StoreError> {
    // A charge's own time is near enough, and the latest of them the nearest.
    let around_us = batch.iter().map(|settlement| settlement.charged_us).max().unwrap_or_default();
    link.ask(
        TIMEOUT,
        |connection| lua::call::<u64>(connection, |by| command(&SETTLE, by, batch, around_us)),
        |done| (done == 1).then_some(()),
    )
    .await
}

/// `around_us` is what Redis's clock says, more or less: which windows of a calendar there are.
pub(super) fn command(script: &Lua, by: By, batch: &[&Settlement], around_us: u64) -> Cmd {
    let mut command = script.about(by, batch.iter().map(|settlement| settlement.key.as_bytes()));
    for settlement in batch {
        let (sign, number) = match settlement.change {
            Change::Back(number) => ('-', number),
            Change::More(number) => ('+', number),
        };
        match &settlement.quota {
            Quota::Rate(rate) => {
                let cell = Cell::new(*rate, number);
                command.arg(format!("r{sign}"));
                for number in [cell.step.us, cell.step.rem, cell.room.us, cell.room.rem, cell.count] {
                    command.arg(number);
                }
            }
            Quota::Sliding(sliding) => {
                command.arg(format!("s{sign}"));
                for number in [u64::from(number), sliding.count(), sliding.period_us(), settlement.charged_us] {
                    command.arg(number);
                }
            }
            Quota::Calendar(calendar) => {
                command.arg(format!("c{sign}"));
                let numbers = [u64::from(number), calendar.count(), settlement.charged_us];
                for number in numbers.into_iter().chain(calendar.bounds(around_us).0) {
                    command.arg(number);
                }
            }
            Quota::Concurrent(_) => {
                command.arg(format!("p{sign}")).arg(settlement.holder.as_bytes());
            }
        }
    }
    command
}

static SETTLE: LazyLock<Lua> = LazyLock::new(|| Lua::new(SCRIPT));

pub(super) const SCRIPT: &str = include_str!("settle.lua");
