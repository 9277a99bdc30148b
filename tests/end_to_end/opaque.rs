//! Tokens that their issuer is asked about, with the certified provider.

use serde_json::json;

use crate::support::stack::{AUDIENCE, Idp, Stack, shared_idp};
use crate::support::{eventually, folder, free_port};

const SECRET: &str = "tollgate-secret";

/// Rules for opaque tokens and JWTs of `issuer`. `introspection` is more of that section, `more` is at the top level.
fn config(issuer: &str, secret: &str, introspection: &str, more: &str) -> String {
    format!(
        r#"
spop: {{ deadline: 200ms }}
issuers:
  acme:
    issuer: {issuer}
    insecure: true
    audiences: [{AUDIENCE}, web]
    claims: {{ user: preferred_username, audience: [aud, client_id] }}
    introspection: {{ client_id: tollgate, client_secret: "file:{secret}"{introspection} }}
{more}
groups:
  ops: ["acme:platform-ops"]
  paid: ["acme:plan-pro"]
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: public, path: /public/**, allow: anyone, identity_unavailable: anonymous }}
  - {{ name: admin, path: /admin/**, allow: {{ groups: [ops] }} }}
  - {{ name: jwts, path: /jwts/**, allow: authenticated, credentials: jwt }}
  - {{ name: api, path: /v1/**, allow: authenticated }}
"#
    )
}

/// Asks until the provider has answered within half the deadline: on a busy machine it may take longer, and then the
/// answer is there for the next request.
async fn answered(stack: &Stack, token: &str, path: &str) -> crate::support::stack::Answer {
    eventually("the provider has answered", || async {
        let answer = stack.haproxy.get_as(token, path).await;
        (answer.reason() != "introspection_unavailable").then_some(answer)
    })
    .await
}

#[tokio::test]
async fn the_provider_says_who_has_an_opaque_token() {
    let idp = shared_idp().await;
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let stack = Stack::start(&config(&idp.issuer, secret.to_str().unwrap(), "", "")).await;
    let alice = idp.mint(json!({ "user": "alice", "alg": "opaque", "scope": "openid read" })).await;
    assert!(!alice.contains('.'), "{alice}");
    let answer = answered(&stack, &alice, "/admin/x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-auth-user"), ["alice"]);
    assert_eq!(answer.seen("x-auth-groups"), ["ops,paid"]);
    assert_eq!(answer.seen("x-auth-email"), ["alice@acme.example"]);
    assert_eq!(answer.seen("x-auth-issuer"), [idp.issuer.as_str()]);
    for (what, token, path, status, reason) in [
        (
            "not in the group",
            idp.mint(json!({ "user": "bob", "alg": "opaque" })).await,
            "/admin/x",
            403,
            "group_missing",
        ),
        ("made up", "abcdefghijklmnopqrstuvwxyz".to_owned(), "/v1/x", 401, "token_inactive"),
        (
            "expired",
            idp.mint(json!({ "user": "bob", "alg": "opaque", "ttl": -120 })).await,
            "/v1/x",
            401,
            "token_inactive",
        ),
        (
            "another audience",
            idp.mint(json!({ "user": "bob", "alg": "opaque", "aud": "https://other.example" })).await,
            "/v1/x",
            401,
            "audience_mismatch",
        ),
        ("where JWTs only are taken", alice.clone(), "/jwts/x", 401, "token_malformed"),
        ("inactive where anyone may come", "made-up".to_owned(), "/public/x", 401, "token_inactive"),
    ] {
        let answer = answered(&stack, &token, path).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{what}: {answer:?}");
        if status == 401 {
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
        }
    }
    // JWTs of the same issuer beside them, by its keys.
    let jwt = idp.mint(json!({ "user": "alice" })).await;
    eventually("the JWT is verified", || async {
        (stack.haproxy.get_as(&jwt, "/admin/x").await.status == 200).then_some(())
    })
    .await;
    eventually("the log says what proved it", || async {
        let line = stack.agent.decisions().into_iter().find(|line| line["user"] == "alice")?;
        assert_eq!([&line["credential"], &line["issuer"]], ["opaque", "acme"]);
        Some(())
    })
    .await;
    let before = stack.agent.metric("tollgate_introspection_calls_total{issuer=\"acme\"}").await;
    for _ in 0..20 {
        assert_eq!(stack.haproxy.get_as(&alice, "/v1/x").await.status, 200);
    }
    assert_eq!(stack.agent.metric("tollgate_introspection_calls_total{issuer=\"acme\"}").await, before);
    assert!(stack.agent.metric("tollgate_introspection_cache_hits_total{issuer=\"acme\"}").await >= 20.0);
    assert!(stack.agent.metric("tollgate_introspection_tokens_cached{issuer=\"acme\"}").await >= 2.0);
    assert_eq!(stack.agent.metric("tollgate_introspection_up{issuer=\"acme\"}").await, 1.0);
    assert_eq!(stack.agent.metric("tollgate_introspection_failures_total{issuer=\"acme\"}").await, 0.0);
    let said = [stack.agent.program.log(), stack.agent.admin("/metrics").await.1, stack.agent.admin("/readyz").await.1];
    assert!(!said.iter().any(|text| text.contains(SECRET) || text.contains(&alice)), "a secret is in a log or a page");
}

#[tokio::test]
async fn a_token_that_was_revoked_ends_with_the_answer() {
    let idp = shared_idp().await;
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let stack = Stack::start(&config(&idp.issuer, secret.to_str().unwrap(), ", max_age: 1s", "")).await;
    let token = idp.mint(json!({ "user": "alice", "alg": "opaque" })).await;
    assert_eq!(answered(&stack, &token, "/v1/x").await.status, 200);
    idp.revoke(&token).await;
    let refused = eventually("it is refused", || async {
        let answer = stack.haproxy.get_as(&token, "/v1/x").await;
        (answer.status == 401).then_some(answer)
    })
    .await;
    assert_eq!(refused.reason(), "token_inactive");
}

#[tokio::test]
async fn groups_that_introspection_has_not_come_from_userinfo() {
    let idp = shared_idp().await;
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let stack = Stack::start(&config(&idp.issuer, secret.to_str().unwrap(), ", userinfo: true", "")).await;
    // Without an audience it is for the client it was issued to, by the config's `claims.audience`.
    let scope = "openid profile email groups";
    let alice = idp.mint(json!({ "user": "alice", "aud": null, "scope": scope })).await;
    let answer = answered(&stack, &alice, "/admin/x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-auth-user"), ["alice"]);
    assert_eq!(answer.seen("x-auth-groups"), ["ops,paid"]);
    assert_eq!(answer.seen("x-auth-name"), ["Alice"]);
    let bob = idp.mint(json!({ "user": "bob", "aud": null, "scope": scope })).await;
    let answer = answered(&stack, &bob, "/admin/x").await;
    assert_eq!((answer.status, answer.reason()), (403, "group_missing"));
    // A token for an API says its groups itself; the provider would not show them at the userinfo endpoint.
    let api = idp.mint(json!({ "user": "alice", "alg": "opaque" })).await;
    assert_eq!(answered(&stack, &api, "/admin/x").await.status, 200);
    let without = idp.mint(json!({ "user": "alice", "alg": "opaque", "groups": [] })).await;
    let answer = answered(&stack, &without, "/admin/x").await;
    assert_eq!((answer.status, answer.reason()), (403, "group_missing"), "an empty list is an answer");
}

#[tokio::test]
async fn a_provider_that_is_away_costs_new_tokens_and_known_ones_not() {
    let idp = Idp::start().await;
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    // A second issuer of opaque tokens, which nobody ever reaches.
    let nobody = free_port();
    let beta = format!(
        r#"  beta:
    issuer: http://127.0.0.1:{nobody}
    insecure: true
    audiences: [{AUDIENCE}]
    tokens: opaque
    introspection:
      client_id: tollgate
      client_secret: "file:{}"
      endpoint: http://127.0.0.1:{nobody}/introspect
      prefix: beta_"#,
        secret.display()
    );
    let stack = Stack::start(&config(&idp.issuer, secret.to_str().unwrap(), "", &beta)).await;
    let known = idp.mint(json!({ "user": "alice", "alg": "opaque" })).await;
    let new = idp.mint(json!({ "user": "bob", "alg": "opaque" })).await;
    assert_eq!(answered(&stack, &known, "/admin/x").await.status, 200);
    for (path, status) in [("/v1/x", 503), ("/public/x", 200)] {
        let answer = stack.haproxy.get_as("beta_x", path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    drop(idp);
    for n in 0..5 {
        let answer = stack.haproxy.get_as(&new, "/v1/x").await;
        assert_eq!((answer.status, answer.reason()), (503, "introspection_unavailable"), "{n}: {answer:?}");
        // Where the rule says so it is as good as nobody's, who may pass there.
        let answer = stack.haproxy.get_as(&new, "/public/x").await;
        assert_eq!(answer.status, 200, "{n}: {answer:?}");
        assert!(answer.seen("x-auth-user").is_empty());
        // Who is known is not asked about.
        assert_eq!(stack.haproxy.get_as(&known, "/admin/x").await.seen("x-auth-user"), ["alice"], "{n}");
    }
    eventually("the metric says so", || async {
        let up = stack.agent.metric("tollgate_introspection_up{issuer=\"acme\"}").await;
        (up == 0.0).then_some(())
    })
    .await;
    let (status, body) = stack.agent.admin("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["introspection"]["acme"]["answering"]), (200, &json!(false)), "{body}");
    let log = stack.agent.program.log();
    let said = log.lines().filter(|line| line.contains("the issuer cannot be asked about tokens")).collect::<Vec<_>>();
    assert!(said.len() <= 2, "once for each issuer and episode: {said:?}");
    assert!(stack.agent.decisions().iter().any(|line| line["degraded"] == true && line["verdict"] == "allow"));
}

#[tokio::test]
async fn a_secret_that_the_provider_does_not_take_is_our_failure() {
    let idp = shared_idp().await;
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "not-the-secret").unwrap();
    let stack = Stack::start(&config(&idp.issuer, secret.to_str().unwrap(), "", "")).await;
    let token = idp.mint(json!({ "user": "alice", "alg": "opaque" })).await;
    let said = eventually("it is logged", || async {
        let answer = stack.haproxy.get_as(&token, "/v1/x").await;
        assert_eq!((answer.status, answer.reason()), (503, "introspection_unavailable"), "{answer:?}");
        let log = stack.agent.program.log();
        log.lines().find(|line| line.contains("the issuer cannot be asked about tokens")).map(str::to_owned)
    })
    .await;
    assert!(said.contains("does not take our `client_id` and `client_secret` (status 401)"), "{said}");
    assert!(!stack.agent.program.log().contains("not-the-secret"));
}
