//! A chat beside Holdfast, in axum: Holdfast keeps the sockets, this program keeps nothing. It must not know the crate it lies in.

use std::env;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

const COMMANDS: &str = "application/vnd.holdfast.commands+json";
static ADMIN: LazyLock<String> = LazyLock::new(|| setting("HOLDFAST_ADMIN", "http://127.0.0.1:8001"));
static TOKEN: LazyLock<String> = LazyLock::new(|| setting("HOLDFAST_ADMIN_TOKEN", ""));
static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let secret = setting("HOLDFAST_SIGNING_SECRET", "");
    let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_")).expect("whsec_ and base64");
    hmac::Key::new(hmac::HMAC_SHA256, &key)
});

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = format!("127.0.0.1:{}", setting("PORT", "3000"));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, Router::new().route("/events", post(events))).await
}

/// The signature is of the body's bytes, so the body is taken as it came.
async fn events(headers: HeaderMap, body: Bytes) -> Response {
    if !is_signed(&headers, &body) {
        return (StatusCode::UNAUTHORIZED, "bad signature").into_response();
    }
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "not JSON").into_response();
    };
    match (text(&event["type"]), text(&event["event"])) {
        ("holdfast.connect", _) => connect(&event),
        ("holdfast.disconnect", _) => {
            println!("{} left: {}", text(&event["userid"]), text(&event["data"]["cause"]));
            StatusCode::NO_CONTENT.into_response()
        }
        (_, "chat.send") => send(&event),
        (_, "chat.remind") => remind(&event),
        _ => (StatusCode::NOT_FOUND, "no such event").into_response(),
    }
}

/// Accepts the socket, says whose it is and puts it into a group. The body is the first frame.
fn connect(event: &Value) -> Response {
    let user = text(&event["data"]["query"]["user"]);
    let usable =
        (1..=32).contains(&user.len()) && user.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !usable {
        return (StatusCode::FORBIDDEN, "say who you are: ?user=ann").into_response();
    }
    let welcome = Json(json!({"type": "chat.welcome", "user": user}));
    ([("Holdfast-User", user), ("Holdfast-Join", "lobby")], welcome).into_response()
}

/// Commands: the first goes to the sender, the second to everybody else in the group.
fn send(event: &Value) -> Response {
    let message = json!({"type": "chat.message", "from": event["userid"], "text": event["data"]["text"]});
    let commands = json!([
        {"send": {"data": {"type": "chat.sent", "seq": event["seq"]}}},
        {"send": {"to": {"group": "lobby", "except": [event["connectionid"]]}, "data": message}},
    ]);
    ([(header::CONTENT_TYPE, COMMANDS)], commands.to_string()).into_response()
}

#[expect(clippy::disallowed_methods, reason = "an application has no `tasks` of Holdfast's")]
fn remind(event: &Value) -> Response {
    let after = Duration::from_millis(event["data"]["after_ms"].as_u64().unwrap_or_default());
    let message = json!({"type": "chat.reminder", "text": event["data"]["text"]});
    let connection = text(&event["connectionid"]).to_owned();
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        push(&connection, &message).await;
    });
    StatusCode::NO_CONTENT.into_response()
}

/// Any process may push to a socket at any time, by the connection's ID.
async fn push(connection: &str, message: &Value) {
    let request = Request::post(format!("{}/v1/connections/{connection}/messages", *ADMIN))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {}", *TOKEN))
        .body(Body::from(message.to_string()));
    match request {
        Ok(request) => {
            let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
            let status = client.request(request).await.map(|answer| answer.status());
            println!("push to {connection}: {status:?}");
        }
        Err(error) => println!("push to {connection}: {error}"),
    }
}

/// Standard Webhooks: an HMAC of ID, time and body, of which the header may hold several. Older than five minutes is a replay.
fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if time.parse::<u64>().map_or(true, |time| time.abs_diff(now) > 300) {
        return false;
    }
    let signed = [format!("{id}.{time}.").as_bytes(), body].concat();
    header("webhook-signature")
        .split(' ')
        .filter_map(|signature| BASE64_STANDARD.decode(signature.strip_prefix("v1,")?).ok())
        .any(|signature| hmac::verify(&KEY, &signed, &signature).is_ok())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn setting(name: &str, otherwise: &str) -> String {
    env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}
