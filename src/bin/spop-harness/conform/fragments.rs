//! A NOTIFY in pieces, as HAProxy up to 3.0 sends one that is too big. An agent that announced `fragmentation` must
//! put it together; any other must refuse the first piece.

use bytes::BytesMut;
use tollgate::spop::TypedData;
use tollgate::spop::frame::{Flags, FrameType};

use super::case::{Case, Level, Seen, failed, skipped, warned};
use super::lab::{Conversation, Lab, PADDING, Then, judge, words};
use super::wire;
use crate::peer::Heard;

pub fn cases() -> Vec<Case> {
    vec![
        whole("in-two", |payload| cut(payload, &[payload.len() / 2])),
        whole("in-three", |payload| cut(payload, &[payload.len() / 3, payload.len() * 2 / 3])),
        whole("a-byte-each", |payload| cut(payload, &(1..payload.len()).collect::<Vec<_>>())),
        whole("first-empty", |payload| cut(payload, &[0])),
        whole("middle-empty", |payload| cut(payload, &[3, 3])),
        whole("last-empty", |payload| cut(payload, &[payload.len()])),
        whole("all-empty", |_| vec![BytesMut::new(), BytesMut::new()]),
        case("cut-anywhere", "an ACK wherever it is cut", async |mut conversation, lab| {
            let payload = lab.payload();
            for at in 0..=payload.len() {
                conversation.send(&fragmented(1, 1, &cut(&payload, &[at]))).await;
                if let Err(flaw) = conversation.ack_of(1, 1).await {
                    return failed(format!("cut after {at} bytes: {flaw}"));
                }
            }
            Ok(format!("{} ACKs", payload.len() + 1))
        }),
        case("larger-than-a-frame", "ACK", async |mut conversation, lab| {
            // Twice what one frame holds: this is what fragments are for.
            let payload = large(&lab, 2 * lab.announced.max_frame_size as usize);
            let pieces: Vec<_> =
                payload.chunks(lab.announced.max_frame_size as usize / 2).map(BytesMut::from).collect();
            conversation.send(&fragmented(1, 1, &pieces)).await;
            conversation.judged(Then::Answered).await
        }),
        case("slowly", "ACK", async |mut conversation, lab| {
            let payload = lab.payload();
            let pieces = cut(&payload, &[payload.len() / 2]);
            let bytes = fragmented(1, 1, &pieces);
            conversation.send_pieces(bytes.chunks(5)).await;
            conversation.judged(Then::Answered).await
        }),
        case("two-in-turn", "an ACK each", async |mut conversation, lab| {
            let payload = lab.payload();
            for stream in [1, 3] {
                conversation.send(&fragmented(stream, 1, &cut(&payload, &[payload.len() / 2]))).await;
                conversation.ack_of(stream, 1).await?;
            }
            Ok("an ACK each".to_owned())
        }),
        case("silence-before-last", "nothing before the last, then ACK", async |mut conversation, lab| {
            let payload = lab.payload();
            let (first, last) = payload.split_at(payload.len() / 2);
            conversation.send(&piece(FrameType::Notify, Flags::NONE, 1, 1, first)).await;
            let early = conversation.hear_quiet().await;
            if early != Heard::Nothing {
                return failed(words(&early));
            }
            conversation.send(&piece(FrameType::Unset, Flags::FIN, 1, 1, last)).await;
            conversation.judged(Then::Answered).await
        }),
        broken("interlaced-notify", Then::Unwanted(&[11]), |lab| {
            [piece(FrameType::Notify, Flags::NONE, 3, 1, b""), lab.question(1, 1)].concat()
        }),
        broken("of-another-stream", Then::Unwanted(&[4, 11, 12]), |lab| {
            let payload = lab.payload();
            [piece(FrameType::Notify, Flags::NONE, 1, 1, &payload), piece(FrameType::Unset, Flags::FIN, 3, 1, b"")]
                .concat()
        }),
        broken("of-another-frame", Then::Unwanted(&[4, 11, 12]), |lab| {
            let payload = lab.payload();
            [piece(FrameType::Notify, Flags::NONE, 1, 1, &payload), piece(FrameType::Unset, Flags::FIN, 1, 2, b"")]
                .concat()
        }),
        broken("whole-is-unreadable", Then::Unwanted(&[4]), |lab| {
            fragmented(1, 1, &[lab.payload(), BytesMut::from(&b"\x7f"[..])]).to_vec()
        }),
        aborted("aborted", vec![Flags::FIN.and(Flags::ABORT)]),
        aborted("aborted-in-the-middle", vec![Flags::NONE, Flags::FIN.and(Flags::ABORT)]),
        unannounced(),
        unstarted("unset-first", Flags::FIN),
        unstarted("unset-first-no-fin", Flags::NONE),
        endless(),
    ]
}

/// A trial on a connection to an agent that announced fragmentation.
fn case<F: Future<Output = Seen> + 'static>(
    name: &str,
    expected: &str,
    trial: impl FnOnce(Conversation, Lab) -> F + 'static,
) -> Case {
    Case::new(format!("fragments/{name}"), "3.2", Level::Spec, expected, async move |lab: Lab| {
        if !lab.announced.fragmentation {
            return skipped("fragmentation is not announced");
        }
        trial(lab.greeted().await?, lab).await
    })
}

