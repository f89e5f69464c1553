//! Commands out of a queue: targets by header, lists, poison, slow clients, several nodes.

use holdfast::amqp::{AMQPValue, BasicProperties, FieldTable};
use serde_json::{Value, json};

use super::events::commands;
use crate::harness::broker::{Broker, Taken, amqp_yaml, publish, take, take_all, unique};
use crate::harness::{Client, Holdfast, eventually};

const LIST: &str = "application/vnd.holdfast.commands+json";

/// A node that consumes `name`.commands, and whose clients are told their ID by the events that they cause in the queue `name`.
async fn node(broker: &Broker, name: &str, more: &str, endpoint: &str) -> Holdfast {
    let app = format!("exchange: \"\", routing_key: {name}, queues: {{{name}: {{type: classic}}}}");
    let routes = format!("routes: [{{event: \"*\", upstream: app, ack: true}}]\n{endpoint}");
    let yaml = amqp_yaml(&broker.url, &format!("{}\n{more}", commands(name)), &app, &routes);
    Holdfast::start_yaml(&yaml, &[("push.json", r#"{"required":["ok"]}"#)]).await.with_broker().await
}

/// A client and its ID.
async fn client(holdfast: &Holdfast, broker: &Broker, name: &str) -> (Client, String) {
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"hello"}"#).await;
    assert_eq!(client.json().await["type"], "ack");
    let id = take(&broker.channel().await, name).await.header("ce-connectionid");
    (client, id)
}

async fn dead(broker: &Broker, name: &str) -> (Taken, String) {
    let taken = take(&broker.channel().await, &format!("{name}.dead")).await;
    let reason = taken.header("holdfast-reason");
    (taken, reason)
}

fn typed(content_type: &str) -> BasicProperties {
    BasicProperties::default().with_content_type(content_type.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_names_the_target_and_a_list_does_the_rest() {
    let (broker, name) = (Broker::shared().await, unique("header"));
    let holdfast = node(broker, &name, "", "").await;
    let (mut one, id) = client(&holdfast, broker, &name).await;
    let (mut two, other) = client(&holdfast, broker, &name).await;
    let (channel, queue) = (broker.channel().await, format!("{name}.commands"));

    publish(&channel, &queue, typed("application/json"), &[("to-connection", &id)], r#"{"n":1}"#).await;
    assert_eq!(one.text().await, r#"{"n":1}"#);
    publish(&channel, &queue, typed("application/octet-stream"), &[("to-connection", &id)], "raw").await;
    assert!(one.next().await.is_binary());

    let list = json!([
        {"join": {"connection": id, "group": "room"}},
        {"join": {"connection": other, "group": "room"}},
        {"context": {"connection": id, "value": "seen"}},
        {"send": {"to": {"group": "room", "except": [other]}, "data": {"n": 2}}},
    ]);
    publish(&channel, &queue, typed(LIST), &[], &list.to_string()).await;
    assert_eq!(one.text().await, r#"{"n":2}"#);
    publish(&channel, &queue, typed("text/plain"), &[("to-group", "room")], "to the room").await;
    publish(&channel, &queue, typed("text/plain"), &[("to-all", "true")], "to all").await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.text().await, "to the room");
        assert_eq!(client.text().await, "to all");
    }
    one.send(r#"{"type":"again"}"#).await;
    assert_eq!(one.json().await["type"], "ack");
    assert_eq!(take(&channel, &name).await.header("ce-context"), "seen");
    publish(
        &channel,
        &queue,
        typed(LIST),
        &[],
        &json!([{"close": {"to": {"connection": id}, "code": 4400}}]).to_string(),
    )
    .await;
    assert_eq!(one.closed().await.0, 4400);

    let settled = || async {
        let acked = holdfast.metric("holdfast_amqp_settled_total{queue=\"commands\",outcome=\"acked\"").await;
        (acked == 6.0).then_some(())
    };
    eventually("all acked", settled).await;
    assert_eq!(holdfast.metric("holdfast_amqp_deliveries_total{queue=\"commands\"").await, 6.0);
    assert!(take_all(&channel, &queue).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letter_queue_with_its_reason_and_never_comes_back() {
    let (broker, name) = (Broker::shared().await, unique("poison"));
    let more = "commands_size: 2KiB\ncommands_gone: dead_letter";
    let holdfast = node(broker, &name, more, "push_schema: push.json").await;
    let (mut one, id) = client(&holdfast, broker, &name).await;
    let (channel, queue) = (broker.channel().await, format!("{name}.commands"));
    let large = "x".repeat(3000);
    let nobody = format!("{}-{}", &id[..8], "a".repeat(20));
    let elsewhere = format!("{}-{}", "zzzzzzzz", "a".repeat(20));
    let to_one = [("to-connection", id.as_str())];
    for (properties, headers, body, says) in [
        (typed(LIST), &[][..], "[{\"send\"", "a JSON list"),
        (typed(LIST), &[][..], r#"[{"shout":{}}]"#, "command 0: unknown variant"),
        (typed("text/plain"), &[("to-whom", "it may concern")][..], "x", "expected a header to-connection"),
        (typed("text/plain"), &[("to-connection", "x")][..], "x", "not a connection ID"),
        (typed("text/plain"), &to_one[..], &large, "at most 2048 bytes"),
        (typed("application/json"), &to_one[..], r#"{"no":1}"#, "push schema"),
        (typed("application/json"), &[("to-connection", nobody.as_str())][..], r#"{"ok":1}"#, "gone"),
        (typed("application/json"), &[("to-connection", elsewhere.as_str())][..], r#"{"ok":1}"#, "gone"),
    ] {
        let properties = properties.with_message_id("their-own-id".into());
        publish(&channel, &queue, properties, headers, body).await;
        let (taken, reason) = dead(broker, &name).await;
        assert!(reason.contains(says), "{reason}");
        assert_eq!((taken.body.as_str(), taken.id()), (body, "their-own-id"));
        assert_eq!(taken.header("holdfast-queue"), queue);
    }
    // Headers that fill the frame leave no room for the reason: they are left behind.
    let vast = "x".repeat(130_000);
    publish(&channel, &queue, typed("text/plain"), &[("to-whom", "it may concern"), ("vast", &vast)], "x").await;
    let (taken, reason) = dead(broker, &name).await;
    assert!(reason.contains("expected a header to-connection") && taken.header("vast").is_empty(), "{reason}");
    // A reason that quotes what a stranger wrote is cut.
    let shout = format!("[{{\"{}\":{{}}}}]", "A".repeat(1500));
    publish(&channel, &queue, typed(LIST), &[], &shout).await;
    let (_, reason) = dead(broker, &name).await;
    assert!(reason.starts_with("command 0: unknown variant") && reason.len() < 1100, "{}", reason.len());
    // What would drop the copy, or send it elsewhere too, is not copied.
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString(queue.as_str().into())].into()));
    headers.insert("kept".into(), AMQPValue::LongString("yes".into()));
    let properties = typed("text/plain").with_expiration("60000".into()).with_user_id("guest".into());
    let properties = properties.with_headers(headers).with_correlation_id("theirs".into());
    let options = lapin::options::BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), format!("{name}.commands").into(), options, b"x", properties).await;
    sent.expect("published").await.expect("confirmed");
    let (taken, _) = dead(broker, &name).await;
    let properties = &taken.properties;
    assert!(properties.expiration().is_none() && properties.user_id().is_none(), "{properties:?}");
    assert_eq!(properties.correlation_id().as_ref().map(|id| id.as_str()), Some("theirs"));
    let headers = properties.headers().as_ref().expect("headers").inner();
    assert!(!headers.contains_key("CC") && headers.contains_key("kept"), "{headers:?}");
    publish(&channel, &queue, typed("application/json"), &[("to-connection", &id)], r#"{"ok":1}"#).await;
    assert_eq!(one.text().await, r#"{"ok":1}"#, "the queue goes on");
    let label = "holdfast_amqp_settled_total{queue=\"commands\",outcome=\"dead_lettered\"";
    assert_eq!(holdfast.metric(label).await, 11.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_connections_are_counted_and_dropped_where_that_is_configured() {
    let (broker, name) = (Broker::shared().await, unique("gone"));
    let holdfast = node(broker, &name, "commands_gone: drop", "").await;
    let (one, id) = client(&holdfast, broker, &name).await;
    one.close().await;
    let (channel, queue) = (broker.channel().await, format!("{name}.commands"));
    let gone = || async {
        publish(&channel, &queue, typed("text/plain"), &[("to-connection", &id)], "x").await;
        let label = "holdfast_amqp_settled_total{queue=\"commands\",outcome=\"gone\"";
        (holdfast.metric(label).await >= 1.0).then_some(())
    };
    eventually("a gone one", gone).await;
    assert!(take_all(&channel, &format!("{name}.dead")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_a_slow_client_without_holding_up_others() {
    let (broker, name) = (Broker::shared().await, unique("slow"));
    let more = "commands_wait: 1s\ncommands_prefetch: 500";
    let holdfast = node(broker, &name, more, "limits: {send_buffer: 64KiB}").await;
    let (mut slow, slow_id) = client(&holdfast, broker, &name).await;
    let (mut quick, quick_id) = client(&holdfast, broker, &name).await;
    let (channel, queue) = (broker.channel().await, format!("{name}.commands"));
    // The kernel's buffers take some megabytes before the mailbox fills.
    let body = "x".repeat(30_000);
    for n in 0..400 {
        let properties = typed("text/plain").with_message_id(n.to_string().into());
        publish(&channel, &queue, properties, &[("to-connection", &slow_id)], &format!("{n:04}{body}")).await;
    }
    // A list that names the slow client waits behind what waits for it already.
    let list = json!([{"send": {"to": {"connection": slow_id}, "text": "9999"}}]).to_string();
    publish(&channel, &queue, typed(LIST), &[], &list).await;
    publish(&channel, &queue, typed("text/plain"), &[("to-connection", &quick_id)], "not held up").await;
    assert_eq!(quick.text().await, "not held up");
    let (_, reason) = dead(broker, &name).await;
    assert!(reason.starts_with("full"), "{reason}");
    // Each is either in the socket, in order, or in the dead-letter queue.
    let settled = || async {
        let settled = holdfast.metric("holdfast_amqp_settled_total{queue=\"commands\"").await;
        (settled == 402.0).then_some(())
    };
    eventually("everything settled", settled).await;
    let dead = 1 + take_all(&channel, &format!("{name}.dead")).await.len();
    let mut last = None;
    for _ in 0..401 - dead {
        let n: usize = slow.text().await[..4].parse().expect("a number");
        assert!(last < Some(n), "{n} after {last:?}");
        last = Some(n);
    }
    assert_eq!(holdfast.metric("holdfast_connections{").await, 2.0, "nobody was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_queue_and_hand_over_what_is_not_theirs() {
    let (broker, name) = (Broker::shared().await, unique("nodes"));
    let (more, push) = ("commands_gone: dead_letter", "push_schema: push.json");
    let (a, b) = (node(broker, &name, more, "").await, node(broker, &name, more, push).await);
    let (mut on_a, id_a) = client(&a, broker, &name).await;
    let (mut on_b, id_b) = client(&b, broker, &name).await;
    let (channel, queue) = (broker.channel().await, format!("{name}.commands"));
    let fits = |n: u64| json!({"ok": n}).to_string();
    // Whichever node takes a command, its connection's node carries it out.
    for n in 0..20 {
        for id in [&id_a, &id_b] {
            publish(&channel, &queue, typed("application/json"), &[("to-connection", id)], &fits(n)).await;
        }
    }
    for client in [&mut on_a, &mut on_b] {
        let mut seen = Vec::new();
        for _ in 0..20 {
            seen.push(client.json().await["ok"].as_u64().expect("a number"));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }
    // What the other node cannot carry out is dead-lettered with its reason, whoever took it.
    let nobody = format!("{}-{}", &id_a[..8], "a".repeat(20));
    for n in 0..4 {
        let (id, says) = if n % 2 == 0 { (&id_b, "push schema") } else { (&nobody, "gone") };
        publish(&channel, &queue, typed("application/json"), &[("to-connection", id)], "{}").await;
        let (taken, reason) = dead(broker, &name).await;
        assert!(reason.contains(says) && taken.header("holdfast-queue") == queue, "{reason}");
    }
    // A list for connections of both nodes is done on both; what one of them cannot do does not stop the rest.
    let send = |id: &str, data: Value| json!({"send": {"to": {"connection": id}, "data": data}});
    let list = json!([send(&id_a, json!({"ok": 1})), send(&id_b, json!({"no": 1})), send(&id_b, json!({"ok": 2}))]);
    publish(&channel, &queue, typed(LIST), &[], &list.to_string()).await;
    assert_eq!(on_a.json().await["ok"], 1);
    assert_eq!(on_b.json().await["ok"], 2);
    let (taken, reason) = dead(broker, &name).await;
    assert!(reason.starts_with("command 1: invalid") && taken.body.starts_with("[{\"send\""), "{reason}");
    let join = |id: &str| json!({"join": {"connection": id, "group": name}});
    let list = json!([join(&id_a), join(&id_b)]);
    publish(&channel, &queue, typed(LIST), &[], &list.to_string()).await;
    // The joins may still be on their way to the other node.
    let members = |holdfast: &Holdfast| {
        let addr = holdfast.admin;
        let path = format!("/v1/groups/{name}/members");
        async move {
            let (_, _, body) = crate::harness::request(addr, http::Method::GET, &path, &[], Default::default()).await;
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            body["members"].as_array().map_or(0, Vec::len)
        }
    };
    for holdfast in [&a, &b] {
        eventually("the member", || async { (members(holdfast).await == 1).then_some(()) }).await;
    }
    for n in 0..5 {
        publish(&channel, &queue, typed("application/json"), &[("to-group", &name)], &fits(n)).await;
    }
    for client in [&mut on_a, &mut on_b] {
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(client.text().await);
        }
        seen.sort();
        assert_eq!(seen, (0..5).map(fits).collect::<Vec<_>>(), "each once");
    }
}
