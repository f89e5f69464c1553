//! The accept loop: one task a TCP connection, which speaks PROXY protocol, TLS and HTTP/1.1 until the upgrade. Survives running out of
//! file descriptors. Must not know what a handshake asks for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{MissedTickBehavior, timeout};

use super::ListenerSettings;
use super::client_address::read_proxy_header;
use super::upgrade::{Peer, Upgrader};
use crate::message::command::name;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{KindLabel, OutcomeLabel};
use crate::tls::{self, Tls};

/// Connections that the kernel may hold ready; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// hyper takes no smaller buffer.
const HEADER_BYTES_MIN: usize = 8192;
/// The request's head, the connect event's answer, and the handshake's: each may take the handshake's time limit.
const HANDSHAKE_PHASES: u32 = 3;
/// Accepted in a row before others get their turn: a flood of connections must not keep the thread.
const ACCEPTS_MAX: usize = 8;
/// How long to wait before the next accept when there are no file descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// How often what is kept of addresses and users that are gone is looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A bound listener.
pub struct Listener {
    socket: TcpListener,
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// What every connection uses until it is a session.
struct Shared {
    settings: ListenerSettings,
    tls: Option<Arc<Tls>>,
    upgrader: Arc<Upgrader>,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// Binds the address. Port 0 takes a free one.
    pub fn bind(
        settings: ListenerSettings,
        tls: Option<Arc<Tls>>,
        upgrader: Arc<Upgrader>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let socket = bind(settings.listen)?;
        Ok(Self { socket, shared: Arc::new(Shared { settings, tls, upgrader, metrics }), tasks })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `stop` turns true; then the listening socket is closed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut exhausted = false;
        let mut in_a_row = 0;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = sweep.tick() => {
                    self.shared.upgrader.sweep();
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, addr)) => {
                    if exhausted {
                        exhausted = false;
                        tracing::info!("accepting again");
                    }
                    self.serve(stream, addr);
                    in_a_row += 1;
                    if in_a_row % ACCEPTS_MAX == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    let kind = if is_exhausted(&error) { "exhausted" } else { "other" };
                    self.shared.metrics.accept_errors.get_or_create(&KindLabel { kind: kind.into() }).inc();
                    if is_exhausted(&error) {
                        if !exhausted {
                            exhausted = true;
                            tracing::error!(
                                "cannot accept: {error}; raise the file limit (ulimit -n) or lower `limits.connections`"
                            );
                        }
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, addr: SocketAddr) {
        let proxies = &self.shared.settings.proxies;
        let is_counted = !proxies.protocol && proxies.is_client(addr);
        if is_counted && !self.shared.lets_in(&stream, addr) {
            return;
        }
        // Small frames leave at once; a socket that is already gone fails later and loudly enough.
        let _ = stream.set_nodelay(true);
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            if let Err(error) = shared.serve(stream, addr, is_counted).await {
                tracing::debug!(peer = %addr, "handshake failed: {error}");
            }
        });
    }
}

impl Shared {
    /// From the first byte to the upgrade.
    async fn serve(&self, mut stream: TcpStream, mut addr: SocketAddr, mut is_counted: bool) -> io::Result<()> {
        if self.settings.proxies.protocol {
            addr = self.behind_proxy(&mut stream, addr).await?;
            is_counted = self.settings.proxies.is_client(addr);
            if is_counted && !self.lets_in(&stream, addr) {
                return Ok(());
            }
        }
        let Some(tls) = &self.tls else { return self.http(stream, Peer { addr, user: None, is_counted }).await };
        let accepted = Box::pin(tls.accept(stream, self.settings.handshake_timeout)).await;
        let outcome = match &accepted {
            Ok(_) => "ok",
            Err(error) if error.kind() == io::ErrorKind::TimedOut => "timeout",
            Err(_) => "failed",
        };
        self.metrics.tls_handshakes.get_or_create(&OutcomeLabel { outcome: outcome.into() }).inc();
        let stream = accepted?;
        let user = tls::subject(&stream).and_then(|subject| name("user", &subject).ok());
        Box::pin(self.http(stream, Peer { addr, user, is_counted })).await
    }

    /// Holds a connection against the limits on handshakes as soon as it is known whose it is: TLS and HTTP cost more than all that
    /// comes after them. Who is over is told so where that can be read, and cut.
    fn lets_in(&self, stream: &TcpStream, addr: SocketAddr) -> bool {
        let Err(refusal) = self.upgrader.knock("$none", addr.ip()) else { return true };
        if self.tls.is_none() {
            self.upgrader.refuse_unread(stream, refusal);
        }
        false
    }

    /// The client's address as the PROXY protocol says it; only a trusted proxy may.
    async fn behind_proxy(&self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
        let result = match self.settings.proxies.trusts(peer.ip()) {
            true => {
                let header = read_proxy_header(stream);
                let late = |_| Err(io::ErrorKind::TimedOut.into());
                timeout(self.settings.handshake_timeout, header).await.unwrap_or_else(late)
            }
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a trusted proxy")),
        };
        if result.is_err() {
            self.metrics.accept_errors.get_or_create(&KindLabel { kind: "proxy_protocol".into() }).inc();
        }
        Ok(result?.unwrap_or(peer))
    }

    async fn http<S>(&self, stream: S, peer: Peer) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.settings.handshake_timeout)
            .max_buf_size(self.settings.header_size.max(HEADER_BYTES_MIN))
            .half_close(false);
        let service = service_fn(move |request| {
            let (upgrader, peer) = (self.upgrader.clone(), peer.clone());
            async move { Ok::<_, Infallible>(upgrader.answer(request, peer).await) }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let served = timeout(self.settings.handshake_timeout * HANDSHAKE_PHASES, connection).await;
        let Some(kind) = trouble(&served) else { return Ok(()) };
        self.metrics.accept_errors.get_or_create(&KindLabel { kind: kind.into() }).inc();
        served.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|served| served.map_err(io::Error::other))
    }
}

/// How a connection failed that did not come to a handshake, as the metric says it.
fn trouble(served: &Result<hyper::Result<()>, Elapsed>) -> Option<&'static str> {
    match served {
        Ok(Ok(())) => None,
        Err(_) => Some("timeout"),
        Ok(Err(error)) if error.is_timeout() => Some("timeout"),
        Ok(Err(error)) if error.is_parse_too_large() => Some("too_large"),
        Ok(Err(error)) if error.is_parse() => Some("malformed"),
        Ok(Err(_)) => Some("ended"),
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
