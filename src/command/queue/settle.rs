//! What a queue's message still needs before it can be acked: a copy in the dead-letter queue, or another node's receipt for it. Must
//! not know what a command means.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::{CommandsSettings, nodes_exchange};
use crate::amqp::{
    AMQPValue, BasicProperties, Broker, Delivery, FieldTable, Message, Published, Publisher, PublisherSettings,
    QueueSettings, Topology,
};
use crate::ids::NodeId;

/// Names the node that took a message out of the shared queue; that node drops the copy that comes back to it.
pub const FROM_HEADER: &str = "holdfast-from";
/// Why a message is in the dead-letter queue, and which queue it comes from.
pub const REASON_HEADER: &str = "holdfast-reason";
pub const QUEUE_HEADER: &str = "holdfast-queue";

/// What another node made of a message that was handed to it.
const OUTCOME_HEADER: &str = "holdfast-outcome";
/// The `type` of a receipt.
const RECEIPT: &str = "holdfast.receipt";

/// Headers travel in one frame, which the broker bounds (128 KiB unless configured). A message whose own leave no room for ours keeps
/// only those that say where it goes.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
const ROUTING_HEADERS: [&str; 5] = ["to-connection", "to-group", "to-user", "to-all", "traceparent"];

const PERSISTENT: u8 = 2;
const WINDOW: usize = 1024;
/// How long a copy may wait for its confirm before the log hears of it.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

/// Where copies go.
pub struct Copies {
    /// The default exchange: a queue's name is its routing key.
    direct: Publisher,
    /// Every node's own queue is bound to it.
    nodes: Publisher,
    node: NodeId,
    node_queue: Arc<str>,
    dead_letter_queue: Option<String>,
    /// How long another node may take: its clients may be slow.
    receipt_timeout: Duration,
    /// Messages that other nodes have, by the number that their receipts will bear.
    handed: Mutex<HashMap<String, oneshot::Sender<Settled>>>,
}

/// How a message leaves its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    Acked,
    /// It cannot be carried out, for this reason.
    Refused(String),
    DeadLettered,
    /// Rejected without a copy: the queue's own policy says what becomes of it.
    Rejected,
    /// Its connection is gone, here or on its own node.
    Gone,
    /// The node that handed it over knows what became of it.
    Reported,
}

impl Copies {
    pub fn new(broker: &Broker, node: NodeId, commands: &CommandsSettings) -> Self {
        let CommandsSettings { declare, kind, .. } = *commands;
        let dead = commands.dead_letter_queue.clone();
        let dead_queue = dead.iter().map(|name| QueueSettings { name: name.clone(), kind, bind: None });
        let settings = |name: &str, exchange: &str, queues: Vec<QueueSettings>, mandatory| PublisherSettings {
            name: name.into(),
            exchange: exchange.to_owned(),
            topology: Topology { declare, exchange_type: "fanout".to_owned(), queues },
            mandatory,
            window: WINDOW,
            channels: 1,
            missing_is_final: false,
        };
        Self {
            direct: broker.publisher(settings("$direct", "", dead_queue.collect(), true)),
            nodes: broker.publisher(settings("$nodes", &nodes_exchange(commands), Vec::new(), false)),
            node,
            node_queue: broker.node_queue().clone(),
            dead_letter_queue: dead,
            receipt_timeout: commands.wait + PATIENCE,
            handed: Mutex::default(),
        }
    }

    /// Why copies cannot be published now.
    pub fn error(&self) -> Option<String> {
        self.direct.error().or_else(|| self.nodes.error())
    }

    /// Puts a copy with the reason into the dead-letter queue, for as long as it takes.
    pub async fn dead_letter(self: Arc<Self>, delivery: &Delivery, queue: &str, reason: &str) -> Settled {
        let Some(dead_letter_queue) = &self.dead_letter_queue else { return Settled::Rejected };
        let copy = Copy::new(delivery, dead_letter_queue, &[(REASON_HEADER, reason), (QUEUE_HEADER, queue)]);
        match publish(&self.direct, Arc::new(copy)).await {
            Published::Confirmed => Settled::DeadLettered,
            refused => {
                tracing::error!(dead_letter_queue, ?refused, "the dead-letter queue does not take a message");
                Settled::Rejected
            }
        }
    }

    /// Hands a message to the node that owns its connection, and waits for that node's receipt: a copy in a node's own queue is lost
    /// with the broker. It is handed over again if no receipt comes, under the same message ID.
    pub async fn hand_over(self: Arc<Self>, delivery: &Delivery, queue: &str) -> Settled {
        let token = format!("{:032x}", rand::random::<u128>());
        let copy = Copy::new(delivery, queue, &[(FROM_HEADER, self.node.as_str())]);
        let copy = copy.answered_at(&self.node_queue, &token);
        loop {
            let (tell, told) = oneshot::channel();
            self.handed.lock().insert(token.clone(), tell);
            let published = publish(&self.direct, copy.clone()).await;
            let receipt = match published {
                Published::Confirmed => timeout(self.receipt_timeout, told).await.ok().and_then(Result::ok),
                // There is no such queue: its node is gone, and with it the connection.
                Published::Returned { .. } => Some(Settled::Gone),
                _ => Some(Settled::Rejected),
            };
            self.handed.lock().remove(&token);
            match receipt {
                Some(settled) => return settled,
                None => tracing::warn!(queue, "no receipt for a command; it is handed over again"),
            }
        }
    }

