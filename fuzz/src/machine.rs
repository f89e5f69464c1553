//! The state machine of a connection, driven as its task drives it. Input: eight bytes of settings, then two bytes for each step: what
//! happens, and how much. Held against a model that knows only the rules.

use std::collections::VecDeque;

use holdfast::codes::{Cause, CloseCode};
use holdfast::limits::{Meters, Rate, Rates};
use holdfast::message::{Ending, Payload};
use holdfast::session::Machine;
use holdfast::session::machine::{Due, Expiry, Received, Settings};

/// What each waiting message counts beside its payload.
const OVERHEAD_BYTES: usize = 64;
const CONTROL_FRAMES_PER_SECOND: u32 = 100;
const STEPS_MAX: usize = 4000;
const PAYLOAD_BYTES_MAX: usize = 4 * 255;

pub fn run(data: &[u8]) {
    let Some((head, steps)) = data.split_at_checked(8) else { return };
    let mut model = Model::new(settings(head), rates(head));
    for step in steps.chunks_exact(2).take(STEPS_MAX) {
        model.step(step[0], step[1]);
        model.check();
    }
}

/// Settings from bytes, within what a configuration may say.
pub fn settings(bytes: &[u8]) -> Settings {
    let byte = |at: usize| u64::from(bytes.get(at).copied().unwrap_or_default());
    Settings {
        heartbeat_interval_ms: 10 + byte(0) * 16,
        heartbeat_timeout_ms: 10 + byte(1) * 16,
        heartbeat_misses: 1 + bytes.get(2).map_or(0, |byte| u32::from(byte % 8)),
        idle_timeout_ms: (byte(3) > 0).then(|| 10 + byte(3) * 64),
        lifetime_ms: (byte(4) > 0).then(|| 10 + byte(4) * 256),
        receive_buffer: 1 + usize::from(bytes.get(5).copied().unwrap_or_default()) * 16,
        invalid_messages: bytes.get(7).copied().filter(|byte| *byte > 0).map(|byte| u32::from(byte) - 1),
        close_timeout_ms: 3_000,
    }
}

/// Rates from bytes: of messages, with a burst of their own or without one, and of bytes.
fn rates(bytes: &[u8]) -> Rates {
    let byte = |at: usize| bytes.get(at).copied().map(u32::from).filter(|byte| *byte > 0);
    let messages = byte(6).map(|rate| Rate::new(rate, (rate % 2 == 1).then_some(rate / 4)));
    Rates { messages, bytes: byte(4).map(|rate| Rate::new(rate * 16, None)) }
}

/// A bucket that leaks, in thousandths.
struct Leaky {
    rate: Rate,
    level: u64,
    at_ms: u64,
}

impl Leaky {
    fn new(rate: Rate) -> Self {
        Self { rate, level: 0, at_ms: 0 }
    }

    /// The level as it would be, and the milliseconds until it may be.
    fn after(&self, now_ms: u64, amount: usize) -> (u64, u64) {
        let (pace, most) = (u64::from(self.rate.per_second()), u64::from(self.rate.burst()) * 1000);
        let left = self.level.saturating_sub((now_ms - self.at_ms) * pace);
        let level = left + (amount as u64 * 1000).min(most);
        (level, level.saturating_sub(most).div_ceil(pace))
    }
}

struct Model {
    machine: Machine,
    settings: Settings,
    now_ms: u64,
    waiting: VecDeque<(u64, usize, u64)>,
    waiting_bytes: usize,
    running: usize,
    window: usize,
    seq: u64,
    invalid: u32,
    /// 0 open, 1 finishing, 2 closing, 3 gone; and what it ends with.
    phase: u8,
    ending: Option<Ending>,
    /// What messages are held against: their number, their bytes.
    buckets: [Option<Leaky>; 2],
    expiry: Option<Expiry>,
    control_second: u64,
    control_frames: u32,
}

impl Model {
    fn new(settings: Settings, rates: Rates) -> Self {
        let mut model = Self {
            machine: Machine::new(settings, 0),
            settings,
            now_ms: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            running: 0,
            window: 1,
            seq: 0,
            invalid: 0,
            phase: 0,
            ending: None,
            buckets: [None, None],
            expiry: None,
            control_second: 0,
            control_frames: 0,
        };
        model.meter(rates);
        model
    }

    fn meter(&mut self, rates: Rates) {
        self.buckets = [rates.messages.map(Leaky::new), rates.bytes.map(Leaky::new)];
        let is_limited = self.buckets.iter().any(Option::is_some);
        self.machine.set_meters(is_limited.then(|| Meters::own(rates)));
    }

