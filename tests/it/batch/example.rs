//! The handler that docs/events.md shows, run as it stands there.

use serde_json::json;

use crate::harness::example::{Example, block, page};
use crate::harness::{Holdfast, yaml};

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_in_the_docs_answers_batches() {
    let handler = Example::start("/usr/bin/python3", &block(&page("events.md"), "python")).await;
    let url = format!("http://{}/events", handler.address);

    let routes = "routes: [{event: \"*\", upstream: app, batch: {max: 100, wait: 2ms}}]";
    let holdfast = Holdfast::start_yaml(&yaml(&url, "", routes), &[]).await;
    let (mut one, mut two) = (holdfast.connect().await, holdfast.connect().await);
    for client in [&mut one, &mut two] {
        client.send(r#"{"type":"room.enter","room":"lobby"}"#).await;
        assert_eq!(client.json().await, json!({"type": "room.entered", "room": "lobby"}));
    }
    one.send(r#"{"type":"chat.send","room":"lobby","text":"hi"}"#).await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.json().await, json!({"type": "chat.message", "text": "hi"}));
    }
    // Without a room: that message alone is refused.
    one.send(r#"{"type":"chat.send","text":"hi"}"#).await;
    assert_eq!(one.error().await.0, "upstream_rejected");
    two.send(r#"{"type":"ping"}"#).await;
    assert_eq!(two.json().await, json!({"type": "pong"}));
}
