//! The metric handles of one upstream, taken once. Knows names of outcomes; must not know what leads to them.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Label, UpstreamAddress, UpstreamLabel, UpstreamOutcome};

/// The handles of one upstream.
pub struct Meters {
    pub upstream: Label,
    pub duration: Histogram,
    pub in_flight: Gauge,
    pub waiting: Gauge,
    pub ok: Counter,
    pub rejected: Counter,
    /// A status that is tried again.
    pub status: Counter,
    pub timeout: Counter,
    pub connect_error: Counter,
    pub io_error: Counter,
    pub broken: Counter,
    metrics: Arc<Metrics>,
}

impl Meters {
    pub fn new(upstream: &str, metrics: &Arc<Metrics>) -> Self {
        let upstream: Label = upstream.into();
        let label = UpstreamLabel { upstream: upstream.clone() };
        let outcome = |outcome: &str| {
            let label = UpstreamOutcome { upstream: upstream.clone(), outcome: outcome.into() };
            metrics.upstream_attempts.get_or_create_owned(&label)
        };
        Self {
            duration: metrics.upstream_attempt_duration.get_or_create_owned(&label),
            in_flight: metrics.upstream_in_flight.get_or_create_owned(&label),
            waiting: metrics.upstream_waiting.get_or_create_owned(&label),
            ok: outcome("ok"),
            rejected: outcome("rejected"),
            status: outcome("status"),
            timeout: outcome("timeout"),
            connect_error: outcome("connect_error"),
            io_error: outcome("io_error"),
            broken: outcome("broken"),
            metrics: metrics.clone(),
            upstream,
        }
    }

    /// Looked up each time: a client that is replaced takes its addresses' gauges along when it goes.
    pub fn set_breaker(&self, address: &Label, state: i64) {
        self.metrics.breaker_state.get_or_create(&self.address(address)).set(state);
    }

    pub fn remove_breaker(&self, address: &Label) {
        self.metrics.breaker_state.remove(&self.address(address));
    }

    fn address(&self, address: &Label) -> UpstreamAddress {
        UpstreamAddress { upstream: self.upstream.clone(), address: address.clone() }
    }
}
