//! The agent that is tried: an address on this machine, and nothing else. What is done to it here would be an attack on
//! anybody else's.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Where the agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    /// `HOST:PORT`, `tcp:HOST:PORT`, `unix:/PATH` or, as HAProxy writes it, `unix@/PATH`.
    fn from_str(text: &str) -> Result<Target, String> {
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.strip_prefix("unix@")) {
            return Ok(Target::Unix(PathBuf::from(path)));
        }
        let host_and_port = text.strip_prefix("tcp:").unwrap_or(text);
        let mut addresses =
            host_and_port.to_socket_addrs().map_err(|error| format!("expected HOST:PORT or unix:/PATH: {error}"))?;
        let address = addresses.next().ok_or("the name has no address")?;
        // Only an address of this machine can be bound.
        TcpListener::bind((address.ip(), 0))
            .map_err(|_| format!("{} is not an address of this machine", address.ip()))?;
        Ok(Target::Tcp(address))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Connects; over TCP each write leaves as its own segment.
    pub async fn connect(&self) -> io::Result<Stream> {
        match self {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Target::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }

    /// The same for a thread of its own; connecting, each read and each write take at most `timeout`.
    pub fn connect_blocking(&self, timeout: Duration) -> io::Result<Box<dyn ReadWrite>> {
        match self {
            Target::Tcp(address) => {
                let stream = std::net::TcpStream::connect_timeout(address, timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Box::new(stream))
            }
            Target::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_read_timeout(Some(timeout))?;
                // It bounds the wait for a place in a full backlog too (unix(7) blocks in connect).
                socket.set_write_timeout(Some(timeout))?;
                socket.connect(&SockAddr::unix(path)?)?;
                Ok(Box::new(std::os::unix::net::UnixStream::from(socket)))
            }
        }
    }
}

/// A connection that blocks.
pub trait ReadWrite: io::Read + io::Write + Send {}

impl<T: io::Read + io::Write + Send> ReadWrite for T {}

/// A connection to the agent.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_targets() {
        for (text, expected) in [
            ("127.0.0.1:9001", Ok("127.0.0.1:9001")),
            ("tcp:[::1]:9001", Ok("[::1]:9001")),
            ("unix@/run/tollgate/spop.sock", Ok("unix:/run/tollgate/spop.sock")),
            ("192.0.2.1:9001", Err("192.0.2.1 is not an address of this machine")),
        ] {
            let target = text.parse::<Target>().map(|target| target.to_string());
            assert_eq!(target.as_deref().map_err(String::as_str), expected, "{text}");
        }
        assert!("nonsense".parse::<Target>().is_err());
    }
}
