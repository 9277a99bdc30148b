//! The config written out: presets and defaults filled in, in a form that loads again and means the same.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::counters::WrittenUrl;
use super::limits::{show_key_part, show_on_failure, show_quota, show_zone};
use super::policy_tests::TestCaller;
use super::values::{show_date, show_duration, show_size};
use super::{Config, api_keys, certificates, dpop, secrets, times};
use crate::identity::GroupId;
use crate::identity::directory::{Absent, DirectoryKind};
use crate::identity::dpop::{DpopSettings, OnReplayFailure};
use crate::identity::settings::{
    AtStart, ClaimPath, ClientAuth, GroupForm, GroupSeparator, IntrospectionSettings, TokenUse, Userinfo,
};
use crate::limit::Quota;
use crate::link::{Login, TlsFiles};
use crate::policy::charge::{Cost, Counts, LimitUse, Tier};
use crate::policy::requirement::{Requirement, Strength, Wanted};
use crate::policy::rule::{Allow, GroupsUnknown, Rule, Unavailable};
use crate::policy::sign_in::{Anonymous, SignIn};
use crate::secret::SecretSource;

impl Config {
    /// The config with presets expanded and defaults filled in, as YAML. Secrets are still places, and files are named
    /// from the root, so that it can be kept anywhere on this machine.
    pub fn expanded(&self) -> String {
        let mut out = String::new();
        self.listeners(&mut out);
        self.directories(&mut out);
        self.basic(&mut out);
        self.issuers(&mut out);
        if let Some(path) = &self.identity.state_dir {
            put(&mut out, format_args!("\nstate_dir: {}\n", text(&secrets::absolute(path).to_string_lossy())));
        }
        api_keys::expand(&self.identity.api_keys, &mut out);
        certificates::expand(&self.identity.certificates, &mut out);
        self.groups_and_counters(&mut out);
        if let Some(revocations) = &self.identity.revocations {
            put(&mut out, format_args!("\nrevocations:\n  at_start: {}\n", word(revocations.at_start, AtStart::NAMES)));
        }
        self.grants(&mut out);
        self.dpop(&mut out);
        if let Some(audit) = &self.audit {
            super::audit::expand(audit, &self.written.audit, &mut out);
        }
        if !self.written.limits.is_empty() {
            out += "\nlimits:\n";
            self.written.limits.iter().for_each(|limit| self.limit(&mut out, limit));
        }
        out += "\nrules:\n";
        self.policy.rules().iter().for_each(|rule| self.rule(&mut out, rule));
        if let Some(sign_in) = &self.policy.sign_in {
            let SignIn { before, after } = sign_in;
            let location = after.as_ref().map_or(before.clone(), |after| format!("{before}{{url}}{after}"));
            put(&mut out, format_args!("\nsign_in:\n  location: {}\n", text(&location)));
        }
        let ambiguous = if self.policy.allow_ambiguous_paths { "allow" } else { "refuse" };
        put(&mut out, format_args!("\nambiguous_paths: {ambiguous}\n"));
        put(&mut out, format_args!("ratelimit_headers: {}\n", self.policy.ratelimit_fields.name()));
        let credentials = self.policy.credentials.kinds().iter().map(|kind| kind.name());
        put(&mut out, format_args!("credentials: {}\n", list(credentials)));
        self.tests(&mut out);
        out
    }

    fn listeners(&self, out: &mut String) {
        let spop = &self.spop;
        put(out, format_args!("spop:\n  listen: {}\n", list(spop.listen.iter().map(ToString::to_string))));
        if !spop.allow_from.is_empty() {
            put(out, format_args!("  allow_from: {}\n", list(spop.allow_from.iter().map(ToString::to_string))));
        }
        put(out, format_args!("  deadline: {}\n", show_duration(spop.deadline)));
        put(out, format_args!("  max_frame_size: {}\n", show_size(spop.frame_bytes_max.into())));
        put(out, format_args!("  max_connections: {}\n", spop.connections_max));
        put(out, format_args!("  max_in_flight: {}\n", spop.in_flight_max));
        put(out, format_args!("  max_unsent: {}\n", show_size(spop.unsent_bytes_max as u64)));
        put(out, format_args!("  max_buffered: {}\n", show_size(spop.buffered_bytes_max as u64)));
        for (key, timeout) in [
            ("hello_timeout", spop.hello_timeout),
            ("frame_timeout", spop.frame_timeout),
            ("write_timeout", spop.write_timeout),
            ("drain_timeout", spop.drain_timeout),
        ] {
            put(out, format_args!("  {key}: {}\n", show_duration(timeout)));
        }
        if let Some(admin) = &self.admin {
            put(out, format_args!("\nadmin:\n  listen: {}\n", text(&admin.listen.to_string())));
            if let Some(place) = &self.written.admin_token {
                put(out, format_args!("  token: {}\n", text(&secrets::show(place))));
            }
        }
    }

