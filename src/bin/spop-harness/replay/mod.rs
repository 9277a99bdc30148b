//! `replay`: plays HAProxy's side of recordings to an agent, and says where it answers otherwise than the agent that was
//! recorded.

mod compare;
mod play;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tollgate::spop::recording::{Recording, Side};

use crate::target::Target;

/// Plays HAProxy's side of recordings to an agent and compares what it answers
///
/// ACKs may come in another order, and values may differ; types of frames, ids, and names and types of variables may
/// not. A recording that says `refused: CODE` is passed by an AGENT-DISCONNECT with that status, or by a close alone.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Recordings, as `record` writes them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The agent: HOST:PORT or unix:/PATH, on this machine
    #[arg(long)]
    target: Target,
    /// When HAProxy's frames go
    #[arg(long, value_enum, default_value_t = Speed::Max)]
    speed: Speed,
    /// Fail on values that differ too
    #[arg(long)]
    exact: bool,
    /// JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// When a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Speed {
    /// At its recorded time, and never before what the agent had said by then
    Recorded,
    /// As soon as the agent has said what stands before it
    Max,
}

/// How one recording went.
#[derive(Debug, Default)]
struct Outcome {
    /// Frames that the agent sent.
    frames: usize,
    /// What it may not do otherwise.
    failures: Vec<String>,
    /// What it may.
    differences: Vec<String>,
}

/// Plays all; 1 where an agent answered otherwise, 2 where a recording could not be read or the agent not be reached, or
/// where there was nothing to play in any.
pub async fn run(args: Args) -> ExitCode {
    let played =
        stream::iter(&args.files).map(|file| one(&args, file)).buffered(FILES_AT_ONCE).collect::<Vec<_>>().await;
    let mut out = String::new();
    let mut report = Vec::new();
    let mut code = 0;
    if played.iter().all(|outcome| matches!(outcome, Ok(None))) {
        eprintln!("spop-harness: nothing to play: expected a recording in which HAProxy says something");
        code = 2;
    }
    for (file, outcome) in args.files.iter().zip(&played) {
        let name = file.display();
        match outcome {
            Ok(None) => {
                report.push(json!({ "file": name.to_string(), "ok": null }));
                let _ = writeln!(out, "-      {name} (nothing to play: HAProxy says nothing in it)");
            }
            Ok(Some(outcome)) => {
                let failed = !outcome.failures.is_empty() || args.exact && !outcome.differences.is_empty();
                code = code.max(u8::from(failed));
                report.push(json!({
                    "file": name.to_string(), "ok": !failed, "frames": outcome.frames, "failures": outcome.failures,
                    "differences": outcome.differences,
                }));
                let _ =
                    writeln!(out, "{} {name} ({} frames)", if failed { "FAILED" } else { "ok    " }, outcome.frames);
                for failure in &outcome.failures {
                    let _ = writeln!(out, "         {failure}");
                }
                for difference in &outcome.differences {
                    let _ = writeln!(out, "       ~ {difference}");
                }
            }
            Err(error) => {
                code = 2;
                eprintln!("spop-harness: {name}: {error}");
                report.push(json!({ "file": name.to_string(), "ok": false, "error": error }));
            }
        }
    }
    if args.json {
        out = format!("{}\n", json!({ "files": report }));
    }
    out!("{out}");
    ExitCode::from(code)
}

/// An agent may hold a connection that it refused for half a second; all recordings one by one would be that many halves.
const FILES_AT_ONCE: usize = 8;

/// `None` where HAProxy does nothing in it: a frame of an agent alone, for reading.
async fn one(args: &Args, file: &Path) -> Result<Option<Outcome>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read: {error}"))?;
    let recording = Recording::parse(&text).map_err(|error| error.to_string())?;
    if recording.items.iter().all(|item| item.from != Side::Haproxy) {
        return Ok(None);
    }
    let refused = recording.facts("refused").next().map(Refusal::parse).transpose()?;
    let played = play::play(&recording, &args.target, args.speed == Speed::Recorded, refused.is_some()).await?;
    Ok(Some(match refused {
        Some(refusal) => compare::refused(&recording, &played, refusal),
        None => compare::answered(&recording, &played),
    }))
}

/// What a recording says that an agent does about it: `refused: 4`, or `refused: close` where no status is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Status(i64),
    Close,
}

impl Refusal {
    fn parse(text: &str) -> Result<Refusal, String> {
        match text {
            "close" => Ok(Refusal::Close),
            code => {
                let code = code.parse().map_err(|_| format!("`refused: {code}`: expected a status code or `close`"))?;
                Ok(Refusal::Status(code))
            }
        }
    }
}
