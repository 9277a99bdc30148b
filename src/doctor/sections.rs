//! Lines as sections: `global`, and proxies with what they inherit.

use std::net::IpAddr;

use super::lines::Line;

/// A whole config: all files, in order.
#[derive(Debug, Default)]
pub(super) struct Config<'a> {
    /// The lines of all `global` sections.
    pub global: Vec<&'a Line>,
    /// `defaults`, `frontend`, `backend` and `listen`, in order.
    pub proxies: Vec<Proxy<'a>>,
    /// Whether Lua may set variables and refuse that no line shows.
    pub lua: bool,
}

/// What a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Defaults,
    Frontend,
    Backend,
    Listen,
}

/// One section that requests go through, or that others inherit from.
#[derive(Debug)]
pub(super) struct Proxy<'a> {
    pub kind: Kind,
    pub name: &'a str,
    /// Where it begins.
    pub head: &'a Line,
    /// Its own lines.
    pub own: Vec<&'a Line>,
    /// The section it inherits from; always an earlier one, so there is no circle.
    from: Option<usize>,
}

impl<'a> Config<'a> {
    pub(super) fn read(lines: impl IntoIterator<Item = &'a Line>) -> Config<'a> {
        enum In {
            Global,
            Proxy,
            Other,
        }
        let mut config = Config::default();
        let mut place = In::Other;
        for line in lines {
            let kind = match line.word(0) {
                "global" => {
                    place = In::Global;
                    continue;
                }
                "defaults" => Some(Kind::Defaults),
                "frontend" => Some(Kind::Frontend),
                "backend" => Some(Kind::Backend),
                "listen" => Some(Kind::Listen),
                word if OTHER_SECTIONS.contains(&word) => {
                    place = In::Other;
                    continue;
                }
                _ => None,
            };
            if let Some(kind) = kind {
                let from = config.inherits(kind, line);
                let name = if line.word(1) == "from" { "" } else { line.word(1) };
                config.proxies.push(Proxy { kind, name, head: line, own: Vec::new(), from });
                place = In::Proxy;
                continue;
            }
            match place {
                In::Global => {
                    config.lua |= line.word(0).starts_with("lua-load");
                    config.global.push(line);
                }
                In::Proxy => config.proxies.last_mut().into_iter().for_each(|proxy| proxy.own.push(line)),
                In::Other => {}
            }
        }
        config
    }

    fn inherits(&self, kind: Kind, head: &Line) -> Option<usize> {
        let defaults = |(_, proxy): &(usize, &Proxy<'_>)| proxy.kind == Kind::Defaults;
        let named = (1..=2).find(|index| head.word(*index) == "from").map(|index| head.word(index + 1));
        let mut earlier = self.proxies.iter().enumerate().filter(defaults);
        let found = match named {
            Some(name) => earlier.rfind(|(_, proxy)| proxy.name == name),
            // A `defaults` without `from` begins anew.
            None if kind == Kind::Defaults => None,
            None => earlier.next_back(),
        };
        found.map(|(index, _)| index)
    }

    /// A proxy's lines with what it inherits before them.
    pub(super) fn lines(&self, proxy: &Proxy<'a>) -> Vec<&'a Line> {
        let mut line_of_descent = vec![proxy];
        let mut from = proxy.from;
        while let Some(parent) = from.and_then(|from| self.proxies.get(from)) {
            if line_of_descent.len() > DESCENT_MAX {
                break;
            }
            line_of_descent.push(parent);
            from = parent.from;
        }
        line_of_descent.iter().rev().flat_map(|proxy| proxy.own.iter().copied()).collect()
    }

    /// The last line of a proxy that begins so, its own or inherited.
    pub(super) fn last(&self, proxy: &Proxy<'a>, words: &[&str]) -> Option<&'a Line> {
        self.lines(proxy).into_iter().rfind(|line| line.begins(words))
    }

    /// Whether an option is on: the last of `option X` and `no option X`.
    pub(super) fn option(&self, proxy: &Proxy<'a>, option: &str) -> Option<&'a Line> {
        let says = |line: &&Line| line.begins(&["option", option]) || line.begins(&["no", "option", option]);
        self.lines(proxy).into_iter().rfind(says).filter(|line| line.word(0) == "option")
    }

    /// A timeout in milliseconds, and where it stands.
    pub(super) fn timeout(&self, proxy: &Proxy<'a>, name: &str) -> Option<(u64, &'a Line)> {
        let line = self.last(proxy, &["timeout", name])?;
        Some((millis(line.word(2))?, line))
    }

    /// The backend (or `listen`) of a name.
    pub(super) fn backend(&self, name: &str) -> Option<&Proxy<'a>> {
        self.proxies.iter().find(|proxy| proxy.name == name && [Kind::Backend, Kind::Listen].contains(&proxy.kind))
    }

    /// Whether anything beyond this machine may come to it; `None` where only the environment knows.
    pub(super) fn open_to_others(&self, proxy: &Proxy<'a>) -> Option<bool> {
        let mut known = true;
        for bind in proxy.own.iter().filter(|line| line.word(0) == "bind") {
            let Some(address) = bind.words.get(1) else { continue };
            if address.open {
                known = false;
            } else if address.text.split(',').any(|address| !is_local(address)) {
                return Some(true);
            }
        }
        known.then_some(false)
    }

    /// Whether clients speak TLS to it; `None` where some may and others not, or only the environment knows.
    pub(super) fn tls(&self, proxy: &Proxy<'a>) -> Option<bool> {
        let binds: Vec<_> = proxy.own.iter().filter(|line| line.word(0) == "bind").collect();
        if binds.is_empty() || binds.iter().any(|bind| bind.words.iter().skip(2).any(|word| word.open)) {
            return None;
        }
        let speaking = binds.iter().filter(|bind| bind.holds("ssl")).count();
        match speaking {
            0 => Some(false),
            all if all == binds.len() => Some(true),
            _ => None,
        }
    }

    /// `tune.bufsize` in bytes.
    pub(super) fn bufsize(&self) -> u64 {
        let line = self.global.iter().rfind(|line| line.word(0) == "tune.bufsize");
        line.and_then(|line| size(line.word(1))).unwrap_or(BUFSIZE)
    }
}

impl Proxy<'_> {
    /// How people speak of it.
    pub(super) fn title(&self) -> String {
        let kind = match self.kind {
            Kind::Defaults => "defaults",
            Kind::Frontend => "frontend",
            Kind::Backend => "backend",
            Kind::Listen => "listen",
        };
        format!("{kind} {}", self.name)
    }

    /// Whether it has anything to send requests to.
    pub(super) fn has_servers(&self) -> bool {
        let sends = |line: &&Line| ["server", "server-template", "dispatch"].contains(&line.word(0));
        self.own.iter().any(|line| sends(line) || line.begins(&["option", "transparent"]))
    }
}

/// An address that only this machine reaches: loopback, a socket in the file system, or inherited.
pub(super) fn is_local(address: &str) -> bool {
    if ["/", "unix@", "abns@", "abnsz@", "fd@", "sockpair@", "rhttp@", "rev@"]
        .iter()
        .any(|kind| address.starts_with(kind))
    {
        return true;
    }
    let address = host(address);
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host of `ipv4@10.0.0.1:80`, `[::1]:80` and the like.
pub(super) fn host(address: &str) -> &str {
    let address = address.rsplit('@').next().unwrap_or(address);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// `250ms`, `5s`, or a bare number of milliseconds, in milliseconds.
pub(super) fn millis(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "" | "ms" => Some(number),
        "us" => Some(number / 1000),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    }
}

/// `16384`, `32k`, `1m`.
pub(super) fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "" => Some(number),
        "k" | "K" => number.checked_mul(1024),
        "m" | "M" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

/// More `defaults` in a row than anybody writes.
const DESCENT_MAX: usize = 32;

/// HAProxy's default of `tune.bufsize`.
const BUFSIZE: u64 = 16384;

/// Sections that no request goes through.
const OTHER_SECTIONS: &[&str] = &[
    "acme",
    "cache",
    "crt-store",
    "fcgi-app",
    "http-errors",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
    "healthcheck",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::lines::Source;
    use super::*;

    #[test]
    fn sections_inherit_from_the_last_defaults_or_the_named_one() {
        let text = "defaults a\ntimeout client 1s\noption x\ndefaults b from a\nno option x\nfrontend f\nfrontend g from a\ntimeout client 5";
        let source = Source::read(Path::new("f"), 0, text.as_bytes());
        let config = Config::read(source.all());
        let of = |name: &str| config.proxies.iter().find(|proxy| proxy.name == name).unwrap();
        assert_eq!(config.timeout(of("f"), "client").unwrap().0, 1000);
        assert_eq!(config.timeout(of("g"), "client").unwrap().0, 5);
        assert!(config.option(of("f"), "x").is_none() && config.option(of("g"), "x").is_some());
    }

    #[test]
    fn addresses_are_of_this_machine_or_not() {
        for (address, local) in [
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
            ("unix@/run/x", true),
            ("ipv4@127.0.0.1:80", true),
            ("localhost:1", true),
            (":80", false),
            ("*:80", false),
            ("10.0.0.1:80", false),
            (":::80", false),
        ] {
            assert_eq!(is_local(address), local, "{address}");
        }
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(
            [millis("5"), millis("2s"), millis("1m"), millis("x"), millis("")],
            [Some(5), Some(2000), Some(60_000), None, None]
        );
        assert_eq!([size("32k"), size("16384"), size("k")], [Some(32768), Some(16384), None]);
    }
}
