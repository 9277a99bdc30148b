//! `record`: neither side can tell that it is there, and what it writes is what was said.

use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tollgate::spop::engine;
use tollgate::spop::frame::FrameType;
use tollgate::spop::recording::{Recording, Side, What};

use super::{Fixture, harness};
use crate::each_line;
use crate::support::{Program, eventually, folder, free_port, root, stack};

/// A relay that is running.
struct Relay {
    program: Program,
    listen: String,
    folder: TempDir,
}

impl Relay {
    async fn start(listen: &str, target: &str, more: &[&str]) -> Relay {
        let folder = folder();
        let out = folder.path().join("recordings");
        let command = [
            &[env!("CARGO_BIN_EXE_spop-harness"), "record", "--listen", listen, "--target", target][..],
            &["--out", out.to_str().unwrap()],
            more,
        ]
        .concat();
        let program = Program::start("the relay", &command, &[], &folder.path().join("relay.log"));
        Relay { program, listen: listen.to_owned(), folder }
    }

    /// On a free port.
    async fn start_on_tcp(target: &str, more: &[&str]) -> Relay {
        let port = free_port();
        let relay = Relay::start(&format!("127.0.0.1:{port}"), target, more).await;
        until_listening(port).await;
        relay
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.listen).await.unwrap()
    }

    /// What it wrote so far, by name.
    fn recordings(&self) -> Vec<Recording> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("recordings")) else { return Vec::new() };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| Recording::parse(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
    }

    /// Waits until it ends by itself.
    fn ended(mut self) -> Vec<Recording> {
        assert_eq!(self.program.wait(Duration::from_secs(10)), Some(0), "{}", self.program.log());
        self.recordings()
    }

    fn stop(self, signal: &str) -> Vec<Recording> {
        self.program.signal(signal);
        self.ended()
    }
}

/// Looked up and not tried, because what is tried is recorded.
async fn until_listening(port: u16) {
    let listens = format!(":{port:04X} 00000000:0000 0A");
    eventually("the relay listens", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        std::future::ready(sockets.contains(&listens).then_some(()))
    })
    .await;
}

