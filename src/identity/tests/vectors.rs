//! Published vectors, and the examples of the RFCs: what must verify does, and what must not does not.
//!
//! Most of them are signed text rather than claims sets, so they are judged by the signature layer alone: the reading of
//! the JWS, the admission of its key, the choice and the check, as [`super::super::Identities`] does them. The files are
//! in `tests/vectors`, with their origin. Every count is stated, so that a file which is not read fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::keys::{Choice, KeySet};
use super::super::settings::Algorithm;
use super::super::testing::jwks;
use super::super::{Rejection, jws};

/// The payload, if one of these keys signed it.
fn verify(compact: &str, keys: &[Value]) -> Result<Vec<u8>, Rejection> {
    let jws = jws::read(compact)?;
    let (keys, _) = KeySet::parse(&jwks(keys), &Algorithm::ALL).map_err(|_| Rejection::NoKeys)?;
    match keys.choose(jws.kid.as_deref(), jws.algorithm) {
        Choice::Key(key) if key.verifies(&jws.signature, jws.message, jws.algorithm) => Ok(jws.payload),
        Choice::Key(_) => Err(Rejection::SignatureInvalid),
        Choice::WrongAlgorithm => Err(Rejection::AlgorithmNotAllowed),
        Choice::Unknown | Choice::Ambiguous => Err(Rejection::KeyUnknown),
    }
}

fn file(path: impl AsRef<Path>) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(path);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// The tests of a file of Project Wycheproof, each with its group.
fn wycheproof(name: &str) -> Vec<(Value, Value)> {
    let document = file(format!("wycheproof/{name}.json"));
    let groups = document["testGroups"].as_array().unwrap();
    let tests_of = |group: &Value| group["tests"].as_array().unwrap().clone();
    let tests: Vec<_> = groups.iter().flat_map(|g| tests_of(g).into_iter().map(|test| (test, g.clone()))).collect();
    assert_eq!(document["numberOfTests"], tests.len(), "{name}");
    tests
}

/// The keys of a group: public ones, or the symmetric ones that its tokens were made with.
fn keys_of(group: &Value) -> Vec<Value> {
    let key = group.get("public").or(group.get("private")).unwrap();
    key.get("keys").map_or_else(|| vec![key.clone()], |keys| keys.as_array().unwrap().clone())
}

/// A serialization as it would be sent.
fn text(serialization: &Value) -> String {
    serialization.as_str().map_or_else(|| serialization.to_string(), str::to_owned)
}

/// "Valid" ones that are refused all the same: `tcId`s of `json_web_signature_test`.
const EXCUSED: [(u64, Rejection); 6] = [
    // The key says PS256, the token PS384.
    (346, Rejection::AlgorithmNotAllowed),
    (350, Rejection::AlgorithmNotAllowed),
    // The key says ES521, which is no algorithm.
    (347, Rejection::NoKeys),
    (351, Rejection::NoKeys),
    // A character that is not base64url inside the header. (Inside the payload of 373; but it is HS256 to begin with.)
    (372, Rejection::TokenMalformed),
    (373, Rejection::AlgorithmNotAllowed),
];

