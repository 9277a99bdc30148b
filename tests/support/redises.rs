//! Redises in every arrangement that there is: alone, with replicas and sentinels, as a Cluster, behind TLS; and Valkey.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Program, eventually, folder, free_port, listening};

/// One server.
pub struct Server {
    pub port: u16,
    pub program: Program,
    command: Vec<String>,
    log: PathBuf,
    /// What else `redis-cli` needs to be let in.
    cli: Vec<String>,
    _folder: TempDir,
}

impl Server {
    /// A redis-server with more of its arguments.
    pub async fn start(more: &[&str]) -> Server {
        Server::start_program("redis-server", &["--port"], more, &[]).await
    }

    /// A Valkey, by the program that tests/support/valkey.sh has fetched.
    pub async fn start_valkey(more: &[&str]) -> Server {
        Server::start_program(&valkey(), &["--port"], more, &[]).await
    }

    /// One that speaks TLS only, with the files of `files`, and wants a certificate of clients where `mutual`.
    pub async fn start_tls(files: &Files, mutual: bool) -> Server {
        let [cert, key, ca] = [&files.cert, &files.key, &files.ca].map(|path| path.to_str().unwrap());
        let mutual = if mutual { "yes" } else { "no" };
        let more =
            ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", mutual];
        let cli = ["--tls", "--cacert", ca, "--cert", cert, "--key", key];
        Server::start_program("redis-server", &["--port", "0", "--tls-port"], &more, &cli).await
    }

    async fn start_program(program: &str, port_flag: &[&str], more: &[&str], cli: &[&str]) -> Server {
        let folder = folder();
        let port = free_port();
        let port_text = port.to_string();
        let mut command = vec![program];
        command.extend(port_flag);
        command.push(&port_text);
        command.extend(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
        command.extend(["--dir", folder.path().to_str().unwrap()]);
        command.extend(more);
        let log = folder.path().join("server.log");
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        let cli = cli.iter().map(|word| (*word).to_owned()).collect();
        let program = begin(&command, &log);
        let mut server = Server { port, program, command, log, cli, _folder: folder };
        listening(port, &mut server.program).await;
        server
    }

    pub fn kill(&mut self) {
        self.program.kill();
    }

    pub async fn start_again(&mut self) {
        self.program = begin(&self.command, &self.log);
        listening(self.port, &mut self.program).await;
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it says to a command.
    pub fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(&self.cli)
            .args(command)
            .output()
            .expect("redis-cli comes with redis-server's package");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The value of a line of `INFO`, or of `CLUSTER INFO`.
    pub fn info(&self, command: &[&str], name: &str) -> String {
        let text = self.ask(command);
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().to_owned()
    }
}

fn begin(command: &[String], log: &Path) -> Program {
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    Program::start(command[0], &command, &[], log)
}

fn valkey() -> String {
    let place = super::root().join(".valkey/valkey-server");
    assert!(place.exists(), "there is no {}: `scripts/install.sh test` fetches it", place.display());
    place.to_str().unwrap().to_owned()
}

/// What a server with TLS reads.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    _folder: TempDir,
}

impl Files {
    /// `pem` is a certificate and its key, `ca` whoever signs clients' certificates.
    pub fn new(pem: &str, ca: &str) -> Files {
        let folder = folder();
        let [cert, key, ca_file] = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.path().join(name));
        let begin = pem.find("-----BEGIN PRIVATE").unwrap();
        std::fs::write(&cert, &pem[..begin]).unwrap();
        std::fs::write(&key, &pem[begin..]).unwrap();
        std::fs::write(&ca_file, ca).unwrap();
        Files { cert, key, ca: ca_file, _folder: folder }
    }
}

/// A primary, a replica, and three sentinels who watch them.
pub struct Watched {
    pub servers: Vec<Server>,
    pub sentinels: Vec<Server>,
}

impl Watched {
    /// Sentinels who call a primary down after 500 ms of silence.
    pub async fn start() -> Watched {
        let primary = Server::start(&[]).await;
        let port = primary.port.to_string();
        let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
        eventually("the replica has the primary's data", || async {
            (replica.info(&["INFO", "replication"], "master_link_status") == "up").then_some(())
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(primary.port).await);
        }
        let watched = Watched { servers: vec![primary, replica], sentinels };
        eventually("the sentinels know each other and the replica", || async {
            let knows = |sentinel: &Server| {
                let text = sentinel.ask(&["SENTINEL", "MASTER", "main"]);
                let value = |name| text.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                value("num-other-sentinels").as_deref() == Some("2") && value("num-slaves").as_deref() == Some("1")
            };
            watched.sentinels.iter().all(knows).then_some(())
        })
        .await;
        watched
    }

