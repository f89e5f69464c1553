//! Turns refusals and failures into the error frames of DESIGN section 4. Must not know who asked.

use serde::Serialize;

use crate::codes::ErrorCode;
use crate::message::{Failure, Payload, Reject, Violation};

#[derive(Serialize)]
struct ErrorFrame<'a> {
    r#type: &'static str,
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// The frame that tells a client why its message `seq` was refused.
pub fn error_frame(reject: &Reject, seq: u64) -> Payload {
    let frame = ErrorFrame {
        r#type: "error",
        code: reject.code.as_str(),
        message: &reject.message,
        event: reject.event.as_deref(),
        seq,
        status: reject.status,
        retry_after_ms: reject.retry_after_ms,
        errors: &reject.errors,
    };
    // Serialising strings and numbers to memory does not fail.
    Payload::text(serde_json::to_string(&frame).unwrap_or_default())
}

/// The frame that tells a client that its message `seq` is with its upstream, on a route that says `ack: true`.
pub fn ack_frame(seq: u64) -> Payload {
    Payload::text(format!(r#"{{"type":"ack","seq":{seq}}}"#))
}

/// The frame that tells a client of its token: `accepted` after a new one, `expiring` before its end. `left_ms` is none for a token
/// that does not end.
pub fn token_frame(state: &str, left_ms: Option<u64>) -> Payload {
    Payload::text(serde_json::json!({"type": "token", "state": state, "expires_in_ms": left_ms}).to_string())
}

/// What a client is told of an upstream's failure: never the inside's addresses or errors.
pub fn reject_of(failure: &Failure) -> Reject {
    match failure {
        Failure::Rejected { status, .. } => {
            let mut reject = Reject::new(ErrorCode::UpstreamRejected, format!("the upstream answered {status}"));
            reject.status = Some(*status);
            reject
        }
        Failure::Unavailable { .. } => {
            Reject::new(ErrorCode::UpstreamUnavailable, "the upstream could not take the message before its deadline")
        }
        Failure::Timeout => {
            Reject::new(ErrorCode::UpstreamTimeout, "the upstream did not answer before the message's deadline")
        }
        Failure::Unroutable { reason } => {
            Reject::new(ErrorCode::Unroutable, format!("the broker has no queue for the message: {reason}"))
        }
        Failure::Nacked => Reject::new(ErrorCode::UpstreamRejected, "the broker refused the message"),
        Failure::Overloaded => Reject::new(ErrorCode::Overloaded, "the upstream has too many calls waiting"),
        Failure::Broken { .. } => Reject::new(ErrorCode::Internal, "the upstream's answer could not be used"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_frame_reads_as_the_design_shows_it() {
        let mut reject = Reject::new(ErrorCode::SchemaViolation, "no");
        reject.event = Some("chat.send".into());
        reject.errors = vec![Violation { pointer: "/text".into(), message: "too long".into() }];
        let frame = error_frame(&reject, 7);
        assert_eq!(
            std::str::from_utf8(frame.bytes()).expect("text"),
            r#"{"type":"error","code":"schema_violation","message":"no","event":"chat.send","seq":7,"errors":[{"pointer":"/text","message":"too long"}]}"#
        );
    }

    #[test]
    fn a_client_hears_nothing_of_the_inside() {
        let failure = Failure::Unavailable { reason: "10.0.0.7:3000 refused".into() };
        let frame = error_frame(&reject_of(&failure), 1);
        assert!(!String::from_utf8_lossy(frame.bytes()).contains("10.0.0.7"));
    }
}
