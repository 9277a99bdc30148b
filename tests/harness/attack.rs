//! `attack`: hostile peers cost the agent of this build no answer, no panic and little memory.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::alone;
use crate::support::stack::Agent;

/// One second each, and about as much before and after it.
const ATTACKS: [&str; 7] = ["idle", "silent", "partial", "deaf", "greedy", "garbage", "flood"];

/// The agent holds at most 8 MiB for all connections together (docs/operations.md), and 8 KiB for each of the peers; the
/// rest is what the allocator keeps.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

#[tokio::test]
async fn hostile_peers_cost_nobody_an_answer() {
    let _alone = alone().await;
    let agent = Agent::start("rules:\n  - { name: public, path: /**, allow: anyone }\n").await;
    agent.ready().await;
    let pid = agent.program.pid().to_string();
    let run = Command::new(env!("CARGO_BIN_EXE_spop-harness"))
        .args(["attack", "--target", &agent.spop, "--pid", &pid, "--connections", "100", "--seconds", "1", "--json"])
        .args(ATTACKS)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    // It fails where an answer of the well-behaved connection is wrong, or does not come within five seconds.
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let rows = report["attacks"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["attack"].as_str().unwrap()).collect();
    assert_eq!(names, ATTACKS);
    let before = rows[0]["rss_kib"]["before"].as_u64().unwrap();
    assert!(before > 0, "the memory of process {pid} was not read: {report}");
    for row in rows {
        assert!(row["attacked"]["answers"].as_u64().unwrap() > 0, "{row}");
        // All attacks together, or each could leave a little behind.
        let growth = row["rss_kib"]["most"].as_u64().unwrap().saturating_sub(before);
        assert!(growth < GROWTH_KIB_MAX, "{growth} KiB more than at first: {row}");
    }
    assert_eq!(agent.metric("tollgate_panics_total").await, 0.0);
}
