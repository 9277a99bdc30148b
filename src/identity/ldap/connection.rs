//! One connection to a directory: opened, protected, and asked one thing at a time.
//!
//! What a server sends is bounded before it is held, and a connection on which anything went wrong, or whose answer
//! nobody waited for, is not used again: the next answer on it could be the last question's.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ber::{self, NotBer};
use super::error::LdapError;
use super::message::{self, Entry, Operation, Outcome, Part};
use super::settings::{LdapSettings, Security, Server};

/// How connections are opened.
pub(super) struct Opener {
    servers: Vec<Server>,
    security: Security,
    tls: Option<TlsConnector>,
    connect_timeout: Duration,
    operation_timeout: Duration,
}

impl Opener {
    /// Loads certificates, which takes milliseconds: call it where blocking is allowed.
    pub(super) fn new(settings: &LdapSettings) -> Result<Opener, LdapError> {
        let tls = match settings.security {
            Security::Plain => None,
            Security::Tls | Security::StartTls => Some(tls(settings.ca.as_deref())?),
        };
        Ok(Opener {
            servers: settings.servers.clone(),
            security: settings.security,
            tls,
            connect_timeout: settings.connect_timeout,
            operation_timeout: settings.operation_timeout,
        })
    }

    /// Opens a connection to the first server that lets it, bound as nobody.
    pub(super) async fn open(&self) -> Result<Connection<'static>, LdapError> {
        let mut failure = LdapError::Unanswered;
        for server in &self.servers {
            let opened = tokio::time::timeout(self.connect_timeout, self.open_to(server));
            failure = match opened.await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => LdapError::Timeout {
                    server: server.to_string(),
                    operation: "connection",
                    timeout_ms: millis(self.connect_timeout),
                },
            };
        }
        Err(failure)
    }

    async fn open_to(&self, server: &Server) -> Result<Connection<'static>, LdapError> {
        let unreachable =
            |source: std::io::Error| LdapError::Unreachable { server: server.to_string(), source: Arc::new(source) };
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(unreachable)?;
        // A bind is one small write each way; Nagle's algorithm would hold the second back.
        tcp.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = &self.tls else {
            return Ok(Connection::new(Box::new(tcp), server, self.operation_timeout));
        };
        let tcp = match self.security {
            Security::StartTls => self.start_tls(tcp, server).await?,
            Security::Tls | Security::Plain => tcp,
        };
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| unreachable(std::io::Error::other("the host is not one that a certificate can be for")))?;
        let stream = tls.connect(name, tcp).await.map_err(unreachable)?;
        Ok(Connection::new(Box::new(stream), server, self.operation_timeout))
    }

    /// Asks for TLS. Nothing of what was read in clear is carried over: it could be anybody's.
    async fn start_tls(&self, mut tcp: TcpStream, server: &Server) -> Result<TcpStream, LdapError> {
        let operation = Operation::start_tls();
        let mut plain = Connection::new(Box::new(&mut tcp), server, self.operation_timeout);
        let Answer { outcome, .. } = plain.ask(&operation).await?;
        if outcome.code != 0 {
            let Outcome { code, message } = outcome;
            return Err(LdapError::StartTlsRefused { server: server.to_string(), code, message });
        }
        if !plain.received.is_empty() {
            return Err(plain.garbage(&operation, NotBer("more than the answer, before TLS began")));
        }
        drop(plain);
        Ok(tcp)
    }
}

/// The client's side of TLS, with these authorities in PEM or the system's.
fn tls(ca: Option<&[u8]>) -> Result<TlsConnector, LdapError> {
    let wrong = |what: String| LdapError::Authorities { what };
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("there is none".to_owned()));
            }
        }
        None => {
            // One that cannot be read among a hundred is the system's own affair; none at all is ours.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(wrong("the system has none".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection.
pub(super) struct Connection<'s> {
    stream: Box<dyn Stream + 's>,
    received: BytesMut,
    last_id: u32,
    sound: bool,
    server: String,
    timeout: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) entries: Vec<Entry>,
    pub(super) outcome: Outcome,
}

