//! One revocation: what it names, how it is written down, and its name.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use serde_json::{Map, Value, json};

use crate::identity::json;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One token, for good.
    Token {
        /// Which one.
        fingerprint: Fingerprint,
    },
    /// Whatever a subject was issued until then.
    Subject {
        /// The `iss` value, or the name of a source that is no issuer.
        issuer: String,
        /// `sub`; the user where a source has no subjects.
        subject: String,
    },
    /// Whatever belongs to a session, whenever it was issued.
    Session {
        /// The `iss` value.
        issuer: String,
        /// `sid`.
        session: String,
    },
    /// Whatever an issuer issued until then.
    Issuer {
        /// The `iss` value, or the name of a source that is no issuer.
        issuer: String,
    },
}

impl What {
    /// The word for it on the command line and in Redis.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Token { .. } => "token",
            What::Subject { .. } => "subject",
            What::Session { .. } => "session",
            What::Issuer { .. } => "issuer",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Token { fingerprint } => write!(f, "token {fingerprint}"),
            // Quoted, so that no value can pretend to be more of the line.
            What::Subject { issuer, subject } => write!(f, "subject {subject:?} of {issuer:?}"),
            What::Session { issuer, session } => write!(f, "session {session:?} of {issuer:?}"),
            What::Issuer { issuer } => write!(f, "everything of {issuer:?}"),
        }
    }
}

/// What names a credential for good: the SHA-256 of what its issuer signed, or of all of it where nothing is signed.
///
/// Not of a JWT's whole text: (r, n - s) is a second valid signature of every ECDSA signature (r, s), so its bearer could
/// write the same token anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// Of a token, or of another secret that is presented whole.
    pub fn of(credential: &[u8]) -> Fingerprint {
        Fingerprint(sha256(signed_part(credential)))
    }

    fn parse(text: &str) -> Option<Fingerprint> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Fingerprint(digest))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Header, dot and payload of what has the shape of a compact JWS; all of anything else. The shape alone decides, so that
/// whoever revokes a token need not know how an agent takes it.
fn signed_part(credential: &[u8]) -> &[u8] {
    let mut dots = credential.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
    match (dots.next(), dots.next(), dots.next()) {
        (Some(_), Some(second), None) if credential.starts_with(b"e") => &credential[..second],
        _ => credential,
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&SHA256, bytes).as_ref());
    sum
}

/// The name of a revocation: eight bytes at random, as sixteen hex digits. Among 100,000 of them two are the same once in
/// four billion times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(super) u64);

impl Id {
    /// A new one; `None` where the system has no randomness to give.
    pub(super) fn random() -> Option<Id> {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Id(u64::from_be_bytes(bytes)))
    }

    /// The name as it is shown.
    pub fn parse(text: &str) -> Option<Id> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| digits).map(Id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A revocation, without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What it names.
    pub what: What,
    /// Unix seconds. Of a subject and of an issuer whatever was issued up to here is refused.
    pub at_s: i64,
    /// The first Unix second in which it holds no more.
    pub until_s: i64,
}

/// What is known under a name. It becomes another thing once at most: what was revoked may be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Revoked(Revocation),
    /// Undone. Kept for as long as the revocation would have held, so that whoever missed it does not bring that back.
    Undone {
        until_s: i64,
    },
}

impl Record {
    pub(super) fn until_s(&self) -> i64 {
        match self {
            Record::Revoked(revocation) => revocation.until_s,
            Record::Undone { until_s } => *until_s,
        }
    }

    /// As Redis and the copy hold it. The first character says which of the two it is, for `revoked.lua`.
    pub(super) fn encode(&self) -> String {
        match self {
            Record::Undone { until_s } => format!("-{}", json!({ "until": until_s })),
            Record::Revoked(Revocation { what, at_s, until_s }) => {
                let mut members = json!({ "kind": what.kind(), "at": at_s, "until": until_s });
                match what {
                    What::Token { fingerprint } => members["token"] = fingerprint.to_string().into(),
                    What::Subject { issuer, subject: name } | What::Session { issuer, session: name } => {
                        members["issuer"] = issuer.as_str().into();
                        members["name"] = name.as_str().into();
                    }
                    What::Issuer { issuer } => members["issuer"] = issuer.as_str().into(),
                }
                format!("+{members}")
            }
        }
    }

