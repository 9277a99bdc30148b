//! The parts of a deployment: application, provider, Redis, agent, HAProxy.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Program, client, eventually, folder, free_port, listening, root};

/// The audience that the test provider's tokens are for.
pub const AUDIENCE: &str = "https://api.acme.example";

/// One FastAPI worker without a line of auth code (tests/support/app).
pub struct App {
    pub port: u16,
    pub program: Program,
    _folder: TempDir,
}

impl App {
    pub async fn start() -> App {
        App::start_on(free_port()).await
    }

    pub async fn start_on(port: u16) -> App {
        App::start_module("app:app", port).await
    }

    /// Another application of tests/support/app.
    pub async fn start_module(module: &str, port: u16) -> App {
        let folder = folder();
        let python = root().join(".venv/bin/python");
        let port_text = port.to_string();
        let command = [
            python.to_str().unwrap(),
            "-m",
            "uvicorn",
            module,
            "--app-dir",
            "tests/support/app",
            "--host",
            "127.0.0.1",
            "--port",
            &port_text,
            "--log-level",
            "warning",
        ];
        let log = folder.path().join("app.log");
        let mut program = Program::start("the application", &command, &[], &log);
        listening(port, &mut program).await;
        App { port, program, _folder: folder }
    }

    /// How many requests reached the application, its health checks aside.
    pub async fn count(&self) -> u64 {
        let url = format!("http://127.0.0.1:{}/_count", self.port);
        let counted: Value =
            serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap();
        counted.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
    }
}

/// The certified `oidc-provider` (tests/support/idp).
pub struct Idp {
    pub issuer: String,
    _program: Program,
}

impl Idp {
    pub async fn start() -> Idp {
        Idp::start_on(0).await
    }

    pub async fn start_on(port: u16) -> Idp {
        // The shared one lives as long as the process and is never dropped, and so would a folder of its own be.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("idp-{number}.log"));
        let server = root().join("tests/support/idp/server.mjs");
        let port = port.to_string();
        let command = ["node", server.to_str().unwrap(), "--port", &port];
        // It ends when its standard input does.
        let mut program = Program::start_until_stdin_closes("the provider", &command, &log);
        let issuer = eventually("the provider says its issuer", || {
            assert!(!program.has_ended(), "the provider ended:\n{}", program.log());
            let said = program.log();
            let line = said.lines().find(|line| line.starts_with("{\"issuer\"")).map(str::to_owned);
            std::future::ready(line.map(|line| {
                let said: Value = serde_json::from_str(&line).unwrap();
                said["issuer"].as_str().unwrap().to_owned()
            }))
        })
        .await;
        Idp { issuer, _program: program }
    }

    /// An access token; see server.mjs for what may be asked.
    pub async fn mint(&self, wanted: Value) -> String {
        let response = client()
            .post(format!("{}/test/mint", self.issuer))
            .header("content-type", "application/json")
            .body(wanted.to_string())
            .send()
            .await
            .unwrap();
        assert!(response.status().is_success(), "mint: {}", response.text().await.unwrap());
        response.text().await.unwrap()
    }

