//! What a provider writes about groups -> names.
//!
//! Providers write an array, one string with one name, an array inside a string, or one string with several names.
//! Which name a value stands for is the issuer's config to say: taking the first part of a distinguished name makes one
//! of `cn=ops,ou=people` and `cn=ops,ou=guests`, and splitting a string makes an `Admins` of `Former Admins`, so neither
//! is ever done unasked.

use std::borrow::Cow;

use serde_json::Value;

use super::json;
use super::settings::{GroupForm, GroupSeparator};

/// The names that `value` holds; `None` where it is neither text nor a list of texts. `null` is no names.
///
/// Text is one array in JSON, or else one name, unless the config says what stands between several. `under` is the
/// member that a `*` in the path stood for; it goes before the name with a colon, so that a role of one client is no role
/// of another.
pub(crate) fn read<'a>(
    value: &'a Value,
    under: Option<&str>,
    form: GroupForm,
    separator: GroupSeparator,
) -> Option<Vec<Cow<'a, str>>> {
    let written: Vec<Cow<'a, str>> = match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(Cow::from)).collect::<Option<_>>()?,
        Value::String(text) => several(text, form, separator),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    let qualified = |name: Cow<'a, str>| match under {
        Some(under) => Cow::Owned(format!("{under}:{name}")),
        None => name,
    };
    Some(written.into_iter().map(|name| qualified(shaped(name, form))).filter(|name| !name.is_empty()).collect())
}

fn several(text: &str, form: GroupForm, separator: GroupSeparator) -> Vec<Cow<'_, str>> {
    if text.starts_with('[')
        && let Some(items) = json::strings(text.as_bytes())
    {
        return items.into_iter().map(Cow::Owned).collect();
    }
    // A distinguished name has commas of its own.
    if form == GroupForm::CommonName && common_name(text).is_some() {
        return vec![Cow::Borrowed(text)];
    }
    let separator = match separator {
        GroupSeparator::None => return vec![Cow::Borrowed(text)],
        GroupSeparator::Comma => ',',
        GroupSeparator::Space => ' ',
    };
    text.split(separator).map(str::trim).filter(|name| !name.is_empty()).map(Cow::Borrowed).collect()
}

