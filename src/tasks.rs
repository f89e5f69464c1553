//! The only place that spawns tasks: each is counted, so that a drain can wait for all of them. Knows tokio; must not know the domain.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// A group of tasks that end together. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` as a task of its own. A panic ends that task alone.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(future))
    }

    /// How many tasks run now.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until no task runs. New tasks may still be spawned; they are waited for too.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
