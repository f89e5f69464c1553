//! The events at the ends of a connection: connect, which is awaited, and disconnect, which comes once and last.
//! Must not know sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::{Pipeline, Sender};
use crate::claims::Grant;
use crate::message::{Command, Ending, Event, EventKind, Failure, Format, Payload, Traceparent};
use crate::snapshot::Endpoint;

/// What the upstream is told of a handshake.
#[derive(Debug, Clone)]
pub struct ConnectFacts {
    /// Names in lower case; repeated headers joined by ", ".
    pub headers: BTreeMap<String, String>,
    /// Decoded query parameters; of a repeated one the last.
    pub query: BTreeMap<String, String>,
    /// The subprotocols that the client offers, in its order.
    pub subprotocols: Vec<String>,
    pub remote_addr: SocketAddr,
}

/// The answer to a handshake.
#[derive(Debug, Clone, PartialEq)]
pub enum Connected {
    Accepted(Greeting),
    /// The upstream's own status and body.
    Refused {
        status: u16,
        content_type: Option<String>,
        body: Bytes,
    },
    /// Nobody could be asked in time: 503.
    Unavailable,
}

/// What an upstream gave an accepted connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Greeting {
    pub user: Option<Arc<str>>,
    /// What is to be done once the connection is open; context first among it.
    pub commands: Vec<Command>,
    /// A first frame for the client: the body of a 2xx answer.
    pub frame: Option<Payload>,
    /// The frame that goes before it, to one who sent its token as the first message.
    pub token_frame: Option<Payload>,
    pub subprotocol: Option<String>,
}

impl Greeting {
    /// The context that the answer to the connect gave, so that the first event already bears it.
    pub fn context(&self) -> Option<Arc<str>> {
        let own = self.commands.iter().rev().find_map(|command| match command {
            Command::Context { connection: None, value } => Some(value.clone()),
            _ => None,
        });
        own.filter(|value| !value.is_empty())
    }

    /// Puts the groups that a token names before everything else.
    pub fn join_first(&mut self, grant: Option<&Grant>) {
        let groups = grant.map(|grant| grant.groups.as_slice()).unwrap_or_default();
        let joins = groups.iter().map(|group| Command::Join { connection: None, group: group.clone() });
        self.commands.splice(..0, joins);
    }
}

impl Pipeline {
    /// Asks the endpoint's connect upstream, if it has one, whether the handshake may be answered.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        sender: Sender,
        facts: &ConnectFacts,
        deadline: Instant,
    ) -> Connected {
        let Some(upstream) = &endpoint.connect else { return Connected::Accepted(Greeting::default()) };
        let body = json!({
            "headers": facts.headers,
            "query": facts.query,
            "subprotocols": facts.subprotocols,
            "remote_addr": facts.remote_addr.to_string(),
            "claims": sender.grant.as_ref().map(|grant| &grant.claims),
        });
        let event = self.event(EventKind::Connect, endpoint, sender, 0, body.to_string());
        let outcome = upstream.call(&event, deadline).await;
        let (label, connected) = match outcome {
            Ok(answer) => {
                let greeting = Greeting {
                    user: answer.user,
                    commands: answer.commands,
                    frame: answer.reply,
                    token_frame: None,
                    subprotocol: answer.subprotocol,
                };
                ("delivered", Connected::Accepted(greeting))
            }
            Err(Failure::Rejected { status, content_type, body }) if (400..500).contains(&status) => {
                ("upstream_rejected", Connected::Refused { status, content_type, body })
            }
            Err(failure) => {
                let code = super::encode::reject_of(&failure).code.as_str();
                tracing::warn!(
                    connection = %event.connection,
                    endpoint = %endpoint.draft.path,
                    upstream = upstream.name(),
                    "connect not accepted: {failure}"
                );
                (code, Connected::Unavailable)
            }
        };
        self.metrics.count_event(&endpoint.draft.path, "$connect", label);
        connected
    }

    /// Tells the endpoint's disconnect upstream, if it has one. Returns when it was told, or could not be by the deadline.
    pub async fn disconnect(&self, endpoint: &Endpoint, sender: Sender, seq: u64, ending: &Ending, lived: Duration) {
        let Some(upstream) = &endpoint.disconnect else { return };
        let body = json!({
            "code": ending.code.0,
            "reason": ending.reason,
            "cause": ending.cause.as_str(),
            "duration_ms": u64::try_from(lived.as_millis()).unwrap_or(u64::MAX),
        });
        let event = self.event(EventKind::Disconnect, endpoint, sender, seq, body.to_string());
        let result = upstream.call(&event, Instant::now() + upstream.deadline()).await;
        let label = match result {
            Ok(_) => "delivered",
            Err(failure) => {
                tracing::warn!(
                    connection = %event.connection,
                    endpoint = %endpoint.draft.path,
                    upstream = upstream.name(),
                    "disconnect not delivered: {failure}"
                );
                super::encode::reject_of(&failure).code.as_str()
            }
        };
        self.metrics.count_event(&endpoint.draft.path, "$disconnect", label);
    }

    fn event(&self, kind: EventKind, endpoint: &Endpoint, sender: Sender, seq: u64, body: String) -> Event {
        Event {
            attempts: Default::default(),
            kind,
            connection: sender.id,
            seq,
            endpoint: endpoint.draft.path.clone(),
            name: None,
            name_is_literal: true,
            user: sender.user,
            context: sender.context,
            time: SystemTime::now(),
            traceparent: Traceparent::random(self.spans.sample()),
            body: body.into(),
            format: Format::Json,
        }
    }
}
