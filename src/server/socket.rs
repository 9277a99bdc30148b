//! Sockets to HAProxy: TCP and unix, listening and connected, as one type each.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::settings::Listen;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, which is removed when this is dropped.
    Unix(UnixListener, Unlink),
}

/// Removes a socket file when it is dropped.
#[derive(Debug)]
pub struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // It may be gone already; there is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}")]
pub struct BindError {
    listen: Listen,
    source: io::Error,
}

impl Listener {
    /// Binds. Must be called inside a tokio runtime.
    pub fn bind(listen: &Listen) -> Result<Listener, BindError> {
        let bound = match listen {
            Listen::Tcp(address) => bind_tcp(*address).map(Listener::Tcp),
            Listen::Unix(path) => bind_unix(path).map(|listener| Listener::Unix(listener, Unlink(path.clone()))),
        };
        bound.map_err(|source| BindError { listen: listen.clone(), source })
    }

    /// The address in force; differs from the asked one where the port was 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// Waits for the next connection; gives the peer's address where it has one.
    pub async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Without it an ACK waits for the peer's delayed acknowledgement, up to 40 ms.
                stream.set_nodelay(true)?;
                // A machine that vanished says no goodbye; its connections must not keep their places.
                SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
                Ok((Socket::Tcp(stream), Some(peer)))
            }
            Listener::Unix(listener, _) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// A peer that answers nothing is gone after 60 s and 6 questions 10 s apart: two minutes.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    // At a reload HAProxy reopens all its connections at once.
    const BACKLOG: u32 = 4096;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for connections of the last run in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    // HAProxy gets in by the socket's group; nobody else does.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// A socket file that nobody listens on, left by a run that was killed.
fn is_stale(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Who is at the other end, as a log line says it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("a unix socket"),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Socket {
    /// Waits until it can be read or, where wanted, written.
    pub async fn ready(&self, read: bool, write: bool) -> io::Result<()> {
        let interest = match (read, write) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (false, true) => Interest::WRITABLE,
            (_, false) => Interest::READABLE,
        };
        match self {
            Socket::Tcp(stream) => stream.ready(interest).await.map(drop),
            Socket::Unix(stream) => stream.ready(interest).await.map(drop),
        }
    }

    /// Reads what is there into the spare room of `buffer`; 0 is the end, `None` is nothing now.
    pub fn try_read(&self, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
        nothing_now(match self {
            Socket::Tcp(stream) => stream.try_read_buf(buffer),
            Socket::Unix(stream) => stream.try_read_buf(buffer),
        })
    }

    /// Writes what the socket takes; `None` is nothing now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        nothing_now(match self {
            Socket::Tcp(stream) => stream.try_write(bytes),
            Socket::Unix(stream) => stream.try_write(bytes),
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn nothing_now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
