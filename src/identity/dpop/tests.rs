//! Proofs in, verdicts out; and the stage as a request meets it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::settings::{Algorithm, Settings};
use super::super::testing::{
    ED25519_A, ISSUER, NOW_S, P256_A, P256_B, P384_A, P521_A, RSA_A, RSA_WEAK, TestKey, good_claims, pinned, with,
};
use super::super::{Accepted, Answers, CredentialKind, Groups, Identified, Identities, Rejection};
use super::nonce::Nonces;
use super::proof::{self, BYTES_MAX, Expected, Flaw};
use super::target;
use super::{DpopSettings, NonceSettings, OnReplayFailure};
use crate::clock::{Clock, Now};
use crate::link::Link;
use crate::link::testing::Redis;
use crate::request::{Certificate, Request};
use crate::secret::Secret;
use crate::trace::Trace;

fn now() -> Now {
    Clock::by_hand(NOW_S).now()
}

fn hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()))
}

fn jkt(key: &TestKey) -> String {
    URL_SAFE_NO_PAD.encode(proof::thumbprint(key.jwk_unnamed().as_object().unwrap()).unwrap())
}

fn header(key: &TestKey, algorithm: Algorithm) -> Value {
    json!({"typ": "dpop+jwt", "alg": algorithm.name(), "jwk": key.jwk_unnamed()})
}

/// What a client says when it asks `GET https://api.acme.example/v1/x` with `token`.
fn claims(token: &str) -> Value {
    json!({"jti": "e1j3V_bKic8-LAEB", "htm": "GET", "htu": "https://api.acme.example/v1/x", "iat": NOW_S,
           "ath": hash(token)})
}

#[test]
fn thumbprints_are_those_of_the_rfcs() {
    for (jwk, expected) in [
        // RFC 7638, section 3.1.
        (
            json!({"kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
                   "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}),
            Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
        ),
        // RFC 8037, appendix A.3.
        (
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
        ),
        // RFC 9449, section 6.1.
        (rfc_9449_jwk(), Some("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I")),
        (json!({"kty": "oct", "k": "AAAA"}), None),
        (json!({"kty": "EC", "crv": "P-256", "x": "AAAA"}), None),
        (json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": 1}), None),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA\"A"}), None),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA="}), None),
        (json!({}), None),
    ] {
        let thumbprint = proof::thumbprint(jwk.as_object().unwrap()).map(|octets| URL_SAFE_NO_PAD.encode(octets));
        assert_eq!(thumbprint.as_deref(), expected, "{jwk}");
    }
}

fn rfc_9449_jwk() -> Value {
    json!({"kty": "EC", "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
           "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA", "crv": "P-256"})
}

/// RFC 9449, figures 2 and 12: the proofs for the token endpoint and for a protected resource.
#[test]
fn the_proofs_of_rfc_9449_hold_for_what_they_are_for() {
    let resource = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    let token_endpoint = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    let request = |method, host: &'static str, path: &'static str| Request {
        method,
        host: host.into(),
        path: path.as_bytes(),
        ..Request::default()
    };
    let protected = request("GET", "resource.example.org", "/protectedresource");
    let endpoint = request("POST", "server.example.com", "/token");
    for (proof, request, at_s, expected) in [
        (resource, &protected, 1_562_262_618, None),
        (resource, &protected, 1_562_262_678, None),
        (resource, &protected, 1_562_262_679, Some(Flaw::TooOld)),
        (resource, &protected, 1_562_262_612, Some(Flaw::InFuture)),
        (resource, &endpoint, 1_562_262_618, Some(Flaw::Method)),
        // It says nothing about a token, as it is for the request that gets one.
        (token_endpoint, &endpoint, 1_562_262_616, Some(Flaw::TokenHash)),
    ] {
        let expected_of = Expected {
            method: request.method,
            target: target::of_request(request, true),
            token,
            bound_to: proof::thumbprint(rfc_9449_jwk().as_object().unwrap()).unwrap(),
            nonces: None,
            age_max: Duration::from_secs(60),
            ahead_max: Duration::from_secs(5),
            now: Clock::by_hand(at_s).now(),
        };
        match proof::check(proof.as_bytes(), &expected_of) {
            Ok(proof) => assert!(proof.is_signed() && expected.is_none(), "{at_s}"),
            Err(flaw) => assert_eq!(Some(flaw), expected, "{at_s}"),
        }
    }
}

