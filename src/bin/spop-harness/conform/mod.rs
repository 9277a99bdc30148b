//! `conform`: the specification of SPOP (HAProxy's doc/SPOE.txt, section 3) as cases, tried one by one on any agent.
//!
//! Reading order: `case` (what a case is), `lab` (connections, the question, what counts as an answer), `wire` and
//! `pairs` (bytes); then the cases, a file for each part of the protocol; `report`.

mod answers;
mod case;
mod endings;
mod fragments;
mod framing;
mod handshake;
mod healthcheck;
mod lab;
mod limits;
mod messages;
mod pace;
mod pairs;
mod pipelining;
mod report;
mod values;
mod varints;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use futures_util::stream::{self, StreamExt};
use serde_json::json;

use self::case::Case;
use self::lab::{Announced, Lab};
use self::report::{Row, Sums};
use crate::peer::Peer;
use crate::question::{Asked, Question};
use crate::target::Target;

/// Tries what SPOP and HAProxy demand of an agent, case by case, and says what it did instead
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent: HOST:PORT or unix:/PATH, on this machine
    #[arg(long, required_unless_present = "list")]
    target: Option<Target>,
    #[command(flatten)]
    asked: Asked,
    /// Only cases whose name contains this
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Says which cases there are, and tries none
    #[arg(long)]
    list: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How long an answer may take that must come
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    timeout: u64,
}

/// Tries the cases. Fails with 1 where the specification or a HAProxy demands something else of an agent than was
/// seen, with 2 where nothing could be tried.
pub async fn run(args: Args) -> ExitCode {
    let mut cases = cases();
    if let Some(only) = &args.only {
        cases.retain(|case| case.name.contains(only));
    }
    if cases.is_empty() {
        eprintln!("spop-harness: no case has {:?} in its name; `--list` names them", args.only.unwrap_or_default());
        return ExitCode::from(2);
    }
    let (false, Some(target)) = (args.list, &args.target) else {
        list(&cases, args.json);
        return ExitCode::SUCCESS;
    };
    let question = match args.asked.question() {
        Ok(question) => question,
        Err(error) => {
            eprintln!("spop-harness: {error}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    if let Err(error) = Peer::connect(target).await {
        eprintln!("spop-harness: cannot connect to {target}: {error}");
        return ExitCode::from(2);
    }
    let lab = lab(&args, target, question).await;
    let rows = tried(cases, &lab, !args.json).await;
    let sums = Sums::of(&rows);
    let took_s = begun.elapsed().as_secs_f64();
    if args.json {
        let announced = json!({
            "max_frame_size": lab.announced.max_frame_size, "pipelining": lab.announced.pipelining,
            "fragmentation": lab.announced.fragmentation,
        });
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let document = json!({
            "target": target.to_string(), "announced": announced, "passed": sums.passed, "failed": sums.failed,
            "warned": sums.warned, "skipped": sums.skipped, "took_s": took_s, "cases": rows,
        });
        outln!("{document:#}");
    } else {
        if sums.skipped > 0 {
            outln!("{} cases are of what the agent does not announce", sums.skipped);
        }
        outln!("{} passed, {} failed, {} warned in {took_s:.1} s", sums.passed, sums.failed, sums.warned);
    }
    ExitCode::from(u8::from(sums.failed > 0))
}

/// Every case, in the order of the report.
fn cases() -> Vec<Case> {
    let parts = [
        handshake::cases(),
        answers::cases(),
        healthcheck::cases(),
        framing::cases(),
        varints::cases(),
        values::cases(),
        messages::cases(),
        pipelining::cases(),
        fragments::cases(),
        limits::cases(),
        endings::cases(),
        pace::cases(),
    ];
    parts.into_iter().flatten().collect()
}

/// Some at once, shown in order.
async fn tried(cases: Vec<Case>, lab: &Lab, shown: bool) -> Vec<Row> {
    if shown {
        out!("{}", report::head());
    }
    let trials = cases.into_iter().map(|case| {
        let (row, lab) = (Row::of(&case), lab.clone());
        async { row.with(case.run(lab).await) }
    });
    let mut rows = Vec::new();
    let mut ended = stream::iter(trials).buffered(AT_ONCE);
    while let Some(row) = ended.next().await {
        if shown {
            out!("{}", row.lines());
        }
        rows.push(row);
    }
    rows
}

fn list(cases: &[Case], as_json: bool) {
    let rows: Vec<_> = cases.iter().map(Row::of).collect();
    if as_json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        outln!("{:#}", json!({ "cases": rows }));
        return;
    }
    out!("{}", report::head());
    rows.iter().for_each(|row| out!("{}", row.lines()));
    outln!("{} cases", rows.len());
}

/// The agent as it announces itself; one that cannot be understood is tried as one that announces nothing.
async fn lab(args: &Args, target: &Target, question: Question) -> Lab {
    let within = Duration::from_millis(args.timeout);
    let mut lab = Lab {
        target: Arc::new(target.clone()),
        within,
        quiet: within / 4,
        question: Arc::new(question),
        announced: Announced { max_frame_size: wire::FRAME_BYTES, pipelining: false, fragmentation: false },
    };
    let hello = Peer::greeted(target, wire::FRAME_BYTES, within).await;
    if let Some(announced) = hello.ok().and_then(|(_, hello)| lab::announced_in(&hello).ok()) {
        // A size that nobody offered is judged by its own case, and not believed by the others.
        lab.announced =
            Announced { max_frame_size: announced.max_frame_size.clamp(256, wire::FRAME_BYTES), ..announced };
    }
    lab
}

/// Cases at once: enough that waiting costs little, and no load that a small agent would feel.
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_that_fits_the_table() {
        let cases = cases();
        let names: BTreeSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            assert!(case.name.len() <= case::NAME_CHARS_MAX && !case.expected.is_empty(), "{}", case.name);
        }
    }
}
