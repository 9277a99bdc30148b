//! When requests are due, fixed beforehand: no answer and no stall moves them.

use std::time::Duration;

use clap::ValueEnum;

/// How far apart requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// Equal gaps
    Even,
    /// Gaps as of many independent clients: exponentially distributed
    Poisson,
}

/// The due times of one connection, in order, since the run began.
#[derive(Debug)]
pub struct Schedule {
    /// Seconds.
    next: f64,
    gap: f64,
    random: Option<fastrand::Rng>,
}

impl Schedule {
    /// The share of connection `index` of `connections` in `rate` requests a second. Even shares interleave, so that
    /// all of them together are even too; Poisson shares are independent, which makes their sum Poisson.
    pub fn new(rate: f64, arrivals: Arrivals, index: usize, connections: usize, seed: u64) -> Schedule {
        let gap = connections as f64 / rate;
        match arrivals {
            Arrivals::Even => Schedule { next: index as f64 / rate, gap, random: None },
            Arrivals::Poisson => {
                let mut schedule =
                    Schedule { next: 0.0, gap, random: Some(fastrand::Rng::with_seed(seed ^ index as u64)) };
                schedule.advance();
                schedule
            }
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Duration {
        Duration::from_secs_f64(self.next)
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.next += match &mut self.random {
            None => self.gap,
            // 1 - x is above 0, so the logarithm is finite.
            Some(random) => -(1.0 - random.f64()).ln() * self.gap,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_within(schedule: &mut Schedule, time: Duration) -> Vec<Duration> {
        let next = || {
            let due = schedule.next();
            schedule.advance();
            Some(due)
        };
        std::iter::from_fn(next).take_while(|due| *due < time).collect()
    }

    #[test]
    fn even_connections_interleave() {
        let mut all = Vec::new();
        for index in 0..4 {
            all.extend(due_within(&mut Schedule::new(1000.0, Arrivals::Even, index, 4, 0), Duration::from_secs(1)));
        }
        all.sort();
        assert_eq!(all.len(), 1000);
        for (number, due) in all.iter().enumerate() {
            let expected = Duration::from_micros(1000 * number as u64);
            assert!(due.abs_diff(expected) < Duration::from_nanos(100), "{number}: {due:?}");
        }
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_their_rate() {
        let mut schedule = Schedule::new(1000.0, Arrivals::Poisson, 0, 1, 7);
        let due = due_within(&mut schedule, Duration::from_secs(100));
        // The standard deviation of 100,000 expected arrivals is 316.
        assert!(due.len().abs_diff(100_000) < 2000, "{}", due.len());
        // A share 1/e of the gaps is longer than the mean.
        let longer = due.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(1)).count();
        let share = longer as f64 / due.len() as f64;
        assert!((share - (-1.0f64).exp()).abs() < 0.02, "{share}");
    }
}
