//! AGENT-HELLO: its head, its keys, and what they may say.

use tollgate::spop::TypedData;
use tollgate::spop::frame::Flags;

use super::case::{Case, Level, Seen, failed};
use super::lab::{Lab, announced_in};
use super::pairs;
use super::wire::{self, CAPABILITIES, ENGINE_ID, SIZE, VERSIONS};
use crate::peer::Received;

pub fn cases() -> Vec<Case> {
    let usual = || vec![VERSIONS, SIZE, CAPABILITIES, ENGINE_ID];
    let mut cases = vec![
        said("answer-has-fin-and-no-ids", Level::Spec, "flags FIN, ids 0/0", usual(), |frame| match frame.head() {
            Some((_, flags, 0, 0)) if flags.has(Flags::FIN) => Ok("FIN, ids 0/0".to_owned()),
            Some((_, flags, stream, id)) => failed(format!("flags {:#x}, ids {stream}/{id}", flags.bits())),
            None => failed("a frame without a head"),
        }),
        said("answer-has-no-other-flags", Level::Advice, "flags 0x1", usual(), |frame| {
            match frame.head().map_or(0, |head| head.1.bits()) {
                1 => Ok("flags 0x1".to_owned()),
                flags => failed(format!("flags {flags:#x}")),
            }
        }),
        said("answer-says-version", Level::Spec, "version: string 2.0", usual(), |frame| {
            // HAProxy lets blanks stand around it.
            pairs::one(frame, "version", |value| matches!(value, TypedData::Str(text) if text.trim_ascii() == b"2.0"))
        }),
        said("answer-says-size", Level::Spec, "max-frame-size: uint32", usual(), |frame| {
            pairs::one(frame, "max-frame-size", |value| matches!(value, TypedData::UInt32(_)))
        }),
        said("answer-says-capabilities", Level::Spec, "capabilities: string", usual(), |frame| {
            pairs::one(frame, "capabilities", |value| matches!(value, TypedData::Str(_)))
        }),
        // HAProxy compares only as many bytes as its own key has.
        said(
            "answer-has-no-like-keys",
            Level::Haproxy("every version takes it for the other"),
            "no key that begins with another",
            usual(),
            |frame| {
                let known = ["version", "max-frame-size", "capabilities"];
                let keys = pairs::keys(frame)?;
                let alike = |key: &&String| known.iter().any(|known| key.as_str() != *known && key.starts_with(known));
                match keys.iter().find(alike) {
                    Some(key) => failed(format!("key {key}")),
                    None => Ok(keys.join(", ")),
                }
            },
        ),
        said("capabilities-are-known", Level::Advice, "pipelining, fragmentation, async", usual(), |frame| {
            let known = ["pipelining", "fragmentation", "async"];
            let said = pairs::capabilities(frame)?;
            match said.iter().find(|item| !known.contains(&item.as_str())) {
                Some(item) => failed(format!("capability {item}")),
                None => Ok(if said.is_empty() { "none".to_owned() } else { said.join(", ") }),
            }
        }),
        said("async-only-if-offered", Level::Advice, "no async in the answer", usual(), |frame| {
            not_announced(frame, "async")
        }),
        // Both sides must have it for it to be used, so an agent may say it to one that has not.
        said(
            "pipelining-only-if-offered",
            Level::Advice,
            "no pipelining in the answer",
            vec![VERSIONS, SIZE, ("capabilities", TypedData::Str(b"")), ENGINE_ID],
            |frame| not_announced(frame, "pipelining"),
        ),
    ];
    for (name, offered) in [("256", 256), ("1024", 1024), ("16380", 16380), ("65532", 65532), ("4-GiB", u32::MAX)] {
        let hello = vec![VERSIONS, ("max-frame-size", TypedData::UInt32(offered)), CAPABILITIES, ENGINE_ID];
        let name = format!("answers-size-{name}");
        cases.push(said(&name, Level::Spec, "256 to what was offered", hello, move |frame| {
            let announced = announced_in(frame)?.max_frame_size;
            let seen = format!("max-frame-size: {announced}");
            if (256..=offered).contains(&announced) { Ok(seen) } else { failed(seen) }
        }));
    }
    cases.push(Case::new(
        "hello/answer-in-one-piece",
        "3.2.5",
        Level::Haproxy("3.2.0-3.2.23, 3.3.0, 3.4.0-3.4.4"),
        "the first read holds all of it, 16 times",
        async |lab: Lab| {
            for _ in 0..16 {
                let mut conversation = lab.connect().await?;
                conversation.send(&wire::hello(&[VERSIONS, SIZE, CAPABILITIES, ENGINE_ID])).await;
                let (read, promised) = conversation.first_read().await?;
                if read < promised {
                    return failed(format!("{read} of {promised} bytes in the first read"));
                }
            }
            Ok("all in one read".to_owned())
        },
    ));
    cases
}

/// What the answer to this offer says.
fn said(
    name: &str,
    level: Level,
    expected: &str,
    offered: Vec<(&'static str, TypedData<'static>)>,
    look: impl FnOnce(&Received) -> Seen + 'static,
) -> Case {
    Case::new(format!("hello/{name}"), "3.2.5", level, expected, async move |lab: Lab| {
        let (_, frame) = lab.greeted_by(&offered).await?;
        look(&frame)
    })
}

fn not_announced(frame: &Received, capability: &str) -> Seen {
    let said = pairs::capabilities(frame)?;
    let seen = format!("capabilities: {}", said.join(","));
    if said.iter().any(|item| item == capability) { failed(seen) } else { Ok(seen) }
}
