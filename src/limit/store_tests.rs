//! One body of tests for both stores, and what only Redis can do wrong.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::store::{Budget, Charge, Charges, Counted, Counters, Exceeded};
use super::{CounterKey, CounterSettings, Limit, OnFailure, Quota, RedisSettings, StoreError};
use crate::clock::Clock;
use crate::link::testing::Redis;
use crate::secret::Secret;

#[tokio::test]
async fn memory_counts_as_every_store_must() {
    body(&counters(None)).await;
}

#[tokio::test]
async fn redis_counts_as_every_store_must() {
    let redis = Redis::start();
    body(&counters(Some(redis.settings()))).await;
    // Whatever was counted goes by itself.
    let script = "local ttls = {} for _, key in ipairs(redis.call('KEYS', 'tg*')) do \
                  ttls[#ttls + 1] = redis.call('PTTL', key) end return ttls";
    let ttls = redis.ask(&["EVAL", script, "0"]);
    assert!(ttls.lines().count() > 10);
    for ttl in ttls.lines() {
        assert!((1..=7_200_000 + 1000).contains(&ttl.parse::<i64>().unwrap()), "{ttl}");
    }
}

/// Periods are long, so that the seconds a test takes are no part of a count.
async fn body(counters: &Counters) {
    let hour = |count, burst| Quota::new(count, Duration::from_secs(3600), burst).unwrap();

    // From idle exactly the burst, then a wait of one interval.
    let five = limit("five", 1, hour(5, 5));
    for remaining in (0..5).rev() {
        let budget = charge(counters, &[of(&five, "alice")]).await.unwrap().unwrap();
        assert_eq!(budget.states[0].remaining, remaining);
    }
    let exceeded = charge(counters, &[of(&five, "alice")]).await.unwrap().unwrap_err();
    assert_eq!((&*exceeded.limit.name, exceeded.states[0].remaining), ("five", 0));
    assert!(near(exceeded.retry_after, 720) && near(exceeded.states[0].reset, 3600), "{exceeded:?}");
    // Another key is another counter, and so is another definition of the limit.
    assert!(charge(counters, &[of(&five, "bob")]).await.unwrap().is_ok());
    let again = limit("five", 2, hour(5, 5));
    assert!(charge(counters, &[of(&again, "alice")]).await.unwrap().is_ok());

    // Together or not at all: a spent limit leaves the other as it was.
    let (one, many) = (limit("one", 1, hour(1, 1)), limit("many", 1, hour(10, 10)));
    assert!(charge(counters, &[of(&one, "x"), of(&many, "x")]).await.unwrap().is_ok());
    for _ in 0..20 {
        let exceeded = charge(counters, &[of(&many, "x"), of(&one, "x")]).await.unwrap().unwrap_err();
        assert_eq!((&*exceeded.limit.name, exceeded.states[0].remaining), ("one", 9));
    }
    let budget = charge(counters, &[of(&many, "x")]).await.unwrap().unwrap();
    assert_eq!(budget.states[0].remaining, 8);

    // The same counter twice in one request is charged twice.
    let three = limit("three", 1, hour(3, 3));
    let twice = [of(&three, "x"), of(&three, "x")];
    assert_eq!(charge(counters, &twice).await.unwrap().unwrap().states[1].remaining, 1);
    assert!(charge(counters, &twice).await.unwrap().is_err());
    assert!(charge(counters, &[of(&three, "x")]).await.unwrap().is_ok());

    // A cost of several, and one beyond the burst, which can never pass.
    let ten = limit("ten", 1, hour(10, 10));
    let costly = |cost| [Charge { cost, ..of(&ten, "x") }];
    assert_eq!(charge(counters, &costly(7)).await.unwrap().unwrap().states[0].remaining, 3);
    assert!(charge(counters, &costly(4)).await.unwrap().is_err());
    assert!(charge(counters, &costly(3)).await.unwrap().is_ok());
    let never = limit("never", 1, hour(10, 2));
    assert!(charge(counters, &[Charge { cost: 3, ..of(&never, "x") }]).await.unwrap().is_err());

    // An interval that is no whole number of microseconds.
    let odd = limit("odd", 1, Quota::new(7, Duration::from_secs(7200), 7).unwrap());
    let mut passed = 0;
    for _ in 0..10 {
        passed += usize::from(charge(counters, &[of(&odd, "x")]).await.unwrap().is_ok());
    }
    assert_eq!(passed, 7);

    // A look takes nothing.
    let looked = limit("looked", 1, hour(2, 2));
    let charges: Charges = [of(&looked, "x")].into_iter().collect();
    for _ in 0..5 {
        let standing = counters.peek(&charges, Clock::system().now()).await.unwrap().unwrap();
        assert_eq!(standing.states[0].remaining, 2);
    }

    // Many at once: the burst and not one more.
    let hundred = limit("hundred", 1, hour(100, 100));
    let charges: Vec<_> = (0..400).map(|_| [of(&hundred, "x")]).collect();
    let all = futures_util::future::join_all(charges.iter().map(|charges| charge(counters, charges))).await;
    assert_eq!(all.iter().filter(|one| matches!(one, Ok(Ok(_)))).count(), 100);

    // Names that are anything but names.
    for name in ["}{", "\r\n", "\0", "a b", &"x".repeat(8192)] {
        assert!(charge(counters, &[of(&limit("names", 1, hour(1, 1)), name)]).await.unwrap().is_ok(), "{name:.10}");
        assert!(charge(counters, &[of(&limit("names", 1, hour(1, 1)), name)]).await.unwrap().is_err(), "{name:.10}");
    }
}

