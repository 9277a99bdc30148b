//! Attacks on the whole stage, in families, with keys made when the test runs.
//!
//! A family has twins, which are accepted, and attacks, which differ from a twin by one thing and are refused for it.
//! Where an issuer could have signed the odd thing itself the signature over it is good, so that nothing but the rule
//! under test refuses it. The number of attacks is stated: a table that shrinks fails.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::super::Rejection::{self, *};
use super::super::credential::FIELD_BYTES_MAX;
use super::super::settings::Algorithm;
use super::super::testing::{
    AUDIENCE, ED25519_A, ISSUER, NOW_S, P256_A, P256_B, P384_A, P521_A, RSA_A, TestKey, good_claims, jwks, pinned, with,
};
use super::verify::{all_keys, identities, now, of};

struct Attack(String, String, Rejection);

fn check(twins: &[String], attacks: Vec<Attack>, count: usize) {
    let identities = identities(vec![pinned("acme", ISSUER, &all_keys())]);
    for twin in twins {
        assert_eq!(of(&identities, twin, now()).map(drop), Ok(()), "the twin {twin}");
    }
    assert!(!twins.is_empty());
    for Attack(what, token, expected) in &attacks {
        assert_eq!(of(&identities, token, now()).map(drop), Err(*expected), "{what}: {token}");
    }
    assert_eq!(attacks.len(), count, "attacks");
}

fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// ES256 by the issuer's key over exactly this, however it is spelled.
fn signed(header: &str, payload: &str) -> String {
    let message = format!("{header}.{payload}");
    let signature = encode(P256_A.sign_bytes(message.as_bytes(), Algorithm::ES256));
    format!("{message}.{signature}")
}

/// ES256 by the issuer's key, with this text for a header.
fn with_header(header: impl AsRef<[u8]>) -> String {
    signed(&encode(header), &encode(good_claims().to_string()))
}

/// ES256 by the issuer's key, with this text for a payload.
fn with_payload(payload: impl AsRef<[u8]>) -> String {
    signed(&encode(HEADER), &encode(payload))
}

/// The good claims with these members in the text behind them.
fn with_members(members: &str) -> String {
    with_payload(good_claims().to_string().replacen('{', &format!("{{{members},"), 1))
}

/// The good claims with this JSON text for the value of a claim.
fn with_value(claim: &str, value: &str) -> String {
    let claims = with(&good_claims(), json!({ claim: "-" })).to_string();
    with_payload(claims.replacen('{', &format!("{{\"{claim}\":{value},"), 1))
}

const HEADER: &str = r#"{"alg":"ES256","kid":"e"}"#;

