//! What of one configuration differs in another: the one comparison, for reloads, for `GET /v1/config` and for `holdfast config diff`.
//! Knows outlines; must not know what a key is for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::outline::{Behind, Node, Outline};

/// Settings may change, but to begin or end with them is a restart.
const BEGUN_BY_RESTART: [&str; 2] = ["tls", "admin.tls"];
/// Whose order means nothing: each has a path of its own.
const UNORDERED: &str = "endpoints";
/// Changes that a summary names.
const SUMMARY_MAX: usize = 5;

/// One difference.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Change {
    /// For instance `endpoints[/ws].routes[chat.*].schema`.
    pub path: String,
    pub change: Kind,
    /// What the file said; no secret, no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
    /// It takes effect only by a restart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Added,
    Removed,
    Changed,
    /// The same parts in another order: `from` and `to` are the names of those that are in both.
    Reordered,
}

/// Everything that differs, in the order of the outline.
pub fn diff(old: &Outline, new: &Outline) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", old, new, &mut changes);
    changes
}

/// The first changes in one line.
pub fn summary(changes: &[Change]) -> String {
    let mut parts: Vec<_> = changes.iter().take(SUMMARY_MAX).map(ToString::to_string).collect();
    if changes.len() > SUMMARY_MAX {
        parts.push(format!("and {} more", changes.len() - SUMMARY_MAX));
    }
    parts.join("; ")
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |value: &Option<Value>| value.as_ref().map(text).unwrap_or_default();
        match self.change {
            Kind::Added => write!(f, "+ {}: {}", self.path, plain(&self.to)),
            Kind::Removed => write!(f, "- {}: {}", self.path, plain(&self.from)),
            Kind::Changed => write!(f, "~ {}: {} -> {}", self.path, plain(&self.from), plain(&self.to)),
            Kind::Reordered => write!(f, "~ {}: order {} -> {}", self.path, plain(&self.from), plain(&self.to)),
        }?;
        if self.restart { f.write_str(" (only by a restart)") } else { Ok(()) }
    }
}

fn compare(path: &str, old: &Outline, new: &Outline, changes: &mut Vec<Change>) {
    match (&old.node, &new.node) {
        (Node::Absent, Node::Absent) => {}
        (Node::Absent, _) => changes.push(added(path, new)),
        (_, Node::Absent) => changes.push(removed(path, old)),
        (Node::Map(old), Node::Map(new)) => {
            for (name, part) in old {
                match new.get(name) {
                    Some(newer) => compare(&join(path, name), part, newer, changes),
                    None => changes.push(removed(&join(path, name), part)),
                }
            }
            let only_new = new.iter().filter(|(name, _)| !old.contains_key(*name));
            changes.extend(only_new.map(|(name, part)| added(&join(path, name), part)));
        }
        (Node::List(old_parts), Node::List(new_parts)) => {
            compare_lists(path, old_parts, new_parts, new.is_hot, changes);
        }
        (Node::Leaf { shown: was, behind: old_behind }, Node::Leaf { shown: is, behind }) => {
            if was != is {
                changes.push(change(path, Kind::Changed, Some(was.clone()), Some(is.clone()), !new.is_hot));
            } else if old_behind != behind {
                // What is in a file counts without a restart, wherever its name does not.
                let restart = !new.is_hot && !matches!(behind, Behind::File(_));
                let another = format!("{} (another)", text(is)).into();
                changes.push(change(path, Kind::Changed, Some(was.clone()), Some(another), restart));
            }
        }
        // Both were read along the same table of keys, so that this is never so.
        _ => changes.push(change(path, Kind::Changed, Some(old.shown()), Some(new.shown()), !new.is_hot)),
    }
}

fn compare_lists(
    path: &str,
    old: &[(String, Outline)],
    new: &[(String, Outline)],
    is_hot: bool,
    changes: &mut Vec<Change>,
) {
    let at = |name: &str| format!("{path}[{name}]");
    let olds: BTreeMap<_, _> = old.iter().map(|(name, part)| (name, part)).collect();
    let news: BTreeSet<_> = new.iter().map(|(name, _)| name).collect();
    changes.extend(old.iter().filter(|(name, _)| !news.contains(name)).map(|(name, part)| removed(&at(name), part)));
    for (name, part) in new {
        match olds.get(name) {
            Some(older) => compare(&at(name), older, part, changes),
            None => changes.push(added(&at(name), part)),
        }
    }
    let was: Vec<_> = old.iter().map(|(name, _)| name).filter(|name| news.contains(name)).collect();
    let is: Vec<_> = new.iter().map(|(name, _)| name).filter(|name| olds.contains_key(name)).collect();
    if was != is && path != UNORDERED {
        let names = |list: Vec<&String>| Some(list.into_iter().map(String::as_str).collect::<Value>());
        changes.push(change(path, Kind::Reordered, names(was), names(is), !is_hot));
    }
}

fn added(path: &str, new: &Outline) -> Change {
    change(path, Kind::Added, None, Some(new.shown()), !new.is_hot || BEGUN_BY_RESTART.contains(&path))
}

fn removed(path: &str, old: &Outline) -> Change {
    change(path, Kind::Removed, Some(old.shown()), None, !old.is_hot || BEGUN_BY_RESTART.contains(&path))
}

fn change(path: &str, change: Kind, from: Option<Value>, to: Option<Value>, restart: bool) -> Change {
    Change { path: path.to_owned(), change, from, to, restart }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests;
