//! `if` and `unless`: conditions, the ACLs in them, and what these say of a variable's value.
//!
//! Source: HAProxy's configuration manual, sections 7.1 (matching) and 7.2 (forming conditions).

use std::cell::RefCell;
use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};

use super::words::Word;

/// What stands behind `if` or `unless`.
#[derive(Clone, Debug)]
pub(super) struct Condition<'a> {
    /// `unless`.
    pub unless: bool,
    /// Any of these, each of which is all of its terms.
    pub any: Vec<Vec<Term<'a>>>,
}

/// An ACL within a condition.
#[derive(Clone, Debug)]
pub(super) struct Term<'a> {
    pub negated: bool,
    pub test: Test<'a>,
}

/// A named ACL, or one in braces.
#[derive(Clone, Debug)]
pub(super) enum Test<'a> {
    Named(&'a str),
    Inline(Criterion),
}

/// One ACL expression: a sample, and what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Criterion {
    /// As written, with single blanks: two that read alike are one.
    pub text: String,
    /// The sample's function, such as `var` or `req.fhdr`, without what its name says about matching.
    pub fetch: String,
    /// What stands in its parentheses.
    pub argument: String,
    /// Converters follow it.
    pub converted: bool,
    method: String,
    ignores_case: bool,
    /// Compared with values that stand elsewhere (`-f`), or that only the environment knows.
    elsewhere: bool,
    pub patterns: Vec<String>,
}

/// The value of a variable, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Unset,
    /// It exists without a value: HAProxy had no room for it.
    Hollow,
    Text(String),
    Number(i64),
    Bool(bool),
    /// It may be anything.
    Any,
}

impl<'a> Condition<'a> {
    /// Reads `if …` or `unless …`.
    pub(super) fn read(words: &'a [Word]) -> Option<Condition<'a>> {
        let (first, mut rest) = words.split_first()?;
        let unless = match first.text.as_str() {
            "if" => false,
            "unless" => true,
            _ => return None,
        };
        let (mut any, mut all, mut negated) = (Vec::new(), Vec::new(), false);
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            let mut text = word.text.as_str();
            while let Some(inner) = text.strip_prefix('!') {
                negated = !negated;
                text = inner;
            }
            match text {
                "" => {}
                "or" | "||" => {
                    any.push(std::mem::take(&mut all));
                    negated = false;
                }
                "and" | "&&" => {}
                "{" => {
                    let end = rest.iter().position(|word| word.text == "}").unwrap_or(rest.len());
                    let (inner, after) = rest.split_at_checked(end)?;
                    rest = after.get(1..).unwrap_or_default();
                    if let Some(criterion) = Criterion::read(inner) {
                        all.push(Term { negated, test: Test::Inline(criterion) });
                    }
                    negated = false;
                }
                name => {
                    all.push(Term { negated, test: Test::Named(name) });
                    negated = false;
                }
            }
        }
        any.push(all);
        Some(Condition { unless, any })
    }

    /// Every ACL in it.
    pub(super) fn terms(&self) -> impl Iterator<Item = &Term<'a>> {
        self.any.iter().flatten()
    }
}

impl Criterion {
    /// Reads a sample with its flags and patterns.
    pub(super) fn read(words: &[Word]) -> Option<Criterion> {
        let (sample, rest) = words.split_first()?;
        let (mut fetch, argument, converted) = parse_sample(&sample.text);
        let mut method = String::new();
        for (suffix, means) in SUFFIXES {
            if let Some(stem) = fetch.strip_suffix(suffix)
                && !WHOLE_NAMES.contains(&fetch.as_str())
            {
                method = (*means).to_owned();
                fetch = stem.to_owned();
                break;
            }
        }
        let (mut ignores_case, mut elsewhere) = (false, sample.open);
        let mut rest = rest.iter();
        let mut patterns = Vec::new();
        while let Some(word) = rest.next() {
            match word.text.as_str() {
                "-i" if patterns.is_empty() => ignores_case = true,
                "-m" if patterns.is_empty() => rest.next().into_iter().for_each(|word| method.clone_from(&word.text)),
                "-f" | "-M" | "-u" if patterns.is_empty() => {
                    elsewhere = true;
                    if word.text != "-M" {
                        rest.next();
                    }
                }
                "-n" if patterns.is_empty() => {}
                "--" if patterns.is_empty() => patterns.extend(rest.by_ref().map(|word| word.text.clone())),
                _ => {
                    elsewhere |= word.open;
                    patterns.push(word.text.clone());
                }
            }
        }
        let text = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        Some(Criterion { text, fetch, argument, converted, method, ignores_case, elsewhere, patterns })
    }

