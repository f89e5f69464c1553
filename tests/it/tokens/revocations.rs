//! Revocations: whom they close, whom they refuse, for how long.

use http::Method;
use serde_json::json;

use super::{ROUTES, auth_message, connect, refused, start};
use crate::harness::issuer::Issuer;
use crate::harness::{Client, Holdfast, Reply, Upstream, eventually};

async fn revoke(holdfast: &Holdfast, body: serde_json::Value) -> u64 {
    let (status, answer) = holdfast.call(Method::POST, "/v1/revocations", body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer["closed"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_a_token_and_a_claim_are_put_out_and_kept_out() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "", ROUTES).await;
    let token =
        |sub: &str, jti: &str, tenant: &str| issuer.token(&json!({"sub": sub, "jti": jti, "org": {"tenant": tenant}}));
    let tokens = [token("ann", "1", "x"), token("ann", "2", "x"), token("bob", "3", "x"), token("eve", "4", "y")];
    let mut clients = Vec::new();
    for token in &tokens {
        clients.push(connect(&holdfast, token).await);
    }
    assert_eq!(revoke(&holdfast, json!({"jti": "1", "ttl": "1h", "reason": "logged out"})).await, 1);
    assert_eq!(clients[0].closed().await, (4502, "logged out".into()));
    assert_eq!(refused(&holdfast, &tokens[0]).await, 401);
    assert_eq!(revoke(&holdfast, json!({"user": "ann", "ttl": "1h"})).await, 1, "the other one of hers");
    assert_eq!(clients[1].closed().await, (4502, "revoked".into()));
    assert_eq!(refused(&holdfast, &token("ann", "9", "z")).await, 401, "every token of hers");
    assert_eq!(revoke(&holdfast, json!({"claim": "/org/tenant", "equals": "x", "ttl": "1h"})).await, 1);
    assert_eq!(clients[2].closed().await.0, 4502);
    clients[3].send("{\"type\":\"a\"}").await;
    assert_eq!(clients[3].json().await["type"], "a", "whom nothing is about stays");
    clients[3].send(&auth_message(&token("eve", "5", "x"))).await;
    assert!(clients[3].error().await.1["message"].as_str().expect("a message").contains("revoked"));

    let (_, listed) = holdfast.call(Method::GET, "/v1/revocations", "").await;
    assert_eq!(listed["total"], 3, "{listed}");
    assert_eq!(holdfast.metric("holdfast_revocations").await, 3.0);
    assert_eq!(holdfast.call(Method::DELETE, "/v1/revocations?jti=1", "").await.0, 204);
    assert_eq!(holdfast.call(Method::DELETE, "/v1/revocations?user=ann", "").await.0, 204);
    assert_eq!(holdfast.call(Method::DELETE, "/v1/revocations?claim=/org/tenant&equals=x", "").await.0, 204);
    assert_eq!(holdfast.call(Method::DELETE, "/v1/revocations?user=ann", "").await.0, 404);
    connect(&holdfast, &tokens[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_with_its_time() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "", ROUTES).await;
    let token = issuer.token(&json!({"sub": "ann"}));
    revoke(&holdfast, json!({"user": "ann", "ttl": "1s"})).await;
    assert_eq!(refused(&holdfast, &token).await, 401);
    let header = format!("Bearer {token}");
    let headers = [("authorization", header.as_str())];
    eventually("its end", || async { Client::connect(&holdfast.url(), &headers).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_the_application_names_is_revoked_too() {
    let answer = |call: &crate::harness::Call| match call.kind() {
        "connect" => Reply::empty().header("holdfast-user", "ann"),
        _ => Reply::empty(),
    };
    let app = Upstream::start(answer).await;
    let holdfast = Holdfast::start(&app, &format!("connect: app\ndisconnect: app\n{ROUTES}")).await;
    let mut client = holdfast.connect().await;
    assert_eq!(revoke(&holdfast, json!({"user": "ann", "ttl": "1h"})).await, 1);
    assert_eq!(client.closed().await.0, 4502);
    let again = Client::connect(&holdfast.url(), &[]).await.err().expect("refused");
    assert_eq!(again.status, 403);
    assert_eq!(app.wait_for("disconnect", 2).await.len(), 2, "each accepted connect has its disconnect");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_revocation_is_named() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    for (body, says) in [
        (json!({"ttl": "1h"}), "one of"),
        (json!({"user": "a", "jti": "b", "ttl": "1h"}), "one of"),
        (json!({"claim": "a", "ttl": "1h"}), "one of"),
        (json!({"user": "a"}), "ttl"),
        (json!({"user": "a", "ttl": "0s"}), "ttl"),
        (json!({"user": "a", "ttl": "soon"}), "ttl"),
        (json!({"user": "", "ttl": "1h"}), "1 to 256 bytes"),
        (json!({"user": "a", "ttl": "1h", "until": 1}), "unknown field"),
        (json!({"user": "a", "ttl": "1h", "reason": "x".repeat(124)}), "reason"),
    ] {
        let (status, answer) = holdfast.call(Method::POST, "/v1/revocations", body.to_string()).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer["error"]["message"].as_str().expect("a message").contains(says), "{body}: {answer}");
    }
}
