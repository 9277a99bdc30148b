//! `spop:` and `admin:`: where to listen, and who may connect.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::read::{At, quote};
use super::secrets;
use super::values::show_size;
use crate::secret::SecretSource;
use crate::server::settings::{AdminSettings, Listen, SpopSettings};

/// Reads `spop:`. Every key has a default.
pub(super) fn spop(at: Option<At<'_>>) -> SpopSettings {
    let mut settings = SpopSettings::default();
    if let Some(mut section) = at.and_then(|at| at.section("a map: `spop: { listen: tcp:127.0.0.1:9001 }`")) {
        let listen_at = section.take("listen");
        let allow_at = section.take("allow_from");
        if let Some(at) = &allow_at {
            settings.allow_from = at.one_or_many(NETWORKS).iter().filter_map(peers).collect();
        }
        for at in listen_at.iter().flat_map(|at| at.one_or_many(LISTEN)) {
            let Some(listen) = listen(&at) else { continue };
            if settings.listen.contains(&listen) {
                at.refuse(format!("`{listen}` is listed twice"), "");
            }
            if !listen.is_local() && allow_at.is_none() {
                at.refuse(
                    format!("`{listen}` can be reached from other machines, and whoever connects is believed"),
                    "`allow_from:` with HAProxy's addresses beside it, or a loopback or unix address",
                );
            }
            settings.listen.push(listen);
        }
        if let Some(at) = section.take("deadline") {
            settings.deadline =
                at.duration(Duration::from_millis(1), Duration::from_secs(10)).unwrap_or(settings.deadline);
        }
        if let Some(size) = section.take("max_frame_size").and_then(|at| at.size(256, 16 * 1024 * 1024)) {
            settings.frame_bytes_max = u32::try_from(size).unwrap_or(settings.frame_bytes_max);
        }
        let mut count = |key, into: &mut usize| {
            if let Some(count) = section.take(key).and_then(|at| at.integer(1, 1_000_000)) {
                *into = usize::try_from(count).unwrap_or(*into);
            }
        };
        count("max_connections", &mut settings.connections_max);
        count("max_in_flight", &mut settings.in_flight_max);
        let mut size = |key, into: &mut usize, min| {
            if let Some(size) = section.take(key).and_then(|at| at.size(min, 64 * 1024 * 1024 * 1024)) {
                *into = usize::try_from(size).unwrap_or(*into);
            }
        };
        size("max_unsent", &mut settings.unsent_bytes_max, 1024);
        size("max_buffered", &mut settings.buffered_bytes_max, 1024 * 1024);
        let least = 2 * settings.frame_bytes_max as usize;
        if settings.buffered_bytes_max < least {
            section.at().refuse(
                format!(
                    "`max_buffered` of {} has no room for a frame of `max_frame_size` while its buffer grows",
                    show_size(settings.buffered_bytes_max as u64)
                ),
                format!("{} or more", show_size(least as u64)),
            );
        }
        for (key, into) in [
            ("hello_timeout", &mut settings.hello_timeout),
            ("frame_timeout", &mut settings.frame_timeout),
            ("write_timeout", &mut settings.write_timeout),
            ("drain_timeout", &mut settings.drain_timeout),
        ] {
            if let Some(at) = section.take(key) {
                *into = at.duration(Duration::from_millis(10), Duration::from_secs(600)).unwrap_or(*into);
            }
        }
        section.finish();
    }
    if settings.listen.is_empty() {
        settings.listen.push(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 9001))));
    }
    settings
}

/// Reads `admin:`, with the place of its token.
pub(super) fn admin(
    at: &At<'_>,
    directory: &Path,
    spop: &SpopSettings,
) -> (Option<AdminSettings>, Option<SecretSource>) {
    let Some(mut section) = at.section("a map: `admin: { listen: tcp:127.0.0.1:9003 }`") else { return (None, None) };
    let listen_at = section.need("listen", "tcp:127.0.0.1:9003");
    let token_at = section.take("token");
    section.finish();
    let token = token_at.as_ref().and_then(|at| secrets::read(at, directory));
    let Some(at) = listen_at else { return (None, None) };
    let Some(listen) = listen(&at) else { return (None, None) };
    if !listen.is_local() && token_at.is_none() {
        at.refuse(
            format!("`{listen}` can be reached from other machines, and nothing is asked of them"),
            "`token: file:…` or `token: env:…` beside it, or a loopback or unix address",
        );
    }
    // Port 0 is any free port, so two of them are not one address.
    if spop.listen.contains(&listen) && !matches!(listen, Listen::Tcp(address) if address.port() == 0) {
        at.refuse(format!("`{listen}` is also where HAProxy connects"), "another port");
    }
    let (place, token) = token.unzip();
    (Some(AdminSettings { listen, token }), place)
}

fn listen(at: &At<'_>) -> Option<Listen> {
    let text = at.text(LISTEN)?;
    let listen = Listen::parse(text);
    if listen.is_none() {
        let named = text.strip_prefix("tcp:").unwrap_or(text).replace("localhost", "127.0.0.1");
        let nearest = match named.parse::<SocketAddr>() {
            Ok(address) => Some(Listen::Tcp(address).to_string()),
            Err(_) => text.starts_with('/').then(|| format!("unix:{text}")),
        };
        at.refuse_for(format!("{} is not an address to listen on", quote(text)), LISTEN, nearest);
    }
    listen
}

fn peers(at: &At<'_>) -> Option<IpNet> {
    let network = network(at)?;
    if network.prefix_len() == 0 {
        at.warn(format!("`{network}` lets every machine ask, and whoever asks is believed"));
    }
    if let IpNet::V6(v6) = network
        && v6.addr().to_ipv4_mapped().is_some()
    {
        // An address of that form is read as the IPv4 address that it is.
        at.refuse(format!("`{network}` holds no address: those of IPv4 are compared as such"), "a network of IPv4");
        return None;
    }
    Some(network)
}

/// A network, or one address.
pub(super) fn network(at: &At<'_>) -> Option<IpNet> {
    let parse = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let network: IpNet = at.parsed("a network", NETWORKS, parse)?;
    if network.trunc() != network {
        // Half of those who write it mean the one address, the other half the network.
        at.refuse_for(
            format!("`{network}` has bits set beyond its prefix"),
            &format!("`{}` for the network or `{}` for the address", network.trunc(), network.addr()),
            None,
        );
        return None;
    }
    Some(network)
}

const LISTEN: &str = "`tcp:ADDRESS:PORT` with an IP address, or `unix:/PATH`";
pub(super) const NETWORKS: &str = "networks such as `10.0.0.0/8` or `fd00::/8`";
