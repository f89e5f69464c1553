//! Handlers that answer without end, without sense, or from elsewhere.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Client, HANDSHAKE, Raw, Upstream, frame, yaml};

use super::{MIB, Scene};

/// Clients that get an evil answer at once.
const CLIENTS: usize = 8;

/// A handler that is handed each connection once a request on it was read.
async fn evil<F>(answer: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    evil_by_request(move |stream, _| answer(stream)).await
}

async fn evil_by_request<F>(answer: impl Fn(TcpStream, String) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                if let Some(request) = request(&mut stream).await {
                    answer(stream, request).await;
                }
            });
        }
    });
    addr
}

/// Reads a request whose body is JSON text.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"}") {
        let mut space = [0; 4096];
        let count = stream.read(&mut space).await.ok().filter(|count| *count > 0)?;
        read.extend_from_slice(&space[..count]);
    }
    Some(String::from_utf8_lossy(&read).into_owned())
}

/// Writes these bytes, then reads until the other side ends.
async fn say(mut stream: TcpStream, bytes: Vec<u8>) {
    let _ = stream.write_all(&bytes).await;
    let mut space = [0; 4096];
    while stream.read(&mut space).await.is_ok_and(|count| count > 0) {}
}

/// Writes the beginning, and then the same again for as long as it is taken.
async fn repeat(mut stream: TcpStream, start: &[u8], again: Vec<u8>, pause: Duration) {
    let _ = stream.write_all(start).await;
    while stream.write_all(&again).await.is_ok() {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// `other` goes to a good handler, `evil` to this one.
async fn scene(evil: SocketAddr) -> Scene {
    let app = Upstream::echo().await;
    let routes = "routes: [{event: evil, upstream: evil}, {event: \"*\", upstream: app}]";
    let bad = format!(
        "  evil: {{http: {{url: \"http://{evil}/events\", timeout: 500ms, deadline: 1200ms, breaker: {{failures: 1000}}}}}}\n"
    );
    let yaml = yaml(&app.url(), "", routes).replace("endpoints:", &format!("{bad}endpoints:"));
    Scene::start_yaml(app, &yaml, &[]).await
}

/// Several clients ask the evil handler at once; all get this code.
async fn all_get(scene: &Scene, code: &str) -> Vec<Value> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = scene.process.client().await;
        client.send(r#"{"type":"evil"}"#).await;
        clients.push(client);
    }
    let mut frames = Vec::new();
    for client in &mut clients {
        let (found, frame) = client.error().await;
        assert_eq!(found, code, "{frame}");
        frames.push(frame);
    }
    frames
}

async fn attempts(scene: &Scene, outcome: &str, least: usize) {
    let metric = format!("holdfast_upstream_attempts_total{{upstream=\"evil\",outcome=\"{outcome}\"}}");
    scene.counted(&metric, least).await;
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_gigabyte_is_not_taken() {
    let announced = format!("{OK}content-length: 1073741824\r\n\r\n");
    let chunked = format!("{OK}transfer-encoding: chunked\r\n\r\n");
    let until_closed = format!("{OK}\r\n");
    for (start, again) in [
        (announced, vec![b'x'; 64 * 1024]),
        (chunked, [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat()),
        (until_closed, vec![b'x'; 64 * 1024]),
    ] {
        let scene = scene(
            evil(move |stream| {
                let (start, again) = (start.clone(), again.clone());
                async move { repeat(stream, start.as_bytes(), again, Duration::ZERO).await }
            })
            .await,
        )
        .await;
        all_get(&scene, "internal").await;
        attempts(&scene, "broken", CLIENTS).await;
        // answer_size is 1 MiB: each may hold that, twice while it grows.
        scene.held(CLIENTS as u64 * 3 * MIB + 4 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_forever_is_given_up() {
    for start in [OK.into(), format!("{OK}content-length: 10000\r\n\r\n")] {
        let scene = scene(
            evil(move |stream| {
                let start = start.clone();
                // A header line, or some of the body, again and again.
                async move { repeat(stream, start.as_bytes(), b"x: y\r\n".to_vec(), Duration::from_millis(50)).await }
            })
            .await,
        )
        .await;
        all_get(&scene, "upstream_timeout").await;
        attempts(&scene, "timeout", CLIENTS).await;
        scene.held(6 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_1xx_is_given_up_at_64_kib() {
    let scene = scene(
        evil(|stream| async move {
            let flood = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(1000).into_bytes();
            repeat(stream, b"HTTP/1.1 100 Continue\r\n\r\n", flood, Duration::ZERO).await;
        })
        .await,
    )
    .await;
    all_get(&scene, "upstream_unavailable").await;
    attempts(&scene, "io_error", CLIENTS).await;
    scene.held(CLIENTS as u64 * MIB + 4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_large_or_no_heads_are_failed_attempts() {
    let heads = [
        format!("{OK}{}\r\n", "a: b\r\n".repeat(5000)),
        format!("{OK}x: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("{OK}bad header: x\r\n\r\n"),
        format!("{OK}x: a\0b\r\n\r\n"),
        format!("{OK}x: a\rb\r\n\r\n"),
        format!("{OK}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
        format!("{OK}content-length: two\r\n\r\n{{}}"),
        format!("{OK}transfer-encoding: chunked\r\n\r\nzz\r\n"),
        // Shorter than it says: the rest never comes.
        format!("{OK}content-length: 10\r\nconnection: close\r\n\r\n{{}}"),
        "HTTP/9.9 200 OK\r\n\r\n".into(),
        "HTTP/1.1 99 Low\r\n\r\n".into(),
        "\u{1b}[2J nonsense\r\n\r\n".into(),
    ];
    let count = heads.len();
    let scene = scene(
        evil_by_request(move |mut stream, request| {
            let at: usize =
                request.rsplit("\"n\":").next().and_then(|n| n.trim_end_matches('}').parse().ok()).expect("n");
            let head = heads[at].clone();
            async move {
                let _ = stream.write_all(head.as_bytes()).await;
            }
        })
        .await,
    )
    .await;
    let mut clients = Vec::new();
    for at in 0..count * 4 {
        let mut client = scene.process.client().await;
        client.send(&format!(r#"{{"type":"evil","n":{}}}"#, at % count)).await;
        clients.push(client);
    }
    for (at, client) in clients.iter_mut().enumerate() {
        let (code, frame) = client.error().await;
        // The last attempt may be cut short by the deadline.
        assert!(["upstream_unavailable", "upstream_timeout"].contains(&code.as_str()), "{}: {frame}", at % count);
    }
    attempts(&scene, "io_error", count * 4).await;
    scene.held(count as u64 * 4 * 64 * 1024 + 6 * MIB).await;
}

/// What follows an answer on its connection is nobody's answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_behind_an_answer_reaches_nobody() {
    let scene = scene(
        evil(|mut stream| async move {
            loop {
                let poison = format!("{OK}content-length: 8\r\n\r\n\"poison\"");
                let answer = format!("{OK}content-length: 6\r\n\r\n\"mine\"{poison}");
                if stream.write_all(answer.as_bytes()).await.is_err() || request(&mut stream).await.is_none() {
                    return;
                }
            }
        })
        .await,
    )
    .await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..4 {
        clients.push(scene.process.client().await);
    }
    for _ in 0..20 {
        for client in &mut clients {
            client.send(r#"{"type":"evil"}"#).await;
            assert_eq!(client.text().await, "\"mine\"");
        }
    }
    attempts(&scene, "ok", 80).await;
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let (canary, calls) = canary().await;
    for status in [301, 302, 303, 307, 308] {
        let scene = scene(
            evil(move |stream| {
                let answer = format!("HTTP/1.1 {status} Go\r\nlocation: http://{canary}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                say(stream, answer.into_bytes())
            })
            .await,
        )
        .await;
        for error in all_get(&scene, "upstream_rejected").await {
            assert_eq!(error["status"], status);
        }
        attempts(&scene, "rejected", CLIENTS).await;
        scene.held(6 * MIB).await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

/// A thousand times as large once unpacked, so it is not unpacked; nor passed on as what it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_answer_is_refused() {
    for coding in ["gzip", "br", "deflate, gzip"] {
        let scene = scene(
            evil(move |stream| {
                let head =
                    format!("{OK}content-encoding: {coding}\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n");
                say(stream, [head.into_bytes(), vec![0x1f; 1000]].concat())
            })
            .await,
        )
        .await;
        all_get(&scene, "internal").await;
        attempts(&scene, "broken", CLIENTS).await;
        scene.held(6 * MIB).await;
    }
}

/// Nothing that a client says names a host to call.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_configured_urls_are_called() {
    let (canary, calls) = canary().await;
    let app = Upstream::echo().await;
    let text = yaml(&app.url(), "", "connect: app\ndisconnect: app\nroutes: [{event: \"*\", upstream: app}]");
    let scene = Scene::start_yaml(app, &text, &[]).await;
    let request = HANDSHAKE
        .replace("GET /ws", &format!("GET http://{canary}/ws"))
        .replace("host: holdfast", &format!("host: {canary}"));
    let headers =
        ["x-forwarded-host", "forwarded", "origin", "referer", "location", "webhook-request-callback", "ce-source"];
    let headers: String = headers.iter().map(|name| format!("{name}: http://{canary}/\r\n")).collect();
    let mut raw = Raw::tcp(scene.process.listen).await;
    raw.write(format!("{request}{headers}\r\n").as_bytes()).await;
    assert_eq!(raw.status().await, 101);
    let message = format!(
        r#"{{"type":"http://{canary}/","url":"http://{canary}/","source":"http://{canary}/","datacontenttype":"http://{canary}/"}}"#
    );
    raw.write(&frame(0x81, message.as_bytes())).await;
    assert_eq!(raw.frame().await.expect("an echo").1, message.as_bytes());
    raw.write(&frame(0x88, &[&1000_u16.to_be_bytes()[..], format!("http://{canary}/").as_bytes()].concat())).await;
    let end = scene.app.wait_for("disconnect", 1).await;
    assert!(end[0].text().contains(&canary.to_string()), "a word like any other");
    let told = scene.app.calls();
    assert!(told.iter().all(|call| call.header("host") == scene.app.addr.to_string() && call.path == "/events"));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    scene.held(6 * MIB).await;
}

/// A server that nobody should call, and how many did.
async fn canary() -> (SocketAddr, Arc<AtomicUsize>) {
    let calls: Arc<AtomicUsize> = Arc::default();
    let count = calls.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (addr, calls)
}
