//! `ldap:` of a directory: which servers, who searches, where people and their groups are.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::directories::WrittenDirectory;
use super::expanded::{list, text};
use super::read::{At, Section, quote};
use super::secrets;
use super::values::{show_duration, show_size};
use crate::identity::ldap::{
    Account, BasicCacheSettings, DnTemplate, FilterTemplate, GroupName, GroupSource, LdapSettings, Scope, Security,
    Server, UserAttributes, Users,
};
use crate::secret::SecretSource;

/// Reads the value of `ldap:`.
pub(super) fn read(at: &At<'_>, directory: &Path) -> Option<(LdapSettings, WrittenDirectory)> {
    let mut section = at.section("a map with `url:`, and `users:` or `user_dn:`")?;
    let insecure = section.take("insecure").map_or(Some(false), |at| at.boolean());
    let url_at = section.need("url", "ldaps://ldap.example");
    let starttls_at = section.take("starttls");
    let ca_at = section.take("ca_file");
    let (dn_at, password_at) = (section.take("bind_dn"), section.take("bind_password"));
    let (users_at, template_at) = (section.take("users"), section.take("user_dn"));
    let attributes = section.take("attributes").map_or_else(|| Some(attributes_unless_said()), |at| attributes(&at));
    let groups = section.take("groups").map(|at| groups(&at));
    let connections_max = section.take("connections").map_or(Some(CONNECTIONS), |at| at.integer(1, 64));
    let timeout = |at: Option<At<'_>>| {
        let bounds = (Duration::from_millis(50), Duration::from_secs(60));
        at.map_or(Some(TIMEOUT), |at| at.duration(bounds.0, bounds.1))
    };
    let connect_timeout = timeout(section.take("connect_timeout"));
    let operation_timeout = timeout(section.take("timeout"));
    let cache = section.take("cache").map_or_else(|| Some(BasicCacheSettings::default()), |at| cache(&at));
    section.finish();

    let account = account(dn_at.as_ref(), password_at.as_ref(), directory);
    let users = users(at, users_at.as_ref(), template_at.as_ref());
    let url_at = url_at?;
    let starttls = starttls_at.as_ref().map_or(Some(false), At::boolean);
    let servers = servers(&url_at);
    let security = servers.as_ref().and_then(|(scheme, _)| security(&url_at, *scheme, starttls?, insecure?));
    let ca = match (&ca_at, security) {
        (Some(at), Some(Security::Plain)) => {
            at.refuse("certificates are for TLS, and there is none", "`ldaps://…` or `starttls: true`");
            return None;
        }
        (Some(at), _) => Some(authorities(at, directory)?),
        (None, _) => None,
    };
    let (account, secret) = account?;
    if let (None, Some(users_at)) = (&account, &users_at) {
        users_at.warn("without `bind_dn` the directory is searched by nobody in particular, and few let nobody search");
    }
    let groups = match groups {
        None => None,
        Some(read) => Some(read?),
    };
    let ca_file = ca_at.as_ref().and_then(At::as_text).map(|path| directory.join(path));
    let settings = LdapSettings {
        servers: servers?.1,
        security: security?,
        ca,
        account,
        users: users?,
        attributes: attributes?,
        groups,
        connections_max: usize::try_from(connections_max?).unwrap_or(1),
        connect_timeout: connect_timeout?,
        operation_timeout: operation_timeout?,
        cache: cache?,
    };
    Some((settings, WrittenDirectory { secret, ca_file }))
}

