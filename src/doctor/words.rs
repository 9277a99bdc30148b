//! One line of HAProxy's language, split into words as HAProxy splits it.
//!
//! Source: HAProxy's configuration manual, section 2.2 (quoting and escaping) and 2.3 (environment variables).

use std::collections::BTreeMap;

/// What the config itself says of environment variables: `setenv` and `presetenv`.
pub(super) type Environment = BTreeMap<String, String>;

/// One word of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// As HAProxy takes it, quotes and escapes resolved, defaults of environment variables filled in.
    pub text: String,
    /// Holds a part that only the environment of the running HAProxy knows; it stands in `text` as written.
    pub open: bool,
}

/// Splits a line. A quote that is not closed ends with the line: whether HAProxy takes that is its own checker's affair.
/// Gives the words and the comment, without its `#`.
pub(super) fn split<'a>(line: &'a str, environment: &Environment) -> (Vec<Word>, Option<&'a str>) {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut rest = line.char_indices().peekable();
    while let Some((at, character)) = rest.next() {
        match (character, quote) {
            ('\'', None) => {
                quote = Some('\'');
                word.get_or_insert_default();
            }
            ('"', None) => {
                quote = Some('"');
                word.get_or_insert_default();
            }
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => word.get_or_insert_default().text.push(character),
            ('\\', None) => {
                let escaped = match rest.next().map(|(_, next)| next) {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(next) => next,
                    None => '\\',
                };
                word.get_or_insert_default().text.push(escaped);
            }
            // Within double quotes a backslash is one before anything else.
            ('\\', _) => match rest.next_if(|(_, next)| ['"', '\\', '$'].contains(next)) {
                Some((_, next)) => word.get_or_insert_default().text.push(next),
                None => word.get_or_insert_default().text.push('\\'),
            },
            ('$', Some('"')) => {
                let end = variable_end(line.get(at + 1..).unwrap_or_default());
                let name = line.get(at + 1..at + 1 + end).unwrap_or_default();
                let word = word.get_or_insert_default();
                match value(name, environment) {
                    _ if end == 0 => word.text.push('$'),
                    Some(value) => word.text.push_str(&value),
                    None => {
                        word.text.push('$');
                        word.text.push_str(name);
                        word.open = true;
                    }
                }
                while rest.next_if(|(index, _)| *index < at + 1 + end).is_some() {}
            }
            ('#', None) => {
                words.extend(word);
                return (words, line.get(at + 1..));
            }
            (_, None) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().text.push(character),
        }
    }
    words.extend(word);
    (words, None)
}

/// The length of what follows a `$` and belongs to it: `{…}`, or letters, digits and `_`.
fn variable_end(rest: &str) -> usize {
    if rest.starts_with('{') {
        return rest.find('}').map_or(0, |end| end + 1);
    }
    rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
}

/// What the config says of a variable: `NAME`, `{NAME}`, `{NAME-default}`, `{NAME[*]}`.
fn value(written: &str, environment: &Environment) -> Option<String> {
    let inner = written.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(written);
    let (name, default) = match inner.split_once('-') {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let name = name.trim_end_matches("[*]");
    environment.get(name).cloned().or_else(|| default.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_haproxy_splits_them() {
        for (line, expected, comment) in [
            ("  bind  *:80 # all", "bind|*:80", Some(" all")),
            ("acl a path /a\\ b", "acl|a|path|/a b", None),
            ("acl a hdr(x) \\#", "acl|a|hdr(x)|#", None),
            ("deny if { url_sub -m sub \"#\" }", "deny|if|{|url_sub|-m|sub|#|}", None),
            ("log-format '{\"a\":\"%b\"} # no'", "log-format|{\"a\":\"%b\"} # no", None),
            ("bind \"${A-127.0.0.1:80}\"", "bind|127.0.0.1:80", None),
            ("bind \"${A}\"x", "bind|${A}x", None),
            ("bind \"$B:80\" '$B'", "bind|here:80|$B", None),
            ("a \"\" b", "a||b", None),
            ("a#b c", "a", Some("b c")),
            ("a \"\\\"\\n\" \\", "a|\"\\n|\\", None),
            ("a \"${B", "a|${B", None),
            ("a \"50$\"", "a|50$", None),
            ("# only", "", Some(" only")),
        ] {
            let environment = Environment::from([("B".to_owned(), "here".to_owned())]);
            let (words, said) = split(line, &environment);
            let words: Vec<_> = words.into_iter().map(|word| word.text).collect();
            assert_eq!((words.join("|").as_str(), said), (expected, comment), "{line}");
        }
    }

    #[test]
    fn what_only_the_environment_knows_is_marked() {
        let open =
            |line: &str| split(line, &Environment::new()).0.into_iter().map(|word| word.open).collect::<Vec<_>>();
        assert_eq!(open("bind \"${A}\" \"${B-x}\" '$C' \"${D[*]}\""), [false, true, false, false, true]);
    }
}
