//! What comes back by itself: after a broker that hangs, after queues and exchanges that somebody deletes. And what an account needs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast::amqp::BasicProperties;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use tokio_tungstenite::tungstenite::Message;

use super::events::commands;
use crate::harness::broker::{Broker, amqp_yaml, publish, take, take_all, unique};
use crate::harness::{Client, Holdfast, collector, eventually};

const ROUTES: &str = "routes: [{event: \"*\", upstream: app, ack: true}]";

fn app(name: &str) -> String {
    format!("exchange: {name}, routing_key: k, queues: {{{name}: {{type: classic}}}}")
}

/// Sends a message and waits for its ack.
async fn acked(client: &mut Client) {
    client.send(r#"{"type":"a"}"#).await;
    let frame = client.json().await;
    assert_eq!(frame["type"], "ack", "{frame}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_given_up_and_found_again() {
    let (broker, name) = (Broker::start().await, unique("hung"));
    let more = format!("{}\nheartbeat: 1s\nconnect_timeout: 1s", commands(&name));
    let holdfast = Holdfast::start_yaml(&amqp_yaml(&broker.url, &more, &app(&name), ROUTES), &[]).await;
    let holdfast = holdfast.with_broker().await;
    let mut client = holdfast.connect().await;
    acked(&mut client).await;
    broker.signal("STOP");
    client.send(r#"{"type":"a"}"#).await;
    let away = || async { (holdfast.metric("holdfast_amqp_connected{").await == 0.0).then_some(()) };
    eventually("given up for want of a heartbeat", away).await;
    broker.signal("CONT");
    assert_eq!(client.json().await["seq"], 2, "the message waited");
    acked(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_only_accepts_holds_nothing_up_and_costs_nothing() {
    let (broker, name) = (Broker::shared().await, unique("frozen"));
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = frozen.local_addr().expect("an address");
    let more = format!("{}\nconnect_timeout: 200ms", commands(&name));
    let yaml = amqp_yaml(&broker.url, &more, &app(&name), ROUTES);
    // Accepts, never answers, and counts who is still there.
    let (open, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, all) = (open.clone(), seen.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = frozen.accept().await {
            let count = count.clone();
            count.fetch_add(1, Ordering::SeqCst);
            all.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.is_ok_and(|len| len > 0) {}
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let url = |urls: &str| yaml.replace(&format!("url: \"{}\"", broker.url), &format!("url: [{urls}]"));
    let hung = format!("\"amqp://guest:guest@{address}/%2f\"");
    let alone = Holdfast::start_yaml(&url(&hung), &[]).await;
    eventually("many attempts", || async { (seen.load(Ordering::SeqCst) >= 12).then_some(()) }).await;
    // The first handshake of each of the two connections cannot be taken back; those who ask afterwards leave again.
    eventually("few of them open", || async { (open.load(Ordering::SeqCst) <= 3).then_some(()) }).await;
    drop(alone);
    let holdfast = Holdfast::start_yaml(&url(&format!("{hung}, \"{}\"", broker.url)), &[]).await.with_broker().await;
    acked(&mut holdfast.connect().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deletes_is_declared_again() {
    let (broker, name) = (Broker::shared().await, unique("deleted"));
    let yaml = amqp_yaml(&broker.url, &commands(&name), &app(&name), ROUTES);
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let channel = broker.channel().await;
    let mut client = holdfast.connect().await;
    acked(&mut client).await;
    let id = take(&channel, &name).await.header("ce-connectionid");

    channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.expect("deleted");
    acked(&mut client).await;
    assert_eq!(take(&channel, &name).await.header("ce-seq"), "2");

    // The broker cancels the consumer; it begins again on a new queue.
    let queue = format!("{name}.commands");
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
    let begun = || async {
        let list = broker.ctl(&["list_queues", "name", "consumers", "--no-table-headers"]).await;
        list.lines().any(|line| line == format!("{queue}\t1")).then_some(())
    };
    eventually("a consumer on the new queue", begun).await;
    let text = BasicProperties::default().with_content_type("text/plain".into());
    publish(&channel, &queue, text, &[("to-connection", &id)], "again").await;
    assert_eq!(client.text().await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_permissions_are_enough() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rabbitmq.md")).expect("the page");
    let line = page.lines().find(|line| line.contains("rabbitmqctl set_permissions")).expect("the command");
    let patterns: Vec<&str> = line.split('\'').filter(|part| part.starts_with('^')).collect();
    let (broker, key) = (Broker::shared().await, unique("p"));
    let (user, exchange) = (format!("user-{key}"), format!("orders-{key}"));
    broker.ctl(&["add_user", &user, "pw"]).await;
    broker.ctl(&[&["set_permissions", "-p", "/", &user], &patterns[..]].concat()).await;
    let name = format!("holdfast.{key}");
    let url = broker.url.replace("guest:guest", &format!("{user}:pw"));
    let direct = "routes: [{event: d, upstream: direct, ack: true}, {event: \"*\", upstream: app, ack: true}]";
    let yaml = amqp_yaml(&url, &commands(&name), &app(&exchange), direct).replace(
        "upstreams:",
        &format!("upstreams:\n  direct: {{amqp: {{exchange: \"\", routing_key: {exchange}, declare: false}}}}"),
    );
    // As most will have it: with quorum queues.
    let yaml = yaml.replace("  commands_type: classic\n", "").replace("{type: classic}", "{}");
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    acked(&mut client).await;
    client.send(r#"{"type":"d"}"#).await;
    assert_eq!(client.json().await["type"], "ack");
    let channel = broker.channel().await;
    let event = take(&channel, &exchange).await;
    // A reply, a send to all, and a dead letter.
    let reply_to = event.properties.reply_to().as_ref().expect("a queue").to_string();
    let reply = BasicProperties::default().with_correlation_id(event.header("ce-connectionid").into());
    publish(&channel, &reply_to, reply, &[], "a reply").await;
    assert_eq!(client.text().await, "a reply");
    let queue = format!("{name}.commands");
    publish(&channel, &queue, BasicProperties::default(), &[("to-all", "")], "to all").await;
    assert_eq!(client.text().await, "to all");
    publish(&channel, &queue, BasicProperties::default(), &[], "to nobody").await;
    assert_eq!(take(&channel, &format!("{name}.dead")).await.body, "to nobody");
    let (_, config) = holdfast.call(http::Method::GET, "/v1/config", "").await;
    assert_eq!(config["rabbitmq"]["errors"], serde_json::json!([]), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_through_both_ways() {
    let (broker, name) = (Broker::shared().await, unique("trace"));
    let (url, bodies) = collector().await;
    let yaml = amqp_yaml(&broker.url, &commands(&name), &app(&name), ROUTES);
    let yaml = format!("tracing: {{otlp: \"{url}\", sample: 1}}\n{yaml}");
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let channel = broker.channel().await;
    let mut client = holdfast.connect().await;
    acked(&mut client).await;
    let event = take(&channel, &name).await;
    let sent = event.header("traceparent");
    assert!(sent.ends_with("-01"), "sampled: {sent}");
    let theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("to-connection", event.header("ce-connectionid")), ("traceparent", theirs.to_owned())];
    let headers: Vec<(&'static str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    publish(&channel, &format!("{name}.commands"), BasicProperties::default(), &headers, "traced").await;
    assert_eq!(client.text().await, "traced");
    for (traceparent, span) in [(sent.as_str(), "/ws *"), (theirs, "commands process")] {
        let trace_id = u128::from_str_radix(&traceparent[3..35], 16).expect("a trace ID").to_be_bytes();
        let found = || async {
            let has = |body: &bytes::Bytes| {
                body.windows(16).any(|window| window == trace_id) && String::from_utf8_lossy(body).contains(span)
            };
            bodies.lock().iter().any(has).then_some(())
        };
        eventually(span, found).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_whose_broker_takes_nothing_is_no_longer_read() {
    let (broker, name) = (Broker::start().await, unique("unread"));
    let endpoint = format!("limits: {{receive_buffer: 64KiB}}\n{ROUTES}");
    let yaml = amqp_yaml(&broker.url, &commands(&name), &app(&name), &endpoint);
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    acked(&mut client).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
    // 16 MB: the kernel's buffers and the receive buffer do not take it all.
    let body = format!("{{\"type\":\"a\",\"pad\":\"{}\"}}", "x".repeat(16 * 1024));
    let (mut write, mut read) = futures_util::StreamExt::split(client.socket);
    let sending = tokio::spawn(async move {
        for _ in 0..1000 {
            futures_util::SinkExt::send(&mut write, body.clone().into()).await.expect("sent");
        }
        write
    });
    let blocked = || async { (holdfast.metric("holdfast_amqp_blocked ").await == 1.0).then_some(()) };
    eventually("blocked", blocked).await;
    // It stops before the end: the count of what was read does not move any more.
    let mut last = (0.0, 0);
    let stopped = || {
        let holdfast = &holdfast;
        async move { holdfast.metric("holdfast_messages_received_total").await }
    };
    while last.1 < 5 {
        let read = stopped().await;
        last = if read == last.0 { (read, last.1 + 1) } else { (read, 0) };
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(last.0 < 1000.0 && !sending.is_finished(), "{} were read", last.0);
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    let mut seq = 2;
    while seq <= 1001 {
        let frame = tokio::time::timeout(crate::harness::PATIENCE, futures_util::StreamExt::next(&mut read)).await;
        let frame = frame.expect("in time").expect("open").expect("a message");
        if let Message::Text(text) = frame {
            assert_eq!(text.as_str(), format!("{{\"type\":\"ack\",\"seq\":{seq}}}"));
            seq += 1;
        }
    }
    drop(sending.await);
    assert_eq!(take_all(&broker.channel().await, &name).await.len(), 1001);
}
