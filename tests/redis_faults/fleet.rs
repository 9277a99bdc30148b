//! Many agents, many callers, and agents that do not agree.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::{Caller, Callers, assert_episodes, assert_honest, config, count, until_down, until_up};
use crate::support::stack::{Agent, Redis};
use crate::support::{alone, not_alone};

/// Thirty-two agents lose one Redis, and come back to it as a fleet that does not push it over again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_agents_come_back_to_one_redis_without_a_stampede() {
    let _alone = alone().await;
    const AGENTS: usize = 32;
    const LIMIT: u64 = 500;
    let mut redis = Redis::start().await;
    // A busy machine is no outage here either: the agents share it with the test.
    let config = config(&redis.url(), LIMIT, AGENTS).replace("deadline: 400ms", "deadline: 1500ms");
    let config = config.replace("timeout: 100ms", "timeout: 500ms");
    let started = futures_util::future::join_all((0..AGENTS).map(|_| Agent::start(&config))).await;
    let agents: Vec<_> = started.iter().collect();
    for agent in &agents {
        until_up(agent).await;
    }
    let callers = Callers::start(&agents, 1, &["/deny/x", "/local/x"], Duration::from_millis(40)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    redis.program.kill();
    for agent in &agents {
        until_down(agent).await;
    }
    let back = Redis::start_on(redis.port).await;
    let returned = Instant::now();
    for agent in &agents {
        until_up(agent).await;
    }
    let took = returned.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Time for a second outage, if there is to be one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let connections = back.figure("total_connections_received").await;
    // Each opens one for its counters, and two each for its revocations and its grants, once.
    assert!(connections <= AGENTS as u64 * 6, "{connections} connections");
    let answers = callers.stop().await;
    for agent in &agents {
        assert_honest(agent, &answers).await;
        assert_episodes(agent, 1).await;
    }
    for mode in ["deny", "local"] {
        let counted = count(&answers, |answer| answer.path.starts_with(&format!("/{mode}/")) && answer.was_counted());
        assert!(counted <= 2 * LIMIT, "{mode}: {counted}, once in each life of Redis at most");
    }
}

