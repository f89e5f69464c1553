//! How long an admin connection may wait for a request's head. hyper would make a timer for each request; here one for each connection
//! looks now and then whether it still waits for the same head. Must not know what is asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The heads of one connection, as hyper's timer of their timeout: it is asked to sleep whenever hyper begins to wait for one.
#[derive(Clone)]
pub struct Heads {
    /// Odd while one is waited for.
    turn: Arc<AtomicU64>,
    /// What hyper is told the time is: it needs none.
    epoch: Instant,
}

impl Heads {
    pub fn new() -> Self {
        Self { turn: Arc::default(), epoch: tokio::time::Instant::now().into_std() }
    }

    /// The one that was waited for is there.
    pub fn came(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store((turn | 1) + 1, Ordering::Relaxed);
    }

    /// Returns once one has been waited for `period` at least, and twice that at most.
    pub async fn late(&self, period: Duration) {
        let mut before = 0;
        loop {
            tokio::time::sleep(period).await;
            let now = self.turn.load(Ordering::Relaxed);
            if now == before && now % 2 == 1 {
                return;
            }
            before = now;
        }
    }

    fn wait(&self) -> Pin<Box<dyn Sleep>> {
        self.turn.fetch_or(1, Ordering::Relaxed);
        Box::pin(Never)
    }
}

impl Timer for Heads {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.wait()
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.wait()
    }

    fn now(&self) -> Instant {
        self.epoch
    }
}

/// `Heads::late` says when.
struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Never {}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_same_head_is_waited_for_one_period_at_least_and_two_at_most() {
        for already_s in 0..10 {
            let (heads, started) = (Heads::new(), tokio::time::Instant::now());
            let waiting = async {
                tokio::time::sleep(Duration::from_secs(already_s)).await;
                let _forever = heads.sleep_until(heads.now());
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = heads.late(PERIOD) => {}
                () = waiting => {}
            }
            let waited = started.elapsed() - Duration::from_secs(already_s);
            assert!((PERIOD..=2 * PERIOD).contains(&waited), "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_answered_or_asks_again_is_not_late() {
        let heads = Heads::new();
        let talk = async {
            for _ in 0..20 {
                let _head = heads.sleep_until(heads.now());
                tokio::time::sleep(PERIOD * 9 / 10).await;
                heads.came();
            }
            // An answer that is a long stream.
            tokio::time::sleep(5 * PERIOD).await;
        };
        tokio::select! {
            () = heads.late(PERIOD) => panic!("nothing was late"),
            () = talk => {}
        }
    }
}
