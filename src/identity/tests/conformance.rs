//! The OpenID Foundation's relying-party cases that say something about a verifier of bearer tokens, by their names.
//!
//! With keys from a provider, in [`super::provider`]: `signing-key-rotation` and `-just-before-signing`
//! (`an_unknown_kid_brings_the_new_keys_at_once`), `discovery-issuer-mismatch`
//! (`a_discovery_document_must_be_the_issuers_own`), `discovery-jwks-uri-keys`
//! (`keys_are_found_by_discovery_and_fetched_once`). Nonce, `at_hash`, `c_hash` and refreshed tokens are a matter between
//! a client and its provider: a resource server sees none of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::Rejection::{self, *};
use super::super::settings::Algorithm;
use super::super::testing::{ISSUER, P256_A, P256_B, RSA_A, TestKey, good_claims, pinned, with};
use super::verify::{identities, now, of};

#[test]
fn relying_party_cases_end_as_the_suite_wants() {
    let claims = |changes: Value| with(&good_claims(), changes);
    let by = |key: &TestKey, algorithm: Algorithm, kid: &str, changes| key.sign(algorithm, kid, &claims(changes));
    let es256 = |changes| by(&P256_A, Algorithm::ES256, "e", changes);
    let unnamed = |key: &TestKey, algorithm: Algorithm| {
        key.sign_text(json!({ "alg": algorithm.name() }).to_string(), good_claims().to_string(), algorithm)
    };
    // The suite's way to an invalid signature: the right one with its bits turned.
    let broken = |token: String| {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let turned: Vec<u8> = URL_SAFE_NO_PAD.decode(signature).unwrap().iter().map(|octet| octet ^ 0x5a).collect();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(turned))
    };
    let without_key = |alg: &str, signature: &str| {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg }).to_string());
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(good_claims().to_string()))
    };
    let both = || vec![RSA_A.jwk("r"), P256_A.jwk("e")];
    let unparseable = || {
        let beside =
            [json!("key"), json!({}), json!({"kty": "XYZ", "kid": "e"}), json!({"kty": "RSA", "n": "!", "e": 3})];
        [&beside[..], &[P256_A.jwk("e")]].concat()
    };
    struct Case(&'static str, Vec<Value>, String, Result<(), Rejection>);
    for Case(name, keys, token, expected) in [
        Case("invalid-iss", both(), es256(json!({"iss": format!("{ISSUER}2")})), Err(IssuerUnknown)),
        Case("invalid-aud", both(), es256(json!({"aud": "https://other.example"})), Err(AudienceMismatch)),
        Case("missing-aud", both(), es256(json!({"aud": "-"})), Err(ClaimMissing)),
        Case("missing-sub", both(), es256(json!({"sub": "-"})), Err(ClaimMissing)),
        // The suite wants it refused in an ID token. Access tokens of several providers have none (RFC 7519 leaves it
        // out at will), and nothing here is decided by it: one that is there is checked.
        Case("missing-iat", both(), es256(json!({"iat": "-"})), Ok(())),
        Case("invalid-sig-rs256", both(), broken(by(&RSA_A, Algorithm::RS256, "r", json!({}))), Err(SignatureInvalid)),
        Case("invalid-sig-es256", both(), broken(es256(json!({}))), Err(SignatureInvalid)),
        Case("invalid-sig-hs256", both(), without_key("HS256", "AAAA"), Err(AlgorithmNotAllowed)),
        Case("idtoken-sig-none", both(), without_key("none", ""), Err(AlgorithmNotAllowed)),
        Case("idtoken-sig-rs256", both(), by(&RSA_A, Algorithm::RS256, "r", json!({})), Ok(())),
        Case("kid-absent-single-jwks", vec![RSA_A.jwk("r")], unnamed(&RSA_A, Algorithm::RS256), Ok(())),
        Case(
            "kid-absent-multiple-jwks",
            vec![P256_A.jwk("e"), P256_B.jwk("f")],
            unnamed(&P256_A, Algorithm::ES256),
            Err(KeyUnknown),
        ),
        // Several keys, of which one alone can have made an ES256 signature.
        Case("kid-absent-multiple-jwks, one fits", both(), unnamed(&P256_A, Algorithm::ES256), Ok(())),
        Case("ignores-unparseable-key-in-jwks", unparseable(), es256(json!({})), Ok(())),
    ] {
        let identities = identities(vec![pinned("acme", ISSUER, &keys)]);
        assert_eq!(of(&identities, &token, now()).map(drop), expected, "{name}");
    }
}
