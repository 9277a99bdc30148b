//! Our half of the conversation: bytes in, events out, ACKs back. It owns the protocol, no socket and no clock.
//!
//! A driver reads into [`Agent::buffer_with_room`], takes events from [`Agent::poll_event`] until there is none, answers each
//! [`Event::Notify`] once with [`Agent::ack`], and writes what stands in [`Agent::unsent`]. When [`Agent::poll_close`]
//! says so and nothing is unsent, it closes. The operator's wish to end the conversation is [`Agent::handle_stop`], which
//! says goodbye if nothing is in flight.

use bytes::BytesMut;

use super::deframer::Deframer;
use super::disconnect::{self, Status};
use super::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use super::hello::{AgentHello, HaproxyHello};
use super::{Action, Messages, ack, varint};

/// One connection's conversation.
#[derive(Debug)]
pub struct Agent {
    deframer: Deframer,
    unsent: BytesMut,
    /// What its buffer grew to; `BytesMut` forgets the part that was sent.
    unsent_bytes_peak: usize,
    state: State,
    frame_bytes_max: u32,
    /// Set by the HELLO.
    ack_bytes_max: usize,
    in_flight: usize,
    in_flight_max: usize,
    frames: u64,
    fragments: Option<Fragments>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the HELLO.
    Greeting,
    /// NOTIFYs come, ACKs go.
    Open,
    /// Nothing more is read; what is unsent still goes.
    Closing(Close),
}

/// A NOTIFY that came in pieces (HAProxy up to 3.0).
#[derive(Debug)]
struct Fragments {
    stream_id: u64,
    frame_id: u64,
    payload: BytesMut,
    whole: bool,
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// As soon as everything is written.
    Now,
    /// Some hundred milliseconds after that: HAProxy 2.6 to 3.0 reconnects at once, thousands of times a second, for
    /// as long as a request waits (spop.md, P8).
    Held,
    /// Some hundred milliseconds pass before anything is written, and then as soon as it is: before its HELLO is answered
    /// HAProxy 2.6 to 3.0 takes a DISCONNECT as the end, and reconnects at once.
    HeldUnsaid,
}

/// What came in.
#[derive(Debug)]
pub enum Event<'a> {
    /// HAProxy said HELLO and was answered.
    Hello(HaproxyHello),
    /// A question. It must be answered by exactly one [`Agent::ack`].
    Notify {
        /// What the answer is for.
        pending: Pending,
        /// What is asked.
        messages: Messages<'a>,
    },
    /// HAProxy ends the conversation with this status code.
    Disconnected {
        /// Need not be one of [`Status`].
        code: i64,
    },
    /// HAProxy broke the protocol and was told so.
    Refused {
        /// What it was told.
        status: Status,
    },
}

/// A NOTIFY without its ACK. It cannot be copied, so that there is one ACK each.
#[derive(Debug)]
#[must_use = "every NOTIFY is answered by exactly one ACK"]
pub struct Pending {
    stream_id: u64,
    frame_id: u64,
    action_bytes_max: usize,
}

impl Pending {
    /// How many bytes of actions the ACK may hold.
    pub fn action_bytes_max(&self) -> usize {
        self.action_bytes_max
    }
}

impl Agent {
    /// NOTIFYs in flight on one connection at most, unless [`Agent::with_in_flight_max`] says otherwise; the next is read
    /// when one is answered. HAProxy's own default is 20 and its older engine can be configured higher; each costs a
    /// decision's state, about 2 KiB.
    pub const IN_FLIGHT_MAX: usize = 256;

    /// A conversation that takes and announces frames of at most `frame_bytes_max` bytes. The same bound holds for a
    /// NOTIFY put together from fragments.
    pub fn new(frame_bytes_max: u32) -> Agent {
        Agent {
            deframer: Deframer::new(frame_bytes_max),
            unsent: BytesMut::new(),
            unsent_bytes_peak: 0,
            state: State::Greeting,
            frame_bytes_max,
            ack_bytes_max: 0,
            in_flight: 0,
            in_flight_max: Agent::IN_FLIGHT_MAX,
            frames: 0,
            fragments: None,
        }
    }

    /// The same with another bound for the NOTIFYs in flight, at least one.
    pub fn with_in_flight_max(mut self, in_flight_max: usize) -> Agent {
        self.in_flight_max = in_flight_max.max(1);
        self
    }

