//! Search filters as an operator writes them (RFC 4515), with places for what is asked about.
//!
//! A filter is read once, when the config is, into a tree. A user's name is put into the tree as the octets of a value,
//! and the tree goes out as BER: there is no text of a filter with a stranger's name in it, so nothing to escape and
//! nothing to forget.

use std::fmt;

use super::ber::{self, Writer};

/// A filter with places for `{user}` and `{dn}`. `Display` gives it as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTemplate {
    text: String,
    root: Node,
}

/// What goes into the places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) user: &'a str,
    pub(super) dn: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    /// `=`, `>=`, `<=`, `~=`, by their tags.
    Compare(u8, String, Value),
    Present(String),
    Substrings {
        attribute: String,
        initial: Option<Value>,
        any: Vec<Value>,
        last: Option<Value>,
    },
    Extensible {
        attribute: Option<String>,
        rule: Option<String>,
        value: Value,
        of_dn: bool,
    },
}

/// An assertion value: octets and places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Value(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Octets(Vec<u8>),
    User,
    Dn,
}

/// Why a text is no filter. The message says what was expected where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at character {}", at + 1)]
pub struct FilterError {
    what: &'static str,
    at: usize,
}

impl FilterTemplate {
    /// Reads `(&(objectClass=person)(uid={user}))`. At most 4 KiB, nested at most 16 deep.
    pub fn parse(text: &str) -> Result<FilterTemplate, FilterError> {
        let mut parser = Parser { bytes: text.as_bytes(), at: 0 };
        if text.len() > TEXT_BYTES_MAX {
            return Err(parser.wrong("a filter of more than 4 KiB"));
        }
        let root = parser.filter(DEPTH_MAX)?;
        if parser.at < text.len() {
            return Err(parser.wrong("something after the filter's end"));
        }
        Ok(FilterTemplate { text: text.to_owned(), root })
    }

    /// Whether it has a place for the user's name.
    pub fn names_user(&self) -> bool {
        self.root.names(&Piece::User)
    }

    /// Whether it has a place for a DN.
    pub fn names_dn(&self) -> bool {
        self.root.names(&Piece::Dn)
    }

    /// The attributes that are compared with the user's name, and with what each must be equal for that name.
    pub(super) fn spellings(&self, user: &str) -> Vec<(&str, Vec<u8>)> {
        let mut found = Vec::new();
        self.root.spellings(Values { user, dn: "" }, &mut found);
        found
    }

    /// Writes the filter with these values in its places.
    pub(super) fn write(&self, values: Values<'_>, to: &mut Writer) {
        self.root.write(values, to);
    }

    /// Writes "this filter for any of these DNs".
    pub(super) fn write_for_any(&self, user: &str, dns: &[String], to: &mut Writer) {
        to.nest(OR, |to| {
            for dn in dns {
                self.root.write(Values { user, dn }, to);
            }
        });
    }
}

impl fmt::Display for FilterTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Node {
    fn names(&self, piece: &Piece) -> bool {
        let in_value = |value: &Value| value.0.contains(piece);
        match self {
            Node::And(nodes) | Node::Or(nodes) => nodes.iter().any(|node| node.names(piece)),
            Node::Not(node) => node.names(piece),
            Node::Compare(_, _, value) | Node::Extensible { value, .. } => in_value(value),
            Node::Present(_) => false,
            Node::Substrings { initial, any, last, .. } => initial.iter().chain(any).chain(last).any(in_value),
        }
    }

