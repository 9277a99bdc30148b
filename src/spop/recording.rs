//! Recorded conversations as text: annotated hex, one direction after the other, which a person can read, write and
//! compare. What stands in `proto-fixtures/`.
//!
//! ```text
//! # What this shows.
//! > 0.000                                             from HAProxy, seconds since the connection came
//! 00 00 00 4e                                         length 78
//! 01                                                  HAPROXY-HELLO
//! < 0.001                                             from the agent
//! > closed
//! ```
//!
//! A line is a comment (`#`), the beginning of one side's bytes (`>` HAProxy, `<` agent; the time may be left out), the end
//! of a side (`closed`, `reset`), or hex bytes. What stands behind two blanks is annotation and is not read; it may stand
//! alone, where bytes are missing. It is made anew by [`Recording::to_text`], so that a file whose text comes back
//! unchanged holds its own expected reading.

use std::fmt::Write as _;
use std::time::Duration;

use super::annotate::annotate;

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// In order.
    pub items: Vec<Item>,
    /// Comment lines after the last item.
    pub trailer: Vec<String>,
}

/// Something one side did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Comment lines before it, without `#`.
    pub comments: Vec<String>,
    /// Whose.
    pub from: Side,
    /// Since the connection came, to a millisecond in text.
    pub at: Option<Duration>,
    /// What.
    pub what: What,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// HAProxy, `>`.
    Haproxy,
    /// The agent, `<`.
    Agent,
}

/// What it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Sent these, mostly one frame with its length prefix.
    Sent(Vec<u8>),
    /// Closed, or closed its sending half.
    Closed,
    /// Reset the connection.
    Reset,
}

/// Why a text is no recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RecordingError {
    /// From 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl Recording {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Recording, RecordingError> {
        let mut recording = Recording::default();
        let mut comments = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |problem: String| RecordingError { line: at + 1, problem };
            let line = line.trim_end();
            // Annotation alone: something that ought to be there and is not.
            if line.starts_with("  ") {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                comments.push(comment.strip_prefix(' ').unwrap_or(comment).to_owned());
                continue;
            }
            let read = line.split("  ").next().unwrap_or_default().trim();
            let side = match read.chars().next() {
                None => continue,
                Some('>') => Some(Side::Haproxy),
                Some('<') => Some(Side::Agent),
                Some(_) => None,
            };
            if let Some(from) = side {
                let mut item =
                    Item { comments: std::mem::take(&mut comments), from, at: None, what: What::Sent(Vec::new()) };
                for word in read.split_whitespace().skip(1) {
                    match word {
                        "closed" => item.what = What::Closed,
                        "reset" => item.what = What::Reset,
                        time => {
                            let seconds = time.parse().ok().and_then(|time| Duration::try_from_secs_f64(time).ok());
                            let expected = || wrong(format!("`{time}`: expected seconds, `closed` or `reset`"));
                            item.at = Some(seconds.ok_or_else(expected)?);
                        }
                    }
                }
                recording.items.push(item);
                continue;
            }
            let Some(Item { what: What::Sent(bytes), .. }) = recording.items.last_mut() else {
                return Err(wrong(
                    "bytes of nobody: expected `>` (HAProxy) or `<` (agent) on a line before".to_owned(),
                ));
            };
            for word in read.split_whitespace() {
                let byte = Some(word).filter(|word| word.len() == 2).and_then(|word| u8::from_str_radix(word, 16).ok());
                bytes.push(byte.ok_or_else(|| wrong(format!("`{word}`: expected two hex digits")))?);
            }
        }
        recording.trailer = comments;
        Ok(recording)
    }

    /// The text form, annotated. Reading it gives the same recording; times are cut to milliseconds.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let comment = |out: &mut String, lines: &[String]| {
            for line in lines {
                out.push_str(format!("# {line}").trim_end());
                out.push('\n');
            }
        };
        for item in &self.items {
            comment(&mut out, &item.comments);
            out.push(if item.from == Side::Haproxy { '>' } else { '<' });
            if let Some(at) = item.at {
                let _ = write!(out, " {:.3}", at.as_secs_f64());
            }
            match &item.what {
                What::Sent(bytes) => {
                    out.push('\n');
                    hex(bytes, &mut out);
                }
                What::Closed => out.push_str(" closed\n"),
                What::Reset => out.push_str(" reset\n"),
            }
        }
        comment(&mut out, &self.trailer);
        out
    }

    /// All that one side sent.
    pub fn sent_by(&self, side: Side) -> Vec<u8> {
        let of = self.items.iter().filter(|item| item.from == side);
        of.filter_map(|item| if let What::Sent(bytes) = &item.what { Some(bytes) } else { None })
            .flatten()
            .copied()
            .collect()
    }

    /// The lines of comments that begin with `key:`, without it. What a file says of itself to programs: `refused: 4`.
    pub fn facts<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let comments = self.items.iter().flat_map(|item| &item.comments).chain(&self.trailer);
        comments.filter_map(move |line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
    }
}

