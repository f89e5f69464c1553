//! RabbitMQ: the bare loop that publishes with confirms, and commands by the queue.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::clients::{Load, connect_all, message, text, whoami};
use crate::measure::{cpu_seconds, percentile_us};
use crate::print;

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("a broker");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Accepts WebSockets, publishes each message with a confirm and answers with an ack: the least that does the work. The messages bear
/// as many properties and headers as Holdfast's.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn bare(listen: &str, url: &str, queue: &str) {
    let (_connection, channel) = channel(url).await;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("a queue");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let (channel, queue) = (Arc::new(channel), Arc::<str>::from(queue));
    let listener = TcpListener::bind(listen).await.expect("a port");
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        tokio::spawn(serve(stream, channel.clone(), queue.clone()));
    }
}

async fn serve(stream: TcpStream, channel: Arc<Channel>, queue: Arc<str>) {
    stream.set_nodelay(true).expect("nodelay");
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
    // Who only looks whether the port is open makes no handshake.
    let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else { return };
    let mut seq = 0_u64;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        seq += 1;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let published =
            channel.basic_publish("".into(), (&*queue).into(), options, text.as_bytes(), properties(seq)).await;
        published.expect("published").await.expect("confirmed");
        socket.send(Message::text(format!("{{\"type\":\"ack\",\"seq\":{seq}}}"))).await.expect("sent");
    }
}

fn properties(seq: u64) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "holdfast.message"),
        ("ce-source", "/queue"),
        ("ce-id", "abcdefgh-abcdefghijkmnopqrstu.1"),
        ("ce-time", "2026-01-01T00:00:00.000Z"),
        ("ce-connectionid", "abcdefgh-abcdefghijkmnopqrstu"),
        ("ce-event", "bench.echo"),
        ("traceparent", "00-11111111111111111111111111111111-2222222222222222-00"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
    }
    headers.insert("ce-seq".into(), AMQPValue::LongLongInt(seq.cast_signed()));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(format!("abcdefgh-abcdefghijkmnopqrstu.{seq}").into())
        .with_type("holdfast.message".into())
        .with_timestamp(1_767_225_600)
        .with_correlation_id("abcdefgh-abcdefghijkmnopqrstu".into())
        .with_reply_to("holdfast.node.abcdefgh".into())
        .with_app_id("holdfast".into())
        .with_headers(headers)
}

/// Commands from the queue to single connections, one under way per connection.
#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
pub async fn commands(load: Load, url: &str, queue: &str) {
    let (_connection, channel) = channel(url).await;
    let (channel, each) = (Arc::new(channel), load.messages / load.connections);
    let mut clients = Vec::new();
    for mut socket in connect_all(&load).await {
        let id = whoami(&mut socket).await;
        clients.push((socket, id));
    }
    let (cpu, started) = (cpu_seconds(load.pid), Instant::now());
    let running: Vec<_> = clients
        .into_iter()
        .map(|(mut socket, id)| {
            let (channel, queue, payload) = (channel.clone(), queue.to_owned(), message(load.size));
            tokio::spawn(async move {
                let mut headers = FieldTable::default();
                headers.insert("to-connection".into(), AMQPValue::LongString(LongString::from(id.as_str())));
                let properties =
                    BasicProperties::default().with_headers(headers).with_content_type("application/json".into());
                let mut times = Vec::new();
                for _ in 0..each {
                    let sent = Instant::now();
                    let options = BasicPublishOptions::default();
                    let queue = queue.as_str().into();
                    let published =
                        channel.basic_publish("".into(), queue, options, payload.as_bytes(), properties.clone());
                    published.await.expect("published");
                    text(&mut socket).await;
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in running {
        times.extend(client.await.expect("every command"));
    }
    let (cpu, took) = (cpu_seconds(load.pid) - cpu, started.elapsed().as_secs_f64());
    let count = times.len() as f64;
    print(
        &format!("queue command {}", load.name),
        &[
            ("cpu_us_each", cpu * 1e6 / count),
            ("per_second", count / took),
            ("p50_us", percentile_us(&mut times, 0.5)),
            ("p99_us", percentile_us(&mut times, 0.99)),
        ],
    );
}
