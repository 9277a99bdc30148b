//! Which rules could decide a request: a few of ten thousand, found without looking at the rest.
//!
//! Rules stand in tables by host, and in each by the literal segments that their paths begin with. A request visits its
//! host's table, those of the wildcards above it, and that of the rules for any host; in each it walks down its own path.
//! What it meets on the way is every rule that could match, and not many more; they are then asked in their order, as if
//! all had been.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::host::HostPattern;
use super::rule::Rule;

type Table<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The tables.
#[derive(Default)]
pub struct Index {
    any: Node,
    exact: Table<String, Node>,
    below: Table<String, Node>,
}

/// What begins with the segments that lead here.
#[derive(Debug, Default)]
struct Node {
    /// Rules whose literal segments end here, by their places, ascending and each once.
    rules: Vec<u32>,
    children: Table<Box<[u8]>, Node>,
}

impl std::fmt::Debug for Index {
    /// It says nothing that the rules do not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

/// Rules that could match, in their order. One that is for several hosts or paths may come up twice in a row.
pub struct Candidates<'a>(SmallVec<[&'a [u32]; 16]>);

impl Index {
    /// Puts `rules` into tables; places are those of the slice, of which there are no more than `u32` can count: a config
    /// is a mebibyte at most.
    pub fn new(rules: &[Rule]) -> Index {
        let mut index = Index::default();
        for (place, rule) in (0..).zip(rules) {
            let put = |table: &mut Node| {
                if rule.paths.is_empty() {
                    table.put([].into_iter(), place);
                }
                rule.paths.iter().for_each(|path| table.put(path.literal_prefix(), place));
            };
            if rule.hosts.is_empty() {
                put(&mut index.any);
            }
            for host in &rule.hosts {
                put(match host {
                    HostPattern::Exact(name) => index.exact.entry(name.clone()).or_default(),
                    HostPattern::Below(domain) => index.below.entry(domain.clone()).or_default(),
                });
            }
        }
        index
    }

    /// The rules that could be for this host (lower case) and path (as [`super::path::read`] gave it).
    pub fn candidates(&self, host: &str, path: &[u8]) -> Candidates<'_> {
        let mut lists = SmallVec::new();
        self.any.collect(path, &mut lists);
        if let Some(node) = self.exact.get(host) {
            node.collect(path, &mut lists);
        }
        if !self.below.is_empty() {
            // A name has 127 labels at most (RFC 1035, section 2.3.4); whatever has more is no host of anybody, and is
            // not worth a look-up each.
            for (dot, _) in host.match_indices('.').take(127).filter(|(dot, _)| *dot > 0) {
                if let Some(node) = host.get(dot + 1..).and_then(|domain| self.below.get(domain)) {
                    node.collect(path, &mut lists);
                }
            }
        }
        Candidates(lists)
    }
}

