//! A client that stops reading: refused pushes first, then the cut, and nobody else notices.

use std::collections::HashMap;

use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::{Client, HANDSHAKE, Holdfast, Raw, Reply, Upstream, eventually, frame};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_cut_and_its_pusher_is_told_before() {
    let app = Upstream::start(|call| Reply::json(format!("\"{}\"", call.header("ce-connectionid")))).await;
    let endpoint = "disconnect: app\nlimits: {send_buffer: 256KiB}\nroutes: [{event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start(&app, endpoint).await;
    let mut slow = holdfast.connect().await;
    let mut other = holdfast.connect().await;
    let id = id_of(&mut slow).await;
    id_of(&mut other).await;

    // Polite pushes fill the kernel's buffers and half of the mailbox; then the pusher is told.
    let path = format!("/v1/connections/{id}/messages?wait=queued");
    let payload = "x".repeat(32 * 1024);
    let full = eventually("429", || async {
        let (status, _, _) = holdfast.call_raw(Method::POST, &path, &[], payload.clone()).await;
        assert!(status == 202 || status == 429, "{status}");
        (status == 429).then_some(status)
    })
    .await;
    assert_eq!(full, 429);
    let waiting = holdfast.metric("holdfast_mailbox_bytes").await;
    assert!((131_072.0..=262_144.0).contains(&waiting), "{waiting}");

    // Sends to a group go on until the buffer is spent: then the client is cut and the sender hears of it.
    let mut dropped = false;
    for _ in 0..16 {
        let (_, sum) = holdfast.call(Method::POST, "/v1/broadcast", payload.clone()).await;
        assert_eq!(other.text_len().await, payload.len(), "the other client feels nothing");
        dropped = dropped || sum["dropped"] == 1;
    }
    assert!(dropped, "a buffer of 256 KiB took more than 512 KiB");
    let end = app.wait_for("disconnect", 1).await.remove(0).json();
    assert_eq!((end["code"].as_u64(), end["cause"].as_str()), (Some(4001), Some("slow_consumer")));
    assert_eq!(holdfast.metric("holdfast_slow_consumers_total").await, 1.0);
    assert_eq!(holdfast.call(Method::GET, &format!("/v1/connections/{id}"), "").await.0, 410);
    // What the kernel held still arrives, and then the stream ends.
    let mut rest = Vec::new();
    let _ = slow.socket.get_mut().read_to_end(&mut rest).await;
    assert!(!rest.is_empty());
}

/// Far more than its send buffer goes to a client that does not read, and it is not cut: of each symbol only the newest waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_member_of_a_conflated_group_gets_the_newest_of_each_key() {
    const ROUNDS: usize = 400;
    const SYMBOLS: [&str; 3] = ["A", "B", "C"];
    let app = Upstream::start(|call| {
        let id = call.header("ce-connectionid");
        Reply::json(format!("\"{id}\"")).header("holdfast-join", "prices:eu")
    })
    .await;
    let endpoint = "groups: [{group: \"prices:*\", conflate: /symbol}]\nlimits: {send_buffer: 128KiB}\n\
                    routes: [{event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start(&app, endpoint).await;
    let mut slow = holdfast.connect().await;
    let id = id_of(&mut slow).await;
    let pad = "x".repeat(16 * 1024);
    for round in 1..=ROUNDS {
        for symbol in SYMBOLS {
            let price = json!({"symbol": symbol, "price": round, "pad": pad}).to_string();
            let (_, sum) = holdfast.call(Method::POST, "/v1/groups/prices:eu/messages", price).await;
            assert_eq!((&sum["delivered"], &sum["dropped"]), (&json!(1), &json!(0)), "round {round}");
        }
    }
    // What every member must see goes in between as it came.
    holdfast.call(Method::POST, "/v1/groups/prices:eu/messages", json!({"symbol": {}, "price": 0}).to_string()).await;
    assert!(holdfast.metric("holdfast_conflated_total").await > 0.0);
    assert_eq!(holdfast.call(Method::GET, &format!("/v1/connections/{id}"), "").await.0, 200);

    let (mut newest, mut read) = (HashMap::new(), 0);
    loop {
        let price: Value = serde_json::from_str(&slow.text().await).expect("JSON");
        let Some(symbol) = price["symbol"].as_str() else { break };
        let before = newest.insert(symbol.to_owned(), price["price"].as_u64().expect("a price"));
        assert!(before < newest.get(symbol).copied(), "older than what came before");
        read += 1;
    }
    assert_eq!(newest, SYMBOLS.map(|symbol| (symbol.to_owned(), ROUNDS as u64)).into());
    assert!(read < ROUNDS * SYMBOLS.len(), "nothing was left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_that_reads_again_in_time_sees_4001() {
    let app = Upstream::start(|call| Reply::json(format!("\"{}\"", call.header("ce-connectionid")))).await;
    let endpoint = "limits: {send_buffer: 64KiB}\nroutes: [{event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start(&app, endpoint).await;
    let mut slow = holdfast.connect().await;
    id_of(&mut slow).await;
    let payload = "x".repeat(32 * 1024);
    eventually("the cut", || async {
        let (_, sum) = holdfast.call(Method::POST, "/v1/broadcast", payload.clone()).await;
        (sum["dropped"] == 1).then_some(())
    })
    .await;
    assert_eq!(slow.closed().await.0, 4001);
}

