//! What an OpenID provider publishes: its discovery document and, through it, its key set.

use openidconnect::core::CoreProviderMetadata;
use serde_json::Value;
use url::Url;

use super::json;
use super::keys::{self, KeySetError};
use super::outbound::{Ask, Client, FetchError, Fetched, host_of};

/// Reads the discovery document (OpenID Connect Discovery 1.0, section 4) of the issuer at `issuer_url` and gives its
/// `jwks_uri`. `issuer` is what the document must call itself, byte for byte (section 4.3).
pub(crate) async fn discover(client: &Client, issuer_url: &Url, issuer: &str) -> Result<Url, ProviderError> {
    let mut url = issuer_url.clone();
    // Section 4.1: a terminating slash of the issuer is removed first.
    url.set_path(&format!("{}/.well-known/openid-configuration", issuer_url.path().trim_end_matches('/')));
    let host = host_of(&url);
    let document = fetch(client, url).await?;
    let unreadable = |source| ProviderError::Discovery { host: host.clone(), source };
    let document = json::object(&document.body).map_err(unreadable)?;
    let document: CoreProviderMetadata = serde_json::from_value(Value::Object(document)).map_err(unreadable)?;
    if document.issuer().as_str() != issuer {
        let found = document.issuer().as_str().chars().take(200).collect();
        return Err(ProviderError::IssuerMismatch { host, expected: issuer.to_owned(), found });
    }
    // Another host than the issuer's is fine (Google's keys are on googleapis.com): whoever can write the document for
    // this issuer over TLS could as well write the keys. The client checks that the URL is one that we may ask.
    Ok(document.jwks_uri().url().clone())
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
    /// How long the provider asked us to stay away.
    pub(crate) fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            ProviderError::Fetch(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Where an issuer can be asked about its tokens and their owners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    /// `introspection_endpoint` (RFC 8414, section 2).
    pub(crate) introspection: Option<Url>,
    /// `userinfo_endpoint` (OpenID Connect Discovery 1.0, section 3).
    pub(crate) userinfo: Option<Url>,
}

/// Reads the issuer's discovery document for [`Endpoints`]; as strict about whose it is as [`discover`].
pub(crate) async fn endpoints(client: &Client, issuer_url: &Url, issuer: &str) -> Result<Endpoints, ProviderError> {
    let mut url = issuer_url.clone();
    url.set_path(&format!("{}/.well-known/openid-configuration", issuer_url.path().trim_end_matches('/')));
    let host = host_of(&url);
    let fetched = fetch(client, url).await?;
    let unreadable = |source| ProviderError::Discovery { host: host.clone(), source };
    let document = json::object(&fetched.body).map_err(unreadable)?;
    let text = |name: &str| match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(unreadable(serde::de::Error::custom(format!("{name} is not a string")))),
    };
    let found = text("issuer")?.unwrap_or_default();
    if found != issuer {
        let found = found.chars().take(200).collect();
        return Err(ProviderError::IssuerMismatch { host: host.clone(), expected: issuer.to_owned(), found });
    }
    let url = |name: &str| match text(name)? {
        None => Ok(None),
        Some(text) => match Url::parse(text) {
            Ok(url) => Ok(Some(url)),
            Err(_) => Err(unreadable(serde::de::Error::custom(format!("{name} is not a URL")))),
        },
    };
    Ok(Endpoints { introspection: url("introspection_endpoint")?, userinfo: url("userinfo_endpoint")? })
}
