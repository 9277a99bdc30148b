//! The way to the server fails.

use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Caller, Callers, MODES, TIMEOUT, assert_episodes, assert_honest, config, count, until_down, until_up};
use crate::support::redis_relay::{Fate, RedisRelay};
use crate::support::stack::{Agent, Redis};
use crate::support::{free_port, not_alone};

/// 50 ms and up to 50 more or less, by a timeout that has room for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_slow_but_in_time_is_no_outage() {
    let _others = not_alone().await;
    const LIMIT: u64 = 60;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/x").await;
    let patient = config(&relay.url(), LIMIT, 1).replace("timeout: 100ms", "timeout: 350ms");
    let agent = Agent::start(&patient).await;
    until_up(&agent).await;
    relay.delay_ms(Some((0, 100)));
    let callers = Callers::start(&[&agent], 6, &["/deny/x"], Duration::from_millis(5)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    assert_episodes(&agent, 0).await;
    assert_eq!(count(&answers, |answer| answer.degraded), 0);
    assert_eq!(count(&answers, |answer| answer.was_counted()), LIMIT);
    let waited = count(&answers, |answer| answer.took >= Duration::from_millis(20));
    assert!(waited * 2 > LIMIT, "{waited} of {} waited: there was no delay", answers.len());
}

/// With the shipped timeout of 10 ms: next to none of the answers come in time, and one that does is no end of the outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_network_is_one_outage_and_not_a_new_one_each_second() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/x").await;
    let agent = Agent::start(&config(&relay.url(), 100_000, 1).replace("timeout: 100ms", "timeout: 10ms")).await;
    until_up(&agent).await;
    let before = agent.metric("tollgate_store_outages_total").await;
    relay.delay_ms(Some((0, 100)));
    let callers = Callers::start(&[&agent], 4, &["/allow/x", "/deny/x", "/local/x"], Duration::from_millis(5)).await;
    until_down(&agent).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    let outages = agent.metric("tollgate_store_outages_total").await - before;
    assert_eq!(outages, 1.0, "a breaker that flaps");
    // Nobody waited for longer than an answer may take; nearly all for nothing.
    let waited = count(&answers, |answer| answer.took >= Duration::from_millis(10));
    assert!(waited * 20 < answers.len() as u64, "{waited} of {} waited", answers.len());
    relay.delay_ms(None);
    until_up(&agent).await;
}

