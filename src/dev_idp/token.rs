//! The client's half of a sign-in: `POST /token` (RFC 6749, section 3.2).

use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::error::Unspecified;
use axum::Json;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::authorize::{Code, given};
use super::claims::{DEFAULT_AUDIENCE, TOKEN_TTL_S, access_claims, access_token, id_token};
use super::users::User;
use super::{Provider, random_id};

/// Who signed in, to which client, for what: behind a code and behind each refresh token.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) user: Arc<User>,
    pub(super) client_id: String,
    /// Space-separated (RFC 6749, section 3.3), as asked for.
    pub(super) scope: String,
    pub(super) audience: String,
    /// For the first ID token; one from a refresh has none (OpenID Connect Core, section 12.2).
    pub(super) nonce: Option<String>,
    /// When the password was given, in seconds since the Unix epoch.
    pub(super) auth_time_s: i64,
}

/// The client of tokens that were asked for without naming one.
pub(super) const DEFAULT_CLIENT: &str = "tollgate-dev";

/// The scope of tokens that were asked for without one.
pub(super) const DEFAULT_SCOPE: &str = "openid profile email groups";

/// The form, each part as optional as the parser must be to answer by name. `client_secret` is not even read.
#[derive(Deserialize)]
pub(super) struct Parameters {
    grant_type: Option<String>,
    client_id: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    refresh_token: Option<String>,
    username: Option<String>,
    password: Option<String>,
    scope: Option<String>,
    audience: Option<String>,
    resource: Option<String>,
}

/// `POST /token`.
pub(super) async fn token(
    State(provider): State<Arc<Provider>>,
    headers: HeaderMap,
    form: Result<Form<Parameters>, FormRejection>,
) -> Response {
    let answer = match form {
        Ok(Form(form)) => answer(&provider, &headers, form),
        Err(why) => Err(Refusal::invalid_request(why.body_text())),
    };
    // RFC 6749, section 5.1: both headers.
    let no_store = [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")];
    match answer {
        Ok(tokens) => (no_store, Json(tokens)).into_response(),
        Err(refusal) => (no_store, refusal).into_response(),
    }
}

fn answer(provider: &Provider, headers: &HeaderMap, form: Parameters) -> Result<Value, Refusal> {
    let client_id = client(headers, given(form.client_id))?;
    let needed_client = |client: Option<String>| {
        client.ok_or(Refusal {
            status: StatusCode::UNAUTHORIZED,
            error: "invalid_client",
            description: "expected client_id, in the form or by Basic authentication".to_owned(),
        })
    };
    let needed = |name: &str, value: Option<String>| {
        given(value).ok_or_else(|| Refusal::invalid_request(format!("expected {name}")))
    };
    let audience = given(form.resource).or(given(form.audience));
    let scope = given(form.scope);
    let now = provider.clock.now();

    match needed("grant_type", form.grant_type)?.as_str() {
        "authorization_code" => {
            let client_id = needed_client(client_id)?;
            let code = needed("code", form.code)?;
            let redirect_uri = needed("redirect_uri", form.redirect_uri)?;
            let verifier = needed("code_verifier", form.code_verifier)?;
            // Taken before it is checked: a code that somebody failed to redeem is not tried again.
            let code = provider.codes.lock().take(&code, now.instant());
            let Code { grant, redirect_uri: asked_for, challenge } =
                code.ok_or(Refusal::invalid_grant("the code is unknown, used or expired"))?;
            if grant.client_id != client_id {
                return Err(Refusal::invalid_grant("the code was given to another client_id"));
            }
            if asked_for != redirect_uri {
                return Err(Refusal::invalid_grant("the redirect_uri is not the one that the code was asked with"));
            }
            if !verifier_fits(&verifier, &challenge) {
                return Err(Refusal::invalid_grant("the code_verifier does not fit the code_challenge"));
            }
            tokens(provider, grant)
        }
        "refresh_token" => {
            let token = needed("refresh_token", form.refresh_token)?;
            let grant = provider.refreshes.lock().take(&token, now.instant());
            let mut grant = grant.ok_or(Refusal::invalid_grant("the refresh token is unknown, used or expired"))?;
            // A public client names itself (RFC 6749, section 3.2.1); one that does not had the token all the same.
            if client_id.is_some_and(|client_id| client_id != grant.client_id) {
                return Err(Refusal::invalid_grant("the refresh token was given to another client_id"));
            }
            if let Some(narrower) = scope {
                let had = |word: &str| grant.scope.split(' ').any(|scope| scope == word);
                if !narrower.split(' ').all(had) {
                    return Err(Refusal::bad_request("invalid_scope", "a refresh cannot widen the scope"));
                }
                grant.scope = narrower;
            }
            grant.audience = audience.unwrap_or(grant.audience);
            grant.nonce = None;
            tokens(provider, grant)
        }
        "password" => {
            let username = needed("username", form.username)?;
            let password = needed("password", form.password)?;
            let user = provider.users.sign_in(&username, &password).cloned();
            tokens(
                provider,
                Grant {
                    user: user.ok_or(Refusal::invalid_grant("no such user, or another password"))?,
                    client_id: client_id.unwrap_or_else(|| DEFAULT_CLIENT.to_owned()),
                    scope: scope.unwrap_or_else(|| DEFAULT_SCOPE.to_owned()),
                    audience: audience.unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned()),
                    nonce: None,
                    auth_time_s: now.unix_s(),
                },
            )
        }
        "client_credentials" => {
            let client_id = needed_client(client_id)?;
            // RFC 9068, section 2.2: the client is its own subject. No user, so no ID token and nothing to refresh.
            let who = Map::from_iter([("sub".to_owned(), Value::String(client_id.clone()))]);
            let scope = scope.unwrap_or_default();
            let audience = audience.as_deref().unwrap_or(DEFAULT_AUDIENCE);
            let claims = access_claims(provider, who, &client_id, &scope, audience, TOKEN_TTL_S)?;
            Ok(json!({
                "access_token": access_token(provider, &claims)?,
                "token_type": "Bearer",
                "expires_in": TOKEN_TTL_S,
                "scope": scope,
            }))
        }
        other => Err(Refusal::bad_request(
            "unsupported_grant_type",
            format!("{other} is none of authorization_code, refresh_token, client_credentials, password"),
        )),
    }
}

