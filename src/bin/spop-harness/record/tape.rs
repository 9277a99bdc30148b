//! What was said on one connection, frame by frame, as it grows.

use std::time::{Duration, Instant};

use tollgate::spop::frame::{FRAME_BYTES_MIN, PREFIX_BYTES};
use tollgate::spop::recording::{Item, Recording, Side, What};

/// A recording in the making.
#[derive(Debug)]
pub struct Tape {
    begun: Instant,
    items: Vec<Item>,
    trailer: Vec<String>,
    /// Bytes of each side that are no whole frame yet.
    unfinished: [Vec<u8>; 2],
    /// A length that no frame has: where the next frame begins is not known any more.
    lost: [bool; 2],
    kept: usize,
    full: bool,
}

/// What one connection may take: 1 MiB of what was said, each item counted with what it costs beside its bytes.
pub const TAPE_BYTES_MAX: usize = 1024 * 1024;

impl Tape {
    /// The connection came now.
    pub fn new() -> Tape {
        Tape {
            begun: Instant::now(),
            items: Vec::new(),
            trailer: Vec::new(),
            unfinished: [Vec::new(), Vec::new()],
            lost: [false; 2],
            kept: 0,
            full: false,
        }
    }

    /// One side sent these. Each frame that becomes whole by them is an item.
    pub fn sent(&mut self, side: Side, bytes: &[u8]) {
        self.full |= self.kept + bytes.len() > TAPE_BYTES_MAX;
        if self.full {
            return;
        }
        self.kept += bytes.len();
        let mut rest = std::mem::take(&mut self.unfinished[index(side)]);
        rest.extend_from_slice(bytes);
        let mut taken = 0;
        while let Some(frame) = rest.get(taken..).and_then(|rest| self.whole(side, rest)) {
            taken += frame.len();
            let frame = frame.to_vec();
            self.item(side, What::Sent(frame));
        }
        rest.drain(..taken);
        self.unfinished[index(side)] = rest;
    }

    /// One side closed, or closed its sending half.
    pub fn closed(&mut self, side: Side) {
        self.rest(side);
        self.item(side, What::Closed);
    }

    /// One side reset the connection.
    pub fn reset(&mut self, side: Side) {
        self.rest(side);
        self.item(side, What::Reset);
    }

    /// The recording ends for a reason that is no side's.
    pub fn ended_by(mut self, reason: String) -> Tape {
        self.trailer.push(reason);
        self
    }

    /// All of it; what never became a frame stands at the end.
    pub fn into_recording(mut self) -> Recording {
        self.rest(Side::Haproxy);
        self.rest(Side::Agent);
        if self.full {
            self.trailer.push(format!("More was said than the {TAPE_BYTES_MAX} bytes that are kept."));
        }
        Recording { items: self.items, trailer: self.trailer }
    }

    /// The frame at the front with its prefix; whatever is there where no frames can be told any more.
    fn whole<'a>(&mut self, side: Side, rest: &'a [u8]) -> Option<&'a [u8]> {
        let lost = &mut self.lost[index(side)];
        let prefix = rest.first_chunk::<PREFIX_BYTES>()?;
        let length = u32::from_be_bytes(*prefix) as usize;
        // A frame that would not fit the tape is none for it either, so that a frame is never waited for in vain.
        *lost |= !(FRAME_BYTES_MIN..TAPE_BYTES_MAX).contains(&length);
        if *lost { Some(rest) } else { rest.get(..PREFIX_BYTES + length) }
    }

    fn rest(&mut self, side: Side) {
        let rest = std::mem::take(&mut self.unfinished[index(side)]);
        if !rest.is_empty() {
            self.item(side, What::Sent(rest));
        }
    }

    fn item(&mut self, from: Side, what: What) {
        self.kept += size_of::<Item>();
        self.full |= self.kept > TAPE_BYTES_MAX;
        self.items.push(Item { comments: Vec::new(), from, at: Some(self.now()), what });
    }

    /// To the millisecond, as the text has it.
    fn now(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Haproxy => 0,
        Side::Agent => 1,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tollgate::spop::engine;

    use super::*;

    fn of(recording: &Recording) -> Vec<(Side, What)> {
        recording.items.iter().map(|item| (item.from, item.what.clone())).collect()
    }

    #[test]
    fn frames_are_told_apart_however_they_arrive_and_the_rest_is_kept() {
        let mut bytes = BytesMut::new();
        engine::healthcheck(&mut bytes);
        let first = bytes.to_vec();
        engine::hello(16380, true, &mut bytes);
        let second = bytes[first.len()..].to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 9, 3]);
        for size in 1..bytes.len() {
            let mut tape = Tape::new();
            for piece in bytes.chunks(size) {
                tape.sent(Side::Haproxy, piece);
            }
            tape.closed(Side::Haproxy);
            let sent = |bytes: &[u8]| (Side::Haproxy, What::Sent(bytes.to_vec()));
            let expected = [sent(&first), sent(&second), sent(&[0, 0, 0, 9, 3]), (Side::Haproxy, What::Closed)];
            assert_eq!(of(&tape.into_recording()), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn bytes_behind_a_length_that_no_frame_has_are_kept_as_they_came() {
        let mut tape = Tape::new();
        tape.sent(Side::Agent, &[0, 0, 0, 3, 1]);
        tape.sent(Side::Agent, b"whatever");
        tape.sent(Side::Agent, b"abc");
        let recording = tape.into_recording();
        assert_eq!(recording.sent_by(Side::Agent), b"\0\0\0\x03\x01whateverabc");
    }

    #[test]
    fn what_a_connection_may_take_is_bounded_and_said() {
        let mut tape = Tape::new();
        let frame = [&[0, 0, 0, 7][..], &[3, 0, 0, 0, 1, 1, 1]].concat();
        for _ in 0..TAPE_BYTES_MAX {
            tape.sent(Side::Haproxy, &frame);
        }
        let recording = tape.into_recording();
        assert!(recording.items.len() * (size_of::<Item>() + frame.len()) <= TAPE_BYTES_MAX + size_of::<Item>());
        assert_eq!(recording.trailer, ["More was said than the 1048576 bytes that are kept."]);
    }
}
