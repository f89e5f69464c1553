//! Live reload: read, build a whole snapshot off the message path, swap, or keep the old one and say why.
//! Must not know what is in a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Rabbitmq, Sides, system};
use crate::config::{self, Change, Fixed, Loaded, Outline};
use crate::drain::{Drain, DrainSettings};
use crate::pipeline::Pipeline;
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;
use crate::telemetry::logging::LogHandle;
use crate::telemetry::metrics::OutcomeLabel;

/// The trigger of reloads that nobody asked for: a file may have changed.
const WATCH: &str = "file";

/// Reloads the configuration, one reload at a time.
pub struct Reloader {
    path: Option<PathBuf>,
    pipeline: Arc<Pipeline>,
    rabbitmq: Option<Rabbitmq>,
    sides: Sides,
    metrics: Arc<Metrics>,
    log: LogHandle,
    /// The settings in use that are not part of the snapshot.
    fixed: Mutex<Fixed>,
    in_use: Mutex<InUse>,
    refused: Mutex<Option<Refused>>,
    /// Files to watch, as the newest configuration names them.
    files: watch::Sender<Vec<PathBuf>>,
    gate: tokio::sync::Semaphore,
}

/// The configuration in use, for comparisons.
struct InUse {
    outline: Arc<Outline>,
    /// What the last reload that was applied changed.
    changes: Arc<[Change]>,
}

/// The last reload, if it was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    pub at: SystemTime,
    pub problems: Vec<String>,
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    Applied {
        generation: u64,
    },
    /// The file says what is in use already.
    Unchanged {
        generation: u64,
    },
}

impl Reloader {
    pub(super) fn new(
        path: Option<PathBuf>,
        (fixed, outline): (Fixed, Arc<Outline>),
        (pipeline, rabbitmq, sides): (Arc<Pipeline>, Option<Rabbitmq>, Sides),
        metrics: Arc<Metrics>,
        log: LogHandle,
    ) -> Arc<Self> {
        let reloader = Self {
            path,
            pipeline,
            rabbitmq,
            sides,
            metrics,
            log,
            fixed: Mutex::new(fixed),
            in_use: Mutex::new(InUse { outline, changes: Arc::new([]) }),
            refused: Mutex::new(None),
            files: watch::Sender::new(Vec::new()),
            gate: tokio::sync::Semaphore::new(1),
        };
        reloader.count_loaded();
        Arc::new(reloader)
    }

    /// Reads the file and swaps the snapshot, or keeps the old one: then the problems, a line each.
    pub async fn reload(&self, trigger: &'static str) -> Result<Reload, Vec<String>> {
        let Some(path) = &self.path else {
            return Err(vec!["this configuration is built in: there is no file to reload".into()]);
        };
        // The semaphore is never closed, so a permit always comes.
        let _one_at_a_time = self.gate.acquire().await;
        let result = match self.read(path).await {
            Ok(loaded) => self.apply(loaded),
            Err(problems) => Err(problems),
        };
        if trigger == WATCH && self.is_old_news(&result) {
            return result;
        }
        let outcome = match &result {
            Ok(Reload::Applied { generation }) => {
                let changes = self.last_diff();
                tracing::info!(
                    trigger,
                    generation,
                    changes = changes.len(),
                    "configuration reloaded: {}",
                    config::summary(&changes)
                );
                *self.refused.lock() = None;
                self.count_loaded();
                "applied"
            }
            Ok(Reload::Unchanged { .. }) => {
                *self.refused.lock() = None;
                "unchanged"
            }
            Err(problems) => {
                for problem in problems {
                    tracing::error!(trigger, "configuration refused, the old one stays: {problem}");
                }
                *self.refused.lock() = Some(Refused { at: SystemTime::now(), problems: problems.clone() });
                "refused"
            }
        };
        self.metrics.reloads.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc();
        result
    }

    /// The watcher looks often; what it found before is neither logged nor counted again.
    fn is_old_news(&self, result: &Result<Reload, Vec<String>>) -> bool {
        let refused = self.refused.lock();
        match result {
            Ok(Reload::Applied { .. }) => false,
            Ok(Reload::Unchanged { .. }) => refused.is_none(),
            Err(problems) => refused.as_ref().is_some_and(|old| old.problems == *problems),
        }
    }

