//! Ordinary RPC workers, written in other languages with other clients, which know nothing of Holdfast.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::events::commands;
use crate::harness::broker::{Broker, amqp_yaml, unique};
use crate::harness::{Client, Holdfast};

const REQUESTS: usize = 1000;
const CLIENTS: usize = 50;

/// Debian's interpreter has Debian's pika.
#[tokio::test(flavor = "multi_thread")]
async fn a_pika_worker_answers_each_socket() {
    answers("/usr/bin/python3", "worker.py", "pika").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amqplib_worker_answers_each_socket() {
    answers("node", "worker.mjs", "amqplib").await;
}

async fn answers(program: &str, file: &str, by: &'static str) {
    let (broker, name) = (Broker::shared().await, unique(by));
    let app = format!("exchange: \"\", routing_key: {name}, queues: {{{name}: {{type: classic}}}}");
    let yaml = amqp_yaml(&broker.url, &commands(&name), &app, "routes: [{event: \"*\", upstream: app, in_flight: 8}]");
    let holdfast = Arc::new(Holdfast::start_yaml(&yaml, &[]).await.with_broker().await);
    let _worker = broker.worker(program, file, &name);
    let mut clients = Vec::new();
    for at in 0..CLIENTS {
        let client = holdfast.connect().await;
        clients.push(tokio::spawn(ask(client, at, by)));
    }
    for client in clients {
        client.await.expect("answered rightly");
    }
    assert_eq!(holdfast.metric("holdfast_amqp_settled_total{queue=\"node\",outcome=\"acked\"").await, REQUESTS as f64);
}

/// Sends a share of the requests; every answer must echo one of this client's own.
async fn ask(mut client: Client, at: usize, by: &str) {
    let share = REQUESTS / CLIENTS;
    for n in 0..share {
        client.send(&json!({"type": "ask", "client": at, "n": n}).to_string()).await;
    }
    let mut seen = HashSet::new();
    while seen.len() < share {
        let answer: Value = client.json().await;
        assert_eq!((&answer["by"], &answer["echo"]["client"]), (&json!(by), &json!(at)), "{answer}");
        assert!(seen.insert(answer["echo"]["n"].as_u64()), "twice: {answer}");
    }
}
