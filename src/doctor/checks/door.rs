//! Ways past the answer: what gets to a backend without an agent's yes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::condition::Criterion;
use super::super::lines::Line;
use super::super::rules::{Action, Phase, Rule};
use super::super::scene::Scene;
use super::super::spoe::Engine;
use super::super::walk::{Answer, End, Truth, Way, ways};
use super::super::words::{Environment, split};
use super::Findings;

/// One way that should not be there.
pub(in super::super) struct Opening<'a> {
    id: &'static str,
    line: &'a Line,
    what: String,
    fix: String,
}

/// Tells the openings of one kind.
pub(super) fn tell(scene: &Scene<'_>, id: &str, found: &mut Findings<'_>) {
    let openings = scene.openings.get_or_init(|| all(scene));
    for opening in openings.iter().filter(|opening| opening.id == id) {
        found.tell(opening.line, opening.what.clone(), opening.fix.clone());
    }
    for front in scene.undecided.borrow().iter() {
        found.note(format!(
            "{front} has too many conditions to follow every way through it: whether it is closed is not known"
        ));
    }
}

fn all<'a>(scene: &Scene<'a>) -> Vec<Opening<'a>> {
    let mut openings = Vec::new();
    // The backends that some frontend guards, with the line that does.
    let mut guarded = BTreeMap::new();
    let asks = |index: usize| scene.filters_of(index).next().is_some();
    for (index, proxy) in scene.fronts() {
        if !asks(index) && !scene.backends_of(index).into_iter().any(asks) {
            continue;
        }
        let head = proxy.head;
        let mut door = Door { scene, front: index, head, gates: BTreeMap::new(), openings: Vec::new() };
        if door.look().is_none() {
            scene.undecided.borrow_mut().insert(proxy.title());
        }
        guarded.extend(door.gates.into_iter().map(|(backend, line)| (backend, (index, line))));
        openings.append(&mut door.openings);
    }
    for (index, proxy) in scene.fronts().filter(|(index, _)| !asks(*index)) {
        if scene.config.open_to_others(proxy) != Some(true) {
            continue;
        }
        let mut told = BTreeSet::new();
        for way in ways(scene, index, Answer::Quiet, &Truth::new()).unwrap_or_default() {
            let End::Backend(backend) = way.end else { continue };
            let Some((other, gate)) = guarded.get(backend).filter(|(other, _)| *other != index) else { continue };
            if !told.insert(backend) {
                continue;
            }
            let other = scene.config.proxies.get(*other).map(super::super::sections::Proxy::title).unwrap_or_default();
            let mut routes = scene.config.lines(proxy).into_iter();
            let line = routes.rfind(|line| line.word(1) == backend).unwrap_or(proxy.head);
            let what = format!(
                "{} leads to backend `{backend}` without a question; {other} asks (line {})",
                proxy.title(),
                gate.number
            );
            let fix =
                "bind 127.0.0.1:PORT, or the same `filter spoe`, `send-spoe-group` and closing rule here".to_owned();
            openings.push(Opening { id: "side-door", line, what, fix });
        }
    }
    openings
}

/// One frontend.
struct Door<'s, 'a> {
    scene: &'s Scene<'a>,
    front: usize,
    head: &'a Line,
    /// The backends that an agent's answer opens, with the line that closes them otherwise.
    gates: BTreeMap<&'a str, &'a Line>,
    openings: Vec<Opening<'a>>,
}

