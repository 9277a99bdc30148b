//! Request, Identity -> Permit | Denial: may they?
//!
//! Reading order: `path` (which path the application will see), `host`, `rule` (who decides), `index` (the same, fast), `requirement` (whom it lets
//! through; with `hours` and `condition`), `charge` (what is counted for those who may), `sign_in` (where the others go). The first rule that matches by host, path and method decides; nothing
//! matched is a denial.

pub mod charge;
pub mod condition;
pub mod host;
pub mod hours;
pub mod index;
pub mod path;
pub mod requirement;
pub mod rule;
pub mod sign_in;

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Now;
use crate::identity::{Accepted, Identity};
use crate::limit::Charges;
use crate::request::Request;
use crate::trace::{Outcome, Trace};
use condition::Held;
use index::Index;
use path::Ambiguity;
use requirement::{Case, Fit, Known, Unknown, Unmet};
use rule::{Allow, GroupsUnknown, Mismatch, Rule, Unavailable};
use sign_in::SignIn;

/// The rules, in order.
#[derive(Debug, Default)]
pub struct Policy {
    /// First match wins.
    rules: Vec<Rule>,
    index: Index,
    /// `ambiguous_paths: allow`: paths that can be read in two ways are matched as decoded once, instead of refused.
    pub allow_ambiguous_paths: bool,
    /// The kinds of credential that are looked at where no rule matched: whoever is known is then told that nothing
    /// matches.
    pub credentials: Accepted,
    /// Where a browser is sent to sign in, if anywhere.
    pub sign_in: Option<SignIn>,
    /// Which fields tell callers what is left.
    pub ratelimit_fields: RateLimitFields,
}

/// In which header fields a caller is told what is left of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimitFields {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), for each limit.
    #[default]
    Draft,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, for one limit.
    Legacy,
    /// All of them.
    Both,
    /// None of them.
    None,
}

impl RateLimitFields {
    /// All choices, the default first.
    pub const ALL: [RateLimitFields; 4] =
        [RateLimitFields::Draft, RateLimitFields::Legacy, RateLimitFields::Both, RateLimitFields::None];

    /// As the config has it.
    pub const fn name(self) -> &'static str {
        match self {
            RateLimitFields::Draft => "draft",
            RateLimitFields::Legacy => "legacy",
            RateLimitFields::Both => "both",
            RateLimitFields::None => "none",
        }
    }

    /// Whether those of the draft are among them.
    pub fn has_draft(self) -> bool {
        matches!(self, RateLimitFields::Draft | RateLimitFields::Both)
    }

    /// Whether the older three are among them.
    pub fn has_legacy(self) -> bool {
        matches!(self, RateLimitFields::Legacy | RateLimitFields::Both)
    }
}

/// The rule that decides a request, if any, and the path as the application will see it.
#[derive(Debug)]
pub struct Matched<'a> {
    rule: Option<&'a Rule>,
    /// Rules that would have decided, were they not shadows; in order.
    shadows: SmallVec<[&'a Rule; 2]>,
    credentials: &'a Accepted,
    sign_in: Option<&'a SignIn>,
    ratelimit_fields: RateLimitFields,
    path: Cow<'a, [u8]>,
}

/// Proof that the policy lets a request through. Only this module makes one, from an identity.
#[derive(Debug)]
pub struct Permit {
    rule: Arc<str>,
    charges: Charges,
    backend: Option<Arc<str>>,
    sticky: Option<Box<str>>,
    shadows: Shadows,
    ratelimit_fields: RateLimitFields,
}

/// What each shadow rule that matched would have said; nothing where there was none, which costs nothing.
pub type Shadows = Option<Box<[Shadowed]>>;

/// What a rule would have said, had it decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// The shadow rule.
    pub rule: Arc<str>,
    /// Why it would have refused; `None` where it would have let the caller through.
    pub refusal: Option<Refusal>,
}

impl Permit {
    /// The rule that decided.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// The routing hint.
    pub fn backend(&self) -> Option<&Arc<str>> {
        self.backend.as_ref()
    }

    /// The same for all requests that should go to one server, and for no others: sixteen hex digits.
    pub fn sticky(&self) -> Option<&str> {
        self.sticky.as_deref()
    }

    /// What is to be counted before the request may pass.
    pub fn charges(&self) -> &Charges {
        &self.charges
    }

    /// What shadow rules would have said.
    pub fn shadows(&self) -> &Shadows {
        &self.shadows
    }

    /// Which fields tell the caller what is left.
    pub fn ratelimit_fields(&self) -> RateLimitFields {
        self.ratelimit_fields
    }
}

