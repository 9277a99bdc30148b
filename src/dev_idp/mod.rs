//! `tollgate dev-idp`: a small OpenID provider, so that demos and tests of Tollgate need no other program.
//!
//! It signs whatever it is asked to sign: its passwords are the users' names, any client is taken, `/mint` gives a
//! token to whoever asks. That is its use, and the reason why it refuses to listen beyond loopback. Nothing of it is on the
//! agent's path, and the agent trusts it only where a config names its issuer with `insecure: true`.
//!
//! What it speaks: OpenID Connect Core 1.0 (authorization code flow with PKCE, RFC 7636), Discovery 1.0, RFC 6749 token
//! endpoint, RFC 9068 access tokens, RFC 9207 issuer in the authorization response. It sets no cookie and remembers no
//! browser: each sign-in asks for the password, and cookies of an application on the same host are left alone.
//!
//! In reading order: [`bind`] and [`DevIdp::serve`] here; `users` who may sign in; `keys` what signs; `claims` what a
//! token says; `authorize` and `token` the two halves of a sign-in; `discovery` what is published; `mint` the
//! conveniences; `expiring` the bounded memory; `page` the HTML.

mod authorize;
mod claims;
mod discovery;
mod expiring;
mod keys;
mod mint;
mod page;
#[cfg(test)]
mod tests;
mod token;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::clock::Clock;

use authorize::{Code, LoginRequest};
use expiring::Expiring;
use keys::Keys;
use token::Grant;
use users::Users;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; a loopback address. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The `iss` of every token, byte for byte (a trailing slash counts, a path moves the endpoints under it). Left
    /// out, it is `http://` and the address that was bound.
    pub issuer: Option<String>,
    /// A YAML file of users in place of alice, bob and carol.
    pub users: Option<PathBuf>,
}

/// Listens and serves until `stop`. See [`bind`] for the errors.
pub async fn serve(options: Options, clock: Clock, stop: CancellationToken) -> Result<(), DevIdpError> {
    bind(options, clock).await?.serve(stop).await
}

/// Reads the users, makes the keys (in memory only) and listens, without answering yet: the address and the issuer are
/// known when this returns.
///
/// # Errors
///
/// [`DevIdpError::NotLoopback`] before anything else; then an unusable issuer, users file, key or address.
pub async fn bind(options: Options, clock: Clock) -> Result<DevIdp, DevIdpError> {
    let Options { listen, issuer, users } = options;
    if !listen.ip().is_loopback() {
        return Err(DevIdpError::NotLoopback { listen });
    }
    // RSA keys take a tenth of a second of computing: off the runtime's threads, like the file.
    let made = tokio::task::spawn_blocking(move || {
        let users = users.map_or_else(|| Ok(Users::demo()), Users::from_file)?;
        Ok((users, Keys::generate().map_err(|_| DevIdpError::Keys)?))
    });
    let (users, keys) = made.await.unwrap_or(Err(DevIdpError::Keys))?;

    let listener = TcpListener::bind(listen).await.map_err(|source| DevIdpError::Listen { listen, source })?;
    let address = listener.local_addr().map_err(|source| DevIdpError::Listen { listen, source })?;
    let issuer = issuer.unwrap_or_else(|| format!("http://{address}"));
    let path = issuer_path(&issuer)?;
    let provider = Arc::new(Provider {
        base: issuer.trim_end_matches('/').to_owned(),
        issuer,
        users,
        keys,
        clock,
        logins: Mutex::new(Expiring::new(HELD_MAX, LOGIN_AGE_MAX)),
        codes: Mutex::new(Expiring::new(HELD_MAX, CODE_AGE_MAX)),
        refreshes: Mutex::new(Expiring::new(HELD_MAX, REFRESH_AGE_MAX)),
    });
    Ok(DevIdp { listener, address, provider, path })
}

/// A provider that listens. Dropping it closes the socket and forgets its keys.
pub struct DevIdp {
    listener: TcpListener,
    address: SocketAddr,
    provider: Arc<Provider>,
    path: String,
}

impl DevIdp {
    /// The address that was bound, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.provider.issuer
    }

    /// Answers until `stop`, then lets the requests in flight end, for two seconds at most.
    ///
    /// # Errors
    ///
    /// [`DevIdpError::Serve`] if the socket fails.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), DevIdpError> {
        tracing::info!(issuer = %self.provider.issuer, listen = %self.address, "dev-idp: for demos and tests only");
        for user in self.provider.users.all() {
            tracing::info!(user = %user.name, groups = ?user.groups, "dev-idp user");
        }
        let router = routes(self.provider);
        // axum nests under a path, but has "/" for no nesting at all.
        let router = if self.path.is_empty() { router } else { Router::new().nest(&self.path, router) };
        let cut_off = {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                tokio::time::sleep(GRACE).await;
            }
        };
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned());
        tokio::select! {
            ended = serving.into_future() => ended.map_err(|source| DevIdpError::Serve { source }),
            () = cut_off => Ok(()),
        }
    }
}

