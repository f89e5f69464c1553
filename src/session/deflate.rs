//! permessage-deflate (RFC 7692): what was agreed with one client, and its messages packed and unpacked. A connection holds at most
//! the last window of each direction, and only where context is taken over; compressors belong to threads. Must not know sockets.

mod offer;
mod pool;

use std::num::NonZeroU8;

use bytes::Bytes;

use super::frames::Violation;
use crate::message::assembly::InvalidText;
use crate::message::{Kind, Payload};
use crate::snapshot::Compression;
use crate::telemetry::CompressionMetrics;
pub use offer::{Terms, agree};

/// One client's compression: as small as can be, since a quiet socket holds it.
#[derive(Debug)]
pub struct Deflate {
    level: NonZeroU8,
    server_window_bits: u8,
    client_window_bits: u8,
    /// Smaller messages are sent as they are.
    min_size: u32,
    /// Boxed: most connections take over nothing.
    histories: Option<Box<Histories>>,
}

/// The directions whose context is taken over.
#[derive(Debug, Default)]
struct Histories {
    sent: Option<History>,
    received: Option<History>,
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
        let history = |is_kept: bool| is_kept.then(History::default);
        let histories =
            Histories { sent: history(terms.server_takes_over), received: history(terms.client_takes_over) };
        Self {
            level: level(settings),
            server_window_bits: terms.server_window_bits,
            client_window_bits: terms.client_window_bits,
            min_size: size(settings.min_size),
            histories: (terms.server_takes_over || terms.client_takes_over).then(|| Box::new(histories)),
        }
    }

    /// Takes over new settings, as far as they were not agreed upon. None: nothing more is compressed.
    pub fn set(&mut self, settings: Option<&Compression>) {
        self.level = settings.map_or(self.level, level);
        self.min_size = settings.map_or(u32::MAX, |settings| size(settings.min_size));
    }

    /// The packed form of a message; none if it is better sent as it is.
    pub fn pack(&mut self, payload: &Payload) -> Option<Bytes> {
        if size(payload.len()) < self.min_size.max(1) {
            return None;
        }
        let (level, window_bits) = (self.level.get(), self.server_window_bits);
        let Some(sent) = self.histories.as_mut().and_then(|histories| histories.sent.as_mut()) else {
            let key = u16::from_be_bytes([level, window_bits]);
            return payload.form(key, |bytes| pool::pack(level, window_bits, &[], bytes).map(Bytes::from));
        };
        let packed = pool::pack(level, window_bits, &sent.0, payload.bytes())?;
        sent.push(payload.bytes(), window_bits);
        Some(packed.into())
    }

    /// The message that a client packed, of at most `size_max` bytes.
    pub fn unpack(&mut self, kind: Kind, packed: &[u8], size_max: usize) -> Result<Payload, Violation> {
        let received = self.histories.as_mut().and_then(|histories| histories.received.as_mut());
        let before = received.as_ref().map_or(&[][..], |history| &history.0);
        let bytes = pool::unpack(before, packed, size_max)?;
        if let Some(received) = received {
            received.push(&bytes, self.client_window_bits);
        }
        match kind {
            Kind::Text => Payload::text_from_bytes(bytes.into()).map_err(|_| InvalidText.into()),
            Kind::Binary => Ok(Payload::binary(bytes)),
        }
    }

    /// The value of `Sec-WebSocket-Extensions` in the handshake's answer.
    pub fn answer(&self) -> String {
        let histories = self.histories.as_deref();
        let terms = Terms {
            server_takes_over: histories.is_some_and(|histories| histories.sent.is_some()),
            client_takes_over: histories.is_some_and(|histories| histories.received.is_some()),
            server_window_bits: self.server_window_bits,
            client_window_bits: self.client_window_bits,
        };
        terms.to_string()
    }
}

fn level(settings: &Compression) -> NonZeroU8 {
    NonZeroU8::new(settings.level).unwrap_or(NonZeroU8::MIN)
}

/// No message is as large as four bytes can say.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
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
            // No more than that: a quiet connection keeps it, and moving it is little beside packing.
            self.0.reserve_exact(bytes.len());
        }
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
