//! The Generic Cell Rate Algorithm (ITU-T I.371, annex A), exact.
//!
//! A counter is one number, the theoretical arrival time (TAT): when the bucket will be full again. The emission
//! interval, `period / count`, is a fraction of microseconds, so the TAT is kept as whole microseconds and a remainder
//! in units of `1/count` microsecond. Nothing is rounded: from idle exactly `burst` pass at once, and over any window of
//! a period at most `count + burst`. charge.lua does the same with the same numbers.

use std::time::Duration;

use super::quota::Rate;

/// A theoretical arrival time: `us + rem / count` microseconds, on the store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tat {
    /// Whole microseconds.
    pub(super) us: u64,
    /// Below the quota's count.
    pub(super) rem: u64,
}

/// A charge in numbers: what one request adds to the TAT, and how far ahead of now the TAT may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// `cost` emission intervals.
    pub(super) step: Tat,
    /// `burst` emission intervals.
    pub(super) room: Tat,
    /// Denominator of the remainders.
    pub(super) count: u64,
    /// How far ahead of now a stored TAT is believed: `room`, or twice of it where debts are kept.
    cap: Tat,
    period_us: u64,
}

impl Cell {
    /// A charge of `cost` against `rate`.
    pub(super) fn new(rate: Rate, cost: u32) -> Cell {
        let (count, period_us) = (rate.count(), rate.period_us());
        let room = intervals(rate.burst(), count, period_us);
        Cell { step: intervals(u64::from(cost), count, period_us), room, count, cap: room, period_us }
    }

    /// The same for a limit that is charged after the response, whatever is left then: up to a whole burst of debt.
    pub(super) fn with_debts(self) -> Cell {
        Cell { cap: self.plus(self.room, self.room), ..self }
    }

    /// Whether debts are kept.
    pub(super) fn keeps_debts(self) -> bool {
        self.cap != self.room
    }

    /// Brings a stored TAT to where the next charge begins.
    ///
    /// In the past it means "full since then", which is now. A remainder of another count (the quota has changed) is
    /// rounded up. Further ahead than the room and its debts, which only a clock set back or a smaller quota brings about,
    /// it is taken as just spent, so that nobody waits longer than the quota says.
    pub(super) fn begin(self, stored: Option<Tat>, now_us: u64) -> Tat {
        let idle = Tat { us: now_us, rem: 0 };
        let stored = stored.unwrap_or(idle);
        let stored = if stored.rem >= self.count { Tat { us: stored.us + 1, rem: 0 } } else { stored };
        stored.max(idle).min(self.plus(idle, self.cap))
    }

    /// The TAT after the charge, or by how much it would be too far ahead.
    pub(super) fn charge(self, begin: Tat, now_us: u64) -> Result<Tat, Duration> {
        let after = self.plus(begin, self.step);
        let full = self.full(now_us);
        if after <= full { Ok(after) } else { Err(self.ahead(after, full)) }
    }

    /// The TAT after a charge that nobody was asked about, as far as it is believed.
    pub(super) fn forced(self, begin: Tat, now_us: u64) -> Tat {
        self.plus(begin, self.step).min(self.plus(Tat { us: now_us, rem: 0 }, self.cap))
    }

    /// The TAT after a charge was given back; at or before now where it is full again. What was full again meanwhile is no
    /// more than full.
    pub(super) fn returned(self, begin: Tat) -> Tat {
        let (us, rem) = match begin.rem.checked_sub(self.step.rem) {
            Some(rem) => (begin.us.saturating_sub(self.step.us), rem),
            None => (begin.us.saturating_sub(self.step.us + 1), begin.rem + self.count - self.step.rem),
        };
        Tat { us, rem }
    }

    /// How many charges of one could still pass now.
    pub(super) fn remaining(self, tat: Tat, now_us: u64) -> u64 {
        let full = self.full(now_us);
        if tat >= full {
            return 0;
        }
        // Both in units of 1/count microsecond, in which an emission interval is `period_us`.
        let whole = |tat: Tat| u128::from(tat.us) * u128::from(self.count) + u128::from(tat.rem);
        u64::try_from((whole(full) - whole(tat)) / u128::from(self.period_us)).unwrap_or(u64::MAX)
    }

    /// How long until the bucket is full again, rounded up to a microsecond.
    pub(super) fn reset(self, tat: Tat, now_us: u64) -> Duration {
        self.ahead(tat, Tat { us: now_us, rem: 0 })
    }

    fn full(self, now_us: u64) -> Tat {
        self.plus(Tat { us: now_us, rem: 0 }, self.room)
    }

    fn plus(self, first: Tat, second: Tat) -> Tat {
        let rem = first.rem + second.rem;
        let us = first.us.saturating_add(second.us);
        if rem >= self.count { Tat { us: us.saturating_add(1), rem: rem - self.count } } else { Tat { us, rem } }
    }

