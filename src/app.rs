//! The wiring diagram: every concrete part of a running Holdfast is named here and joined to the others.
//! Must not hold any rule about messages.

mod control;
mod reload;
pub mod system;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::{self, AdminState, Guard};
use crate::amqp::Broker;
use crate::codes::{Cause, CloseCode};
use crate::command::CommandQueues;
use crate::config::{Fixed, Loaded};
use crate::deliver::Deliver;
use crate::drain::{Drain, DrainSettings, spread};
use crate::ids::NodeId;
use crate::listener::Listener;
use crate::listener::admission::Admission;
use crate::listener::upgrade::Upgrader;
use crate::mailbox::Close;
use crate::message::Ending;
use crate::pipeline::Pipeline;
use crate::registry::Registry;
use crate::session::Services;
use crate::session::task::CLOSE_TIMEOUT;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::tasks::Tasks;
use crate::telemetry::logging::LogHandle;
use crate::telemetry::{Metrics, Spans};
use crate::tls::{Tls, TlsError, TlsSettings};

use control::AppControl;
pub use reload::Reloader;

/// Why Holdfast could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("cannot listen on {addr} ({key}): {source}; choose another address or stop what listens there")]
    Listen { key: &'static str, addr: SocketAddr, source: std::io::Error },
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    #[error("tracing.otlp: {0}")]
    Spans(String),
}

/// A Holdfast that serves.
pub struct Running {
    /// Where clients connect, with the port that was taken.
    pub listen: SocketAddr,
    /// Where the admin API answers.
    pub admin: SocketAddr,
    pub node: NodeId,
    pub reloader: Arc<Reloader>,
    drain: Drain,
    drained: JoinHandle<Drained>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were still at work at the deadline.
    pub cut: usize,
}

impl Running {
    /// Begins the drain. False if it had begun.
    pub fn drain(&self) -> bool {
        self.drain.begin()
    }

    /// A handle that begins the drain.
    pub fn drain_handle(&self) -> Drain {
        self.drain.clone()
    }

    /// Waits until a drain has begun and ended.
    pub async fn wait(self) -> Drained {
        self.drained.await.unwrap_or(Drained { cut: 0 })
    }
}

/// Starts everything. `path` is the configuration's file, if it has one, for reloads.
pub async fn start(loaded: Loaded, path: Option<PathBuf>, log: LogHandle) -> Result<Running, StartError> {
    let Loaded { fixed, draft, outline, files } = loaded;
    let metrics = Arc::new(Metrics::new());
    let background = Tasks::new();
    let spans =
        Spans::start(fixed.spans.clone(), &metrics, &background).map_err(|e| StartError::Spans(e.to_string()))?;
    let node = NodeId::random();
    let broker = fixed.rabbitmq.as_ref().map(|rabbitmq| Broker::start(rabbitmq.broker.clone(), node, &metrics));
    let snapshot = Snapshot::build(draft, None, broker.as_ref(), &metrics)?;
    let pipeline = Pipeline::new(snapshot, metrics.clone(), spans.clone());
    let registry = Arc::new(Registry::new());
    let deliver = Deliver::new(registry.clone(), pipeline.clone(), metrics.clone(), background.clone());
    let drain = Drain::new();
    let sessions = Tasks::new();

    let upgrader = Arc::new(Upgrader {
        node,
        services: Arc::new(Services {
            pipeline: pipeline.clone(),
            deliver: deliver.clone(),
            accounts: Arc::default(),
            epoch: Instant::now(),
        }),
        admission: Arc::new(Admission::default()),
        tasks: sessions.clone(),
        metrics: metrics.clone(),
        handshake_timeout: fixed.listener.handshake_timeout,
        proxies: fixed.listener.proxies.clone(),
        draining: drain.flag(),
    });
    let listen = fixed.listener.listen;
    let sides = Sides::new(&fixed)?;
    let (own, tasks) = (sides.listener.clone(), background.clone());
    let listener = Listener::bind(fixed.listener.clone(), own, upgrader, tasks, metrics.clone())
        .and_then(|listener| listener.local_addr().map(|addr| (listener, addr)));
    let (listener, listen) = listener.map_err(|source| StartError::Listen { key: "listen", addr: listen, source })?;
    let admin_socket = tokio::net::TcpListener::bind(fixed.admin.listen).await;
    let admin_socket = admin_socket.and_then(|socket| socket.local_addr().map(|addr| (socket, addr)));
    let (admin_socket, admin) =
        admin_socket.map_err(|source| StartError::Listen { key: "admin.listen", addr: fixed.admin.listen, source })?;

    let queues = start_queues(broker.as_ref(), &fixed, node, (&deliver, &spans), &metrics, &background, &drain);
    let broker = broker.map(|broker| Rabbitmq { broker, queues });
    let reloader = Reloader::new(
        path,
        (fixed.clone(), outline),
        (pipeline.clone(), broker.clone(), sides.clone()),
        metrics.clone(),
        log.clone(),
    );
    let control = AppControl { reloader: reloader.clone(), drain: drain.clone(), log };
    let state = AdminState { deliver, metrics: metrics.clone(), control: Arc::new(control) };
    let stop_admin = tokio::sync::watch::Sender::new(false);
    let (tasks, stop) = (background.clone(), stop_admin.subscribe());
    background.spawn(admin::serve(admin_socket, fixed.admin, (sides.admin, sides.guard), state, tasks, stop));
    background.spawn(listener.run(drain.subscribe()));
    background.spawn(reloader.clone().watch(files, drain.clone()));

    let draining =
        Draining { drain: drain.clone(), sessions, registry, reloader: reloader.clone(), spans, broker, stop_admin };
    let drained = background.spawn(draining.run());
    tracing::info!(%listen, %admin, %node, generation = pipeline.snapshot().generation, "holdfast is ready");
    Ok(Running { listen, admin, node, reloader, drain, drained })
}

