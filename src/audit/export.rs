//! Some lines of a trail, for somebody who asks about a period and a user; and one decision.

use std::io::{self, Write};
use std::path::PathBuf;

use aws_lc_rs::hmac;
use serde_json::Value;

use super::chain::{Link, Seal};
use super::record::{HASHED, hashed, show_time};
use super::trail::TrailFile;
use super::verify::{Report, Verifier, time_of};

/// Which lines are wanted.
#[derive(Debug, Default)]
pub struct Wanted {
    /// From this time on, in microseconds since 1970.
    pub from_us: Option<u64>,
    /// Before this time.
    pub to_us: Option<u64>,
    /// Of this user, or subject.
    pub user: Option<String>,
    /// The key that the user is hashed with, where the trail has hashes.
    pub hash_key: Option<Vec<u8>>,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are in the trail, byte for byte.
    Jsonl,
    /// A table.
    Csv,
}

/// What was written, and how whole the trail is that it is from.
#[derive(Debug)]
pub struct Exported {
    /// Lines written, the table's head aside.
    pub written: u64,
    /// Lines of that period whose users are hashed, where a user is wanted and the key is not there to know them by.
    pub unknown: u64,
    /// The trail.
    pub report: Report,
}

/// Writes what is wanted of the trail in `files` to `out`. All of it is read and verified.
pub fn export(
    files: &[TrailFile],
    seal: &Seal,
    wanted: &Wanted,
    format: Format,
    out: &mut impl Write,
) -> io::Result<Exported> {
    let mut chosen = Chosen::new(wanted);
    let mut verifier = Verifier::new(seal, None);
    let mut written = 0;
    if format == Format::Csv {
        let head: Vec<String> = COLUMNS.iter().map(|name| cell(name)).collect();
        write!(out, "{}\r\n", head.join(","))?;
    }
    for file in files {
        let mut lines = file.lines()?;
        while let Some(line) = lines.read()? {
            verifier.take(&file.path, line);
            let Some(record) = chosen.record(line.bytes) else { continue };
            written += 1;
            match format {
                Format::Jsonl => {
                    out.write_all(line.bytes)?;
                    out.write_all(b"\n")?;
                }
                Format::Csv => {
                    let row: Vec<String> = COLUMNS.iter().map(|name| cell(&shown(&record, name))).collect();
                    write!(out, "{}\r\n", row.join(","))?;
                }
            }
        }
    }
    out.flush()?;
    Ok(Exported { written, unknown: chosen.unknown, report: verifier.finish(files) })
}

/// A decision, where it stands.
#[derive(Debug)]
pub struct Found {
    /// In which file.
    pub file: PathBuf,
    /// Which line of it.
    pub line: u64,
    /// The record.
    pub record: Value,
    /// Whether its hash is that of its content, by the key at hand.
    pub is_whole: bool,
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Search {
    /// The decision.
    pub found: Option<Found>,
    /// Lines looked at.
    pub lines: u64,
    /// The earliest and the latest time among them.
    pub period: Option<(String, String)>,
}

/// Looks for a decision, newest file first.
pub fn find(files: &[TrailFile], seal: &Seal, decision_id: &str) -> io::Result<Search> {
    let mut search = Search::default();
    let member = format!("\"decision_id\":\"{decision_id}\"");
    for file in files.iter().rev() {
        let mut lines = file.lines()?;
        while let Some(line) = lines.read()? {
            search.lines += 1;
            let time = time_of(line.bytes);
            if !time.is_empty() {
                search.period = Some(match search.period.take() {
                    None => (time.clone(), time),
                    Some((from, to)) => (from.min(time.clone()), to.max(time)),
                });
            }
            if !contains(line.bytes, member.as_bytes()) {
                continue;
            }
            let Ok(record) = serde_json::from_slice::<Value>(line.bytes) else { continue };
            if record["decision_id"] == decision_id {
                let is_whole = line.is_whole && Link::read(line.bytes).is_some_and(|link| link.is_whole(seal));
                search.found = Some(Found { file: file.path.clone(), line: line.number, record, is_whole });
                return Ok(search);
            }
        }
    }
    Ok(search)
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    line.windows(text.len()).any(|window| window == text)
}

/// [`Wanted`] as it is compared.
struct Chosen {
    from: Option<String>,
    to: Option<String>,
    /// The user, as it stands and hashed.
    users: Vec<String>,
    knows_hashed: bool,
    unknown: u64,
}

impl Chosen {
    fn new(wanted: &Wanted) -> Chosen {
        let mut users: Vec<String> = wanted.user.iter().cloned().collect();
        if let (Some(user), Some(key)) = (&wanted.user, &wanted.hash_key) {
            users.push(hashed(&hmac::Key::new(hmac::HMAC_SHA256, key), user));
        }
        let knows_hashed = users.is_empty() || users.iter().any(|user| user.starts_with(HASHED));
        let (from, to) = (wanted.from_us.map(show_time), wanted.to_us.map(show_time));
        Chosen { from, to, users, knows_hashed, unknown: 0 }
    }

