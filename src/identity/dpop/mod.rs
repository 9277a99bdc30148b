//! Tokens whose bearer proves, request by request, to hold a key (DPoP, RFC 9449).
//!
//! Reading order: here (the stage), `proof` (what a proof must say), `target` (the URL that it is for), `nonce` (handed
//! out and recognised without being remembered), `replay` (each proof once, among all agents).
//!
//! The token itself is verified as any other, and cached; the proof is checked on every request.

mod nonce;
mod proof;
mod replay;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use nonce::LIFETIME_MIN;
pub(super) use nonce::Nonces;
pub(super) use replay::Seen;

use super::identities::{Identities, Obstacle, rejected};
use super::settings::TokenUse;
use super::wait::{Answer, Answered, Answers, Wait};
use super::{Accepted, CredentialKind, Identity, Rejection, credential};
use crate::clock::Now;
use crate::request::Request;
use crate::secret::Secret;
use crate::trace::{Outcome, Trace};
use proof::{Expected, Flaw};
use replay::Sighting;

/// What proofs must be like.
#[derive(Clone, Debug, PartialEq)]
pub struct DpopSettings {
    /// Whether clients came over `https` whatever the connection to HAProxy is, because TLS ends before it.
    pub always_https: bool,
    /// How long ago a proof may have been made.
    pub age_max: Duration,
    /// How far ahead the clock of its maker may be.
    pub ahead_max: Duration,
    /// Where a proof must hold a nonce of ours.
    pub nonce: Option<NonceSettings>,
    /// What holds while Redis cannot say whether a proof was seen by another agent.
    pub on_failure: OnReplayFailure,
}

/// How nonces are made.
#[derive(Clone, Debug, PartialEq)]
pub struct NonceSettings {
    /// The same for all agents.
    pub key: Secret,
    /// How long one may be used at most; half of it is what every one may be.
    pub lifetime: Duration,
}

/// What holds for a proof while Redis cannot answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReplayFailure {
    /// It is refused: an error, 503, `replay_unknown`.
    #[default]
    Deny,
    /// It is good where this agent has not seen it.
    Local,
}

