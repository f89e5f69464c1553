//! Live reload: whole or not at all, and no socket notices.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use serde_json::json;

use crate::harness::{Client, Holdfast, Reply, Upstream, eventually, yaml};

/// A handler that answers every message with its own name.
async fn named(name: &'static str) -> Upstream {
    Upstream::start(move |_| Reply::json(format!("\"{name}\""))).await
}

fn routes(event: &str) -> String {
    format!("routes: [{{event: \"{event}\", upstream: app}}]")
}

async fn reload(holdfast: &Holdfast, text: &str) -> (u16, serde_json::Value) {
    std::fs::write(holdfast.config_path(), text).expect("written");
    let (status, body) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    (status.as_u16(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_message_of_an_open_socket_goes_by_the_new_routes() {
    let (one, two) = (named("one").await, named("two").await);
    let holdfast = Holdfast::start(&one, &routes("*")).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.text().await, "\"one\"");
    let (status, body) = reload(&holdfast, &yaml(&two.url(), "", &routes("b"))).await;
    assert_eq!((status, body), (200, json!({"generation": 2, "changed": true})));
    client.send(r#"{"type":"b"}"#).await;
    assert_eq!(client.text().await, "\"two\"");
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.error().await.0, "unknown_event");
    let (_, status) = holdfast.call(Method::GET, "/v1/config", "").await;
    assert_eq!((&status["generation"], &status["last_error"]), (&json!(2), &json!(null)));
    let changes = status["last_diff"].as_array().expect("a list");
    let paths: Vec<_> = changes.iter().filter_map(|change| change["path"].as_str()).collect();
    assert_eq!(paths, ["endpoints[/ws].routes[*]", "endpoints[/ws].routes[b]", "upstreams.app.http.url"], "{status}");
    assert_eq!(changes[1], json!({"path": paths[1], "change": "added", "to": {"event": "b", "upstream": "app"}}));
    let (_, again) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    assert_eq!(again, json!({"generation": 2, "changed": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_the_old_configuration_and_says_why() {
    let app = named("app").await;
    let holdfast = Holdfast::start(&app, &routes("*")).await;
    let broken = yaml(&app.url(), "", "routs: []");
    let (status, body) = reload(&holdfast, &broken).await;
    assert_eq!(status, 422, "{body}");
    let problems = body["problems"].to_string();
    assert!(
        problems.contains("holdfast.yaml:8:5: endpoints[0].routs: unknown key; did you mean `routes`?"),
        "{problems}"
    );
    let (_, status) = holdfast.call(Method::GET, "/v1/config", "").await;
    assert_eq!(status["generation"], 1);
    assert_eq!(status["last_error"]["problems"], body["problems"]);
    assert!(holdfast.metric("holdfast_config_reloads_total{outcome=\"refused\"}").await >= 1.0);
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.text().await, "\"app\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_only_change_is_refused_by_name() {
    let app = named("app").await;
    let holdfast = Holdfast::start(&app, &routes("*")).await;
    let changed = holdfast.yaml().replace("listen: 127.0.0.1:0\n", "listen: 127.0.0.1:1\nhandshake: {timeout: 9s}\n");
    let (status, body) = reload(&holdfast, &changed).await;
    assert_eq!(status, 422);
    let problems = body["problems"].to_string();
    assert!(
        problems.contains("listen: changes only by a restart") && problems.contains("handshake.timeout:"),
        "{problems}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn new_limits_reach_open_sockets() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &routes("*")).await;
    let mut client = holdfast.connect().await;
    let big = format!("{{\"type\":\"a\",\"pad\":\"{}\"}}", "x".repeat(2000));
    client.send(&big).await;
    assert_eq!(client.text().await, big);
    let smaller = format!("limits: {{message_size: 1KiB}}\n{}", routes("*"));
    assert_eq!(reload(&holdfast, &yaml(&app.url(), "", &smaller)).await.0, 200);
    client.send(r#"{"type":"a"}"#).await;
    client.text().await;
    client.send(&big).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_upstreams_keep_their_connections() {
    let app = named("app").await;
    let holdfast = Holdfast::start(&app, &routes("*")).await;
    let mut client = holdfast.connect().await;
    for generation in 1..5 {
        client.send(r#"{"type":"a"}"#).await;
        client.text().await;
        let changed = yaml(&app.url(), "", &format!("idle_timeout: {generation}h\n{}", routes("*")));
        assert_eq!(reload(&holdfast, &changed).await.0, 200);
    }
    assert_eq!(app.connections(), 1);
}

/// Kubernetes mounts a ConfigMap as symlinks to a folder that it swaps.
#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_swap_is_noticed_by_itself() {
    let (one, two) = (named("one").await, named("two").await);
    let dir = tempfile::tempdir().expect("a folder");
    let publish = |version: &str, text: &str| {
        let folder = dir.path().join(version);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("holdfast.yaml"), text).expect("written");
        symlink(Path::new(version), dir.path().join("..data_tmp")).expect("a link");
        std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swapped");
    };
    publish("..1", &yaml(&one.url(), "", &routes("*")));
    symlink("..data/holdfast.yaml", dir.path().join("holdfast.yaml")).expect("a link");
    let holdfast = Holdfast::start_at(&dir.path().join("holdfast.yaml")).await;
    let mut client = holdfast.connect().await;
    for (version, app, name) in [("..2", &two, "two"), ("..3", &one, "one"), ("..4", &two, "two")] {
        publish(version, &yaml(&app.url(), "", &routes("*")));
        let client = tokio::sync::Mutex::new(&mut client);
        eventually(name, || async {
            let mut client = client.lock().await;
            client.send(r#"{"type":"a"}"#).await;
            (client.text().await == format!("\"{name}\"")).then_some(())
        })
        .await;
    }
}

/// Under load, every fifth of the reloads broken: no socket closes, and each message is handled by one whole generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load() {
    const CLIENTS: usize = 50;
    // The handler is told the generation twice, by route and by URL: a mixture would show.
    let app = Upstream::start(|call| Reply::json(format!("\"{}\"", call.path))).await;
    let text = |generation: usize| {
        yaml(&format!("{}/{generation}", app.url()), "", &format!("idle_timeout: {}h\n{}", generation + 1, routes("*")))
    };
    let holdfast = Arc::new(Holdfast::start_yaml(&text(0), &[]).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client: Client = holdfast.connect().await;
        let done = done.clone();
        clients.push(tokio::spawn(async move {
            let mut seen = BTreeSet::new();
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                client.send(r#"{"type":"a"}"#).await;
                let path = client.text().await;
                assert!(path.starts_with("\"/events/"), "{path}");
                seen.insert(path);
                count += 1;
            }
            client.close().await;
            (seen.len(), count)
        }));
    }
    let mut broken = 0;
    for generation in 1..=100 {
        if generation % 5 == 0 {
            let (status, body) = reload(&holdfast, &text(generation).replace("upstream: app", "upstream: ap")).await;
            assert_eq!(status, 422);
            assert!(body["problems"][0].as_str().is_some_and(|p| p.contains("holdfast.yaml:9:37: ")), "{body}");
            broken += 1;
        } else {
            assert_eq!(reload(&holdfast, &text(generation)).await.0, 200, "{generation}");
        }
    }
    assert_eq!(broken, 20);
    done.store(true, Ordering::SeqCst);
    let mut messages = 0;
    for client in clients {
        let (generations, count) = client.await.expect("no socket closed, no message lost");
        assert!(generations > 1, "the client saw only {generations} generation");
        messages += count;
    }
    assert_eq!(holdfast.metric("holdfast_messages_received_total").await, f64::from(messages));
    assert_eq!(holdfast.metric("holdfast_connections_opened_total").await, CLIENTS as f64);
}
