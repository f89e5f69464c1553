//! Instruction counts of the hot paths, by valgrind's callgrind: steady on a noisy machine. `cargo bench --bench instructions` prints
//! instructions per operation, or CPU time where valgrind is absent. The count of one run is subtracted from that of a run twice as
//! long, so that start-up does not count.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use holdfast::connection::{Connection, Opening};
use holdfast::ids::{ConnectionId, NodeId};
use holdfast::mailbox::{Mailbox, Urgency};
use holdfast::message::Payload;
use holdfast::registry::Registry;
use holdfast::routing::{Pattern, Pointer, Table};
use holdfast::schema::Schema;

const OPERATIONS: u64 = 2000;
const MESSAGE: &str = r#"{"type":"chat.send","room":"lobby","text":"a message of ordinary length, as people write them","client":{"version":"1.2.3","locale":"de"}}"#;

/// A named workload: makes its inputs, and gives back what does one operation.
type Workload = (&'static str, fn() -> Box<dyn FnMut()>);

const WORKLOADS: &[Workload] = &[
    ("decode: event name of a 140-byte message", decode),
    ("check: parse and validate it", check),
    ("route: the ninth of ten patterns", route),
    ("mailbox: push, take, release", mailbox),
    ("fan-out: one send to a group of 100", fanout),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, run, at, count] = &arguments[..]
        && run == "run"
    {
        let mut operation = WORKLOADS[at.parse::<usize>().expect("a number")].1();
        (0..count.parse::<u64>().expect("a number")).for_each(|_| operation());
        return;
    }
    for (at, (name, _)) in WORKLOADS.iter().enumerate() {
        match (instructions(at, OPERATIONS), instructions(at, 2 * OPERATIONS)) {
            (Some(once), Some(twice)) => println!("{name}: {} instructions", (twice - once) / OPERATIONS),
            _ => println!("{name}: {:.0} ns of CPU (no valgrind)", time_ns(at)),
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

fn time_ns(at: usize) -> f64 {
    let mut operation = WORKLOADS[at].1();
    let started = Instant::now();
    (0..OPERATIONS * 10).for_each(|_| operation());
    started.elapsed().as_nanos() as f64 / (OPERATIONS * 10) as f64
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
        let value = serde_json::from_slice(black_box(MESSAGE.as_bytes())).expect("JSON");
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
        mailbox.push(payload.clone(), None, Urgency::Insistent);
        let taken = mailbox.take(Waker::noop(), 1 << 16);
        mailbox.release(payload.len(), taken.entries.len());
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
        registry.insert(connection.clone());
        registry.join(&connection.id, &group);
    }
    let payload = Payload::text(MESSAGE);
    Box::new(move || {
        for connection in registry.group("g") {
            connection.mailbox.push(payload.clone(), None, Urgency::Insistent);
            let taken = connection.mailbox.take(Waker::noop(), 1 << 16);
            connection.mailbox.release(payload.len(), taken.entries.len());
        }
    })
}
