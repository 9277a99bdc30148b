//! One connection to the agent, played by hand: whole frames out and in, and what the agent did when it said nothing.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::{DecodeError, engine};

use crate::target::{Stream, Target};

/// A connection.
#[derive(Debug)]
pub struct Peer {
    stream: Stream,
    received: BytesMut,
}

/// What came, or did not come, within a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A frame.
    Frame(Received),
    /// The agent closed its side, with so many bytes of an unfinished frame before it.
    Closed(usize),
    /// A length prefix beyond [`FRAME_BYTES_MAX`]: no agent was told that it may send that much. Nothing more is heard.
    TooLong(usize),
    /// The agent reset the connection.
    Reset,
    /// Nothing.
    Nothing,
}

/// A frame that came: its bytes without the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received(pub Vec<u8>);

impl Received {
    /// The frame.
    pub fn decode(&self) -> Result<Frame<'_>, DecodeError> {
        Frame::decode(&self.0)
    }

    /// Type and identifiers; `None` where it has no whole head.
    pub fn head(&self) -> Option<(FrameType, Flags, u64, u64)> {
        self.decode().ok().map(|frame| (frame.kind, frame.flags, frame.stream_id, frame.frame_id))
    }
}

impl Peer {
    /// Connects; at most two seconds.
    pub async fn connect(target: &Target) -> io::Result<Peer> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, target.connect());
        let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Peer { stream, received: BytesMut::new() })
    }

    /// Connects, says an ordinary HELLO, and gives the agent's.
    pub async fn greeted(target: &Target, max_frame_size: u32, within: Duration) -> io::Result<(Peer, Received)> {
        let mut peer = Peer::connect(target).await?;
        let mut hello = BytesMut::new();
        engine::hello(max_frame_size, true, &mut hello);
        peer.send(&hello).await?;
        match peer.hear(within).await {
            Heard::Frame(frame) if frame.head().is_some_and(|head| head.0 == FrameType::AgentHello) => {
                Ok((peer, frame))
            }
            other => Err(io::Error::other(format!("expected AGENT-HELLO, got {other:?}"))),
        }
    }

    /// Writes everything, in one go where the socket takes it.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// What one read gives, in bytes; empty where the agent has closed, `None` where nothing came within this time. They stay
    /// to be heard.
    pub async fn read_once(&mut self, within: Duration) -> Option<&[u8]> {
        let before = self.received.len();
        // Room for whatever is there, so that the socket and not the buffer decides how much it is.
        self.received.reserve(READ_BYTES);
        let read = timeout_at(Instant::now() + within, self.stream.read_buf(&mut self.received)).await;
        read.ok()?.is_ok().then(|| self.received.get(before..).unwrap_or_default())
    }

    /// The next frame, the end, or nothing within this time.
    pub async fn hear(&mut self, within: Duration) -> Heard {
        let until = Instant::now() + within;
        loop {
            if let Some(prefix) = self.received.first_chunk::<PREFIX_BYTES>() {
                let length = u32::from_be_bytes(*prefix) as usize;
                if length > FRAME_BYTES_MAX {
                    return Heard::TooLong(length);
                }
                if self.received.len() >= PREFIX_BYTES + length {
                    self.received.advance(PREFIX_BYTES);
                    return Heard::Frame(Received(self.received.split_to(length).to_vec()));
                }
            }
            match timeout_at(until, self.stream.read_buf(&mut self.received)).await {
                Err(_) => return Heard::Nothing,
                Ok(Ok(0)) => return Heard::Closed(self.received.len()),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Heard::Reset,
            }
        }
    }
}

/// The largest frame that an agent may be told to send here, and so the most that one connection can hold: 16 MiB.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// More than a socket is handed at once by anybody who writes a HELLO.
const READ_BYTES: usize = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
