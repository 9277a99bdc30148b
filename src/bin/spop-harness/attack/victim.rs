//! The well-behaved peers: one connection that asks at a steady rate, and newcomers that ask once. Each has a thread of its
//! own, whose sleep is exact to some ten microseconds; the runtime's is to a millisecond.

use std::io;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hdrhistogram::Histogram;
use tollgate::spop::frame::FrameType;
use tollgate::spop::{TypedData, engine};

use crate::target::{ReadWrite, Target};

/// A well-behaved connection.
pub struct Victim {
    stream: Box<dyn ReadWrite>,
    received: BytesMut,
    asked: u64,
}

impl Victim {
    /// Connects and says HELLO; the error says which of these did not happen.
    pub fn connect(target: &Target) -> Result<Victim, String> {
        let stream = target
            .connect_blocking(ANSWER_TIMEOUT)
            .map_err(|error| format!("cannot connect to {target}: {}", words(&error)))?;
        let mut victim = Victim { stream, received: BytesMut::new(), asked: 0 };
        let mut hello = BytesMut::new();
        engine::hello(16380, true, &mut hello);
        let answer = victim.exchange(&hello).map_err(|error| format!("HELLO: {}", words(&error)))?;
        if answer.0 == FrameType::AgentHello { Ok(victim) } else { Err(format!("HELLO: the answer is {answer:?}")) }
    }

    /// Asks `rate` times a second, each answered before the next; latency counts from when the question was due.
    pub fn ask(&mut self, rate: u64, time: Duration) -> Result<Histogram<u64>, String> {
        let mut latency = latencies()?;
        let begun = Instant::now();
        let pause = Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
        let mut due = begun;
        while due < begun + time {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.ask_once()?;
            latency.saturating_record(micros(due));
            due += pause;
        }
        Ok(latency)
    }

    /// One question and its answer.
    fn ask_once(&mut self) -> Result<(), String> {
        self.asked += 1;
        let mut question = BytesMut::new();
        let arguments = [("method", TypedData::Str(b"GET")), ("path", TypedData::Str(b"/"))];
        engine::notify(self.asked, 1, &arguments, &mut question);
        let answer = self.exchange(&question).map_err(|error| format!("question {}: {}", self.asked, words(&error)))?;
        if answer == (FrameType::Ack, self.asked, 1) {
            Ok(())
        } else {
            Err(format!("question {}: the answer is {answer:?}", self.asked))
        }
    }

    /// Writes a frame and reads one; its type and ids.
    fn exchange(&mut self, frame: &[u8]) -> io::Result<(FrameType, u64, u64)> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        self.stream.write_all(frame)?;
        loop {
            let answer =
                engine::frames(&self.received).next().map(|frame| (frame.kind, frame.stream_id, frame.frame_id));
            if let Some(answer) = answer {
                self.received.clear();
                return Ok(answer);
            }
            // A read has a timeout too, which starts anew with every byte.
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.received.extend_from_slice(&piece[..read]),
            }
        }
    }
}

/// Newcomers, one after the other, [`NEWCOMERS_PER_SECOND`] at most: each connects, says HELLO, asks once and goes. What each
/// took, from connecting to its answer. The first that is shut out ends it, as an error.
pub fn newcomers(target: &Target, time: Duration) -> Result<Histogram<u64>, String> {
    let mut latency = latencies()?;
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < time {
        number += 1;
        let come = Instant::now();
        let answered = Victim::connect(target).and_then(|mut newcomer| newcomer.ask_once());
        answered.map_err(|error| format!("new connection {number}: {error}"))?;
        latency.saturating_record(micros(come));
        // One that took longer than its share has no other right behind it: they are a sample, and no load.
        let pause = Duration::from_secs(1) / NEWCOMERS_PER_SECOND;
        std::thread::sleep(pause);
    }
    Ok(latency)
}

const NEWCOMERS_PER_SECOND: u32 = 5;

/// An answer that takes longer is none; so are a connection and a HELLO.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Up to a minute, in microseconds.
fn latencies() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
}

/// What the agent did; a timeout of a blocking socket is `Resource temporarily unavailable` to the system.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
        }
        io::ErrorKind::UnexpectedEof => "the agent closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_newcomer_that_gets_no_hello_is_shut_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let closing = std::thread::spawn(move || drop(listener.accept()));
        let error = newcomers(&target, Duration::from_secs(1)).unwrap_err();
        closing.join().unwrap();
        // Its HELLO may arrive behind the close, and is then answered by a reset.
        assert!(error.starts_with("new connection 1: HELLO: "), "{error}");
    }

    #[test]
    fn a_timeout_says_how_long_it_was_waited() {
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut] {
            assert_eq!(words(&kind.into()), "no answer within 5 s");
        }
    }
}