/// The value of `ldap:` as [`read`] reads it, each line indented by six.
pub(super) fn expand(ldap: &LdapSettings, written: &WrittenDirectory) -> String {
    let mut out = String::new();
    let scheme = if ldap.security == Security::Tls { "ldaps" } else { "ldap" };
    let urls = ldap.servers.iter().map(|server| format!("{scheme}://{server}"));
    let mut line = |depth: usize, key: &str, value: String| {
        let _ = writeln!(out, "{}{key}: {value}", "  ".repeat(3 + depth));
    };
    line(0, "url", list(urls));
    line(0, "starttls", (ldap.security == Security::StartTls).to_string());
    line(0, "insecure", (ldap.security == Security::Plain).to_string());
    if let Some(path) = &written.ca_file {
        line(0, "ca_file", text(&secrets::absolute(path).to_string_lossy()));
    }
    if let (Some(account), Some(place)) = (&ldap.account, &written.secret) {
        line(0, "bind_dn", text(&account.dn));
        line(0, "bind_password", text(&secrets::show(place)));
    }
    match &ldap.users {
        Users::Template(template) => line(0, "user_dn", text(&template.to_string())),
        Users::Search { base, scope, filter } => {
            line(0, "users", String::new());
            line(1, "base", text(base));
            line(1, "scope", scope_name(*scope).to_owned());
            line(1, "filter", text(&filter.to_string()));
        }
    }
    line(0, "attributes", String::new());
    line(1, "user", text(&ldap.attributes.user));
    line(1, "email", text(&ldap.attributes.email));
    line(1, "name", text(&ldap.attributes.name));
    let called = |name: &GroupName| match name {
        GroupName::Dn => "dn".to_owned(),
        GroupName::FirstValue => "first".to_owned(),
        GroupName::Attribute(attribute) => text(attribute),
    };
    match &ldap.groups {
        None => {}
        Some(GroupSource::Attribute { attribute, name }) => {
            line(0, "groups", String::new());
            line(1, "attribute", text(attribute));
            line(1, "name", called(name));
        }
        Some(GroupSource::Search { base, scope, filter, name, nested }) => {
            line(0, "groups", String::new());
            line(1, "base", text(base));
            line(1, "scope", scope_name(*scope).to_owned());
            line(1, "filter", text(&filter.to_string()));
            line(1, "name", called(name));
            line(1, "nested", nested.to_string());
        }
    }
    line(0, "connections", ldap.connections_max.to_string());
    line(0, "connect_timeout", show_duration(ldap.connect_timeout));
    line(0, "timeout", show_duration(ldap.operation_timeout));
    line(0, "cache", String::new());
    line(1, "max_age", show_duration(ldap.cache.age_max));
    line(1, "max_refused_age", show_duration(ldap.cache.refused_age_max));
    line(1, "max_bytes", show_size(ldap.cache.bytes_max));
    out
}

/// What `ldap:` is, for whoever reads the config's facts.
pub(super) fn describe(ldap: &LdapSettings) -> String {
    let servers = ldap.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let how = match ldap.security {
        Security::Tls => "over TLS",
        Security::StartTls => "over TLS that is begun first",
        Security::Plain => "in clear",
    };
    format!("LDAP at {servers}, {how}")
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Base => "base",
        Scope::One => "one",
        Scope::Subtree => "subtree",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Ldap,
    Ldaps,
}

fn servers(at: &At<'_>) -> Option<(Scheme, Vec<Server>)> {
    let items = at.one_or_many(URL);
    let count = items.len();
    let read: Vec<_> = items.iter().filter_map(server).collect();
    let (scheme, _) = read.first().cloned()?;
    if read.iter().any(|(other, _)| *other != scheme) {
        at.refuse("some servers have `ldap://` and some `ldaps://`", "the same for all servers of a directory");
        return None;
    }
    (read.len() == count).then(|| (scheme, read.into_iter().map(|(_, server)| server).collect()))
}

