//! Counters in Redis: one script call for all limits of a request, by Redis's own clock.
//!
//! A charge that is not answered in time is not made again: it may have been made, and a second try would count it
//! twice.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use redis::{Script, ScriptInvocation};
use smallvec::SmallVec;

use super::counter::{Ask, StoreTime};
use super::receipt::Place;
use super::settle::{Queue, Settlement};
use super::store::{Budget, Charge, Charges, CountFuture, Exceeded, Outcome, Trial};
use crate::clock::Now;
use crate::link::{CONNECT_TIMEOUT, Link, StoreError};

/// Counters in one Redis.
#[derive(Clone, Debug)]
pub(super) struct RedisStore {
    link: Link,
    /// How far Redis's clock is ahead of ours, in microseconds, as of its last answer: only to know which window of a
    /// calendar to ask for, which Redis then says whether it is.
    ahead_us: Arc<AtomicI64>,
    queue: Queue,
}

impl RedisStore {
    pub(super) fn new(link: Link) -> RedisStore {
        let queue = Queue::new(link.clone());
        RedisStore { link, ahead_us: Arc::new(AtomicI64::new(0)), queue }
    }

    /// Tests all charges, then makes all or none; the answer comes within the timeout and before `deadline`.
    pub(super) fn charge(&self, charges: Charges, now: Now, deadline: Instant) -> Result<CountFuture, StoreError> {
        let timeout = self.link.patience(now, deadline)?;
        let store = self.clone();
        Ok(Box::pin(async move {
            let outcome = store.run(&charges, now, true, timeout).await?;
            Ok(outcome.read(&charges))
        }))
    }

    /// How the limits stand. For a person, who has time.
    pub(super) async fn peek(&self, charges: Charges, now: Now) -> Result<Result<Budget, Exceeded>, StoreError> {
        let outcome = self.run(&charges, now, false, CONNECT_TIMEOUT * 10).await?;
        Ok(outcome.read_standing(&charges))
    }

    /// Has it done in the background.
    pub(super) fn settle(&self, settlements: Vec<Settlement>) {
        self.queue.add(settlements);
    }

    pub(super) fn settlements_lost(&self) -> u64 {
        self.queue.lost()
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    async fn run(&self, charges: &[Charge], now: Now, commit: bool, timeout: Duration) -> Result<Outcome, StoreError> {
        let around_us = now.unix_us().saturating_add_signed(self.ahead_us.load(Ordering::Relaxed));
        match self.ask(charges, around_us, commit, timeout).await? {
            Ok(outcome) => {
                self.learn(outcome.time.wall_us, now);
                Ok(outcome)
            }
            // Our clock is off by more than a window, and Redis has said what time it is. Nothing was charged.
            Err(redis_us) => {
                self.learn(redis_us, now);
                match self.ask(charges, redis_us, commit, timeout).await? {
                    Ok(outcome) => Ok(outcome),
                    Err(_) => Err(StoreError::Garbage),
                }
            }
        }
    }

    fn learn(&self, redis_us: u64, now: Now) {
        let ahead = i64::try_from(i128::from(redis_us) - i128::from(now.unix_us())).unwrap_or(0);
        self.ahead_us.store(ahead, Ordering::Relaxed);
    }

    async fn ask(
        &self,
        charges: &[Charge],
        around_us: u64,
        commit: bool,
        timeout: Duration,
    ) -> Result<Said, StoreError> {
        let asks: SmallVec<[Ask; 2]> = charges.iter().map(|charge| Ask::new(charge, around_us)).collect();
        let invocation = invocation(&CHARGE, charges, &asks, commit);
        self.link
            .ask(
                timeout,
                |mut manager| async move { invocation.invoke_async::<Vec<u64>>(&mut manager).await },
                |reply| read(&reply, charges, &asks),
            )
            .await
    }
}

/// What Redis said: what became of the charges; or, where a calendar's window is none of those that were asked for, what time
/// it is, in microseconds since 1970.
type Said = Result<Outcome, u64>;

fn invocation<'a>(script: &'a Script, charges: &[Charge], asks: &[Ask], commit: bool) -> ScriptInvocation<'a> {
    let mut invocation = script.prepare_invoke();
    invocation.arg(u8::from(commit));
    for (charge, ask) in charges.iter().zip(asks) {
        invocation.key(charge.key.as_bytes());
        let debts = matches!(ask, Ask::Rate { cell, .. } if cell.keeps_debts());
        let flags = u8::from(charge.how.takes()) + 2 * u8::from(charge.is_required()) + 4 * u8::from(debts);
        invocation.arg(&[ask.letter(), b'0' + flags][..]);
        match ask {
            Ask::Rate { cell, ban_us } => {
                let (step, room) = (cell.step, cell.room);
                for number in [step.us, step.rem, room.us, room.rem, cell.count, *ban_us] {
                    invocation.arg(number);
                }
            }
            Ask::Sliding(slide) => {
                for number in [slide.cost, slide.count, slide.period_us] {
                    invocation.arg(number);
                }
            }
            Ask::Calendar(page) => {
                for number in [page.cost, page.count].into_iter().chain(page.bounds.0) {
                    invocation.arg(number);
                }
            }
            Ask::Places(place) => {
                invocation.arg(place.count).arg(place.lease_us).arg(place.holder.as_bytes());
            }
        }
    }
    invocation
}

