//! `replay`: passes with the agent of this build, and fails with agents that are wrong in one thing.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::spop::frame::FrameType;
use tollgate::spop::hello::AgentHello;
use tollgate::spop::{Action, Scope, Status, TypedData, ack, disconnect, engine};

use super::{Fixture, harness, stderr, stdout};
use crate::support::{root, stack};

/// The agent that was recorded.
async fn agent() -> stack::Agent {
    stack::Agent::start(&std::fs::read_to_string(root().join("proto-fixtures/tollgate.yaml")).unwrap()).await
}

/// Replays; the exit code and the report.
async fn replay(target: &str, fixtures: &[Fixture], more: &[&str]) -> (Option<i32>, Value) {
    let files: Vec<_> = fixtures.iter().map(|fixture| fixture.path.to_str().unwrap()).collect();
    let arguments = [&["replay", "--target", target, "--json"], more, &files].concat();
    let output = harness(&arguments).await;
    let report = serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    (output.status.code(), report)
}

/// What failed in the only file of a report.
fn failures(report: &Value) -> String {
    report["files"][0]["failures"].to_string()
}

#[tokio::test]
async fn the_agent_answers_every_recording_as_it_did() {
    let agent = agent().await;
    let fixtures = Fixture::all("haproxy-");
    let (code, report) = replay(&agent.spop, &fixtures, &[]).await;
    assert_eq!(code, Some(0), "{report:#}");
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), fixtures.len());
    assert!(files.iter().all(|file| file["ok"] == true && file["frames"].as_u64() > Some(0)), "{report:#}");
}

#[tokio::test]
async fn the_agent_refuses_every_invalid_conversation_over_a_socket() {
    let agent = agent().await;
    let fixtures = Fixture::all("invalid");
    let (code, report) = replay(&agent.spop, &fixtures, &[]).await;
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["files"].as_array().unwrap().len(), fixtures.len());
    // It is still there for everybody else.
    let (code, report) = replay(&agent.spop, &[Fixture::named("haproxy-3.4/values")], &[]).await;
    assert_eq!(code, Some(0), "{report:#}");
}

#[tokio::test]
async fn values_that_differ_fail_only_where_they_are_asked_about() {
    let agent = agent().await;
    let fixture = [Fixture::named("haproxy-3.4/first-request")];
    let (code, report) = replay(&agent.spop, &fixture, &[]).await;
    assert_eq!(code, Some(0), "{report:#}");
    let differences = report["files"][0]["differences"].to_string();
    assert!(differences.contains("variable txn.decision_id"), "{report:#}");
    assert_eq!(replay(&agent.spop, &fixture, &["--exact"]).await.0, Some(1));
}

#[tokio::test]
async fn recorded_times_are_kept_where_they_are_asked_for() {
    let agent = agent().await;
    let fixture = [Fixture::named("haproxy-2.8/idle")];
    let begun = Instant::now();
    let (code, report) = replay(&agent.spop, &fixture, &["--speed", "recorded"]).await;
    assert_eq!(code, Some(0), "{report:#}");
    // Its DISCONNECT came after a second.
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn no_agent_and_no_recording_are_told_apart_from_a_wrong_answer() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = socket.local_addr().unwrap().to_string();
    drop(socket);
    assert_eq!(replay(&nobody, &[Fixture::named("haproxy-3.4/values")], &[]).await.0, Some(2));
    let output = harness(&["replay", "--target", &nobody, "Cargo.toml"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Cargo.toml: line "), "{}", stderr(&output));
}

/// What an agent is wrong in.
#[derive(Clone, Copy)]
enum Fault {
    /// Nothing: it answers as the recording does, in the opposite order.
    None,
    /// ACKs carry the next stream-id.
    StreamId,
    /// Each ACK is sent twice.
    Twice,
    /// The variable has another type.
    Type,
    /// The variable has another name.
    Name,
    /// It closes at the first NOTIFY.
    Closes,
    /// It says a status that nothing asked for.
    Disconnects,
}

#[tokio::test]
async fn an_agent_that_is_wrong_in_one_thing_fails_and_hears_in_what() {
    for (fault, expected) in [
        (Fault::None, ""),
        (Fault::StreamId, "ACK stream 7 frame 1, which is not in the recording"),
        (Fault::Twice, "ACK stream 5 frame 1, which is not in the recording"),
        (Fault::Type, r#"variable txn.verdict: str \"allow\" recorded, int32 1 got"#),
        (Fault::Name, "ACK stream 1 frame 1: no variable txn.verdict"),
        (Fault::Closes, "no ACK stream 1 frame 1"),
        (Fault::Disconnects, "ACKs aside"),
    ] {
        let target = broken_agent(fault).await;
        let (code, report) = replay(&target, &[Fixture::named("spec/acks-in-another-order")], &[]).await;
        let failures = failures(&report);
        assert!(failures.contains(expected), "expected {expected}: {failures}");
        assert_eq!(code, Some(i32::from(!expected.is_empty())), "{failures}");
    }
}

#[tokio::test]
async fn an_agent_that_answers_what_it_must_refuse_or_with_another_status_fails() {
    for (fault, file, expected) in [
        (Fault::None, "invalid/string-past-end", "where the connection ought to end"),
        (Fault::Disconnects, "invalid/string-past-end", "expected AGENT-DISCONNECT with status 4, got 99"),
        // A close without a word is enough.
        (Fault::Closes, "invalid/string-past-end", ""),
    ] {
        let target = broken_agent(fault).await;
        let (code, report) = replay(&target, &[Fixture::named(file)], &[]).await;
        let failures = failures(&report);
        assert!(failures.contains(expected), "expected {expected}: {failures}");
        assert_eq!(code, Some(i32::from(!expected.is_empty())), "{failures}");
    }
}

/// An agent that takes whatever looks like a frame. It answers in threes, the last first, where three NOTIFYs come.
async fn broken_agent(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, fault));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, fault: Fault) {
    let mut received = BytesMut::new();
    let mut done = 0;
    while stream.read_buf(&mut received).await.is_ok_and(|read| read > 0) {
        let mut out = BytesMut::new();
        let frames: Vec<_> = engine::frames(&received).collect();
        let news = frames.get(done..).unwrap_or_default();
        for frame in news.iter().rev() {
            match frame.kind {
                FrameType::HaproxyHello => {
                    AgentHello { max_frame_size: 16380, pipelining: true, fragmentation: true }.encode(&mut out);
                }
                FrameType::Notify if matches!(fault, Fault::Closes) => return,
                FrameType::Notify if matches!(fault, Fault::Disconnects) => {
                    disconnect::encode_agent(Status::Unknown, &mut out);
                    let _ = stream.write_all(&out).await;
                    return;
                }
                _ => {
                    let stream_id = frame.stream_id + 2 * u64::from(matches!(fault, Fault::StreamId));
                    let name = if matches!(fault, Fault::Name) { "other" } else { "verdict" };
                    let value =
                        if matches!(fault, Fault::Type) { TypedData::Int32(1) } else { TypedData::Str(b"allow") };
                    let action = Action::SetVar { scope: Scope::Transaction, name, value };
                    for _ in 0..1 + usize::from(matches!(fault, Fault::Twice)) {
                        ack::encode(stream_id, frame.frame_id, &[action], &mut out);
                    }
                }
            }
        }
        done = frames.len();
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}
