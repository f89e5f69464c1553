//! The task of one connection: it alone reads the socket, writes what the outlet of its mailbox does not, starts the calls and obeys
//! the machine. Dropping it drops the socket, its calls and its registry entry. Knows the machine, the mailbox, the pipeline; must not
//! know the registry or upstreams.

mod recording;
mod renewal;
mod settings;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::deflate::Packed;
use super::live::{Closing, Live};
use super::machine::{Due, Machine, Received};
use super::socket::{Incoming, Socket, Written};
use super::stream::{Direct, Stream};
use crate::codes::{Cause, CloseCode, ErrorCode};
use crate::connection::Connection;
use crate::deliver::{Deliver, Registration};
use crate::limits::{Accounts, Limit, Meters};
use crate::mailbox::{Close, Offered, Way};
use crate::message::{Ending, Payload, Reject};
use crate::pipeline::{
    Greeting, Inbound, Pipeline, Prepared, Renewal, Routed, Sender, Verdict, error_frame, token_frame,
};
use crate::recorder::Cause as Why;
use crate::snapshot::{Endpoint, Route};
use renewal::expiry_of;
use settings::settings_of;

/// Bytes that the writer takes out of the mailbox at once.
const WRITE_BATCH_BYTES: usize = 64 * 1024;
/// Messages read in one turn. A flood that is refused at once waits for no upstream: without this it would keep the thread for as long
/// as bytes are there.
const STEPS_MAX: usize = 16;
/// How long a close handshake may take before the socket is given up.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What every session uses.
pub struct Services {
    pub pipeline: Arc<Pipeline>,
    pub deliver: Arc<Deliver>,
    /// What users and addresses share.
    pub accounts: Arc<Accounts>,
    /// All times in milliseconds count from here.
    pub epoch: Instant,
}

impl Services {
    pub fn now_ms(&self) -> u64 {
        millis(self.epoch.elapsed())
    }
}

/// One connection being served.
pub struct Session<S> {
    services: Arc<Services>,
    endpoint: Arc<Endpoint>,
    connection: Arc<Connection>,
    machine: Machine,
    /// None once the socket is gone; with it goes the registry entry.
    live: Option<Live<S>>,
    calls: Vec<Call>,
    /// A message whose route differs from that of the calls under way.
    held: Option<Box<Routed>>,
    /// A token that is being verified.
    renewal: Option<Pin<Box<dyn Future<Output = Renewal> + Send>>>,
}

struct Call {
    verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    route: Arc<Route>,
}

impl<S: Stream> Session<S> {
    /// Readies the session of a registered connection.
    pub fn new(
        services: Arc<Services>,
        endpoint: Arc<Endpoint>,
        connection: Arc<Connection>,
        registration: Registration,
        mut socket: Socket<S>,
        meters: Option<Box<Meters>>,
    ) -> Self {
        let now_ms = services.now_ms();
        let mut machine = Machine::new(settings_of(&endpoint), now_ms);
        machine.set_meters(meters);
        machine.set_expiry(connection.grant().and_then(|grant| expiry_of(&endpoint, &grant, now_ms)));
        let first = machine.next_deadline_ms().unwrap_or_default();
        endpoint.metrics.connections.inc();
        endpoint.metrics.opened.inc();
        if let Some(second) = socket.second() {
            connection.mailbox.set_outlet(Box::new(Direct::new(second, endpoint.metrics.clone(), services.epoch)));
        }
        let live = Some(Live::new(socket, registration, services.epoch + Duration::from_millis(first)));
        Self { services, endpoint, connection, machine, live, calls: Vec::new(), held: None, renewal: None }
    }

    /// Serves the connection to its end: until the socket is gone, every accepted message is answered, and the disconnect event
    /// is delivered; `place` is dropped then. Not an `async fn`: that would hold the session twice, and the greeting as long.
    pub fn run<P>(mut self, greeting: Greeting, place: P) -> impl Future<Output = ()> {
        let Greeting { token_frame, frame, commands, .. } = greeting;
        token_frame.into_iter().for_each(|frame| self.send(frame, None, Way::Outlet));
        self.apply(Verdict { frame, commands, ..Verdict::default() });
        // Now it is in the groups that it begins with.
        self.record_connected();
        async move {
            poll_fn(|cx| self.poll_serve(cx)).await;
            Box::pin(self.tell_disconnect()).await;
            drop(place);
        }
    }

