//! The one shape of an error of the admin API: `{"error":{"code":"…","message":"…"}}`. Must not know which call failed.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::deliver::Outcome;
use crate::message::Violation;

/// A refusal of an admin call.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// Places of a payload that does not fit its schema.
    pub errors: Vec<Violation>,
    /// Problems of a configuration, a line each.
    pub problems: Vec<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), errors: Vec::new(), problems: Vec::new() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// What an outcome that is no success means to an HTTP client.
    pub fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Full => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "full", "the client does not read fast enough; try again")
            }
            Outcome::TooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "larger than the connection's send buffer")
            }
            Outcome::Invalid(errors) => {
                let message = "the message does not fit the endpoint's push schema";
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message) }
            }
            Outcome::TooManyGroups => {
                Self::new(StatusCode::CONFLICT, "too_many_groups", "the connection is in as many groups as it may be")
            }
            Outcome::Forbidden => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", "the connection's token does not allow this group")
            }
            Outcome::TimedOut => {
                let message = "not written in time; it is queued and may still be written";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message)
            }
            _ => Self::new(StatusCode::GONE, "gone", "there is no such connection, or no more"),
        }
    }

    pub fn body(&self) -> Value {
        let mut body = json!({"error": {"code": self.code, "message": self.message}});
        if !self.errors.is_empty() {
            body["errors"] = json!(self.errors);
        }
        if !self.problems.is_empty() {
            body["problems"] = json!(self.problems);
        }
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