    pub fn url(&self) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/main", sentinels.join(","))
    }

    /// Who is the primary, in the words of most sentinels.
    pub fn primary(&self) -> Option<u16> {
        let named = |sentinel: &Server| -> Option<u16> {
            let answer = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
            answer.lines().nth(1)?.parse().ok()
        };
        let mut named: Vec<_> = self.sentinels.iter().filter_map(named).collect();
        named.sort_unstable();
        named.get(1).copied()
    }
}

async fn sentinel(primary: u16) -> Server {
    let folder = folder();
    let port = free_port();
    // It writes what it learns into its config.
    let config = folder.path().join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
        folder.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let command: Vec<_> =
        ["redis-server", config.to_str().unwrap(), "--sentinel"].iter().map(|word| (*word).to_owned()).collect();
    let log = folder.path().join("sentinel.log");
    let program = begin(&command, &log);
    let mut sentinel = Server { port, program, command, log, cli: Vec::new(), _folder: folder };
    listening(port, &mut sentinel.program).await;
    sentinel
}

/// Three primaries on loopback, each with a third of the slots, and as many replicas as are wanted.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    pub async fn start(with_replicas: bool) -> Cluster {
        let count = if with_replicas { 6 } else { 3 };
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(node().await);
        }
        let thirds = [(0, 5460), (5461, 10922), (10923, 16383)];
        for (server, (first, last)) in servers.iter().zip(thirds) {
            assert_eq!(server.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]), "OK");
        }
        let cluster = Cluster { servers };
        for (index, server) in cluster.servers.iter().enumerate() {
            server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for server in &cluster.servers[1..] {
            cluster.meet(server).await;
        }
        if with_replicas {
            for index in 0..3 {
                let primary = cluster.id(index);
                let replica = &cluster.servers[index + 3];
                eventually("the replica knows its primary", || async {
                    (replica.ask(&["CLUSTER", "REPLICATE", &primary]) == "OK").then_some(())
                })
                .await;
            }
            for replica in &cluster.servers[3..] {
                eventually("the replica has its primary's data", || async {
                    (replica.info(&["INFO", "replication"], "master_link_status") == "up").then_some(())
                })
                .await;
            }
        }
        cluster.agreed(0..count).await;
        cluster
    }

    /// Adds a node without slots.
    pub async fn grow(&mut self) -> usize {
        let server = node().await;
        server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(self.servers.len() + 1).to_string()]);
        self.meet(&server).await;
        self.servers.push(server);
        self.agreed(0..self.servers.len()).await;
        self.servers.len() - 1
    }

    async fn meet(&self, server: &Server) {
        let bus = server.ask(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.lines().nth(1).unwrap();
        let met = self.servers[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &server.port.to_string(), bus]);
        assert_eq!(met, "OK");
    }

    /// Waits until these servers say that the Cluster is well, and know as many nodes as there are.
    pub async fn agreed(&self, servers: std::ops::Range<usize>) {
        let count = self.servers.len().to_string();
        eventually("the servers of the Cluster know each other", || async {
            let is_well = |server: &Server| {
                server.info(&["CLUSTER", "INFO"], "cluster_state") == "ok"
                    && server.info(&["CLUSTER", "INFO"], "cluster_known_nodes") == count
            };
            self.servers[servers.clone()].iter().all(is_well).then_some(())
        })
        .await;
    }

    pub fn id(&self, index: usize) -> String {
        self.servers[index].ask(&["CLUSTER", "MYID"])
    }

    /// As `counters.redis` takes it.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(|server| format!("\"{}\"", server.url())).collect();
        format!("[{}]", urls.join(", "))
    }

    /// Moves a slot with all its keys from one server to the other, as `redis-cli --cluster reshard` does, but stays in
    /// the middle for as long as `meanwhile` takes.
    pub async fn move_slot<F: Future<Output = ()>>(&self, slot: u16, from: usize, to: usize, meanwhile: F) {
        let (slot, port) = (slot.to_string(), self.servers[to].port.to_string());
        let (from_id, to_id) = (self.id(from), self.id(to));
        assert_eq!(self.servers[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]), "OK");
        assert_eq!(self.servers[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]), "OK");
        meanwhile.await;
        loop {
            let keys = self.servers[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "1000", "KEYS"];
            command.extend(keys.lines());
            self.servers[from].ask(&command);
        }
        for index in [to, from] {
            self.servers[index].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }
}

async fn node() -> Server {
    let bus = free_port().to_string();
    Server::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus]).await
}