    /// The variable it looks at, with its scope.
    pub(super) fn variable(&self) -> Option<&str> {
        (self.fetch == "var").then(|| self.argument.split(',').next().unwrap_or_default().trim())
    }

    /// Compares with whole values, from a list that is written here.
    pub(super) fn is_closed_list(&self) -> bool {
        self.method == "str" && !self.elsewhere && !self.patterns.is_empty()
    }

    /// Whether it holds for every request that has this header field, once or more.
    pub(super) fn holds_with_field(&self, name: &str) -> bool {
        let counts = ["hdr_cnt", "req.hdr_cnt", "fhdr_cnt", "req.fhdr_cnt"].contains(&self.fetch.as_str());
        let any = counts && [1, 2, 3].iter().all(|number| self.matches_number(*number) == Some(true));
        let found = ["hdr", "req.hdr", "fhdr", "req.fhdr"].contains(&self.fetch.as_str()) && self.method == "found";
        !self.converted && self.argument.eq_ignore_ascii_case(name) && (any || found)
    }

    /// An exact path: no other spelling matches it.
    pub(super) fn is_exact_path(&self) -> bool {
        self.fetch == "path" && !self.converted && ["", "str"].contains(&self.method.as_str())
    }

    /// Whether no request meets both: other values, or other beginnings, of the same sample.
    pub(super) fn excludes(&self, other: &Criterion) -> bool {
        let same = self.fetch == other.fetch && self.argument.eq_ignore_ascii_case(&other.argument);
        if !same || self.converted || other.converted || self.elsewhere || other.elsewhere {
            return false;
        }
        let apart = |one: &Criterion, one_says: &str, two: &Criterion, two_says: &str| {
            let [one_says, two_says] = [one_says, two_says].map(str::to_ascii_lowercase);
            match (one.method.as_str(), two.method.as_str()) {
                ("" | "str", "" | "str") => one_says != two_says,
                ("" | "str", "beg") => !one_says.starts_with(&two_says),
                ("beg", "" | "str") => !two_says.starts_with(&one_says),
                ("beg", "beg") => !one_says.starts_with(&two_says) && !two_says.starts_with(&one_says),
                _ => false,
            }
        };
        TEXTS.contains(&self.fetch.as_str())
            && self.patterns.iter().all(|one| other.patterns.iter().all(|two| apart(self, one, other, two)))
    }

    /// Whether a value matches; `None` where that cannot be known.
    pub(super) fn matches(&self, value: &Value) -> Option<bool> {
        let default = self.argument.split_once(',').map(|(_, default)| Value::Text(default.trim().to_owned()));
        let value = match (value, &default) {
            (Value::Unset, Some(default)) => default,
            _ => value,
        };
        match (self.method.as_str(), value) {
            // What is not there matches nothing, whatever the method.
            (_, Value::Unset) => Some(false),
            _ if self.converted => None,
            (_, Value::Any) => None,
            ("found", _) => Some(true),
            (_, Value::Hollow) => Some(false),
            ("bool", Value::Bool(yes)) => Some(*yes),
            ("bool", Value::Number(number)) => Some(*number != 0),
            (method, Value::Bool(yes)) => self.matches_text(method, if *yes { "1" } else { "0" }),
            ("int", Value::Number(number)) => self.matches_number(*number),
            (method, Value::Number(number)) => self.matches_text(method, &number.to_string()),
            (method, Value::Text(text)) => self.matches_text(method, text),
        }
    }

