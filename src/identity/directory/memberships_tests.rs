//! What is known of people over time, of a directory that answers as each test tells it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::super::cache::Ground as _;
use super::memberships::Pace;
use super::testing::{Fake, Fault};
use super::{
    Absent, Answering, Directories, Directory, DirectoryError, DirectoryKind, DirectorySettings, DirectoryStatus, Look,
    Membership, Memberships,
};
use crate::clock::Clock;

const NOW_S: u64 = 1_800_000_000;
const REFRESH_S: u64 = 300;
const KEEP_S: u64 = 3600;

/// Looks what falls due all the time; how long anything lasts is the clock's to say.
const QUICK: Pace = Pace { tick: Duration::from_millis(2), fetch_max: Duration::from_secs(3600), ..Pace::PRODUCTION };

#[derive(Default)]
struct Script {
    groups_of: Mutex<HashMap<String, Vec<String>>>,
    /// Said of everybody, or of one, in place of groups.
    error: Mutex<Option<DirectoryError>>,
    error_of: Mutex<HashMap<String, DirectoryError>>,
    panics: AtomicBool,
    hangs: AtomicBool,
    /// Who was asked about.
    asked: Mutex<Vec<String>>,
    /// While held, nobody is answered.
    hold: tokio::sync::RwLock<()>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

struct Scripted(Arc<Script>);

impl Directory for Scripted {
    fn groups_of<'a>(&'a self, user: &'a str, _: &'a Clock) -> Answering<'a> {
        Box::pin(async move {
            let script = &self.0;
            script.asked.lock().push(user.to_owned());
            let at_once = script.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            script.at_once_max.fetch_max(at_once, Ordering::SeqCst);
            let _held = script.hold.read().await;
            script.at_once.fetch_sub(1, Ordering::SeqCst);
            assert!(!script.panics.load(Ordering::SeqCst), "a test asked for it");
            if script.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if let Some(error) = script.error.lock().clone().or_else(|| script.error_of.lock().get(user).cloned()) {
                return Err(error);
            }
            script.groups_of.lock().get(user).cloned().ok_or(DirectoryError::NoSuchUser)
        })
    }
}

struct Bench {
    memberships: Memberships,
    script: Arc<Script>,
    clock: Clock,
    stop: CancellationToken,
}

impl Bench {
    fn start() -> Bench {
        Bench::with(Absent::Unknown, QUICK)
    }

    fn with(absent: Absent, pace: Pace) -> Bench {
        let bench = Bench::still(absent, pace);
        bench.memberships.spawn(bench.clock.clone(), bench.stop.clone());
        bench
    }

    /// Without its task.
    fn still(absent: Absent, pace: Pace) -> Bench {
        let script = Arc::new(Script::default());
        let settings = DirectorySettings { absent, ..settings(DirectoryKind::File("unused".into())) };
        let memberships = Memberships::asking(&settings, Box::new(Scripted(Arc::clone(&script))), pace);
        Bench { memberships, script, clock: Clock::by_hand(NOW_S), stop: CancellationToken::new() }
    }

    fn has(&self, user: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self.script.groups_of.lock().insert(user.to_owned(), groups);
    }

    fn fails(&self, error: Option<DirectoryError>) {
        *self.script.error.lock() = error;
    }

    fn look(&self, user: &str) -> Look {
        self.memberships.look(user, self.clock.now())
    }

    fn known(&self, user: &str) -> Option<Arc<Membership>> {
        known(self.look(user))
    }

    /// Waits as a request does: once.
    async fn waited(&self, user: &str) -> Option<Arc<Membership>> {
        if let Look::Unknown { wait: Some(wait), .. } = self.look(user) {
            wait.await;
        }
        self.known(user)
    }

    fn asked(&self) -> usize {
        self.script.asked.lock().len()
    }

    fn status(&self) -> DirectoryStatus {
        self.memberships.status(self.clock.now())
    }

    fn later_s(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Until the task has looked what falls due twice: whatever was due has been begun.
    async fn settled(&self) {
        for _ in 0..3 {
            tokio::time::sleep(QUICK.tick * 2).await;
            until(|| self.status().in_flight == 0 || self.script.hangs.load(Ordering::SeqCst)).await;
        }
    }
}

fn settings(kind: DirectoryKind) -> DirectorySettings {
    DirectorySettings {
        name: "people".into(),
        kind,
        refresh: Duration::from_secs(REFRESH_S),
        keep: Duration::from_secs(KEEP_S),
        absent: Absent::Unknown,
    }
}

fn known(look: Look) -> Option<Arc<Membership>> {
    match look {
        Look::Known(membership) => Some(membership),
        Look::Unknown { .. } => None,
    }
}

fn names(membership: &Membership) -> String {
    membership.groups().join(" ")
}

async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came about");
}