    /// The line as JSON, where it is wanted. Events belong to nobody, and are wanted where nobody is named.
    fn record(&mut self, line: &[u8]) -> Option<Value> {
        // All times have the same form, which sorts as text.
        let time = time_of(line);
        let early = self.from.as_ref().is_some_and(|from| time < *from);
        let late = self.to.as_ref().is_some_and(|to| time >= *to);
        if early || late {
            return None;
        }
        let record: Value = serde_json::from_slice(line).ok()?;
        let is_hashed = |field: &str| record[field].as_str().is_some_and(|value| value.starts_with(HASHED));
        if !self.knows_hashed && (is_hashed("user") || is_hashed("subject")) {
            self.unknown += 1;
        }
        let is_of =
            |field: &str| record[field].as_str().is_some_and(|value| self.users.iter().any(|user| user == value));
        (self.users.is_empty() || is_of("user") || is_of("subject")).then_some(record)
    }
}

/// A value as text. Lists are joined by `;`, what a limit had left is in the other form only.
fn shown(record: &Value, name: &str) -> String {
    match &record[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let item = |item: &Value| match item {
                Value::String(text) => text.clone(),
                item => format!(
                    "{}={}",
                    item["rule"].as_str().unwrap_or_default(),
                    item["reason"].as_str().unwrap_or_default()
                ),
            };
            items.iter().map(item).collect::<Vec<_>>().join(";")
        }
        other => other.to_string(),
    }
}

/// A cell of a table (RFC 4180), in quotes. What a spreadsheet would take for a formula gets an apostrophe in front; what
/// does not print is escaped, so that a record stays on one line.
fn cell(text: &str) -> String {
    const FORMULA: &[char] = &['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let mut out = "\"".to_owned();
    if text.trim_start_matches([' ', '\u{a0}', '\u{3000}']).starts_with(FORMULA) {
        out.push('\'');
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\"\""),
            '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out.push('"');
    out
}

/// What is behind it in a record comes behind it in a table.
const COLUMNS: [&str; 38] = [
    "time",
    "event",
    "decision_id",
    "verdict",
    "reason",
    "rule",
    "user",
    "subject",
    "issuer",
    "client_id",
    "groups",
    "granted",
    "groups_unknown",
    "scopes",
    "credential",
    "token",
    "method",
    "host",
    "path",
    "src",
    "request_id",
    "limit",
    "retry_after_s",
    "backend",
    "shadow",
    "degraded",
    "latency_us",
    "problem",
    "grant",
    "group",
    "until",
    "by",
    "count",
    "what",
    "agent",
    "config",
    "seq",
    "hash",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula_and_one_line() {
        for (text, expected) in [
            ("alice", "\"alice\""),
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            (" =1+1", "\"' =1+1\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\"'\\t=1\""),
            ("＝1", "\"'＝1\""),
            ("a\"b,c\nd\u{2028}", "\"a\"\"b,c\\nd\\u{2028}\""),
            ("/a=b", "\"/a=b\""),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
    }
}