impl<'s> Connection<'s> {
    fn new(stream: Box<dyn Stream + 's>, server: &Server, timeout: Duration) -> Connection<'s> {
        let server = server.to_string();
        Connection { stream, received: BytesMut::new(), last_id: 0, sound: true, server, timeout }
    }

    /// Its server's address.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Whether the next answer can only be the next question's.
    pub(super) fn is_sound(&self) -> bool {
        self.sound
    }

    /// Whether nothing has come since the last answer: neither the connection's end nor a notice of it.
    pub(super) fn is_quiet(&mut self) -> bool {
        // Polled once, without waiting.
        self.received.is_empty() && self.stream.read_buf(&mut self.received).now_or_never().is_none()
    }

    /// Asks, and reads the whole answer, within the operation's timeout.
    pub(super) async fn exchange(&mut self, operation: &Operation) -> Result<Answer, LdapError> {
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.ask(operation)).await {
            Ok(answer) => answer,
            Err(_) => Err(LdapError::Timeout {
                server: self.server.clone(),
                operation: operation.name,
                timeout_ms: millis(timeout),
            }),
        }
    }

    async fn ask(&mut self, operation: &Operation) -> Result<Answer, LdapError> {
        // Sound again only when the whole answer has been read; a caller that goes away leaves it unsound.
        if !std::mem::take(&mut self.sound) {
            return Err(self.lost(operation));
        }
        // 2^31 questions are decades on one connection; an id is not 0, and may be used again when it was answered.
        self.last_id = if self.last_id >= ID_MAX { 1 } else { self.last_id + 1 };
        let request = operation.message(self.last_id);
        let written = async {
            self.stream.write_all(&request).await?;
            self.stream.flush().await
        };
        if written.await.is_err() {
            return Err(self.lost(operation));
        }
        let mut entries = Vec::new();
        let mut answer_bytes = 0_usize;
        loop {
            let message = self.message(operation).await?;
            answer_bytes += message.len();
            if answer_bytes > ANSWER_BYTES_MAX {
                return Err(self.garbage(operation, NotBer("an answer of more than 4 MiB")));
            }
            match operation.read(self.last_id, &message).map_err(|what| self.garbage(operation, what))? {
                Part::Entry(_) if entries.len() >= operation.entries_max => {
                    return Err(self.garbage(operation, NotBer("more entries than were asked for")));
                }
                Part::Entry(entry) => entries.push(entry),
                Part::Reference => {}
                Part::Unasked => return Err(self.lost(operation)),
                Part::Done(outcome) => {
                    self.sound = true;
                    return Ok(Answer { entries, outcome });
                }
            }
        }
    }

    /// The next whole message.
    async fn message(&mut self, operation: &Operation) -> Result<BytesMut, LdapError> {
        loop {
            // Said at once, so that a server of another protocol is not waited for.
            if self.received.first().is_some_and(|first| *first != ber::SEQUENCE) {
                return Err(self.garbage(operation, NotBer("not LDAP")));
            }
            if let Some(header) = ber::header(&self.received).map_err(|what| self.garbage(operation, what))? {
                let whole = header.header_bytes.saturating_add(header.content_bytes);
                if whole > MESSAGE_BYTES_MAX {
                    return Err(self.garbage(operation, NotBer("a message of more than 1 MiB")));
                }
                if self.received.len() >= whole {
                    return Ok(self.received.split_to(whole));
                }
            }
            // Room for what comes, not for what a length claims.
            self.received.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.received).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(self.lost(operation)),
            }
        }
    }

    /// Says goodbye without waiting for anything.
    pub(super) fn close(mut self) {
        if self.sound {
            let goodbye = message::unbind(self.last_id.saturating_add(1));
            let _ = self.stream.write_all(&goodbye).now_or_never();
            let _ = self.stream.flush().now_or_never();
        }
    }

    fn lost(&self, operation: &Operation) -> LdapError {
        LdapError::Lost { server: self.server.clone(), operation: operation.name }
    }

    fn garbage(&self, operation: &Operation, NotBer(what): NotBer) -> LdapError {
        LdapError::Garbage { server: self.server.clone(), operation: operation.name, what }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 4511, section 4.1.1.
const ID_MAX: u32 = i32::MAX as u32;

/// The largest entry asked for, a user with 1,000 DNs of 200 bytes in `memberOf`, is a fifth of it.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A thousand groups of 300 bytes are a tenth of it.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most answers are a few hundred bytes.
const READ_BYTES: usize = 4096;
