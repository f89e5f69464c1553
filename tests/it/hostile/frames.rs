//! Frames that break the protocol, never end, or are too many.

use tokio::time::{Duration, Instant};

use crate::harness::{HANDSHAKE, Raw, frame};

use super::{KIB, MIB, ROUTES, Scene};

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_single_bytes_is_read_to_its_end() {
    let scene = Scene::start(ROUTES).await;
    let mut raw = Raw::open(scene.process.listen).await;
    for byte in frame(TEXT, br#"{"type":"slow"}"#) {
        raw.write(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(raw.frame().await, Some((TEXT, br#"{"type":"slow"}"#.to_vec())));
    scene.held(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_protocol_close_with_their_code() {
    let scene = Scene::start(ROUTES).await;
    let unmasked = [&[TEXT, 15][..], br#"{"type":"plain"}"#].concat();
    let mut mistaken = frame(TEXT, "{\"type\":\"\u{fc}\u{fc}\"}".as_bytes());
    mistaken[2] ^= 0x80;
    let mut enormous = vec![0x82, 0xff];
    enormous.extend((1_u64 << 62).to_be_bytes());
    enormous.extend([0; 4]);
    let cases = [
        ("unmasked", unmasked, 1002),
        ("masked with another key than it says", mistaken, 1007),
        // What a compressed message looks like: refused before anything is unpacked, since nothing was agreed.
        ("RSV1", frame(0xc1, &[0xff; 1000]), 1002),
        ("RSV2", frame(0xa1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a reserved control opcode", frame(0x8b, b""), 1002),
        ("a fragmented ping", frame(0x09, b""), 1002),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"{}"), 1002),
        ("a message within a message", [frame(0x01, b"{"), frame(TEXT, b"}")].concat(), 1002),
        ("a close of one byte", frame(0x88, b"x"), 1002),
        ("a frame of 2^62 bytes", enormous, 1009),
        ("a frame that is too large", frame(TEXT, &[b'x'; 200 * 1024])[..1000].to_vec(), 1009),
    ];
    let count = cases.len();
    for (what, bytes, code) in cases {
        let mut raw = Raw::open(scene.process.listen).await;
        raw.write(&bytes).await;
        assert_eq!(raw.close_code().await, Some(code), "{what}");
    }
    scene.counted("holdfast_violations_total{endpoint=\"/ws\"", count).await;
    scene.counted("holdfast_violations_total{endpoint=\"/ws\",code=\"1009\"}", 2).await;
    scene.held(6 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_without_end_close_with_1009() {
    let scene = Scene::start(ROUTES).await;
    let listen = scene.process.listen;
    // Larger in all than a message may be; one byte at a time; nothing at a time, which no size would ever end.
    for payload in [&[b'x'; 1000][..], b"x", b""] {
        let mut attackers = Vec::new();
        for _ in 0..10 {
            attackers.push(tokio::spawn(async move {
                let mut raw = Raw::open(listen).await;
                let mut fragments = frame(0x01, b"");
                fragments.extend(frame(0x00, payload).repeat(100));
                raw.write(&fragments).await;
                let fragments = frame(0x00, payload).repeat(100);
                while raw.write(&fragments).await {}
                // The other side may reset while there is more to read than it cares for.
                raw.close_code().await.is_none_or(|code| code == 1009)
            }));
        }
        for attacker in attackers {
            assert!(attacker.await.expect("an end"));
        }
    }
    scene.counted("holdfast_violations_total{endpoint=\"/ws\",code=\"1009\"}", 30).await;
    scene.held(10 * 3 * 128 * KIB + 6 * MIB).await;
}

/// Each holds no more than its message may have, and the idle limit ends it: a message that is not whole does not count as one.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_never_completed_are_bounded_and_idle() {
    const CLIENTS: usize = 100;
    let scene = Scene::start(&format!("idle_timeout: 2s\n{ROUTES}")).await;
    let mut held = Vec::new();
    let begun = Instant::now();
    for at in 0..CLIENTS {
        let mut raw = Raw::open(scene.process.listen).await;
        match at % 2 {
            0 => raw.write(&frame(TEXT, &[b'x'; 128 * 1024])[..100 * 1024]).await,
            // A whole fragment and the start of the next.
            _ => {
                raw.write(&[frame(0x01, &[b'x'; 100 * 1024]), frame(0x00, &[b'x'; 1024])].concat()[..101 * 1024]).await
            }
        };
        held.push(raw);
    }
    // Bytes keep coming, so that they are not silent.
    let mut trickle = tokio::time::interval(Duration::from_millis(200));
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        trickle.tick().await;
        for raw in &mut held {
            sent += usize::from(raw.write(b"x").await);
        }
    }
    assert!(sent > CLIENTS);
    scene.counted("holdfast_connections_closed_total{endpoint=\"/ws\",cause=\"idle\"}", CLIENTS).await;
    scene.held(CLIENTS as u64 * 3 * 128 * KIB + 4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_is_abuse() {
    let scene = Scene::start(ROUTES).await;
    let listen = scene.process.listen;
    let mut attackers = Vec::new();
    for at in 0..20 {
        attackers.push(tokio::spawn(async move {
            let mut raw = Raw::open(listen).await;
            let flood = frame(if at % 4 == 3 { PONG } else { PING }, &[b'x'; 100]).repeat(1000);
            let mut writes = 0;
            // Half of them read nothing before all is written.
            while writes < 50 && raw.write(&flood).await {
                writes += 1;
            }
            let mut pongs = 0;
            loop {
                match raw.frame().await {
                    Some((PONG, _)) => pongs += 1,
                    Some((0x88, payload)) => {
                        assert_eq!(payload[..2], 4501_u16.to_be_bytes());
                        return pongs;
                    }
                    Some(other) => panic!("expected a pong or the close, found {other:?}"),
                    // Reset, since it went on after the close.
                    None => return pongs,
                }
            }
        }));
    }
    for attacker in attackers {
        let pongs = attacker.await.expect("an end");
        assert!(pongs <= 200, "{pongs} pongs for a flood");
    }
    scene.counted("holdfast_violations_total{endpoint=\"/ws\",code=\"4501\"}", 20).await;
    scene.held(8 * MIB).await;
}

/// Without reading, and without a flood: what waits for it stays within the buffer of control frames.
#[tokio::test(flavor = "multi_thread")]
async fn pongs_for_one_who_does_not_read_replace_each_other() {
    let scene = Scene::start(ROUTES).await;
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::tcp_with_small_buffer(scene.process.listen).await;
        raw.write(format!("{HANDSHAKE}\r\n").as_bytes()).await;
        assert_eq!(raw.status().await, 101);
        deaf.push(raw);
    }
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..10 {
        pace.tick().await;
        for raw in &mut deaf {
            assert!(raw.write(&frame(PING, &[b'x'; 125]).repeat(15)).await);
        }
    }
    // Each still answers to the last one.
    for raw in &mut deaf {
        raw.write(&frame(PING, b"last")).await;
        while raw.frame().await.expect("open").1 != b"last" {}
    }
    scene.held(20 * 64 * KIB + 4 * MIB).await;
}

/// Messages that are refused at once are no upstream's business, so nothing slows them down but turns.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_messages_leaves_turns_to_others() {
    let limits = "limits: {messages_per_second: 10}";
    let scene = Scene::start_limited(limits).await;
    let listen = scene.process.listen;
    let mut attackers = Vec::new();
    for at in 0..8 {
        attackers.push(tokio::spawn(async move {
            let mut raw = Raw::open_at(listen, "/limited").await;
            let message: &[u8] = if at % 2 == 0 { b"{" } else { br#"{"type":"a"}"# };
            let flood = frame(TEXT, message).repeat(2000);
            let begun = Instant::now();
            let mut refused = 0;
            while begun.elapsed() < Duration::from_secs(2) && raw.write(&flood).await {
                let Some((TEXT, _)) = raw.frame().await else { break };
                refused += 1;
            }
            refused
        }));
    }
    for attacker in attackers {
        assert!(attacker.await.expect("an end") > 0);
    }
    scene.counted("holdfast_events_total{endpoint=\"/limited\",route=\"$none\",outcome=\"rate_limited\"}", 1000).await;
    scene.held(8 * 3 * MIB).await;
}
