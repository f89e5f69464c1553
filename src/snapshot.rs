//! One generation of endpoints, routes, schemas and upstreams: immutable, swapped whole.
//! Knows the rows above; must not know sockets, files or how a configuration is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::amqp::Broker;
use crate::claims::{GroupRule, Requirement};
use crate::limits::json::JsonLimits;
use crate::limits::{NodeLimits, Quotas};
use crate::recorder::Redaction;
use crate::routing::{EventName, Pattern, Pointer, Table, Template};
use crate::schema::Schema;
use crate::telemetry::{EndpointMetrics, Metrics, RouteMetrics};
use crate::tokens::{Verifier, VerifierSettings};
use crate::upstream::{self, BatchSettings, Batcher, Upstream, UpstreamError};

/// What to do with a payload that does not fit its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validate {
    /// Refuse it.
    Enforce,
    /// Count it, log it, and let it pass.
    Report,
}

/// What a client hears when its message was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// An error frame; the socket stays open.
    Error,
    /// Close 4005, so that the client reconnects and sends again.
    Close,
}

/// Where a client may put its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer`.
    Header,
    /// A subprotocol `bearer.<token>`, which is never chosen.
    Subprotocol,
    Cookie(String),
    /// A parameter of the URL's query.
    Query(String),
    /// The first message on the socket.
    Message,
}

/// How the clients of an endpoint prove who they are.
#[derive(Clone)]
pub struct AuthDraft {
    pub verifier: VerifierSettings,
    /// Looked at in this order; the first token that is found counts.
    pub sources: Vec<TokenSource>,
    /// True if a client may come without a token.
    pub is_optional: bool,
    /// How long the first message may take.
    pub message_timeout: Duration,
    /// How long before its token ends a client is told.
    pub warning: Option<Duration>,
    /// The event name by which a client sends a new token.
    pub refresh_event: Arc<str>,
}

/// Heartbeat settings. Any inbound byte counts as alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Silence after which a ping is sent.
    pub interval: Duration,
    /// How long a ping may stay without any byte before it counts as missed.
    pub timeout: Duration,
    /// Missed pings after which the connection is closed with 4000.
    pub misses: u32,
}

/// What a client hears when it sends more than its rates allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExcess {
    /// An error frame with `retry_after_ms`; the message is refused, the socket stays open.
    Error,
    /// That, and close 4501.
    Close,
}

/// Limits of one endpoint, counted on decoded frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message; a larger one closes with 1009.
    pub message_size: usize,
    /// Bytes that may wait for the client to read; over it the client is cut with 4001.
    pub send_buffer: usize,
    /// Bytes that are read ahead while the in-flight window is full.
    pub receive_buffer: usize,
    /// Rates of messages, and the connections of a user or an address.
    pub quotas: Arc<Quotas>,
    pub on_excess: OnExcess,
    /// Open connections on this endpoint; one more is refused with 503.
    pub connections: usize,
    /// Refused messages after which the connection is closed with 4501; none never closes.
    pub invalid_messages: Option<u32>,
    /// How large the structure of a message's JSON may be, where it is parsed.
    pub json: JsonLimits,
    /// Groups that one connection may be in.
    pub groups: usize,
}

/// How messages of one endpoint are compressed, with clients that agree to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// 1 is the fastest, 9 the smallest.
    pub level: u8,
    /// Smaller messages are sent as they are.
    pub min_size: usize,
    /// Messages refer to those before them.
    pub context_takeover: bool,
    /// Base-2 logarithm of how far back they may refer, 9 to 15.
    pub window_bits: u8,
}

/// One endpoint, with its schemas compiled and its upstreams by name.
#[derive(Clone)]
pub struct EndpointDraft {
    pub path: Arc<str>,
    pub event: EventName,
    /// Name of the upstream asked at connect.
    pub connect: Option<String>,
    /// Name of the upstream told at disconnect.
    pub disconnect: Option<String>,
    pub heartbeat: Heartbeat,
    pub limits: Limits,
    pub idle_timeout: Option<Duration>,
    pub lifetime: Option<Duration>,
    /// Allowed `Origin` values; empty allows every one. A request without `Origin` (not a browser) passes.
    pub origins: Vec<String>,
    /// Subprotocols in the server's order of preference.
    pub subprotocols: Vec<String>,
    /// None where nothing is compressed.
    pub compression: Option<Compression>,
    pub validate: Validate,
    pub push_schema: Option<Arc<Schema>>,
    /// What of messages nobody who looks is shown.
    pub redaction: Arc<Redaction>,
    /// None takes every client.
    pub auth: Option<AuthDraft>,
    /// Who may be in which group.
    pub group_rules: Vec<GroupRule>,
    /// Where the messages of which groups bear what they are the newest of: of those with the same value only the newest waits.
    pub conflations: Vec<(Pattern, Pointer)>,
    pub routes: Vec<RouteDraft>,
}

/// One route as the configuration gives it.
#[derive(Clone)]
pub struct RouteDraft {
    pub event: Pattern,
    pub schema: Option<Arc<Schema>>,
    pub reply_schema: Option<Arc<Schema>>,
    /// The endpoint's, unless the route says otherwise.
    pub validate: Validate,
    /// Name of an upstream; the configuration has checked that it exists.
    pub upstream: String,
    /// Calls of one connection on this route at once; 1 keeps strict order.
    pub in_flight: usize,
    /// Events of many connections go together; for HTTP upstreams only.
    pub batch: Option<BatchSettings>,
    /// Overrides the upstream's deadline.
    pub deadline: Option<Duration>,
    pub on_failure: OnFailure,
    /// Tell the sender once the upstream has its message, where it gives no reply.
    pub ack: bool,
    /// What the sender's claims must hold.
    pub require: Requirement,
    /// Groups that the sender joins or leaves once the upstream has its message.
    pub join: Option<Template>,
    pub leave: Option<Template>,
}

