//! Keys that are fetched from a URL: refreshed in the background, fetched again for a key that is not known, but not more often than
//! allowed; old keys stay while the URL cannot be reached. Must not know what a token says.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Refused;
use super::keys::KeySet;
use crate::backoff::Backoff;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::OutcomeLabel;
use crate::upstream::http::{client_tls, with_causes};

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Delays between attempts while there are no keys at all.
const RETRY: Backoff = Backoff { min: Duration::from_millis(200), max: Duration::from_secs(10) };

/// Where keys are fetched, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct JwksSettings {
    /// `http:` or `https:`.
    pub url: Uri,
    /// Between two fetches that nobody asked for.
    pub refresh: Duration,
    /// The least time since the last fetch before a token that names a key that is not known brings about another one.
    pub refetch_interval: Duration,
    /// Of one fetch.
    pub timeout: Duration,
    /// Authorities trusted beside the system's, in PEM.
    pub ca_pem: Option<Arc<str>>,
}

/// The keys of one URL.
pub struct Jwks {
    settings: JwksSettings,
    algorithms: Vec<Algorithm>,
    client: HttpClient,
    metrics: Arc<Metrics>,
    keys: ArcSwapOption<KeySet>,
    last: Mutex<Last>,
    /// One fetch at a time; who waits for it looks at its keys first.
    gate: Semaphore,
    refreshing: OnceLock<AbortOnDropHandle<()>>,
}

/// What is known of the last fetch.
#[derive(Default)]
struct Last {
    at: Option<Instant>,
    error: Option<String>,
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Says what is wrong with the settings.
pub fn check(settings: &JwksSettings) -> Result<(), String> {
    client(settings).map(|_| ())
}

impl Jwks {
    /// Fetches from now on, until dropped.
    pub fn start(
        settings: JwksSettings,
        algorithms: Vec<Algorithm>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, String> {
        let client = client(&settings)?;
        let jwks = Arc::new(Self {
            settings,
            algorithms,
            client,
            metrics: metrics.clone(),
            keys: ArcSwapOption::empty(),
            last: Mutex::default(),
            gate: Semaphore::new(1),
            refreshing: OnceLock::new(),
        });
        let refreshing = Tasks::new().spawn(refresh(Arc::downgrade(&jwks)));
        jwks.refreshing.get_or_init(|| AbortOnDropHandle::new(refreshing));
        Ok(jwks)
    }

    /// True if these are the keys that such settings fetch.
    pub fn is_of(&self, settings: &JwksSettings, algorithms: &[Algorithm]) -> bool {
        self.settings == *settings && self.algorithms == algorithms
    }

    /// The keys to hold a token against that names this key. Fetches them anew if they do not know it.
    pub async fn keys_for(&self, id: Option<&str>) -> Result<Arc<KeySet>, Refused> {
        let known = |keys: &Option<Arc<KeySet>>| keys.as_ref().is_some_and(|keys| keys.knows(id));
        let mut keys = self.keys.load_full();
        if !known(&keys) {
            // The semaphore is never closed, so a permit always comes.
            let _one_at_a_time = self.gate.acquire().await;
            keys = self.keys.load_full();
            if !known(&keys) && self.may_fetch() {
                self.fetch().await;
                keys = self.keys.load_full();
            }
        }
        match keys {
            Some(keys) if keys.knows(id) => Ok(keys),
            Some(_) => Err(Refused::UnknownKey),
            None => Err(Refused::NoKeys(self.last.lock().error.clone().unwrap_or_default())),
        }
    }

    /// A token's wish for a fetch counts only if the last one was long ago; while there are no keys the background tries often enough.
    fn may_fetch(&self) -> bool {
        self.last.lock().at.is_none_or(|at| at.elapsed() >= self.settings.refetch_interval)
    }

    /// Fetches once; on failure the old keys stay.
    async fn fetch(&self) {
        let fetched = timeout(self.settings.timeout, self.get()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.settings.timeout)));
        let parsed = fetched.and_then(|body| KeySet::parse(&body, &self.algorithms));
        let (outcome, error) = match parsed {
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                ("ok", None)
            }
            Err(error) => {
                let stale = self.keys.load().is_some();
                tracing::warn!(url = %self.settings.url, stale, "keys could not be fetched: {error}");
                ("failed", Some(error))
            }
        };
        self.metrics.jwks_fetches.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc();
        *self.last.lock() = Last { at: Some(Instant::now()), error };
    }

    async fn get(&self) -> Result<Bytes, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.settings.url.clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("holdfast"));
        let answer = self.client.request(request).await.map_err(|error| with_causes(&error))?;
        // Redirects are not followed: only the configured URL is asked.
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| format!("its answer could not be read: {error}"))
    }
}

/// Fetches now and then while anybody holds the keys; soon again while there are none.
async fn refresh(jwks: Weak<Jwks>) {
    let mut failed = 0;
    loop {
        let pause = {
            // Not held over the pause: who drops the keys ends this.
            let Some(jwks) = jwks.upgrade() else { return };
            let permit = jwks.gate.acquire().await;
            jwks.fetch().await;
            drop(permit);
            failed = if jwks.keys.load().is_some() { 0 } else { failed + 1 };
            let retry = RETRY.delay(failed, None, Duration::MAX, rand::random()).unwrap_or(RETRY.max);
            if failed > 0 { retry } else { jwks.settings.refresh }
        };
        sleep(pause).await;
    }
}

fn client(settings: &JwksSettings) -> Result<HttpClient, String> {
    let tls = client_tls(settings.ca_pem.as_deref())?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // Fetches are minutes apart: no connection is kept.
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}
