//! Whether a trail is whole: reads it from end to end, a line at a time, and names each place where it is not.
//!
//! A line whose hash is not that of its content was edited. A line that does not follow from the one before tells of what
//! was removed, put in, moved or repeated between them. What a chain cannot show is in docs/audit.md.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chain::{Hash, Last, Link, Seal};
use super::trail::{Line, TrailFile};

/// Verifies the files of one trail, oldest first.
pub fn verify(files: &[TrailFile], seal: &Seal, expected: Option<Hash>) -> io::Result<Report> {
    let mut verifier = Verifier::new(seal, expected);
    for file in files {
        let mut lines = file.lines()?;
        while let Some(line) = lines.read()? {
            verifier.take(&file.path, line);
        }
    }
    Ok(verifier.finish(files))
}

/// What a trail was found to be.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines read.
    pub lines: u64,
    /// The first line's number and time.
    pub first: Option<(u64, String)>,
    /// The last line's number, time and hash.
    pub last: Option<(u64, String, Hash)>,
    /// What is wrong, the first hundred of it in the order of the files.
    pub findings: Vec<Finding>,
    /// How much is wrong in all.
    pub wrong: u64,
    /// How many lines have another hash than their content's.
    pub unverified: u64,
    /// What is in order, and worth knowing, the first hundred of it.
    pub notes: Vec<Finding>,
    /// How much of that there is in all.
    pub noted: u64,
    /// Lines that the agent says it dropped.
    pub dropped: u64,
    /// Allows that it says it left out.
    pub sampled_out: u64,
    /// Where the expected hash was found.
    pub expected_at: Option<(PathBuf, u64, u64)>,
}

/// Something about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub file: PathBuf,
    /// Which line of it, from 1.
    pub line: u64,
    /// What sort of thing, snake_case.
    pub kind: &'static str,
    /// What, for people.
    pub text: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.wrong == 0
    }
}

/// Takes lines in order.
pub struct Verifier<'a> {
    seal: &'a Seal,
    expected: Option<Hash>,
    last: Option<Last>,
    /// A line that is none of ours, until the next one says whether a crash explains it.
    odd: Option<Odd>,
    /// Numbers that were passed over, as ranges.
    missing: BTreeMap<u64, u64>,
    /// Whether the last event of the agent's own life was its end.
    stopped: bool,
    place: Option<(PathBuf, u64)>,
    report: Report,
}

struct Odd {
    file: PathBuf,
    line: u64,
    bytes: u64,
    sha256: Hash,
    is_whole: bool,
}

