//! One channel and what is unconfirmed on it: publishes in order, collects confirms, sends again after a reconnect. Must not know what
//! a message means.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::ledger::Ledger;
use super::super::meters::Meters;
use super::{Message, Published, PublisherSettings};

/// A confirm that does not come in this time makes its channel suspect: it is opened anew.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// One channel's messages. Whoever publishes enters here and sends at once if it can; the keeper's task does the rest.
pub struct Lane {
    settings: Arc<PublisherSettings>,
    meters: Arc<Meters>,
    state: Mutex<State>,
    woken: Arc<Woken>,
}

/// All messages that somebody waits for, by a number that is their order. Their count is bounded by those who wait: a connection has
/// no more calls under way than its window.
struct State {
    /// None while there is none, or while the broker is blocked.
    channel: Option<Arc<Channel>>,
    entries: BTreeMap<u64, Entry>,
    next_key: u64,
    /// Entries from this key on were not sent on the present channel, those before it were.
    first_unsent: u64,
    sent: usize,
    ledger: Ledger,
    /// Something was confirmed since the channel opened.
    progress: bool,
    /// Since when the broker was not blocked.
    calm_since: Instant,
}

type Confirm = Pin<Box<dyn Future<Output = Result<Confirmation, lapin::Error>> + Send>>;

struct Entry {
    message: Arc<dyn Message>,
    reply: oneshot::Sender<Published>,
    /// None while it waits for a channel.
    confirm: Option<(Confirm, Waker)>,
    sent_at: Option<Instant>,
}

/// A message on its way. Dropping it takes the message back, if it was not sent yet.
pub struct Waiting {
    lane: Arc<Lane>,
    key: u64,
    pub confirmed: oneshot::Receiver<Published>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lane.leave(self.key);
    }
}

impl Lane {
    pub fn new(settings: Arc<PublisherSettings>, meters: Arc<Meters>) -> Arc<Self> {
        let state = State {
            channel: None,
            entries: BTreeMap::new(),
            next_key: 0,
            first_unsent: 0,
            sent: 0,
            ledger: Ledger::default(),
            progress: false,
            calm_since: Instant::now(),
        };
        Arc::new(Self { settings, meters, state: Mutex::new(state), woken: Arc::default() })
    }

    /// Enters a message behind those that were entered before, and sends it if the window allows.
    pub fn enter(self: &Arc<Self>, message: Arc<dyn Message>) -> Waiting {
        let (reply, confirmed) = oneshot::channel();
        let mut state = self.state.lock();
        let key = state.next_key;
        state.next_key += 1;
        state.entries.insert(key, Entry { message, reply, confirm: None, sent_at: None });
        self.send_unsent(&mut state);
        Waiting { lane: self.clone(), key, confirmed }
    }

    /// True while messages are sent.
    pub fn is_open(&self) -> bool {
        self.state.lock().channel.is_some()
    }

    /// Waits until the broker has said something.
    pub async fn news(&self) {
        self.woken.notify.notified().await;
    }

    /// Sends everything on a new channel, in order.
    pub fn open(&self, channel: Arc<Channel>) {
        let mut state = self.state.lock();
        state.progress = false;
        state.calm_since = Instant::now();
        state.channel = Some(channel);
        self.send_unsent(&mut state);
    }

    /// Sends nothing for now. What was sent may still be confirmed.
    pub fn pause(&self) {
        self.state.lock().channel = None;
    }

    /// Sends again on the channel that was paused.
    pub fn resume(&self, channel: Arc<Channel>) {
        let mut state = self.state.lock();
        state.calm_since = Instant::now();
        state.channel = Some(channel);
        self.send_unsent(&mut state);
    }

    /// The channel is gone: all is to be sent again, but for what nobody waits for any more. True if anything was confirmed on it.
    pub fn close(&self) -> bool {
        let mut state = self.state.lock();
        let before = state.entries.len();
        state.channel = None;
        state.entries.retain(|_, entry| !entry.reply.is_closed());
        state.entries.values_mut().for_each(|entry| entry.confirm = None);
        state.ledger.clear();
        state.first_unsent = 0;
        self.meters.abandoned.inc_by((before - state.entries.len()) as u64);
        self.meters.in_flight.dec_by(i64::try_from(state.sent).unwrap_or(i64::MAX));
        state.sent = 0;
        self.woken.take();
        state.progress
    }

    /// Gives everything up, for the same reason.
    pub fn refuse_all(&self, published: &Published) {
        for (_, entry) in std::mem::take(&mut self.state.lock().entries) {
            // Whoever waited may have given up.
            let _ = entry.reply.send(published.clone());
        }
    }

    /// Takes everything that the broker has said so far, tells those who wait, and sends what the window now allows.
    pub fn collect(&self) -> Result<(), lapin::Error> {
        let mut state = self.state.lock();
        let mut failed = None;
        loop {
            let keys = self.woken.take();
            if keys.is_empty() {
                break;
            }
            for key in keys {
                // The first error says why; those after it only that the channel is closed.
                failed = failed.or(state.poll(key));
            }
        }
        state.decide(&self.meters);
        self.send_unsent(&mut state);
        failed.map_or(Ok(()), Err)
    }

