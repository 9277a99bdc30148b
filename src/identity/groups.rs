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
        join(set.iter().map(|group| self.name(group)))
    }

    /// The names that [`Groups::join`] put together.
    pub fn split(joined: &str) -> impl Iterator<Item = String> {
        joined.split(',').filter(|name| !name.is_empty()).map(|name| name.replace("%2C", ",").replace("%25", "%"))
    }
}

/// A list in one header field. Whoever splits at commas and decodes each part has the names again, none of which is empty.
fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for name in names {
        if !joined.is_empty() {
            joined.push(',');
        }
        for c in name.chars() {
            match c {
                ',' => joined.push_str("%2C"),
                '%' => joined.push_str("%25"),
                c => joined.push(c),
            }
        }
    }
    joined
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

    /// A million lists of names that are made of what could split or change them (faults.md O14).
    #[test]
    fn every_list_of_names_comes_back_as_it_was() {
        const PARTS: [&str; 16] =
            [",", "%", "2", "C", "c", "5", "%2C", "%25", "%252C", " ", "\"", "\\", ";", "=", "\u{e9}", "\u{1f600}"];
        // Weyl's sequence through a finaliser: the same lists at each run.
        let mut state = 0u64;
        let mut below = |bound: u64| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ mixed >> 31) % bound).unwrap()
        };
        for _ in 0..1_000_000 {
            let names: Vec<String> =
                (0..below(5)).map(|_| (0..=below(5)).map(|_| PARTS[below(PARTS.len() as u64)]).collect()).collect();
            let joined = join(names.iter().map(String::as_str));
            let back: Vec<_> = joined
                .split(',')
                .filter(|part| !part.is_empty())
                .map(|part| percent_encoding::percent_decode_str(part).decode_utf8().unwrap().into_owned())
                .collect();
            assert_eq!(back, names, "{joined}");
        }
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
