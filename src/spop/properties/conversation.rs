//! What must hold for the bytes of one connection, whoever wrote the agent: SPOE.txt where it is clear, and its readers'
//! freedom where it is not.

use super::super::frame::{FRAME_BYTES_MIN, Flags, Frame, FrameType, MAX_FRAME_SIZE_MIN, PREFIX_BYTES};
use super::super::hello::{AgentHello, HaproxyHello};
use super::super::{DecodeError, Messages, Status, TypedData, ack, annotate, disconnect, kv_list};

/// All that passed on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// What HAProxy's side wrote.
    pub sent: &'a [u8],
    /// What the agent wrote.
    pub received: &'a [u8],
    /// Where, in bytes of `sent` and ascending, HAProxy's side waited until the agent had time to answer what was sent.
    pub settled: &'a [usize],
    /// How it ended.
    pub end: End,
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did not: the agent had time enough to answer everything, and neither side closed.
    Open,
    /// The agent closed.
    Closed,
    /// The agent reset the connection; bytes of it may be lost.
    Reset,
    /// HAProxy's side left, or closed its sending half, before the agent had time for what came after the last point of
    /// `settled`. What the agent does then is its own affair.
    Left,
}

/// What an agent did wrong. Offsets count bytes of what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Violation {
    #[error("the agent's bytes end inside a frame: {have} of {expected} bytes at offset {at}")]
    CutFrame { at: usize, have: usize, expected: usize },
    #[error("the frame at offset {at} has length {length}, expected {FRAME_BYTES_MIN} at least")]
    ShortFrame { at: usize, length: usize },
    #[error("the frame at offset {at} does not decode: {error}")]
    Undecodable { at: usize, error: DecodeError },
    #[error("the frame at offset {at} is {}, expected AGENT-HELLO or AGENT-DISCONNECT first", annotate::kind(*.kind))]
    NotHelloFirst { at: usize, kind: FrameType },
    #[error("HAPROXY-HELLO got no answer")]
    HelloMissing,
    #[error("AGENT-HELLO number {hellos} answers no HAPROXY-HELLO")]
    HelloUnasked { hellos: usize },
    #[error("AGENT-HELLO is not as the specification says: {}", .0.message())]
    BadHello(Status),
    #[error(
        "AGENT-HELLO announces frames of {announced} bytes, expected {MAX_FRAME_SIZE_MIN} to the {offered} that HAProxy offered"
    )]
    HelloSize { announced: u32, offered: u32 },
    #[error(
        "the frame at offset {at} has flags {flags:#x} and identifiers {stream_id} and {frame_id}, expected FIN, 0 and 0"
    )]
    BadHead { at: usize, flags: u32, stream_id: u64, frame_id: u64 },
    #[error("the frame at offset {at} is {}, which no agent sends", annotate::kind(*.kind))]
    Unexpected { at: usize, kind: FrameType },
    #[error("ACK of stream {stream_id} frame {frame_id} answers nothing that was asked")]
    Unasked { stream_id: u64, frame_id: u64 },
    #[error("ACK of stream {stream_id} frame {frame_id} answers what was answered before")]
    Twice { stream_id: u64, frame_id: u64 },
    #[error("ACK of stream {stream_id} frame {frame_id} has flags {flags:#x}, expected FIN")]
    AckNotFinal { stream_id: u64, frame_id: u64, flags: u32 },
    #[error("ACK of stream {stream_id} frame {frame_id} is empty, which makes HAProxy 3.1 wait for its whole timeout")]
    AckEmpty { stream_id: u64, frame_id: u64 },
    #[error(
        "ACK of stream {stream_id} frame {frame_id} has {length} bytes, expected at most the {negotiated} agreed on"
    )]
    AckTooLong { stream_id: u64, frame_id: u64, length: usize, negotiated: usize },
    #[error("the actions of ACK of stream {stream_id} frame {frame_id} do not decode: {error}")]
    BadAck { stream_id: u64, frame_id: u64, error: DecodeError },
    #[error("the AGENT-DISCONNECT at offset {at} does not decode: {error}")]
    BadDisconnect { at: usize, error: DecodeError },
    #[error("the AGENT-DISCONNECT has status code {0}, expected 0 to 13 or 99")]
    BadStatus(i64),
    #[error("{} comes after AGENT-DISCONNECT, at offset {at}", annotate::kind(*.kind))]
    AfterDisconnect { at: usize, kind: FrameType },
    #[error("the agent ended a conversation that nothing was wrong with")]
    Ended,
    #[error("{missing} of {asked} NOTIFYs got no ACK; the first is stream {stream_id} frame {frame_id}")]
    Missing { stream_id: u64, frame_id: u64, missing: usize, asked: usize },
}