    /// Withdraws an opaque access token (RFC 7009), as the client that it was issued to.
    pub async fn revoke(&self, token: &str) {
        let request = client().post(format!("{}/token/revocation", self.issuer)).basic_auth("web", Some("web-secret"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let response = request.body(format!("token={token}")).send().await.unwrap();
        assert!(response.status().is_success(), "revoke: {}", response.text().await.unwrap());
    }

    /// Replaces the signing keys; the old ones are gone from the key set.
    pub async fn rotate(&self) {
        let request = client().post(format!("{}/test/rotate", self.issuer)).header("content-type", "application/json");
        assert!(request.body(json!({ "keep": false }).to_string()).send().await.unwrap().status().is_success());
    }

    /// The published key set.
    pub async fn jwks(&self) -> Value {
        let discovery = format!("{}/.well-known/openid-configuration", self.issuer);
        let read = async |url: String| -> Value {
            serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap()
        };
        let document = read(discovery).await;
        read(document["jwks_uri"].as_str().unwrap().to_owned()).await
    }
}

/// A Redis of the test's own, without persistence.
pub struct Redis {
    pub port: u16,
    pub program: Program,
    _folder: TempDir,
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::start_on(free_port()).await
    }

    pub async fn start_on(port: u16) -> Redis {
        Redis::start_on_with(port, &[]).await
    }

    /// With more of its arguments.
    pub async fn start_with(more: &[&str]) -> Redis {
        Redis::start_on_with(free_port(), more).await
    }

    pub async fn start_on_with(port: u16, more: &[&str]) -> Redis {
        Redis::start_under(&[], port, more).await
    }

    /// The same, run by another program: `env`, say.
    pub async fn start_under(runner: &[&str], port: u16, more: &[&str]) -> Redis {
        let folder = folder();
        let log = folder.path().join("redis.log");
        let port_text = port.to_string();
        let server = ["redis-server", "--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let command: Vec<_> = runner.iter().chain(&server).chain(more).copied().collect();
        let mut program = Program::start("redis-server", &command, &[], &log);
        listening(port, &mut program).await;
        Redis { port, program, _folder: folder }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it answers to a command, by redis-cli.
    pub async fn ask(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let mut cli = tokio::process::Command::new("redis-cli");
        let asked = cli.args(["-p", &port]).args(command).kill_on_drop(true).output().await;
        String::from_utf8_lossy(&asked.expect("redis-cli comes with redis-server's package").stdout).trim().to_owned()
    }

    /// How often it ran a command since it started; 0 for one that it never ran.
    pub async fn calls(&self, command: &str) -> u64 {
        let stats = self.ask(&["INFO", "commandstats"]).await;
        let line = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|found| found.strip_prefix(&line)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// A number of its statistics, by its name in INFO.
    pub async fn figure(&self, name: &str) -> u64 {
        let info = self.ask(&["INFO"]).await;
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("{name} is not in INFO:\n{info}")).trim().parse().unwrap()
    }
}

/// One agent, by the binary of this build.
pub struct Agent {
    pub spop: String,
    pub admin_port: u16,
    pub config: PathBuf,
    pub program: Program,
    _folder: TempDir,
}

impl Agent {
    /// Runs `config`, which needs neither `spop.listen` nor `admin`: flags give both.
    pub async fn start(config: &str) -> Agent {
        Agent::start_on(config, &format!("127.0.0.1:{}", free_port())).await
    }

    /// The same on a given SPOP address: `127.0.0.1:9001` or `unix@/path`, as HAProxy writes it.
    pub async fn start_on(config: &str, spop: &str) -> Agent {
        Agent::start_under(&[], config, spop).await
    }

    /// The same, run by another program: `prlimit`, a shell.
    pub async fn start_under(runner: &[&str], config: &str, spop: &str) -> Agent {
        Agent::start_logging("json", runner, config, spop).await
    }

    /// The same with log lines of that format.
    pub async fn start_logging(format: &str, runner: &[&str], config: &str, spop: &str) -> Agent {
        let folder = folder();
        let path = folder.path().join("tollgate.yaml");
        std::fs::write(&path, config).unwrap();
        let admin_port = free_port();
        let listen = match spop.strip_prefix("unix@") {
            Some(path) => format!("unix:{path}"),
            None => format!("tcp:{spop}"),
        };
        let admin = format!("tcp:127.0.0.1:{admin_port}");
        let agent = [
            env!("CARGO_BIN_EXE_tollgate"),
            "run",
            "--config",
            path.to_str().unwrap(),
            "--spop-listen",
            &listen,
            "--admin-listen",
            &admin,
            "--log-format",
            format,
        ];
        let command: Vec<_> = runner.iter().chain(&agent).copied().collect();
        let log = folder.path().join("agent.log");
        let mut program = Program::start("tollgate", &command, &[], &log);
        listening(admin_port, &mut program).await;
        Agent { spop: spop.to_owned(), admin_port, config: path, program, _folder: folder }
    }

    /// Gets a page of the admin side.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let response = client().get(format!("http://127.0.0.1:{}{path}", self.admin_port)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until every part is ready.
    pub async fn ready(&self) {
        eventually("the agent is ready", || async { (self.admin("/readyz").await.0 == 200).then_some(()) }).await;
    }

    /// The value of a metric without labels, or of the one with these labels as written.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.admin("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The JSON lines of the decision log so far.
    pub fn decisions(&self) -> Vec<Value> {
        let log = self.program.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "tollgate::decision").collect()
    }
}

/// HAProxy with the files of `haproxy/` as they ship.
pub struct Haproxy {
    pub port: u16,
    stats_port: u16,
    pub program: Program,
    _folder: TempDir,
}

impl Haproxy {
    /// `apps` are three ports; fewer are repeated.
    pub async fn start(agents: &[&Agent], apps: &[u16]) -> Haproxy {
        let addresses: Vec<_> = agents.iter().map(|agent| agent.spop.as_str()).collect();
        Haproxy::start_with(&addresses, apps).await
    }

    pub async fn start_with(agents: &[&str], apps: &[u16]) -> Haproxy {
        Haproxy::start_program("haproxy", agents, apps).await
    }

    /// The same with a given HAProxy.
    pub async fn start_program(haproxy: &str, agents: &[&str], apps: &[u16]) -> Haproxy {
        Haproxy::start_with_env(haproxy, agents, apps, &[]).await
    }

    /// The same with more in its environment.
    pub async fn start_with_env(haproxy: &str, agents: &[&str], apps: &[u16], more: &[(&str, &str)]) -> Haproxy {
        Haproxy::start_file(&root().join("haproxy/haproxy.cfg"), haproxy, agents, apps, more).await
    }

    /// The same with another file that `tollgate haproxy` wrote. Without `agents` it asks where that says.
    pub async fn start_file(
        file: &Path,
        haproxy: &str,
        agents: &[&str],
        apps: &[u16],
        more: &[(&str, &str)],
    ) -> Haproxy {
        let folder = folder();
        let log = folder.path().join("haproxy.log");
        let port = free_port();
        let bind = format!("127.0.0.1:{port}");
        let stats_port = free_port();
        let stats = format!("127.0.0.1:{stats_port}");
        let app = |index: usize| format!("127.0.0.1:{}", apps[index % apps.len()]);
        let apps = [app(0), app(1), app(2)];
        let mut env = vec![
            ("TOLLGATE_BIND", bind.as_str()),
            ("TOLLGATE_STATS", &stats),
            ("TOLLGATE_APP_1", &apps[0]),
            ("TOLLGATE_APP_2", &apps[1]),
            ("TOLLGATE_APP_3", &apps[2]),
        ];
        env.extend(more);
        env.extend(["TOLLGATE_AGENT_1", "TOLLGATE_AGENT_2"].into_iter().zip(agents.iter().copied()));
        let command = [haproxy, "-db", "-f", file.to_str().unwrap()];
        let mut program = Program::start("haproxy", &command, &env, &log);
        listening(port, &mut program).await;
        Haproxy { port, stats_port, program, _folder: folder }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What its statistics say of each server of a backend: `UP`, `DOWN`, `UP 1/2`.
    pub async fn servers(&self, backend: &str) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}/;csv", self.stats_port);
        let csv = client().get(url).send().await.unwrap().text().await.unwrap();
        // Proxy, server, and the status as the eighteenth column.
        let rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        rows.filter(|row| row[0] == backend && row[1] != "BACKEND").map(|row| row[17].to_owned()).collect()
    }

    /// Waits until an agent answers through it: health checks take a moment to see it up.
    pub async fn answering(&self) {
        eventually("an agent answers through HAProxy", || async {
            let response = client().get(self.url("/healthz")).send().await.ok()?;
            (response.status() == 200).then_some(())
        })
        .await;
    }

    /// One GET with these header fields.
    pub async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = client().get(self.url(path));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// One GET as the bearer of `token`.
    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.get(path, &[("authorization", &format!("Bearer {token}"))]).await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    async fn of(response: reqwest::Response) -> Answer {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    /// A header field of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The reason in the problem body.
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// All values of a header field that the application saw.
    pub fn seen(&self, name: &str) -> Vec<&str> {
        let pairs =
            self.body["headers"].as_array().unwrap_or_else(|| panic!("the application did not answer: {self:?}"));
        pairs
            .iter()
            .filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name))
            .map(|pair| pair[1].as_str().unwrap())
            .collect()
    }
}

