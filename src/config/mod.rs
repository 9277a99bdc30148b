//! The config: what was written becomes what is usable, or a list of everything that is wrong with it.
//!
//! Reading order: `file` (the YAML as written, each node with its place), `read` (taking values out of it, noting every
//! mistake), then a file for each section of the config (`listeners`, `directories`, `issuers` with `introspection`,
//! `api_keys`, `certificates`, `counters`, `audit`, `limits`, `rules`, `policy_tests`), which gives the settings types of the modules
//! it configures. `facts` and `expanded` are what `check`
//! says about a config, `haproxy` what `tollgate haproxy` needs of it; `flags` is the command line. `main` alone names this module.

pub mod api_keys;
pub mod error;
pub mod flags;
pub mod policy_tests;

mod audit;
mod certificates;
mod counters;
mod directories;
mod dpop;
mod expanded;
mod facts;
mod file;
mod grants;
mod haproxy;
mod introspection;
mod issuers;
// Read by `directories`.
mod ldap;
mod limits;
mod listeners;
mod reach;
mod read;
mod requirement;
mod revocations;
mod rules;
mod secrets;
mod sign_in;
mod times;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{ConfigErrors, Problem};
pub use file::Place;
pub use policy_tests::{Expectation, PolicyTest, TestCaller};

use crate::audit::Settings as AuditSettings;
use crate::identity::settings::TokenUse;
use crate::identity::{self, Accepted, CredentialKind, Groups};
use crate::limit::CounterSettings;
use crate::policy::charge::LimitUse;
use crate::policy::rule::Rule;
use crate::policy::{Policy, RateLimitFields};
use crate::secret::SecretSource;
use crate::server::settings::{AdminSettings, SpopSettings};
use counters::WrittenRedis;
use file::Node;
use issuers::{Membership, WrittenIssuer};
use read::{At, Report, one_of};

/// A config without a mistake, in the types of the modules that it is for.
#[derive(Debug)]
pub struct Config {
    /// `spop:`.
    pub spop: SpopSettings,
    /// `admin:`.
    pub admin: Option<AdminSettings>,
    /// `issuers:`, `directories:`, `dpop:`, `cache:`, `state_dir:` and `revocations:`.
    pub identity: identity::settings::Settings,
    /// `groups:`.
    pub groups: Arc<Groups>,
    /// `counters:`.
    pub counters: CounterSettings,
    /// `rules:`, with the `limits:` that they use, `ratelimit_headers:` and `ambiguous_paths:`.
    pub policy: Policy,
    /// `audit:`.
    pub audit: Option<AuditSettings>,
    /// The file that it is from, and those that were read because it names them: key sets, certificates, secrets. Files of API
    /// keys and of people are not among them; they are read again on their own.
    pub files: Vec<PathBuf>,
    /// Names this very file: the first 64 bits of the SHA-256 of its bytes.
    pub version: u64,
    /// `tests:`.
    pub tests: Vec<PolicyTest>,
    /// What is allowed and probably not meant, in the file's order; [`Problem::in_file`] shows one.
    pub warnings: Vec<Problem>,
    written: Written,
}

impl Config {
    /// The names of `groups:`, in the file's order.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.written.groups.iter().map(|(name, _)| name.as_str())
    }
}

/// What the settings do not say any more, and `check` does.
#[derive(Debug, Default)]
struct Written {
    groups: Vec<Membership>,
    issuers: Vec<WrittenIssuer>,
    directories: Vec<directories::WrittenDirectory>,
    limits: Vec<Arc<LimitUse>>,
    redis: Option<WrittenRedis>,
    admin_token: Option<SecretSource>,
    dpop_nonce_key: Option<SecretSource>,
    grants_key: Option<SecretSource>,
    audit: audit::WrittenAudit,
}

