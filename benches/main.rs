//! The hot path in pieces: `decode` (bytes to messages), `decide` (messages to decision), `encode` (decision to ACK),
//! and the three together, as one NOTIFY goes through an agent. `limit` is one charge in memory.
//!
//! The work: an ES256 token of about 900 bytes, verified once and then cached; issuer, audience and group rule; one
//! per-user limit. `make bench` runs them; figures worth keeping go into docs/performance.md, as ratios.

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
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: admin, host: api.acme.example, path: /admin/**, allow: { groups: [ops] }, limits: [per-user] }
"#;

/// A pipeline, and the payload of a NOTIFY that it allows.
fn pipeline() -> (Arc<Pipeline>, BytesMut) {
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
    };
    let claims = json!({
        "iss": "https://login.acme.example", "aud": ["https://api.acme.example", "account"], "sub": "0b1a6f4e-7d0c-4b5e",
        "exp": Clock::system().now().unix_s() + 86_400, "iat": Clock::system().now().unix_s(), "azp": "web",
        "groups": ["platform-ops", "plan-pro", "everyone"], "scope": "openid profile email",
        "email": "alice@acme.example", "name": "Alice Example", "jti": "a".repeat(330),
    });
    let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
    let authorization = format!("Bearer {}", jsonwebtoken::encode(&header, &claims, &key).unwrap());
    let mut payload = BytesMut::new();
    engine::request_payload(&arguments(&authorization), &mut payload);
    (Arc::new(pipeline), payload)
}

/// What the shipped SPOE config sends.
fn arguments(authorization: &str) -> Vec<(&str, TypedData<'_>)> {
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
        ("dpop", TypedData::Null),
        ("accept", TypedData::Str(b"*/*")),
        ("cert", TypedData::Null),
        ("cert_used", TypedData::Bool(false)),
        ("cert_verify", TypedData::Int64(0)),
        ("cert_dn", TypedData::Null),
    ]
}

fn stages(criterion: &mut Criterion) {
    let clock = Clock::system();
    let (pipeline, payload) = pipeline();
    criterion.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let messages = Messages::decode(black_box(&payload)).unwrap();
            black_box(tollgate::extract::extract(&messages).unwrap());
        });
    });
    let messages = Messages::decode(&payload).unwrap();
    let decide = || match pipeline.decide(black_box(&messages), clock.now()) {
        Step::Done(decision) => decision,
        Step::Wait(_) => panic!("nothing here waits"),
    };
    assert_eq!(decide().reason.code(), "allowed");
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
            |out| out.extend_from_slice(&payload),
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
    use tollgate::limit::{Charge, Charges, Counted, CounterKey, CounterSettings, Limit, OnFailure, Quota};

    let clock = Clock::system();
    let counters = Counters::new(&CounterSettings {
        redis: None,
        agents: std::num::NonZeroU64::MIN,
        memory_bytes_max: 64 * 1024 * 1024,
    })
    .unwrap();
    let quota = Quota::new(1_000_000_000, Duration::from_secs(1), 1_000_000_000).unwrap();
    let limit = Arc::new(Limit { name: "per-user".into(), quota, on_failure: OnFailure::Local, generation: 1 });
    criterion.bench_function("limit", |bencher| {
        bencher.iter(|| {
            let mut key = CounterKey::of(&limit);
            key.part(b"acme");
            key.part(black_box(b"alice"));
            let charge = Charge { limit: Arc::clone(&limit), quota, key: key.finish(), cost: 1 };
            let charges: Charges = [charge].into_iter().collect();
            let now = clock.now();
            let counted = counters.charge(&charges, now, now.instant() + Duration::from_millis(40));
            assert!(matches!(counted, Counted::Now(Ok(_))));
        });
    });
}

criterion_group!(benches, stages, limit);
criterion_main!(benches);
