//! Every metric that Holdfast exports, by the conventions of Prometheus. Label sets are bounded: their values come from the
//! configuration and from fixed lists, never from a client. Knows names and numbers; must not know the domain's types.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

/// What the name of each metric begins with.
const PREFIX: &str = "holdfast";

type Counters<L> = Family<L, Counter>;
type Gauges<L> = Family<L, Gauge>;
type Histograms<L> = Family<L, Histogram, Buckets>;
type CountHistograms<L> = Family<L, Histogram, CountBuckets>;
pub type Label = std::sync::Arc<str>;

/// Latency buckets, in seconds: half a millisecond to the default deadline.
const LATENCY_SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 30.0];

/// Makes histograms with the latency buckets.
#[derive(Clone, Default)]
pub struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(LATENCY_SECONDS)
    }
}

/// Buckets of what is counted in one go.
const COUNTS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0];

/// Makes histograms with the buckets of counts.
#[derive(Clone, Default)]
pub struct CountBuckets;

impl MetricConstructor<Histogram> for CountBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(COUNTS)
    }
}

/// One metric, as `docs/metrics.md` tells of it.
#[derive(Debug, Clone)]
pub struct Description {
    /// As it is queried: a counter's ends in `_total`; a histogram has `_bucket`, `_sum` and `_count` behind it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// The names of a set of labels.
pub trait LabelNames {
    const NAMES: &'static [&'static str];
}

/// The labels that a metric of this type has.
pub trait Labelled {
    const LABELS: &'static [&'static str];
}

impl<L: LabelNames, M, C> Labelled for Family<L, M, C> {
    const LABELS: &'static [&'static str] = L::NAMES;
}

impl<N, A> Labelled for Counter<N, A> {
    const LABELS: &'static [&'static str] = &[];
}

impl<N, A> Labelled for Gauge<N, A> {
    const LABELS: &'static [&'static str] = &[];
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $name { $(pub $field: Label),+ }

        impl LabelNames for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    )+};
}

labels! {
    EndpointLabel { endpoint }
    EndpointCause { endpoint, cause }
    EndpointOutcome { endpoint, outcome }
    EndpointCode { endpoint, code }
    HandshakeLabel { endpoint, status }
    RouteLabel { endpoint, route }
    RouteOutcome { endpoint, route, outcome }
    /// `direction` is `message`, `reply` or `push`; `mode` is `enforce` or `report`.
    ViolationLabel { endpoint, route, direction, mode }
    /// `direction` is `received` or `sent`; `form` is `wire` or `plain`.
    CompressionLabel { endpoint, direction, form }
    LimitLabel { endpoint, limit }
    CommandLabel { kind, outcome }
    UpstreamLabel { upstream }
    UpstreamOutcome { upstream, outcome }
    UpstreamAddress { upstream, address }
    OutcomeLabel { outcome }
    KindLabel { kind }
    /// `publishing` or `consuming`.
    ConnectionLabel { connection }
    /// `commands` or `node`.
    QueueLabel { queue }
    QueueOutcome { queue, outcome }
}

