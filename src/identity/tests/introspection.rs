//! Opaque tokens, with an issuer on loopback that answers as each test tells it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::super::breaker;
use super::super::directory::{Absent, DirectoryKind, DirectorySettings};
use super::super::inquiries::PLACES;
use super::super::settings::{
    Algorithm, ClaimPath, ClientAuth, IntrospectionSettings, IssuerSettings, KeyOrigin, Settings, TokenUse, Userinfo,
};
use super::super::source::Pace;
use super::super::testing::{AUDIENCE, NOW_S, P256_A, P384_A, good_claims, pinned, with};
use super::super::{
    Accepted, Answers, CredentialKind, Groups, Identified, Identities, Identity, IntrospectionStatus, Rejection, Wait,
};
use crate::clock::Clock;
use crate::request::Request;
use crate::secret::Secret;
use crate::trace::Trace;

/// What the fake issuer does with one question.
#[derive(Clone)]
enum Reply {
    Json(Value),
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Nothing, for ever.
    Silent,
    /// A byte now and then, for ever.
    Drip,
}

impl Reply {
    fn status(status: u16) -> Reply {
        Reply::Raw(status, Vec::new(), Vec::new())
    }

    fn body(content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply::Raw(200, vec![("content-type", content_type.to_owned())], body.into())
    }

    async fn response(self) -> Response {
        let (status, headers, body) = match self {
            Reply::Json(value) => {
                let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
                (200, headers, Body::from(value.to_string()))
            }
            Reply::Raw(status, headers, body) => (status, headers, Body::from(body)),
            Reply::Silent => std::future::pending().await,
            Reply::Drip => {
                let bytes = futures_util::stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((Ok::<_, std::convert::Infallible>("{".to_owned()), ()))
                });
                let headers = vec![("content-type", "application/json".to_owned())];
                (200, headers, Body::from_stream(bytes))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }
}

/// One question as it came.
#[derive(Clone, Debug)]
struct Asked {
    authorization: Option<String>,
    form: HashMap<String, String>,
}

#[derive(Default)]
struct Script {
    /// By token.
    tokens: Mutex<HashMap<String, Reply>>,
    /// For every other token; inactive where `None`.
    otherwise: Mutex<Option<Reply>>,
    userinfo: Mutex<Option<Reply>>,
    /// Over the discovery document.
    discovery: Mutex<Value>,
    asked: Mutex<Vec<Asked>>,
    userinfo_asked: Mutex<Vec<Option<String>>>,
    discovery_asked: AtomicUsize,
    elsewhere: AtomicUsize,
    /// While held, no question about a token is answered.
    hold: tokio::sync::Mutex<()>,
}

struct Issuer {
    script: Arc<Script>,
    address: SocketAddr,
    _serving: DropGuard,
}

