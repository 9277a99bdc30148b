//! Counters in this process's memory.
//!
//! Sharded, so that two cores seldom want the same lock; bounded, by forgetting what was not used for longest: each
//! shard has a young and an old map, and when the young one is full it becomes the old one. An entry in use moves back.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::time::Instant;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::counter::{Ask, Held, Stand, StoreTime};
use super::gcra::Tat;
use super::receipt::Place;
use super::settle::{Change, Settlement};
use super::store::{Charge, Outcome, Trial};
use crate::clock::Now;

/// Counters by name.
#[derive(Debug)]
pub(super) struct MemoryStore {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Time is counted from here, on the monotonic clock.
    origin: OnceLock<Instant>,
    /// A map of a shard holds this many at most.
    map_len_max: usize,
}

#[derive(Debug)]
struct Shard {
    young: Map,
    old: Map,
    evicted_live: u64,
}

type Map = HashMap<Box<[u8]>, Held, RandomState>;

/// An entry with its name: 32 bytes of what it holds, 16 of pointer and length, about 60 of name with the allocator's
/// share, and the table's own slack. Places are held apart, 24 bytes each; there are as many as a limit has and no more.
const ENTRY_BYTES: u64 = 160;

/// Enough that on sixteen cores a lock is mostly free.
const SHARDS: usize = 64;

impl MemoryStore {
    /// Holds at most about `bytes_max`.
    pub(super) fn new(bytes_max: u64) -> MemoryStore {
        let hasher = RandomState::default();
        let maps = 2 * SHARDS as u64;
        let map_len_max = usize::try_from(bytes_max / (ENTRY_BYTES * maps)).unwrap_or(usize::MAX).max(1);
        let shard = || {
            let map = || HashMap::with_hasher(hasher.clone());
            Mutex::new(Shard { young: map(), old: map(), evicted_live: 0 })
        };
        MemoryStore {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: hasher.clone(),
            origin: OnceLock::new(),
            map_len_max,
        }
    }

    /// Tests all charges, then makes all or, where `commit` is false or one has no room, none.
    pub(super) fn charge(&self, charges: &[Charge], now: Now, commit: bool) -> Outcome {
        self.charge_at(charges, self.time(now), commit)
    }

    /// The same at a time that another clock says.
    pub(super) fn charge_at(&self, charges: &[Charge], time: StoreTime, commit: bool) -> Outcome {
        let homes: SmallVec<[usize; 2]> = charges.iter().map(|charge| self.home(charge.key.as_bytes())).collect();
        let mut locked = self.lock(&homes);

        let mut trials: SmallVec<[Trial; 2]> = SmallVec::new();
        for (charge, home) in charges.iter().zip(&homes) {
            let ask = Ask::new(charge, time.wall_us);
            // The same counter twice in a request: the second begins where the first would end.
            let earlier =
                charges.iter().zip(&trials).rev().find(|(other, _)| other.key == charge.key && other.how.takes());
            let begin = match earlier {
                Some((_, trial)) => Some(trial.after.unwrap_or(trial.begin)),
                None => {
                    let shard = locked.iter_mut().find(|(at, _)| at == home).map(|(_, shard)| shard);
                    let held = shard.and_then(|shard| shard.find(charge.key.as_bytes(), self.map_len_max, time));
                    ask.begin(held.map(|held| &*held), time)
                }
            };
            // A time that no calendar has is no time to let anybody through.
            let (begin, after) = match begin {
                Some(begin) => (begin, ask.charge(begin, time).ok()),
                None => (Stand::Banned(time.flow_us), None),
            };
            trials.push(Trial { time, ask, begin, after });
        }
        let outcome = Outcome { place: Place::Memory, trials };
        if outcome.passed(charges) && commit {
            for ((charge, home), trial) in charges.iter().zip(&homes).zip(&outcome.trials) {
                let shard = locked.iter_mut().find(|(at, _)| at == home);
                if let (Some((_, shard)), Some(after), true) = (shard, trial.after, charge.how.takes()) {
                    shard.store(charge.key.as_bytes(), self.map_len_max, time, |held| {
                        trial.ask.keep(after, held, time);
                    });
                }
            }
        }
        outcome
    }

    /// Gives back, or charges afterwards.
    pub(super) fn settle(&self, settlements: &[Settlement], now: Now) {
        self.settle_at(settlements, self.time(now));
    }

