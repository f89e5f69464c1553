//! The push to one connection, which may be called thousands of times a second, without the router: that and its layers cost more than
//! the push. A request that is not quite ordinary is left to the router, which answers the same call. Must not know what a push does.

use std::sync::Arc;

use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::guard::{Caller, Guard};
use super::operations::PUSH;
use crate::command::{ApiError, rest};
use crate::deliver::Deliver;
use crate::ids::ConnectionId;

// The two sides of `{id}` in the path.
const BEFORE_ID: &str = PUSH.split_at(16).0;
const AFTER_ID: &str = PUSH.split_at(20).1;

/// Answers pushes.
pub struct Direct {
    pub deliver: Arc<Deliver>,
    pub guard: Arc<Guard>,
    pub body_bytes_max: usize,
}

/// A push as its URL says it.
pub struct Push {
    id: ConnectionId,
    query: rest::PushQuery,
}

impl Direct {
    /// The push that a request is, if there is nothing wrong or unusual about it.
    pub fn takes(&self, request: &Request<Incoming>) -> Option<Push> {
        let id = request.uri().path().strip_prefix(BEFORE_ID)?.strip_suffix(AFTER_ID)?;
        let length = request.body().size_hint().exact().and_then(|length| usize::try_from(length).ok())?;
        if request.method() != Method::POST || length > self.body_bytes_max {
            return None;
        }
        let query = match request.uri().query() {
            None => rest::PushQuery::default(),
            Some(_) => Query::try_from_uri(request.uri()).ok()?.0,
        };
        Some(Push { id: id.parse().ok()?, query })
    }

    /// Answers a push. The request stays where it is: to hand it on by value would copy its head some ten times.
    pub async fn answer(&self, push: &Push, request: &mut Request<Incoming>, caller: &Caller) -> Response {
        let mut entry = self.guard.enter(request, PUSH);
        let response = match entry.refusal() {
            Some(refusal) => refusal,
            None => match whole(request.body_mut()).await {
                Ok(body) => rest::push_to(&self.deliver, &push.id, &push.query, request.headers(), body)
                    .await
                    .unwrap_or_else(IntoResponse::into_response),
                // Who would read this broke off.
                Err(error) => ApiError::bad_request(error.to_string()).into_response(),
            },
        };
        entry.audit(caller, &response);
        response
    }
}

/// All of a body, which mostly comes in one piece: that needs no list.
async fn whole(body: &mut Incoming) -> Result<Bytes, hyper::Error> {
    let first = match body.frame().await {
        Some(frame) => frame?.into_data().unwrap_or_default(),
        None => return Ok(Bytes::new()),
    };
    if body.is_end_stream() {
        return Ok(first);
    }
    let rest = body.collect().await?.aggregate();
    let mut both = BytesMut::from(first);
    both.put(rest);
    Ok(both.freeze())
}

#[cfg(test)]
mod tests {
    use http::Response;
    use http_body_util::Full;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_body_is_whole_in_however_many_pieces_it_comes() {
        // As much as the pipe holds is a piece.
        for (pipe, length) in [(4096, 0), (4096, 500), (64, 500), (1, 100), (64, 64)] {
            let (mut client, server) = tokio::io::duplex(pipe);
            let echo = service_fn(async |mut request: Request<Incoming>| {
                Ok::<_, hyper::Error>(Response::new(Full::new(whole(request.body_mut()).await?)))
            });
            let body: String = (0..length).map(|at| char::from(b'a' + at as u8 % 26)).collect();
            let request = format!("POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
            let ask = async {
                client.write_all(request.as_bytes()).await.expect("sent");
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.expect("an answer");
                answer
            };
            let serve = http1::Builder::new().serve_connection(TokioIo::new(server), echo);
            let (served, answer) = tokio::join!(serve, ask);
            served.expect("served");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{pipe} {length}: {answer}");
        }
    }
}
