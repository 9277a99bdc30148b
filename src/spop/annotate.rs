//! Bytes with their reading beside them, for people: what `spop-harness decode` prints and what recorded frames are
//! commented with. It reads as leniently as it can and says where it had to stop.

use std::fmt::Write as _;

use super::ack;
use super::frame::{FRAME_BYTES_MIN, Flags, Frame, FrameType, PREFIX_BYTES};
use super::typed_data::{string, typed_data};
use super::{DecodeError, TypedData, varint};

/// Some bytes and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// Never empty, but for a value that ought to be there and is not.
    pub bytes: &'a [u8],
    /// In a few words.
    pub text: String,
    /// They are not what ought to stand here, or not all of it.
    pub broken: bool,
}

/// Reads frames with their length prefixes, as one side of a connection carries them. The bytes of all notes together are
/// `bytes`, in order.
pub fn annotate(bytes: &[u8]) -> Vec<Note<'_>> {
    let mut notes = Notes { rest: bytes, made: Vec::new() };
    while !notes.rest.is_empty() {
        notes.frame();
    }
    notes.made
}

/// One line for a frame without its prefix: type, flags and identifiers.
pub fn title(frame: &Frame<'_>) -> String {
    let mut out = format!("{} stream {} frame {}", kind(frame.kind), frame.stream_id, frame.frame_id);
    if frame.flags != Flags::FIN {
        let _ = write!(out, " ({})", flag_list(frame.flags));
    }
    out
}

/// What the specification calls a type.
pub fn kind(kind: FrameType) -> String {
    match kind {
        FrameType::Unset => "UNSET".to_owned(),
        FrameType::HaproxyHello => "HAPROXY-HELLO".to_owned(),
        FrameType::HaproxyDisconnect => "HAPROXY-DISCONNECT".to_owned(),
        FrameType::Notify => "NOTIFY".to_owned(),
        FrameType::AgentHello => "AGENT-HELLO".to_owned(),
        FrameType::AgentDisconnect => "AGENT-DISCONNECT".to_owned(),
        FrameType::Ack => "ACK".to_owned(),
        FrameType::Unknown(byte) => format!("unknown type {byte}"),
    }
}

/// A value with its type: `str "GET"`, `int64 -1`, `bin (3) 00ff10`.
pub fn value(value: &TypedData<'_>) -> String {
    match value {
        TypedData::Null => "null".to_owned(),
        TypedData::Bool(value) => format!("bool {value}"),
        TypedData::Int32(value) => format!("int32 {value}"),
        TypedData::UInt32(value) => format!("uint32 {value}"),
        TypedData::Int64(value) => format!("int64 {value}"),
        TypedData::UInt64(value) => format!("uint64 {value}"),
        TypedData::Ipv4(value) => format!("ipv4 {value}"),
        TypedData::Ipv6(value) => format!("ipv6 {value}"),
        TypedData::Str(bytes) => format!("str {}", text(bytes)),
        TypedData::Bin(bytes) => {
            let mut out = format!("bin ({})", bytes.len());
            let shown = bytes.get(..SHOWN_BYTES_MAX / 2).unwrap_or(bytes);
            for (at, byte) in shown.iter().enumerate() {
                let _ = write!(out, "{}{byte:02x}", if at == 0 { " " } else { "" });
            }
            if shown.len() < bytes.len() {
                out.push('…');
            }
            out
        }
    }
}

/// The names of the flags that are set; an unknown bit is a number.
pub fn flags(flags: Flags) -> Vec<String> {
    let known = [(Flags::FIN, "FIN"), (Flags::ABORT, "ABORT")];
    let mut names: Vec<_> =
        known.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| (*name).to_owned()).collect();
    let unknown = flags.bits() & !Flags::FIN.and(Flags::ABORT).bits();
    if unknown != 0 {
        names.push(format!("{unknown:#x}"));
    }
    names
}

/// Longer text is cut in a reading; the bytes beside it are whole.
const SHOWN_BYTES_MAX: usize = 48;

struct Notes<'a> {
    rest: &'a [u8],
    made: Vec<Note<'a>>,
}

impl<'a> Notes<'a> {
    /// Says what the next `len` bytes are; fewer where there are fewer.
    fn note(&mut self, len: usize, text: impl Into<String>) {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        self.made.push(Note { bytes, text: text.into(), broken: false });
    }

