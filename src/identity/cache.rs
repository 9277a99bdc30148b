//! Verdicts on tokens already seen: verified ones until they end, failed ones briefly.
//!
//! The two are apart, so that whoever sends garbage can push out garbage only. Keys are whole tokens, not hashes of
//! them: a look-up compares every byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;
use serde_json::Value;
use smallvec::SmallVec;

use super::keys::Key;
use super::settings::CacheSettings;
use super::{Identity, Rejection};
use crate::clock::Now;

/// Something that a verdict rests on and that can be withdrawn: a key, a person's groups.
pub(crate) trait Ground: Send + Sync {
    /// Whether it still holds. Once it does not, the credential is unverified again.
    fn holds(&self) -> bool;
}

/// All that one verdict rests on.
pub(crate) type Grounds = SmallVec<[Arc<dyn Ground>; 2]>;

impl Ground for Key {
    fn holds(&self) -> bool {
        self.is_live()
    }
}

/// What a verified token proved, and what that rests on.
struct Verified {
    identity: Arc<Identity>,
    grounds: Grounds,
    /// The first second at which `exp` and the leeway are over.
    ends_at_s: i64,
    /// When it must be verified anew, whatever `exp` says.
    until: Instant,
    ttl: Duration,
    weight: u32,
    renewal: Option<Renewal>,
}

/// When a verdict that ends by its age, and not by `exp`, may be asked for again, so that nobody who is there all the
/// time has to wait for the next one.
struct Renewal {
    /// The last quarter of the verdict's life begins.
    from: Instant,
    quarter: Duration,
    chances_taken: AtomicU32,
}

