//! One server.

use std::time::{Duration, Instant};

use super::{Asking, Caller, config, gap};
use crate::support::eventually;
use crate::support::redises::Server;
use crate::support::stack::Agent;

#[tokio::test(flavor = "multi_thread")]
async fn valkey_is_as_good_as_redis() {
    let mut valkey = Server::start_valkey(&[]).await;
    assert!(valkey.ask(&["INFO", "server"]).contains("valkey_version"), "it is Valkey");
    let agent = Agent::start(&config(&valkey.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for remaining in [9_999, 9_998] {
        assert_eq!(caller.ask("/deny/x").await.remaining, Some(remaining));
    }
    assert!(valkey.ask(&["CLIENT", "LIST"]).contains("resp=3"), "RESP3 is spoken");
    assert_eq!(valkey.ask(&["SCRIPT", "FLUSH"]), "OK");
    assert_eq!(caller.ask("/deny/x").await.remaining, Some(9_997), "the script is loaded again, and counts once");
    valkey.kill();
    assert_eq!(caller.ask("/deny/x").await.verdict, "error");
    valkey.start_again().await;
    caller.ask_until_counted("/deny/x").await;
}

/// A server that greets in RESP2 only, as before Redis 6.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_resp3_is_spoken_to_in_resp2() {
    let redis = Server::start(&["--rename-command", "HELLO", ""]).await;
    let agent = Agent::start(&config(&redis.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    assert_eq!(caller.ask("/deny/x").await.remaining, Some(9_999));
    assert!(!redis.ask(&["CLIENT", "LIST"]).contains("resp=3"));
}

/// Nobody closes the connections of a primary that is demoted by hand, and it goes on answering READONLY on them.
#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_primary_is_left_at_once_and_found_again_within_a_second() {
    let (redis, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let agent = Agent::start(&config(&redis.url(), "")).await;
    agent.ready().await;
    let asking = Asking::start(&agent, &["/deny/x".to_owned()]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let port = other.port.to_string();
    assert_eq!(redis.ask(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (_, readyz) = agent.admin("/readyz").await;
    assert!(readyz.contains("READONLY"), "{readyz}");
    assert_eq!(redis.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    let promoted = Instant::now();
    Caller::of(&agent).await.ask_until_counted("/deny/y").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answers = asking.stop().await;
    let (lasted, lost) = gap(&answers, promoted).unwrap();
    println!("healthy {lasted:?} after the promotion; {lost} of {} answers without Redis", answers.len());
    assert!(lasted < Duration::from_millis(1000), "{lasted:?}");
}

/// What docs/operations.md says an agent needs, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_that_are_documented_are_enough() {
    let redis = Server::start(&[]).await;
    let mut rule = documented_rule();
    assert_eq!((rule.remove(0).as_str(), rule.remove(0).as_str()), ("ACL", "SETUSER"));
    let secret = rule.iter_mut().find(|word| word.starts_with('>')).unwrap();
    *secret = ">swordfish".to_owned();
    let command: Vec<_> = ["ACL", "SETUSER"].into_iter().chain(rule.iter().map(String::as_str)).collect();
    assert_eq!(redis.ask(&command), "OK");
    assert_eq!(redis.ask(&["ACL", "SETUSER", "default", "off"]), "OK");
    let folder = crate::support::folder();
    let password = folder.path().join("redis.password");
    std::fs::write(&password, "swordfish\n").unwrap();
    let login = format!("  username: {}\n  password: file:{}\n", rule[0], password.display());
    let agent = Agent::start(&format!("revocations: {{}}\n{}", config(&redis.url(), &login))).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for remaining in [9_999, 9_998] {
        assert_eq!(caller.ask("/deny/x").await.remaining, Some(remaining));
    }
    let log = Server::ask(&redis, &["--user", &rule[0], "--pass", "swordfish", "--no-auth-warning", "ACL", "LOG"]);
    assert!(log.contains("NOPERM"), "the least is less than everything: {log}");
    assert!(!agent.program.log().contains("NOPERM"), "{}", agent.program.log());
}

/// The line of docs/operations.md, in words.
fn documented_rule() -> Vec<String> {
    let text = std::fs::read_to_string(crate::support::root().join("docs/operations.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER ")).expect("the documented rule");
    line.split_ascii_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changes_is_read_again() {
    let redis = Server::start(&["--requirepass", "swordfish"]).await;
    let folder = crate::support::folder();
    let file = folder.path().join("redis.password");
    std::fs::write(&file, "swordfish\n").unwrap();
    // By the environment's name the agent would never see it change, and by a file it would reload by itself; a link that
    // is changed elsewhere is what neither of them sees.
    let agent = Agent::start(&config(&redis.url(), &format!("  password: file:{}\n", file.display()))).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    assert!(caller.ask("/deny/x").await.was_counted());
    let as_admin = |password, command: &[&str]| {
        let login = ["--pass", password, "--no-auth-warning"];
        redis.ask(&login.iter().chain(command).copied().collect::<Vec<_>>())
    };
    // First the server, then the file: in between the old one is wrong.
    assert_eq!(as_admin("swordfish", &["CONFIG", "SET", "requirepass", "marlin-9"]), "OK");
    as_admin("marlin-9", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the old password is refused", || async {
        let answer = Caller::of(&agent).await.ask("/deny/x").await;
        let (_, readyz) = agent.admin("/readyz").await;
        (answer.verdict == "error" && readyz.contains("WRONGPASS")).then_some(())
    })
    .await;
    let log = agent.program.log();
    assert!(!log.contains("swordfish") && !log.contains("marlin-9"), "no password is in the log");
    std::fs::write(&file, "marlin-9\n").unwrap();
    let written = Instant::now();
    caller.ask_until_counted("/deny/x").await;
    println!("counted {:?} after the file was written", written.elapsed());
    assert!(written.elapsed() < Duration::from_millis(2000), "{:?}", written.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_place_left_keeps_those_it_has() {
    let redis = Server::start(&[]).await;
    let agent = Agent::start(&config(&redis.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    assert!(caller.ask("/deny/x").await.was_counted());
    let taken: Vec<_> = (0..8).map(|_| std::net::TcpStream::connect(("127.0.0.1", redis.port)).unwrap()).collect();
    let count = redis.info(&["INFO", "clients"], "connected_clients");
    // The one that says so is among them, and its place is taken before the agent's.
    assert_eq!(redis.ask(&["CONFIG", "SET", "maxclients", &count]), "OK");
    let last = std::net::TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    // A second agent finds no place, and the first has its own all along.
    let late = Agent::start(&config(&redis.url(), "")).await;
    let mut late_caller = Caller::of(&late).await;
    let answer = late_caller.ask("/deny/x").await;
    assert_eq!((answer.verdict.as_str(), answer.degraded), ("error", true));
    assert!(late_caller.ask("/local/x").await.degraded);
    for _ in 0..20 {
        assert!(caller.ask("/deny/x").await.was_counted());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, readyz) = late.admin("/readyz").await;
    assert!(readyz.contains("max number of clients"), "{readyz}");
    let refused = |redis: &Server| redis.info(&["INFO", "stats"], "rejected_connections");
    drop((taken, last));
    let freed = Instant::now();
    late_caller.ask_until_counted("/deny/x").await;
    println!("the late agent was let in {:?} after a place was free", freed.elapsed());
    let refused: u64 = refused(&redis).parse().unwrap();
    println!("{refused} attempts were refused meanwhile");
    assert!(refused <= 8, "{refused} attempts in two seconds");
    assert!(freed.elapsed() < Duration::from_millis(1500));
}
