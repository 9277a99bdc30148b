//! `attack`: what hostile peers cost everybody else. One well-behaved connection asks at a steady rate before, during and
//! after each attack; what its answers took, and what the agent's process held, is the result.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use clap::{Args as ClapArgs, ValueEnum};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tollgate::server::descriptors;
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::hello::AgentHello;
use tollgate::spop::{TypedData, engine};

use crate::target::{ReadWrite, Stream, Target};

/// Attacks an agent in each of the ways named, one after the other, and says what a well-behaved peer noticed.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent: HOST:PORT or unix:/PATH, on this machine
    #[arg(long)]
    target: Target,
    /// The attacks; all of them unless named
    #[arg(value_enum)]
    attacks: Vec<Attack>,
    /// Hostile connections
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// New connections a second, of `flood`
    #[arg(long, default_value_t = 5000)]
    rate: u64,
    /// Seconds each
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Questions a second of the well-behaved connection
    #[arg(long, default_value_t = 500)]
    questions: u64,
    /// The agent's process, whose memory and descriptors are to be read
    #[arg(long)]
    pid: Option<u32>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What a hostile peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attack {
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

/// Runs the attacks; fails where the well-behaved connection was closed, or an answer of it did not come or was wrong.
pub async fn run(args: Args) -> ExitCode {
    let attacks = if args.attacks.is_empty() { Attack::value_variants().to_vec() } else { args.attacks.clone() };
    let fitting = descriptors::make_room(args.connections);
    if fitting < args.connections {
        eprintln!("spop-harness: only {fitting} connections fit the limit of open files; raise it with `ulimit -n`");
        return ExitCode::from(2);
    }
    if !args.json {
        println!(
            "{:<8} {:>8} {:>9} | {:>9} {:>9} {:>9} | {:>7} {:>8} | {:>9} {:>9} {:>9} {:>6}",
            "attack",
            "peers",
            "closed",
            "p50 µs",
            "p99 µs",
            "max µs",
            "p99 ×",
            "answers",
            "RSS KiB",
            "most",
            "after",
            "fds"
        );
    }
    let mut failed = false;
    let mut report = Vec::new();
    for attack in attacks {
        match one(&args, attack).await {
            Ok(row) => {
                if args.json {
                    report.push(row.json());
                } else {
                    println!("{row}");
                }
            }
            Err(error) => {
                failed = true;
                if args.json {
                    report.push(json!({ "attack": attack.to_string(), "error": error }));
                } else {
                    println!("{attack:<8} FAILED: {error}");
                }
            }
        }
    }
    if args.json {
        println!("{}", json!({ "attacks": report }));
    }
    ExitCode::from(u8::from(failed))
}

/// One attack, as it looked from outside.
struct Row {
    attack: Attack,
    peers: usize,
    closed: u64,
    calm: Histogram<u64>,
    attacked: Histogram<u64>,
    rss_before: u64,
    rss_most: u64,
    rss_after: u64,
    descriptors_most: u64,
}

impl Row {
    fn factor(&self) -> f64 {
        self.attacked.value_at_quantile(0.99) as f64 / self.calm.value_at_quantile(0.99).max(1) as f64
    }

    fn json(&self) -> serde_json::Value {
        let latency = |of: &Histogram<u64>| {
            json!({
                "answers": of.len(), "p50_us": of.value_at_quantile(0.5), "p99_us": of.value_at_quantile(0.99),
                "max_us": of.max(),
            })
        };
        json!({
            "attack": self.attack.to_string(), "peers": self.peers, "closed": self.closed,
            "calm": latency(&self.calm), "attacked": latency(&self.attacked), "p99_factor": self.factor(),
            "rss_kib": { "before": self.rss_before, "most": self.rss_most, "after": self.rss_after },
            "descriptors_most": self.descriptors_most,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quantile = |quantile| self.attacked.value_at_quantile(quantile);
        write!(
            f,
            "{:<8} {:>8} {:>9} | {:>9} {:>9} {:>9} | {:>7.1} {:>8} | {:>9} {:>9} {:>9} {:>6}",
            self.attack,
            self.peers,
            self.closed,
            quantile(0.5),
            quantile(0.99),
            self.attacked.max(),
            self.factor(),
            self.attacked.len(),
            self.rss_before,
            self.rss_most,
            self.rss_after,
            self.descriptors_most
        )
    }
}

async fn one(args: &Args, attack: Attack) -> Result<Row, String> {
    let calm_time = Duration::from_secs(args.seconds.clamp(1, 3));
    let (target, questions, attack_time) = (args.target.clone(), args.questions, Duration::from_secs(args.seconds));
    let rss_before = Process::read(args.pid).rss_kib;
    let calmly = beside(move || {
        let mut victim = Victim::connect(&target)?;
        let calm = victim.ask(questions, calm_time)?;
        Ok::<_, String>((victim, calm))
    });
    let (mut victim, calm) = calmly.await??;

    let hostile =
        Arc::new(Hostile { target: args.target.clone(), over: AtomicBool::new(false), closed: AtomicU64::new(0) });
    let mut peers = Vec::new();
    let peers_count =
        if attack == Attack::Flood { usize::try_from(args.rate / 50).unwrap_or(1).max(1) } else { args.connections };
    for number in 0..peers_count {
        peers.push(tokio::spawn(Arc::clone(&hostile).run(attack, number as u64, args.rate)));
    }
    let watching = tokio::spawn(watch(args.pid, Arc::clone(&hostile)));
    let attacked = beside(move || victim.ask(questions, attack_time)).await;
    hostile.over.store(true, Ordering::Relaxed);
    for peer in &peers {
        peer.abort();
    }
    let most = watching.await.unwrap_or_default();
    // Long enough for what the agent notices late.
    sleep(Duration::from_secs(1)).await;
    Ok(Row {
        attack,
        peers: peers_count,
        closed: hostile.closed.load(Ordering::Relaxed),
        calm,
        attacked: attacked??,
        rss_before,
        rss_most: most.rss_kib,
        rss_after: Process::read(args.pid).rss_kib,
        descriptors_most: most.descriptors,
    })
}

/// Hostile peers run at the lowest priority: on a machine of their own, which is where they would be, they would take no
/// time from the agent, nor from the well-behaved connection. Called on each thread of the runtime.
pub fn yield_to_others() {
    // Where it is not allowed they are a little more hostile.
    let _ = rustix::process::nice(19);
}

/// Runs `work` on a thread of its own, with the priority that the program was started with.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whoever waited for it may be gone.
        let _ = done.send(work());
    });
    result.await.map_err(|_| "the well-behaved connection's thread panicked".to_owned())
}