/// All metrics of one process. Handles are atomics: clone one out of its family where it is used often.
pub struct Metrics {
    registry: Registry,
    descriptions: Vec<Description>,
    pub connections: Gauges<EndpointLabel>,
    /// Set when a configuration takes effect.
    pub connections_limit: Gauge,
    pub connections_opened: Counters<EndpointLabel>,
    pub connections_closed: Counters<EndpointCause>,
    /// 1002, 1007, 1009, 4501.
    pub violations: Counters<EndpointCode>,
    pub handshakes: Counters<HandshakeLabel>,
    /// exhausted, other, proxy_protocol; of the request's head: timeout, too_large, malformed, ended.
    pub accept_errors: Counters<KindLabel>,
    /// ok, failed, timeout.
    pub tls_handshakes: Counters<OutcomeLabel>,
    /// Tokens by what became of them: accepted, or why not.
    pub tokens: Counters<EndpointOutcome>,
    pub jwks_fetches: Counters<OutcomeLabel>,
    /// Set when metrics are read.
    pub revocations: Gauge,
    /// Events by route and outcome; `route` is the pattern, or `$connect`, `$disconnect`, `$none`.
    pub events: Counters<RouteOutcome>,
    pub event_duration: Histograms<RouteLabel>,
    /// Events of each request that holds a batch.
    pub batch_events: CountHistograms<RouteLabel>,
    pub schema_violations: Counters<ViolationLabel>,
    /// What limits refused; a handshake before its path is known has the endpoint `$none`.
    pub limited: Counters<LimitLabel>,
    /// Users and addresses whose limits are being counted; set once a second.
    pub limit_accounts: Gauge,
    pub commands: Counters<CommandLabel>,
    pub messages_received: Counters<EndpointLabel>,
    pub messages_sent: Counters<EndpointLabel>,
    pub received_bytes: Counters<EndpointLabel>,
    pub sent_bytes: Counters<EndpointLabel>,
    pub compressed_bytes: Counters<CompressionLabel>,
    /// Bytes waiting in mailboxes; set when metrics are read.
    pub mailbox_bytes: Gauge,
    pub slow_consumers: Counters<EndpointLabel>,
    pub conflated: Counters<EndpointLabel>,
    pub reloads: Counters<OutcomeLabel>,
    pub config_generation: Gauge,
    pub config_loaded_seconds: Gauge<f64, AtomicU64>,
    pub upstream_attempts: Counters<UpstreamOutcome>,
    pub upstream_attempt_duration: Histograms<UpstreamLabel>,
    pub upstream_in_flight: Gauges<UpstreamLabel>,
    pub upstream_waiting: Gauges<UpstreamLabel>,
    /// 0 closed, 1 half open (probing), 2 open.
    pub breaker_state: Family<UpstreamAddress, Gauge<i64, AtomicI64>>,
    /// Who looks at live messages.
    pub watchers: Gauge,
    /// Records that a watcher was too slow for.
    pub watch_missed: Counter,
    pub spans_dropped: Counter,
    /// Messages to the broker: confirmed, returned, nacked, repeated, abandoned.
    pub amqp_publishes: Counters<UpstreamOutcome>,
    pub amqp_confirm_duration: Histograms<UpstreamLabel>,
    /// Published and not confirmed yet.
    pub amqp_in_flight: Gauges<UpstreamLabel>,
    pub amqp_connected: Gauges<ConnectionLabel>,
    pub amqp_reconnects: Counters<ConnectionLabel>,
    pub amqp_blocked: Gauge,
    pub amqp_blocked_duration: Counter<f64, AtomicU64>,
    pub amqp_deliveries: Counters<QueueLabel>,
    /// How messages left their queue: acked, dead_lettered, rejected, gone.
    pub amqp_settled: Counters<QueueOutcome>,
    pub amqp_held: Gauge,
}

