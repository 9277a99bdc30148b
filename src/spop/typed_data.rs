//! Typed values (SPOE.txt, section 3.1): a byte of type and flags, then the value.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use nom::Parser;
use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u32, be_u128};

use super::varint::{self, varint};
use super::{DecodeError, Parsed};

/// One value. Strings are bytes: HTTP field values need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TypedData<'a> {
    Null,
    Bool(bool),
    Int32(i32),
    UInt32(u32),
    Int64(i64),
    UInt64(u64),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Str(&'a [u8]),
    Bin(&'a [u8]),
}

impl<'a> TypedData<'a> {
    /// Decodes one value from the front; gives it and what is left.
    pub fn decode(input: &'a [u8]) -> Result<(TypedData<'a>, &'a [u8]), DecodeError> {
        typed_data(input).map(|(rest, value)| (value, rest)).map_err(DecodeError::from_nom)
    }

    /// Appends the value.
    pub fn encode(&self, out: &mut BytesMut) {
        match *self {
            TypedData::Null => out.put_u8(NULL),
            TypedData::Bool(value) => out.put_u8(BOOL | if value { TRUE } else { 0 }),
            // Sign-extended: a peer that reads 64 bits, as HAProxy does, must see the same negative number.
            TypedData::Int32(value) => integer(INT32, i64::from(value).cast_unsigned(), out),
            TypedData::UInt32(value) => integer(UINT32, u64::from(value), out),
            TypedData::Int64(value) => integer(INT64, value.cast_unsigned(), out),
            TypedData::UInt64(value) => integer(UINT64, value, out),
            TypedData::Ipv4(address) => {
                out.put_u8(IPV4);
                out.put_slice(&address.octets());
            }
            TypedData::Ipv6(address) => {
                out.put_u8(IPV6);
                out.put_slice(&address.octets());
            }
            TypedData::Str(bytes) => sized(STR, bytes, out),
            TypedData::Bin(bytes) => sized(BIN, bytes, out),
        }
    }

    /// How many bytes [`TypedData::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        1 + match *self {
            TypedData::Null | TypedData::Bool(_) => 0,
            TypedData::Int32(value) => varint::encoded_len(i64::from(value).cast_unsigned()),
            TypedData::UInt32(value) => varint::encoded_len(u64::from(value)),
            TypedData::Int64(value) => varint::encoded_len(value.cast_unsigned()),
            TypedData::UInt64(value) => varint::encoded_len(value),
            TypedData::Ipv4(_) => 4,
            TypedData::Ipv6(_) => 16,
            TypedData::Str(bytes) | TypedData::Bin(bytes) => varint::encoded_len(bytes.len() as u64) + bytes.len(),
        }
    }

    /// The value of any of the integer types, `None` for other types or beyond `i64`.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            TypedData::Int32(value) => Some(i64::from(value)),
            TypedData::UInt32(value) => Some(i64::from(value)),
            TypedData::Int64(value) => Some(value),
            TypedData::UInt64(value) => i64::try_from(value).ok(),
            _ => None,
        }
    }
}

pub(super) fn typed_data(input: &[u8]) -> Parsed<'_, TypedData<'_>> {
    let (input, tag) = be_u8(input)?;
    match tag & 0x0f {
        NULL => Ok((input, TypedData::Null)),
        // HAProxy takes exactly 0x1 as true, and so must we: another flag bit must not mean two things.
        BOOL => Ok((input, TypedData::Bool(tag & 0xf0 == TRUE))),
        // HAProxy keeps the low 32 bits.
        INT32 => varint.map(|value| TypedData::Int32((value & 0xffff_ffff) as u32 as i32)).parse(input),
        UINT32 => varint.map(|value| TypedData::UInt32((value & 0xffff_ffff) as u32)).parse(input),
        INT64 => varint.map(|value| TypedData::Int64(value.cast_signed())).parse(input),
        UINT64 => varint.map(TypedData::UInt64).parse(input),
        IPV4 => be_u32.map(|value| TypedData::Ipv4(Ipv4Addr::from(value))).parse(input),
        IPV6 => be_u128.map(|value| TypedData::Ipv6(Ipv6Addr::from(value))).parse(input),
        STR => string.map(TypedData::Str).parse(input),
        BIN => string.map(TypedData::Bin).parse(input),
        unknown => Err(nom::Err::Failure(DecodeError::UnknownDataType(unknown))),
    }
}

