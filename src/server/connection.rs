//! One connection from HAProxy: the socket, the clock, and the decisions that wait.
//!
//! What needs no waiting is decided inline, between a read and the write that carries all ACKs of that read. A decision
//! that must wait becomes a future that this same task polls; ACKs may leave out of order.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future::Either};
use tokio_util::sync::CancellationToken;

use super::settings::SpopSettings;
use super::socket::Socket;
use crate::clock::{Clock, Now};
use crate::decision::{Decision, Reason};
use crate::pipeline::{Decide, Step};
use crate::respond::{Scratch, respond};
use crate::spop::{Agent, Close, Event, Pending};
use crate::telemetry::Telemetry;

/// What every connection shares.
pub(super) struct Shared {
    pub(super) decide: Arc<dyn Decide>,
    pub(super) clock: Clock,
    pub(super) telemetry: Telemetry,
    pub(super) settings: SpopSettings,
    /// The operator wants to stop: answer what is in flight, say goodbye.
    pub(super) stop: CancellationToken,
    /// Waited long enough for that.
    pub(super) abandon: CancellationToken,
}

/// Serves one connection until it ends.
pub(super) async fn serve(socket: Socket, shared: Arc<Shared>) {
    let mut connection = Connection {
        agent: Agent::new(shared.settings.frame_bytes_max),
        waiting: FuturesUnordered::new(),
        scratch: Scratch::default(),
        socket,
        shared,
    };
    // Resets are how HAProxy ends health checks and surplus connections; there is nothing to report.
    if let Err(error) = connection.run().await {
        tracing::debug!(%error, "a SPOP connection broke");
    }
}

struct Connection {
    socket: Socket,
    agent: Agent,
    waiting: FuturesUnordered<Waiting>,
    scratch: Scratch,
    shared: Arc<Shared>,
}

