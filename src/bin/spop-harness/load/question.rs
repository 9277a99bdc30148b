//! What is asked: NOTIFY payloads, encoded once.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use tollgate::spop::TypedData;
use tollgate::spop::frame::{Flags, Frame, FrameType};
use tollgate::spop::notify::encode_message;

/// The payloads that are asked in turn, one for each token; without tokens there is one.
#[derive(Debug)]
pub struct Questions {
    payloads: Vec<Vec<u8>>,
}

impl Questions {
    /// The message `name` with these arguments. Without a name it is `request` as the shipped configuration of HAProxy
    /// sends it, in which an argument given replaces the one of its name. Each token becomes the argument
    /// `authorization` of a payload of its own.
    pub fn new(name: Option<&str>, given: &[Argument], tokens: &[String]) -> Result<Questions, String> {
        let mut arguments = if name.is_none() { ordinary() } else { Vec::new() };
        for argument in given {
            arguments.retain(|other: &Argument| other.name != argument.name);
            arguments.push(argument.clone());
        }
        let bearer = |token: &String| Argument::string("authorization", &format!("Bearer {token}"));
        let mut payloads = Vec::new();
        for token in tokens.iter().map(Some).chain(tokens.is_empty().then_some(None)) {
            let mut arguments = arguments.clone();
            if let Some(token) = token {
                arguments.retain(|other| other.name != "authorization");
                arguments.push(bearer(token));
            }
            // One byte holds the count (SPOE.txt, section 3.2.6).
            if arguments.len() > 255 {
                return Err(format!("{} arguments, expected at most 255", arguments.len()));
            }
            let pairs: Vec<_> = arguments.iter().map(|argument| (&*argument.name, argument.value.borrow())).collect();
            let mut payload = BytesMut::new();
            encode_message(name.unwrap_or("request"), &pairs, &mut payload);
            payloads.push(payload.to_vec());
        }
        Ok(Questions { payloads })
    }

    /// Appends the NOTIFY that is number `turn` in turn.
    pub fn encode(&self, turn: u64, stream_id: u64, out: &mut BytesMut) {
        let index = usize::try_from(turn % self.payloads.len() as u64).unwrap_or(0);
        let payload = self.payloads.get(index).map_or(&[][..], Vec::as_slice);
        Frame::encode(FrameType::Notify, Flags::FIN, stream_id, FRAME_ID, out, |out| out.put_slice(payload));
    }

    /// The longest frame, without its length prefix.
    pub fn frame_bytes_max(&self) -> usize {
        // Type and flags, a stream-id of at most ten bytes, a frame-id of one.
        self.payloads.iter().map(Vec::len).max().unwrap_or(0) + 5 + 10 + 1
    }
}

/// HAProxy from 3.1 on sends no other.
pub const FRAME_ID: u64 = 1;

/// The tokens in a file, one a line; blank lines do not count.
pub fn tokens(file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let tokens: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if tokens.is_empty() { Err(format!("{}: expected one token a line", file.display())) } else { Ok(tokens) }
}

/// `NAME=VALUE` or `NAME=TYPE:VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    name: String,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Str(Vec<u8>),
}

impl Value {
    fn borrow(&self) -> TypedData<'_> {
        match self {
            Value::Null => TypedData::Null,
            Value::Bool(value) => TypedData::Bool(*value),
            Value::Int(value) => TypedData::Int64(*value),
            Value::Ipv4(value) => TypedData::Ipv4(*value),
            Value::Ipv6(value) => TypedData::Ipv6(*value),
            Value::Str(bytes) => TypedData::Str(bytes),
        }
    }
}