#[tokio::test]
async fn memory_fills_again_with_time() {
    let clock = Clock::by_hand(1_700_000_000);
    let counters = counters(None);
    let two: Charges =
        [of(&limit("two", 1, Quota::new(2, Duration::from_secs(10), 2).unwrap()), "x")].into_iter().collect();
    let ask = || {
        let now = clock.now();
        match counters.charge(&two, now, now.instant() + Duration::from_secs(1)) {
            Counted::Now(counted) => counted.map(|_| ()).map_err(|exceeded| exceeded.retry_after),
            _ => panic!("memory answers at once"),
        }
    };
    assert_eq!([ask(), ask(), ask()], [Ok(()), Ok(()), Err(Duration::from_secs(5))]);
    clock.advance(Duration::from_micros(4_999_999));
    assert_eq!(ask(), Err(Duration::from_micros(1)));
    clock.advance(Duration::from_micros(1));
    assert_eq!([ask(), ask()], [Ok(()), Err(Duration::from_secs(5))]);
}

#[tokio::test]
async fn a_share_is_one_agents_part_of_the_limit() {
    let settings = CounterSettings { agents: NonZeroU64::new(3).unwrap(), ..settings(None) };
    let counters = Counters::new(&settings).unwrap();
    let ten = limit("ten", 1, Quota::new(10, Duration::from_secs(3600), 10).unwrap());
    let charges: Charges = [of(&ten, "x")].into_iter().collect();
    let passed = (0..10).filter(|_| counters.charge_share(&charges, Clock::system().now()).is_ok()).count();
    assert_eq!(passed, 4, "ten among three agents, rounded up");
}

#[tokio::test]
async fn a_flushed_script_is_loaded_again_and_counts_once() {
    let redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let three = limit("three", 1, Quota::new(3, Duration::from_secs(3600), 3).unwrap());
    for remaining in [2, 1, 0] {
        redis.ask(&["SCRIPT", "FLUSH"]);
        let budget = charge(&counters, &[of(&three, "x")]).await.unwrap().unwrap();
        assert_eq!(budget.states[0].remaining, remaining);
    }
}

