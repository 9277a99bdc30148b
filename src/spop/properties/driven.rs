//! Our agent, driven as its documentation says and by a schedule that the input makes up.

use bytes::BytesMut;

use super::super::agent::{Agent, Event, Pending};
use super::super::engine;
use super::super::frame::{FrameType, PREFIX_BYTES};
use super::super::{Action, Scope, TypedData};
use super::conversation::{Conversation, End, conversation_holds};

/// Whatever `bytes` come in, and in whatever order reads, answers, writes and stops happen, which is what `schedule`
/// says: the conversation holds, and so does what [`Agent`] promises its driver.
///
/// - There is exactly one ACK for each `Pending` that is answered before the conversation closes.
/// - NOTIFYs in flight and memory stay within their bounds.
/// - Once it is to close, there are no more events.
/// - A stop ends only what is idle.
pub fn agent_holds(bytes: &[u8], schedule: &[u8]) {
    let mut schedule = schedule.iter().copied();
    let mut next = || schedule.next();
    let in_flight_max = 1 + usize::from(next().unwrap_or(255) % 8);
    let frame_bytes_max = [256, 1000, 4096, 65_536][usize::from(next().unwrap_or(2) % 4)];
    let mut driver = Driver {
        agent: Agent::new(frame_bytes_max).with_in_flight_max(in_flight_max),
        in_flight_max,
        frame_bytes_max: frame_bytes_max as usize,
        rest: bytes,
        fed: 0,
        pending: Vec::new(),
        acks: 0,
        written: BytesMut::new(),
        settled: Vec::new(),
        stopped: false,
    };
    while let Some(step) = next() {
        let number = next().unwrap_or(0);
        match step % 8 {
            0..=2 => driver.read(usize::from(number)),
            3 => driver.answer(number, 20),
            // Beyond the largest frame that anybody agreed on, now and then.
            4 => driver.answer(number, usize::from(number) * 300),
            5 => driver.write(usize::from(number) * 16),
            6 => driver.stop(),
            _ => driver.agent.shrink(usize::from(number) * 16),
        }
        driver.check();
    }
    driver.finish(bytes);
}

struct Driver<'a> {
    agent: Agent,
    in_flight_max: usize,
    frame_bytes_max: usize,
    rest: &'a [u8],
    fed: usize,
    pending: Vec<Pending>,
    acks: usize,
    written: BytesMut,
    settled: Vec<usize>,
    stopped: bool,
}

impl Driver<'_> {
    /// Reads at most this much, where a driver would read at all.
    fn read(&mut self, bytes_max: usize) {
        if !self.hears() {
            return;
        }
        let (piece, rest) = self.rest.split_at(bytes_max.min(self.rest.len()));
        self.agent.buffer_with_room(SPARE_BYTES).extend_from_slice(piece);
        self.fed += piece.len();
        self.rest = rest;
        self.take_events();
    }

    fn hears(&mut self) -> bool {
        self.agent.poll_close().is_none() && !self.agent.is_full() && self.agent.unsent().len() < UNSENT_BYTES_MAX
    }

    fn take_events(&mut self) {
        while self.hears() {
            match self.agent.poll_event() {
                Some(Event::Notify { pending, messages }) => {
                    assert!(messages.iter().count() <= messages.as_bytes().len(), "each message takes a byte at least");
                    self.pending.push(pending);
                }
                Some(_) => {}
                None => break,
            }
        }
        if self.agent.poll_close().is_some() {
            assert!(self.agent.poll_event().is_none(), "an event after the end");
        }
    }

    /// Answers one of what is pending with about so many bytes.
    fn answer(&mut self, which: u8, bytes: usize) {
        if self.pending.is_empty() {
            return;
        }
        let pending = self.pending.swap_remove(usize::from(which) % self.pending.len());
        let value = vec![b'x'; bytes];
        let action = Action::SetVar { scope: Scope::Transaction, name: "user", value: TypedData::Str(&value) };
        let fits = action.encoded_len() <= pending.action_bytes_max();
        self.acks += usize::from(self.agent.poll_close().is_none());
        assert_eq!(self.agent.ack(pending, &[action]), fits, "an ACK is cut exactly where it does not fit");
        self.take_events();
    }

    fn write(&mut self, bytes_max: usize) {
        let unsent = self.agent.unsent();
        let written = unsent.split_to(bytes_max.min(unsent.len()));
        self.written.extend_from_slice(&written);
        let idle = self.agent.unsent().is_empty() && self.pending.is_empty();
        self.take_events();
        // Bytes that were fed but not looked at had no time; there are none after `take_events` in an idle agent.
        if idle && self.agent.unsent().is_empty() && self.pending.is_empty() {
            self.settled.push(self.fed);
        }
    }

    fn stop(&mut self) {
        let busy = self.agent.in_flight() > 0 || self.agent.is_mid_frame() || self.agent.is_greeting();
        let open = self.agent.poll_close().is_none();
        self.agent.handle_stop();
        let closes = self.agent.poll_close().is_some();
        assert!(!(open && closes && busy), "a stop ended a conversation that was not idle");
        self.stopped |= open && closes;
    }

    fn check(&mut self) {
        assert_eq!(self.agent.in_flight(), self.pending.len(), "each NOTIFY without an ACK is in flight");
        assert!(self.agent.in_flight() <= self.in_flight_max, "more in flight than there may be");
        let frame = PREFIX_BYTES + self.frame_bytes_max;
        // The buffer holds the largest frame and what one read may bring beyond; the fragments' buffer doubles; unsent is
        // what a driver lets pile up, an ACK for each in flight, and the last word, below 128 bytes.
        let received = frame + READ_BYTES_MAX + SPARE_BYTES;
        let unsent = UNSENT_BYTES_MAX + self.in_flight_max * frame + 128;
        let most = received + 2 * self.frame_bytes_max + unsent;
        assert!(self.agent.allocated_bytes() <= most, "{} bytes held, {most} expected", self.agent.allocated_bytes());
    }

    /// Lets everything be read, answered and written, and looks at it as a whole.
    fn finish(&mut self, bytes: &[u8]) {
        loop {
            let before = (self.rest.len(), self.pending.len(), self.acks, self.written.len());
            self.read(READ_BYTES_MAX);
            self.answer(0, 5);
            self.write(usize::MAX);
            self.check();
            if before == (self.rest.len(), self.pending.len(), self.acks, self.written.len()) {
                break;
            }
        }
        assert!(self.pending.is_empty() && self.agent.unsent().is_empty(), "something is left to answer or to write");
        let closed = self.agent.poll_close().is_some();
        assert!(closed || self.rest.is_empty(), "the agent hears no more, and does not close");
        let acks = engine::frames(&self.written).filter(|frame| frame.kind == FrameType::Ack).count();
        assert_eq!(acks, self.acks, "exactly one ACK for each answer");
        let end = match (self.stopped, closed) {
            (true, _) => End::Left,
            (false, true) => End::Closed,
            (false, false) => End::Open,
        };
        let sent = bytes.get(..self.fed).unwrap_or_default();
        let conversation = Conversation { sent, received: &self.written, settled: &self.settled, end };
        if let Err(violation) = conversation_holds(&conversation) {
            panic!("{violation}\nsent {sent:02x?}\nreceived {:02x?}\nsettled at {:?}", &self.written[..], self.settled);
        }
    }
}

/// What one read brings at most.
const READ_BYTES_MAX: usize = 255;

/// Room that a driver asks for before it reads.
const SPARE_BYTES: usize = 1024;

/// With so much unsent, nothing more is read.
const UNSENT_BYTES_MAX: usize = 4096;
