//! Redis, or the way to it, fails while an agent is asked; each failure is made for real. What callers see is in
//! docs/operations.md, "When Redis fails".
//!
//! | module | what fails |
//! |---|---|
//! | `server` | the server: killed, stopped, full, loading, without its scripts, out of connections |
//! | `network` | the way to it: slow, cut, garbled, losing answers, swallowing connections |
//! | `clocks` | the agent's clock, or the server's |
//! | `fleet` | many agents at once, a flood for one counter, agents whose policies differ |
//! | `names` | nothing, but callers choose what counters are called |
//!
//! The agent is asked over SPOP, without HAProxy, by callers who each wait for their answer. What they got is the ledger,
//! and every test holds the sum of what was admitted against the limit and its stated bound.

mod clocks;
mod fleet;
mod names;
mod network;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tollgate::spop::engine;

use crate::support::eventually;
use crate::support::spop::{Peer, request};
use crate::support::stack::Agent;

/// How long a charge may take in these tests: ten times what is shipped, so that a busy machine is no outage.
const TIMEOUT: Duration = Duration::from_millis(100);

/// Paths below `/allow`, `/deny` and `/local` are each limited to `rate` an hour, and each path has a counter of its own;
/// the first part says what holds while Redis cannot answer.
fn config(redis: &str, rate: u64, agents: usize) -> String {
    let limit = |mode| format!("  {mode}: {{ key: [path], rate: {rate}/1h, on_failure: {mode} }}\n");
    let rule = |mode| format!("  - {{ name: {mode}, path: /{mode}/**, allow: anyone, limits: [{mode}] }}\n");
    format!(
        "spop: {{ deadline: 400ms }}\ncounters: {{ redis: \"{redis}\", timeout: 100ms, agents: {agents} }}\n\
         limits:\n{}rules:\n{}",
        MODES.map(limit).concat(),
        MODES.map(rule).concat(),
    )
}

const MODES: [&str; 3] = ["allow", "deny", "local"];

/// One answer.
#[derive(Clone, Debug)]
struct Answer {
    path: String,
    asked: Instant,
    took: Duration,
    verdict: String,
    reason: String,
    /// Redis was not behind it.
    degraded: bool,
    remaining: Option<u64>,
}

impl Answer {
    /// Admitted by the count that all agents share.
    fn was_counted(&self) -> bool {
        self.verdict == "allow" && !self.degraded
    }
}

/// Somebody who asks, and waits for the answer.
struct Caller(Peer<TcpStream>);

impl Caller {
    async fn of(agent: &Agent) -> Caller {
        Caller::at(&agent.spop).await
    }

    async fn at(spop: &str) -> Caller {
        let socket = TcpStream::connect(spop).await.unwrap();
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
            path: path.to_owned(),
            asked,
            took,
            verdict: take("verdict"),
            reason: take("reason"),
            degraded: take("degraded") == "true",
            remaining: take("limit_remaining").parse().ok(),
        }
    }

    /// Asks until Redis is behind the answer.
    async fn ask_until_counted(&mut self, path: &str) -> Answer {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = self.ask(path).await;
            if !answer.degraded {
                return answer;
            }
            assert!(Instant::now() < until, "{answer:?} after ten seconds");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Callers who ask one after the other until they are stopped.
struct Callers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Answer>>>,
}

impl Callers {
    /// `count` of them at each of `agents`, who ask for these paths in turn and pause between answer and question.
    async fn start(agents: &[&Agent], count: usize, paths: &[&str], pause: Duration) -> Callers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for agent in agents {
            for first in 0..count {
                let mut caller = Caller::of(agent).await;
                let (stop, paths) =
                    (Arc::clone(&stop), paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
                tasks.push(tokio::spawn(async move {
                    let mut answers = Vec::new();
                    for path in paths.iter().cycle().skip(first % paths.len()) {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        answers.push(caller.ask(path).await);
                        tokio::time::sleep(pause).await;
                    }
                    answers
                }));
            }
        }
        Callers { stop, tasks }
    }

    /// The ledger: every answer of everybody.
    async fn stop(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for task in self.tasks {
            answers.extend(task.await.unwrap());
        }
        answers
    }
}

/// How many of these answers are so.
fn count(answers: &[Answer], is_so: impl Fn(&Answer) -> bool) -> u64 {
    answers.iter().filter(|answer| is_so(answer)).count() as u64
}

/// What holds whatever Redis does: no decision passes its deadline, none panics, and nobody gets another verdict than
/// allow, throttle or, where that is what the limit says, an error.
async fn assert_honest(agent: &Agent, answers: &[Answer]) {
    for metric in ["tollgate_decisions_late_total", "tollgate_panics_total"] {
        assert_eq!(agent.metric(metric).await, 0.0, "{metric}");
    }
    for answer in answers {
        let expected = match (answer.degraded, answer.path.starts_with("/deny/"), answer.path.starts_with("/allow/")) {
            (true, true, _) => answer.reason == "store_unavailable" && answer.verdict == "error",
            (true, _, true) => answer.verdict == "allow",
            _ => answer.verdict == "allow" || answer.reason == "limit_exceeded",
        };
        assert!(expected, "{answer:?}");
        assert!(!answer.degraded || answer.remaining.is_none(), "a share is no budget to show: {answer:?}");
    }
}

/// Waits until the agent knows that Redis does not answer.
async fn until_down(agent: &Agent) {
    eventually("the agent sees it", || async { (agent.metric("tollgate_store_up").await == 0.0).then_some(()) }).await;
}

/// Waits until the agent knows that Redis answers; gives how long that took.
async fn until_up(agent: &Agent) -> Duration {
    let begun = Instant::now();
    eventually("Redis answers again", || async { (agent.metric("tollgate_store_up").await == 1.0).then_some(()) })
        .await;
    begun.elapsed()
}

/// The outages by the metric, and the lines of the log that tell of them: one where each begins, one where it ends.
async fn assert_episodes(agent: &Agent, expected: usize) {
    assert_eq!(agent.metric("tollgate_store_outages_total").await, expected as f64);
    let log = agent.program.log();
    for said in ["\"Redis does not answer;", "\"Redis answers again\""] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), expected, "{said}: {lines:#?}");
    }
}
