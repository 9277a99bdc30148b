//! Not asking somebody who does not answer.

use std::time::{Duration, Instant};

use crate::clock::Now;

/// What is remembered of somebody who is asked: whether they answer. Closed, everybody asks; open, nobody does but one
/// probe at a time, and whoever gets an answer closes it again.
#[derive(Debug)]
pub(crate) struct Breaker {
    pace: Pace,
    failures: u32,
    open: bool,
    /// Open, nobody probes before this.
    probe_from: Option<Instant>,
    /// They asked to be left alone until then (`Retry-After`), whatever others hear meanwhile.
    left_alone_until: Option<Instant>,
    last_error: Option<String>,
}

/// How often somebody who does not answer is asked. Tests bring their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// What one attempt may take.
    pub(crate) patience: Duration,
    /// Between a failure and the next probe.
    pub(crate) pause: Duration,
}

impl Pace {
    pub(crate) const PRODUCTION: Pace = Pace { patience: Duration::from_secs(5), pause: Duration::from_secs(1) };
}

/// Whether to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// They answer, as far as is known.
    Free,
    /// To see whether they answer again; whoever asks does not wait.
    Probe,
    /// They do not.
    Shut,
}

/// What an attempt came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// They answered, whatever it was.
    Answered,
    /// They did not, or not with anything that could be an answer.
    Failed {
        error: String,
        /// How long they want to be left alone.
        retry_after: Option<Duration>,
    },
}

/// What an attempt changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    pub(crate) fn new(pace: Pace) -> Breaker {
        Breaker { pace, failures: 0, open: false, probe_from: None, left_alone_until: None, last_error: None }
    }

    /// Whether to ask now. A probe that is given out and never heard of again is followed by another one after its time.
    pub(crate) fn pass(&mut self, now: Now) -> Pass {
        if !self.open {
            return Pass::Free;
        }
        if self.probe_from.max(self.left_alone_until).is_some_and(|from| now.instant() < from) {
            return Pass::Shut;
        }
        self.probe_from = now.instant().checked_add(self.pace.patience + self.pace.pause);
        Pass::Probe
    }

    /// Notes what an attempt came to.
    pub(crate) fn learn(&mut self, attempt: Attempt, now: Now) -> Change {
        let was_open = self.open;
        match attempt {
            Attempt::Answered => {
                (self.failures, self.last_error) = (0, None);
                self.open &= self.left_alone_until.is_some_and(|until| now.instant() < until);
            }
            Attempt::Failed { error, retry_after } => {
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
                self.probe_from = now.instant().checked_add(self.pace.pause);
                if let Some(retry_after) = retry_after {
                    let until = now.instant().checked_add(retry_after.min(RETRY_AFTER_MAX));
                    self.left_alone_until = self.left_alone_until.max(until);
                }
                // Who asks to be left alone is, at once.
                self.open |= self.failures >= FAILURES_MAX || retry_after.is_some();
            }
        }
        match (was_open, self.open) {
            (false, true) => Change::Opened,
            (true, false) => Change::Closed,
            _ => Change::None,
        }
    }

    /// Whether they answer, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Why the last attempt failed; `None` after one that did not.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}

/// One lost answer is a hiccup, two may be; three in a row are an outage.
const FAILURES_MAX: u32 = 3;

/// Nothing is served stale while tokens cannot be asked about, so a provider that says "in an hour" is asked once a
/// minute all the same: one request.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const PACE: Pace = Pace { patience: Duration::from_secs(5), pause: Duration::from_secs(1) };

    fn failed(retry_after_s: Option<u64>) -> Attempt {
        Attempt::Failed { error: "no".to_owned(), retry_after: retry_after_s.map(Duration::from_secs) }
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_one_answered_probe_closes_it() {
        let (mut breaker, clock) = (Breaker::new(PACE), Clock::by_hand(0));
        breaker.learn(failed(None), clock.now());
        breaker.learn(failed(None), clock.now());
        breaker.learn(Attempt::Answered, clock.now());
        for expected in [Change::None, Change::None, Change::Opened, Change::None] {
            assert_eq!(breaker.pass(clock.now()) == Pass::Free, !breaker.is_open());
            assert_eq!(breaker.learn(failed(None), clock.now()), expected);
        }
        assert_eq!((breaker.pass(clock.now()), breaker.last_error()), (Pass::Shut, Some("no")));
        clock.advance(Duration::from_secs(1));
        assert_eq!([breaker.pass(clock.now()), breaker.pass(clock.now())], [Pass::Probe, Pass::Shut]);
        // One that failed is followed by another after the pause, one that vanished after all it could have taken.
        breaker.learn(failed(None), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!([breaker.pass(clock.now()), breaker.pass(clock.now())], [Pass::Probe, Pass::Shut]);
        clock.advance(Duration::from_secs(6));
        assert_eq!(breaker.pass(clock.now()), Pass::Probe);
        assert_eq!(breaker.learn(Attempt::Answered, clock.now()), Change::Closed);
        assert_eq!((breaker.pass(clock.now()), breaker.last_error()), (Pass::Free, None));
    }

    #[test]
    fn who_asks_to_be_left_alone_is_for_a_minute_at_most() {
        for (asked_s, honoured_s) in [(0, 1), (30, 30), (86_400, 60)] {
            let (mut breaker, clock) = (Breaker::new(PACE), Clock::by_hand(0));
            assert_eq!(breaker.learn(failed(Some(asked_s)), clock.now()), Change::Opened);
            // Others, who had asked before, fail or are answered; neither shortens it.
            breaker.learn(failed(None), clock.now());
            if asked_s > 0 {
                assert_eq!(breaker.learn(Attempt::Answered, clock.now()), Change::None);
            }
            clock.advance(Duration::from_secs(honoured_s) - Duration::from_millis(1));
            assert_eq!(breaker.pass(clock.now()), Pass::Shut, "{asked_s}");
            clock.advance(Duration::from_millis(1));
            assert_eq!(breaker.pass(clock.now()), Pass::Probe, "{asked_s}");
        }
    }
}
