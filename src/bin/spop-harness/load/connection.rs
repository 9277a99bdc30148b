//! One connection to the agent, without waiting: what is to be written, what came, and the way back when it ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tollgate::spop::deframer::Deframer;
use tollgate::spop::disconnect::{self, Status};
use tollgate::spop::engine;
use tollgate::spop::frame::{Frame, FrameType};
use tollgate::spop::hello::AgentHello;

use crate::target::Target;

/// A connection, open or on its way to be.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    deframer: Deframer,
    unsent: BytesMut,
    notify_bytes_max: usize,
    /// Why it ended, or did not open.
    trouble: String,
}

#[derive(Debug)]
enum Link {
    Down { until: Duration },
    Greeting { socket: Socket, until: Duration },
    Open { socket: Socket, pipelining: bool },
}

/// The next thing that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Came<'a> {
    /// A frame after the HELLO.
    Frame(Frame<'a>),
    /// A frame that is longer than was agreed on; nothing can be read after it.
    TooBig,
    /// What is no frame; nothing can be read after it.
    Undecodable,
}

impl Connection {
    /// Not connected yet, for NOTIFYs of at most this many bytes.
    pub fn new(notify_bytes_max: usize) -> Connection {
        Connection {
            link: Link::Down { until: Duration::ZERO },
            deframer: Deframer::new(MAX_FRAME_SIZE),
            unsent: BytesMut::new(),
            notify_bytes_max,
            trouble: String::new(),
        }
    }

    /// Whether NOTIFYs may be sent; how many at a time where the agent takes one only.
    pub fn window(&self, wanted: usize) -> usize {
        match &self.link {
            Link::Open { pipelining: true, .. } => wanted,
            Link::Open { .. } => 1,
            _ => 0,
        }
    }

    /// Whether the agent was greeted and greeted back.
    pub fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// Why it last ended, or did not open. A backlog that is full for the moment is no reason.
    pub fn trouble(&self) -> Option<&str> {
        (!self.trouble.is_empty()).then_some(self.trouble.as_str())
    }

