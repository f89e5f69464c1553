//! Structured logs: text or JSON, with a level that can be changed while running.

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A `tracing` filter, for instance `info` or `holdfast=debug,warn`.
    pub level: String,
    pub format: LogFormat,
}
