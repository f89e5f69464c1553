//! An event as the headers and body of a request: CloudEvents 1.0, HTTP binding, binary or structured mode.
//! On the path of every message: one buffer holds all values that are not fixed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::{Contract, Mode};
use crate::message::{Event, Format, Traceparent};

/// Room for every value of a usual event, so that the buffer is allocated once.
const VALUES_BYTES: usize = 384;
/// Room for the attributes of a usual event in JSON.
pub(super) const STRUCTURED_BYTES: usize = 448;
/// The most headers that `build` makes itself.
const HEADERS_MAX: usize = 18;
const STRUCTURED: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const BATCH: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");
const ONE_DOT_ZERO: HeaderValue = HeaderValue::from_static("1.0");

static CE_CONNECTION_ID: HeaderName = HeaderName::from_static("ce-connectionid");
static CE_CONTEXT: HeaderName = HeaderName::from_static("ce-context");
static CE_EVENT: HeaderName = HeaderName::from_static("ce-event");
static CE_ID: HeaderName = HeaderName::from_static("ce-id");
static CE_SEQ: HeaderName = HeaderName::from_static("ce-seq");
static CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
static CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
static CE_TIME: HeaderName = HeaderName::from_static("ce-time");
static CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
static CE_USER_ID: HeaderName = HeaderName::from_static("ce-userid");
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");

pub(super) fn build(contract: &Contract, event: &Event, now: SystemTime) -> (HeaderMap, Bytes) {
    let mut values = Values(BytesMut::with_capacity(VALUES_BYTES));
    let mut headers = fixed(contract);
    let id = values.display(format_args!("{}.{}", event.connection.as_str(), event.seq));
    let body = match contract.mode {
        Mode::Binary => {
            binary(&mut headers, &mut values, event, &id);
            event.body.clone()
        }
        Mode::Structured => {
            headers.insert(CONTENT_TYPE, STRUCTURED);
            let mut json = Vec::with_capacity(STRUCTURED_BYTES + event.body.len() + event.body.len() / 2);
            structured(&mut json, event, None);
            json.into()
        }
    };
    sign(contract, &mut headers, &mut values, &id, &body, now);
    headers.insert(&IDEMPOTENCY_KEY, id);
    headers.insert(&TRACEPARENT, values.display(format_args!("{}", event.traceparent)));
    (headers, body)
}

/// The headers of a request with many events. `id` is visible ASCII.
pub(super) fn build_batch(contract: &Contract, id: &str, body: &Bytes, now: SystemTime) -> HeaderMap {
    let mut values = Values(BytesMut::with_capacity(VALUES_BYTES));
    let mut headers = fixed(contract);
    headers.insert(CONTENT_TYPE, BATCH);
    let id = values.encoded(id);
    sign(contract, &mut headers, &mut values, &id, body, now);
    headers.insert(&IDEMPOTENCY_KEY, id);
    headers
}

fn fixed(contract: &Contract) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS_MAX + contract.fixed.len());
    for (name, value) in &contract.fixed {
        headers.append(name, value.clone());
    }
    headers
}

/// Adds the headers of Standard Webhooks where there is a secret.
fn sign(
    contract: &Contract,
    headers: &mut HeaderMap,
    values: &mut Values,
    id: &HeaderValue,
    body: &[u8],
    now: SystemTime,
) {
    let Some(signer) = &contract.signer else { return };
    let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let signature = signer.sign(id.to_str().unwrap_or_default(), timestamp, body);
    headers.insert(&WEBHOOK_ID, id.clone());
    headers.insert(&WEBHOOK_TIMESTAMP, timestamp.into());
    headers.insert(&WEBHOOK_SIGNATURE, values.display(format_args!("{signature}")));
}

fn binary(headers: &mut HeaderMap, values: &mut Values, event: &Event, id: &HeaderValue) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(event.format.content_type()));
    headers.insert(&CE_SPECVERSION, ONE_DOT_ZERO);
    headers.insert(&CE_TYPE, HeaderValue::from_static(event.kind.type_name()));
    headers.insert(&CE_SOURCE, values.encoded(&event.endpoint));
    headers.insert(&CE_ID, id.clone());
    headers.insert(&CE_TIME, values.display(format_args!("{}", humantime::format_rfc3339_millis(event.time))));
    if let Some(name) = &event.name {
        headers.insert(&CE_EVENT, values.encoded(name));
    }
    headers.insert(&CE_SEQ, event.seq.into());
    headers.insert(&CE_CONNECTION_ID, values.display(format_args!("{}", event.connection.as_str())));
    if let Some(user) = &event.user {
        headers.insert(&CE_USER_ID, values.encoded(user));
    }
    if let Some(context) = &event.context {
        headers.insert(&CE_CONTEXT, values.encoded(context));
    }
}

/// The JSON format of CloudEvents. A JSON body goes in as it is. `traceparent` is there where no header bears it.
pub(super) fn structured(json: &mut Vec<u8>, event: &Event, traceparent: Option<Traceparent>) {
    let connection = event.connection.as_str();
    // Writing to a Vec does not fail.
    let _ = write!(json, r#"{{"specversion":"1.0","id":"{connection}.{}""#, event.seq);
    member(json, "source", &event.endpoint);
    member(json, "type", event.kind.type_name());
    let _ = write!(json, r#","time":"{}","seq":{}"#, humantime::format_rfc3339_millis(event.time), event.seq);
    member(json, "connectionid", connection);
    for (name, value) in [("event", &event.name), ("userid", &event.user), ("context", &event.context)] {
        if let Some(value) = value {
            member(json, name, value);
        }
    }
    if let Some(traceparent) = traceparent {
        let _ = write!(json, r#","traceparent":"{traceparent}""#);
    }
    // An event without a body (none of ours today, but the format allows it) has no data.
    if !(event.body.is_empty() && event.format == Format::Json) {
        member(json, "datacontenttype", event.format.content_type());
        data(json, event);
    }
    json.push(b'}');
}

fn data(json: &mut Vec<u8>, event: &Event) {
    match (event.format, std::str::from_utf8(&event.body)) {
        (Format::Json, _) => {
            json.extend_from_slice(br#","data":"#);
            json.extend_from_slice(&event.body);
        }
        (Format::Text, Ok(text)) => member(json, "data", text),
        (Format::Text | Format::Binary, _) => {
            member(json, "data_base64", &base64::engine::general_purpose::STANDARD.encode(&event.body));
        }
    }
}

fn member(json: &mut Vec<u8>, name: &str, value: &str) {
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    string(json, value);
}

fn string(json: &mut Vec<u8>, value: &str) {
    // Writing a string to a Vec does not fail.
    let _ = serde_json::to_writer(json, value);
}

/// Header values that share one allocation.
struct Values(BytesMut);

impl Values {
    /// A value that is visible ASCII already.
    fn display(&mut self, value: std::fmt::Arguments<'_>) -> HeaderValue {
        // Writing to a BytesMut does not fail.
        let _ = self.0.write_fmt(value);
        self.take()
    }

    /// A value percent-encoded as the HTTP binding says (3.1.3.2): all but visible ASCII, and `"` and `%`.
    fn encoded(&mut self, value: &str) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.0.reserve(value.len());
        for byte in value.bytes() {
            if matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'%' {
                self.0.put_u8(byte);
            } else {
                self.0.put_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        self.take()
    }

    fn take(&mut self) -> HeaderValue {
        // Only visible ASCII was written, and that is always a value.
        HeaderValue::from_maybe_shared(self.0.split().freeze()).unwrap_or(HeaderValue::from_static(""))
    }
}
