//! Who may call the admin listener, and one shape for every refusal. Must not know what a call does.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use secrecy::{ExposeSecret, SecretString};

use super::operations::OPEN_PATHS;
use crate::command::ApiError;

/// The longest refusal of the framework's own that is passed on.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Lets a request pass if it bears the token. Without a token, anyone on loopback may call, but no page of a browser.
pub async fn authorise(State(token): State<Option<Arc<SecretString>>>, request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let Some(token) = token else {
        if request.headers().contains_key(ORIGIN) {
            let message = "a browser's page may not call a listener that has no token; set admin.token";
            return ApiError::new(StatusCode::FORBIDDEN, "forbidden", message).into_response();
        }
        return next.run(request).await;
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let fits = given.is_some_and(|given| same(given, token.expose_secret().as_bytes()));
    if fits {
        return next.run(request).await;
    }
    let message = "expected `Authorization: Bearer` with the token of admin.token";
    let mut refusal = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refusal
}

/// Gives the framework's own refusals (404, 405, 400, 413) the shape of all others.
pub async fn shape(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if !(response.status().is_client_error() || response.status().is_server_error()) || is_json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let mut message = String::from_utf8_lossy(&text).into_owned();
    if message.is_empty() {
        message = head.status.canonical_reason().unwrap_or("refused").to_lowercase();
    }
    let code = match head.status {
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ => "bad_request",
    };
    let body = ApiError::new(head.status, code, message).body().to_string();
    head.headers.remove(http::header::CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, Body::from(body))
}

/// Compares hashes in constant time, so that neither bytes nor length can be guessed by the clock.
fn same(given: &[u8], token: &[u8]) -> bool {
    let hash = |bytes| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    aws_lc_rs::constant_time::verify_slices_are_equal(hash(given).as_ref(), hash(token).as_ref()).is_ok()
}
