//! How an event's name is found: a JSON Pointer (RFC 6901) followed through the message without building it.
//! Knows JSON text; must not know routes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::de::Read;

use crate::message::json::KEY_REPEATED;

/// Where an endpoint's event names come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventName {
    /// The string at this pointer.
    At(Pointer),
    /// Nothing is parsed: every text frame is `$text`.
    None,
}

/// A JSON Pointer, split into its reference tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    tokens: Box<[Box<str>]>,
}

/// Why a string is not a JSON Pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPointer {
    #[error("expected a JSON Pointer that starts with '/', found {0:?}")]
    NoSlash(String),
    #[error("expected '~0' or '~1' after '~', found {0:?}")]
    BadEscape(String),
}

/// What was found at a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    Text(Cow<'a, str>),
    /// Something else than a string, or nothing.
    Missing,
}

impl Pointer {
    pub fn parse(text: &str) -> Result<Self, InvalidPointer> {
        let Some(rest) = text.strip_prefix('/') else { return Err(InvalidPointer::NoSlash(text.into())) };
        let tokens = rest.split('/').map(|token| unescape(token).ok_or_else(|| InvalidPointer::BadEscape(text.into())));
        Ok(Self { tokens: tokens.collect::<Result<_, _>>()? })
    }

    /// Follows the pointer through JSON text. The whole text is checked to be JSON, but only the name is built.
    /// A repeated key on the way is an error: the receiver of the message might take the other one.
    pub fn find<'a>(&self, json: &'a [u8]) -> Result<Found<'a>, serde_json::Error> {
        // One look at the whole text is cheaper than one at each of its strings.
        match std::str::from_utf8(json) {
            Ok(text) => self.seek(serde_json::Deserializer::from_str(text)),
            Err(_) => self.seek(serde_json::Deserializer::from_slice(json)),
        }
    }

    fn seek<'a, R: Read<'a>>(
        &self,
        mut deserializer: serde_json::Deserializer<R>,
    ) -> Result<Found<'a>, serde_json::Error> {
        let found = Seek { tokens: &self.tokens }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found.map_or(Found::Missing, Found::Text))
    }

    /// Follows the pointer through what was parsed already.
    pub fn find_in<'a>(&self, value: &'a Value) -> Found<'a> {
        match self.value_in(value) {
            Some(Value::String(text)) => Found::Text(Cow::Borrowed(text)),
            _ => Found::Missing,
        }
    }

    /// The value of any kind that is there.
    pub fn value_in<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        let step = |value: &'a Value, token: &str| match value {
            Value::Object(map) => map.get(token),
            Value::Array(list) => list.get(array_index(token)?),
            _ => None,
        };
        self.tokens.iter().try_fold(value, |value, token| step(value, token))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

fn unescape(token: &str) -> Option<Box<str>> {
    let mut parts = token.split('~');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push(match part.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        out.push_str(&part[1..]);
    }
    Some(out.into())
}

/// Follows the remaining tokens into whatever value comes next.
struct Seek<'t> {
    tokens: &'t [Box<str>],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(self.tokens.is_empty().then_some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.tokens.is_empty().then(|| Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut seen = false;
        while let Some(key) = map.next_key::<Key<'de>>()? {
            match self.tokens.split_first() {
                Some((token, _)) if seen && *key.0 == **token => return Err(A::Error::custom(KEY_REPEATED)),
                Some((token, rest)) if *key.0 == **token => {
                    seen = true;
                    found = map.next_value_seed(Seek { tokens: rest })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (index, rest) = match self.tokens.split_first() {
            Some((token, rest)) => (array_index(token), rest),
            None => (None, self.tokens),
        };
        let mut found = None;
        let mut at = 0;
        loop {
            if Some(at) == index {
                match seq.next_element_seed(Seek { tokens: rest })? {
                    Some(value) => found = value,
                    None => return Ok(found),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        if number.is_finite() { Ok(None) } else { Err(E::custom("expected a finite number")) }
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// An object's key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor).map_err(D::Error::custom)
    }
}

/// RFC 6901 section 4: digits without a leading zero.
fn array_index(token: &str) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') { None } else { token.parse().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn find(pointer: &str, json: &str) -> Option<String> {
        match Pointer::parse(pointer).expect("a pointer").find(json.as_bytes()).expect("JSON") {
            Found::Text(text) => Some(text.into_owned()),
            Found::Missing => None,
        }
    }

    #[test]
    fn follows_objects_arrays_and_escapes() {
        assert_eq!(find("/type", r#"{"type":"a"}"#).as_deref(), Some("a"));
        assert_eq!(find("/h/1/t", r#"{"h":[0,{"t":"b"}],"z":{}}"#).as_deref(), Some("b"));
        assert_eq!(find("/a~1b/c~0d", r#"{"a/b":{"c~d":"x"}}"#).as_deref(), Some("x"));
        assert_eq!(find("/t", r#"{"\u0074":"\u0061b"}"#).as_deref(), Some("ab"));
        assert_eq!(find("/", r#"{"":"empty"}"#).as_deref(), Some("empty"));
    }

    #[test]
    fn what_is_not_a_string_is_missing() {
        for json in [r#"{"type":1}"#, "[]", "3", "null", r#"{"type":{"a":1}}"#, r#"{"typ":"a"}"#, "1.5", "true"] {
            assert_eq!(find("/type", json), None, "{json}");
        }
    }

    #[test]
    fn a_repeated_key_is_refused_on_the_way_and_only_there() {
        let pointer = Pointer::parse("/a/t").expect("a pointer");
        for json in [
            r#"{"a":{"t":"x","t":"x"}}"#,
            r#"{"a":{"t":"x","\u0074":"y"}}"#,
            r#"{"a":{"t":"x"},"a":1}"#,
            r#"{"a":1,"a":{"t":"x"}}"#,
        ] {
            let error = pointer.find(json.as_bytes()).expect_err(json);
            assert!(error.to_string().contains(KEY_REPEATED), "{error}");
        }
        assert_eq!(find("/a/t", r#"{"b":1,"b":2,"a":{"t":"x","c":1,"c":2},"t":3,"t":4}"#).as_deref(), Some("x"));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for json in ["", "{", r#"{"type":"a"} x"#, r#"{"type":"a",}"#, "nul"] {
            assert!(Pointer::parse("/type").expect("a pointer").find(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        assert!(matches!(Pointer::parse("type"), Err(InvalidPointer::NoSlash(_))));
        assert!(matches!(Pointer::parse("/a~2"), Err(InvalidPointer::BadEscape(_))));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c~/]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c~/0]{0,2}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in json(), tokens in prop::collection::vec("[a-c~/0-2]{0,2}", 1..4)) {
            let pointer: String = tokens.iter().map(|t| format!("/{}", t.replace('~', "~0").replace('/', "~1"))).collect();
            let expected = value.pointer(&pointer).and_then(Value::as_str).map(str::to_owned);
            let in_value = match Pointer::parse(&pointer).expect("a pointer").find_in(&value) {
                Found::Text(text) => Some(text.into_owned()),
                Found::Missing => None,
            };
            prop_assert_eq!(&in_value, &expected);
            prop_assert_eq!(find(&pointer, &value.to_string()), expected);
        }
    }
}
