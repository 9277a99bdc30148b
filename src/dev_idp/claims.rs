//! What a token says.

use aws_lc_rs::error::Unspecified;
use serde_json::{Map, Value};

use super::keys::{ACCESS_TOKEN_TYP, Algorithm, half_sha256};
use super::token::Grant;
use super::{Provider, random_id};

/// The audience of an access token when no other is asked for.
pub(super) const DEFAULT_AUDIENCE: &str = "https://api.acme.example";

/// Seconds from issue to `exp`.
pub(super) const TOKEN_TTL_S: i64 = 600;

/// The claims of an access token (RFC 9068, section 2.2) issued now, for `ttl_s` seconds (which may be negative, for an
/// expired one). `who` holds at least `sub`.
pub(super) fn access_claims(
    provider: &Provider,
    who: Map<String, Value>,
    client_id: &str,
    scope: &str,
    audience: &str,
    ttl_s: i64,
) -> Result<Map<String, Value>, Unspecified> {
    let now_s = provider.clock.now().unix_s();
    let mut claims = who;
    claims.insert("iss".into(), provider.issuer.clone().into());
    claims.insert("aud".into(), audience.into());
    claims.insert("iat".into(), now_s.into());
    claims.insert("exp".into(), now_s.saturating_add(ttl_s).into());
    claims.insert("jti".into(), random_id()?.into());
    claims.insert("client_id".into(), client_id.into());
    claims.insert("scope".into(), scope.into());
    Ok(claims)
}

/// A signed access token. RS256, as every provider does unless told otherwise.
pub(super) fn access_token(provider: &Provider, claims: &Map<String, Value>) -> Result<String, Unspecified> {
    provider.keys.sign(Algorithm::Rs256, ACCESS_TOKEN_TYP, None, claims)
}

/// A signed ID token (OpenID Connect Core, sections 2 and 3.1.3.6), bound to `access_token` by `at_hash`.
pub(super) fn id_token(provider: &Provider, grant: &Grant, access_token: &str) -> Result<String, Unspecified> {
    let now_s = provider.clock.now().unix_s();
    let mut claims = grant.user.claims();
    claims.insert("iss".into(), provider.issuer.clone().into());
    claims.insert("aud".into(), grant.client_id.clone().into());
    claims.insert("iat".into(), now_s.into());
    claims.insert("exp".into(), now_s.saturating_add(TOKEN_TTL_S).into());
    claims.insert("auth_time".into(), grant.auth_time_s.into());
    claims.insert("at_hash".into(), half_sha256(access_token).into());
    if let Some(nonce) = &grant.nonce {
        claims.insert("nonce".into(), nonce.clone().into());
    }
    provider.keys.sign(Algorithm::Rs256, "JWT", None, &claims)
}
