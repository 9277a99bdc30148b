//! A provider on loopback that behaves as each test tells it, and a stage that has it for an issuer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::super::settings::{Algorithm, IssuerSettings, KeyOrigin, Settings};
use super::super::source::Pace;
use super::super::testing::{NOW_S, P256_A, TestKey, good_claims, jwks, pinned, with};
use super::super::wait::Answered;
use super::super::{Accepted, Answers, Groups, Identified, Identities, Identity, IssuerStatus, Rejection};
use crate::clock::Clock;
use crate::request::Request;
use crate::trace::Trace;

/// A whole answer.
#[derive(Clone)]
pub(super) struct Answer(pub(super) StatusCode, pub(super) Vec<(&'static str, String)>, pub(super) Vec<u8>);

pub(super) fn ok(body: Vec<u8>) -> Answer {
    Answer(StatusCode::OK, Vec::new(), body)
}

pub(super) fn keys(keys: &[Value]) -> Answer {
    ok(jwks(keys))
}

#[derive(Default)]
pub(super) struct Script {
    /// For the key set; the last one stays.
    pub(super) keys: Mutex<VecDeque<Answer>>,
    /// In place of a discovery document of its own.
    pub(super) discovery: Mutex<Option<Answer>>,
    pub(super) discovery_fetches: AtomicUsize,
    pub(super) key_fetches: AtomicUsize,
    pub(super) elsewhere: AtomicUsize,
    /// While held, no key set is answered.
    pub(super) hold: tokio::sync::Mutex<()>,
    /// A byte each ten milliseconds, for ever, in place of a key set.
    pub(super) drips: AtomicBool,
}

pub(super) struct Provider {
    pub(super) script: Arc<Script>,
    pub(super) address: SocketAddr,
    issuer: String,
    _serving: DropGuard,
}

impl Provider {
    pub(super) async fn start(first: Answer) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Provider::serve(listener, address, format!("http://{address}"), first)
    }

    /// Behind TLS, as whoever the config says by then.
    pub(super) async fn start_tls(issuer: Option<&str>, tls: Arc<ArcSwap<ServerConfig>>, first: Answer) -> Provider {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let issuer = issuer.map_or_else(|| format!("https://{address}"), str::to_owned);
        Provider::serve(TlsListener { tcp, tls }, address, issuer, first)
    }

    fn serve<L>(listener: L, address: SocketAddr, issuer: String, first: Answer) -> Provider
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
    {
        let script = Arc::new(Script::default());
        script.keys.lock().push_back(first);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let app = Router::new().fallback(answer).with_state((Arc::clone(&script), issuer.clone()));
        tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stopped).into_future());
        Provider { script, address, issuer, _serving: stop.drop_guard() }
    }

    pub(super) fn issuer(&self) -> String {
        self.issuer.clone()
    }

    pub(super) fn settings(&self) -> IssuerSettings {
        let mut settings = pinned("acme", &self.issuer(), &[]);
        settings.keys = KeyOrigin::Discovery { issuer: Url::parse(&self.issuer()).unwrap() };
        settings.outbound.insecure = true;
        settings
    }

    pub(super) fn now_answers(&self, answer: Answer) {
        *self.script.keys.lock() = VecDeque::from([answer]);
    }

    pub(super) fn token(&self, key: &TestKey, kid: &str) -> String {
        key.sign(Algorithm::ES256, kid, &with(&good_claims(), json!({"iss": self.issuer()})))
    }

    pub(super) fn key_fetches(&self) -> usize {
        self.script.key_fetches.load(Ordering::SeqCst)
    }
}

/// Accepts connections that make it through their handshake.
struct TlsListener {
    tcp: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.tcp.accept().await else { continue };
            if let Ok(stream) = TlsAcceptor::from(self.tls.load_full()).accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn answer(State((script, issuer)): State<(Arc<Script>, String)>, uri: Uri) -> Response {
    let answer = match uri.path() {
        "/.well-known/openid-configuration" => {
            script.discovery_fetches.fetch_add(1, Ordering::SeqCst);
            let own = || ok(discovery(&issuer, &format!("{issuer}/keys")));
            script.discovery.lock().clone().unwrap_or_else(own)
        }
        "/keys" => {
            script.key_fetches.fetch_add(1, Ordering::SeqCst);
            let _held = script.hold.lock().await;
            if script.drips.load(Ordering::SeqCst) {
                let drops = futures_util::stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Some((Ok::<_, std::io::Error>(" "), ()))
                });
                return Body::from_stream(drops).into_response();
            }
            let mut answers = script.keys.lock();
            if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
        }
        // `/hop/3` leads to `/hop/2`, and at last to the keys.
        path if path.starts_with("/hop/") => {
            let left: u32 = path["/hop/".len()..].parse().unwrap();
            let next = if left <= 1 { "/keys".to_owned() } else { format!("/hop/{}", left - 1) };
            Answer(StatusCode::FOUND, vec![("location", next)], Vec::new())
        }
        _ => {
            script.elsewhere.fetch_add(1, Ordering::SeqCst);
            keys(&[P256_A.jwk("evil")])
        }
    };
    let Answer(status, headers, body) = answer;
    let headers: Vec<(HeaderName, String)> =
        headers.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
    (status, axum::response::AppendHeaders(headers), body).into_response()
}

