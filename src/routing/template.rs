//! Templates for exchanges, routing keys and groups: literal text and values of an event, escaped so that a client cannot add a key
//! segment. Pure; must not know brokers.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use super::pointer::Pointer;
use crate::message::json;

/// The longest exchange name or routing key, in bytes (AMQP 0-9-1: a short string).
pub const TEMPLATE_BYTES_MAX: usize = 255;

/// A compiled template such as `order.{event}` or `{/order/region}.{+userid}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// `{name}`; with `{+name}` the value goes in as it is.
    Value {
        source: Source,
        is_raw: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Event,
    User,
    Endpoint,
    Connection,
    At(Pointer),
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    #[error("expected '}}' after '{{'")]
    Unclosed,
    #[error("expected `event`, `userid`, `endpoint`, `connectionid` or a JSON Pointer in braces, found {0:?}")]
    Unknown(String),
    #[error("expected at most {TEMPLATE_BYTES_MAX} bytes, found {0}")]
    TooLong(usize),
}

/// Why an event does not fill a template. Its text may be shown to the client who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the message has no text or number at {0}")]
    NoValue(String),
    #[error("the connection has no user")]
    NoUser,
    #[error("the name that the message fills would be longer than {TEMPLATE_BYTES_MAX} bytes")]
    TooLong,
}

/// What an event gives to a template.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The event name, or `$connect` and `$disconnect`.
    pub event: &'a str,
    /// The name is the configuration's or Holdfast's own: no client chose it.
    pub event_is_literal: bool,
    pub user: Option<&'a str>,
    pub endpoint: &'a str,
    pub connection: &'a str,
    pub body: &'a [u8],
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(InvalidTemplate::TooLong(text.len()));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (inside, after) = after.split_once('}').ok_or(InvalidTemplate::Unclosed)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let (name, is_raw) = inside.strip_prefix('+').map_or((inside, false), |name| (name, true));
            parts.push(Part::Value { source: Source::parse(name)?, is_raw });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The same template for a name without segments, such as a group's: every value goes in as it is.
    pub fn unescaped(mut self) -> Self {
        for part in &mut self.parts {
            if let Part::Value { is_raw, .. } = part {
                *is_raw = true;
            }
        }
        self
    }

    /// The text of a template without values.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// True if no part of it comes from outside the configuration.
    pub fn is_own(&self) -> bool {
        let is_own = |part: &Part| matches!(part, Part::Literal(_) | Part::Value { source: Source::Endpoint, .. });
        self.parts.iter().all(is_own)
    }

    /// Fills the template. Parses the message only if a part points into it.
    pub fn render(&self, values: &Values<'_>) -> Result<String, Unfit> {
        let points = |part: &Part| matches!(part, Part::Value { source: Source::At(_), .. });
        let body: Option<Value> = if self.parts.iter().any(points) { json::parse(values.body).ok() } else { None };
        let mut out = String::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Value { source, is_raw } => {
                    let (value, is_trusted) = source.value(values, body.as_ref())?;
                    match *is_raw || is_trusted {
                        true => out.push_str(&value),
                        false => escape(&mut out, &value),
                    }
                }
            }
        }
        if out.len() > TEMPLATE_BYTES_MAX { Err(Unfit::TooLong) } else { Ok(out) }
    }
}

impl Source {
    fn parse(name: &str) -> Result<Self, InvalidTemplate> {
        match name {
            "event" => Ok(Self::Event),
            "userid" => Ok(Self::User),
            "endpoint" => Ok(Self::Endpoint),
            "connectionid" => Ok(Self::Connection),
            _ => Pointer::parse(name).map(Self::At).map_err(|_| InvalidTemplate::Unknown(name.to_owned())),
        }
    }

