//! Keys from a provider on loopback that behaves as each test tells it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::response::IntoResponse;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::super::settings::{Algorithm, IssuerSettings, KeyOrigin, Settings};
use super::super::source::Pace;
use super::super::testing::{NOW_S, P256_A, P256_B, TestKey, good_claims, jwks, pinned, with};
use super::super::{Accepted, Answers, Groups, Identified, Identities, IssuerStatus, Rejection, Wait};
use crate::clock::Clock;
use crate::request::Request;
use crate::trace::Trace;

/// A whole answer.
#[derive(Clone)]
struct Answer(StatusCode, Vec<(&'static str, String)>, Vec<u8>);

fn ok(body: Vec<u8>) -> Answer {
    Answer(StatusCode::OK, Vec::new(), body)
}

fn keys(keys: &[Value]) -> Answer {
    ok(jwks(keys))
}

#[derive(Default)]
struct Script {
    /// For the key set; the last one stays.
    keys: Mutex<VecDeque<Answer>>,
    /// In place of a discovery document of its own.
    discovery: Mutex<Option<Answer>>,
    discovery_fetches: AtomicUsize,
    key_fetches: AtomicUsize,
    elsewhere: AtomicUsize,
    /// While held, no key set is answered.
    hold: tokio::sync::Mutex<()>,
}

struct Provider {
    script: Arc<Script>,
    address: SocketAddr,
    _serving: DropGuard,
}

impl Provider {
    async fn start(first: Answer) -> Provider {
        let script = Arc::new(Script::default());
        script.keys.lock().push_back(first);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let app = Router::new().fallback(answer).with_state((Arc::clone(&script), address));
        tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stopped).into_future());
        Provider { script, address, _serving: stop.drop_guard() }
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    fn settings(&self) -> IssuerSettings {
        let mut settings = pinned("acme", &self.issuer(), &[]);
        settings.keys = KeyOrigin::Discovery { issuer: Url::parse(&self.issuer()).unwrap() };
        settings.outbound.insecure = true;
        settings
    }

    fn now_answers(&self, answer: Answer) {
        *self.script.keys.lock() = VecDeque::from([answer]);
    }

    fn token(&self, key: &TestKey, kid: &str) -> String {
        key.sign(Algorithm::ES256, kid, &with(&good_claims(), json!({"iss": self.issuer()})))
    }

    fn key_fetches(&self) -> usize {
        self.script.key_fetches.load(Ordering::SeqCst)
    }
}

async fn answer(State((script, address)): State<(Arc<Script>, SocketAddr)>, uri: Uri) -> impl IntoResponse {
    let answer = match uri.path() {
        "/.well-known/openid-configuration" => {
            script.discovery_fetches.fetch_add(1, Ordering::SeqCst);
            let issuer = format!("http://{address}");
            let own = || ok(discovery(&issuer, &format!("{issuer}/keys")));
            script.discovery.lock().clone().unwrap_or_else(own)
        }
        "/keys" => {
            script.key_fetches.fetch_add(1, Ordering::SeqCst);
            let _held = script.hold.lock().await;
            let mut answers = script.keys.lock();
            if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
        }
        _ => {
            script.elsewhere.fetch_add(1, Ordering::SeqCst);
            keys(&[P256_A.jwk("evil")])
        }
    };
    let Answer(status, headers, body) = answer;
    let headers: Vec<(HeaderName, String)> =
        headers.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
    (status, axum::response::AppendHeaders(headers), body)
}

fn discovery(issuer: &str, jwks_uri: &str) -> Vec<u8> {
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
const QUICK: Pace = Pace {
    backoff_first: Duration::from_millis(5),
    backoff_max: Duration::from_millis(20),
    refresh_min: Duration::from_secs(3600),
    refresh_max: Duration::from_secs(3600),
    cooldown: Duration::from_secs(30),
};

/// Refreshes all the time.
const RESTLESS: Pace = Pace { refresh_min: Duration::from_millis(5), refresh_max: Duration::from_millis(10), ..QUICK };

struct Stage {
    identities: Identities,
    clock: Clock,
    stop: CancellationToken,
}

impl Stage {
    async fn start(issuer: IssuerSettings, pace: Pace) -> Stage {
        let settings = Settings { issuers: vec![issuer], ..Settings::default() };
        let identities = Identities::with_pace(settings, Arc::new(Groups::default()), None, pace).unwrap();
        let (clock, stop) = (Clock::by_hand(NOW_S), CancellationToken::new());
        identities.spawn(&clock, &stop);
        identities.fetched().await;
        Stage { identities, clock, stop }
    }

    fn identify(&self, token: &str) -> Identified {
        self.identify_after(token, &Answers::default())
    }

    fn identify_after(&self, token: &str, answers: &Answers) -> Identified {
        let field = format!("Bearer {token}");
        let request = Request { authorization: Some(field.as_bytes()), ..Request::default() };
        self.identities.identify(&request, &Accepted::default(), answers, self.clock.now(), &mut Trace::off())
    }

    /// As the pipeline does: as often as there is something to wait for.
    async fn outcome(&self, token: &str) -> Result<String, Rejection> {
        let mut answers = Answers::default();
        loop {
            match self.identify_after(token, &answers) {
                Identified::Known(identity) => return Ok(identity.user.clone()),
                Identified::Rejected(rejection) => return Err(rejection),
                Identified::Wait(wait) => answers.add(wait.await),
            }
        }
    }

    fn status(&self) -> IssuerStatus {
        self.identities.status(self.clock.now()).remove(0)
    }

    /// Until the background task has made it so.
    async fn until(&self, so: impl Fn(&IssuerStatus) -> bool) {
        let made_so = async {
            while !so(&self.status()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), made_so).await.expect("within half a minute");
    }
}

fn alice() -> Result<String, Rejection> {
    Ok("alice".to_owned())
}

#[tokio::test]
async fn keys_are_found_by_discovery_and_fetched_once() {
    let provider = Provider::start(keys(&[P256_A.jwk("a"), json!({"kty": "oct", "k": "AAAA"})])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    assert!(stage.identities.ready());
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice());
    assert_eq!(provider.key_fetches(), 1);
    stage.clock.advance(Duration::from_secs(7));
    let status = stage.status();
    assert_eq!((status.keys, status.pinned, status.age_s, status.fetches), (1, false, Some(7), 1));
    assert_eq!(status.last_error, None);
}

#[tokio::test]
async fn a_provider_that_is_down_at_start_is_asked_until_it_is_up() {
    let provider = Provider::start(Answer(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), Vec::new())).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    assert!(!stage.identities.ready());
    let token = provider.token(&P256_A, "a");
    let rejection = stage.outcome(&token).await.unwrap_err();
    assert_eq!(rejection, Rejection::NoKeys);
    assert!(rejection.is_failure());
    assert!(stage.status().last_error.unwrap().contains("status 503"));

    provider.now_answers(keys(&[P256_A.jwk("a")]));
    stage.until(|status| status.has_keys).await;
    assert_eq!(stage.outcome(&token).await, alice());
    assert_eq!(stage.status().last_error, None);
}

#[tokio::test]
async fn a_request_may_join_the_first_fetch() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let settings = Settings { issuers: vec![provider.settings()], ..Settings::default() };
    let identities = Identities::with_pace(settings, Arc::new(Groups::default()), None, QUICK).unwrap();
    let stage = Stage { identities, clock: Clock::by_hand(NOW_S), stop: CancellationToken::new() };
    let token = provider.token(&P256_A, "a");
    // Nobody fetches yet, so there is nothing to wait for.
    assert!(matches!(stage.identify(&token), Identified::Rejected(Rejection::NoKeys)));
    stage.identities.spawn(&stage.clock, &stage.stop);
    assert!(matches!(stage.identify(&token), Identified::Wait(_)));
    assert_eq!(stage.outcome(&token).await, alice());
}

