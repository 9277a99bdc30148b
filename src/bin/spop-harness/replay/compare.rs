//! What an agent answered beside what the recorded one did.

use std::collections::BTreeMap;

use tollgate::spop::annotate::{title, value};
use tollgate::spop::frame::{Frame, FrameType};
use tollgate::spop::recording::{Recording, Side, What};
use tollgate::spop::{Action, TypedData, ack, disconnect, engine, kv_list};

use super::play::{ANSWER_TIMEOUT, Played};
use super::{Outcome, Refusal};
use crate::peer::FRAME_BYTES_MAX;

/// Compares a conversation that goes well.
pub fn answered(recording: &Recording, played: &Played) -> Outcome {
    let mut outcome = begin(played);
    let said = heard_part(recording);
    let recorded: Vec<_> = engine::frames(&said).collect();
    let answers = decoded(played, &mut outcome);

    // ACKs are found by what they answer; all other frames keep their places.
    let in_place = |frames: &[Frame<'_>]| -> Vec<FrameType> {
        frames.iter().map(|frame| frame.kind).filter(|kind| *kind != FrameType::Ack).collect()
    };
    if in_place(&recorded) != in_place(&answers) {
        outcome.failures.push(format!("recorded {:?}, got {:?}, ACKs aside", in_place(&recorded), in_place(&answers)));
    }
    if answers.iter().position(|frame| frame.kind == FrameType::AgentHello).is_some_and(|at| at > 0) {
        outcome.failures.push("the AGENT-HELLO is not the first frame".to_owned());
    }
    let last = answers.len().saturating_sub(1);
    if answers.iter().position(|frame| frame.kind == FrameType::AgentDisconnect).is_some_and(|at| at < last) {
        outcome.failures.push("the AGENT-DISCONNECT is not the last frame".to_owned());
    }
    let mut unmatched: Vec<_> = answers.iter().collect();
    for frame in &recorded {
        let same = |other: &&Frame<'_>| {
            (other.kind, other.stream_id, other.frame_id) == (frame.kind, frame.stream_id, frame.frame_id)
        };
        match unmatched.iter().position(same) {
            Some(at) => pair(frame, unmatched.remove(at), &mut outcome),
            None => outcome.failures.push(format!("no {}", title(frame))),
        }
    }
    for frame in unmatched {
        outcome.failures.push(format!("{}, which is not in the recording", title(frame)));
    }

    let ends = |item: &What| matches!(item, What::Closed | What::Reset);
    if played.ended && played.too_long.is_none() && !recording.items.iter().any(|item| ends(&item.what)) {
        outcome.failures.push("the agent closed the connection; the recording goes on".to_owned());
    }
    outcome
}

/// Compares a conversation that the agent has to end.
pub fn refused(recording: &Recording, played: &Played, refusal: Refusal) -> Outcome {
    let mut outcome = begin(played);
    let said = heard_part(recording);
    let mut recorded = engine::frames(&said);
    for answer in decoded(played, &mut outcome) {
        if answer.kind == FrameType::AgentDisconnect {
            let code = disconnect::decode(answer.payload).ok();
            if let Refusal::Status(expected) = refusal
                && code != Some(expected)
            {
                let code = code.map_or("one that does not decode".to_owned(), |code| code.to_string());
                outcome.failures.push(format!("expected AGENT-DISCONNECT with status {expected}, got {code}"));
            }
            break;
        }
        match recorded.next() {
            Some(frame) if frame.kind == answer.kind => pair(&frame, &answer, &mut outcome),
            _ => outcome.failures.push(format!("{}, where the connection ought to end", title(&answer))),
        }
    }
    outcome
}

fn begin(played: &Played) -> Outcome {
    let mut outcome = Outcome { frames: played.frames.len(), ..Outcome::default() };
    if let Some(what) = played.missed {
        let missed = format!("within {} s the recording has {what}, and nothing came", ANSWER_TIMEOUT.as_secs());
        outcome.failures.push(missed);
    }
    if let Some(length) = played.too_long {
        let most = FRAME_BYTES_MAX;
        outcome.failures.push(format!("the agent begins a frame of {length} bytes, expected {most} at most"));
    }
    if played.unfinished > 0 {
        outcome.failures.push(format!("the agent closed inside a frame, {} bytes into it", played.unfinished));
    }
    outcome
}

/// What the recorded agent said until HAProxy reset the connection.
fn heard_part(recording: &Recording) -> Vec<u8> {
    let until_reset =
        recording.items.iter().take_while(|item| (item.from, &item.what) != (Side::Haproxy, &What::Reset));
    let of_agent = until_reset.filter(|item| item.from == Side::Agent);
    of_agent
        .filter_map(|item| if let What::Sent(bytes) = &item.what { Some(&bytes[..]) } else { None })
        .collect::<Vec<_>>()
        .concat()
}

fn decoded<'a>(played: &'a Played, outcome: &mut Outcome) -> Vec<Frame<'a>> {
    let mut frames = Vec::new();
    for (at, received) in played.frames.iter().enumerate() {
        match received.decode() {
            Ok(frame) => frames.push(frame),
            Err(error) => outcome.failures.push(format!("answer {} does not decode: {error}", at + 1)),
        }
    }
    frames
}

