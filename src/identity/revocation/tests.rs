//! Agents, a person at a terminal, and a real Redis between them.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::copy::Copy;
use super::follow::Pace;
use super::record::{Id, Record};
use super::store::Store;
use super::*;
use crate::identity::settings::{Algorithm, AtStart, RevocationSettings, Settings};
use crate::identity::testing::{ISSUER, NOW_S, P256_A, good_claims, pinned, with};
use crate::identity::{Accepted, Answers, Groups, Identified, Identities};
use crate::link::RedisSettings;
use crate::request::Request;
use crate::secret::Secret;
use crate::trace::Trace;

const BY_PUSH: Pace = Pace { polls: false, listens: true };
const BY_ASKING: Pace = Pace { polls: true, listens: false };

#[tokio::test]
async fn a_push_alone_is_enough_and_so_is_asking() {
    let redis = Redis::start(false);
    for pace in [BY_PUSH, BY_ASKING, Pace::PRODUCTION] {
        let agents = [Agent::start(&redis, None, pace).await, Agent::start(&redis, None, pace).await];
        let register = redis.register();
        let mut undone = Vec::new();
        // Several one after the other: each push must follow on the one before.
        for what in [subject("alice"), token(b"t"), session("s"), issuer()] {
            agents.iter().for_each(|agent| assert!(!agent.refuses(&what), "{pace:?} {what:?}"));
            let revoked = register.revoke(until(&what, 600)).await.unwrap();
            assert_eq!(revoked.listening, if pace.listens { 2 } else { 0 });
            for agent in &agents {
                eventually("it is refused", || agent.refuses(&what)).await;
            }
            undone.push((revoked.id, what));
        }
        for (id, what) in undone.iter().rev() {
            assert!(matches!(register.undo(*id).await.unwrap(), Undone::Now { .. }));
            for agent in &agents {
                eventually("it is accepted again", || !agent.refuses(what)).await;
            }
            assert_eq!(register.undo(*id).await.unwrap(), Undone::Before);
        }
        assert_eq!(register.undo(Id(1)).await.unwrap(), Undone::Unknown);
        assert_eq!(register.list().await.unwrap(), []);
    }
}

#[tokio::test]
async fn it_outlives_the_agent() {
    let mut redis = Redis::start(false);
    let folder = folder();
    let (kept, register) = (Copy::of(folder.path()), redis.register());
    let first = Agent::start(&redis, Some(&kept), Pace::PRODUCTION).await;
    register.revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is refused", || first.refuses(&subject("alice"))).await;
    eventually("it is kept", || kept.load().unwrap().is_some_and(|book| book.len() == 1)).await;
    drop(first);
    // Another agent, from Redis alone: it knows before it is asked anything.
    let second = Agent::start(&redis, None, Pace::PRODUCTION).await;
    assert!(second.refuses(&subject("alice")));
    drop(second);
    // And one that finds no Redis, from the copy alone.
    redis.stop();
    let third = Agent::start_alone(&redis, Some(&kept), AtStart::Wait);
    assert!(third.refuses(&subject("alice")) && !third.refuses(&subject("bob")));
    let status = third.revocations.status(Clock::system().now());
    assert_eq!(status, RevocationStatus { entries: 1, age_s: None, listening: false });
}

#[tokio::test]
async fn it_outlives_redis_with_and_without_its_data() {
    for keeps in [true, false] {
        let mut redis = Redis::start(keeps);
        let agent = Agent::start(&redis, None, Pace::PRODUCTION).await;
        redis.register().revoke(until(&subject("alice"), 600)).await.unwrap();
        eventually("it is refused", || agent.refuses(&subject("alice"))).await;
        redis.stop();
        // A while in which an agent notices.
        eventually("nothing is pushed any more", || !agent.status().listening).await;
        assert!(agent.refuses(&subject("alice")), "what is known holds");
        redis.start_again();
        eventually("Redis has it", || redis.count() == 1).await;
        let another = Agent::start(&redis, None, Pace::PRODUCTION).await;
        assert!(another.refuses(&subject("alice")), "keeps data: {keeps}");
        // And both hear of the next.
        redis.register().revoke(until(&subject("bob"), 600)).await.unwrap();
        for agent in [&agent, &another] {
            eventually("the next is refused too", || agent.refuses(&subject("bob"))).await;
        }
    }
}

