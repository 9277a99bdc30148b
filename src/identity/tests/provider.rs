//! Keys by discovery: what is fetched when, and what is taken for a key set.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::settings::{KeyOrigin, Settings};
use super::super::source::Pace;
use super::super::testing::{NOW_S, P256_A, P256_B, jwks, with};
use super::super::{Groups, Identified, Identities, Rejection, Wait};
use super::fake::{Answer, Provider, QUICK, RESTLESS, Stage, alice, discovery, keys, ok};
use crate::clock::Clock;

#[tokio::test]
async fn keys_are_found_by_discovery_and_fetched_once() {
    let provider = Provider::start(keys(&[P256_A.jwk("a"), json!({"kty": "oct", "k": "AAAA"})])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    assert!(stage.identities.ready());
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice());
    assert_eq!(provider.key_fetches(), 1);
    stage.clock.advance(Duration::from_secs(7));
    let status = stage.status();
    assert_eq!((status.keys, status.pinned, status.age_s, status.fetches), (1, false, Some(7), 1));
    assert_eq!(status.last_error, None);
}

#[tokio::test]
async fn a_provider_that_is_down_at_start_is_asked_until_it_is_up() {
    let provider = Provider::start(Answer(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), Vec::new())).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    assert!(!stage.identities.ready());
    let token = provider.token(&P256_A, "a");
    let rejection = stage.outcome(&token).await.unwrap_err();
    assert_eq!(rejection, Rejection::NoKeys);
    assert!(rejection.is_failure());
    assert!(stage.status().last_error.unwrap().contains("status 503"));

    provider.now_answers(keys(&[P256_A.jwk("a")]));
    stage.until(|status| status.has_keys).await;
    assert_eq!(stage.outcome(&token).await, alice());
    assert_eq!(stage.status().last_error, None);
}

#[tokio::test]
async fn a_request_may_join_the_first_fetch() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let settings = Settings { issuers: vec![provider.settings()], ..Settings::default() };
    let identities = Identities::with_pace(settings, Arc::new(Groups::default()), None, QUICK).unwrap();
    let stage = Stage { identities, clock: Clock::by_hand(NOW_S), stop: CancellationToken::new() };
    let token = provider.token(&P256_A, "a");
    // Nobody fetches yet, so there is nothing to wait for.
    assert!(matches!(stage.identify(&token), Identified::Rejected(Rejection::NoKeys)));
    stage.identities.spawn(&stage.clock, &stage.stop);
    assert!(matches!(stage.identify(&token), Identified::Wait(_)));
    assert_eq!(stage.outcome(&token).await, alice());
}

#[tokio::test]
async fn an_unknown_kid_brings_the_new_keys_at_once() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let (old, new) = (provider.token(&P256_A, "a"), provider.token(&P256_B, "b"));
    assert_eq!(stage.outcome(&old).await, alice());

    provider.now_answers(keys(&[P256_B.jwk("b")]));
    // All who come before the answer share the one fetch.
    let held = provider.script.hold.lock().await;
    let waits: Vec<Wait> = (0..100)
        .map(|_| match stage.identify(&new) {
            Identified::Wait(wait) => wait,
            other => panic!("{other:?}"),
        })
        .collect();
    drop(held);
    for wait in waits {
        wait.await;
        assert_eq!(stage.known(&new).await.user, "alice");
    }
    assert_eq!(provider.key_fetches(), 2);
    assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 1, "where the keys are was known");
    // Tokens of the old key were good a moment ago, and for a while they still are.
    assert_eq!(stage.outcome(&old).await, alice());
}

#[tokio::test]
async fn a_name_that_a_fetch_did_not_bring_is_not_asked_for_again_at_once() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let (unknown, other) = (provider.token(&P256_B, "b"), provider.token(&P256_B, "c"));
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    stage.clock.advance(QUICK.cooldown);
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    assert_eq!(provider.key_fetches(), 2, "the one that was asked for before is not asked for");
    assert!(matches!(stage.identify(&other), Identified::Wait(_)), "another name is");
    assert_eq!(stage.outcome(&other).await, Err(Rejection::KeyUnknown));
    stage.clock.advance(QUICK.unknown - QUICK.cooldown);
    assert!(matches!(stage.identify(&unknown), Identified::Wait(_)));
}

