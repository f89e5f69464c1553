//! What a queue's message still needs before it can be acked: a copy in the dead-letter queue, or another node's receipt for it. Must
//! not know what a command means.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::CommandsSettings;
use crate::amqp::{
    AMQPValue, BasicProperties, Broker, Delivery, FieldTable, Message, Published, Publisher, PublisherSettings,
    QueueSettings, Topology, node_queue,
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

/// The number under which another node waits for a receipt, and that of a copy.
const RECEIPT_HEADER: &str = "holdfast-receipt";
const COPY_HEADER: &str = "holdfast-copy";
/// How all of these begin.
const OWN_HEADERS: &str = "holdfast-";
const TOKEN_CHARS: usize = 32;
const REASON_BYTES_MAX: usize = 1024;
/// Headers travel in one frame, which the broker bounds (128 KiB unless configured). Those that would leave no room for ours are left
/// behind.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

const PERSISTENT: u8 = 2;
const WINDOW: usize = 1024;
/// How long a copy may wait for its confirm before the log hears of it.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

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
    /// It went back to its queue meanwhile, with the channel that it came by.
    Stale,
}

impl Settled {
    /// What became of a message that was carried out in several places.
    pub fn of_all(all: Vec<Self>) -> Self {
        if all.contains(&Self::Stale) {
            return Self::Stale;
        }
        let reasons: Vec<&str> = all.iter().filter_map(Self::reason).collect();
        match (reasons.is_empty(), all.iter().all(|settled| *settled == Self::Gone)) {
            (false, _) => Self::Refused(reasons.join("; ")),
            (true, true) => Self::Gone,
            (true, false) => Self::Acked,
        }
    }

    /// A reason may quote what a stranger wrote: it is cut to what a header should hold.
    pub fn with_reason_cut(self) -> Self {
        match self {
            Self::Refused(reason) if reason.len() > REASON_BYTES_MAX => {
                let end = (0..=REASON_BYTES_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or_default();
                Self::Refused(format!("{}…", &reason[..end]))
            }
            settled => settled,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(reason) => Some(reason),
            _ => None,
        }
    }
}

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

impl Copies {
    pub fn new(broker: &Broker, node: NodeId, commands: &CommandsSettings) -> Self {
        let CommandsSettings { declare, kind, .. } = *commands;
        let dead = commands.dead_letter_queue.clone();
        let dead_queue =
            dead.iter().map(|name| QueueSettings { name: name.clone(), kind, bind: None, dead_letters: None });
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
            nodes: broker.publisher(settings("$nodes", &commands.nodes_exchange(), Vec::new(), false)),
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
        let copy = Arc::new(Copy::new(delivery, dead_letter_queue, &[(REASON_HEADER, reason), (QUEUE_HEADER, queue)]));
        while let Some(published) = publish(&self.direct, &copy, delivery).await {
            if published == Published::Confirmed {
                return Settled::DeadLettered;
            }
            tracing::error!(dead_letter_queue, "the dead-letter queue is not there; trying again");
            sleep(PAUSE).await;
        }
        Settled::Stale
    }

