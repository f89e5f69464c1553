//! Two may write to one socket: whoever pushes, by the outlet, and the writer. Whatever the order, no frame is torn, none overtakes
//! another, and a receipt is given for no byte that is not in the socket.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

/// What the peer has, and how much more it takes at once.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    room: usize,
}

impl Wire {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room);
        self.bytes.extend_from_slice(&bytes[..count]);
        self.room -= count;
        count
    }

    fn frames(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        text.split_inclusive('|').filter(|frame| frame.ends_with('|')).map(str::to_owned).collect()
    }
}

struct Pipe(Arc<Mutex<Wire>>);

impl Outlet for Pipe {
    fn write(&mut self, payload: &Payload) -> Wrote {
        let frame = frame(payload);
        match self.0.lock().take(&frame) {
            0 => Wrote::Nothing,
            count if count == frame.len() => Wrote::Whole,
            count => Wrote::Part(count),
        }
    }

    fn written_ms(&self) -> u64 {
        0
    }
}

fn frame(payload: &Payload) -> Vec<u8> {
    [&payload.bytes()[..], b"|"].concat()
}

/// As a session writes.
struct Writer {
    wire: Arc<Mutex<Wire>>,
    out: VecDeque<(Vec<u8>, Option<Entry>)>,
    offset: usize,
}

impl Writer {
    fn ping(&mut self) {
        let begun = usize::from(self.offset > 0);
        self.out.insert(begun, (b"ping|".to_vec(), None));
    }

