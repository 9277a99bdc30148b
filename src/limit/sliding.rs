//! A sliding window by two buckets: what was counted in the bucket before is taken to have come evenly, so the part of it
//! that the window still holds is its count times the part of it that the window still covers.
//!
//! That is an estimate, and this is how far it is off, with `f` for how far the clock is through its bucket:
//!
//! - *Over*: what is admitted never makes the estimate exceed the count, so within a bucket at most `count` pass, and in
//!   any window at most `count × (1 + f)`, rounded up: all of the bucket before may have come at its very end. Twice the
//!   count at worst, then; and where arrivals are spread, the count.
//! - *Under*: all of the bucket before may have come at its very beginning, and is then still counted in part when it has
//!   left the window: the estimate is too high by at most `count × (1 - f)`, and nobody waits for longer than the rest of
//!   the bucket and one more.
//!
//! Multiplying and dividing is done in floating point here and in charge.lua, in the same order, so that both round alike:
//! the result is off by less than a millionth. It is rounded down: rounded up, a limit of one would have half of its rate, and
//! each other one a request less than it says.

use std::time::Duration;

use super::quota::Sliding;

/// Where a counter stands: what the current bucket and the one before hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Buckets {
    /// Which bucket is the current one, counted in periods since 1970.
    pub(super) index: u64,
    /// Counted in it.
    pub(super) current: u64,
    /// Counted in the one before.
    pub(super) previous: u64,
}

/// A charge in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slide {
    pub(super) cost: u64,
    pub(super) count: u64,
    pub(super) period_us: u64,
}

impl Slide {
    pub(super) fn new(sliding: Sliding, cost: u32) -> Slide {
        Slide { cost: u64::from(cost), count: sliding.count(), period_us: sliding.period_us() }
    }

    /// Brings what is stored to the bucket that `now_us` is in. A bucket of the future, which only a clock set back leaves
    /// behind, is taken for the current one, so that nobody waits for longer than two buckets.
    pub(super) fn begin(self, stored: Option<Buckets>, now_us: u64) -> Buckets {
        let index = now_us / self.period_us;
        let Some(stored) = stored else { return Buckets { index, ..Buckets::default() } };
        if stored.index >= index {
            return Buckets { index, ..stored };
        }
        let previous = if stored.index + 1 == index { stored.current } else { 0 };
        Buckets { index, current: 0, previous }
    }

    /// Where it stands after the charge, or how long until it could be made.
    pub(super) fn charge(self, begin: Buckets, now_us: u64) -> Result<Buckets, Duration> {
        if self.estimate(begin, now_us).saturating_add(self.cost) <= self.count {
            return Ok(Buckets { current: begin.current + self.cost, ..begin });
        }
        Err(self.wait(begin, now_us))
    }

    /// How many charges of one could still pass now.
    pub(super) fn remaining(self, stands: Buckets, now_us: u64) -> u64 {
        self.count.saturating_sub(self.estimate(stands, now_us))
    }

    /// How long until nothing of it is left in the window.
    pub(super) fn reset(self, stands: Buckets, now_us: u64) -> Duration {
        let left = self.left_us(now_us);
        Duration::from_micros(match stands {
            Buckets { current: 1.., .. } => left.saturating_add(self.period_us),
            Buckets { previous: 1.., .. } => left,
            _ => 0,
        })
    }

    fn estimate(self, stands: Buckets, now_us: u64) -> u64 {
        // Whole numbers below 2^53, each; the product is rounded, in Lua as here.
        let weighted = (stands.previous as f64 * self.left_us(now_us) as f64 / self.period_us as f64).floor();
        stands.current.saturating_add(weighted as u64)
    }

    fn left_us(self, now_us: u64) -> u64 {
        self.period_us - now_us % self.period_us
    }