/// What [`proof::check`] and the signature say of a field, for the request of [`claims`].
fn verdict(field: &[u8], bound_to: &TestKey, nonces: Option<&Nonces>) -> Option<Flaw> {
    let request = Request { method: "GET", host: "api.acme.example".into(), path: b"/v1/x", ..Request::default() };
    let expected = Expected {
        method: request.method,
        target: target::of_request(&request, true),
        token: "t",
        bound_to: proof::thumbprint(bound_to.jwk_unnamed().as_object().unwrap()).unwrap(),
        nonces,
        age_max: Duration::from_secs(60),
        ahead_max: Duration::from_secs(5),
        now: now(),
    };
    match proof::check(field, &expected) {
        Ok(proof) if proof.is_signed() => None,
        Ok(_) => Some(Flaw::Signature),
        Err(flaw) => Some(flaw),
    }
}

#[test]
fn every_algorithm_proves_with_its_own_key() {
    for (key, algorithms) in [
        (&RSA_A, &Algorithm::ALL[..6]),
        (&P256_A, &[Algorithm::ES256][..]),
        (&P384_A, &[Algorithm::ES384]),
        (&P521_A, &[Algorithm::ES512]),
        (&ED25519_A, &[Algorithm::EdDSA]),
    ] {
        for algorithm in algorithms {
            let proof = key.sign_text(header(key, *algorithm).to_string(), claims("t").to_string(), *algorithm);
            assert_eq!(verdict(proof.as_bytes(), key, None), None, "{algorithm:?}");
        }
    }
}