/// The name that the issuer's config wants to see.
pub(crate) fn shaped(name: Cow<'_, str>, form: GroupForm) -> Cow<'_, str> {
    match form {
        GroupForm::AsWritten => name,
        GroupForm::CommonName => match common_name(&name) {
            Some(common) => Cow::Owned(common),
            None => name,
        },
        GroupForm::LastSegment => match name.rfind('/') {
            Some(slash) => Cow::Owned(name[slash + 1..].to_owned()),
            None => name,
        },
    }
}

/// The common name of an entry by its distinguished name (RFC 4514): the value of `CN` in the first relative name;
/// `None` where the text is no distinguished name or its entry has no common name.
fn common_name(text: &str) -> Option<String> {
    let mut found = None;
    let mut rest = text;
    let mut first = true;
    // The whole is read, so that `cn=a` in the middle of any text is not taken for a name.
    loop {
        let (kind, after) = rest.split_once('=')?;
        let kind = kind.trim();
        let is_type = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        let (value, separator, after) = attribute_value(after)?;
        if !is_type {
            return None;
        }
        if first && found.is_none() && (kind.eq_ignore_ascii_case("cn") || kind == "2.5.4.3") {
            found = Some(value);
        }
        match separator {
            None => return found,
            Some(',') => first = false,
            Some(_) => {}
        }
        rest = after;
    }
}

/// One attribute value without its escapes (RFC 4514, section 2.4), the separator behind it (`,` or `+`), and the rest.
fn attribute_value(text: &str) -> Option<(String, Option<char>, &str)> {
    let mut value: Vec<u8> = Vec::new();
    // How much of `value` is meant: blanks at the end that were not escaped are not.
    let mut meant = 0;
    let text = text.trim_start_matches(' ');
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ',' | '+' => {
                value.truncate(meant);
                return Some((String::from_utf8(value).ok()?, Some(c), &text[at + 1..]));
            }
            '\\' => {
                let (_, escaped) = chars.next()?;
                match escaped.to_digit(16) {
                    Some(high) => {
                        let low = chars.next()?.1.to_digit(16)?;
                        value.push(u8::try_from(high * 16 + low).ok()?);
                    }
                    None => value.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes()),
                }
                meant = value.len();
            }
            // Section 3: these stand escaped, or not at all.
            '"' | ';' | '<' | '>' | '\0' => return None,
            ' ' => value.push(b' '),
            c => {
                value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                meant = value.len();
            }
        }
    }
    value.truncate(meant);
    Some((String::from_utf8(value).ok()?, None, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_shape_gives_its_names() {
        use GroupForm::{AsWritten, CommonName, LastSegment};
        use GroupSeparator::{Comma, None as One, Space};
        for (value, form, separator, expected) in [
            (json!(["a", "b c", "d,e", "f\"g"]), AsWritten, One, Some(vec!["a", "b c", "d,e", "f\"g"])),
            (json!(["a", "b c", "d,e"]), AsWritten, Comma, Some(vec!["a", "b c", "d,e"])),
            (json!("a"), AsWritten, One, Some(vec!["a"])),
            (json!("Former Admins"), AsWritten, One, Some(vec!["Former Admins"])),
            (json!("a,b c, d"), AsWritten, One, Some(vec!["a,b c, d"])),
            (json!("a b  c"), AsWritten, Space, Some(vec!["a", "b", "c"])),
            (json!("a,b c"), AsWritten, Space, Some(vec!["a,b", "c"])),
            (json!("a,b c, d,"), AsWritten, Comma, Some(vec!["a", "b c", "d"])),
            (json!("a b"), AsWritten, Comma, Some(vec!["a b"])),
            (json!("[\"a\", \"b,c\"]"), AsWritten, One, Some(vec!["a", "b,c"])),
            (json!("[\"a\", \"b,c\"]"), AsWritten, Comma, Some(vec!["a", "b,c"])),
            (json!("[a b"), AsWritten, One, Some(vec!["[a b"])),
            (json!("[a b"), AsWritten, Space, Some(vec!["[a", "b"])),
            (json!(""), AsWritten, One, Some(vec![])),
            (json!(null), AsWritten, One, Some(vec![])),
            (json!([]), AsWritten, One, Some(vec![])),
            (json!([""]), AsWritten, One, Some(vec![])),
            (json!(["/full/path", "/x"]), AsWritten, One, Some(vec!["/full/path", "/x"])),
            (json!(["/full/path", "x", "/y/"]), LastSegment, One, Some(vec!["path", "x"])),
            (json!("/a/b c"), LastSegment, One, Some(vec!["b c"])),
            (json!(["cn=ops,ou=g"]), AsWritten, One, Some(vec!["cn=ops,ou=g"])),
            (json!("CN=ops,OU=g,DC=acme"), CommonName, One, Some(vec!["ops"])),
            (json!("CN=ops,OU=g,DC=acme"), CommonName, Comma, Some(vec!["ops"])),
            (json!(["CN=a b,OU=g", "plain", "ou=g,cn=x"]), CommonName, One, Some(vec!["a b", "plain", "ou=g,cn=x"])),
            (json!("a,b"), CommonName, Comma, Some(vec!["a", "b"])),
            (json!(1), AsWritten, One, None),
            (json!({"a": 1}), AsWritten, One, None),
            (json!(["a", 1]), AsWritten, One, None),
            (json!([["a"]]), AsWritten, One, None),
        ] {
            let names = read(&value, None, form, separator);
            let names = names.as_ref().map(|names| names.iter().map(|name| &**name).collect::<Vec<_>>());
            assert_eq!(names, expected, "{value} {form:?} {separator:?}");
        }
        assert_eq!(read(&json!(["admin"]), Some("web"), AsWritten, One), Some(vec!["web:admin".into()]));
    }

    #[test]
    fn a_distinguished_name_gives_its_common_name() {
        for (text, expected) in [
            ("cn=ops,ou=groups,dc=acme,dc=example", Some("ops")),
            ("CN=Ops Team, OU=Groups", Some("Ops Team")),
            ("CN=a\\,b\\+c\\\"d,OU=x", Some("a,b+c\"d")),
            ("cn=Jos\\C3\\A9,ou=x", Some("Jos\u{e9}")),
            ("cn=\\ a\\ ,ou=x", Some(" a ")),
            ("cn=a  ,ou=x", Some("a")),
            ("uid=7+cn=ops,ou=x", Some("ops")),
            ("2.5.4.3=ops,ou=x", Some("ops")),
            ("cn=ops", Some("ops")),
            ("ou=groups,cn=ops", None),
            ("ops", None),
            ("ops,cn=x", None),
            ("cn=ops,", None),
            ("cn=ops,ou", None),
            ("cn=a\\", None),
            ("cn=a\\4", None),
            ("cn=\\ff,ou=x", None),
            ("cn=a;b,ou=x", None),
            ("=x", None),
        ] {
            assert_eq!(common_name(text).as_deref(), expected, "{text}");
        }
    }
}
