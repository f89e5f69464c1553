//! Accepts admin connections and serves the router on them. Must not know which calls there are.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::guard::{Caller, Guard};
use super::{AdminSettings, AdminState, guard, operations};
use crate::tasks::Tasks;
use crate::tls::{self, Tls};

/// How long a request's head may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before the next accept when one failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` turns true.
pub async fn serve(
    listener: TcpListener,
    settings: AdminSettings,
    (tls, guard): (Option<Arc<Tls>>, Arc<Guard>),
    state: AdminState,
    tasks: Tasks,
    mut stop: watch::Receiver<bool>,
) {
    let router = operations::router()
        .layer(DefaultBodyLimit::max(settings.body_size))
        .layer(middleware::from_fn_with_state(guard, guard::authorise))
        .layer(middleware::from_fn(guard::shape))
        .with_state(state);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok((stream, addr)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // A socket that is already gone fails later and loudly enough.
        let _ = stream.set_nodelay(true);
        let (router, stop, tls) = (router.clone(), stop.clone(), tls.clone());
        tasks.spawn(async move {
            match tls {
                None => http(stream, Caller { addr, subject: None }, router, stop).await,
                Some(tls) => match tls.accept(stream, HEADER_TIMEOUT).await {
                    Ok(stream) => {
                        let subject = tls::subject(&stream).map(Into::into);
                        http(stream, Caller { addr, subject }, router, stop).await;
                    }
                    Err(error) => tracing::debug!("TLS handshake with the admin listener failed: {error}"),
                },
            }
        });
    }
}

async fn http<S>(stream: S, caller: Caller, router: Router, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    // Short answers leave in one plain write, which costs the system less than a vectored one.
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).writev(false);
    let connection =
        http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.layer(Extension(caller))));
    let mut connection = std::pin::pin!(connection);
    let stopped = tokio::select! {
        // A client that breaks off breaks only its own connection.
        _ = connection.as_mut() => return,
        stopped = stop.wait_for(|stop| *stop) => stopped.is_ok(),
    };
    if stopped {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
