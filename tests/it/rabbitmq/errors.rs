//! What is wrong at the broker is named with exchange, user and virtual host, tried again, and closes no socket.

use std::net::TcpListener;

use http::Method;
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use serde_json::Value;

use super::events::commands;
use crate::harness::broker::{Broker, amqp_yaml, unique};
use crate::harness::{Holdfast, eventually};

const ROUTES: &str = "routes: [{event: \"*\", upstream: app, ack: true}]";

async fn config(holdfast: &Holdfast) -> Value {
    holdfast.call(Method::GET, "/v1/config", "").await.1
}

/// Waits until the upstream has an error, and gives it.
async fn upstream_error(holdfast: &Holdfast) -> String {
    let error = || async { config(holdfast).await["upstreams"][0]["error"].as_str().map(str::to_owned) };
    eventually("the upstream's error", error).await
}

/// Waits until the connection for publishing has an error, and gives it.
async fn connection_error(holdfast: &Holdfast) -> String {
    let error = || async { config(holdfast).await["rabbitmq"]["connections"][0]["error"].as_str().map(str::to_owned) };
    eventually("the connection's error", error).await
}

fn names_all(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "expected {part:?} in {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_does_not_exist_is_named_and_messages_wait_for_it() {
    let (broker, name) = (Broker::shared().await, unique("missing"));
    let app = format!("exchange: {name}, routing_key: k, declare: passive, mandatory: false");
    let holdfast = Holdfast::start_yaml(&amqp_yaml(&broker.url, &commands(&name), &app, ROUTES), &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    let error = upstream_error(&holdfast).await;
    names_all(&error, &[&name, "vhost \"/\"", "user \"guest\"", "no exchange"]);
    // It is tried again: once the exchange is there, the message goes.
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let channel = broker.channel().await;
    channel
        .exchange_declare(name.as_str().into(), ExchangeKind::Topic, options, Default::default())
        .await
        .expect("made");
    assert_eq!(client.text().await, r#"{"type":"ack","seq":1}"#);
    assert!(config(&holdfast).await["upstreams"][0]["error"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kind_of_exchange_is_named_and_others_go_on() {
    let (broker, name) = (Broker::shared().await, unique("kind"));
    let app = "exchange: amq.direct, routing_key: k, type: topic";
    let yaml = amqp_yaml(
        &broker.url,
        &commands(&name),
        app,
        "routes: [{event: b, upstream: other, ack: true}, {event: \"*\", upstream: app}]",
    );
    let other = format!(
        "upstreams:\n  other: {{amqp: {{exchange: {name}, routing_key: k, queues: {{{name}: {{type: classic}}}}}}}}"
    );
    let holdfast = Holdfast::start_yaml(&yaml.replace("upstreams:", &other), &[]).await;
    names_all(&upstream_error(&holdfast).await, &["amq.direct", "vhost \"/\"", "user \"guest\"", "inequivalent"]);
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"b"}"#).await;
    assert_eq!(client.json().await["type"], "ack");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_named_and_a_new_password_in_its_file_is_taken() {
    let (broker, name) = (Broker::shared().await, unique("login"));
    broker.ctl(&["add_user", &name, "right"]).await;
    broker.ctl(&["set_permissions", &name, ".*", ".*", ".*"]).await;
    let app = format!("exchange: {name}, routing_key: k, queues: {{{name}: {{type: classic}}}}");
    let more = format!("{}\nusername_file: user\npassword_file: password", commands(&name));
    let yaml = amqp_yaml(&broker.url, &more, &app, ROUTES);
    let holdfast = Holdfast::start_yaml(&yaml, &[("user", &format!("{name}\n")), ("password", "wrong-secret")]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    let error = connection_error(&holdfast).await;
    names_all(&error, &["127.0.0.1:", "vhost \"/\"", &format!("user \"{name}\""), "ACCESS_REFUSED"]);
    assert!(!error.contains("wrong-secret"), "{error}");
    std::fs::write(holdfast.config_path().with_file_name("password"), "right\n").expect("written");
    assert_eq!(client.text().await, r#"{"type":"ack","seq":1}"#, "the message waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_and_counts_once_it_is_given() {
    let (broker, name) = (Broker::shared().await, unique("limited"));
    broker.ctl(&["add_user", &name, "pw"]).await;
    let may = |write: &str| {
        let write = write.to_owned();
        let name = name.clone();
        async move { broker.ctl(&["set_permissions", &name, ".*", &write, ".*"]).await }
    };
    may("^nothing$").await;
    let channel = broker.channel().await;
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel
        .exchange_declare(name.as_str().into(), ExchangeKind::Topic, options, Default::default())
        .await
        .expect("made");
    let app = format!("exchange: {name}, routing_key: k, mandatory: false");
    let url = broker.url.replace("guest:guest", &format!("{name}:pw"));
    let holdfast = Holdfast::start_yaml(&amqp_yaml(&url, &commands(&name), &app, ROUTES), &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    let error = upstream_error(&holdfast).await;
    names_all(&error, &[&format!("exchange \"{name}\""), "vhost \"/\"", &format!("user \"{name}\""), "ACCESS_REFUSED"]);
    let queues = || async { config(&holdfast).await["rabbitmq"]["errors"][0].as_str().map(str::to_owned) };
    let error = eventually("the queues' error", queues).await;
    names_all(&error, &["vhost \"/\"", &format!("user \"{name}\""), "ACCESS_REFUSED"]);
    may(".*").await;
    assert_eq!(client.text().await, r#"{"type":"ack","seq":1}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_vhost_and_a_dead_host_are_named_and_the_next_host_is_tried() {
    let (broker, name) = (Broker::shared().await, unique("hosts"));
    let dead = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let app = format!("exchange: {name}, routing_key: k, queues: {{{name}: {{type: classic}}}}");
    let yaml = amqp_yaml(&broker.url, &commands(&name), &app, ROUTES);
    let nowhere = broker.url.replace("%2f", "nowhere");
    let lost = Holdfast::start_yaml(&yaml.replace(&broker.url, &nowhere), &[]).await;
    names_all(&connection_error(&lost).await, &["vhost \"nowhere\"", "user \"guest\"", "NOT_ALLOWED"]);

    let list = format!("url: [\"amqp://guest:guest@{dead}/%2f\", \"{nowhere}\", \"{}\"]", broker.url);
    let found = yaml.replace(&format!("url: \"{}\"", broker.url), &list);
    let holdfast = Holdfast::start_yaml(&found, &[]).await.with_broker().await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.json().await["type"], "ack", "the third host");
    assert!(holdfast.metric("holdfast_amqp_reconnects_total{").await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_spoken_to_over_tls_with_an_authority_of_one_s_own() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("parameters");
    let certificate = certificate.signed_by(&key, &authority).expect("a certificate");
    let folder = tempfile::tempdir().expect("a temp folder");
    let file = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).expect("written");
        folder.path().join(name).display().to_string()
    };
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let broker = Broker::start_with(&format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n",
        file("ca.pem", authority.pem()),
        file("cert.pem", certificate.pem()),
        file("key.pem", key.serialize_pem()),
    ))
    .await;
    let name = unique("tls");
    let app = format!("exchange: {name}, routing_key: k, queues: {{{name}: {{type: classic}}}}");
    let yaml = amqp_yaml(&format!("amqps://guest:guest@localhost:{port}/%2f"), &commands(&name), &app, ROUTES);
    let stranger = Holdfast::start_yaml(&yaml, &[]).await;
    let error = connection_error(&stranger).await;
    assert!(error.contains("ertificate") || error.contains("UnknownIssuer"), "{error}");

    let trusting = yaml.replace("commands_type", "ca_file: ca.pem\n  commands_type");
    let holdfast = Holdfast::start_yaml(&trusting, &[("ca.pem", &authority.pem())]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.json().await["type"], "ack");
    drop(broker);
}
