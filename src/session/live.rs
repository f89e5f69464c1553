//! What a session has only while its socket lives: the socket, the alarm, the receipts, the registry entry. Dropping it drops them all.
//! Must not know what a message means.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::socket::Socket;
use super::stream::Stream;
use crate::deliver::Registration;
use crate::mailbox::{Entry, OnWritten};

/// What lives as long as the socket.
pub struct Live<S> {
    pub socket: Socket<S>,
    sleep: Pin<Box<Sleep>>,
    /// When the alarm goes off, once its task waits for it; 0 before.
    alarm_ms: u64,
    /// Called once the frames that are being written are in the socket: frames still to go, and whom to tell.
    pub receipts: Vec<(u32, OnWritten)>,
    writing: u32,
    pub closing: Closing,
    _registration: Registration,
}

/// How far the close is.
#[derive(Debug, PartialEq, Eq)]
pub enum Closing {
    No,
    /// The close frame goes out after what is queued.
    Wanted,
    /// The close frame is out or queued; the peer's is awaited.
    Sent,
    /// Both are out, or the peer broke the protocol: flush, end the writing half, read to the end.
    Lingering,
}

impl<S: Stream> Live<S> {
    /// A socket whose first alarm goes off at `alarm`.
    pub fn new(socket: Socket<S>, registration: Registration, alarm: Instant) -> Self {
        Self {
            socket,
            sleep: Box::pin(tokio::time::sleep_until(alarm)),
            alarm_ms: 0,
            receipts: Vec::new(),
            writing: 0,
            closing: Closing::No,
            _registration: registration,
        }
    }

    /// Hands one payload to the socket, with what bytes of its frame are out already.
    pub fn queue(&mut self, entry: Entry, begun: usize) {
        self.writing += 1;
        if let Some(on_written) = entry.on_written {
            self.receipts.push((self.writing, on_written));
        }
        match begun {
            0 => self.socket.queue(entry.payload),
            begun => self.socket.resume(entry.payload, begun),
        }
    }

    /// Tells those who wait for the first `frames` frames.
    pub fn wrote(&mut self, frames: usize) {
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        self.writing = self.writing.saturating_sub(frames);
        for (at, on_written) in std::mem::take(&mut self.receipts) {
            if at <= frames {
                on_written();
            } else {
                self.receipts.push((at - frames, on_written));
            }
        }
    }

    /// True once the alarm has gone off. While it is ahead nothing is asked of the timer, whose memory is far away.
    pub fn poll_alarm(&mut self, cx: &mut Context<'_>, epoch: Instant, now_ms: u64) -> bool {
        if now_ms < self.alarm_ms {
            return false;
        }
        let is_due = self.sleep.as_mut().poll(cx).is_ready();
        self.alarm_ms = match is_due {
            true => 0,
            false => (self.sleep.deadline() - epoch).as_millis() as u64,
        };
        is_due
    }

    /// Moves the alarm forward if something is due earlier; a later deadline is found when the alarm goes off.
    pub fn wake_at(&mut self, epoch: Instant, deadline_ms: Option<u64>) {
        let Some(deadline_ms) = deadline_ms else { return };
        let at = epoch + Duration::from_millis(deadline_ms);
        if at < self.sleep.deadline() || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(at);
            self.alarm_ms = 0;
        }
    }
}
