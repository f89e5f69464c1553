//! A record as it is written: one line of JSON. Must not know who reads it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use serde::Serialize;

use super::Redaction;
use crate::message::{Kind, Payload};

/// Bytes of a payload that are shown.
const DATA_BYTES_MAX: usize = 4096;

/// What every record of a connection says.
#[derive(Serialize)]
pub struct Head<'a> {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    /// RFC 3339.
    pub time: String,
    pub connection: &'a str,
    pub endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
}

/// The payload, as far as it is shown.
#[derive(Serialize)]
pub struct Data {
    pub size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    binary: Option<String>,
    /// There is more than is shown.
    cut: bool,
    /// Nothing is shown: what is to be redacted cannot be found in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
}

/// Where the time went, in microseconds; what was not reached is left out.
#[derive(Serialize, Default)]
pub struct Stages {
    pub waited: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

impl Data {
    /// Nothing but the size.
    pub fn hidden(size: usize) -> Self {
        Self { size, data: None, binary: None, cut: true, hidden: true }
    }

    pub fn of(payload: &Payload, redaction: &Redaction) -> Self {
        let Some(bytes) = redaction.apply(payload) else { return Self::hidden(payload.len()) };
        let mut shown = Self { size: payload.len(), data: None, binary: None, cut: false, hidden: false };
        match payload.kind() {
            Kind::Text => {
                // What is redacted is JSON still, and a text is UTF-8.
                let text = std::str::from_utf8(&bytes).unwrap_or_default();
                let end = text.floor_char_boundary(DATA_BYTES_MAX);
                shown.cut = end < text.len();
                shown.data = Some(text[..end].to_owned());
            }
            Kind::Binary => {
                let end = bytes.len().min(DATA_BYTES_MAX);
                shown.cut = end < bytes.len();
                shown.binary = Some(base64::engine::general_purpose::STANDARD.encode(&bytes[..end]));
            }
        }
        shown
    }
}

/// RFC 3339 with microseconds.
pub fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The line of a record. Texts and numbers always print.
pub fn line(record: &impl Serialize) -> super::Line {
    serde_json::to_string(record).unwrap_or_default().into()
}
