//! The scripted conversation of `demo --check`: real sockets, step by step, each with a deadline.
//! Plays browser and back end from outside; must not know the inside of either side.

mod client;

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::rest::{self, AdminTarget};
use client::Client;

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// A room that the conversation has for itself.
const ROOM: &str = "holdfast-check";

/// Which step of the conversation failed, and what was seen.
#[derive(Debug, thiserror::Error)]
#[error("step {step:?}: {reason}")]
pub struct CheckFailed {
    pub step: &'static str,
    pub reason: String,
}

/// What a step found, if not what it expected.
type Step<T> = Result<T, String>;

/// Holds a conversation over a running demo: `websocket_url` is the endpoint's, without a query. Other clients may be
/// connected meanwhile.
pub async fn check(websocket_url: &str, admin: &AdminTarget, handler: SocketAddr) -> Result<(), CheckFailed> {
    step("the page is served", page_is_served(handler)).await?;
    let mut ann = step("ann connects", Client::connect(websocket_url, "ann")).await?;
    let mut ben = step("ben connects, and ann hears of it", async {
        let ben = Client::connect(websocket_url, "ben").await?;
        ann.expect("chat.joined", |frame| frame["connection"] == ben.connection).await?;
        Ok(ben)
    })
    .await?;
    step("a message reaches both", message_reaches_both(&mut ann, &mut ben, "hello")).await?;
    step("a bad message is answered with an error frame", bad_message_is_refused(&mut ann)).await?;
    step("what is not JSON is answered with an error frame", invalid_json_is_refused(&mut ann)).await?;
    step("the socket is open after them", message_reaches_both(&mut ann, &mut ben, "still here")).await?;
    step("a binary frame comes back", ann.expect_binary_echo(&[0, 1, 2, 255])).await?;
    step("a push by connection ID is written", push_is_written(admin, &mut ann)).await?;
    step("a push to a group reaches both", group_push_reaches_both(admin, &mut ann, &mut ben)).await?;
    step("ben joins and leaves a room by the handler's answers", room_by_answer(admin, &mut ann, &mut ben)).await?;
    step("ben joins and leaves a room by REST", room_by_rest(admin, &ben)).await?;
    step("ben leaves, and ann hears of it", async {
        let id = ben.connection.clone();
        ben.close().await?;
        ann.expect("chat.left", |frame| frame["connection"] == id && frame["name"] == "ben").await?;
        expect_gone(admin, &id).await
    })
    .await?;
    step("the page's panel shows the wire", wire_shows(handler, &ann.connection)).await?;
    step("ann leaves", ann.close()).await
}

async fn step<T>(name: &'static str, run: impl Future<Output = Step<T>>) -> Result<T, CheckFailed> {
    let result = match tokio::time::timeout(STEP_TIMEOUT, Box::pin(run)).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done within {} s", STEP_TIMEOUT.as_secs())),
    };
    tracing::debug!(step = name, ok = result.is_ok(), "demo check");
    result.map_err(|reason| CheckFailed { step: name, reason })
}

async fn page_is_served(handler: SocketAddr) -> Step<()> {
    let response = rest::send(handler, None, Method::GET, "/", "").await.map_err(text)?;
    let content_type = response.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("none");
    if response.status != StatusCode::OK || !content_type.starts_with("text/html") {
        return Err(format!("expected 200 and HTML, found {} and {content_type}", response.status));
    }
    if !response.text().contains("<title>Holdfast demo</title>") {
        return Err("expected the demo's page, found another one".into());
    }
    Ok(())
}

async fn message_reaches_both(ann: &mut Client, ben: &mut Client, text: &str) -> Step<()> {
    ann.send_json(&json!({"type": "chat.send", "text": text})).await?;
    let sender = ann.connection.clone();
    for client in [ann, ben] {
        // The very next one of ann's: a message that was refused before it must not have come through.
        let frame = client.expect("chat.message", |frame| frame["connection"] == sender).await?;
        expect_equal("text", &frame["text"], &json!(text))?;
        expect_equal("from", &frame["from"], &json!("ann"))?;
    }
    Ok(())
}

async fn bad_message_is_refused(ann: &mut Client) -> Step<()> {
    ann.send_json(&json!({"type": "chat.send", "text": ""})).await?;
    let frame = ann.expect("error", |_| true).await?;
    expect_equal("code", &frame["code"], &json!("schema_violation"))?;
    expect_equal("event", &frame["event"], &json!("chat.send"))?;
    expect_equal("errors[0].pointer", &frame["errors"][0]["pointer"], &json!("/text"))
}

async fn invalid_json_is_refused(ann: &mut Client) -> Step<()> {
    ann.send_text("{not json").await?;
    let frame = ann.expect("error", |_| true).await?;
    expect_equal("code", &frame["code"], &json!("invalid_json"))
}

