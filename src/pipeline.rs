//! The five verbs in order, and what happens when one of them cannot answer: fail open or closed is decided here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::decision::{Decision, DecisionId, LOG_TARGET, Reason, Summary};
use crate::extract::{Malformed, extract, is_report, report};
use crate::identity::{self, Accepted, Answers, Identified, Identities, Identity, Rejection, Wait};
use crate::limit::{Budget, Charges, Counted, Counters, Exceeded, OnFailure, State};
use crate::policy::rule::Unavailable;
use crate::policy::{Denial, Matched, Permit, Policy};
use crate::request::Request;
use crate::spop::Messages;
use crate::trace::{Outcome, Trace};

/// One config's worth of deciding. A reload makes another one and swaps it in between two decisions.
pub struct Pipeline {
    /// Who is calling.
    pub identities: Identities,
    /// Whether they may.
    pub policy: Policy,
    /// Whether they have any left; shared with the pipelines before and after a reload.
    pub counters: Arc<Counters>,
    /// Names decisions.
    pub ids: Arc<DecisionIds>,
    /// Every decision is made within this.
    pub deadline: Duration,
    /// The config's version, for whoever reads of its decisions.
    pub version: u64,
    /// Whether each decision is written down, whatever the log's filter says.
    pub audited: bool,
}

/// Whoever answers questions: the connections know nothing else of what is behind them.
pub trait Decide: Send + Sync {
    /// Decides one NOTIFY.
    fn decide(&self, messages: &Messages<'_>, now: Now) -> Step;

    /// A decision that no stage made: the deadline passed, or one of them panicked.
    fn without_stages(&self, reason: Reason, now: Now) -> Decision;

    /// What was asked, for a decision that no stage made; `None` where nobody will read it.
    fn asked(&self, _messages: &Messages<'_>) -> Option<Box<Summary>> {
        None
    }

    /// Every decision is made within this.
    fn deadline(&self) -> Duration;
}

/// The pipeline in force. A reload stores another one between two decisions; what is being decided ends with the old.
pub struct Live(ArcSwap<Pipeline>);

impl Live {
    /// Begins with `pipeline`.
    pub fn new(pipeline: Pipeline) -> Live {
        Live(ArcSwap::from_pointee(pipeline))
    }

    /// The pipeline in force.
    pub fn pipeline(&self) -> Arc<Pipeline> {
        self.0.load_full()
    }

    /// Puts another one in force.
    pub fn store(&self, pipeline: Pipeline) {
        self.0.store(Arc::new(pipeline));
    }
}

impl Decide for Live {
    fn decide(&self, messages: &Messages<'_>, now: Now) -> Step {
        self.0.load().decide(messages, now)
    }

    fn without_stages(&self, reason: Reason, now: Now) -> Decision {
        self.0.load().without_stages(reason, now)
    }

    fn asked(&self, messages: &Messages<'_>) -> Option<Box<Summary>> {
        let request = extract(messages).ok()?;
        self.0.load().summary(&request)
    }

    fn deadline(&self) -> Duration {
        self.0.load().deadline
    }
}

/// A decision, or the promise of one.
// Deciding at once is the common case, and must not allocate.
#[allow(clippy::large_enum_variant)]
pub enum Step {
    /// Decided without waiting.
    Done(Decision),
    /// Keys or counters must be asked.
    Wait(Pin<Box<dyn Future<Output = Decision> + Send>>),
    /// It was no question: what a response made known was taken note of.
    Noted,
}

impl Pipeline {
    /// Decides one NOTIFY. What needs no waiting is decided here and now; what must wait keeps a copy of the messages.
    pub fn decide(self: &Arc<Self>, messages: &Messages<'_>, now: Now) -> Step {
        if is_report(messages) {
            if let Some(report) = report(messages) {
                self.counters.settle(report.receipt, |argument| report.cost(argument), now);
            }
            return Step::Noted;
        }
        let answers = Answers::default();
        let (asked, about) = self.ask(messages, now, &answers, &mut Trace::off());
        match asked {
            Asked::Decided(decision) => Step::Done(decision),
            Asked::Denied(decision, charges) => self.count_denied(decision, charges, now),
            Asked::Permitted(permit, identity, complete) => self.count(permit, identity, complete, now),
            Asked::Wait(wait) => self.ask_again(wait, answers, messages, now),
        }
        .about(about)
    }

