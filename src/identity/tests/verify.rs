//! Tokens in, identity or rejection out, with pinned keys.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::settings::{Algorithm, CacheSettings, IssuerSettings, KeyOrigin, Settings};
use super::super::testing::{
    ED25519_A, ISSUER, NOW_S, P256_A, P256_B, P384_A, P521_A, RSA_A, TestKey, good_claims, jwks, pinned, with,
};
use super::super::{
    Accepted, Answers, CredentialKind, Groups, Identified, Identities, Identity, Rejection, SetupError,
};
use crate::clock::{Clock, Now};
use crate::request::Request;
use crate::trace::Trace;

pub(super) fn all_keys() -> [Value; 5] {
    [RSA_A.jwk("r"), P256_A.jwk("e"), P384_A.jwk("f"), P521_A.jwk("g"), ED25519_A.jwk("o")]
}

pub(super) fn identities(issuers: Vec<IssuerSettings>) -> Identities {
    let settings = Settings { issuers, ..Settings::default() };
    Identities::new(settings, Arc::new(Groups::default()), None).unwrap()
}

/// As the pipeline does: again whenever what was waited for is there. Pinned keys are never waited for, a slow check is.
pub(super) fn of(identities: &Identities, token: &str, now: Now) -> Result<Arc<Identity>, Rejection> {
    of_field(identities, format!("Bearer {token}").as_bytes(), now, &mut Trace::off())
}

fn of_field(identities: &Identities, field: &[u8], now: Now, trace: &mut Trace) -> Result<Arc<Identity>, Rejection> {
    let request = Request { authorization: Some(field), ..Request::default() };
    let mut answers = Answers::default();
    loop {
        match identities.identify(&request, &Accepted::default(), &answers, now, trace) {
            Identified::Known(identity) => return Ok(identity),
            Identified::Rejected(rejection) => return Err(rejection),
            Identified::Wait(wait) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                answers.add(runtime.block_on(wait));
            }
        }
    }
}

pub(super) fn now() -> Now {
    Clock::by_hand(NOW_S).now()
}

#[test]
fn every_algorithm_verifies_with_its_own_key() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    for (key, kid, algorithms) in [
        (&RSA_A, "r", &Algorithm::ALL[..6]),
        (&P256_A, "e", &[Algorithm::ES256][..]),
        (&P384_A, "f", &[Algorithm::ES384]),
        (&P521_A, "g", &[Algorithm::ES512]),
        (&ED25519_A, "o", &[Algorithm::EdDSA]),
    ] {
        for algorithm in algorithms {
            let identity = of(&identities, &key.sign(*algorithm, kid, &good_claims()), now()).unwrap();
            assert_eq!(identity.user, "alice", "{algorithm:?}");
            assert_eq!(identity.credential, CredentialKind::Jwt);
            assert_eq!(identity.expires_at_s, NOW_S as i64 + 300);
        }
    }
}

/// RFC 9864 has a name of its own for the one curve of EdDSA that is in use.
#[test]
fn ed25519_is_eddsa_by_another_name() {
    let key = with(&ED25519_A.jwk("o"), json!({"alg": "Ed25519"}));
    let mut issuer = pinned("acme", ISSUER, &[key, P256_A.jwk("e")]);
    let token = |key: &TestKey, kid: &str, signs: Algorithm| {
        key.sign_text(json!({"alg": "Ed25519", "kid": kid}).to_string(), good_claims().to_string(), signs)
    };
    let both = identities(vec![issuer.clone()]);
    assert!(of(&both, &token(&ED25519_A, "o", Algorithm::EdDSA), now()).is_ok());
    assert!(of(&both, &ED25519_A.sign(Algorithm::EdDSA, "o", &good_claims()), now()).is_ok());
    assert!(of(&both, &token(&P256_A, "e", Algorithm::ES256), now()).is_err());
    issuer.algorithms = vec![Algorithm::ES256];
    let without = identities(vec![issuer]);
    assert_eq!(
        of(&without, &token(&ED25519_A, "o", Algorithm::EdDSA), now()).err(),
        Some(Rejection::AlgorithmNotAllowed)
    );
}

