//! What is seen from outside: spans at a collector, metrics in OpenMetrics text.

use http::Method;

use crate::harness::{Holdfast, Upstream, collector, eventually, yaml};

const ROUTES: &str = "routes: [{event: \"*\", upstream: app}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_message_is_a_span_with_the_trace_that_its_handler_saw() {
    let app = Upstream::echo().await;
    let (url, bodies) = collector().await;
    let text = format!("tracing: {{otlp: \"{url}\", sample: 1}}\n{}", yaml(&app.url(), "", ROUTES));
    let holdfast = Holdfast::start_yaml(&text, &[]).await;
    let mut client = holdfast.connect().await;
    client.send(r#"{"type":"traced"}"#).await;
    client.text().await;
    let traceparent = app.calls_of("message")[0].header("traceparent").to_owned();
    assert!(traceparent.ends_with("-01"), "sampled: {traceparent}");
    let trace_id = u128::from_str_radix(&traceparent[3..35], 16).expect("a trace ID").to_be_bytes();
    eventually("the span", || async {
        let found = bodies.lock().iter().any(|body| {
            let text = String::from_utf8_lossy(body);
            body.windows(16).any(|window| window == trace_id) && text.contains("holdfast") && text.contains("traced")
        });
        found.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_open_metrics_with_bounded_labels() {
    let app = Upstream::echo().await;
    let holdfast = Holdfast::start(&app, ROUTES).await;
    let mut client = holdfast.connect().await;
    for name in ["one", "two", "three"] {
        client.send(&format!("{{\"type\":\"{name}\"}}")).await;
        client.text().await;
    }
    let (status, headers, body) = holdfast.call_raw(Method::GET, "/metrics", &[], "").await;
    assert_eq!(
        (status.as_u16(), headers["content-type"].as_bytes()),
        (200, &b"text/plain; version=0.0.4; charset=utf-8"[..])
    );
    assert!(String::from_utf8_lossy(&body).contains("# TYPE holdfast_events_total counter\nholdfast_events_total{"));
    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let (_, headers, body) = holdfast.call_raw(Method::GET, "/metrics", &accept, "").await;
    assert!(headers["content-type"].to_str().expect("text").starts_with("application/openmetrics-text"));
    let text = String::from_utf8_lossy(&body);
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("holdfast_events_total{endpoint=\"/ws\",route=\"*\",outcome=\"delivered\"} 3"), "{text}");
    assert!(text.contains("holdfast_event_duration_seconds_count{endpoint=\"/ws\",route=\"*\"} 3"), "{text}");
    assert!(text.contains("holdfast_connections{endpoint=\"/ws\"} 1"), "{text}");
    assert!(text.contains("holdfast_upstream_attempts_total{upstream=\"app\",outcome=\"ok\"} 3"), "{text}");
    assert!(!text.contains("three"), "a name that a client chose became a label");
}
