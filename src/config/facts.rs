//! What follows from a config, for `check`: bounds of limits, what falls to the source address, where it listens.

use std::time::Duration;

use super::limits::{show_key_part, show_period, show_zone};
use super::values::show_duration;
use super::{Config, api_keys, audit, certificates};
use crate::identity::directory::{Absent, DirectoryKind};
use crate::identity::settings::KeyOrigin;
use crate::identity::{GroupId, GroupSet};
use crate::limit::{OnFailure, Quota};
use crate::policy::Policy;
use crate::policy::charge::{Cost, Counts, KeyPart, LimitUse, Tier};
use crate::policy::rule::Allow;

impl Config {
    /// What follows from the config, one sentence or two each.
    pub fn facts(&self) -> Vec<String> {
        let mut facts = vec![self.listening()];
        facts.extend(self.keys());
        facts.extend(self.groups_from());
        if let Some(path) = &self.identity.state_dir {
            facts.push(format!("key sets are kept in {}, for a start without their provider", path.display()));
        }
        facts.extend(api_keys::facts(&self.identity.api_keys));
        facts.extend(certificates::facts(&self.identity.certificates));
        facts.extend(self.granting());
        facts.push(self.counting());
        for limit in &self.written.limits {
            facts.extend(self.bounds(limit));
            facts.extend(self.address_fallback(limit));
        }
        facts.extend(self.audit.as_ref().map(audit::fact));
        let rules = self.policy.rules().len();
        facts.push(format!(
            "{rules} {}; a request that none matches is denied",
            if rules == 1 { "rule" } else { "rules" }
        ));
        facts
    }

    fn listening(&self) -> String {
        let listen: Vec<String> = self.spop.listen.iter().map(ToString::to_string).collect();
        let admin = match &self.admin {
            Some(admin) => {
                format!("admin on {}{}", admin.listen, if admin.token.is_some() { ", with a token" } else { "" })
            }
            None => "no admin listener".to_owned(),
        };
        let deadline = show_duration(self.spop.deadline);
        format!("SPOP on {}, every NOTIFY answered within {deadline}; {admin}", listen.join(", "))
    }

    fn keys(&self) -> impl Iterator<Item = String> {
        self.identity.issuers.iter().zip(&self.written.issuers).map(|(issuer, written)| {
            let keys = match &written.jwks_file {
                Some(path) => format!("keys from {}, with no outbound call", path.display()),
                None if issuer.keys == KeyOrigin::None => format!("no JWTs of {}", issuer.issuer),
                None => format!("keys by discovery at {}", issuer.issuer),
            };
            let keys = match &issuer.outbound.proxy {
                Some(proxy) => format!("{keys}, through the proxy {}", proxy.url),
                None => keys,
            };
            let asked = match &issuer.introspection {
                None => String::new(),
                Some(asked) => {
                    let whose = match asked.prefix.as_str() {
                        "" => "other tokens".to_owned(),
                        prefix => format!("tokens that begin with `{prefix}`"),
                    };
                    let age = show_duration(asked.age_max);
                    format!("; asked about {whose} as client {}, and believed for {age}", asked.client_id)
                }
            };
            format!("issuer {}: preset {}, {keys}{asked}", issuer.name, written.preset)
        })
    }

    fn groups_from(&self) -> impl Iterator<Item = String> {
        self.identity.directories.iter().map(|directory| {
            let (what, is_asked) = match &directory.kind {
                DirectoryKind::Google(google) => (
                    format!("Google's at {}, asked by {} for {}", google.endpoint, google.key.email(), google.admin),
                    true,
                ),
                DirectoryKind::Entra(entra) => (
                    format!("Entra's at {}, tenant {}, asked by {}", entra.endpoint, entra.tenant, entra.client_id),
                    true,
                ),
                DirectoryKind::Ldap(ldap) => (super::ldap::describe(ldap), true),
                DirectoryKind::File(path) => (format!("the file {}", path.display()), false),
            };
            let ages = if is_asked {
                let (refresh, keep) = (show_duration(directory.refresh), show_duration(directory.keep));
                format!("asked again after {refresh}, and while it is away what it said counts for {keep}")
            } else {
                "read when it changes".to_owned()
            };
            let absent = match directory.absent {
                Absent::Unknown => "groups of people it does not know are unknown",
                Absent::NoGroups => "people it does not know are in no group",
            };
            format!("groups of {}: {what}; {ages}; {absent}", directory.name)
        })
    }

    fn granting(&self) -> Option<String> {
        let grants = self.identity.grants.as_ref()?;
        let which = match grants.groups.as_slice() {
            [] => "any group".to_owned(),
            groups => groups.join(", "),
        };
        let by = match grants.key {
            Some(_) => "whoever has `grants.key`",
            None => {
                "whoever can write to Redis (`grants: { key: file:… }` has them sealed, `grants: false` none at all)"
            }
        };
        Some(format!("{which} can be granted for up to {} by {by}", show_duration(grants.lifetime_max)))
    }

    fn counting(&self) -> String {
        match &self.counters.redis {
            Some(redis) => format!(
                "counted in Redis at {}, asked for at most {} a request; shared by {} agents",
                redis.address,
                show_duration(redis.timeout),
                self.counters.agents
            ),
            None => "counted in this process's memory: counters are lost with it and not shared".to_owned(),
        }
    }

    /// The most that each of a limit's quotas lets pass; what that becomes while Redis is away.
    fn bounds(&self, limit: &LimitUse) -> Vec<String> {
        let name = &limit.limit.name;
        let mut facts = vec![format!("limit {name}: {}{}", self.bound(limit, &limit.limit.quota), notes(limit))];
        for (group, tier) in &limit.tiers {
            let bound = match tier {
                Tier::Unlimited => "unlimited".to_owned(),
                Tier::Quota(quota) => format!("{}{}", self.bound(limit, quota), calendar(quota)),
            };
            facts.push(format!("limit {name}, group {}: {bound}", self.groups.name(*group)));
        }
        facts
    }

