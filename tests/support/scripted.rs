//! An agent whose every byte a test decides.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate::spop::frame::{Flags, Frame, FrameType, PREFIX_BYTES};
use tollgate::spop::hello::{AgentHello, HaproxyHello};
use tollgate::spop::{Action, Messages, Status, TypedData, ack, disconnect};

/// What it does next on the connection that asked.
#[derive(Clone)]
pub enum Step {
    Write(Vec<u8>),
    Pause(Duration),
    Close,
    Reset,
}

/// What it says to a HELLO and to each NOTIFY. Health checks it always answers well: what misbehaves while its checks
/// succeed is what HAProxy goes on asking.
pub struct Script {
    pub hello: Says<HaproxyHello>,
    pub notify: Says<Question>,
}

type Says<T> = Box<dyn Fn(&T) -> Vec<Step> + Send + Sync>;

impl Script {
    /// A good HELLO, and `notify`.
    pub fn answering(notify: impl Fn(&Question) -> Vec<Step> + Send + Sync + 'static) -> Script {
        Script { hello: Box::new(|hello| vec![Step::Write(good_hello(hello))]), notify: Box::new(notify) }
    }

    /// This HELLO, whatever HAProxy says, and `notify`.
    pub fn greeting(hello: Vec<Step>, notify: impl Fn(&Question) -> Vec<Step> + Send + Sync + 'static) -> Script {
        Script { hello: Box::new(move |_| hello.clone()), notify: Box::new(notify) }
    }
}

/// One NOTIFY.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    pub stream_id: u64,
    pub frame_id: u64,
    payload: Vec<u8>,
}

