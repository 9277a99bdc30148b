//! How much is allowed: `100/1m` with a burst, `7/10m` in a sliding window, `50000/month` of the calendar, five at once.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use super::calendar::Calendar;

/// How much of a limit there is, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quota {
    /// So many a period, in an even flow with a burst (GCRA).
    Rate(Rate),
    /// So many in any window of that length, by two buckets.
    Sliding(Sliding),
    /// So many in each day, week, month or year of the calendar.
    Calendar(Calendar),
    /// So many at the same time.
    Concurrent(Concurrent),
}

impl Quota {
    /// Upper bound of a count and a burst: remainders, which are below the count, then add up far below 2^53, where Lua's
    /// numbers are still whole.
    pub const COUNT_MAX: u64 = 1_000_000_000;

    /// Upper bound of a period, and of a lease.
    pub const PERIOD_MAX: Duration = Duration::from_secs(400 * 86_400);

    /// How many: a period, in a window, or at once.
    pub fn count(&self) -> u64 {
        match self {
            Quota::Rate(rate) => rate.count(),
            Quota::Sliding(sliding) => sliding.count(),
            Quota::Calendar(calendar) => calendar.count(),
            Quota::Concurrent(concurrent) => concurrent.count(),
        }
    }

    /// How long a window is, in microseconds; of the calendar's, the one that the clock is in is as long as this or at most
    /// three days shorter or a day longer. `None` for what has none.
    pub fn period_us(&self) -> Option<u64> {
        match self {
            Quota::Rate(rate) => Some(rate.period_us()),
            Quota::Sliding(sliding) => Some(sliding.period_us()),
            Quota::Calendar(calendar) => Some(calendar.unit().nominal_us()),
            Quota::Concurrent(_) => None,
        }
    }

    /// The most that can pass at one instant, from idle: what costs more can never pass.
    pub fn at_once(&self) -> u64 {
        match self {
            Quota::Rate(rate) => rate.burst(),
            other => other.count(),
        }
    }

    /// The most that can pass in any window as long as its period, whenever that begins.
    pub fn in_any_window(&self) -> u64 {
        match self {
            Quota::Rate(rate) => rate.count() + rate.burst(),
            // Where all came at the end of one bucket and of the next.
            Quota::Sliding(sliding) => 2 * sliding.count(),
            Quota::Calendar(calendar) => 2 * calendar.count(),
            Quota::Concurrent(concurrent) => concurrent.count(),
        }
    }

    /// One agent's share of it when `agents` enforce it without each other: 1/agents, rounded up.
    pub fn share(&self, agents: NonZeroU64) -> Quota {
        let part = |whole: NonZeroU64| NonZeroU64::new(whole.get().div_ceil(agents.get())).unwrap_or(NonZeroU64::MIN);
        match self {
            Quota::Rate(rate) => Quota::Rate(Rate { count: part(rate.count), burst: part(rate.burst), ..*rate }),
            Quota::Sliding(sliding) => Quota::Sliding(Sliding { count: part(sliding.count), ..*sliding }),
            Quota::Calendar(calendar) => Quota::Calendar(calendar.with_count(part(calendar.count_at_least_one()))),
            Quota::Concurrent(all) => Quota::Concurrent(Concurrent { count: part(all.count), ..*all }),
        }
    }

    /// Whether it admits more in the long run than `other`, or as much with more at once. Only quotas of one kind can be
    /// told apart like this; the config sees to that.
    pub fn is_better_than(&self, other: &Quota) -> bool {
        let per_us = |quota: &Quota| quota.period_us().unwrap_or(1);
        let ours = u128::from(self.count()) * u128::from(per_us(other));
        let theirs = u128::from(other.count()) * u128::from(per_us(self));
        (ours, self.at_once()) > (theirs, other.at_once())
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        match self {
            Quota::Rate(rate) => {
                write!(f, "{count} in {:?}, burst {}", Duration::from_micros(rate.period_us()), rate.burst())
            }
            Quota::Sliding(sliding) => {
                write!(f, "{count} in a sliding {:?}", Duration::from_micros(sliding.period_us()))
            }
            Quota::Calendar(calendar) => {
                let zone = calendar.zone().iana_name().unwrap_or("UTC");
                write!(f, "{count} in each {} of {zone}", calendar.unit().name())
            }
            Quota::Concurrent(_) => write!(f, "{count} at once"),
        }
    }
}

/// A GCRA quota: `count` a `period` in the long run, at most `burst` at once from idle.
///
/// Over any window of the period's length at most `count + burst` pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: NonZeroU64,
    period_us: NonZeroU64,
    burst: NonZeroU64,
}

impl Rate {
    /// Upper bound of how long a spent burst takes to fill again, ten years: 3.2 × 10^14 microseconds, which with a Unix
    /// time of 1.8 × 10^15 stays below 2^53 = 9 × 10^15.
    pub const REFILL_MAX: Duration = Duration::from_secs(3650 * 86_400);

    /// `None` where a part is zero, the period is under a microsecond, or a bound is passed.
    pub fn new(count: u64, period: Duration, burst: u64) -> Option<Rate> {
        if count > Quota::COUNT_MAX || burst > Quota::COUNT_MAX {
            return None;
        }
        let rate =
            Rate { count: NonZeroU64::new(count)?, period_us: period_us(period)?, burst: NonZeroU64::new(burst)? };
        let refill_us = u128::from(burst) * period.as_micros() / u128::from(count);
        (refill_us <= Rate::REFILL_MAX.as_micros()).then_some(rate)
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
}

/// `count` in a window of `period` that moves with the clock, by two buckets: see `sliding.rs` for how exact that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sliding {
    count: NonZeroU64,
    period_us: NonZeroU64,
}

impl Sliding {
    /// `None` where a part is zero, the period is under a microsecond, or a bound is passed.
    pub fn new(count: u64, period: Duration) -> Option<Sliding> {
        let count = NonZeroU64::new(count).filter(|count| count.get() <= Quota::COUNT_MAX)?;
        Some(Sliding { count, period_us: period_us(period)? })
    }

    /// How many in a window.
    pub fn count(self) -> u64 {
        self.count.get()
    }

    /// The window in microseconds.
    pub fn period_us(self) -> u64 {
        self.period_us.get()
    }
}

/// `count` at the same time. Each place is given back when the response is there, or is free again after the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concurrent {
    count: NonZeroU64,
    lease_us: NonZeroU64,
}

impl Concurrent {
    /// Upper bound of `count`: each place is an entry of some 100 bytes in the counter, and the script looks at those that
    /// have run out.
    pub const COUNT_MAX: u64 = 100_000;

    /// `None` where a part is zero or a bound is passed.
    pub fn new(count: u64, lease: Duration) -> Option<Concurrent> {
        let count = NonZeroU64::new(count).filter(|count| count.get() <= Concurrent::COUNT_MAX)?;
        Some(Concurrent { count, lease_us: period_us(lease)? })
    }

    /// How many at once.
    pub fn count(self) -> u64 {
        self.count.get()
    }

    /// How long a place is held where nobody gives it back, in microseconds.
    pub fn lease_us(self) -> u64 {
        self.lease_us.get()
    }
}

fn period_us(period: Duration) -> Option<NonZeroU64> {
    (period <= Quota::PERIOD_MAX).then(|| u64::try_from(period.as_micros()).ok().and_then(NonZeroU64::new))?
}
