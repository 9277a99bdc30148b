//! How far an issuer's clock is from ours, as its tokens show it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Now;

/// The largest `iat` less now of a while: one number, which needs no lock.
#[derive(Default)]
pub(crate) struct Skew {
    /// The window of time in the upper half, the skew in the lower one, moved so that it is never negative: of two
    /// numbers the larger is the later window's, or the larger skew's. 0 is none yet.
    largest: AtomicU64,
}

impl Skew {
    /// Notes an `iat` in Unix seconds.
    pub(crate) fn note(&self, iat_s: f64, now: Now) {
        // `as` saturates, and so does what follows: a date from the end of time is a large skew.
        let ahead = (iat_s as i64).saturating_sub(now.unix_s()).clamp(-BOUND_S, BOUND_S);
        let moved = u64::try_from(ahead + BOUND_S + 1).unwrap_or(0);
        self.largest.fetch_max(window(now) << 32 | moved, Ordering::Relaxed);
    }

    /// The largest of this window, or of the last one as long as this has none.
    pub(crate) fn largest(&self, now: Now) -> Option<i64> {
        let held = self.largest.load(Ordering::Relaxed);
        let recent = held != 0 && window(now) <= (held >> 32).saturating_add(1);
        let moved = i64::try_from(held & u64::from(u32::MAX)).unwrap_or(0);
        recent.then_some(moved - BOUND_S - 1)
    }
}

/// Ten minutes each; in the upper half there is room for 80,000 years.
fn window(now: Now) -> u64 {
    u64::try_from(now.unix_s()).unwrap_or(0) / 600
}

/// A day either way; beyond that it does not matter by how much.
const BOUND_S: i64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::time::Duration;

    #[test]
    fn the_largest_of_the_last_minutes_counts() {
        let (skew, clock) = (Skew::default(), Clock::by_hand(1_800_000_000));
        assert_eq!(skew.largest(clock.now()), None);
        let now_s = 1_800_000_000.0;
        for (iat_s, largest) in [
            (now_s - 1e300, -BOUND_S),
            (now_s - 300.5, -301),
            (now_s - 400.0, -301),
            (now_s, 0),
            (now_s + 59.9, 59),
            (now_s + 1e300, BOUND_S),
        ] {
            skew.note(iat_s, clock.now());
            assert_eq!(skew.largest(clock.now()), Some(largest), "{iat_s}");
        }
        // A new window begins with what comes in it.
        clock.advance(Duration::from_secs(600));
        assert_eq!(skew.largest(clock.now()), Some(BOUND_S));
        skew.note(now_s + 540.0, clock.now());
        assert_eq!(skew.largest(clock.now()), Some(-60));
        clock.advance(Duration::from_secs(1200));
        assert_eq!(skew.largest(clock.now()), None);
    }
}
