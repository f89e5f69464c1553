//! JSON text as a value, read strictly: text that repeats a key is refused, since two readers may take different ones of its values.
//! Knows serde; must not know what the text means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// Why a message is refused that repeats a key which is read.
pub const KEY_REPEATED: &str = "a key is repeated, and its readers might take different ones of its values";

/// Reads a whole text. No object in it may have a key twice.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    // One look at the whole text is cheaper than one at each of its strings.
    let strict = match std::str::from_utf8(text) {
        Ok(text) => serde_json::from_str::<Strict>(text),
        Err(_) => serde_json::from_slice::<Strict>(text),
    };
    strict.map(|strict| strict.0)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            match map.entry(key) {
                Entry::Vacant(place) => place.insert(access.next_value::<Strict>()?.0),
                Entry::Occupied(_) => return Err(A::Error::custom(KEY_REPEATED)),
            };
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(Value::Bool(is))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_repeated_key_is_refused_wherever_it_is() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"c":2,"a":3}}]"#, r#"{"a":1,"\u0061":2}"#] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.to_string().contains(KEY_REPEATED), "{error}");
        }
        assert!(parse(br#"{"a":{"a":1},"b":{"a":2}}"#).is_ok(), "in different objects");
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}",:0-9a-c.eE+\-tru\\ ]{0,24}"#) {
            // What has a key twice only the strict reader refuses.
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(serde_json::from_slice::<Value>(text.as_bytes()).expect("JSON"), value);
            } else if let Ok(value) = serde_json::from_slice::<Value>(text.as_bytes()) {
                prop_assert!(text.matches(':').count() > 1, "{} is {}", text, value);
            }
        }
    }
}
