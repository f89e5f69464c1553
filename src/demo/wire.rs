//! The wire: the last requests and answers between Holdfast and the handler, for the page's panel.
//! A bounded ring; must not know what a message means.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;

/// Entries that are kept; the oldest go first.
const ENTRIES_MAX: usize = 100;
/// Bytes of a body or a header's value that are kept.
const TEXT_BYTES_MAX: usize = 2048;

/// What an entry is, and which way it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Holdfast to the handler.
    Event,
    /// The handler to Holdfast, in the response to an event.
    Answer,
    /// The handler to Holdfast's admin listener.
    Call,
    /// Holdfast's response to a call.
    Outcome,
}

/// One half of an exchange. `number` is set by the ring, from 1.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Entry {
    pub number: u64,
    pub at_ms: u64,
    pub kind: Kind,
    /// Number of the request that this responds to.
    pub responds_to: Option<u64>,
    /// Request line or status.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What the page asks for: entries after the one it has.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    /// Changes when the handler starts anew: numbers begin at 1 again.
    pub boot: u64,
    pub last: u64,
    pub entries: Vec<Entry>,
}

pub(super) struct Wire {
    boot: u64,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    last: u64,
    entries: VecDeque<Entry>,
}

impl Wire {
    pub fn new() -> Self {
        Self { boot: now_ms(), ring: Mutex::default() }
    }

    /// Keeps a half of an exchange and returns its number.
    pub fn record(
        &self,
        kind: Kind,
        responds_to: Option<u64>,
        line: String,
        headers: Vec<(String, String)>,
        body: &[u8],
    ) -> u64 {
        let headers = headers.into_iter().map(|(name, value)| (name, cut(&value))).collect();
        let body = match std::str::from_utf8(body) {
            Ok(text) => cut(text),
            Err(_) => hexadecimal(body),
        };
        let at_ms = now_ms();
        let mut ring = self.ring.lock();
        ring.last += 1;
        let number = ring.last;
        if ring.entries.len() == ENTRIES_MAX {
            ring.entries.pop_front();
        }
        ring.entries.push_back(Entry { number, at_ms, kind, responds_to, line, headers, body });
        number
    }

    pub fn after(&self, number: u64) -> Page {
        let ring = self.ring.lock();
        let entries = ring.entries.iter().filter(|entry| entry.number > number).cloned().collect();
        Page { boot: self.boot, last: ring.last, entries }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    format!("{kept}… ({} bytes in all)", text.len())
}

fn hexadecimal(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    let shown: Vec<String> = bytes.iter().take(SHOWN_BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > SHOWN_BYTES_MAX { " …" } else { "" };
    format!("{} bytes: {}{more}", bytes.len(), shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(wire: &Wire, body: &[u8]) -> u64 {
        wire.record(Kind::Event, None, "POST /events".into(), vec![("ce-id".into(), "x".into())], body)
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let wire = Wire::new();
        for _ in 0..ENTRIES_MAX + 5 {
            record(&wire, b"{}");
        }
        let page = wire.after(0);
        assert_eq!(page.entries.len(), ENTRIES_MAX);
        assert_eq!(page.entries[0].number, 6);
        assert_eq!(page.last, 105);
        assert_eq!(wire.after(103).entries.len(), 2);
        assert!(wire.after(105).entries.is_empty());
    }

    #[test]
    fn long_and_binary_bodies_are_cut() {
        let wire = Wire::new();
        record(&wire, "é".repeat(TEXT_BYTES_MAX).as_bytes());
        record(&wire, &[0xff; 100]);
        let entries = wire.after(0).entries;
        assert!(entries[0].body.ends_with("(4096 bytes in all)"), "{}", entries[0].body);
        assert!(entries[0].body.len() < TEXT_BYTES_MAX + 40);
        assert!(
            entries[1].body.starts_with("100 bytes: ff ff") && entries[1].body.ends_with(" …"),
            "{}",
            entries[1].body
        );
    }
}
