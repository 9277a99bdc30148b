//! Where trials happen: connections to the agent, the question that it is asked, and what counts as an answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep, timeout};
use tollgate::spop::frame::{Flags, FrameType};
use tollgate::spop::hello::AgentHello;
use tollgate::spop::{TypedData, disconnect};

use super::case::{Flaw, Seen, failed, warned};
use super::wire;
use crate::peer::{Heard, Peer, Received};
use crate::question::Question;
use crate::target::Target;

/// The agent, how long it may take, and what it is asked.
#[derive(Clone, Debug)]
pub struct Lab {
    pub target: Arc<Target>,
    /// For an answer that must come.
    pub within: Duration,
    /// How long nothing must come.
    pub quiet: Duration,
    pub question: Arc<Question>,
    pub announced: Announced,
}

/// What the agent says of itself when it is offered `pipelining` and [`wire::FRAME_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    pub max_frame_size: u32,
    pub pipelining: bool,
    pub fragmentation: bool,
}

/// One connection.
pub struct Conversation {
    peer: Peer,
    within: Duration,
    quiet: Duration,
}

/// What may come of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// An answer.
    Answered,
    /// An end, with one of these codes where it has one; another code is a warning, an answer a failure.
    Refused(&'static [i64]),
    /// The same, but an answer is a warning.
    Unwanted(&'static [i64]),
    /// An answer or an end; only silence is a failure.
    Either,
}

impl Then {
    /// In words, where `answer` is what an answer is called.
    pub fn expected(self, answer: &str) -> String {
        let codes = |codes: &[i64]| match codes {
            [] => "DISCONNECT".to_owned(),
            codes => {
                let codes: Vec<_> = codes.iter().map(i64::to_string).collect();
                format!("DISCONNECT {}", codes.join(" or "))
            }
        };
        match self {
            Then::Answered => answer.to_owned(),
            Then::Refused(of) => format!("{}, or a close", codes(of)),
            Then::Unwanted(of) => format!("{}, or a close; a warning: {answer}", codes(of)),
            Then::Either => format!("{answer}, DISCONNECT or a close"),
        }
    }
}

impl Lab {
    /// Connects.
    pub async fn connect(&self) -> Result<Conversation, Flaw> {
        match Peer::connect(&self.target).await {
            Ok(peer) => Ok(Conversation { peer, within: self.within, quiet: self.quiet }),
            Err(error) => failed(format!("cannot connect: {error}")),
        }
    }

    /// Connects and says HELLO as HAProxy from 3.1 on does.
    pub async fn greeted(&self) -> Result<Conversation, Flaw> {
        Ok(self.greeted_by(&[wire::VERSIONS, wire::SIZE, wire::CAPABILITIES, wire::ENGINE_ID]).await?.0)
    }

    /// Connects and says this HELLO.
    pub async fn greeted_by(&self, hello: &[(&str, TypedData<'_>)]) -> Result<(Conversation, Received), Flaw> {
        let mut conversation = self.connect().await?;
        conversation.send(&wire::hello(hello)).await;
        let hello = conversation.agent_hello().await?;
        Ok((conversation, hello))
    }

    /// Connects, says HELLO with this frame size, and gives the one agreed on.
    pub async fn greeted_with_size(&self, size: u32) -> Result<(Conversation, u32), Flaw> {
        let size = ("max-frame-size", TypedData::UInt32(size));
        let (conversation, hello) =
            self.greeted_by(&[wire::VERSIONS, size, wire::CAPABILITIES, wire::ENGINE_ID]).await?;
        Ok((conversation, announced_in(&hello)?.max_frame_size))
    }

    /// The payload of the question, with more arguments behind its own.
    pub fn payload_with(&self, more: &[BytesMut]) -> BytesMut {
        let own = self.question.arguments.iter().map(wire::argument_of);
        let arguments: Vec<_> = own.chain(more.iter().cloned()).collect();
        let count = u8::try_from(arguments.len()).unwrap_or(u8::MAX);
        wire::message(self.question.message.as_bytes(), count, &arguments.concat())
    }

    /// The payload of the question.
    pub fn payload(&self) -> BytesMut {
        self.payload_with(&[])
    }

    /// The question as a whole NOTIFY.
    pub fn question(&self, stream_id: u64, frame_id: u64) -> BytesMut {
        wire::notify(stream_id, frame_id, &self.payload())
    }

    /// The question as a frame of exactly `length` bytes, by one more argument; `None` where that is too little.
    pub fn question_of(&self, length: usize) -> Option<BytesMut> {
        // Type, flags, two identifiers of one byte, the argument's name, its type; then its length and itself.
        let rest = length.checked_sub(7 + self.payload().len() + wire::string(PADDING).len() + 1)?;
        // The length of the length depends on the length: the one that comes out right is taken.
        let padding = (1..=5).filter_map(|width| rest.checked_sub(width)).map(|padding| vec![b'x'; padding]);
        let frames = padding.map(|padding| {
            wire::notify(1, 1, &self.payload_with(&[wire::argument(PADDING, TypedData::Str(&padding))]))
        });
        frames.into_iter().find(|frame| frame.len() == 4 + length)
    }

    /// Sends `bytes` to an agent that said HELLO and sees what comes for stream 1, frame 1.
    pub async fn tried(&self, bytes: &[u8], then: Then) -> Seen {
        let mut conversation = self.greeted().await?;
        conversation.send(bytes).await;
        conversation.judged(then).await
    }
}

impl Conversation {
    /// Sends. An agent that has closed meanwhile is heard, not an error here.
    pub async fn send(&mut self, bytes: &[u8]) {
        // One that does not read must not hold the trial for good.
        let _ = timeout(self.within * 2, self.peer.send(bytes)).await;
    }

    /// Sends each piece in a write, and likely a segment, of its own.
    pub async fn send_pieces<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) {
        for piece in pieces {
            self.send(piece).await;
            sleep(PAUSE).await;
        }
    }

    /// Sends nothing more, and still listens.
    pub async fn finish(&mut self) {
        let _ = self.peer.finish().await;
    }

    /// What comes.
    pub async fn hear(&mut self) -> Heard {
        self.peer.hear(self.within).await
    }

    /// What comes while nothing should.
    pub async fn hear_quiet(&mut self) -> Heard {
        self.peer.hear(self.quiet).await
    }

    /// How much of what comes first one read holds, and how much of it was promised.
    pub async fn first_read(&mut self) -> Result<(usize, usize), Flaw> {
        let read = self.peer.read_once(self.within).await;
        let Some(first) = read else { return failed("nothing") };
        match first.first_chunk::<4>() {
            Some(prefix) => Ok((first.len(), 4 + u32::from_be_bytes(*prefix) as usize)),
            None if first.is_empty() => failed("a close"),
            None => Ok((first.len(), 4)),
        }
    }

    /// The AGENT-HELLO.
    pub async fn agent_hello(&mut self) -> Result<Received, Flaw> {
        match self.hear().await {
            Heard::Frame(frame) if kind(&frame) == Some(FrameType::AgentHello) => Ok(frame),
            other => failed(format!("{} instead of AGENT-HELLO", words(&other))),
        }
    }

    /// The ACK for these identifiers; ACKs for others are let go by.
    pub async fn ack_of(&mut self, stream_id: u64, frame_id: u64) -> Result<Received, Flaw> {
        let until = Instant::now() + self.within;
        let mut others = String::new();
        loop {
            match self.peer.hear(until.saturating_duration_since(Instant::now())).await {
                Heard::Frame(frame) => match frame.head() {
                    Some((FrameType::Ack, _, stream, id)) if (stream, id) == (stream_id, frame_id) => return Ok(frame),
                    Some((FrameType::Ack, ..)) => others = format!("{}, then ", words(&Heard::Frame(frame))),
                    _ => return failed(format!("{others}{}", words(&Heard::Frame(frame)))),
                },
                other => return failed(format!("{others}{}", words(&other))),
            }
        }
    }

    /// Asks, and takes the answer.
    pub async fn ask(&mut self, lab: &Lab, stream_id: u64, frame_id: u64) -> Result<Received, Flaw> {
        self.send(&lab.question(stream_id, frame_id)).await;
        self.ack_of(stream_id, frame_id).await
    }

    /// One ACK for each of these, in any order, and nothing else.
    pub async fn each_once(&mut self, ids: impl IntoIterator<Item = (u64, u64)>) -> Seen {
        let mut open: Vec<_> = ids.into_iter().collect();
        let asked = open.len();
        while !open.is_empty() {
            let heard = self.hear().await;
            let ack = match &heard {
                Heard::Frame(frame) => frame.head().filter(|head| head.0 == FrameType::Ack),
                _ => None,
            };
            let place = ack.and_then(|(_, _, stream, id)| open.iter().position(|ids| *ids == (stream, id)));
            match place {
                Some(place) => drop(open.swap_remove(place)),
                None => return failed(format!("{}, with {} of {asked} to come", words(&heard), open.len())),
            }
        }
        match self.hear_quiet().await {
            Heard::Frame(frame) => failed(format!("{asked} ACKs, and {}", words(&Heard::Frame(frame)))),
            _ => Ok(if asked == 1 { "1 ACK".to_owned() } else { format!("{asked} ACKs") }),
        }
    }

    /// An end: AGENT-DISCONNECT, or a close. ACKs before it are let go by.
    pub async fn end(&mut self, codes: &[i64]) -> Seen {
        loop {
            let heard = self.hear().await;
            match &heard {
                Heard::Frame(frame) if kind(frame) == Some(FrameType::Ack) => {}
                _ => return ended(&heard, codes),
            }
        }
    }

    /// Waits until the agent has closed; what comes before is let go by.
    pub async fn closed(&mut self) -> Seen {
        let until = Instant::now() + self.within;
        loop {
            match self.peer.hear(until.saturating_duration_since(Instant::now())).await {
                Heard::Frame(_) => {}
                Heard::Nothing => return failed("still open"),
                heard @ Heard::TooLong(_) => return failed(words(&heard)),
                end => return Ok(words(&end)),
            }
        }
    }

    /// What came of something that asked for an ACK of stream 1, frame 1.
    pub async fn judged(&mut self, then: Then) -> Seen {
        match then {
            Then::Answered => self.ack_of(1, 1).await.map(|_| "ACK".to_owned()),
            then => judge(&self.hear().await, FrameType::Ack, then),
        }
    }
}

/// Whether this may come where an `answer` might.
pub fn judge(heard: &Heard, answer: FrameType, then: Then) -> Seen {
    let answered = matches!(heard, Heard::Frame(frame) if kind(frame) == Some(answer));
    match then {
        Then::Answered | Then::Either if answered => Ok(words(heard)),
        Then::Answered => failed(words(heard)),
        Then::Unwanted(_) if answered => warned(words(heard)),
        Then::Refused(_) if answered => failed(words(heard)),
        Then::Refused(codes) | Then::Unwanted(codes) => ended(heard, codes),
        Then::Either => ended(heard, &[]),
    }
}

fn ended(heard: &Heard, codes: &[i64]) -> Seen {
    match heard {
        Heard::Closed(0) | Heard::Reset => Ok(words(heard)),
        Heard::Frame(frame) if kind(frame) == Some(FrameType::AgentDisconnect) => match status(frame) {
            Some(code) if codes.is_empty() || codes.contains(&code) => Ok(words(heard)),
            _ => warned(words(heard)),
        },
        _ => failed(words(heard)),
    }
}

/// What an AGENT-HELLO says; a failure where HAProxy could not read it.
pub fn announced_in(hello: &Received) -> Result<Announced, Flaw> {
    let decoded = hello.decode().ok().and_then(|frame| AgentHello::decode(frame.payload).ok());
    match decoded {
        Some(hello) => Ok(Announced {
            max_frame_size: hello.max_frame_size,
            pipelining: hello.pipelining,
            fragmentation: hello.fragmentation,
        }),
        None => failed("an AGENT-HELLO that cannot be read"),
    }
}

/// The type of a frame that came.
pub fn kind(frame: &Received) -> Option<FrameType> {
    frame.head().map(|head| head.0)
}

/// The code of an AGENT-DISCONNECT.
pub fn status(frame: &Received) -> Option<i64> {
    frame.decode().ok().and_then(|frame| disconnect::decode(frame.payload).ok())
}

/// What came, in as few words as a column has room for.
pub fn words(heard: &Heard) -> String {
    match heard {
        Heard::Nothing => "nothing".to_owned(),
        Heard::Reset => "a reset".to_owned(),
        Heard::Closed(0) => "a close".to_owned(),
        Heard::Closed(bytes) => format!("a close inside a frame ({bytes} bytes)"),
        Heard::TooLong(length) => format!("a frame of {length} bytes"),
        Heard::Frame(frame) => match frame.head() {
            None => format!("a frame without a head ({} bytes)", frame.0.len()),
            Some((FrameType::Ack, flags, stream, id)) if flags == Flags::FIN => format!("ACK {stream}/{id}"),
            Some((FrameType::Ack, flags, stream, id)) => format!("ACK {stream}/{id} with flags {:#x}", flags.bits()),
            Some((FrameType::AgentDisconnect, ..)) => match status(frame) {
                Some(code) => format!("DISCONNECT {code}"),
                None => "DISCONNECT that cannot be read".to_owned(),
            },
            Some((FrameType::AgentHello, ..)) => "AGENT-HELLO".to_owned(),
            Some((other, ..)) => format!("a frame {other:?}"),
        },
    }
}

/// Between two pieces: longer than two writes take to become one segment.
const PAUSE: Duration = Duration::from_millis(1);

/// An argument that no agent knows.
pub const PADDING: &[u8] = b"padding";
