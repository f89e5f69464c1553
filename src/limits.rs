//! Limits: how much may pass and how much may be open, counted for one connection or shared by all of a user or of an address.
//! Time is an argument, in milliseconds of one clock for the whole node. Knows numbers and names; must not know sockets, a clock,
//! or what is counted.

mod accounts;
mod bucket;
pub mod json;
mod meters;

pub use accounts::{Accounts, Entering, Who};
pub use bucket::{Bucket, Rate};
pub use meters::Meters;

use bucket::Levels;

/// What messages may come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub messages: Option<Rate>,
    /// Bytes of payloads.
    pub bytes: Option<Rate>,
}

/// What all connections of one user, or of one address, share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    pub rates: Rates,
    pub connections: Option<u32>,
}

/// What an endpoint grants: to each connection, to each user, to each address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    pub connection: Rates,
    pub user: Quota,
    pub address: Quota,
}

/// What the whole node grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLimits {
    /// Open connections over all endpoints.
    pub connections: usize,
    pub connections_per_address: Option<u32>,
    pub handshakes: Option<Rate>,
    pub handshakes_per_address: Option<Rate>,
}

/// A limit, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Messages,
    Bytes,
    UserMessages,
    UserBytes,
    AddressMessages,
    AddressBytes,
    Connections,
    UserConnections,
    AddressConnections,
    NodeConnections,
    NodeAddressConnections,
    Handshakes,
    AddressHandshakes,
    InvalidMessages,
    JsonDepth,
    JsonValues,
    /// Tokens that are being verified for one connection.
    Tokens,
}

/// A limit that was reached, and the time after which it is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    pub limit: Limit,
    pub retry_after_ms: u64,
}

impl Quota {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Quotas {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::UserMessages => "user_messages",
            Self::UserBytes => "user_bytes",
            Self::AddressMessages => "address_messages",
            Self::AddressBytes => "address_bytes",
            Self::Connections => "connections",
            Self::UserConnections => "user_connections",
            Self::AddressConnections => "address_connections",
            Self::NodeConnections => "node_connections",
            Self::NodeAddressConnections => "node_address_connections",
            Self::Handshakes => "handshakes",
            Self::AddressHandshakes => "address_handshakes",
            Self::InvalidMessages => "invalid_messages",
            Self::JsonDepth => "json_depth",
            Self::JsonValues => "json_values",
            Self::Tokens => "tokens",
        }
    }

    /// The refusal, as a client reads it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Messages => "the connection sent more messages than its limit",
            Self::Bytes => "the connection sent more bytes than its limit",
            Self::UserMessages => "the user's connections sent more messages than their limit",
            Self::UserBytes => "the user's connections sent more bytes than their limit",
            Self::AddressMessages => "the connections of this address sent more messages than their limit",
            Self::AddressBytes => "the connections of this address sent more bytes than their limit",
            Self::Connections | Self::NodeConnections => "too many connections; try again",
            Self::UserConnections => "too many connections of this user",
            Self::AddressConnections | Self::NodeAddressConnections => "too many connections from this address",
            Self::Handshakes => "too many handshakes; try again",
            Self::AddressHandshakes => "too many handshakes from this address",
            Self::InvalidMessages => "too many invalid messages",
            Self::JsonDepth => "the message is nested too deeply",
            Self::JsonValues => "the message holds too many values",
            Self::Tokens => "another token is being verified",
        }
    }
}
