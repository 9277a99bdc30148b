//! Distinguished names as text (RFC 4514): one made from a user's name, and the name inside one.

use std::fmt;

/// `uid={user},ou=people,dc=acme`: where a user's entry is, without a search. `Display` gives it as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnTemplate {
    before: String,
    after: String,
}

impl DnTemplate {
    /// Reads a template; `None` unless `{user}` stands in it exactly once, as a value (after a `=`).
    pub fn parse(text: &str) -> Option<DnTemplate> {
        let (before, after) = text.split_once("{user}")?;
        let is_value = before.ends_with('=') && (after.is_empty() || after.starts_with([',', '+']));
        let good = is_value && !after.contains("{user}") && text.len() <= DN_BYTES_MAX && !text.contains('\0');
        good.then(|| DnTemplate { before: before.to_owned(), after: after.to_owned() })
    }

    /// The DN of that user.
    pub(super) fn fill(&self, user: &str) -> String {
        format!("{}{}{}", self.before, escape(user), self.after)
    }
}

impl fmt::Display for DnTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{user}}{}", self.before, self.after)
    }
}

/// A value as it stands in a DN (RFC 4514, section 2.4).
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => escaped.extend(['\\', c]),
            '#' if index == 0 => escaped.push_str("\\#"),
            ' ' if index == 0 || index == last => escaped.push_str("\\ "),
            '\0' => escaped.push_str("\\00"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The value of the first part of a DN, unescaped: `a,b` of `cn=a\,b,ou=groups,dc=acme`. `None` where it is not such
/// text: a value in hexadecimal (`#0403…`), an escape cut off, octets that are not UTF-8.
pub(super) fn first_value(dn: &str) -> Option<String> {
    let (_, rest) = dn.split_once('=')?;
    let mut octets = Vec::new();
    // How much of `octets` stays when spaces around the value are dropped; an escaped space is no such space.
    let mut kept = 0;
    let mut bytes = rest.trim_start_matches(' ').bytes();
    if rest.trim_start_matches(' ').starts_with('#') {
        return None;
    }
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b'+' | b';' => break,
            b'\\' => {
                let first = bytes.next()?;
                if first.is_ascii_hexdigit() {
                    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                    octets.push(digit(first)? << 4 | digit(bytes.next()?)?);
                } else {
                    octets.push(first);
                }
                kept = octets.len();
            }
            b' ' => octets.push(b' '),
            byte => {
                octets.push(byte);
                kept = octets.len();
            }
        }
    }
    octets.truncate(kept);
    String::from_utf8(octets).ok().filter(|value| !value.is_empty())
}

/// A DN of people or groups has some hundred bytes; ten times that is nobody's.
pub(super) const DN_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_a_name_as_one_value() {
        let template = DnTemplate::parse("uid={user},ou=people,dc=acme").unwrap();
        for (user, expected) in [
            ("ann", "ann"),
            ("ann,ou=admins", "ann\\,ou\\=admins"),
            ("a+uid=b", "a\\+uid\\=b"),
            ("#04", "\\#04"),
            ("a#", "a#"),
            (" a b ", "\\ a b\\ "),
            (" ", "\\ "),
            ("a\\,b", "a\\\\\\,b"),
            ("\"<;>\"", "\\\"\\<\\;\\>\\\""),
            ("jürgen", "jürgen"),
            ("\0", "\\00"),
            ("{user}", "{user}"),
        ] {
            let dn = template.fill(user);
            assert_eq!(dn, format!("uid={expected},ou=people,dc=acme"));
            assert_eq!(first_value(&dn).as_deref(), Some(user), "{dn}");
        }
    }

    #[test]
    fn a_template_has_one_place_and_that_is_a_value() {
        for (text, good) in [
            ("uid={user},dc=x", true),
            ("uid={user}", true),
            ("cn=a+uid={user},dc=x", true),
            ("dc=x", false),
            ("{user},dc=x", false),
            ("uid={user},cn={user}", false),
            ("uid=x{user},dc=x", false),
            ("uid={user}x,dc=x", false),
        ] {
            let template = DnTemplate::parse(text);
            assert_eq!(template.is_some(), good, "{text}");
            if let Some(template) = template {
                assert_eq!(template.to_string(), text);
            }
        }
    }

    #[test]
    fn the_first_value_is_unescaped() {
        for (dn, expected) in [
            ("cn=ops,ou=groups", Some("ops")),
            ("CN=Ops\\, west,DC=acme", Some("Ops, west")),
            ("cn=a\\2cb", Some("a,b")),
            ("cn=J\\c3\\bcrgen,dc=x", Some("Jürgen")),
            ("cn= padded  ,dc=x", Some("padded")),
            ("cn=kept\\ ,dc=x", Some("kept ")),
            ("cn=a\\\"b\\\\c+uid=x", Some("a\"b\\c")),
            ("cn=a=b,dc=x", Some("a=b")),
            ("cn=#0403616263,dc=x", None),
            ("cn=a\\", None),
            ("cn=a\\4", None),
            ("cn=\\ff,dc=x", None),
            ("cn=,dc=x", None),
            ("ops", None),
            ("", None),
        ] {
            assert_eq!(first_value(dn).as_deref(), expected, "{dn}");
        }
    }
}
