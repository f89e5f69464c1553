//! One WebSocket over a byte stream. What comes in is read into a buffer of the thread, so that a quiet socket holds none; messages
//! are written by reference, so that a send to many shares one. Knows bytes and frames; must not know what a message means.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::deflate::{Deflate, Packed};
use super::frames::{Decoded, Decoder, Opcode, Violation, close_frame_payload, frame_header};
use super::stream::{Second, Stream};
use crate::message::{Ending, Kind, Payload};
use crate::snapshot::Compression;

/// Of each thread. What is missing of a message that is larger is read straight into the message.
const SHARED_BYTES: usize = 32 * 1024;
/// Read of a connection that is being closed, so that its peer sees the close: who goes on sending is not read any more.
const CLOSING_BYTES_MAX: u32 = 256 * 1024;
/// No close is under way.
const UNBOUNDED: u32 = u32::MAX;
/// What is shorter is put together for one plain write, which costs the system less than a vectored one.
const COPY_BYTES_MAX: usize = 4 * 1024;
/// Slices in one vectored write.
const SLICES: usize = 32;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; SHARED_BYTES].into());
}

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    /// A message, and how many bytes it was on the wire, if it was packed.
    Message(Payload, Option<usize>),
    /// A ping (already answered) or a pong.
    Control,
    /// The peer closed; the answer is queued.
    Close(Ending),
    /// A frame breaks the protocol or a limit: close with this.
    Violation(Ending),
    /// The byte stream ended.
    End,
}

/// A frame on its way out.
struct OutFrame {
    header: [u8; 10],
    header_len: u8,
    opcode: Opcode,
    payload: Bytes,
    /// Of the message itself, where the payload is packed.
    plain_bytes: Option<usize>,
}

/// A server's side of a WebSocket over any byte stream.
pub struct Socket<S> {
    stream: S,
    decoder: Decoder,
    /// What was read behind the last message.
    rest: BytesMut,
    out: VecDeque<OutFrame>,
    /// Bytes of the first frame of `out` that the stream took.
    out_offset: usize,
    heard: bool,
    /// Our close frame is queued or out: no frame may follow it.
    is_closed: bool,
    /// What may still be read, once a close is under way; `UNBOUNDED` before.
    left_bytes: u32,
    deflate: Option<Deflate>,
}

/// Frames and payload bytes of messages that the stream took whole.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub frames: usize,
    /// Before compression.
    pub payload_bytes: usize,
    /// Of those that are compressed.
    pub packed: Packed,
}

