//! One WebSocket: tungstenite reads and answers control frames, messages are written by reference so that a send to many shares
//! one buffer. Knows bytes and frames; must not know what a message means or why it is sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::codes::{Cause, CloseCode};
use crate::message::{Ending, Kind, Payload};

/// Allocated eagerly for each socket: small, because most are quiet.
const READ_BUFFER_BYTES: usize = 1024;
/// Control frames that wait behind a slow client; more of them replace each other.
const CONTROL_BUFFER_BYTES: usize = 4096;
/// What a message's frame headers may take beside its largest size, for one that comes in many fragments.
const FRAMING_BYTES: usize = 16 * 1024;
/// The largest control frame (RFC 6455 section 5.5): it is no message, so no limit of messages counts for it.
const CONTROL_FRAME_BYTES: usize = 125;
/// Slices in one vectored write.
const SLICES: usize = 32;

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Message(Payload),
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
    header_len: usize,
    payload: Bytes,
}

/// A server's side of a WebSocket over any byte stream.
pub struct Socket<S> {
    stream: S,
    context: WebSocketContext,
    out: VecDeque<OutFrame>,
    /// Bytes of the first frame of `out` that the stream took.
    out_offset: usize,
    heard: bool,
    /// Bytes that came in since the last message or control frame: of one that is still to be completed.
    incomplete: usize,
}

