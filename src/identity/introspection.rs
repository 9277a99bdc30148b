//! Asking an issuer about a token (RFC 7662), and about the token's owner (OpenID Connect Core 1.0, section 5.3): what
//! is sent where, and what an answer must be. What an answer means is [`super::opaque`]'s to say.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::json;
use super::outbound::{Ask, Client, FetchError, Fetched, host_of};
use super::provider::{self, Endpoints, ProviderError};
use super::settings::{ClientAuth, IntrospectionSettings, OutboundSettings, Userinfo};

/// One issuer, as somebody to ask.
pub(crate) struct Authority {
    issuer: String,
    settings: IntrospectionSettings,
    outbound: OutboundSettings,
    /// Kept, so that a question costs no handshake. Made where blocking is allowed.
    client: OnceCell<Client>,
    /// As discovered; looked for again after a failure, since they may have moved.
    discovered: Mutex<Option<Endpoints>>,
}

/// What the userinfo endpoint gave.
#[derive(Debug)]
pub(crate) enum Owner {
    /// Claims about the token's owner.
    Claims(Map<String, Value>),
    /// It has nothing to say for this token: one without the scope `openid`, for instance.
    Untold,
}

impl Authority {
    pub(crate) fn new(issuer: &str, settings: &IntrospectionSettings, outbound: &OutboundSettings) -> Authority {
        Authority {
            issuer: issuer.to_owned(),
            settings: settings.clone(),
            outbound: outbound.clone(),
            client: OnceCell::new(),
            discovered: Mutex::new(None),
        }
    }

    /// Asks what the token is (RFC 7662, section 2.1). The answer is some JSON object.
    pub(crate) async fn introspect(&self, token: &str) -> Result<Map<String, Value>, AskError> {
        let client = self.client().await?;
        let url = match &self.settings.endpoint {
            Some(url) => url.clone(),
            None => self.own(self.discovered(client).await?.introspection, "introspection_endpoint")?,
        };
        let host = host_of(&url);
        let fetched = client.send(self.question(url, token)).await.map_err(|error| match error {
            // Section 2.3.
            FetchError::Status { host, status: status @ (401 | 403), .. } => AskError::Client { host, status },
            error => AskError::Fetch(error),
        })?;
        object(fetched, host)
    }