/// The successful answer (RFC 6749, section 5.1): access and refresh token, and an ID token if `openid` was asked for.
fn tokens(provider: &Provider, grant: Grant) -> Result<Value, Refusal> {
    let Grant { user, client_id, scope, audience, .. } = &grant;
    let claims = access_claims(provider, user.claims(), client_id, scope, audience, TOKEN_TTL_S)?;
    let access_token = access_token(provider, &claims)?;
    let refresh_token = random_id()?;
    let mut answer = json!({
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": TOKEN_TTL_S,
        "scope": scope,
        "refresh_token": refresh_token,
    });
    if scope.split(' ').any(|word| word == "openid")
        && let Some(answer) = answer.as_object_mut()
    {
        answer.insert("id_token".into(), id_token(provider, &grant, &access_token)?.into());
    }
    provider.refreshes.lock().put(refresh_token, grant, provider.clock.now().instant());
    Ok(answer)
}

/// The client's name, from Basic authentication (RFC 6749, section 2.3.1: each half form-encoded) or the form. Its
/// secret is anybody's guess, and any guess is right.
fn client(headers: &HeaderMap, in_form: Option<String>) -> Result<Option<String>, Refusal> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else { return Ok(in_form) };
    let wrong = |description: &str| Refusal {
        status: StatusCode::UNAUTHORIZED,
        error: "invalid_client",
        description: description.to_owned(),
    };
    let name = authorization
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok())
        .and_then(|pair| String::from_utf8(pair).ok())
        .and_then(|pair| pair.split_once(':').map(|(name, _)| name.replace('+', " ")))
        .and_then(|name| percent_decode_str(&name).decode_utf8().map(|name| name.into_owned()).ok())
        .ok_or_else(|| wrong("expected Basic authentication of a client_id and any secret"))?;
    if in_form.is_some_and(|in_form| in_form != name) {
        return Err(wrong("the client_id in the form is not the one in the Authorization header"));
    }
    Ok(Some(name))
}

/// RFC 7636, sections 4.1 and 4.6.
fn verifier_fits(verifier: &str, challenge: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    (43..=128).contains(&verifier.len())
        && verifier.bytes().all(unreserved)
        && URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes())) == challenge
}

/// An error answer (RFC 6749, section 5.2).
struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: String,
}

impl Refusal {
    fn bad_request(error: &'static str, description: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::BAD_REQUEST, error, description: description.into() }
    }

    fn invalid_request(description: impl Into<String>) -> Refusal {
        Refusal::bad_request("invalid_request", description)
    }

    fn invalid_grant(description: &str) -> Refusal {
        Refusal::bad_request("invalid_grant", description)
    }
}

impl From<Unspecified> for Refusal {
    fn from(_: Unspecified) -> Refusal {
        Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: "server_error",
            description: "the cryptographic library refused to sign".to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error, "error_description": self.description }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = http::HeaderValue::from_static("Basic realm=\"dev-idp\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_fits_its_own_challenge_only() {
        // RFC 7636, appendix B.
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(verifier_fits(verifier, challenge));
        assert!(!verifier_fits(&verifier.replace('d', "e"), challenge));
        // Too short to be one, though its hash is what is asked for.
        let short = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, b"short"));
        assert!(!verifier_fits("short", &short));
    }
}
