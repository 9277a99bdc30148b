//! Stands between HAProxy and an agent, counts frames, and may change what HAProxy says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tollgate::spop::frame::{Frame, FrameType, PREFIX_BYTES};

/// The relay. It ends with the value.
pub struct Relay {
    pub port: u16,
    pub seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// What went through.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicU64,
    pub notifies: AtomicU64,
    pub acks: AtomicU64,
}

impl Relay {
    /// `edit` sees each frame of HAProxy, its prefix aside, before the agent does.
    pub async fn start(agent_port: u16, edit: fn(&mut [u8])) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let counted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // The connections end with the relay, because their tasks do.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (haproxy, _) = listener.accept().await.unwrap();
                counted.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(relay(haproxy, agent_port, edit, Arc::clone(&counted)));
                while connections.try_join_next().is_some() {}
            }
        });
        Relay { port, seen, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(haproxy: TcpStream, agent_port: u16, edit: fn(&mut [u8]), seen: Arc<Seen>) {
    let Ok(agent) = TcpStream::connect(("127.0.0.1", agent_port)).await else { return };
    let (from_haproxy, to_haproxy) = haproxy.into_split();
    let (from_agent, to_agent) = agent.into_split();
    let questions = frames(from_haproxy, to_agent, |frame| {
        edit(frame);
        if kind(frame) == Some(FrameType::Notify) {
            seen.notifies.fetch_add(1, Ordering::Relaxed);
        }
    });
    let answers = frames(from_agent, to_haproxy, |frame| {
        if kind(frame) == Some(FrameType::Ack) {
            seen.acks.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Either side's end is passed on by the end of its half.
    let _ = tokio::join!(questions, answers);
}

fn kind(frame: &[u8]) -> Option<FrameType> {
    Frame::decode(frame).ok().map(|frame| frame.kind)
}

/// Passes whole frames on until the sender closes, and then the rest.
async fn frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut each: impl FnMut(&mut [u8]),
) -> std::io::Result<()> {
    let mut received = BytesMut::new();
    loop {
        while let Some(prefix) = received.first_chunk::<PREFIX_BYTES>() {
            let whole = PREFIX_BYTES + u32::from_be_bytes(*prefix) as usize;
            if received.len() < whole {
                break;
            }
            let mut frame = received.split_to(whole);
            each(&mut frame[PREFIX_BYTES..]);
            to.write_all(&frame).await?;
        }
        if from.read_buf(&mut received).await? == 0 {
            to.write_all(&received).await?;
            return to.shutdown().await;
        }
    }
}