#[tokio::test]
async fn keys_that_stay_keep_their_tokens_verified() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let old = provider.token(&P256_A, "a");
    let before = stage.known(&old).await;
    provider.now_answers(keys(&[P256_B.jwk("b"), P256_A.jwk("a")]));
    assert_eq!(stage.outcome(&provider.token(&P256_B, "b")).await, alice());
    let after = stage.known(&old).await;
    assert!(Arc::ptr_eq(&before, &after));
}

#[tokio::test]
async fn the_same_kid_with_another_key_ends_the_old_tokens() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), RESTLESS).await;
    let old = provider.token(&P256_A, "a");
    assert_eq!(stage.outcome(&old).await, alice());
    provider.now_answers(keys(&[P256_B.jwk("a")]));
    let seen = stage.status().fetches;
    // The fetch after the next began after the answer changed.
    stage.until(|status| status.fetches >= seen + 2).await;
    assert_eq!(stage.outcome(&old).await, Err(Rejection::SignatureInvalid));
    assert_eq!(stage.outcome(&provider.token(&P256_B, "a")).await, alice());
}

#[tokio::test]
async fn a_flood_of_unknown_kids_costs_the_provider_one_fetch() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let held = provider.script.hold.lock().await;
    let message = provider.token(&P256_A, "a");
    let (_, unsigned) = message.split_once('.').unwrap();
    let token = |n: usize| {
        use base64::Engine as _;
        let header = json!({"alg": "ES256", "kid": format!("k{n}")}).to_string();
        format!("{}.{unsigned}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header))
    };
    let waits: Vec<Wait> = (0..10_000)
        .map(|n| match stage.identify(&token(n)) {
            Identified::Wait(wait) => wait,
            other => panic!("{other:?}"),
        })
        .collect();
    // Meanwhile the issuer's own tokens pass.
    assert_eq!(stage.outcome(&message).await, alice());
    drop(held);
    for wait in waits {
        wait.await;
    }
    for n in 0..10_000 {
        assert_eq!(stage.outcome(&token(n)).await, Err(Rejection::KeyUnknown));
    }
    assert_eq!(provider.key_fetches(), 2, "the one at start, and one for all of them");
}

#[tokio::test]
async fn the_attempt_closes_the_gate_even_if_it_fails() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    // A backoff of an hour, so that the only attempts are the ones asked for.
    let pace = Pace { backoff_first: QUICK.refresh_max, backoff_max: QUICK.refresh_max, ..QUICK };
    let stage = Stage::start(provider.settings(), pace).await;
    provider.now_answers(Answer(StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), Vec::new()));
    let unknown = provider.token(&P256_B, "b");
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    assert!(matches!(stage.identify(&unknown), Identified::Rejected(Rejection::KeyUnknown)));
    assert_eq!(provider.key_fetches(), 2);
    assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice(), "the old keys stay");

    stage.clock.advance(pace.cooldown);
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    assert_eq!(provider.key_fetches(), 3);
    assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 2, "after a failure the keys may have moved");
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let busy = vec![("retry-after", "86400".to_owned())];
    provider.now_answers(Answer(StatusCode::TOO_MANY_REQUESTS, busy, Vec::new()));
    let unknown = provider.token(&P256_B, "b");
    assert_eq!(stage.outcome(&unknown).await, Err(Rejection::KeyUnknown));
    // A day is cut to an hour; before that neither a token nor the backoff of milliseconds asks.
    stage.clock.advance(Duration::from_secs(3599));
    assert!(matches!(stage.identify(&unknown), Identified::Rejected(Rejection::KeyUnknown)));
    assert_eq!(provider.key_fetches(), 2);
    stage.clock.advance(Duration::from_secs(1));
    assert!(matches!(stage.identify(&unknown), Identified::Wait(_)));
}

