//! Frames: their lengths, their pieces, and types that an agent does not know.

use bytes::BytesMut;
use tollgate::spop::frame::{Flags, FrameType};

use super::case::{Case, Level, Seen, failed, warned};
use super::lab::{Lab, Then, judge, words};
use super::wire;
use crate::peer::Heard;

pub fn cases() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(pieces());
    cases.extend(types());
    cases
}

fn lengths() -> Vec<Case> {
    let mut cases: Vec<_> = (0..7u8)
        .map(|length| {
            let expected = Then::Unwanted(&[4]).expected("ACK of what comes next");
            Case::new(format!("frame/length-{length}"), "3.2", Level::Spec, &expected, async move |lab: Lab| {
                // The shortest frames are cut ones of seven bytes, and an ordinary question follows.
                let whole = [3, 0, 0, 0, 1, 9, 9];
                let mut bytes = BytesMut::from(&[0, 0, 0, length][..]);
                bytes.extend_from_slice(whole.get(..usize::from(length)).unwrap_or_default());
                bytes.extend_from_slice(&lab.question(1, 1));
                lab.tried(&bytes, Then::Unwanted(&[4])).await
            })
        })
        .collect();
    let versions = Level::Haproxy("3.1, 3.2.0-3.2.4 send it");
    cases.push(Case::new("frame/length-7", "3.2.6", versions, "ACK", async |lab: Lab| {
        lab.tried(&wire::notify(1, 1, b""), Then::Answered).await
    }));
    cases.push(Case::new("frame/as-large-as-agreed", "3.2", Level::Spec, "ACK", async |lab: Lab| {
        of_size(lab, 0, Then::Answered).await
    }));
    cases.push(Case::new("frame/one-byte-below-it", "3.2", Level::Spec, "ACK", async |lab: Lab| {
        of_size(lab, -1, Then::Answered).await
    }));
    // Who takes more than was agreed on is generous; HAProxy 3.1 sends it.
    let expected = Then::Either.expected("ACK");
    cases.push(Case::new("frame/one-byte-above-it", "3.2", Level::Spec, &expected, async |lab: Lab| {
        of_size(lab, 1, Then::Either).await
    }));
    for (name, length) in [("2-to-the-31", 1u32 << 31), ("2-to-the-32-less-1", u32::MAX)] {
        let expected = Then::Refused(&[3, 4]).expected("ACK");
        cases.push(Case::new(format!("frame/length-{name}"), "3.2", Level::Spec, &expected, async move |lab: Lab| {
            let mut bytes = BytesMut::from(&length.to_be_bytes()[..]);
            bytes.extend_from_slice(&lab.question(1, 1)[4..]);
            lab.tried(&bytes, Then::Refused(&[3, 4])).await
        }));
    }
    cases
}

async fn of_size(lab: Lab, more: i64, then: Then) -> Seen {
    let (mut conversation, size) = lab.greeted_with_size(wire::FRAME_BYTES).await?;
    let length = usize::try_from(i64::from(size) + more).unwrap_or_default();
    // Around the width of a length's length one size cannot be said with one argument; a byte less can.
    let Some(question) = lab.question_of(length).or_else(|| lab.question_of(length - 1)) else {
        return failed(format!("the question has no room in {size} bytes"));
    };
    conversation.send(&question).await;
    let seen = conversation.judged(then).await?;
    Ok(format!("{seen} ({} bytes)", question.len() - 4))
}

