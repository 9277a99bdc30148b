//! Identity headers, and other fields that a client should have no say in.

use std::collections::BTreeSet;

use super::super::condition::{Term, Test, Value, parse_sample};
use super::super::headers::{deletes, spellings};
use super::super::lines::Line;
use super::super::rules::{Action, Phase, Rule};
use super::super::scene::{Scene, read_in};
use super::Findings;

/// A header that a rule fills from an agent's answer, with what becomes of a client's own.
pub(in super::super) struct Identity<'a> {
    line: &'a Line,
    name: &'a str,
    adds: bool,
    /// The client's own field of this very name is gone when this one is written.
    bare_is_safe: bool,
    /// The spellings of it that go to the application.
    left: Vec<String>,
    /// A rule below that removes it.
    removed: Option<&'a Line>,
    /// A client's `Connection` cannot name it.
    kept: bool,
}

/// What becomes of a client's field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strip {
    Yes,
    No,
    /// An expression that only HAProxy can read.
    Unknown,
}

/// What becomes of a client's field behind these rules of these proxies.
fn strip(scene: &Scene<'_>, places: &[usize], rules: &[&Rule<'_>], name: &str) -> Strip {
    if rules.iter().any(|rule| refuses(scene, places, rule, name)) {
        return Strip::Yes;
    }
    let mut unknown = false;
    for rule in rules.iter().filter(|rule| rule.condition.is_none()) {
        let emptied = matches!(&rule.action, Action::WriteHeader { name: written, adds: false, .. } if written.eq_ignore_ascii_case(name));
        match deletes(rule, name) {
            Some(true) => return Strip::Yes,
            _ if emptied => return Strip::Yes,
            Some(false) => {}
            None => unknown = true,
        }
    }
    if unknown { Strip::Unknown } else { Strip::No }
}

/// Whether a rule refuses every request that has a field.
fn refuses(scene: &Scene<'_>, places: &[usize], rule: &Rule<'_>, name: &str) -> bool {
    let Some(condition) = rule.condition.as_ref().filter(|condition| !condition.unless) else { return false };
    let holds = |term: &Term<'_>| {
        !term.negated
            && match &term.test {
                Test::Inline(criterion) => criterion.holds_with_field(name),
                Test::Named(acl) => {
                    let mut criteria = places.iter().flat_map(|place| scene.acl(*place, acl));
                    criteria.any(|criterion| criterion.holds_with_field(name))
                }
            }
    };
    matches!(rule.action, Action::Refuse) && condition.any.iter().any(|all| all.iter().all(holds) && !all.is_empty())
}

/// Every header that is filled from an agent's variable, on every way to it.
fn identities<'s, 'a>(scene: &'s Scene<'a>) -> &'s [Identity<'a>] {
    scene.identities.get_or_init(|| find(scene))
}

fn find<'a>(scene: &Scene<'a>) -> Vec<Identity<'a>> {
    let matters = |rule: &&Rule<'_>| {
        let header = matches!(rule.action, Action::WriteHeader { .. } | Action::DeleteHeader { .. } | Action::Refuse);
        rule.phase == Phase::Request && header
    };
    let (mut identities, copies) = (Vec::new(), copies(scene));
    for (front, _) in scene.fronts() {
        let here: Vec<_> = scene.rules_of(front).iter().filter(matters).collect();
        look(scene, &copies, &[front], &here, 0, &mut identities);
        for backend in scene.backends_of(front).into_iter().filter(|backend| *backend != front) {
            let there = scene.rules_of(backend).iter().filter(matters);
            let both: Vec<_> = here.iter().copied().chain(there).collect();
            look(scene, &copies, &[front, backend], &both, here.len(), &mut identities);
        }
    }
    identities
}

