//! Breaks a conversation, mostly where its grammar bends: what decodes in part gets further into an agent than noise.

use fastrand::Rng;

use super::generate::{BOUNDARIES, Draft, Part, Role, disconnect, hello, number, one_of};
use super::script::Seed;

/// Breaks it in up to four places; one conversation in six stays as it is.
pub fn mutate(random: &mut Rng, parts: &mut Vec<Part>) {
    for _ in 0..one_of(random, &[0, 1, 1, 1, 2, 4]) {
        match random.u8(..100) {
            0..45 => token(random, parts),
            45..60 => prefix(random, parts),
            60..80 => order(random, parts),
            80..90 => noise(random, parts),
            _ => writes(random, parts),
        }
    }
}

/// Some frame of it.
fn frame<'a>(random: &mut Rng, parts: &'a mut [Part]) -> Option<&'a mut Draft> {
    let mut frames: Vec<_> =
        parts.iter_mut().filter_map(|part| if let Part::Frame(draft) = part { Some(draft) } else { None }).collect();
    let at = random.usize(..frames.len().max(1));
    (at < frames.len()).then(|| frames.swap_remove(at))
}

/// Changes one token to what its place makes interesting.
fn token(random: &mut Rng, parts: &mut [Part]) {
    let Some(draft) = frame(random, parts) else { return };
    // Half of the time in the head, which is four tokens of many.
    let tokens = if random.bool() { draft.tokens.len().min(4) } else { draft.tokens.len() };
    if tokens == 0 {
        return;
    }
    let at = random.usize(..tokens);
    let token = &mut draft.tokens[at];
    token.bytes = match token.role {
        Role::Kind => vec![one_of(random, &[0, 1, 2, 3, 4, 99, 100, 101, 102, 103, 104, 255])],
        Role::Flags => one_of(random, &[0, 1, 2, 3, 4, 5, 0x8000_0001, u32::MAX]).to_be_bytes().to_vec(),
        Role::Id | Role::Length => varint(random, &token.bytes),
        Role::Count => {
            vec![one_of(random, &[0, 1, token.bytes[0].wrapping_add(1), token.bytes[0].wrapping_sub(1), 255])]
        }
        Role::Tag => vec![random.u8(..16) | one_of(random, &[0, 0, 0x10, 0x20, 0xf0])],
        Role::Content => match random.u8(..4) {
            0 => Vec::new(),
            1 => token.bytes.repeat(2),
            2 => token.bytes.iter().map(|byte| byte ^ 0xff).collect(),
            _ => {
                let length = random.usize(1..40);
                std::iter::repeat_with(|| random.u8(..)).take(length).collect()
            }
        },
    };
    // The frame ends here: what was to follow is missing.
    if random.u8(..100) < 25 {
        draft.tokens.truncate(at + 1);
    }
}

/// A number at a boundary, near the one that was there, or none at all.
fn varint(random: &mut Rng, before: &[u8]) -> Vec<u8> {
    match random.u8(..10) {
        0..5 => number(one_of(random, &BOUNDARIES)),
        5 => number(u64::from(before.first().copied().unwrap_or(0)) + 1),
        6 => number(u64::from(before.first().copied().unwrap_or(0)).saturating_sub(1)),
        // It ends inside: the last byte says that one follows.
        7 => vec![0xf0 | random.u8(..16), 0x80 | random.u8(..128), 0x80],
        // 2^64, one above the largest.
        8 => vec![0xf0, 0xf1, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0x0e],
        // Longer than any.
        _ => [vec![0xff; random.usize(9..20)], vec![0x00]].concat(),
    }
}

/// A length before a frame that is not its own.
fn prefix(random: &mut Rng, parts: &mut [Part]) {
    let Some(draft) = frame(random, parts) else { return };
    let right = u32::try_from(draft.body().len()).unwrap_or(u32::MAX);
    let near = [right.wrapping_sub(1), right + 1, right + 20, right / 2];
    let far =
        [0, 1, 6, 7, 8, 255, 256, 16_380, 16_381, 1 << 18, (1 << 18) + 1, 1 << 24, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    draft.length = Some(if random.bool() { one_of(random, &near) } else { one_of(random, &far) });
}

/// Frames that are gone, come twice, come early, or should not be there at all.
fn order(random: &mut Rng, parts: &mut Vec<Part>) {
    let Some(last) = parts.len().checked_sub(1) else { return };
    let (at, other) = (random.usize(..=last), random.usize(..=last));
    match random.u8(..8) {
        0 => {
            parts.remove(at);
        }
        1 => parts.insert(other, parts[at].clone()),
        2 => parts.swap(at, other),
        3 => parts.truncate(at + 1),
        4 => parts.insert(at, Part::Settle),
        5 => parts.insert(at, if random.bool() { Part::Finish } else { Part::Abort }),
        _ => {
            let ids = one_of(random, &[(0, 0), (1, 1), (3, 1)]);
            let draft = match random.u8(..8) {
                0 => hello(one_of(random, &[0, 255, 256, u32::MAX]), true, false, Seed(random.u64(..))),
                1 => hello(16_380, false, true, Seed(0)),
                2 => disconnect(),
                3 => Draft::new(0, one_of(random, &[0, 1, 3]), ids.0, ids.1),
                4 => Draft::new(3, one_of(random, &[0, 2, 3]), ids.0, ids.1),
                5 => Draft::new(one_of(random, &[101, 102, 103]), 1, ids.0, ids.1),
                _ => Draft::new(random.u8(4..), 1, ids.0, ids.1),
            };
            parts.insert(at, Part::Frame(draft));
        }
    }
}

/// Bytes that are changed, lost or added, whatever they meant.
fn noise(random: &mut Rng, parts: &mut [Part]) {
    let Some(draft) = frame(random, parts) else { return };
    // As one token, the frame has bytes anywhere.
    let mut bytes = draft.body();
    if random.u8(..4) > 0 {
        draft.length.get_or_insert(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
    let at = random.usize(..=bytes.len());
    match random.u8(..4) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, (0..random.u8(1..30)).map(|byte| byte.wrapping_mul(37)))),
        _ => {
            for _ in 0..random.u8(1..6) {
                let at = random.usize(..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.u8(..);
                }
            }
        }
    }
    draft.tokens.clear();
    draft.push(Role::Content, bytes);
}

/// The same bytes in other writes.
fn writes(random: &mut Rng, parts: &mut [Part]) {
    let Some(draft) = frame(random, parts) else { return };
    let length = draft.body().len() + 4;
    draft.cuts = (0..random.u8(1..4)).map(|_| random.usize(1..length.max(2))).collect();
}