/// A provider, an agent, HAProxy and one application worker, ready to be asked.
pub struct Stack {
    pub haproxy: Haproxy,
    pub agent: Agent,
    pub app: App,
}

impl Stack {
    /// `config` as [`Agent::start`] wants it. Waits until all parts are ready.
    pub async fn start(config: &str) -> Stack {
        let (agent, app) = tokio::join!(Agent::start(config), App::start());
        let haproxy = Haproxy::start(&[&agent], &[app.port]).await;
        agent.ready().await;
        haproxy.answering().await;
        Stack { haproxy, agent, app }
    }
}

/// One provider for all tests that only read from it: it takes seconds to start.
pub async fn shared_idp() -> &'static Idp {
    static IDP: tokio::sync::OnceCell<Idp> = tokio::sync::OnceCell::const_new();
    IDP.get_or_init(Idp::start).await
}

/// A config for `issuer`: groups `ops` and `paid`, and the rules that most tests ask. `more` is appended at the top
/// level.
pub fn config(issuer: &str, more: &str) -> String {
    format!(
        r#"
issuers:
  acme:
    issuer: {issuer}
    insecure: true
    audiences: [{AUDIENCE}]
    claims: {{ user: preferred_username }}
groups:
  ops: ["acme:platform-ops"]
  paid: ["acme:plan-pro"]
admin:
  listen: tcp:127.0.0.1:9003
limits:
  three:
    key: [user]
    rate: 3/1h
rules:
  - {{ name: health, path: /healthz, allow: anyone }}
  - {{ name: public, path: /public/**, allow: anyone }}
  - {{ name: admin, path: /admin/**, allow: {{ groups: [ops] }} }}
  - {{ name: limited, path: /limited/**, allow: authenticated, limits: [three] }}
  - {{ name: api, path: /v1/**, methods: [GET, POST], allow: authenticated, backend: {{ paid: fast, else: std }} }}
{more}"#
    )
}
