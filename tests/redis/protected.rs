//! TLS. There is no way to do without it where `rediss://` is written, whatever is wrong with a certificate.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::{Caller, config};
use crate::support::redises::{Files, Server};
use crate::support::stack::Agent;
use crate::support::tls::{Ca, Owned, Says};
use crate::support::{eventually, folder};

fn url(port: u16) -> String {
    format!("rediss://localhost:{port}")
}

fn tls(ca: &std::path::Path) -> String {
    format!("  tls: {{ ca: {} }}\n", ca.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_private_authority_is_as_good_as_none() {
    let ca = Ca::new("private");
    let files = Files::new(ca.server().pem(), &ca.pem());
    let redis = Server::start_tls(&files, false).await;
    let agent = Agent::start(&config(&url(redis.port), &tls(&files.ca))).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for remaining in [9_999, 9_998] {
        assert_eq!(caller.ask("/deny/x").await.remaining, Some(remaining));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_certificates_gets_ours() {
    let ca = Ca::new("private");
    let files = Files::new(ca.server().pem(), &ca.pem());
    let own = Files::new(ca.client(&Says::default()).pem(), &ca.pem());
    let redis = Server::start_tls(&files, true).await;
    let (ca_file, cert, key) = (files.ca.display(), own.cert.display(), own.key.display());
    let with = format!("  tls: {{ ca: {ca_file}, cert: {cert}, key: {key} }}\n");
    let agent = Agent::start(&config(&url(redis.port), &with)).await;
    agent.ready().await;
    assert!(Caller::of(&agent).await.ask("/deny/x").await.was_counted());
    // Without one it is not let in.
    let stranger = Agent::start(&config(&url(redis.port), &tls(&files.ca))).await;
    let answer = Caller::of(&stranger).await.ask("/deny/x").await;
    assert_eq!((answer.verdict.as_str(), answer.degraded), ("error", true));
}

/// For each: what is wrong, whether it serves a certificate of this kind, and what the log says.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_good_is_no_redis() {
    let (ca, other) = (Ca::new("private"), Ca::new("somebody else's"));
    let old = ca.server_says("localhost", 7200, -60);
    let elsewhere = ca.server_says("redis.example", 60, 3600);
    let cases: [(&str, Owned, &Ca, &str); 3] = [
        ("expired", old, &ca, "xpired"),
        ("for another name", elsewhere, &ca, "not valid for name"),
        ("of an authority that is not believed", other.server(), &ca, "UnknownIssuer"),
    ];
    for (what, server, believed, says) in cases {
        let files = Files::new(server.pem(), &believed.pem());
        let redis = Server::start_tls(&files, false).await;
        let agent = Agent::start(&config(&url(redis.port), &tls(&files.ca))).await;
        let mut caller = Caller::of(&agent).await;
        for (path, verdict) in [("/deny/x", "error"), ("/local/x", "allow"), ("/deny/x", "error"), ("/deny/x", "error")]
        {
            let answer = caller.ask(path).await;
            assert_eq!((answer.verdict.as_str(), answer.degraded), (verdict, true), "{what}");
        }
        eventually("the log says what is wrong", || async { agent.program.log().contains(says).then_some(()) }).await;
        let (status, readyz) = agent.admin("/readyz").await;
        println!("{what}: {status} {readyz}");
        assert!(!redis.info(&["INFO", "commandstats"], "cmdstat_evalsha").contains("calls"), "nothing in clear");
        assert_eq!(agent.program.log().matches("Redis does not answer").count(), 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stalls_is_given_up_and_tried_again_at_a_walk() {
    let ca = Ca::new("private");
    let folder = folder();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    // Takes connections, and says nothing on them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&accepted);
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(silent.accept().await.unwrap());
            noted.lock().unwrap().push(Instant::now());
        }
    });
    let agent = Agent::start(&config(&url(port), &tls(&file))).await;
    let mut caller = Caller::of(&agent).await;
    let mut answers = Vec::new();
    for _ in 0..200 {
        answers.push(caller.ask("/local/x").await);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    accepting.abort();
    let accepted = accepted.lock().unwrap();
    assert!(answers.iter().all(|answer| answer.verdict == "allow" && answer.degraded), "each agent's share");
    let waited = answers.iter().filter(|answer| answer.took > Duration::from_millis(90)).count();
    println!("{} attempts in four seconds; {waited} of {} answers waited", accepted.len(), answers.len());
    assert!(waited <= 6, "{waited} waited");
    // Between the first attempt of a second and the third there is more than a second.
    let storm = accepted.windows(3).any(|three| three[2] - three[0] < Duration::from_millis(950));
    assert!(!storm && accepted.len() >= 2, "{accepted:?}");
}
