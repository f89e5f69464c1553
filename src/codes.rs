//! Every code that a client may see: the error codes of error frames and the close codes of the close handshake.
//! The only place where they are defined; `docs/codes.md` is checked against these tables. Must not know who raises them.

use std::fmt;

/// The `code` of an error frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    InvalidJson,
    MissingEvent,
    UnknownEvent,
    SchemaViolation,
    Unauthorized,
    Forbidden,
    RateLimited,
    Overloaded,
    UpstreamRejected,
    UpstreamUnavailable,
    UpstreamTimeout,
    Unroutable,
    Internal,
}

impl ErrorCode {
    /// All codes with what they mean, in the order of the documentation.
    pub const ALL: [(ErrorCode, &'static str); 13] = [
        (
            Self::InvalidJson,
            "the message is not JSON, or repeats a key that is read, or is more nested or larger than `json_depth` and `json_values` allow",
        ),
        (Self::MissingEvent, "the message has no usable string at the endpoint's event pointer"),
        (Self::UnknownEvent, "no route takes this event"),
        (Self::SchemaViolation, "the message does not fit the route's JSON Schema; `errors` names each place"),
        (Self::Unauthorized, "the token that was sent is refused; the message says why"),
        (Self::Forbidden, "the connection's token does not allow this event, or the group that it would join"),
        (
            Self::RateLimited,
            "over a rate of the connection, its user or its address; `retry_after_ms` says when to go on",
        ),
        (Self::Overloaded, "the upstream has more calls waiting than its limits allow"),
        (Self::UpstreamRejected, "the upstream answered 4xx, with its `status`, or the broker refused the message"),
        (Self::UpstreamUnavailable, "the upstream could not be reached, or failed, until the message's deadline"),
        (Self::UpstreamTimeout, "the upstream did not answer until the message's deadline"),
        (Self::Unroutable, "the broker has no queue for the message, or the message does not fill its routing key"),
        (Self::Internal, "Holdfast or the upstream broke its own contract; the log says how"),
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::MissingEvent => "missing_event",
            Self::UnknownEvent => "unknown_event",
            Self::SchemaViolation => "schema_violation",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::UpstreamRejected => "upstream_rejected",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Unroutable => "unroutable",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A close code of RFC 6455 section 7.4, or one of Holdfast's own: 4000 to 4499 ask the client to reconnect,
/// 4500 to 4999 ask it not to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// Never on the wire: the close frame had no code.
    pub const NO_STATUS: Self = Self(1005);
    /// Never on the wire: the TCP connection ended without a close frame.
    pub const ABNORMAL: Self = Self(1006);
    pub const INVALID_UTF8: Self = Self(1007);
    pub const TOO_LARGE: Self = Self(1009);
    pub const DRAIN: Self = Self(1012);
    pub const TRY_AGAIN: Self = Self(1013);
    pub const HEARTBEAT: Self = Self(4000);
    pub const SLOW_CONSUMER: Self = Self(4001);
    pub const IDLE: Self = Self(4002);
    pub const LIFETIME: Self = Self(4003);
    pub const TOKEN_EXPIRED: Self = Self(4004);
    pub const NOT_DELIVERED: Self = Self(4005);
    pub const APPLICATION: Self = Self(4500);
    pub const ABUSE: Self = Self(4501);
    pub const REVOKED: Self = Self(4502);
    pub const UNAUTHORIZED: Self = Self(4503);

    /// The codes that Holdfast itself sends, with what they mean, in the order of the documentation.
    pub const ALL: [(CloseCode, &'static str); 16] = [
        (Self::NORMAL, "the client closed; its code is echoed"),
        (Self::PROTOCOL_ERROR, "a frame breaks RFC 6455"),
        (Self::INVALID_UTF8, "a text message is not UTF-8, or a compressed one is no DEFLATE"),
        (Self::TOO_LARGE, "a message is larger than `limits.message_size`, or came in far too many fragments"),
        (Self::DRAIN, "this Holdfast is going away; reconnect, another one answers"),
        (
            Self::TRY_AGAIN,
            "a token came as the first message, but there is no place, or nobody could accept its bearer; try again",
        ),
        (Self::HEARTBEAT, "nothing was heard within the heartbeat's misses"),
        (Self::SLOW_CONSUMER, "more than `limits.send_buffer` bytes waited for this client to read"),
        (Self::IDLE, "no message within `idle_timeout`"),
        (Self::LIFETIME, "the connection reached `lifetime`"),
        (Self::TOKEN_EXPIRED, "the client's token expired; reconnect with a new one"),
        (Self::NOT_DELIVERED, "a message was not delivered and its route says `on_failure: close`"),
        (Self::APPLICATION, "the application's command closed the connection and named no code"),
        (
            Self::ABUSE,
            "more than `limits.invalid_messages` invalid messages, or a flood of pings, or over a rate with `on_excess: close`",
        ),
        (Self::REVOKED, "the client's permission was revoked"),
        (
            Self::UNAUTHORIZED,
            "no token came as the first message, or it was refused, or the application refused its bearer",
        ),
    ];

    /// True for a code that an endpoint may send in a close frame (RFC 6455 section 7.4.2).
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a connection ended, as the disconnect event says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Client,
    Server,
    Heartbeat,
    SlowConsumer,
    Idle,
    Expired,
    Drain,
    Error,
}

impl Cause {
    pub const ALL: [Cause; 8] = [
        Self::Client,
        Self::Server,
        Self::Heartbeat,
        Self::SlowConsumer,
        Self::Idle,
        Self::Expired,
        Self::Drain,
        Self::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Heartbeat => "heartbeat",
            Self::SlowConsumer => "slow_consumer",
            Self::Idle => "idle",
            Self::Expired => "expired",
            Self::Drain => "drain",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::pages::hold;

    /// The tables of `docs/codes.md`, made from the tables here.
    fn tables() -> [(&'static str, String); 2] {
        let mut errors = String::from("| code | meaning |\n|---|---|\n");
        ErrorCode::ALL.iter().for_each(|(code, means)| errors += &format!("| `{code}` | {means} |\n"));
        let mut closes = String::from("| code | meaning |\n|---|---|\n");
        CloseCode::ALL.iter().for_each(|(code, means)| closes += &format!("| {code} | {means} |\n"));
        [("error codes", errors), ("close codes", closes)]
    }

    #[test]
    fn the_page_of_codes_is_what_the_tables_say() {
        hold("codes", tables());
    }

    #[test]
    fn every_code_has_its_heading_in_the_page_on_troubleshooting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/troubleshooting.md");
        let page = std::fs::read_to_string(path).expect("docs/troubleshooting.md");
        let headings: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let errors = ErrorCode::ALL.iter().map(|(code, _)| code.to_string());
        let codes = errors.chain(CloseCode::ALL.iter().map(|(code, _)| code.to_string()));
        let without: Vec<_> = codes.filter(|code| !headings.contains(code.as_str())).collect();
        assert!(without.is_empty(), "no heading for {without:?}");
    }

    #[test]
    fn codes_are_unique_and_sendable() {
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|(code, _)| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        let codes: BTreeSet<_> = CloseCode::ALL.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes.len(), CloseCode::ALL.len());
        assert!(codes.iter().all(|code| code.is_sendable()));
        assert!(!CloseCode::NO_STATUS.is_sendable() && !CloseCode::ABNORMAL.is_sendable());
    }
}
