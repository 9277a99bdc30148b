//! `rules:`: which requests, who may, what it costs, and where to.

use std::collections::HashMap;
use std::sync::Arc;

use super::file::Kind;
use super::issuers::choice;
use super::limits::{CheckedLimit, key};
use super::read::{At, is_name, nearest, one_of, quote};
use super::{reach, requirement};
use crate::identity::{Accepted, CredentialKind, GroupId, Groups};
use crate::policy::charge::LimitUse;
use crate::policy::host::HostPattern;
use crate::policy::path::PathPattern;
use crate::policy::rule::{Allow, Backend, GroupsUnknown, Rule, Unavailable};
use crate::policy::sign_in::Anonymous;

/// What rules refer to by name.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) groups: &'a Groups,
    pub(super) group_names: &'a [&'a str],
    pub(super) limits: &'a [CheckedLimit<'a>],
    /// The kinds of credential that the config says how to verify.
    pub(super) available: &'a Accepted,
    /// What a rule takes that does not say.
    pub(super) credentials: &'a Accepted,
    /// Whether `sign_in:` says where browsers go.
    pub(super) can_sign_in: bool,
}

/// Reads `rules:`; those without a mistake.
pub(super) fn read(at: &At<'_>, names: Names<'_>) -> Vec<Rule> {
    let mut taken: HashMap<&str, u32> = HashMap::new();
    let read = at.list("a list of rules").unwrap_or_default().into_iter();
    let (places, rules): (Vec<_>, Vec<_>) =
        read.filter_map(|at| rule(&at, names, &mut taken).map(|rule| (at, rule))).unzip();
    reach::warn(&places, &rules);
    rules
}

fn rule<'a>(at: &At<'a>, names: Names<'_>, taken: &mut HashMap<&'a str, u32>) -> Option<Rule> {
    let mut section = at.section("a map with `name:` and `allow:`")?;
    let name_at = section.need("name", "api");
    let name = name_at.as_ref().and_then(|at| at.name("a rule"));
    if let (Some(name), Some(at)) = (name, name_at) {
        match taken.get(name) {
            Some(line) => {
                at.refuse(format!("`{name}` is also the name of the rule on line {line}"), "a name of its own")
            }
            None => {
                taken.insert(name, at.place.line);
            }
        }
    }
    let hosts =
        section.take("host").map(|at| at.one_or_many(HOST).iter().filter_map(host).collect()).unwrap_or_default();
    let paths =
        section.take("path").map(|at| at.one_or_many(PATH).iter().filter_map(path).collect()).unwrap_or_default();
    let methods = section
        .take("methods")
        .map(|at| at.one_or_many(METHODS).iter().filter_map(method).collect())
        .unwrap_or_default();
    let allow = section.need("allow", "authenticated").and_then(|at| allow(&at, names));
    let limits = section.take("limits").map(|at| limits(&at, names)).unwrap_or_default();
    let backend = section.take("backend").map(|at| backend(&at, names));
    let sticky = section.take("sticky").map(|at| key(&at)).unwrap_or_default();
    let anonymous_at = section.take("anonymous");
    let anonymous = match &anonymous_at {
        None => Some(Anonymous::default()),
        Some(at) => choice(at, "what a rule can give then", Anonymous::NAMES),
    };
    let credentials =
        section.take("credentials").map_or(Some(*names.credentials), |at| credentials(&at, names.available));
    let groups_unknown = section
        .take("groups_unknown")
        .map_or(Some(GroupsUnknown::default()), |at| choice(&at, "an answer to unknown groups", GroupsUnknown::NAMES));
    let unavailable_at = section.take("identity_unavailable");
    let identity_unavailable = match &unavailable_at {
        None => Some(Unavailable::default()),
        Some(at) => choice(at, "what a rule can do then", Unavailable::NAMES),
    };
    let shadow = section.take("shadow").and_then(|at| at.boolean()).unwrap_or(false);
    let ignore_at = section.take("ignore_credentials");
    let ignore_credentials = ignore_at.as_ref().and_then(At::boolean).unwrap_or(false);
    section.finish();
    let only_for_somebody = allow.as_ref().is_some_and(|allow| !allow.takes_anyone());
    if let (true, Some(at), true) = (ignore_credentials, &ignore_at, only_for_somebody) {
        at.refuse("credentials that are not looked at prove nothing, so nobody could pass", "`allow: anyone` with it");
    }
    if let (Some(Anonymous::Redirect), Some(at), false) = (anonymous, &anonymous_at, names.can_sign_in) {
        at.refuse("there is nowhere to redirect to", "`sign_in: { location: https://… }` at the top level");
    }
    if let (Some(at), Some(Allow::Anyone)) = (&anonymous_at, &allow) {
        at.warn("this rule asks nobody for a credential");
    }
    if let (Some(Unavailable::Anonymous), Some(at)) = (identity_unavailable, &unavailable_at) {
        if only_for_somebody {
            at.refuse("whoever is nobody cannot pass this rule anyway", "`allow: anyone` with it");
        } else if ignore_credentials {
            at.refuse("credentials that are not looked at are never unavailable", "one or the other");
        }
    }
    Some(Rule {
        name: name?.into(),
        hosts,
        paths,
        methods,
        allow: allow?,
        shadow,
        credentials: credentials?,
        ignore_credentials,
        groups_unknown: groups_unknown?,
        identity_unavailable: identity_unavailable?,
        limits,
        backend: backend.unwrap_or(None),
        sticky,
        anonymous: anonymous?,
    })
}

