//! Accepts admin connections and serves the router on them. Must not know which calls there are.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::response::Response;
use axum::{Extension, Router};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::direct::Direct;
use super::guard::{Caller, Guard};
use super::heads::Heads;
use super::{AdminSettings, AdminState, console, guard, operations};
use crate::tasks::Tasks;
use crate::tls::{self, Tls};

/// How long a request's head may take, and a connection wait for the next one; at most twice as long.
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
    let direct =
        Arc::new(Direct { deliver: state.deliver.clone(), guard: guard.clone(), body_bytes_max: settings.body_size });
    let pages = if settings.console { console::router() } else { Router::new() };
    let router = operations::router()
        .merge(pages)
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
        let (router, direct, stop, tls) = (router.clone(), direct.clone(), stop.clone(), tls.clone());
        let front = move |caller: Caller| {
            let router = TowerToHyperService::new(router.layer(Extension(caller.clone())));
            Arc::new(Front { router, direct, caller })
        };
        tasks.spawn(async move {
            match tls {
                None => http(stream, front(Caller { addr, subject: None }), stop).await,
                Some(tls) => match tls.accept(stream, HEADER_TIMEOUT).await {
                    Ok(stream) => {
                        let subject = tls::subject(&stream).map(Into::into);
                        http(stream, front(Caller { addr, subject }), stop).await;
                    }
                    Err(error) => tracing::debug!("TLS handshake with the admin listener failed: {error}"),
                },
            }
        });
    }
}

/// What answers the requests of one connection.
struct Front {
    router: TowerToHyperService<Router>,
    direct: Arc<Direct>,
    caller: Caller,
}

impl Front {
    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response, Infallible> {
        match self.direct.takes(&request) {
            Some(push) => Ok(self.direct.answer(&push, &mut request, &self.caller).await),
            // In a box: else each push would carry the room for the router's futures along.
            None => Box::pin(self.router.call(request)).await,
        }
    }
}

async fn http<S>(stream: S, front: Arc<Front>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut http, heads) = (http1::Builder::new(), Heads::new());
    // Short answers leave in one plain write, which costs the system less than a vectored one. Who asked is not listened to until
    // it has its answer, for which hyper would take another buffer each time.
    http.timer(heads.clone()).header_read_timeout(HEADER_TIMEOUT).writev(false).half_close(true);
    let service = service_fn(|request| {
        heads.came();
        let front = front.clone();
        async move { front.answer(request).await }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut seldom = FuturesUnordered::new();
    seldom.push(async {
        tokio::select! {
            stopped = stop.wait_for(|stop| *stop) => stopped.is_ok(),
            () = heads.late(HEADER_TIMEOUT) => false,
        }
    });
    let stopped = tokio::select! {
        biased;
        // A client that breaks off breaks only its own connection.
        _ = connection.as_mut() => return,
        // Not looked at with each request: the stream does so only once it was woken.
        stopped = seldom.next() => stopped.unwrap_or_default(),
    };
    if stopped {
        connection.as_mut().graceful_shutdown();
        // What was asked is answered; what is only begun to be asked has its time.
        tokio::select! {
            _ = connection => {}
            () = heads.late(HEADER_TIMEOUT) => {}
        }
    }
}
