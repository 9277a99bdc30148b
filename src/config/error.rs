//! What is wrong with a config, in the operator's terms.

use std::fmt;
use std::path::{Path, PathBuf};

use super::file::Place;

/// Everything that is wrong with a config: all of it in one run, in the file's order. Never empty.
///
/// Its `Display` is one block for each problem:
///
/// ```text
/// tollgate.yaml:12:5: rules[1].allow.groups[0]: `opps` is not a group
///   expected one of: ops, paid
///   did you mean `ops`?
///    |
/// 12 |     allow: { groups: [opps] }
///    |                       ^^^^
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: PathBuf,
    problems: Vec<Problem>,
    /// Besides `file`.
    files: Vec<PathBuf>,
}

/// One thing that is wrong, or that is worth a warning. Holds no secret: neither its text nor its source line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file; `None` where the file itself could not be read.
    pub place: Option<Place>,
    /// The way to it: `rules[1].allow.groups[0]`. Empty for the whole file.
    pub key: String,
    /// What is wrong with which value.
    pub what: String,
    /// What was expected.
    pub expected: Option<String>,
    /// The nearest valid spelling.
    pub nearest: Option<String>,
    /// The line of the file, as far as it may be shown.
    pub source_line: Option<String>,
}

impl ConfigErrors {
    pub(super) fn new(file: &Path, mut problems: Vec<Problem>) -> ConfigErrors {
        problems.sort_by_key(|problem| problem.place);
        // A name refused in two roles (as a group and as a tier) says the same twice.
        problems.dedup();
        ConfigErrors { file: file.to_owned(), problems, files: Vec::new() }
    }

    /// Where they are.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The same, of a config that depends on these files.
    pub(super) fn of(self, files: Vec<PathBuf>) -> ConfigErrors {
        ConfigErrors { files, ..self }
    }

    /// The files that the config depends on as far as it could be read, itself among them: once one of them is different,
    /// it may be good.
    pub fn files(&self) -> Vec<PathBuf> {
        let own = std::iter::once(&self.file);
        own.chain(&self.files).cloned().collect()
    }

    /// The problems, in the file's order.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A mistake that a generator makes is made in every rule.
        const SHOWN_MAX: usize = 50;
        for (index, problem) in self.problems.iter().take(SHOWN_MAX).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.describe(&self.file, f)?;
        }
        match self.problems.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n\n{more} more mistakes are not shown"),
        }
    }
}

impl fmt::Debug for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigErrors {}

impl Problem {
    /// The block for this problem, found in `file`; no newline at its end.
    pub fn in_file(&self, file: &Path) -> String {
        struct Block<'a>(&'a Problem, &'a Path);
        impl fmt::Display for Block<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.describe(self.1, f)
            }
        }
        Block(self, file).to_string()
    }

    fn describe(&self, file: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", file.display())?;
        if let Some(place) = self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.what)?;
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected {expected}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "\n  did you mean `{nearest}`?")?;
        }
        if let (Some(place), Some(line)) = (self.place, &self.source_line) {
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            let before = usize::try_from(place.column - 1).unwrap_or(0);
            let room = line.chars().count().saturating_sub(before).max(1);
            let carets = usize::try_from(place.width).unwrap_or(1).min(room);
            write!(f, "\n{margin} |\n{number} | {line}\n{margin} | {}{}", " ".repeat(before), "^".repeat(carets))?;
        }
        Ok(())
    }
}

/// The line `place` is on, as it may be shown; `None` where it may hold a secret.
///
/// `only_before` cuts the line after the place: what follows an unknown key may be a secret under a misspelt name.
pub(super) fn source_line(text: &str, place: Place, only_before: bool) -> Option<String> {
    const CHARS_MAX: usize = 160;
    let index = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let line = text.lines().nth(index)?.trim_end();
    let lower = line.to_ascii_lowercase();
    let words = [
        "secret",
        "passw",
        "pass=",
        "pwd",
        "token",
        "api_key",
        "service_account",
        "nonce_key",
        "hash_key",
        "chain_key",
    ];
    if words.iter().any(|word| lower.contains(word)) {
        return None;
    }
    // `redis://:password@host`
    if lower.split_once("://").is_some_and(|(_, after)| after.contains('@')) {
        return None;
    }
    let end = usize::try_from(place.column.saturating_add(place.width) - 1).ok()?;
    let mut shown: String = line.chars().take(if only_before { end } else { CHARS_MAX }).collect();
    if shown.chars().count() > CHARS_MAX || shown.contains(|c: char| c.is_control()) {
        // A caret under a line with tabs, or off the screen, helps nobody.
        return None;
    }
    if shown.len() < line.len() {
        shown.push_str(if only_before { ": …" } else { "…" });
    }
    (usize::try_from(place.column).ok()? <= shown.chars().count() + 1).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_shown() {
        let place = Place { line: 1, column: 1, width: 4 };
        for line in
            ["  password: hunter2", "redis: redis://:hunter2@h:1", "{ client_secret: hunter2 }", "token: hunter2"]
        {
            assert_eq!(source_line(line, place, false), None, "{line}");
        }
        assert_eq!(source_line("pass: hunter2", place, true).as_deref(), Some("pass: …"));
        assert_eq!(source_line("rate: 1/1m", place, false).as_deref(), Some("rate: 1/1m"));
    }
}
