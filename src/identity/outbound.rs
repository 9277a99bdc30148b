//! HTTP to providers and directories: the only outbound HTTP there is.
//!
//! A provider's document can name any URL, and a DNS name any address, so both are checked where the connection is
//! made: https and public addresses only, unless the operator said `insecure` for that issuer. A redirect is followed
//! within one origin only, and no proxy is taken from the environment.
//!
//! Through a proxy that the operator named it is the proxy that resolves names, so no address can be checked here. What
//! holds then: an address written into a URL is checked as ever; no name but the proxy's own is resolved here; which
//! names can be asked for is bounded by who calls (an issuer's own host and its `key_hosts`); and over https the host at
//! the far end must prove its name before it hears anything of the request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use url::{Host, Url};

use super::settings::OutboundSettings;
use crate::secret::Secret;

/// An HTTP client for one provider. A clone shares its connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    insecure: bool,
}

/// A request: its method, place and credentials. What is secret in it is never shown.
pub(crate) struct Ask {
    url: Url,
    body: Option<(&'static str, String)>,
    authorization: Option<HeaderValue>,
    accept: &'static str,
    bytes_max: usize,
    keeps_refusal: bool,
}

/// What a URL gave.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) body: Vec<u8>,
    /// `Cache-Control: max-age`.
    pub(crate) max_age: Option<Duration>,
    /// `Content-Type`, as sent.
    pub(crate) content_type: Option<String>,
}

impl Client {
    /// Loads the system's certificates, which takes milliseconds: call it where blocking is allowed.
    pub(crate) fn new(settings: &OutboundSettings) -> Result<Client, FetchError> {
        Client::within(settings, TOTAL_TIMEOUT)
    }

    /// The same with another bound on the time from connecting to the last byte.
    pub(crate) fn within(settings: &OutboundSettings, total: Duration) -> Result<Client, FetchError> {
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::custom(within_origin))
            .no_proxy()
            .referer(false)
            .https_only(!settings.insecure)
            .connect_timeout(CONNECT_TIMEOUT.min(total))
            .timeout(total);
        if let Some(roots) = &settings.roots {
            let roots = roots.certificates().map(reqwest::Certificate::from_der);
            client = client.tls_certs_only(roots.collect::<Result<Vec<_>, _>>().map_err(FetchError::Client)?);
        }
        if let Some(settings) = &settings.proxy {
            let mut proxy = reqwest::Proxy::all(settings.url.clone()).map_err(FetchError::Client)?;
            if let Some((user, password)) = &settings.credentials {
                proxy = proxy.basic_auth(user, password.expose());
            }
            let only = settings.url.host_str().unwrap_or_default().to_ascii_lowercase();
            client = client.proxy(proxy).dns_resolver(Arc::new(ProxyResolver { only }));
        } else if !settings.insecure {
            client = client.dns_resolver(Arc::new(PublicResolver));
        }
        Ok(Client { http: client.build().map_err(FetchError::Client)?, insecure: settings.insecure })
    }

    /// Sends the request and reads the answer: status 200, so many bytes at most after decompression, within five
    /// seconds.
    pub(crate) async fn send(&self, ask: Ask) -> Result<Fetched, FetchError> {
        check_url(&ask.url, self.insecure)?;
        let host = host_of(&ask.url);
        let transport =
            |source: reqwest::Error| FetchError::Transport { host: host.clone(), source: source.without_url() };
        let request = match ask.body {
            None => self.http.get(ask.url),
            Some((media_type, body)) => self.http.post(ask.url).header(CONTENT_TYPE, media_type).body(body),
        };
        let request = request.header(ACCEPT, ask.accept);
        let request = match ask.authorization {
            None => request,
            Some(value) => request.header(AUTHORIZATION, value),
        };
        let mut response = request.send().await.map_err(transport)?;
        if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
            return Err(FetchError::Redirect { host, status: response.status().as_u16() });
        }
        if response.status() != reqwest::StatusCode::OK {
            let retry_after = retry_after(response.headers());
            let status = response.status().as_u16();
            let body = if ask.keeps_refusal { refusal(&mut response).await } else { Vec::new() };
            return Err(FetchError::Status { host, status, retry_after, body });
        }
        let max_age = max_age(response.headers());
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        // `Content-Length` is not asked: with gzip it says nothing about what comes out.
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if body.len() + chunk.len() > ask.bytes_max {
                return Err(FetchError::TooLarge { host, bytes_max: ask.bytes_max });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Fetched { body, max_age, content_type })
    }
}