#[test]
fn a_proof_holds_in_every_point_or_not_at_all() {
    let n = i64::try_from(NOW_S).unwrap();
    let signed =
        |header: &Value, claims: &Value| P256_A.sign_text(header.to_string(), claims.to_string(), Algorithm::ES256);
    let (good_header, good_claims) = (header(&P256_A, Algorithm::ES256), claims("t"));
    let long = "j".repeat(256);
    for (changes, expected) in [
        (json!({}), None),
        (json!({"typ": "DPoP+JWT"}), None),
        (json!({"kid": "x", "x5c": [], "jku": "https://evil.example"}), None),
        (json!({"typ": "-"}), Some(Flaw::Type)),
        (json!({"typ": "JWT"}), Some(Flaw::Type)),
        (json!({"typ": "at+jwt"}), Some(Flaw::Type)),
        (json!({"typ": "application/dpop+jwt"}), Some(Flaw::Type)),
        (json!({"typ": ["dpop+jwt"]}), Some(Flaw::Type)),
        (json!({"crit": ["b64"]}), Some(Flaw::NoJws)),
        (json!({"alg": "none"}), Some(Flaw::NoJws)),
        (json!({"alg": "HS256"}), Some(Flaw::NoJws)),
        (json!({"alg": "ES384"}), Some(Flaw::NoKey)),
        (json!({"alg": "RS256"}), Some(Flaw::NoKey)),
        (json!({"jwk": "-"}), Some(Flaw::NoKey)),
        (json!({"jwk": P256_A.jwk_unnamed().to_string()}), Some(Flaw::NoKey)),
        (json!({"jwk": [P256_A.jwk_unnamed()]}), Some(Flaw::NoKey)),
        (json!({"jwk": {"kty": "oct", "k": "AAAA"}}), Some(Flaw::NoKey)),
        (json!({"jwk": with(&P256_A.jwk_unnamed(), json!({"d": "AAAA"}))}), Some(Flaw::NoKey)),
        (json!({"jwk": with(&P256_A.jwk_unnamed(), json!({"use": "enc"}))}), Some(Flaw::NoKey)),
        (json!({"jwk": with(&P256_A.jwk_unnamed(), json!({"alg": "ES384"}))}), Some(Flaw::NoKey)),
        (json!({"jwk": with(&P256_A.jwk_unnamed(), json!({"kid": "mine", "use": "sig", "alg": "ES256"}))}), None),
        (json!({"jwk": P256_B.jwk_unnamed()}), Some(Flaw::OtherKey)),
        (json!({"jwk": RSA_WEAK.clone()}), Some(Flaw::OtherKey)),
    ] {
        let proof = signed(&with(&good_header, changes.clone()), &good_claims);
        assert_eq!(verdict(proof.as_bytes(), &P256_A, None), expected, "{changes}");
    }
    for (changes, expected) in [
        (json!({"jti": "x"}), None),
        (json!({"jti": long}), None),
        (json!({"jti": format!("{long}j")}), Some(Flaw::Jti)),
        (json!({"jti": ""}), Some(Flaw::Jti)),
        (json!({"jti": "-"}), Some(Flaw::Jti)),
        (json!({"jti": 7}), Some(Flaw::Jti)),
        (json!({"htm": "POST"}), Some(Flaw::Method)),
        (json!({"htm": "get"}), Some(Flaw::Method)),
        (json!({"htm": "-"}), Some(Flaw::Method)),
        (json!({"htm": ["GET"]}), Some(Flaw::Method)),
        (json!({"htu": "HTTPS://API.acme.example:443/v1/%78?q=1#f"}), None),
        (json!({"htu": "http://api.acme.example/v1/x"}), Some(Flaw::Target)),
        (json!({"htu": "https://api.acme.example:8443/v1/x"}), Some(Flaw::Target)),
        (json!({"htu": "https://api.acme.example.evil/v1/x"}), Some(Flaw::Target)),
        (json!({"htu": "https://api.acme.example/v1/X"}), Some(Flaw::Target)),
        (json!({"htu": "https://api.acme.example/v1/x/"}), Some(Flaw::Target)),
        (json!({"htu": "/v1/x"}), Some(Flaw::Target)),
        (json!({"htu": "-"}), Some(Flaw::Target)),
        (json!({"htu": null}), Some(Flaw::Target)),
        (json!({"ath": hash("t2")}), Some(Flaw::TokenHash)),
        (json!({"ath": format!("{}=", hash("t"))}), Some(Flaw::TokenHash)),
        (json!({"ath": "-"}), Some(Flaw::TokenHash)),
        (json!({"ath": 1}), Some(Flaw::TokenHash)),
        (json!({"iat": n - 60}), None),
        (json!({"iat": n - 61}), Some(Flaw::TooOld)),
        (json!({"iat": n as f64 - 60.5}), Some(Flaw::TooOld)),
        (json!({"iat": n + 5}), None),
        (json!({"iat": n as f64 + 4.5}), None),
        (json!({"iat": n as f64 + 5.5}), Some(Flaw::InFuture)),
        (json!({"iat": n + 6}), Some(Flaw::InFuture)),
        (json!({"iat": 0}), Some(Flaw::TooOld)),
        (json!({"iat": "-"}), Some(Flaw::IatMalformed)),
        (json!({"iat": null}), Some(Flaw::IatMalformed)),
        (json!({"iat": n.to_string()}), Some(Flaw::IatMalformed)),
        (json!({"iat": 1e300}), Some(Flaw::IatMalformed)),
        (json!({"iat": i64::MIN}), Some(Flaw::IatMalformed)),
        (json!({"exp": n + 1, "nbf": n}), None),
        (json!({"exp": n - 4}), None),
        (json!({"exp": n - 5}), Some(Flaw::Expired)),
        (json!({"nbf": n + 6}), Some(Flaw::InFuture)),
        (json!({"exp": "soon"}), Some(Flaw::TimeMalformed)),
        (json!({"nbf": null}), Some(Flaw::TimeMalformed)),
        (json!({"nonce": "whatever", "iss": "me", "aud": 1}), None),
        (json!({"nonce": 1}), Some(Flaw::NonceMalformed)),
        (json!({"nonce": null}), Some(Flaw::NonceMalformed)),
    ] {
        let proof = signed(&good_header, &with(&good_claims, changes.clone()));
        assert_eq!(verdict(proof.as_bytes(), &P256_A, None), expected, "{changes}");
    }

    let good = signed(&good_header, &good_claims);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = signed(&good_header, &with(&good_claims, json!({"jti": "other"})));
    let twice = format!("{{\"jti\":\"a\",{}", &good_claims.to_string()[1..]);
    let array = P256_A.sign_text(good_header.to_string(), "[]", Algorithm::ES256);
    let doubled = P256_A.sign_text(good_header.to_string(), twice, Algorithm::ES256);
    let by_other = P256_B.sign_text(good_header.to_string(), good_claims.to_string(), Algorithm::ES256);
    let large = signed(&good_header, &with(&good_claims, json!({"x": "x".repeat(BYTES_MAX)})));
    for (what, field, expected) in [
        ("good", good.clone(), None),
        ("another's signature", by_other, Some(Flaw::Signature)),
        (
            "another proof's signature",
            format!("{message}.{}", other.rsplit_once('.').unwrap().1),
            Some(Flaw::Signature),
        ),
        ("no signature", format!("{message}."), Some(Flaw::Signature)),
        ("a cut signature", good[..good.len() - 6].to_owned(), Some(Flaw::Signature)),
        ("padding", format!("{good}="), Some(Flaw::NoJws)),
        ("two", format!("{good}, {good}"), Some(Flaw::NoJws)),
        ("two parts", message.to_owned(), Some(Flaw::NoJws)),
        ("a space", format!("{good} "), Some(Flaw::NoJws)),
        ("a scheme", format!("DPoP {good}"), Some(Flaw::NoJws)),
        ("nothing", String::new(), Some(Flaw::NoJws)),
        ("JSON", json!({"payload": message, "signature": signature}).to_string(), Some(Flaw::NoJws)),
        ("five parts", "a.b.c.d.e".to_owned(), Some(Flaw::NoJws)),
        ("no object", array, Some(Flaw::NoClaims)),
        ("a claim twice", doubled, Some(Flaw::NoClaims)),
        ("too large", large, Some(Flaw::TooLarge)),
    ] {
        assert_eq!(verdict(field.as_bytes(), &P256_A, None), expected, "{what}");
    }
    assert_eq!(verdict(b"\xff", &P256_A, None), Some(Flaw::NoJws));
}

