//! The question: whether it is asked, when, and whether what it says is what the application will see.

use super::super::condition::parse_sample;
use super::super::rules::{Action, Phase, Rule};
use super::super::scene::Scene;
use super::super::spoe::Arg;
use super::super::walk::{Answer, BACK_EVENTS, FRONT_EVENTS, Truth, ways};
use super::Findings;

/// The file of a `filter spoe` line is not there, or has no such engine.
pub(super) fn spoe_unread(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for filter in scene.filters.iter().filter(|filter| filter.engine.is_none()) {
        let file = filter.line.after("config").map_or("", |word| word.text.as_str());
        let scope = if filter.name.is_empty() { String::new() } else { format!(" with a scope `[{}]`", filter.name) };
        let what = format!("no `spoe-agent`{scope} in `{file}`, looked for by its path and beside this file");
        let fix = if filter.name.is_empty() { "spoe-agent NAME".to_owned() } else { format!("[{}]", filter.name) };
        found.tell(filter.line, what, format!("{fix}, in the SPOE file; or name that file on the command line"));
    }
}

/// Nothing sends any message.
pub(super) fn never_asked(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (filter, engine) in scene.engines() {
        let sends = |rule: &Rule<'_>| matches!(rule.action, Action::Ask { engine, .. } if engine == filter.name);
        let by_rule = scene.rules_of(filter.proxy).iter().any(sends);
        let responses = ["on-server-session", "on-tcp-response", "on-http-response"];
        let events = [FRONT_EVENTS, BACK_EVENTS, &responses].concat();
        if by_rule || !engine.at(&events).is_empty() {
            continue;
        }
        let group = engine.groups.first().map_or("GROUP", |group| group.name);
        let what = format!("engine `{}` is never asked", filter.name);
        found.tell(filter.line, what, format!("http-request send-spoe-group {} {group}", filter.name));
    }
}

/// A rule looks at the answer above the question.
pub(super) fn read_before_asked(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (filter, engine) in scene.engines() {
        let all_events = [FRONT_EVENTS, BACK_EVENTS].concat();
        if !engine.at(&all_events).is_empty() {
            continue;
        }
        let rules = scene.rules_of(filter.proxy);
        let asks = |rule: &Rule<'_>| {
            rule.phase != Phase::Response && matches!(rule.action, Action::Ask { engine, .. } if engine == filter.name)
        };
        let Some(first) = rules.iter().position(asks) else { continue };
        for rule in rules.iter().take(first).filter(|rule| rule.phase != Phase::Response) {
            let criteria = scene.criteria_of(filter.proxy, rule);
            let Some(name) = criteria.into_iter().filter_map(|each| each.variable()).find(|name| engine.owns(name))
            else {
                continue;
            };
            // Asked through another proxy's filter already.
            if scene.engines().any(|(other, engine)| other.proxy != filter.proxy && engine.owns(name)) {
                continue;
            }
            let Some(question) = rules.get(first) else { continue };
            let what = format!("this looks at `{name}`, which is asked for in line {} only", question.line.number);
            found.tell(rule.line, what, format!("move it below `{}`", question.line.text()));
        }
    }
}

/// Path or method is rewritten when the agent has seen it already.
pub(super) fn changed_after_asked(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for proxy in 0..scene.config.proxies.len() {
        let messages = scene.messages_of(proxy);
        let args: Vec<_> = messages.iter().flat_map(|message| &message.args).collect();
        let Some(first) = scene.first_question(proxy) else { continue };
        let here = scene.rules_of(proxy).iter().skip(first).map(|rule| (rule, "asked"));
        let behind = scene.backends_of(proxy);
        let there =
            behind.iter().flat_map(|backend| scene.rules_of(*backend)).map(|rule| (rule, "asked in the frontend"));
        for (rule, asked) in here.chain(there) {
            let Action::Rewrite(how) = rule.action else { continue };
            let method = how == "set-method";
            // The same path and query, without what stood before them.
            if rule.phase == Phase::Response || (how == "set-uri" && rule.line.holds("%[pathq]")) {
                continue;
            }
            if !args.iter().any(|arg| if method { arg.names(&["method"]) } else { arg.names(PATHS) }) {
                continue;
            }
            let part = if method { "method" } else { "path" };
            let what = format!("`{how}` changes the {part} after the agent was {asked}");
            let fix = format!(
                "move it above the question, so that the agent decides on the {part} that the application gets"
            );
            found.tell(rule.line, what, fix);
        }
    }
}