/// Reads the config at `path`, at most 4 MiB, with the key sets and secrets that it names.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    match read_text(path) {
        Ok(text) => parse(&text, path),
        Err(error) => {
            let what = format!("cannot read the config: {error}");
            let problem =
                Problem { place: None, key: String::new(), what, expected: None, nearest: None, source_line: None };
            Err(ConfigErrors::new(path, vec![problem]))
        }
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    // A pipe would keep whoever reads it.
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    if metadata.len() > TEXT_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {} KiB", TEXT_BYTES_MAX / 1024)));
    }
    std::fs::read_to_string(path)
}

/// Reads a config from `text`. `path` is where it is from: messages name it, and relative files are taken from its
/// directory.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    let version = version(text);
    // An editor's byte order mark is no part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = Node::parse(text).map_err(|error| {
        let problem = Problem {
            place: Some(error.place),
            key: String::new(),
            what: format!("this is not YAML: {}", error.message),
            expected: None,
            nearest: None,
            source_line: error::source_line(text, error.place, false),
        };
        ConfigErrors::new(path, vec![problem])
    })?;
    let report = Report::new(text);
    let config = check(&report.at(&root), path.parent().unwrap_or(Path::new("")));
    let depended = report.files();
    let (errors, warnings) = report.finish();
    match config {
        Some(config) if errors.is_empty() => {
            let files = std::iter::once(path.to_owned()).chain(depended).collect();
            Ok(Config { warnings, version, files, ..config })
        }
        _ => Err(ConfigErrors::new(path, errors).of(depended)),
    }
}

