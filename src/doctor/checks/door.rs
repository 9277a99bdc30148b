//! Ways past the answer: what gets to a backend without an agent's yes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::super::condition::Criterion;
use super::super::lines::Line;
use super::super::rules::{Action, Phase, Rule};
use super::super::scene::{Scene, is_field};
use super::super::sections::{Proxy, is_local};
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

/// Tells the openings of one kind, those on one line together.
pub(super) fn tell(scene: &Scene<'_>, id: &str, found: &mut Findings<'_>) {
    let (openings, notes) = scene.openings.get_or_init(|| all(scene));
    let mut lines: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for opening in openings.iter().filter(|opening| opening.id == id) {
        let same: &mut Vec<&Opening<'_>> = lines.entry((opening.line.source, opening.line.number)).or_default();
        if same.iter().all(|other| other.what != opening.what) {
            same.push(opening);
        }
    }
    for same in lines.values() {
        let Some(first) = same.first() else { continue };
        let shown: Vec<_> = same.iter().take(SHOWN_MAX).map(|opening| opening.what.as_str()).collect();
        let more = match same.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more => format!("; and {more} more of this line"),
        };
        found.tell(first.line, format!("{}{more}", shown.join("; ")), first.fix.clone());
    }
    notes.iter().for_each(|note| found.note(note.clone()));
}

/// All openings, and what is no opening and should be known.
fn all<'a>(scene: &Scene<'a>) -> (Vec<Opening<'a>>, Vec<String>) {
    let (mut openings, mut notes) = (Vec::new(), Vec::new());
    // The backends that some frontend guards, with the line that does.
    let mut guarded = BTreeMap::new();
    let asks = |index: usize| scene.filters_of(index).next().is_some();
    for (index, proxy) in scene.fronts() {
        if !asks(index) && !scene.backends_of(index).into_iter().any(asks) {
            continue;
        }
        let head = proxy.head;
        let mut door =
            Door { scene, front: index, head, gates: BTreeMap::new(), beside: BTreeMap::new(), openings: Vec::new() };
        if door.look().is_none() {
            let fix = door.closing_rule();
            door.openings.push(undecided(proxy, fix));
        }
        notes.extend(door.note());
        guarded.extend(door.gates.into_iter().map(|(backend, line)| (backend, (index, line))));
        openings.append(&mut door.openings);
    }
    for (index, proxy) in scene.fronts().filter(|(index, _)| !asks(*index)) {
        if scene.config.open_to_others(proxy) != Some(true) {
            continue;
        }
        let asks_for_certificates =
            |line: &&&Line| line.word(0) != "bind" || line.after("verify").is_some_and(|how| how.text == "required");
        if proxy.own.iter().all(|line| asks_for_certificates(&line) || is_local(line.word(1))) {
            continue;
        }
        let Some(followed) = ways(scene, index, Answer::Quiet, &Truth::new()) else {
            openings.push(undecided(proxy, "fewer conditions, or bind 127.0.0.1:PORT".to_owned()));
            continue;
        };
        let mut told = BTreeSet::new();
        for way in followed {
            let End::Backend(backend) = way.end else { continue };
            // Not for everybody, and that by what nobody chooses.
            if way.truth.iter().any(|(key, holds)| *holds && kind(scene, index, key) == Cause::Meant) {
                continue;
            }
            let Some((other, gate)) = guarded.get(backend).filter(|(other, _)| *other != index) else { continue };
            if !told.insert(backend) {
                continue;
            }
            let other = scene.config.proxies.get(*other).map(Proxy::title).unwrap_or_default();
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
    (openings, notes)
}

/// A frontend that nobody could follow to its end.
fn undecided<'a>(proxy: &Proxy<'a>, fix: String) -> Opening<'a> {
    let what = format!(
        "{} has too many conditions to follow every way through it: whether it is closed is not known",
        proxy.title()
    );
    Opening { id: "undecided", line: proxy.head, what, fix }
}

/// One frontend.
struct Door<'s, 'a> {
    scene: &'s Scene<'a>,
    front: usize,
    head: &'a Line,
    /// The backends that an agent's answer opens, with the line that closes them otherwise.
    gates: BTreeMap<&'a str, &'a Line>,
    /// Other backends, where some requests go without a decision, with what such a request is like.
    beside: BTreeMap<&'a str, String>,
    openings: Vec<Opening<'a>>,
}

