//! The mailbox of one connection: what waits to be written to its socket, bounded in bytes. A close is a flag beside the
//! queue, so that a full mailbox cannot refuse it. Knows payloads; must not know sessions, sockets or HTTP.

mod latest;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

use crate::message::{Ending, Payload};
use latest::Latest;

/// What each frame counts beside its payload, in bytes: so the byte budget bounds the number of frames too.
pub const FRAME_OVERHEAD_BYTES: usize = 64;

/// Called once the payload's bytes are in the socket. Dropped uncalled where they never got there.
pub type OnWritten = Box<dyn FnOnce() + Send>;

/// One payload that waits to be written.
pub struct Entry {
    pub payload: Payload,
    pub on_written: Option<OnWritten>,
}

/// How much a push may ask of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Refused over half of the budget: its pusher can come again.
    Polite,
    /// Taken up to the whole budget; over it the client is cut as a slow consumer.
    Insistent,
}

/// What became of an offered payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    Queued,
    /// It took the place of an older one with the same key.
    Replaced,
    /// Over half full: nothing was queued, nobody was cut.
    Full,
    /// The budget could not hold it even if the mailbox were empty.
    TooLarge,
    /// The budget is spent: this payload was dropped and the client is cut as a slow consumer.
    Overflow,
    /// The connection is closing or gone.
    Gone,
}

/// How a close that was asked for is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// After what is queued.
    AfterQueued(Ending),
    /// After every accepted message was answered, or this many milliseconds; then as `AfterQueued`.
    AfterAnswers(Ending, u64),
    /// At once: the client is too slow, and what was queued is dropped.
    Cut,
}

/// What the writer finds.
#[derive(Default)]
pub struct Taken {
    /// Some entries, in order.
    pub entries: VecDeque<Entry>,
    /// Nothing is queued any more.
    pub drained: bool,
    pub close: Option<Close>,
}

/// The queue, its budget and the close flag.
pub struct Mailbox {
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Entry>,
    /// There while a message with a key waits.
    latest: Option<Box<Latest>>,
    /// Bytes queued, and bytes taken but not yet in the socket.
    used: usize,
    budget: usize,
    close: Option<Close>,
    /// The socket is gone.
    gone: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// An empty mailbox with a budget of `budget` bytes. Allocates nothing until the first push.
    pub fn new(budget: usize) -> Self {
        let (queue, latest) = (VecDeque::new(), None);
        Self { state: Mutex::new(State { queue, latest, used: 0, budget, close: None, gone: false, waker: None }) }
    }

    /// Offers a payload. Never blocks.
    pub fn push(&self, payload: Payload, on_written: Option<OnWritten>, urgency: Urgency) -> Offered {
        // Refused, it is dropped after the lock is free: an `on_written` may run its own code when dropped.
        let mut state = self.state.lock();
        let offered = state.reserve(&payload, urgency);
        if offered == Offered::Queued {
            state.append(Entry { payload, on_written });
        }
        offered
    }

    /// Offers the newest message of a key, insistently: one with the same key that waits gives it its place.
    pub fn push_latest(&self, key: &Arc<str>, payload: Payload, on_written: Option<OnWritten>) -> Offered {
        let mut entry = Entry { payload, on_written };
        // What is refused or replaced is dropped after the lock is free, as in `push`.
        let mut state = self.state.lock();
        if let Some(place) = state.latest.as_ref().and_then(|latest| latest.place(key))
            && state.is_taking()
        {
            return state.replace(place, &mut entry);
        }
        let offered = state.reserve(&entry.payload, Urgency::Insistent);
        if offered == Offered::Queued {
            let place = state.queue.len();
            state.latest.get_or_insert_default().note(key, place);
            state.append(entry);
        }
        offered
    }

    /// Asks for a close. The first one asked for counts, but a patient one gives way. False if the connection is closing or gone.
    pub fn close(&self, close: Close) -> bool {
        let mut state = self.state.lock();
        if !state.is_taking() {
            return false;
        }
        state.close = Some(close);
        state.wake();
        true
    }