    fn directories(&self, out: &mut String) {
        for (index, (directory, written)) in self.identity.directories.iter().zip(&self.written.directories).enumerate()
        {
            *out += if index == 0 { "\ndirectories:\n" } else { "" };
            put(out, format_args!("  {}:\n", text(&directory.name)));
            let secret = || text(&written.secret.as_ref().map(secrets::show).unwrap_or_default());
            match &directory.kind {
                DirectoryKind::Google(google) => {
                    put(out, format_args!("    google:\n      service_account: {}\n", secret()));
                    put(out, format_args!("      admin: {}\n", text(&google.admin)));
                    put(out, format_args!("      nested: {}\n", google.nested));
                    put(out, format_args!("      endpoint: {}\n", text(google.endpoint.as_str())));
                    put(out, format_args!("      insecure: {}\n", google.outbound.insecure));
                }
                DirectoryKind::Entra(entra) => {
                    put(out, format_args!("    entra:\n      tenant: {}\n", text(&entra.tenant)));
                    put(out, format_args!("      client_id: {}\n", text(&entra.client_id)));
                    put(out, format_args!("      client_secret: {}\n", secret()));
                    put(out, format_args!("      endpoint: {}\n", text(entra.endpoint.as_str())));
                    put(out, format_args!("      login: {}\n", text(entra.login.as_str())));
                    put(out, format_args!("      insecure: {}\n", entra.outbound.insecure));
                }
                DirectoryKind::Ldap(ldap) => {
                    put(out, format_args!("    ldap:\n{}", super::ldap::expand(ldap, written)));
                }
                DirectoryKind::File(path) => {
                    put(out, format_args!("    file: {}\n", text(&secrets::absolute(path).to_string_lossy())));
                }
            }
            // A file is looked at each second; the two say nothing about it.
            if !matches!(directory.kind, DirectoryKind::File(_)) {
                put(out, format_args!("    refresh: {}\n", show_duration(directory.refresh)));
                put(out, format_args!("    keep: {}\n", show_duration(directory.keep)));
            }
            put(out, format_args!("    no_such_user: {}\n", word(directory.absent, Absent::NAMES)));
        }
    }

    fn basic(&self, out: &mut String) {
        if let Some(name) = &self.identity.basic {
            put(out, format_args!("\nbasic:\n  directory: {}\n", text(name)));
        }
    }