    fn turn(&mut self, mailbox: &Mailbox) {
        let is_idle = self.out.iter().all(|(_, entry)| entry.is_none());
        let mut taken = mailbox.take(Waker::noop(), if is_idle { 200 } else { 0 }, !self.out.is_empty());
        if taken.begun > 0 {
            assert_eq!(self.offset, 0, "two frames were begun");
            let entry = taken.entries.pop_front().expect("the entry that was begun");
            self.out.push_front((frame(&entry.payload), Some(entry)));
            self.offset = taken.begun;
        }
        self.out.extend(taken.entries.into_iter().map(|entry| (frame(&entry.payload), Some(entry))));
        let (was_writing, mut bytes, mut frames) = (!self.out.is_empty(), 0, 0);
        while let Some((front, _)) = self.out.front() {
            self.offset += self.wire.lock().take(&front[self.offset..]);
            if self.offset < front.len() {
                break;
            }
            self.offset = 0;
            if let Some((_, Some(entry))) = self.out.pop_front() {
                bytes += entry.payload.len();
                frames += 1;
                entry.written();
            }
        }
        let is_done = self.out.is_empty();
        if frames > 0 || (was_writing && is_done) {
            mailbox.release(bytes, frames, is_done);
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Push(Way),
    WriteOut,
    Ping,
    Turn,
}

fn act() -> impl Strategy<Value = (Act, usize)> {
    let way = prop_oneof![Just(Way::Queue), Just(Way::Outlet), Just(Way::OutletOrLeft)];
    let act =
        prop_oneof![4 => way.prop_map(Act::Push), 2 => Just(Act::WriteOut), 1 => Just(Act::Ping), 2 => Just(Act::Turn)];
    (act, prop_oneof![1 => Just(0_usize), 2 => 1_usize..20, 2 => Just(1000)])
}

proptest! {
    #[test]
    fn two_writers_tear_no_frame(acts in prop::collection::vec(act(), 1..100)) {
        let wire = Arc::new(Mutex::new(Wire::default()));
        let mailbox = Mailbox::new(1 << 20);
        mailbox.set_outlet(Box::new(Pipe(wire.clone())));
        let mut writer = Writer { wire: wire.clone(), out: VecDeque::new(), offset: 0 };
        let written = Arc::new(AtomicUsize::new(0));
        let (mut pushed, mut pings) = (Vec::new(), 0);
        let last = [(Act::Turn, usize::MAX), (Act::Turn, usize::MAX)];
        for (act, room) in acts.into_iter().chain(std::iter::repeat_n(last, 10).flatten()) {
            wire.lock().room = room;
            match act {
                Act::Push(way) => {
                    let text = format!("{}{}", pushed.len(), "-".repeat(pushed.len() % 7));
                    pushed.push(format!("{text}|"));
                    let written = written.clone();
                    let on_written: OnWritten = Box::new(move || _ = written.fetch_add(1, Ordering::SeqCst));
                    let offered = mailbox.push(Payload::text(text), Some(on_written), Urgency::Insistent, way);
                    prop_assert!(matches!(offered, Offered::Queued | Offered::Left));
                }
                Act::WriteOut => mailbox.write_out(),
                Act::Ping => {
                    writer.ping();
                    pings += 1;
                }
                Act::Turn => writer.turn(&mailbox),
            }
            let frames = wire.lock().frames();
            let messages: Vec<_> = frames.into_iter().filter(|frame| frame != "ping|").collect();
            prop_assert_eq!(&messages[..], &pushed[..messages.len()]);
            prop_assert_eq!(written.load(Ordering::SeqCst), messages.len());
            prop_assert_eq!(mailbox.sent(), messages.len() as u64);
        }
        prop_assert_eq!(wire.lock().frames().len(), pushed.len() + pings);
        prop_assert_eq!(mailbox.used_bytes(), 0);
    }
}

/// An outlet over a wire that takes `room` bytes, behind a writer that has nothing to write.
fn direct(budget: usize, room: usize) -> (Mailbox, Arc<Mutex<Wire>>) {
    let wire = Arc::new(Mutex::new(Wire { bytes: Vec::new(), room }));
    let mailbox = Mailbox::new(budget);
    mailbox.set_outlet(Box::new(Pipe(wire.clone())));
    (mailbox, wire)
}

#[test]
fn nothing_passes_the_writer_by_before_its_first_turn() {
    let (mailbox, wire) = direct(1000, 1000);
    assert_eq!(mailbox.push(text(1), None, Urgency::Polite, Way::Outlet), Offered::Queued);
    assert!(wire.lock().bytes.is_empty(), "it may have begun something");
    assert_eq!(take(&mailbox).entries.len(), 1);
    mailbox.release(1, 1, true);
    mailbox.push(text(1), None, Urgency::Polite, Way::Outlet);
    assert_eq!((&wire.lock().bytes[..], mailbox.used_bytes()), (&b"x|"[..], 0));
}

#[test]
fn what_is_begun_goes_on_whatever_ends_the_connection() {
    let begun = || {
        let (mailbox, wire) = direct(1000, 3);
        take(&mailbox);
        assert_eq!(mailbox.push(text(5), None, Urgency::Insistent, Way::Outlet), Offered::Queued);
        assert_eq!(wire.lock().bytes, b"xxx");
        mailbox
    };
    let cut = begun();
    assert_eq!(cut.push(text(900), None, Urgency::Insistent, Way::Outlet), Offered::Overflow);
    let taken = take(&cut);
    assert_eq!((taken.entries.len(), taken.begun, taken.close), (1, 3, Some(Close::Cut)));
    let shut = begun();
    shut.push(text(1), None, Urgency::Insistent, Way::Queue);
    assert_eq!(shut.shut(), Some((text(5), 3)));
    assert_eq!(shut.shut(), None);
}

#[test]
fn what_is_begun_is_not_replaced_by_a_newer_one_of_its_key() {
    let (mailbox, _wire) = direct(1000, 2);
    take(&mailbox);
    let key = "a".into();
    assert_eq!(mailbox.push_latest(&key, Payload::text("older"), None, Way::Outlet), Offered::Queued);
    assert_eq!(mailbox.push_latest(&key, Payload::text("newer"), None, Way::Outlet), Offered::Queued);
    assert_eq!(mailbox.push_latest(&key, Payload::text("newest"), None, Way::Outlet), Offered::Replaced);
    let words: Vec<_> = take(&mailbox).entries.iter().map(|e| e.payload.bytes().clone()).collect();
    assert_eq!(words, ["older", "newest"]);
}

#[test]
fn what_took_the_place_of_what_was_left_is_written_out_as_that_would_be() {
    let (mailbox, wire) = direct(1000, 0);
    take(&mailbox);
    let key: Arc<str> = "k".into();
    let push = |text: &str| mailbox.push_latest(&key, Payload::text(text), None, Way::OutletOrLeft);
    assert_eq!((push("older"), push("newer")), (Offered::Left, Offered::Replaced));
    wire.lock().room = 1000;
    mailbox.write_out();
    assert_eq!(wire.lock().bytes, b"newer|");
    assert_eq!(mailbox.used_bytes(), 0);
    wire.lock().room = 0;
    assert_eq!(push("later"), Offered::Left, "nothing is left to be replaced");
}

#[test]
fn after_a_close_nothing_is_written_past_the_writer() {
    let (mailbox, wire) = direct(1000, 1000);
    take(&mailbox);
    mailbox.push(text(1), None, Urgency::Insistent, Way::Queue);
    assert!(mailbox.close(bye()));
    mailbox.write_out();
    assert!(wire.lock().bytes.is_empty(), "the writer has been woken and may be at it");
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Outlet), Offered::Gone);
}

#[test]
fn a_mailbox_is_left_to_one_alone() {
    let (mailbox, wire) = direct(1000, 0);
    take(&mailbox);
    let push = || mailbox.push(text(1), None, Urgency::Insistent, Way::OutletOrLeft);
    assert_eq!((push(), push()), (Offered::Left, Offered::Queued));
    // The writer comes for a reason of its own; whoever was told is still to come.
    assert_eq!(take(&mailbox).entries.len(), 2);
    mailbox.release(2, 2, true);
    assert_eq!(push(), Offered::Queued);
    wire.lock().room = 1000;
    mailbox.write_out();
    assert_eq!(wire.lock().bytes, b"x|");
    wire.lock().room = 0;
    assert_eq!(push(), Offered::Left);
}
