//! The hostile peers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use clap::ValueEnum;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::hello::AgentHello;
use tollgate::spop::{TypedData, engine};

use crate::target::{Stream, Target};

/// What a hostile peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Says HELLO and nothing more
    Idle,
    /// Never says HELLO; comes back when it is closed
    Silent,
    /// Sends questions one byte every 50 ms
    Slow,
    /// Sends all but the last byte of the largest frame; comes back when it is closed
    Partial,
    /// Asks and never reads an answer
    Deaf,
    /// Asks with the largest frames, one behind the other
    Large,
    /// Asks small questions without end
    Greedy,
    /// Sends random bytes after HELLO; comes back when it is closed
    Garbage,
    /// Connects, says HELLO and goes, so many times a second
    Flood,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// What the hostile peers have in common.
pub struct Hostile {
    pub target: Target,
    pub over: AtomicBool,
    /// How often the agent closed one, or refused it.
    pub closed: AtomicU64,
}

impl Hostile {
    /// One peer, until it is over.
    pub async fn run(self: Arc<Self>, attack: Attack, number: u64, rate: u64) {
        if attack == Attack::Flood {
            return self.flood(rate).await;
        }
        let mut random = fastrand::Rng::with_seed(number);
        while !self.over.load(Ordering::Relaxed) {
            let lived = match self.target.connect().await {
                Ok(stream) => self.attack_once(stream, attack, &mut random).await,
                Err(error) => Err(error),
            };
            if lived.is_err() {
                self.closed.fetch_add(1, Ordering::Relaxed);
            }
            // However fast it is closed, it is not back within the same millisecond.
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends when the agent closes, which is an error.
    async fn attack_once(&self, mut stream: Stream, attack: Attack, random: &mut fastrand::Rng) -> std::io::Result<()> {
        let mut nothing = [0; 4096];
        if attack == Attack::Silent {
            stream.read_exact(&mut nothing).await?;
            return Ok(());
        }
        let frame_bytes_max = greet(&mut stream).await?;
        let largest = largest(frame_bytes_max);
        match attack {
            Attack::Idle => {
                stream.read_exact(&mut nothing).await?;
            }
            Attack::Slow => {
                for byte in largest {
                    stream.write_all(&[byte]).await?;
                    sleep(Duration::from_millis(50)).await;
                }
            }
            Attack::Partial => {
                stream.write_all(&largest[..largest.len() - 1]).await?;
                loop {
                    stream.read_exact(&mut nothing).await?;
                }
            }
            Attack::Deaf | Attack::Greedy => {
                let mut questions = BytesMut::new();
                for stream_id in 0..100 {
                    engine::notify(stream_id, 1, &[("path", TypedData::Str(b"/"))], &mut questions);
                }
                if attack == Attack::Deaf {
                    loop {
                        stream.write_all(&questions).await?;
                    }
                }
                return ask_and_read(stream, &questions).await;
            }
            Attack::Large => return ask_and_read(stream, &largest).await,
            Attack::Garbage => {
                let garbage: Vec<_> = std::iter::repeat_with(|| random.u8(..)).take(1000).collect();
                stream.write_all(&garbage).await?;
                loop {
                    if stream.read(&mut nothing).await? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
            Attack::Silent | Attack::Flood => {}
        }
        Ok(())
    }

    /// One of several that share the rate.
    async fn flood(&self, rate: u64) {
        let share = (rate / 50).max(1);
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from((rate / share).max(1)).unwrap_or(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !self.over.load(Ordering::Relaxed) {
            ticks.tick().await;
            let said = async {
                let mut stream = self.target.connect().await?;
                greet(&mut stream).await
            };
            if said.await.is_err() {
                self.closed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Asks without end, and reads what comes.
async fn ask_and_read(stream: Stream, questions: &[u8]) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut answers = vec![0; 64 * 1024];
    let asking = async {
        loop {
            writer.write_all(questions).await?;
        }
    };
    let reading = async {
        while reader.read(&mut answers).await? > 0 {}
        Err(std::io::ErrorKind::UnexpectedEof.into())
    };
    tokio::select! { ended = asking => ended, ended = reading => ended }
}

/// Says HELLO and gives the frame size that was agreed on.
async fn greet(stream: &mut Stream) -> std::io::Result<usize> {
    let mut hello = BytesMut::new();
    engine::hello(16 * 1024 * 1024, true, &mut hello);
    stream.write_all(&hello).await?;
    let mut received = BytesMut::new();
    loop {
        if let Some(frame) = engine::frames(&received).next() {
            let hello = AgentHello::decode(frame.payload).map_err(|_| std::io::ErrorKind::InvalidData)?;
            return Ok(hello.max_frame_size as usize);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A question that fills the largest frame.
fn largest(frame_bytes_max: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    // Type, flags, ids, the message's name and count, the argument's name and the length of its value: below 40 bytes.
    let path = vec![b'/'; frame_bytes_max.saturating_sub(40)];
    Frame::encode(FrameType::Notify, Flags::FIN, 1, 1, &mut out, |out| {
        engine::request_payload(&[("path", TypedData::Str(&path))], out);
    });
    debug_assert!(out.remaining() <= PREFIX_BYTES + frame_bytes_max);
    out.to_vec()
}