#[tokio::test]
async fn an_emptied_redis_is_filled_again_while_it_runs() {
    let redis = Redis::start(false);
    let agent = Agent::start(&redis, None, Pace::PRODUCTION).await;
    redis.register().revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is refused", || agent.refuses(&subject("alice"))).await;
    redis.ask(&["FLUSHALL"]);
    eventually("Redis has it again", || redis.count() == 1).await;
    assert!(agent.refuses(&subject("alice")));
}

#[tokio::test]
async fn it_outlives_agent_and_redis_at_once() {
    let mut redis = Redis::start(false);
    let folder = folder();
    let kept = Copy::of(folder.path());
    let agent = Agent::start(&redis, Some(&kept), Pace::PRODUCTION).await;
    redis.register().revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is kept", || kept.load().unwrap().is_some_and(|book| book.len() == 1)).await;
    drop(agent);
    redis.stop();
    redis.start_again();
    assert_eq!(redis.count(), 0);
    let agent = Agent::start(&redis, Some(&kept), Pace::PRODUCTION).await;
    assert!(agent.refuses(&subject("alice")));
    eventually("Redis has it again", || redis.count() == 1).await;
}

#[tokio::test]
async fn what_was_undone_is_not_brought_back_by_who_missed_it() {
    let redis = Redis::start(false);
    let folder = folder();
    let (kept, register) = (Copy::of(folder.path()), redis.register());
    let missed_it = Agent::start(&redis, Some(&kept), Pace::PRODUCTION).await;
    let heard_it = Agent::start(&redis, None, Pace::PRODUCTION).await;
    let id = register.revoke(until(&subject("alice"), 600)).await.unwrap().id;
    eventually("it is kept", || kept.load().unwrap().is_some_and(|book| book.len() == 1)).await;
    drop(missed_it);
    register.undo(id).await.unwrap();
    eventually("it is accepted", || !heard_it.refuses(&subject("alice"))).await;
    // With Redis as it was, and with one that has lost what was undone as well.
    for lost in [false, true] {
        if lost {
            redis.ask(&["FLUSHALL"]);
        }
        let back = Agent::start(&redis, Some(&kept), Pace::PRODUCTION).await;
        eventually("it hears of that", || !back.refuses(&subject("alice"))).await;
        eventually("it is in Redis", || redis.count() == 1).await;
        assert!(!heard_it.refuses(&subject("alice")), "lost: {lost}");
        assert_eq!(register.list().await.unwrap(), [], "lost: {lost}");
    }
}

#[tokio::test]
async fn redis_goes_from_nothing_to_revoked_to_undone_and_never_back() {
    let redis = Redis::start(false);
    let store = Store::new(&redis.settings().redis).unwrap();
    let revoked = Record::Revoked(until(&subject("alice"), 600));
    let other = Record::Revoked(until(&subject("bob"), 600));
    let undone = Record::Undone { until_s: i64::MAX };
    let mut version = String::new();
    // What is put under which name, whether that is news, and what is there then.
    for (name, record, news, expected) in [
        (1, &revoked, true, &revoked),
        (1, &revoked, false, &revoked),
        (1, &other, false, &revoked),
        (1, &undone, true, &undone),
        (1, &undone, false, &undone),
        (1, &revoked, false, &undone),
        (2, &undone, true, &undone),
        (2, &revoked, false, &undone),
    ] {
        let put = store.put(&[(Id(name), record.clone())]).await.unwrap();
        assert_eq!((put.changed, put.full, &put.before), (u64::from(news), 0, &version), "{name} {record:?}");
        assert_eq!(put.after != version, news, "{name} {record:?}");
        assert_eq!(store.record(Id(name)).await.unwrap().as_ref(), Some(expected), "{name} {record:?}");
        version = store.version().await.unwrap();
        assert_eq!(put.after, version);
    }
}

