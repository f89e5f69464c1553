//! `GET /v1/watch`: live messages as a stream of lines, or of server-sent events. Must not know how they are recorded.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use super::AdminState;
use crate::command::ApiError;
use crate::recorder::{Filter, NotWatched};
use crate::routing::Pattern;

/// How often a quiet stream says that it lives. A reader that has left is noticed by what is written to it, since the listener does not
/// listen to one that has its answer still to come: after two of these at most.
const ALIVE: Duration = Duration::from_secs(5);
const EVENT_STREAM: &str = "text/event-stream";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    connection: Option<String>,
    endpoint: Option<String>,
    user: Option<String>,
    group: Option<String>,
    event: Option<String>,
    outcome: Option<String>,
}

/// How records are written.
#[derive(Clone, Copy)]
enum Form {
    Lines,
    Events,
}

pub async fn watch(
    State(state): State<AdminState>,
    Query(query): Query<WatchQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let watch = state.deliver.recorder().watch(filter(query)?).map_err(|refusal| {
        let (status, code) = match refusal {
            NotWatched::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many_watchers"),
            NotWatched::Ended => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        };
        ApiError::new(status, code, refusal.to_string())
    })?;
    let accepted = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let form = match accepted.into_iter().any(|value| value.contains(EVENT_STREAM)) {
        true => Form::Events,
        false => Form::Lines,
    };
    // The first word at once, so that who looks knows from when on it is told.
    let stream = stream::unfold((watch, true), move |(mut watch, is_first)| async move {
        if is_first {
            return Some((Ok::<_, Infallible>(form.alive()), (watch, false)));
        }
        match timeout(ALIVE, watch.next()).await {
            Ok(Some(line)) => Some((Ok(form.record(&line)), (watch, false))),
            Ok(None) => None,
            Err(_) => Some((Ok(form.alive()), (watch, false))),
        }
    });
    let content_type = match form {
        Form::Lines => "application/x-ndjson",
        Form::Events => EVENT_STREAM,
    };
    let head = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    Ok((head, Body::from_stream(stream)).into_response())
}

impl Form {
    fn record(self, line: &str) -> Bytes {
        match self {
            Self::Lines => format!("{line}\n"),
            Self::Events => format!("data: {line}\n\n"),
        }
        .into()
    }

    fn alive(self) -> Bytes {
        match self {
            Self::Lines => Bytes::from_static(b"{\"kind\":\"alive\"}\n"),
            Self::Events => Bytes::from_static(b": alive\n\n"),
        }
    }
}

fn filter(query: WatchQuery) -> Result<Filter, ApiError> {
    let WatchQuery { connection, endpoint, user, group, event, outcome } = query;
    let id = |text: String| {
        text.parse().map_err(|error: crate::ids::InvalidId| ApiError::bad_request(format!("{text:?} is {error}")))
    };
    let pattern = |text: String| Pattern::parse(&text).map_err(|error| ApiError::bad_request(error.to_string()));
    Ok(Filter {
        connection: connection.map(id).transpose()?,
        endpoint,
        user,
        group,
        event: event.map(pattern).transpose()?,
        outcome,
    })
}