impl Issuer {
    /// Knows the token `good`.
    async fn start() -> Issuer {
        let script = Arc::new(Script { discovery: Mutex::new(json!({})), ..Script::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let app = Router::new().fallback(answer).with_state((Arc::clone(&script), address));
        let serving = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(serving.into_future());
        let issuer = Issuer { script, address, _serving: stop.drop_guard() };
        issuer.says("good", good());
        issuer
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn says(&self, token: &str, answer: Value) {
        self.script.tokens.lock().insert(token.to_owned(), Reply::Json(answer));
    }

    /// About every token but those it knows.
    fn otherwise(&self, reply: Reply) {
        *self.script.otherwise.lock() = Some(reply);
    }

    fn settings(&self) -> IssuerSettings {
        let url = Url::parse(&self.url()).unwrap();
        let mut settings = pinned("acme", &self.url(), &[]);
        (settings.keys, settings.tokens) = (KeyOrigin::None, TokenUse::Opaque);
        settings.outbound.insecure = true;
        settings.introspection = Some(IntrospectionSettings {
            client_id: "toll gate".to_owned(),
            client_secret: Secret::new(SECRET),
            auth: ClientAuth::Basic,
            issuer_url: url,
            endpoint: None,
            userinfo: Userinfo::Off,
            age_max: Duration::from_secs(60),
            prefix: String::new(),
        });
        settings
    }

    fn asked(&self) -> usize {
        self.script.asked.lock().len()
    }

    fn userinfo_asked(&self) -> usize {
        self.script.userinfo_asked.lock().len()
    }
}

async fn answer(
    State((script, address)): State<(Arc<Script>, SocketAddr)>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let reply = match uri.path() {
        "/.well-known/openid-configuration" => {
            script.discovery_asked.fetch_add(1, Ordering::SeqCst);
            let issuer = format!("http://{address}");
            let own = json!({
                "issuer": issuer,
                "introspection_endpoint": format!("{issuer}/introspect"),
                "userinfo_endpoint": format!("{issuer}/me"),
            });
            Reply::Json(with(&own, script.discovery.lock().clone()))
        }
        "/introspect" => {
            let form: HashMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
            let token = form.get("token").cloned().unwrap_or_default();
            script.asked.lock().push(Asked { authorization, form });
            let _held = script.hold.lock().await;
            let known = script.tokens.lock().get(&token).cloned();
            let otherwise = || script.otherwise.lock().clone().unwrap_or(Reply::Json(json!({ "active": false })));
            known.unwrap_or_else(otherwise)
        }
        "/me" => {
            script.userinfo_asked.lock().push(authorization);
            script.userinfo.lock().clone().unwrap_or(Reply::status(404))
        }
        "/gone" => Reply::status(404),
        _ => {
            script.elsewhere.fetch_add(1, Ordering::SeqCst);
            Reply::Json(good())
        }
    };
    reply.response().await
}

/// An answer that every check accepts at [`NOW_S`].
fn good() -> Value {
    json!({
        "active": true, "sub": "alice", "aud": AUDIENCE, "client_id": "web", "scope": "read write",
        "exp": NOW_S + 300, "iat": NOW_S, "token_type": "Bearer", "groups": ["platform-ops"],
    })
}

const SECRET: &str = "s3cr&t:+ %";

/// Never waits long for an answer that does not come.
const QUICK: breaker::Pace = breaker::Pace { patience: Duration::from_millis(300), pause: Duration::from_secs(1) };

/// For answers that must come, on a machine that is busy.
const PATIENT: breaker::Pace = breaker::Pace { patience: Duration::from_secs(30), ..QUICK };

struct Stage {
    identities: Identities,
    clock: Clock,
    stop: CancellationToken,
}

impl Stage {
    fn start(issuers: Vec<IssuerSettings>, asking: breaker::Pace) -> Stage {
        let stage = Stage::after(issuers, asking, None);
        stage.identities.spawn(&stage.clock, &stage.stop);
        stage
    }

    fn after(issuers: Vec<IssuerSettings>, asking: breaker::Pace, previous: Option<&Identities>) -> Stage {
        let settings = Settings { issuers, ..Settings::default() };
        let groups = Groups::new([("ops", vec![("acme", "platform-ops")])]).unwrap();
        let identities =
            Identities::with_paces(settings, Arc::new(groups), previous, Pace::PRODUCTION, asking).unwrap();
        Stage { identities, clock: Clock::by_hand(NOW_S), stop: CancellationToken::new() }
    }

    async fn of(issuer: &Issuer) -> Stage {
        Stage::start(vec![issuer.settings()], PATIENT)
    }

    fn identify_from(&self, source: Option<IpAddr>, token: &str, answers: &Answers) -> Identified {
        let field = format!("Bearer {token}");
        let request = Request { authorization: Some(field.as_bytes()), src: source, ..Request::default() };
        let accepted = Accepted::new([CredentialKind::Opaque]);
        self.identities.identify(&request, &accepted, answers, self.clock.now(), &mut Trace::off())
    }

    fn identify(&self, token: &str) -> Identified {
        self.identify_from(None, token, &Answers::default())
    }

    fn wait(&self, token: &str) -> Wait {
        match self.identify(token) {
            Identified::Wait(wait) => wait,
            other => panic!("{other:?}"),
        }
    }

    /// As the pipeline does: as often as there is something to wait for.
    async fn whole(&self, token: &str) -> Result<Arc<Identity>, Rejection> {
        self.whole_from(None, token).await
    }

    async fn whole_from(&self, source: Option<IpAddr>, token: &str) -> Result<Arc<Identity>, Rejection> {
        let mut answers = Answers::default();
        loop {
            match self.identify_from(source, token, &answers) {
                Identified::Known(identity) => return Ok(identity),
                Identified::Rejected(rejection) => return Err(rejection),
                Identified::Wait(wait) => answers.add(wait.await),
            }
        }
    }

    async fn outcome(&self, token: &str) -> Result<String, Rejection> {
        self.whole(token).await.map(|identity| identity.user.clone())
    }

    fn status(&self) -> IntrospectionStatus {
        self.identities.introspection_status().remove(0)
    }

    /// Until the background task has made it so.
    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let made_so = async {
            while !so() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), made_so).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

fn alice() -> Result<String, Rejection> {
    Ok("alice".to_owned())
}

#[tokio::test]
async fn an_active_token_is_who_its_issuer_says() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    assert!(stage.identities.ready() && stage.identities.status(stage.clock.now()).is_empty(), "no keys are needed");
    let identity = stage.whole("good").await.unwrap();
    assert_eq!(identity.credential, CredentialKind::Opaque);
    assert_eq!((&*identity.issuer_name, identity.issuer.as_str()), ("acme", issuer.url().as_str()));
    assert_eq!((identity.user.as_str(), identity.subject.as_str()), ("alice", "alice"));
    assert_eq!((identity.client_id.as_str(), identity.groups_joined.as_str()), ("web", "ops"));
    assert_eq!(
        (identity.scopes.as_slice(), identity.groups_known),
        (&["read".to_owned(), "write".to_owned()][..], true)
    );
    assert_eq!(identity.expires_at_s, NOW_S as i64 + 300);
    // Once more, and nobody is asked.
    assert!(Arc::ptr_eq(&stage.whole("good").await.unwrap(), &identity));
    assert_eq!(stage.outcome("bad").await, Err(Rejection::TokenInactive));
    assert_eq!(stage.outcome("bad").await, Err(Rejection::TokenInactive));
    assert_eq!(issuer.script.discovery_asked.load(Ordering::SeqCst), 1);
    let asked = issuer.script.asked.lock().clone();
    let tokens: Vec<&str> = asked.iter().map(|asked| asked.form["token"].as_str()).collect();
    assert_eq!(tokens, ["good", "bad"]);
    // RFC 6749, section 2.3.1: each form-encoded, then both as Basic.
    let basic = format!("Basic {}", STANDARD.encode("toll+gate:s3cr%26t%3A%2B+%25"));
    assert_eq!(asked[0].authorization.as_deref(), Some(basic.as_str()));
    assert_eq!((asked[0].form.len(), asked[0].form["token_type_hint"].as_str()), (2, "access_token"));
    let status = stage.status();
    assert_eq!((status.answering, status.asked, status.failed, status.hits), (true, 2, 0, 2));
}

#[tokio::test]
async fn the_secret_goes_into_the_form_where_the_config_says_so() {
    let issuer = Issuer::start().await;
    let mut settings = issuer.settings();
    let introspection = settings.introspection.as_mut().unwrap();
    introspection.auth = ClientAuth::Post;
    introspection.endpoint = Some(Url::parse(&format!("{}/introspect", issuer.url())).unwrap());
    let stage = Stage::start(vec![settings], PATIENT);
    assert_eq!(stage.outcome("good").await, alice());
    let asked = issuer.script.asked.lock()[0].clone();
    assert_eq!(asked.authorization, None);
    assert_eq!((asked.form["client_id"].as_str(), asked.form["client_secret"].as_str()), ("toll gate", SECRET));
    assert_eq!(issuer.script.discovery_asked.load(Ordering::SeqCst), 0, "the config says where it is");
}

#[tokio::test]
async fn each_member_is_absent_valid_or_refused() {
    use Rejection::*;
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    let now = NOW_S as i64;
    for (index, (changes, expected)) in [
        (json!({}), None),
        (json!({ "active": false }), Some(TokenInactive)),
        (json!({ "active": "-" }), Some(TokenInactive)),
        (json!({ "active": "true" }), Some(TokenInactive)),
        (json!({ "active": 1 }), Some(TokenInactive)),
        (json!({ "active": null }), Some(TokenInactive)),
        (json!({ "active": [true] }), Some(TokenInactive)),
        (json!({ "iss": issuer.url() }), None),
        (json!({ "iss": format!("{}/", issuer.url()) }), Some(IssuerUnknown)),
        (json!({ "iss": null }), Some(ClaimMalformed)),
        (json!({ "exp": "-" }), None),
        (json!({ "exp": now - 59 }), None),
        (json!({ "exp": now - 60 }), Some(TokenExpired)),
        (json!({ "exp": 0 }), Some(TokenExpired)),
        (json!({ "exp": -1 }), Some(TokenExpired)),
        (json!({ "exp": null }), Some(ClaimMalformed)),
        (json!({ "exp": (now + 300).to_string() }), Some(ClaimMalformed)),
        (json!({ "exp": 1e300 }), Some(ClaimMalformed)),
        (json!({ "nbf": now + 61 }), Some(TokenNotYetValid)),
        (json!({ "nbf": "x" }), Some(ClaimMalformed)),
        (json!({ "iat": now + 61 }), Some(IssuedInFuture)),
        (json!({ "aud": "-" }), Some(ClaimMissing)),
        (json!({ "aud": ["x", AUDIENCE] }), None),
        (json!({ "aud": "https://other.example" }), Some(AudienceMismatch)),
        (json!({ "aud": [AUDIENCE, 1] }), Some(ClaimMalformed)),
        (json!({ "sub": "-" }), Some(ClaimMissing)),
        (json!({ "sub": "-", "username": "alice" }), None),
        (json!({ "sub": "-", "username": 7 }), Some(ClaimMalformed)),
        (json!({ "sub": 7, "username": "alice" }), Some(ClaimMalformed)),
        (json!({ "sub": "" }), Some(ClaimMalformed)),
        (json!({ "sub": "a\u{7}" }), Some(IdentityUnsafe)),
        (json!({ "scope": 7 }), Some(ClaimMalformed)),
        (json!({ "client_id": 7 }), Some(ClaimMalformed)),
        (json!({ "groups": { "a": 1 } }), Some(ClaimMalformed)),
        (json!({ "token_type": "-" }), None),
        (json!({ "token_type": "bearer" }), None),
        (json!({ "token_type": "DPoP" }), Some(ProofMissing)),
        (json!({ "token_type": "refresh_token" }), Some(TokenType)),
        (json!({ "token_type": 7 }), Some(ClaimMalformed)),
        (json!({ "typ": "Refresh" }), Some(TokenType)),
        (json!({ "token_use": "refresh_token" }), Some(TokenType)),
        (json!({ "token_use": "access_token" }), None),
        (json!({ "token_type": "-", "aud": "-" }), Some(TokenType)),
        (json!({ "cnf": { "jkt": "x" } }), Some(ClaimMalformed)),
        (json!({ "cnf": { "jkt": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" } }), Some(ProofMissing)),
        (json!({ "cnf": { "x5t#S256": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" } }), Some(ProofMissing)),
        (json!({ "cnf": { "kid": "x" } }), Some(ProofMissing)),
        (json!({ "cnf": null }), Some(ClaimMalformed)),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("t{index}");
        issuer.says(&token, with(&good(), changes.clone()));
        assert_eq!(stage.outcome(&token).await.err(), expected, "{changes}");
    }
    assert_eq!(stage.status().failed, 0, "every one of them is an answer");
}

/// RFC 9449, section 6.2.
#[tokio::test]
async fn a_token_that_is_bound_to_a_key_comes_with_a_proof() {
    let hash =
        |text: &str| URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()));
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    // Sorted and without white space, as RFC 7638 has it.
    let cnf = json!({ "jkt": hash(&P256_A.jwk_unnamed().to_string()) });
    issuer.says("bound", with(&good(), json!({ "token_type": "DPoP", "cnf": cnf })));
    let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": P256_A.jwk_unnamed() }).to_string();
    let proof = |jti: &str, token: &str| {
        let claims = json!({ "jti": jti, "htm": "GET", "htu": "https://a.example/", "iat": NOW_S, "ath": hash(token) });
        P256_A.sign_text(&header, claims.to_string(), Algorithm::ES256)
    };
    for (authorization, proof, expected) in [
        ("DPoP bound", Some(proof("1", "bound")), Ok(CredentialKind::Dpop)),
        ("DPoP bound", Some(proof("1", "bound")), Err(Rejection::DpopReplayed)),
        ("DPoP bound", Some(proof("2", "good")), Err(Rejection::DpopProofInvalid)),
        ("DPoP bound", None, Err(Rejection::ProofMissing)),
        ("Bearer bound", Some(proof("3", "bound")), Err(Rejection::ProofMissing)),
        ("DPoP good", Some(proof("4", "good")), Err(Rejection::ClaimMissing)),
        ("Bearer good", None, Ok(CredentialKind::Opaque)),
    ] {
        let request = Request {
            method: "GET",
            host: "a.example".into(),
            path: b"/",
            ssl: true,
            authorization: Some(authorization.as_bytes()),
            dpop: proof.as_ref().map(|proof| proof.as_bytes()),
            ..Request::default()
        };
        let accepted = Accepted::new([CredentialKind::Opaque, CredentialKind::Dpop]);
        let mut answers = Answers::default();
        let said = loop {
            match stage.identities.identify(&request, &accepted, &answers, stage.clock.now(), &mut Trace::off()) {
                Identified::Known(identity) => break Ok(identity.credential),
                Identified::Rejected(rejection) => break Err(rejection),
                Identified::Wait(wait) => answers.add(wait.await),
            }
        };
        assert_eq!(said, expected, "{authorization} {proof:?}");
    }
}

/// A rule that takes opaque tokens alone shows every token to the issuer, whatever it looks like and in either scheme.
#[tokio::test]
async fn what_a_rule_takes_decides_what_a_token_with_a_proof_is() {
    use CredentialKind::{Dpop, Jwt, Opaque};
    let hash =
        |text: &str| URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()));
    let issuer = Issuer::start().await;
    let mut settings = issuer.settings();
    let keys = pinned("acme", &issuer.url(), &[P384_A.jwk("f")]).keys;
    (settings.keys, settings.tokens) = (keys, TokenUse::Access);
    let stage = Stage::start(vec![settings], PATIENT);
    let jkt = hash(&P256_A.jwk_unnamed().to_string());
    let claims = with(&good_claims(), json!({ "iss": issuer.url(), "cnf": { "jkt": jkt } }));
    let token = P384_A.sign(Algorithm::ES384, "f", &claims);
    let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": P256_A.jwk_unnamed() }).to_string();
    for (index, (accepted, expected)) in [
        (vec![Opaque, Dpop], Err(Rejection::TokenInactive)),
        (vec![Jwt, Dpop], Ok(Dpop)),
        (vec![Jwt, Opaque, Dpop], Ok(Dpop)),
        (vec![Dpop], Ok(Dpop)),
    ]
    .into_iter()
    .enumerate()
    {
        let claims = json!({ "jti": index.to_string(), "htm": "GET", "htu": "https://a.example/", "iat": NOW_S,
                             "ath": hash(&token) });
        let proof = P256_A.sign_text(header.clone(), claims.to_string(), Algorithm::ES256);
        let authorization = format!("DPoP {token}");
        let request = Request {
            method: "GET",
            host: "a.example".into(),
            path: b"/",
            ssl: true,
            authorization: Some(authorization.as_bytes()),
            dpop: Some(proof.as_bytes()),
            ..Request::default()
        };
        let kinds = Accepted::new(accepted.iter().copied());
        let mut answers = Answers::default();
        let said = loop {
            match stage.identities.identify(&request, &kinds, &answers, stage.clock.now(), &mut Trace::off()) {
                Identified::Known(identity) => break Ok(identity.credential),
                Identified::Rejected(rejection) => break Err(rejection),
                Identified::Wait(wait) => answers.add(wait.await),
            }
        };
        assert_eq!(said, expected, "{accepted:?}");
    }
}

#[tokio::test]
async fn another_claim_may_stand_for_the_audience() {
    let issuer = Issuer::start().await;
    let mut settings = issuer.settings();
    settings.claims.audience.push(ClaimPath::parse("client_id").unwrap());
    settings.audiences = vec!["web".to_owned()];
    let stage = Stage::start(vec![settings], PATIENT);
    issuer.says("ours", with(&good(), json!({ "aud": "-" })));
    issuer.says("theirs", with(&good(), json!({ "aud": "-", "client_id": "other" })));
    assert_eq!(stage.outcome("ours").await, alice());
    assert_eq!(stage.outcome("theirs").await, Err(Rejection::AudienceMismatch));
}

#[tokio::test]
async fn what_the_config_requires_is_not_filled_in() {
    for (claim, required) in [("iss", json!("x")), ("exp", json!(1)), ("sub", json!("alice")), ("org", json!("x"))] {
        let issuer = Issuer::start().await;
        let said = json!({ claim: "-", "username": "alice" });
        issuer.says("t", with(&good(), said));
        let path = ClaimPath::parse(claim).unwrap();
        let mut there = issuer.settings();
        there.required_claims.push(path.clone());
        assert_eq!(Stage::start(vec![there], PATIENT).outcome("t").await, Err(Rejection::ClaimMissing), "{claim}");
        let mut fixed = issuer.settings();
        fixed.require.push((path, required));
        assert_eq!(Stage::start(vec![fixed], PATIENT).outcome("t").await, Err(Rejection::ClaimMissing), "{claim}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_our_failure_and_is_asked_again() {
    let deep = format!("{{\"active\":true,\"a\":{}{}}}", "[".repeat(20), "]".repeat(20));
    let large = format!("{{\"active\":true,\"sub\":\"{}\"}}", "a".repeat(600 * 1024));
    let elsewhere = Issuer::start().await;
    let redirect = vec![("location", format!("{}/elsewhere", elsewhere.url()))];
    for (what, reply, said) in [
        ("500", Reply::status(500), "status 500"),
        ("404", Reply::status(404), "status 404"),
        ("401", Reply::status(401), "does not take our `client_id` and `client_secret`"),
        ("403", Reply::status(403), "does not take our `client_id` and `client_secret`"),
        ("429", Reply::Raw(429, vec![("retry-after", "7".to_owned())], Vec::new()), "status 429"),
        ("a redirect", Reply::Raw(307, redirect, Vec::new()), "307"),
        ("an empty body", Reply::body("application/json", ""), "JSON object"),
        ("a list", Reply::body("application/json", "[]"), "JSON object"),
        ("half of it", Reply::body("application/json", r#"{"active":tr"#), "JSON object"),
        ("twice active", Reply::body("application/json", r#"{"active":false,"active":true}"#), "JSON object"),
        ("too deep", Reply::body("application/json", deep), "JSON object"),
        ("too large", Reply::body("application/json", large), "more than 524288 bytes"),
        ("HTML", Reply::body("text/html", good().to_string()), "text/html"),
        ("no type", Reply::Raw(200, Vec::new(), good().to_string().into_bytes()), "expected application/json"),
        ("signed", Reply::body("application/token-introspection+jwt", "eyJ.e30.x"), "RFC 9701"),
        ("silence", Reply::Silent, "no answer within 300 ms"),
        ("a drip", Reply::Drip, "no answer within 300 ms"),
    ] {
        let issuer = Issuer::start().await;
        let stage = Stage::start(vec![issuer.settings()], QUICK);
        issuer.otherwise(reply);
        let rejection = stage.outcome("t").await.unwrap_err();
        assert_eq!((rejection, rejection.is_failure()), (Rejection::IntrospectionUnavailable, true), "{what}");
        let error = stage.status().last_error.unwrap_or_default();
        assert!(error.contains(said), "{what}: {error}");
        assert!(!error.contains(SECRET) && !format!("{:?}", issuer.settings()).contains(SECRET), "{what}: {error}");
        // Nothing of it is remembered.
        issuer.otherwise(Reply::Json(good()));
        stage.clock.advance(Duration::from_secs(61));
        let again = stage.outcome("t").await;
        // The one that asked to be left alone is probed first.
        assert!(again == alice() || (what == "429" && again.is_err()), "{what}: {again:?}");
        let asked = issuer.asked();
        stage.until("the second question is asked", || issuer.asked() == 2).await;
        assert!(asked <= 2, "{what}");
    }
    assert_eq!(
        elsewhere.asked() + elsewhere.script.elsewhere.load(Ordering::SeqCst),
        0,
        "nobody else is shown a token"
    );
}

#[tokio::test]
async fn ten_thousand_requests_with_one_new_token_are_one_question() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    let held = issuer.script.hold.lock().await;
    let waits: Vec<Wait> = (0..10_000).map(|_| stage.wait("good")).collect();
    drop(held);
    for wait in waits {
        let mut answers = Answers::default();
        answers.add(wait.await);
        let Identified::Known(identity) = stage.identify_from(None, "good", &answers) else { panic!() };
        assert_eq!(identity.user, "alice");
    }
    assert_eq!((issuer.asked(), stage.status().asked), (1, 1));
}

#[tokio::test]
async fn who_cannot_wait_any_longer_is_told_so_and_the_next_finds_the_answer() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    let held = issuer.script.hold.lock().await;
    drop(stage.wait("good"));
    let mut answers = Answers::default();
    answers.close();
    let late = stage.identify_from(None, "good", &answers);
    assert!(matches!(late, Identified::Rejected(Rejection::IntrospectionUnavailable)), "{late:?}");
    drop(held);
    stage.until("the answer is there", || matches!(stage.identify("good"), Identified::Known(_))).await;
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn an_answer_is_believed_for_a_minute_and_not_beyond_its_end() {
    for (exp, age_max_s, believed_s) in
        [(json!("-"), 60, 60), (json!(NOW_S + 300), 60, 60), (json!(NOW_S + 300), 7, 7), (json!(NOW_S + 30), 60, 30)]
    {
        let issuer = Issuer::start().await;
        issuer.says("t", with(&good(), json!({ "exp": exp })));
        let mut settings = issuer.settings();
        settings.introspection.as_mut().unwrap().age_max = Duration::from_secs(age_max_s);
        let stage = Stage::start(vec![settings], PATIENT);
        let identity = stage.whole("t").await.unwrap();
        assert!(exp != "-" || !identity.claims.contains_key("exp"), "what the issuer did not say is no claim");
        // Nothing is renewed here, so that the end is seen.
        *issuer.script.tokens.lock() = HashMap::from([("t".to_owned(), Reply::Silent)]);
        stage.clock.advance(Duration::from_secs(believed_s) - Duration::from_millis(1));
        assert!(matches!(stage.identify("t"), Identified::Known(_)), "{exp} {age_max_s}");
        stage.clock.advance(Duration::from_millis(1));
        assert!(matches!(stage.identify("t"), Identified::Wait(_)), "{exp} {age_max_s}");
    }
}

#[tokio::test]
async fn a_token_past_its_end_is_not_kept_for_the_leeway() {
    let issuer = Issuer::start().await;
    issuer.says("t", with(&good(), json!({ "exp": NOW_S - 10 })));
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("t").await, alice(), "clocks may differ");
    assert_eq!(stage.outcome("t").await, alice());
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn a_refusal_is_remembered_for_five_seconds() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    issuer.says("early", with(&good(), json!({ "nbf": NOW_S + 61 })));
    for (token, rejection) in [("new", Rejection::TokenInactive), ("early", Rejection::TokenNotYetValid)] {
        assert_eq!(stage.outcome(token).await, Err(rejection));
        issuer.says(token, good());
    }
    stage.clock.advance(Duration::from_millis(4999));
    assert_eq!(stage.outcome("new").await, Err(Rejection::TokenInactive));
    assert_eq!(stage.outcome("early").await, Err(Rejection::TokenNotYetValid));
    assert_eq!(issuer.asked(), 2);
    stage.clock.advance(Duration::from_millis(1));
    assert_eq!((stage.outcome("new").await, stage.outcome("early").await), (alice(), alice()));
}

#[tokio::test]
async fn a_token_in_use_is_asked_about_ahead_of_its_end() {
    let issuer = Issuer::start().await;
    issuer.says("t", with(&good(), json!({ "exp": NOW_S + 3600 })));
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("t").await, alice());
    stage.clock.advance(Duration::from_secs(44));
    assert!(matches!(stage.identify("t"), Identified::Known(_)));
    assert_eq!(stage.status().asked, 1);
    stage.clock.advance(Duration::from_secs(1));
    // However many come, one of them asks, and none waits.
    for _ in 0..100 {
        assert!(matches!(stage.identify("t"), Identified::Known(_)));
    }
    assert_eq!(stage.status().asked, 2);
    stage
        .until("it is renewed", || {
            issuer.asked() == 2 && stage.identities.cached_opaque("t", stage.clock.now().later(Duration::from_secs(59)))
        })
        .await;
    stage.clock.advance(Duration::from_secs(44));
    assert!(matches!(stage.identify("t"), Identified::Known(_)), "89 seconds after the first answer");
    // Withdrawn meanwhile, it ends with the next answer and not with the minute.
    issuer.says("t", json!({ "active": false }));
    stage.clock.advance(Duration::from_secs(1));
    let refused = || matches!(stage.identify("t"), Identified::Rejected(Rejection::TokenInactive));
    stage.until("it is refused", refused).await;
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test]
async fn known_tokens_outlive_an_outage_to_the_end_of_their_minute() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("good").await, alice());
    issuer.says("good", json!({}));
    issuer.script.tokens.lock().insert("good".to_owned(), Reply::status(500));
    for second in 1..60 {
        stage.clock.advance(Duration::from_secs(1));
        assert!(matches!(stage.identify("good"), Identified::Known(_)), "after {second} s");
    }
    let (asked, failed) = (stage.status().asked, || stage.status().failed);
    assert!((2..=5).contains(&asked), "four chances in the last quarter: {asked}");
    stage.until("each was answered", || failed() == asked - 1).await;
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(stage.outcome("good").await, Err(Rejection::IntrospectionUnavailable));
}

#[tokio::test]
async fn nobody_waits_for_an_issuer_that_does_not_answer() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("good").await, alice());
    issuer.otherwise(Reply::status(500));
    for n in 0..3 {
        drop(stage.wait(&format!("t{n}")));
        stage.until("it fails", || stage.status().failed == n + 1).await;
    }
    let unavailable =
        |token: &str| matches!(stage.identify(token), Identified::Rejected(Rejection::IntrospectionUnavailable));
    for n in 0..1000 {
        assert!(unavailable(&format!("u{n}")));
    }
    assert_eq!((issuer.asked(), stage.status().answering), (4, false));
    // What is known stays known.
    assert!(matches!(stage.identify("good"), Identified::Known(_)));
    // A second later one request sees to it that somebody looks, and does not wait either.
    stage.clock.advance(Duration::from_secs(1));
    for n in 0..1000 {
        assert!(unavailable(&format!("v{n}")));
    }
    stage.until("the probe failed", || stage.status().failed == 4).await;
    assert_eq!(issuer.asked(), 5);
    issuer.otherwise(Reply::Json(good()));
    stage.clock.advance(Duration::from_secs(1));
    assert!(unavailable("w"));
    stage.until("it answers again", || stage.status().answering).await;
    assert_eq!(stage.outcome("w").await, alice());
    assert_eq!(stage.outcome("x").await, alice());
    assert_eq!(stage.status().last_error, None);
}

#[tokio::test]
async fn an_issuer_that_asks_to_be_left_alone_is() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    issuer.otherwise(Reply::Raw(429, vec![("retry-after", "30".to_owned())], Vec::new()));
    assert_eq!(stage.outcome("t").await, Err(Rejection::IntrospectionUnavailable));
    stage.clock.advance(Duration::from_millis(29_999));
    for n in 0..100 {
        let refused = stage.identify(&format!("t{n}"));
        assert!(matches!(refused, Identified::Rejected(Rejection::IntrospectionUnavailable)), "{refused:?}");
    }
    assert_eq!(issuer.asked(), 1);
    stage.clock.advance(Duration::from_millis(1));
    drop(stage.identify("good"));
    stage.until("it answers again", || stage.status().answering).await;
}

#[tokio::test]
async fn a_token_that_an_issuer_stumbles_over_keeps_no_other_from_being_asked_about() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    for status in [400, 413, 414, 422, 431] {
        issuer.otherwise(Reply::status(status));
        for n in 0..5 {
            let token = format!("t{status}-{n}");
            assert_eq!(stage.outcome(&token).await, Err(Rejection::IntrospectionUnavailable), "{status}");
        }
    }
    assert_eq!(stage.outcome("good").await, alice());
    assert_eq!((stage.status().failed, stage.status().answering), (25, true));
}

fn v4(last: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(192, 0, 2, last).into())
}

#[tokio::test]
async fn a_token_that_an_issuer_stumbles_over_is_shown_to_it_once_in_five_seconds() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    issuer.otherwise(Reply::status(413));
    for asked in [1, 1, 2] {
        assert_eq!(stage.outcome("odd").await, Err(Rejection::IntrospectionUnavailable));
        assert_eq!(issuer.asked(), asked);
        stage.clock.advance(Duration::from_millis(2500));
    }
}

#[tokio::test]
async fn who_makes_up_tokens_is_asked_about_so_often_and_keeps_no_other_out() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    let asked_for = async |token: &str, count: usize| {
        let before = issuer.asked();
        for n in 0..count {
            assert!(stage.whole_from(v4(1), &format!("{token}{n}")).await.is_err());
        }
        issuer.asked() - before
    };
    assert_eq!(asked_for("a", 200).await, 30);
    assert!(stage.whole_from(v4(2), "good").await.is_ok());
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(asked_for("b", 200).await, 5);
    assert_eq!(stage.status().no_place, 170 + 195);
    // Good ones cost nothing, however many there are behind an address.
    for n in 0..100 {
        issuer.says(&format!("good{n}"), good());
        assert!(stage.whole_from(v4(3), &format!("good{n}")).await.is_ok());
    }
}

