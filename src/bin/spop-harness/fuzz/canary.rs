//! Agents that are broken on purpose, each in one way: what a fuzzer is worth is which of them it finds.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use clap::ValueEnum;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tollgate::spop::frame::{FRAME_BYTES_MIN, Flags, MAX_FRAME_SIZE_MIN, PREFIX_BYTES};
use tollgate::spop::hello::{AgentHello, HaproxyHello};
use tollgate::spop::{Action, DecodeError, Messages, Scope, Status, TypedData, ack, disconnect, varint};

use super::generate::{DISCONNECT, HELLO, NOTIFY, UNSET};
use crate::target::Target;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Defect {
    /// Nothing: a fuzzer must find nothing
    None,
    /// An identifier beyond 2^64 wraps around
    VarintWraps,
    /// An identifier that ends inside its frame stops the whole agent
    VarintStops,
    /// A length below 7 ends the loop that accepts connections
    LengthEndsAccepting,
    /// The last fragment is answered even where it aborts
    AckAborted,
    /// A NOTIFY of a stream from 240 on is answered twice
    AckTwice,
    /// A string's length is believed, whatever is left of the frame
    StringOverread,
    /// Of three NOTIFYs in one read the second gets no answer
    AckForgotten,
    /// A frame of unknown type costs another connection its next answer
    OthersAckLost,
    /// A frame-id above 2287 comes back as another
    FrameIdWrong,
    /// The last question is answered again after AGENT-DISCONNECT
    AckAfterDisconnect,
}

/// A running one.
#[derive(Debug)]
pub struct Canary {
    defect: Defect,
    address: SocketAddr,
    state: Arc<State>,
    /// `None` while its port is taken by somebody else.
    accepting: Option<JoinHandle<()>>,
}

/// What its connections have in common.
#[derive(Debug, Default)]
struct State {
    stopped: AtomicBool,
    accepts_no_more: AtomicBool,
    /// The connection that costs another one an answer; 0 for none.
    loses: AtomicU64,
}

