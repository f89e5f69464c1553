//! The listener: TCP in, WebSocket handshakes answered, sessions started. Knows sessions; must not know the pipeline's inside.

pub mod accept;
pub mod admission;
pub mod upgrade;

use std::net::SocketAddr;
use std::time::Duration;

pub use accept::Listener;

/// Settings of the client-facing listener. Restart-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    pub listen: SocketAddr,
    /// From accept to the end of the request's head, and for the connect event's answer (503 after it).
    pub handshake_timeout: Duration,
    /// Bytes of a request's head; more is answered 431.
    pub header_size: usize,
    /// Open connections over all endpoints; one more is refused with 503.
    pub connections: usize,
}
