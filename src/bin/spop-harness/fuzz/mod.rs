//! `fuzz`: whole conversations, broken where the grammar of SPOP bends, against an agent that goes on serving a
//! well-behaved connection meanwhile. Whatever is found is made small and comes with the one line that shows it again.

mod campaign;
mod canary;
mod generate;
mod mutate;
mod play;
mod script;
mod trial;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;

use self::campaign::{Campaign, Finding};
use self::canary::{Canary, Defect};
use self::script::{Replay, Seed};
use self::trial::{Ground, try_one};
use self::witness::Calm;
use crate::question::{Asked, Question};
use crate::target::Target;

/// Breaks conversations in every way the grammar offers and says what the agent made of it
///
/// Exit code: 0 nothing found, 1 something found, 2 the agent cannot be tried.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent: HOST:PORT or unix:/PATH, on this machine
    #[arg(long, required_unless_present_any = ["canary", "list_canaries"])]
    target: Option<Target>,
    /// Which conversations: the same number gives the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this many events: frames written, waits and closes
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    /// Conversations at once
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Stop after this many findings; those that are alike count each, and are shown once
    #[arg(long, default_value_t = 3)]
    findings: usize,
    /// Only the conversation of this seed
    #[arg(long, value_name = "SEED")]
    only_seed: Option<Seed>,
    /// Play a conversation that was found, or its parts, once
    #[arg(long, value_name = "SEED[:PARTS]", conflicts_with = "only_seed")]
    replay: Option<Replay>,
    /// An agent of the harness that is broken on purpose, instead of a target
    #[arg(long, value_enum, conflicts_with = "target")]
    canary: Option<Defect>,
    /// Say which canaries there are
    #[arg(long)]
    list_canaries: bool,
    #[command(flatten)]
    asked: Asked,
    /// Write what was found there, as annotated hex, instead of printing it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the campaign, or one conversation.
pub async fn run(args: Args) -> ExitCode {
    if args.list_canaries {
        for defect in Defect::value_variants() {
            if let Some(value) = defect.to_possible_value() {
                outln!("{:<24}{}", value.get_name(), value.get_help().map(ToString::to_string).unwrap_or_default());
            }
        }
        return ExitCode::SUCCESS;
    }
    match fuzz(&args).await {
        Ok(found) => ExitCode::from(u8::from(found)),
        Err(error) => {
            eprintln!("spop-harness: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether something was found.
async fn fuzz(args: &Args) -> Result<bool, String> {
    let question = args.asked.question()?;
    if question.payload().len() > QUESTION_BYTES_MAX {
        return Err(format!("the question is too long, expected {QUESTION_BYTES_MAX} bytes at most"));
    }
    let mut ground = match (&args.target, args.canary) {
        (_, Some(defect)) => Ground::Canary(Canary::start(defect).await.map_err(|error| error.to_string())?),
        (Some(target), None) => Ground::Agent(target.clone()),
        (None, None) => return Err("expected --target or --canary".to_owned()),
    };
    let calm = Calm::learn(&ground.target(), &question)
        .await
        .map_err(|trouble| format!("{} does not answer while all is calm: {trouble}", ground.target()))?;
    if let Some(replay) = &args.replay {
        let script = generate::script(replay.seed, &question);
        let script = replay.kept.as_ref().map_or(script.clone(), |kept| script.keep(kept));
        let tried = try_one(&mut ground, &calm, &script, PATIENCE).await;
        let found = tried.symptom.is_some();
        let what = tried.symptom.as_ref().map_or("nothing found".to_owned(), ToString::to_string);
        let finding = Finding {
            what,
            symptom: tried.symptom,
            times: usize::from(found),
            replay: replay.clone(),
            candidates: Vec::new(),
            recording: tried.recording,
            script,
        };
        report(args, &question, std::slice::from_ref(&finding), &json!({}))?;
        return Ok(found);
    }
    let mut campaign = Campaign::new(&question, calm, args.seed, args.connections, args.events);
    if let Some(seed) = args.only_seed {
        let findings: Vec<_> = campaign.only(&mut ground, seed).await.into_iter().collect();
        report(args, &question, &findings, &campaign.figures())?;
        return Ok(!findings.is_empty());
    }
    eprintln!("spop-harness: fuzzing {} with seed {}", ground.target(), args.seed);
    let findings = campaign.run(&mut ground, args.findings.max(1)).await;
    report(args, &question, &findings, &campaign.figures())?;
    Ok(!findings.is_empty())
}

/// Says what was found.
fn report(args: &Args, question: &Question, findings: &[Finding], figures: &serde_json::Value) -> Result<(), String> {
    let agent = match (args.canary.and_then(|defect| defect.to_possible_value()), &args.target) {
        (Some(defect), _) => format!("--canary {}", defect.get_name()),
        (None, Some(target)) => format!("--target {target}"),
        (None, None) => String::new(),
    };
    let line = |replay: &Replay| format!("spop-harness fuzz {agent} --replay {replay} {}", question.flags());
    let mut recordings = String::new();
    for finding in findings {
        let mut recording = finding.recording.clone();
        let mut comments = vec![finding.what.clone(), line(&finding.replay)];
        comments.extend(finding.candidates.iter().map(|seed| format!("perhaps {seed}")));
        match recording.items.first_mut() {
            Some(first) => first.comments = comments,
            None => recording.trailer = comments,
        }
        recordings.push_str(&recording.to_text());
    }
    if let Some(file) = &args.save {
        std::fs::write(file, &recordings).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    if args.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "what": finding.what, "times": finding.times, "replay": finding.replay.to_string(), "command": line(&finding.replay),
                    "events": finding.script.len(), "bytes": finding.script.bytes(),
                    "candidates": finding.candidates.iter().map(Seed::to_string).collect::<Vec<_>>(),
                    "recording": finding.recording.to_text(),
                })
            })
            .collect();
        outln!("{}", json!({ "seed": args.seed, "figures": figures, "findings": findings }));
        return Ok(());
    }
    for finding in findings {
        outln!("{}", finding.what);
        outln!("  {}", line(&finding.replay));
        if finding.times > 1 {
            outln!("  found {} times, or what is alike", finding.times);
        }
        if !finding.candidates.is_empty() {
            let seeds: Vec<_> = finding.candidates.iter().map(Seed::to_string).collect();
            outln!("  no conversation alone shows it; at that moment: {}", seeds.join(" "));
        }
    }
    if args.save.is_none() {
        out!("{recordings}");
    }
    if let Some(figures) = figures.as_object().filter(|figures| !figures.is_empty()) {
        let words: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
        outln!("{} findings; {}", findings.len(), words.join(", "));
    }
    Ok(())
}

/// How long an agent may take for an answer before it counts as missing. Whatever a machine has to do besides, this is
/// long.
const PATIENCE: Duration = Duration::from_secs(3);

/// A question must fit a frame with room for being made longer.
const QUESTION_BYTES_MAX: usize = 8192;
