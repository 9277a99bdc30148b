//! NOTIFY: lists of messages, with names and counts of every sort. Whatever can be read must be acknowledged, known
//! to the agent or not.

use bytes::BytesMut;
use tollgate::spop::TypedData;

use super::case::{Case, Level};
use super::lab::{Lab, PADDING, Then};
use super::wire;

pub fn cases() -> Vec<Case> {
    use Then::{Answered, Either, Unwanted};
    let text = |name: &[u8]| wire::argument(name, TypedData::Str(b"value"));
    let mut cases = vec![
        asked("usual", Level::Spec, Answered, |lab| lab.payload()),
        asked("two-of-the-same", Level::Spec, Answered, |lab| repeated(lab, 2)),
        asked("fifty-of-the-same", Level::Spec, Answered, |lab| repeated(lab, 50)),
        asked("unknown-name", Level::Spec, Answered, |_| wire::message(b"nobody-knows-it", 0, b"")),
        asked("unknown-behind-known", Level::Spec, Answered, |lab| {
            joined([lab.payload(), wire::message(b"nobody-knows-it", 0, b"")])
        }),
        asked("known-behind-unknown", Level::Spec, Answered, move |lab| {
            joined([wire::message(b"nobody-knows-it", 1, &text(b"a")), lab.payload()])
        }),
        asked("without-arguments", Level::Spec, Answered, |lab| wire::message(name(lab), 0, b"")),
        asked("all-arguments-null", Level::Spec, Answered, |lab| {
            let arguments = &lab.question.arguments;
            let nulls: Vec<_> =
                arguments.iter().map(|own| wire::argument(own.name.as_bytes(), TypedData::Null)).collect();
            wire::message(name(lab), u8::try_from(nulls.len()).unwrap_or(u8::MAX), &nulls.concat())
        }),
        asked("arguments-in-other-order", Level::Spec, Answered, |lab| {
            let arguments = lab.question.arguments.iter().rev();
            let all: Vec<_> = arguments.map(wire::argument_of).collect();
            wire::message(name(lab), u8::try_from(all.len()).unwrap_or(u8::MAX), &all.concat())
        }),
        asked("argument-unknown", Level::Spec, Answered, move |lab| lab.payload_with(&[text(b"nobody-knows-it")])),
        asked("argument-twice", Level::Spec, Answered, move |lab| lab.payload_with(&[text(PADDING), text(PADDING)])),
        // What HAProxy sends for an argument that its configuration gives no name.
        asked("argument-without-a-name", Level::Spec, Answered, move |lab| lab.payload_with(&[text(b"")])),
        // Names are written by an operator; values come from anywhere.
        asked("argument-name-not-utf-8", Level::Spec, Either, move |lab| lab.payload_with(&[text(b"\xff\xfe")])),
        asked("argument-name-long", Level::Spec, Answered, move |lab| lab.payload_with(&[text(&[b'n'; 1000])])),
        asked("255-arguments", Level::Spec, Answered, |lab| {
            let all: Vec<_> = (0..255).map(|_| wire::argument(PADDING, TypedData::Null)).collect();
            wire::message(name(lab), 255, &all.concat())
        }),
        asked("name-empty", Level::Spec, Either, |_| wire::message(b"", 0, b"")),
        asked("name-not-utf-8", Level::Spec, Either, |_| wire::message(b"\xff\xfe\x80", 0, b"")),
        asked("name-long", Level::Spec, Answered, |_| wire::message(&[b'm'; 1000], 0, b"")),
        asked("count-too-large", Level::Spec, Unwanted(&[4]), |lab| {
            let count = u8::try_from(lab.question.arguments.len() + 1).unwrap_or(u8::MAX);
            // One name more, and no value: no reading of it is whole.
            let rest: Vec<_> = lab.question.arguments.iter().map(wire::argument_of).collect();
            wire::message(name(lab), count, &[rest.concat(), wire::string(PADDING).to_vec()].concat())
        }),
        asked("count-too-small", Level::Spec, Unwanted(&[4]), |lab| {
            // What is left reads as a message of 32 arguments, of which there is one.
            let over = wire::message(b"x", 32, &wire::argument(b"y", TypedData::Null));
            joined([lab.payload(), over])
        }),
        asked("leftover-byte", Level::Spec, Unwanted(&[4]), |lab| {
            joined([lab.payload(), BytesMut::from(&b"\x7f"[..])])
        }),
        asked("name-cut", Level::Spec, Unwanted(&[4]), |_| BytesMut::from(&b"\x07req"[..])),
        asked("count-missing", Level::Spec, Unwanted(&[4]), |lab| wire::string(name(lab))),
    ];
    // Its count is one byte: HAProxy writes 300 arguments as 44, and what is left over is unreadable.
    cases.push(asked("300-arguments", Level::Haproxy("every version sends it"), Unwanted(&[4]), |lab| {
        let all: Vec<_> = (0..300).map(|_| wire::argument(PADDING, TypedData::Str(b"\xff\xff"))).collect();
        wire::message(name(lab), 44, &all.concat())
    }));
    cases.push(Case::new(
        "message/one-bad-then-a-good-one",
        "3.2.9",
        Level::Spec,
        "a new connection is served",
        async |lab: Lab| {
            let mut broken = lab.greeted().await?;
            broken.send(&wire::notify(1, 1, b"\x7f")).await;
            broken.hear().await;
            lab.greeted().await?.ask(&lab, 1, 1).await.map(|_| "ACK".to_owned())
        },
    ));
    cases
}

fn asked(what: &str, level: Level, then: Then, payload: impl FnOnce(&Lab) -> BytesMut + 'static) -> Case {
    Case::new(format!("message/{what}"), "3.2.6", level, &then.expected("ACK"), async move |lab: Lab| {
        let payload = payload(&lab);
        lab.tried(&wire::notify(1, 1, &payload), then).await
    })
}

fn name(lab: &Lab) -> &[u8] {
    lab.question.message.as_bytes()
}

fn repeated(lab: &Lab, times: usize) -> BytesMut {
    let one = lab.payload();
    // As many as fit the frame, with its head.
    let fit = (lab.announced.max_frame_size as usize - 7) / one.len().max(1);
    joined(std::iter::repeat_n(one, times.min(fit.max(1))))
}

fn joined(parts: impl IntoIterator<Item = BytesMut>) -> BytesMut {
    let mut all = BytesMut::new();
    parts.into_iter().for_each(|part| all.extend_from_slice(&part));
    all
}
