//! Two agents behind each HAProxy line, under a steady load: one after the other is restarted, or dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::each_line;
use crate::support::eventually;
use crate::support::stack::{Agent, Haproxy};
use crate::support::web::{self, Application};

each_line! { alone rolling_restarts_lose_nothing, a_killed_agent_costs_little_and_not_for_long }

/// Requests a second, over this many connections.
const RATE: u64 = 2000;
const CLIENTS: u64 = 20;
const PATH: &str = "/public/x";

const CONFIG: &str = "
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: public, path: /public/**, allow: anyone }
";

async fn rolling_restarts_lose_nothing(line: &str, program: &str) {
    for last in [false, false, true] {
        let mut load = Load::start(program).await;
        for restart in 0..20 {
            let agent = &mut load.agents[restart % 2];
            agent.program.signal("TERM");
            assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0), "a drain ends well");
            *agent = Agent::start_on(CONFIG, &agent.spop).await;
            load.both_up().await;
        }
        let result = load.stop().await;
        println!("HAProxy {line}: {} answered, {} lost in 20 restarts", result.answered, result.lost.len());
        if result.lost.is_empty() {
            return;
        }
        assert!(result.starved() && !last, "{result:?}");
    }
}

async fn a_killed_agent_costs_little_and_not_for_long(line: &str, program: &str) {
    for last in [false, false, true] {
        let mut load = Load::start(program).await;
        let mut changes = Vec::new();
        for kill in 0..4 {
            let agent = &mut load.agents[kill % 2];
            changes.push(Instant::now());
            agent.program.kill();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            changes.push(Instant::now());
            *agent = Agent::start_on(CONFIG, &agent.spop).await;
            load.both_up().await;
        }
        let result = load.stop().await;
        println!("HAProxy {line}: {} answered, {} lost in 4 kills", result.answered, result.lost.len());
        // Half of the rate is asked of the agent that dies, 1,000 a second; at 2 ms each, 2 are in flight there. They are
        // asked again, so that 0 or 1 of all are lost. 2 for each of 4 kills is as if none were; and more than that would be
        // lost by asking an agent that is dead, for longer than those 2 ms.
        let few = result.lost.len() <= 4 * 2;
        let soon = result.lost.iter().all(|lost| {
            let after = changes.iter().filter_map(|change| lost.at.checked_duration_since(*change)).min();
            after.is_some_and(|after| after.max(lost.took) < Duration::from_secs(1))
        });
        if few && soon {
            return;
        }
        assert!(result.starved() && !last, "{result:?}");
    }
}

/// What became of a load.
#[derive(Debug)]
struct Outcome {
    answered: u64,
    lost: Vec<Lost>,
    /// HAProxy's `spoe_error` of each request that it refused.
    errors: Vec<String>,
}

impl Outcome {
    /// Whether all that was lost had waited for HAProxy's whole timeout: a connection that ended is 256 or 257, no agent up
    /// is 2, and 1 is a timeout, of a machine that gave nobody a processor for a quarter of a second. Such a run says
    /// nothing and is made again; what a restart really loses, it loses in each.
    fn starved(&self) -> bool {
        !self.errors.is_empty() && self.errors.iter().all(|error| error == "\"1\"" || error == "1")
    }
}

struct Load {
    agents: [Agent; 2],
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Lost>>>,
    since: Instant,
    _app: Application,
    haproxy: Haproxy,
}

/// A request that was not served.
#[derive(Debug)]
#[expect(dead_code, reason = "shown where a test fails")]
struct Lost {
    /// When the client saw that.
    at: Instant,
    /// How long after it asked.
    took: Duration,
    what: String,
}

impl Load {
    async fn start(program: &str) -> Load {
        let agents = [Agent::start(CONFIG).await, Agent::start(CONFIG).await];
        let app = Application::start().await;
        let addresses = [agents[0].spop.as_str(), &agents[1].spop];
        let haproxy = Haproxy::start_program(program, &addresses, &[app.port]).await;
        eventually("requests are served", async || {
            let reply = web::get(haproxy.port, PATH, &[]).await;
            reply.is_ok_and(|reply| reply.status == 200).then_some(())
        })
        .await;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients =
            (0..CLIENTS).map(|_| tokio::spawn(run(haproxy.port, Arc::clone(&stop), Arc::clone(&answered)))).collect();
        let load = Load { agents, stop, answered, clients, since: Instant::now(), _app: app, haproxy };
        load.both_up().await;
        load
    }

    /// Waits until HAProxy sees both agents up, as whoever restarts one after the other does; and a moment longer.
    async fn both_up(&self) {
        eventually("both agents are up", async || {
            let up = self.haproxy.servers("tollgate-agents").await;
            (up.len() == 2 && up.iter().all(|status| status.starts_with("UP"))).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    async fn stop(self) -> Outcome {
        let (offered, answered) =
            (RATE as f64 * self.since.elapsed().as_secs_f64(), self.answered.load(Ordering::Relaxed));
        self.stop.store(true, Ordering::Relaxed);
        let mut lost = Vec::new();
        for client in self.clients {
            lost.extend(client.await.unwrap());
        }
        let log = self.haproxy.program.log();
        let logged = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let errors = logged.filter(|line| line["status"] == 503).map(|line| line["spoe_error"].to_string()).collect();
        // Each client waits for its answer before it asks again: where answers take too long, less is asked than the test
        // says, and what a restart costs would be measured without a load. Half is what a busy machine may keep back.
        assert!(answered as f64 >= offered / 2.0, "{answered} answered of {offered:.0} that were to be asked");
        Outcome { answered: self.answered.load(Ordering::Relaxed), lost, errors }
    }
}

/// One client: asks at its share of the rate over one connection, which a refusal does not close.
async fn run(port: u16, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Vec<Lost> {
    let mut lost = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / (RATE / CLIENTS) as u32);
    let mut client = web::Client::connect(port).await;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let asked = Instant::now();
        let lose = |what| Lost { at: Instant::now(), took: asked.elapsed(), what };
        match client.get(PATH, &[]).await {
            Ok(reply) if reply.status == 200 => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => lost.push(lose(format!("{} {}", reply.status, reply.body))),
            Err(what) => {
                lost.push(lose(what));
                client = web::Client::connect(port).await;
            }
        }
    }
    lost
}
