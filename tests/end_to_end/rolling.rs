//! Two agents behind each HAProxy line, under a steady load: one after the other is restarted, or dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::each_line;
use crate::support::eventually;
use crate::support::stack::{Agent, Haproxy};

each_line! { rolling_restarts_lose_nothing, a_killed_agent_costs_little_and_not_for_long }

/// Requests a second, over this many connections.
const RATE: u64 = 2000;
const CLIENTS: u64 = 20;

const CONFIG: &str = "
admin: { listen: tcp:127.0.0.1:9003 }
rules:
  - { name: public, path: /public/**, allow: anyone }
";

async fn rolling_restarts_lose_nothing(line: &str, program: &str) {
    let _alone = ALONE.lock().await;
    let mut load = Load::start(program).await;
    for restart in 0..20 {
        let agent = &mut load.agents[restart % 2];
        agent.program.signal("TERM");
        assert_eq!(agent.program.wait(Duration::from_secs(10)), Some(0), "a drain ends well");
        *agent = Agent::start_on(CONFIG, &agent.spop).await;
        load.both_up().await;
    }
    let (answered, lost) = load.stop().await;
    println!("HAProxy {line}: {answered} answered, {} lost in 20 restarts", lost.len());
    assert!(lost.is_empty(), "{} of {answered} lost, first {:?}", lost.len(), lost.first());
}

async fn a_killed_agent_costs_little_and_not_for_long(line: &str, program: &str) {
    let _alone = ALONE.lock().await;
    let mut load = Load::start(program).await;
    let mut changes = Vec::new();
    for kill in 0..4 {
        let agent = &mut load.agents[kill % 2];
        agent.program.kill();
        changes.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(1500)).await;
        changes.push(Instant::now());
        *agent = Agent::start_on(CONFIG, &agent.spop).await;
        load.both_up().await;
    }
    let (answered, lost) = load.stop().await;
    println!("HAProxy {line}: {answered} answered, {} lost in 4 kills", lost.len());
    // What was in flight is asked again; at worst each client loses one.
    assert!(lost.len() as u64 <= 4 * CLIENTS, "{} of {answered} lost", lost.len());
    for lost in &lost {
        let after = changes.iter().filter_map(|change| lost.at.checked_duration_since(*change)).min().unwrap();
        assert!(after < Duration::from_secs(1), "{lost:?} {after:?} after an agent died or came back");
    }
}

/// Each test wants the machine for itself.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Load {
    agents: [Agent; 2],
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Lost>>>,
    app: JoinHandle<()>,
    haproxy: Haproxy,
}

/// A request that was not served.
#[derive(Debug)]
#[expect(dead_code, reason = "shown where a test fails")]
struct Lost {
    at: Instant,
    what: String,
}

impl Load {
    async fn start(program: &str) -> Load {
        let agents = [Agent::start(CONFIG).await, Agent::start(CONFIG).await];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app_port = listener.local_addr().unwrap().port();
        let app = tokio::spawn(serve(listener));
        let addresses = [agents[0].spop.as_str(), &agents[1].spop];
        let haproxy = Haproxy::start_program(program, &addresses, &[app_port]).await;
        eventually("requests are served", async || {
            let mut client = BufReader::new(TcpStream::connect(("127.0.0.1", haproxy.port)).await.unwrap());
            ask(&mut client).await.is_ok().then_some(())
        })
        .await;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients =
            (0..CLIENTS).map(|_| tokio::spawn(run(haproxy.port, Arc::clone(&stop), Arc::clone(&answered)))).collect();
        let load = Load { agents, stop, answered, clients, app, haproxy };
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

    async fn stop(self) -> (u64, Vec<Lost>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut lost = Vec::new();
        for client in self.clients {
            lost.extend(client.await.unwrap());
        }
        self.app.abort();
        (self.answered.load(Ordering::Relaxed), lost)
    }
}

/// One client: asks at its share of the rate over one connection, which a refusal does not close.
async fn run(port: u16, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Vec<Lost> {
    let mut lost = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / (RATE / CLIENTS) as u32);
    let mut client = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let at = Instant::now();
        match tokio::time::timeout(Duration::from_secs(5), ask(&mut client)).await {
            Ok(Ok(())) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            failed => {
                let what = failed.map_or_else(|_| "no answer within 5 s".to_owned(), |asked| asked.unwrap_err());
                lost.push(Lost { at, what });
                client = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
            }
        }
    }
    lost
}

async fn ask(client: &mut BufReader<TcpStream>) -> Result<(), String> {
    let wrong = |error: std::io::Error| error.to_string();
    client.write_all(b"GET /public/x HTTP/1.1\r\nHost: app\r\n\r\n").await.map_err(wrong)?;
    let (mut status, mut length) = (String::new(), 0);
    client.read_line(&mut status).await.map_err(wrong)?;
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await.map_err(wrong)? == 0 {
            return Err(format!("cut: {status}"));
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).await.map_err(wrong)?;
    if status.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(format!("{status} {}", String::from_utf8_lossy(&body)))
    }
}

/// An application: 200 to everything.
async fn serve(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let ends = line == "\r\n";
                line.clear();
                if ends && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n").await.is_err() {
                    return;
                }
            }
        });
    }
}
