//! What was decided, as values: closed enums, no HTTP, no variable names.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::{Accepted, CredentialKind, Identity, Rejection};
use crate::limit::{Budget, Exceeded};
use crate::policy::{Permit, RateLimitFields, Refusal, Shadows};

/// The log target of the one line that each decision has.
pub const LOG_TARGET: &str = "tollgate::decision";

/// The answer to one question.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Names it in the log and in a response header.
    pub id: DecisionId,
    /// Why; the verdict follows from it.
    pub reason: Reason,
    /// The rule that decided, or that would have.
    pub rule: Option<Arc<str>>,
    /// Who is calling; anonymous also where a credential was rejected.
    pub identity: Arc<Identity>,
    /// The routing hint.
    pub backend: Option<Arc<str>>,
    /// What requests have in common that should go to the same server.
    pub sticky: Option<Box<str>>,
    /// Where a browser is to be sent to sign in.
    pub location: Option<String>,
    /// What is left of each limit; empty where nothing was counted or the count is not the shared one.
    pub budget: Budget,
    /// In which fields the caller is told of it.
    pub ratelimit_fields: RateLimitFields,
    /// The limit that was hit.
    pub limit: Option<Arc<str>>,
    /// When it could pass again.
    pub retry_after: Option<Duration>,
    /// Which kinds of credential would have been looked at, for a challenge.
    pub accepted: Accepted,
    /// What `Authorization` held by its scheme; the challenge that says what was wrong is for that one.
    pub presented: CredentialKind,
    /// The nonce for the caller's next DPoP proof (RFC 9449, section 8), where nonces are required.
    pub dpop_nonce: Option<String>,
    /// The answer was given without a part that was unreachable.
    pub degraded: bool,
    /// What shadow rules would have said. A credential that was rejected never came to them.
    pub shadows: Shadows,
    /// What was asked, for the log; `None` where nobody reads it.
    pub summary: Option<Box<Summary>>,
}

/// What HAProxy is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Let it through.
    Allow,
    /// Ask for a credential.
    Challenge,
    /// Refuse.
    Deny,
    /// Refuse until later.
    Throttle,
    /// No decision could be made; refuse.
    Error,
}

/// Why. Each has a code that is public, in the `reason` variable and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The policy permits it and the limits have room.
    Allowed,
    /// The credential is not good.
    Rejected(Rejection),
    /// The policy refuses.
    Refused(Refusal),
    /// A limit is spent.
    LimitExceeded,
    /// The counters cannot be reached and a limit says `on_failure: deny`.
    StoreUnavailable,
    /// The decision was not made in time.
    DeadlineExceeded,
    /// HAProxy's question is no request.
    BadRequest,
    /// A bug of ours; it was caught.
    Internal,
}

impl Decision {
    /// Nothing counted, nobody known.
    pub fn new(id: DecisionId, reason: Reason, identity: Arc<Identity>) -> Decision {
        Decision {
            id,
            reason,
            rule: None,
            identity,
            backend: None,
            sticky: None,
            location: None,
            budget: Budget::default(),
            ratelimit_fields: RateLimitFields::default(),
            limit: None,
            retry_after: None,
            accepted: Accepted::default(),
            presented: CredentialKind::Anonymous,
            dpop_nonce: None,
            degraded: false,
            shadows: None,
            summary: None,
        }
    }

    /// The same, decided by `rule`.
    pub fn by(mut self, rule: Option<&Arc<str>>) -> Decision {
        self.rule = rule.cloned();
        self
    }

    /// Permitted, and the budget has room.
    pub fn allowed(id: DecisionId, identity: Arc<Identity>, permit: &Permit, budget: Budget) -> Decision {
        let mut decision = Decision::new(id, Reason::Allowed, identity).by(Some(permit.rule()));
        decision.backend = permit.backend().cloned();
        decision.sticky = permit.sticky().map(Box::from);
        decision.shadows = permit.shadows().clone();
        decision.budget = budget;
        decision.ratelimit_fields = permit.ratelimit_fields();
        decision
    }

    /// Permitted, but a limit is spent.
    pub fn throttled(id: DecisionId, identity: Arc<Identity>, permit: &Permit, exceeded: Exceeded) -> Decision {
        let mut decision = Decision::new(id, Reason::LimitExceeded, identity).by(Some(permit.rule()));
        decision.limit = Some(Arc::clone(&exceeded.limit.name));
        decision.shadows = permit.shadows().clone();
        decision.retry_after = Some(exceeded.retry_after);
        decision.budget = Budget { states: exceeded.states, ..Budget::default() };
        decision.ratelimit_fields = permit.ratelimit_fields();
        decision
    }

