//! Those who never come to a handshake, or not to its end.

use std::time::{Duration, Instant};

use crate::harness::{Client, HANDSHAKE, Raw, Reply, Upstream, eventually, yaml};

use super::{KIB, MIB, ROUTES, Scene};

const SHORT: &str = "handshake: {timeout: 1s}";

/// `HOLDFAST_TEST_SILENT=10000` for the full size; it needs as many files here and in the process.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_say_nothing_are_closed_in_time() {
    let count: usize = std::env::var("HOLDFAST_TEST_SILENT").map_or(1000, |n| n.parse().expect("a number"));
    let count = count.min(files_max().saturating_sub(200));
    let scene = Scene::start_with("handshake: {timeout: 3s}", "", ROUTES, &[]).await;
    let mut silent = Vec::with_capacity(count);
    for _ in 0..count {
        silent.push(Raw::tcp(scene.process.listen).await);
    }
    let mut newcomer = scene.process.client().await;
    newcomer.send(r#"{"type":"a"}"#).await;
    assert_eq!(newcomer.text().await, r#"{"type":"a"}"#, "handshakes are answered meanwhile");
    for socket in &mut silent {
        socket.ended().await;
    }
    scene.counted("holdfast_accept_errors_total{kind=\"timeout\"}", count).await;
    scene.held(count as u64 * 8 * KIB + 4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_is_cut_off_at_the_time_limit() {
    let scene = Scene::start_with(SHORT, "", ROUTES, &[]).await;
    let listen = scene.process.listen;
    let slow = |bytes: &'static [u8]| async move {
        let begun = Instant::now();
        let mut raw = Raw::tcp(listen).await;
        // Some header lines, or single bytes of the request line, for as long as they are taken.
        for byte in bytes.iter().cycle() {
            if !raw.write(&[*byte]).await || begun.elapsed() > Duration::from_secs(10) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    };
    let (lines, letters) = tokio::join!(slow(b"x: y\r\n"), slow(b"a"));
    for took in [lines, letters] {
        assert!((900..6000).contains(&took.as_millis()), "{took:?}");
    }
    scene.counted("holdfast_accept_errors_total{kind=", 2).await;
    scene.held(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_of_single_bytes_that_ends_in_time_is_answered() {
    let scene = Scene::start(ROUTES).await;
    let mut raw = Raw::tcp(scene.process.listen).await;
    for byte in HANDSHAKE.bytes().chain(*b"\r\n") {
        raw.write(&[byte]).await;
    }
    assert_eq!(raw.status().await, 101);
    scene.held(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_answered_431() {
    let scene = Scene::start(ROUTES).await;
    let long = format!("{HANDSHAKE}x-long: {}\r\n\r\n", "x".repeat(17 * 1024));
    let many = format!("{HANDSHAKE}{}\r\n", "a: b\r\n".repeat(200));
    for head in [&long, &many] {
        for _ in 0..50 {
            let mut raw = Raw::tcp(scene.process.listen).await;
            raw.write(head.as_bytes()).await;
            assert_eq!(raw.status().await, 431);
        }
    }
    // Without an end nothing can be said before the limit; then it is the same.
    let mut raw = Raw::tcp(scene.process.listen).await;
    let endless = format!("{HANDSHAKE}x: {}", "x".repeat(10 << 20));
    raw.write(endless.as_bytes()).await;
    raw.ended().await;
    scene.counted("holdfast_accept_errors_total{kind=\"too_large\"}", 101).await;
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_is_answered_400_or_cut() {
    let scene = Scene::start(ROUTES).await;
    let wrong = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        (b"GET /ws HTTP/1.1\r\nbad header\r\n\r\n".to_vec(), 400),
        (b"GET /ws\x00 HTTP/1.1\r\n\r\n".to_vec(), 400),
        // A body would be read as frames by one side and not by the other.
        (format!("{HANDSHAKE}content-length: 5\r\n\r\nhello").into_bytes(), 400),
        (format!("{HANDSHAKE}transfer-encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes(), 400),
        (format!("{HANDSHAKE}content-length: 1\r\ncontent-length: 2\r\n\r\n").into_bytes(), 400),
    ];
    for (bytes, status) in wrong {
        let mut raw = Raw::tcp(scene.process.listen).await;
        raw.write(&bytes).await;
        assert_eq!(raw.status().await, status, "{}", String::from_utf8_lossy(&bytes));
        raw.ended().await;
    }
    let mut raw = Raw::tcp(scene.process.listen).await;
    raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    raw.ended().await;
    scene.counted("holdfast_accept_errors_total{kind=\"malformed\"}", 5).await;
    scene.counted("holdfast_handshakes_total{endpoint=\"/ws\",status=\"400\"}", 2).await;
    scene.held(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_a_refusal_is_cut() {
    // More than the kernel takes for a socket.
    let refusal = "no".repeat(4 << 20);
    let gate = Upstream::start(move |_| Reply::status(403).body(refusal.clone())).await;
    let app = Upstream::echo().await;
    let yaml = format!("{SHORT}\n{}", yaml(&app.url(), "", ROUTES)).replace(
        "endpoints:",
        &format!("  gate: {{http: {{url: \"{}\", answer_size: 16MiB}}}}\nendpoints:", gate.url()),
    ) + "  - {path: /gate, connect: gate, routes: []}\n";
    let scene = Scene::start_yaml(app, &yaml, &[]).await;
    let handshake = HANDSHAKE.replace("/ws", "/gate") + "\r\n";
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::tcp_with_small_buffer(scene.process.listen).await;
        raw.write(handshake.as_bytes()).await;
        deaf.push(raw);
    }
    scene.counted("holdfast_handshakes_total{endpoint=\"/gate\",status=\"403\"}", 4).await;
    scene.counted("holdfast_accept_errors_total{kind=\"timeout\"}", 4).await;
    scene.held(4 * 24 * MIB).await;
}

/// A client that is gone without a word: nothing acknowledges, nothing ends.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_are_found_by_the_heartbeat() {
    let heartbeat = "heartbeat: {interval: 200ms, timeout: 200ms, misses: 2}\ndisconnect: app";
    let scene = Scene::start(&format!("{heartbeat}\n{ROUTES}")).await;
    let mut half_open = Vec::new();
    for _ in 0..50 {
        half_open.push(Raw::open(scene.process.listen).await);
    }
    for raw in &mut half_open {
        assert_eq!(raw.close_code().await, Some(4000));
    }
    // They do not answer the close either: the socket is given up.
    let ends = scene.app.wait_for("disconnect", 50).await;
    assert!(ends.iter().all(|end| end.json()["cause"] == "heartbeat"));
    scene.counted("holdfast_connections_closed_total{endpoint=\"/ws\",cause=\"heartbeat\"}", 50).await;
    eventually("only the other client is left", || async {
        (scene.process.metric("holdfast_connections{").await == 1.0).then_some(())
    })
    .await;
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_is_not_agreed_to() {
    let scene = Scene::start(ROUTES).await;
    let offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
    let client = Client::connect(&scene.process.url(), &offer).await.expect("open");
    assert!(!client.headers.contains_key("sec-websocket-extensions"));
    scene.held(4 * MIB).await;
}

/// Files that this process may open.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}
