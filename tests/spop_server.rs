//! The server over real sockets, with decisions that the test makes up.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tollgate::audit::{Audit, PPM, Rotation, Settings, Target};
use tollgate::clock::{Clock, Now};
use tollgate::decision::{Decision, DecisionId, Reason, Summary};
use tollgate::identity::Identity;
use tollgate::pipeline::{Decide, Step};
use tollgate::server;
use tollgate::server::settings::{Listen, SpopSettings};
use tollgate::server::socket::Listener;
use tollgate::spop::frame::{Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::{Messages, Status, disconnect, engine};
use tollgate::telemetry::{Snapshot, Telemetry};

use crate::support::spop::{Peer, request};

/// Decides by the path: `/now`, `/slow` (20 ms), `/never`, `/panic`, `/panic-later`.
struct ByPath;

impl Decide for ByPath {
    fn decide(&self, messages: &Messages<'_>, now: Now) -> Step {
        let request = tollgate::extract::extract(messages).unwrap();
        let allowed = decision(Reason::Allowed, now);
        match request.path {
            b"/slow" => Step::Wait(Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                allowed
            })),
            b"/never" => Step::Wait(Box::pin(std::future::pending())),
            b"/panic" => panic!("a test asked for it"),
            b"/panic-later" => Step::Wait(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("a test asked for it")
            })),
            _ => Step::Done(allowed),
        }
    }

    fn without_stages(&self, reason: Reason, now: Now) -> Decision {
        decision(reason, now)
    }

    fn asked(&self, messages: &Messages<'_>) -> Option<Box<Summary>> {
        let request = tollgate::extract::extract(messages).unwrap();
        // What panicked once may panic again.
        assert_ne!(request.path, b"/panic");
        Some(Box::new(Summary { path: Summary::printable(request.path), ..Summary::default() }))
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(100)
    }
}

fn decision(reason: Reason, now: Now) -> Decision {
    Decision::new(DecisionId::new(now.unix_s(), 1, 1), reason, Arc::new(Identity::anonymous()))
}

pub struct Running {
    pub address: std::net::SocketAddr,
    telemetry: Telemetry,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Running {
    pub fn start(change: impl FnOnce(&mut SpopSettings)) -> Running {
        Running::start_with(change, Audit::new(Clock::system(), 0))
    }

    fn start_with(change: impl FnOnce(&mut SpopSettings), audit: Audit) -> Running {
        let listen = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())];
        let mut settings = SpopSettings { listen, ..SpopSettings::default() };
        change(&mut settings);
        let listeners: Vec<_> = settings.listen.iter().map(|listen| Listener::bind(listen).unwrap()).collect();
        let address = listeners[0].local_addr().unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let (telemetry, stop) = (Telemetry::default(), CancellationToken::new());
        let serving = server::serve(
            listeners,
            settings,
            Arc::new(ByPath),
            Clock::system(),
            telemetry.clone(),
            audit,
            stop.clone(),
        );
        Running { address, telemetry, stop, task: tokio::spawn(serving) }
    }

    pub async fn peer(&self) -> Peer<TcpStream> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        // Two writes must leave as two, not wait for each other.
        socket.set_nodelay(true).unwrap();
        Peer::greeted(socket).await
    }

    pub fn metrics(&self) -> String {
        self.telemetry.render(Snapshot::default())
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_conversation_that_arrives_byte_by_byte_is_answered() {
    let server = Running::start(|_| {});
    let mut peer = Peer::new(TcpStream::connect(server.address).await.unwrap());
    peer.socket.set_nodelay(true).unwrap();
    let mut bytes = bytes::BytesMut::new();
    engine::hello(16380, true, &mut bytes);
    engine::notify(0, 1, &request("/now", None), &mut bytes);
    for byte in bytes {
        peer.socket.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(peer.frame().await.unwrap().kind, FrameType::AgentHello);
    let ack = peer.frame().await.unwrap();
    assert_eq!((ack.stream_id, ack.frame_id, ack.variable("verdict").as_str()), (0, 1, "allow"));
    server.stop().await;
}

/// HAProxy 3.2.0 to 3.2.23 resets the connection where it comes in two segments.
#[tokio::test]
async fn the_hello_comes_in_one_piece() {
    let server = Running::start(|_| {});
    for _ in 0..TIMES {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        send_hello(&mut socket).await;
        assert_eq!(one_read(&mut socket).await, FrameType::AgentHello);
    }
    server.stop().await;
}

#[tokio::test]
async fn the_goodbye_comes_in_one_piece() {
    let server = Running::start(|_| {});
    let mut haproxy_disconnect = bytes::BytesMut::new();
    disconnect::encode_haproxy(Status::Normal, &mut haproxy_disconnect);
    let refused: &[u8] = &[0xff; 64];
    for last in [&haproxy_disconnect, refused] {
        for _ in 0..TIMES {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            send_hello(&mut socket).await;
            assert_eq!(one_read(&mut socket).await, FrameType::AgentHello);
            socket.write_all(last).await.unwrap();
            assert_eq!(one_read(&mut socket).await, FrameType::AgentDisconnect, "after {last:?}");
        }
    }
    server.stop().await;
}

/// Connections that are tried: two writes do not always arrive as two reads.
const TIMES: usize = 16;

async fn send_hello(socket: &mut TcpStream) {
    let mut hello = bytes::BytesMut::new();
    engine::hello(16380, true, &mut hello);
    socket.write_all(&hello).await.unwrap();
}

/// The type of the frame that one read gives, whole and alone.
async fn one_read(socket: &mut TcpStream) -> FrameType {
    let mut piece = [0; 1024];
    let len = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut piece)).await.unwrap().unwrap();
    let (prefix, frame) = piece[..len].split_at_checked(PREFIX_BYTES).expect("at least a prefix");
    assert_eq!(u32::from_be_bytes(prefix.try_into().unwrap()) as usize, frame.len());
    Frame::decode(frame).unwrap().kind
}

