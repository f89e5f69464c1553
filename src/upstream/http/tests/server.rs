//! A small HTTP server for tests: answers by a script, remembers what it saw, can be killed and started again.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::tasks::Tasks;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub version: http::Version,
    pub uri: http::Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or("(none)")
    }
}

/// What the script says to a request.
pub enum Reply {
    Status(u16, Vec<(&'static str, String)>, Bytes),
    /// 200 with a body of no stated length.
    Chunked(Bytes),
    /// 200 once a permit is there.
    When(Arc<Semaphore>),
    /// No answer, ever.
    Hang,
    /// The connection is closed without an answer.
    Drop,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Status(status, vec![], Bytes::new())
    }

    pub fn text(text: &str) -> Self {
        Self::Status(200, vec![("content-type", "text/plain".into())], Bytes::copy_from_slice(text.as_bytes()))
    }
}

type Script = dyn Fn(usize, &Seen) -> Reply + Send + Sync;
type AnswerBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// A running server. Dropping it kills it with all its connections.
pub struct Server {
    pub address: SocketAddr,
    pub log: Arc<Log>,
    task: JoinHandle<()>,
}

/// What a server remembers.
#[derive(Default)]
pub struct Log {
    pub seen: Mutex<Vec<Seen>>,
    pub connections: AtomicUsize,
    pub at_once: AtomicUsize,
    pub at_once_max: AtomicUsize,
}

/// How a server speaks.
#[derive(Clone, Default)]
pub struct Speech {
    pub http2: bool,
    pub tls: Option<TlsAcceptor>,
}

impl Server {
    pub async fn start(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), Speech::default(), script).await
    }

    pub async fn start_at(
        address: SocketAddr,
        speech: Speech,
        script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let log = Arc::new(Log::default());
        let task = Tasks::new().spawn(accept(listener, speech, log.clone(), Arc::new(script)));
        Self { address, log, task }
    }

    pub fn requests(&self) -> usize {
        self.log.seen.lock().len()
    }

    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, speech: Speech, log: Arc<Log>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        log.connections.fetch_add(1, Ordering::SeqCst);
        let (speech, log, script) = (speech.clone(), log.clone(), script.clone());
        connections.spawn(async move {
            match speech.tls {
                None => serve(tcp, speech.http2, log, script).await,
                Some(acceptor) => {
                    // A client that trusts us not ends here.
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        serve(stream, speech.http2, log, script).await;
                    }
                }
            }
        });
    }
}

async fn serve<S>(stream: S, http2: bool, log: Arc<Log>, script: Arc<Script>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, log.clone(), script.clone()));
    let io = TokioIo::new(stream);
    // A client that goes, or a script that says `Drop`, ends the connection with an error; tests look at the client.
    let _ = match http2 {
        true => hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
        false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
    };
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<Log>,
    script: Arc<Script>,
) -> Result<Response<AnswerBody>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let seen = Seen { version: head.version, uri: head.uri, headers: head.headers, body };
    let number = {
        let mut all = log.seen.lock();
        all.push(seen.clone());
        all.len()
    };
    let at_once = log.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    log.at_once_max.fetch_max(at_once, Ordering::SeqCst);
    let _gone = Gone(&log);
    let (status, headers, body) = match script(number, &seen) {
        Reply::Status(status, headers, body) => (status, headers, Full::new(body).boxed()),
        Reply::Chunked(body) => {
            let halves = [body.slice(..body.len() / 2), body.slice(body.len() / 2..)];
            let frames = halves.map(|half| Ok(Frame::data(half)));
            (200, vec![], http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed())
        }
        Reply::When(permits) => {
            permits.acquire().await.expect("open").forget();
            (200, vec![], Full::default().boxed())
        }
        Reply::Hang => std::future::pending().await,
        Reply::Drop => return Err(std::io::Error::other("the script says so")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().expect("a status");
    for (name, value) in headers {
        response.headers_mut().append(name, value.parse().expect("a value"));
    }
    Ok(response)
}

struct Gone<'a>(&'a Log);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}
