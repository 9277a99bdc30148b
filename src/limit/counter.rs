//! What a counter holds, and what a charge makes of it: the kinds of limit, behind one face.

use std::time::Duration;

use super::calendar::{Page, Used};
use super::gcra::{Cell, Tat};
use super::quota::Quota;
use super::sliding::{Buckets, Slide};
use super::slots::{self, Place, Places};
use super::store::Charge;

/// The store's time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreTime {
    /// The clock that flows and windows move by. Redis's; in memory the monotonic one.
    pub(super) flow_us: u64,
    /// The clock that calendars are read by, since 1970. Redis's; in memory the system's.
    pub(super) wall_us: u64,
}

impl StoreTime {
    /// Of Redis, which has but one.
    pub(super) fn of_redis(now_us: u64) -> StoreTime {
        StoreTime { flow_us: now_us, wall_us: now_us }
    }
}

/// A counter in memory. Forgetting one that is idle loses nothing.
#[derive(Debug)]
pub(super) enum Held {
    Rate(Tat),
    /// Refused whatever comes, until then.
    Banned(u64),
    Sliding(Buckets),
    Calendar(Used),
    Places(Box<slots::Held>),
}

/// Where a counter stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Rate(Tat),
    /// Refused whatever comes, until then.
    Banned(u64),
    Sliding(Buckets),
    Calendar(Used),
    Places(Places),
}

/// A charge in numbers, of its kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Rate {
        cell: Cell,
        /// What a counter without room for another turns to, for how long; 0 for nothing of the sort.
        ban_us: u64,
    },
    Sliding(Slide),
    Calendar(Page),
    Places(Place),
}

impl Ask {
    /// `around_us` says around which time a calendar's windows are, since 1970.
    pub(super) fn new(charge: &Charge, around_us: u64) -> Ask {
        match &charge.quota {
            Quota::Rate(rate) => {
                let cell = Cell::new(*rate, charge.cost);
                let cell = if charge.limit.settles.is_some() { cell.with_debts() } else { cell };
                let ban_us = charge.limit.ban.map_or(0, |ban| u64::try_from(ban.as_micros()).unwrap_or(u64::MAX));
                Ask::Rate { cell, ban_us }
            }
            Quota::Sliding(sliding) => Ask::Sliding(Slide::new(*sliding, charge.cost)),
            Quota::Calendar(calendar) => Ask::Calendar(Page::new(calendar, charge.cost, around_us)),
            Quota::Concurrent(concurrent) => Ask::Places(Place::new(*concurrent, charge.holder)),
        }
    }

    /// Where the charge begins; `None` where a calendar's window is not among those known here. What another kind left
    /// behind, which only a name used twice could bring about, counts for nothing.
    pub(super) fn begin(&self, held: Option<&Held>, time: StoreTime) -> Option<Stand> {
        let StoreTime { flow_us, wall_us } = time;
        Some(match (self, held) {
            (Ask::Rate { .. }, Some(Held::Banned(until_us))) if *until_us > flow_us => Stand::Banned(*until_us),
            (Ask::Rate { cell, .. }, Some(Held::Rate(tat))) => Stand::Rate(cell.begin(Some(*tat), flow_us)),
            (Ask::Rate { cell, .. }, _) => Stand::Rate(cell.begin(None, flow_us)),
            (Ask::Sliding(slide), Some(Held::Sliding(held))) => Stand::Sliding(slide.begin(Some(*held), flow_us)),
            (Ask::Sliding(slide), _) => Stand::Sliding(slide.begin(None, flow_us)),
            (Ask::Calendar(page), Some(Held::Calendar(held))) => Stand::Calendar(page.begin(Some(*held), wall_us)?),
            (Ask::Calendar(page), _) => Stand::Calendar(page.begin(None, wall_us)?),
            (Ask::Places(place), Some(Held::Places(held))) => Stand::Places(place.begin(Some(held), flow_us)),
            (Ask::Places(place), _) => Stand::Places(place.begin(None, flow_us)),
        })
    }