    fn step(&mut self, what: u8, how_much: u8) {
        match what % 15 {
            0..=2 => self.message(usize::from(how_much) * 4),
            3 => self.start(usize::from(how_much % 8) + 1),
            4 if self.running > 0 => {
                self.machine.call_finished();
                self.running -= 1;
            }
            5 => self.time_passes(u64::from(how_much) * 8),
            6 => self.until_the_deadline(),
            7 => self.machine.heard(self.now_ms),
            8 => self.machine.sent(self.now_ms),
            9 => self.invalid(),
            10 => self.end(how_much),
            11 => self.change(how_much),
            12 => {
                let received = self.machine.on_token(self.now_ms, usize::from(how_much));
                self.came_in(received, usize::from(how_much));
            }
            13 => self.expire(u64::from(how_much)),
            _ => self.control(how_much),
        }
    }

    /// Pings and pongs, one after another.
    fn control(&mut self, count: u8) {
        for _ in 0..count {
            let second = self.now_ms / 1000;
            self.control_frames = if self.control_second == second { self.control_frames + 1 } else { 1 };
            self.control_second = second;
            let ending = self.machine.on_control(self.now_ms);
            assert_eq!(ending.is_some(), self.control_frames > CONTROL_FRAMES_PER_SECOND);
            if let Some(ending) = ending {
                self.close(ending);
            }
        }
    }

    /// A token came that ends, or that does not.
    fn expire(&mut self, how: u64) {
        let ends_ms = self.now_ms + how * 16;
        let expiry = (how > 0).then(|| Expiry { ends_ms, warn_ms: (how % 2 == 1).then_some(ends_ms - how * 4) });
        self.machine.set_expiry(expiry);
        self.expiry = expiry;
    }

    fn message(&mut self, len: usize) {
        // The task reads on only where it is wanted, or while it waits for the peer's close.
        if !self.machine.wants_messages() && self.phase == 0 {
            return;
        }
        let received = self.machine.on_message(self.now_ms, Payload::text("x".repeat(len)));
        if self.came_in(received, len) {
            self.waiting.push_back((self.seq, len, self.now_ms));
            self.waiting_bytes += len + OVERHEAD_BYTES;
        }
    }

    /// True if what came in counts and is within the rates.
    fn came_in(&mut self, received: Received, bytes: usize) -> bool {
        if self.phase > 0 {
            assert_eq!(received, Received::Ignored);
            return false;
        }
        self.seq += 1;
        let now_ms = self.now_ms;
        let waits = self
            .buckets
            .iter()
            .zip([1, bytes])
            .flat_map(|(bucket, amount)| Some(bucket.as_ref()?.after(now_ms, amount).1));
        let wait_ms = waits.max().unwrap_or_default();
        if let Received::Limited { seq, excess } = received {
            assert_eq!((seq, excess.retry_after_ms), (self.seq, wait_ms), "refused for as long as it has to be");
            assert!(wait_ms > 0);
            return false;
        }
        assert_eq!((received, wait_ms), (Received::Queued, 0), "over a rate");
        for (bucket, amount) in self.buckets.iter_mut().zip([1, bytes]) {
            if let Some(bucket) = bucket {
                (bucket.level, bucket.at_ms) = (bucket.after(now_ms, amount).0, now_ms);
            }
        }
        true
    }

    fn start(&mut self, window: usize) {
        let free = self.running == 0 || self.running < self.window;
        let next = self.machine.next_message(self.now_ms);
        assert_eq!(next.is_some(), free && !self.waiting.is_empty());
        let Some(next) = next else { return };
        let (seq, len, received_ms) = self.waiting.pop_front().expect("a message");
        assert_eq!((next.seq, next.payload.len(), next.received_ms), (seq, len, received_ms), "in order");
        self.waiting_bytes -= len + OVERHEAD_BYTES;
        self.machine.call_started(window);
        self.running += 1;
        self.window = window;
    }

    fn time_passes(&mut self, ms: u64) {
        let before = self.machine.next_deadline_ms();
        self.now_ms += ms;
        if before.is_none_or(|deadline| self.now_ms < deadline) {
            // The last word of a deadline is the machine's own: nothing is due before it.
            assert_eq!(self.machine.on_time(self.now_ms), Due::Nothing, "{before:?} at {}", self.now_ms);
        } else {
            self.on_time();
        }
    }

    fn until_the_deadline(&mut self) {
        let Some(deadline) = self.machine.next_deadline_ms() else { return };
        self.now_ms = self.now_ms.max(deadline);
        self.on_time();
    }