#[tokio::test]
async fn an_outage_is_seen_said_once_and_over_when_it_is_over() {
    let mut redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let many = limit("many", 1, Quota::new(1000, Duration::from_secs(3600), 1000).unwrap());
    counters.probe().await;
    assert!(counters.status().unwrap().reachable);

    redis.stop();
    let mut failures = Vec::new();
    for _ in 0..6 {
        failures.push(charge(&counters, &[of(&many, "x")]).await.unwrap_err());
    }
    assert!(failures[..3].iter().all(|failure| *failure != StoreError::Open), "{failures:?}");
    assert!(failures[3..].iter().all(|failure| *failure == StoreError::Open), "{failures:?}");
    let status = counters.status().unwrap();
    assert_eq!((status.reachable, status.episodes), (false, 1));
    assert!(status.last_error.is_some());
    counters.probe().await;
    assert_eq!(counters.status().unwrap().episodes, 1, "the same outage");

    redis.start_again();
    for _ in 0..50 {
        counters.probe().await;
        if counters.status().unwrap().reachable {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(charge(&counters, &[of(&many, "x")]).await.unwrap().is_ok());
    assert_eq!(counters.status().unwrap().last_error, None);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_three_timeouts_and_then_nothing() {
    let redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let many = limit("many", 1, Quota::new(1000, Duration::from_secs(3600), 1000).unwrap());
    assert!(charge(&counters, &[of(&many, "x")]).await.unwrap().is_ok());
    redis.signal("STOP");
    for _ in 0..3 {
        assert_eq!(charge(&counters, &[of(&many, "x")]).await.unwrap_err(), StoreError::Timeout { timeout_ms: 200 });
    }
    assert_eq!(charge(&counters, &[of(&many, "x")]).await.unwrap_err(), StoreError::Open);
    // A deadline that is nearer than the timeout is kept too.
    redis.signal("CONT");
    counters.probe().await;
    redis.signal("STOP");
    let now = Clock::system().now();
    let charges: Charges = [of(&many, "x")].into_iter().collect();
    let Counted::Later(counted) = counters.charge(&charges, now, now.instant() + Duration::from_millis(20)) else {
        panic!("Redis is asked")
    };
    assert!(matches!(counted.await, Err(StoreError::Timeout { timeout_ms: ..=20 })));
    redis.signal("CONT");
}

#[tokio::test]
async fn a_replica_and_a_full_redis_are_no_store() {
    let redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let many = limit("many", 1, Quota::new(1000, Duration::from_secs(3600), 1000).unwrap());
    assert!(charge(&counters, &[of(&many, "x")]).await.unwrap().is_ok());
    for (make, code, undo) in [
        (["REPLICAOF", "127.0.0.1", "1"], "READONLY", ["REPLICAOF", "NO", "ONE"]),
        (["CONFIG", "SET", "maxmemory"], "OOM", ["CONFIG", "SET", "maxmemory"]),
    ]
    .map(|(make, code, undo)| {
        let full = |command: [&'static str; 3], value: &'static str| {
            let mut command = command.to_vec();
            if command[2] == "maxmemory" {
                command.push(value);
            }
            command
        };
        (full(make, "1"), code, full(undo, "0"))
    }) {
        redis.ask(&make);
        let error = charge(&counters, &[of(&many, "x")]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused { reason } if reason.contains(code)), "{error:?}");
        redis.ask(&undo);
        let mut passed = false;
        for _ in 0..20 {
            counters.probe().await;
            passed |= matches!(charge(&counters, &[of(&many, "x")]).await, Ok(Ok(_)));
        }
        assert!(passed, "{code} is over");
    }
}

/// The library's own connection would answer a refused greeting for ever.
#[tokio::test]
async fn a_password_that_becomes_right_is_tried_again() {
    let redis = Redis::start();
    redis.ask(&["CONFIG", "SET", "requirepass", "other"]);
    let url = format!("{}?pass=hunter2", redis.url());
    let settings = RedisSettings { url: Secret::new(url), ..redis.settings() };
    let counters = counters(Some(settings));
    counters.probe().await;
    let status = counters.status().unwrap();
    assert!(!status.reachable && status.last_error.is_some());
    assert!(!format!("{status:?}").contains("hunter2"));
    redis.ask(&["--pass", "other", "--no-auth-warning", "CONFIG", "SET", "requirepass", "hunter2"]);
    for _ in 0..50 {
        counters.probe().await;
        if counters.status().unwrap().reachable {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", counters.status());
}

#[tokio::test]
async fn garbage_where_a_counter_should_be_is_a_failure_and_no_panic() {
    let redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let one = limit("one", 1, Quota::new(1, Duration::from_secs(3600), 1).unwrap());
    let charge_one = of(&one, "x");
    let name = charge_one.key.to_string();
    for value in ["not a number", "-1", "1.5", ""] {
        redis.ask(&["SET", &name, value]);
        assert!(
            matches!(charge(&counters, std::slice::from_ref(&charge_one)).await, Err(StoreError::Refused { .. })),
            "{value:?}"
        );
        counters.probe().await;
    }
    redis.ask(&["DEL", &name]);
    redis.ask(&["LPUSH", &name, "x"]);
    assert!(matches!(charge(&counters, &[charge_one]).await, Err(StoreError::Refused { .. })));
}

/// The Lua and the Rust are one model: thousands of random charges at made-up times, the same verdict and the same TAT.
#[tokio::test]
async fn the_script_and_the_rust_agree() {
    use super::gcra::{Cell, Tat};

    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    // The time comes from an argument of the test's own; everything else is the script as it ships.
    let source = include_str!("charge.lua").replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
    assert_ne!(source, include_str!("charge.lua"));
    let script = redis::Script::new(&source);
    let seed = 0x5eed_u64;
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for (round, quota) in
        [(7, 10_000_000, 3), (3, 1_000, 5), (700_000, 1_000_000, 100), (50_000, 2_592_000_000_000, 10)]
            .into_iter()
            .map(|(count, period_us, burst)| Quota::new(count, Duration::from_micros(period_us), burst).unwrap())
            .enumerate()
    {
        let key = format!("model:{round}");
        let interval_us = quota.period_us() / quota.count() + 1;
        let mut now_us = 1_700_000_000_000_000u64;
        let mut tat: Option<Tat> = None;
        for step in 0..1000 {
            // Sometimes the clock goes back.
            let gap = next(3 * interval_us);
            now_us = if next(50) == 0 { now_us - gap } else { now_us + gap };
            let cell = Cell::new(quota, u32::try_from(1 + next(3)).unwrap());
            let reply: Vec<u64> = script
                .key(&key)
                .arg(1)
                .arg(&[cell.step.us, cell.step.rem, cell.room.us, cell.room.rem, cell.count])
                .arg(now_us / 1_000_000)
                .arg(now_us % 1_000_000)
                .invoke_async(&mut connection)
                .await
                .unwrap();
            let begin = cell.begin(tat, now_us);
            let after = cell.charge(begin, now_us);
            let expected = [now_us, begin.us, begin.rem, u64::from(after.is_ok()), 1];
            assert_eq!(reply, expected, "seed {seed:#x}, {quota:?}, step {step}");
            tat = after.ok().or(tat);
        }
    }
}

fn limit(name: &str, generation: u32, quota: Quota) -> Arc<Limit> {
    Arc::new(Limit { name: name.into(), quota, on_failure: OnFailure::Local, generation })
}

fn of(limit: &Arc<Limit>, name: &str) -> Charge {
    let mut key = CounterKey::of(limit);
    key.part(name.as_bytes());
    Charge { limit: Arc::clone(limit), quota: limit.quota, key: key.finish(), cost: 1 }
}

async fn charge(counters: &Counters, charges: &[Charge]) -> Result<Result<Budget, Exceeded>, StoreError> {
    let charges: Charges = charges.iter().cloned().collect();
    let now = Clock::system().now();
    match counters.charge(&charges, now, now.instant() + Duration::from_secs(5)) {
        Counted::Now(counted) => Ok(counted),
        Counted::Later(counted) => counted.await,
        Counted::Failed(error) => Err(error),
    }
}

/// Within the minute that a slow test may take.
fn near(duration: Duration, expected_s: u64) -> bool {
    (expected_s - 60..=expected_s).contains(&duration.as_micros().div_ceil(1_000_000).try_into().unwrap())
}

fn counters(redis: Option<RedisSettings>) -> Counters {
    Counters::new(&settings(redis)).unwrap()
}

fn settings(redis: Option<RedisSettings>) -> CounterSettings {
    CounterSettings { redis, agents: NonZeroU64::MIN, memory_bytes_max: 1024 * 1024 }
}
