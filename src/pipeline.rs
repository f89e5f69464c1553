//! The path of a message: load a snapshot, decode, check, route, call, encode. The one place where errors become client words.
//! Knows snapshots and upstreams; must not know sockets, the mailbox or the registry.

mod encode;
mod lifecycle;
mod recording;
mod rights;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::time::Instant;

use crate::claims::Grant;
use crate::codes::{Cause, CloseCode, ErrorCode};
use crate::ids::ConnectionId;
use crate::limits::json::Oversized;
use crate::limits::{Excess, Limit};
use crate::message::{
    Answer, Attempts, BINARY_EVENT, Command, Ending, Event, EventKind, Failure, Format, Kind, NAME_BYTES_MAX, Payload,
    Reject, TEXT_EVENT, Traceparent, Violation, json,
};
use crate::recorder::{Recorder, Recording};
use crate::routing::{EventName, Found};
use crate::schema::Schema;
use crate::snapshot::{Endpoint, OnExcess, OnFailure, Route, Snapshot, Validate};
use crate::telemetry::metrics::{EndpointCause, EndpointCode, Label, LimitLabel, ViolationLabel};
use crate::telemetry::{Metrics, Span, Spans};

use encode::ack_frame;
pub use encode::{error_frame, token_frame};
pub use lifecycle::{ConnectFacts, Connected, Greeting};
pub use rights::Renewal;

/// Closes that are the client's fault.
const VIOLATIONS: [CloseCode; 4] =
    [CloseCode::PROTOCOL_ERROR, CloseCode::INVALID_UTF8, CloseCode::TOO_LARGE, CloseCode::ABUSE];

/// Holds the current snapshot and takes messages through it.
pub struct Pipeline {
    current: ArcSwap<Snapshot>,
    /// That of `current`, read many times for each message.
    generation: AtomicU64,
    recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
    spans: Spans,
}

/// Who sent a message, as its event says.
#[derive(Debug, Clone)]
pub struct Sender {
    pub id: ConnectionId,
    pub user: Option<Arc<str>>,
    pub context: Option<Arc<str>>,
    /// What its token gave it.
    pub grant: Option<Arc<Grant>>,
}

/// One message as it was read from a socket.
pub struct Inbound {
    /// Its number on its connection, from 1.
    pub seq: u64,
    pub payload: Payload,
    /// When it was read: deadlines count from here.
    pub received: Instant,
    /// There while somebody looks.
    pub recording: Option<Box<Recording>>,
}

/// What is to be done for the sender after its message was handled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// The reply or the error frame.
    pub frame: Option<Payload>,
    /// The frame tells of an error.
    pub is_error: bool,
    pub commands: Vec<Command>,
    pub close: Option<Ending>,
    /// The message was refused because of what it said: counts against `limits.invalid_messages`.
    pub invalid: bool,
}

/// A message that was decoded, or refused before any upstream was asked.
pub enum Prepared {
    Refused(Verdict),
    Routed(Box<Routed>),
}

/// A message that fits its schema and has a route. Made only by `Pipeline::prepare`.
pub struct Routed {
    endpoint: Arc<Endpoint>,
    route: Arc<Route>,
    event: Event,
    received: Instant,
    /// What the route itself does once the upstream has the message.
    commands: Vec<Command>,
    recording: Option<Box<Recording>>,
}

impl Routed {
    /// Calls of one connection that may run at once on this route.
    pub fn window(&self) -> usize {
        self.route.draft.in_flight
    }

    /// True if both go by the same route of the same generation.
    pub fn same_route(&self, other: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.route, other)
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }
}

