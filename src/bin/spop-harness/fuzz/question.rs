//! What is asked: the message and the arguments that the agent knows.

use std::net::IpAddr;
use std::str::FromStr;

use bytes::BytesMut;
use tollgate::spop::TypedData;
use tollgate::spop::notify::encode_message;

/// A message of one NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub message: String,
    pub arguments: Vec<Argument>,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub value: Value,
    /// As it was typed, for the line that replays.
    text: String,
}

/// A value that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Address(IpAddr),
    Text(Vec<u8>),
}

impl Question {
    /// What HAProxy asks with the configuration that ships, unless told otherwise.
    pub fn new(message: &str, arguments: &[Argument]) -> Question {
        let usual =
            ["method=GET", "host=localhost", "path=/", "src=ip:192.0.2.1", "ssl=bool:true", "authorization=null"];
        let arguments = match arguments {
            [] => usual.iter().filter_map(|text| text.parse().ok()).collect(),
            given => given.to_vec(),
        };
        Question { message: message.to_owned(), arguments }
    }

    /// The payload of a NOTIFY that asks it.
    pub fn payload(&self) -> Vec<u8> {
        let arguments: Vec<_> =
            self.arguments.iter().map(|argument| (argument.name.as_str(), argument.value.typed())).collect();
        let mut out = BytesMut::new();
        encode_message(&self.message, &arguments, &mut out);
        out.to_vec()
    }

    /// The flags that ask it again.
    pub fn flags(&self) -> String {
        let mut out = format!("--message {}", quoted(&self.message));
        for argument in &self.arguments {
            out.push_str(&format!(" --arg {}", quoted(&argument.text)));
        }
        out
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@,+%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl Value {
    pub fn typed(&self) -> TypedData<'_> {
        match self {
            Value::Null => TypedData::Null,
            Value::Bool(value) => TypedData::Bool(*value),
            Value::Integer(value) => TypedData::Int64(*value),
            Value::Address(IpAddr::V4(address)) => TypedData::Ipv4(*address),
            Value::Address(IpAddr::V6(address)) => TypedData::Ipv6(*address),
            Value::Text(bytes) => TypedData::Str(bytes),
        }
    }
}

impl FromStr for Argument {
    type Err = String;

    /// `NAME=TEXT`, or `NAME=TYPE:VALUE` with `int`, `bool`, `ip` or `str`, or `NAME=null`.
    fn from_str(text: &str) -> Result<Argument, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: expected NAME=VALUE"))?;
        let wrong = |what: &str| format!("`{text}`: expected {what}");
        let value = match value.split_once(':') {
            Some(("int", number)) => Value::Integer(number.parse().map_err(|_| wrong("an integer of 64 bits"))?),
            Some(("bool", truth)) => Value::Bool(truth.parse().map_err(|_| wrong("true or false"))?),
            Some(("ip", address)) => Value::Address(address.parse().map_err(|_| wrong("an IP address"))?),
            Some(("str", rest)) => Value::Text(rest.as_bytes().to_vec()),
            _ if value == "null" => Value::Null,
            _ => Value::Text(value.as_bytes().to_vec()),
        };
        Ok(Argument { name: name.to_owned(), value, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_has_a_type_and_comes_back_as_a_flag() {
        for (text, value) in [
            ("path=/a b", Some(Value::Text(b"/a b".to_vec()))),
            ("path=str:int:1", Some(Value::Text(b"int:1".to_vec()))),
            ("n=int:-1", Some(Value::Integer(-1))),
            ("ssl=bool:true", Some(Value::Bool(true))),
            ("src=ip:::1", Some(Value::Address("::1".parse().unwrap()))),
            ("x=null", Some(Value::Null)),
            ("x", None),
            ("x=int:a", None),
        ] {
            assert_eq!(text.parse::<Argument>().ok().map(|argument| argument.value), value, "{text}");
        }
        let question = Question::new("check", &["path=/it's".parse().unwrap()]);
        assert_eq!(question.flags(), r"--message check --arg 'path=/it'\''s'");
    }
}
