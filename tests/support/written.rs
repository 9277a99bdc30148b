//! HAProxy with a configuration that a test writes.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Program, folder, free_port, listening};

/// What varies. Everything else is small and fixed: one frontend `front`, one engine `written` with the variable prefix
/// `tollgate`, and one backend `agents` with one agent.
#[derive(Clone, Default)]
pub struct Settings {
    /// Lines of `global`.
    pub global: String,
    /// Lines of the `spoe-agent` section: groups or messages, options.
    pub agent: String,
    /// The `spoe-message` and `spoe-group` sections.
    pub messages: String,
    /// Rules of the frontend.
    pub front: String,
    /// The agent's `server` line, its name and address aside: `check`, for example.
    pub server: String,
    /// Whole sections more.
    pub more: String,
}

/// A running HAProxy.
pub struct Written {
    pub port: u16,
    pub program: Program,
    stats: PathBuf,
    folder: TempDir,
    haproxy: String,
    runs: u32,
}

impl Written {
    /// `haproxy` asks the agent on `agent_port`.
    pub async fn start(haproxy: &str, agent_port: u16, settings: &Settings) -> Written {
        let folder = folder();
        let port = free_port();
        let spoe = folder.path().join("spoe.conf");
        let Settings { global, agent, messages, front, server, more } = settings;
        let spoe_conf = format!(
            "[written]\nspoe-agent written\n option var-prefix tollgate\n option set-on-error error\n \
             timeout hello 500ms\n timeout idle 1m\n timeout processing 500ms\n use-backend agents\n{agent}\n\n{messages}\n"
        );
        std::fs::write(&spoe, spoe_conf).unwrap();
        let cfg = format!(
            "global\n stats socket \"${{STATS}}\" level admin expose-fd listeners\n stats timeout 10s\n{global}\n\
             defaults\n mode http\n timeout connect 1s\n timeout client 20s\n timeout server 20s\n timeout queue 1s\n\
             frontend front\n bind 127.0.0.1:{port}\n filter spoe engine written config {spoe}\n{front}\n\
             backend agents\n mode tcp\n option spop-check\n timeout server 2m\n timeout check 1s\n \
             server a 127.0.0.1:{agent_port} {server}\n{more}\n",
            spoe = spoe.display()
        );
        std::fs::write(folder.path().join("haproxy.cfg"), cfg).unwrap();
        let haproxy = haproxy.to_owned();
        let (program, stats) = Written::run(&haproxy, &folder, 0, &[]);
        let mut written = Written { port, program, stats, folder, haproxy, runs: 1 };
        listening(port, &mut written.program).await;
        written
    }

    /// Starts a second process on the same configuration, which takes the sockets over and tells the first to finish, as a
    /// reload does; gives the first.
    pub async fn reload(&mut self) -> Program {
        let old = self.program.pid().to_string();
        let socket = self.stats.to_str().unwrap().to_owned();
        let (program, stats) = Written::run(&self.haproxy, &self.folder, self.runs, &["-x", &socket, "-sf", &old]);
        self.runs += 1;
        self.stats = stats;
        let old = std::mem::replace(&mut self.program, program);
        super::eventually("the new process answers", || async { self.agent_state().await.map(|_| ()) }).await;
        old
    }

    fn run(haproxy: &str, folder: &TempDir, run: u32, more: &[&str]) -> (Program, PathBuf) {
        // A socket path has room for 107 bytes.
        let stats = folder.path().join(format!("s{run}"));
        let (cfg, log) = (folder.path().join("haproxy.cfg"), folder.path().join(format!("haproxy-{run}.log")));
        let command: Vec<_> = [haproxy, "-db", "-f", cfg.to_str().unwrap()].iter().chain(more).copied().collect();
        let program = Program::start("haproxy", &command, &[("STATS", stats.to_str().unwrap())], &log);
        (program, stats)
    }

    /// What its statistics say of the agent: `UP L7OK`; `None` while nobody answers.
    pub async fn agent_state(&self) -> Option<String> {
        let csv = self.try_command("show stat").await.ok()?;
        let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let head = rows.next()?;
        let column = |name| head.iter().position(|column| *column == name);
        let (status, check) = (column("status")?, column("check_status")?);
        let row = rows.find(|row| row[0] == "agents" && row.get(1) == Some(&"a"))?;
        Some(format!("{} {}", row[status], row[check]))
    }

    /// What it answers to a command of its runtime API.
    pub async fn command(&self, command: &str) -> String {
        self.try_command(command).await.unwrap()
    }

    async fn try_command(&self, command: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(&self.stats).await?;
        socket.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
