//! Typed data: every type as the value of an argument, and values that are broken.

use bytes::{BufMut, BytesMut};
use tollgate::spop::TypedData;

use super::case::{Case, Level};
use super::lab::{Lab, PADDING, Then};
use super::wire;

pub fn cases() -> Vec<Case> {
    const EVERY_BYTE: &[u8] = &every_byte();
    const LARGE: &[u8] = &[b'x'; 15_000];
    let whole: [(&str, TypedData<'static>); 25] = [
        ("null", TypedData::Null),
        ("bool-true", TypedData::Bool(true)),
        ("bool-false", TypedData::Bool(false)),
        ("int32-least", TypedData::Int32(i32::MIN)),
        ("int32-negative", TypedData::Int32(-1)),
        ("int32-greatest", TypedData::Int32(i32::MAX)),
        ("uint32-greatest", TypedData::UInt32(u32::MAX)),
        ("int64-least", TypedData::Int64(i64::MIN)),
        ("int64-negative", TypedData::Int64(-1)),
        ("int64-greatest", TypedData::Int64(i64::MAX)),
        ("uint64-greatest", TypedData::UInt64(u64::MAX)),
        ("ipv4", TypedData::Ipv4([192, 0, 2, 1].into())),
        ("ipv4-any", TypedData::Ipv4([0, 0, 0, 0].into())),
        ("ipv6", TypedData::Ipv6(std::net::Ipv6Addr::LOCALHOST)),
        ("ipv6-mapped", TypedData::Ipv6(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped())),
        ("string-empty", TypedData::Str(b"")),
        ("string-not-utf-8", TypedData::Str(b"caf\xe9 \xff\xfe")),
        ("string-with-nul", TypedData::Str(b"a\0b")),
        ("string-with-line-ends", TypedData::Str(b"a\r\nx-auth-user: root\r\n")),
        ("string-large", TypedData::Str(LARGE)),
        ("string-of-every-byte", TypedData::Str(EVERY_BYTE)),
        ("binary-empty", TypedData::Bin(b"")),
        ("binary-of-every-byte", TypedData::Bin(EVERY_BYTE)),
        ("binary-large", TypedData::Bin(LARGE)),
        ("uint64-zero", TypedData::UInt64(0)),
    ];
    let mut cases: Vec<_> = whole
        .into_iter()
        .map(|(name, value)| {
            let mut bytes = BytesMut::new();
            value.encode(&mut bytes);
            valued(name, Level::Spec, vec![bytes], Then::Answered)
        })
        .collect();
    let bytes = |bytes: &[u8]| BytesMut::from(bytes);
    cases.extend([
        // Bits that the type gives no meaning to.
        valued("bool-with-more-flags", Level::Spec, vec![bytes(&[0x31]), bytes(&[0xe1])], Then::Answered),
        valued("string-with-flags", Level::Spec, vec![bytes(b"\xf8\x03abc")], Then::Answered),
        valued("integer-with-flags", Level::Spec, vec![bytes(&[0xf4, 0x07])], Then::Answered),
        valued("null-with-flags", Level::Spec, vec![bytes(&[0xf0])], Then::Answered),
    ]);
    let unknown = (10..16u8).map(|kind| bytes(&[kind])).collect();
    let unreadable = Then::Unwanted(&[4]);
    cases.extend([
        valued("types-10-to-15", Level::Spec, unknown, unreadable),
        valued("missing", Level::Spec, vec![BytesMut::new()], unreadable),
        valued("ipv4-cut", Level::Spec, vec![bytes(&[6, 192, 0, 2])], unreadable),
        valued("ipv6-cut", Level::Spec, vec![cut_ipv6()], unreadable),
        valued("integer-cut", Level::Spec, vec![bytes(&[4]), bytes(&[4, 0xf0]), bytes(&[4, 0xf0, 0x80])], unreadable),
        valued("string-cut", Level::Spec, vec![bytes(b"\x08\x04abc"), bytes(b"\x08")], unreadable),
        valued("binary-cut", Level::Spec, vec![bytes(b"\x09\x04abc"), bytes(b"\x09\xf0")], unreadable),
    ]);
    cases
}

/// Each of these bytes as the value of one more argument, on a connection of its own.
fn valued(name: &str, level: Level, values: Vec<BytesMut>, then: Then) -> Case {
    Case::new(format!("value/{name}"), "3.1", level, &then.expected("ACK"), async move |lab: Lab| {
        let mut seen = String::new();
        for value in values {
            let argument = [wire::string(PADDING), value].concat();
            let payload = lab.payload_with(&[BytesMut::from(&argument[..])]);
            seen = lab.tried(&wire::notify(1, 1, &payload), then).await?;
        }
        Ok(seen)
    })
}

fn cut_ipv6() -> BytesMut {
    let mut bytes = BytesMut::from(&[7][..]);
    bytes.put_bytes(0x20, 15);
    bytes
}

const fn every_byte() -> [u8; 256] {
    let mut all = [0; 256];
    let mut at = 0;
    while at < 256 {
        all[at] = at as u8;
        at += 1;
    }
    all
}
