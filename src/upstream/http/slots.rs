//! The cap on calls that one upstream has on the wire, and on those that wait for it. Must not know what calls do.

use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// Slots are given in the order in which they were asked for.
pub struct Slots {
    semaphore: Semaphore,
    newcomers: AtomicUsize,
    newcomers_max: usize,
    waiting: Gauge,
}

/// Why there is no slot.
#[derive(Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// Too many wait already.
    Full,
    /// None came free before the deadline.
    Late,
}

impl Slots {
    pub fn new(concurrency: usize, newcomers_max: usize, waiting: Gauge) -> Self {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self { semaphore: Semaphore::new(concurrency), newcomers: AtomicUsize::new(0), newcomers_max, waiting }
    }

    /// Takes a slot. Only a newcomer can be turned away: an event that was taken on once, and then had to wait for
    /// a retry or for a breaker, is not given up because others came meanwhile.
    pub async fn take(&self, is_newcomer: bool, deadline: Instant) -> Result<SemaphorePermit<'_>, NoSlot> {
        if let Ok(permit) = self.semaphore.try_acquire() {
            return Ok(permit);
        }
        let _place = self.queue(is_newcomer)?;
        match timeout_at(deadline, self.semaphore.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(NoSlot::Late),
        }
    }

    fn queue(&self, is_newcomer: bool) -> Result<Place<'_>, NoSlot> {
        let place = Place { slots: self, is_newcomer };
        self.waiting.inc();
        if is_newcomer && self.newcomers.fetch_add(1, Ordering::Relaxed) >= self.newcomers_max {
            return Err(NoSlot::Full);
        }
        Ok(place)
    }
}

/// A place in the queue, left when dropped.
struct Place<'a> {
    slots: &'a Slots,
    is_newcomer: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.slots.waiting.dec();
        if self.is_newcomer {
            self.slots.newcomers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn newcomers_beyond_the_queue_are_turned_away_and_others_wait() {
        let slots = Slots::new(1, 1, Gauge::default());
        let deadline = Instant::now() + Duration::from_millis(50);
        let held = slots.take(true, deadline).await.expect("free");
        let mut waiting = Box::pin(slots.take(true, deadline));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(slots.take(true, deadline).await.expect_err("full"), NoSlot::Full);
        assert_eq!(slots.waiting.get(), 1);
        let mut again = Box::pin(slots.take(false, deadline));
        assert!(futures_util::poll!(&mut again).is_pending());
        drop(held);
        let held = waiting.await.expect("first in the queue");
        assert_eq!(again.await.expect_err("none came free"), NoSlot::Late);
        drop(held);
        assert_eq!((slots.waiting.get(), slots.newcomers.load(Ordering::Relaxed)), (0, 0));
    }
}
