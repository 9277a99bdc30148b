//! Conversations as HAProxy holds them, made from a seed, as pieces of the grammar that `mutate` can break one by one.

use bytes::BytesMut;
use fastrand::Rng;
use tollgate::spop::{TypedData, varint};

use super::mutate::mutate;
use super::script::{Script, Seed, Step};
use crate::question::{Question, Value};

/// The conversation of a seed: the same bytes whenever it is made with the same question.
pub fn script(seed: Seed, question: &Question) -> Script {
    let mut random = Rng::with_seed(seed.0);
    let mut parts = valid(&mut random, seed, question);
    mutate(&mut random, &mut parts);
    let step = |part: Part| match part {
        Part::Frame(draft) => draft.step(),
        Part::Settle => Step::Settle,
        Part::Finish => Step::Finish,
        Part::Abort => Step::Abort,
    };
    Script { steps: parts.into_iter().map(step).collect() }
}

/// An event before it is bytes.
#[derive(Clone, Debug)]
pub enum Part {
    Frame(Draft),
    Settle,
    Finish,
    Abort,
}

/// A frame before it is bytes.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// What the prefix says instead of the truth.
    pub length: Option<u32>,
    pub tokens: Vec<Token>,
    /// Where its write is split, in bytes with the prefix.
    pub cuts: Vec<usize>,
}

/// The smallest thing that means something.
#[derive(Clone, Debug)]
pub struct Token {
    pub role: Role,
    pub bytes: Vec<u8>,
}

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Kind,
    Flags,
    /// Stream-id or frame-id.
    Id,
    /// Of a string, before it.
    Length,
    /// Of a message's arguments.
    Count,
    /// A value's type and flags.
    Tag,
    /// A value, or the text of a name.
    Content,
}

impl Draft {
    /// The head of a frame.
    pub fn new(kind: u8, flags: u32, stream_id: u64, frame_id: u64) -> Draft {
        let mut draft = Draft::default();
        draft.push(Role::Kind, vec![kind]);
        draft.push(Role::Flags, flags.to_be_bytes().to_vec());
        draft.push(Role::Id, number(stream_id));
        draft.push(Role::Id, number(frame_id));
        draft
    }

    pub fn push(&mut self, role: Role, bytes: Vec<u8>) {
        self.tokens.push(Token { role, bytes });
    }

    fn string(&mut self, bytes: &[u8]) {
        self.push(Role::Length, number(bytes.len() as u64));
        self.push(Role::Content, bytes.to_vec());
    }

    fn value(&mut self, value: TypedData<'_>) {
        let mut out = BytesMut::new();
        value.encode(&mut out);
        self.push(Role::Tag, out.split_to(1).to_vec());
        match value {
            TypedData::Str(bytes) | TypedData::Bin(bytes) => self.string(bytes),
            _ => self.push(Role::Content, out.to_vec()),
        }
    }

    fn pair(&mut self, key: &str, value: TypedData<'_>) {
        self.string(key.as_bytes());
        self.value(value);
    }

    /// Without the prefix.
    pub fn body(&self) -> Vec<u8> {
        self.tokens.iter().flat_map(|token| &token.bytes).copied().collect()
    }

    fn step(self) -> Step {
        let body = self.body();
        let length = self.length.unwrap_or(u32::try_from(body.len()).unwrap_or(u32::MAX));
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        let mut cuts = self.cuts;
        cuts.retain(|cut| *cut < bytes.len());
        cuts.sort_unstable();
        cuts.dedup();
        Step::Write { bytes, cuts }
    }
}

/// A varint.
pub fn number(value: u64) -> Vec<u8> {
    let mut out = BytesMut::new();
    varint::encode(value, &mut out);
    out.to_vec()
}

/// One of these.
pub fn one_of<T: Copy>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}

/// Numbers at which an encoding or a width changes.
pub const BOUNDARIES: [u64; 14] = [
    0,
    1,
    239,
    240,
    2287,
    2288,
    264_431,
    264_432,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 63,
    u64::MAX,
];