/// The well-behaved connection. It has a thread of its own, whose sleep is exact to some ten microseconds; the runtime's
/// is to a millisecond.
struct Victim {
    stream: Box<dyn ReadWrite>,
    received: BytesMut,
    asked: u64,
}

impl Victim {
    fn connect(target: &Target) -> Result<Victim, String> {
        let stream =
            target.connect_blocking(ANSWER_TIMEOUT).map_err(|error| format!("cannot connect to {target}: {error}"))?;
        let mut victim = Victim { stream, received: BytesMut::new(), asked: 0 };
        let mut hello = BytesMut::new();
        engine::hello(16380, true, &mut hello);
        let answer = victim.exchange(&hello).map_err(|error| format!("no HELLO: {error}"))?;
        if answer.0 == FrameType::AgentHello { Ok(victim) } else { Err(format!("the HELLO is {answer:?}")) }
    }

    /// Asks `rate` times a second, each answered before the next; latency counts from when the question was due.
    fn ask(&mut self, rate: u64, time: Duration) -> Result<Histogram<u64>, String> {
        // A minute, in microseconds.
        let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let pause = Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
        let mut due = begun;
        while due < begun + time {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.asked += 1;
            let mut question = BytesMut::new();
            let arguments = [("method", TypedData::Str(b"GET")), ("path", TypedData::Str(b"/"))];
            engine::notify(self.asked, 1, &arguments, &mut question);
            let answer = self.exchange(&question).map_err(|error| format!("question {}: {error}", self.asked))?;
            if answer != (FrameType::Ack, self.asked, 1) {
                return Err(format!("question {}: the answer is {answer:?}", self.asked));
            }
            latency.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
            due += pause;
        }
        Ok(latency)
    }

    /// Writes a frame and reads one; its type and ids.
    fn exchange(&mut self, frame: &[u8]) -> std::io::Result<(FrameType, u64, u64)> {
        self.stream.write_all(frame)?;
        loop {
            let answer =
                engine::frames(&self.received).next().map(|frame| (frame.kind, frame.stream_id, frame.frame_id));
            if let Some(answer) = answer {
                self.received.clear();
                return Ok(answer);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => self.received.extend_from_slice(&piece[..read]),
            }
        }
    }
}

/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the hostile peers have in common.
struct Hostile {
    target: Target,
    over: AtomicBool,
    closed: AtomicU64,
}

impl Hostile {
    async fn run(self: Arc<Self>, attack: Attack, number: u64, rate: u64) {
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

/// What the agent's process holds.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    rss_kib: u64,
    descriptors: u64,
}

impl Process {
    /// Zeros where it cannot be read.
    fn read(pid: Option<u32>) -> Process {
        let Some(pid) = pid else { return Process::default() };
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Process {
            rss_kib: rss.and_then(|kib| kib.parse().ok()).unwrap_or(0),
            descriptors: std::fs::read_dir(folder.join("fd")).map_or(0, |entries| entries.count() as u64),
        }
    }
}

/// The most it held at any look, ten a second.
async fn watch(pid: Option<u32>, hostile: Arc<Hostile>) -> Process {
    let mut most = Process::default();
    while !hostile.over.load(Ordering::Relaxed) {
        let now = Process::read(pid);
        most.rss_kib = most.rss_kib.max(now.rss_kib);
        most.descriptors = most.descriptors.max(now.descriptors);
        sleep(Duration::from_millis(100)).await;
    }
    most
}