#[test]
fn published_tokens_are_accepted_or_refused_as_they_must_be() {
    let (mut accepted, mut excused, mut hmac, mut encrypted) = (0, 0, 0, 0);
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    for name in ["json_web_signature_test", "json_web_key_test", "json_web_crypto_test"] {
        for (test, group) in wycheproof(name) {
            let what = format!("{name} {} {}", test["tcId"], test["comment"]);
            let answer = verify(&text(test.get("jws").or(test.get("jwe")).unwrap()), &keys_of(&group));
            if test["result"] == "invalid" {
                *refused.entry(answer.expect_err(&what).code()).or_default() += 1;
                continue;
            }
            let excuse = EXCUSED.iter().find(|(id, _)| name == "json_web_signature_test" && test["tcId"] == *id);
            if let Some((_, rejection)) = excuse {
                assert_eq!(answer, Err(*rejection), "{what}");
                excused += 1;
            } else if test.get("jwe").is_some() {
                assert_eq!(answer, Err(Rejection::TokenEncrypted), "{what}");
                encrypted += 1;
            } else if keys_of(&group).iter().all(|key| key["kty"] == "oct") {
                // A verifier of public keys has no use for HMAC, and none of the danger.
                assert_eq!(answer, Err(Rejection::AlgorithmNotAllowed), "{what}");
                hmac += 1;
            } else {
                answer.expect(&what);
                accepted += 1;
            }
        }
    }
    let by_reason = [
        ("algorithm_not_allowed", 48),
        ("key_unknown", 4),
        ("no_keys", 15),
        ("signature_invalid", 304),
        ("token_encrypted", 21),
        ("token_malformed", 61),
    ];
    assert_eq!(refused, BTreeMap::from(by_reason), "of 453 that are invalid");
    assert_eq!(refused.values().sum::<usize>(), 453);
    assert_eq!((accepted, excused, hmac, encrypted), (35, EXCUSED.len(), 14, 2), "of 57 that are valid");
}

#[test]
fn no_published_encrypted_token_is_accepted() {
    let mut refused = 0;
    for (test, group) in wycheproof("json_web_encryption_test") {
        let answer = verify(&text(&test["jwe"]), &keys_of(&group));
        assert!(answer.is_err(), "{test}");
        refused += 1;
    }
    assert_eq!(refused, 139);
}

/// Signatures over bytes that are no JWS, by the same keys and checks.
#[test]
fn published_signatures_verify_or_do_not() {
    for (name, algorithm, valid, invalid) in [
        ("ecdsa_secp256r1_sha256_p1363_test", Algorithm::ES256, 173, 89),
        ("ecdsa_secp384r1_sha384_p1363_test", Algorithm::ES384, 193, 87),
        ("ecdsa_secp521r1_sha512_p1363_test", Algorithm::ES512, 231, 87),
        ("ed25519_test", Algorithm::EdDSA, 88, 63),
        // One is "acceptable": its DigestInfo lacks the NULL. Refused, as RFC 8017, appendix A.2.4, has it.
        ("rsa_signature_2048_sha256_test", Algorithm::RS256, 9, 250),
        ("rsa_pss_2048_sha256_mgf1_32_test", Algorithm::PS256, 63, 45),
    ] {
        let (mut accepted, mut refused) = (0, 0);
        for (test, group) in wycheproof(name) {
            let (set, _) = KeySet::parse(&jwks(&[jwk(&group["publicKey"])]), &Algorithm::ALL).unwrap();
            let Choice::Key(key) = set.choose(None, algorithm) else { panic!("{name}: no key for {}", test["tcId"]) };
            let holds = key.verifies(&hex(&test["sig"]), &hex(&test["msg"]), algorithm);
            assert_eq!(holds, test["result"] == "valid", "{name} {} {}", test["tcId"], test["comment"]);
            *(if holds { &mut accepted } else { &mut refused }) += 1;
        }
        assert_eq!((accepted, refused), (valid, invalid), "{name}");
    }
}

/// Without `alg`, since the files' own says what they were made for and not what the key may be.
fn jwk(public: &Value) -> Value {
    let encoded = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
    if let Some(pk) = public.get("pk") {
        return json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(&hex(pk)) });
    }
    if let Some(modulus) = public.get("modulus") {
        return json!({ "kty": "RSA", "n": encoded(&hex(modulus)), "e": encoded(&hex(&public["publicExponent"])) });
    }
    let curve = match public["curve"].as_str() {
        Some("secp256r1") => "P-256",
        Some("secp384r1") => "P-384",
        Some("secp521r1") => "P-521",
        other => panic!("{other:?}"),
    };
    let point = hex(&public["uncompressed"]);
    let (x, y) = point[1..].split_at(point.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y) })
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn the_examples_of_rfc_7515_are_read() {
    let mut accepted = Vec::new();
    for example in file("rfc7515/appendix_a.json").as_array().unwrap() {
        let answer = verify(&text(&example["jws"]), std::slice::from_ref(&example["key"]));
        let title = example["title"].as_str().unwrap();
        match answer {
            Ok(_) => accepted.push(title.to_owned()),
            Err(rejection) => accepted.push(format!("{title}: {}", rejection.code())),
        }
    }
    assert_eq!(
        accepted,
        [
            "A.1 HMAC SHA-256: algorithm_not_allowed",
            "A.2 RSASSA-PKCS1-v1_5 SHA-256",
            "A.3 ECDSA P-256 SHA-256",
            "A.4 ECDSA P-521 SHA-512",
            "A.5 Unsecured JWS: algorithm_not_allowed",
            "A.6 General JWS JSON Serialization: token_malformed",
            "A.7 Flattened JWS JSON Serialization: token_malformed",
        ]
    );
}

