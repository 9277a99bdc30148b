//! A text as one word of an HAProxy line, as one of a shell's, and as part of a comment: whatever it is, it does not end
//! there.

/// One word of an HAProxy line that has just this text (HAProxy's configuration manual, section 2.2).
pub(super) fn word(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    // Between single quotes nothing has a meaning but the next one; quotes may begin and end within a word.
    let mut word = String::from("'");
    for c in text.chars() {
        match c {
            '\'' => word.push_str("'\\''"),
            // A line end would end the word whatever surrounds it.
            c if c.is_ascii_control() => word.push_str(&format!("'\\x{:02x}'", u32::from(c))),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

/// One word of a shell's command line.
pub(super) fn shell(text: &str) -> String {
    // What begins like a flag, or a home folder, is not plain to every program.
    let plain = is_plain(text) && !text.starts_with(['-', '~']);
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Text for a comment: on one line.
pub(super) fn comment(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Whether neither HAProxy nor a shell sees anything in it but itself.
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/@[]".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_text_and_nothing_else() {
        for (text, expected) in [
            ("std", "std"),
            ("unix@/run/tollgate/spop.sock", "unix@/run/tollgate/spop.sock"),
            ("", "''"),
            ("a b", "'a b'"),
            ("a#b", "'a#b'"),
            ("it's", r"'it'\''s'"),
            ("a\nserver x", r"'a'\x0a'server x'"),
            ("\"$HOME\" \\", "'\"$HOME\" \\'"),
        ] {
            assert_eq!(word(text), expected);
        }
        assert_eq!(shell("it's a.yaml"), r"'it'\''s a.yaml'");
        assert_eq!(comment("a\nglobal\r\u{85}"), r"a\nglobal\r\u{85}");
    }
}
