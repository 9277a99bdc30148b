//! Keys and tokens for this module's tests, made when they run.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::presets::preset;
use super::settings::{Algorithm, GroupForm, IssuerSettings, KeyOrigin, OutboundSettings};

/// A key pair: signs tokens, and gives its public half as a JWK.
pub(crate) struct TestKey {
    pair: Pair,
    /// Without `kid`.
    jwk: Value,
    /// SubjectPublicKeyInfo.
    pub(crate) public_der: Vec<u8>,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
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
    pub(crate) fn sign_text(
        &self,
        header: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
        algorithm: Algorithm,
    ) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.sign_bytes(message.as_bytes(), algorithm));
        format!("{message}.{signature}")
    }

    /// A signature over these bytes, in JWS's form.
    pub(crate) fn sign_bytes(&self, message: &[u8], algorithm: Algorithm) -> Vec<u8> {
        let random = SystemRandom::new();
        let pair = match &self.pair {
            Pair::Ec(pair) => return pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => return pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => pair,
        };
        let padding: &'static dyn RsaEncoding = match algorithm {
            Algorithm::RS256 => &RSA_PKCS1_SHA256,
            Algorithm::RS384 => &RSA_PKCS1_SHA384,
            Algorithm::RS512 => &RSA_PKCS1_SHA512,
            Algorithm::PS256 => &RSA_PSS_SHA256,
            Algorithm::PS384 => &RSA_PSS_SHA384,
            Algorithm::PS512 => &RSA_PSS_SHA512,
            _ => panic!("{algorithm:?} with an RSA key"),
        };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &random, message, &mut signature).unwrap();
        signature
    }

    /// A token with `alg`, `kid` and these claims.
    pub(crate) fn sign(&self, algorithm: Algorithm, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": algorithm.name(), "kid": kid });
        self.sign_text(header.to_string(), claims.to_string(), algorithm)
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
        access_must_show: preset.access_must_show,
        clients: Vec::new(),
        keys: KeyOrigin::Pinned { jwks: Arc::from(jwks(keys)) },
        key_hosts: Vec::new(),
        key_age_max: Duration::from_secs(7 * 86_400),
        outbound: OutboundSettings::default(),
        introspection: None,
        algorithms: Algorithm::ALL.to_vec(),
        claims: preset.claims,
        require: preset.require,
        required_claims: Vec::new(),
        group_form: GroupForm::AsWritten,
        groups_from: Vec::new(),
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
pub(crate) static P521_A: LazyLock<TestKey> = LazyLock::new(|| ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521", 66));
pub(crate) static ED25519_A: LazyLock<TestKey> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    TestKey {
        public_der: pair.public_key().as_der().unwrap().as_ref().to_vec(),
        pair: Pair::Ed25519(pair),
        jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": x }),
    }
});

/// An RSA key of 2040 bits: eight too few.
pub(crate) static RSA_WEAK: LazyLock<Value> =
    LazyLock::new(|| json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 255]), "e": "AQAB" }));

fn rsa() -> TestKey {
    let generated = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8 = generated.as_der().unwrap();
    let pair = RsaKeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    TestKey {
        jwk: json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) }),
        public_der: pair.public_key().as_der().unwrap().as_ref().to_vec(),
        pair: Pair::Rsa(pair),
    }
}

/// One more, for tests that need many.
pub(crate) fn p256() -> TestKey {
    ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32)
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, crv: &str, octets_each: usize) -> TestKey {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(octets_each);
    TestKey {
        jwk: json!({ "kty": "EC", "crv": crv, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) }),
        public_der: pair.public_key().as_der().unwrap().as_ref().to_vec(),
        pair: Pair::Ec(pair),
    }
}
