use bytes::BytesMut;
use proptest::prelude::*;

use super::super::frame::{Flags, Frame, FrameType};
use super::super::hello::AgentHello;
use super::super::{Action, DecodeError, Scope, Status, TypedData, ack, disconnect, engine};
use super::{Conversation, End, Violation, agent_holds, conversation_holds};

/// Frames of one side, put together.
#[derive(Clone, Default)]
struct Said(BytesMut);

impl Said {
    fn frame(mut self, kind: FrameType, flags: u32, ids: (u64, u64), payload: &[u8]) -> Said {
        Frame::encode(kind, Flags::of(flags), ids.0, ids.1, &mut self.0, |out| out.extend_from_slice(payload));
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Said {
        self.0.extend_from_slice(bytes);
        self
    }

    fn hello(mut self) -> Said {
        engine::hello(1000, true, &mut self.0);
        self
    }

    fn notify(mut self, stream: u64) -> Said {
        engine::notify(stream, 1, &[("path", TypedData::Str(b"/"))], &mut self.0);
        self
    }

    fn goodbye(mut self) -> Said {
        disconnect::encode_haproxy(Status::Normal, &mut self.0);
        self
    }

    fn answers(mut self, pipelining: bool, fragmentation: bool) -> Said {
        AgentHello { max_frame_size: 500, pipelining, fragmentation }.encode(&mut self.0);
        self
    }

    fn greets(self) -> Said {
        self.answers(true, true)
    }

    fn ack(mut self, stream: u64) -> Said {
        ack::encode(stream, 1, &[Action::UnsetVar { scope: Scope::Request, name: "x" }], &mut self.0);
        self
    }

    fn leaves(mut self, status: Status) -> Said {
        disconnect::encode_agent(status, &mut self.0);
        self
    }
}

fn said() -> Said {
    Said::default()
}

fn sent() -> Said {
    said().hello()
}

fn received() -> Said {
    said().greets()
}

/// The payload of an ordinary NOTIFY.
fn question() -> BytesMut {
    let mut payload = BytesMut::new();
    engine::request_payload(&[("path", TypedData::Str(b"/"))], &mut payload);
    payload
}

fn check(sent: &Said, received: &Said, settled: &[usize], end: End) -> Result<(), Violation> {
    conversation_holds(&Conversation { sent: &sent.0, received: &received.0, settled, end })
}

const ABORTED: u32 = 3;

#[test]
fn what_agents_may_do_is_taken() {
    let half = &question()[..5];
    let rest = &question()[5..];
    let fragments = sent().frame(FrameType::Notify, 0, (3, 1), half);
    let cases = [
        ("nothing at all", said(), said(), End::Open),
        ("a peer that never said HELLO is left", said(), said(), End::Closed),
        ("questions and answers in any order", sent().notify(1).notify(3), received().ack(3).ack(1), End::Open),
        ("the same ids twice", sent().notify(1).notify(1), received().ack(1).ack(1), End::Open),
        (
            "an unknown type",
            sent().frame(FrameType::Unknown(77), 1, (0, 0), b"x").notify(1),
            received().ack(1),
            End::Open,
        ),
        ("a goodbye", sent().notify(1).goodbye(), received().leaves(Status::Normal), End::Closed),
        ("a goodbye, answered by a close", sent().goodbye(), received(), End::Reset),
        (
            "a breach, and what was asked with it",
            sent().notify(1).bytes(&[0, 0, 0, 1]),
            received().leaves(Status::InvalidFrame),
            End::Closed,
        ),
        ("the same, answered", sent().notify(1).bytes(&[0, 0, 0, 1]), received().ack(1), End::Closed),
        (
            "fragments",
            fragments.clone().frame(FrameType::Unset, 1, (3, 1), rest),
            received().frame(FrameType::Ack, 1, (3, 1), &[2, 2, 3, 0]),
            End::Open,
        ),
        (
            "fragments that are aborted",
            fragments.clone().frame(FrameType::Unset, ABORTED, (3, 1), b"").notify(1),
            received().ack(1),
            End::Open,
        ),
        (
            "fragments that the agent aborts",
            fragments.clone(),
            received().frame(FrameType::Ack, ABORTED, (3, 1), b""),
            End::Open,
        ),
        ("fragments that do not come", fragments.clone(), received().leaves(Status::Timeout), End::Closed),
        (
            "fragments that were not agreed on",
            fragments.clone(),
            said().answers(true, false).leaves(Status::FragmentationUnsupported),
            End::Closed,
        ),
        (
            "an abort of what is whole, heeded",
            sent().frame(FrameType::Notify, ABORTED, (1, 1), &question()),
            received(),
            End::Open,
        ),
        (
            "an abort of what does not decode",
            sent().frame(FrameType::Notify, ABORTED, (1, 1), b"\x05ab"),
            received().leaves(Status::InvalidFrame),
            End::Closed,
        ),
        (
            "an abort of what is whole, ignored",
            sent().frame(FrameType::Notify, ABORTED, (1, 1), &question()),
            received().ack(1),
            End::Open,
        ),
        (
            "pipelining that was not agreed on",
            sent().notify(1).notify(3),
            said().answers(false, false).ack(1),
            End::Closed,
        ),
        ("half a frame", sent().bytes(&[0, 0]), received().leaves(Status::Timeout), End::Closed),
        (
            "a frame longer than agreed on, taken",
            sent().frame(FrameType::Notify, 1, (1, 1), &question().repeat(30)),
            received().ack(1),
            End::Open,
        ),
        ("an answer that HAProxy's side did not wait for", sent().notify(1), received(), End::Left),
        ("an answer cut by a reset", sent().goodbye(), received().bytes(&[0, 0, 0, 9, 103]), End::Reset),
        (
            "a refusal of the HELLO",
            said().frame(FrameType::HaproxyHello, 1, (0, 0), b""),
            said().leaves(Status::VersionMissing),
            End::Closed,
        ),
    ];
    for (what, sent, received, end) in cases {
        assert_eq!(check(&sent, &received, &[], end), Ok(()), "{what}");
    }
}

#[test]
fn what_no_agent_may_do_is_a_violation() {
    let cut = sent().frame(FrameType::Notify, 0, (3, 1), &question()[..5]);
    let aborted = cut.clone().frame(FrameType::Unset, ABORTED, (3, 1), b"");
    let undecodable = sent().frame(FrameType::Notify, 1, (1, 1), b"\x05ab");
    // A stream-id of 2^64, which wraps to 0.
    let wrapping =
        [&[0, 0, 0, 16, 3, 0, 0, 0, 1, 0xf0, 0xf1, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x0e, 1][..]].concat();
    let long = vec![b'x'; 490];
    let long = [&[1, 3, 2, 1, b'x', 8, 0xfa, 15][..], &long].concat();
    let mut large = BytesMut::new();
    AgentHello { max_frame_size: 1001, pipelining: true, fragmentation: true }.encode(&mut large);
    let ids = |stream_id| (stream_id, 1);
    let unasked = |stream_id| Violation::Unasked { stream_id, frame_id: 1 };
    let missing = |stream_id, missing, asked| Violation::Missing { stream_id, frame_id: 1, missing, asked };
    let cases = [
        (sent(), received().bytes(&[0, 0]), End::Open, Violation::CutFrame { at: 81, have: 2, expected: 4 }),
        (
            sent(),
            received().bytes(&[0, 0, 0, 9, 103]),
            End::Closed,
            Violation::CutFrame { at: 81, have: 1, expected: 9 },
        ),
        (sent(), received().bytes(&[0, 0, 0, 3, 1, 2, 3]), End::Open, Violation::ShortFrame { at: 81, length: 3 }),
        (sent().notify(1), said().ack(1), End::Open, Violation::NotHelloFirst { at: 0, kind: FrameType::Ack }),
        (sent(), said(), End::Open, Violation::HelloMissing),
        (cut.clone(), said(), End::Open, Violation::HelloMissing),
        (sent(), received().greets(), End::Open, Violation::HelloUnasked { hellos: 2 }),
        (said().bytes(&[0, 0, 0, 1]), received(), End::Open, Violation::HelloUnasked { hellos: 1 }),
        (
            sent(),
            said().frame(FrameType::AgentHello, 1, (0, 0), b""),
            End::Open,
            Violation::BadHello(Status::VersionMissing),
        ),
        (sent(), said().bytes(&large), End::Open, Violation::HelloSize { announced: 1001, offered: 1000 }),
        (
            sent(),
            said().frame(FrameType::AgentHello, 1, (0, 1), b""),
            End::Open,
            Violation::BadHead { at: 0, flags: 1, stream_id: 0, frame_id: 1 },
        ),
        (
            sent(),
            received().frame(FrameType::Notify, 1, (0, 0), b""),
            End::Open,
            Violation::Unexpected { at: 81, kind: FrameType::Notify },
        ),
        (sent().notify(1), received().ack(3), End::Open, unasked(3)),
        (sent().notify(1), received().ack(1).ack(1), End::Open, Violation::Twice { stream_id: 1, frame_id: 1 }),
        (
            sent().notify(1),
            received().frame(FrameType::Ack, 0, ids(1), &[2, 2, 3, 0]),
            End::Open,
            Violation::AckNotFinal { stream_id: 1, frame_id: 1, flags: 0 },
        ),
        (
            sent().notify(1),
            received().frame(FrameType::Ack, 1, ids(1), b""),
            End::Open,
            Violation::AckEmpty { stream_id: 1, frame_id: 1 },
        ),
        (
            sent().notify(1),
            received().frame(FrameType::Ack, 1, ids(1), b"\x09\x02\x02\x00"),
            End::Open,
            Violation::BadAck { stream_id: 1, frame_id: 1, error: DecodeError::UnknownAction(9, 2) },
        ),
        (
            sent().notify(1),
            received().frame(FrameType::Ack, 1, ids(1), &long),
            End::Open,
            Violation::AckTooLong { stream_id: 1, frame_id: 1, length: 505, negotiated: 500 },
        ),
        (
            sent().goodbye(),
            received().leaves(Status::Normal).leaves(Status::Normal),
            End::Closed,
            Violation::AfterDisconnect { at: 122, kind: FrameType::AgentDisconnect },
        ),
        (
            sent(),
            received().frame(FrameType::AgentDisconnect, 1, (0, 0), b"\x0bstatus-code\x03\x0e"),
            End::Closed,
            Violation::BadStatus(14),
        ),
        (
            sent(),
            received().frame(FrameType::AgentDisconnect, 1, (0, 0), b"\x0bstatus"),
            End::Closed,
            Violation::BadDisconnect { at: 81, error: DecodeError::Truncated },
        ),
        (sent().notify(1), received().ack(1), End::Closed, Violation::Ended),
        (sent().notify(1), received().ack(1).leaves(Status::Normal), End::Open, Violation::Ended),
        (sent(), received(), End::Reset, Violation::Ended),
        (sent().notify(1).notify(3).notify(5), received().ack(3), End::Open, missing(1, 2, 3)),
        (aborted, received().ack(3), End::Open, unasked(3)),
        (cut, received().ack(3), End::Open, unasked(3)),
        (undecodable.clone(), received().ack(1), End::Open, unasked(1)),
        (undecodable.notify(7), received().ack(7), End::Open, unasked(7)),
        (sent().bytes(&wrapping), received().ack(0), End::Open, unasked(0)),
        (sent().goodbye().notify(7), received().ack(7), End::Closed, unasked(7)),
    ];
    for (sent, received, end, expected) in cases {
        assert_eq!(check(&sent, &received, &[], end), Err(expected));
    }
}

#[test]
fn what_an_agent_had_time_for_is_owed_whatever_comes_after() {
    let asked = sent().notify(1);
    let settled = [asked.0.len()];
    let missing = Err(Violation::Missing { stream_id: 1, frame_id: 1, missing: 1, asked: 1 });
    for (after, end) in [
        (asked.clone().bytes(&[0, 0, 0, 1]), End::Closed),
        (asked.clone().goodbye(), End::Closed),
        (asked.clone().hello(), End::Open),
        (asked.clone(), End::Left),
    ] {
        assert_eq!(check(&after, &received(), &[], end), Ok(()));
        assert_eq!(check(&after, &received(), &settled, end), missing);
        assert_eq!(check(&after, &received().ack(1), &settled, end), Ok(()));
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_order_keep_the_agent_within_its_promises(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        schedule in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        agent_holds(&bytes, &schedule);
    }

    /// Whole conversations with some frames odd and some bytes changed: bytes at random hardly get beyond the HELLO.
    #[test]
    fn odd_conversations_in_any_order_keep_the_agent_within_its_promises(
        frames in proptest::collection::vec((0..12u8, 0..400u64, 0..30usize), 0..25),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3),
        schedule in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut said = sent();
        for (what, id, cut) in frames {
            let payload = question();
            let (half, rest) = payload.split_at(cut.min(payload.len()));
            said = match what {
                0..=4 => said.notify(id),
                5 => said.frame(FrameType::Notify, 0, (id, 1), half).frame(FrameType::Unset, 1, (id, 1), rest),
                6 => said.frame(FrameType::Notify, 0, (id, 1), half).frame(FrameType::Unset, ABORTED, (id, 1), b""),
                7 => said.frame(FrameType::Notify, 0, (id, 1), half).frame(FrameType::Unset, 0, (id, 1), rest),
                8 => said.frame(FrameType::Unknown(77), 1, (id, 1), half),
                9 => said.frame(FrameType::Notify, ABORTED, (id, 1), &payload),
                10 if cut == 0 => said.goodbye(),
                11 if cut == 0 => said.frame(FrameType::Notify, 1, (id, 1), half),
                _ => said.frame(FrameType::Notify, 1, (id, 1), &[&payload[..], &payload].concat()),
            };
        }
        let mut bytes = said.0;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        agent_holds(&bytes, &schedule);
    }
}
