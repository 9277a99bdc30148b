//! All revocations that an agent knows, by name: what it is told by Redis, by its own copy and by the agent before it.
//!
//! Knowing is a union. What is known under a name goes from nothing to revoked to undone and never back, so agents that
//! were told different things in different orders, and Redis itself, end up knowing the same.

use std::collections::HashMap;

use super::record::{Id, Record, Revocation};
use super::snapshot::Snapshot;

/// The records by their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    records: HashMap<Id, Record, foldhash::fast::RandomState>,
}

/// What a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Nothing,
    Changed,
    /// It is new, and there is no room for it.
    Full,
}

impl Book {
    /// Takes a record in.
    pub(super) fn note(&mut self, id: Id, record: Record) -> Noted {
        let full = self.records.len() >= KNOWN_MAX;
        let Some(known) = self.records.get_mut(&id) else {
            if full {
                return Noted::Full;
            }
            self.records.insert(id, record);
            return Noted::Changed;
        };
        let until_s = known.until_s().max(record.until_s());
        let next = match (&*known, record) {
            // Nobody may make a revocation come back by undoing it for a shorter time than it was to hold.
            (_, Record::Undone { .. }) | (Record::Undone { .. }, _) => Record::Undone { until_s },
            (Record::Revoked(_), Record::Revoked(_)) => return Noted::Nothing,
        };
        if *known == next {
            return Noted::Nothing;
        }
        *known = next;
        Noted::Changed
    }

    /// Forgets what has ended, a while after it has, so that clocks need not agree about when. Gives the names.
    pub(super) fn forget_ended(&mut self, now_s: i64) -> Vec<Id> {
        let ended = |record: &Record| record.until_s().saturating_add(KEPT_PAST_END_S) <= now_s;
        let names: Vec<Id> = self.records.iter().filter(|(_, record)| ended(record)).map(|(id, _)| *id).collect();
        names.iter().for_each(|id| drop(self.records.remove(id)));
        names
    }

    /// What this knows, has not ended, and `other` does not know.
    pub(super) fn beyond<'a>(&'a self, other: &'a Book, now_s: i64) -> impl Iterator<Item = (Id, &'a Record)> {
        let news = move |id: &Id, record: &Record| match (record, other.records.get(id)) {
            (_, None) => true,
            (Record::Undone { .. }, Some(Record::Revoked(_))) => true,
            (_, Some(_)) => false,
        };
        self.records
            .iter()
            .filter(move |(id, record)| record.until_s() > now_s && news(id, record))
            .map(|(id, record)| (*id, record))
    }

    /// Everything in it.
    pub(super) fn records(&self) -> impl Iterator<Item = (Id, &Record)> {
        self.records.iter().map(|(id, record)| (*id, record))
    }

    /// What is revoked and was not undone, whether or not it has ended.
    pub(super) fn revocations(&self) -> impl Iterator<Item = (Id, &Revocation)> {
        self.records().filter_map(|(id, record)| match record {
            Record::Revoked(revocation) => Some((id, revocation)),
            Record::Undone { .. } => None,
        })
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.revocations().map(|(_, revocation)| revocation))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

/// How many revocations Redis is given, undone ones among them.
///
/// A record is 200 bytes as a rule and [`RECORD_BYTES_MAX`](super::record::RECORD_BYTES_MAX) at most. In an agent it is
/// about 250 with its strings and its place, in Redis about 300: 25 and 30 MB as a rule, 110 MB at most. Beyond that it
/// is no list of exceptions any more, and the issuer as a whole is what should be revoked.
pub(super) const ENTRIES_MAX: usize = 100_000;

/// How many an agent keeps: as much again as Redis takes, for what it knew before a Redis lost its data and others have
/// filled it anew.
const KNOWN_MAX: usize = 2 * ENTRIES_MAX;

/// An hour: more than clocks that check tokens at all are apart.
const KEPT_PAST_END_S: i64 = 3600;

#[cfg(test)]
mod tests {
    use super::super::record::What;
    use super::*;
    use proptest::prelude::*;