    fn bound(&self, limit: &LimitUse, quota: &Quota) -> String {
        let (period, window) = (show_period(quota), quota.in_any_window());
        let bound = match quota {
            Quota::Rate(rate) => {
                format!("at most {window} in any {period} ({} + burst {})", rate.count(), rate.burst())
            }
            Quota::Sliding(sliding) => {
                format!("{} in {period} by two buckets, at most {window} in any {period}", sliding.count())
            }
            Quota::Calendar(calendar) => {
                let (count, unit, zone) = (calendar.count(), calendar.unit().name(), show_zone(calendar));
                format!("at most {count} in each {unit} of {zone}")
            }
            Quota::Concurrent(concurrent) => {
                let lease = show_duration(Duration::from_micros(concurrent.lease_us()));
                format!("at most {window} at once; a place that nobody gives back is free after {lease}")
            }
        };
        if self.counters.redis.is_none() {
            return bound;
        }
        let agents = self.counters.agents;
        let without_redis = match limit.limit.on_failure {
            OnFailure::Allow => "while Redis cannot answer it does not hold at all".to_owned(),
            OnFailure::Deny => "while Redis cannot answer nothing that it counts passes".to_owned(),
            OnFailure::Local => {
                let each = quota.share(agents).in_any_window();
                let together = each.saturating_mul(agents.get());
                format!(
                    "while Redis cannot answer at most {together} ({agents} × {each}), and at most {} in the window in which it goes",
                    window.saturating_add(together)
                )
            }
        };
        format!("{bound}; {without_redis}")
    }

    /// Which parts of its key are the source address for some requests.
    fn address_fallback(&self, limit: &LimitUse) -> Option<String> {
        if !limit.needs_identity() {
            return None;
        }
        let uses = || {
            self.policy.rules().iter().filter(|rule| rule.limits.iter().any(|used| used.limit.name == limit.limit.name))
        };
        let open: Vec<&str> =
            uses().filter(|rule| matches!(rule.allow, Allow::Anyone)).map(|rule| &*rule.name).collect();
        // A token always has an issuer, a user and a subject; the others may be absent from it.
        let of_anonymous = |part: &&KeyPart| matches!(part, KeyPart::User | KeyPart::Subject | KeyPart::Issuer);
        let of_any =
            |part: &&KeyPart| matches!(part, KeyPart::ClientId | KeyPart::Group | KeyPart::ApiKey | KeyPart::Claim(_));
        let show = |parts: Vec<&KeyPart>| parts.into_iter().map(show_key_part).collect::<Vec<_>>().join(", ");
        let identity: Vec<&KeyPart> = limit.key.iter().filter(|part| of_anonymous(part) || of_any(part)).collect();
        let optional: Vec<&KeyPart> = limit.key.iter().filter(of_any).collect();
        let mut texts = Vec::new();
        if !open.is_empty() {
            texts.push(format!(
                "on anonymous requests {} of its key is the source address (rules {})",
                show(identity),
                open.join(", ")
            ));
        }
        if !optional.is_empty() && uses().next().is_some() {
            texts.push(format!(
                "where a token does not say {}, that part of its key is the source address",
                show(optional)
            ));
        }
        (!texts.is_empty()).then(|| format!("limit {}: {}", limit.limit.name, texts.join("; ")))
    }
}

fn calendar(quota: &Quota) -> &'static str {
    const WEEK: Duration = Duration::from_secs(7 * 86_400);
    match quota {
        Quota::Rate(rate) if Duration::from_micros(rate.period_us()) > WEEK => {
            "; its window moves with the clock and knows no calendar: a month is 30 days, a year 365"
        }
        _ => "",
    }
}

fn notes(limit: &LimitUse) -> String {
    let mut notes = calendar(&limit.limit.quota).to_owned();
    match &limit.cost {
        Cost::Fixed(1) => {}
        Cost::Fixed(cost) => notes.push_str(&format!("; a request costs {cost}")),
        Cost::Response { header, reserve } => notes.push_str(&format!(
            "; a request is charged {reserve}, and once its response is there what that says in `{header}`, whatever is left"
        )),
    }
    if limit.counts == Counts::Denied {
        notes.push_str("; counts credentials that prove nothing");
    }
    if let Some(ban) = limit.limit.ban {
        notes.push_str(&format!(", and then refuses whatever comes for {}", show_duration(ban)));
    }
    if limit.limit.shadow {
        notes.push_str("; only says what it would refuse");
    }
    notes
}

/// The groups that a rule, a tier or a backend names.
pub(super) fn groups_used<'a>(
    policy: &Policy,
    groups: &[(&str, GroupId)],
    limits: impl Iterator<Item = &'a LimitUse>,
) -> GroupSet {
    let mut used = GroupSet::default();
    for rule in policy.rules() {
        if let Allow::Require(requirement) = &rule.allow {
            requirement.groups_named().into_iter().for_each(|group| used.insert(group));
            // What an expression makes of a name is its own affair; whether it has it in it can be told.
            let expressions = requirement.conditions();
            let named = expressions.iter().filter(|when| when.names_groups()).flat_map(|when| {
                groups.iter().filter(|(name, _)| when.source().contains(name)).map(|(_, group)| *group)
            });
            named.for_each(|group| used.insert(group));
        }
        rule.backend.iter().flat_map(|backend| &backend.by_group).for_each(|(group, _)| used.insert(*group));
    }
    limits.flat_map(|limit| &limit.tiers).for_each(|(group, _)| used.insert(*group));
    used
}