#[tokio::test]
async fn nothing_that_is_no_key_set_replaces_one() {
    let large = format!("{{\"keys\":[{}]}}", "{},".repeat(200_000));
    for (what, answer) in [
        ("HTML", ok(b"<html>sign in</html>".to_vec())),
        ("an empty set", keys(&[])),
        ("bad keys only", keys(&[json!({"kty": "oct", "k": "AAAA"}), json!({"kty": "RSA"})])),
        ("half a set", ok(br#"{"keys":[{"kty""#.to_vec())),
        ("a deep one", ok("[".repeat(100_000).into_bytes())),
        ("a large one", ok(large.into_bytes())),
        ("257 keys", keys(&vec![P256_B.jwk("b"); 257])),
        ("404", Answer(StatusCode::NOT_FOUND, Vec::new(), jwks(&[P256_B.jwk("b")]))),
        ("403", Answer(StatusCode::FORBIDDEN, Vec::new(), jwks(&[P256_B.jwk("b")]))),
        ("500", Answer(StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), jwks(&[P256_B.jwk("b")]))),
        ("204", Answer(StatusCode::NO_CONTENT, Vec::new(), Vec::new())),
    ] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let stage = Stage::start(provider.settings(), QUICK).await;
        provider.now_answers(answer);
        assert_eq!(stage.outcome(&provider.token(&P256_B, "b")).await, Err(Rejection::KeyUnknown), "{what}");
        assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice(), "{what}");
        assert_eq!(provider.script.elsewhere.load(Ordering::SeqCst), 0, "{what}");
        assert!(stage.status().failures >= 1, "{what}");
    }
}

#[tokio::test]
async fn a_compressed_bomb_is_cut_off_at_the_cap() {
    // 4 MiB of spaces, gzip -9.
    let bomb = gzip_of_spaces();
    assert!(bomb.len() < 100_000);
    let provider = Provider::start(Answer(StatusCode::OK, vec![("content-encoding", "gzip".to_owned())], bomb)).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let error = stage.status().last_error.unwrap();
    assert!(error.contains("more than 524288 bytes"), "{error}");
}

/// One dynamic-free gzip member: stored blocks cannot bomb, so fixed Huffman codes with long matches (RFC 1951, 3.2.6).
fn gzip_of_spaces() -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut held) = (0_u64, 0_u32);
    let mut put = |value: u64, count: u32, out: &mut Vec<u8>| {
        bits |= value << held;
        held += count;
        while held >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            held -= 8;
        }
    };
    let reversed = |code: u64, count: u32| (0..count).fold(0, |r, i| r | (((code >> i) & 1) << (count - 1 - i)));
    put(0b011, 3, &mut out);
    // The literal 0x20 is code 0x30 + 0x20, eight bits.
    put(reversed(0x50, 8), 8, &mut out);
    for _ in 0..4 * 1024 * 1024 / 258 {
        // Length 258 is symbol 285: code 0b11000101; distance 1 is symbol 0: five zero bits.
        put(reversed(0b1100_0101, 8), 8, &mut out);
        put(0, 5, &mut out);
    }
    // The end-of-block symbol is seven zero bits; the rest fills the last byte. The reader stops before the checksum.
    put(0, 14, &mut out);
    out
}

