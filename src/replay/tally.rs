//! What would be different, by user and rule.

use std::collections::HashMap;

use serde::Serialize;

/// Everything that was read, added up. Those of several threads are merged.
#[derive(Debug, Default)]
pub struct Tally {
    /// Lines that are not empty.
    pub lines: u64,
    /// Those that say nothing of a decision.
    pub no_decision: u64,
    /// Those of an agent that could not decide.
    pub undecided: u64,
    /// Requests that would be decided the same.
    pub same: u64,
    /// Requests that it cannot be told of, and that have no group.
    pub untold: u64,
    /// The first and the last second of a request, in Unix seconds.
    pub span_s: Option<(i64, i64)>,
    groups: HashMap<Key, (u64, Example)>,
    /// Of groups for which there was no room.
    pub others: [u64; 4],
}

/// One request that would be decided differently.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// How.
    pub kind: Kind,
    /// Who asked.
    pub user: &'a str,
    /// Of which issuer, as the log says.
    pub issuer: &'a str,
    /// The rule that decided.
    pub before: &'a str,
    /// The one that would.
    pub after: &'a str,
    /// Why it would be refused, or was.
    pub reason: &'a str,
    /// Where it would go.
    pub backend: &'a str,
    /// The request.
    pub method: &'a str,
    /// Its host.
    pub host: &'a str,
    /// Its path.
    pub path: &'a str,
    /// The decision, to look up.
    pub decision_id: &'a str,
}

/// In which way it is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It passed, and would be refused.
    Refused,
    /// It was refused, and would pass.
    Passes,
    /// It would go to another backend.
    Elsewhere,
    /// It depends on what the log does not hold.
    Untold,
}

/// Requests of one user that are different in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// How.
    pub kind: Kind,
    /// How many.
    pub count: u64,
    /// Who asked; empty for nobody.
    pub user: String,
    /// Of which issuer.
    pub issuer: String,
    /// The rule that decided.
    pub before: String,
    /// The one that would.
    pub after: String,
    /// Why it would be refused, or was.
    pub reason: String,
    /// Where it would go.
    pub backend: String,
    /// One of them.
    pub example: Example,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Its method.
    pub method: String,
    /// Its host.
    pub host: String,
    /// Its path.
    pub path: String,
    /// The decision, where the log names it.
    pub decision_id: String,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    user: String,
    issuer: String,
    before: String,
    after: String,
    reason: String,
    backend: String,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Refused, Kind::Passes, Kind::Elsewhere, Kind::Untold];
}

impl Tally {
    pub(super) fn saw(&mut self, time_s: i64) {
        if time_s == 0 {
            return;
        }
        let (first, last) = self.span_s.unwrap_or((time_s, time_s));
        self.span_s = Some((first.min(time_s), last.max(time_s)));
    }

    pub(super) fn add(&mut self, change: Change<'_>) {
        let key = Key {
            kind: change.kind,
            user: change.user.to_owned(),
            issuer: change.issuer.to_owned(),
            before: change.before.to_owned(),
            after: change.after.to_owned(),
            reason: change.reason.to_owned(),
            backend: change.backend.to_owned(),
        };
        if let Some((count, _)) = self.groups.get_mut(&key) {
            *count += 1;
        } else {
            let example = Example {
                method: change.method.to_owned(),
                host: change.host.to_owned(),
                path: change.path.to_owned(),
                decision_id: change.decision_id.to_owned(),
            };
            self.put(key, 1, example);
        }
    }

    fn put(&mut self, key: Key, count: u64, example: Example) {
        if let Some((known, _)) = self.groups.get_mut(&key) {
            *known += count;
        } else if self.groups.len() < GROUPS_MAX {
            self.groups.insert(key, (count, example));
        } else if let Some(others) = self.others.get_mut(key.kind as usize) {
            *others += count;
        }
    }

    /// Takes in what another thread has found.
    pub fn merge(&mut self, other: Tally) {
        self.lines += other.lines;
        self.no_decision += other.no_decision;
        self.undecided += other.undecided;
        self.same += other.same;
        self.untold += other.untold;
        if let Some((first, last)) = other.span_s {
            self.saw(first);
            self.saw(last);
        }
        for (own, others) in self.others.iter_mut().zip(other.others) {
            *own += others;
        }
        for (key, (count, example)) in other.groups {
            self.put(key, count, example);
        }
    }

    /// How many requests are different in this way.
    pub fn count(&self, kind: Kind) -> u64 {
        let grouped: u64 = self.groups.iter().filter(|(key, _)| key.kind == kind).map(|(_, (count, _))| count).sum();
        let alone = if kind == Kind::Untold { self.untold } else { 0 };
        grouped + alone + self.others.get(kind as usize).copied().unwrap_or(0)
    }

    /// How many would be decided differently; those that nobody can tell of are none.
    pub fn different(&self) -> u64 {
        Kind::ALL.into_iter().filter(|kind| *kind != Kind::Untold).map(|kind| self.count(kind)).sum()
    }

    /// The groups, by kind, the largest first.
    pub fn groups(&self) -> Vec<Group> {
        let group = |(key, (count, example)): (&Key, &(u64, Example))| Group {
            kind: key.kind,
            count: *count,
            user: key.user.clone(),
            issuer: key.issuer.clone(),
            before: key.before.clone(),
            after: key.after.clone(),
            reason: key.reason.clone(),
            backend: key.backend.clone(),
            example: example.clone(),
        };
        let mut groups: Vec<_> = self.groups.iter().map(group).collect();
        groups.sort_by(|one, other| {
            let order = (one.kind, std::cmp::Reverse(one.count)).cmp(&(other.kind, std::cmp::Reverse(other.count)));
            // Always in the same order, whatever the hash map's was.
            order.then_with(|| (&one.user, &one.before, &one.after).cmp(&(&other.user, &other.before, &other.after)))
        });
        groups
    }
}

/// 300 bytes each: 30 MB. Whoever has more of them reads the first hundred.
const GROUPS_MAX: usize = 100_000;
