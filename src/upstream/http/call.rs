//! One event with all its attempts: slots, breakers, backoff, deadline. Must not know what is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep};

use super::Client;
use super::attempt::Problem;
use super::endpoint::{Endpoint, Lease};
use super::slots::NoSlot;
use crate::message::{Answer, Event, Failure};
use crate::upstream::breaker::Verdict;

/// What earlier attempts of an event leave for the next ones.
#[derive(Default)]
pub struct History {
    /// Attempts that failed, but for those at an address that could not be reached while others could.
    failed: u32,
    hops: usize,
    last: Option<Problem>,
    avoid: Option<Arc<Endpoint>>,
}

/// What an attempt needs: one of the calls at once, and an address.
pub type Place<'a> = (SemaphorePermit<'a>, Lease);

impl Client {
    /// Delivers one event. Dropping the future gives up slot, address and probe.
    pub(super) async fn call(&self, event: &Event, deadline: Instant) -> Result<Answer, Failure> {
        let mut history = History::default();
        let mut is_newcomer = true;
        loop {
            let (slot, lease) = self.place(&mut is_newcomer, &history, deadline).await?;
            let now = Instant::now();
            let until = deadline.min(now + self.settings.timeout);
            event.attempts.note();
            let problem = match self.attempt(&lease.endpoint, event, until).await {
                Ok(answer) => {
                    lease.report(Verdict::Alive, "");
                    return Ok(answer);
                }
                Err(Problem::Final(failure)) => {
                    lease.report(Verdict::Alive, "");
                    return Err(failure);
                }
                Err(problem) => problem,
            };
            let endpoint = self.judge(lease, &problem, until - now);
            drop(slot);
            match self.pause(&mut history, endpoint, problem, deadline) {
                Some(Duration::ZERO) => {}
                Some(pause) => Box::pin(sleep(pause)).await,
                None => return Err(history.failure(String::new)),
            }
        }
    }

    /// Waits for a place for one attempt; or says why there was none before the deadline.
    pub(super) async fn place(
        &self,
        is_newcomer: &mut bool,
        history: &History,
        deadline: Instant,
    ) -> Result<Place<'_>, Failure> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Err(history.failure(|| "the deadline had passed before an attempt".into()));
            }
            let mut turn = None;
            if !self.endpoints.admits(now) {
                // An event that waits for a breaker holds no slot and was not turned away: it is no newcomer any more.
                *is_newcomer = false;
                match Box::pin(self.endpoints.admitting(deadline)).await {
                    Some(mine) => turn = mine,
                    None => return Err(history.failure(|| self.endpoints.why_none())),
                }
            }
            let slot = match self.slots.take(*is_newcomer, deadline).await {
                Ok(slot) => slot,
                Err(NoSlot::Full) => return Err(Failure::Overloaded),
                Err(NoSlot::Late) => {
                    let concurrency = self.settings.concurrency;
                    return Err(history.failure(|| format!("all {concurrency} calls at once were in use")));
                }
            };
            *is_newcomer = false;
            // Another call may have taken the probe meanwhile.
            let Some(lease) = self.endpoints.lease(Instant::now(), history.avoid.as_ref()) else { continue };
            drop(turn);
            return Ok((slot, lease));
        }
    }

    /// Tells the breaker what a failed attempt says about its address.
    pub(super) fn judge(&self, lease: Lease, problem: &Problem, granted: Duration) -> Arc<Endpoint> {
        let verdict = match problem {
            // It asks for patience, but it is there.
            Problem::Status { status, .. } if *status < 500 => Verdict::Alive,
            // Cut short by the event's deadline, a slow address proved nothing.
            Problem::Timeout if granted < self.settings.timeout / 2 => Verdict::Unknown,
            _ => Verdict::Failed,
        };
        let endpoint = lease.endpoint.clone();
        lease.report(verdict, &problem.to_string());
        endpoint
    }

    /// How long to wait before the next attempt, or none if this was the last.
    pub(super) fn pause(
        &self,
        history: &mut History,
        endpoint: Arc<Endpoint>,
        problem: Problem,
        deadline: Instant,
    ) -> Option<Duration> {
        let now = Instant::now();
        tracing::debug!(
            upstream = &*self.meters.upstream,
            address = &*endpoint.label,
            failed = history.failed + 1,
            %problem,
            "an attempt failed"
        );
        // Nothing was sent and another address is there: no reason to wait. `localhost` is such a case, where the
        // handler listens on 127.0.0.1 and the name means ::1 too.
        let can_hop = matches!(problem, Problem::Connect(_))
            && history.hops + 1 < self.endpoints.len()
            && self.endpoints.has_other(&endpoint, now);
        history.avoid = Some(endpoint);
        if can_hop {
            history.last = Some(problem);
            history.hops += 1;
            return Some(Duration::ZERO);
        }
        self.again(history, problem, deadline)
    }

    /// How long to wait after an attempt that the upstream wants to see again, wherever it was made.
    pub(super) fn again(&self, history: &mut History, problem: Problem, deadline: Instant) -> Option<Duration> {
        let retry_after = match &problem {
            Problem::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        history.last = Some(problem);
        history.hops = 0;
        history.failed += 1;
        let remains = deadline.saturating_duration_since(Instant::now());
        self.backoff.delay(history.failed, retry_after, remains, rand::random())
    }
}

impl History {
    pub(super) fn failure(&self, otherwise: impl FnOnce() -> String) -> Failure {
        match &self.last {
            Some(Problem::Timeout) => Failure::Timeout,
            Some(problem) => Failure::Unavailable { reason: problem.to_string() },
            None => Failure::Unavailable { reason: otherwise() },
        }
    }
}
