//! The browser's half of a sign-in: the authorization request (RFC 6749, section 4.1.1), the password page, the code.

use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, RawQuery, State};
use axum::response::Response;
use http::{StatusCode, header};
use serde::Deserialize;
use url::{Host, Url};

use super::claims::DEFAULT_AUDIENCE;
use super::page;
use super::token::Grant;
use super::{Provider, REQUEST_BYTES_MAX, random_id};

/// A request that waits for somebody to sign in.
pub(super) struct LoginRequest {
    client_id: String,
    /// As written, for the comparison at the token endpoint.
    redirect_uri: String,
    /// The same, to append to.
    redirect: Url,
    state: Option<String>,
    nonce: Option<String>,
    scope: String,
    audience: String,
    challenge: String,
}

/// What a code stands for.
pub(super) struct Code {
    pub(super) grant: Grant,
    pub(super) redirect_uri: String,
    /// base64url of the SHA-256 of the verifier (RFC 7636, section 4.2).
    pub(super) challenge: String,
}

/// The parameters, each as optional as the parser must be to answer by name. Unknown ones are ignored.
#[derive(Deserialize)]
pub(super) struct Parameters {
    response_type: Option<String>,
    response_mode: Option<String>,
    client_id: Option<String>,
    redirect_uri: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    nonce: Option<String>,
    prompt: Option<String>,
    login_hint: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    audience: Option<String>,
    resource: Option<String>,
    request: Option<String>,
    request_uri: Option<String>,
}

/// `GET` and `POST /authorize`: the password page, or why not. Told to the person while the redirect URI is not
/// trusted, and to the client from then on (RFC 6749, section 4.1.2.1).
pub(super) async fn authorize(
    State(provider): State<Arc<Provider>>,
    RawQuery(query): RawQuery,
    parameters: Result<Form<Parameters>, FormRejection>,
) -> Response {
    // A body is bounded by the router; a query, of which parts are kept just the same, is not.
    if query.is_some_and(|query| query.len() > REQUEST_BYTES_MAX) {
        return page::refusal(StatusCode::URI_TOO_LONG, "The request is longer than 8 KiB.");
    }
    let Form(asked) = match parameters {
        Ok(form) => form,
        Err(why) => return page::refusal(StatusCode::BAD_REQUEST, &why.body_text()),
    };
    let Some(client_id) = given(asked.client_id) else {
        return page::refusal(StatusCode::BAD_REQUEST, "The request has no client_id.");
    };
    let Some((redirect_uri, redirect)) =
        given(asked.redirect_uri).and_then(|uri| loopback_url(&uri).map(|url| (uri, url)))
    else {
        return page::refusal(
            StatusCode::BAD_REQUEST,
            "The redirect_uri must be an http:// or https:// URL on localhost, 127.0.0.1 or [::1], without a fragment: \
             this provider sends codes to no other machine.",
        );
    };

    let challenge = given(asked.code_challenge);
    // A SHA-256 in base64url is 43 characters (RFC 7636, section 4.2).
    let is_challenge = |text: &String| text.len() == 43 && text.bytes().all(is_base64url);
    let fault = if given(asked.request).is_some() {
        Some(("request_not_supported", "request objects are not supported"))
    } else if given(asked.request_uri).is_some() {
        Some(("request_uri_not_supported", "request_uri is not supported"))
    } else if asked.response_type.as_deref() != Some("code") {
        Some(("unsupported_response_type", "response_type must be code"))
    } else if given(asked.response_mode).is_some_and(|mode| mode != "query") {
        Some(("invalid_request", "response_mode must be query"))
    } else if asked.code_challenge_method.as_deref() != Some("S256") || !challenge.as_ref().is_some_and(is_challenge) {
        Some(("invalid_request", "PKCE is required: code_challenge with code_challenge_method=S256"))
    } else if asked.prompt.is_some_and(|prompt| prompt.split(' ').any(|word| word == "none")) {
        Some(("login_required", "no session is ever kept here, so prompt=none cannot succeed"))
    } else {
        None
    };
    if let Some((error, description)) = fault {
        let answer = [("error", error), ("error_description", description)];
        return send_back(&provider, redirect, asked.state.as_deref(), &answer);
    }

    let request = LoginRequest {
        client_id,
        redirect_uri,
        redirect,
        state: asked.state,
        nonce: given(asked.nonce),
        scope: given(asked.scope).unwrap_or_else(|| "openid".to_owned()),
        audience: given(asked.resource).or(given(asked.audience)).unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned()),
        challenge: challenge.unwrap_or_default(),
    };
    ask_password(&provider, request, asked.login_hint.as_deref(), None)
}

/// What the password page posts.
#[derive(Deserialize)]
pub(super) struct Login {
    request: String,
    username: String,
    password: String,
}

