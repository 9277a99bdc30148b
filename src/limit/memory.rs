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

use super::gcra::{Cell, Tat};
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

type Map = HashMap<Box<[u8]>, Tat, RandomState>;

/// An entry with its name: 16 bytes of TAT, 16 of pointer and length, about 60 of name with the allocator's share, and
/// the table's own slack.
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
        let now_us = self.us(now);
        let homes: SmallVec<[usize; 2]> = charges.iter().map(|charge| self.home(charge)).collect();
        // In ascending order, each once: two requests with the same shards never wait for each other in a circle.
        let mut wanted = homes.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let mut locked: SmallVec<[(usize, MutexGuard<'_, Shard>); 2]> =
            wanted.iter().filter_map(|home| Some((*home, self.shards.get(*home)?.lock()))).collect();

        let mut trials: SmallVec<[Trial; 2]> = SmallVec::new();
        for (charge, home) in charges.iter().zip(&homes) {
            let cell = Cell::new(charge.quota, charge.cost);
            // The same counter twice in a request: the second begins where the first would end.
            let earlier = charges.iter().zip(&trials).rev().find(|(other, _)| other.key == charge.key);
            let begin = match earlier {
                Some((_, trial)) => trial.after.unwrap_or(trial.begin),
                None => {
                    let shard = locked.iter_mut().find(|(at, _)| at == home).map(|(_, shard)| shard);
                    let held = shard.and_then(|shard| shard.find(charge.key.as_bytes(), self.map_len_max, now_us));
                    cell.begin(held, now_us)
                }
            };
            trials.push(Trial { begin, after: cell.charge(begin, now_us).ok() });
        }
        let passed = trials.iter().all(|trial| trial.after.is_some());
        if passed && commit {
            for ((charge, home), trial) in charges.iter().zip(&homes).zip(&trials) {
                let shard = locked.iter_mut().find(|(at, _)| at == home);
                if let (Some((_, shard)), Some(after)) = (shard, trial.after) {
                    shard.store(charge.key.as_bytes(), after, self.map_len_max, now_us);
                }
            }
        }
        Outcome { now_us, trials }
    }

    /// Counters held.
    pub(super) fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().len() as u64).sum()
    }

    /// Counters that were forgotten before they were full again.
    pub(super) fn evicted_live(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().evicted_live).sum()
    }

    fn home(&self, charge: &Charge) -> usize {
        // The low bits pick a map's bucket; the high ones are independent of them.
        (self.hasher.hash_one(charge.key.as_bytes()) >> 32) as usize % SHARDS
    }

    fn us(&self, now: Now) -> u64 {
        let origin = self.origin.get_or_init(|| now.instant());
        let since = now.instant().saturating_duration_since(*origin);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Shard {
    /// A look is a use: a caller who is refused all the time must not be forgotten for it.
    fn find(&mut self, name: &[u8], map_len_max: usize, now_us: u64) -> Option<Tat> {
        if let Some(held) = self.young.get(name) {
            return Some(*held);
        }
        let (name, held) = self.old.remove_entry(name)?;
        self.insert(name, held, map_len_max, now_us);
        Some(held)
    }

    fn store(&mut self, name: &[u8], tat: Tat, map_len_max: usize, now_us: u64) {
        match self.young.get_mut(name) {
            Some(held) => *held = tat,
            None => self.insert(Box::from(name), tat, map_len_max, now_us),
        }
    }

    fn insert(&mut self, name: Box<[u8]>, tat: Tat, map_len_max: usize, now_us: u64) {
        if self.young.len() >= map_len_max {
            // Full again means as if it had never been; forgetting such a counter loses nothing.
            self.evicted_live += self.old.values().filter(|tat| tat.us > now_us).count() as u64;
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(name, tat);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{CounterKey, Limit, OnFailure, Quota};
    use super::*;
    use crate::clock::Clock;

    fn charge(name: &str) -> Charge {
        let quota = Quota::new(1, Duration::from_secs(3600), 1).unwrap();
        let limit = Arc::new(Limit { name: "l".into(), quota, on_failure: OnFailure::Local, generation: 1 });
        let mut key = CounterKey::of(&limit);
        key.part(name.as_bytes());
        Charge { limit, quota, key: key.finish(), cost: 1 }
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let clock = Clock::by_hand(1_700_000_000);
        // 64 shards × 2 maps × 8 entries.
        let store = MemoryStore::new(ENTRY_BYTES * 128 * 8);
        let hot = charge("hot");
        assert!(store.charge(std::slice::from_ref(&hot), clock.now(), true).passed());
        for n in 0..100_000 {
            store.charge(&[charge(&n.to_string())], clock.now(), true);
            // A refusal is a use too: a flood of new names does not give a spent budget back.
            if n % 100 == 0 {
                assert!(!store.charge(std::slice::from_ref(&hot), clock.now(), true).passed());
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
