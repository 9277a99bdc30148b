//! What the directories over HTTP have in common: an access token of our own (RFC 6749), one request at a time with it,
//! and what their errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use url::Url;

use super::super::json;
use super::super::outbound::{Ask, Client, FetchError, Fetched};
use super::super::settings::OutboundSettings;
use super::DirectoryError;
use crate::clock::{Clock, Now};
use crate::secret::Secret;

/// How a directory's tokens are asked for.
pub(super) trait Grant: Send + Sync {
    /// The request to the token endpoint (RFC 6749, section 3.2).
    fn ask(&self, now: Now) -> Result<Ask, DirectoryError>;

    /// The token endpoint's host, for messages.
    fn host(&self) -> String;
}

/// An API that is asked with `GET` and a bearer token, and answers in JSON.
pub(super) struct Api<G> {
    grant: G,
    outbound: OutboundSettings,
    /// Held while a client is made.
    client: tokio::sync::Mutex<Option<(Client, Instant)>>,
    /// Held while a token is asked for, which makes that single flight.
    access: tokio::sync::Mutex<Access>,
    /// How often a token was asked for, well or badly.
    grants: AtomicU64,
}

#[derive(Default)]
struct Access {
    token: Option<(Arc<Secret>, Instant)>,
    /// What came of the last attempt, where it was nothing.
    failed: Option<DirectoryError>,
}

impl<G: Grant> Api<G> {
    pub(super) fn new(grant: G, outbound: OutboundSettings) -> Api<G> {
        Api {
            grant,
            outbound,
            client: tokio::sync::Mutex::default(),
            access: tokio::sync::Mutex::default(),
            grants: AtomicU64::new(0),
        }
    }

    /// The object that `url` answers with. A token that is refused is asked for anew, once.
    pub(super) async fn get(&self, url: Url, clock: &Clock) -> Result<Map<String, Value>, DirectoryError> {
        let host = super::super::outbound::host_of(&url);
        let grants = self.grants();
        let client = self.client(clock).await?;
        let mut token = self.token(&client, grants, clock).await?;
        let mut renewed = false;
        let fetched = loop {
            let ask = Ask::get(url.clone(), BYTES_MAX).bearer(token.expose()).keeping_refusal();
            match client.send(ask).await {
                // Withdrawn before its time; RFC 6750, section 3.1, `invalid_token`.
                Err(FetchError::Status { status: 401, .. }) if !renewed => {
                    renewed = true;
                    let grants = self.grants();
                    self.forget(&token).await;
                    token = self.token(&client, grants, clock).await?;
                }
                Err(error) => return Err(api_error(error)),
                Ok(fetched) => break fetched,
            }
        };
        object(&fetched, &host)
    }

    /// The client, made anew now and then so that certificates that the operator has replaced count.
    async fn client(&self, clock: &Clock) -> Result<Client, DirectoryError> {
        let now = clock.now().instant();
        let mut held = self.client.lock().await;
        if let Some((client, since)) = &*held
            && now.saturating_duration_since(*since) < CLIENT_AGE_MAX
        {
            return Ok(client.clone());
        }
        let outbound = self.outbound.clone();
        // It loads the system's certificates.
        let made = tokio::task::spawn_blocking(move || Client::new(&outbound)).await;
        let client = made.map_err(|_| DirectoryError::Broken)?.map_err(fetch_error)?;
        *held = Some((client.clone(), now));
        Ok(client)
    }

    fn grants(&self) -> u64 {
        self.grants.load(Ordering::Acquire)
    }

