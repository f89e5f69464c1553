//! One channel and what is unconfirmed on it: publishes in order, collects confirms, sends again after a reconnect. Must not know what
//! a message means.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Connection};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::super::error::{is_not_found, reason};
use super::super::ledger::Ledger;
use super::super::meters::Meters;
use super::super::supervisor::{Handle, Link};
use super::{Message, Published, PublisherSettings, Shared};
use crate::backoff::Backoff;

/// How long a channel may take to open and to declare its topology.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A confirm that does not come in this time makes its channel suspect: it is opened anew.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often that is looked after.
const CHECK: Duration = Duration::from_secs(1);
/// Requests taken at once.
const BATCH: usize = 128;

/// A message, and who waits for its confirm.
pub struct Request {
    pub message: Arc<dyn Message>,
    pub reply: oneshot::Sender<Published>,
}

type Confirm = Pin<Box<dyn Future<Output = Result<Confirmation, lapin::Error>> + Send>>;

/// A message that is not confirmed yet.
struct Entry {
    request: Request,
    /// None while it waits for a channel.
    confirm: Option<(Confirm, Waker)>,
    sent_at: Instant,
}

/// One channel and what is unconfirmed on it, in the order of publishing.
pub struct Lane {
    settings: Arc<PublisherSettings>,
    link: watch::Receiver<Link>,
    handle: Handle,
    backoff: Backoff,
    meters: Arc<Meters>,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    ledger: Ledger,
    woken: Arc<Woken>,
    /// Something was confirmed since the channel opened.
    progress: bool,
    /// Since when the broker was not blocked.
    calm_since: Instant,
}

