//! Every arrangement of Redis that there is, and what callers see while it changes. What they see is in
//! docs/operations.md, "Arrangements of Redis".
//!
//! | module | what is arranged |
//! |---|---|
//! | `alone` | one server: Valkey, a demoted primary, users and their rights, passwords that change, no place left |
//! | `sentinels` | a primary and a replica, watched by three sentinels |
//! | `clusters` | three primaries, with replicas where one of them is lost |
//! | `protected` | TLS: certificates that are good, and those that are not |
//! | `others` | revocations and the register of used proofs, over all of these |
//!
//! The agent is asked over SPOP, without HAProxy, by somebody who waits for each answer.

mod alone;
mod clusters;
mod others;
mod protected;
mod sentinels;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tollgate::spop::engine;

use crate::support::spop::{Peer, request};
use crate::support::stack::Agent;

/// Each path below `/deny` and `/local` has a counter of its own; the first part says what holds while Redis cannot
/// answer. `counters` is what else the section says.
fn config(redis: &str, counters: &str) -> String {
    let limit = |mode| format!("  {mode}: {{ key: [path], rate: 10000/30d, on_failure: {mode} }}\n");
    let rule = |mode| format!("  - {{ name: {mode}, path: /{mode}/**, allow: anyone, limits: [{mode}] }}\n");
    format!(
        "spop: {{ deadline: 400ms }}\ncounters:\n  redis: {redis}\n  timeout: 100ms\n{counters}limits:\n{}rules:\n{}",
        ["deny", "local"].map(limit).concat(),
        ["deny", "local"].map(rule).concat(),
    )
}

/// One answer.
#[derive(Clone, Debug)]
struct Answer {
    asked: Instant,
    took: Duration,
    verdict: String,
    /// Redis was not behind it.
    degraded: bool,
    remaining: Option<u64>,
}

impl Answer {
    fn was_counted(&self) -> bool {
        self.verdict == "allow" && !self.degraded
    }
}

/// Somebody who asks, and waits for the answer.
struct Caller(Peer<TcpStream>);

impl Caller {
    async fn of(agent: &Agent) -> Caller {
        let socket = TcpStream::connect(&agent.spop).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Caller(Peer::greeted(socket).await)
    }

    async fn ask(&mut self, path: &str) -> Answer {
        let asked = Instant::now();
        self.0.write(|out| engine::notify(1, 1, &request(path, None), out)).await;
        let ack = self.0.frame().await.expect("every question is answered");
        let took = asked.elapsed();
        let (mut variables, _) = ack.variables();
        let mut take = |name: &str| variables.remove(name).unwrap_or_default();
        Answer {
            asked,
            took,
            verdict: take("verdict"),
            degraded: take("degraded") == "true",
            remaining: take("limit_remaining").parse().ok(),
        }
    }

    /// Asks until Redis is behind the answer.
    async fn ask_until_counted(&mut self, path: &str) -> Answer {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = self.ask(path).await;
            if answer.was_counted() {
                return answer;
            }
            assert!(Instant::now() < until, "{answer:?} after ten seconds");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Somebody who asks for each of some paths in turn, every few milliseconds, until told to stop.
struct Asking {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(usize, Answer)>>,
}

impl Asking {
    async fn start(agent: &Agent, paths: &[String]) -> Asking {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut caller, paths) = (Caller::of(agent).await, paths.to_vec());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut answers = Vec::new();
            for (index, path) in paths.iter().enumerate().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                answers.push((index, caller.ask(path).await));
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            answers
        });
        Asking { stop, task }
    }

    /// All answers, each with the number of its path. None is later than `spop.deadline` and what a busy machine adds.
    async fn stop(self) -> Vec<(usize, Answer)> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.task.await.unwrap();
        let slowest = answers.iter().map(|(_, answer)| answer.took).max().unwrap();
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
        answers
    }
}

/// How long after `since` the last answer was that Redis was not behind, and how many there were; `None` where all were
/// counted.
fn gap(answers: &[(usize, Answer)], since: Instant) -> Option<(Duration, usize)> {
    let lost: Vec<_> = answers.iter().filter(|(_, answer)| !answer.was_counted()).collect();
    let last = lost.last()?.1.asked + lost.last()?.1.took;
    Some((last.saturating_duration_since(since), lost.len()))
}