/// The whole of it, section by section, so that what is referred to is read before what refers to it.
fn check(root: &At<'_>, directory: &Path) -> Option<Config> {
    let mut top = root.section("a map with `issuers:`, `rules:` and so on")?;
    let [spop_at, admin_at, issuers_at, cache_at] = ["spop", "admin", "issuers", "cache"].map(|key| top.take(key));
    let [directories_at, basic_at] = ["directories", "basic"].map(|key| top.take(key));
    let [groups_at, counters_at, limits_at] = ["groups", "counters", "limits"].map(|key| top.take(key));
    let rules_at = top.need("rules", "[{ name: all, allow: authenticated }]");
    let dpop_at = top.take("dpop");
    let [ambiguous_at, credentials_at, tests_at] = ["ambiguous_paths", "credentials", "tests"].map(|key| top.take(key));
    let [api_keys_at, certificates_at] = ["api_keys", "certificates"].map(|key| top.take(key));
    let ratelimit_at = top.take("ratelimit_headers");
    let state_dir = top.take("state_dir").and_then(|at| Some(directory.join(at.text(STATE_DIR)?)));
    let [revocations_at, sign_in_at, grants_at, audit_at] =
        ["revocations", "sign_in", "grants", "audit"].map(|key| top.take(key));

    let spop = listeners::spop(spop_at);
    let (admin, admin_token) = match &admin_at {
        Some(at) => listeners::admin(at, directory, &spop),
        None => (None, None),
    };
    let (directory_names, directories) = match &directories_at {
        Some(at) => directories::read(at, directory),
        None => Default::default(),
    };
    let (mut issuer_names, issuers) =
        issuers_at.map(|at| issuers::read(&at, directory, &directory_names)).unwrap_or_default();
    let basic = basic_at.and_then(|at| directories::basic(&at, &directory_names, &directories));
    if let Some(at) = directories_at.filter(|_| !directory_names.is_empty()) {
        let used = |name: &str| {
            basic.as_deref() == Some(name)
                || issuers.iter().any(|issuer| issuer.settings.groups_from.iter().any(|used| **used == *name))
        };
        for (name, key, _) in at.named("").into_iter().filter(|(name, _, _)| !used(name)) {
            key.warn(format!("no issuer has `{name}` in its `groups_from`, so nobody's groups are asked for there"));
        }
    }
    // Whatever else says who somebody is: its groups are named after it too.
    let taken = |names: &[String]| [names, &directory_names].concat();
    let (names, api_keys) =
        api_keys_at.as_ref().map(|at| api_keys::read(at, directory, &taken(&issuer_names))).unwrap_or_default();
    issuer_names.extend(names);
    let (names, certificates) =
        certificates_at.as_ref().map(|at| certificates::read(at, &taken(&issuer_names))).unwrap_or_default();
    issuer_names.extend(names);
    let cache = cache_at.map(|at| issuers::cache(&at)).unwrap_or_default();
    let members = {
        let issuers = issuers.iter().filter(|issuer| issuer.settings.claims.groups.is_empty());
        let tokens = issuers.map(|issuer| issuers::Groupless::tokens(&issuer.settings.name));
        let sorts = certificates.iter().filter(|sort| sort.groups.is_empty());
        let without: Vec<_> = tokens.chain(sorts.map(|sort| issuers::Groupless::certificates(&sort.name))).collect();
        let owners = [issuer_names.as_slice(), &directory_names].concat();
        let directories: Vec<_> = directories.iter().map(|(settings, _)| settings).collect();
        groups_at.as_ref().map(|at| issuers::groups(at, &owners, &directories, &without)).unwrap_or_default()
    };
    let groups = groups_of(&members, groups_at.as_ref().unwrap_or(root))?;
    let group_names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let (counters, redis) = match &counters_at {
        Some(at) => counters::read(at, directory, spop.deadline),
        None => (counters::in_memory(), None),
    };
    let (grants, grants_key) = grants::read(grants_at, counters.redis.as_ref(), directory, &group_names);
    let revocations = revocations::read(revocations_at, counters.redis.as_ref());
    let limits = limits_at.map(|at| limits::read(&at, &groups, &group_names)).unwrap_or_default();
    let (dpop, dpop_nonce_key) = match &dpop_at {
        Some(at) => dpop::read(at, directory, &counters),
        None => Default::default(),
    };
    if let Some(at) = dpop_at.as_ref().or(counters_at.as_ref()).filter(|_| !issuer_names.is_empty()) {
        dpop::warn(at, &dpop, &counters);
    }
    let available = available(&issuers, basic.is_some(), api_keys_at.is_some(), certificates_at.is_some());
    let credentials = match credentials_at {
        Some(at) => rules::credentials(&at, &available),
        None => Some(available),
    };
    let credentials = credentials.unwrap_or_default();
    let names = rules::Names {
        groups: &groups,
        group_names: &group_names,
        limits: &limits,
        available: &available,
        credentials: &credentials,
        can_sign_in: sign_in_at.is_some(),
    };
    let rules = rules_at.map(|at| rules::read(&at, names)).unwrap_or_default();
    let (audit, written_audit) = audit_at.and_then(|at| audit::read(&at, directory)).unzip();
    let allow_ambiguous_paths = ambiguous_at.is_some_and(|at| ambiguous_paths(&at));
    let tests = tests_at.map(|at| policy_tests::read(&at, &issuer_names, &members)).unwrap_or_default();
    top.finish();

    let sign_in = sign_in_at.as_ref().and_then(sign_in::read);
    let mut policy = Policy::new(rules, allow_ambiguous_paths, credentials);
    policy.sign_in = sign_in;
    policy.ratelimit_fields = ratelimit_at.map(|at| ratelimit_fields(&at)).unwrap_or_default();
    if let Some(at) = &sign_in_at {
        sign_in::warn(at, &policy);
    }
    if issuer_names.is_empty() && policy.rules().iter().any(|rule| !rule.allow.takes_anyone()) {
        root.warn("there are no `issuers:`, so nobody can pass a rule that is not `allow: anyone`");
    }
    for limit in &limits {
        let used = |rule: &Rule| rule.limits.iter().any(|used| *used.limit.name == *limit.name);
        if !policy.rules().iter().any(used) {
            limit.at.warn(format!("no rule uses the limit `{}`", limit.name));
        }
    }
    if let Some(at) = groups_at.filter(|_| !members.is_empty()) {
        let ids: Vec<_> = group_names.iter().filter_map(|name| Some((*name, groups.id(name)?))).collect();
        let used = facts::groups_used(&policy, &ids, limits.iter().filter_map(|limit| limit.limit.as_deref()));
        for (name, key, _) in at.named("") {
            if groups.id(name).is_some_and(|id| !used.contains(id)) {
                key.warn(format!("no rule, limit or backend uses the group `{name}`; it still leaves in `groups`"));
            }
        }
    }
    let (settings, written_issuers) = issuers.into_iter().map(|issuer| (issuer.settings, issuer.written)).unzip();
    let (directories, written_directories) = directories.into_iter().unzip();
    let limits = limits.into_iter().filter_map(|limit| limit.limit).collect();
    Some(Config {
        spop,
        admin,
        identity: identity::settings::Settings {
            issuers: settings,
            directories,
            basic,
            cache,
            dpop,
            state_dir,
            revocations,
            grants,
            api_keys,
            certificates,
        },
        groups: Arc::new(groups),
        counters,
        policy,
        audit,
        files: Vec::new(),
        version: 0,
        tests,
        warnings: Vec::new(),
        written: Written {
            groups: members,
            issuers: written_issuers,
            directories: written_directories,
            limits,
            redis,
            admin_token,
            dpop_nonce_key,
            grants_key,
            audit: written_audit.unwrap_or_default(),
        },
    })
}

