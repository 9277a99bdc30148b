//! One connection: found, opened, protected and greeted.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, ProtocolVersion, RedisConnectionInfo, RedisError};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::settings::{Login, Node, Place, RedisSettings, TlsFiles};
use super::{CONNECT_TIMEOUT, StoreError, told};

/// What carries a connection's bytes, while it is polled; it ends with the connection.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How connections are opened: everything that does not depend on which server it is.
pub(super) struct Dial {
    settings: RedisSettings,
    /// What is known of users and passwords now. Read again after one was refused.
    known: Mutex<Known>,
    tls: bool,
    db: u16,
    /// What one attempt may take, from its first packet to the greeting's answer.
    connect_timeout: Duration,
    /// A server of ours did not know RESP3. All others are asked in RESP2 from then on, and none of it is lost: nothing
    /// here needs more.
    resp2: AtomicBool,
}

#[derive(Clone, PartialEq, Eq)]
struct Known {
    servers: Login,
    sentinels: Login,
}

/// Where one connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Node(Node),
    Unix(std::path::PathBuf),
}

/// Whose users are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Sentinel,
}

impl Dial {
    /// Reads the place that the settings name, too.
    pub(super) fn new(settings: &RedisSettings) -> Result<(Dial, Place), StoreError> {
        let place = Place::read(settings.url.expose()).map_err(|reason| super::settings::wrong(settings, reason))?;
        if place.tls {
            // A file that is no certificate is a mistake to be told now. One that goes wrong later fails a connection.
            client_config(&settings.tls).map_err(|error| super::settings::wrong(settings, &error.to_string()))?;
        }
        let dial = Dial {
            known: Mutex::new(Known { servers: login(settings, &place), sentinels: settings.sentinel_login.clone() }),
            tls: place.tls,
            db: place.db,
            connect_timeout: CONNECT_TIMEOUT.max(settings.timeout.saturating_mul(4)),
            settings: settings.clone(),
            resp2: AtomicBool::new(false),
        };
        Ok((dial, place))
    }

    /// A connection for many questions at a time, and what must be polled for it to live.
    pub(super) async fn open(
        &self,
        target: &Target,
        role: Role,
    ) -> Result<(MultiplexedConnection, Driver), StoreError> {
        self.greet(target, role, |stream, info| async move {
            let config = AsyncConnectionConfig::new()
                // Each call has its own, shorter, timeout; this one ends what nobody waits for any more.
                .set_response_timeout(Some(Duration::from_secs(1)))
                // A call that finds the queue full waits, and its timeout runs: at 10 ms a call and 20 µs each, 500 are
                // ever useful; four times that is room for a burst.
                .set_pipeline_buffer_size(2048)
                .set_concurrency_limit(2048);
            let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
            Ok((connection, Box::pin(driver) as Driver))
        })
        .await
    }

    /// Asks one question on a connection of its own.
    pub(super) async fn ask_once<T: FromRedisValue>(
        &self,
        target: &Target,
        role: Role,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        let (mut connection, driver) = self.open(target, role).await?;
        let answered = tokio::time::timeout(self.connect_timeout, command.query_async::<T>(&mut connection));
        tokio::select! {
            biased;
            answered = answered => match answered {
                Ok(answered) => answered.map_err(|error| told(&error)),
                Err(_) => Err(StoreError::timeout(self.connect_timeout)),
            },
            () = driver => Err(StoreError::Unreachable { reason: format!("{target} closed the connection") }),
        }
    }

    /// A connection that listens.
    pub(super) async fn open_pubsub(&self, target: &Target) -> Result<PubSub, StoreError> {
        self.greet(target, Role::Server, |stream, info| async move { PubSub::new(&info, stream).await }).await
    }

