//! `limits:`: what is counted, by which key, and how much of it there is.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::tz::TimeZone;

use super::read::{At, Section, nearest, quote};
use super::{file, times, values};
use crate::identity::settings::ClaimPath;
use crate::identity::{GroupId, Groups};
use crate::limit::{Calendar, Concurrent, Limit, OnFailure, Quota, Rate, Sliding, Unit};
use crate::policy::charge::{Cost, Counts, KeyPart, LimitUse, Tier};

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
    let mut section = at.section("a map with `key:` and `rate:`, or `key:` and `concurrent:`")?;
    let key_at = section.need("key", "[user]");
    let key = key_at.as_ref().map(key).unwrap_or_default();
    let concurrent_at = section.take("concurrent");
    let rate_at = if concurrent_at.is_some() { section.take("rate") } else { section.need("rate", "100/1m") };
    let burst_at = section.take("burst");
    let algorithm_at = section.take("algorithm");
    let timezone_at = section.take("timezone");
    let lease_at = section.take("lease");
    let kind = match &concurrent_at {
        Some(_) => {
            let others =
                [("rate", &rate_at), ("burst", &burst_at), ("algorithm", &algorithm_at), ("timezone", &timezone_at)];
            for (key, at) in others {
                if let Some(at) = at {
                    let what = format!("`{key}` is of what flows, and `concurrent` counts what is there at once");
                    at.refuse(what, "one limit for each, and both in the rule's `limits`");
                }
            }
            Some(Kind::Concurrent(match &lease_at {
                None => LEASE,
                Some(at) => at.duration(Duration::from_secs(1), LEASE_MAX)?,
            }))
        }
        None => {
            if let Some(at) = &lease_at {
                at.refuse("`lease` is how long a place of `concurrent` is held at most, and there is none", "");
            }
            flow(algorithm_at.as_ref(), timezone_at.as_ref())
        }
    };
    if let (Some(at), Some(Kind::Sliding | Kind::Calendar(_))) = (&burst_at, &kind) {
        at.refuse("a window has no burst: what it has may all come at once", "");
    }
    let quota =
        kind.as_ref().and_then(|kind| quota(concurrent_at.as_ref().or(rate_at.as_ref())?, burst_at.as_ref(), kind));
    let tiers = section.take("tiers");
    let tiers = match (&tiers, &kind) {
        (Some(at), Some(kind)) => tiers_of(at, groups, names, kind),
        _ => Vec::new(),
    };
    // Whichever tier a caller has, one request must be able to pass.
    let of_tiers = tiers.iter().filter_map(|(_, tier)| match tier {
        Tier::Unlimited => None,
        Tier::Quota(quota) => Some(quota),
    });
    let at_once = quota.iter().chain(of_tiers).map(Quota::at_once).min();
    let cost = cost(&mut section, kind.as_ref(), at_once);
    let (counts, ban) = counts(&mut section, kind.as_ref(), key_at.as_ref().zip(Some(&key)));
    let shadow = section.take("shadow").is_some_and(|at| at.boolean().unwrap_or_default());
    let on_failure = match section.take("on_failure") {
        None => OnFailure::default(),
        Some(at) => on_failure(&at).unwrap_or_default(),
    };
    section.finish();
    let (quota, cost, counts) = (quota?, cost?, counts?);
    let generation = generation(&key, &quota, &tiers, (counts, ban, &cost), groups);
    let settles = match &cost {
        Cost::Response { header, .. } => Some(Cost::argument(header).into()),
        Cost::Fixed(_) => None,
    };
    let limit = Limit { shadow, ban, settles, ..Limit::new(name, quota, on_failure, generation) };
    Some(Arc::new(LimitUse { limit: Arc::new(limit), key, tiers, cost, counts }))
}

/// What a limit and all its tiers have in common.
enum Kind {
    Rate,
    Sliding,
    Calendar(TimeZone),
    /// With its lease.
    Concurrent(Duration),
}

fn flow(algorithm_at: Option<&At<'_>>, timezone_at: Option<&At<'_>>) -> Option<Kind> {
    let algorithm = match algorithm_at {
        None => {
            if timezone_at.is_some() {
                "calendar"
            } else {
                "gcra"
            }
        }
        Some(at) => {
            let text = at.text("`gcra`, `sliding` or `calendar`")?;
            if !ALGORITHMS.contains(&text) {
                at.refuse_name(text, "an algorithm", ALGORITHMS);
                return None;
            }
            text
        }
    };
    let zone = timezone_at.map(times::zone);
    if let (Some(at), "gcra" | "sliding") = (timezone_at, algorithm) {
        at.refuse(
            format!("`{algorithm}` moves with the clock and knows no time zone"),
            "`algorithm: calendar`, or none",
        );
    }
    Some(match algorithm {
        "sliding" => Kind::Sliding,
        "calendar" => Kind::Calendar(zone.unwrap_or(Some(TimeZone::UTC))?),
        _ => Kind::Rate,
    })
}

