//! JSON Schema: compiled once for each snapshot, checked for each message. Offline: `$ref` reaches only the documents it was given.
//! Knows JSON values; must not know files, the network or tokio.

mod unique;

use std::collections::BTreeMap;

use jsonschema::{PatternOptions, Retrieve, Uri, ValidationError, Validator};
use serde_json::Value;

use self::unique::Unique;
use crate::message::Violation;

/// The most violations that one check reports.
pub const VIOLATIONS_MAX: usize = 10;
/// The longest message, and the longest pointer, of one violation, in bytes.
const MESSAGE_BYTES_MAX: usize = 200;
/// In a message of more values than this no places are named: the library finds them all before it names the first.
const VALUES_MAX: usize = 2000;

/// One compiled schema, shared by the messages of a route.
pub struct Schema {
    validator: Validator,
    origin: Origin,
}

/// Where a schema came from, as people are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Origin {
    /// The file's name, as the configuration has it.
    pub file: String,
    /// The first digits of a hash over the file and all that it refers to.
    pub hash: String,
}

/// A schema that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaError {
    pub message: String,
    /// JSON Pointer into the root document, where the place is known.
    pub pointer: Option<String>,
}

impl Schema {
    /// Compiles `documents[root]`. Keys are absolute URIs; a relative `$ref` resolves among them. 2020-12 unless `$schema` names
    /// draft 4, 6, 7 or 2019-09; formats are asserted; patterns must be such that a linear-time engine can match them.
    pub fn compile(root: &str, documents: &BTreeMap<String, Value>) -> Result<Self, SchemaError> {
        let Some(document) = documents.get(root) else {
            return Err(SchemaError { message: format!("no document {root}"), pointer: None });
        };
        let validator = jsonschema::options()
            .with_base_uri(root)
            .with_retriever(Given(documents.clone()))
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex())
            .with_keyword("uniqueItems", |_, value, _| Ok(Box::new(Unique(value == &Value::Bool(true)))))
            .build(document)
            .map_err(|error| SchemaError {
                message: explain(&error),
                pointer: Some(error.instance_path().to_string()).filter(|pointer| !pointer.is_empty()),
            })?;
        Ok(Self { validator, origin: Origin::default() })
    }

    /// The same, with where it came from.
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Checks a whole message. At most `VIOLATIONS_MAX` places are named; no message repeats the value that it found.
    pub fn check(&self, instance: &Value) -> Result<(), Vec<Violation>> {
        if self.validator.is_valid(instance) {
            return Ok(());
        }
        if count(instance, VALUES_MAX) > VALUES_MAX {
            let message = format!("no places are named in a message of more than {VALUES_MAX} values");
            return Err(vec![Violation { pointer: String::new(), message }]);
        }
        Err(self.validator.iter_errors(instance).take(VIOLATIONS_MAX).map(|error| violation(&error)).collect())
    }
}

/// Gives only the documents that were given.
struct Given(BTreeMap<String, Value>);

impl Retrieve for Given {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let known = self.0.get(uri.as_str());
        known.cloned().ok_or_else(|| format!("{uri} is not a file under the schema's own folder").into())
    }
}

fn violation(error: &ValidationError<'_>) -> Violation {
    Violation {
        pointer: shorten(error.instance_path().to_string()),
        message: shorten(error.masked_with("the value").to_string()),
    }
}

/// How many values there are in this one, itself included; the count stops soon after `most`.
fn count(value: &Value, most: usize) -> usize {
    let add = |sum, part: &Value| if sum > most { sum } else { sum + count(part, most) };
    match value {
        Value::Array(list) => list.iter().fold(1, add),
        Value::Object(map) => map.values().fold(1, add),
        _ => 1,
    }
}

fn explain(error: &ValidationError<'_>) -> String {
    let message = shorten(error.to_string());
    if message.contains("is not a \"regex\"") || message.contains("regex") {
        return format!(
            "{message} (look-around and back-references are not available: patterns are matched in linear time)"
        );
    }
    message
}

fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or_default();
        message.truncate(cut);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compile(documents: &[(&str, Value)]) -> Result<Schema, SchemaError> {
        let uri = |name: &str| format!("file:///schemas/{name}");
        let map = documents.iter().map(|(name, value)| (uri(name), value.clone())).collect();
        Schema::compile(&uri(documents[0].0), &map)
    }

    fn one(schema: Value) -> Schema {
        compile(&[("a.json", schema)]).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_violation_names_its_place_and_not_the_value() {
        let schema = one(json!({"properties": {"text": {"maxLength": 3}}, "required": ["type"]}));
        assert_eq!(schema.check(&json!({"type": 1, "text": "abc"})), Ok(()));
        let violations = schema.check(&json!({"text": "secret"})).expect_err("too long, and no type");
        assert_eq!(violations.len(), 2);
        let text = violations.iter().find(|v| v.pointer == "/text").expect("a place");
        assert!(!text.message.contains("secret"), "{}", text.message);
    }

    #[test]
    fn every_draft_is_taken_by_its_schema_keyword() {
        for (uri, minimum) in [
            ("http://json-schema.org/draft-04/schema#", json!({"minimum": 3, "exclusiveMinimum": true})),
            ("http://json-schema.org/draft-06/schema#", json!({"exclusiveMinimum": 3})),
            ("http://json-schema.org/draft-07/schema#", json!({"exclusiveMinimum": 3})),
            ("https://json-schema.org/draft/2019-09/schema", json!({"exclusiveMinimum": 3})),
            ("https://json-schema.org/draft/2020-12/schema", json!({"exclusiveMinimum": 3})),
        ] {
            let mut schema = minimum;
            schema["$schema"] = json!(uri);
            let schema = one(schema);
            assert!(schema.check(&json!(3)).is_err() && schema.check(&json!(4)).is_ok(), "{uri}");
        }
        assert!(one(json!({"prefixItems": [{"type": "string"}]})).check(&json!([1])).is_err(), "2020-12 by default");
    }

    #[test]
    fn formats_are_asserted() {
        let schema = one(json!({"format": "date-time"}));
        assert!(schema.check(&json!("2026-01-01T00:00:00Z")).is_ok());
        assert!(schema.check(&json!("yesterday")).is_err());
    }

    #[test]
    fn a_ref_reaches_given_documents_only() {
        let schema = compile(&[
            ("a.json", json!({"$ref": "sub/b.json#/$defs/name"})),
            ("sub/b.json", json!({"$defs": {"name": {"type": "string"}}})),
        ])
        .expect("compiled");
        assert!(schema.check(&json!("x")).is_ok() && schema.check(&json!(1)).is_err());
        for remote in ["https://example.com/x.json", "c.json"] {
            let error = compile(&[("a.json", json!({"$ref": remote}))]).err().expect("refused");
            assert!(error.message.contains(remote), "{error}");
        }
    }

    #[test]
    fn a_pattern_that_needs_backtracking_is_refused_and_says_so() {
        let error = compile(&[("a.json", json!({"pattern": "(?=x)y"}))]).err().expect("refused");
        assert!(error.message.contains("linear time"), "{error}");
        let error = compile(&[("a.json", json!({"patternProperties": {r"(a)\1": {}}}))]).err().expect("refused");
        assert!(error.message.contains("linear time"), "{error}");
        assert!(one(json!({"pattern": "^(a+)+$"})).check(&json!(format!("{}b", "a".repeat(50_000)))).is_err());
    }

    #[test]
    fn violations_are_bounded() {
        let schema = one(json!({"items": {"type": "string"}}));
        let many = schema.check(&json!(vec![1; 1000])).expect_err("all wrong");
        assert_eq!(many.len(), VIOLATIONS_MAX);
        let too_many = schema.check(&json!(vec![1; 10_000])).expect_err("all wrong");
        assert!(too_many.len() == 1 && too_many[0].message.contains("more than 2000 values"), "{too_many:?}");
        let key = "k".repeat(100_000);
        let pointers = one(json!({"additionalProperties": {"items": {"type": "string"}}}))
            .check(&json!({key: [1, 2]}))
            .expect_err("wrong");
        assert!(pointers.iter().all(|violation| violation.pointer.len() <= MESSAGE_BYTES_MAX + 3));
        let long = one(json!({"enum": ["x".repeat(1000)]})).check(&json!(1)).expect_err("wrong");
        assert!(long[0].message.len() <= MESSAGE_BYTES_MAX + 3);
    }

    #[test]
    fn what_is_no_schema_says_where() {
        let error = compile(&[("a.json", json!({"properties": {"a": {"type": "strin"}}}))]).err().expect("refused");
        assert!(error.pointer.is_some_and(|pointer| pointer.starts_with("/properties/a")));
    }
}