/// Pushes go straight to the socket until it is full, then wait for the session, whose pings go in between: one frame after another
/// arrives whole, and those of one pusher in order.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_a_slow_client_tears_no_frame() {
    const PUSHERS: usize = 3;
    let app = Upstream::start(|call| Reply::json(format!("\"{}\"", call.header("ce-connectionid")))).await;
    let endpoint = "heartbeat: {interval: 10ms, timeout: 30s}\nlimits: {send_buffer: 1MiB}\n\
                    routes: [{event: \"*\", upstream: app}]";
    let holdfast = &Holdfast::start(&app, endpoint).await;
    let mut slow = Raw::tcp_with_small_buffer(holdfast.listen).await;
    slow.write(format!("{HANDSHAKE}\r\n").as_bytes()).await;
    assert_eq!(slow.status().await.as_u16(), 101);
    slow.write(&frame(0x81, br#"{"type":"id"}"#)).await;
    let answer = slow.frame().await.expect("an answer").1;
    let path = format!("/v1/connections/{}/messages?wait=queued", String::from_utf8_lossy(&answer).trim_matches('"'));

    let mut pushed = [0; PUSHERS];
    let mut read = [0; PUSHERS];
    for _ in 0..4 {
        // Each pushes until it is told that the client is too slow.
        let fill = |pusher: usize, mut number: usize| {
            let path = &path;
            async move {
                loop {
                    let pad = "x".repeat(1 + (number * 7919 + pusher * 104_729) % 60_000);
                    let message = json!({"pusher": pusher, "number": number, "pad": pad}).to_string();
                    match holdfast.call_raw(Method::POST, path, &[], message).await.0.as_u16() {
                        202 => number += 1,
                        429 => return number,
                        other => panic!("{other}"),
                    }
                }
            }
        };
        pushed = futures_util::join!(fill(0, pushed[0]), fill(1, pushed[1]), fill(2, pushed[2])).into();
        while read != pushed {
            let (first, payload) = slow.frame().await.expect("open");
            if first == 0x89 {
                continue;
            }
            assert_eq!(first, 0x81);
            let message: Value = serde_json::from_slice(&payload).expect("JSON, whole");
            let pusher = message["pusher"].as_u64().expect("a number") as usize;
            assert_eq!(message["number"], json!(read[pusher]), "of pusher {pusher}");
            read[pusher] += 1;
        }
    }
    let (_, facts) = holdfast.call(Method::GET, path.split("/messages").next().expect("a path"), "").await;
    assert_eq!(facts["sent"], json!(1 + read.iter().sum::<usize>()));
    assert_eq!(facts["mailbox_bytes"], json!(0));
}

/// With its window full a socket is not read, and only that one; its heartbeat does not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_stops_reading_that_socket_alone() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let wait = gate.clone();
    let app = Upstream::start_async(move |call| {
        let wait = wait.clone();
        async move {
            if call.text().contains("slow") {
                wait.acquire().await.expect("open").forget();
            }
            Reply::json(call.body)
        }
    })
    .await;
    let endpoint = "limits: {receive_buffer: 4KiB}\nheartbeat: {interval: 300ms, timeout: 300ms, misses: 1}\n\
                    routes: [{event: \"*\", upstream: app}]";
    let holdfast = Holdfast::start(&app, endpoint).await;
    let mut stuck = holdfast.connect().await;
    let message = format!("{{\"type\":\"slow\",\"pad\":\"{}\"}}", "x".repeat(1000));
    for _ in 0..40 {
        stuck.send(&message).await;
    }
    app.wait_for("message", 1).await;
    let read = "holdfast_messages_received_total";
    let taken = eventually("reading stopped", || async {
        let before = holdfast.metric(read).await;
        tokio::time::sleep(std::time::Duration::from_millis(900)).await;
        (holdfast.metric(read).await == before && before > 0.0).then_some(before)
    })
    .await;
    assert!(taken <= 8.0, "read ahead of the window: {taken} messages of 1 KB into 4 KiB");
    let mut free = holdfast.connect().await;
    free.send(r#"{"type":"quick"}"#).await;
    assert_eq!(free.text().await, r#"{"type":"quick"}"#);
    gate.add_permits(40);
    for _ in 0..40 {
        assert_eq!(stuck.text().await, message, "the heartbeat waited with it");
    }
}

async fn id_of(client: &mut Client) -> String {
    client.send(r#"{"type":"id"}"#).await;
    client.json().await.as_str().expect("an ID").to_owned()
}