#[test]
fn nothing_presented_is_nobody_and_something_unreadable_is_refused() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let request = Request::default();
    let Identified::Known(identity) =
        identities.identify(&request, &Accepted::default(), &Answers::default(), now(), &mut Trace::off())
    else {
        panic!()
    };
    assert!(identity.is_anonymous());
    for (field, expected) in [
        ("", Rejection::CredentialMalformed),
        ("Basic dTpw", Rejection::CredentialUnsupported),
        ("Bearer opaque", Rejection::TokenMalformed),
        ("Bearer a.b.c.d.e", Rejection::TokenEncrypted),
    ] {
        let request = Request { authorization: Some(field.as_bytes()), ..Request::default() };
        let answer = identities.identify(&request, &Accepted::default(), &Answers::default(), now(), &mut Trace::off());
        assert!(matches!(answer, Identified::Rejected(rejection) if rejection == expected), "{field:?} {answer:?}");
    }
}

/// A signed token with this header, whatever the header says.
fn with_header(header: Value) -> String {
    RSA_A.sign_text(header.to_string(), good_claims().to_string(), Algorithm::RS256)
}

#[test]
fn a_header_decides_nothing_that_the_key_does_not_allow() {
    use Rejection::*;
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let claims = good_claims();
    let hmac = |secret: &[u8], alg: &str| {
        let header = json!({"alg": alg, "kid": "r"}).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let key = jsonwebtoken::EncodingKey::from_secret(secret);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    };
    let der = &RSA_A.public_der;
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    let n = RSA_A.jwk("r")["n"].as_str().unwrap().to_owned();
    let unsigned = |alg: &str| {
        let header = json!({"alg": alg, "kid": "r"}).to_string();
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    let good = with_header(json!({"alg": "RS256", "kid": "r"}));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let other_payload = {
        let payload = URL_SAFE_NO_PAD.encode(with(&claims, json!({"sub": "root"})).to_string());
        let mut parts: Vec<&str> = good.split('.').collect();
        parts[1] = &payload;
        parts.join(".")
    };
    let own_jwk = {
        // A key of the sender's own, which comes with the token.
        let header = json!({"alg": "ES256", "kid": "e", "jwk": P256_B.jwk("e"), "jku": "https://evil.example/keys"});
        P256_B.sign_text(header.to_string(), claims.to_string(), Algorithm::ES256)
    };
    let der_signature = format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0x30, 0x06, 2, 1, 1, 2, 1, 1]));
    for (what, token, expected) in [
        ("as it should be", good.clone(), Ok(())),
        ("typ", with_header(json!({"alg": "RS256", "kid": "r", "typ": "at+JWT"})), Ok(())),
        ("HS256 with the PEM", hmac(pem.as_bytes(), "HS256"), Err(AlgorithmNotAllowed)),
        ("HS256 with the DER", hmac(der, "HS256"), Err(AlgorithmNotAllowed)),
        ("HS256 with n", hmac(n.as_bytes(), "HS256"), Err(AlgorithmNotAllowed)),
        ("HMAC called RS256", hmac(pem.as_bytes(), "RS256"), Err(SignatureInvalid)),
        ("none", unsigned("none"), Err(AlgorithmNotAllowed)),
        ("NONE", unsigned("NONE"), Err(AlgorithmNotAllowed)),
        ("no signature", unsigned("RS256"), Err(SignatureInvalid)),
        ("no signature, EC", unsigned("ES256"), Err(AlgorithmNotAllowed)),
        ("another payload", other_payload, Err(SignatureInvalid)),
        ("zeros for a signature", format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 256])), Err(SignatureInvalid)),
        ("a DER signature", der_signature, Err(SignatureInvalid)),
        ("RS256 called PS256", with_header(json!({"alg": "PS256", "kid": "r"})), Err(SignatureInvalid)),
        ("RSA for an EC key", with_header(json!({"alg": "RS256", "kid": "e"})), Err(AlgorithmNotAllowed)),
        ("ES256 with r = s = 0", zero_es256(&claims), Err(SignatureInvalid)),
        ("the sender's own key", own_jwk, Err(SignatureInvalid)),
        ("unknown kid", with_header(json!({"alg": "RS256", "kid": "x"})), Err(KeyUnknown)),
        ("kid as path", with_header(json!({"alg": "RS256", "kid": "../../dev/null"})), Err(KeyUnknown)),
        ("crit", with_header(json!({"alg": "RS256", "kid": "r", "crit": ["exp"]})), Err(CriticalHeader)),
        ("typ of another kind", with_header(json!({"alg": "RS256", "kid": "r", "typ": "logout+jwt"})), Err(TokenType)),
    ] {
        assert_eq!(of(&identities, &token, now()).map(drop), expected, "{what}");
    }
}