    fn ahead(self, later: Tat, earlier: Tat) -> Duration {
        if later <= earlier {
            return Duration::ZERO;
        }
        Duration::from_micros((later.us - earlier.us).saturating_add(u64::from(later.rem > earlier.rem)))
    }
}

fn intervals(number: u64, count: u64, period_us: u64) -> Tat {
    let whole = u128::from(number) * u128::from(period_us);
    let part = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
    Tat { us: part(whole / u128::from(count)), rem: part(whole % u128::from(count)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_from_idle_and_then_one_each_interval() {
        let cell = Cell::new(Rate::new(7, Duration::from_secs(10), 3).unwrap(), 1);
        let start = 1_700_000_000_000_000;
        let mut tat = None;
        for remaining in [2, 1, 0] {
            let after = cell.charge(cell.begin(tat, start), start).unwrap();
            assert_eq!(cell.remaining(after, start), remaining);
            tat = Some(after);
        }
        // 10 s / 7 = 1,428,571 + 3/7 microseconds; never early.
        assert_eq!(cell.charge(cell.begin(tat, start), start), Err(Duration::from_micros(1_428_572)));
        let next = start + 1_428_572;
        assert!(cell.charge(cell.begin(tat, next - 1), next - 1).is_err());
        assert!(cell.charge(cell.begin(tat, next), next).is_ok());
        assert_eq!(cell.reset(tat.unwrap(), start), Duration::from_micros(4_285_715));
    }

    #[test]
    fn what_was_stored_by_another_quota_or_another_time_is_brought_into_bounds() {
        let cell = Cell::new(Rate::new(10, Duration::from_secs(1), 10).unwrap(), 1);
        let now = 5_000_000;
        for (stored, expected) in [
            (None, Tat { us: now, rem: 0 }),
            (Some(Tat { us: 1, rem: 3 }), Tat { us: now, rem: 0 }),
            (Some(Tat { us: now + 100, rem: 99 }), Tat { us: now + 101, rem: 0 }),
            (Some(Tat { us: now * 100, rem: 0 }), Tat { us: now + 1_000_000, rem: 0 }),
        ] {
            assert_eq!(cell.begin(stored, now), expected, "{stored:?}");
        }
    }

    fn quotas() -> impl Strategy<Value = Rate> {
        prop_oneof![
            Just(Rate::new(7, Duration::from_secs(10), 7).unwrap()),
            Just(Rate::new(3, Duration::from_millis(1), 5).unwrap()),
            Just(Rate::new(700_000, Duration::from_secs(1), 100).unwrap()),
            Just(Rate::new(50_000, Duration::from_secs(30 * 86_400), 10).unwrap()),
            (1u64..50, 1u64..5_000_000, 1u64..20).prop_map(|(count, period, burst)| Rate::new(
                count,
                Duration::from_micros(period),
                burst
            )
            .unwrap()),
        ]
    }

    proptest! {
        /// Whatever the arrivals, no window of one period that begins at an admission holds more than count + burst;
        /// and what is offered at every turn is admitted up to the rate.
        #[test]
        fn no_window_holds_more_than_count_and_burst(
            quota in quotas(),
            gaps in proptest::collection::vec(0u64..1000, 1..400),
            costs in proptest::collection::vec(1u32..4, 1..400),
        ) {
            // Gaps in thousandths of an emission interval, so that every quota is driven around its limit.
            let interval_us = quota.period_us() / quota.count() + 1;
            let mut now = 1_700_000_000_000_000u64;
            let mut tat = None;
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (gap, cost) in gaps.iter().zip(costs.iter().cycle()) {
                now += gap * interval_us / 500;
                let cell = Cell::new(quota, *cost);
                if let Ok(after) = cell.charge(cell.begin(tat, now), now) {
                    tat = Some(after);
                    admitted.push((now, u64::from(*cost)));
                }
            }
            for (at, (start, _)) in admitted.iter().enumerate() {
                let window = admitted[at..].iter().take_while(|(time, _)| *time <= start + quota.period_us());
                let sum: u64 = window.map(|(_, cost)| cost).sum();
                prop_assert!(sum <= quota.count() + quota.burst(), "{sum} in a window of {quota:?}");
            }
        }

        #[test]
        fn all_of_the_rate_is_admitted(quota in quotas(), seed in 0u64..1000) {
            // Offered once each interval and a microsecond: everything must pass, for ever.
            let interval_us = quota.period_us() / quota.count() + 1;
            let cell = Cell::new(quota, 1);
            let mut now = 1_700_000_000_000_000u64 + seed;
            let mut tat = None;
            for _ in 0..200 {
                let after = cell.charge(cell.begin(tat, now), now);
                prop_assert!(after.is_ok());
                tat = after.ok();
                now += interval_us;
            }
        }
    }
}
