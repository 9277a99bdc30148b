//! `tests:`: what the policy must answer, written beside it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde_json::Value;
use url::Url;

use super::file::Kind;
use super::issuers::{Membership, scalar};
use super::read::{At, nearest, quote};
use super::values;

/// One entry of `tests:`.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyTest {
    /// Who asks (`as:`).
    pub caller: TestCaller,
    /// The method.
    pub method: String,
    /// An absolute `http:` or `https:` URL, as written: its path may well be one that has to be refused.
    pub url: String,
    /// The client's address; none where `None`, and then no network is the client's.
    pub src: Option<IpAddr>,
    /// When, in Unix seconds; now where `None`.
    pub at_s: Option<i64>,
    /// What must come of it.
    pub expect: Expectation,
    /// Its line in the config.
    pub line: u32,
}

/// Who asks in a test.
#[derive(Clone, Debug, PartialEq)]
pub enum TestCaller {
    /// Nobody in particular.
    Anonymous,
    /// The bearer of a token that its issuer has signed.
    Identity {
        /// The config's name of the issuer.
        issuer: String,
        /// Groups as the issuer writes them.
        groups: Vec<String>,
        /// Scopes.
        scopes: Vec<String>,
        /// The user; any where `None`.
        user: Option<String>,
        /// Further claims, top-level.
        claims: Vec<(String, Value)>,
    },
}

/// An expected answer: a verdict, or an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// `allow`, `challenge`, `deny`, `throttle` or `error`.
    Verdict(&'static str),
    /// 200, 400, 401, 403, 429 or 503.
    Status(u16),
}

/// The names of verdicts, as HAProxy sees them.
pub const VERDICTS: [&str; 5] = ["allow", "challenge", "deny", "throttle", "error"];

/// The statuses that an answer can have.
pub const STATUSES: [u16; 6] = [200, 400, 401, 403, 429, 503];

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Expectation, String> {
        let verdict = VERDICTS.into_iter().find(|name| *name == text).map(Expectation::Verdict);
        let status = || STATUSES.into_iter().find(|status| status.to_string() == text).map(Expectation::Status);
        verdict.or_else(status).ok_or_else(|| format!("expected {EXPECT}"))
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expectation::Verdict(name) => f.write_str(name),
            Expectation::Status(status) => write!(f, "{status}"),
        }
    }
}

/// Reads `tests:`; those without a mistake.
pub(super) fn read(at: &At<'_>, issuers: &[String], groups: &[Membership]) -> Vec<PolicyTest> {
    let tests = at.list("a list of tests").unwrap_or_default();
    tests.iter().filter_map(|at| test(at, issuers, groups)).collect()
}

fn test(at: &At<'_>, issuers: &[String], groups: &[Membership]) -> Option<PolicyTest> {
    let mut section = at.section("a map with `as:`, `request:` and `expect:`")?;
    let caller = section.need("as", "anonymous").and_then(|at| caller(&at, issuers, groups));
    let request = section.need("request", "GET https://api.example/x").and_then(|at| request(&at));
    let src = section.take("src").map(|at| at.parsed("an address", SRC, |text| text.parse().ok()));
    let at_s = section.take("at").map(|at| at.parsed("a date", DATE, values::date));
    let expect = section.need("expect", "allow").and_then(|at| expectation(&at));
    section.finish();
    let (method, url) = request?;
    let src = src.map_or(Some(None), |src| src.map(Some))?;
    let at_s = at_s.map_or(Some(None), |at_s| at_s.map(Some))?;
    Some(PolicyTest { caller: caller?, method, url, src, at_s, expect: expect?, line: at.place.line })
}