    /// Parts of values, and what must not be, say nothing about who an entry is.
    fn spellings<'a>(&'a self, values: Values<'_>, found: &mut Vec<(&'a str, Vec<u8>)>) {
        match self {
            Node::And(nodes) | Node::Or(nodes) => nodes.iter().for_each(|node| node.spellings(values, found)),
            Node::Compare(EQUAL, attribute, value) | Node::Extensible { attribute: Some(attribute), value, .. }
                if value.0.contains(&Piece::User) =>
            {
                found.push((attribute, value.octets(values)));
            }
            Node::Compare(..) | Node::Extensible { .. } => {}
            Node::Not(_) | Node::Present(_) | Node::Substrings { .. } => {}
        }
    }

    fn write(&self, values: Values<'_>, to: &mut Writer) {
        match self {
            Node::And(nodes) => to.nest(AND, |to| nodes.iter().for_each(|node| node.write(values, to))),
            Node::Or(nodes) => to.nest(OR, |to| nodes.iter().for_each(|node| node.write(values, to))),
            Node::Not(node) => to.nest(NOT, |to| node.write(values, to)),
            Node::Compare(tag, attribute, value) => to.nest(*tag, |to| {
                to.element(ber::OCTET_STRING, attribute.as_bytes());
                to.element(ber::OCTET_STRING, &value.octets(values));
            }),
            Node::Present(attribute) => to.element(PRESENT, attribute.as_bytes()),
            Node::Substrings { attribute, initial, any, last } => to.nest(SUBSTRINGS, |to| {
                to.element(ber::OCTET_STRING, attribute.as_bytes());
                to.nest(ber::SEQUENCE, |to| {
                    for (tag, value) in initial
                        .iter()
                        .map(|v| (0x80, v))
                        .chain(any.iter().map(|v| (0x81, v)))
                        .chain(last.iter().map(|v| (0x82, v)))
                    {
                        to.element(tag, &value.octets(values));
                    }
                });
            }),
            Node::Extensible { attribute, rule, value, of_dn } => to.nest(EXTENSIBLE, |to| {
                if let Some(rule) = rule {
                    to.element(0x81, rule.as_bytes());
                }
                if let Some(attribute) = attribute {
                    to.element(0x82, attribute.as_bytes());
                }
                to.element(0x83, &value.octets(values));
                if *of_dn {
                    to.boolean(0x84, true);
                }
            }),
        }
    }
}

impl Value {
    fn octets(&self, values: Values<'_>) -> Vec<u8> {
        let mut octets = Vec::new();
        for piece in &self.0 {
            octets.extend_from_slice(match piece {
                Piece::Octets(octets) => octets,
                Piece::User => values.user.as_bytes(),
                Piece::Dn => values.dn.as_bytes(),
            });
        }
        octets
    }