    fn issuers(&self, out: &mut String) {
        for (index, (issuer, written)) in self.identity.issuers.iter().zip(&self.written.issuers).enumerate() {
            *out += if index == 0 { "\nissuers:\n" } else { "" };
            put(out, format_args!("  {}:\n    preset: {}\n", text(&issuer.name), written.preset));
            put(out, format_args!("    issuer: {}\n", text(&issuer.issuer)));
            if !issuer.aliases.is_empty() {
                put(out, format_args!("    aliases: {}\n", list(&issuer.aliases)));
            }
            put(out, format_args!("    audiences: {}\n", list(&issuer.audiences)));
            put(out, format_args!("    tokens: {}\n", word(issuer.tokens, TokenUse::NAMES)));
            if !issuer.clients.is_empty() {
                put(out, format_args!("    clients: {}\n", list(&issuer.clients)));
            }
            if let Some(path) = &written.jwks_file {
                put(out, format_args!("    jwks_file: {}\n", text(&secrets::absolute(path).to_string_lossy())));
            }
            if written.jwks_file.is_none() {
                put(out, format_args!("    key_hosts: {}\n", list(&issuer.key_hosts)));
                put(out, format_args!("    max_key_age: {}\n", show_duration(issuer.key_age_max)));
            }
            put(out, format_args!("    insecure: {}\n", issuer.outbound.insecure));
            if let Some(path) = &written.ca_file {
                put(out, format_args!("    ca_file: {}\n", text(&secrets::absolute(path).to_string_lossy())));
            }
            if let Some(proxy) = &issuer.outbound.proxy {
                put(out, format_args!("    proxy:\n      url: {}\n", text(proxy.url.as_str())));
                if let (Some((username, _)), Some(place)) = (&proxy.credentials, &written.proxy_password) {
                    put(out, format_args!("      username: {}\n", text(username)));
                    put(out, format_args!("      password: {}\n", text(&secrets::show(place))));
                }
            }
            if let (Some(asked), Some(place)) = (&issuer.introspection, &written.client_secret) {
                introspection(out, asked, place);
            }
            put(out, format_args!("    algorithms: {}\n", list(issuer.algorithms.iter().map(|known| known.name()))));
            let claims = &issuer.claims;
            *out += "    claims:\n";
            for (key, path) in [("user", &claims.user), ("email", &claims.email), ("name", &claims.name)] {
                put(out, format_args!("      {key}: {}\n", text(&path.to_string())));
            }
            put(out, format_args!("      groups: {}\n", list(claims.groups.iter().map(ToString::to_string))));
            let separator = word(claims.groups_separator, GroupSeparator::NAMES);
            put(out, format_args!("      groups_separator: {separator}\n"));
            for (key, paths) in
                [("scopes", &claims.scopes), ("client_id", &claims.client_id), ("audience", &claims.audience)]
            {
                put(out, format_args!("      {key}: {}\n", list(paths.iter().map(ToString::to_string))));
            }
            put(out, format_args!("    group_form: {}\n", word(issuer.group_form, GroupForm::NAMES)));
            if !issuer.groups_from.is_empty() {
                put(out, format_args!("    groups_from: {}\n", list(&issuer.groups_from)));
            }
            if !issuer.required_claims.is_empty() {
                let paths = issuer.required_claims.iter().map(ToString::to_string);
                put(out, format_args!("    required_claims: {}\n", list(paths)));
            }
            if !issuer.require.is_empty() {
                *out += "    require:\n";
                for (path, value) in &issuer.require {
                    put(out, format_args!("      {}: {value}\n", text(&path.to_string())));
                }
            }
            put(out, format_args!("    leeway: {}\n", show_duration(issuer.leeway)));
        }
        let cache = self.identity.cache;
        put(out, format_args!("\ncache:\n  max_bytes: {}\n", show_size(cache.bytes_max)));
        put(out, format_args!("  max_age: {}\n", show_duration(cache.age_max)));
    }

    fn groups_and_counters(&self, out: &mut String) {
        for (index, (name, members)) in self.written.groups.iter().enumerate() {
            *out += if index == 0 { "\ngroups:\n" } else { "" };
            let members = members.iter().map(|(issuer, group)| format!("{issuer}:{group}"));
            put(out, format_args!("  {}: {}\n", text(name), list(members)));
        }
        *out += "\ncounters:\n";
        if let (Some(redis), Some(written)) = (&self.counters.redis, &self.written.redis) {
            let url = match &written.url {
                WrittenUrl::Plain(urls) if urls.len() > 1 => list(urls.iter().cloned()),
                WrittenUrl::Plain(urls) => text(&urls.concat()),
                WrittenUrl::Secret(place) => text(&secrets::show(place)),
            };
            put(out, format_args!("  redis: {url}\n"));
            login(&redis.login, "  ", out);
            if redis.sentinel_login != Login::default() {
                *out += "  sentinel:\n";
                login(&redis.sentinel_login, "    ", out);
            }
            if redis.tls != TlsFiles::default() {
                let file = |path: &Path| text(&secrets::absolute(path).display().to_string());
                *out += "  tls:\n";
                if let Some(ca) = &redis.tls.ca {
                    put(out, format_args!("    ca: {}\n", file(ca)));
                }
                if let Some((cert, key)) = &redis.tls.own {
                    put(out, format_args!("    cert: {}\n    key: {}\n", file(cert), file(key)));
                }
            }
            put(out, format_args!("  timeout: {}\n", show_duration(redis.timeout)));
        }
        put(out, format_args!("  agents: {}\n", self.counters.agents));
        put(out, format_args!("  max_memory: {}\n", show_size(self.counters.memory_bytes_max)));
    }