/// Appends bytes with their reading beside them.
pub fn hex(bytes: &[u8], out: &mut String) {
    for note in annotate(bytes) {
        // A note without bytes has a row all the same: it says what is missing.
        let rows = note.bytes.chunks(ROW_BYTES).chain(note.bytes.is_empty().then_some(note.bytes));
        for (row, bytes) in rows.enumerate() {
            let mut line = String::new();
            for byte in bytes {
                let _ = write!(line, "{byte:02x} ");
            }
            if row == 0 && !note.text.is_empty() {
                let _ = write!(line, "{:width$}{}", "", note.text, width = 2 + 3 * ROW_BYTES - line.len());
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

const ROW_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::engine;
    use super::*;

    #[test]
    fn a_recording_comes_back_with_its_comments_times_and_ends() {
        let mut hello = BytesMut::new();
        engine::hello(16380, true, &mut hello);
        let item = |from, at, what| Item { comments: vec![], from, at: Some(Duration::from_millis(at)), what };
        let mut recording = Recording {
            items: vec![
                item(Side::Haproxy, 0, What::Sent(hello.to_vec())),
                item(Side::Agent, 12, What::Closed),
                item(Side::Haproxy, 1234, What::Reset),
            ],
            trailer: vec!["the end".to_owned()],
        };
        recording.items[0].comments = vec!["What this shows.".to_owned(), String::new(), "refused: 4".to_owned()];
        let text = recording.to_text();
        assert_eq!(Recording::parse(&text).as_ref(), Ok(&recording));
        assert_eq!(recording.facts("refused").collect::<Vec<_>>(), ["4"]);
        assert!(text.contains("> 0.000\n00 00 00 7b"), "{text}");
        assert!(text.ends_with("< 0.012 closed\n> 1.234 reset\n# the end\n"), "{text}");
    }

    #[test]
    fn what_is_missing_has_a_line_of_its_own_that_is_not_read() {
        let bytes = b"\0\0\0\x0a\x01\0\0\0\x01\0\0\x02ab".to_vec();
        let item = Item { comments: vec![], from: Side::Agent, at: None, what: What::Sent(bytes) };
        let recording = Recording { items: vec![item], trailer: vec![] };
        let text = recording.to_text();
        assert!(text.ends_with("  error: the input ends inside a value\n"), "{text}");
        assert_eq!(Recording::parse(&text), Ok(recording));
    }

    #[test]
    fn a_text_that_is_no_recording_is_refused_with_its_line() {
        for (text, expected) in [
            ("00 01", "line 1: bytes of nobody: expected `>` (HAProxy) or `<` (agent) on a line before"),
            (">\n0g", "line 2: `0g`: expected two hex digits"),
            (">\n000", "line 2: `000`: expected two hex digits"),
            ("> soon", "line 1: `soon`: expected seconds, `closed` or `reset`"),
            ("> -1", "line 1: `-1`: expected seconds, `closed` or `reset`"),
            ("> closed\n00", "line 2: bytes of nobody: expected `>` (HAProxy) or `<` (agent) on a line before"),
        ] {
            assert_eq!(Recording::parse(text).map_err(|error| error.to_string()), Err(expected.to_owned()), "{text}");
        }
    }
}
