//! `record`: stands between HAProxy and an agent, lets every byte through as it comes, and keeps what both said as a text
//! for each connection.

mod relay;
mod tape;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tollgate::spop::recording::Side;

pub use self::tape::TAPE_BYTES_MAX;
use self::tape::Tape;
use crate::target::{Stream, Target};

/// Relays between HAProxy and an agent and writes each connection into a file of its own
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Where HAProxy connects: HOST:PORT or unix:/PATH, on this machine
    #[arg(long)]
    listen: Target,
    /// The agent
    #[arg(long)]
    target: Target,
    /// The folder for the files; made where it is not there. No file is replaced
    #[arg(long)]
    out: PathBuf,
    /// How the files' names begin
    #[arg(long, default_value = "connection")]
    name: String,
    /// Ends after so many connections
    #[arg(long)]
    connections: Option<u64>,
    /// Ends after so many seconds; what is open then is kept as far as it came
    #[arg(long)]
    seconds: Option<u64>,
}

/// Relays until a signal, the time or the count ends it; 1 where a recording could not be written, 2 where it could not
/// begin.
pub async fn run(args: Args) -> ExitCode {
    if args.name.contains('/') {
        eprintln!("spop-harness: --name is the beginning of a file's name, and `{}` is a path", args.name);
        return ExitCode::from(2);
    }
    if let Err(error) = std::fs::create_dir_all(&args.out) {
        eprintln!("spop-harness: cannot make {}: {error}", args.out.display());
        return ExitCode::from(2);
    }
    let listener = match Listener::bind(&args.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("spop-harness: cannot listen on {}: {error}", args.listen);
            return ExitCode::from(2);
        }
    };
    let (stop, stopped) = watch::channel(false);
    let failures = tokio::select! {
        failures = relay_all(&args, &listener, stopped.clone()) => failures,
        failures = async {
            ending(args.seconds).await;
            let _ = stop.send(true);
            // The accepting side sees the stop too, and ends when every connection is on disk.
            std::future::pending::<u64>().await
        } => failures,
    };
    ExitCode::from(u8::from(failures > 0))
}

/// How many recordings could not be written.
async fn relay_all(args: &Args, listener: &Listener, mut stopped: watch::Receiver<bool>) -> u64 {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let writers = Arc::new(Semaphore::new(WRITERS_MAX));
    let mut relays = JoinSet::new();
    let mut failures = 0;
    let mut accepted = 0;
    while args.connections.is_none_or(|wanted| accepted < wanted) {
        let place = Arc::clone(&places).acquire_owned().await;
        let haproxy = tokio::select! {
            haproxy = listener.accept() => haproxy,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let haproxy = match haproxy {
            Ok(haproxy) => haproxy,
            Err(error) => {
                eprintln!("spop-harness: cannot accept: {error}");
                // Out of descriptors, most likely: one comes back when a connection ends.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        accepted += 1;
        let (target, out, name) = (args.target.clone(), args.out.clone(), args.name.clone());
        let stopped = stopped.clone();
        let writers = Arc::clone(&writers);
        relays.spawn(async move {
            let tape = one(haproxy, &target, stopped).await;
            // It is never closed.
            let _writer = writers.acquire().await;
            let written = write(&out, &name, accepted, tape);
            drop(place);
            written
        });
        while let Some(ended) = relays.try_join_next() {
            failures += u64::from(!matches!(ended, Ok(true)));
        }
    }
    while let Some(ended) = relays.join_next().await {
        failures += u64::from(!matches!(ended, Ok(true)));
    }
    failures
}

/// Recordings in memory at the same time, those among them that wait to be written; the next connection waits. Each is at
/// most [`TAPE_BYTES_MAX`]: 256 x 1 MiB.
const CONNECTIONS_MAX: usize = 256;

/// Recordings that are made into text at the same time. A text is mostly three to six times what it reads, and at most
/// [`READING_BYTES_MAX`](crate::decode::READING_BYTES_MAX) times, which a NOTIFY of empty names and nulls comes near: 2 x 64 MiB.
const WRITERS_MAX: usize = 2;

async fn one(haproxy: Stream, target: &Target, stopped: watch::Receiver<bool>) -> Tape {
    let tape = Tape::new();
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, target.connect());
    match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(agent) => relay::relay(haproxy, agent, tape, stopped).await,
        // It had accepted, and was gone before that was noticed here; nobody listening would be a refusal.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            relay::reset(haproxy);
            let mut tape = tape;
            tape.reset(Side::Agent);
            tape
        }
        Err(error) => {
            relay::reset(haproxy);
            tape.ended_by(format!("The agent could not be reached: {error}."))
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes a recording under a name that is free; says where it could not.
fn write(folder: &Path, name: &str, number: u64, tape: Tape) -> bool {
    let text = tape.into_recording().to_text();
    for number in number..number + NAMES_TRIED_MAX {
        let path = folder.join(format!("{name}-{number:03}.txt"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => match file.write_all(text.as_bytes()) {
                Ok(()) => return true,
                Err(error) => {
                    eprintln!("spop-harness: cannot write {}: {error}", path.display());
                    return false;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                eprintln!("spop-harness: cannot write {}: {error}", path.display());
                return false;
            }
        }
    }
    eprintln!("spop-harness: {} has no free name for `{name}`", folder.display());
    false
}

/// Names that earlier recordings may have taken, each of them a look at the folder.
const NAMES_TRIED_MAX: u64 = 10_000;

/// Until SIGINT, SIGTERM, or the time is over.
async fn ending(seconds: Option<u64>) {
    let signalled = async |kind| match signal(kind) {
        Ok(mut signal) => signal.recv().await,
        Err(_) => std::future::pending().await,
    };
    let time = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = signalled(SignalKind::interrupt()) => {}
        _ = signalled(SignalKind::terminate()) => {}
        () = time => {}
    }
}

enum Listener {
    Tcp(TcpListener),
    /// Removed when this is dropped.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    async fn bind(listen: &Target) -> io::Result<Listener> {
        match listen {
            Target::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Target::Unix(path) => Ok(Listener::Unix(UnixListener::bind(path)?, path.clone())),
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // What came in one piece leaves in one piece, at once.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
