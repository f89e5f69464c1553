//! Compressors, which are large: each thread has a few, lent for one message at a time. What a message refers back to is given to
//! them with it. Must not know connections.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::session::frames::Violation;

/// Compressors that a thread keeps, each of another level or window.
const KEPT_MAX: usize = 4;
/// The largest window there is.
const WINDOW_BYTES: usize = 32 * 1024;
/// What a flush leaves at the end of each message, and neither side sends (RFC 7692 section 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];
/// What is read behind each message: the same, and a final empty block, so that it shows whether the message was whole.
const TAIL: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// A message may have blocks that are said to be the final ones (section 7.2.3.4), but not a thousand of them: each costs a start.
const FINAL_BLOCKS_MAX: usize = 16;
/// The first guess of how much larger a message is when it is unpacked.
const RATIO: usize = 4;

struct Compressor {
    level: u8,
    window_bits: u8,
    compress: Compress,
}

thread_local! {
    /// The one used last is the first.
    static COMPRESSORS: RefCell<Vec<Compressor>> = const { RefCell::new(Vec::new()) };
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Compresses a message that may refer to `history`. None if that does not make it smaller.
pub fn pack(level: u8, window_bits: u8, history: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    COMPRESSORS.with_borrow_mut(|kept| {
        let fits = |c: &Compressor| c.level == level && c.window_bits == window_bits;
        match kept.iter().position(fits) {
            Some(at) => kept[..=at].rotate_right(1),
            None => {
                kept.truncate(KEPT_MAX - 1);
                let compress = Compress::new_with_window_bits(Compression::new(level.into()), false, window_bits);
                kept.insert(0, Compressor { level, window_bits, compress });
            }
        }
        pack_with(&mut kept.first_mut()?.compress, history, bytes)
    })
}

fn pack_with(compress: &mut Compress, history: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    compress.reset();
    if !history.is_empty() {
        compress.set_dictionary(history).ok()?;
    }
    // Where this is filled, the message did not become smaller.
    let mut packed = Vec::with_capacity(bytes.len() + FLUSHED.len());
    compress.compress_vec(bytes, &mut packed, FlushCompress::Sync).ok()?;
    if packed.len() == packed.capacity() || !packed.ends_with(&FLUSHED) {
        return None;
    }
    packed.truncate(packed.len() - FLUSHED.len());
    packed.shrink_to_fit();
    Some(packed)
}

/// The message that was packed, in a buffer of its own size. It may refer to `history`; never more than `size_max` bytes and one are held.
pub fn unpack(history: &[u8], packed: &[u8], size_max: usize) -> Result<Vec<u8>, Violation> {
    if packed.is_empty() {
        // Not what the standard says of an empty message, but what some compressors leave of one.
        return Ok(Vec::new());
    }
    DECOMPRESS.with_borrow_mut(|decompress| {
        let mut unpacking = Unpacking { decompress, plain: Vec::new(), size_max, final_blocks: 0 };
        unpacking.plain.reserve_exact(packed.len().saturating_mul(RATIO).min(size_max.saturating_add(1)));
        unpacking.start(history)?;
        if !unpacking.feed(history, packed)? && !unpacking.feed(&[], &TAIL)? {
            return Err(Violation::Packed);
        }
        unpacking.plain.shrink_to_fit();
        Ok(unpacking.plain)
    })
}

struct Unpacking<'a> {
    decompress: &'a mut Decompress,
    plain: Vec<u8>,
    size_max: usize,
    final_blocks: usize,
}

impl Unpacking<'_> {
    /// Begins a stream that may refer to what came before it.
    fn start(&mut self, history: &[u8]) -> Result<(), Violation> {
        self.decompress.reset(false);
        if !history.is_empty() {
            self.decompress.set_dictionary(history).map_err(|_| Violation::Packed)?;
        }
        Ok(())
    }

    /// Unpacks all of `packed`. True if the stream ended with it, by a final block.
    fn feed(&mut self, history: &[u8], mut packed: &[u8]) -> Result<bool, Violation> {
        loop {
            self.make_room();
            let (taken, len) = (self.decompress.total_in(), self.plain.len());
            let status = self.decompress.decompress_vec(packed, &mut self.plain, FlushDecompress::None);
            let status = status.map_err(|_| Violation::Packed)?;
            let taken = usize::try_from(self.decompress.total_in() - taken).unwrap_or_default();
            packed = &packed[taken..];
            if self.plain.len() > self.size_max {
                return Err(Violation::TooLarge(self.size_max));
            }
            match status {
                Status::StreamEnd if packed.is_empty() => return Ok(true),
                Status::StreamEnd => self.restart(history)?,
                _ if packed.is_empty() && self.plain.len() < self.plain.capacity() => return Ok(false),
                _ if taken == 0 && self.plain.len() == len => return Err(Violation::Packed),
                _ => {}
            }
        }
    }

    /// Goes on behind a final block.
    fn restart(&mut self, history: &[u8]) -> Result<(), Violation> {
        self.final_blocks += 1;
        if self.final_blocks > FINAL_BLOCKS_MAX {
            return Err(Violation::Packed);
        }
        let recent = &self.plain[self.plain.len().saturating_sub(WINDOW_BYTES)..];
        let older = &history[history.len().saturating_sub(WINDOW_BYTES - recent.len())..];
        self.start(&[older, recent].concat())
    }

    /// Doubles, up to one byte more than may come.
    fn make_room(&mut self) {
        if self.plain.len() == self.plain.capacity() {
            let missing = self.size_max.saturating_add(1) - self.plain.len();
            self.plain.reserve_exact(self.plain.len().max(64).min(missing));
        }
    }
}
