//! `revocations:`: what an agent does before it knows what is revoked.

use super::read::At;
use crate::identity::settings::{AtStart, RevocationSettings};
use crate::limit::RedisSettings;

/// Reads `revocations:`. They are where the counters are; `None` where that is no Redis.
pub(super) fn read(at: Option<At<'_>>, redis: Option<&RedisSettings>) -> Option<RevocationSettings> {
    let mut at_start = AtStart::default();
    if let Some(at) = &at {
        let mut section = at.section("a map: `revocations: { at_start: wait }`")?;
        if let Some(at) = section.take("at_start") {
            let words = AtStart::NAMES.map(|(word, _)| word);
            match at.as_text() {
                Some(text) => match AtStart::NAMES.into_iter().find(|(word, _)| *word == text) {
                    Some((_, known)) => at_start = known,
                    None => at.refuse_name(text, "a choice here", words),
                },
                None => at.refuse_kind("`open` or `wait`"),
            }
        }
        section.finish();
        if redis.is_none() {
            at.refuse("they are kept in Redis, and there is none", "`counters: { redis: redis://HOST:PORT }`");
        }
    }
    Some(RevocationSettings { redis: redis?.clone(), at_start })
}
