//! The handlers of the calls under `/v1` that reach connections (DESIGN section 3). Must not know routes or tokens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::connection::Connection;
use crate::deliver::{Deliver, Outcome};
use crate::ids::ConnectionId;
use crate::message::command::{close_code, close_reason, name};
use crate::message::{Command, Payload, Target};

pub(super) type Api<T> = Result<T, ApiError>;
pub(super) type Delivering = State<Arc<Deliver>>;

/// How long a push waits for its bytes to be written unless it says so.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT_MAX: Duration = Duration::from_secs(60);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Default, Deserialize)]
pub struct PushQuery {
    wait: Option<String>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
pub struct ExceptQuery {
    #[serde(default)]
    except: String,
}

#[derive(Deserialize)]
pub struct CloseQuery {
    code: Option<u16>,
    #[serde(default)]
    reason: String,
}

pub async fn push(
    State(deliver): Delivering,
    Path(id): Path<String>,
    Query(query): Query<PushQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Api<Response> {
    push_to(&deliver, &parse_id(&id)?, &query, &headers, body).await
}

/// Sends to one connection, and waits as the query says.
pub async fn push_to(
    deliver: &Deliver,
    id: &ConnectionId,
    query: &PushQuery,
    headers: &HeaderMap,
    body: Bytes,
) -> Api<Response> {
    let wait = wait_of(query)?;
    match deliver.push(id, payload(headers, body)?, wait).await {
        Outcome::Queued => Ok(told(StatusCode::ACCEPTED, r#"{"outcome":"queued"}"#)),
        Outcome::Written => Ok(told(StatusCode::OK, r#"{"outcome":"written"}"#)),
        refused => Err(ApiError::of_outcome(refused)),
    }
}

pub async fn get(State(deliver): Delivering, Path(id): Path<String>) -> Api<Json<Value>> {
    let connection = deliver.registry().get(&parse_id(&id)?);
    connection.map(|connection| Json(facts(&connection))).ok_or_else(|| ApiError::of_outcome(Outcome::Gone))
}

pub async fn close(
    State(deliver): Delivering,
    Path(id): Path<String>,
    Query(query): Query<CloseQuery>,
) -> Api<StatusCode> {
    let to = Target::Connection(parse_id(&id)?);
    done(deliver.run(&close_command(to, query)?, None))
}

pub async fn group_send(
    State(deliver): Delivering,
    Path(group): Path<String>,
    Query(query): Query<ExceptQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Api<Json<Value>> {
    let group = name("group", &group).map_err(ApiError::bad_request)?;
    send_many(&deliver, Target::Group(group), &query, &headers, body)
}

pub async fn user_send(
    State(deliver): Delivering,
    Path(user): Path<String>,
    Query(query): Query<ExceptQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Api<Json<Value>> {
    let user = name("user", &user).map_err(ApiError::bad_request)?;
    send_many(&deliver, Target::User(user), &query, &headers, body)
}

pub async fn broadcast(
    State(deliver): Delivering,
    Query(query): Query<ExceptQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Api<Json<Value>> {
    send_many(&deliver, Target::All, &query, &headers, body)
}

pub async fn group_members(State(deliver): Delivering, Path(group): Path<String>) -> Api<Json<Value>> {
    let group = name("group", &group).map_err(ApiError::bad_request)?;
    Ok(Json(json!({"members": ids(&deliver.registry().group(&group))})))
}

pub async fn join(State(deliver): Delivering, Path((group, id)): Path<(String, String)>) -> Api<StatusCode> {
    let group = name("group", &group).map_err(ApiError::bad_request)?;
    done(deliver.run(&Command::Join { connection: Some(parse_id(&id)?), group }, None))
}

pub async fn leave(State(deliver): Delivering, Path((group, id)): Path<(String, String)>) -> Api<StatusCode> {
    let group = name("group", &group).map_err(ApiError::bad_request)?;
    done(deliver.run(&Command::Leave { connection: Some(parse_id(&id)?), group }, None))
}

pub async fn user_connections(State(deliver): Delivering, Path(user): Path<String>) -> Api<Json<Value>> {
    let user = name("user", &user).map_err(ApiError::bad_request)?;
    Ok(Json(json!({"connections": ids(&deliver.registry().user(&user))})))
}

pub async fn user_close(
    State(deliver): Delivering,
    Path(user): Path<String>,
    Query(query): Query<CloseQuery>,
) -> Api<Json<Value>> {
    let user = name("user", &user).map_err(ApiError::bad_request)?;
    Ok(Json(outcome_body(deliver.run(&close_command(Target::User(user), query)?, None))))
}

/// Carries out a list of commands in order. A list with a command at fault is refused whole, before any is carried out.
pub async fn commands(State(deliver): Delivering, body: Bytes) -> Api<Json<Value>> {
    let list = Command::parse_list(&body, false).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let outcomes: Vec<Value> = list
        .iter()
        .map(|command| {
            let outcome = deliver.run(command, None);
            let name = outcome.name();
            let mut body = outcome_body(outcome);
            body["outcome"] = json!(name);
            body
        })
        .collect();
    Ok(Json(json!({"outcomes": outcomes})))
}

fn send_many(deliver: &Deliver, to: Target, query: &ExceptQuery, headers: &HeaderMap, body: Bytes) -> Api<Json<Value>> {
    let listed = query.except.split(',').map(str::trim).filter(|id| !id.is_empty());
    let except = listed.map(parse_id).collect::<Api<Vec<_>>>()?;
    let command = Command::Send { to, except, payload: payload(headers, body)? };
    match deliver.run(&command, None) {
        outcome @ Outcome::Many(_) => Ok(Json(outcome_body(outcome))),
        refused => Err(ApiError::of_outcome(refused)),
    }
}

fn outcome_body(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Many(sum) => json!(sum),
        Outcome::Invalid(errors) => json!({"errors": errors}),
        _ => json!({}),
    }
}

fn done(outcome: Outcome) -> Api<StatusCode> {
    match outcome {
        Outcome::Done => Ok(StatusCode::NO_CONTENT),
        refused => Err(ApiError::of_outcome(refused)),
    }
}

fn close_command(to: Target, query: CloseQuery) -> Api<Command> {
    let code = query.code.unwrap_or(crate::codes::CloseCode::APPLICATION.0);
    let code = close_code(code).map_err(ApiError::bad_request)?;
    Ok(Command::Close { to, code, reason: close_reason(query.reason).map_err(ApiError::bad_request)? })
}

pub(super) fn facts(connection: &Connection) -> Value {
    json!({
        "id": connection.id.as_str(),
        "endpoint": connection.endpoint,
        "user": connection.user,
        "context": connection.context(),
        "groups": connection.groups(),
        "remote_addr": connection.remote_addr.to_string(),
        "subprotocol": connection.subprotocol,
        "opened_at": humantime::format_rfc3339_millis(connection.opened_at).to_string(),
        "received": connection.received.load(Ordering::Relaxed),
        "sent": connection.mailbox.sent(),
        "mailbox_bytes": connection.mailbox.used_bytes(),
    })
}

fn ids(connections: &[Arc<Connection>]) -> Vec<String> {
    connections.iter().map(|connection| connection.id.to_string()).collect()
}

fn parse_id(id: &str) -> Api<ConnectionId> {
    id.parse().map_err(|error: crate::ids::InvalidId| ApiError::bad_request(format!("{id:?} is {error}")))
}

fn wait_of(query: &PushQuery) -> Api<Option<Duration>> {
    match query.wait.as_deref() {
        Some("queued") => return Ok(None),
        Some("written") | None => {}
        Some(other) => {
            return Err(ApiError::bad_request(format!("expected wait=written or wait=queued, found {other:?}")));
        }
    }
    let Some(text) = &query.timeout else { return Ok(Some(WRITE_TIMEOUT)) };
    match humantime::parse_duration(text) {
        Ok(timeout) if timeout <= WRITE_TIMEOUT_MAX => Ok(Some(timeout)),
        _ => Err(ApiError::bad_request(format!("expected a timeout of at most 60s such as 500ms, found {text:?}"))),
    }
}

fn told(status: StatusCode, json: &'static str) -> Response {
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// `text/*` and JSON types are text frames, others binary; without a type, text if it is UTF-8.
fn payload(headers: &HeaderMap, body: Bytes) -> Api<Payload> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Copied: a short message that waits for its client must not keep the whole buffer that its request was read into.
    Payload::of_media_type(media_type, Bytes::copy_from_slice(&body)).map_err(ApiError::bad_request)
}
