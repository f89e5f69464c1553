//! How a connection to one address is opened: TCP, TLS, and the HTTP version. Must not know pools or requests.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http1::Http1;
use super::pool::Channel;
use super::target::Target;
use super::{Version, pool};
use crate::tasks::Tasks;

/// A HTTP/2 connection with streams in flight is asked for a sign of life this often, and given this long for it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens connections for one upstream.
pub struct Connector {
    version: Version,
    tls: Option<TlsConnector>,
    tasks: Tasks,
}

impl Connector {
    pub fn new(version: Version, tls: Option<Arc<ClientConfig>>, tasks: Tasks) -> Self {
        Self { version, tls: tls.map(TlsConnector::from), tasks }
    }

    /// True where calls may share one connection.
    pub fn may_share(&self) -> bool {
        self.version == Version::Http2
    }

    /// Opens a connection; the error says which step failed.
    pub async fn connect(&self, target: &Target, address: SocketAddr) -> Result<Channel, String> {
        let tcp = TcpStream::connect(address).await.map_err(|e| format!("no connection to {address}: {e}"))?;
        tcp.set_nodelay(true).map_err(|e| format!("no connection to {address}: {e}"))?;
        let (Some(tls), Some(name)) = (&self.tls, &target.server_name) else {
            return self.speak(Stream::Plain(tcp), self.version).await;
        };
        let stream =
            tls.connect(name.clone(), tcp).await.map_err(|e| format!("no TLS connection to {address}: {e}"))?;
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Version::Http2,
            _ => Version::Http1,
        };
        self.speak(Stream::Tls(Box::new(stream)), version).await
    }

    async fn speak(&self, stream: Stream, version: Version) -> Result<Channel, String> {
        if version == Version::Http1 {
            return Ok(Channel::Http1(Http1::new(stream)));
        }
        let (sender, connection) = http2::Builder::new(Executor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("no HTTP connection: {}", pool::describe(&error)))?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = pool::describe(&error), "an HTTP/2 connection ended");
            }
        });
        Ok(Channel::Http2(sender))
    }
}

/// Lets hyper spawn through `Tasks`.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A byte stream, with TLS or without.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
