//! The batch's contract by tables: what a response to many events means for each.

use super::*;

const ID: &str = "abcdefgh-abcdefghijkmnopqrstu";

fn read_body(count: usize, body: &str) -> Result<Vec<Result<Answer, Refusal>>, Refusal> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, ANSWERS_MEDIA_TYPE.parse().expect("a value"))]);
    read(count, StatusCode::OK, &headers, &Bytes::copy_from_slice(body.as_bytes()), SystemTime::now())
}

fn one(body: &str) -> Result<Answer, Refusal> {
    read_body(1, &format!("[{body}]")).expect("a list").remove(0)
}

fn replied(payload: Payload) -> Result<Answer, Refusal> {
    Ok(Answer { reply: Some(payload), ..Answer::default() })
}

fn reason<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    match result {
        Err(Refusal::Final(Failure::Broken { reason })) => reason,
        other => panic!("expected a broken contract, found {other:?}"),
    }
}

#[test]
fn each_element_is_an_answer() {
    assert_eq!(one("null"), Ok(Answer::default()));
    assert_eq!(one("{}"), Ok(Answer::default()));
    assert_eq!(one(r#"{"status": 204}"#), Ok(Answer::default()));
    assert_eq!(one(r#"{"status": 200, "data": {"a":  1e400}}"#), replied(Payload::text(r#"{"a":  1e400}"#)));
    assert_eq!(one(r#"{"text": "say \"hi\""}"#), replied(Payload::text("say \"hi\"")));
    assert_eq!(one(r#"{"binary": "aGk="}"#), replied(Payload::binary("hi")));
}

#[test]
fn the_context_comes_first_and_the_close_last() {
    let answer = one(
        r#"{"close": {"code": 4400, "reason": "bye"}, "commands": [{"join": {"group": "g"}}], "context": "c", "data": 1}"#,
    );
    let answer = answer.expect("an answer");
    assert_eq!(answer.reply, Some(Payload::text("1")));
    let expected = [
        Command::Context { connection: None, value: "c".into() },
        Command::Join { connection: None, group: "g".into() },
        Command::Close { to: Target::Sender, code: CloseCode(4400), reason: "bye".into() },
    ];
    assert_eq!(answer.commands, expected);
    let close = one(r#"{"close": {}}"#).expect("an answer").commands.remove(0);
    assert!(matches!(close, Command::Close { code: CloseCode::APPLICATION, .. }), "{close:?}");
}

#[test]
fn a_status_counts_for_its_event_alone() {
    let answers = read_body(3, r#"[{"status": 403, "text": "no"}, {"status": 503, "retry_after": 2}, {"data": 1}]"#);
    let answers = answers.expect("a list");
    assert!(matches!(&answers[0], Err(Refusal::Final(Failure::Rejected { status: 403, .. }))));
    assert_eq!(answers[1], Err(Refusal::Retry { status: 503, retry_after: Some(Duration::from_secs(2)) }));
    assert!(answers[2].is_ok());
    for status in [408, 429, 500] {
        assert_eq!(one(&format!(r#"{{"status": {status}}}"#)), Err(Refusal::Retry { status, retry_after: None }));
    }
}

#[test]
fn an_answer_that_breaks_the_contract_breaks_it_for_its_event_alone() {
    for (body, says) in [
        (r#"{"data": 1, "text": "a"}"#, "at most one of"),
        (r#"{"binary": "?"}"#, "expected base64"),
        (r#"{"date": 1}"#, "unknown field `date`"),
        (r#"{"status": 100}"#, "found 100"),
        (r#"{"status": 70000}"#, "70000"),
        (r#"{"close": {"code": 1005}}"#, "found 1005"),
        (r#"{"commands": [{"sned": {}}]}"#, "command 0: unknown variant `sned`"),
        (r#"{"context": "\u0001"}"#, "without control characters"),
        ("7", "invalid type"),
    ] {
        let answers = read_body(3, &format!("[null, {body}, {{\"data\": 2}}]")).expect("a list");
        assert!(answers[0].is_ok() && answers[2] == replied(Payload::text("2")), "{body}");
        let reason = reason(answers.into_iter().nth(1).expect("three"));
        assert!(reason.contains(says) && reason.starts_with("answer 1: "), "{body}: {reason}");
    }
}

#[test]
fn a_response_that_is_no_list_of_answers_is_wrong_for_all() {
    for (body, says) in [
        ("[null]", "an answer for each of 2 events, found 1"),
        ("[null, null, null]", "found 3"),
        ("{}", "expected a JSON list"),
        ("[null, null", "expected a JSON list"),
        ("[null, nul]", "expected a JSON list"),
    ] {
        let reason = reason(read_body(2, body));
        assert!(reason.contains(says), "{body}: {reason}");
    }
    let json = HeaderMap::from_iter([(CONTENT_TYPE, "application/json".parse().expect("a value"))]);
    let read = |status: u16, headers: &HeaderMap, body: &'static str| {
        let status = StatusCode::from_u16(status).expect("a status");
        super::read(2, status, headers, &Bytes::from_static(body.as_bytes()), SystemTime::now())
    };
    assert!(reason(read(200, &json, "[null, null]")).contains("found \"application/json\""));
    assert_eq!(read(204, &HeaderMap::new(), ""), Ok(vec![Ok(Answer::default()), Ok(Answer::default())]));
    assert_eq!(read(200, &json, ""), Ok(vec![Ok(Answer::default()), Ok(Answer::default())]));
    let packed = HeaderMap::from_iter([(http::header::CONTENT_ENCODING, "gzip".parse().expect("a value"))]);
    assert!(reason(read(200, &packed, "x")).contains("without content-encoding"));
    assert!(matches!(read(503, &json, ""), Err(Refusal::Retry { status: 503, .. })));
    assert!(matches!(read(404, &json, ""), Err(Refusal::Final(Failure::Rejected { status: 404, .. }))));
}

#[test]
fn events_are_written_with_their_own_traces() {
    use crate::message::{EventKind, Format, Traceparent};
    let event = |seq, format, body: &'static str| Event {
        attempts: Default::default(),
        kind: EventKind::Message,
        connection: ID.parse().expect("an ID"),
        seq,
        endpoint: "/ws".into(),
        name: Some("a \"b\"".into()),
        name_is_literal: true,
        user: None,
        context: Some("c".into()),
        time: SystemTime::UNIX_EPOCH,
        traceparent: Traceparent { trace_id: 0xabc, span_id: 0xdef, sampled: true },
        body: Bytes::from_static(body.as_bytes()),
        format,
    };
    let mut json = vec![b'['];
    write(&mut json, &event(7, Format::Json, r#"{"n":  1.50}"#));
    json.push(b',');
    write(&mut json, &event(8, Format::Binary, "hi"));
    json.push(b']');
    assert!(String::from_utf8_lossy(&json).contains(r#""data":{"n":  1.50}"#), "the client's bytes as they are");
    let list: Vec<serde_json::Value> = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(list[0]["id"], format!("{ID}.7"));
    assert_eq!(list[0]["traceparent"], "00-00000000000000000000000000000abc-0000000000000def-01");
    assert_eq!((&list[0]["event"], &list[0]["context"]), (&"a \"b\"".into(), &"c".into()));
    assert_eq!((&list[1]["seq"], &list[1]["data_base64"]), (&8.into(), &"aGk=".into()));
}
