//! What signs: one key for each algorithm, made at start and at each rotation, in memory only.
//!
//! Signed with aws-lc-rs itself: `jsonwebtoken` wants RSA keys as RFC 8017 DER, which aws-lc-rs reads but never writes.
//! Read back with `jsonwebtoken`, as any client would.

use std::collections::VecDeque;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, Validation};
use parking_lot::RwLock;
use serde_json::{Map, Value, json};

/// A JWS algorithm that this provider signs with (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub(super) const ALL: [Algorithm; 5] =
        [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];

    /// The name in a header's `alg`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Ps256 => "PS256",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// The keys that sign, and those still published.
pub(super) struct Keys {
    /// Newest first; only the newest signs. Never empty.
    published: RwLock<VecDeque<Arc<Generation>>>,
    /// One rotation at a time: making RSA keys is the one costly thing a request can ask for.
    rotating: tokio::sync::Mutex<()>,
}

impl Keys {
    /// The first generation. Blocks for the making of an RSA key.
    pub(super) fn generate() -> Result<Keys, Unspecified> {
        let published = RwLock::new(VecDeque::from([Arc::new(Generation::make()?)]));
        Ok(Keys { published, rotating: tokio::sync::Mutex::new(()) })
    }

    /// Signs with new keys from now on. The old ones stay published if `keep`, up to [`GENERATIONS_MAX`].
    pub(super) async fn rotate(&self, keep: bool) -> Result<(), Unspecified> {
        let _one_at_a_time = self.rotating.lock().await;
        let fresh = tokio::task::spawn_blocking(Generation::make).await.map_err(|_| Unspecified)??;
        let mut published = self.published.write();
        if !keep {
            published.clear();
        }
        published.push_front(Arc::new(fresh));
        published.truncate(GENERATIONS_MAX);
        Ok(())
    }

    /// The public keys (RFC 7517, section 5).
    pub(super) fn jwks(&self) -> Value {
        let published = self.published.read();
        json!({ "keys": published.iter().flat_map(|keys| &keys.0).map(|key| &key.jwk).collect::<Vec<_>>() })
    }

    /// A compact JWS (RFC 7515, section 3.1) of `claims`. `kid` overrides the name of the key that did sign.
    pub(super) fn sign(
        &self,
        algorithm: Algorithm,
        typ: &str,
        kid: Option<&str>,
        claims: &Map<String, Value>,
    ) -> Result<String, Unspecified> {
        let newest = self.published.read().front().cloned().ok_or(Unspecified)?;
        let key = newest.0.iter().find(|key| key.algorithm == algorithm).ok_or(Unspecified)?;
        let header = json!({ "alg": algorithm.name(), "typ": typ, "kid": kid.unwrap_or(&key.kid) });
        let part = |json: String| URL_SAFE_NO_PAD.encode(json);
        let claims = serde_json::to_string(claims).map_err(|_| Unspecified)?;
        let mut jws = [part(header.to_string()), part(claims)].join(".");
        let signature = key.pair.sign(jws.as_bytes())?;
        jws.push('.');
        jws.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(jws)
    }

    /// The claims of an access token (`typ` is `at+jwt`) that a published key signed. Neither time nor issuer is
    /// checked: the claims say what they say.
    pub(super) fn verify_access_token(&self, token: &str) -> Option<Map<String, Value>> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.typ.as_deref() != Some(ACCESS_TOKEN_TYP) {
            return None;
        }
        let kid = header.kid?;
        let published = self.published.read();
        let key = published.iter().flat_map(|keys| &keys.0).find(|key| key.kid == kid)?;
        let jwk = serde_json::from_value(key.jwk.clone()).ok()?;
        // The key's algorithm, never the token's; the crate's own clock must not be asked, ours decides.
        let mut validation = Validation::new(key.algorithm.name().parse().ok()?);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let decoded = jsonwebtoken::decode(token, &DecodingKey::from_jwk(&jwk).ok()?, &validation).ok()?;
        Some(decoded.claims)
    }
}

