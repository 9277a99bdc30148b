//! What of a config matters to HAProxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Backends;
use crate::policy::RateLimitFields;
use crate::server::settings::Listen;

/// What both files follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The name of the config's file, for people.
    pub(super) config: String,
    /// The agent's addresses as HAProxy writes them: `127.0.0.1:9001`, `unix@/run/tollgate/spop.sock`. At least one.
    pub(super) agents: Vec<String>,
    /// `spop.deadline`.
    pub(super) deadline: Duration,
    pub(super) backends: Backends,
    /// Whether some rule says which requests belong to one server.
    pub(super) sticky: bool,
    /// The response's header fields that say what a request cost, each once.
    pub(super) costs: Vec<Arc<str>>,
    pub(super) ratelimit_fields: RateLimitFields,
}

/// Where the agent listens, HAProxy cannot connect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Port 0.
    #[error("spop.listen: `{0}` is any free port, which HAProxy cannot know; expected a port")]
    AnyPort(Listen),
    /// HAProxy reads no zones.
    #[error(
        "spop.listen: HAProxy takes no address with a zone, as `{0}` has one; expected another address, or a unix socket"
    )]
    Zone(Listen),
    /// HAProxy expands variables in addresses, however they are quoted.
    #[error(
        "spop.listen: HAProxy takes no `$` and no control characters in an address, as in {0:?}; expected another path"
    )]
    Path(Listen),
}

impl Site {
    /// `config` is the name of the config's file, `listen` and `deadline` are of its `spop:`.
    pub fn new(config: &str, listen: &[Listen], deadline: Duration, backends: Backends) -> Result<Site, SiteError> {
        let agents = listen.iter().map(address).collect::<Result<_, _>>()?;
        Ok(Site {
            config: config.to_owned(),
            agents,
            deadline,
            backends,
            sticky: false,
            costs: Vec::new(),
            ratelimit_fields: RateLimitFields::default(),
        })
    }

    /// The same, with some rule that says which requests belong to one server.
    pub fn sticking(self, sticky: bool) -> Site {
        Site { sticky, ..self }
    }

    /// The same, with header fields of the response that say what a request cost.
    pub fn charging(self, mut costs: Vec<Arc<str>>) -> Site {
        costs.sort_unstable();
        costs.dedup();
        Site { costs, ..self }
    }

    /// The same, with these fields to tell callers what is left.
    pub fn telling(self, ratelimit_fields: RateLimitFields) -> Site {
        Site { ratelimit_fields, ..self }
    }
}

fn address(listen: &Listen) -> Result<String, SiteError> {
    match listen {
        Listen::Tcp(address) if address.port() == 0 => Err(SiteError::AnyPort(listen.clone())),
        Listen::Tcp(SocketAddr::V6(address)) if address.scope_id() != 0 => Err(SiteError::Zone(listen.clone())),
        Listen::Tcp(address) => {
            // Whoever listens on every address does on loopback; HAProxy takes the unspecified one for the client's own.
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            Ok(SocketAddr::new(ip, address.port()).to_string())
        }
        Listen::Unix(path) => match path.to_str() {
            Some(path) if !path.contains(|c: char| c == '$' || c.is_control()) => Ok(format!("unix@{path}")),
            _ => Err(SiteError::Path(listen.clone())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_haproxy_connects_to() {
        for (listen, expected) in [
            ("tcp:127.0.0.1:9001", Ok("127.0.0.1:9001")),
            ("tcp:10.0.0.2:9001", Ok("10.0.0.2:9001")),
            ("tcp:0.0.0.0:9001", Ok("127.0.0.1:9001")),
            ("tcp:[::]:9001", Ok("[::1]:9001")),
            ("unix:/run/tollgate/spop.sock", Ok("unix@/run/tollgate/spop.sock")),
            ("unix:/run/it's here", Ok("unix@/run/it's here")),
            ("tcp:127.0.0.1:0", Err("any free port")),
            ("tcp:[fe80::1%2]:9001", Err("zone")),
            ("unix:/run/$HOME", Err("no `$`")),
            ("unix:/run/a\nb", Err("no control")),
        ] {
            let read = address(&Listen::parse(listen).unwrap()).map_err(|error| error.to_string());
            match (&read, expected) {
                (Ok(address), Ok(expected)) => assert_eq!(address, expected),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
                _ => panic!("{listen}: {read:?}"),
            }
        }
    }
}
