//! LDAP's messages (RFC 4511, section 4), so far as a client that binds and searches needs them.

use zeroize::Zeroizing;

use super::ber::{self, NotBer, Reader, Writer};
use super::filter::{FilterTemplate, Values};
use super::settings::Scope;
use crate::secret::Secret;

/// An operation to ask for: its BER, and what answers it.
#[derive(Debug)]
pub(super) struct Operation {
    /// What it is called in an error.
    pub(super) name: &'static str,
    request: Zeroizing<Vec<u8>>,
    done: u8,
    /// Entries that may come before the end; more are an answer that nobody asked for.
    pub(super) entries_max: usize,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    pub(super) name: &'static str,
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) what: What<'a>,
    pub(super) attributes: &'a [&'a str],
    pub(super) entries_max: u32,
    pub(super) seconds_max: u32,
}

/// The filter of a search.
#[derive(Clone, Copy, Debug)]
pub(super) enum What<'a> {
    /// `(objectClass=*)`: the base itself.
    Itself,
    /// The filter with these values.
    One(&'a FilterTemplate, Values<'a>),
    /// The filter for any of these DNs.
    AnyOf(&'a FilterTemplate, &'a str, &'a [String]),
}

impl Operation {
    /// A simple bind (section 4.2). An empty password would be an unauthenticated bind, which succeeds for anybody
    /// (RFC 4513, section 5.1.2), so there is no such operation.
    pub(super) fn bind(dn: &str, password: &Secret) -> Option<Operation> {
        if password.expose().is_empty() || dn.is_empty() {
            return None;
        }
        let mut writer = Writer::with_capacity(dn.len() + password.expose().len() + 64);
        writer.nest(BIND_REQUEST, |to| {
            to.number(ber::INTEGER, 3);
            to.element(ber::OCTET_STRING, dn.as_bytes());
            to.element(SIMPLE, password.expose().as_bytes());
        });
        Some(Operation { name: "bind", request: writer.into_bytes(), done: BIND_RESPONSE, entries_max: 0 })
    }

    /// A search (section 4.5). Aliases are not followed: they would be another way to an entry than the one configured.
    pub(super) fn search(search: &Search<'_>) -> Operation {
        let mut writer = Writer::default();
        writer.nest(SEARCH_REQUEST, |to| {
            to.element(ber::OCTET_STRING, search.base.as_bytes());
            to.number(ber::ENUMERATED, search.scope as u32);
            to.number(ber::ENUMERATED, 0);
            to.number(ber::INTEGER, search.entries_max);
            to.number(ber::INTEGER, search.seconds_max);
            to.boolean(ber::BOOLEAN, false);
            match search.what {
                What::Itself => to.element(0x87, b"objectClass"),
                What::One(filter, values) => filter.write(values, to),
                What::AnyOf(filter, user, dns) => filter.write_for_any(user, dns, to),
            }
            to.nest(ber::SEQUENCE, |to| {
                for attribute in search.attributes {
                    to.element(ber::OCTET_STRING, attribute.as_bytes());
                }
            });
        });
        Operation {
            name: search.name,
            request: writer.into_bytes(),
            done: SEARCH_DONE,
            entries_max: usize::try_from(search.entries_max).unwrap_or(usize::MAX),
        }
    }

    /// StartTLS (section 4.14).
    pub(super) fn start_tls() -> Operation {
        let mut writer = Writer::default();
        writer.nest(EXTENDED_REQUEST, |to| to.element(0x80, b"1.3.6.1.4.1.1466.20037"));
        Operation { name: "StartTLS", request: writer.into_bytes(), done: EXTENDED_RESPONSE, entries_max: 0 }
    }

    /// The whole message with that id (section 4.1.1).
    pub(super) fn message(&self, id: u32) -> Zeroizing<Vec<u8>> {
        let mut number = Writer::default();
        number.number(ber::INTEGER, id);
        let number = number.into_bytes();
        let mut content = Zeroizing::new(Vec::with_capacity(number.len() + self.request.len()));
        content.extend_from_slice(&number);
        content.extend_from_slice(&self.request);
        let mut writer = Writer::with_capacity(content.len() + 8);
        writer.element(ber::SEQUENCE, &content);
        writer.into_bytes()
    }