#[tokio::test]
async fn one_stranger_cannot_make_an_issuer_look_down_and_none_can_for_the_known() {
    for odd in [Reply::status(403), Reply::status(500), Reply::body("text/html", "no"), Reply::status(429)] {
        let issuer = Issuer::start().await;
        issuer.says("known", with(&good(), json!({ "exp": NOW_S + 3600 })));
        let stage = Stage::of(&issuer).await;
        assert!(stage.whole_from(v4(9), "known").await.is_ok());
        let is_429 = matches!(&odd, Reply::Raw(429, ..));
        issuer.otherwise(odd);
        let stumble = async |source, count| {
            for n in 0..count {
                assert!(stage.whole_from(source, &format!("odd{n}")).await.is_err());
            }
        };
        if !is_429 {
            stumble(v4(1), 10).await;
            assert!(stage.status().answering);
            assert!(stage.whole_from(v4(2), "good").await.is_ok());
        }
        for last in 1..4 {
            stumble(v4(last), 1).await;
        }
        assert!(!stage.status().answering);
        issuer.says("other", good());
        let new = stage.whole_from(v4(4), "other").await;
        assert_eq!(new.err(), Some(Rejection::IntrospectionUnavailable), "strangers are kept out");

        // A minute later the known one is asked about all the same, and that it is answered lets everybody in.
        stage.clock.advance(Duration::from_secs(61));
        issuer.script.discovery_asked.store(0, Ordering::SeqCst);
        assert!(stage.whole_from(v4(9), "known").await.is_ok());
        assert!(stage.status().answering);
        assert!(stage.whole_from(v4(4), "other").await.is_ok());
    }
}