    async fn tell_disconnect(&mut self) {
        self.services.pipeline.refresh(&mut self.endpoint);
        let ending = self.machine.ending();
        let (sender, seq) = (sender_of(&self.connection), self.machine.seq() + 1);
        let lived = Duration::from_millis(self.now_ms().saturating_sub(self.machine.opened_ms()));
        self.services.pipeline.disconnect(&self.endpoint, sender, seq, &ending, lived).await;
    }

    /// Ends a connection whose handshake came to nothing: its connect was accepted, so its disconnect is due.
    pub async fn never_opened(services: &Services, endpoint: &Endpoint, connection: &Connection, ending: &Ending) {
        services.pipeline.disconnect(endpoint, sender_of(connection), 1, ending, Duration::ZERO).await;
    }

    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // One reading of the clock for the whole turn: it is short, and a reading costs as much as a step.
        let now_ms = self.now_ms();
        for _ in 0..STEPS_MAX {
            let mut progress = self.poll_renewal(cx);
            // A call that begins is polled here, and one that ends may let another begin: the socket need not be asked in between.
            loop {
                self.start_calls(now_ms);
                if !self.poll_calls(cx) {
                    break;
                }
            }
            if self.live.is_some() {
                progress |= self.poll_mailbox(cx, now_ms);
                progress |= self.poll_socket_read(cx, now_ms);
                progress |= self.poll_time(cx, now_ms);
            }
            if self.machine.is_gone() && self.machine.is_quiet() && self.held.is_none() {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the verdicts of finished calls.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut at = 0;
        while let Some(call) = self.calls.get_mut(at) {
            match call.verdict.as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(verdict) => {
                    self.calls.remove(at);
                    self.machine.call_finished();
                    self.apply(verdict);
                    progress = true;
                }
            }
        }
        if progress && self.calls.is_empty() {
            // A quiet connection holds no buffer.
            self.calls = Vec::new();
        }
        if let Some(ending) = self.machine.finished().filter(|_| self.held.is_none()).cloned() {
            self.begin_close(ending);
            progress = true;
        }
        progress
    }

    /// Starts the calls of waiting messages as far as the window allows.
    fn start_calls(&mut self, now_ms: u64) {
        loop {
            if let Some(held) = self.held.take_if(|held| self.calls.iter().all(|call| held.same_route(&call.route))) {
                self.start(held);
            }
            if self.held.is_some() {
                return;
            }
            let Some(waiting) = self.machine.next_message(now_ms) else { return };
            self.refresh();
            let received = self.services.epoch + Duration::from_millis(waiting.received_ms);
            let recording = self.record(waiting.seq, &waiting.payload, received);
            let inbound = Inbound { seq: waiting.seq, payload: waiting.payload, received, recording };
            match self.services.pipeline.prepare(&self.endpoint, sender_of(&self.connection), inbound) {
                Prepared::Refused(verdict) => self.apply(verdict),
                Prepared::Routed(routed) => self.held = Some(routed),
            }
        }
    }

    fn start(&mut self, routed: Box<Routed>) {
        self.machine.call_started(routed.window());
        let route = routed.route().clone();
        let verdict = Box::pin(self.services.pipeline.clone().call(routed));
        self.calls.push(Call { verdict, route });
    }

    /// Does what a verdict says: the frame first, then the commands, then the close.
    fn apply(&mut self, verdict: Verdict) {
        if let Some(frame) = verdict.frame {
            // Whoever has the answer is in the groups that it gave: it waits in the mailbox until the commands are carried out.
            let way = if verdict.commands.is_empty() { Way::Outlet } else { Way::Queue };
            self.send(frame, Some(if verdict.is_error { Why::Error } else { Why::Answer }), way);
        }
        for command in &verdict.commands {
            self.services.deliver.run(command, Some(&self.connection.id));
        }
        if let Some(ending) = verdict.close {
            self.begin_close(ending);
        }
        if verdict.invalid
            && let Some(ending) = self.machine.on_invalid()
        {
            self.services.pipeline.count_limited(&self.endpoint.draft.path, Limit::InvalidMessages);
            self.begin_close(ending);
        }
    }

    fn send(&mut self, frame: Payload, why: Option<Why>, way: Way) {
        let len = frame.len();
        if self.offer(frame, why, way) == Offered::TooLarge {
            tracing::warn!(connection = %self.connection.id, bytes = len, "a reply is larger than limits.send_buffer");
            let reject = Reject::new(ErrorCode::Internal, "the reply is larger than this connection's send buffer");
            self.offer(error_frame(&reject, self.machine.seq()), Some(Why::Error), way);
        }
    }

