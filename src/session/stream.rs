//! The byte streams that sessions serve. A plain TCP connection has two hands: the session's, and one by which its mailbox writes
//! what need not wait. Must not know what a message means.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::coop::{has_budget_remaining, poll_proceed};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::frames::{Opcode, frame_header};
use super::socket::joined;
use crate::mailbox::{Outlet, Wrote};
use crate::message::Payload;
use crate::telemetry::metrics::EndpointMetrics;

/// A byte stream with a client at its other end.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The hand by which others than the session may write, where there can be one. It is given once.
    fn second(&mut self) -> Option<Second> {
        None
    }
}

impl Stream for TlsStream<TcpStream> {}

/// A TCP connection.
pub struct Plain {
    // This half alone knows after a read that took all there was that there is no more, and saves the call that would find that out.
    stream: OwnedReadHalf,
    second: Option<Second>,
}

/// The second hand of a TCP connection.
pub struct Second(Option<OwnedWriteHalf>);

/// Writes messages past the session.
pub struct Direct {
    stream: Second,
    metrics: Arc<EndpointMetrics>,
    epoch: Instant,
    written_ms: u64,
}

impl Plain {
    pub fn new(stream: TcpStream) -> Self {
        let (stream, second) = stream.into_split();
        Self { stream, second: Some(Second(Some(second))) }
    }

    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let stream: &TcpStream = self.stream.as_ref();
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match write(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl Stream for Plain {
    fn second(&mut self) -> Option<Second> {
        self.second.take()
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream: &TcpStream = self.stream.as_ref();
        Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write))
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // Else it would end the connection's writing side.
        if let Some(stream) = self.0.take() {
            stream.forget();
        }
    }
}

impl Direct {
    /// Counts what it writes in `metrics`, and notes when that was, from `epoch` on.
    pub fn new(stream: Second, metrics: Arc<EndpointMetrics>, epoch: Instant) -> Self {
        Self { stream, metrics, epoch, written_ms: 0 }
    }
}

impl Outlet for Direct {
    fn write(&mut self, payload: &Payload) -> Wrote {
        // What is written here costs as much as what a task does by itself, and has to let others have their turn as that does.
        let (Some(stream), true) = (&self.stream.0, has_budget_remaining()) else { return Wrote::Nothing };
        if let Poll::Ready(budget) = poll_proceed(&mut Context::from_waker(Waker::noop())) {
            budget.made_progress();
        }
        let (header, header_len) = frame_header(Opcode::Data(payload.kind()), false, payload.len());
        let slices = [IoSlice::new(&header[..usize::from(header_len)]), IoSlice::new(payload.bytes())];
        // Straight to the socket, which knows whether it is full: what the runtime knows of it lies elsewhere in memory, and to fetch that
        // for each of thousands costs a fiftieth of what a fan-out does.
        let socket = SockRef::from(stream.as_ref());
        let taken = joined(&slices, |joined| match joined {
            Some(joined) => socket.send(joined),
            None => socket.send_vectored(&slices),
        });
        match taken {
            Ok(taken) if taken == usize::from(header_len) + payload.len() => {
                self.written_ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.metrics.messages_sent.inc();
                self.metrics.sent_bytes.inc_by(payload.len() as u64);
                Wrote::Whole
            }
            Ok(taken) if taken > 0 => Wrote::Part(taken),
            // Full, or broken: the session finds out which.
            _ => Wrote::Nothing,
        }
    }

    fn written_ms(&self) -> u64 {
        self.written_ms
    }
}
