//! JSON Schema: compiled once for each snapshot, checked for each message. Offline: `$ref` reaches only the documents it was given.
//! Knows JSON values; must not know files, the network or tokio.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::message::Violation;

/// The most violations that one check reports.
pub const VIOLATIONS_MAX: usize = 10;

/// One compiled schema, shared by the messages of a route.
pub struct Schema {}

/// A schema that cannot be compiled.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SchemaError {
    pub message: String,
    /// JSON Pointer into the root document, where the place is known.
    pub pointer: Option<String>,
}

impl Schema {
    /// Compiles `documents[root]`. Keys are URIs (`file:///…` style or any absolute URI); a relative `$ref` resolves among them.
    pub fn compile(_root: &str, _documents: &BTreeMap<String, Value>) -> Result<Self, SchemaError> {
        todo!()
    }

    /// Checks a whole message. At most `VIOLATIONS_MAX` places are named.
    pub fn check(&self, _instance: &Value) -> Result<(), Vec<Violation>> {
        todo!()
    }
}
