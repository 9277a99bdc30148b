//! A DPoP proof (RFC 9449, section 4): a JWS by the client's own key, made for one request.
//!
//! Everything of section 4.3 is checked here but what needs memory: whether it was seen before.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::super::binding::Thumbprint;
use super::super::keys::Key;
use super::super::settings::Algorithm;
use super::super::{Rejection, json, jws};
use super::nonce::Nonces;
use super::target;
use crate::clock::Now;

/// A proof of which everything holds but, so far, its signature.
pub(super) struct Proof<'a> {
    /// What its sender calls it.
    pub(super) jti: String,
    /// When its sender says that it was made, in whole Unix seconds.
    pub(super) issued_at_s: i64,
    /// The key inside it; it is the one that the token is bound to.
    pub(super) key: Key,
    pub(super) algorithm: Algorithm,
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// What a proof must be for.
pub(super) struct Expected<'a> {
    pub(super) method: &'a str,
    /// The request's URL by [`target`]; `None` where it has none.
    pub(super) target: Option<String>,
    /// The access token beside it.
    pub(super) token: &'a str,
    /// The key that the token is bound to.
    pub(super) bound_to: Thumbprint,
    /// Where a nonce is required.
    pub(super) nonces: Option<&'a Nonces>,
    pub(super) age_max: Duration,
    pub(super) ahead_max: Duration,
    pub(super) now: Now,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(super) enum Flaw {
    #[error("it is longer than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not one compact JWS with an asymmetric algorithm")]
    NoJws,
    #[error("its typ is not dpop+jwt")]
    Type,
    #[error("its header has no jwk that is a public key for its algorithm")]
    NoKey,
    #[error("its payload is no JSON object")]
    NoClaims,
    #[error("jti is missing, or not a string of 1 to {JTI_BYTES_MAX} bytes")]
    Jti,
    #[error("htm is not the request's method")]
    Method,
    #[error("htu is not the request's URL")]
    Target,
    #[error("iat is missing or not a number")]
    IatMalformed,
    #[error("iat is too long ago")]
    TooOld,
    #[error("iat, or nbf, is in the future")]
    InFuture,
    #[error("exp has passed")]
    Expired,
    #[error("exp or nbf is not a number")]
    TimeMalformed,
    #[error("ath is not the hash of the token beside it")]
    TokenHash,
    #[error("nonce is not a string")]
    NonceMalformed,
    #[error("it has no nonce, and one is required")]
    NonceMissing,
    #[error("its nonce is not one of ours, or too old")]
    NonceStale,
    #[error("its key is not the one that the token is bound to")]
    OtherKey,
    #[error("its signature is not by the key in it")]
    Signature,
}

impl Flaw {
    pub(super) fn rejection(self) -> Rejection {
        match self {
            Flaw::NonceMissing | Flaw::NonceStale => Rejection::DpopNonceNeeded,
            // The proof may be a good one: what is wrong is the pair.
            Flaw::OtherKey => Rejection::ProofInvalid,
            _ => Rejection::DpopProofInvalid,
        }
    }
}

impl Proof<'_> {
    pub(super) fn is_signed(&self) -> bool {
        self.key.verifies(&self.signature, self.message, self.algorithm)
    }
}

