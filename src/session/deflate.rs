//! permessage-deflate (RFC 7692): what was agreed with one client, and its messages packed and unpacked. A connection holds at most
//! the last window of each direction, and only where context is taken over; compressors belong to threads. Must not know sockets.

mod offer;
mod pool;

use bytes::Bytes;

use super::frames::Violation;
use crate::message::assembly::InvalidText;
use crate::message::{Kind, Payload};
use crate::snapshot::Compression;
use crate::telemetry::CompressionMetrics;
pub use offer::{Terms, agree};

/// One client's compression.
#[derive(Debug)]
pub struct Deflate {
    terms: Terms,
    level: u8,
    /// Smaller messages are sent as they are.
    min_size: usize,
    /// Where context is taken over.
    sent: History,
    received: History,
    unpacked: Packed,
}

/// How much some messages were on the wire, and in themselves.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub packed_bytes: usize,
    pub plain_bytes: usize,
}

impl Packed {
    /// Adds one message.
    pub fn add(&mut self, packed_bytes: usize, plain_bytes: usize) {
        self.packed_bytes += packed_bytes;
        self.plain_bytes += plain_bytes;
    }

    /// Counts them, where they are counted.
    pub fn count(self, metrics: Option<&CompressionMetrics>) {
        if let Some(metrics) = metrics.filter(|_| self.packed_bytes > 0) {
            metrics.wire.inc_by(self.packed_bytes as u64);
            metrics.plain.inc_by(self.plain_bytes as u64);
        }
    }
}

impl Deflate {
    pub fn new(terms: Terms, settings: &Compression) -> Self {
        Self {
            terms,
            level: settings.level,
            min_size: settings.min_size,
            sent: History::default(),
            received: History::default(),
            unpacked: Packed::default(),
        }
    }

    /// Takes over new settings, as far as they were not agreed upon. None: nothing more is compressed.
    pub fn set(&mut self, settings: Option<&Compression>) {
        self.level = settings.map_or(self.level, |settings| settings.level);
        self.min_size = settings.map_or(usize::MAX, |settings| settings.min_size);
    }

    /// The packed form of a message; none if it is better sent as it is.
    pub fn pack(&mut self, payload: &Payload) -> Option<Bytes> {
        if payload.len() < self.min_size.max(1) {
            return None;
        }
        let (level, window_bits) = (self.level, self.terms.server_window_bits);
        if !self.terms.server_takes_over {
            let key = u16::from_be_bytes([level, window_bits]);
            return payload.form(key, |bytes| pool::pack(level, window_bits, &[], bytes).map(Bytes::from));
        }
        let packed = pool::pack(level, window_bits, &self.sent.0, payload.bytes())?;
        self.sent.push(payload.bytes(), window_bits);
        Some(packed.into())
    }

    /// The message that a client packed, of at most `size_max` bytes.
    pub fn unpack(&mut self, kind: Kind, packed: &[u8], size_max: usize) -> Result<Payload, Violation> {
        let bytes = pool::unpack(&self.received.0, packed, size_max)?;
        if self.terms.client_takes_over {
            self.received.push(&bytes, self.terms.client_window_bits);
        }
        self.unpacked.add(packed.len(), bytes.len());
        match kind {
            Kind::Text => Payload::text_from_bytes(bytes.into()).map_err(|_| InvalidText.into()),
            Kind::Binary => Ok(Payload::binary(bytes)),
        }
    }

    /// What was unpacked since this was asked last.
    pub fn take_unpacked(&mut self) -> Packed {
        std::mem::take(&mut self.unpacked)
    }

    /// The value of `Sec-WebSocket-Extensions` in the handshake's answer.
    pub fn answer(&self) -> String {
        self.terms.to_string()
    }
}

/// The last bytes of one direction, as far back as a message may refer: what a compressor would have to be kept for otherwise.
#[derive(Debug, Default)]
struct History(Vec<u8>);

impl History {
    fn push(&mut self, bytes: &[u8], window_bits: u8) {
        let window = 1 << window_bits;
        let bytes = &bytes[bytes.len().saturating_sub(window)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(window);
        self.0.drain(..excess);
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            self.0.reserve_exact((2 * needed).min(window) - self.0.len());
        }
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
