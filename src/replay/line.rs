//! One line of a log: the audit trail's, the agent's own JSON log's, or that of the shipped HAProxy files.

use std::borrow::Cow;

use serde::Deserialize;

/// What a line says of a request. All three logs use the same names.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    /// RFC 3339 in the agent's logs, `25/Nov/2026:22:08:18.053` in HAProxy's.
    #[serde(borrow, default, alias = "timestamp")]
    pub(super) time: Option<Cow<'a, str>>,
    /// Only in the audit trail.
    #[serde(default)]
    pub(super) v: Option<u32>,
    #[serde(borrow, default)]
    pub(super) verdict: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) rule: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) client_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) issuer: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) groups: Option<Groups<'a>>,
    #[serde(default)]
    pub(super) groups_unknown: bool,
    #[serde(borrow, default)]
    pub(super) scopes: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    pub(super) credential: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) host: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) path: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) src: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) backend: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) decision_id: Option<Cow<'a, str>>,
}

/// A list in the audit trail, one text with commas elsewhere.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Groups<'a> {
    #[serde(borrow)]
    List(Vec<Cow<'a, str>>),
    Joined(Cow<'a, str>),
}

/// What was decided, as far as policy has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The policy let it pass; a limit may have stopped it.
    Passed,
    /// The policy refused it.
    Refused,
    /// A credential was no good; the policy was asked nothing else.
    Rejected,
}

impl<'a> Line<'a> {
    /// `None` of what is no JSON object, or says nothing of a decision.
    pub(super) fn read(line: &'a [u8]) -> Option<Line<'a>> {
        // What stands in front of the object is a syslog header, or the agent's level.
        let start = line.iter().position(|byte| *byte == b'{')?;
        let line: Line<'a> = serde_json::from_slice(line.get(start..)?).ok()?;
        let says = |text: &Option<Cow<'a, str>>| text.as_ref().is_some_and(|text| !text.is_empty());
        (says(&line.verdict) && says(&line.method) && line.path.is_some()).then_some(line)
    }

    /// `None` where no decision was made.
    pub(super) fn past(&self) -> Option<Past> {
        let reason = self.reason.as_deref().unwrap_or_default();
        match (self.verdict.as_deref()?, reason) {
            ("allow" | "throttle", _) | ("error", "store_unavailable") => Some(Past::Passed),
            ("error", _) => None,
            ("deny", "identity_unsafe") => Some(Past::Rejected),
            ("deny", _) | ("challenge", "credential_missing" | "authentication_insufficient") => Some(Past::Refused),
            ("challenge", _) => Some(Past::Rejected),
            _ => None,
        }
    }

    /// Whether the line is of the audit trail, which says more: what it leaves out was not there.
    pub(super) fn is_audit(&self) -> bool {
        self.v.is_some()
    }

    /// Unix seconds; 0 where the line does not say.
    pub(super) fn time_s(&self) -> i64 {
        let Some(time) = self.time.as_deref() else { return 0 };
        let parsed = time.parse::<jiff::Timestamp>().ok();
        parsed.or_else(|| of_haproxy(time)).map_or(0, jiff::Timestamp::as_second)
    }
}

/// `%tr` of HAProxy: local time, which is taken for UTC, since the line does not say which.
fn of_haproxy(time: &str) -> Option<jiff::Timestamp> {
    let time = jiff::civil::DateTime::strptime("%d/%b/%Y:%H:%M:%S%.f", time).ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_three_logs_say_the_same() {
        let audit = br#"{"v":1,"seq":7,"time":"2026-11-25T22:08:18.053000Z","verdict":"allow","reason":"allowed","rule":"api","user":"al\u0069ce","issuer":"acme","groups":["a,b","ops"],"scopes":["read"],"credential":"jwt","method":"GET","host":"a.example","path":"/x","src":"192.0.2.7","prev":"00","hash":"11"}"#;
        let agent = br#"{"timestamp":"2026-11-25T22:08:18.053688Z","level":"INFO","message":"decision","verdict":"allow","reason":"allowed","rule":"api","user":"alice","issuer":"acme","groups":"a%2Cb,ops","credential":"jwt","method":"GET","host":"a.example","path":"/x","src":"192.0.2.7","degraded":false,"latency_us":831}"#;
        let haproxy = br#"<134>Nov 25 h haproxy[1]: {"time":"25/Nov/2026:22:08:18.053","id":"x","src":"192.0.2.7","method":"GET","host":"a.example","path":"/x","status":200,"bytes":1,"ms":2,"backend":"std","verdict":"allow","reason":"allowed","rule":"api","limit":"","user":"alice","groups":"a%2Cb,ops","issuer":"https://a","degraded":"0"}"#;
        for line in [&audit[..], agent, haproxy] {
            let line = Line::read(line).unwrap();
            assert_eq!(line.past(), Some(Past::Passed));
            assert_eq!(line.time_s(), 1_795_644_498);
            assert_eq!((line.user.as_deref(), line.path.as_deref()), (Some("alice"), Some("/x")));
        }
        for line in [&b"{}"[..], b"", b"{\"event\":\"start\"}", b"{\"verdict\":\"allow\"", b"GET / HTTP/1.1", b"[1]"] {
            assert!(Line::read(line).is_none());
        }
    }

    #[test]
    fn what_was_decided_is_told_by_the_reason() {
        for (verdict, reason, past) in [
            ("allow", "allowed", Some(Past::Passed)),
            ("throttle", "limit_exceeded", Some(Past::Passed)),
            ("error", "store_unavailable", Some(Past::Passed)),
            ("error", "deadline_exceeded", None),
            ("deny", "group_missing", Some(Past::Refused)),
            ("deny", "path_ambiguous", Some(Past::Refused)),
            ("challenge", "credential_missing", Some(Past::Refused)),
            ("challenge", "token_expired", Some(Past::Rejected)),
            ("deny", "identity_unsafe", Some(Past::Rejected)),
        ] {
            let line = format!(r#"{{"verdict":"{verdict}","reason":"{reason}","method":"GET","path":"/"}}"#);
            assert_eq!(Line::read(line.as_bytes()).unwrap().past(), past, "{verdict} {reason}");
        }
    }
}
