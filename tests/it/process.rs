//! The program as a process: exit codes, signals, the file limit, the words it prints.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;

use crate::harness::broker::Broker;
use crate::harness::{BINARY, Client, Process, Upstream, eventually, request, yaml};

const ROUTES: &str = "disconnect: app\nroutes: [{event: \"*\", upstream: app}]";

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY).args(arguments).env_remove("HOLDFAST_CONFIG").output().expect("run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn exit_codes_and_words() {
    let (code, _, error) = run(&["run"]);
    assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("--config FILE"), "{error}");
    assert_eq!(run(&["nonsense"]).0, Some(2));
    let (code, help, _) = run(&["--help"]);
    assert!(code == Some(0) && help.contains("Examples:") && help.contains("Exit codes"), "{help}");
    let (code, schema, _) = run(&["schema"]);
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    assert!(schema["properties"]["endpoints"].is_object());
    let (code, _, error) = run(&["check", "/nowhere/holdfast.yaml"]);
    assert!(code == Some(78) && error.contains("cannot read /nowhere/holdfast.yaml"), "{error}");
}

#[test]
fn check_accepts_the_example_and_names_five_mistakes() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/holdfast.yaml");
    let (code, words, error) = run(&["check", example]);
    assert_eq!(code, Some(0), "{error}");
    assert!(words.contains("ok (2 endpoints, 2 upstreams)"), "{words}");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("bad.yaml");
    let text = std::fs::read_to_string(example).expect("the example");
    let text = text
        .replace("drain:", "drian:")
        .replace("interval: 25s", "interval: soon")
        .replace("upstream: orders,", "upstream: order,")
        .replace("schema: ../schemas/chat.json", "schema: chat.json")
        .replace("path: /raw", "path: raw")
        .replace("../schemas/", concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/"));
    std::fs::write(&path, text).expect("written");
    let path = path.to_string_lossy().into_owned();
    let (code, _, error) = run(&["check", &path]);
    assert_eq!(code, Some(78));
    let lines: Vec<_> = error.lines().collect();
    assert_eq!((lines.len(), lines[5]), (6, "5 problems"), "{error}");
    for line in &lines[..5] {
        let place: Vec<_> = line.strip_prefix(&format!("{path}:")).expect("the file").splitn(3, ':').collect();
        assert!(place[0].parse::<u32>().is_ok() && place[1].parse::<u32>().is_ok() && line.contains("; "), "{line}");
    }
}

