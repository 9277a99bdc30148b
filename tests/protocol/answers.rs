//! Each NOTIFY gets one ACK, whatever the agent is doing meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use crate::each_line;
use crate::support::eventually;
use crate::support::relay::Relay;
use crate::support::stack::{Agent, Haproxy, Redis};
use crate::support::web::{self, Application};

each_line! { reloads_under_traffic_leave_one_ack_for_each_notify, redis_that_hangs_leaves_one_ack_for_each_notify }

/// `RULE` is another name in each reload; what is decided stays the same.
const CONFIG: &str = "
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: RULE, path: /public/**, allow: anyone }
  - { name: health, path: /healthz, allow: anyone }
";

async fn reloads_under_traffic_leave_one_ack_for_each_notify(line: &str, program: &str) {
    let counted = Counted::start(program, &CONFIG.replace("RULE", "first")).await;
    let agent = &counted.agent;
    let traffic = Traffic::start(counted.haproxy.port, 6);
    for reload in 0..10 {
        let rule = format!("reload-{reload}");
        std::fs::write(&agent.config, CONFIG.replace("RULE", &rule)).unwrap();
        agent.program.signal("HUP");
        eventually("the reload is in force", async || {
            agent.decisions().last().is_some_and(|decision| decision["rule"] == rule.as_str()).then_some(())
        })
        .await;
    }
    let asked = traffic.stop().await;
    assert!(asked > 100, "HAProxy {line}: {asked} requests");
    counted.one_ack_for_each_notify(line, asked);
}

/// Each agent enforces its share of the limit meanwhile, and nobody waits for Redis longer than `counters.timeout`.
async fn redis_that_hangs_leaves_one_ack_for_each_notify(line: &str, program: &str) {
    let redis = Redis::start().await;
    // Below HAProxy's 250 ms, and time enough for a busy machine.
    let config = format!(
        "spop: {{ deadline: 200ms }}\ncounters: {{ redis: \"{}\", timeout: 30ms }}\n\
         limits: {{ each: {{ key: src, rate: 1000000/1h }} }}\n{}",
        redis.url(),
        CONFIG.replace("RULE", "limited").replacen("allow: anyone", "allow: anyone, limits: each", 1)
    );
    let counted = Counted::start(program, &config).await;
    let agent = &counted.agent;
    let traffic = Traffic::start(counted.haproxy.port, 6);
    let decided = async |more: usize| {
        let least = agent.decisions().len() + more;
        eventually("requests are decided", async || (agent.decisions().len() >= least).then_some(())).await;
    };
    decided(50).await;
    redis.program.signal("STOP");
    eventually("the agent sees it", async || (agent.metric("tollgate_store_up").await == 0.0).then_some(())).await;
    decided(50).await;
    redis.program.signal("CONT");
    agent.ready().await;
    decided(50).await;
    let asked = traffic.stop().await;
    counted.one_ack_for_each_notify(line, asked);
    assert_eq!(agent.metric("tollgate_decisions_late_total").await, 0.0, "HAProxy {line}");
}

/// An agent and HAProxy, and a relay between them that counts; HAProxy as it ships.
struct Counted {
    agent: Agent,
    relay: Relay,
    haproxy: Haproxy,
    _app: Application,
}

impl Counted {
    async fn start(program: &str, config: &str) -> Counted {
        let app = Application::start().await;
        let agent = Agent::start(config).await;
        let port = agent.spop.rsplit(':').next().unwrap().parse().unwrap();
        let relay = Relay::start(port, |_| {}).await;
        let haproxy = Haproxy::start_program(program, &[&format!("127.0.0.1:{}", relay.port)], &[app.port]).await;
        agent.ready().await;
        haproxy.answering().await;
        Counted { agent, relay, haproxy, _app: app }
    }

    /// To be called when nothing is asked any more; `asked` requests were served.
    fn one_ack_for_each_notify(&self, line: &str, asked: u64) {
        let (notifies, acks) = (&self.relay.seen.notifies, &self.relay.seen.acks);
        let (notifies, acks) = (notifies.load(Ordering::Relaxed), acks.load(Ordering::Relaxed));
        println!("HAProxy {line}: {asked} requests, {notifies} NOTIFYs, {acks} ACKs");
        assert_eq!(notifies, acks, "HAProxy {line}");
        // The requests that waited for the first answer are NOTIFYs too.
        assert!(notifies >= asked, "HAProxy {line}: {asked} requests, {notifies} NOTIFYs");
        assert_eq!(self.agent.decisions().len() as u64, notifies, "HAProxy {line}: each was decided once");
    }
}

/// Clients that ask one request after the other, each on a new connection, until they are stopped.
struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Traffic {
    fn start(port: u16, clients: usize) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|_| tokio::spawn(ask(port, Arc::clone(&stop)))).collect();
        Traffic { stop, clients }
    }

    /// How many requests there were, each of which was served.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut asked = 0;
        for client in self.clients {
            let (requests, failed) = client.await.unwrap();
            asked += requests;
            assert!(failed.is_empty(), "{failed:?}");
        }
        asked
    }
}

async fn ask(port: u16, stop: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        match web::get(port, "/public/x", &[]).await {
            Ok(reply) if reply.status == 200 => {}
            other => failed.push(format!("{other:?}")),
        }
    }
    (asked, failed)
}
