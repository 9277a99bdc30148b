//! Questions to somebody else about credentials: each asked once at a time, only so many at once, and none while nobody
//! answers.
//!
//! What a flood of made-up credentials can do is bounded in three ways. Each question takes a place, and there are
//! [`PLACES`]: whoever finds none is refused at once, since in a queue everybody would only be late. Of these one source
//! address can take [`PLACES_OF_A_SOURCE`]. And [`PLACES_TO_RENEW`] are kept for credentials that were good a moment ago
//! and are asked about ahead of their end: who is known stays known, however many strangers knock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::breaker::{Attempt, Breaker, Change, Pace, Pass};
use super::wait::{Answer, Answered, Wait};
use super::{Identity, Rejection};
use crate::clock::Now;

/// What came of a question.
pub(crate) type Verdict = Result<Arc<Identity>, Rejection>;

/// All questions under way to one who is asked.
pub(crate) struct Inquiries {
    desk: Mutex<Desk>,
    /// What those hear whose question has no answer.
    unanswered: Rejection,
}

struct Desk {
    /// By the whole credential. At most [`PLACES`].
    under_way: HashMap<Arc<[u8]>, Inquiry>,
    breaker: Breaker,
    counts: Counts,
}

struct Inquiry {
    purpose: Purpose,
    told: watch::Receiver<Option<Verdict>>,
}

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A credential that nothing is known about, from that address.
    New(Option<IpAddr>),
    /// One that is known to be good, and soon will not be.
    Renewal,
}

/// What there is to do about a credential.
pub(crate) enum Opening {
    /// Somebody has asked already.
    Join(Wait),
    /// Ask, and say at the place what came of it. Without a wait it is to see whether they answer again.
    Begin(Place, Option<Wait>),
    /// They do not answer, or too much is under way.
    Refused(Refused),
}

/// Why a question is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Unanswering,
    NoPlace,
}

/// What was asked so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Questions asked.
    pub(crate) asked: u64,
    /// Those without an answer.
    pub(crate) failed: u64,
    /// Those not asked for want of a place.
    pub(crate) no_place: u64,
}

/// The place of one question. Dropped without a word, for a panic or the end of the agent, it is free again, and who
/// waited hears that there is no answer.
pub(crate) struct Place {
    inquiries: Arc<Inquiries>,
    about: Arc<[u8]>,
    tell: watch::Sender<Option<Verdict>>,
    concluded: bool,
}

impl Inquiries {
    pub(crate) fn new(pace: Pace, unanswered: Rejection) -> Inquiries {
        let desk = Desk { under_way: HashMap::new(), breaker: Breaker::new(pace), counts: Counts::default() };
        Inquiries { desk: Mutex::new(desk), unanswered }
    }

    /// Whether to ask about that credential, or to wait for who has asked.
    pub(crate) fn open(self: &Arc<Self>, about: &[u8], purpose: Purpose, now: Now) -> Opening {
        let mut desk = self.desk.lock();
        let unanswering = desk.breaker.is_open();
        if let Some(inquiry) = desk.under_way.get(about) {
            return if unanswering {
                Opening::Refused(Refused::Unanswering)
            } else {
                Opening::Join(self.wait(inquiry.told.clone()))
            };
        }
        if !desk.has_place(purpose) {
            desk.counts.no_place += 1;
            return Opening::Refused(if unanswering { Refused::Unanswering } else { Refused::NoPlace });
        }
        let pass = desk.breaker.pass(now);
        if pass == Pass::Shut {
            return Opening::Refused(Refused::Unanswering);
        }
        let about: Arc<[u8]> = about.into();
        let (tell, told) = watch::channel(None);
        let wait = (pass == Pass::Free).then(|| self.wait(told.clone()));
        desk.under_way.insert(Arc::clone(&about), Inquiry { purpose, told });
        desk.counts.asked += 1;
        Opening::Begin(Place { inquiries: Arc::clone(self), about, tell, concluded: false }, wait)
    }

    /// Notes whether there was an answer.
    pub(crate) fn learn(&self, attempt: Attempt, now: Now) -> Change {
        let mut desk = self.desk.lock();
        desk.counts.failed += u64::from(matches!(attempt, Attempt::Failed { .. }));
        desk.breaker.learn(attempt, now)
    }

    /// Notes that one question had no answer, which says nothing about others.
    pub(crate) fn not_understood(&self) {
        self.desk.lock().counts.failed += 1;
    }

    /// What was asked so far, whether answers come, and why the last one did not.
    pub(crate) fn status(&self) -> (Counts, bool, Option<String>) {
        let desk = self.desk.lock();
        (desk.counts, !desk.breaker.is_open(), desk.breaker.last_error().map(str::to_owned))
    }

    fn wait(&self, mut told: watch::Receiver<Option<Verdict>>) -> Wait {
        let unanswered = self.unanswered;
        Wait::new(async move {
            let verdict = match told.wait_for(Option::is_some).await {
                Ok(verdict) => verdict.clone(),
                // Nobody is there any more to say anything.
                Err(_) => None,
            };
            Answer(Answered::Identity(verdict.unwrap_or(Err(unanswered))))
        })
    }
}

impl Desk {
    fn has_place(&self, purpose: Purpose) -> bool {
        let taken = |wanted: &dyn Fn(Purpose) -> bool| {
            self.under_way.values().filter(|inquiry| wanted(inquiry.purpose)).count()
        };
        let all = self.under_way.len();
        match purpose {
            Purpose::Renewal => all < PLACES,
            Purpose::New(source) => {
                let of_source = |purpose: Purpose| match purpose {
                    Purpose::New(other) => other.map(network) == source.map(network),
                    Purpose::Renewal => false,
                };
                let new = taken(&|purpose| purpose != Purpose::Renewal);
                all < PLACES && new < PLACES - PLACES_TO_RENEW && taken(&of_source) < PLACES_OF_A_SOURCE
            }
        }
    }
}

impl Place {
    /// Tells everybody who waits. What they may look up must be there by now.
    pub(crate) fn conclude(mut self, verdict: Verdict) {
        self.leave();
        self.tell.send_replace(Some(verdict));
    }

    /// Nobody joins a question that has ended.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.concluded, true) {
            self.inquiries.desk.lock().under_way.remove(&self.about);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Who shares an address: whoever has one of IPv6 has at least 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// With answers within 10 ms that is 2,400 new tokens a second, more than any provider would like.
pub(crate) const PLACES: usize = 32;

/// 20,000 known tokens that are renewed once in 45 s are 450 a second, which eight places do at 18 ms each.
pub(crate) const PLACES_TO_RENEW: usize = 8;

/// Half of those for new tokens: an office behind one address can work, and cannot shut out another.
pub(crate) const PLACES_OF_A_SOURCE: usize = 12;