#[tokio::test]
async fn a_discovery_document_must_be_the_issuers_own() {
    for (what, document, expected) in [
        ("another issuer", discovery("https://evil.example", "KEYS"), "is for issuer \"https://evil.example\""),
        ("a slash more", discovery("ISSUER/", "KEYS"), "expected exactly"),
        ("upper case", discovery("HTTP://127.0.0.1", "KEYS"), "expected exactly"),
        ("HTML", b"<html>".to_vec(), "discovery document"),
        ("two issuers", br#"{"issuer":"a","issuer":"b"}"#.to_vec(), "discovery document"),
        ("no jwks_uri", br#"{"issuer":"ISSUER"}"#.to_vec(), "it has no jwks_uri"),
        ("no text", br#"{"issuer":"ISSUER","jwks_uri":["KEYS"]}"#.to_vec(), "discovery document"),
        ("no URL", br#"{"issuer":"ISSUER","jwks_uri":"keys"}"#.to_vec(), "discovery document"),
        ("a file", discovery("ISSUER", "file:///etc/passwd"), "file is not allowed"),
        ("a password", discovery("ISSUER", "https://a:b@127.0.0.1/"), "password"),
        ("a path in the file system", discovery("ISSUER", "unix:/run/keys.sock"), "unix is not allowed"),
        ("another host", discovery("ISSUER", "http://127.0.0.2/keys"), "neither the issuer's host nor in"),
        ("a host that ends the same", discovery("ISSUER", "http://evil-127.0.0.1.example/keys"), "neither"),
    ] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let text = String::from_utf8(document).unwrap();
        let text = text.replace("ISSUER", &provider.issuer()).replace("KEYS", &format!("{}/keys", provider.issuer()));
        *provider.script.discovery.lock() = Some(ok(text.into_bytes()));
        let stage = Stage::start(provider.settings(), QUICK).await;
        let error = stage.status().last_error.unwrap();
        assert!(error.contains(expected), "{what}: {error}");
        assert_eq!(provider.key_fetches(), 0, "{what}");
    }
}

/// As GitHub Actions and Kubernetes publish: nobody signs in there.
#[tokio::test]
async fn an_issuer_that_signs_nobody_in_need_say_no_more_than_where_its_keys_are() {
    for members in [
        json!({}),
        json!({
            "subject_types_supported": ["public", "pairwise"],
            "response_types_supported": ["id_token"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid"],
            "claims_supported": ["sub", "aud", "exp", "iat", "iss", "jti", "repository"],
        }),
        json!({
            "authorization_endpoint": "urn:kubernetes:programmatic_authorization",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }),
    ] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let own = json!({ "issuer": provider.issuer(), "jwks_uri": format!("{}/keys", provider.issuer()) });
        *provider.script.discovery.lock() = Some(ok(with(&own, members).to_string().into_bytes()));
        let stage = Stage::start(provider.settings(), QUICK).await;
        assert_eq!(stage.status().last_error, None);
        assert_eq!(stage.outcome(&provider.token(&P256_A, "a")).await, alice());
    }
}

#[tokio::test]
async fn without_insecure_neither_http_nor_loopback_is_asked() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    for (url, expected) in [
        (provider.issuer(), "http is not allowed"),
        (provider.issuer().replace("http:", "https:"), "is not a public address"),
        (format!("https://localhost:{}", provider.address.port()), "no public address"),
    ] {
        let mut settings = provider.settings();
        settings.outbound.insecure = false;
        settings.keys = KeyOrigin::Discovery { issuer: Url::parse(&url).unwrap() };
        let stage = Stage::start(settings, QUICK).await;
        let error = stage.status().last_error.unwrap();
        assert!(error.contains(expected), "{url}: {error}");
    }
    assert_eq!(provider.script.discovery_fetches.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_reload_keeps_the_task_of_an_issuer_and_ends_it_with_the_last_stage() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), QUICK).await;
    let settings = Settings { issuers: vec![provider.settings()], ..Settings::default() };
    let groups = Arc::new(Groups::default());
    let next = Identities::with_pace(settings, Arc::clone(&groups), Some(&stage.identities), QUICK).unwrap();
    next.spawn(&stage.clock, &stage.stop);
    assert!(next.ready(), "the keys came along");
    next.fetched().await;
    assert_eq!(provider.key_fetches(), 1, "and no second task was started");

    // The stage goes, the issuer stays: an unknown kid is still answered.
    let Stage { identities: first, clock, stop } = stage;
    drop(first);
    let stage = Stage { identities: next, clock, stop };
    provider.now_answers(keys(&[P256_B.jwk("b")]));
    let token = provider.token(&P256_B, "b");
    let Identified::Wait(wait) = stage.identify(&token) else { panic!() };
    wait.await;
    assert_eq!(stage.outcome(&token).await, alice());

    // The last one goes while somebody waits for an answer that does not come: the wait ends at once, not with the
    // five seconds of the request.
    stage.clock.advance(QUICK.cooldown);
    let held = provider.script.hold.lock().await;
    let Identified::Wait(wait) = stage.identify(&provider.token(&P256_A, "c")) else { panic!() };
    drop(stage);
    tokio::time::timeout(Duration::from_secs(2), wait).await.expect("the task has ended");
    drop(held);
}

#[tokio::test]
async fn keys_may_be_at_a_host_that_the_config_names() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let elsewhere = format!("http://localhost:{}/keys", provider.address.port());
    *provider.script.discovery.lock() = Some(ok(discovery(&provider.issuer(), &elsewhere)));
    for (key_hosts, expected) in [(vec![], false), (vec!["localhost".to_owned()], true)] {
        let mut settings = provider.settings();
        settings.key_hosts = key_hosts;
        let stage = Stage::start(settings, QUICK).await;
        assert_eq!(stage.status().has_keys, expected, "{:?}", stage.status());
    }
}

