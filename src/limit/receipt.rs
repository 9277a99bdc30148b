//! What HAProxy keeps for us until the response is there: which counters hold something that is still to be settled.
//!
//! It goes to HAProxy with the decision and comes back with the report, so that whichever agent gets that can settle it, and
//! an agent that was started again meanwhile too. Callers never see it. It says all that is needed and nothing of a config,
//! since that may be another one by then.
//!
//! A version; where it was charged; then for each counter a letter for what is owed, the counter's name, and
//! - `p` (a place): its holder;
//! - `r` `s` `c` (a cost, by the quota's kind): when it was charged, how much was, the quota's numbers, and the name of the
//!   header field that says the rest.
//!
//! Numbers are LEB128, texts have their length before them.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::calendar::{Calendar, Unit};
use super::key::CounterKey;
use super::quota::{Quota, Rate, Sliding};
use super::settle::{Change, Settlement};
use super::slots::Holder;
use super::store::Charge;

/// Where a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this agent's memory.
    Memory,
    /// In Redis.
    Redis,
}

/// Puts a receipt together.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

const VERSION: u8 = 1;

/// Counters of one receipt: more limits than a rule has.
const ENTRIES_MAX: usize = 16;

impl Writer {
    /// Adds a charge that was made, where something of it is still to be settled.
    pub(super) fn add(&mut self, charge: &Charge, place: Place, charged_us: u64) {
        let header = match (&charge.quota, &charge.limit.settles) {
            (Quota::Concurrent(_), _) => None,
            (_, Some(header)) => Some(header),
            (_, None) => return,
        };
        if self.0.is_empty() {
            self.0.extend([VERSION, if place == Place::Redis { b'r' } else { b'm' }]);
        }
        let letter = match &charge.quota {
            Quota::Rate(_) => b'r',
            Quota::Sliding(_) => b's',
            Quota::Calendar(_) => b'c',
            Quota::Concurrent(_) => b'p',
        };
        self.0.push(letter);
        self.text(charge.key.as_bytes());
        let Some(header) = header else {
            self.0.extend(charge.holder.as_bytes());
            return;
        };
        self.number(charged_us);
        self.number(u64::from(charge.cost));
        self.number(charge.quota.count());
        match &charge.quota {
            Quota::Rate(rate) => {
                self.number(rate.period_us());
                self.number(rate.burst());
            }
            Quota::Sliding(sliding) => self.number(sliding.period_us()),
            Quota::Calendar(calendar) => {
                self.0.push(calendar.unit().name().as_bytes()[0]);
                self.text(calendar.zone().iana_name().unwrap_or("UTC").as_bytes());
            }
            Quota::Concurrent(_) => {}
        }
        self.text(header.as_bytes());
    }

    /// `None` where nothing is to be settled.
    pub(super) fn finish(self) -> Option<Box<[u8]>> {
        (!self.0.is_empty()).then(|| self.0.into_boxed_slice())
    }

    fn number(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.extend(text);
    }
}

