//! One conversation at a time: whether it shows a fault again, which of several does, and how little of it is enough.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use tollgate::spop::frame::PREFIX_BYTES;
use tollgate::spop::recording::Recording;

use super::PATIENCE;
use super::canary::Canary;
use super::play::{Fault, Played, play};
use super::script::{Kept, Part, Script, Step};
use super::witness::{Calm, Trouble, Witness};
use crate::target::Target;

/// Who is tried.
#[derive(Debug)]
pub enum Ground {
    /// An agent of somebody's.
    Agent(Target),
    /// One of ours that is broken on purpose.
    Canary(Canary),
}

impl Ground {
    pub fn target(&self) -> Target {
        match self {
            Ground::Agent(target) => target.clone(),
            Ground::Canary(canary) => canary.target(),
        }
    }

    /// Waits until the agent is there, again: a broken one of ours is started anew, somebody else's may be by whoever
    /// watches over it.
    pub async fn revive(&mut self) -> bool {
        if let Ground::Canary(canary) = self {
            canary.revive().await;
        }
        let until = Instant::now() + REVIVAL_TIME;
        loop {
            if Witness::connect(&self.target(), PATIENCE).await.is_ok() {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A fault, and who felt it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// The connection itself.
    Own(Fault),
    /// A well-behaved one beside it.
    Beside(Trouble),
}

impl fmt::Display for Symptom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Symptom::Own(fault) => fault.fmt(f),
            Symptom::Beside(trouble) => trouble.fmt(f),
        }
    }
}

impl Symptom {
    /// Whether both are the same violation of the protocol. Of what others suffer nobody can say so.
    pub fn is_same_violation(&self, other: &Symptom) -> bool {
        let violates = |symptom: &Symptom| matches!(symptom, Symptom::Own(Fault::Violation(_)));
        violates(self) && violates(other) && self.is_like(other)
    }

    /// Whether it is the same fault, as far as can be told from outside.
    fn is_like(&self, other: &Symptom) -> bool {
        match (self, other) {
            (Symptom::Own(Fault::Violation(one)), Symptom::Own(Fault::Violation(other))) => one.is_like(other),
            (Symptom::Own(Fault::Violation(_)), _) | (_, Symptom::Own(Fault::Violation(_))) => false,
            // Others suffer, whichever notices first.
            _ => true,
        }
    }

    /// Whether time alone can bring it about, on a busy machine.
    pub fn is_of_time(&self) -> bool {
        match self {
            Symptom::Own(Fault::Violation(violation)) => violation.may_pass(),
            Symptom::Own(Fault::Unreachable(_)) => true,
            Symptom::Beside(trouble) => !matches!(trouble, Trouble::Different { .. }),
        }
    }
}

/// What one conversation, alone, did.
#[derive(Debug)]
pub struct Tried {
    pub symptom: Option<Symptom>,
    pub recording: Recording,
}

/// Plays one conversation, and looks whether others are still served.
pub async fn try_one(ground: &mut Ground, calm: &Calm, script: &Script, patience: Duration) -> Tried {
    let target = ground.target();
    if let Ground::Canary(canary) = ground {
        canary.revive().await;
    }
    let mut witness = match Witness::connect(&target, patience).await {
        Ok(witness) => witness,
        // What went before has felled it.
        Err(trouble) if !ground.revive().await => {
            return Tried { symptom: Some(Symptom::Beside(trouble)), recording: Recording::default() };
        }
        Err(_) => match Witness::connect(&target, patience).await {
            Ok(witness) => witness,
            Err(trouble) => {
                return Tried { symptom: Some(Symptom::Beside(trouble)), recording: Recording::default() };
            }
        },
    };
    let Played { recording, verdict, .. } = play(&target, script, patience).await;
    let symptom = match verdict {
        Err(fault) => Some(Symptom::Own(fault)),
        Ok(()) => beside(&mut witness, calm, &target, patience).await.err().map(Symptom::Beside),
    };
    Tried { symptom, recording }
}

/// Whether an old and a new connection are served.
async fn beside(witness: &mut Witness, calm: &Calm, target: &Target, patience: Duration) -> Result<(), Trouble> {
    witness.look(calm).await?;
    Witness::connect(target, patience).await?.look(calm).await?;
    Ok(())
}