/// Reads `credentials:`, the kinds that are looked at in their order.
pub(super) fn credentials(at: &At<'_>, available: &Accepted) -> Option<Accepted> {
    let mut kinds: Vec<CredentialKind> = Vec::new();
    for at in at.one_or_many(CREDENTIALS) {
        let name = at.text(CREDENTIALS)?;
        let Some(kind) = CredentialKind::ALL.into_iter().find(|kind| kind.name() == name) else {
            at.refuse_name(name, "a kind of credential", CredentialKind::ALL.map(CredentialKind::name));
            continue;
        };
        if !available.contains(kind) {
            let needed = match kind {
                CredentialKind::Jwt | CredentialKind::Dpop | CredentialKind::Anonymous => "`issuers:`",
                CredentialKind::Opaque => "an issuer with `introspection:`",
                CredentialKind::ApiKey => "`api_keys:`",
                CredentialKind::Certificate => "`certificates:`",
                CredentialKind::Basic => "`basic:`",
            };
            at.refuse(format!("nothing here can verify {}", quote(name)), format!("{needed} in this config"));
        }
        if kinds.contains(&kind) {
            at.warn(format!("{} is listed twice", quote(name)));
        }
        kinds.push(kind);
    }
    (!kinds.is_empty()).then(|| Accepted::new(kinds))
}

fn host(at: &At<'_>) -> Option<HostPattern> {
    let text = at.text(HOST)?;
    let below = text.strip_prefix("*.");
    if below.is_none() && text.contains('*') || below.is_some_and(|domain| domain.contains('*')) {
        at.refuse(format!("{} has a wildcard that is not the first label", quote(text)), HOST);
        return None;
    }
    let host = host_name(below.unwrap_or(text), at)?;
    let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
    if below.is_some() && is_address {
        at.refuse(format!("{} is a wildcard below an address", quote(text)), HOST);
        return None;
    }
    Some(if below.is_some() { HostPattern::Below(host) } else { HostPattern::Exact(host) })
}

fn host_name(text: &str, at: &At<'_>) -> Option<String> {
    let host = text.trim_end_matches('.').to_ascii_lowercase();
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    let name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if name || literal {
        return Some(host);
    }
    // What people paste: a URL, or a host with its port.
    let bare = host.rsplit("://").next().unwrap_or_default();
    let bare = bare.split(['/', ':']).next().unwrap_or_default();
    let nearest = (bare != host && !bare.is_empty() && is_name(bare)).then(|| bare.to_owned());
    at.refuse_for(format!("{} is not a host", quote(text)), HOST, nearest);
    None
}

fn path(at: &At<'_>) -> Option<PathPattern> {
    let text = at.text(PATH)?;
    match PathPattern::parse(text) {
        Ok(pattern) => {
            if text.contains(['?', '%', ';']) {
                at.warn(format!(
                    "{} is compared with the path as the application sees it: decoded, and without a query",
                    quote(text)
                ));
            }
            Some(pattern)
        }
        Err(error) => {
            at.refuse(format!("{} is not a path pattern: {error}", quote(text)), PATH);
            None
        }
    }
}

fn method(at: &At<'_>) -> Option<String> {
    let text = at.text(METHODS)?;
    // RFC 9110, section 5.6.2: a token.
    let token = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !token {
        at.refuse(format!("{} is not a method", quote(text)), METHODS);
        return None;
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        at.refuse_for(
            format!("{} is not a method: case counts (RFC 9110, section 9.1)", quote(text)),
            METHODS,
            Some(upper),
        );
        return None;
    }
    if !KNOWN_METHODS.contains(&text)
        && let Some(near) = nearest(text, KNOWN_METHODS)
    {
        at.warn(format!("{} is a method that HTTP does not define; `{near}` is one that it does", quote(text)));
    }
    Some(text.to_owned())
}

