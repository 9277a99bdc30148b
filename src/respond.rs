//! Decision -> actions. The only file that knows variable names and HTTP statuses.
//!
//! Order matters: HAProxy applies a malformed or cut ACK up to the bad action and reports no error. So identity comes
//! first and the verdict last; a request without a verdict is let through by no shipped config.

use std::cmp::Reverse;
use std::fmt::Write;
use std::time::Duration;

use smallvec::SmallVec;

use crate::decision::{Decision, Reason, Verdict};
use crate::identity::{CredentialKind, Rejection};
use crate::limit::State;
use crate::policy::Refusal;
use crate::spop::{Action, Scope, TypedData};

/// Texts that are put together for one answer; kept between answers so that their memory is.
#[derive(Debug, Default)]
pub struct Scratch {
    challenge: String,
    ratelimit: String,
    ratelimit_policy: String,
}

/// The actions of one ACK.
#[derive(Debug)]
pub struct Answer<'a> {
    /// In the order they must stand.
    pub actions: SmallVec<[Action<'a>; VARIABLES_MAX]>,
    /// Variables were sent empty because the ACK has no room for them.
    pub trimmed: bool,
}

/// Writes the answer to `decision` into at most `action_bytes_max` bytes.
///
/// Every identity variable that has no value is set empty, so that nothing of an earlier event of the same transaction
/// survives. What has no room is sent empty too, least important first, the verdict never; `degraded` says so. In the
/// smallest frames of all, 256 bytes, what is then empty and names nobody is left out.
pub fn respond<'a>(decision: &'a Decision, action_bytes_max: usize, scratch: &'a mut Scratch) -> Answer<'a> {
    scratch.write(decision);
    let scratch = &*scratch;
    let verdict = decision.verdict();
    let identity = &*decision.identity;
    let mut variables: SmallVec<[Variable<'a>; VARIABLES_MAX]> = SmallVec::new();

    for (name, value, weight) in [
        ("user", &identity.user, Weight::Who),
        ("subject", &identity.subject, Weight::Who),
        ("groups", &identity.groups_joined, Weight::May),
        ("issuer", &identity.issuer, Weight::About),
        ("client_id", &identity.client_id, Weight::About),
        ("email", &identity.email, Weight::Nice),
        ("name", &identity.name, Weight::Nice),
    ] {
        variables.push(Variable::text(name, value, weight));
    }
    let mut some_text = |name, value: &'a str, weight| {
        if !value.is_empty() {
            variables.push(Variable::text(name, value, weight));
        }
    };
    some_text("backend", decision.backend.as_deref().unwrap_or_default(), Weight::May);
    some_text("sticky", decision.sticky.as_deref().unwrap_or_default(), Weight::May);
    some_text("location", decision.location.as_deref().unwrap_or_default(), Weight::May);
    some_text("rule", decision.rule.as_deref().unwrap_or_default(), Weight::Why);
    some_text("limit", decision.limit.as_deref().unwrap_or_default(), Weight::Why);
    some_text("decision_id", decision.id.as_str(), Weight::Why);
    some_text("challenge", &scratch.challenge, Weight::May);
    some_text("dpop_nonce", decision.dpop_nonce.as_deref().unwrap_or_default(), Weight::May);
    some_text("ratelimit", &scratch.ratelimit, Weight::Nice);
    some_text("ratelimit_policy", &scratch.ratelimit_policy, Weight::Nice);
    if let Some(receipt) = &decision.budget.receipt {
        // Without it a place is held until its lease is over, and a cost stays what was reserved for it.
        variables.push(Variable::new("receipt", TypedData::Bin(receipt), Weight::Who));
    }
    if let Some(state) = tightest(decision) {
        let mut some_number = |name, number| {
            variables.push(Variable::new(name, TypedData::Int64(number), Weight::Nice));
        };
        some_number("limit_remaining", i64::try_from(state.remaining).unwrap_or(i64::MAX));
        // Some twenty bytes each with its name, so only where HAProxy reads them.
        if decision.ratelimit_fields.has_legacy() {
            some_number("limit_quota", i64::try_from(quota(state).0).unwrap_or(i64::MAX));
            some_number("limit_reset", whole_seconds(state.reset));
        }
    }
    if let Some(wait) = decision.retry_after {
        variables.push(Variable::new("retry_after", TypedData::Int64(whole_seconds(wait).max(1)), Weight::Always));
    }
    variables.push(Variable::text("reason", decision.reason.code(), Weight::Always));
    variables.push(Variable::new("degraded", TypedData::Bool(decision.degraded), Weight::Always));
    variables.push(Variable::new("status", TypedData::Int64(status(&decision.reason)), Weight::Always));
    variables.push(Variable::new("allow", TypedData::Bool(verdict == Verdict::Allow), Weight::Always));
    variables.push(Variable::text("verdict", verdict.name(), Weight::Always));

    let trimmed = trim(&mut variables, action_bytes_max);
    if trimmed && let Some(variable) = variables.iter_mut().find(|variable| variable.name == "degraded") {
        // As long as before: a boolean is one byte.
        variable.value = TypedData::Bool(true);
    }
    Answer { actions: variables.iter().map(Variable::action).collect(), trimmed }
}