fn down() -> DirectoryError {
    DirectoryError::Refused { host: "h".to_owned(), status: 500, code: String::new() }
}

fn throttled(retry_after_s: Option<u64>) -> DirectoryError {
    let retry_after = retry_after_s.map(Duration::from_secs);
    DirectoryError::Throttled { host: "h".to_owned(), status: 429, retry_after }
}

#[tokio::test]
async fn one_question_answers_all_who_wait_and_who_comes_after() {
    let bench = Bench::start();
    bench.has("alice", &["ops", "eng", "ops", "a,b \"c\""]);
    let held = bench.script.hold.write().await;
    let waits: Vec<_> = (0..100)
        .map(|_| match bench.look("alice") {
            Look::Unknown { wait: Some(wait), ignorance: Some(ignorance) } => (wait, ignorance),
            look => panic!("{look:?}"),
        })
        .collect();
    drop(held);
    for (wait, ignorance) in waits {
        wait.await;
        assert!(!ignorance.holds(), "what rested on knowing nothing ends");
    }
    let membership = bench.known("alice").unwrap();
    assert_eq!(names(&membership), "a,b \"c\" eng ops");
    assert!(Arc::ptr_eq(&membership, &bench.known("alice").unwrap()));
    assert_eq!(bench.asked(), 1);
    let status = bench.status();
    assert_eq!((status.people, status.fetches, status.failures, status.age_s), (1, 1, 0, Some(0)));
}

#[tokio::test]
async fn groups_are_asked_for_ahead_of_need_and_others_end_what_rested_on_them() {
    let bench = Bench::start();
    bench.has("alice", &["eng"]);
    bench.has("bob", &["eng"]);
    let (alice, bob) = (bench.waited("alice").await.unwrap(), bench.waited("bob").await.unwrap());
    for (round, groups, is_same) in [(1, vec!["eng"], true), (2, vec!["eng", "ops"], false), (3, vec![], false)] {
        bench.has("alice", &groups);
        let before = bench.known("alice").unwrap();
        bench.later_s(REFRESH_S);
        // Nobody waits: the old answer stands until there is a new one.
        assert!(bench.known("alice").is_some());
        until(|| bench.asked() == 2 + 2 * round).await;
        until(|| bench.status().in_flight == 0).await;
        let after = bench.known("alice").unwrap();
        assert_eq!(after.groups().iter().map(|group| &**group).collect::<Vec<_>>(), groups);
        assert_eq!((Arc::ptr_eq(&before, &after), before.is_live()), (is_same, is_same), "{groups:?}");
        assert!(after.is_live());
        assert!(bob.is_live() && Arc::ptr_eq(&bob, &bench.known("bob").unwrap()), "of others nothing changes");
    }
    assert!(!alice.is_live());
}

#[tokio::test]
async fn while_the_directory_is_down_what_is_known_stays_for_so_long_and_is_then_unknown() {
    let bench = Bench::start();
    bench.has("alice", &["eng"]);
    let membership = bench.waited("alice").await.unwrap();
    bench.fails(Some(down()));
    for _ in 0..11 {
        bench.later_s(REFRESH_S);
        let before = bench.status().failures;
        until(|| bench.status().failures > before).await;
        assert!(Arc::ptr_eq(&membership, &bench.known("alice").unwrap()) && membership.is_live());
    }
    bench.later_s(KEEP_S - 11 * REFRESH_S - 1);
    bench.settled().await;
    assert!(bench.known("alice").is_some());
    // The very second, whether or not the task has come round to it.
    bench.later_s(1);
    assert!(bench.known("alice").is_none());
    until(|| !membership.is_live()).await;
    // A request that comes now rests on ignorance.
    bench.settled().await;
    let Look::Unknown { ignorance: Some(ignorance), .. } = bench.look("alice") else { panic!("known") };
    assert!(ignorance.holds());
    assert!(bench.status().last_error.unwrap().contains("500"));
    bench.fails(None);
    bench.later_s(60);
    until(|| bench.known("alice").is_some()).await;
    assert!(!ignorance.holds());
    assert_eq!(bench.status().last_error, None);
}