#[tokio::test]
async fn an_agent_that_knows_nothing_does_what_its_config_says() {
    let mut redis = Redis::start(false);
    redis.register().revoke(until(&subject("alice"), 600)).await.unwrap();
    redis.ask(&["SAVE"]);
    redis.stop();
    let open = Agent::start_alone(&redis, None, AtStart::Open);
    let waits = Agent::start_alone(&redis, None, AtStart::Wait);
    let now = Clock::system().now();
    assert_eq!(open.check(&subject("alice"), now), Ok(()));
    assert_eq!(waits.check(&subject("alice"), now), Err(Rejection::RevocationsUnknown));
    assert_eq!(waits.check(&subject("bob"), now), Err(Rejection::RevocationsUnknown));
    redis.start_again();
    for agent in [&open, &waits] {
        eventually("it is refused", || agent.refuses(&subject("alice"))).await;
        assert_eq!(agent.check(&subject("bob"), now), Ok(()));
    }
}

#[tokio::test]
async fn what_is_none_of_ours_changes_nothing() {
    let redis = Redis::start(false);
    let agent = Agent::start(&redis, None, BY_PUSH).await;
    redis.register().revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is refused", || agent.refuses(&subject("alice"))).await;
    redis.ask(&["HSET", "tg:revoked", "00000000000000aa", "+junk", "x", "y"]);
    for push in ["", " ", "a", "a b c d", "x y 00000000000000ab -{\"until\":9}", "  00000000000000ab -{}"] {
        redis.ask(&["PUBLISH", "tg:revoked", push]);
    }
    // A push of ours after all of theirs has been read.
    redis.register().revoke(until(&subject("bob"), 600)).await.unwrap();
    eventually("the next is refused", || agent.refuses(&subject("bob"))).await;
    assert!(agent.refuses(&subject("alice")) && !agent.refuses(&subject("carol")));
    assert_eq!(agent.status().entries, 2);
}

#[tokio::test]
async fn a_user_who_may_not_listen_asks() {
    let redis = Redis::start(false);
    redis.ask(&["ACL", "SETUSER", "agent", "on", ">secret", "~tg:*", "+@all", "resetchannels"]);
    let url = format!("{}?user=agent&pass=secret", redis.url());
    let settings = RevocationSettings {
        redis: RedisSettings { url: Secret::new(url), ..redis.settings().redis },
        at_start: AtStart::Open,
    };
    let revocations = Revocations::with_pace(&settings, None, None, Pace::PRODUCTION).unwrap();
    revocations.spawn(&Clock::system(), &CancellationToken::new());
    let agent = Agent { revocations };
    let revoked = Register::new(&settings).unwrap().revoke(until(&subject("alice"), 600)).await.unwrap();
    assert_eq!(revoked.listening, 0);
    eventually("it is refused", || agent.refuses(&subject("alice"))).await;
    assert!(!agent.status().listening);
}

#[tokio::test]
async fn a_dead_connection_is_not_waited_for() {
    let redis = Redis::start(false);
    let agent = Agent::start(&redis, None, Pace::PRODUCTION).await;
    for number in 0..5 {
        redis.ask(&["CLIENT", "KILL", "TYPE", if number % 2 == 0 { "pubsub" } else { "normal" }]);
        let name = number.to_string();
        redis.register().revoke(until(&subject(&name), 600)).await.unwrap();
        eventually("it is refused", || agent.refuses(&subject(&name))).await;
    }
    eventually("it listens again", || agent.status().listening).await;
}

#[tokio::test]
async fn databases_of_one_redis_have_their_own() {
    let redis = Redis::start(false);
    let other = RevocationSettings {
        redis: RedisSettings { url: Secret::new(format!("{}?db=1", redis.url())), ..redis.settings().redis },
        at_start: AtStart::Open,
    };
    let agents =
        [Agent::start(&redis, None, Pace::PRODUCTION).await, Agent::start_with(&other, None, Pace::PRODUCTION).await];
    Register::new(&other).unwrap().revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is refused", || agents[1].refuses(&subject("alice"))).await;
    redis.register().revoke(until(&subject("bob"), 600)).await.unwrap();
    eventually("it is refused", || agents[0].refuses(&subject("bob"))).await;
    assert!(!agents[0].refuses(&subject("alice")) && !agents[1].refuses(&subject("bob")));
}