    /// True if the oldest message waits for its confirm for too long.
    pub fn is_stuck(&self) -> bool {
        let state = self.state.lock();
        let oldest = state.entries.values().next().and_then(|entry| entry.sent_at);
        state.channel.is_some() && oldest.is_some_and(|at| at.max(state.calm_since).elapsed() > CONFIRM_TIMEOUT)
    }

    /// Whoever entered this message does not wait any more. If it was sent, the broker may have it: its confirm is awaited.
    fn leave(&self, key: u64) {
        let mut state = self.state.lock();
        if key >= state.first_unsent && state.entries.remove(&key).is_some() {
            self.meters.abandoned.inc();
        }
    }

    fn send_unsent(&self, state: &mut State) {
        let Some(channel) = state.channel.clone() else { return };
        while state.sent < self.settings.window {
            let first_unsent = state.first_unsent;
            let Some((&key, entry)) = state.entries.range_mut(first_unsent..).next() else { return };
            state.first_unsent = key + 1;
            if entry.sent_at.is_some() {
                self.meters.repeated.inc();
            }
            entry.confirm = Some((
                confirm_of(&self.settings, &channel, &entry.message),
                Waker::from(Arc::new(Nudge { key, woken: self.woken.clone() })),
            ));
            entry.sent_at = Some(Instant::now());
            state.sent += 1;
            self.meters.in_flight.inc();
            // The first poll hands the frames to the connection: that keeps the order. What is answered at once is collected later.
            if state.is_answered_at_once(key) {
                self.woken.push(key);
            }
        }
    }
}

impl State {
    /// Polls one confirm and enters what it says. The error of a channel that failed.
    fn poll(&mut self, key: u64) -> Option<lapin::Error> {
        let entry = self.entries.get_mut(&key)?;
        let (confirm, waker) = entry.confirm.as_mut()?;
        let Poll::Ready(result) = confirm.as_mut().poll(&mut Context::from_waker(waker)) else { return None };
        entry.confirm = None;
        self.complete(key, result).err()
    }

    /// The first poll. An answer that is there already is kept for the next one.
    fn is_answered_at_once(&mut self, key: u64) -> bool {
        let Some((confirm, waker)) = self.entries.get_mut(&key).and_then(|entry| entry.confirm.as_mut()) else {
            return false;
        };
        let Poll::Ready(result) = confirm.as_mut().poll(&mut Context::from_waker(waker)) else { return false };
        *confirm = Box::pin(std::future::ready(result));
        true
    }

    fn complete(&mut self, key: u64, result: Result<Confirmation, lapin::Error>) -> Result<(), lapin::Error> {
        let (acked, returned) = match result? {
            Confirmation::Ack(returned) => (true, returned),
            Confirmation::Nack(returned) => (false, returned),
            Confirmation::NotRequested => (false, None),
        };
        self.ledger.completed(key, acked);
        if let Some(returned) = returned {
            let properties = &returned.delivery.properties;
            let known = self.entries.iter().find(|(_, entry)| entry.message.is_returned(properties));
            let owner = known.map_or(key, |(owner, _)| *owner);
            self.ledger.returned(owner, returned.reply_text.as_str().to_owned());
        }
        Ok(())
    }

    fn decide(&mut self, meters: &Meters) {
        let Self { ledger, entries, sent, progress, .. } = self;
        ledger.decide(|key, published| {
            let Some(entry) = entries.remove(&key) else { return };
            *progress = true;
            *sent -= 1;
            meters.in_flight.dec();
            let took = entry.sent_at.map(|at| at.elapsed()).unwrap_or_default();
            meters.confirm_duration.observe(took.as_secs_f64());
            match &published {
                Published::Confirmed => meters.confirmed.inc(),
                Published::Returned { .. } => meters.returned.inc(),
                _ => meters.nacked.inc(),
            };
            // Whoever waited may have given up.
            let _ = entry.reply.send(published);
        });
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.meters.in_flight.dec_by(i64::try_from(self.state.get_mut().sent).unwrap_or(i64::MAX));
    }
}

fn confirm_of(settings: &Arc<PublisherSettings>, channel: &Arc<Channel>, message: &Arc<dyn Message>) -> Confirm {
    let (settings, channel, message) = (settings.clone(), channel.clone(), message.clone());
    Box::pin(async move {
        let options = BasicPublishOptions { mandatory: settings.mandatory, immediate: false };
        let (exchange, key) = (settings.exchange.as_str().into(), message.routing_key().into());
        channel.basic_publish(exchange, key, options, message.body(), message.properties()).await?.await
    })
}

/// Which publishes have news. A confirm's waker enters its key before the next confirm can complete, so whoever sees one confirm
/// finds every earlier one here.
#[derive(Default)]
struct Woken {
    keys: Mutex<Vec<u64>>,
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