    /// Moves what is queued to the socket, and begins the close that was asked for.
    fn poll_mailbox(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        let Some(live) = &mut self.live else { return false };
        let idle = live.socket.is_idle();
        let batch = if idle { WRITE_BATCH_BYTES } else { 0 };
        let taken = self.connection.mailbox.take(cx.waker(), batch, live.socket.is_writing());
        let mut progress = !taken.entries.is_empty();
        let begun = std::iter::once(taken.begun).chain(std::iter::repeat(0));
        taken.entries.into_iter().zip(begun).for_each(|(entry, begun)| live.queue(entry, begun));
        if let Some(close) = taken.close
            && self.machine.is_serving()
        {
            progress |= self.on_close_asked(now_ms, close);
        }
        let Some(live) = &mut self.live else { return true };
        if live.closing == Closing::Wanted && taken.drained && live.socket.is_idle() {
            live.closing = Closing::Sent;
            live.socket.close(&self.machine.ending());
        }
        self.flush(cx, now_ms) | progress
    }

    fn on_close_asked(&mut self, now_ms: u64, close: Close) -> bool {
        match close {
            Close::AfterQueued(ending) => self.begin_close(ending),
            Close::AfterAnswers(ending, within_ms) => {
                // Asked again at each turn; only the first counts.
                let begun = self.machine.ending() == ending;
                self.machine.finish(now_ms, ending, within_ms);
                if let Some(live) = &mut self.live {
                    live.wake_at(self.services.epoch, self.machine.next_deadline_ms());
                }
                return !begun;
            }
            Close::Cut => {
                tracing::info!(connection = %self.connection.id, "slow consumer cut");
                self.endpoint.metrics.slow_consumers.inc();
                if let Some(live) = &mut self.live {
                    live.socket.drop_queued();
                    live.receipts.clear();
                }
                self.begin_close(Ending::new(CloseCode::SLOW_CONSUMER, "slow consumer", Cause::SlowConsumer));
            }
        }
        true
    }