pub const UNSET: u8 = 0;
pub const HELLO: u8 = 1;
pub const DISCONNECT: u8 = 2;
pub const NOTIFY: u8 = 3;
pub const FIN: u32 = 1;
pub const ABORT: u32 = 2;

fn valid(random: &mut Rng, seed: Seed, question: &Question) -> Vec<Part> {
    let size = one_of(random, &[16_380, 16_380, 16_380, 256, 1000, 65_532, 1 << 20]);
    let check = random.u8(..100) < 4;
    let mut parts = vec![Part::Frame(hello(size, random.u8(..100) < 90, check, seed))];
    if check {
        return parts;
    }
    if random.u8(..100) < 80 {
        parts.push(Part::Settle);
    }
    let mut stream_id = one_of(random, &[0, 1, 1, 200, 238, 2280, 264_430, 0x7fff_fff0]);
    let frame_id = one_of(random, &[1, 1, 1, 1, 2, 239, 240, 2287, 2288, 300_000]);
    for _ in 0..random.usize(1..=12) {
        let mut draft = Draft::new(NOTIFY, FIN, stream_id, frame_id);
        messages(random, question, size as usize, &mut draft);
        match random.u8(..100) {
            0..15 => fragments(random, &draft, stream_id, frame_id, &mut parts),
            15..20 => {
                let kind = one_of(random, &[4, 50, 100, 104, 200, 255]);
                let mut unknown = Draft::new(kind, FIN, one_of(random, &[0, stream_id]), 0);
                unknown.push(Role::Content, vec![b'?'; random.usize(..20)]);
                parts.push(Part::Frame(unknown));
            }
            _ => parts.push(Part::Frame(draft)),
        }
        if random.u8(..100) < 10 {
            parts.push(Part::Settle);
        }
        stream_id += random.u64(1..=2);
    }
    match random.u8(..100) {
        0..35 => parts.push(Part::Frame(disconnect())),
        35..40 => parts.push(Part::Finish),
        40..45 => parts.push(Part::Abort),
        _ => {}
    }
    parts
}

/// HAPROXY-HELLO; of a health check where `check`.
pub fn hello(size: u32, pipelining: bool, check: bool, seed: Seed) -> Draft {
    let mut draft = Draft::new(HELLO, FIN, 0, 0);
    draft.pair("supported-versions", TypedData::Str(b"2.0"));
    draft.pair("max-frame-size", TypedData::UInt32(size));
    draft.pair("capabilities", TypedData::Str(if pipelining && !check { b"pipelining" } else { b"" }));
    if check {
        draft.pair("healthcheck", TypedData::Bool(true));
    } else {
        // Two connections of one engine may be mixed up by an agent; these never are of one.
        draft.pair("engine-id", TypedData::Str(format!("5a1e7e57-{seed}").as_bytes()));
    }
    draft
}

/// HAPROXY-DISCONNECT.
pub fn disconnect() -> Draft {
    let mut draft = Draft::new(DISCONNECT, FIN, 0, 0);
    draft.pair("status-code", TypedData::UInt32(0));
    draft.pair("message", TypedData::Str(b"normal"));
    draft
}

/// The question, and perhaps others that nobody asked for; the frame stays within `size`.
fn messages(random: &mut Rng, question: &Question, size: usize, draft: &mut Draft) {
    let count = one_of(random, &[1, 1, 1, 1, 1, 0, 2, 3]);
    for _ in 0..count {
        let before = draft.tokens.len();
        draft.string(question.message.as_bytes());
        draft.push(Role::Count, vec![u8::try_from(question.arguments.len().min(255)).unwrap_or(u8::MAX)]);
        for argument in question.arguments.iter().take(255) {
            draft.string(argument.name.as_bytes());
            match (&argument.value, random.u8(..100)) {
                // Long ones, and lengths at which a varint grows.
                (Value::Str(text), 0..12) => {
                    let length = one_of(random, &[0, 1, 239, 240, 241, 2287, 2288, 5000]);
                    draft.value(TypedData::Str(&text.iter().copied().cycle().take(length).collect::<Vec<_>>()));
                }
                (_, 12..20) => other_value(random, draft),
                (value, _) => draft.value(value.borrow()),
            }
        }
        // 64 for the two identifiers, and what a fragment needs again.
        if draft.body().len() + 64 > size {
            draft.tokens.truncate(before);
        }
    }
}

