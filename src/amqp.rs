//! The RabbitMQ client: one supervised connection for publishing and one for consuming, publishers with confirms, consumers with
//! manual acks. Knows lapin and tasks; must not know what a message means.

mod consumer;
mod delivery;
mod error;
mod ledger;
mod meters;
mod publisher;
mod supervisor;
mod topology;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::ids::NodeId;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

pub use consumer::{Consumer, ConsumerSettings};
pub use delivery::Delivery;
pub use lapin::BasicProperties;
pub use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
pub use publisher::{Message, Published, Publisher, PublisherSettings};
pub use supervisor::{Link, LinkStatus, Role};
pub use topology::{Declare, QueueKind, QueueSettings, Topology};

/// Settings of the broker. Restart-only.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `amqp:` or `amqps:` URLs of one broker or of a cluster's nodes, tried in turn; they may hold credentials.
    pub urls: Vec<SecretString>,
    /// Files with the user's name and password; read anew for each attempt to connect, so that a mounted secret may change.
    pub username_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
    /// PEM bundle of certificate authorities trusted beside the system's, for `amqps:`; read anew as those are.
    pub ca_file: Option<PathBuf>,
    pub heartbeat: Duration,
    /// Of one attempt to connect.
    pub connect_timeout: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl PartialEq for BrokerSettings {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self { urls, username_file, password_file, ca_file, heartbeat, connect_timeout, backoff_min, backoff_max } =
            self;
        let exposed = |urls: &[SecretString]| urls.iter().map(|u| u.expose_secret().to_owned()).collect::<Vec<_>>();
        exposed(urls) == exposed(&other.urls)
            && (username_file, password_file, ca_file) == (&other.username_file, &other.password_file, &other.ca_file)
            && (heartbeat, connect_timeout) == (&other.heartbeat, &other.connect_timeout)
            && (backoff_min, backoff_max) == (&other.backoff_min, &other.backoff_max)
    }
}

/// Says what is wrong with a broker's URL, never showing its password.
pub fn check_url(url: &str) -> Result<(), String> {
    supervisor::parse_url(url).map(|_| ())
}

/// The broker: both of its connections, each kept up by a task of its own.
pub struct Broker {
    node_queue: Arc<str>,
    publishing: supervisor::Handle,
    consuming: supervisor::Handle,
    backoff: Backoff,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    stop: watch::Sender<bool>,
}

impl Broker {
    /// Begins to connect, and goes on trying for ever. Needs a tokio runtime.
    pub fn start(settings: BrokerSettings, node: NodeId, metrics: &Arc<Metrics>) -> Arc<Self> {
        let tasks = Tasks::new();
        let stop = watch::Sender::new(false);
        let backoff = Backoff { min: settings.backoff_min, max: settings.backoff_max };
        let settings = Arc::new(settings);
        let found = watch::Sender::new(0);
        let role = |role| {
            let signals = (found.clone(), stop.subscribe());
            supervisor::start(role, settings.clone(), node, metrics, &tasks, signals)
        };
        Arc::new(Self {
            node_queue: node_queue(node),
            publishing: role(Role::Publishing),
            consuming: role(Role::Consuming),
            backoff,
            metrics: metrics.clone(),
            tasks,
            stop,
        })
    }

    /// The name of this node's own queue: where ordinary RPC workers answer.
    pub fn node_queue(&self) -> &Arc<str> {
        &self.node_queue
    }

    /// A publisher to one exchange with channels of its own. It ends when it is dropped.
    pub fn publisher(&self, settings: PublisherSettings) -> Publisher {
        Publisher::start(settings, &self.publishing, self.backoff, &self.metrics, &self.tasks)
    }

    /// A consumer of one queue. It ends when it is dropped, or when the broker is shut down.
    pub fn consumer(&self, settings: ConsumerSettings) -> Consumer {
        Consumer::start(settings, &self.consuming, self.backoff, &self.tasks)
    }

    /// Both connections as people may see them.
    pub fn status(&self) -> [LinkStatus; 2] {
        [self.publishing.status(), self.consuming.status()]
    }

    /// How long one of the connections has been away; zero while both are up.
    pub fn away(&self) -> Duration {
        self.publishing.away().max(self.consuming.away())
    }

    /// Closes both connections and waits for their tasks. Publishers and consumers should be done.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        self.publishing.closed().await;
        self.consuming.closed().await;
    }
}

/// The name of a node's own queue.
pub fn node_queue(node: NodeId) -> Arc<str> {
    format!("holdfast.node.{node}").into()
}
