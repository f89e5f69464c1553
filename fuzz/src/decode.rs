//! How a message is read on its way to a route. Input lines: the event's pointer, a route's pattern, a schema (JSON, or a digit that
//! picks one of ours); then the message. The name that is found is held against a whole parse of the message, the pattern against
//! the plainest matcher there is.

use std::collections::BTreeMap;

use holdfast::limits::json::JsonLimits;
use holdfast::routing::{Found, Pattern, Pointer, Table};
use holdfast::schema::{Schema, VIOLATIONS_MAX};
use serde_json::Value;

use super::{check, json};

/// Bytes of one violation's words: the limit, and the ellipsis.
const VIOLATION_BYTES_MAX: usize = 203;
const OURS: [&str; 4] = [
    r#"{"type":"object","properties":{"type":{"type":"string","maxLength":8},"n":{"multipleOf":3}},"required":["type"]}"#,
    r##"{"$defs":{"a":{"anyOf":[{"type":"string","format":"date-time"},{"items":{"$ref":"#/$defs/a"}}]}},"$ref":"#/$defs/a"}"##,
    r#"{"patternProperties":{"^(a+)+$":{"pattern":"^(x*)*y$"}},"unevaluatedProperties":false,"uniqueItems":true}"#,
    UNIQUE,
];
const UNIQUE: &str = r#"{"uniqueItems":true}"#;

pub fn run(data: &[u8]) {
    let mut rest = data;
    let (Some(pointer), Some(pattern), Some(schema)) =
        (check::text_line(&mut rest), check::text_line(&mut rest), check::text_line(&mut rest))
    else {
        return;
    };
    let name = found(pointer, rest);
    matched(pattern, &name.unwrap_or_else(|| String::from_utf8_lossy(rest).into_owned()));
    if let Ok(whole) = json::parse(rest) {
        if !whole.repeats {
            measured(rest, &whole.value);
        }
        checked(schema, &whole.value);
    }
}

/// The event's name, if the message has one. A client's text frame is always UTF-8; other bytes only must not panic.
fn found(text: &str, message: &[u8]) -> Option<String> {
    let pointer = Pointer::parse(text).ok()?;
    assert_eq!(pointer.to_string(), text, "a pointer reads back");
    let result = pointer.find(message);
    let utf8 = std::str::from_utf8(message).ok()?;
    let name = match &result {
        Ok(Found::Text(name)) => Some(name.to_string()),
        Ok(Found::Missing) | Err(_) => None,
    };
    match (&result, json::parse(message)) {
        (Ok(_), Ok(whole)) => {
            // Whichever of a repeated key's values a reader takes, it finds the same name: on the way to it no key is repeated.
            let last: Value = serde_json::from_slice(message).expect("JSON");
            for value in [&whole.value, &last] {
                assert_eq!(name.as_deref(), value.pointer(text).and_then(Value::as_str), "{text} in {utf8}");
            }
        }
        // What is skipped is not built, so numbers out of range, lone surrogates and depth in there are nobody's affair; but it
        // is JSON.
        (Ok(_), Err(error)) => assert!(json::is_json(message), "{error}: taken for JSON: {utf8}"),
        (Err(error), Ok(whole)) => assert!(whole.repeats, "{error}: not taken for JSON: {utf8}"),
        (Err(_), Err(_)) => {}
    }
    name
}

fn matched(text: &str, name: &str) {
    let Ok(pattern) = Pattern::parse(text) else {
        assert!(text.is_empty() || text.len() > 256);
        return;
    };
    let expected = if name == "$binary" { text == name } else { matches_plainly(text.as_bytes(), name.as_bytes()) };
    assert_eq!(pattern.matches(name), expected, "{text:?} and {name:?}");
    let rest = Pattern::parse("*").expect("a pattern");
    let table = Table::new([(pattern, 0), (rest, 1)]);
    let first = if expected { Some(0) } else { (name != "$binary").then_some(1) };
    assert_eq!(table.find(name).copied(), first);
}

fn checked(text: &str, message: &Value) {
    let text = match text.as_bytes() {
        [digit @ b'0'..=b'9'] => OURS[usize::from(digit - b'0') % OURS.len()],
        _ => text,
    };
    let Ok(document) = serde_json::from_str(text) else { return };
    let root = "file:///schemas/a.json";
    let Ok(schema) = Schema::compile(root, &BTreeMap::from([(root.to_owned(), document)])) else { return };
    let checked = schema.check(message);
    if text == UNIQUE {
        assert_eq!(checked.is_err(), repeats_an_item(message), "{message}");
    }
    let Err(violations) = checked else { return };
    assert!((1..=VIOLATIONS_MAX).contains(&violations.len()), "{} violations", violations.len());
    for violation in violations {
        assert!(violation.message.len() <= VIOLATION_BYTES_MAX, "{} bytes", violation.message.len());
        assert!(message.pointer(&violation.pointer).is_some(), "no {} in {message}", violation.pointer);
    }
}

/// Every item beside every other.
fn repeats_an_item(message: &Value) -> bool {
    let items = message.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().enumerate().any(|(at, item)| items[..at].iter().any(|before| is_equal(item, before)))
}

/// Equal as JSON Schema says it: a number is what it is worth, however it is written.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => {
            a == b || (a.is_f64() && a.as_f64() == b.as_f64())
        }
        (Value::Number(a), Value::Number(b)) => {
            let (float, integer) = if a.is_f64() { (a, b) } else { (b, a) };
            // A whole float in decimals, which is exact; zero has no sign.
            let is_worth = |float: f64| float.fract() == 0.0 && format!("{:.0}", float + 0.0) == integer.to_string();
            float.as_f64().is_some_and(is_worth)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_equal(a, b)))
        }
        _ => a == b,
    }
}

/// The structure that is counted before anything is parsed is that of what is parsed.
fn measured(message: &[u8], value: &Value) {
    let (depth, values) = measure(value);
    for (limits, expected) in [
        (JsonLimits { depth: 5, values: None }, depth <= 5),
        (JsonLimits { depth: 1000, values: Some(12) }, values <= 12),
        (JsonLimits { depth, values: Some(values) }, true),
    ] {
        assert_eq!(limits.check(message).is_ok(), expected, "{limits:?}: {depth} deep, {values} values: {value}");
    }
}

fn measure(value: &Value) -> (usize, usize) {
    let inside: Vec<_> = match value {
        Value::Array(list) => list.iter().map(measure).collect(),
        Value::Object(map) => map.values().map(measure).collect(),
        _ => return (0, 0),
    };
    let depth = inside.iter().map(|(depth, _)| depth + 1).max().unwrap_or(1);
    (depth, inside.iter().map(|(_, values)| values + 1).sum())
}

/// True if the pattern takes the name: row by row, as one learns it.
fn matches_plainly(pattern: &[u8], name: &[u8]) -> bool {
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    for part in pattern {
        let mut next = vec![false; name.len() + 1];
        next[0] = *part == b'*' && row[0];
        for at in 0..name.len() {
            next[at + 1] = if *part == b'*' { row[at + 1] || next[at] } else { row[at] && *part == name[at] };
        }
        row = next;
    }
    row[name.len()]
}
