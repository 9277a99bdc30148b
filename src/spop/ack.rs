//! ACK (SPOE.txt, section 3.2.7): a list of actions on HAProxy's variables.

use bytes::{BufMut, BytesMut};
use nom::Parser;
use nom::number::complete::be_u8;

use super::frame::{Flags, Frame, FrameType};
use super::typed_data::{put_string, string, typed_data};
use super::{DecodeError, Parsed, TypedData};

/// One action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Sets a variable.
    SetVar {
        /// Where it lives.
        scope: Scope,
        /// Its name without scope and prefix: `[A-Za-z0-9_.]`, and with both at most 63 bytes, or HAProxy drops it or
        /// worse. Constants only, never from a request.
        name: &'a str,
        /// What it becomes.
        value: TypedData<'a>,
    },
    /// Removes a variable.
    UnsetVar {
        /// Where it lives.
        scope: Scope,
        /// Its name without scope and prefix.
        name: &'a str,
    },
}

/// How long a variable lives (SPOE.txt, section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scope {
    Process = 0,
    Session = 1,
    Transaction = 2,
    Request = 3,
    Response = 4,
}

impl Scope {
    /// What HAProxy's configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Process => "proc",
            Scope::Session => "sess",
            Scope::Transaction => "txn",
            Scope::Request => "req",
            Scope::Response => "res",
        }
    }
}

impl<'a> Action<'a> {
    /// How many bytes it takes in an ACK.
    pub fn encoded_len(&self) -> usize {
        let named = |name: &str| super::varint::encoded_len(name.len() as u64) + name.len();
        match self {
            Action::SetVar { name, value, .. } => 3 + named(name) + value.encoded_len(),
            Action::UnsetVar { name, .. } => 3 + named(name),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Action::SetVar { scope, name, value } => {
                out.put_slice(&[SET_VAR, 3, *scope as u8]);
                put_string(name.as_bytes(), out);
                value.encode(out);
            }
            Action::UnsetVar { scope, name } => {
                out.put_slice(&[UNSET_VAR, 2, *scope as u8]);
                put_string(name.as_bytes(), out);
            }
        }
    }
}

/// Appends an ACK. HAProxy 3.1 hangs the stream on an empty list (spop.md, P4), so a harmless action stands in for it.
pub fn encode(stream_id: u64, frame_id: u64, actions: &[Action<'_>], out: &mut BytesMut) {
    Frame::encode(FrameType::Ack, Flags::FIN, stream_id, frame_id, out, |out| {
        for action in actions {
            action.encode(out);
        }
        if actions.is_empty() {
            Action::UnsetVar { scope: Scope::Transaction, name: "_" }.encode(out);
        }
    });
}

/// Reads an ACK's payload, for HAProxy's half. Unlike HAProxy, which applies what stands before a bad action and says
/// nothing, this refuses the whole list.
pub fn decode(payload: &[u8]) -> Result<Vec<Action<'_>>, DecodeError> {
    let mut actions = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (after, next) = action(rest).map_err(DecodeError::from_nom)?;
        actions.push(next);
        rest = after;
    }
    Ok(actions)
}

fn action(input: &[u8]) -> Parsed<'_, Action<'_>> {
    let (input, [kind, count, scope]) =
        (be_u8, be_u8, be_u8).map(|(kind, count, scope)| [kind, count, scope]).parse(input)?;
    let (kind, scope) = head([kind, count, scope]).map_err(nom::Err::Failure)?;
    let (input, name) = string(input)?;
    let name = std::str::from_utf8(name).map_err(|_| nom::Err::Failure(DecodeError::NameNotUtf8))?;
    match kind {
        Kind::Set => {
            let (input, value) = typed_data(input)?;
            Ok((input, Action::SetVar { scope, name, value }))
        }
        Kind::Unset => Ok((input, Action::UnsetVar { scope, name })),
    }
}

/// What the first three bytes of an action say.
pub(super) enum Kind {
    Set,
    Unset,
}

pub(super) fn head([kind, count, scope]: [u8; 3]) -> Result<(Kind, Scope), DecodeError> {
    let kind = match (kind, count) {
        (SET_VAR, 3) => Kind::Set,
        (UNSET_VAR, 2) => Kind::Unset,
        _ => return Err(DecodeError::UnknownAction(kind, count)),
    };
    let scope = match scope {
        0 => Scope::Process,
        1 => Scope::Session,
        2 => Scope::Transaction,
        3 => Scope::Request,
        4 => Scope::Response,
        other => return Err(DecodeError::UnknownScope(other)),
    };
    Ok((kind, scope))
}

const SET_VAR: u8 = 1;
const UNSET_VAR: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_come_back_and_their_length_is_known_beforehand() {
        let actions = [
            Action::SetVar { scope: Scope::Transaction, name: "user", value: TypedData::Str(b"alice") },
            Action::SetVar { scope: Scope::Session, name: "status", value: TypedData::Int32(200) },
            Action::UnsetVar { scope: Scope::Response, name: "x" },
        ];
        let mut out = BytesMut::new();
        encode(7, 1, &actions, &mut out);
        let frame = Frame::decode(&out[4..]).unwrap();
        assert_eq!((frame.kind, frame.flags, frame.stream_id, frame.frame_id), (FrameType::Ack, Flags::FIN, 7, 1));
        assert_eq!(decode(frame.payload).unwrap(), actions);
        assert_eq!(frame.payload.len(), actions.iter().map(Action::encoded_len).sum::<usize>());
    }

    #[test]
    fn an_ack_is_never_empty() {
        let mut out = BytesMut::new();
        encode(1, 1, &[], &mut out);
        let frame = Frame::decode(&out[4..]).unwrap();
        assert_eq!(decode(frame.payload).unwrap().len(), 1);
    }
}