/// The policy does not let a request through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The rule that decided; `None` where no rule was reached or none matched.
    pub rule: Option<Arc<str>>,
    /// Why.
    pub refusal: Refusal,
    /// Where a browser is to be sent instead, to come back with a credential.
    pub location: Option<String>,
    /// What shadow rules would have said.
    pub shadows: Shadows,
}

/// What would become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook<'a> {
    /// It passes, with this routing hint.
    Passes(Option<&'a Arc<str>>),
    /// It does not.
    Refused(Refusal),
    /// It depends on what is not known.
    Unknown,
}

/// Why the policy refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The path can be read in two ways.
    PathAmbiguous(Ambiguity),
    /// No rule matched.
    NoRule,
    /// The rule needs a caller, and nobody presented a credential.
    CredentialMissing,
    /// The caller is in none of the groups, or not in all of them.
    GroupMissing,
    /// Not all the caller's groups are known, and the rule needs one that is not.
    GroupsUnknown,
    /// The same, and the rule says that this is no refusal (`groups_unknown: unavailable`): nothing can be said now.
    GroupsUnavailable,
    /// The caller has none of these scopes (space-separated, as RFC 6750, section 3 wants them).
    ScopeMissing(Arc<str>),
    /// A claim is absent or has another value.
    ClaimMismatch,
    /// The request comes from another network.
    SourceRefused,
    /// The sign-in was too weak or too long ago (RFC 9470): another one, as this says, would do.
    AuthenticationInsufficient {
        /// `acr_values`, space-separated; empty where none is asked for.
        acr_values: Arc<str>,
        /// `max_age` in seconds, where there is one.
        max_age_s: Option<u64>,
    },
    /// It is another time.
    TimeRefused,
    /// None of the ways that the rule has is open to the caller.
    ConditionUnmet,
    /// An expression of the rule is neither true nor false.
    ConditionFailed(Arc<str>),
}

impl Refusal {
    /// Whether it is ours and not the caller's doing.
    pub fn is_failure(&self) -> bool {
        matches!(self, Refusal::GroupsUnavailable)
    }
}

impl Policy {
    /// Compiles `rules`.
    pub fn new(rules: Vec<Rule>, allow_ambiguous_paths: bool, credentials: Accepted) -> Policy {
        Policy {
            index: Index::new(&rules),
            rules,
            allow_ambiguous_paths,
            credentials,
            sign_in: None,
            ratelimit_fields: RateLimitFields::default(),
        }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Finds the rule that decides. Identity has no part in it, so that a rule can say that credentials are not looked
    /// at.
    pub fn find<'a>(&'a self, request: &'a Request<'_>, trace: &mut Trace) -> Result<Matched<'a>, Denial> {
        let path = match path::read(request.path) {
            Ok(path) => path,
            Err(ambiguity) if self.allow_ambiguous_paths => {
                trace.step(STAGE, Outcome::Note, || {
                    format!("the path {ambiguity}; `ambiguous_paths: allow` lets it be matched")
                });
                path::decode(request.path)
            }
            Err(ambiguity) => {
                trace.step(STAGE, Outcome::Fail, || format!("the path {ambiguity}, so it is refused before any rule"));
                return Err(Denial {
                    rule: None,
                    refusal: Refusal::PathAmbiguous(ambiguity),
                    location: None,
                    shadows: None,
                });
            }
        };
        let mut shadows: SmallVec<[&Rule; 2]> = SmallVec::new();
        let trace_is_on = trace.is_on();
        let mut decides = |rule: &&'a Rule| match rule.mismatch(request, &path) {
            None if rule.shadow => {
                trace.step(STAGE, Outcome::Note, || {
                    format!("rule `{}` matches, and only says what it would decide", rule.name)
                });
                // A candidate of two tables comes up twice.
                if shadows.last().is_none_or(|last| !std::ptr::eq(*last, *rule)) {
                    shadows.push(*rule);
                }
                false
            }
            None => {
                trace.step(STAGE, Outcome::Pass, || format!("rule `{}` matches, and so decides", rule.name));
                true
            }
            Some(mismatch) => {
                trace.step(STAGE, Outcome::Note, || {
                    let what = match mismatch {
                        Mismatch::Host => "host",
                        Mismatch::Path => "path",
                        Mismatch::Method => "method",
                    };
                    format!("rule `{}` is for another {what}", rule.name)
                });
                false
            }
        };
        // Whoever wants to know why is told of each rule in turn.
        let rule = if trace_is_on {
            self.rules.iter().find(&mut decides)
        } else {
            let candidates = self.index.candidates(&request.host, &path);
            candidates.filter_map(|place| self.rules.get(place)).find(&mut decides)
        };
        if rule.is_none() {
            trace.step(STAGE, Outcome::Note, || "no rule matches".to_owned());
        }
        let credentials = rule.map_or(&self.credentials, |rule| &rule.credentials);
        Ok(Matched {
            rule,
            shadows,
            credentials,
            sign_in: self.sign_in.as_ref(),
            ratelimit_fields: self.ratelimit_fields,
            path,
        })
    }
}