/// What there is of it, with the burst of a rate or, without one, the rate's own count.
fn quota(at: &At<'_>, burst_at: Option<&At<'_>>, kind: &Kind) -> Option<Quota> {
    match kind {
        Kind::Concurrent(lease) => {
            let count = at.integer(1, Concurrent::COUNT_MAX)?;
            Concurrent::new(count, *lease).map(Quota::Concurrent)
        }
        Kind::Calendar(zone) => {
            let (count, unit) = at.parsed("a quota of the calendar", CALENDAR, calendar)?;
            let quota = Calendar::new(count, unit, zone.clone());
            if quota.is_none() {
                at.refuse(out_of_bounds(at), format!("a count from 1 to {}", Quota::COUNT_MAX));
            }
            quota.map(Quota::Calendar)
        }
        Kind::Rate | Kind::Sliding => {
            let rate = at.parsed("a rate", RATE, values::rate);
            let burst = burst_at.map(|at| at.integer(1, Quota::COUNT_MAX));
            let (count, period) = rate?;
            let burst = burst.unwrap_or(Some(count))?;
            let quota = match kind {
                Kind::Sliding => Sliding::new(count, period).map(Quota::Sliding),
                _ => Rate::new(count, period, burst).map(Quota::Rate),
            };
            if quota.is_none() {
                at.refuse(
                    out_of_bounds(at),
                    format!(
                        "a count from 1 to {}, and a period from 1ms to {}",
                        Quota::COUNT_MAX,
                        values::show_duration(Quota::PERIOD_MAX)
                    ),
                );
            }
            quota
        }
    }
}

fn out_of_bounds(at: &At<'_>) -> String {
    format!("{} is out of bounds", at.as_text().map_or_else(String::new, quote))
}

/// `50000/month`.
fn calendar(text: &str) -> Option<(u64, Unit)> {
    let (count, unit) = text.split_once('/')?;
    let unit = [Unit::Day, Unit::Week, Unit::Month, Unit::Year].into_iter().find(|known| known.name() == unit)?;
    count.bytes().all(|b| b.is_ascii_digit()).then(|| count.parse().ok())?.map(|count| (count, unit))
}

/// What a request costs, of the least that can pass at once; `None` where that is a mistake.
fn cost(section: &mut Section<'_>, kind: Option<&Kind>, at_once: Option<u64>) -> Option<Cost> {
    let (cost_at, reserve_at) = (section.take("cost"), section.take("reserve"));
    if let (Some(at), Some(Kind::Concurrent(_))) = (&cost_at, kind) {
        at.refuse("a request takes one place, whatever it costs", "a limit with a `rate` beside this one");
        return None;
    }
    let within = |at: &At<'_>| {
        let cost = at.integer(1, u64::from(u32::MAX))?;
        if let Some(at_once) = at_once.filter(|at_once| cost > *at_once) {
            at.refuse(format!("{cost} can never pass, since at most {at_once} do at once"), "a smaller one");
            return None;
        }
        u32::try_from(cost).ok()
    };
    let header = match &cost_at {
        Some(at) if matches!(at.kind(), file::Kind::Text(_)) => Some(at.parsed("a cost", COST, header)?),
        _ => None,
    };
    match (header, cost_at, reserve_at) {
        (Some(header), _, None) => Some(Cost::Response { header, reserve: 1 }),
        (Some(header), _, Some(at)) => Some(Cost::Response { header, reserve: within(&at)? }),
        (None, _, Some(at)) => {
            at.refuse(
                "`reserve` is what is charged until the response says what it cost",
                "`cost: response.header(NAME)`",
            );
            None
        }
        (None, Some(at), None) => within(&at).map(Cost::Fixed),
        (None, None, None) => Some(Cost::Fixed(1)),
    }
}

/// `response.header(x-tokens)`.
fn header(text: &str) -> Option<Arc<str>> {
    let name = text.strip_prefix("response.header(")?.strip_suffix(')')?;
    // Of what a name may be made of (RFC 9110, section 5.6.2), what HAProxy's config cannot read as its own, and what tells
    // two names apart as an argument.
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (!name.is_empty() && name.len() <= HEADER_MAX && name.bytes().all(good)).then(|| name.to_ascii_lowercase().into())
}

