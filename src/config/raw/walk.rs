//! Walks a tree along the table of keys, replaces variables and collects problems. Must not know what the keys are for.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use super::super::Environment;
use super::super::error::{Place, Problem, did_you_mean};
use super::super::keys::{Key, Otherwise, Shape};
use super::tree::{Node, Tree};
use super::{Entry, Used, Value};

pub struct Walk<'a> {
    pub environment: Environment<'a>,
    pub used: Used,
}

impl Walk<'_> {
    /// Reads one value. What does not fit is reported, and reads as absent.
    pub fn read(&mut self, tree: &Tree, shape: &Shape, path: &str) -> Entry {
        let value = match (shape, &tree.node) {
            (Shape::Reserved(instead), _) => {
                self.problem(tree.place, path, "not available", Some((*instead).to_owned()))
            }
            (Shape::Map(keys), Node::Map(entries)) => Value::Map(self.read_map(tree.place, entries, keys, path)),
            (Shape::Map(keys), Node::Null) => Value::Map(self.read_map(tree.place, &[], keys, path)),
            (Shape::Named(shape), Node::Map(entries)) => self.read_named(entries, shape, path),
            (Shape::Secrets, Node::Map(entries)) => self.read_named(entries, &Shape::Secret, path),
            (Shape::List(shape), Node::List(items)) => self.read_list(items, shape, path),
            (Shape::Texts, Node::List(items)) => self.read_list(items, &Shape::Text, path),
            (Shape::Texts, Node::Text(_)) => Value::List(vec![self.read(tree, &Shape::Text, path)]),
            (Shape::TextOr(_, keys), Node::Map(entries)) => Value::Map(self.read_map(tree.place, entries, keys, path)),
            (Shape::TextOr(main, keys), Node::Text(text)) => {
                let text = Tree { place: tree.place, node: Node::Text(text.clone()) };
                Value::Map(self.read_map(tree.place, &[((*main).to_owned(), tree.place, text)], keys, path))
            }
            (
                Shape::TextOr(..) | Shape::Map(_) | Shape::Named(_) | Shape::Secrets | Shape::List(_) | Shape::Texts,
                _,
            ) => self.problem(tree.place, path, &expected(shape, &tree.node), None),
            (_, Node::Text(text)) => match self.replace(text) {
                Ok(text) => self.read_scalar(tree, &text, shape, path),
                Err((problem, hint)) => self.problem(tree.place, path, &problem, Some(hint)),
            },
            (_, Node::Number(text)) => self.read_scalar(tree, text, shape, path),
            (_, Node::Bool(value)) => self.read_scalar(tree, &value.to_string(), shape, path),
            (_, Node::Null | Node::List(_) | Node::Map(_)) => {
                self.problem(tree.place, path, &expected(shape, &tree.node), None)
            }
        };
        Entry { place: tree.place, path: path.to_owned(), is_given: true, value }
    }

    fn read_map(
        &mut self,
        place: Place,
        entries: &[(String, Place, Tree)],
        keys: &'static [Key],
        path: &str,
    ) -> BTreeMap<String, Entry> {
        for (name, at, _) in entries {
            if !keys.iter().any(|key| key.name == name) {
                let known = || keys.iter().filter(|key| !matches!(key.shape, Shape::Reserved(_))).map(|key| key.name);
                let list = || format!("expected one of {}", known().collect::<Vec<_>>().join(", "));
                let hint = did_you_mean(name, known()).unwrap_or_else(list);
                self.problem(*at, &join(path, name), "unknown key", Some(hint));
            }
        }
        let mut map = BTreeMap::new();
        for key in keys {
            let path = join(path, key.name);
            let given = entries.iter().find(|(name, ..)| name == key.name);
            let mut entry = match given {
                Some((_, _, tree)) => self.read(tree, &key.shape, &path),
                None => Entry { place, path: path.clone(), ..Entry::default() },
            };
            match (&key.otherwise, &key.shape, given) {
                (Otherwise::Required, _, None) => {
                    let problem = format!("missing; {}", first_sentence(key.doc));
                    self.problem(place, &path, &problem, Some(format!("add `{}:`", key.name)));
                }
                // Defaults come by the same way as given values.
                (Otherwise::Is(default), _, _) if entry.is_absent() => {
                    let tree = Tree { place: entry.place, node: Node::Text((*default).to_owned()) };
                    entry = Entry { is_given: false, ..self.read(&tree, &key.shape, &path) };
                }
                (Otherwise::Absent(_), Shape::Map(keys), None) if keys.iter().all(is_optional) => {
                    entry.value = Value::Map(self.read_map(place, &[], keys, &path));
                }
                _ => {}
            }
            map.insert(key.name.to_owned(), entry);
        }
        map
    }

    fn read_named(&mut self, entries: &[(String, Place, Tree)], shape: &Shape, path: &str) -> Value {
        let read = |(name, _, tree): &(String, Place, Tree)| (name.clone(), self.read(tree, shape, &join(path, name)));
        Value::Map(entries.iter().map(read).collect())
    }

    fn read_list(&mut self, items: &[Tree], shape: &Shape, path: &str) -> Value {
        let read = |(at, tree): (usize, &Tree)| self.read(tree, shape, &format!("{path}[{at}]"));
        Value::List(items.iter().enumerate().map(read).collect())
    }

    fn read_scalar(&mut self, tree: &Tree, text: &str, shape: &Shape, path: &str) -> Value {
        let wrong = |what: String, found: &str| Err((what, format!("found {found:?}")));
        let result = match shape {
            Shape::Text | Shape::Secret | Shape::File => Ok(Value::Text(text.to_owned())),
            Shape::Duration(least, most) => match humantime::parse_duration(text) {
                Ok(duration) if (u128::from(*least)..=u128::from(*most)).contains(&duration.as_millis()) => {
                    Ok(Value::Duration(duration))
                }
                Ok(_) => wrong(format!("expected {} to {}", show_millis(*least), show_millis(*most)), text),
                Err(_) => wrong("expected a duration such as `250ms`, `5s` or `1m 30s`".into(), text),
            },
            Shape::Size(least, most) => match bytesize::ByteSize::from_str(text) {
                Ok(size) if (*least..=*most).contains(&size.0) => Ok(Value::Number(size.0)),
                Ok(_) => wrong(format!("expected {} to {}", show_bytes(*least), show_bytes(*most)), text),
                Err(_) => wrong("expected a size such as `64KiB`, `1MB` or a number of bytes".into(), text),
            },
            Shape::Integer(least, most) => match text.parse::<u64>() {
                Ok(number) if (*least..=*most).contains(&number) => Ok(Value::Number(number)),
                _ => wrong(format!("expected a whole number of {least} to {most}"), text),
            },
            Shape::Ratio => match text.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Value::Ratio(ratio)),
                _ => wrong("expected a number of 0 to 1".into(), text),
            },
            Shape::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Shape::Choice(words) => {
                let hint = did_you_mean(text, words.iter().copied());
                Err((format!("expected {}, found {text:?}", words.join(" or ")), hint.unwrap_or_default()))
            }
            _ => Err((expected(shape, &tree.node), String::new())),
        };
        match result {
            Ok(value) => value,
            Err((problem, hint)) => {
                self.problem(tree.place, path, &problem, Some(hint).filter(|hint| !hint.is_empty()))
            }
        }
    }

    /// Replaces `${NAME}` and `${NAME:-default}`; `$${` stands for `${`.
    fn replace(&mut self, text: &str) -> Result<String, (String, String)> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                return Err((
                    "`${` without `}`".into(),
                    "close it, or write `$${` for the characters themselves".into(),
                ));
            };
            let inside = &rest[at + 2..at + end];
            let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, d)| (name, Some(d)));
            let value = (self.environment)(name).filter(|value| !value.is_empty() || default.is_none());
            let Some(value) = value.or_else(|| default.map(str::to_owned)) else {
                let hint = format!("set it, or give a default: `${{{name}:-…}}`");
                return Err((format!("the environment variable {name:?} is not set"), hint));
            };
            self.used.variables.insert(name.to_owned(), value.clone());
            out.push_str(&value);
            rest = &rest[at + end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn problem(&mut self, place: Place, path: &str, problem: &str, hint: Option<String>) -> Value {
        self.used.faulty.insert(path.to_owned());
        self.used.problems.push(Problem { place, path: path.to_owned(), problem: problem.to_owned(), hint });
        Value::Absent
    }
}

/// `5s` and the like, for problems and docs.
pub fn show_millis(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

fn show_bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

fn is_optional(key: &Key) -> bool {
    !matches!(key.otherwise, Otherwise::Required)
}

fn expected(shape: &Shape, found: &Node) -> String {
    let expected = match shape {
        Shape::Map(_) | Shape::Named(_) => "a map",
        Shape::TextOr(..) => "a text or a map",
        Shape::Secrets => "a map of names to texts",
        Shape::List(_) => "a list",
        Shape::Texts => "a text or a list of texts",
        Shape::Text | Shape::Secret | Shape::File | Shape::Choice(_) => "a text",
        Shape::Duration(..) => "a duration",
        Shape::Size(..) => "a size",
        Shape::Integer(..) | Shape::Ratio => "a number",
        Shape::Reserved(_) => "nothing",
    };
    let found = match found {
        Node::Null => "nothing",
        Node::Bool(_) => "true or false",
        Node::Number(_) => "a number",
        Node::Text(_) => "a text",
        Node::List(_) => "a list",
        Node::Map(_) => "a map",
    };
    format!("expected {expected}, found {found}")
}

fn first_sentence(doc: &str) -> &str {
    doc.split(". ").next().unwrap_or_default().trim_end_matches('.')
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
