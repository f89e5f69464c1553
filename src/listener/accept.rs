//! The accept loop: one task a TCP connection, which speaks HTTP/1.1 until the upgrade. Survives running out of file descriptors.
//! Must not know what a handshake asks for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::ListenerSettings;
use super::upgrade::{Peer, Upgrader};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::KindLabel;

/// Connections that the kernel may hold ready; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// hyper takes no smaller buffer.
const HEADER_BYTES_MIN: usize = 8192;
/// How long to wait before the next accept when there are no file descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A bound listener.
pub struct Listener {
    socket: TcpListener,
    settings: ListenerSettings,
    upgrader: Arc<Upgrader>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// Binds the address. Port 0 takes a free one.
    pub fn bind(
        settings: ListenerSettings,
        upgrader: Arc<Upgrader>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let socket = bind(settings.listen)?;
        Ok(Self { socket, settings, upgrader, tasks, metrics })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `stop` turns true; then the listening socket is closed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut exhausted = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, addr)) => {
                    if exhausted {
                        exhausted = false;
                        tracing::info!("accepting again");
                    }
                    self.serve(stream, addr);
                }
                Err(error) => {
                    let kind = if is_exhausted(&error) { "exhausted" } else { "other" };
                    self.metrics.accept_errors.get_or_create(&KindLabel { kind: kind.into() }).inc();
                    if is_exhausted(&error) {
                        if !exhausted {
                            exhausted = true;
                            tracing::error!(
                                "cannot accept: {error}; raise the file limit (ulimit -n) or lower `connections`"
                            );
                        }
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, addr: SocketAddr) {
        // Small frames leave at once; a socket that is already gone fails later and loudly enough.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.settings.handshake_timeout)
            .max_buf_size(self.settings.header_size.max(HEADER_BYTES_MIN))
            .half_close(false);
        let upgrader = self.upgrader.clone();
        let peer = Peer { addr };
        let service = service_fn(move |request| {
            let upgrader = upgrader.clone();
            async move { Ok::<_, Infallible>(upgrader.answer(request, peer).await) }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer = %addr, "handshake failed: {error}");
            }
        });
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// EMFILE or ENFILE: no file descriptor is left in the process or in the system.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}
