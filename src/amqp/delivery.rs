//! One message taken from a queue, to be acked or rejected exactly once. Must not know what its headers mean.

use bytes::Bytes;
use futures_util::FutureExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, ShortString};

/// A message under way. It stays the broker's until it is acked: a connection that is lost gives it back.
#[derive(Debug)]
pub struct Delivery {
    inner: lapin::message::Delivery,
    body: Bytes,
}

impl Delivery {
    pub(super) fn new(mut inner: lapin::message::Delivery) -> Self {
        let body = std::mem::take(&mut inner.data).into();
        Self { inner, body }
    }

    /// Cheap to clone.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn properties(&self) -> &BasicProperties {
        &self.inner.properties
    }

    /// A header that is a text.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.inner.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// True if there is such a header, whatever its value.
    pub fn has_header(&self, name: &str) -> bool {
        self.inner.properties.headers().as_ref().is_some_and(|headers| headers.inner().contains_key(name))
    }

    pub fn content_type(&self) -> Option<&str> {
        self.inner.properties.content_type().as_ref().map(ShortString::as_str)
    }

    pub fn correlation_id(&self) -> Option<&str> {
        self.inner.properties.correlation_id().as_ref().map(ShortString::as_str)
    }

    pub fn message_id(&self) -> Option<&str> {
        self.inner.properties.message_id().as_ref().map(ShortString::as_str)
    }

    pub fn reply_to(&self) -> Option<&str> {
        self.inner.properties.reply_to().as_ref().map(ShortString::as_str)
    }

    /// The `type` property.
    pub fn kind(&self) -> Option<&str> {
        self.inner.properties.kind().as_ref().map(ShortString::as_str)
    }

    /// False once the channel that it came by is gone: then the broker gives it to somebody else.
    pub fn is_ours(&self) -> bool {
        self.inner.acker.usable()
    }

    /// Gives the message up for good: it was carried out.
    pub fn ack(self) {
        // The first poll sends the ack. If it is lost with the connection, the broker delivers the message again.
        let _ = self.inner.acker.ack(BasicAckOptions::default()).now_or_never();
    }

    /// Gives the message back: the broker dead-letters or drops it as its own policy says, or delivers it again.
    pub fn reject(self, requeue: bool) {
        // As with `ack`.
        let _ = self.inner.acker.reject(BasicRejectOptions { requeue }).now_or_never();
    }
}
