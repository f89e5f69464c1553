//! The list of connections: filtered, searched, the newest first, in pages. Must not know routes or tokens.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use super::rest::{Api, Delivering, facts};
use crate::connection::Connection;
use crate::ids::ConnectionId;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

#[derive(Deserialize)]
pub struct ListQuery {
    limit: Option<usize>,
    #[serde(default)]
    offset: usize,
    endpoint: Option<String>,
    user: Option<String>,
    search: Option<String>,
}

/// A connection with what it is sorted by.
struct Found {
    opened_at: Reverse<SystemTime>,
    id: ConnectionId,
    connection: Arc<Connection>,
}

pub async fn list(State(deliver): Delivering, Query(query): Query<ListQuery>) -> Api<Json<Value>> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if limit > LIMIT_MAX {
        return Err(ApiError::bad_request(format!("expected a limit of at most {LIMIT_MAX}, found {limit}")));
    }
    let mut search = Search::new(query.search.as_deref().unwrap_or_default());
    let mut found = Vec::new();
    deliver.registry().for_each(|connection| {
        let fits = query.endpoint.as_deref().is_none_or(|path| *connection.endpoint == *path)
            && query.user.as_deref().is_none_or(|user| connection.user.as_deref() == Some(user))
            && search.finds(connection);
        if fits {
            found.push(Found {
                opened_at: Reverse(connection.opened_at),
                id: connection.id,
                connection: connection.clone(),
            });
        }
    });
    let total = found.len();
    let connections: Vec<Value> = page(found, query.offset, limit).map(|found| facts(&found.connection)).collect();
    Ok(Json(json!({"total": total, "connections": connections})))
}

/// Sorts no more than what is shown and what stands before it.
fn page(mut found: Vec<Found>, offset: usize, limit: usize) -> impl Iterator<Item = Found> {
    let order = |a: &Found, b: &Found| (a.opened_at, a.id).cmp(&(b.opened_at, b.id));
    let end = offset.saturating_add(limit).min(found.len());
    if end < found.len() {
        found.select_nth_unstable_by(end, order);
        found.truncate(end);
    }
    found.sort_unstable_by(order);
    found.into_iter().skip(offset)
}

/// Looks for a text in all that names a connection.
struct Search {
    wanted: String,
    /// One buffer for all connections that are looked at.
    text: String,
}

impl Search {
    fn new(wanted: &str) -> Self {
        Self { wanted: wanted.trim().to_lowercase(), text: String::new() }
    }

    fn finds(&mut self, connection: &Connection) -> bool {
        if self.wanted.is_empty() {
            return true;
        }
        self.text.clear();
        let (user, address) = (connection.user.as_deref().unwrap_or_default(), connection.remote_addr);
        // Writing to a String does not fail. What is looked for has no breaks, so nothing is found across two names.
        let _ = write!(self.text, "{}\n{}\n{user}\n{address}", connection.id, connection.endpoint);
        for group in connection.groups() {
            let _ = write!(self.text, "\n{group}");
        }
        self.text.to_lowercase().contains(&self.wanted)
    }
}
