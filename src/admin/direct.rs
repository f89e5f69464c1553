//! The push to one connection, which may be called thousands of times a second, without the router: that and its layers cost more than
//! the push. A request that is not quite ordinary is left to the router, which answers the same call. Must not know what a push does.

use std::sync::Arc;

use axum::extract::Query;
use axum::response::{IntoResponse, Response};
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
        let query = Query::try_from_uri(request.uri()).ok()?.0;
        Some(Push { id: id.parse().ok()?, query })
    }

    pub async fn answer(&self, push: Push, request: Request<Incoming>, caller: &Caller) -> Response {
        let entry = self.guard.enter(&request, PUSH);
        let call = async {
            let (head, body) = request.into_parts();
            match body.collect().await {
                Ok(body) => rest::push_to(&self.deliver, &push.id, &push.query, &head.headers, body.to_bytes())
                    .await
                    .into_response(),
                // Who would read this broke off.
                Err(error) => ApiError::bad_request(error.to_string()).into_response(),
            }
        };
        entry.run(caller, call).await
    }
}
