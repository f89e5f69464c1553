//! YAML to a tree with places, held against the table of keys. What does not fit becomes a problem, and its default goes on, so that
//! one run finds every problem. Must not know what the keys are for.

mod tree;
mod walk;

pub use walk::show_millis;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::{Place, Problem, Problems};
use super::{Environment, keys};

/// A value that fits its shape, with its place and path.
#[derive(Debug, Default)]
pub struct Entry {
    pub place: Place,
    pub path: String,
    /// In the file; else it is the default.
    pub is_given: bool,
    value: Value,
}

#[derive(Debug, Default)]
enum Value {
    /// Left out, or a problem that was reported.
    #[default]
    Absent,
    Text(String),
    Duration(Duration),
    Number(u64),
    Ratio(f64),
    List(Vec<Entry>),
    Map(BTreeMap<String, Entry>),
}

static NOTHING: Entry =
    Entry { place: Place { line: 0, column: 0 }, path: String::new(), is_given: false, value: Value::Absent };

impl Entry {
    /// The entry under this key; an absent one where there is none.
    pub fn get(&self, name: &str) -> &Entry {
        match &self.value {
            Value::Map(map) => map.get(name).unwrap_or(&NOTHING),
            _ => &NOTHING,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn duration(&self) -> Option<Duration> {
        match self.value {
            Value::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<u64> {
        match self.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// A number as a size of memory or a count; 0 where there is none.
    pub fn size(&self) -> usize {
        self.number().and_then(|n| usize::try_from(n).ok()).unwrap_or_default()
    }

    /// True if the value says so; false where there is none.
    pub fn is_true(&self) -> bool {
        self.text() == Some("true")
    }

    pub fn ratio(&self) -> f64 {
        match self.value {
            Value::Ratio(ratio) => ratio,
            _ => 0.0,
        }
    }

    pub fn list(&self) -> &[Entry] {
        match &self.value {
            Value::List(list) => list,
            _ => &[],
        }
    }

    pub fn named(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let map = match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        };
        map.into_iter().flatten().map(|(name, entry)| (name.as_str(), entry))
    }

    /// A value that is no map, in one way of writing: sizes in bytes, durations with their units.
    pub fn plain(&self) -> serde_json::Value {
        match &self.value {
            Value::Absent | Value::Map(_) => serde_json::Value::Null,
            Value::Text(text) => text.as_str().into(),
            Value::Duration(duration) => humantime::format_duration(*duration).to_string().into(),
            Value::Number(number) => (*number).into(),
            Value::Ratio(ratio) => (*ratio).into(),
            Value::List(list) => list.iter().map(Self::plain).collect(),
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self.value, Value::Absent)
    }
}

/// What the reader used beside the text.
#[derive(Debug, Default)]
pub struct Used {
    /// Values of environment variables, by name.
    pub variables: BTreeMap<String, String>,
    /// Problems found so far; the build adds its own.
    pub problems: Vec<Problem>,
    /// Paths that have a problem: nothing more is said of them.
    pub faulty: BTreeSet<String>,
}

/// Reads the text against the table of keys. Only text that is not YAML at all ends it early.
pub fn read(name: &str, text: &str, environment: Environment<'_>) -> Result<(Entry, Used), Problems> {
    let tree = tree::parse(text).map_err(|problem| Problems::new(name, vec![problem]))?;
    let mut walk = walk::Walk { environment, used: Used::default() };
    let entry = walk.read(&tree, &keys::ROOT, "");
    Ok((entry, walk.used))
}
