//! Limits over real sockets: each refuses what is over it with the right word, and touches nobody else. What passes over minutes, to the
//! last message, is tested under a paused clock beside the session.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::issuer::Issuer;
use crate::harness::{Client, Holdfast, Refused, Reply, Upstream, eventually, yaml};

const ROUTES: &str = "routes: [{event: $binary, upstream: app}, {event: \"*\", upstream: app}]";
const MESSAGE: &str = r#"{"type":"a"}"#;
const PROXIES: &str = "proxies: {trusted: [127.0.0.1]}\n";

/// A handler that echoes messages and takes the user from the query.
async fn app() -> Upstream {
    Upstream::start(|call| match call.kind() {
        "connect" => match call.json()["query"]["user"].as_str() {
            Some(user) => Reply::empty().header("holdfast-user", user),
            None => Reply::empty(),
        },
        "message" => Reply::json(call.body.clone()),
        _ => Reply::empty(),
    })
    .await
}

fn text(app: &Upstream, head: &str, endpoint: &str) -> String {
    format!("{head}{}", yaml(&app.url(), "", &format!("{endpoint}\n{ROUTES}")))
}

async fn start(app: &Upstream, head: &str, endpoint: &str) -> Holdfast {
    Holdfast::start_yaml(&text(app, head, endpoint), &[]).await
}

async fn reload(holdfast: &Holdfast, text: &str) {
    std::fs::write(holdfast.config_path(), text).expect("written");
    let (status, body) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    assert_eq!(status, 200, "{body}");
}

async fn connect_as(holdfast: &Holdfast, user: &str) -> Result<Client, Refused> {
    Client::connect(&format!("{}?user={user}", holdfast.url()), &[]).await
}

async fn connect_from(holdfast: &Holdfast, address: &str) -> Result<Client, Refused> {
    Client::connect(&holdfast.url(), &[("x-forwarded-for", address)]).await
}

/// Sends so many messages and reads so many answers: how many passed, and the error frames of the others.
async fn burst(client: &mut Client, message: &str, count: usize) -> (usize, Vec<Value>) {
    for _ in 0..count {
        client.socket.feed(Message::text(message)).await.expect("sent");
    }
    client.socket.flush().await.expect("sent");
    let (mut passed, mut refused) = (0, Vec::new());
    for _ in 0..count {
        let frame = client.json().await;
        match frame["code"].as_str() {
            None => passed += 1,
            Some(_) => refused.push(frame),
        }
    }
    (passed, refused)
}

/// Holds what passed against a burst and a rate, and what was refused against the word for it.
fn check(what: &str, (passed, refused): (usize, Vec<Value>), burst: usize, per_second: f64, elapsed: Duration) {
    let most = burst as f64 + per_second * elapsed.as_secs_f64() + 1.0;
    assert!(passed >= burst && passed as f64 <= most, "{what}: {passed} passed in {elapsed:?}");
    assert!(!refused.is_empty(), "{what}");
    for frame in refused {
        assert_eq!(frame["code"], "rate_limited", "{what}: {frame}");
        let wait_ms = frame["retry_after_ms"].as_u64().expect("a time");
        assert!((1..=(1000.0 / per_second).ceil() as u64).contains(&wait_ms), "{what}: {frame}");
    }
}