/// What is counted, and for how long it bans; `None` where that is a mistake.
fn counts(
    section: &mut Section<'_>,
    kind: Option<&Kind>,
    key: Option<(&At<'_>, &Vec<KeyPart>)>,
) -> (Option<Counts>, Option<Duration>) {
    let (count_at, ban_at) = (section.take("count"), section.take("ban"));
    let counts = match &count_at {
        None => Some(Counts::Requests),
        Some(at) => match at.text("`requests` or `denied`") {
            Some("requests") => Some(Counts::Requests),
            Some("denied") => Some(Counts::Denied),
            Some(other) => {
                at.refuse_name(other, "something to count", ["requests", "denied"]);
                None
            }
            None => None,
        },
    };
    if let (Some(at), Some(Counts::Denied)) = (&count_at, counts) {
        if !matches!(kind, None | Some(Kind::Rate)) {
            at.refuse("what was denied is counted as it flows", "a `rate` without `algorithm` or `timezone`");
        }
        if let Some((at, key)) = key
            && key.iter().any(KeyPart::needs_identity)
        {
            at.refuse(
                "a credential that proves nothing names nobody, so what is denied cannot be counted by the caller",
                "parts that every request has: `src`, `host`, `path`, `method`, `rule`",
            );
        }
    }
    let ban = ban_at.as_ref().and_then(|at| at.duration(Duration::from_secs(1), BAN_MAX));
    if let (Some(at), Some(Counts::Requests)) = (&ban_at, counts) {
        at.refuse("`ban` is for what counts refused credentials", "`count: denied` beside it");
    }
    (counts, ban)
}

/// Reads a list of parts.
pub(super) fn key(at: &At<'_>) -> Vec<KeyPart> {
    let mut parts = Vec::new();
    for at in at.one_or_many(KEY) {
        if matches!(at.kind(), file::Kind::Integer(_)) {
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
        "method" => KeyPart::Method,
        "rule" => KeyPart::Rule,
        "api_key" => KeyPart::ApiKey,
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
        KeyPart::Method => "method".to_owned(),
        KeyPart::Rule => "rule".to_owned(),
        KeyPart::ApiKey => "api_key".to_owned(),
        KeyPart::Claim(path) => format!("claim:{path}"),
    }
}

fn tiers_of(at: &At<'_>, groups: &Groups, names: &[&str], kind: &Kind) -> Vec<(GroupId, Tier)> {
    let mut tiers = Vec::new();
    for (name, key, at) in at.named("a map of groups to rates: `{ paid: 1000/1m, ops: unlimited }`") {
        let group = groups.id(name);
        if group.is_none() {
            key.refuse_name(name, "a group", names.iter().copied());
        }
        if let (Some(group), Some(tier)) = (group, tier(&at, kind)) {
            tiers.push((group, tier));
        }
    }
    tiers
}

fn tier(at: &At<'_>, kind: &Kind) -> Option<Tier> {
    match (at.kind(), kind) {
        (file::Kind::Text(text), _) if text == "unlimited" => Some(Tier::Unlimited),
        (file::Kind::Integer(_), Kind::Concurrent(_)) => quota(at, None, kind).map(Tier::Quota),
        (_, Kind::Concurrent(_)) => {
            at.refuse_kind("`unlimited`, or how many at once");
            None
        }
        (file::Kind::Text(text), _) => {
            let (expected, good) = match kind {
                Kind::Calendar(_) => ("`unlimited`, or a count and a unit of the calendar", calendar(text).is_some()),
                _ => ("`unlimited`, or a count and a period, such as `1000/1m`", values::rate(text).is_some()),
            };
            if !good {
                at.refuse_for(format!("{} is not a rate", quote(text)), expected, nearest(text, ["unlimited"]));
                return None;
            }
            quota(at, None, kind).map(Tier::Quota)
        }
        (file::Kind::Map(_), Kind::Rate) => {
            let mut section = at.section("")?;
            let rate_at = section.need("rate", "1000/1m");
            let burst_at = section.take("burst");
            section.finish();
            quota(&rate_at?, burst_at.as_ref(), kind).map(Tier::Quota)
        }
        (_, Kind::Rate) => {
            at.refuse_kind("a rate, `unlimited`, or `{ rate: 1000/1m, burst: 50 }`");
            None
        }
        _ => {
            at.refuse_kind("a rate, or `unlimited`");
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
fn generation(
    key: &[KeyPart],
    quota: &Quota,
    tiers: &[(GroupId, Tier)],
    (counts, ban, cost): (Counts, Option<Duration>, &Cost),
    groups: &Groups,
) -> u32 {
    let mut tiers: Vec<String> = tiers
        .iter()
        .map(|(group, tier)| match tier {
            Tier::Unlimited => format!("{}=unlimited", groups.name(*group)),
            Tier::Quota(quota) => format!("{}={}", groups.name(*group), lasting(quota)),
        })
        .collect();
    // The best tier counts, whatever order they are written in.
    tiers.sort();
    let key: Vec<String> = key.iter().map(show_key_part).collect();
    let mut text = format!("key\n{}\nrate\n{}\ntiers\n{}\n", key.join("\n"), lasting(quota), tiers.join("\n"));
    // What was not there in the first version has a line only where it is not as it was then.
    if counts == Counts::Denied {
        let ban_us = ban.unwrap_or_default().as_micros();
        text.push_str(&format!("denied\n{ban_us}\n"));
    }
    if let Cost::Response { .. } = cost {
        text.push_str("settles\n");
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A quota in words that never change.
fn lasting(quota: &Quota) -> String {
    match quota {
        Quota::Rate(rate) => format!("{}/{}us+{}", rate.count(), rate.period_us(), rate.burst()),
        Quota::Sliding(sliding) => format!("sliding {}/{}us", sliding.count(), sliding.period_us()),
        Quota::Calendar(calendar) => {
            format!("calendar {}/{} {}", calendar.count(), calendar.unit().name(), show_zone(calendar))
        }
        // A lease is that of whoever took it; another one is no reason to forget who is in.
        Quota::Concurrent(concurrent) => format!("concurrent {}", concurrent.count()),
    }
}

/// The zone's name.
pub(super) fn show_zone(calendar: &Calendar) -> String {
    calendar.zone().iana_name().unwrap_or("UTC").to_owned()
}

/// What there is, as [`quota`] reads it.
pub(super) fn show_quota(quota: &Quota) -> String {
    match quota {
        Quota::Calendar(calendar) => format!("{}/{}", calendar.count(), calendar.unit().name()),
        Quota::Concurrent(concurrent) => concurrent.count().to_string(),
        Quota::Rate(_) | Quota::Sliding(_) => format!("{}/{}", quota.count(), show_period(quota)),
    }
}

/// The period in its largest whole unit.
pub(super) fn show_period(quota: &Quota) -> String {
    values::show_duration(Duration::from_micros(quota.period_us().unwrap_or_default()))
}

const RATE: &str = "a count and a period, such as `100/1m`, `7/10s` or `50000/month`";
const KEY: &str = "a list of what to count by, such as `[user]` or `[\"src/24,64\"]`";
const KEY_PARTS: [&str; 13] = [
    "user",
    "subject",
    "client_id",
    "group",
    "issuer",
    "src",
    "src/24,64",
    "host",
    "path",
    "method",
    "rule",
    "api_key",
    "claim:NAME",
];
const ALGORITHMS: [&str; 3] = ["gcra", "sliding", "calendar"];
const CALENDAR: &str = "a count and a unit of the calendar: `50000/month`, or `/day`, `/week`, `/year`";
const COST: &str = "a whole number, or `response.header(NAME)`";

/// A name that no header in use comes near to.
const HEADER_MAX: usize = 64;

/// Longer than most requests, and shorter than somebody waits whose place nobody gave back.
const LEASE: Duration = Duration::from_secs(60);

/// A request that takes longer is none of HAProxy's: its `timeout tunnel` ends even those that were upgraded.
const LEASE_MAX: Duration = Duration::from_secs(86_400);

/// Whoever is to be kept out for longer is a matter for a rule.
const BAN_MAX: Duration = Duration::from_secs(30 * 86_400);
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
        let quota = |count| Quota::Rate(Rate::new(count, Duration::from_secs(60), 20).unwrap());
        let generation = |key: &[KeyPart], quota: Quota, tiers: &[_], groups: &Groups| {
            generation(key, &quota, tiers, (Counts::Requests, None, &Cost::Fixed(1)), groups)
        };
        let groups = Groups::new([("ops", vec![]), ("paid", vec![])]).unwrap();
        let (ops, paid) = (groups.id("ops").unwrap(), groups.id("paid").unwrap());
        let plain = generation(&[KeyPart::User], quota(100), &[], &groups);
        let tiers = [(ops, Tier::Unlimited), (paid, Tier::Quota(quota(1000)))];
        let tiered = generation(&[KeyPart::User, KeyPart::Host], quota(100), &tiers, &groups);
        assert_eq!((plain, tiered), (GENERATION_PLAIN, GENERATION_TIERED));
        let turned = [tiers[1].clone(), tiers[0].clone()];
        assert_eq!(generation(&[KeyPart::User, KeyPart::Host], quota(100), &turned, &groups), tiered);
        assert_ne!(generation(&[KeyPart::User], quota(101), &[], &groups), plain);
        assert_ne!(generation(&[KeyPart::Subject], quota(100), &[], &groups), plain);
    }

    const GENERATION_PLAIN: u32 = 2_803_892_305;
    const GENERATION_TIERED: u32 = 2_758_392_363;
}
