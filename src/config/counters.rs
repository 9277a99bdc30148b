//! `counters:`: where counters live, and how many agents share them.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use url::Url;

use super::read::{At, nearest, quote};
use super::secrets;
use crate::limit::{CounterSettings, RedisSettings};
use crate::secret::{Secret, SecretSource};

/// How Redis was written, for `check --expanded`.
#[derive(Debug)]
pub(super) struct WrittenRedis {
    pub(super) url: WrittenUrl,
    pub(super) username: Option<String>,
    pub(super) password: Option<SecretSource>,
}

/// A URL without a secret, or the place of one that may hold some.
#[derive(Debug)]
pub(super) enum WrittenUrl {
    Plain(String),
    Secret(SecretSource),
}

/// Counts in memory.
pub(super) fn in_memory() -> CounterSettings {
    CounterSettings { redis: None, agents: NonZeroU64::MIN, memory_bytes_max: MEMORY_BYTES_MAX }
}

/// Reads `counters:`. `deadline` is `spop.deadline`, which a charge must leave room in.
pub(super) fn read(at: &At<'_>, directory: &Path, deadline: Duration) -> (CounterSettings, Option<WrittenRedis>) {
    let mut settings = in_memory();
    let Some(mut section) = at.section("a map: `counters: { redis: redis://127.0.0.1:6379 }`") else {
        return (settings, None);
    };
    let redis_at = section.take("redis");
    let username_at = section.take("username");
    let password_at = section.take("password");
    let timeout_at = section.take("timeout");
    if let Some(count) = section.take("agents").and_then(|at| at.integer(1, AGENTS_MAX)) {
        settings.agents = NonZeroU64::new(count).unwrap_or(NonZeroU64::MIN);
    }
    if let Some(bytes) = section.take("max_memory").and_then(|at| at.size(1024 * 1024, 1024 * 1024 * 1024 * 1024)) {
        settings.memory_bytes_max = bytes;
    }
    section.finish();

    let timeout = match &timeout_at {
        None => Some(TIMEOUT),
        Some(at) => at.duration(Duration::from_millis(1), Duration::from_secs(1)),
    };
    let Some(redis_at) = redis_at else {
        for (key, at) in [("username", username_at), ("password", password_at), ("timeout", timeout_at)] {
            if let Some(at) = at {
                at.refuse(format!("`{key}` is for Redis, and there is none"), "`redis: redis://HOST:PORT` beside it");
            }
        }
        if settings.agents.get() > 1 {
            at.warn(format!(
                "without `redis` each of the {} agents counts for itself, so every limit holds {0} times over",
                settings.agents
            ));
        }
        return (settings, None);
    };
    if let Some(timeout) = timeout.filter(|timeout| *timeout >= deadline) {
        let what = format!("a charge may take {timeout:?}, and `spop.deadline` is {deadline:?}");
        timeout_at.as_ref().unwrap_or(&redis_at).refuse(what, "a `timeout` shorter than the deadline");
    }
    let username = username_at.as_ref().and_then(|at| at.text("a Redis user name"));
    let password = password_at.as_ref().and_then(|at| secrets::read(at, directory));
    if let Some(at) = username_at.filter(|_| password_at.is_none()) {
        at.refuse("a user name without a password", "`password: file:…` or `password: env:…` beside it");
    }
    let Some((mut url, written)) = url(&redis_at, directory) else { return (settings, None) };
    if let (WrittenUrl::Secret(_), Some(at)) = (&written, &password_at) {
        at.refuse("`redis` already names the place of a whole URL, password and all", "one or the other");
    }
    let address = address(&url);
    if let Some((_, password)) = &password {
        set_credentials(&mut url, username, password);
    }
    if let Some(timeout) = timeout {
        settings.redis = Some(RedisSettings { url: Secret::new(String::from(url)), address, timeout });
    }
    let written = WrittenRedis {
        url: written,
        username: username.map(str::to_owned),
        password: password.map(|(place, _)| place),
    };
    (settings, Some(written))
}