    fn revoked(until_s: i64) -> Record {
        Record::Revoked(Revocation { what: What::Issuer { issuer: "i".to_owned() }, at_s: 1, until_s })
    }

    fn undone(until_s: i64) -> Record {
        Record::Undone { until_s }
    }

    fn book(records: &[(u64, Record)]) -> Book {
        let mut book = Book::default();
        records.iter().for_each(|(id, record)| _ = book.note(Id(*id), record.clone()));
        book
    }

    fn sorted(book: &Book) -> Vec<(Id, Record)> {
        let mut records: Vec<_> = book.records().map(|(id, record)| (id, record.clone())).collect();
        records.sort_by_key(|(id, _)| *id);
        records
    }

    #[test]
    fn what_is_undone_stays_so() {
        use Noted::{Changed, Nothing};
        for (first, then, noted, expected) in [
            (revoked(9), revoked(9), Nothing, revoked(9)),
            (revoked(9), revoked(10), Nothing, revoked(9)),
            (revoked(9), undone(9), Changed, undone(9)),
            (revoked(9), undone(5), Changed, undone(9)),
            (undone(5), revoked(9), Changed, undone(9)),
            (undone(9), revoked(9), Nothing, undone(9)),
            (undone(9), undone(5), Nothing, undone(9)),
        ] {
            let mut book = book(&[(1, first.clone())]);
            assert_eq!(book.note(Id(1), then.clone()), noted, "{first:?} {then:?}");
            assert_eq!(sorted(&book), [(Id(1), expected)], "{first:?} {then:?}");
        }
    }

    #[test]
    fn what_has_ended_is_forgotten_an_hour_later() {
        let mut book = book(&[(1, revoked(100)), (2, undone(100)), (3, revoked(101)), (4, revoked(i64::MAX))]);
        assert_eq!(book.forget_ended(3699), []);
        let mut forgotten = book.forget_ended(3700);
        forgotten.sort();
        assert_eq!((forgotten, book.len()), (vec![Id(1), Id(2)], 2));
        assert_eq!(book.forget_ended(i64::MAX).len(), 2);
    }

    #[test]
    fn what_another_lacks_is_found() {
        let mine = book(&[(1, revoked(9)), (2, undone(9)), (3, undone(9)), (4, revoked(9)), (5, revoked(3))]);
        let theirs = book(&[(1, revoked(9)), (2, revoked(9)), (4, undone(9)), (6, revoked(9))]);
        let mut beyond: Vec<_> = mine.beyond(&theirs, 3).map(|(id, record)| (id, record.clone())).collect();
        beyond.sort_by_key(|(id, _)| *id);
        assert_eq!(beyond, [(Id(2), undone(9)), (Id(3), undone(9))]);
    }

    #[test]
    fn it_has_an_end() {
        let mut book = Book::default();
        for id in 0..KNOWN_MAX as u64 {
            assert_eq!(book.note(Id(id), undone(9)), Noted::Changed);
        }
        assert_eq!(book.note(Id(u64::MAX), revoked(9)), Noted::Full);
        assert_eq!(book.note(Id(0), revoked(10)), Noted::Changed, "what is known may still change");
        assert_eq!(book.len(), KNOWN_MAX);
    }

    proptest! {
        #[test]
        fn the_order_of_being_told_does_not_matter(
            told in prop::collection::vec((0..3u64, any::<bool>()), 0..10),
            again in any::<prop::sample::Index>(),
        ) {
            // A name means one revocation; what differs is who has heard that it was undone.
            let told: Vec<_> =
                told.into_iter().map(|(id, is)| (id, if is { revoked(9) } else { undone(9) })).collect();
            let mut turned = told.clone();
            turned.reverse();
            if !told.is_empty() {
                turned.push(told[again.index(told.len())].clone());
            }
            prop_assert_eq!(sorted(&book(&told)), sorted(&book(&turned)));
            prop_assert_eq!(book(&told).beyond(&book(&turned), 0).count(), 0);
        }
    }
}