fn server(at: &At<'_>) -> Option<(Scheme, Server)> {
    let text = at.text(URL)?;
    // Before anything that would show the value.
    if text.contains('@') {
        at.refuse_unshown("a user name or password inside the URL", "`bind_dn` and `bind_password` beside it");
        return None;
    }
    let url = Url::parse(text).ok();
    let scheme = url.as_ref().and_then(|url| match url.scheme() {
        "ldap" => Some((Scheme::Ldap, 389)),
        "ldaps" => Some((Scheme::Ldaps, 636)),
        _ => None,
    });
    let host = url.as_ref().and_then(Url::host_str).filter(|host| !host.is_empty());
    let (Some(url), Some((scheme, port)), Some(host)) = (&url, scheme, host) else {
        at.refuse(format!("{} is not the URL of an LDAP server", quote(text)), URL);
        return None;
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        // RFC 4516 puts base and filter there.
        at.refuse(format!("{} says more than a server", quote(text)), "the base and the filter in `users:`");
        return None;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((scheme, Server { host, port: url.port().unwrap_or(port) }))
}

fn security(at: &At<'_>, scheme: Scheme, starttls: bool, insecure: bool) -> Option<Security> {
    match (scheme, starttls) {
        (Scheme::Ldaps, false) => Some(Security::Tls),
        (Scheme::Ldap, true) => Some(Security::StartTls),
        (Scheme::Ldap, false) if insecure => {
            at.warn("passwords go to this directory in clear");
            Some(Security::Plain)
        }
        (Scheme::Ldap, false) => {
            at.refuse(
                "`ldap://` alone is not encrypted, and every password goes over it",
                "`ldaps://…`, or `starttls: true` beside it, or `insecure: true` for a directory on loopback",
            );
            None
        }
        (Scheme::Ldaps, true) => {
            at.refuse(
                "`ldaps://` is TLS from the first byte, so there is none to start",
                "`ldap://…` with `starttls: true`",
            );
            None
        }
    }
}

fn authorities(at: &At<'_>, directory: &Path) -> Option<Arc<[u8]>> {
    let path = directory.join(at.text(CA)?);
    match at.read_file(&path, CA_BYTES_MAX) {
        Ok(bytes) if bytes.windows(27).any(|text| text == b"-----BEGIN CERTIFICATE-----") => Some(bytes.into()),
        Ok(_) => {
            at.refuse(format!("{} holds no certificate", path.display()), CA);
            None
        }
        Err(error) => {
            at.refuse(format!("cannot read the certificates {}: {error}", path.display()), CA);
            None
        }
    }
}

/// The search account and where its password is; `None` is a mistake.
fn account(
    dn: Option<&At<'_>>,
    password: Option<&At<'_>>,
    directory: &Path,
) -> Option<(Option<Account>, Option<SecretSource>)> {
    match (dn, password) {
        (None, None) => Some((None, None)),
        (Some(dn), Some(password)) => {
            let dn = dn_text(dn);
            let (place, password) = secrets::read(password, directory)?;
            Some((Some(Account { dn: dn?, password }), Some(place)))
        }
        (Some(dn), None) => {
            dn.refuse(
                "an account without a password, which many servers would take for nobody",
                "`bind_password: file:…` or `bind_password: env:…` beside it",
            );
            None
        }
        (None, Some(password)) => {
            // What stands there may be the password itself.
            password.refuse_unshown("a password without an account", "`bind_dn: cn=tollgate,dc=example` beside it");
            None
        }
    }
}

fn users(at: &At<'_>, search: Option<&At<'_>>, template: Option<&At<'_>>) -> Option<Users> {
    match (search, template) {
        (Some(search), None) => user_search(search),
        (None, Some(template)) => template.parsed("the DN of a user", TEMPLATE, DnTemplate::parse).map(Users::Template),
        (Some(_), Some(template)) => {
            template.refuse("`users` says already how a user is found", "one or the other");
            None
        }
        (None, None) => {
            at.refuse(
                "`users` is missing",
                "`users: { base: \"ou=people,dc=example\", filter: \"(uid={user})\" }`, or `user_dn`",
            );
            None
        }
    }
}

fn user_search(at: &At<'_>) -> Option<Users> {
    let mut section = at.section("a map: `users: { base: \"ou=people,dc=example\", filter: \"(uid={user})\" }`")?;
    let base = section.need("base", "ou=people,dc=example").map(|at| dn_text(&at));
    let scope = scope(&mut section);
    let filter_at = section.need("filter", "(uid={user})");
    section.finish();
    let filter_at = filter_at?;
    let filter = filter(&filter_at)?;
    if !filter.names_user() {
        filter_at
            .refuse("this filter does not ask for the user", "`{user}` where the name belongs, as in `(uid={user})`");
        return None;
    }
    if filter.names_dn() {
        filter_at.refuse("nobody's DN is known before this search", "a filter with `{user}` alone");
        return None;
    }
    Some(Users::Search { base: base??, scope: scope?, filter })
}

fn groups(at: &At<'_>) -> Option<GroupSource> {
    let mut section = at.section("a map with `base:` and `filter:`, or with `attribute:`")?;
    let attribute_at = section.take("attribute");
    let name_at = section.take("name");
    let nested_at = section.take("nested");
    if let Some(attribute_at) = attribute_at {
        let searching = [section.take("base"), section.take("filter"), section.take("scope"), nested_at];
        section.finish();
        if let Some(at) = searching.into_iter().flatten().next() {
            at.refuse("this searches for groups, and `attribute` reads them off the user", "one or the other");
            return None;
        }
        let name = name_at.map_or(Some(GroupName::Dn), |at| match at.as_text() {
            Some("dn") => Some(GroupName::Dn),
            Some("first") => Some(GroupName::FirstValue),
            Some(other) => {
                at.refuse_name(other, "what a group in an attribute can be called", ["dn", "first"]);
                None
            }
            None => {
                at.refuse_kind("`dn` or `first`");
                None
            }
        });
        return Some(GroupSource::Attribute { attribute: attribute(&attribute_at)?, name: name? });
    }
    let base_at = section.need("base", "ou=groups,dc=example");
    let filter_at = section.need("filter", "(member={dn})");
    let scope = scope(&mut section);
    section.finish();
    let base = base_at.as_ref().map(dn_text);
    let name = name_at.map_or_else(
        || Some(GroupName::Attribute("cn".to_owned())),
        |at| match at.as_text() {
            Some("dn") => Some(GroupName::Dn),
            _ => attribute(&at).map(GroupName::Attribute),
        },
    );
    let nested = nested_at.as_ref().map_or(Some(0), |at| at.integer(0, 8));
    let filter_at = filter_at?;
    let filter = filter(&filter_at)?;
    if !filter.names_user() && !filter.names_dn() {
        filter_at
            .refuse("this filter finds the same groups for everybody", "`{dn}` or `{user}` where the member belongs");
        return None;
    }
    let nested = nested?;
    if let Some(at) = nested_at.filter(|_| nested > 0 && !filter.names_dn()) {
        at.refuse("groups in groups are found by their DN, and the filter has no place for it", "`{dn}` in the filter");
        return None;
    }
    Some(GroupSource::Search {
        base: base??,
        scope: scope?,
        filter,
        name: name?,
        nested: u8::try_from(nested).unwrap_or(u8::MAX),
    })
}

fn attributes_unless_said() -> UserAttributes {
    UserAttributes { user: "uid".to_owned(), email: "mail".to_owned(), name: "cn".to_owned() }
}

fn attributes(at: &At<'_>) -> Option<UserAttributes> {
    let mut section = at.section("a map: `attributes: { user: sAMAccountName, email: mail, name: displayName }`")?;
    let unless_said = attributes_unless_said();
    let mut one = |key, unless_said| section.take(key).map_or(Some(unless_said), |at| attribute(&at));
    let read = (one("user", unless_said.user), one("email", unless_said.email), one("name", unless_said.name));
    section.finish();
    Some(UserAttributes { user: read.0?, email: read.1?, name: read.2? })
}

fn cache(at: &At<'_>) -> Option<BasicCacheSettings> {
    let mut section = at.section("a map: `cache: { max_age: 1m, max_refused_age: 5s, max_bytes: 16MiB }`")?;
    let mut settings = BasicCacheSettings::default();
    let hour = Duration::from_secs(3600);
    if let Some(age) = section.take("max_age").and_then(|at| at.duration(Duration::ZERO, hour)) {
        settings.age_max = age;
    }
    if let Some(age) = section.take("max_refused_age").and_then(|at| at.duration(Duration::ZERO, REFUSED_AGE_MAX)) {
        settings.refused_age_max = age;
    }
    if let Some(bytes) = section.take("max_bytes").and_then(|at| at.size(64 * 1024, 1024 * 1024 * 1024)) {
        settings.bytes_max = bytes;
    }
    section.finish();
    Some(settings)
}

fn scope(section: &mut Section<'_>) -> Option<Scope> {
    let Some(at) = section.take("scope") else { return Some(Scope::Subtree) };
    match at.as_text() {
        Some("subtree") => return Some(Scope::Subtree),
        Some("one") => return Some(Scope::One),
        Some(other) => at.refuse_name(other, "the scope of a search", ["subtree", "one"]),
        None => at.refuse_kind("`subtree` or `one`"),
    }
    None
}

fn filter(at: &At<'_>) -> Option<FilterTemplate> {
    let text = at.text(FILTER)?;
    match FilterTemplate::parse(text) {
        Ok(filter) => Some(filter),
        Err(error) => {
            at.refuse(format!("{} is not a filter: {error}", quote(text)), FILTER);
            None
        }
    }
}

/// A DN, so far as it can be told from something else without the directory's schema.
fn dn_text(at: &At<'_>) -> Option<String> {
    at.parsed("a DN", DN, |text| {
        let good =
            text.contains('=') && text.len() <= 1024 && !text.chars().any(char::is_control) && !text.contains('{');
        good.then(|| text.to_owned())
    })
}

fn attribute(at: &At<'_>) -> Option<String> {
    at.parsed("the name of an attribute", ATTRIBUTE, |text| {
        let good = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b';'));
        good.then(|| text.to_owned())
    })
}

