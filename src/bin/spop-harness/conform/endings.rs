//! DISCONNECT, and connections that are closed on one side.

use bytes::BytesMut;
use tollgate::spop::TypedData;
use tollgate::spop::frame::{Flags, FrameType};

use super::case::{Case, Level, Seen, failed, warned};
use super::lab::{Conversation, Lab, Then, announced_in, judge, kind, status, words};
use super::pairs;
use super::wire::{self, CAPABILITIES, ENGINE_ID, SIZE, VERSIONS};
use crate::peer::{Heard, Received};

pub fn cases() -> Vec<Case> {
    let mut cases = goodbyes();
    cases.extend(of_the_agent());
    cases.extend(half_closed());
    cases
}

/// HAProxy says goodbye, well and badly.
fn goodbyes() -> Vec<Case> {
    let code = |code| ("status-code", TypedData::UInt32(code));
    let text = |text| ("message", TypedData::Str(text));
    const LONG: &[u8] = &[b'm'; 5000];
    let empty = wire::frame(FrameType::HaproxyDisconnect, Flags::FIN, 0, 0, b"");
    let cut = wire::frame(FrameType::HaproxyDisconnect, Flags::FIN, 0, 0, b"\x0bstatus-co");
    let numbered =
        wire::frame(FrameType::HaproxyDisconnect, Flags::FIN, 5, 1, &wire::pairs(&[code(0), text(b"normal")]));
    vec![
        Case::new(
            "disconnect/answered",
            "3.2.9",
            Level::Haproxy("2.6-3.0 wait for it while they stop"),
            "DISCONNECT, or a close",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                conversation.send(&wire::goodbye()).await;
                conversation.end(&[]).await
            },
        ),
        Case::new(
            "disconnect/answered-with-0",
            "3.2.9",
            Level::Spec,
            "DISCONNECT; a warning: not 0",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                conversation.send(&wire::goodbye()).await;
                let heard = conversation.hear().await;
                match &heard {
                    Heard::Frame(frame) if kind(frame) == Some(FrameType::AgentDisconnect) => match status(frame) {
                        Some(0) => Ok(words(&heard)),
                        _ => warned(words(&heard)),
                    },
                    _ => failed(words(&heard)),
                }
            },
        ),
        Case::new("disconnect/closed-behind-it", "3.2.8", Level::Spec, "a close", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            conversation.send(&wire::goodbye()).await;
            conversation.closed().await
        }),
        gone("without-a-status-code", wire::disconnect(&[text(b"bye")])),
        gone("without-a-message", wire::disconnect(&[code(0)])),
        gone("with-unknown-status", wire::disconnect(&[code(4242), text(b"out of coffee")])),
        gone("with-an-error", wire::disconnect(&[code(3), text(b"frame is too big")])),
        gone("with-a-long-message", wire::disconnect(&[code(0), text(LONG)])),
        gone("with-unknown-key", wire::disconnect(&[("x-later", TypedData::Null), code(0), text(b"normal")])),
        gone("message-not-utf-8", wire::disconnect(&[code(0), text(b"\xff\xfe")])),
        gone("status-not-a-number", wire::disconnect(&[("status-code", TypedData::Str(b"0")), text(b"normal")])),
        gone("with-nothing-in-it", empty),
        gone("cut", cut),
        gone("with-ids", numbered),
        Case::new(
            "disconnect/questions-behind-it",
            "3.2.8",
            Level::Spec,
            "no ACK of what came behind it",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                conversation.send(&[wire::goodbye(), lab.question(1, 1)].concat()).await;
                let heard = conversation.hear().await;
                judge(&heard, FrameType::Ack, Then::Refused(&[]))
            },
        ),
        Case::new(
            "disconnect/behind-a-question",
            "3.2.8",
            Level::Spec,
            "an end, with or without the ACK",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                conversation.send(&[lab.question(1, 1), wire::goodbye()].concat()).await;
                conversation.end(&[]).await
            },
        ),
        Case::new(
            "disconnect/behind-20-questions",
            "3.2.8",
            Level::Spec,
            "an end, with or without the ACKs",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                let count = if lab.announced.pipelining { 20 } else { 1 };
                let questions: Vec<_> = (0..count).map(|stream| lab.question(stream, 1)).collect();
                conversation.send(&[questions.concat(), wire::goodbye().to_vec()].concat()).await;
                conversation.end(&[]).await
            },
        ),
        Case::new("disconnect/after-a-refused-hello", "3.2.3", Level::Spec, "an end", async |lab: Lab| {
            // HAProxy did not like the AGENT-HELLO.
            let mut conversation = lab.greeted().await?;
            let status = ("status-code", TypedData::UInt32(8));
            let message = ("message", TypedData::Str(b"unsupported version"));
            conversation.send(&wire::disconnect(&[status, message])).await;
            conversation.end(&[]).await
        }),
    ]
}

fn gone(name: &str, goodbye: BytesMut) -> Case {
    Case::new(format!("disconnect/{name}"), "3.2.8", Level::Spec, "DISCONNECT or a close", async move |lab: Lab| {
        let mut conversation = lab.greeted().await?;
        conversation.send(&goodbye).await;
        conversation.end(&[]).await
    })
}