impl Violation {
    /// Whether more bytes from the agent could still mend it.
    pub fn may_pass(&self) -> bool {
        matches!(self, Violation::HelloMissing | Violation::Missing { .. } | Violation::CutFrame { .. })
    }

    /// Whether it is the same rule that is broken, wherever.
    pub fn is_like(&self, other: &Violation) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// An agent that keeps to SPOE.txt gives such a conversation.
///
/// - It writes whole frames; one may be cut only by a reset.
/// - A HELLO is answered. AGENT-HELLO or AGENT-DISCONNECT comes first, and at most one HELLO for each that was sent.
/// - Each ACK answers a NOTIFY that came whole, at once or in fragments, and once; it has FIN, decodes, says something,
///   and is no longer than agreed on.
/// - Nothing comes after AGENT-DISCONNECT, whose code is one of the specification's.
/// - Every NOTIFY is answered, unless HAProxy's side broke the protocol, said goodbye or left before the agent had time.
/// - What comes after a breach is not answered; without one the agent does not end the conversation.
///
/// Where the specification leaves it open whether something is a breach, both are taken: that the agent goes on, and that
/// it ends the conversation there.
pub fn conversation_holds(conversation: &Conversation<'_>) -> Result<(), Violation> {
    let agreed = Agreed::read(conversation.received);
    let mut asked = Asked::read(conversation, agreed.as_ref());
    let said_goodbye = asked.check(conversation, agreed)?;
    let ended = said_goodbye || matches!(conversation.end, End::Closed | End::Reset);
    if ended && asked.standing == Standing::Sound && !asked.owes && conversation.end != End::Left {
        return Err(Violation::Ended);
    }
    if asked.hello_due.is_some() && !ended {
        return Err(Violation::HelloMissing);
    }
    let mut missing = asked.notifies.iter().filter(|notify| notify.must && !notify.answered);
    if let Some(first) = missing.next() {
        return Err(Violation::Missing {
            stream_id: first.stream_id,
            frame_id: first.frame_id,
            missing: 1 + missing.count(),
            asked: asked.notifies.len(),
        });
    }
    Ok(())
}

/// What both sides can do, by the agent's HELLO. Until that has come, what is sent is as good as if it could do all, or
/// what is found to be missing would depend on when it is asked.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    max_frame_size: u32,
    pipelining: bool,
    fragmentation: bool,
    asynchronous: bool,
}

impl Agreed {
    fn read(received: &[u8]) -> Option<Agreed> {
        let frame = Frames { bytes: received, at: 0 }.next()?.whole().ok()?;
        if frame.kind != FrameType::AgentHello {
            return None;
        }
        let hello = AgentHello::decode(frame.payload).ok()?;
        let mut asynchronous = false;
        let read = kv_list::decode(frame.payload, |key, value| {
            if let (b"capabilities", TypedData::Str(list)) = (key, value) {
                asynchronous = list.split(|byte| *byte == b',').any(|item| item.trim_ascii() == b"async");
            }
        });
        read.ok()?;
        let AgentHello { max_frame_size, pipelining, fragmentation } = hello;
        Some(Agreed { max_frame_size, pipelining, fragmentation, asynchronous })
    }
}

/// What HAProxy's side asked.
#[derive(Debug)]
struct Asked {
    standing: Standing,
    /// HAProxy's side stopped inside a frame, a fragmented NOTIFY or the greeting: the agent need not wait for ever.
    owes: bool,
    hellos: usize,
    /// Where the HELLO ends that must be answered.
    hello_due: Option<usize>,
    /// The largest frame that a HELLO offered to take.
    offered: Option<u32>,
    notifies: Vec<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing was wrong.
    Sound,
    /// Something came that an agent may take or refuse.
    Doubtful,
    /// A breach, a goodbye or a health check: nothing more is owed.
    Over,
}

