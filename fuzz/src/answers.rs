//! A handler's response as an answer. Input: a line `connect 200` (or `message`, `disconnect`), header lines `name: value`, an empty
//! line, the body.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use holdfast::message::{Answer, Command, EventKind, Failure, Target};
use holdfast::upstream::contract::{Refusal, is_retryable, read};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::check;

pub fn run(data: &[u8]) {
    let mut rest = data;
    let Some((kind, status)) = check::text_line(&mut rest).and_then(|line| line.split_once(' ')) else { return };
    let kind = match kind {
        "connect" => EventKind::Connect,
        "disconnect" => EventKind::Disconnect,
        _ => EventKind::Message,
    };
    let Some(status) = status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) else { return };
    let mut headers = HeaderMap::new();
    while headers.len() < 100 {
        let line = check::line(&mut rest);
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        // As hyper reads them: what no header may hold never comes this far.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    match read(kind, status, &headers, Bytes::copy_from_slice(rest), now) {
        Ok(answer) => {
            assert!(status.is_success(), "{status} is not an answer");
            accepted(kind, &headers, rest, &answer);
        }
        Err(refusal) => refused(status, &headers, rest, refusal),
    }
}

fn accepted(kind: EventKind, headers: &HeaderMap, body: &[u8], answer: &Answer) {
    answer.commands.iter().for_each(|command| check::command(command, true));
    // The short form of a close is carried out last.
    if headers.contains_key("holdfast-close") {
        assert!(matches!(answer.commands.last(), Some(Command::Close { to: Target::Sender, .. })));
    }
    for name in ["holdfast-context", "holdfast-user", "holdfast-close"] {
        assert!(headers.get_all(name).iter().count() <= 1, "{name} twice");
    }
    if kind != EventKind::Connect {
        assert!(answer.user.is_none() && answer.subprotocol.is_none(), "only the answer to a connect says who");
    }
    if let Some(user) = &answer.user {
        check::name(user);
    }
    if let Some(subprotocol) = &answer.subprotocol {
        assert!(HeaderName::from_bytes(subprotocol.as_bytes()).is_ok(), "not a token: {subprotocol:?}");
    }
    if let Some(reply) = &answer.reply {
        check::payload(reply);
        assert_eq!(reply.bytes(), body, "the body goes on as it is");
    }
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8], refusal: Refusal) {
    match refusal {
        Refusal::Retry { status: told, retry_after } => {
            assert!(is_retryable(status) && told == status.as_u16());
            assert!(retry_after.is_none() || headers.contains_key("retry-after"));
        }
        Refusal::Final(Failure::Rejected { status: told, content_type, body: told_body }) => {
            assert!((300..500).contains(&told) && told == status.as_u16() && !is_retryable(status));
            assert!(told_body == body, "the body goes on as it is");
            assert!(content_type.is_none_or(|text| HeaderValue::from_str(&text).is_ok()));
        }
        Refusal::Final(Failure::Broken { reason }) => check::words(&reason),
        Refusal::Final(other) => panic!("a response is not {other:?}"),
    }
}