/// The URL, from the config or from the place that it names.
fn url(at: &At<'_>, directory: &Path) -> Option<(Url, WrittenUrl)> {
    if matches!(at.kind(), super::file::Kind::List(_)) {
        at.refuse("this is a list, and several nodes (Cluster, Sentinel) are not supported yet", URL);
        return None;
    }
    let text = at.text(URL)?;
    if secrets::place(text, directory).is_some() {
        let (place, secret) = secrets::read(at, directory)?;
        let Some(url) = Url::parse(secret.expose()).ok().filter(is_redis) else {
            at.refuse(format!("what {place} holds is not the URL of a Redis"), SCHEMES);
            return None;
        };
        return Some((url, WrittenUrl::Secret(place)));
    }
    // Before anything that would show the value.
    if text.contains('@') || text.contains("pass=") {
        at.refuse_unshown(
            "a password or user name inside the URL: secrets only as `file:…` or `env:…`",
            "the URL without it, and `password: file:…` beside it (or `redis: file:…` for a file with the whole URL)",
        );
        return None;
    }
    match Url::parse(text).ok().filter(is_redis) {
        Some(url) => Some((url, WrittenUrl::Plain(text.to_owned()))),
        None => {
            let scheme = text.split(':').next().unwrap_or_default();
            let rest = text.get(scheme.len()..).unwrap_or_default();
            let near = nearest(scheme, ["redis", "rediss", "redis+unix"]).filter(|near| near != scheme);
            let near = near.filter(|_| rest.starts_with("://")).map(|scheme| format!("{scheme}{rest}"));
            at.refuse_for(format!("{} is not the URL of a Redis", quote(text)), URL, near);
            None
        }
    }
}

fn is_redis(url: &Url) -> bool {
    match url.scheme() {
        "redis" | "rediss" => url.has_host(),
        "redis+unix" => !url.has_host() && url.path().len() > 1,
        _ => false,
    }
}

/// The URL as logs may show it.
fn address(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    // These fail for a URL without a host, which has no user either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

/// The `redis` crate takes them from the authority, and for a socket from the query.
fn set_credentials(url: &mut Url, username: Option<&str>, password: &Secret) {
    if url.has_host() {
        let _ = url.set_username(username.unwrap_or(""));
        let _ = url.set_password(Some(password.expose()));
    } else {
        let mut query = url.query_pairs_mut();
        if let Some(username) = username {
            query.append_pair("user", username);
        }
        query.append_pair("pass", password.expose());
    }
}

const URL: &str =
    "`redis://HOST:PORT`, `rediss://HOST:PORT`, `redis+unix:///PATH`, or `file:…`/`env:…` holding such a URL";
const SCHEMES: &str = "`redis://…`, `rediss://…` or `redis+unix:///PATH`";

/// A healthy Redis answers in well under 1 ms; ten times that is an episode.
const TIMEOUT: Duration = Duration::from_millis(10);

/// 64 MiB hold about half a million counters.
const MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Beyond any fleet; a larger number is a typing mistake that would make `local` shares meaninglessly small.
const AGENTS_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_where_the_client_reads_them_and_not_into_the_address() {
        for (text, user, expected, shown) in [
            ("redis://h:1", None, "redis://:p%40ss@h:1", "redis://h:1"),
            ("rediss://h:1/2", Some("u"), "rediss://u:p%40ss@h:1/2", "rediss://h:1/2"),
            (
                "redis+unix:///run/r.sock",
                Some("u"),
                "redis+unix:///run/r.sock?user=u&pass=p%40ss",
                "redis+unix:///run/r.sock",
            ),
        ] {
            let mut url = Url::parse(text).unwrap();
            assert!(is_redis(&url), "{text}");
            set_credentials(&mut url, user, &Secret::new("p@ss"));
            assert_eq!(url.as_str(), expected);
            assert_eq!(address(&url), shown);
        }
    }
}