    /// The same refusal, of somebody from where too many of its kind came.
    pub fn held_up(self, exceeded: Exceeded) -> Decision {
        Decision {
            reason: Reason::LimitExceeded,
            limit: Some(Arc::clone(&exceeded.limit.name)),
            retry_after: Some(exceeded.retry_after),
            ..self
        }
    }

    /// What HAProxy is to do.
    pub fn verdict(&self) -> Verdict {
        self.reason.verdict()
    }
}

impl Verdict {
    /// The word in the `verdict` variable.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Challenge => "challenge",
            Verdict::Deny => "deny",
            Verdict::Throttle => "throttle",
            Verdict::Error => "error",
        }
    }
}

impl Reason {
    /// Every code but those of [`Rejection`].
    pub const CODES: [&'static str; 19] = [
        "allowed",
        "path_ambiguous",
        "no_rule",
        "credential_missing",
        "group_missing",
        "groups_unknown",
        "groups_unavailable",
        "scope_missing",
        "claim_unmet",
        "source_refused",
        "time_refused",
        "authentication_insufficient",
        "condition_unmet",
        "condition_failed",
        "limit_exceeded",
        "store_unavailable",
        "deadline_exceeded",
        "bad_request",
        "internal_error",
    ];

    /// What HAProxy is to do for this reason.
    pub fn verdict(&self) -> Verdict {
        match self {
            Reason::Allowed => Verdict::Allow,
            Reason::Rejected(rejection) if rejection.is_failure() => Verdict::Error,
            // The caller proved who they are; another credential of theirs would have the same name in it.
            Reason::Rejected(Rejection::IdentityUnsafe) => Verdict::Deny,
            Reason::Rejected(_) => Verdict::Challenge,
            Reason::Refused(Refusal::CredentialMissing | Refusal::AuthenticationInsufficient { .. }) => {
                Verdict::Challenge
            }
            Reason::Refused(refusal) if refusal.is_failure() => Verdict::Error,
            Reason::Refused(_) => Verdict::Deny,
            Reason::LimitExceeded => Verdict::Throttle,
            Reason::StoreUnavailable | Reason::DeadlineExceeded | Reason::BadRequest | Reason::Internal => {
                Verdict::Error
            }
        }
    }

    /// The public code, snake_case.
    pub fn code(&self) -> &'static str {
        match self {
            Reason::Allowed => "allowed",
            Reason::Rejected(rejection) => rejection.code(),
            Reason::Refused(refusal) => match refusal {
                Refusal::PathAmbiguous(_) => "path_ambiguous",
                Refusal::NoRule => "no_rule",
                Refusal::CredentialMissing => "credential_missing",
                Refusal::GroupMissing => "group_missing",
                Refusal::GroupsUnknown => "groups_unknown",
                Refusal::GroupsUnavailable => "groups_unavailable",
                Refusal::ScopeMissing(_) => "scope_missing",
                Refusal::ClaimMismatch => "claim_unmet",
                Refusal::SourceRefused => "source_refused",
                Refusal::AuthenticationInsufficient { .. } => "authentication_insufficient",
                Refusal::TimeRefused => "time_refused",
                Refusal::ConditionUnmet => "condition_unmet",
                Refusal::ConditionFailed(_) => "condition_failed",
            },
            Reason::LimitExceeded => "limit_exceeded",
            Reason::StoreUnavailable => "store_unavailable",
            Reason::DeadlineExceeded => "deadline_exceeded",
            Reason::BadRequest => "bad_request",
            Reason::Internal => "internal_error",
        }
    }
}

/// Sixteen characters that name a decision: the second, the process, and a count within it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId([u8; DecisionId::LEN]);

impl DecisionId {
    /// How many characters.
    pub const LEN: usize = 16;

    /// Eighty bits, most significant first: 32 of the Unix time in seconds (so that identifiers sort by time), 24 of
    /// `process`, which is random, and 24 of `count`. Two agents collide only in the same second with the same random
    /// number and the same count.
    pub fn new(unix_s: i64, process: u32, count: u32) -> DecisionId {
        let seconds = u128::from(unix_s.cast_unsigned() & 0xffff_ffff);
        let bits = seconds << 48 | u128::from(process & 0xff_ffff) << 24 | u128::from(count & 0xff_ffff);
        let mut text = [0; DecisionId::LEN];
        for (index, digit) in text.iter_mut().enumerate() {
            let shift = 5 * (DecisionId::LEN - 1 - index);
            *digit = DIGITS[usize::try_from(bits >> shift & 31).unwrap_or(0)];
        }
        DecisionId(text)
    }