/// Why the provider cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DevIdpError {
    /// Asked to listen where others could reach it.
    #[error(
        "dev-idp gives tokens to whoever asks, so it listens on loopback only: {listen} is not, 127.0.0.1:{port} is",
        port = listen.port()
    )]
    NotLoopback {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// The issuer cannot be one.
    #[error("the issuer {issuer} cannot be used: {expected}")]
    Issuer {
        /// As given.
        issuer: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The users file is missing, not readable or too large.
    #[error("cannot read the users file {}", path.display())]
    UsersUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The users file is not YAML, or not of this shape.
    #[error("the users file {} is not a list of users", path.display())]
    UsersMalformed {
        /// The file.
        path: PathBuf,
        /// Where and why, from the YAML reader.
        source: Box<serde_saphyr::Error>,
    },
    /// The users file reads well and says something impossible.
    #[error("the users file {} cannot be used: {what}", path.display())]
    UsersUnusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// No key pair could be made.
    #[error("cannot make signing keys: the cryptographic library refused")]
    Keys,
    /// The address is taken or not ours.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The listening socket failed while serving.
    #[error("dev-idp stopped serving")]
    Serve {
        /// What the system said.
        source: std::io::Error,
    },
}

/// What every endpoint sees.
struct Provider {
    issuer: String,
    /// The issuer without its trailing slashes: what endpoint paths are appended to.
    base: String,
    users: Users,
    keys: Keys,
    clock: Clock,
    /// Sign-ins whose password page is open, by the id in its form.
    logins: Mutex<Expiring<LoginRequest>>,
    codes: Mutex<Expiring<Code>>,
    refreshes: Mutex<Expiring<Grant>>,
}

fn routes(provider: Arc<Provider>) -> Router {
    Router::new()
        .route("/", get(page::front))
        .route("/.well-known/openid-configuration", get(discovery::configuration))
        .route("/jwks", get(discovery::jwks))
        .route("/userinfo", get(discovery::userinfo).post(discovery::userinfo))
        // OpenID Connect Core 3.1.2.1: both methods MUST be supported.
        .route("/authorize", get(authorize::authorize).post(authorize::authorize))
        .route("/login", post(authorize::login))
        .route("/end_session", get(authorize::end_session).post(authorize::end_session))
        .route("/token", post(token::token))
        .route("/mint", get(mint::mint))
        .route("/rotate", post(mint::rotate))
        .route("/livez", get(async || "ok\n"))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(provider)
}

/// The path that the endpoints live under: empty, or `/a/b` without a trailing slash.
fn issuer_path(issuer: &str) -> Result<String, DevIdpError> {
    let refuse = |expected| DevIdpError::Issuer { issuer: issuer.to_owned(), expected };
    let url = Url::parse(issuer).map_err(|_| refuse("expected an http:// or https:// URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("expected an http:// or https:// URL"));
    }
    // OpenID Connect Discovery 1.0, section 3: no query or fragment.
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("expected no query and no fragment"));
    }
    let path = url.path().trim_end_matches('/');
    // The router reads braces as captures, and an empty segment would be a route that no client asks for.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '.' | '_' | '~');
    if !path.chars().all(plain) || path.contains("//") {
        return Err(refuse("expected a path of letters, digits and -._~"));
    }
    Ok(path.to_owned())
}

/// 256 unguessable bits in base64url, for codes, refresh tokens and form ids.
fn random_id() -> Result<String, Unspecified> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A form, or the query of a request whose values are kept: ten times what a real authorization request needs.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Entries of each kind held at once, the oldest dropped for a new one. An entry holds parts of one request, the
/// redirect URI twice, so the three kinds together stay under 3 × 1,024 × 16 KiB = 48 MiB, and under 3 MiB with real requests.
const HELD_MAX: usize = 1024;

/// A password page left open longer than this has to be asked for again.
const LOGIN_AGE_MAX: Duration = Duration::from_secs(600);

/// RFC 6749, section 4.1.2: a code should live ten minutes at most; a client redeems it at once.
const CODE_AGE_MAX: Duration = Duration::from_secs(60);

/// A working day.
const REFRESH_AGE_MAX: Duration = Duration::from_secs(8 * 3600);

/// How long requests in flight may hold up the end.
const GRACE: Duration = Duration::from_secs(2);