    async fn greet<T, F>(
        &self,
        target: &Target,
        role: Role,
        greet: impl Fn(Box<dyn Stream>, RedisConnectionInfo) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        // The list is asked for again each time: a name that moved is how some failovers are told.
        let addresses = match target {
            Target::Node(node) => resolve(node).await?,
            Target::Unix(_) => vec![None],
        };
        let mut failure = StoreError::Unreachable { reason: format!("{target} has no address") };
        for address in addresses {
            // Once more where the answer is that RESP3 is not spoken, or that the password is another by now; the
            // connection is of no use then.
            for _ in 0..3 {
                let resp2 = self.resp2.load(Ordering::Relaxed);
                let attempt = async {
                    let stream = self.stream(target, address).await?;
                    greet(stream, self.info(role, resp2)).await.map_err(Refusal::Greeting)
                };
                failure = match tokio::time::timeout(self.connect_timeout, attempt).await {
                    Ok(Ok(greeted)) => return Ok(greeted),
                    Ok(Err(Refusal::Greeting(error))) if !resp2 && knows_no_resp3(&error) => {
                        self.resp2.store(true, Ordering::Relaxed);
                        continue;
                    }
                    Ok(Err(Refusal::Greeting(error))) => {
                        let error = told(&error);
                        if error.is_of_password() && self.read_again() {
                            failure = error;
                            continue;
                        }
                        error
                    }
                    Ok(Err(Refusal::Way(reason))) => StoreError::Unreachable { reason: format!("{target}: {reason}") },
                    Err(_) => {
                        let timeout_ms = self.connect_timeout.as_millis();
                        let reason = format!("{target} is not connected to within {timeout_ms} ms");
                        StoreError::Unreachable { reason }
                    }
                };
                break;
            }
        }
        Err(failure)
    }

    async fn stream(&self, target: &Target, address: Option<std::net::SocketAddr>) -> Result<Box<dyn Stream>, Refusal> {
        let (node, tcp) = match (target, address) {
            (Target::Unix(path), _) => {
                let socket = UnixStream::connect(path).await.map_err(|error| Refusal::Way(error.to_string()))?;
                return Ok(Box::new(Bounded::new(socket)));
            }
            (Target::Node(node), Some(address)) => {
                let tcp = TcpStream::connect(address).await.map_err(|error| Refusal::Way(error.to_string()))?;
                // Without it Nagle's algorithm and delayed acknowledgements add up to 40 ms.
                tcp.set_nodelay(true).map_err(|error| Refusal::Way(error.to_string()))?;
                (node, tcp)
            }
            (Target::Node(_), None) => return Err(Refusal::Way("it has no address".to_owned())),
        };
        if !self.tls {
            return Ok(Box::new(Bounded::new(tcp)));
        }
        let config = client_config(&self.settings.tls).map_err(|error| Refusal::Way(error.to_string()))?;
        let name = ServerName::try_from(node.host.clone())
            .map_err(|_| Refusal::Way("the host is not one that a certificate can be for".to_owned()))?;
        let stream = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|error| Refusal::Way(format!("TLS: {error}")))?;
        Ok(Box::new(Bounded::new(stream)))
    }

    fn info(&self, role: Role, resp2: bool) -> RedisConnectionInfo {
        let known = self.known.lock();
        let login = match role {
            Role::Server => &known.servers,
            Role::Sentinel => &known.sentinels,
        };
        let protocol = if resp2 { ProtocolVersion::RESP2 } else { ProtocolVersion::RESP3 };
        // What `CLIENT SETINFO` would tell is not worth a right more in the ACL.
        let mut info = RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
        if role == Role::Server {
            info = info.set_db(i64::from(self.db));
        }
        if let Some(username) = &login.username {
            info = info.set_username(username);
        }
        if let Some(password) = &login.password {
            info = info.set_password(password.expose());
        }
        info
    }

    /// Reads the passwords again: one that was refused may have been replaced. Says whether it has been. At most as often
    /// as is connected, so a small file may be read here.
    fn read_again(&self) -> bool {
        let mut known = self.known.lock();
        let before = known.clone();
        known.servers.read_again();
        known.sentinels.read_again();
        if let Some(secret) = self.settings.url_from.as_ref().and_then(|source| source.read().ok())
            && let Ok(place) = Place::read(secret.expose())
        {
            // Only who we are; that the servers are others is for a reload to say.
            known.servers = login(&self.settings, &place);
        }
        *known != before
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Node(node) => write!(f, "{node}"),
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What stands beside the URL is meant where both say something.
fn login(settings: &RedisSettings, place: &Place) -> Login {
    let beside = &settings.login;
    Login {
        username: beside.username.clone().or_else(|| place.username.clone()),
        password: beside.password.clone().or_else(|| place.password.clone()),
        password_from: beside.password_from.clone(),
    }
}

enum Refusal {
    Way(String),
    Greeting(RedisError),
}

/// Redis before 6 does not know HELLO, and a proxy may know it without RESP3. Users that may not greet cannot come here.
fn knows_no_resp3(error: &RedisError) -> bool {
    let text = || error.detail().unwrap_or_default().to_ascii_lowercase();
    error.kind() == ErrorKind::RESP3NotSupported
        || error.code() == Some("NOPROTO")
        || text().contains("unknown command")
}

async fn resolve(node: &Node) -> Result<Vec<Option<std::net::SocketAddr>>, StoreError> {
    let unknown = |why: String| StoreError::Unreachable { reason: format!("{node} has no address: {why}") };
    let lookup = tokio::net::lookup_host((node.host.as_str(), node.port));
    match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.map(Some).take(ADDRESSES_MAX).collect()),
        Ok(Err(error)) => Err(unknown(error.to_string())),
        Err(_) => Err(unknown("the name service does not answer".to_owned())),
    }
}

