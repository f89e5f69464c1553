//! The client over real sockets, against a server that answers by a script.

mod server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::*;
use crate::message::{EventKind, Format, Payload, Traceparent};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{UpstreamAddress, UpstreamLabel, UpstreamOutcome};
use server::{Reply, Server, Speech};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn settings(urls: &[String]) -> HttpSettings {
    HttpSettings {
        urls: urls.iter().map(|url| url.parse().expect("a URL")).collect(),
        version: Version::Http1,
        timeout: ms(5000),
        deadline: ms(30_000),
        mode: Mode::Binary,
        signing_secret: None,
        headers: vec![],
        concurrency: 64,
        waiting: 1024,
        pool_idle_timeout: ms(4000),
        answer_size: 64 * 1024,
        backoff_min: ms(5),
        backoff_max: ms(50),
        breaker_failures: 1000,
        breaker_open: ms(100),
        dns_refresh: ms(10_000),
        ca_pem: None,
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/events?a=1")
}

struct Rig {
    upstream: HttpUpstream,
    metrics: Arc<Metrics>,
}

impl Rig {
    fn new(settings: &HttpSettings) -> Self {
        let metrics = Arc::new(Metrics::new());
        let upstream = HttpUpstream::new("app", settings, &metrics).expect("valid settings");
        Self { upstream, metrics }
    }

    async fn call(&self, seq: u64, within: Duration) -> Result<Answer, Failure> {
        self.upstream.call(&event(seq), Instant::now() + within).await
    }

    fn attempts(&self, outcome: &str) -> u64 {
        let label = UpstreamOutcome { upstream: "app".into(), outcome: outcome.into() };
        self.metrics.upstream_attempts.get_or_create(&label).get()
    }

    fn in_flight(&self) -> i64 {
        self.metrics.upstream_in_flight.get_or_create(&UpstreamLabel { upstream: "app".into() }).get()
    }

    fn waiting(&self) -> i64 {
        self.metrics.upstream_waiting.get_or_create(&UpstreamLabel { upstream: "app".into() }).get()
    }

    fn state(&self) -> &'static str {
        self.upstream.addresses()[0].breaker
    }
}

pub fn event(seq: u64) -> Event {
    Event {
        attempts: Default::default(),
        kind: EventKind::Message,
        connection: "abcdefgh-abcdefghijklmnopqrst".parse().expect("an ID"),
        seq,
        endpoint: "/ws".into(),
        name: Some("chat".into()),
        name_is_literal: true,
        user: None,
        context: None,
        time: SystemTime::now(),
        traceparent: Traceparent::random(false),
        body: Bytes::from(format!("{{\"seq\":{seq}}}")),
        format: Format::Json,
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + ms(10_000);
    while !condition() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        tokio::time::sleep(ms(1)).await;
    }
}

async fn free_address() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound")
}

fn is_unavailable(result: &Result<Answer, Failure>, says: &str) -> bool {
    matches!(result, Err(Failure::Unavailable { reason }) if reason.contains(says))
}