/// Frames and payload bytes that the stream took whole.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub frames: usize,
    pub payload_bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Takes over after the handshake. `read_ahead` is what came in behind it.
    pub fn new(stream: S, read_ahead: &[u8], message_size: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_BUFFER_BYTES)
            .max_message_size(Some(message_size))
            .max_frame_size(Some(message_size.max(CONTROL_FRAME_BYTES)));
        let context = WebSocketContext::from_partially_read(read_ahead.to_vec(), Role::Server, Some(config));
        Self { stream, context, out: VecDeque::new(), out_offset: 0, heard: false, incomplete: 0 }
    }

    /// Changes the size limit, after a reload.
    pub fn set_message_size(&mut self, message_size: usize) {
        self.context.set_config(|config| {
            config.max_message_size = Some(message_size);
            config.max_frame_size = Some(message_size.max(CONTROL_FRAME_BYTES));
        });
    }

    /// True once after bytes came in.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Reads the next message or control frame; answers to control frames leave on the way.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let (context, mut bridge) = self.bridge(cx);
        let read = context.read(&mut bridge);
        if read.is_ok() {
            self.incomplete = 0;
        }
        Poll::Ready(match read {
            Ok(Message::Text(text)) => match Payload::text_from_bytes(text.into()) {
                Ok(payload) => Incoming::Message(payload),
                Err(_) => violation(CloseCode::INVALID_UTF8, "invalid UTF-8"),
            },
            Ok(Message::Binary(bytes)) => Incoming::Message(Payload::binary(bytes)),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Incoming::Control,
            Ok(Message::Close(frame)) => {
                self.make_room_for_close();
                Incoming::Close(ending_of(frame))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => match self.is_endless() {
                true => violation(CloseCode::TOO_LARGE, "message in too many fragments"),
                false => return Poll::Pending,
            },
            Err(Error::Capacity(CapacityError::MessageTooLong { max_size, .. })) => {
                violation(CloseCode::TOO_LARGE, &format!("message larger than {max_size} bytes"))
            }
            Err(Error::Capacity(_)) => violation(CloseCode::TOO_LARGE, "message too large"),
            Err(Error::Utf8(_)) => violation(CloseCode::INVALID_UTF8, "invalid UTF-8"),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Incoming::End,
            Err(Error::Protocol(error)) => violation(CloseCode::PROTOCOL_ERROR, &error.to_string()),
            Err(_) => Incoming::End,
        })
    }

    /// Queues a message. Nothing is copied but the frame's header.
    pub fn queue(&mut self, payload: Payload) {
        let opcode = OpCode::Data(match payload.kind() {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        });
        let mut header = [0; 10];
        let mut rest = &mut header[..];
        // Ten bytes hold every unmasked header, so writing to them does not fail.
        let _ = FrameHeader { opcode, ..FrameHeader::default() }.format(payload.len() as u64, &mut rest);
        let header_len = 10 - rest.len();
        self.out.push_back(OutFrame { header, header_len, payload: payload.into_bytes() });
    }

    /// Queues a ping.
    pub fn ping(&mut self, cx: &mut Context<'_>) {
        let (context, mut bridge) = self.bridge(cx);
        // A stream that takes nothing now is tried again by `poll_flush`; its errors show there too.
        let _ = context.write(&mut bridge, Message::Ping(Bytes::new()));
    }

    /// Begins the close handshake. Call once `is_idle`, so that no frame is torn.
    pub fn close(&mut self, cx: &mut Context<'_>, ending: &Ending) {
        let frame = CloseFrame { code: ending.code.0.into(), reason: Utf8Bytes::from(ending.reason.as_str()) };
        self.make_room_for_close();
        let (context, mut bridge) = self.bridge(cx);
        // A pong that still waits goes first: nothing may follow the close.
        let _ = context.flush(&mut bridge);
        let _ = context.close(&mut bridge, Some(frame));
    }

    /// True when no message waits to be written.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    /// Drops the messages that wait, all but one that has begun.
    pub fn drop_queued(&mut self) {
        self.out.truncate(usize::from(self.out_offset > 0));
    }

    /// Writes what waits. `written` sums up the frames that the stream took whole, also when pending.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, written: &mut Written) -> Poll<io::Result<()>> {
        loop {
            if self.out_offset == 0 {
                ready!(self.poll_flush_control(cx))?;
            }
            if self.out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = ready!(self.poll_write_out(cx))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken, written);
        }
    }

    /// Ends the writing half, once everything is flushed.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Reads and drops bytes until the peer ends: closing a socket with unread bytes would reset it, and the peer could lose
    /// the close frame.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// A message whose frames' headers alone are large, however little they carry: fragments without end.
    fn is_endless(&self) -> bool {
        let size_max = self.context.get_config().max_message_size.unwrap_or(usize::MAX);
        self.incomplete > size_max.saturating_mul(2).saturating_add(FRAMING_BYTES)
    }

    /// A close frame finds no room in a buffer that is full of pongs, and would be lost. Nothing is written after it.
    fn make_room_for_close(&mut self) {
        self.context.set_config(|config| config.max_write_buffer_size = 2 * CONTROL_BUFFER_BYTES);
    }

    fn poll_flush_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (context, mut bridge) = self.bridge(cx);
        match context.flush(&mut bridge) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(Error::Io(error)) => Poll::Ready(Err(error)),
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut skip = self.out_offset;
        for frame in &self.out {
            for part in [&frame.header[..frame.header_len], &frame.payload[..]] {
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, taken: usize, written: &mut Written) {
        self.out_offset += taken;
        while let Some(frame) = self.out.front() {
            let len = frame.header_len + frame.payload.len();
            if self.out_offset < len {
                return;
            }
            self.out_offset -= len;
            written.frames += 1;
            written.payload_bytes += frame.payload.len();
            self.out.pop_front();
        }
        // A quiet connection holds no buffer.
        self.out = VecDeque::new();
    }

    fn bridge<'a, 'b>(&'a mut self, cx: &'a mut Context<'b>) -> (&'a mut WebSocketContext, Bridge<'a, 'b, S>) {
        let torn = self.out_offset > 0;
        (
            &mut self.context,
            Bridge { stream: &mut self.stream, cx, heard: &mut self.heard, incomplete: &mut self.incomplete, torn },
        )
    }
}

/// Lends an async stream to tungstenite's blocking calls: what would block says so, and the task's waker is kept.
struct Bridge<'a, 'b, S> {
    stream: &'a mut S,
    cx: &'a mut Context<'b>,
    heard: &'a mut bool,
    incomplete: &'a mut usize,
    /// A message frame is half written: nothing may come in between.
    torn: bool,
}

impl<S: AsyncRead + Unpin> Read for Bridge<'_, '_, S> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(space);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buffer) {
            Poll::Ready(result) => {
                result?;
                let count = buffer.filled().len();
                *self.heard |= count > 0;
                *self.incomplete += count;
                Ok(count)
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Bridge<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.torn {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match Pin::new(&mut *self.stream).poll_write(self.cx, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match Pin::new(&mut *self.stream).poll_flush(self.cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

fn violation(code: CloseCode, reason: &str) -> Incoming {
    Incoming::Violation(Ending::new(code, reason, Cause::Error))
}

fn ending_of(frame: Option<CloseFrame>) -> Ending {
    match frame {
        Some(frame) => Ending::new(CloseCode(frame.code.into()), frame.reason.as_str(), Cause::Client),
        None => Ending::new(CloseCode::NO_STATUS, "", Cause::Client),
    }
}
