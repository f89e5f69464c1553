//! Words of clients and upstreams on their way into headers, messages, frames and log lines.

use http::Method;
use serde_json::{Value, json};

use crate::harness::broker::{Broker, amqp_yaml, take, unique};
use crate::harness::{Call, Client, Holdfast, Reply, Upstream, eventually, request, yaml};

use super::{MIB, ROUTES, Scene};

const LIFE: &str = "connect: app\ndisconnect: app\nroutes: [{event: \"*\", upstream: app}]";

/// What a percent-encoded header of the CloudEvents binding says.
fn decoded(call: &Call, name: &str) -> String {
    let value = call.headers.get(name).expect("the header").as_bytes();
    assert!(value.iter().all(|byte| (b'!'..=b'~').contains(byte)), "only visible ASCII: {value:?}");
    let mut bytes = Vec::new();
    let mut rest = value.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex = [*rest.next().expect("a digit"), *rest.next().expect("a digit")];
                u8::from_str_radix(std::str::from_utf8(&hex).expect("text"), 16).expect("hexadecimal")
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_words_are_encoded_in_headers_to_http_handlers() {
    const USER: &str = "zoë \"the\" 100%";
    const CONTEXT: &str = "ключ: 🔑; a=b, c";
    const EVENT: &str = "überraschung: x, \"y\" % z";
    let app = Upstream::start(|call| match (call.kind(), call.header("ce-event")) {
        ("connect", _) => Reply::empty().header("holdfast-user", USER),
        ("message", "other") => Reply::json(call.body.clone()),
        ("message", "set") => Reply::commands(&json!([{"context": {"value": CONTEXT}}])),
        _ => Reply::json("1"),
    })
    .await;
    let text = yaml(&app.url(), "", LIFE);
    let scene = Scene::start_yaml(app, &text, &[]).await;
    let mut client = scene.process.client().await;
    client.send(r#"{"type":"set"}"#).await;
    client.send(&json!({"type": EVENT}).to_string()).await;
    client.text().await;
    let call = scene.app.calls_of("message").into_iter().find(|call| call.header("ce-event").contains('%'));
    let call = call.expect("the event");
    for (name, text) in [("ce-userid", USER), ("ce-context", CONTEXT), ("ce-event", EVENT)] {
        assert_eq!(decoded(&call, name), text);
    }
    scene.held(6 * MIB).await;
}

/// A break in a header would be another header: it gets nowhere near one.
#[tokio::test(flavor = "multi_thread")]
async fn breaks_in_contexts_users_and_groups_are_refused_where_they_enter() {
    const BREAKS: [&str; 4] = ["a\r\nevil: 1", "a\nb", "a\0b", "a\u{7f}\u{85}b"];
    let app = Upstream::start(|call| {
        let wanted: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        match call.header("ce-event") {
            "commands" => Reply::commands(&wanted["commands"]),
            _ => Reply::json(call.body.clone()),
        }
    })
    .await;
    let text = yaml(&app.url(), "", ROUTES);
    let scene = Scene::start_yaml(app, &text, &[]).await;
    let mut client = scene.process.client().await;
    client.send(r#"{"type":"id"}"#).await;
    client.text().await;
    let calls = scene.app.calls_of("message");
    let id = calls.iter().find(|call| call.header("ce-event") == "id").expect("a call").header("ce-connectionid");
    for text in BREAKS {
        for command in [
            json!({"context": {"value": text}}),
            json!({"join": {"group": text}}),
            json!({"send": {"to": {"user": text}, "text": "x"}}),
        ] {
            client.send(&json!({"type": "commands", "commands": [command]}).to_string()).await;
            assert_eq!(client.error().await.0, "internal", "{command}");
        }
        let commands = json!([{"context": {"connection": id, "value": text}}]).to_string();
        let (status, _, _) = request(scene.process.admin, Method::POST, "/v1/commands", &[], commands.into()).await;
        assert_eq!(status, 400);
    }
    for group in ["a%0d%0aevil:%201", "a%00b", "a%7fb"] {
        let path = format!("/v1/groups/{group}/members/{id}");
        let (status, _, _) = request(scene.process.admin, Method::PUT, &path, &[], "".into()).await;
        assert_eq!(status, 400, "{group}");
    }
    scene.counted("holdfast_upstream_attempts_total{upstream=\"app\",outcome=\"broken\"}", BREAKS.len() * 3).await;
    scene.held(6 * MIB).await;
}

/// An application's reason has no control characters; a client's may, and the event and the log tell of it without being broken by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_close_reason_breaks_neither_the_event_nor_the_log() {
    const REASON: &str = "bye\r\nFAKE: \"1\"\0";
    let app = Upstream::start(|call| match (call.kind(), call.header("ce-event")) {
        ("message", "other") => Reply::json(call.body.clone()),
        ("message", _) => Reply::commands(&json!([{"close": {"code": 4400, "reason": REASON}}])),
        _ => Reply::empty(),
    })
    .await;
    let text = format!("log: {{level: debug}}\n{}", yaml(&app.url(), "", LIFE));
    let scene = Scene::start_yaml(app, &text, &[]).await;
    let mut client = scene.process.client().await;
    client.send(r#"{"type":"end"}"#).await;
    assert_eq!(client.error().await.0, "internal", "the application broke the contract");
    let reason = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4444.into(), reason: REASON.into() };
    client.socket.close(Some(reason)).await.expect("closed");
    client.close().await;
    assert_eq!(scene.app.wait_for("disconnect", 1).await.remove(0).json()["reason"], REASON);
    let log = scene.process.log();
    assert!(log.iter().all(|line| !line.starts_with("FAKE")), "{log:?}");
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_a_log_line_of_his_own() {
    let app = Upstream::start(|call| match call.header("ce-event") {
        "other" => Reply::json(call.body.clone()),
        _ => Reply::commands(&json!([{"x\r\nFAKE INFO all is well\u{1b}[2J": {}}])),
    })
    .await;
    let endpoint = "validate: report\nroutes: [{event: \"checked*\", schema: schema.json, upstream: app}, {event: \"*\", upstream: app}]";
    let text = format!("log: {{level: debug}}\n{}", yaml(&app.url(), "", endpoint));
    let schema = r#"{"additionalProperties": false, "properties": {"type": {}}}"#;
    let scene = Scene::start_yaml(app, &text, &[("schema.json", schema)]).await;
    let mut client = Client::connect(&scene.process.url(), &[("x-evil", "a\tFAKE")]).await.expect("open");
    client.send(r#"{"type":"evil"}"#).await;
    assert_eq!(client.error().await.0, "internal");
    client.send(r#"{"type":"checked","a\r\nFAKE\u001b[2J":1}"#).await;
    client.error().await;
    let path = "/v1/users/a%0aFAKE%1b/connections";
    request(scene.process.admin, Method::DELETE, path, &[("authorization", "Bearer a\tFAKE")], "".into()).await;
    for part in ["\\r\\nFAKE INFO", "does not fit its schema", "a%0aFAKE"] {
        let is_there = || scene.process.log().iter().any(|line| line.contains(part)).then_some(());
        eventually(&format!("{part} in the log"), || std::future::ready(is_there())).await;
    }
    let log = scene.process.log();
    for line in &log {
        assert!(!line.starts_with("FAKE") && !line.contains("\u{1b}[2J"), "{line:?}");
    }
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_words_are_carried_whole_by_amqp_headers() {
    const USER: &str = "zoë \"the\" 100%";
    const EVENT: &str = "über.#.*.raschung";
    let (broker, name) = (Broker::shared().await, unique("injection"));
    let gate =
        Upstream::start(|_| Reply::empty().header("holdfast-user", USER).header("holdfast-context", "a=ключ")).await;
    let app =
        format!("exchange: {name}, routing_key: \"in.{{event}}.{{userid}}\", queues: {{{name}: {{type: classic}}}}");
    let commands = format!("commands_queue: {name}.commands\ndead_letter_queue: {name}.dead");
    let endpoint = "connect: gate\nroutes: [{event: \"*\", upstream: app, ack: true}]";
    let yaml = amqp_yaml(&broker.url, &commands, &app, endpoint)
        .replace("endpoints:", &format!("  gate: {{http: {{url: \"{}\"}}}}\nendpoints:", gate.url()));
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    client.send(&json!({"type": EVENT}).to_string()).await;
    assert_eq!(client.text().await, r#"{"type":"ack","seq":1}"#);
    let message = take(&broker.channel().await, &name).await;
    for (header, text) in [("ce-event", EVENT), ("ce-userid", USER), ("ce-context", "a=ключ")] {
        assert_eq!(message.header(header), text);
    }
    assert_eq!(message.routing_key.split('.').count(), 3, "{}", message.routing_key);
    assert!(!message.routing_key.contains(['#', '*']), "{}", message.routing_key);
    // A break does not get as far as a header.
    client.send(r#"{"type":"a\r\nce-userid: admin"}"#).await;
    assert_eq!(client.error().await.0, "missing_event");
}