impl Matched<'_> {
    /// Whether the rule says that credentials are not even looked at.
    pub fn ignores_credentials(&self) -> bool {
        self.rule.is_some_and(|rule| rule.ignore_credentials)
    }

    /// What becomes of a credential that nobody can say anything about at the moment.
    pub fn identity_unavailable(&self) -> Unavailable {
        self.rule.map_or(Unavailable::Deny, |rule| rule.identity_unavailable)
    }

    /// Which kinds of credential are looked at, and in which order.
    pub fn credentials(&self) -> &Accepted {
        self.credentials
    }

    /// The rule's name, for what is refused before [`Matched::authorize`].
    pub fn rule(&self) -> Option<&Arc<str>> {
        self.rule.map(|rule| &rule.name)
    }

    /// Lets `identity` through, or says why not.
    pub fn authorize(
        &self,
        request: &Request<'_>,
        identity: &Identity,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Permit, Denial> {
        let case = Case { request, path: &self.path, identity, now, known: Known::ALL };
        let shadows = self.shadowed(case, trace);
        let Some(rule) = self.rule else {
            trace.step(STAGE, Outcome::Fail, || "nothing matched, which is a denial".to_owned());
            return Err(Denial { rule: None, refusal: Refusal::NoRule, location: None, shadows });
        };
        if let (true, Allow::Require(requirement)) = (trace.is_on(), &rule.allow) {
            requirement.tell(case, "", trace);
        }
        if let Some(refusal) = refusal(rule, case) {
            trace.step(STAGE, Outcome::Fail, || format!("rule `{}`: {refusal}", rule.name));
            let redirected = refusal == Refusal::CredentialMissing && rule.anonymous.redirects(request);
            let location = self.sign_in.filter(|_| redirected).map(|sign_in| sign_in.location(request));
            if let Some(location) = &location {
                trace.step(STAGE, Outcome::Note, || format!("a browser is sent to {location}"));
            }
            return Err(Denial { rule: Some(Arc::clone(&rule.name)), refusal, location, shadows });
        }
        trace.step(STAGE, Outcome::Pass, || format!("rule `{}` lets the caller through", rule.name));
        let charges = rule
            .limits
            .iter()
            .filter_map(|limit| {
                let charge = limit.charge(&rule.name, case);
                trace.step(STAGE, Outcome::Note, || match &charge {
                    Some(charge) => {
                        format!("limit `{}`: {}, counter {}", limit.limit.name, charge.quota, charge.key)
                    }
                    None => format!("limit `{}`: unlimited for this caller", limit.limit.name),
                });
                charge
            })
            .collect();
        let backend = rule.backend.as_ref().and_then(|backend| backend.choose(identity)).cloned();
        let sticky = (!rule.sticky.is_empty()).then(|| charge::sticky(&rule.sticky, &rule.name, case));
        Ok(Permit {
            rule: Arc::clone(&rule.name),
            charges,
            backend,
            sticky,
            shadows,
            ratelimit_fields: self.ratelimit_fields,
        })
    }

    /// What a credential that proves nothing is charged.
    pub fn charges_denied(&self, request: &Request<'_>, nobody: &Identity, now: Now) -> Charges {
        let case = Case { request, path: &self.path, identity: nobody, now, known: Known::ALL };
        let limits = self.rule.into_iter().flat_map(|rule| rule.limits.iter().map(move |limit| (limit, &rule.name)));
        limits.filter_map(|(limit, rule)| limit.charge_denied(rule, case)).collect()
    }

    /// What would become of a request of which only `known` is known, limits aside. Proves nothing.
    pub fn outlook(&self, request: &Request<'_>, identity: &Identity, now: Now, known: Known) -> Outlook<'_> {
        let Some(rule) = self.rule else { return Outlook::Refused(Refusal::NoRule) };
        let case = Case { request, path: &self.path, identity, now, known };
        if let Allow::Require(requirement) = &rule.allow
            && (requirement.anyone || !identity.is_anonymous())
            && requirement.fit(case) == Fit::Unknown(Unknown::Unrecorded)
        {
            return Outlook::Unknown;
        }
        match refusal(rule, case) {
            Some(refusal) => Outlook::Refused(refusal),
            None => Outlook::Passes(rule.backend.as_ref().and_then(|backend| backend.choose(identity))),
        }
    }

    fn shadowed(&self, case: Case<'_>, trace: &mut Trace) -> Shadows {
        if self.shadows.is_empty() {
            return None;
        }
        let said = self.shadows.iter().map(|rule| {
            let refusal = refusal(rule, case);
            trace.step(STAGE, Outcome::Note, || match &refusal {
                None => format!("shadow rule `{}` would let the caller through", rule.name),
                Some(refusal) => format!("shadow rule `{}` would refuse: {refusal}", rule.name),
            });
            Shadowed { rule: Arc::clone(&rule.name), refusal }
        });
        Some(said.collect())
    }
}

fn refusal(rule: &Rule, case: Case<'_>) -> Option<Refusal> {
    let identity = case.identity;
    let requirement = match &rule.allow {
        Allow::Anyone => return None,
        Allow::Authenticated => return identity.is_anonymous().then_some(Refusal::CredentialMissing),
        Allow::Require(requirement) => requirement,
    };
    if identity.is_anonymous() && !requirement.anyone {
        return Some(match requirement.is_elsewhere(case) {
            Some(Unmet::Source) => Refusal::SourceRefused,
            Some(_) => Refusal::TimeRefused,
            None => Refusal::CredentialMissing,
        });
    }
    let unmet = match requirement.fit(case) {
        Fit::Met => return None,
        Fit::Unknown(Unknown::Groups) => {
            return Some(match rule.groups_unknown {
                GroupsUnknown::Deny => Refusal::GroupsUnknown,
                GroupsUnknown::Unavailable => Refusal::GroupsUnavailable,
            });
        }
        // Of what somebody has to whom nothing belongs, a credential could be the way.
        // Nothing is decided on less.
        Fit::Unknown(Unknown::Unrecorded) => return Some(Refusal::ConditionFailed("not all of it is known".into())),
        Fit::Unknown(Unknown::Condition(when)) if identity.is_anonymous() && when.needs_identity() => {
            return Some(Refusal::CredentialMissing);
        }
        Fit::Unknown(Unknown::Condition(when)) => {
            let Held::Failed(why) = when.holds(case) else { return Some(Refusal::ConditionUnmet) };
            return Some(Refusal::ConditionFailed(why.into()));
        }
        Fit::Unmet(unmet) => unmet,
    };
    Some(match unmet {
        Unmet::Source => Refusal::SourceRefused,
        Unmet::Time => Refusal::TimeRefused,
        // Of all else a credential could be the way.
        _ if identity.is_anonymous() => Refusal::CredentialMissing,
        Unmet::Group => Refusal::GroupMissing,
        Unmet::Scope(scopes) => Refusal::ScopeMissing(scopes.join(" ").into()),
        Unmet::Claim => Refusal::ClaimMismatch,
        Unmet::Strength(strength) => Refusal::AuthenticationInsufficient {
            acr_values: strength.acr.join(" ").into(),
            max_age_s: strength.login_age_max.map(|age| age.as_secs()),
        },
        Unmet::Credential | Unmet::Condition => Refusal::ConditionUnmet,
    })
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::PathAmbiguous(ambiguity) => write!(f, "the path {ambiguity}"),
            Refusal::NoRule => f.write_str("no rule matches"),
            Refusal::CredentialMissing => f.write_str("it needs a credential and there is none"),
            Refusal::GroupMissing => f.write_str("the caller is not in the groups it needs"),
            Refusal::GroupsUnknown | Refusal::GroupsUnavailable => {
                f.write_str("it needs a group, and not all of the caller's groups are known")
            }
            Refusal::ScopeMissing(scopes) => write!(f, "the token has none of the scopes {scopes}"),
            Refusal::ClaimMismatch => f.write_str("a claim is absent or has another value"),
            Refusal::SourceRefused => f.write_str("it is for other networks"),
            Refusal::AuthenticationInsufficient { .. } => {
                f.write_str("the sign-in was not as strong or as recent as it needs (acr, amr, auth_time)")
            }
            Refusal::TimeRefused => f.write_str("it is for other times"),
            Refusal::ConditionFailed(why) => write!(f, "its `when` cannot be told: {why}"),
            Refusal::ConditionUnmet => f.write_str("the caller meets none of its conditions, or one that excludes"),
        }
    }
}

const STAGE: &str = "authorize";