impl Renewal {
    /// Whether it is for this caller to see to it: the last quarter has four chances, each for one caller, without a
    /// lock.
    fn take_chance(&self, now: Now) -> bool {
        let Some(late) = now.instant().checked_duration_since(self.from) else { return false };
        let each_us = (self.quarter / RENEWAL_CHANCES).as_micros().max(1);
        let chance = u32::try_from(late.as_micros() / each_us).unwrap_or(u32::MAX).saturating_add(1);
        let taken = self.chances_taken.load(Ordering::Relaxed);
        taken < chance
            && self.chances_taken.compare_exchange(taken, chance, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Verified {
    fn holds(&self, now: Now) -> bool {
        self.grounds.iter().all(|ground| ground.holds()) && now.unix_s() < self.ends_at_s && now.instant() < self.until
    }
}

#[derive(Clone, Copy)]
struct Failed {
    rejection: Rejection,
    until: Instant,
}

/// A verdict that still holds.
pub(crate) struct Hit {
    pub(crate) verdict: Result<Arc<Identity>, Rejection>,
    /// It soon ends by its age, and it is for this caller to ask for the next one.
    pub(crate) renew: bool,
}

/// Both caches. A clone is the same caches.
#[derive(Clone)]
pub(crate) struct TokenCache {
    verified: Cache<Box<[u8]>, Arc<Verified>, foldhash::fast::RandomState>,
    failed: Cache<Box<[u8]>, Failed, foldhash::fast::RandomState>,
    age_max: Duration,
    failed_age_max: Duration,
}

impl TokenCache {
    pub(crate) fn new(settings: CacheSettings) -> TokenCache {
        TokenCache::with_failed_age(settings, FAILED_AGE_MAX)
    }

    /// The same, with another bound on how long a refusal is remembered.
    pub(crate) fn with_failed_age(settings: CacheSettings, failed_age_max: Duration) -> TokenCache {
        // foldhash is seeded at random for each cache: a stranger cannot choose tokens that collide.
        TokenCache {
            verified: Cache::<Box<[u8]>, Arc<Verified>>::builder()
                .max_capacity(settings.bytes_max)
                .weigher(|_, verified| verified.weight)
                .expire_after(UntilEnd)
                .build_with_hasher(foldhash::fast::RandomState::default()),
            failed: Cache::<Box<[u8]>, Failed>::builder()
                .max_capacity(FAILED_BYTES_MAX)
                .weigher(|token, _| saturating_u32(token.len() + ENTRY_BYTES))
                .time_to_live(failed_age_max)
                .build_with_hasher(foldhash::fast::RandomState::default()),
            age_max: settings.age_max,
            failed_age_max,
        }
    }

    /// The verdict on these bytes if there is one that still holds at `now`. Nothing is believed for being in the cache:
    /// expiry, age and the key's life are looked at each time, by the request's own clock.
    pub(crate) fn find(&self, token: &[u8], now: Now) -> Option<Result<Arc<Identity>, Rejection>> {
        if let Some(verified) = self.verified.get(token)
            && verified.holds(now)
        {
            return Some(Ok(Arc::clone(&verified.identity)));
        }
        self.find_failed(token, now)
    }

    fn find_failed(&self, token: &[u8], now: Now) -> Option<Result<Arc<Identity>, Rejection>> {
        let failed = self.failed.get(token)?;
        (now.instant() < failed.until).then_some(Err(failed.rejection))
    }

    /// The same, and whether it is for this caller to ask for the next verdict.
    pub(crate) fn look_up(&self, token: &[u8], now: Now) -> Option<Hit> {
        if let Some(verified) = self.verified.get(token)
            && verified.holds(now)
        {
            let renew = verified.renewal.as_ref().is_some_and(|renewal| renewal.take_chance(now));
            return Some(Hit { verdict: Ok(Arc::clone(&verified.identity)), renew });
        }
        self.find_failed(token, now).map(|verdict| Hit { verdict, renew: false })
    }

    /// Remembers a verified token.
    pub(crate) fn keep(&self, token: &[u8], identity: Arc<Identity>, grounds: Grounds, ends_at_s: i64, now: Now) {
        self.keep_for(self.age_max, token, identity, grounds, ends_at_s, now);
    }

    /// Remembers a verified token, for no longer than `age_max`.
    pub(crate) fn keep_for(
        &self,
        age_max: Duration,
        token: &[u8],
        identity: Arc<Identity>,
        grounds: Grounds,
        ends_at_s: i64,
        now: Now,
    ) {
        let left = u64::try_from(ends_at_s.saturating_sub(now.unix_s())).unwrap_or(0);
        let ttl = Duration::from_secs(left).min(age_max);
        if ttl.is_zero() {
            return;
        }
        let weight = saturating_u32(token.len() + ENTRY_BYTES + identity_bytes(&identity));
        let Some(until) = now.instant().checked_add(ttl) else { return };
        let quarter = ttl / 4;
        let renewal = (ttl == age_max).then(|| until.checked_sub(quarter)).flatten().map(|from| Renewal {
            from,
            quarter,
            chances_taken: AtomicU32::new(0),
        });
        let verified = Verified { identity, grounds, ends_at_s, until, ttl, weight, renewal };
        self.verified.insert(token.into(), Arc::new(verified));
    }

    /// Remembers a refusal, whatever was known before and whether or not time may turn it around.
    pub(crate) fn refuse(&self, token: &[u8], rejection: Rejection, now: Now) {
        self.failed.insert(token.into(), Failed { rejection, until: now.instant() + self.failed_age_max });
        self.verified.invalidate(token);
    }

    /// Remembers a refusal, if it is one that time or a newer key set cannot turn around.
    pub(crate) fn keep_failed(&self, token: &[u8], rejection: Rejection, now: Now) {
        if !rejection.may_heal() {
            self.failed.insert(token.into(), Failed { rejection, until: now.instant() + self.failed_age_max });
        }
    }

    /// Verified tokens held, and their weight in bytes; brought up to date first, so not for the hot path.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.verified.run_pending_tasks();
        (self.verified.entry_count(), self.verified.weighted_size())
    }
}

/// Lets moka drop an entry at its end. This is housekeeping: [`TokenCache::find`] does not rely on it.
struct UntilEnd;

impl Expiry<Box<[u8]>, Arc<Verified>> for UntilEnd {
    fn expire_after_create(&self, _: &Box<[u8]>, verified: &Arc<Verified>, _: Instant) -> Option<Duration> {
        Some(verified.ttl)
    }

    fn expire_after_update(
        &self,
        _: &Box<[u8]>,
        verified: &Arc<Verified>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(verified.ttl)
    }
}

pub(super) fn identity_bytes(identity: &Identity) -> usize {
    let strings = [
        &identity.issuer,
        &identity.user,
        &identity.subject,
        &identity.email,
        &identity.name,
        &identity.client_id,
        &identity.groups_joined,
    ];
    let scopes = identity.scopes.iter().map(|scope| scope.capacity() + size_of::<String>()).sum::<usize>();
    strings.iter().map(|text| text.capacity()).sum::<usize>()
        + scopes
        + identity.groups.bytes()
        + object_bytes(&identity.claims)
}

/// Heap bytes below a value. Nesting is bounded by `json`.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.capacity(),
        Value::Array(values) => values.capacity() * size_of::<Value>() + values.iter().map(value_bytes).sum::<usize>(),
        Value::Object(members) => object_bytes(members),
    }
}

/// A B-tree node has room for eleven members and is at least half full but for the root.
fn object_bytes(members: &serde_json::Map<String, Value>) -> usize {
    let nodes = members.len().div_ceil(6);
    nodes * 11 * (size_of::<String>() + size_of::<Value>())
        + members.iter().map(|(name, value)| name.capacity() + value_bytes(value)).sum::<usize>()
}

fn saturating_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Each is for one request, so that an issuer that is away for a moment does not cost an entry its renewal.
const RENEWAL_CHANCES: u32 = 4;

/// What an entry weighs besides its token and the identity's heap: `Identity` (about 510) and `Verified` (about 130) in
/// their `Arc`s, and moka's entry, queue nodes, timer node and table slot (about 260).
const ENTRY_BYTES: usize = 904;

/// 4 MiB hold about 2,700 failed tokens of 900 bytes, or 246 of the largest: enough for one broken client that retries.
const FAILED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Long enough to spare a retry loop its signature checks, short enough for an operator not to notice.
const FAILED_AGE_MAX: Duration = Duration::from_secs(10);
