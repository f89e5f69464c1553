//! A seeded simulation of machine, mailbox and registry together, in the ordinary test run. `HOLDFAST_SEED=N cargo test simulation`
//! replays one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::codes::{Cause, CloseCode};
use crate::connection::{Connection, Opening};
use crate::ids::{ConnectionId, NodeId};
use crate::limits::{Accounts, Entering, NodeLimits, Quota, Quotas, Rate, Rates, Who};
use crate::mailbox::{Close, FRAME_OVERHEAD_BYTES, Offered, Urgency, Way};
use crate::message::{Ending, Payload};
use crate::registry::Registry;
use crate::session::machine::{Due, Machine, Received, Settings};

const SEEDS: u64 = 400;
const STEPS: usize = 600;
const BUDGET: usize = 4000;
const RECEIVE_BUFFER: usize = 1000;
const MESSAGE_BYTES_MAX: usize = 300;
const NODE_LIMITS: NodeLimits =
    NodeLimits { connections: 9, connections_per_address: None, handshakes: None, handshakes_per_address: None };

/// One simulated connection with what the model knows of it.
struct Peer {
    connection: Arc<Connection>,
    machine: Machine,
    /// Sequence numbers that were accepted and not yet started, in order.
    accepted: VecDeque<u64>,
    running: Vec<u64>,
    window: usize,
    /// Numbers pushed to the mailbox and not yet written, in order.
    queued: VecDeque<u64>,
    cut: bool,
    closing: bool,
    gone: bool,
    groups: BTreeSet<usize>,
}

struct World {
    random: StdRng,
    registry: Registry,
    accounts: Arc<Accounts>,
    peers: Vec<Peer>,
    now_ms: u64,
    pushed: u64,
    groups: Vec<Arc<str>>,
}