    /// An access token that is good for a while yet. Of all who find none, one asks for it, and the others have what
    /// came of that, be it nothing. `grants` is how many there had been when the caller began.
    async fn token(&self, client: &Client, grants: u64, clock: &Clock) -> Result<Arc<Secret>, DirectoryError> {
        let mut access = self.access.lock().await;
        let now = clock.now();
        if let Some((token, until)) = &access.token
            && now.instant() < *until
        {
            return Ok(Arc::clone(token));
        }
        if self.grants() != grants
            && let Some(failed) = &access.failed
        {
            return Err(failed.clone());
        }
        let outcome = match self.grant.ask(now) {
            Ok(ask) => match client.send(ask.keeping_refusal()).await {
                Ok(fetched) => read_token(&fetched, &self.grant.host()),
                Err(error) => Err(grant_error(error)),
            },
            Err(error) => Err(error),
        };
        self.grants.fetch_add(1, Ordering::AcqRel);
        match outcome {
            Ok((token, lives)) => {
                // A minute before its end, or half way where it lives for less than two: a page that is under way then
                // is still answered.
                let used_for = lives.saturating_sub(Duration::from_secs(60)).max(lives / 2);
                let token = Arc::new(token);
                let until = now.instant().checked_add(used_for).unwrap_or_else(|| now.instant());
                *access = Access { token: Some((Arc::clone(&token), until)), failed: None };
                Ok(token)
            }
            Err(error) => {
                *access = Access { token: None, failed: Some(error.clone()) };
                Err(error)
            }
        }
    }

    /// Drops a token that was refused, unless somebody has replaced it already.
    async fn forget(&self, token: &Arc<Secret>) {
        let mut access = self.access.lock().await;
        if access.token.as_ref().is_some_and(|(held, _)| Arc::ptr_eq(held, token)) {
            access.token = None;
        }
    }
}