/// Counters that stand apart by more than the test charges, so that an answer which is another question's would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_belongs_to_nobody() {
    let _others = not_alone().await;
    const CALLERS: usize = 8;
    const APART: u64 = 20;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/local/").await;
    let agent = Agent::start(&config(&relay.url(), 1000, 1)).await;
    until_up(&agent).await;
    let paths: Vec<_> = (0..CALLERS).map(|number| format!("/local/{number}")).collect();
    let mut callers = Vec::new();
    let mut asked = [0; CALLERS];
    for (number, path) in paths.iter().enumerate() {
        let mut caller = Caller::of(&agent).await;
        while asked[number] < APART * number as u64 {
            assert!(!caller.ask(path).await.degraded);
            asked[number] += 1;
        }
        callers.push(caller);
    }
    let mut answers = Vec::new();
    for cut in [0, 1, 3, 3, 7] {
        let connections = relay.connections();
        relay.next_answers([Fate::CutAfter(cut)]);
        let all = callers.iter_mut().zip(&paths).map(|(caller, path)| caller.ask(path));
        let round = futures_util::future::join_all(all).await;
        assert!(round.iter().any(|answer| answer.degraded), "somebody's answer was cut");
        answers.extend(round);
        for (number, (caller, path)) in callers.iter_mut().zip(&paths).enumerate() {
            answers.push(caller.ask_until_counted(path).await);
            asked[number] = answers.iter().filter(|answer| answer.path == *path).count() as u64;
        }
        assert!(relay.connections() > connections, "what was cut is not read on");
    }
    assert_honest(&agent, &answers).await;
    for answer in answers.iter().filter(|answer| !answer.degraded) {
        let number = paths.iter().position(|path| *path == answer.path).unwrap();
        let most = 1000 - APART * number as u64;
        let remaining = answer.remaining.unwrap();
        // Ten questions about each, or a few more while it was reconnected.
        assert!((most - APART..most).contains(&remaining), "another's answer: {answer:?}");
        assert!(remaining >= most - asked[number], "{answer:?}: charged twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_is_refused_and_the_next_one_is_right() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/local/").await;
    let agent = Agent::start(&config(&relay.url(), 1000, 1)).await;
    until_up(&agent).await;
    let mut caller = Caller::of(&agent).await;
    assert_eq!(caller.ask("/local/x").await.remaining, Some(999));
    let nested = "*1\r\n".repeat(100_000);
    let garbage: [&[u8]; 16] = [
        b"+OK\r\n",
        b":1\r\n",
        b":-9223372036854775808\r\n",
        b"$-1\r\n",
        b"$2\r\nno\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*5\r\n:1\r\n:2\r\n:0\r\n:1\r\n:2\r\n",
        b"*5\r\n:1\r\n:-2\r\n:0\r\n:1\r\n:1\r\n",
        b"*5\r\n+a\r\n+b\r\n+c\r\n+d\r\n+e\r\n",
        b"*9\r\n:1\r\n:2\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n:1\r\n:2\r\n",
        b"-WRONGTYPE Operation against a key\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0\xff\xfe\r\n",
        b"*4294967295\r\n",
        nested.as_bytes(),
    ];
    let mut counted = 1;
    for answer in garbage {
        let shown = answer[..answer.len().min(40)].escape_ascii();
        relay.next_answers([Fate::Becomes(answer.to_vec())]);
        let got = caller.ask("/local/x").await;
        assert_eq!((got.verdict.as_str(), got.degraded), ("allow", true), "{shown}: {got:?}");
        let next = caller.ask_until_counted("/local/x").await;
        counted += 1;
        // What was sent may have been charged without an answer, and nothing else was.
        let charged = 1000 - next.remaining.unwrap();
        assert!((counted..=relay.marked()).contains(&charged), "{shown}: {charged}, {counted} answered");
    }
    assert_eq!(agent.metric("tollgate_panics_total").await, 0.0);
}

/// A length is a promise, and nothing is set aside for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_two_gibibytes_is_not_waited_for() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/local/").await;
    let agent = Agent::start(&config(&relay.url(), 1000, 1)).await;
    until_up(&agent).await;
    let mut caller = Caller::of(&agent).await;
    assert_eq!(caller.ask("/local/x").await.remaining, Some(999));
    for head in ["$2147483647\r\n", "*2147483647\r\n", "$2147483647\r\nx"] {
        let before = peak_kib(&agent);
        relay.next_answers([Fate::Becomes(head.as_bytes().to_vec())]);
        let answer = caller.ask("/local/x").await;
        assert!(answer.degraded && answer.took < TIMEOUT * 3, "{answer:?}");
        caller.ask_until_counted("/local/x").await;
        let grown = (peak_kib(&agent) - before) / 1024;
        assert!(grown <= 32, "{head:?}: {grown} MiB");
    }
    assert_eq!(agent.metric("tollgate_panics_total").await, 0.0);
}

/// Nor is what follows gathered without an end: no answer that an agent asks for has a tenth of a mebibyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_is_not_gathered() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/local/").await;
    let agent = Agent::start(&config(&relay.url(), 1000, 1)).await;
    until_up(&agent).await;
    let mut caller = Caller::of(&agent).await;
    assert_eq!(caller.ask("/local/x").await.remaining, Some(999));
    for head in ["$2147483647\r\n", "+", "*2147483647\r\n$2147483647\r\n"] {
        let before = peak_kib(&agent);
        relay.next_answers([Fate::Floods(head.as_bytes().to_vec(), 256 << 20)]);
        let answer = caller.ask("/local/x").await;
        assert!(answer.degraded && answer.took < TIMEOUT * 3, "{answer:?}");
        caller.ask_until_counted("/local/x").await;
        let (grown, taken) = ((peak_kib(&agent) - before) / 1024, relay.flooded() >> 20);
        assert!(grown <= 32, "{head:?}: {grown} MiB, after {taken} MiB were sent");
    }
    assert_eq!(agent.metric("tollgate_panics_total").await, 0.0);
}

