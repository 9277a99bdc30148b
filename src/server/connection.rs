//! One connection from HAProxy: the socket, the clock, and the decisions that wait.
//!
//! What needs no waiting is decided inline, between a read and the write that carries all ACKs of that read. A decision
//! that must wait becomes a future that this same task polls; ACKs may leave out of order.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future::Either};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::memory::{Memory, Share};
use super::places::Places;
use super::settings::SpopSettings;
use super::socket::{Peer, Socket};
use super::sparing::Sparing;
use crate::audit::Audit;
use crate::clock::{Clock, Now};
use crate::decision::{Decision, Reason};
use crate::pipeline::{Decide, Step};
use crate::respond::{NOTED, Scratch, respond};
use crate::spop::{Agent, Close, Event, Messages, Pending, Status};
use crate::telemetry::{Telemetry, TimedOut};

/// What every connection shares.
pub(super) struct Server {
    pub(super) decide: Arc<dyn Decide>,
    pub(super) clock: Clock,
    pub(super) telemetry: Telemetry,
    pub(super) audit: Audit,
    pub(super) settings: SpopSettings,
    pub(super) memory: Memory,
    /// Connections that ask more than a turn takes go one behind the other, as many at a time as there are permits: those
    /// that ask little find the threads free.
    pub(super) turns: Arc<Semaphore>,
    pub(super) places: Places,
    /// Peers that broke the protocol.
    pub(super) broken: Sparing,
    /// The operator wants to stop: answer what is in flight, say goodbye.
    pub(super) stop: CancellationToken,
    /// Waited long enough for that.
    pub(super) abandon: CancellationToken,
}

impl Server {
    /// A decision that no stage made, with what was asked. Reading that must not panic once more.
    fn without_stages(&self, reason: Reason, question: &[u8], now: Now) -> Decision {
        let mut decision = self.decide.without_stages(reason, now);
        let asked = || self.decide.asked(&Messages::decode(question).ok()?);
        if let Ok(Some(mut asked)) = catch_unwind(AssertUnwindSafe(asked)) {
            asked.problem = decision.summary.take().and_then(|summary| summary.problem);
            decision.summary = Some(asked);
        }
        decision
    }
}

/// Serves one connection until it ends; it is closed unless HELLO comes within `hello_timeout`.
pub(super) async fn serve(socket: Socket, peer: Option<SocketAddr>, server: Arc<Server>, hello_timeout: Duration) {
    let mut connection = Connection {
        agent: Agent::new(server.settings.frame_bytes_max).with_in_flight_max(server.settings.in_flight_max),
        waiting: FuturesUnordered::new(),
        waiting_bytes: 0,
        scratch: Scratch::default(),
        share: Share::default(),
        more: false,
        greedy_until: None,
        ended: false,
        sent: 0,
        socket,
        peer,
        server,
    };
    // Resets are how HAProxy ends health checks and surplus connections; there is nothing to report.
    if let Err(error) = connection.run(hello_timeout).await {
        tracing::debug!(%error, "a SPOP connection broke");
    }
}

struct Connection {
    socket: Socket,
    peer: Option<SocketAddr>,
    agent: Agent,
    waiting: FuturesUnordered<Waiting>,
    /// What the waiting decisions hold.
    waiting_bytes: usize,
    scratch: Scratch,
    share: Share,
    /// Whole frames may be there that were not looked at yet.
    more: bool,
    /// There was more to read, or to decide, than one turn takes; until then this connection reads in line.
    greedy_until: Option<Instant>,
    /// The peer sends nothing more; it may still take its ACKs.
    ended: bool,
    /// ACK bytes that the socket took so far.
    sent: u64,
    server: Arc<Server>,
}

type Waiting = Pin<Box<dyn Future<Output = Waited> + Send>>;

/// A decision that had to wait, and the bytes it held meanwhile.
struct Waited {
    pending: Pending,
    decision: Decision,
    asked: Now,
    bytes: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.share.set(0, &self.server.memory);
    }
}

