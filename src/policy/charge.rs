//! What a permitted request costs: which counters, with which quota.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::requirement::Case;
use crate::identity::settings::ClaimPath;
use crate::identity::{CredentialKind, GroupId, Identity};
use crate::limit::{Charge, CounterKey, Holder, How, KeyWriter, Limit, Quota};
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
    /// What a request costs.
    pub cost: Cost,
    /// What is counted.
    pub counts: Counts,
}

/// What a request costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Always the same.
    Fixed(u32),
    /// What the response says in a header field, a whole number; until then, and where it says nothing, `reserve`.
    Response {
        /// The field's name: lower-case letters, digits and `-`.
        header: Arc<str>,
        /// Charged beforehand.
        reserve: u32,
    },
}

impl Cost {
    /// What HAProxy calls a header field where it tells what that says: its config takes letters, digits, `_` and `.`. Two
    /// fields are never called the same.
    pub fn argument(header: &str) -> String {
        format!("header.{}", header.replace('-', "_"))
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counts {
    /// Requests that the policy lets through.
    #[default]
    Requests,
    /// Credentials that prove nothing. Others are held up where too many of them came, and charged nothing.
    Denied,
}

/// What a group has instead of the base quota.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The method.
    Method,
    /// The rule.
    Rule,
    /// The API key, by the name that it has.
    ApiKey,
    /// A claim's value, within its issuer.
    Claim(ClaimPath),
}

impl LimitUse {
    /// What this request is charged; `None` where a tier says `unlimited`.
    pub fn charge(&self, rule: &str, case: Case<'_>) -> Option<Charge> {
        let quota = self.quota(case.identity)?.clone();
        let (cost, how) = match (&self.cost, self.counts) {
            (_, Counts::Denied) => (1, How::Look),
            (Cost::Fixed(cost), Counts::Requests) => (*cost, How::Take),
            (Cost::Response { reserve, .. }, Counts::Requests) => (*reserve, How::Take),
        };
        let holder = match (&quota, case.request.id) {
            (Quota::Concurrent(_), Some(id)) => Holder::of(id),
            (Quota::Concurrent(_), None) => Holder::of_nobody(),
            _ => Holder::NONE,
        };
        Some(Charge { limit: Arc::clone(&self.limit), quota, key: self.counter(rule, case), cost, holder, how })
    }

    /// What a credential that proves nothing is charged; `None` where it is not what is counted.
    pub fn charge_denied(&self, rule: &str, case: Case<'_>) -> Option<Charge> {
        (self.counts == Counts::Denied).then(|| Charge {
            limit: Arc::clone(&self.limit),
            quota: self.limit.quota.clone(),
            key: self.counter(rule, case),
            cost: 1,
            holder: Holder::NONE,
            how: How::Try,
        })
    }

    fn counter(&self, rule: &str, case: Case<'_>) -> CounterKey {
        let mut key = CounterKey::of(&self.limit);
        write(&self.key, rule, case, &mut key);
        key.finish()
    }

    /// The best of the base quota and the tiers that apply; `None` is unlimited.
    fn quota(&self, identity: &Identity) -> Option<&Quota> {
        let mut best: Option<&Quota> = None;
        for (group, tier) in &self.tiers {
            if !identity.groups.contains(*group) {
                continue;
            }
            match tier {
                Tier::Unlimited => return None,
                Tier::Quota(quota) if best.is_none_or(|best| quota.is_better_than(best)) => best = Some(quota),
                Tier::Quota(_) => {}
            }
        }
        Some(best.unwrap_or(&self.limit.quota))
    }

    /// Whether the key of some request may hold a part without a value, which falls to the source address.
    pub fn needs_identity(&self) -> bool {
        self.key.iter().any(KeyPart::needs_identity)
    }
}

impl KeyPart {
    /// Whether it is something of the caller, which a request without a credential does not have.
    pub fn needs_identity(&self) -> bool {
        !matches!(self, KeyPart::Src { .. } | KeyPart::Host | KeyPart::Path | KeyPart::Method | KeyPart::Rule)
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
            KeyPart::Method => key.part(request.method.as_bytes()),
            KeyPart::ApiKey => {
                let name = if identity.credential == CredentialKind::ApiKey { &*identity.client_id } else { "" };
                of_issuer(key, identity, name, request);
            }
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
