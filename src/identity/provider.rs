//! What an OpenID provider publishes: its discovery document and, through it, its key set.

use openidconnect::JsonWebKeySetUrl;
use serde::Deserialize as _;
use serde_json::{Map, Value};
use url::Url;

use super::json;
use super::keys::{self, KeySetError};
use super::outbound::{self, Ask, Client, FetchError, Fetched, host_of};

/// An issuer as its provider is asked about it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What the discovery document must call itself, byte for byte (OpenID Connect Discovery 1.0, section 4.3).
    pub(crate) issuer: String,
    /// The same as a URL, to fetch from.
    pub(crate) issuer_url: Url,
    /// Where the key set may be, besides the issuer's own host.
    pub(crate) key_hosts: Vec<String>,
    /// Whether `http` and private addresses are allowed.
    pub(crate) insecure: bool,
}

impl Place {
    /// Whether keys may be fetched from there.
    ///
    /// Whoever can write the issuer's discovery document could as well write its keys, but for one case: a document
    /// that is made from parts (a tenant's own branding, a proxy's host name) and names a host nobody meant.
    pub(crate) fn allows(&self, jwks_uri: &Url) -> Result<(), ProviderError> {
        outbound::check_url(jwks_uri, self.insecure)?;
        let own = jwks_uri.host() == self.issuer_url.host();
        // A URL's host is in lower case already.
        let named = jwks_uri.host_str().is_some_and(|host| self.key_hosts.iter().any(|known| known == host));
        if own || named { Ok(()) } else { Err(ProviderError::KeyHost { host: host_of(jwks_uri) }) }
    }
}

/// Reads the discovery document (OpenID Connect Discovery 1.0, section 4) and gives its `jwks_uri`. Of what else section 3
/// requires nothing is looked at: an issuer that signs people in nowhere, such as a build service or a cluster for its
/// workloads, has no `authorization_endpoint`, and which algorithms are allowed is the config's to say.
pub(crate) async fn discover(client: &Client, place: &Place) -> Result<Url, ProviderError> {
    let Document { members, host } = document(client, &place.issuer_url, &place.issuer).await?;
    let unreadable = |source| ProviderError::Discovery { host, source };
    let named = members.get("jwks_uri").ok_or_else(|| serde::de::Error::custom("it has no jwks_uri"));
    let jwks_uri = named.and_then(JsonWebKeySetUrl::deserialize).map_err(unreadable)?;
    place.allows(jwks_uri.url())?;
    Ok(jwks_uri.url().clone())
}

/// Where an issuer can be asked about its tokens and their owners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    /// `introspection_endpoint` (RFC 8414, section 2).
    pub(crate) introspection: Option<Url>,
    /// `userinfo_endpoint` (OpenID Connect Discovery 1.0, section 3).
    pub(crate) userinfo: Option<Url>,
}

/// Reads the discovery document for [`Endpoints`]. It need not have anything else: an issuer without keys has none to
/// name.
pub(crate) async fn endpoints(client: &Client, issuer_url: &Url, issuer: &str) -> Result<Endpoints, ProviderError> {
    let Document { members, host } = document(client, issuer_url, issuer).await?;
    let endpoint = |name: &str| {
        let url = match members.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => Url::parse(text).ok(),
            Some(_) => None,
        };
        let wrong = || serde::de::Error::custom(format!("{name} is not a URL"));
        url.map(Some).ok_or_else(|| ProviderError::Discovery { host: host.clone(), source: wrong() })
    };
    Ok(Endpoints { introspection: endpoint("introspection_endpoint")?, userinfo: endpoint("userinfo_endpoint")? })
}

/// A discovery document that is the issuer's own.
struct Document {
    members: Map<String, Value>,
    host: String,
}

async fn document(client: &Client, issuer_url: &Url, issuer: &str) -> Result<Document, ProviderError> {
    let mut url = issuer_url.clone();
    // Section 4.1: a terminating slash of the issuer is removed first.
    url.set_path(&format!("{}/.well-known/openid-configuration", issuer_url.path().trim_end_matches('/')));
    let host = host_of(&url);
    let fetched = fetch(client, url).await?;
    let members = match json::object(&fetched.body) {
        Ok(members) => members,
        Err(source) => return Err(ProviderError::Discovery { host, source }),
    };
    let found = match members.get("issuer") {
        Some(Value::String(found)) => found,
        _ => {
            let source = serde::de::Error::custom("it names no issuer");
            return Err(ProviderError::Discovery { host, source });
        }
    };
    if found != issuer {
        let found = found.chars().take(200).collect();
        return Err(ProviderError::IssuerMismatch { host, expected: issuer.to_owned(), found });
    }
    Ok(Document { members, host })
}

/// GETs a document of at most 512 KiB.
pub(crate) async fn fetch(client: &Client, url: Url) -> Result<Fetched, FetchError> {
    client.send(Ask::get(url, keys::BYTES_MAX)).await
}

/// Why there are no new keys. Says hosts and issuers, never a URL with its query.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum ProviderError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{host} did not answer with a discovery document")]
    Discovery {
        host: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the discovery document of {host} is for issuer {found:?}, expected exactly {expected:?}")]
    IssuerMismatch { host: String, expected: String, found: String },
    #[error("the key set is said to be at {host}, which is neither the issuer's host nor in \"key_hosts\"")]
    KeyHost { host: String },
    #[error("{host} answered with a key set that is of no use")]
    Keys {
        host: String,
        #[source]
        source: KeySetError,
    },
    #[error("the attempt itself failed: this is a bug")]
    Broken,
}

impl ProviderError {
    /// Whether the provider published a key set in good order that has no usable key. Anything else that goes wrong says
    /// nothing about its keys.
    pub(crate) fn says_there_is_no_key(&self) -> bool {
        matches!(self, ProviderError::Keys { source: KeySetError::NoneUsable(_), .. })
    }

    /// How long the provider asked us to stay away.
    pub(crate) fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            ProviderError::Fetch(error) => error.retry_after(),
            _ => None,
        }
    }
}
