//! One body of tests for both stores, and what only Redis can do wrong.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::calendar::{Calendar, Unit};
use super::store::{Budget, Charge, Charges, Counted, Counters, Exceeded};
use super::{
    Concurrent, CounterKey, CounterSettings, Holder, How, Limit, OnFailure, Quota, Rate, RedisSettings, Sliding,
    StoreError,
};
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
        // Twice the longest window, 300 days.
        assert!((1..=2 * 300 * 86_400_000 + 1000).contains(&ttl.parse::<i64>().unwrap()), "{ttl}");
    }
}

/// Periods are long, so that the seconds a test takes are no part of a count.
async fn body(counters: &Counters) {
    let hour = |count, burst| Quota::Rate(Rate::new(count, Duration::from_secs(3600), burst).unwrap());

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
        assert_eq!(&*exceeded.limit.name, "one");
        // Where it is known that there is no room, nobody asks how much of the other there is.
        let left = exceeded.states.iter().find(|state| *state.limit.name == *"many").map(|state| state.remaining);
        assert!(left.is_none_or(|left| left == 9), "{exceeded:?}");
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
    let odd = limit("odd", 1, rate(7, Duration::from_secs(7200), 7));
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

    // A window by two buckets, and one of the calendar: what it has may all come at once, and then nothing.
    let month = Quota::Calendar(Calendar::new(3, Unit::Month, jiff::tz::TimeZone::UTC).unwrap());
    let sliding = Quota::Sliding(Sliding::new(3, Duration::from_secs(300 * 86_400)).unwrap());
    for (name, quota) in [("month", month), ("sliding", sliding)] {
        let three = limit(name, 1, quota);
        for remaining in (0..3).rev() {
            let budget = charge(counters, &[of(&three, "x")]).await.unwrap().unwrap();
            assert_eq!(budget.states[0].remaining, remaining, "{name}");
        }
        let exceeded = charge(counters, &[of(&three, "x")]).await.unwrap().unwrap_err();
        assert!(exceeded.retry_after > Duration::ZERO && exceeded.states[0].remaining == 0, "{exceeded:?}");
    }

    // At the same time: a place each, the same for the same request, until it is given back.
    let places = limit("places", 1, Quota::Concurrent(Concurrent::new(2, Duration::from_secs(3600)).unwrap()));
    let by = |request: &str| [Charge { holder: Holder::of(request.as_bytes()), ..of(&places, "x") }];
    let first = charge(counters, &by("a")).await.unwrap().unwrap();
    for (request, passes) in [("b", true), ("c", false), ("a", true), ("b", true), ("c", false)] {
        assert_eq!(charge(counters, &by(request)).await.unwrap().is_ok(), passes, "{request}");
    }
    let exceeded = charge(counters, &by("c")).await.unwrap().unwrap_err();
    assert_eq!(exceeded.retry_after, Duration::from_secs(1), "a place may be free at any moment");
    settle(counters, &first.receipt.unwrap(), None);
    until_passes(counters, &by("c")).await;
    assert!(charge(counters, &by("a")).await.unwrap().is_err(), "there are two places and no more");

    // What the response says it cost, more or less than was charged; debts are paid, up to a burst.
    let tokens = Limit { settles: Some("x-tokens".into()), ..Limit::clone(&limit("tokens", 1, hour(100, 100))) };
    let tokens = Arc::new(tokens);
    let reserved = [Charge { cost: 10, ..of(&tokens, "x") }];
    for (cost, remaining) in [(None, 90), (Some(10), 80), (Some(4), 76), (Some(30), 46)] {
        let budget = charge(counters, &reserved).await.unwrap().unwrap();
        settle(counters, &budget.receipt.unwrap(), cost);
        until_remaining(counters, &reserved, remaining).await;
    }
    let budget = charge(counters, &reserved).await.unwrap().unwrap();
    settle(counters, &budget.receipt.unwrap(), Some(100_000));
    let none_left = async || {
        let charges: Charges = reserved.iter().cloned().collect();
        counters.peek(&charges, Clock::system().now()).await.unwrap().is_err_and(|e| e.retry_after > hours(1.05))
    };
    while !none_left().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // What refused credentials spend: charged by them, a wait for all, and a ban once there is no room for another.
    let guard = Limit { ban: Some(Duration::from_secs(900)), ..Limit::clone(&limit("guard", 1, hour(3, 3))) };
    let guard = Arc::new(guard);
    let (bad, good) = ([Charge { how: How::Try, ..of(&guard, "x") }], [Charge { how: How::Look, ..of(&guard, "x") }]);
    for _ in 0..3 {
        assert!(charge(counters, &good).await.unwrap().unwrap().states.is_empty(), "nothing that a caller is told");
        assert!(charge(counters, &bad).await.unwrap().is_ok());
    }
    for charges in [&good, &bad] {
        let exceeded = charge(counters, charges).await.unwrap().unwrap_err();
        assert!((890..=900).contains(&exceeded.retry_after.as_secs()), "{exceeded:?}");
    }
    assert!(charge(counters, &[Charge { how: How::Look, ..of(&guard, "y") }]).await.unwrap().is_ok());

    // A shadow limit is counted and refuses nobody; nor does it charge what something else refuses.
    let shadow = Arc::new(Limit { shadow: true, ..Limit::clone(&limit("shadow", 1, hour(2, 2))) });
    let spent = limit("spent", 1, hour(2, 2));
    for shadowed in [0, 0, 1, 1] {
        let budget = charge(counters, &[of(&shadow, "x")]).await.unwrap().unwrap();
        assert_eq!((budget.shadowed.len(), budget.states.len()), (shadowed, 0));
    }
    for passes in [true, true, false] {
        assert_eq!(charge(counters, &[of(&shadow, "y"), of(&spent, "y")]).await.unwrap().is_ok(), passes);
    }

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
    let two: Charges = [of(&limit("two", 1, rate(2, Duration::from_secs(10), 2)), "x")].into_iter().collect();
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
    let ten = limit("ten", 1, rate(10, Duration::from_secs(3600), 10));
    let charges: Charges = [of(&ten, "x")].into_iter().collect();
    let passed = (0..10).filter(|_| counters.charge_share(&charges, Clock::system().now()).is_ok()).count();
    assert_eq!(passed, 4, "ten among three agents, rounded up");
}

