//! A broker that dies, is cut off, or takes nothing for a while: nothing that was acked is lost, order is kept, no socket closes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use holdfast::amqp::{AMQPValue, BasicProperties, FieldTable, LongString};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::events::commands;
use crate::harness::broker::{Broker, Taken, amqp_yaml, take_all, unique};
use crate::harness::{Holdfast, PATIENCE, Proxy, Size, eventually};

/// The full figure is `HOLDFAST_BROKER_OUTAGE="200 500 50 10000" cargo test --release --test it rabbitmq::outage`.
fn size() -> Size {
    Size::from_environment("HOLDFAST_BROKER_OUTAGE", "40 100 50 1500")
}

/// A storm of messages to one durable queue, during which something happens to the broker.
struct Storm {
    holdfast: Holdfast,
    queue: String,
    size: Size,
    clients: Vec<tokio::task::JoinHandle<usize>>,
}

impl Storm {
    async fn start(url: &str) -> Self {
        let (size, queue) = (size(), unique("storm"));
        let app = format!("exchange: {queue}, routing_key: k, queues: {{{queue}: {{type: classic}}}}");
        // Several at once: order must not depend on one message at a time.
        let yaml =
            amqp_yaml(url, &commands(&queue), &app, "routes: [{event: \"*\", upstream: app, ack: true, in_flight: 4}]");
        let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
        let mut clients = Vec::new();
        for _ in 0..size.clients {
            let (mut write, mut read) = holdfast.connect().await.socket.split();
            tokio::spawn(async move {
                let mut pace = tokio::time::interval(size.pace);
                for n in 0..size.messages {
                    pace.tick().await;
                    write.send(Message::text(format!("{{\"type\":\"a\",\"n\":{n}}}"))).await.expect("sent");
                }
                std::future::pending::<()>().await;
                drop(write);
            });
            clients.push(tokio::spawn(async move {
                let mut acked = HashSet::new();
                while acked.len() < size.messages {
                    let frame = tokio::time::timeout(PATIENCE + size.outage, read.next()).await.expect("in time");
                    let Message::Text(text) = frame.expect("the socket stays open").expect("a message") else {
                        continue;
                    };
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    assert_eq!(frame["type"], "ack", "{frame}");
                    assert!(acked.insert(frame["seq"].as_u64()), "acked twice: {frame}");
                }
                acked.len()
            }));
        }
        Self { holdfast, queue, size, clients }
    }

    /// Waits until so many of the messages were confirmed.
    async fn confirmed(&self, share: f64) {
        let wanted = share * (self.size.clients * self.size.messages) as f64;
        let metric = "holdfast_amqp_publishes_total{upstream=\"app\",outcome=\"confirmed\"";
        eventually("confirms", || async { (self.holdfast.metric(metric).await >= wanted).then_some(()) }).await;
    }

    /// Waits for the last ack, and looks into the queue: everything acked is there, in order. How many copies were repeats.
    async fn end(self, broker: &Broker) -> usize {
        for client in self.clients {
            client.await.expect("every message acked");
        }
        assert_eq!(self.holdfast.metric("holdfast_connections{").await, self.size.clients as f64, "no socket closed");
        let repeated = "holdfast_amqp_publishes_total{upstream=\"app\",outcome=\"repeated\"";
        let repeated = self.holdfast.metric(repeated).await;
        let taken = take_all(&broker.channel().await, &self.queue).await;
        let repeats = check_order(&taken);
        assert_eq!(taken.len() - repeats, self.size.clients * self.size.messages, "each acked message is in the queue");
        assert!(repeated >= repeats as f64, "{repeats} repeats of {repeated}");
        repeats
    }
}