/// The answer to what is no question. It says nothing, and an ACK that holds nothing at all hangs the request on early 3.1.
pub const NOTED: Action<'static> = Action::UnsetVar { scope: Scope::Transaction, name: "_" };

/// The limit that has least left: of several the one that was hit, or the one that takes longest to be whole.
fn tightest(decision: &Decision) -> Option<&State> {
    let was_hit = |state: &State| decision.limit.as_ref().is_some_and(|hit| *hit == state.limit.name);
    decision.budget.states.iter().min_by_key(|state| (state.remaining, !was_hit(state), Reverse(state.reset)))
}

/// How much a limit allows, and in how many seconds; what is counted at once has no window.
fn quota(state: &State) -> (u64, Option<i64>) {
    (state.quota.count(), state.quota.period_us().map(|period_us| whole_seconds(Duration::from_micros(period_us))))
}

/// The HTTP status that goes with a reason.
pub fn status(reason: &Reason) -> i64 {
    match (reason.verdict(), reason) {
        (Verdict::Allow, _) => 200,
        (Verdict::Challenge, _) => 401,
        (Verdict::Deny, Reason::Refused(Refusal::PathAmbiguous(_))) => 400,
        (Verdict::Deny, _) => 403,
        (Verdict::Throttle, _) => 429,
        (Verdict::Error, Reason::BadRequest) => 400,
        (Verdict::Error, _) => 503,
    }
}

/// Most important first; what has no room goes from the back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// HAProxy's own rules read it.
    Always,
    /// Who the caller is.
    Who,
    /// What they may do and where they go.
    May,
    /// For the log.
    Why,
    /// More about the caller.
    About,
    /// What a caller can do without.
    Nice,
}

#[derive(Clone, Copy, Debug)]
struct Variable<'a> {
    name: &'static str,
    value: TypedData<'a>,
    weight: Weight,
}

impl<'a> Variable<'a> {
    fn new(name: &'static str, value: TypedData<'a>, weight: Weight) -> Variable<'a> {
        Variable { name, value, weight }
    }

    fn text(name: &'static str, value: &'a str, weight: Weight) -> Variable<'a> {
        Variable::new(name, TypedData::Str(value.as_bytes()), weight)
    }

    fn action(&self) -> Action<'a> {
        Action::SetVar { scope: Scope::Transaction, name: self.name, value: self.value }
    }
}

/// Empties the least important variables until the rest fits, the longest of a weight first; says whether it had to.
fn trim(variables: &mut SmallVec<[Variable<'_>; VARIABLES_MAX]>, bytes_max: usize) -> bool {
    let len = |variable: &Variable<'_>| variable.action().encoded_len();
    let mut total: usize = variables.iter().map(len).sum();
    if total <= bytes_max {
        return false;
    }
    for weight in [Weight::Nice, Weight::About, Weight::Why, Weight::May, Weight::Who] {
        while total > bytes_max {
            let of_weight = variables.iter_mut().filter(|variable| variable.weight == weight);
            let longest = of_weight.max_by_key(|variable| variable.action().encoded_len());
            let Some(longest) = longest.filter(|variable| variable.value != EMPTY) else { break };
            let before = longest.action().encoded_len();
            longest.value = EMPTY;
            total -= before - longest.action().encoded_len().min(before);
        }
    }
    if total > bytes_max {
        // Names alone take 274 bytes then. What HAProxy's rules read, and identity set empty, take 201.
        let mut at = 0;
        variables.retain(|variable| {
            at += 1;
            at <= IDENTITY_VARIABLES || variable.value != EMPTY
        });
    }
    true
}

/// They stand first.
const IDENTITY_VARIABLES: usize = 7;

/// What a proof may be signed with (RFC 9449, section 7.1): all that is known here, since the key is the client's own and
/// what the issuer signs with says nothing about it. The one that every client has comes first.
const PROOF_ALGORITHMS: &str = "ES256 ES384 ES512 EdDSA PS256 PS384 PS512 RS256 RS384 RS512";

const EMPTY: TypedData<'static> = TypedData::Str(b"");

/// The variables of README.md, and room for more.
const VARIABLES_MAX: usize = 28;

/// Rounded up: a caller that waits this long is never early.
fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

impl Scratch {
    fn write(&mut self, decision: &Decision) {
        self.challenge.clear();
        self.ratelimit.clear();
        self.ratelimit_policy.clear();
        challenge(decision, &mut self.challenge);
        if decision.ratelimit_fields.has_draft() {
            decision.budget.states.iter().for_each(|state| self.limit(state));
        }
    }

    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4): lists of named
    /// items with quota and window, and with what remains and when it is whole again.
    fn limit(&mut self, state: &State) {
        for text in [&mut self.ratelimit, &mut self.ratelimit_policy] {
            if !text.is_empty() {
                text.push_str(", ");
            }
        }
        let name = &state.limit.name;
        let (count, window) = quota(state);
        // Writing to a String cannot fail.
        let _ = write!(self.ratelimit, "\"{name}\";r={}", state.remaining);
        let _ = write!(self.ratelimit_policy, "\"{name}\";q={count}");
        // It is whole again when others are done, and both are optional there.
        if let Some(window) = window {
            let _ = write!(self.ratelimit, ";t={}", whole_seconds(state.reset));
            let _ = write!(self.ratelimit_policy, ";w={window}");
        }
    }
}

