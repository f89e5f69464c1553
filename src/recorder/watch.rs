//! A watcher and its stream: a bounded queue of lines. Who reads too slowly misses some, and is told how many; nobody waits for it.
//! Must not know what a line says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::{Filter, Recorder};

/// Lines that wait for a watcher.
const LINES_MAX: usize = 256;

/// One record as JSON; shared by all who are told.
pub type Line = Arc<str>;

/// One who looks.
pub struct Watcher {
    pub filter: Filter,
    /// None once the stream is to end.
    lines: Mutex<Option<mpsc::Sender<Line>>>,
    missed: AtomicU64,
    missed_total: Counter,
}

/// The stream of one who looks; dropping it ends the looking.
pub struct Watch {
    recorder: Arc<Recorder>,
    watcher: Arc<Watcher>,
    lines: mpsc::Receiver<Line>,
}

impl Watcher {
    pub fn new(filter: Filter, missed_total: Counter) -> (Arc<Self>, mpsc::Receiver<Line>) {
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        let lines = Mutex::new(Some(sender));
        (Arc::new(Self { filter, lines, missed: AtomicU64::new(0), missed_total }), receiver)
    }

    /// Queues a line if there is room. After a gap there must be room for many, so that gaps are few and long.
    pub fn tell(&self, line: &Line) {
        let guard = self.lines.lock();
        let Some(lines) = &*guard else { return };
        let has_gap = self.missed.load(Ordering::Relaxed) > 0;
        if has_gap && lines.capacity() >= LINES_MAX / 2 {
            // There is room.
            let _ = lines.try_send(self.gap().unwrap_or_default());
        } else if has_gap {
            return self.miss();
        }
        if lines.try_send(line.clone()).is_err() {
            self.miss();
        }
    }

    /// The stream ends after what it holds.
    pub fn end(&self) {
        *self.lines.lock() = None;
    }

    fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        self.missed_total.inc();
    }

    /// The line that tells of those that were missed since it was told last.
    fn gap(&self) -> Option<Line> {
        let count = self.missed.swap(0, Ordering::Relaxed);
        (count > 0).then(|| format!(r#"{{"kind":"missed","count":{count}}}"#).into())
    }
}

impl Watch {
    pub(super) fn new(recorder: Arc<Recorder>, watcher: Arc<Watcher>, lines: mpsc::Receiver<Line>) -> Self {
        Self { recorder, watcher, lines }
    }

    /// The next line; none once the program leaves. May be dropped and asked again.
    pub async fn next(&mut self) -> Option<Line> {
        if self.lines.is_empty()
            && let Some(gap) = self.watcher.gap()
        {
            return Some(gap);
        }
        self.lines.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.recorder.forget(&self.watcher);
    }
}
