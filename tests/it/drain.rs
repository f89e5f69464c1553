//! The drain: paced closes with 1012, answers first, each disconnect once, an end in time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use http::Method;

use crate::harness::{Client, Holdfast, Reply, Upstream, eventually, request};

/// A size that fits a test; `HOLDFAST_DRAIN=1000 cargo test --release --test it drain` is the full figure.
fn clients_count() -> usize {
    std::env::var("HOLDFAST_DRAIN").map_or(200, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_are_answered_before_the_paced_closes() {
    let app = Upstream::start_async(|call| async move {
        if call.kind() == "message" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Reply::json(call.body)
    })
    .await;
    let endpoint = "disconnect: app\nroutes: [{event: \"*\", upstream: app}]";
    let mut holdfast = Holdfast::start(&app, endpoint).await;
    let count = clients_count();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = holdfast.connect().await;
        client.send(r#"{"type":"last words"}"#).await;
        clients.push(client);
    }
    app.wait_for("message", count).await;
    let (status, _) = holdfast.call(Method::POST, "/v1/drain", "").await;
    assert_eq!(status, 202);
    let started = Instant::now();
    assert_eq!(holdfast.call(Method::GET, "/readyz", "").await.0, 503);
    for client in &mut clients {
        assert_eq!(client.text().await, r#"{"type":"last words"}"#);
        assert_eq!(client.closed().await.0, 1012);
    }
    drop(clients);
    let running = holdfast.running.take().expect("running");
    assert_eq!(running.wait().await.cut, 0);
    assert!(started.elapsed() < Duration::from_secs(10), "within drain.deadline");
    let ends = app.calls_of("disconnect");
    let ids: HashSet<_> = ends.iter().map(|call| call.header("ce-connectionid").to_owned()).collect();
    assert_eq!((ends.len(), ids.len()), (count, count), "each once");
    assert!(ends.iter().all(|call| call.json()["cause"] == "drain" && call.json()["code"] == 1012));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_program_takes_no_new_connection() {
    let app = Upstream::start_async(|call| async move {
        if call.kind() == "message" {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Reply::empty()
    })
    .await;
    let holdfast = Holdfast::start(&app, "routes: [{event: \"*\", upstream: app}]").await;
    let mut client: Client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    app.wait_for("message", 1).await;
    holdfast.running.as_ref().expect("running").drain();
    eventually("the listener is closed", || async {
        tokio::net::TcpStream::connect(holdfast.listen).await.is_err().then_some(())
    })
    .await;
    let health = request(holdfast.admin, Method::GET, "/healthz", &[], "".into()).await;
    assert_eq!(health.0, 200, "it is alive, and says that it is not ready");
    assert_eq!(client.closed().await.0, 1012);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_cut() {
    let app = Upstream::start_async(|call| async move {
        match call.kind() {
            "message" => std::future::pending().await,
            _ => Reply::empty(),
        }
    })
    .await;
    let text = crate::harness::yaml(&app.url(), "timeout: 60s", "routes: [{event: \"*\", upstream: app}]");
    let text = text.replace("window: 100ms, deadline: 10s", "window: 100ms, deadline: 500ms");
    let holdfast = Holdfast::start_yaml(&text, &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    app.wait_for("message", 1).await;
    let started = Instant::now();
    assert_eq!(holdfast.drain().await, 1);
    assert!(started.elapsed() < Duration::from_secs(5));
}
