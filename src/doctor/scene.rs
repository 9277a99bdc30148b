//! All that the checks look at, put together once.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Settings;
use super::checks::{Identity, Opening};
use super::condition::{Condition, Criterion, Test, parse_sample};
use super::lines::Line;
use super::rules::{self, Action, Phase, Rule};
use super::sections::{Config, Kind, Proxy, is_local};
use super::spoe::{Engine, Message};
use super::walk::{self, BACK_EVENTS, FRONT_EVENTS};

/// A config with its agents.
pub(super) struct Scene<'a> {
    pub config: Config<'a>,
    /// The rules of each proxy.
    pub rules: Vec<Vec<Rule<'a>>>,
    /// Every `filter spoe`.
    pub filters: Vec<Filter<'a>>,
    /// The named ACLs of each proxy.
    acls: Vec<BTreeMap<&'a str, Vec<Criterion>>>,
    /// Every criterion, by its text.
    pub criteria: BTreeMap<String, Criterion>,
    /// The variables that conditions look at.
    pub tested: BTreeSet<String>,
    /// Every variable that is read anywhere, logs included, and where.
    pub reads: Vec<(&'a Line, String)>,
    /// The names alone.
    pub mentioned: BTreeSet<String>,
    /// The variables that the config itself sets.
    pub written: BTreeSet<String>,
    /// Found once, told by several checks.
    pub openings: OnceCell<(Vec<Opening<'a>>, Vec<String>)>,
    /// The same for headers that are filled from an agent's answer.
    pub identities: OnceCell<Vec<Identity<'a>>>,
    /// Of all engines.
    prefixes: BTreeSet<&'a str>,
    /// Frontends with so many ways that only the plainest are told apart.
    pub coarse: RefCell<BTreeSet<usize>>,
    /// How far all walks went together.
    pub steps: Cell<usize>,
    pub settings: &'a Settings,
    /// The line of HAProxy that it is for, where that is known.
    pub version: Option<super::lines::Version>,
}

/// A `filter spoe` line.
pub(super) struct Filter<'a> {
    /// The proxy it stands in.
    pub proxy: usize,
    pub line: &'a Line,
    /// The engine's name.
    pub name: &'a str,
    /// What its SPOE file says; `None` where that was not found or has no such engine.
    pub engine: Option<Engine<'a>>,
}

impl<'a> Scene<'a> {
    /// `spoe` gives the lines of the file that a `filter spoe` line names.
    pub(super) fn new(
        config: Config<'a>,
        settings: &'a Settings,
        version: Option<super::lines::Version>,
        spoe: impl Fn(&'a Line) -> Option<Vec<&'a Line>>,
    ) -> Scene<'a> {
        let rules: Vec<_> = config.proxies.iter().map(|proxy| rules::of(&config, proxy)).collect();
        let acls: Vec<_> = config.proxies.iter().map(|proxy| acls(&config, proxy)).collect();
        let mut filters = Vec::new();
        for (proxy, each) in config.proxies.iter().enumerate() {
            for line in each.own.iter().copied().filter(|line| line.begins(&["filter", "spoe"])) {
                let name = line.after("engine").map_or("", |word| word.text.as_str());
                let engine = spoe(line).and_then(|lines| Engine::read(name, &lines));
                filters.push(Filter { proxy, line, name, engine });
            }
        }
        let criteria = walk::criteria(&rules, &acls);
        let tested = walk::tested(&rules, &criteria);
        let prefixes = filters.iter().filter_map(|filter| filter.engine.as_ref()).map(Engine::prefix).collect();
        let (reads, written) = variables(&config);
        let mentioned = reads.iter().map(|(_, name)| name.clone()).collect();
        Scene {
            config,
            rules,
            filters,
            acls,
            criteria,
            tested,
            reads,
            mentioned,
            written,
            openings: OnceCell::new(),
            identities: OnceCell::new(),
            prefixes,
            coarse: RefCell::default(),
            steps: Cell::default(),
            settings,
            version,
        }
    }

    /// The filters of a proxy, with their places in `filters`.
    pub(super) fn filters_of(&self, proxy: usize) -> impl Iterator<Item = (usize, &Filter<'a>)> {
        self.filters.iter().enumerate().filter(move |(_, filter)| filter.proxy == proxy)
    }

    /// The engines that could be read, each once for each proxy that asks it.
    pub(super) fn engines(&self) -> impl Iterator<Item = (&Filter<'a>, &Engine<'a>)> {
        self.filters.iter().filter_map(|filter| Some((filter, filter.engine.as_ref()?)))
    }