impl<'a> Door<'_, 'a> {
    /// `None`: there are too many ways.
    fn look(&mut self) -> Option<()> {
        let silent = self.ways(Answer::Quiet, &Truth::new())?;
        let mut reached = Vec::new();
        for way in silent.iter().take(LOOKED_AT_MAX) {
            let free = self.ways(Answer::Free, &way.truth)?;
            let others: Vec<_> = free.into_iter().filter(|other| other.end != way.end).collect();
            for other in &others {
                if let End::Backend(backend) = other.end {
                    let gate = match way.end {
                        End::Refused(line) => line,
                        _ => self.last_gate(&[Phase::Route]).unwrap_or_else(|| self.question()),
                    };
                    self.gates.insert(backend, gate);
                }
            }
            if let End::Backend(backend) = way.end {
                reached.push((backend, way, others));
            }
        }
        let mut swung = false;
        for (backend, way, others) in &reached {
            swung |= !others.is_empty();
            let explained = self.gates.contains_key(backend) && self.leaves_out(backend, way, others.is_empty())?;
            if !explained && !others.is_empty() {
                self.refuses_by_word(backend, way, others)?;
            }
        }
        if self.gates.is_empty() && !swung && !reached.is_empty() && self.ought_to_refuse() {
            let mut backends: Vec<_> = reached.iter().map(|(backend, ..)| *backend).collect();
            backends.sort_unstable();
            backends.dedup();
            let what =
                format!("no rule refuses by what the agent answers: every request reaches {}", quoted(&backends));
            self.open("no-refusal", self.question(), what, self.closing_rule());
        }
        self.other_answers(&silent)
    }

    fn ways(&self, answer: Answer<'_>, truth: &Truth) -> Option<Vec<Way<'a>>> {
        ways(self.scene, self.front, answer, truth)
    }

    /// Something refuses on some answers, and nothing does without one.
    fn refuses_by_word(&mut self, backend: &str, way: &Way<'a>, others: &[Way<'a>]) -> Option<()> {
        let refused = others.iter().filter_map(|other| match other.end {
            End::Refused(line) => Some(line),
            _ => None,
        });
        let line = refused.max_by_key(|line| (line.source, line.number));
        let line = line.or_else(|| self.last_gate(&[Phase::Route])).unwrap_or_else(|| self.question());
        let noticed = self.ways(Answer::Error(1), &way.truth)?;
        let only_errors = !noticed.iter().any(|way| matches!(way.end, End::Backend(_)));
        let (id, what) = if only_errors {
            ("error-alone", "only the error variable keeps out who got no answer")
        } else {
            ("refuses-by-word", "this refuses on certain answers only, and no rule refuses where there is none")
        };
        self.open(id, line, format!("{what}: backend `{backend}` is reached"), self.closing_rule());
        Some(())
    }

    /// A backend that is guarded for some requests and not for this one: which of its properties makes the difference?
    /// `false` where none alone does, unless that has to do as an explanation.
    fn leaves_out(&mut self, backend: &'a str, way: &Way<'a>, must_do: bool) -> Option<bool> {
        let Some(gate) = self.gates.get(backend).copied() else { return Some(false) };
        let lines: BTreeSet<_> = self.gates.values().map(|line| (line.source, line.number)).collect();
        let mut causes = Vec::new();
        for (key, holds) in &way.truth {
            let mut flipped = way.truth.clone();
            flipped.insert(key.clone(), !holds);
            let changes = self.ways(Answer::Quiet, &flipped)?.into_iter().any(|other| match other.end {
                End::Refused(line) => lines.contains(&(line.source, line.number)),
                end => end != way.end && !lines.contains(&(gate.source, gate.number)),
            });
            if changes {
                causes.push((key.as_str(), *holds, kind(self.scene, self.front, key)));
            }
        }
        if causes.is_empty() && !must_do {
            return Some(false);
        }
        if causes.iter().any(|(_, holds, kind)| *holds && *kind == Cause::Meant) {
            return Some(true);
        }
        let shown: Vec<_> = causes
            .iter()
            .map(|(key, holds, _)| format!("`{key}` {}", if *holds { "holds" } else { "does not hold" }))
            .collect();
        let shown = if shown.is_empty() { "its conditions leave it out".to_owned() } else { shown.join(" and ") };
        let fix = "ask about every request and close without a condition; what is public, the agent's policy says (`allow: anyone`)";
        if let Some(line) = way.cut_short {
            let what = format!("this lets a request go to backend `{backend}` undecided where {shown}");
            self.open("allow-ends-early", line, what, fix.to_owned());
            return Some(true);
        }
        let any = |wanted: Cause| causes.iter().any(|(.., kind)| *kind == wanted);
        let id = match () {
            () if any(Cause::Availability) => "open-on-error",
            () if any(Cause::Client) => "exempt-by-client",
            () if any(Cause::Path) => "exempt-by-path",
            () => "closes-only-some",
        };
        let what = format!("a request reaches backend `{backend}` undecided where {shown}");
        self.open(id, gate, what, fix.to_owned());
        Some(true)
    }

    /// Other answers than none, each against what silence gives for the same request.
    fn other_answers(&mut self, silent: &[Way<'a>]) -> Option<()> {
        let mut answers = vec![
            (Answer::Error(1), "open-on-error", "where the agent does not answer in time"),
            (Answer::Hollow, "found-is-enough", "where the variable exists, whatever it says"),
        ];
        let verdicts = self.scene.tested.iter().any(|name| name.ends_with(".verdict") && self.scene.is_agents(name));
        if verdicts {
            for verdict in ["challenge", "deny", "throttle", "error"] {
                answers.push((Answer::Verdict(verdict), "verdict-let-in", verdict));
            }
        }
        let closed: Vec<_> = silent.iter().filter(|way| !matches!(way.end, End::Backend(_))).collect();
        let fix = self.closing_rule();
        for (answer, id, shown) in answers {
            let mut told = BTreeSet::new();
            for way in closed.iter().take(LOOKED_AT_MAX) {
                for other in self.ways(answer, &way.truth)? {
                    let End::Backend(backend) = other.end else { continue };
                    let Some(gate) = self.gates.get(backend).copied() else { continue };
                    if !told.insert(backend) {
                        continue;
                    }
                    let what = match answer {
                        Answer::Verdict(verdict) => format!("the verdict `{verdict}` reaches backend `{backend}`"),
                        _ => format!("backend `{backend}` is reached {shown}"),
                    };
                    let line = if id == "open-on-error" { self.error_line().unwrap_or(gate) } else { gate };
                    self.open(id, line, what, fix.clone());
                }
            }
        }
        Some(())
    }

    fn open(&mut self, id: &'static str, line: &'a Line, what: String, fix: String) {
        self.openings.push(Opening { id, line, what, fix });
    }

    /// Where the question is asked.
    fn question(&self) -> &'a Line {
        let asks = |rule: &&Rule<'a>| matches!(rule.action, Action::Ask { .. }) && rule.phase != Phase::Response;
        let places: Vec<_> = [self.front].into_iter().chain(self.scene.backends_of(self.front)).collect();
        let asked = places.iter().flat_map(|place| self.scene.rules_of(*place)).find(asks).map(|rule| rule.line);
        let filters = places.iter().flat_map(|place| self.scene.filters_of(*place)).map(|(_, filter)| filter.line);
        asked.or_else(|| filters.into_iter().next()).unwrap_or(self.head)
    }

    /// The last rule of these phases that looks at an agent's variable.
    fn last_gate(&self, phases: &[Phase]) -> Option<&'a Line> {
        let looks =
            |rule: &&Rule<'a>| phases.contains(&rule.phase) && self.looks(rule, |scene, name| scene.is_agents(name));
        self.scene.rules_of(self.front).iter().rfind(looks).map(|rule| rule.line)
    }

    /// A rule that looks at the error variable and refuses or lets in by it.
    fn error_line(&self) -> Option<&'a Line> {
        let is_error = |scene: &Scene<'_>, name: &str| {
            scene.engines().any(|(_, engine)| engine.error().is_some_and(|error| error == name))
        };
        let decides = |rule: &&Rule<'a>| matches!(rule.action, Action::Refuse | Action::Allow | Action::Route(_));
        let looks = |rule: &&Rule<'a>| decides(rule) && self.looks(rule, is_error);
        self.scene.rules_of(self.front).iter().rfind(looks).map(|rule| rule.line)
    }

    fn looks(&self, rule: &Rule<'a>, wanted: impl Fn(&Scene<'_>, &str) -> bool) -> bool {
        let criteria = self.scene.criteria_of(self.front, rule);
        criteria.into_iter().filter_map(Criterion::variable).any(|name| wanted(self.scene, name))
    }

    /// An agent that is nobody's doorkeeper refuses nothing: one that no rule reads, where it is not Tollgate.
    fn ought_to_refuse(&self) -> bool {
        let engines = self.scene.engines();
        let read = |engine: &Engine<'_>| {
            let mut names = self.scene.mentioned.iter().filter(|name| engine.owns(name));
            names.any(|name| engine.error().as_ref() != Some(name))
        };
        engines.into_iter().any(|(_, engine)| engine.is_tollgate() || read(engine))
    }

    /// The rule that closes the door, for whichever agent this is.
    fn closing_rule(&self) -> String {
        let places: Vec<_> = [self.front].into_iter().chain(self.scene.backends_of(self.front)).collect();
        let engines = self.scene.engines().filter(|(filter, _)| places.contains(&filter.proxy));
        let Some((_, engine)) = engines.into_iter().next() else { return String::new() };
        if engine.is_tollgate() {
            return format!(
                "http-request deny status 503 unless {{ var(txn.{}.verdict) -m str allow }}",
                engine.prefix()
            );
        }
        format!(
            "http-request deny unless {{ var(txn.{}.NAME) -m str YES }}, with the variable that the agent sets last and the one word in it that lets in",
            engine.prefix()
        )
    }
}

