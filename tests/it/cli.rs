//! The commands that ask a running Holdfast: the real program twice, one as the server.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{BINARY, Process, Upstream, eventually, yaml};

const ROUTES: &str = "connect: app\nroutes: [{event: \"*\", upstream: app}]";

/// Runs a command against an admin listener: whether it succeeded, and what it said.
fn ask(process: &Process, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .args(["--admin", &format!("http://{}", process.admin)])
        .env_remove("HOLDFAST_ADMIN_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("an end");
    let words = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(words).expect("text").trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_send_and_close_from_a_shell() {
    let app = Upstream::echo().await;
    let process = Process::start_yaml(&yaml(&app.url(), "", ROUTES), &[]).await;
    assert_eq!(ask(&process, &["probe"], ""), (true, "ready".into()));
    let mut client = process.client().await;

    let (_, text) = ask(&process, &["connections", "--endpoint", "/ws", "--json"], "");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let id = list["connections"][0]["id"].as_str().expect("an ID").to_owned();
    let (_, text) = ask(&process, &["connections"], "");
    assert!(text.starts_with("ID ") && text.contains(&format!("\n{id}  /ws ")) && text.ends_with("\n1 of 1"), "{text}");
    let (_, text) = ask(&process, &["connections", &id], "");
    assert!(text.lines().any(|line| line == format!("id             {id}")), "{text}");
    let (_, text) = ask(&process, &["connections", "--user", "nobody"], "");
    assert!(text.ends_with("0 of 0"), "{text}");

    assert_eq!(ask(&process, &["push", "--connection", &id, "hello"], ""), (true, "written".into()));
    assert_eq!(client.text().await, "hello");
    assert_eq!(ask(&process, &["push", "--all", "-"], "from stdin"), (true, "delivered 1, dropped 0".into()));
    assert_eq!(client.text().await, "from stdin");
    let (succeeded, text) = ask(&process, &["push", "--all", "--group", "g", "x"], "");
    assert!(!succeeded && text.contains("cannot be used with"), "{text}");

    assert_eq!(ask(&process, &["close", &id, "--code", "4403", "--reason", "signed out"], ""), (true, "done".into()));
    assert_eq!(client.closed().await, (4403, "signed out".into()));
    drop(client);
    let gone = async || Some(ask(&process, &["connections", &id], "")).filter(|(succeeded, _)| !succeeded);
    let (_, text) = eventually("it is gone", gone).await;
    assert!(text.starts_with("holdfast: ") && text.ends_with("(410)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_reload_and_drain_from_a_shell_and_are_told_what_is_wrong() {
    let app = Upstream::echo().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("holdfast.yaml");
    let text = yaml(&app.url(), "", ROUTES);
    std::fs::write(&path, &text).expect("written");
    let mut process = Process::start(&path, None).await;
    assert_eq!(ask(&process, &["reload"], ""), (true, "nothing changed: generation 1".into()));
    std::fs::write(&path, text.replace("connect: app", "connect: apple")).expect("written");
    let (succeeded, words) = ask(&process, &["reload"], "");
    assert!(!succeeded && words.contains("the old one stays (422)\n") && words.contains("apple"), "{words}");
    assert_eq!(ask(&process, &["probe", "--live"], ""), (true, "alive".into()));
    let client = process.client().await;
    assert_eq!(ask(&process, &["drain"], ""), (true, "draining".into()));
    drop(client);
    assert_eq!(process.exit().await, Some(0));
    let (succeeded, words) = ask(&process, &["probe"], "");
    assert!(!succeeded && words.contains("/readyz: ") && words.contains("refused"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_from_a_file_and_asked_for() {
    let app = Upstream::echo().await;
    let token = "0123456789abcdef0123456789abcdef";
    let text = yaml(&app.url(), "", ROUTES).replace(
        "admin: {listen: \"127.0.0.1:0\"}",
        "admin: {listen: \"127.0.0.1:0\", tokens: {me: {token_file: token, scopes: [read]}}}",
    );
    let process = Process::start_yaml(&text, &[("token", token)]).await;
    assert_eq!(ask(&process, &["probe"], ""), (true, "ready".into()), "probes need none");
    let (succeeded, words) = ask(&process, &["connections"], "");
    assert!(!succeeded && words.contains("(401)") && words.contains("--token-file"), "{words}");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let (succeeded, words) = ask(&process, &["connections", "--token-file", file.to_str().expect("a path")], "");
    assert!(succeeded && words.ends_with("0 of 0"), "{words}");
}

/// Live messages on a terminal: the program twice, one of them asked to end as by Ctrl-C.
#[tokio::test(flavor = "multi_thread")]
async fn people_watch_messages_from_a_shell() {
    let app = Upstream::echo().await;
    let mut process = Process::start_yaml(&yaml(&app.url(), "", ROUTES), &[]).await;
    let admin = format!("http://{}", process.admin);
    let tail = |arguments: &[&str]| {
        let mut child = Command::new(BINARY)
            .arg("tail")
            .args(arguments)
            .args(["--admin", &admin])
            .env_remove("HOLDFAST_ADMIN_TOKEN")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
        (child, lines)
    };
    let (mut people, mut lines) = tail(&["--event", "chat.*"]);
    let (machine, mut records) = tail(&["--json", "--no-data"]);
    eventually("both watch", async || (process.metric("holdfast_watchers ").await == 2.0).then_some(())).await;
    let mut client = process.client().await;
    client.send(r#"{"type":"chat.send","text":"hello"}"#).await;
    client.text().await;
    let line = lines.next().expect("a line");
    assert!(
        line.contains(" > chat.send answered app ") && line.ends_with(r#"35B {"type":"chat.send","text":"hello"}"#),
        "{line}"
    );
    for kind in ["connected", "in", "out"] {
        let record: Value = serde_json::from_str(&records.next().expect("a line")).expect("JSON");
        assert!(record["kind"] == kind || record["direction"] == kind, "{record}");
        assert!(record["data"].is_null() && (record["size"] == 35 || kind == "connected"), "{record}");
    }
    let status = Command::new("kill").args(["-INT", &people.id().to_string()]).status();
    assert!(status.expect("kill").success() && people.wait().expect("an end").success());
    // A token is asked for as everywhere, and what is wrong is said.
    let (succeeded, words) = ask(&process, &["tail", "--connection", "nobody"], "");
    assert!(!succeeded && words.contains("(400)"), "{words}");

    process.signal("TERM");
    assert_eq!(process.exit().await, Some(0));
    let last: Vec<String> = records.collect();
    assert!(last.last().is_some_and(|line| line.contains(r#""kind":"disconnected""#)), "the drain is seen: {last:?}");
    let output = machine.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "holdfast: the server ended the stream\n");
}

#[test]
fn two_configurations_are_compared() {
    let dir = tempfile::tempdir().expect("a folder");
    let old = yaml("http://127.0.0.1:1/", "", ROUTES);
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    };
    let (old, same) = (write("a.yaml", &old), write("b.yaml", &format!("# the same\n{old}")));
    let new = write("c.yaml", &yaml("http://127.0.0.1:2/", "", ROUTES));
    let wrong = write("d.yaml", &yaml("http://127.0.0.1:2/", "", "routes: []\nrouts: []"));
    let diff = |arguments: &[&str]| {
        let output = Command::new(BINARY).args(["config", "diff"]).args(arguments).output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(diff(&[&old, &same]), (Some(0), String::new()));
    let line = "~ upstreams.app.http.url: http://127.0.0.1:1/ -> http://127.0.0.1:2/\n";
    assert_eq!(diff(&[&old, &new]), (Some(1), line.into()));
    let (code, text) = diff(&[&old, &new, "--json"]);
    let changes: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &changes[0]["change"]), (Some(1), &Value::from("changed")));
    assert_eq!(diff(&[&old, &wrong]), (Some(78), String::new()));
}

#[test]
fn completions_and_the_manual_name_every_command() {
    for (arguments, named) in
        [(&["completions", "bash"][..], "probe"), (&["man"], "probe"), (&["completions", "fish"], "connections")]
    {
        let output = Command::new(BINARY).args(arguments).output().expect("run");
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(named), "{arguments:?}");
    }
}
