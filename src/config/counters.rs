//! `counters:`: where counters live, and how many agents share them.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use super::read::{At, nearest, quote};
use super::secrets;
use crate::limit::CounterSettings;
use crate::link::{Login, Place, RedisSettings, TlsFiles};
use crate::secret::{Secret, SecretSource};

/// How Redis was written, for `check --expanded`.
#[derive(Debug)]
pub(super) struct WrittenRedis {
    pub(super) url: WrittenUrl,
}

/// URLs without a secret, or the place of some that may hold one.
#[derive(Debug)]
pub(super) enum WrittenUrl {
    Plain(Vec<String>),
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
    let sentinel_at = section.take("sentinel");
    let tls_at = section.take("tls");
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
        for (key, at) in [
            ("username", username_at),
            ("password", password_at),
            ("sentinel", sentinel_at),
            ("tls", tls_at),
            ("timeout", timeout_at),
        ] {
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
    let login = login(username_at, password_at.as_ref(), directory);
    let sentinel = sentinel_at.as_ref().and_then(|at| {
        let mut section = at.section("a map: `sentinel: { username: tollgate, password: file:… }`")?;
        let (username_at, password_at) = (section.take("username"), section.need("password", "file:…"));
        section.finish();
        Some(self::login(username_at, password_at.as_ref(), directory))
    });
    let tls = tls_at.as_ref().and_then(|at| tls(at, directory));
    let Some((url, place, written)) = urls(&redis_at, directory) else { return (settings, None) };
    if let (WrittenUrl::Secret(_), Some(at)) = (&written, &password_at) {
        at.refuse("`redis` already names the place of a whole URL, password and all", "one or the other");
    }
    if let Some(at) = tls_at.filter(|_| !place.is_tls()) {
        at.refuse("certificates are for TLS, and this is spoken to in clear", "`rediss://…` or `rediss+sentinel://…`");
    }
    if let Some(at) = sentinel_at.filter(|_| !place.asks_sentinels()) {
        at.refuse("this is for sentinels, and none is asked", "`redis: redis+sentinel://HOST:PORT/MASTER`");
    }
    if let Some(timeout) = timeout {
        settings.redis = Some(RedisSettings {
            url,
            url_from: match &written {
                WrittenUrl::Plain(_) => None,
                WrittenUrl::Secret(source) => Some(source.clone()),
            },
            address: place.to_string(),
            timeout,
            login,
            sentinel_login: sentinel.unwrap_or_default(),
            tls: tls.unwrap_or_default(),
        });
    }
    (settings, Some(WrittenRedis { url: written }))
}

fn login(username_at: Option<At<'_>>, password_at: Option<&At<'_>>, directory: &Path) -> Login {
    let username = username_at.as_ref().and_then(|at| at.text("a Redis user name"));
    let read = password_at.and_then(|at| secrets::read(at, directory));
    if let Some(at) = username_at.filter(|_| password_at.is_none()) {
        at.refuse("a user name without a password", "`password: file:…` or `password: env:…` beside it");
    }
    let (password_from, password) = read.unzip();
    Login { username: username.map(str::to_owned), password, password_from }
}

fn tls(at: &At<'_>, directory: &Path) -> Option<TlsFiles> {
    let mut section = at.section("a map: `tls: { ca: FILE, cert: FILE, key: FILE }`")?;
    let mut file = |key| {
        let at = section.take(key)?;
        let path = directory.join(at.text("a file in PEM")?);
        at.depends_on(&path);
        Some((at, path))
    };
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    section.finish();
    let own = match (cert, key) {
        (Some((_, cert)), Some((_, key))) => Some((cert, key)),
        (None, None) => None,
        (Some((at, _)), None) => {
            at.refuse("a certificate without its key", "`key: FILE` beside it");
            return None;
        }
        (None, Some((at, _))) => {
            at.refuse("a key without its certificate", "`cert: FILE` beside it");
            return None;
        }
    };
    let files = TlsFiles { ca: ca.map(|(_, path)| path), own };
    if let Err(error) = files.check() {
        at.refuse_unshown(error.to_string(), "files in PEM: `ca` and `cert` hold certificates, `key` the private key");
        return None;
    }
    Some(files)
}

/// The URLs, from the config or from the place that it names.
fn urls(at: &At<'_>, directory: &Path) -> Option<(Secret, Place, WrittenUrl)> {
    if !matches!(at.kind(), super::file::Kind::List(_)) && secrets::place(at.text(URL)?, directory).is_some() {
        let (source, secret) = secrets::read(at, directory)?;
        return match Place::read(secret.expose()) {
            Ok(place) => Some((secret, place, WrittenUrl::Secret(source))),
            Err(why) => {
                at.refuse(format!("what {source} holds is not the URL of a Redis: {why}"), SCHEMES);
                None
            }
        };
    }
    let parts = at.one_or_many(URL);
    let mut texts = Vec::new();
    for part in &parts {
        let text = part.text(URL)?;
        // Before anything that would show the value.
        if text.contains('@') || text.contains("pass=") {
            part.refuse_unshown(
                "a password or user name inside the URL: secrets only as `file:…` or `env:…`",
                "the URL without it, and `password: file:…` beside it (or `redis: file:…` for a file with the whole URL)",
            );
            return None;
        }
        let read = if text.contains(char::is_whitespace) { Err("there is a space in it") } else { Place::read(text) };
        if let Err(why) = read {
            let scheme = text.split(':').next().unwrap_or_default();
            let rest = text.get(scheme.len()..).unwrap_or_default();
            let near = nearest(scheme, NAMES).filter(|near| near != scheme);
            let near = near.filter(|_| rest.starts_with("://")).map(|scheme| format!("{scheme}{rest}"));
            part.refuse_for(format!("{} is not the URL of a Redis: {why}", quote(text)), URL, near);
            return None;
        }
        texts.push(text.to_owned());
    }
    let url = texts.join(" ");
    match Place::read(&url) {
        Ok(place) => Some((Secret::new(url), place, WrittenUrl::Plain(texts))),
        Err(why) => {
            at.refuse(why, "a list of `redis://HOST:PORT`, or of `rediss://HOST:PORT`: nodes of one Cluster");
            None
        }
    }
}

const URL: &str = "`redis://HOST:PORT`, `rediss://HOST:PORT`, `redis+unix:///PATH`, \
     `redis+sentinel://HOST:PORT,HOST:PORT/MASTER`, a list of a Cluster's nodes, or `file:…`/`env:…` holding such URLs";
const SCHEMES: &str = "`redis://…`, `rediss://…`, `redis+unix:///PATH`, `redis+sentinel://…` or `rediss+sentinel://…`";
const NAMES: [&str; 5] = ["redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel"];

/// A healthy Redis answers in well under 1 ms; ten times that is an episode.
const TIMEOUT: Duration = Duration::from_millis(10);

/// 64 MiB hold about half a million counters.
const MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Beyond any fleet; a larger number is a typing mistake that would make `local` shares meaninglessly small.
const AGENTS_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn certificates_of_our_own_are_read_and_written_back() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["redis.example".to_owned()]).unwrap();
        std::fs::write(folder.path().join("own.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("own.key"), made.signing_key.serialize_pem()).unwrap();
        let text = "counters: { redis: \"rediss://h\", tls: { cert: own.pem, key: own.key } }\n\
                    rules: [{ name: all, allow: anyone }]\n";
        let config = parse(text, &folder.path().join("tollgate.yaml")).unwrap();
        let tls = &config.counters.redis.as_ref().unwrap().tls;
        assert_eq!(tls.own, Some((folder.path().join("own.pem"), folder.path().join("own.key"))));
        let again = parse(&config.expanded(), std::path::Path::new("/nowhere/expanded.yaml")).unwrap();
        assert_eq!(again.counters, config.counters);
    }
}