#[tokio::test]
async fn an_event_is_answered_and_its_request_is_whole() {
    let server = Server::start(|_, seen| Reply::text(std::str::from_utf8(&seen.body).expect("UTF-8"))).await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    let answer = rig.call(3, ms(5000)).await.expect("answered");
    assert_eq!(answer.reply, Some(Payload::text(r#"{"seq":3}"#)));
    let seen = server.log.seen.lock()[0].clone();
    assert_eq!(seen.uri.to_string(), "/events?a=1");
    assert_eq!(seen.header("host"), server.address.to_string());
    assert_eq!(seen.header("content-length"), "9");
    assert_eq!(seen.header("ce-id"), "abcdefgh-abcdefghijklmnopqrst.3");
    assert_eq!((rig.attempts("ok"), rig.in_flight()), (1, 0));
}

#[tokio::test]
async fn retries_bear_the_same_key_until_one_is_answered() {
    let server = Server::start(|number, _| Reply::status([503, 408, 500, 429, 204][number - 1])).await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    assert_eq!(rig.call(1, ms(5000)).await, Ok(Answer::default()));
    let seen = server.log.seen.lock();
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert_eq!(keys, ["abcdefgh-abcdefghijklmnopqrst.1"; 5]);
    assert_eq!((rig.attempts("status"), rig.attempts("ok")), (4, 1));
}

#[tokio::test]
async fn retry_after_is_obeyed_and_not_waited_for_past_the_deadline() {
    let server = Server::start(|number, _| match number {
        1 => Reply::Status(429, vec![("retry-after", "1".into())], Bytes::new()),
        2 => Reply::status(200),
        _ => Reply::Status(503, vec![("retry-after", "60".into())], Bytes::new()),
    })
    .await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    let begun = Instant::now();
    rig.call(1, ms(5000)).await.expect("answered");
    assert!(begun.elapsed() >= ms(1000), "{:?}", begun.elapsed());
    let result = rig.call(2, ms(5000)).await;
    assert!(is_unavailable(&result, "503"), "{result:?}");
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn a_no_is_final_and_a_redirect_is_not_followed() {
    let server = Server::start(|number, _| match number {
        1 => Reply::Status(302, vec![("location", "/other".into())], Bytes::new()),
        _ => Reply::Status(403, vec![("content-type", "text/plain".into())], Bytes::from("no")),
    })
    .await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    let redirect = Failure::Rejected { status: 302, content_type: None, body: Bytes::new() };
    assert_eq!(rig.call(1, ms(5000)).await, Err(redirect));
    let no = Failure::Rejected { status: 403, content_type: Some("text/plain".into()), body: Bytes::from("no") };
    assert_eq!(rig.call(2, ms(5000)).await, Err(no));
    assert_eq!((server.requests(), rig.attempts("rejected")), (2, 2));
}

#[tokio::test]
async fn a_hanging_attempt_is_cut_and_tried_again() {
    let server = Server::start(|number, _| if number == 1 { Reply::Hang } else { Reply::status(200) }).await;
    let rig = Rig::new(&HttpSettings { timeout: ms(100), ..settings(&[url(server.address)]) });
    rig.call(1, ms(5000)).await.expect("answered at the second attempt");
    assert_eq!((rig.attempts("timeout"), rig.attempts("ok"), server.requests()), (1, 1, 2));
}

#[tokio::test]
async fn a_deadline_ends_the_last_attempt() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    let begun = Instant::now();
    assert_eq!(rig.call(1, ms(150)).await, Err(Failure::Timeout));
    assert!(begun.elapsed() < ms(3000));
    let late = rig.call(2, ms(0)).await;
    assert!(is_unavailable(&late, "had passed"), "{late:?}");
    assert_eq!((server.requests(), rig.in_flight()), (1, 0));
}

#[tokio::test]
async fn a_refused_connection_is_tried_until_the_upstream_is_back() {
    let address = free_address().await;
    let rig = Rig::new(&settings(&[url(address)]));
    let result = rig.call(1, ms(100)).await;
    assert!(is_unavailable(&result, "no connection to"), "{result:?}");
    let before = rig.attempts("connect_error");
    let back = async {
        eventually("refused", || rig.attempts("connect_error") > before + 1).await;
        Server::start_at(address, Speech::default(), |_, _| Reply::status(200)).await
    };
    let (result, server) = tokio::join!(rig.call(2, ms(10_000)), back);
    assert_eq!((result, server.requests()), (Ok(Answer::default()), 1));
}

#[tokio::test]
async fn an_open_breaker_makes_events_wait_for_one_probe() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let probe = Arc::new(Semaphore::new(0));
    let (broken, permits) = (is_broken.clone(), probe.clone());
    let server = Server::start(move |_, _| match broken.load(Ordering::SeqCst) {
        true => Reply::status(503),
        false => Reply::When(permits.clone()),
    })
    .await;
    let settings =
        HttpSettings { breaker_failures: 3, breaker_open: ms(100), concurrency: 4, ..settings(&[url(server.address)]) };
    let rig = Rig::new(&settings);
    let calls = join_all((1..=30).map(|seq| rig.call(seq, ms(20_000))));
    let script = async {
        eventually("open", || rig.state() == "open").await;
        // With one probe at a time, the waiting calls bring few requests.
        eventually("a failed probe", || rig.attempts("status") >= 6).await;
        is_broken.store(false, Ordering::SeqCst);
        eventually("a probe on the wire", || server.log.at_once.load(Ordering::SeqCst) == 1).await;
        assert_eq!((rig.state(), rig.in_flight()), ("half_open", 1));
        let gauge = UpstreamAddress { upstream: "app".into(), address: server.address.to_string().into() };
        assert_eq!(rig.metrics.breaker_state.get_or_create(&gauge).get(), 1);
        // A newcomer waits too: it does not go to the wire and does not fail.
        assert!(timeout(ms(50), rig.call(31, ms(20_000))).await.is_err());
        assert_eq!((server.log.at_once.load(Ordering::SeqCst), rig.in_flight()), (1, 1));
        probe.add_permits(1000);
    };
    let (results, ()) = tokio::join!(calls, script);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(rig.state(), "closed");
    assert!(server.log.at_once_max.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn what_waits_for_a_breaker_fails_at_its_deadline_with_the_reason() {
    let server = Server::start(|_, _| Reply::status(500)).await;
    let settings = HttpSettings { breaker_failures: 1, breaker_open: ms(60_000), ..settings(&[url(server.address)]) };
    let rig = Rig::new(&settings);
    let (first, second) = (rig.call(1, ms(100)).await, rig.call(2, ms(100)).await);
    assert!(is_unavailable(&first, "it answered 500"), "{first:?}");
    assert!(is_unavailable(&second, "every address is set aside: it answered 500"), "{second:?}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_probe_that_is_given_up_leaves_room_for_the_next() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    let server = Server::start(move |number, _| match number {
        1 => Reply::status(500),
        _ if broken.load(Ordering::SeqCst) => Reply::Hang,
        _ => Reply::status(200),
    })
    .await;
    let settings = HttpSettings { breaker_failures: 1, breaker_open: ms(20), ..settings(&[url(server.address)]) };
    let rig = Rig::new(&settings);
    {
        let mut call = Box::pin(rig.call(1, ms(10_000)));
        let probing = eventually("a probe", || rig.state() == "half_open" && server.requests() == 2);
        tokio::select! {
            result = &mut call => panic!("{result:?}"),
            () = probing => {}
        }
    }
    assert_eq!((rig.state(), rig.in_flight()), ("open", 0));
    is_broken.store(false, Ordering::SeqCst);
    rig.call(2, ms(5000)).await.expect("the next probe");
    assert_eq!(rig.state(), "closed");
}

#[tokio::test]
async fn a_waiting_call_that_is_dropped_does_not_hold_up_the_others() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    let server = Server::start(move |_, _| Reply::status(if broken.load(Ordering::SeqCst) { 500 } else { 200 })).await;
    let settings = HttpSettings { breaker_failures: 1, breaker_open: ms(300), ..settings(&[url(server.address)]) };
    let rig = Rig::new(&settings);
    assert!(rig.call(1, ms(20)).await.is_err());
    is_broken.store(false, Ordering::SeqCst);
    let mut watcher = Box::pin(rig.call(2, ms(20_000)));
    let mut second = Box::pin(rig.call(3, ms(20_000)));
    assert!(futures_util::poll!(&mut watcher).is_pending() && futures_util::poll!(&mut second).is_pending());
    drop(watcher);
    second.await.expect("the next to watch");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_dead_address_costs_nothing_but_a_look() {
    let server = Server::start(|_, _| Reply::status(200)).await;
    let settings = HttpSettings {
        // A pause would show: nothing waits where another address is there.
        backoff_min: ms(20_000),
        backoff_max: ms(20_000),
        breaker_failures: 3,
        breaker_open: ms(60_000),
        ..settings(&[url(free_address().await), url(server.address)])
    };
    let rig = Rig::new(&settings);
    for seq in 1..=100 {
        rig.call(seq, ms(5000)).await.expect("answered by the other address");
    }
    assert_eq!((rig.attempts("connect_error"), server.requests()), (3, 100));
    let found = rig.upstream.addresses();
    let states: Vec<_> = found.iter().map(|address| (address.breaker, address.in_flight)).collect();
    assert_eq!(states, [("open", 0), ("closed", 0)]);
    let why: Vec<_> = found.iter().map(|address| address.last_failure.as_ref().map(|(_, reason)| &**reason)).collect();
    assert!(matches!(why[..], [Some(reason), None] if reason.contains("refused")), "{why:?}");
}

#[tokio::test]
async fn load_goes_to_the_less_busy_address() {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let slow = Server::start(move |_, _| Reply::When(held.clone())).await;
    let fast = Server::start(|_, _| Reply::status(200)).await;
    let rig = Rig::new(&settings(&[url(slow.address), url(fast.address)]));
    let mut stuck = Vec::new();
    while slow.requests() == 0 {
        let mut call = Box::pin(rig.call(1, ms(20_000)));
        tokio::select! {
            _ = &mut call => {}
            () = eventually("stuck", || slow.requests() == 1) => stuck.push(call),
        }
    }
    for seq in 0..20 {
        rig.call(seq, ms(5000)).await.expect("the idle one");
    }
    assert_eq!((slow.requests(), stuck.len()), (1, 1));
    permits.add_permits(1);
    stuck.remove(0).await.expect("answered at last");
}

#[tokio::test]
async fn a_connection_serves_one_call_after_another() {
    let server = Server::start(|number, _| match number % 4 {
        0 => Reply::Chunked(Bytes::from("in two halves")),
        1 => Reply::status(204),
        2 => Reply::status(503),
        _ => Reply::Status(200, vec![], Bytes::from(vec![b'a'; 60_000])),
    })
    .await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    let mut replies = Vec::new();
    for seq in 1..=15 {
        let answer = rig.call(seq, ms(5000)).await.expect("answered");
        replies.push(answer.reply.map(|reply| reply.len()).unwrap_or_default());
    }
    assert_eq!(replies[..4], [0, 60_000, 13, 0]);
    assert_eq!((server.requests(), server.connections()), (20, 1));
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    let server = Server::start(|_, seen| Reply::Status(200, vec![], seen.body.clone())).await;
    let rig = Rig::new(&HttpSettings { answer_size: 8 << 20, ..settings(&[url(server.address)]) });
    let body = Bytes::from((0..4_000_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let event = Event { body: body.clone(), format: Format::Binary, ..event(1) };
    for _ in 0..3 {
        let answer = rig.upstream.call(&event, Instant::now() + ms(10_000)).await.expect("answered");
        assert!(answer.reply == Some(Payload::binary(body.clone())));
    }
    assert_eq!((server.requests(), server.connections()), (3, 1));
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let server = Server::start(|_, _| Reply::status(200)).await;
    let rig = Rig::new(&HttpSettings { pool_idle_timeout: ms(50), ..settings(&[url(server.address)]) });
    join_all((1..=5).map(|seq| rig.call(seq, ms(5000)))).await;
    let endpoint = rig.upstream.client.endpoints.lease(Instant::now(), None).expect("closed breaker");
    assert!(endpoint.endpoint.pool.idle_count() > 0);
    eventually("evicted", || endpoint.endpoint.pool.idle_count() == 0).await;
}

#[tokio::test]
async fn a_connection_that_ended_unnoticed_is_replaced_at_once() {
    for way in ["without an answer", "with notice", "killed"] {
        let server = Server::start(move |number, _| match (way, number) {
            ("without an answer", 2) => Reply::Drop,
            ("with notice", 1) => Reply::Status(200, vec![("connection", "close".into())], Bytes::new()),
            _ => Reply::status(200),
        })
        .await;
        let address = server.address;
        // A retry by the book would come too late.
        let settings = HttpSettings { backoff_min: ms(20_000), backoff_max: ms(20_000), ..settings(&[url(address)]) };
        let rig = Rig::new(&settings);
        rig.call(1, ms(5000)).await.expect(way);
        let server = match way {
            "killed" => {
                drop(server);
                eventually("closed", || std::net::TcpListener::bind(address).is_ok()).await;
                Server::start_at(address, Speech::default(), |_, _| Reply::status(200)).await
            }
            _ => server,
        };
        rig.call(2, ms(5000)).await.expect(way);
        let seen = server.log.seen.lock();
        assert_eq!(seen.last().expect("a request").header("idempotency-key"), "abcdefgh-abcdefghijklmnopqrst.2");
        assert_eq!(rig.attempts("ok"), 2, "{way}");
        assert_eq!(rig.attempts("io_error"), 0, "{way}");
    }
}

#[tokio::test]
async fn a_new_connection_that_is_cut_counts_as_a_failure() {
    let server = Server::start(|number, _| if number == 1 { Reply::Drop } else { Reply::status(200) }).await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    rig.call(1, ms(5000)).await.expect("the second attempt");
    assert_eq!((rig.attempts("io_error"), rig.attempts("ok")), (1, 1));
}

#[tokio::test]
async fn cleartext_http2_shares_one_connection() {
    let speech = Speech { http2: true, tls: None };
    let any = "127.0.0.1:0".parse().expect("an address");
    let server = Server::start_at(any, speech, |_, seen| match seen.uri.to_string().starts_with("http://127.0.0.1:") {
        true => Reply::text(std::str::from_utf8(&seen.body).expect("UTF-8")),
        false => Reply::status(400),
    })
    .await;
    let rig = Rig::new(&HttpSettings { version: Version::Http2, ..settings(&[url(server.address)]) });
    let answers = join_all((1..=40).map(|seq| rig.call(seq, ms(5000)))).await;
    for (answer, seq) in answers.into_iter().zip(1..) {
        assert_eq!(answer.expect("answered").reply, Some(Payload::text(format!("{{\"seq\":{seq}}}"))));
    }
    assert_eq!((server.requests(), server.connections()), (40, 1));
    assert_eq!(server.log.seen.lock()[0].version, http::Version::HTTP_2);
    let address = server.address;
    drop(server);
    eventually("closed", || std::net::TcpListener::bind(address).is_ok()).await;
    let speech = Speech { http2: true, tls: None };
    let server = Server::start_at(address, speech, |_, _| Reply::status(200)).await;
    rig.call(41, ms(5000)).await.expect("a new connection");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn tls_is_spoken_to_whom_the_ca_vouches_for() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .expect("a matching key");
    let any = "127.0.0.1:0".parse().expect("an address");
    for (version, http2, alpn, seen) in [
        (Version::Http1, false, "http/1.1", http::Version::HTTP_11),
        (Version::Http2, true, "h2", http::Version::HTTP_2),
        (Version::Http2, false, "http/1.1", http::Version::HTTP_11),
    ] {
        let mut config = config.clone();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let speech = Speech { http2, tls: Some(Arc::new(config).into()) };
        let server = Server::start_at(any, speech, |_, _| Reply::status(200)).await;
        let url = format!("https://localhost:{}/", server.address.port());
        let trusting =
            HttpSettings { version, ca_pem: Some(key.cert.pem().into()), ..settings(std::slice::from_ref(&url)) };
        let rig = Rig::new(&trusting);
        for seq in 1..=3 {
            rig.call(seq, ms(5000)).await.expect("trusted");
        }
        assert_eq!((server.log.seen.lock()[2].version, server.connections()), (seen, 1));
        let wary = Rig::new(&HttpSettings { ca_pem: None, ..trusting });
        let result = wary.call(1, ms(300)).await;
        assert!(is_unavailable(&result, "connection to"), "{result:?}");
        assert_eq!(server.requests(), 3);
    }
}

#[tokio::test]
async fn a_name_is_looked_up_and_unknown_ones_say_so() {
    let server = Server::start(|_, _| Reply::status(200)).await;
    let port = server.address.port();
    let rig = Rig::new(&settings(&[format!("http://localhost:{port}/")]));
    assert!(rig.upstream.addresses().is_empty());
    let results = join_all((1..=20).map(|seq| rig.call(seq, ms(5000)))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let known = rig.upstream.addresses();
    assert!(known.iter().any(|known| *known.label == format!("localhost:{port} (127.0.0.1)")), "{known:?}");
    let rig = Rig::new(&settings(&["http://nowhere.invalid/".into()]));
    let result = rig.call(1, ms(2000)).await;
    assert!(is_unavailable(&result, "nowhere.invalid") || is_unavailable(&result, "no address"), "{result:?}");
}

#[tokio::test]
async fn an_address_that_stays_keeps_its_state_over_a_look_up() {
    let server = Server::start(|_, _| Reply::status(200)).await;
    let url = format!("http://localhost:{}/", server.address.port());
    let rig = Rig::new(&HttpSettings { dns_refresh: ms(1), ..settings(&[url]) });
    for seq in 1..=50 {
        rig.call(seq, ms(5000)).await.expect("answered");
        tokio::task::yield_now().await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn calls_beyond_concurrency_wait_and_those_beyond_waiting_are_turned_away() {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let server = Server::start(move |_, _| Reply::When(held.clone())).await;
    let rig = Rig::new(&HttpSettings { concurrency: 2, waiting: 1, ..settings(&[url(server.address)]) });
    let calls = join_all((1..=3).map(|seq| rig.call(seq, ms(10_000))));
    let script = async {
        eventually("two on the wire, one waiting", || server.requests() == 2 && rig.waiting() == 1).await;
        assert_eq!(rig.in_flight(), 2);
        assert_eq!(rig.call(4, ms(10_000)).await, Err(Failure::Overloaded));
        permits.add_permits(3);
    };
    let (results, ()) = tokio::join!(calls, script);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!((server.log.at_once_max.load(Ordering::SeqCst), rig.waiting(), rig.in_flight()), (2, 0, 0));
}

#[tokio::test]
async fn a_call_that_backs_off_holds_no_slot() {
    let server = Server::start(|_, seen| match seen.header("ce-seq") {
        "1" => Reply::Status(503, vec![("retry-after", "600".into())], Bytes::new()),
        _ => Reply::status(200),
    })
    .await;
    let rig = Rig::new(&HttpSettings { concurrency: 1, waiting: 0, ..settings(&[url(server.address)]) });
    let mut backing_off = Box::pin(rig.call(1, ms(3_600_000)));
    tokio::select! {
        result = &mut backing_off => panic!("{result:?}"),
        () = eventually("backing off", || rig.attempts("status") == 1 && rig.in_flight() == 0) => {}
    }
    rig.call(2, ms(5000)).await.expect("the slot is free");
}

#[tokio::test]
async fn a_dropped_call_gives_everything_back() {
    let server =
        Server::start(|_, seen| if seen.header("ce-seq") == "1" { Reply::Hang } else { Reply::status(200) }).await;
    let rig = Rig::new(&HttpSettings { concurrency: 1, waiting: 0, ..settings(&[url(server.address)]) });
    let mut call = Box::pin(rig.call(1, ms(10_000)));
    tokio::select! {
        result = &mut call => panic!("{result:?}"),
        () = eventually("on the wire", || server.requests() == 1) => {}
    }
    assert_eq!(rig.in_flight(), 1);
    drop(call);
    assert_eq!(rig.in_flight(), 0);
    rig.call(2, ms(5000)).await.expect("the slot is free");
}

#[tokio::test]
async fn an_answer_that_is_too_large_breaks_the_contract() {
    let large = Bytes::from(vec![b'a'; 100_000]);
    let server = Server::start(move |number, _| match number {
        1 => Reply::Status(200, vec![], large.clone()),
        2 => Reply::Chunked(large.clone()),
        3 => Reply::Status(500, vec![], large.clone()),
        _ => Reply::status(200),
    })
    .await;
    let rig = Rig::new(&settings(&[url(server.address)]));
    for seq in 1..=2 {
        let result = rig.call(seq, ms(5000)).await;
        assert!(matches!(&result, Err(Failure::Broken { reason }) if reason.contains("65536")), "{result:?}");
    }
    rig.call(3, ms(5000)).await.expect("a retry after a large 500");
    assert_eq!(rig.attempts("broken"), 2);
}

#[tokio::test]
async fn what_is_no_http_is_an_error_and_not_a_hang() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let talker = Tasks::new().spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 smtp ready\r\n").await.expect("written");
        }
    });
    let rig = Rig::new(&settings(&[url(address)]));
    assert!(matches!(rig.call(1, ms(200)).await, Err(Failure::Unavailable { .. })));
    assert!(rig.attempts("io_error") > 0);
    talker.abort();
}

#[tokio::test]
async fn a_gone_upstream_takes_its_gauges_along() {
    let rig = Rig::new(&settings(&["http://127.0.0.1:9/".into()]));
    assert!(rig.metrics.encode().contains("127.0.0.1:9"));
    drop(rig.upstream);
    assert!(!rig.metrics.encode().contains("127.0.0.1:9"));
}

#[test]
fn settings_are_equal_if_everything_is() {
    let one = || HttpSettings {
        signing_secret: Some("whsec_a".into()),
        headers: vec![(http::header::AUTHORIZATION, "Bearer a".into())],
        ..settings(&["http://app/".into()])
    };
    assert_eq!(one(), one());
    let others = [
        HttpSettings { signing_secret: Some("whsec_b".into()), ..one() },
        HttpSettings { signing_secret: None, ..one() },
        HttpSettings { headers: vec![(http::header::AUTHORIZATION, "Bearer b".into())], ..one() },
        HttpSettings { headers: vec![], ..one() },
        HttpSettings { urls: vec![], ..one() },
        HttpSettings { waiting: 1, ..one() },
        HttpSettings { breaker_open: ms(1), ..one() },
        HttpSettings { ca_pem: Some("".into()), ..one() },
    ];
    for other in others {
        assert_ne!(one(), other);
    }
}

#[tokio::test]
async fn the_future_of_a_call_stays_small() {
    let rig = Rig::new(&settings(&["http://127.0.0.1:9/".into()]));
    let event = event(1);
    let size = size_of_val(&rig.upstream.call(&event, Instant::now()));
    assert!(size <= 3072, "{size} bytes");
}
