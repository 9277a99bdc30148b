//! `limits:`: what is counted, by which key, and how much of it there is.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;

use super::file::Kind;
use super::read::{At, nearest, quote};
use super::values;
use crate::identity::settings::ClaimPath;
use crate::identity::{GroupId, Groups};
use crate::limit::{Limit, OnFailure, Quota};
use crate::policy::charge::{KeyPart, LimitUse, Tier};

/// One entry of `limits:`.
pub(super) struct CheckedLimit<'a> {
    pub(super) name: &'a str,
    /// Its place, for what is found out later.
    pub(super) at: At<'a>,
    /// `None` where it has a mistake.
    pub(super) limit: Option<Arc<LimitUse>>,
}

/// Reads `limits:`. All names are in the answer, also those of limits with a mistake.
pub(super) fn read<'a>(at: &At<'a>, groups: &Groups, names: &[&str]) -> Vec<CheckedLimit<'a>> {
    at.with_names("a limit", "a map of limits by name: `per-user: { key: [user], rate: 100/1m }`")
        .into_iter()
        .map(|(name, key, at)| CheckedLimit { name, limit: limit(name, &at, groups, names), at: key })
        .collect()
}

fn limit(name: &str, at: &At<'_>, groups: &Groups, names: &[&str]) -> Option<Arc<LimitUse>> {
    let mut section = at.section("a map with `key:` and `rate:`")?;
    let key = section.need("key", "[user]").map(|at| key(&at)).unwrap_or_default();
    let rate_at = section.need("rate", "100/1m");
    let burst_at = section.take("burst");
    let quota = rate_at.and_then(|at| quota(&at, burst_at.as_ref()));
    let tiers = section.take("tiers").map(|at| tiers(&at, groups, names)).unwrap_or_default();
    let on_failure = match section.take("on_failure") {
        None => OnFailure::default(),
        Some(at) => on_failure(&at).unwrap_or_default(),
    };
    section.finish();
    let quota = quota?;
    let generation = generation(&key, quota, &tiers, groups);
    Some(Arc::new(LimitUse { limit: Arc::new(Limit { name: name.into(), quota, on_failure, generation }), key, tiers }))
}

/// `100/1m`, with its burst or, without one, the rate's own count.
fn quota(at: &At<'_>, burst_at: Option<&At<'_>>) -> Option<Quota> {
    let rate = at.parsed("a rate", RATE, values::rate);
    let burst = burst_at.map(|at| at.integer(1, Quota::COUNT_MAX));
    let (count, period) = rate?;
    let burst = burst.unwrap_or(Some(count))?;
    let quota = Quota::new(count, period, burst);
    if quota.is_none() {
        at.refuse(
            format!("{} is out of bounds", at.as_text().map_or_else(String::new, quote)),
            format!(
                "a count from 1 to {}, and a period from 1ms to {}",
                Quota::COUNT_MAX,
                values::show_duration(Quota::PERIOD_MAX)
            ),
        );
    }
    quota
}

/// Reads a list of parts.
pub(super) fn key(at: &At<'_>) -> Vec<KeyPart> {
    let mut parts = Vec::new();
    for at in at.one_or_many(KEY) {
        if matches!(at.kind(), Kind::Integer(_)) {
            // `[src/24,64]`: YAML takes the comma for its own.
            at.refuse("a number is no part of a key", "quotes where a part holds a comma: `\"src/24,64\"`");
            continue;
        }
        let Some(text) = at.text(KEY) else { continue };
        let Some(part) = key_part(text) else {
            match text.split_once('/') {
                Some(("src", _)) => at.refuse(
                    format!("{} is not a part of the source address", quote(text)),
                    "`src/V4,V6`, leading bits of each: at most 32 and 128",
                ),
                _ => at.refuse_name(text, "a part of a key", KEY_PARTS),
            }
            continue;
        };
        if parts.contains(&part) {
            at.refuse(format!("{} is listed twice", quote(text)), "");
        }
        parts.push(part);
    }
    parts
}

fn key_part(text: &str) -> Option<KeyPart> {
    Some(match text {
        "user" => KeyPart::User,
        "subject" => KeyPart::Subject,
        "client_id" => KeyPart::ClientId,
        "group" => KeyPart::Group,
        "issuer" => KeyPart::Issuer,
        "src" => KeyPart::Src { v4: 32, v6: 128 },
        "host" => KeyPart::Host,
        "path" => KeyPart::Path,
        "rule" => KeyPart::Rule,
        other => {
            if let Some(path) = other.strip_prefix("claim:") {
                return ClaimPath::parse(path).map(KeyPart::Claim);
            }
            let bits = other.strip_prefix("src/")?;
            // A subscriber has a whole /64, so that is one source as an address of IPv4 is.
            let (v4, v6) = bits.split_once(',').unwrap_or((bits, "64"));
            let bits = |text: &str, max: u8| text.trim().parse().ok().filter(|bits| *bits <= max);
            KeyPart::Src { v4: bits(v4, 32)?, v6: bits(v6, 128)? }
        }
    })
}

/// The part as [`key_part`] reads it.
pub(super) fn show_key_part(part: &KeyPart) -> String {
    match part {
        KeyPart::User => "user".to_owned(),
        KeyPart::Subject => "subject".to_owned(),
        KeyPart::ClientId => "client_id".to_owned(),
        KeyPart::Group => "group".to_owned(),
        KeyPart::Issuer => "issuer".to_owned(),
        KeyPart::Src { v4, v6 } => format!("src/{v4},{v6}"),
        KeyPart::Host => "host".to_owned(),
        KeyPart::Path => "path".to_owned(),
        KeyPart::Rule => "rule".to_owned(),
        KeyPart::Claim(path) => format!("claim:{path}"),
    }
}

