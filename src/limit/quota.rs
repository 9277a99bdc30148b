//! How much is allowed: `100/1m` with a burst.

use std::num::NonZeroU64;
use std::time::Duration;

/// A GCRA quota: `count` a `period` in the long run, at most `burst` at once from idle.
///
/// Over any window of the period's length at most `count + burst` pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    count: NonZeroU64,
    period_us: NonZeroU64,
    burst: NonZeroU64,
}

impl Quota {
    /// Upper bound of `count` and `burst`: remainders, which are below the count, then add up far below 2^53, where
    /// Lua's numbers are still whole.
    pub const COUNT_MAX: u64 = 1_000_000_000;

    /// Upper bound of the period.
    pub const PERIOD_MAX: Duration = Duration::from_secs(400 * 86_400);

    /// Upper bound of how long a spent burst takes to fill again, ten years: 3.2 × 10^14 microseconds, which with a Unix
    /// time of 1.8 × 10^15 stays below 2^53 = 9 × 10^15.
    pub const REFILL_MAX: Duration = Duration::from_secs(3650 * 86_400);

    /// `None` where a part is zero, the period is under a microsecond, or a bound is passed.
    pub fn new(count: u64, period: Duration, burst: u64) -> Option<Quota> {
        if count > Quota::COUNT_MAX || burst > Quota::COUNT_MAX || period > Quota::PERIOD_MAX {
            return None;
        }
        let quota = Quota {
            count: NonZeroU64::new(count)?,
            period_us: NonZeroU64::new(u64::try_from(period.as_micros()).ok()?)?,
            burst: NonZeroU64::new(burst)?,
        };
        let refill_us = u128::from(burst) * period.as_micros() / u128::from(count);
        (refill_us <= Quota::REFILL_MAX.as_micros()).then_some(quota)
    }

    /// How many a period.
    pub fn count(self) -> u64 {
        self.count.get()
    }

    /// The period in microseconds.
    pub fn period_us(self) -> u64 {
        self.period_us.get()
    }

    /// How many at once from idle.
    pub fn burst(self) -> u64 {
        self.burst.get()
    }

    /// One agent's share of it when `agents` enforce it without each other: 1/agents, rounded up.
    pub fn share(self, agents: NonZeroU64) -> Quota {
        let part = |whole: NonZeroU64| NonZeroU64::new(whole.get().div_ceil(agents.get())).unwrap_or(NonZeroU64::MIN);
        Quota { count: part(self.count), period_us: self.period_us, burst: part(self.burst) }
    }

    /// Whether it admits more in the long run than `other`, or as much with a larger burst.
    pub fn is_better_than(self, other: Quota) -> bool {
        let ours = u128::from(self.count()) * u128::from(other.period_us());
        let theirs = u128::from(other.count()) * u128::from(self.period_us());
        (ours, self.burst) > (theirs, other.burst)
    }
}
