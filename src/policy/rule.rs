//! One rule: which requests it decides, whom it lets through, and what it says about them.

use std::sync::Arc;

use super::charge::{KeyPart, LimitUse};
use super::host::HostPattern;
use super::path::PathPattern;
use super::requirement::Requirement;
use super::sign_in::Anonymous;
use crate::identity::{Accepted, GroupId, Identity};
use crate::request::Request;

/// One entry of `rules:`. The first that matches by host, path and method decides; there is no falling through.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for logs, metrics and the `rule` variable.
    pub name: Arc<str>,
    /// Hosts; any where empty.
    pub hosts: Vec<HostPattern>,
    /// Path patterns; any where empty.
    pub paths: Vec<PathPattern>,
    /// Methods, exact; any where empty.
    pub methods: Vec<String>,
    /// Who may pass.
    pub allow: Allow,
    /// Whether it only says what it would decide (`shadow: true`): the rules after it decide.
    pub shadow: bool,
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
    /// What the requests have in common that should go to the same server; nothing where empty.
    pub sticky: Vec<KeyPart>,
    /// What somebody gets who shows no credential and needs one.
    pub anonymous: Anonymous,
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
    /// Those who meet it.
    Require(Box<Requirement>),
}

impl Allow {
    /// Whether somebody without a credential may pass, if the rest holds.
    pub fn takes_anyone(&self) -> bool {
        match self {
            Allow::Anyone => true,
            Allow::Authenticated => false,
            Allow::Require(requirement) => requirement.anyone,
        }
    }
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
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.matches(&request.host)) {
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

    /// The host and the path of one request that it matches.
    pub fn example(&self) -> (String, String) {
        let host = match self.hosts.first() {
            None => String::new(),
            Some(HostPattern::Exact(name)) => name.clone(),
            Some(HostPattern::Below(domain)) => format!("x.{domain}"),
        };
        (host, self.paths.first().map_or("/".to_owned(), PathPattern::example))
    }

    /// Whether every request that `later` matches is matched by this rule, so that `later` can never decide.
    pub fn covers(&self, later: &Rule) -> bool {
        let hosts = self.hosts.is_empty()
            || (!later.hosts.is_empty()
                && later.hosts.iter().all(|host| self.hosts.iter().any(|ours| ours.covers(host))));
        let paths = self.paths.is_empty()
            || (!later.paths.is_empty()
                && later.paths.iter().all(|path| self.paths.iter().any(|ours| ours.covers(path))));
        let methods = self.methods.is_empty()
            || (!later.methods.is_empty() && later.methods.iter().all(|method| self.methods.contains(method)));
        hosts && paths && methods
    }
}