fn tiers(at: &At<'_>, groups: &Groups, names: &[&str]) -> Vec<(GroupId, Tier)> {
    let mut tiers = Vec::new();
    for (name, key, at) in at.named("a map of groups to rates: `{ paid: 1000/1m, ops: unlimited }`") {
        let group = groups.id(name);
        if group.is_none() {
            key.refuse_name(name, "a group", names.iter().copied());
        }
        if let (Some(group), Some(tier)) = (group, tier(&at)) {
            tiers.push((group, tier));
        }
    }
    tiers
}

fn tier(at: &At<'_>) -> Option<Tier> {
    match at.kind() {
        Kind::Text(text) if text == "unlimited" => Some(Tier::Unlimited),
        Kind::Text(text) => {
            let expected = "`unlimited`, or a count and a period, such as `1000/1m`";
            if values::rate(text).is_none() {
                at.refuse_for(format!("{} is not a rate", quote(text)), expected, nearest(text, ["unlimited"]));
                return None;
            }
            quota(at, None).map(Tier::Quota)
        }
        Kind::Map(_) => {
            let mut section = at.section("")?;
            let rate_at = section.need("rate", "1000/1m");
            let burst_at = section.take("burst");
            section.finish();
            quota(&rate_at?, burst_at.as_ref()).map(Tier::Quota)
        }
        _ => {
            at.refuse_kind("a rate, `unlimited`, or `{ rate: 1000/1m, burst: 50 }`");
            None
        }
    }
}

fn on_failure(at: &At<'_>) -> Option<OnFailure> {
    let text = at.text("`allow`, `deny` or `local`")?;
    let found = ON_FAILURE.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        at.refuse_name(text, "a choice here", ON_FAILURE.map(|(name, _)| name));
    }
    found.map(|(_, on_failure)| *on_failure)
}

/// Its word in a config.
pub(super) fn show_on_failure(on_failure: OnFailure) -> &'static str {
    ON_FAILURE.iter().find(|(_, known)| *known == on_failure).map_or("local", |(name, _)| name)
}

/// The same number for the same definition in every agent and every version, since they share counters; another one
/// whenever what a counter means has changed.
fn generation(key: &[KeyPart], quota: Quota, tiers: &[(GroupId, Tier)], groups: &Groups) -> u32 {
    let show = |quota: Quota| format!("{}/{}us+{}", quota.count(), quota.period_us(), quota.burst());
    let mut tiers: Vec<String> = tiers
        .iter()
        .map(|(group, tier)| match tier {
            Tier::Unlimited => format!("{}=unlimited", groups.name(*group)),
            Tier::Quota(quota) => format!("{}={}", groups.name(*group), show(*quota)),
        })
        .collect();
    // The best tier counts, whatever order they are written in.
    tiers.sort();
    let key: Vec<String> = key.iter().map(show_key_part).collect();
    let text = format!("key\n{}\nrate\n{}\ntiers\n{}\n", key.join("\n"), show(quota), tiers.join("\n"));
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The period in its largest whole unit.
pub(super) fn show_period(quota: Quota) -> String {
    values::show_duration(Duration::from_micros(quota.period_us()))
}

const RATE: &str = "a count and a period, such as `100/1m`, `7/10s` or `50000/month`";
const KEY: &str = "a list of what to count by, such as `[user]` or `[\"src/24,64\"]`";
const KEY_PARTS: [&str; 11] =
    ["user", "subject", "client_id", "group", "issuer", "src", "src/24,64", "host", "path", "rule", "claim:NAME"];
const ON_FAILURE: [(&str, OnFailure); 3] =
    [("allow", OnFailure::Allow), ("deny", OnFailure::Deny), ("local", OnFailure::Local)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_part_is_shown_as_it_is_read() {
        for (text, shown) in [
            ("user", Some("user")),
            ("src", Some("src/32,128")),
            ("src/24", Some("src/24,64")),
            ("src/24,64", Some("src/24,64")),
            ("src/0,0", Some("src/0,0")),
            ("claim:org.id", Some("claim:org.id")),
            ("src/33", None),
            ("src/24,129", None),
            ("src/", None),
            ("src/-1", None),
            ("claim:", None),
            ("ip", None),
        ] {
            let part = key_part(text);
            assert_eq!(part.as_ref().map(show_key_part).as_deref(), shown, "{text}");
            assert_eq!(shown.and_then(key_part), part, "{text}");
        }
    }

    #[test]
    fn generations_are_the_same_for_ever() {
        // Agents of different versions share counters: these numbers may not change.
        let quota = |count| Quota::new(count, Duration::from_secs(60), 20).unwrap();
        let groups = Groups::new([("ops", vec![]), ("paid", vec![])]).unwrap();
        let (ops, paid) = (groups.id("ops").unwrap(), groups.id("paid").unwrap());
        let plain = generation(&[KeyPart::User], quota(100), &[], &groups);
        let tiers = [(ops, Tier::Unlimited), (paid, Tier::Quota(quota(1000)))];
        let tiered = generation(&[KeyPart::User, KeyPart::Host], quota(100), &tiers, &groups);
        assert_eq!((plain, tiered), (GENERATION_PLAIN, GENERATION_TIERED));
        let turned = [tiers[1], tiers[0]];
        assert_eq!(generation(&[KeyPart::User, KeyPart::Host], quota(100), &turned, &groups), tiered);
        assert_ne!(generation(&[KeyPart::User], quota(101), &[], &groups), plain);
        assert_ne!(generation(&[KeyPart::Subject], quota(100), &[], &groups), plain);
    }

    const GENERATION_PLAIN: u32 = 2_803_892_305;
    const GENERATION_TIERED: u32 = 2_758_392_363;
}
