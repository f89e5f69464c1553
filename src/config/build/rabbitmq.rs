//! The parts of the configuration that concern RabbitMQ: the broker, the commands queue, upstreams that are exchanges. Must not know
//! how modules work.

use secrecy::SecretString;

use super::super::RabbitmqSettings;
use super::super::raw::Entry;
use super::{Build, duration};
use crate::amqp::{self, BrokerSettings, Declare, QueueKind, QueueSettings};
use crate::command::{CommandsSettings, Gone};
use crate::routing::Template;
use crate::upstream::AmqpSettings;

impl Build<'_> {
    pub(super) fn rabbitmq(&mut self, entry: &Entry) -> Option<RabbitmqSettings> {
        if entry.is_absent() {
            return None;
        }
        let (min, max) = (entry.get("backoff_min"), entry.get("backoff_max"));
        if duration(min) > duration(max) {
            self.problem(min, "longer than `backoff_max`", "swap them".to_owned());
        }
        let file = |build: &Self, entry: &Entry| entry.text().map(|name| build.files.path(name));
        let broker = BrokerSettings {
            urls: self.broker_urls(entry.get("url")),
            username_file: file(self, entry.get("username_file")),
            password_file: file(self, entry.get("password_file")),
            // Read when it is needed; here only to see that it can be.
            ca_file: self.file_text(entry.get("ca_file")).and(file(self, entry.get("ca_file"))),
            heartbeat: duration(entry.get("heartbeat")),
            connect_timeout: duration(entry.get("connect_timeout")),
            backoff_min: duration(min),
            backoff_max: duration(max),
        };
        let queue = |entry: &Entry| entry.text().filter(|name| !name.is_empty()).map(str::to_owned);
        let commands = CommandsSettings {
            queue: queue(entry.get("commands_queue")),
            kind: queue_kind(entry.get("commands_type")),
            declare: declare(entry.get("commands_declare")),
            prefetch: u16::try_from(entry.get("commands_prefetch").size()).unwrap_or(u16::MAX),
            size_max: entry.get("commands_size").size(),
            wait: duration(entry.get("commands_wait")),
            gone: if entry.get("commands_gone").text() == Some("dead_letter") { Gone::DeadLetter } else { Gone::Drop },
            dead_letter_queue: queue(entry.get("dead_letter_queue")),
        };
        if commands.gone == Gone::DeadLetter && commands.dead_letter_queue.is_none() {
            let hint = "name a `dead_letter_queue`".to_owned();
            self.problem(entry.get("commands_gone"), "there is no dead-letter queue", hint);
        }
        // The exchange between nodes is named by the queue.
        self.short(entry.get("commands_queue"), &commands.nodes_exchange());
        self.short(entry.get("dead_letter_queue"), commands.dead_letter_queue.as_deref().unwrap_or_default());
        Some(RabbitmqSettings { broker, commands, readiness_grace: duration(entry.get("readiness_grace")) })
    }

    pub(super) fn amqp(&mut self, amqp: &Entry) -> AmqpSettings {
        if !self.has_broker {
            let hint = "add `rabbitmq: {url: \"amqp://…\"}`".to_owned();
            self.problem(amqp, "there is no broker in this file", hint);
        }
        let mut queues = Vec::new();
        for (name, queue) in amqp.get("queues").named() {
            self.short(queue, name);
            let bind = queue.get("bind").text().unwrap_or_default();
            self.short(queue.get("bind"), bind);
            queues.push(QueueSettings {
                name: name.to_owned(),
                kind: queue_kind(queue.get("type")),
                bind: Some(bind.to_owned()),
                dead_letters: None,
            });
        }
        let exchange = self.template(amqp.get("exchange"));
        if !exchange.is_own() && declare(amqp.get("declare")) == Declare::Make {
            let hint = "write `declare: passive`, and make the exchanges yourself".to_owned();
            self.problem(
                amqp.get("exchange"),
                "messages name the exchange, so that clients could make any number",
                hint,
            );
        }
        AmqpSettings {
            exchange,
            routing_key: self.template(amqp.get("routing_key")),
            declare: declare(amqp.get("declare")),
            exchange_type: amqp.get("type").text().unwrap_or_default().to_owned(),
            queues,
            persistent: amqp.get("persistent").is_true(),
            mandatory: amqp.get("mandatory").is_true(),
            expiration: amqp.get("expiration").duration(),
            deadline: duration(amqp.get("deadline")),
            window: amqp.get("window").size(),
            channels: amqp.get("channels").size(),
        }
    }

    /// The upstream that is asked at connect. A queue answers nothing, so the file must say that a confirm is enough.
    pub(super) fn connect(&mut self, entry: &Entry) -> Option<String> {
        let name = self.upstream_name(entry.get("upstream"))?;
        let accept_on = entry.get("accept_on");
        match (self.queues.contains(&name), accept_on.text()) {
            (true, Some("answer")) => {
                let hint = format!("write `connect: {{upstream: {name}, accept_on: confirm}}`, or ask an HTTP handler");
                self.problem(entry, format!("{name:?} is an exchange: it answers nothing"), hint);
            }
            (false, Some("confirm")) => {
                let problem = format!("{name:?} is an HTTP handler: it answers, and confirms nothing");
                self.problem(accept_on, problem, "leave `accept_on` out".to_owned());
            }
            _ => {}
        }
        Some(name)
    }

    fn broker_urls(&mut self, entries: &Entry) -> Vec<SecretString> {
        for entry in entries.list() {
            let Some(text) = entry.text() else { continue };
            if let Err(reason) = amqp::check_url(text) {
                self.problem(entry, reason, "write for instance `amqp://user:password@127.0.0.1:5672/%2f`".to_owned());
            }
        }
        if entries.list().is_empty() && !entries.is_absent() {
            self.problem(entries, "expected at least one URL", None);
        }
        entries.list().iter().filter_map(Entry::text).map(|text| SecretString::from(text.to_owned())).collect()
    }

    fn template(&mut self, entry: &Entry) -> Template {
        Template::parse(entry.text().unwrap_or_default()).unwrap_or_else(|error| {
            let hint = "write for instance `order.{event}` or `{/order/region}`".to_owned();
            self.problem(entry, error.to_string(), hint);
            Template::default()
        })
    }

    /// AMQP's names and keys are short strings.
    fn short(&mut self, entry: &Entry, text: &str) {
        if text.len() > 255 {
            self.problem(entry, format!("expected at most 255 bytes, found {}", text.len()), None);
        }
    }
}

fn declare(entry: &Entry) -> Declare {
    match entry.text() {
        Some("passive") => Declare::Passive,
        Some("false") => Declare::Nothing,
        _ => Declare::Make,
    }
}

fn queue_kind(entry: &Entry) -> QueueKind {
    if entry.text() == Some("classic") { QueueKind::Classic } else { QueueKind::Quorum }
}
