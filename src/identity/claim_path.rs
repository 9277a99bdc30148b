//! Ways into the claims, as a config writes them.

use std::fmt;

use serde_json::{Map, Value};
use smallvec::SmallVec;

/// A way into the claims, one member name a step: `realm_access.roles`, `cognito:groups`.
///
/// As written in a config, dots separate steps; a claim whose own name holds a dot or a slash (`https://x.example/roles`)
/// is written in double quotes: `"\"https://x.example/roles\""`. A path that begins with `http://` or `https://` is one
/// step as it stands, since no provider nests below a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Parses the config's notation; `None` where a step is empty or `*`, or a quote is not closed.
    pub fn parse(text: &str) -> Option<ClaimPath> {
        let steps = steps(text)?;
        steps.into_iter().map(|step| step.name).collect::<Option<Vec<_>>>().map(ClaimPath)
    }

    /// The value it leads to, `None` where a step is missing or is not an object.
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        follow(&self.0, claims)
    }

    /// The steps.
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

/// A [`ClaimPath`] that may have one step `*`, which stands for every member there is: `resource_access.*.roles`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPattern {
    /// The whole path, or what stands before the `*`.
    before: Vec<String>,
    /// What stands after the `*`, where there is one.
    after: Option<Vec<String>>,
}

impl ClaimPattern {
    /// Parses the config's notation; `None` as for [`ClaimPath::parse`], where there is a second `*`, and where `*` is
    /// the first step: every claim of a token is no place for anything.
    pub fn parse(text: &str) -> Option<ClaimPattern> {
        let steps = steps(text)?;
        let mut parts = steps.split(|step| step.name.is_none());
        let named = |part: &[Step]| part.iter().filter_map(|step| step.name.clone()).collect::<Vec<_>>();
        let (before, after) = (named(parts.next()?), parts.next().map(named));
        (!before.is_empty() && parts.next().is_none()).then_some(ClaimPattern { before, after })
    }

    /// The values it leads to, each with the name of the member that `*` stood for.
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> SmallVec<[(Option<&'a str>, &'a Value); 1]> {
        let mut found = SmallVec::new();
        match (follow(&self.before, claims), &self.after) {
            (Some(value), None) => found.push((None, value)),
            (Some(Value::Object(members)), Some(after)) => {
                for (name, value) in members {
                    let value = match (after.is_empty(), value) {
                        (true, value) => Some(value),
                        (false, Value::Object(members)) => follow(after, members),
                        (false, _) => None,
                    };
                    found.extend(value.map(|value| (Some(name.as_str()), value)));
                }
            }
            (Some(_) | None, _) => {}
        }
        found
    }

    /// The first step: the claim itself.
    pub fn claim(&self) -> &str {
        self.before.first().map_or("", |step| step)
    }

    /// The path, where it has no `*`.
    pub fn as_path(&self) -> Option<ClaimPath> {
        self.after.is_none().then(|| ClaimPath(self.before.clone()))
    }
}

impl From<ClaimPath> for ClaimPattern {
    fn from(path: ClaimPath) -> ClaimPattern {
        ClaimPattern { before: path.0, after: None }
    }
}

fn follow<'a>(steps: &[String], claims: &'a Map<String, Value>) -> Option<&'a Value> {
    let (first, rest) = steps.split_first()?;
    rest.iter().try_fold(claims.get(first)?, |value, step| value.as_object()?.get(step))
}

/// A step as written: a member's name, or `*` without quotes.
struct Step {
    name: Option<String>,
}

fn steps(text: &str) -> Option<Vec<Step>> {
    if is_url(text) {
        return Some(vec![Step { name: Some(text.to_owned()) }]);
    }
    let mut steps = Vec::new();
    let mut rest = text;
    loop {
        let (step, after, quoted) = if let Some(quoted) = rest.strip_prefix('"') {
            let (step, after) = quoted.split_once('"')?;
            (step, after, true)
        } else {
            let (step, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
            (step, after, false)
        };
        if step.is_empty() {
            return None;
        }
        steps.push(Step { name: (quoted || step != "*").then(|| step.to_owned()) });
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Some(steps),
            None => return None,
        }
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// As [`steps`] reads it.
fn write(f: &mut fmt::Formatter<'_>, steps: &[String], alone: bool) -> fmt::Result {
    for (index, step) in steps.iter().enumerate() {
        let dot = if index > 0 { "." } else { "" };
        let plain = (alone && is_url(step)) || !(step.contains('.') || step == "*" || is_url(step));
        if plain { write!(f, "{dot}{step}")? } else { write!(f, "{dot}\"{step}\"")? }
    }
    Ok(())
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.0, self.0.len() == 1)
    }
}

impl fmt::Display for ClaimPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.before, self.after.is_none() && self.before.len() == 1)?;
        let Some(after) = &self.after else { return Ok(()) };
        f.write_str(".*")?;
        if !after.is_empty() {
            f.write_str(".")?;
        }
        write(f, after, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claim_paths_read_as_written() {
        for (text, steps) in [
            ("sub", Some(vec!["sub"])),
            ("realm_access.roles", Some(vec!["realm_access", "roles"])),
            ("cognito:groups", Some(vec!["cognito:groups"])),
            ("https://corp.example/roles", Some(vec!["https://corp.example/roles"])),
            ("resource_access.\"my.client\".roles", Some(vec!["resource_access", "my.client", "roles"])),
            ("a.\"*\"", Some(vec!["a", "*"])),
            ("", None),
            ("a..b", None),
            ("a.", None),
            ("\"a", None),
            ("\"a\"b", None),
            ("a.*", None),
        ] {
            let read = ClaimPath::parse(text);
            let read = read.as_ref().map(|path| path.steps().iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(read, steps, "{text}");
        }
    }

    #[test]
    fn a_path_is_shown_as_it_is_read() {
        for text in [
            "sub",
            "realm_access.roles",
            "cognito:groups",
            "https://a.example/r",
            "a.\"b.c\".d",
            "\"https://a.example\".r",
            "resource_access.*.roles",
            "a.*",
            "a.\"*\".b",
            "\"a.b\".*.\"c.d\"",
        ] {
            assert_eq!(ClaimPattern::parse(text).unwrap().to_string(), text);
            if let Some(path) = ClaimPath::parse(text) {
                assert_eq!(path.to_string(), text);
            }
        }
    }

    #[test]
    fn a_star_stands_for_every_member() {
        let claims = json!({
            "resource_access": {"web": {"roles": ["a"]}, "account": {"roles": ["b"]}, "x": 1, "y": {"other": 1}},
            "flat": {"p": "1", "q": "2"},
            "list": ["z"]
        });
        let claims = claims.as_object().unwrap();
        for (text, expected) in [
            ("resource_access.*.roles", json!([["account", ["b"]], ["web", ["a"]]])),
            ("resource_access.web.roles", json!([[null, ["a"]]])),
            ("flat.*", json!([["p", "1"], ["q", "2"]])),
            ("list.*", json!([])),
            ("none.*.roles", json!([])),
        ] {
            let found = ClaimPattern::parse(text).unwrap().find(claims);
            assert_eq!(json!(found.into_vec()), expected, "{text}");
        }
        for text in ["*", "*.roles", "a.*.*", "a.*.b.*", "a.*."] {
            assert_eq!(ClaimPattern::parse(text), None, "{text}");
        }
    }
}
