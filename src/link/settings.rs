//! How to reach Redis: what a config says, and what a URL means.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::StoreError;
use crate::secret::{Secret, SecretSource};

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// A `redis://`, `rediss://`, `redis+unix://`, `redis+sentinel://` or `rediss+sentinel://` URL, or several of
    /// `redis://` or `rediss://` with white space between: nodes of a Cluster. It may hold a password, hence a secret.
    pub url: Secret,
    /// Where the URL stands, if it is read again after a password in it was refused.
    pub url_from: Option<SecretSource>,
    /// The URL without user and password, for logs and `/readyz`.
    pub address: String,
    /// How long one question may wait for its answer.
    pub timeout: Duration,
    /// Who we are to the servers, where the URL does not say.
    pub login: Login,
    /// Who we are to the sentinels, who have users of their own.
    pub sentinel_login: Login,
    /// Certificates for `rediss://` and `rediss+sentinel://`.
    pub tls: TlsFiles,
}

impl RedisSettings {
    /// What a URL alone says.
    pub fn new(url: Secret, timeout: Duration) -> RedisSettings {
        let address = match Place::read(url.expose()) {
            Ok(place) => place.to_string(),
            // Not shown, because it may hold a password wherever it went wrong; whoever connects will say so.
            Err(_) => "redis".to_owned(),
        };
        RedisSettings {
            url,
            url_from: None,
            address,
            timeout,
            login: Login::default(),
            sentinel_login: Login::default(),
            tls: TlsFiles::default(),
        }
    }
}

/// A user and a password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// An ACL user; `default` where there is none.
    pub username: Option<String>,
    /// The password as it was read last.
    pub password: Option<Secret>,
    /// Where it stands, if it is read again after it was refused.
    pub password_from: Option<SecretSource>,
}

impl Login {
    /// Reads the password again. What cannot be read stays as it was.
    pub(super) fn read_again(&mut self) {
        if let Some(secret) = self.password_from.as_ref().and_then(|source| source.read().ok()) {
            self.password = Some(secret);
        }
    }
}

