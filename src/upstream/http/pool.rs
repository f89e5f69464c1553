//! The open connections of one address. A HTTP/1.1 connection is driven by the call that uses it and by no task of its
//! own: a round trip then costs no switch between tasks, and an idle connection costs no task.
//! Must not know breakers, retries or answers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connect::Stream;
use super::http1::{Head, Http1, Http1Error};

pub type Body = Full<Bytes>;

/// Idle connections of one address, and its shared HTTP/2 connection.
pub struct Pool {
    idle_timeout: Duration,
    /// In the order in which they became idle. No more than the upstream's `concurrency`, since each was in use.
    idle: Mutex<Vec<Http1<Stream>>>,
    shared: Mutex<Option<http2::SendRequest<Body>>>,
    /// Held while a connection that can be shared is opened, so that one is opened and not one a call.
    opening: Semaphore,
}

/// A connection in the hands of one call.
pub enum Channel {
    Http1(Http1<Stream>),
    Http2(http2::SendRequest<Body>),
}

/// A response whose body is still to come.
pub enum Response {
    Http1(Head),
    Http2(response::Parts, Incoming),
}

/// Why there is no response, or no body.
#[derive(Debug)]
pub enum ChannelError {
    TooLarge,
    Http1(Http1Error),
    Http2(hyper::Error),
}

impl Pool {
    pub fn new(idle_timeout: Duration) -> Self {
        Self { idle_timeout, idle: Mutex::default(), shared: Mutex::default(), opening: Semaphore::new(1) }
    }

    /// An open connection, the last used first. Those that have ended are dropped on the way.
    pub fn checkout(&self) -> Option<Channel> {
        if let Some(shared) = self.shared() {
            return Some(shared);
        }
        loop {
            let mut connection = self.idle.lock().pop()?;
            // One that has ended meanwhile shows when the request is sent: the caller then opens another at once.
            if connection.idle_since.elapsed() < self.idle_timeout && connection.is_idle() {
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
        if connection.is_reusable() {
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
    /// True if a failed request may not have reached the other side, because the connection had ended unnoticed.
    pub fn is_stale_after(&self, error: &ChannelError) -> bool {
        match (self, error) {
            // Whatever became of the connection: on one that was idle it is the known race with the other side's close.
            (Self::Http1(_), ChannelError::Http1(error)) => matches!(error, Http1Error::Io(_) | Http1Error::Closed),
            (Self::Http2(sender), ChannelError::Http2(error)) => {
                sender.is_closed() || error.is_canceled() || error.is_closed()
            }
            _ => false,
        }
    }

    /// Reads a whole body of at most `bytes_max`.
    pub async fn read_body(&mut self, response: Response, bytes_max: usize) -> Result<Bytes, ChannelError> {
        match (self, response) {
            (Self::Http1(connection), Response::Http1(head)) => {
                connection.read_body(&head, bytes_max).await.map_err(|error| match error {
                    Http1Error::TooLarge => ChannelError::TooLarge,
                    error => ChannelError::Http1(error),
                })
            }
            (_, Response::Http2(_, body)) => collect(body, bytes_max).await,
            (Self::Http2(_), Response::Http1(_)) => Err(ChannelError::Http1(Http1Error::Closed)),
        }
    }
}

impl Response {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Http1(head) => head.status,
            Self::Http2(head, _) => head.status,
        }
    }

    /// Takes the headers out.
    pub fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(match self {
            Self::Http1(head) => &mut head.headers,
            Self::Http2(head, _) => &mut head.headers,
        })
    }
}

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the body is too large"),
            Self::Http1(error) => error.fmt(f),
            Self::Http2(error) => f.write_str(&describe(error)),
        }
    }
}

async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, ChannelError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ChannelError::TooLarge);
    }
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(ChannelError::Http2)?.into_data() {
            collected.extend_from_slice(&data);
        }
        if collected.len() > bytes_max {
            return Err(ChannelError::TooLarge);
        }
    }
    Ok(collected.freeze())
}

/// An error of hyper with its cause: hyper's own words alone do not say what happened.
pub fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