    /// Takes up to about `bytes_max` bytes, and says whether a close was asked for. `waker` is woken at the next change.
    pub fn take(&self, waker: &Waker, bytes_max: usize) -> Taken {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        if state.close == Some(Close::Cut) {
            let dropped = state.clear();
            drop(state);
            drop(dropped);
            return Taken { entries: VecDeque::new(), drained: true, close: Some(Close::Cut) };
        }
        let entries = state.take(bytes_max);
        Taken { entries, drained: state.queue.is_empty(), close: state.close.clone() }
    }

    /// Gives back the budget of payloads that the socket took, or that were dropped.
    pub fn release(&self, payload_bytes: usize, frames: usize) {
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(payload_bytes + frames * FRAME_OVERHEAD_BYTES);
    }

    /// Refuses everything from now on and drops what is queued: the socket is gone.
    pub fn shut(&self) {
        let mut state = self.state.lock();
        state.gone = true;
        state.used = 0;
        state.waker = None;
        // Dropped outside the lock: an `on_written` may run its own code when dropped.
        let queue = state.clear();
        drop(state);
        drop(queue);
    }

    /// Bytes that wait, with each frame's overhead.
    pub fn used_bytes(&self) -> usize {
        self.state.lock().used
    }

    /// Changes the budget, after a reload. What is queued stays.
    pub fn set_budget(&self, budget: usize) {
        self.state.lock().budget = budget;
    }
}

impl State {
    /// Takes the payload's part of the budget, or says why not.
    fn reserve(&mut self, payload: &Payload, urgency: Urgency) -> Offered {
        let offered = self.admit(cost(payload), urgency);
        match offered {
            Offered::Queued => self.used += cost(payload),
            Offered::Overflow => self.cut(),
            _ => {}
        }
        offered
    }

    fn append(&mut self, entry: Entry) {
        self.queue.push_back(entry);
        self.wake();
    }

    /// What waits at `place` gives it to the newer one, which may be larger, and is left in its stead.
    fn replace(&mut self, place: usize, newer: &mut Entry) -> Offered {
        let Some(entry) = self.queue.get_mut(place) else { return Offered::Gone };
        let used = self.used - entry.payload.len() + newer.payload.len();
        if cost(&newer.payload) > self.budget {
            return Offered::TooLarge;
        }
        if used > self.budget {
            self.cut();
            return Offered::Overflow;
        }
        self.used = used;
        std::mem::swap(entry, newer);
        Offered::Replaced
    }

    fn cut(&mut self) {
        self.close = Some(Close::Cut);
        self.wake();
    }

    fn clear(&mut self) -> VecDeque<Entry> {
        self.latest = None;
        std::mem::take(&mut self.queue)
    }

    /// A connection that finishes its answers still takes them.
    fn is_taking(&self) -> bool {
        !self.gone && matches!(self.close, None | Some(Close::AfterAnswers(..)))
    }

    fn admit(&self, cost: usize, urgency: Urgency) -> Offered {
        if !self.is_taking() {
            return Offered::Gone;
        }
        let fits = self.used + cost <= self.budget;
        match urgency {
            _ if cost > self.budget => Offered::TooLarge,
            Urgency::Polite if !fits || self.used > self.budget / 2 => Offered::Full,
            Urgency::Insistent if !fits => Offered::Overflow,
            _ => Offered::Queued,
        }
    }

    fn take(&mut self, bytes_max: usize) -> VecDeque<Entry> {
        if self.queue.is_empty() || bytes_max == 0 {
            return VecDeque::new();
        }
        let mut bytes = 0;
        let count = self
            .queue
            .iter()
            .take_while(|entry| {
                let more = bytes < bytes_max;
                bytes += cost(&entry.payload);
                more
            })
            .count();
        if count == self.queue.len() {
            // The buffer goes along: a quiet connection holds none.
            return self.clear();
        }
        if let Some(latest) = &mut self.latest {
            latest.take(count);
        }
        self.queue.drain(..count).collect()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn cost(payload: &Payload) -> usize {
    payload.len() + FRAME_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