/// Looks at the rules from `start` on of a way through these proxies.
fn look<'a>(
    scene: &Scene<'a>,
    copies: &BTreeSet<&str>,
    places: &[usize],
    rules: &[&Rule<'a>],
    start: usize,
    identities: &mut Vec<Identity<'a>>,
) {
    let restricted = places.iter().filter_map(|place| scene.config.proxies.get(*place)).any(|proxy| {
        let line = scene.config.last(proxy, &["option", "http-restrict-req-hdr-names"]);
        line.is_some_and(|line| ["delete", "reject"].contains(&line.word(2)))
    });
    for (index, rule) in rules.iter().enumerate().skip(start) {
        let Action::WriteHeader { name, value, adds } = rule.action else { continue };
        if !value_of_agent(scene, copies, &value.text) || name.contains('%') {
            continue;
        }
        let (above, rest) = rules.split_at_checked(index).unwrap_or_default();
        let below = rest.get(1..).unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        let always = rule.condition.is_none() && !adds;
        let bare_is_safe = always || strip(scene, places, above, &lower) != Strip::No;
        let passes = |spelling: &String| {
            strip(scene, places, above, spelling) == Strip::No && strip(scene, places, below, spelling) == Strip::No
        };
        let folded = if restricted || !bare_is_safe { Vec::new() } else { spellings(name) };
        let removes = |rule: &&&Rule<'_>| rule.condition.is_none() && deletes(rule, &lower) == Some(true);
        identities.push(Identity {
            line: rule.line,
            name,
            adds,
            bare_is_safe,
            left: folded.into_iter().skip(1).filter(passes).collect(),
            removed: below.iter().find(removes).map(|rule| rule.line),
            kept: above.iter().chain(below).any(|rule| keeps(scene, places, rule, &lower)),
        });
    }
}

/// Whether a rule sees to it that a client's `Connection` does not name a header.
fn keeps(scene: &Scene<'_>, places: &[usize], rule: &Rule<'_>, name: &str) -> bool {
    match &rule.action {
        Action::WriteHeader { name, adds: false, .. } => name.eq_ignore_ascii_case("connection"),
        Action::DeleteHeader { .. } if deletes(rule, "connection") == Some(true) => {
            let criteria: Vec<_> = places.iter().flat_map(|place| scene.criteria_of(*place, rule)).collect();
            let about = criteria.iter().filter(|criterion| criterion.argument.eq_ignore_ascii_case("connection"));
            let named: Vec<_> = about.map(|criterion| criterion.matches(&Value::Text(name.to_owned()))).collect();
            // As far as its condition can be read.
            named.is_empty() || named.iter().any(|matches| *matches != Some(false))
        }
        _ => false,
    }
}

fn value_of_agent(scene: &Scene<'_>, copies: &BTreeSet<&str>, value: &str) -> bool {
    read_in(value).any(|name| scene.is_agents(name) || copies.contains(name))
}

/// The config's own variables that hold what an agent's do, through however many others.
fn copies<'a>(scene: &Scene<'a>) -> BTreeSet<&'a str> {
    let mut copies = BTreeSet::new();
    loop {
        let before = copies.len();
        for rule in scene.rules.iter().flatten() {
            if let Action::SetVariable { name, value } = rule.action
                && value.iter().any(|word| value_of_agent(scene, &copies, &word.text))
            {
                copies.insert(name);
            }
        }
        if copies.len() == before {
            return copies;
        }
    }
}

/// An expression that removes a class of names: the first part of one, then whatever follows.
fn class_of(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let parts: Vec<_> = lower.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    format!("http-request del-header ^{}$ -m reg", parts.join("[^a-z0-9]+"))
}

/// A client's own field stands where the agent says nothing.
pub(super) fn not_stripped(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene).iter().filter(|identity| !identity.adds && !identity.bare_is_safe) {
        let what =
            format!("`{}` is set here for some requests only, and a client's own is not removed above", identity.name);
        found.tell(identity.line, what, format!("{}, above the question", class_of(identity.name)));
    }
}

/// A client's own field in another spelling.
pub(super) fn folded(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene) {
        if let Some(example) = identity.left.first() {
            let what = format!(
                "a client's `{example}` goes to the application beside `{}` ({} spellings do)",
                identity.name,
                identity.left.len()
            );
            found.tell(identity.line, what, format!("{}, above the question", class_of(identity.name)));
        }
    }
}

/// `add-header`, with nothing removed before.
pub(super) fn added(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene).iter().filter(|identity| identity.adds && !identity.bare_is_safe) {
        let what = format!("`add-header {}` leaves a client's own field in place", identity.name);
        let fix =
            format!("http-request set-header {} …, and {} above the question", identity.name, class_of(identity.name));
        found.tell(identity.line, what, fix);
    }
}

/// Removed below where it is set.
pub(super) fn removed(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene) {
        if let Some(line) = identity.removed {
            let what = format!("this removes `{}`, which line {} sets", identity.name, identity.line.number);
            found.tell(line, what, format!("move it above line {}", identity.line.number));
        }
    }
}

/// A client's `Connection` may name it.
pub(super) fn droppable(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene).iter().filter(|identity| !identity.kept) {
        let what = format!("a client's `Connection: {}` goes on beside it", identity.name);
        let fix =
            format!("http-request del-header connection if {{ req.hdr(connection) -m sub -i {} }}", identity.name);
        found.tell(identity.line, what, fix);
    }
}

