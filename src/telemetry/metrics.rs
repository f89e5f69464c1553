//! Every metric that Holdfast exports, by the conventions of Prometheus. Label sets are bounded: their values come from the
//! configuration and from fixed lists, never from a client. Knows names and numbers; must not know the domain's types.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

type Counters<L> = Family<L, Counter>;
type Gauges<L> = Family<L, Gauge>;
type Histograms<L> = Family<L, Histogram, Buckets>;
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

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $name { $(pub $field: Label),+ }
    )+};
}

/// Both are names of our own, so that nothing is allocated for a push.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CommandLabel {
    pub kind: &'static str,
    pub outcome: &'static str,
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
    /// Open WebSocket connections.
    pub connections: Gauges<EndpointLabel>,
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
    pub batch_events: Family<RouteLabel, Histogram, CountBuckets>,
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
    /// Makes and registers every metric.
    pub fn new() -> Self {
        let mut r = Registry::with_prefix("holdfast");
        let build = Gauges::<KindLabel>::default();
        build.get_or_create(&KindLabel { kind: env!("CARGO_PKG_VERSION").into() }).set(1);
        r.register("build_info", "The running version, as the label `kind`", build);
        Self {
            connections: add(&mut r, "connections", "Open WebSocket connections"),
            connections_opened: add(&mut r, "connections_opened", "Connections accepted"),
            connections_closed: add(&mut r, "connections_closed", "Connections ended, by cause"),
            violations: add(&mut r, "violations", "Connections closed because of what their client did, by close code"),
            handshakes: add(
                &mut r,
                "handshakes",
                "Handshakes by HTTP status; an unknown path has the endpoint `$none`",
            ),
            accept_errors: add(&mut r, "accept_errors", "TCP connections that never became a handshake, by kind"),
            tls_handshakes: add(&mut r, "tls_handshakes", "TLS handshakes by outcome"),
            tokens: add(&mut r, "tokens", "Tokens by outcome: accepted, or why they were refused"),
            jwks_fetches: add(&mut r, "jwks_fetches", "Fetches of keys by outcome"),
            revocations: add(&mut r, "revocations", "Revocations in force"),
            events: add(&mut r, "events", "Events by route and outcome"),
            event_duration: add_seconds(&mut r, "event_duration", "From a message's receipt to its verdict"),
            batch_events: {
                let family = Family::new_with_constructor(CountBuckets);
                r.register("batch_events", "Events in one request of a route with batches", Family::clone(&family));
                family
            },
            schema_violations: add(&mut r, "schema_violations", "Payloads that do not fit their schema"),
            limited: add(&mut r, "limited", "Messages, handshakes and connections refused, by the limit"),
            limit_accounts: add(&mut r, "limit_accounts", "Users and addresses that limits are counted for"),
            commands: add(&mut r, "commands", "Commands by kind and outcome"),
            messages_received: add(&mut r, "messages_received", "Messages read from clients"),
            messages_sent: add(&mut r, "messages_sent", "Messages written to clients"),
            received_bytes: add(&mut r, "received_bytes", "Payload bytes read from clients"),
            sent_bytes: add(&mut r, "sent_bytes", "Payload bytes written to clients"),
            compressed_bytes: add(
                &mut r,
                "compressed_bytes",
                "Bytes of compressed messages, on the wire and before compression",
            ),
            mailbox_bytes: add(&mut r, "mailbox_bytes", "Bytes waiting for clients to read"),
            slow_consumers: add(&mut r, "slow_consumers", "Connections cut because their client did not read"),
            conflated: add(
                &mut r,
                "conflated",
                "Messages that a newer one of the same key replaced before they were written",
            ),
            reloads: add(&mut r, "config_reloads", "Reloads by outcome: applied, unchanged or refused"),
            config_generation: add(&mut r, "config_generation", "Generation of the configuration in use"),
            config_loaded_seconds: add(&mut r, "config_loaded_timestamp_seconds", "Unix time when it was loaded"),
            upstream_attempts: add(&mut r, "upstream_attempts", "Attempts by outcome"),
            upstream_attempt_duration: add_seconds(&mut r, "upstream_attempt_duration", "Duration of one attempt"),
            upstream_in_flight: add(&mut r, "upstream_in_flight", "Attempts on the wire"),
            upstream_waiting: add(&mut r, "upstream_waiting", "Calls that wait for the upstream's concurrency"),
            breaker_state: add(&mut r, "breaker_state", "0 closed, 1 half open, 2 open"),
            spans_dropped: add(&mut r, "spans_dropped", "Spans dropped because the export queue was full"),
            amqp_publishes: add(&mut r, "amqp_publishes", "Messages to the broker by outcome"),
            amqp_confirm_duration: add_seconds(&mut r, "amqp_confirm_duration", "From a publish to its confirm"),
            amqp_in_flight: add(&mut r, "amqp_in_flight", "Messages published and not confirmed yet"),
            amqp_connected: add(&mut r, "amqp_connected", "1 while the connection to the broker is up"),
            amqp_reconnects: add(&mut r, "amqp_reconnects", "Connections made again after one was lost or refused"),
            amqp_blocked: add(&mut r, "amqp_blocked", "1 while the broker takes no messages"),
            amqp_blocked_duration: add_counter_seconds(&mut r, "amqp_blocked", "Time in which the broker took none"),
            amqp_deliveries: add(&mut r, "amqp_deliveries", "Messages that queues delivered"),
            amqp_settled: add(&mut r, "amqp_settled", "Messages that left their queue, by how"),
            amqp_held: add(&mut r, "amqp_held", "Slow clients that a queue's commands wait for"),
            registry: r,
        }
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
    pub fn count_command(&self, kind: &'static str, outcome: &'static str) {
        self.commands.get_or_create(&CommandLabel { kind, outcome }).inc();
    }

    /// The counter of a command's kind and outcome.
    pub fn command(&self, kind: &'static str, outcome: &'static str) -> Counter {
        self.commands.get_or_create_owned(&CommandLabel { kind, outcome })
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

fn add<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: Clone + Default + prometheus_client::registry::Metric,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn add_counter_seconds(registry: &mut Registry, name: &str, help: &str) -> Counter<f64, AtomicU64> {
    let metric = Counter::<f64, AtomicU64>::default();
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

fn add_seconds<L>(registry: &mut Registry, name: &str, help: &str) -> Histograms<L>
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
{
    let metric = Histograms::<L>::new_with_constructor(Buckets);
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}
