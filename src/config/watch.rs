//! Tells when a file of the configuration may have changed. Folders are watched, not files: Kubernetes swaps symlinks, and editors
//! replace files. Whether anything changed is for the reader to say, who compares a hash.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Changes come in flocks: wait for the last.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// A net for file systems that tell nothing.
const POLL: Duration = Duration::from_secs(10);

/// Watches the folders of some files.
pub struct Watcher {
    inner: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

impl Watcher {
    /// Watches the folders of `files`. A folder that cannot be watched is left to the slow poll, with a warning.
    pub fn new(files: &[PathBuf]) -> notify::Result<Self> {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        let inner = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Opening and reading a file is an event too, of which every reload makes some.
            if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
                notify.notify_one();
            }
        })?;
        let mut watcher = Self { inner, folders: BTreeSet::new(), changed };
        watcher.set_files(files);
        Ok(watcher)
    }

    /// Watches the folders of `files` from now on, and no others.
    pub fn set_files(&mut self, files: &[PathBuf]) {
        let folders: BTreeSet<_> = files.iter().map(|file| folder_of(file)).collect();
        for gone in self.folders.difference(&folders) {
            // It may be gone indeed.
            let _ = self.inner.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = self.inner.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), "cannot be watched: {error}; changes are found by a slow poll");
            }
        }
        self.folders = folders;
    }

    /// Returns when something may have changed, once it has been quiet for a moment, or when it is time to look anyway.
    pub async fn changed(&mut self) {
        if tokio::time::timeout(POLL, self.changed.notified()).await.is_err() {
            return;
        }
        while tokio::time::timeout(DEBOUNCE, self.changed.notified()).await.is_ok() {}
    }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
