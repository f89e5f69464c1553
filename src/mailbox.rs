//! The mailbox of one connection: what waits to be written to its socket, bounded in bytes. While nothing waits a payload need not
//! either: it goes straight to the outlet. A close is a flag beside the queue, so that a full mailbox cannot refuse it. Knows payloads;
//! must not know sessions, sockets or HTTP.

mod latest;
mod queue;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

use crate::message::{Ending, Payload};
use latest::Latest;
use queue::Queue;

/// What each frame counts beside its payload, in bytes: so the byte budget bounds the number of frames too.
pub const FRAME_OVERHEAD_BYTES: usize = 64;

/// Called once the payload's bytes are in the socket. Dropped uncalled where they never got there.
pub type OnWritten = Box<dyn FnOnce() + Send>;

/// Whoever offers a payload and wants to know when its bytes are in the socket, if so.
pub trait Receipt {
    /// They have to wait: what to call then.
    fn queued(self) -> Option<OnWritten>;

    /// They are already.
    fn written(self);
}

impl Receipt for Option<OnWritten> {
    fn queued(self) -> Option<OnWritten> {
        self
    }

    fn written(self) {
        if let Some(on_written) = self {
            on_written();
        }
    }
}

/// One payload that waits to be written.
pub struct Entry {
    pub payload: Payload,
    pub on_written: Option<OnWritten>,
}

impl Entry {
    fn written(self) {
        self.on_written.written();
    }
}

/// How much a push may ask of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Refused over half of the budget: its pusher can come again.
    Polite,
    /// Taken up to the whole budget; over it the client is cut as a slow consumer.
    Insistent,
}

/// Who writes a payload that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The writer, which is woken: it writes together what it finds.
    Queue,
    /// Whoever pushes, if nothing waits and the outlet takes it; else the writer.
    Outlet,
    /// The same, but the writer is not woken: `Offered::Left` asks for `write_out`.
    OutletOrLeft,
}

/// Where payloads go that need not wait for the writer.
pub trait Outlet: Send {
    /// Writes the frame of a payload, as far as that goes at once.
    fn write(&mut self, payload: &Payload) -> Wrote;

    /// When it last wrote a frame, in milliseconds of its own clock; 0 before the first.
    fn written_ms(&self) -> u64;
}

/// How much of a frame an outlet wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    Whole,
    /// Its first bytes. Nobody else may write anything before the rest.
    Part(usize),
    Nothing,
}

/// What became of an offered payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// In the queue, or already in the socket.
    Queued,
    /// In the queue, with nobody woken: whoever pushed calls `write_out`.
    Left,
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
    /// Bytes of the first entry's frame that are in the socket already.
    pub begun: usize,
    /// Nothing is queued any more.
    pub drained: bool,
    pub close: Option<Close>,
}

/// The queue, its budget and the close flag.
pub struct Mailbox {
    state: Mutex<State>,
}

/// In this order, so that what each push looks at lies together: a send to many fetches all of it from memory.
#[repr(C)]
struct State {
    close: Option<Box<Close>>,
    /// There while a message with a key waits.
    latest: Option<Box<Latest>>,
    /// Messages that are in the socket.
    sent: u64,
    /// Bytes queued, and bytes taken but not yet in the socket.
    used: usize,
    budget: usize,
    /// None where every payload has to go by the writer.
    outlet: Option<Box<dyn Outlet>>,
    queue: Queue,
    /// Bytes of the first entry's frame that the outlet wrote.
    begun: u32,
    /// The socket is gone.
    gone: bool,
    /// The writer has something that is not in the socket yet: until then only it may write.
    is_writing: bool,
    /// Somebody will call `write_out`.
    is_left: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// An empty mailbox with a budget of `budget` bytes. Allocates nothing until the first push.
    pub fn new(budget: usize) -> Self {
        Self {
            state: Mutex::new(State {
                queue: Queue::default(),
                latest: None,
                used: 0,
                budget,
                close: None,
                gone: false,
                is_writing: false,
                is_left: false,
                begun: 0,
                waker: None,
                outlet: None,
                sent: 0,
            }),
        }
    }

