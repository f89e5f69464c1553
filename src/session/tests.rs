//! Sessions over a stream in memory and under a paused clock: what limits let pass over simulated minutes, to the last message.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, advance};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::stream::{Plain, Stream};
use super::task::CLOSE_TIMEOUT;
use super::{Machine, Services, Session, Socket};
use crate::config;
use crate::connection::{Connection, Opening, network};
use crate::deliver::Deliver;
use crate::ids::{ConnectionId, NodeId};
use crate::limits::{Entering, Who};
use crate::mailbox::{Outlet, Wrote};
use crate::message::{Command, Payload};
use crate::pipeline::{Greeting, Pipeline};
use crate::registry::Registry;
use crate::snapshot::Snapshot;
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, Spans};

/// Fits the length of `MESSAGE`.
const MESSAGE: &str = r#"{"type":"a"}"#;

/// An endpoint without routes: what passes the limits is answered `unknown_event`.
struct Rig {
    services: Arc<Services>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

type Client = WebSocketStream<DuplexStream>;

fn snapshot(limits: &str, previous: Option<&Snapshot>, metrics: &Arc<Metrics>) -> Snapshot {
    let text = format!(
        "upstreams: {{app: {{http: {{url: \"http://127.0.0.1:1/\"}}}}}}\n\
         endpoints: [{{path: /ws, limits: {{{limits}}}, routes: []}}]"
    );
    let loaded = config::load_text("h.yaml", &text, std::path::Path::new("."), &|_| None);
    let draft = loaded.unwrap_or_else(|problems| panic!("{problems}")).draft;
    Snapshot::build(draft, previous, None, metrics).expect("a snapshot")
}

fn connection(user: Option<&str>, ip: &str) -> Arc<Connection> {
    Connection::new(Opening {
        id: ConnectionId::random(NodeId::random()),
        endpoint: "/ws".into(),
        user: user.map(Into::into),
        context: None,
        grant: None,
        remote_addr: (ip.parse::<std::net::IpAddr>().expect("an address"), 1).into(),
        subprotocol: None,
        send_buffer: 1 << 20,
        groups_max: 1,
    })
}

impl Stream for DuplexStream {}

impl Rig {
    fn new(limits: &str) -> Self {
        let metrics = Arc::new(Metrics::new());
        let pipeline = Pipeline::new(snapshot(limits, None, &metrics), metrics.clone(), Spans::default());
        let deliver = Deliver::new(Arc::new(Registry::new()), pipeline.clone(), metrics.clone(), Tasks::new());
        let services = Services { pipeline, deliver, accounts: Arc::default(), epoch: Instant::now() };
        Self { services: Arc::new(services), metrics, tasks: Tasks::new() }
    }

    fn reload(&self, limits: &str) {
        let pipeline = &self.services.pipeline;
        pipeline.swap(snapshot(limits, Some(&pipeline.snapshot()), &self.metrics));
    }

    async fn connect(&self, user: &str, ip: &str) -> Client {
        let (services, snapshot) = (self.services.clone(), self.services.pipeline.snapshot());
        let endpoint = snapshot.endpoint("/ws").expect("an endpoint").clone();
        let connection = connection(Some(user), ip);
        let who = Who {
            endpoint: &connection.endpoint,
            network: network(connection.remote_addr.ip()),
            user: connection.user.as_ref(),
        };
        let limits = (&endpoint.draft.limits.quotas, &snapshot.limits);
        let meters = services.accounts.meter(None, &who, limits, Entering::New).expect("room");
        let registration = services.deliver.register(connection.clone());
        let (here, there) = tokio::io::duplex(1 << 16);
        let socket = Socket::new(there, &[], 1 << 20);
        let session = Session::new(services, endpoint, connection, registration, socket, meters);
        self.tasks.spawn(session.run(Greeting::default(), ()));
        WebSocketStream::from_raw_socket(here, Role::Client, None).await
    }
}

/// An outlet that looks, with each frame, who is in the group.
struct Probe {
    services: Arc<Services>,
    members: Arc<Mutex<Vec<usize>>>,
}

impl Outlet for Probe {
    fn write(&mut self, _: &Payload) -> Wrote {
        self.members.lock().push(self.services.deliver.registry().group("g").len());
        Wrote::Whole
    }

