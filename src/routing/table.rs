//! The table of an endpoint: which entry takes an event name, the first match in file order.
//! Knows patterns; must not know what an entry is.

use super::Pattern;

/// Entries by pattern, in file order.
pub struct Table<T> {
    entries: Vec<T>,
    /// The first entry of each literal name, sorted by name: a search costs less than the hash of a name that a client chose.
    literals: Vec<(Box<str>, usize)>,
    /// The patterns with a star, in order.
    patterns: Vec<(Pattern, usize)>,
}

impl<T> Table<T> {
    pub fn new(entries: impl IntoIterator<Item = (Pattern, T)>) -> Self {
        let mut table = Self { entries: Vec::new(), literals: Vec::new(), patterns: Vec::new() };
        for (pattern, entry) in entries {
            let at = table.entries.len();
            table.entries.push(entry);
            if pattern.is_literal() {
                table.literals.push((pattern.as_str().into(), at));
            } else {
                table.patterns.push((pattern, at));
            }
        }
        // The sort is stable: of equal names the first stays.
        table.literals.sort_by(|(a, _), (b, _)| a.cmp(b));
        table.literals.dedup_by(|(later, _), (first, _)| later == first);
        table
    }

    /// The first entry in file order whose pattern takes this name.
    pub fn find(&self, name: &str) -> Option<&T> {
        let literal = self.literals.binary_search_by(|(literal, _)| (**literal).cmp(name));
        let literal = literal.map_or(usize::MAX, |found| self.literals[found].1);
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