#[tokio::test]
async fn a_pipeline_is_answered_whole_each_stream_once() {
    let server = Running::start(|_| {});
    let mut peer = server.peer().await;
    peer.write(|out| (0..200).for_each(|stream| engine::notify(stream, 1, &request("/now", None), out))).await;
    for stream in 0..200 {
        let ack = peer.frame().await.unwrap();
        assert_eq!((ack.stream_id, ack.variable("verdict").as_str()), (stream, "allow"));
        assert!(ack.len <= 815, "{} bytes would block HAProxy 3.1 and later", ack.len);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_needs_no_waiting_overtakes_what_does() {
    let server = Running::start(|_| {});
    let mut peer = server.peer().await;
    peer.write(|out| {
        engine::notify(1, 1, &request("/slow", None), out);
        engine::notify(3, 1, &request("/now", None), out);
    })
    .await;
    assert_eq!([peer.frame().await.unwrap().stream_id, peer.frame().await.unwrap().stream_id], [3, 1]);
    server.stop().await;
}

#[tokio::test]
async fn a_decision_that_never_ends_is_refused_at_its_deadline() {
    let server = Running::start(|_| {});
    let mut peer = server.peer().await;
    peer.write(|out| engine::notify(1, 1, &request("/never", None), out)).await;
    let ack = peer.frame().await.unwrap();
    assert_eq!([ack.variable("verdict"), ack.variable("reason")], ["error", "deadline_exceeded"]);
    assert!(server.metrics().contains("tollgate_decisions_late_total 1"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_trail_knows_what_was_asked_where_no_stage_answered() {
    let folder = crate::support::folder();
    let file = folder.path().join("audit.jsonl");
    let audit = Audit::new(Clock::system(), 0);
    let settings = Settings {
        target: Target::File(file.clone()),
        rotation: Rotation { bytes: 1 << 20, every: None, keep: 1 },
        sampled_ppm: PPM,
        hashed: Vec::new(),
        hash_key: None,
        chain_key: None,
        queue: 1000,
    };
    audit.apply(audit.prepare(Some(&settings)).unwrap(), 1).unwrap();
    let server = Running::start_with(|_| {}, audit.clone());
    let mut peer = server.peer().await;
    for path in ["/never", "/panic-later", "/panic"] {
        assert_eq!(peer.ask(path).await, "error");
    }
    server.stop().await;
    assert!(audit.stop(Duration::from_secs(5)));
    let records = crate::audit::records(&file);
    let told: Vec<_> = records.iter().filter(|record| record["verdict"] == "error").collect();
    let told: Vec<_> = told.iter().map(|record| (&record["reason"], record["path"].as_str())).collect();
    let [late, panicked] = ["deadline_exceeded", "internal_error"].map(serde_json::Value::from);
    assert_eq!(told, [(&late, Some("/never")), (&panicked, Some("/panic-later")), (&panicked, None)]);
}

#[tokio::test]
async fn a_decision_that_panics_is_refused_and_the_connection_lives() {
    let server = Running::start(|_| {});
    let mut peer = server.peer().await;
    for path in ["/panic", "/panic-later"] {
        peer.write(|out| engine::notify(1, 1, &request(path, None), out)).await;
        let ack = peer.frame().await.unwrap();
        assert_eq!([ack.variable("verdict"), ack.variable("reason")], ["error", "internal_error"], "{path}");
        assert_eq!(ack.variable("status"), "503");
    }
    peer.write(|out| engine::notify(3, 1, &request("/now", None), out)).await;
    assert_eq!(peer.frame().await.unwrap().variable("verdict"), "allow");
    assert!(server.metrics().contains("tollgate_panics_total 2"));
    server.stop().await;
}

#[tokio::test]
async fn a_health_check_gets_its_hello_and_the_end() {
    let server = Running::start(|_| {});
    let mut peer = Peer::new(TcpStream::connect(server.address).await.unwrap());
    peer.write(engine::healthcheck).await;
    assert_eq!(peer.frame().await.unwrap().kind, FrameType::AgentHello);
    assert_eq!(peer.frame().await, None);
    server.stop().await;
}

#[tokio::test]
async fn a_goodbye_is_answered_and_the_connection_closed() {
    let server = Running::start(|_| {});
    let mut peer = server.peer().await;
    peer.write(|out| disconnect::encode_haproxy(Status::Normal, out)).await;
    let goodbye = peer.frame().await.unwrap();
    assert_eq!((goodbye.kind, disconnect::decode(&goodbye.payload)), (FrameType::AgentDisconnect, Ok(0)));
    assert_eq!(peer.frame().await, None);
    server.stop().await;
}

#[tokio::test]
async fn who_breaks_the_protocol_is_told_and_closed_and_nobody_else_is() {
    let server = Running::start(|_| {});
    let (mut good, mut bad) = (server.peer().await, server.peer().await);
    bad.socket.write_all(&[0xff; 64]).await.unwrap();
    let goodbye = bad.frame().await.unwrap();
    assert_eq!(disconnect::decode(&goodbye.payload), Ok(i64::from(Status::FrameTooBig.code())));
    assert_eq!(bad.frame().await, None);
    good.write(|out| engine::notify(1, 1, &request("/now", None), out)).await;
    assert_eq!(good.frame().await.unwrap().variable("verdict"), "allow");
    server.stop().await;
}

#[tokio::test]
async fn who_never_says_hello_is_closed() {
    let server = Running::start(|settings| settings.hello_timeout = Duration::from_millis(50));
    let mut peer = Peer::new(TcpStream::connect(server.address).await.unwrap());
    assert_eq!(peer.frame().await, None);
    server.stop().await;
}

#[tokio::test]
async fn beyond_the_bound_a_connection_waits_for_another_to_end() {
    let server = Running::start(|settings| settings.connections_max = 1);
    let mut first = server.peer().await;
    let mut second = Peer::new(TcpStream::connect(server.address).await.unwrap());
    second.write(|out| engine::hello(16380, true, out)).await;
    // The first is served while the second waits in the listen queue.
    first.write(|out| engine::notify(1, 1, &request("/now", None), out)).await;
    assert_eq!(first.frame().await.unwrap().variable("verdict"), "allow");
    assert!(server.metrics().contains("tollgate_connections_opened_total 1"));
    drop(first);
    assert_eq!(second.frame().await.unwrap().kind, FrameType::AgentHello);
    server.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_then_says_goodbye() {
    let server = Running::start(|_| {});
    let (mut busy, mut idle) = (server.peer().await, server.peer().await);
    busy.write(|out| engine::notify(1, 1, &request("/slow", None), out)).await;
    // Its ACK shows that the NOTIFY before it was read.
    busy.write(|out| engine::notify(3, 1, &request("/now", None), out)).await;
    assert_eq!(busy.frame().await.unwrap().stream_id, 3);
    let address = server.address;
    server.stop.cancel();
    for (peer, expected) in
        [(&mut busy, vec![FrameType::Ack, FrameType::AgentDisconnect]), (&mut idle, vec![FrameType::AgentDisconnect])]
    {
        for kind in expected {
            assert_eq!(peer.frame().await.unwrap().kind, kind);
        }
        assert_eq!(peer.frame().await, None);
    }
    server.task.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "it listens no more");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let server = Running::start(|settings| settings.drain_timeout = Duration::from_millis(50));
    let mut peer = server.peer().await;
    // Half a frame: this connection is not idle, and never will be.
    peer.socket.write_all(&[0, 0, 0, 200, 3]).await.unwrap();
    peer.write(|_| {}).await;
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("it did not stop");
}

#[tokio::test]
async fn a_unix_socket_serves_its_group_and_goes_with_the_server() {
    use std::os::unix::fs::PermissionsExt;

    let folder = crate::support::folder();
    let path = folder.path().join("spop.sock");
    // One that a killed run left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Running::start(|settings| settings.listen = vec![Listen::Unix(path.clone())]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut peer = Peer::greeted(UnixStream::connect(&path).await.unwrap()).await;
    peer.write(|out| engine::notify(1, 1, &request("/now", None), out)).await;
    assert_eq!(peer.frame().await.unwrap().variable("verdict"), "allow");
    // One that is in use is not taken away.
    assert!(Listener::bind(&Listen::Unix(path.clone())).is_err());
    server.stop().await;
    assert!(!path.exists());
}