#[derive(Debug)]
struct Notify {
    stream_id: u64,
    frame_id: u64,
    /// Where its last byte is, in bytes of `sent`.
    end: usize,
    /// It must be answered; otherwise it may be.
    must: bool,
    fragmented: bool,
    /// All of it came.
    whole: bool,
    answered: bool,
}

/// A NOTIFY in fragments that is not whole yet.
struct Fragments {
    stream_id: u64,
    frame_id: u64,
    payload: Vec<u8>,
}

impl Asked {
    fn read(conversation: &Conversation<'_>, agreed: Option<&Agreed>) -> Asked {
        let Conversation { sent, settled, end, .. } = *conversation;
        let mut asked = Asked {
            standing: Standing::Sound,
            owes: false,
            hellos: 0,
            hello_due: None,
            offered: None,
            notifies: Vec::new(),
        };
        let mut fragments: Option<Fragments> = None;
        for piece in (Frames { bytes: sent, at: 0 }) {
            let at = piece.at;
            // Longer than agreed on: HAProxy 3.1 does it, and agents may take it.
            let negotiated = asked.negotiated(agreed);
            if piece.length.is_some_and(|length| negotiated.is_some_and(|most| length > most)) {
                asked.doubt(at, settled);
            }
            let frame = match piece.whole() {
                Ok(frame) => frame,
                Err(Violation::CutFrame { .. }) => {
                    asked.owes = true;
                    break;
                }
                Err(_) => {
                    asked.over(at, settled);
                    break;
                }
            };
            if !asked.hear(&frame, &mut fragments, (at, piece.end()), settled, agreed) {
                asked.over(at, settled);
                break;
            }
        }
        asked.owes |= fragments.is_some() || asked.hellos == 0;
        let asynchronous = agreed.is_some_and(|agreed| agreed.asynchronous);
        // With `async` agreed on, an answer may take another connection of the same engine.
        if end == End::Left || asynchronous {
            let points = if asynchronous { &[][..] } else { settled };
            asked.release(sent.len(), points);
        }
        asked
    }

    /// Takes one frame; false where it breaks the protocol or ends the conversation.
    fn hear(
        &mut self,
        frame: &Frame<'_>,
        fragments: &mut Option<Fragments>,
        (at, end): (usize, usize),
        settled: &[usize],
        agreed: Option<&Agreed>,
    ) -> bool {
        let (stream_id, frame_id) = (frame.stream_id, frame.frame_id);
        match frame.kind {
            FrameType::HaproxyHello => {
                if kv_list::decode(frame.payload, |_, _| {}).is_err() {
                    return false;
                }
                let hello = HaproxyHello::decode(frame.payload);
                let odd = frame.flags != Flags::FIN || (stream_id, frame_id) != (0, 0);
                if odd || self.hellos > 0 || hello.is_err() {
                    self.doubt(at, settled);
                }
                self.hellos += 1;
                if self.hellos == 1 && self.standing == Standing::Sound {
                    self.hello_due = Some(end);
                }
                if let Ok(hello) = hello {
                    self.offered = self.offered.max(Some(hello.max_frame_size));
                    if hello.healthcheck {
                        // Answered as any HELLO; after that most agents close.
                        let due = self.hello_due;
                        self.doubt(at, settled);
                        self.hello_due = due;
                    }
                } else {
                    // Whatever an agent makes of it.
                    self.offered = Some(u32::MAX);
                }
            }
            FrameType::HaproxyDisconnect => return false,
            FrameType::Notify if self.hellos == 0 => return false,
            FrameType::Notify => {
                if fragments.is_some() {
                    self.doubt(at, settled);
                }
                let aborted = frame.flags.has(Flags::ABORT);
                let unsettled =
                    |notify: &Notify| notify.whole && !settled.iter().any(|point| (notify.end..=at).contains(point));
                if agreed.is_some_and(|agreed| !agreed.pipelining) && self.notifies.iter().any(unsettled) {
                    self.doubt(at, settled);
                }
                if !frame.flags.has(Flags::FIN) {
                    if aborted || agreed.is_some_and(|agreed| !agreed.fragmentation) {
                        self.doubt(at, settled);
                    }
                    *fragments = Some(Fragments { stream_id, frame_id, payload: frame.payload.to_vec() });
                    self.notifies.push(Notify { whole: false, must: false, ..self.notify(frame, end, true) });
                } else if aborted {
                    // The bit says nothing about a NOTIFY that is whole: an agent may look at it or not.
                    if Messages::decode(frame.payload).is_err() {
                        self.doubt(at, settled);
                    }
                    self.notifies.push(Notify { must: false, ..self.notify(frame, end, false) });
                } else {
                    if Messages::decode(frame.payload).is_err() {
                        return false;
                    }
                    self.notifies.push(self.notify(frame, end, false));
                }
            }
            FrameType::Unset => {
                let Some(begun) = fragments else {
                    self.doubt(at, settled);
                    return self.hellos > 0;
                };
                if (begun.stream_id, begun.frame_id) != (stream_id, frame_id) {
                    self.doubt(at, settled);
                    return true;
                }
                if frame.flags.has(Flags::ABORT) {
                    if !frame.flags.has(Flags::FIN) {
                        self.doubt(at, settled);
                    }
                    *fragments = None;
                    return true;
                }
                begun.payload.extend_from_slice(frame.payload);
                let too_long = self.negotiated(agreed).is_some_and(|most| begun.payload.len() > most);
                let last = frame.flags.has(Flags::FIN);
                let decodes = !last || Messages::decode(&begun.payload).is_ok();
                if last {
                    *fragments = None;
                }
                if too_long {
                    // Nobody need put together more than one frame's worth.
                    self.doubt(at, settled);
                }
                if !decodes {
                    return false;
                }
                if last {
                    let whole = self.notify(frame, end, true);
                    let begun = self.notifies.iter_mut().rev().find(|notify| !notify.whole && notify.fragmented);
                    if let Some(begun) = begun {
                        *begun = Notify { answered: begun.answered, ..whole };
                    }
                }
            }
            FrameType::Unknown(_) if self.hellos > 0 => {}
            // Before the HELLO, or what only an agent says: ignored as unknown, or refused.
            _ => self.doubt(at, settled),
        }
        true
    }

