//! Two peers and the bytes between them. Each end of one is passed on to the other as what it was: a half-close as a
//! half-close, a reset as a reset.

use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::watch;
use tollgate::spop::recording::Side;

use super::tape::Tape;
use crate::target::Stream;

/// Relays until both sides are done, one is gone, or it is stopped. Gives what was said.
pub async fn relay(haproxy: Stream, agent: Stream, tape: Tape, mut stopped: watch::Receiver<bool>) -> Tape {
    let tape = Mutex::new(tape);
    let (mut haproxy_reader, mut haproxy_writer) = split(haproxy);
    let (mut agent_reader, mut agent_writer) = split(agent);
    let mut broken = false;
    let mut cut = false;
    {
        // Two loops of their own: while one side does not read, what it says must still get through.
        let up = pump(Side::Haproxy, &mut haproxy_reader, &mut agent_writer, &tape);
        let down = pump(Side::Agent, &mut agent_reader, &mut haproxy_writer, &tape);
        tokio::pin!(up, down);
        let (mut up_runs, mut down_runs) = (true, true);
        while up_runs || down_runs {
            let end = tokio::select! {
                end = &mut up, if up_runs => { up_runs = false; end }
                end = &mut down, if down_runs => { down_runs = false; end }
                _ = stopped.wait_for(|stopped| *stopped) => { cut = true; break }
            };
            match end {
                End::Closed => {}
                // Whoever writes to a peer that is gone gets a reset, but only after the gone peer's last words.
                End::Unwritable => broken = true,
                End::Reset => {
                    broken = true;
                    break;
                }
            }
        }
    }
    if broken {
        reset(haproxy_reader.unsplit(haproxy_writer));
        reset(agent_reader.unsplit(agent_writer));
    }
    let tape = tape.into_inner();
    if cut { tape.ended_by("The relay was stopped here.".to_owned()) } else { tape }
}

/// Closes with a reset where there is such a thing, which is on TCP.
pub fn reset(stream: Stream) {
    if let Stream::Tcp(stream) = stream {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// How one direction ended.
enum End {
    Closed,
    Reset,
    Unwritable,
}

/// One direction.
async fn pump(side: Side, reader: &mut ReadHalf<Stream>, writer: &mut WriteHalf<Stream>, tape: &Mutex<Tape>) -> End {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match reader.read(&mut piece).await {
            Ok(0) => {
                tape.lock().closed(side);
                // One that is gone already needs no telling.
                let _ = writer.shutdown().await;
                return End::Closed;
            }
            Ok(len) => {
                let piece = piece.get(..len).unwrap_or_default();
                // Kept before it is passed on, so that no answer stands before its question.
                tape.lock().sent(side, piece);
                if writer.write_all(piece).await.is_err() {
                    return End::Unwritable;
                }
            }
            Err(_) => {
                tape.lock().reset(side);
                return End::Reset;
            }
        }
    }
}

/// What one read takes at most: an ordinary HAProxy buffer.
const PIECE_BYTES: usize = 16 * 1024;