fn zero_es256(claims: &Value) -> String {
    let header = json!({"alg": "ES256", "kid": "e"}).to_string();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 64]))
}

#[test]
fn a_token_without_kid_needs_a_single_fitting_key() {
    let unnamed = with_header(json!({"alg": "RS256"}));
    for (keys, expected) in [
        (vec![RSA_A.jwk("r")], Ok(())),
        (vec![RSA_A.jwk_unnamed()], Ok(())),
        (vec![RSA_A.jwk("r"), P256_A.jwk("e")], Ok(())),
        (vec![RSA_A.jwk("r"), RSA_A.jwk("s")], Err(Rejection::KeyUnknown)),
        (vec![P256_A.jwk("e")], Err(Rejection::KeyUnknown)),
    ] {
        let identities = identities(vec![pinned("acme", ISSUER, &keys)]);
        assert_eq!(of(&identities, &unnamed, now()).map(drop), expected, "{keys:?}");
    }
}

#[test]
fn an_algorithm_outside_the_issuers_list_is_refused() {
    let mut issuer = pinned("acme", ISSUER, &all_keys());
    issuer.algorithms = vec![Algorithm::RS256];
    let identities = identities(vec![issuer]);
    for (algorithm, expected) in [(Algorithm::RS256, Ok(())), (Algorithm::RS512, Err(Rejection::AlgorithmNotAllowed))] {
        let token = RSA_A.sign(algorithm, "r", &good_claims());
        assert_eq!(of(&identities, &token, now()).map(drop), expected, "{algorithm:?}");
    }
}

#[test]
fn each_claim_rejection_comes_through_the_whole_stage() {
    use Rejection::*;
    let mut issuer = pinned("acme", ISSUER, &all_keys());
    issuer.require = vec![("hd".parse_path(), json!("acme.example"))];
    let identities = identities(vec![issuer]);
    let good = with(&good_claims(), json!({"hd": "acme.example"}));
    for (changes, expected) in [
        (json!({}), Ok(())),
        (json!({"iss": "-"}), Err(ClaimMissing)),
        (json!({"iss": [ISSUER]}), Err(ClaimMalformed)),
        (json!({"iss": "https://evil.example"}), Err(IssuerUnknown)),
        (json!({"exp": NOW_S - 60}), Err(TokenExpired)),
        (json!({"exp": "9999999999"}), Err(ClaimMalformed)),
        (json!({"nbf": NOW_S + 3600}), Err(TokenNotYetValid)),
        (json!({"iat": NOW_S + 3600}), Err(IssuedInFuture)),
        (json!({"aud": "https://other.example"}), Err(AudienceMismatch)),
        (json!({"hd": "evil.example"}), Err(ClaimMismatch)),
        (json!({"cnf": {"x5t#S256": "x"}}), Err(ClaimMalformed)),
        (json!({"cnf": {"jwk": {}}}), Err(ProofMissing)),
        (json!({"cnf": {"jkt": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}}), Err(ProofMissing)),
        (json!({"sub": "a\r\nx-user: root"}), Err(IdentityUnsafe)),
    ] {
        let token = P256_A.sign(Algorithm::ES256, "e", &with(&good, changes.clone()));
        assert_eq!(of(&identities, &token, now()).map(drop), expected, "{changes}");
    }
    for payload in [
        r#"{"iss":1e400}"#.to_owned(),
        good.to_string().replacen('{', r#"{"sub":"root","#, 1),
        format!("{good} x"),
        "[]".to_owned(),
    ] {
        let header = json!({"alg": "ES256", "kid": "e"}).to_string();
        let token = P256_A.sign_text(&header, &payload, Algorithm::ES256);
        assert_eq!(of(&identities, &token, now()).map(drop), Err(TokenMalformed), "{payload}");
    }
    let long = format!("{}.e30.AAAA", "a".repeat(16 * 1024));
    assert_eq!(of(&identities, &long, now()).map(drop), Err(TokenTooLarge));
}

trait ParsePath {
    fn parse_path(&self) -> super::super::settings::ClaimPath;
}

impl ParsePath for str {
    fn parse_path(&self) -> super::super::settings::ClaimPath {
        super::super::settings::ClaimPath::parse(self).unwrap()
    }
}

#[test]
fn an_issuers_keys_verify_that_issuers_tokens_only() {
    let identities = identities(vec![
        pinned("acme", ISSUER, &[P256_A.jwk("k")]),
        pinned("other", "https://other.example/", &[P256_B.jwk("k")]),
    ]);
    let claims = good_claims();
    let stolen = P256_B.sign(Algorithm::ES256, "k", &claims);
    assert_eq!(of(&identities, &stolen, now()).map(drop), Err(Rejection::SignatureInvalid));
    let own = P256_B.sign(Algorithm::ES256, "k", &with(&claims, json!({"iss": "https://other.example/"})));
    assert_eq!(&*of(&identities, &own, now()).unwrap().issuer_name, "other");
}

#[test]
fn a_cached_token_ends_with_its_exp_and_is_not_the_same_as_a_similar_one() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let clock = Clock::by_hand(NOW_S);
    let token = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    let first = of(&identities, &token, clock.now()).unwrap();
    let second = of(&identities, &token, clock.now()).unwrap();
    assert!(Arc::ptr_eq(&first, &second), "the second answer is the remembered one");
    assert_eq!(identities.cached().0, 1);
    let mut similar = token.clone();
    similar.replace_range(token.len() - 4.., "AAAA");
    assert_eq!(of(&identities, &similar, clock.now()).map(drop), Err(Rejection::SignatureInvalid));

    // 300 s of life and 60 s of leeway.
    clock.advance(Duration::from_secs(359));
    let still = of(&identities, &token, clock.now());
    clock.advance(Duration::from_secs(1));
    assert!(still.is_ok());
    assert_eq!(of(&identities, &token, clock.now()).map(drop), Err(Rejection::TokenExpired));
}