    /// The close frame will leave after what is queued.
    fn begin_close(&mut self, ending: Ending) {
        if !self.machine.is_serving() {
            return;
        }
        let now_ms = self.now_ms();
        self.connection.mailbox.close(Close::AfterQueued(ending.clone()));
        self.machine.close(now_ms, ending);
        if let Some(live) = &mut self.live {
            live.closing = Closing::Wanted;
            live.socket.begin_closing();
            live.wake_at(self.services.epoch, self.machine.next_deadline_ms());
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        let Some(live) = &mut self.live else { return false };
        let mut written = Written::default();
        let was_writing = live.socket.is_writing();
        let flushed = live.socket.poll_flush(cx, &mut written);
        let is_done = !live.socket.is_writing();
        if written.frames > 0 || (was_writing && is_done) {
            self.connection.mailbox.release(written.payload_bytes, written.frames, is_done);
        }
        if written.frames > 0 {
            live.wrote(written.frames);
            self.endpoint.metrics.messages_sent.inc_by(written.frames as u64);
            self.endpoint.metrics.sent_bytes.inc_by(written.payload_bytes as u64);
            written.packed.count(self.endpoint.metrics.sent_compressed.as_ref());
            self.machine.sent(now_ms);
        }
        match flushed {
            Poll::Ready(Ok(())) if live.closing == Closing::Lingering => {
                let ended = live.socket.poll_shutdown(cx).is_ready() && live.socket.poll_discard(cx).is_ready();
                if ended {
                    self.gone(self.machine.ending());
                }
                ended
            }
            Poll::Ready(Err(_)) => {
                self.gone(Ending::new(CloseCode::ABNORMAL, "connection lost", Cause::Client));
                true
            }
            _ => written.frames > 0,
        }
    }

    fn poll_socket_read(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        let Some(live) = &mut self.live else { return false };
        let wanted = match live.closing {
            Closing::No => self.machine.wants_messages(),
            // The peer's close is awaited; messages that still come in are ignored by the machine.
            Closing::Wanted | Closing::Sent => true,
            Closing::Lingering => false,
        };
        if !wanted {
            return false;
        }
        // What comes in now is held against the limits of now.
        self.refresh();
        let Some(live) = &mut self.live else { return false };
        let read = live.socket.poll_read(cx);
        if live.socket.take_heard() {
            self.machine.heard(now_ms);
        }
        match read {
            Poll::Pending => false,
            Poll::Ready(incoming) => {
                self.on_incoming(now_ms, incoming);
                true
            }
        }
    }

    fn on_incoming(&mut self, now_ms: u64, incoming: Incoming) {
        match incoming {
            Incoming::Message(payload, packed_bytes) => {
                if let Some(packed_bytes) = packed_bytes {
                    let packed = Packed { packed_bytes, plain_bytes: payload.len() };
                    packed.count(self.endpoint.metrics.received_compressed.as_ref());
                }
                self.on_message(now_ms, payload);
            }
            Incoming::Control => {
                if let Some(ending) = self.machine.on_control(now_ms) {
                    self.begin_close(ending);
                }
            }
            Incoming::Close(ending) => {
                self.machine.close(now_ms, ending);
                self.linger();
            }
            Incoming::Violation(ending) => {
                tracing::debug!(connection = %self.connection.id, code = ending.code.0, "{}", ending.reason);
                if self.machine.is_serving() {
                    self.machine.close(now_ms, ending.clone());
                    if let Some(live) = &mut self.live {
                        live.socket.drop_queued();
                        live.socket.close(&ending);
                    }
                }
                self.linger();
            }
            Incoming::End => self.gone(Ending::new(CloseCode::ABNORMAL, "connection lost", Cause::Client)),
        }
    }

    fn on_message(&mut self, now_ms: u64, payload: Payload) {
        self.connection.count_received();
        self.endpoint.metrics.messages_received.inc();
        self.endpoint.metrics.received_bytes.inc_by(payload.len() as u64);
        let bytes = payload.len();
        let received = match self.services.pipeline.new_token(&self.endpoint, &payload) {
            Some(token) => self.on_token(now_ms, bytes, token),
            None => match self.machine.on_message(now_ms, payload) {
                limited @ Received::Limited { seq, .. } => {
                    self.record_limited(seq, bytes);
                    limited
                }
                other => other,
            },
        };
        if let Received::Limited { seq, excess } = received {
            let verdict = self.services.pipeline.rate_limited(&self.endpoint, seq, excess);
            self.apply(verdict);
        }
    }

    /// The answer to the peer's close, or the close after a violation, is queued: flush it and read to the end.
    fn linger(&mut self) {
        let begun = self.connection.mailbox.shut();
        if let Some(live) = &mut self.live {
            live.socket.drop_queued();
            if let Some((payload, begun)) = begun {
                live.socket.resume(payload, begun);
            }
            live.closing = Closing::Lingering;
            live.wake_at(self.services.epoch, self.machine.next_deadline_ms());
        }
    }

    fn poll_time(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        let Some(live) = &mut self.live else { return false };
        if !live.poll_alarm(cx, self.services.epoch, now_ms) {
            return false;
        }
        self.refresh();
        self.machine.sent(self.connection.mailbox.written_ms());
        match self.machine.on_time(now_ms) {
            Due::Nothing => {}
            Due::Ping => {
                if let Some(live) = &mut self.live {
                    live.socket.ping();
                }
            }
            Due::TokenEnding { left_ms } => self.send(token_frame("expiring", Some(left_ms)), None, Way::Outlet),
            Due::Close(ending) => self.begin_close(ending),
            Due::GiveUp => self.gone(self.machine.ending()),
        }
        if let Some(live) = &mut self.live {
            let next_ms = self.machine.next_deadline_ms().map(|at| at.max(now_ms + 1));
            live.wake_at(self.services.epoch, next_ms);
        }
        true
    }

    /// The socket is gone: nobody can reach this connection any more; its accepted messages go on.
    fn gone(&mut self, ending: Ending) {
        self.machine.gone(ending);
        if self.live.is_some() {
            // While it is in its groups.
            self.record_disconnected(&self.machine.ending());
        }
        if self.live.take().is_some() {
            let ending = self.machine.ending();
            self.endpoint.metrics.connections.dec();
            self.services.pipeline.count_closed(&self.endpoint, &ending);
            tracing::debug!(
                connection = %self.connection.id,
                endpoint = %self.endpoint.draft.path,
                code = ending.code.0,
                cause = ending.cause.as_str(),
                "connection closed"
            );
        }
    }

    fn now_ms(&self) -> u64 {
        self.services.now_ms()
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        // A session that is dropped before its end, by a drain's deadline or a panic, still counts.
        if self.live.is_some() {
            self.endpoint.metrics.connections.dec();
        }
    }
}

fn sender_of(connection: &Connection) -> Sender {
    let (context, grant) = connection.bearer();
    Sender { id: connection.id, user: connection.user.clone(), context, grant }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
