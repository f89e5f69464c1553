//! Patterns over event names: literal text and `*`, which stands for any run of characters, dots too.
//! Knows strings only; must not know what a route does.

use std::fmt;

use crate::message::NAME_BYTES_MAX;

/// A compiled pattern. `chat.*` takes `chat.send` and `chat.room.join`, not `chat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    parts: Box<[Box<str>]>,
}

/// Why a string is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("expected an event name or pattern, found an empty string")]
    Empty,
    #[error("expected at most {NAME_BYTES_MAX} bytes, found {0}")]
    TooLong(usize),
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        match text.len() {
            0 => Err(InvalidPattern::Empty),
            len if len > NAME_BYTES_MAX => Err(InvalidPattern::TooLong(len)),
            _ => Ok(Self { text: text.into(), parts: text.split('*').map(Into::into).collect() }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the pattern has no star, so that it takes only its own text.
    pub fn is_literal(&self) -> bool {
        self.parts.len() == 1
    }

    /// True if it takes binary frames, and nothing else.
    pub fn is_binary(&self) -> bool {
        &*self.text == crate::message::BINARY_EVENT
    }

    /// True if the pattern takes this event name. `$binary` is taken only by the route that names it.
    pub fn matches(&self, name: &str) -> bool {
        if name == crate::message::BINARY_EVENT {
            return &*self.text == name;
        }
        self.matches_text(name)
    }

    /// True if the pattern takes this text, which is no event name: nothing is reserved in it.
    pub fn matches_text(&self, name: &str) -> bool {
        let [first, middle @ .., last] = &*self.parts else { return &*self.text == name };
        let Some(rest) = name.strip_prefix(&**first) else { return false };
        let Some(mut rest) = rest.strip_suffix(&**last) else { return false };
        for part in middle {
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn takes(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).expect("a pattern").matches(name)
    }

    #[test]
    fn literal_and_star() {
        assert!(takes("chat.send", "chat.send"));
        assert!(!takes("chat.send", "chat.sends"));
        assert!(takes("chat.*", "chat.send"));
        assert!(takes("chat.*", "chat.room.join"));
        assert!(!takes("chat.*", "chat"));
        assert!(takes("*", "anything"));
        assert!(takes("*.created", "order.created"));
        assert!(takes("a*b*c", "a-b-b-c"));
        assert!(!takes("ab*ba", "aba"));
    }

    #[test]
    fn binary_is_taken_by_name_only() {
        assert!(takes("$binary", "$binary"));
        assert!(!takes("*", "$binary"));
        assert!(takes("*", "$text"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(Pattern::parse(""), Err(InvalidPattern::Empty));
        assert_eq!(Pattern::parse(&"a".repeat(300)), Err(InvalidPattern::TooLong(300)));
    }

    /// The plainest matcher there is, to hold the fast one against.
    fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if matches_slowly(rest, name) => true,
            (Some((b'*', _)), Some((_, rest))) => matches_slowly(pattern, rest),
            (Some((a, pattern)), Some((b, name))) if a == b => matches_slowly(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_matcher(pattern in "[ab*.]{1,8}", name in "[ab.]{0,10}") {
            prop_assert_eq!(takes(&pattern, &name), matches_slowly(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
