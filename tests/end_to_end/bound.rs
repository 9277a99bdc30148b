//! Tokens that are bound to a key: DPoP through real HAProxy, with agents that share a Redis.

use serde_json::{Value, json};

use crate::support::dpop::Client;
use crate::support::stack::{Agent, Answer, App, Haproxy, Redis, Stack, config, shared_idp};
use crate::support::{eventually, folder};

async fn ask(haproxy: &Haproxy, token: &str, proof: &str) -> Answer {
    haproxy.get("/v1/x?q=1", &[("authorization", &format!("DPoP {token}")), ("dpop", proof)]).await
}

#[tokio::test]
async fn a_bound_token_gets_in_with_a_proof_for_the_request_and_once() {
    let idp = shared_idp().await;
    let stack = Stack::start(&config(&idp.issuer, "")).await;
    let (client, other) = (Client::new(), Client::new());
    let token = idp.mint(json!({ "user": "alice", "claims": { "cnf": client.cnf() } })).await;
    let unbound = idp.mint(json!({ "user": "alice" })).await;
    let url = stack.haproxy.url("/v1/x");
    let proof = |changes: Value| client.proof("GET", &url, &token, changes);

    let good = proof(json!({}));
    let answer = ask(&stack.haproxy, &token, &good).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-auth-user"), ["alice"]);
    assert_eq!(answer.header("dpop-nonce"), None);
    let https = url.replace("http://", "https://");
    for (what, token, proof, reason, error) in [
        ("the same again", &token, good.clone(), "dpop_replayed", "invalid_dpop_proof"),
        (
            "another method",
            &token,
            client.proof("POST", &url, &token, json!({})),
            "dpop_proof_invalid",
            "invalid_dpop_proof",
        ),
        (
            "another path",
            &token,
            proof(json!({ "htu": stack.haproxy.url("/v1/y") })),
            "dpop_proof_invalid",
            "invalid_dpop_proof",
        ),
        (
            "another port",
            &token,
            proof(json!({ "htu": "http://127.0.0.1/v1/x" })),
            "dpop_proof_invalid",
            "invalid_dpop_proof",
        ),
        ("another scheme", &token, proof(json!({ "htu": https })), "dpop_proof_invalid", "invalid_dpop_proof"),
        ("long ago", &token, proof(json!({ "iat": 1_700_000_000 })), "dpop_proof_invalid", "invalid_dpop_proof"),
        (
            "for another token",
            &token,
            client.proof("GET", &url, &unbound, json!({})),
            "dpop_proof_invalid",
            "invalid_dpop_proof",
        ),
        ("by another key", &token, other.proof("GET", &url, &token, json!({})), "proof_invalid", "invalid_token"),
        (
            "two in one field",
            &token,
            format!("{}, {}", proof(json!({})), proof(json!({}))),
            "dpop_proof_invalid",
            "invalid_dpop_proof",
        ),
        (
            "a token that is not bound",
            &unbound,
            client.proof("GET", &url, &unbound, json!({})),
            "claim_missing",
            "invalid_token",
        ),
    ] {
        let answer = ask(&stack.haproxy, token, &proof).await;
        assert_eq!((answer.status, answer.reason()), (401, reason), "{what}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        let begins = r#"DPoP realm="tollgate", algs="ES256 "#;
        assert!(challenge.starts_with(begins), "{what}: {challenge}");
        // In the challenge for DPoP, not in the other.
        let (dpop, bearer) = challenge.split_once(", Bearer realm=\"tollgate\"").unwrap();
        assert!(dpop.contains(&format!("error=\"{error}\"")) && bearer.is_empty(), "{what}: {challenge}");
    }
    let without = stack.haproxy.get("/v1/x", &[("authorization", &format!("DPoP {token}"))]).await;
    assert_eq!((without.status, without.reason()), (401, "proof_missing"));
    let bearer = [("authorization", format!("Bearer {token}")), ("dpop", proof(json!({})))];
    let answer = stack.haproxy.get("/v1/x", &bearer.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    assert_eq!((answer.status, answer.reason()), (401, "proof_missing"));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("Bearer realm=\"tollgate\", error=\"invalid_token\""), "{challenge}");
    let twice = [("authorization", format!("DPoP {token}")), ("dpop", proof(json!({}))), ("dpop", proof(json!({})))];
    let answer = stack.haproxy.get("/v1/x", &twice.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    assert_eq!((answer.status, answer.reason()), (400, "duplicate_field"));
    assert_eq!(stack.app.count().await, 1, "only the one allowed request reached the application");
    // Nothing that was presented is in a log.
    for secret in [&token, &good] {
        let secret = secret.rsplit('.').next().unwrap();
        assert!(!stack.agent.program.log().contains(secret) && !stack.haproxy.program.log().contains(secret));
    }
}

#[tokio::test]
async fn two_agents_refuse_each_others_replays_take_each_others_nonces_and_nothing_without_redis() {
    let idp = shared_idp().await;
    let mut redis = Redis::start().await;
    let secrets = folder();
    let key = secrets.path().join("dpop.key");
    std::fs::write(&key, "k".repeat(32)).unwrap();
    let more = format!(
        "counters: {{ redis: \"{}\", timeout: 15ms, agents: 2 }}\nspop: {{ deadline: 200ms }}\ndpop: {{ nonce: required, nonce_key: \"file:{}\" }}\n",
        redis.url(),
        key.display()
    );
    let config = config(&idp.issuer, &more);
    let (one, two, app) = tokio::join!(Agent::start(&config), Agent::start(&config), App::start());
    let (here, there) = (Haproxy::start(&[&one], &[app.port]).await, Haproxy::start(&[&two], &[app.port]).await);
    for (agent, haproxy) in [(&one, &here), (&two, &there)] {
        agent.ready().await;
        haproxy.answering().await;
    }
    let client = Client::new();
    let token = idp.mint(json!({ "user": "alice", "claims": { "cnf": client.cnf() } })).await;
    // Both sides are one site to the client.
    let ask = async |haproxy: &Haproxy, proof: &str| {
        let authorization = format!("DPoP {token}");
        haproxy.get("/v1/x", &[("host", "api.acme.example"), ("authorization", &authorization), ("dpop", proof)]).await
    };
    let proof = |changes: Value| client.proof("GET", "http://api.acme.example/v1/x", &token, changes);

    let answer = ask(&here, &proof(json!({}))).await;
    assert_eq!((answer.status, answer.reason()), (401, "dpop_nonce_needed"), "{answer:?}");
    assert!(answer.header("www-authenticate").unwrap().contains("error=\"use_dpop_nonce\""), "{answer:?}");
    let nonce = answer.header("dpop-nonce").unwrap().to_owned();
    let good = proof(json!({ "nonce": nonce }));
    let answer = ask(&there, &good).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("dpop-nonce").is_some(), "the next one comes with the answer");
    for haproxy in [&here, &there] {
        let answer = ask(haproxy, &good).await;
        assert_eq!((answer.status, answer.reason()), (401, "dpop_replayed"), "{answer:?}");
    }
    // What has to do with no proof has no nonce.
    let bearer = idp.mint(json!({ "user": "alice" })).await;
    let answer = here.get_as(&bearer, "/v1/x").await;
    assert_eq!((answer.status, answer.header("dpop-nonce")), (200, None));

    redis.program.kill();
    let answer = ask(&here, &proof(json!({ "nonce": nonce }))).await;
    assert_eq!((answer.status, answer.reason()), (503, "replay_unknown"), "{answer:?}");
    assert_eq!(here.get_as(&bearer, "/v1/x").await.status, 200, "nobody else needs it");
    let back = Redis::start_on(redis.port).await;
    eventually("proofs are taken again", || async {
        let answer = ask(&here, &proof(json!({ "nonce": nonce }))).await;
        (answer.status == 200).then_some(())
    })
    .await;
    drop(back);
    assert_eq!(app.count().await, 4);
}
