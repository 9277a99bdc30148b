//! What strangers may cost somebody who is asked about credentials: so many questions at once, and so many in a while.
//!
//! Places keep a slow answerer from drowning, and an [`Allowance`] keeps a quick one from it: with answers in a
//! millisecond twelve places are twelve thousand questions a second, until the answerer asks everybody to stay away.
//! Whose credential turns out to be good was no stranger, and gets the allowance back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::clock::Now;

/// Who a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Somebody with a credential that nothing is known about, from that address.
    Stranger(Option<IpAddr>),
    /// Somebody whose credential was good not long ago.
    Known,
}

/// How many questions may be under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) all: usize,
    /// Of all, those that only the known may take.
    pub(crate) kept: usize,
    /// Of all, those that the strangers of one source may take.
    pub(crate) of_source: usize,
}

impl Places {
    /// Whether there is one, with questions for these `under_way`.
    pub(crate) fn has_one(&self, asker: Asker, under_way: impl Iterator<Item = Asker>) -> bool {
        let (mut all, mut strange, mut of_source) = (0, 0, 0);
        for other in under_way {
            all += 1;
            if let Asker::Stranger(from) = other {
                strange += 1;
                of_source += usize::from(matches!(asker, Asker::Stranger(ours) if of_one_source(from, ours)));
            }
        }
        match asker {
            Asker::Known => all < self.all,
            Asker::Stranger(_) => all < self.all && strange < self.all - self.kept && of_source < self.of_source,
        }
    }
}

/// How often strangers may ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// So many at once, from idle.
    pub(crate) at_once: u32,
    /// And one more each.
    pub(crate) each: Duration,
}

impl Rate {
    /// When a bucket that was full at `full_at` will be after one more, as in GCRA; `None` where it has too little.
    fn take(self, full_at: Option<Instant>, now: Now) -> Option<Instant> {
        let later = full_at.unwrap_or(now.instant()).max(now.instant()).checked_add(self.each)?;
        (later.saturating_duration_since(now.instant()) <= self.each * self.at_once).then_some(later)
    }
}

/// What strangers have left, of each source and in all.
#[derive(Debug)]
pub(crate) struct Allowance {
    of_all: Rate,
    of_source: Rate,
    all_full_at: Option<Instant>,
    /// By network. One that is full again is as good as absent, so what [`Allowance::of_all`] lets in bounds them: with
    /// 500 at once, 100 a second, and six seconds until a source's is full, 1,100.
    sources_full_at: HashMap<IpAddr, Instant, foldhash::fast::RandomState>,
}

impl Allowance {
    pub(crate) fn new(of_all: Rate, of_source: Rate) -> Allowance {
        Allowance { of_all, of_source, all_full_at: None, sources_full_at: HashMap::default() }
    }

    /// Takes one, if there is one. Where it is not said where a question comes from, it counts among all only.
    pub(crate) fn take(&mut self, source: Option<IpAddr>, now: Now) -> bool {
        let source = source.map(network);
        let known = source.and_then(|source| self.sources_full_at.get(&source).copied());
        let (Some(all), Some(of_source)) = (self.of_all.take(self.all_full_at, now), self.of_source.take(known, now))
        else {
            return false;
        };
        self.all_full_at = Some(all);
        if let Some(source) = source {
            if self.sources_full_at.len() >= SOURCES_BEFORE_SWEEP {
                self.sources_full_at.retain(|_, full_at| *full_at > now.instant());
            }
            self.sources_full_at.insert(source, of_source);
        }
        true
    }

    /// Gives one back.
    pub(crate) fn give_back(&mut self, source: Option<IpAddr>) {
        let sooner = |full_at: &mut Instant, rate: Rate| *full_at = full_at.checked_sub(rate.each).unwrap_or(*full_at);
        if let Some(full_at) = &mut self.all_full_at {
            sooner(full_at, self.of_all);
        }
        if let Some(full_at) = source.and_then(|source| self.sources_full_at.get_mut(&network(source))) {
            sooner(full_at, self.of_source);
        }
    }
}

