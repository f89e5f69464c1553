//! Publishes to one exchange with confirms: a few channels, each with a task that owns what is unconfirmed and sends it again, in
//! order, after a reconnect. Must not know what a message means.

mod keeper;
mod lane;

use std::sync::Arc;

use lapin::BasicProperties;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::meters::Meters;
use super::supervisor::{Handle, Link};
use super::topology::Topology;
use crate::backoff::Backoff;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use keeper::Keeper;
use lane::Lane;

/// What a publisher is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherSettings {
    /// The name by which metrics and logs know it.
    pub name: Arc<str>,
    pub exchange: String,
    pub topology: Topology,
    /// Ask the broker to return what no queue takes.
    pub mandatory: bool,
    /// Unconfirmed messages on one channel.
    pub window: usize,
    pub channels: usize,
    /// An exchange that is not there is an answer, not a reason to wait.
    pub missing_is_final: bool,
}

/// A message that can be sent more than once.
pub trait Message: Send + Sync {
    /// True if these are the properties of this very message, which the broker returned.
    fn is_returned(&self, properties: &BasicProperties) -> bool;
    /// At most 255 bytes.
    fn routing_key(&self) -> &str;
    fn body(&self) -> &[u8];
    fn properties(&self) -> BasicProperties;
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    Confirmed,
    /// No queue takes it.
    Returned {
        reason: String,
    },
    /// The broker refused it.
    Nacked,
    /// The exchange is not there, where that is final.
    Missing {
        reason: String,
    },
    /// Not confirmed by the deadline.
    Late {
        /// The broker was there, and may have taken it.
        sent: bool,
        reason: String,
    },
}

/// Publishes to one exchange. Dropping it ends its channels; whoever still waits for a confirm is told that it is late.
pub struct Publisher {
    lanes: Vec<Arc<Lane>>,
    link: watch::Receiver<Link>,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the channels of one publisher say of themselves.
#[derive(Default)]
struct Shared {
    /// Why the channels are not open.
    error: Mutex<Option<String>>,
}

impl Publisher {
    pub(super) fn start(
        settings: PublisherSettings,
        handle: &Handle,
        backoff: Backoff,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let settings = Arc::new(settings);
        let meters = Arc::new(Meters::new(&settings.name, metrics));
        let start = |_| {
            let lane = Lane::new(settings.clone(), meters.clone());
            let keeper = Keeper {
                settings: settings.clone(),
                lane: lane.clone(),
                link: handle.link.clone(),
                handle: handle.clone(),
                backoff,
                shared: shared.clone(),
            };
            (lane, tasks.spawn(keeper.run()))
        };
        let (lanes, tasks) = (0..settings.channels).map(start).unzip();
        Self { lanes, link: handle.link.clone(), shared, tasks }
    }

    /// Publishes a message and waits for its confirm. Messages with the same `spread` keep the order in which this was first polled.
    pub async fn publish(&self, spread: usize, message: Arc<dyn Message>, deadline: Instant) -> Published {
        let lane = &self.lanes[spread % self.lanes.len()];
        let mut waiting = lane.enter(message);
        match timeout_at(deadline, &mut waiting.confirmed).await {
            Ok(Ok(published)) => published,
            Ok(Err(_)) => Published::Late { sent: false, reason: "the publisher has ended".into() },
            Err(_) => self.late(lane),
        }
    }

    /// Why messages cannot be published now.
    pub fn error(&self) -> Option<String> {
        self.shared.error.lock().clone()
    }

    fn late(&self, lane: &Lane) -> Published {
        let (sent, blocked) = (lane.is_open(), self.link.borrow().blocked);
        let why = match (sent, blocked) {
            (true, _) => "the broker did not confirm it",
            (false, true) => "the broker took no messages",
            (false, false) => "the broker was away",
        };
        Published::Late { sent, reason: self.error().unwrap_or_else(|| why.to_owned()) }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
