//! `attack`: what hostile peers cost everybody else. One well-behaved connection asks at a steady rate before and during
//! each attack, and newcomers ask once; what their answers took, and what the agent's process held, is the result.

mod hostile;
mod process;
mod report;
mod victim;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;
use tokio::time::sleep;
use tollgate::server::descriptors;

use self::hostile::{Attack, Hostile};
use self::process::{Held, Watch};
use self::report::{Memory, Row};
use self::victim::Victim;
use crate::target::Target;

/// Attacks an agent in each of the ways named, one after the other, and says what well-behaved peers noticed
///
/// Exit code: 0 they noticed nothing but time, 1 one was not served, 2 the agent or its process cannot be reached.
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
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
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

/// Runs the attacks; fails where a well-behaved connection was closed, or an answer of it did not come or was wrong.
pub async fn run(args: Args) -> ExitCode {
    if let Err(error) = reachable(&args) {
        eprintln!("spop-harness: {error}");
        return ExitCode::from(2);
    }
    let attacks = if args.attacks.is_empty() { Attack::value_variants().to_vec() } else { args.attacks.clone() };
    if !args.json {
        outln!("{}", report::heading());
    }
    let mut failed = false;
    let mut report = Vec::new();
    for attack in attacks {
        match one(&args, attack).await {
            Ok(row) => {
                if args.json {
                    report.push(row.json());
                } else {
                    outln!("{row}");
                }
            }
            Err(error) => {
                failed = true;
                if args.json {
                    report.push(json!({ "attack": attack.to_string(), "error": error }));
                } else {
                    outln!("{attack:<8} FAILED: {error}");
                }
            }
        }
    }
    if args.json {
        outln!("{}", json!({ "attacks": report }));
    } else {
        outln!("{}", report::LEGEND);
    }
    ExitCode::from(u8::from(failed))
}

/// Whether anything can be tried: the agent takes connections, its process can be read, and there are descriptors.
fn reachable(args: &Args) -> Result<(), String> {
    let fitting = descriptors::make_room(args.connections);
    if fitting < args.connections {
        return Err(format!("only {fitting} connections fit the limit of open files; raise it with `ulimit -n`"));
    }
    args.pid.map(Held::now).transpose()?;
    let connected = args.target.connect_blocking(victim::ANSWER_TIMEOUT);
    connected.map(drop).map_err(|error| format!("cannot connect to {}: {error}", args.target))
}

async fn one(args: &Args, attack: Attack) -> Result<Row, String> {
    let calm_time = Duration::from_secs(args.seconds.clamp(1, 3));
    let (target, questions, attack_time) = (args.target.clone(), args.questions, Duration::from_secs(args.seconds));
    let before = args.pid.map(Held::now).transpose()?;
    let watch = args.pid.zip(before).map(|(pid, before)| Watch::begin(pid, before));
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
    let target = args.target.clone();
    let (attacked, newcomers) = tokio::join!(
        beside(move || victim.ask(questions, attack_time)),
        beside(move || victim::newcomers(&target, attack_time)),
    );
    hostile.over.store(true, Ordering::Relaxed);
    for peer in &peers {
        peer.abort();
    }
    // Long enough for what the agent notices late.
    sleep(Duration::from_secs(1)).await;
    let (attacked, newcomers) = (attacked??, newcomers??);
    let most = watch.map(Watch::end).transpose()?;
    let after = args.pid.map(Held::now).transpose()?;
    let memory =
        before.zip(most).zip(after).map(|((before, most), after)| Memory { before, most: most.most(after), after });
    let closed = hostile.closed.load(Ordering::Relaxed);
    Ok(Row { attack, peers: peers_count, closed, calm, attacked, newcomers, memory })
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
