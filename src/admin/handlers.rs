//! The handlers of calls about the program itself. Must not know how calls are authorised.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::stats::{self, Stats};
use super::{AdminState, ConfigStatus, Readiness, Reloaded, openapi};
use crate::command::ApiError;
use crate::telemetry::classic::{CLASSIC, classic};

/// Who accepts this gets it.
const OPEN_METRICS: &str = "application/openmetrics-text";

pub async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub async fn readyz(State(state): State<AdminState>) -> (StatusCode, Json<Readiness>) {
    let readiness = state.control.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

pub async fn metrics(State(state): State<AdminState>, headers: HeaderMap) -> impl IntoResponse {
    let waiting = state.deliver.registry().mailbox_bytes();
    state.metrics.mailbox_bytes.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    let revocations = state.deliver.revocations().len();
    state.metrics.revocations.set(i64::try_from(revocations).unwrap_or(i64::MAX));
    let text = state.metrics.encode();
    let accepted = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    match accepted.into_iter().any(|value| value.contains(OPEN_METRICS)) {
        true => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text),
        false => ([(CONTENT_TYPE, CLASSIC)], classic(&text)),
    }
}

pub async fn stats(State(state): State<AdminState>) -> Json<Stats> {
    Json(stats::stats(&state.metrics.encode()))
}

pub async fn openapi() -> Json<Value> {
    Json(openapi::document())
}

pub async fn config(State(state): State<AdminState>) -> Json<ConfigStatus> {
    Json(state.control.config_status())
}

pub async fn reload(State(state): State<AdminState>) -> Result<Json<Reloaded>, ApiError> {
    state.control.reload().await.map(Json).map_err(|problems| {
        let message = "the configuration has problems; the old one stays";
        ApiError { problems, ..ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", message) }
    })
}

pub async fn drain(State(state): State<AdminState>) -> (StatusCode, Json<Value>) {
    state.control.drain();
    (StatusCode::ACCEPTED, Json(json!({"draining": true})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

pub async fn log_level(State(state): State<AdminState>) -> Json<Value> {
    Json(json!({"level": state.control.log_level()}))
}

pub async fn set_log_level(State(state): State<AdminState>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let wrong = |error| ApiError::bad_request(format!("expected {{\"level\": \"debug\"}}: {error}"));
    let Level { level } = serde_json::from_slice(&body).map_err(wrong)?;
    state.control.set_log_level(&level).map_err(ApiError::bad_request)?;
    tracing::info!(level, "log level changed");
    Ok(Json(json!({"level": level})))
}
