//! Plays a script on one connection, and keeps what passed.

use std::io;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{sleep, timeout};
use tollgate::spop::engine;
use tollgate::spop::frame::FrameType;
use tollgate::spop::properties::{Conversation, End, Violation, conversation_holds};
use tollgate::spop::recording::{Item, Recording, Side, What};

use super::script::{Script, Step};
use crate::target::{Stream, Target};

/// A conversation that was played.
#[derive(Debug)]
pub struct Played {
    /// What passed, as people read it.
    pub recording: Recording,
    /// How many steps were begun.
    pub events: usize,
    /// What the agent did wrong.
    pub verdict: Result<(), Fault>,
}

/// What can be wrong with an agent, seen from one connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It broke a rule.
    #[error("{0}")]
    Violation(Violation),
    /// It takes no connection.
    #[error("the agent takes no connection: {0}")]
    Unreachable(String),
}

/// Plays `script`; the agent has `patience` for each answer.
pub async fn play(target: &Target, script: &Script, patience: Duration) -> Played {
    let begun = Instant::now();
    let connecting = timeout(patience, target.connect()).await;
    let stream = match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => {
            let verdict = Err(Fault::Unreachable(error.to_string()));
            return Played { recording: Recording::default(), events: 0, verdict };
        }
    };
    if script.steps.contains(&Step::Abort)
        && let Stream::Tcp(tcp) = &stream
    {
        // Dropping it is then a reset; a unix socket has none.
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
    let (reader, writer) = tokio::io::split(stream);
    let mut wire = Wire {
        reader,
        writer,
        begun,
        patience,
        sent: Vec::new(),
        received: Vec::with_capacity(READ_BYTES),
        settled: Vec::new(),
        end: End::Open,
        items: Vec::new(),
    };
    let (events, verdict) = wire.converse(script).await;
    let recording = Recording { items: wire.items, trailer: Vec::new() };
    Played { recording, events, verdict: verdict.map_err(Fault::Violation) }
}

struct Wire {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    begun: Instant,
    patience: Duration,
    sent: Vec<u8>,
    received: Vec<u8>,
    settled: Vec<usize>,
    end: End,
    items: Vec<Item>,
}

impl Wire {
    async fn converse(&mut self, script: &Script) -> (usize, Result<(), Violation>) {
        let mut unsent = Vec::new();
        for (at, step) in script.steps.iter().enumerate() {
            match step {
                Step::Write { bytes, cuts } => {
                    let mut from = 0;
                    for cut in cuts {
                        unsent.extend_from_slice(&bytes[from..*cut]);
                        from = *cut;
                        self.write(&mut unsent).await;
                        // Long enough for the agent to read half a frame.
                        sleep(Duration::from_millis(1)).await;
                    }
                    unsent.extend_from_slice(&bytes[from..]);
                    continue;
                }
                Step::Settle => {
                    self.write(&mut unsent).await;
                    self.settle().await;
                    let verdict = self.verdict();
                    if verdict.is_err() {
                        return (at + 1, verdict);
                    }
                }
                Step::Finish => {
                    self.write(&mut unsent).await;
                    return (at + 1, self.finish(FINISH_TIME).await);
                }
                Step::Abort => {
                    self.write(&mut unsent).await;
                    self.leave(What::Reset);
                    return (at + 1, self.verdict());
                }
            }
            if self.end != End::Open {
                return (at + 1, self.verdict());
            }
        }
        self.write(&mut unsent).await;
        self.settle().await;
        let verdict = self.verdict();
        if verdict.is_err() || self.end != End::Open {
            return (script.len(), verdict);
        }
        // What comes too much comes late. An agent that has said goodbye may hold the connection for a while.
        let goodbye = engine::frames(&self.received).any(|frame| frame.kind == FrameType::AgentDisconnect);
        let verdict = self.finish(if goodbye { GOODBYE_TIME } else { LAST_TIME }).await;
        (script.len(), verdict)
    }

    /// Writes all of it, reading meanwhile.
    async fn write(&mut self, unsent: &mut Vec<u8>) {
        let bytes = std::mem::take(unsent);
        if bytes.is_empty() {
            return;
        }
        let mut written = 0;
        let until = tokio::time::Instant::now() + self.patience;
        while written < bytes.len() && self.end == End::Open {
            let before = self.received.len();
            tokio::select! {
                wrote = self.writer.write(&bytes[written..]) => match wrote {
                    Ok(count) if count > 0 => written += count,
                    _ => break,
                },
                read = self.reader.read_buf(&mut self.received) => self.heard(before, read),
                () = tokio::time::sleep_until(until) => break,
            }
        }
        let bytes = &bytes[..written];
        self.sent.extend_from_slice(bytes);
        if !bytes.is_empty() {
            self.note(Side::Haproxy, What::Sent(bytes.to_vec()));
        }
    }

    /// Waits until nothing is missing, or nothing can be mended.
    async fn settle(&mut self) {
        let until = tokio::time::Instant::now() + self.patience;
        while self.end == End::Open && self.verdict().is_err_and(|violation| violation.may_pass()) {
            let before = self.received.len();
            match tokio::time::timeout_at(until, self.reader.read_buf(&mut self.received)).await {
                Ok(read) => self.heard(before, read),
                Err(_) => break,
            }
        }
        if self.end == End::Open {
            self.settled.push(self.sent.len());
        }
    }

    /// Closes the sending half and listens for as long as `time`; what is missing then is only what was missing before.
    async fn finish(&mut self, time: Duration) -> Result<(), Violation> {
        let _ = self.writer.shutdown().await;
        self.leave(What::Closed);
        let until = tokio::time::Instant::now() + time;
        loop {
            let before = self.received.len();
            match tokio::time::timeout_at(until, self.reader.read_buf(&mut self.received)).await {
                Ok(Ok(1..)) => self.heard(before, Ok(1)),
                _ => return self.verdict(),
            }
        }
    }

    fn leave(&mut self, what: What) {
        if self.end == End::Open {
            self.end = End::Left;
            self.note(Side::Haproxy, what);
        }
    }

    fn heard(&mut self, before: usize, read: io::Result<usize>) {
        let what = match read {
            Ok(0) => {
                self.end = End::Closed;
                What::Closed
            }
            Ok(_) => What::Sent(self.received[before..].to_vec()),
            Err(_) => {
                self.end = End::Reset;
                What::Reset
            }
        };
        self.note(Side::Agent, what);
    }

    fn note(&mut self, from: Side, what: What) {
        // However the agent's bytes came, frames are read whole.
        if let (Side::Agent, What::Sent(more), Some(Item { from: Side::Agent, what: What::Sent(bytes), .. })) =
            (from, &what, self.items.last_mut())
        {
            return bytes.extend_from_slice(more);
        }
        self.items.push(Item { comments: Vec::new(), from, at: Some(self.begun.elapsed()), what });
    }

    fn verdict(&self) -> Result<(), Violation> {
        let Wire { sent, received, settled, end, .. } = self;
        conversation_holds(&Conversation { sent, received, settled, end: *end })
    }
}

/// Room for what an agent mostly answers in all.
const READ_BYTES: usize = 4096;

/// How long an agent may still answer what it had no time for when the sending half closed.
const FINISH_TIME: Duration = Duration::from_millis(200);

/// How long something may come that should not.
const LAST_TIME: Duration = Duration::from_millis(50);

/// The same after AGENT-DISCONNECT, when most agents are gone.
const GOODBYE_TIME: Duration = Duration::from_millis(3);
