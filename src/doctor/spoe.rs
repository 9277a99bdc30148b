//! The SPOE file: agents, messages and groups of one engine.
//!
//! Source: HAProxy's doc/SPOE.txt, section 2.

use super::condition::Condition;
use super::lines::Line;
use super::words::Word;

/// One engine: what a `filter spoe` line makes of its scope of an SPOE file.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    /// Where `spoe-agent` stands.
    pub head: &'a Line,
    /// The agent's lines.
    pub agent: Vec<&'a Line>,
    pub messages: Vec<Message<'a>>,
    pub groups: Vec<Group<'a>>,
    prefix: &'a str,
    error: Option<String>,
}

/// A `spoe-message`.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub name: &'a str,
    pub args: Vec<Arg<'a>>,
    /// The event that sends it, where one does.
    pub event: Option<(&'a str, &'a Line)>,
    /// When the event does.
    pub condition: Option<Condition<'a>>,
}

/// One argument of a message.
#[derive(Clone, Debug)]
pub(super) struct Arg<'a> {
    pub line: &'a Line,
    /// The sample, as HAProxy's language writes it.
    pub sample: String,
}

/// A `spoe-group`.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub name: &'a str,
    pub messages: Vec<&'a str>,
}

impl<'a> Engine<'a> {
    /// Reads an engine's scope. `None`: the file has no agent there.
    pub(super) fn read(name: &str, lines: &[&'a Line]) -> Option<Engine<'a>> {
        let mut scope = String::new();
        let (mut engine, mut messages, mut groups) = (None, Vec::new(), Vec::new());
        let mut section = "";
        for line in lines.iter().copied() {
            let first = line.word(0);
            if let Some(inner) = first.strip_prefix('[') {
                inner.trim_end_matches(']').clone_into(&mut scope);
                section = "";
                continue;
            }
            if scope != name {
                continue;
            }
            match first {
                "spoe-agent" => {
                    engine.get_or_insert((line, Vec::new()));
                }
                "spoe-message" => {
                    messages.push(Message { name: line.word(1), args: Vec::new(), event: None, condition: None });
                }
                "spoe-group" => groups.push(Group { name: line.word(1), messages: Vec::new() }),
                _ => {
                    match section {
                        "spoe-agent" => engine.iter_mut().for_each(|(_, own)| own.push(line)),
                        "spoe-message" => messages.last_mut().into_iter().for_each(|message| message.add(line)),
                        "spoe-group" if first == "messages" => {
                            let named = line.from(1).iter().map(|word| word.text.as_str());
                            groups.last_mut().into_iter().for_each(|group| group.messages.extend(named.clone()));
                        }
                        _ => {}
                    }
                    continue;
                }
            }
            section = first;
        }
        let (head, agent) = engine?;
        let mut engine = Engine { head, agent, messages, groups, prefix: "", error: None };
        engine.prefix = engine.last(&["option", "var-prefix"]).map_or(head.word(1), |line| line.word(2));
        let error = engine.last(&["option", "set-on-error"]);
        engine.error = error.map(|line| format!("txn.{}.{}", engine.prefix, line.word(2)));
        Some(engine)
    }

    /// The last line of the agent that begins so.
    pub(super) fn last(&self, words: &[&str]) -> Option<&'a Line> {
        self.agent.iter().copied().rfind(|line| line.begins(words))
    }

    /// Whether an option of the agent is on.
    pub(super) fn option(&self, option: &str) -> Option<&'a Line> {
        let says = |line: &&&Line| line.begins(&["option", option]) || line.begins(&["no", "option", option]);
        self.agent.iter().rfind(says).copied().filter(|line| line.word(0) == "option")
    }

