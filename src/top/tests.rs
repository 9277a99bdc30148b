//! What is counted, and that it has a bound.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::decision::{DecisionId, Reason, Summary};
use crate::identity::{CredentialKind, Identity};
use crate::limit::{Limit, OnFailure, Quota, Rate, State};
use crate::policy::Refusal;

/// A decision about `acme:USER`, or about nobody from `src`.
fn decision(user: &str, groups: &str, reason: Reason, src: &str) -> Decision {
    let mut identity = Identity::anonymous();
    if !user.is_empty() {
        identity.credential = CredentialKind::Jwt;
        identity.issuer_name = "acme".into();
        identity.user = user.to_owned();
        identity.groups_joined = groups.to_owned();
    }
    let mut decision = Decision::new(DecisionId::new(1, 2, 3), reason, Arc::new(identity)).by(Some(&"api".into()));
    decision.summary = Some(Box::new(Summary { src: src.to_owned(), ..Summary::default() }));
    decision
}

fn state(limit: &str, remaining: u64) -> State {
    let quota = Quota::Rate(Rate::new(100, Duration::from_secs(60), 100).unwrap());
    let limit = Limit::new(limit, quota.clone(), OnFailure::Local, 1);
    State { limit: Arc::new(limit), quota, remaining, reset: Duration::from_secs(60 - 60 * remaining / 100) }
}

fn allowed(user: &str) -> Decision {
    decision(user, "", Reason::Allowed, "192.0.2.1")
}

fn row(names: &Names, name: &str) -> Counted {
    names.rows.iter().find(|row| row.name == name).map(|row| row.counted).unwrap_or_default()
}

#[test]
fn each_decision_counts_by_user_group_rule_and_limit() {
    let (top, clock) = (Top::default(), Clock::by_hand(1_800_000_000));
    top.record(&allowed("early"), clock.now());
    assert_eq!(top.ask(clock.now()).total, Counted::default(), "nobody looked");
    let throttled = || {
        let mut decision = decision("alice", "ops,paid", Reason::LimitExceeded, "192.0.2.1");
        decision.limit = Some("per-user".into());
        decision.budget.states.extend([state("per-user", 0), state("per-ip", 40)]);
        decision
    };
    for seen in [
        decision("alice", "ops,paid", Reason::Allowed, "192.0.2.1"),
        throttled(),
        decision("bob", "paid", Reason::Refused(Refusal::NoRule), "192.0.2.1"),
        decision("", "", Reason::StoreUnavailable, "2001:db8::1"),
    ] {
        top.record(&seen, clock.now());
    }
    clock.advance(Duration::from_secs(1));
    let seen = top.ask(clock.now());
    let one = |requests, refused, throttled, failed| Counted {
        requests: [requests; 2],
        refused: [refused; 2],
        throttled: [throttled; 2],
        failed: [failed; 2],
    };
    assert_eq!(seen.total, one(4, 1, 1, 1));
    for (names, expected) in [
        (&seen.users, &[("acme:alice", one(2, 0, 1, 0)), ("acme:bob", one(1, 1, 0, 0))][..]),
        (&seen.users, &[("anonymous 2001:db8::1", one(1, 0, 0, 1))]),
        (&seen.groups, &[("paid", one(3, 1, 1, 0)), ("ops", one(2, 0, 1, 0))]),
        (&seen.rules, &[("api", one(4, 1, 1, 1))]),
        (&seen.limits, &[("per-user", one(1, 0, 1, 0)), ("per-ip", one(1, 0, 0, 0))]),
    ] {
        for (name, counted) in expected {
            assert_eq!(row(names, name), *counted, "{name}: {names:?}");
        }
    }
    let near: Vec<_> = seen.near.iter().map(|near| (&*near.who, &*near.limit, near.remaining, near.of)).collect();
    assert_eq!(near, [("acme:alice", "per-user", 0, 100), ("acme:alice", "per-ip", 40, 100)]);
    assert_eq!(seen.near.iter().map(|near| (near.whole_in_s, near.seen_s)).collect::<Vec<_>>(), [(59, 1), (35, 1)]);
    let text = serde_json::to_string(&seen).unwrap();
    assert!(
        text.contains(r#"{"name":"acme:alice","requests":[2,2],"refused":[0,0],"throttled":[1,1],"failed":[0,0]}"#)
    );
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), seen);
}

#[test]
fn windows_slide_and_say_how_long_they_are() {
    let (top, clock) = (Top::default(), Clock::by_hand(1_800_000_000));
    top.ask(clock.now());
    for second in 1..=200_u64 {
        clock.advance(Duration::from_secs(1));
        top.record(&allowed("alice"), clock.now());
        let seen = top.ask(clock.now());
        for (place, window) in seen.windows.iter().enumerate() {
            let counted = row(&seen.users, "acme:alice").requests[place];
            assert_eq!(seen.total.requests[place], counted);
            // One a second, so many as seconds are covered, but for the one on the edge.
            assert!(counted.abs_diff(window.covered_ms / 1000) <= 1, "{counted} in {window:?}");
            let meant_ms = window.s * 1000;
            assert!(
                window.covered_ms <= meant_ms + 2000 && window.covered_ms >= meant_ms.min(second * 1000),
                "{window:?}"
            );
        }
    }
    clock.advance(Duration::from_secs(30));
    let seen = top.ask(clock.now());
    assert_eq!(seen.total.requests[0], 0, "the last ten seconds are empty");
    assert!(seen.total.requests[1].abs_diff(30) <= 2, "{:?}", seen.total);
    clock.advance(Duration::from_secs(40));
    assert_eq!(top.ask(clock.now()).users.rows, [], "whoever has not asked for a minute is gone");
}

