//! A peer that speaks SPOP to a server over a real socket.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tollgate::spop::frame::{Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::{Action, TypedData, ack, engine};

/// One connection, as HAProxy would hold it.
pub struct Peer<S> {
    pub socket: S,
    received: BytesMut,
}

/// A frame that came back.
#[derive(Debug, PartialEq)]
pub struct Received {
    pub kind: FrameType,
    pub stream_id: u64,
    pub frame_id: u64,
    pub payload: Vec<u8>,
    /// The length on the wire, without the prefix.
    pub len: usize,
}

impl Received {
    /// The variables that an ACK sets, as text; and their order.
    pub fn variables(&self) -> (BTreeMap<String, String>, Vec<String>) {
        assert_eq!(self.kind, FrameType::Ack);
        let mut order = Vec::new();
        let mut values = BTreeMap::new();
        for action in ack::decode(&self.payload).unwrap() {
            let Action::SetVar { name, value, .. } = action else { continue };
            let value = match value {
                TypedData::Str(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                TypedData::Bool(value) => value.to_string(),
                other => other.as_integer().map(|number| number.to_string()).unwrap_or_default(),
            };
            order.push(name.to_owned());
            values.insert(name.to_owned(), value);
        }
        (values, order)
    }

    /// One variable.
    pub fn variable(&self, name: &str) -> String {
        self.variables().0.get(name).cloned().unwrap_or_default()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub fn new(socket: S) -> Peer<S> {
        Peer { socket, received: BytesMut::new() }
    }

    /// Says HELLO and takes the answer.
    pub async fn greeted(socket: S) -> Peer<S> {
        let mut peer = Peer::new(socket);
        peer.write(|out| engine::hello(16380, true, out)).await;
        assert_eq!(peer.frame().await.unwrap().kind, FrameType::AgentHello);
        peer
    }

    /// Writes what `frames` puts together, in one go.
    pub async fn write(&mut self, frames: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        frames(&mut out);
        self.socket.write_all(&out).await.unwrap();
    }

    /// Asks about `path` and gives the verdict.
    pub async fn ask(&mut self, path: &str) -> String {
        self.write(|out| engine::notify(1, 1, &request(path, None), out)).await;
        self.frame().await.unwrap().variable("verdict")
    }

    /// The next frame, or `None` where the server closed, however long it takes.
    pub async fn frame_or_end(&mut self) -> Option<Received> {
        self.frame_whenever().await
    }

    /// The next frame; `None` where the server closed. At most five seconds.
    pub async fn frame(&mut self) -> Option<Received> {
        tokio::time::timeout(Duration::from_secs(5), self.frame_whenever()).await.expect("no frame within five seconds")
    }

    async fn frame_whenever(&mut self) -> Option<Received> {
        loop {
            if let Some(prefix) = self.received.first_chunk::<PREFIX_BYTES>() {
                let len = u32::from_be_bytes(*prefix) as usize;
                if self.received.len() >= PREFIX_BYTES + len {
                    self.received.advance(PREFIX_BYTES);
                    let bytes = self.received.split_to(len);
                    let frame = Frame::decode(&bytes).unwrap();
                    return Some(Received {
                        kind: frame.kind,
                        stream_id: frame.stream_id,
                        frame_id: frame.frame_id,
                        payload: frame.payload.to_vec(),
                        len,
                    });
                }
            }
            // A reset is an end too.
            if self.socket.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                assert!(self.received.is_empty(), "the server closed inside a frame");
                return None;
            }
        }
    }
}

/// The arguments of an ordinary request.
pub fn request<'a>(path: &'a str, authorization: Option<&'a str>) -> Vec<(&'a str, TypedData<'a>)> {
    vec![
        ("method", TypedData::Str(b"GET")),
        ("host", TypedData::Str(b"api.acme.example")),
        ("path", TypedData::Str(path.as_bytes())),
        ("src", TypedData::Ipv4([192, 0, 2, 1].into())),
        ("ssl", TypedData::Bool(true)),
        ("authorization", authorization.map_or(TypedData::Null, |value| TypedData::Str(value.as_bytes()))),
    ]
}