/// `GET http://host/path` reaches the application as it is.
pub(super) fn absolute_uri(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (filter, engine) in scene.engines() {
        let rewrites = |rule: &Rule<'_>| matches!(rule.action, Action::Rewrite("set-uri" | "set-path" | "set-pathq"));
        let refuses = |rule: &Rule<'_>| {
            let criteria = scene.criteria_of(filter.proxy, rule);
            matches!(rule.action, Action::Refuse)
                && criteria.iter().any(|each| each.fetch == "url" || each.text == "HTTP_URL_ABS")
                || rule.line.holds("HTTP_URL_ABS")
        };
        let rules = scene.rules_of(filter.proxy);
        if scene.http(filter.proxy)
            && engine.args().any(|arg| arg.names(&["path", "pathq", "url_path"]))
            && !rules.iter().any(|rule| rewrites(rule) || refuses(rule))
        {
            let what = "the agent is shown the path alone, and a request with an absolute URI goes to the application as it came";
            found.tell(
                filter.line,
                what,
                "http-request set-uri %[pathq] if { url_beg -i http:// https:// }, above the question",
            );
        }
    }
}

/// Path, host or method from a field that the client writes.
pub(super) fn told_by_client(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let fields = [
        ("x-original-url", "pathq"),
        ("x-original-uri", "pathq"),
        ("x-original-method", "method"),
        ("x-rewrite-url", "pathq"),
        ("x-forwarded-uri", "pathq"),
        ("x-forwarded-path", "path"),
        ("x-forwarded-method", "method"),
        ("x-forwarded-host", "req.fhdr(host)"),
        ("x-forwarded-proto", "ssl_fc"),
        ("x-http-method-override", "method"),
        ("x-method-override", "method"),
    ];
    client_fields(scene, found, &fields);
}

/// The client's address from a field that the client writes.
pub(super) fn address_by_client(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let fields = ["x-forwarded-for", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "forwarded"];
    client_fields(scene, found, &fields.map(|field| (field, "src")));
    for (filter, _) in scene.engines().filter(|(_, engine)| engine.args().any(|arg| arg.names(&["src"]))) {
        let first = scene.first_question(filter.proxy).unwrap_or(0);
        for rule in scene.rules_of(filter.proxy).iter().take(first) {
            if scene.takes_address(filter.proxy, rule) {
                let what = "`src` is whatever the client writes, from here on";
                let fix = format!("{} if {{ src 10.0.0.0/8 }}, with the proxies that you trust", rule.line.text());
                found.tell(rule.line, what, fix);
            }
        }
    }
}

fn client_fields(scene: &Scene<'_>, found: &mut Findings<'_>, fields: &[(&str, &str)]) {
    for (filter, engine) in scene.engines() {
        // What HAProxy itself wrote above the question is its own word.
        let first = scene.first_question(filter.proxy).unwrap_or(0);
        let before: Vec<_> = scene.rules_of(filter.proxy).iter().take(first).collect();
        for arg in engine.args() {
            let Some(field) = arg.field() else { continue };
            let Some((_, instead)) = fields.iter().find(|(name, _)| *name == field) else { continue };
            let ours = |rule: &&&Rule<'_>| match &rule.action {
                Action::WriteHeader { name, adds: false, .. } => {
                    rule.condition.is_none() && name.eq_ignore_ascii_case(&field)
                }
                _ => false,
            };
            if before.iter().find(ours).is_none() {
                let what = format!("`{}` is whatever the client writes", arg.sample);
                found.tell(arg.line, what, format!("`{instead}`, in its place"));
            }
        }
    }
}

/// `hdr` of a field that is one value.
pub(super) fn cut_at_commas(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for arg in scene.engines().flat_map(|(_, engine)| engine.args()) {
        let (fetch, _, _) = parse_sample(&arg.sample);
        let Some(field) = arg.field().filter(|_| ["hdr", "req.hdr"].contains(&fetch.as_str())) else { continue };
        if ["authorization", "host", "x-api-key", "dpop"].contains(&field.as_str()) {
            let what = format!("`{}` cuts the field at its commas", arg.sample);
            found.tell(arg.line, what, format!("req.fhdr({field})"));
        }
    }
}