impl Ask {
    /// GETs a JSON document of at most `bytes_max` bytes.
    pub(crate) fn get(url: Url, bytes_max: usize) -> Ask {
        Ask { url, body: None, authorization: None, accept: "application/json", bytes_max, keeps_refusal: false }
    }

    /// POSTs a form (`application/x-www-form-urlencoded`), for an answer of at most `bytes_max` bytes of JSON.
    pub(crate) fn form(url: Url, fields: &[(&str, &str)], bytes_max: usize) -> Ask {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        Ask { body: Some(("application/x-www-form-urlencoded", body)), ..Ask::get(url, bytes_max) }
    }

    /// Where the answer is an error, what it says is kept beside its status: some APIs tell "slower" from "never" only
    /// there.
    pub(crate) fn keeping_refusal(mut self) -> Ask {
        self.keeps_refusal = true;
        self
    }

    /// With `Authorization: Bearer` and that token. One that cannot stand in a field is left out, and so refused by
    /// whoever is asked.
    pub(crate) fn bearer(mut self, token: &str) -> Ask {
        self.authorization = sensitive(&format!("Bearer {token}"));
        self
    }

    /// With a client's name and secret as HTTP Basic, form-encoded first (RFC 6749, section 2.3.1).
    pub(crate) fn basic(mut self, id: &str, secret: &Secret) -> Ask {
        use base64::Engine as _;
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encode(id), encode(secret.expose()));
        self.authorization = sensitive(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)));
        self
    }
}

/// What an error answer says; nothing where it is longer than any such answer, or breaks off.
async fn refusal(response: &mut reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > REFUSAL_BYTES_MAX {
            return Vec::new();
        }
        body.extend_from_slice(&chunk);
    }
    body
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Why there is no answer. Says hosts, never a URL with its query.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum FetchError {
    #[error("cannot set up TLS for the request")]
    Client(#[source] reqwest::Error),
    #[error("{host}: {scheme} is not allowed, expected https (\"insecure: true\" allows http)")]
    Scheme { host: String, scheme: String },
    #[error("{host} is not a public address (\"insecure: true\" allows it)")]
    Address { host: String },
    #[error("{host}: the URL carries a user name or password")]
    UserInfo { host: String },
    #[error("{host} cannot be reached or broke off")]
    Transport {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{host} answered with status {status}, expected 200")]
    Status {
        host: String,
        status: u16,
        retry_after: Option<Duration>,
        /// What it said, where the request asked for that; never shown as it is.
        body: Vec<u8>,
    },
    #[error("{host} redirects to another origin or too often (status {status}), which is not followed")]
    Redirect { host: String, status: u16 },
    #[error("{host} answered with more than {bytes_max} bytes")]
    TooLarge { host: String, bytes_max: usize },
}

impl FetchError {
    /// How long we were asked to stay away.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            FetchError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// An error with its causes, `a: b: c`, at most 500 characters: a cause may quote what the other side sent.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    chain.chars().take(500).collect()
}

/// The host, and the port where it is not the scheme's own.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("(no host)");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What can be told from the URL alone; names are told by [`PublicResolver`], which an address in the URL never meets.
pub(crate) fn check_url(url: &Url, insecure: bool) -> Result<(), FetchError> {
    let host = host_of(url);
    if !url.username().is_empty() || url.password().is_some() {
        return Err(FetchError::UserInfo { host });
    }
    if url.scheme() != "https" && !(insecure && url.scheme() == "http") {
        return Err(FetchError::Scheme { host, scheme: url.scheme().to_owned() });
    }
    let public = match url.host() {
        Some(Host::Ipv4(address)) => is_public(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => is_public(IpAddr::V6(address)),
        Some(Host::Domain(_)) => true,
        None => false,
    };
    if public || insecure { Ok(()) } else { Err(FetchError::Address { host }) }
}

/// Same scheme, host and port (RFC 6454), at most [`REDIRECTS_MAX`] times, and never to a URL with credentials in it.
fn within_origin(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let next = attempt.url();
    let same = attempt.previous().first().is_some_and(|first| first.origin() == next.origin());
    let plain = next.username().is_empty() && next.password().is_none();
    if same && plain && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
}

/// Resolves the proxy's name, to any address: the operator named it. Other names are the proxy's to resolve.
struct ProxyResolver {
    only: String,
}

impl Resolve for ProxyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let known = name.as_str().eq_ignore_ascii_case(&self.only);
        Box::pin(async move {
            if !known {
                return Err("only the proxy may resolve this name".into());
            }
            let resolved: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(resolved.into_iter()) as Addrs)
        })
    }
}