    /// Payloads may pass the writer by, once it has taken what is here and has written it and what it had itself.
    pub fn set_outlet(&self, outlet: Box<dyn Outlet>) {
        let mut state = self.state.lock();
        state.outlet = Some(outlet);
        state.is_writing = true;
    }

    /// Offers a payload. Never blocks.
    pub fn push(&self, payload: Payload, receipt: impl Receipt, urgency: Urgency, way: Way) -> Offered {
        self.offer(None, payload, receipt, urgency, way)
    }

    /// Offers the newest message of a key, insistently: one with the same key that waits gives it its place.
    pub fn push_latest(&self, key: &Arc<str>, payload: Payload, receipt: impl Receipt, way: Way) -> Offered {
        self.offer(Some(key), payload, receipt, Urgency::Insistent, way)
    }

    fn offer(
        &self,
        key: Option<&Arc<str>>,
        payload: Payload,
        receipt: impl Receipt,
        urgency: Urgency,
        way: Way,
    ) -> Offered {
        // What is refused, replaced or written is dropped after the lock is free: an `on_written` runs its own code, also when dropped.
        let mut newer;
        let mut state = self.state.lock();
        if let Some(place) = key.and_then(|key| state.place(key)) {
            newer = Entry { payload, on_written: receipt.queued() };
            return state.replace(place, &mut newer);
        }
        match state.admit(cost(&payload), urgency) {
            Offered::Queued => {}
            refused => {
                if refused == Offered::Overflow {
                    state.cut();
                }
                return refused;
            }
        }
        let is_first = state.queue.is_empty();
        let wrote = if is_first && way != Way::Queue { state.write(&payload) } else { Wrote::Nothing };
        if wrote == Wrote::Whole {
            drop(state);
            receipt.written();
            return Offered::Queued;
        }
        if let Some(key) = key {
            let place = state.queue.len();
            state.latest.get_or_insert_default().note(key, place);
        }
        state.used += cost(&payload);
        let entry = Entry { payload, on_written: receipt.queued() };
        let is_left = wrote == Wrote::Nothing && way == Way::OutletOrLeft;
        if is_left && is_first {
            state.queue.push_alone(entry);
            // One who comes to write out is enough.
            return if std::mem::replace(&mut state.is_left, true) { Offered::Queued } else { Offered::Left };
        }
        state.queue.push(entry);
        if !is_left {
            state.wake();
        }
        // Else who was first was told, or has woken the writer.
        Offered::Queued
    }

    /// Writes what was left, if the outlet takes it; else wakes the writer.
    pub fn write_out(&self) {
        let mut state = self.state.lock();
        state.is_left = false;
        if state.queue.len() != 1 || !state.is_taking() {
            // The writer writes several with one call of the system.
            if !state.queue.is_empty() {
                state.wake();
            }
            return;
        }
        let only = std::mem::take(&mut state.queue);
        let Some(payload) = only.first() else { return };
        if state.write(payload) != Wrote::Whole {
            state.queue = only;
            return state.wake();
        }
        state.used = state.used.saturating_sub(cost(payload));
        state.latest = None;
        drop(state);
        only.written();
    }

    /// Asks for a close. The first one asked for counts, but a patient one gives way. False if the connection is closing or gone.
    pub fn close(&self, close: Close) -> bool {
        let mut state = self.state.lock();
        if !state.is_taking() {
            return false;
        }
        state.close = Some(Box::new(close));
        state.wake();
        true
    }