/// Whether both come from one network, or neither says from where.
fn of_one_source(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    one.map(network) == other.map(network)
}

/// Who shares an address: whoever has one of IPv6 has at least 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Twice what there is at most, so that not every question sweeps.
const SOURCES_BEFORE_SWEEP: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn v4(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    fn v6(net: u16, last: u16) -> Option<IpAddr> {
        Some(IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, last]))
    }

    fn taken(allowance: &mut Allowance, source: Option<IpAddr>, now: Now) -> usize {
        (0..100).filter(|_| allowance.take(source, now)).count()
    }

    #[test]
    fn a_source_has_so_much_and_all_together_have_so_much() {
        let rate = |at_once, each_ms| Rate { at_once, each: Duration::from_millis(each_ms) };
        let (mut allowance, clock) = (Allowance::new(rate(10, 100), rate(4, 1000)), Clock::by_hand(1_000));
        assert_eq!(taken(&mut allowance, v6(1, 1), clock.now()), 4);
        assert_eq!(taken(&mut allowance, v6(1, 2), clock.now()), 0, "a network is one source");
        assert_eq!(taken(&mut allowance, v6(2, 1), clock.now()), 4);
        assert_eq!(taken(&mut allowance, v4(1), clock.now()), 2, "ten in all");
        assert_eq!(taken(&mut allowance, None, clock.now()), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&mut allowance, v6(1, 1), clock.now()), 1);
        assert_eq!(taken(&mut allowance, None, clock.now()), 9, "without a source only the whole counts");
        // Whose credential was good has asked for nothing.
        clock.advance(Duration::from_secs(1000));
        for _ in 0..1000 {
            assert!(allowance.take(v4(1), clock.now()));
            allowance.give_back(v4(1));
        }
        assert_eq!(taken(&mut allowance, v4(1), clock.now()), 4);
    }

    #[test]
    fn sources_that_are_full_again_are_forgotten() {
        let (all, one) = (Duration::from_millis(10), Duration::from_millis(200));
        let mut allowance = Allowance::new(Rate { at_once: 500, each: all }, Rate { at_once: 30, each: one });
        let clock = Clock::by_hand(1_000);
        for n in 0..20_000_u32 {
            assert!(allowance.take(Some(IpAddr::from(n.to_be_bytes())), clock.now()));
            clock.advance(all);
        }
        assert!(allowance.sources_full_at.len() <= SOURCES_BEFORE_SWEEP, "{}", allowance.sources_full_at.len());
    }

    #[test]
    fn places_are_kept_for_the_known_and_no_source_has_all_others() {
        let places = Places { all: 8, kept: 2, of_source: 3 };
        let strangers = |source, count| std::iter::repeat_n(Asker::Stranger(source), count);
        let has = |asker, under_way: Vec<Asker>| places.has_one(asker, under_way.into_iter());
        for (asker, under_way, expected) in [
            (Asker::Stranger(v4(1)), strangers(v4(1), 2).collect(), true),
            (Asker::Stranger(v4(1)), strangers(v4(1), 3).collect(), false),
            (Asker::Stranger(v6(1, 9)), strangers(v6(1, 1), 3).collect(), false),
            (Asker::Stranger(v4(2)), strangers(v4(1), 3).collect(), true),
            (Asker::Stranger(v4(3)), strangers(v4(1), 3).chain(strangers(v4(2), 3)).collect(), false),
            (Asker::Known, strangers(v4(1), 3).chain(strangers(v4(2), 3)).collect(), true),
            (Asker::Stranger(v4(1)), vec![Asker::Known; 7], true),
            (Asker::Known, vec![Asker::Known; 8], false),
        ] {
            assert_eq!(has(asker, under_way.clone()), expected, "{asker:?} {under_way:?}");
        }
    }
}
