//! A client's bytes through the socket and the machine, in pieces of any size, while the server writes to a peer that takes what it
//! likes. Input: the size limit, the number of steps, the steps, then the bytes of the wire. What comes out is held against a
//! decoder of RFC 6455 that sees the whole wire at once; what went in on the other side is decoded again.

mod oracle;

use std::task::{Context, Poll, Waker};

use holdfast::codes::{Cause, CloseCode};
use holdfast::message::command::REASON_BYTES_MAX;
use holdfast::message::{Ending, Kind, Payload};
use holdfast::session::machine::{Machine, Received};
use holdfast::session::socket::{Incoming, Socket, Written};

use super::machine::settings;
use super::pipe::Pipe;
use oracle::{Event, Frame};

const LIMITS: [usize; 8] = [1, 16, 125, 126, 127, 1000, 65_535, 70_000];
const QUEUED_MAX: usize = 100;

pub fn run(data: &[u8]) {
    let [limit, count, rest @ ..] = data else { return };
    let Some((steps, wire)) = rest.split_at_checked(usize::from(*count)) else { return };
    let limit = LIMITS[usize::from(*limit) % LIMITS.len()];
    let mut peer = Peer::new(wire, limit);
    for step in steps {
        peer.step(step % 8, usize::from(step / 8) + 1);
    }
    peer.finish();
}

/// Both ends of one connection.
struct Peer<'a> {
    wire: &'a [u8],
    /// Bytes of the wire that the socket may have read.
    fed: usize,
    limit: usize,
    pipe: Pipe,
    socket: Socket<Pipe>,
    machine: Machine,
    expected: std::vec::IntoIter<Event>,
    queued: Vec<Payload>,
    written: Written,
    pings: Vec<Vec<u8>>,
    /// No frame was dropped, or this many of the queued ones may have left.
    left: Option<(usize, usize)>,
    close: Option<Ending>,
    is_over: bool,
}

impl<'a> Peer<'a> {
    fn new(wire: &'a [u8], limit: usize) -> Self {
        // Some bytes come in behind the handshake.
        let ahead = wire.len().min(wire.first().map_or(0, |byte| usize::from(byte % 8)));
        let pipe = Pipe::default();
        let mut socket = Socket::new(pipe.clone(), &wire[..ahead], 10);
        socket.set_message_size(limit);
        Self {
            wire,
            fed: ahead,
            limit,
            pipe,
            socket,
            machine: Machine::new(settings(&[0, 0, 0, 0, 0, 100]), 0),
            expected: oracle::read(wire, limit).into_iter(),
            queued: Vec::new(),
            written: Written::default(),
            pings: Vec::new(),
            left: None,
            close: None,
            is_over: false,
        }
    }

    fn step(&mut self, what: u8, how_much: usize) {
        match what {
            0 => self.feed(how_much),
            1 => self.feed(how_much * 64),
            2 => drop(self.read()),
            3 => self.pipe.ends().room += how_much * how_much,
            4 => self.queue(how_much),
            5 if self.close.is_none() && !self.is_over => self.socket.ping(),
            6 => self.flush(),
            _ if how_much == 1 => self.close(),
            _ => drop(self.machine.next_message(0)),
        }
    }

    fn feed(&mut self, count: usize) {
        let end = self.wire.len().min(self.fed + count);
        self.pipe.ends().input.extend(&self.wire[self.fed..end]);
        self.fed = end;
    }

    /// Reads once, as the session's task does. False where nothing came.
    fn read(&mut self) -> bool {
        if self.is_over || !(self.machine.wants_messages() || self.close.is_some()) {
            return false;
        }
        let Poll::Ready(incoming) = self.socket.poll_read(&mut context()) else { return false };
        match incoming {
            Incoming::Message(payload, _) => self.on_message(payload),
            Incoming::Control => match self.expected.next() {
                Some(Event::Ping(bytes)) => self.pings.push(bytes),
                expected => assert_eq!(expected, Some(Event::Pong)),
            },
            Incoming::Close(ending) => {
                let expected = self.expected.next();
                // What answers the server's own close counts for nothing, whatever it says.
                let is_answer = self.close.is_some() && matches!(expected, Some(Event::Close(..)));
                let event = Event::Close(ending.code.0, ending.reason.clone());
                assert!(is_answer || expected.as_ref() == Some(&event), "{event:?}, expected {expected:?}");
                self.over(ending);
            }
            Incoming::Violation(ending) => {
                assert_eq!(self.expected.next(), Some(Event::Violation(ending.code.0)), "{}", ending.reason);
                assert!(ending.reason.len() <= REASON_BYTES_MAX && ending.code.is_sendable(), "{ending:?}");
                if self.close.is_none() {
                    self.drop_queued();
                    self.socket.close(&ending);
                }
                self.over(ending);
            }
            Incoming::End => {
                assert_eq!(self.expected.next(), None, "the stream ended");
                self.is_over = true;
            }
        }
        true
    }

