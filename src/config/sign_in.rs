//! `sign_in:`: where browsers without a credential are sent.

use super::read::{At, quote};
use crate::policy::sign_in::SignIn;

/// Reads `sign_in:`.
pub(super) fn read(at: &At<'_>) -> Option<SignIn> {
    let mut section = at.section("a map with `location:`")?;
    let location = section.need("location", "https://login.example/start?rd={url}").and_then(|at| location(&at));
    section.finish();
    location
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
    if place.starts_with("http:") {
        at.warn("whoever is on the way of `http:` can send the browser elsewhere");
    }
    Some(SignIn { before: before.to_owned(), after: after.map(str::to_owned) })
}

const LOCATION: &str = "the address of a page, with `{url}` in its query for the one that was asked for: `https://login.example/start?rd={url}`";