#[tokio::test]
async fn an_issuer_that_has_enough_is_spared_strangers_first_and_then_the_known() {
    let issuer = Issuer::start().await;
    issuer.says("known", with(&good(), json!({ "exp": NOW_S + 3600 })));
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("known").await, alice());
    let enough = Reply::Raw(429, vec![("retry-after", "60".to_owned())], Vec::new());
    issuer.otherwise(enough.clone());
    assert!(stage.whole_from(v4(1), "t").await.is_err());
    stage.clock.advance(Duration::from_secs(45));
    assert!(stage.whole_from(v4(1), "u").await.is_err());
    assert_eq!(issuer.asked(), 2, "no stranger");
    assert!(matches!(stage.identify("known"), Identified::Known(_)));
    stage.until("the known one is asked about", || issuer.asked() == 3).await;
    let renewed = || stage.identities.cached_opaque("known", stage.clock.now().later(Duration::from_secs(59)));
    stage.until("it is renewed", renewed).await;

    issuer.script.tokens.lock().insert("known".to_owned(), enough);
    stage.clock.advance(Duration::from_secs(45));
    assert!(matches!(stage.identify("known"), Identified::Known(_)));
    stage.until("it is told off", || stage.status().failed == 2).await;
    stage.clock.advance(Duration::from_secs(10));
    assert!(matches!(stage.identify("known"), Identified::Known(_)));
    assert_eq!(issuer.asked(), 4, "nobody");
}

