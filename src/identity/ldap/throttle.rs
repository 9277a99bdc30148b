//! So many wrong passwords for one user and no more.
//!
//! A bucket for each name that somebody has, and for each entry of the directory: ten wrong passwords at once, and one more
//! each six seconds. Names have one whether the directory knows them or not, so that nobody learns by the eleventh which
//! there are; entries have one because several names may lead to the same. It is refilled by time alone, so that a login
//! of the user's own does not buy a stranger another ten. Whoever waits for an answer counts as wrong until it comes, so
//! that a thousand guesses at once are not a thousand free ones.
//!
//! It locks nobody out who was in: a name and password that were right within the last hours are remembered (as a keyed
//! hash), pass by the bucket, and are asked about as if nothing had happened ([`Attempt::Known`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use icu_normalizer::DecomposingNormalizerBorrowed;
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
pub(super) struct Throttle {
    names: Buckets,
    entries: Buckets,
}

#[derive(Debug)]
struct Buckets(Cache<Box<str>, Arc<Mutex<Bucket>>, foldhash::fast::RandomState>);

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
        Throttle { names: Buckets::new(), entries: Buckets::new() }
    }

    /// Asks for leave to try a password for the name `user`.
    pub(super) fn admit_name(&self, user: &str, attempt: Attempt, now: Now) -> Result<Admitted, LdapError> {
        self.names.admit(user, attempt, now)
    }

    /// Asks for leave to try a password for the entry `dn`.
    pub(super) fn admit_entry(&self, dn: &str, attempt: Attempt, now: Now) -> Result<Admitted, LdapError> {
        self.entries.admit(dn, attempt, now)
    }
}

impl Buckets {
    fn new() -> Buckets {
        // The least recently used goes first. Moka's own policy would rather not let a newcomer in, and so never count a
        // new victim's.
        let buckets = Cache::builder().max_capacity(USERS_MAX).eviction_policy(EvictionPolicy::lru());
        Buckets(buckets.build_with_hasher(foldhash::fast::RandomState::default()))
    }

    fn admit(&self, name: &str, attempt: Attempt, now: Now) -> Result<Admitted, LdapError> {
        if attempt == Attempt::Known {
            return Ok(Admitted(None));
        }
        let bucket = self.0.get_with(folded(name).into(), Arc::default);
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

/// What directories look past in text, looked past: case, width, accents. Two people who share a bucket for it have ten
/// wrong passwords together; one person with a bucket for each spelling would have as many as there are spellings.
fn folded(name: &str) -> String {
    let plain = DecomposingNormalizerBorrowed::new_nfkd().normalize(name);
    let plain: String = plain.chars().filter(|c| !('\u{300}'..='\u{36f}').contains(c)).collect();
    plain.to_uppercase().to_lowercase()
}

/// Ten are more than a person who forgot needs, and 14,400 a day find no password that is worth the name.
const AT_ONCE: u32 = 10;
const EACH: Duration = Duration::from_secs(6);

/// About 3 MiB, twice. To push a victim out takes so many wrong passwords for other names. At the 50 a second that
/// strangers have ([`super::cache`]) that is 200 s, in which the bucket of its own gives more than the ten.
const USERS_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn retry_after(throttle: &Throttle, dn: &str, now: Now) -> Option<Duration> {
        match throttle.admit_entry(dn, Attempt::New, now) {
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
    fn a_name_has_one_bucket_however_a_directory_may_read_it() {
        for spelling in ["admin", "ADMIN", "àdmin", "a\u{300}dmin", "ａｄｍｉｎ", "ádmín"] {
            assert_eq!(folded(spelling), "admin", "{spelling}");
        }
        assert_eq!((folded("ﬁſß"), folded("Jürgen")), ("fisss".to_owned(), "jurgen".to_owned()));
    }

    #[test]
    fn who_asks_counts_until_answered_and_what_was_right_passes_by() {
        let (throttle, now) = (Throttle::new(), Clock::by_hand(1).now());
        let asking: Vec<_> = (0..10).map(|_| throttle.admit_name("a", Attempt::New, now).unwrap()).collect();
        assert!(throttle.admit_name("a", Attempt::New, now).is_err());
        throttle.admit_name("a", Attempt::Known, now).unwrap().was_wrong(now);
        drop(asking);
        assert!(throttle.admit_name("a", Attempt::New, now).is_ok(), "ten right ones cost nothing");
        assert_eq!(retry_after(&throttle, "a", now), None, "a name is no entry");
    }
}
