//! `load`: HAProxy's load on any agent, and what each request took from when it was due.
//!
//! Reading order: `question` (what is asked), `schedule` (when), `flight` (what waits for its ACK), `connection`,
//! `worker` (one thread of all that), `tally` (what came out), `report` and `plot` (how it is shown).

mod connection;
mod flight;
mod plot;
mod question;
mod report;
mod schedule;
mod tally;
mod worker;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args as ClapArgs};
use tollgate::server::descriptors;

use self::question::Questions;
use self::report::Row;
use self::schedule::{Arrivals, Schedule};
use self::tally::{Tally, Verifier};
use self::worker::{Pace, Plan, Progress, Worker};
use crate::question::Asked;
use crate::target::Target;

/// Plays HAProxy's load on an agent and says what its answers took
///
/// With --rate the loop is open: requests are due at times fixed beforehand, and latency counts from then to the
/// complete ACK, whatever kept the request waiting. A stall of the agent so shows in every request that was due in it.
/// With --max the loop is closed: each answer makes room for the next request, which shows what the agent can do at
/// most, and hides stalls.
///
/// Ends with 0 where every request got its one right answer, 1 where one did not, 2 where it could not begin.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("pace").required(true).args(["rate", "max"])))]
pub struct Args {
    /// The agent: HOST:PORT or unix:/PATH, on this machine
    #[arg(long)]
    target: Target,
    /// Requests a second, over all connections
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// As many as fit the windows
    #[arg(long)]
    max: bool,
    /// How requests are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Even)]
    arrivals: Arrivals,
    /// The seed of the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// NOTIFYs in flight on one connection; several give a run each. HAProxy's is 20
    #[arg(long, value_delimiter = ',', default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    window: Vec<u16>,
    /// How long: 500ms, 10s, 5m; at most an hour
    #[arg(long, default_value = "10s", value_parser = run_time)]
    duration: Duration,
    /// How long before that, without being counted; wrong ACKs of it are shown apart, and are failures too
    #[arg(long, default_value = "1s", value_parser = duration)]
    warmup: Duration,
    /// How long a request waits for its ACK, from when it was due, until it is lost; at most a minute
    #[arg(long, default_value = "1s", value_parser = timeout)]
    timeout: Duration,
    /// Threads of the generator, which share the connections; one needs a whole processor only near its most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    #[command(flatten)]
    asked: Asked,
    /// Tokens, one a line, which take turns as `Bearer` in the argument `authorization`
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// What each ACK must set the variable `verdict` to
    #[arg(long)]
    expect_verdict: Option<String>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    /// A folder for latency-over-time.svg and latency-percentiles.svg
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Progress once a second even where stderr is no terminal
    #[arg(long)]
    progress: bool,
}