#[tokio::test]
async fn a_flood_of_made_up_tokens_takes_its_places_and_no_more() {
    let issuer = Issuer::start().await;
    issuer.says("known", with(&good(), json!({ "exp": NOW_S + 3600 })));
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("known").await, alice());
    stage.clock.advance(Duration::from_secs(50));

    let held = issuer.script.hold.lock().await;
    let mut waits = Vec::new();
    let mut from = |source: IpAddr, count: usize| {
        let before = waits.len();
        for n in 0..count {
            match stage.identify_from(Some(source), &format!("{source}-{n}").replace(':', "_"), &Answers::default()) {
                Identified::Wait(wait) => waits.push(wait),
                Identified::Rejected(Rejection::IntrospectionUnavailable) => {}
                other => panic!("{other:?}"),
            }
        }
        waits.len() - before
    };
    let v6 = |last: u16| IpAddr::V6([0x2001, 0xdb8, 0, 7, 0, 0, 0, last].into());
    assert_eq!(from(Ipv4Addr::new(192, 0, 2, 1).into(), 10_000), PLACES.of_source);
    // Whoever has one address of IPv6 has all of its network.
    assert_eq!((from(v6(1), 2), from(v6(2), 10_000)), (2, PLACES.of_source - 2));
    assert_eq!(from(Ipv4Addr::new(198, 51, 100, 1).into(), 10_000), 0, "there are so many places for strangers");
    stage.until("all were asked", || issuer.asked() == 1 + PLACES.all - PLACES.kept).await;
    // Meanwhile who is known passes, and is asked about ahead of the end.
    assert!(matches!(stage.identify("known"), Identified::Known(_)));
    stage.until("the known one too", || issuer.asked() == 2 + PLACES.all - PLACES.kept).await;
    drop(held);
    for wait in waits {
        wait.await;
    }
    stage
        .until("it is renewed", || {
            stage.identities.cached_opaque("known", stage.clock.now().later(Duration::from_secs(59)))
        })
        .await;
    assert!(stage.status().no_place > 29_000);
    assert_eq!(stage.outcome("good").await, alice(), "places are free again");
}