    /// Reads one, in small or capital letters.
    pub fn parse(text: &str) -> Option<DecisionId> {
        let mut id = [0; DecisionId::LEN];
        let bytes: &[u8; DecisionId::LEN] = text.as_bytes().try_into().ok()?;
        for (to, from) in id.iter_mut().zip(bytes) {
            *to = from.to_ascii_lowercase();
            DIGITS.iter().position(|digit| digit == to)?;
        }
        Some(DecisionId(id))
    }

    /// The Unix time of the decision in seconds, as far as 32 bits go.
    pub fn unix_s(&self) -> u64 {
        let value = |digit: &u8| DIGITS.iter().position(|known| known == digit).unwrap_or(0) as u128;
        let bits = self.0.iter().fold(0, |bits, digit| bits << 5 | value(digit));
        u64::try_from(bits >> 48).unwrap_or(0)
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Crockford's base 32: no i, l, o, u, so that an identifier survives being read aloud.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What was asked, safe to log: no query, no credential, control characters escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The method.
    pub method: String,
    /// The host.
    pub host: String,
    /// The path as sent.
    pub path: String,
    /// The client's address.
    pub src: String,
    /// HAProxy's unique id.
    pub request_id: String,
    /// Which token it was: [`crate::identity::token_id`].
    pub token: String,
    /// What is wrong with HAProxy's question, where something is.
    pub problem: Option<String>,
    /// The version of the config that decided: the first 64 bits of its file's SHA-256.
    pub config: u64,
}

impl Summary {
    /// Text that is safe on one line: control characters, line separators and what else does not print are escaped,
    /// and what is longer than a line is cut.
    pub fn printable(bytes: &[u8]) -> String {
        const CHARS_MAX: usize = 512;
        let mut text = String::new();
        for c in String::from_utf8_lossy(bytes).chars().take(CHARS_MAX) {
            match c {
                // `escape_debug` would escape quotes and backslashes too, which a log format does for itself.
                '"' | '\'' | '\\' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_differ_by_each_part_and_sort_by_time() {
        let first = DecisionId::new(1_700_000_000, 7, 1);
        assert_eq!(first.as_str().len(), DecisionId::LEN);
        assert_ne!(first, DecisionId::new(1_700_000_000, 7, 2));
        assert_ne!(first, DecisionId::new(1_700_000_000, 8, 1));
        assert!(first.as_str() < DecisionId::new(1_700_000_001, 0, 0).as_str());
        assert_eq!(DecisionId::parse(&first.as_str().to_uppercase()), Some(first));
        assert_eq!(first.unix_s(), 1_700_000_000);
        for text in ["", "0", "01hf7yat00000700u", "01hf7yat000007é", "01hf7yat0000070u"] {
            assert_eq!(DecisionId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_code_is_listed() {
        let refusals = [
            Refusal::PathAmbiguous(crate::policy::path::Ambiguity::DotSegment),
            Refusal::NoRule,
            Refusal::CredentialMissing,
            Refusal::GroupMissing,
            Refusal::GroupsUnknown,
            Refusal::GroupsUnavailable,
            Refusal::ScopeMissing("a".into()),
            Refusal::ClaimMismatch,
            Refusal::SourceRefused,
            Refusal::AuthenticationInsufficient { acr_values: "".into(), max_age_s: None },
            Refusal::TimeRefused,
            Refusal::ConditionUnmet,
            Refusal::ConditionFailed("".into()),
        ];
        let mut reasons = vec![
            Reason::Allowed,
            Reason::LimitExceeded,
            Reason::StoreUnavailable,
            Reason::DeadlineExceeded,
            Reason::BadRequest,
            Reason::Internal,
        ];
        reasons.extend(refusals.map(Reason::Refused));
        let mut codes: Vec<_> = reasons.iter().map(Reason::code).collect();
        codes.sort_unstable();
        let mut listed = Reason::CODES;
        listed.sort_unstable();
        assert_eq!(codes, listed);
    }

    #[test]
    fn a_summary_is_one_line() {
        assert_eq!(Summary::printable(b"/a\r\nb\x1b\xc2\x85"), "/a\\r\\nb\\u{1b}\\u{85}");
        assert_eq!(Summary::printable("/a\u{2028}b\"é".as_bytes()), "/a\\u{2028}b\"é");
    }
}
