//! What an agent is asked: a message, and its arguments as they are typed on the command line. One grammar and one default
//! for every command that asks.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use bytes::BytesMut;
use clap::Args as ClapArgs;
use tollgate::spop::TypedData;
use tollgate::spop::notify::encode_message;

// A doc comment here would become the help of the commands that take these flags.
#[allow(missing_docs)]
#[derive(Clone, Debug, ClapArgs)]
pub struct Asked {
    /// The message's name, with only the arguments given; unless named, an ordinary `request`
    #[arg(long)]
    message: Option<String>,
    /// An argument: NAME=STRING, or NAME=TYPE:VALUE with str, bool, int, ipv4, ipv6, bin (hex) or null (no value).
    /// Without --message it replaces the one of its name
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    arguments: Vec<Argument>,
}

impl Asked {
    /// The question; an error where it has too many arguments.
    pub fn question(&self) -> Result<Question, String> {
        Question::new(self.message.as_deref(), &self.arguments)
    }
}

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
}

/// A value that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Str(Vec<u8>),
    Bin(Vec<u8>),
}

impl Question {
    /// The message `name` with these arguments. Without a name it is `request` as the shipped configuration of HAProxy
    /// sends it, in which an argument given replaces the one of its name.
    pub fn new(name: Option<&str>, given: &[Argument]) -> Result<Question, String> {
        let arguments = if name.is_none() { ordinary() } else { Vec::new() };
        let mut question = Question { message: name.unwrap_or("request").to_owned(), arguments };
        if name.is_none() {
            question.arguments.retain(|ordinary| !given.iter().any(|given| given.name == ordinary.name));
        }
        question.arguments.extend_from_slice(given);
        // One byte holds the count (SPOE.txt, section 3.2.6).
        if question.arguments.len() > ARGUMENTS_MAX {
            return Err(format!("{} arguments, expected at most {ARGUMENTS_MAX}", question.arguments.len()));
        }
        Ok(question)
    }

    /// The payload of a NOTIFY that asks it.
    pub fn payload(&self) -> Vec<u8> {
        let arguments: Vec<_> =
            self.arguments.iter().map(|argument| (argument.name.as_str(), argument.value.borrow())).collect();
        let mut out = BytesMut::new();
        encode_message(&self.message, &arguments, &mut out);
        out.to_vec()
    }

    /// The flags that ask it again.
    pub fn flags(&self) -> String {
        let mut out = format!("--message {}", quoted(&self.message));
        for argument in &self.arguments {
            out.push_str(&format!(" --arg {}", quoted(&argument.to_string())));
        }
        out
    }
}

/// What HAProxy sends with haproxy/spoe-tollgate.conf for a plain GET over TLS, the certificate's fields aside.
fn ordinary() -> Vec<Argument> {
    let string = |value: &str| Value::Str(value.as_bytes().to_vec());
    let arguments = [
        ("id", string("0a0b0c0d-1")),
        ("method", string("GET")),
        ("host", string("localhost")),
        ("path", string("/")),
        ("query", Value::Null),
        ("src", Value::Ipv4(Ipv4Addr::LOCALHOST)),
        ("src_port", Value::Int(40_000)),
        ("ssl", Value::Bool(true)),
        ("authorization", Value::Null),
        ("session", Value::Null),
        ("accept", string("*/*")),
    ];
    arguments.map(|(name, value)| Argument { name: name.to_owned(), value }).into()
}

impl Value {
    /// As it is encoded.
    pub fn borrow(&self) -> TypedData<'_> {
        match self {
            Value::Null => TypedData::Null,
            Value::Bool(value) => TypedData::Bool(*value),
            Value::Int(value) => TypedData::Int64(*value),
            Value::Ipv4(value) => TypedData::Ipv4(*value),
            Value::Ipv6(value) => TypedData::Ipv6(*value),
            Value::Str(bytes) => TypedData::Str(bytes),
            Value::Bin(bytes) => TypedData::Bin(bytes),
        }
    }
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Argument, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE or NAME=TYPE:VALUE")?;
        fn read<T: FromStr>(value: &str, expected: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("`{value}`: expected {expected}"))
        }
        let value = match value.split_once(':') {
            Some(("str", value)) => Value::Str(value.as_bytes().to_vec()),
            Some(("bool", value)) => Value::Bool(read(value, "true or false")?),
            Some(("int", value)) => Value::Int(read(value, "a whole number of 64 bits")?),
            Some(("ipv4", value)) => Value::Ipv4(read(value, "an IPv4 address")?),
            Some(("ipv6", value)) => Value::Ipv6(read(value, "an IPv6 address")?),
            Some(("bin", value)) => {
                Value::Bin(from_hex(value).ok_or(format!("`{value}`: expected hex, two digits a byte"))?)
            }
            Some(("null", "")) => Value::Null,
            Some(("null", value)) => return Err(format!("`{value}`: expected nothing behind `null:`")),
            // Anything else is a string as it stands: an URL, a time, a host with a port.
            _ => Value::Str(value.as_bytes().to_vec()),
        };
        Ok(Argument { name: name.to_owned(), value })
    }
}