/// How little of `script` still shows `symptom`: without whole events first, then without bytes; a bounded number of
/// tries and a bounded time. Gives what is kept.
pub async fn minimise(ground: &mut Ground, calm: &Calm, script: &Script, symptom: &Symptom) -> Kept {
    let mut search = Search { ground, calm, script, symptom, tries: 0, until: Instant::now() + MINIMISE_TIME };
    let mut kept = Kept::all(script);
    let mut size = kept.0.len().div_ceil(2).max(1);
    while size > 0 {
        let before = kept.0.len();
        let mut at = 0;
        while at < kept.0.len() && kept.0.len() > 1 {
            let mut less = kept.clone();
            less.0.drain(at..(at + size).min(kept.0.len()));
            if !less.0.is_empty() && search.shows(&less).await {
                kept = less;
            } else {
                at += if size > FRAGMENTS { size } else { 1 };
            }
        }
        size = match size {
            // What came before an event that went may go too now.
            1 if kept.0.len() < before => 1,
            ..=FRAGMENTS => size - 1,
            _ => size.div_ceil(2).max(FRAGMENTS),
        };
    }
    for index in 0..kept.0.len() {
        let Some(Step::Write { bytes, .. }) = script.steps.get(kept.0[index].step) else { continue };
        let mut ranges = up_to(bytes.len());
        // A frame without any payload is whole, and what is behind the head mostly goes together.
        if let Some(head) = head_len(bytes).filter(|head| *head < bytes.len()) {
            let mut tried = kept.clone();
            tried.0[index] = Part { step: kept.0[index].step, ranges: up_to(head) };
            if search.shows(&tried).await {
                (ranges, kept) = (up_to(head), tried);
            }
        }
        let mut size = length(&ranges).div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < length(&ranges) {
                let less = without(&ranges, at..at + size);
                let mut tried = kept.clone();
                tried.0[index] = Part { step: kept.0[index].step, ranges: less.clone() };
                if !less.is_empty() && search.shows(&tried).await {
                    (ranges, kept) = (less, tried);
                } else {
                    at += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }
    kept
}

struct Search<'a> {
    ground: &'a mut Ground,
    calm: &'a Calm,
    script: &'a Script,
    symptom: &'a Symptom,
    tries: usize,
    until: Instant,
}

impl Search<'_> {
    async fn shows(&mut self, kept: &Kept) -> bool {
        if self.tries >= TRIES_MAX || Instant::now() > self.until {
            return false;
        }
        self.tries += 1;
        let script = self.script.keep(kept);
        // What a busy machine can bring about by itself must show twice, or one stall takes away what was needed.
        for _ in 0..2 {
            let tried = try_one(self.ground, self.calm, &script, MINIMISE_PATIENCE).await;
            match tried.symptom {
                Some(symptom) if !symptom.is_like(self.symptom) => return false,
                Some(symptom) if symptom.is_of_time() => {}
                Some(_) => return true,
                None => return false,
            }
        }
        true
    }
}

/// Of a frame: prefix, type, flags and identifiers, also those that are too large for one.
fn head_len(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.get(PREFIX_BYTES + 5..)?.iter();
    for _identifier in 0..2 {
        // Section 3.1: from 240 on more bytes follow, the last of them below 128.
        if *rest.next()? >= 240 {
            rest.find(|byte| **byte < 128)?;
        }
    }
    Some(bytes.len() - rest.len())
}

/// The first bytes, as the one range that is kept.
fn up_to(end: usize) -> Vec<Range<usize>> {
    std::iter::once(0..end).collect()
}

fn length(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

/// What is left of the bytes in `ranges` when those at `gone`, counted among them, are taken out.
fn without(ranges: &[Range<usize>], gone: Range<usize>) -> Vec<Range<usize>> {
    let mut left = Vec::new();
    let mut before = 0;
    for range in ranges {
        let from = gone.start.saturating_sub(before).min(range.len());
        let to = gone.end.saturating_sub(before).min(range.len());
        for piece in [range.start..range.start + from, range.start + to..range.end] {
            match left.last_mut() {
                Some(Range { end, .. }) if *end == piece.start && !piece.is_empty() => *end = piece.end,
                _ if !piece.is_empty() => left.push(piece),
                _ => {}
            }
        }
        before += range.len();
    }
    left
}

/// Events that go together, or not at all: the fragments of a NOTIFY are mostly no more. So many in a row, and fewer, are
/// tried from every event on.
const FRAGMENTS: usize = 8;

/// Enough for a dozen frames of some hundred bytes each.
const TRIES_MAX: usize = 600;

/// However slow a try is.
const MINIMISE_TIME: Duration = Duration::from_secs(60);

/// An answer that takes longer than this is missing, while smaller conversations are sought.
const MINIMISE_PATIENCE: Duration = Duration::from_millis(300);

/// How long an agent may be away.
const REVIVAL_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_before_its_payload_whatever_its_identifiers() {
        let prefix_to_flags = [0, 0, 0, 99, 3, 0, 0, 0, 1];
        for (identifiers, expected) in [
            (&[1, 1][..], Some(11)),
            (&[240, 0, 1], Some(12)),
            (&[0xff; 12], None),
            (&[&[0xff; 20][..], &[0, 1]].concat(), Some(31)),
            (&[1], None),
            (&[], None),
        ] {
            let payload: &[u8] = if expected.is_some() { b"payload" } else { b"" };
            assert_eq!(head_len(&[&prefix_to_flags, identifiers, payload].concat()), expected, "{identifiers:?}");
        }
    }

    #[test]
    fn taking_bytes_out_leaves_the_others() {
        for (ranges, gone, expected) in [
            (up_to(10), 5..10, up_to(5)),
            (up_to(10), 3..5, vec![0..3, 5..10]),
            (vec![0..3, 5..10], 2..4, vec![0..2, 6..10]),
            (vec![0..3, 5..10], 3..99, up_to(3)),
            (vec![0..3, 5..10], 0..99, vec![]),
        ] {
            assert_eq!(without(&ranges, gone.clone()), expected, "{ranges:?} without {gone:?}");
        }
    }
}
