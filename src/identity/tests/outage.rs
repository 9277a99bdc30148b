//! Providers that fail, and keys that come and go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use serde_json::json;

use super::super::settings::{Algorithm, IssuerSettings, Settings};
use super::super::source::Pace;
use super::super::testing::{ISSUER, NOW_S, P256_A, P256_B, TestKey, good_claims, p256, pinned, with};
use super::super::{Identified, Identities, Rejection};
use super::fake::{Answer, Provider, QUICK, RESTLESS, Stage, alice, keys, ok, run_alone};

/// A token that outlives whatever a test lets pass.
fn lasting(provider: &Provider, key: &TestKey, kid: &str) -> String {
    let claims = with(&good_claims(), json!({"iss": provider.issuer(), "exp": NOW_S + 400 * 86_400}));
    key.sign(Algorithm::ES256, kid, &claims)
}

fn down() -> Answer {
    Answer(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), Vec::new())
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_day_without_the_provider_refuses_nobody_and_a_week_is_the_end() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), RESTLESS).await;
    let token = lasting(&provider, &P256_A, "a");
    provider.now_answers(down());
    for hours in 1..=24 {
        stage.clock.advance(HOUR);
        stage.next_fetch().await;
        assert_eq!(stage.outcome(&token).await, alice(), "after {hours} h");
    }
    assert!(stage.status().age_s.unwrap() >= 24 * 3600);
    assert!(stage.identities.ready());

    stage.clock.advance(6 * 24 * HOUR);
    stage.next_fetch().await;
    assert_eq!(stage.outcome(&token).await, Err(Rejection::NoKeys));
    assert!(!stage.identities.ready());
    assert_eq!(stage.status().age_s, None);

    provider.now_answers(keys(&[P256_A.jwk("a")]));
    stage.until(|status| status.has_keys).await;
    assert_eq!(stage.outcome(&token).await, alice());
}

#[tokio::test]
async fn an_issuer_without_keys_is_nobody_elses_trouble() {
    let provider = Provider::start(down()).await;
    let mut issuers = vec![provider.settings(), pinned("other", ISSUER, &[P256_B.jwk("b")])];
    issuers[0].name = "down".into();
    let stage = Stage::start_with(Settings { issuers, ..Settings::default() }, QUICK).await;
    assert!(!stage.identities.ready());
    assert_eq!(stage.outcome(&P256_B.sign(Algorithm::ES256, "b", &good_claims())).await, alice());
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, Err(Rejection::NoKeys));
}

#[tokio::test]
async fn a_set_without_a_usable_key_counts_when_it_is_seen_twice() {
    for empty in [json!([]), json!([{"kty": "oct", "k": "AAAA"}])] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let stage = Stage::start(provider.settings(), RESTLESS).await;
        let token = lasting(&provider, &P256_A, "a");
        provider.now_answers(keys(empty.as_array().unwrap()));
        // However often it comes, for a minute it changes nothing.
        stage.clock.advance(QUICK.confirm - Duration::from_secs(1));
        for _ in 0..3 {
            stage.next_fetch().await;
            assert_eq!(stage.outcome(&token).await, alice(), "{empty}");
        }
        // Another kind of failure in between says nothing about keys, a good set says that it was a mistake.
        provider.now_answers(keys(&[P256_A.jwk("a")]));
        stage.next_fetch().await;
        stage.clock.advance(QUICK.confirm);
        provider.now_answers(keys(empty.as_array().unwrap()));
        stage.next_fetch().await;
        assert_eq!(stage.outcome(&token).await, alice(), "{empty}");
        provider.now_answers(down());
        stage.clock.advance(QUICK.confirm);
        stage.next_fetch().await;
        assert_eq!(stage.outcome(&token).await, alice(), "{empty}");
        provider.now_answers(keys(empty.as_array().unwrap()));
        stage.until(|status| !status.has_keys).await;
        // The token had been verified, and is so no longer.
        assert_eq!(stage.outcome(&token).await, Err(Rejection::NoKeys), "{empty}");
    }
}

