//! The chat handler: an ordinary HTTP application that takes events and answers them with messages or commands.
//! Keeps no state of the chat (the wire is for the page's panel only); must not know anything of Holdfast but its contract.

mod event;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rest::AdminTarget;
use super::wire::{Kind, Wire};
pub(super) use event::{Event, headers_shown};

const PAGE: &str = include_str!("page.html");
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
    connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
pub(super) const COMMANDS: &str = "application/vnd.holdfast.commands+json";
const JSON: &str = "application/json";
/// The group that every connection is in.
const LOBBY: &str = "lobby";
const NAME_CHARS_MAX: usize = 32;

/// What the handler needs to answer: where Holdfast is, and nothing about who is connected.
pub(super) struct Chat {
    admin: AdminTarget,
    websocket_url: String,
    pub wire: Wire,
}

/// The response to an event.
pub(super) struct Answer {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    content_type: Option<&'static str>,
    body: Bytes,
}

impl Chat {
    pub fn new(admin: AdminTarget, websocket_url: String) -> Self {
        Self { admin, websocket_url, wire: Wire::new() }
    }

    pub async fn answer(&self, event: &Event) -> Answer {
        match (event.kind.as_str(), event.name.as_str()) {
            ("holdfast.connect", _) => connect(event),
            ("holdfast.disconnect", _) => self.disconnect(event).await,
            ("holdfast.message", "chat.send") => send(event),
            ("holdfast.message", "chat.typing") => typing(event),
            ("holdfast.message", "chat.join") => room(event, true),
            ("holdfast.message", "chat.leave") => room(event, false),
            // A body that is not text or JSON goes back as one binary frame.
            ("holdfast.message", "$binary") => Answer::new(Some("application/octet-stream"), event.body.clone()),
            (kind, name) => Answer::refused(&format!("nothing here answers {kind} {name}")),
        }
    }

    /// Tells the lobby by REST, since the answer to a disconnect has nobody to go to. Holdfast is not asked to try again
    /// if that fails: the wire shows it.
    async fn disconnect(&self, event: &Event) -> Answer {
        let body = json!({"type": "chat.left", "id": event.id, "name": event.context, "connection": event.connection});
        let _ = self.call(Method::POST, &format!("/v1/groups/{LOBBY}/messages"), &body.to_string()).await;
        Answer::empty()
    }

    /// Calls Holdfast's admin listener, with both halves on the wire.
    async fn call(&self, method: Method, path: &str, json: &str) -> Result<super::rest::Response, String> {
        let line = format!("{method} {path}");
        let number = self.wire.record(Kind::Call, None, line, vec![], json.as_bytes());
        let result = self.admin.call(method, path, json).await.map_err(|e| e.to_string());
        let (line, body) = match &result {
            Ok(response) => (status_line(response.status), response.body.as_ref()),
            Err(error) => ("no response".to_owned(), error.as_bytes()),
        };
        self.wire.record(Kind::Outcome, Some(number), line, vec![], body);
        result
    }
}

impl Answer {
    fn new(content_type: Option<&'static str>, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, headers: vec![], content_type, body: body.into() }
    }

    /// One text frame to the sender.
    fn message(data: &Value) -> Self {
        Self::new(Some(JSON), data.to_string())
    }

    /// Commands for Holdfast to run in order.
    fn commands(list: &Value) -> Self {
        Self::new(Some(COMMANDS), list.to_string())
    }

    /// Nothing is sent to anybody.
    fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, ..Self::new(None, Bytes::new()) }
    }

    /// A message becomes an error frame, a connect a refused handshake.
    fn refused(reason: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, ..Self::message(&json!({"error": reason})) }
    }

    fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer as one reply of an RPC worker, if there is anything to say: content type and body.
    pub fn into_reply(self) -> Option<(&'static str, Bytes)> {
        let content_type = self.content_type.unwrap_or(JSON);
        match super::queue::commands(&self.headers, content_type, &self.body) {
            Some(list) => Some((COMMANDS, Value::Array(list).to_string().into())),
            None if self.body.is_empty() => None,
            None => Some((content_type, self.body)),
        }
    }

    fn header_list(&self) -> Vec<(String, String)> {
        let content_type = self.content_type.map(|value| (CONTENT_TYPE.to_string(), value.to_owned()));
        let headers = self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        headers.chain(content_type).collect()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        headers.remove(CONTENT_TYPE);
        for (name, value) in self.headers {
            // Names have no control characters, so their UTF-8 is always a value.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        response
    }
}

/// The routes of the handler's port: events for Holdfast, the rest for the page.
pub(super) fn router(chat: Arc<Chat>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", post(events))
        .route("/settings", get(settings))
        .route("/online", get(online))
        .route("/wire", get(wire))
        .with_state(chat)
}

