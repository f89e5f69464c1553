//! The state machine of a connection, driven as its task drives it. Input: eight bytes of settings, then two bytes for each step: what
//! happens, and how much. Held against a model that knows only the rules.

use std::collections::VecDeque;

use holdfast::codes::{Cause, CloseCode};
use holdfast::message::{Ending, Payload};
use holdfast::session::Machine;
use holdfast::session::machine::{Due, Expiry, Received, Settings};

/// What each waiting message counts beside its payload.
const OVERHEAD_BYTES: usize = 64;
const STEPS_MAX: usize = 4000;
const PAYLOAD_BYTES_MAX: usize = 4 * 255;

pub fn run(data: &[u8]) {
    let Some((head, steps)) = data.split_at_checked(8) else { return };
    let mut model = Model::new(settings(head));
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
        messages_per_second: bytes.get(6).copied().filter(|byte| *byte > 0).map(u32::from),
        invalid_messages: bytes.get(7).copied().filter(|byte| *byte > 0).map(|byte| u32::from(byte) - 1),
        close_timeout_ms: 3_000,
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
    /// Messages let through since the rate last changed, and when that was.
    let_through: u64,
    rated_ms: u64,
    expiry: Option<Expiry>,
}

impl Model {
    fn new(settings: Settings) -> Self {
        Self {
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
            let_through: 0,
            rated_ms: 0,
            expiry: None,
        }
    }

    fn step(&mut self, what: u8, how_much: u8) {
        match what % 14 {
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
            12 => self.token(),
            _ => self.expire(u64::from(how_much)),
        }
    }

    fn token(&mut self) {
        let received = self.machine.on_token(self.now_ms);
        if self.came_in(received) {
            self.holds_the_rate();
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
        if self.came_in(received) {
            self.waiting.push_back((self.seq, len, self.now_ms));
            self.waiting_bytes += len + OVERHEAD_BYTES;
            self.holds_the_rate();
        }
    }

    /// True if what came in counts and is within the rate.
    fn came_in(&mut self, received: Received) -> bool {
        assert_eq!(received == Received::Ignored, self.phase > 0);
        self.seq += u64::from(self.phase == 0);
        if let Received::RateLimited { seq, retry_after_ms } = received {
            assert!(self.settings.messages_per_second.is_some(), "nothing is limited");
            assert_eq!(seq, self.seq);
            assert!((1..=1000).contains(&retry_after_ms), "{retry_after_ms} ms");
        }
        self.let_through += u64::from(received == Received::Queued);
        received == Received::Queued
    }

    /// A burst of one second's worth, and the rate from there on.
    fn holds_the_rate(&self) {
        let Some(rate) = self.settings.messages_per_second.map(u64::from) else { return };
        let step_us = 1_000_000 / rate;
        let most = (1_000_000 + (self.now_ms - self.rated_ms) * 1000) / step_us + 1;
        assert!(self.let_through <= most, "{} messages, at most {most}", self.let_through);
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
        let changed = settings(&[how, 255 - how, how, how / 2, how, how, how / 4, how]);
        // The rate counts from a change on, less the burst that was already used.
        if changed.messages_per_second != self.settings.messages_per_second {
            (self.let_through, self.rated_ms) = (0, self.now_ms);
        }
        self.settings = changed;
        self.machine.set_settings(changed);
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
