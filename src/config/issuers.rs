//! `issuers:` and `groups:`: whom to believe, and what their groups are called here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::file::Kind;
use super::introspection;
use super::read::{At, Section, quote};
use super::secrets;
use crate::identity::directory::DirectorySettings;
use crate::identity::presets::{self, PRESET_NAMES};
use crate::identity::settings::{
    Algorithm, CacheSettings, ClaimMap, ClaimPath, ClaimPattern, GroupForm, GroupSeparator, IssuerSettings, KeyOrigin,
    OutboundSettings, ProxySettings, Roots, TokenUse,
};
use crate::secret::SecretSource;

/// An issuer, and what its settings do not say any more.
#[derive(Debug)]
pub(super) struct CheckedIssuer {
    pub(super) settings: IssuerSettings,
    pub(super) written: WrittenIssuer,
}

/// An issuer as it was written, for `check`.
#[derive(Debug)]
pub(super) struct WrittenIssuer {
    pub(super) preset: &'static str,
    pub(super) jwks_file: Option<PathBuf>,
    pub(super) client_secret: Option<SecretSource>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) proxy_password: Option<SecretSource>,
}

/// A policy group with its members, `(issuer name, group as the issuer writes it)`.
pub(super) type Membership = (String, Vec<(String, String)>);

/// Reads `issuers:`; the names of all, and those without a mistake.
pub(super) fn read(at: &At<'_>, directory: &Path, directories: &[String]) -> (Vec<String>, Vec<CheckedIssuer>) {
    let mut names = Vec::new();
    let mut checked: Vec<CheckedIssuer> = Vec::new();
    let mut prefixes: Vec<(String, String)> = Vec::new();
    for (name, key, at) in at.with_names("an issuer", "a map of issuers by name") {
        names.push(name.to_owned());
        if directories.iter().any(|known| known == name) {
            key.refuse(
                format!("`{name}` is also the name of a directory, and groups are qualified by either"),
                "a name of its own",
            );
        }
        let Some(issuer) = issuer(name, &at, directory, directories) else { continue };
        if let Some(other) = checked.iter().find(|other| other.settings.issuer == issuer.settings.issuer) {
            at.refuse(
                format!("`{}` is also the issuer of `{}`", issuer.settings.issuer, other.settings.name),
                "one entry for each issuer; it can have several audiences",
            );
        }
        if let Some(introspection) = &issuer.settings.introspection {
            introspection::check_prefix(&at, &introspection.prefix, &prefixes);
            prefixes.push((name.to_owned(), introspection.prefix.clone()));
        }
        checked.push(issuer);
    }
    (names, checked)
}

