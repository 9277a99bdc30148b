//! How often a server that does not answer is connected to.

use std::time::{Duration, Instant};

use crate::clock::Clock;

/// Keeps the attempts of one agent apart, and those of many agents from each other.
///
/// The first attempt after a connection that was good is made at once: a server that closed an idle connection is there,
/// and requests wait. All others keep at least [`Pace::GAP`] from the one before, and up to [`Pace::JITTER`] more, drawn
/// anew each time, so that a fleet whose Redis comes back does not come back as one. It does not grow beyond that: two
/// attempts a second cost a server nothing, and whoever waits longer finds the new primary later than a second after it
/// is there.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
}

impl Pace {
    const GAP: Duration = Duration::from_millis(500);
    const JITTER: Duration = Duration::from_millis(350);

    /// Waits until the next attempt may be made, and counts it as made.
    pub(super) async fn next(&mut self) {
        if let Some(last) = self.last {
            let due = last + Pace::GAP + random(Pace::JITTER);
            tokio::time::sleep_until(due.into()).await;
        }
        self.last = Some(Clock::system().now().instant());
    }

    /// The connection lived: the next attempt is a first one. One that ended at once does not count, or a server that
    /// accepts and closes would be asked without a pause.
    pub(super) fn lived(&mut self) {
        let now = Clock::system().now().instant();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= Pace::GAP) {
            self.last = None;
        }
    }
}

/// A duration below `bound`, from the operating system's randomness.
fn random(bound: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter; agents that began at different times still come at different times.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let share = f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0);
    bound.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_comes_at_once_and_the_others_apart() {
        let clock = Clock::system();
        let mut pace = Pace::default();
        let begun = clock.now().instant();
        pace.next().await;
        assert!(begun.elapsed() < Pace::GAP, "nothing to wait for");
        pace.lived();
        let begun = clock.now().instant();
        pace.next().await;
        assert!(begun.elapsed() >= Pace::GAP - Duration::from_millis(50), "it had not lived");
    }

    #[test]
    fn jitter_is_drawn_from_all_of_its_range() {
        let drawn: Vec<_> = (0..1000).map(|_| random(Pace::JITTER)).collect();
        assert!(drawn.iter().all(|jitter| *jitter < Pace::JITTER));
        assert!(drawn.iter().any(|jitter| *jitter < Pace::JITTER / 10));
        assert!(drawn.iter().any(|jitter| *jitter > Pace::JITTER * 9 / 10));
    }
}