async fn push_is_written(admin: &AdminTarget, ann: &mut Client) -> Step<()> {
    let path = format!("/v1/connections/{}/messages", ann.connection);
    let pushed = json!({"type": "notice", "text": "pushed by connection ID"});
    let answer = call(admin, Method::POST, &path, &pushed.to_string(), StatusCode::OK).await?;
    expect_equal("outcome", &answer["outcome"], &json!("written"))?;
    ann.expect("notice", |frame| *frame == pushed).await.map(drop)
}

async fn group_push_reaches_both(admin: &AdminTarget, ann: &mut Client, ben: &mut Client) -> Step<()> {
    let pushed = json!({"type": "notice", "text": "pushed to the lobby"});
    let answer = call(admin, Method::POST, "/v1/groups/lobby/messages", &pushed.to_string(), StatusCode::OK).await?;
    if answer["delivered"].as_u64().is_none_or(|delivered| delivered < 2) {
        return Err(format!("expected 2 or more delivered, found {answer}"));
    }
    ann.expect("notice", |frame| *frame == pushed).await?;
    ben.expect("notice", |frame| *frame == pushed).await.map(drop)
}

/// The group as ben's membership comes and goes; only members hear what is said in it.
async fn room_by_answer(admin: &AdminTarget, ann: &mut Client, ben: &mut Client) -> Step<()> {
    ben.send_json(&json!({"type": "chat.join", "room": ROOM})).await?;
    ben.expect("chat.room", |frame| frame["entered"] == true).await?;
    expect_members(admin, 1).await?;
    ann.send_json(&json!({"type": "chat.send", "text": "to the room", "room": ROOM})).await?;
    let heard = ben.expect("chat.message", |frame| frame["connection"] == ann.connection).await?;
    expect_equal("room", &heard["room"], &json!(ROOM))?;
    ben.send_json(&json!({"type": "chat.leave", "room": ROOM})).await?;
    ben.expect("chat.room", |frame| frame["entered"] == false).await?;
    expect_members(admin, 0).await?;
    // Ann was not in the room: the next message that she hears is this one.
    message_reaches_both(ann, ben, "back in the lobby").await
}

async fn room_by_rest(admin: &AdminTarget, ben: &Client) -> Step<()> {
    let path = format!("/v1/groups/room:{ROOM}/members/{}", ben.connection);
    call(admin, Method::PUT, &path, "", StatusCode::NO_CONTENT).await?;
    expect_members(admin, 1).await?;
    call(admin, Method::DELETE, &path, "", StatusCode::NO_CONTENT).await?;
    expect_members(admin, 0).await
}

async fn expect_members(admin: &AdminTarget, count: usize) -> Step<()> {
    let path = format!("/v1/groups/room:{ROOM}/members");
    let answer = call(admin, Method::GET, &path, "", StatusCode::OK).await?;
    match super::member_count(answer.to_string().as_bytes()) {
        Some(found) if found == count => Ok(()),
        _ => Err(format!("expected {count} members of the room, found {answer}")),
    }
}

async fn expect_gone(admin: &AdminTarget, id: &str) -> Step<()> {
    let path = format!("/v1/connections/{id}/messages");
    call(admin, Method::POST, &path, r#"{"type":"notice"}"#, StatusCode::GONE).await.map(drop)
}

async fn wire_shows(handler: SocketAddr, connection: &str) -> Step<()> {
    let response = rest::send(handler, None, Method::GET, "/wire?after=0", "").await.map_err(text)?;
    let page: Value = serde_json::from_slice(&response.body).map_err(text)?;
    let entries = page["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has =
        |kind: &str, part: &str| entries.iter().any(|entry| entry["kind"] == kind && entry.to_string().contains(part));
    let wanted = [
        ("event", connection),
        ("event", "holdfast.disconnect"),
        ("answer", "application/vnd.holdfast.commands+json"),
        ("call", "/v1/groups/lobby/messages"),
        ("outcome", "delivered"),
    ];
    match wanted.iter().find(|(kind, part)| !has(kind, part)) {
        Some((kind, part)) => Err(format!("expected an entry {kind} with {part} among {} entries", entries.len())),
        None => Ok(()),
    }
}

/// Calls the admin listener and expects a status; the answer's JSON, or null where there is none.
async fn call(admin: &AdminTarget, method: Method, path: &str, json: &str, status: StatusCode) -> Step<Value> {
    let line = format!("{method} {path}");
    let response = admin.call(method, path, json).await.map_err(text)?;
    if response.status != status {
        return Err(format!("{line}: expected {status}, found {} {}", response.status, response.text()));
    }
    if response.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&response.body).map_err(|e| format!("{line}: expected JSON: {e}, found {}", response.text()))
}

fn expect_equal(what: &str, found: &Value, expected: &Value) -> Step<()> {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected}, found {found}")) }
}

fn text(error: impl Display) -> String {
    error.to_string()
}
