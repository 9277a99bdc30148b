//! Who asks most, and who is near a limit: what `tollgate top` shows.
//!
//! Decisions are looked at only while somebody looks at the page: it costs a decision one load otherwise. What is held has
//! a bound whatever callers do: each table (`table`) has room for so many names, and who asks little makes room for who
//! asks more; `near` keeps those that have least left. Names keep their memory, so that one more decision allocates
//! nothing.

mod near;
mod table;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Now;
use crate::decision::{Decision, Verdict};
use near::{Near, Standing};
use table::{SLOT_US, Table};

pub use table::{Counted, Row};

/// What decisions are counted by, while somebody looks.
#[derive(Debug, Default)]
pub struct Top {
    /// Until when, in microseconds since `origin`; 0 while nobody looks.
    until_us: AtomicU64,
    origin: OnceLock<Instant>,
    /// Seeded, so that nobody outside can make two names one.
    names: RandomState,
    watched: Mutex<Option<Box<Watched>>>,
}

/// Some 1.5 MiB, and nothing while nobody looks.
#[derive(Debug)]
struct Watched {
    since_us: u64,
    users: Table,
    groups: Table,
    rules: Table,
    limits: Table,
    near: Near,
}

/// What is seen at one moment. Every count has two numbers: of the first and of the second of `windows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Over which time counts are.
    pub windows: [Window; 2],
    /// All decisions.
    pub total: Counted,
    /// By caller: `issuer:user`, or `anonymous` with the source address where the agent notes it for its log.
    pub users: Names,
    /// By group of the policy; whoever is in several counts in each.
    pub groups: Names,
    /// By rule; `(none)` where none was reached.
    pub rules: Names,
    /// By limit; whoever is held to several counts in each. Throttled counts for the one that was hit.
    pub limits: Names,
    /// Who has least left of a limit, by share, least first.
    pub near: Vec<NearLimit>,
}

/// A time that ends now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How long it is meant to be, in seconds.
    pub s: u64,
    /// How long it is: up to two seconds longer, and shorter while decisions have not been looked at for so long.
    pub covered_ms: u64,
}

/// The names of one kind that were counted most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Names {
    /// Those with most requests in the first window first.
    pub rows: Vec<Row>,
    /// How often a name made room for another since decisions are looked at. Where it is 0 the rows are all there are.
    pub replaced: u64,
}

/// How somebody stands with a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearLimit {
    /// The limit.
    pub limit: String,
    /// Who, as in `users`.
    pub who: String,
    /// How many could have passed at their last request.
    pub remaining: u64,
    /// How many could from idle.
    pub of: u64,
    /// Seconds until as many can again.
    pub whole_in_s: u64,
    /// Seconds since their last request.
    pub seen_s: u64,
}

/// What became of a request, as a place in a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    Allowed,
    Refused,
    Throttled,
    Failed,
}

impl Top {
    /// A decision left.
    #[inline]
    pub fn record(&self, decision: &Decision, now: Now) {
        if self.until_us.load(Ordering::Relaxed) != 0 {
            self.look(decision, now);
        }
    }

    /// What has been seen, and that decisions are looked at for another minute.
    pub fn ask(&self, now: Now) -> Snapshot {
        let at_us = self.at_us(now);
        let since_us = {
            let mut watched = self.watched.lock();
            let watched = watched.get_or_insert_with(|| Box::new(Watched::new(at_us)));
            self.until_us.store(at_us.saturating_add(LOOK_US), Ordering::Relaxed);
            watched.since_us
        };
        let windows = WINDOWS_S.map(|s| Window { s, covered_ms: table::covered_us(s, since_us, at_us) / 1000 });
        // Each table is copied by itself, so that no decision waits for all of them; names are escaped and rows are
        // sorted afterwards.
        let total = self.of_watched(|watched| watched.rules.total(at_us));
        let users = self.of_watched(|watched| watched.users.copy(at_us));
        let groups = self.of_watched(|watched| watched.groups.copy(at_us));
        let rules = self.of_watched(|watched| watched.rules.copy(at_us));
        let limits = self.of_watched(|watched| watched.limits.copy(at_us));
        let near = self.of_watched(|watched| watched.near.copy(at_us));
        let [users, groups, rules, limits] = [users, groups, rules, limits].map(table::ordered);
        Snapshot { windows, total, users, groups, rules, limits, near: near::ordered(near) }
    }

    fn of_watched<T: Default>(&self, read: impl FnOnce(&mut Watched) -> T) -> T {
        self.watched.lock().as_deref_mut().map(read).unwrap_or_default()
    }

