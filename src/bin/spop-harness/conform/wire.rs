//! Bytes as no well-behaved HAProxy writes them, and as it does.

use bytes::{BufMut, BytesMut};
use tollgate::spop::frame::{Flags, Frame, FrameType};
use tollgate::spop::{TypedData, kv_list, varint};

use crate::question::Argument;

/// A frame with its prefix.
pub fn frame(kind: FrameType, flags: Flags, stream_id: u64, frame_id: u64, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    Frame::encode(kind, flags, stream_id, frame_id, &mut out, |out| out.put_slice(payload));
    out
}

/// A whole NOTIFY.
pub fn notify(stream_id: u64, frame_id: u64, payload: &[u8]) -> BytesMut {
    frame(FrameType::Notify, Flags::FIN, stream_id, frame_id, payload)
}

/// A frame whose bytes after the flags are given: identifiers too.
pub fn raw(kind: u8, flags: u32, rest: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let length = u32::try_from(5 + rest.len()).unwrap_or(u32::MAX);
    out.put_u32(length);
    out.put_u8(kind);
    out.put_u32(flags);
    out.put_slice(rest);
    out
}

/// A length and the bytes.
pub fn string(bytes: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    varint::encode(bytes.len() as u64, &mut out);
    out.put_slice(bytes);
    out
}

/// One argument: any bytes as its name, and its value.
pub fn argument(name: &[u8], value: TypedData<'_>) -> BytesMut {
    let mut out = string(name);
    value.encode(&mut out);
    out
}

/// An argument of the question.
pub fn argument_of(of: &Argument) -> BytesMut {
    argument(of.name.as_bytes(), of.value.borrow())
}

/// One message, whose count need not be true.
pub fn message(name: &[u8], count: u8, arguments: &[u8]) -> BytesMut {
    let mut out = string(name);
    out.put_u8(count);
    out.put_slice(arguments);
    out
}

/// A list of keys and values.
pub fn pairs(pairs: &[(&str, TypedData<'_>)]) -> BytesMut {
    let mut out = BytesMut::new();
    for (key, value) in pairs {
        kv_list::encode(key, *value, &mut out);
    }
    out
}

/// A HAPROXY-HELLO of these pairs.
pub fn hello(of: &[(&str, TypedData<'_>)]) -> BytesMut {
    frame(FrameType::HaproxyHello, Flags::FIN, 0, 0, &pairs(of))
}

/// A HAPROXY-DISCONNECT of these pairs.
pub fn disconnect(of: &[(&str, TypedData<'_>)]) -> BytesMut {
    frame(FrameType::HaproxyDisconnect, Flags::FIN, 0, 0, &pairs(of))
}

/// The HAPROXY-DISCONNECT of a HAProxy that wants to go.
pub fn goodbye() -> BytesMut {
    disconnect(&[("status-code", TypedData::UInt32(0)), ("message", TypedData::Str(b"normal"))])
}

/// A variable-length integer of any size, by the same rule as one that fits 64 bits.
pub fn wide_varint(value: u128) -> BytesMut {
    let mut out = BytesMut::new();
    let low = |value: u128| value.to_le_bytes()[0];
    if value < 240 {
        out.put_u8(low(value));
        return out;
    }
    out.put_u8(low(value) | 0xf0);
    let mut rest = (value - 240) >> 4;
    while rest >= 128 {
        out.put_u8(low(rest) | 0x80);
        rest = (rest - 128) >> 7;
    }
    out.put_u8(low(rest));
    out
}

/// 2^64: one above what a varint may say.
pub const BEYOND: u128 = 1 << 64;

/// The keys that every HELLO has, as HAProxy writes them.
pub const VERSIONS: (&str, TypedData<'static>) = ("supported-versions", TypedData::Str(b"2.0"));
pub const SIZE: (&str, TypedData<'static>) = ("max-frame-size", TypedData::UInt32(FRAME_BYTES));
pub const CAPABILITIES: (&str, TypedData<'static>) = ("capabilities", TypedData::Str(b"pipelining"));
pub const ENGINE_ID: (&str, TypedData<'static>) =
    ("engine-id", TypedData::Str(b"5a1e7e57-0000-4000-8000-000000000000"));
pub const HEALTHCHECK: (&str, TypedData<'static>) = ("healthcheck", TypedData::Bool(true));

/// What HAProxy offers by default: `tune.bufsize` less the prefix.
pub const FRAME_BYTES: u32 = 16_380;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_varint_is_the_usual_one_up_to_64_bits_and_goes_on_beyond() {
        for value in [0, 239, 240, 2287, 2288, 264_432, u64::MAX] {
            let mut usual = BytesMut::new();
            varint::encode(value, &mut usual);
            assert_eq!(wide_varint(u128::from(value)), usual, "{value}");
        }
        assert_eq!(varint::decode(&wide_varint(BEYOND)), Err(tollgate::spop::DecodeError::VarintTooLarge));
        assert_eq!(wide_varint(BEYOND).len(), 10);
    }
}