    // What happened.

    /// Where the driver appends what it reads.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.deframer.buffer()
    }

    /// What that buffer must grow by, in bytes of the heap, to have room for `spare` more.
    pub fn growth_for(&mut self, spare: usize) -> usize {
        self.deframer.growth_for(spare)
    }

    /// The buffer with room for `spare` bytes at least.
    pub fn buffer_with_room(&mut self, spare: usize) -> &mut BytesMut {
        self.deframer.buffer_with_room(spare)
    }

    /// The operator wants to stop: says goodbye if nothing is in flight, and nothing if something is.
    ///
    /// A goodbye that crosses a NOTIFY on the way costs that request its answer, so the driver calls this where HAProxy is
    /// least likely to be asking: behind an ACK that is still to be written, when nothing more can be read.
    pub fn handle_stop(&mut self) {
        if self.is_idle() {
            self.disconnect(Status::Normal, Close::Now);
        }
    }

    // What we decided.

    /// Answers a NOTIFY.
    ///
    /// An ACK beyond the budget would block the connection inside HAProxy for good, so it is replaced by one that says
    /// nothing; the shipped HAProxy config lets no request through without a verdict. `false` says that this happened.
    pub fn ack(&mut self, pending: Pending, actions: &[Action<'_>]) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let fits = actions.iter().map(Action::encoded_len).sum::<usize>() <= pending.action_bytes_max;
        let actions = if fits { actions } else { &[] };
        if !matches!(self.state, State::Closing(_)) {
            ack::encode(pending.stream_id, pending.frame_id, actions, &mut self.unsent);
            self.unsent_bytes_peak = self.unsent_bytes_peak.max(self.unsent.capacity());
        }
        fits
    }

    /// Ends the conversation with a status of ours.
    pub fn disconnect(&mut self, status: Status, close: Close) {
        if !matches!(self.state, State::Closing(_)) {
            disconnect::encode_agent(status, &mut self.unsent);
            self.state = State::Closing(close);
        }
    }

    // What to do now.

    /// The next event, or `None` until more bytes are there or an ACK made room.
    pub fn poll_event(&mut self) -> Option<Event<'_>> {
        self.fragments.take_if(|fragments| fragments.whole);
        loop {
            if matches!(self.state, State::Closing(_)) || self.is_full() {
                return None;
            }
            match self.deframer.step() {
                Ok(true) => self.frames += 1,
                Ok(false) => return None,
                Err(status) => return Some(self.refuse(status)),
            }
            match self.handle_frame() {
                Next::Frame => {}
                Next::Event(event) => return Some(event),
                Next::Refuse(status) => return Some(self.refuse(status)),
                Next::Notify { stream_id, frame_id } => {
                    self.in_flight += 1;
                    let head = 5 + varint::encoded_len(stream_id) + varint::encoded_len(frame_id);
                    let action_bytes_max = self.ack_bytes_max.saturating_sub(head);
                    let payload = match &self.fragments {
                        Some(fragments) => &fragments.payload[..],
                        None => Frame::decode(self.deframer.frame()).map_or(&[][..], |frame| frame.payload),
                    };
                    // `handle_frame` has decoded them: doing it here would hold `self` where it fails.
                    let messages = Messages::decoded_before(payload);
                    return Some(Event::Notify {
                        pending: Pending { stream_id, frame_id, action_bytes_max },
                        messages,
                    });
                }
            }
        }
    }

    /// What must be written, oldest first; the driver takes from the front.
    pub fn unsent(&mut self) -> &mut BytesMut {
        &mut self.unsent
    }

    /// Whether, and how, to close once nothing is unsent.
    pub fn poll_close(&self) -> Option<Close> {
        match self.state {
            State::Closing(close) => Some(close),
            State::Greeting | State::Open => None,
        }
    }

    /// Whether so many NOTIFYs are in flight that nothing more should be read.
    pub fn is_full(&self) -> bool {
        self.in_flight >= self.in_flight_max
    }

    /// Whether HELLO is still to come.
    pub fn is_greeting(&self) -> bool {
        self.state == State::Greeting
    }

    /// Whether a frame, or a NOTIFY in fragments, has begun and the rest is still to come.
    pub fn is_mid_frame(&self) -> bool {
        self.deframer.is_partial() || self.fragments.as_ref().is_some_and(|fragments| !fragments.whole)
    }

    /// Whether HELLO was said, and nothing is asked, not even in part.
    pub fn is_idle(&self) -> bool {
        self.state == State::Open && self.in_flight == 0 && self.fragments.is_none() && !self.deframer.is_partial()
    }

    /// Frames received so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// What the conversation takes of the heap, in bytes.
    pub fn allocated_bytes(&self) -> usize {
        let fragments = self.fragments.as_ref().map_or(0, |fragments| fragments.payload.capacity());
        self.deframer.allocated_bytes() + fragments + self.unsent_bytes_peak
    }

    /// Gives back what empty buffers have beyond `bytes_max` each; once nothing more is read, all that was read too.
    pub fn shrink(&mut self, bytes_max: usize) {
        if matches!(self.state, State::Closing(_)) {
            (self.deframer, self.fragments) = (Deframer::new(self.frame_bytes_max), None);
        }
        self.fragments.take_if(|fragments| fragments.whole);
        self.deframer.shrink(bytes_max);
        if self.unsent.is_empty() && self.unsent_bytes_peak > bytes_max {
            (self.unsent, self.unsent_bytes_peak) = (BytesMut::new(), 0);
        }
    }

    /// NOTIFYs without an ACK.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn handle_frame(&mut self) -> Next {
        let Ok(frame) = Frame::decode(self.deframer.frame()) else { return Next::Refuse(Status::InvalidFrame) };
        match (self.state, frame.kind) {
            (State::Greeting, FrameType::HaproxyHello) => {
                if !frame.flags.has(Flags::FIN) {
                    return Next::Refuse(Status::FragmentationUnsupported);
                }
                if (frame.stream_id, frame.frame_id) != (0, 0) {
                    return Next::Refuse(Status::InvalidFrame);
                }
                match HaproxyHello::decode(frame.payload) {
                    Ok(hello) => self.greet(hello),
                    Err(status) => Next::Refuse(status),
                }
            }
            (State::Greeting, FrameType::HaproxyDisconnect) | (State::Open, FrameType::HaproxyDisconnect) => {
                let code = disconnect::decode(frame.payload).unwrap_or(i64::from(Status::Unknown.code()));
                self.disconnect(Status::Normal, Close::Now);
                Next::Event(Event::Disconnected { code })
            }
            (State::Open, FrameType::Notify) => {
                if self.fragments.is_some() {
                    return Next::Refuse(Status::InterlacedFrames);
                }
                let (stream_id, frame_id) = (frame.stream_id, frame.frame_id);
                if frame.flags.has(Flags::ABORT) {
                    // Nothing to decide, and HAProxy waits for nothing.
                    return Next::Frame;
                }
                if frame.flags.has(Flags::FIN) {
                    return match Messages::decode(frame.payload) {
                        Ok(_) => Next::Notify { stream_id, frame_id },
                        Err(_) => Next::Refuse(Status::InvalidFrame),
                    };
                }
                let payload = BytesMut::from(frame.payload);
                self.fragments = Some(Fragments { stream_id, frame_id, payload, whole: false });
                Next::Frame
            }
            (State::Open, FrameType::Unset) => {
                let Some(fragments) = &mut self.fragments else { return Next::Refuse(Status::InterlacedFrames) };
                let (stream_id, frame_id) = (fragments.stream_id, fragments.frame_id);
                if (frame.stream_id, frame.frame_id) != (stream_id, frame_id) {
                    return Next::Refuse(Status::InterlacedFrames);
                }
                if frame.flags.has(Flags::ABORT) {
                    self.fragments = None;
                    return Next::Frame;
                }
                if fragments.payload.len() + frame.payload.len() > self.frame_bytes_max as usize {
                    return Next::Refuse(Status::FrameTooBig);
                }
                fragments.payload.extend_from_slice(frame.payload);
                if frame.flags.has(Flags::FIN) {
                    fragments.whole = true;
                    return match Messages::decode(&fragments.payload) {
                        Ok(_) => Next::Notify { stream_id, frame_id },
                        Err(_) => Next::Refuse(Status::InvalidFrame),
                    };
                }
                Next::Frame
            }
            // SPOE.txt, section 3.2: a frame of unknown type is ignored.
            (State::Open, FrameType::Unknown(_)) => Next::Frame,
            _ => Next::Refuse(Status::InvalidFrame),
        }
    }

    fn greet(&mut self, hello: HaproxyHello) -> Next {
        if hello.healthcheck {
            // HAProxy from 3.1 on always says 16380 here but checks against its own buffer, which may be smaller; an
            // answer of 1024 fits every buffer. Nothing may follow it.
            let max_frame_size = hello.max_frame_size.min(self.frame_bytes_max).min(1024);
            AgentHello { max_frame_size, pipelining: false, fragmentation: true }.encode(&mut self.unsent);
            self.state = State::Closing(Close::Now);
            return Next::Event(Event::Hello(hello));
        }
        let max_frame_size = hello.max_frame_size.min(self.frame_bytes_max);
        let budget = Budget::of(max_frame_size, hello.pipelining, hello.asynchronous);
        self.ack_bytes_max = budget.ack_bytes_max;
        AgentHello { max_frame_size, pipelining: budget.pipelining, fragmentation: true }.encode(&mut self.unsent);
        self.state = State::Open;
        Next::Event(Event::Hello(hello))
    }

    fn refuse(&mut self, status: Status) -> Event<'static> {
        let close = if self.is_greeting() { Close::HeldUnsaid } else { Close::Held };
        self.disconnect(status, close);
        Event::Refused { status }
    }
}

