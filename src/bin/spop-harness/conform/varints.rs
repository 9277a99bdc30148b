//! Variable-length integers at each boundary of their encoding, and beyond what they may say.

use bytes::{BufMut, BytesMut};
use tollgate::spop::frame::FrameType;
use tollgate::spop::{TypedData, varint};

use super::case::{Case, Level, Seen, failed};
use super::lab::{Lab, PADDING, Then, judge, kind};
use super::wire::{self, BEYOND, wide_varint};
use crate::peer::Heard;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bytes, values) in WIDTHS {
        cases.push(identifier("stream-id", bytes, values, |value| (value, 1)));
        cases.push(identifier("frame-id", bytes, values, |value| (1, value)));
        cases.push(integer(bytes, values));
    }
    cases.extend(lengths());
    cases.extend(beyond());
    cases
}

/// How many bytes, and the lowest and highest that take so many.
const WIDTHS: [(&str, &[u64]); 6] = [
    ("1-byte", &[1, 239]),
    ("2-bytes", &[240, 2287]),
    ("3-bytes", &[2288, 264_431]),
    ("4-bytes", &[264_432, 33_818_863]),
    ("5-bytes", &[33_818_864, u32::MAX as u64]),
    ("up-to-10", &[4_328_786_159, 4_328_786_160, 1 << 40, 1 << 63, u64::MAX - 1, u64::MAX]),
];

/// Identifiers of no HAProxy need more than 32 bits; an agent that cannot keep them may say so, but may not answer
/// another.
fn identifier(name: &str, bytes: &str, values: &'static [u64], ids: impl Fn(u64) -> (u64, u64) + 'static) -> Case {
    let usual = values.iter().all(|value| u32::try_from(*value).is_ok());
    let expected = if usual { "ACK with the same ids" } else { "ACK with the same ids, DISCONNECT or a close" };
    Case::new(format!("varint/{name}-{bytes}"), "3.1", Level::Spec, expected, async move |lab: Lab| {
        for value in values {
            let mut conversation = lab.greeted().await?;
            let (stream, frame) = ids(*value);
            conversation.send(&lab.question(stream, frame)).await;
            let heard = conversation.hear().await;
            let seen = judge(&heard, FrameType::Ack, if usual { Then::Answered } else { Then::Either })?;
            match &heard {
                Heard::Frame(ack) if kind(ack) == Some(FrameType::Ack) => {
                    if ack.head().is_none_or(|(_, _, s, f)| (s, f) != (stream, frame)) {
                        return failed(format!("{seen} for {stream}/{frame}"));
                    }
                }
                _ => return Ok(seen),
            }
        }
        Ok(format!("{} ACKs", values.len()))
    })
}

fn integer(bytes: &str, values: &'static [u64]) -> Case {
    Case::new(format!("varint/integer-{bytes}"), "3.1", Level::Spec, "ACK", async move |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        for value in values {
            let value = wire::argument(PADDING, TypedData::UInt64(*value));
            conversation.send(&wire::notify(1, 1, &lab.payload_with(&[value]))).await;
            conversation.ack_of(1, 1).await?;
        }
        Ok(format!("{} ACKs", values.len()))
    })
}

fn lengths() -> Vec<Case> {
    [("1-byte", &[0usize, 239][..]), ("2-bytes", &[240, 2287]), ("3-bytes", &[2288, 15_000])]
        .into_iter()
        .map(|(bytes, lengths)| {
            Case::new(format!("varint/length-{bytes}"), "3.1", Level::Spec, "ACK", async move |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                for length in lengths {
                    let long = vec![b'x'; *length];
                    let payload = lab.payload_with(&[wire::argument(PADDING, TypedData::Str(&long))]);
                    conversation.send(&wire::notify(1, 1, &payload)).await;
                    conversation.ack_of(1, 1).await?;
                }
                Ok(format!("{} ACKs", lengths.len()))
            })
        })
        .collect()
}

/// What does not fit 64 bits, and what never ends. Read with arithmetic that wraps, each is an ordinary question.
fn beyond() -> Vec<Case> {
    type Write = fn(&Lab) -> BytesMut;
    let cases: [(&str, Write); 9] = [
        ("stream-id-2-to-the-64", |lab| identified(lab, &wide_varint(BEYOND + 1), &[1])),
        ("frame-id-2-to-the-64", |lab| identified(lab, &[1], &wide_varint(BEYOND + 1))),
        ("stream-id-of-11-bytes", |lab| identified(lab, &wide_varint(1 << 70), &[1])),
        ("stream-id-without-end", |lab| identified(lab, &[0xff; 64], &[])),
        ("stream-id-cut", |_| wire::raw(3, 1, &[0xf0, 0x80])),
        ("frame-id-cut", |_| wire::raw(3, 1, &[0x01, 0xff])),
        ("name-length-2-to-the-64", |lab| {
            let name = lab.question.message.as_bytes();
            // Behind the length that was right.
            let rest = lab.payload().split_off(wire::string(name).len() - name.len());
            let mut payload = wide_varint(BEYOND + name.len() as u128);
            payload.extend_from_slice(&rest);
            wire::notify(1, 1, &payload)
        }),
        ("value-length-2-to-the-64", |lab| {
            let mut value = wire::string(PADDING);
            value.put_u8(8);
            value.extend_from_slice(&wide_varint(BEYOND + 3));
            value.extend_from_slice(b"abc");
            wire::notify(1, 1, &lab.payload_with(&[value]))
        }),
        ("value-length-without-end", |lab| {
            let mut value = wire::string(PADDING);
            value.put_u8(8);
            value.extend_from_slice(&[0xff; 64]);
            wire::notify(1, 1, &lab.payload_with(&[value]))
        }),
    ];
    let mut cases: Vec<_> = cases
        .into_iter()
        .map(|(name, write)| {
            let then = Then::Refused(&[3, 4]);
            Case::new(format!("varint/{name}"), "3.1", Level::Spec, &then.expected("ACK"), async move |lab: Lab| {
                let bytes = write(&lab);
                lab.tried(&bytes, then).await
            })
        })
        .collect();
    // A length that fits 64 bits and no memory.
    let then = Then::Refused(&[3, 4]);
    cases.push(Case::new(
        "varint/value-length-of-all-ones",
        "3.1",
        Level::Spec,
        &then.expected("ACK"),
        async move |lab: Lab| -> Seen {
            let mut value = wire::string(PADDING);
            value.put_u8(8);
            varint::encode(u64::MAX, &mut value);
            lab.tried(&wire::notify(1, 1, &lab.payload_with(&[value])), then).await
        },
    ));
    cases
}

/// The question under identifiers that are given as bytes.
fn identified(lab: &Lab, stream_id: &[u8], frame_id: &[u8]) -> BytesMut {
    wire::raw(3, 1, &[stream_id, frame_id, &lab.payload()[..]].concat())
}