    /// The criteria of a named ACL of a proxy.
    pub(super) fn acl(&self, proxy: usize, name: &str) -> &[Criterion] {
        self.acls.get(proxy).and_then(|acls| acls.get(name)).map_or(&[], Vec::as_slice)
    }

    /// The criteria that a rule's condition comes down to.
    pub(super) fn criteria_of<'s>(&'s self, proxy: usize, rule: &'s Rule<'_>) -> Vec<&'s Criterion> {
        let mut found = Vec::new();
        for term in rule.condition.iter().flat_map(Condition::terms) {
            match &term.test {
                Test::Inline(criterion) => found.push(criterion),
                Test::Named(name) => found.extend(self.acl(proxy, name)),
            }
        }
        found
    }

    /// The rules of a proxy.
    pub(super) fn rules_of(&self, proxy: usize) -> &[Rule<'a>] {
        self.rules.get(proxy).map_or(&[], Vec::as_slice)
    }

    /// Whether a variable, with its scope, is an agent's.
    pub(super) fn is_agents(&self, variable: &str) -> bool {
        let Some((_, name)) = variable.split_once('.') else { return false };
        self.prefixes.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Proxies that clients come to.
    pub(super) fn fronts(&self) -> impl Iterator<Item = (usize, &Proxy<'a>)> {
        let front = |(_, proxy): &(usize, &Proxy<'a>)| [Kind::Frontend, Kind::Listen].contains(&proxy.kind);
        self.config.proxies.iter().enumerate().filter(front)
    }

    /// The backends that a frontend names, by their places.
    pub(super) fn backends_of(&self, front: usize) -> Vec<usize> {
        let Some(proxy) = self.config.proxies.get(front) else { return Vec::new() };
        let mut names = BTreeSet::new();
        for line in self.config.lines(proxy) {
            if ["use_backend", "default_backend"].contains(&line.word(0)) {
                names.insert(line.word(1));
            }
        }
        let mut dynamic = BTreeSet::new();
        for rule in self.rules_of(front) {
            if let (Action::Route(word), Some(_)) = (&rule.action, &rule.condition)
                && word.text.contains("%[")
            {
                let lists = self.criteria_of(front, rule).into_iter().filter(|criterion| criterion.is_closed_list());
                dynamic.extend(lists.flat_map(|criterion| criterion.patterns.iter().map(String::as_str)));
            }
        }
        let named = |name: &str| names.contains(name) || dynamic.contains(name);
        let backends = self
            .config
            .proxies
            .iter()
            .enumerate()
            .filter(|(_, proxy)| [Kind::Backend, Kind::Listen].contains(&proxy.kind) && named(proxy.name));
        backends.map(|(index, _)| index).collect()
    }

    /// Where the agents of a proxy are first asked: `Some(0)` before all of its `http-request` rules, `Some(n)` by the rule
    /// with that place among all of its rules; `None` where they never are.
    pub(super) fn first_question(&self, proxy: usize) -> Option<usize> {
        let event = |(_, filter): (usize, &Filter<'a>)| {
            let engine = filter.engine.as_ref();
            engine.is_some_and(|engine| !engine.at(FRONT_EVENTS).is_empty() || !engine.at(BACK_EVENTS).is_empty())
        };
        if self.filters_of(proxy).any(event) {
            return Some(0);
        }
        let asks = |rule: &Rule<'_>| rule.phase != Phase::Response && matches!(rule.action, Action::Ask { .. });
        self.rules_of(proxy).iter().position(asks)
    }

    /// The messages that are sent about a request through this proxy.
    pub(super) fn messages_of(&self, proxy: usize) -> Vec<&Message<'a>> {
        let mut messages = Vec::new();
        for (_, filter) in self.filters_of(proxy) {
            let Some(engine) = &filter.engine else { continue };
            messages.extend(engine.at(FRONT_EVENTS));
            messages.extend(engine.at(BACK_EVENTS));
            for rule in self.rules_of(proxy).iter().filter(|rule| rule.phase != Phase::Response) {
                if let Action::Ask { engine: asked, group } = rule.action
                    && asked == filter.name
                {
                    messages.extend(engine.of_group(group));
                }
            }
        }
        messages.sort_by_key(|message| message.name);
        messages.dedup_by_key(|message| message.name);
        messages
    }

    /// Whether the client's address is what somebody says and not where the connection is from: by `set-src` from a field,
    /// or by the PROXY protocol at a port that everybody reaches. A condition on `src` says whom to believe.
    pub(super) fn address_is_told(&self, front: usize) -> bool {
        let Some(proxy) = self.config.proxies.get(front) else { return false };
        let by_proxy = proxy.own.iter().any(|line| {
            let told = line.word(0) == "bind" && line.holds("accept-proxy");
            told && line.word(1).split(',').any(|address| !is_local(address))
        });
        let believes = |line: &&&Line| line.begins(&["tcp-request", "connection"]) && line.holds("src");
        (by_proxy && !proxy.own.iter().any(|line| believes(&line)))
            || self.rules_of(front).iter().any(|rule| self.takes_address(front, rule))
    }

    /// Whether a rule takes the client's address from a field, whoever sent it.
    pub(super) fn takes_address(&self, front: usize, rule: &Rule<'a>) -> bool {
        let Action::SetSource(word) = &rule.action else { return false };
        let (fetch, ..) = parse_sample(&word.text);
        let trusts = |criterion: &&Criterion| ["src", "dst", "dst_port"].contains(&criterion.fetch.as_str());
        rule.phase != Phase::Response && is_field(&fetch) && !self.criteria_of(front, rule).iter().any(trusts)
    }

    /// Whether a proxy speaks HTTP, as far as its lines say.
    pub(super) fn http(&self, proxy: usize) -> bool {
        let proxy = self.config.proxies.get(proxy);
        proxy.and_then(|proxy| self.config.last(proxy, &["mode"])).is_some_and(|line| line.word(1) == "http")
    }
}