    /// Without issuers nobody has a token to prove anything about.
    fn dpop(&self, out: &mut String) {
        let dpop = &self.identity.dpop;
        if self.identity.issuers.is_empty() && *dpop == DpopSettings::default() {
            return;
        }
        put(out, format_args!("\ndpop:\n  scheme: {}\n", word(dpop.always_https, dpop::SCHEMES)));
        put(out, format_args!("  max_age: {}\n", show_duration(dpop.age_max)));
        put(out, format_args!("  max_ahead: {}\n", show_duration(dpop.ahead_max)));
        put(out, format_args!("  nonce: {}\n", word(dpop.nonce.is_some(), dpop::NONCES)));
        if let (Some(nonce), Some(place)) = (&dpop.nonce, &self.written.dpop_nonce_key) {
            put(out, format_args!("  nonce_lifetime: {}\n", show_duration(nonce.lifetime)));
            put(out, format_args!("  nonce_key: {}\n", text(&secrets::show(place))));
        }
        if self.counters.redis.is_some() {
            put(out, format_args!("  on_failure: {}\n", word(dpop.on_failure, OnReplayFailure::NAMES)));
        }
    }

    fn limit(&self, out: &mut String, limit: &LimitUse) {
        put(
            out,
            format_args!("  {}:\n    key: {}\n", text(&limit.limit.name), list(limit.key.iter().map(show_key_part))),
        );
        match &limit.limit.quota {
            quota @ Quota::Rate(rate) => {
                put(out, format_args!("    rate: {}\n    burst: {}\n", show_quota(quota), rate.burst()));
            }
            quota @ Quota::Sliding(_) => {
                put(out, format_args!("    rate: {}\n    algorithm: sliding\n", show_quota(quota)));
            }
            quota @ Quota::Calendar(calendar) => {
                let zone = text(&show_zone(calendar));
                put(out, format_args!("    rate: {}\n    timezone: {zone}\n", show_quota(quota)));
            }
            Quota::Concurrent(concurrent) => {
                let lease = show_duration(Duration::from_micros(concurrent.lease_us()));
                put(out, format_args!("    concurrent: {}\n    lease: {lease}\n", concurrent.count()));
            }
        }
        match &limit.cost {
            Cost::Fixed(1) => {}
            Cost::Fixed(cost) => put(out, format_args!("    cost: {cost}\n")),
            Cost::Response { header, reserve } => {
                put(out, format_args!("    cost: response.header({header})\n    reserve: {reserve}\n"));
            }
        }
        if limit.counts == Counts::Denied {
            *out += "    count: denied\n";
        }
        if let Some(ban) = limit.limit.ban {
            put(out, format_args!("    ban: {}\n", show_duration(ban)));
        }
        if limit.limit.shadow {
            *out += "    shadow: true\n";
        }
        if !limit.tiers.is_empty() {
            *out += "    tiers:\n";
            for (group, tier) in &limit.tiers {
                let tier = match tier {
                    Tier::Unlimited => "unlimited".to_owned(),
                    Tier::Quota(quota @ Quota::Rate(rate)) => {
                        format!("{{ rate: {}, burst: {} }}", show_quota(quota), rate.burst())
                    }
                    Tier::Quota(quota) => show_quota(quota),
                };
                put(out, format_args!("      {}: {tier}\n", text(self.groups.name(*group))));
            }
        }
        put(out, format_args!("    on_failure: {}\n", show_on_failure(limit.limit.on_failure)));
    }

