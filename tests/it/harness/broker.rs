//! A real RabbitMQ node of the tests' own, started by `scripts/rabbitmq`, and a plain client to look into its queues.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures_util::StreamExt as _;
use holdfast::amqp::{AMQPValue, BasicProperties, FieldTable, LongString};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{Holdfast, PATIENCE, eventually};

/// A node with its data in a folder of its own. It is stopped at the end, whatever becomes of the test.
pub struct Broker {
    dir: TempDir,
    pub url: String,
}

impl Broker {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts with more lines of configuration.
    pub async fn start_with(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        std::fs::create_dir_all(dir.path().join("conf.d")).expect("a folder");
        std::fs::write(dir.path().join("conf.d/test.conf"), config).expect("written");
        let mut broker = Self { dir, url: String::new() };
        broker.url = broker.restart().await;
        broker
    }

    /// The node that tests share which do it no harm. Their names in it must be their own: see `unique`.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Broker> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Starts the node again on the same data and port.
    pub async fn restart(&self) -> String {
        self.script(&["start"], &["--watch", &std::process::id().to_string()]).await
    }

    /// Kills the node as a power cut would.
    pub async fn kill(&self) {
        self.script(&["kill"], &[]).await;
    }

    /// Stops the node in its tracks (`STOP`) or lets it go on (`CONT`).
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.dir.path().join("node.pid")).expect("a running node");
        let pid = pid.split(' ').next().expect("a number");
        assert!(Command::new("kill").args([&format!("-{name}"), pid]).status().expect("kill").success());
    }

    pub async fn ctl(&self, args: &[&str]) -> String {
        self.script(&["ctl"], args).await
    }

    async fn script(&self, action: &[&str], args: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rabbitmq");
        let mut command = tokio::process::Command::new(script);
        command.args(action).arg(self.dir.path()).args(args).stdin(Stdio::null());
        let output = command.output().await.expect("scripts/rabbitmq runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "{action:?} {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// A connection that knows nothing of Holdfast.
    pub async fn channel(&self) -> Channel {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        // The connection closes with its last channel.
        std::mem::forget(connection);
        channel
    }

    /// A worker in another language: a program under `tests/workers` with this queue as its argument.
    pub fn worker(&self, program: &str, file: &str, queue: &str) -> Worker {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/workers/node_modules");
        let child = Command::new(program)
            .arg(root.join("tests/workers").join(file))
            .args([&self.url, queue])
            .env("HOLDFAST_NODE_MODULES", modules)
            .stdin(Stdio::null())
            .spawn();
        Worker(child.unwrap_or_else(|error| panic!("{program}: {error}; scripts/test installs what is missing")))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rabbitmq");
        // What cannot be stopped here is stopped by its watcher.
        let _ = Command::new(script).arg("stop").arg(self.dir.path()).stdin(Stdio::null()).status();
    }
}

/// A worker's process, ended with the test.
pub struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One message of a queue.
#[derive(Debug, Clone)]
pub struct Taken {
    pub properties: BasicProperties,
    pub routing_key: String,
    pub body: String,
}

impl Taken {
    /// A header as text.
    pub fn header(&self, name: &str) -> String {
        match self.properties.headers().as_ref().and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            Some(AMQPValue::LongLongInt(number)) => number.to_string(),
            Some(other) => panic!("{name}: {other:?}"),
            None => String::new(),
        }
    }

    pub fn id(&self) -> &str {
        self.properties.message_id().as_ref().map(|id| id.as_str()).unwrap_or_default()
    }
}

pub async fn publish(
    channel: &Channel,
    queue: &str,
    properties: BasicProperties,
    headers: &[(&'static str, &str)],
    body: &str,
) {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString(LongString::from(*value)));
    }
    let properties = properties.with_headers(table).with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await;
    sent.expect("published").await.expect("confirmed");
}

/// Takes the next message of a queue, waiting for it.
pub async fn take(channel: &Channel, queue: &str) -> Taken {
    eventually(&format!("a message in {queue}"), || try_take(channel, queue)).await
}

/// Takes everything that is in a queue now.
pub async fn take_all(channel: &Channel, queue: &str) -> Vec<Taken> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let state = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.expect("the queue is there");
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consume = channel.basic_consume(queue.into(), "take_all".into(), options, FieldTable::default());
    let mut consumer = consume.await.expect("consuming");
    let mut all = Vec::new();
    while all.len() < state.message_count() as usize {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("in time");
        let delivery = next.expect("a message").expect("a message");
        all.push(Taken {
            properties: delivery.properties.clone(),
            routing_key: delivery.routing_key.to_string(),
            body: String::from_utf8_lossy(&delivery.data).into_owned(),
        });
    }
    channel.basic_cancel("take_all".into(), BasicCancelOptions::default()).await.expect("cancelled");
    all
}

async fn try_take(channel: &Channel, queue: &str) -> Option<Taken> {
    let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await.expect("the queue is there")?;
    got.delivery.acker.ack(BasicAckOptions::default()).await.expect("acked");
    Some(Taken {
        properties: got.delivery.properties.clone(),
        routing_key: got.delivery.routing_key.to_string(),
        body: String::from_utf8_lossy(&got.delivery.data).into_owned(),
    })
}

/// Declares a durable classic queue.
pub async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("declared");
}

/// A name that no other test uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

/// A configuration whose upstream `app` is an exchange. `app` are its keys in flow style, `endpoint` the endpoint's in block style.
pub fn amqp_yaml(url: &str, commands: &str, app: &str, endpoint: &str) -> String {
    format!(
        "listen: 127.0.0.1:0\nadmin: {{listen: \"127.0.0.1:0\"}}\ndrain: {{window: 100ms, deadline: 10s}}\n\
         rabbitmq:\n  url: \"{url}\"\n  commands_type: classic\n  backoff_min: 50ms\n  backoff_max: 500ms\n{}\
         upstreams:\n  app: {{amqp: {{{app}}}}}\n\
         endpoints:\n  - path: /ws\n{}",
        commands.lines().map(|line| format!("  {line}\n")).collect::<String>(),
        endpoint.lines().map(|line| format!("    {line}\n")).collect::<String>()
    )
}

impl Holdfast {
    /// Waits until both connections to the broker are up.
    pub async fn with_broker(self) -> Self {
        let both = || async { (self.metric("holdfast_amqp_connected{").await == 2.0).then_some(()) };
        eventually("both connections to the broker", both).await;
        self
    }
}