    /// What stands between scope and name of its variables.
    pub(super) fn prefix(&self) -> &'a str {
        self.prefix
    }

    /// The variable that HAProxy sets where it got no answer, with its scope.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether a variable, with its scope, is one of this engine's.
    pub(super) fn owns(&self, variable: &str) -> bool {
        let Some((_, name)) = variable.split_once('.') else { return false };
        name.strip_prefix(self.prefix()).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The messages of a group.
    pub(super) fn of_group(&self, name: &str) -> Vec<&Message<'a>> {
        let named = self.groups.iter().find(|group| group.name == name).map(|group| group.messages.as_slice());
        let named = named.unwrap_or_default();
        self.messages.iter().filter(|message| named.contains(&message.name)).collect()
    }

    /// The messages that the agent sends by itself at one of these events.
    pub(super) fn at(&self, events: &[&str]) -> Vec<&Message<'a>> {
        let listed = |message: &&Message<'a>| {
            let lines = self.agent.iter().filter(|line| line.word(0) == "messages");
            lines.flat_map(|line| line.from(1)).any(|word| word.text == message.name)
        };
        let at = |message: &&Message<'a>| message.event.is_some_and(|(event, _)| events.contains(&event));
        self.messages.iter().filter(listed).filter(at).collect()
    }

    /// Every argument of every message.
    pub(super) fn args(&self) -> impl Iterator<Item = &Arg<'a>> {
        self.messages.iter().flat_map(|message| &message.args)
    }

    /// Whether it speaks with Tollgate: the message and the arguments that Tollgate cannot do without.
    pub(super) fn is_tollgate(&self) -> bool {
        let named = |message: &Message<'_>, name: &str| {
            let words = message.args.iter().flat_map(|arg| arg.line.from(1));
            words.map(|word| &word.text).any(|text| text.split_once('=').is_some_and(|(key, _)| key == name))
        };
        self.messages
            .iter()
            .any(|message| message.name == "request" && named(message, "method") && named(message, "path"))
    }
}

impl<'a> Message<'a> {
    fn add(&mut self, line: &'a Line) {
        match line.word(0) {
            "args" => self.args.extend(line.from(1).iter().map(|word| arg(line, word))),
            "event" => {
                self.event = Some((line.word(1), line));
                self.condition = Condition::read(line.from(2));
            }
            _ => {}
        }
    }
}

/// `name=sample`, or a sample alone. A name has no parentheses.
fn arg<'a>(line: &'a Line, word: &Word) -> Arg<'a> {
    let sample = match word.text.split_once('=') {
        Some((name, sample)) if !name.contains(['(', ',']) => sample,
        _ => &word.text,
    };
    Arg { line, sample: sample.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::lines::Source;
    use super::*;

    const TEXT: &str = "
[one]
spoe-agent first
    messages a
    option set-on-error err
spoe-message a
    args x=method y=req.hdr(a=b) req.cook(c)
    event on-frontend-http-request if { path /a }
[two]
spoe-agent second
    groups g
    option var-prefix p
    no option async
spoe-message b
    args path=path
spoe-group g
    messages b
";

    fn engine(name: &str, check: impl FnOnce(Option<Engine<'_>>)) {
        let source = Source::read(Path::new("f"), 0, TEXT.as_bytes());
        let lines: Vec<_> = source.all().collect();
        check(Engine::read(name, &lines));
    }

    #[test]
    fn each_engine_reads_its_own_scope() {
        engine("one", |engine| {
            let engine = engine.unwrap();
            assert_eq!((engine.prefix(), engine.error()), ("first", Some("txn.first.err")));
            let samples: Vec<_> = engine.args().map(|arg| arg.sample.as_str()).collect();
            assert_eq!(samples, ["method", "req.hdr(a=b)", "req.cook(c)"]);
            assert_eq!(engine.at(&["on-frontend-http-request"]).len(), 1);
            assert!(engine.owns("sess.first.x") && !engine.owns("txn.firstx.x") && !engine.owns("txn.first"));
        });
        engine("two", |engine| {
            let engine = engine.unwrap();
            assert_eq!((engine.prefix(), engine.error()), ("p", None));
            assert_eq!((engine.of_group("g").len(), engine.of_group("h").len()), (1, 0));
        });
        engine("three", |engine| assert!(engine.is_none()));
    }
}
