//! Each NOTIFY gets one ACK, whatever the agent is doing meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::eventually;
use crate::support::relay::Relay;
use crate::support::stack::{Agent, Haproxy};
use crate::support::web::{self, Application};

/// `RULE` is another name in each reload; what is decided stays the same.
const CONFIG: &str = "
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: RULE, path: /public/**, allow: anyone }
  - { name: health, path: /healthz, allow: anyone }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_reloads_under_traffic_leave_one_ack_for_each_notify() {
    let app = Application::start().await;
    let agent = Agent::start(&CONFIG.replace("RULE", "first")).await;
    let port = agent.spop.rsplit(':').next().unwrap().parse().unwrap();
    let relay = Relay::start(port, |_| {}).await;
    let haproxy = Haproxy::start_with(&[&format!("127.0.0.1:{}", relay.port)], &[app.port]).await;
    agent.ready().await;
    haproxy.answering().await;

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (stop, port) = (Arc::clone(&stop), haproxy.port);
            tokio::spawn(async move {
                let (mut asked, mut failed) = (0u64, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    asked += 1;
                    let reply = web::get(port, "/public/x", &[]).await;
                    failed.extend((!reply.as_ref().is_ok_and(|reply| reply.status == 200)).then_some(reply));
                }
                (asked, failed)
            })
        })
        .collect();
    for reload in 0..20 {
        let rule = format!("reload-{reload}");
        std::fs::write(&agent.config, CONFIG.replace("RULE", &rule)).unwrap();
        agent.program.signal("HUP");
        eventually("the reload is in force", async || {
            agent.decisions().last().is_some_and(|decision| decision["rule"] == rule.as_str()).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut asked = 0;
    for client in clients {
        let (requests, failed) = client.await.unwrap();
        asked += requests;
        assert!(failed.is_empty(), "{failed:?}");
    }
    let (notifies, acks) = (&relay.seen.notifies, &relay.seen.acks);
    let (notifies, acks) = (notifies.load(Ordering::Relaxed), acks.load(Ordering::Relaxed));
    println!("{asked} requests, {notifies} NOTIFYs, {acks} ACKs");
    assert_eq!(notifies, acks);
    // The requests that waited for the first answer are NOTIFYs too.
    assert!(notifies >= asked && asked > 200, "{asked} requests, {notifies} NOTIFYs");
    let decided = agent.decisions().len() as u64;
    assert_eq!(decided, notifies, "each was decided once");
}