#[tokio::test]
async fn who_is_not_there_is_unknown_unless_the_config_says_that_everybody_is() {
    let bench = Bench::start();
    assert!(bench.waited("mallory").await.is_none());
    let Look::Unknown { wait: None, ignorance: Some(ignorance) } = bench.look("mallory") else { panic!("waits") };
    assert!(ignorance.holds());
    bench.later_s(59);
    bench.settled().await;
    assert_eq!(bench.asked(), 1, "not again before a minute has passed");
    bench.has("mallory", &["eng"]);
    bench.later_s(1);
    until(|| bench.known("mallory").is_some()).await;
    assert!(!ignorance.holds());

    // Somebody who is taken out is known no longer.
    let membership = bench.known("mallory").unwrap();
    bench.script.groups_of.lock().clear();
    bench.later_s(REFRESH_S);
    until(|| !membership.is_live()).await;
    assert!(bench.known("mallory").is_none());

    let bench = Bench::with(Absent::NoGroups, QUICK);
    let nothing = bench.waited("mallory").await.unwrap();
    assert!(nothing.groups().is_empty() && nothing.is_live());
    bench.has("mallory", &["eng"]);
    bench.later_s(60);
    until(|| !nothing.is_live()).await;
    assert_eq!(names(&bench.known("mallory").unwrap()), "eng");
}

#[tokio::test]
async fn a_directory_that_wants_us_slower_is_left_alone_for_so_long() {
    for (retry_after_s, pause_s) in [(Some(30), 30), (Some(99_999_999), 3600), (Some(0), 1), (None, 1)] {
        let bench = Bench::start();
        bench.has("alice", &["eng"]);
        bench.has("bob", &["eng"]);
        bench.has("carol", &["eng"]);
        let carol = bench.waited("carol").await.unwrap();
        bench.fails(Some(throttled(retry_after_s)));
        assert!(bench.waited("alice").await.is_none());
        bench.fails(None);
        // Nobody is asked about, and nobody waits for what does not come; who is known stays so.
        for user in ["alice", "bob"] {
            assert!(matches!(bench.look(user), Look::Unknown { wait: None, ignorance: Some(_) }), "{user}");
        }
        assert!(Arc::ptr_eq(&carol, &bench.known("carol").unwrap()));
        if pause_s > 1 {
            bench.later_s(pause_s - 1);
            bench.settled().await;
            assert_eq!(bench.status().throttled, 1);
            assert!(bench.status().paused_s.is_some() && bench.known("alice").is_none());
            bench.look("bob");
        }
        bench.later_s(1);
        until(|| bench.known("alice").is_some() && bench.known("bob").is_some()).await;
        assert_eq!(bench.status().paused_s, None);
    }
}

#[tokio::test]
async fn after_failures_one_tries_for_all_and_less_and_less_often() {
    let bench = Bench::start();
    bench.fails(Some(down()));
    for n in 0..50 {
        bench.look(&format!("u{n}"));
    }
    until(|| bench.status().failures > 0).await;
    bench.settled().await;
    // Those that were begun together failed together, which is one failure.
    assert!(bench.asked() <= QUICK.in_flight_max, "{}", bench.asked());
    assert!(bench.status().paused_s.is_some_and(|pause_s| pause_s <= 1), "{:?}", bench.status());
    let first = bench.asked();
    for attempt in 1..=8 {
        bench.later_s(60);
        until(|| bench.asked() > first + attempt - 1).await;
        bench.settled().await;
        assert_eq!(bench.asked(), first + attempt, "one in each pause");
    }
    let paused_s = bench.status().paused_s.unwrap();
    assert!((29..=60).contains(&paused_s), "half a minute to a minute: {paused_s}");
    bench.fails(None);
    for n in 0..50 {
        bench.has(&format!("u{n}"), &["eng"]);
    }
    bench.later_s(60);
    until(|| (0..50).all(|n| bench.known(&format!("u{n}")).is_some())).await;
}

