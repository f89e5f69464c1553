//! What is recorded of one connection: messages in with what became of them, messages out, beginning and end. Knows payloads; must not
//! know who records.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use super::Redaction;
use super::shown::{Data, Head, Stages, line, micros, time};
use super::watch::Watcher;
use crate::connection::Connection;
use crate::ids::ConnectionId;
use crate::mailbox::Offered;
use crate::message::{Attempts, Ending, Payload};
use crate::schema::Origin;

/// Why a message goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// An upstream's reply, or an acknowledgement.
    Answer,
    /// A command.
    Push,
    /// A message was refused, or not delivered.
    Error,
}

/// A connection that somebody looks at.
pub struct Subject {
    watchers: Vec<Arc<Watcher>>,
    time: SystemTime,
    id: ConnectionId,
    endpoint: Arc<str>,
    user: Option<Arc<str>>,
}

/// Which rule took a message.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The route's pattern.
    pub route: Arc<str>,
    pub schema: Option<Origin>,
    /// The upstream's name.
    pub upstream: String,
}

/// A message in, on its way.
pub struct Recording {
    subject: Subject,
    payload: Payload,
    redaction: Arc<Redaction>,
    seq: u64,
    received: Instant,
    taken: Instant,
    checked: Option<Instant>,
    answered: Option<Instant>,
    pub event: Option<Arc<str>>,
    pub rule: Option<Taken>,
    /// The configuration that it went by.
    pub generation: u64,
    pub attempts: Attempts,
}

impl Subject {
    pub(super) fn new(connection: &Connection, watchers: Vec<Arc<Watcher>>) -> Self {
        let (endpoint, user) = (connection.endpoint.clone(), connection.user.clone());
        Self { watchers, time: SystemTime::now(), id: connection.id, endpoint, user }
    }

    /// A message of the client begins its way. Its time is that of its receipt.
    pub fn message_in(
        mut self,
        seq: u64,
        payload: Payload,
        redaction: Arc<Redaction>,
        received: Instant,
    ) -> Box<Recording> {
        let taken = Instant::now();
        self.time -= taken - received;
        Box::new(Recording {
            subject: self,
            payload,
            redaction,
            seq,
            received,
            taken,
            checked: None,
            answered: None,
            event: None,
            rule: None,
            generation: 0,
            attempts: Attempts::counted(),
        })
    }

    /// A message to the client is about to be queued.
    pub(super) fn message_out(self, payload: Payload, redaction: Arc<Redaction>, cause: Cause) -> Outgoing {
        let record = Out { subject: self, payload, redaction, cause, since: Instant::now() };
        Outgoing(Arc::new(Mutex::new(Fate { record: Some(record), is_queued: false, is_lost: false })))
    }

    pub fn connected(self, connection: &Connection) {
        #[derive(Serialize)]
        struct Connected<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            remote_addr: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            subprotocol: Option<&'a str>,
        }
        let remote_addr = connection.remote_addr.to_string();
        let subprotocol = connection.subprotocol.as_deref();
        self.tell(&Connected { head: self.head("connected", None), remote_addr, subprotocol }, |_| true);
    }

    pub fn disconnected(self, ending: &Ending, lived: Duration) {
        #[derive(Serialize)]
        struct Disconnected<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            code: u16,
            reason: &'a str,
            cause: &'static str,
            duration_ms: u64,
        }
        let record = Disconnected {
            head: self.head("disconnected", None),
            code: ending.code.0,
            reason: &ending.reason,
            cause: ending.cause.as_str(),
            duration_ms: u64::try_from(lived.as_millis()).unwrap_or(u64::MAX),
        };
        self.tell(&record, |_| true);
    }

    /// A message was refused before anything was read of it.
    pub fn limited(self, seq: u64, bytes: usize, generation: u64, outcome: &str) {
        #[derive(Serialize)]
        struct Limited<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            seq: u64,
            #[serde(flatten)]
            data: Data,
            generation: u64,
            outcome: &'a str,
            stages_us: Stages,
        }
        let (head, data) = (self.head("message", Some("in")), Data::hidden(bytes));
        let record = Limited { head, seq, data, generation, outcome, stages_us: Stages::default() };
        self.tell(&record, |watcher| watcher.filter.takes_message(None, outcome));
    }

    fn head(&self, kind: &'static str, direction: Option<&'static str>) -> Head<'_> {
        let (connection, endpoint, user) = (self.id.as_str(), &*self.endpoint, self.user.as_deref());
        Head { kind, direction, time: time(self.time), connection, endpoint, user }
    }

    fn tell(&self, record: &impl Serialize, wants: impl Fn(&Watcher) -> bool) {
        let line = line(record);
        self.watchers.iter().filter(|watcher| wants(watcher)).for_each(|watcher| watcher.tell(&line));
    }

    fn is_wanted(&self, event: Option<&str>, outcome: &str) -> bool {
        self.watchers.iter().any(|watcher| watcher.filter.takes_message(event, outcome))
    }
}

