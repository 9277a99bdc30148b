//! Values handed out under an unguessable id: bounded in number and age, each taken once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At most `held_max` values, each kept for `age_max`. All live equally long, so the oldest is first in line both to
/// expire and to be dropped.
pub(super) struct Expiring<T> {
    held_max: usize,
    age_max: Duration,
    entries: VecDeque<Entry<T>>,
}

struct Entry<T> {
    id: String,
    until: Instant,
    value: T,
}

impl<T> Expiring<T> {
    pub(super) fn new(held_max: usize, age_max: Duration) -> Expiring<T> {
        Expiring { held_max, age_max, entries: VecDeque::new() }
    }

    /// Keeps `value` under `id`; where there is no room, the oldest is forgotten.
    pub(super) fn put(&mut self, id: String, value: T, now: Instant) {
        self.drop_expired(now);
        while self.entries.len() >= self.held_max {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { id, until: now + self.age_max, value });
    }

    /// The value of `id`, which is then gone. A scan: a thousand short comparisons, for one person signing in.
    pub(super) fn take(&mut self, id: &str, now: Instant) -> Option<T> {
        self.drop_expired(now);
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        self.entries.remove(at).map(|entry| entry.value)
    }

    fn drop_expired(&mut self, now: Instant) {
        while self.entries.front().is_some_and(|entry| entry.until <= now) {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_value_is_taken_once_before_its_age_and_the_oldest_makes_room() {
        let clock = Clock::by_hand(1_700_000_000);
        let now = || clock.now().instant();
        let mut held = Expiring::new(2, Duration::from_secs(10));
        for (id, value) in [("a", 1), ("b", 2), ("c", 3)] {
            held.put(id.to_owned(), value, now());
        }
        assert_eq!(held.take("a", now()), None, "the oldest made room");
        assert_eq!(held.take("b", now()), Some(2));
        assert_eq!(held.take("b", now()), None, "taken once");
        clock.advance(Duration::from_secs(9));
        held.put("d".to_owned(), 4, now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(held.take("c", now()), None, "ten seconds old");
        assert_eq!(held.take("d", now()), Some(4));
    }
}