fn allow(at: &At<'_>, names: Names<'_>) -> Option<Allow> {
    let text = match at.kind() {
        Kind::Map(_) => return requirement::read(at, names).map(Box::new).map(Allow::Require),
        Kind::Text(text) => text.as_str(),
        _ => {
            at.refuse_kind(ALLOW);
            return None;
        }
    };
    match text {
        "anyone" => Some(Allow::Anyone),
        "authenticated" => Some(Allow::Authenticated),
        other => {
            let near = match other.to_ascii_lowercase().as_str() {
                "all" | "any" | "everyone" | "everybody" | "anonymous" | "public" | "*" => Some("anyone".to_owned()),
                _ if names.groups.id(other).is_some() => Some(format!("{{ groups: [{other}] }}")),
                _ => nearest(other, ["anyone", "authenticated"]),
            };
            at.refuse_for(format!("{} does not say who may pass", quote(other)), ALLOW, near);
            None
        }
    }
}

pub(super) fn group(at: &At<'_>, names: Names<'_>) -> Option<GroupId> {
    let name = at.text("the name of a group")?;
    let id = names.groups.id(name);
    if id.is_none() {
        at.refuse_name(name, "a group", names.group_names.iter().copied());
    }
    id
}

pub(super) fn scope(at: &At<'_>) -> Option<String> {
    let text = at.text(SCOPES)?;
    if !is_scope(text) {
        at.refuse(
            format!("{} is not one scope", quote(text)),
            "scopes without spaces, quotes and backslashes, one an item",
        );
        return None;
    }
    Some(text.to_owned())
}

/// RFC 6749, section 3.3: scope-token.
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn limits(at: &At<'_>, names: Names<'_>) -> Vec<Arc<LimitUse>> {
    let mut used = Vec::new();
    let mut listed = Vec::new();
    for at in at.one_or_many("a list of limits by name") {
        let Some(name) = at.text("the name of a limit") else { continue };
        let Some(limit) = names.limits.iter().find(|limit| limit.name == name) else {
            at.refuse_name(name, "a limit", names.limits.iter().map(|limit| limit.name));
            continue;
        };
        if listed.contains(&name) {
            at.refuse(format!("{} is listed twice, and would be charged twice", quote(name)), "");
        }
        listed.push(name);
        used.extend(limit.limit.clone());
    }
    used
}

fn backend(at: &At<'_>, names: Names<'_>) -> Option<Backend> {
    if !matches!(at.kind(), Kind::Map(_)) {
        return Some(Backend { by_group: Vec::new(), otherwise: Some(backend_name(at)?) });
    }
    let mut backend = Backend { by_group: Vec::new(), otherwise: None };
    for (name, key, at) in at.named(BACKEND) {
        let hint = backend_name(&at);
        if name == "else" {
            backend.otherwise = hint;
            continue;
        }
        let Some(group) = names.groups.id(name) else {
            let known: Vec<&str> = names.group_names.iter().copied().chain(["else"]).collect();
            key.refuse_for(format!("{} is not a group", quote(name)), &one_of(&known), nearest(name, known));
            continue;
        };
        if backend.otherwise.is_some() {
            key.warn(format!("{} after `else` is still looked at first; write `else` last", quote(name)));
        }
        backend.by_group.extend(hint.map(|hint| (group, hint)));
    }
    if backend.by_group.is_empty() && backend.otherwise.is_none() {
        at.refuse("no backend is named here", BACKEND);
    }
    Some(backend)
}

fn backend_name(at: &At<'_>) -> Option<Arc<str>> {
    let text = at.text(BACKEND)?;
    // What HAProxy allows in the name of a proxy (its configuration manual, section 4).
    let good =
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'));
    if !good {
        at.refuse(
            format!("{} cannot be the name of a backend", quote(text)),
            "at most 64 letters, digits, `-`, `_`, `.` or `:`",
        );
    }
    good.then(|| text.into())
}

const ALLOW: &str = "`anyone`, `authenticated`, or a map with `groups`, `scopes`, `claims`, `src` and so on";
const BACKEND: &str = "the name of a backend, or a map of groups to names: `{ paid: fast, else: std }`";
const CREDENTIALS: &str = "kinds of credential in the order in which one is taken, such as `[jwt, api_key]`";
const HOST: &str = "a host such as `api.example`, or `*.example` for all below it, without scheme, port and path; in punycode where it is not ASCII";
const METHODS: &str = "methods in upper case, such as `[GET, POST]`";
const PATH: &str = "a pattern such as `/healthz`, `/v1/*` or `/admin/**`";
pub(super) const SCOPES: &str = "a list of scopes";

/// RFC 9110, section 9.3, and PATCH of RFC 5789.
const KNOWN_METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
