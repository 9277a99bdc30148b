//! Whatever stands in a policy, both files have the lines that they have for a harmless one, word for word.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::{Backends, Files, Line, Site, render};
use crate::policy::rule::Backend;
use crate::server::settings::Listen;

/// A policy with the backends `std` and `name`, written into a file `config`, whose agent listens at `path`.
fn files(name: &str, config: &str, path: &str, line: Line) -> Files {
    let hints = ["std", name].map(|name| Backend { by_group: Vec::new(), otherwise: Some(name.into()) });
    let backends = Backends::of(hints.iter().map(Some));
    let listen = [Listen::Unix(PathBuf::from(path))];
    render(&Site::new(config, &listen, Duration::from_millis(40), backends).unwrap(), line)
}

/// What HAProxy makes of a file: the words of each line that has any. Its parser (`parse_line` in tools.c) as far as these
/// files need it, without the expansion of variables.
fn parsed(text: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            let into = |word: &mut Option<String>, c| word.get_or_insert_default().push(c);
            match (quote, c) {
                (None, '#' | '\r') => break,
                (None, ' ' | '\t') => words.extend(word.take()),
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (Some(open), _) if c == open => quote = None,
                (Some('\''), _) => into(&mut word, c),
                (_, '\\') => match chars.next() {
                    Some('x') => {
                        let digits: String = chars.by_ref().take(2).collect();
                        into(&mut word, char::from(u8::from_str_radix(&digits, 16).unwrap()));
                    }
                    Some(c) => into(&mut word, c),
                    None => panic!("a backslash ends {line:?}"),
                },
                _ => into(&mut word, c),
            }
        }
        assert_eq!(quote, None, "a quote is open at the end of {line:?}");
        words.extend(word);
        lines.extend((!words.is_empty()).then_some(words));
    }
    lines
}

/// Compares the files for a hostile policy with those for a harmless one.
fn holds(name: &str, config: &str, path: &str) {
    // As long, so that it has the same variables.
    let harmless: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    // This one has to be quoted too.
    let quoted = "/run/a b";
    for line in Line::ALL {
        let expected = files(&harmless, "tollgate.yaml", quoted, line);
        let seen = files(name, config, path, line);
        let hostile = |word: &String| {
            let word = word.replace(&format!("unix@{quoted}"), &format!("unix@{path}"));
            if word == harmless { name.to_owned() } else { word }
        };
        let (expected_cfg, seen_cfg) = (parsed(&expected.cfg), parsed(&seen.cfg));
        assert_eq!(seen_cfg.len(), expected_cfg.len());
        for (seen, expected) in seen_cfg.iter().zip(&expected_cfg) {
            // `--` stands before names where one looks like a flag.
            let seen: Vec<_> = seen.iter().filter(|word| *word != "--").cloned().collect();
            assert_eq!(seen, expected.iter().map(hostile).collect::<Vec<_>>());
        }
        assert_eq!(parsed(&seen.spoe), parsed(&expected.spoe));
        assert!(seen.cfg.lines().any(|text| format!("{text}\n") == line.mark()));
    }
}

#[test]
fn names_that_are_made_to_break_out_do_not() {
    for text in [
        "x\nbackend evil",
        "x' or 'y",
        "x\" \"y",
        "x # y",
        "\\",
        "'",
        "it's \\' \"${HOME}\"",
        "-f",
        "x\r\n    http-request allow",
        "}\"",
        "\u{85}global\u{2028}",
    ] {
        holds(text, text, &format!("/run/!{}", text.replace(|c: char| c == '$' || c.is_control(), "")));
    }
}

proptest! {
    #[test]
    fn no_name_breaks_out_of_its_word(
        name in "[^\0]{1,20}",
        config in ".{0,20}",
        path in "[^\0$\\p{Cc}]{1,20}",
    ) {
        // What would be `std`, or another word of the files, is not told apart from those.
        let name = format!("{name}0q");
        holds(&name, &config, &format!("/run/{path}!"));
    }
}
