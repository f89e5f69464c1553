//! `uniqueItems` by sorting. The library compares items by a hash that a client can make collide, so that one message would cost the
//! square of its items. Knows JSON values; must not know schemas.

use std::cmp::Ordering;

use jsonschema::{Keyword, ValidationError};
use serde_json::{Number, Value};

/// The keyword where its value is `true`; otherwise it asks for nothing.
pub struct Unique(pub bool);

impl<'i> Keyword<'i> for Unique {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        match self.is_valid(instance) {
            true => Ok(()),
            false => Err(ValidationError::custom("the value has items that are equal")),
        }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let Some(items) = instance.as_array().filter(|_| self.0) else { return true };
        let mut sorted: Vec<&Value> = items.iter().collect();
        sorted.sort_unstable_by(|a, b| compare(a, b));
        sorted.windows(2).all(|pair| compare(pair[0], pair[1]) != Ordering::Equal)
    }
}

/// A total order in which equal means equal to JSON Schema: `1` is `1.0`, and the order of keys says nothing.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let parts = a.iter().zip(b).map(|(a, b)| compare(a, b));
            first_difference(parts).then(a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            // Both are sorted by key.
            let parts = a.iter().zip(b).map(|((k, a), (l, b))| k.cmp(l).then_with(|| compare(a, b)));
            first_difference(parts).then(a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn first_difference(mut parts: impl Iterator<Item = Ordering>) -> Ordering {
    parts.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    let float = |number: &Number| number.as_f64().unwrap_or_default();
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // A float with a fraction, or beyond every integer here, equals none: rounding the other side cannot mislead.
        _ => float(a).total_cmp(&float(b)),
    }
}

/// The value of a whole number, however it is written.
fn whole(number: &Number) -> Option<i128> {
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    integer.or_else(|| {
        let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e38)?;
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within the range just above")]
        Some(float as i128)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn is_unique(value: &Value) -> bool {
        Unique(true).is_valid(value)
    }

    #[test]
    fn equal_is_what_json_schema_calls_equal() {
        for same in [
            json!([1, 1.0]),
            json!([0.0, -0.0]),
            json!([9_007_199_254_740_992_u64, 9_007_199_254_740_992.0]),
            json!([{"a": 1, "b": [2]}, "x", {"b": [2.0], "a": 1}]),
            json!([null, null]),
        ] {
            assert!(!is_unique(&same), "{same}");
        }
        for distinct in [
            json!([1, true, "1", null, [1], {"a": 1}, [], {}, [[]], 1.5, 0, false]),
            json!([9_007_199_254_740_992_u64, 9_007_199_254_740_993_u64]),
            json!([u64::MAX, 1.8e19, 1e300, -1e300]),
            json!([{"a": 1}, {"a": 2}, {"b": 1}]),
        ] {
            assert!(is_unique(&distinct), "{distinct}");
        }
        assert!(is_unique(&json!("not a list")));
        assert!(Unique(false).is_valid(&json!([1, 1])));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2..3_i64).prop_map(Value::from),
            (-3..4_i32).prop_map(|half| Value::from(f64::from(half) / 2.0)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[ab]", inner), 0..3)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_library(items in prop::collection::vec(json(), 0..8)) {
            let value = Value::from(items);
            let library = jsonschema::is_valid(&json!({"uniqueItems": true}), &value);
            prop_assert_eq!(is_unique(&value), library);
        }
    }
}
