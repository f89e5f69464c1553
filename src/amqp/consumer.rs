//! Consumes one queue with manual acks: declares it and begins again after every loss. Must not know what a message means.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::delivery::Delivery;
use super::error::reason;
use super::supervisor::{Handle, Link};
use super::topology::Topology;
use crate::backoff::Backoff;
use crate::tasks::Tasks;

/// How long a channel may take to open, to declare its topology and to begin.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSettings {
    pub queue: String,
    /// The exchange that the topology's queues are bound to; empty for the default one.
    pub exchange: String,
    pub topology: Topology,
    /// Messages that may be under way, not acked.
    pub prefetch: u16,
}

/// The messages of one queue. Dropping it ends the consumer; what was not acked goes back to the queue.
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    error: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Consumer {
    pub(super) fn start(settings: ConsumerSettings, link: &Handle, backoff: Backoff, tasks: &Tasks) -> Self {
        let (sender, deliveries) = mpsc::channel(usize::from(settings.prefetch));
        let error = Arc::new(Mutex::new(None));
        let consuming = Consuming {
            settings,
            link: link.link.clone(),
            handle: link.clone(),
            backoff,
            error: error.clone(),
            sender,
        };
        Self { deliveries, error, task: tasks.spawn(consuming.run()) }
    }

    /// The next message. None when the program is leaving.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// Why nothing can be consumed now; shared, so that it can be asked while somebody waits for a message.
    pub fn error(&self) -> Arc<Mutex<Option<String>>> {
        self.error.clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Consuming {
    settings: ConsumerSettings,
    link: watch::Receiver<Link>,
    handle: Handle,
    backoff: Backoff,
    error: Arc<Mutex<Option<String>>>,
    sender: mpsc::Sender<Delivery>,
}

impl Consuming {
    async fn run(mut self) {
        let mut failed = 0;
        while let Some(connection) = self.connected().await {
            let (error, begun) = match self.open(&connection).await {
                Ok((_channel, consumer)) => {
                    *self.error.lock() = None;
                    match self.pump(consumer).await {
                        Some(error) => (error, true),
                        None => return,
                    }
                }
                Err(error) => (reason(&error), false),
            };
            if !connection.status().connected() {
                failed = 0;
                // The supervisor knows soon; until then its link would bring us straight back.
                match Link::replaced(&mut self.link, &connection).await {
                    true => continue,
                    false => return,
                }
            }
            failed = if begun { 1 } else { failed + 1 };
            self.failed(&error);
            let pause = self.backoff.delay(failed, None, Duration::MAX, rand::random()).unwrap_or(self.backoff.max);
            tokio::time::sleep(pause).await;
        }
    }

    async fn connected(&mut self) -> Option<Arc<Connection>> {
        let link = self.link.wait_for(|link| link.stopped || link.connection.is_some()).await.ok()?;
        link.connection.clone()
    }

    async fn open(&self, connection: &Connection) -> Result<(Channel, lapin::Consumer), lapin::Error> {
        let settings = &self.settings;
        let open = async {
            let channel = connection.create_channel().await?;
            settings.topology.apply(&channel, &settings.exchange).await?;
            channel.basic_qos(settings.prefetch, BasicQosOptions::default()).await?;
            let (queue, options) = (settings.queue.as_str().into(), BasicConsumeOptions::default());
            let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
            Ok((channel, consumer))
        };
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer from the broker");
        timeout(OPEN_TIMEOUT, open).await.unwrap_or_else(|_| Err(late().into()))
    }

    /// Hands messages on until the channel ends: then why. None when nobody takes them any more.
    async fn pump(&self, mut consumer: lapin::Consumer) -> Option<String> {
        loop {
            match consumer.next().await {
                Some(Ok(delivery)) => self.sender.send(Delivery::new(delivery)).await.ok()?,
                Some(Err(error)) => return Some(reason(&error)),
                None => return Some("the broker cancelled the consumer: the queue may have been deleted".into()),
            }
        }
    }

    fn failed(&self, error: &str) {
        let text = format!("queue {:?} in {}: {error}", self.settings.queue, self.handle.place());
        let mut known = self.error.lock();
        // The same failure again is not said again.
        if known.as_ref() != Some(&text) {
            tracing::error!("cannot consume: {text}; trying again");
        }
        *known = Some(text);
    }
}
