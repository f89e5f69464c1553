//! Keeps one connection to the broker up: hosts in turn, backoff with jitter, credentials read anew, heartbeats, blocked or not.
//! Must not know what goes over it.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, Event};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::BrokerSettings;
use super::error::reason;
use crate::backoff::Backoff;
use crate::ids::NodeId;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ConnectionLabel;

/// How often a connection is looked at, in case that no event told of its end.
const CHECK: Duration = Duration::from_secs(1);
/// AMQP's own first words, which a broker answers.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// How long the broker may take to answer the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection is for. A blocked broker reads nothing from a publisher, acks included; hence two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Publishing,
    Consuming,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        }
    }
}

/// The connection as publishers and consumers see it.
#[derive(Clone, Default)]
pub struct Link {
    pub connection: Option<Arc<Connection>>,
    /// The broker takes nothing from publishers for now (`connection.blocked`).
    pub blocked: bool,
    /// The program is leaving: no connection comes any more.
    pub stopped: bool,
}

impl Link {
    /// Waits until `connection` is not the current one any more. False if none will come.
    pub async fn replaced(link: &mut watch::Receiver<Self>, connection: &Arc<Connection>) -> bool {
        let is_other = |link: &Self| !link.is(connection);
        link.wait_for(is_other).await.is_ok_and(|link| !link.stopped)
    }

    /// True if `connection` is the current one.
    pub fn is(&self, connection: &Arc<Connection>) -> bool {
        self.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection))
    }
}

/// The connection as people see it.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    pub role: &'static str,
    /// `connecting`, `connected` or `blocked`.
    pub state: &'static str,
    /// Host and port, virtual host, and user of the newest attempt.
    pub host: String,
    pub vhost: String,
    pub user: String,
    /// Why it is not connected, or why it is blocked.
    pub error: Option<String>,
}

/// A supervised connection.
#[derive(Clone)]
pub struct Handle {
    pub link: watch::Receiver<Link>,
    shared: Arc<Shared>,
}

struct Shared {
    status: Mutex<LinkStatus>,
    away_since: Mutex<Option<Instant>>,
}

impl Handle {
    pub fn status(&self) -> LinkStatus {
        self.shared.status.lock().clone()
    }

