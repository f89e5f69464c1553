//! What of a payload nobody is shown. Must not know who looks.

use serde_json::Value;

use crate::message::{Kind, Payload, json};
use crate::routing::Pointer;

/// What is shown in place of a value.
const HIDDEN: &str = "[redacted]";

/// Places whose values are not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction {
    pointers: Vec<String>,
    everything: bool,
}

impl Redaction {
    pub fn new(pointers: &[Pointer]) -> Self {
        Self { pointers: pointers.iter().map(ToString::to_string).collect(), everything: false }
    }

    /// Of nothing more is shown than its size.
    pub fn everything() -> Self {
        Self { pointers: Vec::new(), everything: true }
    }

    /// The bytes that may be shown; none where that cannot be told, since the payload is no JSON.
    pub fn apply(&self, payload: &Payload) -> Option<bytes::Bytes> {
        if self.everything {
            return None;
        }
        if self.pointers.is_empty() {
            return Some(payload.bytes().clone());
        }
        if payload.kind() == Kind::Binary {
            return None;
        }
        let mut value = json::parse(payload.bytes()).ok()?;
        let mut is_changed = false;
        for pointer in &self.pointers {
            if let Some(place) = value.pointer_mut(pointer) {
                *place = Value::String(HIDDEN.into());
                is_changed = true;
            }
        }
        Some(if is_changed { value.to_string().into() } else { payload.bytes().clone() })
    }
}