#[tokio::test]
async fn one_person_who_cannot_be_told_is_no_reason_to_ask_about_no_other() {
    let bench = Bench::start();
    let odd = [
        DirectoryError::TooMany { groups_max: 1_000 },
        DirectoryError::TooDeep { depth_max: 5 },
        DirectoryError::Refused { host: "h".to_owned(), status: 403, code: "forbidden".to_owned() },
        DirectoryError::Refused { host: "h".to_owned(), status: 400, code: "invalid".to_owned() },
    ];
    for (n, error) in odd.into_iter().enumerate() {
        let (odd, other) = (format!("odd{n}"), format!("other{n}"));
        bench.script.error_of.lock().insert(odd.clone(), error);
        bench.has(&other, &["eng"]);
        assert!(bench.waited(&odd).await.is_none());
        assert_eq!(bench.status().paused_s, None);
        assert!(bench.waited(&other).await.is_some());
    }
    bench.later_s(59);
    bench.settled().await;
    assert_eq!(bench.asked(), 8);
    bench.script.error_of.lock().clear();
    bench.has("odd0", &["eng"]);
    bench.later_s(1);
    until(|| bench.known("odd0").is_some()).await;
}

#[tokio::test]
async fn eight_are_asked_about_at_once_and_no_more_wait_than_may() {
    let pace = Pace { queued_max: 20, ..QUICK };
    let bench = Bench::with(Absent::NoGroups, pace);
    let held = bench.script.hold.write().await;
    for n in 0..8 {
        bench.look(&format!("u{n}"));
    }
    until(|| bench.asked() == 8).await;
    for n in 8..40 {
        match bench.look(&format!("u{n}")) {
            Look::Unknown { wait: Some(_), ignorance: Some(_) } if n < 28 => {}
            // Nothing that could end: who is built on it must not be kept.
            Look::Unknown { wait: None, ignorance: None } if n >= 28 => {}
            look => panic!("u{n}: {look:?}"),
        }
    }
    let status = bench.status();
    assert_eq!((status.in_flight, status.queued, status.dropped), (8, 20, 12));
    drop(held);
    until(|| (0..28).all(|n| bench.known(&format!("u{n}")).is_some())).await;
    assert_eq!(bench.script.at_once_max.load(Ordering::SeqCst), 8);
    assert!(bench.waited("u39").await.is_some(), "there is room again");
}

