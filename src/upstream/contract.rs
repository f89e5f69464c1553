//! The contract with a handler (DESIGN section 2): an event as a CloudEvents request or message, a response as an answer.
//! Knows headers and bodies; must not know connections, retries or time limits.

pub mod amqp;
mod answer;
pub mod batch;
pub mod head;
mod request;
mod signature;

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};

use crate::message::Event;

pub use answer::{Refusal, has_meaning, is_retryable, read};
pub use signature::Signer;

use super::http::Mode;
use head::{Fixed, Head};

/// Headers that belong to one connection or are made by Holdfast; settings may not name them.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// How one upstream's requests are made. What never changes is made once.
#[derive(Debug)]
pub struct Contract {
    mode: Mode,
    signer: Option<Signer>,
    /// Headers that every request bears, `user-agent` among them.
    fixed: Fixed,
}

impl Contract {
    /// Checks the settings' headers and secret; an error never holds their values.
    pub fn new(
        mode: Mode,
        signing_secret: Option<&SecretString>,
        headers: &[(HeaderName, SecretString)],
    ) -> Result<Self, String> {
        let signer = signing_secret.map(|secret| Signer::new(secret.expose_secret())).transpose()?;
        let mut fixed = Vec::with_capacity(headers.len() + 1);
        for (name, value) in headers {
            if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("ce-") {
                return Err(format!("the header {name} is made by Holdfast and cannot be set"));
            }
            // Holdfast's own takes its place.
            if name == "traceparent" || (signer.is_some() && name.as_str().starts_with("webhook-")) {
                continue;
            }
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| format!("the value of the header {name} has characters that a header cannot hold"))?;
            value.set_sensitive(true);
            fixed.push((name.clone(), value));
        }
        if !headers.iter().any(|(name, _)| name == http::header::USER_AGENT) {
            let agent = HeaderValue::from_static(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
            fixed.push((http::header::USER_AGENT, agent));
        }
        Ok(Self { mode, signer, fixed: Fixed::new(fixed) })
    }

    /// Writes the headers (all but `host` and `content-length`) of one attempt at `now`, and gives back its body.
    pub fn request<'a>(&self, event: &'a Event, now: SystemTime, head: &mut impl Head) -> Cow<'a, Bytes> {
        request::build(self, event, now, head)
    }
}

#[cfg(test)]
mod tests;
