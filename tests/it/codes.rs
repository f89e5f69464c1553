//! Every error code and every close code that this version raises, provoked over a real socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};

use crate::harness::{Client, Holdfast, Reply, Upstream, eventually, yaml};

const ROUTES: &str = "routes: [{event: $binary, upstream: app}, {event: \"*\", upstream: app}]";
const CHAT_SCHEMA: &str = r#"{
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "chat.send"}, "text": {"type": "string", "maxLength": 5}}
}"#;

async fn with_schema(app: &Upstream, more: &str) -> Holdfast {
    let routes = format!("routes: [{{event: chat.send, schema: chat.json, upstream: app{more}}}]");
    Holdfast::start_yaml(&yaml(&app.url(), "", &routes), &[("chat.json", CHAT_SCHEMA)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_gets_wrong_is_named_and_the_socket_stays_open() {
    let app = Upstream::echo().await;
    let holdfast = with_schema(&app, "").await;
    let mut client = holdfast.connect().await;
    for (message, code) in [
        ("{nope", "invalid_json"),
        (r#"{"typ":"chat.send"}"#, "missing_event"),
        (r#"{"type":"other"}"#, "unknown_event"),
        (r#"{"type":"$binary"}"#, "unknown_event"),
        (r#"{"type":"chat.send","text":"too long"}"#, "schema_violation"),
        (r#"{"type":"chat.send"}"#, "schema_violation"),
    ] {
        client.send(message).await;
        assert_eq!(client.error().await.0, code, "{message}");
    }
    client.send_binary(b"x").await;
    assert_eq!(client.error().await.0, "unknown_event", "no route takes $binary");
    client.send(r#"{"type":"chat.send","text":"too long"}"#).await;
    let (_, frame) = client.error().await;
    assert_eq!((&frame["event"], &frame["seq"]), (&json!("chat.send"), &json!(8)));
    assert_eq!(frame["errors"][0]["pointer"], "/text");
    client.send(r#"{"type":"chat.send","text":"ok"}"#).await;
    assert_eq!(client.json().await["text"], "ok");
    assert_eq!(app.calls_of("message").len(), 1, "nothing that was refused reached the upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn report_mode_lets_everything_pass_and_counts_it() {
    let app = Upstream::echo().await;
    let holdfast = with_schema(&app, ", validate: report").await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"chat.send"}"#).await;
    assert_eq!(client.text().await, r#"{"type":"chat.send"}"#);
    let counted =
        "holdfast_schema_violations_total{endpoint=\"/ws\",route=\"chat.send\",direction=\"message\",mode=\"report\"}";
    assert_eq!(holdfast.metric(counted).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_does_not_fit_its_schema_is_an_internal_error() {
    let app = Upstream::start(|_| Reply::json(r#"{"secret":1}"#)).await;
    let routes = "routes: [{event: \"*\", reply_schema: reply.json, upstream: app}]";
    let files = [("reply.json", r#"{"type":"object","required":["ok"]}"#)];
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), "", routes), &files).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    let (code, frame) = client.error().await;
    assert_eq!(code, "internal");
    assert!(!frame.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_s_no_is_upstream_rejected() {
    let app = Upstream::start(|_| Reply::status(403)).await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    let (code, frame) = client.error().await;
    assert_eq!((code.as_str(), frame["status"].as_u64()), ("upstream_rejected", Some(403)));
    assert_eq!(app.calls().len(), 1, "a no is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_upstream_unavailable_after_the_deadline() {
    let mut app = Upstream::echo().await;
    app.kill().await;
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), "deadline: 300ms", ROUTES), &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.error().await.0, "upstream_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_silent_is_upstream_timeout_after_the_deadline() {
    let app = Upstream::start_async(|_| std::future::pending()).await;
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), "timeout: 100ms, deadline: 1s", ROUTES), &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.error().await.0, "upstream_timeout");
    let keys: Vec<_> = app.calls().iter().map(|call| call.header("idempotency-key").to_owned()).collect();
    assert!(keys.len() >= 2 && keys.iter().all(|key| *key == keys[0]), "repeats bear the same key: {keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_too_many_waiting_is_overloaded() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = gate.clone();
    let app = Upstream::start_async(move |_| {
        let wait = wait.clone();
        async move {
            wait.acquire().await.expect("open").forget();
            Reply::empty()
        }
    })
    .await;
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), "concurrency: 1, waiting: 1", ROUTES), &[]).await;
    let mut clients = Vec::new();
    for at in 0..2 {
        let mut client = holdfast.connect().await;
        client.send(r#"{"type":"a"}"#).await;
        clients.push(client);
        let metric = ["holdfast_upstream_in_flight", "holdfast_upstream_waiting"][at];
        crate::harness::eventually(metric, || async { (holdfast.metric(metric).await == 1.0).then_some(()) }).await;
    }
    let mut third = holdfast.connect().await;
    third.send(r#"{"type":"a"}"#).await;
    assert_eq!(third.error().await.0, "overloaded");
    gate.add_permits(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_the_contract_is_internal() {
    let app = Upstream::start(|_| {
        Reply::status(200).header("content-type", "application/vnd.holdfast.commands+json").body("not a list")
    })
    .await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.error().await.0, "internal");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_messages_a_second_are_rate_limited() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("limits: {{messages_per_second: 2}}\n{ROUTES}")).await;
    let mut client = holdfast.connect().await;
    let mut codes = Vec::new();
    for _ in 0..6 {
        client.send(r#"{"type":"a"}"#).await;
    }
    for _ in 0..6 {
        codes.push(client.json().await);
    }
    let limited: Vec<_> = codes.iter().filter(|frame| frame["code"] == "rate_limited").collect();
    assert!(limited.len() >= 3, "{codes:?}");
    assert!(limited[0]["retry_after_ms"].as_u64().is_some_and(|ms| (1..=500).contains(&ms)), "{:?}", limited[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_violations_close_with_the_codes_of_the_rfc() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("disconnect: app\nlimits: {{message_size: 1000B}}\n{ROUTES}")).await;
    let mut client = holdfast.connect().await;
    let torn = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    client.socket.send(Message::Frame(torn)).await.expect("sent");
    assert_eq!(client.closed().await.0, 1007);

    let mut client = holdfast.connect().await;
    client.send(&"x".repeat(1001)).await;
    assert_eq!(client.closed().await.0, 1009);

    let mut client = holdfast.connect().await;
    // An unmasked frame: a client must mask (RFC 6455 section 5.1).
    client.socket.get_mut().write_all(&[0x81, 0x01, b'x']).await.expect("sent");
    assert_eq!(client.closed().await.0, 1002);

    let mut client = holdfast.connect().await;
    let frame = CloseFrame { code: 4999.into(), reason: "mine".into() };
    client.socket.close(Some(frame)).await.expect("closed");
    assert_eq!(client.closed().await, (4999, "mine".to_owned()), "the client's own code is echoed");

    let ends: Vec<_> = app.wait_for("disconnect", 4).await.iter().map(|call| call.json()).collect();
    let mut ends: Vec<_> = ends.iter().map(|end| (end["code"].as_u64(), end["cause"].as_str())).collect();
    ends.sort_unstable();
    assert_eq!(
        ends,
        [
            (Some(1002), Some("error")),
            (Some(1007), Some("error")),
            (Some(1009), Some("error")),
            (Some(4999), Some("client"))
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_silent_misses_its_heartbeat() {
    let app = Upstream::echo().await;
    let heartbeat = "heartbeat: {interval: 200ms, timeout: 500ms, misses: 2}";
    let holdfast = Holdfast::start(&app, &format!("disconnect: app\n{heartbeat}\n{ROUTES}")).await;
    let mut alive = holdfast.connect().await;
    // Nothing is read from this one, so its library answers no ping until the test looks.
    let silent = holdfast.connect().await;
    let pinged = tokio::spawn(async move {
        // Reading answers the pings.
        let next = tokio::time::timeout(Duration::from_secs(2), alive.next()).await;
        assert!(next.is_err(), "a client that answers pings stays: {next:?}");
        alive
    });
    let end = app.wait_for("disconnect", 1).await.remove(0).json();
    assert_eq!((end["code"].as_u64(), end["cause"].as_str()), (Some(4000), Some("heartbeat")));
    let mut silent = silent;
    let mut raw = Vec::new();
    // What was sent stands in the socket: pings, and at the end a close frame with 4000 (0x0fa0).
    let _ = silent.socket.get_mut().read_to_end(&mut raw).await;
    let reason = b"heartbeat missed";
    let close = [&[0x88, 2 + reason.len() as u8, 0x0f, 0xa0], &reason[..]].concat();
    assert!(raw.starts_with(&[0x89, 0]) && raw.ends_with(&close), "{raw:?}");
    pinged.await.expect("alive").close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_old_connections_close_with_their_codes() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("idle_timeout: 200ms\n{ROUTES}")).await;
    assert_eq!(holdfast.connect().await.closed().await.0, 4002);
    let holdfast = Holdfast::start(&app, &format!("lifetime: 200ms\n{ROUTES}")).await;
    assert_eq!(holdfast.connect().await.closed().await.0, 4003);
}

/// What is pushed passes its session by, and counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_pushed_to_is_not_idle() {
    const IDLE: Duration = Duration::from_secs(1);
    let app = Upstream::start(|call| Reply::json(format!("\"{}\"", call.header("ce-connectionid")))).await;
    let holdfast = &Holdfast::start(&app, &format!("idle_timeout: 1s\n{ROUTES}")).await;
    // Where the machine is too busy to push in time, once more.
    let mut client = eventually("pushes in time", || async {
        let mut client = holdfast.connect().await;
        client.send(r#"{"type":"id"}"#).await;
        let path = format!("/v1/connections/{}/messages", client.json().await.as_str().expect("an ID"));
        let (opened, mut last) = (Instant::now(), Instant::now());
        let mut pace = tokio::time::interval(IDLE / 10);
        while opened.elapsed() < IDLE * 2 {
            pace.tick().await;
            let (status, _) = holdfast.call(Method::POST, &path, "x").await;
            let pause = last.elapsed();
            last = Instant::now();
            if pause > IDLE / 2 {
                return None;
            }
            assert_eq!(status, 200, "closed {pause:?} after a push");
        }
        Some(client)
    })
    .await;
    assert_eq!(client.closed().await.0, 4002);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_delivered_may_close() {
    let mut app = Upstream::echo().await;
    app.kill().await;
    let routes = "routes: [{event: \"*\", upstream: app, deadline: 200ms, on_failure: close}]";
    let holdfast = Holdfast::start(&app, routes).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.error().await.0, "upstream_unavailable");
    assert_eq!(client.closed().await.0, 4005);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_invalid_messages_are_abuse() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("limits: {{invalid_messages: 2}}\n{ROUTES}")).await;
    let mut client = holdfast.connect().await;
    for _ in 0..3 {
        client.send("{").await;
    }
    for _ in 0..3 {
        assert_eq!(client.error().await.0, "invalid_json");
    }
    assert_eq!(client.closed().await.0, 4501);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_closes_with_its_code_or_4500() {
    let app = Upstream::start(|call| Reply::json(format!("\"{}\"", call.header("ce-connectionid")))).await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    for (query, code, reason) in [("", 4500, ""), ("?code=4401&reason=token%20gone", 4401, "token gone")] {
        let mut client: Client = holdfast.connect().await;
        client.send(r#"{"type":"id"}"#).await;
        let id = client.json().await.as_str().expect("an ID").to_owned();
        let (status, _) = holdfast.call(Method::DELETE, &format!("/v1/connections/{id}{query}"), "").await;
        assert_eq!(status, 204);
        assert_eq!(client.closed().await, (code, reason.to_owned()));
    }
}