/// The agent's own DISCONNECT, as it says it to a HELLO with nothing in it.
fn of_the_agent() -> Vec<Case> {
    let refused = |name: &str, level, expected: &str, look: fn(&Received) -> Seen| {
        Case::new(format!("disconnect/{name}"), "3.2.9", level, expected, async move |lab: Lab| {
            let mut conversation = refused_hello(&lab).await?;
            match conversation.hear().await {
                Heard::Frame(frame) if kind(&frame) == Some(FrameType::AgentDisconnect) => look(&frame),
                // That it was not refused has its own case.
                Heard::Frame(frame) if kind(&frame) == Some(FrameType::AgentHello) => Ok("AGENT-HELLO".to_owned()),
                heard @ (Heard::Closed(0) | Heard::Reset) => Ok(words(&heard)),
                heard => failed(words(&heard)),
            }
        })
    };
    vec![
        refused("own-has-fin-no-ids", Level::Spec, "FIN, ids 0/0, or a close", |frame| match frame.head() {
            Some((_, flags, 0, 0)) if flags.has(Flags::FIN) => Ok("FIN, ids 0/0".to_owned()),
            Some((_, flags, stream, id)) => failed(format!("flags {:#x}, ids {stream}/{id}", flags.bits())),
            None => failed("a frame without a head"),
        }),
        refused("own-status-is-uint32", Level::Spec, "status-code: uint32, or a close", |frame| {
            pairs::one(frame, "status-code", |value| matches!(value, TypedData::UInt32(_)))
        }),
        refused("own-message-is-text", Level::Spec, "message: string, or a close", |frame| {
            pairs::one(frame, "message", |value| matches!(value, TypedData::Str(_)))
        }),
        refused(
            "own-status-is-known",
            Level::Haproxy("up to 3.2.19, which do not bound it"),
            "status-code 0 to 13 or 99, or a close",
            |frame| match status(frame) {
                Some(code @ (0..=13 | 99)) => Ok(format!("status-code {code}")),
                other => failed(format!("status-code {other:?}")),
            },
        ),
        refused("own-message-is-short", Level::Advice, "at most 255 bytes, or a close", |frame| {
            pairs::one(frame, "message", |value| matches!(value, TypedData::Str(text) if text.len() <= 255))
        }),
        Case::new("disconnect/own-then-a-close", "3.2.9", Level::Spec, "a close", async |lab: Lab| {
            let mut conversation = refused_hello(&lab).await?;
            match conversation.hear().await {
                Heard::Frame(frame) if kind(&frame) == Some(FrameType::AgentHello) => Ok("AGENT-HELLO".to_owned()),
                Heard::Frame(_) => conversation.closed().await,
                heard => judge(&heard, FrameType::Ack, Then::Refused(&[])),
            }
        }),
        Case::new(
            "disconnect/nothing-behind-own",
            "3.2.9",
            Level::Spec,
            "no ACK after its DISCONNECT",
            async |lab: Lab| {
                let mut conversation = lab.greeted().await?;
                conversation.send(&[wire::goodbye(), lab.question(1, 1), lab.question(3, 1)].concat()).await;
                let mut gone = false;
                loop {
                    let heard = conversation.hear_quiet().await;
                    match &heard {
                        Heard::Frame(frame) if kind(frame) == Some(FrameType::AgentDisconnect) => gone = true,
                        Heard::Frame(_) if gone => return failed(format!("DISCONNECT, then {}", words(&heard))),
                        Heard::Frame(_) => {}
                        Heard::TooLong(_) => return failed(words(&heard)),
                        _ => return Ok(words(&heard)),
                    }
                }
            },
        ),
    ]
}

async fn refused_hello(lab: &Lab) -> Result<Conversation, super::case::Flaw> {
    let mut conversation = lab.connect().await?;
    conversation.send(&wire::hello(&[])).await;
    Ok(conversation)
}

/// HAProxy's side sends nothing more, and still listens.
fn half_closed() -> Vec<Case> {
    let still = |name: &str, expected: &str, count: u64| {
        Case::new(format!("half-close/{name}"), "3.2.7", Level::Advice, expected, async move |lab: Lab| {
            let count = if lab.announced.pipelining { count } else { 1 };
            let mut conversation = lab.greeted().await?;
            let questions: Vec<_> = (0..count).map(|stream| lab.question(stream, 1)).collect();
            conversation.send(&questions.concat()).await;
            conversation.finish().await;
            conversation.each_once((0..count).map(|stream| (stream, 1))).await
        })
    };
    vec![
        still("after-a-question", "ACK", 1),
        still("after-20-questions", "20 ACKs", 20),
        Case::new("half-close/after-hello", "3.2.5", Level::Advice, "AGENT-HELLO", async |lab: Lab| {
            let mut conversation = lab.connect().await?;
            conversation.send(&wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID])).await;
            conversation.finish().await;
            let hello = conversation.agent_hello().await?;
            announced_in(&hello).map(|_| "AGENT-HELLO".to_owned())
        }),
        Case::new("half-close/is-followed-by-close", "3.2.3", Level::Spec, "a close", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            conversation.finish().await;
            conversation.closed().await
        }),
        Case::new("half-close/inside-a-frame", "3.2.3", Level::Spec, "an end", async |lab: Lab| {
            let mut conversation = lab.greeted().await?;
            let question = lab.question(1, 1);
            conversation.send(&question[..question.len() - 1]).await;
            conversation.finish().await;
            conversation.closed().await
        }),
    ]
}