impl fmt::Display for Argument {
    /// As it could be typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.name)?;
        match &self.value {
            Value::Null => f.write_str("null:"),
            Value::Bool(value) => write!(f, "bool:{value}"),
            Value::Int(value) => write!(f, "int:{value}"),
            Value::Ipv4(value) => write!(f, "ipv4:{value}"),
            Value::Ipv6(value) => write!(f, "ipv6:{value}"),
            Value::Str(bytes) => {
                // Arguments are read from text, so nothing is lost here.
                let text = String::from_utf8_lossy(bytes);
                let typed = text.split_once(':').is_some_and(|(kind, _)| TYPES.contains(&kind));
                write!(f, "{}{text}", if typed { "str:" } else { "" })
            }
            Value::Bin(bytes) => {
                f.write_str("bin:")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(high)? << 4 | digit(low)?) } else { None }).collect()
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

/// The words that are types in front of a `:`.
const TYPES: [&str; 7] = ["str", "bool", "int", "ipv4", "ipv6", "bin", "null"];

/// What a message has room for.
pub const ARGUMENTS_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_with_their_types_and_written_as_they_are_read() {
        for (text, value) in [
            ("a=b", Value::Str(b"b".to_vec())),
            ("a=b=c", Value::Str(b"b=c".to_vec())),
            ("a=null", Value::Str(b"null".to_vec())),
            ("a=http://b", Value::Str(b"http://b".to_vec())),
            ("a=str:int:7", Value::Str(b"int:7".to_vec())),
            ("a=int:-7", Value::Int(-7)),
            ("a=bool:true", Value::Bool(true)),
            ("a=ipv4:192.0.2.1", Value::Ipv4(Ipv4Addr::new(192, 0, 2, 1))),
            ("a=ipv6:::1", Value::Ipv6(Ipv6Addr::LOCALHOST)),
            ("a=bin:00ff", Value::Bin(vec![0, 255])),
            ("a=bin:", Value::Bin(vec![])),
            ("a=null:", Value::Null),
        ] {
            let argument = Argument { name: "a".to_owned(), value };
            assert_eq!(text.parse().as_ref(), Ok(&argument), "{text}");
            assert_eq!(argument.to_string(), text);
        }
        for text in ["a", "a=int:x", "a=bool:1", "a=ipv4:::1", "a=bin:0", "a=bin:0g", "a=bin:+1", "a=bin:é", "a=null:x"]
        {
            assert!(text.parse::<Argument>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_question_comes_back_from_its_flags() {
        let question = Question::new(Some("check"), &["path=/it's".parse().unwrap()]).unwrap();
        assert_eq!(question.flags(), r"--message check --arg 'path=/it'\''s'");
        let ordinary = Question::new(None, &["path=/v1".parse().unwrap()]).unwrap();
        let again: Vec<Argument> = ordinary.arguments.iter().map(|one| one.to_string().parse().unwrap()).collect();
        assert_eq!(Question::new(Some("request"), &again).as_ref(), Ok(&ordinary));
        assert_eq!(ordinary.arguments.iter().filter(|argument| argument.name == "path").count(), 1);
    }

    #[test]
    fn a_message_has_no_more_arguments_than_its_count_can_say() {
        let many = |count: usize| vec!["a=b".parse::<Argument>().unwrap(); count];
        assert!(Question::new(Some("check"), &many(255)).is_ok());
        assert_eq!(Question::new(Some("check"), &many(256)), Err("256 arguments, expected at most 255".to_owned()));
    }
}
