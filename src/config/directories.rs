//! `directories:`: where groups come from that are not in a token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::file::Kind;
use super::issuers::choice;
use super::ldap;
use super::read::{At, Section, quote};
use super::secrets;
use crate::identity::directory::{
    self, Absent, AccountKey, DirectoryKind, DirectorySettings, EntraSettings, GoogleSettings,
};
use crate::identity::settings::OutboundSettings;
use crate::secret::SecretSource;

/// What a directory's settings do not say any more: where its secret and its authorities' certificates are.
#[derive(Debug, Default)]
pub(super) struct WrittenDirectory {
    pub(super) secret: Option<SecretSource>,
    pub(super) ca_file: Option<PathBuf>,
}

/// Reads `directories:`; the names of all, and those without a mistake.
pub(super) fn read(at: &At<'_>, folder: &Path) -> (Vec<String>, Vec<(DirectorySettings, WrittenDirectory)>) {
    let mut names = Vec::new();
    let mut checked = Vec::new();
    for (name, _, at) in at.with_names("a directory", "a map of directories by name") {
        names.push(name.to_owned());
        checked.extend(one(name, &at, folder));
    }
    (names, checked)
}

fn one(name: &str, at: &At<'_>, folder: &Path) -> Option<(DirectorySettings, WrittenDirectory)> {
    let mut section = at.section(DIRECTORY)?;
    let [google_at, entra_at, ldap_at, file_at] = ["google", "entra", "ldap", "file"].map(|key| section.take(key));
    let [refresh_at, keep_at] = ["refresh", "keep"].map(|key| section.take(key));
    let absent = section
        .take("no_such_user")
        .map_or(Some(Absent::default()), |at| choice(&at, "an answer to people it does not know", Absent::NAMES));
    section.finish();

    // A misspelt key is one mistake, not two.
    let is_known = |key: &str| ["refresh", "keep", "no_such_user"].contains(&key);
    let is_misspelt = matches!(at.kind(), Kind::Map(entries) if entries.iter().any(|entry| !is_known(&entry.key)));
    match [&google_at, &entra_at, &ldap_at, &file_at].into_iter().flatten().count() {
        1 => {}
        0 if is_misspelt => {}
        0 => at.refuse("this does not say what it is", DIRECTORY),
        _ => at.refuse("this is more than one directory", DIRECTORY),
    }
    let written = |secret| WrittenDirectory { secret, ca_file: None };
    let (kind, written) = match (google_at, entra_at, ldap_at, file_at) {
        (Some(at), ..) => google(&at, folder).map(|(kind, secret)| (kind, written(secret)))?,
        (_, Some(at), ..) => entra(&at, folder).map(|(kind, secret)| (kind, written(secret)))?,
        (_, _, Some(at), _) => {
            let (settings, written) = ldap::read(&at, folder)?;
            (DirectoryKind::Ldap(Box::new(settings)), written)
        }
        (_, _, _, Some(at)) => {
            for (at, key) in [(&refresh_at, "refresh"), (&keep_at, "keep")] {
                if let Some(at) = at {
                    at.refuse(
                        format!("`{key}` says nothing about a file"),
                        "nothing here: it is looked at each second, and the last that could be read counts",
                    );
                }
            }
            (DirectoryKind::File(file(&at, folder)?), WrittenDirectory::default())
        }
        (None, None, None, None) => return None,
    };
    let between = |at: &Option<At<'_>>, otherwise: Duration, min_s: u64, max_s: u64| match at {
        None => Some(otherwise),
        Some(at) => at.duration(Duration::from_secs(min_s), Duration::from_secs(max_s)),
    };
    let refresh = between(&refresh_at, REFRESH, 10, 86_400);
    let keep = between(&keep_at, KEEP, 10, 7 * 86_400);
    let (refresh, keep) = (refresh?, keep?);
    if keep < refresh {
        // Who is asked about every hour and kept for a minute would be unknown most of the time.
        keep_at.as_ref().or(refresh_at.as_ref()).unwrap_or(at).refuse(
            "`keep` is shorter than `refresh`, so groups would be given up before they are asked for again",
            "at least as long",
        );
    }
    Some((DirectorySettings { name: name.into(), kind, refresh, keep, absent: absent? }, written))
}

/// Reads `basic:`, the directory that names and passwords are tried against.
pub(super) fn basic(
    at: &At<'_>,
    names: &[String],
    checked: &[(DirectorySettings, WrittenDirectory)],
) -> Option<Arc<str>> {
    let mut section = at.section("a map: `basic: { directory: people }`")?;
    let directory_at = section.need("directory", "people");
    section.finish();
    let at = directory_at?;
    let name = at.text("the name of a directory")?;
    if !names.iter().any(|known| known == name) {
        at.refuse_name(name, "a directory", names.iter().map(String::as_str));
        return None;
    }
    // One with a mistake of its own has been told about.
    let (directory, _) = checked.iter().find(|(directory, _)| *directory.name == *name)?;
    if !matches!(directory.kind, DirectoryKind::Ldap(_)) {
        at.refuse(format!("{} cannot be asked about a password", quote(name)), "a directory with `ldap:`");
        return None;
    }
    Some(Arc::clone(&directory.name))
}

