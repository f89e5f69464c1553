//! What a publisher or a consumer declares, or only looks for, each time its channel opens. Must not know what goes through it.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

/// How often a message may come back: restarts of consumers count too.
const DELIVERY_LIMIT: i32 = 100;

/// How an exchange or a queue comes to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// Made if it is missing; with other properties than these it is an error.
    Make,
    /// Looked for; an error if it is missing.
    Passive,
    /// Not even looked for.
    Nothing,
}

/// What kind of queue is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Durable and replicated.
    Quorum,
    /// Durable, on one node of the broker.
    Classic,
    /// Gone with the connection that declared it, and with its last consumer.
    Exclusive,
}

/// A queue, and how it is bound to the exchange beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    pub name: String,
    pub kind: QueueKind,
    /// Bound to the topology's exchange by this key.
    pub bind: Option<String>,
    /// Where a quorum queue itself puts a message that came back too often: one that no consumer survives.
    pub dead_letters: Option<String>,
}

/// An exchange and queues, declared together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub declare: Declare,
    /// `topic`, `direct`, `fanout` or `headers`.
    pub exchange_type: String,
    pub queues: Vec<QueueSettings>,
}

impl Topology {
    /// Declares or looks for all of it. The error closes the channel.
    pub async fn apply(&self, channel: &Channel, exchange: &str) -> Result<(), lapin::Error> {
        if self.declare == Declare::Nothing {
            return Ok(());
        }
        // The default exchange is always there and cannot be declared.
        if !exchange.is_empty() {
            let kind = match self.exchange_type.as_str() {
                "direct" => ExchangeKind::Direct,
                "fanout" => ExchangeKind::Fanout,
                "headers" => ExchangeKind::Headers,
                _ => ExchangeKind::Topic,
            };
            let passive = self.declare == Declare::Passive;
            let options = ExchangeDeclareOptions { durable: true, passive, ..Default::default() };
            channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await?;
        }
        for queue in &self.queues {
            declare_queue(channel, self.declare, queue, exchange).await?;
        }
        Ok(())
    }
}

async fn declare_queue(
    channel: &Channel,
    declare: Declare,
    queue: &QueueSettings,
    exchange: &str,
) -> Result<(), lapin::Error> {
    let mut options = QueueDeclareOptions { passive: declare == Declare::Passive, ..Default::default() };
    let mut arguments = FieldTable::default();
    match queue.kind {
        QueueKind::Exclusive => (options.exclusive, options.auto_delete) = (true, true),
        QueueKind::Classic => options.durable = true,
        QueueKind::Quorum => {
            options.durable = true;
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            if let Some(dead_letters) = &queue.dead_letters {
                arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
                arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
                let key = AMQPValue::LongString(dead_letters.as_str().into());
                arguments.insert("x-dead-letter-routing-key".into(), key);
            }
        }
    }
    channel.queue_declare(queue.name.as_str().into(), options, arguments).await?;
    if let (Some(key), Declare::Make, false) = (&queue.bind, declare, exchange.is_empty()) {
        let (name, key) = (queue.name.as_str().into(), key.as_str().into());
        channel.queue_bind(name, exchange.into(), key, QueueBindOptions::default(), FieldTable::default()).await?;
    }
    Ok(())
}
