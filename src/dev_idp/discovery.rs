//! What is published: the configuration, the keys, and who a token's user is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::Provider;
use super::token::DEFAULT_SCOPE;

/// `GET /.well-known/openid-configuration` (OpenID Connect Discovery 1.0, section 3; RFC 8414, section 2).
pub(super) async fn configuration(State(provider): State<Arc<Provider>>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", provider.base);
    Json(json!({
        "issuer": provider.issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/jwks"),
        "end_session_endpoint": at("/end_session"),
        "scopes_supported": DEFAULT_SCOPE.split(' ').collect::<Vec<_>>(),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials", "password"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash",
            "name", "preferred_username", "email", "email_verified", "groups", "realm_access",
        ],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        // Left out, it would mean true.
        "request_uri_parameter_supported": false,
        "authorization_response_iss_parameter_supported": true,
        "service_documentation": at("/"),
    }))
}

/// `GET /jwks` (RFC 7517, section 5). Never from a cache: rotating is what a demo does here.
pub(super) async fn jwks(State(provider): State<Arc<Provider>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, provider.keys.jwks().to_string()).into_response()
}

/// `GET` and `POST /userinfo` (OpenID Connect Core, section 5.3), for an access token in the Authorization header.
pub(super) async fn userinfo(State(provider): State<Arc<Provider>>, headers: HeaderMap) -> Response {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    // RFC 6750, section 3.1: no error code for a request without a token.
    let Some(token) = bearer else { return challenge("Bearer realm=\"dev-idp\"") };

    let now_s = provider.clock.now().unix_s();
    let user = provider.keys.verify_access_token(token).and_then(|claims| {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let seconds = |name: &str| claims.get(name).and_then(Value::as_i64);
        let current = seconds("exp").is_some_and(|exp| now_s < exp) && seconds("nbf").is_none_or(|nbf| nbf <= now_s);
        let ours = text("iss") == Some(&provider.issuer);
        if ours && current { provider.users.with_subject(text("sub")?) } else { None }
    });
    match user {
        Some(user) => ([(header::CACHE_CONTROL, "no-store")], Json(user.claims())).into_response(),
        None => challenge(
            "Bearer realm=\"dev-idp\", error=\"invalid_token\", \
             error_description=\"expected an access token of a user here, signed by a published key and not expired\"",
        ),
    }
}

fn challenge(value: &'static str) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, value)]).into_response()
}