/// `POST /login`: the code, by redirect; or the page again.
pub(super) async fn login(State(provider): State<Arc<Provider>>, form: Result<Form<Login>, FormRejection>) -> Response {
    let Form(Login { request, username, password }) = match form {
        Ok(form) => form,
        Err(why) => return page::refusal(StatusCode::BAD_REQUEST, &why.body_text()),
    };
    let now = provider.clock.now();
    let Some(request) = provider.logins.lock().take(&request, now.instant()) else {
        return page::refusal(
            StatusCode::BAD_REQUEST,
            "This sign-in was already used or has waited too long. Go back to the application and start again.",
        );
    };
    let Some(user) = provider.users.sign_in(&username, &password).cloned() else {
        return ask_password(&provider, request, Some(&username), Some("The password is not right."));
    };
    let LoginRequest { client_id, redirect_uri, redirect, state, nonce, scope, audience, challenge } = request;
    let grant = Grant { user, client_id, scope, audience, nonce, auth_time_s: now.unix_s() };
    let Ok(code) = random_id() else { return no_randomness() };
    provider.codes.lock().put(code.clone(), Code { grant, redirect_uri, challenge }, now.instant());
    send_back(&provider, redirect, state.as_deref(), &[("code", &code)])
}

/// The parameters of RP-Initiated Logout 1.0, section 2, that mean something here.
#[derive(Deserialize)]
pub(super) struct EndSession {
    post_logout_redirect_uri: Option<String>,
    state: Option<String>,
}

/// `GET` and `POST /end_session`: there is no session to end, so this is the way back to the application.
pub(super) async fn end_session(parameters: Result<Form<EndSession>, FormRejection>) -> Response {
    let Form(EndSession { post_logout_redirect_uri, state }) = match parameters {
        Ok(form) => form,
        Err(why) => return page::refusal(StatusCode::BAD_REQUEST, &why.body_text()),
    };
    let Some(uri) = given(post_logout_redirect_uri) else { return page::signed_out() };
    let Some(mut url) = loopback_url(&uri) else {
        return page::refusal(
            StatusCode::BAD_REQUEST,
            "The post_logout_redirect_uri must be on localhost, 127.0.0.1 or [::1].",
        );
    };
    if let Some(state) = &state {
        url.query_pairs_mut().append_pair("state", state);
    }
    see_other(&url)
}

fn ask_password(provider: &Provider, request: LoginRequest, username: Option<&str>, problem: Option<&str>) -> Response {
    let Ok(id) = random_id() else { return no_randomness() };
    let page = page::password(provider, &id, &request.client_id, username, problem);
    provider.logins.lock().put(id, request, provider.clock.now().instant());
    page
}

/// The authorization response (RFC 6749, section 4.1.2), with the issuer (RFC 9207, section 2).
fn send_back(provider: &Provider, mut redirect: Url, state: Option<&str>, answer: &[(&str, &str)]) -> Response {
    redirect
        .query_pairs_mut()
        .extend_pairs(answer)
        .extend_pairs(state.map(|state| ("state", state)))
        .append_pair("iss", &provider.issuer);
    see_other(&redirect)
}

/// 303, so that no browser posts the password on (RFC 9700, section 4.12).
fn see_other(url: &Url) -> Response {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    // A parsed URL is ASCII without control characters; were it ever not, no redirect is the safe answer.
    if let Ok(location) = url.as_str().parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn no_randomness() -> Response {
    page::refusal(StatusCode::INTERNAL_SERVER_ERROR, "The system gave no randomness.")
}

/// RFC 6749, section 3.1: a parameter without a value is one that was left out.
pub(super) fn given(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

/// A URL of this machine that a browser may be sent to (RFC 8252, section 7.3), with no fragment (RFC 6749, section
/// 3.1.2).
fn loopback_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let here = match url.host()? {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
    };
    let plain = url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    (here && plain && matches!(url.scheme(), "http" | "https")).then_some(url)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_on_this_machine() {
        for (uri, accepted) in [
            ("http://127.0.0.1:8080/cb", true),
            ("http://127.8.0.1/cb?x=1", true),
            ("https://localhost/cb", true),
            ("http://app.localhost:81/cb", true),
            ("http://[::1]:80/cb", true),
            ("http://localhost.acme.example/cb", false),
            ("http://127.0.0.1.acme.example/cb", false),
            ("http://localhost@acme.example/cb", false),
            ("http://user@localhost/cb", false),
            ("http://10.0.0.1/cb", false),
            ("http://localhost/cb#x", false),
            ("javascript:alert(1)//localhost", false),
            ("myapp://localhost/cb", false),
            ("/cb", false),
        ] {
            assert_eq!(loopback_url(uri).is_some(), accepted, "{uri}");
        }
    }
}
