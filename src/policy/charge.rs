//! What a permitted request costs: which counters, with which quota.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::requirement::Case;
use crate::identity::settings::ClaimPath;
use crate::identity::{GroupId, Identity};
use crate::limit::{Charge, CounterKey, KeyWriter, Limit, Quota};
use crate::request::Request;

/// One entry of `limits:` as rules use it: the limit, the key it counts by, and the tiers.
#[derive(Clone, Debug)]
pub struct LimitUse {
    /// What is counted.
    pub limit: Arc<Limit>,
    /// By what, in the written order. Never empty.
    pub key: Vec<KeyPart>,
    /// By group; the best one that applies replaces the base quota.
    pub tiers: Vec<(GroupId, Tier)>,
}

/// What a group has instead of the base quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Not counted at all.
    Unlimited,
    /// Another quota.
    Quota(Quota),
}

/// One part of a counter's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The caller's `user`, within its issuer.
    User,
    /// The caller's `sub`, within its issuer.
    Subject,
    /// The client the token was issued to, within its issuer.
    ClientId,
    /// The caller's policy groups, all of them together.
    Group,
    /// The issuer.
    Issuer,
    /// The source address, cut to these many leading bits.
    Src {
        /// For IPv4, at most 32.
        v4: u8,
        /// For IPv6, at most 128.
        v6: u8,
    },
    /// The host.
    Host,
    /// The path.
    Path,
    /// The rule.
    Rule,
    /// A claim's value, within its issuer.
    Claim(ClaimPath),
}

impl LimitUse {
    /// What this request is charged; `None` where a tier says `unlimited`.
    pub fn charge(&self, rule: &str, case: Case<'_>) -> Option<Charge> {
        let quota = self.quota(case.identity)?;
        let mut key = CounterKey::of(&self.limit);
        write(&self.key, rule, case, &mut key);
        Some(Charge { limit: Arc::clone(&self.limit), quota, key: key.finish(), cost: 1 })
    }

    /// The best of the base quota and the tiers that apply; `None` is unlimited.
    fn quota(&self, identity: &Identity) -> Option<Quota> {
        let mut best: Option<Quota> = None;
        for (group, tier) in &self.tiers {
            if !identity.groups.contains(*group) {
                continue;
            }
            match tier {
                Tier::Unlimited => return None,
                Tier::Quota(quota) if best.is_none_or(|best| quota.is_better_than(best)) => best = Some(*quota),
                Tier::Quota(_) => {}
            }
        }
        Some(best.unwrap_or(self.limit.quota))
    }

    /// Whether the key of some request may hold a part without a value, which falls to the source address.
    pub fn needs_identity(&self) -> bool {
        self.key.iter().any(|part| !matches!(part, KeyPart::Src { .. } | KeyPart::Host | KeyPart::Path | KeyPart::Rule))
    }
}

/// What a request has in common with those that should go to the same server, as sixteen hex digits: nothing of it can be
/// read from there, and every agent says the same.
pub fn sticky(parts: &[KeyPart], rule: &str, case: Case<'_>) -> Box<str> {
    let mut key = CounterKey::begin("sticky", 0);
    write(parts, rule, case, &mut key);
    key.finish().digest()
}

/// Writes `parts` of a key.
///
/// Only verified values and what HAProxy itself saw name a key. Identity values are written together with their issuer, so
/// that one issuer's alice never spends the other's budget. A part without a value (no user on an anonymous request) falls
/// to the source address.
fn write(parts: &[KeyPart], rule: &str, case: Case<'_>, key: &mut KeyWriter) {
    let Case { request, path, identity, .. } = case;
    for part in parts {
        match part {
            KeyPart::User => of_issuer(key, identity, &identity.user, request),
            KeyPart::Subject => of_issuer(key, identity, &identity.subject, request),
            KeyPart::ClientId => of_issuer(key, identity, &identity.client_id, request),
            KeyPart::Group => of_issuer(key, identity, &identity.groups_joined, request),
            KeyPart::Issuer => part_or_source(key, &identity.issuer_name, request),
            KeyPart::Src { v4, v6 } => source(key, request, *v4, *v6),
            KeyPart::Host => key.part(request.host.as_bytes()),
            KeyPart::Path => key.part(path),
            KeyPart::Rule => key.part(rule.as_bytes()),
            KeyPart::Claim(claim) => match claim.find(&identity.claims) {
                Some(Value::String(text)) => of_issuer(key, identity, text, request),
                Some(Value::Null) | None => of_issuer(key, identity, "", request),
                Some(other) => of_issuer(key, identity, &other.to_string(), request),
            },
        }
    }
}

fn of_issuer(key: &mut KeyWriter, identity: &Identity, value: &str, request: &Request<'_>) {
    if !value.is_empty() {
        key.part(identity.issuer_name.as_bytes());
    }
    part_or_source(key, value, request);
}

fn part_or_source(key: &mut KeyWriter, value: &str, request: &Request<'_>) {
    if value.is_empty() {
        // Marked by what no issuer is called, so that an address can never be taken for a user of that name.
        key.part(b"");
        source(key, request, 32, 128);
    } else {
        key.part(value.as_bytes());
    }
}

fn source(key: &mut KeyWriter, request: &Request<'_>, v4: u8, v6: u8) {
    match request.src {
        Some(IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4.min(32))).unwrap_or(0);
            key.part(&(u32::from(address) & mask).to_be_bytes());
        }
        Some(IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6.min(128))).unwrap_or(0);
            key.part(&(u128::from(address) & mask).to_be_bytes());
        }
        // HAProxy always has one; a config that does not send it counts all such requests together.
        None => key.part(b""),
    }
}
