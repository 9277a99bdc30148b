//! A client with a key of its own (RFC 9449), by an implementation that is not ours.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

pub struct Client {
    key: EncodingKey,
    jwk: Jwk,
    proofs: AtomicU64,
}

impl Client {
    pub fn new() -> Client {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common = Default::default();
        Client { key, jwk, proofs: AtomicU64::new(0) }
    }

    /// What a token of this client has as `cnf`.
    pub fn cnf(&self) -> Value {
        json!({ "jkt": self.jwk.thumbprint(ThumbprintHash::SHA256).unwrap() })
    }

    /// A proof for that request, made now; `changes` go over its claims.
    pub fn proof(&self, method: &str, url: &str, token: &str, changes: Value) -> String {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let ath = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let mut claims = json!({
            "jti": format!("proof-{}", self.proofs.fetch_add(1, Ordering::Relaxed)),
            "htm": method, "htu": url, "iat": now_s, "ath": B64.encode(ath),
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header =
            Header { typ: Some("dpop+jwt".to_owned()), jwk: Some(self.jwk.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}
