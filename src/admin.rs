//! The admin listener: REST commands, health, metrics, configuration, under one table of operations from which `/openapi.json` is
//! made too. Knows read-only views and `Control`; must not know the pipeline's inside.

mod console;
mod direct;
mod guard;
mod handlers;
mod heads;
mod openapi;
mod operations;
mod server;
mod stats;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::FromRef;
use secrecy::SecretString;
use serde::Serialize;

use crate::deliver::Deliver;
use crate::telemetry::Metrics;
use crate::tls::TlsSettings;

pub use guard::Guard;
pub use openapi::document as openapi_document;
pub use operations::Scope;
pub use server::serve;

/// Settings of the admin listener. Address and body size are restart-only.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    pub listen: SocketAddr,
    /// Without one the listener must be on loopback, or ask for client certificates.
    pub tokens: Vec<TokenSettings>,
    /// Calls of all callers together, with a burst of one second's worth; none is unlimited.
    pub requests_per_second: Option<u32>,
    pub audit: Audit,
    /// Bytes of one request's body; more is answered 413.
    pub body_size: usize,
    /// Whether the console is served.
    pub console: bool,
    pub tls: Option<TlsSettings>,
}

/// A bearer token and what it is for.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// The name by which the audit log knows it.
    pub name: Arc<str>,
    pub token: SecretString,
    pub scopes: Vec<Scope>,
}

/// Which calls the audit log tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// All that change something but sends.
    Changes,
    /// All that change something.
    All,
}

/// What the program lets the admin listener do and see, beside commands.
pub trait Control: Send + Sync {
    fn config_status(&self) -> ConfigStatus;
    /// Reloads the configuration; the problems, a line each, if it was refused.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Vec<String>>> + Send + '_>>;
    fn drain(&self);
    fn readiness(&self) -> Readiness;
    fn log_level(&self) -> String;
    fn set_log_level(&self, level: &str) -> Result<(), String>;
}

/// The answer of `GET /v1/config`.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigStatus {
    pub generation: u64,
    /// SHA-256 over the configuration and every file that it names.
    pub hash: String,
    /// RFC 3339.
    pub loaded_at: String,
    pub endpoints: Vec<String>,
    pub upstreams: Vec<UpstreamStatus>,
    /// The broker, where the configuration has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbitmq: Option<BrokerStatus>,
    /// What the last reload that was applied changed, an object for each change.
    pub last_diff: Vec<serde_json::Value>,
    pub last_error: Option<LastError>,
}

/// The broker as this node sees it.
#[derive(Debug, Clone, Serialize)]
pub struct BrokerStatus {
    pub connections: Vec<BrokerConnection>,
    /// Why queues cannot be consumed, or commands not be settled.
    pub errors: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BrokerConnection {
    /// `publishing` or `consuming`.
    pub role: &'static str,
    /// `connecting`, `connected` or `blocked`.
    pub state: &'static str,
    pub host: String,
    pub vhost: String,
    pub user: String,
    pub error: Option<String>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// State of the connections to the broker by role.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rabbitmq: BTreeMap<&'static str, &'static str>,
}

/// An upstream's addresses with their breakers.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    pub name: String,
    pub addresses: Vec<AddressStatus>,
    /// Why the exchange of a RabbitMQ upstream takes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct AddressStatus {
    pub address: String,
    /// `closed`, `half_open` or `open`.
    pub breaker: &'static str,
    /// Attempts on the wire.
    pub in_flight: usize,
    /// The last attempt that failed, if any did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct FailureStatus {
    /// RFC 3339.
    pub at: String,
    pub reason: String,
}

/// The last reload, if it was refused.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// RFC 3339.
    pub at: String,
    pub problems: Vec<String>,
}

/// The answer of a reload that was not refused.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Reloaded {
    pub generation: u64,
    /// False if the files say what was in use already.
    pub changed: bool,
}

/// What the handlers share.
#[derive(Clone)]
pub struct AdminState {
    pub deliver: Arc<Deliver>,
    pub metrics: Arc<Metrics>,
    pub control: Arc<dyn Control>,
}

impl FromRef<AdminState> for Arc<Deliver> {
    fn from_ref(state: &AdminState) -> Self {
        state.deliver.clone()
    }
}

#[cfg(test)]
mod tests;