/// A length and that many bytes.
pub(super) fn string(input: &[u8]) -> Parsed<'_, &[u8]> {
    length_data(varint_usize).parse(input)
}

/// Appends a length and the bytes.
pub(super) fn put_string(bytes: &[u8], out: &mut BytesMut) {
    varint::encode(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn varint_usize(input: &[u8]) -> Parsed<'_, usize> {
    let (rest, length) = varint(input)?;
    // A length beyond what is left is refused by `take` below; one beyond usize cannot be there either.
    let length = usize::try_from(length).map_err(|_| nom::Err::Failure(DecodeError::Truncated))?;
    take::<_, _, DecodeError>(length).parse(rest).map(|_| (rest, length))
}

fn integer(tag: u8, value: u64, out: &mut BytesMut) {
    out.put_u8(tag);
    varint::encode(value, out);
}

fn sized(tag: u8, bytes: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    put_string(bytes, out);
}

const NULL: u8 = 0;
const BOOL: u8 = 1;
const INT32: u8 = 2;
const UINT32: u8 = 3;
const INT64: u8 = 4;
const UINT64: u8 = 5;
const IPV4: u8 = 6;
const IPV6: u8 = 7;
const STR: u8 = 8;
const BIN: u8 = 9;
const TRUE: u8 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back() {
        for value in [
            TypedData::Null,
            TypedData::Bool(true),
            TypedData::Bool(false),
            TypedData::Int32(-7),
            TypedData::Int32(i32::MAX),
            TypedData::UInt32(u32::MAX),
            TypedData::Int64(i64::MIN),
            TypedData::Int64(-1),
            TypedData::UInt64(u64::MAX),
            TypedData::Ipv4(Ipv4Addr::new(192, 0, 2, 1)),
            TypedData::Ipv6(Ipv6Addr::LOCALHOST),
            TypedData::Str(b""),
            TypedData::Str(&[b'x'; 300]),
            TypedData::Bin(&[0, 255]),
        ] {
            let mut out = BytesMut::new();
            value.encode(&mut out);
            assert_eq!(out.len(), value.encoded_len(), "{value:?}");
            assert_eq!(TypedData::decode(&out), Ok((value, &[][..])), "{value:?}");
        }
    }

    #[test]
    fn bytes_as_haproxy_writes_them() {
        for (bytes, value) in [
            (&[0x01][..], TypedData::Bool(false)),
            (&[0x11], TypedData::Bool(true)),
            (&[0x31], TypedData::Bool(false)),
            (&[0x04, 0xff, 0xf0, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x0e], TypedData::Int64(-1)),
            (&[0x06, 127, 0, 0, 1], TypedData::Ipv4(Ipv4Addr::LOCALHOST)),
            (&[0x08, 3, b'G', b'E', b'T'], TypedData::Str(b"GET")),
        ] {
            assert_eq!(TypedData::decode(bytes), Ok((value, &[][..])), "{bytes:x?}");
        }
    }

    #[test]
    fn broken_values_are_refused() {
        for (bytes, error) in [
            (&[][..], DecodeError::Truncated),
            (&[0x0a], DecodeError::UnknownDataType(10)),
            (&[0x06, 127, 0, 0], DecodeError::Truncated),
            (&[0x08, 4, b'G', b'E', b'T'], DecodeError::Truncated),
            // A length of 2^64 - 1 is a refusal, never an allocation.
            (&[0x08, 0xff, 0xf0, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x0e], DecodeError::Truncated),
        ] {
            assert_eq!(TypedData::decode(bytes), Err(error), "{bytes:x?}");
        }
    }
}
