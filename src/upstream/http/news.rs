//! How calls that wait for an address hear of it: one of them watches the time of the next probe, all hear of a recovery.
//! So a dead upstream wakes one call for each probe, not all that wait. Must not know addresses.

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// What is shared by an upstream's addresses and the calls that wait for them.
pub struct News {
    watch: Semaphore,
    /// Any change: for the watcher.
    changed: Notify,
    /// An address takes calls freely: for all.
    recovered: Notify,
}

/// The turn to watch, and then to be the probe; held until that has begun.
pub type Turn<'a> = SemaphorePermit<'a>;

impl News {
    pub fn new() -> Self {
        Self { watch: Semaphore::new(1), changed: Notify::new(), recovered: Notify::new() }
    }

    /// To be called when an address takes calls freely again, or a new one is known.
    pub fn more_admit(&self) {
        self.changed.notify_waiters();
        self.recovered.notify_waiters();
    }

    /// To be called when an address is set aside, or is to be probed at another time.
    pub fn fewer_admit(&self) {
        self.changed.notify_waiters();
    }

    pub fn recovered(&self) -> Notified<'_> {
        self.recovered.notified()
    }

    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Waits for the turn to watch, in order.
    pub async fn turn(&self) -> Option<Turn<'_>> {
        // Never closed, so always some.
        self.watch.acquire().await.ok()
    }
}