    /// The value, and whether it may go in as it is.
    fn value<'a>(&self, values: &Values<'a>, body: Option<&'a Value>) -> Result<(Cow<'a, str>, bool), Unfit> {
        match self {
            Self::Event => Ok((values.event.into(), values.event_is_literal)),
            Self::User => Ok((values.user.ok_or(Unfit::NoUser)?.into(), false)),
            Self::Endpoint => Ok((values.endpoint.into(), true)),
            Self::Connection => Ok((values.connection.into(), true)),
            Self::At(pointer) => {
                let pointer = pointer.to_string();
                let value: Cow<'a, str> = match body.and_then(|body| body.pointer(&pointer)) {
                    Some(Value::String(text)) if !text.is_empty() => text.as_str().into(),
                    Some(Value::Number(number)) => number.to_string().into(),
                    Some(Value::Bool(value)) => value.to_string().into(),
                    _ => return Err(Unfit::NoValue(pointer)),
                };
                Ok((value, false))
            }
        }
    }
}

/// Percent-encodes what has a meaning in a routing key or a binding (`.`, `*`, `#`), white space, control characters, and `%`.
fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        if matches!(c, '.' | '*' | '#' | '%') || c.is_whitespace() || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: Values<'_> = Values {
        event: "order.created",
        event_is_literal: true,
        user: Some("ann@example.com"),
        endpoint: "/ws",
        connection: "abcdefgh-abcdefghijkmnopqrstu",
        body: br#"{"order":{"region":"eu.west","n":7,"ok":true,"none":null,"list":[]},"a/b":"x"}"#,
    };

    fn render(template: &str) -> Result<String, Unfit> {
        Template::parse(template).expect("a template").render(&VALUES)
    }

    #[test]
    fn values_are_filled_in_and_those_of_clients_escaped() {
        for (template, expected) in [
            ("orders", "orders"),
            ("", ""),
            ("order.{event}", "order.order.created"),
            ("{endpoint}.{connectionid}", "/ws.abcdefgh-abcdefghijkmnopqrstu"),
            ("u.{userid}", "u.ann@example%2Ecom"),
            ("u.{+userid}", "u.ann@example.com"),
            ("{/order/region}.{/order/n}.{/order/ok}", "eu%2Ewest.7.true"),
            ("{+/order/region}", "eu.west"),
            ("{/a~1b}", "x"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_name_that_a_star_let_through_is_escaped() {
        let values = Values { event: "chat.#.x", event_is_literal: false, ..VALUES };
        let render = |text| Template::parse(text).expect("a template").render(&values);
        assert_eq!(render("in.{event}").as_deref(), Ok("in.chat%2E%23%2Ex"));
        assert_eq!(render("in.{+event}").as_deref(), Ok("in.chat.#.x"));
    }

    #[test]
    fn what_does_not_fill_it_is_said() {
        assert_eq!(render("{/order/none}"), Err(Unfit::NoValue("/order/none".into())));
        assert_eq!(render("{/order/list}"), Err(Unfit::NoValue("/order/list".into())));
        assert_eq!(render("{/nothing}"), Err(Unfit::NoValue("/nothing".into())));
        let template = Template::parse("{userid}.{/x}").expect("a template");
        assert_eq!(template.render(&Values { user: None, ..VALUES }), Err(Unfit::NoUser));
        assert_eq!(template.render(&Values { body: b"no JSON", ..VALUES }), Err(Unfit::NoValue("/x".into())));
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(300));
        assert_eq!(template.render(&Values { body: long.as_bytes(), ..VALUES }), Err(Unfit::TooLong));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert_eq!(Template::parse("a.{event"), Err(InvalidTemplate::Unclosed));
        assert_eq!(Template::parse("{evnt}"), Err(InvalidTemplate::Unknown("evnt".into())));
        assert_eq!(Template::parse("{}"), Err(InvalidTemplate::Unknown(String::new())));
        assert_eq!(Template::parse(&"x".repeat(256)), Err(InvalidTemplate::TooLong(256)));
    }

    proptest! {
        #[test]
        fn a_client_adds_no_segment(text in "\\PC{1,20}") {
            let body = serde_json::json!({"x": text}).to_string();
            let template = Template::parse("a.{/x}.b").expect("a template");
            if let Ok(key) = template.render(&Values { body: body.as_bytes(), ..VALUES }) {
                prop_assert_eq!(key.split('.').count(), 3);
                prop_assert!(!key.contains(['*', '#']));
            }
        }
    }
}
