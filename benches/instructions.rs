//! Instruction counts of the hot paths, by valgrind's callgrind: steady on a noisy machine. `cargo bench --bench instructions` prints
//! instructions per operation beside the figures below, or CPU time where valgrind is absent. With `-- --check` a count that is more
//! than its tolerance over its figure fails. The count of one run is subtracted from that of a run twice as long, so that start-up
//! does not count.

#[path = "../tests/allocations/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use holdfast::connection::{Connection, Opening};
use holdfast::ids::{ConnectionId, NodeId};
use holdfast::mailbox::{Mailbox, Offered, Outlet, Urgency, Way, Wrote};
use holdfast::message::{Payload, json};
use holdfast::registry::Registry;
use holdfast::routing::{Pattern, Pointer, Table};
use holdfast::schema::Schema;

use scene::{Scene, round};

/// Clients that have their messages gathered into batches.
const CROWD: usize = 64;
const MESSAGE: &str = r#"{"type":"chat.send","room":"lobby","text":"a message of ordinary length, as people write them","client":{"version":"1.2.3","locale":"de"}}"#;

/// One hot path.
struct Workload {
    name: &'static str,
    /// Makes its inputs, and gives back what does one operation.
    make: fn() -> Box<dyn FnMut()>,
    operations: u64,
    /// In each operation.
    messages: u64,
    /// Instructions of one message when this was last looked at.
    figure: u64,
    /// What a count may be over its figure, in per cent. Where threads wait for each other a count varies by a few.
    tolerance: u64,
}

const WORKLOADS: &[Workload] = &[
    pure("decode: event name of a 140-byte message", decode, 2_804),
    pure("check: parse it and validate it against a schema", check, 8_384),
    pure("route: the ninth of ten patterns", route, 570),
    pure("mailbox: push, take, release, by the queue", mailbox, 651),
    pure("fan-out: one send to a group of 100, by their outlets", fanout, 17_611),
    whole("round trip: there and back through an HTTP handler", || round_trips("/plain", 1), 34_087),
    whole("round trip: the same, with a schema", || round_trips("/schema", 1), 36_743),
    whole("round trip: the same, in a batch of its own", || round_trips("/batch", 1), 48_279),
    crowd("round trip: of each of 64 in batches, with a schema", || round_trips("/batch", CROWD), 26_800),
    whole("push: by REST, written, and its answer", push, 19_020),
];

/// What the compiler puts inline differs a little from one folder to the next.
const fn pure(name: &'static str, make: fn() -> Box<dyn FnMut()>, figure: u64) -> Workload {
    Workload { name, make, operations: 2000, messages: 1, figure, tolerance: 5 }
}

/// Sockets, the runtime, the client and the handler are in it.
const fn whole(name: &'static str, make: fn() -> Box<dyn FnMut()>, figure: u64) -> Workload {
    Workload { name, make, operations: 500, messages: 1, figure, tolerance: 8 }
}

/// Each operation is many messages. How they are shared out among batches varies.
const fn crowd(name: &'static str, make: fn() -> Box<dyn FnMut()>, figure: u64) -> Workload {
    Workload { name, make, operations: 100, messages: CROWD as u64, figure, tolerance: 15 }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, run, at, count] = &arguments[..]
        && run == "run"
    {
        let mut operation = (WORKLOADS[at.parse::<usize>().expect("a number")].make)();
        (0..count.parse::<u64>().expect("a number")).for_each(|_| operation());
        return ExitCode::SUCCESS;
    }
    let mut wrong = 0;
    for (at, workload) in WORKLOADS.iter().enumerate() {
        let Workload { name, figure, tolerance, operations, messages, .. } = workload;
        match (instructions(at, *operations), instructions(at, 2 * operations)) {
            (Some(once), Some(twice)) => {
                let count = (twice - once) / operations / messages;
                let most = figure + figure * tolerance / 100;
                println!("{name}: {count} instructions (figure {figure}, at most {most})");
                wrong += usize::from(count > most);
            }
            _ => println!("{name}: {:.0} ns of CPU (no valgrind)", time_ns(workload)),
        }
    }
    match wrong > 0 && arguments.iter().any(|argument| argument == "--check") {
        false => ExitCode::SUCCESS,
        true => {
            eprintln!("more instructions than allowed: find them, or renew the figure and say why");
            ExitCode::FAILURE
        }
    }
}

