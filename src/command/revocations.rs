//! The handlers of revocations: who may no longer be connected, until when. Must not know tokens.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::claims::ClaimPath;
use crate::deliver::Deliver;
use crate::message::command::{close_reason, name};
use crate::revocations::Subject;

type Api<T> = Result<T, ApiError>;

/// The longest time that a revocation may be kept.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest claim path or value.
const CLAIM_BYTES_MAX: usize = 1024;
const LIST_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationBody {
    user: Option<String>,
    jti: Option<String>,
    claim: Option<String>,
    equals: Option<String>,
    ttl: String,
    #[serde(default)]
    reason: String,
}

/// One of `user`, `jti`, and `claim` with `equals`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectFields {
    user: Option<String>,
    jti: Option<String>,
    claim: Option<String>,
    equals: Option<String>,
}

impl SubjectFields {
    fn subject(self) -> Api<Subject> {
        let claim = |path: &str, equals: String| {
            if path.is_empty() || path.len().max(equals.len()) > CLAIM_BYTES_MAX {
                let message = format!("expected a claim and a value of 1 to {CLAIM_BYTES_MAX} bytes");
                return Err(ApiError::bad_request(message));
            }
            Ok(Subject::Claim { path: ClaimPath::new(path), equals })
        };
        match (self.user, self.jti, self.claim, self.equals) {
            (Some(user), None, None, None) => name("user", &user).map(Subject::User).map_err(ApiError::bad_request),
            (None, Some(jti), None, None) => claim("jti", jti),
            (None, None, Some(path), Some(equals)) => claim(&path, equals),
            _ => Err(ApiError::bad_request("expected one of \"user\", \"jti\", and \"claim\" with \"equals\"")),
        }
    }
}

/// Closes those whom it is about and refuses them for the time to live.
pub async fn revoke(State(deliver): State<Arc<Deliver>>, body: Bytes) -> Api<Json<Value>> {
    let body: RevocationBody = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("expected {{\"user\": \"u1\", \"ttl\": \"1h\"}} or the like: {error}"))
    })?;
    let ttl = humantime::parse_duration(&body.ttl).ok().filter(|ttl| !ttl.is_zero() && *ttl <= TTL_MAX);
    let ttl = ttl.ok_or_else(|| {
        ApiError::bad_request(format!("expected a \"ttl\" of at most 366 days such as \"1h\", found {:?}", body.ttl))
    })?;
    let reason = close_reason(body.reason).map_err(ApiError::bad_request)?;
    let until = SystemTime::now() + ttl;
    let subject = SubjectFields { user: body.user, jti: body.jti, claim: body.claim, equals: body.equals };
    let closed = deliver.revoke(subject.subject()?, until, &reason);
    let closed = closed.map_err(|full| ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "full", full.to_string()))?;
    Ok(Json(json!({"closed": closed, "until": time(until)})))
}

/// Takes a revocation back.
pub async fn restore(State(deliver): State<Arc<Deliver>>, Query(subject): Query<SubjectFields>) -> Api<StatusCode> {
    match deliver.revocations().remove(&subject.subject()?) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such revocation")),
    }
}

/// Those in force.
pub async fn list(State(deliver): State<Arc<Deliver>>) -> Json<Value> {
    let (some, total) = deliver.revocations().list(SystemTime::now(), LIST_MAX);
    let some = some.into_iter().map(|(subject, until)| match subject {
        Subject::User(user) => json!({"user": user, "until": time(until)}),
        Subject::Claim { path, equals } => json!({"claim": path.as_str(), "equals": equals, "until": time(until)}),
    });
    Json(json!({"total": total, "revocations": some.collect::<Vec<_>>()}))
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