/// Wherever a byte of a good proof is changed, it is a good proof no more.
#[test]
fn no_byte_of_a_proof_can_be_another() {
    let good =
        P256_A.sign_text(header(&P256_A, Algorithm::ES256).to_string(), claims("t").to_string(), Algorithm::ES256);
    assert_eq!(verdict(good.as_bytes(), &P256_A, None), None);
    for at in 0..good.len() {
        for other in *b"AQgw9_. \0" {
            let mut changed = good.clone().into_bytes();
            if changed[at] != other {
                changed[at] = other;
                assert!(verdict(&changed, &P256_A, None).is_some(), "byte {at} as {other}");
            }
        }
        assert!(verdict(&good.as_bytes()[..at], &P256_A, None).is_some(), "cut at {at}");
    }
}

#[test]
fn where_a_nonce_is_required_a_proof_has_a_fresh_one() {
    let settings = NonceSettings { key: Secret::new("k".repeat(32)), lifetime: Duration::from_secs(300) };
    let nonces = Nonces::new(&settings);
    let at = |s: i64| nonces.current(Clock::by_hand((NOW_S as i64 + s).try_into().unwrap()).now());
    for (nonce, expected) in [
        (json!(at(0)), None),
        (json!(at(-150)), None),
        (json!(at(-301)), Some(Flaw::NonceStale)),
        (json!(""), Some(Flaw::NonceStale)),
        (json!("x"), Some(Flaw::NonceStale)),
        (json!("-"), Some(Flaw::NonceMissing)),
        (json!([at(0)]), Some(Flaw::NonceMalformed)),
    ] {
        // Whoever has no good nonce is told so whatever its clock says.
        for iat in [NOW_S, 1] {
            let claims = with(&claims("t"), json!({"nonce": nonce, "iat": iat}));
            let proof =
                P256_A.sign_text(header(&P256_A, Algorithm::ES256).to_string(), claims.to_string(), Algorithm::ES256);
            let expected = expected.or((iat == 1).then_some(Flaw::TooOld));
            assert_eq!(verdict(proof.as_bytes(), &P256_A, Some(&nonces)), expected, "{nonce} {iat}");
        }
    }
}

