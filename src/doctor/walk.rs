//! A request's ways through a proxy's rules, under an assumption about what the agent answers.
//!
//! Rules are followed as HAProxy follows them. A condition that depends on the request alone may hold or not, so the walk
//! takes both ways, and stays consistent: the same ACL has the same truth all along one way. A variable of an agent has the
//! value that the assumption gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::condition::{Condition, Criterion, Test, Value, parse_sample};
use super::lines::Line;
use super::rules::{Action, Phase, Rule};
use super::scene::Scene;
use super::sections::Kind;
use super::words::Word;

/// What the agents are assumed to answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer<'w> {
    /// Nothing, and HAProxy notices nothing: a cut or malformed ACK, `maxerrrate`.
    Quiet,
    /// Nothing, and HAProxy sets the error variable to this.
    Error(i64),
    /// Every variable exists and none has a value.
    Hollow,
    /// This verdict, which is not `allow`.
    Verdict(&'w str),
    /// Anything.
    Free,
}

/// Which ACLs hold, by their text.
pub(super) type Truth = BTreeMap<Rc<str>, bool>;

/// Where one way ends.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub end: End<'a>,
    /// What the request must be like to go it.
    pub truth: Truth,
    /// A rule that ended the rules of a proxy early.
    pub cut_short: Option<&'a Line>,
    /// How often one agent was asked at most.
    pub questions_max: usize,
    /// It goes on about what an agent's word gives, where the word is known and what a rule makes of it is not: behind a
    /// converter, or in a file.
    pub guessed: bool,
}

/// How a way ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// At this rule.
    Refused(&'a Line),
    /// HAProxy itself answers: a service, or there is no server.
    Served,
    /// At the servers of this backend.
    Backend(&'a str),
}

/// All ways of a request that comes to one proxy; `None` where there are too many.
pub(super) fn ways<'a>(scene: &Scene<'a>, frontend: usize, answer: Answer<'_>, truth: &Truth) -> Option<Vec<Way<'a>>> {
    // Where each `set-var` doubles them, a variable that may have been set or not is one that may be anything.
    let coarsely = || Walk { scene, answer, coarse: true }.ways(frontend, truth);
    if scene.coarse.borrow().contains(&frontend) {
        return coarsely();
    }
    let finely = Walk { scene, answer, coarse: false }.ways(frontend, truth);
    finely.or_else(|| {
        scene.coarse.borrow_mut().insert(frontend);
        coarsely()
    })
}

struct Walk<'s, 'a, 'w> {
    scene: &'s Scene<'a>,
    answer: Answer<'w>,
    /// Only what ends or routes a request parts its ways.
    coarse: bool,
}

/// A request somewhere on its way.
#[derive(Clone)]
struct State<'a> {
    proxy: usize,
    /// Which rule comes next.
    next: usize,
    /// It has not been routed yet.
    front: bool,
    /// What the config itself set.
    variables: BTreeMap<String, Value>,
    truth: Truth,
    /// How often each engine was asked.
    asked: BTreeMap<usize, usize>,
    cut_short: Option<&'a Line>,
    guessed: bool,
}

