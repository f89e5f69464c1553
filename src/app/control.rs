//! What the admin listener may do to the program. Must not hold any rule about messages.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::Rabbitmq;
use super::reload::{Reload, Reloader};
use crate::admin::{AddressStatus, BrokerConnection, BrokerStatus, ConfigStatus, Control, FailureStatus, LastError};
use crate::admin::{Readiness, Reloaded, UpstreamStatus};
use crate::amqp::LinkStatus;
use crate::drain::Drain;
use crate::telemetry::logging::LogHandle;
use crate::upstream::Address;

pub struct AppControl {
    pub reloader: Arc<Reloader>,
    pub drain: Drain,
    pub log: LogHandle,
}

impl Control for AppControl {
    fn config_status(&self) -> ConfigStatus {
        let snapshot = self.reloader.pipeline().snapshot();
        let mut endpoints: Vec<_> = snapshot.endpoints().map(|endpoint| endpoint.draft.path.to_string()).collect();
        endpoints.sort();
        ConfigStatus {
            generation: snapshot.generation,
            hash: snapshot.hash.clone(),
            loaded_at: humantime::format_rfc3339_millis(snapshot.loaded_at).to_string(),
            endpoints,
            upstreams: snapshot
                .upstreams()
                .map(|upstream| UpstreamStatus {
                    name: upstream.name().to_owned(),
                    addresses: upstream.addresses().into_iter().map(address_status).collect(),
                    error: upstream.error(),
                })
                .collect(),
            rabbitmq: self.reloader.rabbitmq().map(broker_status),
            // What is shown of a configuration always prints.
            last_diff: self
                .reloader
                .last_diff()
                .iter()
                .filter_map(|change| serde_json::to_value(change).ok())
                .collect(),
            last_error: self.reloader.refused().map(|refused| LastError {
                at: humantime::format_rfc3339_millis(refused.at).to_string(),
                problems: refused.problems,
            }),
        }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Vec<String>>> + Send + '_>> {
        Box::pin(async {
            self.reloader.reload("REST").await.map(|reload| match reload {
                Reload::Applied { generation } => Reloaded { generation, changed: true },
                Reload::Unchanged { generation } => Reloaded { generation, changed: false },
            })
        })
    }

    fn drain(&self) {
        self.drain.begin();
    }

    fn readiness(&self) -> Readiness {
        let connections = self.reloader.rabbitmq().map(|rabbitmq| rabbitmq.broker.status());
        let away = self.reloader.rabbitmq().map(|rabbitmq| rabbitmq.broker.away()).unwrap_or_default();
        let reason = match () {
            () if self.drain.has_begun() => Some("draining"),
            () if !away.is_zero() && away >= self.reloader.readiness_grace() => Some("the broker is away"),
            () => None,
        };
        let rabbitmq = connections.into_iter().flatten().map(|status| (status.role, status.state)).collect();
        Readiness { ready: reason.is_none(), reason, rabbitmq }
    }

    fn log_level(&self) -> String {
        self.log.level()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        self.log.set_level(level)
    }
}

fn address_status(address: Address) -> AddressStatus {
    let Address { label, breaker, in_flight, last_failure } = address;
    let last_failure =
        last_failure.map(|(at, reason)| FailureStatus { at: humantime::format_rfc3339_millis(at).to_string(), reason });
    AddressStatus { address: label.to_string(), breaker, in_flight, last_failure }
}

fn broker_status(rabbitmq: &Rabbitmq) -> BrokerStatus {
    let connection = |status: LinkStatus| {
        let LinkStatus { role, state, host, vhost, user, error } = status;
        BrokerConnection { role, state, host, vhost, user, error }
    };
    BrokerStatus {
        connections: rabbitmq.broker.status().map(connection).into(),
        errors: rabbitmq.queues.as_ref().map(|queues| queues.errors()).unwrap_or_default(),
    }
}