impl<'a> Verifier<'a> {
    /// Before the first line.
    pub fn new(seal: &'a Seal, expected: Option<Hash>) -> Verifier<'a> {
        Verifier {
            seal,
            expected,
            last: None,
            odd: None,
            missing: BTreeMap::new(),
            stopped: false,
            place: None,
            report: Report::default(),
        }
    }

    /// The next line.
    pub fn take(&mut self, file: &Path, line: Line<'_>) {
        self.report.lines += 1;
        match &mut self.place {
            Some((known, number)) if known == file => *number = line.number,
            place => *place = Some((file.to_owned(), line.number)),
        }
        let Some(link) = Link::read(line.bytes).filter(|_| line.is_whole) else {
            self.settle_odd(false);
            self.odd = Some(Odd {
                file: file.to_owned(),
                line: line.number,
                bytes: line.bytes.len() as u64,
                sha256: Hash::sha256(line.bytes),
                is_whole: line.is_whole,
            });
            return;
        };
        let event = event_of(line.bytes);
        let is_whole = link.is_whole(self.seal);
        let follows = self.last.is_none_or(|last| link.seq == last.seq + 1 && link.prev == last.hash);
        let explains = is_whole && follows && event.as_ref().is_some_and(|event| self.explains_odd(event));
        self.settle_odd(explains);
        if !is_whole {
            self.report.unverified += 1;
            self.wrong(file, line.number, "edited", format!("line {} was edited: its hash is another's", link.seq));
        }
        let advances = self.follow(file, line.number, &link, event.as_ref());
        if let Some(event) = &event {
            self.event(file, line.number, event);
        }
        if advances {
            self.last = Some(link.last());
            let time = time_of(line.bytes);
            self.report.first.get_or_insert_with(|| (link.seq, time.clone()));
            self.report.last = Some((link.seq, time, link.hash));
        }
        if self.expected == Some(link.hash) && is_whole {
            self.report.expected_at = Some((file.to_owned(), line.number, link.seq));
        }
    }

    /// After the last line of `files`.
    pub fn finish(mut self, files: &[TrailFile]) -> Report {
        self.settle_odd(false);
        if let (0, Some(file)) = (self.report.lines, files.last()) {
            // An agent writes its first line as soon as it has the file.
            let text = "there is not one line: all of it was removed, or this is no trail".to_owned();
            self.wrong(&file.path, 1, "empty", text);
        }
        if let Some(expected) = self.expected.filter(|_| self.report.expected_at.is_none()) {
            let (file, line) = self.place.clone().unwrap_or_default();
            let text = format!("no line has the expected hash {expected}: the trail was cut before it, or made anew");
            self.wrong(&file, line, "expected_missing", text);
        }
        self.report
    }

    /// Whether this line comes next; says what is wrong where it does not. `false` where the line before still is what the
    /// next one has to follow.
    fn follow(&mut self, file: &Path, number: u64, link: &Link<'_>, event: Option<&Value>) -> bool {
        let Some(last) = self.last else {
            // Every file begins with an event that says so: an event from its middle could have become the beginning.
            let begins = event.is_some_and(|event| event["first"] == true);
            if link.seq > 1 && !begins {
                let text = format!("the file begins with line {}: those before it were cut off", link.seq);
                self.wrong(file, number, "removed", text);
            } else if link.seq > 1 {
                let text = format!("the trail begins with line {}; those before it are not here", link.seq);
                self.note(file, number, "begins_later", text);
            } else if link.prev != Hash::ZERO {
                self.wrong(file, number, "broken", "the first line says that there was one before".to_owned());
            }
            return true;
        };
        if link.seq == last.seq + 1 {
            if link.prev != last.hash {
                let text = format!(
                    "line {} does not follow from the line before: one of the two was changed or put in",
                    link.seq
                );
                self.wrong(file, number, "broken", text);
            }
            return true;
        }
        if link.seq == 1 && link.prev == Hash::ZERO && event.is_some_and(|event| event["event"] == "start") {
            // What goes to standard output begins with each run; a file goes on where it ended.
            if event.is_some_and(|event| event["to"] == "stdout") {
                self.note(file, number, "begins_anew", "another run begins, with a chain of its own".to_owned());
            } else {
                let text = format!("a new chain begins behind line {}: what was between them cannot be told", last.seq);
                self.wrong(file, number, "begins_anew", text);
            }
            self.missing.clear();
            return true;
        }
        if link.seq > last.seq {
            let (from, to) = (last.seq + 1, link.seq - 1);
            let lines = if from == to {
                format!("line {from} is not where it belongs")
            } else {
                format!("lines {from} to {to} are not where they belong")
            };
            self.wrong(file, number, "removed", format!("{lines}, before line {}", link.seq));
            self.pass_over(from, to);
            return true;
        }
        if self.was_missing(link.seq) {
            let text = format!("line {} was moved: it stands behind line {}", link.seq, last.seq);
            self.wrong(file, number, "moved", text);
        } else {
            let text = format!("line {} is here once more, or was put in, behind line {}", link.seq, last.seq);
            self.wrong(file, number, "repeated", text);
        }
        false
    }

    /// Takes a number out of those passed over.
    fn was_missing(&mut self, seq: u64) -> bool {
        // No two of them overlap, since each begins behind all lines that came before.
        let found = self.missing.range(..=seq).next_back().map(|(from, to)| (*from, *to));
        let Some((from, to)) = found.filter(|(_, to)| seq <= *to) else { return false };
        self.missing.remove(&from);
        self.pass_over(from, seq - 1);
        self.pass_over(seq + 1, to);
        true
    }

    fn pass_over(&mut self, from: u64, to: u64) {
        if from <= to && self.missing.len() < RANGES_MAX {
            self.missing.insert(from, to);
        }
    }

    fn event(&mut self, file: &Path, number: u64, event: &Value) {
        let count = event["count"].as_u64().unwrap_or(0);
        match event["event"].as_str().unwrap_or_default() {
            "start" => {
                if self.last.is_some() && !self.stopped && self.report.lines > 1 {
                    let text =
                        "the run before did not end as it should: what it had not written yet is lost".to_owned();
                    self.note(file, number, "crash", text);
                }
                self.stopped = false;
            }
            "stop" => self.stopped = true,
            "dropped" => {
                self.report.dropped = self.report.dropped.saturating_add(count);
                self.note(file, number, "dropped", format!("{count} lines were dropped for want of room"));
            }
            "sampled_out" => self.report.sampled_out = self.report.sampled_out.saturating_add(count),
            "gap" if event["what"] == "line_unverified" => {
                let text = "the agent found the line before to be another than it had written".to_owned();
                self.wrong(file, number, "edited", text);
            }
            "gap" if event["what"] == "file_replaced" => {
                self.note(file, number, "replaced", "the file was replaced while it was written".to_owned());
            }
            _ => {}
        }
    }

    fn explains_odd(&self, event: &Value) -> bool {
        let Some(odd) = &self.odd else { return false };
        event["event"] == "gap"
            && event["what"] == "torn_line"
            && event["bytes"] == odd.bytes
            && event["sha256"].as_str().and_then(Hash::parse) == Some(odd.sha256)
    }

    fn settle_odd(&mut self, explained: bool) {
        let Some(Odd { file, line, is_whole, .. }) = self.odd.take() else { return };
        if explained {
            self.note(&file, line, "torn", "a run ended while it wrote this line; the next one says so".to_owned());
        } else if is_whole {
            self.wrong(&file, line, "no_record", "this is no line of an audit trail".to_owned());
        } else {
            let text = "this line is not whole: cut, torn by a crash, or being written".to_owned();
            self.wrong(&file, line, "torn", text);
        }
    }

    fn wrong(&mut self, file: &Path, line: u64, kind: &'static str, text: String) {
        self.report.wrong += 1;
        push(&mut self.report.findings, file, line, kind, text);
    }

    fn note(&mut self, file: &Path, line: u64, kind: &'static str, text: String) {
        self.report.noted += 1;
        push(&mut self.report.notes, file, line, kind, text);
    }
}

fn push(to: &mut Vec<Finding>, file: &Path, line: u64, kind: &'static str, text: String) {
    if to.len() < FINDINGS_MAX {
        to.push(Finding { file: file.to_owned(), line, kind, text });
    }
}

/// The line as JSON, where it is an event. No value of a record can hold this text, since quotes in it are escaped.
fn event_of(line: &[u8]) -> Option<Value> {
    const KEY: &[u8] = b",\"event\":\"";
    line.windows(KEY.len()).take(EVENT_WITHIN).any(|window| window == KEY).then(|| serde_json::from_slice(line).ok())?
}

/// The time of a line, without reading all of it; empty where it has none.
pub(super) fn time_of(line: &[u8]) -> String {
    const KEY: &[u8] = b"\"time\":\"";
    let found = line.windows(KEY.len()).take(EVENT_WITHIN).position(|window| window == KEY);
    let time = found.and_then(|at| line.get(at + KEY.len()..)?.split(|byte| *byte == b'"').next()).unwrap_or_default();
    // It is printed and compared: what has another form was not written by an agent.
    let is_time = time.len() == TIME_BYTES && time.iter().all(|byte| byte.is_ascii_digit() || b"-:.TZ".contains(byte));
    if is_time { String::from_utf8_lossy(time).into_owned() } else { String::new() }
}

/// `2027-01-15T08:00:00.000001Z`.
const TIME_BYTES: usize = 27;

/// `v`, `seq`, `time`, `agent` and `config` stand before it, and have at most so many bytes.
const EVENT_WITHIN: usize = 160;

/// Enough to see what is wrong; a count tells of the rest.
const FINDINGS_MAX: usize = 100;

/// A trail with more holes than this is no trail any more.
const RANGES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lines: impl IntoIterator<Item = String>, check: impl Fn(&Verifier<'_>)) -> Report {
        let mut verifier = Verifier::new(&Seal::Plain, None);
        for (index, line) in lines.into_iter().enumerate() {
            let line = Line { number: index as u64 + 1, bytes: line.as_bytes(), is_whole: true };
            verifier.take(Path::new("audit.jsonl"), line);
            check(&verifier);
        }
        verifier.finish(&[])
    }

