//! The state machine of a connection: order, window, heartbeat, limits, phases. Time is an argument, in milliseconds of any
//! clock that never goes back. Knows messages; must not know sockets, a clock or tokio.

use std::collections::VecDeque;

use crate::codes::{Cause, CloseCode};
use crate::limits::{Excess, Meters};
use crate::message::{Ending, Payload};

/// What the machine is held to. All of it may change while the connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which a ping is sent.
    pub heartbeat_interval_ms: u64,
    /// How long a ping may stay without any byte.
    pub heartbeat_timeout_ms: u64,
    pub heartbeat_misses: u32,
    /// Time without a message in either direction.
    pub idle_timeout_ms: Option<u64>,
    pub lifetime_ms: Option<u64>,
    /// Bytes of messages that may wait for their call before the socket is no longer read.
    pub receive_buffer: usize,
    /// Refused messages after which the connection is closed.
    pub invalid_messages: Option<u32>,
    /// How long a close handshake may take.
    pub close_timeout_ms: u64,
}

/// When the client's token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    pub ends_ms: u64,
    /// When the client is told; none once it was, or where it need not be.
    pub warn_ms: Option<u64>,
}

/// What each waiting message counts beside its payload, in bytes, so that `receive_buffer` bounds their number too.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// Pings and pongs of the client that are taken in one second. Who keeps a connection alive needs one in many seconds.
const CONTROL_FRAMES_PER_SECOND: u32 = 100;

/// A message that was accepted and waits for its call.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub seq: u64,
    pub payload: Payload,
    pub received_ms: u64,
}

/// Where a connection stands. It only ever moves down this list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is read; at the end of the accepted messages, or at this time, the close begins.
    Finishing {
        ending: Ending,
        until_ms: u64,
    },
    /// The close handshake is under way; at this time the socket is given up.
    Closing {
        ending: Ending,
        until_ms: u64,
    },
    /// The socket is gone. Accepted messages are still delivered.
    Gone {
        ending: Ending,
    },
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Queued,
    /// Over a rate: refused, with the time after which the next one will be taken.
    Limited {
        seq: u64,
        excess: Excess,
    },
    /// The connection is closing: what still arrives does not count.
    Ignored,
}

/// What the time asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    Nothing,
    Ping,
    /// The client's token ends in so many milliseconds: it is to be told.
    TokenEnding {
        left_ms: u64,
    },
    /// The connection has to close.
    Close(Ending),
    /// The close handshake took too long: give the socket up.
    GiveUp,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    phase: Phase,
    opened_ms: u64,
    /// When the last byte came in.
    heard_ms: u64,
    /// When the last message came in or went out.
    active_ms: u64,
    /// When the last unanswered ping was sent, and how many before it were missed.
    ping: Option<(u64, u32)>,
    seq: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Calls under way, and how many their route allows at once.
    running: usize,
    window: usize,
    invalid: u32,
    /// The second in which control frames are counted, and how many there were.
    control: (u32, u32),
    /// What messages are held against; none where nothing is limited, and once the socket is gone.
    meters: Option<Box<Meters>>,
    /// Boxed: most connections have none.
    expiry: Option<Box<Expiry>>,
}