/// RFC 7520, RFC 7797 and RFC 8037: every serialization in every file, with the keys beside it.
#[test]
fn the_examples_of_the_cookbook_are_accepted_or_refused_as_they_must_be() {
    let mut accepted = Vec::new();
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    for path in cookbook("") {
        for (title, keys, form, serialization) in examples(&file(&path)) {
            let public: Vec<_> = keys.iter().map(public).collect();
            match verify(&text(&serialization), &public) {
                Ok(_) => accepted.push(format!("{title} ({form})")),
                Err(rejection) => *refused.entry(rejection.code()).or_default() += 1,
            }
            // The private half in the set spoils the key, whatever it signed.
            assert!(verify(&text(&serialization), &keys).is_err(), "{title}");
        }
    }
    accepted.sort();
    assert_eq!(
        accepted,
        [
            "ECDSA Signature (compact)",
            "Ed25519 signing (compact)",
            "Nesting Signatures and Encryption (compact)",
            "RSA v1.5 Signature (compact)",
            "RSA-PSS Signature (compact)",
        ]
    );
    let by_reason =
        [("algorithm_not_allowed", 2), ("critical_header", 1), ("token_encrypted", 13), ("token_malformed", 48)];
    assert_eq!(refused, BTreeMap::from(by_reason));
}

#[test]
fn keys_of_the_cookbook_are_admitted_if_they_are_public() {
    let admitted = |path: &Path| KeySet::parse(&jwks(&[file(path)]), &Algorithm::ALL).is_ok();
    let (public, other): (Vec<_>, Vec<_>) = cookbook("jwk").into_iter().partition(|path| admitted(path));
    let public: Vec<_> = public.iter().map(|path| path.file_name().unwrap().to_string_lossy()).collect();
    assert_eq!(public, ["3_1.ec_public_key.json", "3_3.rsa_public_key.json"]);
    assert_eq!(other.len(), 4);
}

/// The files below a folder of the cookbook, in order.
fn cookbook(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut folders = vec![root.join("jose-cookbook").join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

/// Title, keys, form and text of each serialization; two files hold an example in each of their members.
fn examples(document: &Value) -> Vec<(String, Vec<Value>, String, Value)> {
    let mut found = Vec::new();
    let title = document["title"].as_str().unwrap_or_default();
    let parts = document.as_object().unwrap().values().filter(|part| part.get("output").is_some());
    for part in parts.chain([document]) {
        let Some(outputs) = part.get("output").and_then(Value::as_object) else { continue };
        let keys = match &part["input"]["key"] {
            Value::Array(keys) => keys.clone(),
            // A password, for one.
            Value::Null => Vec::new(),
            key => vec![key.clone()],
        };
        for (form, serialization) in outputs {
            found.push((title.to_owned(), keys.clone(), form.clone(), serialization.clone()));
        }
    }
    found
}

/// The public half of a key; a symmetric one has none, and stays.
fn public(key: &Value) -> Value {
    let mut key = key.clone();
    for private in ["d", "p", "q", "dp", "dq", "qi"] {
        key.as_object_mut().unwrap().remove(private);
    }
    key
}