    /// Asks who the token's owner is, showing the token.
    pub(crate) async fn userinfo(&self, token: &str) -> Result<Owner, AskError> {
        let client = self.client().await?;
        let url = match &self.settings.userinfo {
            Userinfo::Off => return Ok(Owner::Untold),
            Userinfo::At(url) => url.clone(),
            Userinfo::Discovered => self.own(self.discovered(client).await?.userinfo, "userinfo_endpoint")?,
        };
        let host = host_of(&url);
        match client.send(Ask::get(url, BYTES_MAX).bearer(token)).await {
            Ok(fetched) => object(fetched, host).map(Owner::Claims),
            // OpenID Connect Core 1.0, section 5.3.3; RFC 6750, section 3.1.
            Err(FetchError::Status { status: 400 | 401 | 403, .. }) => Ok(Owner::Untold),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks for the endpoints ahead of the first token, and for them again after a failure.
    pub(crate) async fn prepare(&self) -> Result<(), AskError> {
        let client = self.client().await?;
        if self.settings.endpoint.is_none() || self.settings.userinfo == Userinfo::Discovered {
            self.discovered(client).await?;
        }
        Ok(())
    }

    /// After a failure.
    pub(crate) fn forget_endpoints(&self) {
        // Whoever holds it is looking for them right now.
        if let Ok(mut discovered) = self.discovered.try_lock() {
            *discovered = None;
        }
    }

    fn question(&self, url: Url, token: &str) -> Ask {
        let IntrospectionSettings { client_id, client_secret, auth, .. } = &self.settings;
        let about = [("token", token), ("token_type_hint", "access_token")];
        match auth {
            ClientAuth::Basic => Ask::form(url, &about, BYTES_MAX).basic(client_id, client_secret),
            ClientAuth::Post => {
                let who = [("client_id", client_id.as_str()), ("client_secret", client_secret.expose())];
                Ask::form(url, &[about, who].concat(), BYTES_MAX)
            }
        }
    }

    async fn client(&self) -> Result<&Client, AskError> {
        let make = || async {
            let outbound = self.outbound.clone();
            tokio::task::spawn_blocking(move || Client::new(&outbound)).await.map_err(|_| AskError::Broken)
        };
        self.client.get_or_try_init(|| async { Ok(make().await??) }).await
    }

    async fn discovered(&self, client: &Client) -> Result<Endpoints, AskError> {
        let mut discovered = self.discovered.lock().await;
        match &*discovered {
            Some(endpoints) => Ok(endpoints.clone()),
            None => {
                let found = provider::endpoints(client, &self.settings.issuer_url, &self.issuer).await?;
                Ok(discovered.insert(found).clone())
            }
        }
    }

    /// Of the issuer's own host. Our secret and other people's tokens go there, so a document that names another one
    /// (a tenant's branding, a proxy's host name) is not enough.
    fn own(&self, url: Option<Url>, name: &'static str) -> Result<Url, AskError> {
        let url = url.ok_or(AskError::NoEndpoint { name })?;
        if url.host() == self.settings.issuer_url.host() {
            return Ok(url);
        }
        Err(AskError::OtherHost { name, host: host_of(&url) })
    }
}

/// Reads an answer that says of itself that it is JSON.
fn object(fetched: Fetched, host: String) -> Result<Map<String, Value>, AskError> {
    let content_type = fetched.content_type.unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if SIGNED.into_iter().any(|signed| media_type.eq_ignore_ascii_case(signed)) {
        return Err(AskError::Signed { host });
    }
    if !media_type.eq_ignore_ascii_case("application/json") {
        let found = media_type.chars().take(100).collect();
        return Err(AskError::ContentType { host, found });
    }
    json::object(&fetched.body).map_err(|source| AskError::Garbage { host, source })
}

/// Why there is no answer. Says hosts, never a token or a secret.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum AskError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("{host} does not take our `client_id` and `client_secret` (status {status})")]
    Client { host: String, status: u16 },
    #[error("the discovery document has no `{name}`; the config can say where it is")]
    NoEndpoint { name: &'static str },
    #[error("the discovery document's `{name}` is on another host, {host}; if that is meant the config must say so")]
    OtherHost { name: &'static str, host: String },
    #[error("{host} answered with {found:?}, expected application/json")]
    ContentType { host: String, found: String },
    #[error("{host} gave a signed answer (RFC 9701), which this client must not be registered for")]
    Signed { host: String },
    #[error("{host} did not answer with a JSON object")]
    Garbage {
        host: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the attempt itself failed: this is a bug")]
    Broken,
}

impl AskError {
    /// How long we were asked to stay away; for the ordinary pause where 429 says no more than that.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            AskError::Fetch(FetchError::Status { status: 429, retry_after: None, .. }) => Some(Duration::ZERO),
            AskError::Fetch(error) => error.retry_after(),
            AskError::Provider(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether it says nothing about any other token: whoever can write a token that the provider, or what stands
    /// before it, stumbles over must not be able to keep everybody else's from being asked about. Its status is then
    /// that of a request that is malformed, too large or too long.
    pub(crate) fn is_about_one_token(&self) -> bool {
        matches!(self, AskError::Fetch(FetchError::Status { status: 400 | 413 | 414 | 422 | 431, .. }))
    }

    /// Whether the token may be the reason all the same: something before the provider refuses what looks like an attack,
    /// or the provider falls over it. Who could not be reached, or not be found, has not seen the token.
    pub(crate) fn is_suspect(&self) -> bool {
        match self {
            AskError::Fetch(FetchError::Status { .. } | FetchError::Redirect { .. } | FetchError::TooLarge { .. })
            | AskError::Client { status: 403, .. }
            | AskError::ContentType { .. }
            | AskError::Signed { .. }
            | AskError::Garbage { .. }
            | AskError::Late(_) => true,
            AskError::Fetch(_)
            | AskError::Provider(_)
            | AskError::Client { .. }
            | AskError::NoEndpoint { .. }
            | AskError::OtherHost { .. }
            | AskError::Broken => false,
        }
    }
}

/// RFC 9701, section 5; OpenID Connect Core 1.0, section 5.3.2.
const SIGNED: [&str; 2] = ["application/token-introspection+jwt", "application/jwt"];

/// A person in a thousand groups has some 50 KiB.
const BYTES_MAX: usize = 512 * 1024;
