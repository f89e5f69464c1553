//! Templates of routing keys. Input lines: the template, the event name, the user; then the message. What a client chose adds no
//! segment and no wildcard unless the template says so with `{+…}`.

use holdfast::routing::template::TEMPLATE_BYTES_MAX;
use holdfast::routing::{Template, Unfit, Values};

use super::{check, json};

const ENDPOINT: &str = "/ws.v1";
const CONNECTION: &str = "abcdefgh-abcdefghijkmnopqrstu";

pub fn run(data: &[u8]) {
    let mut rest = data;
    let (Some(text), Some(event), Some(user)) =
        (check::text_line(&mut rest), check::text_line(&mut rest), check::text_line(&mut rest))
    else {
        return;
    };
    let Ok(template) = Template::parse(text) else {
        assert!(text.contains('{') || text.len() > TEMPLATE_BYTES_MAX, "a text without braces is a template");
        return;
    };
    let values = Values {
        event,
        event_is_literal: false,
        user: Some(user).filter(|user| !user.is_empty()),
        endpoint: ENDPOINT,
        connection: CONNECTION,
        body: rest,
    };
    if let Some(literal) = template.literal() {
        assert_eq!(template.render(&values).as_deref(), Ok(literal));
    }
    match template.render(&values) {
        Ok(key) => rendered(text, &template, &values, &key),
        Err(Unfit::NoUser) => assert!(values.user.is_none()),
        Err(Unfit::NoValue(pointer)) => {
            let body = json::parse(rest).ok().filter(|body| !body.repeats);
            let value = body.as_ref().and_then(|body| body.value.pointer(&pointer));
            assert!(!value.is_some_and(|value| value.is_number() || value.is_boolean()), "{pointer} has a value");
        }
        Err(Unfit::TooLong) => {}
    }
}

fn rendered(text: &str, template: &Template, values: &Values<'_>, key: &str) {
    assert!(key.len() <= TEMPLATE_BYTES_MAX, "{} bytes", key.len());
    if template.is_own() {
        let other = Values { event: "other", user: None, body: b"", ..*values };
        assert_eq!(template.render(&other).as_deref(), Ok(key), "something of it came from outside");
    }
    if text.contains("{+") {
        return;
    }
    // The same template with values that are harmless: all that is left is the configuration's own.
    let own = own_text(text);
    for meaning in ['.', '*', '#'] {
        assert_eq!(key.matches(meaning).count(), own.matches(meaning).count(), "{meaning} in {key:?} of {text:?}");
    }
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    assert_eq!(key.chars().filter(|c| is_odd(*c)).count(), own.chars().filter(|c| is_odd(*c)).count(), "{key:?}");
    // Escaping loses nothing, so that two names never share a key.
    if text == "{event}" {
        assert_eq!(unescape(key).as_deref(), Some(values.event));
    }
}

/// What the configuration itself puts into a key: its literals and the endpoint.
fn own_text(text: &str) -> String {
    let mut own = String::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').expect("a template");
        own += literal;
        if name == "endpoint" {
            own += ENDPOINT;
        }
        rest = after;
    }
    own + rest
}

fn unescape(key: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::new(), key.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}
