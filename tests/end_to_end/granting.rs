//! `tollgate grant`, as a person runs it while traffic goes on.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::stack::{Agent, App, Haproxy, Redis, config, shared_idp};
use crate::support::{eventually, folder};

#[tokio::test]
async fn a_grant_holds_with_every_agent_until_it_runs_out_or_is_revoked() {
    let idp = shared_idp().await;
    let redis = Redis::start().await;
    let settings = config(&idp.issuer, &format!("counters: {{ redis: \"{}\" }}\n", redis.url()));
    let (one, two, app) = tokio::join!(Agent::start(&settings), Agent::start(&settings), App::start());
    let haproxy = Haproxy::start(&[&one, &two], &[app.port]).await;
    haproxy.answering().await;
    let alice = idp.mint(json!({ "user": "alice" })).await;
    let bob = idp.mint(json!({ "user": "bob" })).await;
    let user = user_of(&haproxy, &bob).await;
    let run = |arguments: &[&str]| run(&one, arguments);

    // Each agent answers some of these, and has bob's token in its cache.
    all(&haproxy, &alice, 200).await;
    all(&haproxy, &bob, 403).await;
    let output = run(&["grant", &user, "ops", "30m", "--reason", "incident 4711", "--by", "carol"]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    let id = said.strip_prefix("granted ").unwrap().split(':').next().unwrap().to_owned();
    eventually("both agents know it", || async {
        let known = [one.metric("tollgate_grants").await, two.metric("tollgate_grants").await];
        (known == [1.0, 1.0]).then_some(())
    })
    .await;
    all(&haproxy, &bob, 200).await;
    assert_eq!(haproxy.get_as(&bob, "/v1/x").await.seen("x-auth-groups"), ["ops,paid"]);

    let listed: Value = serde_json::from_str(&stdout(&run(&["grants", "list", "--json"]))).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let of_it = ["id", "issuer", "user", "group", "reason", "by"].map(|name| listed[0][name].as_str().unwrap());
    assert_eq!(of_it, [&id, "acme", &user, "ops", "incident 4711", "carol"]);
    assert_eq!(listed[0]["until"].as_i64().unwrap() - listed[0]["at"].as_i64().unwrap(), 1800);

    let revoked = run(&["grants", "revoke", &id]);
    assert!(stdout(&revoked).starts_with(&format!("revoked {id}")), "{}", stderr(&revoked));
    eventually("it ends", || async { (refused_everywhere(&haproxy, &bob).await).then_some(()) }).await;
    assert_eq!(stdout(&run(&["grants", "list"])), "nothing is granted\n");
    assert_eq!(run(&["grants", "revoke", &id]).status.code(), Some(1));

    // By itself, and with Redis gone meanwhile.
    assert_eq!(run(&["grant", &user, "ops", "4s", "--reason", "short"]).status.code(), Some(0));
    eventually("it holds", || async { (haproxy.get_as(&bob, "/admin/x").await.status == 200).then_some(()) }).await;
    // The one whose log is read has heard of it too, while there is somebody to hear it from.
    eventually("both agents know it", || async {
        let known = [one.metric("tollgate_grants").await, two.metric("tollgate_grants").await];
        (known == [1.0, 1.0]).then_some(())
    })
    .await;
    drop(redis);
    eventually("it runs out", || async { (refused_everywhere(&haproxy, &bob).await).then_some(()) }).await;
    for line in ["a group is granted", "a grant is revoked", "a grant has run out"] {
        eventually(line, || async { one.program.log().contains(line).then_some(()) }).await;
    }
    assert!(one.program.log().contains(&id));
}

#[tokio::test]
async fn a_grant_that_no_agent_would_take_is_not_given() {
    let idp = shared_idp().await;
    let redis = Redis::start().await;
    let more = format!("counters: {{ redis: \"{}\" }}\ngrants: {{ groups: [paid], max: 1h }}\n", redis.url());
    let agent = Agent::start(&config(&idp.issuer, &more)).await;
    for (arguments, code, said) in [
        (&["grant", "bob", "paid", "30m", "--reason", "x"][..], 0, ""),
        (&["grant", "bob", "paid", "2h", "--reason", "x"], 1, "`grants.groups` and `grants.max`"),
        (&["grant", "bob", "ops", "30m", "--reason", "x"], 1, "`grants.groups` and `grants.max`"),
        (&["grant", "bob", "opps", "30m", "--reason", "x"], 1, "no group \"opps\""),
        (&["grant", "bob", "paid", "30m", "--reason", "x", "--issuer", "other"], 1, "no issuer \"other\""),
        (&["grant", "bob", "paid", "30m"], 2, "--reason"),
        (&["grant", "bob", "paid", "soon", "--reason", "x"], 2, "expected a duration"),
        (&["grant", "bob", "paid", "30m", "--reason", "a\nb"], 2, "control characters"),
    ] {
        let output = run(&agent, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
    }
}

/// Whoever can write to Redis, and has not the key, grants nothing.
#[tokio::test]
async fn a_grant_that_is_not_sealed_is_not_taken() {
    let idp = shared_idp().await;
    let redis = Redis::start().await;
    let folder = folder();
    let key = folder.path().join("grants.key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef0123456789\n").unwrap();
    let with_key = |key: &str| {
        let more = format!("counters: {{ redis: \"{}\" }}\ngrants: {{ groups: [ops]{key} }}\n", redis.url());
        config(&idp.issuer, &more)
    };
    let agent = Agent::start(&with_key(&format!(", key: \"file:{}\"", key.display()))).await;
    let forger = folder.path().join("forger.yaml");
    std::fs::write(&forger, with_key("")).unwrap();
    let grant = |config: &str, user: &str| {
        let arguments = ["grant", "--config", config, user, "ops", "30m", "--reason", "x"];
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    };
    grant(forger.to_str().unwrap(), "bob");
    eventually("it is passed over", || async {
        agent.program.log().contains("there are grants in Redis that this agent does not take").then_some(())
    })
    .await;
    assert_eq!(agent.metric("tollgate_grants").await, 0.0);
    assert_eq!(stdout(&run(&agent, &["grants", "list"])), "nothing is granted\n");
    grant(agent.config.to_str().unwrap(), "alice");
    eventually("one that is sealed is taken", || async {
        (agent.metric("tollgate_grants").await == 1.0).then_some(())
    })
    .await;
    assert!(agent.program.log().contains("alice") && !agent.program.log().contains("\"bob"), "{}", agent.program.log());
}

async fn all(haproxy: &Haproxy, token: &str, status: u16) {
    for _ in 0..6 {
        assert_eq!(haproxy.get_as(token, "/admin/x").await.status, status);
    }
}

async fn refused_everywhere(haproxy: &Haproxy, token: &str) -> bool {
    for _ in 0..6 {
        if haproxy.get_as(token, "/admin/x").await.status != 403 {
            return false;
        }
    }
    true
}

async fn user_of(haproxy: &Haproxy, token: &str) -> String {
    haproxy.get_as(token, "/v1/x").await.seen("x-auth-user")[0].to_owned()
}

fn run(agent: &Agent, arguments: &[&str]) -> Output {
    let (command, rest) = arguments.split_first().unwrap();
    let config = agent.config.to_str().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tollgate")).args([command, "--config", config]).args(rest).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