/// A whole `WWW-Authenticate` value (RFC 9110, section 11.6.1), where one belongs: a challenge for each scheme that the
/// rule takes, in its order; what was wrong with a token stands in the challenge for its own scheme (RFC 6750, section 3;
/// RFC 9449, section 7.1), or where that is not taken in the first for tokens.
fn challenge(decision: &Decision, out: &mut String) {
    let (reason, accepted) = (&decision.reason, &decision.accepted);
    let takes_bearer = accepted.kinds().iter().any(|kind| scheme_of(*kind) == Some("Bearer"));
    let is_for_proofs =
        accepted.contains(CredentialKind::Dpop) && (decision.presented == CredentialKind::Dpop || !takes_bearer);
    let about: Option<(&str, &str)> = match reason {
        // Section 3.1: no error code where no credential of that scheme was presented.
        Reason::Refused(Refusal::CredentialMissing) | Reason::Rejected(Rejection::CredentialUnsupported) => None,
        // What was wrong was no token.
        Reason::Rejected(
            Rejection::ApiKeyUnknown
            | Rejection::ApiKeyExpired
            | Rejection::PasswordRefused
            | Rejection::CertificateUnverified
            | Rejection::CertificateMalformed
            | Rejection::CertificateExpired
            | Rejection::CertificateUnmapped,
        ) if reason.verdict() == Verdict::Challenge => None,
        Reason::Rejected(rejection) if reason.verdict() == Verdict::Challenge => {
            let error = match rejection {
                Rejection::CredentialMalformed => "invalid_request",
                Rejection::DpopNonceNeeded => "use_dpop_nonce",
                Rejection::DpopProofInvalid | Rejection::DpopReplayed => "invalid_dpop_proof",
                // There is no proof, or no certificate.
                Rejection::ProofMissing if decision.presented == CredentialKind::Dpop => "invalid_dpop_proof",
                _ => "invalid_token",
            };
            Some((error, rejection.description()))
        }
        Reason::Refused(Refusal::ScopeMissing(_)) => Some(("insufficient_scope", "")),
        // RFC 9470, section 3.
        Reason::Refused(Refusal::AuthenticationInsufficient { .. }) => Some(("insufficient_user_authentication", "")),
        _ => return,
    };
    let mut about = about;
    let mut written: SmallVec<[&str; 4]> = SmallVec::new();
    for kind in accepted.kinds() {
        let Some(scheme) = scheme_of(*kind) else { continue };
        if written.contains(&scheme) {
            continue;
        }
        if !written.is_empty() {
            out.push_str(", ");
        }
        written.push(scheme);
        let _ = write!(out, "{scheme} realm=\"tollgate\"");
        match *kind {
            // RFC 7617, section 2.1.
            CredentialKind::Basic => out.push_str(", charset=\"UTF-8\""),
            CredentialKind::ApiKey => {}
            _ => {
                if scheme == "DPoP" {
                    let _ = write!(out, ", algs=\"{PROOF_ALGORITHMS}\"");
                }
                if is_for_proofs != (scheme == "DPoP") {
                    continue;
                }
                if let Some((error, description)) = about.take() {
                    let _ = write!(out, ", error=\"{error}\"");
                    if !description.is_empty() {
                        let _ = write!(out, ", error_description=\"{description}\"");
                    }
                    if let Reason::Refused(Refusal::ScopeMissing(scopes)) = reason {
                        // Scope tokens hold neither quotes nor backslashes (RFC 6749, section 3.3); the config checks
                        // that.
                        let _ = write!(out, ", scope=\"{scopes}\"");
                    }
                    if let Reason::Refused(Refusal::AuthenticationInsufficient { acr_values, max_age_s }) = reason {
                        // Nor do these, by the config.
                        if !acr_values.is_empty() {
                            let _ = write!(out, ", acr_values=\"{acr_values}\"");
                        }
                        if let Some(max_age_s) = max_age_s {
                            let _ = write!(out, ", max_age=\"{max_age_s}\"");
                        }
                    }
                }
            }
        }
    }
}

/// The scheme of a kind's challenge.
fn scheme_of(kind: CredentialKind) -> Option<&'static str> {
    match kind {
        CredentialKind::Jwt | CredentialKind::Opaque => Some("Bearer"),
        CredentialKind::Dpop => Some("DPoP"),
        CredentialKind::Basic => Some("Basic"),
        // Not registered, and what those who take keys answer; RFC 9110 wants a challenge in every 401.
        CredentialKind::ApiKey => Some("ApiKey"),
        // Asking for a certificate is not HTTP's to do.
        CredentialKind::Certificate | CredentialKind::Anonymous => None,
    }
}