fn stage(dpop: DpopSettings, link: Option<Link>) -> Identities {
    let settings = Settings { issuers: vec![pinned("acme", ISSUER, &[P384_A.jwk("f")])], dpop, ..Settings::default() };
    Identities::new(settings, Arc::new(Groups::default()), None).unwrap().sharing(link)
}

fn token(cnf: Value) -> String {
    P384_A.sign(Algorithm::ES384, "f", &with(&good_claims(), json!({"cnf": cnf})))
}

/// One request as the pipeline asks: again whenever what was waited for is there, and once more at the end, since what
/// comes after identity may have to wait as well.
async fn ask(identities: &Identities, request: &Request<'_>, now: Now) -> Result<CredentialKind, Rejection> {
    let accepted = Accepted::new([CredentialKind::Dpop, CredentialKind::Jwt]);
    let mut answers = Answers::default();
    let mut said = None;
    loop {
        let verdict = match identities.identify(request, &accepted, &answers, now, &mut Trace::off()) {
            Identified::Known(identity) => Ok(identity.credential),
            Identified::Rejected(rejection) => Err(rejection),
            Identified::Wait(wait) => {
                answers.add(wait.await);
                continue;
            }
        };
        match said {
            Some(before) => {
                assert_eq!(verdict, before, "asked again in the same request");
                return verdict;
            }
            None => said = Some(verdict),
        }
    }
}

/// Without Redis nobody knows what the process before has seen: the client is told to make another proof.
#[tokio::test]
async fn a_proof_from_before_the_start_is_not_vouched_for() {
    let nonce = NonceSettings { key: Secret::new("k".repeat(32)), lifetime: Duration::from_secs(300) };
    let clock = Clock::by_hand(NOW_S);
    for (nonce, expected) in [(None, Rejection::ReplayUnknown), (Some(nonce), Rejection::DpopNonceNeeded)] {
        let changes = match &nonce {
            None => json!({}),
            Some(nonce) => json!({"nonce": Nonces::new(nonce).current(clock.now())}),
        };
        let identities = stage(DpopSettings { nonce, ..DpopSettings::default() }, None);
        identities.spawn(&clock, &tokio_util::sync::CancellationToken::new());
        let token = token(json!({"jkt": jkt(&P256_A)}));
        for (iat, expected) in [(NOW_S - 1, Err(expected)), (NOW_S, Ok(CredentialKind::Dpop))] {
            let changes = with(&changes, json!({"iat": iat}));
            let (authorization, proof) = fields("DPoP", &token, &P256_A, Algorithm::ES256, changes);
            let request = request(&authorization, Some(&proof), None);
            assert_eq!(ask(&identities, &request, clock.now()).await, expected, "{iat}");
        }
    }
}

/// A field `Authorization` and a field `DPoP` by `key` for the request of [`claims`].
fn fields(scheme: &str, token: &str, key: &TestKey, algorithm: Algorithm, changes: Value) -> (String, String) {
    let claims = with(&claims(token), changes);
    (format!("{scheme} {token}"), key.sign_text(header(key, algorithm).to_string(), claims.to_string(), algorithm))
}

