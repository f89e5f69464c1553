//! Tokens that come on an open socket: verified beside its messages, then taken over. Must not know how they are verified.

use std::task::{Context, Poll};
use std::time::SystemTime;

use super::{Session, millis};
use crate::claims::Grant;
use crate::limits::{Excess, Limit};
use crate::mailbox::Way;
use crate::pipeline::token_frame;
use crate::session::machine::{Expiry, Received};
use crate::session::stream::Stream;
use crate::snapshot::Endpoint;

/// When a client may send another token while one is being verified.
const RENEWAL_PAUSE_MS: u64 = 1000;

impl<S: Stream> Session<S> {
    /// Takes over the rights of a token that was verified, or says why not.
    pub(super) fn poll_renewal(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready(renewal)) = self.renewal.as_mut().map(|renewal| renewal.as_mut().poll(cx)) else {
            return false;
        };
        self.renewal = None;
        let renewed = renewal.and_then(|grant| self.services.deliver.renew(&self.connection, grant));
        self.services.pipeline.count_token(&self.endpoint, &renewed);
        match renewed {
            Ok(grant) => {
                let now_ms = self.now_ms();
                let expiry = expiry_of(&self.endpoint, &grant, now_ms);
                self.machine.set_expiry(expiry);
                self.send(token_frame("accepted", expiry.map(|expiry| expiry.ends_ms - now_ms)), None, Way::Outlet);
                if let Some(live) = &mut self.live {
                    live.wake_at(self.services.epoch, self.machine.next_deadline_ms());
                }
            }
            Err(refused) => {
                tracing::info!(connection = %self.connection.id, "a new token was refused: {refused}");
                let verdict = self.services.pipeline.token_refused(&self.endpoint, self.machine.seq(), &refused);
                self.apply(verdict);
            }
        }
        true
    }

    /// Begins to verify a token, one at a time.
    pub(super) fn on_token(&mut self, now_ms: u64, bytes: usize, token: String) -> Received {
        let received = self.machine.on_token(now_ms, bytes);
        if received != Received::Queued {
            return received;
        }
        if self.renewal.is_some() {
            let excess = Excess { limit: Limit::Tokens, retry_after_ms: RENEWAL_PAUSE_MS };
            return Received::Limited { seq: self.machine.seq(), excess };
        }
        self.renewal = Some(Box::pin(self.services.pipeline.clone().renew(self.endpoint.clone(), token)));
        received
    }
}

/// The end of a grant on the machine's clock.
pub fn expiry_of(endpoint: &Endpoint, grant: &Grant, now_ms: u64) -> Option<Expiry> {
    let left = grant.expires_at?.duration_since(SystemTime::now()).unwrap_or_default();
    let ends_ms = now_ms.saturating_add(millis(left));
    let warning = endpoint.draft.auth.as_ref().and_then(|auth| auth.warning).map(millis);
    Some(Expiry { ends_ms, warn_ms: warning.map(|warning| ends_ms.saturating_sub(warning)) })
}
