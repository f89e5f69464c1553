//! The contract by tables: what a request says, what a response means.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use secrecy::SecretString;

use super::*;
use crate::codes::CloseCode;
use crate::message::{Answer, Command, EventKind, Failure, Format, Payload, Target, Traceparent};

const ID: &str = "abcdefgh-abcdefghijkmnopqrstu";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn event(format: Format, body: &'static str) -> Event {
    Event {
        attempts: Default::default(),
        kind: EventKind::Message,
        connection: ID.parse().expect("an ID"),
        seq: 7,
        endpoint: "/ws".into(),
        name: Some("chat.send".into()),
        name_is_literal: true,
        user: Some("Zoë \"100%\"".into()),
        context: None,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_614_265_330_250),
        traceparent: Traceparent { trace_id: 0xabc, span_id: 0xdef, sampled: true },
        body: Bytes::from_static(body.as_bytes()),
        format,
    }
}

fn contract(mode: Mode, secret: Option<&str>) -> Contract {
    let headers = [(HeaderName::from_static("x-api-key"), SecretString::from("k1"))];
    Contract::new(mode, secret.map(SecretString::from).as_ref(), &headers).expect("valid settings")
}

/// The request as a map of headers and a body.
trait Ask {
    fn ask(&self, event: &Event, now: SystemTime) -> (HeaderMap, Bytes);
}

impl Ask for Contract {
    fn ask(&self, event: &Event, now: SystemTime) -> (HeaderMap, Bytes) {
        let mut map = head::Map::default();
        let body = self.request(event, now, &mut map);
        let headers = map.into_headers();
        // The lines of HTTP/1.1 say the same.
        let mut lines = Vec::new();
        assert_eq!(self.request(event, now, &mut head::Lines(&mut lines)), body);
        let read =
            std::str::from_utf8(&lines).expect("ASCII").lines().map(|line| line.split_once(": ").expect("a line"));
        let written: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII"))).collect();
        let (mut read, mut written) = (read.collect::<Vec<_>>(), written);
        read.sort_unstable();
        written.sort_unstable();
        assert_eq!(read, written);
        (headers, body.into_owned())
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or("(none)")
}

#[test]
fn binary_mode_puts_the_attributes_into_headers_and_leaves_the_body() {
    let event = event(Format::Json, r#"{"type":  "chat.send"}"#);
    let (headers, body) = contract(Mode::Binary, None).ask(&event, SystemTime::now());
    assert_eq!(body, event.body);
    let id = format!("{ID}.7");
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "holdfast.message"),
        ("ce-source", "/ws"),
        ("ce-id", &id),
        ("idempotency-key", &id),
        ("ce-time", "2021-02-25T15:02:10.250Z"),
        ("ce-event", "chat.send"),
        ("ce-seq", "7"),
        ("ce-connectionid", ID),
        ("ce-userid", "Zo%C3%AB%20%22100%25%22"),
        ("ce-context", "(none)"),
        ("content-type", "application/json"),
        ("traceparent", "00-00000000000000000000000000000abc-0000000000000def-01"),
        ("x-api-key", "k1"),
        ("user-agent", concat!("holdfast/", env!("CARGO_PKG_VERSION"))),
        ("webhook-id", "(none)"),
    ] {
        assert_eq!(header(&headers, name), value, "{name}");
    }
}