#[test]
fn a_bare_file_name_finds_its_schemas() {
    let dir = tempfile::tempdir().expect("a folder");
    let routes = "routes: [{event: \"*\", schema: a.json, upstream: app}]";
    std::fs::write(dir.path().join("holdfast.yaml"), yaml("http://127.0.0.1:1/", "", routes)).expect("written");
    std::fs::write(dir.path().join("a.json"), "{}").expect("written");
    let output = Command::new(BINARY).args(["check", "holdfast.yaml"]).current_dir(dir.path()).output().expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_check_passes_over_queues() {
    // The demo's queues have names of their own, so it has a broker for itself.
    let broker = Broker::start().await;
    let (code, words, error) = run(&["demo", "--check", "--rabbitmq", &broker.url]);
    assert_eq!((code, words.trim()), (Some(0), "demo --check: every step passed"), "{error}");
    let (code, _, error) = run(&["demo", "--check", "--rabbitmq", "amqp://guest:guest@127.0.0.1:1/%2f"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot start the chat"), "{error}");
}

#[test]
fn demo_check_passes() {
    let (code, words, error) = run(&["demo", "--check"]);
    assert_eq!(code, Some(0), "{words}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_and_sigterm_drains() {
    let app = Upstream::echo().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.yaml");
    std::fs::write(&path, yaml(&app.url(), "", ROUTES)).expect("written");
    let mut process = Process::start(&path, None).await;
    let mut client = process.client().await;
    std::fs::write(&path, yaml(&app.url(), "", &format!("idle_timeout: 1h\n{ROUTES}"))).expect("written");
    process.signal("HUP");
    eventually("generation 2", || async {
        let (_, _, body) = request(process.admin, Method::GET, "/v1/config", &[], "".into()).await;
        String::from_utf8_lossy(&body).contains("\"generation\":2").then_some(())
    })
    .await;
    client.send(r#"{"type":"a"}"#).await;
    assert_eq!(client.text().await, r#"{"type":"a"}"#);
    process.signal("TERM");
    assert_eq!(client.closed().await.0, 1012);
    drop(client);
    assert_eq!(process.exit().await, Some(0));
    assert_eq!(app.calls_of("disconnect").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_leaves_at_once() {
    let app = Upstream::start_async(|_| std::future::pending()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.yaml");
    let text = yaml(&app.url(), "timeout: 60s", ROUTES).replace("deadline: 10s}", "deadline: 60s}");
    std::fs::write(&path, text).expect("written");
    let mut process = Process::start(&path, None).await;
    let mut client = process.client().await;
    client.send(r#"{"type":"a"}"#).await;
    app.wait_for("message", 1).await;
    process.signal("TERM");
    eventually("draining", || async {
        let (status, _, _) = request(process.admin, Method::GET, "/readyz", &[], "".into()).await;
        (status == 503).then_some(())
    })
    .await;
    process.signal("TERM");
    assert_eq!(process.exit().await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting_survives_the_end_of_file_descriptors() {
    let app = Upstream::echo().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.yaml");
    std::fs::write(&path, yaml(&app.url(), "", ROUTES)).expect("written");
    let process = Process::start(&path, Some("-n 64")).await;
    let mut first = process.client().await;
    let url = format!("ws://{}/ws", process.listen);
    let mut held = Vec::new();
    // More than the limit: some connections wait in the backlog, unaccepted.
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(process.listen).await.expect("in the backlog"));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.send(r#"{"type":"a"}"#).await;
    drop(held);
    let mut again = eventually("accepting again", || async { Client::connect(&url, &[]).await.ok() }).await;
    again.send(r#"{"type":"b"}"#).await;
    assert_eq!(again.text().await, r#"{"type":"b"}"#);
    assert_eq!(first.text().await, r#"{"type":"a"}"#, "the open socket was served all along");
    let (_, _, body) = request(process.admin, Method::GET, "/metrics", &[], "".into()).await;
    assert!(String::from_utf8_lossy(&body).contains("holdfast_accept_errors_total{kind=\"exhausted\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_limit_is_raised_as_far_as_it_may_be_and_said() {
    let app = Upstream::echo().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.yaml");
    let text = format!("limits: {{connections: 100}}\n{}", yaml(&app.url(), "", ROUTES));
    std::fs::write(&path, text).expect("written");
    let process = Process::start(&path, Some("-n 400; ulimit -Sn 64")).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(process.client().await);
    }
    let log = process.log();
    let line = log.iter().find(|line| line.contains("file limit")).expect("a line about files");
    assert!(line.contains("files=400 before=64 connections_max=100 fit=100"), "{line}");
    assert_eq!(process.metric("holdfast_connections_limit").await as u64, 100, "the node's");
    let several = "{path: /other, limits: {connections: 20}, routes: [{event: a, upstream: app}]}";
    for (ws, limit) in [("30", 30 + 20), ("10000", 400 - 64)] {
        let text = yaml(&app.url(), "", &format!("limits: {{connections: {ws}}}\n{ROUTES}"));
        std::fs::write(&path, format!("{text}  - {several}\n")).expect("written");
        process.signal("HUP");
        eventually("the new limit", || async {
            (process.metric("holdfast_connections_limit").await as u64 == limit).then_some(())
        })
        .await;
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.yaml");
    let addr = taken.local_addr().expect("an address").to_string();
    let text = yaml("http://127.0.0.1:1/", "", ROUTES).replacen("127.0.0.1:0", &addr, 1);
    std::fs::write(&path, text).expect("written");
    let mut child =
        Command::new(BINARY).args(["run", "--config"]).arg(&path).stderr(Stdio::piped()).spawn().expect("started");
    let mut words = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut words).expect("read");
    assert_eq!(child.wait().expect("gone").code(), Some(1));
    assert!(words.contains(&format!("cannot listen on {addr} (listen)")), "{words}");
}
