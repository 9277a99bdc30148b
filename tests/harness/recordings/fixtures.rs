//! Every file says what is in it, and what is in it is what our own code makes of it.

use bytes::BytesMut;
use tollgate::spop::frame::{Flags, Frame, FrameType};
use tollgate::spop::hello::{AgentHello, HaproxyHello};
use tollgate::spop::recording::{Recording, Side, What};
use tollgate::spop::{Agent, Event, Messages, Status, ack, disconnect, engine, notify};

use super::Fixture;
use crate::support::root;

/// The server's own bound for a frame and for a NOTIFY put together from fragments.
const FRAME_BYTES_MAX: u32 = 256 * 1024;

#[test]
fn every_fixture_is_its_own_reading() {
    let stale: Vec<_> = Fixture::all("")
        .iter()
        .filter(|fixture| fixture.recording.to_text() != fixture.text)
        .map(Fixture::name)
        .collect();
    let files = stale.join(" ");
    assert!(stale.is_empty(), "stale readings; look at what `spop-harness decode --bless {files}` changes");
}

#[test]
fn fixtures_are_small_and_say_nothing_of_the_machine_they_come_from() {
    let machine = [root().display().to_string(), std::env::temp_dir().display().to_string()];
    for fixture in Fixture::all("") {
        assert!(fixture.text.len() <= 60_000, "{}: {} bytes", fixture.name(), fixture.text.len());
        for side in [Side::Haproxy, Side::Agent] {
            let said = String::from_utf8_lossy(&fixture.recording.sent_by(side)).into_owned();
            for path in &machine {
                let found = said.contains(path.as_str()) || fixture.text.contains(path.as_str());
                assert!(!found, "{} holds {path}", fixture.name());
            }
        }
    }
}

#[test]
fn what_haproxy_said_is_taken_and_each_question_is_one_that_was_answered() {
    for folders in ["haproxy-", "spec"] {
        let mut questions = 0;
        for fixture in Fixture::all(folders) {
            let mut asked = converse(&fixture.recording).unwrap_or_else(|status| {
                panic!("{}: refused with {status:?}", fixture.name());
            });
            // A file that shows an agent's frames alone asks nothing.
            if fixture.recording.sent_by(Side::Haproxy).is_empty() {
                continue;
            }
            let said = fixture.recording.sent_by(Side::Agent);
            let acks = engine::frames(&said).filter(|frame| frame.kind == FrameType::Ack);
            let mut answered: Vec<_> = acks.map(|frame| (frame.stream_id, frame.frame_id)).collect();
            asked.sort_unstable();
            answered.sort_unstable();
            assert_eq!(asked, answered, "{}", fixture.name());
            questions += asked.len();
        }
        assert!(questions > 20, "{questions} questions in {folders}");
    }
}

#[test]
fn every_invalid_conversation_is_refused_with_its_status() {
    let fixtures = Fixture::all("invalid");
    assert!(fixtures.len() >= 25, "{} files", fixtures.len());
    for fixture in fixtures {
        let name = fixture.name();
        let expected: Vec<_> = fixture.recording.facts("refused").collect();
        let [expected] = expected[..] else { panic!("{name}: expected one `refused:`, got {expected:?}") };
        match converse(&fixture.recording) {
            Err(status) => assert_eq!(status.code().to_string(), expected, "{name}"),
            Ok(asked) => assert_eq!((asked, expected), (vec![], "close"), "{name}"),
        }
    }
}

#[test]
fn all_that_an_agent_said_decodes() {
    let mut acks = 0;
    for fixture in Fixture::all("") {
        let said = fixture.recording.sent_by(Side::Agent);
        let mut bytes = 0;
        for frame in engine::frames(&said) {
            let name = fixture.name();
            match frame.kind {
                FrameType::AgentHello => assert!(AgentHello::decode(frame.payload).is_ok(), "{name}"),
                FrameType::AgentDisconnect => assert!(disconnect::decode(frame.payload).is_ok(), "{name}"),
                FrameType::Ack => {
                    assert!(ack::decode(frame.payload).is_ok(), "{name}");
                    acks += 1;
                }
                other => panic!("{name}: {other:?} from an agent"),
            }
            bytes += whole(&frame).len();
        }
        assert_eq!(bytes, said.len(), "{}: something is left behind the last frame", fixture.name());
    }
    assert!(acks > 50, "{acks}");
}

