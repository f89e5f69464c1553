use super::*;
use crate::limits::{Limit, Rate, Rates};

const SETTINGS: Settings = Settings {
    heartbeat_interval_ms: 25_000,
    heartbeat_timeout_ms: 5_000,
    heartbeat_misses: 2,
    idle_timeout_ms: None,
    lifetime_ms: None,
    receive_buffer: 1000,
    invalid_messages: None,
    close_timeout_ms: 3_000,
};

fn machine() -> Machine {
    Machine::new(SETTINGS, 0)
}

fn message(machine: &mut Machine, now_ms: u64) -> Received {
    machine.on_message(now_ms, Payload::text("x".repeat(100)))
}

fn code(due: Due) -> Option<CloseCode> {
    match due {
        Due::Close(ending) => Some(ending.code),
        _ => None,
    }
}

#[test]
fn a_silent_client_is_pinged_and_then_closed() {
    let mut m = machine();
    assert_eq!(m.next_deadline_ms(), Some(25_000));
    assert_eq!(m.on_time(24_999), Due::Nothing);
    assert_eq!(m.on_time(25_000), Due::Ping);
    assert_eq!(m.on_time(25_001), Due::Nothing);
    assert_eq!(m.next_deadline_ms(), Some(30_000));
    assert_eq!(m.on_time(30_000), Due::Ping, "one miss is allowed");
    assert_eq!(code(m.on_time(35_000)), Some(CloseCode::HEARTBEAT));
}

#[test]
fn any_byte_counts_as_alive() {
    let mut m = machine();
    assert_eq!(m.on_time(25_000), Due::Ping);
    m.heard(29_999);
    assert_eq!(m.on_time(35_000), Due::Nothing);
    assert_eq!(m.next_deadline_ms(), Some(54_999));
}

#[test]
fn a_socket_that_is_not_read_cannot_fail_its_heartbeat() {
    let mut m = machine();
    m.call_started(1);
    while m.wants_messages() {
        message(&mut m, 1);
    }
    for now_ms in (0..10).map(|i| i * 25_000) {
        assert_eq!(m.on_time(now_ms), Due::Nothing);
    }
    m.call_finished();
    assert!(m.next_message(300_000).is_some());
    assert_eq!(m.on_time(300_001), Due::Nothing, "silence while nobody listened does not count");
    assert_eq!(m.next_deadline_ms(), Some(325_000));
}

#[test]
fn messages_start_one_after_another_and_in_order() {
    let mut m = machine();
    message(&mut m, 1);
    message(&mut m, 2);
    assert_eq!(m.next_message(3).map(|w| w.seq), Some(1));
    m.call_started(1);
    assert_eq!(m.next_message(3), None);
    m.call_finished();
    assert_eq!(m.next_message(3).map(|w| w.seq), Some(2));
}

#[test]
fn a_wider_window_lets_more_start() {
    let mut m = machine();
    (0..4).for_each(|_| assert_eq!(message(&mut m, 1), Received::Queued));
    for seq in 1..=3 {
        assert_eq!(m.next_message(1).map(|w| w.seq), Some(seq));
        m.call_started(3);
    }
    assert_eq!(m.next_message(1), None);
}

#[test]
fn a_full_buffer_stops_the_reading_and_room_resumes_it() {
    let mut m = machine();
    m.call_started(1);
    let mut taken = 0;
    while m.wants_messages() {
        message(&mut m, 1);
        taken += 1;
    }
    assert_eq!(taken, 1000_usize.div_ceil(164));
    m.call_finished();
    m.next_message(1);
    assert!(m.wants_messages());
}

#[test]
fn idle_and_lifetime_close_with_their_codes() {
    let mut m = Machine::new(Settings { idle_timeout_ms: Some(10_000), ..SETTINGS }, 0);
    message(&mut m, 4_000);
    m.next_message(4_000);
    m.sent(5_000);
    assert_eq!(m.on_time(14_999), Due::Nothing);
    assert_eq!(code(m.on_time(15_000)), Some(CloseCode::IDLE));
    let mut m = Machine::new(Settings { lifetime_ms: Some(10_000), ..SETTINGS }, 0);
    assert_eq!(m.next_deadline_ms(), Some(10_000));
    assert_eq!(code(m.on_time(10_000)), Some(CloseCode::LIFETIME));
}

#[test]
fn a_connection_that_waits_for_its_upstream_is_not_idle() {
    let mut m = Machine::new(Settings { idle_timeout_ms: Some(10_000), ..SETTINGS }, 0);
    message(&mut m, 0);
    m.next_message(0);
    m.call_started(1);
    assert_eq!(m.on_time(20_000), Due::Nothing);
}

/// A machine with these rates, whose messages are 100 bytes.
fn limited(messages: Option<Rate>, bytes: Option<Rate>) -> Machine {
    let mut m = Machine::new(Settings { receive_buffer: 1 << 20, ..SETTINGS }, 0);
    m.set_meters(Some(Meters::own(Rates { messages, bytes })));
    m
}

