//! Directories behind HAProxy: names and passwords by LDAP, and groups that no token has.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::slapd::{ACCOUNT, ACCOUNT_PASSWORD, SUFFIX, Slapd, password_of};
use crate::support::stack::{AUDIENCE, Stack, shared_idp};
use crate::support::{eventually, folder};

/// A directory `people` as the config has it, with the files that it names.
fn people(slapd: &Slapd, folder: &std::path::Path) -> String {
    std::fs::write(folder.join("ca.pem"), &*slapd.ca).unwrap();
    std::fs::write(folder.join("account"), ACCOUNT_PASSWORD).unwrap();
    let (port, folder) = (slapd.tls_port, folder.display());
    format!(
        r#"
spop: {{ deadline: 1s }}
directories:
  people:
    ldap:
      url: ldaps://127.0.0.1:{port}
      ca_file: {folder}/ca.pem
      bind_dn: {ACCOUNT}
      bind_password: file:{folder}/account
      users: {{ base: "ou=people,{SUFFIX}", filter: "(uid={{user}})" }}
      groups: {{ base: "{SUFFIX}", filter: "(member={{dn}})" }}
groups:
  ops: ["people:ops"]
"#
    )
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn a_name_and_a_password_get_in_where_the_directory_says_so() {
    let (mut slapd, folder) = (Slapd::start().await, folder());
    let yaml = people(&slapd, folder.path())
        + r"
basic: { directory: people }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: admin, path: /admin/**, allow: { groups: [ops] }, credentials: [basic] }
  - { name: api, path: /v1/**, allow: authenticated, credentials: [jwt, basic] }
";
    let stack = Stack::start(&yaml).await;
    let ask = async |path: &str, authorization: Option<&str>| {
        let fields: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        stack.haproxy.get(path, &fields).await
    };
    let right = |user: &str| basic(user, password_of(user).expose());

    let answer = ask("/admin/x", Some(&right("ann"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.seen("x-auth-user"), ["ann"]);
    assert_eq!(answer.seen("x-auth-groups"), ["ops"]);
    assert_eq!(answer.seen("x-auth-issuer"), ["people"]);
    for (what, path, authorization, status, reason) in [
        ("a wrong password", "/admin/x", Some(basic("ann", "x")), 401, "password_refused"),
        ("nobody of that name", "/admin/x", Some(basic("nobody", "x")), 401, "password_refused"),
        ("an empty password", "/admin/x", Some(basic("ann", "")), 401, "password_refused"),
        ("a name with a filter in it", "/admin/x", Some(basic("a*", "secret of ann")), 401, "password_refused"),
        ("no pair", "/admin/x", Some("Basic YW5u".to_owned()), 401, "credential_malformed"),
        ("another scheme", "/admin/x", Some("Bearer a.b.c".to_owned()), 401, "credential_unsupported"),
        ("nothing", "/admin/x", None, 401, "credential_missing"),
        ("another group", "/admin/x", Some(right("mallory")), 403, "group_missing"),
    ] {
        let answer = ask(path, authorization.as_deref()).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{what}: {answer:?}");
        if status == 401 {
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Basic realm=\"tollgate\""), "{what}: {challenge}");
        }
    }
    let challenge = ask("/v1/x", None).await.header("www-authenticate").unwrap_or_default().to_owned();
    assert_eq!(challenge, "Bearer realm=\"tollgate\", Basic realm=\"tollgate\", charset=\"UTF-8\"");

    // Without the directory whoever is known goes on for a while; others are told that it is not their fault.
    slapd.kill();
    assert_eq!(ask("/admin/x", Some(&right("ann"))).await.status, 200);
    let answer = ask("/admin/x", Some(&right("bob"))).await;
    assert_eq!((answer.status, answer.reason()), (503, "directory_unavailable"), "{answer:?}");
    assert_eq!(stack.agent.metric("tollgate_passwords_up").await, 0.0);
    assert!(stack.agent.admin("/readyz").await.1.contains("passwords"), "it says what is wrong");
    slapd.restart().await;
    eventually("bob gets in again", || async {
        (ask("/admin/x", Some(&right("bob"))).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(stack.agent.metric("tollgate_passwords_up").await, 1.0);
    let logs = stack.agent.program.log() + &stack.haproxy.program.log();
    for secret in [ACCOUNT_PASSWORD, "secret of ann", &STANDARD.encode("ann:secret of ann")] {
        assert!(!logs.contains(secret), "{secret} is in a log");
    }
}

#[tokio::test]
async fn groups_of_a_directory_count_beside_the_tokens_and_unknown_is_not_none() {
    let idp = shared_idp().await;
    let (mut slapd, folder) = (Slapd::start().await, folder());
    let issuer = &idp.issuer;
    let yaml = people(&slapd, folder.path())
        + &format!(
            r"
issuers:
  acme:
    issuer: {issuer}
    insecure: true
    audiences: [{AUDIENCE}]
    claims: {{ user: preferred_username }}
    groups_from: people
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: admin, path: /admin/**, allow: {{ groups: [ops] }} }}
  - {{ name: patient, path: /v1/**, allow: {{ groups: [ops] }}, groups_unknown: unavailable }}
"
        );
    let stack = Stack::start(&yaml).await;
    let token = async |name: &str| idp.mint(json!({ "user": "carol", "claims": { "preferred_username": name } })).await;
    let (ann, mallory, bob) = (token("ann").await, token("mallory").await, token("bob").await);
    eventually("ann is in ops", || async {
        let answer = stack.haproxy.get_as(&ann, "/admin/x").await;
        (answer.status == 200 && answer.seen("x-auth-groups") == ["ops"]).then_some(())
    })
    .await;
    eventually("mallory is known not to be", || async {
        let answer = stack.haproxy.get_as(&mallory, "/admin/x").await;
        (answer.reason() == "group_missing").then_some(())
    })
    .await;

    slapd.kill();
    assert_eq!(stack.haproxy.get_as(&ann, "/admin/x").await.status, 200, "what is known counts");
    for (path, status, reason) in [("/admin/x", 403, "groups_unknown"), ("/v1/x", 503, "groups_unavailable")] {
        let answer = stack.haproxy.get_as(&bob, path).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{answer:?}");
    }
    assert!(stack.agent.metric("tollgate_directory_failures_total{directory=\"people\"}").await >= 1.0);
    assert!(stack.agent.metric("tollgate_directory_people{directory=\"people\"}").await >= 3.0);
    slapd.restart().await;
    eventually("bob is in ops", || async { (stack.haproxy.get_as(&bob, "/v1/x").await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_file_of_groups_counts_as_soon_as_it_changes() {
    let idp = shared_idp().await;
    let folder = folder();
    let file = folder.path().join("people.yaml");
    std::fs::write(&file, "carol: [ops]\n").unwrap();
    let (issuer, shown) = (&idp.issuer, file.display());
    let stack = Stack::start(&format!(
        r#"
issuers:
  acme:
    issuer: {issuer}
    insecure: true
    audiences: [{AUDIENCE}]
    claims: {{ user: preferred_username }}
    groups_from: extra
directories:
  extra: {{ file: "{shown}" }}
groups: {{ ops: ["extra:ops"] }}
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: admin, path: /admin/**, allow: {{ groups: [ops] }} }}
"#
    ))
    .await;
    let token = idp.mint(json!({ "user": "carol", "claims": { "preferred_username": "carol" } })).await;
    assert_eq!(stack.haproxy.get_as(&token, "/admin/x").await.status, 200);
    std::fs::write(&file, "carol: [guests]\n").unwrap();
    eventually("carol, verified and cached, is out of ops", || async {
        (stack.haproxy.get_as(&token, "/admin/x").await.reason() == "group_missing").then_some(())
    })
    .await;
    // What cannot be read does not count: the last that could does.
    std::fs::write(&file, "carol: [ops\n").unwrap();
    eventually("the broken file is in the log", || async {
        stack.agent.program.log().contains("people.yaml").then_some(())
    })
    .await;
    assert_eq!(stack.haproxy.get_as(&token, "/admin/x").await.reason(), "group_missing");
}