/// Resolves names to public addresses only. The connection goes to the very addresses that were checked, so a name that
/// changes its mind in between (DNS rebinding) gains nothing.
struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let resolved = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = resolved.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err("the name has no public address (\"insecure: true\" allows others)".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public Internet's, by IANA's special-purpose registries (RFC 6890 and after).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    !matches!(
        v4.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    match v6.segments() {
        // IPv4-mapped, and NAT64's well-known prefix (RFC 6052): what counts is the address inside.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments with Teredo, documentation, and 6to4, which wraps any IPv4 address.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Global unicast, the only block handed out.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// The smallest `max-age` of all `Cache-Control` fields (RFC 9111, section 5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|field| field.to_str().ok());
    let directives = fields.flat_map(|field| field.split(','));
    directives
        .filter_map(|directive| {
            let (name, value) = directive.trim().split_once('=')?;
            name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok()).flatten()
        })
        .min()
        .map(Duration::from_secs)
}

/// `Retry-After` in seconds (RFC 9110, section 10.2.3). Its date form counts as a minute: no provider is known to send
/// it, and a minute is the pace at which a silent one is asked.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(value.trim().parse().unwrap_or(60)))
}

/// Error answers of APIs have some hundred bytes; a proxy's page may have some thousand, and says nothing to us.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;

/// A TCP and TLS handshake across the world takes under a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// From connecting to the last byte: a server that drips is as good as down.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A slash added, a tenant's name made canonical: one is common, two are rare.
const REDIRECTS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn only_public_addresses_are_public() {
        for (address, expected) in [
            ("8.8.8.8", true),
            ("172.15.0.1", true),
            ("172.32.0.1", true),
            ("100.63.0.1", true),
            ("192.0.1.1", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("127.0.0.1", false),
            ("100.64.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.168.0.1", false),
            ("192.0.0.8", false),
            ("198.19.0.1", false),
            ("203.0.113.7", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("64:ff9b::808:808", true),
            ("::ffff:8.8.8.8", true),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("::1", false),
            ("::", false),
            ("::127.0.0.1", false),
            ("fe80::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("2002:7f00:1::", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_url_must_be_https_to_somewhere_public_unless_insecure() {
        for (url, strict, insecure) in [
            ("https://www.googleapis.com/oauth2/v3/certs", true, true),
            ("http://login.acme.example/keys", false, true),
            ("https://127.0.0.1/keys", false, true),
            ("https://0x7f.1/keys", false, true),
            ("https://2130706433/keys", false, true),
            ("https://[::ffff:169.254.169.254]/keys", false, true),
            ("https://user@login.acme.example/keys", false, false),
            ("https://:x@login.acme.example/keys", false, false),
            ("ftp://login.acme.example/keys", false, false),
            ("file:///etc/passwd", false, false),
            ("unix:/run/x", false, false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(check_url(&url, false).is_ok(), strict, "{url}");
            assert_eq!(check_url(&url, true).is_ok(), insecure, "{url} insecure");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_private_resolves_to_nothing() {
        assert!(PublicResolver.resolve("localhost".parse().unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn behind_a_proxy_no_name_but_its_own_is_resolved() {
        let resolver = ProxyResolver { only: "localhost".to_owned() };
        assert!(resolver.resolve("LOCALHOST".parse().unwrap()).await.is_ok());
        assert!(resolver.resolve("ip6-localhost".parse().unwrap()).await.is_err());
    }

    #[test]
    fn header_values_give_times_or_nothing() {
        for (value, expected) in [
            ("max-age=300", Some(300)),
            ("public, MAX-AGE=\"60\" , must-revalidate", Some(60)),
            ("max-age=600, max-age=100", Some(100)),
            ("s-maxage=5", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999", None),
            ("no-store", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{value}");
        }
        for (value, expected) in [("120", 120), ("Fri, 31 Dec 1999 23:59:59 GMT", 60), ("-1", 60)] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers), Some(Duration::from_secs(expected)), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
