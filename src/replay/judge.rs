//! Deciding a past request again.

use std::net::IpAddr;
use std::sync::Arc;

use super::line::{Groups as Listed, Line, Past};
use super::tally::{Change, Kind, Tally};
use crate::clock::Clock;
use crate::decision::Reason;
use crate::identity::{CredentialKind, Groups, Identity, Recorded};
use crate::policy::requirement::Known;
use crate::policy::{Outlook, Policy};
use crate::request::{Request, host_and_port};
use crate::trace::Trace;

/// Another policy, and what is needed to ask it.
pub struct Judge {
    /// The policy.
    pub policy: Policy,
    /// The groups that it names.
    pub groups: Arc<Groups>,
    /// The config's name of each issuer by its `iss` value, which is what HAProxy's log has.
    pub issuers: Vec<(String, Arc<str>)>,
}

impl Judge {
    /// Decides what a line is about once more, and adds it up.
    pub fn judge(&self, line: &[u8], tally: &mut Tally) {
        if line.trim_ascii().is_empty() {
            return;
        }
        tally.lines += 1;
        let Some(line) = Line::read(line) else {
            tally.no_decision += 1;
            return;
        };
        let Some(past) = line.past() else {
            tally.undecided += 1;
            return;
        };
        let time_s = line.time_s();
        tally.saw(time_s);
        self.decide(&line, past, time_s, tally);
    }

    fn decide(&self, line: &Line<'_>, past: Past, time_s: i64, tally: &mut Tally) {
        let (host, port) = host_and_port(line.host.as_deref().unwrap_or_default());
        let src = line.src.as_deref().and_then(|src| src.parse::<IpAddr>().ok());
        let path = line.path.as_deref().unwrap_or_default();
        if path.chars().count() >= PATH_CHARS_MAX {
            // The log cut it, and the rest of it could decide.
            tally.untold += 1;
            return;
        }
        let request = Request {
            method: line.method.as_deref().unwrap_or_default(),
            host,
            port,
            path: path.as_bytes(),
            src,
            ..Request::default()
        };
        let now = Clock::by_hand(u64::try_from(time_s).unwrap_or(0)).now();
        let matched = match self.policy.find(&request, &mut Trace::off()) {
            Ok(matched) => matched,
            Err(denial) => {
                return self.compare(line, past, "", &Outlook::Refused(denial.refusal), tally);
            }
        };
        let rule = matched.rule().map_or("", |rule| rule).to_owned();
        if past == Past::Rejected && !matched.ignores_credentials() {
            // It is looked at, and refused, before the rule is.
            tally.same += 1;
            return;
        }
        let (identity, known) = self.identity(line, past, matched.ignores_credentials());
        let outlook = matched.outlook(&request, &identity, now, known);
        self.compare(line, past, &rule, &outlook, tally);
    }

    /// Who it was, and how much of that the line says.
    fn identity(&self, line: &Line<'_>, past: Past, ignored: bool) -> (Arc<Identity>, Known) {
        let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
        let is_hashed = |text: &str| text.starts_with("hmac:");
        let src = line.src.as_deref().unwrap_or_default();
        let known = Known { src: !src.is_empty() && !is_hashed(src), ..Known::ALL };
        let kind = CredentialKind::ALL.into_iter().find(|kind| Some(kind.name()) == line.credential.as_deref());
        let nobody = line.user.as_ref().is_none_or(|user| user.is_empty())
            && (kind == Some(CredentialKind::Anonymous) || kind.is_none() || past != Past::Passed);
        if ignored || past == Past::Rejected || nobody {
            return (Arc::new(Identity::anonymous()), known);
        }
        let user = text(&line.user);
        let groups: Vec<String> = match &line.groups {
            None => Vec::new(),
            Some(Listed::List(names)) => names.iter().map(|name| name.clone().into_owned()).collect(),
            Some(Listed::Joined(names)) => Groups::split(names).collect(),
        };
        let named = line.issuer.as_deref().unwrap_or_default();
        let by_iss = self.issuers.iter().find(|(iss, _)| iss == named).map(|(_, name)| Arc::clone(name));
        let known = Known {
            user: !is_hashed(&user),
            credential: kind.is_some(),
            scopes: line.is_audit(),
            claims: false,
            ..known
        };
        let recorded = Recorded {
            credential: kind.unwrap_or(CredentialKind::Jwt),
            issuer: by_iss.unwrap_or_else(|| named.into()),
            subject: if line.is_audit() { text(&line.subject) } else { String::new() },
            user,
            client_id: text(&line.client_id),
            groups,
            groups_known: !line.groups_unknown && line.reason.as_deref() != Some("groups_unknown"),
            scopes: line.scopes.iter().flatten().map(|scope| scope.clone().into_owned()).collect(),
        };
        (recorded.identity(&self.groups), known)
    }

    fn compare(&self, line: &Line<'_>, past: Past, rule: &str, outlook: &Outlook<'_>, tally: &mut Tally) {
        let passed = past == Past::Passed;
        let (kind, reason, backend) = match outlook {
            Outlook::Unknown => (Kind::Untold, "", None),
            Outlook::Passes(backend) if passed => {
                let before = line.backend.as_deref().unwrap_or_default();
                let after = backend.map_or("", |name| name);
                // HAProxy's log names the backend that it chose, which need not be ours.
                if !line.is_audit() || before == after {
                    tally.same += 1;
                    return;
                }
                (Kind::Elsewhere, "", Some(after.to_owned()))
            }
            Outlook::Passes(_) => (Kind::Passes, "", None),
            Outlook::Refused(_) if !passed => {
                tally.same += 1;
                return;
            }
            Outlook::Refused(refusal) => (Kind::Refused, Reason::Refused(refusal.clone()).code(), None),
        };
        tally.add(Change {
            kind,
            user: line.user.as_deref().unwrap_or_default(),
            issuer: line.issuer.as_deref().unwrap_or_default(),
            before: line.rule.as_deref().unwrap_or_default(),
            after: rule,
            reason: if kind == Kind::Passes { line.reason.as_deref().unwrap_or_default() } else { reason },
            backend: backend.as_deref().unwrap_or_default(),
            method: line.method.as_deref().unwrap_or_default(),
            host: line.host.as_deref().unwrap_or_default(),
            path: line.path.as_deref().unwrap_or_default(),
            decision_id: line.decision_id.as_deref().unwrap_or_default(),
        });
    }
}

/// The agent's logs cut a path there.
const PATH_CHARS_MAX: usize = 512;
