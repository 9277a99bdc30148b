//! The conveniences that no real provider has: any token for the asking, and new keys at will.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Provider;
use super::claims::{DEFAULT_AUDIENCE, TOKEN_TTL_S, access_claims};
use super::keys::{ACCESS_TOKEN_TYP, Algorithm};
use super::token::{DEFAULT_CLIENT, DEFAULT_SCOPE};

/// What a token can be made to say. Mistyped names are refused, or a test would prove something else than it says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    user: String,
    aud: Option<String>,
    /// Seconds to `exp`; negative for a token that has expired.
    ttl: Option<i64>,
    alg: Option<String>,
    /// The header's `kid`, whichever key signs.
    kid: Option<String>,
    iss: Option<String>,
    /// Seconds from now to `nbf`.
    nbf: Option<i64>,
    /// A JSON object merged in last; a `null` takes the claim out (as in RFC 7396, at the top level).
    claims: Option<String>,
}

/// `GET /mint?user=alice`: an access token as bare text, for `$(curl …)`.
pub(super) async fn mint(
    State(provider): State<Arc<Provider>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let minted = match wanted {
        Ok(Query(wanted)) => token(&provider, wanted),
        Err(why) => Err((StatusCode::BAD_REQUEST, why.body_text())),
    };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    match minted {
        Ok(token) => (headers, token).into_response(),
        Err((status, why)) => (status, headers, format!("{why}\n")).into_response(),
    }
}

fn token(provider: &Provider, wanted: Wanted) -> Result<String, (StatusCode, String)> {
    let Wanted { user, aud, ttl, alg, kid, iss, nbf, claims: merged } = wanted;
    let refuse = |why: String| (StatusCode::BAD_REQUEST, why);
    let user = provider
        .users
        .named(&user)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("user: expected one of {}", provider.users.names())))?;
    let algorithm = match alg {
        None => Algorithm::Rs256,
        Some(name) => Algorithm::parse(&name).ok_or_else(|| {
            refuse(format!("alg: expected one of {}", Algorithm::ALL.map(Algorithm::name).join(", ")))
        })?,
    };
    let merged: Map<String, Value> = match merged {
        None => Map::new(),
        Some(json) => serde_json::from_str(&json)
            .map_err(|why| refuse(format!("claims: expected a JSON object in percent-encoding: {why}")))?,
    };
    let no_luck = |_| (StatusCode::INTERNAL_SERVER_ERROR, "the cryptographic library refused to sign".to_owned());

    let audience = aud.as_deref().unwrap_or(DEFAULT_AUDIENCE);
    let ttl_s = ttl.unwrap_or(TOKEN_TTL_S);
    let mut claims =
        access_claims(provider, user.claims(), DEFAULT_CLIENT, DEFAULT_SCOPE, audience, ttl_s).map_err(no_luck)?;
    if let Some(iss) = iss {
        claims.insert("iss".into(), iss.into());
    }
    if let Some(seconds) = nbf {
        claims.insert("nbf".into(), provider.clock.now().unix_s().saturating_add(seconds).into());
    }
    for (name, value) in merged {
        if value.is_null() {
            claims.remove(&name);
        } else {
            claims.insert(name, value);
        }
    }
    provider.keys.sign(algorithm, ACCESS_TOKEN_TYP, kid.as_deref(), &claims).map_err(no_luck)
}

/// Whether the old keys stay published.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    keep: Option<u8>,
}

/// `POST /rotate`: signs with new keys from now on; answers the key set as it now is. `?keep=1` keeps the old keys in
/// it, as a provider does that rotates with care; without, as one that must revoke.
pub(super) async fn rotate(
    State(provider): State<Arc<Provider>>,
    rotation: Result<Query<Rotation>, QueryRejection>,
) -> Response {
    let keep = match rotation {
        Ok(Query(Rotation { keep })) => keep.unwrap_or(0) != 0,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{}\n", why.body_text())).into_response(),
    };
    match provider.keys.rotate(keep).await {
        Ok(()) => {
            tracing::info!(keep, "dev-idp keys rotated");
            Json(provider.keys.jwks()).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "no keys could be made; the old ones stay\n").into_response(),
    }
}