/// The client's side of TLS. The server's name is checked always; there is no way to say otherwise.
fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| TlsError::at(path, error))?;
            }
        }
        None => roots.clone_from(&SYSTEM_ROOTS),
    }
    if roots.is_empty() {
        return Err(TlsError("there is no authority whose certificates could be believed".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?
        .with_root_certificates(roots);
    let config = match &files.own {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let pem = read(key)?;
            let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| TlsError::at(key, error))?;
            config.with_client_auth_cert(chain, private).map_err(|error| TlsError::at(key, error))?
        }
    };
    Ok(Arc::new(config))
}

impl TlsFiles {
    /// Whether the files are there and are what they should be.
    pub fn check(&self) -> Result<(), TlsError> {
        client_config(self).map(drop)
    }
}

/// A file that is no certificate or no key. It says nothing of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl TlsError {
    fn at(path: &Path, error: impl std::fmt::Display) -> TlsError {
        TlsError(format!("{}: {error}", path.display()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = read.map_err(|error| TlsError::at(path, error))?;
    if certificates.is_empty() { Err(TlsError::at(path, "there is no certificate in it")) } else { Ok(certificates) }
}

fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, TlsError> {
    // A wrong path (a disk image, a device) must not fill memory.
    const BYTES_MAX: u64 = 4 * 1024 * 1024;
    let metadata = std::fs::metadata(path).map_err(|error| TlsError::at(path, error))?;
    if metadata.len() > BYTES_MAX {
        return Err(TlsError::at(path, "larger than certificates are"));
    }
    Ok(zeroize::Zeroizing::new(std::fs::read(path).map_err(|error| TlsError::at(path, error))?))
}

/// Loading them takes milliseconds, so once. One that cannot be read among a hundred is the system's own affair.
static SYSTEM_ROOTS: std::sync::LazyLock<RootCertStore> = std::sync::LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
});

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream on which not more than [`UNASKED_BYTES_MAX`] come between two questions. The library keeps all of a reply
/// until it is whole, and a broken server may call one as long as it likes.
struct Bounded<S> {
    inner: S,
    unasked: usize,
}

impl<S> Bounded<S> {
    fn new(inner: S) -> Bounded<S> {
        Bounded { inner, unasked: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.unasked = self.unasked.saturating_add(buffer.filled().len().saturating_sub(before));
        if self.unasked > UNASKED_BYTES_MAX {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "it sends more than was asked for")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.unasked = 0;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Of a name with more addresses the rest is not tried: each takes its time, and nobody serves a Redis on five.
const ADDRESSES_MAX: usize = 4;

/// Nobody's request waits for it.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest of our replies is a page of revocations, of 1 MiB or so. What is gathered may take twice its bytes.
const UNASKED_BYTES_MAX: usize = 8 * 1024 * 1024;