    /// Hands a message to the node that owns its connection, and waits for that node's receipt: a copy in a node's own queue is lost
    /// with the broker. It is handed over again if no receipt comes, under the same message ID.
    pub async fn hand_over(self: Arc<Self>, delivery: &Delivery, node: NodeId) -> Settled {
        let (token, queue) = (token(), node_queue(node));
        let mut copy = Copy::new(delivery, &queue, &[(FROM_HEADER, self.node.as_str()), (RECEIPT_HEADER, &token)]);
        copy.properties = copy.properties.with_reply_to((&*self.node_queue).into());
        let copy = Arc::new(copy);
        loop {
            let (tell, told) = oneshot::channel();
            self.handed.lock().insert(token.clone(), tell);
            let settled = match publish(&self.direct, &copy, delivery).await {
                Some(Published::Confirmed) => timeout(self.receipt_timeout, told).await.ok().and_then(Result::ok),
                // There is no such queue: its node is gone, and with it the connection.
                Some(_) => Some(Settled::Gone),
                None => Some(Settled::Stale),
            };
            self.handed.lock().remove(&token);
            match settled {
                Some(settled) => return settled,
                None => tracing::warn!(queue = &*queue, "no receipt for a command; it is handed over again"),
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
        delivery.has_header(RECEIPT_HEADER)
            && delivery.reply_to().is_some()
            && delivery.header(FROM_HEADER).is_some_and(|from| from != self.node.as_str())
    }

    /// Tells the node that handed a message over what became of it.
    pub async fn report(self: Arc<Self>, delivery: &Delivery, settled: Settled) {
        let (outcome, reason) = match &settled {
            Settled::Acked => ("acked", ""),
            Settled::Gone => ("gone", ""),
            Settled::Refused(reason) => ("refused", reason.as_str()),
            _ => ("refused", "rejected"),
        };
        // A node that is gone needs no receipt: what it had taken goes back to the queue.
        publish(&self.direct, &Arc::new(Copy::receipt(delivery, outcome, reason)), delivery).await;
    }

    /// Puts a copy into the queue of every node.
    pub async fn hand_to_all(self: Arc<Self>, delivery: &Delivery) -> Settled {
        let copy = Arc::new(Copy::new(delivery, "", &[(FROM_HEADER, self.node.as_str())]));
        match publish(&self.nodes, &copy, delivery).await {
            Some(_) => Settled::Acked,
            None => Settled::Stale,
        }
    }
}

/// Publishes until the broker takes it, or returns it. None once the message that it was made from is not ours any more: whoever gets
/// that one next does it all again.
async fn publish(publisher: &Publisher, copy: &Arc<Copy>, of: &Delivery) -> Option<Published> {
    while of.is_ours() {
        match publisher.publish(0, copy.clone(), Instant::now() + PATIENCE).await {
            published @ (Published::Confirmed | Published::Returned { .. }) => return Some(published),
            late => {
                tracing::warn!(routing_key = copy.routing_key, ?late, "a command waits for the broker");
                sleep(PAUSE).await;
            }
        }
    }
    None
}

/// A message to be published, with what may be carried over of the one that it was made from.
struct Copy {
    /// Tells this message from every other one when the broker returns it.
    token: String,
    routing_key: String,
    properties: BasicProperties,
    body: Bytes,
}

impl Copy {
    /// A copy of a message with headers added. What would make the broker refuse it (`user_id`), drop it (`expiration`) or send it
    /// elsewhere too (`CC`, `BCC`) is left behind, as is what only another node may say.
    fn new(delivery: &Delivery, routing_key: &str, added: &[(&'static str, &str)]) -> Self {
        let mut headers = FieldTable::default();
        let mut len = 0;
        for (name, value) in delivery.properties().headers().iter().flatten() {
            // What is shown for people is longer than what goes over the wire.
            let bytes = name.as_str().len() + format!("{value:?}").len();
            let is_own = ["CC", "BCC"].contains(&name.as_str()) || name.as_str().starts_with(OWN_HEADERS);
            if !is_own && len + bytes <= HEADERS_BYTES_MAX {
                len += bytes;
                headers.insert(name.clone(), value.clone());
            }
        }
        let theirs = delivery.properties();
        let mut properties = BasicProperties::default();
        macro_rules! keep {
            ($($get:ident => $with:ident),+) => {$(
                if let Some(value) = theirs.$get() {
                    properties = properties.$with(value.clone());
                }
            )+};
        }
        keep!(content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
            correlation_id => with_correlation_id, reply_to => with_reply_to, message_id => with_message_id,
            timestamp => with_timestamp, kind => with_type, app_id => with_app_id);
        Self::finish(headers, properties, routing_key, added, delivery.body().clone())
    }

    /// What became of a message that was handed over.
    fn receipt(of: &Delivery, outcome: &str, reason: &str) -> Self {
        let token: String = of.header(RECEIPT_HEADER).unwrap_or_default().chars().take(TOKEN_CHARS).collect();
        let properties = BasicProperties::default().with_type(RECEIPT.into()).with_correlation_id(token.into());
        let added = [(OUTCOME_HEADER, outcome), (REASON_HEADER, reason)];
        Self::finish(FieldTable::default(), properties, of.reply_to().unwrap_or_default(), &added, Bytes::new())
    }

    fn finish(
        mut headers: FieldTable,
        properties: BasicProperties,
        routing_key: &str,
        added: &[(&'static str, &str)],
        body: Bytes,
    ) -> Self {
        let token = token();
        for (name, value) in added.iter().copied().chain([(COPY_HEADER, token.as_str())]) {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let properties = properties.with_headers(headers).with_delivery_mode(PERSISTENT);
        Self { token, routing_key: routing_key.to_owned(), properties, body }
    }
}

impl Message for Copy {
    fn is_returned(&self, properties: &BasicProperties) -> bool {
        let token = properties.headers().as_ref().and_then(|headers| headers.inner().get(COPY_HEADER));
        matches!(token, Some(AMQPValue::LongString(token)) if token.as_bytes() == self.token.as_bytes())
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

fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}
