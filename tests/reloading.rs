//! Another config while the agent serves: by SIGHUP, and by itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tollgate::spop::engine;

use crate::support::spop::{Peer, request};
use crate::support::stack::{AUDIENCE, Agent, Haproxy, config, shared_idp};
use crate::support::web::{Application, Client};
use crate::support::{eventually, folder, free_port, root};

/// The same policy under two names: an answer that is partly of one and partly of the other shows.
fn named(name: &str, issuer: &str) -> String {
    format!(
        r#"
issuers: {{ acme: {{ issuer: "{issuer}", insecure: true, audiences: [{AUDIENCE}], claims: {{ user: preferred_username }} }} }}
groups: {{ {name}: ["acme:platform-ops"] }}
admin: {{ listen: tcp:127.0.0.1:9003 }}
limits: {{ all: {{ key: [rule], rate: 100000000/365d }}, kept: {{ key: [user], rate: 100000000/365d }} }}
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: {name}, path: /v1/**, allow: {{ groups: [{name}] }}, limits: [kept], backend: {name}, sticky: [rule] }}
"#
    )
}

/// A thousand reloads under load: no answer is lost, none is of two configs, and what lives on does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_under_load_cost_no_answer() {
    const RELOADS: u32 = 1000;
    let idp = shared_idp().await;
    let agent = Agent::start(&named("one", &idp.issuer)).await;
    agent.ready().await;
    let token = Arc::new(format!("Bearer {}", idp.mint(json!({ "user": "alice" })).await));
    let app = Application::start().await;
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    haproxy.answering().await;
    app.take_heads();

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers = Vec::new();
    for _ in 0..2 {
        let (stop, asked, token, spop) = (stop.clone(), asked.clone(), token.clone(), agent.spop.clone());
        callers.push(tokio::spawn(async move {
            let mut peer = Peer::greeted(TcpStream::connect(&spop).await.unwrap()).await;
            let (mut stream, mut seen) = (0, [0, 0]);
            while !stop.load(Ordering::Relaxed) {
                let batch = stream..stream + 16;
                peer.write(|out| {
                    batch.clone().for_each(|it| engine::notify(it, 1, &request("/v1/x", Some(&token)), out));
                })
                .await;
                for expected in batch {
                    let ack = peer.frame().await.expect("the connection lives on");
                    let (variables, _) = ack.variables();
                    let of = |name: &str| variables.get(name).map_or("", String::as_str);
                    assert_eq!((ack.stream_id, of("verdict")), (expected, "allow"), "{variables:?}");
                    let name = of("rule");
                    assert_eq!([of("backend"), of("groups"), of("user")], [name, name, "alice"], "{variables:?}");
                    seen[usize::from(name == "two")] += 1;
                    stream = expected + 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
            seen
        }));
    }
    let mut browsers = Vec::new();
    for _ in 0..2 {
        let (stop, asked, token, port) = (stop.clone(), asked.clone(), token.clone(), haproxy.port);
        browsers.push(tokio::spawn(async move {
            let mut client = Client::connect(port).await;
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                let reply = client.get("/v1/x", &[("Authorization", &token)]).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                answered += 1;
                asked.fetch_add(1, Ordering::Relaxed);
            }
            answered
        }));
    }

    let fetches = "tollgate_issuer_key_fetches_total{issuer=\"acme\"}";
    let (fetched, mut memory) = (agent.metric(fetches).await, 0);
    for done in 1..=RELOADS {
        let name = if done % 2 == 1 { "two" } else { "one" };
        replace(&agent.config, &named(name, &idp.issuer));
        agent.program.signal("HUP");
        eventually("it is read", || async {
            (agent.metric("tollgate_config_reloads_total").await >= f64::from(done)).then_some(())
        })
        .await;
        if done == RELOADS / 10 {
            memory = resident_kib(agent.program.pid());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = [0, 0];
    for caller in callers {
        let [one, two] = caller.await.unwrap();
        seen = [seen[0] + one, seen[1] + two];
    }
    let mut answered = 0;
    for browser in browsers {
        answered += browser.await.unwrap();
    }
    assert!(seen.iter().all(|count| *count > 1000) && answered > 1000, "{seen:?} {answered}");
    // HAProxy's retries would hide a lost answer.
    assert_eq!(app.take_heads().iter().filter(|head| head.starts_with("GET /v1/x ")).count(), answered);
    assert_eq!(agent.metric("tollgate_config_last_reload_ok").await, 1.0);
    assert_eq!(agent.metric("tollgate_decisions_late_total").await, 0.0);
    assert_eq!(agent.metric(fetches).await, fetched, "keys live on");

    // Everything that was asked was counted, in one counter.
    let mut peer = Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await;
    peer.write(|out| engine::notify(1, 1, &request("/v1/x", Some(&token)), out)).await;
    let remaining: u64 = peer.frame().await.unwrap().variable("limit_remaining").parse().unwrap();
    let asked = asked.load(Ordering::Relaxed) + 1;
    // Three come back each second.
    let spent = 100_000_000 - remaining;
    assert!((asked.saturating_sub(600)..=asked).contains(&spent), "{asked} asked, {spent} counted");
    let after = resident_kib(agent.program.pid());
    println!("{RELOADS} reloads, {asked} answers, {memory} KiB after {} of them, {after} KiB after all", RELOADS / 10);
    assert!(after < memory * 105 / 100, "{memory} KiB after the first hundred, {after} KiB after the last");
}

/// Each broken config of the golden tests, one after the other: none is in force, each is named with its line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_broken_config_comes_into_force() {
    let spop = format!("127.0.0.1:{}", free_port());
    let good = "admin: { listen: tcp:127.0.0.1:9003 }\nrules:\n  - { name: public, path: /public/**, allow: anyone }\n";
    let agent = Agent::start_on(good, &spop).await;
    let mut peer = Peer::greeted(TcpStream::connect(&spop).await.unwrap()).await;
    let mut tried = 0;
    for entry in std::fs::read_dir(root().join("tests/config/bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        tried += 1;
        replace(&agent.config, &String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        agent.program.signal("HUP");
        eventually("it is refused", || async {
            (agent.metric("tollgate_config_reloads_total").await >= f64::from(tried)).then_some(())
        })
        .await;
        assert_eq!(agent.metric("tollgate_config_last_reload_ok").await, 0.0, "{}", path.display());
        assert_eq!(peer.ask("/public/x").await, "allow", "{}", path.display());
    }
    assert!(tried >= 40, "{tried}");
    let log = agent.program.log();
    let refused = log.lines().filter(|line| line.contains("the config was refused, the old one stays")).count();
    assert!(refused as u32 >= tried, "{refused} of {tried}");
    assert!(log.lines().filter(|line| line.contains("the config was refused")).all(|line| {
        // FILE:LINE:COLUMN, or a file that has no lines.
        let (_, place) = line.split_once("tollgate.yaml:").unwrap_or_else(|| panic!("{line}"));
        place.starts_with(|c: char| c.is_ascii_digit() || c == ' ')
    }));
    replace(&agent.config, good);
    eventually("a good one is in force by itself", || async {
        (agent.metric("tollgate_config_last_reload_ok").await == 1.0).then_some(())
    })
    .await;
}

/// Without a signal: the config itself, a file that it names, and a link that is turned to another folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_in_force_by_itself() {
    let idp = shared_idp().await;
    let agent = Agent::start(&config(&idp.issuer, "")).await;
    agent.ready().await;
    let verdict = async |path: &str| {
        let mut peer = Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await;
        peer.ask(path).await
    };
    assert_eq!(verdict("/new/x").await, "deny");
    let text = config(&idp.issuer, "  - { name: new, path: /new/**, allow: anyone }\n");
    // As an editor does that writes into the file: first half of it, then all.
    std::fs::write(&agent.config, &text[..text.len() / 2]).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::write(&agent.config, &text).unwrap();
    eventually("it is in force", || async { (verdict("/new/x").await == "allow").then_some(()) }).await;
    assert_eq!(agent.metric("tollgate_config_last_reload_ok").await, 1.0);
    assert!(!agent.program.log().contains("the config was refused"), "half a file was never read");

    // A key set that is not there yet, and then is.
    let pinned = agent.config.with_file_name("keys.json");
    let text = text.replace("insecure: true", "insecure: true\n    jwks_file: keys.json");
    std::fs::write(&agent.config, &text).unwrap();
    eventually("it is refused", || async {
        (agent.metric("tollgate_config_last_reload_ok").await == 0.0).then_some(())
    })
    .await;
    std::fs::write(&pinned, idp.jwks().await.to_string()).unwrap();
    eventually("its file is there", || async {
        (agent.metric("tollgate_config_last_reload_ok").await == 1.0).then_some(())
    })
    .await;

    // As Kubernetes changes what it mounts.
    let versions = folder();
    for (name, rules) in [("1", text.clone()), ("2", text.replace("/new/**", "/newer/**"))] {
        std::fs::create_dir(versions.path().join(name)).unwrap();
        std::fs::write(versions.path().join(name).join("tollgate.yaml"), rules).unwrap();
        std::fs::write(versions.path().join(name).join("keys.json"), idp.jwks().await.to_string()).unwrap();
    }
    let link = |to: &str| {
        let (new, current) = (versions.path().join("new"), versions.path().join("current"));
        std::os::unix::fs::symlink(to, &new).unwrap();
        std::fs::rename(&new, current).unwrap();
    };
    link("1");
    std::fs::remove_file(&agent.config).unwrap();
    std::os::unix::fs::symlink(versions.path().join("current/tollgate.yaml"), &agent.config).unwrap();
    link("2");
    eventually("the other folder is in force", || async { (verdict("/newer/x").await == "allow").then_some(()) }).await;
    assert_eq!(verdict("/new/x").await, "deny");
}

/// What reads well and cannot work is refused, and tried again once what it names is different.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_no_good_are_refused_until_they_are() {
    let idp = shared_idp().await;
    let text = config(&idp.issuer, "").replace("insecure: true", "insecure: true\n    jwks_file: keys.json");
    let folder = folder();
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, idp.jwks().await.to_string()).unwrap();
    let agent = Agent::start(&text.replace("keys.json", keys.to_str().unwrap())).await;
    let alice = format!("Bearer {}", idp.mint(json!({ "user": "alice" })).await);
    let mut peer = Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await;
    for (keys_now, ok) in [("{\"keys\":[]}".to_owned(), 0.0), (idp.jwks().await.to_string(), 1.0)] {
        std::fs::write(&keys, keys_now).unwrap();
        eventually("it is looked at", || async {
            (agent.metric("tollgate_config_last_reload_ok").await == ok).then_some(())
        })
        .await;
        peer.write(|out| engine::notify(1, 1, &request("/v1/x", Some(&alice)), out)).await;
        assert_eq!(peer.frame().await.unwrap().variable("verdict"), "allow", "{ok}");
    }
    assert_eq!(agent.metric("tollgate_config_reloads_total").await, 2.0);
}

/// An issuer that is asked for its keys anew has those that it had until they are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_place_for_keys_refuses_nobody_meanwhile() {
    let idp = shared_idp().await;
    let text = config(&idp.issuer, "");
    let agent = Agent::start(&text).await;
    agent.ready().await;
    let alice = format!("Bearer {}", idp.mint(json!({ "user": "alice" })).await);
    let mut peer = Peer::greeted(TcpStream::connect(&agent.spop).await.unwrap()).await;
    for done in 1..=10 {
        replace(&agent.config, &text.replace("insecure: true", &format!("insecure: true\n    max_key_age: {done}h")));
        agent.program.signal("HUP");
        let mut asked = 0;
        // Asked all the while: before, during and after.
        while agent.metric("tollgate_config_reloads_total").await < f64::from(done) || asked < 20 {
            peer.write(|out| engine::notify(1, 1, &request("/v1/x", Some(&alice)), out)).await;
            let (variables, _) = peer.frame().await.unwrap().variables();
            assert_eq!(variables["verdict"], "allow", "{variables:?}");
            asked += 1;
        }
    }
}

/// A pipe in place of the config is refused, and an agent that waits for a file stops all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_keeps_nobody() {
    let good = "admin: { listen: tcp:127.0.0.1:9003 }\nrules:\n  - { name: public, path: /public/**, allow: anyone }\n";
    let mut agent = Agent::start(good).await;
    std::fs::remove_file(&agent.config).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&agent.config).status().unwrap();
    assert!(made.success());
    agent.program.signal("HUP");
    eventually("it is refused", || async {
        (agent.metric("tollgate_config_reloads_total").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(agent.metric("tollgate_config_last_reload_ok").await, 0.0);
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0));
}

/// As deployments do: never half of it.
fn replace(config: &Path, text: &str) {
    let new = config.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, config).unwrap();
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