#[tokio::test]
async fn refused_tokens_push_out_no_good_one() {
    let issuer = Issuer::start().await;
    let mut settings = issuer.settings();
    settings.introspection.as_mut().unwrap().age_max = Duration::from_secs(60);
    let stage = Stage::start(vec![settings], PATIENT);
    let before = stage.whole("good").await.unwrap();
    let padding = "x".repeat(15_000);
    // 6 MB of tokens, where refused ones have 4 MiB.
    for n in 0..400 {
        assert_eq!(stage.outcome(&format!("{n}{padding}")).await, Err(Rejection::TokenInactive));
    }
    assert!(Arc::ptr_eq(&stage.whole("good").await.unwrap(), &before));
}

#[tokio::test]
async fn a_token_is_shown_to_its_own_issuer_only() {
    let (acme, beta) = (Issuer::start().await, Issuer::start().await);
    let mut second = beta.settings();
    second.name = "beta".into();
    second.introspection.as_mut().unwrap().prefix = "beta.".to_owned();
    beta.says("beta.t", good());
    let stage = Stage::start(vec![acme.settings(), second.clone()], PATIENT);
    assert_eq!(&*stage.whole("beta.t").await.unwrap().issuer_name, "beta");
    assert_eq!(&*stage.whole("good").await.unwrap().issuer_name, "acme");
    assert_eq!((acme.asked(), beta.asked()), (1, 1));
    // The same groups' names are another issuer's groups.
    assert_eq!(stage.whole("beta.t").await.unwrap().groups_joined, "");
    let stage = Stage::start(vec![second], PATIENT);
    assert_eq!(stage.outcome("good").await, Err(Rejection::IssuerUnknown));
    assert_eq!(beta.asked(), 1);
}