impl<S: Stream> Socket<S> {
    /// The hand by which others may write messages as they are: none where they may have to be packed.
    pub fn second(&mut self) -> Option<Second> {
        self.stream.second().filter(|_| self.deflate.is_none())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Takes over after the handshake. `read_ahead` is what came in behind it.
    pub fn new(stream: S, read_ahead: &[u8], message_size: usize) -> Self {
        Self {
            stream,
            decoder: Decoder::new(message_size),
            rest: BytesMut::from(read_ahead),
            out: VecDeque::new(),
            out_offset: 0,
            heard: false,
            is_closed: false,
            left_bytes: UNBOUNDED,
            deflate: None,
        }
    }

    /// The same, with what was agreed upon of compression.
    pub fn with_deflate(mut self, deflate: Option<Deflate>) -> Self {
        if deflate.is_some() {
            self.decoder.allow_packed();
        }
        self.deflate = deflate;
        self
    }

    /// Takes over new settings, after a reload.
    pub fn set_compression(&mut self, settings: Option<&Compression>) {
        if let Some(deflate) = &mut self.deflate {
            deflate.set(settings);
        }
    }

    /// Changes the size limit, after a reload.
    pub fn set_message_size(&mut self, message_size: usize) {
        self.decoder.set_message_size(message_size);
    }

    /// True once after bytes came in.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Reads the next message or control frame. The answer to a ping or a close is queued. Not to be asked again after a violation.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            let decoded = match self.rest.is_empty() {
                false => self.decode_rest(),
                true => match ready!(self.poll_fill(cx)) {
                    Ok(decoded) => decoded,
                    Err(_) => return Poll::Ready(Incoming::End),
                },
            };
            match decoded {
                Ok(None) => {}
                Ok(Some(decoded)) => return Poll::Ready(self.take_in(decoded)),
                Err(violation) => return Poll::Ready(violation.into()),
            }
        }
    }

    /// Queues a message, packed if that was agreed upon. Else nothing is copied but the frame's header.
    pub fn queue(&mut self, payload: Payload) {
        let opcode = Opcode::Data(payload.kind());
        let packed = self.deflate.as_mut().and_then(|deflate| deflate.pack(&payload));
        self.out.push_back(match packed {
            Some(packed) => OutFrame::packed(opcode, packed, payload.len()),
            None => OutFrame::new(opcode, payload.into_bytes()),
        });
    }

    /// Takes over a message whose frame has begun: it goes on before anything else.
    pub fn resume(&mut self, payload: Payload, begun: usize) {
        self.out.push_front(OutFrame::new(Opcode::Data(payload.kind()), payload.into_bytes()));
        self.out_offset = begun;
    }

    /// Queues a ping, unless one waits already.
    pub fn ping(&mut self) {
        if self.waiting(Opcode::Ping).is_none() {
            self.queue_control(Opcode::Ping, Bytes::new());
        }
    }

    /// From now on only little is read: a close is under way, and who goes on sending must not cost more than it did before.
    pub fn begin_closing(&mut self) {
        self.left_bytes = self.left_bytes.min(CLOSING_BYTES_MAX);
    }

    /// Begins the close handshake. Call once `is_idle`, so that it comes behind every message.
    pub fn close(&mut self, ending: &Ending) {
        self.queue_control(Opcode::Close, close_frame_payload(ending).into());
        self.is_closed = true;
        self.begin_closing();
    }

    /// True while anything waits to be written.
    pub fn is_writing(&self) -> bool {
        !self.out.is_empty()
    }

    /// True when no message waits to be written.
    pub fn is_idle(&self) -> bool {
        self.out.iter().all(OutFrame::is_control)
    }

    /// Drops the messages that wait, all but one that has begun.
    pub fn drop_queued(&mut self) {
        let mut is_torn = self.out_offset > 0;
        self.out.retain(|frame| std::mem::take(&mut is_torn) || frame.is_control());
    }

    /// Writes what waits. `written` sums up the messages that the stream took whole, also when pending.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, written: &mut Written) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let taken = ready!(self.poll_write_out(cx))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken, written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends the writing half, once everything is flushed.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Reads and drops bytes until the peer ends: closing a socket with unread bytes would reset it, and the peer could lose
    /// the close frame.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.rest = BytesMut::new();
        SHARED.with_borrow_mut(|shared| {
            while self.left_bytes > 0 {
                let mut buffer = ReadBuf::new(shared);
                match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => self.count_read(buffer.filled().len()),
                    _ => return Poll::Ready(()),
                }
            }
            Poll::Pending
        })
    }

    /// Reads once. What lies behind the first message is kept.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Result<Option<Decoded>, Violation>>> {
        if self.left_bytes == 0 {
            return Poll::Pending;
        }
        if let Some(mut space) = self.decoder.space(SHARED_BYTES) {
            let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut space))?;
            self.count_read(count);
            return Poll::Ready(some_bytes(count).map(|_| self.decoder.filled()));
        }
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            some_bytes(buffer.filled().len())?;
            self.count_read(buffer.filled().len());
            let input = buffer.filled_mut();
            let mut at = 0;
            let decoded = self.decoder.decode(input, &mut at);
            if at < input.len() {
                self.rest = BytesMut::from(&input[at..]);
            }
            Poll::Ready(Ok(decoded))
        })
    }

    fn count_read(&mut self, bytes: usize) {
        self.heard = true;
        if self.left_bytes != UNBOUNDED {
            self.left_bytes = self.left_bytes.saturating_sub(u32::try_from(bytes).unwrap_or(UNBOUNDED));
        }
    }

    fn decode_rest(&mut self) -> Result<Option<Decoded>, Violation> {
        let mut at = 0;
        let decoded = self.decoder.decode(&mut self.rest, &mut at);
        self.rest.advance(at);
        if self.rest.is_empty() {
            // A quiet connection holds no buffer.
            self.rest = BytesMut::new();
        }
        decoded
    }

    fn take_in(&mut self, decoded: Decoded) -> Incoming {
        match decoded {
            Decoded::Message(payload) => Incoming::Message(payload, None),
            Decoded::Packed(kind, packed) => match self.unpack(kind, &packed) {
                Ok(payload) => Incoming::Message(payload, Some(packed.len())),
                Err(violation) => violation.into(),
            },
            Decoded::Pong => Incoming::Control,
            Decoded::Ping(payload) => {
                // Only the newest ping needs its answer (RFC 6455 section 5.5.3).
                match self.waiting(Opcode::Pong) {
                    Some(pong) => *pong = OutFrame::new(Opcode::Pong, payload),
                    None => self.queue_control(Opcode::Pong, payload),
                }
                Incoming::Control
            }
            Decoded::Close(ending) => {
                self.close(&ending);
                Incoming::Close(ending)
            }
        }
    }

    fn unpack(&mut self, kind: Kind, packed: &[u8]) -> Result<Payload, Violation> {
        let deflate = self.deflate.as_mut().ok_or(Violation::Packed)?;
        deflate.unpack(kind, packed, self.decoder.message_size())
    }

    /// A control frame goes before every message that has not begun.
    fn queue_control(&mut self, opcode: Opcode, payload: Bytes) {
        if self.is_closed {
            return;
        }
        let begun = usize::from(self.out_offset > 0);
        let controls = self.out.iter().skip(begun).take_while(|frame| frame.is_control()).count();
        self.out.insert(begun + controls, OutFrame::new(opcode, payload));
    }

    /// A control frame of this kind that has not begun.
    fn waiting(&mut self, opcode: Opcode) -> Option<&mut OutFrame> {
        let begun = usize::from(self.out_offset > 0);
        self.out.iter_mut().skip(begun).take_while(|frame| frame.is_control()).find(|frame| frame.opcode == opcode)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut skip = self.out_offset;
        for frame in &self.out {
            for part in [&frame.header[..usize::from(frame.header_len)], &frame.payload[..]] {
                if skip >= part.len() {
                    skip -= part.len();
                } else if count < SLICES {
                    slices[count] = IoSlice::new(&part[skip..]);
                    skip = 0;
                    count += 1;
                }
            }
            if count == SLICES {
                break;
            }
        }
        let stream = Pin::new(&mut self.stream);
        let slices = &slices[..count];
        joined(slices, |joined| match joined {
            Some(joined) => stream.poll_write(cx, joined),
            None => stream.poll_write_vectored(cx, slices),
        })
    }

    fn advance(&mut self, taken: usize, written: &mut Written) {
        self.out_offset += taken;
        while let Some(frame) = self.out.front() {
            let len = usize::from(frame.header_len) + frame.payload.len();
            if self.out_offset < len {
                return;
            }
            self.out_offset -= len;
            if !frame.is_control() {
                let plain_bytes = frame.plain_bytes.unwrap_or(frame.payload.len());
                written.frames += 1;
                written.payload_bytes += plain_bytes;
                if frame.plain_bytes.is_some() {
                    written.packed.add(frame.payload.len(), plain_bytes);
                }
            }
            self.out.pop_front();
        }
        // A quiet connection holds no buffer.
        self.out = VecDeque::new();
    }
}

impl OutFrame {
    fn new(opcode: Opcode, payload: Bytes) -> Self {
        let (header, header_len) = frame_header(opcode, false, payload.len());
        Self { header, header_len, opcode, payload, plain_bytes: None }
    }

    fn packed(opcode: Opcode, payload: Bytes, plain_bytes: usize) -> Self {
        let (header, header_len) = frame_header(opcode, true, payload.len());
        Self { header, header_len, opcode, payload, plain_bytes: Some(plain_bytes) }
    }

    fn is_control(&self) -> bool {
        !self.opcode.is_data()
    }
}

impl From<Violation> for Incoming {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation.ending())
    }
}

/// Puts slices together for one plain write; gives none where that would cost more than a vectored one.
pub(super) fn joined<T>(slices: &[IoSlice<'_>], write: impl FnOnce(Option<&[u8]>) -> T) -> T {
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > COPY_BYTES_MAX {
        return write(None);
    }
    SHARED.with_borrow_mut(|shared| {
        let mut at = 0;
        for slice in slices {
            shared[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        write(Some(&shared[..at]))
    })
}

/// A read of nothing is the end of the stream.
fn some_bytes(count: usize) -> io::Result<()> {
    if count > 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
