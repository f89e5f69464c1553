//! The bare hub that pushes are compared with: a registry of sockets, and a prepared frame written to each of a channel. No queue for
//! a slow client (it is cut), no heartbeat, nothing read of what clients send.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server;

type Registry = Arc<Mutex<HashMap<String, Vec<Arc<TcpStream>>>>>;

/// WebSockets at `listen`, each in the channel of its `?id=`; `POST /publish?id=` at `publish`.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn hub(listen: &str, publish: &str) {
    let registry = Registry::default();
    let (sockets, publishers) =
        (TcpListener::bind(listen).await.expect("a port"), TcpListener::bind(publish).await.expect("a port"));
    loop {
        tokio::select! {
            accepted = sockets.accept() => {
                tokio::spawn(hold(accepted.expect("accepted").0, registry.clone()));
            }
            accepted = publishers.accept() => {
                let (stream, registry) = (accepted.expect("accepted").0, registry.clone());
                stream.set_nodelay(true).expect("nodelay");
                let service = service_fn(move |request| post(request, registry.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    }
}

async fn hold(stream: TcpStream, registry: Registry) {
    stream.set_nodelay(true).expect("nodelay");
    let Some((stream, id)) = Box::pin(shake_hands(stream)).await else { return };
    registry.lock().entry(id.clone()).or_default().push(stream.clone());
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 256]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let mut registry = registry.lock();
    if let Some(members) = registry.get_mut(&id) {
        members.retain(|member| !Arc::ptr_eq(member, &stream));
        if members.is_empty() {
            registry.remove(&id);
        }
    }
}

/// Nobody speaks before the first push, so that tungstenite's buffers are empty when they go.
#[expect(clippy::result_large_err, reason = "tungstenite's own type")]
async fn shake_hands(stream: TcpStream) -> Option<(Arc<TcpStream>, String)> {
    let mut id = String::new();
    let note = |request: &server::Request, response| {
        id = channel(request.uri().query());
        Ok(response)
    };
    // Who only looks whether the port is open makes no handshake.
    let stream = accept_hdr_async(stream, note).await.ok()?.into_inner();
    Some((Arc::new(stream), id))
}

async fn post(request: Request<Incoming>, registry: Registry) -> Result<Response<Full<Bytes>>, Infallible> {
    let id = channel(request.uri().query());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let frame = frame(&body);
    let mut delivered = 0;
    if let Some(members) = registry.lock().get_mut(&id) {
        members.retain(|member| member.try_write(&frame).is_ok_and(|count| count == frame.len()));
        delivered = members.len();
    }
    let mut response = Response::new(Full::from(format!("{{\"delivered\":{delivered}}}")));
    if delivered == 0 {
        *response.status_mut() = StatusCode::GONE;
    }
    Ok(response)
}

fn channel(query: Option<&str>) -> String {
    query.and_then(|query| query.strip_prefix("id=")).unwrap_or_default().to_owned()
}

/// A server's text frame.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()).ok().filter(|len| *len < 126) {
        Some(len) => frame.push(len),
        None => {
            frame.push(126);
            frame.extend(u16::try_from(payload.len()).expect("a short message").to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}
