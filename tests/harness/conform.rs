//! `spop-harness conform`: this agent passes every case, and an agent with one defect fails those that are meant to see it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::spop::deframer::Deframer;
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::{Action, Agent, Event, Scope, TypedData, kv_list, varint};

use crate::support::stack;

/// Everybody may do everything: what is tried here is the protocol.
const CONFIG: &str = "rules:\n  - { name: all, path: /**, allow: anyone }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_agent_passes_every_case() {
    let agent = stack::Agent::start(CONFIG).await;
    let run = conform(&["--target", &agent.spop, "--json"]).await;
    let report = run.report();
    let cases = report["cases"].as_array().unwrap();
    let flaws: Vec<_> = cases.iter().filter(|case| case["result"] != "pass").collect();
    assert!(flaws.is_empty(), "{flaws:#?}");
    assert!(cases.len() >= 120, "{} cases", cases.len());
    assert_eq!((run.code, &report["passed"]), (0, &Value::from(cases.len())));
    assert_eq!((&report["failed"], &report["warned"]), (&Value::from(0), &Value::from(0)));
    let names: BTreeSet<_> = cases.iter().map(|case| case["case"].as_str().unwrap()).collect();
    assert_eq!(names.len(), cases.len(), "every name once");
    for case in cases {
        assert!(["spec", "haproxy", "advice"].contains(&case["level"].as_str().unwrap()), "{case}");
        assert_eq!(case["level"] == "haproxy", case["haproxy"].is_string(), "{case}");
        assert!(case["section"].as_str().unwrap().starts_with("3."), "{case}");
        assert!(!case["expected"].as_str().unwrap().is_empty() && !case["seen"].as_str().unwrap().is_empty(), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_says_the_same_and_fits_120_columns() {
    let folder = crate::support::folder();
    let socket = format!("unix@{}", folder.path().join("spop.sock").display());
    let agent = stack::Agent::start_on(CONFIG, &socket).await;
    let run = conform(&["--target", &agent.spop, "--only", "check/"]).await;
    let lines: Vec<_> = run.out.lines().collect();
    let passed = lines.iter().filter(|line| line.starts_with("pass  check/")).count();
    assert!(passed > 10, "{}", run.out);
    let last = lines.last().unwrap();
    assert!(last.starts_with(&format!("{passed} passed, 0 failed, 0 warned in ")), "{last}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{}", run.out);
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn cases_are_listed_without_an_agent() {
    let run = conform(&["--list", "--json", "--only", "fragments/"]).await;
    let report = run.report();
    let cases = report["cases"].as_array().unwrap();
    assert!(cases.len() > 10 && cases.iter().all(|case| case["case"].as_str().unwrap().starts_with("fragments/")));
    assert!(cases.iter().all(|case| case["result"].is_null()), "none was tried");
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn what_cannot_be_tried_is_2() {
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let run = conform(&["--target", &nobody]).await;
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.error.contains(&format!("cannot connect to {nobody}: ")), "{}", run.error);

    let run = conform(&["--target", &nobody, "--only", "no-such-case"]).await;
    assert_eq!(run.code, 2);
    assert!(run.error.contains("no case has \"no-such-case\" in its name"), "{}", run.error);

    let run = conform(&["--target", "192.0.2.1:9001"]).await;
    assert_eq!(run.code, 2);
    assert!(run.error.contains("not an address of this machine"), "{}", run.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_question_is_the_callers() {
    let broken = Broken::start(Defect::None).await;
    let target = broken.address.to_string();
    let question = ["--message", "check-ip", "--arg", "ip=192.0.2.7", "--arg", "who=a=b"];
    let run = conform(&[&["--target", &target, "--only", "message/usual"][..], &question].concat()).await;
    assert_eq!(run.code, 0, "{}{}", run.out, run.error);
    assert_eq!(*broken.asked.lock().unwrap(), ["check-ip ip=Ipv4(192.0.2.7) who=Str([97, 61, 98])"]);
}

/// Each defect, what must fail for it, and what must be warned of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_agent_fails_the_cases_that_are_meant_to_see_it() {
    // Several at once: most of a run is waiting for what a broken agent never says.
    let runs = stream::iter(DEFECTS).map(async |(defect, only, failed, warned)| {
        let broken = Broken::start(*defect).await;
        let target = broken.address.to_string();
        let run = conform(&["--target", &target, "--only", only, "--json", "--timeout", "1500"]).await;
        let report = run.report();
        let with = |result: &str| -> BTreeSet<String> {
            let cases = report["cases"].as_array().unwrap().iter().filter(|case| case["result"] == result);
            cases.map(|case| case["case"].as_str().unwrap().to_owned()).collect()
        };
        let expected = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (seen_failed, seen_warned) = (with("fail"), with("warn"));
        let mut wrong = String::new();
        if (&seen_failed, &seen_warned) != (&expected(failed), &expected(warned)) {
            wrong = format!("{defect:?}: failed {seen_failed:#?}, warned {seen_warned:#?}\n");
        }
        if run.code != i32::from(!failed.is_empty()) || report["failed"] != seen_failed.len() {
            wrong.push_str(&format!("{defect:?}: exit code {}\n", run.code));
        }
        wrong
    });
    let wrong: Vec<_> = runs.buffer_unordered(8).collect().await;
    assert!(wrong.iter().all(String::is_empty), "{}", wrong.concat());
}

/// The defect, the cases to try (all of them where empty), what fails, what is warned of.
type Row = (Defect, &'static str, &'static [&'static str], &'static [&'static str]);

const DEFECTS: &[Row] = &[
    (Defect::None, "", &[], &[]),
    (
        Defect::AlwaysFrame1,
        "",
        &[
            "ids/frames-1-2-3-of-a-stream",
            "ids/stream-and-frame-swapped",
            "varint/frame-id-1-byte",
            "varint/frame-id-2-bytes",
            "varint/frame-id-3-bytes",
            "varint/frame-id-4-bytes",
            "varint/frame-id-5-bytes",
            "varint/frame-id-up-to-10",
        ],
        &[],
    ),
    (Defect::HelloInTwoWrites, "", &["hello/answer-in-one-piece"], &[]),
    (Defect::EmptyAck, "", &["ack/never-empty"], &[]),
    (
        Defect::AnswersTwice,
        "",
        &[
            "frame/ten-in-one-write",
            "frame/three-in-two-halves",
            "ids/falling",
            "ids/frames-1-2-3-of-a-stream",
            "ids/same-frame-of-many-streams",
            "ids/same-of-another-engine",
            "ids/same-on-two-connections",
            "ids/stream-0",
            "ids/stream-and-frame-swapped",
            "pace/reads-500-answers-late",
            "pipelining/2-at-once",
            "pipelining/20-at-once",
            "pipelining/200-at-once",
            "pipelining/answered-once",
            "pipelining/ids-in-no-order",
            "pipelining/large-and-small",
        ],
        &["half-close/after-20-questions", "half-close/after-a-question"],
    ),
    (
        Defect::IgnoresDisconnect,
        "",
        &[
            "disconnect/after-a-refused-hello",
            "disconnect/answered",
            "disconnect/answered-with-0",
            "disconnect/behind-20-questions",
            "disconnect/behind-a-question",
            "disconnect/closed-behind-it",
            "disconnect/cut",
            "disconnect/message-not-utf-8",
            "disconnect/questions-behind-it",
            "disconnect/status-not-a-number",
            "disconnect/with-a-long-message",
            "disconnect/with-an-error",
            "disconnect/with-ids",
            "disconnect/with-nothing-in-it",
            "disconnect/with-unknown-key",
            "disconnect/with-unknown-status",
            "disconnect/without-a-message",
            "disconnect/without-a-status-code",
            "hello/disconnect-first",
        ],
        &[],
    ),
    (
        Defect::WrapsVarints,
        "",
        &["varint/frame-id-2-to-the-64", "varint/stream-id-2-to-the-64", "varint/stream-id-of-11-bytes"],
        &[],
    ),
    (
        Defect::LargerFrameSize,
        "",
        &[
            "check/size-of-1024",
            "check/size-small",
            "check/size-usual",
            // It does not take what it announces either.
            "frame/as-large-as-agreed",
            "frame/one-byte-below-it",
            "hello/answers-size-1024",
            "hello/answers-size-16380",
            "hello/answers-size-256",
            "hello/answers-size-65532",
        ],
        &["check/fits-a-small-buffer"],
    ),
    (
        Defect::ClosesOnUnknownTypes,
        "",
        &["frame/unknown-type-104", "frame/unknown-type-255", "frame/unknown-type-4", "frame/unknown-type-50"],
        &[],
    ),
    (Defect::AckWithoutFin, "", &["ids/ack-has-fin"], &["ids/ack-has-no-other-flags"]),
    (
        Defect::HelloWithoutCapabilities,
        "",
        // It puts fragments together all the same.
        &["check/has-every-key", "fragments/not-announced", "hello/answer-says-capabilities"],
        &[],
    ),
    (Defect::KeepsChecksOpen, "", &[], &["check/closed-by-the-agent"]),
    (
        Defect::ForgetsWhoHalfCloses,
        "half-close/",
        &[],
        &["half-close/after-20-questions", "half-close/after-a-question", "half-close/after-hello"],
    ),
    (Defect::LargeAck, "", &["ack/20-fit-a-buffer-at-16380", "ack/at-most-256-bytes", "ack/below-the-frame-size"], &[]),
    (Defect::LongName, "", &["ack/names-fit-63-bytes"], &[]),
    (Defect::NameWithHyphen, "", &["ack/names-of-right-characters"], &[]),
    (Defect::UnknownScope, "", &["ack/actions-decode", "ack/scopes-are-known"], &[]),
    (
        Defect::TakesAnyVersion,
        "",
        &[
            "check/version-1.0",
            "hello/version-1.0-only",
            "hello/version-3.0-only",
            "hello/versions-empty",
            "hello/versions-not-numbers",
        ],
        &["hello/versions-binary"],
    ),
    (
        Defect::AnswersTheFirstPiece,
        "",
        &["fragments/silence-before-last"],
        &[
            "fragments/interlaced-notify",
            "fragments/of-another-frame",
            "fragments/of-another-stream",
            "fragments/whole-is-unreadable",
            "fragments/without-end",
        ],
    ),
    (
        Defect::OneQuestionARead,
        "pipelining/",
        &[
            "pipelining/2-at-once",
            "pipelining/20-at-once",
            "pipelining/200-at-once",
            "pipelining/ids-in-no-order",
            "pipelining/large-and-small",
        ],
        &[],
    ),
    (
        Defect::SilentOnUnknownMessages,
        "",
        &["message/known-behind-unknown", "message/unknown-behind-known", "message/unknown-name"],
        &[],
    ),
    (Defect::OneErrorEndsAll, "others/one-says-garbage", &["others/one-says-garbage"], &[]),
];

/// What an agent does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    /// Nothing.
    None,
    /// ACKs the first frame of a stream, whichever was asked.
    AlwaysFrame1,
    /// Writes the head of its HELLO, then the rest.
    HelloInTwoWrites,
    /// ACKs without an action.
    EmptyAck,
    /// ACKs twice.
    AnswersTwice,
    /// Goes on after a HAPROXY-DISCONNECT.
    IgnoresDisconnect,
    /// Reads identifiers with arithmetic that wraps.
    WrapsVarints,
    /// Announces 1 MiB whatever was offered.
    LargerFrameSize,
    /// Closes, without a word, on a frame of unknown type.
    ClosesOnUnknownTypes,
    /// ACKs with no flag.
    AckWithoutFin,
    /// Leaves its capabilities out.
    HelloWithoutCapabilities,
    /// Does not close after a health check.
    KeepsChecksOpen,
    /// Drops what it would have answered when the other side sends no more.
    ForgetsWhoHalfCloses,
    /// ACKs with 900 bytes more.
    LargeAck,
    /// Sets a variable whose name has 64 bytes.
    LongName,
    /// Sets a variable whose name HAProxy does not take.
    NameWithHyphen,
    /// Sets a variable of scope 7.
    UnknownScope,
    /// Does not look at the versions.
    TakesAnyVersion,
    /// Answers the first piece of a NOTIFY, and lets the others go by.
    AnswersTheFirstPiece,
    /// Takes one frame of each read, and loses the rest.
    OneQuestionARead,
    /// Answers only what it knows.
    SilentOnUnknownMessages,
    /// Ends every conversation where one breaks the protocol.
    OneErrorEndsAll,
}

/// An agent with a defect.
struct Broken {
    address: SocketAddr,
    /// The messages that it was asked.
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Broken {
    async fn start(defect: Defect) -> Broken {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all_asked = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let (end_all, _) = tokio::sync::broadcast::channel(1);
            let mut conversations = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                // A peer that goes in the middle of a conversation is what many cases are about.
                let (asked, end_all, mut all_ended) = (Arc::clone(&all_asked), end_all.clone(), end_all.subscribe());
                conversations.spawn(async move {
                    tokio::select! {
                        ended = converse(socket, defect, &asked, &end_all) => ended.unwrap_or_default(),
                        _ = all_ended.recv() => {}
                    }
                });
            }
        });
        Broken { address, asked, task }
    }
}

/// One conversation, as [`Agent`] holds it, but for the defect.
async fn converse(
    mut socket: TcpStream,
    defect: Defect,
    asked: &Mutex<Vec<String>>,
    end_all: &tokio::sync::broadcast::Sender<()>,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut agent = Agent::new(FRAME_BYTES_MAX);
    let mut deframer = Deframer::new(FRAME_BYTES_MAX);
    loop {
        if socket.read_buf(deframer.buffer_with_room(64 * 1024)).await? == 0 {
            return Ok(());
        }
        loop {
            match deframer.step() {
                Ok(true) => match received(defect, deframer.frame()) {
                    Some(frame) => agent.buffer().extend_from_slice(&frame),
                    None => return Ok(()),
                },
                Ok(false) => break,
                // What is no frame is the agent's to refuse.
                Err(_) => {
                    let rest = deframer.buffer().split();
                    agent.buffer().extend_from_slice(&rest);
                    break;
                }
            }
            if defect == Defect::OneQuestionARead {
                deframer = Deframer::new(FRAME_BYTES_MAX);
                break;
            }
        }
        let mut check = false;
        while let Some(event) = agent.poll_event() {
            match event {
                Event::Hello(hello) => check = hello.healthcheck,
                Event::Notify { pending, messages } => {
                    for message in messages.iter() {
                        let name = String::from_utf8_lossy(message.name).into_owned();
                        let arguments = message.arguments();
                        let said =
                            arguments.map(|(name, value)| format!(" {}={value:?}", String::from_utf8_lossy(name)));
                        asked.lock().unwrap().push(name + &said.collect::<String>());
                    }
                    let known = messages.iter().all(|message| message.name != b"nobody-knows-it");
                    if known || defect != Defect::SilentOnUnknownMessages {
                        agent.ack(pending, &[action(defect)]);
                    }
                }
                Event::Refused { .. } if defect == Defect::OneErrorEndsAll => drop(end_all.send(())),
                Event::Disconnected { .. } | Event::Refused { .. } => {}
            }
        }
        if defect == Defect::ForgetsWhoHalfCloses {
            let more = tokio::time::timeout(Duration::from_millis(50), socket.peek(&mut [0])).await;
            if more.is_ok_and(|read| read.is_ok_and(|bytes| bytes == 0)) {
                return Ok(());
            }
        }
        let unsent = agent.unsent().split();
        let mut rest = &unsent[..];
        while let Some((frame, after)) = next(rest) {
            rest = after;
            for piece in sent(defect, frame) {
                socket.write_all(&piece).await?;
                if defect == Defect::HelloInTwoWrites {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        if check && defect == Defect::KeepsChecksOpen {
            while socket.read(&mut [0; 64]).await? > 0 {}
        }
        if agent.poll_close().is_some() {
            return Ok(());
        }
    }
}

fn action(defect: Defect) -> Action<'static> {
    let name = match defect {
        Defect::LongName => "a234567890123456789012345678901234567890123456789012345678901234",
        Defect::NameWithHyphen => "is-allowed",
        _ => "allowed",
    };
    Action::SetVar { scope: Scope::Transaction, name, value: TypedData::Bool(true) }
}

/// What the agent is given for a frame that came; `None` closes.
fn received(defect: Defect, frame: &[u8]) -> Option<BytesMut> {
    let mut same = BytesMut::new();
    same.put_u32(u32::try_from(frame.len()).unwrap());
    same.put_slice(frame);
    let head = Frame::decode(frame).ok();
    let kind = head.map(|frame| frame.kind);
    match defect {
        Defect::IgnoresDisconnect if kind == Some(FrameType::HaproxyDisconnect) => Some(BytesMut::new()),
        Defect::ClosesOnUnknownTypes if matches!(kind, Some(FrameType::Unknown(_))) => None,
        Defect::WrapsVarints => Some(wrapped(frame).unwrap_or(same)),
        Defect::TakesAnyVersion if kind == Some(FrameType::HaproxyHello) => {
            let mut pairs = BytesMut::new();
            let payload = head.map_or(&[][..], |frame| frame.payload);
            let read = kv_list::decode(payload, |key, value| match key {
                b"supported-versions" => kv_list::encode("supported-versions", TypedData::Str(b"2.0"), &mut pairs),
                key => kv_list::encode(std::str::from_utf8(key).unwrap(), value, &mut pairs),
            });
            Some(if read.is_ok() { encoded(head?, &pairs) } else { same })
        }
        Defect::AnswersTheFirstPiece => match head {
            Some(frame) if frame.kind == FrameType::Notify && frame.flags == Flags::NONE => {
                Some(encoded(Frame { flags: Flags::FIN, ..frame }, b""))
            }
            Some(frame) if frame.kind == FrameType::Unset => Some(BytesMut::new()),
            _ => Some(same),
        },
        _ => Some(same),
    }
}

/// A frame with its identifiers as arithmetic that wraps reads them.
fn wrapped(frame: &[u8]) -> Option<BytesMut> {
    let (head, rest) = frame.split_at_checked(5)?;
    let (stream_id, rest) = wrapping_varint(rest)?;
    let (frame_id, rest) = wrapping_varint(rest)?;
    let mut out = BytesMut::from(head);
    varint::encode(stream_id, &mut out);
    varint::encode(frame_id, &mut out);
    out.put_slice(rest);
    let mut prefixed = BytesMut::new();
    prefixed.put_u32(u32::try_from(out.len()).ok()?);
    prefixed.put_slice(&out);
    Some(prefixed)
}

fn wrapping_varint(input: &[u8]) -> Option<(u64, &[u8])> {
    let (first, mut rest) = input.split_first()?;
    let mut value = u64::from(*first);
    if *first < 240 {
        return Some((value, rest));
    }
    let mut shift = 4;
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        value = value.wrapping_add(u64::from(*byte).checked_shl(shift).unwrap_or(0));
        if *byte < 128 {
            return Some((value, rest));
        }
        shift += 7;
    }
}

/// What leaves for a frame that the agent wrote, each piece in a write of its own.
fn sent(defect: Defect, bytes: &[u8]) -> Vec<BytesMut> {
    let frame = Frame::decode(&bytes[PREFIX_BYTES..]).unwrap();
    let same = BytesMut::from(bytes);
    match (defect, frame.kind) {
        (Defect::AlwaysFrame1, FrameType::Ack) => vec![encoded(Frame { frame_id: 1, ..frame }, frame.payload)],
        (Defect::EmptyAck, FrameType::Ack) => vec![encoded(frame, b"")],
        (Defect::AnswersTwice, FrameType::Ack) => vec![same.clone(), same],
        (Defect::AckWithoutFin, FrameType::Ack) => vec![encoded(Frame { flags: Flags::NONE, ..frame }, frame.payload)],
        (Defect::UnknownScope, FrameType::Ack) => vec![encoded(frame, b"\x01\x03\x07\x01a\x11")],
        (Defect::LargeAck, FrameType::Ack) => {
            let mut payload = BytesMut::from(frame.payload);
            payload.put_slice(b"\x01\x03\x02\x04more\x09");
            varint::encode(900, &mut payload);
            payload.put_bytes(b'x', 900);
            vec![encoded(frame, &payload)]
        }
        (Defect::HelloInTwoWrites, FrameType::AgentHello) => {
            // The prefix and the head: where HAProxy's own reading of it stops.
            vec![BytesMut::from(&bytes[..11]), BytesMut::from(&bytes[11..])]
        }
        (Defect::LargerFrameSize, FrameType::AgentHello) => {
            let size = ("max-frame-size", TypedData::UInt32(1024 * 1024));
            vec![encoded(frame, &without(frame.payload, b"max-frame-size", Some(size)))]
        }
        (Defect::HelloWithoutCapabilities, FrameType::AgentHello) => {
            vec![encoded(frame, &without(frame.payload, b"capabilities", None))]
        }
        _ => vec![same],
    }
}

/// A list without one of its keys, and with another pair at its end.
fn without(payload: &[u8], left_out: &[u8], more: Option<(&str, TypedData<'_>)>) -> BytesMut {
    let mut out = BytesMut::new();
    let each = |key: &[u8], value: TypedData<'_>| {
        if key != left_out {
            kv_list::encode(std::str::from_utf8(key).unwrap(), value, &mut out);
        }
    };
    kv_list::decode(payload, each).unwrap();
    if let Some((key, value)) = more {
        kv_list::encode(key, value, &mut out);
    }
    out
}

fn encoded(frame: Frame<'_>, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let Frame { kind, flags, stream_id, frame_id, .. } = frame;
    Frame::encode(kind, flags, stream_id, frame_id, &mut out, |out| out.put_slice(payload));
    out
}

/// The first frame, with its prefix, and what is behind it.
fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    bytes.split_at_checked(PREFIX_BYTES + length)
}

const FRAME_BYTES_MAX: u32 = 256 * 1024;

/// What a run of the harness printed.
struct Run {
    code: i32,
    out: String,
    error: String,
}

impl Run {
    fn report(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}\n{}{}", self.out, self.error))
    }
}

async fn conform(args: &[&str]) -> Run {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_spop-harness"));
    command.arg("conform").args(args).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
    let ended = ended.expect("conform does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: ended.status.code().unwrap(), out: text(ended.stdout), error: text(ended.stderr) }
}