    fn rule(&self, out: &mut String, rule: &Rule) {
        put(out, format_args!("  - name: {}\n", text(&rule.name)));
        let paths: Vec<String> = rule.paths.iter().map(ToString::to_string).collect();
        let hosts: Vec<String> = rule.hosts.iter().map(ToString::to_string).collect();
        for (key, values) in [("host", &hosts), ("path", &paths), ("methods", &rule.methods)] {
            if !values.is_empty() {
                put(out, format_args!("    {key}: {}\n", list(values)));
            }
        }
        match &rule.allow {
            Allow::Anyone => *out += "    allow: anyone\n",
            Allow::Authenticated => *out += "    allow: authenticated\n",
            Allow::Require(requirement) => {
                put(out, format_args!("    allow: {}\n", self.requirement(requirement)));
            }
        }
        if !rule.limits.is_empty() {
            put(out, format_args!("    limits: {}\n", list(rule.limits.iter().map(|limit| &*limit.limit.name))));
        }
        if let Some(backend) = &rule.backend {
            *out += "    backend:\n";
            for (group, name) in &backend.by_group {
                put(out, format_args!("      {}: {}\n", text(self.groups.name(*group)), text(name)));
            }
            if let Some(name) = &backend.otherwise {
                put(out, format_args!("      else: {}\n", text(name)));
            }
        }
        if !rule.sticky.is_empty() {
            put(out, format_args!("    sticky: {}\n", list(rule.sticky.iter().map(show_key_part))));
        }
        if !matches!(rule.allow, Allow::Anyone) || rule.anonymous != Anonymous::default() {
            put(out, format_args!("    anonymous: {}\n", word(rule.anonymous, Anonymous::NAMES)));
        }
        let credentials = rule.credentials.kinds().iter().map(|kind| kind.name());
        put(out, format_args!("    credentials: {}\n", list(credentials)));
        put(out, format_args!("    groups_unknown: {}\n", word(rule.groups_unknown, GroupsUnknown::NAMES)));
        put(out, format_args!("    ignore_credentials: {}\n", rule.ignore_credentials));
        if rule.shadow {
            *out += "    shadow: true\n";
        }
        put(out, format_args!("    identity_unavailable: {}\n", word(rule.identity_unavailable, Unavailable::NAMES)));
    }

    /// In YAML's flow style, on one line.
    fn requirement(&self, requirement: &Requirement) -> String {
        let mut parts = Vec::new();
        if requirement.anyone {
            parts.push("anyone: true".to_owned());
        }
        for (key, groups) in [
            ("groups", &requirement.groups),
            ("all_groups", &requirement.all_groups),
            ("no_groups", &requirement.no_groups),
        ] {
            if !groups.is_empty() {
                parts.push(format!("{key}: {}", self.group_list(groups)));
            }
        }
        let Strength { acr, amr, login_age_max } = &requirement.strength;
        for (key, values) in [("scopes", &requirement.scopes), ("acr", acr), ("amr", amr)] {
            if !values.is_empty() {
                parts.push(format!("{key}: {}", list(values)));
            }
        }
        if let Some(age) = login_age_max {
            parts.push(format!("max_login_age: {}", show_duration(*age)));
        }
        if !requirement.claims.is_empty() {
            let claims: Vec<_> = requirement.claims.iter().map(|(path, wanted)| wanted_claim(path, wanted)).collect();
            parts.push(format!("claims: {{ {} }}", claims.join(", ")));
        }
        if !requirement.src.is_empty() {
            parts.push(format!("src: {}", list(requirement.src.iter().map(ToString::to_string))));
        }
        if !requirement.credential.is_empty() {
            parts.push(format!("credential: {}", list(requirement.credential.iter().map(|kind| kind.name()))));
        }
        if !requirement.time.is_empty() {
            let time: Vec<_> = requirement.time.iter().map(times::show).collect();
            parts.push(format!("time: [{}]", time.join(", ")));
        }
        if let Some(when) = &requirement.when {
            parts.push(format!("when: {}", text(when.source())));
        }
        for (key, several) in [("all", &requirement.all), ("any", &requirement.any)] {
            if !several.is_empty() {
                let several: Vec<_> = several.iter().map(|part| self.requirement(part)).collect();
                parts.push(format!("{key}: [{}]", several.join(", ")));
            }
        }
        if let Some(part) = &requirement.not {
            parts.push(format!("not: {}", self.requirement(part)));
        }
        format!("{{ {} }}", parts.join(", "))
    }

