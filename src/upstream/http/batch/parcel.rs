//! The events of one request, each with its deadline and with whoever waits for its answer. Must not know when it is sent, nor where.

use std::fmt::Write as _;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ids::ConnectionId;
use crate::message::{Answer, Attempts, Event, Failure};
use crate::upstream::contract::batch;

/// What becomes of one event.
pub type Outcome = Result<Answer, Failure>;

/// How much a parcel holds.
#[derive(Default)]
pub struct Room {
    bytes: usize,
    pub events: usize,
}

/// Events in the order in which they came, written as one JSON list.
#[derive(Default)]
pub struct Parcel {
    /// `[` and the events, separated by commas. Empty once it is packed.
    json: Vec<u8>,
    /// The body that was made of it.
    body: Bytes,
    entries: Vec<Entry>,
}

struct Entry {
    connection: ConnectionId,
    seq: u64,
    deadline: Instant,
    attempts: Attempts,
    /// Where it begins and ends in the JSON.
    begin: usize,
    end: usize,
    /// None once it is answered. It stays in its place then until the next request.
    waiter: Option<oneshot::Sender<Outcome>>,
}

impl Parcel {
    pub fn with_room(room: &Room) -> Self {
        Self { json: Vec::with_capacity(room.bytes), entries: Vec::with_capacity(room.events), ..Self::default() }
    }

    /// A little more than it holds now, for another as large.
    pub fn room(&self) -> Room {
        Room { bytes: self.json.len() + self.json.len() / 8 + 1, events: self.entries.len() }
    }

    /// Not once it is packed.
    pub fn add(&mut self, event: &Event, deadline: Instant, waiter: oneshot::Sender<Outcome>) {
        self.json.push(if self.entries.is_empty() { b'[' } else { b',' });
        let begin = self.json.len();
        batch::write(&mut self.json, event);
        let (connection, seq, end) = (event.connection, event.seq, self.json.len());
        let attempts = event.attempts.clone();
        self.entries.push(Entry { connection, seq, deadline, attempts, begin, end, waiter: Some(waiter) });
    }

    /// An attempt begins.
    pub fn note_attempt(&self) {
        self.waiting().for_each(|entry| entry.attempts.note());
    }

    /// Events, answered ones too.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Events that are not answered.
    pub fn waiting_len(&self) -> usize {
        self.waiting().count()
    }

    pub fn bytes(&self) -> usize {
        self.json.len()
    }

    /// Takes out the event that was added last.
    pub fn split_last(&mut self) -> Parcel {
        let mut last = Parcel::default();
        if let Some(entry) = self.entries.pop() {
            last.take(entry, &self.json);
            self.json.truncate(self.entries.last().map_or(0, |entry| entry.end));
        }
        last
    }

    /// The first deadline of those who wait; none if nobody does.
    pub fn earliest(&self) -> Option<Instant> {
        self.waiting().map(|entry| entry.deadline).min()
    }

    /// The last deadline of those who wait.
    pub fn latest(&self) -> Option<Instant> {
        self.waiting().map(|entry| entry.deadline).max()
    }

    /// Gives its outcome to the event in this place.
    pub fn settle(&mut self, at: usize, outcome: Outcome) {
        if let Some(waiter) = self.entries.get_mut(at).and_then(|entry| entry.waiter.take()) {
            // Whoever asked may be gone.
            let _ = waiter.send(outcome);
        }
    }

    /// Fails those whose deadline has come by `until`. How many there were.
    pub fn expire(&mut self, until: Instant, failure: &Failure) -> usize {
        let mut failed = 0;
        for entry in self.entries.iter_mut().filter(|entry| entry.deadline <= until) {
            if let Some(waiter) = entry.waiter.take() {
                failed += 1;
                let _ = waiter.send(Err(failure.clone()));
            }
        }
        failed
    }

    /// The body of a request, and its ID: the same for the same events. What is answered, or awaited by nobody, is not in it.
    pub fn pack(&mut self) -> (String, Bytes) {
        let is_awaited = |entry: &Entry| entry.waiter.as_ref().is_some_and(|waiter| !waiter.is_closed());
        if !self.entries.iter().all(is_awaited) {
            let all = std::mem::take(self);
            let json: &[u8] = if all.json.is_empty() { &all.body } else { &all.json };
            let awaited = all.entries.into_iter().filter(is_awaited);
            awaited.for_each(|entry| self.take(entry, json));
        }
        if !self.json.is_empty() {
            self.json.push(b']');
            self.body = std::mem::take(&mut self.json).into();
        }
        let mut id = String::new();
        if let Some(first) = self.entries.first() {
            // A set of events only ever loses some, and each event is in one set: its first and its number name it.
            // Writing to a String does not fail.
            let _ = write!(id, "{}.{}.{}", first.connection.as_str(), first.seq, self.entries.len());
        }
        (id, self.body.clone())
    }

    /// Takes over an entry whose JSON is in `json`.
    fn take(&mut self, entry: Entry, json: &[u8]) {
        self.json.push(if self.entries.is_empty() { b'[' } else { b',' });
        let begin = self.json.len();
        self.json.extend_from_slice(&json[entry.begin..entry.end]);
        self.entries.push(Entry { begin, end: self.json.len(), ..entry });
    }

    fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.waiter.is_some())
    }
}