    /// The same for somebody who wants to know why: each check says itself, and limits are looked at, not charged.
    pub async fn explain(&self, messages: &Messages<'_>, now: Now, trace: &mut Trace) -> Decision {
        let mut answers = Answers::default();
        let (permit, identity, complete) = loop {
            match self.ask(messages, now, &answers, trace).0 {
                Asked::Decided(decision) => return decision,
                Asked::Denied(decision, charges) => {
                    return match self.counters.peek(&charges, now).await {
                        Ok(Err(exceeded)) => decision.held_up(exceeded),
                        _ => decision,
                    };
                }
                Asked::Permitted(permit, identity, complete) => break (permit, identity, complete),
                Asked::Wait(wait) => {
                    trace.step("identify", Outcome::Note, || "waiting for an answer from elsewhere".to_owned());
                    answers.add(wait.await);
                }
            }
        };
        if permit.charges().is_empty() {
            trace.step(COUNT, Outcome::Note, || "no limit applies".to_owned());
            return complete.mark(Decision::allowed(self.ids.next(now), identity, &permit, Budget::default()));
        }
        match self.counters.peek(permit.charges(), now).await {
            Ok(counted) => {
                let (outcome, states) = match &counted {
                    Ok(budget) => (Outcome::Pass, &budget.states),
                    Err(exceeded) => (Outcome::Fail, &exceeded.states),
                };
                for state in states {
                    trace.step(COUNT, outcome, || left(state));
                }
                complete.mark(self.counted(&permit, identity, counted, now))
            }
            Err(failure) => {
                trace.step(COUNT, Outcome::Fail, || format!("the counters cannot answer: {failure}"));
                self.uncounted(&permit, identity, now)
            }
        }
    }

    /// What the policy says if `assumed` asks, limits aside. For tests that a config holds; proves nothing.
    pub fn rehearse(&self, messages: &Messages<'_>, assumed: &Arc<Identity>, now: Now) -> Decision {
        let mut trace = Trace::off();
        let request = match extract(messages) {
            Ok(request) => request,
            Err(malformed) => return self.malformed(malformed, now),
        };
        let matched = match self.policy.find(&request, &mut trace) {
            Ok(matched) => matched,
            Err(denial) => return self.refused(denial, self.identities.anonymous(), now),
        };
        let identity = if matched.ignores_credentials() { self.identities.anonymous() } else { Arc::clone(assumed) };
        match matched.authorize(&request, &identity, now, &mut trace) {
            Ok(permit) => Decision::allowed(self.ids.next(now), identity, &permit, Budget::default()),
            Err(denial) => self.refused(denial, identity, now),
        }
    }

    /// Extract, identify, authorize: all that can be said before counting.
    fn ask(&self, messages: &Messages<'_>, now: Now, answers: &Answers, trace: &mut Trace) -> (Asked, About) {
        let request = match extract(messages) {
            Ok(request) => request,
            Err(malformed) => {
                trace.step("extract", Outcome::Fail, || malformed.to_string());
                return (Asked::Decided(self.malformed(malformed, now)), About::default());
            }
        };
        let about = About { summary: self.summary(&request), dpop_nonce: self.identities.dpop_nonce(&request, now) };
        (self.ask_about(&request, now, answers, trace), about)
    }

