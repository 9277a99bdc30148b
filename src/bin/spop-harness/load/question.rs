//! What is asked: NOTIFY payloads, encoded once.

use std::fs;
use std::path::Path;

use bytes::{BufMut, BytesMut};
use tollgate::spop::frame::{Flags, Frame, FrameType};

use crate::question::{ARGUMENTS_MAX, Argument, Question, Value};

/// The payloads that are asked in turn, one for each token; without tokens there is one.
#[derive(Debug)]
pub struct Questions {
    payloads: Vec<Vec<u8>>,
}

impl Questions {
    /// The question; each token becomes the argument `authorization` of a payload of its own.
    pub fn new(question: &Question, tokens: &[String]) -> Result<Questions, String> {
        if tokens.is_empty() {
            return Ok(Questions { payloads: vec![question.payload()] });
        }
        let with = |token: &String| {
            let mut question = question.clone();
            question.arguments.retain(|other| other.name != "authorization");
            let value = Value::Str(format!("Bearer {token}").into_bytes());
            question.arguments.push(Argument { name: "authorization".to_owned(), value });
            question.payload()
        };
        if question.arguments.len() >= ARGUMENTS_MAX {
            return Err(format!("no room for a token: expected at most {} arguments beside it", ARGUMENTS_MAX - 1));
        }
        Ok(Questions { payloads: tokens.iter().map(with).collect() })
    }

    /// Appends the NOTIFY that is number `turn` in turn.
    pub fn encode(&self, turn: u64, stream_id: u64, out: &mut BytesMut) {
        let index = usize::try_from(turn % self.payloads.len() as u64).unwrap_or(0);
        let payload = self.payloads.get(index).map_or(&[][..], Vec::as_slice);
        Frame::encode(FrameType::Notify, Flags::FIN, stream_id, FRAME_ID, out, |out| out.put_slice(payload));
    }

    /// The longest frame, without its length prefix.
    pub fn frame_bytes_max(&self) -> usize {
        // Type and flags, a stream-id of at most ten bytes, a frame-id of one.
        self.payloads.iter().map(Vec::len).max().unwrap_or(0) + 5 + 10 + 1
    }
}

/// HAProxy from 3.1 on sends no other.
pub const FRAME_ID: u64 = 1;

/// The tokens in a file, one a line; blank lines do not count.
pub fn tokens(file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let tokens: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if tokens.is_empty() { Err(format!("{}: expected one token a line", file.display())) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests {
    use tollgate::spop::TypedData;
    use tollgate::spop::notify::Messages;

    use super::*;

    fn asked(questions: &Questions, turn: u64) -> Vec<(String, String)> {
        let mut out = BytesMut::new();
        questions.encode(turn, 300, &mut out);
        let frame = Frame::decode(&out[4..]).unwrap();
        assert_eq!((frame.kind, frame.stream_id, frame.frame_id), (FrameType::Notify, 300, FRAME_ID));
        assert!(out.len() - 4 <= questions.frame_bytes_max());
        let messages = Messages::decode(frame.payload).unwrap();
        let show = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        messages
            .iter()
            .flat_map(|message| message.arguments().map(move |(name, value)| (show(name), format!("{value:?}"))))
            .collect()
    }

    #[test]
    fn tokens_take_turns_in_place_of_the_authorization_that_was_there() {
        let argument = |text: &str| text.parse::<Argument>().unwrap();
        let arguments = vec![argument("path=/v1"), argument("authorization=null:")];
        let question = Question { message: "request".to_owned(), arguments };
        let tokens = ["one".to_owned(), "two".to_owned()];
        let questions = Questions::new(&question, &tokens).unwrap();
        for (turn, token) in [(0, b"Bearer one"), (1, b"Bearer two"), (2, b"Bearer one")] {
            let expected = [("path", TypedData::Str(b"/v1")), ("authorization", TypedData::Str(token))];
            let expected = expected.map(|(name, value)| (name.to_owned(), format!("{value:?}")));
            assert_eq!(asked(&questions, turn), expected);
        }
        let full = Question { arguments: vec![argument("a=b"); 255], ..question };
        assert!(Questions::new(&full, &[]).is_ok() && Questions::new(&full, &tokens).is_err());
    }
}
