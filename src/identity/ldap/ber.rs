//! The part of BER that LDAP is made of (RFC 4511, section 5.1): definite lengths, tags of one octet.
//!
//! The reader never recurses, so no nesting of a peer's making costs stack, and every length is checked against what is
//! there before it is used.

use zeroize::Zeroizing;

/// Tags of RFC 4511's types that are not an operation's own.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// What is not BER, or not the type that stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotBer(pub(super) &'static str);

/// Elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element, if there is one.
    pub(super) fn peek(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element, which must have this tag.
    pub(super) fn take(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], NotBer> {
        let (found, content) = self.any()?;
        if found == tag { Ok(content) } else { Err(NotBer(what)) }
    }

    /// The next element, whatever it is: its tag and content.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), NotBer> {
        let Header { tag, header_bytes, content_bytes } = header(self.0)?.ok_or(NotBer("an element is cut off"))?;
        let rest = self.0.get(header_bytes..).unwrap_or_default();
        if content_bytes > rest.len() {
            return Err(NotBer("an element is longer than what holds it"));
        }
        let (content, rest) = rest.split_at(content_bytes);
        self.0 = rest;
        Ok((tag, content))
    }

    /// A number that is not negative and fits.
    pub(super) fn number(&mut self, tag: u8, what: &'static str) -> Result<u32, NotBer> {
        let content = self.take(tag, what)?;
        // Two's complement: a number from 2^31 on has five octets, the first of them 0.
        match content {
            [] => Err(NotBer(what)),
            [first, ..] if first & 0x80 != 0 => Err(NotBer(what)),
            [0, digits @ ..] | digits if digits.len() <= 4 => {
                Ok(digits.iter().fold(0, |value, digit| value << 8 | u32::from(*digit)))
            }
            _ => Err(NotBer(what)),
        }
    }

    /// Text in UTF-8, as LDAPString and LDAPDN are.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, NotBer> {
        std::str::from_utf8(self.take(OCTET_STRING, what)?).map_err(|_| NotBer(what))
    }
}

/// The beginning of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: u8,
    pub(super) header_bytes: usize,
    pub(super) content_bytes: usize,
}

/// Reads tag and length; `None` where the bytes end before they do.
pub(super) fn header(bytes: &[u8]) -> Result<Option<Header>, NotBer> {
    let [tag, first, rest @ ..] = bytes else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err(NotBer("a tag of several octets, which LDAP has not"));
    }
    let octets = match *first {
        short @ ..0x80 => {
            return Ok(Some(Header { tag: *tag, header_bytes: 2, content_bytes: usize::from(short) }));
        }
        0x80 => return Err(NotBer("an indefinite length, which LDAP forbids")),
        // Servers do pad lengths (Active Directory writes four octets always); eight would only be padding.
        long @ 0x81..=0x84 => usize::from(long & 0x7f),
        _ => return Err(NotBer("a length of more than four octets")),
    };
    let Some(digits) = rest.get(..octets) else { return Ok(None) };
    let content_bytes = digits.iter().fold(0_usize, |value, digit| value << 8 | usize::from(*digit));
    Ok(Some(Header { tag: *tag, header_bytes: 2 + octets, content_bytes }))
}

/// Writes elements. What it holds is zeroed when it is dropped, since one of them is a password.
#[derive(Debug, Default)]
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// Room for so many bytes, so that a secret is not left behind in a smaller allocation.
    pub(super) fn with_capacity(bytes: usize) -> Writer {
        Writer(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    pub(super) fn element(&mut self, tag: u8, content: &[u8]) {
        self.0.push(tag);
        match content.len() {
            #[allow(clippy::cast_possible_truncation)] // below 128
            short @ ..0x80 => self.0.push(short as u8),
            long => {
                let digits = long.to_be_bytes();
                let digits = digits.get(digits.iter().take_while(|digit| **digit == 0).count()..).unwrap_or_default();
                self.0.push(0x80 | u8::try_from(digits.len()).unwrap_or(0x7e));
                self.0.extend_from_slice(digits);
            }
        }
        self.0.extend_from_slice(content);
    }

    pub(super) fn number(&mut self, tag: u8, value: u32) {
        let digits = value.to_be_bytes();
        let zeros = digits.iter().take(3).take_while(|digit| **digit == 0).count();
        let digits = digits.get(zeros..).unwrap_or_default();
        // A first bit that is set would make it negative.
        let mut signed = smallvec::SmallVec::<[u8; 5]>::new();
        if digits.first().is_some_and(|first| first & 0x80 != 0) {
            signed.push(0);
        }
        signed.extend_from_slice(digits);
        self.element(tag, &signed);
    }

    pub(super) fn boolean(&mut self, tag: u8, value: bool) {
        // TRUE is 0xFF (RFC 4511, section 5.1).
        self.element(tag, &[if value { 0xff } else { 0 }]);
    }

    /// An element made of elements.
    pub(super) fn nest(&mut self, tag: u8, content: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::with_capacity(NEST_BYTES);
        content(&mut inner);
        self.element(tag, &inner.0);
    }

    pub(super) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// The largest bind, a DN and a password of 1 KiB each with what is around them, never moves to a larger allocation.
const NEST_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.into_bytes().to_vec()
    }

    #[test]
    fn numbers_go_there_and_back() {
        for (value, content) in [
            (0, vec![0]),
            (1, vec![1]),
            (127, vec![0x7f]),
            (128, vec![0, 0x80]),
            (256, vec![1, 0]),
            (65_535, vec![0, 0xff, 0xff]),
            (0x7fff_ffff, vec![0x7f, 0xff, 0xff, 0xff]),
            (u32::MAX, vec![0, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let bytes = written(|writer| writer.number(INTEGER, value));
            assert_eq!(bytes[2..], content, "{value}");
            assert_eq!(Reader::new(&bytes).number(INTEGER, "a number"), Ok(value));
        }
    }

    #[test]
    fn lengths_go_there_and_back() {
        for len in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; len];
            let bytes = written(|writer| writer.element(OCTET_STRING, &content));
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.take(OCTET_STRING, "octets").unwrap(), content);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn what_is_not_ldaps_ber_is_refused() {
        for (bytes, what) in [
            (&[0x30, 0x80, 0, 0][..], "indefinite"),
            (&[0x1f, 0x81, 1, 0], "a long tag"),
            (&[0x04, 0x85, 0, 0, 0, 0, 1, 7], "five octets of length"),
            (&[0x04, 0xff, 1], "a reserved length"),
            (&[0x04, 2, 7], "a cut content"),
            (&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff, 7], "4 GiB"),
            (&[0x04, 0x82, 1], "a cut length"),
            (&[0x04], "a tag alone"),
            (&[], "nothing"),
        ] {
            assert!(Reader::new(bytes).any().is_err(), "{what}");
        }
        for bytes in [&[2, 0][..], &[2, 1, 0x80], &[2, 5, 1, 0, 0, 0, 0], &[2, 6, 0, 0, 0, 0, 0, 1], &[4, 1, 1]] {
            assert!(Reader::new(bytes).number(INTEGER, "a number").is_err(), "{bytes:?}");
        }
        assert!(Reader::new(&[4, 2, 0xc3, 0x28]).text("text").is_err(), "not UTF-8");
    }
}
