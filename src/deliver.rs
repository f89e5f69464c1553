//! Carries commands to connections of this node: sends, closes, joins, leaves, contexts, with outcomes that are true.
//! Knows the registry; must not know routes, HTTP or who asked.

mod rights;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use crate::codes::Cause;
use crate::connection::{Connection, Joined};
use crate::ids::ConnectionId;
use crate::mailbox::{Close, Offered, OnWritten, Receipt, Urgency, Way};
use crate::message::{Command, Ending, Payload, Target, Violation};
use crate::pipeline::Pipeline;
use crate::recorder::{self, Recorder, Redaction};
use crate::registry::Registry;
use crate::revocations::Revocations;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// Connections that one turn of a task writes to, and the fewest for which another worker is asked to help.
const WRITES_A_TURN: usize = 32;
const WRITES_A_TASK_MIN: usize = 256;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes are in the socket.
    Written,
    /// The payload is in the connection's mailbox.
    Queued,
    /// The close, join, leave or context was carried out.
    Done,
    /// A send or close to a user, a group or all.
    Many(Delivered),
    /// There is no such connection, or no more.
    Gone,
    /// Its client does not read fast enough: nothing was queued.
    Full,
    /// Larger than the connection's whole send buffer.
    TooLarge,
    /// The payload does not fit the endpoint's push schema.
    Invalid(Vec<Violation>),
    /// The connection is in as many groups as its endpoint allows.
    TooManyGroups,
    /// The connection's token does not allow the group.
    Forbidden,
    /// Queued, but not written in time; it may still be.
    TimedOut,
}

/// How many of a target's connections took a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Delivered {
    /// Put into mailboxes (a send), or told (a close).
    pub delivered: usize,
    /// Not taken: the client was too slow, or closing, or the payload does not fit its endpoint.
    pub dropped: usize,
}

impl Outcome {
    /// The outcome's name, as in JSON and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Queued => "queued",
            Self::Done => "done",
            Self::Many(_) => "delivered",
            Self::Gone => "gone",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Invalid(_) => "invalid",
            Self::TooManyGroups => "too_many_groups",
            Self::Forbidden => "forbidden",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Carries commands out.
pub struct Deliver {
    registry: Arc<Registry>,
    revocations: Revocations,
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    /// What nearly every push counts, so that it is not looked up.
    written: Counter,
}

/// A connection's entry in the registry; dropping it takes the entry out.
pub struct Registration {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.remove(&self.connection.id);
        self.connection.mailbox.shut();
    }
}

impl Deliver {
    pub fn new(registry: Arc<Registry>, pipeline: Arc<Pipeline>, metrics: Arc<Metrics>, tasks: Tasks) -> Arc<Self> {
        let written = metrics.command("send", Outcome::Written.name());
        Arc::new(Self { registry, revocations: Revocations::default(), pipeline, metrics, tasks, written })
    }