#[test]
fn whoever_asks_much_is_seen_through_a_flood_of_others() {
    let (top, clock) = (Top::default(), Clock::by_hand(1_800_000_000));
    top.ask(clock.now());
    let limited = |user: &str, remaining| {
        let mut decision = allowed(user);
        decision.budget.states.push(state("per-user", remaining));
        decision
    };
    for n in 0..60_000_u64 {
        top.record(&limited(&format!("flood-{n}"), 99), clock.now());
        if n % 100 == 0 {
            // More than 1/256 of all, and nearer to the limit than the others.
            top.record(&limited("alice", 7), clock.now());
        }
        if n % 1000 == 0 {
            clock.advance(Duration::from_millis(100));
        }
    }
    let seen = top.ask(clock.now());
    assert!(seen.users.rows.len() <= NAMES_MAX && seen.users.replaced > 50_000, "{}", seen.users.replaced);
    assert_eq!(seen.users.rows[0].name, "acme:alice", "{:?}", &seen.users.rows[..3]);
    let alice = row(&seen.users, "acme:alice").requests[1];
    // Never more than there were, and nearly all of them.
    assert!((590..=600).contains(&alice), "{alice}");
    assert_eq!((&*seen.near[0].who, seen.near[0].remaining), ("acme:alice", 7));
    assert!(seen.near.len() <= 256);
    assert_eq!(seen.total.requests[1], 60_600);
}

#[test]
fn names_are_cut_and_fit_to_be_printed_and_nobody_passes_for_another() {
    let (top, clock) = (Top::default(), Clock::by_hand(1_800_000_000));
    top.ask(clock.now());
    let long = "ü".repeat(500);
    for user in [&*long, "a\u{1b}[2J\u{202e}b", " 192.0.2.1"] {
        top.record(&allowed(user), clock.now());
    }
    top.record(&decision("", "", Reason::Allowed, "192.0.2.1"), clock.now());
    top.record(&decision("", "", Reason::BadRequest, ""), clock.now());
    let many: Vec<_> = (0..1000).map(|n| format!("g{n}")).collect();
    top.record(&decision("alice", &many.join(","), Reason::Allowed, ""), clock.now());
    let seen = top.ask(clock.now());
    let mut names: Vec<_> = seen.users.rows.iter().map(|row| &*row.name).collect();
    names.sort_unstable();
    let cut = format!("acme:{}", "ü".repeat(61));
    let expected =
        ["acme: 192.0.2.1", "acme:a\\u{1b}[2J\\u{202e}b", "acme:alice", &cut, "anonymous", "anonymous 192.0.2.1"];
    assert_eq!(names, expected);
    assert_eq!(seen.groups.rows.len(), GROUPS_MAX);
}

#[test]
fn a_minute_after_the_last_look_nothing_is_held_or_counted() {
    let (top, clock) = (Top::default(), Clock::by_hand(1_800_000_000));
    top.ask(clock.now());
    clock.advance(Duration::from_secs(59));
    top.record(&allowed("alice"), clock.now());
    assert!(top.watched.lock().is_some());
    clock.advance(Duration::from_secs(2));
    top.record(&allowed("alice"), clock.now());
    assert!(top.watched.lock().is_none() && top.until_us.load(Ordering::Relaxed) == 0);
    top.record(&allowed("alice"), clock.now());
    let seen = top.ask(clock.now());
    assert_eq!((seen.total, seen.windows[1].covered_ms), (Counted::default(), 0), "it begins anew");
}

/// What it costs is printed: `cargo test --lib top:: -- --nocapture`.
#[test]
fn a_known_name_costs_no_allocation_and_neither_does_one_that_takes_a_place() {
    let (top, clock) = (Top::default(), Clock::by_hand(1_800_000_000));
    let users: Vec<_> = (0..2000)
        .map(|n| {
            let mut decision = decision(&format!("user-{n}"), "ops,paid", Reason::Allowed, "192.0.2.1");
            decision.budget.states.extend([state("per-user", n % 100), state("per-ip", 40)]);
            decision
        })
        .collect();
    let now = clock.now();
    let measure = |what: &str, users: &[Decision]| {
        const TIMES: u32 = 20_000;
        let begun = Clock::system().now().instant();
        let measured = allocation_counter::measure(|| {
            (0..TIMES).for_each(|n| top.record(&users[n as usize % users.len()], now));
        });
        let each = (Clock::system().now().instant() - begun) / TIMES;
        println!("{what}: {each:?} a decision, {} allocations", measured.count_total);
        measured.count_total
    };
    assert_eq!(measure("nobody looks", &users[..1]), 0);
    top.ask(now);
    users.iter().for_each(|decision| top.record(decision, now));
    assert_eq!(measure("a known user, two groups, two limits", &users[..1]), 0);
    assert_eq!(measure("another user each time", &users), 0);
}