    /// Asks until nothing is due, as the task's alarm does; that ends soon, and the next deadline is later.
    fn on_time(&mut self) {
        for _ in 0..5 {
            match self.machine.on_time(self.now_ms) {
                Due::Nothing => {
                    let next = self.machine.next_deadline_ms();
                    assert!(next.is_none_or(|next| next > self.now_ms), "{next:?} at {}", self.now_ms);
                    return;
                }
                Due::Ping => assert_eq!(self.phase, 0),
                Due::TokenEnding { left_ms } => {
                    let expiry = self.expiry.as_mut().expect("a token that ends");
                    assert!(expiry.warn_ms.take().is_some_and(|warn_ms| warn_ms <= self.now_ms), "said once, when due");
                    assert_eq!((self.phase, self.now_ms + left_ms), (0, expiry.ends_ms));
                }
                Due::Close(ending) => {
                    assert!(self.phase < 2, "a close that is under way");
                    if ending.code == CloseCode::TOKEN_EXPIRED {
                        assert!(self.expiry.is_some_and(|expiry| expiry.ends_ms <= self.now_ms));
                    }
                    self.close(ending);
                }
                Due::GiveUp => {
                    assert_eq!(self.phase, 2);
                    self.gone();
                }
            }
        }
        panic!("always something due at {}", self.now_ms);
    }

    fn invalid(&mut self) {
        self.invalid += 1;
        let expected = self.settings.invalid_messages.is_some_and(|most| self.invalid > most);
        let ending = self.machine.on_invalid();
        assert_eq!(ending.is_some(), expected, "{} invalid messages", self.invalid);
        if let Some(ending) = ending {
            self.close(ending);
        }
    }

    fn end(&mut self, how: u8) {
        let reason = format!("ending {how}");
        match how % 4 {
            0 => {
                let ending = Ending::new(CloseCode::DRAIN, reason, Cause::Drain);
                self.machine.finish(self.now_ms, ending.clone(), u64::from(how) * 4);
                if self.phase == 0 {
                    (self.phase, self.ending) = (1, Some(ending));
                }
            }
            1 => self.close(Ending::new(CloseCode::APPLICATION, reason, Cause::Server)),
            2 => {
                let finished = self.machine.finished().cloned();
                let expected =
                    (self.phase == 1 && self.waiting.is_empty() && self.running == 0).then_some(&self.ending);
                assert_eq!(finished.as_ref(), expected.and_then(Option::as_ref));
                if let Some(ending) = finished {
                    self.close(ending);
                }
            }
            _ => self.gone(),
        }
    }

    fn close(&mut self, ending: Ending) {
        self.machine.close(self.now_ms, ending.clone());
        if self.phase < 2 {
            (self.phase, self.ending) = (2, Some(ending));
        }
    }

    fn gone(&mut self) {
        let ending = Ending::new(CloseCode::ABNORMAL, format!("gone in phase {}", self.phase), Cause::Client);
        self.machine.gone(ending.clone());
        if self.phase < 2 {
            self.ending = Some(ending);
        }
        self.phase = 3;
    }

    fn change(&mut self, how: u8) {
        let bytes = [how, 255 - how, how, how / 2, how, how, how / 4, how];
        let changed = settings(&bytes);
        self.settings = changed;
        self.machine.set_settings(changed);
        self.meter(rates(&bytes));
    }

    fn check(&self) {
        let machine = &self.machine;
        assert_eq!((machine.seq(), machine.running()), (self.seq, self.running));
        assert_eq!(machine.waiting_bytes(), self.waiting_bytes);
        assert_eq!(machine.is_quiet(), self.running == 0 && self.waiting.is_empty());
        assert_eq!((machine.is_serving(), machine.is_gone()), (self.phase < 2, self.phase == 3));
        assert_eq!(machine.wants_messages(), self.phase == 0 && self.waiting_bytes < self.settings.receive_buffer);
        assert_eq!(machine.next_deadline_ms().is_none(), self.phase == 3);
        let has_ended =
            self.expiry.is_some_and(|expiry| machine.next_deadline_ms().is_some_and(|next| next > expiry.ends_ms));
        assert!(self.phase > 0 || !has_ended, "an end that is slept through");
        assert!(self.waiting_bytes <= 255 * 16 + PAYLOAD_BYTES_MAX + OVERHEAD_BYTES, "read ahead too far");
        match &self.ending {
            Some(ending) => assert_eq!(&machine.ending(), ending, "the first ending counts"),
            None => assert_eq!(machine.ending().code, CloseCode::ABNORMAL),
        }
    }
}