    fn matches_text(&self, method: &str, text: &str) -> Option<bool> {
        if self.elsewhere {
            return None;
        }
        let folded = |text: &str| if self.ignores_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let text = folded(text);
        let any =
            |test: fn(&str, &str) -> bool| Some(self.patterns.iter().any(|pattern| test(&text, &folded(pattern))));
        match method {
            "str" => any(|text, pattern| text == pattern),
            "beg" => any(|text, pattern| text.starts_with(pattern)),
            "end" => any(|text, pattern| text.ends_with(pattern)),
            "sub" => any(|text, pattern| text.contains(pattern)),
            "len" => self.matches_number(i64::try_from(text.len()).ok()?),
            "int" => self.matches_number(text.parse().ok()?),
            "reg" => {
                let mut any = false;
                for pattern in &self.patterns {
                    any |= expression_matches(pattern, self.ignores_case, &text)?;
                }
                Some(any)
            }
            _ => None,
        }
    }

    /// Numbers, ranges (`1:5`) and comparisons (`gt 0`).
    fn matches_number(&self, number: i64) -> Option<bool> {
        if self.elsewhere {
            return None;
        }
        let mut compare: fn(i64, i64) -> bool = |number, with| number == with;
        for pattern in &self.patterns {
            compare = match pattern.as_str() {
                "eq" => |number, with| number == with,
                "gt" => |number, with| number > with,
                "ge" => |number, with| number >= with,
                "lt" => |number, with| number < with,
                "le" => |number, with| number <= with,
                _ => {
                    let holds = match pattern.split_once(':') {
                        Some((from, to)) => {
                            let after = from.is_empty() || number >= from.parse().ok()?;
                            after && (to.is_empty() || number <= to.parse().ok()?)
                        }
                        None => compare(number, pattern.parse().ok()?),
                    };
                    if holds {
                        return Some(true);
                    }
                    continue;
                }
            }
        }
        Some(false)
    }
}

/// A function, what stands in its parentheses, and whether converters follow.
pub(super) fn parse_sample(text: &str) -> (String, String, bool) {
    let end = text.find(['(', ',']).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let name = name.to_ascii_lowercase();
    let Some(inner) = rest.strip_prefix('(') else {
        return (name, String::new(), rest.len() > 1);
    };
    let close = inner.find(')').unwrap_or(inner.len());
    let (argument, after) = inner.split_at_checked(close).unwrap_or((inner, ""));
    (name, argument.to_owned(), after.len() > 1)
}

/// Whether an expression matches; `None` where it is one that this reader does not know (PCRE has more) or is too big.
pub(super) fn expression_matches(expression: &str, ignores_case: bool, text: &str) -> Option<bool> {
    thread_local! {
        // Each is asked about many names and texts, and to build its automaton takes far longer than to ask it.
        static BUILT: RefCell<BTreeMap<(String, bool), Option<Regex>>> = const { RefCell::new(BTreeMap::new()) };
    }
    BUILT.with_borrow_mut(|built| {
        if built.len() > EXPRESSIONS_MAX {
            built.clear();
        }
        let expression = built.entry((expression.to_owned(), ignores_case)).or_insert_with(|| {
            // HAProxy's expressions see bytes.
            let mut builder = RegexBuilder::new(expression);
            builder
                .unicode(false)
                .case_insensitive(ignores_case)
                .size_limit(EXPRESSION_BYTES_MAX)
                .dfa_size_limit(EXPRESSION_BYTES_MAX);
            builder.build().ok()
        });
        Some(expression.as_ref()?.is_match(text.as_bytes()))
    })
}

/// Expressions that are kept.
const EXPRESSIONS_MAX: usize = 64;

/// An expression's automaton: far more than one of header names needs.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// Samples with one value, of text.
const TEXTS: &[&str] = &["hdr", "req.hdr", "req.fhdr", "path", "method", "ssl_fc_sni", "url"];

/// What the end of an ACL's name says about matching.
const SUFFIXES: &[(&str, &str)] = &[
    ("_beg", "beg"),
    ("_dir", "dir"),
    ("_dom", "dom"),
    ("_end", "end"),
    ("_len", "len"),
    ("_reg", "reg"),
    ("_sub", "sub"),
];

/// Functions whose own names end so.
const WHOLE_NAMES: &[&str] = &["res.body_len", "req.body_len"];

