//! Identity headers, and other fields that a client should have no say in.

use super::super::headers::{deletes, spellings};
use super::super::lines::Line;
use super::super::rules::{Action, Phase, Rule};
use super::super::scene::Scene;
use super::Findings;

/// A header that a rule fills from an agent's answer.
struct Identity<'s, 'a> {
    line: &'a Line,
    name: &'a str,
    adds: bool,
    /// Written on every request.
    always: bool,
    /// The rules that the request meets above, and below.
    above: Vec<&'s Rule<'a>>,
    below: Vec<&'s Rule<'a>>,
    /// HAProxy itself takes no name with `_` or `.` here.
    restricted: bool,
}

/// The client's own field of this very name.
enum Strip {
    Yes,
    No,
    /// An expression that only HAProxy can read.
    Unknown,
}

impl Identity<'_, '_> {
    fn stripped_above(&self, name: &str) -> Strip {
        strip(&self.above, name)
    }

    fn stripped(&self, name: &str) -> Strip {
        match strip(&self.above, name) {
            Strip::No => strip(&self.below, name),
            known => known,
        }
    }

    /// What `set-header` itself replaces is no spelling of the client's any more.
    fn bare_is_safe(&self) -> bool {
        (self.always && !self.adds) || !matches!(self.stripped_above(&self.name.to_ascii_lowercase()), Strip::No)
    }

    fn folded_left(&self) -> Vec<String> {
        if self.restricted {
            return Vec::new();
        }
        let all = spellings(self.name).into_iter().skip(1);
        all.filter(|spelling| matches!(self.stripped(spelling), Strip::No)).collect()
    }
}

fn strip(rules: &[&Rule<'_>], name: &str) -> Strip {
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

/// Every header that is filled from an agent's variable, on every way to it.
fn identities<'s, 'a>(scene: &'s Scene<'a>) -> Vec<Identity<'s, 'a>> {
    let mut identities = Vec::new();
    for (front, proxy) in scene.fronts() {
        let request = |index: usize| scene.rules_of(index).iter().filter(|rule| rule.phase == Phase::Request);
        let restricts = |index: usize| {
            let proxy = scene.config.proxies.get(index);
            let line = proxy.and_then(|proxy| scene.config.last(proxy, &["option", "http-restrict-req-hdr-names"]));
            line.is_some_and(|line| ["delete", "reject"].contains(&line.word(2)))
        };
        let mut places = vec![None];
        places.extend(scene.backends_of(front).into_iter().map(Some));
        for place in places {
            let first: Vec<_> = request(front).collect();
            let second: Vec<_> = place.filter(|backend| *backend != front).into_iter().flat_map(request).collect();
            let path: Vec<_> = first.iter().chain(&second).copied().collect();
            for (index, rule) in path.iter().enumerate() {
                // Those of the frontend are looked at once, without a backend.
                if place.is_some() != (index >= first.len()) {
                    continue;
                }
                let Action::WriteHeader { name, value, adds } = &rule.action else { continue };
                if !value_of_agent(scene, &value.text) || name.contains('%') {
                    continue;
                }
                identities.push(Identity {
                    line: rule.line,
                    name,
                    adds: *adds,
                    always: rule.condition.is_none(),
                    above: path.iter().take(index).copied().collect(),
                    below: path.iter().skip(index + 1).copied().collect(),
                    restricted: restricts(front) || place.is_some_and(restricts),
                });
            }
        }
        let _ = proxy;
    }
    identities
}

fn value_of_agent(scene: &Scene<'_>, value: &str) -> bool {
    value.match_indices("var(").any(|(at, _)| {
        let rest = value.get(at + 4..).unwrap_or_default();
        scene.is_agents(rest.split([',', ')']).next().unwrap_or_default())
    })
}

/// An expression that removes a class of names: the first part of one, then whatever follows.
fn class_of(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let parts: Vec<_> = lower.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    format!("http-request del-header ^{}$ -m reg", parts.join("[^a-z0-9]+"))
}

pub(super) fn not_stripped(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene).iter().filter(|identity| !identity.adds && !identity.bare_is_safe()) {
        let what =
            format!("`{}` is set here for some requests only, and a client's own is not removed above", identity.name);
        found.tell(identity.line, what, format!("{}, above the question", class_of(identity.name)));
    }
}

pub(super) fn folded(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene).iter().filter(|identity| identity.bare_is_safe()) {
        let left = identity.folded_left();
        if let Some(example) = left.first() {
            let what = format!(
                "a client's `{example}` goes to the application beside `{}` ({} spellings do)",
                identity.name,
                left.len()
            );
            found.tell(identity.line, what, format!("{}, above the question", class_of(identity.name)));
        }
    }
}

pub(super) fn added(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in identities(scene).iter().filter(|identity| identity.adds && !identity.bare_is_safe()) {
        let what = format!("`add-header {}` leaves a client's own field in place", identity.name);
        let fix =
            format!("http-request set-header {}, and {} above the question", identity.name, class_of(identity.name));
        found.tell(identity.line, what, fix);
    }
}

pub(super) fn removed(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in &identities(scene) {
        let name = identity.name.to_ascii_lowercase();
        let removes = |rule: &&&Rule<'_>| rule.condition.is_none() && deletes(rule, &name) == Some(true);
        if let Some(rule) = identity.below.iter().find(removes) {
            let what = format!("this removes `{}`, which line {} sets", identity.name, identity.line.number);
            found.tell(rule.line, what, format!("move it above line {}", identity.line.number));
        }
    }
}

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

pub(super) fn droppable(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for identity in &identities(scene) {
        let name = identity.name.to_ascii_lowercase();
        let guards = |rule: &&&Rule<'_>| match &rule.action {
            Action::DeleteHeader { .. } => deletes(rule, "connection") == Some(true) && covers(scene, rule, &name),
            Action::WriteHeader { name, adds: false, .. } => name.eq_ignore_ascii_case("connection"),
            _ => false,
        };
        if identity.above.iter().chain(&identity.below).find(guards).is_none() {
            let what = format!("a client's `Connection: {}` goes on beside `{}`", identity.name, identity.name);
            let fix = format!("http-request del-header connection if {{ req.hdr(connection) -i {} }}", identity.name);
            found.tell(identity.line, what, fix);
        }
    }
}

/// Whether a rule about `Connection` is one for this name, as far as its condition can be read.
fn covers(scene: &Scene<'_>, rule: &Rule<'_>, name: &str) -> bool {
    use super::super::condition::Value;
    let criteria: Vec<_> = (0..scene.rules.len()).flat_map(|proxy| scene.criteria_of(proxy, rule)).collect();
    let about =
        |criterion: &&&super::super::condition::Criterion| criterion.argument.eq_ignore_ascii_case("connection");
    let known: Vec<_> =
        criteria.iter().filter(about).map(|criterion| criterion.matches(&Value::Text(name.to_owned()))).collect();
    known.is_empty() || known.iter().any(|matches| *matches != Some(false))
}

pub(super) fn override_headers(scene: &Scene<'_>, found: &mut Findings<'_>) {
    use super::super::condition::parse_sample;
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
        names.retain(|name| matches!(strip(&rules, name), Strip::No));
        if !names.is_empty() {
            let what = format!("clients may send {}", names.join(", "));
            let fix = "http-request del-header ^x[^a-z0-9]+(http[^a-z0-9]+method|method[^a-z0-9]+override|original[^a-z0-9]+ur[il]|rewrite[^a-z0-9]+url)([^a-z0-9]|$) -m reg";
            found.tell(filter.line, what, fix);
        }
    }
}

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