#[tokio::test]
async fn a_discovery_document_that_goes_bad_changes_nothing() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let stage = Stage::start(provider.settings(), RESTLESS).await;
    let good = provider.token(&P256_A, "a");
    let own = provider.issuer();
    provider.now_answers(keys(&[P256_B.jwk("b")]));
    for (what, document) in [
        ("another issuer", discovery("https://login.evil.example", &format!("{own}/keys"))),
        ("a slash more", discovery(&format!("{own}/"), &format!("{own}/keys"))),
        ("another host", discovery(&own, "http://127.0.0.2/keys")),
        ("the metadata service", discovery(&own, "http://169.254.169.254/keys")),
        ("a socket", discovery(&own, "unix:/run/keys.sock")),
        ("HTML", b"<html>".to_vec()),
    ] {
        *provider.script.discovery.lock() = Some(ok(document));
        stage.next_fetch().await;
        assert!(stage.status().last_error.is_some(), "{what}");
        assert_eq!(stage.outcome(&good).await, alice(), "{what}");
    }
}

#[tokio::test]
async fn what_discovery_says_of_algorithms_changes_nothing() {
    let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
    let document = String::from_utf8(discovery(&provider.issuer(), &format!("{}/keys", provider.issuer()))).unwrap();
    let document = document.replace(r#"["none","HS256","ES256","XX999"]"#, r#"["none","HS256"]"#);
    *provider.script.discovery.lock() = Some(ok(document.into_bytes()));
    let stage = Stage::start(provider.settings(), QUICK).await;
    let token = provider.token(&P256_A, "a");
    assert_eq!(stage.outcome(&token).await, alice());
    let (_, unsigned) = token.split_once('.').unwrap();
    for algorithm in ["none", "HS256"] {
        use base64::Engine as _;
        let header = json!({"alg": algorithm, "kid": "a"}).to_string();
        let token = format!("{}.{unsigned}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header));
        assert_eq!(stage.outcome(&token).await, Err(Rejection::AlgorithmNotAllowed), "{algorithm}");
    }
}

#[tokio::test]
async fn json_is_a_key_set_whatever_its_content_type_and_html_never_is() {
    let set = jwks(&[P256_A.jwk("a")]);
    for (content_type, body, expected) in [
        ("application/jwk-set+json", set.clone(), true),
        ("text/html", set.clone(), true),
        ("application/octet-stream", set, true),
        ("application/json", b"<html>sign in</html>".to_vec(), false),
    ] {
        let headers = vec![("content-type", content_type.to_owned())];
        let provider = Provider::start(Answer(StatusCode::OK, headers, body)).await;
        let stage = Stage::start(provider.settings(), QUICK).await;
        assert_eq!(stage.status().has_keys, expected, "{content_type}");
    }
}

#[tokio::test]
async fn a_provider_that_drips_or_is_silent_is_as_good_as_down() {
    for silent in [false, true] {
        let provider = Provider::start(keys(&[P256_A.jwk("a")])).await;
        let pace = Pace { fetch_max: Duration::from_millis(200), ..RESTLESS };
        let stage = Stage::start(provider.settings(), pace).await;
        let token = provider.token(&P256_A, "a");
        let held = if silent { Some(provider.script.hold.lock().await) } else { None };
        provider.script.drips.store(!silent, Ordering::SeqCst);
        stage.until(|status| status.failures >= 1).await;
        // Nothing of it is on a request's way: what is decided meanwhile does not wait.
        assert_eq!(stage.known(&token).await.user, "alice");
        assert!(stage.status().last_error.unwrap().contains("cannot be reached or broke off"));
        provider.script.drips.store(false, Ordering::SeqCst);
        drop(held);
        stage.until(|status| status.last_error.is_none()).await;
    }
}
