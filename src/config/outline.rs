//! A configuration as it may be shown and compared: no secrets, defaults filled in, files by what is in them. Made along the table of
//! keys; must not know what the keys are for.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::files::Files;
use super::keys::{ROOT, Shape};
use super::raw::Entry;

/// What stands for a secret.
const HIDDEN: &str = "[secret]";

/// One value with all that is under it.
#[derive(Debug, Clone)]
pub struct Outline {
    pub node: Node,
    /// In the file; else it is the default.
    pub is_given: bool,
    /// A change takes effect by a reload.
    pub is_hot: bool,
}

/// What looks the same need not be the same: hashes of what is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    Nothing,
    Secret(Vec<u8>),
    /// What was in it.
    File(Vec<u8>),
}

#[derive(Debug, Clone)]
pub enum Node {
    Absent,
    Leaf {
        shown: Value,
        behind: Behind,
    },
    /// The keys of a map, or names that the user chose.
    Map(BTreeMap<String, Outline>),
    /// Maps, each under the text of its first key, in order.
    List(Vec<(String, Outline)>),
}

/// The outline of a whole configuration, whose files were read.
pub fn of(root: &Entry, files: &Files) -> Outline {
    outline(root, &ROOT, true, files)
}

impl Outline {
    /// What the file says of it, without defaults.
    pub fn shown(&self) -> Value {
        let given = |(name, part): (&String, &Self)| part.is_given.then(|| (name.clone(), part.shown()));
        match &self.node {
            Node::Absent => Value::Null,
            Node::Leaf { shown, .. } => shown.clone(),
            Node::Map(parts) => Value::Object(parts.iter().filter_map(given).collect::<Map<_, _>>()),
            Node::List(parts) => parts.iter().map(|(_, part)| part.shown()).collect(),
        }
    }
}

fn outline(entry: &Entry, shape: &Shape, is_hot: bool, files: &Files) -> Outline {
    let named = |shape: &Shape| {
        let part = |(name, part): (&str, &Entry)| (name.to_owned(), outline(part, shape, is_hot, files));
        Node::Map(entry.named().map(part).collect())
    };
    let text = entry.text().unwrap_or_default();
    let node = match shape {
        _ if entry.is_absent() => Node::Absent,
        Shape::Map(keys) | Shape::TextOr(_, keys) => {
            let parts = keys.iter().map(|key| (key, entry.get(key.name)));
            Node::Map(
                parts.map(|(key, part)| (key.name.to_owned(), outline(part, &key.shape, key.hot, files))).collect(),
            )
        }
        Shape::Named(shape) => named(shape),
        Shape::Secrets => named(&Shape::Secret),
        Shape::List(Shape::Map(keys)) => {
            let identity = keys.first().map(|key| key.name).unwrap_or_default();
            let parts =
                entry.list().iter().map(|part| (part.get(identity), outline(part, &Shape::Map(keys), is_hot, files)));
            Node::List(identified(parts.map(|(name, part)| (name.text().unwrap_or_default().to_owned(), part))))
        }
        Shape::Secret => Node::Leaf { shown: HIDDEN.into(), behind: Behind::Secret(hash(text)) },
        Shape::File => file(text, files),
        // As most people write it.
        Shape::Texts if entry.list().len() == 1 => plain(entry.list()[0].plain()),
        _ => plain(entry.plain()),
    };
    Outline { node, is_given: entry.is_given, is_hot }
}

/// Repeated names get a number.
fn identified(parts: impl Iterator<Item = (String, Outline)>) -> Vec<(String, Outline)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let identify = |(name, part): (String, Outline)| {
        let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        (if *count > 1 { format!("{name}#{count}") } else { name }, part)
    };
    parts.map(identify).collect()
}

/// A schema is shown with its version, any other file by its name alone: it may be a secret.
fn file(name: &str, files: &Files) -> Node {
    if let Some(schema) = files.compiled(name) {
        return Node::Leaf { shown: format!("{name} ({})", schema.origin().hash).into(), behind: Behind::Nothing };
    }
    let text = files.all().get(&files.path(name));
    Node::Leaf { shown: name.into(), behind: text.map_or(Behind::Nothing, |text| Behind::File(hash(text))) }
}

/// URLs may hold a user and a password.
fn plain(value: Value) -> Node {
    let shown = without_passwords(&value);
    let behind = if shown == value { Behind::Nothing } else { Behind::Secret(hash(&value.to_string())) };
    Node::Leaf { shown, behind }
}

fn without_passwords(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_userinfo(text)),
        Value::Array(list) => list.iter().map(without_passwords).collect(),
        other => other.clone(),
    }
}

fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((userinfo, _)) => format!("{scheme}://{HIDDEN}{}", &rest[userinfo.len()..]),
        None => text.to_owned(),
    }
}

fn hash(text: &str) -> Vec<u8> {
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}