impl Metrics {
    /// Makes and registers every metric. The help texts are the meanings of `docs/metrics.md`.
    pub fn new() -> Self {
        let mut r = Sink { registry: Registry::with_prefix(PREFIX), descriptions: Vec::new() };
        let build: Gauges<KindLabel> = r.add("build_info", "1; the running version is the label");
        build.get_or_create(&KindLabel { kind: env!("CARGO_PKG_VERSION").into() }).set(1);
        let (batches, seconds) = (Family::new_with_constructor(CountBuckets), Some(Unit::Seconds));
        Self {
            connections: r.add("connections", "Open WebSocket connections"),
            connections_limit: r.add("connections_limit", "Connections that the node can hold now"),
            connections_opened: r.add("connections_opened", "Connections accepted"),
            connections_closed: r.add("connections_closed", "Connections ended, by cause"),
            violations: r.add("violations", "Connections closed because of what their client did, by close code"),
            handshakes: r.add("handshakes", "Handshakes by the status that answered them; 101 is an accepted one"),
            accept_errors: r.add("accept_errors", "TCP connections that never became a handshake, by what happened"),
            tls_handshakes: r.add("tls_handshakes", "TLS handshakes by outcome"),
            tokens: r.add("tokens", "Tokens by what became of them: accepted, or why not"),
            jwks_fetches: r.add("jwks_fetches", "Fetches of keys from a JWKS URL"),
            revocations: r.add("revocations", "Revocations in force"),
            events: r.add("events", "Events by what became of them: delivered, or the code that its sender was told"),
            event_duration: r.add_seconds("event_duration", "From a message's receipt to its verdict"),
            batch_events: r.put("batch_events", "Events in one request of a route with batches", None, batches),
            schema_violations: r.add("schema_violations", "Payloads that do not fit their schema"),
            limited: r.add("limited", "Messages, handshakes and connections that a limit refused"),
            limit_accounts: r.add("limit_accounts", "Users and addresses that limits are counted for"),
            commands: r.add("commands", "Commands by kind and outcome"),
            messages_received: r.add("messages_received", "Messages read from clients"),
            messages_sent: r.add("messages_sent", "Messages written to clients"),
            received_bytes: r.add("received_bytes", "Bytes of the messages read from clients, unpacked"),
            sent_bytes: r.add("sent_bytes", "Bytes of the messages written to clients, before they are packed"),
            compressed_bytes: r.add("compressed_bytes", "Bytes of compressed messages, on the wire and unpacked"),
            mailbox_bytes: r.add("mailbox_bytes", "Bytes that wait for clients to read, of all connections"),
            slow_consumers: r.add("slow_consumers", "Connections cut (4001) because their client did not read"),
            conflated: r.add("conflated", "Messages to slow clients that a newer one of the same key replaced"),
            reloads: r.add("config_reloads", "Reloads by outcome"),
            config_generation: r.add("config_generation", "Generation of the configuration in use"),
            config_loaded_seconds: r.add("config_loaded_timestamp_seconds", "Unix time when it was loaded"),
            upstream_attempts: r.add("upstream_attempts", "Requests to HTTP upstreams, each attempt by its outcome"),
            upstream_attempt_duration: r.add_seconds("upstream_attempt_duration", "Duration of one attempt"),
            upstream_in_flight: r.add("upstream_in_flight", "Attempts under way"),
            upstream_waiting: r.add("upstream_waiting", "Events that wait for the upstream's `concurrency`"),
            breaker_state: r.add("breaker_state", "0 closed, 1 half open (a probe is under way), 2 open"),
            watchers: r.add("watchers", "Streams of live messages that are being read (`GET /v1/watch`)"),
            watch_missed: r.add("watch_missed", "Records that the reader of such a stream was too slow for"),
            spans_dropped: r.add("spans_dropped", "Spans dropped because the queue to the collector was full"),
            amqp_publishes: r.add("amqp_publishes", "Messages to the broker by what became of them"),
            amqp_confirm_duration: r.add_seconds("amqp_confirm_duration", "From a publish to its confirm"),
            amqp_in_flight: r.add("amqp_in_flight", "Messages published and not confirmed yet"),
            amqp_connected: r.add("amqp_connected", "1 while the connection to the broker is up"),
            amqp_reconnects: r.add("amqp_reconnects", "Connections made again after one was lost or refused"),
            amqp_blocked: r.add("amqp_blocked", "1 while the broker takes no messages (`connection.blocked`)"),
            amqp_blocked_duration: r.put(
                "amqp_blocked",
                "Time in which the broker took none",
                seconds,
                Counter::default(),
            ),
            amqp_deliveries: r.add("amqp_deliveries", "Messages that queues delivered"),
            amqp_settled: r.add("amqp_settled", "Messages that left their queue, by how"),
            amqp_held: r.add("amqp_held", "Slow clients that a queue's commands wait for"),
            registry: r.registry,
            descriptions: r.descriptions,
        }
    }

    /// Every metric, in the order in which they are registered.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// The text that `/metrics` answers with (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// The handles of one route, taken once for each snapshot so that messages pay for no look-up.
    pub fn route(&self, endpoint: &Label, route: &Label) -> RouteMetrics {
        let outcome = |outcome: &str| {
            let label = RouteOutcome { endpoint: endpoint.clone(), route: route.clone(), outcome: outcome.into() };
            self.events.get_or_create_owned(&label)
        };
        let label = RouteLabel { endpoint: endpoint.clone(), route: route.clone() };
        RouteMetrics { delivered: outcome("delivered"), duration: self.event_duration.get_or_create_owned(&label) }
    }

    /// The handle for the sizes of one route's batches.
    pub fn batch_events(&self, endpoint: &Label, route: &Label) -> Histogram {
        let label = RouteLabel { endpoint: endpoint.clone(), route: route.clone() };
        self.batch_events.get_or_create_owned(&label)
    }

