//! The table of an endpoint: which entry takes an event name, the first match in file order.
//! Knows patterns; must not know what an entry is.

use std::collections::HashMap;

use super::Pattern;

/// Entries by pattern, in file order.
pub struct Table<T> {
    entries: Vec<T>,
    /// The first entry of each literal name.
    literals: HashMap<Box<str>, usize>,
    /// The patterns with a star, in order.
    patterns: Vec<(Pattern, usize)>,
}

impl<T> Table<T> {
    pub fn new(entries: impl IntoIterator<Item = (Pattern, T)>) -> Self {
        let mut table = Self { entries: Vec::new(), literals: HashMap::new(), patterns: Vec::new() };
        for (pattern, entry) in entries {
            let at = table.entries.len();
            table.entries.push(entry);
            if pattern.is_literal() {
                table.literals.entry(pattern.as_str().into()).or_insert(at);
            } else {
                table.patterns.push((pattern, at));
            }
        }
        table
    }

    /// The first entry in file order whose pattern takes this name.
    pub fn find(&self, name: &str) -> Option<&T> {
        let literal = self.literals.get(name).copied().unwrap_or(usize::MAX);
        let before = self.patterns.iter().take_while(|(_, at)| *at < literal);
        let at = before.into_iter().find(|(pattern, _)| pattern.matches(name)).map_or(literal, |(_, at)| *at);
        self.entries.get(at)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(patterns: &[String]) -> Table<usize> {
        Table::new(patterns.iter().enumerate().map(|(i, p)| (Pattern::parse(p).expect("a pattern"), i)))
    }

    #[test]
    fn the_first_match_in_file_order_wins() {
        let table = table(&["chat.send".into(), "chat.*".into(), "chat.typing".into(), "*".into()]);
        assert_eq!(table.find("chat.send"), Some(&0));
        assert_eq!(table.find("chat.typing"), Some(&1));
        assert_eq!(table.find("other"), Some(&3));
        assert_eq!(table.find("$binary"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_scan(patterns in prop::collection::vec("[ab*]{1,3}", 0..6), name in "[ab]{1,3}") {
            let plain = patterns.iter().position(|p| Pattern::parse(p).expect("a pattern").matches(&name));
            prop_assert_eq!(table(&patterns).find(&name).copied(), plain);
        }
    }
}
