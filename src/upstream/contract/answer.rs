//! A handler's response as an `Answer`, or why it is none (the table in DESIGN section 2).
//! Knows statuses, headers and media types; must not know who asks or who will carry the commands out.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::retry;
use crate::codes::CloseCode;
use crate::message::command::{self, COMMANDS_MEDIA_TYPE};
use crate::message::{Answer, Command, EventKind, Failure, Payload, Target, is_text, one_line};

/// What the names of Holdfast's own headers begin with.
const PREFIX: &str = "holdfast-";

/// Why a response is not an answer.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// For good: no other attempt will be made.
    Final(Failure),
    /// 408, 429 and 5xx: to be tried again, not before `retry_after`.
    Retry { status: u16, retry_after: Option<Duration> },
}

/// True for the statuses after which an event is tried again.
pub fn is_retryable(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// True for the headers that may mean something in an answer; no other need be kept.
pub fn has_meaning(name: &str) -> bool {
    let is = |known: &HeaderName| name.eq_ignore_ascii_case(known.as_str());
    is(&CONTENT_TYPE)
        || is(&CONTENT_ENCODING)
        || is(&RETRY_AFTER)
        || is(&SEC_WEBSOCKET_PROTOCOL)
        || name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// Reads a response to an event of this kind.
pub fn read(
    kind: EventKind,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
    now: SystemTime,
) -> Result<Answer, Refusal> {
    if !status.is_success() {
        return Err(refused(status, headers, &body, now));
    }
    accepted(kind, headers, body)
        .map_err(|reason| format!("status {status}: {reason}"))
        .map_err(|reason| Refusal::Final(Failure::Broken { reason: one_line(&reason) }))
}

/// Refuses a body that would have to be unpacked: none was asked for, and a small one could become large.
pub fn check_coding(headers: &HeaderMap) -> Result<(), String> {
    match headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        Some(coding) => Err(format!("expected a body without content-encoding, found {coding:?}")),
        None => Ok(()),
    }
}

/// What a status that is not 2xx means.
pub fn refused(status: StatusCode, headers: &HeaderMap, body: &Bytes, now: SystemTime) -> Refusal {
    if is_retryable(status) {
        let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = value.and_then(|value| retry::parse_retry_after(value, now));
        return Refusal::Retry { status: status.as_u16(), retry_after };
    }
    match status.as_u16() {
        // A redirect is never followed: it would send clients' messages where the settings do not say.
        300..=499 => {
            let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            Refusal::Final(Failure::Rejected { status: status.as_u16(), content_type, body: body.clone() })
        }
        other => Refusal::Final(Failure::Broken { reason: format!("expected a status of 200 to 599, found {other}") }),
    }
}

fn accepted(kind: EventKind, headers: &HeaderMap, body: Bytes) -> Result<Answer, String> {
    let mut answer = Answer::default();
    let close = read_headers(kind, headers, &mut answer)?;
    if !body.is_empty() {
        check_coding(headers)?;
        read_body(headers.get(CONTENT_TYPE), body, &mut answer)?;
    }
    // Last, so that whatever else the answer says still reaches the connection.
    answer.commands.extend(close);
    Ok(answer)
}

fn read_body(content_type: Option<&HeaderValue>, body: Bytes, answer: &mut Answer) -> Result<(), String> {
    let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(COMMANDS_MEDIA_TYPE) {
        let commands = Command::parse_list(&body, true).map_err(|e| e.to_string())?;
        answer.commands.extend(commands);
        return Ok(());
    }
    let payload = if is_text(media_type) {
        Payload::text_from_bytes(body).map_err(|e| format!("expected UTF-8 in a body of {media_type}: {e}"))?
    } else {
        Payload::binary(body)
    };
    answer.reply = Some(payload);
    Ok(())
}

/// Reads the `Holdfast-…` headers, one pass over all headers since most answers have none; returns the close.
fn read_headers(kind: EventKind, headers: &HeaderMap, answer: &mut Answer) -> Result<Option<Command>, String> {
    let mut close = None;
    let mut context = None;
    for (name, value) in headers {
        if kind == EventKind::Connect && name == SEC_WEBSOCKET_PROTOCOL {
            once(&mut answer.subprotocol, name, subprotocol(value)?)?;
            continue;
        }
        let Some(what) = name.as_str().strip_prefix(PREFIX) else { continue };
        let text = || std::str::from_utf8(value.as_bytes()).map_err(|_| format!("{name}: expected UTF-8"));
        let named = |reason: String| format!("{name}: {reason}");
        let group = || command::name("group", text()?).map_err(named);
        match what {
            "context" => once(&mut context, name, command::context(text()?).map_err(named)?)?,
            "user" if kind != EventKind::Connect => {
                return Err(format!("{name}: expected only in the answer to a connect"));
            }
            "user" => once(&mut answer.user, name, command::name("user", text()?).map_err(named)?)?,
            "join" => answer.commands.push(Command::Join { connection: None, group: group()? }),
            "leave" => answer.commands.push(Command::Leave { connection: None, group: group()? }),
            "close" => once(&mut close, name, parse_close(text()?).map_err(named)?)?,
            _ => {}
        }
    }
    if let Some(value) = context {
        answer.commands.insert(0, Command::Context { connection: None, value });
    }
    Ok(close.map(|(code, reason)| Command::Close { to: Target::Sender, code, reason }))
}

fn once<T>(place: &mut Option<T>, name: &HeaderName, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{name}: expected at most once")),
    }
}

/// `4400 reason`, or the code alone.
fn parse_close(text: &str) -> Result<(CloseCode, String), String> {
    let (code, reason) = text.split_once(' ').unwrap_or((text, ""));
    let code = code.parse().map_err(|_| "expected a close code and a reason, such as `4400 bye`")?;
    Ok((command::close_code(code)?, command::close_reason(reason.trim().to_owned())?))
}

/// One token (RFC 9110 section 5.6.2).
fn subprotocol(value: &HeaderValue) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.bytes().all(is_token) => Ok(text.to_owned()),
        _ => Err("sec-websocket-protocol: expected one subprotocol".into()),
    }
}
