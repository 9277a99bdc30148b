//! One rule: which requests it decides, whom it lets through, and what it says about them.

use std::sync::Arc;

use serde_json::Value;

use super::charge::LimitUse;
use super::path::PathPattern;
use crate::identity::settings::ClaimPath;
use crate::identity::{Accepted, GroupId, Identity};
use crate::request::Request;

/// One entry of `rules:`. The first that matches by host, path and method decides; there is no falling through.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for logs, metrics and the `rule` variable.
    pub name: Arc<str>,
    /// Hosts, lower-cased; any where empty.
    pub hosts: Vec<String>,
    /// Path patterns; any where empty.
    pub paths: Vec<PathPattern>,
    /// Methods, exact; any where empty.
    pub methods: Vec<String>,
    /// Who may pass.
    pub allow: Allow,
    /// Which kinds of credential are taken, and in which order.
    pub credentials: Accepted,
    /// Whether credentials are not even looked at (`ignore_credentials: true`).
    pub ignore_credentials: bool,
    /// What it means that the caller's groups are not known, where it depends on one.
    pub groups_unknown: GroupsUnknown,
    /// What becomes of a credential that nobody can say anything about at the moment.
    pub identity_unavailable: Unavailable,
    /// What is counted for those who may.
    pub limits: Vec<Arc<LimitUse>>,
    /// The routing hint for HAProxy's `use_backend`.
    pub backend: Option<Backend>,
}

/// What becomes of a request whose credential cannot be looked into, because keys were never fetched or whoever is asked
/// about it does not answer. A credential that was looked into and is not good is refused, whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unavailable {
    /// It is refused, as our failure.
    #[default]
    Deny,
    /// It is taken for one without a credential. Only for a rule that lets anyone through: the caller could as well have
    /// left the credential out, so nothing opens that was closed.
    Anonymous,
}

impl Unavailable {
    /// All of them, with the config's word for each.
    pub const NAMES: [(&'static str, Unavailable); 2] =
        [("deny", Unavailable::Deny), ("anonymous", Unavailable::Anonymous)];
}

/// Who may pass.
#[derive(Clone, Debug)]
pub enum Allow {
    /// Everyone, anonymous included.
    Anyone,
    /// Everyone with a verified credential.
    Authenticated,
    /// Those who meet every part.
    Require(Requirement),
}

/// What a rule says where it needs a group, the caller has not shown to be in it, and not all of their groups are known.
/// Letting them through is no choice: a rule that passes whoever's directory is slow protects nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupsUnknown {
    /// They may not pass, as if they were not in it.
    #[default]
    Deny,
    /// That nothing can be said now: for callers who can try again, where a 403 would be taken for final.
    Unavailable,
}

impl GroupsUnknown {
    /// Both, with the config's word for each.
    pub const NAMES: [(&'static str, GroupsUnknown); 2] =
        [("deny", GroupsUnknown::Deny), ("unavailable", GroupsUnknown::Unavailable)];
}

/// `{ groups, all_groups, scopes, claims }`: all given parts are required, a list within one part means any of (but
/// `all_groups`).
#[derive(Clone, Debug, Default)]
pub struct Requirement {
    /// Any of these groups; nothing is required where empty.
    pub groups: Vec<GroupId>,
    /// All of these groups.
    pub all_groups: Vec<GroupId>,
    /// Any of these scopes; nothing is required where empty.
    pub scopes: Vec<String>,
    /// For each claim, any of these values. A claim that is an array has a value if it contains it.
    pub claims: Vec<(ClaimPath, Vec<Value>)>,
}

/// Which part of a requirement was not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// None of `groups`, or not all of `all_groups`.
    Group,
    /// A group is needed and not all the caller's groups are known.
    GroupsUnknown,
    /// None of `scopes`.
    Scope,
    /// A claim is absent or has another value.
    Claim,
}

impl Requirement {
    /// The first part that `identity` does not meet.
    pub fn unmet(&self, identity: &Identity) -> Option<Unmet> {
        let has = |group: &GroupId| identity.groups.contains(*group);
        let grouped = (self.groups.is_empty() || self.groups.iter().any(has)) && self.all_groups.iter().all(has);
        if !grouped {
            // A token that leaves groups out, or a directory that is away, has not shown that the caller lacks this one.
            return Some(if identity.groups_known { Unmet::Group } else { Unmet::GroupsUnknown });
        }
        if !self.scopes.is_empty() && !self.scopes.iter().any(|scope| identity.scopes.contains(scope)) {
            return Some(Unmet::Scope);
        }
        let claimed = self.claims.iter().all(|(path, wanted)| {
            path.find(&identity.claims).is_some_and(|held| wanted.iter().any(|value| holds(held, value)))
        });
        if claimed { None } else { Some(Unmet::Claim) }
    }
}

fn holds(held: &Value, wanted: &Value) -> bool {
    held == wanted || held.as_array().is_some_and(|several| several.contains(wanted))
}

/// The routing hint: by group in the written order, else the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The first group that the caller has decides.
    pub by_group: Vec<(GroupId, Arc<str>)>,
    /// For everyone else; no hint where `None`.
    pub otherwise: Option<Arc<str>>,
}

impl Backend {
    /// The hint for `identity`.
    pub fn choose(&self, identity: &Identity) -> Option<&Arc<str>> {
        let by_group = self.by_group.iter().find(|(group, _)| identity.groups.contains(*group));
        by_group.map(|(_, name)| name).or(self.otherwise.as_ref())
    }
}

/// Why a rule does not decide a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Another host.
    Host,
    /// Another path.
    Path,
    /// Another method.
    Method,
}

impl Rule {
    /// Why this rule does not decide the request; `None` where it does. `path` is what [`super::path::read`] gave.
    pub fn mismatch(&self, request: &Request<'_>, path: &[u8]) -> Option<Mismatch> {
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| *host == request.host) {
            return Some(Mismatch::Host);
        }
        if !self.paths.is_empty() && !self.paths.iter().any(|pattern| pattern.matches(path)) {
            return Some(Mismatch::Path);
        }
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == request.method) {
            return Some(Mismatch::Method);
        }
        None
    }

    /// Whether every request that `later` matches is matched by this rule, so that `later` can never decide.
    pub fn covers(&self, later: &Rule) -> bool {
        let hosts = self.hosts.is_empty()
            || (!later.hosts.is_empty() && later.hosts.iter().all(|host| self.hosts.contains(host)));
        let paths = self.paths.is_empty()
            || (!later.paths.is_empty()
                && later.paths.iter().all(|path| self.paths.iter().any(|ours| ours.covers(path))));
        let methods = self.methods.is_empty()
            || (!later.methods.is_empty() && later.methods.iter().all(|method| self.methods.contains(method)));
        hosts && paths && methods
    }
}
