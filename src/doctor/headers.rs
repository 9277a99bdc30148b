//! Which spellings of a header field a config takes from clients.
//!
//! WSGI, ASGI, CGI and PHP fold `-`, `_` and `.` in names together, so that `X_Auth_User` is `X-Auth-User` to them
//! (CVE-2025-64484); HAProxy tells them apart.

use super::condition::expression_matches;
use super::rules::{Action, Rule};

/// A way to write a name: what a folding server takes for it. The name itself is the first.
pub(super) fn spellings(name: &str) -> Vec<String> {
    let mut spellings = vec![String::new()];
    for (index, character) in name.to_ascii_lowercase().chars().enumerate() {
        let separator = "-_.".contains(character);
        let others = ['-', '_', '.'].into_iter().filter(|other| *other != character);
        let written: Vec<_> = [character].into_iter().chain(others.filter(|_| separator && index > 0)).collect();
        let many = spellings.len() * written.len() > SPELLINGS_MAX;
        let written = if many { written.get(..1).unwrap_or_default() } else { written.as_slice() };
        spellings =
            written.iter().flat_map(|next| spellings.iter().map(move |start| format!("{start}{next}"))).collect();
    }
    spellings
}

/// Whether a `del-header` rule removes a name; `None` where its expression cannot be read here.
pub(super) fn deletes(rule: &Rule<'_>, name: &str) -> Option<bool> {
    let Action::DeleteHeader { name: pattern, method } = &rule.action else { return Some(false) };
    if pattern.open {
        return None;
    }
    let text = pattern.text.to_ascii_lowercase();
    match *method {
        "str" => Some(text == name),
        "beg" => Some(name.starts_with(&text)),
        "end" => Some(name.ends_with(&text)),
        "sub" => Some(name.contains(&text)),
        // Names are in lower case when HAProxy compares them, and the expression's own case counts.
        "reg" => expression_matches(&pattern.text, false, name),
        _ => None,
    }
}

/// Four separators in three spellings each.
const SPELLINGS_MAX: usize = 81;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_separator_is_written_in_every_way() {
        let all = spellings("X-Auth-User");
        assert_eq!((all.len(), all[0].as_str()), (9, "x-auth-user"));
        assert!(all.contains(&"x_auth.user".to_owned()));
        assert!(spellings(&"a-".repeat(30)).len() <= SPELLINGS_MAX);
    }
}
