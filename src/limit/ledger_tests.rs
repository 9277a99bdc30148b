//! Ten thousand made-up histories of agents that share counters, and a ledger of all that they let through.
//!
//! One thread and a clock of its own; the store is the model that the scripts are held to (`store_tests`). In a history agents ask
//! at random moments; the store goes away and comes back, loses its data, or its answer gets lost after it has counted; agents
//! then enforce their shares. Whatever happens, no window of the limit's length that begins at an admission holds more than the
//! limit's own bound and what was declared for the faults in its reach. A failure names the history's number, which is all that it
//! takes to see it again.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::calendar::{Calendar, Unit};
use super::counter::StoreTime;
use super::memory::MemoryStore;
use super::{Charge, Concurrent, CounterKey, Holder, How, Limit, OnFailure, Quota, Rate, Sliding};

const HISTORIES: u64 = 10_000;
const STEPS: usize = 100;
/// 2026-12-01, far from any window's edge of a year.
const START_US: u64 = 1_796_083_200_000_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// One admission.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    at_us: u64,
    cost: u64,
}

/// What went wrong, and when.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The store could not be asked: agents enforced their shares.
    Away,
    /// The store lost what it held.
    Emptied,
}

fn quota(random: &mut Random) -> Quota {
    let count = [1, 7, 10, 100][random.below(4) as usize];
    let period = Duration::from_millis([250, 10_000, 60_000][random.below(3) as usize]);
    match random.below(4) {
        0 | 1 => Quota::Rate(Rate::new(count, period, 1 + random.below(count)).unwrap()),
        2 => Quota::Sliding(Sliding::new(count, period).unwrap()),
        _ => Quota::Calendar(Calendar::new(count, Unit::Day, jiff::tz::TimeZone::UTC).unwrap()),
    }
}

fn charge(limit: &Arc<Limit>, quota: &Quota, cost: u32) -> [Charge; 1] {
    let mut key = CounterKey::of(limit);
    key.part(b"alice");
    let (limit, quota, key) = (Arc::clone(limit), quota.clone(), key.finish());
    [Charge { limit, quota, key, cost, holder: Holder::NONE, how: How::Take }]
}

fn history(number: u64) {
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let agents = NonZeroU64::new([2, 8, 32][random.below(3) as usize]).unwrap();
    let quota = quota(&mut random);
    let is_faulty = random.below(2) == 0;
    let limit = Arc::new(Limit::new("l", quota.clone(), OnFailure::Local, 1));
    let period_us = quota.period_us().unwrap();
    let share = quota.share(agents);

    let new = || MemoryStore::new(1024 * 1024);
    let mut store = new();
    let shares: Vec<MemoryStore> = (0..agents.get()).map(|_| new()).collect();
    let (mut now_us, mut is_away) = (START_US, false);
    let mut ledger: Vec<Admitted> = Vec::new();
    let mut faults: Vec<(u64, Fault)> = Vec::new();
    for _ in 0..STEPS {
        // From a flood to a trickle.
        let haste = [1, 4, 40][random.below(3) as usize];
        now_us += random.below(1 + 3 * period_us / quota.count() / haste);
        if is_faulty {
            match random.below(30) {
                0 => is_away = !is_away,
                1 => {
                    store = new();
                    faults.push((now_us, Fault::Emptied));
                }
                _ => {}
            }
        }
        let time = StoreTime::of_redis(now_us);
        let cost = 1 + u32::try_from(random.below(2)).unwrap();
        let agent = random.below(agents.get()) as usize;
        let charge = charge(&limit, &quota, cost);
        let is_lost = is_faulty && !is_away && random.below(40) == 0;
        let passed = if is_away || is_lost {
            if is_lost {
                // Counted, and the answer never came: the caller is charged once more, by the share.
                store.charge_at(&charge, time, true);
            }
            faults.push((now_us, Fault::Away));
            let charge = self::charge(&limit, &share, cost);
            shares[agent].charge_at(&charge, time, true).passed(&charge)
        } else {
            store.charge_at(&charge, time, true).passed(&charge)
        };
        if passed {
            ledger.push(Admitted { at_us: now_us, cost: u64::from(cost) });
        }
    }

    for (index, first) in ledger.iter().enumerate() {
        let end_us = first.at_us + period_us - 1;
        let sum: u64 = ledger[index..].iter().take_while(|admitted| admitted.at_us <= end_us).map(|a| a.cost).sum();
        // A fault reaches as far as what it made forget would have counted.
        let near = |at_us: u64| at_us + 2 * period_us >= first.at_us && at_us <= end_us;
        let mut bound = quota.in_any_window();
        if faults.iter().any(|(at_us, fault)| matches!(fault, Fault::Away) && near(*at_us)) {
            bound += agents.get() * share.in_any_window();
        }
        let emptied = faults.iter().filter(|(at_us, fault)| matches!(fault, Fault::Emptied) && near(*at_us)).count();
        bound += emptied as u64 * quota.in_any_window();
        assert!(sum <= bound, "history {number}: {sum} in a window, {bound} at most, of {quota:?} by {agents} agents");
    }
}