impl Lane {
    pub fn new(
        settings: Arc<PublisherSettings>,
        handle: &Handle,
        backoff: Backoff,
        meters: Arc<Meters>,
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            settings,
            link: handle.link.clone(),
            handle: handle.clone(),
            backoff,
            meters,
            shared,
            requests,
            entries: BTreeMap::new(),
            next_key: 0,
            ledger: Ledger::default(),
            woken: Arc::new(Woken::default()),
            progress: false,
            calm_since: Instant::now(),
        }
    }

    /// Serves requests until the program is leaving, or until the task is aborted.
    pub async fn run(mut self) {
        let mut failed = 0;
        while let Some(connection) = self.connected().await {
            self.progress = false;
            let error = match open(&self.settings.clone(), &connection).await {
                Ok(channel) => {
                    *self.shared.error.lock() = None;
                    self.shared.open.store(true, Ordering::Relaxed);
                    let ended = self.serve(&Arc::new(channel), &connection).await;
                    self.shared.open.store(false, Ordering::Relaxed);
                    ended
                }
                Err(error) => Some(error),
            };
            self.ledger.clear();
            self.entries.values_mut().for_each(|entry| entry.confirm = None);
            // With the connection everything goes. The supervisor says so, and waits between attempts.
            if !connection.status().connected() {
                match Link::replaced(&mut self.link, &connection).await {
                    true => continue,
                    false => return,
                }
            }
            let Some(error) = error else { continue };
            failed = if self.progress { 1 } else { failed + 1 };
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

    /// Publishes and collects confirms until the channel is of no more use. Why, where the channel itself failed.
    async fn serve(&mut self, channel: &Arc<Channel>, connection: &Arc<Connection>) -> Option<lapin::Error> {
        if let Err(error) = self.publish_again(channel) {
            return Some(error);
        }
        let mut batch = Vec::new();
        let mut check = tokio::time::interval(CHECK);
        let woken = self.woken.clone();
        loop {
            let blocked = self.link.borrow().blocked;
            let free = if blocked { 0 } else { self.settings.window.saturating_sub(self.entries.len()).min(BATCH) };
            tokio::select! {
                () = woken.notify.notified() => {
                    if let Err(error) = self.collect() {
                        return Some(error);
                    }
                }
                taken = self.requests.recv_many(&mut batch, free), if free > 0 => {
                    if taken == 0 {
                        return None;
                    }
                    for request in batch.drain(..) {
                        self.publish(channel, request);
                    }
                }
                changed = self.link.changed() => {
                    changed.ok()?;
                    if !self.link.borrow_and_update().is(connection) {
                        return None;
                    }
                    self.calm_since = Instant::now();
                }
                _ = check.tick() => {
                    if !blocked && self.is_stuck() {
                        return Some(timed_out("no confirm within 30 s"));
                    }
                }
            }
        }
    }

    fn publish(&mut self, channel: &Arc<Channel>, request: Request) {
        // Nobody waits for it any more, and its sender was told so.
        if request.reply.is_closed() {
            self.meters.abandoned.inc();
            return;
        }
        let key = self.next_key;
        self.next_key += 1;
        self.entries.insert(key, Entry { request, confirm: None, sent_at: Instant::now() });
        self.meters.in_flight.inc();
        self.send(channel, key);
    }

    /// Sends what a channel before this one left unconfirmed, in its order.
    fn publish_again(&mut self, channel: &Arc<Channel>) -> Result<(), lapin::Error> {
        let before = self.entries.len();
        self.entries.retain(|_, entry| !entry.request.reply.is_closed());
        let abandoned = before - self.entries.len();
        self.meters.abandoned.inc_by(abandoned as u64);
        self.meters.in_flight.dec_by(i64::try_from(abandoned).unwrap_or(i64::MAX));
        for key in self.entries.keys().copied().collect::<Vec<_>>() {
            self.meters.repeated.inc();
            self.send(channel, key);
        }
        self.collect()
    }

    fn send(&mut self, channel: &Arc<Channel>, key: u64) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let (channel, message) = (channel.clone(), entry.request.message.clone());
        let exchange = self.settings.exchange.clone();
        let options = BasicPublishOptions { mandatory: self.settings.mandatory, immediate: false };
        let confirm: Confirm = Box::pin(async move {
            let (key, properties) = (message.routing_key().into(), message.properties());
            channel.basic_publish(exchange.into(), key, options, message.body(), properties).await?.await
        });
        entry.sent_at = Instant::now();
        entry.confirm = Some((confirm, Waker::from(Arc::new(Nudge { key, woken: self.woken.clone() }))));
        // The first poll hands the frames to the connection: that keeps the order.
        if let Some(Poll::Ready(result)) = self.poll(key) {
            let failure = self.complete(key, result).err();
            self.woken.answered_at_once(failure);
        }
    }

    fn poll(&mut self, key: u64) -> Option<Poll<Result<Confirmation, lapin::Error>>> {
        let (confirm, waker) = self.entries.get_mut(&key)?.confirm.as_mut()?;
        let polled = confirm.as_mut().poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            self.entries.get_mut(&key)?.confirm = None;
        }
        Some(polled)
    }

    /// Takes everything that the broker has said so far, and tells those who wait.
    fn collect(&mut self) -> Result<(), lapin::Error> {
        let mut failed = self.woken.failure();
        loop {
            let keys = self.woken.take();
            if keys.is_empty() {
                break;
            }
            for key in keys {
                if let Some(Poll::Ready(result)) = self.poll(key)
                    && let Err(error) = self.complete(key, result)
                {
                    failed = Some(error);
                }
            }
        }
        let Self { ledger, entries, meters, progress, .. } = self;
        ledger.decide(|key, published| {
            let Some(entry) = entries.remove(&key) else { return };
            *progress = true;
            meters.in_flight.dec();
            meters.confirm_duration.observe(entry.sent_at.elapsed().as_secs_f64());
            match &published {
                Published::Confirmed => meters.confirmed.inc(),
                Published::Returned { .. } => meters.returned.inc(),
                _ => meters.nacked.inc(),
            };
            // Whoever waited may have given up.
            let _ = entry.request.reply.send(published);
        });
        failed.map_or(Ok(()), Err)
    }

    fn complete(&mut self, key: u64, result: Result<Confirmation, lapin::Error>) -> Result<(), lapin::Error> {
        let (acked, returned) = match result? {
            Confirmation::Ack(returned) => (true, returned),
            Confirmation::Nack(returned) => (false, returned),
            Confirmation::NotRequested => (false, None),
        };
        self.ledger.completed(key, acked);
        if let Some(returned) = returned {
            let id = returned.delivery.properties.message_id().as_ref().map(ShortString::as_str).unwrap_or_default();
            let named = self.entries.iter().find(|(_, entry)| !id.is_empty() && entry.request.message.id() == id);
            let owner = named.map_or(key, |(owner, _)| *owner);
            self.ledger.returned(owner, returned.reply_text.as_str().to_owned());
        }
        Ok(())
    }

    fn is_stuck(&self) -> bool {
        let oldest = self.entries.values().next();
        oldest.is_some_and(|entry| entry.sent_at.max(self.calm_since).elapsed() > CONFIRM_TIMEOUT)
    }

    /// The channel failed while its connection lives.
    fn failed(&mut self, error: &lapin::Error) {
        let Self { settings, .. } = self;
        let text = format!("exchange {:?} in {}: {}", settings.exchange, self.handle.place(), reason(error));
        if settings.missing_is_final && is_not_found(error) {
            self.meters.in_flight.dec_by(i64::try_from(self.entries.len()).unwrap_or(i64::MAX));
            for (_, entry) in std::mem::take(&mut self.entries) {
                // Whoever waited may have given up.
                let _ = entry.request.reply.send(Published::Missing { reason: text.clone() });
            }
            while let Ok(request) = self.requests.try_recv() {
                let _ = request.reply.send(Published::Missing { reason: text.clone() });
            }
        }
        let mut known = self.shared.error.lock();
        // The same failure again is not said again.
        if known.as_ref() != Some(&text) {
            tracing::error!(upstream = &*settings.name, "cannot publish: {text}; trying again");
        }
        *known = Some(text);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.meters.in_flight.dec_by(i64::try_from(self.entries.len()).unwrap_or(i64::MAX));
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

/// Which publishes have news. A confirm's waker enters its key before the next confirm can complete, so whoever sees one confirm
/// finds every earlier one here.
#[derive(Default)]
struct Woken {
    keys: Mutex<Vec<u64>>,
    failure: Mutex<Option<lapin::Error>>,
    notify: Notify,
}

impl Woken {
    fn push(&self, key: u64) {
        self.keys.lock().push(key);
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.keys.lock())
    }

    fn answered_at_once(&self, failure: Option<lapin::Error>) {
        if failure.is_some() {
            *self.failure.lock() = failure;
        }
        self.notify.notify_one();
    }

    fn failure(&self) -> Option<lapin::Error> {
        self.failure.lock().take()
    }
}

struct Nudge {
    key: u64,
    woken: Arc<Woken>,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.woken.push(self.key);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.push(self.key);
    }
}
