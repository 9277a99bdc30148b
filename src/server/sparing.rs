//! A log line that strangers can cause is not theirs to fill the log with.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::clock::Now;

/// Lets something be said once in ten seconds, and knows how often it was not.
#[derive(Debug, Default)]
pub(super) struct Sparing {
    next_s: AtomicI64,
    unsaid: AtomicU64,
}

impl Sparing {
    /// How often it happened since it was said last, this time included, where it may be said; otherwise `None`.
    pub(super) fn say(&self, now: Now) -> Option<u64> {
        let (next, now) = (self.next_s.load(Ordering::Relaxed), now.unix_s());
        // A clock that was set back silences nobody for longer than this.
        let due = now >= next || now < next - PAUSE_S;
        let mine = || self.next_s.compare_exchange(next, now + PAUSE_S, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if due && mine() {
            return Some(self.unsaid.swap(0, Ordering::Relaxed) + 1);
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

const PAUSE_S: i64 = 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn what_happens_often_is_said_once_in_a_while_with_how_often() {
        let clock = Clock::by_hand(1_800_000_000);
        let sparing = Sparing::default();
        assert_eq!(
            [sparing.say(clock.now()), sparing.say(clock.now()), sparing.say(clock.now())],
            [Some(1), None, None]
        );
        clock.advance(Duration::from_secs(10));
        assert_eq!([sparing.say(clock.now()), sparing.say(clock.now())], [Some(3), None]);
    }
}