impl Argument {
    fn string(name: &str, value: &str) -> Argument {
        Argument { name: name.to_owned(), value: Value::Str(value.as_bytes().to_vec()) }
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
            Some(("int", value)) => Value::Int(read(value, "a whole number")?),
            Some(("ipv4", value)) => Value::Ipv4(read(value, "an IPv4 address")?),
            Some(("ipv6", value)) => Value::Ipv6(read(value, "an IPv6 address")?),
            Some(("null", "")) => Value::Null,
            // Anything else is a string as it stands: an URL, a time, a host with a port.
            _ => Value::Str(value.as_bytes().to_vec()),
        };
        Ok(Argument { name: name.to_owned(), value })
    }
}

/// What HAProxy sends with haproxy/spoe-tollgate.conf for a plain GET over TLS, the certificate's fields aside.
fn ordinary() -> Vec<Argument> {
    let mut arguments: Vec<_> = [("id", "0a0b0c0d-1"), ("method", "GET"), ("host", "localhost"), ("path", "/")]
        .map(|(name, value)| Argument::string(name, value))
        .into();
    let mut more = |name: &str, value| arguments.push(Argument { name: name.to_owned(), value });
    more("query", Value::Null);
    more("src", Value::Ipv4(Ipv4Addr::LOCALHOST));
    more("src_port", Value::Int(40_000));
    more("ssl", Value::Bool(true));
    more("authorization", Value::Null);
    more("session", Value::Null);
    more("accept", Value::Str(b"*/*".to_vec()));
    arguments
}

#[cfg(test)]
mod tests {
    use tollgate::spop::notify::Messages;

    use super::*;

    fn asked(questions: &Questions, turn: u64) -> Vec<(String, String)> {
        let mut out = BytesMut::new();
        questions.encode(turn, 300, &mut out);
        let frame = Frame::decode(&out[4..]).unwrap();
        assert_eq!((frame.kind, frame.stream_id, frame.frame_id), (FrameType::Notify, 300, FRAME_ID));
        assert!(out.len() - 4 <= questions.frame_bytes_max());
        let messages = Messages::decode(frame.payload).unwrap();
        let show = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        messages
            .iter()
            .flat_map(|message| message.arguments().map(move |(name, value)| (show(name), format!("{value:?}"))))
            .collect()
    }

    #[test]
    fn arguments_are_read_with_their_types() {
        for (text, value) in [
            ("a=b", Value::Str(b"b".to_vec())),
            ("a=http://b", Value::Str(b"http://b".to_vec())),
            ("a=str:int:7", Value::Str(b"int:7".to_vec())),
            ("a=int:-7", Value::Int(-7)),
            ("a=bool:true", Value::Bool(true)),
            ("a=ipv4:192.0.2.1", Value::Ipv4(Ipv4Addr::new(192, 0, 2, 1))),
            ("a=ipv6:::1", Value::Ipv6(Ipv6Addr::LOCALHOST)),
            ("a=null:", Value::Null),
        ] {
            assert_eq!(text.parse(), Ok(Argument { name: "a".to_owned(), value }), "{text}");
        }
        for text in ["a", "a=int:x", "a=bool:1", "a=ipv4:::1"] {
            assert!(text.parse::<Argument>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_argument_replaces_the_ordinary_one_and_tokens_take_turns() {
        let tokens = ["one".to_owned(), "two".to_owned()];
        let questions = Questions::new(None, &["path=/v1".parse().unwrap()], &tokens).unwrap();
        for (turn, token) in [(0, b"Bearer one"), (1, b"Bearer two"), (2, b"Bearer one")] {
            let arguments = asked(&questions, turn);
            let of = |name: &str| {
                arguments.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value).collect::<Vec<_>>()
            };
            assert_eq!(of("path"), [format!("{:?}", TypedData::Str(b"/v1"))]);
            assert_eq!(of("authorization"), [format!("{:?}", TypedData::Str(token))]);
        }
        let other = Questions::new(Some("other"), &["x=int:1".parse().unwrap()], &[]).unwrap();
        assert_eq!(asked(&other, 0), [("x".to_owned(), format!("{:?}", TypedData::Int64(1)))]);
    }
}