impl Canary {
    /// Listens on a free port of loopback.
    pub async fn start(defect: Defect) -> std::io::Result<Canary> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, defect, Arc::clone(&state)));
        Ok(Canary { defect, address, state, accepting: Some(accepting) })
    }

    pub fn target(&self) -> Target {
        Target::Tcp(self.address)
    }

    /// Starts it anew on the same port, if its defect has felled it.
    pub async fn revive(&mut self) {
        let runs = self.accepting.as_ref().is_some_and(|accepting| !accepting.is_finished());
        if runs && !self.state.stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        // The port is free once the listener of before is dropped, which the end of its task did.
        if let Ok(listener) = TcpListener::bind(self.address).await {
            self.state = Arc::new(State::default());
            self.accepting = Some(tokio::spawn(accept(listener, self.defect, Arc::clone(&self.state))));
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: TcpListener, defect: Defect, state: Arc<State>) {
    let mut connections = JoinSet::new();
    let mut accepted = 0;
    while !state.accepts_no_more.load(Ordering::Relaxed) {
        tokio::select! {
            stream = listener.accept() => {
                let Ok((stream, _)) = stream else { continue };
                accepted += 1;
                let connection = Connection {
                    number: accepted,
                    defect,
                    state: Arc::clone(&state),
                    received: BytesMut::new(),
                    unsent: BytesMut::new(),
                    greeted: false,
                    fragments: None,
                    last: None,
                };
                connections.spawn(connection.serve(stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection.
struct Connection {
    /// From 1.
    number: u64,
    defect: Defect,
    state: Arc<State>,
    received: BytesMut,
    unsent: BytesMut,
    greeted: bool,
    fragments: Option<(u64, u64, Vec<u8>)>,
    /// The ids of the last question.
    last: Option<(u64, u64)>,
}

/// Why a connection is done with.
enum Done {
    /// It says this first.
    Goodbye(Status),
    /// As is.
    Silently,
}

impl Connection {
    async fn serve(mut self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        loop {
            let done = self.take_frames();
            if self.state.stopped.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            if let Some(Done::Goodbye(status)) = done {
                disconnect::encode_agent(status, &mut self.unsent);
                if let (Defect::AckAfterDisconnect, Some((stream_id, frame_id))) = (self.defect, self.last) {
                    ack::encode(stream_id, frame_id, &[], &mut self.unsent);
                }
            }
            let unsent = self.unsent.split();
            if stream.write_all(&unsent).await.is_err() {
                return;
            }
            if done.is_some() {
                return close(stream).await;
            }
            self.received.reserve(READ_BYTES);
            match stream.read_buf(&mut self.received).await {
                Ok(1..) => {}
                _ => return,
            }
        }
    }

    /// Takes all whole frames that are there.
    fn take_frames(&mut self) -> Option<Done> {
        let mut questions = Vec::new();
        let done = loop {
            let Some(prefix) = self.received.first_chunk::<PREFIX_BYTES>() else { break None };
            let length = u32::from_be_bytes(*prefix) as usize;
            if length < FRAME_BYTES_MIN {
                if self.defect == Defect::LengthEndsAccepting {
                    self.state.accepts_no_more.store(true, Ordering::Relaxed);
                }
                break Some(Done::Goodbye(Status::InvalidFrame));
            }
            if length > FRAME_BYTES_MAX as usize {
                break Some(Done::Goodbye(Status::FrameTooBig));
            }
            if self.received.len() < PREFIX_BYTES + length {
                break None;
            }
            let frame = self.received.split_to(PREFIX_BYTES + length);
            match self.hear(&frame[PREFIX_BYTES..]) {
                Ok(question) => questions.extend(question),
                Err(done) => break Some(done),
            }
        };
        if self.defect == Defect::AckForgotten && questions.len() >= 3 {
            questions.remove(1);
        }
        for (stream_id, frame_id) in questions {
            self.answer(stream_id, frame_id);
        }
        done
    }

    /// Takes one frame, without its prefix; gives the ids of a whole question.
    fn hear(&mut self, frame: &[u8]) -> Result<Option<(u64, u64)>, Done> {
        let invalid = Done::Goodbye(Status::InvalidFrame);
        let (head, rest) = frame.split_at_checked(5).ok_or(Done::Silently)?;
        let (kind, flags) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]));
        let flags = Flags::of(flags);
        let ids = self.identifier(rest).and_then(|(stream_id, rest)| Ok((stream_id, self.identifier(rest)?)));
        let Ok((stream_id, (frame_id, payload))) = ids else {
            if self.defect == Defect::VarintStops && ids == Err(DecodeError::Truncated) {
                self.state.stopped.store(true, Ordering::Relaxed);
            }
            return Err(invalid);
        };
        let question = (stream_id, frame_id);
        match (self.greeted, kind) {
            (false, HELLO) => {
                let hello = HaproxyHello::decode(payload).map_err(Done::Goodbye)?;
                let max_frame_size = hello.max_frame_size.clamp(MAX_FRAME_SIZE_MIN, FRAME_BYTES_MAX);
                AgentHello { max_frame_size, pipelining: hello.pipelining, fragmentation: true }
                    .encode(&mut self.unsent);
                self.greeted = true;
                if hello.healthcheck { Err(Done::Silently) } else { Ok(None) }
            }
            (_, DISCONNECT) => Err(Done::Goodbye(Status::Normal)),
            (true, NOTIFY) if self.fragments.is_some() => Err(Done::Goodbye(Status::InterlacedFrames)),
            (true, NOTIFY) if flags.has(Flags::FIN) => {
                self.decode(payload).map_err(|_| invalid)?;
                self.last = Some(question);
                Ok(Some(question))
            }
            (true, NOTIFY) => {
                self.fragments = Some((stream_id, frame_id, payload.to_vec()));
                Ok(None)
            }
            (true, UNSET) => match self.fragments.take() {
                Some((stream_id, frame_id, mut whole)) if (stream_id, frame_id) == question => {
                    if flags.has(Flags::ABORT) {
                        return Ok((self.defect == Defect::AckAborted).then_some(question));
                    }
                    whole.extend_from_slice(payload);
                    if whole.len() > FRAME_BYTES_MAX as usize {
                        return Err(Done::Goodbye(Status::FrameTooBig));
                    }
                    if !flags.has(Flags::FIN) {
                        self.fragments = Some((stream_id, frame_id, whole));
                        return Ok(None);
                    }
                    self.decode(&whole).map_err(|_| invalid)?;
                    self.last = Some(question);
                    Ok(Some(question))
                }
                _ => Err(Done::Goodbye(Status::InterlacedFrames)),
            },
            (true, HELLO | 101..=103) | (false, _) => Err(invalid),
            (true, _) => {
                if self.defect == Defect::OthersAckLost {
                    self.state.loses.store(self.number, Ordering::Relaxed);
                }
                Ok(None)
            }
        }
    }

    fn identifier<'a>(&self, input: &'a [u8]) -> Result<(u64, &'a [u8]), DecodeError> {
        match varint::decode(input) {
            Err(DecodeError::VarintTooLarge) if self.defect == Defect::VarintWraps => {
                let mut value = u64::from(input[0]);
                for (at, byte) in input.iter().enumerate().skip(1) {
                    let shift = 4 + 7 * (u32::try_from(at).unwrap_or(u32::MAX) - 1);
                    value = value.wrapping_add(u64::from(*byte).checked_shl(shift).unwrap_or(0));
                    if *byte < 128 {
                        return Ok((value, &input[at + 1..]));
                    }
                }
                Err(DecodeError::Truncated)
            }
            read => read,
        }
    }

    fn decode(&self, payload: &[u8]) -> Result<(), DecodeError> {
        match Messages::decode(payload) {
            Err(DecodeError::Truncated) if self.defect == Defect::StringOverread => Ok(()),
            read => read.map(|_| ()),
        }
    }

    fn answer(&mut self, stream_id: u64, frame_id: u64) {
        let loses = &self.state.loses;
        let lost = loses.load(Ordering::Relaxed);
        if lost != 0 && lost != self.number {
            loses.store(0, Ordering::Relaxed);
            return;
        }
        let wrong = self.defect == Defect::FrameIdWrong && frame_id > 2287;
        let frame_id = if wrong { frame_id & 0x7ff } else { frame_id };
        let verdict = Action::SetVar { scope: Scope::Transaction, name: "verdict", value: TypedData::Str(b"allow") };
        ack::encode(stream_id, frame_id, &[verdict], &mut self.unsent);
        if self.defect == Defect::AckTwice && stream_id >= 240 {
            ack::encode(stream_id, frame_id, &[verdict], &mut self.unsent);
        }
    }
}

/// Closes without a reset, which unread bytes would cause and which would take the last words away.
async fn close(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut nothing = [0; 4096];
    let reading = async { while stream.read(&mut nothing).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
}

/// What one read may bring.
const READ_BYTES: usize = 16 * 1024;

/// The largest frame it takes.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
