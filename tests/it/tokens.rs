//! Tokens: who is let in, what they are told of an end, how they go on, who is put out.

mod keys;
mod refusals;
mod revocations;
mod rights;

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::harness::issuer::{Issuer, now};
use crate::harness::{Call, Client, Holdfast, PATIENCE, Reply, Upstream, eventually, yaml};

pub const ROUTES: &str = "routes: [{event: \"*\", upstream: app}]";

/// Starts with tokens of `issuer`; `auth` are further keys of it in flow style, `more` the endpoint's other keys.
pub async fn start(app: &Upstream, issuer: &Issuer, auth: &str, more: &str) -> Holdfast {
    let auth = if auth.is_empty() { String::new() } else { format!(", {auth}") };
    let endpoint = format!("auth: {{algorithms: [ES256], key_file: key.pem{auth}}}\n{more}");
    Holdfast::start_yaml(&yaml(&app.url(), "", &endpoint), &[("key.pem", issuer.public_pem())]).await
}

pub async fn connect(holdfast: &Holdfast, token: &str) -> Client {
    let header = format!("Bearer {token}");
    Client::connect(&holdfast.url(), &[("authorization", &header)]).await.expect("a connection")
}

/// The status of a handshake that is refused.
pub async fn refused(holdfast: &Holdfast, token: &str) -> u16 {
    let header = format!("Bearer {token}");
    let refused = Client::connect(&holdfast.url(), &[("authorization", &header)]).await.err();
    refused.expect("refused").status.as_u16()
}

