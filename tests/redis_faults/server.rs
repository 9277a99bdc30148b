//! The server fails.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Caller, Callers, MODES, TIMEOUT, assert_episodes, assert_honest, config, count, until_down, until_up};
use crate::support::stack::{Agent, Redis};
use crate::support::{folder, not_alone};

const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_under_load_cost_no_decision_and_no_count() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let agent = Agent::start(&config(&redis.url(), 300, 1)).await;
    until_up(&agent).await;
    let callers = Callers::start(&[&agent], 8, &["/deny/x"], PAUSE).await;
    let mut operator = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
    for _ in 0..30 {
        operator.write_all(b"SCRIPT FLUSH\r\n").await.unwrap();
        operator.read_exact(&mut [0; 5]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answers = callers.stop().await;
    assert!(answers.len() > 600, "{}", answers.len());
    assert_honest(&agent, &answers).await;
    assert_eq!(count(&answers, |answer| answer.degraded), 0, "nobody notices");
    assert_eq!(count(&answers, |answer| answer.was_counted()), 300, "each counted once");
    assert_episodes(&agent, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_each_millisecond_cost_no_decision() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let agent = Agent::start(&config(&redis.url(), 300, 1)).await;
    until_up(&agent).await;
    let callers = Callers::start(&[&agent], 8, &["/deny/x"], PAUSE).await;
    let mut operator = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
    for _ in 0..1000 {
        operator.write_all(b"SCRIPT FLUSH\r\n").await.unwrap();
        operator.read_exact(&mut [0; 5]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let answers = callers.stop().await;
    assert!(answers.len() > 600, "{}", answers.len());
    assert_honest(&agent, &answers).await;
    let log = agent.program.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("\"WARN\"")).collect();
    assert_eq!(count(&answers, |answer| answer.degraded), 0, "nobody notices: {said:#?}");
    assert_eq!(count(&answers, |answer| answer.was_counted()), 300, "each counted once");
    assert_episodes(&agent, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loads_its_data_is_away_until_it_has_and_then_counts_on() {
    let _others = not_alone().await;
    let data = folder();
    let dir = data.path().to_str().unwrap();
    let mut redis = Redis::start_with(&["--dir", dir, "--enable-debug-command", "local"]).await;
    let agent = Agent::start(&config(&redis.url(), 5, 1)).await;
    until_up(&agent).await;
    let mut caller = Caller::of(&agent).await;
    for remaining in (0..5).rev() {
        assert_eq!(caller.ask("/deny/spent").await.remaining, Some(remaining));
    }
    // Something to load beside the counters: a millisecond a key makes three seconds.
    redis.ask(&["DEBUG", "POPULATE", "3000"]).await;
    redis.ask(&["SAVE"]).await;
    let callers = Callers::start(&[&agent], 3, &["/allow/x", "/deny/x", "/local/x"], PAUSE).await;
    redis.program.kill();
    let slow = ["--dir", dir, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let back = Redis::start_on_with(redis.port, &slow).await;
    until_down(&agent).await;
    assert!(back.ask(&["INFO", "persistence"]).await.contains("loading:1"));
    for (mode, verdict) in MODES.into_iter().zip(["allow", "error", "allow"]) {
        let answer = caller.ask(&format!("/{mode}/loading")).await;
        assert_eq!((answer.verdict.as_str(), answer.degraded), (verdict, true), "{answer:?}");
    }
    // It was loading all that time, and was not waited for.
    assert!(back.ask(&["INFO", "persistence"]).await.contains("loading:1"));
    until_up(&agent).await;
    assert!(back.ask(&["INFO", "persistence"]).await.contains("loading:0"));
    assert_eq!(caller.ask("/deny/spent").await.reason, "limit_exceeded", "what was saved is counted on");
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    assert_episodes(&agent, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_is_away_and_is_not_stormed() {
    let _others = not_alone().await;
    let redis = Redis::start_with(&["--maxmemory-policy", "noeviction"]).await;
    let agent = Agent::start(&config(&redis.url(), 100_000, 1)).await;
    until_up(&agent).await;
    let paths = ["/allow/x", "/deny/x", "/local/x"];
    let callers = Callers::start(&[&agent], 6, &paths, PAUSE).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    until_down(&agent).await;
    let (begun, evals, sets) = (Instant::now(), redis.calls("evalsha").await, redis.calls("set").await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (more_evals, more_sets) = (redis.calls("evalsha").await - evals, redis.calls("set").await - sets);
    // A refused write is not counted as a call by every Redis, so these are upper bounds: no charge, two probes a second.
    assert_eq!(more_evals, 0, "nobody asks");
    assert!(more_sets <= 3 * begun.elapsed().as_secs() * 2 + 6, "{more_sets} probes");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let took = until_up(&agent).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    assert!(count(&answers, |answer| answer.degraded) > 100);
    assert_episodes(&agent, 1).await;
}

/// Two agents, and the limit spent in each life of Redis: that is the bound, once, and with `local` the shares as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_gives_each_limit_out_once_more_and_no_more() {
    let _others = not_alone().await;
    const LIMIT: u64 = 50;
    let mut redis = Redis::start().await;
    let config = config(&redis.url(), LIMIT, 2);
    let (first, second) = tokio::join!(Agent::start(&config), Agent::start(&config));
    let both = [&first, &second];
    for agent in both {
        until_up(agent).await;
    }
    let callers = Callers::start(&both, 6, &["/allow/x", "/deny/x", "/local/x"], PAUSE).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    redis.program.kill();
    for agent in both {
        until_down(agent).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let back = Redis::start_on(redis.port).await;
    for agent in both {
        let took = until_up(agent).await;
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let answers = callers.stop().await;
    for agent in both {
        assert_honest(agent, &answers).await;
        assert_episodes(agent, 1).await;
    }
    for mode in MODES {
        let path = format!("/{mode}/x");
        let counted = count(&answers, |answer| answer.path == path && answer.was_counted());
        assert_eq!(counted, 2 * LIMIT, "{mode}: once in each life of Redis");
    }
    let shares = count(&answers, |answer| answer.path == "/local/x" && answer.degraded && answer.verdict == "allow");
    assert_eq!(shares, LIMIT, "each agent its half");
    drop(back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_writes_each_second_and_is_killed_forgets_no_more_than_that_second() {
    let _others = not_alone().await;
    const LIMIT: u64 = 400;
    let data = folder();
    let keeps = ["--dir", data.path().to_str().unwrap(), "--appendonly", "yes", "--appendfsync", "everysec"];
    let mut redis = Redis::start_with(&keeps).await;
    let agent = Agent::start(&config(&redis.url(), LIMIT, 1)).await;
    until_up(&agent).await;
    let callers = Callers::start(&[&agent], 4, &["/deny/x"], Duration::from_millis(20)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let killed = Instant::now();
    redis.program.kill();
    until_down(&agent).await;
    let back = Redis::start_on_with(redis.port, &keeps).await;
    until_up(&agent).await;
    let mut answers = callers.stop().await;
    // And whatever is left of it.
    let mut caller = Caller::of(&agent).await;
    loop {
        let answer = caller.ask("/deny/x").await;
        answers.push(answer.clone());
        if answer.verdict != "allow" {
            assert_eq!(answer.reason, "limit_exceeded", "{answer:?}");
            break;
        }
    }
    assert_honest(&agent, &answers).await;
    let admitted = count(&answers, |answer| answer.was_counted());
    let last_second = killed - Duration::from_secs(1)..killed + TIMEOUT;
    let in_doubt = count(&answers, |answer| answer.was_counted() && last_second.contains(&answer.asked));
    assert!(in_doubt > 0 && in_doubt < LIMIT / 2, "{in_doubt}");
    assert!(admitted <= LIMIT + in_doubt, "{admitted} of {LIMIT}, and {in_doubt} in the last second");
    // A charge that was made and not answered is charged all the same; four can be under way.
    assert!(admitted >= LIMIT - 4, "{admitted} of {LIMIT}");
    assert_episodes(&agent, 1).await;
    drop(back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_for_five_seconds_costs_the_first_their_timeout_and_nobody_else() {
    let _others = not_alone().await;
    const CALLERS: usize = 6;
    let redis = Redis::start().await;
    let agent = Agent::start(&config(&redis.url(), 100_000, 1)).await;
    until_up(&agent).await;
    let callers = Callers::start(&[&agent], CALLERS, &["/allow/x", "/deny/x", "/local/x"], PAUSE).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis.program.signal("STOP");
    let stopped = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(agent.metric("tollgate_store_up").await, 0.0);
    let continued = Instant::now();
    redis.program.signal("CONT");
    let took = until_up(&agent).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    assert_episodes(&agent, 1).await;

    let meanwhile: Vec<_> = answers.into_iter().filter(|answer| (stopped..continued).contains(&answer.asked)).collect();
    assert!(meanwhile.len() > 1000 && meanwhile.iter().all(|answer| answer.degraded), "{}", meanwhile.len());
    // Three failures are what it takes, and everybody else was asking already when the third was learnt of.
    let waited = count(&meanwhile, |answer| answer.took >= TIMEOUT / 2);
    assert!((1..=CALLERS as u64 + 3).contains(&waited), "{waited} waited");
    assert!(meanwhile.iter().all(|answer| answer.took < TIMEOUT * 3), "and not long");
    let mut others: Vec<_> = meanwhile.iter().map(|answer| answer.took).filter(|took| *took < TIMEOUT / 2).collect();
    others.sort();
    let typical = others[others.len() / 2];
    assert!(typical < TIMEOUT / 10, "{typical:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_room_for_another_connection_is_away_for_new_agents_only() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let config = config(&redis.url(), 1000, 2);
    let first = Agent::start(&config).await;
    until_up(&first).await;
    let mut caller = Caller::of(&first).await;
    assert_eq!(caller.ask("/deny/x").await.remaining, Some(999));
    // All connections of the first agent are open by now; ours is there to make room again.
    first.ready().await;
    let mut operator = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
    operator.write_all(b"CONFIG SET maxclients 1\r\n").await.unwrap();
    operator.read_exact(&mut [0; 5]).await.unwrap();

    let second = Agent::start(&config).await;
    let mut late = Caller::of(&second).await;
    for (mode, verdict) in MODES.into_iter().zip(["allow", "error", "allow"]) {
        let answer = late.ask(&format!("/{mode}/x")).await;
        assert_eq!((answer.verdict.as_str(), answer.degraded), (verdict, true), "{answer:?}");
    }
    until_down(&second).await;
    // Redis says why and closes. Whether that is read depends on what was said to it first: a reset overtakes it.
    let log = second.program.log();
    assert!(["max number of clients", "cannot be reached"].iter().any(|why| log.contains(why)), "{log}");
    let answer = caller.ask("/deny/x").await;
    assert_eq!((answer.remaining, answer.degraded), (Some(998), false), "who is connected goes on");

    operator.write_all(b"CONFIG SET maxclients 100\r\n").await.unwrap();
    let took = until_up(&second).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(late.ask("/deny/x").await.remaining, Some(997));
    assert_episodes(&first, 0).await;
    assert_episodes(&second, 1).await;
}
