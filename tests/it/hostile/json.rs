//! Messages that are hard to read, read differently by two readers, or cost more than their size.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::Client;

use super::{MIB, ROUTES, Scene};

const LARGE: &str = "limits: {message_size: 4MiB, receive_buffer: 4MiB, send_buffer: 16MiB}";
/// One route with a schema, for all events that begin with `checked`.
const CHECKED: &str =
    "routes: [{event: \"checked*\", schema: schema.json, upstream: app}, {event: \"*\", upstream: app}]";

async fn scene(schema: &str) -> Scene {
    Scene::start_with("", "answer_size: 8MiB", &format!("{LARGE}\n{CHECKED}"), &[("schema.json", schema)]).await
}

async fn refused(client: &mut Client, message: &str) -> String {
    client.send(message).await;
    client.error().await.0
}

async fn echoed(client: &mut Client, message: &str) -> Duration {
    let sent = Instant::now();
    client.send(message).await;
    assert_eq!(client.text_len().await, message.len(), "{}", &message[..message.len().min(200)]);
    sent.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn nesting_of_a_hundred_thousand_levels_is_no_stack() {
    let scene = scene("{}").await;
    let mut client = scene.process.client().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for message in [
            format!(r#"{{"type":"checked","x":{deep}}}"#),
            format!(r#"{{"type":"a","x":{deep}}}"#),
            // The name itself at the bottom, or nothing but beginnings.
            deep.clone(),
            open.repeat(100_000),
        ] {
            assert_eq!(refused(&mut client, &message).await, "invalid_json");
        }
    }
    echoed(&mut client, r#"{"type":"checked"}"#).await;
    assert_eq!(scene.app.calls_of("message").iter().filter(|call| call.body.len() > 1000).count(), 0);
    scene.counted("holdfast_events_total{endpoint=\"/ws\",route=\"$none\",outcome=\"invalid_json\"}", 8).await;
    scene.held(24 * MIB).await;
}

/// Maps are trees and lists are sorted: there is no hash to collide.
#[tokio::test(flavor = "multi_thread")]
async fn keys_and_items_made_to_collide_cost_no_square() {
    let scene = scene(
        r#"{"properties": {"list": {"uniqueItems": true}, "map": {"additionalProperties": {"type": "integer"}}}}"#,
    )
    .await;
    let mut client = scene.process.client().await;
    // The worst order for a tree, and keys that differ only at their end.
    let map = |count: usize| {
        let keys: Vec<_> = (0..count).rev().map(|n| format!("\"{:>024}\":1", n)).collect();
        format!(r#"{{"type":"checked","map":{{{}}}}}"#, keys.join(","))
    };
    // Lists of nothing but brackets: all of them have the same leaves, none.
    let list = |count: usize| format!(r#"{{"type":"checked","list":[{}]}}"#, brackets(count).join(","));
    for (what, small, large) in [("map", map(8_000), map(64_000)), ("list", list(4_000), list(32_000))] {
        let mut spent = [Duration::ZERO; 2];
        // The small one as many times as its bytes are those of the large one.
        for (spent, (message, times)) in spent.iter_mut().zip([(&small, 24), (&large, 3)]) {
            let before = scene.process.cpu_time();
            for _ in 0..times {
                echoed(&mut client, message).await;
            }
            *spent = scene.process.cpu_time() - before;
        }
        // A logarithm more; by a square it would be 8 times as much.
        assert!(spent[1] < 4 * spent[0] + Duration::from_millis(50), "{what}: {spent:?}");
    }
    scene.held(64 * MIB).await;
}

/// Distinct lists of lists of nothing, the small ones first.
fn brackets(count: usize) -> Vec<String> {
    let mut forests = vec![vec![String::new()]];
    let mut all = vec!["[]".to_owned()];
    while all.len() < count {
        let size = forests.len();
        let mut next = Vec::new();
        for first in 0..size {
            for inside in &forests[first] {
                for rest in &forests[size - 1 - first] {
                    let comma = if rest.is_empty() { "" } else { "," };
                    next.push(format!("[{inside}]{comma}{rest}"));
                }
            }
        }
        all.extend(next.iter().map(|forest| format!("[{forest}]")));
        forests.push(next);
    }
    all.truncate(count);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_that_would_backtrack_takes_linear_time() {
    let scene = scene(r#"{"properties": {"text": {"pattern": "^(([a-z])+.)+[A-Z]([a-z])+$|^(a+)+$"}}}"#).await;
    let mut client = scene.process.client().await;
    let evil = format!(r#"{{"type":"checked","text":"{}!"}}"#, "a".repeat(100_000));
    let sent = Instant::now();
    assert_eq!(refused(&mut client, &evil).await, "schema_violation");
    assert!(sent.elapsed() < Duration::from_secs(4), "{:?}", sent.elapsed());
    scene.counted("holdfast_schema_violations_total{endpoint=\"/ws\"", 1).await;
    scene.held(24 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_without_number_are_answered_in_few_words() {
    let schema = r#"{"properties": {"list": {"items": {"type": "string"}}}, "additionalProperties": {"items": {"type": "string"}}}"#;
    let scene = scene(schema).await;
    let mut client = scene.process.client().await;
    let many = format!(r#"{{"type":"checked","list":[{}]}}"#, vec!["1"; 500_000].join(","));
    let long = format!(r#"{{"type":"checked","{}":[{}]}}"#, "k".repeat(100_000), vec!["1"; 20].join(","));
    let event = format!(r#"{{"type":"{}"}}"#, "e".repeat(100_000));
    for (message, code) in [(many, "schema_violation"), (long, "schema_violation"), (event, "missing_event")] {
        client.send(&message).await;
        let (found, frame) = client.error().await;
        assert_eq!(found, code);
        assert!(frame.to_string().len() < 6000, "{} bytes", frame.to_string().len());
    }
    scene.held(64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_surrogates_are_refused_wherever_text_is_read() {
    let scene = scene("{}").await;
    let mut client = scene.process.client().await;
    for name in [r"\ud800", r"a\udc00", r"\ud800\ud800", r"\ud83dx", r"\uD800A"] {
        assert_eq!(refused(&mut client, &format!(r#"{{"type":"{name}"}}"#)).await, "invalid_json", "{name}");
        let checked = format!(r#"{{"type":"checked","x":"{name}"}}"#);
        assert_eq!(refused(&mut client, &checked).await, "invalid_json", "{name}");
        assert_eq!(refused(&mut client, &format!(r#"{{"{name}":1,"type":"a"}}"#)).await, "invalid_json", "{name}");
        // A value that nobody here reads goes on as it came.
        echoed(&mut client, &format!(r#"{{"type":"a","x":"{name}"}}"#)).await;
    }
    echoed(&mut client, r#"{"type":"\ud83d\ude00"}"#).await;
    assert!(scene.app.calls_of("message").iter().any(|call| call.header("ce-event") == "%F0%9F%98%80"));
    scene.counted("holdfast_events_total{endpoint=\"/ws\",route=\"$none\",outcome=\"invalid_json\"}", 10).await;
    scene.held(6 * MIB).await;
}

/// Whoever takes the last of two names is not led past the schema of the first, nor the other way.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_smuggles_nothing() {
    let scene = scene(r#"{"properties": {"amount": {"maximum": 10}}}"#).await;
    let mut client = scene.process.client().await;
    let seen =
        |scene: &Scene| scene.app.calls_of("message").iter().filter(|call| !call.text().contains("other")).count();
    for message in [
        r#"{"type":"a","type":"checked"}"#,
        r#"{"type":"checked","type":"a","amount":11}"#,
        r#"{"type":"a","\u0074ype":"checked"}"#,
        r#"{"type":"a","x":1,"type":{"no":"text"}}"#,
        // The check would see one, the application the other.
        r#"{"type":"checked","amount":1,"amount":11}"#,
        r#"{"type":"checked","deep":[{"x":1,"y":2,"x":3}]}"#,
    ] {
        client.send(message).await;
        let (code, frame) = client.error().await;
        assert_eq!(code, "invalid_json", "{message}");
        assert!(frame["message"].as_str().expect("text").contains("a key is repeated"), "{frame}");
    }
    assert_eq!(seen(&scene), 0);
    echoed(&mut client, r#"{"type":"a","x":{"type":"b"},"y":1,"y":2}"#).await;
    assert_eq!(seen(&scene), 1, "what is not read is not Holdfast's to judge");
    scene.counted("holdfast_events_total{endpoint=\"/ws\",route=\"checked*\",outcome=\"invalid_json\"}", 2).await;
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_reach_a_console_are_refused() {
    let scene = Scene::start(ROUTES).await;
    let mut client = scene.process.client().await;
    for name in ["a\r\nINFO all is well", "\u{1b}[2J", "\0", "a\u{85}b"] {
        let message = json!({"type": name}).to_string();
        assert_eq!(refused(&mut client, &message).await, "missing_event", "{name:?}");
    }
    assert!(scene.app.calls_of("message").iter().all(|call| call.header("ce-event") == "other"));
    scene.counted("holdfast_events_total{endpoint=\"/ws\",route=\"$none\",outcome=\"missing_event\"}", 4).await;
    scene.held(6 * MIB).await;
}
