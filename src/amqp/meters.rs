//! The metric handles of one publisher, taken once. Knows names of outcomes; must not know what leads to them.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::Metrics;
use crate::telemetry::metrics::{UpstreamLabel, UpstreamOutcome};

pub struct Meters {
    pub confirmed: Counter,
    pub returned: Counter,
    pub nacked: Counter,
    /// Sent again after a reconnect.
    pub repeated: Counter,
    /// Never confirmed by the time that nobody waited any more.
    pub abandoned: Counter,
    pub confirm_duration: Histogram,
    pub in_flight: Gauge,
}

impl Meters {
    pub fn new(name: &str, metrics: &Arc<Metrics>) -> Self {
        let label = UpstreamLabel { upstream: name.into() };
        let outcome = |outcome: &str| {
            let label = UpstreamOutcome { upstream: name.into(), outcome: outcome.into() };
            metrics.amqp_publishes.get_or_create_owned(&label)
        };
        Self {
            confirmed: outcome("confirmed"),
            returned: outcome("returned"),
            nacked: outcome("nacked"),
            repeated: outcome("repeated"),
            abandoned: outcome("abandoned"),
            confirm_duration: metrics.amqp_confirm_duration.get_or_create_owned(&label),
            in_flight: metrics.amqp_in_flight.get_or_create_owned(&label),
        }
    }
}