/// The issuer's keys, their names and what they may verify.
fn keys() -> [(&'static TestKey, &'static str, &'static [Algorithm]); 5] {
    use Algorithm::*;
    [
        (&RSA_A, "r", &[RS256, RS384, RS512, PS256, PS384, PS512]),
        (&P256_A, "e", &[ES256]),
        (&P384_A, "f", &[ES384]),
        (&P521_A, "g", &[ES512]),
        (&ED25519_A, "o", &[EdDSA]),
    ]
}

fn named(algorithm: &str, kid: &str) -> String {
    json!({ "alg": algorithm, "kid": kid }).to_string()
}

/// CVE-2015-9235 and all that came after: what everybody may know is taken for a secret.
#[test]
fn a_public_key_is_never_a_secret() {
    let mut attacks = Vec::new();
    for (key, kid, algorithms) in keys() {
        let der = &key.public_der;
        let lines: Vec<String> =
            STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let pem =
            |end: &str| format!("-----BEGIN PUBLIC KEY-----{end}{}{end}-----END PUBLIC KEY-----", lines.join(end));
        let jwk = key.jwk(kid);
        let number = |member: &str| URL_SAFE_NO_PAD.decode(jwk[member].as_str().unwrap_or_default()).unwrap();
        for (what, secret) in [
            ("PEM", pem("\n").into_bytes()),
            ("PEM with its last line's end", format!("{}\n", pem("\n")).into_bytes()),
            ("PEM with CRLF", pem("\r\n").into_bytes()),
            ("PEM in one line", pem("").into_bytes()),
            ("DER", der.clone()),
            ("base64 of DER", STANDARD.encode(der).into_bytes()),
            ("JWK", jwk.to_string().into_bytes()),
            ("JWK without kid", key.jwk_unnamed().to_string().into_bytes()),
            ("key set", jwks(&all_keys())),
            ("modulus", number("n")),
            ("modulus as text", jwk["n"].as_str().unwrap_or_default().into()),
            ("x", number("x")),
            ("x as text", jwk["x"].as_str().unwrap_or_default().into()),
            ("point", [&[4], number("x").as_slice(), &number("y")].concat()),
            ("kid", kid.into()),
            ("nothing", Vec::new()),
        ] {
            for (name, digest) in
                [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
            {
                let mac = |header: &str| {
                    let message = format!("{}.{}", encode(header), encode(good_claims().to_string()));
                    let mac = hmac::sign(&hmac::Key::new(digest, &secret), message.as_bytes());
                    format!("{message}.{}", encode(mac))
                };
                let what = format!("{name} with the {what} of {kid}");
                attacks.push(Attack(what.clone(), mac(&named(name, kid)), AlgorithmNotAllowed));
                attacks.push(Attack(what.clone(), mac(&format!(r#"{{"alg":"{name}"}}"#)), AlgorithmNotAllowed));
                let own = algorithms[0].name();
                attacks.push(Attack(format!("{what} called {own}"), mac(&named(own, kid)), SignatureInvalid));
            }
        }
    }
    let twins: Vec<_> = keys().iter().map(|(key, kid, algs)| key.sign(algs[0], kid, &good_claims())).collect();
    check(&twins, attacks, 5 * 16 * 3 * 3);
}

/// A secret that an issuer publishes by mistake signs nothing.
#[test]
fn a_symmetric_key_in_the_set_signs_nothing() {
    let oct = json!({"kty": "oct", "kid": "h", "k": encode([7; 64])});
    let variants = [oct.clone(), with(&oct, json!({"alg": "HS256"})), with(&oct, json!({"alg": "ES256"}))];
    for oct in variants {
        let identities = identities(vec![pinned("acme", ISSUER, &[oct.clone(), P256_A.jwk("e")])]);
        for (name, digest) in [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
        {
            let message = format!("{}.{}", encode(named(name, "h")), encode(good_claims().to_string()));
            let mac = hmac::sign(&hmac::Key::new(digest, &[7; 64]), message.as_bytes());
            let token = format!("{message}.{}", encode(mac));
            assert_eq!(of(&identities, &token, now()).map(drop), Err(AlgorithmNotAllowed), "{oct} {name}");
        }
        let token = P256_A.sign(Algorithm::ES256, "h", &good_claims());
        assert_eq!(of(&identities, &token, now()).map(drop), Err(KeyUnknown), "{oct}");
        assert!(of(&identities, &P256_A.sign(Algorithm::ES256, "e", &good_claims()), now()).is_ok());
    }
}

#[test]
fn none_in_every_spelling_is_refused() {
    let mut attacks = Vec::new();
    let good = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    let signature = good.rsplit('.').next().unwrap();
    for (value, expected) in [
        (r#""none""#, AlgorithmNotAllowed),
        (r#""None""#, AlgorithmNotAllowed),
        (r#""NONE""#, AlgorithmNotAllowed),
        (r#""nOnE""#, AlgorithmNotAllowed),
        (r#""nonE""#, AlgorithmNotAllowed),
        (r#""n\u006fne""#, AlgorithmNotAllowed),
        (r#"" none""#, AlgorithmNotAllowed),
        (r#""none ""#, AlgorithmNotAllowed),
        (r#""none\n""#, AlgorithmNotAllowed),
        (r#""none\u0000""#, AlgorithmNotAllowed),
        (r#""\u0000none""#, AlgorithmNotAllowed),
        ("\"no\u{301}ne\"", AlgorithmNotAllowed),
        ("\"n\u{43e}ne\"", AlgorithmNotAllowed),
        (r#""unsecured""#, AlgorithmNotAllowed),
        (r#""null""#, AlgorithmNotAllowed),
        (r#""false""#, AlgorithmNotAllowed),
        (r#""""#, AlgorithmNotAllowed),
        (r#"" ""#, AlgorithmNotAllowed),
        ("null", TokenMalformed),
        ("false", TokenMalformed),
        ("0", TokenMalformed),
        (r#"["none"]"#, TokenMalformed),
        (r#"["ES256"]"#, TokenMalformed),
        (r#"{"none":1}"#, TokenMalformed),
        ("[]", TokenMalformed),
    ] {
        let message = |header: String| format!("{}.{}", encode(header), encode(good_claims().to_string()));
        let named = message(format!(r#"{{"alg":{value},"kid":"e"}}"#));
        let unnamed = message(format!(r#"{{"typ":"JWT","alg":{value}}}"#));
        for (how, signature) in [("no", ""), ("another token's", signature), ("a zero", "AA")] {
            attacks.push(Attack(format!("alg {value}, {how} signature"), format!("{named}.{signature}"), expected));
            attacks.push(Attack(
                format!("{value}, no kid, {how} signature"),
                format!("{unnamed}.{signature}"),
                expected,
            ));
        }
    }
    for (what, header) in [("no alg", r#"{"kid":"e"}"#), ("ALG", r#"{"ALG":"ES256","kid":"e"}"#), ("{}", "{}")] {
        attacks.push(Attack(what.to_owned(), with_header(header), TokenMalformed));
    }
    check(std::slice::from_ref(&good), attacks, 25 * 6 + 3);
}

/// A key, or the way to one, that comes with the token (CVE-2018-0114).
#[test]
fn a_key_that_comes_with_the_token_proves_nothing() {
    let own = P256_B.jwk("e");
    let certificate = STANDARD.encode(&P256_B.public_der);
    let members = [
        ("jwk", json!({ "jwk": own })),
        ("jwk without kid", json!({ "jwk": P256_B.jwk_unnamed() })),
        ("jwk for signatures", json!({ "jwk": with(&own, json!({"use": "sig", "alg": "ES256"})) })),
        ("jwk as text", json!({ "jwk": own.to_string() })),
        ("jwks", json!({ "jwks": { "keys": [own] } })),
        ("jku", json!({ "jku": "https://evil.example/keys" })),
        ("jku of the issuer with user info", json!({ "jku": "https://login.acme.example@evil.example/keys" })),
        ("jku as data", json!({ "jku": "data:application/json,{}" })),
        ("jku as file", json!({ "jku": "file:///etc/passwd" })),
        ("x5u", json!({ "x5u": "https://evil.example/chain.pem" })),
        ("x5c", json!({ "x5c": [certificate] })),
        ("x5c as text", json!({ "x5c": certificate })),
        ("x5t", json!({ "x5t": "AAAAAAAAAAAAAAAAAAAAAAAAAAA" })),
        ("x5t#S256", json!({ "x5t#S256": encode([0; 32]) })),
        ("all", json!({ "jwk": own, "jku": "https://evil.example/keys", "x5c": [certificate] })),
    ];
    let (mut attacks, mut twins) = (Vec::new(), Vec::new());
    for (what, members) in members {
        for (kid, expected) in
            [(json!("e"), SignatureInvalid), (json!("-"), SignatureInvalid), (json!("evil"), KeyUnknown)]
        {
            let header = with(&with(&json!({"alg": "ES256"}), members.clone()), json!({ "kid": kid }));
            let token = P256_B.sign_text(header.to_string(), good_claims().to_string(), Algorithm::ES256);
            attacks.push(Attack(format!("{what}, kid {kid}"), token, expected));
        }
        // From the issuer itself the same members say nothing either, and do no harm.
        twins.push(with_header(with(&json!({"alg": "ES256", "kid": "e"}), members).to_string()));
    }
    check(&twins, attacks, 15 * 3);
}

/// Signatures that are nearly one, in all ten algorithms.
#[test]
fn a_signature_is_exactly_one() {
    let (mut attacks, mut twins) = (Vec::new(), Vec::new());
    for (key, kid, algorithms) in keys() {
        for algorithm in algorithms {
            let twin = key.sign(*algorithm, kid, &good_claims());
            let (message, signature) = twin.rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let len = signature.len();
            let flipped = |at: usize, bit: u8| {
                let mut signature = signature.clone();
                signature[at] ^= bit;
                signature
            };
            for (what, signature) in [
                ("empty", Vec::new()),
                ("one octet", vec![0]),
                ("cut by one", signature[..len - 1].to_vec()),
                ("without its first", signature[1..].to_vec()),
                ("cut in half", signature[..len / 2].to_vec()),
                ("one octet more", [signature.as_slice(), &[0]].concat()),
                ("padded in front", [&[0], signature.as_slice()].concat()),
                ("twice", signature.repeat(2)),
                ("zeros", vec![0; len]),
                ("ones", vec![0xff; len]),
                ("first bit", flipped(0, 0x80)),
                ("last bit", flipped(len - 1, 1)),
                ("middle bit", flipped(len / 2, 1)),
                ("halves exchanged", [&signature[len / 2..], &signature[..len / 2]].concat()),
                ("backwards", signature.iter().rev().copied().collect()),
                ("another message's", key.sign_bytes(b"e30.e30", *algorithm)),
            ] {
                let token = format!("{message}.{}", encode(signature));
                attacks.push(Attack(format!("{algorithm:?}: {what}"), token, SignatureInvalid));
            }
            twins.push(twin);
        }
    }
    check(&twins, attacks, 10 * 16);
}

/// CVE-2022-21449 ("psychic signatures") and its relatives, and the other form of ECDSA signatures.
#[test]
fn numbers_of_an_ecdsa_signature_are_in_range_and_side_by_side() {
    let (mut attacks, mut twins) = (Vec::new(), Vec::new());
    let p256 = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551".to_owned();
    let p384 = format!("{}c7634d81f4372ddf581a0db248b0a77aecec196accc52973", "ff".repeat(24));
    let p521 = format!("01{}fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409", "ff".repeat(32));
    for (key, kid, algorithm, order) in [
        (&P256_A, "e", Algorithm::ES256, p256),
        (&P384_A, "f", Algorithm::ES384, p384),
        (&P521_A, "g", Algorithm::ES512, p521),
    ] {
        let digits = order.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
        let n: Vec<u8> = digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
        let twin = key.sign(algorithm, kid, &good_claims());
        let (message, signature) = twin.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let (r, s) = signature.split_at(n.len());
        assert_eq!(s.len(), n.len());
        // With n - s for s the signature holds as well, which also shows that n is right. A token has therefore more than
        // one text, and none of them is its name.
        twins.push(format!("{message}.{}", encode([r, &difference(&n, s)].concat())));
        let zero = vec![0; n.len()];
        let mut one = zero.clone();
        *one.last_mut().unwrap() = 1;
        let largest = vec![0xff; n.len()];
        for (what, signature) in [
            ("r = 0", [&zero, s].concat()),
            ("s = 0", [r, &zero].concat()),
            ("r = s = 0", [zero.as_slice(), &zero].concat()),
            ("r = 1, s = 0", [one.as_slice(), &zero].concat()),
            ("r = 0, s = 1", [zero.as_slice(), &one].concat()),
            ("r = s = 1", [one.as_slice(), &one].concat()),
            ("r = n", [&n, s].concat()),
            ("s = n", [r, &n].concat()),
            ("r = s = n", [n.as_slice(), &n].concat()),
            ("r = n, s = 0", [n.as_slice(), &zero].concat()),
            ("r = n, s = 1", [n.as_slice(), &one].concat()),
            ("largest r", [&largest, s].concat()),
            ("largest s", [r, &largest].concat()),
            ("r alone", r.to_vec()),
            ("r + n", [sum(r, &n), s.to_vec()].concat()),
            ("s + n", [r.to_vec(), sum(s, &n)].concat()),
            ("DER", der(r, s)),
            ("DER of zeros", vec![0x30, 6, 2, 1, 0, 2, 1, 0]),
            ("DER of ones", vec![0x30, 6, 2, 1, 1, 2, 1, 1]),
            ("wider", [&[0], r, &[0], s].concat()),
            ("of half the width", [&r[..n.len() / 2], &s[..n.len() / 2]].concat()),
        ] {
            let token = format!("{message}.{}", encode(signature));
            attacks.push(Attack(format!("{algorithm:?}: {what}"), token, SignatureInvalid));
        }
        twins.push(twin);
    }
    // EdDSA: s + L is the same point, and a second spelling (RFC 8032, section 5.1.7).
    let l = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let twin = ED25519_A.sign(Algorithm::EdDSA, "o", &good_claims());
    let (message, signature) = twin.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let reversed = |octets: &[u8]| octets.iter().rev().copied().collect::<Vec<u8>>();
    let second = reversed(&sum(&reversed(&signature[32..]), &reversed(&l)));
    let mut identity = [0; 64];
    identity[0] = 1;
    for (what, signature) in [("s + L", [&signature[..32], &second].concat()), ("R = 1, s = 0", identity.to_vec())] {
        attacks.push(Attack(format!("EdDSA: {what}"), format!("{message}.{}", encode(signature)), SignatureInvalid));
    }
    twins.push(twin);
    check(&twins, attacks, 3 * 21 + 2);
}

/// `a + b`, big-endian; one octet wider if it must be.
fn sum(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut sum: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            carry += u16::from(*a) + u16::from(*b);
            let octet = carry as u8;
            carry >>= 8;
            octet
        })
        .collect();
    if carry > 0 {
        sum.push(carry as u8);
    }
    sum.reverse();
    sum
}

/// `a - b`, big-endian, `a` the larger.
fn difference(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut difference: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            let octet = i16::from(*a) - i16::from(*b) - borrow;
            borrow = i16::from(octet < 0);
            octet.rem_euclid(256) as u8
        })
        .collect();
    difference.reverse();
    difference
}

/// An ECDSA signature as X.509 has it.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let length = |len: usize| if len < 128 { vec![len as u8] } else { vec![0x81, len as u8] };
    let integer = |number: &[u8]| {
        let zeros = number.iter().take_while(|octet| **octet == 0).count();
        let number = &number[zeros..];
        let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
        [&[2], length(sign.len() + number.len()).as_slice(), sign, number].concat()
    };
    let body = [integer(r), integer(s)].concat();
    [&[0x30], length(body.len()).as_slice(), &body].concat()
}

/// A good signature in one algorithm is none in another, and a key's type is not the token's to say.
#[test]
fn an_algorithm_is_the_keys_and_not_the_tokens() {
    let (mut attacks, mut twins) = (Vec::new(), Vec::new());
    for (key, kid, algorithms) in keys() {
        for made in algorithms {
            for said in Algorithm::ALL.into_iter().filter(|said| said != made) {
                let token = key.sign_text(named(said.name(), kid), good_claims().to_string(), *made);
                let expected = if algorithms.contains(&said) { SignatureInvalid } else { AlgorithmNotAllowed };
                attacks.push(Attack(format!("{made:?} by {kid} called {said:?}"), token, expected));
            }
            twins.push(key.sign(*made, kid, &good_claims()));
        }
    }
    for name in ["ES256K", "Ed25519", "ES521", "RS1", "RS256 ", "rs256", "ML-DSA-44", "dir", "RSA-OAEP", "A256GCM"] {
        attacks.push(Attack(name.to_owned(), with_header(named(name, "e")), AlgorithmNotAllowed));
    }
    check(&twins, attacks, 10 * 9 + 10);
}

#[test]
fn a_header_is_read_in_one_way_or_not_at_all() {
    let mut attacks = Vec::new();
    let mut row = |header: &str, expected| attacks.push(Attack(header.to_owned(), with_header(header), expected));
    for (members, expected) in [
        // The same name twice, however it is spelled and wherever it stands.
        (r#""alg":"ES256""#, TokenMalformed),
        (r#""alg":"none""#, TokenMalformed),
        (r#""\u0061lg":"ES256""#, TokenMalformed),
        (r#""a\u006cg":"none""#, TokenMalformed),
        (r#""kid":"e""#, TokenMalformed),
        (r#""\u006b\u0069\u0064":"r""#, TokenMalformed),
        (r#""x":1,"x":1"#, TokenMalformed),
        (r#""x":{"y":1,"y":2}"#, TokenMalformed),
        (r#""x":[{"y":1,"\u0079":2}]"#, TokenMalformed),
        (r#""jwk":{"kty":"EC","kty":"oct"}"#, TokenMalformed),
        // Nothing critical is understood (RFC 7515, section 4.1.11).
        (r#""crit":["exp"]"#, CriticalHeader),
        (r#""crit":["exp"],"exp":1"#, CriticalHeader),
        (r#""crit":["b64"],"b64":true"#, CriticalHeader),
        (r#""crit":["b64"],"b64":false"#, CriticalHeader),
        (r#""crit":["alg"]"#, CriticalHeader),
        (r#""crit":["kid"]"#, CriticalHeader),
        (r#""crit":["http://example.invalid/UNDEFINED"],"http://example.invalid/UNDEFINED":true"#, CriticalHeader),
        (r#""crit":["exp","exp"]"#, CriticalHeader),
        (r#""crit":[]"#, CriticalHeader),
        (r#""crit":[""]"#, CriticalHeader),
        (r#""crit":[1]"#, CriticalHeader),
        (r#""crit":"exp""#, CriticalHeader),
        (r#""crit":{}"#, CriticalHeader),
        (r#""crit":null"#, CriticalHeader),
        (r#""crit":false"#, CriticalHeader),
        (r#""cr\u0069t":["exp"]"#, CriticalHeader),
        // What would change what is signed, or belongs to another format.
        (r#""b64":false"#, TokenMalformed),
        (r#""b64":true"#, TokenMalformed),
        (r#""b64":null"#, TokenMalformed),
        (r#""zip":"DEF""#, TokenMalformed),
        (r#""enc":"A128GCM""#, TokenEncrypted),
        (r#""enc":null"#, TokenEncrypted),
        (r#""cty":"JWT""#, TokenNested),
        (r#""cty":"jwt""#, TokenNested),
        (r#""cty":"application/jwt""#, TokenNested),
        (r#""cty":1"#, TokenMalformed),
        // Another kind of token, signed by the same key (RFC 8725, section 3.11).
        (r#""typ":"logout+jwt""#, TokenType),
        (r#""typ":"dpop+jwt""#, TokenType),
        (r#""typ":"secevent+jwt""#, TokenType),
        (r#""typ":"oauth-authz-req+jwt""#, TokenType),
        (r#""typ":"token-introspection+jwt""#, TokenType),
        (r#""typ":"client-authentication+jwt""#, TokenType),
        (r#""typ":"entity-statement+jwt""#, TokenType),
        (r#""typ":"kb+jwt""#, TokenType),
        (r#""typ":"vc+sd-jwt""#, TokenType),
        (r#""typ":"rt+jwt""#, TokenType),
        (r#""typ":"JOSE""#, TokenType),
        (r#""typ":"JOSE+JSON""#, TokenType),
        (r#""typ":"JWE""#, TokenType),
        (r#""typ":"application/dpop+jwt""#, TokenType),
        (r#""typ":"at+jwt; charset=utf-8""#, TokenType),
        (r#""typ":" at+jwt""#, TokenType),
        (r#""typ":"at+jwt\u0000""#, TokenType),
        (r#""typ":"""#, TokenType),
        ("\"typ\":\"at+jw\u{1d57}\"", TokenType),
        (r#""typ":["at+jwt"]"#, TokenMalformed),
        (r#""typ":null"#, TokenMalformed),
        (r#""typ":true"#, TokenMalformed),
        // JSON that some readers forgive.
        (r#""x":1,"#, TokenMalformed),
        (r#""x":1 /* */"#, TokenMalformed),
        (r#"'x':1"#, TokenMalformed),
        (r#"x:1"#, TokenMalformed),
        (r#""x":NaN"#, TokenMalformed),
        (r#""x":Infinity"#, TokenMalformed),
        (r#""x":01"#, TokenMalformed),
        (r#""x":1e400"#, TokenMalformed),
        (r#""x":"\ud800""#, TokenMalformed),
        (r#""x":"\udc00\ud800""#, TokenMalformed),
        (r#""\ud800":1"#, TokenMalformed),
        (r#""x":"\x41""#, TokenMalformed),
        ("\"x\":\"\u{1}\"", TokenMalformed),
        ("\"x\":\"\n\"", TokenMalformed),
    ] {
        row(&HEADER.replace('}', &format!(",{members}}}")), expected);
    }
    for (header, expected) in [
        ("", TokenMalformed),
        ("null", TokenMalformed),
        ("1", TokenMalformed),
        (r#""ES256""#, TokenMalformed),
        (r#"[{"alg":"ES256"}]"#, TokenMalformed),
        (r#"{"alg":"ES256"}{}"#, TokenMalformed),
        (r#"{"alg":"ES256"}x"#, TokenMalformed),
        ("{\"alg\":\"ES256\"}\0", TokenMalformed),
        (r#"{"alg":"ES256""#, TokenMalformed),
        (r#"{"alg":"ES256"}}"#, TokenMalformed),
        ("\u{feff}{\"alg\":\"ES256\"}", TokenMalformed),
        ("{\u{a0}\"alg\":\"ES256\"}", TokenMalformed),
        // Names of keys that are somebody's idea of a file, a query or a bargain.
        (r#"{"alg":"ES256","kid":1}"#, TokenMalformed),
        (r#"{"alg":"ES256","kid":null}"#, TokenMalformed),
        (r#"{"alg":"ES256","kid":["e"]}"#, TokenMalformed),
        (r#"{"alg":"ES256","kid":{"e":1}}"#, TokenMalformed),
        (r#"{"alg":"ES256","kid":""}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"E"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":" e"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"e "}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"e\u0000"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"e\u0000.pem"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"../../../../../../dev/null"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"/proc/sys/kernel/randomize_va_space"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"..\\..\\windows\\win.ini"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"e' OR '1'='1"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"x' UNION SELECT 'key';--"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"e|/usr/bin/id"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"https://evil.example/key.pem"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"*"}"#, KeyUnknown),
        (r#"{"alg":"ES256","kid":"${jndi:ldap://evil.example}"}"#, KeyUnknown),
        ("{\"alg\":\"ES256\",\"kid\":\"\u{ff45}\"}", KeyUnknown),
        ("{\"alg\":\"ES256\",\"kid\":\"\u{435}\"}", KeyUnknown),
        ("{\"alg\":\"ES256\",\"kid\":\"e\u{301}\"}", KeyUnknown),
        ("{\"alg\":\"ES256\",\"kid\":\"e\u{200b}\"}", KeyUnknown),
    ] {
        row(header, expected);
    }
    for (what, header, expected) in [
        ("17 levels", HEADER.replace('}', &format!(",\"x\":{}{}}}", "[".repeat(16), "]".repeat(16))), TokenMalformed),
        (
            "5,000 levels",
            HEADER.replace('}', &format!(",\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000))),
            TokenMalformed,
        ),
        ("never closed", HEADER.replace('}', &format!(",\"x\":{}", "[".repeat(9000))), TokenMalformed),
        (
            "objects",
            HEADER.replace('}', &format!(",\"x\":{}1{}}}", r#"{"a":"#.repeat(1000), "}".repeat(1000))),
            TokenMalformed,
        ),
        ("a kid of 8,000 characters", named("ES256", &"e".repeat(8000)), KeyUnknown),
        ("a header of 16 KiB", named("ES256", &"e".repeat(FIELD_BYTES_MAX)), TokenTooLarge),
    ] {
        attacks.push(Attack(what.to_owned(), with_header(header), expected));
    }
    for (what, header) in [
        ("not UTF-8", b"{\"alg\":\"ES256\",\"x\":\"\xff\"}".to_vec()),
        ("overlong UTF-8", b"{\"alg\":\"ES256\",\"x\":\"\xc0\xae\"}".to_vec()),
        ("a surrogate as UTF-8", b"{\"alg\":\"ES256\",\"x\":\"\xed\xa0\x80\"}".to_vec()),
        ("UTF-16", HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("UTF-16 with its mark", "\u{feff}{}".encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("UTF-32", HEADER.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect()),
    ] {
        attacks.push(Attack(what.to_owned(), with_header(header), TokenMalformed));
    }
    let twins = [
        HEADER.to_owned(),
        r#" { "alg" : "ES256" , "\u006b\u0069\u0064" : "\u0065" } "#.to_owned(),
        "{\r\n\t\"alg\":\"ES256\"}".to_owned(),
        r#"{"alg":"ES256","typ":"JWT","x":{"y":[1,1],"z":"\ud83d\ude00"},"y":1}"#.to_owned(),
        r#"{"alg":"ES256","typ":"aT+jWt","cty":"json"}"#.to_owned(),
        HEADER.replace('}', &format!(",\"x\":{}{}}}", "[".repeat(15), "]".repeat(15))),
    ];
    check(&twins.map(with_header), attacks, 72 + 35 + 6 + 6);
}

/// One token, one spelling. Each of these is signed as it is spelled.
#[test]
fn base64url_is_spelled_in_one_way() {
    // Claims whose encoding has both characters that the alphabets differ in, and a last group that is not full.
    let payload = (0..4)
        .map(|n| encode(with(&good_claims(), json!({ "name": format!(">>>>>?????{}", "x".repeat(n)) })).to_string()))
        .find(|payload| payload.contains('-') && payload.contains('_') && payload.len() % 4 == 3)
        .unwrap();
    let header = encode(r#"{"alg":"ES256","kid":"e","x":"12"}"#);
    assert_eq!(header.len() % 4, 2, "bits are left over");
    let standard = STANDARD_NO_PAD.encode(URL_SAFE_NO_PAD.decode(&payload).unwrap());
    let padded = |part: &str| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
    // The last character's lowest bit is no part of any octet.
    let trailing_bit = |part: &str| {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (rest, last) = part.split_at(part.len() - 1);
        let at = ALPHABET.iter().position(|c| *c == last.as_bytes()[0]).unwrap();
        format!("{rest}{}", char::from(ALPHABET[at + 1]))
    };
    let within = |part: &str, odd: &str| format!("{}{odd}{}", &part[..8], &part[8..]);
    let mut attacks = Vec::new();
    let mut row = |what: &str, token: String, expected| attacks.push(Attack(what.to_owned(), token, expected));

    row("header with a trailing bit", signed(&trailing_bit(&header), &payload), TokenMalformed);
    row("payload with a trailing bit", signed(&header, &trailing_bit(&payload)), TokenMalformed);
    row("payload in the other alphabet", signed(&header, &standard), TokenMalformed);
    row("one of two in the other alphabet", signed(&header, &payload.replacen('-', "+", 1)), TokenMalformed);
    row("a character more", signed(&header, &format!("{payload}AA")), TokenMalformed);
    row(
        "a zero octet more",
        signed(&header, &encode([URL_SAFE_NO_PAD.decode(&payload).unwrap(), vec![0]].concat())),
        TokenMalformed,
    );
    // No field value could bring these; `token68` has padding at its end only.
    row("header with padding", signed(&padded(&header), &payload), CredentialMalformed);
    row("payload with padding", signed(&header, &padded(&payload)), CredentialMalformed);
    for odd in [" ", "\t", "\n", "\r\n", "=", "==", "\0", "%2B", "\u{b}", "\u{e9}", "\u{ff21}", ",", "\"", "\\", "*"] {
        row(&format!("header with {odd:?}"), signed(&within(&header, odd), &payload), CredentialMalformed);
        row(&format!("payload with {odd:?}"), signed(&header, &within(&payload, odd)), CredentialMalformed);
    }
    for odd in ["~", "+", "/"] {
        row(&format!("header with {odd:?}"), signed(&within(&header, odd), &payload), TokenMalformed);
        row(&format!("payload with {odd:?}"), signed(&header, &within(&payload, odd)), TokenMalformed);
    }
    let signed_twin = signed(&header, &payload);
    let (message, signature) = signed_twin.rsplit_once('.').unwrap();
    for (what, signature, expected) in [
        ("padding", padded(signature), TokenMalformed),
        ("one character of padding", format!("{signature}="), TokenMalformed),
        ("much padding", format!("{signature}{}", "=".repeat(400)), TokenMalformed),
        ("a trailing bit", trailing_bit(signature), TokenMalformed),
        ("a character more", format!("{signature}AAA"), TokenMalformed),
        ("a space", format!("{signature} "), CredentialMalformed),
        ("a line's end", format!("{signature}\r\n"), CredentialMalformed),
        ("a tilde", format!("{signature}~"), TokenMalformed),
        ("a disclosure", format!("{signature}~WyJhIiwiYiIsImMiXQ~"), TokenMalformed),
    ] {
        row(&format!("signature with {what}"), format!("{message}.{signature}"), expected);
    }
    check(std::slice::from_ref(&signed_twin), attacks, 8 + 30 + 6 + 9);
}

#[test]
fn three_parts_are_a_token_and_nothing_else_is() {
    let twin = P256_A.sign(Algorithm::ES256, "e", &good_claims());
    let [header, payload, signature] = *twin.split('.').collect::<Vec<_>>() else { panic!() };
    let encrypted = encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM","cty":"JWT"}"#);
    let direct = encode(r#"{"alg":"dir","enc":"A256GCM"}"#);
    let json = json!({"payload": payload, "protected": header, "signature": signature}).to_string();
    let unsigned = format!("{}.{payload}.", encode(r#"{"alg":"none"}"#));
    let mut attacks: Vec<_> = [
        ("the header alone", header.to_owned(), TokenMalformed),
        ("no signature part", format!("{header}.{payload}"), TokenMalformed),
        ("an empty signature", format!("{header}.{payload}."), SignatureInvalid),
        ("no payload", format!("{header}..{signature}"), TokenMalformed),
        ("no header", format!(".{payload}.{signature}"), TokenMalformed),
        ("two dots", "..".to_owned(), TokenMalformed),
        ("four dots", "....".to_owned(), TokenEncrypted),
        ("a dot before", format!(".{twin}"), TokenMalformed),
        ("a dot after", format!("{twin}."), TokenMalformed),
        ("a dot within", twin.replace('.', ".."), TokenEncrypted),
        ("twice", format!("{twin}.{twin}"), TokenMalformed),
        ("the signature twice", format!("{twin}.{signature}"), TokenMalformed),
        ("two headers", format!("{header}.{twin}"), TokenMalformed),
        ("10,000 dots", ".".repeat(10_000), TokenMalformed),
        ("10,000 dots after", format!("{twin}{}", ".".repeat(10_000)), TokenMalformed),
        ("a JWE", format!("{encrypted}.AAAA.AAAA.AAAA.AAAA"), TokenEncrypted),
        ("a JWE without a key", format!("{direct}..AAAA.AAAA.AAAA"), TokenEncrypted),
        ("a JWE's header in three parts", format!("{encrypted}.{payload}.{signature}"), TokenEncrypted),
        ("a JWE around an unsigned token", format!("{direct}..AAAA.{}.AAAA", encode(&unsigned)), TokenEncrypted),
        ("JSON serialization", json.clone(), CredentialMalformed),
        ("JSON serialization, encoded", encode(&json), TokenMalformed),
        ("two credentials", format!("{twin} {twin}"), CredentialMalformed),
        ("a list of credentials", format!("{twin},{twin}"), CredentialMalformed),
        ("two schemes", format!("Bearer {twin}"), CredentialMalformed),
        ("quoted", format!("\"{twin}\""), CredentialMalformed),
        ("a parameter", format!("{twin};x=y"), CredentialMalformed),
        ("the token of a token", encode(&twin), TokenMalformed),
        ("nested", with_payload(&twin), TokenMalformed),
        ("nested, said so", signed(&encode(r#"{"alg":"ES256","kid":"e","cty":"JWT"}"#), &encode(&twin)), TokenNested),
        ("nested as a string", with_payload(format!("\"{twin}\"")), TokenMalformed),
        ("an unsigned one nested", with_payload(&unsigned), TokenMalformed),
    ]
    .into_iter()
    .map(|(what, token, expected)| Attack(what.to_owned(), token, expected))
    .collect();

    // As large as a field value may be, and one octet more.
    let filled = |len: usize| with_payload(with(&good_claims(), json!({ "x": "x".repeat(len) })).to_string());
    let fits = |token: &String| "Bearer ".len() + token.len() <= FIELD_BYTES_MAX;
    let spare = FIELD_BYTES_MAX - "Bearer ".len() - filled(0).len();
    let largest = (spare / 4 * 3..).take(8).map(filled).take_while(fits).last().unwrap();
    assert!(largest.len() + 7 > FIELD_BYTES_MAX - 4);
    for len in [FIELD_BYTES_MAX, 4 * FIELD_BYTES_MAX] {
        attacks.push(Attack(format!("{len} octets of claims"), filled(len), TokenTooLarge));
        attacks.push(Attack(format!("{len} dots"), ".".repeat(len), TokenTooLarge));
        attacks.push(Attack(
            format!("a signature of {len}"),
            format!("{header}.{payload}.{}", "A".repeat(len)),
            TokenTooLarge,
        ));
    }
    check(&[twin.clone(), largest], attacks, 31 + 6);
}

/// A date is absent, a number, or malformed; "absent" is not what malformed means (CVE-2026-25537).
#[test]
fn dates_are_numbers_in_range_and_in_time() {
    let (mut attacks, mut twins) = (Vec::new(), Vec::new());
    for claim in ["exp", "nbf", "iat"] {
        for (value, expected) in [
            ("1e400", TokenMalformed),
            ("-1e400", TokenMalformed),
            ("1e99999999999999999999", TokenMalformed),
            ("NaN", TokenMalformed),
            ("Infinity", TokenMalformed),
            ("-Infinity", TokenMalformed),
            ("+1800000000", TokenMalformed),
            ("01800000000", TokenMalformed),
            ("0x6b49d200", TokenMalformed),
            ("1800000000.", TokenMalformed),
            (".18e10", TokenMalformed),
            ("1_800_000_000", TokenMalformed),
            ("", TokenMalformed),
            ("99999999999999999999", ClaimMalformed),
            ("18446744073709551615", ClaimMalformed),
            ("18446744073709551616", ClaimMalformed),
            ("9223372036854775808", ClaimMalformed),
            ("-9223372036854775809", ClaimMalformed),
            ("1e308", ClaimMalformed),
            ("-1e308", ClaimMalformed),
            ("9.3e18", ClaimMalformed),
            (r#""1800000000""#, ClaimMalformed),
            (r#""""#, ClaimMalformed),
            (r#""never""#, ClaimMalformed),
            (r#""2027-01-15T08:00:00Z""#, ClaimMalformed),
            ("null", ClaimMalformed),
            ("true", ClaimMalformed),
            ("false", ClaimMalformed),
            ("[]", ClaimMalformed),
            ("[1800000000]", ClaimMalformed),
            ("{}", ClaimMalformed),
            (r#"{"$numberLong":"1800000000"}"#, ClaimMalformed),
        ] {
            attacks.push(Attack(format!("{claim} {value}"), with_value(claim, value), expected));
        }
        // The same date, in as many ways as JSON has.
        for value in [
            format!("{NOW_S}"),
            format!("{NOW_S}.0"),
            "1.8e9".to_owned(),
            "18E8".to_owned(),
            format!("{NOW_S}.000{}", "0".repeat(4000)),
        ] {
            twins.push(with_value(claim, &value));
        }
    }
    let late = i64::try_from(NOW_S).unwrap() - 60;
    let early = i64::try_from(NOW_S).unwrap() + 60;
    for value in ["0", "-0", "-1", "1", "1.5", "-1.5", "1e-300", "-9223372036854775808", "-9.2e18", "5e-324"] {
        attacks.push(Attack(format!("exp {value}"), with_value("exp", value), TokenExpired));
    }
    for value in [late.to_string(), format!("{late}.0"), format!("{late}.9999"), (late - 1).to_string()] {
        attacks.push(Attack(format!("exp {value}"), with_value("exp", &value), TokenExpired));
    }
    for value in [format!("{early}.000001"), format!("{}", early + 1), "9e18".to_owned(), i64::MAX.to_string()] {
        attacks.push(Attack(format!("nbf {value}"), with_value("nbf", &value), TokenNotYetValid));
    }
    for value in [format!("{early}.000001"), format!("{}", early + 1), "9e18".to_owned(), i64::MAX.to_string()] {
        attacks.push(Attack(format!("iat {value}"), with_value("iat", &value), IssuedInFuture));
    }
    for (claim, other) in [("exp", "\\u0065xp"), ("nbf", "n\\u0062f"), ("iat", "ia\\u0074")] {
        let value = with_value(claim, &format!("{NOW_S},\"{other}\":{NOW_S}"));
        attacks.push(Attack(format!("{claim} twice by an escape"), value, TokenMalformed));
        attacks.push(Attack(
            format!("{claim} twice"),
            with_value(claim, &format!("{NOW_S},\"{claim}\":{NOW_S}")),
            TokenMalformed,
        ));
    }
    for missing in ["Exp", "EXP", "exp ", "\\u0000exp", "\u{ff45}xp", "expires", "expires_in"] {
        let claims = with(&good_claims(), json!({"exp": "-"})).to_string();
        let payload = claims.replacen('{', &format!("{{\"{missing}\":{},", NOW_S + 300), 1);
        attacks.push(Attack(format!("{missing} for exp"), with_payload(payload), ClaimMissing));
    }
    for (claim, value) in [
        ("exp", late + 1),
        ("exp", i64::MAX),
        ("exp", 253_402_300_799),
        ("nbf", early),
        ("nbf", 0),
        ("nbf", -1),
        ("iat", early),
        ("iat", 0),
    ] {
        twins.push(with_value(claim, &value.to_string()));
    }
    check(&twins, attacks, 3 * 32 + 14 + 4 + 4 + 6 + 7);
}

#[test]
fn an_issuer_is_exactly_that() {
    let mut attacks = Vec::new();
    let mut row =
        |value: &str, expected| attacks.push(Attack(format!("iss {value}"), with_value("iss", value), expected));
    let host = "https://login.acme.example";
    for other in [
        format!("{ISSUER}/"),
        format!("{ISSUER}//"),
        format!("{ISSUER}?"),
        format!("{ISSUER}#"),
        format!("{ISSUER}/."),
        format!(" {ISSUER}"),
        format!("{ISSUER} "),
        format!("{ISSUER}\\u0000"),
        format!("{ISSUER}\\n"),
        format!("{ISSUER}\u{200b}"),
        ISSUER.to_uppercase(),
        ISSUER.replace("main", "Main"),
        ISSUER.replace("https", "http"),
        ISSUER.replace("https", "HTTPS"),
        ISSUER.replace("https://", ""),
        ISSUER.replace("https://", "//"),
        ISSUER.replace(".example", ".example:443"),
        ISSUER.replace(".example", ".example."),
        ISSUER.replace("login", "LOGIN"),
        ISSUER.replace("acme", "acm\u{435}"),
        ISSUER.replace("acme", "xn--acm-qda"),
        ISSUER.replace("main", "m%61in"),
        ISSUER.replace("/realms", "/x/../realms"),
        ISSUER.replace("/realms", "//realms"),
        ISSUER.replace("login", "evil@login"),
        ISSUER.replace("acme.example", "acme.example.evil.example"),
        ISSUER.replace("login.acme.example", "evil.example/login.acme.example"),
        host.to_owned(),
        format!("{host}/realms/other"),
        format!("{host}/realms"),
        "acme".to_owned(),
        "*".to_owned(),
        "".to_owned(),
    ] {
        row(&format!("\"{other}\""), IssuerUnknown);
    }
    for value in [
        format!("[\"{ISSUER}\"]"),
        format!("[\"{ISSUER}\",\"https://evil.example\"]"),
        format!("[[\"{ISSUER}\"]]"),
        format!("{{\"{ISSUER}\":1}}"),
        format!("{{\"0\":\"{ISSUER}\"}}"),
        "null".to_owned(),
        "0".to_owned(),
        "true".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
    ] {
        row(&value, ClaimMalformed);
    }
    for (what, members) in [
        ("twice, the same", format!("\"iss\":\"{ISSUER}\"")),
        ("twice, evil first", "\"iss\":\"https://evil.example\"".to_owned()),
        ("twice by an escape", format!("\"i\\u0073s\":\"{ISSUER}\"")),
    ] {
        attacks.push(Attack(format!("iss {what}"), with_members(&members), TokenMalformed));
    }
    for other in ["Iss", "ISS", "issuer", "iss\\u0000", "\u{456}ss"] {
        let claims = with(&good_claims(), json!({"iss": "-"})).to_string();
        let payload = claims.replacen('{', &format!("{{\"{other}\":\"{ISSUER}\","), 1);
        attacks.push(Attack(format!("{other} for iss"), with_payload(payload), ClaimMissing));
    }
    let escaped = ISSUER.replace('/', "\\/").replace("acme", "\\u0061cme");
    check(&[with_value("iss", &format!("\"{escaped}\""))], attacks, 33 + 10 + 3 + 5);
}

#[test]
fn an_audience_and_a_subject_are_what_they_must_be() {
    let mut attacks = Vec::new();
    for (value, expected) in [
        (format!("\"{AUDIENCE}/\""), AudienceMismatch),
        (format!("\" {AUDIENCE}\""), AudienceMismatch),
        (format!("\"{AUDIENCE} \""), AudienceMismatch),
        (format!("\"{AUDIENCE}\\u0000\""), AudienceMismatch),
        (format!("\"{AUDIENCE} https://other.example\""), AudienceMismatch),
        (format!("\"{AUDIENCE},https://other.example\""), AudienceMismatch),
        (format!("\"{}\"", AUDIENCE.to_uppercase()), AudienceMismatch),
        (format!("\"{}\"", AUDIENCE.replace("https", "http")), AudienceMismatch),
        (format!("\"{}\"", &AUDIENCE[..AUDIENCE.len() - 1]), AudienceMismatch),
        ("\"*\"".to_owned(), AudienceMismatch),
        ("\"\"".to_owned(), AudienceMismatch),
        ("[]".to_owned(), AudienceMismatch),
        ("[\"\"]".to_owned(), AudienceMismatch),
        ("[\"https://other.example\"]".to_owned(), AudienceMismatch),
        (format!("[\"{AUDIENCE}/\",\"https://other.example\"]"), AudienceMismatch),
        (format!("[\"{AUDIENCE} \"]"), AudienceMismatch),
        (format!("[\"{AUDIENCE}\",1]"), ClaimMalformed),
        (format!("[null,\"{AUDIENCE}\"]"), ClaimMalformed),
        (format!("[[\"{AUDIENCE}\"]]"), ClaimMalformed),
        (format!("[{{\"aud\":\"{AUDIENCE}\"}}]"), ClaimMalformed),
        (format!("{{\"{AUDIENCE}\":true}}"), ClaimMalformed),
        (format!("{{\"0\":\"{AUDIENCE}\"}}"), ClaimMalformed),
        ("null".to_owned(), ClaimMalformed),
        ("0".to_owned(), ClaimMalformed),
        ("true".to_owned(), ClaimMalformed),
        ("{}".to_owned(), ClaimMalformed),
    ] {
        attacks.push(Attack(format!("aud {value}"), with_value("aud", &value), expected));
    }
    for (value, expected) in [
        (r#""""#, ClaimMalformed),
        ("null", ClaimMalformed),
        ("0", ClaimMalformed),
        ("7", ClaimMalformed),
        ("true", ClaimMalformed),
        (r#"["alice"]"#, ClaimMalformed),
        (r#"{"alice":1}"#, ClaimMalformed),
        ("[]", ClaimMalformed),
        (r#""alice\r\nx-user: root""#, IdentityUnsafe),
        (r#""alice\n""#, IdentityUnsafe),
        (r#""alice\u0000""#, IdentityUnsafe),
        (r#""\u001b[2Jalice""#, IdentityUnsafe),
        (r#""alice\u007f""#, IdentityUnsafe),
        (r#""alice\u0085""#, IdentityUnsafe),
        (r#""alice\u009b""#, IdentityUnsafe),
        (r#""\ud800""#, TokenMalformed),
        (r#""alice\udfff""#, TokenMalformed),
        (r#""\ude00\ud83d""#, TokenMalformed),
        (r#""\ud83d\u0041""#, TokenMalformed),
        (r#""\uD83D\\ude00""#, TokenMalformed),
        (r#""\u00""#, TokenMalformed),
        (r#""\u{61}""#, TokenMalformed),
        (r#""\a""#, TokenMalformed),
        (r#""\'""#, TokenMalformed),
        ("\"alice\n\"", TokenMalformed),
        ("\"alice\0\"", TokenMalformed),
        ("'alice'", TokenMalformed),
        ("alice", TokenMalformed),
        (r#""alice","sub":"root""#, TokenMalformed),
        (r#""alice","sub":"alice""#, TokenMalformed),
        (r#""alice","\u0073ub":"root""#, TokenMalformed),
        (r#""alice","s\u0075\u0062":"root""#, TokenMalformed),
    ] {
        attacks.push(Attack(format!("sub {value}"), with_value("sub", value), expected));
    }
    for missing in ["aud", "sub"] {
        let claims = with(&good_claims(), json!({ missing: "-" })).to_string();
        attacks.push(Attack(format!("no {missing}"), with_payload(&claims), ClaimMissing));
        let capital = claims.replacen('{', &format!("{{\"{}\":\"{AUDIENCE}\",", missing.to_uppercase()), 1);
        attacks.push(Attack(format!("{missing} in capitals"), with_payload(capital), ClaimMissing));
    }
    for members in [r#""aud":"x""#, r#""a\u0075d":"x""#] {
        attacks.push(Attack(members.to_owned(), with_members(members), TokenMalformed));
    }
    let twins = [
        with_value("aud", &format!("[\"https://other.example\",\"{AUDIENCE}\"]")),
        with_value("aud", &format!("[\"{AUDIENCE}\"]")),
        with_value("aud", &format!("\"{}\"", AUDIENCE.replace('/', "\\/"))),
        with_value("sub", r#""\ud83d\ude00 \u00e9 \\u0000 \"quoted\" <b>""#),
        with_value("sub", "\"\u{1f600}\u{202e}\""),
    ];
    check(&twins, attacks, 26 + 32 + 4 + 2);
}

#[test]
fn a_payload_is_read_in_one_way_or_not_at_all() {
    let claims = good_claims().to_string();
    let nested = |open: &str, close: &str, depth: usize| {
        claims.replacen('{', &format!("{{\"x\":{}1{},", open.repeat(depth), close.repeat(depth)), 1)
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let attacks = [
        ("a byte order mark", text(&format!("\u{feff}{claims}"))),
        ("trailing text", text(&format!("{claims} x"))),
        ("two objects", text(&format!("{claims}{claims}"))),
        ("two lines", text(&format!("{claims}\n{{}}"))),
        ("a trailing NUL", text(&format!("{claims}\0"))),
        ("a leading NUL", text(&format!("\0{claims}"))),
        ("one brace too many", text(&format!("{claims}}}"))),
        ("one brace too few", text(&claims[..claims.len() - 1])),
        ("an array", text(&format!("[{claims}]"))),
        ("a string", text(&Value::String(claims.clone()).to_string())),
        ("null", text("null")),
        ("a number", text("1")),
        ("nothing", Vec::new()),
        ("white space", text(" \r\n\t ")),
        ("a form feed", text(&claims.replacen('{', "{\u{c}", 1))),
        ("a no-break space", text(&claims.replacen('{', "{\u{a0}", 1))),
        ("a comment", text(&claims.replacen('{', "{/**/", 1))),
        ("a trailing comma", text(&claims.replace('}', ",}"))),
        ("a leading comma", text(&claims.replacen('{', "{,", 1))),
        ("single quotes", text(&claims.replace('"', "'"))),
        ("no quotes", text(&claims.replace("\"sub\"", "sub"))),
        ("equals for colon", text(&claims.replace("\"sub\":", "\"sub\"="))),
        ("twice deep down", text(&claims.replacen('{', r#"{"x":[{"y":{"z":1,"z":1}}],"#, 1))),
        ("an unknown claim twice", text(&claims.replacen('{', r#"{"x":1,"x":1,"#, 1))),
        ("the empty name twice", text(&claims.replacen('{', r#"{"":1,"":1,"#, 1))),
        ("a surrogate in a name", text(&claims.replacen('{', r#"{"\ud800":1,"#, 1))),
        ("17 arrays", text(&nested("[", "]", 16))),
        ("17 objects", text(&nested("{\"y\":", "}", 16))),
        ("4,000 arrays", text(&nested("[", "]", 4000))),
        ("1,500 objects", text(&nested("{\"y\":", "}", 1500))),
        ("arrays without an end", text(&format!("{{\"x\":{}", "[".repeat(10_000)))),
        ("a number beyond double precision", text(&claims.replacen('{', "{\"x\":1e309,", 1))),
        ("the same deep down", text(&claims.replacen('{', "{\"x\":[[-1e999999]],", 1))),
        ("not UTF-8", [&text(&claims[..claims.len() - 1]), b",\"x\":\"\xff\"}".as_slice()].concat()),
        ("overlong UTF-8", [&text(&claims[..claims.len() - 1]), b",\"x\":\"\xc0\xa2\"}".as_slice()].concat()),
        ("a surrogate as UTF-8", [&text(&claims[..claims.len() - 1]), b",\"x\":\"\xed\xa0\x80\"}".as_slice()].concat()),
        ("beyond Unicode", [&text(&claims[..claims.len() - 1]), b",\"x\":\"\xf4\x90\x80\x80\"}".as_slice()].concat()),
        ("UTF-16", claims.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("UTF-32", claims.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect()),
        ("DEFLATE", vec![0x78, 0x9c, 0xab, 0xae, 0x05, 0x00, 0x01, 0x75, 0x00, 0xf9]),
        ("XML", text("<saml/>")),
    ]
    .map(|(what, payload)| Attack(what.to_owned(), with_payload(payload), TokenMalformed));
    let twins = [
        claims.clone(),
        format!(" \r\n\t{claims}\n"),
        nested("[", "]", 15),
        nested("{\"y\":", "}", 15),
        claims.replacen('{', r#"{"x":[1,1,{"y":1},{"y":1}],"":0,"\ud83d\ude00":1,"z":1.7976931348623157e308,"#, 1),
        claims.replacen('{', &format!("{{{}", (0..900).map(|n| format!("\"x{n}\":0,")).collect::<String>()), 1),
    ];
    check(&twins.map(with_payload), attacks.into(), 41);
}
