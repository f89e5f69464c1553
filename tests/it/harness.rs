//! Starts the real program on free ports, real upstreams beside it, and clients that wait with patience.

pub mod broker;
mod client;
mod collector;
pub mod example;
pub mod issuer;
mod process;
mod proxy;
mod raw;
mod upstream;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use holdfast::app::{self, Running};
use holdfast::config;
use holdfast::telemetry::logging::{self, LogFormat, LogSettings};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

pub use client::{Client, Refused};
pub use collector::collector;
pub use process::{BINARY, Process};
pub use proxy::Proxy;
pub use raw::{HANDSHAKE, Raw, frame};
pub use upstream::{Call, Reply, Upstream};

/// How long a condition may take before its test fails.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The size of a test of an outage, which the environment may raise: clients, messages of each, pace and outage in milliseconds.
#[derive(Clone, Copy)]
pub struct Size {
    pub clients: usize,
    pub messages: usize,
    pub pace: Duration,
    pub outage: Duration,
}

impl Size {
    pub fn from_environment(name: &str, otherwise: &str) -> Self {
        let text = std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
        let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().expect("four numbers")).collect();
        Self {
            clients: numbers[0] as usize,
            messages: numbers[1] as usize,
            pace: Duration::from_millis(numbers[2]),
            outage: Duration::from_millis(numbers[3]),
        }
    }
}

/// A running Holdfast with its configuration in a folder of its own.
pub struct Holdfast {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub running: Option<Running>,
    /// Removed at the end.
    dir: Option<TempDir>,
    path: PathBuf,
    yaml: String,
}

impl Holdfast {
    /// Starts with one upstream `app` and one endpoint `/ws` whose further keys are `endpoint`, as YAML in flow or block style
    /// indented by four spaces.
    pub async fn start(app: &Upstream, endpoint: &str) -> Self {
        Self::start_yaml(&yaml(&app.url(), "", endpoint), &[]).await
    }

    /// Starts with a whole configuration and files beside it.
    pub async fn start_yaml(yaml: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let path = dir.path().join("holdfast.yaml");
        std::fs::write(&path, yaml).expect("written");
        let mut holdfast = Self::start_at(&path).await;
        holdfast.dir = Some(dir);
        holdfast
    }

    /// Starts with the configuration at `path`.
    pub async fn start_at(path: &Path) -> Self {
        let loaded = config::load(path).unwrap_or_else(|problems| panic!("{problems}"));
        let level = std::env::var("HOLDFAST_TEST_LOG").unwrap_or_else(|_| "off".into());
        let log = logging::init(&LogSettings { level, format: LogFormat::Text }).expect("a log");
        let running = app::start(loaded, Some(path.to_owned()), log).await.expect("started");
        let yaml = std::fs::read_to_string(path).expect("text");
        let (listen, admin) = (running.listen, running.admin);
        Self { listen, admin, running: Some(running), dir: None, path: path.to_owned(), yaml }
    }

    pub fn config_path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The configuration that it was started with.
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.listen)
    }

    /// Connects a client to `/ws`.
    pub async fn connect(&self) -> Client {
        Client::connect(&self.url(), &[]).await.expect("a connection")
    }

    /// Calls the admin API. The body of the answer as JSON, or as a string where it is not.
    pub async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let (status, _, body) = self.call_raw(method, path, &[], body).await;
        let value = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        (status, value)
    }

    pub async fn call_raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (StatusCode, http::HeaderMap, Bytes) {
        request(self.admin, method, path, headers, body.into()).await
    }

    /// The value of a metric whose line starts with `name`, 0 if there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, _, body) = self.call_raw(Method::GET, "/metrics", &[], "").await;
        let text = String::from_utf8_lossy(&body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Drains and waits for the end. How many sessions were cut.
    pub async fn drain(mut self) -> usize {
        let running = self.running.take().expect("running");
        running.drain();
        running.wait().await.cut
    }
}

/// A configuration with one upstream `app` and one endpoint `/ws`. `upstream` are further keys of `app` in flow style.
pub fn yaml(url: &str, upstream: &str, endpoint: &str) -> String {
    let upstream = if upstream.is_empty() { String::new() } else { format!(", {upstream}") };
    format!(
        "listen: 127.0.0.1:0\nadmin: {{listen: \"127.0.0.1:0\"}}\ndrain: {{window: 100ms, deadline: 10s}}\n\
         upstreams:\n  app: {{http: {{url: \"{url}\"{upstream}}}}}\n\
         endpoints:\n  - path: /ws\n{}\n",
        endpoint.lines().map(|line| format!("    {line}\n")).collect::<String>()
    )
}

/// One HTTP request on a connection of its own.
pub async fn request(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> (StatusCode, http::HeaderMap, Bytes) {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", addr.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = send.send_request(request.body(Full::new(body)).expect("a request")).await.expect("an answer");
    let (head, body) = answer.into_parts();
    (head.status, head.headers, body.collect().await.expect("a body").to_bytes())
}

/// Waits until `condition` gives a value; fails the test after `PATIENCE`, saying what was awaited.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