/// The first 64 bits of the text's SHA-256.
fn version(text: &str) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// The kinds of credential that this config says how to verify, in the order in which they are taken.
fn available(issuers: &[issuers::CheckedIssuer], basic: bool, api_keys: bool, certificates: bool) -> Accepted {
    let jwts = issuers.iter().any(|issuer| issuer.settings.tokens != TokenUse::Opaque);
    let opaque = issuers.iter().any(|issuer| issuer.settings.introspection.is_some());
    Accepted::new(CredentialKind::ALL.into_iter().filter(|kind| match kind {
        // What is presented where there is no issuer at all is looked at, and refused, as a JWT.
        CredentialKind::Jwt => jwts || !opaque,
        CredentialKind::Opaque => opaque,
        CredentialKind::Dpop => jwts || opaque,
        CredentialKind::Basic => basic,
        CredentialKind::ApiKey => api_keys,
        CredentialKind::Certificate => certificates,
        CredentialKind::Anonymous => false,
    }))
}

fn groups_of(members: &[Membership], at: &At<'_>) -> Option<Groups> {
    let borrowed = members.iter().map(|(name, members)| {
        (name.as_str(), members.iter().map(|(issuer, group)| (issuer.as_str(), group.as_str())).collect())
    });
    match Groups::new(borrowed) {
        Ok(groups) => Some(groups),
        Err(count) => {
            at.refuse(format!("these are {count} groups"), "at most 65535");
            None
        }
    }
}

fn ambiguous_paths(at: &At<'_>) -> bool {
    match at.as_text() {
        Some("allow") => {
            at.warn(
                "paths that proxies and applications read in different ways pass: `/a/..%2fadmin` is then under `/a`",
            );
            return true;
        }
        Some("refuse") => {}
        Some(other) => at.refuse_name(other, "a choice here", ["refuse", "allow"]),
        None => at.refuse_kind("`refuse` or `allow`"),
    }
    false
}

fn ratelimit_fields(at: &At<'_>) -> RateLimitFields {
    let choices = RateLimitFields::ALL;
    let Some(text) = at.as_text() else {
        at.refuse_kind(&one_of(&choices.map(RateLimitFields::name)));
        return RateLimitFields::default();
    };
    let chosen = choices.into_iter().find(|choice| choice.name() == text);
    if chosen.is_none() {
        at.refuse_name(text, "a choice here", choices.map(RateLimitFields::name));
    }
    chosen.unwrap_or_default()
}

const STATE_DIR: &str = "the path of a folder of the agent's own, such as `/var/lib/tollgate`";

/// Ten thousand rules have 0.7 to 3 MiB.
const TEXT_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