/// A value of a type that nobody expects there.
fn other_value(random: &mut Rng, draft: &mut Draft) {
    let number = one_of(random, &BOUNDARIES);
    let bytes = [0xff, 0, b'\r', b'\n', b'x'];
    draft.value(match random.u8(..9) {
        0 => TypedData::Null,
        1 => TypedData::Bool(number & 1 == 0),
        2 => TypedData::Int32(-1),
        3 => TypedData::UInt32(u32::MAX),
        4 => TypedData::Int64(number.cast_signed()),
        5 => TypedData::UInt64(number),
        6 => TypedData::Ipv4([192, 0, 2, 7].into()),
        7 => TypedData::Ipv6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into()),
        _ => TypedData::Bin(&bytes),
    });
}

/// The same NOTIFY in pieces, cut anywhere; sometimes given up midway.
fn fragments(random: &mut Rng, draft: &Draft, stream_id: u64, frame_id: u64, parts: &mut Vec<Part>) {
    // Type, flags and identifiers are four tokens; the payload may be cut between any two of its bytes.
    let payload: Vec<u8> = draft.tokens.iter().skip(4).flat_map(|token| &token.bytes).copied().collect();
    let pieces = random.usize(2..=4);
    let aborted = random.u8(..100) < 25;
    let mut rest = &payload[..];
    for piece in 0..pieces {
        let last = piece + 1 == pieces;
        let (bytes, after) = rest.split_at(if last { rest.len() } else { random.usize(..=rest.len()) });
        rest = after;
        let flags = match (last, aborted) {
            (false, _) => 0,
            (true, false) => FIN,
            (true, true) => FIN | ABORT,
        };
        let mut fragment = Draft::new(if piece == 0 { NOTIFY } else { UNSET }, flags, stream_id, frame_id);
        fragment.push(Role::Content, if last && aborted { Vec::new() } else { bytes.to_vec() });
        parts.push(Part::Frame(fragment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
        let question = Question::new(None, &[]).unwrap();
        let scripts: Vec<_> = (0..200).map(|index| script(Seed::of(7, index), &question)).collect();
        let again: Vec<_> = (0..200).map(|index| script(Seed::of(7, index), &question)).collect();
        assert_eq!(scripts, again);
        // Health checks have no engine-id, and so are all the same.
        let long: Vec<_> = scripts.iter().filter(|script| script.len() > 2).collect();
        assert!(long.len() > 100);
        for (at, one) in long.iter().enumerate() {
            assert!(long.iter().skip(at + 1).all(|other| one != other), "conversation {at} comes twice");
        }
    }

    #[test]
    fn before_it_is_mutated_a_conversation_is_what_haproxy_says() {
        use tollgate::spop::properties::{Conversation, End, Violation, conversation_holds};
        let question = Question::new(None, &[]).unwrap();
        for index in 0..500 {
            let seed = Seed::of(11, index);
            let parts = valid(&mut Rng::with_seed(seed.0), seed, &question);
            let sent: Vec<u8> = parts
                .iter()
                .filter_map(|part| if let Part::Frame(draft) = part { Some(draft.clone().step()) } else { None })
                .flat_map(|step| if let Step::Write { bytes, .. } = step { bytes } else { Vec::new() })
                .collect();
            // Every part of it decodes, or an agent that closes would be in the right.
            let goodbye = sent.windows(11).any(|window| window == b"status-code");
            let closed = Conversation { sent: &sent, received: &[], settled: &[], end: End::Closed };
            let expected = if goodbye || sent.len() < 100 { Ok(()) } else { Err(Violation::Ended) };
            assert_eq!(conversation_holds(&closed), expected, "seed {seed}");
        }
    }
}