fn whole(name: &str, pieces: impl FnOnce(&[u8]) -> Vec<BytesMut> + 'static) -> Case {
    case(name, "ACK", async move |mut conversation: Conversation, lab: Lab| {
        conversation.send(&fragmented(1, 1, &pieces(&lab.payload()))).await;
        conversation.judged(Then::Answered).await
    })
}

fn broken(name: &str, then: Then, bytes: impl FnOnce(&Lab) -> Vec<u8> + 'static) -> Case {
    case(name, &then.expected("ACK"), async move |mut conversation: Conversation, lab: Lab| {
        conversation.send(&bytes(&lab)).await;
        conversation.judged(then).await
    })
}

/// A NOTIFY that is given up, then a question: HAProxy waits for no ACK of the first.
fn aborted(name: &str, flags: Vec<Flags>) -> Case {
    case(name, "ACK of the next question", async move |mut conversation: Conversation, lab: Lab| {
        conversation.send(&piece(FrameType::Notify, Flags::NONE, 1, 1, &lab.payload())).await;
        for flags in flags {
            conversation.send(&piece(FrameType::Unset, flags, 1, 1, b"")).await;
        }
        conversation.ask(&lab, 3, 1).await?;
        Ok("ACK of the next question".to_owned())
    })
}

/// An agent that did not announce it must not wait for the rest, nor take the first piece for all.
fn unannounced() -> Case {
    let then = Then::Refused(&[4, 10]);
    let expected = format!("{} (unless announced)", then.expected("ACK"));
    Case::new("fragments/not-announced", "3.2", Level::Spec, &expected, async move |lab: Lab| {
        if lab.announced.fragmentation {
            return Ok("fragmentation is announced".to_owned());
        }
        lab.tried(&piece(FrameType::Notify, Flags::NONE, 1, 1, &lab.payload()), then).await
    })
}

/// A later piece without a first. Skipped is as well as refused.
fn unstarted(name: &str, flags: Flags) -> Case {
    let expected = "skipped, DISCONNECT or a close";
    Case::new(format!("fragments/{name}"), "3.2", Level::Spec, expected, async move |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        conversation.send(&piece(FrameType::Unset, flags, 9, 1, &lab.payload())).await;
        conversation.send(&lab.question(1, 1)).await;
        let heard = conversation.hear().await;
        match &heard {
            Heard::Frame(frame) if frame.head().is_some_and(|head| head.2 == 9) => failed(words(&heard)),
            _ => judge(&heard, FrameType::Ack, Then::Either),
        }
    })
}

/// Pieces without end: who keeps them all can be filled by anybody.
fn endless() -> Case {
    const PIECE_BYTES: usize = 16 * 1024 - 64;
    // HAProxy's own bound is 255 buffers of 16 KiB; beyond twice that no agent of it has anything to gain.
    const PIECES: usize = 2 * 255;
    let expected = "an end within 8 MiB";
    Case::new("fragments/without-end", "3.2", Level::Advice, expected, async move |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        conversation.send(&piece(FrameType::Notify, Flags::NONE, 1, 1, &lab.payload())).await;
        let more = piece(
            FrameType::Unset,
            Flags::NONE,
            1,
            1,
            &vec![0; PIECE_BYTES.min(lab.announced.max_frame_size as usize - 7)],
        );
        for _ in 0..PIECES {
            conversation.send(&more).await;
        }
        match conversation.hear().await {
            Heard::Nothing => warned("8 MiB taken, and no end"),
            heard => judge(&heard, FrameType::Ack, Then::Refused(&[3, 4, 10, 13])),
        }
    })
}

fn piece(kind: FrameType, flags: Flags, stream_id: u64, frame_id: u64, payload: &[u8]) -> BytesMut {
    wire::frame(kind, flags, stream_id, frame_id, payload)
}

/// NOTIFY, then UNSET, the last with FIN.
fn fragmented(stream_id: u64, frame_id: u64, pieces: &[BytesMut]) -> BytesMut {
    let mut out = BytesMut::new();
    for (at, payload) in pieces.iter().enumerate() {
        let kind = if at == 0 { FrameType::Notify } else { FrameType::Unset };
        let flags = if at + 1 == pieces.len() { Flags::FIN } else { Flags::NONE };
        out.extend_from_slice(&piece(kind, flags, stream_id, frame_id, payload));
    }
    out
}

/// The payload cut at each of these places, in rising order.
fn cut(payload: &[u8], places: &[usize]) -> Vec<BytesMut> {
    let starts = std::iter::once(&0).chain(places);
    let ends = places.iter().chain(std::iter::once(&usize::MAX));
    starts.zip(ends).map(|(start, end)| BytesMut::from(&payload[*start..(*end).min(payload.len())])).collect()
}

/// The question with so many bytes of one more argument.
fn large(lab: &Lab, bytes: usize) -> BytesMut {
    lab.payload_with(&[wire::argument(PADDING, TypedData::Str(&vec![b'x'; bytes]))])
}
