//! Who gets in, and what the application then sees.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::stack::{AUDIENCE, Agent, App, Haproxy, Idp, Stack, config, shared_idp};
use crate::support::{eventually, folder, free_port};

#[tokio::test]
async fn a_good_token_gets_in_and_the_application_sees_who_it_is() {
    let idp = shared_idp().await;
    let stack = Stack::start(&config(&idp.issuer, "")).await;
    for alg in ["RS256", "PS256", "ES256", "EdDSA"] {
        let token = idp.mint(json!({ "user": "alice", "alg": alg })).await;
        let answer = stack.haproxy.get_as(&token, "/admin/x?q=1").await;
        assert_eq!(answer.status, 200, "{alg}: {answer:?}");
        assert_eq!(answer.seen("x-auth-user"), ["alice"]);
        assert_eq!(answer.seen("x-auth-groups"), ["ops,paid"]);
        assert_eq!(answer.seen("x-auth-email"), ["alice@acme.example"]);
        assert_eq!(answer.seen("x-auth-issuer"), [idp.issuer.as_str()]);
        assert_eq!(answer.seen("x-auth-name"), ["Alice"]);
        assert_eq!(answer.seen("x-auth-subject").len(), 1);
        assert_eq!(answer.body["query"], "q=1");
    }
    // The answer, the decision log and HAProxy's log name the same decision.
    let token = idp.mint(json!({ "user": "carol" })).await;
    let answer = stack.haproxy.get_as(&token, "/v1/x").await;
    let id = answer.header("x-tollgate-decision").unwrap().to_owned();
    eventually("the decision is in both logs", || async {
        let line = stack.agent.decisions().into_iter().find(|line| line["decision_id"] == id.as_str())?;
        assert_eq!([&line["verdict"], &line["user"], &line["rule"]], ["allow", "carol", "api"]);
        let log = stack.haproxy.program.log();
        let line = log.lines().find(|line| line.contains(&id))?.to_owned();
        assert!(line.contains(r#""user":"carol""#) && line.contains(r#""rule":"api""#), "{line}");
        Some(())
    })
    .await;
    // Nothing that was presented is in either.
    let secret = token.rsplit('.').next().unwrap();
    assert!(!stack.agent.program.log().contains(secret) && !stack.haproxy.program.log().contains(secret));
}

#[tokio::test]
async fn what_proves_nothing_gets_nowhere() {
    let idp = shared_idp().await;
    let stack = Stack::start(&config(&idp.issuer, "")).await;
    let good = idp.mint(json!({ "user": "alice" })).await;
    let claims = part(&good, 1);
    let header = part(&good, 0);
    let with_header = |header: Value| {
        let mut parts: Vec<_> = good.split('.').map(str::to_owned).collect();
        parts[0] = B64.encode(header.to_string());
        parts.join(".")
    };
    let jwks = idp.jwks().await;
    let n = B64.decode(jwks["keys"].as_array().unwrap().iter().find_map(|key| key["n"].as_str()).unwrap()).unwrap();

    let bearer = |token: String| vec![format!("Bearer {token}")];
    let cases: Vec<(&str, Vec<String>, u16, &str)> = vec![
        ("no token", vec![], 401, "credential_missing"),
        ("an empty one", vec!["Bearer ".to_owned()], 401, "credential_malformed"),
        ("another scheme", vec!["Basic YWxpY2U6YWxpY2U=".to_owned()], 401, "credential_unsupported"),
        ("no JWT", bearer("abc".to_owned()), 401, "token_malformed"),
        ("expired", bearer(idp.mint(json!({ "user": "alice", "ttl": -120 })).await), 401, "token_expired"),
        (
            "another audience",
            bearer(idp.mint(json!({ "user": "alice", "aud": "https://other.example" })).await),
            401,
            "audience_mismatch",
        ),
        (
            "another issuer",
            bearer(idp.mint(json!({ "user": "alice", "claims": { "iss": "https://evil.example" } })).await),
            401,
            "issuer_unknown",
        ),
        (
            "the issuer with a slash",
            bearer(idp.mint(json!({ "user": "alice", "claims": { "iss": format!("{}/", idp.issuer) } })).await),
            401,
            "issuer_unknown",
        ),
        (
            "alg none",
            bearer(format!("{}.{}.", encode(&json!({ "alg": "none" })), encode(&claims))),
            401,
            "algorithm_not_allowed",
        ),
        ("HS256 with the public key", bearer(hs256(&header, &claims, &n)), 401, "algorithm_not_allowed"),
        ("an unknown kid", bearer(with_header(json!({ "alg": "RS256", "kid": "nobody's" }))), 401, "key_unknown"),
        (
            "a critical header",
            bearer(with_header(json!({ "alg": "RS256", "kid": header["kid"], "crit": ["x"] }))),
            401,
            "critical_header",
        ),
        (
            "another header over the signature",
            bearer(with_header(json!({ "alg": "RS256", "kid": header["kid"] }))),
            401,
            "signature_invalid",
        ),
        ("two tokens", vec![format!("Bearer {good}"), format!("Bearer {good}")], 400, "duplicate_field"),
    ];
    for (what, fields, status, reason) in cases {
        let fields: Vec<_> = fields.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = stack.haproxy.get("/v1/x", &fields).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{what}: {answer:?}");
        if status == 401 {
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.contains("Bearer realm="), "{what}: {challenge}");
            let named = !["credential_missing", "credential_unsupported"].contains(&reason);
            assert_eq!(challenge.contains("error="), named, "{what}: {challenge}");
        }
    }
    let bob = idp.mint(json!({ "user": "bob" })).await;
    let answer = stack.haproxy.get_as(&bob, "/admin/x").await;
    assert_eq!((answer.status, answer.reason()), (403, "group_missing"));
    let answer = stack.haproxy.get_as(&bob, "/nowhere").await;
    assert_eq!((answer.status, answer.reason()), (403, "no_rule"));
    // Present and bad is a challenge even where anyone may come.
    let answer = stack.haproxy.get("/public/x", &[("authorization", "Bearer abc")]).await;
    assert_eq!((answer.status, answer.reason()), (401, "token_malformed"));
    assert_eq!(stack.haproxy.get("/public/x", &[]).await.status, 200);
    assert_eq!(stack.app.count().await, 1, "only the one allowed request reached the application");
}

#[tokio::test]
async fn nobody_names_themselves() {
    let idp = shared_idp().await;
    let stack = Stack::start(&config(&idp.issuer, "")).await;
    let token = idp.mint(json!({ "user": "carol" })).await;
    let forged = [
        "X-Auth-User: root",
        "x-auth-user: root",
        "X_Auth_User: root",
        "x_auth_user: root",
        "X.Auth.User: root",
        "X-Auth_User: root",
        "X-AUTH-GROUPS: ops",
        "X_AUTH_GROUPS: ops",
        "X-Auth-Anything: root",
        "Connection: close, X-Auth-User",
    ];
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", stack.haproxy.port)).await.unwrap();
    let request =
        format!("GET /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{}\r\n\r\n", forged.join("\r\n"));
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    let seen: Vec<_> = body["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pair| {
            let folded: String = pair[0].as_str().unwrap().chars().filter(char::is_ascii_alphanumeric).collect();
            folded.to_ascii_lowercase().starts_with("xauth")
        })
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    let names: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
    assert!(seen.contains(&("x-auth-user", "carol")), "{seen:?}");
    assert!(!body.to_string().contains("root") && !names.contains(&"x-auth-groups"), "{seen:?}");
    // The same without any token: nothing is left.
    let fields: Vec<_> = forged.iter().filter_map(|field| field.split_once(": ")).collect();
    let answer = stack.haproxy.get("/public/x", &fields).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.to_string().contains("root"), "{answer:?}");
}

