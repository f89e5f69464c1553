//! Commands that come in by RabbitMQ: from the queue that nodes share, and from the node's own, where workers answer. A message is
//! acked when it is carried out, and never lost in between. Must not know how the broker's connections are kept up.

mod held;
mod order;
mod settle;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::amqp::{Broker, Consumer, ConsumerSettings, Declare, Delivery, QueueKind};
use crate::amqp::{QueueSettings, Topology};
use crate::deliver::{Deliver, Outcome};
use crate::ids::{ConnectionId, NodeId};
use crate::message::{Command, Payload, Target, Traceparent};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{QueueLabel, QueueOutcome};
use crate::telemetry::{Metrics, Span, Spans};
use held::HeldBack;
pub use order::{Head, Order};
use settle::{Copies, FROM_HEADER, Settled};

/// How often commands for slow clients are offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(20);

/// Commands of one list whose faults are named.
const FAULTS_MAX: usize = 10;

/// What becomes of a command whose connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Counted and acked.
    Drop,
    DeadLetter,
}

/// Settings of the commands that come by queues. Restart-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandsSettings {
    /// The queue that nodes share; none consumes nothing but the node's own.
    pub queue: Option<String>,
    pub kind: QueueKind,
    pub declare: Declare,
    pub prefetch: u16,
    /// Bytes of one message's body.
    pub size_max: usize,
    /// How long a command waits for a client that does not read.
    pub wait: Duration,
    pub gone: Gone,
    /// Where a command goes that cannot be carried out; without one it is rejected, and the queue's own policy counts.
    pub dead_letter_queue: Option<String>,
}

impl CommandsSettings {
    /// The fanout exchange to which the own queue of every node is bound that shares a commands queue; none where none is shared.
    pub fn nodes_exchange(&self) -> String {
        self.queue.as_ref().map(|queue| format!("{queue}.nodes")).unwrap_or_default()
    }
}

/// Both queues of a node, being consumed.
pub struct CommandQueues {
    copies: Arc<Copies>,
    errors: Vec<Arc<Mutex<Option<String>>>>,
}

impl CommandQueues {
    /// Begins to consume. The shared queue is left to other nodes once `stop` is done; the node's own goes on.
    pub fn start(
        broker: &Arc<Broker>,
        node: NodeId,
        settings: CommandsSettings,
        (deliver, spans): (Arc<Deliver>, Spans),
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let copies = Arc::new(Copies::new(broker, node, &settings));
        let settings = Arc::new(settings);
        let make = |source: Source, consumer: ConsumerSettings| CommandQueue {
            source,
            name: consumer.queue.as_str().into(),
            consumer: broker.consumer(consumer),
            settings: settings.clone(),
            node,
            deliver: deliver.clone(),
            copies: copies.clone(),
            spans: spans.clone(),
            meters: Meters::new(source, metrics),
            metrics: metrics.clone(),
            held: HeldBack::new(usize::from(settings.prefetch)),
            under_way: FuturesUnordered::new(),
        };
        let own = make(Source::Node, node_consumer(broker, &settings));
        let mut errors = vec![own.consumer.error()];
        tasks.spawn(own.run(std::future::pending()));
        if let Some(queue) = &settings.queue {
            let shared = make(Source::Commands, shared_consumer(queue, &settings));
            errors.push(shared.consumer.error());
            tasks.spawn(shared.run(stop));
        }
        Self { copies, errors }
    }

    /// Why commands cannot be consumed, or not be settled.
    pub fn errors(&self) -> Vec<String> {
        self.errors.iter().filter_map(|error| error.lock().clone()).chain(self.copies.error()).collect()
    }
}

fn shared_consumer(queue: &str, settings: &CommandsSettings) -> ConsumerSettings {
    let dead_letters = settings.dead_letter_queue.clone();
    let shared = QueueSettings { name: queue.to_owned(), kind: settings.kind, bind: None, dead_letters };
    ConsumerSettings {
        queue: queue.to_owned(),
        exchange: String::new(),
        topology: Topology { declare: settings.declare, exchange_type: "fanout".into(), queues: vec![shared] },
        prefetch: settings.prefetch,
    }
}