    /// Whether something waits until the agent reads.
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What is to be polled: the descriptor, and whether something waits to be written.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, bool)> {
        Some((self.socket()?.as_fd(), self.is_blocked()))
    }

    /// When [`Connection::turn`] has something to do though nothing came.
    pub fn wake(&self) -> Option<Duration> {
        match &self.link {
            Link::Down { until } | Link::Greeting { until, .. } => Some(*until),
            Link::Open { .. } => None,
        }
    }

    /// Connects where it is time to, and gives up a HELLO that does not come.
    pub fn turn(&mut self, target: &Target, now: Duration) {
        match &self.link {
            Link::Down { until } if *until <= now => match connect(target) {
                Ok(socket) => {
                    engine::hello(MAX_FRAME_SIZE, true, &mut self.unsent);
                    self.link = Link::Greeting { socket, until: now + HELLO_TIMEOUT };
                    self.flush(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.end(now, String::new()),
                Err(error) => self.end(now, error.to_string()),
            },
            Link::Greeting { until, .. } if *until <= now => self.end(now, "no AGENT-HELLO within 2 s".to_owned()),
            _ => {}
        }
    }

    /// Where frames to be sent are appended, for [`Connection::flush`].
    pub fn unsent(&mut self) -> &mut BytesMut {
        &mut self.unsent
    }

    /// Writes what the socket takes; gives whether that was all.
    pub fn flush(&mut self, now: Duration) -> bool {
        while !self.unsent.is_empty() {
            let (Link::Greeting { socket, .. } | Link::Open { socket, .. }) = &self.link else { return false };
            let mut socket = socket;
            match socket.write(&self.unsent) {
                Ok(written) => self.unsent.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.end(now, error.to_string());
                    return false;
                }
            }
        }
        // An empty buffer goes back to its front, so that it is never moved or grown while requests come and go.
        self.unsent.clear();
        true
    }

    /// Reads once, at most what `scratch` holds. While it is greeting, takes the HELLO.
    pub fn read(&mut self, scratch: &mut [u8], now: Duration) {
        let Some(mut socket) = self.socket() else { return };
        match socket.read(scratch) {
            Ok(0) => self.end(now, "the agent closed the connection".to_owned()),
            Ok(read) => {
                self.deframer.buffer().extend_from_slice(scratch.get(..read).unwrap_or_default());
                if matches!(self.link, Link::Greeting { .. }) {
                    self.take_hello(now);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => self.end(now, error.to_string()),
        }
    }

    /// The next whole frame of those that were read.
    pub fn next(&mut self) -> Option<Came<'_>> {
        if !self.is_open() {
            return None;
        }
        match self.deframer.step() {
            Ok(false) => None,
            Ok(true) => Some(Frame::decode(self.deframer.frame()).map_or(Came::Undecodable, Came::Frame)),
            Err(Status::FrameTooBig) => Some(Came::TooBig),
            Err(_) => Some(Came::Undecodable),
        }
    }

    /// Closes it; it connects again after a pause.
    pub fn end(&mut self, now: Duration, trouble: String) {
        self.link = Link::Down { until: now + RECONNECT_PAUSE };
        self.deframer = Deframer::new(MAX_FRAME_SIZE);
        self.unsent.clear();
        self.trouble = trouble;
    }

    /// Says goodbye as HAProxy does; whatever the agent answers, nobody waits for it.
    pub fn goodbye(mut self) {
        if self.is_open() {
            disconnect::encode_haproxy(Status::Normal, &mut self.unsent);
            self.flush(Duration::ZERO);
        }
    }

    fn socket(&self) -> Option<&Socket> {
        match &self.link {
            Link::Greeting { socket, .. } | Link::Open { socket, .. } => Some(socket),
            Link::Down { .. } => None,
        }
    }

    fn take_hello(&mut self, now: Duration) {
        let hello = match self.deframer.step() {
            Ok(false) => return,
            Ok(true) => Frame::decode(self.deframer.frame()).map_err(|error| error.to_string()),
            Err(status) => Err(status.message().to_owned()),
        };
        let hello = hello.and_then(|frame| match frame.kind {
            FrameType::AgentHello => {
                AgentHello::decode(frame.payload).map_err(|status| format!("AGENT-HELLO: {}", status.message()))
            }
            other => Err(format!("expected AGENT-HELLO, got {other:?}")),
        });
        match hello {
            Err(trouble) => self.end(now, trouble),
            Ok(hello) if hello.max_frame_size > MAX_FRAME_SIZE => {
                let size = hello.max_frame_size;
                self.end(now, format!("AGENT-HELLO: max-frame-size {size}, expected at most {MAX_FRAME_SIZE}"));
            }
            Ok(hello) if (hello.max_frame_size as usize) < self.notify_bytes_max => {
                let (size, notify) = (hello.max_frame_size, self.notify_bytes_max);
                self.end(now, format!("a NOTIFY of {notify} bytes does not fit the agent's max-frame-size of {size}"));
            }
            Ok(hello) => {
                let mut deframer = Deframer::new(hello.max_frame_size);
                std::mem::swap(&mut deframer, &mut self.deframer);
                // What came behind the HELLO; reading on releases the HELLO itself.
                let behind = deframer.buffer();
                self.deframer.buffer().extend_from_slice(behind);
                let down = Link::Down { until: now };
                if let Link::Greeting { socket, .. } = std::mem::replace(&mut self.link, down) {
                    self.link = Link::Open { socket, pipelining: hello.pipelining };
                }
            }
        }
    }
}

/// Begins to connect; over TCP each write leaves as its own segment.
fn connect(target: &Target) -> io::Result<Socket> {
    let (domain, address) = match target {
        Target::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Target::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if matches!(target, Target::Tcp(_)) {
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&address) {
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => Ok(socket),
        connected => connected.map(|()| socket),
    }
}

/// What HAProxy announces with its default buffers of 16384 bytes.
const MAX_FRAME_SIZE: u32 = 16380;

const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// A dead agent costs a hundred attempts a second for each connection, and is back within this time.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);