impl Question {
    /// The messages in order.
    pub fn messages(&self) -> Messages<'_> {
        Messages::decode(&self.payload).unwrap()
    }

    /// The first argument of that name, of any message.
    pub fn argument(&self, name: &str) -> Option<TypedData<'_>> {
        let mut arguments = self.messages().iter().flat_map(|message| message.arguments().collect::<Vec<_>>());
        arguments.find(|(argument, _)| *argument == name.as_bytes()).map(|(_, value)| value)
    }

    /// The same as text, empty where it is no string.
    pub fn text(&self, name: &str) -> String {
        match self.argument(name) {
            Some(TypedData::Str(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    /// The ACK with these actions.
    pub fn ack(&self, actions: &[Action<'_>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        ack::encode(self.stream_id, self.frame_id, actions, &mut out);
        out.to_vec()
    }

    /// A frame that claims to be the ACK, whatever its payload.
    pub fn ack_of(&self, payload: &[u8]) -> Vec<u8> {
        frame(FrameType::Ack, Flags::FIN, self.stream_id, self.frame_id, payload)
    }
}

/// Any frame.
pub fn frame(kind: FrameType, flags: Flags, stream_id: u64, frame_id: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Frame::encode(kind, flags, stream_id, frame_id, &mut out, |out| out.extend_from_slice(payload));
    out.to_vec()
}

/// The payload of an ACK with these actions.
pub fn actions(actions: &[Action<'_>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    ack::encode(0, 0, actions, &mut out);
    Frame::decode(&out[PREFIX_BYTES..]).unwrap().payload.to_vec()
}

/// A HELLO that every HAProxy takes.
pub fn good_hello(hello: &HaproxyHello) -> Vec<u8> {
    let mut out = BytesMut::new();
    let max_frame_size = hello.max_frame_size;
    AgentHello { max_frame_size, pipelining: hello.pipelining, fragmentation: false }.encode(&mut out);
    out.to_vec()
}

/// The agent. It ends with the value.
pub struct Scripted {
    pub port: u16,
    script: Arc<Mutex<Playing>>,
    asked: Arc<Mutex<Vec<Question>>>,
    opened: Arc<Mutex<Vec<Instant>>>,
    door: CancellationToken,
}

#[derive(Clone)]
struct Playing {
    script: Arc<Script>,
    /// Ends the connections that were opened under it.
    over: CancellationToken,
    running: TaskTracker,
}

impl Playing {
    fn new(script: Arc<Script>) -> Playing {
        Playing { script, over: CancellationToken::new(), running: TaskTracker::new() }
    }
}

impl Scripted {
    pub async fn start(script: Script) -> Scripted {
        Scripted::start_on(0, script)
    }

    /// On a given port, even one that was in use a moment ago.
    pub fn start_on(port: u16, script: Script) -> Scripted {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], port).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let agent = Scripted {
            port: listener.local_addr().unwrap().port(),
            script: Arc::new(Mutex::new(Playing::new(script.into()))),
            asked: Arc::default(),
            opened: Arc::default(),
            door: CancellationToken::new(),
        };
        let (script, asked) = (Arc::clone(&agent.script), Arc::clone(&agent.asked));
        let (opened, door) = (Arc::clone(&agent.opened), agent.door.clone());
        tokio::spawn(async move { door.run_until_cancelled(accept(listener, script, asked, opened)).await });
        agent
    }

    /// Puts another agent in its place. When this returns, HAProxy has seen the end of the connections of the one before;
    /// new ones get the new script.
    pub async fn play(&self, script: impl Into<Arc<Script>>) {
        let before = std::mem::replace(&mut *self.script.lock().unwrap(), Playing::new(script.into()));
        before.over.cancel();
        before.running.close();
        before.running.wait().await;
    }

    /// How many connections said HELLO in the last second, health checks aside.
    pub fn connections_in_a_second(&self) -> usize {
        self.opened.lock().unwrap().iter().filter(|opened| opened.elapsed() < Duration::from_secs(1)).count()
    }

    /// The NOTIFYs since the last call.
    pub fn take_asked(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.door.cancel();
        self.script.lock().unwrap().over.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    script: Arc<Mutex<Playing>>,
    asked: Arc<Mutex<Vec<Question>>>,
    opened: Arc<Mutex<Vec<Instant>>>,
) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let playing = script.lock().unwrap().clone();
        let (asked, opened) = (Arc::clone(&asked), Arc::clone(&opened));
        playing.running.clone().spawn(async move {
            let mut greeted = false;
            let conversation = converse(&mut socket, &playing.script, &asked, &opened, &mut greeted);
            // A socket that breaks is the test's doing or HAProxy's right.
            if playing.over.run_until_cancelled(conversation).await.is_none() {
                if !greeted {
                    // HAProxy 3.2 and 3.4 keep a connection whose HELLO was not answered when it ends in an orderly way,
                    // and fail every later request on it at once (P17): only a reset frees them.
                    let _ = socket.set_zero_linger();
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_secs(2), end(socket)).await;
            }
        });
    }
}

/// Closes, and waits until HAProxy has closed too.
async fn end(mut socket: TcpStream) -> std::io::Result<()> {
    socket.shutdown().await?;
    let mut rest = Vec::new();
    while socket.read_buf(&mut rest).await? > 0 {
        rest.clear();
    }
    Ok(())
}

async fn converse(
    socket: &mut TcpStream,
    script: &Script,
    asked: &Mutex<Vec<Question>>,
    opened: &Mutex<Vec<Instant>>,
    greeted: &mut bool,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut received = BytesMut::new();
    let mut connection = 0;
    loop {
        while let Some(bytes) = next_frame(&mut received) {
            let frame = Frame::decode(&bytes).unwrap();
            let steps = match frame.kind {
                FrameType::HaproxyHello => {
                    let hello = HaproxyHello::decode(frame.payload).unwrap();
                    if hello.healthcheck {
                        vec![Step::Write(good_hello(&HaproxyHello { max_frame_size: 1024, ..hello })), Step::Close]
                    } else {
                        let mut opened = opened.lock().unwrap();
                        opened.push(Instant::now());
                        connection = opened.len();
                        (script.hello)(&hello)
                    }
                }
                FrameType::Notify => {
                    let (stream_id, frame_id) = (frame.stream_id, frame.frame_id);
                    let question = Question { connection, stream_id, frame_id, payload: frame.payload.to_vec() };
                    asked.lock().unwrap().push(question.clone());
                    (script.notify)(&question)
                }
                FrameType::HaproxyDisconnect => {
                    let mut out = BytesMut::new();
                    disconnect::encode_agent(Status::Normal, &mut out);
                    vec![Step::Write(out.to_vec()), Step::Close]
                }
                _ => Vec::new(),
            };
            for step in steps {
                match step {
                    Step::Write(bytes) => {
                        socket.write_all(&bytes).await?;
                        *greeted = true;
                    }
                    Step::Pause(pause) => tokio::time::sleep(pause).await,
                    Step::Close => return Ok(()),
                    Step::Reset => return socket.set_zero_linger(),
                }
            }
        }
        if socket.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

fn next_frame(received: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_be_bytes(*received.first_chunk::<PREFIX_BYTES>()?) as usize;
    if received.len() < PREFIX_BYTES + len {
        return None;
    }
    received.advance(PREFIX_BYTES);
    Some(received.split_to(len))
}