impl Machine {
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        Self {
            settings,
            phase: Phase::Open,
            opened_ms: now_ms,
            heard_ms: now_ms,
            active_ms: now_ms,
            ping: None,
            seq: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            running: 0,
            window: 1,
            invalid: 0,
            control: (0, 0),
            meters: None,
            expiry: None,
        }
    }

    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// A token came that ends, or does not.
    pub fn set_expiry(&mut self, expiry: Option<Expiry>) {
        self.expiry = expiry.map(Box::new);
    }

    pub fn set_meters(&mut self, meters: Option<Box<Meters>>) {
        self.meters = meters;
    }

    pub fn take_meters(&mut self) -> Option<Box<Meters>> {
        self.meters.take()
    }

    /// Some bytes came in, whatever they mean.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
        self.ping = None;
    }

    /// A message went out, at this time or before.
    pub fn sent(&mut self, at_ms: u64) {
        self.active_ms = self.active_ms.max(at_ms);
    }

    /// A whole message came in.
    pub fn on_message(&mut self, now_ms: u64, payload: Payload) -> Received {
        let received = self.on_token(now_ms, payload.len());
        if received != Received::Queued {
            return received;
        }
        self.waiting_bytes += cost(&payload);
        self.waiting.push_back(Waiting { seq: self.seq, payload, received_ms: now_ms });
        Received::Queued
    }

    /// A message came in that brings a token: it counts as one, but waits for nothing.
    pub fn on_token(&mut self, now_ms: u64, bytes: usize) -> Received {
        if self.phase != Phase::Open {
            return Received::Ignored;
        }
        self.seq += 1;
        self.active_ms = now_ms;
        match self.meters.as_mut().map(|meters| meters.admit(now_ms, bytes)) {
            Some(Err(excess)) => Received::Limited { seq: self.seq, excess },
            _ => Received::Queued,
        }
    }

    /// True while the socket should be read for messages.
    pub fn wants_messages(&self) -> bool {
        self.phase == Phase::Open && self.waiting_bytes < self.settings.receive_buffer
    }

    /// The next message whose call may start, if any. With calls under way it may start only beside calls of its own route,
    /// which the caller checks, and within the window.
    pub fn next_message(&mut self, now_ms: u64) -> Option<Waiting> {
        if self.running > 0 && self.running >= self.window {
            return None;
        }
        let blocked = !self.wants_messages();
        let next = self.waiting.pop_front()?;
        self.waiting_bytes -= cost(&next.payload);
        if self.waiting.is_empty() {
            // A quiet connection holds no buffer.
            self.waiting = VecDeque::new();
        }
        if blocked && self.wants_messages() {
            // Silence while nobody listened does not count.
            self.heard(now_ms);
        }
        Some(next)
    }

    /// A call began; its route allows `window` at once.
    pub fn call_started(&mut self, window: usize) {
        self.running += 1;
        self.window = window;
    }

    pub fn call_finished(&mut self) {
        self.running -= 1;
    }

    /// A message was refused for what it said. The ending, if it was one too many.
    pub fn on_invalid(&mut self) -> Option<Ending> {
        self.invalid += 1;
        let most = self.settings.invalid_messages?;
        (self.invalid > most).then(|| Ending::new(CloseCode::ABUSE, "too many invalid messages", Cause::Server))
    }

    /// A ping or a pong came in. The ending, if it was one too many.
    pub fn on_control(&mut self, now_ms: u64) -> Option<Ending> {
        let second = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let (counted, count) = self.control;
        self.control = (second, if counted == second { count.saturating_add(1) } else { 1 });
        (self.control.1 > CONTROL_FRAMES_PER_SECOND)
            .then(|| Ending::new(CloseCode::ABUSE, "too many pings and pongs", Cause::Server))
    }

    /// What the time asks for. Call again until nothing is due.
    pub fn on_time(&mut self, now_ms: u64) -> Due {
        match &self.phase {
            Phase::Open => self.on_time_open(now_ms),
            Phase::Finishing { ending, until_ms } if now_ms >= *until_ms => Due::Close(ending.clone()),
            Phase::Closing { until_ms, .. } if now_ms >= *until_ms => Due::GiveUp,
            _ => Due::Nothing,
        }
    }

    /// When `on_time` should be asked next; none when only other things can happen.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        match &self.phase {
            Phase::Open => Some(self.open_deadline_ms()),
            Phase::Finishing { until_ms, .. } | Phase::Closing { until_ms, .. } => Some(*until_ms),
            Phase::Gone { .. } => None,
        }
    }

    /// Stops reading; the close begins once everything accepted is answered.
    pub fn finish(&mut self, now_ms: u64, ending: Ending, within_ms: u64) {
        if self.phase == Phase::Open {
            self.phase = Phase::Finishing { ending, until_ms: now_ms.saturating_add(within_ms) };
        }
    }

    /// The ending with which to begin the close, once a finishing connection has answered everything.
    pub fn finished(&self) -> Option<&Ending> {
        match &self.phase {
            Phase::Finishing { ending, .. } if self.is_quiet() => Some(ending),
            _ => None,
        }
    }

    /// The close handshake begins.
    pub fn close(&mut self, now_ms: u64, ending: Ending) {
        if self.is_serving() {
            self.phase = Phase::Closing { ending, until_ms: now_ms + self.settings.close_timeout_ms };
        }
    }

    /// The socket is gone. `ending` says why, unless a close was under way, whose own ending counts.
    pub fn gone(&mut self, ending: Ending) {
        self.meters = None;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Open | Phase::Finishing { .. } => Phase::Gone { ending },
            Phase::Closing { ending, .. } | Phase::Gone { ending } => Phase::Gone { ending },
        };
    }

    /// Open, or finishing: frames may still be written.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Finishing { .. })
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone { .. })
    }

    /// Everything accepted has been answered.
    pub fn is_quiet(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }

    /// How the connection ended; before that, how it would.
    pub fn ending(&self) -> Ending {
        match &self.phase {
            Phase::Open => Ending::new(CloseCode::ABNORMAL, "", Cause::Error),
            Phase::Finishing { ending, .. } | Phase::Closing { ending, .. } | Phase::Gone { ending } => ending.clone(),
        }
    }

    /// The number of the last message that came in.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    pub fn running(&self) -> usize {
        self.running
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    fn on_time_open(&mut self, now_ms: u64) -> Due {
        if self.settings.lifetime_ms.is_some_and(|most| now_ms >= self.opened_ms.saturating_add(most)) {
            return Due::Close(Ending::new(CloseCode::LIFETIME, "lifetime reached", Cause::Expired));
        }
        if let Some(due) = self.on_expiry(now_ms) {
            return due;
        }
        let busy = !self.is_quiet();
        if busy {
            self.active_ms = now_ms;
        }
        if self.settings.idle_timeout_ms.is_some_and(|most| now_ms >= self.active_ms.saturating_add(most)) {
            return Due::Close(Ending::new(CloseCode::IDLE, "idle", Cause::Idle));
        }
        if !self.wants_messages() {
            // A socket that is not read cannot fail its heartbeat.
            self.heard(now_ms);
            return Due::Nothing;
        }
        self.on_heartbeat(now_ms)
    }

    fn on_expiry(&mut self, now_ms: u64) -> Option<Due> {
        let expiry = self.expiry.as_mut()?;
        if now_ms >= expiry.ends_ms {
            return Some(Due::Close(Ending::new(CloseCode::TOKEN_EXPIRED, "token expired", Cause::Expired)));
        }
        expiry.warn_ms.take_if(|warn_ms| now_ms >= *warn_ms)?;
        Some(Due::TokenEnding { left_ms: expiry.ends_ms - now_ms })
    }

    fn on_heartbeat(&mut self, now_ms: u64) -> Due {
        if now_ms < self.heartbeat_deadline_ms() {
            return Due::Nothing;
        }
        let missed = self.ping.map_or(0, |(_, missed)| missed + 1);
        if missed >= self.settings.heartbeat_misses.max(1) {
            return Due::Close(Ending::new(CloseCode::HEARTBEAT, "heartbeat missed", Cause::Heartbeat));
        }
        self.ping = Some((now_ms, missed));
        Due::Ping
    }

    fn heartbeat_deadline_ms(&self) -> u64 {
        match self.ping {
            Some((sent_ms, _)) => sent_ms + self.settings.heartbeat_timeout_ms,
            None => self.heard_ms + self.settings.heartbeat_interval_ms,
        }
    }

    fn open_deadline_ms(&self) -> u64 {
        let idle = self.settings.idle_timeout_ms.map_or(u64::MAX, |most| self.active_ms.saturating_add(most));
        let lifetime = self.settings.lifetime_ms.map_or(u64::MAX, |most| self.opened_ms.saturating_add(most));
        let expiry = self.expiry.as_ref().map_or(u64::MAX, |expiry| expiry.warn_ms.unwrap_or(expiry.ends_ms));
        self.heartbeat_deadline_ms().min(idle).min(lifetime).min(expiry)
    }
}

fn cost(payload: &Payload) -> usize {
    payload.len() + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