    fn on_message(&mut self, payload: Payload) {
        assert!(payload.len() <= self.limit, "a message of {} bytes, at most {}", payload.len(), self.limit);
        let event = Event::Message(payload.kind() == Kind::Text, payload.bytes().to_vec());
        assert!(self.expected.next() == Some(event), "another message than was sent");
        if payload.kind() == Kind::Text {
            assert!(std::str::from_utf8(payload.bytes()).is_ok(), "a text that is not UTF-8");
        }
        let seq = self.machine.seq();
        let received = self.machine.on_message(0, payload);
        assert_eq!(received == Received::Queued, self.close.is_none());
        assert_eq!(self.machine.seq(), seq + u64::from(self.close.is_none()));
        assert!(self.machine.waiting_bytes() <= 1 + 100 * 16 + self.limit + 64, "read ahead too far");
    }

    /// The peer closed or broke the protocol: the session lingers.
    fn over(&mut self, ending: Ending) {
        if self.left.is_none() {
            self.drop_queued();
        }
        self.close.get_or_insert(ending);
        self.is_over = true;
    }

    fn drop_queued(&mut self) {
        self.left = Some((self.written.frames, self.written.frames + 1));
        self.socket.drop_queued();
    }

    fn queue(&mut self, how_much: usize) {
        // Sizes on both sides of where a frame's header grows.
        let len = match how_much {
            30 => 125,
            31 => 65_533,
            32 => 65_535,
            _ => how_much * how_much / 2,
        };
        if self.queued.len() < QUEUED_MAX && self.close.is_none() && !self.is_over {
            let number = self.queued.len();
            let payload = match number % 2 {
                0 => Payload::text(format!("{number:0len$}")),
                _ => Payload::binary(format!("{number:0len$}")),
            };
            self.queued.push(payload.clone());
            self.socket.queue(payload);
        }
    }

    fn flush(&mut self) {
        let mut written = Written::default();
        let flushed = self.socket.poll_flush(&mut context(), &mut written);
        self.written.frames += written.frames;
        self.written.payload_bytes += written.payload_bytes;
        let bytes: usize = self.queued.iter().take(self.written.frames).map(Payload::len).sum();
        assert_eq!(self.written.payload_bytes, bytes, "what was written is told");
        match flushed {
            Poll::Ready(Ok(())) => assert!(self.socket.is_idle()),
            Poll::Ready(Err(error)) => panic!("the pipe does not fail: {error}"),
            Poll::Pending => assert_eq!(self.pipe.ends().room, 0, "there was room"),
        }
    }

    /// The server closes; only once no message waits, as the session does.
    fn close(&mut self) {
        if self.close.is_none() && !self.is_over && self.socket.is_idle() {
            let ending = Ending::new(CloseCode::APPLICATION, "r".repeat(REASON_BYTES_MAX), Cause::Server);
            self.machine.close(0, ending.clone());
            self.socket.close(&ending);
            self.close = Some(ending);
        }
    }

    /// The rest of the wire comes in, everything is read and the peer takes all.
    fn finish(mut self) {
        self.feed(self.wire.len());
        self.pipe.ends().has_ended = true;
        while !self.is_over {
            while self.machine.next_message(0).is_some() {}
            assert!(self.read(), "a stream that ended says so");
        }
        assert_eq!(self.expected.next(), None, "more was sent");
        self.pipe.ends().room = usize::MAX / 2;
        self.flush();
        self.wrote_whole_frames();
    }

    /// What the client reads: whole frames, messages in order and untorn, pongs for pings, the close last.
    fn wrote_whole_frames(&mut self) {
        let output = std::mem::take(&mut self.pipe.ends().output);
        let frames = oracle::frames(&output).expect("whole frames");
        let (mut messages, mut pongs, mut closes) = (Vec::new(), self.pings.iter(), 0);
        for (at, Frame { opcode, payload, .. }) in frames.iter().enumerate() {
            match opcode {
                1 => messages.push(Payload::text(String::from_utf8(payload.clone()).expect("UTF-8"))),
                2 => messages.push(Payload::binary(payload.clone())),
                8 => {
                    assert_eq!(at + 1, frames.len(), "something after the close");
                    closes += 1;
                }
                9 => assert!(payload.is_empty()),
                _ => assert!(pongs.any(|ping| ping == payload), "a pong without its ping"),
            }
        }
        let (least, most) = self.left.unwrap_or((self.queued.len(), self.queued.len()));
        assert!((least..=most).contains(&messages.len()), "{} of {least} to {most} messages", messages.len());
        assert!(messages == self.queued[..messages.len()], "messages differ");
        assert_eq!(closes, usize::from(self.close.is_some()), "close frames");
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
