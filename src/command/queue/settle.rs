//! What a queue's message still needs before it can be acked: a copy in the dead-letter queue, or in another node's queue. Must not
//! know what a command means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{CommandsSettings, nodes_exchange};
use crate::amqp::{
    AMQPValue, BasicProperties, Broker, Delivery, Message, Published, Publisher, PublisherSettings, QueueSettings,
    Topology,
};
use crate::ids::NodeId;

/// Names the node that took a message out of the shared queue; that node drops the copy that comes back to it.
pub const FROM_HEADER: &str = "holdfast-from";
/// Why a message is in the dead-letter queue, and which queue it comes from.
pub const REASON_HEADER: &str = "holdfast-reason";
pub const QUEUE_HEADER: &str = "holdfast-queue";

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
    dead_letter_queue: Option<String>,
}

/// How a message leaves its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Acked,
    DeadLettered,
    /// Rejected without a copy: the queue's own policy says what becomes of it.
    Rejected,
    /// Its connection is gone, here or on its own node.
    Gone,
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
            dead_letter_queue: dead,
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
        match publish(&self.direct, copy).await {
            Published::Confirmed => Settled::DeadLettered,
            refused => {
                tracing::error!(dead_letter_queue, ?refused, "the dead-letter queue does not take a message");
                Settled::Rejected
            }
        }
    }

    /// Puts a copy into the queue of the node that owns a connection.
    pub async fn forward(self: Arc<Self>, delivery: &Delivery, queue: &str) -> Settled {
        let copy = Copy::new(delivery, queue, &[(FROM_HEADER, self.node.as_str())]);
        match publish(&self.direct, copy).await {
            Published::Confirmed => Settled::Acked,
            // There is no such queue: its node is gone, and with it the connection.
            Published::Returned { .. } => Settled::Gone,
            _ => Settled::Rejected,
        }
    }

    /// Puts a copy into the queue of every node.
    pub async fn forward_to_all(self: Arc<Self>, delivery: &Delivery) -> Settled {
        let copy = Copy::new(delivery, "", &[(FROM_HEADER, self.node.as_str())]);
        match publish(&self.nodes, copy).await {
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
    fn new(delivery: &Delivery, routing_key: &str, added: &[(&'static str, &str)]) -> Arc<Self> {
        let mut headers = delivery.properties().headers().clone().unwrap_or_default();
        for (name, value) in added {
            headers.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        // A returned message is known by its ID, so each needs one.
        let id = delivery.message_id().map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned);
        let properties = delivery.properties().clone().with_headers(headers);
        let properties = properties.with_delivery_mode(PERSISTENT).with_message_id(id.as_str().into());
        Arc::new(Self { id, routing_key: routing_key.to_owned(), properties, body: delivery.body().clone() })
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