#[tokio::test]
async fn an_unknown_kid_brings_the_new_keys_and_ends_the_old() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let (old, new) = (provider.token(&P256_A, "a"), provider.token(&P256_B, "b"));
    assert_eq!(stage.outcome(&old).await, alice());

    provider.now_answers(keys(&[P256_B.jwk("b")]));
    assert_eq!(stage.outcome(&new).await, alice());
    assert_eq!(provider.key_fetches(), 2);
    assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 1, "where the keys are was known");
    // The old token was cached as verified; its key is gone, and asking again must wait for the cooldown.
    assert!(matches!(stage.identify(&old), Identified::Rejected(Rejection::KeyUnknown)));
    stage.clock.advance(QUICK.cooldown);
    assert!(matches!(stage.identify(&old), Identified::Wait(_)));
}

#[tokio::test]
async fn keys_that_stay_keep_their_tokens_verified() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let old = provider.token(&P256_A, "a");
    let Identified::Known(before) = stage.identify(&old) else { panic!() };
    provider.now_answers(keys(&[P256_B.jwk("b"), P256_A.jwk("a")]));
    assert_eq!(stage.outcome(&provider.token(&P256_B, "b")).await, alice());
    let Identified::Known(after) = stage.identify(&old) else { panic!() };
    assert!(Arc::ptr_eq(&before, &after));
}

