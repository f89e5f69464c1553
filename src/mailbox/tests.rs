mod outlet;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::codes::{Cause, CloseCode};

fn bye() -> Close {
    Close::AfterQueued(Ending::new(CloseCode::APPLICATION, "bye", Cause::Server))
}

fn take(mailbox: &Mailbox) -> Taken {
    mailbox.take(Waker::noop(), usize::MAX, false)
}

fn text(len: usize) -> Payload {
    Payload::text("x".repeat(len))
}

#[test]
fn what_is_pushed_is_taken_in_order_and_the_budget_returns() {
    let mailbox = Mailbox::new(1000);
    for word in ["a", "b"] {
        assert_eq!(mailbox.push(Payload::text(word), None, Urgency::Insistent, Way::Queue), Offered::Queued);
    }
    let words: Vec<_> = take(&mailbox).entries.iter().map(|e| e.payload.bytes().clone()).collect();
    assert_eq!(words, ["a", "b"]);
    assert_eq!(mailbox.used_bytes(), 2 + 2 * FRAME_OVERHEAD_BYTES, "taken is not yet written");
    mailbox.release(2, 2, true);
    assert_eq!(mailbox.used_bytes(), 0);
    assert!(take(&mailbox).entries.is_empty());
}

#[test]
fn over_half_a_polite_push_is_refused_and_an_insistent_one_is_not() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(mailbox.push(text(500), None, Urgency::Polite, Way::Queue), Offered::Queued);
    assert_eq!(mailbox.push(text(1), None, Urgency::Polite, Way::Queue), Offered::Full);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Queue), Offered::Queued);
}

#[test]
fn over_the_budget_the_client_is_cut_and_the_pusher_is_told() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(mailbox.push(text(900), None, Urgency::Insistent, Way::Queue), Offered::Queued);
    assert_eq!(mailbox.push(text(100), None, Urgency::Insistent, Way::Queue), Offered::Overflow);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Queue), Offered::Gone);
    let taken = take(&mailbox);
    assert_eq!((taken.entries.len(), taken.drained, taken.close), (0, true, Some(Close::Cut)));
}

#[test]
fn a_payload_larger_than_the_budget_cuts_nobody() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(mailbox.push(text(1000), None, Urgency::Insistent, Way::Queue), Offered::TooLarge);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Queue), Offered::Queued);
}

#[test]
fn a_full_mailbox_takes_a_close_and_writes_what_is_queued_first() {
    let mailbox = Mailbox::new(1000);
    mailbox.push(text(930), None, Urgency::Insistent, Way::Queue);
    assert!(mailbox.close(bye()));
    assert!(!mailbox.close(Close::Cut), "the first close counts");
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Queue), Offered::Gone);
    let busy = mailbox.take(Waker::noop(), 0, false);
    assert_eq!((busy.entries.len(), busy.drained, busy.close), (0, false, Some(bye())), "a busy writer hears of it");
    let taken = take(&mailbox);
    assert_eq!((taken.entries.len(), taken.drained, taken.close), (1, true, Some(bye())));
}

#[test]
fn answers_are_taken_while_a_connection_finishes() {
    let mailbox = Mailbox::new(1000);
    assert!(mailbox.close(Close::AfterAnswers(Ending::new(CloseCode::DRAIN, "bye", Cause::Drain), 5)));
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Queue), Offered::Queued);
}

#[test]
fn a_batch_is_bounded() {
    let mailbox = Mailbox::new(10_000);
    for _ in 0..10 {
        mailbox.push(text(100), None, Urgency::Insistent, Way::Queue);
    }
    let taken = mailbox.take(Waker::noop(), 250, false);
    assert_eq!((taken.entries.len(), taken.drained), (2, false));
}

#[test]
fn a_shut_mailbox_drops_what_it_holds_uncalled() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let mailbox = Mailbox::new(1000);
    let witness = Dropped(drops.clone());
    let on_written: OnWritten = Box::new(move || std::mem::forget(witness));
    mailbox.push(text(1), Some(on_written), Urgency::Polite, Way::Queue);
    mailbox.shut();
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent, Way::Queue), Offered::Gone);
    assert_eq!(mailbox.used_bytes(), 0);
}