    fn notify(&self, frame: &Frame<'_>, end: usize, fragmented: bool) -> Notify {
        Notify {
            stream_id: frame.stream_id,
            frame_id: frame.frame_id,
            end,
            must: self.standing == Standing::Sound,
            fragmented,
            whole: true,
            answered: false,
        }
    }

    /// The largest frame that either side may send.
    fn negotiated(&self, agreed: Option<&Agreed>) -> Option<usize> {
        let agent = agreed.map_or(u32::MAX, |agreed| agreed.max_frame_size);
        Some(agent.min(self.offered?) as usize)
    }

    fn doubt(&mut self, at: usize, settled: &[usize]) {
        if self.standing == Standing::Sound {
            self.standing = Standing::Doubtful;
            self.release(at, settled);
        }
    }

    fn over(&mut self, at: usize, settled: &[usize]) {
        self.release(at, settled);
        self.standing = Standing::Over;
    }

    /// The agent may end the conversation at `at`: only what it had time for before must have been answered.
    fn release(&mut self, at: usize, settled: &[usize]) {
        let had_time = |end: usize| settled.iter().any(|point| (end..=at).contains(point));
        self.hello_due.take_if(|end| !had_time(*end));
        for notify in &mut self.notifies {
            notify.must &= had_time(notify.end);
        }
    }