#[tokio::test]
async fn the_same_kid_with_another_key_ends_the_old_tokens() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), RESTLESS).await;
    let old = provider.token(&P256_A, "a");
    assert_eq!(stage.outcome(&old).await, alice());
    provider.now_answers(keys(&[P256_B.jwk("a")]));
    let seen = stage.status().fetches;
    // The fetch after the next began after the answer changed.
    stage.until(|status| status.fetches >= seen + 2).await;
    assert_eq!(stage.outcome(&old).await, Err(Rejection::SignatureInvalid));
    assert_eq!(stage.outcome(&provider.token(&P256_B, "a")).await, alice());
}

#[tokio::test]
async fn a_flood_of_unknown_kids_costs_the_provider_one_fetch() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let held = provider.script.hold.lock().await;
    let message = provider.token(&P256_A, "a");
    let (_, unsigned) = message.split_once('.').unwrap();
    let token = |n: usize| {
        use base64::Engine as _;
        let header = json!({"alg": "ES256", "kid": format!("k{n}")}).to_string();
        format!("{}.{unsigned}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header))
    };
    let waits: Vec<Wait> = (0..10_000)
        .map(|n| match stage.identify(&token(n)) {
            Identified::Wait(wait) => wait,
            other => panic!("{other:?}"),
        })
        .collect();
    // Meanwhile the issuer's own tokens pass.
    assert_eq!(stage.outcome(&message).await, alice());
    drop(held);
    for wait in waits {
        wait.await;
    }
    for n in 0..10_000 {
        assert_eq!(stage.outcome(&token(n)).await, Err(Rejection::KeyUnknown));
    }
    assert_eq!(provider.key_fetches(), 2, "the one at start, and one for all of them");
}

#[tokio::test]
async fn the_attempt_closes_the_gate_even_if_it_fails() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    // A backoff of an hour, so that the only attempts are the ones asked for.
    let pace = Pace { backoff_first: QUICK.refresh_max, backoff_max: QUICK.refresh_max, ..QUICK };
    let stage = Stage::start(provider.settings(), pace).await;
    provider.now_answers(Answer(StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), Vec::new()));
    let unknown = provider.token(&P256_B, "b");
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    assert!(matches!(stage.identify(&unknown), Identified::Rejected(Rejection::KeyUnknown)));
    assert_eq!(provider.key_fetches(), 2);
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice(), "the old keys stay");

    stage.clock.advance(pace.cooldown);
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    assert_eq!(provider.key_fetches(), 3);
    assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 2, "after a failure the keys may have moved");
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let busy = vec![("retry-after", "86400".to_owned())];
    provider.now_answers(Answer(StatusCode::TOO_MANY_REQUESTS, busy, Vec::new()));
    let unknown = provider.token(&P256_B, "b");
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    // A day is cut to an hour; before that neither a token nor the backoff of milliseconds asks.
    stage.clock.advance(Duration::from_secs(3599));
    assert!(matches!(stage.identify(&unknown), Identified::Rejected(Rejection::KeyUnknown)));
    assert_eq!(provider.key_fetches(), 2);
    stage.clock.advance(Duration::from_secs(1));
    assert!(matches!(stage.identify(&unknown), Identified::Wait(_)));
}

#[tokio::test]
async fn nothing_that_is_no_key_set_replaces_one() {
    let large = format!("{{\"keys\":[{}]}}", "{},".repeat(200_000));
    for (what, answer) in [
        ("HTML", ok(b"<html>sign in</html>".to_vec())),
        ("an empty set", keys(&[])),
        ("bad keys only", keys(&[json!({"kty": "oct", "k": "AAAA"}), json!({"kty": "RSA"})])),
        ("half a set", ok(br#"{"keys":[{"kty""#.to_vec())),
        ("a deep one", ok("[".repeat(100_000).into_bytes())),
        ("a large one", ok(large.into_bytes())),
        ("a redirect", Answer(StatusCode::FOUND, vec![("location", "/elsewhere".to_owned())], Vec::new())),
        ("404", Answer(StatusCode::NOT_FOUND, Vec::new(), jwks(&[P256_B.jwk("b")]))),
        ("204", Answer(StatusCode::NO_CONTENT, Vec::new(), Vec::new())),
    ] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let stage = Stage::start(provider.settings(), QUICK).await;
        provider.now_answers(answer);
        assert_eq!(stage.outcome(&provider.token(&P256_B, "b")).await, Err(Rejection::KeyUnknown), "{what}");
        assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice(), "{what}");
        assert_eq!(provider.script.elsewhere.load(Ordering::SeqCst), 0, "{what}");
        assert!(stage.status().failures >= 1, "{what}");
    }
}

#[tokio::test]
async fn a_compressed_bomb_is_cut_off_at_the_cap() {
    // 4 MiB of spaces, gzip -9.
    let bomb = gzip_of_spaces();
    assert!(bomb.len() < 100_000);
    let provider = Provider::start(Answer(StatusCode::OK, vec![("content-encoding", "gzip".to_owned())], bomb)).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let error = stage.status().last_error.unwrap();
    assert!(error.contains("more than 524288 bytes"), "{error}");
}

