//! The parcels of one route that have not left yet, the oldest first. Whoever brings the first event of a parcel starts a runner, and
//! each runner takes one parcel away: there is a runner for every parcel. Must not know when a parcel may leave.

use std::collections::VecDeque;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::BatchSettings;
use super::parcel::{Outcome, Parcel, Room};
use crate::message::{Event, Failure};

/// What waits to be sent, and how much is with the upstream.
pub struct Queue {
    /// They take no more events.
    full: VecDeque<Parcel>,
    open: Option<Parcel>,
    /// What the last parcel held: the next one will hold about as much.
    usual: Room,
    /// Events in all parcels here.
    events: usize,
    events_max: usize,
    settings: BatchSettings,
    /// Requests on the wire.
    pub under_way: usize,
}

/// What an event's joining asks for.
pub struct Joined {
    /// One for each parcel that was begun.
    pub runners: usize,
    /// A parcel may leave at once.
    pub is_full: bool,
}

impl Queue {
    pub fn new(settings: BatchSettings, waiting_max: usize) -> Self {
        let events_max = waiting_max.saturating_add(settings.max);
        let (full, usual) = (VecDeque::new(), Room::default());
        Self { full, open: None, usual, events: 0, events_max, settings, under_way: 0 }
    }

    /// Adds an event.
    pub fn join(
        &mut self,
        event: &Event,
        deadline: Instant,
        waiter: oneshot::Sender<Outcome>,
    ) -> Result<Joined, Failure> {
        if self.events >= self.events_max {
            return Err(Failure::Overloaded);
        }
        self.events += 1;
        let mut runners = usize::from(self.open.is_none());
        let open = self.open.get_or_insert_with(|| Parcel::with_room(&self.usual));
        open.add(event, deadline, waiter);
        if open.bytes() > self.settings.size && open.len() > 1 {
            let last = open.split_last();
            self.full.extend(self.open.replace(last));
            runners += 1;
        }
        let is_full = |open: &mut Parcel| open.len() >= self.settings.max || open.bytes() >= self.settings.size;
        let filled = self.open.take_if(is_full);
        let is_full = filled.is_some();
        self.full.extend(filled);
        Ok(Joined { runners, is_full })
    }

    /// True if there is no reason to wait for more events.
    pub fn is_due(&self) -> bool {
        self.under_way == 0 || !self.full.is_empty()
    }

    /// Fails the events whose deadline is over. The next deadline, or none if no event is left.
    pub fn expire(&mut self, now: Instant, failure: &Failure) -> (usize, Option<Instant>) {
        let mut expired = 0;
        let mut is_left = |parcel: &mut Parcel| {
            expired += parcel.expire(now, failure);
            parcel.earliest().is_some()
        };
        self.full.retain_mut(&mut is_left);
        self.open.take_if(|open| !is_left(open));
        self.events -= expired;
        (expired, self.full.iter().chain(&self.open).filter_map(Parcel::earliest).min())
    }

    /// Takes the oldest parcel, which is then under way.
    pub fn take(&mut self) -> Option<Parcel> {
        let parcel = self.full.pop_front().or_else(|| self.open.take())?;
        self.events -= parcel.waiting_len();
        self.under_way += 1;
        self.usual = parcel.room();
        Some(parcel)
    }
}
