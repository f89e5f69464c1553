//! Batches: the events of many connections on one route in one request, with an answer for each. Each event has its own deadline and
//! its own outcome; what must be tried again is, without the rest. Must not know connections: their order is their sessions' affair.

mod parcel;
mod queue;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::Client;
use super::attempt::{Errand, Problem};
use super::call::{History, Place};
use crate::message::{Answer, Event, Failure};
use crate::upstream::breaker::Verdict;
use crate::upstream::contract::head::Head;
use crate::upstream::contract::{Contract, Refusal, batch};
use parcel::Parcel;
use queue::{Joined, Queue};

/// While a parcel waits for its place, others join it, perhaps with earlier deadlines: they are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a route's events are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Events in one request.
    pub max: usize,
    /// The longest that an event waits for others, which it does while a request of its route is under way and for a moment after it.
    pub wait: Duration,
    /// Bytes of one request's body; an event that is larger goes alone.
    pub size: usize,
}

/// Gathers the events of one route.
pub struct Batcher {
    client: Arc<Client>,
    queue: Mutex<Queue>,
    /// A parcel is full, no request is under way any more, or all are here that were waited for.
    due: Notify,
    events: Histogram,
}

impl Batcher {
    /// `events` takes the number of events of each request.
    pub(super) fn new(client: Arc<Client>, settings: BatchSettings, events: Histogram) -> Arc<Self> {
        let queue = Mutex::new(Queue::new(settings, client.settings.waiting));
        Arc::new(Self { client, queue, due: Notify::new(), events })
    }

    /// Delivers one event together with others, until it is answered or `deadline` has passed.
    pub async fn call(self: &Arc<Self>, event: &Event, deadline: Instant) -> Result<Answer, Failure> {
        let (waiter, outcome) = oneshot::channel();
        let Joined { runners, is_due } = self.queue.lock().join(event, deadline, waiter)?;
        for _ in 0..runners {
            // Boxed, for it is large and spawning moves a future several times.
            self.client.tasks.spawn(Box::pin(self.clone().run()));
        }
        if is_due {
            self.due.notify_waiters();
        }
        // A runner that ends without a word has panicked.
        outcome.await.unwrap_or_else(|_| Err(Failure::Unavailable { reason: "the batch was lost".into() }))
    }

    /// Takes one parcel to its end.
    async fn run(self: Arc<Self>) {
        // Whatever else is ready now joins first. A lone event pays no more than this.
        tokio::task::yield_now().await;
        self.gather().await;
        let mut history = History::default();
        let Some((mut parcel, mut place)) = self.depart(&history).await else { return };
        loop {
            let pause = {
                let _under_way = UnderWay(&self);
                self.attempt(&mut parcel, place, &mut history).await
            };
            let Some(latest) = parcel.latest() else { return };
            let Some(pause) = pause else { return self.fail(&mut parcel, &history.failure(String::new)) };
            // For some there is time for another attempt, for these there is not.
            self.expire(&mut parcel, Instant::now() + pause, &history.failure(String::new));
            if !pause.is_zero() {
                sleep(pause.min(latest - Instant::now())).await;
            }
            place = loop {
                let Some(earliest) = parcel.earliest() else { return };
                match self.client.place(&mut false, &history, earliest).await {
                    Ok(place) => break place,
                    Err(failure) => self.expire(&mut parcel, Instant::now(), &failure),
                }
            };
            self.queue.lock().depart();
        }
    }

    /// Waits for more events, as long as there is a reason to.
    async fn gather(&self) {
        let begun = Instant::now();
        loop {
            let mut due = pin!(self.due.notified());
            // From here on nothing is missed.
            due.as_mut().enable();
            let Some(until) = self.queue.lock().gathers_until(begun) else { return };
            if timeout_at(until, due).await.is_err() {
                return;
            }
        }
    }

    /// Takes a parcel out of the queue once there is a place for it. Until then it takes more events.
    async fn depart(&self, history: &History) -> Option<(Parcel, Place<'_>)> {
        let mut failure = history.failure(|| "the deadline had passed before an attempt".into());
        loop {
            let now = Instant::now();
            let (expired, earliest) = self.queue.lock().expire(now, &failure);
            self.log(expired, &failure);
            match self.client.place(&mut false, history, earliest?.min(now + LOOK_AGAIN)).await {
                Ok(place) => return self.queue.lock().take().map(|parcel| (parcel, place)),
                Err(why) => failure = why,
            }
        }
    }