#[tokio::test]
async fn a_flushed_script_is_loaded_again_and_counts_once() {
    let redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let three = limit("three", 1, rate(3, Duration::from_secs(3600), 3));
    for remaining in [2, 1, 0] {
        redis.ask(&["SCRIPT", "FLUSH"]);
        let budget = charge(&counters, &[of(&three, "x")]).await.unwrap().unwrap();
        assert_eq!(budget.states[0].remaining, remaining);
    }
}

/// A flood of questions that have one answer costs Redis nothing, and nobody else anything.
#[tokio::test]
async fn what_cannot_pass_yet_is_refused_without_redis() {
    let redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let calls = || -> u64 {
        let stats = redis.ask(&["INFO", "commandstats"]);
        let lines = stats.lines().filter(|line| line.starts_with("cmdstat_eval"));
        lines.filter_map(|line| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok()).sum()
    };
    let two = limit("two", 1, rate(2, Duration::from_secs(1), 2));
    let x = [of(&two, "x")];
    for _ in 0..2 {
        assert!(charge(&counters, &x).await.unwrap().is_ok());
    }
    let (before, mut refused) = (calls(), 0);
    let began = std::time::Instant::now();
    let wait = loop {
        match charge(&counters, &x).await.unwrap() {
            Ok(_) => break began.elapsed(),
            Err(exceeded) => {
                assert_eq!((&*exceeded.limit.name, exceeded.states[0].remaining), ("two", 0));
                assert!(exceeded.retry_after <= Duration::from_millis(500), "{exceeded:?}");
                refused += 1;
            }
        }
        // Another counter of the limit has its own, and one more of this costs more than one.
        if refused % 1000 == 0 {
            assert!(charge(&counters, &[of(&two, &refused.to_string())]).await.unwrap().is_ok());
        }
    };
    let asked = calls() - before - refused / 1000;
    assert!(asked <= 20 && refused > 1000, "{asked} questions to Redis for {refused}, in {wait:?}");
    // A place may be free at any moment, so that is asked for every time.
    let places = limit("places", 1, Quota::Concurrent(Concurrent::new(1, Duration::from_secs(60)).unwrap()));
    let by = |request: &str| [Charge { holder: Holder::of(request.as_bytes()), ..of(&places, "x") }];
    let first = charge(&counters, &by("a")).await.unwrap().unwrap();
    assert!(charge(&counters, &by("b")).await.unwrap().is_err());
    settle(&counters, &first.receipt.unwrap(), None);
    until_passes(&counters, &by("b")).await;
    assert_eq!(counters.settlements_lost(), 0);
}