/// Bytes without a meaning; the seed is printed where the test fails.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Sends `out` in uneven pieces while it receives, closes its sending half, and gives what came until the other did.
async fn exchange(stream: impl AsyncRead + AsyncWrite, out: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut received = Vec::new();
    let sending = async {
        for piece in out.chunks(4097) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(sending, reader.read_to_end(&mut received));
    read.unwrap();
    received
}

#[tokio::test]
async fn bytes_and_half_closes_pass_unchanged_over_tcp_and_unix_sockets() {
    // Large enough that sockets fill up while the other side is still sending.
    let (asked, answered) = (noise(1, 300_000), noise(2, 700_000));
    for unix in [false, true] {
        let sockets = folder();
        let (front, back) = (sockets.path().join("front"), sockets.path().join("back"));
        let (relay, received) = if unix {
            let agent = UnixListener::bind(&back).unwrap();
            let listen = format!("unix:{}", front.display());
            let relay = Relay::start(&listen, &format!("unix:{}", back.display()), &["--connections", "1"]).await;
            eventually("the relay listens", || std::future::ready(front.exists().then_some(()))).await;
            let haproxy = UnixStream::connect(&front).await.unwrap();
            let agent = agent.accept().await.unwrap().0;
            (relay, tokio::join!(exchange(haproxy, &asked), exchange(agent, &answered)))
        } else {
            let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = agent.local_addr().unwrap().to_string();
            let relay = Relay::start_on_tcp(&target, &["--connections", "1"]).await;
            let haproxy = relay.connect().await;
            let agent = agent.accept().await.unwrap().0;
            (relay, tokio::join!(exchange(haproxy, &asked), exchange(agent, &answered)))
        };
        assert!(received == (answered.clone(), asked.clone()), "the bytes are others");
        let [recording] = &relay.ended()[..] else { panic!("expected one recording") };
        let ends = recording.items.iter().filter(|item| item.what == What::Closed).count();
        assert_eq!(ends, 2);
        // These bytes are no frames, and kept all the same.
        assert!(recording.sent_by(Side::Haproxy) == asked && recording.sent_by(Side::Agent) == answered);
        assert!(!front.exists(), "its socket is left behind");
    }
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_to_the_other() {
    let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = agent.local_addr().unwrap().to_string();
    for side in [Side::Haproxy, Side::Agent] {
        let relay = Relay::start_on_tcp(&target, &["--connections", "1"]).await;
        let haproxy = relay.connect().await;
        let agent = agent.accept().await.unwrap().0;
        let (gone, mut left) = if side == Side::Haproxy { (haproxy, agent) } else { (agent, haproxy) };
        SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        let heard = left.read(&mut [0; 16]).await;
        assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        let [recording] = &relay.ended()[..] else { panic!("expected one recording") };
        let items: Vec<_> = recording.items.iter().map(|item| (item.from, &item.what)).collect();
        assert_eq!(items, [(side, &What::Reset)]);
    }
}

#[tokio::test]
async fn what_is_open_when_the_relay_is_stopped_is_kept_as_far_as_it_came() {
    let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = agent.local_addr().unwrap().to_string();
    let hello = Fixture::named("spec/hello").recording.sent_by(Side::Haproxy);
    for signal in ["INT", "TERM"] {
        let relay = Relay::start_on_tcp(&target, &[]).await;
        let mut haproxy = relay.connect().await;
        let mut agent = agent.accept().await.unwrap().0;
        // A frame, and a part of the next.
        let sent = [&hello[..], &hello[..50]].concat();
        haproxy.write_all(&sent).await.unwrap();
        agent.read_exact(&mut vec![0; sent.len()]).await.unwrap();
        assert!(relay.folder.path().join("recordings").read_dir().unwrap().next().is_none(), "it is not over yet");
        let [recording] = &relay.stop(signal)[..] else { panic!("expected one recording") };
        let items: Vec<_> = recording.items.iter().map(|item| item.what.clone()).collect();
        assert_eq!(items, [What::Sent(hello.clone()), What::Sent(hello[..50].to_vec())]);
        assert_eq!(recording.trailer, ["The relay was stopped here."]);
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_a_reset_and_a_word_in_the_recording() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let relay = Relay::start_on_tcp(&nobody, &["--connections", "1"]).await;
    // The reset may be there before the connection is.
    let heard = match TcpStream::connect(&relay.listen).await {
        Ok(mut haproxy) => haproxy.read(&mut [0; 16]).await,
        Err(error) => Err(error),
    };
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let [recording] = &relay.ended()[..] else { panic!("expected one recording") };
    assert!(recording.items.is_empty() && recording.trailer[0].starts_with("The agent could not be reached: "));
}

#[tokio::test]
async fn no_recording_is_replaced() {
    let target = format!("127.0.0.1:{}", free_port());
    let out = folder();
    let (first, second) = (out.path().join("old-001.txt"), out.path().join("old-002.txt"));
    std::fs::write(&first, "# mine\n").unwrap();
    let port = free_port();
    let log = out.path().join("relay.log");
    let listen = format!("127.0.0.1:{port}");
    let place = out.path().to_str().unwrap();
    let command = [
        env!("CARGO_BIN_EXE_spop-harness"),
        "record",
        "--listen",
        &listen,
        "--target",
        &target,
        "--out",
        place,
        "--name",
        "old",
        "--connections",
        "1",
    ];
    let mut relay = Program::start("the relay", &command, &[], &log);
    until_listening(port).await;
    let _ = TcpStream::connect(&listen).await;
    assert_eq!(relay.wait(Duration::from_secs(10)), Some(0), "{}", relay.log());
    assert_eq!(std::fs::read_to_string(&first).unwrap(), "# mine\n");
    assert!(Recording::parse(&std::fs::read_to_string(&second).unwrap()).is_ok());
}

#[tokio::test]
async fn only_what_can_be_listened_on_and_written_to_is_begun() {
    let out = folder();
    let file = out.path().join("file");
    std::fs::write(&file, "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy_address = busy.local_addr().unwrap().to_string();
    for (listen, place, name) in [
        (busy_address.as_str(), out.path(), "name"),
        (&taken, file.join("below").as_path() as &Path, "name"),
        (&taken, out.path(), "../name"),
    ] {
        let arguments =
            ["record", "--listen", listen, "--target", &taken, "--out", place.to_str().unwrap(), "--name", name];
        assert_eq!(harness(&arguments).await.status.code(), Some(2), "{arguments:?}");
    }
}

each_line! { a_real_haproxy_works_through_the_relay }

async fn a_real_haproxy_works_through_the_relay(line: &str, program: &str) {
    let config = std::fs::read_to_string(root().join("proto-fixtures/tollgate.yaml")).unwrap();
    let agent = stack::Agent::start(&config).await;
    let relay = Relay::start_on_tcp(&agent.spop, &[]).await;
    let nobody = free_port();
    let haproxy = stack::Haproxy::start_program(program, &[&relay.listen], &[nobody]).await;
    // No rule allows it, so it is the agent's answer, and needs no application.
    eventually("the agent denies through the relay", || async {
        (haproxy.get("/private", &[]).await.reason() == "no_rule").then_some(())
    })
    .await;
    eventually("a health check is recorded", || {
        let folder = relay.folder.path().join("recordings");
        let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let found = files.any(|file| std::fs::read_to_string(file).unwrap().contains("healthcheck"));
        std::future::ready(found.then_some(()))
    })
    .await;
    drop(haproxy);
    let mut answered = 0;
    let mut checks = 0;
    for recording in relay.stop("TERM") {
        let (asked, said) = (recording.sent_by(Side::Haproxy), recording.sent_by(Side::Agent));
        let notifies = engine::frames(&asked).filter(|frame| frame.kind == FrameType::Notify).count();
        let acks = engine::frames(&said).filter(|frame| frame.kind == FrameType::Ack).count();
        assert_eq!(notifies, acks, "HAProxy {line}: {}", recording.to_text());
        answered += acks;
        checks += usize::from(asked.windows(11).any(|bytes| bytes == b"healthcheck"));
    }
    assert!(answered > 0 && checks > 0, "HAProxy {line}: {answered} ACKs, {checks} health checks");
}