    /// Rounded up, and exact but for the rounding of the estimate: asked again then, it passes, or waits a microsecond more.
    fn wait(self, begin: Buckets, now_us: u64) -> Duration {
        let left = self.left_us(now_us);
        // How much of a bucket's length may still be covered so that of its `count` less than `room` and one more are left.
        let covered = |room: u64, count: u64| {
            let covered = ((u128::from(room) + 1) * u128::from(self.period_us) - 1) / u128::from(count.max(1));
            u64::try_from(covered).unwrap_or(u64::MAX).min(self.period_us)
        };
        let wait = match self.count.checked_sub(begin.current.saturating_add(self.cost)) {
            Some(room) => left.saturating_sub(covered(room, begin.previous)),
            // Not in this bucket; in the next one this is the one before.
            None => {
                let room = self.count.saturating_sub(self.cost);
                left.saturating_add(self.period_us - covered(room, begin.current))
            }
        };
        Duration::from_micros(wait.max(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_700_000_000_000_000;

    fn slide(count: u64, period_us: u64, cost: u32) -> Slide {
        Slide::new(Sliding::new(count, Duration::from_micros(period_us)).unwrap(), cost)
    }

    #[test]
    fn the_bucket_before_counts_for_the_part_that_the_window_still_holds() {
        let ten = slide(10, 1_000_000, 1);
        let begin = START - START % 1_000_000;
        let full = Buckets { index: begin / 1_000_000 - 1, current: 10, previous: 0 };
        for (into_us, passes) in [(0, 0), (1, 1), (100_000, 1), (100_001, 2), (550_000, 6), (999_999, 10)] {
            let now = begin + into_us;
            assert_eq!(ten.remaining(ten.begin(Some(full), now), now), passes, "{into_us}");
        }
        let stands = ten.begin(Some(full), begin);
        assert_eq!(ten.charge(stands, begin), Err(Duration::from_micros(1)));
        let costly = slide(10, 1_000_000, 4);
        assert_eq!(costly.charge(stands, begin), Err(Duration::from_micros(300_001)));
        assert_eq!(ten.reset(stands, begin), Duration::from_secs(1));
        assert_eq!(ten.begin(Some(full), begin + 1_000_000).previous, 0, "gone with the window");
    }

    #[test]
    fn a_clock_set_back_costs_nobody_more_than_two_buckets() {
        let one = slide(1, 1_000_000, 1);
        let ahead = Buckets { index: START / 1_000_000 + 3600, current: 1, previous: 1 };
        let stands = one.begin(Some(ahead), START);
        let wait = one.charge(stands, START).unwrap_err();
        assert!(wait <= Duration::from_secs(2), "{wait:?}");
    }

    fn slides() -> impl Strategy<Value = (u64, u64)> {
        prop_oneof![
            Just((7, 600_000_000)),
            Just((1, 1)),
            Just((1_000_000_000, 34_560_000_000_000)),
            (1u64..40, 1u64..5_000_000)
        ]
    }

    proptest! {
        /// Whatever the arrivals: within a bucket the count, in any window at most twice of it, and in a window that ends
        /// at a part `f` of a bucket count × (1 + f).
        #[test]
        fn no_window_holds_more_than_the_bound(
            (count, period_us) in slides(),
            gaps in proptest::collection::vec(0u64..1000, 1..400),
            costs in proptest::collection::vec(1u32..4, 1..400),
        ) {
            let mut now = START;
            let mut stored = None;
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (gap, cost) in gaps.iter().zip(costs.iter().cycle()) {
                now += gap * (period_us / count + 1) / 300;
                let slide = slide(count, period_us, *cost);
                let begin = slide.begin(stored, now);
                match slide.charge(begin, now) {
                    Ok(after) => {
                        stored = Some(after);
                        admitted.push((now, u64::from(*cost)));
                    }
                    // What it says to wait is enough, but for a rounding.
                    Err(wait) if u64::from(*cost) <= count => {
                        let later = now + u64::try_from(wait.as_micros()).unwrap() + 1;
                        prop_assert!(slide.charge(slide.begin(stored, later), later).is_ok());
                    }
                    Err(_) => {}
                }
            }
            for (at, (start, _)) in admitted.iter().enumerate() {
                let sum = |until: u64| -> u64 {
                    admitted[at..].iter().take_while(|(time, _)| *time <= until).map(|(_, cost)| cost).sum()
                };
                let end = start + period_us - 1;
                prop_assert!(sum(end) <= 2 * count, "{} of {count}", sum(end));
                prop_assert!(sum(start - start % period_us + period_us - 1) <= count);
                let into = end % period_us;
                let bound = u128::from(count) * u128::from(period_us + into) / u128::from(period_us);
                prop_assert!(u128::from(sum(end)) <= bound + 1);
            }
        }
    }

    /// The bound is no guess: it is reached.
    #[test]
    fn twice_the_count_can_pass_at_worst() {
        let hundred = slide(100, 1_000_000, 1);
        let begin = START - START % 1_000_000;
        let mut stored = None;
        let mut passed = 0;
        // All at the end of one bucket, and as many as pass at the end of the next.
        for now in (0..200).map(|n| begin + 999_800 + n).chain((0..200).map(|n| begin + 1_999_600 + n)) {
            if let Ok(after) = hundred.charge(hundred.begin(stored, now), now) {
                stored = Some(after);
                passed += 1;
            }
        }
        assert_eq!(passed, 200);
    }
}
