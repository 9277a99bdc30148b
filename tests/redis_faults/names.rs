//! Callers who choose what counters are called.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tollgate::limit::{CounterKey, Limit, OnFailure, Quota, Rate};
use tollgate::request::host_and_port;
use tollgate::spop::{TypedData, engine};

use super::{Caller, assert_episodes, until_up};
use crate::support::not_alone;
use crate::support::stack::{Agent, Redis};

/// What separates, ends, begins or escapes something in Redis, in its protocol, in Lua or in a counter's name.
const HOSTILE: [&str; 24] = [
    "",
    "}",
    "{",
    "}{",
    "{x}",
    ":",
    "=",
    "1=",
    ":1=",
    "1=a:1=",
    "tg:",
    "tg#",
    "\r\n",
    "\r\nFLUSHALL\r\n",
    "\0",
    "*",
    "?",
    "[a-z]",
    "\"",
    "'",
    "\\",
    "%",
    "$2147483647\r\n",
    "\u{2028}é",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_callers_choose_are_names_and_nothing_else() {
    let _others = not_alone().await;
    let redis = Redis::start().await;
    let config = format!(
        "spop: {{ deadline: 400ms }}\ncounters: {{ redis: \"{}\", timeout: 100ms }}\nambiguous_paths: allow\n\
         limits:\n  pair: {{ key: [host, path], rate: 1/1h, on_failure: deny }}\n\
         rules:\n  - {{ name: all, allow: anyone, limits: [pair] }}\n",
        redis.url()
    );
    let agent = Agent::start(&config).await;
    until_up(&agent).await;
    redis.ask(&["SET", "somebody's", "own"]).await;
    let mut caller = Caller::of(&agent).await;
    let long = "x".repeat(8 * 1024);
    let parts: Vec<_> = HOSTILE.iter().copied().chain([long.as_str(), &long[1..]]).collect();
    let mut asked = HashSet::new();
    for host in &parts {
        for path in &parts {
            let (host, path) = (format!("h{host}x"), format!("/{path}"));
            let (reason, verdict) = ask(&mut caller, &host, &path).await;
            if verdict == "error" {
                assert_eq!(reason, "bad_request", "{host:.40?} {path:.40?}");
                continue;
            }
            // A host is compared without its port, and so is its counter.
            let is_new = asked.insert((host_and_port(&host).0.into_owned(), path.clone()));
            assert_eq!(verdict == "allow", is_new, "{host:.40?} {path:.40?} has another's counter");
            assert_eq!(ask(&mut caller, &host, &path).await.0, "limit_exceeded", "{host:.40?} {path:.40?}");
        }
    }
    assert!(asked.len() > 200, "{} of {} were names", asked.len(), parts.len() * parts.len());
    let names = redis.ask(&["EVAL", "return #redis.call('KEYS', 'tg*pair*')", "0"]).await;
    let hashed = redis.ask(&["EVAL", "return #redis.call('KEYS', 'tg#*')", "0"]).await;
    println!("{} pairs, {names} names of which {hashed} are hashed", asked.len());
    assert_eq!(names.parse::<usize>().unwrap(), asked.len(), "a counter for each, and no other");
    let longest =
        "local most = 0 for _, key in ipairs(redis.call('KEYS', '*')) do most = math.max(most, #key) end return most";
    assert!(redis.ask(&["EVAL", longest, "0"]).await.parse::<usize>().unwrap() <= 112);
    assert_eq!(redis.ask(&["GET", "somebody's"]).await, "own", "nothing was injected");
    assert_episodes(&agent, 0).await;
}

async fn ask(caller: &mut Caller, host: &str, path: &str) -> (String, String) {
    let arguments = [
        ("method", TypedData::Str(b"GET")),
        ("host", TypedData::Str(host.as_bytes())),
        ("path", TypedData::Str(path.as_bytes())),
        ("src", TypedData::Ipv4([192, 0, 2, 1].into())),
    ];
    let write = |out: &mut BytesMut| engine::notify(1, 1, &arguments, out);
    caller.0.write(write).await;
    let ack = caller.0.frame().await.expect("every question is answered");
    (ack.variable("reason"), ack.variable("verdict"))
}

/// A hundred thousand pairs of tuples that are alike and different, drawn from a seed.
#[test]
fn no_two_of_a_hundred_thousand_pairs_share_a_name() {
    let quota = Quota::Rate(Rate::new(1, Duration::from_secs(1), 1).unwrap());
    let limit = Limit::new("pair", quota, OnFailure::Local, 7);
    let limit = Arc::new(limit);
    let seed = 0x7011_6a7e_u64;
    let mut state = seed;
    let mut draw = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut tuple = || {
        let parts = draw(4);
        (0..parts).map(|_| (0..draw(6)).map(|_| HOSTILE[draw(HOSTILE.len())]).collect::<String>()).collect::<Vec<_>>()
    };
    let name = |tuple: &[String]| {
        let mut writer = CounterKey::of(&limit);
        tuple.iter().for_each(|part| writer.part(part.as_bytes()));
        writer.finish()
    };
    let mut names = HashMap::new();
    let mut different = 0;
    for pair in 0..100_000 {
        for _ in 0..2 {
            let tuple = tuple();
            if let Some(other) = names.insert(name(&tuple), tuple.clone()) {
                assert_eq!(other, tuple, "seed {seed:#x}, pair {pair}");
            } else {
                different += 1;
            }
        }
    }
    // Some are drawn again; each has been held against every other one.
    assert!(different > 100_000, "{different}");
}