    /// Looks at all that the agent said; gives whether it said goodbye.
    fn check(&mut self, conversation: &Conversation<'_>, agreed: Option<Agreed>) -> Result<bool, Violation> {
        let mut hellos = 0;
        let mut said_goodbye = false;
        for piece in (Frames { bytes: conversation.received, at: 0 }) {
            let at = piece.at;
            let frame = match piece.whole() {
                Err(Violation::CutFrame { .. }) if matches!(conversation.end, End::Reset | End::Left) => break,
                frame => frame?,
            };
            let kind = frame.kind;
            if said_goodbye {
                return Err(Violation::AfterDisconnect { at, kind });
            }
            if !matches!(kind, FrameType::AgentHello | FrameType::AgentDisconnect) && hellos == 0 {
                return Err(Violation::NotHelloFirst { at, kind });
            }
            let Frame { flags, stream_id, frame_id, payload, .. } = frame;
            if kind != FrameType::Ack && (!flags.has(Flags::FIN) || (stream_id, frame_id) != (0, 0)) {
                return Err(Violation::BadHead { at, flags: flags.bits(), stream_id, frame_id });
            }
            match kind {
                FrameType::AgentHello => {
                    hellos += 1;
                    self.hello_due = None;
                    if hellos > self.hellos {
                        return Err(Violation::HelloUnasked { hellos });
                    }
                    let announced = AgentHello::decode(payload).map_err(Violation::BadHello)?.max_frame_size;
                    let offered = self.offered.unwrap_or(u32::MAX);
                    if announced < MAX_FRAME_SIZE_MIN || announced > offered {
                        return Err(Violation::HelloSize { announced, offered });
                    }
                }
                FrameType::AgentDisconnect => {
                    said_goodbye = true;
                    match disconnect::decode(payload) {
                        Ok(0..=13 | 99) => {}
                        Ok(code) => return Err(Violation::BadStatus(code)),
                        Err(error) => return Err(Violation::BadDisconnect { at, error }),
                    }
                }
                FrameType::Ack => {
                    let length = piece.length.unwrap_or_default();
                    let negotiated = self.negotiated(agreed.as_ref()).unwrap_or(usize::MAX);
                    if length > negotiated {
                        return Err(Violation::AckTooLong { stream_id, frame_id, length, negotiated });
                    }
                    self.answer(&frame)?;
                }
                _ => return Err(Violation::Unexpected { at, kind }),
            }
        }
        Ok(said_goodbye)
    }

    fn answer(&mut self, frame: &Frame<'_>) -> Result<(), Violation> {
        let Frame { flags, stream_id, frame_id, payload, .. } = *frame;
        if !flags.has(Flags::FIN) {
            return Err(Violation::AckNotFinal { stream_id, frame_id, flags: flags.bits() });
        }
        // By an aborting ACK an agent asks not to be sent the rest.
        let aborting = flags.has(Flags::ABORT);
        let actions = ack::decode(payload).map_err(|error| Violation::BadAck { stream_id, frame_id, error })?;
        let same = |notify: &&mut Notify| (notify.stream_id, notify.frame_id) == (stream_id, frame_id);
        let mut candidates: Vec<_> = self.notifies.iter_mut().filter(same).collect();
        candidates.sort_by_key(|notify| !notify.must);
        let fits = |notify: &&&mut Notify| !notify.answered && (notify.whole || aborting);
        let Some(at) = candidates.iter().position(|notify| fits(&notify)) else {
            let answered = candidates.iter().any(|notify| notify.answered);
            return Err(match answered {
                true => Violation::Twice { stream_id, frame_id },
                false => Violation::Unasked { stream_id, frame_id },
            });
        };
        if actions.is_empty() && !aborting {
            return Err(Violation::AckEmpty { stream_id, frame_id });
        }
        candidates[at].answered = true;
        Ok(())
    }
}

/// The frames of one direction, the last perhaps cut.
#[derive(Clone, Copy, Debug)]
struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One of them, not looked at yet.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    at: usize,
    /// What its prefix says, where that is whole.
    length: Option<usize>,
    /// Without the prefix, as much as is there.
    frame: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let at = self.at;
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX_BYTES>() else {
            self.at = self.bytes.len();
            return Some(Piece { at, length: None, frame: rest });
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        let frame = rest.get(..length).unwrap_or(rest);
        self.at += PREFIX_BYTES + frame.len();
        Some(Piece { at, length: Some(length), frame })
    }
}

impl<'a> Piece<'a> {
    fn whole(&self) -> Result<Frame<'a>, Violation> {
        let at = self.at;
        let Some(length) = self.length else {
            return Err(Violation::CutFrame { at, have: self.frame.len(), expected: PREFIX_BYTES });
        };
        if length < FRAME_BYTES_MIN {
            return Err(Violation::ShortFrame { at, length });
        }
        if self.frame.len() < length {
            return Err(Violation::CutFrame { at, have: self.frame.len(), expected: length });
        }
        Frame::decode(self.frame).map_err(|error| Violation::Undecodable { at, error })
    }

    fn end(&self) -> usize {
        self.at + PREFIX_BYTES + self.frame.len()
    }
}