    /// How long the connection has been away.
    pub fn away(&self) -> Duration {
        self.shared.away_since.lock().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Whose permissions count and where: for errors.
    pub fn place(&self) -> String {
        let status = self.shared.status.lock();
        format!("vhost {:?} as user {:?}", status.vhost, status.user)
    }

    /// Returns once the supervisor has ended.
    pub async fn closed(&self) {
        let mut link = self.link.clone();
        while link.changed().await.is_ok() {}
    }
}

/// Starts the supervisor of one connection.
pub fn start(
    role: Role,
    settings: Arc<BrokerSettings>,
    node: NodeId,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
    (found, stop): (watch::Sender<u64>, watch::Receiver<bool>),
) -> Handle {
    let status = LinkStatus {
        role: role.name(),
        state: "connecting",
        host: String::new(),
        vhost: String::new(),
        user: String::new(),
        error: None,
    };
    let shared = Arc::new(Shared { status: Mutex::new(status), away_since: Mutex::new(Some(Instant::now())) });
    let link = watch::Sender::new(Link::default());
    let handle = Handle { link: link.subscribe(), shared: shared.clone() };
    let backoff = Backoff { min: settings.backoff_min, max: settings.backoff_max };
    let supervisor = Supervisor { role, settings, node, metrics: metrics.clone(), link, shared, backoff, found, stop };
    tasks.spawn(supervisor.run());
    handle
}

struct Supervisor {
    role: Role,
    settings: Arc<BrokerSettings>,
    node: NodeId,
    metrics: Arc<Metrics>,
    link: watch::Sender<Link>,
    shared: Arc<Shared>,
    backoff: Backoff,
    /// Counted up when either connection is made: the other one need not wait any longer.
    found: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
}

impl Supervisor {
    async fn run(self) {
        let label = ConnectionLabel { connection: self.role.name().into() };
        let connected = self.metrics.amqp_connected.get_or_create_owned(&label);
        let reconnects = self.metrics.amqp_reconnects.get_or_create_owned(&label);
        let mut stop = self.stop.clone();
        let mut failed = 0_u32;
        let mut hung = HashSet::new();
        let mut found = self.found.subscribe();
        for attempt in 0_usize.. {
            let url = attempt % self.settings.urls.len();
            found.mark_unchanged();
            let result = tokio::select! {
                result = self.attempt(url, &mut hung) => result,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match result {
                Ok(connection) => {
                    connected.set(1);
                    self.up(connection.clone());
                    if failed > 0 || attempt > 0 {
                        reconnects.inc();
                    }
                    failed = 0;
                    let lost = self.watch(&connection).await;
                    connected.set(0);
                    match lost {
                        Some(error) => self.down(error, "connection to the broker lost"),
                        None => {
                            self.close(&connection).await;
                            break;
                        }
                    }
                }
                Err(error) => self.down(error, "cannot connect to the broker"),
            }
            failed += 1;
            let pause = self.backoff.delay(failed, None, Duration::MAX, rand::random()).unwrap_or(self.backoff.max);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = found.changed() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.link.send_replace(Link { stopped: true, ..Link::default() });
    }

    /// One attempt within its time. The library's thread goes on with a handshake that nobody answers, so that a host that hung
    /// before must first show that it answers at all.
    async fn attempt(&self, url: usize, hung: &mut HashSet<usize>) -> Result<Arc<Connection>, String> {
        let text = self.settings.urls[url].expose_secret();
        let within = self.settings.connect_timeout;
        if hung.contains(&url) {
            let uri = parse_url(text)?;
            match timeout(within, answers(&uri)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(format!("{}:{}: {error}", uri.authority.host, uri.authority.port)),
                Err(_) => return Err(self.no_answer()),
            }
            hung.remove(&url);
        }
        timeout(within, self.connect(text)).await.unwrap_or_else(|_| {
            hung.insert(url);
            Err(self.no_answer())
        })
    }

    /// Connects to one host. The error names host, vhost and user.
    async fn connect(&self, url: &str) -> Result<Arc<Connection>, String> {
        let mut uri = parse_url(url)?;
        let credentials = [
            (&self.settings.username_file, &mut uri.authority.userinfo.username),
            (&self.settings.password_file, &mut uri.authority.userinfo.password),
        ];
        for (file, into) in credentials {
            if let Some(file) = file {
                *into = read_text(file).await?.trim_end_matches(['\r', '\n']).to_owned();
            }
        }
        let host = format!("{}:{}", uri.authority.host, uri.authority.port);
        let user = uri.authority.userinfo.username.clone();
        {
            let mut status = self.shared.status.lock();
            (status.host, status.vhost, status.user) = (host.clone(), uri.vhost.clone(), user.clone());
        }
        let place = format!("{host}, vhost {:?}, user {user:?}", uri.vhost);
        let heartbeat = u16::try_from(self.settings.heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat = Some(heartbeat.max(1));
        let cert_chain = match &self.settings.ca_file {
            Some(file) => Some(read_text(file).await?),
            None => None,
        };
        let tls = OwnedTLSConfig { identity: None, cert_chain };
        let name = format!("holdfast {} {}", self.node, self.role.name());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| reason(&error))?;
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        connecting.await.map(Arc::new).map_err(|error| format!("{place}: {}", reason(&error)))
    }

    fn no_answer(&self) -> String {
        let status = self.shared.status.lock();
        let (host, vhost, user) = (&status.host, &status.vhost, &status.user);
        format!("{host}, vhost {vhost:?}, user {user:?}: no answer within {:?}", self.settings.connect_timeout)
    }

    /// Watches a connection to its end. Why it ended, or none if the program is leaving.
    async fn watch(&self, connection: &Connection) -> Option<String> {
        let mut events = Box::pin(connection.events_listener());
        let mut check = tokio::time::interval(CHECK);
        let mut stop = self.stop.clone();
        let mut error = "the connection ended".to_owned();
        let mut looked = Instant::now();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = check.tick() => None,
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            if self.link.borrow().blocked {
                self.metrics.amqp_blocked_duration.inc_by(looked.elapsed().as_secs_f64());
            }
            looked = Instant::now();
            match event {
                Some(Event::ConnectionBlocked(why)) => self.blocked(Some(why)),
                Some(Event::ConnectionUnblocked) => self.blocked(None),
                Some(Event::Error(why)) => error = reason(&why),
                _ => {}
            }
            if !connection.status().connected() {
                let place = self.shared.status.lock().host.clone();
                return Some(format!("{place}: {error}"));
            }
        }
    }

    fn up(&self, connection: Arc<Connection>) {
        {
            let mut status = self.shared.status.lock();
            (status.state, status.error) = ("connected", None);
            tracing::info!(
                connection = self.role.name(),
                host = status.host,
                vhost = status.vhost,
                user = status.user,
                "connected to the broker"
            );
        }
        *self.shared.away_since.lock() = None;
        self.found.send_modify(|found| *found += 1);
        self.link.send_replace(Link { connection: Some(connection), ..Link::default() });
    }

    fn down(&self, error: String, what: &str) {
        self.blocked(None);
        self.link.send_replace(Link::default());
        self.shared.away_since.lock().get_or_insert_with(Instant::now);
        let mut status = self.shared.status.lock();
        // The same failure again is not said again.
        if status.error.as_ref() != Some(&error) {
            tracing::error!(connection = self.role.name(), "{what}: {error}; trying again");
        }
        (status.state, status.error) = ("connecting", Some(error));
    }

    fn blocked(&self, why: Option<String>) {
        let blocked = why.is_some();
        if self.link.borrow().blocked == blocked {
            return;
        }
        let mut status = self.shared.status.lock();
        match &why {
            Some(why) => tracing::warn!(connection = self.role.name(), why, "the broker takes no messages for now"),
            None => tracing::info!(connection = self.role.name(), "the broker takes messages again"),
        }
        (status.state, status.error) = (if blocked { "blocked" } else { "connected" }, why);
        drop(status);
        self.metrics.amqp_blocked.set(i64::from(blocked));
        self.link.send_modify(|link| link.blocked = blocked);
    }

    async fn close(&self, connection: &Connection) {
        // A broker that does not answer finds the socket closed a little later.
        let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
    }
}

/// Parses a URL; the error never shows it.
pub fn parse_url(url: &str) -> Result<AMQPUri, String> {
    // The library's own words hold the whole URL, password and all.
    let uri: AMQPUri = url.parse().map_err(|_: String| "not an AMQP URL")?;
    match uri.vhost.len() {
        0..=255 => Ok(uri),
        len => Err(format!("expected a virtual host of at most 255 bytes, found {len}")),
    }
}

/// Returns once a host has said anything at all.
async fn answers(uri: &AMQPUri) -> io::Result<()> {
    let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
    match uri.scheme {
        AMQPScheme::AMQP => {
            stream.write_all(PROTOCOL_HEADER).await?;
            stream.read_u8().await.map(drop)
        }
        AMQPScheme::AMQPS => {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(io::Error::other)?.with_root_certificates(RootCertStore::empty());
            let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
            let name = ServerName::try_from(uri.authority.host.clone()).map_err(io::Error::other)?;
            // It trusts nobody, so that it fails; but only after the other side has spoken.
            let _ = connector.connect(name, stream).await;
            Ok(())
        }
    }
}

async fn read_text(path: &Path) -> Result<String, String> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| format!("cannot read {}: {error}", path.display()))
}
