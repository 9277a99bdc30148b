//! HAProxy reloads and stops, the agent freezes, and conversations that cannot be: nothing hangs, nothing storms.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::server::Server;
use crate::each_line;
use crate::support::eventually;
use crate::support::relay::{Relay, Seen};
use crate::support::stack::{Agent, Haproxy};
use crate::support::web::{self, ANSWER, Application};
use crate::support::written::{Settings, Written};

each_line! {
    a_reload_and_a_soft_stop_leave_nobody_without_a_verdict,
    a_frozen_agent_costs_its_timeout_and_comes_back,
    a_refused_conversation_is_no_storm,
}

const CONFIG: &str = "
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: public, path: /public/**, allow: anyone }
";

fn settings() -> Settings {
    Settings {
        agent: " groups check\n".to_owned(),
        messages: "spoe-message request\n args method=method path=path\nspoe-group check\n messages request\n".to_owned(),
        front: " http-request send-spoe-group written check\n \
                http-request return status 503 hdr X-Error %[var(txn.tollgate.error)] unless { var(txn.tollgate.verdict) -m str allow }\n \
                http-request return status 200 hdr X-User %[var(txn.tollgate.user)]\n"
            .to_owned(),
        ..Settings::default()
    }
}

/// Clients that each ask on a new connection, one request after the other, half of them slow to decide.
struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    fn start(port: u16) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..8)
            .map(|client| {
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut failed = Vec::new();
                    let mut asked = 0;
                    while !stop.load(Ordering::Relaxed) {
                        asked += 1;
                        let path = format!("/{}/{client}/{asked}", if client % 2 == 0 { "slow" } else { "now" });
                        match web::get(port, &path, &[]).await {
                            Ok(reply) if reply.status == 200 && reply.field("x-user") == Some(path.as_str()) => {}
                            other => failed.push(format!("{path}: {other:?}")),
                        }
                    }
                    failed
                })
            })
            .collect();
        Traffic { stop, clients }
    }

    /// Everything that was not answered well.
    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.clients).await.into_iter().flat_map(Result::unwrap).collect()
    }
}

async fn a_reload_and_a_soft_stop_leave_nobody_without_a_verdict(line: &str, program: &str) {
    // An old process that waits for its `timeout idle` stays a minute (P13).
    const ENDS_WITHIN: Duration = Duration::from_secs(5);
    let server = Server::start().await;
    let mut haproxy = Written::start(program, server.port, &settings()).await;
    let traffic = Traffic::start(haproxy.port);
    let answered = async |least: usize| {
        let mut sum = 0;
        eventually("requests are answered", || {
            sum += server.take_asked().len();
            std::future::ready((sum >= least).then_some(()))
        })
        .await;
    };
    for _ in 0..3 {
        answered(50).await;
        let mut old = haproxy.reload().await;
        let since = Instant::now();
        assert_eq!(old.wait(ENDS_WITHIN), Some(0), "HAProxy {line}, after a reload");
        println!("HAProxy {line}: the old process ended {:?} after the new one answered", since.elapsed());
    }
    answered(50).await;
    let failed = traffic.stop().await;
    assert!(failed.is_empty(), "HAProxy {line}, reloads:\n{}", failed.join("\n"));

    // Whoever connects after a soft stop is refused by the kernel, or cut before it asked anything.
    let traffic = Traffic::start(haproxy.port);
    answered(50).await;
    haproxy.program.signal("USR1");
    let ended = haproxy.program.wait(ENDS_WITHIN);
    assert_eq!(ended, Some(0), "HAProxy {line}, after a soft stop");
    let failed = traffic.stop().await;
    let without_verdict: Vec<_> =
        failed.iter().filter(|failed| !failed.contains("Err(") || failed.contains("no answer within")).collect();
    assert!(without_verdict.is_empty(), "HAProxy {line}, soft stop: {without_verdict:?}");
}

async fn a_frozen_agent_costs_its_timeout_and_comes_back(line: &str, program: &str) {
    let app = Application::start().await;
    let mut agent = Agent::start(CONFIG).await;
    let haproxy = Haproxy::start_program(program, &[&agent.spop], &[app.port]).await;
    agent.ready().await;
    served_by_all_threads(&haproxy, line).await;
    app.take_heads();
    freeze(&agent).await;
    let frozen = Instant::now();
    let mut slowest = Duration::ZERO;
    // Until two checks have failed, after which nobody waits at all, and once more then.
    let mut down = false;
    while !std::mem::replace(&mut down, haproxy.servers("tollgate-agents").await == ["DOWN"]) {
        assert!(frozen.elapsed() < Duration::from_secs(10), "HAProxy {line}: the agent is still up");
        for reply in join_all((0..4).map(|_| web::get(haproxy.port, "/public/x", &[]))).await {
            let reply = reply.unwrap_or_else(|error| panic!("HAProxy {line}: {error}"));
            assert_eq!(reply.status, 503, "HAProxy {line}: {reply:?}");
            slowest = slowest.max(reply.took);
        }
    }
    println!("HAProxy {line}: the slowest refusal took {slowest:?}");
    // `timeout processing` is 250 ms; the rest is for a busy machine.
    assert!(slowest < Duration::from_secs(2), "HAProxy {line}: {slowest:?}");
    assert!(app.take_heads().is_empty(), "HAProxy {line}: a request reached the application");
    agent.program.signal("CONT");
    served_by_all_threads(&haproxy, line).await;

    // The same, but it never comes back: another takes its place.
    freeze(&agent).await;
    for reply in join_all((0..4).map(|_| web::get(haproxy.port, "/public/x", &[]))).await {
        assert_eq!(reply.as_ref().map(|reply| reply.status), Ok(503), "HAProxy {line}: {reply:?}");
    }
    agent.program.kill();
    let _agent = Agent::start_on(CONFIG, &agent.spop).await;
    served_by_all_threads(&haproxy, line).await;
}

/// Stops it, and waits until each of its threads has stopped.
async fn freeze(agent: &Agent) {
    agent.program.signal("STOP");
    eventually("the agent is frozen", async || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.program.pid())).unwrap();
        let states = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default());
        // `123 (a name) T`
        states.into_iter().all(|stat| stat.rsplit(')').next().unwrap().starts_with(" T")).then_some(())
    })
    .await;
}

/// Waits until the agent is up and a request is served; then each of many must be. Up to 3.0 a connection from before
/// serves while the server is down, so that one answer shows little.
async fn served_by_all_threads(haproxy: &Haproxy, line: &str) {
    eventually("the agent is up and serves", async || {
        let up = haproxy.servers("tollgate-agents").await == ["UP"];
        let reply = web::get(haproxy.port, "/public/x", &[]).await;
        (up && reply.is_ok_and(|reply| reply.status == 200)).then_some(())
    })
    .await;
    for _ in 0..20 {
        let reply = web::get(haproxy.port, "/public/x", &[]).await.unwrap();
        assert_eq!(reply.status, 200, "HAProxy {line}: {reply:?}");
    }
}

/// HAProxy 2.6 to 3.0 reconnect at once, a thousand times a second, for as long as a request waits (P8).
async fn a_refused_conversation_is_no_storm(line: &str, program: &str) {
    let server = Server::start().await;
    let says_1_0 = |frame: &mut [u8]| {
        let version = b"supported-versions\x08\x032.0";
        if let Some(at) = frame.windows(version.len()).position(|window| window == version) {
            frame[at + version.len() - 3] = b'1';
        }
    };
    let relay = Relay::start(server.port, says_1_0).await;
    let haproxy = Written::start(program, relay.port, &settings()).await;
    let rate = refused_for_two_seconds(&haproxy, &relay.seen).await;
    println!("HAProxy {line}: a HELLO of 1.0: {rate:.0} connections a second");
    assert!(rate < 30.0, "HAProxy {line}: {rate:.0} connections a second");
    assert!(server.counter("tollgate_protocol_errors_total") > 0, "HAProxy {line}: the HELLO was not refused");
    assert!(server.take_asked().is_empty());

    // The count of arguments is one byte: HAProxy says 44 here, and what follows is no message.
    let mut settings = settings();
    let arguments: Vec<_> = (0..300).map(|n| format!(" args a{n}=int({n})\n")).collect();
    settings.messages = settings.messages.replace("spoe-group", &format!("{}spoe-group", arguments.concat()));
    let server = Server::start().await;
    let relay = Relay::start(server.port, |_| {}).await;
    let haproxy = Written::start(program, relay.port, &settings).await;
    let reply = web::get(haproxy.port, "/now", &[]).await.unwrap();
    assert_eq!((reply.status, reply.field("x-error")), (503, Some("260")), "HAProxy {line}: {reply:?}");
    // Each refused question ends its connection, so there are as many as questions, and no more.
    let before = relay.seen.connections.load(Ordering::Relaxed);
    let replies = join_all((0..20).map(|_| web::get(haproxy.port, "/now", &[]))).await;
    assert!(replies.iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.status == 503)), "{line}: {replies:?}");
    let opened = relay.seen.connections.load(Ordering::Relaxed) - before;
    assert!(opened <= 25, "HAProxy {line}: {opened} connections for 20 questions");
    assert!(server.take_asked().is_empty());
}

/// One client asks for two seconds and is always refused; gives the connections a second.
async fn refused_for_two_seconds(haproxy: &Written, seen: &Seen) -> f64 {
    let (since, before) = (Instant::now(), seen.connections.load(Ordering::Relaxed));
    while since.elapsed() < Duration::from_secs(2) {
        let reply = web::get(haproxy.port, "/now", &[]).await.unwrap();
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.took < ANSWER);
    }
    (seen.connections.load(Ordering::Relaxed) - before) as f64 / since.elapsed().as_secs_f64()
}