#[tokio::test]
async fn an_endpoint_on_another_host_must_be_named_by_the_config() {
    let (issuer, other) = (Issuer::start().await, Issuer::start().await);
    let elsewhere = format!("http://localhost:{}/introspect", other.address.port());
    *issuer.script.discovery.lock() = json!({ "introspection_endpoint": elsewhere });
    let stage = Stage::of(&issuer).await;
    assert_eq!(stage.outcome("good").await, Err(Rejection::IntrospectionUnavailable));
    assert!(stage.status().last_error.unwrap().contains("another host, localhost:"));
    for (what, change) in [
        ("no endpoint", json!({ "introspection_endpoint": "-" })),
        ("no URL", json!({ "introspection_endpoint": "introspect" })),
        ("no text", json!({ "introspection_endpoint": 7 })),
        ("another issuer", json!({ "issuer": "https://other.example" })),
    ] {
        *issuer.script.discovery.lock() = change;
        let stage = Stage::of(&issuer).await;
        assert_eq!(stage.outcome("good").await, Err(Rejection::IntrospectionUnavailable), "{what}");
    }
    assert_eq!((issuer.asked(), other.asked()), (0, 0));
    let mut settings = issuer.settings();
    settings.introspection.as_mut().unwrap().endpoint = Some(Url::parse(&elsewhere).unwrap());
    assert_eq!(Stage::start(vec![settings], PATIENT).outcome("good").await, alice());
}

