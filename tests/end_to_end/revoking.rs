//! `tollgate revoke`, as a person runs it while traffic goes on.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};

use crate::support::stack::{Agent, App, Haproxy, Redis, config, shared_idp};
use crate::support::{eventually, folder};

#[tokio::test]
async fn what_is_revoked_is_refused_by_every_agent_until_it_is_undone() {
    let idp = shared_idp().await;
    let redis = Redis::start().await;
    let settings = config(&idp.issuer, &format!("counters: {{ redis: \"{}\" }}\n", redis.url()));
    let (one, two, app) = tokio::join!(Agent::start(&settings), Agent::start(&settings), App::start());
    let haproxy = Haproxy::start(&[&one, &two], &[app.port]).await;
    for agent in [&one, &two] {
        agent.ready().await;
        eventually("it listens", || async { (agent.metric("tollgate_revocations_pushed").await == 1.0).then_some(()) })
            .await;
    }
    haproxy.answering().await;
    let revoke = |arguments: &[&str], stdin: &str| revoke(&one, arguments, stdin);
    let alice = idp.mint(json!({ "user": "alice", "claims": { "sid": "s-1" } })).await;
    let another = idp.mint(json!({ "user": "alice", "claims": { "sid": "s-2" } })).await;
    let bob = idp.mint(json!({ "user": "bob", "claims": { "sid": "s-3" } })).await;
    let subject = claims(&alice)["sub"].as_str().unwrap().to_owned();

    // What is revoked, with the token on standard input; which of the three tokens it refuses.
    let cases: [(&[&str], &str, [bool; 3]); 4] = [
        (&["token"], &alice, [true, false, false]),
        (&["session", "acme", "s-2"], "", [false, true, false]),
        (&["subject", "acme", &subject], "", [true, true, false]),
        (&["issuer", &idp.issuer], "", [true, true, true]),
    ];
    for (what, stdin, refused) in cases {
        for token in [&alice, &another, &bob] {
            // Each agent has verified it before, so it is its own cache that has to give way.
            all(&haproxy, token, 200).await;
        }
        let output = revoke(what, stdin);
        let said = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{what:?}: {said}{}", stderr(&output));
        assert!(said.contains("2 agents were listening"), "{said}");
        let id = said.strip_prefix("revoked ").unwrap().split(':').next().unwrap().to_owned();
        for (token, refused) in [&alice, &another, &bob].into_iter().zip(refused) {
            all(&haproxy, token, if refused { 401 } else { 200 }).await;
        }
        if what[0] == "token" {
            let answer = haproxy.get_as(&alice, "/v1/x").await;
            assert_eq!(answer.reason(), "token_revoked");
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
            assert_eq!(
                haproxy.get_as(&alice, "/public/x").await.status,
                401,
                "present and bad is a challenge anywhere"
            );
        }
        if ["subject", "issuer"].contains(&what[0]) {
            eventually("who signs in anew gets in", || async {
                let anew = idp.mint(json!({ "user": "alice" })).await;
                (haproxy.get_as(&anew, "/v1/x").await.status == 200).then_some(())
            })
            .await;
        }
        let listed: Value = serde_json::from_str(&stdout(&revoke(&["list", "--json"], ""))).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!([&listed[0]["id"], &listed[0]["kind"]], [id.as_str(), what[0]], "{listed}");
        let output = revoke(&["undo", &id], "");
        assert!(stdout(&output).starts_with(&format!("undone {id}")), "{}{}", stdout(&output), stderr(&output));
    }
    all(&haproxy, &alice, 200).await;
    assert_eq!(stdout(&revoke(&["list"], "")), "nothing is revoked\n");
    assert_eq!(one.metric("tollgate_revocations").await, 0.0);
    let held = Command::new("redis-cli").args(["-p", &redis.port.to_string(), "HVALS", "tg:revoked"]).output().unwrap();
    assert!(!held.stdout.is_empty() && !stdout(&held).contains(&alice[..40]), "no token is in Redis");
}

#[tokio::test]
async fn a_revocation_outlives_the_agents_and_redis() {
    let idp = shared_idp().await;
    let redis = Redis::start().await;
    let state = folder();
    let more =
        format!("counters: {{ redis: \"{}\" }}\nstate_dir: {}/state\n", redis.url(), state.path().to_str().unwrap());
    let settings = config(&idp.issuer, &more);
    let (mut agent, app) = tokio::join!(Agent::start(&settings), App::start());
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    let alice = idp.mint(json!({ "user": "alice" })).await;
    all(&haproxy, &alice, 200).await;
    assert_eq!(revoke(&agent, &["token"], &alice).status.code(), Some(0));
    all(&haproxy, &alice, 401).await;
    let copy = state.path().join("state/revocations");
    eventually("it is kept", || async {
        std::fs::read_to_string(&copy).is_ok_and(|kept| kept.contains("\"kind\":\"token\"")).then_some(())
    })
    .await;

    // Redis goes, and all it knew; then the agent; then Redis comes back with nothing.
    let port = redis.port;
    drop(redis);
    eventually("the agent notices", || async {
        (agent.metric("tollgate_revocations_pushed").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(haproxy.get_as(&alice, "/v1/x").await.reason(), "token_revoked");
    let output = revoke(&agent, &["issuer", "acme"], "");
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "Redis does not have it");
    let spop = agent.spop.clone();
    agent.program.kill();
    let mut agent = Agent::start_on(&settings, &spop).await;
    eventually("it is refused by the next agent, from its copy", || async {
        let answer = haproxy.get_as(&alice, "/v1/x").await;
        assert_ne!(answer.status, 200);
        (answer.reason() == "token_revoked").then_some(())
    })
    .await;
    let _redis = Redis::start_on(port).await;
    agent.ready().await;
    eventually("Redis has it again", || async {
        stdout(&revoke(&agent, &["list"], "")).contains("token ").then_some(())
    })
    .await;
    // Without its copy the next one has it from Redis, before it answers anything.
    std::fs::remove_file(&copy).unwrap();
    agent.program.kill();
    let agent = Agent::start_on(&settings, &spop).await;
    eventually("it is refused by the next agent, from Redis", || async {
        let answer = haproxy.get_as(&alice, "/v1/x").await;
        assert_ne!(answer.status, 200);
        (answer.reason() == "token_revoked").then_some(())
    })
    .await;
    assert!(!agent.program.log().contains(&alice[..40]));
}

/// Waits until the token is answered with `status`, then asks often enough for every agent to have said so.
async fn all(haproxy: &Haproxy, token: &str, status: u16) {
    eventually("every agent says the same", || async {
        for _ in 0..8 {
            let answer = haproxy.get_as(token, "/v1/x").await;
            assert!([200, 401].contains(&answer.status), "{answer:?}");
            if answer.status != status {
                return None;
            }
        }
        Some(())
    })
    .await;
}

fn revoke(agent: &Agent, arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["revoke", "--config", agent.config.to_str().unwrap()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&B64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
