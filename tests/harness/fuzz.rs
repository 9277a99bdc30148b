//! `fuzz`: that it finds what is broken on purpose, says how to see it again, and finds nothing in what is right.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;
use tollgate::spop::recording::Recording;

use crate::support::folder;
use crate::support::stack::Agent;

/// Every defect, with a seed, and how large the smallest conversation may be that shows it: events and bytes. Without
/// AGENT-HELLO nothing is answered, so most need a HAPROXY-HELLO of some 120 bytes.
const CANARIES: &[(&str, u64, u64, u64)] = &[
    ("varint-wraps", 1, 3, 250),
    ("varint-stops", 2, 3, 200),
    ("length-ends-accepting", 3, 2, 200),
    ("ack-aborted", 4, 5, 250),
    ("ack-twice", 5, 5, 300),
    ("string-overread", 61, 4, 250),
    ("ack-forgotten", 7, 5, 250),
    ("others-ack-lost", 8, 4, 250),
    ("frame-id-wrong", 9, 5, 300),
    ("ack-after-disconnect", 10, 5, 300),
];

/// Within this many events each of them is found.
const EVENTS_MAX: &str = "20000";

#[tokio::test]
async fn every_canary_is_caught_made_small_and_shown_again_by_one_line() {
    let listed = harness(&["--list-canaries"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected: Vec<_> = ["none"].into_iter().chain(CANARIES.iter().map(|canary| canary.0)).collect();
    assert_eq!(names, expected);

    // Five at a time: some wait for answers that never come, others want the processor.
    for canaries in CANARIES.chunks(5) {
        let mut catching = tokio::task::JoinSet::new();
        for (name, seed, events_max, bytes_max) in canaries.iter().copied() {
            catching.spawn(caught(name, seed, events_max, bytes_max));
        }
        catching.join_all().await;
    }
}

async fn caught(name: &str, seed: u64, events_max: u64, bytes_max: u64) {
    let seed = seed.to_string();
    // One connection at a time: what is found first is then the same each time.
    let limits = ["--events", EVENTS_MAX, "--connections", "1", "--findings", "1"];
    let run = harness(&[&["--canary", name, "--seed", &seed, "--json"][..], &limits].concat()).await;
    assert_eq!(run.status.code(), Some(1), "{name}, seed {seed}: {run:?}");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let finding = &report["findings"][0];
    let what = finding["what"].as_str().unwrap();
    println!("{name}, seed {seed}: {what}, {} in {}", finding["replay"], report["figures"]);
    assert!(finding["events"].as_u64().unwrap() <= events_max, "{name}: {finding}");
    assert!(finding["bytes"].as_u64().unwrap() <= bytes_max, "{name}: {finding}");
    let recording = Recording::parse(finding["recording"].as_str().unwrap()).unwrap();
    assert!(!recording.items.is_empty(), "{name}: {finding}");

    // The line as it is printed, without the program's name.
    let line = finding["command"].as_str().unwrap();
    // The values of the ordinary question have no blanks, so quotes stand around whole words.
    let line: Vec<_> = line.split(' ').skip(2).map(|word| word.trim_matches('\'')).collect();
    let again = harness(&line).await;
    assert_eq!(again.status.code(), Some(1), "{name}: {line:?}: {again:?}");
    let said = String::from_utf8(again.stdout).unwrap();
    assert_eq!(said.lines().next().map(symptom), Some(symptom(what)), "{name}: {line:?}");

    // The same line against an agent without that defect.
    let line: Vec<_> = line.into_iter().map(|word| if word == name { "none" } else { word }).collect();
    assert_eq!(harness(&line).await.status.code(), Some(0), "{name}: {line:?}");
}

/// What is told of others who suffer depends on who notices first: a listener that is gone closes, resets or refuses.
fn symptom(what: &str) -> &str {
    let others = ["the well-behaved connection got ", "the agent takes no connection"];
    if others.iter().any(|start| what.starts_with(start)) { "others suffer" } else { what }
}

#[tokio::test]
async fn nothing_is_found_in_an_agent_without_a_defect() {
    for seed in ["21", "22"] {
        let run = harness(&["--canary", "none", "--seed", seed, "--events", "15000"]).await;
        assert_eq!(run.status.code(), Some(0), "seed {seed}: {run:?}");
    }
}

#[tokio::test]
async fn the_same_seed_sends_the_same_bytes() {
    let folder = folder();
    let mut texts = Vec::new();
    for name in ["one", "two"] {
        let file = folder.path().join(name);
        let run = harness(&["--canary", "none", "--replay", "00c0ffee00c0ffee", "--save", path(&file)]).await;
        assert_eq!(run.status.code(), Some(0), "{run:?}");
        let recording = std::fs::read_to_string(&file).unwrap();
        texts.push(Recording::parse(&recording).unwrap().sent_by(tollgate::spop::recording::Side::Haproxy));
    }
    assert!(texts[0].len() > 100, "{texts:?}");
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn nothing_is_found_in_the_agent_of_this_build() {
    let agent = Agent::start("rules:\n  - { name: public, path: /**, allow: anyone }\n").await;
    agent.ready().await;
    let seed = "31";
    println!("seed {seed}");
    let run = harness(&["--target", &agent.spop, "--seed", seed, "--events", "40000", "--json"]).await;
    assert_eq!(run.status.code(), Some(0), "seed {seed}: {run:?}");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert!(report["figures"]["conversations"].as_u64().unwrap() > 2000, "{report}");
    assert!(report["figures"]["looks"].as_u64().unwrap() > 10, "{report}");
    assert_eq!(agent.metric("tollgate_panics_total").await, 0.0);
}

#[tokio::test]
async fn an_agent_that_cannot_be_tried_is_no_finding() {
    let port = crate::support::free_port();
    let run = harness(&["--target", &format!("127.0.0.1:{port}")]).await;
    assert_eq!(run.status.code(), Some(2), "{run:?}");
}

async fn harness(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_spop-harness");
    Command::new(program).arg("fuzz").args(args).stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap()
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}
