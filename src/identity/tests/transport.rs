//! TLS, redirects and proxies on the way to a provider.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::super::settings::{KeyOrigin, ProxySettings, Roots};
use super::super::testing::P256_A;
use super::fake::{Answer, Provider, QUICK, RESTLESS, Stage, alice, discovery, keys, ok, run_alone};
use crate::secret::Secret;

/// An authority made for one test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn roots(&self) -> Option<Roots> {
        Some(Roots::parse(self.0.pem().as_bytes()).unwrap())
    }

    /// A server that can prove to be `name` until the year `until`.
    fn server(&self, name: &str, until: i32) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap())
    }
}

const FAR: i32 = 4000;

#[tokio::test]
async fn certificates_count_by_the_authorities_of_the_config() {
    let (authority, another) = (Authority::new(), Authority::new());
    for (what, roots, server, expected) in [
        ("its own", authority.roots(), authority.server("127.0.0.1", FAR), None),
        ("another's", another.roots(), authority.server("127.0.0.1", FAR), Some("certificate")),
        ("the system's", None, authority.server("127.0.0.1", FAR), Some("certificate")),
        ("another name", authority.roots(), authority.server("login.acme.example", FAR), Some("not valid for name")),
        ("expired", authority.roots(), authority.server("127.0.0.1", 2020), Some("expired")),
    ] {
        let tls = Arc::new(ArcSwap::new(server));
        let provider = Provider::start_tls(None, tls, keys(&[P256_A.jwk("a")])).await;
        let mut settings = provider.settings();
        settings.outbound.roots = roots;
        let stage = Stage::start(settings, QUICK).await;
        match (expected, stage.status().last_error) {
            (None, None) => assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice()),
            (Some(expected), Some(error)) => {
                assert!(error.contains(expected), "{what}: {error}");
                assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 0, "{what}: nothing was asked");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_that_expires_is_a_provider_that_is_down() {
    let authority = Authority::new();
    let tls = Arc::new(ArcSwap::new(authority.server("127.0.0.1", FAR)));
    let provider = Provider::start_tls(None, Arc::clone(&tls), keys(&[P256_A.jwk("a")])).await;
    let mut settings = provider.settings();
    settings.outbound.roots = authority.roots();
    let stage = Stage::start(settings, RESTLESS).await;
    tls.store(authority.server("127.0.0.1", 2020));
    stage.until(|status| status.last_error.as_ref().is_some_and(|error| error.contains("expired"))).await;
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice(), "by the keys that are there");
    tls.store(authority.server("127.0.0.1", FAR));
    stage.until(|status| status.last_error.is_none()).await;
}

#[tokio::test]
async fn redirects_are_followed_within_one_origin_three_times() {
    let other = Provider::start(keys(&[P256_A.jwk("evil")])).await;
    let elsewhere = |location: String| Answer(StatusCode::FOUND, vec![("location", location)], Vec::new());
    for (what, jwks_uri, answer, good) in [
        ("three", "/hop/3", keys(&[P256_A.jwk("a")]), true),
        ("four", "/hop/4", keys(&[P256_A.jwk("a")]), false),
        ("another port", "/keys", elsewhere(format!("{}/keys", other.issuer())), false),
        ("another host", "/keys", elsewhere(format!("http://localhost:{}/keys", other.address.port())), false),
        ("another scheme", "/keys", elsewhere("https://127.0.0.1/keys".to_owned()), false),
        ("a file", "/keys", elsewhere("file:///etc/passwd".to_owned()), false),
        ("itself", "/keys", elsewhere("/keys".to_owned()), false),
    ] {
        let provider = Provider::start(answer).await;
        let issuer = provider.issuer();
        *provider.script.discovery.lock() = Some(ok(discovery(&issuer, &format!("{issuer}{jwks_uri}"))));
        let stage = Stage::start(provider.settings(), QUICK).await;
        let status = stage.status();
        assert_eq!(status.has_keys, good, "{what}: {status:?}");
        if !good {
            assert!(status.last_error.unwrap().contains("which is not followed"), "{what}");
        }
    }
    assert_eq!(other.key_fetches(), 0);
}

/// The same test as elsewhere, in a process whose environment names a proxy that nobody listens on.
#[test]
fn no_proxy_is_taken_from_the_environment() {
    let named = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let test = "identity::tests::provider::keys_are_found_by_discovery_and_fetched_once";
    run_alone(test, &named.map(|name| (name, "http://127.0.0.1:1")));
}

/// A proxy that leads to one place whatever it is asked for, and tells what that was.
async fn proxy(to: SocketAddr, tls: Option<Arc<ServerConfig>>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let told = Arc::clone(&heads);
    tokio::spawn(async move {
        // It ends with the test's runtime.
        while let Ok((client, _)) = listener.accept().await {
            let (told, tls) = (Arc::clone(&told), tls.clone());
            tokio::spawn(async move {
                match tls {
                    Some(tls) => tunnel(TlsAcceptor::from(tls).accept(client).await?, to, &told).await,
                    None => tunnel(client, to, &told).await,
                }
            });
        }
    });
    (address, heads)
}

async fn tunnel(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    to: SocketAddr,
    told: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    told.lock().push(head.clone());
    // "tollgate:hunter2"
    if !head.to_ascii_lowercase().contains("proxy-authorization: basic dg9sbgdhdgu6ahvudgvymg==") {
        return client.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n").await;
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let mut server = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

#[tokio::test]
async fn a_proxy_of_the_config_is_asked_for_the_name_and_told_who_we_are() {
    const NAME: &str = "login.acme.example";
    let authority = Authority::new();
    let tls = Arc::new(ArcSwap::new(authority.server(NAME, FAR)));
    let issuer = format!("https://{NAME}");
    let provider = Provider::start_tls(Some(&issuer), tls, keys(&[P256_A.jwk("a")])).await;
    let (secure, foreign) = (authority.server("localhost", FAR), Authority::new().server("localhost", FAR));
    for (password, tls, url, expected, asked) in [
        (Some("hunter2"), None, &*issuer, None, true),
        (Some("hunter2"), Some(&secure), &issuer, None, true),
        // Who we are is not told to a proxy that cannot prove its name.
        (Some("hunter2"), Some(&foreign), &issuer, Some("cannot be reached"), false),
        (Some("hunter3"), None, &issuer, Some("cannot be reached"), true),
        (None, None, &issuer, Some("cannot be reached"), true),
        // The proxy's own address is private, and the operator's choice; a provider's is not.
        (Some("hunter2"), None, "https://10.0.0.1", Some("is not a public address"), false),
        (Some("hunter2"), None, "http://login.acme.example", Some("http is not allowed"), false),
    ] {
        let (address, heads) = proxy(provider.address, tls.cloned()).await;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut settings = provider.settings();
        settings.keys = KeyOrigin::Discovery { issuer: Url::parse(url).unwrap() };
        settings.outbound.insecure = false;
        settings.outbound.roots = authority.roots();
        settings.outbound.proxy = Some(ProxySettings {
            url: Url::parse(&format!("{scheme}://localhost:{}", address.port())).unwrap(),
            credentials: password.map(|password| ("tollgate".to_owned(), Secret::new(password))),
        });
        let stage = Stage::start(settings, QUICK).await;
        let heads = heads.lock().clone();
        match (expected, stage.status().last_error) {
            (None, None) => {
                assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice());
                assert!(heads.iter().all(|head| head.starts_with("CONNECT login.acme.example:443 ")), "{heads:?}");
            }
            (Some(expected), Some(error)) => {
                assert!(error.contains(expected), "{error}");
                assert!(!error.contains("hunter"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(!heads.is_empty(), asked, "{heads:?}");
    }
}
