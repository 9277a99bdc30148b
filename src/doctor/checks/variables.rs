//! The variables that come back.

use std::collections::{BTreeMap, BTreeSet};

use super::super::rules::Action;
use super::super::scene::Scene;
use super::Findings;

/// A variable of an agent with a scope that outlasts the request.
pub(super) fn outlives_request(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (line, name) in &scene.reads {
        if let Some(rest) = name.strip_prefix("sess.").or_else(|| name.strip_prefix("proc."))
            && scene.is_agents(name)
        {
            found.tell(
                line,
                format!("`{name}` outlives the request"),
                format!("var(txn.{rest}), and an agent that sets it there"),
            );
        }
    }
}

/// A variable that nothing sets.
pub(super) fn unknown_variable(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (line, name) in &scene.reads {
        let Some((scope, bare)) = name.split_once('.') else { continue };
        if !["txn", "sess", "req", "res", "proc"].contains(&scope) || scene.written.contains(name) {
            continue;
        }
        let owners: Vec<_> =
            scene.engines().filter(|(_, engine)| engine.owns(name)).map(|(_, engine)| engine).collect();
        if owners.is_empty() {
            // Lua, and an agent whose file was not found, may set what no line shows.
            if !scene.config.lua
                && scene.filters.iter().all(|filter| filter.engine.is_some())
                && !scene.filters.is_empty()
            {
                let prefixes = scene.engines().map(|(_, engine)| engine.prefix());
                let near = prefixes.map(|prefix| format!("{scope}.{prefix}.{}", last(bare))).next().unwrap_or_default();
                found.tell(line, format!("nothing sets `{name}`"), format!("var({near}), if the agent's is meant"));
            }
            continue;
        }
        for engine in owners {
            let local = bare.strip_prefix(engine.prefix()).unwrap_or(bare).trim_start_matches('.');
            let own =
                ["set-on-error", "set-process-time", "set-total-time", "set-on-process-time", "set-on-total-time"];
            let by_haproxy =
                own.iter().any(|option| engine.last(&["option", option]).is_some_and(|line| line.word(2) == local));
            let registered: BTreeSet<_> = engine
                .agent
                .iter()
                .filter(|line| line.word(0) == "register-var-names")
                .flat_map(|line| line.from(1).iter().map(|word| word.text.as_str()))
                .collect();
            if by_haproxy || registered.contains(local) {
                continue;
            }
            // HAProxy makes only variables of `proc` that it has heard of.
            let unheard = scope == "proc" && engine.option("force-set-var").is_none();
            if !registered.is_empty() || unheard {
                let what = format!("`{name}` is not registered in the agent's `register-var-names`");
                found.tell(line, what, format!("register-var-names {local}, or the name that is meant"));
            } else if engine.is_tollgate() && !TOLLGATES.contains(&local) {
                let near =
                    TOLLGATES.iter().max_by(|one, two| strsim::jaro(one, local).total_cmp(&strsim::jaro(two, local)));
                let what = format!("Tollgate sets no `{local}`");
                found.tell(line, what, format!("var({scope}.{}.{})", engine.prefix(), near.unwrap_or(&"verdict")));
            }
        }
    }
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Two engines of one proxy with the same prefix.
pub(super) fn same_prefix(scene: &Scene<'_>, found: &mut Findings<'_>) {
    let mut seen = BTreeMap::new();
    for (filter, engine) in scene.engines() {
        match seen.insert((filter.proxy, engine.prefix()), filter.name) {
            Some(other) => {
                let what =
                    format!("engines `{other}` and `{}` both have the prefix `{}`", filter.name, engine.prefix());
                found.tell(
                    filter.line,
                    what,
                    format!("option var-prefix {}, in the SPOE file of one of them", filter.name),
                );
            }
            None => continue,
        }
    }
}

/// A backend by a variable's value, whatever it is.
pub(super) fn open_routing(scene: &Scene<'_>, found: &mut Findings<'_>) {
    for (proxy, rules) in scene.rules.iter().enumerate() {
        for rule in rules {
            let Action::Route(word) = &rule.action else { continue };
            let Some((_, rest)) = word.text.split_once("var(") else { continue };
            let name = rest.split([',', ')']).next().unwrap_or_default();
            if !scene.is_agents(name) {
                continue;
            }
            let listed = |criterion: &super::super::condition::Criterion| {
                criterion.variable() == Some(name) && criterion.is_closed_list()
            };
            if !scene.criteria_of(proxy, rule).into_iter().any(listed) {
                let what = format!("any backend's name in `{name}` is taken");
                let fix =
                    format!("use_backend {} if {{ var({name}) -m str std fast }}, with the names it may be", word.text);
                found.tell(rule.line, what, fix);
            }
        }
    }
}

/// What Tollgate sets: README's table of variables, and what sign-in and signing are to add.
pub const TOLLGATES: &[&str] = &[
    "verdict",
    "allow",
    "status",
    "reason",
    "degraded",
    "user",
    "subject",
    "email",
    "name",
    "issuer",
    "client_id",
    "groups",
    "rule",
    "limit",
    "decision_id",
    "backend",
    "challenge",
    "dpop_nonce",
    "sticky",
    "ratelimit",
    "receipt",
    "ratelimit_policy",
    "limit_remaining",
    "limit_quota",
    "limit_reset",
    "retry_after",
    "location",
    "identity_jwt",
];