    fn push(&mut self, octet: u8) {
        match self.0.last_mut() {
            Some(Piece::Octets(octets)) => octets.push(octet),
            _ => self.0.push(Piece::Octets(vec![octet])),
        }
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn wrong(&self, what: &'static str) -> FilterError {
        FilterError { what, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn starts_with(&self, text: &[u8]) -> bool {
        self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(text))
    }

    fn skip(&mut self, byte: u8, what: &'static str) -> Result<(), FilterError> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(what));
        }
        self.at += 1;
        Ok(())
    }

    fn filter(&mut self, depth: usize) -> Result<Node, FilterError> {
        let Some(depth) = depth.checked_sub(1) else { return Err(self.wrong("a filter nested more than 16 deep")) };
        self.skip(b'(', "no `(`")?;
        let node = match self.peek() {
            Some(b'&') => Node::And(self.list(depth)?),
            Some(b'|') => Node::Or(self.list(depth)?),
            Some(b'!') => {
                self.at += 1;
                Node::Not(Box::new(self.filter(depth)?))
            }
            _ => self.item()?,
        };
        self.skip(b')', "no `)`")?;
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, FilterError> {
        self.at += 1;
        let mut nodes = Vec::new();
        while self.peek() == Some(b'(') {
            nodes.push(self.filter(depth)?);
        }
        // RFC 4526 gives empty lists a meaning (true and false), which no filter for people needs.
        if nodes.is_empty() { Err(self.wrong("no filter")) } else { Ok(nodes) }
    }

    fn item(&mut self) -> Result<Node, FilterError> {
        let attribute = self.description();
        let (tag, operator) = match (self.peek(), self.bytes.get(self.at + 1)) {
            (Some(b'='), _) => (EQUAL, 1),
            (Some(b'>'), Some(b'=')) => (AT_LEAST, 2),
            (Some(b'<'), Some(b'=')) => (AT_MOST, 2),
            (Some(b'~'), Some(b'=')) => (APPROXIMATELY, 2),
            (Some(b':'), _) => return self.extensible(attribute),
            _ => return Err(self.wrong("no `=`, and no character of an attribute's name")),
        };
        if attribute.is_empty() {
            return Err(self.wrong("no attribute's name"));
        }
        self.at += operator;
        if tag != EQUAL {
            return Ok(Node::Compare(tag, attribute, self.value()?));
        }
        let mut values = vec![self.value()?];
        while self.peek() == Some(b'*') {
            self.at += 1;
            values.push(self.value()?);
        }
        let stated = |value: Value| Some(value).filter(|value| !value.0.is_empty());
        let last = values.pop().unwrap_or_default();
        if values.is_empty() {
            return Ok(Node::Compare(tag, attribute, last));
        }
        let (initial, last) = (stated(values.remove(0)), stated(last));
        if initial.is_none() && last.is_none() && values.is_empty() {
            return Ok(Node::Present(attribute));
        }
        let any: Vec<Value> = values.into_iter().filter_map(stated).collect();
        if initial.is_none() && last.is_none() && any.is_empty() {
            return Err(self.wrong("asterisks with nothing between them"));
        }
        Ok(Node::Substrings { attribute, initial, any, last })
    }

    /// `attr:dn:rule:=value`, any of the three left out, but one of attribute and rule.
    fn extensible(&mut self, attribute: String) -> Result<Node, FilterError> {
        let of_dn = self.bytes.get(self.at..self.at + 4).is_some_and(|text| text.eq_ignore_ascii_case(b":dn:"));
        if of_dn {
            self.at += 3;
        }
        let rule = if self.starts_with(b":=") {
            None
        } else {
            self.skip(b':', "no `:=`")?;
            Some(self.description()).filter(|rule| !rule.is_empty())
        };
        if !self.starts_with(b":=") {
            return Err(self.wrong("no `:=`"));
        }
        self.at += 2;
        let attribute = Some(attribute).filter(|name| !name.is_empty());
        if attribute.is_none() && rule.is_none() {
            return Err(self.wrong("neither an attribute nor a matching rule"));
        }
        Ok(Node::Extensible { attribute, rule, value: self.value()?, of_dn })
    }

    /// An attribute description or an OID (RFC 4512, sections 1.4 and 2.5), as far as its characters go.
    fn description(&mut self) -> String {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b';')));
        let name = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        self.at += name.len();
        name.iter().map(|b| char::from(*b)).collect()
    }

    /// Up to `)` or `*`.
    fn value(&mut self) -> Result<Value, FilterError> {
        let mut value = Value::default();
        loop {
            match self.peek() {
                None => return Err(self.wrong("no `)`")),
                Some(b')' | b'*') => return Ok(value),
                Some(b'(') => return Err(self.wrong("a `(` in a value, which is written `\\28`")),
                Some(0) => return Err(self.wrong("a NUL in a value, which is written `\\00`")),
                Some(b'\\') => {
                    let digits = self.bytes.get(self.at + 1..self.at + 3).and_then(|two| std::str::from_utf8(two).ok());
                    let octet = digits
                        .filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
                        .and_then(|two| u8::from_str_radix(two, 16).ok())
                        .ok_or_else(|| self.wrong("a `\\` without two hexadecimal digits"))?;
                    value.push(octet);
                    self.at += 3;
                }
                Some(b'{') if self.starts_with(b"{user}") => {
                    value.0.push(Piece::User);
                    self.at += 6;
                }
                Some(b'{') if self.starts_with(b"{dn}") => {
                    value.0.push(Piece::Dn);
                    self.at += 4;
                }
                Some(b'{') => return Err(self.wrong("neither `{user}` nor `{dn}` (a brace itself is written `\\7b`)")),
                Some(octet) => {
                    value.push(octet);
                    self.at += 1;
                }
            }
        }
    }
}

/// Tags of RFC 4511, section 4.5.1.7.
const AND: u8 = 0xa0;
const OR: u8 = 0xa1;
const NOT: u8 = 0xa2;
const EQUAL: u8 = 0xa3;
const SUBSTRINGS: u8 = 0xa4;
const AT_LEAST: u8 = 0xa5;
const AT_MOST: u8 = 0xa6;
const PRESENT: u8 = 0x87;
const APPROXIMATELY: u8 = 0xa8;
const EXTENSIBLE: u8 = 0xa9;

