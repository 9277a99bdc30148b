//! What is remembered of a Redis that does not answer.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{StoreError, StoreStatus};

/// Remembers failures. Closed, everybody asks; open, nobody does but the probe.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<BreakerState>,
    episodes: AtomicU64,
}

#[derive(Debug, Default)]
struct BreakerState {
    failures: u32,
    open: bool,
    answered: bool,
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    /// One lost answer is a hiccup, two may be; three in a row are an outage.
    const FAILURES_MAX: u32 = 3;

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// What came of a request. An outage does not end by one that was asked before it began and is answered late.
    pub(super) fn learn(&self, error: Option<&StoreError>) -> Change {
        match error {
            Some(error) => self.failed(error),
            None => {
                let mut state = self.state.lock();
                if !state.open {
                    state.succeeded();
                }
                Change::None
            }
        }
    }

    /// What came of a probe; the end of an outage if nothing is wrong.
    pub(super) fn proved(&self, error: Option<&StoreError>) -> Change {
        match error {
            Some(error) => self.failed(error),
            None => {
                let mut state = self.state.lock();
                state.succeeded();
                if std::mem::take(&mut state.open) { Change::Closed } else { Change::None }
            }
        }
    }

    fn failed(&self, error: &StoreError) -> Change {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error.to_string());
        if state.open || state.failures < Breaker::FAILURES_MAX {
            return Change::None;
        }
        state.open = true;
        self.episodes.fetch_add(1, Ordering::Relaxed);
        Change::Opened
    }

    /// Why an outage goes on.
    pub(super) fn note(&self, error: &StoreError) {
        let mut state = self.state.lock();
        if state.open {
            state.last_error = Some(error.to_string());
        }
    }

    pub(super) fn status(&self) -> StoreStatus {
        let state = self.state.lock();
        StoreStatus {
            reachable: state.answered && !state.open,
            episodes: self.episodes.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }
}

impl BreakerState {
    fn succeeded(&mut self) {
        self.failures = 0;
        self.answered = true;
        self.last_error = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_begin_an_outage_and_a_proof_ends_it() {
        let breaker = Breaker::default();
        let failed = || breaker.learn(Some(&StoreError::Garbage));
        assert_eq!([failed(), failed(), breaker.learn(None)], [Change::None; 3]);
        assert_eq!(
            [failed(), failed(), failed(), failed()],
            [Change::None, Change::None, Change::Opened, Change::None]
        );
        assert_eq!(breaker.learn(None), Change::None, "a late answer");
        assert!(breaker.is_open() && !breaker.status().reachable);
        assert_eq!(breaker.proved(Some(&StoreError::Garbage)), Change::None);
        assert_eq!(breaker.proved(None), Change::Closed);
        assert_eq!(breaker.status(), StoreStatus { reachable: true, episodes: 1, last_error: None });
    }
}
