//! The audit trail of a running agent, and the commands that read one.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tollgate::spop::engine;

use crate::support::spop::{Peer, request};
use crate::support::stack::Agent;
use crate::support::{eventually, folder, free_port, haproxies};

/// Anyone may see `/public`, and nobody anything else.
pub fn config(audit: &str) -> String {
    format!(
        "audit: {audit}\nadmin: {{ listen: tcp:127.0.0.1:9003 }}\nrules: [{{ name: public, path: /public/**, allow: anyone }}]\n"
    )
}

fn tollgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What `audit verify --json` says of a trail, and whether it exits well.
pub fn verified(file: &Path) -> (bool, Value) {
    let output = tollgate(&["audit", "verify", file.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(output.status.code(), Some(i32::from(report["whole"] != true)), "{report}");
    (report["whole"] == true, report)
}

/// The trail's records, rotated files and all.
pub fn records(file: &Path) -> Vec<Value> {
    let files = tollgate::audit::trail::files(file).unwrap();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

async fn agent(runner: &[&str], audit: &str) -> Agent {
    let spop = format!("127.0.0.1:{}", free_port());
    Agent::start_under(runner, &config(audit), &spop).await
}

async fn greeted(agent: &Agent) -> Peer<TcpStream> {
    Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await
}

/// Asks so many questions, two hundred at a time; each is answered.
async fn ask(peer: &mut Peer<TcpStream>, questions: u64) {
    for first in (0..questions).step_by(200) {
        let path = format!("/public/{}", "x".repeat(200));
        let batch = first..(first + 200).min(questions);
        peer.write(|out| {
            batch.clone().for_each(|stream| engine::notify(stream, 1, &request(&path, None), out));
        })
        .await;
        for stream in batch {
            let ack = peer.frame().await.unwrap();
            assert_eq!((ack.stream_id, ack.variable("verdict").as_str()), (stream, "allow"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_a_trail_that_the_next_one_goes_on_with() {
    let folder = folder();
    let file = folder.path().join("audit.jsonl");
    let audit = format!("{{ file: {}, rotate: {{ size: 64KiB, keep: 1000 }} }}", file.display());
    let mut crashes = 0;
    for turn in 0..5 {
        let mut agent = agent(&[], &audit).await;
        let mut peer = greeted(&agent).await;
        ask(&mut peer, 400).await;
        let path = "/public/x";
        peer.write(|out| (0..100).for_each(|stream| engine::notify(stream, 1, &request(path, None), out))).await;
        if turn == 4 {
            agent.program.signal("TERM");
            assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));
        } else {
            // In the middle of it, each time somewhere else.
            tokio::time::sleep(Duration::from_millis(turn)).await;
            agent.program.kill();
            crashes += 1;
        }
    }
    let (whole, report) = verified(&file);
    assert!(whole, "{report}");
    let noted = report["notes"].as_array().unwrap().iter().filter(|note| note["kind"] == "crash").count();
    assert_eq!(noted, crashes, "{report}");
    assert!(report["files"].as_array().unwrap().len() > 3, "{report}");
    assert!(report["lines"].as_u64().unwrap() > 1_000, "{report}");
}

/// Nobody reads it, or it takes nothing: lines are lost and counted, and no decision waits (faults.md O10).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_or_full_sink_costs_lines_and_no_decision() {
    const QUESTIONS: u64 = 6_000;
    let folder = folder();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _unread = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    for sink in [pipe.to_str().unwrap(), "/dev/full"] {
        let shell = format!("exec \"$@\" >{sink}");
        let mut agent = agent(&["sh", "-c", &shell, "sh"], "{ file: stdout, queue: 1000 }").await;
        let mut peer = greeted(&agent).await;
        ask(&mut peer, QUESTIONS).await;
        eventually("it is said", async || (agent.metric("tollgate_audit_up").await == 0.0).then_some(())).await;
        let dropped = agent.metric("tollgate_audit_dropped_total").await;
        assert!(dropped > QUESTIONS as f64 / 2.0, "{sink}: {dropped}");
        assert!(agent.metric("tollgate_audit_queued").await <= 1000.0);
        assert_eq!(agent.metric("tollgate_decisions_late_total").await, 0.0);
        assert_eq!(agent.admin("/readyz").await.0, 200, "a trail is no reason to take nobody in");
        assert_eq!(agent.program.log().matches("lines are dropped and counted").count(), 1, "once an episode");
        agent.program.signal("TERM");
        assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0), "{sink}");
        assert!(agent.program.log().contains("not written to its end"));
    }
}

/// A real file system of 512 KiB, in a mount namespace of the agent's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_that_is_emptied_takes_lines_again() {
    let user = Command::new("id").arg("-u").output().unwrap().stdout;
    let flags = if user == b"0\n" { "-m" } else { "-rm" };
    let folder = folder();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let disk = disk.to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=512k none {disk} && head -c 400000 /dev/zero >{disk}/filler");
    let runner = ["unshare", flags, "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"];
    if !Command::new(runner[0]).args(&runner[1..]).args(["true"]).output().is_ok_and(|tried| tried.status.success()) {
        haproxies::skipped("a_full_disk_that_is_emptied_takes_lines_again", "this system lets no one mount a disk");
        return;
    }
    let mut agent = agent(&runner, &format!("{{ file: {disk}/audit.jsonl, queue: 100 }}")).await;
    let mut peer = greeted(&agent).await;
    ask(&mut peer, 2_000).await;
    eventually("the disk is full", async || (agent.metric("tollgate_audit_up").await == 0.0).then_some(())).await;
    assert!(agent.metric("tollgate_audit_dropped_total").await > 0.0);
    let inside = |name: &str| PathBuf::from(format!("/proc/{}/root{disk}/{name}", agent.program.pid()));
    std::fs::remove_file(inside("filler")).unwrap();
    eventually("lines flow again", async || (agent.metric("tollgate_audit_up").await == 1.0).then_some(())).await;
    ask(&mut peer, 50).await;
    let dropped = agent.metric("tollgate_audit_dropped_total").await;
    let lines = agent.metric("tollgate_audit_lines_total").await;
    eventually("all of it is written", async || (agent.metric("tollgate_audit_queued").await == 0.0).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let copy = folder.path().join("copy.jsonl");
    std::fs::copy(inside("audit.jsonl"), &copy).unwrap();
    let (whole, report) = verified(&copy);
    assert!(whole, "{report}");
    let decisions = records(&copy).iter().filter(|record| record["decision_id"].is_string()).count() as u64;
    assert_eq!(decisions + dropped as u64, 2_050, "{lines} lines; {report}");
    assert_eq!(report["dropped"].as_u64().unwrap(), dropped as u64, "and the trail itself says so");
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_are_in_the_trail_and_the_status_page_knows_its_end() {
    let folder = folder();
    let (one, two) = (folder.path().join("one.jsonl"), folder.path().join("two.jsonl"));
    let mut agent = agent(&[], &format!("{{ file: {} }}", one.display())).await;
    let mut peer = greeted(&agent).await;
    ask(&mut peer, 10).await;
    let reload = async |text: &str, count: f64| {
        std::fs::write(&agent.config, text).unwrap();
        agent.program.signal("HUP");
        eventually("the config is read again", async || {
            (agent.metric("tollgate_config_reloads_total").await == count).then_some(())
        })
        .await;
    };
    let good = std::fs::read_to_string(&agent.config).unwrap();
    reload(&format!("{good}# changed\n"), 1.0).await;
    ask(&mut peer, 5).await;
    reload("rulez: []\n", 2.0).await;
    // A trail that cannot be written is a reason to refuse a config.
    reload(&good.replace(one.to_str().unwrap(), "/nowhere/audit.jsonl"), 3.0).await;
    assert_eq!(agent.metric("tollgate_config_last_reload_ok").await, 0.0);
    ask(&mut peer, 5).await;
    reload(&good.replace(one.to_str().unwrap(), two.to_str().unwrap()), 4.0).await;
    ask(&mut peer, 7).await;
    let status = eventually("the last line is written", async || {
        let status: Value = serde_json::from_str(&agent.admin("/status").await.1).unwrap();
        (status["audit"]["last"]["seq"] == 9).then_some(status)
    })
    .await;
    assert_eq!(status["audit"]["file"], two.to_str().unwrap());
    let config = status["config"].as_str().unwrap();
    let expected = std::fs::read(&agent.config).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &expected);
    assert_eq!(config, digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>());
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));

    let hash = status["audit"]["last"]["hash"].as_str().unwrap();
    let output = tollgate(&["audit", "verify", two.to_str().unwrap(), "--expect-last", hash]);
    assert!(output.status.success() && said(&output).contains("the expected hash is at"), "{}", said(&output));
    let events = |file: &Path| -> Vec<String> {
        let records = records(file);
        records.iter().filter_map(|record| Some(record["event"].as_str()?.to_owned())).collect()
    };
    assert_eq!(events(&one), ["start", "reload", "reload_refused", "reload_refused", "stop"]);
    assert_eq!(events(&two), ["start", "reload", "stop"]);
    let configs: BTreeSet<_> = records(&one).iter().map(|record| record["config"].to_string()).collect();
    assert_eq!(configs.len(), 2, "two configs were in force");
    assert_eq!(records(&two).last().unwrap()["config"], config);
    assert!(verified(&one).0 && verified(&two).0);
}

#[tokio::test]
async fn an_agent_that_cannot_write_its_trail_does_not_begin() {
    let folder = folder();
    let file = folder.path().join("audit.jsonl");
    let first = agent(&[], &format!("{{ file: {} }}", file.display())).await;
    // It listens a moment before it has its file.
    first.ready().await;
    let run = |config: &Path| {
        let spop = format!("tcp:127.0.0.1:{}", free_port());
        let admin = format!("tcp:127.0.0.1:{}", free_port());
        let config = config.to_str().unwrap();
        // One that begins all the same must end too.
        let program = ["20", env!("CARGO_BIN_EXE_tollgate"), "run", "--config", config];
        let addresses = ["--spop-listen", &spop, "--admin-listen", &admin];
        Command::new("timeout").args(program).args(addresses).output().unwrap()
    };
    let output = run(&first.config);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("is being written by another process"), "{}", said(&output));
    for (file, expected) in [("/nowhere/audit.jsonl", "No such file"), ("tollgate.yaml", "does not end in a line of")] {
        let path = folder.path().join("tollgate.yaml");
        std::fs::write(&path, config(&format!("{{ file: {file} }}"))).unwrap();
        let output = run(&path);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_find_what_was_decided_and_what_was_changed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("chain.key"), "c".repeat(40)).unwrap();
    std::fs::write(at("hash.key"), "h".repeat(40)).unwrap();
    let audit = format!(
        "{{ file: {}, chain_key: \"file:{}\", hash: src, hash_key: \"file:{}\" }}",
        at("audit.jsonl"),
        at("chain.key"),
        at("hash.key")
    );
    let mut agent = agent(&[], &audit).await;
    let mut peer = greeted(&agent).await;
    let mut ids = Vec::new();
    for path in ["/public/a", "/secret", "/public/b"] {
        peer.write(|out| engine::notify(1, 1, &request(path, None), out)).await;
        ids.push(peer.frame().await.unwrap().variable("decision_id"));
    }
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));
    let (trail, key) = (at("audit.jsonl"), at("chain.key"));
    let config = agent.config.to_str().unwrap();

    let output = tollgate(&["audit", "verify", &trail, "--key-file", &key]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("whole, 5 lines, 1 (2"), "{}", said(&output));
    let output = tollgate(&["audit", "verify", &trail]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("give it as --key-file"), "{}", said(&output));

    let output = tollgate(&["explain", "--config", config, "--decision", &ids[1]]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.starts_with("deny: no_rule\n") && text.contains("/secret") && text.contains("its hash is right"),
        "{text}"
    );
    assert!(!text.contains("192.0.2.1") && text.contains("hmac:"), "{text}");
    let output = tollgate(&["explain", "--config", config, "--decision", &ids[0].to_uppercase(), "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&found["found"], &found["hash_ok"]], [true, true]);
    assert!(found["line"] == 2 && found["record"]["path"] == "/public/a", "{found}");
    let output = tollgate(&["explain", "--config", config, "--decision", "3b1j0q8r5k2m0007"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("is not in") && said(&output).contains("5 lines"), "{}", said(&output));

    let output =
        tollgate(&["audit", "export", "--file", &trail, "--key-file", &key, "--from", "1h", "--format", "csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("5 of 5 lines written; the chain is whole"), "{}", said(&output));
    let output = tollgate(&["audit", "export", "--file", &trail, "--key-file", &key, "--to", "2020-01-01"]);
    assert!(output.stdout.is_empty() && said(&output).contains("0 of 5 lines"), "{}", said(&output));
    let output = tollgate(&["audit", "export", "--file", &trail, "--key-file", &key]);
    assert_eq!(output.stdout, std::fs::read(&trail).unwrap(), "byte for byte");

    // Without the key of the chain, or of its users, an answer is not what it seems.
    let output = tollgate(&["audit", "export", "--file", &trail]);
    assert!(said(&output).contains("give it as --key-file"), "{}", said(&output));

    let text = std::fs::read_to_string(&trail).unwrap();
    std::fs::write(&trail, text.replace("\"verdict\":\"deny\"", "\"verdict\":\"allow\"")).unwrap();
    let output = tollgate(&["audit", "verify", &trail, "--key-file", &key]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("audit.jsonl:3: line 3 was edited"), "{}", said(&output));
    let output = tollgate(&["explain", "--config", config, "--decision", &ids[1]]);
    assert!(said(&output).contains("ITS HASH IS NOT RIGHT"), "{}", said(&output));
    let output = tollgate(&["audit", "export", "--file", &trail, "--key-file", &key]);
    assert!(said(&output).contains("THE CHAIN IS NOT WHOLE"), "{}", said(&output));
}

#[test]
fn an_export_of_a_user_says_where_users_are_hashed() {
    let folder = folder();
    let (trail, key) = (folder.path().join("audit.jsonl"), folder.path().join("hash.key"));
    std::fs::write(&key, "h".repeat(40)).unwrap();
    let line = format!("{{\"v\":1,\"time\":\"2027-01-15T08:00:00.000000Z\",\"user\":\"hmac:{}\"}}\n", "0".repeat(32));
    std::fs::write(&trail, line).unwrap();
    let (trail, key) = (trail.to_str().unwrap(), key.to_str().unwrap());
    for (more, code) in [
        (&["--user", "alice"][..], 1),
        (&["--user", "alice", "--hash-key-file", key], 0),
        (&["--user", "hmac:00"], 0),
        (&["--user", "alice", "--to", "2027-01-01"], 0),
        (&[], 0),
    ] {
        let output = tollgate(&[&["audit", "export", "--file", trail], more].concat());
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", said(&output));
        assert_eq!(said(&output).contains("--hash-key-file"), code == 1, "{more:?}: {}", said(&output));
    }
}

/// Who can write the file does not write to the terminal of whoever reads it.
#[test]
fn what_is_printed_of_a_forged_trail_is_text() {
    let folder = folder();
    let trail = folder.path().join("au\u{9b}dit.jsonl");
    let hostile = "\\u001b]0;owned\\u0007\u{9b}2J\u{202e}\u{7f}";
    let id = "dc1tdkrjma4g0002";
    let line = |time: &str, seq: u64| {
        let texts =
            ["verdict", "reason", "rule", "path", "ver\u{9b}sion"].map(|name| format!(",\"{name}\":\"{hostile}\""));
        let (texts, zeros) = (texts.concat(), "0".repeat(64));
        let chain = format!(",\"prev\":\"{zeros}\",\"hash\":\"{zeros}\"");
        format!("{{\"v\":1,\"seq\":{seq},\"time\":\"{time}\",\"decision_id\":\"{id}\"{texts}{chain}}}\n")
    };
    let text = line(&"\u{9b}2J\u{202e}".repeat(5), 1) + &line("\x1b[2J\x1b]0;x\x07", 3);
    std::fs::write(&trail, text).unwrap();
    let config_file = folder.path().join("tollgate.yaml");
    std::fs::write(&config_file, config("{ file: other.jsonl }")).unwrap();
    let (trail, config_file) = (trail.to_str().unwrap(), config_file.to_str().unwrap());
    let explain = ["explain", "--config", config_file, "--audit-file", trail, "--decision"];
    for arguments in [
        vec!["audit", "verify", trail],
        vec!["audit", "verify", "--json", trail],
        [&explain[..], &[id]].concat(),
        [&explain[..], &[id, "--json"]].concat(),
        [&explain[..], &["dc1tdkrjma4g0003"]].concat(),
    ] {
        let output = tollgate(&arguments);
        let text = said(&output);
        assert!(text.contains("dit.jsonl"), "{arguments:?}: {text:?}");
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(odd), "{arguments:?}: {text:?}");
        if arguments.contains(&"--json") {
            serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
    }
}
