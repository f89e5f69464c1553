//! What a connection's token allows: routes that ask for claims, groups that a route joins, and new tokens sent on the socket.
//! Must not know how a token is verified, or the registry.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::{Pipeline, Sender, Verdict};
use crate::claims::{Grant, may_join};
use crate::codes::ErrorCode;
use crate::message::command::name;
use crate::message::{Command, Kind, Payload, Reject};
use crate::routing::{EventName, Template, Values};
use crate::snapshot::{Endpoint, Route};
use crate::tokens::Refused;

/// What became of a token that was sent on an open socket.
pub type Renewal = Result<Grant, Refused>;

/// Refuses a message whose sender's claims do not hold what the route asks.
pub fn check(route: &Route, sender: &Sender) -> Result<(), Reject> {
    let claims = sender.grant.as_ref().map(|grant| &grant.claims);
    match route.draft.require.unmet(claims) {
        None => Ok(()),
        Some(path) => {
            let message = format!("this event asks for a token whose claim {:?} allows it", path.as_str());
            Err(Reject::new(ErrorCode::Forbidden, message))
        }
    }
}

/// The joins and leaves of a message's route, filled in from the message.
pub fn memberships(
    endpoint: &Endpoint,
    route: &Route,
    sender: &Sender,
    event: &str,
    payload: &Payload,
) -> Result<Vec<Command>, Reject> {
    let (join, leave) = (&route.draft.join, &route.draft.leave);
    if join.is_none() && leave.is_none() {
        return Ok(Vec::new());
    }
    let fill = |template: &Template| {
        let values = Values {
            event,
            event_is_literal: route.draft.event.is_literal(),
            user: sender.user.as_deref(),
            endpoint: &endpoint.draft.path,
            connection: sender.id.as_str(),
            body: payload.bytes(),
        };
        let text = template.render(&values).map_err(|unfit| unfit.to_string());
        text.and_then(|text| name("group", &text)).map_err(|reason| Reject::new(ErrorCode::Forbidden, reason))
    };
    let mut commands = Vec::new();
    if let Some(group) = join.as_ref().map(fill).transpose()? {
        let claims = sender.grant.as_ref().map(|grant| &grant.claims);
        if !may_join(&endpoint.draft.group_rules, claims, &group) {
            return Err(Reject::new(ErrorCode::Forbidden, format!("the token does not allow the group {group:?}")));
        }
        commands.push(Command::Join { connection: None, group });
    }
    if let Some(group) = leave.as_ref().map(fill).transpose()? {
        commands.push(Command::Leave { connection: None, group });
    }
    Ok(commands)
}

/// The token of a message that brings one: its event is the endpoint's `refresh_event`, or, where no event names are read, it is the
/// first message and bears nothing else.
pub fn token_of(endpoint: &Endpoint, payload: &Payload, is_first: bool) -> Option<String> {
    let auth = endpoint.draft.auth.as_ref()?;
    if payload.kind() != Kind::Text {
        return None;
    }
    let text = std::str::from_utf8(payload.bytes()).ok()?;
    match &endpoint.draft.event {
        EventName::None => is_first.then(|| text.trim().to_owned()),
        EventName::At(pointer) => {
            // Most messages bring no token: they are not parsed for it. Nor is what is too large to be parsed at all.
            if !text.contains(&*auth.refresh_event) || endpoint.draft.limits.json.check(payload.bytes()).is_err() {
                return None;
            }
            let value: Value = serde_json::from_str(text).ok()?;
            let event = value.pointer(&pointer.to_string()).and_then(Value::as_str);
            let token = value.get("token").and_then(Value::as_str).unwrap_or_default();
            (event == Some(&*auth.refresh_event)).then(|| token.to_owned())
        }
    }
}

impl Pipeline {
    /// The token that a message on an open socket brings, if it does.
    pub fn new_token(&self, endpoint: &Endpoint, payload: &Payload) -> Option<String> {
        token_of(endpoint, payload, false)
    }

    /// The token of a first message.
    pub fn first_token(&self, endpoint: &Endpoint, payload: &Payload) -> Option<String> {
        token_of(endpoint, payload, true)
    }

    /// Holds a token against the endpoint's keys.
    pub async fn verify(&self, endpoint: &Endpoint, token: &str) -> Renewal {
        match &endpoint.verifier {
            Some(verifier) => verifier.verify(token, SystemTime::now()).await,
            None => Err(Refused::Missing),
        }
    }

    /// Counts what became of a token.
    pub fn count_token<T>(&self, endpoint: &Endpoint, verified: &Result<T, Refused>) {
        let outcome = verified.as_ref().map_or_else(Refused::name, |_| "accepted");
        self.metrics.count_token(&endpoint.draft.path, outcome);
    }

    /// As `verify`, for a call that outlives its caller's borrow.
    pub async fn renew(self: Arc<Self>, endpoint: Arc<Endpoint>, token: String) -> Renewal {
        self.verify(&endpoint, &token).await
    }

    /// True if a connection of this endpoint with these rights may be in the group.
    pub fn may_join(&self, endpoint: &str, grant: Option<&Grant>, group: &str) -> bool {
        let snapshot = self.current.load();
        let rules = snapshot.endpoint(endpoint).map(|endpoint| endpoint.draft.group_rules.as_slice());
        may_join(rules.unwrap_or_default(), grant.map(|grant| &grant.claims), group)
    }

    /// The verdict on a token that was refused.
    pub fn token_refused(&self, endpoint: &Endpoint, seq: u64, refused: &Refused) -> Verdict {
        let reject = match refused {
            // Its reason names the inside's addresses.
            Refused::NoKeys(_) => Reject::new(ErrorCode::UpstreamUnavailable, "no token can be checked now; try again"),
            refused => Reject::new(ErrorCode::Unauthorized, format!("the token is refused: {refused}")),
        };
        let mut verdict = self.refuse(endpoint, "$token", seq, &reject);
        verdict.invalid = reject.code == ErrorCode::Unauthorized;
        verdict
    }
}
