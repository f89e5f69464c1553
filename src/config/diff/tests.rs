use std::path::Path;

use serde_json::json;

use super::*;
use crate::config::{Loaded, load_text};

const OLD: &str = r#"
admin: {token: first-token}
rabbitmq: {url: "amqp://u:hunter2@broker/%2f"}
upstreams:
  app: {http: {url: "http://127.0.0.1:3000/events", headers: {x-key: hunter2}}}
  other: {http: {url: "http://127.0.0.1:3001/events", timeout: 5s}}
endpoints:
  - path: /ws
    limits: {message_size: 128KiB}
    routes:
      - {event: "chat.*", schema: chat.json, upstream: app}
      - {event: "order", upstream: app}
      - {event: "*", upstream: app}
"#;

fn load_in(folder: &Path, text: &str) -> Loaded {
    load_text("h.yaml", text, folder, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The changes from `OLD` to the same with one text replaced, and with this content of the schema.
fn changes(from: &str, to: &str, schema: &str) -> Vec<Change> {
    assert!(OLD.contains(from), "{from}");
    let [old, new] = ["{}", schema].map(|schema| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("chat.json"), schema).expect("written");
        folder
    });
    diff(&load_in(old.path(), OLD).outline, &load_in(new.path(), &OLD.replace(from, to)).outline)
}

fn lines(from: &str, to: &str) -> Vec<String> {
    changes(from, to, "{}").iter().map(ToString::to_string).collect()
}

#[test]
fn what_means_the_same_is_no_change() {
    for (from, to) in [
        ("limits: {message_size: 128KiB}\n", "limits: {message_size: 131072}\n"),
        ("timeout: 5s", "timeout: 5000ms"),
        (", timeout: 5s", ""),
        ("admin: {token: first-token}\n", "# a remark\nadmin:\n  token: first-token\n"),
    ] {
        assert_eq!(lines(from, to), Vec::<String>::new(), "{to}");
    }
}

#[test]
fn each_kind_of_change_says_what_it_is() {
    for (from, to, says) in [
        ("128KiB", "1KiB", "~ endpoints[/ws].limits.message_size: 131072 -> 1024"),
        (
            "\"order\", upstream: app",
            "\"order\", upstream: other",
            "~ endpoints[/ws].routes[order].upstream: app -> other",
        ),
        ("timeout: 5s", "timeout: 7s", "~ upstreams.other.http.timeout: 5s -> 7s"),
        ("limits: {message_size: 128KiB}", "idle_timeout: 1h", "+ endpoints[/ws].idle_timeout: 1h"),
        (
            "      - {event: \"order\", upstream: app}\n",
            "",
            "- endpoints[/ws].routes[order]: {\"event\":\"order\",\"upstream\":\"app\"}",
        ),
        (
            "      - {event: \"*\", upstream: app}\n",
            "      - {event: \"new\", upstream: app, in_flight: 2}\n      - {event: \"*\", upstream: app}\n",
            "+ endpoints[/ws].routes[new]: {\"event\":\"new\",\"in_flight\":2,\"upstream\":\"app\"}",
        ),
        (
            "upstreams:\n",
            "listen: 127.0.0.1:1\nupstreams:\n",
            "~ listen: 0.0.0.0:8000 -> 127.0.0.1:1 (only by a restart)",
        ),
        (
            "upstreams:\n",
            "upstreams:\n  third: {http: {url: \"http://h/\"}}\n",
            "+ upstreams.third: {\"http\":{\"url\":\"http://h/\"}}",
        ),
    ] {
        assert_eq!(lines(from, to), [says], "{to}");
    }
    let moved = "      - {event: \"chat.*\", schema: chat.json, upstream: app}\n";
    let text = OLD.replace(moved, "");
    let text = text.replace("      - {event: \"*\"", &format!("{moved}      - {{event: \"*\""));
    let found = changes(OLD, &text, "{}");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].path.as_str(), found[0].change), ("endpoints[/ws].routes", Kind::Reordered));
    assert_eq!(found[0].to, Some(json!(["order", "chat.*", "*"])));
}

#[test]
fn a_schema_of_another_content_is_another_schema() {
    let found = changes("/ws", "/ws", r#"{"type": "object"}"#);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].path, "endpoints[/ws].routes[chat.*].schema");
    // `printf '{}' | sha256sum`
    assert_eq!(found[0].from, Some(json!("chat.json (44136fa355b3)")));
    assert_ne!(found[0].to, found[0].from);
}

#[test]
fn secrets_are_compared_and_never_shown() {
    for (from, to, path) in [
        ("first-token", "second-token", "admin.token"),
        ("x-key: hunter2", "x-key: hunter3", "upstreams.app.http.headers.x-key"),
        ("x-key: hunter2", "x-other: hunter3", "upstreams.app.http.headers.x-key"),
        ("u:hunter2@broker", "u:hunter3@broker2", "rabbitmq.url"),
    ] {
        let found = changes(from, to, "{}");
        assert_eq!(found[0].path, path);
        let text = serde_json::to_string(&found).expect("JSON");
        assert!(!text.contains("hunter") && !text.contains("-token"), "{text}");
    }
}

#[test]
fn a_password_alone_in_a_url_is_a_change_and_so_is_what_is_in_a_file() {
    let found = changes("u:hunter2@", "u:hunter3@", "{}");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].to, Some(json!("amqp://[secret]@broker/%2f (another)")));
    assert!(found[0].restart);
    let [old, new] = ["old", "new"].map(|token| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("token"), token).expect("written");
        std::fs::write(folder.path().join("chat.json"), "{}").expect("written");
        load_in(
            folder.path(),
            &OLD.replace("{token: first-token}", "{tokens: {a: {token_file: token, scopes: [read]}}}"),
        )
    });
    let found = diff(&old.outline, &new.outline);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].to_string(), "~ admin.tokens.a.token_file: token -> token (another)");
}

#[test]
fn a_summary_is_one_short_line() {
    let [old, new] = [1, 2].map(|size| {
        let routes: String =
            (0..9).map(|n| format!("      - {{event: e{n}, upstream: app, in_flight: {size}}}\n")).collect();
        let text =
            OLD.replace("      - {event: \"order\", upstream: app}\n", &routes).replace(", schema: chat.json", "");
        load_in(Path::new("."), &text)
    });
    let text = summary(&diff(&old.outline, &new.outline));
    assert!(
        text.starts_with("~ endpoints[/ws].routes[e0].in_flight: 1 -> 2; ") && text.ends_with("; and 4 more"),
        "{text}"
    );
}