/// Compares two frames of one type and the same ids.
fn pair(recorded: &Frame<'_>, answer: &Frame<'_>, outcome: &mut Outcome) {
    let title = title(recorded);
    if recorded.flags != answer.flags {
        let (expected, got) = (recorded.flags.bits(), answer.flags.bits());
        outcome.failures.push(format!("{title}: flags {expected:#x} recorded, {got:#x} got"));
    }
    let (recorded, answer) = match (named(recorded), named(answer)) {
        (Ok(recorded), Ok(answer)) => (recorded, answer),
        (_, Err(error)) => return outcome.failures.push(format!("{title}: does not decode: {error}")),
        // A recording of an agent that was wrong itself asks for nothing in particular.
        (Err(_), _) => return,
    };
    for (name, expected) in &recorded {
        match answer.get(name) {
            None => outcome.failures.push(format!("{title}: no {name}")),
            Some(got) if expected == got => {}
            Some(got) => {
                let line = format!("{title}: {name}: {expected} recorded, {got} got");
                let kind = |value: &str| value.split(' ').next().map(str::to_owned);
                let list = if kind(expected) == kind(got) { &mut outcome.differences } else { &mut outcome.failures };
                list.push(line);
            }
        }
    }
    for name in answer.keys().filter(|name| !recorded.contains_key(*name)) {
        outcome.failures.push(format!("{title}: {name}, which is not in the recording"));
    }
}

/// What a frame gives values to, and the values with their types. Which comes first in one frame makes no difference; a
/// name that comes twice does.
fn named(frame: &Frame<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, value: String| {
        let times = found.keys().filter(|known: &&String| known.split(" again").next() == Some(&name)).count();
        found.insert(if times == 0 { name } else { format!("{name} again {times}") }, value);
    };
    match frame.kind {
        FrameType::Ack => {
            for action in ack::decode(frame.payload).map_err(|error| error.to_string())? {
                match action {
                    Action::SetVar { scope, name, value: set } => {
                        add(format!("variable {}.{name}", scope.name()), shown(&set));
                    }
                    Action::UnsetVar { scope, name } => {
                        add(format!("variable {}.{name}", scope.name()), "unset".to_owned());
                    }
                }
            }
        }
        _ => kv_list::decode(frame.payload, |key, value| add(format!("key {}", key.escape_ascii()), shown(&value)))
            .map_err(|error| error.to_string())?,
    }
    Ok(found)
}

/// Whole, so that long values that differ at their ends differ here too.
fn shown(of: &TypedData<'_>) -> String {
    match of {
        TypedData::Str(bytes) => format!("str \"{}\"", bytes.escape_ascii()),
        TypedData::Bin(bytes) => format!("bin \"{}\"", bytes.escape_ascii()),
        other => value(other),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tollgate::spop::recording::Item;
    use tollgate::spop::{Scope, Status};

    use super::*;
    use crate::peer::Received;

    fn set<'a>(name: &'a str, value: TypedData<'a>) -> Action<'a> {
        Action::SetVar { scope: Scope::Transaction, name, value }
    }

    fn ack_of(stream_id: u64, actions: &[Action<'_>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        ack::encode(stream_id, 1, actions, &mut out);
        out.to_vec()
    }

    fn check(recorded: &[Vec<u8>], answers: &[Vec<u8>]) -> (Vec<String>, Vec<String>) {
        let item =
            |bytes: &Vec<u8>| Item { comments: vec![], from: Side::Agent, at: None, what: What::Sent(bytes.clone()) };
        let recording = Recording { items: recorded.iter().map(item).collect(), trailer: vec![] };
        let frames = answers.iter().map(|bytes| Received(bytes[4..].to_vec())).collect();
        let outcome = answered(&recording, &Played { frames, ..Played::default() });
        (outcome.failures, outcome.differences)
    }

    #[test]
    fn order_of_acks_and_values_may_differ_names_and_types_may_not() {
        let one = ack_of(1, &[set("a", TypedData::Str(b"x")), set("b", TypedData::Int32(1))]);
        let two = ack_of(3, &[set("a", TypedData::Str(b"y"))]);
        let none: (Vec<String>, Vec<String>) = (vec![], vec![]);
        assert_eq!(check(&[one.clone(), two.clone()], &[two.clone(), one.clone()]), none);

        let other_value = ack_of(3, &[set("a", TypedData::Str(b"z"))]);
        let expected = "ACK stream 3 frame 1: variable txn.a: str \"y\" recorded, str \"z\" got";
        assert_eq!(check(std::slice::from_ref(&two), &[other_value]), (vec![], vec![expected.to_owned()]));

        let fails = |answers: &[Vec<u8>], expected: &str| {
            assert_eq!(check(std::slice::from_ref(&two), answers), (vec![expected.to_owned()], vec![]));
        };
        fails(&[], "no ACK stream 3 frame 1");
        fails(&[two.clone(), one], "ACK stream 1 frame 1, which is not in the recording");
        fails(
            &[ack_of(3, &[set("a", TypedData::Bin(b"y"))])],
            "ACK stream 3 frame 1: variable txn.a: str \"y\" recorded, bin \"y\" got",
        );
        let more = [set("a", TypedData::Str(b"y")), set("a", TypedData::Str(b"y"))];
        fails(&[ack_of(3, &more)], "ACK stream 3 frame 1: variable txn.a again 1, which is not in the recording");
        let mut goodbye = BytesMut::new();
        disconnect::encode_agent(Status::Normal, &mut goodbye);
        let (failures, _) = check(std::slice::from_ref(&two), &[goodbye.to_vec(), two.clone()]);
        assert_eq!(failures.len(), 3, "{failures:?}");
    }
}