enum Followed<'a> {
    End(Way<'a>),
    /// At a rule that refuses whatever the agents say, so it is nobody's way past them.
    Refused,
    /// Both ways go on.
    Fork(Box<[State<'a>; 2]>),
    TooLong,
}

impl<'a> Walk<'_, 'a, '_> {
    fn ways(&self, frontend: usize, truth: &Truth) -> Option<Vec<Way<'a>>> {
        let mut start = State {
            proxy: frontend,
            next: 0,
            front: true,
            variables: BTreeMap::new(),
            truth: truth.clone(),
            asked: BTreeMap::new(),
            cut_short: None,
            guessed: false,
        };
        self.events(&mut start, FRONT_EVENTS);
        let (mut open, mut ways) = (vec![start], Vec::new());
        let mut steps = 0;
        while let Some(state) = open.pop() {
            let before = steps;
            let followed = self.follow(state, &mut steps);
            let all = self.scene.steps.get() + steps - before;
            self.scene.steps.set(all);
            if all > ALL_STEPS_MAX {
                return None;
            }
            match followed {
                Followed::End(way) => ways.push(way),
                Followed::Refused => {}
                Followed::Fork(states) => open.extend(*states),
                Followed::TooLong => return None,
            }
            if ways.len() > WAYS_MAX {
                return None;
            }
        }
        Some(ways)
    }

    fn follow(&self, mut state: State<'a>, steps: &mut usize) -> Followed<'a> {
        loop {
            *steps += 1;
            if *steps > STEPS_MAX {
                return Followed::TooLong;
            }
            let rules = self.scene.rules.get(state.proxy).map_or(&[][..], Vec::as_slice);
            let Some(rule) = rules.get(state.next) else {
                match self.leave(&mut state) {
                    Some(end) => return Followed::End(state.ends(end)),
                    None => continue,
                }
            };
            let over = rule.phase == Phase::Response || (rule.phase == Phase::Route && !state.front);
            if over || !self.matters(rule) {
                state.next += 1;
                continue;
            }
            match self.holds(&state, rule.condition.as_ref()) {
                Err(unknown) if self.coarse && self.blurs(&mut state, rule, &unknown) => state.next += 1,
                Err(unknown) => {
                    state.guessed |= self.guesses(&state, &unknown);
                    let mut other = state.clone();
                    state.truth.insert(unknown.clone(), true);
                    other.truth.insert(unknown, false);
                    return Followed::Fork(Box::new([state, other]));
                }
                Ok(false) => state.next += 1,
                Ok(true) if self.refuses_regardless(state.proxy, rule) => return Followed::Refused,
                Ok(true) => {
                    state.next += 1;
                    if let Some(end) = self.act(&mut state, rule, rules) {
                        return Followed::End(state.ends(end));
                    }
                }
            }
        }
    }

    fn matters(&self, rule: &Rule<'_>) -> bool {
        match &rule.action {
            Action::SetVariable { name, .. } | Action::UnsetVariable(name) => self.scene.tested.contains(*name),
            Action::WriteHeader { .. }
            | Action::DeleteHeader { .. }
            | Action::Rewrite(_)
            | Action::SetSource(_)
            | Action::Other => false,
            Action::Refuse | Action::Serve(_) | Action::Allow | Action::Ask { .. } | Action::Route(_) => true,
        }
    }

    /// Takes a rule that may be met or not without parting the ways; `false` where they must.
    fn blurs(&self, state: &mut State<'a>, rule: &Rule<'a>, unknown: &Rc<str>) -> bool {
        match &rule.action {
            Action::SetVariable { name, .. } | Action::UnsetVariable(name) => {
                state.variables.insert((*name).to_owned(), Value::Any);
                true
            }
            // Whom it refuses it refuses in any case, so only whom it lets go on is of interest.
            _ if self.refuses_regardless(state.proxy, rule) => {
                for holds in [true, false] {
                    state.truth.insert(unknown.clone(), holds);
                    if self.holds(state, rule.condition.as_ref()) == Ok(true) {
                        state.truth.insert(unknown.clone(), !holds);
                        return self.holds(state, rule.condition.as_ref()) == Ok(false) || {
                            state.truth.remove(unknown);
                            true
                        };
                    }
                }
                state.truth.remove(unknown);
                true
            }
            _ => false,
        }
    }

    /// Whether a rule ends the request, if its condition holds, and the condition looks at no variable.
    fn refuses_regardless(&self, proxy: usize, rule: &Rule<'a>) -> bool {
        matches!(rule.action, Action::Refuse | Action::Serve(_))
            && rule.condition.is_some()
            && self.scene.criteria_of(proxy, rule).iter().all(|criterion| criterion.variable().is_none())
    }

    /// Whether a criterion is unknown although the agent's word is known.
    fn guesses(&self, state: &State<'a>, unknown: &str) -> bool {
        let variable = self.scene.criteria.get(unknown).and_then(Criterion::variable);
        variable.is_some_and(|name| self.scene.is_agents(name) && self.value(state, name) != Value::Any)
    }

    fn act(&self, state: &mut State<'a>, rule: &Rule<'a>, rules: &[Rule<'a>]) -> Option<End<'a>> {
        match &rule.action {
            Action::Refuse => return Some(End::Refused(rule.line)),
            Action::Serve(_) => return Some(End::Served),
            Action::Allow => {
                // It ends the rules of its kind in this proxy, no others.
                state.next = rules.iter().position(|later| later.phase > rule.phase).unwrap_or(rules.len());
                if rule.phase == Phase::Request {
                    state.cut_short = Some(rule.line);
                }
            }
            Action::Ask { engine, .. } => {
                let asked = self.scene.filters_of(state.proxy).find(|(_, filter)| filter.name == *engine);
                asked.into_iter().for_each(|(index, _)| self.ask(state, index));
            }
            Action::SetVariable { name, value } => {
                let value = self.constant(state, value);
                state.variables.insert((*name).to_owned(), value);
            }
            Action::UnsetVariable(name) => {
                state.variables.insert((*name).to_owned(), Value::Unset);
            }
            Action::Route(word) => return self.enter(state, word),
            Action::WriteHeader { .. }
            | Action::DeleteHeader { .. }
            | Action::Rewrite(_)
            | Action::SetSource(_)
            | Action::Other => {}
        }
        None
    }

    /// Behind the last rule of a proxy.
    fn leave(&self, state: &mut State<'a>) -> Option<End<'a>> {
        let Some(proxy) = self.scene.config.proxies.get(state.proxy) else { return Some(End::Served) };
        if state.front
            && let Some(word) = self.scene.config.last(proxy, &["default_backend"]).and_then(|line| line.words.get(1))
        {
            return self.enter(state, word);
        }
        Some(if proxy.has_servers() { End::Backend(proxy.name) } else { End::Served })
    }

    fn enter(&self, state: &mut State<'a>, word: &'a Word) -> Option<End<'a>> {
        let names = |index: &usize| {
            let proxy = self.scene.config.proxies.get(*index);
            proxy.is_some_and(|proxy| proxy.name == word.text && [Kind::Backend, Kind::Listen].contains(&proxy.kind))
        };
        let Some(backend) = (0..self.scene.config.proxies.len()).find(names) else {
            // Chosen by a variable, or in a file that was not given.
            return Some(End::Backend(&word.text));
        };
        state.proxy = backend;
        state.next = 0;
        state.front = false;
        self.events(state, BACK_EVENTS);
        None
    }

    /// The agents of this proxy that one of these events asks.
    fn events(&self, state: &mut State<'a>, events: &[&str]) {
        let asks = |engine: &super::spoe::Engine<'_>| !engine.at(events).is_empty();
        let asked: Vec<_> = self.scene.filters_of(state.proxy).collect();
        for (index, _) in asked.into_iter().filter(|(_, filter)| filter.engine.as_ref().is_some_and(asks)) {
            self.ask(state, index);
        }
    }

    fn ask(&self, state: &mut State<'a>, index: usize) {
        *state.asked.entry(index).or_default() += 1;
        if let Some(engine) = self.scene.filters.get(index).and_then(|filter| filter.engine.as_ref()) {
            match self.answer {
                // What the config itself wrote into the agent's variables stands where no answer comes.
                Answer::Quiet => {}
                Answer::Error(_) => state.variables.retain(|name, _| engine.error() != Some(name.as_str())),
                Answer::Hollow | Answer::Verdict(_) | Answer::Free => {
                    state.variables.retain(|name, _| !engine.owns(name))
                }
            }
        }
    }

    fn constant(&self, state: &State<'_>, words: &[Word]) -> Value {
        let [word] = words else { return Value::Any };
        if word.text.contains('%') {
            return self.formatted(state, &word.text);
        }
        match parse_sample(&word.text) {
            (_, _, true) => Value::Any,
            (fetch, argument, _) => match (fetch.as_str(), argument) {
                ("bool", argument) => Value::Bool(["true", "1", "yes", "on"].contains(&argument.as_str())),
                ("int", argument) => argument.parse().map_or(Value::Any, Value::Number),
                ("str", argument) => Value::Text(argument),
                ("var", argument) if !argument.contains(',') => self.value(state, &argument),
                _ => Value::Any,
            },
        }
    }

    /// What a format gives: one that holds variables alone, and text. What has no value is nothing in it.
    fn formatted(&self, state: &State<'_>, format: &str) -> Value {
        let (mut text, mut rest) = (String::new(), format);
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            let variable = after.strip_prefix("[var(").and_then(|after| after.split_once(")]"));
            let Some((variable, after)) = variable.filter(|(variable, _)| !variable.contains([',', ')'])) else {
                return Value::Any;
            };
            match self.value(state, variable) {
                Value::Unset | Value::Hollow => {}
                Value::Text(value) => text.push_str(&value),
                Value::Number(number) => text.push_str(&number.to_string()),
                Value::Bool(yes) => text.push(if yes { '1' } else { '0' }),
                Value::Any => return Value::Any,
            }
            rest = after;
        }
        text.push_str(rest);
        Value::Text(text)
    }

    fn value(&self, state: &State<'_>, variable: &str) -> Value {
        if let Some(value) = state.variables.get(variable) {
            return value.clone();
        }
        let engines = self.scene.filters.iter().enumerate();
        let owned = engines.filter_map(|(index, filter)| Some((index, filter.engine.as_ref()?)));
        let owners: Vec<_> = owned.filter(|(_, engine)| engine.owns(variable)).collect();
        if owners.is_empty() {
            // Of an earlier request of this connection, perhaps.
            let lasts = variable.starts_with("sess.") || variable.starts_with("proc.");
            return if lasts { Value::Any } else { Value::Unset };
        }
        let asked = owners.iter().find(|(index, _)| state.asked.contains_key(index));
        let Some((_, engine)) = asked else { return Value::Unset };
        let is_error = engine.error().is_some_and(|error| error == variable);
        match self.answer {
            Answer::Quiet => Value::Unset,
            Answer::Error(number) if is_error => Value::Number(number),
            Answer::Error(_) => Value::Unset,
            Answer::Hollow if is_error => Value::Unset,
            Answer::Hollow => Value::Hollow,
            Answer::Verdict(_) if is_error => Value::Unset,
            Answer::Verdict(word) if variable.ends_with(".verdict") => Value::Text(word.to_owned()),
            Answer::Verdict(_) if variable.ends_with(".allow") => Value::Bool(false),
            Answer::Verdict(_) | Answer::Free => Value::Any,
        }
    }

    /// Whether a condition holds, or what must be assumed to say so.
    fn holds(&self, state: &State<'_>, condition: Option<&Condition<'_>>) -> Result<bool, Rc<str>> {
        let Some(condition) = condition else { return Ok(true) };
        let mut unknown = None;
        'any: for all in &condition.any {
            let mut whole = true;
            for term in all {
                match self.test(state, &term.test) {
                    Ok(holds) if holds == term.negated => continue 'any,
                    Ok(_) => {}
                    Err(key) => {
                        whole = false;
                        unknown.get_or_insert(key);
                    }
                }
            }
            if whole {
                return Ok(!condition.unless);
            }
        }
        unknown.map_or(Ok(condition.unless), Err)
    }

    fn test(&self, state: &State<'_>, test: &Test<'_>) -> Result<bool, Rc<str>> {
        let criteria = match test {
            Test::Inline(criterion) => std::slice::from_ref(criterion),
            Test::Named("TRUE") => return Ok(true),
            Test::Named("FALSE") => return Ok(false),
            Test::Named(name) => match self.scene.acl(state.proxy, name) {
                [] => return state.truth.get(*name).copied().ok_or_else(|| (*name).into()),
                criteria => criteria,
            },
        };
        let mut unknown = None;
        for criterion in criteria {
            match self.criterion(state, criterion) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(key) => {
                    unknown.get_or_insert(key);
                }
            }
        }
        unknown.map_or(Ok(false), Err)
    }

    fn criterion(&self, state: &State<'_>, criterion: &Criterion) -> Result<bool, Rc<str>> {
        let assumed = state.truth.get(criterion.text.as_str()).copied();
        let known = match criterion.fetch.as_str() {
            "always_true" => Some(true),
            "always_false" => Some(false),
            // What was assumed of an agent's variable holds while it may be anything, and no longer.
            "var" => criterion.variable().and_then(|variable| criterion.matches(&self.value(state, variable))),
            "ssl_fc" if !criterion.converted && criterion.patterns.is_empty() => self
                .scene
                .config
                .proxies
                .get(state.proxy)
                .filter(|_| state.front)
                .and_then(|proxy| self.scene.config.tls(proxy)),
            _ => None,
        };
        let excluded = || {
            let mut held = state.truth.iter().filter(|(_, holds)| **holds);
            held.any(|(text, _)| self.scene.criteria.get(&**text).is_some_and(|other| other.excludes(criterion)))
                .then_some(false)
        };
        known.or(assumed).or_else(excluded).ok_or_else(|| criterion.text.as_str().into())
    }
}

impl<'a> State<'a> {
    fn ends(self, end: End<'a>) -> Way<'a> {
        let questions_max = self.asked.values().copied().max().unwrap_or(0);
        Way { end, truth: self.truth, cut_short: self.cut_short, questions_max, guessed: self.guessed }
    }
}

/// Every criterion of rules and ACLs, by its text.
pub(super) fn criteria<'a>(
    rules: &[Vec<Rule<'a>>],
    acls: &[BTreeMap<&'a str, Vec<Criterion>>],
) -> BTreeMap<String, Criterion> {
    let terms = rules.iter().flatten().filter_map(|rule| rule.condition.as_ref()).flat_map(Condition::terms);
    let inline = terms.filter_map(|term| match &term.test {
        Test::Inline(criterion) => Some(criterion),
        Test::Named(_) => None,
    });
    let named = acls.iter().flat_map(BTreeMap::values).flatten();
    inline.chain(named).map(|criterion| (criterion.text.clone(), criterion.clone())).collect()
}

/// The variables that conditions look at: setting any other one changes no way.
pub(super) fn tested(rules: &[Vec<Rule<'_>>], criteria: &BTreeMap<String, Criterion>) -> BTreeSet<String> {
    let mut tested: BTreeSet<_> = criteria.values().filter_map(Criterion::variable).map(str::to_owned).collect();
    // What one variable is copied from counts as well.
    for rule in rules.iter().flatten() {
        if let Action::SetVariable { value: [word], .. } = &rule.action {
            tested.extend(super::scene::read_in(&word.text).map(str::to_owned));
        }
    }
    tested
}

/// Events of the SPOE file that come before a frontend's rules.
pub(super) const FRONT_EVENTS: &[&str] = &["on-client-session", "on-frontend-tcp-request", "on-frontend-http-request"];

/// Those that come before a backend's.
pub(super) const BACK_EVENTS: &[&str] = &["on-backend-tcp-request", "on-backend-http-request"];

/// Steps that all ways together may take: a tenth of a second's work, and far more than configs need.
const STEPS_MAX: usize = 50_000;

/// Steps of all walks through one config: some seconds' work.
const ALL_STEPS_MAX: usize = 10_000_000;

/// Ways that are told apart.
const WAYS_MAX: usize = 2_000;
