//! The demo: a small stateless chat application beside Holdfast, its page, its configuration, and a scripted conversation.
//! Knows Holdfast only as any application does, by HTTP and WebSocket; must not know its inside.

mod check;
mod handler;
mod queue;
mod rest;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

pub use check::{CheckFailed, check};
pub use rest::AdminTarget;

/// Path of the demo's WebSocket endpoint.
pub const ENDPOINT_PATH: &str = "/chat";
/// Paths of the configurations that `config_yaml` fills in, beside which the schemas are looked up.
pub const CONFIG_PATH: &str = "config/demo.yaml";
pub const RABBITMQ_CONFIG_PATH: &str = "config/demo-rabbitmq.yaml";
/// The schemas that the configuration names, by path from the same root as `CONFIG_PATH`.
pub const SCHEMAS: [(&str, &str); 2] = [
    ("schemas/demo/chat.send.json", include_str!("../schemas/demo/chat.send.json")),
    ("schemas/demo/chat.room.json", include_str!("../schemas/demo/chat.room.json")),
];

const CONFIG: &str = include_str!("../config/demo.yaml");
const RABBITMQ_CONFIG: &str = include_str!("../config/demo-rabbitmq.yaml");

/// The running handler. It serves until `stop` is called or this value is dropped.
#[must_use = "dropping it stops the handler"]
pub struct DemoHandler {
    address: SocketAddr,
    stop: CancellationToken,
}

impl DemoHandler {
    /// Where the page, the events and the wire are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and lets the requests in progress end; `Tasks::wait` says when they have. A Holdfast that still
    /// drains has disconnect events for the handler: stop it after that.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for DemoHandler {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts the chat handler on `listener`, and with `rabbitmq` a worker beside it that takes events out of a queue there.
/// `websocket_url` is what the page connects to. Needs a tokio runtime.
pub async fn serve_handler(
    listener: TcpListener,
    admin: AdminTarget,
    websocket_url: String,
    rabbitmq: Option<&str>,
    tasks: &Tasks,
) -> io::Result<DemoHandler> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let chat = Arc::new(handler::Chat::new(admin, websocket_url));
    if let Some(url) = rabbitmq {
        let broker = queue::connect(url).await.map_err(io::Error::other)?;
        let work = queue::work(chat.clone(), broker, stop.clone());
        tasks.spawn(async move {
            if let Err(error) = work.await {
                tracing::error!("the demo's worker stopped: {error}");
            }
        });
    }
    let router = handler::router(chat);
    let serve = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tasks.spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!("the demo's handler stopped: {error}");
        }
    });
    Ok(DemoHandler { address, stop })
}

/// The text of `config/demo.yaml`, or with `rabbitmq` of `config/demo-rabbitmq.yaml`, with the addresses filled in.
pub fn config_yaml(listen: SocketAddr, admin: SocketAddr, handler: SocketAddr, rabbitmq: Option<&str>) -> String {
    let handler_url = format!("http://{}/events", reachable(handler));
    let (text, broker) = rabbitmq.map_or((CONFIG, ""), |url| (RABBITMQ_CONFIG, url));
    text.replace("${HOLDFAST_DEMO_RABBITMQ:-amqp://guest:guest@127.0.0.1:5672/%2f}", broker)
        .replace("${HOLDFAST_DEMO_LISTEN:-127.0.0.1:8000}", &listen.to_string())
        .replace("${HOLDFAST_DEMO_ADMIN:-127.0.0.1:8001}", &admin.to_string())
        .replace("${HOLDFAST_DEMO_HANDLER:-http://127.0.0.1:3000/events}", &handler_url)
}

/// The URL of the demo's endpoint on a listener at `listen`.
pub fn websocket_url(listen: SocketAddr) -> String {
    format!("ws://{}{ENDPOINT_PATH}", reachable(listen))
}

/// What the command prints once everything runs.
pub fn banner(listen: SocketAddr, admin: SocketAddr, handler: SocketAddr) -> String {
    let (admin, page, websocket) = (reachable(admin), reachable(handler), websocket_url(listen));
    format!(
        "Holdfast demo is running.

  Page       http://{page}/   open it in two windows and chat
  WebSocket  {websocket}?name=ann
  Console    http://{admin}/   see who is connected, and each message as it passes
  Admin      http://{admin}/v1/config
  Metrics    http://{admin}/metrics

Push to a connection from anywhere (the page shows its ID and this line ready to copy):

  curl -X POST http://{admin}/v1/connections/<ID>/messages \\
       -H 'Content-Type: application/json' -d '{{\"type\":\"notice\",\"text\":\"hello from curl\"}}'

Stop with Ctrl+C.
"
    )
}

/// An address that a client on this machine can connect to: the unspecified address becomes loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// How many members `GET /v1/groups/{g}/members` named: a list, or an object that holds one.
fn member_count(body: &[u8]) -> Option<usize> {
    match serde_json::from_slice(body).ok()? {
        Value::Array(list) => Some(list.len()),
        Value::Object(object) => object.values().find_map(|value| value.as_array().map(Vec::len)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
