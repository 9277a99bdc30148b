//! Issuer-qualified group names to policy groups.
//!
//! The rest of the config uses policy groups only, so a second issuer can never mint the first one's: the map is keyed
//! by issuer and name together.

use std::collections::HashMap;
use std::sync::Arc;

/// A policy group: an index into [`Groups`], ascending in name order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u16);

/// A set of policy groups, as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSet(Vec<u64>);

impl GroupSet {
    /// Adds a group.
    pub fn insert(&mut self, group: GroupId) {
        let word = usize::from(group.0) / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (group.0 % 64);
    }

    /// Whether the group is in the set.
    pub fn contains(&self, group: GroupId) -> bool {
        self.0.get(usize::from(group.0) / 64).is_some_and(|word| word & (1 << (group.0 % 64)) != 0)
    }

    /// The groups in name order.
    pub fn iter(&self) -> impl Iterator<Item = GroupId> + '_ {
        (0..u16::try_from(self.0.len() * 64).unwrap_or(u16::MAX)).map(GroupId).filter(|group| self.contains(*group))
    }

    /// Bytes it holds on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }
}

/// The config's `groups:` section.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Groups {
    names: Vec<Arc<str>>,
    /// issuer name -> group name as the issuer writes it -> policy groups.
    members: HashMap<String, HashMap<String, Vec<GroupId>>>,
}

impl Groups {
    /// Builds the map from `(policy group, [(issuer name, group as the issuer writes it)])`. At most 65,535 policy
    /// groups; more are an error, given as the count.
    pub fn new<'a>(groups: impl IntoIterator<Item = (&'a str, Vec<(&'a str, &'a str)>)>) -> Result<Groups, usize> {
        let mut listed: Vec<_> = groups.into_iter().collect();
        listed.sort_by_key(|(name, _)| *name);
        let mut built = Groups::default();
        let count = listed.len();
        for (index, (name, members)) in listed.into_iter().enumerate() {
            let id = GroupId(u16::try_from(index).map_err(|_| count)?);
            built.names.push(name.into());
            for (issuer, group) in members {
                let of_issuer = built.members.entry(issuer.to_owned()).or_default();
                of_issuer.entry(group.to_owned()).or_default().push(id);
            }
        }
        Ok(built)
    }

    /// The policy group of that name.
    pub fn id(&self, name: &str) -> Option<GroupId> {
        let index = self.names.binary_search_by(|known| (**known).cmp(name)).ok()?;
        u16::try_from(index).ok().map(GroupId)
    }

    /// The name of a policy group.
    pub fn name(&self, group: GroupId) -> &str {
        self.names.get(usize::from(group.0)).map_or("", |name| name)
    }

    /// The policy groups that `group`, as `issuer` writes it, belongs to.
    pub fn of(&self, issuer: &str, group: &str) -> &[GroupId] {
        self.members.get(issuer).and_then(|groups| groups.get(group)).map_or(&[], |ids| ids)
    }

    /// Names of the set, in order, `,` and `%` percent-encoded so that no name can read as two.
    pub fn join(&self, set: &GroupSet) -> String {
        let mut joined = String::new();
        for group in set.iter() {
            if !joined.is_empty() {
                joined.push(',');
            }
            for c in self.name(group).chars() {
                match c {
                    ',' => joined.push_str("%2C"),
                    '%' => joined.push_str("%25"),
                    c => joined.push(c),
                }
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_belongs_to_its_issuer_only_and_names_join_in_order() {
        let groups = Groups::new([
            ("ops", vec![("acme", "platform-ops")]),
            ("a,b%c", vec![("acme", "platform-ops"), ("other", "x")]),
        ])
        .unwrap();
        let mut set = GroupSet::default();
        for id in groups.of("acme", "platform-ops") {
            set.insert(*id);
        }
        assert_eq!(groups.join(&set), "a%2Cb%25c,ops");
        assert!(groups.of("other", "platform-ops").is_empty());
        assert_eq!(groups.name(groups.id("ops").unwrap()), "ops");
    }

    #[test]
    fn the_hundredth_group_is_a_member_too() {
        let names: Vec<String> = (0..130).map(|n| format!("g{n:03}")).collect();
        let groups = Groups::new(names.iter().map(|name| (name.as_str(), vec![("i", name.as_str())]))).unwrap();
        let mut set = GroupSet::default();
        set.insert(groups.id("g100").unwrap());
        assert!(set.contains(groups.id("g100").unwrap()) && !set.contains(groups.id("g101").unwrap()));
        assert_eq!(groups.join(&set), "g100");
    }
}