#[tokio::test]
async fn endpoints_that_moved_are_found_after_a_failure() {
    let issuer = Issuer::start().await;
    let stage = Stage::of(&issuer).await;
    *issuer.script.discovery.lock() = json!({ "introspection_endpoint": format!("{}/gone", issuer.url()) });
    stage.until("it was discovered", || issuer.script.discovery_asked.load(Ordering::SeqCst) == 1).await;
    *issuer.script.discovery.lock() = json!({});
    assert_eq!(stage.outcome("good").await, Err(Rejection::IntrospectionUnavailable));
    assert_eq!(stage.outcome("good").await, alice());
    assert_eq!(issuer.script.discovery_asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn groups_come_from_userinfo_where_introspection_has_none() {
    let told = json!({ "sub": "alice", "groups": ["platform-ops"], "name": "Alice", "email": "a@acme.example" });
    let bare = with(&good(), json!({ "groups": "-" }));
    let no_sub = with(&bare, json!({ "sub": "-", "username": "alice" }));
    let ok = |changes: Value| Reply::Json(with(&told, changes));
    for (what, answer, userinfo, groups, known, asked) in [
        ("groups", &bare, ok(json!({})), "ops", true, 1),
        ("no groups", &bare, ok(json!({ "groups": "-" })), "", true, 1),
        ("groups in both", &good(), ok(json!({})), "ops", true, 0),
        ("an empty list in the first", &with(&good(), json!({ "groups": [] })), ok(json!({})), "", true, 0),
        ("somebody else", &bare, ok(json!({ "sub": "bob" })), "", false, 1),
        ("nobody", &bare, ok(json!({ "sub": "-" })), "", false, 1),
        ("the name in place of sub", &no_sub, ok(json!({})), "ops", true, 1),
        ("left out here too", &bare, ok(json!({ "_claim_names": { "groups": "x" }, "groups": "-" })), "", false, 1),
        ("401", &bare, Reply::status(401), "", false, 1),
        ("403", &bare, Reply::status(403), "", false, 1),
        ("500", &bare, Reply::status(500), "", false, 1),
        ("HTML", &bare, Reply::body("text/html", "x"), "", false, 1),
        ("signed", &bare, Reply::body("application/jwt", "eyJ.e30.x"), "", false, 1),
        ("silence", &bare, Reply::Silent, "", false, 1),
    ] {
        let issuer = Issuer::start().await;
        *issuer.script.userinfo.lock() = Some(userinfo);
        issuer.says("t", answer.clone());
        let mut settings = issuer.settings();
        settings.introspection.as_mut().unwrap().userinfo = Userinfo::Discovered;
        let stage = Stage::start(vec![settings], QUICK);
        let identity = stage.whole("t").await.unwrap_or_else(|rejection| panic!("{what}: {rejection:?}"));
        assert_eq!((identity.groups_joined.as_str(), identity.groups_known), (groups, known), "{what}");
        assert_eq!(issuer.userinfo_asked(), asked, "{what}");
        if asked > 0 {
            assert_eq!(issuer.script.userinfo_asked.lock()[0].as_deref(), Some("Bearer t"), "{what}");
        }
    }
}

#[tokio::test]
async fn userinfo_says_who_somebody_is_and_nothing_about_the_token() {
    let issuer = Issuer::start().await;
    let mut settings = issuer.settings();
    settings.introspection.as_mut().unwrap().userinfo =
        Userinfo::At(Url::parse(&format!("{}/me", issuer.url())).unwrap());
    settings.claims.user = ClaimPath::parse("login").unwrap();
    let stage = Stage::start(vec![settings], PATIENT);
    issuer.says("t", with(&good(), json!({ "groups": "-", "scope": "-", "email": "own@acme.example" })));
    *issuer.script.userinfo.lock() = Some(Reply::Json(json!({
        "sub": "alice", "login": "al", "name": "Alice", "email": "other@acme.example", "email_verified": true,
        "scope": "admin", "scp": ["admin"], "azp": "evil", "exp": NOW_S + 9999, "cnf": {}, "aud": "x", "client_id": "evil",
    })));
    let identity = stage.whole("t").await.unwrap();
    assert_eq!((identity.user.as_str(), identity.name.as_str()), ("al", "Alice"));
    assert_eq!((identity.email.as_str(), identity.client_id.as_str()), ("own@acme.example", "web"));
    assert_eq!((identity.scopes.len(), identity.expires_at_s), (0, NOW_S as i64 + 300));
    assert!(!identity.claims.contains_key("email_verified"), "that is about another address");
    // Where nobody could be asked who it is, it is nobody's fault but ours.
    *issuer.script.userinfo.lock() = Some(Reply::status(500));
    issuer.says("u", with(&good(), json!({ "groups": "-" })));
    assert_eq!(stage.outcome("u").await, Err(Rejection::IntrospectionUnavailable));
    *issuer.script.userinfo.lock() = Some(Reply::status(403));
    issuer.says("v", with(&good(), json!({ "groups": "-" })));
    assert_eq!(stage.outcome("v").await, Err(Rejection::ClaimMissing));
}

#[tokio::test]
async fn userinfo_that_is_away_costs_groups_and_no_token() {
    let issuer = Issuer::start().await;
    let mut settings = issuer.settings();
    settings.introspection.as_mut().unwrap().userinfo = Userinfo::Discovered;
    let stage = Stage::start(vec![settings], PATIENT);
    let bare = with(&good(), json!({ "groups": "-" }));
    *issuer.script.userinfo.lock() = Some(Reply::status(500));
    for n in 0..10 {
        issuer.says(&format!("t{n}"), bare.clone());
        assert!(!stage.whole(&format!("t{n}")).await.unwrap().groups_known);
    }
    assert_eq!((issuer.userinfo_asked(), stage.status().answering), (3, true), "three failures, then nobody asks");
    *issuer.script.userinfo.lock() = Some(Reply::Json(json!({ "sub": "alice", "groups": ["platform-ops"] })));
    // Unknown groups are no answer to keep for a minute.
    stage.clock.advance(Duration::from_secs(5));
    let identity = stage.whole("t0").await.unwrap();
    assert_eq!((identity.groups_joined.as_str(), identity.groups_known), ("ops", true));
    // What is known is not forgotten for an answer that knows less.
    *issuer.script.userinfo.lock() = Some(Reply::status(500));
    stage.clock.advance(Duration::from_secs(45));
    assert!(matches!(stage.identify("t0"), Identified::Known(_)));
    stage.until("it was asked about again", || issuer.userinfo_asked() == 5).await;
    stage.clock.advance(Duration::from_secs(14));
    let Identified::Known(identity) = stage.identify("t0") else { panic!() };
    assert!(identity.groups_known);
}

#[tokio::test]
async fn groups_of_a_directory_are_added_to_what_the_issuer_says() {
    let issuer = Issuer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.json");
    std::fs::write(&file, r#"{"alice": ["staff"]}"#).unwrap();
    let mut of_issuer = issuer.settings();
    of_issuer.groups_from = vec!["people".into()];
    let people = DirectorySettings {
        name: "people".into(),
        kind: DirectoryKind::File(file),
        refresh: Duration::from_secs(60),
        keep: Duration::from_secs(60),
        absent: Absent::Unknown,
    };
    let settings = Settings { issuers: vec![of_issuer], directories: vec![people], ..Settings::default() };
    let groups = Groups::new([("ops", vec![("acme", "platform-ops")]), ("staff", vec![("people", "staff")])]).unwrap();
    let identities = Identities::with_paces(settings, Arc::new(groups), None, Pace::PRODUCTION, PATIENT).unwrap();
    let stage = Stage { identities, clock: Clock::by_hand(NOW_S), stop: CancellationToken::new() };
    stage.identities.spawn(&stage.clock, &stage.stop);
    let first = stage.whole("good").await.unwrap();
    assert_eq!((first.groups_joined.as_str(), first.groups_known), ("ops,staff", true));
    assert!(Arc::ptr_eq(&stage.whole("good").await.unwrap(), &first), "once for each answer");
    // Another answer, another identity.
    issuer.says("good", with(&good(), json!({ "groups": [], "name": "Alice" })));
    stage.clock.advance(Duration::from_secs(60));
    let second = stage.whole("good").await.unwrap();
    assert_eq!((second.groups_joined.as_str(), second.name.as_str()), ("staff", "Alice"));
    issuer.says("other", with(&good(), json!({ "sub": "bob" })));
    assert!(!stage.whole("other").await.unwrap().groups_known, "the directory does not know bob");
    issuer.says("gone", json!({ "active": false }));
    assert_eq!(stage.outcome("gone").await, Err(Rejection::TokenInactive));
}

#[tokio::test]
async fn a_reload_keeps_what_rests_on_nothing_that_changed() {
    let issuer = Issuer::start().await;
    let first = Stage::of(&issuer).await;
    assert_eq!(first.outcome("good").await, alice());
    let same = Stage::after(vec![issuer.settings()], PATIENT, Some(&first.identities));
    same.identities.spawn(&same.clock, &same.stop);
    assert_eq!(same.outcome("good").await, alice());
    assert_eq!(issuer.asked(), 1);
    let mut changed = issuer.settings();
    changed.introspection.as_mut().unwrap().client_secret = Secret::new("another");
    let other = Stage::after(vec![changed], PATIENT, Some(&first.identities));
    other.identities.spawn(&other.clock, &other.stop);
    assert_eq!(other.outcome("good").await, alice());
    assert_eq!(issuer.asked(), 2);
    let asked = issuer.script.asked.lock().clone();
    assert_ne!(asked[0].authorization, asked[1].authorization);
}

#[tokio::test]
async fn at_the_end_whoever_waits_is_told() {
    let issuer = Issuer::start().await;
    let not_begun = Stage::after(vec![issuer.settings()], PATIENT, None);
    assert_eq!(not_begun.outcome("good").await, Err(Rejection::IntrospectionUnavailable), "nobody could ask");
    let stage = Stage::of(&issuer).await;
    let _held = issuer.script.hold.lock().await;
    let wait = stage.wait("good");
    stage.stop.cancel();
    let mut answers = Answers::default();
    answers.add(wait.await);
    let told = stage.identify_from(None, "good", &answers);
    assert!(matches!(told, Identified::Rejected(Rejection::IntrospectionUnavailable)), "{told:?}");
}
