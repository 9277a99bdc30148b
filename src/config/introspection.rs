//! `introspection:` of an issuer: who we are to it, and what it is asked.

use std::path::Path;
use std::time::Duration;

use url::Url;

use super::issuers::choice;
use super::read::{At, quote};
use super::secrets;
use crate::identity::settings::{ClientAuth, IntrospectionSettings, Userinfo};
use crate::secret::SecretSource;

/// What the section needs to know of its issuer.
pub(super) struct Issuer<'a> {
    pub(super) url: Option<Url>,
    pub(super) insecure: bool,
    /// Whether it is to be asked for no document at all.
    pub(super) pinned: bool,
    pub(super) directory: &'a Path,
}

/// Reads the section. A secret's place goes beside it, for `check`.
pub(super) fn read(at: &At<'_>, issuer: Issuer<'_>) -> Option<(IntrospectionSettings, SecretSource)> {
    let mut section = at.section("a map with `client_id:` and `client_secret:`")?;
    let client_id = section.need("client_id", "tollgate").and_then(|at| at.text("the client id of this agent"));
    let secret = section.need("client_secret", "file:introspection.secret");
    let secret = secret.and_then(|at| secrets::read(&at, issuer.directory));
    let auth = match section.take("auth") {
        None => Some(ClientAuth::default()),
        Some(at) => choice(&at, "a way to send the secret", ClientAuth::NAMES),
    };
    let endpoint_at = section.take("endpoint");
    let endpoint = endpoint_at.as_ref().map(|at| url(at, ENDPOINT, issuer.insecure));
    let userinfo_at = section.take("userinfo");
    let userinfo = match &userinfo_at {
        None => Some(Userinfo::Off),
        Some(at) => match at.as_text() {
            Some(_) => url(at, USERINFO, issuer.insecure).map(Userinfo::At),
            None => at.boolean().map(|on| if on { Userinfo::Discovered } else { Userinfo::Off }),
        },
    };
    let age_max = match section.take("max_age") {
        None => Some(AGE_MAX),
        Some(at) => at.duration(Duration::from_secs(1), AGE_MAX),
    };
    let prefix = match section.take("prefix") {
        None => Some(String::new()),
        Some(at) => prefix(&at),
    };
    if issuer.pinned {
        if endpoint.is_none() {
            section.at().refuse(
                "with `jwks_file` no discovery document is fetched, so nothing says where tokens are introspected",
                "`endpoint:` with the URL",
            );
        }
        if let (Some(Userinfo::Discovered), Some(at)) = (&userinfo, &userinfo_at) {
            at.refuse("with `jwks_file` no discovery document is fetched", "the URL of the userinfo endpoint");
        }
    }
    section.finish();
    let (place, client_secret) = secret?;
    let settings = IntrospectionSettings {
        client_id: client_id?.to_owned(),
        client_secret,
        auth: auth?,
        issuer_url: issuer.url?,
        endpoint: match endpoint {
            None => None,
            Some(url) => Some(url?),
        },
        userinfo: userinfo?,
        age_max: age_max?,
        prefix: prefix?,
    };
    Some((settings, place))
}

/// Notes an issuer whose tokens cannot be told from those of another: a token would be shown to whoever is asked first.
pub(super) fn check_prefix(at: &At<'_>, prefix: &str, others: &[(String, String)]) {
    for (other, known) in others {
        if prefix.is_empty() && known.is_empty() {
            at.refuse(
                format!("neither this issuer nor `{other}` says how its tokens begin, and a token names no issuer"),
                "`introspection: { prefix: … }` at all of them but one",
            );
        } else if !prefix.is_empty() && !known.is_empty() && (prefix.starts_with(known) || known.starts_with(prefix)) {
            at.refuse(
                format!(
                    "tokens that begin with {} may be those of `{other}`, which begin with {}",
                    quote(prefix),
                    quote(known)
                ),
                "prefixes of which none is the beginning of another",
            );
        }
    }
}

fn url(at: &At<'_>, expected: &str, insecure: bool) -> Option<Url> {
    let text = at.text(expected)?;
    let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https")) else {
        at.refuse(format!("{} is not the URL of an endpoint", quote(text)), expected);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        at.refuse_unshown("a user name or password inside the URL", expected);
        return None;
    }
    if url.fragment().is_some() {
        at.refuse(format!("{} has a fragment, which no endpoint has", quote(text)), expected);
        return None;
    }
    if url.scheme() == "http" && !insecure {
        at.refuse(
            format!("{} is not encrypted, so anyone on the way could read tokens and say who they are", quote(text)),
            "`https://…`, or `insecure: true` at the issuer for one on loopback",
        );
        return None;
    }
    Some(url)
}

fn prefix(at: &At<'_>) -> Option<String> {
    let text = at.text(PREFIX)?;
    // RFC 6750, section 2.1: b64token.
    let good = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b));
    if !good {
        at.refuse(format!("no token begins with {}", quote(text)), PREFIX);
    }
    good.then(|| text.to_owned())
}

const ENDPOINT: &str = "the URL where tokens are introspected (RFC 7662)";
const PREFIX: &str = "what all opaque tokens of this issuer begin with: at most 64 letters, digits, `-._~+/`";
const USERINFO: &str = "`true`, `false`, or the URL of the userinfo endpoint";

/// What a token may outlive its revocation, at most and unless the config says less.
const AGE_MAX: Duration = Duration::from_secs(60);