    fn written_ms(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn an_answer_leaves_after_its_commands_and_at_once_where_it_has_none() {
    let members = Arc::new(Mutex::new(Vec::new()));
    for commands in [vec![Command::Join { connection: None, group: "g".into() }], vec![]] {
        let services = Rig::new("").services;
        let endpoint = services.pipeline.snapshot().endpoint("/ws").expect("an endpoint").clone();
        let connection = connection(None, "127.0.0.1");
        let registration = services.deliver.register(connection.clone());
        let socket = Socket::new(tokio::io::duplex(1 << 16).0, &[], 1 << 20);
        let session = Session::new(services.clone(), endpoint, connection.clone(), registration, socket, None);
        let probe = Probe { services: services.clone(), members: members.clone() };
        connection.mailbox.set_outlet(Box::new(probe));
        // As after the session's first turn.
        connection.mailbox.take(std::task::Waker::noop(), 1, false);
        let has_commands = !commands.is_empty();
        let session = session.run(Greeting { frame: Some(Payload::text("hi")), commands, ..Greeting::default() }, ());
        assert_eq!(connection.mailbox.used_bytes() > 0, has_commands);
        assert_eq!(services.deliver.registry().group("g").len(), usize::from(has_commands));
        drop(session);
    }
    assert_eq!(*members.lock(), [0], "only what has no commands was written");
}

/// Sends one message; the error frame that answers it.
async fn ask(client: &mut Client) -> Value {
    client.send(Message::text(MESSAGE)).await.expect("sent");
    loop {
        match client.next().await.expect("open").expect("a message") {
            Message::Text(text) => return serde_json::from_str(text.as_str()).expect("JSON"),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// True if one message passed; else it was refused by its rate.
async fn passes(client: &mut Client) -> bool {
    let frame = ask(client).await;
    match frame["code"].as_str() {
        Some("unknown_event") => true,
        Some("rate_limited") => false,
        _ => panic!("{frame}"),
    }
}

/// How many messages pass when one is sent by each client in turn, every so many milliseconds, for so many minutes.
async fn flood(clients: &mut [Client], every_ms: u64, minutes: u64) -> u64 {
    let mut passed = 0;
    for at in 0..=minutes * 60_000 / every_ms {
        if at > 0 {
            advance(Duration::from_millis(every_ms)).await;
        }
        let turn = at as usize % clients.len();
        passed += u64::from(passes(&mut clients[turn]).await);
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn a_flood_passes_at_the_rate_over_minutes_to_the_last_message() {
    let rig = Rig::new("messages_per_second: 10, messages_burst: 20");
    let mut clients = [rig.connect("ann", "192.0.2.1").await];
    assert_eq!(flood(&mut clients, 50, 2).await, 20 + 10 * 120);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_refilled_at_their_rate() {
    let bytes = MESSAGE.len() as u64;
    let rig = Rig::new("message_size: 60B, bytes_per_second: 30B, bytes_burst: 60B");
    let mut clients = [rig.connect("ann", "192.0.2.1").await];
    assert_eq!(flood(&mut clients, 100, 3).await, (60 + 30 * 180) / bytes);
}

#[tokio::test(start_paused = true)]
async fn a_user_s_and_an_address_s_connections_share_their_rate_over_minutes() {
    for limit in ["per_user", "per_address"] {
        let rig = Rig::new(&format!("{limit}: {{messages_per_second: 7, messages_burst: 50}}"));
        // The same user from everywhere, or every user from the same /64.
        let mut same = Vec::new();
        for at in 1..4 {
            let (user, ip) = match limit {
                "per_user" => ("ann".to_owned(), format!("192.0.2.{at}")),
                _ => (format!("u{at}"), format!("2001:db8::{at}")),
            };
            same.push(rig.connect(&user, &ip).await);
        }
        assert_eq!(flood(&mut same, 40, 2).await, 50 + 7 * 120, "{limit}");
        let mut other = rig.connect("bob", "2001:db8:0:1::1").await;
        for _ in 0..50 {
            assert!(passes(&mut other).await, "{limit}: another one is untouched");
        }
        drop((same, other));
        tokio::time::sleep(Duration::from_secs(10)).await;
        rig.services.accounts.sweep(rig.services.now_ms());
        assert!(rig.services.accounts.is_empty(), "{limit}: nothing is left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_as_told_passes_and_not_a_millisecond_earlier() {
    let rig = Rig::new("messages_per_second: 3, messages_burst: 2");
    let mut client = rig.connect("ann", "192.0.2.1").await;
    for _ in 0..20 {
        while passes(&mut client).await {}
        let wait_ms = ask(&mut client).await["retry_after_ms"].as_u64().expect("a time");
        advance(Duration::from_millis(wait_ms - 1)).await;
        assert!(!passes(&mut client).await);
        advance(Duration::from_millis(1)).await;
        assert!(passes(&mut client).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_rates_of_an_open_socket_at_its_next_message() {
    let rig = Rig::new("messages_per_second: 1000");
    let mut client = rig.connect("ann", "192.0.2.1").await;
    assert!(passes(&mut client).await);
    rig.reload("messages_per_second: 1");
    assert!(!passes(&mut client).await, "the message before counts");
    advance(Duration::from_secs(1)).await;
    assert!(passes(&mut client).await);
    assert!(!passes(&mut client).await);
    rig.reload("per_user: {messages_per_second: 1}");
    let mut second = rig.connect("ann", "192.0.2.2").await;
    assert!(passes(&mut second).await);
    assert!(!passes(&mut client).await, "a connection older than its user's limit counts too");
    rig.reload("messages_per_second: 1, per_user: {connections: 1}");
    advance(Duration::from_secs(1)).await;
    assert!(passes(&mut client).await && passes(&mut second).await, "an open connection is never one too many");
    rig.reload("message_size: 11B");
    client.send(Message::text(MESSAGE)).await.expect("sent");
    match client.next().await.expect("open").expect("a message") {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1009, "sizes too"),
        other => panic!("{other:?}"),
    }
    rig.reload("");
    for _ in 0..100 {
        assert!(passes(&mut second).await, "no limit any more");
    }
}

#[tokio::test(start_paused = true)]
async fn close_on_excess_says_why_and_closes_with_4501() {
    let rig = Rig::new("messages_per_second: 1, on_excess: close, invalid_messages: 5");
    let mut client = rig.connect("ann", "192.0.2.1").await;
    assert!(passes(&mut client).await);
    let frame = ask(&mut client).await;
    assert_eq!((&frame["code"], &frame["retry_after_ms"]), (&json!("rate_limited"), &json!(1000)));
    match client.next().await.expect("open").expect("a message") {
        Message::Close(Some(frame)) => {
            assert_eq!(u16::from(frame.code), 4501);
            assert!(frame.reason.as_str().contains("more messages than its limit"), "{frame:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// It sees its close when it reads; what it goes on sending costs nothing more, and it is given up in time.
#[tokio::test(start_paused = true)]
async fn who_is_closed_and_goes_on_sending_is_not_read_any_more() {
    let rig = Rig::new("messages_per_second: 1, on_excess: close");
    let abuse = [&[0x81, 0x8c, 0, 0, 0, 0], MESSAGE.as_bytes()].concat();
    let violation = [&[0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0], &[0; 0xffff][..], &[0x81, 0x00]].concat();
    for flood in [abuse.repeat(1000), violation] {
        let mut client = rig.connect("ann", "192.0.2.1").await;
        let (mut from, mut to) = tokio::io::split(client.get_mut());
        let begun = Instant::now();
        let mut taken = 0;
        while let Ok(count) = to.write(&flood).await {
            taken += count;
        }
        assert_eq!(begun.elapsed().as_secs(), CLOSE_TIMEOUT.as_secs(), "given up");
        assert!((256 * 1024..=512 * 1024).contains(&taken), "{taken} bytes were taken");
        let mut said = Vec::new();
        from.read_to_end(&mut said).await.expect("an end");
        assert!(said.windows(4).any(|four| four[0] == 0x88 && four[2] >= 0x03), "no close frame");
    }
}

/// Each byte here is paid for each quiet connection: raise a figure only with a reason.
#[tokio::test]
async fn what_a_quiet_connection_holds_is_small() {
    let rig = Rig::new("");
    let endpoint = rig.services.pipeline.snapshot().endpoint("/ws").expect("an endpoint").clone();
    let connection = connection(None, "127.0.0.1");
    let registration = rig.services.deliver.register(connection.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("open");
    let socket = Socket::new(Plain::new(stream), &[], 1 << 20);
    let session = Session::new(rig.services.clone(), endpoint, connection, registration, socket, None);
    let sizes = [
        ("a connection's shared part", size_of::<Connection>(), 360),
        ("the machine", size_of::<Machine>(), 280),
        ("the socket", size_of::<Socket<Plain>>(), 160),
        // Not the session twice: an `async fn` would hold it as its argument too.
        ("the session's future", size_of_val(&session.run(Greeting::default(), ())), 592),
    ];
    for (what, bytes, most) in sizes {
        assert!(bytes <= most, "{what} has {bytes} bytes, at most {most}");
    }
}
