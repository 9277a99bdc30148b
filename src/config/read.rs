//! Taking values out of the tree, so that each mistake is noted with its place and reading goes on.
//!
//! An [`At`] is a node together with the way to it. Its readers give `None` where the value is not what was asked for,
//! and have then reported why; a caller goes on with what is left, so that one run names every mistake. A [`Section`]
//! is a map whose keys are known: what nobody took is an unknown key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{self, Problem};
use super::file::{Entry, Kind, Node, Place};
use super::values;

/// What has been found so far.
pub(super) struct Report<'a> {
    text: &'a str,
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    unknown_keys: RefCell<BTreeMap<u32, Place>>,
    /// Files that it depends on.
    files: RefCell<Vec<PathBuf>>,
}

/// A node at its place.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) key: String,
    pub(super) place: Place,
    node: &'a Node,
    report: &'a Report<'a>,
}

/// A map whose keys are known beforehand.
pub(super) struct Section<'a> {
    at: At<'a>,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    missing: Vec<(&'static str, &'static str)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Report<'a> {
        Report {
            text,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            unknown_keys: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// The root of the tree.
    pub(super) fn at(&'a self, node: &'a Node) -> At<'a> {
        At { key: String::new(), place: node.place, node, report: self }
    }

    /// The files that were read on its account, or that could not be.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Errors and warnings.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        let unknown_keys = self.unknown_keys.into_inner();
        for problem in errors.iter_mut().chain(&mut warnings) {
            // What follows a misspelt `password` is not shown, neither there nor by what else is wrong on that line.
            let unknown = problem.place.and_then(|place| unknown_keys.get(&place.line));
            if unknown.is_some() && unknown != problem.place.as_ref() {
                problem.source_line = None;
            }
        }
        warnings.sort_by_key(|warning| warning.place);
        (errors, warnings)
    }

    fn problem(&self, at: &At<'_>, what: String, about_key: bool) -> Problem {
        Problem {
            place: Some(at.place),
            key: at.key.clone(),
            what,
            expected: None,
            nearest: None,
            source_line: error::source_line(self.text, at.place, about_key),
        }
    }
}

impl<'a> At<'a> {
    /// Notes that the config depends on a file, so that a change of it is one of the config.
    pub(super) fn depends_on(&self, file: &Path) {
        self.report.files.borrow_mut().push(file.to_owned());
    }

