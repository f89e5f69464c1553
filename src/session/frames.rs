//! RFC 6455, the reading side of a server: bytes in, whole messages, control frames and violations out. Holds nothing while no
//! frame or message is under way. Knows bytes; must not know sockets, or what a message means.

mod header;

use bytes::Bytes;
use bytes::buf::Limit;

use crate::codes::{Cause, CloseCode};
use crate::message::assembly::{Assembly, InvalidText};
use crate::message::{Ending, Kind, Payload};
use header::{HEADER_BYTES_MAX, Header};
pub use header::{Opcode, close_frame_payload, frame_header};

/// What the frame headers of one message may take beside its largest size, for one that comes in many fragments.
const FRAMING_BYTES: usize = 16 * 1024;
/// What a compressed message may be larger than when it is unpacked: DEFLATE can make bytes longer, never by this much.
const PACKED_EXCESS_BYTES: usize = 1024;

/// What bytes came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    Message(Payload),
    /// A whole message, still compressed.
    Packed(Kind, Vec<u8>),
    Ping(Bytes),
    Pong,
    /// How the peer closes.
    Close(Ending),
}

/// Why a peer's bytes are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{0}")]
    Protocol(&'static str),
    #[error(transparent)]
    Text(#[from] InvalidText),
    #[error("message larger than {0} bytes")]
    TooLarge(usize),
    #[error("message in too many fragments")]
    Endless,
    #[error("invalid compressed data")]
    Packed,
}

impl Violation {
    /// The close that tells of it.
    pub fn ending(&self) -> Ending {
        let code = match self {
            Self::Protocol(_) => CloseCode::PROTOCOL_ERROR,
            Self::Text(_) | Self::Packed => CloseCode::INVALID_UTF8,
            Self::TooLarge(_) | Self::Endless => CloseCode::TOO_LARGE,
        };
        Ending::new(code, self.to_string(), Cause::Error)
    }
}

/// Puts frames and messages together.
#[derive(Debug)]
pub struct Decoder {
    /// The largest message, in bytes as its reader gets it.
    message_size: usize,
    /// The peer may compress: RSV1 has a meaning.
    allows_packed: bool,
    /// None while nothing is under way.
    partial: Option<Box<Partial>>,
}

/// A frame or a message that is under way.
#[derive(Debug, Default)]
struct Partial {
    /// The start of a frame's header.
    head: [u8; HEADER_BYTES_MAX],
    head_len: usize,
    frame: Option<Frame>,
    /// What has come of a control frame's payload.
    control: Vec<u8>,
    message: Option<Message>,
}

/// A frame whose payload is not whole yet.
#[derive(Debug, Clone, Copy)]
struct Frame {
    header: Header,
    /// Bytes that are still to come.
    left: u64,
}

#[derive(Debug)]
struct Message {
    kind: Kind,
    is_packed: bool,
    assembly: Assembly,
    framing_bytes: usize,
}

impl Decoder {
    pub fn new(message_size: usize) -> Self {
        Self { message_size, allows_packed: false, partial: None }
    }

    pub fn set_message_size(&mut self, message_size: usize) {
        self.message_size = message_size;
    }

    pub fn message_size(&self) -> usize {
        self.message_size
    }

    /// Compression was agreed upon: RSV1 marks a message as packed.
    pub fn allow_packed(&mut self) {
        self.allows_packed = true;
    }

    /// Takes bytes of `input` from `at` on, until something is whole or the input ends. The payloads are unmasked in place. After
    /// a violation nothing more may be asked.
    pub fn decode(&mut self, input: &mut [u8], at: &mut usize) -> Result<Option<Decoded>, Violation> {
        loop {
            let Some(mut frame) = self.next_frame(input, at)? else { return Ok(None) };
            let piece = &mut input[*at..];
            let len = usize::try_from(frame.left).map_or(piece.len(), |left| left.min(piece.len()));
            let piece = &mut piece[..len];
            *at += len;
            unmask(piece, frame.header.mask);
            if self.partial.is_none() && frame.is_whole_message(len) {
                return Ok(Some(Decoded::Message(message_of(frame.header.opcode, piece)?)));
            }
            frame.advance(len);
            if let Some(decoded) = self.feed(frame, piece)? {
                return Ok(Some(decoded));
            }
        }
    }

    /// Room for the rest of a large payload, so that it need not be copied; what was read into it is said to `filled`. None where the
    /// next bytes are better taken by `decode`, which is until `bytes_min` came and where less than that is missing.
    pub fn space(&mut self, bytes_min: usize) -> Option<Limit<&mut Vec<u8>>> {
        let partial = self.partial.as_mut()?;
        let frame = partial.frame.as_ref()?;
        let message = partial.message.as_mut().filter(|_| frame.header.opcode.is_data())?;
        let left = usize::try_from(frame.left).ok()?;
        (left >= bytes_min && message.assembly.len() >= bytes_min).then(|| message.assembly.space(left))
    }

    /// Bytes were read into `space`.
    pub fn filled(&mut self) -> Result<Option<Decoded>, Violation> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let (Some(mut frame), Some(message)) = (partial.frame.take(), &mut partial.message) else { return Ok(None) };
        let fresh = message.assembly.fresh();
        let len = fresh.len();
        unmask(fresh, frame.header.mask);
        message.assembly.accept()?;
        frame.advance(len);
        self.settle(frame)
    }

    /// The frame that the next bytes belong to. None if its header is not whole.
    fn next_frame(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Frame>, Violation> {
        if let Some(partial) = &mut self.partial {
            if *at == input.len() {
                return Ok(None);
            }
            if let Some(frame) = partial.frame.take() {
                return Ok(Some(frame));
            }
            if partial.head_len > 0 {
                return self.continue_header(input, at);
            }
        }
        match Header::parse(&input[*at..], self.allows_packed)? {
            Some((header, len)) => {
                *at += len;
                self.admit(header, len).map(Some)
            }
            None if *at == input.len() => Ok(None),
            None => {
                let partial = self.partial.get_or_insert_default();
                let rest = &input[*at..];
                partial.head[..rest.len()].copy_from_slice(rest);
                partial.head_len = rest.len();
                *at = input.len();
                Ok(None)
            }
        }
    }

    /// Goes on with a header whose start has come before.
    fn continue_header(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Frame>, Violation> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        while *at < input.len() {
            partial.head[partial.head_len] = input[*at];
            partial.head_len += 1;
            *at += 1;
            if let Some((header, len)) = Header::parse(&partial.head[..partial.head_len], self.allows_packed)? {
                partial.head_len = 0;
                return self.admit(header, len).map(Some);
            }
        }
        Ok(None)
    }

    /// Holds a frame's header against what came before it, and against the limits.
    fn admit(&mut self, header: Header, header_len: usize) -> Result<Frame, Violation> {
        let frame = Frame { header, left: header.len };
        let message = self.partial.as_mut().and_then(|partial| partial.message.as_mut());
        let (is_packed, before) = match (header.opcode, message) {
            (Opcode::Continuation, None) => return Err(Violation::Protocol("continuation of no message")),
            (Opcode::Data(_), Some(_)) => return Err(Violation::Protocol("message within a message")),
            (Opcode::Data(_), None) => (header.rsv1, 0),
            (Opcode::Continuation, Some(message)) => {
                message.framing_bytes += header_len;
                if message.framing_bytes > self.message_size.saturating_add(FRAMING_BYTES) {
                    return Err(Violation::Endless);
                }
                (message.is_packed, message.assembly.len())
            }
            _ => return Ok(frame),
        };
        let size_max = match is_packed {
            false => self.message_size,
            true => self.message_size.saturating_add(self.message_size / 4).saturating_add(PACKED_EXCESS_BYTES),
        };
        match usize::try_from(header.len).is_ok_and(|len| len <= size_max - before.min(size_max)) {
            true => Ok(frame),
            false => Err(Violation::TooLarge(self.message_size)),
        }
    }

    /// Takes an unmasked piece of a frame's payload.
    fn feed(&mut self, frame: Frame, piece: &[u8]) -> Result<Option<Decoded>, Violation> {
        let partial = self.partial.get_or_insert_default();
        match frame.header.opcode {
            Opcode::Data(kind) if partial.message.is_none() => {
                let is_packed = frame.header.rsv1;
                let assembly = Assembly::new(if is_packed { Kind::Binary } else { kind });
                let message = Message { kind, is_packed, assembly, framing_bytes: 0 };
                partial.message.insert(message).assembly.push(piece, frame.left_bytes())?;
            }
            Opcode::Data(_) | Opcode::Continuation => {
                if let Some(message) = &mut partial.message {
                    message.assembly.push(piece, frame.left_bytes())?;
                }
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => partial.control.extend_from_slice(piece),
        }
        self.settle(frame)
    }

    /// Keeps a frame that is not whole, and gives what a whole one completes. Where nothing is under way any more, nothing is held.
    fn settle(&mut self, frame: Frame) -> Result<Option<Decoded>, Violation> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        if frame.left > 0 {
            partial.frame = Some(frame);
            return Ok(None);
        }
        let decoded = match frame.header.opcode {
            Opcode::Data(_) | Opcode::Continuation => match partial.message.take_if(|_| frame.header.is_final) {
                Some(message) => message.finish().map(Some),
                None => return Ok(None),
            },
            Opcode::Ping => Ok(Some(Decoded::Ping(std::mem::take(&mut partial.control).into()))),
            Opcode::Pong => {
                partial.control = Vec::new();
                Ok(Some(Decoded::Pong))
            }
            Opcode::Close => header::ending_of(&partial.control).map(|ending| Some(Decoded::Close(ending))),
        };
        if partial.message.is_none() {
            self.partial = None;
        }
        decoded
    }
}

impl Frame {
    /// The payload goes on after `len` bytes.
    fn advance(&mut self, len: usize) {
        self.left -= len as u64;
        self.header.mask.rotate_left(len % 4);
    }

    fn left_bytes(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    /// `len` bytes of payload are all that there is of a message: the usual case.
    fn is_whole_message(&self, len: usize) -> bool {
        let header = &self.header;
        header.is_final && !header.rsv1 && matches!(header.opcode, Opcode::Data(_)) && self.left == len as u64
    }
}

impl Message {
    fn finish(self) -> Result<Decoded, Violation> {
        match self.is_packed {
            true => Ok(Decoded::Packed(self.kind, self.assembly.into_bytes())),
            false => Ok(Decoded::Message(self.assembly.finish()?)),
        }
    }
}

/// A message that lay whole in the input: copied once, into a buffer of its own size.
fn message_of(opcode: Opcode, bytes: &[u8]) -> Result<Payload, Violation> {
    let bytes = Bytes::copy_from_slice(bytes);
    match opcode {
        Opcode::Data(Kind::Text) => Payload::text_from_bytes(bytes).map_err(|_| InvalidText.into()),
        _ => Ok(Payload::binary(bytes)),
    }
}

/// Eight bytes at a time, which the compiler makes more.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (at, byte) in rest.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
}

#[cfg(test)]
mod tests;