#[test]
fn what_haproxy_sent_is_what_our_engine_writes() {
    let mut written = [0; 4];
    for fixture in Fixture::all("haproxy-") {
        for item in &fixture.recording.items {
            let What::Sent(bytes) = &item.what else { continue };
            if item.from != Side::Haproxy {
                continue;
            }
            let name = fixture.name();
            let frame = engine::frames(bytes).next().unwrap_or_else(|| panic!("{name}: half a frame"));
            let mut out = BytesMut::new();
            let kind = match frame.kind {
                FrameType::HaproxyHello => {
                    let hello = HaproxyHello::decode(frame.payload).unwrap();
                    if hello.healthcheck {
                        engine::healthcheck(&mut out);
                    } else if (hello.max_frame_size, hello.asynchronous) == (16380, false) {
                        // From 3.1 on, and before where async is turned off: all but the engine-id is a constant.
                        engine::hello(16380, hello.pipelining, &mut out);
                        let ours =
                            engine::frames(&out).next().map(|frame| HaproxyHello::decode(frame.payload).unwrap());
                        let engine_id = hello.engine_id.clone();
                        assert_eq!(
                            ours.map(|ours| HaproxyHello { engine_id, ..ours }).as_ref(),
                            Some(&hello),
                            "{name}"
                        );
                        out.clear();
                        hello.encode(&mut out);
                    } else {
                        hello.encode(&mut out);
                    }
                    usize::from(hello.healthcheck)
                }
                FrameType::Notify if frame.flags.has(Flags::FIN) => {
                    Frame::encode(frame.kind, frame.flags, frame.stream_id, frame.frame_id, &mut out, |out| {
                        for message in Messages::decode(frame.payload).unwrap().iter() {
                            let text = |bytes| std::str::from_utf8(bytes).unwrap();
                            let arguments: Vec<_> =
                                message.arguments().map(|(name, value)| (text(name), value)).collect();
                            notify::encode_message(text(message.name), &arguments, out);
                        }
                    });
                    2
                }
                FrameType::HaproxyDisconnect => {
                    let normal = disconnect::decode(frame.payload) == Ok(0);
                    disconnect::encode_haproxy(if normal { Status::Normal } else { Status::Timeout }, &mut out);
                    3
                }
                // A fragment is a cut through the bytes above.
                _ => continue,
            };
            written[kind] += 1;
            assert_eq!(out, &bytes[..], "{name}");
        }
    }
    assert!(written.iter().all(|count| *count >= 3), "HELLOs, health checks, NOTIFYs, DISCONNECTs: {written:?}");
}

/// Plays HAProxy's side to an agent that ACKs at once: the ids of the questions, or how it was refused.
fn converse(recording: &Recording) -> Result<Vec<(u64, u64)>, Status> {
    let mut agent = Agent::new(FRAME_BYTES_MAX);
    for item in &recording.items {
        let What::Sent(bytes) = &item.what else { continue };
        if item.from != Side::Haproxy {
            continue;
        }
        agent.buffer().extend_from_slice(bytes);
        while let Some(event) = agent.poll_event() {
            match event {
                Event::Notify { pending, .. } => assert!(agent.ack(pending, &[]), "a harmless ACK always fits"),
                Event::Refused { status } => return Err(status),
                Event::Hello(_) | Event::Disconnected { .. } => {}
            }
        }
    }
    let unsent = agent.unsent().split();
    let acks = engine::frames(&unsent).filter(|frame| frame.kind == FrameType::Ack);
    Ok(acks.map(|frame| (frame.stream_id, frame.frame_id)).collect())
}

/// A frame with its prefix again.
fn whole(frame: &Frame<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    Frame::encode(frame.kind, frame.flags, frame.stream_id, frame.frame_id, &mut out, |out| {
        out.extend_from_slice(frame.payload);
    });
    out
}
