//! Where in a queue the newest message of each key waits, so that a newer one takes its place. Must not know what a key means.

use std::collections::HashMap;
use std::sync::Arc;

/// The places of those messages that have a key.
#[derive(Default)]
pub struct Latest {
    /// Counted from the queue's beginning and on over what was taken from it.
    places: HashMap<Arc<str>, usize>,
    taken: usize,
}

impl Latest {
    /// Where in the queue the message with this key waits, if one does.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.places.get(key).map(|place| place - self.taken)
    }

    /// Notes that a message with this key waits at `place` of the queue.
    pub fn note(&mut self, key: &Arc<str>, place: usize) {
        self.places.insert(key.clone(), self.taken + place);
    }

    /// Forgets the first `count` messages of the queue, which were taken from it.
    pub fn take(&mut self, count: usize) {
        self.taken += count;
        let taken = self.taken;
        self.places.retain(|_, place| *place >= taken);
    }
}
