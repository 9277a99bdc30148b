//! Asking the admin side of a running agent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tollgate::config;
use tollgate::config::flags::AdminArgs;
use tollgate::secret::{Secret, SecretSource};
use tollgate::server::settings::Listen;

use super::{Failure, failed};

/// Where an agent's admin side is, and what it asks for.
pub(super) struct AdminSide {
    listen: Listen,
    token: Option<Secret>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("it does not answer in HTTP: {0}")]
    Http(#[source] hyper::Error),
    #[error("the answer ended early, or is longer than {} MiB", ANSWER_BYTES_MAX / 1024 / 1024)]
    Answer,
    #[error("it asks for its token: expected --token-file, or --config with `admin.token`")]
    Token,
    #[error("there is no such page: that agent is older than this program")]
    NoPage,
    #[error("the answer is {0}")]
    Status(StatusCode),
}

impl AdminSide {
    /// By the flags, and by the config where they leave it out.
    pub(super) fn of(flags: &AdminArgs) -> Result<AdminSide, Failure> {
        let given = flags.token_file.as_ref().map(|file| read_token(file.clone())).transpose()?;
        if let Some(listen) = &flags.admin {
            return Ok(AdminSide { listen: listen.clone(), token: given });
        }
        let Some(file) = &flags.config else {
            return Ok(AdminSide { listen: Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))), token: given });
        };
        let Some(admin) = config::load(file)?.admin else {
            return Err(Failure::WrongConfig(format!("{} has no `admin:`; expected --admin", file.display())));
        };
        Ok(AdminSide { listen: admin.listen, token: given.or(admin.token) })
    }

    /// As flags have it.
    pub(super) fn name(&self) -> String {
        self.listen.to_string()
    }

    /// Gets a page.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, AdminError> {
        let answer = async {
            match &self.listen {
                Listen::Tcp(address) => {
                    let stream = TcpStream::connect(reachable(*address)).await.map_err(AdminError::Connect)?;
                    self.ask(stream, path).await
                }
                Listen::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(AdminError::Connect)?;
                    self.ask(stream, path).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(AdminError::Late))
    }

    async fn ask<S>(&self, stream: S, path: &str) -> Result<Bytes, AdminError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(AdminError::Http)?;
        // It ends with the sender; what was wrong the answer says.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::get(path).header(header::HOST, "tollgate").header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(Body::empty()).map_err(|_| AdminError::Token)?;
        let response = sender.send_request(request).await.map_err(AdminError::Http)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(AdminError::Token),
            StatusCode::NOT_FOUND => return Err(AdminError::NoPage),
            other => return Err(AdminError::Status(other)),
        }
        to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await.map_err(|_| AdminError::Answer)
    }
}

fn read_token(file: PathBuf) -> Result<Secret, Failure> {
    SecretSource::File(file).read().map_err(failed)
}

/// Where an agent listens on every address, it is on loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// That of the shipped config.
const PORT: u16 = 9003;

/// The admin side answers within 5 s or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thousand rows of `/top` are some 200 KiB, and 1.3 MiB with the longest names that there can be.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