    /// Reads one message as a part of this operation's answer.
    pub(super) fn read(&self, id: u32, message: &[u8]) -> Result<Part, NotBer> {
        let mut outer = Reader::new(message);
        let mut reader = Reader::new(outer.take(ber::SEQUENCE, "no LDAP message")?);
        let found = reader.number(ber::INTEGER, "no message id")?;
        let (tag, content) = reader.any()?;
        // Controls may follow. None was asked for, so none is looked at.
        if found == 0 {
            // Section 4.4: something that the server says unasked, the notice of disconnection above all.
            return Ok(Part::Unasked);
        }
        if found != id {
            return Err(NotBer("an answer to something that was not asked"));
        }
        match tag {
            SEARCH_ENTRY if self.done == SEARCH_DONE => Ok(Part::Entry(Entry::read(content)?)),
            // Section 4.5.3: "look there too". Referrals are not followed: they would take a password, or the word of
            // another server, along a way that nobody configured.
            SEARCH_REFERENCE if self.done == SEARCH_DONE => Ok(Part::Reference),
            tag if tag == self.done => Ok(Part::Done(Outcome::read(content)?)),
            _ => Err(NotBer("an answer of another kind than what was asked")),
        }
    }
}

/// The message that says goodbye (section 4.3).
pub(super) fn unbind(id: u32) -> Zeroizing<Vec<u8>> {
    Operation { name: "unbind", request: Zeroizing::new(vec![0x42, 0]), done: 0, entries_max: 0 }.message(id)
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Entry(Entry),
    Reference,
    Done(Outcome),
    Unasked,
}

/// LDAPResult (section 4.1.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) code: u32,
    /// The server's own words, for a log: one line of at most 200 characters.
    pub(super) message: String,
}

impl Outcome {
    fn read(content: &[u8]) -> Result<Outcome, NotBer> {
        let mut reader = Reader::new(content);
        let code = reader.number(ber::ENUMERATED, "no result code")?;
        reader.take(ber::OCTET_STRING, "no matched DN")?;
        let message = String::from_utf8_lossy(reader.take(ber::OCTET_STRING, "no diagnostic message")?);
        let shown = message.chars().take(200).flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        });
        Ok(Outcome { code, message: shown.collect() })
    }
}

/// An entry of a search's answer (section 4.5.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dn: String,
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    fn read(content: &[u8]) -> Result<Entry, NotBer> {
        let mut reader = Reader::new(content);
        let dn = reader.text("no DN")?.to_owned();
        let mut list = Reader::new(reader.take(ber::SEQUENCE, "no attributes")?);
        let mut attributes = Vec::new();
        while !list.is_empty() {
            let mut attribute = Reader::new(list.take(ber::SEQUENCE, "no attribute")?);
            let name = attribute.text("no attribute's name")?.to_owned();
            let mut set = Reader::new(attribute.take(ber::SET, "no values")?);
            let mut values = Vec::new();
            while set.peek().is_some() {
                values.push(set.take(ber::OCTET_STRING, "no value")?.to_vec());
            }
            attributes.push((name, values));
        }
        Ok(Entry { dn, attributes })
    }

    /// The values of an attribute that are text; the case of its name does not count (RFC 4512, section 2.5).
    pub(super) fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.attributes
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .flat_map(|(_, values)| values)
            .filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the server gave a part of the attribute's values only, as `member;range=0-1499`.
    pub(super) fn is_ranged(&self, name: &str) -> bool {
        self.attributes.iter().any(|(known, _)| {
            let option = known
                .get(name.len()..)
                .filter(|_| known.as_bytes().iter().zip(name.as_bytes()).all(|(a, b)| a.eq_ignore_ascii_case(b)));
            option.is_some_and(|option| option.to_ascii_lowercase().starts_with(";range="))
        })
    }
}

