//! What waits in a mailbox, in order. One message alone that was left needs no buffer: of a send to many that is nearly each. Must not
//! know budgets, writers or what a message means.

use std::collections::VecDeque;

use super::Entry;
use crate::message::Payload;

/// What waits.
pub enum Queue {
    /// One message, whose pusher need not hear of it.
    Alone(Payload),
    Entries(VecDeque<Entry>),
}

impl Default for Queue {
    /// Holds no buffer.
    fn default() -> Self {
        Self::Entries(VecDeque::new())
    }
}

impl Queue {
    pub fn len(&self) -> usize {
        match self {
            Self::Alone(_) => 1,
            Self::Entries(entries) => entries.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a message into an empty queue, without a buffer if that can be.
    pub fn push_alone(&mut self, entry: Entry) {
        match entry {
            Entry { payload, on_written: None } => *self = Self::Alone(payload),
            entry => self.push(entry),
        }
    }

    pub fn push(&mut self, entry: Entry) {
        let entries = self.entries();
        if entries.capacity() == 0 {
            // Mostly it stays the only one: room for four would be memory touched for nothing.
            *entries = VecDeque::with_capacity(1);
        }
        entries.push_back(entry);
    }

    pub fn first(&self) -> Option<&Payload> {
        match self {
            Self::Alone(payload) => Some(payload),
            Self::Entries(entries) => entries.front().map(|entry| &entry.payload),
        }
    }

    /// Tells the pushers of all that it is in the socket.
    pub fn written(self) {
        if let Self::Entries(entries) = self {
            entries.into_iter().for_each(Entry::written);
        }
    }

    pub fn into_entries(self) -> VecDeque<Entry> {
        match self {
            Self::Alone(payload) => VecDeque::from([Entry { payload, on_written: None }]),
            Self::Entries(entries) => entries,
        }
    }

    pub fn entries(&mut self) -> &mut VecDeque<Entry> {
        if let Self::Alone(_) = self {
            *self = Self::Entries(std::mem::take(self).into_entries());
        }
        match self {
            Self::Entries(entries) => entries,
            Self::Alone(_) => unreachable!("it was just made entries"),
        }
    }
}