fn request<'a>(authorization: &'a str, dpop: Option<&'a str>, id: Option<&'a [u8]>) -> Request<'a> {
    Request {
        method: "GET",
        host: "api.acme.example".into(),
        path: b"/v1/x",
        ssl: true,
        authorization: Some(authorization.as_bytes()),
        dpop: dpop.map(str::as_bytes),
        id,
        ..Request::default()
    }
}

#[tokio::test]
async fn a_binding_is_asked_for_on_every_request_and_in_its_own_scheme() {
    use Rejection::*;
    let identities = stage(DpopSettings::default(), None);
    let sha256 = [7; 32];
    let x5t = URL_SAFE_NO_PAD.encode(sha256);
    let unbound = P384_A.sign(Algorithm::ES384, "f", &good_claims());
    let by_key = token(json!({"jkt": jkt(&P256_A)}));
    let by_ed25519 = token(json!({"jkt": jkt(&ED25519_A)}));
    let by_certificate = token(json!({"x5t#S256": x5t}));
    let by_both = token(json!({"x5t#S256": x5t, "jkt": jkt(&P256_A)}));
    let unknown = token(json!({"jwk": P256_A.jwk_unnamed()}));
    let (none, mine, other) = (None, Some([7; 32]), Some([8; 32]));
    // A rejection here says nothing about the token, so each token is asked for in turn, cached or not.
    let mut count = 0;
    for round in 0..2 {
        for (scheme, token, has_proof, certificate, expected) in [
            ("Bearer", &unbound, false, none, Ok(CredentialKind::Jwt)),
            ("Bearer", &unbound, true, mine, Ok(CredentialKind::Jwt)),
            ("DPoP", &unbound, true, mine, Err(ClaimMissing)),
            ("Bearer", &by_key, true, none, Err(ProofMissing)),
            ("Bearer", &by_key, false, mine, Err(ProofMissing)),
            ("DPoP", &by_key, false, none, Err(ProofMissing)),
            ("DPoP", &by_key, true, none, Ok(CredentialKind::Dpop)),
            ("dpop", &by_key, true, other, Ok(CredentialKind::Dpop)),
            ("DPoP", &by_ed25519, true, none, Err(ProofInvalid)),
            ("Bearer", &by_certificate, false, none, Err(ProofMissing)),
            ("Bearer", &by_certificate, true, other, Err(ProofInvalid)),
            ("Bearer", &by_certificate, false, mine, Ok(CredentialKind::Jwt)),
            ("DPoP", &by_certificate, true, mine, Err(ClaimMissing)),
            ("DPoP", &by_both, true, none, Err(ProofMissing)),
            ("DPoP", &by_both, true, other, Err(ProofInvalid)),
            ("DPoP", &by_both, false, mine, Err(ProofMissing)),
            ("Bearer", &by_both, true, mine, Err(ProofMissing)),
            ("DPoP", &by_both, true, mine, Ok(CredentialKind::Dpop)),
            ("Bearer", &unknown, true, mine, Err(ProofMissing)),
            ("DPoP", &unknown, true, mine, Err(ProofMissing)),
        ] {
            count += 1;
            let changes = json!({"jti": count.to_string()});
            let (authorization, proof) = fields(scheme, token, &P256_A, Algorithm::ES256, changes);
            let mut request = request(&authorization, has_proof.then_some(&proof), None);
            if let Some(sha256) = &certificate {
                request.certificate = Certificate { used: true, sha256: Some(sha256), ..Certificate::default() };
            }
            let said = ask(&identities, &request, now()).await;
            assert_eq!(said, expected, "{scheme} #{count} in round {round}");
        }
    }
    // Other requests than the one that it is for.
    let (authorization, proof) = fields("DPoP", &by_key, &P256_A, Algorithm::ES256, json!({}));
    let good = request(&authorization, Some(&proof), None);
    for (what, request) in [
        ("method", Request { method: "POST", ..good.clone() }),
        ("host", Request { host: "api.other.example".into(), ..good.clone() }),
        ("port", Request { port: Some(8443), ..good.clone() }),
        ("path", Request { path: b"/v1/y", ..good.clone() }),
        ("scheme", Request { ssl: false, ..good.clone() }),
    ] {
        assert_eq!(ask(&identities, &request, now()).await, Err(DpopProofInvalid), "{what}");
    }
    let behind_tls = stage(DpopSettings { always_https: true, ..DpopSettings::default() }, None);
    let plain = Request { ssl: false, port: Some(443), query: Some(b"q=1"), ..good.clone() };
    assert_eq!(ask(&behind_tls, &plain, now()).await, Ok(CredentialKind::Dpop));
    // None of these was a use of it.
    assert_eq!(ask(&identities, &good, now()).await, Ok(CredentialKind::Dpop));
    assert_eq!(ask(&identities, &good, now()).await, Err(DpopReplayed));
}

