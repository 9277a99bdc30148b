//! HELLO: what HAProxy may say of itself, and what the agent must answer.

use bytes::BytesMut;
use tollgate::spop::TypedData;
use tollgate::spop::frame::{Flags, FrameType};

use super::case::{Case, Level, failed, warned};
use super::lab::{Lab, Then, judge};
use super::wire::{self, CAPABILITIES, ENGINE_ID, SIZE, VERSIONS};
use crate::peer::Heard;

pub fn cases() -> Vec<Case> {
    let mut cases = offers();
    cases.extend(frames());
    cases
}

type Pairs = Vec<(&'static str, TypedData<'static>)>;

fn versions(list: &'static [u8]) -> (&'static str, TypedData<'static>) {
    ("supported-versions", TypedData::Str(list))
}

fn size(value: TypedData<'static>) -> (&'static str, TypedData<'static>) {
    ("max-frame-size", value)
}

fn capabilities(list: &'static [u8]) -> (&'static str, TypedData<'static>) {
    ("capabilities", TypedData::Str(list))
}

/// What HAProxy offers, well and badly.
fn offers() -> Vec<Case> {
    const LONG: &[u8] = &[b'e'; 1000];
    use Then::{Answered, Either, Refused, Unwanted};
    let ordinary: Vec<(&str, Pairs, Then)> = vec![
        ("usual", vec![VERSIONS, SIZE, CAPABILITIES, ENGINE_ID], Answered),
        ("3.0-offers-async", vec![VERSIONS, SIZE, capabilities(b"pipelining,async"), ENGINE_ID], Answered),
        ("no-capabilities", vec![VERSIONS, SIZE, capabilities(b""), ENGINE_ID], Answered),
        ("unknown-capability", vec![VERSIONS, SIZE, capabilities(b"pipelining,levitation"), ENGINE_ID], Answered),
        ("capabilities-with-spaces", vec![VERSIONS, SIZE, capabilities(b" pipelining ,  async "), ENGINE_ID], Answered),
        ("versions-in-a-list", vec![versions(b"1.0,2.0"), SIZE, CAPABILITIES, ENGINE_ID], Answered),
        ("versions-with-spaces", vec![versions(b"  2.0 , 1.5 "), SIZE, CAPABILITIES, ENGINE_ID], Answered),
        ("unknown-key", vec![VERSIONS, ("x-colour", TypedData::Str(b"red")), SIZE, CAPABILITIES, ENGINE_ID], Answered),
        ("unknown-key-of-each-type", with_each_type(), Answered),
        ("keys-in-another-order", vec![ENGINE_ID, CAPABILITIES, SIZE, VERSIONS], Answered),
        ("no-engine-id", vec![VERSIONS, SIZE, CAPABILITIES], Answered),
        ("long-engine-id", vec![VERSIONS, SIZE, CAPABILITIES, ("engine-id", TypedData::Str(LONG))], Answered),
        ("size-256", vec![VERSIONS, size(TypedData::UInt32(256)), CAPABILITIES, ENGINE_ID], Answered),
        ("size-of-4-GiB", vec![VERSIONS, size(TypedData::UInt32(u32::MAX)), CAPABILITIES, ENGINE_ID], Answered),
        ("no-versions", vec![SIZE, CAPABILITIES, ENGINE_ID], Refused(&[5])),
        ("no-size", vec![VERSIONS, CAPABILITIES, ENGINE_ID], Refused(&[6])),
        ("capabilities-missing", vec![VERSIONS, SIZE, ENGINE_ID], Unwanted(&[7])),
        ("nothing-in-it", vec![], Refused(&[5, 6, 7])),
        ("version-1.0-only", vec![versions(b"1.0"), SIZE, CAPABILITIES, ENGINE_ID], Refused(&[8])),
        ("version-3.0-only", vec![versions(b"3.0"), SIZE, CAPABILITIES, ENGINE_ID], Refused(&[8])),
        ("versions-empty", vec![versions(b""), SIZE, CAPABILITIES, ENGINE_ID], Refused(&[5, 8])),
        ("versions-not-numbers", vec![versions(b"two"), SIZE, CAPABILITIES, ENGINE_ID], Refused(&[4, 5, 8])),
        ("size-255", vec![VERSIONS, size(TypedData::UInt32(255)), CAPABILITIES, ENGINE_ID], Refused(&[9])),
        ("size-0", vec![VERSIONS, size(TypedData::UInt32(0)), CAPABILITIES, ENGINE_ID], Refused(&[9])),
        ("size-a-string", vec![VERSIONS, size(TypedData::Str(b"16380")), CAPABILITIES, ENGINE_ID], Refused(&[4, 6])),
        ("size-null", vec![VERSIONS, size(TypedData::Null), CAPABILITIES, ENGINE_ID], Refused(&[4, 6])),
    ];
    let mut cases: Vec<_> =
        ordinary.into_iter().map(|(name, offered, then)| offer(name, Level::Spec, offered, then)).collect();
    let binary = ("supported-versions", TypedData::Bin(b"2.0"));
    let number = ("capabilities", TypedData::UInt32(1));
    let advice: Vec<(&str, Pairs, Then)> = vec![
        // The specification lets it mean 2.0 too; no HAProxy says it.
        ("version-2.1-means-2.0-too", vec![versions(b"2.1"), SIZE, CAPABILITIES, ENGINE_ID], Answered),
        ("size-as-int64", vec![VERSIONS, size(TypedData::Int64(16380)), CAPABILITIES, ENGINE_ID], Either),
        ("size-negative", vec![VERSIONS, size(TypedData::Int32(-1)), CAPABILITIES, ENGINE_ID], Refused(&[4, 6, 9])),
        ("versions-binary", vec![binary, SIZE, CAPABILITIES, ENGINE_ID], Unwanted(&[4, 5])),
        ("capabilities-a-number", vec![VERSIONS, SIZE, number, ENGINE_ID], Unwanted(&[4, 7])),
        ("key-twice", vec![VERSIONS, VERSIONS, SIZE, CAPABILITIES, ENGINE_ID], Either),
    ];
    cases.extend(advice.into_iter().map(|(name, offered, then)| offer(name, Level::Advice, offered, then)));
    cases
}