/// What a receipt has to be settled, given what the response says each header field costs; `None` where it is no receipt
/// of ours. What costs just what was charged needs nothing.
pub(super) fn read(receipt: &[u8], cost_of: impl Fn(&str) -> Option<u32>) -> Option<(Place, Vec<Settlement>)> {
    let mut reader = Reader(receipt);
    if reader.byte()? != VERSION {
        return None;
    }
    let place = match reader.byte()? {
        b'r' => Place::Redis,
        b'm' => Place::Memory,
        _ => return None,
    };
    let mut settlements = Vec::new();
    for _ in 0..ENTRIES_MAX {
        if reader.0.is_empty() {
            return Some((place, settlements));
        }
        settlements.extend(reader.entry(&cost_of)?);
    }
    reader.0.is_empty().then_some((place, settlements))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `Some(None)` where there is nothing to be done.
    fn entry(&mut self, cost_of: impl Fn(&str) -> Option<u32>) -> Option<Option<Settlement>> {
        let letter = self.byte()?;
        let key = CounterKey::named(self.text()?)?;
        if letter == b'p' {
            let holder = Holder::named(*self.bytes(16)?.first_chunk()?);
            // A place is given back by its name, whatever there is of them.
            let quota = Quota::Concurrent(super::quota::Concurrent::new(1, Duration::from_secs(1))?);
            return Some(Some(Settlement { quota, key, holder, change: Change::Back(1), charged_us: 0 }));
        }
        let (charged_us, charged) = (self.number()?, u32::try_from(self.number()?).ok()?);
        let count = self.number()?;
        let quota = match letter {
            b'r' => Quota::Rate(Rate::new(count, Duration::from_micros(self.number()?), self.number()?)?),
            b's' => Quota::Sliding(Sliding::new(count, Duration::from_micros(self.number()?))?),
            b'c' => {
                let unit = match self.byte()? {
                    b'd' => Unit::Day,
                    b'w' => Unit::Week,
                    b'm' => Unit::Month,
                    b'y' => Unit::Year,
                    _ => return None,
                };
                let zone = TimeZone::get(std::str::from_utf8(self.text()?).ok()?).ok()?;
                Quota::Calendar(Calendar::new(count, unit, zone)?)
            }
            _ => return None,
        };
        let header = std::str::from_utf8(self.text()?).ok()?;
        let change = match cost_of(header) {
            Some(cost) if cost > charged => Change::More(cost - charged),
            Some(cost) if cost < charged => Change::Back(charged - cost),
            _ => return Some(None),
        };
        Some(Some(Settlement { quota, key, holder: Holder::NONE, change, charged_us }))
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, number: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(number)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.bytes(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{How, Limit, OnFailure};
    use super::*;

    fn charge(quota: Quota, settles: Option<&str>) -> Charge {
        let limit = Limit { settles: settles.map(Arc::from), ..Limit::new("l", quota.clone(), OnFailure::Local, 7) };
        let mut key = CounterKey::of(&limit);
        key.part(b"alice");
        let holder = Holder::of(b"request");
        Charge { limit: Arc::new(limit), quota, key: key.finish(), cost: 10, holder, how: How::Take }
    }

    fn quotas() -> [Quota; 4] {
        let minute = Duration::from_secs(60);
        [
            Quota::Rate(Rate::new(100, minute, 20).unwrap()),
            Quota::Sliding(Sliding::new(100, minute).unwrap()),
            Quota::Calendar(Calendar::new(100, Unit::Month, TimeZone::get("Europe/Berlin").unwrap()).unwrap()),
            Quota::Concurrent(super::super::Concurrent::new(1, Duration::from_secs(1)).unwrap()),
        ]
    }

    #[test]
    fn what_is_owed_is_read_as_it_was_written() {
        let charges = quotas().map(|quota| charge(quota, Some("x-tokens")));
        let mut writer = Writer::default();
        charges.iter().for_each(|charge| writer.add(charge, Place::Redis, 1_700_000_000_000_000));
        let receipt = writer.finish().unwrap();
        assert!(receipt.len() < 240, "{} bytes for four limits: an ACK has 815", receipt.len());
        for (cost, change) in [(25, Some(Change::More(15))), (3, Some(Change::Back(7))), (10, None)] {
            let (place, owed) = read(&receipt, |name| (name == "x-tokens").then_some(cost)).unwrap();
            assert_eq!(place, Place::Redis);
            let costs: Vec<_> = owed.iter().filter(|owed| !matches!(owed.quota, Quota::Concurrent(_))).collect();
            assert_eq!(costs.len(), if change.is_some() { 3 } else { 0 });
            for (owed, charge) in costs.iter().zip(&charges) {
                assert_eq!((&owed.quota, owed.key, Some(owed.change)), (&charge.quota, charge.key, change));
                assert_eq!(owed.charged_us, 1_700_000_000_000_000);
            }
            let place = owed.last().unwrap();
            assert_eq!((place.key, place.holder, place.change), (charges[3].key, charges[3].holder, Change::Back(1)));
        }
        assert_eq!(read(&receipt, |_| None).unwrap().1.len(), 1, "a response that says nothing costs what was charged");
    }

    #[test]
    fn what_knows_its_cost_needs_no_receipt() {
        let mut writer = Writer::default();
        quotas()[..3].iter().for_each(|quota| writer.add(&charge(quota.clone(), None), Place::Memory, 1));
        assert_eq!(writer.finish(), None);
    }

    #[test]
    fn what_is_no_receipt_is_none_and_no_panic() {
        let mut writer = Writer::default();
        quotas().iter().for_each(|quota| writer.add(&charge(quota.clone(), Some("x")), Place::Memory, 1));
        let receipt = writer.finish().unwrap();
        let good = read(&receipt, |_| Some(1)).unwrap().1.len();
        for at in 0..receipt.len() {
            // Cut between two counters it is a shorter one.
            let cut = read(&receipt[..at], |_| Some(1));
            assert!(cut.is_none_or(|(_, owed)| owed.len() < good), "cut at {at}");
            for bit in 0..8 {
                let mut broken = receipt.to_vec();
                broken[at] ^= 1 << bit;
                let _ = read(&broken, |_| Some(1));
            }
        }
        assert!(read(&[], |_| None).is_none());
        assert!(
            read(&[VERSION, b'r', b'r', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], |_| None)
                .is_none()
        );
    }
}