    /// Reloads whenever a file of the configuration may have changed, until a drain begins.
    pub async fn watch(self: Arc<Self>, files: Vec<PathBuf>, drain: Drain) {
        if self.path.is_none() {
            return;
        }
        let mut watcher = match config::Watcher::new(&files) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::error!(
                    "cannot watch the configuration for changes: {error}; reload by SIGHUP or POST /v1/config/reload"
                );
                return;
            }
        };
        let mut changed_files = self.files.subscribe();
        loop {
            tokio::select! {
                () = watcher.changed() => {
                    // What is wrong is logged, counted and shown by GET /v1/config.
                    let _ = self.reload(WATCH).await;
                }
                Ok(()) = changed_files.changed() => {
                    let files = changed_files.borrow_and_update().clone();
                    watcher.set_files(&files);
                }
                () = drain.begun() => return,
            }
        }
    }

    /// Why the last reload was refused, if it was.
    pub fn refused(&self) -> Option<Refused> {
        self.refused.lock().clone()
    }

    /// What the last reload that was applied changed.
    pub fn last_diff(&self) -> Arc<[Change]> {
        self.in_use.lock().changes.clone()
    }

    /// The broker, where the configuration has one.
    pub(super) fn rabbitmq(&self) -> Option<&Rabbitmq> {
        self.rabbitmq.as_ref()
    }

    /// How long the broker may be away before this node is not ready.
    pub(super) fn readiness_grace(&self) -> Duration {
        self.fixed.lock().rabbitmq.as_ref().map(|rabbitmq| rabbitmq.readiness_grace).unwrap_or_default()
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The drain's settings, as the newest configuration has them.
    pub fn drain_settings(&self) -> DrainSettings {
        self.fixed.lock().drain
    }

    async fn read(&self, path: &Path) -> Result<Loaded, Vec<String>> {
        let path = path.to_owned();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        match loaded {
            Ok(result) => result.map_err(|problems| problems.lines()),
            Err(error) => Err(vec![format!("reading the configuration failed: {error}")]),
        }
    }

    fn apply(&self, loaded: Loaded) -> Result<Reload, Vec<String>> {
        let old = self.pipeline.snapshot();
        let changes = config::diff(&self.in_use.lock().outline, &loaded.outline);
        let fixed = changes.iter().filter(|change| change.restart);
        let refused: Vec<_> =
            fixed.map(|change| format!("{}: changes only by a restart; undo it or restart", change.path)).collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        if loaded.draft.hash == old.hash {
            return Ok(Reload::Unchanged { generation: old.generation });
        }
        let level = &loaded.fixed.log.level;
        if *level != self.fixed.lock().log.level {
            self.log.set_level(level).map_err(|error| vec![format!("log.level: {error}")])?;
        }
        let broker = self.rabbitmq.as_ref().map(|rabbitmq| &rabbitmq.broker);
        let snapshot = Snapshot::build(loaded.draft, Some(&old), broker, &self.metrics);
        let snapshot = snapshot.map_err(|error| vec![error.to_string()])?;
        let generation = snapshot.generation;
        self.sides.swap(&self.fixed.lock(), &loaded.fixed).map_err(|error| vec![format!("tls: {error}")])?;
        self.pipeline.swap(snapshot);
        *self.fixed.lock() = loaded.fixed;
        *self.in_use.lock() = InUse { outline: loaded.outline, changes: changes.into() };
        self.files.send_replace(loaded.files);
        Ok(Reload::Applied { generation })
    }

    fn count_loaded(&self) {
        let snapshot = self.pipeline.snapshot();
        self.metrics.config_generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        let since = snapshot.loaded_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.config_loaded_seconds.set(since.as_secs_f64());
        let endpoints = snapshot.endpoints().map(|endpoint| endpoint.draft.limits.connections);
        let configured = endpoints.fold(0, usize::saturating_add).min(snapshot.limits.connections) as u64;
        let limit = configured.min(system::connections_fit());
        self.metrics.connections_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }
}