#[tokio::test]
async fn no_more_people_and_bytes_are_held_than_may_be() {
    let long: Vec<String> = (0..20).map(|n| format!("group-{n:094}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    for (pace, groups, held_max) in [
        (Pace { people_max: 10, ..QUICK }, vec!["eng"], 10),
        // One has some 3,200 bytes.
        (Pace { bytes_max: 20_000, ..QUICK }, long, 6),
    ] {
        let bench = Bench::with(Absent::Unknown, pace);
        let mut memberships = Vec::new();
        for n in 0..30 {
            let user = format!("u{n}");
            bench.has(&user, &groups);
            memberships.push(bench.waited(&user).await.expect("the newest is held"));
            assert!(bench.status().people <= pace.people_max && bench.status().bytes <= pace.bytes_max);
        }
        let live = memberships.iter().filter(|membership| membership.is_live()).count();
        assert_eq!((live, bench.status().people), (held_max, held_max));
        assert_eq!(bench.status().evicted, 30 - held_max as u64);
        // Who was forgotten is asked about again.
        let forgotten = memberships.iter().position(|membership| !membership.is_live()).unwrap();
        assert!(bench.waited(&format!("u{forgotten}")).await.is_some());
    }
}

#[tokio::test]
async fn who_is_not_seen_is_forgotten_and_who_is_only_cached_is_seen() {
    let bench = Bench::start();
    for user in ["idle", "cached", "asking"] {
        bench.has(user, &["eng"]);
    }
    let idle = bench.waited("idle").await.unwrap();
    let cached = bench.waited("cached").await.unwrap();
    let asking = bench.waited("asking").await.unwrap();
    for round in 1..=10 {
        bench.later_s(REFRESH_S);
        assert!(cached.holds(), "{round}: as the cache asks");
        bench.look("asking");
        bench.settled().await;
    }
    assert!(cached.is_live() && asking.is_live());
    // Asking whether it is live would be seeing it, so it was not asked before.
    assert!(!idle.is_live());
    assert_eq!(bench.status().people, 2);
    assert!(bench.waited("idle").await.is_some());
}

#[tokio::test]
async fn a_panic_or_an_answer_that_never_ends_is_one_failure() {
    let bench = Bench::with(Absent::Unknown, Pace { fetch_max: Duration::from_millis(20), ..QUICK });
    for (flag, said) in [(&bench.script.panics, "bug"), (&bench.script.hangs, "no answer within 20ms")] {
        flag.store(true, Ordering::SeqCst);
        let user = said.replace(' ', "");
        bench.has(&user, &["eng"]);
        assert!(bench.waited(&user).await.is_none());
        assert!(bench.status().last_error.unwrap().contains(said));
        flag.store(false, Ordering::SeqCst);
        bench.later_s(60);
        until(|| bench.known(&user).is_some()).await;
    }
}

#[tokio::test]
async fn without_a_task_nobody_waits() {
    let bench = Bench::still(Absent::Unknown, QUICK);
    bench.has("alice", &["eng"]);
    assert!(matches!(bench.look("alice"), Look::Unknown { wait: None, ignorance: None }));
    bench.memberships.spawn(bench.clock.clone(), bench.stop.clone());
    let alice = bench.waited("alice").await.unwrap();
    for user in ["", &"x".repeat(513)] {
        assert!(matches!(bench.look(user), Look::Unknown { wait: None, ignorance: None }));
    }

    // It ends while somebody waits: they are told, and what is known stays for those who are still being answered.
    let _held = bench.script.hold.write().await;
    let Look::Unknown { wait: Some(wait), .. } = bench.look("bob") else { panic!("known") };
    until(|| bench.asked() == 2).await;
    bench.stop.cancel();
    wait.await;
    assert!(Arc::ptr_eq(&alice, &bench.known("alice").unwrap()) && alice.is_live());
    assert!(matches!(bench.look("bob"), Look::Unknown { wait: None, .. }));
    until(|| Arc::strong_count(&bench.script) == 2).await;
}

#[tokio::test]
async fn dropping_it_ends_its_task() {
    let bench = Bench::start();
    let script = Arc::clone(&bench.script);
    let _held = bench.script.hold.write().await;
    let Look::Unknown { wait: Some(wait), .. } = bench.look("alice") else { panic!("known") };
    until(|| bench.asked() == 1).await;
    drop(bench.memberships);
    wait.await;
    until(|| Arc::strong_count(&script) == 2).await;
}

#[tokio::test]
async fn whatever_a_directory_does_over_http_is_unknown_until_it_answers() {
    let fake = Fake::start().await;
    fake.has("alice@acme.example", &["eng@acme.example"]);
    fake.has("eng@acme.example", &[]);
    let settings = settings(DirectoryKind::Google(Box::new(fake.google())));
    let says = |status, retry_after| Fault::Says(status, retry_after, String::new());
    for (fault, said, pause_s) in [
        (Fault::Drips, "no answer within", 1),
        (Fault::Hangs, "no answer within", 1),
        (Fault::Breaks, "broke off", 1),
        (says(429, Some("30")), "slower (status 429)", 30),
        (says(503, Some("7200")), "slower (status 503)", 3600),
        (says(500, None), "refuses (status 500)", 1),
        (Fault::Instead("<html>".to_owned()), "not as documented", 1),
    ] {
        let is_slow = matches!(fault, Fault::Drips | Fault::Hangs);
        let pace = if is_slow { Pace { fetch_max: Duration::from_millis(200), ..QUICK } } else { QUICK };
        let memberships = Memberships::with_pace(&settings, pace);
        let (clock, stop) = (Clock::by_hand(NOW_S), CancellationToken::new());
        memberships.spawn(clock.clone(), stop.clone());
        fake.fails_with(fault.clone());
        let look = || memberships.look("alice@acme.example", clock.now());
        let Look::Unknown { wait: Some(wait), .. } = look() else { panic!("known") };
        wait.await;
        assert!(matches!(look(), Look::Unknown { wait: None, ignorance: Some(_) }), "{fault:?}");
        let status = memberships.status(clock.now());
        assert!(status.last_error.as_ref().is_some_and(|error| error.contains(said)), "{fault:?}: {status:?}");
        let paused_s = status.paused_s.unwrap();
        assert!(paused_s <= pause_s && (pause_s == 1 || paused_s == pause_s), "{fault:?}: {paused_s}");
        clock.advance(Duration::from_secs(pause_s));
        let mut found = None;
        until(|| {
            // On a machine without time to spare an answer may be too slow again.
            clock.advance(Duration::from_secs(u64::from(is_slow)));
            found = known(look());
            found.is_some()
        })
        .await;
        assert_eq!(names(&found.unwrap()), "eng@acme.example");
    }
}

#[tokio::test]
async fn a_reload_goes_on_with_what_is_known_where_the_settings_are_the_same() {
    let fake = Fake::start().await;
    fake.has("11111111-2222-3333-4444-555555555555", &[]);
    let same = settings(DirectoryKind::Entra(Box::new(fake.entra())));
    let other = DirectorySettings { keep: Duration::from_secs(7200), ..same.clone() };
    let first = Directories::new(std::slice::from_ref(&same), None);
    let second = Directories::new(std::slice::from_ref(&same), Some(&first));
    let third = Directories::new(&[other], Some(&second));
    let of = |directories: &Directories| Arc::clone(directories.find("people").unwrap());
    assert!(Arc::ptr_eq(&of(&first), &of(&second)));
    assert!(!Arc::ptr_eq(&of(&second), &of(&third)));
    assert!(first.find("nobody").is_none());
    let clock = Clock::by_hand(NOW_S);
    assert_eq!(&*third.status(clock.now())[0].name, "people");
    third.spawn(&clock, &CancellationToken::new());
    third.spawn(&clock, &CancellationToken::new());
    let Look::Unknown { wait: Some(wait), .. } = of(&third).look("11111111-2222-3333-4444-555555555555", clock.now())
    else {
        panic!("known")
    };
    wait.await;
    assert_eq!(fake.times_asked(), 1, "one task");
}

fn write(path: &Path, text: &str) {
    // As an editor does: in one step.
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.yaml");
    write(&path, "alice: [eng, ops]\nbob: [eng]\n");
    for absent in [Absent::Unknown, Absent::NoGroups] {
        write(&path, "alice: [eng, ops]\nbob: [eng]\n");
        let settings = DirectorySettings { absent, ..settings(DirectoryKind::File(path.clone())) };
        let memberships = Memberships::with_pace(&settings, QUICK);
        let clock = Clock::by_hand(NOW_S);
        let look = |user: &str| memberships.look(user, clock.now());
        let status = || memberships.status(clock.now());
        memberships.spawn(clock.clone(), CancellationToken::new());
        let (alice, bob) = (known(look("alice")).unwrap(), known(look("bob")).unwrap());
        assert_eq!(names(&alice), "eng ops");
        let carol = look("carol");

        write(&path, "alice: [ops, eng, eng]\nbob: [\"ops,1\"]\ncarol: [x]\n");
        until(|| status().fetches == 2).await;
        until(|| status().people == 3).await;
        assert!(alice.is_live() && Arc::ptr_eq(&alice, &known(look("alice")).unwrap()), "as before in another order");
        until(|| !bob.is_live()).await;
        assert_eq!(names(&known(look("bob")).unwrap()), "ops,1");
        match (carol, absent) {
            (Look::Unknown { wait: None, ignorance: Some(ignorance) }, Absent::Unknown) => assert!(!ignorance.holds()),
            (Look::Known(nothing), Absent::NoGroups) => assert!(nothing.groups().is_empty() && !nothing.is_live()),
            (look, absent) => panic!("{absent:?}: {look:?}"),
        }

        write(&path, "alice: [ops\n");
        until(|| status().failures == 1).await;
        assert!(alice.is_live() && known(look("carol")).is_some());
        assert!(status().last_error.unwrap().contains("not a map of people"));
        std::fs::remove_file(&path).unwrap();
        until(|| status().failures > 1).await;
        assert!(alice.is_live() && known(look("carol")).is_some());
        write(&path, "bob: []\n");
        until(|| status().last_error.is_none()).await;
        until(|| !alice.is_live()).await;
        assert!(known(look("bob")).unwrap().groups().is_empty());
    }
}

#[tokio::test]
async fn a_file_that_is_as_long_and_says_that_it_is_as_old_is_read_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.yaml");
    std::fs::write(&path, "alice: [ops]\n").unwrap();
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    let settings = settings(DirectoryKind::File(path.clone()));
    let memberships = Memberships::with_pace(&settings, QUICK);
    let clock = Clock::by_hand(NOW_S);
    memberships.spawn(clock.clone(), CancellationToken::new());
    let alice = known(memberships.look("alice", clock.now())).unwrap();
    // Until the kernel's clock for files has moved on.
    until(|| {
        std::fs::write(&path, "alice: [eng]\n").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        !alice.is_live()
    })
    .await;
    assert_eq!(names(&known(memberships.look("alice", clock.now())).unwrap()), "eng");
}