fn pieces() -> Vec<Case> {
    vec![
        Case::new("frame/byte-by-byte", "3.2", Level::Spec, "ACK", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            conversation.send_pieces(lab.question(1, 1).chunks(1)).await;
            conversation.judged(Then::Answered).await
        }),
        Case::new("frame/split-anywhere", "3.2", Level::Spec, "ACK wherever it is split", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            let question = lab.question(1, 1);
            for at in 1..question.len() {
                let (first, rest) = question.split_at(at);
                conversation.send_pieces([first, rest]).await;
                if let Err(flaw) = conversation.ack_of(1, 1).await {
                    return failed(format!("split after {at} bytes: {flaw}"));
                }
            }
            Ok(format!("{} ACKs", question.len() - 1))
        }),
        Case::new("frame/three-in-two-halves", "3.2", Level::Spec, "3 ACKs", async |lab: Lab| {
            // One write ends, and the next begins, in the middle of the second frame.
            let mut conversation = lab.greeted().await?;
            if !lab.announced.pipelining {
                return one_by_one(lab, 3).await;
            }
            let all = [lab.question(1, 1), lab.question(3, 1), lab.question(5, 1)].concat();
            let (first, rest) = all.split_at(all.len() / 2);
            conversation.send_pieces([first, rest]).await;
            conversation.each_once([(1, 1), (3, 1), (5, 1)]).await
        }),
        Case::new("frame/ten-in-one-write", "3.2", Level::Spec, "10 ACKs", async |lab: Lab| {
            if !lab.announced.pipelining {
                return one_by_one(lab, 10).await;
            }
            let mut conversation = lab.greeted().await?;
            let all: Vec<_> = (0..10).map(|stream| lab.question(stream, 1)).collect();
            conversation.send(&all.concat()).await;
            conversation.each_once((0..10).map(|stream| (stream, 1))).await
        }),
        Case::new(
            "frame/garbage-behind-a-question",
            "3.2",
            Level::Spec,
            "ACK, then DISCONNECT 3 or 4, or a close; a warning: no ACK",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                let bytes = [&lab.question(1, 1)[..], &[0xff; 64]].concat();
                conversation.send(&bytes).await;
                let first = conversation.hear().await;
                match judge(&first, FrameType::Ack, Then::Answered) {
                    Ok(ack) => {
                        let end = conversation.end(&[3, 4]).await?;
                        Ok(format!("{ack}, then {end}"))
                    }
                    Err(_) => judge(&first, FrameType::Ack, Then::Refused(&[3, 4])).and_then(warned),
                }
            },
        ),
    ]
}

/// What pipelining would have done at once.
async fn one_by_one(lab: Lab, questions: u64) -> Seen {
    let mut conversation = lab.greeted().await?;
    for stream in 0..questions {
        conversation.ask(&lab, stream, 1).await?;
    }
    Ok(format!("{questions} ACKs, one by one"))
}

/// Frames that an agent need not know, then a question.
fn types() -> Vec<Case> {
    let mut cases: Vec<_> = [("4", 4u8), ("50", 50), ("104", 104), ("255", 255)]
        .into_iter()
        .map(|(name, kind)| {
            let expected = "skipped; a warning: DISCONNECT";
            Case::new(format!("frame/unknown-type-{name}"), "3.2.2", Level::Spec, expected, async move |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                let unknown = wire::frame(FrameType::Unknown(kind), Flags::FIN, 1, 1, b"later");
                conversation.send(&[unknown, lab.question(1, 1)].concat()).await;
                let heard = conversation.hear().await;
                match judge(&heard, FrameType::Ack, Then::Answered) {
                    Ok(_) => Ok("skipped".to_owned()),
                    // It may be skipped, so it need not; but an agent that ends for it says so (section 3.2.9).
                    Err(flaw) => match heard {
                        Heard::Frame(_) => judge(&heard, FrameType::Ack, Then::Refused(&[])).and_then(warned),
                        _ => Err(flaw),
                    },
                }
            })
        })
        .collect();
    for (name, kind) in [
        ("type-agent-hello", FrameType::AgentHello),
        ("type-agent-disconnect", FrameType::AgentDisconnect),
        ("type-ack", FrameType::Ack),
    ] {
        let expected = "skipped, DISCONNECT or a close";
        cases.push(Case::new(format!("frame/{name}"), "3.2.2", Level::Spec, expected, async move |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            conversation.send(&wire::frame(kind, Flags::FIN, 9, 9, b"")).await;
            conversation.send(&lab.question(1, 1)).await;
            let heard = conversation.hear().await;
            match &heard {
                Heard::Frame(frame) if frame.head().is_some_and(|head| (head.2, head.3) == (9, 9)) => {
                    failed(words(&heard))
                }
                _ => judge(&heard, FrameType::Ack, Then::Either),
            }
        }));
    }
    cases.push(Case::new(
        "frame/reserved-flags",
        "3.2",
        Level::Spec,
        "ACK; a warning: DISCONNECT or a close",
        async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            conversation.send(&wire::frame(FrameType::Notify, Flags::of(0xffff_fff1), 1, 1, &lab.payload())).await;
            let heard = conversation.hear().await;
            judge(&heard, FrameType::Ack, Then::Answered)
                .or_else(|_| judge(&heard, FrameType::Ack, Then::Refused(&[])).and_then(warned))
        },
    ));
    cases
}