#[tokio::test]
async fn a_hundred_planned_rotations_refuse_nobody() {
    let rotation: Vec<TestKey> = (0..102).map(|_| p256()).collect();
    let set = |n: usize| keys(&[rotation[n].jwk(&format!("k{n}")), rotation[n + 1].jwk(&format!("k{}", n + 1))]);
    let provider = Provider::start(set(0)).await;
    let stage = Stage::start(provider.settings(), RESTLESS).await;
    let mut before = None;
    for (n, key) in rotation.iter().enumerate().take(101) {
        // Announced: the set has the next key before anything is signed with it.
        provider.now_answers(set(n));
        stage.next_fetch().await;
        let token = lasting(&provider, key, &format!("k{n}"));
        for token in before.replace(token.clone()).iter().chain([&token]) {
            assert_eq!(stage.known(token).await.user, "alice", "rotation {n}: at once");
        }
        stage.clock.advance(Duration::from_secs(250));
    }
}

#[tokio::test]
async fn machines_of_a_provider_that_disagree_make_one_set() {
    let (a, b) = (keys(&[P256_A.jwk("a")]), keys(&[P256_B.jwk("b")]));
    let provider = Provider::start(a.clone()).await;
    let stage = Stage::start(provider.settings(), RESTLESS).await;
    let (of_a, of_b) = (lasting(&provider, &P256_A, "a"), lasting(&provider, &P256_B, "b"));
    assert_eq!(stage.outcome(&of_a).await, alice());
    provider.now_answers(b.clone());
    stage.next_fetch().await;
    let first = stage.known(&of_a).await;
    for answer in [&a, &b].repeat(10) {
        provider.now_answers(answer.clone());
        stage.next_fetch().await;
        let Identified::Known(again) = stage.identify(&of_a) else { panic!("it was verified before") };
        assert!(Arc::ptr_eq(&first, &again), "no flapping: it was not verified anew");
        assert_eq!(stage.known(&of_b).await.user, "alice");
    }
    // A token without `kid` means the newest set, in which one key fits.
    provider.now_answers(a);
    stage.next_fetch().await;
    let claims = with(&good_claims(), json!({"iss": provider.issuer()}));
    let unnamed = P256_A.sign_text(r#"{"alg":"ES256"}"#, claims.to_string(), Algorithm::ES256);
    assert_eq!(stage.outcome(&unnamed).await, alice());
}

#[tokio::test]
async fn a_key_that_was_withdrawn_is_out_of_use_after_ten_minutes_at_most() {
    assert!(Pace::PRODUCTION.refresh_max + Pace::PRODUCTION.linger <= Duration::from_secs(600));
    for provider_goes_down in [false, true] {
        let provider = Provider::start(keys(&[P256_A.jwk("a"), P256_B.jwk("b")])).await;
        let stage = Stage::start(provider.settings(), RESTLESS).await;
        let (kept, withdrawn) = (lasting(&provider, &P256_A, "a"), lasting(&provider, &P256_B, "b"));
        assert_eq!(stage.outcome(&withdrawn).await, alice());
        provider.now_answers(keys(&[P256_A.jwk("a")]));
        stage.next_fetch().await;
        stage.clock.advance(QUICK.linger - Duration::from_secs(1));
        assert_eq!(stage.outcome(&withdrawn).await, alice(), "for it may be one machine's mistake");
        if provider_goes_down {
            provider.now_answers(down());
        }
        stage.clock.advance(Duration::from_secs(1));
        stage.next_fetch().await;
        assert_eq!(stage.outcome(&withdrawn).await, Err(Rejection::KeyUnknown), "down: {provider_goes_down}");
        assert_eq!(stage.outcome(&kept).await, alice());
    }
}

#[tokio::test]
async fn a_key_that_lingers_ends_without_another_fetch() {
    let provider = Provider::start(keys(&[P256_A.jwk("a"), P256_B.jwk("b")])).await;
    let pace = Pace { linger: Duration::from_millis(20), refresh_max: HOUR, ..QUICK };
    let stage = Stage::start(provider.settings(), pace).await;
    let withdrawn = lasting(&provider, &P256_B, "b");
    assert_eq!(stage.outcome(&withdrawn).await, alice());
    provider.now_answers(keys(&[P256_A.jwk("a")]));
    assert_eq!(stage.outcome(&lasting(&provider, &P256_A, "z")).await, Err(Rejection::KeyUnknown));
    assert_eq!(stage.outcome(&withdrawn).await, alice());
    stage.clock.advance(pace.linger);
    stage.until(|_| matches!(stage.identify(&withdrawn), Identified::Rejected(Rejection::KeyUnknown))).await;
    assert_eq!(provider.key_fetches(), 2);
}

#[tokio::test]
async fn a_key_that_was_withdrawn_during_an_outage_does_not_linger() {
    let provider = Provider::start(keys(&[P256_A.jwk("a"), P256_B.jwk("b")])).await;
    let pace = Pace { refresh_min: QUICK.backoff_first, refresh_max: Duration::from_secs(300), ..QUICK };
    let stage = Stage::start(provider.settings(), pace).await;
    let withdrawn = lasting(&provider, &P256_B, "b");
    provider.now_answers(down());
    assert_eq!(stage.outcome(&lasting(&provider, &P256_A, "z")).await, Err(Rejection::KeyUnknown));
    stage.clock.advance(HOUR);
    assert_eq!(stage.outcome(&withdrawn).await, alice());
    provider.now_answers(keys(&[P256_A.jwk("a")]));
    stage.until(|status| status.last_error.is_none()).await;
    let after = stage.outcome(&withdrawn).await;
    assert_eq!(after, Err(Rejection::KeyUnknown));
}

#[tokio::test]
async fn a_start_without_the_provider_uses_the_kept_keys() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("state");
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let settings = || {
        let issuers = vec![provider.settings()];
        Settings { issuers, state_dir: Some(state_dir.clone()), ..Settings::default() }
    };
    let token = lasting(&provider, &P256_A, "a");
    let stage = Stage::start_with(settings(), QUICK).await;
    let file = state_dir.join("keys-acme.json");
    stage.until(|_| file.exists()).await;
    drop(stage);

    provider.now_answers(down());
    let good = std::fs::read_to_string(&file).unwrap();
    let at = |s: u64| good.replace(&format!("\"fetched_at\":{NOW_S}"), &format!("\"fetched_at\":{s}"));
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        good.replace(from, to)
    };
    for (what, text, age_s) in [
        ("as it was", good.clone(), Some(0)),
        ("a day old", at(NOW_S - 86_400), Some(86_400)),
        ("older", at(NOW_S - 86_401), None),
        ("from the future", at(NOW_S + 1), None),
        ("another issuer's", replaced("\"issuer\":\"http:", "\"issuer\":\"https:"), None),
        ("another host", replaced("\"jwks_uri\":\"http://127.0.0.1", "\"jwks_uri\":\"http://127.0.0.2"), None),
        ("another place", replaced("/keys\"", "/old-keys\""), None),
        ("without a usable key", replaced("\\\"P-256\\\"", "\\\"P-999\\\""), None),
        ("half of it", good[..good.len() / 2].to_owned(), None),
        ("nothing", String::new(), None),
    ] {
        std::fs::write(&file, text).unwrap();
        let stage = Stage::start_with(settings(), QUICK).await;
        assert_eq!(stage.status().age_s, age_s, "{what}");
        assert_eq!(stage.identities.ready(), age_s.is_some(), "{what}");
        let expected = if age_s.is_some() { alice() } else { Err(Rejection::NoKeys) };
        assert_eq!(stage.outcome(&token).await, expected, "{what}");
        assert!(stage.status().last_error.is_some(), "{what}: the provider is still down");
    }
    let mut short = settings();
    short.issuers[0].key_age_max = HOUR;
    std::fs::write(&file, at(NOW_S - 3601)).unwrap();
    assert!(!Stage::start_with(short, QUICK).await.identities.ready(), "older than keys may become");
    std::fs::write(&file, &good).unwrap();
    let without = Settings { state_dir: None, ..settings() };
    assert!(!Stage::start_with(without, QUICK).await.identities.ready());
    others_may_write(&file);
    assert!(!Stage::start_with(settings(), QUICK).await.identities.ready());
}

