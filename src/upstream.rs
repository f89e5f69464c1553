//! Upstreams: named handlers that take events and answer them. One call is one event with all its attempts.
//! Knows events, answers and its own protocols; must not know sockets, the registry or schemas.

pub mod breaker;
pub mod contract;
pub mod http;
pub mod retry;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Answer, Event, Failure};
use crate::telemetry::Metrics;

pub use http::HttpSettings;

/// What a named upstream is. Equal settings mean the same client, pool and breakers after a reload.
#[derive(Debug, Clone, PartialEq)]
pub enum Settings {
    Http(HttpSettings),
}

/// A named upstream, shared by every route that uses it.
pub struct Upstream {
    name: Arc<str>,
    settings: Settings,
    client: http::HttpUpstream,
}

/// An upstream that cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
#[error("upstream {name}: {reason}")]
pub struct UpstreamError {
    pub name: Arc<str>,
    pub reason: String,
}

impl Upstream {
    /// Makes the client. Opens no connection yet. Needs a tokio runtime.
    pub fn new(name: &str, settings: Settings, metrics: &Arc<Metrics>) -> Result<Arc<Self>, UpstreamError> {
        let name: Arc<str> = name.into();
        let Settings::Http(http) = &settings;
        let client = http::HttpUpstream::new(&name, http, metrics)
            .map_err(|reason| UpstreamError { name: name.clone(), reason })?;
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
        let Settings::Http(http) = &self.settings;
        http.deadline
    }

    /// Delivers one event: attempts, retries, breaker and balancing, until it is answered or `deadline` has passed.
    pub async fn call(&self, event: &Event, deadline: Instant) -> Result<Answer, Failure> {
        self.client.call(event, deadline).await
    }

    /// Every address known now, with `closed`, `half_open` or `open`: the state of its breaker.
    pub fn addresses(&self) -> Vec<(String, &'static str)> {
        self.client.addresses()
    }
}
