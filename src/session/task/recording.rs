//! What a session shows to those who look at live messages. Must not know who they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use crate::codes::ErrorCode;
use crate::mailbox::{Offered, Urgency, Way};
use crate::message::{Ending, Kind, Payload};
use crate::recorder::{About, Cause, Recording, Redaction, Subject};
use crate::session::stream::Stream;

impl<S: Stream> Session<S> {
    /// Begins to record a message that is taken out of the queue, if somebody looks.
    pub(super) fn record(&self, seq: u64, payload: &Payload, received: Instant) -> Option<Box<Recording>> {
        let subject = self.subject(About::In)?;
        let draft = &self.endpoint.draft;
        // A token that could not be read as one is a token all the same.
        let bears_token = draft.auth.as_ref().is_some_and(|auth| contains(payload, &auth.refresh_event));
        let redaction = if bears_token { Arc::new(Redaction::everything()) } else { draft.redaction.clone() };
        let mut recording = subject.message_in(seq, payload.clone(), redaction, received);
        recording.generation = self.endpoint.generation;
        Some(recording)
    }

    /// A message that was over a rate is not kept: of it there is only the size.
    pub(super) fn record_limited(&self, seq: u64, bytes: usize) {
        if let Some(subject) = self.subject(About::In) {
            subject.limited(seq, bytes, self.endpoint.generation, ErrorCode::RateLimited.as_str());
        }
    }

    pub(super) fn record_connected(&self) {
        if let Some(subject) = self.subject(About::Connection) {
            subject.connected(&self.connection);
        }
    }

    pub(super) fn record_disconnected(&self, ending: &Ending) {
        if let Some(subject) = self.subject(About::Connection) {
            let lived = Duration::from_millis(self.now_ms().saturating_sub(self.machine.opened_ms()));
            subject.disconnected(ending, lived);
        }
    }

    /// Offers a frame to the mailbox. One without a cause is Holdfast's own word about a token, which nobody is shown.
    pub(super) fn offer(&self, frame: Payload, cause: Option<Cause>, way: Way) -> Offered {
        let mailbox = &self.connection.mailbox;
        let Some(cause) = cause else { return mailbox.push(frame, None, Urgency::Insistent, way) };
        let hide = || self.endpoint.draft.redaction.clone();
        let recorder = self.services.pipeline.recorder();
        recorder.offer(&self.connection, frame, (cause, hide), None, |frame, receipt| {
            mailbox.push(frame, receipt, Urgency::Insistent, way)
        })
    }

    fn subject(&self, about: About) -> Option<Subject> {
        self.services.pipeline.recorder().subject(&self.connection, about)
    }
}

fn contains(payload: &Payload, text: &str) -> bool {
    payload.kind() == Kind::Text && std::str::from_utf8(payload.bytes()).is_ok_and(|whole| whole.contains(text))
}
