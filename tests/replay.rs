//! `tollgate replay`: past requests against another policy.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tollgate::spop::{TypedData, engine};

use crate::support::spop::Peer;
use crate::support::stack::{AUDIENCE, Agent, shared_idp};
use crate::support::{eventually, folder};

const OLD: &str = r#"
issuers: { acme: { issuer: "ISSUER", insecure: true, audiences: [AUDIENCE], claims: { user: preferred_username } } }
groups: { ops: ["acme:platform-ops"], paid: ["acme:plan-pro"] }
admin: { listen: tcp:127.0.0.1:9003 }
limits: { one: { key: [user], rate: 1/1h } }
rules:
  - { name: open, path: /open/**, allow: anyone, ignore_credentials: true }
  - { name: ops, path: /ops/**, allow: { groups: [ops] } }
  - { name: near, path: /near/**, allow: { src: 192.0.2.0/24, groups: [paid] } }
  - { name: own, path: /own/**, allow: { when: "path == '/own/' + user" } }
  - { name: level, path: /level/**, allow: { claims: { preferred_username: alice } } }
  - { name: limited, path: /limited/**, allow: authenticated, limits: [one] }
  - { name: api, path: /v1/**, allow: authenticated, backend: { ops: fast, else: std } }
"#;

/// Whatever an agent decided, it would decide the same with the same config; what is different with another one is told,
/// and what its trail cannot tell is said to be so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trail_replays_as_it_was_and_shows_what_another_config_changes() {
    let idp = shared_idp().await;
    let folder = folder();
    let trail = folder.path().join("audit.jsonl");
    let old = OLD.replace("ISSUER", &idp.issuer).replace("AUDIENCE", AUDIENCE);
    let agent = Agent::start(&format!("{old}audit: {{ file: {} }}\n", trail.display())).await;
    agent.ready().await;
    let alice = format!("Bearer {}", idp.mint(json!({ "user": "alice" })).await);
    let bob = format!("Bearer {}", idp.mint(json!({ "user": "bob" })).await);
    let mut peer = Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await;
    let mut asked = 0;
    for path in [
        "/open/x",
        "/ops/x",
        "/near/x",
        "/own/alice",
        "/own/bob",
        "/level/x",
        "/limited/x",
        "/v1/x",
        "/none",
        "/v1/../ops/x",
    ] {
        for (authorization, src) in [
            (None, [192, 0, 2, 7]),
            (Some(alice.as_str()), [192, 0, 2, 7]),
            (Some(alice.as_str()), [198, 51, 100, 7]),
            (Some(bob.as_str()), [192, 0, 2, 7]),
            (Some("Bearer broken"), [192, 0, 2, 7]),
        ] {
            asked += 1;
            let arguments = [
                ("method", TypedData::Str(b"GET")),
                ("host", TypedData::Str(b"API.acme.example:8443")),
                ("path", TypedData::Str(path.as_bytes())),
                ("src", TypedData::Ipv4(src.into())),
                ("authorization", authorization.map_or(TypedData::Null, |value| TypedData::Str(value.as_bytes()))),
            ];
            peer.write(|out| engine::notify(asked, 1, &arguments, out)).await;
            peer.frame().await.unwrap();
        }
    }
    eventually("all of it is written", || async {
        (agent.metric("tollgate_audit_lines_total").await > asked as f64).then_some(())
    })
    .await;

    let with = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let (trail, path) = (trail.to_str().unwrap(), path.to_str().unwrap());
        let output = replay(&["--log", trail, "--with", path, "--json", "--expect-same"]);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code(), shown)
    };
    let (code, same) = with("same.yaml", &old);
    assert_eq!(code, Some(0), "{same}");
    // Three callers with a token on /level, whose claims no trail has.
    assert_eq!([&same["same"], &same["untold"]], [asked - 3, 3], "{same}");
    assert!(same["groups"].as_array().unwrap().iter().all(|group| group["kind"] == "untold"), "{same}");

    // /ops for those who pay, /own for all, /v1 elsewhere, and nobody in the open.
    let new = old
        .replace("groups: [ops]", "groups: [paid]")
        .replace("{ when: \"path == '/own/' + user\" }", "authenticated")
        .replace("backend: { ops: fast, else: std }", "backend: std")
        .replace("allow: anyone, ignore_credentials: true", "{ groups: [ops] }")
        .replace("path: /open/**, {", "path: /open/**, allow: {");
    let (code, changed) = with("new.yaml", &new);
    assert_eq!(code, Some(3), "{changed}");
    let groups = changed["groups"].as_array().unwrap();
    let found: Vec<_> = groups
        .iter()
        .map(|group| {
            let of = |name: &str| group[name].as_str().unwrap();
            (of("kind"), of("user"), of("before"), of("after"), of("reason"), group["count"].as_u64().unwrap())
        })
        .collect();
    for expected in [
        // Nobody's credentials were looked at there, so nobody is known: anyone, a broken token too.
        ("refused", "", "open", "open", "credential_missing", 5),
        ("passes", "bob", "ops", "ops", "group_missing", 1),
        ("passes", "alice", "own", "own", "condition_unmet", 2),
        ("passes", "bob", "own", "own", "condition_unmet", 1),
        ("elsewhere", "alice", "api", "api", "", 2),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not in {found:#?}");
    }
    assert_eq!([&changed["refused"], &changed["passes"], &changed["elsewhere"]], [5, 4, 2], "{changed}");
    let example = groups.iter().find(|group| group["kind"] == "elsewhere").unwrap();
    assert_eq!([&example["backend"], &example["example"]["path"]], ["std", "/v1/x"], "{example}");
    assert_eq!(example["example"]["decision_id"].as_str().unwrap().len(), 16);
}

#[test]
fn haproxys_log_is_replayed_and_what_it_does_not_hold_is_not_guessed() {
    let folder = folder();
    let line = |time: &str, path: &str, user: &str, groups: &str, verdict: &str, reason: &str| {
        format!(
            r#"{{"time":"{time}","id":"x","src":"192.0.2.7","method":"GET","host":"api.acme.example","path":"{path}","status":200,"backend":"std","verdict":"{verdict}","reason":"{reason}","rule":"r","user":"{user}","groups":"{groups}","issuer":"https://login.acme.example","decision_id":"3b1j0q8r5k2m0007"}}"#
        )
    };
    let noon = "25/Nov/2026:12:00:00.000";
    let night = "25/Nov/2026:23:00:00.000";
    let log = [
        line(noon, "/ops", "alice", "ops", "allow", "allowed"),
        line(noon, "/ops", "bob", "a%2Cb,dev", "deny", "group_missing"),
        line(noon, "/hours", "alice", "ops", "allow", "allowed"),
        line(night, "/hours", "alice", "ops", "allow", "allowed"),
        line(noon, "/scope", "alice", "ops", "allow", "allowed"),
        line(noon, "/cert", "alice", "ops", "allow", "allowed"),
        line(noon, "/late", "alice", "ops", "error", "deadline_exceeded"),
        line(noon, "/esc\\u001b[2J\\n", "eve", "", "allow", "allowed"),
        "192.0.2.7 - - [25/Nov/2026] \"GET / HTTP/1.1\" 200".to_owned(),
        String::new(),
    ]
    .join("\n");
    let (file, config) = (folder.path().join("haproxy.log"), folder.path().join("new.yaml"));
    std::fs::write(&file, log).unwrap();
    let text = r#"
issuers: { acme: { issuer: "https://login.acme.example", audiences: [x] } }
groups: { ops: ["acme:ops"], "a,b": ["acme:ab"] }
rules:
  - { name: ops, path: /ops, allow: { any: [{ groups: ["a,b"] }, { groups: [ops], when: "issuer == 'acme'" }] } }
  - { name: hours, path: /hours, allow: { time: { from: "08:00", to: "18:00" } } }
  - { name: scope, path: /scope, allow: { scopes: [read] } }
  - { name: cert, path: /cert, allow: { any: [{ credential: jwt }, { groups: [ops] }] } }
"#;
    std::fs::write(&config, text.replace("\"a,b\"", "ab")).unwrap();
    let arguments = ["--log", file.to_str().unwrap(), "--with", config.to_str().unwrap()];
    let output = replay(&arguments);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let expected = [
        "7 decisions, 2026-11-25T12:00:00Z to 2026-11-25T23:00:00Z, with ",
        "           4  decided the same\n",
        "           2  would be refused\n",
        "           1  nobody can tell\n",
        "           1  passed over: an agent that could not decide\n",
        "           1  passed over: lines that are no decisions\n",
        "           1  rule r let it pass, rule hours would not (time_refused): 1 user\n           1    alice of https://login.acme.example, such as GET api.acme.example/hours (3b1j0q8r5k2m0007)\n",
        "rule r let it pass, no rule would not (path_ambiguous): 1 user\n           1    eve of https://login.acme.example, such as GET api.acme.example/esc\\u{1b}[2J\\n",
        "           1  rule scope would decide, rule r did: 1 user\n",
    ];
    for text in expected {
        assert!(shown.contains(text), "{text:?} is not in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "what a client wrote does not speak to the terminal");
    // What is asked of each caller: the same from standard input, and in two halves.
    let twice = replay(&[&arguments[..2], &[file.to_str().unwrap()], &arguments[2..]].concat());
    assert!(String::from_utf8(twice.stdout).unwrap().starts_with("14 decisions"));
    let missing = replay(&["--log", "/nowhere", "--with", config.to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(1));
    let wrong = replay(&["--log", file.to_str().unwrap(), "--with", file.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(64));
}

fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("replay").args(arguments).output().unwrap()
}
