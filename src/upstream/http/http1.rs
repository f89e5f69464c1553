//! One HTTP/1.1 connection as a client that posts: a request leaves in one write where it can, its response is read into a buffer that
//! the connection keeps. No task, no queue and no map of headers stands between a call and its socket.
//! Knows bytes; must not know pools, retries or what is posted.

mod chunked;
mod head;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use chunked::Chunks;
use head::Parsed;

/// Bytes that are read at once, and that an idle connection keeps at most.
const READ_BYTES: usize = 8 * 1024;
/// A buffer that has grown over this is given back when the connection becomes idle.
const KEEP_BYTES_MAX: usize = 32 * 1024;
/// The longest head of a response, with the interim ones before it.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEAD_TOO_LONG: Http1Error = Http1Error::Parse("a head that is too long");
/// Bodies up to this size are copied behind their head, so that both leave in one buffer.
const COPY_BYTES_MAX: usize = 4 * 1024;
/// Bodies of responses up to this size are copied out of the read buffer, which then stays with the connection.
const KEEP_BODY_BYTES_MAX: usize = 16 * 1024;

/// A connection in the hands of one call, or idle.
pub struct Http1<S> {
    stream: S,
    /// The request's head, and a small body.
    out: Vec<u8>,
    /// What was read and not used yet.
    read: BytesMut,
    /// The last response leaves the connection fit for another request.
    is_reusable: bool,
    pub idle_since: Instant,
}

/// The head of a response.
pub struct Head {
    pub status: StatusCode,
    /// Only those that an answer may mean something by.
    pub headers: HeaderMap,
    framing: Framing,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// Why there is no whole response.
#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    #[error("connection error: {0}")]
    Io(#[from] io::Error),
    #[error("connection closed before message completed")]
    Closed,
    /// What came is not HTTP.
    #[error("invalid HTTP response: {0}")]
    Parse(&'static str),
    #[error("the body is too large")]
    TooLarge,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, out: Vec::new(), read: BytesMut::new(), is_reusable: true, idle_since: Instant::now() }
    }

