//! Events become messages: every property, the routing key, confirms, and what comes back.

use http::Method;
use serde_json::json;

use crate::harness::broker::{Broker, amqp_yaml, declare, take, take_all, unique};
use crate::harness::{Client, Holdfast, Upstream, eventually};

/// An exchange with one queue that takes everything.
fn orders(exchange: &str, key: &str) -> String {
    format!("exchange: {exchange}, routing_key: \"{key}\", queues: {{{exchange}: {{type: classic}}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_a_message_with_every_property_and_the_client_hears_of_its_confirm() {
    let broker = Broker::shared().await;
    let (exchange, dead) = (unique("orders"), unique("dead"));
    let app = orders(&exchange, "in.{event}") + ", expiration: 60s";
    let yaml = amqp_yaml(
        &broker.url,
        &format!("commands_queue: {dead}.commands\ndead_letter_queue: {dead}"),
        &app,
        "connect: {upstream: app, accept_on: confirm}\ndisconnect: app\nroutes: [{event: \"order.*\", upstream: app, ack: true}]",
    );
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let channel = broker.channel().await;

    let mut client = holdfast.connect().await;
    let connect = take(&channel, &exchange).await;
    assert_eq!((connect.routing_key.as_str(), connect.header("ce-type").as_str()), ("in.$connect", "holdfast.connect"));
    assert!(connect.body.contains("remote_addr"), "{}", connect.body);

    client.send(r#"{"type":"order.created","region":"eu"}"#).await;
    assert_eq!(client.text().await, r#"{"type":"ack","seq":1}"#);
    let message = take(&channel, &exchange).await;
    let id = message.header("ce-connectionid");
    assert_eq!(message.body, r#"{"type":"order.created","region":"eu"}"#, "the client's own bytes");
    assert_eq!(message.routing_key, "in.order%2Ecreated", "a star let the name through: it adds no segment");
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-type", "holdfast.message"),
        ("ce-source", "/ws"),
        ("ce-event", "order.created"),
        ("ce-seq", "1"),
        ("ce-id", &format!("{id}.1")),
        ("ce-userid", ""),
    ] {
        assert_eq!(message.header(name), value, "{name}");
    }
    assert!(message.header("traceparent").starts_with("00-"), "{:?}", message.properties);
    let properties = &message.properties;
    let text = |value: &Option<holdfast::amqp::ShortString>| value.as_ref().map(|v| v.to_string()).unwrap_or_default();
    assert_eq!(message.id(), format!("{id}.1"));
    assert_eq!(text(properties.correlation_id()), id);
    assert_eq!(text(properties.reply_to()), format!("holdfast.node.{}", &id[..8]));
    assert_eq!(text(properties.content_type()), "application/json");
    assert_eq!(text(properties.kind()), "holdfast.message");
    assert_eq!(text(properties.expiration()), "60000");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert!(properties.timestamp().is_some_and(|time| time > 1_700_000_000));

    client.close().await;
    let disconnect = take(&channel, &exchange).await;
    assert_eq!(disconnect.header("ce-type"), "holdfast.disconnect");
    assert!(disconnect.body.contains(r#""cause":"client""#), "{}", disconnect.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unroutable_message_is_its_sender_s_affair_alone() {
    let broker = Broker::shared().await;
    let exchange = unique("regions");
    let app = format!(
        "exchange: {exchange}, routing_key: \"{{/region}}\", queues: {{{exchange}: {{type: classic, bind: eu}}}}"
    );
    let yaml = amqp_yaml(
        &broker.url,
        &commands(&exchange),
        &app,
        "routes: [{event: \"*\", upstream: app, ack: true, in_flight: 16}]",
    );
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    // Twenty clients that may, twenty that may not, all at once and many times: each hears of its own messages only.
    let mut clients = Vec::new();
    for at in 0..40 {
        let mut client = holdfast.connect().await;
        clients.push(tokio::spawn(async move {
            let region = if at % 2 == 0 { "eu" } else { "nowhere" };
            for n in 0..50 {
                client.send(&json!({"type": "a", "region": region, "n": n}).to_string()).await;
            }
            let mut seen = Vec::new();
            for _ in 0..50 {
                let frame = client.json().await;
                match region {
                    "eu" => assert_eq!(frame["type"], "ack", "{frame}"),
                    _ => assert_eq!((&frame["code"], &frame["event"]), (&json!("unroutable"), &json!("a")), "{frame}"),
                }
                seen.push(frame["seq"].as_u64().expect("a number"));
            }
            seen.sort_unstable();
            assert_eq!(seen, (1..=50).collect::<Vec<_>>());
            client
        }));
    }
    for client in clients {
        client.await.expect("told rightly");
    }
    assert_eq!(take_all(&broker.channel().await, &exchange).await.len(), 20 * 50);
    let label = |outcome: &str| format!("holdfast_amqp_publishes_total{{upstream=\"app\",outcome=\"{outcome}\"}}");
    assert_eq!(holdfast.metric(&label("returned")).await, 1000.0);
    assert_eq!(holdfast.metric(&label("confirmed")).await, 1000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_does_not_fill_its_routing_key_is_refused() {
    let broker = Broker::shared().await;
    let exchange = unique("regions");
    let yaml = amqp_yaml(
        &broker.url,
        &commands(&exchange),
        &orders(&exchange, "{/order/region}.{userid}"),
        "routes: [{event: \"*\", upstream: app}]",
    );
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a","order":{}}"#).await;
    let (code, frame) = client.error().await;
    assert_eq!(code, "unroutable");
    assert!(frame["message"].as_str().is_some_and(|m| m.contains("/order/region")), "{frame}");
    client.send(r#"{"type":"a","order":{"region":"eu"}}"#).await;
    let (_, frame) = client.error().await;
    assert!(frame["message"].as_str().is_some_and(|m| m.contains("no user")), "{frame}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publish_is_said_and_an_exchange_that_a_message_names_must_exist() {
    let broker = Broker::shared().await;
    let channel = broker.channel().await;
    let (full, named) = (unique("full"), unique("named"));
    let mut arguments = holdfast::amqp::FieldTable::default();
    arguments.insert("x-max-length".into(), holdfast::amqp::AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), holdfast::amqp::AMQPValue::LongString("reject-publish".into()));
    let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(full.as_str().into(), options, arguments).await.expect("declared");
    let yaml = amqp_yaml(
        &broker.url,
        &commands(&named),
        "exchange: \"\", routing_key: \"{/queue}\", declare: false",
        "routes: [{event: \"x\", upstream: named, ack: true}, {event: \"*\", upstream: app, ack: true}]",
    );
    let named_upstream =
        "upstreams:\n  named: {amqp: {exchange: \"{+/exchange}\", routing_key: k, declare: passive, mandatory: false}}";
    let yaml = yaml.replace("upstreams:", named_upstream);
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    let message = json!({"type": "a", "queue": full}).to_string();
    client.send(&message).await;
    assert_eq!(client.json().await["type"], "ack");
    client.send(&message).await;
    let (code, frame) = client.error().await;
    assert_eq!(
        (code.as_str(), frame["message"].as_str()),
        ("upstream_rejected", Some("the broker refused the message"))
    );

    client.send(&json!({"type": "x", "exchange": "amq.topic"}).to_string()).await;
    assert_eq!(client.json().await["type"], "ack");
    client.send(&json!({"type": "x", "exchange": unique("nowhere")}).to_string()).await;
    assert_eq!(client.error().await.0, "unroutable");
    client.send(&json!({"type": "x", "exchange": "amq.fanout"}).to_string()).await;
    assert_eq!(client.json().await["type"], "ack", "other exchanges are not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_templates_reload_live_and_the_broker_s_url_does_not() {
    let broker = Broker::shared().await;
    let channel = broker.channel().await;
    let (old, new) = (unique("old"), unique("new"));
    let text = amqp_yaml(
        &broker.url,
        &commands(&old),
        &orders(&old, "{event}"),
        "routes: [{event: \"*\", upstream: app, ack: true}]",
    );
    let holdfast = Holdfast::start_yaml(&text, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.json().await["type"], "ack");
    assert_eq!(take(&channel, &old).await.routing_key, "a");

    let changed = text.replace(&orders(&old, "{event}"), &orders(&new, "moved.{event}"));
    std::fs::write(holdfast.config_path(), &changed).expect("written");
    let (status, body) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    assert_eq!(status, 200, "{body}");
    client.send(r#"{"type":"b"}"#).await;
    assert_eq!(client.json().await["seq"], 2, "the same socket");
    assert_eq!(take(&channel, &new).await.routing_key, "moved.b");

    std::fs::write(holdfast.config_path(), changed.replace("guest:guest", "guest:other")).expect("written");
    let (status, body) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    assert_eq!(status, 422);
    assert!(
        body["problems"][0].as_str().is_some_and(|p| p.starts_with("rabbitmq.url: changes only by a restart")),
        "{body}"
    );
    client.send(r#"{"type":"c"}"#).await;
    assert_eq!(client.json().await["seq"], 3, "the old configuration goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_route_acks_what_has_no_reply() {
    let app = Upstream::start(|_| crate::harness::Reply::empty()).await;
    let holdfast = Holdfast::start(&app, "routes: [{event: \"*\", upstream: app, ack: true}]").await;
    let mut client = Client::connect(&holdfast.url(), &[]).await.expect("a connection");
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.text().await, r#"{"type":"ack","seq":1}"#);
}

/// Queues of a test's own.
pub fn commands(name: &str) -> String {
    format!("commands_queue: {name}.commands\ndead_letter_queue: {name}.dead")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_confirms_and_leaves_the_broker_in_order() {
    let broker = Broker::shared().await;
    let channel = broker.channel().await;
    let exchange = unique("drained");
    declare(&channel, &exchange).await;
    let yaml = amqp_yaml(
        &broker.url,
        &commands(&exchange),
        &orders(&exchange, "k"),
        "disconnect: app\nroutes: [{event: \"*\", upstream: app}]",
    );
    let holdfast = Holdfast::start_yaml(&yaml, &[]).await.with_broker().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = holdfast.connect().await;
        client.send(r#"{"type":"a"}"#).await;
        clients.push(client);
    }
    let received = || async { (holdfast.metric("holdfast_messages_received_total").await == 20.0).then_some(()) };
    eventually("every message read", received).await;
    assert_eq!(holdfast.drain().await, 0);
    let taken = take_all(&channel, &exchange).await;
    assert_eq!(taken.iter().filter(|taken| taken.header("ce-type") == "holdfast.message").count(), 20);
    assert_eq!(taken.iter().filter(|taken| taken.header("ce-type") == "holdfast.disconnect").count(), 20);
}