/// Everything that a reload may change, checked but not yet connected.
#[derive(Clone)]
pub struct Draft {
    pub limits: NodeLimits,
    pub endpoints: Vec<EndpointDraft>,
    pub upstreams: BTreeMap<String, upstream::Settings>,
    /// Hash of the configuration's text and of every file that it names, hexadecimal.
    pub hash: String,
}

/// One generation, in use.
pub struct Snapshot {
    /// 1 for the configuration that the program started with.
    pub generation: u64,
    pub hash: String,
    pub loaded_at: SystemTime,
    /// Limits of the whole node.
    pub limits: NodeLimits,
    endpoints: HashMap<Arc<str>, Arc<Endpoint>>,
    upstreams: BTreeMap<String, Arc<Upstream>>,
}

/// One endpoint of one generation.
pub struct Endpoint {
    pub generation: u64,
    pub draft: EndpointDraft,
    pub connect: Option<Arc<Upstream>>,
    pub disconnect: Option<Arc<Upstream>>,
    /// There where the draft has `auth`.
    pub verifier: Option<Verifier>,
    pub metrics: Arc<EndpointMetrics>,
    /// Every route that takes text checks it against a schema, so that whatever comes is to be parsed.
    pub checks_all: bool,
    table: Table<Arc<Route>>,
}

/// Why a generation could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("auth of the endpoint {endpoint}: {reason}")]
    Auth { endpoint: Arc<str>, reason: String },
}

/// One route of one generation.
pub struct Route {
    pub draft: RouteDraft,
    /// The pattern, as metrics and logs name the route.
    pub label: Arc<str>,
    pub upstream: Arc<Upstream>,
    /// There where the draft has `batch`.
    pub batcher: Option<Arc<Batcher>>,
    pub metrics: RouteMetrics,
}

impl Snapshot {
    /// Builds a generation. Upstreams whose settings equal those of `previous` are kept, with their pools and breakers, and so are
    /// fetched keys.
    /// `broker` is where RabbitMQ upstreams publish. Needs a tokio runtime.
    pub fn build(
        draft: Draft,
        previous: Option<&Snapshot>,
        broker: Option<&Arc<Broker>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, SnapshotError> {
        let generation = previous.map_or(1, |p| p.generation + 1);
        let mut upstreams = BTreeMap::new();
        for (name, settings) in draft.upstreams {
            let kept = previous.and_then(|p| p.upstreams.get(&name)).filter(|old| *old.settings() == settings);
            let upstream = match kept {
                Some(kept) => kept.clone(),
                None => Upstream::new(&name, settings, broker, metrics)?,
            };
            upstreams.insert(name, upstream);
        }
        let find = |name: &str| {
            let missing = || UpstreamError { name: name.into(), reason: "expected it under `upstreams`".into() };
            upstreams.get(name).cloned().ok_or_else(missing)
        };
        let mut endpoints = HashMap::new();
        for endpoint in draft.endpoints {
            let path = endpoint.path.clone();
            let old = previous.and_then(|p| p.endpoint(&path)).map(|old| &**old);
            endpoints.insert(path, Arc::new(Endpoint::build(endpoint, generation, old, &find, metrics)?));
        }
        let (hash, limits) = (draft.hash, draft.limits);
        Ok(Self { generation, hash, loaded_at: SystemTime::now(), limits, endpoints, upstreams })
    }

    pub fn endpoint(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(path)
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}

impl Endpoint {
    fn build(
        draft: EndpointDraft,
        generation: u64,
        previous: Option<&Endpoint>,
        find: &impl Fn(&str) -> Result<Arc<Upstream>, UpstreamError>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, SnapshotError> {
        let mut routes = Vec::with_capacity(draft.routes.len());
        for route in &draft.routes {
            let label: Arc<str> = route.event.as_str().into();
            let upstream = find(&route.upstream)?;
            let events = || metrics.batch_events(&draft.path, &label);
            let built = Route {
                batcher: route.batch.and_then(|batch| upstream.batcher(batch, events())),
                upstream,
                metrics: metrics.route(&draft.path, &label),
                label,
                draft: route.clone(),
            };
            routes.push((route.event.clone(), Arc::new(built)));
        }
        let previous = previous.and_then(|endpoint| endpoint.verifier.as_ref());
        let verifier = |auth: &AuthDraft| Verifier::new(auth.verifier.clone(), previous, metrics);
        let wrong = |reason| SnapshotError::Auth { endpoint: draft.path.clone(), reason };
        Ok(Self {
            generation,
            verifier: draft.auth.as_ref().map(verifier).transpose().map_err(wrong)?,
            connect: draft.connect.as_deref().map(find).transpose()?,
            disconnect: draft.disconnect.as_deref().map(find).transpose()?,
            metrics: Arc::new(metrics.endpoint(&draft.path, draft.compression.is_some())),
            checks_all: draft.event != EventName::None
                && draft.routes.iter().all(|route| route.schema.is_some() || route.event.is_binary()),
            table: Table::new(routes),
            draft,
        })
    }

    /// True if a handshake is accepted by the broker's confirm of its connect event: then whoever takes that event out of its queue
    /// may push to the connection before the handshake is answered.
    pub fn accepts_on_confirm(&self) -> bool {
        self.connect.as_ref().is_some_and(|upstream| !upstream.answers())
    }

    /// The route that takes this event name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.table.find(name)
    }
}