fn refused(seq: u64, limit: Limit, retry_after_ms: u64) -> Received {
    Received::Limited { seq, excess: Excess { limit, retry_after_ms } }
}

#[test]
fn the_rate_allows_a_burst_at_once_and_then_its_pace() {
    let mut m = limited(Some(Rate::new(10, None)), None);
    for _ in 0..10 {
        assert_eq!(message(&mut m, 1_000), Received::Queued);
    }
    assert_eq!(message(&mut m, 1_000), refused(11, Limit::Messages, 100));
    assert_eq!(message(&mut m, 1_100), Received::Queued);
    assert_eq!(message(&mut m, 1_150), refused(13, Limit::Messages, 50), "a refused message has a number too");
}

#[test]
fn bytes_have_a_rate_of_their_own() {
    let mut m = limited(Some(Rate::new(10, None)), Some(Rate::new(1000, Some(250))));
    assert_eq!([0, 0].map(|now_ms| message(&mut m, now_ms)), [Received::Queued, Received::Queued]);
    assert_eq!(message(&mut m, 0), refused(3, Limit::Bytes, 50));
    assert_eq!(message(&mut m, 50), Received::Queued);
}

#[test]
fn a_refused_message_is_neither_kept_nor_invalid_and_others_limits_end_with_the_socket() {
    let mut m = limited(Some(Rate::new(1, None)), None);
    message(&mut m, 0);
    message(&mut m, 0);
    assert_eq!(m.waiting_bytes(), 164);
    assert_eq!(m.invalid, 0);
    m.gone(Ending::new(CloseCode::NORMAL, "", Cause::Client));
    assert!(m.take_meters().is_none());
}

#[test]
fn too_many_invalid_messages_are_abuse() {
    let mut m = Machine::new(Settings { invalid_messages: Some(1), ..SETTINGS }, 0);
    assert_eq!(m.on_invalid(), None);
    assert_eq!(m.on_invalid().map(|e| e.code), Some(CloseCode::ABUSE));
}

#[test]
fn a_finishing_connection_closes_after_its_answers() {
    let drain = Ending::new(CloseCode::DRAIN, "bye", Cause::Drain);
    let mut m = machine();
    message(&mut m, 1);
    m.finish(2, drain.clone(), 10_000);
    assert!(!m.wants_messages());
    assert_eq!(message(&mut m, 2), Received::Ignored);
    assert_eq!(m.finished(), None);
    m.next_message(2);
    m.call_started(1);
    assert_eq!(m.finished(), None);
    assert_eq!(m.on_time(10_002), Due::Close(drain.clone()), "patience has an end");
    m.call_finished();
    assert_eq!(m.finished(), Some(&drain));
    m.close(10_002, drain.clone());
    assert_eq!(m.on_time(13_001), Due::Nothing);
    assert_eq!(m.on_time(13_002), Due::GiveUp);
    m.gone(Ending::new(CloseCode::ABNORMAL, "", Cause::Error));
    assert_eq!(m.ending(), drain, "the ending that began the close counts");
}

#[test]
fn accepted_messages_outlive_the_socket() {
    let mut m = machine();
    message(&mut m, 1);
    m.gone(Ending::new(CloseCode::NORMAL, "", Cause::Client));
    assert!(m.is_gone() && !m.is_quiet());
    assert_eq!(m.next_message(2).map(|w| w.seq), Some(1));
    assert!(m.is_quiet());
}

#[test]
fn a_token_s_end_is_told_once_and_then_closes() {
    let mut m = machine();
    m.set_expiry(Some(Expiry { ends_ms: 10_000, warn_ms: Some(7_000) }));
    assert_eq!(m.next_deadline_ms(), Some(7_000));
    assert_eq!(m.on_time(6_999), Due::Nothing);
    assert_eq!(m.on_time(7_001), Due::TokenEnding { left_ms: 2_999 });
    assert_eq!(m.on_time(7_002), Due::Nothing, "once");
    assert_eq!(m.next_deadline_ms(), Some(10_000));
    assert_eq!(code(m.on_time(10_000)), Some(CloseCode::TOKEN_EXPIRED));
}

#[test]
fn a_newer_token_moves_the_end_and_one_without_an_end_removes_it() {
    let mut m = machine();
    m.set_expiry(Some(Expiry { ends_ms: 10_000, warn_ms: None }));
    m.set_expiry(Some(Expiry { ends_ms: 20_000, warn_ms: Some(15_000) }));
    assert_eq!(m.on_time(10_000), Due::Nothing);
    assert_eq!(m.on_time(15_000), Due::TokenEnding { left_ms: 5_000 });
    m.set_expiry(None);
    m.heard(20_000);
    assert_eq!(m.on_time(20_000), Due::Nothing);
}

#[test]
fn a_token_ends_though_the_socket_is_not_read() {
    let mut m = machine();
    m.set_expiry(Some(Expiry { ends_ms: 10_000, warn_ms: None }));
    m.call_started(1);
    while m.wants_messages() {
        message(&mut m, 1);
    }
    assert_eq!(code(m.on_time(10_000)), Some(CloseCode::TOKEN_EXPIRED));
}
