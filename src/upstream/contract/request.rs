//! An event as the headers and body of a request: CloudEvents 1.0, HTTP binding, binary or structured mode.
//! On the path of every message: what is written goes straight to where it leaves from.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};

use super::head::Head;
use super::{Contract, Mode};
use crate::message::text::{decimal, quoted, rfc3339};
use crate::message::{Event, Format, Traceparent};

/// Room for the attributes of a usual event in JSON.
const STRUCTURED_BYTES: usize = 448;
const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

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

/// Writes the headers of one event's request and gives back its body.
pub(super) fn build<'a>(
    contract: &Contract,
    event: &'a Event,
    now: SystemTime,
    head: &mut impl Head,
) -> Cow<'a, Bytes> {
    head.fixed(&contract.fixed);
    let body = match contract.mode {
        Mode::Binary => {
            binary(head, event);
            Cow::Borrowed(&event.body)
        }
        Mode::Structured => {
            put(head, &CONTENT_TYPE, STRUCTURED);
            let mut json = Vec::with_capacity(STRUCTURED_BYTES + event.body.len() + event.body.len() / 2);
            structured(&mut json, event, None);
            Cow::Owned(json.into())
        }
    };
    sign(contract, head, |out| id(out, event), &body, now);
    head.put(&TRACEPARENT, |out| out.extend_from_slice(&event.traceparent.text()));
    body
}

/// Writes the headers of a request with many events.
pub(super) fn build_batch(contract: &Contract, id: &str, body: &Bytes, now: SystemTime, head: &mut impl Head) {
    head.fixed(&contract.fixed);
    put(head, &CONTENT_TYPE, BATCH);
    sign(contract, head, |out| out.extend_from_slice(id.as_bytes()), body, now);
}

/// Adds the request's key, and the headers of Standard Webhooks where there is a secret.
fn sign(contract: &Contract, head: &mut impl Head, id: impl Fn(&mut Vec<u8>), body: &[u8], now: SystemTime) {
    head.put(&IDEMPOTENCY_KEY, &id);
    let Some(signer) = &contract.signer else { return };
    let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = Vec::new();
    id(&mut text);
    let signature = signer.sign(&text, timestamp, body);
    head.put(&WEBHOOK_ID, &id);
    head.put(&WEBHOOK_TIMESTAMP, |out| decimal(out, timestamp));
    put(head, &WEBHOOK_SIGNATURE, &signature);
}

fn binary(head: &mut impl Head, event: &Event) {
    put(head, &CONTENT_TYPE, event.format.content_type());
    put(head, &CE_SPECVERSION, "1.0");
    put(head, &CE_TYPE, event.kind.type_name());
    head.put(&CE_SOURCE, |out| encoded(out, &event.endpoint));
    head.put(&CE_ID, |out| id(out, event));
    head.put(&CE_TIME, |out| out.extend_from_slice(&rfc3339(event.time)));
    head.put(&CE_SEQ, |out| decimal(out, event.seq));
    put(head, &CE_CONNECTION_ID, event.connection.as_str());
    for (name, value) in [(&CE_EVENT, &event.name), (&CE_USER_ID, &event.user), (&CE_CONTEXT, &event.context)] {
        if let Some(value) = value {
            head.put(name, |out| encoded(out, value));
        }
    }
}

/// The event's ID: the same on every attempt.
fn id(out: &mut Vec<u8>, event: &Event) {
    out.extend_from_slice(event.connection.as_bytes());
    out.push(b'.');
    decimal(out, event.seq);
}

fn put(head: &mut impl Head, name: &'static HeaderName, value: &str) {
    head.put(name, |out| out.extend_from_slice(value.as_bytes()));
}

/// The JSON format of CloudEvents. A JSON body goes in as it is. `traceparent` is there where no header bears it.
pub(super) fn structured(json: &mut Vec<u8>, event: &Event, traceparent: Option<Traceparent>) {
    let put = |json: &mut Vec<u8>, part: &[u8]| json.extend_from_slice(part);
    put(json, br#"{"specversion":"1.0","id":""#);
    id(json, event);
    put(json, br#"","source":"#);
    quoted(json, &event.endpoint);
    put(json, br#","type":""#);
    put(json, event.kind.type_name().as_bytes());
    put(json, br#"","time":""#);
    put(json, &rfc3339(event.time));
    put(json, br#"","seq":"#);
    decimal(json, event.seq);
    put(json, br#","connectionid":""#);
    put(json, event.connection.as_bytes());
    json.push(b'"');
    member(json, br#","event":"#, event.name.as_deref());
    member(json, br#","userid":"#, event.user.as_deref());
    member(json, br#","context":"#, event.context.as_deref());
    if let Some(traceparent) = traceparent {
        put(json, br#","traceparent":""#);
        put(json, &traceparent.text());
        json.push(b'"');
    }
    // An event without a body (none of ours today, but the format allows it) has no data.
    if !(event.body.is_empty() && event.format == Format::Json) {
        put(json, br#","datacontenttype":""#);
        put(json, event.format.content_type().as_bytes());
        json.push(b'"');
        data(json, event);
    }
    json.push(b'}');
}

fn data(json: &mut Vec<u8>, event: &Event) {
    if event.format == Format::Json {
        json.extend_from_slice(br#","data":"#);
        json.extend_from_slice(&event.body);
        return;
    }
    match std::str::from_utf8(&event.body) {
        Ok(text) if event.format == Format::Text => member(json, br#","data":"#, Some(text)),
        _ => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(&event.body);
            member(json, br#","data_base64":"#, Some(&encoded));
        }
    }
}

fn member(json: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        json.extend_from_slice(name);
        quoted(json, value);
    }
}

/// Percent-encodes as the HTTP binding says (3.1.3.2): all but visible ASCII, and `"` and `%`.
fn encoded(out: &mut Vec<u8>, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let is_plain = |byte: u8| matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'%';
    if value.bytes().all(is_plain) {
        return out.extend_from_slice(value.as_bytes());
    }
    for byte in value.bytes() {
        match is_plain(byte) {
            true => out.push(byte),
            false => out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}
