//! The handler over real HTTP, with events as Holdfast would post them and an admin listener that keeps what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::message::Command;

const ID: &str = "abcdefgh-abcdefghijkmnopqrstu";

/// The handler, and what it asked of the admin listener.
struct Demo {
    handler: DemoHandler,
    asked: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

struct Answered {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Demo {
    async fn start() -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        let admin = Router::new().fallback(move |method: Method, uri: Uri, body: String| {
            kept.lock().push(format!("{method} {uri} {body}"));
            let answer = if method == Method::GET { json!({"members": [ID, ID]}) } else { json!({"delivered": 1}) };
            async move { axum::Json(answer) }
        });
        let tasks = Tasks::new();
        let listener = bind().await;
        let address = listener.local_addr().expect("an address");
        drop(tasks.spawn(async move { axum::serve(listener, admin).await }));
        Self::beside(address, asked).await
    }

    async fn beside(admin: SocketAddr, asked: Arc<Mutex<Vec<String>>>) -> Self {
        let tasks = Tasks::new();
        let target = AdminTarget { address: admin, token: None };
        let handler = serve_handler(bind().await, target, "ws://127.0.0.1:1/chat".into(), None, &tasks)
            .await
            .expect("the handler serves");
        Self { handler, asked, tasks }
    }

    async fn get(&self, path: &str) -> rest::Response {
        rest::send(self.handler.address(), None, Method::GET, path, "").await.expect("an answer")
    }

