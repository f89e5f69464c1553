//! A message that comes in pieces: its text is checked as it comes, so that what can never become UTF-8 is refused at once.
//! Knows bytes; must not know frames.

use bytes::Bytes;
use bytes::buf::{BufMut, Limit};

use super::{Kind, Payload};

/// The bytes are not UTF-8, or no longer can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid UTF-8")]
pub struct InvalidText;

/// What has come of a message. It never holds more than twice of that, whatever was promised.
#[derive(Debug)]
pub struct Assembly {
    kind: Kind,
    bytes: Vec<u8>,
    /// Bytes from here on were read, but not yet accepted.
    accepted: usize,
    /// Bytes of a text up to here are whole characters.
    whole: usize,
}

impl Assembly {
    pub fn new(kind: Kind) -> Self {
        Self { kind, bytes: Vec::new(), accepted: 0, whole: 0 }
    }

    /// Bytes that were accepted.
    pub fn len(&self) -> usize {
        self.accepted
    }

    pub fn is_empty(&self) -> bool {
        self.accepted == 0
    }

    /// Accepts a piece, of which `to_come` more bytes are promised.
    pub fn push(&mut self, piece: &[u8], to_come: usize) -> Result<(), InvalidText> {
        self.reserve(piece.len(), to_come);
        self.bytes.extend_from_slice(piece);
        self.accept()
    }

    /// Room to read the next piece into: at most as much as has come, nor more than `to_come`. What was read is `fresh` until it is
    /// accepted.
    pub fn space(&mut self, to_come: usize) -> Limit<&mut Vec<u8>> {
        if self.bytes.len() == self.bytes.capacity() {
            self.reserve(1, to_come - 1);
        }
        let most = to_come.min(self.bytes.capacity() - self.bytes.len());
        (&mut self.bytes).limit(most)
    }

    /// What was read and not yet accepted.
    pub fn fresh(&mut self) -> &mut [u8] {
        &mut self.bytes[self.accepted..]
    }

    /// Accepts what was read.
    pub fn accept(&mut self) -> Result<(), InvalidText> {
        self.accepted = self.bytes.len();
        if self.kind == Kind::Binary {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.whole..]) {
            Ok(_) => self.whole = self.bytes.len(),
            // A character that may still be completed.
            Err(error) if error.error_len().is_none() => self.whole += error.valid_up_to(),
            Err(_) => return Err(InvalidText),
        }
        Ok(())
    }

    /// The whole message, in a buffer of its own size.
    pub fn finish(mut self) -> Result<Payload, InvalidText> {
        if self.kind == Kind::Text && self.whole < self.bytes.len() {
            return Err(InvalidText);
        }
        self.bytes.shrink_to_fit();
        Ok(Payload::of(self.kind, Bytes::from(self.bytes)))
    }

    /// The accepted bytes, whatever they are.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Makes room for `piece` bytes. Grows to twice of what has come, or to the promised end if that is nearer.
    fn reserve(&mut self, piece: usize, to_come: usize) {
        let needed = self.bytes.len() + piece;
        if needed > self.bytes.capacity() {
            let most = needed.saturating_add(to_come);
            let capacity = needed.max(2 * self.bytes.len()).min(most);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_any_pieces_is_the_same_text() {
        let text = "aé€😀z".repeat(20);
        for size in 1..9 {
            let mut assembly = Assembly::new(Kind::Text);
            for piece in text.as_bytes().chunks(size) {
                assembly.push(piece, 0).expect("still UTF-8");
            }
            assert_eq!(assembly.finish(), Ok(Payload::text(text.clone())));
        }
    }

    #[test]
    fn what_cannot_become_utf_8_is_refused_at_its_first_wrong_byte() {
        // A surrogate, something above U+10FFFF, an overlong slash, a lone continuation byte.
        for (start, wrong) in [(&b"\xed"[..], 0xa0), (b"\xf4", 0x90), (b"\xe0", 0x80), (b"ab", 0xbf)] {
            let mut assembly = Assembly::new(Kind::Text);
            assembly.push(start, 0).expect("may still become UTF-8");
            assert_eq!(assembly.push(&[wrong], 0), Err(InvalidText), "{start:x?}");
        }
    }

    #[test]
    fn a_text_may_not_end_within_a_character() {
        let mut assembly = Assembly::new(Kind::Text);
        assembly.push(b"a\xe2\x82", 0).expect("may still become UTF-8");
        assert_eq!(assembly.finish(), Err(InvalidText));
    }

    #[test]
    fn a_promise_costs_nothing_and_the_end_is_not_passed() {
        let mut assembly = Assembly::new(Kind::Binary);
        assembly.push(b"0123456789", 1 << 40).expect("binary");
        assert!(assembly.bytes.capacity() <= 20, "{}", assembly.bytes.capacity());
        assert_eq!(assembly.space(1 << 40).remaining_mut(), 10);
        let mut assembly = Assembly::new(Kind::Binary);
        assembly.push(b"0123456789", 3).expect("binary");
        assembly.space(3).put_slice(b"abc");
        assert_eq!(assembly.fresh(), b"abc");
        assembly.accept().expect("binary");
        assert_eq!((assembly.len(), assembly.bytes.capacity()), (13, 13));
        assert_eq!(assembly.finish(), Ok(Payload::binary(&b"0123456789abc"[..])));
    }
}