/// Whether a sample is a header field that the client wrote.
pub(super) fn is_field(fetch: &str) -> bool {
    ["hdr", "fhdr", "req.hdr", "req.fhdr", "hdr_ip", "req.hdr_ip", "hdr_val", "req.hdr_val"].contains(&fetch)
}

/// The variables that lines read, and those that they set.
fn variables<'a>(config: &Config<'a>) -> (Vec<(&'a Line, String)>, BTreeSet<String>) {
    let (mut reads, mut written) = (Vec::new(), BTreeSet::new());
    let own = config.proxies.iter().flat_map(|proxy| &proxy.own);
    for line in own.chain(&config.global).copied() {
        // `set-var NAME …` of a `global` section.
        if ["set-var", "set-var-fmt"].contains(&line.word(0)) {
            written.insert(line.word(1).to_owned());
        }
        for word in &line.words {
            if let Some(rest) = word.text.strip_prefix("do-resolve(") {
                written.insert(rest.split(',').next().unwrap_or_default().to_owned());
            }
            written.extend(calls(&word.text, "set-").map(str::to_owned));
            reads.extend(read_in(&word.text).map(|name| (line, name.to_owned())));
        }
    }
    (reads, written)
}

/// The variables that a word reads, such as `%[var(txn.a)]`.
pub(super) fn read_in(text: &str) -> impl Iterator<Item = &str> {
    calls(text, "")
}

/// What stands in the parentheses of each `var`, or of each `set-var`.
fn calls<'t>(text: &'t str, wanted: &'static str) -> impl Iterator<Item = &'t str> {
    text.match_indices("var").filter_map(move |(at, _)| {
        let (before, after) = text.split_at_checked(at)?;
        let (called, rest) = after.split_once('(')?;
        let name = rest.split([',', ')']).next().unwrap_or_default().trim();
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let whole = if wanted.is_empty() {
            !before.ends_with(part)
        } else {
            before.ends_with(wanted) && !before.ends_with("unset-")
        };
        (whole && ["var", "var-fmt"].contains(&called)).then_some(name)
    })
}

fn acls<'a>(config: &Config<'a>, proxy: &Proxy<'a>) -> BTreeMap<&'a str, Vec<Criterion>> {
    let mut acls = BTreeMap::<_, Vec<_>>::new();
    for line in config.lines(proxy).into_iter().filter(|line| line.word(0) == "acl") {
        acls.entry(line.word(1)).or_default().extend(Criterion::read(line.from(2)));
    }
    acls
}

/// Where a `filter spoe` line's file may be: as named, from the config's folder, and beside the config.
pub(super) fn spoe_places(config: &Path, named: &str) -> Vec<std::path::PathBuf> {
    let folder = config.parent().unwrap_or(Path::new(""));
    let named = Path::new(named);
    // The config's folder first: that is where `default-path config` looks.
    let mut places = vec![folder.join(named), named.to_owned()];
    places.extend(named.file_name().map(|name| folder.join(name)));
    places.dedup();
    places
}
