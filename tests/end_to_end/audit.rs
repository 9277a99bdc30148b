//! A line for each answer, whatever was answered.

use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::{records, verified};
use crate::support::folder;
use crate::support::stack::{Agent, App, Haproxy, Redis, shared_idp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_has_its_line() {
    let idp = shared_idp().await;
    let (folder, mut redis) = (folder(), Redis::start().await);
    let file = folder.path().join("audit.jsonl");
    let more = format!(
        "counters: {{ redis: \"{}\", timeout: 100ms }}\nspop: {{ deadline: 200ms }}\naudit: {{ file: {} }}\n",
        redis.url(),
        file.display()
    );
    let config = crate::support::stack::config(&idp.issuer, &more)
        .replace("limits:\n", "limits:\n  strict: { key: [user], rate: 9/1h, on_failure: deny }\n")
        .replace(
            "rules:\n",
            "rules:\n  - { name: strict, path: /strict, allow: authenticated, limits: [strict] }\n  \
             - { name: soon, path: /v1/**, allow: { groups: [ops] }, shadow: true }\n",
        );
    let (agent, app) = tokio::join!(Agent::start(&config), App::start());
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;

    let alice = idp.mint(json!({ "user": "alice" })).await;
    let carol = idp.mint(json!({ "user": "carol" })).await;
    let expired = idp.mint(json!({ "user": "alice", "ttl": -120 })).await;
    let mut expected = Vec::new();
    let mut ask = async |token: Option<&str>, path: &str, members: Value| {
        let answer = match token {
            Some(token) => haproxy.get_as(token, path).await,
            None => haproxy.get(path, &[]).await,
        };
        let id = answer.header("x-tollgate-decision").or(answer.body["decision_id"].as_str()).map(str::to_owned);
        expected.push((id.unwrap_or_else(|| panic!("{answer:?}")), answer.status, members));
    };
    ask(None, "/public/x", json!({ "verdict": "allow", "rule": "public", "credential": "anonymous" })).await;
    ask(
        Some(&alice),
        "/v1/x?q=secret",
        json!({
            "verdict": "allow", "reason": "allowed", "rule": "api", "user": "alice", "issuer": "acme", "groups": ["ops", "paid"],
            "credential": "jwt", "method": "GET", "path": "/v1/x", "src": "127.0.0.1", "backend": "fast",
            "shadow": [{ "rule": "soon", "reason": "allowed" }],
        }),
    )
    .await;
    ask(None, "/v1/x", json!({ "verdict": "challenge", "reason": "credential_missing", "rule": "api" })).await;
    ask(
        Some(&expired),
        "/v1/x",
        json!({ "verdict": "challenge", "reason": "token_expired", "rule": "api", "credential": "jwt" }),
    )
    .await;
    ask(Some(&carol), "/admin/x", json!({ "verdict": "deny", "reason": "group_missing", "user": "carol" })).await;
    ask(None, "/nowhere", json!({ "verdict": "deny", "reason": "no_rule" })).await;
    ask(
        None,
        "/public/..%2fadmin",
        json!({ "verdict": "deny", "reason": "path_ambiguous", "path": "/public/..%2fadmin" }),
    )
    .await;
    for left in [2, 1, 0] {
        let limits = json!([{ "name": "three", "limit": 3, "window_s": 3600, "remaining": left }]);
        ask(Some(&carol), "/limited/x", json!({ "verdict": "allow", "rule": "limited", "limits": limits })).await;
    }
    ask(
        Some(&carol),
        "/limited/x",
        json!({ "verdict": "throttle", "reason": "limit_exceeded", "limit": "three", "user": "carol" }),
    )
    .await;
    redis.program.kill();
    ask(
        Some(&carol),
        "/strict",
        json!({ "verdict": "error", "reason": "store_unavailable", "rule": "strict", "degraded": true }),
    )
    .await;
    let mut agent = agent;
    let sum = agent.metric("tollgate_audit_seq").await;
    assert!(sum > 10.0, "{sum}");
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));

    let (whole, report) = verified(&file);
    assert!(whole && report["dropped"] == 0, "{report}");
    let records = records(&file);
    let statuses = [("allow", 200), ("challenge", 401), ("deny", 403), ("throttle", 429), ("error", 503)];
    for (id, status, members) in expected {
        let lines: Vec<_> = records.iter().filter(|record| record["decision_id"] == id.as_str()).collect();
        let [line] = lines[..] else { panic!("{} lines of {id}", lines.len()) };
        for (name, value) in members.as_object().unwrap() {
            let mut found = line[name].clone();
            for limit in found.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                limit.remove("reset_s");
            }
            assert_eq!(&found, value, "{name} of {line}");
        }
        let by_verdict = statuses.iter().find(|(verdict, _)| line["verdict"] == *verdict).unwrap().1;
        assert!(status == by_verdict || (status == 400 && line["reason"] == "path_ambiguous"), "{status}: {line}");
        let text = line.to_string();
        assert!(line["latency_us"].is_u64() && line["request_id"].is_string() && line["agent"].is_string(), "{line}");
        assert!(!text.contains("secret") && !text.contains("email"), "{line}");
        assert_eq!(line["token"].as_str().map(str::len).unwrap_or(8), 8, "{line}");
        assert_eq!(line["retry_after_s"].is_u64(), status == 429, "{line}");
    }
    // As many decisions as lines: health checks of HAProxy's own ask nothing.
    let logged = agent.decisions();
    let decisions = records.iter().filter(|record| record["decision_id"].is_string()).count();
    assert_eq!(decisions, logged.len());
    let secret = alice.rsplit('.').next().unwrap();
    assert!(!std::fs::read_to_string(&file).unwrap().contains(secret));
}
