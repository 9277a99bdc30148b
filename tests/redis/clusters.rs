//! Three primaries on loopback.

use std::time::{Duration, Instant};

use super::{Asking, Caller, config, gap};
use crate::support::eventually;
use crate::support::redises::Cluster;
use crate::support::stack::Agent;

/// Many keys, so that each primary has some.
fn paths(mode: &str) -> Vec<String> {
    (0..30).map(|number| format!("/{mode}/{number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_counted_at_the_primary_that_has_its_slot() {
    let cluster = Cluster::start(false).await;
    let agent = Agent::start(&config(&cluster.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for path in paths("deny") {
        for before in 0..3 {
            let answer = caller.ask(&path).await;
            assert!(answer.was_counted(), "{path}: {answer:?}");
            assert_eq!(answer.remaining, Some(9_999 - before), "{path}");
        }
    }
    for server in &cluster.servers {
        let keys: u64 = server.ask(&["DBSIZE"]).parse().unwrap();
        assert!(keys >= 2, "{keys} keys on one of three");
    }
}

/// No script sees two slots, so what one shard has charged is given back where another refuses.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_several_shards_are_charged_together_or_not_at_all() {
    let cluster = Cluster::start(false).await;
    let settings = format!(
        "spop: {{ deadline: 400ms }}\ncounters:\n  redis: {}\n  timeout: 100ms\nlimits:\n  \
         wide: {{ key: [host], rate: 1000/30d, on_failure: deny }}\n  \
         other: {{ key: [path], rate: 500/30d, algorithm: sliding, on_failure: deny }}\n  \
         narrow: {{ key: [rule], rate: 7/30d, on_failure: deny }}\nrules:\n  \
         - {{ name: all, path: /all, allow: anyone, limits: [wide, other, narrow] }}\n  \
         - {{ name: one, path: /one, allow: anyone, limits: [wide] }}\n",
        cluster.url()
    );
    let agent = Agent::start(&settings).await;
    agent.ready().await;
    // Several at once, so that they get in each other's way.
    let callers: Vec<_> = futures_util::future::join_all((0..4).map(|_| async {
        let mut caller = Caller::of(&agent).await;
        let mut passed = 0;
        for _ in 0..10 {
            let answer = caller.ask("/all").await;
            assert!(!answer.degraded, "{answer:?}");
            passed += usize::from(answer.verdict == "allow");
        }
        passed
    }))
    .await;
    assert_eq!(callers.iter().sum::<usize>(), 7, "of forty");
    // Given back in the background.
    let mut caller = Caller::of(&agent).await;
    for more in 1..500 {
        let remaining = caller.ask("/one").await.remaining.unwrap();
        if remaining == 1000 - 7 - more {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what the other shards refused stays charged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_down_costs_its_own_keys_and_no_others() {
    let mut cluster = Cluster::start(false).await;
    // A Cluster that lacks slots would refuse all others too, unless told not to.
    for server in &cluster.servers {
        assert_eq!(server.ask(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]), "OK");
    }
    let agent = Agent::start(&config(&cluster.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for path in paths("deny") {
        assert!(caller.ask(&path).await.was_counted());
    }
    let asking = Asking::start(&agent, &paths("deny")).await;
    let killed = Instant::now();
    cluster.servers[1].kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (status, body) = agent.admin("/readyz").await;
    cluster.servers[1].start_again().await;
    // For two seconds after its start a primary answers CLUSTERDOWN, whatever it knows.
    cluster.agreed(1..2).await;
    let back = Instant::now();
    let is_well = || async { (agent.metric("tollgate_store_up").await > 0.5).then_some(()) };
    eventually("all shards are well", is_well).await;
    let answers = asking.stop().await;
    let (lasted, lost) = gap(&answers, killed).unwrap();
    println!("one of three was down for {:?}, {lost} of {} answers were without it", back - killed, answers.len());
    assert!(lasted < back - killed + Duration::from_millis(1500), "{lasted:?}");
    let shards: Vec<bool> =
        (0..30).map(|path| answers.iter().any(|(index, answer)| *index == path && !answer.was_counted())).collect();
    let fell = shards.iter().filter(|fell| **fell).count();
    assert!((1..25).contains(&fell), "{fell} of 30 keys were without Redis");
    // A key either has its server or has not; none was without because of its neighbours.
    for (path, fell) in shards.iter().enumerate() {
        let during = answers.iter().filter(|(index, answer)| {
            *index == path
                && answer.asked > killed + Duration::from_millis(300)
                && answer.asked < back - Duration::from_millis(200)
        });
        for (_, answer) in during {
            assert_eq!(answer.was_counted(), !fell, "{path}: {answer:?}");
        }
    }
    println!("while it was down: {status} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_under_load_cost_nobody_anything() {
    let mut cluster = Cluster::start(false).await;
    let agent = Agent::start(&config(&cluster.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for path in paths("deny") {
        assert!(caller.ask(&path).await.was_counted());
    }
    let new = cluster.grow().await;
    // The agent knows nothing of the new one until it is sent there.
    let asking = Asking::start(&agent, &paths("deny")).await;
    let mut moved = 0;
    for from in 0..3 {
        let slots: std::collections::BTreeSet<u16> = cluster.servers[from]
            .ask(&["KEYS", "*"])
            .lines()
            .map(|key| cluster.servers[from].ask(&["CLUSTER", "KEYSLOT", key]).parse().unwrap())
            .collect();
        for slot in slots.into_iter().take(4) {
            moved += 1;
            // Long enough that each key is asked for in the middle: the new ones are there, the old ones here.
            cluster.move_slot(slot, from, new, tokio::time::sleep(Duration::from_millis(150))).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answers = asking.stop().await;
    let lost: Vec<_> = answers.iter().filter(|(_, answer)| !answer.was_counted()).collect();
    println!("{moved} slots moved, {} answers, {} without Redis", answers.len(), lost.len());
    assert!(lost.is_empty(), "{lost:?}");
    // Nothing was counted twice or forgotten on the way.
    for (path, name) in paths("deny").iter().enumerate() {
        let asked = answers.iter().filter(|(index, _)| *index == path).count() as u64 + 2;
        assert_eq!(caller.ask(name).await.remaining, Some(10_000 - asked), "{name}");
    }
}

/// A script that meets a demoted primary is answered READONLY for ever by clients that do not look for the new one
/// (redis-rs issue 2085).
#[tokio::test(flavor = "multi_thread")]
async fn issue_2085_a_script_finds_the_new_primary_after_a_failover_by_hand() {
    let cluster = Cluster::start(true).await;
    let agent = Agent::start(&config(&cluster.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for path in paths("deny") {
        assert!(caller.ask(&path).await.was_counted());
    }
    let asking = Asking::start(&agent, &paths("deny")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    for replica in &cluster.servers[3..] {
        assert_eq!(replica.ask(&["CLUSTER", "FAILOVER"]), "OK");
        let is_primary = || async { (replica.info(&["INFO", "replication"], "role") == "master").then_some(()) };
        eventually("the replica is the primary", is_primary).await;
    }
    let over = Instant::now();
    let is_well = || async { (agent.metric("tollgate_store_up").await > 0.5).then_some(()) };
    eventually("all shards are well", is_well).await;
    for path in paths("deny") {
        caller.ask_until_counted(&path).await;
    }
    let answers = asking.stop().await;
    let (lasted, lost) = gap(&answers, begun).unwrap_or_default();
    println!("three failovers by hand took {:?}: {lost} of {} answers without Redis", over - begun, answers.len());
    assert!(lasted < over - begun + Duration::from_millis(1500), "{lasted:?}");
    assert!(lost * 10 < answers.len(), "{lost} of {}", answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_left_for_its_replica() {
    let mut cluster = Cluster::start(true).await;
    let agent = Agent::start(&config(&cluster.url(), "")).await;
    agent.ready().await;
    let mut caller = Caller::of(&agent).await;
    for path in paths("local") {
        assert!(caller.ask(&path).await.was_counted());
    }
    let asking = Asking::start(&agent, &paths("local")).await;
    let killed = Instant::now();
    cluster.servers[0].kill();
    let is_primary = || async { (cluster.servers[3].info(&["INFO", "replication"], "role") == "master").then_some(()) };
    eventually("the replica is the primary", is_primary).await;
    let promoted = Instant::now();
    for path in paths("local") {
        caller.ask_until_counted(&path).await;
    }
    let answers = asking.stop().await;
    let (lasted, lost) = gap(&answers, killed).unwrap();
    println!("the replica took {:?}; callers went without for {lasted:?} ({lost} answers)", promoted - killed);
    assert!(lasted < promoted - killed + Duration::from_secs(2), "{lasted:?}");
    assert!(answers.iter().all(|(_, answer)| answer.verdict == "allow"), "each agent's share");
}
