//! An event as it arrives: CloudEvents headers and a body. Must not know what a chat is.

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::Value;

/// Headers of a handshake whose values are not for a screen.
const SECRET_HEADERS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// One event in CloudEvents' binary mode.
pub struct Event {
    pub id: String,
    /// `holdfast.connect`, `holdfast.message` or `holdfast.disconnect`.
    pub kind: String,
    /// The event's name; empty for connect and disconnect.
    pub name: String,
    pub connection: String,
    /// What the handler attached at connect: here, the client's name.
    pub context: String,
    pub body: Bytes,
}

impl Event {
    pub fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, String> {
        let optional = |name: &str| headers.get(name).map(|value| percent_decoded(value.as_bytes()));
        let required = |name: &str| optional(name).ok_or_else(|| format!("expected the header {name}"));
        Ok(Self {
            id: required("ce-id")?,
            kind: required("ce-type")?,
            name: optional("ce-event").unwrap_or_default(),
            connection: required("ce-connectionid")?,
            context: optional("ce-context").unwrap_or_default(),
            body,
        })
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body for the page: a connect's holds the browser's headers, cookies among them.
    pub fn body_shown(&self) -> Bytes {
        if self.kind != "holdfast.connect" {
            return self.body.clone();
        }
        let mut body = self.json();
        let Some(headers) = body.get_mut("headers").and_then(Value::as_object_mut) else { return self.body.clone() };
        for (_, value) in headers.iter_mut().filter(|(name, _)| SECRET_HEADERS.contains(&name.as_str())) {
            *value = "(hidden)".into();
        }
        body.to_string().into()
    }
}

/// The headers that make the event, in their order; not those of plain HTTP.
pub fn headers_shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_shown =
        |name: &str| name.starts_with("ce-") || ["content-type", "idempotency-key", "traceparent"].contains(&name);
    headers
        .iter()
        .filter(|(name, _)| is_shown(name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

/// Undoes the percent-encoding of the HTTP binding (3.1.3.2); what is not UTF-8 is replaced.
fn percent_decoded(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits always fit.
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone() {
        for (encoded, decoded) in
            [("ann", "ann"), ("J%C3%BCrgen%20%22x%22", "Jürgen \"x\""), ("100%", "100%"), ("%zz%4", "%zz%4")]
        {
            assert_eq!(percent_decoded(encoded.as_bytes()), decoded);
        }
    }

    #[test]
    fn the_wire_hides_cookies() {
        let body = Bytes::from_static(br#"{"headers":{"cookie":"session=1","host":"h"},"query":{}}"#);
        let mut headers = HeaderMap::new();
        for name in ["ce-id", "ce-type", "ce-connectionid"] {
            headers.insert(name, "holdfast.connect".parse().expect("a value"));
        }
        let shown = Event::read(&headers, body).expect("an event").body_shown();
        let shown = String::from_utf8_lossy(&shown);
        assert!(
            !shown.contains("session=1") && shown.contains("(hidden)") && shown.contains("\"host\":\"h\""),
            "{shown}"
        );
    }
}