#[test]
fn a_file_that_was_never_read_leaves_everybody_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.yaml");
    for text in [None, Some("[]")] {
        if let Some(text) = text {
            write(&path, text);
        }
        let settings = DirectorySettings { absent: Absent::NoGroups, ..settings(DirectoryKind::File(path.clone())) };
        let memberships = Memberships::with_pace(&settings, QUICK);
        let look = memberships.look("alice", Clock::by_hand(NOW_S).now());
        assert!(matches!(look, Look::Unknown { wait: None, ignorance: Some(_) }), "{look:?}");
    }
}

#[test]
fn only_a_map_of_people_to_lists_of_groups_is_one() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, expected) in [
        ("a.yaml", "alice@acme.example: [eng, \"a,b \\\"c\\\"\"]\n\"007\":\n  - ops\nno: [off]\n", Some(3)),
        ("a.yaml", "eng: &eng [a, b]\nalice: *eng\n", Some(2)),
        ("a.yaml", "{\"alice\": [\"eng\"]}", Some(1)),
        ("a.json", "{\"alice\": [\"eng\"], \"bob\": []}", Some(2)),
        ("a.json", "{}", Some(0)),
        ("a.yaml", "{}", Some(0)),
        ("a.json", "alice: [eng]", None),
        ("a.json", "{\"alice\": [\"eng\"], \"alice\": [\"ops\"]}", None),
        ("a.yaml", "alice: [eng]\nalice: [ops]\n", None),
        ("a.yaml", "alice: eng\n", None),
        ("a.yaml", "alice: { eng: true }\n", None),
        ("a.yaml", "alice: [[eng]]\n", None),
        ("a.yaml", "- alice\n", None),
        ("a.yaml", "alice: [eng]\n---\nbob: [eng]\n", None),
        ("a.json", "{\"alice\": [1]}", None),
        ("a.json", "{\"alice\": null}", None),
        ("a.json", "{\"alice\": [\"eng\"]} x", None),
        ("a.json", "", None),
    ] {
        let path = folder.path().join(name);
        write(&path, text);
        assert_eq!(super::check_file(&path).ok(), expected, "{text}");
    }
    let path = folder.path().join("large.yaml");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(16 * 1024 * 1024 + 1).unwrap();
    assert!(matches!(super::check_file(&path), Err(super::FileError::TooLarge)));
}