async fn limited(holdfast: &Holdfast, limit: &str) -> f64 {
    holdfast.metric(&format!("holdfast_limited_total{{endpoint=\"/ws\",limit=\"{limit}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_bytes_of_one_connection_are_held_to_their_burst_and_rate() {
    let app = app().await;
    let size = MESSAGE.len();
    for (limits, limit, per_second) in [
        ("messages_per_second: 2, messages_burst: 7".to_owned(), "messages", 2.0),
        (format!("message_size: {0}B, bytes_per_second: {1}B, bytes_burst: {0}B", 7 * size, 2 * size), "bytes", 2.0),
    ] {
        let holdfast = start(&app, "", &format!("limits: {{{limits}}}")).await;
        let (mut flood, mut other) = (holdfast.connect().await, holdfast.connect().await);
        let began = Instant::now();
        let result = burst(&mut flood, MESSAGE, 40).await;
        let refused = result.1.len() as f64;
        check(limit, result, 7, per_second, began.elapsed());
        assert_eq!(burst(&mut other, MESSAGE, 7).await.0, 7, "another connection has its own");
        assert_eq!(limited(&holdfast, limit).await, refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_user_share_and_a_flood_of_one_leaves_another_untouched() {
    let app = app().await;
    let limits = "connect: app\nlimits: {per_user: {messages_per_second: 10, messages_burst: 20}}";
    let holdfast = start(&app, "", limits).await;
    let mut floods = Vec::new();
    let began = Instant::now();
    for _ in 0..4 {
        let mut client = connect_as(&holdfast, "ann").await.expect("open");
        floods.push(tokio::spawn(async move {
            let mut sum = (0, Vec::new());
            for _ in 0..10 {
                let (passed, refused) = burst(&mut client, MESSAGE, 50).await;
                sum.0 += passed;
                sum.1.extend(refused);
            }
            sum
        }));
    }
    let mut bob = connect_as(&holdfast, "bob").await.expect("open");
    for _ in 0..20 {
        assert_eq!(burst(&mut bob, MESSAGE, 1).await.0, 1, "bob sends within his limit");
    }
    let (mut passed, mut refused) = (0, Vec::new());
    for flood in floods {
        let (more, errors) = flood.await.expect("a flood");
        passed += more;
        refused.extend(errors);
    }
    assert!(refused.iter().all(|frame| frame["message"].as_str().is_some_and(|text| text.contains("user"))));
    // The clients' waits add up: each frame tells only of the one message.
    check("per user", (passed, refused), 20, 10.0, began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_share_and_ipv6_counts_by_its_64() {
    let app = app().await;
    let limits = "limits: {per_address: {messages_per_second: 4, messages_burst: 6, connections: 2}}";
    let holdfast = start(&app, PROXIES, limits).await;
    for (one, same, other) in
        [("192.0.2.1", "192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2:0:0:7", "2001:db8:0:1::1")]
    {
        let began = Instant::now();
        let mut first = connect_from(&holdfast, one).await.expect("open");
        let mut second = connect_from(&holdfast, same).await.expect("open");
        let mut stranger = connect_from(&holdfast, other).await.expect("open");
        let (passed, _) = burst(&mut first, MESSAGE, 4).await;
        assert_eq!(passed, 4);
        let (passed, refused) = burst(&mut second, MESSAGE, 40).await;
        check(one, (passed + 4, refused), 6, 4.0, began.elapsed());
        assert_eq!(burst(&mut stranger, MESSAGE, 6).await.0, 6, "{other}");
        eventually("both addresses are counted", || async {
            (holdfast.metric("holdfast_limit_accounts").await >= 2.0).then_some(())
        })
        .await;
        let refused = connect_from(&holdfast, same).await.err().expect("a third connection");
        assert_eq!((refused.status.as_u16(), refused.headers["retry-after"].as_bytes()), (429, &b"1"[..]));
        first.close().await;
        let again = eventually("a place", || async { connect_from(&holdfast, same).await.ok() }).await;
        for client in [second, stranger, again] {
            client.close().await;
        }
    }
    assert!(limited(&holdfast, "address_messages").await > 0.0);
    // Two refusals, and perhaps some while a place was awaited.
    assert!(limited(&holdfast, "address_connections").await >= 2.0);
    eventually("nothing is left of who is gone", || async {
        (holdfast.metric("holdfast_limit_accounts").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_user_are_bounded_and_one_too_many_is_told_to_the_application() {
    let app = app().await;
    let holdfast = start(&app, "", "connect: app\ndisconnect: app\nlimits: {per_user: {connections: 2}}").await;
    let first = connect_as(&holdfast, "ann").await.expect("open");
    let _second = connect_as(&holdfast, "ann").await.expect("open");
    let refused = connect_as(&holdfast, "ann").await.err().expect("a third connection");
    assert_eq!((refused.status.as_u16(), refused.body.as_str()), (429, "too many connections of this user\n"));
    assert!(connect_as(&holdfast, "bob").await.is_ok());
    // The connect of the third was accepted, so its end is due; bob's comes too, since his client was dropped.
    let ends = app.wait_for("disconnect", 2).await;
    let third = app.calls_of("connect")[2].header("ce-connectionid").to_owned();
    let end = ends.iter().find(|call| call.header("ce-connectionid") == third).expect("its end").json();
    assert_eq!(
        (&end["code"], &end["cause"], &end["reason"]),
        (&json!(1006), &json!("server"), &json!("too many connections of this user"))
    );
    assert_eq!(limited(&holdfast, "user_connections").await, 1.0);
    first.close().await;
    eventually("a place", || async { connect_as(&holdfast, "ann").await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_held_to_a_rate_for_each_address_and_in_all() {
    let app = app().await;
    let head = format!("{PROXIES}limits: {{handshakes_per_second: 30, handshakes_per_second_per_address: 5}}\n");
    let holdfast = start(&app, &head, "connect: app").await;
    let began = Instant::now();
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..25 {
        match connect_from(&holdfast, "192.0.2.1").await {
            Ok(client) => open.push(client),
            Err(answer) => {
                assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].as_bytes()), (429, &b"1"[..]));
                assert!(answer.body.contains("from this address"), "{}", answer.body);
                refused += 1;
            }
        }
    }
    let most = 5.0 + 5.0 * began.elapsed().as_secs_f64() + 1.0;
    assert!(open.len() >= 5 && open.len() as f64 <= most, "{} were open after {:?}", open.len(), began.elapsed());
    assert_eq!(app.calls_of("connect").len(), open.len(), "nobody was asked about the others");
    assert_eq!(limited(&holdfast, "address_handshakes").await, f64::from(refused));
    assert!(connect_from(&holdfast, "192.0.2.2").await.is_ok(), "another address is untouched");
    // Many addresses, each within its limit, are still too many in all.
    let mut refused = None;
    for at in 0..1000 {
        let from = format!("198.51.{}.{}", at / 250, at % 250);
        refused = connect_from(&holdfast, &from).await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("one too many in all");
    assert_eq!((refused.status.as_u16(), refused.body.as_str()), (429, "too many handshakes; try again\n"));
    assert!(limited(&holdfast, "handshakes").await > 0.0);
}

/// Whose address the TCP connection shows needs not be heard first. Its client is told as far as that needs no waiting.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_over_the_rate_are_refused_before_their_request_is_read() {
    let app = app().await;
    let holdfast = start(&app, "limits: {handshakes_per_second_per_address: 1}\n", "").await;
    let (mut told, mut heard) = (0, 0);
    for _ in 0..50 {
        let mut stream = TcpStream::connect(holdfast.listen).await.expect("a connection");
        let _ = stream.write_all(b"GET /ws HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).expect("text");
        if answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n") {
            assert!(answer.contains("\r\nretry-after: 1\r\n") && answer.ends_with("\n"), "{answer}");
            told += 1;
        }
        heard += usize::from(answer.starts_with("HTTP/1.1 426"));
    }
    assert!(told > 25 && heard > 0, "{told} of 50 were told, {heard} heard");
    for counter in [
        "handshakes_total{endpoint=\"$none\",status=\"429\"}",
        "limited_total{endpoint=\"$none\",limit=\"address_handshakes\"}",
    ] {
        assert_eq!(holdfast.metric(&format!("holdfast_{counter}")).await as usize, 50 - heard, "{counter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_all_and_of_an_address_over_all_endpoints_are_bounded_and_change_by_a_reload() {
    let app = app().await;
    let second = format!("  - path: /other\n    {ROUTES}\n");
    let file = |head: &str| text(&app, head, "") + &second;
    let holdfast = Holdfast::start_yaml(&file(PROXIES), &[]).await;
    let other = holdfast.url().replace("/ws", "/other");
    let from = |address: &'static str, url: String| async move {
        Client::connect(&url, &[("x-forwarded-for", address)]).await
    };
    let mut first = from("192.0.2.1", holdfast.url()).await.expect("open");
    reload(&holdfast, &file(&format!("{PROXIES}limits: {{connections: 3, connections_per_address: 2}}\n"))).await;
    // A connection that is older than the limit counts from its next message on.
    assert_eq!(burst(&mut first, MESSAGE, 1).await.0, 1);
    let _second = from("192.0.2.1", other.clone()).await.expect("open");
    let refused = from("192.0.2.1", other.clone()).await.err().expect("the third of its address");
    assert_eq!(refused.status, 429);
    let _third = from("192.0.2.2", other.clone()).await.expect("open");
    let refused = from("192.0.2.3", holdfast.url()).await.err().expect("the fourth in all");
    assert_eq!((refused.status.as_u16(), refused.headers["retry-after"].as_bytes()), (503, &b"1"[..]));
    assert_eq!(limited(&holdfast, "node_connections").await, 1.0);
    reload(&holdfast, &file(PROXIES)).await;
    assert!(from("192.0.2.1", other).await.is_ok(), "no limit any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_too_deep_or_too_large_is_refused_though_only_its_name_is_read() {
    let app = app().await;
    let raw = "  - path: /raw\n    event: none\n    routes: [{event: $text, upstream: app}]\n";
    let schema = "  - path: /checked\n    event: none\n    routes: [{event: $text, schema: any.json, upstream: app}]\n";
    let yaml = text(&app, "", "limits: {json_depth: 10, json_values: 50}") + raw + schema;
    let holdfast = Holdfast::start_yaml(&yaml, &[("any.json", "{}")]).await;
    let nested = |depth: usize| format!(r#"{{"type":"a","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let wide = |values: usize| format!(r#"{{"type":"a","x":[{}]}}"#, vec!["1"; values].join(","));
    let mut client = holdfast.connect().await;
    for (message, limit) in [
        (nested(9), None),
        (nested(10), Some("json_depth")),
        (nested(50_000), Some("json_depth")),
        (format!(r#"{{"type":"a","x":"{}"}}"#, "[,".repeat(1000)), None),
        (wide(48), None),
        (wide(49), Some("json_values")),
    ] {
        let before = match limit {
            Some(limit) => limited(&holdfast, limit).await,
            None => 0.0,
        };
        client.send(&message).await;
        let start = &message[..message.len().min(60)];
        match limit {
            None => assert_eq!(client.text().await, message),
            Some(limit) => {
                assert_eq!(client.error().await.0, "invalid_json", "{start}");
                assert_eq!(limited(&holdfast, limit).await, before + 1.0, "{start}");
            }
        }
    }
    let mut raw = Client::connect(&holdfast.url().replace("/ws", "/raw"), &[]).await.expect("open");
    raw.send(&nested(1000)).await;
    assert_eq!(raw.text().await, nested(1000), "what is not parsed is not judged");
    let mut checked = Client::connect(&holdfast.url().replace("/ws", "/checked"), &[]).await.expect("open");
    checked.send(&nested(100)).await;
    let (code, frame) = checked.error().await;
    assert_eq!(code, "invalid_json");
    assert!(frame["message"].as_str().is_some_and(|text| text.contains("at most 64")), "the default holds: {frame}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_rate_a_connection_is_closed_where_the_endpoint_says_so() {
    let app = app().await;
    let limits =
        "disconnect: app\nlimits: {on_excess: close, per_address: {messages_per_second: 1, messages_burst: 2}}";
    let holdfast = start(&app, "", limits).await;
    let mut client = holdfast.connect().await;
    for _ in 0..20 {
        client.socket.feed(Message::text(MESSAGE)).await.expect("sent");
    }
    client.socket.flush().await.expect("sent");
    let (code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), (4501, "the connections of this address sent more messages than their limit"));
    let end = app.wait_for("disconnect", 1).await.remove(0).json();
    assert_eq!((&end["code"], &end["cause"]), (&json!(4501), &json!("server")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_of_an_open_socket_changes_by_a_reload() {
    let app = app().await;
    let holdfast = start(&app, "", "connect: app").await;
    let mut client = connect_as(&holdfast, "ann").await.expect("open");
    assert_eq!(burst(&mut client, MESSAGE, 50).await.0, 50);
    let change =
        async |limits: &str| reload(&holdfast, &text(&app, "", &format!("connect: app\nlimits: {{{limits}}}"))).await;
    for limits in
        ["messages_per_second: 1", "per_user: {messages_per_second: 1}", "per_address: {messages_per_second: 1}"]
    {
        change(limits).await;
        let began = Instant::now();
        let result = burst(&mut client, MESSAGE, 10).await;
        check(limits, result, 1, 1.0, began.elapsed());
        change("groups: 1, json_depth: 1").await;
        assert_eq!(burst(&mut client, MESSAGE, 50).await.0, 50, "{limits}");
    }
    client.send(r#"{"type":"a","x":[]}"#).await;
    assert_eq!(client.error().await.0, "invalid_json");
    let id = app.calls_of("connect")[0].header("ce-connectionid").to_owned();
    let join = async |group: &str| holdfast.call(Method::PUT, &format!("/v1/groups/{group}/members/{id}"), "").await.0;
    assert_eq!((join("a").await.as_u16(), join("b").await.as_u16()), (204, 409));
    change("groups: 2, invalid_messages: 0, message_size: 20B").await;
    assert_eq!(burst(&mut client, MESSAGE, 1).await.0, 1);
    assert_eq!(join("b").await, 204);
    client.send("{").await;
    assert_eq!(client.error().await.0, "invalid_json");
    assert_eq!(client.closed().await.0, 4501);
    assert_eq!(limited(&holdfast, "invalid_messages").await, 1.0);
    let mut second = holdfast.connect().await;
    change("message_size: 5B").await;
    second.send(MESSAGE).await;
    assert_eq!(second.closed().await.0, 1009, "the very next message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_s_user_with_too_many_connections_is_refused_before_the_application_is_asked() {
    let (app, issuer) = (app().await, Issuer::start().await);
    let endpoint = "auth: {algorithms: [ES256], key_file: key.pem, token_from: [header, message]}\n\
                    connect: app\ndisconnect: app\nlimits: {per_user: {connections: 1, messages_per_second: 1}}";
    let files = [("key.pem", issuer.public_pem())];
    let holdfast = Holdfast::start_yaml(&text(&app, "", endpoint), &files).await;
    let token = issuer.token(&json!({"sub": "ann"}));
    let bearer = format!("Bearer {token}");
    let first = Client::connect(&holdfast.url(), &[("authorization", &bearer)]).await.expect("open");
    let refused = Client::connect(&holdfast.url(), &[("authorization", &bearer)]).await.err().expect("a second one");
    assert_eq!((refused.status.as_u16(), refused.body.as_str()), (429, "too many connections of this user\n"));
    // Who shows its token later is told by the close.
    let message = json!({"type": "holdfast.auth", "token": token}).to_string();
    let mut late = holdfast.connect().await;
    late.send(&message).await;
    assert_eq!(late.closed().await, (1013, "refused with 429".to_owned()));
    assert_eq!(app.calls_of("connect").len(), 1, "nobody was asked about the others");
    first.close().await;
    app.wait_for("disconnect", 1).await;
    let mut late = holdfast.connect().await;
    late.send(&message).await;
    assert_eq!(late.json().await["state"], "accepted");
    let began = Instant::now();
    let result = burst(&mut late, MESSAGE, 10).await;
    check("per user", result, 1, 1.0, began.elapsed());
    assert_eq!(app.calls_of("connect").len(), 2);
}
