//! The handler that docs/events.md shows, run as it stands there.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::harness::{Holdfast, PATIENCE, yaml};

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_in_the_docs_answers_batches() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md")).expect("the page");
    let (_, code) = page.split_once("```python\n").expect("an example");
    let (code, _) = code.split_once("```").expect("its end");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("handler.py");
    std::fs::write(&file, code).expect("written");
    let mut handler = Command::new("/usr/bin/python3");
    handler.arg(&file).arg("0").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut handler = handler.spawn().expect("Python");
    let mut lines = BufReader::new(handler.stdout.take().expect("its output")).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
    let url = format!("http://{}/events", line.expect("its address"));

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
