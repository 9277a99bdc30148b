//! The agent as a process that somebody is on call for.

use std::fs::OpenOptions;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollgate::spop::frame::FrameType;
use tollgate::spop::{TypedData, engine};

use crate::support::spop::{Peer, request};
use crate::support::stack::{Agent, config, shared_idp};
use crate::support::{client, eventually, folder, free_port, haproxies};

const CONFIG: &str = "
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: public, path: /public/**, allow: anyone }
";

/// 256 descriptors and 300 connections: those that fit are served, the others wait without costing a processor, and
/// what is not SPOP still has descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_connections_wait_and_cost_nothing() {
    let spop = format!("127.0.0.1:{}", free_port());
    let agent = Agent::start_under(&["prlimit", "--nofile=256:256"], CONFIG, &spop).await;
    assert!(agent.program.log().contains("the limit of open files is too low"), "{}", agent.program.log());
    let mut peers = Vec::new();
    for _ in 0..300 {
        let mut peer = Peer::new(TcpStream::connect(&spop).await.unwrap());
        peer.write(|out| engine::hello(16380, true, out)).await;
        peers.push(peer);
    }
    let room = 256 - tollgate::server::descriptors::RESERVED;
    eventually("what fits is served", async || {
        (agent.metric("tollgate_connections").await as usize == room).then_some(())
    })
    .await;
    let (begun, used) = (Instant::now(), processor_time(agent.program.pid()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = processor_time(agent.program.pid()) - used;
    assert!(used < begun.elapsed() / 10, "{used:?} of processor time while they wait");
    assert!(!agent.program.log().contains("cannot accept"), "it never came to that");
    // Everything else still has descriptors, a new config and its secrets too.
    assert_eq!(agent.admin("/livez").await.0, 200);
    agent.program.signal("HUP");
    eventually("the config is read again", async || {
        (agent.metric("tollgate_config_reloads_total").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(agent.metric("tollgate_config_last_reload_ok").await, 1.0);
    // The first ones go, and those that waited are served, each of them.
    let waited = peers.split_off(room);
    drop(peers);
    let begun = Instant::now();
    for mut peer in waited {
        assert_eq!(peer.frame().await.unwrap().kind, FrameType::AgentHello);
        assert_eq!(peer.ask("/public/x").await, "allow");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// A log that nobody reads, and one that cannot be written, cost lines, which are counted, and no decision; the agent
/// still ends when it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_log_costs_lines_and_no_decision() {
    const QUESTIONS: u64 = 12_000;
    let folder = folder();
    let pipe = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Open for reading, or the agent could not open it for writing; never read.
    let _unread = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    for (sink, drops) in [(pipe.to_str().unwrap(), true), ("/dev/full", false)] {
        let spop = format!("127.0.0.1:{}", free_port());
        let shell = format!("exec \"$@\" 2>{sink}");
        let mut agent = Agent::start_under(&["sh", "-c", &shell, "sh"], CONFIG, &spop).await;
        let mut peer = Peer::greeted(TcpStream::connect(&spop).await.unwrap()).await;
        for first in (0..QUESTIONS).step_by(200) {
            let path = format!("/public/{}", "x".repeat(200));
            peer.write(|out| {
                (first..first + 200).for_each(|stream| engine::notify(stream, 1, &request(&path, None), out));
            })
            .await;
            for stream in first..first + 200 {
                let ack = peer.frame().await.unwrap();
                assert_eq!((ack.stream_id, ack.variable("verdict").as_str()), (stream, "allow"), "{sink}");
            }
        }
        let dropped = agent.metric("tollgate_log_lines_dropped_total").await;
        assert_eq!(dropped > 0.0, drops, "{sink}: {dropped}");
        assert_eq!(agent.metric("tollgate_decisions_late_total").await, 0.0);
        agent.program.signal("TERM");
        assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0), "{sink}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_side_takes_no_orders_no_bodies_and_no_time() {
    let agent = Agent::start(CONFIG).await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", agent.admin_port);
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let response = client().request(method.parse().unwrap(), url(path)).body("x").send().await.unwrap();
            assert_eq!(response.status().as_u16(), 405, "{method} {path}");
        }
        let response = client().post(url(path)).body(vec![b'x'; 4096]).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 413, "a body on {path}");
    }
    for path in ["/debug/pprof", "/debug", "/shutdown", "/reload"] {
        assert_eq!(agent.admin(path).await.0, 404, "{path}");
    }
    let response = client().get(url("/livez")).header("x-long", "x".repeat(20_000)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 431);

    // As many slow callers as there is room for: each is closed for its slowness, and the next one is served.
    let mut slow = Vec::new();
    for _ in 0..tollgate::server::admin::CONNECTIONS_MAX {
        let mut caller = TcpStream::connect(("127.0.0.1", agent.admin_port)).await.unwrap();
        caller.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        slow.push(caller);
    }
    assert_eq!(agent.admin("/livez").await.0, 200, "within ten seconds");
    for mut caller in slow {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = tokio::time::timeout(Duration::from_secs(10), caller.read_to_end(&mut rest)).await.unwrap();
    }
}

/// In a network namespace of its own, where an address beyond loopback is this machine's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_outside_the_allow_list_is_held_and_closed_and_takes_no_place() {
    let folder = folder();
    let config = folder.path().join("tollgate.yaml");
    let text = "spop: { listen: [\"tcp:0.0.0.0:9001\"], allow_from: [192.0.2.7], max_connections: 2 }\n";
    std::fs::write(&config, format!("{text}{}", CONFIG.replace("admin: { listen: tcp:127.0.0.1:9003 }", ""))).unwrap();
    let script = r#"
import socket, struct, sys, time
def hello(source):
    peer = socket.create_connection(("192.0.2.1", 9001), timeout=5, source_address=(source, 0))
    begun = time.monotonic()
    payload = b"\x12supported-versions\x08\x032.0" + b"\x0emax-frame-size\x03\xfc\xf0\x06" + b"\x0ccapabilities\x08\x00"
    frame = b"\x01\x00\x00\x00\x01\x00\x00" + payload
    peer.sendall(struct.pack(">I", len(frame)) + frame)
    try: answer = peer.recv(4096)
    except ConnectionResetError: answer = b""
    return peer, answer, time.monotonic() - begun
kept = [hello("192.0.2.7") for _ in range(1)]
assert kept[0][1][4] == 101, "an allowed peer is answered"
strangers = [hello("192.0.2.66") for _ in range(5)]
for _, answer, held in strangers:
    assert answer == b"", "a stranger gets nothing"
    assert held > 0.2, "and is held for a moment: %s" % held
# The second of two places is still free: strangers took none.
assert hello("192.0.2.7")[1][4] == 101
"#;
    let inside = format!(
        r#"set -e
ip link set lo up
for address in 192.0.2.1 192.0.2.7 192.0.2.66; do ip address add $address/32 dev lo; done
"{agent}" run --config "{config}" 2>"{folder}/log" &
agent=$!
trap 'kill $agent' EXIT
for _ in $(seq 200); do grep -q "tollgate serves" "{folder}/log" && break; sleep 0.05; done
.venv/bin/python - <<'PYTHON'
{script}
PYTHON
"#,
        agent = env!("CARGO_BIN_EXE_tollgate"),
        config = config.display(),
        folder = folder.path().display(),
    );
    let user = Command::new("id").arg("-u").output().unwrap().stdout;
    let flags: &[&str] = if user == b"0\n" { &["-n"] } else { &["-rn"] };
    if !Command::new("unshare").args(flags).arg("true").output().is_ok_and(|tried| tried.status.success()) {
        let test = "a_peer_outside_the_allow_list_is_held_and_closed_and_takes_no_place";
        haproxies::skipped(test, "this system lets no one make a network namespace");
        return;
    }
    let run = Command::new("unshare")
        .args(flags)
        .args(["sh", "-c", &inside])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
        .current_dir(crate::support::root())
        .output()
        .unwrap();
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(run.status.success(), "{}\n{log}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(
        log.matches("outside `spop.allow_from`").count(),
        1,
        "five strangers, and one line in ten seconds: {log}"
    );
}

/// What a process has used of the processors, by the kernel's count of hundredths of a second.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields 14 and 15, counted behind the name in parentheses, which is the second.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Each is something else to a terminal, a line reader or a JSON parser than to us.
const HOSTILE: [&[u8]; 16] = [
    b"\n",
    b"\r\n{\"level\":\"INFO\",\"target\":\"tollgate::decision\",\"verdict\":\"allow\"}\r\n",
    b"\r",
    b"\x1b[2J\x1b]0;owned\x07",
    b"\x9b31m",
    "\u{9b}31m\u{85}".as_bytes(),
    "\u{2028}\u{2029}".as_bytes(),
    "\u{202e}\u{2066}\u{feff}".as_bytes(),
    b"\0\x08\x7f\x0b\x0c",
    b"\\n\\u000a\\",
    b"\"}\n{\"",
    b"\xc0\x8a\xff\xfe",
    b"%0a%0d\n",
    "2026-11-25T00:00:00Z  INFO tollgate::decision: decision\n2026-11-25T00:00:00Z".as_bytes(),
    b"key=value verdict=\"allow\" ",
    b"",
];

/// One line an event and one event a decision, whatever arguments and claims are made of (faults.md O13).
#[tokio::test]
async fn a_line_is_an_event_whatever_callers_and_tokens_say() {
    let idp = shared_idp().await;
    // Claims are JSON, so what is no UTF-8 cannot be in one.
    let mut tokens = Vec::new();
    for text in HOSTILE.iter().filter_map(|bytes| std::str::from_utf8(bytes).ok()) {
        let claims = serde_json::json!({ "preferred_username": format!("a{text}b"), "name": text, "email": text,
            "groups": [text], "client_id": text, "scope": text });
        let token = idp.mint(serde_json::json!({ "user": "alice", "claims": claims })).await;
        tokens.push(format!("Bearer {token}"));
    }
    for format in ["json", "text"] {
        let spop = format!("127.0.0.1:{}", free_port());
        let filter = ["env", "TOLLGATE_LOG_FILTER=tollgate=trace"];
        let folder = folder();
        let trail = folder.path().join("audit.jsonl");
        let more = format!("audit: {{ file: {} }}\n", trail.display());
        let mut agent = Agent::start_logging(format, &filter, &config(&idp.issuer, &more), &spop).await;
        agent.ready().await;
        let mut peer = Peer::greeted(TcpStream::connect(&spop).await.unwrap()).await;
        let mut asked = 0;
        let names =
            ["id", "method", "host", "path", "query", "src", "authorization", "api_key", "dpop", "session", "cert_dn"];
        for bytes in HOSTILE {
            let value = [b"/v1/", bytes].concat();
            let odd_name = format!("na{}me", String::from_utf8_lossy(bytes));
            let text = names.iter().filter(|name| **name != "src");
            let mut questions = vec![text.map(|name| (*name, TypedData::Str(&value))).collect::<Vec<_>>()];
            for name in names {
                let mut question = request("/v1/x", None);
                question.retain(|(known, _)| *known != name);
                question.push((name, TypedData::Str(&value)));
                questions.push(question);
            }
            let mut question = request("/v1/x", None);
            question.push((&odd_name, TypedData::Str(&value)));
            questions.push(question);
            for question in questions {
                asked += 1;
                peer.write(|out| engine::notify(asked, 1, &question, out)).await;
                assert_eq!(peer.frame().await.unwrap().kind, FrameType::Ack, "{bytes:?}");
            }
        }
        let mut taken = 0;
        for token in &tokens {
            asked += 1;
            peer.write(|out| engine::notify(asked, 1, &request("/v1/x", Some(token)), out)).await;
            taken += usize::from(peer.frame().await.unwrap().variable("verdict") == "allow");
        }
        assert!(taken >= 3, "names that may leave were among them");
        agent.program.signal("TERM");
        assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));

        let log = agent.program.log();
        let safe = |c: char| {
            c == '\n'
                || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}' | '\u{2066}' | '\u{feff}'))
        };
        let unsafe_line = log.lines().find(|line| !line.chars().all(safe));
        assert_eq!(unsafe_line, None, "{format}");
        let mut decisions = 0;
        for line in log.lines() {
            let is_decision = match format {
                "json" => {
                    let event: serde_json::Value =
                        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    event["target"] == "tollgate::decision"
                }
                _ => {
                    let (time, rest) = line.split_once(' ').unwrap_or_default();
                    assert!(
                        time.len() == 27 && time.ends_with('Z') && time.starts_with("20"),
                        "this is part of another: {line}"
                    );
                    rest.trim_start().starts_with("INFO decision:") || rest.contains("tollgate::decision: decision")
                }
            };
            decisions += u64::from(is_decision);
        }
        assert_eq!(decisions, asked, "{format}");
        // So is one of the audit trail.
        let text = std::fs::read_to_string(&trail).unwrap();
        assert_eq!(text.lines().find(|line| !line.chars().all(safe)), None);
        let records = crate::audit::records(&trail);
        assert_eq!(records.len(), text.split_terminator('\n').count());
        assert_eq!(records.iter().filter(|record| record["decision_id"].is_string()).count() as u64, asked);
        assert_eq!(records.iter().filter(|record| record["event"].is_string()).count(), 2, "start and stop");
        assert!(crate::audit::verified(&trail).0);
    }
}

/// What `tollgate top` prints is what connections asked, behind the token and over a unix socket as well; without an agent
/// it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_prints_who_asks_most_and_who_is_near_a_limit() {
    let folder = folder();
    let token = folder.path().join("admin.token");
    std::fs::write(&token, "open-sesame\n").unwrap();
    let text = |listen: &str| {
        format!(
            "
admin: {{ listen: \"{listen}\", token: \"file:{}\" }}
limits: {{ few: {{ key: [src], rate: 3/1h }} }}
rules:
  - {{ name: public, path: /public/**, allow: anyone, limits: [few] }}
",
            token.display()
        )
    };
    let mut agent = Agent::start(&text("tcp:127.0.0.1:9003")).await;
    let listen = format!("tcp:127.0.0.1:{}", agent.admin_port);
    let top = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("top").args(arguments).output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), out, error)
    };
    let with_token = ["--admin", &listen, "--token-file", token.to_str().unwrap()];
    let json = |arguments: &[&str]| {
        let (code, out, error) = top(&[arguments, &["--json"]].concat());
        assert_eq!((code, &*error), (Some(0), ""), "{out}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    assert_eq!(agent.admin("/top").await.0, 401);
    let (code, out, error) = top(&["--admin", &listen, "--once"]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(error.contains("--token-file"), "{error}");

    // The first look begins it.
    assert_eq!(json(&with_token)["total"]["requests"][1], 0);
    let mut peer = Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await;
    for (path, verdict) in [
        ("/public/x", "allow"),
        ("/public/x", "allow"),
        ("/public/x", "allow"),
        ("/public/x", "throttle"),
        ("/else", "deny"),
    ] {
        assert_eq!(peer.ask(path).await, verdict);
    }
    // By the config, which says where it is and has the token.
    let config = folder.path().join("tollgate.yaml");
    std::fs::write(&config, text(&listen)).unwrap();
    let seen = json(&["--config", config.to_str().unwrap()]);
    for (name, expected) in [("requests", 5), ("refused", 1), ("throttled", 1), ("failed", 0)] {
        assert_eq!(seen["total"][name][1], expected, "{name}: {seen}");
    }
    let rules: Vec<_> = seen["rules"]["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(rules, ["public", "(none)"], "{seen}");
    let row = &seen["limits"]["rows"][0];
    assert_eq!([&row["name"], &row["requests"][1], &row["throttled"][1]], [&json!("few"), &json!(4), &json!(1)]);
    let near = &seen["near"][0];
    assert_eq!([&near["limit"], &near["remaining"], &near["of"]], [&json!("few"), &json!(0), &json!(3)], "{near}");
    let who = near["who"].as_str().unwrap();
    assert_eq!(seen["users"]["rows"][0]["name"], who);
    assert!(who.starts_with("anonymous "), "{who}");

    let (code, out, error) = top(&[&with_token[..], &["--once"]].concat());
    assert_eq!((code, &*error), (Some(0), ""));
    for expected in [format!("! {who}"), "RULE".to_owned(), "! few".to_owned(), "LEFT".to_owned()] {
        assert!(out.contains(&expected), "{expected} is not in\n{out}");
    }
    assert!(out.lines().all(|line| line.len() <= 120) && !out.contains('\u{1b}'), "{out}");

    let (socket, port) = (folder.path().join("admin.sock"), agent.admin_port);
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let relay = tokio::spawn(async move {
        let (mut inside, _) = listener.accept().await.unwrap();
        let mut outside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tokio::io::copy_bidirectional(&mut inside, &mut outside).await.unwrap();
    });
    let address = format!("unix:{}", socket.display());
    let seen = json(&["--admin", &address, "--token-file", token.to_str().unwrap()]);
    assert_eq!(seen["total"]["requests"][1], 5);
    relay.await.unwrap();

    agent.program.kill();
    let (code, out, error) = top(&[&with_token[..], &["--once"]].concat());
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(error.contains(&listen) && error.contains("cannot connect"), "{error}");
}
