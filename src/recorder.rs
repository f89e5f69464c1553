//! The recorder of live messages: whoever looks is told what comes in, what becomes of it, and what goes out. Nothing is recorded while
//! nobody looks. Knows connections and payloads; must not know routes, sessions or HTTP.

mod filter;
mod redaction;
mod shown;
mod subject;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::connection::Connection;
use crate::mailbox::{Offered, OnWritten, Receipt};
use crate::message::Payload;
use crate::telemetry::Metrics;

pub use filter::Filter;
pub use redaction::Redaction;
pub use subject::{Cause, Recording, Subject, Taken};
use watch::Watcher;
pub use watch::{Line, Watch};

/// Who may look at once.
pub const WATCHERS_MAX: usize = 16;

/// What a record is about: filters that concern something else take none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    In,
    Out,
    Connection,
}

/// Tells watchers what happens.
pub struct Recorder {
    /// Read for every message; nothing else is, while it is false.
    is_watched: AtomicBool,
    watchers: ArcSwap<Vec<Arc<Watcher>>>,
    /// Held while watchers come and go: whether there will be no more.
    ended: Mutex<bool>,
    /// Streams that are still being read, those of ended watchers too.
    streams: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// Why nobody more may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWatched {
    #[error("{WATCHERS_MAX} are watching already, and no more may")]
    TooMany,
    #[error("the program is leaving")]
    Ended,
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            is_watched: AtomicBool::new(false),
            watchers: ArcSwap::default(),
            ended: Mutex::new(false),
            streams: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Tells from now on what the filter takes, until the watch is dropped.
    pub fn watch(self: &Arc<Self>, filter: Filter) -> Result<Watch, NotWatched> {
        let ended = self.ended.lock();
        let mut watchers = self.watchers.load().to_vec();
        if *ended {
            return Err(NotWatched::Ended);
        }
        if watchers.len() >= WATCHERS_MAX {
            return Err(NotWatched::TooMany);
        }
        let (watcher, lines) = Watcher::new(filter, self.metrics.watch_missed.clone());
        watchers.push(watcher.clone());
        self.streams.fetch_add(1, Ordering::SeqCst);
        self.set(watchers);
        Ok(Watch::new(self.clone(), watcher, lines))
    }

    /// Ends every stream after what it holds, and waits a moment for their readers.
    pub async fn end(&self) {
        {
            let mut ended = self.ended.lock();
            *ended = true;
            self.watchers.load().iter().for_each(|watcher| watcher.end());
            self.set(Vec::new());
        }
        for _ in 0..100 {
            if self.streams.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What of this connection somebody looks at; none is the answer nearly always, and cheap.
    pub fn subject(&self, connection: &Connection, about: About) -> Option<Subject> {
        if !self.is_watched.load(Ordering::Relaxed) {
            return None;
        }
        let watchers = self.watchers.load();
        let mut wanting = watchers.iter().filter(|watcher| watcher.filter.takes(connection, about)).peekable();
        wanting.peek()?;
        Some(Subject::new(connection, wanting.cloned().collect()))
    }

    /// Offers a payload to a connection's mailbox by `push`, and records what becomes of it. `hide` is asked only if somebody looks.
    pub fn offer<R: Receipt>(
        &self,
        connection: &Connection,
        payload: Payload,
        (cause, hide): (Cause, impl FnOnce() -> Arc<Redaction>),
        receipt: R,
        push: impl FnOnce(Payload, Told<R>) -> Offered,
    ) -> Offered {
        let Some(subject) = self.subject(connection, About::Out) else { return push(payload, Told::Asker(receipt)) };
        let outgoing = subject.message_out(payload.clone(), hide(), cause);
        let (recorded, asker) = (outgoing.receipt(), receipt.queued());
        let on_written = move || {
            recorded.written();
            asker.written();
        };
        let offered = push(payload, Told::Both(Box::new(on_written)));
        outgoing.offered(offered);
        offered
    }

    fn forget(&self, watcher: &Arc<Watcher>) {
        let _ended = self.ended.lock();
        let others = self.watchers.load().iter().filter(|other| !Arc::ptr_eq(other, watcher)).cloned().collect();
        self.set(others);
        self.streams.fetch_sub(1, Ordering::SeqCst);
    }

    fn set(&self, watchers: Vec<Arc<Watcher>>) {
        self.is_watched.store(!watchers.is_empty(), Ordering::Relaxed);
        self.metrics.watchers.set(i64::try_from(watchers.len()).unwrap_or(i64::MAX));
        self.watchers.store(Arc::new(watchers));
    }
}

/// Who is told that a payload is in the socket.
pub enum Told<R> {
    Asker(R),
    /// The watchers, and who asked.
    Both(OnWritten),
}

impl<R: Receipt> Receipt for Told<R> {
    fn queued(self) -> Option<OnWritten> {
        match self {
            Self::Asker(receipt) => receipt.queued(),
            Self::Both(on_written) => Some(on_written),
        }
    }

    fn written(self) {
        match self {
            Self::Asker(receipt) => receipt.written(),
            Self::Both(on_written) => on_written(),
        }
    }
}

#[cfg(test)]
mod tests;
