//! The nouns that cross every layer: payloads, events, answers, rejects; commands are in `message::command`.
//! Knows bytes and serde; must not know sockets, configuration, HTTP or AMQP.

pub mod assembly;
pub mod command;
pub mod forms;
pub mod json;
pub mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::codes::{Cause, CloseCode, ErrorCode};
use crate::ids::ConnectionId;
pub use command::{Command, CommandError, Target};
use forms::Forms;

/// The largest context an upstream may attach to a connection, in bytes.
pub const CONTEXT_BYTES_MAX: usize = 4096;
/// The longest user or group name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The event name of a binary frame.
pub const BINARY_EVENT: &str = "$binary";
/// The event name of a text frame where the endpoint says `event: none`.
pub const TEXT_EVENT: &str = "$text";

/// The longest fault in words, in bytes.
const WORDS_BYTES_MAX: usize = 500;

/// A fault in words that may repeat what came from outside: one line of bounded length, so that nobody writes into a log what Holdfast
/// did not say.
pub fn one_line(words: &str) -> String {
    let mut line = String::with_capacity(words.len().min(WORDS_BYTES_MAX));
    for c in words.chars() {
        if line.len() >= WORDS_BYTES_MAX {
            line.push('…');
            break;
        }
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

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
    forms: Forms,
}

impl Payload {
    pub fn text(text: impl Into<String>) -> Self {
        Self::of(Kind::Text, Bytes::from(text.into()))
    }

    /// A text payload if the bytes are UTF-8.
    pub fn text_from_bytes(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self::of(Kind::Text, bytes))
    }

    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Binary, bytes.into())
    }

    /// A payload of the kind that its media type asks for: text for `text/*` and JSON types, else binary. Without a media type it
    /// is text if it is UTF-8.
    pub fn of_media_type(media_type: Option<&str>, bytes: Bytes) -> Result<Self, String> {
        let Some(media_type) = media_type else {
            return Ok(Self::text_from_bytes(bytes.clone()).unwrap_or_else(|_| Self::binary(bytes)));
        };
        match is_text(essence(media_type)) {
            true => {
                Self::text_from_bytes(bytes).map_err(|e| format!("expected UTF-8 because of the content type: {e}"))
            }
            false => Ok(Self::binary(bytes)),
        }
    }

    /// The same payload for many: what one of them makes of it serves the others.
    pub fn for_many(&self) -> Self {
        Self { forms: Forms::shared(), ..self.clone() }
    }

    /// Another form of the bytes; none where it is no better.
    pub fn form(&self, key: u16, make: impl FnOnce(&[u8]) -> Option<Bytes>) -> Option<Bytes> {
        self.forms.get(key, || make(&self.bytes))
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

    /// The caller knows that the bytes of a text are UTF-8.
    fn of(kind: Kind, bytes: Bytes) -> Self {
        Self { kind, bytes, forms: Forms::default() }
    }
}

/// A media type without its parameters.
pub fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// True for media types, without parameters, whose payloads are text frames.
pub fn is_text(media_type: &str) -> bool {
    let ends_with = |suffix: &str| {
        let start = media_type.len().checked_sub(suffix.len());
        start.and_then(|start| media_type.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    media_type.eq_ignore_ascii_case("application/json")
        || media_type.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"))
        || ends_with("+json")
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
    /// The route spells the name out, so that no client chose it.
    pub name_is_literal: bool,
    pub user: Option<Arc<str>>,
    pub context: Option<Arc<str>>,
    pub time: SystemTime,
    pub traceparent: Traceparent,
    pub body: Bytes,
    pub format: Format,
    pub attempts: Attempts,
}

/// Counts the attempts to deliver an event, where somebody wants to know.
#[derive(Debug, Clone, Default)]
pub struct Attempts(Option<Arc<AtomicU32>>);

impl Attempts {
    pub fn counted() -> Self {
        Self(Some(Arc::default()))
    }

    /// One begins.
    pub fn note(&self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were begun; none where there was none, or nobody counted.
    pub fn count(&self) -> Option<u32> {
        self.0.as_ref().map(|count| count.load(Ordering::Relaxed)).filter(|count| *count > 0)
    }
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

    /// As the header `traceparent` has it.
    pub fn text(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text::hex(&mut text[3..35], self.trace_id);
        text::hex(&mut text[36..52], self.span_id.into());
        text[54] += u8::from(self.sampled);
        text
    }
}

impl std::str::FromStr for Traceparent {
    type Err = InvalidTraceparent;

    /// Reads version 00, and of later versions what they have in common with it (W3C Trace Context section 3.2).
    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        let mut parts = text.trim().split('-');
        let mut hex = |len: usize| {
            let part = parts.next().filter(|part| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit()));
            part.and_then(|part| u128::from_str_radix(part, 16).ok()).ok_or(InvalidTraceparent)
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let span_id = u64::try_from(span_id).map_err(|_| InvalidTraceparent)?;
        if version == 0xff || trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceparent);
        }
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a traceparent such as 00-<32 hex>-<16 hex>-01")]
pub struct InvalidTraceparent;

impl std::fmt::Display for Traceparent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(text::ascii(&self.text()))
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
    /// No queue takes the message; the reason may be shown to its sender.
    #[error("the broker has no queue for the message: {reason}")]
    Unroutable { reason: String },
    /// The broker refused the message.
    #[error("the broker refused the message")]
    Nacked,
    /// The upstream answered 2xx with something that breaks the contract.
    #[error("the upstream broke the contract: {reason}")]
    Broken { reason: String },
}

impl Failure {
    /// True if sending the same message again would fail again: it is the sender's affair, not a delivery that failed.
    pub fn is_about_the_message(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Unroutable { .. })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_reads_back_and_what_is_none_is_refused() {
        let traceparent = Traceparent::random(true);
        assert_eq!(traceparent.to_string().parse(), Ok(traceparent));
        for text in ["", "00-0-0-01", "ff-11111111111111111111111111111111-2222222222222222-01", "00-é"] {
            assert_eq!(text.parse::<Traceparent>(), Err(InvalidTraceparent), "{text}");
        }
        assert!("00-00000000000000000000000000000000-2222222222222222-01".parse::<Traceparent>().is_err());
    }

    #[test]
    fn a_fault_in_words_stays_one_short_line() {
        assert_eq!(one_line("a\r\nb\u{1b}[2J\u{85}é"), "a\\r\\nb\\u{1b}[2J\\u{85}é");
        assert!(one_line(&"é".repeat(10_000)).len() <= WORDS_BYTES_MAX + 5);
    }

    #[test]
    fn a_media_type_picks_text_or_binary() {
        let kind = |media_type, bytes: &'static [u8]| {
            Payload::of_media_type(media_type, Bytes::from_static(bytes)).map(|payload| payload.kind())
        };
        assert_eq!(kind(None, b"hi"), Ok(Kind::Text));
        assert_eq!(kind(None, b"\xff"), Ok(Kind::Binary));
        assert_eq!(kind(Some("Application/JSON; charset=utf-8"), b"{}"), Ok(Kind::Text));
        assert_eq!(kind(Some("application/vnd.x+json"), b"{}"), Ok(Kind::Text));
        assert_eq!(kind(Some("application/octet-stream"), b"hi"), Ok(Kind::Binary));
        assert!(kind(Some("text/plain"), b"\xff").is_err());
    }
}
