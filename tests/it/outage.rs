//! An upstream that dies and comes back: nothing is lost, nothing is reordered, no socket closes.

use std::collections::HashMap;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Holdfast, Size, Upstream, yaml};

/// The full figure is 1,000 clients that send a message each 100 ms, 300 in all, over an outage of 20 s
/// (`HOLDFAST_OUTAGE="1000 300 100 20000" cargo test --release --test it outage`).
fn size() -> Size {
    Size::from_environment("HOLDFAST_OUTAGE", "100 40 50 1500")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_reordered_over_an_outage() {
    let size = size();
    let mut app = Upstream::echo().await;
    let upstream = "retry: {backoff_min: 20ms, backoff_max: 200ms}, breaker: {failures: 5, open: 200ms}";
    let routes = "disconnect: app\nroutes: [{event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), upstream, routes), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..size.clients {
        let (mut write, mut read) = holdfast.connect().await.socket.split();
        let send = tokio::spawn(async move {
            let mut pace = tokio::time::interval(size.pace);
            for n in 0..size.messages {
                pace.tick().await;
                write.send(Message::text(format!("{{\"type\":\"a\",\"n\":{n}}}"))).await.expect("sent");
            }
            write
        });
        clients.push(tokio::spawn(async move {
            for n in 0..size.messages {
                let reply =
                    tokio::time::timeout(crate::harness::PATIENCE + size.outage, read.next()).await.expect("in time");
                let text = reply.expect("the socket stays open").expect("a message").into_text().expect("text");
                assert_eq!(text.as_str(), format!("{{\"type\":\"a\",\"n\":{n}}}"), "lost, repeated or reordered");
            }
            (send.await.expect("sent"), read)
        }));
    }
    app.wait_for("message", size.clients * 5).await;
    app.kill().await;
    // The outage lasts while every client goes on sending.
    tokio::time::sleep(size.outage).await;
    let before = app.calls_of("message").len();
    assert!(before < size.clients * size.messages, "the outage came too late");
    app.restart().await;
    let mut open = Vec::new();
    for client in clients {
        open.push(client.await.expect("every reply in order"));
    }
    assert_eq!(holdfast.metric("holdfast_connections{").await, size.clients as f64, "no socket closed");

    // At the handler: each message at least once, in order on its connection, and a repeat bears its first key.
    let mut last: HashMap<String, u64> = HashMap::new();
    for call in app.calls_of("message") {
        let (id, seq) = (call.header("ce-connectionid").to_owned(), call.header("ce-seq").parse().expect("a number"));
        assert_eq!(call.header("idempotency-key"), format!("{id}.{seq}"));
        let known = last.entry(id).or_default();
        assert!(seq == *known || seq == *known + 1, "{seq} after {known}");
        *known = seq;
    }
    assert!(last.len() == size.clients && last.values().all(|seq| *seq == size.messages as u64));
}
