//! The hot path in pieces: `decode` (bytes to messages), `decide` (messages to decision), `encode` (decision to ACK),
//! and the three together, as one NOTIFY goes through an agent. `limit` is one charge in memory.
//!
//! `verify` is the check of a signature alone, by algorithm: what one core pays for a token it has not seen, and why the
//! slower ones are checked beside the connection and not on it. `miss` is all that one such token takes, and `proof` all that
//! a DPoP proof (ES256) takes beside a token that is known.
//!
//! `api key` and `certificate` are the look-ups of callers without a token, `constant time` whether the time that one takes
//! says anything about a key. `rules` is a decision by the last of so many rules, `when` one by an expression. `audit on` and `audit off` differ by the
//! audit trail.
//!
//! The work: an ES256 token of about 900 bytes, verified once and then cached; issuer, audience and group rule; one
//! per-user limit. `make bench` runs them; figures worth keeping go into docs/performance.md, as ratios.

mod audit;
mod constant_time;
mod credentials;
mod rules;

use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::identity::Identities;
use tollgate::limit::Counters;
use tollgate::pipeline::{DecisionIds, Pipeline, Step};
use tollgate::respond::{Scratch, respond};
use tollgate::spop::{Agent, Event, Messages, TypedData, engine};

const CONFIG: &str = r#"
issuers:
  acme:
    issuer: https://login.acme.example
    audiences: [https://api.acme.example]
    jwks_file: keys.json
groups: { ops: ["acme:platform-ops"] }
limits:
  per-user: { key: [user], rate: 1000000000/1s }
cache: { max_bytes: 1MiB }
dpop: { max_age: 10m }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: admin, host: api.acme.example, path: /admin/**, allow: { groups: [ops] }, limits: [per-user] }
"#;

/// A pipeline, and payloads of NOTIFYs that it allows, each with a token of its own: the first for what is cached, the
/// rest for what is not, more than the cache holds. The last is one with a proof; asked about again with the same
/// `unique-id` it is the same request, and no replay.
fn pipeline(audited: bool) -> (Arc<Pipeline>, Vec<BytesMut>, BytesMut) {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let folder = tempfile::tempdir().unwrap();
    let pair = aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING);
    let key = EncodingKey::from_ec_der(pair.unwrap().to_pkcs8v1().unwrap().as_ref());
    let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("k1".to_owned());
    std::fs::write(folder.path().join("keys.json"), json!({ "keys": [jwk] }).to_string()).unwrap();
    let config = config::parse(CONFIG, &folder.path().join("tollgate.yaml")).unwrap();
    let pipeline = Pipeline {
        identities: Identities::new(config.identity, config.groups, None).unwrap(),
        policy: config.policy,
        counters: Arc::new(Counters::new(&config.counters).unwrap()),
        ids: Arc::new(DecisionIds::new(7)),
        deadline: config.spop.deadline,
        version: config.version,
        audited,
    };
    let claims = json!({
        "iss": "https://login.acme.example", "aud": ["https://api.acme.example", "account"], "sub": "0b1a6f4e-7d0c-4b5e",
        "exp": Clock::system().now().unix_s() + 86_400, "iat": Clock::system().now().unix_s(), "azp": "web",
        "groups": ["platform-ops", "plan-pro", "everyone"], "scope": "openid profile email",
        "email": "alice@acme.example", "name": "Alice Example", "jti": "a".repeat(330),
    });
    let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
    let proved = {
        use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
        let mut jwk = jwk.clone();
        jwk.common = Default::default();
        let mut claims = claims.clone();
        claims["cnf"] = json!({ "jkt": jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap() });
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        let ath = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let said = json!({
            "jti": "0b1a6f4e-7d0c-4b5e-9b1a-6f4e7d0c4b5e", "htm": "GET", "htu": "https://api.acme.example/admin/stats",
            "iat": Clock::system().now().unix_s(), "ath": BASE64_URL_SAFE_NO_PAD.encode(ath),
        });
        let header = Header { typ: Some("dpop+jwt".to_owned()), jwk: Some(jwk), ..Header::new(Algorithm::ES256) };
        let proof = jsonwebtoken::encode(&header, &said, &key).unwrap();
        let authorization = format!("DPoP {token}");
        let mut payload = BytesMut::new();
        engine::request_payload(&arguments(&authorization, Some(&proof)), &mut payload);
        payload
    };
    let payload = |_| {
        // Each signature is another: ECDSA takes a random number for each.
        let authorization = format!("Bearer {}", jsonwebtoken::encode(&header, &claims, &key).unwrap());
        let mut payload = BytesMut::new();
        engine::request_payload(&arguments(&authorization, None), &mut payload);
        payload
    };
    (Arc::new(pipeline), (0..4000).map(payload).collect(), proved)
}

/// What the shipped SPOE config sends.
fn arguments<'a>(authorization: &'a str, dpop: Option<&'a str>) -> Vec<(&'a str, TypedData<'a>)> {
    vec![
        ("id", TypedData::Str(b"0b1a6f4e-7d0c-4b5e-9b1a-6f4e7d0c4b5e")),
        ("method", TypedData::Str(b"GET")),
        ("host", TypedData::Str(b"api.acme.example")),
        ("path", TypedData::Str(b"/admin/stats")),
        ("query", TypedData::Null),
        ("src", TypedData::Ipv4([192, 0, 2, 1].into())),
        ("src_port", TypedData::Int64(54321)),
        ("ssl", TypedData::Bool(true)),
        ("authorization", TypedData::Str(authorization.as_bytes())),
        ("session", TypedData::Null),
        ("api_key", TypedData::Null),
        ("dpop", dpop.map_or(TypedData::Null, |proof| TypedData::Str(proof.as_bytes()))),
        ("accept", TypedData::Str(b"*/*")),
        ("cert", TypedData::Null),
        ("cert_used", TypedData::Bool(false)),
        ("cert_verify", TypedData::Int64(0)),
        ("cert_dn", TypedData::Null),
    ]
}

