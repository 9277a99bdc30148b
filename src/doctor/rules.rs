//! Rules of a proxy: what they do, and when.

use super::condition::Condition;
use super::lines::Line;
use super::sections::{Config, Proxy};
use super::words::Word;

/// One rule.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub line: &'a Line,
    pub phase: Phase,
    pub action: Action<'a>,
    pub condition: Option<Condition<'a>>,
}

/// When a rule is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// `tcp-request content`.
    Content,
    /// `http-request`, and `redirect` after it.
    Request,
    /// `use_backend`.
    Route,
    /// `http-response`, `http-after-response`.
    Response,
}

/// What a rule does, as far as it matters here.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// The request goes no further.
    Refuse,
    /// HAProxy answers by itself.
    Serve(&'a str),
    /// No more rules of this proxy.
    Allow,
    /// `send-spoe-group`.
    Ask {
        engine: &'a str,
        group: &'a str,
    },
    SetVariable {
        name: &'a str,
        value: &'a [Word],
    },
    UnsetVariable(&'a str),
    /// `set-header` or `add-header`.
    WriteHeader {
        name: &'a str,
        value: &'a Word,
        adds: bool,
    },
    DeleteHeader {
        name: &'a Word,
        method: &'a str,
    },
    /// What the application sees is rewritten: by which word.
    Rewrite(&'a str),
    /// `set-src`: the client's address, by this sample.
    SetSource(&'a Word),
    /// `use_backend`.
    Route(&'a Word),
    Other,
}

/// The rules of a proxy in the order in which HAProxy looks at them, inherited ones first.
pub(super) fn of<'a>(config: &Config<'a>, proxy: &Proxy<'a>) -> Vec<Rule<'a>> {
    let mut rules: Vec<_> = config.lines(proxy).into_iter().filter_map(read).collect();
    // Stable: within a phase the order stays. `redirect` alone comes after all `http-request`.
    rules.sort_by_key(|rule| (rule.phase, rule.line.word(0) == "redirect"));
    rules
}

fn read(line: &Line) -> Option<Rule<'_>> {
    let (phase, start) = match line.word(0) {
        "http-request" => (Phase::Request, 1),
        "tcp-request" if line.word(1) == "content" => (Phase::Content, 2),
        "http-response" | "http-after-response" => (Phase::Response, 1),
        "redirect" => (Phase::Request, 0),
        "use_backend" => (Phase::Route, 0),
        _ => return None,
    };
    let words = line.from(start);
    let end = words.iter().position(|word| ["if", "unless"].contains(&word.text.as_str())).unwrap_or(words.len());
    let (says, condition) = words.split_at_checked(end)?;
    let (first, rest) = says.split_first()?;
    let text = |index: usize| rest.get(index).map_or("", |word| word.text.as_str());
    let inner = |prefix: &str| {
        let rest = first.text.strip_prefix(prefix)?.strip_prefix('(')?;
        Some(rest.split([',', ')']).next().unwrap_or_default())
    };
    let action = match first.text.as_str() {
        "deny" | "reject" | "tarpit" | "silent-drop" | "return" | "redirect" | "auth" => Action::Refuse,
        "use-service" => Action::Serve(text(0)),
        "allow" => Action::Allow,
        "accept" if phase == Phase::Content => Action::Allow,
        "send-spoe-group" => Action::Ask { engine: text(0), group: text(1) },
        name @ ("set-header" | "add-header") => match rest {
            [header, value, ..] => Action::WriteHeader { name: &header.text, value, adds: name == "add-header" },
            _ => Action::Other,
        },
        "del-header" => match rest {
            [name, flag, method, ..] if flag.text == "-m" => Action::DeleteHeader { name, method: &method.text },
            [name, ..] => Action::DeleteHeader { name, method: "str" },
            [] => Action::Other,
        },
        name @ ("set-path" | "set-pathq" | "set-uri" | "set-method" | "replace-path" | "replace-pathq"
        | "replace-uri" | "normalize-uri") => Action::Rewrite(name),
        "set-src" => rest.first().map_or(Action::Other, Action::SetSource),
        "use_backend" => Action::Route(rest.first()?),
        _ => match (inner("set-var").or_else(|| inner("set-var-fmt")), inner("unset-var")) {
            (Some(variable), _) => Action::SetVariable { name: variable, value: rest },
            (_, Some(variable)) => Action::UnsetVariable(variable),
            _ => Action::Other,
        },
    };
    Some(Rule { line, phase, action, condition: Condition::read(condition) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::lines::Source;
    use super::*;

    #[test]
    fn rules_stand_in_the_order_of_haproxy() {
        let text = "frontend f\nuse_backend b if x\nredirect scheme https if y\nhttp-request deny status 403 if z\nhttp-request set-var(txn.a,ifexists) bool(true)\ntcp-request content accept\nhttp-request add-header A %[src] unless w\n";
        let source = Source::read(Path::new("f"), 0, text.as_bytes());
        let config = Config::read(source.all());
        let rules = of(&config, config.proxies.last().unwrap());
        let lines: Vec<_> = rules.iter().map(|rule| rule.line.number).collect();
        assert_eq!(lines, [6, 4, 5, 7, 3, 2]);
        assert!(matches!(rules[2].action, Action::SetVariable { name: "txn.a", .. }));
        assert!(matches!(rules[3].action, Action::WriteHeader { adds: true, .. }));
        assert!(rules[3].condition.as_ref().unwrap().unless);
    }
}
