//! Stands between an agent and Redis, as a network that delays, loses and damages what is said.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// The relay. It and its connections end with the value.
pub struct RedisRelay {
    pub port: u16,
    network: Arc<Network>,
    task: JoinHandle<()>,
}

/// What becomes of an answer.
#[derive(Clone, Debug)]
pub enum Fate {
    /// This many bytes of it do, and then the connection is reset. 0 loses it.
    CutAfter(usize),
    /// Something else does.
    Becomes(Vec<u8>),
    /// The same, and then as many bytes as the agent takes, at most this many.
    Floods(Vec<u8>, u64),
}

struct Network {
    redis_port: u16,
    /// What a question holds whose answer has a fate.
    mark: &'static [u8],
    fates: Mutex<VecDeque<Fate>>,
    /// How long answers take: the least and the most, in milliseconds; most of them are near the middle.
    delay_ms: Mutex<Option<(u64, u64)>>,
    drawn: AtomicU64,
    connections: AtomicU64,
    marked: AtomicU64,
    flooded: AtomicU64,
}

impl RedisRelay {
    /// Answers to questions that hold `mark`, such as a part of a counter's name, have the fates that are given later.
    pub async fn start(redis_port: u16, mark: &'static str) -> RedisRelay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = Arc::new(Network {
            redis_port,
            mark: mark.as_bytes(),
            fates: Mutex::default(),
            delay_ms: Mutex::default(),
            drawn: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            flooded: AtomicU64::new(0),
        });
        let shared = Arc::clone(&network);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (agent, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(Arc::clone(&shared).relay(agent));
                while connections.try_join_next().is_some() {}
            }
        });
        RedisRelay { port, network, task }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The fates of the next answers, first to last. Those after them pass.
    pub fn next_answers(&self, fates: impl IntoIterator<Item = Fate>) {
        self.network.fates.lock().extend(fates);
    }

    /// How many of them are still to come.
    pub fn fates_left(&self) -> usize {
        self.network.fates.lock().len()
    }

    /// From now on every answer takes between `least` and `most` milliseconds, most of them about half-way; in order.
    pub fn delay_ms(&self, delay: Option<(u64, u64)>) {
        *self.network.delay_ms.lock() = delay;
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.network.connections.load(Ordering::Relaxed)
    }

    /// How many bytes of [`Fate::Floods`] were taken.
    pub fn flooded(&self) -> u64 {
        self.network.flooded.load(Ordering::Relaxed)
    }

    /// Questions with the mark so far; those that arrived in one piece count as one.
    pub fn marked(&self) -> u64 {
        self.network.marked.load(Ordering::Relaxed)
    }
}

impl Drop for RedisRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Network {
    async fn relay(self: Arc<Network>, mut agent: TcpStream) {
        let Ok(mut redis) = TcpStream::connect(("127.0.0.1", self.redis_port)).await else { return };
        let _ = (agent.set_nodelay(true), redis.set_nodelay(true));
        let reset = {
            let (mut from_agent, mut to_agent) = agent.split();
            let (mut from_redis, mut to_redis) = redis.split();
            self.pass_on(&mut from_agent, &mut to_agent, &mut from_redis, &mut to_redis).await
        };
        if reset {
            // Closing then throws away what was not sent, and says RST instead of FIN.
            let _ = agent.set_zero_linger();
        }
    }

    /// Until one side ends; whether the agent's is to be reset.
    async fn pass_on(
        &self,
        from_agent: &mut (impl AsyncReadExt + Unpin),
        to_agent: &mut (impl AsyncWriteExt + Unpin),
        from_redis: &mut (impl AsyncReadExt + Unpin),
        to_redis: &mut (impl AsyncWriteExt + Unpin),
    ) -> bool {
        let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut on_its_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut is_marked = false;
        loop {
            let due = on_its_way.front().map(|(due, _)| *due);
            tokio::select! {
                read = from_agent.read(&mut asked) => {
                    let Ok(len @ 1..) = read else { return false };
                    if asked[..len].windows(self.mark.len()).any(|window| window == self.mark) {
                        self.marked.fetch_add(1, Ordering::Relaxed);
                        is_marked = true;
                    }
                    if to_redis.write_all(&asked[..len]).await.is_err() {
                        return false;
                    }
                }
                read = from_redis.read(&mut answered) => {
                    let Ok(len @ 1..) = read else { return false };
                    let answer = answered[..len].to_vec();
                    let fate = if std::mem::take(&mut is_marked) { self.fates.lock().pop_front() } else { None };
                    let (answer, resets) = match fate {
                        None => (answer, false),
                        Some(Fate::CutAfter(bytes)) => (answer[..bytes].to_vec(), true),
                        Some(Fate::Becomes(other)) => (other, false),
                        Some(Fate::Floods(head, most)) => {
                            self.flood(&head, most, to_agent).await;
                            return true;
                        }
                    };
                    if resets {
                        let _ = to_agent.write_all(&answer).await;
                        let _ = to_agent.flush().await;
                        // What was sent may be on its way still, and a reset overtakes it.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        return true;
                    }
                    // In order: none before the one in front of it.
                    let earliest = on_its_way.back().map_or_else(Instant::now, |(due, _)| (*due).max(Instant::now()));
                    on_its_way.push_back((earliest.max(Instant::now() + self.draw_delay()), answer));
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some((_, answer)) = on_its_way.pop_front()
                        && to_agent.write_all(&answer).await.is_err()
                    {
                        return false;
                    }
                }
            }
        }
    }

    async fn flood(&self, head: &[u8], most: u64, to_agent: &mut (impl AsyncWriteExt + Unpin)) {
        let piece = [b'x'; 64 * 1024];
        let mut sent = 0;
        if to_agent.write_all(head).await.is_err() {
            return;
        }
        while sent < most && to_agent.write_all(&piece).await.is_ok() {
            sent += piece.len() as u64;
            self.flooded.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    }

    /// The sum of two draws, as of two dice: the middle is the likeliest. The same each run.
    fn draw_delay(&self) -> Duration {
        let Some((least, most)) = *self.delay_ms.lock() else { return Duration::ZERO };
        let half_us = (most - least) * 1000 / 2;
        let die = || {
            let number = self.drawn.fetch_add(1, Ordering::Relaxed);
            // The first steps of SplitMix64, which spreads neighbours.
            let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)) % (half_us + 1)
        };
        Duration::from_micros(least * 1000 + die() + die())
    }
}
