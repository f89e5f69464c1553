//! What a session is held to, out of its endpoint's settings, the newest too.

use super::{CLOSE_TIMEOUT, Session, millis};
use crate::connection::{Connection, network};
use crate::limits::{Entering, Who};
use crate::session::machine::Settings;
use crate::session::stream::Stream;
use crate::snapshot::Endpoint;

impl<S: Stream> Session<S> {
    /// Takes over the newest settings of the endpoint.
    pub(super) fn refresh(&mut self) {
        if self.services.pipeline.refresh(&mut self.endpoint) {
            self.machine.set_settings(settings_of(&self.endpoint));
            let limits = &self.endpoint.draft.limits;
            self.connection.mailbox.set_budget(limits.send_buffer);
            self.connection.set_groups_max(limits.groups);
            if let Some(live) = &mut self.live {
                live.socket.set_message_size(limits.message_size);
                live.socket.set_compression(self.endpoint.draft.compression.as_ref());
                live.wake_at(self.services.epoch, self.machine.next_deadline_ms());
                self.meter();
            }
        }
    }

    /// Holds what comes in against the newest rates, and counts this connection where there are new limits on connections.
    fn meter(&mut self) {
        let Connection { endpoint, user, remote_addr, .. } = &*self.connection;
        let who = Who { endpoint, network: network(remote_addr.ip()), user: user.as_ref() };
        let snapshot = self.services.pipeline.snapshot();
        let limits = (&self.endpoint.draft.limits.quotas, &snapshot.limits);
        let meters = self.services.accounts.meter(self.machine.take_meters(), &who, limits, Entering::Open);
        // An open connection is refused by no limit.
        self.machine.set_meters(meters.unwrap_or_default());
    }
}

pub fn settings_of(endpoint: &Endpoint) -> Settings {
    let draft = &endpoint.draft;
    Settings {
        heartbeat_interval_ms: millis(draft.heartbeat.interval),
        heartbeat_timeout_ms: millis(draft.heartbeat.timeout),
        heartbeat_misses: draft.heartbeat.misses,
        idle_timeout_ms: draft.idle_timeout.map(millis),
        lifetime_ms: draft.lifetime.map(millis),
        receive_buffer: draft.limits.receive_buffer,
        invalid_messages: draft.limits.invalid_messages,
        close_timeout_ms: millis(CLOSE_TIMEOUT),
    }
}
