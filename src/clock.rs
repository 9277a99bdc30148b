//! The time. This is the only file that asks the operating system for it.
//!
//! A request is decided on one [`Now`]: every stage takes it as an argument, so that an expiry, a limit and a log line
//! of the same request can never disagree, and so that tests need no framework to move time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// One reading of both clocks: monotonic for deadlines and local limits, wall for `exp` and `nbf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    instant: Instant,
    unix_us: u64,
}

impl Now {
    /// The monotonic reading. Never goes back, means nothing outside this process.
    pub fn instant(self) -> Instant {
        self.instant
    }

    /// Wall-clock microseconds since the Unix epoch.
    pub fn unix_us(self) -> u64 {
        self.unix_us
    }

    /// Wall-clock whole seconds since the Unix epoch, the unit of `exp`, `nbf` and `iat` (RFC 7519, section 2).
    pub fn unix_s(self) -> i64 {
        i64::try_from(self.unix_us / 1_000_000).unwrap_or(i64::MAX)
    }

    /// The same reading, `by` later on both clocks. For tests and for deadlines.
    pub fn later(self, by: Duration) -> Now {
        Now {
            instant: self.instant + by,
            unix_us: self.unix_us.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

/// Where [`Now`] comes from: the system, or a test's hand.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Hand>>);

#[derive(Debug)]
struct Hand {
    origin: Now,
    advanced_us: AtomicU64,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that stands at `unix_s` until [`Clock::advance`] moves it.
    pub fn by_hand(unix_s: u64) -> Clock {
        let origin = Now { instant: Instant::now(), unix_us: unix_s * 1_000_000 };
        Clock(Some(Arc::new(Hand { origin, advanced_us: AtomicU64::new(0) })))
    }

    /// Reads the time.
    pub fn now(&self) -> Now {
        match &self.0 {
            None => Now {
                instant: Instant::now(),
                // A wall clock before 1970 is a broken machine; 0 makes every token "not yet valid", which is safe.
                unix_us: SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
            },
            Some(hand) => hand.origin.later(Duration::from_micros(hand.advanced_us.load(Ordering::SeqCst))),
        }
    }

    /// Moves a clock made by [`Clock::by_hand`] forward; the system's clock cannot be moved and stays.
    pub fn advance(&self, by: Duration) {
        if let Some(hand) = &self.0 {
            hand.advanced_us.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_clock_moves_both_readings_together() {
        let clock = Clock::by_hand(1_700_000_000);
        let before = clock.now();
        clock.advance(Duration::from_millis(1500));
        let after = clock.now();
        assert_eq!(after.unix_us() - before.unix_us(), 1_500_000);
        assert_eq!(after.instant() - before.instant(), Duration::from_millis(1500));
        assert_eq!(after.unix_s(), 1_700_000_001);
    }
}
