//! Limits, counted in memory and in Redis.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::stack::{Agent, App, Haproxy, Redis, Stack, config, shared_idp};

#[tokio::test]
async fn over_the_limit_is_429_with_a_retry_after_that_is_right() {
    let idp = shared_idp().await;
    let redis = Redis::start().await;
    // Time enough that a busy machine is no outage.
    let shared = format!("counters: {{ redis: \"{}\", timeout: 150ms }}\nspop: {{ deadline: 200ms }}\n", redis.url());
    for more in ["", &shared] {
        let stack = Stack::start(&config(&idp.issuer, more)).await;
        let token = idp.mint(json!({ "user": "alice" })).await;
        for remaining in [2, 1, 0] {
            let answer = stack.haproxy.get_as(&token, "/limited/x").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let limit = answer.header("ratelimit").unwrap();
            assert!(limit.starts_with(&format!("\"three\";r={remaining};t=")), "{limit}");
            assert_eq!(answer.header("ratelimit-policy"), Some("\"three\";q=3;w=3600"));
        }
        let answer = stack.haproxy.get_as(&token, "/limited/x").await;
        assert_eq!((answer.status, answer.reason()), (429, "limit_exceeded"));
        // Three an hour from idle: the next in twenty minutes, less the second or two that this took.
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1180..=1200).contains(&wait), "{wait}");
        assert!(answer.header("ratelimit").unwrap().starts_with("\"three\";r=0;t="));
        // Another user has a budget of their own, and another path is not limited.
        let other = idp.mint(json!({ "user": "bob" })).await;
        assert_eq!(stack.haproxy.get_as(&other, "/limited/x").await.status, 200);
        assert_eq!(stack.haproxy.get_as(&token, "/v1/x").await.status, 200);
        assert_eq!(stack.app.count().await, 5);
    }
}

#[tokio::test]
async fn two_haproxies_and_two_agents_share_one_count_exactly() {
    let idp = shared_idp().await;
    let (redis, app) = tokio::join!(Redis::start(), App::start());
    // Time enough that a busy machine is no outage: then each agent would enforce its share as well.
    let patient = "spop: { deadline: 200ms }\n";
    let counters = format!("counters: {{ redis: \"{}\", agents: 2, timeout: 150ms }}\n", redis.url());
    let config = config(&idp.issuer, &format!("{counters}{patient}")).replace("rate: 3/1h", "rate: 40/1h");
    let (first, second) = tokio::join!(Agent::start(&config), Agent::start(&config));
    let one = Haproxy::start(&[&first, &second], &[app.port]).await;
    let two = Haproxy::start(&[&second, &first], &[app.port]).await;
    for agent in [&first, &second] {
        agent.ready().await;
    }
    one.answering().await;
    two.answering().await;
    let token = idp.mint(json!({ "user": "alice" })).await;
    let answers = join_all((0..120).map(|n| {
        let haproxy = if n % 2 == 0 { &one } else { &two };
        haproxy.get_as(&token, "/limited/x")
    }))
    .await;
    let allowed = answers.iter().filter(|answer| answer.status == 200).count();
    let throttled = answers.iter().filter(|answer| answer.status == 429).count();
    assert_eq!((allowed, throttled), (40, 80));
    assert_eq!(app.count().await, 40, "counted where it matters");
    let decided = |agent: &Agent| agent.decisions().iter().filter(|line| line["rule"] == "limited").count();
    assert!(decided(&first) > 0 && decided(&second) > 0, "both agents took part");
}

#[tokio::test]
async fn a_tier_replaces_the_base_rate_and_the_best_one_counts() {
    let idp = shared_idp().await;
    let tiers = "rate: 1/1h\n    tiers: { paid: 2/1h, ops: unlimited }";
    let stack = Stack::start(&config(&idp.issuer, "").replace("rate: 3/1h", tiers)).await;
    for (user, allowed) in [("carol", 1), ("bob", 2), ("alice", 5)] {
        let token = idp.mint(json!({ "user": user })).await;
        let mut passed = 0;
        for _ in 0..5 {
            passed += usize::from(stack.haproxy.get_as(&token, "/limited/x").await.status == 200);
        }
        assert_eq!(passed, allowed, "{user}");
    }
}