impl Recording {
    /// It was decoded, routed and checked.
    pub fn checked(&mut self) {
        self.checked = Some(Instant::now());
    }

    /// The upstream has answered, or will not.
    pub fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }

    /// Nothing is shown of it but its size.
    pub fn hide(&mut self) {
        self.redaction = Arc::new(Redaction::everything());
    }

    /// Tells what became of it: `answered`, `accepted`, or the code of the error that the client was told.
    pub fn finish(&self, outcome: &str) {
        #[derive(Serialize)]
        struct In<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            seq: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            event: Option<&'a str>,
            #[serde(flatten)]
            data: Data,
            #[serde(skip_serializing_if = "Option::is_none")]
            route: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            schema: Option<&'a Origin>,
            #[serde(skip_serializing_if = "Option::is_none")]
            upstream: Option<&'a str>,
            generation: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            attempts: Option<u32>,
            outcome: &'a str,
            stages_us: Stages,
        }
        let event = self.event.as_deref();
        if !self.subject.is_wanted(event, outcome) {
            return;
        }
        let rule = self.rule.as_ref();
        let record = In {
            head: self.subject.head("message", Some("in")),
            seq: self.seq,
            event,
            data: Data::of(&self.payload, &self.redaction),
            route: rule.map(|rule| &*rule.route),
            schema: rule.and_then(|rule| rule.schema.as_ref()),
            upstream: rule.map(|rule| rule.upstream.as_str()),
            generation: self.generation,
            attempts: self.attempts.count(),
            outcome,
            stages_us: Stages {
                waited: micros(self.taken - self.received),
                checked: self.checked.map(|checked| micros(checked - self.taken)),
                upstream: self.checked.zip(self.answered).map(|(checked, answered)| micros(answered - checked)),
                total: Some(micros(self.received.elapsed())),
            },
        };
        self.subject.tell(&record, |watcher| watcher.filter.takes_message(event, outcome));
    }
}

/// A message out that is being queued. Its fate is told once: by whoever queues it, or by its receipt.
pub(super) struct Outgoing(Arc<Mutex<Fate>>);

struct Fate {
    record: Option<Out>,
    /// The mailbox took it: from now on its receipt tells.
    is_queued: bool,
    /// The receipt is gone, before it was known whether the mailbox took it.
    is_lost: bool,
}

struct Out {
    subject: Subject,
    payload: Payload,
    redaction: Arc<Redaction>,
    cause: Cause,
    since: Instant,
}

/// Goes with the payload: used once its bytes are in the socket, dropped where they never got there.
pub(super) struct Receipt(Arc<Mutex<Fate>>);

impl Outgoing {
    pub fn receipt(&self) -> Receipt {
        Receipt(self.0.clone())
    }

    pub fn offered(&self, offered: Offered) {
        let mut fate = self.0.lock();
        fate.is_queued = matches!(offered, Offered::Queued | Offered::Left | Offered::Replaced);
        let outcome = match offered {
            _ if fate.is_queued && !fate.is_lost => return,
            Offered::Gone => "gone",
            _ => "dropped",
        };
        let record = fate.record.take();
        drop(fate);
        record.iter().for_each(|record| record.finish(outcome));
    }
}

impl Receipt {
    pub fn written(self) {
        let record = self.0.lock().record.take();
        record.iter().for_each(|record| record.finish("written"));
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let mut fate = self.0.lock();
        fate.is_lost = true;
        let record = if fate.is_queued { fate.record.take() } else { None };
        drop(fate);
        record.iter().for_each(|record| record.finish("dropped"));
    }
}

impl Out {
    fn finish(&self, outcome: &'static str) {
        #[derive(Serialize)]
        struct Record<'a> {
            #[serde(flatten)]
            head: Head<'a>,
            #[serde(flatten)]
            data: Data,
            cause: Cause,
            outcome: &'static str,
            stages_us: Stages,
        }
        if !self.subject.is_wanted(None, outcome) {
            return;
        }
        let record = Record {
            head: self.subject.head("message", Some("out")),
            data: Data::of(&self.payload, &self.redaction),
            cause: self.cause,
            outcome,
            stages_us: Stages { waited: micros(self.since.elapsed()), ..Stages::default() },
        };
        self.subject.tell(&record, |watcher| watcher.filter.takes_message(None, outcome));
    }
}