    #[cold]
    fn look(&self, decision: &Decision, now: Now) {
        let at_us = self.at_us(now);
        let mut watched = self.watched.lock();
        // Under the lock, so that it is not what somebody who asks at this moment has just begun.
        if at_us > self.until_us.load(Ordering::Relaxed) {
            self.until_us.store(0, Ordering::Relaxed);
            *watched = None;
            return;
        }
        let Some(watched) = watched.as_deref_mut() else { return };
        let became = match decision.verdict() {
            Verdict::Allow => Became::Allowed,
            Verdict::Challenge | Verdict::Deny => Became::Refused,
            Verdict::Throttle => Became::Throttled,
            Verdict::Error => Became::Failed,
        };
        let identity = &*decision.identity;
        let src = decision.summary.as_ref().map_or("", |summary| &*summary.src);
        let who = Who { issuer: &identity.issuer_name, user: &identity.user, src };
        let who_key = self.names.hash_one((who.issuer, who.user, if who.is_known() { "" } else { src }));
        let slot = at_us / SLOT_US;
        watched.users.count(who_key, slot, became, |name| who.write(name));
        for group in identity.groups_joined.split(',').filter(|group| !group.is_empty()).take(GROUPS_MAX) {
            watched.groups.count(self.names.hash_one(group), slot, became, |name| name.push_str(group));
        }
        let rule = decision.rule.as_deref().unwrap_or(NO_RULE);
        watched.rules.count(self.names.hash_one(rule), slot, became, |name| name.push_str(rule));

        let mut hit = decision.limit.as_deref().filter(|_| became == Became::Throttled);
        for state in &decision.budget.states {
            let limit = &*state.limit.name;
            let was_hit = hit == Some(limit);
            hit = hit.filter(|_| !was_hit);
            // What another limit refused was not counted here, and not refused by this one either.
            let of_limit = if was_hit || became != Became::Throttled { became } else { Became::Allowed };
            let key = self.names.hash_one(limit);
            watched.limits.count(key, slot, of_limit, |name| name.push_str(limit));
            let standing = Standing {
                remaining: state.remaining,
                of: state.quota.at_once(),
                whole_us: at_us.saturating_add(u64::try_from(state.reset.as_micros()).unwrap_or(u64::MAX)),
                seen_us: at_us,
            };
            let key = self.names.hash_one((who_key, limit));
            watched.near.note(key, standing, &state.limit.name, |name| who.write(name));
        }
        // An agent that enforces its share says nothing of what is left.
        if let Some(limit) = hit {
            watched.limits.count(self.names.hash_one(limit), slot, became, |name| name.push_str(limit));
        }
    }

    fn at_us(&self, now: Now) -> u64 {
        let origin = *self.origin.get_or_init(|| now.instant());
        // Never 0, which means that nobody looks.
        let at = now.instant().saturating_duration_since(origin) + Duration::from_micros(1);
        u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Watched {
    fn new(since_us: u64) -> Watched {
        let table = || Table::new(since_us / SLOT_US);
        Watched { since_us, users: table(), groups: table(), rules: table(), limits: table(), near: Near::new() }
    }
}

/// Somebody, without a copy of their name.
struct Who<'a> {
    issuer: &'a str,
    user: &'a str,
    src: &'a str,
}

impl Who<'_> {
    fn is_known(&self) -> bool {
        !self.user.is_empty()
    }

    /// No issuer's name has a space in it, so nobody is called as one who is not known.
    fn write(&self, name: &mut String) {
        let parts = if self.is_known() {
            [self.issuer, ":", self.user]
        } else {
            ["anonymous", if self.src.is_empty() { "" } else { " " }, self.src]
        };
        parts.into_iter().for_each(|part| push_cut(name, part));
    }
}

/// Adds as much of `text` as there is room for.
fn push_cut(name: &mut String, text: &str) {
    let room = NAME_BYTES_MAX.saturating_sub(name.len());
    let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    name.push_str(&text[..end]);
}

/// The two windows, in seconds.
const WINDOWS_S: [u64; 2] = [10, 60];

/// For how long decisions are looked at after somebody asked.
const LOOK_US: u64 = 60_000_000;

/// Names of one kind: 256 × (496 bytes of counts, 128 of name, 40 of order) are 166 KiB, and there are four kinds.
const NAMES_MAX: usize = 256;

/// An issuer and an e-mail address fit; what is longer is cut.
const NAME_BYTES_MAX: usize = 128;

/// Groups of one caller that are counted: a caller in thousands of them must not cost thousands of times as much.
const GROUPS_MAX: usize = 16;

const NO_RULE: &str = "(none)";
