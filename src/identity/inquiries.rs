//! Questions to somebody else about credentials: each asked once at a time, only so many at once, and none while nobody
//! answers.
//!
//! What a flood of made-up credentials can do is bounded in four ways. Each question takes a place: whoever finds none is
//! refused at once, since in a queue everybody would only be late. Of these one source address can take so many, and
//! some are kept for credentials that were good not long ago: who is known stays known, however many strangers knock.
//! How often strangers ask is bounded by source and in all. And whether they answer is judged twice, by what becomes of
//! strangers' questions and of known ones: whoever can write a credential that they stumble over keeps nobody known from
//! being asked about.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::watch;

use super::breaker::{Attempt, Breaker, Change, Pace, Pass};
use super::strangers::{Allowance, Asker, Places, Rate, network};
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
    allowance: Allowance,
    /// What strangers' questions say of whether they answer.
    strangers: Breaker,
    /// What questions for the known say of it, whose credentials they have understood before.
    known: Breaker,
    /// The sources of strangers whose questions failed since there was an answer.
    failed_for: SmallVec<[IpAddr; 4]>,
    counts: Counts,
}

struct Inquiry {
    asker: Asker,
    told: watch::Receiver<Option<Verdict>>,
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
    /// Those not asked for want of a place, or because strangers have asked too much.
    pub(crate) no_place: u64,
}

/// The place of one question. Dropped without a word, for a panic or the end of the agent, it is free again, and who
/// waited hears that there is no answer.
pub(crate) struct Place {
    inquiries: Arc<Inquiries>,
    about: Arc<[u8]>,
    asker: Asker,
    tell: watch::Sender<Option<Verdict>>,
    concluded: bool,
}

impl Inquiries {
    pub(crate) fn new(pace: Pace, unanswered: Rejection) -> Inquiries {
        let desk = Desk {
            under_way: HashMap::new(),
            allowance: Allowance::new(OF_ALL, OF_A_SOURCE),
            strangers: Breaker::new(pace),
            known: Breaker::new(pace),
            failed_for: SmallVec::new(),
            counts: Counts::default(),
        };
        Inquiries { desk: Mutex::new(desk), unanswered }
    }

    /// Whether to ask about that credential, or to wait for who has asked.
    pub(crate) fn open(self: &Arc<Self>, about: &[u8], asker: Asker, now: Now) -> Opening {
        let mut desk = self.desk.lock();
        let unanswering = desk.breaker(asker).is_open();
        if let Some(inquiry) = desk.under_way.get(about) {
            return if unanswering {
                Opening::Refused(Refused::Unanswering)
            } else {
                Opening::Join(self.wait(inquiry.told.clone()))
            };
        }
        if !PLACES.has_one(asker, desk.under_way.values().map(|inquiry| inquiry.asker)) {
            desk.counts.no_place += 1;
            return Opening::Refused(if unanswering { Refused::Unanswering } else { Refused::NoPlace });
        }
        if let Asker::Stranger(source) = asker
            && !desk.allowance.take(source, now)
        {
            desk.counts.no_place += 1;
            return Opening::Refused(if unanswering { Refused::Unanswering } else { Refused::NoPlace });
        }
        let pass = desk.breaker(asker).pass(now);
        if pass == Pass::Shut {
            desk.give_back(asker);
            return Opening::Refused(Refused::Unanswering);
        }
        let about: Arc<[u8]> = about.into();
        let (tell, told) = watch::channel(None);
        let wait = (pass == Pass::Free).then(|| self.wait(told.clone()));
        desk.under_way.insert(Arc::clone(&about), Inquiry { asker, told });
        desk.counts.asked += 1;
        Opening::Begin(Place { inquiries: Arc::clone(self), about, asker, tell, concluded: false }, wait)
    }

    /// Notes that there was an answer, whatever it was.
    pub(crate) fn answered(&self, now: Now) -> Change {
        let mut desk = self.desk.lock();
        desk.failed_for.clear();
        desk.change(|desk| {
            desk.strangers.learn(Attempt::Answered, now);
            desk.known.learn(Attempt::Answered, now);
        })
    }

    /// Notes that there was none. A failure that may lie in the credential itself counts once for each source of strangers
    /// until somebody has an answer; `None` where it did not count.
    pub(crate) fn failed(&self, asker: Asker, failure: &Failure, now: Now) -> Option<Change> {
        let attempt = || Attempt::Failed { error: failure.error.clone(), retry_after: failure.retry_after };
        let mut desk = self.desk.lock();
        desk.counts.failed += 1;
        if let Asker::Stranger(Some(source)) = asker
            && failure.is_suspect
            && failure.retry_after.is_none()
            && !desk.strangers.is_open()
        {
            let source = network(source);
            if desk.failed_for.contains(&source) {
                return None;
            }
            desk.failed_for.push(source);
        }
        Some(desk.change(|desk| {
            if asker == Asker::Known {
                desk.known.learn(attempt(), now);
            }
            desk.strangers.learn(attempt(), now);
        }))
    }

    /// Notes that one question had no answer, which says nothing about others.
    pub(crate) fn not_understood(&self) {
        self.desk.lock().counts.failed += 1;
    }

    /// What was asked so far, whether answers come, and why the last one did not.
    pub(crate) fn status(&self) -> (Counts, bool, Option<String>) {
        let desk = self.desk.lock();
        let last_error = desk.strangers.last_error().or(desk.known.last_error());
        (desk.counts, !desk.is_open(), last_error.map(str::to_owned))
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
    fn breaker(&mut self, asker: Asker) -> &mut Breaker {
        match asker {
            Asker::Stranger(_) => &mut self.strangers,
            Asker::Known => &mut self.known,
        }
    }

    fn is_open(&self) -> bool {
        self.strangers.is_open() || self.known.is_open()
    }

    fn change(&mut self, learn: impl FnOnce(&mut Desk)) -> Change {
        let was_open = self.is_open();
        learn(self);
        match (was_open, self.is_open()) {
            (false, true) => Change::Opened,
            (true, false) => Change::Closed,
            _ => Change::None,
        }
    }

    fn give_back(&mut self, asker: Asker) {
        if let Asker::Stranger(source) = asker {
            self.allowance.give_back(source);
        }
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: String,
    /// How long they want to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the credential may be the reason.
    pub(crate) is_suspect: bool,
}

impl Place {
    /// Who it was taken for.
    pub(crate) fn asker(&self) -> Asker {
        self.asker
    }

    /// Tells everybody who waits. What they may look up must be there by now.
    pub(crate) fn conclude(mut self, verdict: Verdict) {
        if verdict.is_ok() {
            self.inquiries.desk.lock().give_back(self.asker);
        }
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

/// With answers within 10 ms the places are 2,400 new tokens a second, more than any provider would like. 20,000 known tokens
/// that are renewed once in 45 s are 450 a second, which the kept ones do at 18 ms each. An office behind one address can
/// work with half of those for new tokens, and cannot shut out another.
pub(crate) const PLACES: Places = Places { all: 32, kept: 8, of_source: 12 };

/// Good tokens cost nothing, so this is for those that are not: expired ones, of clients that go on, once in five seconds
/// each. Providers limit a client to some hundreds of questions a second, and to fewer a minute where they are small.
const OF_ALL: Rate = Rate { at_once: 500, each: Duration::from_millis(10) };

/// Thirty at once and five a second.
const OF_A_SOURCE: Rate = Rate { at_once: 30, each: Duration::from_millis(200) };
