//! The drain: phases from running to gone, with a pace and a deadline. Knows tokio; must not know the domain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Closes between two pauses are at least this far apart.
const PACE: Duration = Duration::from_millis(10);

/// Settings of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// Over how long the closes are spread.
    pub window: Duration,
    /// From the signal to the exit, whatever is left.
    pub deadline: Duration,
}

/// Whether the drain has begun; cheap to clone.
#[derive(Clone)]
pub struct Drain {
    begun: Arc<watch::Sender<bool>>,
    flag: Arc<AtomicBool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    pub fn new() -> Self {
        Self { begun: Arc::new(watch::Sender::new(false)), flag: Arc::default() }
    }

    /// Begins the drain: not ready, and no more accepted. False if it had begun.
    pub fn begin(&self) -> bool {
        let first = !self.flag.swap(true, Ordering::SeqCst);
        self.begun.send_replace(true);
        first
    }

    pub fn has_begun(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// A flag that turns true when the drain begins.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    /// A channel that turns true when the drain begins.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.begun.subscribe()
    }

    /// Waits until the drain begins.
    pub async fn begun(&self) {
        // The sender lives as long as `self`.
        let _ = self.subscribe().wait_for(|begun| *begun).await;
    }
}

/// Runs `each` for all items, spread evenly over `window`.
pub async fn spread<T>(items: Vec<T>, window: Duration, mut each: impl FnMut(T)) {
    let started = Instant::now();
    let count = items.len().max(1);
    let mut pause_until = started;
    for (done, item) in items.into_iter().enumerate() {
        let due = started + window.mul_f64(done as f64 / count as f64);
        if due >= pause_until + PACE {
            tokio::time::sleep_until(due).await;
            pause_until = due;
        }
        each(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn items_are_spread_over_the_window() {
        let started = Instant::now();
        let mut times = Vec::new();
        spread((0..100).collect(), Duration::from_secs(10), |_: i32| times.push(started.elapsed())).await;
        assert_eq!(times.len(), 100);
        let half = times.iter().filter(|t| **t < Duration::from_secs(5)).count();
        assert!((45..=55).contains(&half), "{half} of 100 in the first half");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn the_drain_begins_once() {
        let drain = Drain::new();
        assert!(!drain.has_begun());
        assert!(drain.begin());
        assert!(!drain.begin());
        drain.begun().await;
    }
}
