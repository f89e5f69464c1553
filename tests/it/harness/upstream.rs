//! An HTTP handler that records what it is told and answers as the test says. It can be killed and started again on its port.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::eventually;

/// One request as the handler saw it.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().expect("a string")).unwrap_or_default()
    }

    /// The CloudEvents type without its prefix: connect, message or disconnect.
    pub fn kind(&self) -> &str {
        self.header("ce-type").strip_prefix("holdfast.").unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What to answer with.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub fn empty() -> Self {
        Self::status(204)
    }

    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::status(200).header("content-type", "application/json").body(body)
    }

    pub fn commands(list: &Value) -> Self {
        Self::status(200).header("content-type", "application/vnd.holdfast.commands+json").body(list.to_string())
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

type Handler = Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// A running handler.
pub struct Upstream {
    pub addr: SocketAddr,
    handler: Handler,
    calls: Arc<Mutex<Vec<Call>>>,
    connections: Arc<AtomicUsize>,
    server: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts a handler that answers at once.
    pub async fn start(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_async(move |call| std::future::ready(answer(&call))).await
    }

    /// Starts a handler that answers when it likes.
    pub async fn start_async<F>(answer: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let mut upstream = Self {
            addr,
            handler: Arc::new(move |call| Box::pin(answer(call))),
            calls: Arc::default(),
            connections: Arc::default(),
            server: None,
        };
        upstream.serve(listener);
        upstream
    }

    /// Answers every message with its own body, and says yes to everything else.
    pub async fn echo() -> Self {
        Self::start(|call| match call.kind() {
            "message" => {
                let content_type = call.header("content-type").to_owned();
                Reply::status(200).header("content-type", content_type).body(call.body.clone())
            }
            _ => Reply::empty(),
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.addr)
    }

    /// Everything that was asked so far, attempts and repeats included.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    pub fn calls_of(&self, kind: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.kind() == kind).collect()
    }

    /// How many TCP connections were opened to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until at least `count` events of this kind were asked.
    pub async fn wait_for(&self, kind: &str, count: usize) -> Vec<Call> {
        eventually(&format!("{count} {kind} events"), || {
            let calls = self.calls_of(kind);
            std::future::ready((calls.len() >= count).then_some(calls))
        })
        .await
    }

    /// Stops at once: the port refuses, and open connections are reset.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// Starts again on the same port.
    pub async fn restart(&mut self) {
        let addr = self.addr;
        let listener = eventually("the port is free again", || async move {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("reuse");
            socket.bind(addr).ok()?;
            socket.listen(1024).ok()
        })
        .await;
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (handler, calls, count) = (self.handler.clone(), self.calls.clone(), self.connections.clone());
        self.server = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                count.fetch_add(1, Ordering::SeqCst);
                let (handler, calls) = (handler.clone(), calls.clone());
                let service = service_fn(move |request| answer(request, handler.clone(), calls.clone()));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }));
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Handler,
    calls: Arc<Mutex<Vec<Call>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        let mut broken = Response::new(Full::default());
        *broken.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(broken);
    };
    let call = Call { path: head.uri.path().to_owned(), headers: head.headers, body: body.to_bytes() };
    calls.lock().push(call.clone());
    let reply = handler(call).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(reply.body)).expect("a response"))
}