enum Next {
    /// Nothing to say; go on with the next frame.
    Frame,
    Event(Event<'static>),
    Refuse(Status),
    Notify {
        stream_id: u64,
        frame_id: u64,
    },
}

/// How large an ACK may be.
///
/// HAProxy 3.1 to 3.5 block a connection for good once a full buffer of unread ACKs arrives, and go on using it
/// (spop.md, rules 2 and 3). With pipelining 20 can be unread at once, each with its prefix, in a buffer of
/// max-frame-size + 4: `20 * (4 + ack) < max-frame-size + 4`. An engine that offers `async` is the older one, which
/// has no such fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    ack_bytes_max: usize,
    pipelining: bool,
}

impl Budget {
    /// Below this not even the identity variables fit, and one in flight with a whole frame serves better.
    const PIPELINED_ACK_BYTES_MIN: usize = 512;

    /// What HAProxy keeps in flight on one connection.
    const UNREAD_ACKS_MAX: usize = 20;

    fn of(max_frame_size: u32, pipelining: bool, old_engine: bool) -> Budget {
        let whole = max_frame_size as usize - 1;
        let each = ((max_frame_size as usize + PREFIX_BYTES) / Budget::UNREAD_ACKS_MAX).saturating_sub(PREFIX_BYTES);
        match (pipelining, old_engine) {
            (true, true) => Budget { ack_bytes_max: whole, pipelining: true },
            (true, false) if each >= Budget::PIPELINED_ACK_BYTES_MIN => {
                Budget { ack_bytes_max: each, pipelining: true }
            }
            _ => Budget { ack_bytes_max: whole, pipelining: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine;
    use super::*;
    use crate::spop::{Scope, TypedData};

    #[test]
    fn the_ack_budget_is_what_spop_md_measured() {
        for (max_frame_size, pipelining, old_engine, expected) in [
            (16380, true, false, (815, true)),
            (32764, true, false, (1634, true)),
            (16380, true, true, (16379, true)),
            (16380, false, false, (16379, false)),
            // (8188 + 4) / 20 - 4 = 405, too little to pipeline.
            (8188, true, false, (8187, false)),
            (256, true, false, (255, false)),
        ] {
            let budget = Budget::of(max_frame_size, pipelining, old_engine);
            assert_eq!((budget.ack_bytes_max, budget.pipelining), expected, "{max_frame_size}");
            if pipelining && !old_engine && budget.pipelining {
                assert!(20 * (4 + budget.ack_bytes_max) < max_frame_size as usize + 4);
            }
        }
    }

    #[test]
    fn a_notify_in_pieces_is_put_together_and_an_aborted_one_forgotten() {
        let mut whole = BytesMut::new();
        engine::request_payload(&[("method", TypedData::Str(b"GET"))], &mut whole);
        for cut in 0..=whole.len() {
            let mut agent = greeted();
            let (first, last) = whole.split_at(cut);
            Frame::encode(FrameType::Notify, Flags::NONE, 3, 1, agent.buffer(), |out| out.extend_from_slice(first));
            assert!(agent.poll_event().is_none());
            Frame::encode(FrameType::Unset, Flags::FIN, 3, 1, agent.buffer(), |out| out.extend_from_slice(last));
            let Some(Event::Notify { pending, messages }) = agent.poll_event() else { panic!("no NOTIFY at {cut}") };
            assert_eq!(messages.as_bytes(), whole);
            assert!(agent.ack(pending, &[]));
            assert!(agent.poll_event().is_none());
        }

        let mut agent = greeted();
        Frame::encode(FrameType::Notify, Flags::NONE, 3, 1, agent.buffer(), |out| out.extend_from_slice(&whole));
        Frame::encode(FrameType::Unset, Flags::FIN.and(Flags::ABORT), 3, 1, agent.buffer(), |_| {});
        engine::notify(5, 1, &[], agent.buffer());
        let Some(Event::Notify { pending, .. }) = agent.poll_event() else { panic!("no NOTIFY") };
        assert_eq!(pending.stream_id, 5);
        assert!(agent.ack(pending, &[]));
    }

    #[test]
    fn what_breaks_the_protocol_is_told_and_closed() {
        type Write = fn(&mut BytesMut);
        let cases: [(bool, Write, Status); 8] = [
            (false, |out| engine::notify(1, 1, &[], out), Status::InvalidFrame),
            (false, |out| out.extend_from_slice(&[0, 0, 0, 6, 1, 0, 0, 0, 1, 0]), Status::InvalidFrame),
            (true, |out| out.extend_from_slice(&[0x7f, 0, 0, 0]), Status::FrameTooBig),
            (true, |out| engine::hello(16380, true, out), Status::InvalidFrame),
            (true, |out| Frame::encode(FrameType::Unset, Flags::FIN, 1, 1, out, |_| {}), Status::InterlacedFrames),
            (true, |out| Frame::encode(FrameType::Ack, Flags::FIN, 1, 1, out, |_| {}), Status::InvalidFrame),
            (
                true,
                |out| Frame::encode(FrameType::Notify, Flags::FIN, 1, 1, out, |out| out.extend_from_slice(b"\x05ab")),
                Status::InvalidFrame,
            ),
            (
                true,
                |out| {
                    Frame::encode(FrameType::Notify, Flags::NONE, 1, 1, out, |_| {});
                    Frame::encode(FrameType::Notify, Flags::FIN, 2, 1, out, |_| {});
                },
                Status::InterlacedFrames,
            ),
        ];
        for (after_hello, write, expected) in cases {
            let mut agent = if after_hello { greeted() } else { Agent::new(FRAME_BYTES_MAX) };
            write(agent.buffer());
            let Some(Event::Refused { status }) = agent.poll_event() else { panic!("not refused: {expected:?}") };
            assert_eq!(status, expected);
            let close = if after_hello { Close::Held } else { Close::HeldUnsaid };
            assert_eq!(agent.poll_close(), Some(close));
            let unsent = agent.unsent().split();
            let frame = Frame::decode(&unsent[PREFIX_BYTES..]).unwrap();
            assert_eq!(frame.kind, FrameType::AgentDisconnect);
            assert_eq!(disconnect::decode(frame.payload), Ok(i64::from(expected.code())));
        }
    }

    #[test]
    fn a_health_check_is_answered_with_a_small_hello_and_closed() {
        let mut agent = Agent::new(FRAME_BYTES_MAX);
        engine::healthcheck(agent.buffer());
        assert!(matches!(agent.poll_event(), Some(Event::Hello(hello)) if hello.healthcheck));
        let unsent = agent.unsent().split();
        let frame = Frame::decode(&unsent[PREFIX_BYTES..]).unwrap();
        assert_eq!(AgentHello::decode(frame.payload).unwrap().max_frame_size, 1024);
        assert_eq!(agent.poll_close(), Some(Close::Now));
    }

    #[test]
    fn a_stop_waits_for_what_is_in_flight() {
        let mut agent = greeted();
        engine::notify(1, 1, &[], agent.buffer());
        let Some(Event::Notify { pending, .. }) = agent.poll_event() else { panic!("no NOTIFY") };
        agent.handle_stop();
        assert_eq!(agent.poll_close(), None);
        assert!(agent.ack(pending, &[]));
        // Half a question is one too.
        agent.buffer().extend_from_slice(&[0, 0]);
        assert!(agent.poll_event().is_none());
        agent.handle_stop();
        assert_eq!(agent.poll_close(), None);
        agent.buffer().clear();
        agent.handle_stop();
        assert_eq!(agent.poll_close(), Some(Close::Now));
        let unsent = agent.unsent().split();
        let kinds: Vec<_> = engine::frames(&unsent).map(|frame| frame.kind).collect();
        assert_eq!(kinds, [FrameType::Ack, FrameType::AgentDisconnect]);
    }

    #[test]
    fn an_ack_beyond_the_budget_says_nothing_instead() {
        let mut agent = greeted();
        engine::notify(1, 1, &[], agent.buffer());
        let Some(Event::Notify { pending, .. }) = agent.poll_event() else { panic!("no NOTIFY") };
        let long = vec![b'x'; pending.action_bytes_max()];
        let action = Action::SetVar { scope: Scope::Transaction, name: "groups", value: TypedData::Str(&long) };
        assert!(!agent.ack(pending, &[action]));
        assert!(agent.unsent().len() < 32);
    }

    #[test]
    fn memory_of_a_large_frame_and_of_many_acks_is_given_back() {
        let mut agent = greeted();
        let long = vec![b'x'; 60_000];
        let mut bytes = BytesMut::new();
        engine::notify(1, 1, &[("path", TypedData::Str(&long))], &mut bytes);
        // As a driver reads: what arrives, a piece at a time.
        for piece in bytes.chunks(4096) {
            agent.buffer_with_room(4096).extend_from_slice(piece);
        }
        let Some(Event::Notify { pending, .. }) = agent.poll_event() else { panic!("no NOTIFY") };
        assert!((60_000..=128 * 1024).contains(&agent.allocated_bytes()), "{}", agent.allocated_bytes());
        let action = Action::SetVar { scope: Scope::Transaction, name: "user", value: TypedData::Str(&[b'x'; 600]) };
        assert!(agent.ack(pending, &[action]));
        agent.shrink(256);
        assert!((600..1024).contains(&agent.allocated_bytes()), "what is unsent stays");
        agent.unsent().clear();
        agent.shrink(256);
        assert_eq!(agent.allocated_bytes(), 0);
    }

    #[test]
    fn half_a_question_is_seen_as_such() {
        let mut agent = greeted();
        assert_eq!((agent.is_mid_frame(), agent.frames()), (false, 1));
        agent.buffer().extend_from_slice(&[0, 0, 0]);
        assert!(agent.poll_event().is_none() && agent.is_mid_frame());
        let mut agent = greeted();
        Frame::encode(FrameType::Notify, Flags::NONE, 1, 1, agent.buffer(), |_| {});
        assert!(agent.poll_event().is_none() && agent.is_mid_frame());
        Frame::encode(FrameType::Unset, Flags::FIN, 1, 1, agent.buffer(), |_| {});
        let Some(Event::Notify { pending, .. }) = agent.poll_event() else { panic!("no NOTIFY") };
        assert_eq!((agent.is_mid_frame(), agent.frames()), (false, 3));
        assert!(agent.ack(pending, &[]));
    }

    #[test]
    fn no_more_is_read_while_too_many_are_in_flight() {
        let mut agent = greeted();
        for stream in 0..Agent::IN_FLIGHT_MAX as u64 + 1 {
            engine::notify(stream, 1, &[], agent.buffer());
        }
        let mut held = Vec::new();
        while let Some(Event::Notify { pending, .. }) = agent.poll_event() {
            held.push(pending);
        }
        assert_eq!(held.len(), Agent::IN_FLIGHT_MAX);
        assert!(agent.is_full());
        assert!(agent.ack(held.pop().unwrap(), &[]));
        assert!(matches!(agent.poll_event(), Some(Event::Notify { .. })));
    }

    fn greeted() -> Agent {
        let mut agent = Agent::new(FRAME_BYTES_MAX);
        engine::hello(16380, true, agent.buffer());
        assert!(matches!(agent.poll_event(), Some(Event::Hello(_))));
        agent.unsent().clear();
        agent
    }

    const FRAME_BYTES_MAX: u32 = 64 * 1024;
}