/// One dynamic-free gzip member: stored blocks cannot bomb, so fixed Huffman codes with long matches (RFC 1951, 3.2.6).
fn gzip_of_spaces() -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut held) = (0_u64, 0_u32);
    let mut put = |value: u64, count: u32, out: &mut Vec<u8>| {
        bits |= value << held;
        held += count;
        while held >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            held -= 8;
        }
    };
    let reversed = |code: u64, count: u32| (0..count).fold(0, |r, i| r | (((code >> i) & 1) << (count - 1 - i)));
    put(0b011, 3, &mut out);
    // The literal 0x20 is code 0x30 + 0x20, eight bits.
    put(reversed(0x50, 8), 8, &mut out);
    for _ in 0..4 * 1024 * 1024 / 258 {
        // Length 258 is symbol 285: code 0b11000101; distance 1 is symbol 0: five zero bits.
        put(reversed(0b1100_0101, 8), 8, &mut out);
        put(0, 5, &mut out);
    }
    // The end-of-block symbol is seven zero bits; the rest fills the last byte. The reader stops before the checksum.
    put(0, 14, &mut out);
    out
}

#[tokio::test]
async fn a_discovery_document_must_be_the_issuers_own() {
    for (what, document, expected) in [
        ("another issuer", discovery("https://evil.example", "KEYS"), "is for issuer \"https://evil.example\""),
        ("a slash more", discovery("ISSUER/", "KEYS"), "expected exactly"),
        ("upper case", discovery("HTTP://127.0.0.1", "KEYS"), "expected exactly"),
        ("HTML", b"<html>".to_vec(), "discovery document"),
        ("two issuers", br#"{"issuer":"a","issuer":"b"}"#.to_vec(), "discovery document"),
        ("no jwks_uri", br#"{"issuer":"ISSUER"}"#.to_vec(), "discovery document"),
        ("a file", discovery("ISSUER", "file:///etc/passwd"), "file is not allowed"),
        ("a password", discovery("ISSUER", "https://a:b@127.0.0.1/"), "password"),
    ] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let text = String::from_utf8(document).unwrap();
        let text = text.replace("ISSUER", &provider.issuer()).replace("KEYS", &format!("{}/keys", provider.issuer()));
        *provider.script.discovery.lock() = Some(ok(text.into_bytes()));
        let stage = Stage::start(provider.settings(), QUICK).await;
        let error = stage.status().last_error.unwrap();
        assert!(error.contains(expected), "{what}: {error}");
        assert_eq!(provider.key_fetches(), 0, "{what}");
    }
}

#[tokio::test]
async fn without_insecure_neither_http_nor_loopback_is_asked() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    for (url, expected) in [
        (provider.issuer(), "http is not allowed"),
        (provider.issuer().replace("http:", "https:"), "is not a public address"),
        (format!("https://localhost:{}", provider.address.port()), "no public address"),
    ] {
        let mut settings = provider.settings();
        settings.outbound.insecure = false;
        settings.keys = KeyOrigin::Discovery { issuer: Url::parse(&url).unwrap() };
        let stage = Stage::start(settings, QUICK).await;
        let error = stage.status().last_error.unwrap();
        assert!(error.contains(expected), "{url}: {error}");
    }
    assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_reload_keeps_the_task_of_an_issuer_and_ends_it_with_the_last_stage() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let settings = Settings { issuers: vec![provider.settings()], ..Settings::default() };
    let groups = Arc::new(Groups::default());
    let next = Identities::with_pace(settings, Arc::clone(&groups), Some(&stage.identities), QUICK).unwrap();
    next.spawn(&stage.clock, &stage.stop);
    assert!(next.ready(), "the keys came along");
    next.fetched().await;
    assert_eq!(provider.key_fetches(), 1, "and no second task was started");

    // The stage goes, the issuer stays: an unknown kid is still answered.
    let Stage { identities: first, clock, stop } = stage;
    drop(first);
    let stage = Stage { identities: next, clock, stop };
    provider.now_answers(keys(&[P256_B.jwk("b")]));
    let token = provider.token(&P256_B, "b");
    let Identified::Wait(wait) = stage.identify(&token) else { panic!() };
    wait.await;
    assert_eq!(stage.outcome(&token).await, alice());

    // The last one goes while somebody waits for an answer that does not come: the wait ends at once, not with the
    // five seconds of the request.
    stage.clock.advance(QUICK.cooldown);
    let held = provider.script.hold.lock().await;
    let Identified::Wait(wait) = stage.identify(&provider.token(&P256_A, "c")) else { panic!() };
    drop(stage);
    tokio::time::timeout(Duration::from_secs(2), wait).await.expect("the task has ended");
    drop(held);
}