#[cfg(test)]
mod tests {
    use super::super::words::{Environment, split};
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        split(text, &Environment::new()).0
    }

    #[test]
    fn conditions_are_read() {
        let words = words("unless a !b or !{ path /x } ! c || { var(txn.a.b) -m str allow }");
        let condition = Condition::read(&words).unwrap();
        assert!(condition.unless);
        let shown: Vec<_> =
            condition.any.iter().map(|all| all.iter().map(show).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(shown, ["a !b", "!{path /x} !c", "{var(txn.a.b) -m str allow}"]);
    }

    fn show(term: &Term<'_>) -> String {
        let not = if term.negated { "!" } else { "" };
        match &term.test {
            Test::Named(name) => format!("{not}{name}"),
            Test::Inline(criterion) => format!("{not}{{{}}}", criterion.text),
        }
    }

    #[test]
    fn values_match_as_in_haproxy() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (criterion, value, expected) in [
            ("var(txn.a.v) -m str allow", text("allow"), Some(true)),
            ("var(txn.a.v) -m str allow deny", text("deny"), Some(true)),
            ("var(txn.a.v) -m str allow", text("Allow"), Some(false)),
            ("var(txn.a.v) -i -m str allow", text("Allow"), Some(true)),
            ("var(txn.a.v) -m str -- -i", text("-i"), Some(true)),
            ("var(txn.a.v) -m str allow", Value::Unset, Some(false)),
            ("var(txn.a.v,allow) -m str allow", Value::Unset, Some(true)),
            ("var(txn.a.v) -m str allow", Value::Hollow, Some(false)),
            ("var(txn.a.v) -m found", Value::Hollow, Some(true)),
            ("var(txn.a.v) -m found", Value::Unset, Some(false)),
            ("var(txn.a.v) -m found", Value::Any, None),
            ("var(txn.a.v) -m len 5", text("allow"), Some(true)),
            ("var(txn.a.v) -m len gt 0", text("allow"), Some(true)),
            ("var(txn.a.v) -m int 256 257", Value::Number(1), Some(false)),
            ("var(txn.a.v) -m int 256 257", Value::Number(257), Some(true)),
            ("var(txn.a.v) -m int gt 0", Value::Number(1), Some(true)),
            ("var(txn.a.v) -m int 1:5", Value::Number(6), Some(false)),
            ("var(txn.a.v) -m bool", Value::Bool(true), Some(true)),
            ("var(txn.a.v) -m bool", Value::Any, None),
            ("var(txn.a.v),lower -m str allow", text("allow"), None),
            ("var(txn.a.v),lower -m str allow", Value::Unset, Some(false)),
            ("var(txn.a.v) -m reg ^al", text("allow"), Some(true)),
            ("var(txn.a.v) -m reg ^(?=a)", text("allow"), None),
            ("var(txn.a.v) -m str -f list", text("allow"), None),
        ] {
            let read = Criterion::read(&words(criterion)).unwrap();
            assert_eq!(read.matches(&value), expected, "{criterion} {value:?}");
        }
    }

    #[test]
    fn criteria_of_one_sample_exclude_each_other() {
        let read = |text: &str| Criterion::read(&words(text)).unwrap();
        for (one, two, expected) in [
            ("hdr(host) -i a.example", "hdr(host) -i b.example", true),
            ("hdr(host) a.example", "hdr(host) b.example A.example", false),
            ("hdr_beg(host) a.", "hdr_beg(host) b.", true),
            ("hdr_beg(host) a.", "hdr_beg(host) a.b.", false),
            ("path_beg /a", "path /b", true),
            ("path_beg /a", "path /a/b", false),
            ("path_end /a", "path_end /b", false),
            ("src 10.0.0.1", "src 10.0.0.2", false),
            ("hdr(host) a", "hdr(cookie) b", false),
        ] {
            assert_eq!(read(one).excludes(&read(two)), expected, "{one}, {two}");
            assert_eq!(read(two).excludes(&read(one)), expected, "{two}, {one}");
        }
    }

    #[test]
    fn an_old_name_says_how_it_matches() {
        let read = |text: &str| Criterion::read(&words(text)).unwrap();
        let criterion = read("hdr_beg(host) -i api.");
        assert_eq!(
            (criterion.fetch.as_str(), criterion.argument.as_str(), criterion.method.as_str()),
            ("hdr", "host", "beg")
        );
        assert!(read("path /a").is_exact_path() && !read("path_beg /a").is_exact_path());
        assert_eq!(read("var(txn.a,b)").variable(), Some("txn.a"));
    }
}