/// A response waits for nobody, so what Redis is not there to hear is lost, and that is counted.
#[tokio::test]
async fn what_redis_never_heard_of_is_counted() {
    let mut redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let places = limit("places", 1, Quota::Concurrent(Concurrent::new(1, Duration::from_secs(60)).unwrap()));
    let taken = charge(&counters, &[of(&places, "x")]).await.unwrap().unwrap();
    redis.stop();
    settle(&counters, &taken.receipt.unwrap(), None);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while counters.settlements_lost() != 1 {
        assert!(std::time::Instant::now() < until, "{} lost", counters.settlements_lost());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_outage_is_seen_said_once_and_over_when_it_is_over() {
    let mut redis = Redis::start();
    let counters = counters(Some(redis.settings()));
    let many = limit("many", 1, rate(1000, Duration::from_secs(3600), 1000));
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
    let many = limit("many", 1, rate(1000, Duration::from_secs(3600), 1000));
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
    let many = limit("many", 1, rate(1000, Duration::from_secs(3600), 1000));
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
    let one = limit("one", 1, rate(1, Duration::from_secs(3600), 1));
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

/// The Lua and the Rust are one model: thousands of random charges, looks, refunds and late costs of every kind at made-up
/// times, and after each the memory stands as Redis does.
#[tokio::test]
async fn the_scripts_and_the_rust_agree() {
    use super::counter::StoreTime;
    use super::memory::MemoryStore;
    use super::redis::scripted::Scripted;
    use super::settle::{Change, Settlement};

    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let scripted = Scripted::new();
    let seed = 0x5eed_u64;
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let berlin = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    let calendar = |count, unit| Quota::Calendar(Calendar::new(count, unit, berlin.clone()).unwrap());
    let us = Duration::from_micros;
    let quotas = [
        rate(7, us(10_000_000), 3),
        rate(3, us(1_000), 5),
        rate(700_000, us(1_000_000), 100),
        rate(50_000, us(2_592_000_000_000), 10),
        Quota::Sliding(Sliding::new(7, us(10_000_000)).unwrap()),
        Quota::Sliding(Sliding::new(1_000_000_000, us(34_560_000_000_000)).unwrap()),
        Quota::Sliding(Sliding::new(13, us(7)).unwrap()),
        calendar(5, Unit::Day),
        calendar(9, Unit::Month),
        Quota::Concurrent(Concurrent::new(3, us(60_000_000)).unwrap()),
    ];
    for (round, quota) in quotas.into_iter().enumerate() {
        for variant in 0..4 {
            let mut plain = Limit::new(&format!("l{round}-{variant}"), quota.clone(), OnFailure::Local, 1);
            plain.shadow = variant == 1;
            plain.ban = (variant == 2).then_some(us(5_000_000)).filter(|_| matches!(quota, Quota::Rate(_)));
            plain.settles = (variant == 3).then(|| "x".into());
            let limit = Arc::new(plain);
            let interval_us = quota.period_us().unwrap_or(60_000_000) / quota.count() + 1;
            let memory = MemoryStore::new(1024 * 1024);
            let mut now_us = 1_700_000_000_000_000u64;
            for step in 0..300 {
                // Sometimes the clock goes back, and sometimes the agent's is far off.
                let gap = next(3 * interval_us);
                now_us = if next(50) == 0 { now_us - gap } else { now_us + gap };
                let around_us = if next(20) == 0 { now_us + 100 * 86_400_000_000 } else { now_us };
                let mut charges: Charges = Charges::new();
                // A request holds places under one name.
                let holder = Holder::of(&[u8::try_from(next(8)).unwrap()]);
                for _ in 0..1 + next(2) {
                    let how = [How::Take, How::Take, How::Look, How::Try][usize::try_from(next(4)).unwrap()];
                    let cost = u32::try_from(1 + next(3)).unwrap();
                    charges.push(Charge { cost, holder, how, ..of(&limit, "x") });
                }
                let commit = next(10) > 0;
                let shown = format!("seed {seed:#x}, {quota:?}, variant {variant}, step {step}, {charges:?}");
                let Some(there) = scripted.charge(&mut connection, &charges, (now_us, around_us), commit).await else {
                    assert!(matches!(quota, Quota::Calendar(_)) && around_us != now_us, "{shown}");
                    continue;
                };
                let here = memory.charge_at(&charges, StoreTime::of_redis(now_us), commit);
                assert_eq!(here.trials.len(), there.trials.len(), "{shown}");
                for (here, there) in here.trials.iter().zip(&there.trials) {
                    assert_eq!((here.begin, here.after), (there.begin, there.after), "{shown}");
                }
                if next(4) == 0 {
                    let number = u32::try_from(1 + next(4)).unwrap();
                    let settlement = Settlement {
                        quota: quota.clone(),
                        key: charges[0].key,
                        holder: charges[0].holder,
                        change: if next(2) == 0 || matches!(quota, Quota::Concurrent(_)) {
                            Change::Back(number)
                        } else {
                            Change::More(number)
                        },
                        charged_us: now_us - next(2 * interval_us),
                    };
                    let settlements = [settlement];
                    memory.settle_at(&settlements, StoreTime::of_redis(now_us));
                    scripted.settle(&mut connection, &settlements, now_us).await;
                }
            }
        }
    }
}

fn limit(name: &str, generation: u32, quota: Quota) -> Arc<Limit> {
    Arc::new(Limit::new(name, quota, OnFailure::Local, generation))
}

fn rate(count: u64, period: Duration, burst: u64) -> Quota {
    Quota::Rate(Rate::new(count, period, burst).unwrap())
}

fn of(limit: &Arc<Limit>, name: &str) -> Charge {
    let mut key = CounterKey::of(limit);
    key.part(name.as_bytes());
    let (key, holder) = (key.finish(), Holder::of(name.as_bytes()));
    Charge { limit: Arc::clone(limit), quota: limit.quota.clone(), key, cost: 1, holder, how: How::Take }
}

fn hours(hours: f64) -> Duration {
    Duration::from_secs_f64(hours * 3600.0)
}

/// Tells that the response is there, and what it says that it cost.
fn settle(counters: &Counters, receipt: &[u8], cost: Option<u32>) {
    assert!(counters.settle(receipt, |header| cost.filter(|_| header == "x-tokens"), Clock::system().now()));
}

/// It is told to Redis in the background.
async fn until_passes(counters: &Counters, charges: &[Charge]) {
    while charge(counters, charges).await.unwrap().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_remaining(counters: &Counters, charges: &[Charge], remaining: u64) {
    let charges: Charges = charges.iter().cloned().collect();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let stands = match counters.peek(&charges, Clock::system().now()).await.unwrap() {
            Ok(budget) => budget.states,
            Err(exceeded) => exceeded.states,
        };
        if stands[0].remaining == remaining {
            return;
        }
        assert!(std::time::Instant::now() < until, "{stands:?} and not {remaining}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
