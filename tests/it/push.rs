//! Pushes by REST: outcomes that are true.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Client, Holdfast, Raw, Reply, Upstream, eventually, yaml};

const ROUTES: &str = "routes: [{event: \"*\", upstream: app}]";

/// Answers each message with the sender's ID, and names the user by the query.
async fn app() -> Upstream {
    Upstream::start(|call| match call.kind() {
        "connect" => match call.json()["query"]["user"].as_str() {
            Some(user) => Reply::empty().header("holdfast-user", user),
            None => Reply::empty(),
        },
        "message" => Reply::json(format!("\"{}\"", call.header("ce-connectionid"))),
        _ => Reply::empty(),
    })
    .await
}

async fn open(holdfast: &Holdfast, user: &str) -> (Client, String) {
    let mut client = Client::connect(&format!("{}?user={user}", holdfast.url()), &[]).await.expect("open");
    client.send(r#"{"type":"id"}"#).await;
    let id = client.json().await.as_str().expect("an ID").to_owned();
    (client, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_written_to_its_connection() {
    let app = app().await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\n{ROUTES}")).await;
    let (mut client, id) = open(&holdfast, "ann").await;
    let path = format!("/v1/connections/{id}/messages");
    let (status, body) = holdfast.call(Method::POST, &path, r#"{"n":1}"#).await;
    assert_eq!((status.as_u16(), body), (200, json!({"outcome": "written"})));
    assert_eq!(client.json().await, json!({"n": 1}));
    let (status, body) = holdfast.call(Method::POST, &format!("{path}?wait=queued"), "two").await;
    assert_eq!((status.as_u16(), body), (202, json!({"outcome": "queued"})));
    assert_eq!(client.text().await, "two");

    let (status, facts) = holdfast.call(Method::GET, &format!("/v1/connections/{id}"), "").await;
    assert_eq!(status, 200);
    assert_eq!((&facts["id"], &facts["user"], &facts["endpoint"]), (&json!(id), &json!("ann"), &json!("/ws")));
    assert_eq!(facts["received"], 1);

    client.close().await;
    let gone = eventually("gone", || async {
        let (status, _) = holdfast.call(Method::POST, &path, "x").await;
        (status != 200).then_some(status)
    })
    .await;
    assert_eq!(gone, 410);
    assert_eq!(holdfast.call(Method::GET, &format!("/v1/connections/{id}"), "").await.0, 410);
}

/// More members than one turn of a task writes to.
#[tokio::test(flavor = "multi_thread")]
async fn many_members_get_everything_in_order() {
    const MEMBERS: usize = 700;
    let app = app().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut members = Vec::new();
    while members.len() < MEMBERS {
        members.push(Raw::open(holdfast.listen).await);
    }
    for number in 0..5 {
        let (status, sum) = holdfast.call(Method::POST, "/v1/broadcast", number.to_string()).await;
        assert_eq!((status.as_u16(), sum), (200, json!({"delivered": MEMBERS, "dropped": 0})));
    }
    for member in &mut members {
        for number in 0..5 {
            assert_eq!(member.frame().await, Some((0x81, number.to_string().into())));
        }
    }
    assert_eq!(holdfast.metric("holdfast_messages_sent_total").await, (5 * MEMBERS) as f64);
    assert_eq!(holdfast.metric("holdfast_sent_bytes_total").await, (5 * MEMBERS) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_users_and_everybody() {
    let app = app().await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\n{ROUTES}")).await;
    let (mut ann, ann_id) = open(&holdfast, "ann").await;
    let (mut bob, bob_id) = open(&holdfast, "bob").await;
    for id in [&ann_id, &bob_id] {
        assert_eq!(holdfast.call(Method::PUT, &format!("/v1/groups/g/members/{id}"), "").await.0, 204);
    }
    let delivered = |n: u64| json!({"delivered": n, "dropped": 0});
    assert_eq!(holdfast.call(Method::POST, "/v1/groups/g/messages", "\"g\"").await.1, delivered(2));
    assert_eq!(holdfast.call(Method::POST, "/v1/users/bob/messages", "\"u\"").await.1, delivered(1));
    assert_eq!(holdfast.call(Method::POST, "/v1/broadcast", "\"all\"").await.1, delivered(2));
    assert_eq!(holdfast.call(Method::DELETE, &format!("/v1/groups/g/members/{ann_id}"), "").await.0, 204);
    assert_eq!(holdfast.call(Method::POST, "/v1/groups/g/messages", "\"bob\"").await.1, delivered(1));
    assert_eq!(holdfast.call(Method::POST, "/v1/groups/nobody/messages", "\"x\"").await.1, delivered(0));
    assert_eq!((ann.text().await, ann.text().await), ("\"g\"".into(), "\"all\"".into()));
    for expected in ["\"g\"", "\"u\"", "\"all\"", "\"bob\""] {
        assert_eq!(bob.text().await, expected);
    }
    let (_, users) = holdfast.call(Method::GET, "/v1/users/bob/connections", "").await;
    assert!(users.to_string().contains(&bob_id), "{users}");
    holdfast.call(Method::DELETE, "/v1/users/bob/connections", "").await;
    assert_eq!(bob.closed().await.0, 4500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_carried_out_in_order_with_an_outcome_each() {
    let app = app().await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\n{ROUTES}")).await;
    let (mut client, id) = open(&holdfast, "ann").await;
    let gone = "aaaaaaaa-aaaaaaaaaaaaaaaaaaaa";
    let list = json!([
        {"join": {"connection": id, "group": "g"}},
        {"send": {"to": {"group": "g"}, "data": [1]}},
        {"send": {"to": {"connection": gone}, "text": "x"}},
        {"send": {"to": {"connection": id}, "binary": "AAE="}},
    ]);
    let (status, body) = holdfast.call(Method::POST, "/v1/commands", list.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let outcomes: Vec<&Value> = body["outcomes"].as_array().expect("a list").iter().map(|o| &o["outcome"]).collect();
    assert_eq!(outcomes, ["done", "delivered", "gone", "queued"]);
    assert_eq!(client.json().await, json!([1]));
    assert_eq!(client.next().await.into_data().as_ref(), [0, 1]);

    let (status, body) =
        holdfast.call(Method::POST, "/v1/commands", r#"[{"join":{"connection":"x","group":"g"}}]"#).await;
    assert_eq!(status, 400);
    assert!(body.to_string().contains("command 0"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_does_not_fit_the_endpoint_s_schema_is_422() {
    let app = app().await;
    let endpoint = format!("push_schema: push.json\n{ROUTES}");
    let files = [("push.json", r#"{"type":"object","required":["kind"]}"#)];
    let holdfast = Holdfast::start_yaml(&yaml(&app.url(), "", &endpoint), &files).await;
    let (mut client, id) = open(&holdfast, "ann").await;
    for path in [format!("/v1/connections/{id}/messages"), "/v1/broadcast".to_owned()] {
        let (status, body) = holdfast.call(Method::POST, &path, "{}").await;
        assert_eq!(status, 422, "{path}: {body}");
        assert!(body.to_string().contains("kind"), "{body}");
        assert_eq!(holdfast.call(Method::POST, &path, r#"{"kind":1}"#).await.0, 200, "{path}");
        assert_eq!(client.json().await, json!({"kind": 1}));
    }
}
