//! Clients that load a gateway and measure its process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::compressed;
use crate::measure::{cpu_seconds, percentile_us, resident_bytes};
use crate::peers::{ALL, Admin, Dialect, To};
use crate::print;

pub type Socket = WebSocketStream<TcpStream>;

/// What to load, and how much.
#[derive(Args, Clone)]
pub struct Load {
    /// `ws://ADDRESS/PATH` of the gateway
    #[arg(long)]
    pub ws: String,
    /// Address of its admin listener, or of where else pushes are posted
    #[arg(long)]
    pub admin: Option<SocketAddr>,
    /// The gateway's process; those that it has started are measured with it
    #[arg(long)]
    pub pid: u32,
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Handshakes that are under way together
    #[arg(long, default_value_t = 32)]
    pub at_once: usize,
    /// In all
    #[arg(long, default_value_t = 20_000)]
    pub messages: usize,
    /// Bytes of one message
    #[arg(long, default_value_t = 128)]
    pub size: usize,
    /// Bytes that each idle connection carries once before it is measured
    #[arg(long, default_value_t = 0)]
    pub carry: usize,
    /// Quiet connections offer permessage-deflate, and what they carry is packed
    #[arg(long)]
    pub compress: bool,
    /// Seconds of silence that are measured
    #[arg(long, default_value_t = 20)]
    pub quiet: u64,
    /// Answers are acks, not echoes
    #[arg(long)]
    pub ack: bool,
    #[arg(long, value_enum, default_value_t = Dialect::Holdfast)]
    pub dialect: Dialect,
    /// All connections are in one channel
    #[arg(skip)]
    pub together: bool,
    /// What is measured, for the output
    #[arg(long, default_value = "holdfast")]
    pub name: String,
}

/// A gateway of several processes may subscribe a client a little after its handshake.
const SETTLE: Duration = Duration::from_secs(1);
/// A few thousand connections from one address leave enough ports; beyond that the next loopback address is taken.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;

pub async fn connect(load: &Load, at: usize) -> Socket {
    let addr: SocketAddr = load.ws["ws://".len()..].split('/').next().and_then(|a| a.parse().ok()).expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    // Bound only where it must be: the kernel's search for a port that is free for every peer is slow.
    if at >= CONNECTIONS_PER_ADDRESS {
        let host = u8::try_from(1 + at / CONNECTIONS_PER_ADDRESS).expect("few addresses");
        socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).expect("bound");
    }
    let stream = socket.connect(addr).await.expect("connected");
    stream.set_nodelay(true).expect("nodelay");
    let config = WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0);
    if load.compress {
        return compressed::open(stream, load, config).await;
    }
    let channel = if load.together { ALL.into() } else { at.to_string() };
    let url = load.dialect.url(&load.ws, &channel);
    let mut socket = client_async_with_config(url, stream, Some(config)).await.expect("a handshake").0;
    if load.dialect == Dialect::SocketIo {
        // Engine.IO has opened; now the namespace of Socket.IO.
        assert!(text(&mut socket).await.starts_with('0'), "Engine.IO's open");
        socket.send(Message::text(format!("40{{\"channel\":\"{channel}\"}}"))).await.expect("sent");
        assert!(text(&mut socket).await.starts_with("40"), "Socket.IO's connect");
    }
    socket
}

/// Opens all connections, some at a time; they come in the order of their numbers.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn connect_all(load: &Load) -> Vec<Socket> {
    let workers: Vec<_> = (0..load.at_once)
        .map(|worker| {
            let load = load.clone();
            tokio::spawn(async move {
                let mut sockets = Vec::new();
                for at in (worker..load.connections).step_by(load.at_once) {
                    sockets.push((at, connect(&load, at).await));
                }
                sockets
            })
        })
        .collect();
    let mut sockets = Vec::with_capacity(load.connections);
    for worker in workers {
        sockets.extend(worker.await.expect("connected"));
    }
    sockets.sort_unstable_by_key(|(at, _)| *at);
    sockets.into_iter().map(|(_, socket)| socket).collect()
}