#[test]
fn no_window_of_ten_thousand_histories_holds_more_than_was_declared() {
    (0..HISTORIES).for_each(history);
}

/// The other way round: what is offered in plenty passes up to the limit, and nobody is refused who has used less than half.
#[test]
fn all_of_a_limit_can_be_had() {
    for number in 0..300 {
        let mut random = Random(number | 1);
        let quota = match quota(&mut random) {
            // The burst that a rate has where none is written: with less of it, who asks a moment early loses that moment.
            Quota::Rate(rate) => {
                Quota::Rate(Rate::new(rate.count(), Duration::from_micros(rate.period_us()), rate.count()).unwrap())
            }
            other => other,
        };
        let limit = Arc::new(Limit::new("l", quota.clone(), OnFailure::Local, 1));
        let (period_us, store) = (quota.period_us().unwrap(), MemoryStore::new(1024 * 1024));
        let charge = charge(&limit, &quota, 1);
        let mut passed = 0;
        // Four times the rate, for ten periods.
        let steps = 40 * quota.count();
        for step in 0..steps {
            let time = StoreTime::of_redis(START_US + step * period_us / quota.count() / 4);
            let outcome = store.charge_at(&charge, time, true);
            if outcome.passed(&charge) {
                passed += 1;
            } else {
                let used = quota.at_once() - outcome.read(&charge).unwrap_err().states[0].remaining;
                assert!(2 * used >= quota.at_once(), "{quota:?}: refused with {used} used");
            }
        }
        assert!(100 * passed >= 99 * 10 * quota.count(), "{quota:?}: {passed} of {}", 10 * quota.count());
    }
}

/// At no moment more are in than there are places, whoever dies without giving theirs back.
#[test]
fn no_more_are_in_than_there_are_places() {
    for number in 0..1000 {
        let mut random = Random(number | 1);
        let (count, lease_us) = (1 + random.below(5), 1_000_000);
        let quota = Quota::Concurrent(Concurrent::new(count, Duration::from_micros(lease_us)).unwrap());
        let limit = Arc::new(Limit::new("l", quota.clone(), OnFailure::Local, 1));
        let store = MemoryStore::new(1024 * 1024);
        let mut inside: Vec<(Holder, u64)> = Vec::new();
        let mut now_us = START_US;
        for step in 0..STEPS as u64 {
            now_us += random.below(lease_us / 2);
            let time = StoreTime::of_redis(now_us);
            // Leases that have run out are of requests that died.
            inside.retain(|(_, until_us)| *until_us > now_us);
            if random.below(3) == 0
                && let Some((holder, _)) = inside.pop()
            {
                let [gone] = charge(&limit, &quota, 1);
                let (quota, key) = (quota.clone(), gone.key);
                let change = super::settle::Change::Back(1);
                store.settle_at(&[super::settle::Settlement { quota, key, holder, change, charged_us: 0 }], time);
            }
            let [mut charge] = charge(&limit, &quota, 1);
            charge.holder = Holder::of(&step.to_be_bytes());
            let charge = [charge];
            let has_room = (inside.len() as u64) < count;
            assert_eq!(store.charge_at(&charge, time, true).passed(&charge), has_room, "{number}, step {step}");
            if has_room {
                inside.push((charge[0].holder, now_us + lease_us));
            }
        }
    }
}