/// Certificates, in PEM. Read for each connection, so that a renewed one is used from the next connection on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whom to believe, instead of the system's authorities.
    pub ca: Option<PathBuf>,
    /// Our own certificate with its chain, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Where servers are, and what is used there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) servers: Servers,
    /// Whether to speak TLS. Never given up for plain text.
    pub(super) tls: bool,
    pub(super) db: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// One server on TCP.
    One(Node),
    /// One server on a unix socket.
    Unix(PathBuf),
    /// Whomever these sentinels call the master of this name.
    Sentinel { sentinels: Vec<Node>, master: String },
    /// A Cluster, and nodes that know all others.
    Cluster(Vec<Node>),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    /// An IPv6 address stands here without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Place {
    /// Reads one URL or several. The error says what is wrong, without the text: a password may stand anywhere in it.
    pub fn read(text: &str) -> Result<Place, &'static str> {
        let mut urls = text.split_ascii_whitespace().map(Place::read_one);
        let mut place = urls.next().ok_or("there is no URL")??;
        let mut nodes = Vec::new();
        for other in urls {
            let other = other?;
            let Servers::One(node) = other.servers else {
                return Err("several URLs are nodes of a Cluster, and then each is `redis://` or `rediss://`");
            };
            let same = (other.tls, &other.username, &other.password) == (place.tls, &place.username, &place.password);
            if !same {
                return Err("nodes of a Cluster have the same scheme, user and password");
            }
            if other.db != 0 {
                return Err("a Cluster has no databases but 0");
            }
            nodes.push(node);
        }
        if !nodes.is_empty() {
            let Servers::One(first) = place.servers else {
                return Err("several URLs are nodes of a Cluster, and then each is `redis://` or `rediss://`");
            };
            if place.db != 0 {
                return Err("a Cluster has no databases but 0");
            }
            nodes.insert(0, first);
            if nodes.len() > NODES_MAX {
                return Err("more nodes than anybody needs to find the others");
            }
            place.servers = Servers::Cluster(nodes);
        }
        Ok(place)
    }

    fn read_one(text: &str) -> Result<Place, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("a URL has `://`")?;
        match scheme {
            "redis" | "rediss" => Place::read_server(text, scheme == "rediss"),
            "redis+unix" => Place::read_unix(text),
            "redis+sentinel" | "rediss+sentinel" => Place::read_sentinel(rest, scheme == "rediss+sentinel"),
            _ => Err("its scheme is none of `redis`, `rediss`, `redis+unix`, `redis+sentinel` and `rediss+sentinel`"),
        }
    }

    fn read_server(text: &str, tls: bool) -> Result<Place, &'static str> {
        let url = Url::parse(text).map_err(|_| "it is no URL")?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("there is nothing to say after `?` or `#`");
        }
        Ok(Place {
            servers: Servers::One(node(&url)?),
            tls,
            db: db(url.path())?,
            username: Some(decoded(url.username())?).filter(|name| !name.is_empty()),
            password: url.password().map(decoded).transpose()?.map(Secret::new),
        })
    }

    fn read_unix(text: &str) -> Result<Place, &'static str> {
        let url = Url::parse(text).map_err(|_| "it is no URL")?;
        if url.has_host() || url.path().len() < 2 || url.fragment().is_some() {
            return Err("a unix socket is written `redis+unix:///PATH`");
        }
        let mut place = Place {
            servers: Servers::Unix(PathBuf::from(decoded(url.path())?)),
            tls: false,
            db: 0,
            username: None,
            password: None,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "db" => place.db = db(&value)?,
                "user" => place.username = Some(value.into_owned()),
                "pass" => place.password = Some(Secret::new(value)),
                _ => return Err("a unix socket takes `db`, `user` and `pass` after `?`"),
            }
        }
        Ok(place)
    }

    /// `USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB`, of which MASTER is a must. No URL of the standard has several
    /// hosts, so it is taken apart here.
    fn read_sentinel(rest: &str, tls: bool) -> Result<Place, &'static str> {
        let (authority, path) = rest
            .split_once('/')
            .ok_or("sentinels are asked for a master by name: `redis+sentinel://HOST:PORT/MASTER`")?;
        if path.contains(['?', '#']) {
            return Err("there is nothing to say after `?` or `#`");
        }
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let sentinels = hosts
            .split(',')
            .map(|host| {
                let url = Url::parse(&format!("redis://{host}")).map_err(|_| "one of the sentinels is no HOST:PORT")?;
                let node = node(&url)?;
                Ok(Node { port: url.port().unwrap_or(SENTINEL_PORT), ..node })
            })
            .collect::<Result<Vec<_>, &'static str>>()?;
        if sentinels.len() > NODES_MAX {
            return Err("more sentinels than anybody needs to find the others");
        }
        let (master, number) = path.split_once('/').map_or((path, ""), |(master, number)| (master, number));
        let master = decoded(master)?;
        if master.is_empty() {
            return Err("sentinels are asked for a master by name: `redis+sentinel://HOST:PORT/MASTER`");
        }
        let (username, password) = user.split_once(':').map_or((user, None), |(name, word)| (name, Some(word)));
        Ok(Place {
            servers: Servers::Sentinel { sentinels, master },
            tls,
            db: db(number)?,
            username: Some(decoded(username)?).filter(|name| !name.is_empty()),
            password: password.map(decoded).transpose()?.map(Secret::new),
        })
    }

    /// Whether there is a user or a password in it.
    pub fn holds_credentials(&self) -> bool {
        self.username.is_some() || self.password.is_some()
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether it asks sentinels.
    pub fn asks_sentinels(&self) -> bool {
        matches!(self.servers, Servers::Sentinel { .. })
    }

    /// Whether it is a single server on TCP, of which several make a Cluster.
    pub fn is_node(&self) -> bool {
        matches!(self.servers, Servers::One(_))
    }
}