pub fn auth_message(token: &str) -> String {
    json!({"type": "holdfast.auth", "token": token}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_reach_the_connect_event_and_the_connection_and_the_token_goes_no_further() {
    let (app, issuer) = (Upstream::start(|_| Reply::empty()).await, Issuer::start().await);
    let auth = "token_from: [header, \"cookie:session\", \"query:token\", subprotocol], groups: groups, context: /ctx";
    let holdfast = start(&app, &issuer, auth, &format!("connect: app\nsubprotocols: [chat]\n{ROUTES}")).await;
    let token = issuer.token(&json!({"sub": "ann", "groups": ["room:1", "staff"], "ctx": {"tenant": 7}}));
    let in_query = format!("{}?token={token}&room=1", holdfast.url());
    let (bearer, cookie) = (format!("Bearer {token}"), format!("a=b; session={token}"));
    let protocol = format!("chat, bearer.{token}");
    let clients = [
        Client::connect(&holdfast.url(), &[("authorization", &bearer)]).await,
        Client::connect(&holdfast.url(), &[("cookie", &cookie)]).await,
        Client::connect(&in_query, &[]).await,
        Client::connect(&holdfast.url(), &[("sec-websocket-protocol", &protocol)]).await,
    ];
    let clients = clients.map(|client| client.expect("a connection"));
    assert_eq!(clients[3].headers["sec-websocket-protocol"], "chat", "a token is not echoed");
    let connects = app.wait_for("connect", 4).await;
    for call in &connects {
        assert_eq!(call.json()["claims"]["sub"], "ann");
        assert_eq!(call.header("ce-userid"), "ann");
        assert!(!call.text().contains(&token), "{}", call.text());
        assert!(!format!("{:?}", call.headers).contains(&token));
    }
    assert!(connects.iter().any(|call| call.json()["query"] == json!({"room": "1"})), "other parameters stay");
    let (_, listed) = holdfast.call(Method::GET, "/v1/users/ann/connections", "").await;
    assert_eq!(listed["connections"].as_array().expect("a list").len(), 4);
    let id = listed["connections"][0].as_str().expect("an ID");
    let groups = || async {
        let facts = holdfast.call(Method::GET, &format!("/v1/connections/{id}"), "").await.1;
        (facts["groups"].as_array().map(Vec::len) == Some(2)).then_some(facts)
    };
    let facts = eventually("both groups", groups).await;
    assert_eq!(facts["context"], "{\"tenant\":7}");
    assert_eq!(holdfast.metric("holdfast_tokens_total{endpoint=\"/ws\",outcome=\"accepted\"").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_s_end_closes_its_socket_and_a_newer_one_keeps_it() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "leeway: 0s, warning: 2s", ROUTES).await;
    let short = || issuer.token(&json!({"sub": "ann", "exp": now() + 3.0}));
    let begun = Instant::now();
    let (mut left, mut kept) = (connect(&holdfast, &short()).await, connect(&holdfast, &short()).await);
    let mut no_better = connect(&holdfast, &short()).await;
    let expiring = kept.json().await;
    assert_eq!((&expiring["type"], &expiring["state"]), (&json!("token"), &json!("expiring")));
    assert!((500..=2000).contains(&expiring["expires_in_ms"].as_u64().expect("milliseconds")), "{expiring}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "not before the warning is due");
    kept.send(&auth_message(&issuer.token(&json!({"sub": "ann"})))).await;
    let accepted = kept.json().await;
    assert_eq!((&accepted["type"], &accepted["state"]), (&json!("token"), &json!("accepted")));
    assert!(accepted["expires_in_ms"].as_u64().expect("milliseconds") > 50_000);
    assert_eq!(no_better.json().await["state"], "expiring");
    for (token, says) in
        [(issuer.token(&json!({"sub": "bob"})), "another user"), ("x.y.z".into(), "not a JSON Web Token")]
    {
        no_better.send(&auth_message(&token)).await;
        let (code, frame) = no_better.error().await;
        assert_eq!(code, "unauthorized");
        assert!(frame["message"].as_str().expect("a message").contains(says), "{frame}");
    }
    assert_eq!(left.closed().await, (4004, "token expired".into()));
    let lived = begun.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(4)).contains(&lived), "{lived:?}");
    assert_eq!(no_better.closed().await.0, 4004, "a refused token changes nothing");
    kept.send("{\"type\":\"a\"}").await;
    assert_eq!(kept.json().await["type"], "a", "the renewed one lives");
    assert!(app.calls().iter().all(|call| !call.text().contains("holdfast.auth")), "no upstream sees a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_be_the_first_message() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let more = format!("connect: app\ndisconnect: app\n{ROUTES}");
    let holdfast = start(&app, &issuer, "token_from: [message], message_timeout: 500ms", &more).await;
    let mut client = holdfast.connect().await;
    assert_eq!(holdfast.metric("holdfast_connections{").await, 0.0, "nobody can reach it yet");
    assert!(app.calls().is_empty(), "and nobody was told");
    client.send(&auth_message(&issuer.token(&json!({"sub": "ann"})))).await;
    client.send("{\"type\":\"a\",\"n\":1}").await;
    let accepted = client.json().await;
    assert_eq!((&accepted["type"], &accepted["state"]), (&json!("token"), &json!("accepted")));
    let connect = app.wait_for("connect", 1).await.remove(0);
    assert_eq!((connect.header("ce-userid"), &connect.json()["claims"]["sub"]), ("ann", &json!("ann")));
    let mut first = client.json().await;
    if first.get("headers").is_some() {
        // The echo of the connect event.
        first = client.json().await;
    }
    assert_eq!(first["n"], 1);
    assert_eq!(app.wait_for("message", 1).await[0].header("ce-seq"), "1", "the token was none of its messages");

    let mut silent = holdfast.connect().await;
    let begun = Instant::now();
    assert_eq!(silent.error().await.0, "unauthorized");
    assert_eq!(silent.closed().await.0, 4503);
    assert!((Duration::from_millis(400)..PATIENCE).contains(&begun.elapsed()));
    for first in ["{\"type\":\"a\"}".to_owned(), auth_message("x.y.z"), auth_message("")] {
        let mut wrong = holdfast.connect().await;
        wrong.send(&first).await;
        assert_eq!(wrong.error().await.0, "unauthorized", "{first}");
        assert_eq!(wrong.closed().await.0, 4503);
    }
    client.close().await;
    app.wait_for("disconnect", 1).await;
    assert_eq!(app.calls_of("connect").len(), 1, "no event tells of those who never showed a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connect_after_the_first_message_says_so() {
    let answer = |call: &Call| match call.header("ce-userid") {
        "ann" => Reply::status(403),
        _ => Reply::empty(),
    };
    let (app, issuer) = (Upstream::start(answer).await, Issuer::start().await);
    let more = format!("connect: app\nlimits: {{per_user: {{connections: 1}}}}\n{ROUTES}");
    let holdfast = start(&app, &issuer, "token_from: [message]", &more).await;
    let connect = async |user: &str| {
        let mut client = holdfast.connect().await;
        client.send(&auth_message(&issuer.token(&json!({"sub": user})))).await;
        client
    };
    assert_eq!(connect("ann").await.closed().await, (4503, "refused with 403".into()));
    let mut first = connect("bob").await;
    assert_eq!(first.json().await["state"], "accepted");
    assert_eq!(connect("bob").await.closed().await, (1013, "refused with 429".into()), "it may try again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_event_names_the_first_message_is_the_token() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let more = "event: none\nroutes: [{event: \"$text\", upstream: app}]";
    let holdfast = start(&app, &issuer, "token_from: [message]", more).await;
    let mut client = holdfast.connect().await;
    client.send(&issuer.token(&json!({"sub": "ann"}))).await;
    assert_eq!(client.json().await["state"], "accepted");
    client.send("hello").await;
    assert_eq!(client.text().await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_token_may_be_missing_but_not_bad() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "optional: true", ROUTES).await;
    let mut guest = holdfast.connect().await;
    guest.send("{\"type\":\"a\"}").await;
    assert_eq!(guest.json().await["type"], "a");
    assert_eq!(refused(&holdfast, "x.y.z").await, 401);
    guest.send(&auth_message(&issuer.token(&json!({"sub": "ann"})))).await;
    assert_eq!(guest.error().await.0, "unauthorized", "a guest does not become somebody without a new handshake");
    let facts: Value = holdfast.call(Method::GET, "/v1/connections", "").await.1;
    assert_eq!(facts["connections"][0]["user"], Value::Null);
}
