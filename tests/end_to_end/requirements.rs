//! What rules ask for, and what callers and operators are told, through HAProxy.

use serde_json::json;

use crate::support::eventually;
use crate::support::stack::{AUDIENCE, Stack, shared_idp};

#[tokio::test]
async fn rules_ask_for_networks_strong_sign_ins_and_any_of_several_ways() {
    let idp = shared_idp().await;
    let issuer = &idp.issuer;
    let stack = Stack::start(&format!(
        r#"
issuers:
  acme: {{ issuer: {issuer}, insecure: true, audiences: [{AUDIENCE}], claims: {{ user: preferred_username }} }}
groups: {{ ops: ["acme:platform-ops"], paid: ["acme:plan-pro"] }}
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: inside, path: /public/**, allow: {{ anyone: true, src: 127.0.0.0/8 }} }}
  - {{ name: outside, path: /limited/**, allow: {{ anyone: true, src: 10.0.0.0/8 }} }}
  - {{ name: stricter, path: /v1/**, allow: {{ groups: [ops] }}, shadow: true }}
  - {{ name: below, host: "*.acme.example", path: /v1/**, allow: authenticated }}
  - {{ name: strong, path: /admin/**, allow: {{ any: [{{ acr: gold }}, {{ acr: gold, max_login_age: 5m }}] }} }}
  - {{ name: recent, path: /v1/**, allow: {{ acr: [gold, silver], max_login_age: 5m, not: {{ groups: [paid] }} }} }}
"#
    ))
    .await;
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let token = async |claims: serde_json::Value| idp.mint(json!({ "user": "bob", "claims": claims })).await;
    let name = |mut claims: serde_json::Value| {
        claims["preferred_username"] = "bob".into();
        claims["groups"] = json!([]);
        claims
    };
    let weak = token(name(json!({}))).await;
    let old = token(name(json!({ "acr": "gold", "auth_time": now_s - 600 }))).await;
    let good = token(name(json!({ "acr": "silver", "auth_time": now_s - 5 }))).await;
    let paid =
        token(json!({ "acr": "silver", "auth_time": now_s - 5, "groups": ["plan-pro"], "preferred_username": "eve" }));
    let paid = paid.await;

    for (what, path, token, status, reason) in [
        ("inside, nobody", "/public/x", None, 200, ""),
        ("inside, somebody", "/public/x", Some(&weak), 200, ""),
        ("outside, nobody", "/limited/x", None, 403, "source_refused"),
        ("outside, somebody", "/limited/x", Some(&good), 403, "source_refused"),
        ("nobody", "/v1/x", None, 401, "credential_missing"),
        ("too weak", "/v1/x", Some(&weak), 401, "authentication_insufficient"),
        ("too old", "/v1/x", Some(&old), 401, "authentication_insufficient"),
        ("strong and recent", "/v1/x", Some(&good), 200, ""),
        ("excluded", "/v1/x", Some(&paid), 403, "condition_unmet"),
        ("too old, which does not matter here", "/admin/x", Some(&old), 200, ""),
    ] {
        let answer = match token {
            Some(token) => stack.haproxy.get_as(token, path).await,
            None => stack.haproxy.get(path, &[]).await,
        };
        assert_eq!((answer.status, answer.reason()), (status, reason), "{what}: {answer:?}");
        if reason == "authentication_insufficient" {
            let challenge = answer.header("www-authenticate").unwrap();
            let says = r#"error="insufficient_user_authentication", acr_values="gold silver", max_age="300""#;
            assert!(challenge.contains(says), "{what}: {challenge}");
        }
    }
    let fields = [("host", "API.eu.acme.example:8443"), ("authorization", &format!("Bearer {weak}"))];
    assert_eq!(stack.haproxy.get("/v1/x", &fields).await.status, 200, "a host below the wildcard");
    // The shadow rule kept nobody out, and said so.
    let refused = r#"tollgate_shadow_decisions_total{verdict="deny",reason="group_missing",rule="stricter"}"#;
    assert_eq!(stack.agent.metric(refused).await, 5.0);
    eventually("the log has it", || async {
        let decisions = stack.agent.decisions();
        let line = decisions.iter().find(|line| line["rule"] == "below")?.clone();
        assert_eq!(line["shadow"], "stricter=group_missing");
        Some(())
    })
    .await;
}
