//! HAProxy's side of a recording, played again.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tollgate::spop::engine;
use tollgate::spop::recording::{Recording, Side, What};

use crate::peer::{Heard, Peer, Received};
use crate::target::Target;

/// What the agent did.
#[derive(Debug, Default)]
pub struct Played {
    /// The frames that it sent, in order.
    pub frames: Vec<Received>,
    /// It closed or reset the connection.
    pub ended: bool,
    /// Bytes of a frame that never became whole.
    pub unfinished: usize,
    /// The length of a frame that no agent may send; nothing was heard after it.
    pub too_long: Option<usize>,
    /// What the recording has at this point and the agent did not do in [`ANSWER_TIMEOUT`].
    pub missed: Option<&'static str>,
}

/// An answer that takes longer is none. Agents decide within their HAProxy's `timeout processing`, mostly a second.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an agent that has said everything is listened to, in case it says more.
const MORE_TIMEOUT: Duration = Duration::from_millis(100);

/// Plays; a frame goes when the agent has said as many frames as it had before. With `to_the_end` it is heard until it
/// closes.
pub async fn play(
    recording: &Recording,
    target: &Target,
    at_recorded_times: bool,
    to_the_end: bool,
) -> Result<Played, String> {
    let mut peer = Peer::connect(target).await.map_err(|error| format!("cannot connect to {target}: {error}"))?;
    let begun = Instant::now();
    let mut played = Played::default();
    let mut expected = 0;
    for item in &recording.items {
        match (item.from, &item.what) {
            (Side::Haproxy, What::Sent(bytes)) => {
                if let Some(at) = item.at.filter(|_| at_recorded_times) {
                    sleep_until(begun + at).await;
                }
                // A write that fails is told by what is heard next.
                let _ = peer.send(bytes).await;
            }
            (Side::Haproxy, What::Closed) => {
                let _ = peer.finish().await;
            }
            // Whatever the recorded agent said after that was heard by nobody.
            (Side::Haproxy, What::Reset) => return Ok(played),
            (Side::Agent, What::Sent(bytes)) => {
                expected += engine::frames(bytes).count();
                while played.frames.len() < expected && !played.ended && played.missed.is_none() {
                    played.hear(&mut peer, ANSWER_TIMEOUT, Some("a frame")).await;
                }
            }
            (Side::Agent, What::Closed | What::Reset) => played.hear_the_end(&mut peer).await,
        }
    }
    if to_the_end {
        played.hear_the_end(&mut peer).await;
    }
    while !played.ended && played.missed.is_none() && played.hear(&mut peer, MORE_TIMEOUT, None).await {}
    Ok(played)
}

impl Played {
    async fn hear_the_end(&mut self, peer: &mut Peer) {
        while !self.ended && self.missed.is_none() {
            self.hear(peer, ANSWER_TIMEOUT, Some("the end of the connection")).await;
        }
    }

    /// Whether something was heard.
    async fn hear(&mut self, peer: &mut Peer, within: Duration, expected: Option<&'static str>) -> bool {
        match peer.hear(within).await {
            Heard::Frame(frame) => self.frames.push(frame),
            Heard::Closed(unfinished) => (self.ended, self.unfinished) = (true, unfinished),
            Heard::TooLong(length) => (self.ended, self.too_long) = (true, Some(length)),
            Heard::Reset => self.ended = true,
            Heard::Nothing => {
                self.missed = expected;
                return false;
            }
        }
        true
    }
}
