//! The config as it was written: a tree of YAML nodes, each with its place in the file.
//!
//! Nothing is judged here but YAML itself, so that every other mistake can be reported in one go. YAML 1.2 only: `no`
//! is text, `<<` is a key like any other, `007` and `1_000` are text. Keys given twice are kept twice; [`super::read`]
//! refuses them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Spanned};

/// Where something stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// How many characters it is long, at least 1. It may go on beyond its line.
    pub width: u32,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// From `i64::MIN` to `u64::MAX`.
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

/// The text is not YAML, or is more than a config may be.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
}

impl Node {
    /// Reads the one document of `text`.
    pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
        // Ten thousand rules of a hundred nodes each.
        Node::parse_list(text, 1_000_000)
    }

    /// The same for a long list, of `nodes_max` nodes at most.
    pub(super) fn parse_list(text: &str, nodes_max: usize) -> Result<Node, SyntaxError> {
        match serde_saphyr::from_str_with_options::<Spanned<Kind>>(text, options(nodes_max)) {
            Ok(spanned) => Ok(Node::from(spanned)),
            Err(error) => Err(syntax_error(error.without_snippet())),
        }
    }
}

/// Hands over each item of the list that `text` is, as soon as it is read, so that a long one is never held as a tree.
/// False where it is no list, or no YAML, and where `take` says so: the whole of it then says what is wrong.
pub(super) fn each_item(text: &str, nodes_max: usize, take: impl FnMut(Node) -> bool) -> bool {
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options(nodes_max), |deserializer| {
        deserializer.deserialize_any(Items(take))
    });
    read.unwrap_or(false)
}

fn options(nodes_max: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        // The reader's recursion is as deep as the document; the deepest that means anything is 8.
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_nodes: nodes_max,
            // Each node is an event, and the end of a list or a map another one.
            max_events: nodes_max.saturating_mul(4),
        },
        // A real config replays a few groups or limits. 10,000 nodes of an alias bomb are one megabyte.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000, },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

struct Items<F>(F);

impl<'de, F: FnMut(Node) -> bool> Visitor<'de> for Items<F> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<bool, A::Error> {
        let mut good = true;
        while let Some(item) = items.next_element::<Spanned<Kind>>()? {
            good = good && (self.0)(item.into());
        }
        Ok(good)
    }
}

fn syntax_error(error: &Error) -> SyntaxError {
    let place = error.location().map_or(Place { line: 1, column: 1, width: 1 }, Place::from);
    let message = match error {
        // The library's hint names its own functions.
        Error::MultipleDocuments { .. } => "a second YAML document begins here, and a config is one".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias refers to what it is part of".to_owned(),
        other => {
            let message = other.to_string();
            // The place is given in front, in the manner of all our messages.
            message.split(" at line ").next().unwrap_or_default().to_owned()
        }
    };
    SyntaxError { place, message }
}

impl From<Spanned<Kind>> for Node {
    fn from(spanned: Spanned<Kind>) -> Node {
        // An alias counts where it is used: that is what must be changed for it to mean something else.
        Node { place: spanned.referenced.into(), kind: spanned.value }
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Place {
        let at = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Place {
            line: at(location.line()).max(1),
            column: at(location.column()).max(1),
            width: at(location.span().len()).max(1),
        }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Kind>>()? {
            list.push(item.into());
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value::<Spanned<Kind>>()?.into();
            map.push(Entry { key: key.value, place: key.referenced.into(), value });
        }
        Ok(Kind::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yaml_1_2_has_a_meaning() {
        let node = Node::parse("[no, on, 007, 1_000, 0x10, 'x', true, ~, .nan]").unwrap();
        let Kind::List(items) = node.kind else { panic!("a list") };
        let kinds: Vec<String> = items.iter().map(|item| format!("{:?}", item.kind)).collect();
        assert_eq!(
            kinds,
            [
                r#"Text("no")"#,
                r#"Text("on")"#,
                r#"Text("007")"#,
                r#"Text("1_000")"#,
                "Integer(16)",
                r#"Text("x")"#,
                "Bool(true)",
                "Null",
                r#"Text(".nan")"#,
            ]
        );
    }

    #[test]
    fn an_alias_stands_where_it_is_used() {
        let node = Node::parse("a: &x [1]\nb: *x\n").unwrap();
        let Kind::Map(entries) = node.kind else { panic!("a map") };
        let b = entries.last().unwrap();
        assert_eq!((b.value.place.line, b.value.place.column), (2, 4));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..=8 {
            let alias = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
        }
        let error = Node::parse(&text).unwrap_err();
        assert!(error.message.starts_with("alias replay limit exceeded"), "{}", error.message);
    }
}
