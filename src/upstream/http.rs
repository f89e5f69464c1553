//! The HTTP upstream: its settings, and the client that brings events to a list of addresses.
//! Knows HTTP and time limits; must not know what events mean or who sends them.

mod attempt;
mod batch;
mod call;
mod connect;
mod endpoint;
mod endpoints;
pub mod http1;
mod meters;
mod news;
mod pool;
mod slots;
mod target;
mod tls;

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Address;
use super::contract::Contract;
use crate::backoff::Backoff;
use crate::message::{Answer, Event, Failure};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use connect::Connector;
use endpoints::Endpoints;
use meters::Meters;
use slots::Slots;
use target::Target;

pub use batch::{BatchSettings, Batcher};
pub use tls::client_tls;

/// How often idle connections are looked through and gauges set anew.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

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

/// The client of one HTTP upstream. Dropping it closes its idle connections.
pub struct HttpUpstream {
    client: Arc<Client>,
    housekeeping: JoinHandle<()>,
}

/// What calls share.
struct Client {
    settings: HttpSettings,
    contract: Contract,
    connector: Connector,
    endpoints: Arc<Endpoints>,
    slots: Slots,
    backoff: Backoff,
    meters: Arc<Meters>,
    tasks: Tasks,
}

impl HttpUpstream {
    /// Says what is wrong with the settings, without making a client.
    pub fn check(settings: &HttpSettings) -> Result<(), String> {
        Parts::new(settings).map(|_| ())
    }

    /// Checks the settings and makes the client. Opens no connection and looks up no name yet. Needs a tokio runtime.
    pub fn new(name: &str, settings: &HttpSettings, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let Parts { targets, contract, tls } = Parts::new(settings)?;
        let tasks = Tasks::new();
        let meters = Arc::new(Meters::new(name, metrics));
        let client = Arc::new(Client {
            contract,
            connector: Connector::new(settings.version, tls, tasks.clone()),
            endpoints: Endpoints::new(targets, settings, tasks.clone(), meters.clone()),
            slots: Slots::new(settings.concurrency, settings.waiting, meters.waiting.clone()),
            backoff: Backoff { min: settings.backoff_min, max: settings.backoff_max },
            meters,
            settings: settings.clone(),
            tasks: tasks.clone(),
        });
        let housekeeping = tasks.spawn(keep_house(Arc::downgrade(&client.endpoints)));
        Ok(Self { client, housekeeping })
    }

    /// Delivers one event: attempts, retries, breaker and balancing, until it is answered or `deadline` has passed.
    pub async fn call(&self, event: &Event, deadline: Instant) -> Result<Answer, Failure> {
        self.client.call(event, deadline).await
    }

    /// What gathers the events of one route into batches for this client; `events` takes the size of each.
    pub fn batcher(&self, settings: BatchSettings, events: Histogram) -> Arc<Batcher> {
        Batcher::new(self.client.clone(), settings, events)
    }

    /// Every address known now.
    pub fn addresses(&self) -> Vec<Address> {
        self.client.endpoints.addresses()
    }
}

/// What can be made without a runtime.
struct Parts {
    targets: Vec<Arc<Target>>,
    contract: Contract,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Parts {
    fn new(settings: &HttpSettings) -> Result<Self, String> {
        let targets: Vec<Arc<Target>> =
            settings.urls.iter().map(|url| Target::new(url).map(Arc::new)).collect::<Result<_, _>>()?;
        if targets.is_empty() {
            return Err("expected at least one URL".into());
        }
        let contract = Contract::new(settings.mode, settings.signing_secret.as_ref(), &settings.headers)?;
        let tls = match targets.iter().any(|target| target.server_name.is_some()) {
            true => Some(tls::client_config(settings.version, settings.ca_pem.as_deref())?),
            false => None,
        };
        Ok(Self { targets, contract, tls })
    }
}

impl Drop for HttpUpstream {
    fn drop(&mut self) {
        self.housekeeping.abort();
    }
}

impl PartialEq for HttpSettings {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self {
            urls,
            version,
            timeout,
            deadline,
            mode,
            signing_secret,
            headers,
            concurrency,
            waiting,
            pool_idle_timeout,
            answer_size,
            backoff_min,
            backoff_max,
            breaker_failures,
            breaker_open,
            dns_refresh,
            ca_pem,
        } = self;
        let secret = |secret: &Option<SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
        let same_headers = headers.len() == other.headers.len()
            && headers.iter().zip(&other.headers).all(|((name, value), (other_name, other_value))| {
                name == other_name && value.expose_secret() == other_value.expose_secret()
            });
        same_headers
            && secret(signing_secret) == secret(&other.signing_secret)
            && (urls, version, timeout, deadline) == (&other.urls, &other.version, &other.timeout, &other.deadline)
            && (mode, concurrency, waiting) == (&other.mode, &other.concurrency, &other.waiting)
            && (pool_idle_timeout, answer_size) == (&other.pool_idle_timeout, &other.answer_size)
            && (backoff_min, backoff_max) == (&other.backoff_min, &other.backoff_max)
            && (breaker_failures, breaker_open) == (&other.breaker_failures, &other.breaker_open)
            && (dns_refresh, ca_pem) == (&other.dns_refresh, &other.ca_pem)
    }
}

async fn keep_house(endpoints: Weak<Endpoints>) {
    let mut interval = tokio::time::interval(HOUSEKEEPING);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match endpoints.upgrade() {
            Some(endpoints) => endpoints.keep_house(),
            None => return,
        }
    }
}

/// An error with its causes; the outermost alone says little.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
