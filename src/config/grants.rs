//! `grants:`: which groups can be granted for a time, and how long.

use std::path::Path;
use std::time::Duration;

use super::file::Kind;
use super::read::At;
use super::secrets;
use crate::identity::settings::GrantSettings;
use crate::limit::RedisSettings;
use crate::secret::SecretSource;

/// Reads `grants:`; with it the place of the key. They are where the counters are; `None` where that is no Redis, or where
/// the config wants none.
pub(super) fn read(
    at: Option<At<'_>>,
    redis: Option<&RedisSettings>,
    directory: &Path,
    groups: &[&str],
) -> (Option<GrantSettings>, Option<SecretSource>) {
    let settings = redis.map(|redis| GrantSettings {
        redis: redis.clone(),
        key: None,
        groups: Vec::new(),
        lifetime_max: GrantSettings::LIFETIME,
    });
    let Some(at) = at else { return (settings, None) };
    if let Kind::Bool(wanted) = at.kind() {
        if *wanted && redis.is_none() {
            at.refuse(NO_REDIS, REDIS);
        }
        return (settings.filter(|_| *wanted), None);
    }
    let Some(mut section) = at.section("`false`, or a map such as `{ groups: [ops], max: 8h, key: file:grants.key }`")
    else {
        return (None, None);
    };
    let allowed = section.take("groups").map(|at| {
        let known = |at: &At<'_>| {
            let name = at.text("the name of a group")?;
            if !groups.contains(&name) {
                at.refuse_name(name, "a group", groups.iter().copied());
            }
            Some(name.to_owned())
        };
        at.one_or_many("a list of groups").iter().filter_map(known).collect()
    });
    let lifetime_max =
        section.take("max").and_then(|at| at.duration(Duration::from_secs(1), GrantSettings::LIFETIME_MAX));
    let key_at = section.take("key");
    section.finish();
    let key = key_at.as_ref().and_then(|at| {
        let (source, key) = secrets::read(at, directory)?;
        let bytes = key.expose().len();
        if bytes < KEY_BYTES_MIN {
            at.refuse_unshown(
                format!("this key is {bytes} of {KEY_BYTES_MIN} bytes long, and could be guessed"),
                "what `openssl rand -base64 32` gives",
            );
        }
        Some((source, key))
    });
    let Some(settings) = settings else {
        at.refuse(NO_REDIS, REDIS);
        return (None, None);
    };
    let (source, key) = key.unzip();
    let settings = GrantSettings {
        key,
        groups: allowed.unwrap_or_default(),
        lifetime_max: lifetime_max.unwrap_or(GrantSettings::LIFETIME),
        ..settings
    };
    (Some(settings), source)
}

const NO_REDIS: &str = "they are kept in Redis, and there is none";
const REDIS: &str = "`counters: { redis: redis://HOST:PORT }`";
const KEY_BYTES_MIN: usize = 32;
