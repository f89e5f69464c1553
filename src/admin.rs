//! The admin listener: REST commands, health, metrics, configuration. Knows read-only views; must not know the pipeline's inside.

use std::net::SocketAddr;

use secrecy::SecretString;

/// Settings of the admin listener. Restart-only.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    pub listen: SocketAddr,
    /// Bearer token; without one the listener must be on loopback.
    pub token: Option<SecretString>,
    /// Bytes of one request's body; more is answered 413.
    pub body_size: usize,
}