/// What kind of property exempts a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Nobody gets it by accident or by trick: one exact path, the address of the connection.
    Meant,
    /// The agent's own state.
    Availability,
    /// What the client says.
    Client,
    /// Something of the path.
    Path,
    Other,
}

/// The kind of an ACL, by its text or name.
fn kind(scene: &Scene<'_>, front: usize, key: &str) -> Cause {
    let inline = Criterion::read(&split(key, &Environment::new()).0);
    let named = scene.acl(front, key).first();
    let Some(criterion) = named.or(inline.as_ref()) else { return Cause::Other };
    match criterion.fetch.as_str() {
        "src" => Cause::Meant,
        _ if criterion.is_exact_path() => Cause::Meant,
        "nbsrv" | "srv_is_up" | "connslots" | "be_conn_free" | "srv_conn_free" => Cause::Availability,
        "path" | "pathq" | "url" | "base" | "url_path" => Cause::Path,
        "hdr" | "fhdr" | "req.hdr" | "req.fhdr" | "req.hdr_cnt" | "req.fhdr_cnt" | "hdr_cnt" | "cook" | "req.cook"
        | "req.cook_cnt" | "req.cook_val" | "urlp" | "url_param" | "query" | "req.body" | "req.body_param" => {
            Cause::Client
        }
        _ => Cause::Other,
    }
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("{} {}", if names.len() == 1 { "backend" } else { "backends" }, quoted.join(", "))
}

/// Ways of one frontend that are looked at one by one.
const LOOKED_AT_MAX: usize = 200;