fn google(at: &At<'_>, folder: &Path) -> Option<(DirectoryKind, Option<SecretSource>)> {
    let mut section = at.section("a map with `service_account:` and `admin:`")?;
    let key_at = section.need("service_account", "file:service-account.json");
    let admin_at = section.need("admin", "admin@acme.example");
    let nested = section.take("nested").map_or(Some(true), |at| at.boolean());
    let (endpoint_at, insecure) = (section.take("endpoint"), insecure(&mut section));
    section.finish();

    let endpoint = endpoint(endpoint_at.as_ref(), GOOGLE_ENDPOINT, insecure);
    let admin = admin_at.and_then(|at| {
        let admin = at.text(ADMIN)?;
        if !admin.contains('@') {
            at.refuse(format!("{} is not an address", quote(admin)), ADMIN);
        }
        Some(admin.to_owned())
    });
    let key_at = key_at?;
    let (place, secret) = secrets::read(&key_at, folder)?;
    let key = match AccountKey::parse(&secret, insecure?) {
        Ok(key) => key,
        Err(error) => {
            key_at.refuse(format!("this is not the key of a service account: {error}"), ACCOUNT_KEY);
            return None;
        }
    };
    let settings = GoogleSettings {
        key,
        admin: admin?,
        nested: nested?,
        endpoint: endpoint?,
        outbound: OutboundSettings { insecure: insecure?, ..OutboundSettings::default() },
    };
    Some((DirectoryKind::Google(Box::new(settings)), Some(place)))
}

fn entra(at: &At<'_>, folder: &Path) -> Option<(DirectoryKind, Option<SecretSource>)> {
    let mut section = at.section("a map with `tenant:`, `client_id:` and `client_secret:`")?;
    let tenant_at = section.need("tenant", "acme.onmicrosoft.com");
    let client_at = section.need("client_id", "11111111-2222-3333-4444-555555555555");
    let secret_at = section.need("client_secret", "file:entra.secret");
    let (endpoint_at, login_at) = (section.take("endpoint"), section.take("login"));
    let insecure = insecure(&mut section);
    section.finish();

    let graph = endpoint(endpoint_at.as_ref(), GRAPH_ENDPOINT, insecure);
    let login = endpoint(login_at.as_ref(), LOGIN_ENDPOINT, insecure);
    let tenant = tenant_at.and_then(|at| {
        let tenant = at.text(TENANT)?;
        let is_one = tenant.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
            && !["common", "organizations", "consumers"].contains(&tenant)
            && !tenant.starts_with('.');
        if !is_one {
            at.refuse(format!("{} is not one tenant", quote(tenant)), TENANT);
        }
        Some(tenant.to_owned())
    });
    let client_id = client_at.and_then(|at| at.text("the application's id").map(str::to_owned));
    let (place, client_secret) = secrets::read(&secret_at?, folder)?;
    let settings = EntraSettings {
        tenant: tenant?,
        client_id: client_id?,
        client_secret,
        endpoint: graph?,
        login: login?,
        outbound: OutboundSettings { insecure: insecure?, ..OutboundSettings::default() },
    };
    Some((DirectoryKind::Entra(Box::new(settings)), Some(place)))
}

fn file(at: &At<'_>, folder: &Path) -> Option<PathBuf> {
    let path = folder.join(at.text(FILE)?);
    match directory::check_file(&path) {
        Ok(0) => at.warn(format!("nobody is in {}", path.display())),
        Ok(_) => {}
        Err(error) => {
            at.refuse(format!("{} is of no use: {}", path.display(), secrets::chain(&error)), FILE);
            return None;
        }
    }
    Some(path)
}

fn insecure(section: &mut Section<'_>) -> Option<bool> {
    section.take("insecure").map_or(Some(false), |at| at.boolean())
}

/// Where an API is: what comes after the origin is put before its own paths.
fn endpoint(at: Option<&At<'_>>, otherwise: &str, insecure: Option<bool>) -> Option<Url> {
    let Some(at) = at else { return Url::parse(otherwise).ok() };
    let text = at.text(ENDPOINT)?;
    let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    else {
        at.refuse(format!("{} is not a URL", quote(text)), ENDPOINT);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        at.refuse_unshown("a user name or password inside the URL", ENDPOINT);
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        at.refuse(format!("{} has a query or a fragment", quote(text)), ENDPOINT);
        return None;
    }
    if url.scheme() == "http" && insecure == Some(false) {
        at.refuse(
            format!("{} is not encrypted, and is shown our access token", quote(text)),
            "`https://…`, or `insecure: true` beside it for a test on loopback",
        );
        return None;
    }
    Some(url)
}

const ACCOUNT_KEY: &str = "the JSON file that Google's console gives out for a service account";
const ADMIN: &str = "the address of an administrator who may read groups, in whose name the account asks";
const DIRECTORY: &str = "a map with exactly one of `google:`, `entra:`, `ldap:` and `file:`";
const ENDPOINT: &str = "the URL of the API, such as `https://graph.microsoft.com`";
const FILE: &str = "the path of a map of people to lists of groups in YAML or JSON, relative to the config's directory";
const TENANT: &str = "the GUID of a tenant, or a domain of it";

const GOOGLE_ENDPOINT: &str = "https://admin.googleapis.com/";
const GRAPH_ENDPOINT: &str = "https://graph.microsoft.com/";
const LOGIN_ENDPOINT: &str = "https://login.microsoftonline.com/";

/// How long somebody who was taken out of a group keeps what it gives, while all works.
const REFRESH: Duration = Duration::from_secs(300);

/// How long an outage of the directory goes unnoticed.
const KEEP: Duration = Duration::from_secs(3600);