impl OnReplayFailure {
    /// Each with the config's word for it.
    pub const NAMES: [(&'static str, OnReplayFailure); 2] =
        [("deny", OnReplayFailure::Deny), ("local", OnReplayFailure::Local)];
}

impl Default for DpopSettings {
    fn default() -> DpopSettings {
        DpopSettings {
            always_https: false,
            // A minute has room for a slow network and a clock that is somewhat behind.
            age_max: Duration::from_secs(60),
            ahead_max: Duration::from_secs(5),
            nonce: None,
            on_failure: OnReplayFailure::default(),
        }
    }
}

impl DpopSettings {
    /// For how long a proof must be remembered: as long as it could be shown again, and a second for what is rounded.
    fn window(&self) -> Duration {
        self.age_max + self.ahead_max + Duration::from_secs(1)
    }
}

impl Identities {
    /// The nonce to hand out with the answer to `request`, where nonces are required and it has to do with DPoP at all.
    pub fn dpop_nonce(&self, request: &Request<'_>, now: Now) -> Option<String> {
        let nonces = self.nonces.as_ref()?;
        let is_dpop = request.dpop.is_some() || credential::presented(request) == CredentialKind::Dpop;
        is_dpop.then(|| nonces.current(now))
    }

    pub(super) fn dpop(
        &self,
        token: &str,
        request: &Request<'_>,
        accepted: &Accepted,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        let jwts = self.settings().issuers.iter().any(|issuer| issuer.tokens != TokenUse::Opaque);
        // As in the Bearer scheme: a rule that takes one sort of token takes no other for its proof.
        let is_jwt = match (accepted.contains(CredentialKind::Jwt), accepted.contains(CredentialKind::Opaque)) {
            (true, false) => true,
            (false, true) => false,
            _ => self.introspectors.is_empty() || jwts && credential::is_jose(token),
        };
        let identity = match is_jwt {
            true => self.jwt(token, answers, now, trace)?,
            false => self.opaque(request, token, answers, now, trace)?,
        };
        let Some(bound_to) = identity.binding.key() else {
            // RFC 9449, section 7.1: without the binding a proof would show that somebody has some key.
            return Err(rejected(trace, Rejection::ClaimMissing, || {
                "cnf.jkt: the token is bound to no key".to_owned()
            })
            .into());
        };
        identity.binding.check_certificate(request, trace)?;
        let proved = match answers.proof() {
            Some(proved) => proved,
            None => {
                let Some(field) = request.dpop else {
                    return Err(rejected(trace, Rejection::ProofMissing, || "there is no field DPoP".to_owned()).into());
                };
                let is_https = request.ssl || self.settings().dpop.always_https;
                let expected = Expected {
                    method: request.method,
                    target: target::of_request(request, is_https),
                    token,
                    bound_to: *bound_to,
                    nonces: self.nonces.as_ref(),
                    age_max: self.settings().dpop.age_max,
                    ahead_max: self.settings().dpop.ahead_max,
                    now,
                };
                self.prove(field, &expected, request.id, answers, trace)?
            }
        };
        match proved {
            Ok(()) => {
                trace.step("identify", Outcome::Pass, || "the proof holds, and was not used before".to_owned());
                Ok(identity)
            }
            Err(rejection) => Err(rejected(trace, rejection, || "the proof".to_owned()).into()),
        }
    }

    /// Whether the proof holds and is new. What takes long is done beside the connection, and what comes of it is in the
    /// answers from then on: a proof is recorded once in a request, however often that is looked at.
    fn prove(
        &self,
        field: &[u8],
        expected: &Expected<'_>,
        request_id: Option<&[u8]>,
        answers: &Answers,
        trace: &mut Trace,
    ) -> Result<Result<(), Rejection>, Obstacle> {
        let flawed = |flaw: Flaw, trace: &mut Trace| rejected(trace, flaw.rejection(), || format!("the proof: {flaw}"));
        let proof = proof::check(field, expected).map_err(|flaw| flawed(flaw, trace))?;
        if let Some(target) = &expected.target {
            trace.step("identify", Outcome::Pass, || {
                format!("the proof is for this token, {} and {target}", expected.method)
            });
        }
        if self.link.is_none() && expected.nonces.is_some() && self.seen.may_be_older(proof.issued_at_s) {
            // It may have been used before this process began. A client that is given a nonce makes another at once.
            return Err(flawed(Flaw::NonceStale, trace).into());
        }
        let sighting = Sighting::new(&expected.bound_to, &proof.jti, request_id, proof.issued_at_s);
        let (window, now) = (self.settings().dpop.window(), expected.now);
        let on_failure = self.settings().dpop.on_failure;
        let may_wait = answers.may_wait_for_proof();
        let is_slow = may_wait && proof.key.is_slow();
        if !is_slow && !proof.is_signed() {
            return Err(flawed(Flaw::Signature, trace).into());
        }
        if may_wait && (is_slow || self.link.is_some()) {
            let (seen, link) = (Arc::clone(&self.seen), self.link.clone());
            let (key, algorithm) = (proof.key, proof.algorithm);
            let (signature, message) =
                if is_slow { (proof.signature, proof.message.to_vec()) } else { Default::default() };
            return Err(Obstacle::Wait(Wait::new(async move {
                if is_slow {
                    let checking = tokio::spawn(async move { key.verifies(&signature, &message, algorithm) });
                    // Where the task is gone nothing was shown.
                    if !checking.await.unwrap_or(false) {
                        return Answer(Answered::Proof(Err(Flaw::Signature.rejection())));
                    }
                }
                Answer(Answered::Proof(seen.record(sighting, window, link.as_ref(), on_failure, now).await))
            })));
        }
        let proved = match (&self.link, on_failure) {
            // Redis has not answered in time.
            (Some(_), OnReplayFailure::Deny) => Err(Rejection::ReplayUnknown),
            (Some(_), OnReplayFailure::Local) | (None, _) => self.seen.record_here(sighting, window, now),
        };
        Ok(answers.note_proof(proved))
    }
}
