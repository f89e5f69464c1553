//! The HTTP upstream.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use crate::message::{Answer, Event, Failure};
use crate::telemetry::Metrics;

/// How an event is laid out in a request (CloudEvents HTTP binding).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Attributes are `ce-` headers, the body is the client's bytes.
    Binary,
    /// The body is one `application/cloudevents+json` document.
    Structured,
}

/// The HTTP version that an upstream is spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    /// With prior knowledge on `http:` URLs, by ALPN on `https:` ones.
    Http2,
}

/// Settings of one HTTP upstream. Times are those of DESIGN section 2.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// At least one; `http:` or `https:`. Balanced, with failing addresses set aside.
    pub urls: Vec<http::Uri>,
    pub version: Version,
    /// Of one attempt.
    pub timeout: Duration,
    /// Of an event with all its attempts, unless the route says otherwise.
    pub deadline: Duration,
    pub mode: Mode,
    /// Standard Webhooks secret, `whsec_<base64>`; requests are signed where there is one.
    pub signing_secret: Option<SecretString>,
    /// Sent with every request, for instance an API key; values are secret.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    /// Calls on the wire at once.
    pub concurrency: usize,
    /// Calls that may wait for `concurrency`; one more is `Overloaded`.
    pub waiting: usize,
    /// Idle pooled connections are closed after this; keep it under the handler's own limit (Node's is 5 s).
    pub pool_idle_timeout: Duration,
    /// The largest answer body taken, in bytes.
    pub answer_size: usize,
    /// Delay before the first retry; doubles, with jitter, up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Consecutive failures after which an address is set aside.
    pub breaker_failures: u32,
    /// How long an address is set aside before one probe is let through.
    pub breaker_open: Duration,
    /// How often host names are looked up again.
    pub dns_refresh: Duration,
    /// PEM bundle of certificate authorities trusted beside the system's, for `https:`.
    pub ca_pem: Option<Arc<str>>,
}

/// The client of one HTTP upstream.
pub struct HttpUpstream {}

impl HttpUpstream {
    pub fn new(_name: &str, _settings: &HttpSettings, _metrics: &Arc<Metrics>) -> Result<Self, String> {
        todo!()
    }

    pub async fn call(&self, _event: &Event, _deadline: Instant) -> Result<Answer, Failure> {
        todo!()
    }
}

impl PartialEq for HttpSettings {
    fn eq(&self, _other: &Self) -> bool {
        todo!()
    }
}
