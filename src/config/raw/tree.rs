//! YAML text to a tree that knows the line and column of everything. Must not know any key.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::super::error::{Place, Problem};

/// A value and where it stands.
#[derive(Debug)]
pub struct Tree {
    pub place: Place,
    pub node: Node,
}

/// YAML's values. Numbers keep their text.
#[derive(Debug)]
pub enum Node {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Place, Tree)>),
}

/// Maps and lists in one another; a configuration needs half of it. Reading goes as deep on the stack, and a reload's is small.
const DEPTH_MAX: usize = 20;

/// Parses one document. Repeated keys, alias bombs and deep nesting are refused by the library.
pub fn parse(text: &str) -> Result<Tree, Problem> {
    if text.trim().is_empty() {
        return Ok(Tree { place: Place { line: 1, column: 1 }, node: Node::Map(Vec::new()) });
    }
    let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: DEPTH_MAX } };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|at| Place { line: at.line(), column: at.column() }).unwrap_or_default();
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().to_owned();
        let hint = Some("the file must be one YAML document".to_owned());
        Problem { place, path: String::new(), problem: format!("not YAML: {message}"), hint }
    })
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        let place = Place { line: spanned.referenced.line(), column: spanned.referenced.column() };
        Ok(Self { place, node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let place = Place { line: key.referenced.line(), column: key.referenced.column() };
            entries.push((key.value, place, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_knows_its_place() {
        let tree = parse("a: 1\nb:\n  - x: yes it is\n    y: {z: 5s}\n").expect("YAML");
        let Node::Map(root) = &tree.node else { panic!("{tree:?}") };
        assert_eq!((root[0].0.as_str(), root[0].1), ("a", Place { line: 1, column: 1 }));
        assert_eq!(root[0].2.place, Place { line: 1, column: 4 });
        let Node::List(list) = &root[1].2.node else { panic!("{tree:?}") };
        let Node::Map(item) = &list[0].node else { panic!("{tree:?}") };
        assert_eq!((item[1].0.as_str(), item[1].1), ("y", Place { line: 4, column: 5 }));
        let Node::Map(flow) = &item[1].2.node else { panic!("{tree:?}") };
        assert_eq!(flow[0].2.place, Place { line: 4, column: 12 });
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        let problem = parse("a: [1,\nb: 2\n").expect_err("not YAML");
        assert!(problem.place.line >= 1, "{problem:?}");
        assert!(parse("a: 1\na: 2\n").is_err(), "a repeated key");
    }

    #[test]
    fn depth_is_bounded_also_where_aliases_make_it() {
        let nested = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(DEPTH_MAX - 1)).is_ok());
        assert!(parse(&nested(DEPTH_MAX)).is_err_and(|problem| problem.problem.contains("Depth")));
        let aliases =
            (1..DEPTH_MAX).fold("a0: &a0 [x]\n".to_owned(), |text, i| format!("{text}a{i}: &a{i} [*a{}]\n", i - 1));
        assert!(parse(&aliases).is_err());
    }
}
