//! The open connections of one address. A HTTP/1.1 connection is driven by the call that uses it and by no task of its
//! own: a round trip then costs no switch between tasks, and an idle connection costs no task.
//! Knows hyper; must not know breakers, retries or answers.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connect::Stream;

/// Answers up to this size are copied out of the connection's read buffer, so that they do not hold all of it.
const COPY_BYTES_MAX: usize = 16 * 1024;

pub type Body = Full<Bytes>;

/// Idle connections of one address, and its shared HTTP/2 connection.
pub struct Pool {
    idle_timeout: Duration,
    /// In the order in which they became idle. No more than the upstream's `concurrency`, since each was in use.
    #[expect(clippy::vec_box, reason = "a connection is large and goes in and out for each call")]
    idle: Mutex<Vec<Box<Http1>>>,
    shared: Mutex<Option<http2::SendRequest<Body>>>,
    /// Held while a connection that can be shared is opened, so that one is opened and not one a call.
    opening: Semaphore,
}

/// A connection in the hands of one call.
pub enum Channel {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<Body>),
}

/// One HTTP/1.1 connection.
pub struct Http1 {
    sender: http1::SendRequest<Body>,
    /// None once it has ended.
    connection: Option<http1::Connection<TokioIo<Stream>, Body>>,
    idle_since: Instant,
}

/// Why a response has no body to use.
#[derive(Debug)]
pub enum BodyError {
    TooLarge,
    Io(hyper::Error),
}

impl Pool {
    pub fn new(idle_timeout: Duration) -> Self {
        Self { idle_timeout, idle: Mutex::default(), shared: Mutex::default(), opening: Semaphore::new(1) }
    }

    /// An open connection, the last used first. Those that have ended are dropped on the way.
    pub async fn checkout(&self) -> Option<Channel> {
        if let Some(shared) = self.shared() {
            return Some(shared);
        }
        loop {
            let mut connection = self.idle.lock().pop()?;
            // One that has ended meanwhile shows when the request is sent: the caller then opens another at once.
            if connection.idle_since.elapsed() < self.idle_timeout && connection.is_idle().await {
                return Some(Channel::Http1(connection));
            }
        }
    }

    /// The HTTP/2 connection, if one is open.
    pub fn shared(&self) -> Option<Channel> {
        let mut shared = self.shared.lock();
        if shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
            *shared = None;
        }
        shared.clone().map(Channel::Http2)
    }

    /// Waits for the right to open a connection that others will share.
    pub async fn opening(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so always some.
        self.opening.acquire().await.ok()
    }

    /// Lets later calls share a new connection.
    pub fn share(&self, channel: &Channel) {
        if let Channel::Http2(sender) = channel {
            *self.shared.lock() = Some(sender.clone());
        }
    }

    /// Takes a connection back after a whole exchange.
    pub fn checkin(&self, channel: Channel) {
        let Channel::Http1(mut connection) = channel else { return };
        if connection.connection.is_some() {
            connection.idle_since = Instant::now();
            self.idle.lock().push(connection);
        }
    }

    /// Closes what has been idle for too long.
    pub fn evict(&self) {
        let mut idle = self.idle.lock();
        let kept_from = idle.partition_point(|connection| connection.idle_since.elapsed() >= self.idle_timeout);
        let evicted: Vec<_> = idle.drain(..kept_from).collect();
        drop(idle);
        // Sockets are closed here, after the lock.
        drop(evicted);
    }

    #[cfg(test)]
    pub fn idle_count(&self) -> usize {
        self.idle.lock().len()
    }
}

impl Channel {
    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(connection) => connection.send(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// True if a failed request may not have reached the other side, because the connection had ended unnoticed.
    pub fn is_stale_after(&self, error: &hyper::Error) -> bool {
        match self {
            // Whatever became of the connection: on one that was idle it is the known race with the other side's close.
            Self::Http1(_) => !error.is_parse() && !error.is_user(),
            Self::Http2(sender) => sender.is_closed() || error.is_canceled() || error.is_closed(),
        }
    }

    /// Reads a whole body of at most `bytes_max`.
    pub async fn read_body(&mut self, mut body: Incoming, bytes_max: usize) -> Result<Bytes, BodyError> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(BodyError::TooLarge);
        }
        let mut collected = Collected::default();
        poll_fn(|cx| {
            let mut driven = false;
            loop {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data() {
                            collected.push(data);
                        }
                        if collected.len() > bytes_max {
                            return Poll::Ready(Err(BodyError::TooLarge));
                        }
                        if body.is_end_stream() {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(BodyError::Io(error))),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending if driven => return Poll::Pending,
                    Poll::Pending => {
                        driven = true;
                        if let Self::Http1(connection) = self {
                            connection.drive(cx);
                        }
                    }
                }
            }
        })
        .await?;
        Ok(collected.into_bytes())
    }
}

impl Http1 {
    pub fn new(sender: http1::SendRequest<Body>, connection: http1::Connection<TokioIo<Stream>, Body>) -> Self {
        Self { sender, connection: Some(connection), idle_since: Instant::now() }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let mut response = pin!(tokio::task::unconstrained(self.sender.send_request(request)));
        poll_fn(|cx| {
            self.drive(cx);
            if self.connection.is_none() {
                return response.as_mut().poll(cx);
            }
            // Only the connection brings the response on, and it is driven just above with the real waker: a second one
            // would wake this task for what it is about to see.
            response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// True if a request can be sent. It is driven only if the end of the last exchange left something to do.
    async fn is_idle(&mut self) -> bool {
        if self.sender.is_ready() {
            return true;
        }
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(())
        })
        .await;
        self.connection.is_some() && self.sender.is_ready()
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        // An error ends the connection, and hyper gives it to the request that it befell.
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }
}

/// An error of hyper with its cause: hyper's own words alone do not say what happened.
pub fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Chunks of a body; usually there is one.
#[derive(Default)]
struct Collected {
    first: Bytes,
    all: Option<BytesMut>,
}

impl Collected {
    fn push(&mut self, chunk: Bytes) {
        match &mut self.all {
            Some(all) => all.extend_from_slice(&chunk),
            None if self.first.is_empty() => self.first = chunk,
            None => {
                let mut all = BytesMut::with_capacity((self.first.len() + chunk.len()) * 2);
                all.extend_from_slice(&self.first);
                all.extend_from_slice(&chunk);
                self.all = Some(all);
            }
        }
    }

    fn len(&self) -> usize {
        self.all.as_ref().map_or(self.first.len(), BytesMut::len)
    }

    fn into_bytes(self) -> Bytes {
        match self.all {
            Some(all) => all.freeze(),
            None if self.first.len() <= COPY_BYTES_MAX => Bytes::copy_from_slice(&self.first),
            None => self.first,
        }
    }
}
