//! Keys and tokens for this module's tests, made when they run.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::presets::preset;
use super::settings::{Algorithm, GroupForm, IssuerSettings, KeyOrigin, OutboundSettings};

/// A key pair: signs tokens, and gives its public half as a JWK.
pub(crate) struct TestKey {
    encoding: EncodingKey,
    /// Without `kid`.
    jwk: Value,
    /// SubjectPublicKeyInfo, for RSA.
    pub(crate) public_der: Vec<u8>,
}

impl TestKey {
    /// The public key with that `kid`.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        with(&self.jwk, json!({ "kid": kid }))
    }

    /// The public key without a `kid`.
    pub(crate) fn jwk_unnamed(&self) -> Value {
        self.jwk.clone()
    }

    /// A token with exactly this header and payload text.
    pub(crate) fn sign_text(&self, header: &str, payload: &str, algorithm: jsonwebtoken::Algorithm) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.encoding, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// A token with `alg`, `kid` and these claims.
    pub(crate) fn sign(&self, algorithm: Algorithm, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": algorithm.name(), "kid": kid });
        self.sign_text(&header.to_string(), &claims.to_string(), algorithm.name().parse().unwrap())
    }
}

/// `base` with the members of `changes` put in; `"-"` as a value takes the member out.
pub(crate) fn with(base: &Value, changes: Value) -> Value {
    let mut changed = base.clone();
    let members = changed.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value == "-" {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    changed
}

/// A JWKS document.
pub(crate) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// A generic issuer with these keys pinned.
pub(crate) fn pinned(name: &str, issuer: &str, keys: &[Value]) -> IssuerSettings {
    let preset = preset("generic").unwrap();
    IssuerSettings {
        name: name.into(),
        issuer: issuer.to_owned(),
        aliases: Vec::new(),
        audiences: vec![AUDIENCE.to_owned()],
        tokens: preset.tokens,
        clients: Vec::new(),
        keys: KeyOrigin::Pinned { jwks: Arc::from(jwks(keys)) },
        outbound: OutboundSettings::default(),
        algorithms: Algorithm::ALL.to_vec(),
        claims: preset.claims,
        require: preset.require,
        required_claims: Vec::new(),
        group_form: GroupForm::AsWritten,
        leeway: Duration::from_secs(60),
    }
}

/// Claims that every check accepts at [`NOW_S`].
pub(crate) fn good_claims() -> Value {
    json!({ "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": NOW_S + 300, "iat": NOW_S })
}

pub(crate) const NOW_S: u64 = 1_800_000_000;
pub(crate) const ISSUER: &str = "https://login.acme.example/realms/main";
pub(crate) const AUDIENCE: &str = "https://api.acme.example";

pub(crate) static RSA_A: LazyLock<TestKey> = LazyLock::new(rsa);
pub(crate) static P256_A: LazyLock<TestKey> = LazyLock::new(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32));
pub(crate) static P256_B: LazyLock<TestKey> = LazyLock::new(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32));
pub(crate) static P384_A: LazyLock<TestKey> = LazyLock::new(|| ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48));
pub(crate) static ED25519_A: LazyLock<TestKey> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    TestKey {
        encoding: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()),
        jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": x }),
        public_der: Vec::new(),
    }
});

/// An RSA key of 2040 bits: eight too few.
pub(crate) static RSA_WEAK: LazyLock<Value> =
    LazyLock::new(|| json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 255]), "e": "AQAB" }));

fn rsa() -> TestKey {
    let generated = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8 = generated.as_der().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8.as_ref()));
    let pair = RsaKeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    TestKey {
        encoding: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
        jwk: json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) }),
        public_der: pair.public_key().as_der().unwrap().as_ref().to_vec(),
    }
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, crv: &str, octets_each: usize) -> TestKey {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(octets_each);
    TestKey {
        encoding: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
        jwk: json!({ "kty": "EC", "crv": crv, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) }),
        public_der: Vec::new(),
    }
}