fn others_may_write(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).unwrap();
}

#[tokio::test]
async fn keys_that_the_provider_ended_are_not_kept_either() {
    let folder = tempfile::tempdir().unwrap();
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let issuers = vec![provider.settings()];
    let settings = Settings { issuers, state_dir: Some(folder.path().to_owned()), ..Settings::default() };
    let stage = Stage::start_with(settings, RESTLESS).await;
    let file = folder.path().join("keys-acme.json");
    stage.until(|_| file.exists()).await;
    provider.now_answers(keys(&[]));
    stage.next_fetch().await;
    stage.clock.advance(QUICK.confirm);
    stage.until(|_| !file.exists()).await;
    assert!(!stage.status().has_keys);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_nothing_but_the_copy() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let issuers = vec![provider.settings()];
    let settings = Settings { issuers, state_dir: Some("/dev/null/state".into()), ..Settings::default() };
    let stage = Stage::start_with(settings, RESTLESS).await;
    stage.next_fetch().await;
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice());
}

#[tokio::test]
async fn a_clock_that_is_off_is_borne_within_the_leeway_and_measured() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    for (leeway_s, off_s, expected) in [
        (60, 0, alice()),
        (60, 60, alice()),
        (60, 61, Err(Rejection::IssuedInFuture)),
        (300, 300, alice()),
        (300, 301, Err(Rejection::IssuedInFuture)),
        // Behind: to us the token of five minutes is over before it is over for its provider.
        (60, -359, alice()),
        (60, -360, Err(Rejection::TokenExpired)),
        (300, -599, alice()),
    ] {
        let mut settings = provider.settings();
        settings.leeway = Duration::from_secs(leeway_s);
        let stage = Stage::start(settings, QUICK).await;
        assert_eq!(stage.status().iat_skew_s, None);
        let now_s = NOW_S as i64 + off_s;
        let claims = with(&good_claims(), json!({"iss": provider.issuer(), "iat": now_s, "exp": now_s + 300}));
        let token = P256_A.sign(Algorithm::ES256, "a", &claims);
        assert_eq!(stage.outcome(&token).await, expected, "{off_s} s off with a leeway of {leeway_s} s");
        assert_eq!(stage.status().iat_skew_s, Some(off_s));
        // What is not signed is not measured.
        let far = with(&claims, json!({"iat": now_s + 5000}));
        let unsigned = P256_B.sign(Algorithm::ES256, "a", &far);
        assert_eq!(stage.outcome(&unsigned).await, Err(Rejection::SignatureInvalid));
        assert_eq!(stage.status().iat_skew_s, Some(off_s));
    }
}