#[test]
fn simulation_of_machine_mailbox_and_registry() {
    let seeds = match std::env::var("HOLDFAST_SEED") {
        Ok(seed) => vec![seed.parse().expect("HOLDFAST_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| World::new(seed).run());
        assert!(result.is_ok(), "seed {seed} failed: HOLDFAST_SEED={seed} cargo test simulation");
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let groups = ["a", "b", "c"].map(Arc::from).to_vec();
        let random = StdRng::seed_from_u64(seed);
        let (registry, accounts) = (Registry::new(), Arc::default());
        Self { random, registry, accounts, peers: Vec::new(), now_ms: 0, pushed: 0, groups }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.now_ms += self.random.random_range(0..500);
            if self.peers.len() < 4 || self.random.random_ratio(1, 50) {
                self.open();
            }
            let at = self.random.random_range(0..self.peers.len());
            match self.random.random_range(0..12) {
                0..=2 => self.message(at),
                3 => self.finish_call(at),
                4 | 5 => self.write(at),
                6 => self.push(at),
                7 => self.group_send(),
                8 => self.join_or_leave(at),
                9 => self.time(at),
                10 => self.close(at),
                _ => self.vanish(at),
            }
            self.start_calls(at);
            self.check();
        }
        for at in 0..self.peers.len() {
            self.end(at);
        }
        assert!(self.registry.is_empty());
        assert!(self.groups.iter().all(|group| self.registry.group(group).is_empty()), "a ghost stayed in a group");
        self.accounts.sweep(self.now_ms + 1000);
        assert!(self.accounts.is_empty(), "an account outlived its connections");
    }

    fn open(&mut self) {
        let settings = Settings {
            heartbeat_interval_ms: 25_000,
            heartbeat_timeout_ms: 5_000,
            heartbeat_misses: 2,
            idle_timeout_ms: Some(120_000),
            lifetime_ms: Some(600_000),
            receive_buffer: RECEIVE_BUFFER,
            invalid_messages: None,
            close_timeout_ms: 3_000,
        };
        let connection = Connection::new(Opening {
            id: ConnectionId::random(NodeId::random()),
            endpoint: "/ws".into(),
            user: Some("u".into()),
            context: None,
            grant: None,
            remote_addr: ([127, 0, 0, 1], 1).into(),
            subprotocol: None,
            send_buffer: BUDGET,
            groups_max: 2,
        });
        self.registry.insert(connection.clone());
        let mut machine = Machine::new(settings, self.now_ms);
        let rates = |per_second| Rates { messages: Some(Rate::new(per_second, None)), bytes: None };
        let user = Quota { rates: rates(20), connections: None };
        let quotas = match self.random.random_range(0..3) {
            0 => Quotas { connection: rates(5), ..Quotas::default() },
            1 => Quotas { user, ..Quotas::default() },
            _ => Quotas::default(),
        };
        let who = Who { endpoint: &connection.endpoint, network: 0, user: connection.user.as_ref() };
        let meters = self.accounts.meter(None, &who, (&Arc::new(quotas), &NODE_LIMITS), Entering::New);
        machine.set_meters(meters.expect("no limit on connections"));
        self.peers.push(Peer {
            connection,
            machine,
            accepted: VecDeque::new(),
            running: Vec::new(),
            window: 1,
            queued: VecDeque::new(),
            cut: false,
            closing: false,
            gone: false,
            groups: BTreeSet::new(),
        });
    }

    fn message(&mut self, at: usize) {
        let payload = Payload::text("x".repeat(self.random.random_range(0..MESSAGE_BYTES_MAX)));
        let peer = &mut self.peers[at];
        let before = peer.machine.seq();
        let wanted = peer.machine.wants_messages();
        if !wanted && !peer.closing {
            return;
        }
        peer.machine.heard(self.now_ms);
        match peer.machine.on_message(self.now_ms, payload) {
            Received::Queued => peer.accepted.push_back(before + 1),
            Received::Limited { seq, excess } => {
                assert_eq!(seq, before + 1);
                assert!((1..=1000).contains(&excess.retry_after_ms));
            }
            Received::Ignored => assert!(!wanted && peer.machine.seq() == before),
        }
    }

    fn start_calls(&mut self, at: usize) {
        let window = self.random.random_range(1..4);
        let peer = &mut self.peers[at];
        if peer.running.is_empty() {
            peer.window = window;
        }
        while let Some(next) = peer.machine.next_message(self.now_ms) {
            assert_eq!(Some(next.seq), peer.accepted.pop_front(), "calls start in order");
            assert!(next.received_ms <= self.now_ms);
            peer.machine.call_started(peer.window);
            peer.running.push(next.seq);
        }
    }

    fn finish_call(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if peer.running.is_empty() {
            return;
        }
        let done = self.random.random_range(0..peer.running.len());
        peer.running.remove(done);
        peer.machine.call_finished();
        self.push_to(at, Urgency::Insistent);
    }

    fn push(&mut self, at: usize) {
        self.push_to(at, Urgency::Polite);
    }

    fn push_to(&mut self, at: usize, urgency: Urgency) {
        self.pushed += 1;
        let len = self.random.random_range(8..MESSAGE_BYTES_MAX);
        let payload = Payload::text(format!("{:0len$}", self.pushed));
        let number = self.pushed;
        let peer = &mut self.peers[at];
        let used = peer.connection.mailbox.used_bytes();
        let offered = peer.connection.mailbox.push(payload, None, urgency, Way::Queue);
        peer.learn(offered, number, used, len + FRAME_OVERHEAD_BYTES, urgency);
    }

    fn group_send(&mut self) {
        let group = self.random.random_range(0..self.groups.len());
        self.pushed += 1;
        let payload = Payload::text(format!("{:08}", self.pushed));
        let members = self.registry.group(&self.groups[group]);
        let expected: BTreeSet<_> = self.peers.iter().filter(|p| p.groups.contains(&group)).map(Peer::id).collect();
        assert_eq!(members.iter().map(|member| member.id).collect::<BTreeSet<_>>(), expected);
        for member in members {
            let used = member.mailbox.used_bytes();
            let offered = member.mailbox.push(payload.clone(), None, Urgency::Insistent, Way::Queue);
            let peer = self.peers.iter_mut().find(|peer| peer.id() == member.id).expect("a peer");
            peer.learn(offered, self.pushed, used, 8 + FRAME_OVERHEAD_BYTES, Urgency::Insistent);
        }
    }

    fn write(&mut self, at: usize) {
        let most = self.random.random_range(1..2000);
        let peer = &mut self.peers[at];
        if peer.gone {
            return;
        }
        let taken = peer.connection.mailbox.take(Waker::noop(), most, false);
        if peer.cut {
            assert!(taken.entries.is_empty() && taken.close == Some(Close::Cut));
            peer.queued.clear();
            return;
        }
        for entry in &taken.entries {
            let text = String::from_utf8_lossy(entry.payload.bytes()).into_owned();
            assert_eq!(Some(text.parse().expect("a number")), peer.queued.pop_front(), "written in order");
            peer.connection.mailbox.release(entry.payload.len(), 1, true);
        }
        assert_eq!(taken.drained, peer.queued.is_empty());
        if taken.drained && peer.queued.is_empty() {
            assert_eq!(peer.connection.mailbox.used_bytes(), 0, "the budget came back");
        }
        peer.machine.sent(self.now_ms);
    }

    fn join_or_leave(&mut self, at: usize) {
        let group = self.random.random_range(0..self.groups.len());
        let name = self.groups[group].clone();
        let leave = self.random.random_bool(0.3);
        let peer = &mut self.peers[at];
        if leave {
            assert_eq!(self.registry.leave(&peer.id(), &name), !peer.gone);
            peer.groups.remove(&group);
        } else if matches!(self.registry.join(&peer.id(), &name), crate::connection::Joined::New) {
            assert!(!peer.gone && peer.groups.len() < 2);
            peer.groups.insert(group);
        }
    }

    fn time(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        match peer.machine.on_time(self.now_ms) {
            Due::Nothing | Due::Ping | Due::TokenEnding { .. } => {}
            Due::Close(ending) => {
                peer.connection.mailbox.close(Close::AfterQueued(ending.clone()));
                peer.machine.close(self.now_ms, ending);
                peer.closing = true;
            }
            Due::GiveUp => self.end(at),
        }
    }

    fn close(&mut self, at: usize) {
        let ending = Ending::new(CloseCode::DRAIN, "bye", Cause::Drain);
        let peer = &mut self.peers[at];
        if self.random.random_bool(0.1) {
            let first = !peer.gone && !peer.closing && !peer.cut;
            assert_eq!(peer.connection.mailbox.close(Close::AfterQueued(ending.clone())), first);
            peer.machine.close(self.now_ms, ending);
            peer.closing = true;
        }
    }

    fn vanish(&mut self, at: usize) {
        if self.random.random_bool(0.1) {
            self.end(at);
        }
    }

    fn end(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let known = !peer.gone;
        assert_eq!(self.registry.remove(&peer.id()), known, "a connection ends once");
        peer.connection.mailbox.shut();
        peer.machine.gone(Ending::new(CloseCode::ABNORMAL, "", Cause::Client));
        peer.gone = true;
        peer.closing = true;
        peer.queued.clear();
        peer.groups.clear();
    }

    fn check(&self) {
        assert_eq!(self.registry.len(), self.peers.iter().filter(|peer| !peer.gone).count());
        let mut waiting: BTreeMap<ConnectionId, usize> = BTreeMap::new();
        for peer in &self.peers {
            assert!(peer.connection.mailbox.used_bytes() <= BUDGET, "a mailbox is over its budget");
            assert!(peer.machine.waiting_bytes() <= RECEIVE_BUFFER + MESSAGE_BYTES_MAX + 64, "read ahead too far");
            assert_eq!(peer.machine.running(), peer.running.len());
            assert!(peer.running.len() <= peer.window.max(1));
            assert_eq!(peer.machine.is_gone(), peer.gone);
            waiting.insert(peer.id(), peer.accepted.len());
        }
        assert_eq!(waiting.len(), self.peers.len(), "IDs differ");
    }
}

impl Peer {
    fn id(&self) -> ConnectionId {
        self.connection.id
    }

    /// Holds an offer's outcome against the rules, and remembers it.
    fn learn(&mut self, offered: Offered, number: u64, used: usize, cost: usize, urgency: Urgency) {
        if self.gone || self.cut || self.closing {
            assert_eq!(offered, Offered::Gone);
            return;
        }
        let fits = used + cost <= BUDGET;
        let expected = match urgency {
            Urgency::Polite if !fits || used > BUDGET / 2 => Offered::Full,
            Urgency::Insistent if !fits => Offered::Overflow,
            _ => Offered::Queued,
        };
        assert_eq!(offered, expected);
        match offered {
            Offered::Queued => self.queued.push_back(number),
            Offered::Overflow => self.cut = true,
            _ => {}
        }
    }
}
