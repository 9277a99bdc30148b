//! What an API key looks like.
//!
//! `tg_PREFIX_SECRET`, 61 characters: eight of a prefix that names the key and is no secret, 43 of a secret, and six of
//! a checksum over all before them. A letter is one of 62, drawn without bias from the operating system's random
//! numbers, so that the secret has 43 × log2(62) = 256 bits.
//!
//! The checksum tells a key from anything else that looks like one, without asking anybody: a scanner finds keys in
//! repositories and logs by `tg_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}` and reports no accident, and a mistyped or cut key costs
//! no look-up. It protects nothing; the secret does.
//!
//! What is kept of a key is the SHA-256 of the whole of it. A slow hash is for passwords, of which there are few: it
//! makes each guess dear. Nobody guesses 256 random bits, at any price, and a slow hash here would only be work that a
//! stranger could have us do with each request.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use zeroize::Zeroizing;

/// Names a key in a file, a log and the variable `client_id`. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPrefix([u8; PREFIX_LEN]);

impl KeyPrefix {
    /// Eight letters and digits.
    pub fn parse(text: &str) -> Option<KeyPrefix> {
        let bytes: [u8; PREFIX_LEN] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(KeyPrefix(bytes))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key that was just made: the one time that all of it is seen.
pub struct NewKey {
    /// What names it.
    pub prefix: KeyPrefix,
    /// The key, to be given to whoever will use it.
    pub text: Zeroizing<String>,
    /// What is kept of it.
    pub sha256: [u8; 32],
}

/// Makes a key. The error is the operating system's: it has no random numbers.
pub fn make() -> Result<NewKey, Unspecified> {
    let mut prefix = [0; PREFIX_LEN];
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    draw(&mut prefix)?;
    draw(&mut *secret)?;
    let prefix = KeyPrefix(prefix);
    // ASCII by construction.
    let secret = std::str::from_utf8(&*secret).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(KEY_LEN));
    text.push_str(MARK);
    text.push_str(prefix.as_str());
    text.push('_');
    text.push_str(secret);
    let checksum = checksum(text.as_bytes());
    text.extend(checksum.iter().copied().map(char::from));
    let sha256 = sha256(text.as_bytes());
    Ok(NewKey { prefix, text, sha256 })
}

/// The prefix of what has the shape of a key, its checksum included.
pub(super) fn prefix_of(key: &[u8]) -> Option<KeyPrefix> {
    let key: &[u8; KEY_LEN] = key.try_into().ok()?;
    let rest = key.strip_prefix(MARK.as_bytes())?;
    let (prefix, rest) = rest.split_at_checked(PREFIX_LEN)?;
    let letters = rest.strip_prefix(b"_")?;
    let (covered, written) = key.split_at_checked(KEY_LEN - CHECKSUM_LEN)?;
    let good = letters.iter().all(u8::is_ascii_alphanumeric) && checksum(covered) == *written;
    std::str::from_utf8(prefix).ok().filter(|_| good).and_then(KeyPrefix::parse)
}

/// What is kept of a key.
pub(super) fn sha256(key: &[u8]) -> [u8; 32] {
    let mut kept = [0; 32];
    kept.copy_from_slice(digest(&SHA256, key).as_ref());
    kept
}

/// The same text with every secret of a key in it left out. For messages about what somebody wrote: a key may have been
/// written where its hash should stand.
pub fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, key) = rest.split_at(at);
        shown.push_str(before);
        let prefix_end = MARK.len() + PREFIX_LEN;
        let is_key = key.get(MARK.len()..prefix_end).and_then(KeyPrefix::parse).is_some()
            && key.get(prefix_end..).is_some_and(|rest| rest.starts_with('_'));
        if is_key {
            shown.push_str(&key[..=prefix_end]);
            shown.push('…');
            rest = &key[prefix_end + 1..];
            // No more than that: another key may follow at once.
            let secret = rest.bytes().take(SECRET_LEN + CHECKSUM_LEN).take_while(u8::is_ascii_alphanumeric).count();
            rest = &rest[secret..];
        } else {
            shown.push_str(MARK);
            rest = &key[MARK.len()..];
        }
    }
    shown.push_str(rest);
    shown
}

/// Letters drawn from the operating system's random numbers, each as likely as the others.
fn draw(letters: &mut [u8]) -> Result<(), Unspecified> {
    // The largest multiple of 62 in a byte: what is beyond would make the first letters likelier, and is drawn again.
    const END: u8 = 248;
    let mut random = Zeroizing::new([0; 64]);
    let mut used = random.len();
    for letter in letters {
        *letter = loop {
            if used == random.len() {
                aws_lc_rs::rand::fill(&mut *random)?;
                used = 0;
            }
            let byte = random[used];
            used += 1;
            if byte < END {
                break LETTERS[usize::from(byte % 62)];
            }
        };
    }
    Ok(())
}

/// CRC-32 in six letters, the highest first: the one that the checksums of other services' keys use too.
pub(super) fn checksum(covered: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32(covered);
    let mut letters = [0; CHECKSUM_LEN];
    for letter in letters.iter_mut().rev() {
        *letter = LETTERS[(rest % 62) as usize];
        rest /= 62;
    }
    letters
}

/// CRC-32 as in IEEE 802.3, bit by bit: 55 bytes take less than the digest that follows.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

const MARK: &str = "tg_";
const PREFIX_LEN: usize = 8;
const SECRET_LEN: usize = 43;
/// 62^6 is more than 2^32.
const CHECKSUM_LEN: usize = 6;
const KEY_LEN: usize = MARK.len() + PREFIX_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_made_key_is_read_and_a_changed_one_is_not() {
        // The check value of CRC-32/ISO-HDLC in every catalogue.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let key = make().unwrap();
        assert_eq!(key.text.len(), 61);
        assert_eq!(prefix_of(key.text.as_bytes()), Some(key.prefix));
        assert_eq!(sha256(key.text.as_bytes()), key.sha256);
        for at in 0..key.text.len() {
            let mut changed = key.text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(prefix_of(&changed), None, "changed at {at}");
        }
        for other in ["", "tg_", &key.text[1..], &key.text[..60], &format!("{}a", *key.text), &" ".repeat(61)] {
            assert_eq!(prefix_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn keys_do_not_repeat_and_use_every_letter() {
        let keys: Vec<NewKey> = (0..400).map(|_| make().unwrap()).collect();
        let secrets: HashSet<&str> = keys.iter().map(|key| &key.text[12..55]).collect();
        assert_eq!(secrets.len(), keys.len());
        // 17,200 letters: the chance that one of 62 is missing is below 10^-119.
        let letters: HashSet<u8> = secrets.iter().flat_map(|secret| secret.bytes()).collect();
        assert_eq!(letters.len(), 62);
    }

    #[test]
    fn no_secret_of_a_key_is_left_in_a_message() {
        let key = make().unwrap();
        for (text, expected) in [
            (format!("a {} b", *key.text), format!("a tg_{}_… b", key.prefix)),
            (format!("{0}{0}", *key.text), format!("tg_{0}_…tg_{0}_…", key.prefix)),
            (format!("`{}`", &key.text[..30]), format!("`tg_{}_…`", key.prefix)),
            ("tg_ tg_short_ tg_\u{e9}\u{e9}\u{e9}\u{e9}_x".to_owned(), "tg_ tg_short_ tg_éééé_x".to_owned()),
        ] {
            assert_eq!(redact(&text), expected);
        }
    }
}
