//! Many events in one request (CloudEvents 1.0, HTTP binding, batched mode), and a response with an answer for each of them.
//! Knows JSON and media types; must not know how batches are filled, or who waits for the answers.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Refusal, check_coding, is_retryable, refused};
use super::head::Head;
use super::{Contract, request};
use crate::codes::CloseCode;
use crate::message::command;
use crate::message::{Answer, Command, Event, Failure, Payload, Target, essence, one_line};

/// The media type of a list of answers.
pub const ANSWERS_MEDIA_TYPE: &str = "application/vnd.holdfast.batch+json";

/// Writes one event of a batch: its structured form, with its own trace.
pub fn write(json: &mut Vec<u8>, event: &Event) {
    request::structured(json, event, Some(event.traceparent));
}

/// Writes the headers of one attempt at `now` to send a batch. `id` is the same for every attempt with the same events.
pub fn headers(contract: &Contract, id: &str, body: &Bytes, now: SystemTime, head: &mut impl Head) {
    request::build_batch(contract, id, body, now, head);
}

/// Reads a response to a batch of `count` events: what became of each, in their order.
pub fn read(
    count: usize,
    status: StatusCode,
    headers: &HeaderMap,
    body: &Bytes,
    now: SystemTime,
) -> Result<Vec<Result<Answer, Refusal>>, Refusal> {
    if !status.is_success() {
        return Err(refused(status, headers, body, now));
    }
    if body.is_empty() {
        return Ok((0..count).map(|_| Ok(Answer::default())).collect());
    }
    let broken = |reason: String| broken(&format!("status {status}: {reason}"));
    check_coding(headers).map_err(broken)?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !essence(content_type).eq_ignore_ascii_case(ANSWERS_MEDIA_TYPE) {
        return Err(broken(format!("expected {ANSWERS_MEDIA_TYPE}, found {content_type:?}")));
    }
    let answers = parse(body).map_err(|error| broken(format!("expected a JSON list of answers: {error}")))?;
    if answers.len() != count {
        return Err(broken(format!("expected an answer for each of {count} events, found {}", answers.len())));
    }
    Ok(answers.into_iter().enumerate().map(|(at, answer)| outcome(at, answer)).collect())
}

fn broken(reason: &str) -> Refusal {
    Refusal::Final(Failure::Broken { reason: one_line(reason) })
}

/// One answer of a list; `null` is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnswer<'a> {
    status: Option<u16>,
    /// With a status that is tried again: seconds.
    retry_after: Option<u32>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    binary: Option<Cow<'a, str>>,
    #[serde(borrow)]
    commands: Option<&'a RawValue>,
    context: Option<String>,
    close: Option<RawClose>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClose {
    code: Option<u16>,
    #[serde(default)]
    reason: String,
}

type Parsed<'a> = Result<Option<RawAnswer<'a>>, serde_json::Error>;

/// One pass where every answer is right; where one is wrong it alone is.
fn parse(body: &[u8]) -> Result<Vec<Parsed<'_>>, serde_json::Error> {
    match serde_json::from_slice::<Vec<Option<RawAnswer<'_>>>>(body) {
        Ok(answers) => Ok(answers.into_iter().map(Ok).collect()),
        Err(_) => {
            let raw: Vec<&RawValue> = serde_json::from_slice(body)?;
            Ok(raw.into_iter().map(|raw| serde_json::from_str(raw.get())).collect())
        }
    }
}

fn outcome(at: usize, parsed: Parsed<'_>) -> Result<Answer, Refusal> {
    let broken = |reason: String| broken(&format!("answer {at}: {reason}"));
    let Some(raw) = parsed.map_err(|error| broken(error.to_string()))? else { return Ok(Answer::default()) };
    let status = raw.status.unwrap_or(200);
    match StatusCode::from_u16(status) {
        Ok(code) if is_retryable(code) => {
            let retry_after = raw.retry_after.map(|seconds| Duration::from_secs(seconds.into()));
            Err(Refusal::Retry { status, retry_after })
        }
        Ok(code) if code.is_success() => accepted(raw).map_err(broken),
        Ok(_) if (300..500).contains(&status) => {
            Err(Refusal::Final(Failure::Rejected { status, content_type: None, body: Bytes::new() }))
        }
        _ => Err(broken(format!("expected a status of 200 to 599, found {status}"))),
    }
}

fn accepted(raw: RawAnswer<'_>) -> Result<Answer, String> {
    let mut answer = Answer { reply: reply(&raw)?, ..Answer::default() };
    if let Some(value) = &raw.context {
        answer.commands.push(Command::Context { connection: None, value: command::context(value)? });
    }
    if let Some(list) = raw.commands {
        answer.commands.extend(Command::parse_list(list.get().as_bytes(), true).map_err(|error| error.to_string())?);
    }
    // Last, so that whatever else the answer says still reaches the connection.
    if let Some(RawClose { code, reason }) = raw.close {
        let code = command::close_code(code.unwrap_or(CloseCode::APPLICATION.0))?;
        answer.commands.push(Command::Close { to: Target::Sender, code, reason: command::close_reason(reason)? });
    }
    Ok(answer)
}

/// Copied out of the response, which a slow client would else keep whole.
fn reply(raw: &RawAnswer<'_>) -> Result<Option<Payload>, String> {
    match (raw.data, &raw.text, &raw.binary) {
        (None, None, None) => Ok(None),
        (Some(data), None, None) => Ok(Some(Payload::text(data.get()))),
        (None, Some(text), None) => Ok(Some(Payload::text(&**text))),
        (None, None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(&**encoded)
            .map(|bytes| Some(Payload::binary(bytes)))
            .map_err(|error| format!("expected base64 in \"binary\": {error}")),
        _ => Err("expected at most one of \"data\", \"text\" and \"binary\"".into()),
    }
}

#[cfg(test)]
mod tests;