fn issuer(name: &str, at: &At<'_>, directory: &Path, directories: &[String]) -> Option<CheckedIssuer> {
    let mut section = at.section("a map with `issuer:` and `audiences:`")?;
    let preset_name = match section.take("preset") {
        None => Some("generic"),
        Some(at) => preset_name(&at),
    };
    let preset = presets::preset(preset_name.unwrap_or("generic"))?;
    let url_at = section.need("issuer", "https://login.example/realms/main");
    let insecure = section.take("insecure").map_or(Some(false), |at| at.boolean());
    let url = url_at.as_ref().and_then(|at| issuer_url(at, insecure.unwrap_or(true)));
    let audiences: Vec<String> = section
        .need("audiences", "[https://api.example]")
        .map(|at| at.one_or_many(AUDIENCES))
        .unwrap_or_default()
        .iter()
        .filter_map(|at| at.text(AUDIENCES).map(str::to_owned))
        .collect();
    let aliases = section
        .take("aliases")
        .map(|at| at.one_or_many(ALIASES).iter().filter_map(|at| at.text(ALIASES).map(str::to_owned)).collect());
    let tokens = match section.take("tokens") {
        None => Some(preset.tokens),
        Some(at) => choice(&at, "a use of tokens", TokenUse::NAMES),
    };
    let clients = section
        .take("clients")
        .map(|at| at.one_or_many(CLIENTS).iter().filter_map(|at| at.text(CLIENTS).map(str::to_owned)).collect())
        .unwrap_or_default();
    let jwks_at = section.take("jwks_file");
    let jwks = jwks_at.as_ref().map(|at| key_set(at, directory));
    let (hosts_at, age_at) = (section.take("key_hosts"), section.take("max_key_age"));
    if jwks_at.is_some() {
        for (key, at) in [("key_hosts", &hosts_at), ("max_key_age", &age_at)] {
            if let Some(at) = at {
                at.refuse(
                    format!("`{key}` is for keys that are fetched, and `jwks_file` pins them"),
                    "one or the other",
                );
            }
        }
    }
    let key_hosts = hosts_at.as_ref().map_or(preset.key_hosts, key_hosts);
    let key_age_max = match age_at {
        None => Some(KEY_AGE_MAX),
        Some(at) => at.duration(Duration::from_secs(600), Duration::from_secs(365 * 86_400)),
    };
    let roots = section.take("ca_file").map(|at| roots(&at, directory));
    let proxy = section.take("proxy").map(|at| proxy(&at, directory));
    let introspection_at = section.take("introspection");
    let introspection = introspection_at.as_ref().map(|at| {
        let (url, insecure) = (url.clone(), insecure.unwrap_or(true));
        introspection::read(at, introspection::Issuer { url, insecure, pinned: jwks_at.is_some(), directory })
    });
    if let (Some("google"), Some(at)) = (preset_name, &introspection_at) {
        // Its tokeninfo takes no client and answers in a shape of its own.
        at.refuse("Google has no introspection endpoint (RFC 7662)", "ID tokens, as the preset has them");
    }
    if tokens == Some(TokenUse::Opaque) {
        if introspection.is_none() {
            section.at().refuse("`tokens: opaque`, and nothing says who is asked about them", "`introspection:`");
        }
        if let Some(at) = &jwks_at {
            at.refuse("keys are for JWTs, and with `tokens: opaque` none is taken", "no `jwks_file`");
        }
    }
    let algorithms = section.take("algorithms").map_or_else(|| Algorithm::ALL.to_vec(), |at| algorithms(&at));
    let claims = match section.take("claims") {
        None => Some(preset.claims),
        Some(at) => claims(&at, preset.claims),
    };
    let group_form = match section.take("group_form") {
        None => Some(GroupForm::default()),
        Some(at) => choice(&at, "a form of group names", GroupForm::NAMES),
    };
    let groups_from = section.take("groups_from").map(|at| groups_from(&at, directories)).unwrap_or_default();
    let mut require = preset.require;
    let require_at = section.take("require");
    if let Some(at) = require_at {
        for (path, value) in required(&at) {
            require.retain(|(known, _)| *known != path);
            require.push((path, value));
        }
    }
    let required_claims = section
        .take("required_claims")
        .map(|at| at.one_or_many(CLAIM_PATH).iter().filter_map(claim_path).collect())
        .unwrap_or_default();
    let leeway = match section.take("leeway") {
        None => Some(LEEWAY),
        Some(at) => at.duration(Duration::ZERO, Duration::from_secs(300)),
    };
    if preset_name == Some("google") && !require.iter().any(|(path, _)| path.to_string() == "hd") {
        at.warn("whoever has an account at Google passes; `require: { hd: DOMAIN }` keeps it to one organisation");
    }
    section.finish();

    let (keys, jwks_file) = match jwks {
        None if tokens == Some(TokenUse::Opaque) => (KeyOrigin::None, None),
        None => (KeyOrigin::Discovery { issuer: url? }, None),
        Some(read) => {
            let (path, jwks) = read?;
            (KeyOrigin::Pinned { jwks }, Some(path))
        }
    };
    let (introspection, client_secret) = match introspection {
        None => (None, None),
        Some(read) => read.map(|(settings, place)| (Some(settings), Some(place)))?,
    };
    let written = url_at.as_ref()?.as_text()?;
    // A preset's alias goes with one issuer, which need not be this one.
    let of_preset =
        || preset.aliases.iter().filter(|(issuer, _)| *issuer == written).map(|(_, alias)| (*alias).to_owned());
    let aliases: Vec<String> = aliases.unwrap_or_else(|| of_preset().collect());
    let (ca_file, roots) = match roots {
        None => (None, None),
        Some(read) => read.map(|(path, roots)| (Some(path), Some(roots)))?,
    };
    let (proxy, proxy_password) = match proxy {
        None => (None, None),
        Some(read) => read.map(|(proxy, place)| (Some(proxy), place))?,
    };
    Some(CheckedIssuer {
        settings: IssuerSettings {
            name: name.into(),
            // As written: `Url` would add a slash to a host alone, and the token is compared byte for byte.
            issuer: url_at?.as_text()?.to_owned(),
            aliases,
            audiences,
            tokens: tokens?,
            access_must_show: preset.access_must_show,
            clients,
            keys,
            key_hosts,
            key_age_max: key_age_max?,
            outbound: OutboundSettings { insecure: insecure?, roots, proxy },
            introspection,
            algorithms,
            claims: claims?,
            require,
            required_claims,
            group_form: group_form?,
            groups_from,
            leeway: leeway?,
        },
        written: WrittenIssuer { preset: preset_name?, jwks_file, ca_file, proxy_password, client_secret },
    })
}

