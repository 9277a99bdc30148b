//! Strict reading of a JSON object that a stranger wrote.
//!
//! `serde_json` alone keeps the last of two members with the same name, where another reader of the same bytes keeps
//! the first; RFC 7515, section 4, and RFC 7519, section 4, let a verifier refuse both, and so does this.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one JSON object (RFC 8259). Refused are any other type, duplicate member names at any depth, nesting deeper
/// than 16, numbers beyond `f64`, and anything but white space after it.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth_left: DEPTH_MAX }.deserialize(&mut reader)?;
    reader.end()?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(serde_json::Error::custom("expected an object")),
    }
}

/// Reads one JSON array of strings; `None` for anything else.
pub(crate) fn strings(bytes: &[u8]) -> Option<Vec<String>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth_left: 1 }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Array(items) => {
            items.into_iter().map(|item| if let Value::String(text) = item { Some(text) } else { None }).collect()
        }
        _ => None,
    }
}

/// One value, `depth_left` arrays or objects deep at most.
#[derive(Clone, Copy)]
struct Strict {
    depth_left: u8,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Strict, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("nested deeper than 16"))?;
        Ok(Strict { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let element = self.deeper()?;
        let mut elements = Vec::new();
        while let Some(value) = seq.next_element_seed(element)? {
            elements.push(value);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let member = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            // The name is not repeated in the error: it is the stranger's text.
            if members.contains_key(&name) {
                return Err(A::Error::custom("a member name is used twice"));
            }
            let value = map.next_value_seed(member)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// No token or key set in use nests deeper than five; `serde_json` would follow 128 levels.
const DEPTH_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unambiguous_object_is_read() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let (deepest, deeper) = (nested(15), nested(16));
        for (text, good) in [
            (r#"{}"#, true),
            (r#" {"a":[1,-1,1.5,"x",null,true,{"b":{}}]} "#, true),
            (r#"{"a":1,"a":1}"#, false),
            (r#"{"a":1,"\u0061":1}"#, false),
            (r#"{"a":{"b":1,"b":2}}"#, false),
            (r#"{"a":[{"b":1,"b":2}]}"#, false),
            (r#"{"a":1}{}"#, false),
            (r#"{"a":1}x"#, false),
            (r#"{"a":1e400}"#, false),
            (r#"{"a":NaN}"#, false),
            (r#"{"a":"\ud800"}"#, false),
            (r#"{"a":1,}"#, false),
            (r#"[]"#, false),
            (r#""x""#, false),
            ("", false),
            (&deepest, true),
            (&deeper, false),
        ] {
            assert_eq!(object(text.as_bytes()).is_ok(), good, "{text}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
        assert!(object(b"\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let text = r#"{"a":[1,-1,1.5,"x\u00e9",null,true,{"b":{}}],"c":18446744073709551615}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), expected);
    }
}
