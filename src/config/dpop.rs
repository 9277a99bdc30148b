//! `dpop:`: what the proofs of tokens that are bound to a key must be like.

use std::path::Path;
use std::time::Duration;

use super::issuers::choice;
use super::read::At;
use super::secrets;
use crate::identity::dpop::{DpopSettings, LIFETIME_MIN, NonceSettings, OnReplayFailure};
use crate::limit::CounterSettings;
use crate::secret::SecretSource;

/// Reads `dpop:`; with it the place of the nonces' key.
pub(super) fn read(at: &At<'_>, directory: &Path, counters: &CounterSettings) -> (DpopSettings, Option<SecretSource>) {
    let mut settings = DpopSettings::default();
    let Some(mut section) = at.section("a map: `dpop: { nonce: required, nonce_key: file:dpop.key }`") else {
        return (settings, None);
    };
    let seconds = |at: At<'_>, min_s| at.duration(Duration::from_secs(min_s), Duration::from_secs(600));
    if let Some(always_https) = section.take("scheme").and_then(|at| choice(&at, "a scheme", SCHEMES)) {
        settings.always_https = always_https;
    }
    if let Some(age) = section.take("max_age").and_then(|at| seconds(at, 1)) {
        settings.age_max = age;
    }
    if let Some(ahead) = section.take("max_ahead").and_then(|at| seconds(at, 0)) {
        settings.ahead_max = ahead;
    }
    let is_required = section.take("nonce").and_then(|at| choice(&at, "a policy for nonces", NONCES)).unwrap_or(false);
    let [lifetime_at, key_at] = ["nonce_lifetime", "nonce_key"].map(|key| section.take(key));
    let on_failure_at = section.take("on_failure");
    if let Some(on_failure) =
        on_failure_at.as_ref().and_then(|at| choice(at, "what holds without Redis", OnReplayFailure::NAMES))
    {
        settings.on_failure = on_failure;
    }
    section.finish();

    let key = key_at.as_ref().and_then(|at| secrets::read(at, directory));
    let lifetime = match &lifetime_at {
        None => Some(LIFETIME),
        Some(at) => at.duration(LIFETIME_MIN, Duration::from_secs(86_400)),
    };
    let mut place = None;
    match (is_required, key_at, key) {
        (true, None, _) => at.refuse(
            "nonces are required, and there is no key to make them with",
            "`nonce_key: file:…` beside it, the same for all agents",
        ),
        (true, Some(at), Some((_, key))) if key.expose().len() < KEY_BYTES_MIN => at.refuse(
            format!("this key is {} of {KEY_BYTES_MIN} bytes long, and could be guessed", key.expose().len()),
            "what `openssl rand -base64 32` gives",
        ),
        (true, Some(_), Some((source, key))) => {
            settings.nonce = lifetime.map(|lifetime| NonceSettings { key, lifetime });
            place = Some(source);
        }
        (true, Some(_), None) => {}
        (false, key_at, _) => {
            for (key, at) in [("nonce_key", &key_at), ("nonce_lifetime", &lifetime_at)] {
                if let Some(at) = at {
                    at.refuse(format!("`{key}` is for nonces, and none is required"), "`nonce: required` beside it");
                }
            }
        }
    }
    if let Some(at) = on_failure_at.filter(|_| counters.redis.is_none()) {
        at.refuse("this is for when Redis cannot answer, and there is none", "`counters: { redis: … }` as well");
    }
    (settings, place)
}

/// Warns where several agents do not know of each other's proofs. `at` is where the config says something about it.
pub(super) fn warn(at: &At<'_>, settings: &DpopSettings, counters: &CounterSettings) {
    let agents = counters.agents;
    if agents.get() == 1 {
        return;
    }
    if counters.redis.is_none() {
        at.warn(format!(
            "without `counters.redis` each of the {agents} agents knows only the DPoP proofs that it has seen itself, so \
             one can be used {agents} times"
        ));
    } else if settings.on_failure == OnReplayFailure::Local {
        at.warn(format!("while Redis is away, a DPoP proof can be used once with each of the {agents} agents"));
    }
}

/// Whether clients came over TLS that ended before HAProxy.
pub(super) const SCHEMES: [(&str, bool); 2] = [("connection", false), ("https", true)];

/// Whether a nonce is required.
pub(super) const NONCES: [(&str, bool); 2] = [("off", false), ("required", true)];

const LIFETIME: Duration = Duration::from_secs(300);

/// As many as the MAC has (RFC 2104, section 3).
const KEY_BYTES_MIN: usize = 32;