#[tokio::test]
async fn a_proof_is_used_once_among_all_agents_and_its_request_may_be_asked_about_again() {
    let mut redis = Redis::start();
    let link = || Link::new(&redis.settings()).unwrap();
    let local = DpopSettings { on_failure: OnReplayFailure::Local, ..DpopSettings::default() };
    let links = [link(), link(), link()];
    for link in &links {
        link.probe().await;
    }
    let [first, second, third] = links;
    let agents = [
        stage(DpopSettings::default(), Some(first)),
        stage(DpopSettings::default(), Some(second)),
        stage(local, Some(third)),
    ];
    // Ed25519 is checked inline, P-256 beside the connection.
    for (key, algorithm) in [(&P256_A, Algorithm::ES256), (&ED25519_A, Algorithm::EdDSA)] {
        let token = token(json!({"jkt": jkt(key)}));
        let proof = |jti: &str| fields("DPoP", &token, key, algorithm, json!({"jti": jti}));
        for (agent, jti, id, expected) in [
            (0, "a", Some("r1"), Ok(CredentialKind::Dpop)),
            (1, "a", Some("r2"), Err(Rejection::DpopReplayed)),
            (1, "a", Some("r1"), Ok(CredentialKind::Dpop)),
            (2, "a", None, Err(Rejection::DpopReplayed)),
            (2, "b", None, Ok(CredentialKind::Dpop)),
            (0, "b", None, Err(Rejection::DpopReplayed)),
        ] {
            let (authorization, dpop) = proof(jti);
            let request = request(&authorization, Some(&dpop), id.map(str::as_bytes));
            assert_eq!(ask(&agents[agent], &request, now()).await, expected, "{algorithm:?} {jti} {id:?} by {agent}");
        }
        // A forger does not use up what it has seen.
        let (authorization, dpop) = proof("c");
        let forged = format!("{}A", &dpop[..dpop.len() - 1]);
        let forged = if forged == dpop { format!("{}Q", &dpop[..dpop.len() - 1]) } else { forged };
        assert_eq!(
            ask(&agents[0], &request(&authorization, Some(&forged), None), now()).await,
            Err(Rejection::DpopProofInvalid)
        );
        let genuine = request(&authorization, Some(&dpop), None);
        assert_eq!(ask(&agents[0], &genuine, now()).await, Ok(CredentialKind::Dpop));
    }
    redis.stop();
    let token = token(json!({"jkt": jkt(&P256_A)}));
    for (agent, jti, expected) in [
        (0, "d", Err(Rejection::ReplayUnknown)),
        (2, "d", Ok(CredentialKind::Dpop)),
        (2, "d", Err(Rejection::DpopReplayed)),
    ] {
        let (authorization, dpop) = fields("DPoP", &token, &P256_A, Algorithm::ES256, json!({"jti": jti}));
        assert_eq!(ask(&agents[agent], &request(&authorization, Some(&dpop), None), now()).await, expected, "{jti}");
    }
}