/// One of a few words.
pub(super) fn choice<T: Copy, const N: usize>(at: &At<'_>, noun: &str, known: [(&'static str, T); N]) -> Option<T> {
    let word = at.text(noun)?;
    let found = known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    if found.is_none() {
        at.refuse_name(word, noun, known.map(|(name, _)| name));
    }
    found
}

fn groups_from(at: &At<'_>, directories: &[String]) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for at in at.one_or_many(GROUPS_FROM) {
        let Some(name) = at.text(GROUPS_FROM) else { continue };
        if !directories.iter().any(|known| known == name) {
            at.refuse_name(name, "a directory", directories.iter().map(String::as_str));
        } else if names.iter().any(|known| **known == *name) {
            at.warn(format!("`{name}` is listed twice"));
        } else {
            names.push(name.into());
        }
    }
    names
}

fn preset_name(at: &At<'_>) -> Option<&'static str> {
    let text = at.text("the name of a preset")?;
    let found = PRESET_NAMES.into_iter().find(|name| *name == text);
    if found.is_none() {
        at.refuse_name(text, "a preset", PRESET_NAMES);
    }
    found
}

fn issuer_url(at: &At<'_>, insecure: bool) -> Option<Url> {
    let text = at.text(ISSUER)?;
    let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https")) else {
        at.refuse(format!("{} is not the URL of an issuer", quote(text)), ISSUER);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        at.refuse_unshown("a user name or password inside the URL", ISSUER);
        return None;
    }
    // OpenID Connect Discovery 1.0, section 2: no query and no fragment.
    if url.query().is_some() || url.fragment().is_some() {
        at.refuse(format!("{} has a query or a fragment, which no issuer has", quote(text)), ISSUER);
        return None;
    }
    if url.scheme() == "http" && !insecure {
        at.refuse(
            format!("{} is not encrypted, so anyone on the way could hand out keys", quote(text)),
            "`https://…`, or `insecure: true` beside it for a provider on loopback",
        );
        return None;
    }
    Some(url)
}

/// A key set from a file, so far as it can be told from anything else; `identity` reads the keys.
fn key_set(at: &At<'_>, directory: &Path) -> Option<(PathBuf, Arc<[u8]>)> {
    let path = directory.join(at.text(JWKS)?);
    let bytes = match at.read_file(&path, JWKS_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            at.refuse(format!("cannot read the key set {}: {error}", path.display()), JWKS);
            return None;
        }
    };
    let keys = serde_json::from_slice::<Value>(&bytes);
    if !keys.is_ok_and(|value| value.get("keys").is_some_and(Value::is_array)) {
        at.refuse(
            format!("{} is not a key set", path.display()),
            "a JSON object with `keys`, a list (RFC 7517, section 5)",
        );
        return None;
    }
    Some((path, bytes.into()))
}

/// Hosts as a URL has them: in lower case, in punycode, without a port.
fn key_hosts(at: &At<'_>) -> Vec<String> {
    let at = match at.kind() {
        // None but the issuer's own, whatever the preset says.
        Kind::List(items) if items.is_empty() => return Vec::new(),
        _ => at.one_or_many(KEY_HOSTS),
    };
    let mut hosts = Vec::new();
    for at in at {
        let Some(text) = at.text(KEY_HOSTS) else { continue };
        // Nothing that could be more than a host, so that what is compared is what was written.
        let plain = !text.contains(|c: char| c.is_whitespace() || "/@?#*\\%".contains(c));
        let url = Url::parse(&format!("https://{text}/")).ok().filter(|url| plain && url.port().is_none());
        match url.as_ref().and_then(Url::host_str).filter(|_| !text.ends_with(":443")) {
            Some(host) => hosts.push(host.to_owned()),
            None => at.refuse(format!("{} is not a host", quote(text)), KEY_HOSTS),
        }
    }
    hosts
}

