//! The well-behaved connection beside the others: it asks what it asked before the fuzzing began, and wants the same
//! answers, in time.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::time::sleep;
use tollgate::spop::frame::{Flags, Frame, FrameType};
use tollgate::spop::{Action, ack, annotate};

use super::PATIENCE;
use crate::peer::{Heard, Peer};
use crate::question::Question;
use crate::target::Target;

/// What is asked, and what was answered while all was calm.
#[derive(Clone, Debug)]
pub struct Calm {
    questions: Vec<Vec<u8>>,
    /// For each question, for each action.
    answers: Vec<Vec<Shape>>,
}

/// One action of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    /// Set or unset, scope, name, and the type of the value.
    what: String,
    /// The value, where it was the same each time.
    value: Option<String>,
}

/// What was wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It came, but late.
    #[error("the well-behaved connection waited {0:?} for its ACK, expected 1 s at most")]
    Late(Duration),
    /// It did not come, or was not one.
    #[error("the well-behaved connection got {0} instead of its ACK")]
    Wrong(String),
    /// It says something else than before.
    #[error("the well-behaved connection was answered {got}, and {expected} before the fuzzing began")]
    Different {
        /// Before.
        expected: String,
        /// Now.
        got: String,
    },
    /// No connection of its kind can be made.
    #[error("the agent greets no new connection: {0}")]
    NoHello(String),
}

impl Calm {
    /// Asks each question some times over more than a second, so that what follows the clock is known to change.
    pub async fn learn(target: &Target, question: &Question) -> Result<Calm, Trouble> {
        let without = Question { arguments: Vec::new(), ..question.clone() };
        let questions = vec![question.payload(), without.payload()];
        let mut witness = Witness::connect(target, PATIENCE).await?;
        let mut answers: Vec<Vec<Shape>> = Vec::new();
        for round in 0..ROUNDS {
            for (at, question) in questions.iter().enumerate() {
                let (now, _) = witness.ask(question).await?;
                match answers.get_mut(at) {
                    None => answers.push(now),
                    Some(before) => {
                        if let Some(trouble) = different(before, &now) {
                            return Err(trouble);
                        }
                        for (before, now) in before.iter_mut().zip(now) {
                            before.value.take_if(|value| now.value.as_ref() != Some(value));
                        }
                    }
                }
            }
            if round + 1 < ROUNDS {
                sleep(CALM_TIME / ROUNDS).await;
            }
        }
        Ok(Calm { questions, answers })
    }
}

/// The first difference in names and types.
fn different(expected: &[Shape], got: &[Shape]) -> Option<Trouble> {
    let words = |shapes: &[Shape]| shapes.iter().map(|shape| shape.what.clone()).collect::<Vec<_>>();
    let (expected, got) = (words(expected), words(got));
    (expected != got).then(|| Trouble::Different { expected: expected.join(", "), got: got.join(", ") })
}

/// One well-behaved connection.
#[derive(Debug)]
pub struct Witness {
    peer: Peer,
    asked: u64,
    patience: Duration,
}

impl Witness {
    /// Connects; each answer may take `patience`, and counts as lost beyond.
    pub async fn connect(target: &Target, patience: Duration) -> Result<Witness, Trouble> {
        let greeted = Peer::greeted(target, 16_380, patience).await;
        let (peer, _) = greeted.map_err(|error| Trouble::NoHello(error.to_string()))?;
        Ok(Witness { peer, asked: 0, patience })
    }

    /// Asks every question once; gives the longest that an answer took.
    pub async fn look(&mut self, calm: &Calm) -> Result<Duration, Trouble> {
        let mut longest = Duration::ZERO;
        for (question, expected) in calm.questions.iter().zip(&calm.answers) {
            let (got, took) = self.ask(question).await?;
            if let Some(trouble) = different(expected, &got) {
                return Err(trouble);
            }
            for (expected, got) in expected.iter().zip(&got) {
                if expected.value.is_some() && expected.value != got.value {
                    let words = |shape: &Shape| format!("{} {}", shape.what, shape.value.clone().unwrap_or_default());
                    return Err(Trouble::Different { expected: words(expected), got: words(got) });
                }
            }
            longest = longest.max(took);
        }
        if longest > ANSWER_TIME { Err(Trouble::Late(longest)) } else { Ok(longest) }
    }

    async fn ask(&mut self, question: &[u8]) -> Result<(Vec<Shape>, Duration), Trouble> {
        // As HAProxy from 3.1 on counts.
        let stream_id = 1 + 2 * self.asked;
        self.asked += 1;
        let mut out = BytesMut::new();
        Frame::encode(FrameType::Notify, Flags::FIN, stream_id, 1, &mut out, |out| out.extend_from_slice(question));
        let asked = Instant::now();
        self.peer.send(&out).await.map_err(|error| Trouble::Wrong(error.to_string()))?;
        let heard = self.peer.hear(self.patience).await;
        let received = match heard {
            Heard::Frame(received) => received,
            Heard::Nothing => return Err(Trouble::Wrong("nothing".to_owned())),
            Heard::Closed(_) => return Err(Trouble::Wrong("a close".to_owned())),
            Heard::TooLong(length) => return Err(Trouble::Wrong(format!("a frame of {length} bytes"))),
            Heard::Reset => return Err(Trouble::Wrong("a reset".to_owned())),
        };
        let frame = received.decode().map_err(|error| Trouble::Wrong(error.to_string()))?;
        if (frame.kind, frame.flags, frame.stream_id, frame.frame_id) != (FrameType::Ack, Flags::FIN, stream_id, 1) {
            let expected = format!("stream {stream_id} frame 1");
            return Err(Trouble::Wrong(format!("{} where {expected} was due", annotate::title(&frame))));
        }
        let actions = ack::decode(frame.payload).map_err(|error| Trouble::Wrong(error.to_string()))?;
        Ok((actions.iter().map(shape).collect(), asked.elapsed()))
    }
}

fn shape(action: &Action<'_>) -> Shape {
    match action {
        Action::SetVar { scope, name, value } => {
            let value = annotate::value(value);
            let (kind, rest) = value.split_once(' ').unwrap_or((&value, ""));
            Shape { what: format!("set {}.{name} {kind}", scope.name()), value: Some(rest.to_owned()) }
        }
        Action::UnsetVar { scope, name } => Shape { what: format!("unset {}.{name}", scope.name()), value: None },
    }
}

/// Within this an answer must come.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// How often each question is asked while all is calm, and over how long: beyond a second, so that a number of seconds
/// changes.
const ROUNDS: u32 = 4;
const CALM_TIME: Duration = Duration::from_millis(1500);