/// Without user and password, as logs may show it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[Node]| nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(",");
        let s = if self.tls { "s" } else { "" };
        match &self.servers {
            Servers::One(node) => write!(f, "redis{s}://{node}"),
            Servers::Unix(path) => write!(f, "redis+unix://{}", path.display()),
            Servers::Sentinel { sentinels, master } => write!(f, "redis{s}+sentinel://{}/{master}", list(sentinels)),
            Servers::Cluster(nodes) => write!(f, "redis{s}://{}", list(nodes)),
        }?;
        if self.db != 0 { write!(f, "/{}", self.db) } else { Ok(()) }
    }
}

fn node(url: &Url) -> Result<Node, &'static str> {
    let host = match url.host().ok_or("there is no host in it")? {
        // The parser leaves the case and the percents of a host it knows no scheme for.
        url::Host::Domain(name) => decoded(name)?.to_ascii_lowercase(),
        url::Host::Ipv4(address) => address.to_string(),
        url::Host::Ipv6(address) => address.to_string(),
    };
    if host.is_empty() || host.contains([',', '/', ' ']) {
        return Err("there is no host in it");
    }
    Ok(Node { host, port: url.port().unwrap_or(PORT) })
}

fn db(path: &str) -> Result<u16, &'static str> {
    match path.trim_start_matches('/') {
        "" => Ok(0),
        number => number.parse().map_err(|_| "a database is a number: `redis://HOST:PORT/2`"),
    }
}

fn decoded(text: &str) -> Result<String, &'static str> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "what it holds is not UTF-8")
}

/// Makes the error of an address that is of no use.
pub(super) fn wrong(settings: &RedisSettings, reason: &str) -> StoreError {
    StoreError::Address { address: settings.address.clone(), reason: reason.to_owned() }
}

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Enough to find the others, and few enough that asking one after the other ends.
const NODES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_urls_mean() {
        for (text, shown, user, password) in [
            ("redis://h", "redis://h:6379", None, None),
            ("redis://H:1/2", "redis://h:1/2", None, None),
            ("rediss://u:p%40ss@h:1/0", "rediss://h:1", Some("u"), Some("p@ss")),
            ("redis://:p@[::1]:7", "redis://[::1]:7", None, Some("p")),
            ("redis+unix:///run/r.sock?user=u&pass=p%40&db=3", "redis+unix:///run/r.sock/3", Some("u"), Some("p@")),
            ("redis+sentinel://a,b:2,[::1]:3/main", "redis+sentinel://a:26379,b:2,[::1]:3/main", None, None),
            ("rediss+sentinel://u:p@a:1/main/4", "rediss+sentinel://a:1/main/4", Some("u"), Some("p")),
            ("redis://a:1 redis://b\n", "redis://a:1,b:6379", None, None),
        ] {
            let place = Place::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(place.to_string(), shown, "{text}");
            assert_eq!(place.username.as_deref(), user, "{text}");
            assert_eq!(place.password.as_ref().map(Secret::expose), password, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_redis() {
        for text in [
            "",
            "localhost:6379",
            "http://h",
            "redis://",
            "redis://h:port",
            "redis://h/x",
            "redis://h?db=2",
            "redis+unix://",
            "redis+unix://h/p",
            "redis+unix:///p?database=3",
            "redis+sentinel://h:1",
            "redis+sentinel://h:1/",
            "redis+sentinel:///main",
            "redis+sentinel://a,,b/main",
            "redis+sentinel://a/main/x",
            "redis://a rediss://b",
            "redis://a/1 redis://b",
            "redis://a redis://b/1",
            "redis://u:p@a redis://b",
            "redis://a redis+unix:///p",
            "redis+unix:///p redis://a",
        ] {
            assert!(Place::read(text).is_err(), "{text}");
        }
    }
}