#[tokio::test]
async fn what_has_ended_goes_from_redis_too() {
    let redis = Redis::start(false);
    let store = Store::new(&redis.settings().redis).unwrap();
    let now_s = Clock::system().now().unix_s();
    let record = |until_s| Record::Revoked(Revocation { what: subject("alice"), at_s: now_s - 9000, until_s });
    let records: Vec<_> = (0..1200).map(|id| (Id(id), record(now_s - 7200))).collect();
    store.put(&records).await.unwrap();
    store.put(&[(Id(5000), record(now_s + 600))]).await.unwrap();
    assert_eq!(redis.count(), 1201);
    let agent = Agent::start(&redis, None, Pace::PRODUCTION).await;
    eventually("only what holds is left", || redis.count() == 1).await;
    eventually("here too", || agent.status().entries == 1).await;
    assert!(agent.refuses(&subject("alice")));
}

/// An agent whose clock is hours ahead tidies by Redis's.
#[tokio::test]
async fn what_still_holds_stays_in_redis_whatever_time_an_agent_has() {
    let redis = Redis::start(false);
    let store = Store::new(&redis.settings().redis).unwrap();
    let now_s = store.now_s().await.unwrap();
    let record = |until_s| Record::Revoked(Revocation { what: subject("alice"), at_s: now_s - 9000, until_s });
    store.put(&[(Id(1), record(now_s - 7200)), (Id(2), record(now_s + 600))]).await.unwrap();
    let ahead = Clock::by_hand((now_s + 10_000).try_into().unwrap());
    let revocations = Revocations::with_pace(&redis.settings(), None, None, Pace::PRODUCTION).unwrap();
    revocations.spawn(&ahead, &CancellationToken::new());
    let ended = async || store.record(Id(1)).await.unwrap().is_none();
    let gone = async {
        while !ended().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("what has ended is gone");
    assert!(store.record(Id(2)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_list_of_everybody_is_refused() {
    let redis = Redis::start(false);
    let (store, register) = (Store::new(&redis.settings().redis).unwrap(), redis.register());
    let now_s = register.now_s().await.unwrap();
    let most = super::book::ENTRIES_MAX as u64;
    let record = |id: u64, until_s| {
        let record = Revocation { what: subject(&format!("user-{id:032}")), at_s: now_s, until_s };
        (Id(id), Record::Revoked(record))
    };
    for from in (0..most).step_by(Store::BATCH) {
        let batch: Vec<_> = (from..from + Store::BATCH as u64).map(|id| record(id, now_s + 600)).collect();
        assert_eq!(store.put(&batch).await.unwrap().changed, Store::BATCH as u64);
    }
    // An agent holds them all, and says so when there is one more.
    let agent = Agent::start(&redis, None, Pace::PRODUCTION).await;
    assert_eq!(agent.status().entries, most);
    assert!(agent.refuses(&subject(&format!("user-{:032}", most - 1))));
    let said = register.revoke(until(&subject("alice"), 600)).await.unwrap_err().to_string();
    assert!(said.contains("100000") && said.contains("revoke the issuer"), "{said}");
    // One that is undone takes its own place, and what ended long ago makes room.
    assert!(matches!(register.undo(Id(7)).await.unwrap(), Undone::Now { .. }));
    eventually("it is accepted", || !agent.refuses(&subject(&format!("user-{:032}", 7)))).await;
    store.forget(&[Id(8)]).await.unwrap();
    let (id, ended) = record(8, now_s - 7200);
    assert_eq!(store.put(&[(id, ended)]).await.unwrap().changed, 1);
    register.revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is refused", || agent.refuses(&subject("alice"))).await;
}

#[tokio::test]
async fn nobody_listens_for_a_list_that_is_gone() {
    let redis = Redis::start(false);
    let listening = || redis.ask(&["PUBSUB", "NUMSUB", "tg:revoked"]).lines().nth(1).unwrap().to_owned();
    let agent = Agent::start(&redis, None, Pace::PRODUCTION).await;
    assert_eq!(listening(), "1");
    // The same Redis is followed once, and what is known goes over to another list.
    redis.register().revoke(until(&subject("alice"), 600)).await.unwrap();
    eventually("it is refused", || agent.refuses(&subject("alice"))).await;
    let same = Revocations::new(&redis.settings(), None, Some(&agent.revocations)).unwrap();
    assert!(Arc::ptr_eq(&same, &agent.revocations));
    let elsewhere = RevocationSettings { at_start: AtStart::Wait, ..Redis::nowhere() };
    let next = Revocations::new(&elsewhere, None, Some(&agent.revocations)).unwrap();
    assert_eq!(refuses(&next, &subject("alice")), Err(Rejection::TokenRevoked));
    drop((same, agent));
    eventually("nobody listens", || listening() == "0").await;
}

#[tokio::test]
async fn the_stage_refuses_a_revoked_token_however_its_signature_is_written() {
    let redis = Redis::start(false);
    let settings = Settings {
        issuers: vec![pinned("acme", ISSUER, &[P256_A.jwk("e")])],
        revocations: Some(redis.settings()),
        ..Settings::default()
    };
    let identities = Identities::new(settings, Arc::new(Groups::default()), None).unwrap();
    let clock = Clock::by_hand(NOW_S);
    identities.spawn(&clock, &CancellationToken::new());
    identities.revocations_read().await;
    let ask = async |token: &str| {
        let field = format!("Bearer {token}");
        let request = Request { authorization: Some(field.as_bytes()), ..Request::default() };
        let mut answers = Answers::default();
        loop {
            match identities.identify(&request, &Accepted::default(), &answers, clock.now(), &mut Trace::off()) {
                Identified::Known(identity) => return Ok(identity.user.clone()),
                Identified::Rejected(rejection) => return Err(rejection),
                Identified::Wait(wait) => answers.add(wait.await),
            }
        }
    };
    let token = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    let another = P256_A.sign(Algorithm::ES256, "e", &with(&good_claims(), json!({ "jti": "2" })));
    let rewritten = with_the_other_s(&token);
    assert_ne!(rewritten, token);
    for token in [&token, &rewritten, &another] {
        assert_eq!(ask(token).await, Ok("alice".to_owned()), "as good as the other, and cached from here on");
    }
    let until_s = i64::try_from(NOW_S).unwrap() + 600;
    let what = What::Token { fingerprint: Fingerprint::of(token.as_bytes()) };
    let id = redis.register().revoke(Revocation { what, at_s: 1, until_s }).await.unwrap().id;
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask(&token).await.is_ok() {
        assert!(Instant::now() < deadline, "it is refused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ask(&token).await, Err(Rejection::TokenRevoked));
    assert_eq!(ask(&rewritten).await, Err(Rejection::TokenRevoked));
    assert_eq!(ask(&another).await, Ok("alice".to_owned()));
    redis.register().undo(id).await.unwrap();
    while ask(&token).await.is_err() {
        assert!(Instant::now() < deadline, "it is accepted again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same token with the other valid signature: (r, n - s) for (r, s).
fn with_the_other_s(token: &str) -> String {
    // The order of P-256 (FIPS 186-4, D.1.2.3).
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
        0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for (s, n) in signature[32..].iter_mut().zip(N).rev() {
        let difference = i32::from(n) - i32::from(*s) - borrow;
        borrow = i32::from(difference < 0);
        *s = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn subject(subject: &str) -> What {
    What::Subject { issuer: "i".to_owned(), subject: subject.to_owned() }
}

fn session(session: &str) -> What {
    What::Session { issuer: "i".to_owned(), session: session.to_owned() }
}

fn token(token: &[u8]) -> What {
    What::Token { fingerprint: Fingerprint::of(token) }
}

fn issuer() -> What {
    What::Issuer { issuer: "i".to_owned() }
}

fn until(what: &What, lifetime_s: i64) -> Revocation {
    let now_s = Clock::system().now().unix_s();
    Revocation { what: what.clone(), at_s: now_s, until_s: now_s + lifetime_s }
}

/// Whether the bearer of what is named, and of nothing else, is refused.
fn refuses(revocations: &Revocations, what: &What) -> Result<(), Rejection> {
    let (issuer, subject, sid, credential) = match what {
        What::Token { .. } => ("j", "nobody", "none", &b"t"[..]),
        What::Subject { issuer, subject } => (issuer.as_str(), subject.as_str(), "none", &b"u"[..]),
        What::Session { issuer, session } => (issuer.as_str(), "nobody", session.as_str(), &b"u"[..]),
        What::Issuer { issuer } => (issuer.as_str(), "nobody", "none", &b"u"[..]),
    };
    let Value::Object(claims) = json!({ "iat": 1, "sid": sid }) else { panic!() };
    let identity = Identity { issuer: issuer.to_owned(), subject: subject.to_owned(), claims, ..Identity::default() };
    revocations.check(&identity, Some(credential), Clock::system().now())
}

/// The part of an agent that is about revocations.
struct Agent {
    revocations: Arc<Revocations>,
}

impl Agent {
    /// Waits until it has read everything, and hears what comes.
    async fn start(redis: &Redis, copy: Option<&Copy>, pace: Pace) -> Agent {
        Agent::start_with(&redis.settings(), copy, pace).await
    }

    async fn start_with(settings: &RevocationSettings, copy: Option<&Copy>, pace: Pace) -> Agent {
        let revocations = Revocations::with_pace(settings, copy.cloned(), None, pace).unwrap();
        revocations.spawn(&Clock::system(), &CancellationToken::new());
        revocations.pulled().await;
        let agent = Agent { revocations };
        eventually("it listens", || agent.status().listening == pace.listens).await;
        agent
    }

    /// Waits for nothing.
    fn start_alone(redis: &Redis, copy: Option<&Copy>, at_start: AtStart) -> Agent {
        let settings = RevocationSettings { at_start, ..redis.settings() };
        let revocations = Revocations::with_pace(&settings, copy.cloned(), None, Pace::PRODUCTION).unwrap();
        revocations.spawn(&Clock::system(), &CancellationToken::new());
        Agent { revocations }
    }

    fn check(&self, what: &What, _: Now) -> Result<(), Rejection> {
        refuses(&self.revocations, what)
    }

    fn refuses(&self, what: &What) -> bool {
        refuses(&self.revocations, what) == Err(Rejection::TokenRevoked)
    }

    fn status(&self) -> RevocationStatus {
        self.revocations.status(Clock::system().now())
    }
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "not within twenty seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A redis-server on a unix socket of its own, with or without its data over a restart.
struct Redis {
    child: Child,
    folder: TempDir,
    keeps: bool,
}

impl Redis {
    fn start(keeps: bool) -> Redis {
        let folder = folder();
        Redis { child: Redis::spawn(&folder, keeps), folder, keeps }
    }

    fn spawn(folder: &TempDir, keeps: bool) -> Child {
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendfsync", "always", "--appendonly"])
            .arg(if keeps { "yes" } else { "no" })
            .arg("--dir")
            .arg(folder.path())
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts; `scripts/install.sh test` installs it");
        let until = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < until, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn start_again(&mut self) {
        self.child = Redis::spawn(&self.folder, self.keeps);
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
    }

    fn settings(&self) -> RevocationSettings {
        let redis = RedisSettings::new(Secret::new(self.url()), Duration::from_millis(200));
        RevocationSettings { redis, at_start: AtStart::Open }
    }

    fn nowhere() -> RevocationSettings {
        let redis = RedisSettings::new(Secret::new("redis+unix:///nowhere/redis.sock"), Duration::from_millis(200));
        RevocationSettings { redis, at_start: AtStart::Open }
    }

    fn register(&self) -> Register {
        Register::new(&self.settings()).unwrap()
    }

    /// How many records it has.
    fn count(&self) -> u64 {
        self.ask(&["HLEN", "tg:revoked"]).trim().parse::<u64>().unwrap().saturating_sub(1)
    }

    fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .arg("-s")
            .arg(self.folder.path().join("redis.sock"))
            .args(command)
            .output()
            .expect("redis-cli comes with redis-server's package");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
