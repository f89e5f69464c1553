use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::codes::{Cause, CloseCode};

fn bye() -> Close {
    Close::AfterQueued(Ending::new(CloseCode::APPLICATION, "bye", Cause::Server))
}

fn take(mailbox: &Mailbox) -> Taken {
    mailbox.take(Waker::noop(), usize::MAX)
}

fn text(len: usize) -> Payload {
    Payload::text("x".repeat(len))
}

#[test]
fn what_is_pushed_is_taken_in_order_and_the_budget_returns() {
    let mailbox = Mailbox::new(1000);
    for word in ["a", "b"] {
        assert_eq!(mailbox.push(Payload::text(word), None, Urgency::Insistent), Offered::Queued);
    }
    let words: Vec<_> = take(&mailbox).entries.iter().map(|e| e.payload.bytes().clone()).collect();
    assert_eq!(words, ["a", "b"]);
    assert_eq!(mailbox.used_bytes(), 2 + 2 * FRAME_OVERHEAD_BYTES, "taken is not yet written");
    mailbox.release(2, 2);
    assert_eq!(mailbox.used_bytes(), 0);
    assert!(take(&mailbox).entries.is_empty());
}

#[test]
fn over_half_a_polite_push_is_refused_and_an_insistent_one_is_not() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(mailbox.push(text(500), None, Urgency::Polite), Offered::Queued);
    assert_eq!(mailbox.push(text(1), None, Urgency::Polite), Offered::Full);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent), Offered::Queued);
}

#[test]
fn over_the_budget_the_client_is_cut_and_the_pusher_is_told() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(mailbox.push(text(900), None, Urgency::Insistent), Offered::Queued);
    assert_eq!(mailbox.push(text(100), None, Urgency::Insistent), Offered::Overflow);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent), Offered::Gone);
    let taken = take(&mailbox);
    assert_eq!((taken.entries.len(), taken.drained, taken.close), (0, true, Some(Close::Cut)));
}

#[test]
fn a_payload_larger_than_the_budget_cuts_nobody() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(mailbox.push(text(1000), None, Urgency::Insistent), Offered::TooLarge);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent), Offered::Queued);
}

#[test]
fn a_full_mailbox_takes_a_close_and_writes_what_is_queued_first() {
    let mailbox = Mailbox::new(1000);
    mailbox.push(text(930), None, Urgency::Insistent);
    assert!(mailbox.close(bye()));
    assert!(!mailbox.close(Close::Cut), "the first close counts");
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent), Offered::Gone);
    let busy = mailbox.take(Waker::noop(), 0);
    assert_eq!((busy.entries.len(), busy.drained, busy.close), (0, false, Some(bye())), "a busy writer hears of it");
    let taken = take(&mailbox);
    assert_eq!((taken.entries.len(), taken.drained, taken.close), (1, true, Some(bye())));
}

#[test]
fn answers_are_taken_while_a_connection_finishes() {
    let mailbox = Mailbox::new(1000);
    assert!(mailbox.close(Close::AfterAnswers(Ending::new(CloseCode::DRAIN, "bye", Cause::Drain), 5)));
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent), Offered::Queued);
}

#[test]
fn a_batch_is_bounded() {
    let mailbox = Mailbox::new(10_000);
    for _ in 0..10 {
        mailbox.push(text(100), None, Urgency::Insistent);
    }
    let taken = mailbox.take(Waker::noop(), 250);
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
    mailbox.push(text(1), Some(Box::new(move || std::mem::forget(witness))), Urgency::Polite);
    mailbox.shut();
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert_eq!(mailbox.push(text(1), None, Urgency::Insistent), Offered::Gone);
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
    assert!(mailbox.take(&waker, 1).entries.is_empty());
    mailbox.push(text(1), None, Urgency::Polite);
    mailbox.push(text(1), None, Urgency::Polite);
    assert_eq!(flag.0.load(Ordering::SeqCst), 1, "one wake for a run of pushes");
}