/// The certificates of a PEM file.
fn roots(at: &At<'_>, directory: &Path) -> Option<(PathBuf, Roots)> {
    let path = directory.join(at.text(CA_FILE)?);
    let read = at.read_file(&path, CA_BYTES_MAX);
    let roots =
        read.map_err(|error| error.to_string()).and_then(|pem| Roots::parse(&pem).map_err(|error| error.to_string()));
    match roots {
        Ok(roots) => Some((path, roots)),
        Err(error) => {
            at.refuse(format!("cannot use the certificates of {}: {error}", path.display()), CA_FILE);
            None
        }
    }
}

/// A URL, or a map with the URL and who we are.
fn proxy(at: &At<'_>, directory: &Path) -> Option<(ProxySettings, Option<SecretSource>)> {
    let Kind::Map(_) = at.kind() else {
        return Some((ProxySettings { url: proxy_url(at)?, credentials: None }, None));
    };
    let mut section = at.section(PROXY)?;
    let url = section.need("url", "http://proxy.example:3128").and_then(|at| proxy_url(&at));
    let username_at = section.take("username");
    let username = username_at.as_ref().map(|at| at.text("a user name"));
    let password_at = section.take("password");
    let password = password_at.as_ref().map(|at| secrets::read(at, directory));
    section.finish();
    match (username, password) {
        (None, None) => Some((ProxySettings { url: url?, credentials: None }, None)),
        (Some(username), Some(password)) => {
            let username = username?;
            if username.contains(':') {
                // RFC 7617, section 2.
                at.refuse("a colon in a user name cannot be told from the one before the password", "a name without");
            }
            let (place, secret) = password?;
            let credentials = Some((username.to_owned(), secret));
            Some((ProxySettings { url: url?, credentials }, Some(place)))
        }
        (Some(_), None) => {
            at.refuse("a user name without a password", "`password: file:…` or `password: env:…` beside it");
            None
        }
        (None, Some(_)) => {
            at.refuse("a password without a user name", "`username: NAME` beside it");
            None
        }
    }
}

fn proxy_url(at: &At<'_>) -> Option<Url> {
    let text = at.as_text().filter(|text| text.contains('@'));
    if text.is_some() {
        at.refuse_unshown(
            "a password or user name inside the URL: secrets only as `file:…` or `env:…`",
            "`proxy: { url: http://proxy.example:3128, username: NAME, password: file:PATH }`",
        );
        return None;
    }
    let text = at.text(PROXY)?;
    let only_origin = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let url = Url::parse(text).ok().filter(only_origin);
    if url.is_none() {
        at.refuse(format!("{} is not the URL of a proxy", quote(text)), PROXY);
    }
    url
}

fn algorithms(at: &At<'_>) -> Vec<Algorithm> {
    let mut algorithms = Vec::new();
    for at in at.one_or_many("a list of signature algorithms, such as `[RS256, ES256]`") {
        let Some(name) = at.text("the name of a signature algorithm") else { continue };
        match Algorithm::parse(name) {
            Some(algorithm) if algorithms.contains(&algorithm) => at.warn(format!("`{name}` is listed twice")),
            Some(algorithm) => algorithms.push(algorithm),
            None if name.eq_ignore_ascii_case("none") => {
                at.refuse("`none` is no signature at all: anyone could write such a token", "a signature algorithm");
            }
            None if name.to_ascii_uppercase().starts_with("HS") => at.refuse(
                format!("{} signs with a shared secret, and the keys of a key set are public", quote(name)),
                "an asymmetric algorithm",
            ),
            None => at.refuse_name(name, "a signature algorithm", Algorithm::ALL.map(Algorithm::name)),
        }
    }
    algorithms
}

