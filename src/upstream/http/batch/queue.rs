//! The parcels of one route that have not left yet, the oldest first. Whoever brings the first event of a parcel starts a runner, and
//! each runner takes one parcel away: there is a runner for every parcel. Must not know how a parcel is sent.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::BatchSettings;
use super::parcel::{Outcome, Parcel, Room};
use crate::message::{Event, Failure};

/// How long those who have just had an answer are waited for.
const MOMENT: Duration = Duration::from_millis(2);

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
    under_way: usize,
    /// When the last of them came back.
    answered: Option<Instant>,
}

/// What an event's joining asks for.
pub struct Joined {
    /// One for each parcel that was begun.
    pub runners: usize,
    /// With this event a parcel may leave at once.
    pub is_due: bool,
}

impl Queue {
    pub fn new(settings: BatchSettings, waiting_max: usize) -> Self {
        let events_max = waiting_max.saturating_add(settings.max);
        let (full, usual) = (VecDeque::new(), Room::default());
        Self { full, open: None, usual, events: 0, events_max, settings, under_way: 0, answered: None }
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
        self.full.extend(filled);
        // With more than that it was due before.
        let is_many = self.under_way == 0 && self.open.as_ref().is_some_and(|open| open.len() == self.usual.events);
        Ok(Joined { runners, is_due: is_many || !self.full.is_empty() })
    }

    /// Until when a parcel whose first event came at `begun` takes more of them; none if it may leave at once.
    ///
    /// Those who had their answers together speak together: unless as many are here again, they are waited for, if only for a moment.
    pub fn gathers_until(&self, begun: Instant) -> Option<Instant> {
        if !self.full.is_empty() {
            return None;
        }
        let latest = begun + self.settings.wait;
        if self.under_way > 0 {
            return Some(latest);
        }
        let is_many = self.open.as_ref().is_none_or(|open| open.len() >= self.usual.events);
        let moment = self.answered.filter(|_| !is_many)? + MOMENT;
        (begun < moment).then_some(moment.min(latest))
    }

    /// A request is on the wire.
    pub fn depart(&mut self) {
        self.under_way += 1;
    }

    /// A request came back. True if it was the last.
    pub fn arrive(&mut self, now: Instant) -> bool {
        self.under_way -= 1;
        self.answered = Some(now);
        self.under_way == 0
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
        self.depart();
        self.usual = parcel.room();
        Some(parcel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::http::tests::event;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn queue(wait: Duration) -> Queue {
        Queue::new(BatchSettings { max: 10, wait, size: 1 << 20 }, 100)
    }

    /// Whether a parcel may leave with the event. Nobody hears its outcome.
    fn join(queue: &mut Queue, now: Instant) -> bool {
        let (waiter, _) = oneshot::channel();
        queue.join(&event(1), now + ms(30_000), waiter).expect("room").is_due
    }

    /// Has `events` answered together.
    fn answer(queue: &mut Queue, events: usize, now: Instant) {
        for _ in 0..events {
            join(queue, now);
        }
        queue.take().expect("a parcel");
        assert!(queue.arrive(now), "it was the last under way");
    }

    #[test]
    fn a_lone_event_leaves_at_once() {
        let (mut queue, now) = (queue(ms(10_000)), Instant::now());
        for _ in 0..3 {
            join(&mut queue, now);
            assert_eq!(queue.gathers_until(now), None);
            queue.take().expect("a parcel");
            queue.arrive(now);
        }
    }

    #[test]
    fn beside_a_request_an_event_waits_its_time_unless_a_parcel_is_full() {
        let (mut queue, now) = (queue(ms(50)), Instant::now());
        join(&mut queue, now);
        queue.take().expect("a parcel");
        for _ in 0..9 {
            assert!(!join(&mut queue, now), "as many as before are no reason to leave while a request is under way");
            assert_eq!(queue.gathers_until(now), Some(now + ms(50)));
        }
        assert!(join(&mut queue, now));
        assert_eq!(queue.gathers_until(now), None);
    }

    #[test]
    fn those_who_were_answered_together_are_waited_for_until_all_are_here() {
        let (mut queue, now) = (queue(ms(50)), Instant::now());
        answer(&mut queue, 3, now);
        let is_due = [(); 3].map(|()| {
            assert!(queue.open.is_none() || queue.gathers_until(now) == Some(now + MOMENT));
            join(&mut queue, now)
        });
        assert_eq!((is_due, queue.gathers_until(now)), ([false, false, true], None));
    }

    #[test]
    fn they_are_waited_for_only_a_moment_and_no_longer_than_an_event_may_wait() {
        let (mut patient, mut hasty, now) = (queue(ms(50)), queue(ms(1)), Instant::now());
        for queue in [&mut patient, &mut hasty] {
            answer(queue, 3, now);
            join(queue, now);
        }
        assert_eq!(hasty.gathers_until(now), Some(now + ms(1)));
        assert_eq!(patient.gathers_until(now), Some(now + MOMENT));
        assert_eq!(patient.gathers_until(now + ms(1)), Some(now + MOMENT));
        assert_eq!(patient.gathers_until(now + MOMENT), None, "who speaks later speaks alone");
    }
}
