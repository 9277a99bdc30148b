//! `sign_in:`: where browsers without a credential are sent.

use super::read::{At, quote};
use crate::policy::Policy;
use crate::policy::rule::Rule;
use crate::policy::sign_in::SignIn;

/// Reads `sign_in:`.
pub(super) fn read(at: &At<'_>) -> Option<SignIn> {
    let mut section = at.section("a map with `location:`")?;
    let location = section.need("location", "https://login.example/start?rd={url}").and_then(|at| location(&at));
    section.finish();
    location
}

/// Warns of a page of ours to which whoever is sent is not let in, and so sent again.
pub(super) fn warn(at: &At<'_>, policy: &Policy) {
    let Some(sign_in) = policy.sign_in.as_ref().filter(|sign_in| sign_in.before.starts_with('/')) else { return };
    let path = sign_in.before.split('?').next().unwrap_or_default();
    let decides = |rule: &&Rule| {
        !rule.shadow && (rule.paths.is_empty() || rule.paths.iter().any(|it| it.matches(path.as_bytes())))
    };
    match policy.rules().iter().find(decides) {
        Some(rule) if rule.allow.takes_anyone() => {}
        Some(rule) => at.warn(format!(
            "`{path}` is for rule `{}`, which sends whoever comes there back to it, for ever",
            rule.name
        )),
        None => at.warn(format!("no rule is for `{path}`, so nobody who is sent there gets in")),
    }
}

fn location(at: &At<'_>) -> Option<SignIn> {
    let text = at.text(LOCATION)?;
    let mut parts = text.split("{url}");
    let (before, after) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() || before.contains(['{', '}']) || after.is_some_and(|after| after.contains(['{', '}'])) {
        at.refuse(format!("{} names something else than one `{{url}}`", quote(text)), LOCATION);
        return None;
    }
    // Like the end of `https://login.example/start?rd=`: an address within the path would be one of theirs.
    let place = before.split_once('?').map_or(before, |(place, _)| place);
    let is_path = place.starts_with('/') && !place.starts_with("//");
    let is_url = url::Url::parse(place).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>'));
    if !plain || !(is_path || is_url) {
        at.refuse(format!("{} is not where a browser can be sent", quote(text)), LOCATION);
        return None;
    }
    if after.is_some() && !before.contains('?') {
        at.refuse("`{url}` stands in the path, where it could name another page than was meant", LOCATION);
        return None;
    }
    if text.len() > LOCATION_BYTES_MAX {
        at.refuse(
            format!("this has {} bytes, for which an ACK has no room", text.len()),
            format!("at most {LOCATION_BYTES_MAX} bytes"),
        );
        return None;
    }
    if place.starts_with("http:") {
        at.warn("whoever is on the way of `http:` can send the browser elsewhere");
    }
    Some(SignIn { before: before.to_owned(), after: after.map(str::to_owned) })
}

/// With an address of 256 bytes in it, up to three times as long, it fits into what an ACK has (docs/spop.md) in most cases.
const LOCATION_BYTES_MAX: usize = 256;

const LOCATION: &str = "the address of a page, with `{url}` in its query for the one that was asked for: `https://login.example/start?rd={url}`";
