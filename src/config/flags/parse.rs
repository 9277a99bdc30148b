//! Values of flags, and what is said of one that is none.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{Expires, When};
use crate::audit::Hash;
use crate::config::{rules, values};
use crate::decision::DecisionId;
use crate::haproxy::Line;
use crate::identity::grants::GrantId;
use crate::identity::revocation::Id;
use crate::server::settings::Listen;

/// Lists the lines in the help, in errors and in completions.
pub(super) fn haproxy_line() -> impl TypedValueParser<Value = Line> {
    let known = PossibleValuesParser::new(Line::ALL.map(Line::name));
    known.try_map(|name| Line::of(&name).ok_or("expected a line of HAProxy, such as 3.2"))
}

pub(super) fn decision_id(text: &str) -> Result<DecisionId, String> {
    DecisionId::parse(text).ok_or_else(|| "expected the sixteen characters of `decision_id`".to_owned())
}

pub(super) fn chain_hash(text: &str) -> Result<Hash, String> {
    Hash::parse(text).ok_or_else(|| "expected 64 hex digits in small letters, as `hash` has them".to_owned())
}

pub(super) fn when(text: &str) -> Result<When, String> {
    let at = values::date(text).map(When::At).or_else(|| values::duration(text).map(When::Ago));
    at.ok_or_else(|| "expected 2027-01-01, 2027-01-01T12:00:00Z (UTC) or 30d".to_owned())
}

pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let known = values::duration(text).filter(|lifetime| (Duration::from_secs(1)..=LIFETIME_MAX).contains(lifetime));
    known.ok_or_else(|| "expected a duration from 1s to 3650d, such as 12h or 30d".to_owned())
}

/// What a person reads in a log line and in a list.
pub(super) fn granted(text: &str) -> Result<String, String> {
    const CHARS_MAX: usize = 300;
    plain(text).and_then(|text| match text.chars().count() {
        0..=CHARS_MAX => Ok(text),
        count => Err(format!("expected at most {CHARS_MAX} characters, these are {count}")),
    })
}

pub(super) fn grant_id(text: &str) -> Result<GrantId, String> {
    GrantId::parse(text).ok_or_else(|| "expected sixteen hex digits, as `tollgate grants list` prints them".to_owned())
}

pub(super) fn skew(text: &str) -> Result<Duration, String> {
    let known = values::duration(text).filter(|skew| *skew <= SKEW_MAX);
    known.ok_or_else(|| "expected a duration from 0s to 5m, such as 2s".to_owned())
}

pub(super) fn deadline(text: &str) -> Result<Duration, String> {
    let known = values::duration(text).filter(|deadline| (DEADLINE_MIN..=DEADLINE_MAX).contains(deadline));
    known.ok_or_else(|| "expected a duration from 1ms to 10s, such as 40ms".to_owned())
}

pub(super) fn revocation(text: &str) -> Result<Id, String> {
    Id::parse(text).ok_or_else(|| "expected sixteen hex digits, as `tollgate revoke list` prints them".to_owned())
}

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    Listen::parse(text).ok_or_else(|| "expected tcp:ADDRESS:PORT (an IP address) or unix:/PATH".to_owned())
}

/// What can stand in a file of keys.
pub(super) fn plain(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("expected text without control characters".to_owned()) }
}

pub(super) fn scope(text: &str) -> Result<String, String> {
    let good = rules::is_scope(text);
    if good { Ok(text.to_owned()) } else { Err("expected one scope, without spaces and quotes".to_owned()) }
}

pub(super) fn expires(text: &str) -> Result<Expires, String> {
    match text {
        "never" => Some(Expires::Never),
        _ => values::date(text).map(Expires::At).or_else(|| values::duration(text).map(Expires::In)),
    }
    .ok_or_else(|| "expected 90d, 2027-01-01, 2027-01-01T12:00:00Z (UTC) or never".to_owned())
}

/// Ten years: longer than what it is about will be of use to anybody.
const LIFETIME_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

/// As far as an issuer's `leeway` goes.
const SKEW_MAX: Duration = Duration::from_secs(300);

/// What `spop.deadline` may be.
const DEADLINE_MIN: Duration = Duration::from_millis(1);

const DEADLINE_MAX: Duration = Duration::from_secs(10);