impl Pipeline {
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>, spans: Spans) -> Arc<Self> {
        let recorder = Recorder::new(metrics.clone());
        let generation = snapshot.generation.into();
        Arc::new(Self { current: ArcSwap::from_pointee(snapshot), generation, recorder, metrics, spans })
    }

    /// The generation in use.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Swaps the generation. Messages under way finish with the one that they began with.
    pub fn swap(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.current.store(Arc::new(snapshot));
        // Whoever sees the number finds the snapshot.
        self.generation.store(generation, Ordering::Release);
    }

    /// Replaces `endpoint` by its newest generation; true if it changed. An endpoint that the configuration no longer has
    /// stays as it was for the connections that are on it.
    pub fn refresh(&self, endpoint: &mut Arc<Endpoint>) -> bool {
        if self.generation.load(Ordering::Acquire) == endpoint.generation {
            return false;
        }
        let snapshot = self.current.load();
        match snapshot.endpoint(&endpoint.draft.path) {
            Some(newest) if newest.generation != endpoint.generation => {
                *endpoint = newest.clone();
                true
            }
            _ => false,
        }
    }

    /// Decodes, routes and checks one message.
    pub fn prepare(&self, endpoint: &Arc<Endpoint>, sender: Sender, mut inbound: Inbound) -> Prepared {
        let (seq, recording) = (inbound.seq, inbound.recording.take());
        match self.decode(endpoint, sender, inbound) {
            Ok(mut routed) => {
                routed.recording = recording.map(|mut recording| {
                    recording::routed(&mut recording, &mut routed);
                    recording
                });
                Prepared::Routed(routed)
            }
            Err((reject, route)) => {
                if let Some(recording) = recording {
                    recording::refused(recording, endpoint, &reject);
                }
                Prepared::Refused(self.refuse(endpoint, &route, seq, &reject))
            }
        }
    }

    /// The verdict on a message that was over a rate.
    pub fn rate_limited(&self, endpoint: &Endpoint, seq: u64, excess: Excess) -> Verdict {
        let Excess { limit, retry_after_ms } = excess;
        self.count_limited(&endpoint.draft.path, limit);
        let mut reject = Reject::new(ErrorCode::RateLimited, limit.message());
        reject.retry_after_ms = Some(retry_after_ms);
        let mut verdict = self.refuse(endpoint, "$none", seq, &reject);
        // It was refused for its time, not for what it said.
        verdict.invalid = false;
        if endpoint.draft.limits.on_excess == OnExcess::Close {
            verdict.close = Some(Ending::new(CloseCode::ABUSE, limit.message(), Cause::Server));
        }
        verdict
    }

    /// Counts what a limit refused; `endpoint` is the path, or `$none`.
    pub fn count_limited(&self, endpoint: &Label, limit: Limit) {
        let label = LimitLabel { endpoint: endpoint.clone(), limit: limit.name().into() };
        self.metrics.limited.get_or_create(&label).inc();
    }

    /// Calls the upstream and makes the verdict.
    pub async fn call(self: Arc<Self>, routed: Box<Routed>) -> Verdict {
        let Routed { route, event, received, .. } = &*routed;
        let deadline = *received + route.draft.deadline.unwrap_or(route.upstream.deadline());
        let result = match &route.batcher {
            Some(batcher) => batcher.call(event, deadline).await,
            // It is large, and a batch has no use for the room.
            None => Box::pin(route.upstream.call(event, deadline)).await,
        };
        let Routed { endpoint, route, event, received, mut commands, recording } = *routed;
        let result = result.and_then(|answer| self.check_reply(&endpoint, &route, answer));
        route.metrics.duration.observe(received.elapsed().as_secs_f64());
        if event.traceparent.sampled {
            self.record_span(&endpoint, &route, &event, received, result.as_ref().err());
        }
        if let Some(recording) = recording {
            recording::finished(recording, &result);
        }
        match result {
            Ok(answer) => {
                route.metrics.delivered.inc();
                let frame = answer.reply.or_else(|| route.draft.ack.then(|| ack_frame(event.seq)));
                commands.extend(answer.commands);
                Verdict { frame, commands, ..Verdict::default() }
            }
            Err(failure) => self.failed(&endpoint, &route, &event, &failure),
        }
    }

    /// Checks what the application pushes to connections of this endpoint; in report mode it only counts.
    pub fn check_push(&self, endpoint: &str, payload: &Payload) -> Result<(), Vec<Violation>> {
        let snapshot = self.current.load();
        let Some(endpoint) = snapshot.endpoint(endpoint) else { return Ok(()) };
        let Some(schema) = &endpoint.draft.push_schema else { return Ok(()) };
        let Err(violations) = check_payload(schema, payload) else { return Ok(()) };
        self.report(&endpoint.draft.path, "$push", "push", endpoint.draft.validate, &violations)
    }

    /// What a message to a group is the newest of on this endpoint: group and value. None where every message counts.
    pub fn conflation_key(&self, endpoint: &str, group: &str, payload: &Payload) -> Option<Arc<str>> {
        let snapshot = self.current.load();
        let mut conflations = snapshot.endpoint(endpoint)?.draft.conflations.iter();
        let (_, pointer) = conflations.find(|(pattern, _)| pattern.matches_text(group))?;
        let value = json::parse(payload.bytes()).ok()?;
        let value = pointer.value_in(&value).filter(|value| !value.is_object() && !value.is_array())?;
        Some(format!("{group}\0{value}").into())
    }

    /// Counts a connection that ended.
    pub fn count_closed(&self, endpoint: &Endpoint, ending: &Ending) {
        let label = EndpointCause { endpoint: endpoint.draft.path.clone(), cause: ending.cause.as_str().into() };
        self.metrics.connections_closed.get_or_create(&label).inc();
        if ending.cause != Cause::Client && VIOLATIONS.contains(&ending.code) {
            let label = EndpointCode { endpoint: endpoint.draft.path.clone(), code: ending.code.to_string().into() };
            self.metrics.violations.get_or_create(&label).inc();
        }
    }

    fn decode(
        &self,
        endpoint: &Arc<Endpoint>,
        sender: Sender,
        inbound: Inbound,
    ) -> Result<Box<Routed>, (Reject, Arc<str>)> {
        let Inbound { seq, payload, received, .. } = inbound;
        let none = || Arc::from("$none");
        if payload.kind() == Kind::Text && endpoint.draft.event != EventName::None {
            self.check_structure(endpoint, &payload).map_err(|reject| (reject, none()))?;
        }
        // What every route would parse is parsed once; what is wrong with it, if anything is, shows below.
        let is_parsed = endpoint.checks_all && payload.kind() == Kind::Text;
        let value = is_parsed.then(|| json::parse(payload.bytes()).ok()).flatten();
        let (name, format) =
            event_name(&endpoint.draft.event, &payload, value.as_ref()).map_err(|reject| (reject, none()))?;
        let Some(route) = endpoint.route(&name) else {
            let mut reject = Reject::new(ErrorCode::UnknownEvent, format!("no route takes the event {name:?}"));
            reject.event = Some(name.into());
            return Err((reject, none()));
        };
        let name: Arc<str> = if route.draft.event.is_literal() { route.label.clone() } else { name.into() };
        let named = |mut reject: Reject| {
            reject.event = Some(name.clone());
            (reject, route.label.clone())
        };
        rights::check(route, &sender).map_err(named)?;
        if let Some(schema) = &route.draft.schema {
            self.check_message(endpoint, route, schema, &payload, value).map_err(named)?;
        }
        let commands = rights::memberships(endpoint, route, &sender, &name, &payload).map_err(named)?;
        let event = Event {
            kind: EventKind::Message,
            connection: sender.id,
            seq,
            endpoint: endpoint.draft.path.clone(),
            name: Some(name),
            name_is_literal: route.draft.event.is_literal(),
            user: sender.user,
            context: sender.context,
            time: SystemTime::now(),
            traceparent: Traceparent::random(self.spans.sample()),
            body: payload.into_bytes(),
            format,
            attempts: Attempts::default(),
        };
        let (endpoint, route) = (endpoint.clone(), route.clone());
        Ok(Box::new(Routed { endpoint, route, event, received, commands, recording: None }))
    }

    fn check_message(
        &self,
        endpoint: &Endpoint,
        route: &Route,
        schema: &Schema,
        payload: &Payload,
        parsed: Option<Value>,
    ) -> Result<(), Reject> {
        if endpoint.draft.event == EventName::None {
            self.check_structure(endpoint, payload)?;
        }
        let value = match parsed {
            Some(value) => value,
            None => json::parse(payload.bytes()).map_err(|e| invalid_json(&e))?,
        };
        let Err(violations) = schema.check(&value) else { return Ok(()) };
        self.report(&endpoint.draft.path, &route.label, "message", route.draft.validate, &violations).map_err(
            |errors| {
                let mut reject = Reject::new(ErrorCode::SchemaViolation, "the message does not fit its schema");
                reject.errors = errors;
                reject
            },
        )
    }

    /// Before anything is parsed: the whole message is held against the limits, whatever will be read of it.
    fn check_structure(&self, endpoint: &Endpoint, payload: &Payload) -> Result<(), Reject> {
        endpoint.draft.limits.json.check(payload.bytes()).map_err(|oversized| {
            let limit = if matches!(oversized, Oversized::Depth(_)) { Limit::JsonDepth } else { Limit::JsonValues };
            self.count_limited(&endpoint.draft.path, limit);
            Reject::new(ErrorCode::InvalidJson, format!("{}: {oversized}", limit.message()))
        })
    }

    fn check_reply(&self, endpoint: &Endpoint, route: &Route, answer: Answer) -> Result<Answer, Failure> {
        let (Some(schema), Some(reply)) = (&route.draft.reply_schema, &answer.reply) else { return Ok(answer) };
        let Err(violations) = check_payload(schema, reply) else { return Ok(answer) };
        match self.report(&endpoint.draft.path, &route.label, "reply", route.draft.validate, &violations) {
            Ok(()) => Ok(answer),
            Err(violations) => {
                let place = violations.first().map(|v| format!("{:?}: {}", v.pointer, v.message)).unwrap_or_default();
                Err(Failure::Broken { reason: format!("the reply does not fit reply_schema at {place}") })
            }
        }
    }

    /// Counts violations; gives them back where they are to be enforced.
    fn report(
        &self,
        endpoint: &Arc<str>,
        route: &str,
        direction: &str,
        validate: Validate,
        violations: &[Violation],
    ) -> Result<(), Vec<Violation>> {
        let mode = if validate == Validate::Enforce { "enforce" } else { "report" };
        let label = ViolationLabel {
            endpoint: endpoint.clone(),
            route: route.into(),
            direction: direction.into(),
            mode: mode.into(),
        };
        self.metrics.schema_violations.get_or_create(&label).inc();
        match validate {
            Validate::Enforce => Err(violations.to_vec()),
            Validate::Report => {
                let first = violations.first();
                tracing::info!(
                    endpoint = %endpoint,
                    route,
                    direction,
                    pointer = first.map(|v| v.pointer.as_str()),
                    violation = first.map(|v| v.message.as_str()),
                    "a payload does not fit its schema; it passes because of `validate: report`"
                );
                Ok(())
            }
        }
    }

    fn failed(&self, endpoint: &Endpoint, route: &Route, event: &Event, failure: &Failure) -> Verdict {
        let mut reject = encode::reject_of(failure);
        reject.event = event.name.clone();
        // A batch has told it already, once for all its messages.
        if !failure.is_about_the_message() && route.batcher.is_none() {
            tracing::warn!(
                connection = %event.connection,
                endpoint = %endpoint.draft.path,
                route = %route.label,
                upstream = route.upstream.name(),
                seq = event.seq,
                code = reject.code.as_str(),
                "message not delivered: {failure}"
            );
        }
        let mut verdict = self.refuse(endpoint, &route.label, event.seq, &reject);
        verdict.invalid = false;
        if route.draft.on_failure == OnFailure::Close && !failure.is_about_the_message() {
            let reason = format!("message {} was not delivered", event.seq);
            verdict.close = Some(Ending::new(CloseCode::NOT_DELIVERED, reason, Cause::Error));
        }
        verdict
    }

    fn refuse(&self, endpoint: &Endpoint, route: &str, seq: u64, reject: &Reject) -> Verdict {
        self.metrics.count_event(&endpoint.draft.path, route, reject.code.as_str());
        Verdict { frame: Some(error_frame(reject, seq)), is_error: true, invalid: true, ..Verdict::default() }
    }

    fn record_span(
        &self,
        endpoint: &Endpoint,
        route: &Route,
        event: &Event,
        received: Instant,
        failure: Option<&Failure>,
    ) {
        let duration = received.elapsed();
        self.spans.record(Span {
            name: format!("{} {}", endpoint.draft.path, route.label),
            trace_id: event.traceparent.trace_id,
            span_id: event.traceparent.span_id,
            parent_span_id: None,
            start: SystemTime::now() - duration,
            duration,
            attributes: vec![
                ("messaging.message.id", format!("{}.{}", event.connection, event.seq)),
                ("holdfast.upstream", route.upstream.name().to_owned()),
                ("holdfast.event", event.name.as_deref().unwrap_or_default().to_owned()),
            ],
            error: failure.map(ToString::to_string),
        });
    }
}