    /// What the charge leaves, or how long until it could be made.
    pub(super) fn charge(&self, begin: Stand, time: StoreTime) -> Result<Stand, Duration> {
        let StoreTime { flow_us, wall_us } = time;
        match (self, begin) {
            (_, Stand::Banned(until_us)) => Err(Duration::from_micros(until_us.saturating_sub(flow_us).max(1))),
            (Ask::Rate { cell, ban_us }, Stand::Rate(tat)) => {
                let after = cell.charge(tat, flow_us)?;
                if *ban_us > 0 && cell.charge(after, flow_us).is_err() {
                    return Ok(Stand::Banned(flow_us.saturating_add(*ban_us)));
                }
                Ok(Stand::Rate(after))
            }
            (Ask::Sliding(slide), Stand::Sliding(begin)) => slide.charge(begin, flow_us).map(Stand::Sliding),
            (Ask::Calendar(page), Stand::Calendar(begin)) => page.charge(begin, wall_us).map(Stand::Calendar),
            (Ask::Places(place), Stand::Places(begin)) => place.charge(begin, flow_us).map(Stand::Places),
            // A stand is made by the ask that it is for.
            _ => Err(Duration::MAX),
        }
    }

    /// How many charges of one could still pass now.
    pub(super) fn remaining(&self, stands: Stand, time: StoreTime) -> u64 {
        match (self, stands) {
            (Ask::Rate { cell, .. }, Stand::Rate(tat)) => cell.remaining(tat, time.flow_us),
            (Ask::Sliding(slide), Stand::Sliding(stands)) => slide.remaining(stands, time.flow_us),
            (Ask::Calendar(page), Stand::Calendar(stands)) => page.remaining(stands),
            (Ask::Places(place), Stand::Places(stands)) => place.remaining(stands),
            _ => 0,
        }
    }

    /// How long until the counter is as if nothing had been charged, if nothing more is.
    pub(super) fn reset(&self, stands: Stand, time: StoreTime) -> Duration {
        match (self, stands) {
            (_, Stand::Banned(until_us)) => Duration::from_micros(until_us.saturating_sub(time.flow_us)),
            (Ask::Rate { cell, .. }, Stand::Rate(tat)) => cell.reset(tat, time.flow_us),
            (Ask::Sliding(slide), Stand::Sliding(stands)) => slide.reset(stands, time.flow_us),
            (Ask::Calendar(page), Stand::Calendar(stands)) => page.reset(stands, time.wall_us),
            (Ask::Places(place), Stand::Places(stands)) => place.reset(stands, time.flow_us),
            _ => Duration::ZERO,
        }
    }

    /// Puts what the charge leaves into memory.
    pub(super) fn keep(&self, after: Stand, held: &mut Held, time: StoreTime) {
        match (self, after) {
            (Ask::Places(place), _) => {
                if let Held::Places(places) = held {
                    place.take(places, time.flow_us);
                } else {
                    let mut places = slots::Held::new();
                    place.take(&mut places, time.flow_us);
                    *held = Held::Places(Box::new(places));
                }
            }
            (_, Stand::Rate(tat)) => *held = Held::Rate(tat),
            (_, Stand::Banned(until_us)) => *held = Held::Banned(until_us),
            (_, Stand::Sliding(buckets)) => *held = Held::Sliding(buckets),
            (_, Stand::Calendar(used)) => *held = Held::Calendar(used),
            (_, Stand::Places(_)) => {}
        }
    }

    /// The kind's letter and, with the numbers that follow it, the arguments of charge.lua.
    pub(super) fn letter(&self) -> u8 {
        match self {
            Ask::Rate { .. } => b'r',
            Ask::Sliding(_) => b's',
            Ask::Calendar(_) => b'c',
            Ask::Places(_) => b'p',
        }
    }

    /// What charge.lua says of where the charge began; `None` where it makes no sense.
    pub(super) fn told(&self, [a, b, c]: [u64; 3], now_us: u64) -> Option<Stand> {
        match self {
            Ask::Rate { .. } if c == 1 => Some(Stand::Banned(a)),
            Ask::Rate { .. } => Some(Stand::Rate(Tat { us: a, rem: b })),
            Ask::Sliding(slide) => {
                Some(Stand::Sliding(Buckets { index: now_us / slide.period_us, current: a, previous: b }))
            }
            Ask::Calendar(_) => Some(Stand::Calendar(Used { from_us: b, until_us: c, used: a })),
            Ask::Places(_) => Some(Stand::Places(Places { others: a, first_us: b, held: c == 1 })),
        }
    }
}

impl Held {
    /// Whether it is as if nothing had been charged.
    pub(super) fn is_idle(&self, time: StoreTime) -> bool {
        match self {
            Held::Rate(tat) => tat.us <= time.flow_us,
            Held::Banned(until_us) => *until_us <= time.flow_us,
            // A bucket's length is not known here; what was counted says enough.
            Held::Sliding(buckets) => buckets.current == 0 && buckets.previous == 0,
            Held::Calendar(used) => used.until_us <= time.wall_us,
            Held::Places(places) => places.iter().all(|(_, until_us)| *until_us <= time.flow_us),
        }
    }
}
