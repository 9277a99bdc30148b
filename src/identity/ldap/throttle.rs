//! So many wrong passwords for one user and no more.
//!
//! A bucket for each entry of the directory, by its DN: ten wrong passwords at once, and one more each six seconds. It is
//! refilled by time alone, so that a login of the user's own does not buy a stranger another ten. Whoever waits for an
//! answer counts as wrong until it comes, so that a thousand guesses at once are not a thousand free ones.
//!
//! It locks nobody out who was in: a name and password that were right within the last hours are remembered (as a keyed
//! hash), pass by the bucket, and are asked about as if nothing had happened ([`Attempt::Known`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::error::LdapError;
use crate::clock::Now;

/// Whether this name and password have been right before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Never, or too long ago: it may be a guess.
    New,
    /// They were right not long ago.
    Known,
}

/// The buckets.
#[derive(Debug)]
pub(super) struct Throttle(Cache<Box<str>, Arc<Mutex<Bucket>>, foldhash::fast::RandomState>);

#[derive(Debug, Default)]
struct Bucket {
    /// When it will be full again; as in GCRA, a wrong password pushes it back by [`EACH`].
    full_at: Option<Instant>,
    asking: u32,
}

/// The right to ask once. Dropped, it stops counting as asking.
#[derive(Debug)]
pub(super) struct Admitted(Option<Arc<Mutex<Bucket>>>);

impl Throttle {
    pub(super) fn new() -> Throttle {
        // The least recently used goes first. Moka's own policy would rather not let a newcomer in, and so never count a
        // new victim's.
        let buckets = Cache::builder().max_capacity(USERS_MAX).eviction_policy(EvictionPolicy::lru());
        Throttle(buckets.build_with_hasher(foldhash::fast::RandomState::default()))
    }

    /// Asks for leave to try a password for the entry `dn`.
    pub(super) fn admit(&self, dn: &str, attempt: Attempt, now: Now) -> Result<Admitted, LdapError> {
        if attempt == Attempt::Known {
            return Ok(Admitted(None));
        }
        // The case of a DN does not count in any attribute that people are named by.
        let bucket = self.0.get_with(dn.to_lowercase().into(), Arc::default);
        let mut state = bucket.lock();
        let empty_for = state.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now.instant()));
        let wanted = empty_for + EACH * state.asking.saturating_add(1);
        if let Some(over) = wanted.checked_sub(EACH * AT_ONCE).filter(|over| !over.is_zero()) {
            return Err(LdapError::Throttled { retry_after: over });
        }
        state.asking += 1;
        drop(state);
        Ok(Admitted(Some(bucket)))
    }
}

impl Admitted {
    /// The password was wrong.
    pub(super) fn was_wrong(self, now: Now) {
        if let Some(bucket) = &self.0 {
            let mut state = bucket.lock();
            let from = state.full_at.map_or(now.instant(), |at| at.max(now.instant()));
            state.full_at = Some(from + EACH);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(bucket) = &self.0 {
            let mut state = bucket.lock();
            state.asking = state.asking.saturating_sub(1);
        }
    }
}

/// Ten are more than a person who forgot needs, and 14,400 a day find no password that is worth the name.
const AT_ONCE: u32 = 10;
const EACH: Duration = Duration::from_secs(6);

/// About 3 MiB. To push a victim out, a stranger needs this many other users' DNs, and gains ten guesses.
const USERS_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn retry_after(throttle: &Throttle, dn: &str, now: Now) -> Option<Duration> {
        match throttle.admit(dn, Attempt::New, now) {
            Ok(admitted) => {
                admitted.was_wrong(now);
                None
            }
            Err(LdapError::Throttled { retry_after }) => Some(retry_after),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn ten_wrong_passwords_and_then_one_each_six_seconds() {
        let (throttle, clock) = (Throttle::new(), Clock::by_hand(1));
        for _ in 0..10 {
            assert_eq!(retry_after(&throttle, "uid=ann,dc=x", clock.now()), None);
        }
        assert_eq!(retry_after(&throttle, "UID=Ann,DC=x", clock.now()), Some(EACH), "whatever the case");
        assert_eq!(retry_after(&throttle, "uid=bob,dc=x", clock.now()), None, "others are not meant");
        clock.advance(Duration::from_secs(5));
        assert_eq!(retry_after(&throttle, "uid=ann,dc=x", clock.now()), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(retry_after(&throttle, "uid=ann,dc=x", clock.now()), None);
        assert_eq!(retry_after(&throttle, "uid=ann,dc=x", clock.now()), Some(EACH));
        clock.advance(Duration::from_secs(600));
        for _ in 0..10 {
            assert_eq!(retry_after(&throttle, "uid=ann,dc=x", clock.now()), None);
        }
    }

    #[test]
    fn who_asks_counts_until_answered_and_what_was_right_passes_by() {
        let (throttle, now) = (Throttle::new(), Clock::by_hand(1).now());
        let asking: Vec<_> = (0..10).map(|_| throttle.admit("a", Attempt::New, now).unwrap()).collect();
        assert!(throttle.admit("a", Attempt::New, now).is_err());
        throttle.admit("a", Attempt::Known, now).unwrap().was_wrong(now);
        drop(asking);
        assert_eq!(retry_after(&throttle, "a", now), None, "ten right ones cost nothing");
    }
}
