//! An agent with one defect: what [`Agent`] does, but for that.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::spop::deframer::Deframer;
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::{Action, Agent, Event, Scope, TypedData, kv_list, varint};

/// What an agent does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
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
pub struct Broken {
    pub address: SocketAddr,
    /// The messages that it was asked.
    pub asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Broken {
    pub async fn start(defect: Defect) -> Broken {
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