type Waiting = Pin<Box<dyn Future<Output = (Pending, Decision, Now)> + Send>>;

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let greeting = tokio::time::sleep(shared.settings.hello_timeout);
        let stalled = tokio::time::sleep(STALL);
        let quiet = tokio::time::sleep(QUIET);
        tokio::pin!(greeting, stalled, quiet);
        let mut stopping = false;
        let mut unsent_before = 0;
        loop {
            // Behind the last ACK, in the same write, and only after a look that found nothing more to answer.
            if stopping && self.agent.in_flight() == 0 && !self.agent.unsent().is_empty() {
                if !self.receive()? {
                    return Ok(());
                }
                self.agent.handle_stop();
            }
            self.flush()?;
            let unsent = self.agent.unsent().len();
            if unsent > 0 && (unsent_before == 0 || unsent < unsent_before) {
                stalled.set(tokio::time::sleep(STALL));
            }
            unsent_before = unsent;
            if unsent == 0
                && let Some(close) = self.agent.poll_close()
            {
                if close == Close::Held {
                    tokio::select! {
                        () = tokio::time::sleep(HOLD) => {}
                        () = shared.abandon.cancelled() => {}
                    }
                }
                return Ok(());
            }
            let closing = self.agent.poll_close().is_some();
            // A peer that does not take its ACKs is not asked for more questions.
            let read = !closing && !self.agent.is_full() && unsent < UNSENT_BYTES_MAX;
            tokio::select! {
                biased;
                () = shared.abandon.cancelled() => return Ok(()),
                () = shared.stop.cancelled(), if !stopping => {
                    stopping = true;
                    quiet.set(tokio::time::sleep(QUIET));
                }
                Some((pending, decision, asked)) = self.waiting.next(), if !self.waiting.is_empty() => {
                    self.answer(pending, &decision, asked);
                    self.answer_finished();
                    self.take_events();
                }
                ready = self.socket.ready(read, unsent > 0), if read || unsent > 0 => {
                    ready?;
                    if read && !self.receive()? {
                        return Ok(());
                    }
                    if stopping {
                        quiet.set(tokio::time::sleep(QUIET));
                    }
                }
                () = &mut quiet, if stopping && !closing => {
                    self.agent.handle_stop();
                    quiet.set(tokio::time::sleep(QUIET));
                }
                () = &mut greeting, if self.agent.is_greeting() => return Ok(()),
                () = &mut stalled, if unsent > 0 => return Ok(()),
            }
        }
    }

    /// Reads what is there and decides it; false is the end of the connection.
    fn receive(&mut self) -> io::Result<bool> {
        // Large enough for a pipeline of ordinary NOTIFYs; it grows by what really arrives.
        let buffer = self.agent.buffer();
        let wanted = READ_BYTES_MIN.max(buffer.len());
        if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
            buffer.reserve(wanted);
        }
        match self.socket.try_read(buffer)? {
            None => Ok(true),
            Some(0) => Ok(false),
            Some(_) => {
                self.take_events();
                Ok(true)
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.agent.poll_event() {
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
                    self.shared.telemetry.protocol_error();
                    tracing::warn!(status = status.message(), "a peer broke SPOP");
                    continue;
                }
            };
            let now = self.shared.clock.now();
            let decide = &self.shared.decide;
            match catch_unwind(AssertUnwindSafe(|| decide.decide(&messages, now))) {
                Ok(Step::Done(decision)) => self.answer(pending, &decision, now),
                Ok(Step::Wait(decision)) => self.wait(pending, decision, now),
                Err(_) => {
                    let decision = self.panicked(now);
                    self.answer(pending, &decision, now);
                }
            }
        }
    }

    /// Lets a decision wait, but not beyond the deadline and not without an answer if it panics.
    fn wait(&mut self, pending: Pending, decision: Pin<Box<dyn Future<Output = Decision> + Send>>, now: Now) {
        let shared = Arc::clone(&self.shared);
        let deadline = tokio::time::sleep(shared.decide.deadline());
        let decision = AssertUnwindSafe(decision).catch_unwind();
        self.waiting.push(Box::pin(async move {
            tokio::pin!(deadline);
            let decision = match futures_util::future::select(decision, deadline).await {
                Either::Left((Ok(decision), _)) => decision,
                Either::Left((Err(_), _)) => {
                    shared.telemetry.panicked();
                    shared.decide.without_stages(Reason::Internal, now)
                }
                Either::Right(_) => {
                    shared.telemetry.late();
                    shared.decide.without_stages(Reason::DeadlineExceeded, now)
                }
            };
            (pending, decision, now)
        }));
    }

    /// Answers the decisions that have ended meanwhile, so that one write carries them all.
    fn answer_finished(&mut self) {
        while let Some(Some((pending, decision, asked))) = self.waiting.next().now_or_never() {
            self.answer(pending, &decision, asked);
        }
    }

    fn answer(&mut self, pending: Pending, decision: &Decision, asked: Now) {
        let answer = respond(decision, pending.action_bytes_max(), &mut self.scratch);
        let fits = self.agent.ack(pending, &answer.actions);
        if answer.trimmed || !fits {
            self.shared.telemetry.trimmed();
        }
        let latency = self.shared.clock.now().instant().saturating_duration_since(asked.instant());
        self.shared.telemetry.decided(decision, latency);
    }

    fn panicked(&self, now: Now) -> Decision {
        self.shared.telemetry.panicked();
        self.shared.decide.without_stages(Reason::Internal, now)
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) -> io::Result<()> {
        let unsent = self.agent.unsent();
        while !unsent.is_empty() {
            match self.socket.try_write(unsent)? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => unsent.advance(written),
                None => break,
            }
        }
        Ok(())
    }
}

/// Spare room that a read begins with: three NOTIFYs with a token of 900 bytes, half of what an idle connection may
/// take.
const READ_BYTES_MIN: usize = 4096;

/// ACKs that a peer has not taken: at 815 bytes each eighty of them, four times what HAProxy keeps in flight.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// A peer that takes nothing for this long takes nothing any more.
const STALL: Duration = Duration::from_secs(5);

/// Without a question for this long, HAProxy is hardly asking one this very moment.
const QUIET: Duration = Duration::from_millis(250);

/// How long a refused peer is kept: at most four reconnects a second for each of HAProxy's threads, instead of
/// thousands (spop.md, rule 11).
const HOLD: Duration = Duration::from_millis(300);
