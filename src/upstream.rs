//! Upstreams: named handlers that take events and answer them. One call is one event with all its attempts.
//! Knows events, answers and its own protocols; must not know sockets, the registry or schemas.

pub mod amqp;
pub mod breaker;
pub mod contract;
pub mod http;
pub mod retry;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

use crate::amqp::Broker;
use crate::message::{Answer, Event, Failure};
use crate::telemetry::Metrics;

pub use amqp::AmqpSettings;
pub use http::{BatchSettings, Batcher, HttpSettings};

/// What a named upstream is. Equal settings mean the same client, pool and breakers after a reload.
#[derive(Debug, Clone, PartialEq)]
pub enum Settings {
    Http(HttpSettings),
    Amqp(AmqpSettings),
}

/// A named upstream, shared by every route that uses it.
pub struct Upstream {
    name: Arc<str>,
    settings: Settings,
    client: Client,
}

enum Client {
    Http(Box<http::HttpUpstream>),
    Amqp(Box<amqp::AmqpUpstream>),
}

/// An address of an upstream as it is now.
#[derive(Debug, Clone)]
pub struct Address {
    pub label: Arc<str>,
    /// `closed`, `half_open` or `open`.
    pub breaker: &'static str,
    pub in_flight: usize,
    /// When and why a call to it failed last.
    pub last_failure: Option<(SystemTime, String)>,
}

/// An upstream that cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
#[error("upstream {name}: {reason}")]
pub struct UpstreamError {
    pub name: Arc<str>,
    pub reason: String,
}

impl Upstream {
    /// Makes the client. An HTTP one opens no connection yet; an AMQP one opens its channels on `broker`'s connection as soon as
    /// there is one. Needs a tokio runtime.
    pub fn new(
        name: &str,
        settings: Settings,
        broker: Option<&Arc<Broker>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let name: Arc<str> = name.into();
        let client = match (&settings, broker) {
            (Settings::Http(http), _) => {
                http::HttpUpstream::new(&name, http, metrics).map(|client| Client::Http(Box::new(client)))
            }
            (Settings::Amqp(settings), Some(broker)) => {
                Ok(Client::Amqp(Box::new(amqp::AmqpUpstream::new(&name, settings.clone(), broker.clone()))))
            }
            (Settings::Amqp(_), None) => Err("expected `rabbitmq` in the configuration".into()),
        };
        let client = client.map_err(|reason| UpstreamError { name: name.clone(), reason })?;
        Ok(Arc::new(Self { name, settings, client }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long an event may take with all its attempts, unless its route says otherwise.
    pub fn deadline(&self) -> Duration {
        match &self.settings {
            Settings::Http(http) => http.deadline,
            Settings::Amqp(amqp) => amqp.deadline,
        }
    }

    /// True if it answers events; a broker only confirms them.
    pub fn answers(&self) -> bool {
        matches!(self.client, Client::Http(_))
    }

    /// Delivers one event: attempts, retries, breaker and balancing, until it is answered or `deadline` has passed.
    pub async fn call(&self, event: &Event, deadline: Instant) -> Result<Answer, Failure> {
        match &self.client {
            Client::Http(client) => client.call(event, deadline).await,
            Client::Amqp(client) => client.call(event, deadline).await,
        }
    }

    /// What gathers the events of one route into batches; none for a broker, which takes them one by one.
    pub fn batcher(&self, settings: BatchSettings, events: Histogram) -> Option<Arc<Batcher>> {
        match &self.client {
            Client::Http(client) => Some(client.batcher(settings, events)),
            Client::Amqp(_) => None,
        }
    }

    /// Every address known now.
    pub fn addresses(&self) -> Vec<Address> {
        match &self.client {
            Client::Http(client) => client.addresses(),
            Client::Amqp(_) => Vec::new(),
        }
    }

    /// Why a broker's exchange takes nothing now, where it does not.
    pub fn error(&self) -> Option<String> {
        match &self.client {
            Client::Http(_) => None,
            Client::Amqp(client) => client.error(),
        }
    }
}