pub(super) fn discovery(issuer: &str, jwks_uri: &str) -> Vec<u8> {
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "jwks_uri": jwks_uri,
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["none", "HS256", "ES256", "XX999"],
    });
    document.to_string().into_bytes()
}

/// Backoff of milliseconds, and no refresh that a test did not ask for.
pub(super) const QUICK: Pace = Pace {
    backoff_first: Duration::from_millis(5),
    backoff_max: Duration::from_millis(20),
    refresh_min: Duration::from_secs(3600),
    refresh_max: Duration::from_secs(3600),
    ..Pace::PRODUCTION
};

/// Refreshes all the time.
pub(super) const RESTLESS: Pace =
    Pace { refresh_min: Duration::from_millis(5), refresh_max: Duration::from_millis(10), ..QUICK };

pub(super) struct Stage {
    pub(super) identities: Identities,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

impl Stage {
    pub(super) async fn start(issuer: IssuerSettings, pace: Pace) -> Stage {
        Stage::start_with(Settings { issuers: vec![issuer], ..Settings::default() }, pace).await
    }

    pub(super) async fn start_with(settings: Settings, pace: Pace) -> Stage {
        let identities = Identities::with_pace(settings, Arc::new(Groups::default()), None, pace).unwrap();
        let (clock, stop) = (Clock::by_hand(NOW_S), CancellationToken::new());
        identities.spawn(&clock, &stop);
        identities.fetched().await;
        Stage { identities, clock, stop }
    }

    /// Until the task has fetched, or tried to, from beginning to end once more.
    pub(super) async fn next_fetch(&self) {
        let seen = self.status().fetches;
        // The fetch after the next began after this was called.
        self.until(|status| status.fetches >= seen + 2).await;
    }

    pub(super) fn identify(&self, token: &str) -> Identified {
        self.identify_after(token, &Answers::default())
    }

    pub(super) fn identify_after(&self, token: &str, answers: &Answers) -> Identified {
        let field = format!("Bearer {token}");
        let request = Request { authorization: Some(field.as_bytes()), ..Request::default() };
        self.identities.identify(&request, &Accepted::default(), answers, self.clock.now(), &mut Trace::off())
    }

    /// As the pipeline does: as often as there is something to wait for.
    pub(super) async fn outcome(&self, token: &str) -> Result<String, Rejection> {
        let mut answers = Answers::default();
        loop {
            match self.identify_after(token, &answers) {
                Identified::Known(identity) => return Ok(identity.user.clone()),
                Identified::Rejected(rejection) => return Err(rejection),
                Identified::Wait(wait) => answers.add(wait.await),
            }
        }
    }

    /// Who it is, by the keys that are here: a signature may be waited for, keys may not.
    pub(super) async fn known(&self, token: &str) -> Arc<Identity> {
        let mut answers = Answers::default();
        loop {
            match self.identify_after(token, &answers) {
                Identified::Known(identity) => return identity,
                Identified::Rejected(rejection) => panic!("{rejection:?}"),
                Identified::Wait(wait) => {
                    let answer = wait.await;
                    assert!(!matches!(answer.0, Answered::Keys), "keys were asked for");
                    answers.add(answer);
                }
            }
        }
    }

    pub(super) fn status(&self) -> IssuerStatus {
        self.identities.status(self.clock.now()).remove(0)
    }

    /// Until the background task has made it so.
    pub(super) async fn until(&self, so: impl Fn(&IssuerStatus) -> bool) {
        let made_so = async {
            while !so(&self.status()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), made_so).await.expect("within half a minute");
    }
}

/// Runs one test of this program in a process of its own, with `environment`.
pub(super) fn run_alone(test: &str, environment: &[(&str, &str)]) {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", test]).envs(environment.iter().copied());
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

pub(super) fn alice() -> Result<String, Rejection> {
    Ok("alice".to_owned())
}