pub fn message(size: usize) -> String {
    let frame = r#"{"type":"bench.echo","pad":""}"#.len();
    format!(r#"{{"type":"bench.echo","pad":"{}"}}"#, "x".repeat(size.saturating_sub(frame)))
}

pub async fn text(socket: &mut Socket) -> String {
    next_text(socket).await.expect("a text")
}

/// The next text, until the connection closes. What is read on the way is answered: a ping, and Engine.IO's heartbeat, which is a text.
async fn next_text(socket: &mut Socket) -> Option<String> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) if text == "2" => socket.send(Message::text("3")).await.ok()?,
            Message::Text(text) => return Some(text.as_str().to_owned()),
            Message::Ping(_) | Message::Pong(_) => {}
            _ => return None,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn roundtrip(load: Load) {
    let sockets = connect_all(&load).await;
    let each = load.messages / load.connections;
    let message = load.dialect.wrap(message(load.size));
    let (cpu, started) = (cpu_seconds(load.pid), Instant::now());
    let clients: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            let (message, ack) = (message.clone(), load.ack);
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(each);
                for _ in 0..each {
                    let sent = Instant::now();
                    socket.send(Message::text(message.clone())).await.expect("sent");
                    let answer = text(&mut socket).await;
                    assert!(if ack { answer.contains("\"ack\"") } else { answer.len() == message.len() }, "{answer}");
                    times.push(sent.elapsed());
                }
                (socket, times)
            })
        })
        .collect();
    let mut times = Vec::new();
    let mut open = Vec::new();
    for client in clients {
        let (socket, some) = client.await.expect("every answer");
        times.extend(some);
        open.push(socket);
    }
    let (cpu, took) = (cpu_seconds(load.pid) - cpu, started.elapsed().as_secs_f64());
    let count = times.len() as f64;
    print(
        &format!("roundtrip {}", load.name),
        &[
            ("cpu_us_each", cpu * 1e6 / count),
            ("per_second", count / took),
            ("p50_us", percentile_us(&mut times, 0.5)),
            ("p99_us", percentile_us(&mut times, 0.99)),
        ],
    );
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn idle(load: Load) {
    let before = resident_bytes(load.pid);
    let (cpu, started) = (cpu_seconds(load.pid), Instant::now());
    let sockets = connect_all(&load).await;
    let (connect_cpu, took) = (cpu_seconds(load.pid) - cpu, started.elapsed().as_secs_f64());
    let mut held = Vec::new();
    for mut socket in sockets {
        match (load.carry, load.compress) {
            (0, _) => {}
            (carry, true) => compressed::carry(&mut socket, &message(carry)).await,
            (carry, false) => {
                socket.send(Message::text(load.dialect.wrap(message(carry)))).await.expect("sent");
                text(&mut socket).await;
            }
        }
        held.push(tokio::spawn(async move { while next_text(&mut socket).await.is_some() {} }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = cpu_seconds(load.pid);
    tokio::time::sleep(Duration::from_secs(load.quiet)).await;
    let quiet_cpu = cpu_seconds(load.pid) - cpu;
    let during = resident_bytes(load.pid);
    let count = held.len() as f64;
    let closed = held.iter().filter(|held| held.is_finished()).count();
    assert_eq!(closed, 0, "connections that the gateway closed");
    held.iter().for_each(tokio::task::JoinHandle::abort);
    drop(held);
    tokio::time::sleep(Duration::from_secs(5)).await;
    print(
        &format!("idle {} {}", load.name, load.connections),
        &[
            ("bytes_each", (during - before) / count),
            ("connects_per_second", count / took),
            ("connect_cpu_us", connect_cpu * 1e6 / count),
            ("cpu_us_per_second_each", quiet_cpu * 1e6 / count / load.quiet as f64),
            ("mb_before", before / 1e6),
            ("mb_during", during / 1e6),
            ("mb_after", resident_bytes(load.pid) / 1e6),
        ],
    );
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn fanout(load: Load) {
    let (sockets, mut admin) = gather(&load).await;
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel::<()>(1024);
    for mut socket in sockets {
        let arrived = arrived.clone();
        tokio::spawn(async move {
            loop {
                text(&mut socket).await;
                arrived.send(()).await.expect("counted");
            }
        });
    }
    let (path, payload) = load.dialect.publication(To::All, &message(load.size));
    let (cpu, mut times) = (cpu_seconds(load.pid), Vec::new());
    for _ in 0..load.messages {
        let sent = Instant::now();
        let body = admin.call(Method::POST, &path, payload.clone()).await;
        assert!(load.dialect.confirms(To::All, load.connections, &body), "{body}");
        for _ in 0..load.connections {
            arrivals.recv().await.expect("arrived");
        }
        times.push(sent.elapsed());
    }
    let cpu = cpu_seconds(load.pid) - cpu;
    print(
        &format!("fanout {} {}", load.name, load.connections),
        &[
            ("cpu_us_per_delivery", cpu * 1e6 / (load.messages * load.connections) as f64),
            ("last_p50_ms", percentile_us(&mut times, 0.5) / 1e3),
            ("last_p99_ms", percentile_us(&mut times, 0.99) / 1e3),
        ],
    );
}

/// Opens all connections as one group.
async fn gather(load: &Load) -> (Vec<Socket>, Admin) {
    let mut sockets = connect_all(&Load { together: true, ..load.clone() }).await;
    let mut admin = Admin::connect(load.admin.expect("--admin")).await;
    if load.dialect == Dialect::Holdfast {
        for socket in &mut sockets {
            let id = whoami(socket).await;
            admin.call(Method::PUT, &format!("/v1/groups/{ALL}/members/{id}"), Bytes::new()).await;
        }
    }
    tokio::time::sleep(SETTLE).await;
    (sockets, admin)
}

/// Sends to a group of all connections, ten times a second, until it is killed. Nobody reads: the system's buffers take it all, and the
/// clients' reading costs nothing.
pub async fn broadcast(load: Load) {
    let (sockets, mut admin) = gather(&load).await;
    let (path, payload) = load.dialect.publication(To::All, &message(load.size));
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    eprintln!("broadcasting to {}", sockets.len());
    loop {
        pace.tick().await;
        admin.call(Method::POST, &path, payload.clone()).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn push(load: Load) {
    let sockets = connect_all(&load).await;
    let each = load.messages / load.connections;
    let (dialect, message) = (load.dialect, message(load.size));
    let mut clients = Vec::new();
    for (at, mut socket) in sockets.into_iter().enumerate() {
        let id = if dialect == Dialect::Holdfast { whoami(&mut socket).await } else { at.to_string() };
        clients.push((
            socket,
            dialect.publication(To::One(&id), &message),
            Admin::connect(load.admin.expect("--admin")).await,
        ));
    }
    tokio::time::sleep(SETTLE).await;
    let (cpu, started) = (cpu_seconds(load.pid), Instant::now());
    let running: Vec<_> = clients
        .into_iter()
        .map(|(mut socket, (path, payload), mut admin)| {
            tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..each {
                    let sent = Instant::now();
                    let (body, _) = tokio::join!(admin.call(Method::POST, &path, payload.clone()), text(&mut socket));
                    assert!(dialect.confirms(To::One(&path), 1, &body), "{body}");
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in running {
        times.extend(client.await.expect("every push"));
    }
    let (cpu, took) = (cpu_seconds(load.pid) - cpu, started.elapsed().as_secs_f64());
    print(
        &format!("push {}", load.name),
        &[
            ("cpu_us_each", cpu * 1e6 / times.len() as f64),
            ("per_second", times.len() as f64 / took),
            ("p50_us", percentile_us(&mut times, 0.5)),
            ("p99_us", percentile_us(&mut times, 0.99)),
        ],
    );
}

pub async fn whoami(socket: &mut Socket) -> String {
    socket.send(Message::text(r#"{"type":"bench.whoami"}"#)).await.expect("sent");
    text(socket).await.trim_matches('"').to_owned()
}