#[test]
fn structured_mode_holds_the_body_in_the_way_of_its_format() {
    for (format, body, name, data) in [
        (Format::Json, r#"{"a":  1e400}"#, "data", r#"{"a":  1e400}"#),
        (Format::Text, "say \"hi\"\n", "data", r#""say \"hi\"\n""#),
        (Format::Binary, "\u{1}\u{2}", "data_base64", "\"AQI=\""),
    ] {
        let event = event(format, body);
        let (headers, json) = contract(Mode::Structured, None).ask(&event, SystemTime::now());
        assert_eq!(header(&headers, "content-type"), "application/cloudevents+json");
        assert_eq!(header(&headers, "idempotency-key"), format!("{ID}.7"));
        assert_eq!(header(&headers, "ce-id"), "(none)");
        let parsed: std::collections::HashMap<String, &serde_json::value::RawValue> =
            serde_json::from_slice(&json).expect("JSON");
        assert_eq!(parsed[name].get(), data);
        let datacontenttype = format!("\"{}\"", format.content_type());
        for (name, value) in [
            ("specversion", "\"1.0\""),
            ("type", "\"holdfast.message\""),
            ("source", "\"/ws\""),
            ("id", &format!("\"{ID}.7\"")),
            ("time", "\"2021-02-25T15:02:10.250Z\""),
            ("seq", "7"),
            ("event", "\"chat.send\""),
            ("connectionid", &format!("\"{ID}\"")),
            ("userid", r#""Zoë \"100%\"""#),
            ("datacontenttype", &datacontenttype),
        ] {
            assert_eq!(parsed[name].get(), value, "{name}");
        }
        assert!(!parsed.contains_key("context"));
    }
}

#[test]
fn the_standard_webhooks_vector_is_signed_alike() {
    let signer = Signer::new(SECRET).expect("a secret");
    assert_eq!(
        signer.sign(b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    );
}

#[test]
fn a_signature_covers_the_body_on_the_wire_and_the_attempt_s_time() {
    for mode in [Mode::Binary, Mode::Structured] {
        let contract = contract(mode, Some(SECRET));
        let mut signatures = Vec::new();
        for seconds in [1_614_265_330, 1_614_265_331] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let (headers, body) = contract.ask(&event(Format::Json, "{}"), now);
            let id = format!("{ID}.7");
            assert_eq!(header(&headers, "webhook-id"), id);
            assert_eq!(header(&headers, "webhook-timestamp"), seconds.to_string());
            let expected = Signer::new(SECRET).expect("a secret").sign(id.as_bytes(), seconds, &body);
            assert_eq!(header(&headers, "webhook-signature"), expected);
            signatures.push(expected);
        }
        assert_ne!(signatures[0], signatures[1]);
    }
}

#[test]
fn bad_secrets_and_headers_are_refused_without_being_shown() {
    let short = format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode("tooshort"));
    for secret in ["hunter2", "whsec_hunter2!", &short] {
        let error = Signer::new(secret).expect_err(secret);
        assert!(!error.contains("hunter2") && !error.contains(&short[6..]), "{error}");
    }
    for (name, value) in [("host", "a"), ("ce-id", "a"), ("content-type", "a"), ("x-key", "hunter2\n")] {
        let headers = [(HeaderName::from_static(name), SecretString::from(value))];
        let error = Contract::new(Mode::Binary, None, &headers).expect_err(name);
        assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
    }
}

proptest! {
    #[test]
    fn what_is_percent_encoded_reads_back(context in "\\PC{0,40}|[ -~]{0,40}") {
        let mut event = event(Format::Json, "{}");
        event.context = Some(context.as_str().into());
        let (headers, _) = contract(Mode::Binary, None).ask(&event, SystemTime::now());
        let encoded = header(&headers, "ce-context");
        prop_assert!(encoded.bytes().all(|b| b.is_ascii_graphic() && b != b'"'));
        prop_assert_eq!(decode(encoded), context);
    }
}

fn decode(encoded: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(&tail[..2]).expect("ASCII");
            bytes.push(u8::from_str_radix(hex, 16).expect("hex"));
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn answer_to(kind: EventKind, status: u16, headers: &[(&str, &str)], body: &'static [u8]) -> Result<Answer, Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    let status = StatusCode::from_u16(status).expect("a status");
    read(kind, status, &map, Bytes::from_static(body), SystemTime::UNIX_EPOCH)
}

#[test]
fn a_body_becomes_a_frame_by_its_media_type() {
    for (content_type, text) in [
        (Some("application/json"), true),
        (Some("Application/JSON; charset=utf-8"), true),
        (Some("application/problem+json"), true),
        (Some("application/cloudevents+JSON;a=b"), true),
        (Some("text/plain"), true),
        (Some("Text/html; charset=utf-8"), true),
        (Some("application/octet-stream"), false),
        (Some("application/jsonlines"), false),
        (Some("image/png"), false),
        (Some("\u{fc}\u{fc}\u{fc}"), false),
        (None, false),
    ] {
        let headers: Vec<_> = content_type.iter().map(|value| ("content-type", *value)).collect();
        let answer = answer_to(EventKind::Message, 200, &headers, b"{}").expect("accepted");
        let payload = if text { Payload::text("{}") } else { Payload::binary("{}") };
        assert_eq!(answer, Answer { reply: Some(payload), ..Answer::default() }, "{content_type:?}");
    }
}

#[test]
fn nothing_in_the_body_is_nothing_sent() {
    for status in [200, 202, 204] {
        let headers = [("content-type", "application/vnd.holdfast.commands+json")];
        assert_eq!(answer_to(EventKind::Message, status, &headers, b""), Ok(Answer::default()));
    }
}

#[test]
fn commands_come_from_body_and_headers_with_the_close_last() {
    let answer = answer_to(
        EventKind::Connect,
        200,
        &[
            ("content-type", "application/vnd.holdfast.commands+json; charset=utf-8"),
            ("holdfast-close", "4400 see you"),
            ("holdfast-join", "room:1"),
            ("holdfast-leave", "lobby, old"),
            ("holdfast-join", "räume"),
            ("holdfast-context", "cart=ä"),
            ("holdfast-user", "u1"),
            ("sec-websocket-protocol", "chat.v2"),
        ],
        br#"[{"send":{"text":"hi"}}]"#,
    );
    let answer = answer.expect("accepted");
    let join = |group: &str| Command::Join { connection: None, group: group.into() };
    // Headers of one name keep their order; different names come in any, but for context and close.
    assert_eq!(answer.commands[0], Command::Context { connection: None, value: "cart=ä".into() });
    assert!(answer.commands.contains(&join("room:1")) && answer.commands.contains(&join("räume")));
    assert!(answer.commands.contains(&Command::Leave { connection: None, group: "lobby, old".into() }));
    assert_eq!(
        answer.commands[4..],
        [
            Command::Send { to: Target::Sender, except: vec![], payload: Payload::text("hi") },
            Command::Close { to: Target::Sender, code: CloseCode(4400), reason: "see you".into() },
        ]
    );
    assert_eq!((answer.user.as_deref(), answer.subprotocol.as_deref()), (Some("u1"), Some("chat.v2")));
    assert_eq!(answer.reply, None);
}

#[test]
fn a_broken_contract_names_what_broke_it() {
    let json = "application/vnd.holdfast.commands+json";
    for (kind, headers, body, says) in [
        (
            EventKind::Message,
            vec![("content-type", "text/plain")],
            &b"\xff"[..],
            "expected UTF-8 in a body of text/plain",
        ),
        (EventKind::Message, vec![("content-type", json)], b"{}", "expected a JSON list of commands"),
        (EventKind::Message, vec![("content-type", json)], br#"[{"jion":{}}]"#, "command 0: unknown variant"),
        (
            EventKind::Message,
            vec![("holdfast-user", "u1")],
            b"",
            "holdfast-user: expected only in the answer to a connect",
        ),
        (EventKind::Connect, vec![("holdfast-user", "")], b"", "holdfast-user: expected a user of 1 to 256 bytes"),
        (
            EventKind::Connect,
            vec![("holdfast-user", "a"), ("holdfast-user", "b")],
            b"",
            "holdfast-user: expected at most once",
        ),
        (EventKind::Message, vec![("holdfast-join", "")], b"", "holdfast-join: expected a group of 1 to 256 bytes"),
        (
            EventKind::Message,
            vec![("holdfast-close", "bye")],
            b"",
            "holdfast-close: expected a close code and a reason",
        ),
        (EventKind::Message, vec![("holdfast-close", "1005")], b"", "holdfast-close: expected a close code of 1000"),
        (EventKind::Connect, vec![("sec-websocket-protocol", "a, b")], b"", "sec-websocket-protocol: expected one"),
    ] {
        match answer_to(kind, 200, &headers, body) {
            Err(Refusal::Final(Failure::Broken { reason })) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{says}: {other:?}"),
        }
    }
}

#[test]
fn a_context_that_is_too_long_or_not_utf_8_is_broken() {
    for value in [vec![b'a'; 4097], vec![0xff]] {
        let mut headers = HeaderMap::new();
        headers.insert("holdfast-context", HeaderValue::from_bytes(&value).expect("a value"));
        let result = read(EventKind::Message, StatusCode::OK, &headers, Bytes::new(), SystemTime::UNIX_EPOCH);
        let Err(Refusal::Final(Failure::Broken { reason })) = result else { panic!("{result:?}") };
        assert!(reason.contains("holdfast-context: expected"), "{reason}");
    }
}

#[test]
fn statuses_say_no_or_later() {
    for status in [301, 304, 400, 401, 403, 404, 409, 410, 422, 451] {
        let rejected =
            answer_to(EventKind::Connect, status, &[("content-type", "text/plain"), ("location", "/b")], b"no");
        let failure =
            Failure::Rejected { status, content_type: Some("text/plain".into()), body: Bytes::from_static(b"no") };
        assert_eq!(rejected, Err(Refusal::Final(failure)));
    }
    for status in [408, 429, 500, 502, 503, 504, 599] {
        let later = answer_to(EventKind::Message, status, &[("retry-after", "3")], b"later");
        assert_eq!(later, Err(Refusal::Retry { status, retry_after: Some(Duration::from_secs(3)) }));
        let later = answer_to(EventKind::Message, status, &[], b"");
        assert_eq!(later, Err(Refusal::Retry { status, retry_after: None }));
    }
    for status in [101, 600, 999] {
        let broken = answer_to(EventKind::Message, status, &[], b"");
        assert!(matches!(broken, Err(Refusal::Final(Failure::Broken { .. }))), "{broken:?}");
    }
}