    fn ask_about(&self, request: &Request<'_>, now: Now, answers: &Answers, trace: &mut Trace) -> Asked {
        let matched = match self.policy.find(request, trace) {
            Ok(matched) => matched,
            Err(denial) => return Asked::Decided(self.refused(denial, self.identities.anonymous(), now)),
        };
        let (identity, complete) = match self.identify(request, &matched, now, answers, trace) {
            Identified::Known(identity) => (identity, Complete::Yes),
            Identified::Rejected(rejection)
                if rejection.is_failure() && matched.identity_unavailable() == Unavailable::Anonymous =>
            {
                trace.step("identify", Outcome::Note, || {
                    "the rule says that a credential which cannot be looked into is none".to_owned()
                });
                (self.identities.anonymous(), Complete::WithoutIdentity)
            }
            Identified::Rejected(rejection) => {
                let mut decision = self.rejected(rejection, matched.rule(), matched.credentials(), now);
                decision.presented = identity::presented(request);
                if !rejection.proves_nothing() {
                    return Asked::Decided(decision);
                }
                let charges = matched.charges_denied(request, self.identities.anonymous().as_ref(), now);
                return if charges.is_empty() { Asked::Decided(decision) } else { Asked::Denied(decision, charges) };
            }
            Identified::Wait(keys) => return Asked::Wait(keys),
        };
        match matched.authorize(request, &identity, now, trace) {
            Ok(permit) => Asked::Permitted(permit, identity, complete),
            Err(denial) => {
                let mut decision = self.refused(denial, identity, now);
                decision.accepted = *matched.credentials();
                decision.presented = identity::presented(request);
                Asked::Decided(decision)
            }
        }
    }

    fn identify(
        &self,
        request: &Request<'_>,
        matched: &Matched<'_>,
        now: Now,
        answers: &Answers,
        trace: &mut Trace,
    ) -> Identified {
        if matched.ignores_credentials() {
            trace.step("identify", Outcome::Note, || "the rule says that credentials are not looked at".to_owned());
            return Identified::Known(self.identities.anonymous());
        }
        self.identities.identify(request, matched.credentials(), answers, now, trace)
    }

    /// Asks again whenever something that was waited for has come, or half the deadline has passed.
    fn ask_again(self: &Arc<Self>, wait: Wait, answers: Answers, messages: &Messages<'_>, now: Now) -> Step {
        let pipeline = Arc::clone(self);
        let bytes = messages.as_bytes().to_vec();
        Step::Wait(Box::pin(async move {
            // They did decode a moment ago.
            let Ok(messages) = Messages::decode(&bytes) else {
                return pipeline.without_stages(Reason::Internal, now);
            };
            // The other half is left for the counters.
            let mut time = std::pin::pin!(tokio::time::sleep(pipeline.deadline / 2));
            let mut answers = answers;
            let mut wait = wait;
            let step = loop {
                tokio::select! {
                    answer = wait => answers.add(answer),
                    () = &mut time => answers.close(),
                }
                match pipeline.ask(&messages, now, &answers, &mut Trace::off()).0 {
                    Asked::Decided(decision) => break Step::Done(decision),
                    Asked::Denied(decision, charges) => break pipeline.count_denied(decision, charges, now),
                    Asked::Permitted(permit, identity, complete) => {
                        break pipeline.count(permit, identity, complete, now);
                    }
                    // Each sort of answer is waited for once, and none after `close`.
                    Asked::Wait(next) => wait = next,
                }
            };
            match step {
                Step::Done(decision) => decision,
                Step::Wait(decision) => decision.await,
                Step::Noted => pipeline.without_stages(Reason::Internal, now),
            }
        }))
    }

    fn count(self: &Arc<Self>, permit: Permit, identity: Arc<Identity>, complete: Complete, now: Now) -> Step {
        match self.counters.charge(permit.charges(), now, now.instant() + self.deadline) {
            Counted::Now(counted) => Step::Done(complete.mark(self.counted(&permit, identity, counted, now))),
            Counted::Failed(_) => Step::Done(self.uncounted(&permit, identity, now)),
            Counted::Later(counted) => {
                let pipeline = Arc::clone(self);
                Step::Wait(Box::pin(async move {
                    match counted.await {
                        Ok(counted) => complete.mark(pipeline.counted(&permit, identity, counted, now)),
                        // The store has logged it, once an episode.
                        Err(_) => pipeline.uncounted(&permit, identity, now),
                    }
                }))
            }
        }
    }

