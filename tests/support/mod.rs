//! Real programs on free ports, started by a test and stopped with it.

pub mod dpop;
pub mod generated;
pub mod haproxies;
pub mod redis_relay;
pub mod redises;
pub mod relay;
pub mod scripted;
pub mod slapd;
pub mod spop;
pub mod stack;
pub mod tls;
pub mod web;
pub mod written;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A port of loopback that nobody has, and that no other call gives. None of those that the kernel hands out by itself: an
/// outgoing connection could take one before its program has it, as HAProxy's own would that asks an agent which was killed,
/// and HAProxy's two listeners both bind one that they were given twice.
pub fn free_port() -> u16 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    // Linux begins its own at 32,768 where nobody says otherwise. Another run of these tests begins elsewhere.
    let ours = 10_000..32_000;
    let next = || std::process::id().wrapping_mul(101).wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed));
    let mut drawn = ours.clone().map(|_| (ours.start + next() % (ours.end - ours.start)) as u16);
    drawn.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port is free")
}

/// A running program. It ends with the value, and with the test process, however that dies.
pub struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// Starts `command`; what it prints goes to `log`. It ends with the thread of the test that starts it.
    pub fn start(name: &str, command: &[&str], env: &[(&str, &str)], log: &Path) -> Program {
        // Without unsafe code of ours the kernel is asked by util-linux to end the program when the test's thread ends.
        let bound: Vec<_> = ["setpriv", "--pdeathsig", "KILL", "--"].iter().chain(command).copied().collect();
        Program::spawn(name, &bound, env, log, Stdio::null())
    }

    /// The same for a program that ends by itself when its standard input does, so that several tests may share it.
    pub fn start_until_stdin_closes(name: &str, command: &[&str], log: &Path) -> Program {
        Program::spawn(name, command, &[], log, Stdio::piped())
    }

    fn spawn(name: &str, command: &[&str], env: &[(&str, &str)], log: &Path, stdin: Stdio) -> Program {
        let out = File::create(log).unwrap();
        // Debian keeps haproxy where an ordinary user's PATH does not look.
        let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new(command[0])
            .args(&command[1..])
            .env("PATH", path)
            .envs(env.iter().copied())
            .current_dir(root())
            .stdin(stdin)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}; `scripts/install.sh test` installs it"));
        Program { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name (`TERM`, `HUP`, `STOP`, `CONT`, `KILL`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "cannot signal {}", self.name);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends, at most `for_max`; gives its exit code.
    pub fn wait(&mut self, for_max: Duration) -> Option<i32> {
        let until = Instant::now() + for_max;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "{} does not end:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- last lines of {}:", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// Waits until `done` gives something, at most ten seconds; then fails with `what`.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut done: impl FnMut() -> F) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = done().await {
            return value;
        }
        assert!(Instant::now() < until, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something listens on `port` of loopback; fails early where the program has ended.
pub async fn listening(port: u16, program: &mut Program) {
    let until = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(!program.has_ended(), "{} ended:\n{}", program.name, program.log());
        assert!(Instant::now() < until, "{} does not listen on {port}:\n{}", program.name, program.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps heavy load and what is sensitive to it apart.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// For a test that puts heavy load on the machine: until the value is dropped, no other such test runs, nor one that is
/// [`not_alone`].
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// For a test that heavy load would fail, because HAProxy's timeouts pass: runs beside others of its kind.
pub async fn not_alone() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// A folder of the test's own.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("tollgate-test-").tempdir().unwrap()
}

/// An HTTP client that goes straight to its address, and neither follows nor keeps anything.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}
