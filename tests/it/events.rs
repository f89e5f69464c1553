//! Events out and their answers: attributes, replies, commands, order, binary and structured mode, signatures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Holdfast, Reply, Upstream, yaml};

const ROUTES: &str = "routes: [{event: $binary, upstream: app}, {event: \"*\", upstream: app}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_a_cloud_event_and_its_body_untouched() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut client = holdfast.connect().await;
    let text = "{ \"type\" : \"chat.send\",\n \"text\":\"grüße\" }";
    client.send(text).await;
    assert_eq!(client.text().await, text);
    client.send_binary(&[0, 159, 255]).await;
    assert_eq!(client.next().await, Message::binary(vec![0, 159, 255]));

    let calls = app.calls_of("message");
    let first = &calls[0];
    assert_eq!(first.header("ce-specversion"), "1.0");
    assert_eq!(first.header("ce-type"), "holdfast.message");
    assert_eq!(first.header("ce-event"), "chat.send");
    assert_eq!((first.header("ce-seq"), calls[1].header("ce-seq")), ("1", "2"));
    assert_eq!(calls[1].header("ce-event"), "$binary");
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(calls[1].header("content-type"), "application/octet-stream");
    assert_eq!(first.header("idempotency-key"), first.header("ce-id"));
    assert!(first.header("ce-id").ends_with(".1"));
    assert!(first.header("traceparent").starts_with("00-"));
    assert_eq!(first.header("ce-userid"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_event_pointer_nothing_is_parsed() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, "event: none\nroutes: [{event: $text, upstream: app}]").await;
    let mut client = holdfast.connect().await;
    client.send("not json").await;
    assert_eq!(client.text().await, "not json");
    let call = app.calls_of("message").remove(0);
    assert_eq!((call.header("ce-event"), call.header("content-type")), ("$text", "text/plain; charset=utf-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_mode_is_one_signed_document() {
    let app = Upstream::start(|_| Reply::empty()).await;
    let secret = "signing_secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), secret, ROUTES), &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a","n":1.50}"#).await;
    client.send_binary(b"hi").await;
    let calls = loop {
        let calls = app.calls();
        if calls.len() == 2 {
            break calls;
        }
        tokio::task::yield_now().await;
    };
    let event = calls[0].json();
    assert_eq!(calls[0].header("content-type"), "application/cloudevents+json");
    assert_eq!(event["type"], "holdfast.message");
    assert_eq!(event["data"], json!({"type": "a", "n": 1.5}));
    assert!(calls[0].text().contains("1.50"), "the client's text is kept as it was");
    assert_eq!(event["id"], calls[0].header("idempotency-key"));
    assert_eq!(calls[1].json()["data_base64"], "aGk=");
    for call in calls {
        assert!(call.header("webhook-signature").starts_with("v1,"), "{:?}", call.headers);
        assert_eq!(call.header("webhook-id"), call.header("idempotency-key"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_be_commands() {
    let app = Upstream::start(|call| match (call.kind(), call.header("ce-event")) {
        ("message", "join") => Reply::empty().header("holdfast-join", "g"),
        ("message", "say") => Reply::commands(&json!([
            {"send": {"to": {"group": "g", "except": [call.header("ce-connectionid")]}, "data": {"said": 1}}},
            {"send": {"text": "to you"}},
            {"context": {"value": "new"}},
        ])),
        ("message", "context") => Reply::json(format!("\"{}\"", call.header("ce-context"))),
        ("message", "bye") => Reply::json("\"last\"").header("holdfast-close", "4400 bye"),
        _ => Reply::empty(),
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("disconnect: app\n{ROUTES}")).await;
    let (mut one, mut two) = (holdfast.connect().await, holdfast.connect().await);
    for client in [&mut one, &mut two] {
        client.send(r#"{"type":"join"}"#).await;
        client.send(r#"{"type":"context"}"#).await;
        assert_eq!(client.text().await, "\"\"", "the join before it was carried out");
    }
    one.send(r#"{"type":"say"}"#).await;
    assert_eq!(one.text().await, "to you");
    assert_eq!(two.json().await, json!({"said": 1}));
    one.send(r#"{"type":"context"}"#).await;
    assert_eq!(one.text().await, "\"new\"");
    one.send(r#"{"type":"bye"}"#).await;
    assert_eq!(one.text().await, "\"last\"", "the reply leaves before the close");
    assert_eq!(one.closed().await, (4400, "bye".to_owned()));
    let ended = app.wait_for("disconnect", 1).await.remove(0).json();
    assert_eq!((ended["code"].as_u64(), ended["cause"].as_str()), (Some(4400), Some("server")));
    assert!(ended["duration_ms"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_connection_are_answered_one_after_another() {
    let running = Arc::new(AtomicUsize::new(0));
    let app = Upstream::start_async(move |call| {
        let running = running.clone();
        async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            // The first takes longest: an order that is kept only by luck would break.
            let n = call.json()["n"].as_u64().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(20 - 2 * n)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Reply::json(call.body)
        }
    })
    .await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut client = holdfast.connect().await;
    for n in 0..10 {
        client.send(&format!("{{\"type\":\"a\",\"n\":{n}}}")).await;
    }
    for n in 0..10 {
        assert_eq!(client.json().await["n"], n);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wider_window_runs_calls_side_by_side() {
    let all_here = Arc::new(tokio::sync::Barrier::new(4));
    let app = Upstream::start_async(move |call| {
        let all_here = all_here.clone();
        async move {
            all_here.wait().await;
            Reply::json(call.body)
        }
    })
    .await;
    let holdfast = Holdfast::start(&app, "routes: [{event: \"*\", upstream: app, in_flight: 4}]").await;
    let mut client = holdfast.connect().await;
    for n in 0..4 {
        client.send(&format!("{{\"type\":\"a\",\"n\":{n}}}")).await;
    }
    let mut seen: Vec<Value> = Vec::new();
    for _ in 0..4 {
        seen.push(client.json().await["n"].clone());
    }
    seen.sort_by_key(Value::as_u64);
    assert_eq!(seen, [0, 1, 2, 3], "all four were with the upstream at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_delivered_after_the_client_left_and_then_comes_the_disconnect() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = gate.clone();
    let app = Upstream::start_async(move |call| {
        let wait = wait.clone();
        async move {
            if call.kind() == "message" {
                wait.acquire().await.expect("open").forget();
            }
            Reply::empty()
        }
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("disconnect: app\n{ROUTES}")).await;
    let mut client = holdfast.connect().await;
    for n in 0..5 {
        client.send(&format!("{{\"type\":\"a\",\"n\":{n}}}")).await;
    }
    app.wait_for("message", 1).await;
    client.close().await;
    assert!(app.calls_of("disconnect").is_empty());
    gate.add_permits(5);
    app.wait_for("disconnect", 1).await;
    let kinds: Vec<_> = app.calls().iter().map(|call| call.kind().to_owned()).collect();
    assert_eq!(kinds, ["message", "message", "message", "message", "message", "disconnect"]);
    assert_eq!(holdfast.drain().await, 0);
    assert_eq!(app.calls_of("disconnect").len(), 1);
}