/// Tags of the operations, sections 4.2 to 4.12.
const BIND_REQUEST: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH_REQUEST: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED_REQUEST: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;
const SIMPLE: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message made of its parts, by hand.
    fn message(id: u8, tag: u8, content: &[u8]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.nest(ber::SEQUENCE, |to| {
            to.number(ber::INTEGER, u32::from(id));
            to.element(tag, content);
        });
        writer.into_bytes().to_vec()
    }

    fn any_search() -> Operation {
        Operation::search(&Search {
            name: "search",
            base: "dc=x",
            scope: Scope::Subtree,
            what: What::Itself,
            attributes: &["cn"],
            entries_max: 2,
            seconds_max: 3,
        })
    }

    #[test]
    fn requests_go_out_as_rfc_4511_has_them() {
        let bind = Operation::bind("dc=x", &Secret::new("pw")).unwrap();
        assert_eq!(bind.message(1)[..], b"\x30\x12\x02\x01\x01\x60\x0d\x02\x01\x03\x04\x04dc=x\x80\x02pw"[..]);
        let search = b"\x30\x2d\x02\x01\x02\x63\x28\x04\x04dc=x\x0a\x01\x02\x0a\x01\x00\x02\x01\x02\x02\x01\x03\x01\x01\x00\x87\x0bobjectClass\x30\x04\x04\x02cn";
        assert_eq!(any_search().message(2)[..], search[..]);
        let tls = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
        assert_eq!(Operation::start_tls().message(1)[..], tls[..]);
        assert_eq!(unbind(5)[..], b"\x30\x05\x02\x01\x05\x42\x00"[..]);
    }

    #[test]
    fn there_is_no_bind_that_anybody_passes() {
        assert!(Operation::bind("dc=x", &Secret::new("")).is_none());
        assert!(Operation::bind("", &Secret::new("pw")).is_none());
    }

    #[test]
    fn answers_are_read_or_refused() {
        let entry = b"\x04\x04dc=x\x30\x0a\x30\x08\x04\x02CN\x31\x02\x04\x00";
        let Part::Entry(read) = any_search().read(7, &message(7, SEARCH_ENTRY, entry)).unwrap() else { panic!() };
        assert_eq!((read.dn.as_str(), read.texts("cn").collect::<Vec<_>>()), ("dc=x", vec![""]));

        let done = |code, text: &[u8]| [&[10, 1, code, 4, 0, 4, text.len() as u8], text].concat();
        let Part::Done(outcome) = any_search().read(7, &message(7, SEARCH_DONE, &done(4, b"a\nb"))).unwrap() else {
            panic!()
        };
        assert_eq!(outcome, Outcome { code: 4, message: "a\\nb".to_owned() });
        assert_eq!(any_search().read(7, &message(7, SEARCH_REFERENCE, b"\x04\x01x")), Ok(Part::Reference));
        assert_eq!(any_search().read(7, &message(0, EXTENDED_RESPONSE, b"")), Ok(Part::Unasked));

        let bind = Operation::bind("dc=x", &Secret::new("pw")).unwrap();
        for (operation, bytes, what) in [
            (&bind, message(8, BIND_RESPONSE, &done(0, b"")), "another id"),
            (&bind, message(7, SEARCH_DONE, &done(0, b"")), "another kind"),
            (&bind, message(7, SEARCH_ENTRY, entry), "an entry for a bind"),
            (&bind, message(7, BIND_RESPONSE, b""), "no result"),
            (&bind, message(7, BIND_RESPONSE, b"\x0a\x01\xff\x04\x00\x04\x00"), "a negative result"),
            (&bind, message(7, BIND_RESPONSE, b"\x02\x01\x00\x04\x00\x04\x00"), "an integer for a result"),
            (&bind, b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "HTTP"),
            (&bind, vec![0x30, 0], "an empty message"),
        ] {
            assert!(operation.read(7, &bytes).is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag: u8) {
            let _ = any_search().read(7, &bytes);
            let _ = any_search().read(7, &message(7, tag, &bytes));
            let _ = ber::header(&bytes);
        }
    }
}