#[tokio::test]
async fn a_path_with_two_readings_is_refused_before_any_rule() {
    let idp = shared_idp().await;
    let stack = Stack::start(&config(&idp.issuer, "")).await;
    for path in [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/..%2fadmin",
        "/public//admin",
        "/public/%5c../admin",
        "/public/x;a/../admin",
        "/public/%252e%252e/admin",
        "/public/x%00",
        "//public/x",
    ] {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", stack.haproxy.port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("path_ambiguous"), "{path}: {answer}");
    }
    assert_eq!(stack.app.count().await, 0);
    // Encoded letters are the same path to policy and application.
    let answer = stack.haproxy.get("/%61dmin/x", &[]).await;
    assert_eq!((answer.status, answer.reason()), (401, "credential_missing"));
}

#[tokio::test]
async fn the_group_chooses_the_backend() {
    let idp = shared_idp().await;
    let settings = config(&idp.issuer, "");
    let (agent, std, fast) = tokio::join!(Agent::start(&settings), App::start(), App::start());
    // The shipped config sends `std` to the first two workers and `fast` to the third.
    let haproxy = Haproxy::start(&[&agent], &[std.port, std.port, fast.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    for (user, port) in [("bob", fast.port), ("carol", std.port)] {
        let token = idp.mint(json!({ "user": user })).await;
        let answer = haproxy.get_as(&token, "/v1/x").await;
        assert_eq!(answer.body["port"], port, "{user}: {answer:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_serves_haproxy_too() {
    let idp = shared_idp().await;
    let folder = folder();
    let socket = format!("unix@{}", folder.path().join("spop.sock").display());
    let (agent, app) = (Agent::start_on(&config(&idp.issuer, ""), &socket).await, App::start().await);
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    let token = idp.mint(json!({ "user": "alice" })).await;
    assert_eq!(haproxy.get_as(&token, "/admin/x").await.seen("x-auth-user"), ["alice"]);
}

#[tokio::test]
async fn groups_belong_to_their_issuer() {
    let (first, second) = (shared_idp().await, Idp::start().await);
    let more = format!(
        "  other:\n    issuer: {}\n    insecure: true\n    audiences: [{AUDIENCE}]\n    claims: {{ user: preferred_username }}\n",
        second.issuer
    );
    let config = config(&first.issuer, "").replacen("groups:\n", &format!("{more}groups:\n"), 1);
    let stack = Stack::start(&config).await;
    let mine = first.mint(json!({ "user": "alice" })).await;
    let theirs = second.mint(json!({ "user": "alice" })).await;
    assert_eq!(stack.haproxy.get_as(&mine, "/admin/x").await.status, 200);
    let answer = stack.haproxy.get_as(&theirs, "/admin/x").await;
    assert_eq!(
        (answer.status, answer.reason()),
        (403, "group_missing"),
        "the second issuer cannot mint the first's groups"
    );
    assert_eq!(stack.haproxy.get_as(&theirs, "/v1/x").await.status, 200);
}

#[tokio::test]
async fn a_provider_that_is_down_at_the_start_is_waited_for() {
    let idp_port = free_port();
    let issuer = format!("http://127.0.0.1:{idp_port}");
    let (agent, app) = (Agent::start(&config(&issuer, "")).await, App::start().await);
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    haproxy.answering().await;
    // It serves what needs no key, and says what it lacks.
    assert_eq!(haproxy.get("/public/x", &[]).await.status, 200);
    let (status, body) = agent.admin("/readyz").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["issuers"]["acme"]["ready"]), (503, &json!(false)), "{body}");
    assert_eq!(agent.admin("/livez").await.0, 200);
    let token = shared_idp().await.mint(json!({ "user": "alice", "claims": { "iss": issuer } })).await;
    let answer = haproxy.get_as(&token, "/v1/x").await;
    assert_eq!((answer.status, answer.reason()), (503, "no_keys"));

    let idp = Idp::start_on(idp_port).await;
    agent.ready().await;
    let token = idp.mint(json!({ "user": "alice" })).await;
    assert_eq!(haproxy.get_as(&token, "/v1/x").await.status, 200);
}

#[tokio::test]
async fn rotated_keys_are_fetched_when_they_are_first_seen() {
    let idp = Idp::start().await;
    let stack = Stack::start(&config(&idp.issuer, "spop: { deadline: 200ms }\n")).await;
    let old = idp.mint(json!({ "user": "alice" })).await;
    assert_eq!(stack.haproxy.get_as(&old, "/v1/x").await.status, 200);
    idp.rotate().await;
    let new = idp.mint(json!({ "user": "alice" })).await;
    assert_ne!(part(&old, 0)["kid"], part(&new, 0)["kid"]);
    // The first token with an unknown key waits for one fetch, for half the deadline; a provider on a busy machine may
    // take longer, and then the keys are there for the next.
    eventually("the new token is accepted", || async {
        let answer = stack.haproxy.get_as(&new, "/v1/x").await;
        assert!(answer.status == 200 || answer.reason() == "key_unknown", "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    // The old key is no longer published. For five minutes that may be the mistake of one of the provider's machines, and
    // whoever got a token a moment ago goes on (docs/identity.md).
    assert_eq!(stack.haproxy.get_as(&old, "/v1/x").await.status, 200);
}

fn encode(part: &Value) -> String {
    B64.encode(part.to_string())
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&B64.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

fn hs256(header: &Value, claims: &Value, key: &[u8]) -> String {
    let header = json!({ "alg": "HS256", "typ": "JWT", "kid": header["kid"] });
    let message = format!("{}.{}", encode(&header), encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    format!("{message}.{}", B64.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
}