fn claims(at: &At<'_>, mut map: ClaimMap) -> Option<ClaimMap> {
    let mut section = at.section("a map: `claims: { user: preferred_username }`")?;
    let one = |section: &mut Section<'_>, key, path: &mut ClaimPath| {
        if let Some(found) = section.take(key).and_then(|at| claim_path(&at)) {
            *path = found;
        }
    };
    one(&mut section, "user", &mut map.user);
    one(&mut section, "email", &mut map.email);
    one(&mut section, "name", &mut map.name);
    // An empty list says that there is no such claim, as with a provider that has no groups.
    let several = |section: &mut Section<'_>, key, paths: &mut Vec<ClaimPath>| {
        if let Some(at) = section.take(key) {
            *paths = match at.kind() {
                Kind::List(items) if items.is_empty() && key != "audience" => Vec::new(),
                _ => at.one_or_many(CLAIM_PATH).iter().filter_map(claim_path).collect(),
            };
        }
    };
    if let Some(at) = section.take("groups") {
        let pattern = |at: &At<'_>| at.parsed("the path of groups", GROUP_PATH, ClaimPattern::parse);
        map.groups = match at.kind() {
            Kind::List(items) if items.is_empty() => Vec::new(),
            _ => at.one_or_many(GROUP_PATH).iter().filter_map(pattern).collect(),
        };
    }
    let separator = section.take("groups_separator");
    if let Some(separator) = separator.and_then(|at| choice(&at, "a separator of group names", GroupSeparator::NAMES)) {
        map.groups_separator = separator;
    }
    several(&mut section, "scopes", &mut map.scopes);
    several(&mut section, "client_id", &mut map.client_id);
    several(&mut section, "audience", &mut map.audience);
    section.finish();
    Some(map)
}

fn required(at: &At<'_>) -> Vec<(ClaimPath, Value)> {
    let named = at.named("a map of claims to the value each must have");
    named
        .iter()
        .filter_map(|(path, key, at)| {
            let path = ClaimPath::parse(path);
            if path.is_none() {
                key.refuse("this is not the path of a claim", CLAIM_PATH);
            }
            Some((path?, scalar(at)?))
        })
        .collect()
}

/// A value that a claim can be compared with.
pub(super) fn scalar(at: &At<'_>) -> Option<Value> {
    match at.kind() {
        Kind::Text(text) => return Some(text.as_str().into()),
        Kind::Bool(value) => return Some((*value).into()),
        Kind::Integer(value) => {
            return i64::try_from(*value).map(Value::from).or_else(|_| u64::try_from(*value).map(Value::from)).ok();
        }
        Kind::Float(value) => return Some((*value).into()),
        Kind::Null | Kind::List(_) | Kind::Map(_) => at.refuse_kind("text, a number, or true or false"),
    }
    None
}

/// A path into the claims.
pub(super) fn claim_path(at: &At<'_>) -> Option<ClaimPath> {
    at.parsed("the path of a claim", CLAIM_PATH, ClaimPath::parse)
}

/// Whose credentials cannot name a group, by the config.
pub(super) struct Groupless<'a> {
    name: &'a str,
    what: &'static str,
    remedy: &'static str,
}

