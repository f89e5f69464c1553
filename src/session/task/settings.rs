//! What the machine is held to, out of an endpoint's settings.

use super::{CLOSE_TIMEOUT, millis};
use crate::session::machine::Settings;
use crate::snapshot::Endpoint;

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
