//! What a token allows: routes that ask for claims, groups that a route joins, groups that have rules.

use http::Method;
use serde_json::json;

use super::{auth_message, connect, start};
use crate::harness::issuer::Issuer;
use crate::harness::{Holdfast, Reply, Upstream, eventually};

const MORE: &str = "groups:
  - {group: \"room:*\", require: {rooms: \"{*}\"}}
  - {group: staff, require: {role: [staff, admin]}}
routes:
  - {event: \"chat.send\", upstream: app, require: {scope: \"chat:write\"}}
  - {event: \"admin.*\", upstream: app, require: {/realm/roles: admin, mfa: \"true\"}}
  - {event: enter, upstream: app, join: \"room:{/room}\"}
  - {event: exit, upstream: app, leave: \"room:{/room}\"}
  - {event: \"*\", upstream: app}";

async fn groups(holdfast: &Holdfast, user: &str) -> Vec<String> {
    let (_, listed) = holdfast.call(Method::GET, &format!("/v1/connections?user={user}"), "").await;
    let groups = listed["connections"][0]["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().map(|group| group.as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_asks_for_claims_and_a_newer_token_may_give_them() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "", MORE).await;
    let mut client = connect(&holdfast, &issuer.token(&json!({"sub": "ann", "scope": "chat:read"}))).await;
    client.send("{\"type\":\"other\"}").await;
    assert_eq!(client.json().await["type"], "other");
    for event in ["chat.send", "admin.ban"] {
        client.send(&json!({"type": event}).to_string()).await;
        let (code, frame) = client.error().await;
        assert_eq!((code.as_str(), &frame["event"]), ("forbidden", &json!(event)), "{frame}");
    }
    assert_eq!(app.calls_of("message").len(), 1, "no upstream heard of them");
    let more = json!({"sub": "ann", "scope": "chat:read chat:write", "realm": {"roles": ["admin"]}, "mfa": true});
    client.send(&auth_message(&issuer.token(&more))).await;
    assert_eq!(client.json().await["state"], "accepted");
    for event in ["chat.send", "admin.ban"] {
        client.send(&json!({"type": event}).to_string()).await;
        assert_eq!(client.json().await["type"], event);
    }
    client.send(&auth_message(&issuer.token(&json!({"sub": "ann"})))).await;
    assert_eq!(client.json().await["state"], "accepted");
    client.send("{\"type\":\"chat.send\"}").await;
    assert_eq!(client.error().await.0, "forbidden", "and a newer one may take them");
    let forbidden = "holdfast_events_total{endpoint=\"/ws\",route=\"chat.send\",outcome=\"forbidden\"";
    assert_eq!(holdfast.metric(forbidden).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_joins_only_groups_that_the_claims_allow() {
    let (app, issuer) = (Upstream::start(|_| Reply::empty()).await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "groups: groups", MORE).await;
    let token = issuer.token(&json!({"sub": "ann", "rooms": ["1", "2.x"], "groups": ["lobby", "staff", "room:1"]}));
    let mut client = connect(&holdfast, &token).await;
    let wait = |wanted: &'static [&'static str]| {
        let holdfast = &holdfast;
        async move {
            let same = || async {
                let mut now = groups(holdfast, "ann").await;
                now.sort();
                (now == wanted).then_some(())
            };
            eventually(&format!("{wanted:?}"), same).await;
        }
    };
    wait(&["lobby", "room:1"]).await;
    client.send("{\"type\":\"enter\",\"room\":\"2.x\"}").await;
    wait(&["lobby", "room:1", "room:2.x"]).await;
    for room in [json!("3"), json!("*"), json!("1\n"), json!(null), json!("x".repeat(300))] {
        client.send(&json!({"type": "enter", "room": room}).to_string()).await;
        assert_eq!(client.error().await.0, "forbidden", "{room}");
    }
    client.send("{\"type\":\"exit\",\"room\":\"1\"}").await;
    wait(&["lobby", "room:2.x"]).await;
    let id = holdfast.call(Method::GET, "/v1/users/ann/connections", "").await.1["connections"][0].clone();
    let id = id.as_str().expect("an ID");
    let join = |group: &str| format!("/v1/groups/{group}/members/{id}");
    let status = holdfast.call(Method::PUT, &join("staff"), "").await.0;
    assert_eq!(status, 403, "the application's own commands go by the rules too");
    assert_eq!(holdfast.call(Method::PUT, &join("open"), "").await.0, 204, "a group without a rule is open");
    let newer = issuer.token(&json!({"sub": "ann", "role": "admin", "rooms": [], "groups": ["staff"]}));
    client.send(&auth_message(&newer)).await;
    assert_eq!(client.json().await["state"], "accepted");
    wait(&["open", "staff"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_hot() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "", "routes: [{event: \"*\", upstream: app}]").await;
    let mut client = connect(&holdfast, &issuer.token(&json!({"sub": "ann"}))).await;
    client.send("{\"type\":\"a\"}").await;
    assert_eq!(client.json().await["type"], "a");
    let text = holdfast.yaml().replace("upstream: app}]", "upstream: app, require: {scope: w}}]");
    std::fs::write(holdfast.config_path(), text).expect("written");
    assert_eq!(holdfast.call(Method::POST, "/v1/config/reload", "").await.0, 200);
    client.send("{\"type\":\"a\"}").await;
    assert_eq!(client.error().await.0, "forbidden");
}
