//! Which counter: a short, readable, unambiguous name.
//!
//! `tg:per-user:1a2b3c4d:4=acme:5=alice`: the limit, its generation, then each part with its length before it, so that
//! no value, whatever it holds, reads as two or as another's. It lives inline, without an allocation; what does not fit
//! is named by its SHA-256.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use super::Limit;

/// The name of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CounterKey {
    bytes: [u8; KEY_BYTES_MAX],
    len: u8,
}

/// Puts a name together.
pub struct KeyWriter {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
    /// Everything, once it does not fit.
    overflow: Option<Context>,
}

/// A user and an issuer of ordinary length fit; so does an e-mail address.
const KEY_BYTES_MAX: usize = 112;

impl CounterKey {
    /// Begins the name of one of `limit`'s counters.
    pub fn of(limit: &Limit) -> KeyWriter {
        CounterKey::begin(&limit.name, limit.generation)
    }

    /// Begins a name that has nothing to do with a limit.
    pub fn begin(name: &str, generation: u32) -> KeyWriter {
        let mut writer = KeyWriter { bytes: [0; KEY_BYTES_MAX], len: 0, overflow: None };
        writer.push(b"tg:");
        writer.push(name.as_bytes());
        writer.push(b":");
        for shift in (0..8).rev() {
            writer.push(&[hex_digit((generation >> (4 * shift)) & 15)]);
        }
        writer
    }

    /// The counter of that name; `None` where none of ours is called like that.
    pub(super) fn named(name: &[u8]) -> Option<CounterKey> {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        let ours = name.starts_with(b"tg:") || name.starts_with(b"tg#");
        ours.then(|| CounterKey { bytes, len: name.len().to_le_bytes()[0] })
    }

    /// The first 64 bits of its SHA-256, in hex.
    pub fn digest(&self) -> Box<str> {
        let hash = aws_lc_rs::digest::digest(&SHA256, self.as_bytes());
        hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The name as it stands in Redis.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }
}

impl KeyWriter {
    /// Adds a part; any bytes will do.
    pub fn part(&mut self, part: &[u8]) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = part.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10).to_le_bytes()[0];
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(b":");
        self.push(&digits[at..]);
        self.push(b"=");
        self.push(part);
    }

    /// The name.
    pub fn finish(self) -> CounterKey {
        let mut bytes = self.bytes;
        let len = match self.overflow {
            None => self.len,
            Some(context) => {
                // No whole name begins with `tg#`, so none can be made to look like this one.
                bytes[..3].copy_from_slice(b"tg#");
                let hash = context.finish();
                let readable = KEY_BYTES_MAX - 2 * hash.as_ref().len();
                for (pair, byte) in bytes[readable..].chunks_exact_mut(2).zip(hash.as_ref()) {
                    pair[0] = hex_digit(u32::from(byte >> 4));
                    pair[1] = hex_digit(u32::from(byte & 15));
                }
                KEY_BYTES_MAX
            }
        };
        // At most KEY_BYTES_MAX, which a byte holds.
        CounterKey { bytes, len: len.to_le_bytes()[0] }
    }

    fn push(&mut self, part: &[u8]) {
        if let Some(context) = &mut self.overflow {
            context.update(part);
            return;
        }
        if let Some(room) = self.bytes.get_mut(self.len..self.len + part.len()) {
            room.copy_from_slice(part);
            self.len += part.len();
        } else {
            let mut context = Context::new(&SHA256);
            context.update(&self.bytes[..self.len]);
            context.update(part);
            self.overflow = Some(context);
        }
    }
}

impl fmt::Display for CounterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for CounterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn hex_digit(value: u32) -> u8 {
    b"0123456789abcdef"[(value & 15) as usize]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{OnFailure, Quota, Rate};
    use super::*;

    fn key(name: &str, generation: u32, parts: &[&[u8]]) -> CounterKey {
        let quota = Quota::Rate(Rate::new(1, Duration::from_secs(1), 1).unwrap());
        let limit = Limit::new(name, quota, OnFailure::Local, generation);
        let mut writer = CounterKey::of(&limit);
        for part in parts {
            writer.part(part);
        }
        writer.finish()
    }

    #[test]
    fn an_ordinary_name_is_readable() {
        assert_eq!(key("per-user", 0x1a2b, &[b"acme", b"alice"]).to_string(), "tg:per-user:00001a2b:4=acme:5=alice");
    }

    #[test]
    fn no_two_tuples_share_a_name() {
        let long = vec![b'x'; 8192];
        let tuples: Vec<(&str, u32, Vec<&[u8]>)> = vec![
            ("a", 1, vec![]),
            ("a", 2, vec![]),
            ("b", 1, vec![]),
            ("a", 1, vec![b""]),
            ("a", 1, vec![b"", b""]),
            ("a", 1, vec![b"x:1=y"]),
            ("a", 1, vec![b"x", b"y"]),
            ("a", 1, vec![b"}{"]),
            ("a", 1, vec![b"\r\n"]),
            ("a", 1, vec![b"\0"]),
            ("a", 1, vec![&long]),
            ("a", 1, vec![&long, b""]),
            ("a", 1, vec![&long[1..], b"x"]),
            ("a", 2, vec![&long]),
        ];
        let mut seen = HashMap::new();
        for tuple in tuples {
            let name = key(tuple.0, tuple.1, &tuple.2);
            assert!(name.as_bytes().len() <= KEY_BYTES_MAX);
            assert_eq!(seen.insert(name, tuple.clone()), None, "{tuple:?}");
        }
    }

    proptest! {
        #[test]
        fn different_parts_give_different_names(
            first in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..4),
            second in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..4),
        ) {
            let name = |parts: &[Vec<u8>]| key("l", 7, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(name(&first) == name(&second), first == second);
        }
    }
}
