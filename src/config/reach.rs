//! Which rules can never decide, or not all that they are for.

use super::read::At;
use crate::policy::host::HostPattern;
use crate::policy::index::Index;
use crate::policy::path::PathPattern;
use crate::policy::rule::Rule;

/// Warns of what an earlier rule takes from a later one: all of it, or whole hosts, paths or methods of its lists. That a
/// rule for `/admin/**` stands before one for `/**` is how rules are written, and no warning.
pub(super) fn warn(places: &[At<'_>], rules: &[Rule]) {
    let index = Index::new(rules);
    for (place, (at, rule)) in places.iter().zip(rules).enumerate() {
        let takes = |alternative: &Rule| {
            // What covers it matches any one request that it is for.
            let (host, path) = alternative.example();
            let earlier = index.candidates(&host, path.as_bytes()).take_while(|earlier| *earlier < place);
            let mut earlier = earlier.filter_map(|earlier| Some((places.get(earlier)?, rules.get(earlier)?)));
            earlier.find(|(_, earlier)| !earlier.shadow && earlier.covers(alternative))
        };
        if let Some((earlier_at, earlier)) = takes(rule) {
            at.warn(format!(
                "rule `{}` can never match: every request it is for is decided by `{}` (line {}) before it",
                rule.name, earlier.name, earlier_at.place.line
            ));
            continue;
        }
        // One for some methods of all that is below a path, before one for all methods of a part of that: whoever wrote the
        // second had the whole of it in mind. Two for the same path, by method, are meant.
        let broader = |earlier: &Rule| {
            let any_method = Rule { methods: Vec::new(), ..earlier.clone() };
            !earlier.shadow && !earlier.methods.is_empty() && any_method.covers(rule) && !rule.covers(&any_method)
        };
        let (host, path) = rule.example();
        let earlier = index.candidates(&host, path.as_bytes()).take_while(|earlier| *earlier < place);
        let mut earlier = earlier.filter_map(|earlier| Some((places.get(earlier)?, rules.get(earlier)?)));
        let same_paths = |earlier: &Rule| earlier.paths == rule.paths && earlier.hosts == rule.hosts;
        if let Some((earlier_at, earlier)) =
            earlier.find(|(_, earlier)| rule.methods.is_empty() && broader(earlier) && !same_paths(earlier))
        {
            at.warn(format!(
                "rule `{}` never decides {}: `{}` (line {}) does, before it, and for more paths",
                rule.name,
                earlier.methods.join(" and "),
                earlier.name,
                earlier_at.place.line
            ));
        }
        let alternatives = alternatives(rule);
        let taken: Vec<_> = alternatives.iter().filter_map(|one| Some((one, takes(one)?))).collect();
        let Some((first, (earlier_at, earlier))) = taken.first() else { continue };
        let shown = show(first);
        let by = format!("`{}` (line {})", earlier.name, earlier_at.place.line);
        let (all, others) = (taken.len() == alternatives.len(), taken.len() - 1);
        at.warn(match (all, others) {
            (true, _) => format!(
                "rule `{}` can never match: every request it is for is decided before it, {shown} by {by} and so on",
                rule.name
            ),
            (false, 0) => format!("rule `{}` never decides {shown}: {by} does, before it", rule.name),
            (false, others) => format!(
                "rule `{}` never decides {shown}: {by} does, before it; nor {others} more of its combinations of host, \
                 path and method",
                rule.name
            ),
        });
    }
}

/// The rule for each combination of one host, one path and one method; at most [`ALTERNATIVES_MAX`]. None where it has one
/// only.
fn alternatives(rule: &Rule) -> Vec<Rule> {
    let count = rule.hosts.len().max(1) * rule.paths.len().max(1) * rule.methods.len().max(1);
    if count == 1 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for host in each(&rule.hosts) {
        for path in each(&rule.paths) {
            for method in each(&rule.methods) {
                if all.len() == ALTERNATIVES_MAX {
                    return all;
                }
                all.push(Rule {
                    hosts: host.iter().copied().cloned().collect(),
                    paths: path.iter().copied().cloned().collect(),
                    methods: method.iter().copied().cloned().collect(),
                    ..rule.clone()
                });
            }
        }
    }
    all
}

/// Each of a list by itself; of an empty one, which is for any, nothing once.
fn each<T>(list: &[T]) -> Vec<Option<&T>> {
    if list.is_empty() { vec![None] } else { list.iter().map(Some).collect() }
}

fn show(alternative: &Rule) -> String {
    let method = alternative.methods.first().map(|method| format!("{method} ")).unwrap_or_default();
    let host = alternative.hosts.first().map(HostPattern::to_string).unwrap_or_default();
    let path = alternative.paths.first().map_or_else(|| "/**".to_owned(), PathPattern::to_string);
    format!("`{method}{host}{path}`")
}

/// A rule with more is not looked at as closely: the check of a config takes seconds at most.
const ALTERNATIVES_MAX: usize = 256;
