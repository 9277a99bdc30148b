//! What must hold for any bytes, one function each. Unit tests drive them with edge values and seeds; a fuzzer drives
//! the same functions with coverage. Each panics with a reason when its property does not hold; only
//! [`conversation_holds`] gives it back, because the harness asks it of agents that are not ours.

mod conversation;
#[cfg(test)]
mod conversation_tests;
mod driven;

use bytes::BytesMut;

pub use self::conversation::{Conversation, End, Violation, conversation_holds};
pub use self::driven::agent_holds;

use super::agent::{Agent, Event};
use super::annotate::annotate;
use super::frame::Frame;
use super::recording::Recording;
use super::{Messages, ack, kv_list, varint};

/// No decoder panics, and what decodes encodes to the same bytes again.
pub fn decoding_never_panics(bytes: &[u8]) {
    if let Ok((value, rest)) = varint::decode(bytes) {
        let mut again = BytesMut::new();
        varint::encode(value, &mut again);
        assert_eq!(again, bytes[..bytes.len() - rest.len()], "a varint has one encoding");
    }
    let _ = kv_list::decode(bytes, |_, _| {});
    let _ = ack::decode(bytes);
    if let Ok(messages) = Messages::decode(bytes) {
        let counted: usize = messages.iter().map(|message| message.arguments().count()).sum();
        assert!(counted <= bytes.len(), "each argument takes a byte at least");
    }
    let _ = Frame::decode(bytes);
    let noted: usize = annotate(bytes).iter().map(|note| note.bytes.len()).sum();
    assert_eq!(noted, bytes.len(), "every byte is annotated once");
    if let Some(recording) = std::str::from_utf8(bytes).ok().and_then(|text| Recording::parse(text).ok()) {
        let text = recording.to_text();
        assert_eq!(
            Recording::parse(&text).map(|again| again.to_text()),
            Ok(text),
            "a recording reads as it was written"
        );
    }
}

/// The same bytes give the same events and the same answers however they are split. `cuts` says where, each a distance
/// from the one before.
pub fn splitting_changes_nothing(bytes: &[u8], cuts: &[u8]) {
    let whole = converse(&[bytes]);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    assert_eq!(converse(&pieces), whole, "splitting changed the conversation");
}

/// The two properties of a connection, driven by one input: a schedule, whose length stands in the first byte, and then the
/// bytes. So a recorded conversation can be put behind any schedule.
pub fn fuzz_connection(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let (schedule, bytes) = rest.split_at(usize::from(*length).min(rest.len()));
    splitting_changes_nothing(bytes, schedule);
    agent_holds(bytes, schedule);
}

/// Plays `pieces` to an agent that ACKs every NOTIFY at once, and gives all that it said.
fn converse(pieces: &[&[u8]]) -> (Vec<String>, BytesMut) {
    let mut agent = Agent::new(4096);
    let mut events = Vec::new();
    for piece in pieces {
        agent.buffer().extend_from_slice(piece);
        loop {
            let event = agent.poll_event();
            events.extend(event.as_ref().map(|event| format!("{event:?}")));
            match event {
                Some(Event::Notify { pending, .. }) => assert!(agent.ack(pending, &[]), "a harmless ACK always fits"),
                Some(_) => {}
                None => break,
            }
        }
    }
    (events, agent.unsent().split())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::TypedData;
    use super::super::engine;
    use super::*;

    /// What coverage-guided fuzzing found worth keeping (`make fuzz`): an input for each way through the code.
    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut held = 0;
        for target in ["decode", "connection"] {
            for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                match target {
                    "decode" => decoding_never_panics(&bytes),
                    _ => fuzz_connection(&bytes),
                }
                held += 1;
            }
        }
        assert!(held > 100, "{held} inputs");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            decoding_never_panics(&bytes);
        }

        #[test]
        fn any_bytes_may_be_split(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(1u8..40, 0..20),
        ) {
            splitting_changes_nothing(&bytes, &cuts);
        }

        /// Whole conversations with a byte changed here and there: bytes at random hardly get beyond the HELLO.
        #[test]
        fn a_damaged_conversation_may_be_split(
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            cuts in proptest::collection::vec(1u8..60, 0..40),
        ) {
            let mut bytes = BytesMut::new();
            engine::hello(4000, true, &mut bytes);
            for stream in 0..4 {
                let arguments = [("method", TypedData::Str(b"GET")), ("path", TypedData::Str(b"/")), ("ssl", TypedData::Bool(true))];
                engine::notify(stream, 1, &arguments, &mut bytes);
            }
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            splitting_changes_nothing(&bytes, &cuts);
        }
    }
}