/// What a policy of another rate counts is counted apart, from the moment that it is in force; nothing is handed down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_rate_or_period_under_load_inherits_no_counter() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let first = config(&redis.url(), 100, 1);
    let agent = Agent::start(&first).await;
    until_up(&agent).await;
    let callers = Callers::start(&[&agent], 4, &["/deny/x"], Duration::from_millis(4)).await;
    let spent = async || {
        let mut caller = Caller::of(&agent).await;
        let until = Instant::now() + Duration::from_secs(10);
        while caller.ask("/deny/x").await.reason != "limit_exceeded" {
            assert!(Instant::now() < until, "it is never spent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    spent().await;
    let mut stages = vec![("100/1h", Instant::now())];
    for rate in ["40/1h", "40/2h", "100/1h"] {
        let reloads = agent.metric("tollgate_config_reloads_total").await;
        std::fs::write(&agent.config, first.replace("100/1h", rate)).unwrap();
        agent.program.signal("HUP");
        crate::support::eventually("it is in force", || async {
            (agent.metric("tollgate_config_reloads_total").await > reloads).then_some(())
        })
        .await;
        // Whoever asks now is counted by it; and it is spent again.
        spent().await;
        stages.push((rate, Instant::now()));
    }
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    assert_eq!(count(&answers, |answer| answer.degraded), 0);
    let mut begun = None;
    for ((rate, ended), most) in stages.into_iter().zip([100, 40, 40, 0]) {
        let admitted = count(&answers, |answer| {
            answer.was_counted() && answer.asked < ended && begun.is_none_or(|begun| answer.asked >= begun)
        });
        // `spent` took some of it, and left at least what four callers get in the time of one.
        assert!(admitted <= most && admitted >= most / 3, "{admitted} at {rate}");
        begun = Some(ended);
    }
    assert_eq!(redis.ask(&["KEYS", "tg:*deny*"]).await.lines().count(), 3, "one counter for each definition");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_different_policies_count_apart() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let (old, new) = (config(&redis.url(), 50, 2), config(&redis.url(), 80, 2));
    let (one, two, same) = tokio::join!(Agent::start(&old), Agent::start(&new), Agent::start(&new));
    for agent in [&one, &two, &same] {
        until_up(agent).await;
    }
    let by_old = Callers::start(&[&one], 3, &["/deny/x"], Duration::from_millis(4)).await;
    let by_new = Callers::start(&[&two, &same], 3, &["/deny/x"], Duration::from_millis(4)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (old, new) = (by_old.stop().await, by_new.stop().await);
    assert_honest(&one, &old).await;
    assert_honest(&two, &new).await;
    assert!(old.len() > 60 && new.len() > 100, "{} and {}", old.len(), new.len());
    assert_eq!(count(&old, |answer| answer.was_counted()), 50);
    assert_eq!(count(&new, |answer| answer.was_counted()), 80, "two agents with one policy share it");
}

/// A counter that is spent, and everybody wants it: an agent knows until when, and asks Redis about it a hundred times a
/// second at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_for_a_spent_counter_is_no_flood_for_redis() {
    let _others = not_alone().await;
    const LIMIT: u64 = 20;
    let redis = Redis::start().await;
    let config = config(&redis.url(), LIMIT, 2);
    let (first, second) = tokio::join!(Agent::start(&config), Agent::start(&config));
    let both = [&first, &second];
    for agent in both {
        until_up(agent).await;
    }
    let mut caller = Caller::of(&first).await;
    let begun = Instant::now();
    let asked = |evals: u64, others: u64| evals + others;
    let before = asked(redis.calls("evalsha").await, redis.calls("eval").await);
    let callers = Callers::start(&both, 8, &["/deny/hot"], Duration::ZERO).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Another counter is not held up by it.
    assert_eq!(caller.ask("/deny/other").await.remaining, Some(LIMIT - 1));
    let answers = callers.stop().await;
    let after = asked(redis.calls("evalsha").await, redis.calls("eval").await);
    let each_10_ms = begun.elapsed().as_millis() as u64 / 10;
    for agent in both {
        assert_honest(agent, &answers).await;
        assert_episodes(agent, 0).await;
    }
    assert_eq!(count(&answers, |answer| answer.was_counted()), LIMIT, "not one more, and not one less");
    // Those that were admitted, those that were under way when it was spent, and one a 10 ms for each agent.
    let most = LIMIT + 16 + 2 * each_10_ms;
    let calls = after - before;
    assert!(answers.len() as u64 > 2 * most, "no flood: {}", answers.len());
    assert!(calls <= most, "{calls} calls for {} questions in {:?}", answers.len(), begun.elapsed());
}

/// Whatever an agent wants of Redis, it does not knock more than twice a second where nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_knock_twice_a_second_at_a_redis_that_closes_the_door() {
    let _others = not_alone().await;
    const AGENTS: usize = 4;
    const SECONDS: u64 = 4;
    let mut redis = Redis::start().await;
    let config = config(&redis.url(), 1000, AGENTS);
    let started = futures_util::future::join_all((0..AGENTS).map(|_| Agent::start(&config))).await;
    let agents: Vec<_> = started.iter().collect();
    for agent in &agents {
        until_up(agent).await;
    }
    let callers = Callers::start(&agents, 2, &["/deny/x", "/local/x"], Duration::from_millis(10)).await;
    redis.program.kill();
    let mut nobody = TcpListener::bind(("127.0.0.1", redis.port)).await.unwrap();
    for agent in &agents {
        until_down(agent).await;
    }
    // Those that were lost are each replaced once at once.
    accepted_in(&mut nobody, Duration::from_secs(1)).await;
    let attempts = accepted_in(&mut nobody, Duration::from_secs(SECONDS)).await;
    let answers = callers.stop().await;
    for agent in &agents {
        assert_honest(agent, &answers).await;
    }
    let most = AGENTS as u64 * 2 * SECONDS;
    assert!(attempts <= most, "{attempts} attempts in {SECONDS} s by {AGENTS} agents, and not {most}");
}

/// How many connections come in that time; each is closed at once.
async fn accepted_in(listener: &mut TcpListener, time: Duration) -> u64 {
    let mut accepted = 0;
    let until = tokio::time::Instant::now() + time;
    while let Ok(connection) = tokio::time::timeout_at(until, listener.accept()).await {
        accepted += u64::from(connection.is_ok());
    }
    accepted
}