/// The most memory that the agent ever held.
fn peak_kib(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_whose_answer_is_lost_is_made_once_and_not_tried_again() {
    let _others = not_alone().await;
    const LIMIT: u64 = 40;
    let redis = Redis::start().await;
    let relay = RedisRelay::start(redis.port, "/deny/").await;
    let agent = Agent::start(&config(&relay.url(), LIMIT, 1)).await;
    until_up(&agent).await;
    let mut caller = Caller::of(&agent).await;
    let mut answers = vec![caller.ask("/deny/x").await];
    // The first is sent again where Redis did not know the script.
    let first = relay.marked();
    let lost = 5;
    for _ in 0..lost {
        relay.next_answers([Fate::CutAfter(0)]);
        let answer = caller.ask("/deny/x").await;
        assert_eq!(answer.reason, "store_unavailable", "{answer:?}");
        answers.push(answer);
        for _ in 0..3 {
            answers.push(caller.ask_until_counted("/deny/x").await);
        }
    }
    while answers.last().unwrap().verdict != "error" && answers.last().unwrap().reason != "limit_exceeded" {
        answers.push(caller.ask("/deny/x").await);
    }
    assert_honest(&agent, &answers).await;
    assert_eq!(relay.fates_left(), 0);
    // The caller was charged for what was lost; nobody was charged more, and nothing was charged twice.
    assert_eq!(count(&answers, |answer| answer.was_counted()), LIMIT - lost);
    assert_eq!(relay.marked() - first, LIMIT, "each was sent once, and the one beyond the limit");
}

/// The kernel answers no SYN for a listener whose queue is full, which is what a firewall that drops them does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_answers_are_few_and_cost_no_one_but_the_first() {
    let _others = not_alone().await;
    let port = free_port();
    let (full, fillers) = black_hole(port).await;
    let agent = Agent::start(&config(&format!("redis://127.0.0.1:{port}"), 100_000, 1)).await;
    let paths = ["/allow/x", "/deny/x", "/local/x"];
    let callers = Callers::start(&[&agent], 6, &paths, Duration::from_millis(5)).await;
    until_down(&agent).await;
    let known = Instant::now();
    let mut most = 0;
    while known.elapsed() < Duration::from_secs(4) {
        most = most.max(connecting(port));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One for the counters, and two each for revocations and grants.
    assert!((1..=6).contains(&most), "{most} connections under way");
    drop((full, fillers));
    let redis = Redis::start_on(port).await;
    let took = until_up(&agent).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    let answers = callers.stop().await;
    assert_honest(&agent, &answers).await;
    let late = count(&answers, |answer| answer.asked > known && answer.took >= TIMEOUT / 2 && answer.degraded);
    assert!(late <= 6, "{late} waited although it was known");
    for mode in MODES {
        assert!(!callers_answer(&agent, mode).await.degraded);
    }
    drop(redis);
}

async fn callers_answer(agent: &Agent, mode: &str) -> super::Answer {
    Caller::of(agent).await.ask_until_counted(&format!("/{mode}/after")).await
}

/// A listener that nobody accepts from, and connections that fill its queue.
async fn black_hole(port: u16) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut fillers = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(("127.0.0.1", port)));
    while let Ok(filler) = connect().await {
        fillers.push(filler.unwrap());
        assert!(fillers.len() < 10, "the queue is never full");
    }
    (listener, fillers)
}

/// Connections to `port` that have sent their SYN and heard nothing.
fn connecting(port: u16) -> usize {
    let remote = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2] == remote && row[3] == "02").count()
}
