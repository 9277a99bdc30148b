//! How often a server that does not answer is connected to.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::StoreError;
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

    /// The connection lived: the next attempt is a first one, and the answer is yes. One that ended at once does not
    /// count, or a server that accepts and closes would be asked without a pause.
    pub(super) fn lived(&mut self) -> bool {
        let now = Clock::system().now().instant();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= Pace::GAP) {
            self.last = None;
        }
        self.last.is_none()
    }
}

/// The same for all connections of this process to one address: counters, revocations and grants have one each. While
/// attempts fail, and before any was made, they take turns, so that together they are no more than one of them would be;
/// as soon as one succeeds nobody waits any more.
#[derive(Debug)]
pub(super) struct Gate {
    turns: Mutex<Turns>,
    changed: Notify,
}

#[derive(Debug)]
enum Turns {
    /// The last attempt succeeded.
    Free,
    /// The next attempt is due then; why the last one failed, if there was one.
    Due(Instant, Option<StoreError>),
}

impl Gate {
    /// The one of an address.
    pub(super) fn of(address: &str) -> Arc<Gate> {
        static GATES: LazyLock<Mutex<HashMap<String, Weak<Gate>>>> = LazyLock::new(Mutex::default);
        let mut gates = GATES.lock();
        if let Some(gate) = gates.get(address).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let turns = Turns::Due(Clock::system().now().instant(), None);
        let gate = Arc::new(Gate { turns: Mutex::new(turns), changed: Notify::new() });
        gates.insert(address.to_owned(), Arc::downgrade(&gate));
        gate
    }

    /// Waits until it is this one's turn. Meanwhile `hear` is told what came of the others' turns.
    pub(super) async fn pass(&self, hear: impl Fn(&StoreError)) {
        loop {
            let changed = self.changed.notified();
            let due = match &mut *self.turns.lock() {
                Turns::Free => return,
                Turns::Due(due, error) => {
                    let now = Clock::system().now().instant();
                    if *due <= now {
                        *due = now + Pace::GAP + random(Pace::JITTER);
                        return;
                    }
                    error.iter().for_each(&hear);
                    *due
                }
            };
            let _ = tokio::time::timeout_at(due.into(), changed).await;
        }
    }

    /// The same without waiting; no where it is not its turn.
    pub(super) fn try_pass(&self) -> bool {
        match &mut *self.turns.lock() {
            Turns::Free => true,
            Turns::Due(due, _) => {
                let now = Clock::system().now().instant();
                let is_due = *due <= now;
                if is_due {
                    *due = now + Pace::GAP + random(Pace::JITTER);
                }
                is_due
            }
        }
    }

    pub(super) fn succeeded(&self) {
        *self.turns.lock() = Turns::Free;
        self.changed.notify_waiters();
    }

    pub(super) fn failed(&self, error: &StoreError) {
        let mut turns = self.turns.lock();
        let due = match *turns {
            Turns::Free => Clock::system().now().instant() + Pace::GAP + random(Pace::JITTER),
            Turns::Due(due, _) => due,
        };
        *turns = Turns::Due(due, Some(error.clone()));
        self.changed.notify_waiters();
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
        assert!(!pace.lived());
        let begun = clock.now().instant();
        pace.next().await;
        assert!(begun.elapsed() >= Pace::GAP - Duration::from_millis(50), "it had not lived");
    }

    #[tokio::test]
    async fn those_who_fail_take_turns_and_one_success_lets_all_pass() {
        let clock = Clock::system();
        let gates = [Gate::of("there"), Gate::of("there")];
        let heard = Mutex::new(0);
        let hear = |error: &StoreError| {
            assert_eq!(*error, StoreError::Garbage);
            *heard.lock() += 1;
        };
        let begun = clock.now().instant();
        let first = async {
            gates[0].pass(hear).await;
            gates[0].failed(&StoreError::Garbage);
        };
        tokio::join!(first, gates[1].pass(hear));
        assert!(begun.elapsed() >= Pace::GAP - Duration::from_millis(50), "one after the other");
        assert!(*heard.lock() > 0, "the second hears what came of the first");
        assert!(!gates[1].try_pass(), "the other has just had its turn");
        let begun = clock.now().instant();
        let heal = async { gates[0].succeeded() };
        tokio::join!(gates[1].pass(hear), heal);
        assert!(begun.elapsed() < Pace::GAP, "nobody waits for what is over");
        assert!(gates[1].try_pass());
        Gate::of("elsewhere").pass(hear).await;
    }

    #[test]
    fn jitter_is_drawn_from_all_of_its_range() {
        let drawn: Vec<_> = (0..1000).map(|_| random(Pace::JITTER)).collect();
        assert!(drawn.iter().all(|jitter| *jitter < Pace::JITTER));
        assert!(drawn.iter().any(|jitter| *jitter < Pace::JITTER / 10));
        assert!(drawn.iter().any(|jitter| *jitter > Pace::JITTER * 9 / 10));
    }
}
