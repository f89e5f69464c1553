//! Structured logs on standard error: text or JSON, with a level that can be changed while running. Must not know the domain.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

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

/// Changes the level while running; cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Arc<Mutex<String>>,
}

/// Starts the log. Where a log was started before in this process, that one goes on and this handle changes nothing.
pub fn init(settings: &LogSettings) -> Result<LogHandle, String> {
    let (filter, handle) = reload::Layer::new(filter_of(&settings.level)?);
    let layer = match settings.format {
        LogFormat::Text => fmt::layer().with_writer(|| OneLine(std::io::stderr())).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    // An error means that there is a log already: tests start several programs in one process.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    Ok(LogHandle { filter: handle, level: Arc::new(Mutex::new(settings.level.clone())) })
}

/// Says what is wrong with a level.
pub fn check_level(level: &str) -> Result<(), String> {
    filter_of(level).map(|_| ())
}

impl LogHandle {
    pub fn level(&self) -> String {
        self.level.lock().clone()
    }

    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = filter_of(level)?;
        // The layer is gone only if another log was there first; then there is nothing to change.
        let _ = self.filter.reload(filter);
        *self.level.lock() = level.to_owned();
        Ok(())
    }
}

/// Writes each event as one line, whatever its values hold: nobody outside can make a line that looks like Holdfast's own. (The
/// library escapes what steers a terminal; JSON escapes all by itself.)
struct OneLine<W>(W);

impl<W: io::Write> io::Write for OneLine<W> {
    /// Called once for each event, with its line's end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        if !line.iter().any(|byte| BREAKS.contains(byte)) {
            return self.0.write(event);
        }
        let mut safe = Vec::with_capacity(event.len() + 16);
        for byte in line {
            match byte {
                b'\n' => safe.extend_from_slice(b"\\n"),
                b'\r' => safe.extend_from_slice(b"\\r"),
                0 => safe.extend_from_slice(b"\\0"),
                other => safe.push(*other),
            }
        }
        safe.extend_from_slice(&event[line.len()..]);
        self.0.write_all(&safe).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

const BREAKS: &[u8] = b"\n\r\0";

fn filter_of(level: &str) -> Result<EnvFilter, String> {
    let wrong = |why: String| format!("expected error, warn, info, debug or a filter of them, found {level:?}{why}");
    let is_known = |word: &str| {
        let level = word.rsplit('=').next().unwrap_or_default().trim();
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level.to_ascii_lowercase().as_str())
    };
    if level.trim().is_empty() || !level.split(',').all(is_known) {
        return Err(wrong(String::new()));
    }
    // The AMQP library repeats in its own words what is logged here, and shows whole messages. A filter may still name it.
    EnvFilter::try_new(format!("lapin=off,{level}")).map_err(|error| wrong(format!(": {error}")))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn levels_and_filters_are_checked() {
        for level in ["info", "warn,holdfast=debug", "off"] {
            assert_eq!(check_level(level), Ok(()), "{level}");
        }
        for level in ["", "loud", "info,holdfast=loud", "info,,"] {
            assert!(check_level(level).is_err_and(|e| e.contains("expected error, warn, info")), "{level}");
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let mut out = Vec::new();
        let mut line = OneLine(&mut out);
        line.write_all(b"a plain line\n").expect("written");
        line.write_all(b"one\r\nINFO two\0\n").expect("written");
        assert_eq!(out, b"a plain line\none\\r\\nINFO two\\0\n");
    }

    #[test]
    fn the_level_changes_while_running() {
        let log = init(&LogSettings { level: "error".into(), format: LogFormat::Text }).expect("a log");
        assert!(log.set_level("loud").is_err());
        assert_eq!(log.level(), "error");
        log.set_level("off").expect("changed");
        assert_eq!(log.level(), "off");
    }
}