const URL: &str = "`ldaps://HOST:PORT`, or `ldap://HOST:PORT` with `starttls: true`; a list is tried in order";
const CA: &str = "the path of a PEM file with the certificates of the authorities, relative to the config's directory";
const TEMPLATE: &str = "a DN with `{user}` as one value, such as `uid={user},ou=people,dc=example`";
const FILTER: &str = "a filter (RFC 4515), such as `(&(objectClass=person)(uid={user}))`";
const DN: &str = "a DN (RFC 4514), such as `ou=people,dc=example`";
const ATTRIBUTE: &str = "the name of an attribute, such as `uid`";

/// The largest system's bundle of authorities has some 220 KiB.
const CA_BYTES_MAX: u64 = 1024 * 1024;

/// A bind with a slow password hash takes 50 ms: four are 80 logins a second, and eight connections to the directory.
const CONNECTIONS: u64 = 4;

/// Directories stand next door; one that takes two seconds is not well.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Who was refused for a directory's mistake should not wait longer than a person waits before trying again.
const REFUSED_AGE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::super::file::Node;
    use super::super::read::Report;
    use super::*;

    /// The settings that `yaml` gives, or its mistakes, each on one line.
    fn read_text(yaml: &str) -> Result<LdapSettings, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pw"), "s3cret\n").unwrap();
        std::fs::write(folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(folder.path().join("not.pem"), "hello\n").unwrap();
        let root = Node::parse(yaml).unwrap_or_else(|error| panic!("{yaml}: {error:?}"));
        let report = Report::new(yaml);
        let settings = read(&report.at(&root), folder.path());
        let (errors, _) = report.finish();
        if errors.is_empty() {
            return Ok(settings.unwrap_or_else(|| panic!("{yaml}: neither settings nor a mistake")).0);
        }
        let shown = errors.iter().map(|problem| format!("{}: {}", problem.key, problem.what));
        Err(shown.collect::<Vec<_>>().join("\n"))
    }

    const USERS: &str = "users: { base: 'ou=people,dc=x', filter: '(uid={user})' }";

    #[test]
    fn a_directory_reads_as_written() {
        let settings = read_text(
            "url: [ldap://a.example, 'ldap://[::1]:1389']
starttls: true
ca_file: ca.pem
bind_dn: cn=tollgate,dc=x
bind_password: file:pw
users: { base: 'ou=people,dc=x', scope: one, filter: '(&(objectClass=person)(mail={user}))' }
attributes: { user: mail, name: displayName }
groups: { base: 'ou=groups,dc=x', filter: '(member={dn})', name: cn, nested: 3 }
connections: 8
connect_timeout: 1s
timeout: 500ms
cache: { max_age: 30s, max_refused_age: 0s, max_bytes: 1MiB }
",
        )
        .unwrap();
        let server = |host: &str, port| Server { host: host.to_owned(), port };
        let expected = LdapSettings {
            servers: vec![server("a.example", 389), server("::1", 1389)],
            security: Security::StartTls,
            ca: Some(Arc::from(*b"-----BEGIN CERTIFICATE-----\n")),
            account: Some(Account {
                dn: "cn=tollgate,dc=x".to_owned(),
                password: crate::secret::Secret::new("s3cret"),
            }),
            users: Users::Search {
                base: "ou=people,dc=x".to_owned(),
                scope: Scope::One,
                filter: FilterTemplate::parse("(&(objectClass=person)(mail={user}))").unwrap(),
            },
            attributes: UserAttributes {
                user: "mail".to_owned(),
                email: "mail".to_owned(),
                name: "displayName".to_owned(),
            },
            groups: Some(GroupSource::Search {
                base: "ou=groups,dc=x".to_owned(),
                scope: Scope::Subtree,
                filter: FilterTemplate::parse("(member={dn})").unwrap(),
                name: GroupName::Attribute("cn".to_owned()),
                nested: 3,
            }),
            connections_max: 8,
            connect_timeout: Duration::from_secs(1),
            operation_timeout: Duration::from_millis(500),
            cache: BasicCacheSettings {
                age_max: Duration::from_secs(30),
                refused_age_max: Duration::ZERO,
                bytes_max: 1024 * 1024,
            },
        };
        assert_eq!(settings, expected);

        let smallest = read_text(
            "{ url: ldaps://a.example, user_dn: 'uid={user},dc=x', groups: { attribute: memberOf, name: first } }",
        )
        .unwrap();
        assert_eq!((smallest.security, &smallest.servers[0]), (Security::Tls, &server("a.example", 636)));
        assert_eq!(smallest.users, Users::Template(DnTemplate::parse("uid={user},dc=x").unwrap()));
        let group = GroupSource::Attribute { attribute: "memberOf".to_owned(), name: GroupName::FirstValue };
        assert_eq!(smallest.groups, Some(group));
        let clear = read_text(&format!("{{ url: ldap://127.0.0.1, insecure: true, {USERS} }}")).unwrap();
        assert_eq!((clear.security, clear.account), (Security::Plain, None));
    }

    #[test]
    fn every_mistake_is_said() {
        for (yaml, expected) in [
            ("{}", "`url` is missing\n: `users` is missing"),
            ("{ url: ldaps://h }", ": `users` is missing"),
            ("{ url: ldap://h, USERS }", "url: `ldap://` alone is not encrypted"),
            ("{ url: ldaps://h, starttls: true, USERS }", "url: `ldaps://` is TLS from the first byte"),
            ("{ url: 'ldaps://cn=x:s3cret@h', USERS }", "url: a user name or password inside the URL"),
            ("{ url: https://h, USERS }", "url: `https://h` is not the URL of an LDAP server"),
            ("{ url: ldaps://, USERS }", "url: `ldaps://` is not the URL of an LDAP server"),
            ("{ url: 'ldaps://h/dc=x', USERS }", "url: `ldaps://h/dc=x` says more than a server"),
            ("{ url: [ldaps://h, ldap://i], USERS }", "url: some servers have `ldap://` and some `ldaps://`"),
            ("{ url: ldaps://h, ca_file: not.pem, USERS }", "ca_file: "),
            ("{ url: ldaps://h, ca_file: none.pem, USERS }", "ca_file: cannot read"),
            ("{ url: ldap://h, insecure: true, ca_file: ca.pem, USERS }", "ca_file: certificates are for TLS"),
            ("{ url: ldaps://h, bind_dn: 'cn=x', USERS }", "bind_dn: an account without a password"),
            ("{ url: ldaps://h, bind_password: s3cret, USERS }", "bind_password: a password without an account"),
            ("{ url: ldaps://h, bind_dn: 'cn=x', bind_password: s3cret, USERS }", "bind_password: a secret is never"),
            ("{ url: ldaps://h, bind_dn: admin, bind_password: 'file:pw', USERS }", "bind_dn: `admin` is not a DN"),
            ("{ url: ldaps://h, user_dn: 'dc=x' }", "user_dn: `dc=x` is not the DN of a user"),
            ("{ url: ldaps://h, user_dn: 'uid={user}', USERS }", "user_dn: `users` says already"),
            (
                "{ url: ldaps://h, users: { base: 'dc=x', filter: '(uid=ann)' } }",
                "users.filter: this filter does not ask",
            ),
            ("{ url: ldaps://h, users: { base: 'dc=x', filter: '(a={dn}{user})' } }", "users.filter: nobody's DN"),
            (
                "{ url: ldaps://h, users: { base: 'dc=x', filter: 'uid={user}' } }",
                "users.filter: `uid={user}` is not a filter: no `(` at",
            ),
            (
                "{ url: ldaps://h, users: { base: 'dc=x', filter: '(uid={user})', scope: all } }",
                "users.scope: `all` is not",
            ),
            ("{ url: ldaps://h, users: { filter: '(uid={user})' } }", "users: `base` is missing"),
            ("{ url: ldaps://h, USERS, groups: { base: 'dc=x' } }", "groups: `filter` is missing"),
            (
                "{ url: ldaps://h, USERS, groups: { base: 'dc=x', filter: '(a=b)' } }",
                "groups.filter: this filter finds",
            ),
            ("{ url: ldaps://h, USERS, groups: { base: 'dc=x', filter: '(m={user})', nested: 1 } }", "groups.nested: "),
            ("{ url: ldaps://h, USERS, groups: { attribute: memberOf, base: 'dc=x' } }", "groups.base: this searches"),
            ("{ url: ldaps://h, USERS, groups: { attribute: 'member of' } }", "groups.attribute: "),
            ("{ url: ldaps://h, USERS, groups: { attribute: memberOf, name: cn } }", "groups.name: `cn` is not"),
            (
                "{ url: ldaps://h, USERS, cache: { max_refused_age: 1m } }",
                "cache.max_refused_age: `1m` is out of bounds",
            ),
            ("{ url: ldaps://h, USERS, timeout: 0s }", "timeout: `0ms` is out of bounds"),
            ("{ url: ldaps://h, USERS, pool: 3 }", "pool: unknown key `pool`"),
        ] {
            let said = read_text(&yaml.replace("USERS", USERS)).expect_err(yaml);
            assert!(said.contains(expected), "{yaml}\n--- expected\n{expected}\n--- got\n{said}");
            assert!(!said.contains("s3cret"), "{yaml}: {said}");
        }
    }
}
