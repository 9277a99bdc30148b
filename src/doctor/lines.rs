//! Files as lines, and which of them HAProxy would read: `.if` blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::words::{Environment, Word, split};

/// A file as it was read.
#[derive(Debug)]
pub(super) struct Source {
    /// As it was named.
    pub path: PathBuf,
    /// In order; empty ones and comments left out.
    lines: Vec<Line>,
    /// What comments let pass: the line it holds for, and the check.
    pub meant: BTreeSet<(usize, String)>,
    /// The line of HAProxy that a comment at its head names: `# For HAProxy 2.8`.
    pub made_for: Option<Version>,
}

/// A line that says something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Which of the sources.
    pub source: usize,
    /// From 1.
    pub number: usize,
    /// At least one.
    pub words: Vec<Word>,
}

/// A line of HAProxy, such as 2.8.
pub(super) type Version = (u32, u32);

impl Line {
    /// The text of a word; empty where there is none.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| &word.text)
    }

    /// The words from one on.
    pub(super) fn from(&self, index: usize) -> &[Word] {
        self.words.get(index..).unwrap_or_default()
    }

    /// Whether it begins with these words.
    pub(super) fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(index, word)| self.word(index) == *word)
    }

    /// Whether a word stands in it.
    pub(super) fn holds(&self, word: &str) -> bool {
        self.words.iter().any(|each| each.text == word)
    }

    /// What follows a word.
    pub(super) fn after(&self, word: &str) -> Option<&Word> {
        let at = self.words.iter().position(|each| each.text == word)?;
        self.words.get(at + 1)
    }

    /// The words with single blanks between them.
    pub(super) fn text(&self) -> String {
        self.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

impl Source {
    /// Reads a file's bytes; what is not UTF-8 is replaced, as no keyword has any.
    pub(super) fn read(path: &Path, source: usize, bytes: &[u8]) -> Source {
        let text = String::from_utf8_lossy(bytes);
        let mut environment = Environment::new();
        let (mut lines, mut meant, mut waiting) = (Vec::new(), BTreeSet::new(), Vec::new());
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            let (words, comment) = split(line, &environment);
            waiting.extend(comment.into_iter().flat_map(excused));
            let [first, rest @ ..] = words.as_slice() else { continue };
            meant.extend(waiting.drain(..).map(|check| (number, check)));
            if let ("setenv" | "presetenv", [name, value]) = (first.text.as_str(), rest) {
                environment.insert(name.text.clone(), value.text.clone());
            }
            lines.push(Line { source, number, words });
        }
        let made_for = text.lines().take(HEAD_LINES).find_map(made_for);
        Source { path: path.to_owned(), lines, meant, made_for }
    }

    /// The conditions that only the running HAProxy knows the truth of.
    pub(super) fn conditions(&self, version: Option<Version>) -> BTreeSet<String> {
        let written = self.lines.iter().filter(|line| [".if", ".elif"].contains(&line.word(0)));
        let conditions = written.map(condition).filter(|(text, _)| known(text, version).is_none());
        conditions.map(|(text, _)| text).collect()
    }

    /// The lines that are read where `truth` says which conditions hold.
    pub(super) fn selected(&self, truth: &BTreeMap<String, bool>, version: Option<Version>) -> Vec<&Line> {
        // Of each open block: whether what is around it is read, whether this branch is, and whether one was already.
        let mut blocks: Vec<(bool, bool, bool)> = Vec::new();
        let mut selected = Vec::new();
        for line in &self.lines {
            let holds = || {
                let (text, negated) = condition(line);
                known(&text, version).or_else(|| truth.get(&text).copied()).unwrap_or(false) != negated
            };
            match line.word(0) {
                ".if" => {
                    let holds = holds();
                    let around = blocks.last().is_none_or(|(around, read, _)| *around && *read);
                    blocks.push((around, holds, holds));
                }
                ".elif" => {
                    let holds = holds();
                    if let Some(block) = blocks.last_mut() {
                        *block = (block.0, holds && !block.2, holds || block.2);
                    }
                }
                ".else" => {
                    if let Some(block) = blocks.last_mut() {
                        *block = (block.0, !block.2, true);
                    }
                }
                ".endif" => {
                    blocks.pop();
                }
                word if word.starts_with('.') => {}
                _ if blocks.last().is_none_or(|(around, read, _)| *around && *read) => selected.push(line),
                _ => {}
            }
        }
        selected
    }

    /// All lines, whatever the conditions.
    pub(super) fn all(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }
}