    /// The same for bytes that are not what they ought to be.
    fn broken(&mut self, len: usize, text: impl Into<String>) {
        self.note(len, text);
        if let Some(note) = self.made.last_mut() {
            note.broken = true;
        }
    }

    fn frame(&mut self) {
        let Some(prefix) = self.rest.first_chunk::<PREFIX_BYTES>() else {
            return self.broken(PREFIX_BYTES, "a length, cut short");
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        let there = self.rest.len() - PREFIX_BYTES;
        if length < FRAME_BYTES_MIN {
            self.broken(PREFIX_BYTES, format!("length {length}: too short for a frame"));
            if length.min(there) > 0 {
                self.note(length, "");
            }
            return;
        }
        if length > there {
            self.broken(PREFIX_BYTES, format!("length {length}, and only {there} follow"));
        } else {
            self.note(PREFIX_BYTES, format!("length {length}"));
        }
        let whole = self.rest.get(..length.min(there)).unwrap_or_default();
        let after = self.rest.get(whole.len()..).unwrap_or_default();
        self.rest = whole;
        if let Err(error) = self.inside() {
            self.broken(self.rest.len(), format!("error: {error}"));
        }
        debug_assert!(self.rest.is_empty());
        self.rest = after;
    }

    fn inside(&mut self) -> Result<(), DecodeError> {
        // Type and flags are told even where the identifiers behind them do not decode.
        let head = *self.rest.first_chunk::<5>().ok_or(DecodeError::Truncated)?;
        let mut with_ids = [0; FRAME_BYTES_MIN];
        with_ids[..head.len()].copy_from_slice(&head);
        let Frame { kind: frame_type, flags, .. } = Frame::decode(&with_ids)?;
        self.note(1, kind(frame_type));
        self.note(4, flag_list(flags));
        let (stream_id, rest) = varint::decode(self.rest)?;
        let (frame_id, rest) = varint::decode(rest)?;
        self.note(self.rest.len() - rest.len(), format!("stream-id {stream_id}, frame-id {frame_id}"));
        match frame_type {
            _ if self.rest.is_empty() => {}
            FrameType::HaproxyHello
            | FrameType::HaproxyDisconnect
            | FrameType::AgentHello
            | FrameType::AgentDisconnect => {
                while !self.rest.is_empty() {
                    if self.string("key")?.is_empty() {
                        return Err(DecodeError::EmptyKey);
                    }
                    self.value()?;
                }
            }
            FrameType::Notify if flags.has(Flags::FIN) && !flags.has(Flags::ABORT) => {
                while !self.rest.is_empty() {
                    self.string("message")?;
                    let count = *self.rest.first().ok_or(DecodeError::Truncated)?;
                    self.note(1, format!("arguments: {count}"));
                    for _ in 0..count {
                        self.string("  argument")?;
                        self.value()?;
                    }
                }
            }
            FrameType::Ack => {
                while !self.rest.is_empty() {
                    self.action()?;
                }
            }
            // A fragment may be cut anywhere, and nobody knows what is in a frame of unknown type.
            FrameType::Notify | FrameType::Unset => self.note(self.rest.len(), "a fragment"),
            FrameType::Unknown(_) => self.note(self.rest.len(), "payload"),
        }
        Ok(())
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], DecodeError> {
        let (rest, bytes) = string(self.rest).map_err(DecodeError::from_nom)?;
        self.note(self.rest.len() - rest.len(), format!("{what} {}", text(bytes)));
        Ok(bytes)
    }

    fn value(&mut self) -> Result<(), DecodeError> {
        let (rest, read) = typed_data(self.rest).map_err(DecodeError::from_nom)?;
        self.note(self.rest.len() - rest.len(), format!("    {}", value(&read)));
        Ok(())
    }

    fn action(&mut self) -> Result<(), DecodeError> {
        let head = self.rest.first_chunk::<3>().ok_or(DecodeError::Truncated)?;
        let what = match ack::head(*head)? {
            (ack::Kind::Set, scope) => format!("set-var, scope {}", scope.name()),
            (ack::Kind::Unset, scope) => format!("unset-var, scope {}", scope.name()),
        };
        let sets = what.starts_with("set");
        self.note(3, what);
        let name = self.string("  name")?;
        std::str::from_utf8(name).map_err(|_| DecodeError::NameNotUtf8)?;
        if sets {
            self.value()?;
        }
        Ok(())
    }
}

fn flag_list(of: Flags) -> String {
    let names = flags(of);
    if names.is_empty() { "no flags".to_owned() } else { names.join(" ") }
}

fn text(bytes: &[u8]) -> String {
    let shown = bytes.get(..SHOWN_BYTES_MAX).unwrap_or(bytes);
    let more = bytes.len() - shown.len();
    let shown = shown.escape_ascii();
    if more == 0 { format!("\"{shown}\"") } else { format!("\"{shown}\" and {more} more") }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::{Action, Messages, Scope, engine, kv_list};
    use super::*;

    fn texts(bytes: &[u8]) -> Vec<String> {
        let notes = annotate(bytes);
        assert_eq!(notes.iter().flat_map(|note| note.bytes).copied().collect::<Vec<_>>(), bytes, "every byte once");
        notes.into_iter().map(|note| note.text).collect()
    }

    #[test]
    fn each_field_of_a_notify_and_its_ack_is_named() {
        let mut out = BytesMut::new();
        engine::notify(7, 1, &[("method", TypedData::Str(b"GET")), ("ssl", TypedData::Bool(true))], &mut out);
        let expected = [
            "length 33",
            "NOTIFY",
            "FIN",
            "stream-id 7, frame-id 1",
            "message \"request\"",
            "arguments: 2",
            "  argument \"method\"",
            "    str \"GET\"",
            "  argument \"ssl\"",
            "    bool true",
        ];
        assert_eq!(texts(&out), expected);

        let mut out = BytesMut::new();
        let actions = [
            Action::SetVar { scope: Scope::Transaction, name: "user", value: TypedData::Int64(-1) },
            Action::UnsetVar { scope: Scope::Process, name: "x" },
        ];
        ack::encode(240, 1, &actions, &mut out);
        let expected = [
            "length 32",
            "ACK",
            "FIN",
            "stream-id 240, frame-id 1",
            "set-var, scope txn",
            "  name \"user\"",
            "    int64 -1",
            "unset-var, scope proc",
            "  name \"x\"",
        ];
        assert_eq!(texts(&out), expected);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_the_next_frame_is_read_again() {
        let mut out = BytesMut::new();
        Frame::encode(FrameType::Notify, Flags::FIN, 1, 1, &mut out, |out| out.extend_from_slice(b"\x05ab"));
        engine::healthcheck(&mut out);
        let texts = texts(&out);
        assert_eq!(texts[4], "error: the input ends inside a value");
        assert_eq!(texts[6], "HAPROXY-HELLO");
    }

    #[test]
    fn a_value_that_is_missing_at_the_very_end_is_said_too() {
        let frame = b"\0\0\0\x0a\x01\0\0\0\x01\0\0\x02ab";
        let notes = annotate(frame);
        let last = notes.last().unwrap();
        assert_eq!(
            (last.bytes, last.text.as_str(), last.broken),
            (&[][..], "error: the input ends inside a value", true)
        );
    }

    /// What this reads and what the decoders take is the same, frame type by frame type.
    fn reads_as_the_decoders_do(kind: FrameType, payload: &[u8]) {
        let mut out = BytesMut::new();
        Frame::encode(kind, Flags::FIN, 1, 1, &mut out, |out| out.extend_from_slice(payload));
        let decoded = match kind {
            FrameType::Notify => Messages::decode(payload).map(|_| ()),
            FrameType::Ack => ack::decode(payload).map(|_| ()),
            _ => kv_list::decode(payload, |_, _| {}),
        };
        let broken = annotate(&out).into_iter().find(|note| note.broken).map(|note| note.text);
        assert_eq!(broken, decoded.err().map(|error| format!("error: {error}")), "{kind:?} {payload:x?}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_noted_once_each(bytes in proptest::collection::vec(0u8..8, 0..200)) {
            texts(&bytes);
        }

        #[test]
        fn what_is_broken_here_is_what_does_not_decode(payload in proptest::collection::vec(0u8..12, 0..40)) {
            for kind in [FrameType::HaproxyHello, FrameType::Notify, FrameType::Ack, FrameType::AgentDisconnect] {
                reads_as_the_decoders_do(kind, &payload);
            }
        }
    }
}