#[test]
fn a_cached_token_ends_when_the_wall_clock_is_set_forward() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let token = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    assert!(of(&identities, &token, now()).is_ok());
    // Six minutes by the wall clock, next to nothing by the monotonic one.
    let set_forward = Clock::by_hand(NOW_S + 360).now();
    assert_eq!(of(&identities, &token, set_forward).map(drop), Err(Rejection::TokenExpired));
}

#[test]
fn no_token_is_believed_longer_than_the_ceiling() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let clock = Clock::by_hand(NOW_S);
    let token = P256_A.sign(Algorithm::ES256, "e", &with(&good_claims(), json!({"exp": NOW_S + 86_400})));
    let first = of(&identities, &token, clock.now()).unwrap();
    clock.advance(CacheSettings::default().age_max);
    let later = of(&identities, &token, clock.now()).unwrap();
    assert!(!Arc::ptr_eq(&first, &later), "it was verified anew");
}

#[test]
fn a_refusal_is_remembered_unless_it_can_heal() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let clock = Clock::by_hand(NOW_S);
    let early = P256_A.sign(Algorithm::ES256, "e", &with(&good_claims(), json!({"nbf": NOW_S + 61})));
    assert_eq!(of(&identities, &early, clock.now()).map(drop), Err(Rejection::TokenNotYetValid));
    clock.advance(Duration::from_secs(1));
    assert!(of(&identities, &early, clock.now()).is_ok());

    // Refused by a clock that was an hour ahead; remembered for ten seconds of the request's own clock.
    let token = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    let ahead = Clock::by_hand(NOW_S + 3600).now();
    assert_eq!(of(&identities, &token, ahead).map(drop), Err(Rejection::TokenExpired));
    assert_eq!(of(&identities, &token, clock.now()).map(drop), Err(Rejection::TokenExpired));
    clock.advance(Duration::from_secs(12));
    assert!(of(&identities, &token, clock.now()).is_ok());
}

#[test]
fn the_cache_holds_no_more_than_its_bound() {
    let mut settings = Settings { issuers: vec![pinned("acme", ISSUER, &all_keys())], ..Settings::default() };
    settings.cache.bytes_max = 64 * 1024;
    let identities = Identities::new(settings, Arc::new(Groups::default()), None).unwrap();
    let groups: Vec<String> = (0..100).map(|n| format!("group-{n}")).collect();
    for n in 0..100 {
        let claims = with(&good_claims(), json!({"jti": n, "groups": groups}));
        of(&identities, &P256_A.sign(Algorithm::ES256, "e", &claims), now()).unwrap();
    }
    let (entries, bytes) = identities.cached();
    // A token of about 2 KiB with 100 group names weighs more than 4 KiB: the names alone are strings of 24 + 8 bytes.
    assert!((1..=16).contains(&entries) && bytes <= 64 * 1024, "{entries} entries of {bytes} bytes");
}