/// First copies come in order without a gap; a repeat bears the ID of the first. How many repeats there are.
fn check_order(taken: &[Taken]) -> usize {
    let (mut last, mut repeats) = (HashMap::<String, u64>::new(), 0);
    for message in taken {
        let (id, seq) = (message.header("ce-connectionid"), message.header("ce-seq").parse::<u64>().expect("a number"));
        assert_eq!(message.id(), format!("{id}.{seq}"));
        assert_eq!(message.body, format!("{{\"type\":\"a\",\"n\":{}}}", seq - 1));
        let known = last.entry(id).or_default();
        if seq <= *known {
            repeats += 1;
        } else {
            assert_eq!(seq, *known + 1, "first copies in order, none missing");
            *known = seq;
        }
    }
    repeats
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_when_the_broker_is_killed() {
    let broker = Broker::start().await;
    let storm = Storm::start(&broker.url).await;
    storm.confirmed(0.2).await;
    broker.kill().await;
    let away = || async { (storm.holdfast.metric("holdfast_amqp_connected{").await == 0.0).then_some(()) };
    eventually("both connections lost", away).await;
    let (status, ready) = storm.holdfast.call(http::Method::GET, "/readyz", "").await;
    assert_eq!((status.as_u16(), &ready["rabbitmq"]["publishing"]), (200, &json!("connecting")), "{ready}");
    // The outage lasts while every client goes on sending.
    tokio::time::sleep(storm.size.outage).await;
    broker.restart().await;
    let size = storm.size;
    let repeats = storm.end(&broker).await;
    println!("{} messages, {repeats} repeats", size.clients * size.messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_the_middle_of_confirms_repeats_under_the_same_id() {
    let broker = Broker::shared().await;
    let host = broker.url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("a host");
    let proxy = Proxy::start(host.parse().expect("an address")).await;
    let storm = Storm::start(&broker.url.replace(host, &proxy.addr.to_string())).await;
    for round in 1..=5 {
        storm.confirmed(f64::from(round) * 0.12).await;
        proxy.withhold();
        // Confirms are under way, and nobody will ever see them.
        eventually("confirms on their way", || async { (proxy.withheld() > 100).then_some(()) }).await;
        proxy.cut();
    }
    let repeats = storm.end(broker).await;
    assert!(repeats > 0, "no confirm was lost on its way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_only_makes_messages_wait() {
    let broker = Broker::start().await;
    let storm = Storm::start(&broker.url).await;
    storm.confirmed(0.2).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
    let blocked = || async { (storm.holdfast.metric("holdfast_amqp_blocked ").await == 1.0).then_some(()) };
    eventually("blocked", blocked).await;
    let (_, config) = storm.holdfast.call(http::Method::GET, "/v1/config", "").await;
    assert_eq!(config["rabbitmq"]["connections"][0]["state"], "blocked", "{config}");
    tokio::time::sleep(storm.size.outage).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    eventually("freed", || async { (storm.holdfast.metric("holdfast_amqp_blocked ").await == 0.0).then_some(()) })
        .await;
    let seconds = storm.holdfast.metric("holdfast_amqp_blocked_seconds_total").await;
    assert!(seconds >= storm.size.outage.as_secs_f64() * 0.8, "{seconds}");
    storm.end(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_did_not_take_by_its_deadline_is_an_error_and_the_socket_lives() {
    let broker = Broker::start().await;
    let queue = unique("late");
    let app = format!("exchange: \"\", routing_key: {queue}, queues: {{{queue}: {{type: classic}}}}, deadline: 500ms");
    let yaml = amqp_yaml(&broker.url, &commands(&queue), &app, "routes: [{event: \"*\", upstream: app, ack: true}]");
    let yaml = yaml.replace("backoff_min", "readiness_grace: 100ms\n  backoff_min");
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    broker.kill().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.error().await.0, "upstream_unavailable");
    let not_ready = || async {
        let (status, body) = holdfast.call(http::Method::GET, "/readyz", "").await;
        (status == 503 && body["reason"] == "the broker is away").then_some(())
    };
    eventually("not ready after the grace", not_ready).await;
    broker.restart().await;
    let again = async {
        loop {
            client.send(r#"{"type":"a"}"#).await;
            if client.json().await["type"] == "ack" {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("taken again");
    let ready = || async { (holdfast.call(http::Method::GET, "/readyz", "").await.0 == 200).then_some(()) };
    eventually("ready again", ready).await;
}

/// Commands and sockets of the restart test; the full figure is `HOLDFAST_BROKER_COMMANDS="10000 1000"`.
fn command_size() -> (usize, usize) {
    let text = std::env::var("HOLDFAST_BROKER_COMMANDS").unwrap_or_else(|_| "2000 100".into());
    let (commands, sockets) = text.split_once(' ').expect("two numbers");
    (commands.parse().expect("a number"), sockets.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_acked_and_lost_over_a_restart() {
    let (count, sockets) = command_size();
    let (broker, name) = (Arc::new(Broker::start().await), unique("restart"));
    let app = format!("exchange: \"\", routing_key: {name}, queues: {{{name}: {{type: classic}}}}");
    let more = format!("{}\ncommands_gone: dead_letter", commands(&name));
    let yaml = amqp_yaml(&broker.url, &more, &app, "routes: [{event: \"*\", upstream: app, ack: true}]");
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let seen = Arc::new(parking_lot::Mutex::new(HashSet::<String>::new()));
    for at in 0..sockets {
        let mut client = holdfast.connect().await;
        client.send(&format!("{{\"type\":\"a\",\"n\":{at}}}")).await;
        assert_eq!(client.json().await["type"], "ack");
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = client.socket.next().await {
                if let Message::Text(text) = message {
                    // `<socket>/<message_id>`: each must arrive where it was sent.
                    assert!(text.starts_with(&format!("{at}/")), "{text} at {at}");
                    seen.lock().insert(text.as_str().to_owned());
                }
            }
        });
    }
    let hello = take_all(&broker.channel().await, &name).await;
    let number =
        |taken: &Taken| serde_json::from_str::<Value>(&taken.body).expect("JSON")["n"].as_u64().expect("n") as usize;
    let ids: HashMap<usize, String> = hello.iter().map(|t| (number(t), t.header("ce-connectionid"))).collect();
    assert_eq!(ids.len(), sockets);
    // One in fifty is for a connection that is not there.
    let target = |n: usize| {
        if n % 50 == 7 { format!("{}-{}", &ids[&0][..8], "a".repeat(20)) } else { ids[&(n % sockets)].clone() }
    };
    let orders: Vec<(String, String, String)> =
        (0..count).map(|n| (target(n), format!("c{n}"), format!("{}/c{n}", n % sockets))).collect();
    let publishing = tokio::spawn(publish_all(broker.url.clone(), format!("{name}.commands"), orders.clone()));
    eventually("a third of them", || async { (seen.lock().len() >= count / 3).then_some(()) }).await;
    broker.kill().await;
    broker.restart().await;
    publishing.await.expect("all published");
    let channel = broker.channel().await;
    let mut dead = HashSet::new();
    let rest = || async { (seen.lock().len() >= count - count.div_ceil(50) - 1).then_some(()) };
    eventually("the rest", rest).await;
    let gone: HashSet<String> =
        orders.iter().enumerate().filter(|(n, _)| n % 50 == 7).map(|(_, o)| o.2.clone()).collect();
    while dead.len() < gone.len() {
        dead.insert(crate::harness::broker::take(&channel, &format!("{name}.dead")).await.body);
    }
    assert_eq!(dead, gone);
    for (_, _, body) in &orders {
        assert!(gone.contains(body) || seen.lock().contains(body), "{body} is lost");
    }
    assert_eq!(holdfast.metric("holdfast_connections{").await, sockets as f64, "no socket closed");
}

/// Publishes with confirms over the broker's restart, again and again until each is confirmed.
async fn publish_all(url: String, queue: String, orders: Vec<(String, String, String)>) {
    let mut open: Option<Channel> = None;
    for chunk in orders.chunks(50) {
        let done = async {
            // A confirm that was in flight when the broker died may never resolve: each attempt has a limit of its own.
            loop {
                let attempt = async {
                    let channel = match open.take() {
                        Some(channel) => channel,
                        None => connect(&url).await?,
                    };
                    publish_chunk(&channel, &queue, chunk).await.map(|()| channel)
                };
                if let Ok(Ok(channel)) = tokio::time::timeout(PATIENCE / 4, attempt).await {
                    open = Some(channel);
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE * 3, done).await.expect("published in time");
    }
}

async fn connect(url: &str) -> lapin::Result<Channel> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    std::mem::forget(connection);
    Ok(channel)
}

async fn publish_chunk(channel: &Channel, queue: &str, chunk: &[(String, String, String)]) -> lapin::Result<()> {
    let mut confirms = Vec::new();
    for (target, id, body) in chunk {
        let mut headers = FieldTable::default();
        headers.insert("to-connection".into(), AMQPValue::LongString(LongString::from(target.as_str())));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_message_id(id.as_str().into())
            .with_content_type("text/plain".into());
        let options = BasicPublishOptions::default();
        confirms.push(channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await?);
    }
    for confirm in confirms {
        confirm.await?;
    }
    Ok(())
}