fn node_consumer(broker: &Broker, settings: &CommandsSettings) -> ConsumerSettings {
    let queue = broker.node_queue().to_string();
    let own = QueueSettings {
        name: queue.clone(),
        kind: QueueKind::Exclusive,
        bind: Some(String::new()),
        dead_letters: None,
    };
    ConsumerSettings {
        queue,
        exchange: settings.nodes_exchange(),
        // A queue named by the node cannot be there before it.
        topology: Topology { declare: Declare::Make, exchange_type: "fanout".into(), queues: vec![own] },
        prefetch: settings.prefetch,
    }
}

/// Which queue messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The queue that nodes share.
    Commands,
    /// The node's own: replies of workers, and what other nodes hand over. Nothing is handed on from here.
    Node,
}

struct CommandQueue {
    source: Source,
    name: Arc<str>,
    consumer: Consumer,
    settings: Arc<CommandsSettings>,
    node: NodeId,
    deliver: Arc<Deliver>,
    copies: Arc<Copies>,
    spans: Spans,
    meters: Meters,
    metrics: Arc<Metrics>,
    /// What waits for slow clients.
    held: HeldBack<Held>,
    /// What is being handed on or dead-lettered.
    under_way: FuturesUnordered<BoxFuture<'static, (Delivery, Settled)>>,
}

/// A message that waits for its client to read, or behind one that does.
struct Held {
    delivery: Delivery,
    work: Work,
    until: Instant,
}

enum Work {
    Send(Payload),
    List { commands: Vec<Command>, sender: Option<ConnectionId> },
}

