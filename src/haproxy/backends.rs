//! The backends that a policy chooses from, and which one is everybody's.

use std::collections::BTreeSet;

use crate::policy::rule::Backend;

/// Names of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backends {
    /// Where a request goes that no rule sends elsewhere.
    pub(super) default: String,
    /// What rules name, in the order in which they do, but the default first where it is among them.
    pub(super) chosen: Vec<String>,
}

impl Backends {
    /// Those of a policy, from the hint of each rule. The default is
    ///
    /// - what the first `else:` beside groups names: that is the policy's own word for everybody;
    /// - otherwise, where a rule leaves some requests without a hint, `app`: none that a rule names for some is meant for
    ///   these. A rule may name `app` for everybody itself; where one does for a group, it is `app-2` and so on;
    /// - otherwise the first that a rule names.
    pub fn of<'a>(hints: impl IntoIterator<Item = Option<&'a Backend>>) -> Backends {
        let hints: Vec<_> = hints.into_iter().collect();
        let mut chosen: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for hint in hints.iter().flatten() {
            let names = hint.by_group.iter().map(|(_, name)| name).chain(&hint.otherwise);
            chosen.extend(names.filter(|name| seen.insert(&***name)).map(|name| name.to_string()));
        }
        let everybodys = || hints.iter().map(|hint| hint.and_then(|hint| hint.otherwise.as_deref()));
        let mut of_groups = hints.iter().flatten().filter(|hint| !hint.by_group.is_empty());
        let first_else = of_groups.find_map(|hint| hint.otherwise.as_deref());
        let leaves_some = everybodys().any(|name| name.is_none());
        let default = match (first_else, chosen.first()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(first)) if !leaves_some => first.clone(),
            _ if everybodys().any(|name| name == Some(APP)) => APP.to_owned(),
            _ => free(APP, |name| seen.contains(name)),
        };
        chosen.sort_by_key(|name| *name != default);
        Backends { default, chosen }
    }

    /// All of them, the default first.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.default).chain(self.others())
    }

    /// All but the default.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.chosen.iter().map(String::as_str).filter(|name| **name != self.default)
    }

    /// The name of a section of our own: this one, unless it is a backend's. Lines up to 3.2 take two sections of one name
    /// with a warning, later ones not at all.
    pub(super) fn own(&self, name: &str) -> String {
        free(name, |name| self.all().any(|taken| taken == name))
    }

    /// The beginning of the environment variables with the addresses of each of [`Backends::others`]: `TOLLGATE_FAST` for
    /// `fast`. What would be another's gets a number.
    pub(super) fn variables(&self) -> Vec<(&str, String)> {
        let mut taken: BTreeSet<String> = RESERVED.map(str::to_owned).into();
        let others = self.others().map(|name| {
            let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            let plain = format!("TOLLGATE_{}", name.chars().map(upper).collect::<String>());
            let mut variable = plain.clone();
            let mut number = 1;
            while !taken.insert(variable.clone()) {
                number += 1;
                variable = format!("{plain}_NR{number}");
            }
            (name, variable)
        });
        others.collect()
    }
}

/// Numbered variables that are not a backend's of this list.
const RESERVED: [&str; 2] = ["TOLLGATE_APP", "TOLLGATE_AGENT"];

/// What the backend is called of a policy that names none.
const APP: &str = "app";

/// `name`, or where that is taken `name-2`, `name-3`, and so on.
fn free(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Groups;

    /// `group>name` for a group's, a bare name for everybody's; `-` is a rule without a hint.
    fn of(rules: &[&str]) -> Backends {
        let groups = Groups::new([("g", vec![("i", "g")])]).unwrap();
        let group = groups.id("g").unwrap();
        let hints: Vec<_> = rules
            .iter()
            .map(|rule| {
                (*rule != "-").then(|| {
                    let names = || rule.split(' ');
                    let by_group = names().filter_map(|name| name.strip_prefix("g>")).map(|name| (group, name.into()));
                    let otherwise = names().find(|name| !name.starts_with("g>")).map(Into::into);
                    Backend { by_group: by_group.collect(), otherwise }
                })
            })
            .collect();
        Backends::of(hints.iter().map(Option::as_ref))
    }

    #[test]
    fn the_default_is_no_backend_that_is_meant_for_some() {
        for (rules, default, chosen) in [
            (&["-"][..], "app", &[][..]),
            (&["-", "g>fast std"], "std", &["std", "fast"]),
            (&["reports", "g>fast std", "g>slow other"], "std", &["std", "reports", "fast", "slow", "other"]),
            (&["reports", "-"], "app", &["reports"]),
            (&["g>fast"], "app", &["fast"]),
            (&["g>app"], "app-2", &["app"]),
            (&["g>app", "g>app-2"], "app-3", &["app", "app-2"]),
            (&["g>fast", "app"], "app", &["app", "fast"]),
            (&["web", "api", "web"], "web", &["web", "api"]),
        ] {
            let backends = of(rules);
            assert_eq!(
                (&*backends.default, &backends.chosen[..]),
                (default, &chosen.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{rules:?}"
            );
        }
    }

    #[test]
    fn no_two_backends_have_one_variable_and_no_two_sections_one_name() {
        let backends = of(&["std", "a.b", "a-b", "A_B", "app", "agent", "public", "stats"]);
        let variables = backends.variables();
        let expected = [
            "TOLLGATE_A_B",
            "TOLLGATE_A_B_NR2",
            "TOLLGATE_A_B_NR3",
            "TOLLGATE_APP_NR2",
            "TOLLGATE_AGENT_NR2",
            "TOLLGATE_PUBLIC",
            "TOLLGATE_STATS",
        ];
        assert_eq!(variables.into_iter().map(|(_, variable)| variable).collect::<Vec<_>>(), expected);
        assert_eq!([backends.own("public"), backends.own("base")], ["public-2", "base"]);
    }
}
