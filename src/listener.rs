//! The listener: TCP in, WebSocket handshakes answered, sessions started. Knows sessions; must not know the pipeline's inside.

pub mod accept;
pub mod admission;
pub mod client_address;
mod credentials;
pub mod upgrade;

use std::net::SocketAddr;
use std::time::Duration;

pub use accept::Listener;
pub use client_address::{AddressHeader, ProxySettings};

use crate::tls::TlsSettings;

/// Settings of the client-facing listener. Restart-only.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSettings {
    pub listen: SocketAddr,
    /// From accept to the end of the request's head, and for the connect event's answer (503 after it).
    pub handshake_timeout: Duration,
    /// Bytes of a request's head; more is answered 431.
    pub header_size: usize,
    /// Certificates of `wss`; without them it is `ws`. Their files may change while it runs.
    pub tls: Option<TlsSettings>,
    pub proxies: ProxySettings,
}