impl CommandQueue {
    /// Consumes until the program is leaving. Once `stop` is done nothing more is taken, and what was taken is settled.
    async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut stopped = false;
        let mut again = interval(OFFER_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Messages of a channel that is gone come again by the next one, while their copies may still be under way.
        let most = usize::from(self.settings.prefetch) * 2;
        while !stopped || !self.held.is_empty() || !self.under_way.is_empty() {
            let takes = !stopped && self.under_way.len() + self.held.len() < most;
            tokio::select! {
                delivery = self.consumer.next(), if takes => match delivery {
                    Some(delivery) => self.take(delivery),
                    None => return,
                },
                Some((delivery, settled)) = self.under_way.next() => self.settle(delivery, settled),
                _ = again.tick(), if !self.held.is_empty() => self.offer_again(),
                () = &mut stop, if !stopped => stopped = true,
            }
            self.metrics.amqp_held.set(i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        }
    }

    fn take(&mut self, delivery: Delivery) {
        self.meters.deliveries.inc();
        // What this node handed to all nodes comes back to it, done already.
        let is_own = |delivery: &Delivery| delivery.header(FROM_HEADER) == Some(self.node.as_str());
        if self.source == Source::Node && (is_own(&delivery) || self.copies.receipt(&delivery)) {
            return self.settle(delivery, Settled::Acked);
        }
        let (began, len) = (SystemTime::now(), delivery.body().len());
        if len > self.settings.size_max {
            let reason = format!("expected at most {} bytes, found {len}", self.settings.size_max);
            return self.settle(delivery, Settled::Refused(reason));
        }
        let correlation = if self.source == Source::Node { delivery.correlation_id() } else { None };
        let head = Head {
            content_type: delivery.content_type(),
            to_connection: delivery.header("to-connection"),
            to_group: delivery.header("to-group"),
            to_user: delivery.header("to-user"),
            to_all: delivery.has_header("to-all"),
            correlation_id: correlation,
        };
        let order = Order::read(&head, delivery.body().clone());
        self.record_span(&delivery, began, order.as_ref().err());
        match order {
            Err(reason) => self.settle(delivery, Settled::Refused(reason)),
            Ok(Order::Send { to: Target::Connection(id), payload }) => self.send_to_one(delivery, id, payload),
            Ok(Order::Send { to, payload }) => {
                let command = Command::Send { to, except: Vec::new(), payload };
                self.run_all(delivery, &[command], None);
            }
            Ok(Order::List { commands, sender }) => self.run_list(delivery, commands, sender),
        }
    }

    fn send_to_one(&mut self, delivery: Delivery, id: ConnectionId, payload: Payload) {
        if id.node() != self.node {
            return match self.source {
                Source::Commands => self.hand_on(delivery, BTreeSet::from([id.node()]), false, None),
                Source::Node => self.settle(delivery, Settled::Gone),
            };
        }
        let held = Held { delivery, work: Work::Send(payload), until: Instant::now() + self.settings.wait };
        // Behind what waits already: order is kept.
        let held = if self.held.has(&id) { Some(held) } else { self.offer(&id, held) };
        if let Some(held) = held {
            self.hold(id, held);
        }
    }

    /// Runs a list, but not before what waits for a connection that it names.
    fn run_list(&mut self, delivery: Delivery, commands: Vec<Command>, sender: Option<ConnectionId>) {
        let named = commands.iter().filter_map(|command| connection_of(command, sender.as_ref()));
        match named.into_iter().find(|id| self.held.has(id)).copied() {
            Some(id) => {
                let work = Work::List { commands, sender };
                self.hold(id, Held { delivery, work, until: Instant::now() + self.settings.wait });
            }
            None => self.run_all(delivery, &commands, sender.as_ref()),
        }
    }

    fn hold(&mut self, id: ConnectionId, held: Held) {
        if let Err(held) = self.held.push(id, held) {
            self.settle(held.delivery, Settled::Refused(words(&Outcome::Full)));
        }
    }

    /// Offers a payload to its client. Given back if the client does not read fast enough and there is time left.
    fn offer(&mut self, id: &ConnectionId, held: Held) -> Option<Held> {
        let payload = match held.work {
            Work::Send(ref payload) => payload.clone(),
            Work::List { commands, sender } => {
                self.run_all(held.delivery, &commands, sender.as_ref());
                return None;
            }
        };
        match self.deliver.offer(id, payload) {
            Outcome::Full if Instant::now() < held.until => return Some(held),
            Outcome::Queued => self.settle(held.delivery, Settled::Acked),
            Outcome::Gone => self.settle(held.delivery, Settled::Gone),
            refused => self.settle(held.delivery, Settled::Refused(words(&refused))),
        }
        None
    }

    fn offer_again(&mut self) {
        for (id, mut queue) in self.held.take_all() {
            while let Some(held) = queue.pop_front() {
                // What went back to the broker with its channel comes again.
                if !held.delivery.is_ours() {
                    continue;
                }
                if let Some(held) = self.offer(&id, held) {
                    queue.push_front(held);
                    break;
                }
            }
            self.held.put_back(id, queue);
        }
    }

    /// Carries out what concerns this node's connections, and hands the rest to the others.
    fn run_all(&mut self, delivery: Delivery, commands: &[Command], sender: Option<&ConnectionId>) {
        let (mut here, mut gone, mut faults) = (0, 0, Vec::new());
        let (mut nodes, mut everywhere) = (BTreeSet::new(), false);
        for (at, command) in commands.iter().enumerate() {
            match connection_of(command, sender) {
                Some(id) if id.node() != self.node => {
                    nodes.insert(id.node());
                    continue;
                }
                Some(_) => {}
                None => everywhere = true,
            }
            here += 1;
            match self.deliver.run(command, sender) {
                Outcome::Gone => gone += 1,
                Outcome::Written | Outcome::Queued | Outcome::Done | Outcome::Many(_) => {}
                refused if faults.len() < FAULTS_MAX => faults.push(format!("command {at}: {}", words(&refused))),
                _ => {}
            }
        }
        let settled = match here {
            _ if !faults.is_empty() => Some(Settled::Refused(faults.join("; "))),
            0 => None,
            here if gone == here => Some(Settled::Gone),
            _ => Some(Settled::Acked),
        };
        if self.source == Source::Commands && (everywhere || !nodes.is_empty()) {
            return self.hand_on(delivery, nodes, everywhere, settled);
        }
        self.settle(delivery, settled.unwrap_or(Settled::Acked));
    }

    /// Hands a message to these nodes, each of which says what became of it, or to all, which cannot. `here` is what became of it on
    /// this node.
    fn hand_on(&mut self, delivery: Delivery, nodes: BTreeSet<NodeId>, to_all: bool, here: Option<Settled>) {
        let copies = self.copies.clone();
        self.under_way.push(Box::pin(async move {
            let mut settled: Vec<Settled> = here.into_iter().collect();
            if to_all {
                settled.push(copies.clone().hand_to_all(&delivery).await);
            } else {
                for node in nodes {
                    settled.push(copies.clone().hand_over(&delivery, node).await);
                }
            }
            (delivery, Settled::of_all(settled))
        }));
    }

    /// Tells the node that handed a message over what became of it.
    fn report(&mut self, delivery: Delivery, settled: Settled) {
        let copies = self.copies.clone();
        self.under_way.push(Box::pin(async move {
            copies.report(&delivery, settled).await;
            (delivery, Settled::Reported)
        }));
    }

    /// A message that can never be carried out.
    fn dead_letter(&mut self, delivery: Delivery, reason: String) {
        tracing::warn!(queue = &*self.name, message_id = delivery.message_id(), "command not carried out: {reason}");
        let (copies, queue) = (self.copies.clone(), self.name.clone());
        self.under_way.push(Box::pin(async move {
            let settled = copies.dead_letter(&delivery, &queue, &reason).await;
            (delivery, settled)
        }));
    }

    fn settle(&mut self, delivery: Delivery, settled: Settled) {
        let settled = settled.with_reason_cut();
        let is_reported = settled == Settled::Reported;
        if self.source == Source::Node
            && settled != Settled::Stale
            && !is_reported
            && self.copies.wants_receipt(&delivery)
        {
            return self.report(delivery, settled);
        }
        match settled {
            Settled::Stale => {}
            Settled::Refused(reason) => self.dead_letter(delivery, reason),
            Settled::Acked | Settled::Reported => {
                self.meters.acked.inc();
                delivery.ack();
            }
            Settled::DeadLettered => {
                self.meters.dead_lettered.inc();
                delivery.ack();
            }
            Settled::Rejected => {
                self.meters.rejected.inc();
                delivery.reject(false);
            }
            Settled::Gone if self.settings.gone == Gone::Drop => {
                self.meters.gone.inc();
                delivery.ack();
            }
            Settled::Gone => self.dead_letter(delivery, words(&Outcome::Gone)),
        }
    }

    /// A span for a message that was sent within a trace, as that trace's child.
    fn record_span(&self, delivery: &Delivery, start: SystemTime, error: Option<&String>) {
        let Some(parent) = delivery.header("traceparent").and_then(|text| text.parse::<Traceparent>().ok()) else {
            return;
        };
        if !parent.sampled {
            return;
        }
        self.spans.record(Span {
            name: format!("{} process", self.source.name()),
            trace_id: parent.trace_id,
            span_id: Traceparent::random(true).span_id,
            parent_span_id: Some(parent.span_id),
            start,
            duration: start.elapsed().unwrap_or_default(),
            attributes: vec![
                ("messaging.system", "rabbitmq".to_owned()),
                ("messaging.destination.name", self.name.to_string()),
                ("messaging.message.id", delivery.message_id().unwrap_or_default().to_owned()),
            ],
            error: error.cloned(),
        });
    }
}

/// The connection that a command is for; none for one that is for a user, a group or all.
fn connection_of<'a>(command: &'a Command, sender: Option<&'a ConnectionId>) -> Option<&'a ConnectionId> {
    match command {
        Command::Send { to, .. } | Command::Close { to, .. } => match to {
            Target::User(_) | Target::Group(_) | Target::All => None,
            Target::Connection(id) => Some(id),
            Target::Sender => sender,
        },
        Command::Join { connection, .. } | Command::Leave { connection, .. } | Command::Context { connection, .. } => {
            connection.as_ref().or(sender)
        }
    }
}

/// Why a command was not carried out, for the dead-letter queue.
fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Gone => "gone: there is no such connection, or no more".to_owned(),
        Outcome::Full => "full: the client does not read fast enough".to_owned(),
        Outcome::TooLarge => "too_large: larger than the connection's send buffer".to_owned(),
        Outcome::TooManyGroups => "too_many_groups: the connection is in as many groups as it may be".to_owned(),
        Outcome::Invalid(violations) => {
            let first = violations.first();
            let place = first.map(|v| format!(" at {:?}: {}", v.pointer, v.message)).unwrap_or_default();
            format!("invalid: the message does not fit the endpoint's push schema{place}")
        }
        other => other.name().to_owned(),
    }
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Node => "node",
        }
    }
}

/// The metric handles of one queue.
struct Meters {
    deliveries: Counter,
    acked: Counter,
    dead_lettered: Counter,
    rejected: Counter,
    gone: Counter,
}

impl Meters {
    fn new(source: Source, metrics: &Arc<Metrics>) -> Self {
        let outcome = |outcome: &str| {
            let label = QueueOutcome { queue: source.name().into(), outcome: outcome.into() };
            metrics.amqp_settled.get_or_create_owned(&label)
        };
        Self {
            deliveries: metrics.amqp_deliveries.get_or_create_owned(&QueueLabel { queue: source.name().into() }),
            acked: outcome("acked"),
            dead_lettered: outcome("dead_lettered"),
            rejected: outcome("rejected"),
            gone: outcome("gone"),
        }
    }
}