impl Connection {
    async fn run(&mut self, hello_timeout: Duration) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        let settings = &server.settings;
        let now = || server.clock.now().instant();
        let (mut hello, mut frame, mut write, mut rest) =
            (Watch::default(), Watch::default(), Watch::default(), Watch::default());
        let mut quiet = None;
        // Has rested so long that it gives its place to whoever waits for one.
        let mut yields = false;
        let alarm = tokio::time::sleep(hello_timeout);
        tokio::pin!(alarm);
        loop {
            let stopping = quiet.is_some();
            // Behind the last ACK, in the same write, and only after a look that found nothing more to answer.
            if stopping && self.agent.in_flight() == 0 && !self.agent.unsent().is_empty() && self.wants_bytes() {
                self.receive()?;
                if !self.more {
                    self.agent.handle_stop();
                }
            }
            if self.agent.poll_close() == Some(Close::HeldUnsaid) {
                self.hold().await;
                // A handful of bytes on a connection that has seen none.
                return self.flush();
            }
            self.flush()?;
            let unsent = self.agent.unsent().len();
            if unsent == 0
                && let Some(close) = self.agent.poll_close()
            {
                if close == Close::Held {
                    self.hold().await;
                }
                return Ok(());
            }
            let heard = self.hears();
            if heard && self.more && self.may_grow(0) {
                let Some(_turn) = self.stand_in_line().await? else { return Ok(()) };
                self.take_events();
                continue;
            }
            if self.ended && !self.more && unsent == 0 && self.agent.in_flight() == 0 {
                return Ok(());
            }
            self.agent.shrink(READ_BYTES_MIN);
            self.account();
            let growth = if self.more { 0 } else { self.agent.growth_for(READ_BYTES_MIN) };
            let paused = heard && (self.more || !self.ended) && !self.may_grow(growth);
            let read = self.wants_bytes() && !paused;

            hello.look(self.agent.is_greeting(), 0, || now() + hello_timeout);
            // A frame that is held up for want of memory counts too: it is part of what the memory is wanted for.
            let mid_frame = heard && !self.more && self.agent.is_mid_frame();
            frame.look(mid_frame, self.agent.frames(), || now() + settings.frame_timeout);
            write.look(unsent > 0, self.sent, || now() + settings.write_timeout);
            let rests = read && unsent == 0 && self.agent.is_idle();
            rest.look(rests, self.agent.frames(), || now() + REST);
            yields &= rests;
            let look_again = paused.then(|| now() + LOOK_AGAIN);
            let rested = rest.until.filter(|_| !yields);
            let next = [hello.until, frame.until, write.until, rested, quiet, look_again].into_iter().flatten().min();
            if let Some(next) = next.map(tokio::time::Instant::from_std)
                && (alarm.is_elapsed() || next < alarm.deadline())
            {
                alarm.as_mut().reset(next);
            }

            // The alarm before the socket: a peer that sends without end must not outrun what it owes.
            tokio::select! {
                biased;
                () = server.abandon.cancelled() => return Ok(()),
                () = server.stop.cancelled(), if !stopping => quiet = Some(now() + QUIET),
                Some(waited) = self.waiting.next(), if !self.waiting.is_empty() => {
                    self.answer_waited(waited);
                    self.answer_finished();
                    self.take_events();
                }
                () = &mut alarm, if next.is_some() => {
                    let now = now();
                    let passed = |until: Option<Instant>| until.is_some_and(|until| until <= now);
                    // Without a word: HAProxy from 3.1 on waits for its whole timeout after a DISCONNECT here, and tries again
                    // at once after a close.
                    if passed(hello.until) {
                        server.telemetry.timed_out(TimedOut::Hello);
                        return Ok(());
                    }
                    if passed(write.until) {
                        server.telemetry.timed_out(TimedOut::Write);
                        return Ok(());
                    }
                    if passed(frame.until) {
                        server.telemetry.timed_out(TimedOut::Frame);
                        self.agent.disconnect(Status::Timeout, Close::Held);
                    }
                    yields |= passed(rest.until);
                    if passed(quiet) {
                        self.agent.handle_stop();
                        quiet = Some(now + QUIET);
                    }
                }
                () = server.places.wanted(), if yields => {
                    server.telemetry.timed_out(TimedOut::Rest);
                    self.agent.handle_stop();
                }
                ready = self.socket.ready(read, unsent > 0), if read || unsent > 0 => {
                    ready?;
                    if read {
                        let greedy = self.greedy_until.is_some_and(|until| now() <= until);
                        let turn = if greedy { self.stand_in_line().await? } else { None };
                        if greedy && turn.is_none() {
                            return Ok(());
                        }
                        self.receive()?;
                        yields = false;
                    }
                    quiet = quiet.map(|_| now() + QUIET);
                }
            }
        }
    }

    /// Whether questions are taken at all. A peer that does not take its ACKs is not asked for more of them.
    fn hears(&mut self) -> bool {
        let unsent = self.agent.unsent().len();
        self.agent.poll_close().is_none() && !self.agent.is_full() && unsent < self.server.settings.unsent_bytes_max
    }

    /// Whether more bytes are of use: all that came was looked at, and there may be more.
    fn wants_bytes(&mut self) -> bool {
        self.hears() && !self.ended && !self.more
    }

    /// Waits in line with the others that ask much, and answers meanwhile what was decided meanwhile; the turn is over when
    /// what this gives is dropped. `None` where the agent ends.
    async fn stand_in_line(&mut self) -> io::Result<Option<OwnedSemaphorePermit>> {
        let server = Arc::clone(&self.server);
        let turn = Arc::clone(&server.turns).acquire_owned();
        tokio::pin!(turn);
        loop {
            tokio::select! {
                biased;
                () = server.abandon.cancelled() => return Ok(None),
                Some(waited) = self.waiting.next(), if !self.waiting.is_empty() => {
                    self.answer_waited(waited);
                    self.answer_finished();
                    self.flush()?;
                }
                turn = &mut turn => {
                    // While this one lets others run, those behind it find the permit taken and stay in line: never more
                    // of them are among the tasks that want a thread than there are permits.
                    tokio::task::yield_now().await;
                    return Ok(turn.ok());
                }
            }
        }
    }

    /// Lets a refused peer wait, without any memory for it.
    async fn hold(&mut self) {
        self.waiting.clear();
        self.agent.shrink(0);
        self.share.set(0, &self.server.memory);
        tokio::select! {
            () = tokio::time::sleep(HOLD) => {}
            () = self.server.abandon.cancelled() => {}
        }
    }

    /// Reads what is there and decides it.
    fn receive(&mut self) -> io::Result<()> {
        // Others may have grown since somebody last looked.
        let growth = self.agent.growth_for(READ_BYTES_MIN);
        if !self.may_grow(growth) {
            return Ok(());
        }
        let buffer = self.agent.buffer_with_room(READ_BYTES_MIN);
        let spare = buffer.capacity() - buffer.len();
        if growth > 0 {
            self.account();
        }
        let buffer = self.agent.buffer();
        match self.socket.try_read(buffer)? {
            None => {}
            Some(0) => self.ended = true,
            Some(read) => {
                self.take_events();
                // What was filled may not be all there is.
                if self.more || read == spare {
                    self.greedy_until = Some(self.server.clock.now().instant() + IN_LINE);
                }
            }
        }
        Ok(())
    }

    /// What this connection holds of the heap, in bytes.
    fn held(&self) -> usize {
        self.agent.allocated_bytes() + self.waiting_bytes
    }

    /// Tells the others what this connection holds.
    fn account(&mut self) {
        self.share.set(self.held(), &self.server.memory);
    }

    fn may_grow(&self, by: usize) -> bool {
        self.share.may_hold(self.held() + by, &self.server.memory)
    }

    /// Decides what has arrived, as much as one turn takes: a peer that asks without end must leave the thread to others.
    fn take_events(&mut self) {
        for _ in 0..TURN {
            let Some(event) = self.agent.poll_event() else {
                self.more = false;
                return;
            };
            let (pending, messages) = match event {
                Event::Notify { pending, messages } => (pending, messages),
                Event::Hello(hello) => {
                    tracing::debug!(
                        engine_id = hello.engine_id,
                        max_frame_size = hello.max_frame_size,
                        healthcheck = hello.healthcheck,
                        "HELLO"
                    );
                    continue;
                }
                Event::Disconnected { code } => {
                    tracing::debug!(code, "HAProxy disconnects");
                    continue;
                }
                Event::Refused { status } => {
                    self.server.telemetry.protocol_error();
                    if let Some(times) = self.server.broken.say(self.server.clock.now()) {
                        let peer = Peer(self.peer);
                        tracing::warn!(%peer, status = status.message(), times, "a peer broke SPOP");
                    }
                    continue;
                }
            };
            let now = self.server.clock.now();
            let decide = &self.server.decide;
            match catch_unwind(AssertUnwindSafe(|| decide.decide(&messages, now))) {
                Ok(Step::Done(decision)) => self.answer(pending, decision, now),
                Ok(Step::Noted) => {
                    self.agent.ack(pending, &[NOTED]);
                }
                Ok(Step::Wait(decision)) => {
                    // The stages that wait keep a copy of the question, and so does whoever speaks for them if they are late.
                    let question = messages.as_bytes().to_vec();
                    let bytes = 2 * question.len() + WAITING_BYTES;
                    self.wait(pending, decision, question, now, bytes);
                }
                Err(_) => {
                    self.server.telemetry.panicked();
                    let decision = self.server.without_stages(Reason::Internal, messages.as_bytes(), now);
                    self.answer(pending, decision, now);
                }
            }
            // A short question can have a long answer, and one that waits holds its state.
            if self.held() > SpopSettings::OWN_BYTES {
                self.account();
                if !self.may_grow(0) {
                    break;
                }
            }
        }
        self.more = true;
    }

    /// Lets a decision wait, but not beyond the deadline and not without an answer if it panics.
    fn wait(
        &mut self,
        pending: Pending,
        decision: Pin<Box<dyn Future<Output = Decision> + Send>>,
        question: Vec<u8>,
        asked: Now,
        bytes: usize,
    ) {
        self.waiting_bytes += bytes;
        let server = Arc::clone(&self.server);
        let deadline = tokio::time::sleep(server.decide.deadline());
        let decision = AssertUnwindSafe(decision).catch_unwind();
        self.waiting.push(Box::pin(async move {
            tokio::pin!(deadline);
            let decision = match futures_util::future::select(decision, deadline).await {
                Either::Left((Ok(decision), _)) => decision,
                Either::Left((Err(_), _)) => {
                    server.telemetry.panicked();
                    server.without_stages(Reason::Internal, &question, asked)
                }
                Either::Right(_) => {
                    server.telemetry.late();
                    server.without_stages(Reason::DeadlineExceeded, &question, asked)
                }
            };
            Waited { pending, decision, asked, bytes }
        }));
    }

    /// Answers the decisions that have ended meanwhile, so that one write carries them all.
    fn answer_finished(&mut self) {
        while let Some(Some(waited)) = self.waiting.next().now_or_never() {
            self.answer_waited(waited);
        }
    }

    fn answer_waited(&mut self, waited: Waited) {
        self.waiting_bytes -= waited.bytes;
        self.answer(waited.pending, waited.decision, waited.asked);
    }

    fn answer(&mut self, pending: Pending, decision: Decision, asked: Now) {
        let (room, scratch, answered) = (pending.action_bytes_max(), &mut self.scratch, &decision);
        match catch_unwind(AssertUnwindSafe(once(move || respond(answered, room, scratch)))) {
            Ok(answer) => {
                let fits = self.agent.ack(pending, &answer.actions);
                if answer.trimmed || !fits {
                    self.server.telemetry.trimmed();
                }
            }
            Err(_) => {
                // An answer without a verdict is a refusal.
                self.server.telemetry.panicked();
                self.agent.ack(pending, &[]);
            }
        }
        let now = self.server.clock.now();
        let latency = now.instant().saturating_duration_since(asked.instant());
        self.server.telemetry.decided(&decision, latency);
        self.server.telemetry.top().record(&decision, now);
        self.server.audit.record(decision, asked, latency);
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) -> io::Result<()> {
        let unsent = self.agent.unsent();
        while !unsent.is_empty() {
            match self.socket.try_write(unsent)? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => {
                    unsent.advance(written);
                    self.sent += written as u64;
                }
                None => break,
            }
        }
        Ok(())
    }
}

