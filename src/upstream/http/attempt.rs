//! One attempt at one address: a connection, a request, its response. Must not know breakers or other attempts.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::endpoint::Endpoint;
use super::pool::{self, Channel, ChannelError};
use crate::message::{Answer, Event, Failure};
use crate::upstream::contract::head::{Head, Lines, Map};
use crate::upstream::contract::{self, Contract, Refusal};

/// Why an attempt brought no answer.
#[derive(Debug)]
pub enum Problem {
    /// The upstream's last word.
    Final(Failure),
    /// A status that asks for another attempt.
    Status {
        status: u16,
        retry_after: Option<Duration>,
    },
    Timeout,
    /// Nothing was sent.
    Connect(String),
    Io(String),
}

/// What a request is about: an event, or a batch of them.
pub trait Errand {
    type Answer;

    /// Writes the headers of an attempt at `now`, and gives back its body.
    fn request(&self, contract: &Contract, now: SystemTime, head: &mut impl Head) -> Cow<'_, Bytes>;

    /// The largest body of an answer, where each event may have so much.
    fn answer_size(&self, each: usize) -> usize;

    fn read(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        now: SystemTime,
    ) -> Result<Self::Answer, Refusal>;
}

impl Errand for Event {
    type Answer = Answer;

    fn request(&self, contract: &Contract, now: SystemTime, head: &mut impl Head) -> Cow<'_, Bytes> {
        contract.request(self, now, head)
    }

    fn answer_size(&self, each: usize) -> usize {
        each
    }

    fn read(&self, status: StatusCode, headers: &HeaderMap, body: Bytes, now: SystemTime) -> Result<Answer, Refusal> {
        contract::read(self.kind, status, headers, body, now)
    }
}

impl Client {
    /// Sends the errand to one address; given up at `until`.
    pub(super) async fn attempt<E: Errand>(
        &self,
        endpoint: &Arc<Endpoint>,
        errand: &E,
        until: Instant,
    ) -> Result<E::Answer, Problem> {
        let begun = Instant::now();
        let result = timeout_at(until, self.exchange(endpoint, errand)).await.unwrap_or(Err(Problem::Timeout));
        self.meters.duration.observe(begun.elapsed().as_secs_f64());
        let outcome = match &result {
            Ok(_) => &self.meters.ok,
            Err(Problem::Final(Failure::Rejected { .. })) => &self.meters.rejected,
            Err(Problem::Final(_)) => &self.meters.broken,
            Err(Problem::Status { .. }) => &self.meters.status,
            Err(Problem::Timeout) => &self.meters.timeout,
            Err(Problem::Connect(_)) => &self.meters.connect_error,
            Err(Problem::Io(_)) => &self.meters.io_error,
        };
        outcome.inc();
        result
    }

    async fn exchange<E: Errand>(&self, endpoint: &Arc<Endpoint>, errand: &E) -> Result<E::Answer, Problem> {
        let mut channel = match endpoint.pool.checkout() {
            Some(mut channel) => match self.post(endpoint, errand, &mut channel).await {
                Ok(response) => return self.answer(endpoint, errand, channel, response).await,
                // The other side closed the idle connection while the request was on its way. The same key goes along
                // again, so a handler that did see it can tell.
                Err(error) if channel.is_stale_after(&error) => {
                    tracing::debug!(
                        upstream = &*self.meters.upstream,
                        address = &*endpoint.label,
                        %error,
                        "an idle connection had ended; on to a new one"
                    );
                    Box::pin(self.connect(endpoint)).await?
                }
                Err(error) => return Err(Problem::Io(error.to_string())),
            },
            None => Box::pin(self.connect(endpoint)).await?,
        };
        let response = self.post(endpoint, errand, &mut channel).await.map_err(|e| Problem::Io(e.to_string()))?;
        self.answer(endpoint, errand, channel, response).await
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Problem> {
        let _opening = match self.connector.may_share() {
            true => endpoint.pool.opening().await,
            false => None,
        };
        if let Some(shared) = endpoint.pool.shared() {
            return Ok(shared);
        }
        let channel = self.connector.connect(&endpoint.target, endpoint.address).await.map_err(Problem::Connect)?;
        endpoint.pool.share(&channel);
        Ok(channel)
    }

    /// Sends the request and waits for the head of its response.
    async fn post<E: Errand>(
        &self,
        endpoint: &Endpoint,
        errand: &E,
        channel: &mut Channel,
    ) -> Result<pool::Response, ChannelError> {
        let now = SystemTime::now();
        match channel {
            Channel::Http1(connection) => {
                let out = connection.out();
                out.extend_from_slice(endpoint.target.start.as_bytes());
                let body = errand.request(&self.contract, now, &mut Lines(out));
                connection.send(&body).await.map(pool::Response::Http1).map_err(ChannelError::Http1)
            }
            Channel::Http2(sender) => {
                let mut head = Map::default();
                let mut request = Request::new(Full::new(errand.request(&self.contract, now, &mut head).into_owned()));
                *request.method_mut() = Method::POST;
                *request.headers_mut() = head.into_headers();
                *request.uri_mut() = Uri::clone(&endpoint.target.absolute);
                *request.version_mut() = http::Version::HTTP_2;
                let (head, body) = sender.send_request(request).await.map_err(ChannelError::Http2)?.into_parts();
                Ok(pool::Response::Http2(head, body))
            }
        }
    }

    async fn answer<E: Errand>(
        &self,
        endpoint: &Endpoint,
        errand: &E,
        mut channel: Channel,
        mut response: pool::Response,
    ) -> Result<E::Answer, Problem> {
        let bytes_max = errand.answer_size(self.settings.answer_size);
        let (status, headers) = (response.status(), response.take_headers());
        let body = match channel.read_body(response, bytes_max).await {
            Ok(body) => {
                endpoint.pool.checkin(channel);
                body
            }
            // What goes with a status that is tried again matters to nobody.
            Err(_) if contract::is_retryable(status) => Bytes::new(),
            Err(ChannelError::TooLarge) => {
                let reason = format!("expected a body of at most {bytes_max} bytes, found more");
                return Err(Problem::Final(Failure::Broken { reason }));
            }
            Err(error) => return Err(Problem::Io(error.to_string())),
        };
        errand.read(status, &headers, body, SystemTime::now()).map_err(|refusal| match refusal {
            Refusal::Final(failure) => Problem::Final(failure),
            Refusal::Retry { status, retry_after } => Problem::Status { status, retry_after },
        })
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Final(failure) => failure.fmt(f),
            Self::Status { status, .. } => write!(f, "it answered {status}"),
            Self::Timeout => f.write_str("it did not answer in time"),
            Self::Connect(reason) | Self::Io(reason) => f.write_str(reason),
        }
    }
}
