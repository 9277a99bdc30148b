//! The chain: each line ends in a hash over itself and, through `prev`, over every line before it.
//!
//! A line is `{"v":1,"seq":N,…,"prev":"P","hash":"H"}`. P is the H of the line before, or 64 zeros in the first line of a
//! chain. H is SHA-256, or HMAC-SHA-256 where there is a key, over the bytes of the line up to `,"hash":`.

use std::fmt::{self, Write as _};

use aws_lc_rs::{digest, hmac};

/// 32 bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

/// How lines are hashed.
#[derive(Clone)]
pub enum Seal {
    /// SHA-256: whoever can write the file can also write it anew as a whole.
    Plain,
    /// HMAC-SHA-256: only who has the key can.
    Keyed(Box<hmac::Key>),
}

/// The last line that is in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// Its number, from 1; 0 where there is none yet.
    pub(super) seq: u64,
    /// Its hash.
    pub(super) hash: Hash,
}

/// A line taken apart. Nothing about it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    /// Its number.
    pub(super) seq: u64,
    /// What is hashed: all but the hash.
    pub(super) content: &'a [u8],
    /// What stands between `seq` and `prev`.
    pub(super) members: &'a [u8],
    /// The hash of the line before.
    pub(super) prev: Hash,
    /// Its own.
    pub(super) hash: Hash,
}

impl Hash {
    /// `prev` of the first line.
    pub const ZERO: Hash = Hash([0; 32]);

    /// 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Hash> {
        Hash::read(text.as_bytes())
    }

    /// Plain SHA-256, whatever the chain is sealed with.
    pub fn sha256(bytes: &[u8]) -> Hash {
        Hash::of(digest::digest(&digest::SHA256, bytes).as_ref())
    }

    fn read(text: &[u8]) -> Option<Hash> {
        let (pairs, []) = text.as_chunks::<2>() else { return None };
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        if pairs.len() != hash.len() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Hash(hash))
    }

    fn of(bytes: &[u8]) -> Hash {
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(bytes) {
            *to = *from;
        }
        Hash(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Seal {
    /// Keyed where there is a key.
    pub fn new(key: Option<&[u8]>) -> Seal {
        key.map_or(Seal::Plain, |key| Seal::Keyed(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key))))
    }

    /// The word in the trail.
    pub fn name(&self) -> &'static str {
        match self {
            Seal::Plain => "sha-256",
            Seal::Keyed(_) => "hmac-sha-256",
        }
    }

    /// The hash of a line's content.
    pub fn hash(&self, content: &[u8]) -> Hash {
        match self {
            Seal::Plain => Hash::sha256(content),
            Seal::Keyed(key) => Hash::of(hmac::sign(key, content).as_ref()),
        }
    }
}

impl Last {
    /// Before the first line.
    pub(super) const NONE: Last = Last { seq: 0, hash: Hash::ZERO };

    /// Appends the next line to `out`: `members` are those between `seq` and `prev`, as JSON, without braces.
    pub(super) fn append(&mut self, members: &str, seal: &Seal, out: &mut Vec<u8>) {
        let mut line = String::with_capacity(members.len() + 200);
        let seq = self.seq + 1;
        // Writing to a String cannot fail.
        let _ = write!(line, "{HEAD}{seq},{members}{PREV}{}\"", self.hash);
        let hash = seal.hash(line.as_bytes());
        let _ = writeln!(line, "{HASH}{hash}\"}}");
        out.extend_from_slice(line.as_bytes());
        *self = Last { seq, hash };
    }
}

impl<'a> Link<'a> {
    /// Takes a line apart, given without its newline; `None` where it is none of ours.
    pub(super) fn read(line: &'a [u8]) -> Option<Link<'a>> {
        let rest = line.strip_suffix(b"\"}")?;
        let (rest, hash) = rest.split_last_chunk::<64>()?;
        let content = rest.strip_suffix(HASH.as_bytes())?;
        let (rest, prev) = content.strip_suffix(b"\"")?.split_last_chunk::<64>()?;
        let body = rest.strip_suffix(PREV.as_bytes())?;
        let number = line.strip_prefix(HEAD.as_bytes())?;
        let digits = number.iter().position(|byte| *byte == b',')?;
        let seq =
            std::str::from_utf8(number.get(..digits)?).ok()?.parse().ok().filter(|seq| (1..u64::MAX).contains(seq))?;
        let members = body.get(HEAD.len() + digits + 1..)?;
        Some(Link { seq, content, members, prev: Hash::read(prev)?, hash: Hash::read(hash)? })
    }

    /// Whether the line is what was hashed.
    pub(super) fn is_whole(&self, seal: &Seal) -> bool {
        seal.hash(self.content) == self.hash
    }

    /// What this line follows.
    pub(super) fn before(&self) -> Last {
        Last { seq: self.seq - 1, hash: self.prev }
    }

    /// What the next line has to follow.
    pub(super) fn last(&self) -> Last {
        Last { seq: self.seq, hash: self.hash }
    }
}

const HEAD: &str = "{\"v\":1,\"seq\":";
const PREV: &str = ",\"prev\":\"";
const HASH: &str = ",\"hash\":\"";

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(seal: &Seal) -> Vec<u8> {
        let (mut last, mut out) = (Last::NONE, Vec::new());
        for n in 0..3 {
            last.append(&format!("\"n\":{n}"), seal, &mut out);
        }
        out
    }

    #[test]
    fn a_line_follows_from_the_line_before_and_both_from_the_key() {
        for seal in [Seal::Plain, Seal::new(Some(b"key")), Seal::new(Some(b"other"))] {
            let text = lines(&seal);
            let mut before = Last::NONE;
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let link = Link::read(line).unwrap();
                assert!(link.is_whole(&seal) && !link.is_whole(&Seal::new(Some(b"wrong"))));
                assert_eq!((link.seq, link.prev), (before.seq + 1, before.hash));
                serde_json::from_slice::<serde_json::Value>(line).unwrap();
                before = link.last();
            }
            assert_eq!(before.seq, 3);
        }
    }

    /// docs/audit.md shows how to do it with `sha256sum`.
    #[test]
    fn the_hash_is_that_of_the_bytes_before_it() {
        let text = String::from_utf8(lines(&Seal::Plain)).unwrap();
        let (content, hash) = text.lines().next().unwrap().split_once(",\"hash\":").unwrap();
        assert_eq!(content, format!("{{\"v\":1,\"seq\":1,\"n\":0,\"prev\":\"{}\"", "0".repeat(64)));
        assert_eq!(hash, format!("\"{}\"}}", Hash::sha256(content.as_bytes())));
    }

    #[test]
    fn what_is_no_line_of_ours_is_not_taken_for_one() {
        let text = lines(&Seal::Plain);
        let line = text.split(|byte| *byte == b'\n').next().unwrap();
        for (from, to) in
            [("\"v\":1", "\"v\":2"), ("\"seq\":1", "\"seq\":0"), ("\"seq\":1", "\"seq\":x"), ("prev", "perv")]
        {
            let text = String::from_utf8(line.to_vec()).unwrap().replace(from, to);
            assert_eq!(Link::read(text.as_bytes()), None, "{text}");
        }
        let upper = String::from_utf8(line.to_vec()).unwrap().to_uppercase();
        for text in ["", "{}", "\"}", upper.as_str()] {
            assert_eq!(Link::read(text.as_bytes()), None, "{text}");
        }
        for end in 0..line.len() {
            assert_eq!(Link::read(&line[..end]), None, "cut after {end}");
        }
    }
}