#[tokio::test]
async fn a_bad_key_is_left_out_and_the_others_are_used() {
    let bad = json!({"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"});
    let mut set = vec![P256_A.jwk("a"), P256_B.jwk("b")];
    set.extend((0..6).map(|n| p256().jwk(&format!("k{n}"))));
    set[0] = bad;
    let provider = Provider::start(keys(&set)).await;
    let discovered = Stage::start(provider.settings(), QUICK).await;
    let mut fixed = pinned("acme", ISSUER, &set);
    fixed.issuer = provider.issuer();
    let fixed = Stage::start(fixed, QUICK).await;
    for stage in [discovered, fixed] {
        assert_eq!(stage.status().keys, 7);
        assert_eq!(stage.outcome(&provider.token(&P256_B, "b")).await, alice());
    }
}

/// What is logged on this thread until the guard is dropped, which is where a test's tasks run.
fn logged() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    #[derive(Clone)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines(Arc::default());
    let held = Arc::clone(&lines.0);
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish();
    (held, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn what_becomes_of_keys_is_logged_once_an_episode() {
    // In a process of its own: which lines are of interest to anybody is decided once for all threads, and a test beside
    // this one that logs to nobody can decide it just now.
    const ALONE: &str = "TOLLGATE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let test = "identity::tests::outage::what_becomes_of_keys_is_logged_once_an_episode";
        return run_alone(test, &[(ALONE, "1")]);
    }
    let (lines, _guard) = logged();
    let folder = tempfile::tempdir().unwrap();
    let bad = json!({"kty": "oct", "k": "AAAA"});
    let provider = Provider::start(keys(&[P256_A.jwk("a"), bad])).await;
    let issuers = vec![provider.settings()];
    let settings = Settings { issuers, state_dir: Some(folder.path().to_owned()), ..Settings::default() };
    let stage = Stage::start_with(settings.clone(), RESTLESS).await;
    stage.next_fetch().await;
    provider.now_answers(keys(&[P256_B.jwk("a")]));
    stage.next_fetch().await;
    provider.now_answers(down());
    stage.next_fetch().await;
    stage.clock.advance(HOUR);
    stage.next_fetch().await;
    stage.next_fetch().await;
    let from_copy = Stage::start_with(settings, RESTLESS).await;
    assert!(from_copy.identities.ready());
    drop(from_copy);
    stage.clock.advance(7 * 24 * HOUR);
    stage.until(|status| !status.has_keys).await;
    provider.now_answers(keys(&[P256_A.jwk("a")]));
    stage.until(|status| status.has_keys).await;

    let lines = String::from_utf8(lines.lock().clone()).unwrap();
    for (expected, times) in [
        ("new keys; key 1: a symmetric key never belongs in a key set that anyone can read issuer=\"acme\"", 1),
        ("another key has the same name: the newer one counts issuer=\"acme\"", 1),
        // By both stages.
        ("keys cannot be fetched issuer=\"acme\" serving_stale=true", 2),
        ("the keys are old: none can be withdrawn issuer=\"acme\" age_s=3600", 1),
        ("the provider does not answer: kept keys are used issuer=\"acme\" age_s=0", 1),
        ("the keys are out of use issuer=\"acme\" why=\"nobody has vouched for them for too long\"", 1),
        ("keys can be fetched again issuer=\"acme\"", 1),
    ] {
        assert_eq!(lines.matches(expected).count(), times, "{expected}\n{lines}");
    }
}

