//! The RabbitMQ upstream: events become messages to an exchange, and the publisher confirm is their answer. Must not know who sends
//! events, nor how the broker's connections are kept up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::contract::amqp::{Common, message_id, properties};
use crate::amqp::{BasicProperties, Broker, Declare, Message, Published, Publisher, PublisherSettings};
use crate::amqp::{QueueSettings, Topology};
use crate::message::{Answer, Event, EventKind, Failure};
use crate::routing::{Template, Unfit, Values};

/// Exchanges that one upstream may publish to at a time, where the exchange's name depends on the event.
const EXCHANGES_MAX: usize = 64;

/// Settings of one RabbitMQ upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct AmqpSettings {
    /// Empty for the default exchange, which takes a queue's name as routing key.
    pub exchange: Template,
    pub routing_key: Template,
    pub declare: Declare,
    /// `topic`, `direct`, `fanout` or `headers`.
    pub exchange_type: String,
    /// Queues that are declared and bound along with the exchange.
    pub queues: Vec<QueueSettings>,
    pub persistent: bool,
    pub mandatory: bool,
    /// How long a message may wait in a queue.
    pub expiration: Option<Duration>,
    /// How long an event may take until its confirm, unless the route says otherwise.
    pub deadline: Duration,
    /// Unconfirmed messages on one channel.
    pub window: usize,
    pub channels: usize,
}

/// The client of one RabbitMQ upstream.
pub struct AmqpUpstream {
    name: Arc<str>,
    settings: AmqpSettings,
    common: Arc<Common>,
    broker: Arc<Broker>,
    publishers: Publishers,
}

enum Publishers {
    /// The exchange is the same for every event.
    One(Publisher),
    ByExchange(Mutex<HashMap<String, Used>>),
}

struct Used {
    publisher: Arc<Publisher>,
    at: Instant,
}

impl AmqpUpstream {
    /// Makes the client and begins to open its channels. Needs a tokio runtime.
    pub fn new(name: &Arc<str>, settings: AmqpSettings, broker: Arc<Broker>) -> Self {
        let common = Common {
            reply_to: broker.node_queue().to_string(),
            persistent: settings.persistent,
            expiration_ms: settings
                .expiration
                .map(|expiration| u64::try_from(expiration.as_millis()).unwrap_or(u64::MAX)),
        };
        let publishers = match settings.exchange.literal() {
            Some(exchange) => Publishers::One(broker.publisher(publisher_settings(name, &settings, exchange, false))),
            None => Publishers::ByExchange(Mutex::default()),
        };
        Self { name: name.clone(), settings, common: Arc::new(common), broker, publishers }
    }

    /// Publishes one event and waits for its confirm until `deadline`.
    pub async fn call(&self, event: &Event, deadline: Instant) -> Result<Answer, Failure> {
        let values = Values {
            event: event.name.as_deref().unwrap_or(match event.kind {
                EventKind::Connect => "$connect",
                EventKind::Disconnect => "$disconnect",
                EventKind::Message => "",
            }),
            event_is_literal: event.name_is_literal,
            user: event.user.as_deref(),
            endpoint: &event.endpoint,
            connection: event.connection.as_str(),
            body: &event.body,
        };
        let routing_key = self.settings.routing_key.render(&values).map_err(unroutable)?;
        let message = Arc::new(EventMessage {
            id: message_id(event),
            routing_key,
            event: event.clone(),
            common: self.common.clone(),
        });
        let spread = event.connection.spread();
        event.attempts.note();
        let published = match &self.publishers {
            Publishers::One(publisher) => publisher.publish(spread, message, deadline).await,
            Publishers::ByExchange(publishers) => {
                let exchange = self.settings.exchange.render(&values).map_err(unroutable)?;
                let publisher = self.publisher(publishers, &exchange)?;
                let published = publisher.publish(spread, message, deadline).await;
                if matches!(published, Published::Missing { .. }) {
                    // Whoever names it next finds out anew.
                    publishers.lock().remove(&exchange);
                }
                published
            }
        };
        match published {
            Published::Confirmed => Ok(Answer::default()),
            Published::Returned { reason } => Err(Failure::Unroutable { reason }),
            Published::Missing { .. } => Err(Failure::Unroutable { reason: "there is no such exchange".into() }),
            Published::Nacked => Err(Failure::Nacked),
            Published::Late { sent: true, .. } => Err(Failure::Timeout),
            Published::Late { sent: false, reason } => Err(Failure::Unavailable { reason }),
        }
    }

    /// Why the exchange takes nothing now.
    pub fn error(&self) -> Option<String> {
        match &self.publishers {
            Publishers::One(publisher) => publisher.error(),
            Publishers::ByExchange(publishers) => publishers.lock().values().find_map(|used| used.publisher.error()),
        }
    }

    /// The publisher to an exchange whose name depends on the event. Their number is bounded: clients may choose the name.
    fn publisher(&self, publishers: &Mutex<HashMap<String, Used>>, exchange: &str) -> Result<Arc<Publisher>, Failure> {
        let mut publishers = publishers.lock();
        let now = Instant::now();
        if let Some(used) = publishers.get_mut(exchange) {
            used.at = now;
            return Ok(used.publisher.clone());
        }
        if publishers.len() >= EXCHANGES_MAX {
            // The one that nobody has used for the longest time, of those that nobody uses now.
            let unused = publishers.iter().filter(|(_, used)| Arc::strong_count(&used.publisher) == 1);
            let oldest = unused.min_by_key(|(_, used)| used.at).map(|(name, _)| name.clone());
            publishers.remove(&oldest.ok_or(Failure::Overloaded)?);
        }
        let settings = publisher_settings(&self.name, &self.settings, exchange, true);
        let publisher = Arc::new(self.broker.publisher(settings));
        publishers.insert(exchange.to_owned(), Used { publisher: publisher.clone(), at: now });
        Ok(publisher)
    }
}

fn publisher_settings(
    name: &Arc<str>,
    settings: &AmqpSettings,
    exchange: &str,
    missing_is_final: bool,
) -> PublisherSettings {
    PublisherSettings {
        name: name.clone(),
        exchange: exchange.to_owned(),
        topology: Topology {
            declare: settings.declare,
            exchange_type: settings.exchange_type.clone(),
            queues: settings.queues.clone(),
        },
        mandatory: settings.mandatory,
        window: settings.window,
        channels: settings.channels,
        missing_is_final,
    }
}

fn unroutable(unfit: Unfit) -> Failure {
    Failure::Unroutable { reason: unfit.to_string() }
}

/// An event as a message that can be sent again.
struct EventMessage {
    id: String,
    routing_key: String,
    event: Event,
    common: Arc<Common>,
}

impl Message for EventMessage {
    fn is_returned(&self, properties: &BasicProperties) -> bool {
        properties.message_id().as_ref().is_some_and(|id| id.as_str() == self.id)
    }

    fn routing_key(&self) -> &str {
        &self.routing_key
    }

    fn body(&self) -> &[u8] {
        &self.event.body
    }

    fn properties(&self) -> BasicProperties {
        properties(&self.event, &self.id, &self.common)
    }
}
