//! Frames (SPOE.txt, section 3.2): type, flags, stream-id, frame-id, payload; a 32-bit length stands before each.

use bytes::{BufMut, BytesMut};
use nom::number::complete::{be_u8, be_u32};

use super::varint::{self, varint};
use super::{DecodeError, Parsed};

/// One frame, without its length prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: FrameType,
    /// FIN and ABORT.
    pub flags: Flags,
    /// The HTTP stream; 0 in HELLO and DISCONNECT, and in the first NOTIFY of a HAProxy up to 3.0.
    pub stream_id: u64,
    /// Which NOTIFY of that stream.
    pub frame_id: u64,
    /// What its type says.
    pub payload: &'a [u8],
}

/// The type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FrameType {
    /// A later fragment of a NOTIFY.
    Unset,
    HaproxyHello,
    HaproxyDisconnect,
    Notify,
    AgentHello,
    AgentDisconnect,
    Ack,
    /// Anything else; a receiver ignores such a frame.
    Unknown(u8),
}

/// The flags word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// The frame is whole, or the last fragment.
    pub const FIN: Flags = Flags(1);
    /// A fragmented frame will not be finished.
    pub const ABORT: Flags = Flags(2);
    /// Neither.
    pub const NONE: Flags = Flags(0);

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The word on the wire.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Any word, for tools that say what no peer should.
    pub fn of(bits: u32) -> Flags {
        Flags(bits)
    }

    /// Both.
    pub fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The smallest frame: type, flags and two one-byte identifiers.
pub const FRAME_BYTES_MIN: usize = 7;

/// The length prefix.
pub const PREFIX_BYTES: usize = 4;

/// No HAProxy announces less, and no agent may (SPOE.txt, section 3.2.4).
pub const MAX_FRAME_SIZE_MIN: u32 = 256;

impl<'a> Frame<'a> {
    /// Decodes a frame without its length prefix.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, DecodeError> {
        let (payload, (kind, flags, stream_id, frame_id)) = head(bytes).map_err(DecodeError::from_nom)?;
        Ok(Frame { kind, flags, stream_id, frame_id, payload })
    }

    /// Appends a frame with its length prefix; `payload` writes what follows the identifiers.
    pub fn encode(
        kind: FrameType,
        flags: Flags,
        stream_id: u64,
        frame_id: u64,
        out: &mut BytesMut,
        payload: impl FnOnce(&mut BytesMut),
    ) {
        let start = out.len();
        out.put_u32(0);
        out.put_u8(kind.byte());
        out.put_u32(flags.0);
        varint::encode(stream_id, out);
        varint::encode(frame_id, out);
        payload(out);
        let length = out.len() - start - PREFIX_BYTES;
        // What is written here is bounded by the negotiated size, far below 2^32.
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(prefix) = out.get_mut(start..start + PREFIX_BYTES) {
            prefix.copy_from_slice(&length);
        }
    }
}

impl FrameType {
    fn of(byte: u8) -> FrameType {
        match byte {
            0 => FrameType::Unset,
            1 => FrameType::HaproxyHello,
            2 => FrameType::HaproxyDisconnect,
            3 => FrameType::Notify,
            101 => FrameType::AgentHello,
            102 => FrameType::AgentDisconnect,
            103 => FrameType::Ack,
            other => FrameType::Unknown(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            FrameType::Unset => 0,
            FrameType::HaproxyHello => 1,
            FrameType::HaproxyDisconnect => 2,
            FrameType::Notify => 3,
            FrameType::AgentHello => 101,
            FrameType::AgentDisconnect => 102,
            FrameType::Ack => 103,
            FrameType::Unknown(byte) => byte,
        }
    }
}

fn head(input: &[u8]) -> Parsed<'_, (FrameType, Flags, u64, u64)> {
    let (input, kind) = be_u8(input)?;
    let (input, flags) = be_u32(input)?;
    let (input, stream_id) = varint(input)?;
    let (input, frame_id) = varint(input)?;
    Ok((input, (FrameType::of(kind), Flags(flags), stream_id, frame_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_with_its_length_before_it() {
        let mut out = BytesMut::new();
        Frame::encode(FrameType::Notify, Flags::FIN, 0, 1, &mut out, |out| out.put_slice(b"payload"));
        assert_eq!(&out[..4], &[0, 0, 0, 14]);
        let frame = Frame::decode(&out[4..]).unwrap();
        let expected =
            Frame { kind: FrameType::Notify, flags: Flags::FIN, stream_id: 0, frame_id: 1, payload: b"payload" };
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_head_cut_anywhere_is_truncated() {
        let whole = [3, 0, 0, 0, 1, 0xf0, 0x00, 1];
        for cut in 0..whole.len() {
            assert_eq!(Frame::decode(&whole[..cut]), Err(DecodeError::Truncated), "{cut}");
        }
    }
}
