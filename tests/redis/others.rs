//! What else agents share: a hash and its channel (revocations, grants), and what is claimed once (DPoP proofs).

use std::time::Duration;

use tollgate::link::{Claimed, Feed, Link, RedisSettings};
use tollgate::secret::Secret;

use crate::support::eventually;
use crate::support::redises::{Cluster, Server, Watched};

#[tokio::test(flavor = "multi_thread")]
async fn revocations_and_claims_work_with_sentinels_and_after_a_failover() {
    let watched = Watched::start().await;
    shared(&watched.url(), async || {
        assert_eq!(watched.sentinels[0].ask(&["SENTINEL", "FAILOVER", "main"]), "OK");
        let old = watched.servers[0].port;
        let moved = || async { (watched.primary().is_some_and(|port| port != old)).then_some(()) };
        eventually("the sentinels name the other", moved).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_and_claims_work_in_a_cluster_and_after_a_failover() {
    let cluster = Cluster::start(true).await;
    let urls: Vec<_> = cluster.servers.iter().map(Server::url).collect();
    shared(&urls.join(" "), async || {
        for replica in &cluster.servers[3..] {
            assert_eq!(replica.ask(&["CLUSTER", "FAILOVER"]), "OK");
            let is_primary = || async { (replica.info(&["INFO", "replication"], "role") == "master").then_some(()) };
            eventually("the replica is the primary", is_primary).await;
        }
    })
    .await;
}

async fn shared(url: &str, fail_over: impl AsyncFn()) {
    const SCRIPT: &str = "redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
                          redis.call('PUBLISH', ARGV[1], ARGV[2])
                          return {1, 2, 'x', 'y'}";
    let settings = RedisSettings::new(Secret::new(url), Duration::from_millis(500));
    let feed = Feed::new(&settings, "tg:revoked", "tg:revoked").unwrap();
    let link = Link::new(&settings).unwrap();
    link.probe().await;
    let words = |name: &str| [name.to_owned(), "value".to_owned()];

    let mut pushes = feed.listen().await.unwrap();
    assert_eq!(feed.run(SCRIPT, &words("first")).await, Ok((1, 2, "x".to_owned(), "y".to_owned())));
    assert_eq!(pushes.next().await.as_deref(), Some("first"));
    assert_eq!(feed.listening().await, Ok(1));
    assert_eq!(feed.field("first").await, Ok(Some("value".to_owned())));
    assert_eq!(feed.page("0", 10).await, Ok(("0".to_owned(), vec![("first".to_owned(), "value".to_owned())])));
    assert!(feed.now_s().await.unwrap() > 1_700_000_000);
    let claim = async |number: u32| {
        let (name, life) = (format!("tg:dpop:{number}"), Duration::from_secs(60));
        link.claim(name.as_bytes(), b"1", life, Duration::from_millis(500)).await
    };
    for number in 0..30 {
        assert_eq!(claim(number).await, Ok(Claimed::Ours), "{number}");
        assert_eq!(claim(number).await, Ok(Claimed::Theirs(b"1".to_vec())), "{number}");
    }

    fail_over().await;
    let runs = || async { feed.run(SCRIPT, &words("second")).await.ok() };
    eventually("what is revoked is written to the new primary", runs).await;
    // Whoever listened may have listened to the old one, which is a replica of the new one now or has hung up.
    let listens = || async { feed.listen().await.ok() };
    let mut again = eventually("the channel is listened to again", listens).await;
    assert!(feed.run(SCRIPT, &words("third")).await.is_ok());
    // What was said before may still be on its way from server to server.
    let third = async { while again.next().await.expect("it goes on") != "third" {} };
    tokio::time::timeout(Duration::from_secs(2), third).await.expect("it is heard");
    assert_eq!(feed.remove(&["first".to_owned()]).await, Ok(()));
    for number in 0..30 {
        let claimed = eventually("claims are answered", || async { claim(number).await.ok() }).await;
        assert_eq!(claimed, Claimed::Theirs(b"1".to_vec()), "{number} was claimed before");
    }
}