    /// Counts a credential that proves nothing. It is refused whatever comes of that; where too many of them came, so is
    /// whatever else comes from there, and that is what it is told.
    fn count_denied(self: &Arc<Self>, decision: Decision, charges: Charges, now: Now) -> Step {
        let told = |decision: Decision, counted: Result<Budget, Exceeded>| match counted {
            Ok(_) => decision,
            Err(exceeded) => decision.held_up(exceeded),
        };
        match self.counters.charge(&charges, now, now.instant() + self.deadline) {
            Counted::Now(counted) => Step::Done(told(decision, counted)),
            Counted::Failed(_) => Step::Done(self.uncounted_denied(decision, &charges, now)),
            Counted::Later(counted) => {
                let pipeline = Arc::clone(self);
                Step::Wait(Box::pin(async move {
                    match counted.await {
                        Ok(counted) => told(decision, counted),
                        Err(_) => pipeline.uncounted_denied(decision, &charges, now),
                    }
                }))
            }
        }
    }

    /// The counters cannot answer, and the credential is refused anyway; what says `local` is counted here meanwhile.
    fn uncounted_denied(&self, decision: Decision, charges: &Charges, now: Now) -> Decision {
        let local: Charges =
            charges.iter().filter(|charge| charge.limit.on_failure == OnFailure::Local).cloned().collect();
        match self.counters.charge_share(&local, now) {
            Ok(_) => decision,
            Err(exceeded) => Decision { degraded: true, ..decision.held_up(exceeded) },
        }
    }

    fn counted(
        &self,
        permit: &Permit,
        identity: Arc<Identity>,
        counted: Result<Budget, Exceeded>,
        now: Now,
    ) -> Decision {
        let id = self.ids.next(now);
        match counted {
            Ok(budget) => Decision::allowed(id, identity, permit, budget),
            Err(exceeded) => Decision::throttled(id, identity, permit, exceeded),
        }
    }

    /// The counters cannot answer: each limit says what then holds for it. One that says `deny` decides; the ones that
    /// say `local` are enforced here, each agent its share; the ones that say `allow` are passed over.
    fn uncounted(&self, permit: &Permit, identity: Arc<Identity>, now: Now) -> Decision {
        let mut decision = if permit.charges().iter().any(|charge| charge.limit.on_failure == OnFailure::Deny) {
            let mut decision = self.decision(Reason::StoreUnavailable, identity, now).by(Some(permit.rule()));
            decision.shadows = permit.shadows().clone();
            decision
        } else {
            let local: Charges =
                permit.charges().iter().filter(|charge| charge.limit.on_failure == OnFailure::Local).cloned().collect();
            self.counted(permit, identity, self.counters.charge_share(&local, now), now)
        };
        decision.degraded = true;
        // A share is not the limit: what remains of it would be untrue in a header.
        decision.budget.states.clear();
        decision
    }

    /// The credential of a request is not good; of the rule that would have decided, its name and what it accepts.
    pub fn rejected(&self, rejection: Rejection, rule: Option<&Arc<str>>, accepted: &Accepted, now: Now) -> Decision {
        let reason = Reason::Rejected(rejection);
        let mut decision = self.decision(reason, self.identities.anonymous(), now).by(rule);
        decision.accepted = *accepted;
        decision.degraded = rejection.is_failure();
        decision
    }

    fn refused(&self, denial: Denial, identity: Arc<Identity>, now: Now) -> Decision {
        let degraded = denial.refusal.is_failure();
        let mut decision = self.decision(Reason::Refused(denial.refusal), identity, now).by(denial.rule.as_ref());
        decision.degraded = degraded;
        decision.shadows = denial.shadows;
        decision.location = denial.location;
        decision
    }

