//! An upstream that dies and comes back: nothing is lost, nothing is reordered, no socket closes.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Holdfast, Upstream, yaml};

const CLIENTS: usize = 100;
const MESSAGES: usize = 40;

/// The figure is 1,000 sockets, 10 messages a second each and an outage of 20 s; this is the same at a size that fits a
/// test: as many messages come in during the outage as the sockets' windows and buffers must hold.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_reordered_over_an_outage() {
    let mut app = Upstream::echo().await;
    let upstream = "retry: {backoff_min: 20ms, backoff_max: 200ms}, breaker: {failures: 5, open: 200ms}";
    let routes = "disconnect: app\nroutes: [{event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), upstream, routes), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (mut write, mut read) = holdfast.connect().await.socket.split();
        let send = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            for n in 0..MESSAGES {
                pace.tick().await;
                write.send(Message::text(format!("{{\"type\":\"a\",\"n\":{n}}}"))).await.expect("sent");
            }
            write
        });
        clients.push(tokio::spawn(async move {
            for n in 0..MESSAGES {
                let reply = tokio::time::timeout(crate::harness::PATIENCE, read.next()).await.expect("in time");
                let text = reply.expect("the socket stays open").expect("a message").into_text().expect("text");
                assert_eq!(text.as_str(), format!("{{\"type\":\"a\",\"n\":{n}}}"), "lost, repeated or reordered");
            }
            (send.await.expect("sent"), read)
        }));
    }
    app.wait_for("message", CLIENTS * 5).await;
    app.kill().await;
    // The outage lasts while every client goes on sending.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = app.calls_of("message").len();
    assert!(before < CLIENTS * MESSAGES, "the outage came too late");
    app.restart().await;
    let mut open = Vec::new();
    for client in clients {
        open.push(client.await.expect("every reply in order"));
    }
    assert_eq!(holdfast.metric("holdfast_connections{").await, CLIENTS as f64, "no socket closed");

    // At the handler: each message at least once, in order on its connection, and a repeat bears its first key.
    let mut last: HashMap<String, u64> = HashMap::new();
    for call in app.calls_of("message") {
        let (id, seq) = (call.header("ce-connectionid").to_owned(), call.header("ce-seq").parse().expect("a number"));
        assert_eq!(call.header("idempotency-key"), format!("{id}.{seq}"));
        let known = last.entry(id).or_default();
        assert!(seq == *known || seq == *known + 1, "{seq} after {known}");
        *known = seq;
    }
    assert!(last.len() == CLIENTS && last.values().all(|seq| *seq == MESSAGES as u64));
}
