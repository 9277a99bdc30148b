//! Kinds of limit that need the response, or that count what is refused, through each HAProxy line.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::each_line;
use crate::support::eventually;
use crate::support::generated::generate;
use crate::support::stack::{Agent, Haproxy, Redis};
use crate::support::web::{self, Reply};

each_line! { places_are_given_back_by_whichever_agent_hears_of_it, the_response_says_what_it_cost }

/// An application whose answers to `/held/…` wait until the test lets them go, and which says what each cost.
struct Slow {
    port: u16,
    go: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Slow {
    async fn start() -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let go = Arc::new(Semaphore::new(0));
        let all = Arc::clone(&go);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(BufReader::new(stream), Arc::clone(&all)));
            }
        });
        Slow { port, go, task }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: BufReader<tokio::net::TcpStream>, go: Arc<Semaphore>) {
    let mut head = String::new();
    while stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        if head.starts_with("GET /held/") {
            go.acquire().await.unwrap().forget();
        }
        // `/tokens/7` costs seven; `/tokens/` says nothing.
        let cost = head.split(' ').nth(1).and_then(|path| path.strip_prefix("/tokens/")).unwrap_or_default();
        let cost = if cost.is_empty() { String::new() } else { format!("X-Tokens: {cost}\r\n") };
        let reply = format!("HTTP/1.1 200 OK\r\n{cost}Content-Length: 3\r\n\r\nok\n");
        if stream.get_mut().write_all(reply.as_bytes()).await.is_err() {
            return;
        }
        head.clear();
    }
}

/// Two agents and one Redis behind HAProxy.
async fn two_agents(settings: &str, line: &str, program: &str) -> (Haproxy, [Agent; 2], Slow, Redis) {
    let (redis, app) = tokio::join!(Redis::start(), Slow::start());
    // Time enough that a busy machine is no outage.
    let counters = format!("counters: {{ redis: \"{}\", agents: 2, timeout: 150ms }}\n", redis.url());
    let settings = format!("spop: {{ deadline: 200ms }}\n{counters}{settings}");
    let files = generate(&settings, line);
    let agents = [Agent::start(&settings).await, Agent::start(&settings).await];
    let addresses = [agents[0].spop.as_str(), &agents[1].spop];
    let haproxy = Haproxy::start_file(&files.cfg, program, &addresses, &[app.port], &[]).await;
    for agent in &agents {
        agent.ready().await;
    }
    let health =
        || async { web::get(haproxy.port, "/healthz", &[]).await.is_ok_and(|r| r.status == 200).then_some(()) };
    eventually("an agent answers through HAProxy", health).await;
    (haproxy, agents, app, redis)
}

async fn get(haproxy: &Haproxy, path: &str) -> Reply {
    web::get(haproxy.port, path, &[]).await.unwrap()
}

