//! What the server is told by `config`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::secret::Secret;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `tcp:ADDRESS:PORT`.
    Tcp(SocketAddr),
    /// `unix:/PATH`.
    Unix(PathBuf),
}

impl Listen {
    /// Parses `tcp:ADDRESS:PORT` or `unix:/PATH` (absolute).
    pub fn parse(text: &str) -> Option<Listen> {
        if let Some(address) = text.strip_prefix("tcp:") {
            return address.parse().ok().map(Listen::Tcp);
        }
        text.strip_prefix("unix:").filter(|path| path.starts_with('/')).map(|path| Listen::Unix(PathBuf::from(path)))
    }

    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "tcp:{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The `spop:` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpopSettings {
    /// At least one.
    pub listen: Vec<Listen>,
    /// Peers that may connect to a TCP listener beyond loopback; loopback always may.
    pub allow_from: Vec<IpNet>,
    /// Every NOTIFY is answered within this. HAProxy's `timeout processing` must be longer.
    pub deadline: Duration,
    /// The largest frame that is accepted and announced, in bytes, without its length prefix.
    pub frame_bytes_max: u32,
    /// Connections at once; one more waits in the listen queue.
    pub connections_max: usize,
    /// NOTIFYs without an ACK on one connection; what comes after them is read when one is answered.
    pub in_flight_max: usize,
    /// ACK bytes that a peer has not taken; beyond, nothing more is read from it.
    pub unsent_bytes_max: usize,
    /// What all connections together may hold beyond [`SpopSettings::OWN_BYTES`] each; beyond, only a connection that
    /// holds no more than those is read from.
    pub buffered_bytes_max: usize,
    /// How long a peer may take to say HELLO.
    pub hello_timeout: Duration,
    /// How long a peer may take for the rest of a frame, or for the next fragment of a NOTIFY.
    pub frame_timeout: Duration,
    /// How long a peer may take no byte of its ACKs.
    pub write_timeout: Duration,
    /// How long a stop waits for the NOTIFYs in flight.
    pub drain_timeout: Duration,
}

impl SpopSettings {
    /// 40 ms: far above any decision, far below the shipped `timeout processing 250ms`, so that the agent's refusal
    /// and not HAProxy's timeout is what a caller sees.
    pub const DEADLINE: Duration = Duration::from_millis(40);

    /// 256 KiB: sixteen times HAProxy's default `tune.bufsize`, so that any sane peer's own size is echoed.
    pub const FRAME_BYTES_MAX: u32 = 256 * 1024;

    /// 10,000: five HAProxy processes of 1,000 streams, twice while they reload.
    pub const CONNECTIONS_MAX: usize = 10_000;

    /// 256: HAProxy keeps 20; its older engine can be told to keep more.
    pub const IN_FLIGHT_MAX: usize = crate::spop::Agent::IN_FLIGHT_MAX;

    /// 64 KiB: at 815 bytes an ACK eighty of them, four times what HAProxy keeps in flight.
    pub const UNSENT_BYTES_MAX: usize = 64 * 1024;

    /// 8 MiB: two thousand NOTIFYs of 2 KiB that wait for Redis or for keys with their 2 KiB of state; at 40,000 a second
    /// that is a stall of 50 ms, longer than any decision may wait.
    pub const BUFFERED_BYTES_MAX: usize = 8 * 1024 * 1024;

    /// 8 KiB, a connection's own, never counted: half of it to read into, three NOTIFYs with a token of 900 bytes; half for
    /// its ACKs, or for a question or two that wait.
    pub const OWN_BYTES: usize = 8 * 1024;

    /// 2 s: HAProxy says HELLO in the packet after the handshake; what has not by then is not HAProxy.
    pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

    /// 5 s: HAProxy writes whole frames, and fragments as fast as it can read the request's body, which it gives up on
    /// after `timeout processing`.
    pub const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

    /// 5 s: twenty times HAProxy's `timeout processing`; whoever takes nothing for this long takes nothing any more.
    pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

    /// 5 s: a hundred deadlines. Only idle connections are left by then.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
}

impl Default for SpopSettings {
    /// Listens nowhere.
    fn default() -> SpopSettings {
        SpopSettings {
            listen: Vec::new(),
            allow_from: Vec::new(),
            deadline: SpopSettings::DEADLINE,
            frame_bytes_max: SpopSettings::FRAME_BYTES_MAX,
            connections_max: SpopSettings::CONNECTIONS_MAX,
            in_flight_max: SpopSettings::IN_FLIGHT_MAX,
            unsent_bytes_max: SpopSettings::UNSENT_BYTES_MAX,
            buffered_bytes_max: SpopSettings::BUFFERED_BYTES_MAX,
            hello_timeout: SpopSettings::HELLO_TIMEOUT,
            frame_timeout: SpopSettings::FRAME_TIMEOUT,
            write_timeout: SpopSettings::WRITE_TIMEOUT,
            drain_timeout: SpopSettings::DRAIN_TIMEOUT,
        }
    }
}

/// The `admin:` section.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Loopback or unix, unless there is a token.
    pub listen: Listen,
    /// What a caller must present as `Authorization: Bearer`; asked for everything but `/livez` and `/readyz`.
    pub token: Option<Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_read_as_written() {
        for (text, expected) in [
            ("tcp:127.0.0.1:9001", true),
            ("tcp:[::1]:9001", true),
            ("unix:/run/tollgate/spop.sock", true),
            ("unix:spop.sock", false),
            ("127.0.0.1:9001", false),
            ("tcp:localhost:9001", false),
        ] {
            let parsed = Listen::parse(text);
            assert_eq!(parsed.as_ref().map(ToString::to_string), expected.then(|| text.to_owned()), "{text}");
        }
    }
}
