//! NOTIFY (SPOE.txt, section 3.2.6): a list of messages, each with a name and named arguments.

use bytes::{BufMut, BytesMut};
use nom::number::complete::be_u8;

use super::typed_data::{put_string, string, typed_data};
use super::{DecodeError, Parsed, TypedData, all_of};

/// The messages of one NOTIFY. Decoding checks all of them, so that reading them cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages<'a> {
    payload: &'a [u8],
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its name in the SPOE config.
    pub name: &'a [u8],
    /// `count` pairs, already checked.
    arguments: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Checks a payload. An empty one holds no message, which HAProxy 3.1 sends when every ACL was false.
    pub fn decode(payload: &'a [u8]) -> Result<Messages<'a>, DecodeError> {
        let mut rest = payload;
        while !rest.is_empty() {
            (rest, _) = message(rest).map_err(DecodeError::from_nom)?;
        }
        Ok(Messages { payload })
    }

    /// The same without the check, for a payload that [`Messages::decode`] took. On any other it ends early.
    pub(super) fn decoded_before(payload: &'a [u8]) -> Messages<'a> {
        Messages { payload }
    }

    /// The messages in order.
    pub fn iter(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let mut rest = self.payload;
        std::iter::from_fn(move || {
            let (after, next) = message(rest).ok()?;
            rest = after;
            Some(next)
        })
    }

    /// The bytes that were decoded, for whoever must keep them beyond the frame: [`Messages::decode`] reads them again.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.payload
    }
}

impl<'a> Message<'a> {
    /// Names and values in order. HAProxy leaves a name empty where its config gives none.
    pub fn arguments(&self) -> impl Iterator<Item = (&'a [u8], TypedData<'a>)> + use<'a> {
        let mut rest = self.arguments;
        std::iter::from_fn(move || {
            let (after, next) = argument(rest).ok()?;
            rest = after;
            Some(next)
        })
    }
}

/// Appends one message to a NOTIFY's payload. HAProxy writes the count as one byte; more than 255 cannot be said.
pub fn encode_message(name: &str, arguments: &[(&str, TypedData<'_>)], out: &mut BytesMut) {
    debug_assert!(arguments.len() <= 255, "a message has at most 255 arguments");
    put_string(name.as_bytes(), out);
    out.put_u8(arguments.len().to_le_bytes()[0]);
    for (name, value) in arguments {
        put_string(name.as_bytes(), out);
        value.encode(out);
    }
}

fn message(input: &[u8]) -> Parsed<'_, Message<'_>> {
    let (input, name) = string(input)?;
    let (arguments, count) = be_u8(input)?;
    let mut rest = arguments;
    for _ in 0..count {
        (rest, _) = argument(rest)?;
    }
    let arguments = arguments.get(..arguments.len() - rest.len()).unwrap_or_default();
    Ok((rest, Message { name, arguments }))
}

fn argument(input: &[u8]) -> Parsed<'_, (&[u8], TypedData<'_>)> {
    let (input, name) = string(input)?;
    let (input, value) = typed_data(input)?;
    Ok((input, (name, value)))
}

/// Decodes exactly one message, for tests and tools.
pub fn decode_message(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    all_of(bytes, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_with_their_arguments() {
        let mut payload = BytesMut::new();
        encode_message("request", &[("method", TypedData::Str(b"GET")), ("", TypedData::Null)], &mut payload);
        encode_message("other", &[], &mut payload);
        let messages = Messages::decode(&payload).unwrap();
        let read: Vec<_> = messages.iter().map(|m| (m.name, m.arguments().collect::<Vec<_>>())).collect();
        let first = vec![(&b"method"[..], TypedData::Str(b"GET")), (&b""[..], TypedData::Null)];
        assert_eq!(read, [(&b"request"[..], first), (&b"other"[..], vec![])]);
    }

    #[test]
    fn an_empty_payload_holds_no_message() {
        assert_eq!(Messages::decode(b"").unwrap().iter().count(), 0);
    }

    #[test]
    fn a_payload_cut_anywhere_inside_a_message_is_refused() {
        let mut payload = BytesMut::new();
        encode_message("request", &[("method", TypedData::Str(b"GET")), ("ssl", TypedData::Bool(true))], &mut payload);
        for cut in 1..payload.len() {
            assert_eq!(Messages::decode(&payload[..cut]), Err(DecodeError::Truncated), "{cut}");
        }
    }
}