    /// The same at a time that another clock says.
    pub(super) fn settle_at(&self, settlements: &[Settlement], time: StoreTime) {
        for settlement in settlements {
            let name = settlement.key.as_bytes();
            for (_, mut shard) in self.lock(&[self.home(name)]) {
                match settlement.change {
                    Change::More(_) => shard.store(name, self.map_len_max, time, |held| settlement.apply(held, time)),
                    // Of what is not there nothing can be given back.
                    Change::Back(_) => {
                        if let Some(held) = shard.find(name, self.map_len_max, time) {
                            settlement.apply(held, time);
                        }
                    }
                }
            }
        }
    }

    /// Counters held.
    pub(super) fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().len() as u64).sum()
    }

    /// Counters that were forgotten before they were full again.
    pub(super) fn evicted_live(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().evicted_live).sum()
    }

    fn home(&self, name: &[u8]) -> usize {
        // The low bits pick a map's bucket; the high ones are independent of them.
        (self.hasher.hash_one(name) >> 32) as usize % SHARDS
    }

    /// In ascending order, each once: two requests with the same shards never wait for each other in a circle.
    fn lock(&self, homes: &[usize]) -> SmallVec<[(usize, MutexGuard<'_, Shard>); 2]> {
        let mut wanted: SmallVec<[usize; 2]> = homes.into();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.iter().filter_map(|home| Some((*home, self.shards.get(*home)?.lock()))).collect()
    }

    /// The monotonic clock for all but calendars: a wall clock that is set lets nobody through and holds nobody up.
    fn time(&self, now: Now) -> StoreTime {
        let origin = self.origin.get_or_init(|| now.instant());
        let since = now.instant().saturating_duration_since(*origin);
        StoreTime { flow_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX), wall_us: now.unix_us() }
    }
}

impl Shard {
    /// A look is a use: a caller who is refused all the time must not be forgotten for it.
    fn find(&mut self, name: &[u8], map_len_max: usize, time: StoreTime) -> Option<&mut Held> {
        if !self.young.contains_key(name) {
            let (name, held) = self.old.remove_entry(name)?;
            self.insert(name, held, map_len_max, time);
        }
        self.young.get_mut(name)
    }

    fn store(&mut self, name: &[u8], map_len_max: usize, time: StoreTime, change: impl FnOnce(&mut Held)) {
        match self.find(name, map_len_max, time) {
            Some(held) => change(held),
            None => {
                let mut held = Held::Rate(Tat::default());
                change(&mut held);
                self.insert(Box::from(name), held, map_len_max, time);
            }
        }
    }

    fn insert(&mut self, name: Box<[u8]>, held: Held, map_len_max: usize, time: StoreTime) {
        if self.young.len() >= map_len_max {
            // Idle means as if it had never been; forgetting such a counter loses nothing.
            self.evicted_live += self.old.values().filter(|held| !held.is_idle(time)).count() as u64;
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(name, held);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{CounterKey, Holder, How, Limit, OnFailure, Quota, Rate};
    use super::*;
    use crate::clock::Clock;

    fn charge(name: &str) -> Charge {
        let quota = Quota::Rate(Rate::new(1, Duration::from_secs(3600), 1).unwrap());
        let limit = Arc::new(Limit::new("l", quota.clone(), OnFailure::Local, 1));
        let mut key = CounterKey::of(&limit);
        key.part(name.as_bytes());
        Charge { limit, quota, key: key.finish(), cost: 1, holder: Holder::of(b""), how: How::Take }
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let clock = Clock::by_hand(1_700_000_000);
        // 64 shards × 2 maps × 8 entries.
        let store = MemoryStore::new(ENTRY_BYTES * 128 * 8);
        let hot = charge("hot");
        let one = std::slice::from_ref(&hot);
        assert!(store.charge(one, clock.now(), true).passed(one));
        for n in 0..100_000 {
            store.charge(&[charge(&n.to_string())], clock.now(), true);
            // A refusal is a use too: a flood of new names does not give a spent budget back.
            if n % 100 == 0 {
                assert!(!store.charge(one, clock.now(), true).passed(one));
                assert!(store.len() <= 1024, "{}", store.len());
            }
        }
        assert!(store.evicted_live() > 90_000, "{}", store.evicted_live());
    }

    #[test]
    fn what_was_full_again_is_no_loss() {
        let clock = Clock::by_hand(1_700_000_000);
        let store = MemoryStore::new(ENTRY_BYTES * 128);
        for n in 0..2_000 {
            store.charge(&[charge(&n.to_string())], clock.now(), true);
            clock.advance(Duration::from_secs(3601));
        }
        assert_eq!(store.evicted_live(), 0);
    }
}
