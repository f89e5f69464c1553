//! The programs and configurations of the documents, run as they stand there.

use http::Method;
use serde_json::json;

use crate::harness::example::{Example, block, page};
use crate::harness::{Client, Holdfast};

/// Holdfast with the page's configuration in front of the page's program.
async fn run(name: &str, program: &str, language: &str, files: &[(&str, &str)]) -> (Holdfast, Example) {
    let text = page(name);
    let example = Example::start(program, &block(&text, language)).await;
    let yaml = block(&text, "yaml").replace("127.0.0.1:3000", &example.address).replace("schemas/", "");
    let yaml = yaml.replace("127.0.0.1:8000", "127.0.0.1:0").replace("127.0.0.1:8001", "127.0.0.1:0");
    (Holdfast::start_yaml(&yaml, files).await, example)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_s_chat_is_pushed_to_and_checked() {
    let schema = block(&page("start.md"), "json");
    let (holdfast, _app) = run("start.md", "/usr/bin/python3", "python", &[("chat.json", &schema)]).await;
    let url = format!("{}?name=ann", holdfast.url());
    let mut ann = Client::connect(&url, &[]).await.expect("accepted");
    let mut other = Client::connect(&holdfast.url(), &[]).await.expect("accepted");
    ann.send(r#"{"type":"chat.send","text":"hello"}"#).await;
    for client in [&mut ann, &mut other] {
        assert_eq!(client.json().await, json!({"type": "chat.message", "from": "ann", "text": "hello"}));
    }
    ann.send(r#"{"type":"chat.send","text":7}"#).await;
    assert_eq!(ann.error().await.0, "schema_violation");
    let (status, answer) = holdfast.call(Method::POST, "/v1/groups/lobby/messages", r#"{"type":"news"}"#).await;
    assert_eq!((status.as_u16(), &answer["delivered"]), (200, &json!(2)));
    assert_eq!(ann.text().await, r#"{"type":"news"}"#);
    let (_, answer) = holdfast.call(Method::POST, "/v1/users/ann/messages", "{}").await;
    assert_eq!(answer["delivered"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_style_handler_runs_behind_its_adapter() {
    let (holdfast, _app) = run("guides/from-api-gateway.md", "/usr/bin/python3", "python", &[]).await;
    let url = holdfast.url().replace("/ws", "/prod");
    let refused = Client::connect(&url, &[]).await.err().expect("refused");
    assert_eq!(refused.status.as_u16(), 401);
    let mut client = Client::connect(&format!("{url}?name=ann"), &[]).await.expect("accepted");
    client.send(r#"{"action":"sendmessage","message":"hello"}"#).await;
    assert_eq!(client.json().await, json!({"echo": "hello"}));
    client.send(r#"{"action":"another"}"#).await;
    client.send(r#"{"action":"sendmessage","message":"again"}"#).await;
    assert_eq!(client.json().await, json!({"echo": "again"}), "the default route answers nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushpin_s_echo_with_a_channel_is_an_echo_with_a_group() {
    let (holdfast, _app) = run("guides/from-pushpin.md", "/usr/bin/python3", "python", &[]).await;
    let mut client = holdfast.connect().await;
    client.send("hello, not JSON").await;
    assert_eq!(client.text().await, "hello, not JSON");
    let headers = [("content-type", "text/plain")];
    holdfast.call_raw(Method::POST, "/v1/groups/room/messages", &headers, "hi").await;
    assert_eq!(client.text().await, "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_and_acknowledgements_are_groups_and_answers() {
    let (holdfast, _app) = run("guides/from-socketio-rooms.md", "node", "js", &[]).await;
    let (mut one, mut two) = (holdfast.connect().await, holdfast.connect().await);
    for client in [&mut one, &mut two] {
        client.send(r#"{"type":"enter","ref":1,"room":"lobby"}"#).await;
        assert_eq!(client.json().await, json!({"type": "ack", "ref": 1, "ok": true}));
    }
    one.send(r#"{"type":"say","room":"lobby","text":"hi"}"#).await;
    assert_eq!(two.json().await, json!({"type": "said", "room": "lobby", "text": "hi"}));
    one.send(r#"{"type":"enter","ref":2,"room":"lobby"}"#).await;
    assert_eq!(one.json().await["ref"], 2, "what it said did not come back to it");
}
