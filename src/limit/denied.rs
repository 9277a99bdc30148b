//! What was refused a moment ago, and cannot pass yet: whoever asks again is told so without Redis being asked.
//!
//! A counter fills with time and nothing else, so that a charge which had no room at a moment has none until the moment that
//! the answer named, whoever charges meanwhile. Only a person can change that, or a charge that is given back: so it is
//! believed for a second at most, and not at all of counters whose charges may be given back by themselves.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::key::CounterKey;
use super::quota::Quota;
use super::store::{Charge, Exceeded, How, Outcome, State};
use crate::clock::Now;

/// Counters without room, as of the last second.
#[derive(Clone, Debug)]
pub(super) struct Denied(moka::sync::Cache<CounterKey, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    /// By which quota it has no room, and for how much.
    quota: Quota,
    cost: u32,
    remaining: u64,
    passes_at: Instant,
    reset_at: Instant,
    believed_until: Instant,
}

/// Some 250 bytes each; who attacks with more keys than these is counted in Redis as everybody is.
const ENTRIES_MAX: u64 = 16_384;

/// Whoever resets a counter sees it take effect within this; a flood costs Redis one question a second for each key.
const BELIEVED: Duration = Duration::from_secs(1);

impl Denied {
    pub(super) fn new() -> Denied {
        Denied(moka::sync::Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(BELIEVED).build())
    }

    /// Takes note of what had no room.
    pub(super) fn note(&self, charges: &[Charge], outcome: &Outcome, now: Now) {
        for (index, (charge, trial)) in charges.iter().zip(&outcome.trials).enumerate() {
            // The second charge of one counter begins where the first would end, which is nowhere if none is made.
            let is_second = charges.iter().take(index).any(|earlier| earlier.key == charge.key);
            if trial.after.is_some() || charge.limit.shadow || is_second || !fills_by_itself(charge) {
                continue;
            }
            let Err(wait) = trial.ask.charge(trial.begin, trial.time) else { continue };
            // Counted from when it was asked, which is before Redis looked: never longer than it is true.
            let at = now.instant();
            let entry = Entry {
                quota: charge.quota.clone(),
                cost: charge.cost,
                remaining: trial.ask.remaining(trial.begin, trial.time),
                passes_at: at.checked_add(wait).unwrap_or(at),
                reset_at: at.checked_add(trial.ask.reset(trial.begin, trial.time)).unwrap_or(at),
                believed_until: at + BELIEVED.min(wait),
            };
            self.0.insert(charge.key, entry);
        }
    }

    /// What is known to have no room for one of `charges`; `None` where Redis has to be asked.
    pub(super) fn recall(&self, charges: &[Charge], now: Now) -> Option<Exceeded> {
        let at = now.instant();
        let mut worst: Option<(Duration, &Charge)> = None;
        let mut states: SmallVec<[State; 2]> = SmallVec::new();
        for charge in charges.iter().filter(|charge| !charge.limit.shadow && fills_by_itself(charge)) {
            let Some(entry) = self.0.get(&charge.key) else { continue };
            let fits = entry.believed_until > at && entry.cost <= charge.cost && entry.quota == charge.quota;
            if !fits {
                continue;
            }
            let wait = entry.passes_at.saturating_duration_since(at);
            if charge.how == How::Take {
                states.push(State {
                    limit: charge.limit.clone(),
                    quota: entry.quota,
                    remaining: entry.remaining,
                    reset: entry.reset_at.saturating_duration_since(at),
                });
            }
            if worst.is_none_or(|(longest, _)| wait > longest) {
                worst = Some((wait, charge));
            }
        }
        worst.map(|(retry_after, charge)| Exceeded { states, limit: charge.limit.clone(), retry_after })
    }
}

/// Places are given back at any moment, and what a response costs may be less than was charged.
fn fills_by_itself(charge: &Charge) -> bool {
    !matches!(charge.quota, Quota::Concurrent(_)) && charge.limit.settles.is_none()
}