/// Reads RFC 6749, section 5.1.
fn read_token(fetched: &Fetched, host: &str) -> Result<(Secret, Duration), DirectoryError> {
    let answer = object(fetched, host)?;
    let problem = |problem| DirectoryError::Answer { host: host.to_owned(), problem };
    let token = match answer.get("access_token") {
        // What else could stand there cannot stand in a header.
        Some(Value::String(token)) if (1..=TOKEN_BYTES_MAX).contains(&token.len()) && is_visible(token) => token,
        _ => return Err(problem("no `access_token` that can be used")),
    };
    let is_bearer = |kind: &Value| kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"));
    if !answer.get("token_type").is_some_and(is_bearer) {
        return Err(problem("`token_type` is not Bearer"));
    }
    // Some write the number as text.
    let lives_s = match answer.get("expires_in") {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let lives = lives_s.map_or(TOKEN_LIFE_UNSAID, Duration::from_secs).min(TOKEN_LIFE_MAX);
    Ok((Secret::new(token.as_str()), lives))
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

fn object(fetched: &Fetched, host: &str) -> Result<Map<String, Value>, DirectoryError> {
    json::object(&fetched.body)
        .map_err(|_| DirectoryError::Answer { host: host.to_owned(), problem: "it is not one JSON object" })
}

/// What an error of the API means.
fn api_error(error: FetchError) -> DirectoryError {
    let FetchError::Status { host, status, retry_after, body } = error else { return fetch_error(error) };
    let code = code(&body);
    match (status, code.as_str()) {
        (429 | 503, _) => DirectoryError::Throttled { host, status, retry_after },
        // Google's limits of before 429: a "never" by its status, and a "later" by its reason.
        (403, "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded" | "dailyLimitExceeded") => {
            DirectoryError::Throttled { host, status, retry_after }
        }
        // Only with the code that says so: a 404 of a wrong URL says nothing about anybody.
        (404, "notFound" | "Request_ResourceNotFound") => DirectoryError::NoSuchUser,
        _ => DirectoryError::Refused { host, status, code },
    }
}

/// What an error of the token endpoint means (RFC 6749, section 5.2).
fn grant_error(error: FetchError) -> DirectoryError {
    let FetchError::Status { host, status, retry_after, body } = error else { return fetch_error(error) };
    match status {
        429 | 503 => DirectoryError::Throttled { host, status, retry_after },
        _ => DirectoryError::NoAccess { host, status: Some(status), code: code(&body) },
    }
}

fn fetch_error(error: FetchError) -> DirectoryError {
    DirectoryError::Fetch(Arc::new(error))
}

/// The word for what went wrong: `error` as text (RFC 6749), `error.errors[0].reason` (Google), `error.code` as text
/// (Graph). Empty where there is none, or it is nothing like a word.
fn code(body: &[u8]) -> String {
    let Ok(answer) = json::object(body) else { return String::new() };
    let error = answer.get("error");
    let reason = |error: &Value| error.get("errors")?.get(0)?.get("reason")?.as_str().map(str::to_owned);
    let code = |error: &Value| error.get("code")?.as_str().map(str::to_owned);
    let word =
        error.and_then(|error| error.as_str().map(str::to_owned).or_else(|| reason(error)).or_else(|| code(error)));
    let is_word = |word: &String| word.len() <= 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    word.filter(is_word).unwrap_or_default()
}

/// A page of 999 groups with all that Graph says of each has some 600 KiB; asked for names only, both have a tenth.
const BYTES_MAX: usize = 1024 * 1024;

/// Those of Entra for Graph have some 2 KiB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// RFC 6749 recommends `expires_in`; both directories send it.
const TOKEN_LIFE_UNSAID: Duration = Duration::from_secs(300);

/// Both give an hour; up to a day can be asked for.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(86_400);

const CLIENT_AGE_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_for_an_error_is_found_or_nothing_is_said() {
        for (body, expected) in [
            (r#"{"error": "invalid_grant", "error_description": "x"}"#, "invalid_grant"),
            (r#"{"error": {"code": 403, "errors": [{"reason": "quotaExceeded"}]}}"#, "quotaExceeded"),
            (r#"{"error": {"code": "Request_ResourceNotFound", "message": "x"}}"#, "Request_ResourceNotFound"),
            (r#"{"error": {"code": 404}}"#, ""),
            (r#"{"error": {"code": "two words"}}"#, ""),
            (r#"{"error": "a\nb"}"#, ""),
            (r#"{"error": []}"#, ""),
            (r#"{}"#, ""),
            ("<html>", ""),
            ("", ""),
        ] {
            assert_eq!(code(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(code(format!(r#"{{"error": "{}"}}"#, "a".repeat(65)).as_bytes()), "");
    }

    #[test]
    fn a_token_that_cannot_be_used_is_none() {
        for (body, lives_s) in [
            (r#"{"access_token": "a.b-c", "token_type": "Bearer", "expires_in": 3599}"#, Some(3599)),
            (r#"{"access_token": "a", "token_type": "bearer", "expires_in": "60"}"#, Some(60)),
            (r#"{"access_token": "a", "token_type": "bearer"}"#, Some(300)),
            (r#"{"access_token": "a", "token_type": "bearer", "expires_in": 99999999999}"#, Some(86_400)),
            (r#"{"access_token": "a", "token_type": "bearer", "expires_in": -1}"#, Some(300)),
            (r#"{"access_token": "a", "token_type": "mac"}"#, None),
            (r#"{"access_token": "a"}"#, None),
            (r#"{"access_token": "", "token_type": "Bearer"}"#, None),
            (r#"{"access_token": "a b", "token_type": "Bearer"}"#, None),
            (r#"{"access_token": "a\u0000", "token_type": "Bearer"}"#, None),
            (r#"{"access_token": "a", "access_token": "b", "token_type": "Bearer"}"#, None),
            (r#"{"token_type": "Bearer"}"#, None),
            ("[]", None),
        ] {
            let fetched = Fetched { body: body.into(), max_age: None, content_type: None };
            let lives = read_token(&fetched, "h").ok().map(|(_, lives)| lives);
            assert_eq!(lives, lives_s.map(Duration::from_secs), "{body}");
        }
    }
}