    /// Reads a file that the config depends on, of at most `bytes_max`.
    pub(super) fn read_file(&self, file: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
        self.depends_on(file);
        let metadata = std::fs::metadata(file)?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is no regular file"));
        }
        if metadata.len() > bytes_max {
            return Err(std::io::Error::other(format!("it is larger than {} KiB", bytes_max / 1024)));
        }
        std::fs::read(file)
    }

    /// Notes that this value is wrong.
    pub(super) fn refuse(&self, what: impl Into<String>, expected: impl Into<String>) {
        let problem = self.report.problem(self, what.into(), false);
        let expected = Some(expected.into()).filter(|text| !text.is_empty());
        self.report.errors.borrow_mut().push(Problem { expected, ..problem });
    }

    /// Notes that this value is wrong without showing the line that it is on: it may be a secret.
    pub(super) fn refuse_unshown(&self, what: impl Into<String>, expected: impl Into<String>) {
        let problem = self.report.problem(self, what.into(), false);
        self.report.errors.borrow_mut().push(Problem { expected: Some(expected.into()), source_line: None, ..problem });
    }

    /// Notes that this value is wrong, where one correction is the likely one.
    pub(super) fn refuse_for(&self, what: impl Into<String>, expected: &str, nearest: Option<String>) {
        let problem = self.report.problem(self, what.into(), false);
        let expected = Some(expected.to_owned()).filter(|text| !text.is_empty());
        self.report.errors.borrow_mut().push(Problem { expected, nearest, ..problem });
    }

    /// Notes that `name` is none of `known`; `noun` is what it should be, with its article.
    pub(super) fn refuse_name<'n>(&self, name: &str, noun: &str, known: impl IntoIterator<Item = &'n str>) {
        let known: Vec<&str> = known.into_iter().collect();
        let expected =
            if known.is_empty() { format!("the name of {noun}, and the config has none") } else { one_of(&known) };
        self.refuse_for(format!("{} is not {noun}", quote(name)), &expected, nearest(name, known));
    }

    /// Notes something that is allowed and probably not meant.
    pub(super) fn warn(&self, what: impl Into<String>) {
        self.report.warnings.borrow_mut().push(self.report.problem(self, what.into(), false));
    }

    /// Notes that the value is of the wrong kind.
    pub(super) fn refuse_kind(&self, expected: &str) {
        let what = match &self.node.kind {
            Kind::Null => "there is nothing here".to_owned(),
            Kind::Bool(value) => format!("`{value}` is true or false"),
            Kind::Integer(value) => format!("`{value}` is a number"),
            Kind::Float(value) => format!("`{value}` is a number"),
            Kind::Text(text) => format!("{} is text", quote(text)),
            Kind::List(_) => "this is a list".to_owned(),
            Kind::Map(_) => "this is a map".to_owned(),
        };
        self.refuse(what, expected);
    }

    pub(super) fn kind(&self) -> &'a Kind {
        &self.node.kind
    }

    /// The text if it is text, without an error otherwise.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Text that is not empty and has no control characters, so that it can go into a header, a log line or a key.
    pub(super) fn text(&self, expected: &str) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) if text.is_empty() => self.refuse("this is empty", expected),
            Kind::Text(text) if text.chars().any(char::is_control) => {
                self.refuse(format!("{} has a control character", quote(text)), expected);
            }
            Kind::Text(text) => return Some(text),
            Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => {
                self.refuse_kind(&format!("{expected} (text: write it in quotes)"));
            }
            _ => self.refuse_kind(expected),
        }
        None
    }

    /// A text that `parse` understands; `noun` is what it should be, with its article.
    pub(super) fn parsed<T>(&self, noun: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let number;
        let text = match &self.node.kind {
            Kind::Text(text) => text,
            Kind::Integer(value) => {
                number = value.to_string();
                &number
            }
            _ => {
                self.refuse_kind(expected);
                return None;
            }
        };
        let value = parse(text);
        if value.is_none() {
            self.refuse(format!("{} is not {noun}", quote(text)), expected);
        }
        value
    }

    /// A name that can stand in a header, a metric label and a Redis key.
    pub(super) fn name(&self, noun: &str) -> Option<&'a str> {
        let name = self.text(&format!("the name of {noun}: {NAME_CHARS}"))?;
        self.check_name(name, noun).then_some(name)
    }

    fn check_name(&self, name: &str, noun: &str) -> bool {
        let good = is_name(name);
        if !good {
            self.refuse(format!("{} cannot be the name of {noun}", quote(name)), NAME_CHARS);
        }
        good
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.node.kind {
            Kind::Bool(value) => return Some(*value),
            // YAML 1.1 took these for booleans, and many still write them.
            Kind::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" => {
                    self.refuse_for(format!("{} is text", quote(text)), "`true` or `false`", Some("true".to_owned()));
                }
                "no" | "off" | "n" => {
                    self.refuse_for(format!("{} is text", quote(text)), "`true` or `false`", Some("false".to_owned()));
                }
                _ => self.refuse_kind("`true` or `false`"),
            },
            _ => self.refuse_kind("`true` or `false`"),
        }
        None
    }

    /// A whole number from `min` to `max`.
    pub(super) fn integer(&self, min: u64, max: u64) -> Option<u64> {
        let expected = format!("a whole number from {min} to {max}");
        let Kind::Integer(value) = &self.node.kind else {
            self.refuse_kind(&expected);
            return None;
        };
        let inside = u64::try_from(*value).ok().filter(|value| (min..=max).contains(value));
        if inside.is_none() {
            self.refuse(format!("`{value}` is out of bounds"), expected);
        }
        inside
    }

    /// A duration from `min` to `max`.
    pub(super) fn duration(&self, min: Duration, max: Duration) -> Option<Duration> {
        let bounds = format!("{} to {}", values::show_duration(min), values::show_duration(max));
        let expected = format!("a number with its unit (ms, s, m, h, d), from {bounds}");
        let value = self.parsed("a duration", &expected, values::duration)?;
        if !(min..=max).contains(&value) {
            self.refuse(
                format!("`{}` is out of bounds", values::show_duration(value)),
                format!("a duration from {bounds}"),
            );
            return None;
        }
        Some(value)
    }

    /// A size in bytes from `min` to `max`.
    pub(super) fn size(&self, min: u64, max: u64) -> Option<u64> {
        let bounds = format!("{} to {}", values::show_size(min), values::show_size(max));
        let expected = format!("bytes, or a number with KiB, MiB or GiB, from {bounds}");
        let value = self.parsed("a size", &expected, values::size)?;
        if !(min..=max).contains(&value) {
            self.refuse(format!("`{}` is out of bounds", values::show_size(value)), format!("a size from {bounds}"));
            return None;
        }
        Some(value)
    }

    /// The items of a list that is not empty: an empty one would mean "any" to some readers and "none" to others.
    pub(super) fn list(&self, expected: &str) -> Option<Vec<At<'a>>> {
        match &self.node.kind {
            Kind::List(items) if !items.is_empty() => Some(self.items(items)),
            Kind::List(_) => {
                self.refuse("this list is empty", expected);
                None
            }
            _ => {
                self.refuse_kind(expected);
                None
            }
        }
    }

    /// The items of a list that may be empty where nobody could read that in two ways.
    pub(super) fn list_or_none(&self, expected: &str) -> Option<Vec<At<'a>>> {
        match &self.node.kind {
            Kind::List(items) => Some(self.items(items)),
            _ => self.list(expected),
        }
    }

    /// The items of a list, or the one value that stands for a list of one. Empty where there is an error.
    pub(super) fn one_or_many(&self, expected: &str) -> Vec<At<'a>> {
        match &self.node.kind {
            Kind::List(_) => self.list(expected).unwrap_or_default(),
            Kind::Map(_) | Kind::Null => {
                self.refuse_kind(expected);
                Vec::new()
            }
            _ => vec![self.clone()],
        }
    }

    fn items(&self, items: &'a [Node]) -> Vec<At<'a>> {
        let item = |(index, node): (usize, &'a Node)| At {
            key: format!("{}[{index}]", self.key),
            place: node.place,
            node,
            report: self.report,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The map as one with known keys.
    pub(super) fn section(&self, expected: &str) -> Option<Section<'a>> {
        let entries = self.map(expected)?;
        Some(Section { at: self.clone(), entries, known: Vec::new(), missing: Vec::new() })
    }

    /// The entries of a map with names of the operator's own, each given once: the key, the key's place, the value.
    pub(super) fn named(&self, expected: &str) -> Vec<(&'a str, At<'a>, At<'a>)> {
        let entries = self.map(expected).unwrap_or_default();
        let mut named: Vec<(&'a str, At<'a>, At<'a>)> = Vec::new();
        for entry in entries {
            if named.iter().any(|(name, _, _)| *name == entry.key) {
                continue; // reported by `map`
            }
            named.push((&entry.key, self.key_of(entry), self.child(entry)));
        }
        named
    }

    /// As [`At::named`], for a map whose keys must be names.
    pub(super) fn with_names(&self, noun: &str, expected: &str) -> Vec<(&'a str, At<'a>, At<'a>)> {
        let mut named = self.named(expected);
        named.retain(|(name, key, _)| key.check_name(name, noun));
        named
    }

    fn map(&self, expected: &str) -> Option<&'a [Entry]> {
        let Kind::Map(entries) = &self.node.kind else {
            self.refuse_kind(expected);
            return None;
        };
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = entries.iter().take(index).find(|first| first.key == entry.key) {
                let problem = self.report.problem(
                    &self.key_of(entry),
                    format!("the key {} is given twice, first on line {}", quote(&entry.key), first.place.line),
                    true,
                );
                self.report.errors.borrow_mut().push(problem);
            }
        }
        Some(entries)
    }

    fn key_of(&self, entry: &'a Entry) -> At<'a> {
        At { key: join(&self.key, &entry.key), place: entry.place, node: &entry.value, report: self.report }
    }

    fn child(&self, entry: &'a Entry) -> At<'a> {
        // A value that is not there has no place of its own.
        let place = if matches!(entry.value.kind, Kind::Null) { entry.place } else { entry.value.place };
        At { place, ..self.key_of(entry) }
    }
}

impl<'a> Section<'a> {
    /// The section itself.
    pub(super) fn at(&self) -> &At<'a> {
        &self.at
    }

    /// The value of a key that may be left out.
    pub(super) fn take(&mut self, key: &'static str) -> Option<At<'a>> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| self.at.child(entry))
    }

    /// The value of a key that must be there.
    pub(super) fn need(&mut self, key: &'static str, expected: &'static str) -> Option<At<'a>> {
        let found = self.take(key);
        if found.is_none() {
            self.missing.push((key, expected));
        }
        found
    }

    /// Reports what was missing and what nobody asked for.
    pub(super) fn finish(mut self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            self.at.report.unknown_keys.borrow_mut().entry(entry.place.line).or_insert(entry.place);
            let near = nearest(&entry.key, self.known.iter().copied().filter(|key| !self.is_given(key)));
            // A misspelt key is one mistake, not two.
            self.missing.retain(|(key, _)| Some(*key) != near.as_deref());
            let what = format!("unknown key {}", quote(&entry.key));
            let problem = self.at.report.problem(&self.at.key_of(entry), what, true);
            let problem = Problem { expected: Some(one_of(&self.known)), nearest: near, ..problem };
            self.at.report.errors.borrow_mut().push(problem);
        }
        for (key, expected) in &self.missing {
            self.at.refuse(format!("`{key}` is missing"), format!("`{key}: {expected}`"));
        }
    }

    fn is_given(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }
}

/// Whether it can stand in a header, a metric label and a Redis key as it is.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A value in backticks, on one line, cut where it is long.
pub(super) fn quote(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut shown: String = text
        .chars()
        .take(CHARS_MAX)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().count() > CHARS_MAX {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// `one of: a, b`, or the one there is.
pub(super) fn one_of(names: &[&str]) -> String {
    const NAMES_MAX: usize = 20;
    match names {
        [only] => format!("`{only}`"),
        _ if names.len() > NAMES_MAX => {
            format!(
                "one of: {}, … ({} in all)",
                names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", "),
                names.len()
            )
        }
        _ => format!("one of: {}", names.join(", ")),
    }
}

/// The known name nearest to `name`: about a third of its letters away at most, transpositions counting once.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let name = name.to_lowercase();
    let allowed = ((name.chars().count() + 1) / 3).max(1);
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&name, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= allowed && *distance < known.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known.to_owned())
}

fn join(parent: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    match (parent.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[\"{}\"]", quote(key).trim_matches('`')),
    }
}

const NAME_CHARS: &str = "1 to 64 letters, digits, `_`, `.` or `-`";
