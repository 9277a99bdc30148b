//! Who has least left of a limit, within a bound.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{NAME_BYTES_MAX, NearLimit};
use crate::decision::Summary;

/// How somebody stood with a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) remaining: u64,
    pub(super) of: u64,
    /// When it is whole again, and when this was so.
    pub(super) whole_us: u64,
    pub(super) seen_us: u64,
}

/// Callers with a limit each: those with the least share left, of all that have asked.
#[derive(Debug)]
pub(super) struct Near {
    places: HashMap<u64, usize, RandomState>,
    /// By place: until when it holds, and how much is left.
    shares: Vec<(u64, u32)>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    limit: Arc<str>,
    who: String,
    standing: Standing,
}

impl Near {
    pub(super) fn new() -> Near {
        Near {
            places: HashMap::with_capacity_and_hasher(2 * ENTRIES_MAX, RandomState::default()),
            shares: Vec::with_capacity(ENTRIES_MAX),
            entries: Vec::with_capacity(ENTRIES_MAX),
        }
    }

    /// Notes how the caller and limit that `key` stands for are; `write` writes the caller's name where it is new.
    pub(super) fn note(&mut self, key: u64, standing: Standing, limit: &Arc<str>, write: impl FnOnce(&mut String)) {
        let share = (standing.whole_us, standing.share_ppm());
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.entries.len() < ENTRIES_MAX => {
                let who = String::with_capacity(NAME_BYTES_MAX);
                self.entries.push(Entry { key, limit: Arc::clone(limit), who, standing });
                self.shares.push(share);
                self.take(self.entries.len() - 1, key, limit, write)
            }
            None => {
                // Whoever has most left, or all of it again, makes room.
                let left = |(whole_us, ppm): (u64, u32)| if whole_us <= standing.seen_us { PPM } else { ppm };
                let most = self.shares.iter().map(|share| left(*share)).enumerate().max_by_key(|(_, left)| *left);
                match most {
                    Some((place, left)) if left > share.1 => self.take(place, key, limit, write),
                    _ => return,
                }
            }
        };
        if let (Some(entry), Some(known)) = (self.entries.get_mut(place), self.shares.get_mut(place)) {
            entry.standing = standing;
            *known = share;
        }
    }

    fn take(&mut self, place: usize, key: u64, limit: &Arc<str>, write: impl FnOnce(&mut String)) -> usize {
        if let Some(entry) = self.entries.get_mut(place) {
            self.places.remove(&entry.key);
            entry.key = key;
            entry.limit = Arc::clone(limit);
            entry.who.clear();
            write(&mut entry.who);
        }
        self.places.insert(key, place);
        place
    }

    /// Those that have not all of it again.
    pub(super) fn copy(&self, at_us: u64) -> Vec<NearLimit> {
        let short = self.entries.iter().filter(|entry| entry.standing.whole_us > at_us);
        let copy = |entry: &Entry| NearLimit {
            limit: entry.limit.to_string(),
            who: entry.who.clone(),
            remaining: entry.standing.remaining,
            of: entry.standing.of,
            whole_in_s: (entry.standing.whole_us - at_us).div_ceil(1_000_000),
            seen_s: at_us.saturating_sub(entry.standing.seen_us) / 1_000_000,
        };
        short.map(copy).collect()
    }
}

/// The same in order, and fit to be printed.
pub(super) fn ordered(mut near: Vec<NearLimit>) -> Vec<NearLimit> {
    for row in &mut near {
        row.who = Summary::printable(row.who.as_bytes());
    }
    near.sort_by(|one, two| {
        let shares = [one, two].map(|row| share_ppm(row.remaining, row.of));
        shares[0].cmp(&shares[1]).then(one.seen_s.cmp(&two.seen_s)).then_with(|| one.who.cmp(&two.who))
    });
    near
}

impl Standing {
    fn share_ppm(&self) -> u32 {
        share_ppm(self.remaining, self.of)
    }
}

/// What is left, in parts in a million.
fn share_ppm(remaining: u64, of: u64) -> u32 {
    let share = u128::from(remaining) * u128::from(PPM) / u128::from(of.max(1));
    u32::try_from(share).map_or(PPM, |share| share.min(PPM))
}

const PPM: u32 = 1_000_000;

/// 256 × (128 bytes of name, 80 of the rest) are 52 KiB.
const ENTRIES_MAX: usize = 256;
