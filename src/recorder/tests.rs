//! Watchers that read, or do not, without sockets.

use super::*;
use crate::connection::Opening;
use crate::ids::{ConnectionId, NodeId};
use crate::mailbox::{Urgency, Way};
use serde_json::Value;

fn connection(send_buffer: usize) -> Arc<Connection> {
    Connection::new(Opening {
        id: ConnectionId::random(NodeId::random()),
        endpoint: "/ws".into(),
        user: Some("ann".into()),
        context: None,
        grant: None,
        remote_addr: ([127, 0, 0, 1], 1).into(),
        subprotocol: None,
        send_buffer,
        groups_max: 1,
    })
}

fn push(recorder: &Recorder, connection: &Connection, text: &str) -> Offered {
    let hide = || Arc::new(Redaction::default());
    recorder.offer(connection, Payload::text(text), (Cause::Push, hide), None, |payload, receipt| {
        connection.mailbox.push(payload, receipt, Urgency::Insistent, Way::Queue)
    })
}

/// As a session takes what waits; the bytes are in the socket, or never will be.
fn take(connection: &Connection, is_written: bool) {
    for entry in connection.mailbox.take(std::task::Waker::noop(), 1 << 20, false).entries {
        let on_written = entry.on_written.filter(|_| is_written);
        on_written.into_iter().for_each(|on_written| on_written());
    }
}

async fn next(watch: &mut Watch) -> Value {
    serde_json::from_str(&watch.next().await.expect("a record")).expect("JSON")
}

#[tokio::test]
async fn the_fate_of_a_message_out_is_told_once() {
    let recorder = Recorder::new(Arc::default());
    let mut watch = recorder.watch(Filter::default()).expect("a watch");
    let connection = connection(200);
    let mut fates = Vec::new();
    push(&recorder, &connection, "written");
    take(&connection, true);
    fates.push(next(&mut watch).await);
    push(&recorder, &connection, "lost with its socket");
    take(&connection, false);
    fates.push(next(&mut watch).await);
    assert_eq!(push(&recorder, &connection, &"x".repeat(500)), Offered::TooLarge);
    fates.push(next(&mut watch).await);
    connection.mailbox.shut();
    assert_eq!(push(&recorder, &connection, "late"), Offered::Gone);
    fates.push(next(&mut watch).await);
    let outcomes: Vec<_> = fates.iter().filter_map(|fate| fate["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["written", "dropped", "dropped", "gone"]);
    recorder.end().await;
    assert_eq!(watch.next().await, None, "each was told once");
}

#[tokio::test]
async fn a_replaced_message_is_dropped_and_the_newer_one_written() {
    let recorder = Recorder::new(Arc::default());
    let mut watch = recorder.watch(Filter::default()).expect("a watch");
    let connection = connection(1 << 20);
    for text in ["older", "newer"] {
        let hide = || Arc::new(Redaction::default());
        recorder.offer(&connection, Payload::text(text), (Cause::Push, hide), None, |payload, receipt| {
            connection.mailbox.push_latest(&"key".into(), payload, receipt, Way::Queue)
        });
    }
    take(&connection, true);
    for (text, outcome) in [("older", "dropped"), ("newer", "written")] {
        let record = next(&mut watch).await;
        assert_eq!((record["data"].as_str(), record["outcome"].as_str()), (Some(text), Some(outcome)));
    }
}

#[tokio::test]
async fn with_nobody_there_nothing_is_made_and_gaps_are_few() {
    let metrics: Arc<Metrics> = Arc::default();
    let recorder = Recorder::new(metrics.clone());
    let connection = connection(1 << 20);
    assert!(recorder.subject(&connection, About::In).is_none());
    push(&recorder, &connection, "unseen");
    assert!(connection.mailbox.take(std::task::Waker::noop(), 1 << 20, false).entries[0].on_written.is_none());
    let mut watch = recorder.watch(Filter::default()).expect("a watch");
    let other = Filter { user: Some("ben".into()), ..Filter::default() };
    let _other = recorder.watch(other).expect("a watch");
    for _ in 0..1000 {
        push(&recorder, &connection, "x");
        take(&connection, true);
    }
    assert_eq!(metrics.watch_missed.get(), 1000 - 256, "only of the one who wanted them");
    let (mut told, mut gaps) = (0, Vec::new());
    for _ in 0..1000 {
        let record = next(&mut watch).await;
        match record["count"].as_u64() {
            Some(count) => gaps.push(count),
            None => told += 1,
        }
        // One more for each that is read.
        push(&recorder, &connection, "x");
        take(&connection, true);
    }
    assert!((told as usize) + gaps.len() == 1000 && gaps.len() < 10, "{gaps:?}");
}