/// The reader recurses as deep as the filter; a real one has three levels.
const DEPTH_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, user: &str, dn: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        FilterTemplate::parse(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .write(Values { user, dn }, &mut writer);
        writer.into_bytes().to_vec()
    }

    #[test]
    fn filters_go_out_as_rfc_4511_has_them() {
        let check = |text: &str, expected: &[u8]| assert_eq!(written(text, "ann", "dc=x"), expected, "{text}");
        check("(uid={user})", b"\xa3\x0a\x04\x03uid\x04\x03ann");
        check("(m={dn})", b"\xa3\x09\x04\x01m\x04\x04dc=x");
        check("(m={user}@x)", b"\xa3\x0a\x04\x01m\x04\x05ann@x");
        check("(a=)", b"\xa3\x05\x04\x01a\x04\x00");
        check("(a=*)", b"\x87\x01a");
        check("(a=x*)", b"\xa4\x08\x04\x01a\x30\x03\x80\x01x");
        check("(a=*x*y*)", b"\xa4\x0b\x04\x01a\x30\x06\x81\x01x\x81\x01y");
        check("(a=x*y*z)", b"\xa4\x0e\x04\x01a\x30\x09\x80\x01x\x81\x01y\x82\x01z");
        check("(a>=1)", b"\xa5\x06\x04\x01a\x04\x011");
        check("(a<=1)", b"\xa6\x06\x04\x01a\x04\x011");
        check("(a~=1)", b"\xa8\x06\x04\x01a\x04\x011");
        check("(!(a=1))", b"\xa2\x08\xa3\x06\x04\x01a\x04\x011");
        check("(&(a=1)(|(b=*)))", b"\xa0\x0d\xa3\x06\x04\x01a\x04\x011\xa1\x03\x87\x01b");
        check("(a=\\28\\2a\\29\\5c\\00\\c3\\a9)", b"\xa3\x0c\x04\x01a\x04\x07(*)\\\0\xc3\xa9");
        check("(m:1.2.3:={dn})", b"\xa9\x10\x81\x051.2.3\x82\x01m\x83\x04dc=x");
        check("(a:dn:=x)", b"\xa9\x09\x82\x01a\x83\x01x\x84\x01\xff");
        check("(:dn:2.4:=x)", b"\xa9\x0b\x81\x032.4\x83\x01x\x84\x01\xff");
    }

    #[test]
    fn a_name_is_a_value_whatever_it_holds() {
        for name in ["*", ")(uid=*", "a)(|(uid=*", "\\2a", "\0", "{dn}", "é", "a&b|c!d"] {
            let bytes = written("(uid={user})", name, "dc=x");
            assert_eq!(bytes[0], EQUAL, "{name:?} stays one comparison");
            assert!(bytes.ends_with(name.as_bytes()), "{name:?} goes out as it is");
            assert_eq!(bytes.len(), 2 + 5 + 2 + name.len(), "{name:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        for (text, expected) in [
            ("", "no `(` at character 1"),
            ("uid={user}", "no `(` at character 1"),
            ("(uid={user}", "no `)` at character 12"),
            ("(uid={user})x", "something after the filter's end at character 13"),
            ("(uid={User})", "neither `{user}` nor `{dn}` (a brace itself is written `\\7b`) at character 6"),
            ("(=x)", "no attribute's name at character 2"),
            ("(a b=x)", "no `=`, and no character of an attribute's name at character 3"),
            ("(a=**)", "asterisks with nothing between them at character 6"),
            ("(a=\\2)", "a `\\` without two hexadecimal digits at character 4"),
            ("(a=\\+1)", "a `\\` without two hexadecimal digits at character 4"),
            ("(a=(b))", "a `(` in a value, which is written `\\28` at character 4"),
            ("(&)", "no filter at character 3"),
            ("(:=x)", "neither an attribute nor a matching rule at character 4"),
            ("(a:b=x)", "no `:=` at character 5"),
        ] {
            assert_eq!(FilterTemplate::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        let deep = format!("{}(a=1){}", "(!".repeat(20), ")".repeat(20));
        assert!(FilterTemplate::parse(&deep).is_err());
        assert!(FilterTemplate::parse(&format!("(a={})", "x".repeat(5000))).is_err());
    }

    #[test]
    fn a_filter_says_what_it_has_places_for() {
        for (text, user, dn) in [
            ("(uid={user})", true, false),
            ("(&(a=1)(!(m:1.2:={dn})))", false, true),
            ("(|(a=x*{user})(b={dn}))", true, true),
            ("(a=\\7buser})", false, false),
        ] {
            let filter = FilterTemplate::parse(text).unwrap();
            assert_eq!((filter.names_user(), filter.names_dn()), (user, dn), "{text}");
            assert_eq!(filter.to_string(), text);
        }
    }
}