    /// Takes a receipt. False if the message is none.
    pub fn receipt(&self, delivery: &Delivery) -> bool {
        if delivery.kind() != Some(RECEIPT) {
            return false;
        }
        let settled = match delivery.header(OUTCOME_HEADER) {
            Some("acked") => Settled::Acked,
            Some("gone") => Settled::Gone,
            _ => Settled::Refused(delivery.header(REASON_HEADER).unwrap_or_default().to_owned()),
        };
        if let Some(tell) = delivery.correlation_id().and_then(|token| self.handed.lock().remove(token)) {
            // Whoever waited may be gone.
            let _ = tell.send(settled);
        }
        true
    }

    /// True if another node waits to hear what became of this message.
    pub fn wants_receipt(&self, delivery: &Delivery) -> bool {
        delivery.reply_to().is_some() && delivery.header(FROM_HEADER).is_some_and(|from| from != self.node.as_str())
    }

    /// Tells the node that handed a message over what became of it.
    pub async fn report(self: Arc<Self>, delivery: &Delivery, settled: Settled) {
        let (outcome, reason) = match &settled {
            Settled::Acked => ("acked", ""),
            Settled::Gone => ("gone", ""),
            Settled::Refused(reason) => ("refused", reason.as_str()),
            Settled::DeadLettered | Settled::Rejected | Settled::Reported => ("refused", "rejected"),
        };
        let receipt = Copy::receipt(delivery, outcome, reason);
        // A node that is gone needs no receipt: what it had taken goes back to the queue.
        publish(&self.direct, receipt).await;
    }

    /// Puts a copy into the queue of every node.
    pub async fn forward_to_all(self: Arc<Self>, delivery: &Delivery) -> Settled {
        let copy = Copy::new(delivery, "", &[(FROM_HEADER, self.node.as_str())]);
        match publish(&self.nodes, Arc::new(copy)).await {
            Published::Confirmed | Published::Returned { .. } => Settled::Acked,
            _ => Settled::Rejected,
        }
    }
}

/// Publishes until the broker says what became of it.
async fn publish(publisher: &Publisher, copy: Arc<Copy>) -> Published {
    loop {
        match publisher.publish(0, copy.clone(), Instant::now() + PATIENCE).await {
            Published::Late { reason, .. } => {
                tracing::warn!(queue = copy.routing_key, "a command waits for the broker: {reason}");
                sleep(PAUSE).await;
            }
            published => return published,
        }
    }
}

/// A message as it came, with headers added.
struct Copy {
    id: String,
    routing_key: String,
    properties: BasicProperties,
    body: Bytes,
}

impl Copy {
    fn new(delivery: &Delivery, routing_key: &str, added: &[(&'static str, &str)]) -> Self {
        let theirs = delivery.properties().headers().clone().unwrap_or_default();
        // What is shown for people is longer than what goes over the wire.
        let mut headers = match format!("{theirs:?}").len() <= HEADERS_BYTES_MAX {
            true => theirs,
            false => {
                let kept = theirs.into_iter().filter(|(name, _)| ROUTING_HEADERS.contains(&name.as_str()));
                kept.map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>().into()
            }
        };
        for (name, value) in added {
            headers.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        // A returned message is known by its ID, so each needs one.
        let id = delivery.message_id().map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned);
        let properties = delivery.properties().clone().with_headers(headers);
        let properties = properties.with_delivery_mode(PERSISTENT).with_message_id(id.as_str().into());
        Self { id, routing_key: routing_key.to_owned(), properties, body: delivery.body().clone() }
    }

    fn answered_at(mut self, queue: &str, token: &str) -> Arc<Self> {
        self.properties = self.properties.with_reply_to(queue.into()).with_correlation_id(token.into());
        Arc::new(self)
    }

    /// What became of a message that was handed over.
    fn receipt(of: &Delivery, outcome: &str, reason: &str) -> Arc<Self> {
        let mut headers = FieldTable::default();
        for (name, value) in [(OUTCOME_HEADER, outcome), (REASON_HEADER, reason)] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let properties = BasicProperties::default()
            .with_type(RECEIPT.into())
            .with_message_id(id.as_str().into())
            .with_correlation_id(of.correlation_id().unwrap_or_default().into())
            .with_headers(headers);
        let routing_key = of.reply_to().unwrap_or_default().to_owned();
        Arc::new(Self { id, routing_key, properties, body: Bytes::new() })
    }
}

impl Message for Copy {
    fn id(&self) -> &str {
        &self.id
    }

    fn routing_key(&self) -> &str {
        &self.routing_key
    }

    fn body(&self) -> &[u8] {
        &self.body
    }

    fn properties(&self) -> BasicProperties {
        self.properties.clone()
    }
}