    fn forged(seq: u64, members: &str) -> String {
        format!("{{\"v\":1,\"seq\":{seq},{members},\"prev\":\"{0}\",\"hash\":\"{0}\"}}", "0".repeat(64))
    }

    #[test]
    fn a_file_of_moved_lines_costs_no_more_memory_than_another() {
        let moved = [1, 1_000_000].into_iter().chain((1..50_000).map(|n| 2 * n + 1));
        let report = taken(moved.map(|seq| forged(seq, "\"n\":1")), |verifier| {
            assert!(verifier.missing.len() <= RANGES_MAX);
        });
        assert!(report.findings.iter().any(|finding| finding.kind == "moved"));
        // A hole is put together out of what was found of it.
        let all = [1, 9, 4, 2, 8, 3, 7, 5, 6].map(|seq| forged(seq, "\"n\":1"));
        let report = taken(all, |_| {});
        assert_eq!(report.findings.iter().filter(|finding| finding.kind == "moved").count(), 7);
    }

    #[test]
    fn numbers_that_no_agent_writes_are_no_reason_to_panic() {
        let dropped = format!("\"event\":\"dropped\",\"count\":{}", u64::MAX);
        let sampled = dropped.replace("dropped", "sampled_out");
        let lines =
            [forged(1, &dropped), forged(u64::MAX - 1, &dropped), forged(u64::MAX, &sampled), forged(2, &sampled)];
        let report = taken(lines, |_| {});
        assert!(!report.is_whole() && report.dropped == u64::MAX, "{report:?}");
    }

    #[test]
    fn there_are_more_notes_than_are_kept() {
        let lines = (1..=300).map(|seq| forged(seq, "\"event\":\"dropped\",\"count\":1"));
        let report = taken(lines, |_| {});
        assert_eq!((report.notes.len(), report.noted), (FINDINGS_MAX, 300));
    }

    #[test]
    fn a_time_is_a_time_or_nothing() {
        for (time, expected) in [
            ("2027-01-15T08:00:00.000001Z", "2027-01-15T08:00:00.000001Z"),
            ("2027-01-15T08:00:00Z", ""),
            ("\x1b[2J-01-15T08:00:00.00001Z", ""),
            ("", ""),
        ] {
            assert_eq!(time_of(forged(1, &format!("\"time\":\"{time}\"")).as_bytes()), expected, "{time:?}");
        }
    }
}