    /// Makes a connection reachable until the registration is dropped.
    pub fn register(&self, connection: Arc<Connection>) -> Registration {
        self.registry.insert(connection.clone());
        Registration { registry: self.registry.clone(), connection }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn recorder(&self) -> &Arc<Recorder> {
        self.pipeline.recorder()
    }

    /// Carries out one command. `sender` is the connection whose event is answered, if one is.
    pub fn run(&self, command: &Command, sender: Option<&ConnectionId>) -> Outcome {
        let outcome = match command {
            Command::Send { to, except, payload } => self.send(to, except, payload, sender),
            Command::Close { to, code, reason } => {
                self.close(to, &Ending::new(*code, reason.as_str(), Cause::Server), sender)
            }
            Command::Join { connection, group } => match connection.as_ref().or(sender) {
                Some(id) => self.join(id, group),
                None => Outcome::Gone,
            },
            Command::Leave { connection, group } => match connection.as_ref().or(sender) {
                Some(id) if self.registry.leave(id, group) => Outcome::Done,
                _ => Outcome::Gone,
            },
            Command::Context { connection, value } => {
                match connection.as_ref().or(sender).and_then(|id| self.registry.get(id)) {
                    Some(connection) => {
                        connection.set_context(value.clone());
                        Outcome::Done
                    }
                    None => Outcome::Gone,
                }
            }
        };
        self.metrics.count_command(command.name(), outcome.name());
        outcome
    }

    /// Sends to one connection on behalf of a pusher that can come again: refused over half of the send buffer.
    /// With `wait`, returns once the bytes are in the socket, or the time is over.
    pub async fn push(&self, id: &ConnectionId, payload: Payload, wait: Option<Duration>) -> Outcome {
        let outcome = self.push_and_wait(id, payload, wait).await;
        match outcome {
            Outcome::Written => _ = self.written.inc(),
            _ => self.metrics.count_command("send", outcome.name()),
        }
        outcome
    }

    async fn push_and_wait(&self, id: &ConnectionId, payload: Payload, wait: Option<Duration>) -> Outcome {
        let Some(wait) = wait else { return self.try_offer(id, payload, NOBODY, Way::Outlet) };
        let mut receipt = None;
        match (self.try_offer(id, payload, Awaited(&mut receipt), Way::Outlet), receipt) {
            (Outcome::Queued, None) => Outcome::Written,
            (Outcome::Queued, Some(receipt)) => match tokio::time::timeout(wait, receipt).await {
                Ok(Ok(())) => Outcome::Written,
                Ok(Err(_)) => Outcome::Gone,
                Err(_) => Outcome::TimedOut,
            },
            (refused, _) => refused,
        }
    }

    /// As `push` without `wait`, for those that cannot wait: a queue's command that is refused is offered again later. Queues have many
    /// at once, which the session writes together.
    pub fn offer(&self, id: &ConnectionId, payload: Payload) -> Outcome {
        let outcome = self.try_offer(id, payload, NOBODY, Way::Queue);
        if outcome != Outcome::Full {
            self.metrics.count_command("send", outcome.name());
        }
        outcome
    }

    fn try_offer(&self, id: &ConnectionId, payload: Payload, receipt: impl Receipt, way: Way) -> Outcome {
        let Some(connection) = self.registry.get(id) else { return Outcome::Gone };
        match self.pipeline.check_push(&connection.endpoint, &payload) {
            Ok(()) => outcome_of(self.push_to(&connection, payload, receipt, Urgency::Polite, way)),
            Err(violations) => Outcome::Invalid(violations),
        }
    }

    fn send(&self, to: &Target, except: &[ConnectionId], payload: &Payload, sender: Option<&ConnectionId>) -> Outcome {
        let one = match to {
            Target::Sender => sender,
            Target::Connection(id) => Some(id),
            _ => return self.send_many(to, except, payload),
        };
        let Some(connection) = one.and_then(|id| self.registry.get(id)) else { return Outcome::Gone };
        match self.pipeline.check_push(&connection.endpoint, payload) {
            Ok(()) => outcome_of(self.push_to(&connection, payload.clone(), NOBODY, Urgency::Insistent, Way::Queue)),
            Err(violations) => Outcome::Invalid(violations),
        }
    }

    /// One buffer for all; what depends on the endpoint is found once for each that is met. All have it in their mailboxes when this
    /// returns, in the order of the calls; the first few also in their sockets, and the others soon.
    fn send_many(&self, to: &Target, except: &[ConnectionId], payload: &Payload) -> Outcome {
        let payload = &payload.for_many();
        let mut left = Vec::new();
        let mut sum = Delivered::default();
        let mut met: Vec<Met> = Vec::new();
        self.for_each(to, |connection| {
            if except.contains(&connection.id) {
                return;
            }
            // Endpoints are few.
            let at = met.iter().position(|met| met.endpoint == connection.endpoint).unwrap_or_else(|| {
                met.push(self.meet(&connection.endpoint, to, payload));
                met.len() - 1
            });
            match self.offer_to_met(&mut met[at], &connection, payload) {
                Some(Offered::Queued | Offered::Replaced) => sum.delivered += 1,
                Some(Offered::Left) => {
                    sum.delivered += 1;
                    left.push(connection);
                }
                _ => sum.dropped += 1,
            }
        });
        self.write_out(left);
        for met in &met {
            self.metrics.count_conflated(&met.endpoint, met.replaced);
        }
        let all_refused = !met.is_empty() && met.iter().all(|met| met.fits.is_err());
        match met.into_iter().find_map(|met| met.fits.err()) {
            Some(violations) if all_refused => Outcome::Invalid(violations),
            _ => Outcome::Many(sum),
        }
    }

    fn meet(&self, endpoint: &Arc<str>, to: &Target, payload: &Payload) -> Met {
        let key = match to {
            Target::Group(group) => self.pipeline.conflation_key(endpoint, group, payload),
            _ => None,
        };
        Met { endpoint: endpoint.clone(), fits: self.pipeline.check_push(endpoint, payload), key, replaced: 0 }
    }

    /// None where it does not fit the endpoint.
    fn offer_to_met(&self, met: &mut Met, connection: &Connection, payload: &Payload) -> Option<Offered> {
        if met.fits.is_err() {
            return None;
        }
        let offered = match &met.key {
            Some(key) => self.pipeline.recorder().offer(
                connection,
                payload.clone(),
                self.as_push(connection),
                NOBODY,
                |payload, receipt| connection.mailbox.push_latest(key, payload, receipt, Way::OutletOrLeft),
            ),
            None => self.push_to(connection, payload.clone(), NOBODY, Urgency::Insistent, Way::OutletOrLeft),
        };
        met.replaced += u64::from(offered == Offered::Replaced);
        Some(offered)
    }

    /// Writes what a send to many left, a few in a turn: whatever else a worker has to do goes before the next few.
    fn write_out(&self, mut left: Vec<Arc<Connection>>) {
        if left.is_empty() {
            return;
        }
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        let most = left.len().div_ceil(workers).max(WRITES_A_TASK_MIN);
        while !left.is_empty() {
            let part = left.split_off(left.len().saturating_sub(most));
            self.tasks.spawn(async move {
                let mut part = part.into_iter();
                while part.len() > 0 {
                    part.by_ref().take(WRITES_A_TURN).for_each(|connection| connection.mailbox.write_out());
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    fn push_to(
        &self,
        connection: &Connection,
        payload: Payload,
        receipt: impl Receipt,
        urgency: Urgency,
        way: Way,
    ) -> Offered {
        let recorder = self.pipeline.recorder();
        recorder.offer(connection, payload, self.as_push(connection), receipt, |payload, receipt| {
            connection.mailbox.push(payload, receipt, urgency, way)
        })
    }

    /// How a command's message is recorded.
    fn as_push<'a>(&'a self, connection: &'a Connection) -> (recorder::Cause, impl FnOnce() -> Arc<Redaction> + 'a) {
        (recorder::Cause::Push, || self.pipeline.redaction(&connection.endpoint))
    }

    /// Asks the target's connections to close after what is queued for them.
    fn close(&self, to: &Target, ending: &Ending, sender: Option<&ConnectionId>) -> Outcome {
        let one = match to {
            Target::Sender => sender,
            Target::Connection(id) => Some(id),
            _ => {
                let mut sum = Delivered::default();
                self.for_each(to, |connection| match connection.mailbox.close(Close::AfterQueued(ending.clone())) {
                    true => sum.delivered += 1,
                    false => sum.dropped += 1,
                });
                return Outcome::Many(sum);
            }
        };
        match one.and_then(|id| self.registry.get(id)) {
            Some(connection) if connection.mailbox.close(Close::AfterQueued(ending.clone())) => Outcome::Done,
            _ => Outcome::Gone,
        }
    }

    fn join(&self, id: &ConnectionId, group: &Arc<str>) -> Outcome {
        let Some(connection) = self.registry.get(id) else { return Outcome::Gone };
        if !self.pipeline.may_join(&connection.endpoint, connection.grant().as_deref(), group) {
            return Outcome::Forbidden;
        }
        match self.registry.join(id, group) {
            Joined::New | Joined::Already => Outcome::Done,
            Joined::TooMany => Outcome::TooManyGroups,
            Joined::Gone => Outcome::Gone,
        }
    }

    /// Gives each away: to come back to 10,000 of them only to let them go would fetch each from memory once more.
    fn for_each(&self, to: &Target, each: impl FnMut(Arc<Connection>)) {
        match to {
            Target::All => self.registry.all().into_iter().for_each(each),
            Target::User(user) => self.registry.user(user).into_iter().for_each(each),
            Target::Group(group) => self.registry.group(group).into_iter().for_each(each),
            Target::Connection(id) => self.registry.get(id).into_iter().for_each(each),
            Target::Sender => {}
        }
    }
}

const NOBODY: Option<OnWritten> = None;

/// Where the receipt of a payload is put that has to wait. Nearly none has to, so that nothing is made for it before.
struct Awaited<'a>(&'a mut Option<oneshot::Receiver<()>>);

impl Receipt for Awaited<'_> {
    fn queued(self) -> Option<OnWritten> {
        let (written, receipt) = oneshot::channel();
        *self.0 = Some(receipt);
        // The receiver may have given up; then nobody needs to know.
        Some(Box::new(move || {
            let _ = written.send(());
        }))
    }

    fn written(self) {}
}

/// What a send to many comes to on one endpoint.
struct Met {
    endpoint: Arc<str>,
    /// What its push schema says.
    fits: Result<(), Vec<Violation>>,
    /// What the message is the newest of, if its group asks for that.
    key: Option<Arc<str>>,
    replaced: u64,
}

fn outcome_of(offered: Offered) -> Outcome {
    match offered {
        Offered::Queued | Offered::Left | Offered::Replaced => Outcome::Queued,
        Offered::Full => Outcome::Full,
        Offered::TooLarge => Outcome::TooLarge,
        // The one that overflows is cut: for its pusher the connection is gone.
        Offered::Overflow | Offered::Gone => Outcome::Gone,
    }
}
