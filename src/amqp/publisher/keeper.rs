//! Keeps the channel of a lane open: opens it on each new connection, declares the topology, waits after failures, stands still while
//! the broker is blocked. Must not know what a message means.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::error::{is_not_found, reason};
use super::super::supervisor::{Handle, Link};
use super::lane::Lane;
use super::{Published, PublisherSettings, Shared};
use crate::backoff::Backoff;

/// How long a channel may take to open and to declare its topology.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often confirms that do not come are looked for.
const CHECK: Duration = Duration::from_secs(1);

pub struct Keeper {
    pub settings: Arc<PublisherSettings>,
    pub lane: Arc<Lane>,
    pub link: watch::Receiver<Link>,
    pub handle: Handle,
    pub backoff: Backoff,
    pub shared: Arc<Shared>,
}

impl Keeper {
    /// Until the program is leaving, or the task is aborted.
    pub async fn run(mut self) {
        let mut failed = 0;
        while let Some(connection) = self.connected().await {
            let (error, progress) = match open(&self.settings, &connection).await {
                Ok(channel) => {
                    *self.shared.error.lock() = None;
                    let error = self.serve(&Arc::new(channel), &connection).await;
                    (error, self.lane.close())
                }
                Err(error) => (Some(error), false),
            };
            // With the connection everything goes. The supervisor says so, and waits between attempts.
            if !connection.status().connected() {
                match Link::replaced(&mut self.link, &connection).await {
                    true => continue,
                    false => return,
                }
            }
            let Some(error) = error else { continue };
            failed = if progress { 1 } else { failed + 1 };
            self.failed(&error);
            let pause = self.backoff.delay(failed, None, Duration::MAX, rand::random()).unwrap_or(self.backoff.max);
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits for a connection that takes messages. None when the program is leaving.
    async fn connected(&mut self) -> Option<Arc<Connection>> {
        let ready = |link: &Link| link.stopped || link.connection.is_some() && !link.blocked;
        let link = self.link.wait_for(ready).await.ok()?;
        link.connection.clone()
    }

    /// Lets messages go out and collects confirms until the channel is of no more use. Why, where the channel itself failed.
    async fn serve(&mut self, channel: &Arc<Channel>, connection: &Arc<Connection>) -> Option<lapin::Error> {
        self.lane.open(channel.clone());
        let mut check = tokio::time::interval(CHECK);
        loop {
            tokio::select! {
                () = self.lane.news() => {
                    if let Err(error) = self.lane.collect() {
                        return Some(error);
                    }
                }
                changed = self.link.changed() => {
                    changed.ok()?;
                    let link = self.link.borrow_and_update();
                    match (link.is(connection), link.blocked) {
                        (false, _) => return None,
                        (true, true) => self.lane.pause(),
                        (true, false) => self.lane.resume(channel.clone()),
                    }
                }
                _ = check.tick() => {
                    if self.lane.is_stuck() {
                        return Some(timed_out("no confirm within 30 s"));
                    }
                }
            }
        }
    }

    /// The channel failed while its connection lives.
    fn failed(&mut self, error: &lapin::Error) {
        let Self { settings, .. } = self;
        let text = format!("exchange {:?} in {}: {}", settings.exchange, self.handle.place(), reason(error));
        if settings.missing_is_final && is_not_found(error) {
            self.lane.refuse_all(&Published::Missing { reason: text.clone() });
        }
        let mut known = self.shared.error.lock();
        // The same failure again is not said again.
        if known.as_ref() != Some(&text) {
            tracing::error!(upstream = &*settings.name, "cannot publish: {text}; trying again");
        }
        *known = Some(text);
    }
}

async fn open(settings: &PublisherSettings, connection: &Connection) -> Result<Channel, lapin::Error> {
    let open = async {
        let channel = connection.create_channel().await?;
        settings.topology.apply(&channel, &settings.exchange).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    };
    timeout(OPEN_TIMEOUT, open).await.unwrap_or_else(|_| Err(timed_out("no answer from the broker")))
}

fn timed_out(what: &str) -> lapin::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, what).into()
}
