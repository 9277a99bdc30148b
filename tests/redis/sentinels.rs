//! A primary and a replica, watched by three sentinels that call a primary down after 500 ms of silence.

use std::time::{Duration, Instant};

use super::{Asking, Caller, config, gap};
use crate::support::redises::Watched;
use crate::support::stack::Agent;

/// What sentinels need to agree that the primary is gone and to make another, on a busy machine.
const FAILOVER_MAX: Duration = Duration::from_secs(8);

/// What the agent may need beyond that.
const AFTER_MAX: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_left_for_the_one_that_sentinels_make() {
    let mut watched = Watched::start().await;
    let agent = Agent::start(&config(&watched.url(), "")).await;
    agent.ready().await;
    let asking = Asking::start(&agent, &["/deny/x".to_owned(), "/local/x".to_owned()]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (killed, old) = (Instant::now(), watched.servers[0].port);
    watched.servers[0].kill();
    let promoted = promoted(&watched, old).await;
    let mut caller = Caller::of(&agent).await;
    caller.ask_until_counted("/deny/y").await;
    let answers = asking.stop().await;
    let (lasted, lost) = gap(&answers, killed).unwrap();
    println!("killed: sentinels took {:?}, callers went without for {lasted:?} ({lost} answers)", promoted - killed);
    assert!(lasted < promoted - killed + AFTER_MAX, "{lasted:?}");
    for (index, answer) in &answers {
        let expected = if answer.degraded && *index == 0 { "error" } else { "allow" };
        assert_eq!(answer.verdict, expected, "{answer:?}");
    }
    assert_eq!(watched.servers[1].ask(&["EXISTS", "tg:probe"]), "1", "the new primary is written to");
    let episodes = agent.program.log().matches("Redis does not answer").count();
    assert_eq!(episodes, 1, "one line an outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_is_left_too_and_is_not_believed_when_it_wakes() {
    let watched = Watched::start().await;
    let agent = Agent::start(&config(&watched.url(), "")).await;
    agent.ready().await;
    let asking = Asking::start(&agent, &["/local/x".to_owned()]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (stopped, old) = (Instant::now(), watched.servers[0].port);
    watched.servers[0].program.signal("STOP");
    let promoted = promoted(&watched, old).await;
    let mut caller = Caller::of(&agent).await;
    caller.ask_until_counted("/deny/y").await;
    // It still thinks that it is the primary, until a sentinel tells it, which may take ten seconds.
    watched.servers[0].program.signal("CONT");
    let writes = || watched.servers[0].info(&["INFO", "commandstats"], "cmdstat_evalsha");
    let before = writes();
    for _ in 0..50 {
        assert!(caller.ask("/deny/y").await.was_counted());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(writes(), before, "nobody asks it any more");
    let answers = asking.stop().await;
    let (lasted, lost) = gap(&answers, stopped).unwrap();
    println!("hung: sentinels took {:?}, callers went without for {lasted:?} ({lost} answers)", promoted - stopped);
    assert!(lasted < promoted - stopped + AFTER_MAX, "{lasted:?}");
    assert!(answers.iter().all(|(_, answer)| answer.verdict == "allow"), "each agent's share");
    // Three waited for an answer; whoever came later was told at once.
    let waited = answers.iter().filter(|(_, answer)| answer.took > Duration::from_millis(90)).count();
    assert!(waited <= 6, "{waited} waited");
}

/// When most sentinels name another primary.
async fn promoted(watched: &Watched, old: u16) -> Instant {
    let begun = Instant::now();
    while watched.primary().is_none_or(|port| port == old) {
        assert!(begun.elapsed() < FAILOVER_MAX, "the sentinels make no other primary");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Instant::now()
}