/// Says of a closure what the compiler does not see behind `AssertUnwindSafe`: it is called once, and may give what it
/// borrows.
fn once<T>(closure: impl FnOnce() -> T) -> impl FnOnce() -> T {
    closure
}

/// Something that the peer owes, and until when; each bit of progress gives it the whole time again.
#[derive(Default)]
struct Watch {
    progress: u64,
    until: Option<Instant>,
}

impl Watch {
    fn look(&mut self, owes: bool, progress: u64, until: impl FnOnce() -> Instant) {
        if !owes {
            self.until = None;
        } else if self.until.is_none() || self.progress != progress {
            self.until = Some(until());
            self.progress = progress;
        }
    }
}

/// Spare room of a read, and what an idle connection keeps.
const READ_BYTES_MIN: usize = SpopSettings::OWN_BYTES / 2;

/// NOTIFYs that are decided before other connections get their turn: what HAProxy keeps in flight, some 80 µs.
const TURN: usize = 20;

/// How long a connection that asked more than a turn takes has to stay in line, whatever it asks next.
const IN_LINE: Duration = Duration::from_millis(200);

/// The state of a decision that waits, besides its question.
const WAITING_BYTES: usize = 2048;

/// How long a connection that may not grow waits before it looks again: half of the shortest deadline in use.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Without a question for this long, HAProxy is hardly asking one this very moment.
const QUIET: Duration = Duration::from_millis(250);

/// After so long without a question a connection is no busy HAProxy's, which keeps as many as it needs. Those that rest
/// longest give their places up first, and only where somebody waits for one.
const REST: Duration = Duration::from_secs(1);

/// How long a refused peer is kept: at most four reconnects a second for each of HAProxy's threads, instead of
/// thousands (HAProxy 2.6 to 3.0 reconnects at once for as long as a request waits).
pub(super) const HOLD: Duration = Duration::from_millis(300);