async fn places_are_given_back_by_whichever_agent_hears_of_it(line: &str, program: &str) {
    let settings = "
limits: { places: { key: [host], concurrent: 3, lease: 1h } }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: held, path: /held/**, allow: anyone, limits: [places] }
";
    let (haproxy, agents, app, redis) = two_agents(settings, line, program).await;
    // Round and round among both agents: who takes a place is seldom who gives it back.
    for round in 0..4 {
        let held: Vec<_> = (0..3)
            .map(|_| {
                let port = haproxy.port;
                tokio::spawn(async move { web::get(port, "/held/x", &[]).await.unwrap().status })
            })
            .collect();
        let full = || async {
            let reply = get(&haproxy, "/held/y").await;
            (reply.status == 429).then_some(reply)
        };
        // Whoever comes before all three are in takes a place too, and waits for its response: let nobody.
        let taken = || async { (held_places(&redis).await == 3).then_some(()) };
        eventually("three are in", taken).await;
        let refused = full().await.unwrap_or_else(|| panic!("round {round}: three places for four"));
        assert_eq!(refused.field("retry-after"), Some("1"));
        assert!(refused.body.contains("limit_exceeded"), "{refused:?}");
        app.go.add_permits(3);
        for held in held {
            assert_eq!(held.await.unwrap(), 200);
        }
        let empty = || async { (held_places(&redis).await == 0).then_some(()) };
        eventually("all places were given back", empty).await;
    }
    let passed: f64 = agents[0].metric("tollgate_limits_exceeded_total{limit=\"places\",shadow=\"false\"}").await
        + agents[1].metric("tollgate_limits_exceeded_total{limit=\"places\",shadow=\"false\"}").await;
    assert!((4.0..5.0).contains(&passed), "{passed} refused");
}

/// How many are in, by the one counter there is.
async fn held_places(redis: &Redis) -> usize {
    let key = redis.ask(&["KEYS", "tg:places:*"]).await;
    match key.lines().next() {
        Some(key) if !key.is_empty() => redis.ask(&["ZCARD", key]).await.trim().parse().unwrap(),
        _ => 0,
    }
}

async fn the_response_says_what_it_cost(line: &str, program: &str) {
    let settings = "
limits: { tokens: { key: [host], rate: 100/1h, cost: response.header(X-Tokens), reserve: 10 } }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: tokens, path: /tokens/**, allow: anyone, limits: [tokens] }
";
    let (haproxy, _agents, _app, redis) = two_agents(settings, line, program).await;
    let mut left = 100;
    for (path, cost) in [("/tokens/30", 30), ("/tokens/0", 0), ("/tokens/", 10), ("/tokens/-5", 10), ("/tokens/4", 4)] {
        // What the last response cost is told in the background, a moment after it.
        let settled = || async {
            let key = redis.ask(&["KEYS", "tg:tokens:*"]).await;
            let stored = redis.ask(&["GET", key.lines().next().unwrap_or_default()]).await;
            (spent(&stored) == 100 - left).then_some(())
        };
        eventually("the last response is settled", settled).await;
        let reply = get(&haproxy, path).await;
        let field = reply.field("ratelimit").unwrap().to_owned();
        assert!(field.starts_with(&format!("\"tokens\";r={};", left - 10)), "{path}: {field}");
        left -= cost;
    }
    assert_eq!(left, 46);
    // Far more than is left: it is charged, and nothing passes until the debt is paid.
    assert_eq!(get(&haproxy, "/tokens/5000").await.status, 200);
    let refused = || async {
        let reply = get(&haproxy, "/tokens/0").await;
        (reply.status == 429).then_some(reply)
    };
    let refused = eventually("the debt is charged", refused).await;
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    // A burst of debt and what is reserved, an hour and six minutes; less what was reserved for a request that slipped in
    // before the debt was told, and was given back after.
    assert!((3540..=3960).contains(&wait), "{wait}");
}

/// How much of a hundred an hour a stored arrival time says was spent, rounded: 36 seconds each.
fn spent(stored: &str) -> u64 {
    let Some(us) = stored.split(':').next().and_then(|us| us.trim().parse::<u64>().ok()) else { return 0 };
    let now_us = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    (us.saturating_sub(now_us) + 18_000_000) / 36_000_000
}

#[tokio::test]
async fn guesses_are_counted_and_then_nobody_from_there_gets_in() {
    let settings = "
counters: { agents: 1 }
api_keys: { partners: { file: KEYS } }
limits: { guesses: { key: [src], rate: 3/1h, count: denied, ban: 15m } }
rules:
  - { name: health, path: /healthz, allow: anyone }
  - { name: api, path: /v1/**, allow: authenticated, limits: [guesses] }
";
    let folder = crate::support::folder();
    let keys = folder.path().join("partners.keys");
    let arguments = ["api-key", "new", "--file", keys.to_str().unwrap(), "--user", "alice", "--expires", "1d"];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let key = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    let settings = settings.replace("KEYS", keys.to_str().unwrap());
    let (agent, app) = (Agent::start(&settings).await, Slow::start().await);
    let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;
    let by = async |key: &str| {
        let reply = web::get(haproxy.port, "/v1/x", &[("x-api-key", key)]).await.unwrap();
        (reply.status, reply.field("retry-after").map(|wait| wait.parse::<u64>().unwrap()))
    };
    // Another one, whatever the last letter of the real one is.
    let last = if key.ends_with('x') { 'y' } else { 'x' };
    let guess = format!("{}{last}", &key[..key.len() - 1]);
    for _ in 0..3 {
        assert_eq!(by(&key).await, (200, None), "a good one is charged nothing");
        // No credential at all is no guess.
        assert_eq!(web::get(haproxy.port, "/v1/x", &[]).await.unwrap().status, 401);
        assert_eq!(by(&guess).await, (401, None));
    }
    for key in [&key, &guess] {
        let (status, wait) = by(key).await;
        assert_eq!(status, 429, "right or wrong, nobody can tell");
        assert!(wait.is_some_and(|wait| (880..=900).contains(&wait)), "{wait:?}");
    }
}
