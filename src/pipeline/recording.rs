//! What of a message's way is recorded, while somebody looks. Must not know who does.

use std::sync::Arc;

use super::{Pipeline, Routed, encode};
use crate::message::{Answer, Failure, Reject};
use crate::recorder::{Recorder, Recording, Redaction, Taken};
use crate::snapshot::{Endpoint, Route};

impl Pipeline {
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// What of an endpoint's messages is not shown; all of them where there is no such endpoint any more.
    pub fn redaction(&self, endpoint: &str) -> Arc<Redaction> {
        let snapshot = self.current.load();
        let known = snapshot.endpoint(endpoint).map(|endpoint| endpoint.draft.redaction.clone());
        known.unwrap_or_else(|| Arc::new(Redaction::everything()))
    }
}

/// The message has a route and fits it.
pub fn routed(recording: &mut Recording, routed: &mut Routed) {
    recording.checked();
    let Routed { endpoint, route, event, .. } = routed;
    note(recording, endpoint, event.name.clone(), Some(route));
    event.attempts = recording.attempts.clone();
}

/// The message goes no further.
pub fn refused(mut recording: Box<Recording>, endpoint: &Endpoint, reject: &Reject) {
    recording.checked();
    let route = reject.event.as_deref().and_then(|name| endpoint.route(name));
    note(&mut recording, endpoint, reject.event.clone(), route);
    recording.finish(reject.code.as_str());
}

/// The upstream's word is there, or will not come.
pub fn finished(mut recording: Box<Recording>, result: &Result<Answer, Failure>) {
    recording.answered();
    recording.finish(match result {
        Ok(answer) if answer.reply.is_some() => "answered",
        Ok(_) => "accepted",
        Err(failure) => encode::reject_of(failure).code.as_str(),
    });
}

fn note(recording: &mut Recording, endpoint: &Endpoint, event: Option<Arc<str>>, route: Option<&Arc<Route>>) {
    recording.generation = endpoint.generation;
    // A message that brings a token is taken out of the stream before; one that only tried to is not shown either.
    if endpoint.draft.auth.as_ref().is_some_and(|auth| event.as_deref() == Some(&*auth.refresh_event)) {
        recording.hide();
    }
    recording.event = event;
    recording.rule = route.map(|route| Taken {
        route: route.label.clone(),
        schema: route.draft.schema.as_ref().map(|schema| schema.origin().clone()),
        upstream: route.upstream.name().to_owned(),
    });
}