fn stages(criterion: &mut Criterion) {
    let clock = Clock::system();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let (pipeline, payloads, proved) = pipeline(false);
    let payload = &payloads[0];
    criterion.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let messages = Messages::decode(black_box(payload)).unwrap();
            black_box(tollgate::extract::extract(&messages).unwrap());
        });
    });
    let messages = Messages::decode(payload).unwrap();
    let decide = || match pipeline.decide(black_box(&messages), clock.now()) {
        Step::Done(decision) => decision,
        Step::Wait(_) | Step::Noted => panic!("nothing here waits"),
    };
    // Whoever waits does so on the runtime, as a connection would.
    let decide_slowly = |messages: &Messages<'_>| match pipeline.decide(black_box(messages), clock.now()) {
        Step::Done(decision) => decision,
        Step::Wait(decision) => runtime.block_on(decision),
        Step::Noted => panic!("it is a question"),
    };
    assert_eq!(decide_slowly(&messages).reason.code(), "allowed");
    let mut unseen = payloads[1..].iter().cycle();
    criterion.bench_function("miss", |bencher| {
        bencher.iter(|| black_box(decide_slowly(&Messages::decode(unseen.next().unwrap()).unwrap())));
    });
    let proved = Messages::decode(&proved).unwrap();
    criterion.bench_function("proof", |bencher| {
        bencher.iter(|| assert_eq!(decide_slowly(&proved).reason.code(), "allowed"));
    });
    // One turn of a connection whose last question is about a token that is known: when has it its answer, and when have
    // all theirs?
    let _guard = runtime.enter();
    let turn = |unseen: &mut dyn Iterator<Item = &BytesMut>| {
        let mut waiting: futures_util::stream::FuturesUnordered<_> = (0..19)
            .filter_map(|_| match pipeline.decide(&Messages::decode(unseen.next()?).unwrap(), clock.now()) {
                Step::Done(_) | Step::Noted => None,
                Step::Wait(decision) => Some(decision),
            })
            .collect();
        use futures_util::{FutureExt, StreamExt};
        let _ = waiting.next().now_or_never();
        let Step::Done(_) = pipeline.decide(&messages, clock.now()) else { panic!("it is known") };
        waiting
    };
    criterion.bench_function("hit behind 19 misses", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..times {
                // Nobody has asked for it while the others were measured.
                black_box(decide_slowly(&messages));
                let begun = std::time::Instant::now();
                let waiting = turn(&mut unseen);
                spent += begun.elapsed();
                runtime.block_on(futures_util::StreamExt::collect::<Vec<_>>(waiting));
            }
            spent
        });
    });
    criterion.bench_function("all of such a turn", |bencher| {
        bencher.iter(|| {
            black_box(decide_slowly(&messages));
            runtime.block_on(futures_util::StreamExt::collect::<Vec<_>>(turn(&mut unseen)))
        });
    });
    criterion.bench_function("decide", |bencher| bencher.iter(|| black_box(decide())));

    let decision = decide();
    let mut scratch = Scratch::default();
    criterion.bench_function("encode", |bencher| {
        let mut agent = greeted();
        let mut notify = BytesMut::new();
        engine::notify(1, 1, &[], &mut notify);
        bencher.iter(|| {
            agent.buffer().extend_from_slice(&notify);
            let Some(Event::Notify { pending, .. }) = agent.poll_event() else { panic!("no NOTIFY") };
            let answer = respond(black_box(&decision), pending.action_bytes_max(), &mut scratch);
            assert!(agent.ack(pending, &answer.actions));
            agent.unsent().clear();
        });
    });

    criterion.bench_function("notify to ack", |bencher| {
        let mut agent = greeted();
        let mut notify = BytesMut::new();
        tollgate::spop::frame::Frame::encode(
            tollgate::spop::frame::FrameType::Notify,
            tollgate::spop::frame::Flags::FIN,
            1,
            1,
            &mut notify,
            |out| out.extend_from_slice(payload),
        );
        bencher.iter(|| {
            agent.buffer().extend_from_slice(&notify);
            let Some(Event::Notify { pending, messages }) = agent.poll_event() else { panic!("no NOTIFY") };
            let Step::Done(decision) = pipeline.decide(&messages, clock.now()) else { panic!("nothing here waits") };
            let answer = respond(&decision, pending.action_bytes_max(), &mut scratch);
            assert!(agent.ack(pending, &answer.actions));
            agent.unsent().clear();
        });
    });
}