    /// Reads what [`Record::encode`] wrote; `None` for anything else.
    pub(super) fn decode(text: &str) -> Option<Record> {
        if text.len() > RECORD_BYTES_MAX {
            return None;
        }
        let (sign, members) = text.split_at_checked(1)?;
        let members = json::object(members.as_bytes()).ok()?;
        let until_s = members.get("until")?.as_i64()?;
        match sign {
            "-" => Some(Record::Undone { until_s }),
            "+" => {
                Some(Record::Revoked(Revocation { what: what(&members)?, at_s: members.get("at")?.as_i64()?, until_s }))
            }
            _ => None,
        }
    }
}

fn what(members: &Map<String, Value>) -> Option<What> {
    let text = |name: &str| members.get(name)?.as_str().map(str::to_owned);
    Some(match members.get("kind")?.as_str()? {
        "token" => What::Token { fingerprint: Fingerprint::parse(members.get("token")?.as_str()?)? },
        "subject" => What::Subject { issuer: text("issuer")?, subject: text("name")? },
        "session" => What::Session { issuer: text("issuer")?, session: text("name")? },
        "issuer" => What::Issuer { issuer: text("issuer")? },
        _ => return None,
    })
}

/// `iss` is a URL and `sub` has 255 characters at most (OpenID Connect Core 1.0, section 2): 1 KiB holds both with what is
/// around them.
pub(super) const RECORD_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (issuer, odd) = ("https://a.example/\"x".to_owned(), "+{\"until\":1}\n\u{1F600}".to_owned());
        for what in [
            What::Token { fingerprint: Fingerprint::of(b"abc") },
            What::Subject { issuer: issuer.clone(), subject: odd.clone() },
            What::Session { issuer: issuer.clone(), session: odd },
            What::Issuer { issuer },
        ] {
            let record = Record::Revoked(Revocation { what, at_s: -5, until_s: i64::MAX });
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        let undone = Record::Undone { until_s: 7 };
        assert_eq!(Record::decode(&undone.encode()), Some(undone));
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        let long = format!(r#"+{{"kind":"issuer","issuer":"{}","at":1,"until":2}}"#, "x".repeat(RECORD_BYTES_MAX));
        for text in [
            "",
            "+",
            "-",
            "-{}",
            "\u{e9}{\"until\":1}",
            r#"*{"until":1}"#,
            r#"-{"until":"1"}"#,
            r#"-{"until":1.5}"#,
            r#"-{"until":1} "x""#,
            r#"+{"until":1}"#,
            r#"+{"kind":"everything","at":1,"until":2}"#,
            r#"+{"kind":"token","token":"AB","at":1,"until":2}"#,
            r#"+{"kind":"issuer","issuer":7,"at":1,"until":2}"#,
            r#"+{"kind":"issuer","issuer":"x","until":2}"#,
            r#"+{"kind":"issuer","issuer":"x","issuer":"y","at":1,"until":2}"#,
            &long,
        ] {
            assert_eq!(Record::decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_is_named_by_what_is_signed() {
        for (one, other, same) in [
            ("eyJ.eyJ.sig", "eyJ.eyJ.gis", true),
            ("eyJ.eyJ.sig", "eyJ.eyJ.", true),
            ("eyJ.eyJ.sig", "eyJ.eyK.sig", false),
            ("eyJ.eyJ.sig", "eyJ.eyJ", true),
            // Five parts are encrypted, and what does not begin as JSON does means something to its issuer only.
            ("eyJ.a.b.c.d", "eyJ.a.b.c.e", false),
            ("abc.def.ghi", "abc.def.jkl", false),
            ("opaque", "opaque", true),
            ("opaque", "opaquf", false),
        ] {
            let equal = Fingerprint::of(one.as_bytes()) == Fingerprint::of(other.as_bytes());
            assert_eq!(equal, same, "{one} {other}");
        }
        // `printf %s abc | sha256sum`
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Fingerprint::of(b"abc").to_string(), abc);
        assert_eq!(Fingerprint::parse(abc), Some(Fingerprint::of(b"abc")));
    }

    #[test]
    fn names_are_sixteen_digits() {
        for (text, expected) in [
            ("00000000000000ff", Some(Id(255))),
            ("ffffffffffffffff", Some(Id(u64::MAX))),
            ("ff", None),
            ("+0000000000000ff", None),
            ("00000000000000FF", None),
            ("00000000000000fg", None),
        ] {
            assert_eq!(Id::parse(text), expected, "{text}");
            assert!(expected.is_none_or(|id| id.to_string() == text));
        }
    }
}