impl<'a> Door<'_, 'a> {
    /// `None`: there are too many ways.
    fn look(&mut self) -> Option<()> {
        let silent = self.ways(Answer::Quiet, &Truth::new())?;
        let mut reached = Vec::new();
        for way in silent.iter() {
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
            let explained = if self.gates.contains_key(backend) {
                self.leaves_out(backend, way, others.is_empty())?
            } else {
                others.is_empty() && !self.gates.is_empty() && self.goes_beside(backend, way)?
            };
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
        self.served_early();
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
        let routes = !others.iter().any(|other| matches!(other.end, End::Refused(_)));
        let (id, what) = if routes && !only_errors {
            (
                "refuses-by-word",
                "this sends requests elsewhere on certain answers only, and nothing refuses where there is none",
            )
        } else if only_errors {
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
        let causes = self.causes(way)?;
        if causes.is_empty() && !must_do {
            return Some(false);
        }
        if causes.iter().any(Exempts::is_meant) {
            return Some(true);
        }
        self.exempts(backend, way, &causes, gate);
        Some(true)
    }

    /// A backend that no answer opens, beside others that one does.
    fn goes_beside(&mut self, backend: &'a str, way: &Way<'a>) -> Option<bool> {
        let causes = self.causes(way)?;
        let Some(gate) = self.gates.values().next().copied() else { return Some(false) };
        if causes.iter().any(Exempts::is_meant) {
            return Some(true);
        }
        let servers = |name: &str| {
            let backend = self.scene.config.backend(name);
            let lines = backend.into_iter().flat_map(|backend| &backend.own).filter(|line| line.word(0) == "server");
            lines.map(|line| line.word(2)).collect::<BTreeSet<_>>()
        };
        let own = servers(backend);
        let guarded = self.gates.keys().any(|other| !servers(other).is_disjoint(&own));
        if guarded || causes.iter().any(|cause| cause.kind == Cause::Client) {
            self.exempts(backend, way, &causes, gate);
        } else {
            self.beside.entry(backend).or_insert_with(|| shown(&causes));
        }
        Some(true)
    }

    /// The properties of a request that alone take it past what closes.
    fn causes(&self, way: &Way<'a>) -> Option<Vec<Exempts>> {
        let lines: BTreeSet<_> = self.gates.values().map(|line| (line.source, line.number)).collect();
        // What only routes comes after all that closes in the frontend itself.
        let rules = self.scene.rules_of(self.front);
        let texts = |route: bool| {
            let of = rules.iter().filter(move |rule| (rule.phase == Phase::Route) == route);
            let criteria = of.flat_map(|rule| self.scene.criteria_of(self.front, rule));
            criteria.map(|criterion| criterion.text.as_str()).collect::<BTreeSet<_>>()
        };
        let closes_here =
            self.gates.values().all(|gate| rules.iter().any(|rule| rule.line == *gate && rule.phase < Phase::Route));
        let (decides, routes) = (texts(false), texts(true));
        let mut causes = Vec::new();
        for (key, holds) in &way.truth {
            if closes_here && routes.contains(&**key) && !decides.contains(&**key) {
                continue;
            }
            let mut flipped = way.truth.clone();
            flipped.insert(key.clone(), !holds);
            let changes = self.ways(Answer::Quiet, &flipped)?.into_iter().any(|other| match other.end {
                End::Refused(line) => lines.contains(&(line.source, line.number)),
                _ => false,
            });
            if changes {
                causes.push(Exempts { key: key.clone(), holds: *holds, kind: kind(self.scene, self.front, key) });
            }
        }
        Some(causes)
    }

    fn exempts(&mut self, backend: &str, way: &Way<'a>, causes: &[Exempts], gate: &'a Line) {
        let shown = shown(causes);
        let fix = "ask about every request and close without a condition; what is public, the agent's policy says (`allow: anyone`)";
        if let Some(line) = way.cut_short {
            let what = format!("this lets a request go to backend `{backend}` undecided where {shown}");
            self.open("allow-ends-early", line, what, fix.to_owned());
            return;
        }
        let any = |wanted: Cause| causes.iter().any(|cause| cause.kind == wanted);
        let id = match () {
            () if any(Cause::Availability) => "open-on-error",
            () if any(Cause::Client) || any(Cause::Host) => "exempt-by-client",
            () if any(Cause::Path) => "exempt-by-path",
            () => "closes-only-some",
        };
        let what = format!("a request reaches backend `{backend}` undecided where {shown}");
        self.open(id, gate, what, fix.to_owned());
    }

    /// A cache that answers before the backend closes.
    fn served_early(&mut self) {
        let rules = self.scene.rules_of(self.front);
        let here = |gate: &Line| rules.iter().any(|rule| rule.line == gate);
        let Some((backend, gate)) = self.gates.iter().find(|(_, gate)| !here(gate)) else { return };
        let cached = |rule: &&Rule<'_>| rule.phase == Phase::Request && rule.line.word(1) == "cache-use";
        if let Some(rule) = rules.iter().find(cached) {
            let what = format!("what is cached of backend `{backend}` is served before line {} closes", gate.number);
            let fix =
                format!("{}, in the frontend; or cache-use in the backend, below what closes", self.closing_rule());
            self.open("from-cache", rule.line, what, fix);
        }
    }

    /// What people should know of the backends beside the guarded ones.
    fn note(&self) -> Option<String> {
        let mut beside = self.beside.iter();
        let shown: Vec<_> = beside
            .by_ref()
            .take(SHOWN_MAX)
            .map(|(backend, where_)| format!("backend `{backend}` is reached undecided where {where_}"))
            .collect();
        let more = match beside.count() {
            0 => String::new(),
            more => format!("; and {more} more are"),
        };
        let title = self.scene.config.proxies.get(self.front).map(Proxy::title).unwrap_or_default();
        (!shown.is_empty()).then(|| format!("in {title} {}{more}", shown.join("; ")))
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
            for way in closed.iter() {
                for other in self.ways(answer, &way.truth)? {
                    let End::Backend(backend) = other.end else { continue };
                    if other.guessed {
                        continue;
                    }
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
            names.any(|name| engine.error() != Some(name.as_str()))
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

/// A property of a request that takes it past what closes.
struct Exempts {
    key: Rc<str>,
    holds: bool,
    kind: Cause,
}

impl Exempts {
    fn is_meant(&self) -> bool {
        self.holds && self.kind == Cause::Meant
    }
}

fn shown(causes: &[Exempts]) -> String {
    let shown: Vec<_> = causes
        .iter()
        .map(|cause| format!("`{}` {}", cause.key, if cause.holds { "holds" } else { "does not hold" }))
        .collect();
    if shown.is_empty() { "its conditions leave it out".to_owned() } else { shown.join(" and ") }
}

/// What kind of property exempts a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Nobody gets it by accident or by trick: one exact path, an address of the connection, a password or a certificate.
    Meant,
    /// The agent's own state.
    Availability,
    /// What the client says.
    Client,
    /// Which site the client asks for.
    Host,
    /// Something of the path.
    Path,
    Other,
}

/// The kind of an ACL, by its text or name.
fn kind(scene: &Scene<'_>, front: usize, key: &str) -> Cause {
    let inline = Criterion::read(&split(key, &Environment::new()).0);
    let mut places = [front].into_iter().chain(scene.backends_of(front));
    let named = places.find_map(|place| scene.acl(place, key).first());
    let Some(criterion) = named.or(inline.as_ref()) else { return Cause::Other };
    match criterion.fetch.as_str() {
        "src" | "localhost" if scene.address_is_told(front) => Cause::Client,
        "src" | "localhost" | "dst" | "dst_port" | "http_auth" | "http_auth_group" => Cause::Meant,
        fetch if fetch.starts_with("ssl_c_") => Cause::Meant,
        _ if criterion.is_exact_path() => Cause::Meant,
        "nbsrv" | "srv_is_up" | "connslots" | "be_conn_free" | "srv_conn_free" => Cause::Availability,
        "path" | "pathq" | "url" | "base" | "url_path" => Cause::Path,
        "ssl_fc_sni" | "req.ssl_sni" | "req_ssl_sni" => Cause::Host,
        fetch if is_field(fetch) && criterion.argument.eq_ignore_ascii_case("host") => Cause::Host,
        fetch if is_field(fetch) => Cause::Client,
        "req.hdr_cnt" | "req.fhdr_cnt" | "hdr_cnt" | "cook" | "req.cook" | "cook_cnt" | "cook_val" | "req.cook_cnt"
        | "req.cook_val" | "urlp" | "url_param" | "urlp_val" | "query" | "req.body" | "req.body_param" => Cause::Client,
        _ => Cause::Other,
    }
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("{} {}", if names.len() == 1 { "backend" } else { "backends" }, quoted.join(", "))
}

/// Openings that are told of one line, each in full.
const SHOWN_MAX: usize = 4;
