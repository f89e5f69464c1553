//! Handshakes held against the limits of the node, of addresses and of users. Must not know what a handshake says.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use tokio::net::TcpStream;

use super::{Handshake, Peer, Refusal, Upgrader, refuse};
use crate::connection::network;
use crate::limits::{Entering, Excess, Limit, Meters, Who};
use crate::snapshot::Endpoint;

/// Room for the request of who is refused without a look at it.
const UNREAD_BYTES: usize = 4096;

impl Upgrader {
    /// Holds a handshake against the limits on handshakes.
    pub fn knock(&self, endpoint: &str, ip: IpAddr) -> Result<(), Refusal> {
        let limits = self.services.pipeline.snapshot().limits;
        let knocked = self.services.accounts.knock(self.services.now_ms(), network(ip), &limits);
        knocked.map_err(|Excess { limit, retry_after_ms }| self.too_many(endpoint, limit, retry_after_ms))
    }

    /// Answers a request that nobody looks at, as far as the client can be told without waiting for it.
    pub fn refuse_unread(&self, stream: &TcpStream, refusal: Refusal) {
        self.count("$none", refusal.status);
        // Bytes left unread would reset the connection, and the answer could be lost with it.
        let _ = stream.try_read(&mut [0; UNREAD_BYTES]);
        let Refusal { status, message, retry_after_s } = refusal;
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: {retry_after_s}\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{message}\n",
            message.len() + 1
        );
        let _ = stream.try_write(head.as_bytes());
    }

    /// Forgets users and addresses that are gone and have nothing to wait for any more.
    pub fn sweep(&self) {
        let accounts = &self.services.accounts;
        accounts.sweep(self.services.now_ms());
        self.metrics.limit_accounts.set(i64::try_from(accounts.len()).unwrap_or(i64::MAX));
    }

    /// Counts the connection for its address and its user, if there is room.
    pub(super) fn meter(
        &self,
        endpoint: &Endpoint,
        peer: &Peer,
        user: Option<&Arc<str>>,
        held: Option<Box<Meters>>,
    ) -> Result<Option<Box<Meters>>, Refusal> {
        let who = Who { endpoint: &endpoint.draft.path, network: network(peer.addr.ip()), user };
        let limits = (&endpoint.draft.limits.quotas, &self.services.pipeline.snapshot().limits);
        let meters = self.services.accounts.meter(held, &who, limits, Entering::New);
        meters.map_err(|limit| self.too_many(&endpoint.draft.path, limit, 0))
    }

    /// Counts it for its user too, in the place of another that it was counted for before.
    pub(super) fn count_user(
        &self,
        endpoint: &Endpoint,
        handshake: &mut Handshake,
        user: Option<&Arc<str>>,
    ) -> Result<(), Refusal> {
        let held = handshake.meters.take();
        handshake.meters = self.meter(endpoint, &handshake.peer, user, held)?;
        Ok(())
    }

    pub(super) fn too_many(&self, endpoint: &str, limit: Limit, retry_after_ms: u64) -> Refusal {
        self.services.pipeline.count_limited(&endpoint.into(), limit);
        let status = match limit {
            Limit::Connections | Limit::NodeConnections => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::TOO_MANY_REQUESTS,
        };
        Refusal { retry_after_s: retry_after_ms.div_ceil(1000).max(1), ..refuse(status, limit.message()) }
    }
}
