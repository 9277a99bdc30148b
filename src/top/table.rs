//! The names that were counted most lately, within a bound.
//!
//! Who is counted most is found by space-saving (Metwally, Agrawal, El Abbadi 2005) over weights that are halved each
//! half minute: a new name takes the place, and the weight, of the one with the least. So whoever makes more than 1/256 of
//! what is counted is there, however many others come and go. The counts that are shown are those since the name is there:
//! never more than there were.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::{Became, NAME_BYTES_MAX, NAMES_MAX, Names, WINDOWS_S};
use crate::decision::Summary;

/// Counts are kept for each two seconds.
pub(super) const SLOT_US: u64 = 2_000_000;

/// 30 that have passed, for the longer window, and the one that is being filled.
const SLOTS: usize = 31;

/// Weights are halved after so many slots.
const HALVED_SLOTS: u64 = 15;

/// What was counted in each window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// All of them.
    pub requests: [u64; 2],
    /// Those that were challenged or denied.
    pub refused: [u64; 2],
    /// Those that met a spent limit.
    pub throttled: [u64; 2],
    /// Those that nothing could be decided for: some part was away, or the question was none.
    pub failed: [u64; 2],
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// 128 bytes of it at most, what does not print escaped.
    pub name: String,
    /// What was counted for it.
    #[serde(flatten)]
    pub counted: Counted,
}

/// The names of one kind.
#[derive(Debug)]
pub(super) struct Table {
    places: HashMap<u64, usize, RandomState>,
    /// By place, beside each other: the least one is looked for whenever a new name comes.
    weights: Vec<u32>,
    entries: Vec<Entry>,
    all: Ring,
    replaced: u64,
    halved: u64,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    name: String,
    ring: Ring,
}

/// Counts of the last slots.
#[derive(Clone, Debug)]
struct Ring {
    /// Requests, and of those the refused, throttled and failed.
    slots: [[u32; 4]; SLOTS],
    /// The newest one.
    slot: u64,
}

impl Table {
    /// Takes all its memory at once, but for names.
    pub(super) fn new(slot: u64) -> Table {
        Table {
            places: HashMap::with_capacity_and_hasher(2 * NAMES_MAX, RandomState::default()),
            weights: Vec::with_capacity(NAMES_MAX),
            entries: Vec::with_capacity(NAMES_MAX),
            all: Ring::new(slot),
            replaced: 0,
            halved: slot / HALVED_SLOTS,
        }
    }

    /// Counts one for the name that `key` stands for; `write` writes it into an empty text where it is new.
    pub(super) fn count(&mut self, key: u64, slot: u64, became: Became, write: impl FnOnce(&mut String)) {
        if slot / HALVED_SLOTS > self.halved {
            self.halved = slot / HALVED_SLOTS;
            self.weights.iter_mut().for_each(|weight| *weight /= 2);
        }
        self.all.count(slot, became);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.place(key, slot, write),
        };
        if let (Some(entry), Some(weight)) = (self.entries.get_mut(place), self.weights.get_mut(place)) {
            entry.ring.count(slot, became);
            *weight = weight.saturating_add(1);
        }
    }

    /// A place for a new name.
    fn place(&mut self, key: u64, slot: u64, write: impl FnOnce(&mut String)) -> usize {
        let place = if self.entries.len() < NAMES_MAX {
            self.entries.push(Entry { key, name: String::with_capacity(NAME_BYTES_MAX), ring: Ring::new(slot) });
            self.weights.push(0);
            self.entries.len() - 1
        } else {
            let least = self.weights.iter().enumerate().min_by_key(|(_, weight)| **weight);
            let place = least.map_or(0, |(place, _)| place);
            self.replaced += 1;
            place
        };
        if let Some(entry) = self.entries.get_mut(place) {
            self.places.remove(&entry.key);
            entry.key = key;
            entry.ring = Ring::new(slot);
            entry.name.clear();
            write(&mut entry.name);
        }
        self.places.insert(key, place);
        place
    }

    /// What was counted for all names together.
    pub(super) fn total(&mut self, at_us: u64) -> Counted {
        self.all.counted(at_us / SLOT_US)
    }

    /// The names that were counted in the longer window, as they are.
    pub(super) fn copy(&mut self, at_us: u64) -> Names {
        let mut rows = Vec::with_capacity(self.entries.len());
        for entry in &mut self.entries {
            let counted = entry.ring.counted(at_us / SLOT_US);
            if counted.requests[1] > 0 {
                rows.push(Row { name: entry.name.clone(), counted });
            }
        }
        Names { rows, replaced: self.replaced }
    }
}

/// The same in order, and fit to be printed.
pub(super) fn ordered(mut names: Names) -> Names {
    for row in &mut names.rows {
        row.name = Summary::printable(row.name.as_bytes());
    }
    names.rows.sort_by(|one, two| {
        let (first, second) = (one.counted.requests, two.counted.requests);
        second.cmp(&first).then_with(|| one.name.cmp(&two.name))
    });
    names
}

/// How much of a window of `window_s` there is: it begins with a whole slot, and not before anything was looked at.
pub(super) fn covered_us(window_s: u64, since_us: u64, at_us: u64) -> u64 {
    let begins_us = (at_us / SLOT_US).saturating_sub(passed(window_s)) * SLOT_US;
    at_us.saturating_sub(begins_us.max(since_us))
}

/// Slots that a window has besides the one that is being filled.
fn passed(window_s: u64) -> u64 {
    window_s * 1_000_000 / SLOT_US
}

impl Ring {
    fn new(slot: u64) -> Ring {
        Ring { slots: [[0; 4]; SLOTS], slot }
    }

    fn count(&mut self, slot: u64, became: Became) {
        self.advance(slot);
        let at = index(self.slot);
        let Some(counts) = self.slots.get_mut(at) else { return };
        let kind = match became {
            Became::Allowed => 0,
            Became::Refused => 1,
            Became::Throttled => 2,
            Became::Failed => 3,
        };
        counts[0] = counts[0].saturating_add(1);
        if kind > 0 {
            counts[kind] = counts[kind].saturating_add(1);
        }
    }

    /// Empties what is older than the ring. Whoever read the clock a moment before another thread counts with that one.
    fn advance(&mut self, slot: u64) {
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for ago in 0..passed {
            if let Some(counts) = self.slots.get_mut(index(slot - ago)) {
                *counts = [0; 4];
            }
        }
        self.slot = self.slot.max(slot);
    }

    fn counted(&mut self, slot: u64) -> Counted {
        self.advance(slot);
        let mut sums = [[0; 2]; 4];
        for ago in 0..(SLOTS as u64).min(self.slot + 1) {
            let Some(counts) = self.slots.get(index(self.slot - ago)) else { continue };
            for (sum, count) in sums.iter_mut().zip(counts) {
                for (sum, window_s) in sum.iter_mut().zip(WINDOWS_S) {
                    *sum += if ago <= passed(window_s) { u64::from(*count) } else { 0 };
                }
            }
        }
        let [requests, refused, throttled, failed] = sums;
        Counted { requests, refused, throttled, failed }
    }
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}
