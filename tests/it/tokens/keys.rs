//! Keys that are fetched: rotated under open sockets, asked for by unknown names but not more than allowed, kept while they cannot be had.

use serde_json::json;

use super::{ROUTES, connect, refused};
use crate::harness::issuer::Issuer;
use crate::harness::{Client, Holdfast, Upstream, eventually, yaml};

async fn start(app: &Upstream, issuer: &Issuer, jwks: &str) -> Holdfast {
    let url = issuer.server.url();
    let endpoint = format!("auth: {{algorithms: [ES256], jwks: {{url: \"{url}\", {jwks}}}}}\n{ROUTES}");
    Holdfast::start_yaml(&yaml(&app.url(), "", &endpoint), &[]).await
}

/// Tries until the token's key is known.
async fn let_in(holdfast: &Holdfast, token: &str) -> Client {
    let header = format!("Bearer {token}");
    let headers = [("authorization", header.as_str())];
    eventually("the key", || async { Client::connect(&holdfast.url(), &headers).await.ok() }).await
}

/// Waits until the first keys are there.
async fn ready(holdfast: &Holdfast) {
    let fetched =
        || async { (holdfast.metric("holdfast_jwks_fetches_total{outcome=\"ok\"").await >= 1.0).then_some(()) };
    eventually("the first keys", fetched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_under_open_sockets() {
    let sockets: usize = std::env::var("HOLDFAST_JWKS").map_or(100, |text| text.parse().expect("a number"));
    let (app, mut issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "refresh: 1h, refetch_interval: 10ms").await;
    let old = issuer.token(&json!({"sub": "ann"}));
    let mut clients = Vec::new();
    for _ in 0..sockets {
        clients.push(connect(&holdfast, &old).await);
    }
    issuer.rotate("second");
    let new = issuer.token(&json!({"sub": "bob"}));
    clients.push(let_in(&holdfast, &new).await);
    assert_eq!(refused(&holdfast, &old).await, 401, "the old key is gone from the set");
    assert_eq!(holdfast.metric("holdfast_connections{").await, (sockets + 1) as f64, "no socket closed");
    for client in &mut clients {
        client.send("{\"type\":\"a\"}").await;
        assert_eq!(client.json().await["type"], "a");
    }
    clients[0].send(&super::auth_message(&issuer.token(&json!({"sub": "ann"})))).await;
    assert_eq!(clients[0].json().await["state"], "accepted", "a token by the new key renews an old socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_unknown_keys_bring_about_few_fetches() {
    let (app, mut issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "refresh: 1h, refetch_interval: 1h").await;
    ready(&holdfast).await;
    let good = issuer.token(&json!({"sub": "ann"}));
    issuer.rotate("unknown");
    let unknown = issuer.token(&json!({"sub": "ann"}));
    let (one, many) = (holdfast.url(), (0..50).map(|_| refused(&holdfast, &unknown)));
    assert!(futures_util::future::join_all(many).await.iter().all(|status| *status == 401), "{one}");
    assert_eq!(issuer.server.calls().len(), 1, "the first fetch alone");
    connect(&holdfast, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_wait_for_one_fetch() {
    let (app, mut issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = start(&app, &issuer, "refresh: 1h, refetch_interval: 2s").await;
    ready(&holdfast).await;
    issuer.rotate("second");
    let new = issuer.token(&json!({"sub": "ann"}));
    // Refused until the interval is over; then one fetch lets all of them in.
    let_in(&holdfast, &new).await;
    let all = futures_util::future::join_all((0..50).map(|_| connect(&holdfast, &new))).await;
    assert_eq!((all.len(), issuer.server.calls().len()), (50, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_keys_stay_while_the_url_fails_and_without_any_nobody_is_let_in() {
    let (app, mut issuer) = (Upstream::echo().await, Issuer::start().await);
    issuer.fail();
    let holdfast = start(&app, &issuer, "refresh: 1s, refetch_interval: 1h").await;
    let token = issuer.token(&json!({"sub": "ann"}));
    assert_eq!(refused(&holdfast, &token).await, 503, "nobody can say whether it is good");
    issuer.rotate("there");
    let token = issuer.token(&json!({"sub": "ann"}));
    let_in(&holdfast, &token).await;
    issuer.fail();
    let failed =
        || async { (holdfast.metric("holdfast_jwks_fetches_total{outcome=\"failed\"").await >= 3.0).then_some(()) };
    eventually("a failed refresh", failed).await;
    connect(&holdfast, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_changes_counts_at_once_and_fetched_keys_outlive_a_reload() {
    let (app, mut issuer) = (Upstream::echo().await, Issuer::start().await);
    let holdfast = super::start(&app, &issuer, "", ROUTES).await;
    let old = issuer.token(&json!({"sub": "ann"}));
    let client = connect(&holdfast, &old).await;
    issuer.rotate("second");
    std::fs::write(holdfast.config_path().with_file_name("key.pem"), issuer.public_pem()).expect("written");
    let new = issuer.token(&json!({"sub": "ann"}));
    let status = holdfast.call(http::Method::POST, "/v1/config/reload", "").await.0;
    assert_eq!(status, 200);
    connect(&holdfast, &new).await;
    assert_eq!(refused(&holdfast, &old).await, 401);
    client.close().await;

    let fetching = start(&app, &issuer, "refresh: 1h, refetch_interval: 1h").await;
    ready(&fetching).await;
    let text = fetching.yaml().replace("routes:", "idle_timeout: 1h\n    routes:");
    std::fs::write(fetching.config_path(), text).expect("written");
    assert_eq!(fetching.call(http::Method::POST, "/v1/config/reload", "").await.1["generation"], 2);
    connect(&fetching, &new).await;
    assert_eq!(issuer.server.calls().len(), 1, "the keys were kept");
}
