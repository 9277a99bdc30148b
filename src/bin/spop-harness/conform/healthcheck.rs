//! Health checks (`option spop-check`): a HELLO, an AGENT-HELLO, and the end.

use tollgate::spop::TypedData;
use tollgate::spop::frame::FrameType;

use super::case::{Case, Flaw, Level, failed, warned};
use super::lab::{Conversation, Lab, Then, announced_in, judge, words};
use super::pairs;
use super::wire::{self, CAPABILITIES, ENGINE_ID, HEALTHCHECK, SIZE, VERSIONS};
use crate::peer::{Heard, Received};

pub fn cases() -> Vec<Case> {
    const NONE: (&str, TypedData<'static>) = ("capabilities", TypedData::Str(b""));
    const NEWER: Level = Level::Haproxy("3.1 and later");
    let answered = |name: &'static str, offered: Vec<(&'static str, TypedData<'static>)>| {
        Case::new(format!("check/{name}"), "3.2.4", Level::Spec, "AGENT-HELLO", async move |lab: Lab| {
            let mut conversation = lab.connect().await?;
            conversation.send(&wire::hello(&offered)).await;
            judge(&conversation.hear().await, FrameType::AgentHello, Then::Answered)
        })
    };
    let size = |size| ("max-frame-size", TypedData::UInt32(size));
    vec![
        answered("answered", vec![VERSIONS, SIZE, NONE, HEALTHCHECK]),
        answered("key-first", vec![HEALTHCHECK, VERSIONS, SIZE, NONE]),
        answered("with-an-engine-id", vec![VERSIONS, SIZE, NONE, ENGINE_ID, HEALTHCHECK]),
        answered("with-pipelining", vec![VERSIONS, SIZE, CAPABILITIES, HEALTHCHECK]),
        Case::new("check/has-every-key", "3.2.5", NEWER, "version, max-frame-size, capabilities", async |lab: Lab| {
            let (_, frame) = checked(&lab, SIZE).await?;
            let keys = pairs::keys(&frame)?;
            let wanted = ["version", "max-frame-size", "capabilities"];
            let missing = wanted.into_iter().find(|key| !keys.iter().any(|said| said == key));
            match missing {
                None => Ok("all three".to_owned()),
                Some(key) => failed(format!("no {}", key)),
            }
        }),
        Case::new("check/has-no-other-flags", "3.2", NEWER, "flags 0x1", async |lab: Lab| {
            let (_, frame) = checked(&lab, SIZE).await?;
            match frame.head().map_or(0, |head| head.1.bits()) {
                1 => Ok("flags 0x1".to_owned()),
                other => failed(format!("flags {other:#x}")),
            }
        }),
        Case::new("check/nothing-behind-it", "3.2.3", NEWER, "nothing, or a close", async |lab: Lab| {
            let (mut conversation, _) = checked(&lab, SIZE).await?;
            match conversation.hear_quiet().await {
                Heard::Frame(frame) => failed(words(&Heard::Frame(frame))),
                other => Ok(words(&other)),
            }
        }),
        Case::new("check/closed-by-the-agent", "3.2.4", Level::Advice, "a close", async |lab: Lab| {
            let (mut conversation, _) = checked(&lab, SIZE).await?;
            conversation.closed().await
        }),
        sized("small", size(256), 256),
        sized("of-1024", size(1024), 1024),
        sized("usual", SIZE, wire::FRAME_BYTES),
        Case::new(
            "check/fits-a-small-buffer",
            "3.2.5",
            Level::Advice,
            "max-frame-size below 8188",
            async |lab: Lab| {
                // HAProxy from 3.1 on says 16380 whatever its buffers are, and compares the answer with what they are.
                let (_, frame) = checked(&lab, SIZE).await?;
                let announced = announced_in(&frame)?.max_frame_size;
                if announced <= 8188 {
                    Ok(format!("max-frame-size: {announced}"))
                } else {
                    warned(format!("max-frame-size: {announced}"))
                }
            },
        ),
        Case::new(
            "check/not-one-when-false",
            "3.2.4",
            Level::Spec,
            "AGENT-HELLO, and an ACK of a question",
            async |lab: Lab| {
                let no = ("healthcheck", TypedData::Bool(false));
                let (mut conversation, _) = lab.greeted_by(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID, no]).await?;
                conversation.ask(&lab, 1, 1).await.map(|_| "AGENT-HELLO, then ACK".to_owned())
            },
        ),
        Case::new(
            "check/in-another-type",
            "3.2.4",
            Level::Advice,
            "AGENT-HELLO, DISCONNECT or a close",
            async |lab: Lab| {
                let mut conversation = lab.connect().await?;
                let text = ("healthcheck", TypedData::Str(b"true"));
                conversation.send(&wire::hello(&[VERSIONS, SIZE, NONE, text])).await;
                judge(&conversation.hear().await, FrameType::AgentHello, Then::Either)
            },
        ),
        Case::new("check/version-1.0", "3.2.4", Level::Spec, "DISCONNECT 8, or a close", async |lab: Lab| {
            let mut conversation = lab.connect().await?;
            let versions = ("supported-versions", TypedData::Str(b"1.0"));
            conversation.send(&wire::hello(&[versions, SIZE, NONE, HEALTHCHECK])).await;
            judge(&conversation.hear().await, FrameType::AgentHello, Then::Refused(&[8]))
        }),
        Case::new(
            "check/gone-before-the-answer",
            "3.2.3",
            Level::Haproxy("every version"),
            "the next question is answered",
            async |lab: Lab| {
                for _ in 0..20 {
                    let mut conversation = lab.connect().await?;
                    conversation.send(&wire::hello(&[VERSIONS, SIZE, NONE, HEALTHCHECK])).await;
                }
                lab.greeted().await?.ask(&lab, 1, 1).await.map(|_| "ACK".to_owned())
            },
        ),
        Case::new("check/thirty-in-a-row", "3.2.3", Level::Spec, "AGENT-HELLO each time", async |lab: Lab| {
            for _ in 0..30 {
                checked(&lab, SIZE).await?;
            }
            Ok("30 AGENT-HELLOs".to_owned())
        }),
    ]
}

/// A health check's connection, and the AGENT-HELLO.
async fn checked(lab: &Lab, size: (&str, TypedData<'_>)) -> Result<(Conversation, Received), Flaw> {
    lab.greeted_by(&[VERSIONS, size, ("capabilities", TypedData::Str(b"")), HEALTHCHECK]).await
}

fn sized(name: &str, size: (&'static str, TypedData<'static>), most: u32) -> Case {
    let expected = format!("max-frame-size 256 to {most}");
    Case::new(format!("check/size-{name}"), "3.2.5", Level::Spec, &expected, async move |lab: Lab| {
        let (_, frame) = checked(&lab, size).await?;
        let announced = announced_in(&frame)?.max_frame_size;
        let seen = format!("max-frame-size: {announced}");
        if (256..=most).contains(&announced) { Ok(seen) } else { failed(seen) }
    })
}