    fn grants(&self, out: &mut String) {
        let Some(grants) = &self.identity.grants else {
            // Without Redis there is nothing to say no to.
            *out += if self.counters.redis.is_some() { "\ngrants: false\n" } else { "" };
            return;
        };
        put(out, format_args!("\ngrants:\n  max: {}\n", show_duration(grants.lifetime_max)));
        if !grants.groups.is_empty() {
            put(out, format_args!("  groups: {}\n", list(&grants.groups)));
        }
        if let Some(place) = &self.written.grants_key {
            put(out, format_args!("  key: {}\n", text(&secrets::show(place))));
        }
    }

    fn group_list(&self, groups: &[GroupId]) -> String {
        list(groups.iter().map(|group| self.groups.name(*group)))
    }

    fn tests(&self, out: &mut String) {
        for (index, test) in self.tests.iter().enumerate() {
            *out += if index == 0 { "\ntests:\n" } else { "" };
            match &test.caller {
                TestCaller::Anonymous => *out += "  - as: anonymous\n",
                TestCaller::Identity { issuer, groups, scopes, user, claims } => {
                    put(out, format_args!("  - as:\n      issuer: {}\n", text(issuer)));
                    for (key, values) in [("groups", groups), ("scopes", scopes)] {
                        if !values.is_empty() {
                            put(out, format_args!("      {key}: {}\n", list(values)));
                        }
                    }
                    if let Some(user) = user {
                        put(out, format_args!("      user: {}\n", text(user)));
                    }
                    if !claims.is_empty() {
                        *out += "      claims:\n";
                        for (name, value) in claims {
                            put(out, format_args!("        {}: {value}\n", text(name)));
                        }
                    }
                }
            }
            put(out, format_args!("    request: {}\n", text(&format!("{} {}", test.method, test.url))));
            if let Some(at_s) = test.at_s {
                put(out, format_args!("    at: {}\n", text(&show_date(at_s))));
            }
            if let Some(src) = test.src {
                put(out, format_args!("    src: {}\n", text(&src.to_string())));
            }
            put(out, format_args!("    expect: {}\n", test.expect));
        }
    }
}

fn login(login: &Login, indent: &str, out: &mut String) {
    if let Some(username) = &login.username {
        put(out, format_args!("{indent}username: {}\n", text(username)));
    }
    if let Some(place) = &login.password_from {
        put(out, format_args!("{indent}password: {}\n", text(&secrets::show(place))));
    }
}

fn introspection(out: &mut String, asked: &IntrospectionSettings, place: &SecretSource) {
    put(out, format_args!("    introspection:\n      client_id: {}\n", text(&asked.client_id)));
    put(out, format_args!("      client_secret: {}\n", text(&secrets::show(place))));
    put(out, format_args!("      auth: {}\n", word(asked.auth, ClientAuth::NAMES)));
    if let Some(url) = &asked.endpoint {
        put(out, format_args!("      endpoint: {}\n", text(url.as_str())));
    }
    let userinfo = match &asked.userinfo {
        Userinfo::Off => "false".to_owned(),
        Userinfo::Discovered => "true".to_owned(),
        Userinfo::At(url) => text(url.as_str()),
    };
    put(out, format_args!("      userinfo: {userinfo}\n      max_age: {}\n", show_duration(asked.age_max)));
    if !asked.prefix.is_empty() {
        put(out, format_args!("      prefix: {}\n", text(&asked.prefix)));
    }
}

fn wanted_claim(path: &ClaimPath, wanted: &Wanted) -> String {
    let path = text(&path.to_string());
    match wanted {
        Wanted::OneOf(values) => {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("{path}: [{}]", values.join(", "))
        }
        Wanted::There(there) => format!("{path}: {{ exists: {there} }}"),
    }
}

pub(super) fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| text(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

fn word<T: PartialEq + Copy, const N: usize>(value: T, known: [(&'static str, T); N]) -> &'static str {
    known.into_iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

/// As it is where nobody could take it for anything but text; else in double quotes, which read as in JSON.
pub(super) fn text(text: &str) -> String {
    const NOT_TEXT: [&str; 12] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan", "e"];
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
    if first && plain && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

pub(super) fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(line);
}