impl<'a> Groupless<'a> {
    pub(super) fn tokens(issuer: &'a str) -> Groupless<'a> {
        Groupless { name: issuer, what: "tokens", remedy: "`claims: { groups: … }` at that issuer" }
    }

    pub(super) fn certificates(sort: &'a str) -> Groupless<'a> {
        Groupless { name: sort, what: "certificates", remedy: "`groups: subject.OU` at that sort of certificates" }
    }
}

/// Reads `groups:`. All names are in the answer, also those of groups with a mistake.
///
/// `owners` are the names of those whose groups these can be, `directories` the directories among them, and
/// `without_groups` those who cannot name any.
pub(super) fn groups(
    at: &At<'_>,
    owners: &[String],
    directories: &[&DirectorySettings],
    without_groups: &[Groupless<'_>],
) -> Vec<Membership> {
    let named = at.named("a map of groups by name: `ops: [\"acme:platform-ops\"]`");
    named
        .into_iter()
        .map(|(name, key, at)| {
            if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
                key.refuse(
                    format!("{} cannot be the name of a group", quote(name)),
                    "1 to 128 bytes without control characters",
                );
            }
            if name == "else" {
                key.refuse(
                    "`else` cannot be the name of a group",
                    "another name: in `backend:` it means everyone else",
                );
            }
            let members = at
                .one_or_many(MEMBER)
                .iter()
                .filter_map(|at| member(at, owners, directories, without_groups))
                .collect();
            (name.to_owned(), members)
        })
        .collect()
}

fn member(
    at: &At<'_>,
    owners: &[String],
    directories: &[&DirectorySettings],
    without_groups: &[Groupless<'_>],
) -> Option<(String, String)> {
    let text = at.text(MEMBER)?;
    let Some((issuer, group)) = text.split_once(':').filter(|(issuer, group)| !issuer.is_empty() && !group.is_empty())
    else {
        let nearest = match owners {
            [only] if !text.contains(':') => Some(format!("{only}:{text}")),
            _ => None,
        };
        at.refuse_for(format!("{} does not say whose group it is", quote(text)), MEMBER, nearest);
        return None;
    };
    if !owners.iter().any(|known| known == issuer) {
        at.refuse_name(issuer, "an issuer or a directory", owners.iter().map(String::as_str));
        return None;
    }
    if let Some(without) = without_groups.iter().find(|without| without.name == issuer) {
        // A rule that nobody can meet looks like one that protects something.
        at.refuse(
            format!("{} of {} have no groups, so nobody would ever be in this one", without.what, quote(issuer)),
            without.remedy,
        );
        return None;
    }
    let Some(directory) = directories.iter().find(|directory| *directory.name == *issuer) else {
        return Some((issuer.to_owned(), group.to_owned()));
    };
    let Some(group) = directory.kind.group_name(group) else {
        at.refuse(
            format!("{} has no groups of such names, so nobody would ever be in this one", quote(issuer)),
            directory.kind.group_names(),
        );
        return None;
    };
    Some((issuer.to_owned(), group))
}

/// Reads `cache:`, the verified-token cache.
pub(super) fn cache(at: &At<'_>) -> CacheSettings {
    let mut settings = CacheSettings::default();
    if let Some(mut section) = at.section("a map: `cache: { max_bytes: 128MiB, max_age: 5m }`") {
        if let Some(bytes) = section.take("max_bytes").and_then(|at| at.size(1024 * 1024, 64 * 1024 * 1024 * 1024)) {
            settings.bytes_max = bytes;
        }
        let age = |at: At<'_>| at.duration(Duration::from_secs(1), Duration::from_secs(86_400));
        if let Some(age_max) = section.take("max_age").and_then(age) {
            settings.age_max = age_max;
        }
        section.finish();
    }
    settings
}

const ALIASES: &str = "other values that `iss` has in tokens of this issuer, such as `accounts.google.com`";
const AUDIENCES: &str = "a list of audiences: a token must be for one of them";
const CLAIM_PATH: &str = "member names with dots between them, such as `realm_access.roles`";
const CLIENTS: &str = "a list of client ids: a token must be issued to one of them";
const GROUP_PATH: &str = "member names with dots between them, one of which may be `*`: `resource_access.*.roles`";
const CA_FILE: &str = "the path of a PEM file with certificates of authorities, relative to the config's directory";
const GROUPS_FROM: &str = "a list of directories by name";
const ISSUER: &str = "the URL that tokens have as `iss`, such as `https://login.example/realms/main`";
const JWKS: &str = "the path of a JSON key set, relative to the config's directory";
const KEY_HOSTS: &str = "a list of hosts without scheme and port, such as `[keys.example]`, besides the issuer's own";
const MEMBER: &str = "`ISSUER:GROUP` or `DIRECTORY:GROUP`, the group as it is written there";

const PROXY: &str =
    "the URL of an HTTP proxy such as `http://proxy.example:3128`, or a map with `url`, `username`, `password`";

/// A system's whole store has some 220 KiB.
const CA_BYTES_MAX: u64 = 1024 * 1024;

/// An outage over a long weekend refuses nobody. Without an end, whoever could keep the agent from its provider could use
/// a stolen key for ever that the provider has withdrawn.
const KEY_AGE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Key sets of large tenants are some 20 KiB.
const JWKS_BYTES_MAX: u64 = 512 * 1024;

/// Clocks of servers that run NTP differ by milliseconds; a minute covers those that do not.
const LEEWAY: Duration = Duration::from_secs(60);