async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

async fn events(State(chat): State<Arc<Chat>>, headers: HeaderMap, body: Bytes) -> Response {
    let event = match Event::read(&headers, body) {
        Ok(event) => event,
        Err(reason) => return Answer::refused(&reason).into_response(),
    };
    let line = "POST /events".to_owned();
    let number = chat.wire.record(Kind::Event, None, line, headers_shown(&headers), &event.body_shown());
    let answer = chat.answer(&event).await;
    let line = status_line(answer.status);
    chat.wire.record(Kind::Answer, Some(number), line, answer.header_list(), &answer.body);
    answer.into_response()
}

/// What the page must know before it can connect.
async fn settings(State(chat): State<Arc<Chat>>) -> Json<Value> {
    Json(json!({
        "websocket_url": chat.websocket_url,
        "admin_url": format!("http://{}", chat.admin.address),
        "admin_wants_token": chat.admin.token.is_some(),
    }))
}

/// How many connections are in the lobby: Holdfast knows, the handler does not.
async fn online(State(chat): State<Arc<Chat>>) -> Response {
    let unavailable = |reason: String| (StatusCode::BAD_GATEWAY, Json(json!({"error": reason}))).into_response();
    let response = match chat.call(Method::GET, &format!("/v1/groups/{LOBBY}/members"), "").await {
        Ok(response) if response.status == StatusCode::OK => response,
        Ok(response) => return unavailable(format!("the admin listener answered {}", response.status)),
        Err(reason) => return unavailable(reason),
    };
    match super::member_count(&response.body) {
        Some(online) => Json(json!({"online": online})).into_response(),
        None => unavailable("the admin listener's answer holds no list of members".into()),
    }
}

#[derive(Deserialize)]
struct WireQuery {
    #[serde(default)]
    after: u64,
}

async fn wire(State(chat): State<Arc<Chat>>, Query(query): Query<WireQuery>) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(chat.wire.after(query.after))).into_response()
}

/// Says who this is, joins it to the lobby and greets it; the name comes back as the context of every later event.
fn connect(event: &Event) -> Answer {
    let asked = event.json()["query"]["name"].as_str().unwrap_or_default().to_owned();
    let name: String = asked.chars().filter(|c| !c.is_control()).collect();
    let name = match name.trim() {
        "" => format!("guest-{}", &event.connection[event.connection.len().saturating_sub(4)..]),
        name if name.chars().count() > NAME_CHARS_MAX => {
            return Answer::refused(&format!("expected a name of at most {NAME_CHARS_MAX} characters"));
        }
        name => name.to_owned(),
    };
    let welcome = json!({"type": "chat.welcome", "connection": event.connection, "name": name});
    let joined = json!({"type": "chat.joined", "id": event.id, "name": name, "connection": event.connection});
    Answer::commands(&json!([
        {"send": {"data": welcome}},
        {"send": {"to": {"group": LOBBY, "except": [event.connection]}, "data": joined}},
    ]))
    .with_header("holdfast-user", name.clone())
    .with_header("holdfast-context", name)
    .with_header("holdfast-join", LOBBY.to_owned())
}

/// One message to everybody, or to a room. The event's ID goes along, so that a repeated event shows once.
fn send(event: &Event) -> Answer {
    let message = event.json();
    let Some(text) = message["text"].as_str() else { return Answer::refused("expected a text") };
    let room = message["room"].as_str();
    let data = json!({
        "type": "chat.message",
        "id": event.id,
        "from": event.context,
        "connection": event.connection,
        "room": room,
        "text": text,
    });
    Answer::commands(&json!([{"send": {"to": {"group": group(room)}, "data": data}}]))
}

/// The others see that somebody writes; the sender hears nothing.
fn typing(event: &Event) -> Answer {
    let data = json!({"type": "chat.typing", "from": event.context});
    Answer::commands(&json!([{"send": {"to": {"group": LOBBY, "except": [event.connection]}, "data": data}}]))
}

/// Joins or leaves by a header, and says so in the body.
fn room(event: &Event, enter: bool) -> Answer {
    let message = event.json();
    let Some(room) = message["room"].as_str() else { return Answer::refused("expected a room") };
    let header = if enter { "holdfast-join" } else { "holdfast-leave" };
    Answer::message(&json!({"type": "chat.room", "room": room, "entered": enter}))
        .with_header(header, group(Some(room)))
}

fn group(room: Option<&str>) -> String {
    room.map_or_else(|| LOBBY.to_owned(), |room| format!("room:{room}"))
}

fn status_line(status: StatusCode) -> String {
    status.to_string()
}