/// What of both listeners a reload may swap: their TLS, where they have it, and who may call the admin listener.
#[derive(Clone)]
struct Sides {
    listener: Option<Arc<Tls>>,
    admin: Option<Arc<Tls>>,
    guard: Arc<Guard>,
}

impl Sides {
    fn new(fixed: &Fixed) -> Result<Self, TlsError> {
        let side = |settings: &Option<TlsSettings>| settings.as_ref().map(Tls::new).transpose();
        let guard = Guard::new(&fixed.admin);
        Ok(Self { listener: side(&fixed.listener.tls)?, admin: side(&fixed.admin.tls)?, guard })
    }

    /// Handshakes and calls from now on go by these settings.
    fn swap(&self, old: &Fixed, new: &Fixed) -> Result<(), TlsError> {
        let sides =
            [(&self.listener, &old.listener.tls, &new.listener.tls), (&self.admin, &old.admin.tls, &new.admin.tls)];
        for (side, old, new) in sides {
            if let (Some(side), Some(settings), true) = (side, new, old != new) {
                side.swap(settings)?;
            }
        }
        self.guard.swap(&new.admin);
        Ok(())
    }
}

/// The broker and its consumed queues, where the configuration has one.
#[derive(Clone)]
struct Rabbitmq {
    broker: Arc<Broker>,
    queues: Option<Arc<CommandQueues>>,
}

/// Begins to consume. The queue that nodes share is left to the others as soon as a drain begins.
fn start_queues(
    broker: Option<&Arc<Broker>>,
    fixed: &Fixed,
    node: NodeId,
    (deliver, spans): (&Arc<Deliver>, &Spans),
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
    drain: &Drain,
) -> Option<Arc<CommandQueues>> {
    let settings = fixed.rabbitmq.as_ref()?.commands.clone();
    let drain = drain.clone();
    let stop = async move { drain.begun().await };
    let carriers = (deliver.clone(), spans.clone());
    Some(Arc::new(CommandQueues::start(broker?, node, settings, carriers, metrics, tasks, stop)))
}

/// What a drain needs.
struct Draining {
    drain: Drain,
    sessions: Tasks,
    registry: Arc<Registry>,
    reloader: Arc<Reloader>,
    spans: Spans,
    broker: Option<Rabbitmq>,
    stop_admin: tokio::sync::watch::Sender<bool>,
}

impl Draining {
    /// Waits for the drain to begin, then goes through its phases (DESIGN section 6).
    async fn run(self) -> Drained {
        self.drain.begun().await;
        let DrainSettings { window, deadline } = self.reloader.drain_settings();
        let ends = Instant::now() + deadline;
        tracing::info!(connections = self.registry.len(), ?window, ?deadline, "draining: closing connections");
        self.close_all(window, ends).await;
        tracing::info!(sessions = self.sessions.len(), "draining: finishing events");
        let finished = tokio::time::timeout_at(ends, self.finish()).await;
        let cut = if finished.is_ok() { 0 } else { self.sessions.len() };
        match cut {
            0 => tracing::info!("drained"),
            cut => tracing::warn!(sessions = cut, "the drain's deadline cut sessions that were still at work"),
        }
        self.reloader.pipeline().recorder().end().await;
        if let Some(rabbitmq) = &self.broker {
            rabbitmq.broker.shutdown().await;
        }
        self.spans.shutdown().await;
        self.stop_admin.send_replace(true);
        Drained { cut }
    }

    /// Asks every connection to close after its answers, spread over the window.
    async fn close_all(&self, window: Duration, ends: Instant) {
        spread(self.registry.all(), window, |connection| {
            let left = ends.saturating_duration_since(Instant::now() + CLOSE_TIMEOUT);
            connection.mailbox.close(drain_close(left));
        })
        .await;
    }

    /// Waits for the last session; handshakes that were under way are closed as they come.
    async fn finish(&self) {
        loop {
            self.registry.for_each(|connection| {
                connection.mailbox.close(drain_close(CLOSE_TIMEOUT));
            });
            if tokio::time::timeout(Duration::from_millis(200), self.sessions.wait()).await.is_ok() {
                return;
            }
        }
    }
}

fn drain_close(patience: Duration) -> Close {
    let ending = Ending::new(CloseCode::DRAIN, "going away", Cause::Drain);
    Close::AfterAnswers(ending, u64::try_from(patience.as_millis()).unwrap_or(u64::MAX))
}
