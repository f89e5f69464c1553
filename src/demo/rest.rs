//! A minimal HTTP client: one connection a request, with a time limit and a bound on the answer.
//! Enough for calls to the admin listener; must not know what they are for.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest answer taken, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where Holdfast's admin listener is, and the bearer token that it asks for, if it does.
#[derive(Clone)]
pub struct AdminTarget {
    pub address: SocketAddr,
    pub token: Option<String>,
}

pub(super) struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
#[error("{method} http://{address}{path}: {reason}")]
pub(super) struct RestError {
    method: Method,
    address: SocketAddr,
    path: String,
    reason: String,
}

impl AdminTarget {
    /// Sends a request with a JSON body (none if empty) to the admin listener.
    pub(super) async fn call(&self, method: Method, path: &str, json: &str) -> Result<Response, RestError> {
        send(self.address, self.token.as_deref(), method, path, json).await
    }
}

impl Response {
    /// The body as text, with what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request with a JSON body (none if empty) and reads the whole response.
pub(super) async fn send(
    address: SocketAddr,
    token: Option<&str>,
    method: Method,
    path: &str,
    json: &str,
) -> Result<Response, RestError> {
    let failed = |reason: String| RestError { method: method.clone(), address, path: path.to_owned(), reason };
    let mut request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close");
    if !json.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(json.to_owned()))).map_err(|e| failed(e.to_string()))?;
    match tokio::time::timeout(TIMEOUT, exchange(address, request)).await {
        Ok(result) => result.map_err(|e| failed(e.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

async fn exchange(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response { status: parts.status, headers: parts.headers, body })
    };
    // The connection is driven here rather than in a task of its own; its end, good or bad, shows in the answer.
    let driver = async {
        drop(connection.await);
        pending().await
    };
    tokio::select! {
        result = answer => result,
        result = driver => result,
    }
}
