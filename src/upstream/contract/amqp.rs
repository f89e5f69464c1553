//! An event as a message to RabbitMQ: the CloudEvents binding with `ce-` headers, and AMQP's own properties beside it. Must not know
//! exchanges, routing keys or connections to a broker.

use std::time::UNIX_EPOCH;

use crate::amqp::{AMQPValue, BasicProperties, FieldTable};
use crate::message::Event;
use crate::message::text::{ascii, rfc3339};

/// Kept on disk by a durable queue.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// What an upstream's messages have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// The node's own queue, where ordinary RPC workers answer.
    pub reply_to: String,
    pub persistent: bool,
    /// How long a message may wait in a queue, in milliseconds.
    pub expiration_ms: Option<u64>,
}

/// The event's ID: the same on every attempt, so that a consumer can drop a repeat.
pub fn message_id(event: &Event) -> String {
    format!("{}.{}", event.connection.as_str(), event.seq)
}

/// Properties and headers of an event's message. Every text but those in headers is short by construction.
pub fn properties(event: &Event, id: &str, common: &Common) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut header = |name: &'static str, value: &str| {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    header("ce-specversion", "1.0");
    header("ce-type", event.kind.type_name());
    header("ce-source", &event.endpoint);
    header("ce-id", id);
    header("ce-time", ascii(&rfc3339(event.time)));
    header("ce-connectionid", event.connection.as_str());
    for (name, value) in [("ce-event", &event.name), ("ce-userid", &event.user), ("ce-context", &event.context)] {
        if let Some(value) = value {
            header(name, value);
        }
    }
    header("traceparent", ascii(&event.traceparent.text()));
    headers.insert("ce-seq".into(), AMQPValue::LongLongInt(i64::try_from(event.seq).unwrap_or(i64::MAX)));
    let properties = BasicProperties::default()
        .with_content_type(event.format.content_type().into())
        .with_delivery_mode(if common.persistent { PERSISTENT } else { TRANSIENT })
        .with_message_id(id.into())
        .with_type(event.kind.type_name().into())
        .with_timestamp(event.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
        .with_correlation_id(event.connection.as_str().into())
        .with_reply_to(common.reply_to.as_str().into())
        .with_app_id("holdfast".into())
        .with_headers(headers);
    match common.expiration_ms {
        Some(ms) => properties.with_expiration(ms.to_string().into()),
        None => properties,
    }
}