/// Runs the load once for each window.
pub async fn run(args: Args) -> ExitCode {
    // The threads block, and the runtime has nothing else to do.
    match tokio::task::spawn_blocking(move || sweep(&args)).await {
        Ok(Ok(clean)) => ExitCode::from(u8::from(!clean)),
        Ok(Err(error)) => {
            eprintln!("spop-harness: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("spop-harness: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every request of every run got its one right answer. The error is why a run could not be.
fn sweep(args: &Args) -> Result<bool, String> {
    let connections = usize::from(args.connections);
    let fitting = descriptors::make_room(connections);
    if fitting < connections {
        return Err(format!("only {fitting} connections fit the limit of open files; raise it with `ulimit -n`"));
    }
    if let Some(folder) = &args.svg {
        std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    let mut rows = Vec::new();
    for window in args.window.iter().copied().map(usize::from) {
        let plan = plan(args, window)?;
        let workers = connected(args, &plan)?;
        if rows.is_empty() && !args.json {
            outln!("{}", report::heading(args));
        }
        let row = Row { window, tally: one(args, &plan, workers)? };
        if !args.json {
            outln!("{}", report::line(args, &row));
        }
        rows.push(row);
    }
    if args.json {
        outln!("{}", report::json(args, &rows));
    } else {
        out!("{}", report::remarks(&rows));
    }
    if let Some(folder) = &args.svg {
        let title = report::title(args);
        for (name, drawing) in [
            ("latency-over-time.svg", plot::over_time(&title, &rows)),
            ("latency-percentiles.svg", plot::percentiles(&title, &rows)),
        ] {
            let file = folder.join(name);
            let drawing = drawing.map_err(|error| format!("cannot draw {name}: {error}"))?;
            std::fs::write(&file, drawing).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        }
    }
    Ok(rows.iter().all(|row| row.tally.is_clean()))
}

fn plan(args: &Args, window: usize) -> Result<Plan, String> {
    let tokens = args.token_file.as_deref().map(question::tokens).transpose()?.unwrap_or_default();
    Ok(Plan {
        target: args.target.clone(),
        questions: Questions::new(&args.asked.question()?, &tokens)?,
        window,
        timeout: args.timeout,
        warmup: args.warmup,
        duration: args.duration,
    })
}

/// The threads' work, with connections of its own for each run.
fn connected<'a>(args: &Args, plan: &'a Plan) -> Result<Vec<Worker<'a>>, String> {
    let connections = usize::from(args.connections);
    let threads = usize::from(args.threads).min(connections);
    let pace = |index| match args.rate {
        Some(rate) => Pace::Open(Schedule::new(rate, args.arrivals, index, connections, args.seed)),
        None => Pace::Closed,
    };
    let mut workers = Vec::new();
    for thread in 0..threads {
        let paces = (thread..connections).step_by(threads).map(pace).collect();
        let mut worker = Worker::new(plan, paces, Verifier::new(args.expect_verdict.as_deref()));
        worker.connect().map_err(|error| format!("cannot connect to {}: {error}", args.target))?;
        workers.push(worker);
    }
    Ok(workers)
}

/// One run.
fn one(args: &Args, plan: &Plan, workers: Vec<Worker<'_>>) -> Result<Tally, String> {
    let progress: Vec<_> = workers.iter().map(|_| Progress::default()).collect();
    // Time enough for the threads to begin together.
    let begin = Instant::now() + Duration::from_millis(10);
    std::thread::scope(|scope| {
        let (ended, endings) = mpsc::channel::<()>();
        let mut running = Vec::new();
        for (worker, progress) in workers.into_iter().zip(&progress) {
            let ended = ended.clone();
            running.push(scope.spawn(move || {
                let result = worker.run(begin, progress);
                drop(ended);
                result
            }));
        }
        drop(ended);
        let shown = args.progress || std::io::stderr().is_terminal();
        // It fails when all threads have dropped their end.
        while endings.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            if shown {
                show(&progress, begin.elapsed(), plan);
            }
        }
        let mut sum = Tally::new(args.duration);
        for thread in running {
            sum.add(&thread.join().map_err(|_| "a thread of the generator panicked".to_owned())??);
        }
        Ok(sum)
    })
}

fn show(progress: &[Progress], elapsed: Duration, plan: &Plan) {
    let window = plan.window;
    let sum = |of: fn(&Progress) -> u64| progress.iter().map(of).sum::<u64>();
    let answered = sum(|progress| progress.answered.load(Ordering::Relaxed));
    let failed = sum(|progress| progress.failed.load(Ordering::Relaxed));
    let broken = sum(|progress| progress.broken.load(Ordering::Relaxed));
    let (seconds, all) = (elapsed.as_secs(), (plan.warmup + plan.duration).as_secs());
    eprintln!("window {window}: {seconds} of {all} s, {answered} answered, {failed} not or wrong, {broken} broken");
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "expected 0.001 to 10000000 requests a second".to_owned())
}

/// `250ms`, `10s`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| ms > 0).and_then(|number| number.checked_mul(ms));
    let duration = number.map(Duration::from_millis).filter(|duration| *duration <= DURATION_MAX);
    duration.ok_or_else(|| "expected a whole number of ms, s, m or h, at most 1h".to_owned())
}

fn run_time(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("expected more than nothing".to_owned()) } else { Ok(time) })
}

fn timeout(text: &str) -> Result<Duration, String> {
    let fits = |timeout: &Duration| (Duration::from_millis(1)..=Duration::from_secs(60)).contains(timeout);
    duration(text).ok().filter(fits).ok_or_else(|| "expected 1ms to 60s".to_owned())
}

/// The histograms over time of an hour are 57 MiB; see `tally`.
const DURATION_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates_are_read_within_their_bounds() {
        for (text, ms) in [("250ms", Some(250)), ("10s", Some(10_000)), ("5m", Some(300_000)), ("1h", Some(3_600_000))]
        {
            assert_eq!(duration(text).ok().map(|duration| duration.as_millis()), ms, "{text}");
        }
        for text in ["", "10", "s", "2h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(run_time("0s").is_err() && timeout("0s").is_err() && timeout("61s").is_err());
        for (text, fits) in [("5000", true), ("0.5", true), ("0", false), ("-1", false), ("NaN", false), ("inf", false)]
        {
            assert_eq!(rate(text).is_ok(), fits, "{text}");
        }
    }
}
