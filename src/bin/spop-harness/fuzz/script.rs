//! A conversation as it will be played, the seed it is made from, and what is left of it after minimising. All of it in
//! one word: `00c0ffee00c0ffee:0,3,5.0-11+20-31`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use tollgate::spop::frame::PREFIX_BYTES;

/// What is done to the agent, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub steps: Vec<Step>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes a frame, whole or broken; those that follow each other share a write.
    Write {
        bytes: Vec<u8>,
        /// Where the write is split, ascending.
        cuts: Vec<usize>,
    },
    /// Waits until everything is answered.
    Settle,
    /// Closes the sending half.
    Finish,
    /// Resets the connection.
    Abort,
}

impl Script {
    /// How many events it has.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// How many bytes it writes.
    pub fn bytes(&self) -> usize {
        let of = |step: &Step| if let Step::Write { bytes, .. } = step { bytes.len() } else { 0 };
        self.steps.iter().map(of).sum()
    }

    /// The parts of it that are kept. A frame whose length was right gets a right length again.
    pub fn keep(&self, kept: &Kept) -> Script {
        let part = |Part { step, ranges }: &Part| -> Option<Step> {
            let step = self.steps.get(*step)?;
            let Step::Write { bytes, .. } = step else { return Some(step.clone()) };
            if ranges.is_empty() {
                return Some(step.clone());
            }
            let left: Vec<u8> =
                ranges.iter().flat_map(|range| bytes.get(range.clone()).unwrap_or_default()).copied().collect();
            Some(Step::Write {
                bytes: if has_right_length(bytes) { with_right_length(left) } else { left },
                cuts: Vec::new(),
            })
        };
        Script { steps: kept.0.iter().filter_map(part).collect() }
    }
}

/// Whether the prefix of a frame says how long it is.
fn has_right_length(bytes: &[u8]) -> bool {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>();
    prefix.is_some_and(|prefix| u32::from_be_bytes(*prefix) as usize == bytes.len() - PREFIX_BYTES)
}

fn with_right_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len().saturating_sub(PREFIX_BYTES)).unwrap_or(u32::MAX);
    if let Some(prefix) = bytes.first_chunk_mut::<PREFIX_BYTES>() {
        *prefix = length.to_be_bytes();
    }
    bytes
}

/// What one conversation is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of conversation `index` of a run: SplitMix64's finalizer, so that neighbours have nothing in common.
    pub fn of(run: u64, index: u64) -> Seed {
        let mut mixed = run.rotate_left(32).wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Seed(mixed ^ (mixed >> 31))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Seed, String> {
        u64::from_str_radix(text, 16).map(Seed).map_err(|_| format!("`{text}`: expected a seed of 16 hex digits"))
    }
}

/// Which steps of a conversation are played, and which bytes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept(pub Vec<Part>);

/// One step, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub step: usize,
    /// Of its bytes; all where there is none.
    pub ranges: Vec<Range<usize>>,
}

impl Kept {
    /// Everything.
    pub fn all(script: &Script) -> Kept {
        Kept((0..script.len()).map(|step| Part { step, ranges: Vec::new() }).collect())
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Part { step, ranges }) in self.0.iter().enumerate() {
            write!(f, "{}{step}", if at == 0 { "" } else { "," })?;
            for (at, range) in ranges.iter().enumerate() {
                write!(f, "{}{}-{}", if at == 0 { "." } else { "+" }, range.start, range.end)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Kept, String> {
        let wrong = |part: &str| format!("`{part}`: expected STEP or STEP.FROM-TO+FROM-TO");
        let number = |text: &str| text.parse::<usize>().ok();
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (step, ranges) = part.split_once('.').unwrap_or((part, ""));
            let range = |range: &str| {
                let (from, to) = range.split_once('-')?;
                Some(number(from)?..number(to)?).filter(|range| range.start <= range.end)
            };
            let ranges = ranges.split('+').filter(|range| !range.is_empty()).map(range).collect::<Option<Vec<_>>>();
            let (Some(step), Some(ranges)) = (number(step), ranges) else { return Err(wrong(part)) };
            parts.push(Part { step, ranges });
        }
        Ok(Kept(parts))
    }
}

/// What `--replay` takes: a seed, and what is kept of its conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub seed: Seed,
    pub kept: Option<Kept>,
}

impl FromStr for Replay {
    type Err = String;

    fn from_str(text: &str) -> Result<Replay, String> {
        let (seed, kept) = text.split_once(':').map_or((text, None), |(seed, kept)| (seed, Some(kept)));
        Ok(Replay { seed: seed.parse()?, kept: kept.map(str::parse).transpose()? })
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seed)?;
        self.kept.as_ref().map_or(Ok(()), |kept| write!(f, ":{kept}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_comes_back_from_its_text() {
        for text in ["00c0ffee00c0ffee", "0000000000000001:0", "ffffffffffffffff:0,3,5.0-11+20-31,7"] {
            assert_eq!(text.parse::<Replay>().map(|replay| replay.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "x", "1:", "1:a", "1:2.", "1:2.3", "1:2.4-3"] {
            assert_eq!(text.parse::<Replay>().is_ok(), text == "1:2.", "{text}");
        }
    }

    #[test]
    fn what_is_kept_of_a_frame_has_a_right_length_where_it_had_one() {
        let right = vec![0, 0, 0, 4, 10, 11, 12, 13];
        let wrong = vec![0, 0, 0, 9, 10, 11, 12, 13];
        let write = |bytes: &[u8]| Step::Write { bytes: bytes.to_vec(), cuts: Vec::new() };
        let script = Script { steps: vec![write(&right), Step::Settle, write(&wrong)] };
        assert_eq!(script.keep(&Kept::all(&script)), script);
        let kept = script.keep(&"0.0-5+7-8,2.0-5".parse().unwrap());
        assert_eq!(kept.steps, [write(&[0, 0, 0, 2, 10, 13]), write(&[0, 0, 0, 9, 10])]);
    }
}