fn greeted() -> Agent {
    let mut agent = Agent::new(64 * 1024);
    engine::hello(16380, true, agent.buffer());
    assert!(matches!(agent.poll_event(), Some(Event::Hello(_))));
    agent.unsent().clear();
    agent
}

fn limit(criterion: &mut Criterion) {
    use std::time::Duration;
    use tollgate::limit::{
        Charge, Charges, Counted, CounterKey, CounterSettings, Holder, How, Limit, OnFailure, Quota, Rate,
    };

    let clock = Clock::system();
    let counters = Counters::new(&CounterSettings {
        redis: None,
        agents: std::num::NonZeroU64::MIN,
        memory_bytes_max: 64 * 1024 * 1024,
    })
    .unwrap();
    let quota = Quota::Rate(Rate::new(1_000_000_000, Duration::from_secs(1), 1_000_000_000).unwrap());
    let limit = Arc::new(Limit::new("per-user", quota.clone(), OnFailure::Local, 1));
    criterion.bench_function("limit", |bencher| {
        bencher.iter(|| {
            let mut key = CounterKey::of(&limit);
            key.part(b"acme");
            key.part(black_box(b"alice"));
            let (limit, quota, key) = (Arc::clone(&limit), quota.clone(), key.finish());
            let charge = Charge { limit, quota, key, cost: 1, holder: Holder::NONE, how: How::Take };
            let charges: Charges = [charge].into_iter().collect();
            let now = clock.now();
            let counted = counters.charge(&charges, now, now.instant() + Duration::from_millis(40));
            assert!(matches!(counted, Counted::Now(Ok(_))));
        });
    });
}

/// Each check by the library, without any of ours around it.
fn verify(criterion: &mut Criterion) {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
        ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING, ED25519,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
        RsaKeyPair,
    };
    let message = [b'm'; 900];
    let random = SystemRandom::new();
    let mut group = criterion.benchmark_group("verify");
    let mut check = |name: &str, key: ParsedPublicKey, signature: &[u8]| {
        key.verify_sig(&message, signature).unwrap();
        group.bench_function(name, |bencher| bencher.iter(|| key.verify_sig(black_box(&message), signature)));
    };
    for (name, size) in [
        ("RS256 2048", KeySize::Rsa2048),
        ("RS256 3072", KeySize::Rsa3072),
        ("RS256 4096", KeySize::Rsa4096),
        ("RS256 8192", KeySize::Rsa8192),
    ] {
        let pair = RsaKeyPair::generate(size).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &random, &message, &mut signature).unwrap();
        let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()).unwrap();
        check(name, key, &signature);
    }
    macro_rules! ecdsa {
        ($name:literal, $signing:ident, $verifying:ident) => {
            let pair = EcdsaKeyPair::generate(&$signing).unwrap();
            let signature = pair.sign(&random, &message).unwrap();
            check($name, ParsedPublicKey::new(&$verifying, pair.public_key().as_ref()).unwrap(), signature.as_ref());
        };
    }
    ecdsa!("ES256", ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256_SHA256_FIXED);
    ecdsa!("ES384", ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED);
    ecdsa!("ES512", ECDSA_P521_SHA512_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED);
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()).unwrap();
    check("EdDSA", key, pair.sign(&message).as_ref());
    group.finish();
}

criterion_group!(
    benches,
    stages,
    limit,
    verify,
    credentials::credentials,
    rules::rules,
    rules::expressions,
    audit::audit,
    constant_time::api_keys
);
criterion_main!(benches);