/// Checks all of a `DPoP` field value but the signature, the cheapest first.
///
/// That the key is the token's is known before anything is computed with it: a stranger's key, of whatever size, costs
/// two hashes.
pub(super) fn check<'a>(field: &'a [u8], expected: &Expected<'_>) -> Result<Proof<'a>, Flaw> {
    if field.len() > BYTES_MAX {
        return Err(Flaw::TooLarge);
    }
    // Two fields, or two values in one, have a comma between; base64url has none. (HAProxy sends one of two fields.)
    let field = std::str::from_utf8(field).map_err(|_| Flaw::NoJws)?;
    let jws = jws::read(field).map_err(|_| Flaw::NoJws)?;
    // Media types compare without regard to case (RFC 7515, section 4.1.9). The section also lets `application/` stand
    // before it, which RFC 9449, section 4.2, does not.
    if !jws.header.get("typ").and_then(Value::as_str).is_some_and(|typ| typ.eq_ignore_ascii_case("dpop+jwt")) {
        return Err(Flaw::Type);
    }
    let jwk = jws.header.get("jwk").ok_or(Flaw::NoKey)?;
    if jwk.as_object().and_then(thumbprint).ok_or(Flaw::NoKey)? != expected.bound_to {
        return Err(Flaw::OtherKey);
    }
    let claims = json::object(&jws.payload).map_err(|_| Flaw::NoClaims)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let jti = text("jti").filter(|jti| (1..=JTI_BYTES_MAX).contains(&jti.len())).ok_or(Flaw::Jti)?.to_owned();
    // Methods are case-sensitive (RFC 9110, section 9.1).
    if text("htm") != Some(expected.method) {
        return Err(Flaw::Method);
    }
    let target = text("htu").and_then(target::of_claim);
    if target.is_none() || target != expected.target {
        return Err(Flaw::Target);
    }
    if text("ath") != Some(&*URL_SAFE_NO_PAD.encode(digest(&SHA256, expected.token.as_bytes()))) {
        return Err(Flaw::TokenHash);
    }
    // Before the times: whose clock is wrong is told about the nonce all the same.
    match (claims.get("nonce"), expected.nonces) {
        (None, None) => {}
        (None, Some(_)) => return Err(Flaw::NonceMissing),
        (Some(Value::String(nonce)), Some(nonces)) if !nonces.holds(nonce, expected.now) => {
            return Err(Flaw::NonceStale);
        }
        (Some(Value::String(_)), _) => {}
        (Some(_), _) => return Err(Flaw::NonceMalformed),
    }
    let issued_at_s = check_times(&claims, expected)?;
    let key = Key::of_proof(jwk, jws.algorithm).ok_or(Flaw::NoKey)?;
    Ok(Proof { jti, issued_at_s, key, algorithm: jws.algorithm, message: jws.message, signature: jws.signature })
}

/// `iat` (section 4.3, point 11), and `exp` and `nbf`, which a proof need not have but which mean what they mean in any
/// JWT. Gives `iat`.
fn check_times(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<i64, Flaw> {
    let now_s = expected.now.unix_s();
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let (earliest, latest) =
        (now_s.saturating_sub(whole(expected.age_max)), now_s.saturating_add(whole(expected.ahead_max)));
    // A fraction of a second is rounded to the side of safety.
    let seconds = |name: &str, malformed| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().filter(|s| s.abs() < SECONDS_END).map(Some).ok_or(malformed),
    };
    let iat = seconds("iat", Flaw::IatMalformed)?.ok_or(Flaw::IatMalformed)?;
    if (iat.ceil() as i64) > latest {
        return Err(Flaw::InFuture);
    }
    if (iat.floor() as i64) < earliest {
        return Err(Flaw::TooOld);
    }
    if seconds("nbf", Flaw::TimeMalformed)?.is_some_and(|nbf| (nbf.ceil() as i64) > latest) {
        return Err(Flaw::InFuture);
    }
    match seconds("exp", Flaw::TimeMalformed)? {
        Some(exp) if now_s >= (exp.floor() as i64).saturating_add(whole(expected.ahead_max)) => Err(Flaw::Expired),
        _ => Ok(iat.floor() as i64),
    }
}

/// The SHA-256 thumbprint of a key (RFC 7638, section 3; RFC 8037, section 2): of its necessary members alone, in the
/// order of their names, as they are written. `None` where one is missing, or is not what a public key has there.
pub(super) fn thumbprint(jwk: &Map<String, Value>) -> Option<Thumbprint> {
    let members: &[&str] = match jwk.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "RSA" => &["e", "kty", "n"],
        "OKP" => &["crv", "kty", "x"],
        _ => return None,
    };
    let mut text = String::with_capacity(256);
    for name in members {
        let value = jwk.get(*name)?.as_str()?;
        // Curves, types and base64url: nothing that JSON would have two spellings for.
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return None;
        }
        text.push_str(if text.is_empty() { "{\"" } else { ",\"" });
        text.extend([name, "\":\"", value, "\""]);
    }
    text.push('}');
    digest(&SHA256, text.as_bytes()).as_ref().try_into().ok()
}

/// A proof by an RSA key of 4096 bits, with its key in it, has less than 2 KiB.
pub(super) const BYTES_MAX: usize = 8 * 1024;

/// A UUID has 36.
const JTI_BYTES_MAX: usize = 256;

/// Beyond the year 275,000; every number below is exact in `i64`.
const SECONDS_END: f64 = 8.64e12;