/// Finds the event's name, parsing no more than that where nothing was parsed yet.
fn event_name<'a>(
    rule: &EventName,
    payload: &'a Payload,
    parsed: Option<&'a Value>,
) -> Result<(Cow<'a, str>, Format), Reject> {
    let pointer = match (payload.kind(), rule) {
        (Kind::Binary, _) => return Ok((BINARY_EVENT.into(), Format::Binary)),
        (Kind::Text, EventName::None) => return Ok((TEXT_EVENT.into(), Format::Text)),
        (Kind::Text, EventName::At(pointer)) => pointer,
    };
    let found = match parsed {
        Some(value) => pointer.find_in(value),
        None => pointer.find(payload.bytes()).map_err(|e| invalid_json(&e))?,
    };
    match found {
        Found::Text(name) if name.is_empty() || name.len() > NAME_BYTES_MAX => Err(Reject::new(
            ErrorCode::MissingEvent,
            format!("expected an event name of 1 to {NAME_BYTES_MAX} bytes at {pointer}, found {} bytes", name.len()),
        )),
        // They would reach logs and the consoles of whoever reads them.
        Found::Text(name) if name.chars().any(char::is_control) => Err(Reject::new(
            ErrorCode::MissingEvent,
            format!("expected an event name without control characters at {pointer}"),
        )),
        // Names that start with `$` are Holdfast's own: a client cannot pose as another kind of frame.
        Found::Text(name) if name.starts_with('$') => {
            let mut reject = Reject::new(ErrorCode::UnknownEvent, "event names that start with '$' are reserved");
            reject.event = Some(name.into());
            Err(reject)
        }
        Found::Text(name) => Ok((name, Format::Json)),
        Found::Missing => Err(Reject::new(ErrorCode::MissingEvent, format!("expected a string at {pointer}"))),
    }
}

fn invalid_json(error: &serde_json::Error) -> Reject {
    Reject::new(ErrorCode::InvalidJson, format!("the message is not JSON that can be read: {error}"))
}

/// Checks a payload that should be JSON text; anything else is one violation at the root.
fn check_payload(schema: &Schema, payload: &Payload) -> Result<(), Vec<Violation>> {
    let root = |message: String| vec![Violation { pointer: String::new(), message }];
    if payload.kind() == Kind::Binary {
        return Err(root("expected JSON text, found a binary payload".into()));
    }
    let value = json::parse(payload.bytes()).map_err(|e| root(format!("expected JSON: {e}")))?;
    schema.check(&value)
}
