//! The part of the configuration that concerns limits. Must not know how modules work.

use std::sync::Arc;

use super::super::raw::Entry;
use super::Build;
use crate::limits::json::JsonLimits;
use crate::limits::{NodeLimits, Quota, Quotas, Rate, Rates};
use crate::snapshot::{Limits, OnExcess};

impl Build<'_> {
    pub(super) fn node_limits(&mut self, limits: &Entry) -> NodeLimits {
        let rate = |name: &str| number(limits.get(name)).map(|per_second| Rate::new(per_second, None));
        NodeLimits {
            connections: limits.get("connections").size(),
            connections_per_address: number(limits.get("connections_per_address")),
            handshakes: rate("handshakes_per_second"),
            handshakes_per_address: rate("handshakes_per_second_per_address"),
        }
    }

    pub(super) fn limits(&mut self, limits: &Entry) -> Limits {
        let message_size = limits.get("message_size");
        let quotas = Quotas {
            connection: self.rates(limits, message_size),
            user: self.quota(limits.get("per_user"), message_size),
            address: self.quota(limits.get("per_address"), message_size),
        };
        Limits {
            message_size: message_size.size(),
            send_buffer: limits.get("send_buffer").size(),
            receive_buffer: limits.get("receive_buffer").size(),
            quotas: Arc::new(quotas),
            on_excess: match limits.get("on_excess").text() {
                Some("close") => OnExcess::Close,
                _ => OnExcess::Error,
            },
            connections: limits.get("connections").size(),
            invalid_messages: number(limits.get("invalid_messages")),
            json: JsonLimits {
                depth: limits.get("json_depth").size(),
                values: Some(limits.get("json_values").size()).filter(|most| *most > 0),
            },
            groups: limits.get("groups").size(),
        }
    }

    fn quota(&mut self, entry: &Entry, message_size: &Entry) -> Quota {
        Quota { rates: self.rates(entry, message_size), connections: number(entry.get("connections")) }
    }

    fn rates(&mut self, entry: &Entry, message_size: &Entry) -> Rates {
        let message_size = number(message_size).unwrap_or_default();
        let (rate, burst) = (entry.get("bytes_per_second"), entry.get("bytes_burst"));
        if let Some(bytes) = number(burst).filter(|bytes| *bytes < message_size) {
            let problem =
                format!("smaller than `message_size`: a message of {message_size} bytes could not pass at {bytes}");
            self.problem(burst, problem, "raise it, or lower `message_size`".to_owned());
        }
        let bytes = self.rate(rate, burst, |per_second| per_second.max(message_size));
        let messages =
            self.rate(entry.get("messages_per_second"), entry.get("messages_burst"), |per_second| per_second);
        Rates { messages, bytes }
    }

    fn rate(&mut self, rate: &Entry, burst: &Entry, otherwise: impl FnOnce(u32) -> u32) -> Option<Rate> {
        let Some(per_second) = number(rate) else {
            if !burst.is_absent() {
                let name = rate.path.rsplit('.').next().unwrap_or_default();
                self.problem(burst, format!("a burst without a rate; expected `{name}` beside it"), None);
            }
            return None;
        };
        Some(Rate::new(per_second, Some(number(burst).unwrap_or_else(|| otherwise(per_second)))))
    }
}

fn number(entry: &Entry) -> Option<u32> {
    entry.number().and_then(|number| u32::try_from(number).ok())
}