fn instructions(at: usize, count: u64) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["run", &at.to_string(), &count.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok())
}

fn time_ns(workload: &Workload) -> f64 {
    let mut operation = (workload.make)();
    let started = Instant::now();
    (0..workload.operations).for_each(|_| operation());
    started.elapsed().as_nanos() as f64 / (workload.operations * workload.messages) as f64
}

fn decode() -> Box<dyn FnMut()> {
    let pointer = Pointer::parse("/type").expect("a pointer");
    Box::new(move || {
        black_box(pointer.find(black_box(MESSAGE.as_bytes())).expect("JSON"));
    })
}

fn check() -> Box<dyn FnMut()> {
    let schema = serde_json::json!({
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"type": "string"}, "text": {"type": "string", "maxLength": 500}, "room": {"type": "string"}},
    });
    let schema = Schema::compile("file:///a", &BTreeMap::from([("file:///a".to_owned(), schema)])).expect("a schema");
    Box::new(move || {
        let value = json::parse(black_box(MESSAGE.as_bytes())).expect("JSON");
        schema.check(black_box(&value)).expect("valid");
    })
}

fn route() -> Box<dyn FnMut()> {
    let patterns = ["a.*", "b.*", "c.x", "d.*", "order.created", "e.*", "f.*", "g.x", "chat.*", "*"];
    let table = Table::new(patterns.map(|pattern| (Pattern::parse(pattern).expect("a pattern"), pattern)));
    Box::new(move || {
        black_box(table.find(black_box("chat.send")).expect("a route"));
    })
}

fn mailbox() -> Box<dyn FnMut()> {
    let mailbox = Mailbox::new(1 << 20);
    let payload = Payload::text(MESSAGE);
    Box::new(move || {
        mailbox.push(payload.clone(), None, Urgency::Insistent, Way::Queue);
        let taken = mailbox.take(Waker::noop(), 1 << 16, false);
        mailbox.release(payload.len(), taken.entries.len(), true);
    })
}

fn fanout() -> Box<dyn FnMut()> {
    let (registry, node) = (Registry::new(), NodeId::random());
    let group: Arc<str> = "g".into();
    for _ in 0..100 {
        let connection = Connection::new(Opening {
            id: ConnectionId::random(node),
            endpoint: "/ws".into(),
            user: None,
            context: None,
            grant: None,
            remote_addr: ([127, 0, 0, 1], 1).into(),
            subprotocol: None,
            send_buffer: 1 << 20,
            groups_max: 10,
        });
        connection.mailbox.set_outlet(Box::new(Nowhere));
        connection.mailbox.take(Waker::noop(), 0, false);
        registry.insert(connection.clone());
        registry.join(&connection.id, &group);
    }
    let payload = Payload::text(MESSAGE);
    Box::new(move || {
        for connection in registry.group("g") {
            let offered = connection.mailbox.push(payload.clone(), None, Urgency::Insistent, Way::OutletOrLeft);
            assert_eq!(offered, Offered::Queued);
        }
    })
}

/// A socket that takes all there is.
struct Nowhere;

impl Outlet for Nowhere {
    fn write(&mut self, payload: &Payload) -> Wrote {
        black_box(payload);
        Wrote::Whole
    }

    fn written_ms(&self) -> u64 {
        0
    }
}

/// Each client has one message at a time.
fn round_trips(path: &str, clients: usize) -> Box<dyn FnMut()> {
    let scene = Scene::start();
    let mut clients = scene.connect(path, clients);
    Box::new(move || {
        let _started = &scene;
        round(&mut clients);
    })
}

/// One push at a time.
fn push() -> Box<dyn FnMut()> {
    let scene = Scene::start();
    let mut clients = scene.pushed(1);
    Box::new(move || {
        let _started = &scene;
        round(&mut clients);
    })
}
