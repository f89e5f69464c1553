//! A flood from one address, and a client at another that takes the time. They are two processes, so that the flood can be given the
//! lowest priority: it is Holdfast that it is to keep busy, not the core of the one who measures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;

use crate::clients::{Load, connect, message, text};
use crate::measure::{cpu_seconds, percentile_us};
use crate::print;

/// Where the flood comes from.
const FLOODER: [u8; 4] = [127, 0, 0, 2];
/// Pause after a connection or a handshake that was refused by the system.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// How long a refused or silent handshake is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Connect, shake hands, leave, as fast as it goes
    Handshakes,
    /// Messages that an upstream takes
    Messages,
    /// Messages that are refused at once
    Refused,
    Pings,
    /// Fragments of a message without end
    Fragments,
}

#[derive(Args, Clone)]
pub struct Flood {
    /// `ws://ADDRESS/PATH` of the gateway
    #[arg(long)]
    pub ws: String,
    #[arg(long)]
    pub kind: Kind,
    /// Connections at a time
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Connections, and waves of 200 frames each, that are begun in a second; 0: as many as go
    #[arg(long, default_value_t = 0)]
    pub per_second: usize,
}

/// Frames in a wave.
const WAVE: usize = 200;
/// How often what may be begun is handed out.
const TICK: Duration = Duration::from_millis(1);

/// Floods until it is killed. What is closed is opened again.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn flood(flood: Flood) {
    let rest = flood.ws.strip_prefix("ws://").expect("ws://ADDRESS/PATH");
    let (addr, path) = rest.split_once('/').expect("a path");
    let addr: SocketAddr = addr.parse().expect("an address");
    let head = format!(
        "GET /{path} HTTP/1.1\r\nhost: {addr}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let (head, counts) = (Arc::new(head), Arc::new(Counts::default()));
    let pace = Arc::new(Semaphore::new(if flood.per_second > 0 { 0 } else { Semaphore::MAX_PERMITS / 2 }));
    for _ in 0..flood.connections {
        let (head, counts, pace) = (head.clone(), counts.clone(), pace.clone());
        tokio::spawn(async move {
            loop {
                next(&pace).await;
                counts.begun.fetch_add(1, Ordering::Relaxed);
                match open(addr, &head).await {
                    Some(stream) => {
                        counts.opened.fetch_add(1, Ordering::Relaxed);
                        pour(stream, flood.kind, &pace, &counts).await;
                    }
                    None => tokio::time::sleep(REFUSED_PAUSE).await,
                }
            }
        });
    }
    let (mut tick, begun) = (tokio::time::interval(TICK), Instant::now());
    let (mut handed, mut told) = (0, 0);
    loop {
        tick.tick().await;
        let due = (begun.elapsed().as_secs_f64() * flood.per_second as f64) as usize;
        // What a stopped server did not take is not made up for.
        pace.add_permits((due - handed).min(flood.per_second.saturating_sub(pace.available_permits())));
        handed = due;
        if begun.elapsed().as_secs() > told {
            told += 1;
            let [begun, opened, waves] =
                [&counts.begun, &counts.opened, &counts.waves].map(|count| count.swap(0, Ordering::Relaxed));
            eprintln!(
                "flood of {:?}: {begun} connections begun, {opened} opened, {} frames",
                flood.kind,
                waves * WAVE as u64
            );
        }
    }
}

/// Of a second.
#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    opened: AtomicU64,
    waves: AtomicU64,
}

/// Waits for its turn.
async fn next(pace: &Semaphore) {
    pace.acquire().await.expect("never closed").forget();
}

/// A WebSocket, if one is granted.
async fn open(addr: SocketAddr, head: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Reset at the end: a port in TIME_WAIT would end the flood.
    socket.set_zero_linger().expect("linger");
    socket.bind((FLOODER, 0).into()).ok()?;
    let open = async {
        let mut stream = socket.connect(addr).await.ok()?;
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).await.ok()?;
        answer[..count].starts_with(b"HTTP/1.1 101").then_some(stream)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, open).await.ok().flatten()
}

/// Writes what it can until it is closed, and throws away what comes back.
async fn pour(mut stream: TcpStream, kind: Kind, pace: &Semaphore, counts: &Counts) {
    let (first, payload) = match kind {
        Kind::Handshakes => return,
        Kind::Messages => (0x81, message(128)),
        Kind::Refused => (0x81, "x".into()),
        Kind::Pings => (0x89, String::new()),
        Kind::Fragments => (0x00, String::new()),
    };
    let wave = frame(first, payload.as_bytes()).repeat(WAVE);
    let (mut from, mut to) = stream.split();
    let writing = async {
        if kind == Kind::Fragments && to.write_all(&frame(0x01, b"{")).await.is_err() {
            return;
        }
        while to.write_all(&wave).await.is_ok() {
            counts.waves.fetch_add(1, Ordering::Relaxed);
            next(pace).await;
        }
    };
    let reading = async {
        let mut space = [0; 16 * 1024];
        while from.read(&mut space).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! { () = writing => {}, () = reading => {} }
}

/// A client's short frame, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()).ok().filter(|len| *len < 126) {
        Some(len) => frame.push(0x80 | len),
        None => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Asks at a steady pace, some connections in turn, for `quiet` seconds: how long answers take.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn steady(load: Load) {
    let mut clients = Vec::new();
    let (cpu, begun) = (cpu_seconds(load.pid), Instant::now());
    for at in 0..load.connections {
        let load = load.clone();
        clients.push(tokio::spawn(async move {
            let mut socket = connect(&load, 0).await;
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            // What was missed is not made up for: that would be a flood of its own.
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            tokio::time::sleep(Duration::from_millis(20) * u32::try_from(at).expect("few") / 16).await;
            let message = message(load.size);
            let mut times = Vec::new();
            while begun.elapsed() < Duration::from_secs(load.quiet) {
                pace.tick().await;
                let sent = Instant::now();
                socket.send(Message::text(message.clone())).await.expect("sent");
                assert_eq!(text(&mut socket).await.len(), message.len(), "an echo");
                times.push(sent.elapsed());
            }
            times
        }));
    }
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.expect("every answer"));
    }
    let busy = (cpu_seconds(load.pid) - cpu) / begun.elapsed().as_secs_f64();
    print(
        &format!("steady {}", load.name),
        &[
            ("busy", busy),
            ("answers", times.len() as f64),
            ("p50_us", percentile_us(&mut times, 0.5)),
            ("p99_us", percentile_us(&mut times, 0.99)),
            ("max_us", percentile_us(&mut times, 1.0)),
        ],
    );
}