/// The agent is shown one value of a credential, and nothing refuses a second one.
pub(super) fn duplicate_credential(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (filter, engine) in scene.engines().filter(|(filter, _)| scene.http(filter.proxy)) {
        for arg in engine.args() {
            let (fetch, name, _) = parse_sample(&arg.sample);
            let name = name.split(',').next().unwrap_or_default().to_owned();
            let counts = match fetch.as_str() {
                "cook" | "req.cook" => ["req.cook_cnt", "cook_cnt"],
                "hdr" | "req.hdr" | "fhdr" | "req.fhdr"
                    if ["authorization", "x-api-key", "dpop", "proxy-authorization"].contains(&name.as_str()) =>
                {
                    ["req.fhdr_cnt", "req.hdr_cnt"]
                }
                _ => continue,
            };
            let settles = |rule: &Rule<'_>| match &rule.action {
                Action::Refuse => scene.criteria_of(filter.proxy, rule).into_iter().any(|criterion| {
                    let counted = counts.contains(&criterion.fetch.as_str())
                        || criterion.fetch.trim_start_matches("req.") == "hdr_cnt";
                    counted && criterion.argument.eq_ignore_ascii_case(&name)
                }),
                // One value again.
                Action::WriteHeader { name: written, adds: false, .. } => written.eq_ignore_ascii_case(&name),
                _ => false,
            };
            if !scene.rules_of(filter.proxy).iter().any(settles) {
                let [count, _] = counts;
                let written = arg.as_written(&name);
                let what = format!("nothing refuses a request with two of `{written}`");
                let fix = format!("http-request deny status 400 if {{ {count}({written}) gt 1 }}, above the question");
                found.tell(arg.line, what, fix);
            }
        }
    }
}

/// HAProxy is told to take what is not HTTP.
pub(super) fn lax_parser(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let mut asked: Vec<_> = scene.filters.iter().map(|filter| filter.proxy).collect();
    asked.dedup();
    for proxy in asked.into_iter().filter_map(|proxy| scene.config.proxies.get(proxy)) {
        for option in ["accept-invalid-http-request", "accept-unsafe-violations-in-http-request"] {
            if let Some(line) = scene.config.option(proxy, option) {
                found.tell(line, format!("`option {option}` in front of an agent"), format!("no option {option}"));
            }
        }
    }
}

/// A second question after a timeout.
pub(super) fn late_answer(scene: &Scene<'_>, found: &mut Findings<'_>) {
    if scene.version.is_some_and(|version| version >= (3, 1)) {
        return;
    }
    for (filter, engine) in scene.engines() {
        if engine.option("continue-on-error").is_none() {
            continue;
        }
        let timed_out = ways(scene, filter.proxy, Answer::Error(1), &Truth::new()).unwrap_or_default();
        if !timed_out.iter().any(|way| way.questions_max > 1) {
            continue;
        }
        let asks = |rule: &&Rule<'_>| {
            rule.phase != Phase::Response && matches!(rule.action, Action::Ask { engine, .. } if engine == filter.name)
        };
        let Some(again) = scene.rules_of(filter.proxy).iter().rfind(asks) else { continue };
        let error = engine.error().map(str::to_owned).unwrap_or_else(|| format!("txn.{}.error", engine.prefix()));
        let what = "the agent is asked again after a timeout, while its first answer may still come";
        found.tell(
            again.line,
            what,
            format!(
                "if {{ var({error}) -m int 256 257 }}: only where the connection ended; or no option continue-on-error"
            ),
        );
    }
}

impl Arg<'_> {
    /// Whether its sample is one of these functions.
    fn names(&self, functions: &[&str]) -> bool {
        functions.contains(&parse_sample(&self.sample).0.as_str())
    }

    /// The header field that it is.
    fn field(&self) -> Option<String> {
        let (fetch, name, _) = parse_sample(&self.sample);
        let header = ["hdr", "req.hdr", "fhdr", "req.fhdr", "hdr_ip", "req.hdr_ip"].contains(&fetch.as_str());
        header.then(|| name.split(',').next().unwrap_or_default().trim().to_owned())
    }

    /// A name in the case in which the file has it: that of a cookie counts.
    fn as_written(&self, name: &str) -> String {
        let text = self.line.text();
        let at = text.to_ascii_lowercase().find(&format!("({name}"));
        at.and_then(|at| text.get(at + 1..at + 1 + name.len())).unwrap_or(name).to_owned()
    }
}

/// Samples that a path can be read from.
const PATHS: &[&str] = &["path", "pathq", "url", "url_path", "base", "base32", "capture.req.uri", "baseq"];
