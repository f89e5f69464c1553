//! The handler behind the gateways, and the bare loop.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Answers each POST with its own body; `bench.whoami` with the connection's ID.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn handler(listen: &str) {
    let listener = TcpListener::bind(listen).await.expect("a port");
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        stream.set_nodelay(true).expect("nodelay");
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|value| value.as_bytes());
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    match header("content-type") {
        Some(b"application/cloudevents-batch+json") => return Ok(answer_batch(&body)),
        Some(WEBSOCKET_EVENTS) => return Ok(answer_pushpin(head.uri.query(), &body)),
        _ => {}
    }
    let mut response = match (header("ce-type"), header("ce-event")) {
        (Some(b"holdfast.connect" | b"holdfast.disconnect"), _) => Response::new(Full::default()),
        (_, Some(b"bench.whoami")) => {
            let id = String::from_utf8_lossy(header("ce-connectionid").unwrap_or_default()).into_owned();
            Response::new(Full::from(format!("\"{id}\"")))
        }
        _ => Response::new(Full::new(body)),
    };
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// As much of an event as the handler looks at.
#[derive(serde::Deserialize)]
struct Batched<'a> {
    event: &'a str,
    connectionid: &'a str,
    #[serde(borrow)]
    data: &'a serde_json::value::RawValue,
}

fn answer_batch(body: &[u8]) -> Response<Full<Bytes>> {
    let events: Vec<Batched<'_>> = serde_json::from_slice(body).expect("a batch");
    let mut answers = String::with_capacity(body.len());
    for event in &events {
        answers.push(if answers.is_empty() { '[' } else { ',' });
        match event.event {
            "bench.whoami" => answers.push_str(&format!("{{\"text\":\"{}\"}}", event.connectionid)),
            _ => answers.extend(["{\"data\":", event.data.get(), "}"]),
        }
    }
    answers.push(']');
    let mut response = Response::new(Full::from(answers));
    let media_type = http::HeaderValue::from_static("application/vnd.holdfast.batch+json");
    response.headers_mut().insert("content-type", media_type);
    response
}

/// Pushpin's media type: a list of WebSocket events, each `NAME [HEXADECIMAL LENGTH\r\nCONTENT]\r\n`.
const WEBSOCKET_EVENTS: &[u8] = b"application/websocket-events";

/// Subscribes who opens to the channel of its `?id=`, with a ping each 25 s; messages go back as they are.
fn answer_pushpin(query: Option<&str>, mut events: &[u8]) -> Response<Full<Bytes>> {
    let mut answers = Vec::with_capacity(events.len());
    let mut opens = false;
    while let Some(at) = events.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = events.split_at(at + 1);
        let line = String::from_utf8_lossy(line);
        let (name, length) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let content = usize::from_str_radix(length, 16).map_or(0, |length| length + "\r\n".len());
        let (content, rest) = rest.split_at(content);
        match name {
            "OPEN" => {
                opens = true;
                answers.extend(b"OPEN\r\n");
                let channel = query.and_then(|query| query.strip_prefix("id=")).unwrap_or_default();
                for control in [
                    format!(r#"c:{{"type":"subscribe","channel":"{channel}"}}"#),
                    r#"c:{"type":"keep-alive","message-type":"ping","content":"","timeout":25}"#.into(),
                ] {
                    answers.extend(format!("TEXT {:X}\r\n{control}\r\n", control.len()).bytes());
                }
            }
            "TEXT" | "CLOSE" => {
                answers.extend(line.bytes());
                answers.extend(content);
            }
            _ => {}
        }
        events = rest;
    }
    let mut response = Response::new(Full::from(answers));
    let media_type = http::HeaderValue::from_static("application/websocket-events");
    response.headers_mut().insert("content-type", media_type);
    if opens {
        let grip = http::HeaderValue::from_static("grip; message-prefix=\"\"");
        response.headers_mut().insert("sec-websocket-extensions", grip);
    }
    response
}

type Pool = Client<HttpConnector, Full<Bytes>>;

/// Accepts WebSockets and posts each message to the handler: the least that does the work.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn bare(listen: &str, upstream: String) {
    let listener = TcpListener::bind(listen).await.expect("a port");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool: Pool = Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        tokio::spawn(serve(stream, pool.clone(), upstream.clone()));
    }
}

async fn serve(stream: TcpStream, pool: Pool, upstream: String) {
    stream.set_nodelay(true).expect("nodelay");
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    // Who only looks whether the port is open makes no handshake.
    let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let request = Request::post(&upstream)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(text)))
            .expect("a request");
        let answer = pool.request(request).await.expect("an answer").into_body();
        let body = answer.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        socket.send(Message::text(text)).await.expect("sent");
    }
}