    /// Where the head of the next request is to be written: all but its length and the empty line.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out.clear();
        &mut self.out
    }

    /// True if a request can be sent: the last response was read to its end, and nothing has come since, not even an end.
    pub fn is_idle(&mut self) -> bool {
        self.is_reusable && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends what was written to `out`, and this body; waits for the head of the response.
    pub async fn send(&mut self, body: &Bytes) -> Result<Head, Http1Error> {
        // Writing to a Vec does not fail.
        let _ = io::Write::write_fmt(&mut self.out, format_args!("content-length: {}\r\n\r\n", body.len()));
        let rest: &[u8] = match body.len() {
            0..=COPY_BYTES_MAX => {
                self.out.extend_from_slice(body);
                &[]
            }
            _ => body,
        };
        self.is_reusable = false;
        let mut sent = Sent { bytes: 0, is_flushed: false, failed: None };
        let mut head_bytes = 0;
        let head = poll_fn(|cx| {
            // A handler may answer, and close, before it has read everything.
            self.poll_send(cx, rest, &mut sent);
            self.poll_head(cx, &mut head_bytes).map_err(|error| match (error, sent.failed.take()) {
                (Http1Error::Closed | Http1Error::Io(_), Some(failed)) => Http1Error::Io(failed),
                (error, _) => error,
            })
        })
        .await?;
        self.is_reusable = sent.is_flushed && head.is_reusable;
        Ok(Head { status: head.status, headers: head.headers, framing: head.framing })
    }

    /// Reads the whole body, of at most `bytes_max`.
    pub async fn read_body(&mut self, head: &Head, bytes_max: usize) -> Result<Bytes, Http1Error> {
        let was_reusable = std::mem::take(&mut self.is_reusable);
        let body = match head.framing {
            Framing::Length(0) => Bytes::new(),
            Framing::Length(length) if length > bytes_max => return Err(Http1Error::TooLarge),
            Framing::Length(length) => {
                self.read.reserve(length.saturating_sub(self.read.len()).min(KEEP_BYTES_MAX));
                while self.read.len() < length {
                    self.fill().await?;
                }
                self.take(length)
            }
            Framing::Chunked => {
                let mut chunks = Chunks::new(bytes_max);
                while !chunks.decode(&mut self.read)? {
                    self.fill().await?;
                }
                chunks.into_body()
            }
            Framing::UntilClose => {
                while self.read.len() <= bytes_max {
                    match self.fill().await {
                        Ok(()) => {}
                        Err(Http1Error::Closed) => return Ok(self.read.split().freeze()),
                        Err(error) => return Err(error),
                    }
                }
                return Err(Http1Error::TooLarge);
            }
        };
        // What comes unasked belongs to no request.
        self.is_reusable = was_reusable && self.read.is_empty();
        if self.read.capacity() > KEEP_BYTES_MAX {
            self.read = BytesMut::new();
        }
        if self.out.capacity() > KEEP_BYTES_MAX {
            self.out = Vec::new();
        }
        Ok(body)
    }

    pub fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Writes on as far as the stream takes it. An error ends the writing; the response may be there nevertheless.
    fn poll_send(&mut self, cx: &mut Context<'_>, rest: &[u8], sent: &mut Sent) {
        if sent.is_flushed || sent.failed.is_some() {
            return;
        }
        let whole = self.out.len() + rest.len();
        while sent.bytes < whole {
            let stream = Pin::new(&mut self.stream);
            let written = match self.out.get(sent.bytes..) {
                Some(first) if rest.is_empty() => stream.poll_write(cx, first),
                Some(first) => stream.poll_write_vectored(cx, &[io::IoSlice::new(first), io::IoSlice::new(rest)]),
                None => stream.poll_write(cx, &rest[sent.bytes - self.out.len()..]),
            };
            match written {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => return sent.failed = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => sent.bytes += bytes,
                Poll::Ready(Err(error)) => return sent.failed = Some(error),
            }
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => sent.is_flushed = true,
            Poll::Ready(Err(error)) => sent.failed = Some(error),
        }
    }

    /// Reads the next head that is not an interim one. `bytes` counts what those took.
    fn poll_head(&mut self, cx: &mut Context<'_>, bytes: &mut usize) -> Poll<Result<Parsed, Http1Error>> {
        loop {
            match head::parse(&self.read)? {
                Some((_, length)) if *bytes + length > HEAD_BYTES_MAX => return Poll::Ready(Err(HEAD_TOO_LONG)),
                Some((head, length)) => {
                    self.read.advance(length);
                    *bytes += length;
                    // 101 would be another protocol, which nobody asked for.
                    match head.status.as_u16() {
                        101 => return Poll::Ready(Err(Http1Error::Parse("an upgrade that was not asked for"))),
                        100..=199 => {}
                        _ => return Poll::Ready(Ok(head)),
                    }
                }
                None if *bytes + self.read.len() >= HEAD_BYTES_MAX => return Poll::Ready(Err(HEAD_TOO_LONG)),
                None => ready!(self.poll_fill(cx))?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Http1Error> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Reads some more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        if self.read.capacity() - self.read.len() < READ_BYTES / 4 {
            self.read.reserve(READ_BYTES);
        }
        match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read))? {
            0 => Poll::Ready(Err(Http1Error::Closed)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        if length > KEEP_BODY_BYTES_MAX {
            return self.read.split_to(length).freeze();
        }
        let body = Bytes::copy_from_slice(&self.read[..length]);
        self.read.advance(length);
        body
    }
}

/// How far a request is.
struct Sent {
    bytes: usize,
    is_flushed: bool,
    failed: Option<io::Error>,
}

#[cfg(test)]
mod tests;
