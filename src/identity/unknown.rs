//! Names of keys that a provider was asked for a moment ago, and need not be asked for again.
//!
//! Anyone can make up a `kid`, so what is remembered has a fixed size, costs no lock, and forgets by being overwritten: a
//! name that was forgotten is one more ask, which the cooldown bounds anyway.

use std::hash::BuildHasher as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Now;

/// The names, each until its time is over.
pub(crate) struct UnknownKids {
    /// Seeded at random: a stranger cannot choose names that push out a certain other.
    hasher: foldhash::quality::RandomState,
    /// A mark of the name in the upper half, in the lower half the second from `origin` at which it is forgotten; 0 is
    /// free.
    slots: Box<[AtomicU64]>,
    origin: OnceLock<Instant>,
}

impl UnknownKids {
    pub(crate) fn new() -> UnknownKids {
        UnknownKids {
            hasher: foldhash::quality::RandomState::default(),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            origin: OnceLock::new(),
        }
    }

    /// Whether the name was noted and its time is not over. Two names can share a slot and a mark, once in 2^44.
    pub(crate) fn contains(&self, kid: &str, now: Now) -> bool {
        let (slot, mark) = self.place(kid);
        let held = slot.map_or(0, |slot| slot.load(Ordering::Relaxed));
        held != 0 && held >> 32 == mark && self.second(now) < held & u64::from(u32::MAX)
    }

    /// Notes a name for so long.
    pub(crate) fn note(&self, kid: &str, time: Duration, now: Now) {
        let (slot, mark) = self.place(kid);
        let until = self.second(now).saturating_add(time.as_secs()).min(u64::from(u32::MAX));
        if let Some(slot) = slot {
            slot.store(mark << 32 | until, Ordering::Relaxed);
        }
    }

    /// Forgets all of them.
    pub(crate) fn forget(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    fn place(&self, kid: &str) -> (Option<&AtomicU64>, u64) {
        let hash = self.hasher.hash_one(kid);
        // Less than SLOTS, so it fits.
        let index = (hash % SLOTS as u64) as usize;
        (self.slots.get(index), hash >> 32)
    }

    fn second(&self, now: Now) -> u64 {
        now.instant().saturating_duration_since(*self.origin.get_or_init(|| now.instant())).as_secs()
    }
}

/// 32 KiB an issuer. More names than that at once are made up.
const SLOTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_name_is_known_for_its_time_and_the_flood_has_a_bound() {
        let (kids, clock) = (UnknownKids::new(), Clock::by_hand(1_800_000_000));
        assert!(!kids.contains("", clock.now()));
        kids.note("a", Duration::from_secs(60), clock.now());
        assert!(kids.contains("a", clock.now()));
        assert!(!kids.contains("b", clock.now()));
        clock.advance(Duration::from_secs(59));
        assert!(kids.contains("a", clock.now()));
        clock.advance(Duration::from_secs(1));
        assert!(!kids.contains("a", clock.now()));

        for n in 0..100_000 {
            kids.note(&format!("k{n}"), Duration::from_secs(60), clock.now());
        }
        let held = (0..100_000).filter(|n| kids.contains(&format!("k{n}"), clock.now())).count();
        assert!((1..=SLOTS).contains(&held), "{held}");
        kids.forget();
        assert!((0..100_000).all(|n| !kids.contains(&format!("k{n}"), clock.now())));
    }
}
