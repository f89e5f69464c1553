//! Batches: many connections' messages in one request, an answer for each, order kept, parts tried again.

mod example;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{Call, Client, Holdfast, Reply, Upstream, eventually, yaml};

pub const BATCH: &str = "application/cloudevents-batch+json";
pub const ANSWERS: &str = "application/vnd.holdfast.batch+json";

fn routes(batch: &str) -> String {
    format!(
        "routes: [{{event: \"*\", upstream: app, batch: {{{batch}}}}}, {{event: $binary, upstream: app, batch: {{{batch}}}}}]"
    )
}

/// Answers each event of a batch.
fn each(call: &Call, answer: impl Fn(&Value) -> Value) -> Reply {
    assert_eq!(call.header("content-type"), BATCH);
    let list: Vec<Value> = call.json().as_array().expect("a list").iter().map(answer).collect();
    answers(&json!(list))
}

fn answers(list: &Value) -> Reply {
    Reply::status(200).header("content-type", ANSWERS).body(list.to_string())
}

/// A handler that lets one request through at a time, when told to, and answers each event as `answer` says.
async fn gated(answer: impl Fn(&Value) -> Value + Clone + Send + Sync + 'static) -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let app = Upstream::start_async(move |call| {
        let (wait, answer) = (wait.clone(), answer.clone());
        async move {
            wait.acquire().await.expect("open").forget();
            each(&call, answer)
        }
    })
    .await;
    (app, gate)
}

/// Waits until the handler was asked so often.
async fn asked(app: &Upstream, count: usize) -> Vec<Call> {
    eventually(&format!("{count} requests"), || {
        let calls = app.calls();
        std::future::ready((calls.len() >= count).then_some(calls))
    })
    .await
}

/// Has one request hang, and then the messages of all `clients` wait for it.
async fn pile_up(holdfast: &Holdfast, app: &Upstream, clients: &mut [Client], text: impl Fn(usize) -> String) {
    let before = holdfast.metric("holdfast_messages_received_total").await;
    clients[0].send(&text(0)).await;
    asked(app, 1).await;
    for (at, client) in clients.iter_mut().enumerate().skip(1) {
        client.send(&text(at)).await;
    }
    let all = before + clients.len() as f64;
    eventually("every message is read", || async {
        (holdfast.metric("holdfast_messages_received_total").await == all).then_some(())
    })
    .await;
}