    /// The handles of one endpoint, taken once for each snapshot.
    pub fn endpoint(&self, endpoint: &Label, compresses: bool) -> EndpointMetrics {
        let label = EndpointLabel { endpoint: endpoint.clone() };
        let compressed = |direction: &str, form: &str| {
            let (direction, form) = (direction.into(), form.into());
            let label = CompressionLabel { endpoint: endpoint.clone(), direction, form };
            self.compressed_bytes.get_or_create_owned(&label)
        };
        let compressed = |direction| CompressionMetrics {
            wire: compressed(direction, "wire"),
            plain: compressed(direction, "plain"),
        };
        EndpointMetrics {
            connections: self.connections.get_or_create_owned(&label),
            opened: self.connections_opened.get_or_create_owned(&label),
            messages_received: self.messages_received.get_or_create_owned(&label),
            messages_sent: self.messages_sent.get_or_create_owned(&label),
            received_bytes: self.received_bytes.get_or_create_owned(&label),
            sent_bytes: self.sent_bytes.get_or_create_owned(&label),
            slow_consumers: self.slow_consumers.get_or_create_owned(&label),
            received_compressed: compresses.then(|| compressed("received")),
            sent_compressed: compresses.then(|| compressed("sent")),
        }
    }

    /// Counts messages to slow clients that newer ones replaced.
    pub fn count_conflated(&self, endpoint: &Arc<str>, messages: u64) {
        if messages > 0 {
            self.conflated.get_or_create(&EndpointLabel { endpoint: endpoint.clone() }).inc_by(messages);
        }
    }

    /// Counts an event that was not delivered, or one of a route without handles.
    pub fn count_event(&self, endpoint: &Label, route: &str, outcome: &str) {
        let label = RouteOutcome { endpoint: endpoint.clone(), route: route.into(), outcome: outcome.into() };
        self.events.get_or_create(&label).inc();
    }

    /// Counts a token by what became of it.
    pub fn count_token(&self, endpoint: &Label, outcome: &str) {
        self.tokens.get_or_create(&EndpointOutcome { endpoint: endpoint.clone(), outcome: outcome.into() }).inc();
    }

    /// Counts a command by kind and outcome.
    pub fn count_command(&self, kind: &str, outcome: &str) {
        self.command(kind, outcome).inc();
    }

    /// The counter of a command's kind and outcome.
    pub fn command(&self, kind: &str, outcome: &str) -> Counter {
        self.commands.get_or_create_owned(&CommandLabel { kind: kind.into(), outcome: outcome.into() })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics that a connection touches.
#[derive(Clone)]
pub struct EndpointMetrics {
    pub connections: Gauge,
    pub opened: Counter,
    pub messages_received: Counter,
    pub messages_sent: Counter,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub slow_consumers: Counter,
    /// Where the endpoint compresses.
    pub received_compressed: Option<CompressionMetrics>,
    pub sent_compressed: Option<CompressionMetrics>,
}

/// How large compressed messages of one direction were.
#[derive(Clone)]
pub struct CompressionMetrics {
    pub wire: Counter,
    pub plain: Counter,
}

/// The metrics that a route touches for each message.
#[derive(Clone)]
pub struct RouteMetrics {
    pub delivered: Counter,
    pub duration: Histogram,
}

/// Where metrics are registered and described.
struct Sink {
    registry: Registry,
    descriptions: Vec<Description>,
}

impl Sink {
    fn add<M: Metric + Labelled + Clone + Default>(&mut self, name: &str, help: &'static str) -> M {
        self.put(name, help, None, M::default())
    }

    /// A histogram of latencies.
    fn add_seconds<L>(&mut self, name: &str, help: &'static str) -> Histograms<L>
    where
        L: LabelNames + Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    {
        self.put(name, help, Some(Unit::Seconds), Family::new_with_constructor(Buckets))
    }

    fn put<M: Metric + Labelled + Clone>(
        &mut self,
        name: &str,
        help: &'static str,
        unit: Option<Unit>,
        metric: M,
    ) -> M {
        let kind = metric.metric_type().as_str().to_owned();
        let mut whole = format!("{PREFIX}_{name}");
        match unit {
            Some(unit) => {
                whole = format!("{whole}_{}", unit.as_str());
                self.registry.register_with_unit(name, help, unit, metric.clone());
            }
            None => self.registry.register(name, help, metric.clone()),
        }
        if kind == "counter" {
            whole += "_total";
        }
        self.descriptions.push(Description { name: whole, kind, labels: M::LABELS, help });
        metric
    }
}

#[cfg(test)]
mod tests;