/// An expression that no header's name can match.
pub(super) fn strip_capitals(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let rules = scene.rules.iter().flatten().filter(|rule| rule.phase == Phase::Request);
    for rule in rules {
        let Action::DeleteHeader { name, method: "reg" } = &rule.action else { continue };
        // Escapes such as \S, and classes such as [A-Za-z], are no capitals that must stand there.
        let mut plain = String::new();
        let (mut escaped, mut class) = (false, false);
        for character in name.text.chars() {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '[' => class = true,
                ']' => class = false,
                _ if class => {}
                _ => plain.push(character),
            }
        }
        if !scene.filters.is_empty()
            && plain.contains(|c: char| c.is_ascii_uppercase())
            && !name.text.starts_with("(?i")
        {
            let what = format!("`{}` has capitals, and no header name has", name.text);
            let fix = rule.line.text().replace(&name.text, &name.text.to_ascii_lowercase());
            found.tell(rule.line, what, fix);
        }
    }
}

/// Fields that replace method or path.
pub(super) fn override_headers(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (filter, engine) in scene.engines().filter(|(filter, _)| scene.http(filter.proxy)) {
        let asks = |wanted: &[&str]| engine.args().any(|arg| wanted.contains(&parse_sample(&arg.sample).0.as_str()));
        let mut names = Vec::new();
        if asks(&["method"]) {
            names.extend(["x-http-method-override", "x-http-method", "x-method-override"]);
        }
        if asks(&["path", "pathq", "url", "base"]) {
            names.extend(["x-original-url", "x-rewrite-url"]);
        }
        let rules: Vec<_> = scene.rules_of(filter.proxy).iter().filter(|rule| rule.phase == Phase::Request).collect();
        names.retain(|name| strip(scene, &[filter.proxy], &rules, name) == Strip::No);
        if !names.is_empty() {
            let what = format!("clients may send {}", names.join(", "));
            let fix = "http-request del-header ^x[^a-z0-9]+(http[^a-z0-9]+method|method[^a-z0-9]+override|original[^a-z0-9]+ur[il]|rewrite[^a-z0-9]+url)([^a-z0-9]|$) -m reg";
            found.tell(filter.line, what, fix);
        }
    }
}

/// The client's address, as the client tells it.
pub(super) fn forwarded_for(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (filter, _) in scene.engines().filter(|(filter, _)| scene.http(filter.proxy)) {
        let places: Vec<_> = [filter.proxy].into_iter().chain(scene.backends_of(filter.proxy)).collect();
        let known = |rule: &Rule<'_>| {
            let written = matches!(&rule.action, Action::WriteHeader { name, adds: false, .. } if name.eq_ignore_ascii_case("x-forwarded-for"));
            written || deletes(rule, "x-forwarded-for") != Some(false)
        };
        let taken_care_of = |rule: &Rule<'_>| rule.phase == Phase::Request && known(rule);
        if places.iter().flat_map(|place| scene.rules_of(*place)).any(taken_care_of) {
            continue;
        }
        let proxies = places.iter().filter_map(|place| scene.config.proxies.get(*place));
        let option = proxies.filter_map(|proxy| scene.config.option(proxy, "forwardfor")).next();
        let fix = "http-request set-header X-Forwarded-For %[src]; behind a proxy that you trust, `# doctor: forwarded-for is meant` above this line";
        match option {
            Some(line) if line.holds("if-none") => {
                found.tell(line, "`if-none` keeps an X-Forwarded-For that the client sent", fix)
            }
            Some(_) => {}
            None => found.tell(filter.line, "an X-Forwarded-For that the client sent goes to the application", fix),
        }
    }
}

/// Header fields behind the body.
pub(super) fn trailers(scene: &Scene<'_>, found: &mut Findings<'_>) {
    if scene.version.is_none_or(|version| version < (3, 2)) || identities(scene).is_empty() {
        return;
    }
    for (filter, _) in scene.engines() {
        let places = [filter.proxy].into_iter().chain(scene.backends_of(filter.proxy));
        for backend in places.filter_map(|place| scene.config.proxies.get(place)).filter(|proxy| proxy.has_servers()) {
            if scene.config.option(backend, "http-drop-request-trailers").is_none() {
                let what = format!("{} passes trailers on", backend.title());
                found.tell(backend.head, what, "option http-drop-request-trailers");
            }
        }
    }
}