/// The condition of an `.if` without its negation, and whether it has one.
fn condition(line: &Line) -> (String, bool) {
    let text: String = line.from(1).iter().map(|word| word.text.as_str()).collect();
    match text.strip_prefix('!') {
        Some(rest) if !rest.contains(['&', '|']) => (rest.to_owned(), true),
        _ => (text, false),
    }
}

/// What can be said of a condition without running HAProxy.
fn known(text: &str, version: Option<Version>) -> Option<bool> {
    let asked = |name: &str| {
        let inner = text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
        parse_version(inner.trim_matches(['"', '\'']))
    };
    match (asked("version_atleast"), asked("version_before")) {
        (Some(least), _) => return version.map(|version| version >= least),
        (_, Some(before)) => return version.map(|version| version < before),
        _ => {}
    }
    text.parse::<i64>().ok().map(|number| number != 0)
}

/// `2.8`, `3.2.1` or `3.5-dev5`.
pub(super) fn parse_version(text: &str) -> Option<Version> {
    let (major, rest) = text.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `# For HAProxy 2.8` and `# HAProxy 2.8`, with more behind it or not; "2.6 and later" names no line.
fn made_for(line: &str) -> Option<Version> {
    let rest = line.trim().strip_prefix('#')?.trim_start();
    let rest = rest.strip_prefix("For ").unwrap_or(rest);
    let rest = rest.strip_prefix("HAProxy ")?;
    if rest.contains("later") || rest.contains("newer") {
        return None;
    }
    let number = rest.split([' ', ',', ':', ';']).next()?;
    parse_version(number)
}

/// `doctor: ID is meant` in a comment: ids may be several, with commas.
fn excused(comment: &str) -> Vec<String> {
    let Some((_, rest)) = comment.split_once("doctor:") else { return Vec::new() };
    let Some((ids, _)) = rest.split_once(" is meant") else { return Vec::new() };
    ids.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect()
}

/// How far down a file may say what line of HAProxy it is for.
const HEAD_LINES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(text: &str, truth: &[(&str, bool)], version: Option<Version>) -> Vec<String> {
        let truth = truth.iter().map(|(text, holds)| ((*text).to_owned(), *holds)).collect();
        let source = Source::read(Path::new("f"), 0, text.as_bytes());
        source.selected(&truth, version).into_iter().map(Line::text).collect()
    }

    #[test]
    fn branches_are_read_as_their_conditions_hold() {
        let text = "a\n.if defined(X)\nb\n.elif version_atleast(3.2)\nc\n.else\nd\n.endif\n.if !defined(X)\ne\n.endif\n.if 0\nf\n.endif";
        for (truth, version, expected) in [
            (true, None, "a b"),
            (false, None, "a d e"),
            (false, Some((3, 2)), "a c e"),
            (false, Some((2, 8)), "a d e"),
        ] {
            assert_eq!(selected(text, &[("defined(X)", truth)], version).join(" "), expected, "{truth} {version:?}");
        }
        let source = Source::read(Path::new("f"), 0, text.as_bytes());
        assert_eq!(source.conditions(None).into_iter().collect::<Vec<_>>(), ["defined(X)", "version_atleast(3.2)"]);
        assert_eq!(source.conditions(Some((3, 0))).into_iter().collect::<Vec<_>>(), ["defined(X)"]);
    }

    #[test]
    fn blocks_that_do_not_match_up_are_no_panic() {
        assert_eq!(selected(".endif\n.else\n.elif x\na\n.if y\nb", &[], None), ["a"]);
    }

    #[test]
    fn a_comment_says_what_is_meant_and_for_which_line() {
        let text = "# For HAProxy 2.8\na\n# doctor: no-refusal, found is meant: a demo\n\nb # doctor: x is meant\n";
        let source = Source::read(Path::new("f"), 0, text.as_bytes());
        assert_eq!(source.made_for, Some((2, 8)));
        let meant: Vec<_> = source.meant.iter().map(|(line, id)| format!("{line} {id}")).collect();
        assert_eq!(meant, ["5 found", "5 no-refusal", "5 x"]);
        assert_eq!(made_for("# HAProxy 3.0, as `tollgate haproxy` wrote it"), Some((3, 0)));
        assert_eq!(made_for("# a config for HAProxy 2.6 and later."), None);
        assert_eq!(made_for("# HAProxy 2.6 and later."), None);
    }
}