    /// Takes up to about `bytes_max` bytes, and says whether a close was asked for. `waker` is woken at the next change. Until
    /// `release` says that all is in the socket, what is taken and what the writer has beside it (`has_more`), nobody else writes.
    pub fn take(&self, waker: &Waker, bytes_max: usize, has_more: bool) -> Taken {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        let begun = if bytes_max > 0 { state.take_begun() } else { 0 };
        if state.close.as_deref() == Some(&Close::Cut) {
            let mut dropped = state.clear();
            state.is_writing = has_more || begun > 0;
            drop(state);
            dropped.truncate(usize::from(begun > 0));
            return Taken { entries: dropped, begun, drained: true, close: Some(Close::Cut) };
        }
        let entries = state.take(bytes_max);
        state.is_writing = has_more || !entries.is_empty();
        Taken { entries, begun, drained: state.queue.is_empty(), close: state.close.as_deref().cloned() }
    }

    /// Gives back the budget of payloads that the socket took. `is_done`: the writer has nothing more.
    pub fn release(&self, payload_bytes: usize, frames: usize, is_done: bool) {
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(payload_bytes + frames * FRAME_OVERHEAD_BYTES);
        state.sent += frames as u64;
        state.is_writing &= !is_done;
    }

    /// Refuses everything from now on, lets go of the outlet, and drops what is queued: the socket is gone, or its close frame is the
    /// last. What the outlet has begun is given back with the bytes of its frame that are in the socket: the rest has to follow.
    pub fn shut(&self) -> Option<(Payload, usize)> {
        let mut state = self.state.lock();
        state.gone = true;
        state.used = 0;
        state.waker = None;
        let outlet = state.outlet.take();
        let begun = state.take_begun();
        // Dropped outside the lock: an `on_written` may run its own code when dropped.
        let mut queue = state.clear();
        drop(state);
        drop(outlet);
        queue.pop_front().filter(|_| begun > 0).map(|entry| (entry.payload, begun))
    }

    /// Messages that are in the socket.
    pub fn sent(&self) -> u64 {
        self.state.lock().sent
    }

    /// When the outlet last wrote a message, in milliseconds of its clock; 0 before the first.
    pub fn written_ms(&self) -> u64 {
        self.state.lock().outlet.as_ref().map_or(0, |outlet| outlet.written_ms())
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
    /// Where a message with this key waits that may be replaced.
    fn place(&self, key: &str) -> Option<usize> {
        let place = self.latest.as_ref()?.place(key)?;
        (self.is_taking() && (place > 0 || self.begun == 0)).then_some(place)
    }

    /// Writes by the outlet, where nothing is before the payload.
    fn write(&mut self, payload: &Payload) -> Wrote {
        let Some(outlet) = self.outlet.as_mut().filter(|_| !self.is_writing && self.begun == 0) else {
            return Wrote::Nothing;
        };
        let wrote = outlet.write(payload);
        match wrote {
            Wrote::Whole => self.sent += 1,
            Wrote::Part(bytes) => self.begun = u32::try_from(bytes).unwrap_or(u32::MAX),
            Wrote::Nothing => {}
        }
        wrote
    }

    fn take_begun(&mut self) -> usize {
        std::mem::take(&mut self.begun) as usize
    }

    /// What waits at `place` gives it to the newer one, which may be larger, and is left in its stead.
    fn replace(&mut self, place: usize, newer: &mut Entry) -> Offered {
        let Some(entry) = self.queue.entries().get_mut(place) else { return Offered::Gone };
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
        self.close = Some(Box::new(Close::Cut));
        self.wake();
    }

    fn clear(&mut self) -> VecDeque<Entry> {
        self.latest = None;
        std::mem::take(&mut self.queue).into_entries()
    }

    /// A connection that finishes its answers still takes them.
    fn is_taking(&self) -> bool {
        !self.gone && matches!(self.close.as_deref(), None | Some(Close::AfterAnswers(..)))
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
        let entries = self.queue.entries();
        let count = entries
            .iter()
            .take_while(|entry| {
                let more = bytes < bytes_max;
                bytes += cost(&entry.payload);
                more
            })
            .count();
        if count == entries.len() {
            // The buffer goes along: a quiet connection holds none.
            return self.clear();
        }
        if let Some(latest) = &mut self.latest {
            latest.take(count);
        }
        entries.drain(..count).collect()
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
