//! The chat's worker: takes events out of a RabbitMQ queue and answers by ordinary RPC, to `reply_to` with `correlation_id`.
//! Must not know anything of Holdfast but its contract.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::handler::{COMMANDS, Chat, Event};
use super::wire::Kind;

/// The queue that `config/demo-rabbitmq.yaml` binds.
const QUEUE: &str = "holdfast.demo.chat";
const PREFETCH: u16 = 64;

/// Connects, and declares the queue as the configuration does, so that whoever is first makes it.
pub(super) async fn connect(url: &str) -> Result<(Connection, Channel), lapin::Error> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), options, FieldTable::default()).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    Ok((connection, channel))
}

/// Answers events until it is stopped or the broker is lost.
pub(super) async fn work(
    chat: Arc<Chat>,
    (_connection, channel): (Connection, Channel),
    stop: CancellationToken,
) -> Result<(), lapin::Error> {
    let options = BasicConsumeOptions::default();
    let mut events = channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
    loop {
        let delivery = tokio::select! {
            next = events.next() => next,
            () = stop.cancelled() => return Ok(()),
        };
        let Some(delivery) = delivery else { return Ok(()) };
        answer(&chat, &channel, delivery?).await?;
    }
}

async fn answer(chat: &Chat, channel: &Channel, delivery: Delivery) -> Result<(), lapin::Error> {
    let headers = headers_of(&delivery);
    let line = format!("{} {:?}", QUEUE, delivery.routing_key.as_str());
    let body = Bytes::from(delivery.data);
    let Ok(event) = Event::read(&headers, body) else {
        // Not an event: nothing here can be done with it.
        return delivery.acker.ack(BasicAckOptions::default()).await.map(drop);
    };
    let number =
        chat.wire.record(Kind::Event, None, line, super::handler::headers_shown(&headers), &event.body_shown());
    let answer = chat.answer(&event).await;
    let properties = &delivery.properties;
    if let (Some(reply_to), Some(id), Some((content_type, body))) =
        (properties.reply_to(), properties.correlation_id(), answer.into_reply())
    {
        let line = format!("reply to {reply_to}");
        let shown = vec![("content-type".to_owned(), content_type.to_owned())];
        chat.wire.record(Kind::Answer, Some(number), line, shown, &body);
        let reply = BasicProperties::default().with_correlation_id(id.clone()).with_content_type(content_type.into());
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), reply_to.clone(), options, &body, reply).await?.await?;
    }
    delivery.acker.ack(BasicAckOptions::default()).await.map(drop)
}

/// The same headers as over HTTP. Texts are not percent-encoded here: a percent sign stands for itself.
fn headers_of(delivery: &Delivery) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in delivery.properties.headers().iter().flatten() {
        let text = match value {
            AMQPValue::LongString(text) => text.to_string().replace('%', "%25"),
            AMQPValue::LongLongInt(number) => number.to_string(),
            _ => continue,
        };
        if let (Ok(name), Ok(value)) = (name.as_str().parse::<HeaderName>(), HeaderValue::from_bytes(text.as_bytes())) {
            headers.insert(name, value);
        }
    }
    headers
}

/// A list of commands: first what HTTP would say in headers, then the answer's own, or its message.
pub(super) fn commands(headers: &[(&'static str, String)], content_type: &str, body: &[u8]) -> Option<Vec<Value>> {
    let mut list = Vec::new();
    for (name, value) in headers {
        match *name {
            "holdfast-context" => list.push(json!({"context": {"value": value}})),
            "holdfast-join" => list.push(json!({"join": {"group": value}})),
            "holdfast-leave" => list.push(json!({"leave": {"group": value}})),
            // A queue's answer comes after the handshake: it is too late to name the user.
            _ => {}
        }
    }
    match content_type {
        COMMANDS => list.extend(serde_json::from_slice::<Vec<Value>>(body).ok()?),
        _ if list.is_empty() => return None,
        _ => list.push(json!({"send": {"data": serde_json::from_slice::<Value>(body).ok()?}})),
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_an_answer_become_commands() {
        let headers = [("holdfast-user", "ann".to_owned()), ("holdfast-join", "lobby".to_owned())];
        let list = commands(&headers, COMMANDS, br#"[{"send":{"text":"hi"}}]"#);
        assert_eq!(list, Some(vec![json!({"join": {"group": "lobby"}}), json!({"send": {"text": "hi"}})]));
        assert_eq!(commands(&[], "application/json", b"{}"), None, "one message is its own reply");
        let list = commands(&[("holdfast-leave", "room:1".to_owned())], "application/json", b"{}");
        assert_eq!(list, Some(vec![json!({"leave": {"group": "room:1"}}), json!({"send": {"data": {}}})]));
    }
}