fn caller(at: &At<'_>, issuers: &[String], groups: &[Membership]) -> Option<TestCaller> {
    match at.kind() {
        Kind::Map(_) => {}
        Kind::Text(text) if text == "anonymous" => return Some(TestCaller::Anonymous),
        Kind::Text(text) => {
            at.refuse_for(format!("{} does not say who asks", quote(text)), AS, nearest(text, ["anonymous"]));
            return None;
        }
        _ => {
            at.refuse_kind(AS);
            return None;
        }
    }
    let mut section = at.section(AS)?;
    let issuer_at = section.need("issuer", "acme");
    let issuer = issuer_at.as_ref().and_then(|at| at.text("the name of an issuer"));
    let known = issuer.is_some_and(|name| issuers.iter().any(|known| known == name));
    if let (Some(name), Some(at), false) = (issuer, &issuer_at, known) {
        at.refuse_name(name, "an issuer", issuers.iter().map(String::as_str));
    }
    let texts = |at: Option<At<'_>>, expected: &str| -> Vec<String> {
        let items = at.map(|at| at.one_or_many(expected)).unwrap_or_default();
        items.iter().filter_map(|at| at.text(expected).map(str::to_owned)).collect()
    };
    let groups_at = section.take("groups");
    for at in groups_at.iter().filter(|_| known).flat_map(|at| at.one_or_many("a list of groups")) {
        let Some(name) = at.as_text() else { continue };
        let is_policy_group = groups.iter().any(|(known, _)| known == name);
        let is_member = |(of, group): &(String, String)| Some(of.as_str()) == issuer && group == name;
        if is_policy_group && !groups.iter().any(|(_, members)| members.iter().any(is_member)) {
            at.warn(format!("{} is a name of this config; a token has groups as its issuer writes them", quote(name)));
        }
    }
    let groups = texts(groups_at, "a list of groups, as the issuer writes them");
    let scopes = texts(section.take("scopes"), "a list of scopes");
    let user = section.take("user").map(|at| at.text("the name of a user"));
    let claims = section.take("claims").map(|at| at.named("a map of claims to values")).unwrap_or_default();
    let claims = claims.iter().filter_map(|(name, _, at)| Some(((*name).to_owned(), claim_value(at)?))).collect();
    section.finish();
    Some(TestCaller::Identity {
        issuer: issuer.filter(|_| known)?.to_owned(),
        groups,
        scopes,
        user: user.unwrap_or(None).map(str::to_owned),
        claims,
    })
}

/// Claims of a test may be as deep as those of a token.
fn claim_value(at: &At<'_>) -> Option<Value> {
    match at.kind() {
        Kind::Null => Some(Value::Null),
        Kind::List(items) if items.is_empty() => Some(Value::Array(Vec::new())),
        Kind::List(_) => at.list("")?.iter().map(claim_value).collect::<Option<Vec<_>>>().map(Value::Array),
        Kind::Map(_) => {
            let named = at.named("");
            let members = named.iter().map(|(name, _, at)| Some(((*name).to_owned(), claim_value(at)?)));
            members.collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
        }
        _ => scalar(at),
    }
}

fn request(at: &At<'_>) -> Option<(String, String)> {
    let text = at.text(REQUEST)?;
    let (method, url) = text.split_once(' ').unwrap_or(("", text));
    let upper = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
    // Only looked at: `Url` resolves dot segments, and those are worth a test.
    let whole = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !upper || !whole || url.contains(' ') {
        at.refuse(format!("{} is not a request", quote(text)), REQUEST);
        return None;
    }
    Some((method.to_owned(), url.to_owned()))
}

fn expectation(at: &At<'_>) -> Option<Expectation> {
    let text = match at.kind() {
        Kind::Text(text) => text.clone(),
        Kind::Integer(number) => number.to_string(),
        _ => {
            at.refuse_kind(EXPECT);
            return None;
        }
    };
    let parsed = text.parse().ok();
    if parsed.is_none() {
        at.refuse_for(format!("{} is not an answer", quote(&text)), EXPECT, nearest(&text, VERDICTS));
    }
    parsed
}

const DATE: &str = "a date such as `2027-01-01T12:00:00Z` (UTC)";
const SRC: &str = "the client's address, such as `10.1.2.3`";
const AS: &str = "`anonymous`, or a map with `issuer`, `groups`, `scopes`, `user`, `claims`";
const EXPECT: &str = "one of: allow, challenge, deny, throttle, error; or a status: 200, 400, 401, 403, 429, 503";
const REQUEST: &str = "a method and an absolute URL: `GET https://api.example/x`";