    /// Sends the parcel once and gives out what came back. The pause before the next attempt for those that are left, or none if
    /// there is no other.
    async fn attempt(&self, parcel: &mut Parcel, place: Place<'_>, history: &mut History) -> Option<Duration> {
        let (slot, lease) = place;
        let latest = parcel.latest()?;
        let (id, body) = parcel.pack();
        if parcel.len() == 0 {
            // Whoever asked is gone.
            return None;
        }
        let shipment = Shipment { id, body, count: parcel.len() };
        parcel.note_attempt();
        self.events.observe(shipment.count as f64);
        let now = Instant::now();
        let until = latest.min(now + self.client.settings.timeout);
        let problem = match self.exchange(parcel, &lease.endpoint, &shipment, until).await {
            Ok(outcomes) => {
                lease.report(Verdict::Alive, "");
                drop(slot);
                return self.give_out(parcel, outcomes, history, latest);
            }
            Err(Problem::Final(failure)) => {
                lease.report(Verdict::Alive, "");
                self.fail(parcel, &failure);
                return None;
            }
            Err(problem) => problem,
        };
        let endpoint = self.client.judge(lease, &problem, until - now);
        drop(slot);
        self.client.pause(history, endpoint, problem, latest)
    }

    /// One attempt. Those whose deadline comes meanwhile leave; their answer would be too late.
    async fn exchange(
        &self,
        parcel: &mut Parcel,
        endpoint: &Arc<super::endpoint::Endpoint>,
        shipment: &Shipment,
        until: Instant,
    ) -> Result<Outcomes, Problem> {
        let mut attempt = pin!(self.client.attempt(endpoint, shipment, until));
        loop {
            let Some(earliest) = parcel.earliest() else { return Err(Problem::Timeout) };
            match timeout_at(earliest, attempt.as_mut()).await {
                Ok(result) => return result,
                Err(_) => self.expire(parcel, earliest, &Failure::Timeout),
            }
        }
    }

    /// Gives each event its outcome but for those that are to be tried again.
    fn give_out(
        &self,
        parcel: &mut Parcel,
        outcomes: Outcomes,
        history: &mut History,
        latest: Instant,
    ) -> Option<Duration> {
        let (mut broken, mut again, mut longest) = ((0, None), None, None);
        for (at, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(answer) => parcel.settle(at, Ok(answer)),
                Err(Refusal::Final(failure)) => {
                    if !failure.is_about_the_message() {
                        broken = (broken.0 + 1, Some(failure.clone()));
                    }
                    parcel.settle(at, Err(failure));
                }
                Err(Refusal::Retry { status, retry_after }) => {
                    longest = longest.max(retry_after);
                    again = Some(status);
                }
            }
        }
        if let (count, Some(failure)) = &broken {
            self.log(*count, failure);
        }
        self.client.again(history, Problem::Status { status: again?, retry_after: longest }, latest)
    }

    fn fail(&self, parcel: &mut Parcel, failure: &Failure) {
        let failed = parcel.latest().map_or(0, |latest| parcel.expire(latest, failure));
        if !failure.is_about_the_message() {
            self.log(failed, failure);
        }
    }

    fn expire(&self, parcel: &mut Parcel, until: Instant, failure: &Failure) {
        self.log(parcel.expire(until, failure), failure);
    }

    /// Once for all events that have failed together.
    fn log(&self, events: usize, failure: &Failure) {
        if events > 0 {
            let upstream = &*self.client.meters.upstream;
            tracing::warn!(upstream, events, "messages of a batch not delivered: {failure}");
        }
    }
}

type Outcomes = Vec<Result<Answer, Refusal>>;

/// What one attempt sends.
struct Shipment {
    id: String,
    body: Bytes,
    count: usize,
}

impl Errand for Shipment {
    type Answer = Outcomes;

    fn request(&self, contract: &Contract, now: SystemTime, head: &mut impl Head) -> Cow<'_, Bytes> {
        batch::headers(contract, &self.id, &self.body, now, head);
        Cow::Borrowed(&self.body)
    }

    fn answer_size(&self, each: usize) -> usize {
        each.saturating_mul(self.count)
    }

    fn read(&self, status: StatusCode, headers: &HeaderMap, body: Bytes, now: SystemTime) -> Result<Outcomes, Refusal> {
        batch::read(self.count, status, headers, &body, now)
    }
}

/// A request on the wire, counted in the queue until dropped.
struct UnderWay<'a>(&'a Batcher);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let was_last = self.0.queue.lock().arrive(Instant::now());
        if was_last {
            self.0.due.notify_waiters();
        }
    }
}
