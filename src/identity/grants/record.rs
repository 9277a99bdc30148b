//! One grant: how it is written down, and how it is sealed.

use std::fmt;

use aws_lc_rs::hmac;
use serde_json::json;

use crate::identity::json;
use crate::secret::Secret;

/// Somebody is in a group for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The config's name of the issuer, or of what else says who somebody is.
    pub issuer: String,
    /// Their `user`.
    pub user: String,
    /// The policy group.
    pub group: String,
    /// Unix seconds.
    pub at_s: i64,
    /// The first Unix second in which it holds no more.
    pub until_s: i64,
    /// What for.
    pub reason: String,
    /// Who granted it, as they say themselves.
    pub by: String,
}

/// The name of a grant: eight bytes at random, as sixteen hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(u64);

impl GrantId {
    /// A new one; `None` where the system has no randomness to give.
    pub(super) fn random() -> Option<GrantId> {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(GrantId(u64::from_be_bytes(bytes)))
    }

    /// The name as it is shown.
    pub fn parse(text: &str) -> Option<GrantId> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| digits).map(GrantId)
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What grants are sealed with: HMAC-SHA-256 (RFC 2104) over the name and the text, so that neither can be another's.
pub(super) struct Seal(Option<hmac::Key>);

impl Seal {
    pub(super) fn new(key: Option<&Secret>) -> Seal {
        Seal(key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes())))
    }

    /// As Redis holds it: the seal in hex, or `-`, a space, and the members.
    pub(super) fn encode(&self, id: GrantId, grant: &Grant) -> String {
        let Grant { issuer, user, group, at_s, until_s, reason, by } = grant;
        let members = json!({
            "issuer": issuer, "user": user, "group": group, "at": at_s, "until": until_s, "reason": reason, "by": by,
        });
        let members = members.to_string();
        match &self.0 {
            None => format!("- {members}"),
            Some(key) => {
                let tag = hmac::sign(key, sealed(id, &members).as_bytes());
                let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{hex} {members}")
            }
        }
    }

    /// Reads what [`Seal::encode`] wrote; `None` for anything else, and with a key for what was not sealed with it.
    pub(super) fn decode(&self, id: GrantId, text: &str) -> Option<Grant> {
        if text.len() > RECORD_BYTES_MAX {
            return None;
        }
        let (seal, members) = text.split_once(' ')?;
        if let Some(key) = &self.0 {
            hmac::verify(key, sealed(id, members).as_bytes(), &bytes(seal)?).ok()?;
        }
        let members = json::object(members.as_bytes()).ok()?;
        let text = |name: &str| members.get(name)?.as_str().map(str::to_owned);
        let number = |name: &str| members.get(name)?.as_i64();
        Some(Grant {
            issuer: text("issuer")?,
            user: text("user")?,
            group: text("group")?,
            at_s: number("at")?,
            until_s: number("until")?,
            reason: text("reason")?,
            by: text("by")?,
        })
    }
}

fn sealed(id: GrantId, members: &str) -> String {
    format!("tollgate grant 1\n{id}\n{members}")
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    if digits { (0..64).step_by(2).map(pair).collect() } else { None }
}

/// A user of 255 bytes, three names and a reason of 300 characters, escaped.
pub(super) const RECORD_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            issuer: "acme".into(),
            user: "a\"l\nice \u{1F600}".into(),
            group: "ops".into(),
            at_s: -5,
            until_s: i64::MAX,
            reason: "- {}".into(),
            by: "root".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_that_is_not_sealed() {
        let (open, ours, theirs) = (Seal::new(None), seal("ours"), seal("theirs"));
        let (id, other) = (GrantId(7), GrantId(8));
        for (what, reader, writer, name, read) in [
            ("without a key", &open, &open, id, true),
            ("sealed", &ours, &ours, id, true),
            ("sealed, and nobody asks", &open, &ours, id, true),
            ("not sealed", &ours, &open, id, false),
            ("sealed with another key", &ours, &theirs, id, false),
            ("sealed for another name", &ours, &ours, other, false),
        ] {
            assert_eq!(reader.decode(name, &writer.encode(id, &grant())).is_some(), read, "{what}");
        }
        assert_eq!(ours.decode(id, &ours.encode(id, &grant())), Some(grant()));
        let written = ours.encode(id, &grant());
        for at in 0..written.len() {
            let mut bytes = written.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert_eq!(ours.decode(id, &changed), None, "{changed}");
        }
    }

    fn seal(key: &str) -> Seal {
        Seal::new(Some(&Secret::new(key)))
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        let long = format!("- {}", " ".repeat(RECORD_BYTES_MAX));
        for text in ["", "-", "- ", "- {}", "- []", "{}", r#"- {"issuer":1}"#, &long] {
            assert_eq!(Seal::new(None).decode(GrantId(1), text), None, "{text}");
        }
    }
}