fn with_each_type() -> Pairs {
    let types = [
        TypedData::Null,
        TypedData::Bool(true),
        TypedData::Int32(-1),
        TypedData::UInt64(u64::MAX),
        TypedData::Ipv4([192, 0, 2, 1].into()),
        TypedData::Ipv6(std::net::Ipv6Addr::LOCALHOST),
        TypedData::Bin(b"\0\xff"),
    ];
    let mut offered = vec![VERSIONS, SIZE, CAPABILITIES, ENGINE_ID];
    offered.extend(types.map(|value| ("x-later", value)));
    offered
}

fn offer(name: &str, level: Level, offered: Pairs, then: Then) -> Case {
    greeting(name, level, wire::hello(&offered), then)
}

fn greeting(name: &str, level: Level, first: BytesMut, then: Then) -> Case {
    let expected = then.expected("AGENT-HELLO");
    Case::new(format!("hello/{name}"), "3.2.4", level, &expected, async move |lab: Lab| {
        let mut conversation = lab.connect().await?;
        conversation.send(&first).await;
        judge(&conversation.hear().await, FrameType::AgentHello, then)
    })
}

/// HELLO as a frame: its head, its pieces, its place.
fn frames() -> Vec<Case> {
    let usual = || wire::pairs(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID]);
    let hello = |flags, stream, id| wire::frame(FrameType::HaproxyHello, flags, stream, id, &usual());
    let mut cut = usual();
    cut.truncate(cut.len() - 3);
    let mut leftover = usual();
    leftover.extend_from_slice(b"\x7f");
    let mut unnamed = usual();
    unnamed.extend_from_slice(&wire::argument(b"", TypedData::Null));
    let of = |payload: &[u8]| wire::frame(FrameType::HaproxyHello, Flags::FIN, 0, 0, payload);
    let mut cases = vec![
        greeting("without-fin", Level::Spec, hello(Flags::NONE, 0, 0), Then::Refused(&[4, 10])),
        greeting("stream-id-not-0", Level::Spec, hello(Flags::FIN, 1, 0), Then::Unwanted(&[4])),
        greeting("frame-id-not-0", Level::Spec, hello(Flags::FIN, 0, 1), Then::Unwanted(&[4])),
        greeting("cut-value", Level::Spec, of(&cut), Then::Refused(&[4])),
        greeting("leftover-bytes", Level::Spec, of(&leftover), Then::Unwanted(&[4])),
        greeting("empty-key", Level::Advice, of(&unnamed), Then::Unwanted(&[4])),
        greeting("notify-first", Level::Spec, wire::notify(1, 1, b""), Then::Refused(&[4])),
        greeting(
            "not-spop-at-all",
            Level::Spec,
            BytesMut::from(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]),
            Then::Refused(&[3, 4]),
        ),
    ];
    cases.push(Case::new("hello/disconnect-first", "3.2.8", Level::Spec, "DISCONNECT or a close", async |lab: Lab| {
        let mut conversation = lab.connect().await?;
        conversation.send(&wire::goodbye()).await;
        conversation.end(&[]).await
    }));
    cases.push(Case::new(
        "hello/twice",
        "3.2.4",
        Level::Spec,
        "DISCONNECT 4, or a close; a warning: nothing, or a second AGENT-HELLO",
        async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            conversation.send(&wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID])).await;
            match conversation.hear().await {
                // No HAProxy says it twice, so nobody waits for what comes of it.
                Heard::Nothing => warned("nothing"),
                heard => judge(&heard, FrameType::AgentHello, Then::Unwanted(&[4])),
            }
        },
    ));
    cases.push(Case::new("hello/byte-by-byte", "3.2.4", Level::Spec, "AGENT-HELLO", async |lab: Lab| {
        let mut conversation = lab.connect().await?;
        let hello = wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID]);
        conversation.send_pieces(hello.chunks(1)).await;
        conversation.agent_hello().await.map(|_| "AGENT-HELLO".to_owned())
    }));
    cases.push(Case::new(
        "hello/split-anywhere",
        "3.2.4",
        Level::Spec,
        "AGENT-HELLO wherever it is split",
        async |lab: Lab| {
            let hello = wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID]);
            for at in 1..hello.len() {
                let mut conversation = lab.connect().await?;
                let (first, rest) = hello.split_at(at);
                conversation.send_pieces([first, rest]).await;
                if let Err(flaw) = conversation.agent_hello().await {
                    return failed(format!("split after {at} bytes: {flaw}"));
                }
            }
            Ok(format!("AGENT-HELLO {} times", hello.len() - 1))
        },
    ));
    cases.push(Case::new(
        "hello/question-in-the-same-write",
        "3.2.3",
        Level::Advice,
        "AGENT-HELLO, then ACK",
        async |lab: Lab| {
            let mut conversation = lab.connect().await?;
            let mut both = wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID]);
            both.extend_from_slice(&lab.question(1, 1));
            conversation.send(&both).await;
            conversation.agent_hello().await?;
            conversation.ack_of(1, 1).await.map(|_| "AGENT-HELLO, then ACK".to_owned())
        },
    ));
    cases.push(Case::new(
        "hello/nothing-after-it",
        "3.2.3",
        Level::Spec,
        "nothing until it is asked",
        async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            match conversation.hear_quiet().await {
                Heard::Nothing => Ok("nothing".to_owned()),
                Heard::Frame(frame) => failed(super::lab::words(&Heard::Frame(frame))),
                end => warned(super::lab::words(&end)),
            }
        },
    ));
    cases
}
