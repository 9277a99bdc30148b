//! Parts that stop under traffic, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::stack::{Agent, App, Haproxy, Redis, Stack, config, shared_idp};
use crate::support::{client, eventually};

/// Clients that ask one after the other until they are stopped, and keep what they got.
struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<(u16, String)>>>,
}

impl Traffic {
    fn start(haproxy: &Haproxy, path: &str, token: &str, clients: usize) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| {
                let (url, token, stop) = (haproxy.url(path), token.to_owned(), Arc::clone(&stop));
                let client = client();
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let response = client.get(&url).bearer_auth(&token).send().await;
                        let (status, body) = match response {
                            Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
                            Err(error) => (0, error.to_string()),
                        };
                        got.push((status, body));
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    got
                })
            })
            .collect();
        Traffic { stop, clients }
    }

    async fn stop(self) -> Vec<(u16, String)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut got = Vec::new();
        for client in self.clients {
            got.extend(client.await.unwrap());
        }
        got
    }
}

fn count(got: &[(u16, String)], status: u16) -> usize {
    got.iter().filter(|(seen, _)| *seen == status).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_stops_and_comes_back_under_traffic() {
    let idp = shared_idp().await;
    let alice = idp.mint(json!({ "user": "alice" })).await;
    for (on_failure, expected) in [("allow", 200), ("deny", 503), ("local", 200)] {
        let mut redis = Redis::start().await;
        let more = format!("counters: {{ redis: \"{}\" }}\n", redis.url());
        let limit = format!("rate: 1000000/1h\n    on_failure: {on_failure}");
        let stack = Stack::start(&config(&idp.issuer, &more).replace("rate: 3/1h", &limit)).await;
        assert_eq!(stack.haproxy.get_as(&alice, "/limited/x").await.status, 200);

        let traffic = Traffic::start(&stack.haproxy, "/limited/x", &alice, 8);
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.program.kill();
        eventually("the agent sees it", || async {
            (stack.agent.metric("tollgate_store_up").await == 0.0).then_some(())
        })
        .await;
        assert_eq!(stack.agent.admin("/readyz").await.0, 503);
        // While it is down each limit does what its config says, and says that it did.
        let answer = stack.haproxy.get_as(&alice, "/limited/x").await;
        assert_eq!(answer.status, expected, "{on_failure}: {answer:?}");
        assert_eq!(answer.header("ratelimit"), None, "a count that is not the shared one is not shown");
        if on_failure == "deny" {
            assert_eq!(answer.reason(), "store_unavailable");
        }
        let back = Redis::start_on(redis.port).await;
        stack.agent.ready().await;
        eventually("it counts again", || async {
            let answer = stack.haproxy.get_as(&alice, "/limited/x").await;
            (answer.status == 200 && answer.header("ratelimit").is_some()).then_some(())
        })
        .await;
        let got = traffic.stop().await;
        let others: Vec<_> = got.iter().filter(|(status, _)| ![200, expected].contains(status)).collect();
        assert!(others.is_empty(), "{on_failure}: {others:?}");
        assert_eq!(stack.agent.metric("tollgate_decisions_late_total").await, 0.0, "no NOTIFY passed its deadline");
        let log = stack.agent.program.log();
        for said in ["Redis does not answer", "revocations cannot be read from Redis"] {
            let episodes = log.lines().filter(|line| line.contains("\"WARN\"") && line.contains(said)).count();
            assert!((1..=2).contains(&episodes), "one line an episode, not one a request: {episodes} of {said}");
        }
        drop(back);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_hangs_delays_nobody_beyond_the_deadline() {
    let idp = shared_idp().await;
    let alice = idp.mint(json!({ "user": "alice" })).await;
    let redis = Redis::start().await;
    let more = format!("counters: {{ redis: \"{}\" }}\n", redis.url());
    let stack = Stack::start(&config(&idp.issuer, &more).replace("rate: 3/1h", "rate: 2/1h")).await;
    redis.program.signal("STOP");
    // Each agent enforces its share meanwhile: with one agent that is the whole limit.
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(stack.haproxy.get_as(&alice, "/limited/x").await.status);
    }
    redis.program.signal("CONT");
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429]);
    assert_eq!(stack.agent.metric("tollgate_decisions_late_total").await, 0.0);
    stack.agent.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_lets_nobody_in_and_comes_back() {
    let idp = shared_idp().await;
    let alice = idp.mint(json!({ "user": "alice" })).await;
    let settings = config(&idp.issuer, "");
    let mut stack = Stack::start(&settings).await;
    let traffic = Traffic::start(&stack.haproxy, "/admin/x", &alice, 8);
    tokio::time::sleep(Duration::from_millis(300)).await;
    stack.agent.program.kill();
    let before = eventually("requests are refused", || async {
        let answer = stack.haproxy.get_as(&alice, "/admin/x").await;
        (answer.status == 503).then_some(stack.app.count().await)
    })
    .await;
    for _ in 0..20 {
        let answer = stack.haproxy.get_as(&alice, "/admin/x").await;
        assert_eq!((answer.status, answer.reason()), (503, "agent_unreachable"), "{answer:?}");
    }
    // Not even what anyone may do.
    assert_eq!(stack.haproxy.get("/healthz", &[]).await.status, 503);
    assert_eq!(stack.app.count().await, before, "nothing reached the application");

    let spop = stack.agent.spop.clone();
    stack.agent = Agent::start_on(&settings, &spop).await;
    stack.agent.ready().await;
    eventually("the agent answers again", || async {
        (stack.haproxy.get_as(&alice, "/admin/x").await.status == 200).then_some(())
    })
    .await;
    let got = traffic.stop().await;
    assert!(count(&got, 200) > 0 && count(&got, 503) > 0);
    assert_eq!(count(&got, 200) + count(&got, 503), got.len(), "nothing but served and refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_agents_drains_under_traffic() {
    let idp = shared_idp().await;
    let alice = idp.mint(json!({ "user": "alice" })).await;
    let settings = config(&idp.issuer, "");
    let (mut first, second, app) = tokio::join!(Agent::start(&settings), Agent::start(&settings), App::start());
    let haproxy = Haproxy::start(&[&first, &second], &[app.port]).await;
    first.ready().await;
    second.ready().await;
    haproxy.answering().await;
    let traffic = Traffic::start(&haproxy, "/admin/x", &alice, 8);
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.program.signal("TERM");
    assert_eq!(first.program.wait(Duration::from_secs(10)), Some(0), "a drain ends well");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let got = traffic.stop().await;
    let lost = got.len() - count(&got, 200);
    let log = haproxy.program.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("\"status\":503")).collect();
    assert!(lost == 0, "{lost} of {}: {}", got.len(), lines.join("\n"));
    assert!(!first.decisions().is_empty() && !second.decisions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_costs_no_request() {
    let idp = shared_idp().await;
    let alice = idp.mint(json!({ "user": "carol" })).await;
    let settings = config(&idp.issuer, "");
    let (agent, mut first, second) = tokio::join!(Agent::start(&settings), App::start(), App::start());
    let haproxy = Haproxy::start(&[&agent], &[first.port, second.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    let traffic = Traffic::start(&haproxy, "/v1/x", &alice, 8);
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.program.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let port = first.port;
    first = App::start_on(port).await;
    eventually("the worker is taken back", || async { (first.count().await > 0).then_some(()) }).await;
    let got = traffic.stop().await;
    let lost: Vec<_> = got.iter().filter(|(status, _)| *status != 200).collect();
    assert!(lost.is_empty(), "{} of {}: {:?}", lost.len(), got.len(), lost.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_is_in_force_at_once_and_a_bad_one_changes_nothing() {
    let idp = shared_idp().await;
    let bob = idp.mint(json!({ "user": "bob" })).await;
    let settings = config(&idp.issuer, "");
    let stack = Stack::start(&settings).await;
    // Spent before the reload: a reload is no fresh budget.
    for status in [200, 200, 200, 429] {
        assert_eq!(stack.haproxy.get_as(&bob, "/limited/x").await.status, status);
    }
    assert_eq!(stack.haproxy.get_as(&bob, "/admin/x").await.status, 403);

    let traffic = Traffic::start(&stack.haproxy, "/v1/x", &bob, 4);
    std::fs::write(&stack.agent.config, settings.replace("groups: [ops]", "groups: [opps]")).unwrap();
    stack.agent.program.signal("HUP");
    eventually("the bad config is refused", || async {
        (stack.agent.metric("tollgate_config_last_reload_ok").await == 0.0).then_some(())
    })
    .await;
    assert!(stack.agent.program.log().contains("did you mean `ops`"), "{}", stack.agent.program.log());
    assert_eq!(stack.haproxy.get_as(&bob, "/admin/x").await.status, 403);

    std::fs::write(&stack.agent.config, settings.replace("groups: [ops]", "groups: [paid]")).unwrap();
    stack.agent.program.signal("HUP");
    eventually("the good config is in force", || async {
        (stack.haproxy.get_as(&bob, "/admin/x").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(stack.agent.metric("tollgate_config_last_reload_ok").await, 1.0);
    assert_eq!(stack.haproxy.get_as(&bob, "/limited/x").await.status, 429);
    let got = traffic.stop().await;
    assert_eq!(count(&got, 200), got.len(), "no request noticed either");
}