/// The deadline has passed before Redis answered: what then holds is the config's to say, at once.
#[tokio::test]
async fn what_cannot_wait_is_decided_without_redis() {
    let redis = Redis::start();
    let token = token(json!({"jkt": jkt(&P256_A)}));
    for (on_failure, expected) in
        [(OnReplayFailure::Deny, Err(Rejection::ReplayUnknown)), (OnReplayFailure::Local, Ok(CredentialKind::Dpop))]
    {
        let settings = DpopSettings { on_failure, ..DpopSettings::default() };
        let identities = stage(settings, Some(Link::new(&redis.settings()).unwrap()));
        let (authorization, dpop) = fields("DPoP", &token, &P256_A, Algorithm::ES256, json!({}));
        let request = request(&authorization, Some(&dpop), None);
        let mut answers = Answers::default();
        answers.close();
        let said = match identities.identify(
            &request,
            &Accepted::new([CredentialKind::Dpop]),
            &answers,
            now(),
            &mut Trace::off(),
        ) {
            Identified::Known(identity) => Ok(identity.credential),
            Identified::Rejected(rejection) => Err(rejection),
            Identified::Wait(_) => panic!("there is no time to wait"),
        };
        assert_eq!(said, expected, "{on_failure:?}");
    }
}

#[tokio::test]
async fn a_nonce_of_one_agent_is_good_at_another_and_is_handed_out_where_proofs_are_made() {
    let settings = DpopSettings {
        nonce: Some(NonceSettings { key: Secret::new("k".repeat(32)), lifetime: Duration::from_secs(300) }),
        ..DpopSettings::default()
    };
    let (here, there) = (stage(settings.clone(), None), stage(settings, None));
    let token = token(json!({"jkt": jkt(&P256_A)}));
    let (authorization, dpop) = fields("DPoP", &token, &P256_A, Algorithm::ES256, json!({}));
    let without = request(&authorization, Some(&dpop), None);
    assert_eq!(ask(&here, &without, now()).await, Err(Rejection::DpopNonceNeeded));
    let nonce = here.dpop_nonce(&without, now()).unwrap();
    let (authorization, dpop) = fields("DPoP", &token, &P256_A, Algorithm::ES256, json!({"nonce": nonce}));
    assert_eq!(ask(&there, &request(&authorization, Some(&dpop), None), now()).await, Ok(CredentialKind::Dpop));

    let bearer = Request { authorization: Some(b"Bearer x"), ..Request::default() };
    for (request, handed_out) in [
        (request(&authorization, None, None), true),
        (Request { dpop: Some(b"x"), ..bearer.clone() }, true),
        (bearer, false),
        (Request::default(), false),
    ] {
        assert_eq!(here.dpop_nonce(&request, now()).is_some(), handed_out, "{request:?}");
        assert_eq!(stage(DpopSettings::default(), None).dpop_nonce(&request, now()), None);
    }
}

#[tokio::test]
async fn what_was_seen_is_still_known_after_a_reload() {
    let before = stage(DpopSettings::default(), None);
    let token = token(json!({"jkt": jkt(&P256_A)}));
    let (authorization, dpop) = fields("DPoP", &token, &P256_A, Algorithm::ES256, json!({}));
    let request = request(&authorization, Some(&dpop), None);
    assert_eq!(ask(&before, &request, now()).await, Ok(CredentialKind::Dpop));
    let settings = Settings {
        issuers: vec![pinned("acme", ISSUER, &[P384_A.jwk("f")])],
        dpop: DpopSettings { always_https: true, ..DpopSettings::default() },
        ..Settings::default()
    };
    let after = Identities::new(settings, Arc::new(Groups::default()), Some(&before)).unwrap();
    assert_eq!(ask(&after, &request, now()).await, Err(Rejection::DpopReplayed));
}
