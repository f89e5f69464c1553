//! The figures behind the console's plots: metrics, added up over the labels that a plot does not show. Must not know who asks.

use std::collections::BTreeMap;

use serde::Serialize;

/// The answer of `GET /v1/stats`. Counters count since the program began.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    pub version: &'static str,
    pub connections: u64,
    pub opened: u64,
    pub closed: u64,
    /// Messages from clients, and to them.
    pub received: u64,
    pub sent: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// By outcome: `delivered`, or an error code.
    pub events: BTreeMap<String, u64>,
    pub upstreams: BTreeMap<String, UpstreamStats>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct UpstreamStats {
    /// Attempts, or messages that wait for their confirm.
    pub in_flight: u64,
    /// Calls that wait for the upstream's concurrency.
    pub waiting: u64,
    /// Attempts, or messages to the broker, by outcome.
    pub attempts: BTreeMap<String, u64>,
    pub latency: Vec<Bucket>,
}

/// How many attempts, or confirms, took at most so long.
#[derive(Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// None in the last bucket, which has no bound.
    pub seconds: Option<f64>,
    pub count: u64,
}

/// Adds up OpenMetrics text: the library shows its numbers in no other way.
pub fn stats(text: &str) -> Stats {
    let mut stats = Stats { version: env!("CARGO_PKG_VERSION"), ..Stats::default() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let value = value.parse::<f64>().unwrap_or_default() as u64;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        stats.add(name.strip_prefix("holdfast_").unwrap_or(name), labels, value);
    }
    stats
}

impl Stats {
    fn add(&mut self, name: &str, labels: &str, value: u64) {
        match name {
            "connections" => self.connections += value,
            "connections_opened_total" => self.opened += value,
            "connections_closed_total" => self.closed += value,
            "messages_received_total" => self.received += value,
            "messages_sent_total" => self.sent += value,
            "received_bytes_total" => self.received_bytes += value,
            "sent_bytes_total" => self.sent_bytes += value,
            "events_total" => *self.events.entry(label(labels, "outcome")).or_default() += value,
            "upstream_in_flight" | "amqp_in_flight" => self.upstream(labels).in_flight += value,
            "upstream_waiting" => self.upstream(labels).waiting += value,
            "upstream_attempts_total" | "amqp_publishes_total" => {
                *self.upstream(labels).attempts.entry(label(labels, "outcome")).or_default() += value;
            }
            "upstream_attempt_duration_seconds_bucket" | "amqp_confirm_duration_seconds_bucket" => {
                let bucket =
                    Bucket { seconds: label(labels, "le").parse().ok().filter(|s: &f64| s.is_finite()), count: value };
                self.upstream(labels).latency.push(bucket);
            }
            _ => {}
        }
    }

    fn upstream(&mut self, labels: &str) -> &mut UpstreamStats {
        self.upstreams.entry(label(labels, "upstream")).or_default()
    }
}

/// The value of a label. Those asked for here have no quotes in their values, and other labels have theirs escaped.
fn label(labels: &str, name: &str) -> String {
    let start = format!("{name}=\"");
    let value = labels.split_once(&start).map_or("", |(_, rest)| rest.split('"').next().unwrap_or_default());
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use crate::telemetry::metrics::{EndpointLabel, UpstreamLabel, UpstreamOutcome};

    #[test]
    fn what_the_metrics_count_is_added_up() {
        let metrics = Metrics::new();
        for endpoint in ["/a", "/b\"outcome=\"x"] {
            let label = EndpointLabel { endpoint: endpoint.into() };
            metrics.connections.get_or_create(&label).set(2);
            metrics.messages_received.get_or_create(&label).inc_by(3);
            metrics.count_event(&endpoint.into(), "*", "delivered");
        }
        metrics.count_event(&"/a".into(), "*", "overloaded");
        let upstream = UpstreamLabel { upstream: "app".into() };
        metrics.upstream_in_flight.get_or_create(&upstream).set(4);
        metrics.upstream_attempt_duration.get_or_create(&upstream).observe(0.003);
        metrics
            .upstream_attempts
            .get_or_create(&UpstreamOutcome { upstream: "app".into(), outcome: "ok".into() })
            .inc();
        let stats = stats(&metrics.encode());
        assert_eq!((stats.connections, stats.received, stats.sent), (4, 6, 0));
        assert_eq!(stats.events, BTreeMap::from([("delivered".into(), 2), ("overloaded".into(), 1)]));
        let app = &stats.upstreams["app"];
        assert_eq!((app.in_flight, app.waiting, &app.attempts), (4, 0, &BTreeMap::from([("ok".into(), 1)])));
        let first = app.latency.iter().find(|bucket| bucket.count > 0).expect("a bucket");
        assert_eq!(first.seconds, Some(0.005));
        assert_eq!(app.latency.last(), Some(&Bucket { seconds: None, count: 1 }));
    }
}