async fn connect(holdfast: &Holdfast, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(holdfast.connect().await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_request_goes_together_in_the_next_as_cloud_events() {
    let (app, gate) = gated(|event| json!({"data": event["data"]})).await;
    let holdfast = Holdfast::start(&app, &routes("max: 100, wait: 10s")).await;
    let mut clients = connect(&holdfast, 20).await;
    let text = |at: usize| json!({"type": "a", "n": at}).to_string();
    pile_up(&holdfast, &app, &mut clients, text).await;
    gate.add_permits(2);
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text().await, text(at), "each has its own answer");
    }
    let calls = app.calls();
    assert_eq!(calls.len(), 2, "a lone message goes at once, the others together");
    let batch = calls[1].json();
    let list = batch.as_array().expect("a list");
    assert_eq!(list.len(), 19);
    let ids: BTreeSet<_> = list.iter().map(|event| event["id"].as_str().expect("an ID")).collect();
    assert_eq!(ids.len(), 19);
    for event in list {
        assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("holdfast.message")));
        assert_eq!((&event["event"], &event["source"], &event["seq"]), (&json!("a"), &json!("/ws"), &json!(1)));
        assert_eq!(event["id"], format!("{}.1", event["connectionid"].as_str().expect("an ID")));
        assert!(event["traceparent"].as_str().is_some_and(|trace| trace.starts_with("00-")), "{event}");
    }
    assert_eq!(calls[1].header("ce-id"), "");
    assert_eq!(calls[1].header("idempotency-key"), format!("{}.19", list[0]["id"].as_str().expect("an ID")));
    let sizes = "holdfast_batch_events_";
    assert_eq!(holdfast.metric(&format!("{sizes}count{{endpoint=\"/ws\",route=\"*\"}}")).await, 2.0);
    assert_eq!(holdfast.metric(&format!("{sizes}sum{{endpoint=\"/ws\",route=\"*\"}}")).await, 20.0);
    assert_eq!(
        holdfast.metric("holdfast_events_total{endpoint=\"/ws\",route=\"*\",outcome=\"delivered\"}").await,
        20.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_alone_after_a_batch_waits_for_the_others_only_a_moment() {
    let (app, gate) = gated(|event| json!({"data": event["data"]})).await;
    let holdfast = Holdfast::start(&app, &routes("max: 100, wait: 10s")).await;
    let mut clients = connect(&holdfast, 20).await;
    pile_up(&holdfast, &app, &mut clients, |at| json!({"type": "a", "n": at}).to_string()).await;
    gate.add_permits(3);
    for client in &mut clients {
        client.text().await;
    }
    assert_eq!(app.calls().len(), 2, "19 had their answers together");
    let begun = Instant::now();
    clients[7].send(r#"{"type":"a","n":20}"#).await;
    assert_eq!(clients[7].json().await["n"], 20);
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_holds_no_more_events_or_bytes_than_it_may() {
    let (app, gate) = gated(|event| json!({"data": event["data"]})).await;
    let holdfast = Holdfast::start(&app, &routes("max: 8, wait: 10s, size: 4KiB")).await;
    let mut clients = connect(&holdfast, 30).await;
    // A full batch leaves although a request is under way.
    let small = |at: usize| json!({"type": "a", "n": at}).to_string();
    pile_up(&holdfast, &app, &mut clients, small).await;
    asked(&app, 4).await;
    gate.add_permits(100);
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text().await, small(at));
    }
    let lengths = |calls: &[Call]| -> Vec<usize> {
        calls.iter().map(|call| call.json().as_array().map_or(0, Vec::len)).collect()
    };
    let calls = app.calls();
    assert!(lengths(&calls).iter().all(|len| *len <= 8), "{:?}", lengths(&calls));
    assert!(lengths(&calls).iter().filter(|len| **len == 8).count() >= 3, "{:?}", lengths(&calls));

    let big = |at: usize| json!({"type": "a", "n": at, "pad": "x".repeat(1500 + 200 * at)}).to_string();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&big(at)).await;
    }
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text().await, big(at));
    }
    for call in &app.calls()[calls.len()..] {
        let len = call.json().as_array().map_or(0, Vec::len);
        assert!(call.body.len() <= 4096 || len == 1, "{} bytes of {len} events", call.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_no_longer_than_they_may_and_requests_run_side_by_side() {
    let (app, gate) = gated(|_| Value::Null).await;
    let holdfast = Holdfast::start(&app, &routes("max: 100, wait: 20ms")).await;
    let mut clients = connect(&holdfast, 5).await;
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(r#"{"type":"a"}"#).await;
        // Nothing is answered yet, so that each waits out its time.
        asked(&app, at + 1).await;
    }
    gate.add_permits(5);
    let delivered = "holdfast_events_total{endpoint=\"/ws\",route=\"*\",outcome=\"delivered\"}";
    eventually("all are answered", || async { (holdfast.metric(delivered).await == 5.0).then_some(()) }).await;
    assert_eq!(app.connections(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_its_own_outcome() {
    let (app, gate) = gated(|event| match event["data"]["n"].as_u64() {
        Some(1) => json!({"status": 200, "text": "to you"}),
        Some(2) => json!({"binary": "aGk="}),
        Some(3) => Value::Null,
        Some(4) => json!({"status": 403}),
        Some(5) => json!({"commands": [{"join": {"group": "g"}}, {"send": {"data": {"said": 1}}}], "context": "c"}),
        Some(6) => json!({"data": "last", "close": {"code": 4400, "reason": "bye"}}),
        Some(7) => json!({"data": 1, "text": "two"}),
        _ => json!({"data": {"context": event["context"]}}),
    })
    .await;
    let holdfast =
        Holdfast::start(&app, "routes: [{event: \"*\", upstream: app, ack: true, batch: {max: 100, wait: 10s}}]").await;
    let mut clients = connect(&holdfast, 8).await;
    pile_up(&holdfast, &app, &mut clients, |n| json!({"type": "a", "n": n}).to_string()).await;
    gate.add_permits(100);
    assert_eq!(clients[0].json().await, json!({"context": null}));
    assert_eq!(clients[1].text().await, "to you");
    assert_eq!(clients[2].next().await.into_data().as_ref(), b"hi");
    assert_eq!(clients[3].json().await, json!({"type": "ack", "seq": 1}));
    let (code, frame) = clients[4].error().await;
    assert_eq!((code.as_str(), &frame["status"]), ("upstream_rejected", &json!(403)));
    assert_eq!(clients[5].json().await, json!({"type": "ack", "seq": 1}));
    assert_eq!(clients[5].json().await, json!({"said": 1}));
    assert_eq!(clients[6].text().await, "\"last\"", "the reply leaves before the close");
    assert_eq!(clients[6].closed().await, (4400, "bye".to_owned()));
    assert_eq!(clients[7].error().await.0, "internal", "for that one alone");
    let (_, members) = holdfast.call(Method::GET, "/v1/groups/g/members", "").await;
    assert_eq!(members["members"].as_array().map(Vec::len), Some(1), "{members}");
    clients[5].send(r#"{"type":"a","n":99}"#).await;
    assert_eq!(clients[5].json().await, json!({"context": "c"}));
    assert_eq!(app.calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_must_be_is_tried_again() {
    // Each third event is refused twice, by 503, 429 and 408.
    let tries: Arc<parking_lot::Mutex<HashMap<String, usize>>> = Arc::default();
    let seen = tries.clone();
    let (app, gate) = gated(move |event| {
        let n = event["data"]["n"].as_u64().expect("a number");
        let mut seen = seen.lock();
        let tries = seen.entry(event["id"].as_str().expect("an ID").to_owned()).or_default();
        *tries += 1;
        match (n % 3, *tries) {
            (2, 1) => json!({"status": if n % 2 == 0 { 503 } else { 429 }}),
            (2, 2) => json!({"status": 408}),
            _ => json!({"data": n}),
        }
    })
    .await;
    let retry = "retry: {backoff_min: 5ms, backoff_max: 20ms}";
    let yaml = yaml(&app.url(), retry, &routes("max: 100, wait: 10s"));
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await;
    let mut clients = connect(&holdfast, 13).await;
    pile_up(&holdfast, &app, &mut clients, |n| json!({"type": "a", "n": n}).to_string()).await;
    gate.add_permits(100);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.json().await, json!(n));
    }
    let tries = tries.lock();
    assert_eq!(tries.len(), 13);
    assert_eq!(tries.values().sum::<usize>(), 13 + 2 * 4, "{tries:?}");
    let calls = app.calls();
    let lengths: Vec<_> = calls.iter().map(|call| call.json().as_array().map_or(0, Vec::len)).collect();
    assert_eq!(lengths, [1, 12, 4, 4]);
    assert_ne!(calls[1].header("idempotency-key"), calls[2].header("idempotency-key"), "another set");
    assert_eq!(calls[2].header("idempotency-key"), calls[3].header("idempotency-key"), "the same set again");
    assert_eq!(calls[2].body, calls[3].body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_request_is_tried_again_with_its_key_and_signed_anew() {
    let failures = Arc::new(AtomicUsize::new(0));
    let count = failures.clone();
    let app = Upstream::start(move |call| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(503),
        1 => Reply::status(429).header("retry-after", "0"),
        _ => each(call, |event| json!({"data": event["data"]})),
    })
    .await;
    let settings =
        "retry: {backoff_min: 5ms, backoff_max: 20ms}, signing_secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), settings, &routes("max: 3, wait: 10s")), &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.text().await, r#"{"type":"a"}"#);
    let calls = app.calls();
    assert_eq!(calls.len(), 3);
    let keys: BTreeSet<_> = calls.iter().map(|call| call.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 1);
    for call in &calls {
        assert_eq!(call.header("webhook-id"), call.header("idempotency-key"));
        assert!(call.header("webhook-signature").starts_with("v1,"), "{:?}", call.headers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_leaves_its_batch_at_its_own_deadline() {
    let (app, gate) = gated(|event| json!({"data": event["data"]["n"]})).await;
    let holdfast = Holdfast::start(
        &app,
        "routes: [{event: \"*\", upstream: app, in_flight: 4, deadline: 2s, batch: {max: 2, wait: 10s}}]",
    )
    .await;
    let (mut early, mut late) = (holdfast.connect().await, holdfast.connect().await);
    early.send(r#"{"type":"a","n":1}"#).await;
    asked(&app, 1).await;
    early.send(r#"{"type":"a","n":2}"#).await;
    // This one comes a second later into the same batch.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    late.send(r#"{"type":"a","n":3}"#).await;
    asked(&app, 2).await;
    for _ in 0..2 {
        let (code, frame) = early.error().await;
        assert!(code == "upstream_timeout" && frame["seq"].as_u64().is_some_and(|seq| seq <= 2), "{frame}");
    }
    assert!(began.elapsed() < Duration::from_millis(1900), "not with the later one");
    gate.add_permits(2);
    assert_eq!(late.text().await, "3", "the answer counts for whoever still waits");
    // The early one's place is free for others.
    gate.add_permits(1);
    early.send(r#"{"type":"a","n":4}"#).await;
    assert_eq!(early.text().await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_outage_leaves_behind_goes_in_full_batches_when_it_ends() {
    let mut app = Upstream::start(|call| each(call, |event| json!({"data": event["data"]}))).await;
    let settings = "retry: {backoff_min: 5ms, backoff_max: 20ms}, breaker: {failures: 1, open: 50ms}";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), settings, &routes("max: 10, wait: 1ms")), &[]).await;
    app.kill().await;
    let mut clients = connect(&holdfast, 40).await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&json!({"type": "a", "n": n}).to_string()).await;
    }
    eventually("every message is read", || async {
        (holdfast.metric("holdfast_messages_received_total").await == 40.0).then_some(())
    })
    .await;
    app.restart().await;
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.json().await["n"], n);
    }
    let calls = app.calls();
    let sent: usize = calls.iter().map(|call| call.json().as_array().map_or(0, Vec::len)).sum();
    assert_eq!(sent, 40, "each once");
    assert!(calls.len() <= 8, "{} requests", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_fails_each_message_at_its_deadline() {
    let mut app = Upstream::echo().await;
    let settings = "deadline: 300ms, retry: {backoff_min: 5ms, backoff_max: 20ms}, breaker: {failures: 1, open: 50ms}";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), settings, &routes("max: 2, wait: 1ms")), &[]).await;
    app.kill().await;
    let mut clients = connect(&holdfast, 5).await;
    let began = Instant::now();
    for client in &mut clients {
        client.send(r#"{"type":"a"}"#).await;
    }
    for client in &mut clients {
        assert_eq!(client.error().await.0, "upstream_unavailable");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_is_internal_for_all_and_an_empty_one_is_nothing() {
    let app = Upstream::start(|call| match call.json()[0]["data"]["n"].as_u64() {
        Some(0) => answers(&json!([])),
        Some(1) => answers(&json!({"data": 1})),
        Some(2) => Reply::json("[null]"),
        Some(3) => Reply::status(404),
        Some(4) => Reply::empty(),
        _ => Reply::status(200),
    })
    .await;
    let ack = "routes: [{event: \"*\", upstream: app, ack: true, batch: {max: 2}}]";
    let holdfast = Holdfast::start(&app, ack).await;
    let mut client = holdfast.connect().await;
    for n in 0..6 {
        client.send(&json!({"type": "a", "n": n}).to_string()).await;
        match n {
            0..3 => assert_eq!(client.error().await.0, "internal"),
            3 => assert_eq!(client.error().await.0, "upstream_rejected"),
            _ => assert_eq!(client.json().await["type"], "ack"),
        }
    }
    assert_eq!(app.calls().len(), 6, "none was tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_waiting_messages_are_overloaded() {
    let (app, gate) = gated(|_| json!({"data": 1})).await;
    let settings = "concurrency: 1, waiting: 3";
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), settings, &routes("max: 2, wait: 1ms")), &[]).await;
    let mut clients = connect(&holdfast, 10).await;
    pile_up(&holdfast, &app, &mut clients, |_| r#"{"type":"a"}"#.to_owned()).await;
    // One is with the handler; `max` and `waiting` more are kept; the others are not.
    eventually("four are refused", || async {
        (holdfast.metric("holdfast_events_total{endpoint=\"/ws\",route=\"*\",outcome=\"overloaded\"}").await == 4.0)
            .then_some(())
    })
    .await;
    gate.add_permits(100);
    let mut outcomes = BTreeMap::new();
    for client in &mut clients {
        *outcomes.entry(client.text().await.contains("overloaded")).or_insert(0) += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([(false, 6), (true, 4)]));
}

/// Connections send without waiting for answers, batches go on and off: every message is answered once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn order_holds_on_each_connection_while_batches_go_on_and_off() {
    const CLIENTS: usize = 30;
    let newest: Arc<parking_lot::Mutex<HashMap<String, u64>>> = Arc::default();
    let app = {
        let newest = newest.clone();
        Upstream::start(move |call| {
            let in_order = |connection: &str, n: u64| {
                let before = newest.lock().insert(connection.to_owned(), n);
                assert!(before.is_none_or(|before| n == before + 1), "{n} after {before:?}");
            };
            if call.header("content-type") != BATCH {
                in_order(call.header("ce-connectionid"), call.json()["n"].as_u64().expect("a number"));
                return Reply::json(call.body.clone());
            }
            each(call, |event| {
                in_order(
                    event["connectionid"].as_str().expect("an ID"),
                    event["data"]["n"].as_u64().expect("a number"),
                );
                json!({"data": event["data"]})
            })
        })
        .await
    };
    let text = |generation: usize| {
        let route = match generation % 3 {
            0 => "routes: [{event: \"*\", upstream: app}]".to_owned(),
            n => routes(&format!("max: {}, wait: 1ms", 10 * n)),
        };
        yaml(&app.url(), "", &format!("idle_timeout: {}h\n{route}", generation + 1))
    };
    let holdfast = Holdfast::start_yaml(&text(0), &[]).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for mut client in connect(&holdfast, CLIENTS).await {
        let done = done.clone();
        clients.push(tokio::spawn(async move {
            let (mut sent, mut answered) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                while sent < answered + 5 {
                    client.send(&json!({"type": "a", "n": sent}).to_string()).await;
                    sent += 1;
                }
                assert_eq!(client.json().await["n"], answered);
                answered += 1;
            }
            for n in answered..sent {
                assert_eq!(client.json().await["n"], n);
            }
            client.close().await;
            sent
        }));
    }
    for generation in 1..=30 {
        std::fs::write(holdfast.config_path(), text(generation)).expect("written");
        let (status, body) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
        assert_eq!(status, 200, "{body}");
    }
    done.store(true, Ordering::SeqCst);
    let mut messages = 0;
    for client in clients {
        messages += client.await.expect("no socket closed, no message lost, none out of order");
    }
    assert_eq!(holdfast.metric("holdfast_messages_received_total").await, f64::from(messages));
    assert_eq!(newest.lock().len(), CLIENTS);
    assert!(holdfast.metric("holdfast_batch_events_sum{endpoint=\"/ws\",route=\"*\"}").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_batches() {
    let (app, gate) = gated(|event| json!({"data": event["data"]["n"]})).await;
    let holdfast = Holdfast::start(&app, &routes("max: 100, wait: 10s")).await;
    let mut clients = connect(&holdfast, 10).await;
    pile_up(&holdfast, &app, &mut clients, |n| json!({"type": "a", "n": n}).to_string()).await;
    holdfast.running.as_ref().expect("running").drain();
    eventually("it is not ready", || async {
        (holdfast.call(Method::GET, "/readyz", "").await.0 == 503).then_some(())
    })
    .await;
    gate.add_permits(2);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.json().await, json!(n));
        assert_eq!(client.closed().await.0, 1012);
    }
    drop(clients);
    assert_eq!(holdfast.drain().await, 0);
}
