//! Counters in Redis: one script call for all limits of a request, by Redis's own clock.
//!
//! A charge that is not answered in time is not made again: it may have been made, and a second try would count it
//! twice.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use redis::Cmd;
use smallvec::SmallVec;

use super::counter::{Ask, StoreTime};
use super::denied::Denied;
use super::lua::{self, By, Lua};
use super::receipt::Place;
use super::settle::{Change, Queue, Settlement};
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
    denied: Denied,
}

impl RedisStore {
    pub(super) fn new(link: Link) -> RedisStore {
        let queue = Queue::new(link.clone());
        RedisStore { link, ahead_us: Arc::new(AtomicI64::new(0)), queue, denied: Denied::new() }
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

    /// The answer, where a moment ago there was no room and there is none yet.
    pub(super) fn recall(&self, charges: &[Charge], now: Now) -> Option<Exceeded> {
        self.denied.recall(charges, now)
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
        let slots: SmallVec<[Option<u16>; 2]> =
            charges.iter().map(|charge| self.link.slot(charge.key.as_bytes())).collect();
        if slots.iter().all(|slot| *slot == slots[0]) {
            let outcome = self.run_in_one(charges, now, commit, timeout).await?;
            if commit {
                self.denied.note(charges, &outcome, now);
            }
            return Ok(outcome);
        }
        // What has no room here may have it at once, when what others charged beside it is given back: nothing is noted.
        // A script sees one shard only. Each is asked for its own at the same time; where one of them refuses, what the
        // others charged meanwhile is given back. Until then it is charged to nobody's good, and never too little is.
        let mut distinct = slots.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let parts: Vec<Vec<Charge>> = distinct
            .iter()
            .map(|slot| {
                charges.iter().zip(&slots).filter(|(_, of)| *of == slot).map(|(charge, _)| charge.clone()).collect()
            })
            .collect();
        let asked = parts.iter().map(|part| self.run_in_one(part, now, commit, timeout));
        let outcomes = futures_util::future::join_all(asked).await;
        let good = outcomes
            .iter()
            .zip(&parts)
            .all(|(outcome, part)| outcome.as_ref().is_ok_and(|outcome| outcome.passed(part)));
        if commit && !good {
            let charged = outcomes.iter().zip(&parts).filter_map(|(outcome, part)| {
                outcome.as_ref().ok().filter(|outcome| outcome.passed(part)).map(|outcome| (outcome, part))
            });
            let back: Vec<Settlement> =
                charged.flat_map(|(outcome, part)| part.iter().zip(&outcome.trials)).filter_map(refund).collect();
            self.queue.add(back);
        }
        let mut parts: Vec<_> = outcomes
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|outcome| outcome.trials.into_iter())
            .collect();
        // Back into the order of the charges.
        let trials =
            slots.iter().filter_map(|slot| parts.get_mut(distinct.binary_search(slot).ok()?)?.next()).collect();
        Ok(Outcome { place: Place::Redis, trials })
    }

    /// Of charges that one script may see.
    async fn run_in_one(
        &self,
        charges: &[Charge],
        now: Now,
        commit: bool,
        timeout: Duration,
    ) -> Result<Outcome, StoreError> {
        let around_us = now.unix_us().saturating_add_signed(self.ahead_us.load(Ordering::Relaxed));
        match self.ask(charges, around_us, commit, timeout).await? {
            Ok(outcome) => {
                if let Some(trial) = outcome.trials.first() {
                    self.learn(trial.time.wall_us, now);
                }
                Ok(outcome)
            }
            // Our clock is off by more than a window, and Redis has said what time it is. Nothing was charged.
            Err(redis_us) => {
                self.learn(redis_us, now);
                self.ask(charges, redis_us, commit, timeout).await?.map_err(|_| StoreError::Garbage)
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
        self.link
            .ask(
                timeout,
                |connection| lua::call::<Vec<u64>>(connection, |by| command(&CHARGE, by, charges, &asks, commit)),
                |reply| read(&reply, charges, &asks),
            )
            .await
    }
}

/// What Redis said: what became of the charges; or, where a calendar's window is none of those that were asked for, what time
/// it is, in microseconds since 1970.
type Said = Result<Outcome, u64>;

/// What is to be given back of a charge that was made for nothing.
fn refund((charge, trial): (&Charge, &Trial)) -> Option<Settlement> {
    (charge.how.takes() && trial.after.is_some()).then(|| Settlement {
        quota: charge.quota.clone(),
        key: charge.key,
        holder: charge.holder,
        change: Change::Back(charge.cost),
        charged_us: trial.time.flow_us,
    })
}

fn command(script: &Lua, by: By, charges: &[Charge], asks: &[Ask], commit: bool) -> Cmd {
    let mut command = script.about(by, charges.iter().map(|charge| charge.key.as_bytes()));
    command.arg(u8::from(commit));
    for (charge, ask) in charges.iter().zip(asks) {
        let debts = matches!(ask, Ask::Rate { cell, .. } if cell.keeps_debts());
        let flags = u8::from(charge.how.takes()) + 2 * u8::from(charge.is_required()) + 4 * u8::from(debts);
        command.arg(&[ask.letter(), b'0' + flags][..]);
        match ask {
            Ask::Rate { cell, ban_us } => {
                let (step, room) = (cell.step, cell.room);
                for number in [step.us, step.rem, room.us, room.rem, cell.count, *ban_us] {
                    command.arg(number);
                }
            }
            Ask::Sliding(slide) => {
                for number in [slide.cost, slide.count, slide.period_us] {
                    command.arg(number);
                }
            }
            Ask::Calendar(page) => {
                for number in [page.cost, page.count].into_iter().chain(page.bounds.0) {
                    command.arg(number);
                }
            }
            Ask::Places(place) => {
                command.arg(place.count).arg(place.lease_us).arg(place.holder.as_bytes());
            }
        }
    }
    command
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
        trials.push(Trial { time, ask: *ask, begin, after });
    }
    Some(Ok(Outcome { place: Place::Redis, trials }))
}

static CHARGE: LazyLock<Lua> = LazyLock::new(|| Lua::new(SCRIPT));

const SCRIPT: &str = include_str!("charge.lua");

/// The scripts at a time of the caller's own: everything else is as it ships.
#[cfg(test)]
pub(super) mod scripted {
    use ::redis::aio::MultiplexedConnection;

    use super::super::settle;
    use super::*;

    pub(in super::super) struct Scripted {
        charge: Lua,
        settle: Lua,
    }

    impl Scripted {
        pub(in super::super) fn new() -> Scripted {
            let timed = |source: &str| {
                // Nothing expires by Redis's own clock, which is another one.
                let timeless = source.replace("/ 1000) + 1000", "/ 1000) + 3600000");
                assert_ne!(timeless, source);
                let timed = timeless.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
                assert_ne!(timed, timeless);
                Lua::new(&timed)
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
            let call = |by| {
                let mut command = command(&self.charge, by, charges, &asks, commit);
                command.arg(now_us / 1_000_000).arg(now_us % 1_000_000);
                command
            };
            let reply: Vec<u64> = lua::call(connection.clone(), call).await.unwrap();
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
            let settlements: Vec<&Settlement> = settlements.iter().collect();
            let call = |by| {
                let mut command = settle::command(&self.settle, by, &settlements, now_us);
                command.arg(now_us / 1_000_000).arg(now_us % 1_000_000);
                command
            };
            assert_eq!(lua::call::<u64>(connection.clone(), call).await.unwrap(), 1);
        }
    }
}
