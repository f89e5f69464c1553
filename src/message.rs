//! The nouns that cross every layer: payloads, events, answers, rejects; commands are in `message::command`.
//! Knows bytes and serde; must not know sockets, configuration, HTTP or AMQP.

pub mod command;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::codes::{Cause, CloseCode, ErrorCode};
use crate::ids::ConnectionId;
pub use command::{Command, CommandError, Target};

/// The largest context an upstream may attach to a connection, in bytes.
pub const CONTEXT_BYTES_MAX: usize = 4096;
/// The longest user or group name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The event name of a binary frame.
pub const BINARY_EVENT: &str = "$binary";
/// The event name of a text frame where the endpoint says `event: none`.
pub const TEXT_EVENT: &str = "$text";

/// How a payload travels over a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// The body of one WebSocket message. Cheap to clone: a send to many shares one buffer.
/// A `Text` payload is UTF-8 by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    kind: Kind,
    bytes: Bytes,
}

impl Payload {
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: Kind::Text, bytes: Bytes::from(text.into()) }
    }

    /// A text payload if the bytes are UTF-8.
    pub fn text_from_bytes(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self { kind: Kind::Text, bytes })
    }

    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Binary, bytes: bytes.into() }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What an event is about. The CloudEvents `type`; never a name that a client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Connect,
    Message,
    Disconnect,
}

impl EventKind {
    /// The CloudEvents `type` attribute.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Connect => "holdfast.connect",
            Self::Message => "holdfast.message",
            Self::Disconnect => "holdfast.disconnect",
        }
    }
}

/// The format of an event's body, from which its content type follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `text/plain; charset=utf-8`
    Text,
    /// `application/octet-stream`
    Binary,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Binary => "application/octet-stream",
        }
    }
}

/// One event on its way out (DESIGN section 2). The same value is used for every attempt.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: EventKind,
    pub connection: ConnectionId,
    /// The message's number on its connection from 1; connect is 0; disconnect is one more than the last message.
    pub seq: u64,
    /// The endpoint's path: the CloudEvents `source`.
    pub endpoint: Arc<str>,
    /// The event name of a message; none for connect and disconnect.
    pub name: Option<Arc<str>>,
    pub user: Option<Arc<str>>,
    pub context: Option<Arc<str>>,
    pub time: SystemTime,
    pub traceparent: Traceparent,
    pub body: Bytes,
    pub format: Format,
}

/// W3C Trace Context, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}

impl Traceparent {
    /// A new trace with random, non-zero IDs.
    pub fn random(sampled: bool) -> Self {
        Self { trace_id: rand::random::<u128>() | 1, span_id: rand::random::<u64>() | 1, sampled }
    }
}

impl std::fmt::Display for Traceparent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// What an upstream answered to an event that it accepted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The frame for the sender, from a 2xx with a body.
    pub reply: Option<Payload>,
    /// Commands, in order, from the body or the `Holdfast-…` headers.
    pub commands: Vec<Command>,
    /// `Holdfast-User`; only the answer to a connect may bear it.
    pub user: Option<Arc<str>>,
    /// `Sec-WebSocket-Protocol` of the answer to a connect: the subprotocol that the application chose.
    pub subprotocol: Option<String>,
}

/// Why an event was not accepted by its upstream. An outcome that the client hears of, not a bug.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The upstream answered with a status that says no: 4xx but 408 and 429.
    #[error("the upstream answered {status}")]
    Rejected { status: u16, content_type: Option<String>, body: Bytes },
    /// No attempt succeeded before the deadline; the last one failed for this reason.
    #[error("the upstream was unavailable until the deadline: {reason}")]
    Unavailable { reason: String },
    /// The last attempt before the deadline got no answer in time.
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The upstream's own queue of waiting calls is full.
    #[error("the upstream has too many calls waiting")]
    Overloaded,
    /// The upstream answered 2xx with something that breaks the contract.
    #[error("the upstream broke the contract: {reason}")]
    Broken { reason: String },
}

/// One place of a message that does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// JSON Pointer (RFC 6901) to the place in the message.
    pub pointer: String,
    pub message: String,
}

/// Why a client's message was refused; becomes an error frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: ErrorCode,
    pub message: String,
    /// The event name, where it was read.
    pub event: Option<Arc<str>>,
    pub errors: Vec<Violation>,
    /// The upstream's status, with `upstream_rejected`.
    pub status: Option<u16>,
    /// With `rate_limited`: when the next message will be taken, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Reject {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), event: None, errors: Vec::new(), status: None, retry_after_ms: None }
    }
}

/// Why and how a connection ended: the body of its disconnect event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub code: CloseCode,
    pub reason: String,
    pub cause: Cause,
}

impl Ending {
    pub fn new(code: CloseCode, reason: impl Into<String>, cause: Cause) -> Self {
        Self { code, reason: reason.into(), cause }
    }
}