    /// Posts an event in CloudEvents' binary mode.
    async fn post(&self, kind: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answered {
        let mut request = http::Request::builder().method("POST").uri("/events").header("host", "handler");
        let fixed = [("ce-specversion", "1.0"), ("ce-type", kind), ("ce-id", "e.1"), ("ce-connectionid", ID)];
        for (name, value) in fixed.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let stream = tokio::net::TcpStream::connect(self.handler.address()).await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("http");
        drop(self.tasks.spawn(connection));
        let (parts, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answered { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn message(&self, event: &str, body: &str) -> Answered {
        self.post("holdfast.message", &[("ce-event", event), ("ce-context", "J%C3%BCrgen%20K")], body.to_owned()).await
    }
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The commands, read as Holdfast reads them.
    fn commands(&self) -> Vec<Command> {
        assert_eq!(self.header("content-type"), crate::message::command::COMMANDS_MEDIA_TYPE);
        Command::parse_list(&self.body, true).expect("commands")
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

fn connect_body(query: &Value) -> String {
    json!({"headers": {"cookie": "session=1"}, "query": query, "subprotocols": [], "remote_addr": "127.0.0.1:9"})
        .to_string()
}

#[tokio::test]
async fn a_connect_names_joins_and_greets() {
    let demo = Demo::start().await;
    let answer = demo.post("holdfast.connect", &[], connect_body(&json!({"name": " Jürgen\u{7} K "}))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("holdfast-user"), "Jürgen K");
    assert_eq!(answer.header("holdfast-context"), "Jürgen K");
    assert_eq!(answer.header("holdfast-join"), "lobby");
    assert_eq!(answer.commands().len(), 2);
    let sends = answer.json();
    assert_eq!(sends[0]["send"], json!({"data": {"type": "chat.welcome", "connection": ID, "name": "Jürgen K"}}));
    assert_eq!(sends[1]["send"]["to"], json!({"group": "lobby", "except": [ID]}));
}

#[tokio::test]
async fn a_nameless_guest_gets_a_name_and_a_long_name_is_refused() {
    let demo = Demo::start().await;
    let answer = demo.post("holdfast.connect", &[], connect_body(&json!({}))).await;
    assert_eq!(answer.header("holdfast-user"), "guest-rstu");
    let answer = demo.post("holdfast.connect", &[], connect_body(&json!({"name": "x".repeat(33)}))).await;
    assert_eq!((answer.status, answer.header("holdfast-join")), (400, ""));
}

#[tokio::test]
async fn messages_become_commands() {
    let demo = Demo::start().await;
    let answer = demo.message("chat.send", r#"{"type":"chat.send","text":"<b>hi</b>"}"#).await;
    assert_eq!(answer.commands().len(), 1);
    let send = &answer.json()[0]["send"];
    assert_eq!(send["to"], json!({"group": "lobby"}));
    assert_eq!((&send["data"]["from"], &send["data"]["text"]), (&json!("Jürgen K"), &json!("<b>hi</b>")));
    assert_eq!(send["data"]["id"], "e.1", "a repeat can be told");

    let answer = demo.message("chat.send", r#"{"type":"chat.send","text":"hi","room":"tea"}"#).await;
    assert_eq!(answer.json()[0]["send"]["to"], json!({"group": "room:tea"}));

    let answer = demo.message("chat.typing", r#"{"type":"chat.typing"}"#).await;
    assert_eq!(answer.commands().len(), 1);
    assert_eq!(answer.json()[0]["send"]["to"]["except"], json!([ID]), "the sender hears nothing");
}

#[tokio::test]
async fn rooms_are_entered_and_left_by_headers() {
    let demo = Demo::start().await;
    let answer = demo.message("chat.join", r#"{"type":"chat.join","room":"tea"}"#).await;
    assert_eq!((answer.header("holdfast-join"), answer.header("holdfast-leave")), ("room:tea", ""));
    let answer = demo.message("chat.leave", r#"{"type":"chat.leave","room":"tea"}"#).await;
    assert_eq!((answer.header("holdfast-join"), answer.header("holdfast-leave")), ("", "room:tea"));
    assert_eq!(answer.json(), json!({"type": "chat.room", "room": "tea", "entered": false}));
}

#[tokio::test]
async fn a_binary_body_comes_back_and_what_is_unknown_is_refused() {
    let demo = Demo::start().await;
    let answer = demo.post("holdfast.message", &[("ce-event", "$binary")], vec![0, 255, 7]).await;
    assert_eq!((answer.header("content-type"), answer.body.as_ref()), ("application/octet-stream", &[0, 255, 7][..]));
    assert_eq!(demo.message("chat.dance", "{}").await.status, 400);
    let nobody = rest::send(demo.handler.address(), None, Method::POST, "/events", "{}").await.expect("an answer");
    assert_eq!(nobody.status, StatusCode::BAD_REQUEST);
    assert!(nobody.text().contains("ce-id"), "{}", nobody.text());
}

#[tokio::test]
async fn a_disconnect_is_told_to_the_lobby_by_rest() {
    let demo = Demo::start().await;
    let answer = demo.post("holdfast.disconnect", &[("ce-context", "ann")], r#"{"code":1000}"#).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let asked = demo.asked.lock().clone();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].starts_with("POST /v1/groups/lobby/messages ") && asked[0].contains(r#""name":"ann""#),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_disconnect_is_accepted_though_the_admin_listener_is_away() {
    // A port that was just given back: nobody listens there.
    let nobody = bind().await.local_addr().expect("an address");
    let demo = Demo::beside(nobody, Arc::default()).await;
    assert_eq!(demo.post("holdfast.disconnect", &[("ce-context", "ann")], "{}").await.status, 204);
    let wire: Value = serde_json::from_slice(&demo.get("/wire").await.body).expect("JSON");
    assert_eq!(wire["entries"][2]["line"], "no response");
    assert_eq!(demo.get("/online").await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn the_wire_shows_both_halves_of_each_exchange() {
    let demo = Demo::start().await;
    demo.post("holdfast.connect", &[("traceparent", "00-1-2-01")], connect_body(&json!({"name": "ann"}))).await;
    let online: Value = serde_json::from_slice(&demo.get("/online").await.body).expect("JSON");
    assert_eq!(online, json!({"online": 2}));
    let response = demo.get("/wire?after=0").await;
    assert!(!response.text().contains("session=1"), "cookies are not for a screen");
    let wire: Value = serde_json::from_slice(&response.body).expect("JSON");
    let kinds: Vec<_> = wire["entries"].as_array().expect("a list").iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, ["event", "answer", "call", "outcome"]);
    assert_eq!(wire["entries"][1]["responds_to"], wire["entries"][0]["number"]);
    assert!(wire["entries"][0]["headers"].to_string().contains("traceparent"));
    let rest: Value = serde_json::from_slice(&demo.get("/wire?after=3").await.body).expect("JSON");
    assert_eq!(rest["entries"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_page_reaches_for_nothing_outside() {
    let demo = Demo::start().await;
    let page = demo.get("/").await;
    assert!(page.headers["content-security-policy"].to_str().expect("text").contains("default-src 'none'"));
    let text = page.text();
    for outside in ["src=\"http", "href=\"http", "@import", "innerHTML", "url(http"] {
        assert!(!text.contains(outside), "the page has {outside}");
    }
    let settings: Value = serde_json::from_slice(&demo.get("/settings").await.body).expect("JSON");
    assert_eq!(settings["websocket_url"], "ws://127.0.0.1:1/chat");
}

#[tokio::test]
async fn a_stopped_handler_ends_its_tasks() {
    let demo = Demo::start().await;
    assert_eq!(demo.get("/").await.status, StatusCode::OK);
    demo.handler.stop();
    tokio::time::timeout(Duration::from_secs(5), demo.tasks.wait()).await.expect("all tasks ended");
}

#[tokio::test]
async fn a_check_names_the_step_that_failed_and_what_was_seen() {
    let demo = Demo::start().await;
    let admin = AdminTarget { address: demo.handler.address(), token: None };
    // The handler is no WebSocket server: the page is served, and then the first client cannot connect.
    let url = format!("ws://{}/chat", demo.handler.address());
    let failed = check(&url, &admin, demo.handler.address()).await.expect_err("no Holdfast");
    assert_eq!(failed.step, "ann connects");
    assert!(failed.reason.contains("404"), "{failed}");
}

#[test]
fn the_configuration_takes_the_addresses() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let yaml = config_yaml(address("0.0.0.0:18000"), address("127.0.0.1:18001"), address("[::]:13000"), None);
    assert!(yaml.contains("listen: \"0.0.0.0:18000\""), "{yaml}");
    assert!(yaml.contains("admin: {listen: \"127.0.0.1:18001\"}"), "{yaml}");
    assert!(yaml.contains("url: \"http://[::1]:13000/events\""), "{yaml}");
    assert!(!yaml.contains("${"), "every variable was filled in: {yaml}");
    for (path, _) in SCHEMAS {
        assert!(yaml.contains(&format!("../{path}")), "{path} is named");
    }
}

#[test]
fn the_schemas_take_good_messages_and_name_what_is_bad() {
    let validators: Vec<_> = SCHEMAS
        .iter()
        .map(|(path, text)| {
            let schema: Value = serde_json::from_str(text).expect(path);
            jsonschema::validator_for(&schema).expect(path)
        })
        .collect();
    let [send, room] = &validators[..] else { panic!("expected two schemas") };
    assert!(send.is_valid(&json!({"type": "chat.send", "text": "é".repeat(500)})));
    for bad in
        [json!({"text": ""}), json!({"text": "x".repeat(501)}), json!({"text": 42}), json!({"text": "x", "more": 1})]
    {
        let mut message = bad.clone();
        message["type"] = "chat.send".into();
        assert!(!send.is_valid(&message), "{message}");
    }
    assert!(!send.is_valid(&json!({"type": "chat.send"})));
    assert!(room.is_valid(&json!({"type": "chat.leave", "room": "tea"})));
    assert!(!room.is_valid(&json!({"type": "chat.join", "room": "Tea room"})));
}

#[test]
fn the_banner_names_every_address() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let text = banner(address("0.0.0.0:8000"), address("127.0.0.1:8001"), address("127.0.0.1:3000"));
    for part in [
        "http://127.0.0.1:3000/ ",
        "ws://127.0.0.1:8000/chat?name=ann",
        "http://127.0.0.1:8001/metrics",
        "/v1/connections/<ID>/messages",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}
