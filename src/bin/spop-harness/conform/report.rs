//! How a run is shown: a table of 120 columns, or one JSON document.

use std::fmt::Write;

use serde_json::{Value, json};

use super::case::{Case, Flaw, Level, NAME_CHARS_MAX, Seen};

/// One line of the report.
#[derive(Debug)]
pub struct Row {
    name: String,
    section: &'static str,
    level: Level,
    expected: String,
    /// `pass`, `warn`, `skip` or `FAIL`; empty where nothing was tried.
    result: &'static str,
    seen: String,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub passed: usize,
    pub failed: usize,
    pub warned: usize,
    pub skipped: usize,
}

impl Row {
    /// A case that was not tried.
    pub fn of(case: &Case) -> Row {
        let (name, expected) = (case.name.clone(), case.expected.clone());
        Row { name, section: case.section, level: case.level, expected, result: "", seen: String::new() }
    }

    /// The same with what came of it.
    pub fn with(self, (seen, result): (Seen, &'static str)) -> Row {
        let (Ok(seen) | Err(Flaw::Failed(seen) | Flaw::Warned(seen) | Flaw::Skipped(seen))) = seen;
        Row { result, seen, ..self }
    }

    /// As an object; what was not tried has neither result nor seen.
    pub fn json(&self) -> Value {
        let mut row = json!({
            "case": self.name, "section": self.section, "level": self.level.name(), "expected": self.expected,
        });
        if let (Level::Haproxy(versions), Some(row)) = (self.level, row.as_object_mut()) {
            row.insert("haproxy".to_owned(), versions.into());
        }
        if let (false, Some(row)) = (self.result.is_empty(), row.as_object_mut()) {
            row.insert("result".to_owned(), self.result.to_lowercase().into());
            row.insert("seen".to_owned(), self.seen.as_str().into());
        }
        row
    }

    /// As lines of the table; long texts go on below.
    pub fn lines(&self) -> String {
        let expected = match self.level {
            Level::Haproxy(versions) => format!("{} ({versions})", self.expected),
            _ => self.expected.clone(),
        };
        lines([self.result, &self.name, self.section, self.level.name(), &expected, &self.seen])
    }
}

/// The table's head.
pub fn head() -> String {
    format!(
        "{}{}",
        lines(["", "case", "spec", "level", "expected", "seen"]),
        lines(WIDTHS.map(|width| "-".repeat(width)).each_ref().map(String::as_str))
    )
}

impl Sums {
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Sums {
        let mut sums = Sums::default();
        for row in rows {
            match row.result {
                "pass" => sums.passed += 1,
                "warn" => sums.warned += 1,
                "skip" => sums.skipped += 1,
                _ => sums.failed += 1,
            }
        }
        sums
    }
}

fn lines(columns: [&str; 6]) -> String {
    let wrapped: Vec<_> = columns.iter().zip(WIDTHS).map(|(text, width)| wrap(text, width)).collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = String::new();
    for at in 0..height {
        let mut line = String::new();
        for (column, width) in wrapped.iter().zip(WIDTHS) {
            let text = column.get(at).map_or("", String::as_str);
            let _ = write!(line, "{text:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Words in lines of at most `width` characters; a word that is longer is cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let room = lines.last().map_or(0, |line| width.saturating_sub(line.chars().count() + 1));
            match lines.last_mut() {
                Some(line) if word.len() <= room => {
                    line.push(' ');
                    line.extend(&word);
                    break;
                }
                _ => {
                    let rest = word.split_off(word.len().min(width));
                    lines.push(word.iter().collect());
                    word = rest;
                }
            }
            if word.is_empty() {
                break;
            }
        }
    }
    lines
}

/// Result, case, section, level, expected, seen; five gaps of two: 4 + 32 + 5 + 7 + 33 + 29 + 10 = 120.
const WIDTHS: [usize; 6] = [4, NAME_CHARS_MAX, 5, 7, 33, 29];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_wider_than_the_table() {
        assert_eq!(WIDTHS.iter().sum::<usize>() + 10, 120);
        let long = "word ".repeat(40) + &"z".repeat(100);
        let text = lines(["FAIL", "group/case", "3.2.9", "haproxy", &long, &long]);
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        assert_eq!(text.matches("word").count(), 80);
        assert_eq!(text.matches('z').count(), 200);
    }

    #[test]
    fn words_are_wrapped_between_them() {
        assert_eq!(wrap("DISCONNECT 5, or a close", 14), ["DISCONNECT 5,", "or a close"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("abcdefg", 5), ["abcde", "fg"]);
    }
}