impl Node {
    fn put<'a>(&mut self, mut segments: impl Iterator<Item = &'a [u8]>, place: u32) {
        match segments.next() {
            Some(segment) => self.children.entry(segment.into()).or_default().put(segments, place),
            None if self.rules.last() != Some(&place) => self.rules.push(place),
            None => {}
        }
    }

    fn collect<'a>(&'a self, path: &[u8], lists: &mut SmallVec<[&'a [u32]; 16]>) {
        let mut node = self;
        let mut segments = path.strip_prefix(b"/").unwrap_or_default().split(|byte| *byte == b'/');
        loop {
            if !node.rules.is_empty() {
                lists.push(&node.rules);
            }
            let Some(next) = segments.next().and_then(|segment| node.children.get(segment)) else { return };
            node = next;
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    /// The smallest that is left: there are as many lists as a path has segments that rules name, times the tables.
    fn next(&mut self) -> Option<usize> {
        let list = self.0.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first())?;
        let (first, rest) = list.split_first()?;
        *list = rest;
        usize::try_from(*first).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sign_in::Anonymous;
    use super::*;
    use crate::identity::Accepted;
    use crate::policy::Policy;
    use crate::policy::path::PathPattern;
    use crate::policy::rule::{Allow, GroupsUnknown, Unavailable};
    use crate::request::Request;
    use crate::trace::Trace;

    fn rule(name: usize, hosts: &[&str], paths: &[String], methods: &[&str], shadow: bool) -> Rule {
        Rule {
            name: name.to_string().into(),
            hosts: hosts.iter().map(|host| HostPattern::new((*host).to_owned())).collect(),
            paths: paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            allow: Allow::Anyone,
            shadow,
            credentials: Accepted::default(),
            ignore_credentials: false,
            groups_unknown: GroupsUnknown::default(),
            identity_unavailable: Unavailable::default(),
            limits: Vec::new(),
            backend: None,
            sticky: Vec::new(),
            anonymous: Anonymous::default(),
        }
    }

    fn patterns() -> impl Strategy<Value = String> {
        let segment = prop::sample::select(vec!["a", "b", "c", "*"]);
        (prop::collection::vec(segment, 0..4), prop::sample::select(vec!["", "/", "/**"])).prop_map(
            |(segments, end)| {
                let text: String = segments.iter().flat_map(|segment| ["/", segment]).chain([end]).collect();
                if text.is_empty() { "/".to_owned() } else { text }
            },
        )
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let host = prop::sample::select(vec!["a.x", "b.a.x", "*.x", "*.a.x", "x", "*.b.a.x"]);
        let one = (
            prop::collection::vec(host, 0..3),
            prop::collection::vec(patterns(), 0..3),
            prop::sample::select(vec![vec![], vec!["GET"], vec!["POST", "PUT"]]),
            prop::bool::weighted(0.2),
        );
        prop::collection::vec(one, 0..24).prop_map(|rules| {
            let numbered = rules.iter().enumerate();
            numbered.map(|(n, (hosts, paths, methods, shadow))| rule(n, hosts, paths, methods, *shadow)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        /// The rule that decides, and every shadow before it, are those of asking all rules in turn.
        #[test]
        fn what_is_found_by_table_is_what_is_found_in_turn(
            rules in rules(),
            host in prop::sample::select(vec!["", "x", "a.x", "b.a.x", "c.b.a.x", ".x", "y", "a.x.y"]),
            path in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", ""]), 0..5),
            method in prop::sample::select(vec!["GET", "PUT"]),
        ) {
            let path: String = path.iter().flat_map(|segment| ["/", segment]).collect();
            let path = if path.is_empty() || path.contains("//") { "/".to_owned() } else { path };
            let request = Request { method, host: host.into(), path: path.as_bytes(), ..Request::default() };
            let matching = |rule: &&Rule| rule.mismatch(&request, path.as_bytes()).is_none();
            let names = |rules: Vec<&Rule>| rules.iter().map(|rule| rule.name.to_string()).collect::<Vec<_>>();
            let decider = rules.iter().filter(matching).find(|rule| !rule.shadow).map(|rule| rule.name.to_string());
            let shadows = names(rules.iter().filter(matching).take_while(|rule| rule.shadow).collect());
            let policy = Policy::new(rules.clone(), false, Accepted::default());
            for mut trace in [Trace::off(), Trace::on()] {
                let matched = policy.find(&request, &mut trace).unwrap();
                prop_assert_eq!(matched.rule().map(|name| name.to_string()), decider.clone());
                prop_assert_eq!(names(matched.shadows.to_vec()), shadows.clone());
            }
        }
    }

    #[test]
    fn of_ten_thousand_rules_a_few_are_asked() {
        let rules: Vec<_> = (0..10_000)
            .map(|n| rule(n, &[&format!("h{}.x", n / 100)], &[format!("/v1/p{}/**", n % 100)], &[], false))
            .collect();
        let index = Index::new(&rules);
        let asked: Vec<_> = index.candidates("h42.x", b"/v1/p17/a/b").collect();
        assert_eq!(asked, [4217]);
        assert_eq!(index.candidates("h42.x", b"/v2").count(), 0);
        assert_eq!(index.candidates(&"a.".repeat(30_000), b"/v1/p17").count(), 0);
    }
}