#[test]
fn a_reload_keeps_what_still_holds() {
    let clock = Clock::by_hand(NOW_S);
    let settings = Settings { issuers: vec![pinned("acme", ISSUER, &all_keys())], ..Settings::default() };
    let first = Identities::new(settings.clone(), Arc::new(Groups::default()), None).unwrap();
    let token = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    let verified = of(&first, &token, clock.now()).unwrap();

    let same = Identities::new(settings.clone(), Arc::new(Groups::default()), Some(&first)).unwrap();
    assert!(Arc::ptr_eq(&verified, &of(&same, &token, clock.now()).unwrap()));

    let groups = Groups::new([("ops", vec![("acme", "x")])]).unwrap();
    let regrouped = Identities::new(settings.clone(), Arc::new(groups), Some(&first)).unwrap();
    assert!(!Arc::ptr_eq(&verified, &of(&regrouped, &token, clock.now()).unwrap()));

    let mut stricter = settings;
    stricter.issuers[0].audiences = vec!["https://other.example".to_owned()];
    let stricter = Identities::new(stricter, Arc::new(Groups::default()), Some(&first)).unwrap();
    assert_eq!(of(&stricter, &token, clock.now()).map(drop), Err(Rejection::AudienceMismatch));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let new = |issuers| {
        let settings = Settings { issuers, ..Settings::default() };
        Identities::new(settings, Arc::new(Groups::default()), None).map(drop)
    };
    let twice = vec![pinned("a", ISSUER, &all_keys()), pinned("b", ISSUER, &all_keys())];
    let error = new(twice).unwrap_err();
    assert!(matches!(&error, SetupError::DuplicateIssuer { first, second, .. } if **first == *"a" && **second == *"b"));
    for keys in [jwks(&[]), jwks(&[json!({"kty": "oct", "k": "AAAA"})]), b"<html>".to_vec()] {
        let mut issuer = pinned("acme", ISSUER, &[]);
        issuer.keys = KeyOrigin::Pinned { jwks: Arc::from(keys) };
        assert!(matches!(new(vec![issuer]), Err(SetupError::PinnedKeys { .. })));
    }
}

#[test]
fn a_trace_says_each_check_and_never_the_token() {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    let token = P256_A.sign(Algorithm::ES256, "e", &with(&good_claims(), json!({"exp": NOW_S - 100})));
    let mut trace = Trace::on();
    let answer = of_field(&identities, format!("Bearer {token}").as_bytes(), now(), &mut trace);
    assert_eq!(answer.err(), Some(Rejection::TokenExpired));
    let texts: Vec<String> = trace.into_steps().into_iter().map(|step| step.text).collect();
    for expected in ["iss is issuer acme", "the signature holds", "exp 1799999900 was 100 s ago", "token_expired"] {
        assert!(texts.iter().any(|text| text.contains(expected)), "{expected} in {texts:?}");
    }
    for part in token.split('.') {
        assert!(texts.iter().all(|text| !text.contains(part)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is presented, nobody without a key becomes somebody, or nobody in particular.
    #[test]
    fn no_bytes_make_an_identity(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        header in "[ -~]{0,60}",
        payload in "[ -~]{0,60}",
        at in 0_usize..400,
        flip in 1_u8..=255,
    ) {
        let identities = identities(vec![pinned("acme", ISSUER, &[P256_A.jwk("e")])]);
        let built = format!("Bearer {}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        // A good token with one byte changed: the whole of it is signed, or is the signature.
        let mut changed = P256_A.sign(Algorithm::ES256, "e", &good_claims()).into_bytes();
        let at = at % changed.len();
        changed[at] ^= flip;
        let changed = [b"Bearer ", changed.as_slice()].concat();
        let prefixed = [b"Bearer ", bytes.as_slice()].concat();
        for field in [bytes.as_slice(), &prefixed, built.as_bytes(), &changed] {
            let answer = of_field(&identities, field, now(), &mut Trace::on());
            prop_assert!(answer.is_err(), "{answer:?}");
        }
    }
}