/// A company of 100,000 people in eight groups.
#[test]
fn a_file_as_large_as_may_be_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for n in 0..100_000 {
        text += &format!("person-{n}@acme.example: [eng-{}, ops, staff, a-{n}, b-{n}, c-{n}, d-{n}, all]\n", n % 100);
    }
    assert!((8_000_000..16 * 1024 * 1024).contains(&text.len()), "{}", text.len());
    let path = folder.path().join("groups.yaml");
    write(&path, &text);
    assert_eq!(super::check_file(&path).unwrap(), 100_000);
}

/// What this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock()).lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_episode_has_one_line_at_each_end() {
    // In a process of its own: which lines are of interest to anybody is decided once for all threads, and a test beside
    // this one that logs to nobody can decide it just now.
    const ALONE: &str = "TOLLGATE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let test = "identity::directory::memberships_tests::an_episode_has_one_line_at_each_end";
        let output = again.args(["--exact", test]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        return assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let bench = Bench::start();
    bench.has("alice", &["eng"]);
    for _ in 0..2 {
        bench.fails(Some(down()));
        bench.look("secret-name@acme.example");
        for _ in 0..5 {
            let before = bench.status().failures;
            bench.look("alice");
            bench.later_s(REFRESH_S);
            until(|| bench.status().failures > before).await;
        }
        bench.fails(None);
        bench.later_s(REFRESH_S);
        until(|| bench.status().last_error.is_none()).await;
    }
    // One person who cannot be told is told of once a minute.
    bench.script.error_of.lock().insert("odd".to_owned(), DirectoryError::TooMany { groups_max: 7 });
    bench.script.error_of.lock().insert("odd2".to_owned(), DirectoryError::TooMany { groups_max: 7 });
    bench.waited("odd").await;
    bench.waited("odd2").await;
    let lines = log.lines();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("groups cannot be asked for"), 2, "{lines:#?}");
    assert_eq!(count("groups can be asked for again"), 2, "{lines:#?}");
    assert_eq!(count("one person's groups cannot be told"), 1, "{lines:#?}");
    assert!(count("secret-name") == 0 && count("alice") == 0, "{lines:#?}");
}
