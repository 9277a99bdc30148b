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

    pub(super) fn learn(&self, error: Option<&StoreError>) -> Change {
        let mut state = self.state.lock();
        let Some(error) = error else {
            state.failures = 0;
            state.answered = true;
            state.last_error = None;
            return if std::mem::take(&mut state.open) { Change::Closed } else { Change::None };
        };
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error.to_string());
        if state.open || state.failures < Breaker::FAILURES_MAX {
            return Change::None;
        }
        state.open = true;
        self.episodes.fetch_add(1, Ordering::Relaxed);
        Change::Opened
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
