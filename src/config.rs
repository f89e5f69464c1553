//! The configuration: one YAML file to settings, every problem at once with its place and a way out; watching for changes.
//! Knows each module's own small settings struct; must not know how modules work.

mod build;
mod diff;
mod error;
mod files;
pub mod keys;
mod outline;
mod raw;
mod reference;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::admin::AdminSettings;
use crate::amqp::BrokerSettings;
use crate::command::CommandsSettings;
use crate::drain::DrainSettings;
use crate::listener::ListenerSettings;
use crate::snapshot::Draft;
use crate::telemetry::logging::LogSettings;
use crate::telemetry::spans::SpanSettings;

pub use diff::{Change, diff, summary};
pub use error::{Place, Problem, Problems};
pub use outline::Outline;
pub use reference::{json_schema, reference_markdown};
pub use watch::Watcher;

/// The most bytes of a configuration file, or of a schema file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A configuration that can be used.
#[derive(Clone)]
pub struct Loaded {
    pub fixed: Fixed,
    /// What a reload may change while it runs.
    pub draft: Draft,
    /// For comparisons with another.
    pub outline: Arc<Outline>,
    /// The configuration file and every file that it names.
    pub files: Vec<PathBuf>,
}

/// What is not part of a snapshot. Restart-only, but for `drain` and `log.level`.
#[derive(Debug, Clone)]
pub struct Fixed {
    pub listener: ListenerSettings,
    pub admin: AdminSettings,
    pub drain: DrainSettings,
    pub log: LogSettings,
    pub spans: Option<SpanSettings>,
    pub rabbitmq: Option<RabbitmqSettings>,
}

/// The broker, and what is taken from its queues.
#[derive(Debug, Clone, PartialEq)]
pub struct RabbitmqSettings {
    pub broker: BrokerSettings,
    pub commands: CommandsSettings,
    /// How long the broker may be away before the node says that it is not ready.
    pub readiness_grace: Duration,
}

/// Looks an environment variable up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the file at `path` and all that it names. Start-up, `holdfast check` and a reload all come through here.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let text = files::read_text(path).map_err(|reason| Problems::of_file(&name, reason))?;
    // A bare file name has an empty parent, which no call to the system takes.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut loaded = load_text(&name, &text, folder, &|name| std::env::var(name).ok())?;
    loaded.files.insert(0, path.to_owned());
    Ok(loaded)
}

/// Reads a configuration from text; the files that it names are looked for under `folder`.
pub fn load_text(name: &str, text: &str, folder: &Path, environment: Environment<'_>) -> Result<Loaded, Problems> {
    let (entry, used) = raw::read(name, text, environment)?;
    build::build(name, text, &entry, &used, folder)
}

#[cfg(test)]
mod tests;