#[tokio::test]
async fn garbage_is_told_by_its_reason() {
    for (answer, expected) in [
        (ok(b"<html>".to_vec()), "not one JSON object"),
        (ok(vec![b' '; 100 * 1024 * 1024]), "more than 524288 bytes"),
        (down(), "status 503"),
    ] {
        let provider = Provider::start(answer).await;
        let stage = Stage::start(provider.settings(), QUICK).await;
        let error = stage.status().last_error.unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_reload_while_the_provider_is_down_keeps_the_keys() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let mut narrow = provider.settings();
    narrow.algorithms = vec![Algorithm::ES256];
    let narrow = Stage::start(narrow, QUICK).await;
    provider.now_answers(down());
    let token = lasting(&provider, &P256_A, "a");
    let not_allowed = Err(Rejection::AlgorithmNotAllowed);
    for (what, stage, change, expected) in [
        ("a leeway", &stage, (|issuer| issuer.leeway = Duration::from_secs(300)) as fn(&mut IssuerSettings), alice()),
        ("fewer algorithms", &stage, |issuer| issuer.algorithms = vec![Algorithm::ES256], alice()),
        ("another algorithm", &stage, |issuer| issuer.algorithms = vec![Algorithm::RS256], not_allowed),
        // Keys were left out that count now.
        ("more algorithms", &narrow, |_| {}, Err(Rejection::NoKeys)),
    ] {
        let mut issuer = provider.settings();
        change(&mut issuer);
        let settings = Settings { issuers: vec![issuer], ..Settings::default() };
        let previous = Some(&stage.identities);
        let next = Identities::with_pace(settings, Default::default(), previous, QUICK).unwrap();
        next.spawn(&stage.clock, &stage.stop);
        next.fetched().await;
        let next = Stage { identities: next, clock: stage.clock.clone(), stop: stage.stop.clone() };
        assert_eq!(next.outcome(&token).await, expected, "{what}");
    }
}