/// One key for each algorithm, made together.
struct Generation([SigningKey; 5]);

struct SigningKey {
    algorithm: Algorithm,
    kid: String,
    /// The public half (RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2).
    jwk: Value,
    pair: Pair,
}

enum Pair {
    Rsa(Arc<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Generation {
    fn make() -> Result<Generation, Unspecified> {
        // One RSA key under two names, since a strict verifier takes a key for the one `alg` of its JWK. Real keys
        // should not be shared between PKCS #1 and PSS; these live for a demo, and each costs a tenth of a second.
        let rsa = Arc::new(RsaKeyPair::generate(KeySize::Rsa2048)?);
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
        Ok(Generation([
            SigningKey::new(Algorithm::Rs256, Pair::Rsa(rsa.clone(), &RSA_PKCS1_SHA256))?,
            SigningKey::new(Algorithm::Ps256, Pair::Rsa(rsa, &RSA_PSS_SHA256))?,
            SigningKey::new(Algorithm::Es256, Pair::Ecdsa(p256))?,
            SigningKey::new(Algorithm::Es384, Pair::Ecdsa(p384))?,
            SigningKey::new(Algorithm::EdDsa, Pair::Ed25519(Ed25519KeyPair::generate()?))?,
        ]))
    }
}

impl SigningKey {
    fn new(algorithm: Algorithm, pair: Pair) -> Result<SigningKey, Unspecified> {
        let mut suffix = [0; 6];
        aws_lc_rs::rand::fill(&mut suffix)?;
        let kid = format!("{}-{}", algorithm.name().to_ascii_lowercase(), URL_SAFE_NO_PAD.encode(suffix));
        let mut jwk = pair.public_jwk()?;
        jwk.insert("kid".into(), kid.clone().into());
        jwk.insert("alg".into(), algorithm.name().into());
        jwk.insert("use".into(), "sig".into());
        Ok(SigningKey { algorithm, kid, jwk: Value::Object(jwk), pair })
    }
}

impl Pair {
    fn public_jwk(&self) -> Result<Map<String, Value>, Unspecified> {
        let fields: Vec<(&str, String)> = match self {
            Pair::Rsa(pair, _) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                vec![
                    ("kty", "RSA".into()),
                    ("n", URL_SAFE_NO_PAD.encode(public.n)),
                    ("e", URL_SAFE_NO_PAD.encode(public.e)),
                ]
            }
            Pair::Ecdsa(pair) => {
                // An uncompressed point: 4, x, y (SEC 1, section 2.3.3).
                let (_, point) = pair.public_key().as_ref().split_first().ok_or(Unspecified)?;
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                vec![
                    ("kty", "EC".into()),
                    ("crv", curve.into()),
                    ("x", URL_SAFE_NO_PAD.encode(x)),
                    ("y", URL_SAFE_NO_PAD.encode(y)),
                ]
            }
            Pair::Ed25519(pair) => {
                vec![("kty", "OKP".into()), ("crv", "Ed25519".into()), ("x", URL_SAFE_NO_PAD.encode(pair.public_key()))]
            }
        };
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match self {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature)?;
                Ok(signature)
            }
            Pair::Ecdsa(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.try_sign(message)?.as_ref().to_vec()),
        }
    }
}

/// `at_hash` for an ID token signed with a SHA-256 algorithm: the left half of the hash (OpenID Connect Core, section
/// 3.1.3.6).
pub(super) fn half_sha256(token: &str) -> String {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..16).unwrap_or_default())
}

/// RFC 9068, section 2.1.
pub(super) const ACCESS_TOKEN_TYP: &str = "at+jwt";

/// The newest and the three before it: 20 public keys of up to 450 bytes, a JWKS of about 7 kB.
const GENERATIONS_MAX: usize = 4;
