//! Live messages: what those who look are told, what they are not, and that nobody waits for them.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::harness::issuer::Issuer;
use crate::harness::{Client, Holdfast, PATIENCE, Reply, Upstream, eventually, yaml};
use crate::tokens;

const ROUTES: &str = "routes: [{event: \"*\", upstream: app}]";

/// A stream of records that is being read.
struct Stream {
    body: Incoming,
    rest: Vec<u8>,
}

impl Stream {
    /// Looks from now on: the answer's first word says that everything from here is told.
    async fn open(holdfast: &Holdfast, query: &str) -> Self {
        let mut stream = Self::try_open(holdfast.admin, query, &[]).await.expect("a stream");
        assert_eq!(stream.line().await.as_deref(), Some(r#"{"kind":"alive"}"#));
        stream
    }

    async fn try_open(admin: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Result<Self, StatusCode> {
        let socket = TcpSocket::new_v4().expect("a socket");
        // What the kernel takes for a reader that is slow is no more than must be.
        socket.set_recv_buffer_size(16 * 1024).expect("set");
        let stream = socket.connect(admin).await.expect("a connection");
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::builder().uri(format!("/v1/watch?{query}")).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = timeout(PATIENCE, send.send_request(request)).await.expect("in time").expect("an answer");
        match answer.status() {
            StatusCode::OK => Ok(Self { body: answer.into_body(), rest: Vec::new() }),
            status => Err(status),
        }
    }

    /// The next line; none at the end of the stream.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(String::from_utf8(line[..end].to_vec()).expect("UTF-8"));
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("a record in time")?;
            self.rest.extend_from_slice(&frame.expect("a whole stream").into_data().expect("data"));
        }
    }

    /// The next record; on a busy machine there may be silence before it.
    async fn next(&mut self) -> Value {
        loop {
            let record: Value = serde_json::from_str(&self.line().await.expect("a record")).expect("JSON");
            if record["kind"] != "alive" {
                return record;
            }
        }
    }
}

/// A client that is looked at from its beginning. Who opened the stream after it would at times still be told that it has connected:
/// the client knows of that before the session does.
async fn looked_at(holdfast: &Holdfast, connect: impl Future<Output = Client>) -> (Client, Stream) {
    let mut stream = Stream::open(holdfast, "").await;
    let client = connect.await;
    assert_eq!(stream.next().await["kind"], "connected");
    (client, stream)
}

/// Waits until so many look. Who has left is noticed by what is written to it.
async fn watched_by(holdfast: &Holdfast, client: &mut Client, count: usize) {
    let client = tokio::sync::Mutex::new(client);
    eventually("watchers", || async {
        let mut client = client.lock().await;
        client.send(r#"{"type":"noise"}"#).await;
        client.text().await;
        (holdfast.metric("holdfast_watchers ").await == count as f64).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_told_from_its_receipt_to_its_answer() {
    let app = Upstream::start(|call| match call.json()["fail"] {
        Value::Bool(true) if call.header("idempotency-key").ends_with(".3") => Reply::status(418),
        Value::Null => Reply::json(call.body.clone()),
        _ => Reply::empty(),
    })
    .await;
    let routes = "routes: [{event: \"chat.*\", schema: chat.json, upstream: app}]";
    let schema = r#"{"properties": {"text": {"type": "string"}}}"#;
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), "", routes), &[("chat.json", schema)]).await;
    let mut stream = Stream::open(&holdfast, "").await;
    let mut client = holdfast.connect().await;
    let connected = stream.next().await;
    assert_eq!((&connected["kind"], &connected["endpoint"]), (&json!("connected"), &json!("/ws")));
    let id = connected["connection"].as_str().expect("an ID").to_owned();

    let text = r#"{"type":"chat.send","text":"hello"}"#;
    client.send(text).await;
    client.text().await;
    let mut record = stream.next().await;
    let stages = record["stages_us"].take();
    let figures = ["waited", "checked", "upstream", "total"].map(|stage| stages[stage].as_u64().expect("a figure"));
    assert!(figures[2] > 0 && figures[3] >= figures[0] + figures[1] + figures[2], "{stages}");
    assert!(record["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{record}");
    assert_eq!(record["schema"]["hash"].as_str().map(str::len), Some(12));
    for (name, value) in [("time", Value::Null), ("stages_us", Value::Null)] {
        record[name] = value;
    }
    let hash = record["schema"]["hash"].clone();
    assert_eq!(
        record,
        json!({"kind": "message", "direction": "in", "time": null, "connection": id, "endpoint": "/ws", "seq": 1,
            "event": "chat.send", "size": text.len(), "data": text, "cut": false, "route": "chat.*",
            "schema": {"file": "chat.json", "hash": hash}, "upstream": "app", "generation": 1, "attempts": 1,
            "outcome": "answered", "stages_us": null})
    );
    let out = stream.next().await;
    assert_eq!(
        (&out["direction"], &out["cause"], &out["outcome"]),
        (&json!("out"), &json!("answer"), &json!("written"))
    );
    assert!(out["data"] == text && out["stages_us"]["waited"].is_u64(), "{out}");

    for (text, outcome, told) in [
        (r#"{"type":"chat.send","fail":0}"#, "accepted", None),
        (r#"{"type":"chat.send","fail":true}"#, "upstream_rejected", Some("error")),
        (r#"{"type":"chat.send","text":1}"#, "schema_violation", Some("error")),
        (r#"{"type":"other"}"#, "unknown_event", Some("error")),
        ("no json", "invalid_json", Some("error")),
    ] {
        client.send(text).await;
        let record = stream.next().await;
        assert_eq!((&record["outcome"], &record["data"]), (&json!(outcome), &json!(text)), "{record}");
        assert_eq!(record["route"].is_string(), text.contains("chat.send"), "{record}");
        if let Some(cause) = told {
            let record = stream.next().await;
            assert_eq!((&record["direction"], &record["cause"]), (&json!("out"), &json!(cause)), "{record}");
        }
    }

    let (status, _) = holdfast.call(Method::POST, &format!("/v1/connections/{id}/messages"), "pushed").await;
    assert_eq!(status, 200);
    let push = stream.next().await;
    assert_eq!(
        (&push["cause"], &push["outcome"], &push["data"]),
        (&json!("push"), &json!("written"), &json!("pushed"))
    );
    client.close().await;
    let end = stream.next().await;
    assert_eq!(
        (&end["kind"], &end["cause"], &end["connection"]),
        (&json!("disconnected"), &json!("client"), &json!(id))
    );
    assert!(end["code"].is_u64() && end["duration_ms"].is_u64(), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_tells_only_what_fits() {
    let app = Upstream::start(|call| match call.kind() {
        "connect" => Reply::empty().header("holdfast-user", call.json()["query"]["name"].as_str().unwrap_or("?")),
        _ => Reply::json("1"),
    })
    .await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\n{ROUTES}")).await;
    let connect = async |name: &str| {
        let url = format!("{}?name={name}", holdfast.url());
        Client::connect(&url, &[]).await.expect("a connection")
    };
    let (mut ann, mut ben) = (connect("ann").await, connect("ben").await);
    let (_, list) = holdfast.call(Method::GET, "/v1/connections?user=ann", "").await;
    let id = list["connections"][0]["id"].as_str().expect("an ID").to_owned();
    holdfast.call(Method::PUT, &format!("/v1/groups/room/members/{id}"), "").await;

    let queries = ["user=ann", &format!("connection={id}"), "group=room", "endpoint=/ws&user=ann"];
    let mut streams = Vec::new();
    for query in queries {
        streams.push(Stream::open(&holdfast, query).await);
    }
    let mut of_event = Stream::open(&holdfast, "event=chat.*").await;
    let mut of_outcome = Stream::open(&holdfast, "outcome=invalid_json").await;
    let mut of_nobody = Stream::open(&holdfast, "user=nobody").await;
    ben.send(r#"{"type":"chat.a"}"#).await;
    ben.text().await;
    ben.send("no json").await;
    ben.text().await;
    ann.send(r#"{"type":"b"}"#).await;
    ann.text().await;
    for (stream, query) in streams.iter_mut().zip(queries) {
        let (first, second) = (stream.next().await, stream.next().await);
        assert_eq!((&first["user"], &first["event"]), (&json!("ann"), &json!("b")), "{query}: {first}");
        assert_eq!((&second["user"], &second["direction"]), (&json!("ann"), &json!("out")), "{query}: {second}");
    }
    ben.send(r#"{"type":"chat.c"}"#).await;
    ben.text().await;
    ben.send("none either").await;
    ben.text().await;
    for event in ["chat.a", "chat.c"] {
        let record = of_event.next().await;
        assert_eq!((&record["event"], &record["direction"]), (&json!(event), &json!("in")));
    }
    for text in ["no json", "none either"] {
        assert_eq!(of_outcome.next().await["data"], text);
    }
    // The drain ends each stream, and whom nothing concerned was told nothing.
    assert_eq!(holdfast.drain().await, 0);
    while let Some(line) = of_nobody.line().await {
        assert_eq!(line, r#"{"kind":"alive"}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redacted_is_shown_to_nobody_and_a_reload_says_what() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, &format!("redact: [/password, /card/number]\n{ROUTES}")).await;
    let (mut client, mut stream) = looked_at(&holdfast, holdfast.connect()).await;
    let text = r#"{"type":"a","password":"hunter2","card":{"number":4242,"name":"Ann"}}"#;
    client.send(text).await;
    client.text().await;
    for record in [stream.next().await, stream.next().await] {
        let data: Value = serde_json::from_str(record["data"].as_str().expect("data")).expect("JSON");
        let shown = json!({"type": "a", "password": "[redacted]", "card": {"number": "[redacted]", "name": "Ann"}});
        assert_eq!((&data, &record["size"]), (&shown, &json!(text.len())), "{record}");
    }
    // What is no JSON, or repeats a key, may hide anything.
    for (text, frames) in [("hunter2", 2), (r#"{"type":"a","password":"hunter2","password":"hunter2"}"#, 2)] {
        client.send(text).await;
        client.text().await;
        for _ in 0..frames {
            let record = stream.next().await;
            assert!(!record.to_string().contains("hunter2"), "{record}");
        }
    }
    let changed = holdfast.yaml().replace("redact: [/password, /card/number]", "redact: [/type]");
    std::fs::write(holdfast.config_path(), changed).expect("written");
    assert_eq!(holdfast.call(Method::POST, "/v1/config/reload", "").await.0, 200);
    client.send(text).await;
    client.text().await;
    let record = stream.next().await;
    let data = record["data"].as_str().expect("data");
    assert!(data.contains("hunter2") && data.contains(r#""type":"[redacted]""#), "{record}");
    assert_eq!((&record["event"], &record["generation"]), (&json!("a"), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_on_the_socket_is_never_shown() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = tokens::start(&app, &issuer, "", &format!("limits: {{json_depth: 5}}\n{ROUTES}")).await;
    let token = issuer.token(&json!({"sub": "ann"}));
    let (mut client, mut stream) = looked_at(&holdfast, tokens::connect(&holdfast, &token)).await;
    let token = issuer.token(&json!({"sub": "ann", "n": 2}));
    let message = tokens::auth_message(&token);
    client.send(&message).await;
    assert_eq!(client.json().await["state"], "accepted");
    // Not taken for a token, for its depth, for what it lacks, and for how it spells its name: hidden all the same.
    let deep = format!("{},\"x\":{}1{}}}", &message[..message.len() - 1], "[".repeat(9), "]".repeat(9));
    for text in [deep, message[..message.len() - 1].to_owned(), message.replace("holdfast.auth", "holdfast.\\u0061uth")]
    {
        client.send(&text).await;
        client.text().await;
    }
    client.send(r#"{"type":"last"}"#).await;
    client.text().await;
    let mut hidden = 0;
    loop {
        let record = stream.next().await;
        if record["event"] == "last" {
            break;
        }
        // The handler echoes what it was sent, the name in other letters among it.
        if record["direction"] == "in" {
            assert!(!record.to_string().contains(&token), "{record}");
            hidden += usize::from(record["hidden"] == true);
        }
        assert!(!record.to_string().contains("accepted\",\"expires"), "{record}");
    }
    assert_eq!(hidden, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_counted_and_what_is_limited_or_large_or_binary_is_told() {
    let app = Upstream::start(|call| match call.header("ce-event") {
        "again" => Reply::status(503),
        _ => Reply::empty(),
    })
    .await;
    let endpoint = "limits: {messages_per_second: 1, messages_burst: 3}\n\
                    routes: [{event: again, upstream: app, deadline: 400ms}, {event: $binary, upstream: app}, {event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start_yaml(
        &yaml(&app.url(), "retry: {backoff_min: 1ms, backoff_max: 2ms}, breaker: {failures: 1000}", endpoint),
        &[],
    )
    .await;
    let (mut client, mut stream) = looked_at(&holdfast, holdfast.connect()).await;
    client.send(r#"{"type":"again"}"#).await;
    let record = stream.next().await;
    assert_eq!(record["outcome"], "upstream_unavailable");
    assert!(record["attempts"].as_u64().is_some_and(|count| count > 1), "{record}");
    stream.next().await;
    let large = format!(r#"{{"type":"a","pad":"{}"}}"#, "é".repeat(3000));
    client.send(&large).await;
    let record = stream.next().await;
    let data = record["data"].as_str().expect("data");
    assert!(record["cut"] == true && (4090..=4096).contains(&data.len()) && large.starts_with(data), "{record}");
    client.send_binary(&[0, 255]).await;
    let record = stream.next().await;
    assert_eq!(
        (&record["binary"], &record["event"], &record["data"]),
        (&json!("AP8="), &json!("$binary"), &Value::Null)
    );
    client.send(r#"{"type":"a"}"#).await;
    let record = stream.next().await;
    assert_eq!((&record["outcome"], &record["hidden"]), (&json!("rate_limited"), &json!(true)), "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_misses_some_and_is_told_and_holds_up_nobody() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let (mut client, mut stream) = looked_at(&holdfast, holdfast.connect()).await;
    let text = format!(r#"{{"type":"a","pad":"{}"}}"#, "x".repeat(5000));
    let mut sent = 0_u64;
    while holdfast.metric("holdfast_watch_missed_total").await == 0.0 {
        assert!(sent < 20_000, "a slow reader takes everything");
        for _ in 0..100 {
            client.send(&text).await;
            assert_eq!(client.text_len().await, text.len());
        }
        sent += 100;
    }
    let missed = holdfast.metric("holdfast_watch_missed_total").await;
    let (mut told, mut gaps) = (0_u64, 0_u64);
    while told + gaps < 2 * sent {
        let record = stream.next().await;
        match record["kind"].as_str() {
            Some("missed") => gaps += record["count"].as_u64().expect("a count"),
            _ => told += 1,
        }
    }
    assert_eq!((gaps as f64, told + gaps), (missed, 2 * sent), "each record is told, or missed and counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_look_and_no_more_and_with_nobody_nothing_is_recorded() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"before"}"#).await;
    client.text().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(Stream::open(&holdfast, "").await);
    }
    watched_by(&holdfast, &mut client, 16).await;
    assert_eq!(Stream::try_open(holdfast.admin, "", &[]).await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    streams.truncate(1);
    watched_by(&holdfast, &mut client, 1).await;
    client.send(r#"{"type":"after"}"#).await;
    client.text().await;
    loop {
        let record = streams[0].next().await;
        assert!(!record.to_string().contains("before"), "nobody looked: {record}");
        if record["event"] == "after" {
            break;
        }
    }
    drop(streams);
    watched_by(&holdfast, &mut client, 0).await;
    let mut events = Stream::try_open(holdfast.admin, "", &[("accept", "text/event-stream")]).await.expect("a stream");
    assert_eq!(events.line().await.as_deref(), Some(": alive"));
    client.send(r#"{"type":"event"}"#).await;
    client.text().await;
    let record = loop {
        let line = events.line().await.expect("an event");
        if let Some(data) = line.strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).expect("JSON");
        }
        assert!(line.is_empty() || line == ": alive", "{line}");
    };
    assert_eq!(record["event"], "event");
}