#[test]
fn a_push_wakes_the_writer() {
    struct Flag(AtomicUsize);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let flag = Arc::new(Flag(AtomicUsize::new(0)));
    let waker = Waker::from(flag.clone());
    let mailbox = Mailbox::new(1000);
    assert!(mailbox.take(&waker, 1, false).entries.is_empty());
    mailbox.push(text(1), None, Urgency::Polite, Way::Queue);
    mailbox.push(text(1), None, Urgency::Polite, Way::Queue);
    assert_eq!(flag.0.load(Ordering::SeqCst), 1, "one wake for a run of pushes");
}

#[test]
fn the_newest_of_a_key_takes_the_older_one_s_place() {
    let mailbox = Mailbox::new(1000);
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    assert_eq!(mailbox.push_latest(&a, Payload::text("a1"), None, Way::Queue), Offered::Queued);
    mailbox.push(Payload::text("plain"), None, Urgency::Insistent, Way::Queue);
    assert_eq!(mailbox.push_latest(&b, Payload::text("b1"), None, Way::Queue), Offered::Queued);
    assert_eq!(mailbox.push_latest(&a, Payload::text("a2 is longer"), None, Way::Queue), Offered::Replaced);
    assert_eq!(mailbox.used_bytes(), 12 + 5 + 2 + 3 * FRAME_OVERHEAD_BYTES);
    let words: Vec<_> = take(&mailbox).entries.iter().map(|e| e.payload.bytes().clone()).collect();
    assert_eq!(words, ["a2 is longer", "plain", "b1"]);
    assert_eq!(
        mailbox.push_latest(&a, Payload::text("a3"), None, Way::Queue),
        Offered::Queued,
        "what was taken cannot be replaced"
    );
}

#[test]
fn the_newest_is_held_to_the_budget() {
    let mailbox = Mailbox::new(1000);
    let key: Arc<str> = "a".into();
    mailbox.push(text(500), None, Urgency::Insistent, Way::Queue);
    assert_eq!(mailbox.push_latest(&key, text(100), None, Way::Queue), Offered::Queued);
    assert_eq!(mailbox.push_latest(&key, text(1000), None, Way::Queue), Offered::TooLarge);
    for len in [300, 1, 372] {
        assert_eq!(mailbox.push_latest(&key, text(len), None, Way::Queue), Offered::Replaced);
    }
    assert_eq!(mailbox.push_latest(&key, text(373), None, Way::Queue), Offered::Overflow);
    assert_eq!(mailbox.push_latest(&key, text(1), None, Way::Queue), Offered::Gone);
    assert_eq!(take(&mailbox).close, Some(Close::Cut));
}

/// A message with a key, or without one; or the writer takes some.
#[derive(Debug, Clone)]
enum Step {
    Push(Option<u8>),
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::option::weighted(0.7, 0_u8..5).prop_map(Step::Push),
        1 => (1_usize..600).prop_map(Step::Take),
    ]
}

proptest! {
    #[test]
    fn a_queue_with_keys_is_what_a_list_would_be(steps in prop::collection::vec(step(), 1..200)) {
        let mailbox = Mailbox::new(1 << 20);
        let mut model: Vec<(Option<u8>, String)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(None) => {
                    mailbox.push(Payload::text(number.to_string()), None, Urgency::Insistent, Way::Queue);
                    model.push((None, number.to_string()));
                }
                Step::Push(Some(key)) => {
                    let offered = mailbox.push_latest(&key.to_string().into(), Payload::text(number.to_string()), None, Way::Queue);
                    let waiting = model.iter_mut().find(|(waiting, _)| *waiting == Some(key));
                    prop_assert_eq!(offered == Offered::Replaced, waiting.is_some());
                    match waiting {
                        Some((_, text)) => *text = number.to_string(),
                        None => model.push((Some(key), number.to_string())),
                    }
                }
                Step::Take(bytes) => {
                    let entries = mailbox.take(Waker::noop(), bytes, false).entries;
                    let taken: Vec<_> = model.drain(..entries.len()).map(|(_, text)| text).collect();
                    let words: Vec<_> = entries.iter().map(|entry| entry.payload.bytes().clone()).collect();
                    prop_assert_eq!(&words, &taken);
                    mailbox.release(taken.iter().map(String::len).sum(), taken.len(), true);
                }
            }
            let used: usize = model.iter().map(|(_, text)| text.len() + FRAME_OVERHEAD_BYTES).sum();
            prop_assert_eq!(mailbox.used_bytes(), used);
        }
    }
}
