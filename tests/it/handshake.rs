//! Handshakes: who may connect, what the upstream is asked, and how a no is said.

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Client, Holdfast, Reply, Upstream, eventually, request, yaml};

const ROUTES: &str = "routes: [{event: \"*\", upstream: app}]";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_is_told_so() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let ask = |method: Method, path: &'static str, headers: &'static [(&'static str, &'static str)]| {
        request(holdfast.listen, method, path, headers, "".into())
    };
    assert_eq!(ask(Method::GET, "/nowhere", &[]).await.0, 404);
    let (status, headers, body) = ask(Method::GET, "/ws", &[]).await;
    assert_eq!(status, 426);
    assert_eq!(headers["upgrade"], "websocket");
    assert_eq!(headers["sec-websocket-version"], "13");
    assert!(String::from_utf8_lossy(&body).contains("ws://"), "it says what to do");
    assert_eq!(ask(Method::POST, "/ws", &[]).await.0, 405);
    let upgrade = &[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "12"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(ask(Method::GET, "/ws", upgrade).await.0, 426);
    let short_key = &[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "c2hvcnQ="),
    ];
    assert_eq!(ask(Method::GET, "/ws", short_key).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_not_listed_is_refused() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("origins: [\"https://app.example.com\"]\n{ROUTES}")).await;
    let refused = Client::connect(&holdfast.url(), &[("origin", "https://evil.example.com")]).await.err();
    assert_eq!(refused.expect("refused").status, 403);
    assert!(Client::connect(&holdfast.url(), &[("origin", "https://app.example.com")]).await.is_ok());
    assert!(Client::connect(&holdfast.url(), &[]).await.is_ok(), "a client that is no browser sends no origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_refuses_one_more_and_frees_its_place() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("limits: {{connections: 1}}\n{ROUTES}")).await;
    let first = holdfast.connect().await;
    let refused = Client::connect(&holdfast.url(), &[]).await.err().expect("refused");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["retry-after"], "1");
    first.close().await;
    let url = holdfast.url();
    eventually("the place is free", || async { Client::connect(&url, &[]).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subprotocols_are_negotiated() {
    let app = Upstream::start(|call| match call.kind() {
        "connect" if call.json()["query"]["pick"] == "b" => Reply::empty().header("sec-websocket-protocol", "b"),
        _ => Reply::empty(),
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("subprotocols: [a, b]\nconnect: app\n{ROUTES}")).await;
    let offer = [("sec-websocket-protocol", "x, b, a")];
    let client = Client::connect(&holdfast.url(), &offer).await.expect("a connection");
    assert_eq!(client.headers["sec-websocket-protocol"], "a", "the server's order counts");
    let url = format!("{}?pick=b", holdfast.url());
    let client = Client::connect(&url, &offer).await.expect("a connection");
    assert_eq!(client.headers["sec-websocket-protocol"], "b", "the application may choose");
    let client = Client::connect(&holdfast.url(), &[]).await.expect("a connection");
    assert!(client.headers.get("sec-websocket-protocol").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connect_event_tells_of_the_handshake_and_its_answer_is_obeyed() {
    let app = Upstream::start(|call| match call.kind() {
        "connect" => Reply::json(r#"{"hello":"you"}"#)
            .header("holdfast-user", "ann")
            .header("holdfast-context", "ctx-1")
            .header("holdfast-join", "room:1"),
        "message" => Reply::json(format!("[\"{}\",\"{}\"]", call.header("ce-userid"), call.header("ce-context"))),
        _ => Reply::empty(),
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("subprotocols: [p1]\nconnect: app\ndisconnect: app\n{ROUTES}")).await;
    let url = format!("{}?room=a%20b&x=1", holdfast.url());
    let mut client =
        Client::connect(&url, &[("x-custom", "yes"), ("sec-websocket-protocol", "p1")]).await.expect("open");
    assert_eq!(client.json().await, json!({"hello": "you"}), "the answer's body is the first frame");
    client.send(r#"{"type":"who"}"#).await;
    assert_eq!(client.json().await, json!(["ann", "ctx-1"]));

    let connect = app.calls_of("connect").remove(0);
    let facts = connect.json();
    assert_eq!(facts["query"], json!({"room": "a b", "x": "1"}));
    assert_eq!(facts["headers"]["x-custom"], "yes");
    assert_eq!(facts["subprotocols"], json!(["p1"]));
    assert!(facts["remote_addr"].as_str().expect("an address").starts_with("127.0.0.1:"));
    let id = connect.header("ce-connectionid").to_owned();
    assert_eq!(connect.header("ce-id"), format!("{id}.0"));
    assert_eq!(connect.header("ce-source"), "/ws");

    let (status, members) = holdfast.call(Method::GET, "/v1/groups/room:1/members", "").await;
    assert_eq!((status.as_u16(), members), (200, json!({"members": [id]})));

    client.close().await;
    let gone = app.wait_for("disconnect", 1).await.remove(0);
    assert_eq!((gone.header("ce-userid"), gone.header("ce-context")), ("ann", "ctx-1"));
    assert_eq!(gone.header("ce-id"), format!("{id}.2"), "one more than the last message");
    assert_eq!(gone.json()["cause"], "client");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_s_no_is_the_handshake_s_answer() {
    let app = Upstream::start(|call| match call.kind() {
        "connect" => Reply::status(401).header("content-type", "application/json").body(r#"{"why":"token"}"#),
        _ => Reply::empty(),
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\ndisconnect: app\n{ROUTES}")).await;
    let refused = Client::connect(&holdfast.url(), &[]).await.err().expect("refused");
    assert_eq!((refused.status.as_u16(), refused.body.as_str()), (401, r#"{"why":"token"}"#));
    assert_eq!(refused.headers["content-type"], "application/json");
    assert_eq!(holdfast.drain().await, 0);
    assert!(app.calls_of("disconnect").is_empty(), "what was not accepted does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_nobody_answers_is_503_within_the_handshake_s_time() {
    let app = Upstream::start(|_| Reply::status(500)).await;
    let text = yaml(&app.url(), "", &format!("connect: app\n{ROUTES}"));
    let holdfast = Holdfast::start_yaml(&format!("handshake: {{timeout: 1s}}\n{text}"), &[]).await;
    let refused = Client::connect(&holdfast.url(), &[]).await.err().expect("refused");
    assert_eq!(refused.status, 503);
    assert!(app.calls_of("connect").len() > 1, "it was tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_its_connect_still_ends_once() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let wait = gate.clone();
    let app = Upstream::start_async(move |call| {
        let wait = wait.clone();
        async move {
            if call.kind() == "connect" {
                wait.acquire().await.expect("open").forget();
            }
            Reply::empty()
        }
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\ndisconnect: app\n{ROUTES}")).await;
    let url = holdfast.url();
    let attempt = tokio::spawn(async move { Client::connect(&url, &[]).await.map(|_| ()) });
    app.wait_for("connect", 1).await;
    attempt.abort();
    let _ = attempt.await;
    gate.add_permits(1);
    let ended = app.wait_for("disconnect", 1).await;
    assert_eq!(ended[0].json()["cause"], "client");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_or_too_slow_is_refused() {
    let app = Upstream::echo().await;
    let text = yaml(&app.url(), "", ROUTES);
    let text = format!("handshake: {{timeout: 200ms, header_size: 8KiB}}\n{text}");
    let holdfast = Holdfast::start_yaml(&text, &[]).await;
    let big = "x".repeat(9000);
    let (status, _, _) = request(holdfast.listen, Method::GET, "/ws", &[("x-big", &big)], "".into()).await;
    assert_eq!(status, 431);
    let mut slow = tokio::net::TcpStream::connect(holdfast.listen).await.expect("connected");
    slow.write_all(b"GET /ws HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("sent");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(crate::harness::PATIENCE, slow.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection is given up");
    assert!(!String::from_utf8_lossy(&answer).contains("101"));
}