    fn malformed(&self, malformed: Malformed, now: Now) -> Decision {
        let mut decision = self.decision(Reason::BadRequest, self.identities.anonymous(), now);
        decision.summary = Some(Box::new(Summary {
            problem: Some(malformed.to_string()),
            config: self.version,
            ..Summary::default()
        }));
        decision
    }

    /// A decision that no stage made: the deadline passed, or one of them panicked.
    pub fn without_stages(&self, reason: Reason, now: Now) -> Decision {
        let mut decision = self.decision(reason, self.identities.anonymous(), now);
        decision.degraded = true;
        // What was asked is not known here; a decision has its line in the log all the same.
        decision.summary = Some(Box::new(Summary {
            problem: Some("decided by no stage".to_owned()),
            config: self.version,
            ..Summary::default()
        }));
        decision
    }

    /// What was asked, only where somebody will read it.
    fn summary(&self, request: &Request<'_>) -> Option<Box<Summary>> {
        if !self.audited && !tracing::enabled!(target: LOG_TARGET, tracing::Level::INFO) {
            return None;
        }
        Some(Box::new(Summary {
            method: Summary::printable(request.method.as_bytes()),
            host: Summary::printable(request.host.as_bytes()),
            path: Summary::printable(request.path),
            src: request.src.map(|src| src.to_string()).unwrap_or_default(),
            request_id: request.id.map(Summary::printable).unwrap_or_default(),
            token: identity::token_id(request),
            problem: None,
            config: self.version,
        }))
    }

    fn decision(&self, reason: Reason, identity: Arc<Identity>, now: Now) -> Decision {
        Decision::new(self.ids.next(now), reason, identity)
    }
}

/// What is known before counting.
// As with `Step`: neither is to cost an allocation.
#[allow(clippy::large_enum_variant)]
enum Asked {
    Decided(Decision),
    /// Refused, and what that is charged.
    Denied(Decision, Charges),
    Permitted(Permit, Arc<Identity>, Complete),
    Wait(Wait),
}

/// What an answer says besides what was decided.
#[derive(Default)]
struct About {
    summary: Option<Box<Summary>>,
    dpop_nonce: Option<String>,
}

impl About {
    fn put_into(self, decision: &mut Decision) {
        decision.dpop_nonce = self.dpop_nonce;
        if self.summary.is_some() {
            decision.summary = self.summary;
        }
    }
}

/// Whether every part that should have had a say had it.
#[derive(Clone, Copy)]
enum Complete {
    Yes,
    WithoutIdentity,
}

impl Complete {
    fn mark(self, mut decision: Decision) -> Decision {
        decision.degraded |= matches!(self, Complete::WithoutIdentity);
        decision
    }
}

impl Step {
    /// Adds what was asked, when it is known, and what the caller needs for the next time.
    fn about(self, about: About) -> Step {
        match self {
            Step::Done(mut decision) => {
                about.put_into(&mut decision);
                Step::Done(decision)
            }
            Step::Noted => Step::Noted,
            step if about.summary.is_none() && about.dpop_nonce.is_none() => step,
            Step::Wait(decision) => Step::Wait(Box::pin(async move {
                let mut decision = decision.await;
                about.put_into(&mut decision);
                decision
            })),
        }
    }
}

/// Where decision identifiers come from.
#[derive(Debug)]
pub struct DecisionIds {
    process: u32,
    count: AtomicU32,
}

impl DecisionIds {
    /// `process` should be random, so that two agents of the same second differ.
    pub fn new(process: u32) -> DecisionIds {
        DecisionIds { process, count: AtomicU32::new(0) }
    }

    fn next(&self, now: Now) -> DecisionId {
        DecisionId::new(now.unix_s(), self.process, self.count.fetch_add(1, Ordering::Relaxed))
    }
}

fn left(state: &State) -> String {
    format!("limit `{}`: {} could pass now, whole again in {:?}", state.limit.name, state.remaining, state.reset)
}

const COUNT: &str = "count";
