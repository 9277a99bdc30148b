//! Concurrency: so many at the same time. Who is in holds a place, under a name of its own, until it is given back or its
//! lease has run out.

use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use super::quota::Concurrent;

/// The name under which a request holds a place: 128 bits of a hash of what HAProxy calls the request, so that a question
/// that HAProxy asks again takes no second place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder(pub(super) [u8; 16]);

impl Holder {
    /// For a charge that is no place.
    pub const NONE: Holder = Holder([0; 16]);

    /// Of the request that HAProxy calls `id`.
    pub fn of(id: &[u8]) -> Holder {
        let mut name = [0; 16];
        let hash = digest::digest(&digest::SHA256, id);
        name.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Holder(name)
    }

    /// Of a request without a name; nobody else's, as long as the system has randomness.
    pub fn of_nobody() -> Holder {
        let mut name = [0; 16];
        // Without it all of them would share a place, which refuses nobody: the lease says when it is over.
        let _ = SystemRandom::new().fill(&mut name);
        Holder(name)
    }

    /// The one of that name.
    pub(super) fn named(name: [u8; 16]) -> Holder {
        Holder(name)
    }

    /// As it stands in Redis.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Where a counter stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Held by others.
    pub(super) others: u64,
    /// When the first of those runs out, in microseconds of the store's clock; 0 where there is none.
    pub(super) first_us: u64,
    /// Whether this request holds one.
    pub(super) held: bool,
}

/// Who holds a place, and until when, in microseconds of the store's clock.
pub(super) type Held = Vec<(Holder, u64)>;

/// A charge in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) count: u64,
    pub(super) lease_us: u64,
    pub(super) holder: Holder,
}

impl Place {
    pub(super) fn new(concurrent: Concurrent, holder: Holder) -> Place {
        Place { count: concurrent.count(), lease_us: concurrent.lease_us(), holder }
    }

    pub(super) fn begin(self, stored: Option<&Held>, now_us: u64) -> Places {
        let mut places = Places::default();
        for (holder, until_us) in stored.into_iter().flatten().filter(|(_, until_us)| *until_us > now_us) {
            if *holder == self.holder {
                places.held = true;
            } else {
                places.others += 1;
                if places.first_us == 0 || *until_us < places.first_us {
                    places.first_us = *until_us;
                }
            }
        }
        places
    }

    /// With this request in, or how long until somebody's lease is over. A place may be given back before that, at any time;
    /// so nobody is told to wait for longer than [`RETRY`].
    pub(super) fn charge(self, begin: Places, now_us: u64) -> Result<Places, Duration> {
        if begin.others < self.count {
            return Ok(Places { held: true, ..begin });
        }
        Err(Duration::from_micros(begin.first_us.saturating_sub(now_us).max(1)).min(RETRY))
    }

    pub(super) fn remaining(self, stands: Places) -> u64 {
        self.count.saturating_sub(stands.others + u64::from(stands.held))
    }

    /// How long until the first place would be free by itself.
    pub(super) fn reset(self, stands: Places, now_us: u64) -> Duration {
        match (stands.first_us, stands.held) {
            (0, false) => Duration::ZERO,
            (0, true) => Duration::from_micros(self.lease_us),
            (first, _) => Duration::from_micros(first.saturating_sub(now_us)),
        }
    }

    /// Puts this request in, and drops who is out.
    pub(super) fn take(self, held: &mut Held, now_us: u64) {
        held.retain(|(holder, until_us)| *until_us > now_us && *holder != self.holder);
        held.push((self.holder, now_us.saturating_add(self.lease_us)));
    }
}

/// What to tell a caller to wait for a place that may be free at any moment.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_held_once_by_each_and_until_its_lease_is_over() {
        let two = Concurrent::new(2, Duration::from_secs(60)).unwrap();
        let place = |id: &str| Place::new(two, Holder::of(id.as_bytes()));
        let mut held = Held::new();
        for (id, now_us, taken) in [
            ("a", 1, true),
            ("b", 2, true),
            ("c", 3, false),
            ("a", 4, true),
            ("c", 60_000_002, true),
            ("d", 60_000_003, false),
            ("d", 60_000_004, true),
        ] {
            let place = place(id);
            let charged = place.charge(place.begin(Some(&held), now_us), now_us);
            assert_eq!(charged.is_ok(), taken, "{id} at {now_us}");
            if taken {
                place.take(&mut held, now_us);
            }
            assert!(held.len() <= 2, "{held:?}");
        }
        assert_ne!(Holder::of_nobody(), Holder::of_nobody());
    }
}