/// Reads the script's reply; `None` where it is not of the shape that was asked for.
fn read(reply: &[u64], charges: &[Charge], asks: &[Ask]) -> Option<Said> {
    let (now_us, rest) = reply.split_first()?;
    if rest.len() != 5 * charges.len() {
        return None;
    }
    let time = StoreTime::of_redis(*now_us);
    let mut trials = SmallVec::new();
    for (index, (ask, told)) in asks.iter().zip(rest.chunks_exact(5)).enumerate() {
        let &[a, b, c, room, place] = told else { return None };
        if place != index as u64 + 1 {
            return None;
        }
        if room == 2 {
            return Some(Err(*now_us));
        }
        let begin = ask.told([a, b, c], *now_us)?;
        // The same arithmetic here says what the charge leaves.
        let after = ask.charge(begin, time).ok();
        if after.is_some() != (room == 1) {
            return None;
        }
        trials.push(Trial { ask: *ask, begin, after });
    }
    Some(Ok(Outcome { place: Place::Redis, time, trials }))
}

static CHARGE: LazyLock<Script> = LazyLock::new(|| Script::new(SCRIPT));

const SCRIPT: &str = include_str!("charge.lua");

/// The scripts at a time of the caller's own: everything else is as it ships.
#[cfg(test)]
pub(super) mod scripted {
    use ::redis::aio::MultiplexedConnection;

    use super::super::settle;
    use super::*;

    pub(in super::super) struct Scripted {
        charge: Script,
        settle: Script,
    }

    impl Scripted {
        pub(in super::super) fn new() -> Scripted {
            let timed = |source: &str| {
                // Nothing expires by Redis's own clock, which is another one.
                let timeless = source.replace("/ 1000) + 1000", "/ 1000) + 3600000");
                assert_ne!(timeless, source);
                let timed = timeless.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
                assert_ne!(timed, timeless);
                Script::new(&timed)
            };
            Scripted { charge: timed(SCRIPT), settle: timed(settle::SCRIPT) }
        }

        /// `around_us` is where the agent takes the clock to be. `None` where Redis says that it is another time.
        pub(in super::super) async fn charge(
            &self,
            connection: &mut MultiplexedConnection,
            charges: &[Charge],
            (now_us, around_us): (u64, u64),
            commit: bool,
        ) -> Option<Outcome> {
            let asks: Vec<Ask> = charges.iter().map(|charge| Ask::new(charge, around_us)).collect();
            let mut invocation = invocation(&self.charge, charges, &asks, commit);
            invocation.arg(now_us / 1_000_000).arg(now_us % 1_000_000);
            let reply: Vec<u64> = invocation.invoke_async(connection).await.unwrap();
            match read(&reply, charges, &asks).unwrap_or_else(|| panic!("{reply:?} to {asks:?}")) {
                Ok(outcome) => Some(outcome),
                Err(said_us) => {
                    assert_eq!(said_us, now_us);
                    None
                }
            }
        }

        pub(in super::super) async fn settle(
            &self,
            connection: &mut MultiplexedConnection,
            settlements: &[Settlement],
            now_us: u64,
        ) {
            let mut invocation = settle::invocation(&self.settle, settlements, now_us);
            invocation.arg(now_us / 1_000_000).arg(now_us % 1_000_000);
            assert_eq!(invocation.invoke_async::<u64>(connection).await.unwrap(), 1);
        }
    }
}
