use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::connection::{Connection, Opening};
use crate::deliver::Registration;
use crate::ids::{ConnectionId, NodeId};
use crate::limits::NodeLimits;
use crate::pipeline::Pipeline;
use crate::registry::Registry;
use crate::snapshot::{Draft, Snapshot};
use crate::tasks::Tasks;
use crate::telemetry::Spans;

#[derive(Default)]
struct Fake {
    draining: Mutex<bool>,
}

impl Control for Fake {
    fn config_status(&self) -> ConfigStatus {
        ConfigStatus {
            last_diff: Vec::new(),
            generation: 3,
            hash: "abc".into(),
            loaded_at: String::new(),
            endpoints: vec![],
            upstreams: vec![],
            rabbitmq: None,
            last_error: None,
        }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Vec<String>>> + Send + '_>> {
        Box::pin(std::future::ready(Err(vec!["h.yaml:1:1: x: wrong".into()])))
    }

    fn drain(&self) {
        *self.draining.lock() = true;
    }

    fn readiness(&self) -> Readiness {
        let ready = !*self.draining.lock();
        Readiness { ready, reason: (!ready).then_some("draining"), rabbitmq: Default::default() }
    }

    fn log_level(&self) -> String {
        "info".into()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if level == "debug" { Ok(()) } else { Err("expected debug".into()) }
    }
}

struct Server {
    addr: SocketAddr,
    deliver: Arc<Deliver>,
    stop: watch::Sender<bool>,
}

impl Server {
    async fn start(token: Option<&str>) -> Self {
        let token = token.map(|token| ("token", token, &Scope::ALL[..]));
        Self::start_with(token.as_slice(), None, Audit::Changes).await
    }

    async fn start_with(tokens: &[(&str, &str, &[Scope])], requests_per_second: Option<u32>, audit: Audit) -> Self {
        Self::start_as(tokens, |settings| AdminSettings { requests_per_second, audit, ..settings }).await
    }

    async fn start_as(tokens: &[(&str, &str, &[Scope])], change: impl FnOnce(AdminSettings) -> AdminSettings) -> Self {
        let metrics = Arc::new(Metrics::new());
        let limits = NodeLimits {
            connections: 9,
            connections_per_address: None,
            handshakes: None,
            handshakes_per_address: None,
        };
        let draft = Draft { limits, endpoints: vec![], upstreams: Default::default(), hash: String::new() };
        let snapshot = Snapshot::build(draft, None, None, &metrics).expect("a snapshot");
        let pipeline = Pipeline::new(snapshot, metrics.clone(), Spans::default());
        let deliver = Deliver::new(Arc::new(Registry::new()), pipeline, metrics.clone(), Tasks::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let settings = AdminSettings {
            listen: addr,
            tokens: tokens
                .iter()
                .map(|(name, token, scopes)| TokenSettings {
                    name: (*name).into(),
                    token: SecretString::from((*token).to_owned()),
                    scopes: scopes.to_vec(),
                })
                .collect(),
            requests_per_second: None,
            audit: Audit::Changes,
            body_size: 1000,
            console: true,
            tls: None,
        };
        let settings = change(settings);
        let state = AdminState { deliver: deliver.clone(), metrics, control: Arc::new(Fake::default()) };
        let stop = watch::Sender::new(false);
        let tasks = Tasks::new();
        tasks.spawn(serve(
            listener,
            settings.clone(),
            (None, Guard::new(&settings)),
            state,
            tasks.clone(),
            stop.subscribe(),
        ));
        Self { addr, deliver, stop }
    }

    /// A connection without a socket: what is pushed to it stays in its mailbox.
    fn connection(&self) -> (ConnectionId, Registration) {
        self.connection_of("ann")
    }

    fn connection_of(&self, user: &str) -> (ConnectionId, Registration) {
        let id = ConnectionId::random(NodeId::random());
        let connection = Connection::new(Opening {
            id,
            endpoint: "/ws".into(),
            user: Some(user.into()),
            context: None,
            grant: None,
            remote_addr: self.addr,
            subprotocol: None,
            send_buffer: 2000,
            groups_max: 1,
        });
        (id, self.deliver.register(connection))
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, Value) {
        let (head, body) = self.ask_raw(method, path, headers, body).await;
        (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn ask_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (response::Parts, Bytes) {
        let stream = TcpStream::connect(self.addr).await.expect("connected");
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        Tasks::new().spawn(connection);
        let method: Method = method.to_uppercase().parse().expect("a method");
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
        let (head, body) = send.send_request(request).await.expect("an answer").into_parts();
        if head.status == 200 && path.starts_with("/v1/watch") {
            // It goes on and on.
            return (head, Bytes::new());
        }
        (head, body.collect().await.expect("a body").to_bytes())
    }
}

/// Well-formed values for every call of the description.
fn request_for(path: &str, method: &str, id: &ConnectionId) -> (String, &'static str) {
    let path = path.replace("{id}", id.as_str()).replace("{group}", "room%3A1").replace("{user}", "ann");
    let path = if path.ends_with("/messages") && path.contains("connections") { path + "?wait=queued" } else { path };
    let path = if (method, path.as_str()) == ("delete", "/v1/revocations") { path + "?user=eve" } else { path };
    let body = match (method, path.as_str()) {
        (_, "/v1/commands") => r#"[{"send":{"to":{"all":true},"text":"x"}}]"#,
        ("put", "/v1/log-level") => r#"{"level":"debug"}"#,
        ("post", "/v1/revocations") => r#"{"user":"eve","ttl":"1h"}"#,
        _ => "{}",
    };
    (path, body)
}

#[tokio::test]
async fn every_call_of_the_description_answers_as_described() {
    let server = Server::start(None).await;
    server.ask("POST", "/v1/revocations", &[], r#"{"user":"eve","ttl":"1h"}"#).await;
    let (status, description) = server.ask("GET", "/openapi.json", &[], "").await;
    assert_eq!((status.as_u16(), &description["openapi"]), (200, &json!("3.1.0")));
    let paths = description["paths"].as_object().expect("paths");
    let mut calls = 0;
    for (path, methods) in paths {
        for (method, call) in methods.as_object().expect("methods") {
            let (id, _registration) = server.connection();
            let (target, body) = request_for(path, method, &id);
            let (status, answer) = server.ask(method, &target, &[("content-type", "application/json")], body).await;
            let described = call["responses"].as_object().expect("responses");
            assert!(described.contains_key(status.as_str()), "{method} {target}: {status} {answer}");
            assert!(status.is_success() || path.ends_with("reload"), "{method} {target}: {status} {answer}");
            calls += 1;
        }
    }
    assert_eq!(calls, operations::OPERATIONS.len());
    assert!(calls >= 22);
    let ids: BTreeSet<_> = operations::OPERATIONS.iter().map(|o| (o.method, o.path)).collect();
    assert_eq!(ids.len(), calls, "a call is described twice");
}

#[tokio::test]
async fn refusals_have_their_documented_status_and_one_shape() {
    let server = Server::start(None).await;
    let (id, registration) = server.connection();
    let gone = ConnectionId::random(NodeId::random());
    let big = "x".repeat(1001);
    let push = format!("/v1/connections/{id}/messages");
    let full = format!("{push}?wait=queued");
    assert_eq!(server.ask("POST", &full, &[], &"x".repeat(1000)).await.0, 202);
    for (method, path, headers, body, status, code) in [
        ("GET", "/nowhere".to_owned(), &[][..], "", 404, "not_found"),
        ("PATCH", "/v1/config".to_owned(), &[], "", 405, "method_not_allowed"),
        ("POST", "/v1/connections/nope/messages".to_owned(), &[], "x", 400, "bad_request"),
        ("POST", format!("{push}?wait=forever"), &[], "x", 400, "bad_request"),
        ("POST", format!("{push}?timeout=2h"), &[], "x", 400, "bad_request"),
        ("POST", full.clone(), &[], big.as_str(), 413, "too_large"),
        ("POST", full.clone(), &[], "x", 429, "full"),
        ("POST", format!("/v1/connections/{gone}/messages"), &[], "x", 410, "gone"),
        ("GET", format!("/v1/connections/{gone}"), &[], "", 410, "gone"),
        ("DELETE", format!("/v1/connections/{id}?code=1005"), &[], "", 400, "bad_request"),
        ("DELETE", format!("/v1/connections/{id}?code=abc"), &[], "", 400, "bad_request"),
        ("GET", "/v1/connections?limit=5000".to_owned(), &[], "", 400, "bad_request"),
        ("GET", "/v1/watch?connection=nope".to_owned(), &[], "", 400, "bad_request"),
        ("GET", "/v1/watch?event=".to_owned(), &[], "", 400, "bad_request"),
        ("GET", "/v1/watch?evnt=a".to_owned(), &[], "", 400, "bad_request"),
        ("POST", "/v1/commands".to_owned(), &[], "{}", 400, "bad_request"),
        ("PUT", "/v1/log-level".to_owned(), &[], r#"{"level":"loud"}"#, 400, "bad_request"),
        ("POST", "/v1/config/reload".to_owned(), &[], "", 422, "invalid_configuration"),
        ("GET", "/v1/config".to_owned(), &[("origin", "https://evil.example.com")], "", 403, "forbidden"),
    ] {
        let (found, answer) = server.ask(method, &path, headers, body).await;
        assert_eq!(found.as_u16(), status, "{method} {path}: {answer}");
        assert_eq!(answer["error"]["code"], code, "{method} {path}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    let join = |group: &str| format!("/v1/groups/{group}/members/{id}");
    assert_eq!(server.ask("PUT", &join("a"), &[], "").await.0, 204);
    assert_eq!(server.ask("PUT", &join("b"), &[], "").await.0, 409);
    drop(registration);
    assert_eq!(server.ask("PUT", &join("a"), &[], "").await.0, 410);
}

#[tokio::test]
async fn a_push_that_is_not_written_in_time_is_504_and_one_to_a_connection_that_ends_is_410() {
    let server = Server::start(None).await;
    let (id, registration) = server.connection();
    let path = format!("/v1/connections/{id}/messages?timeout=20ms");
    assert_eq!(server.ask("POST", &path, &[], "x").await.0, 504);
    let path = format!("/v1/connections/{id}/messages?timeout=20s");
    let (answer, ()) = tokio::join!(server.ask("POST", &path, &[], "x"), async {
        let connection = server.deliver.registry().get(&id).expect("known");
        while connection.mailbox.used_bytes() < 100 {
            tokio::task::yield_now().await;
        }
        drop(registration);
    });
    assert_eq!(answer.0, 410);
}

#[tokio::test]
async fn with_a_token_only_probes_pass_without_it() {
    let server = Server::start(Some("secret")).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.ask("GET", path, &[], "").await.0, 200, "{path}");
    }
    for path in ["/metrics", "/v1/config", "/openapi.json", "/nowhere"] {
        assert_eq!(server.ask("GET", path, &[], "").await.0, 401, "{path}");
        assert_eq!(server.ask("GET", path, &[("authorization", "Bearer wrong")], "").await.0, 401, "{path}");
    }
    let bearer = &[("authorization", "Bearer secret"), ("origin", "https://console.example.com")];
    assert_eq!(server.ask("GET", "/v1/config", bearer, "").await.0, 200);
}

#[tokio::test]
async fn a_token_may_do_what_its_scopes_say_and_no_more() {
    let tokens: [(&str, &str, &[Scope]); 4] = [
        ("looker", "r", &[Scope::Read]),
        ("pusher", "p", &[Scope::Push]),
        ("boss", "a", &[Scope::Admin]),
        ("both", "b", &[Scope::Read, Scope::Push]),
    ];
    let server = Server::start_with(&tokens, None, Audit::Changes).await;
    for operation in operations::OPERATIONS.iter().filter(|o| !operations::OPEN_PATHS.contains(&o.path)) {
        let (id, _registration) = server.connection();
        let (path, body) = request_for(operation.path, operation.method, &id);
        let scope = operations::scope_of(&operation.method.to_uppercase().parse().expect("a method"), operation.path);
        for (name, token, scopes) in tokens {
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let (status, answer) = server.ask(operation.method, &path, &headers, body).await;
            let refused = status == 403 && answer["error"]["code"] == "forbidden";
            assert_eq!(refused, !scopes.contains(&scope), "{name}: {} {path}: {status} {answer}", operation.method);
            if refused {
                let says = answer["error"]["message"].as_str().expect("a message");
                assert!(says.contains(name) && says.contains(scope.name()), "{says}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_rate_are_refused_and_probes_are_not() {
    let server = Server::start_with(&[("t", "secret", &Scope::ALL)], Some(5), Audit::Changes).await;
    let bearer = &[("authorization", "Bearer secret")];
    for _ in 0..5 {
        assert_eq!(server.ask("GET", "/v1/config", bearer, "").await.0, 200);
    }
    let (status, answer) = server.ask("GET", "/v1/config", bearer, "").await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (429, &Value::from("rate_limited")));
    assert_eq!(server.ask("GET", "/v1/config", &[("authorization", "Bearer guess")], "").await.0, 429, "guesses count");
    assert_eq!(server.ask("GET", "/healthz", &[], "").await.0, 200);
    // One comes back each fifth of a second.
    tokio::time::advance(std::time::Duration::from_millis(200)).await;
    assert_eq!(server.ask("GET", "/v1/config", bearer, "").await.0, 200);
    assert_eq!(server.ask("GET", "/v1/config", bearer, "").await.0, 429);
}

/// A chunked request is one that the shorter way leaves to the router.
#[tokio::test]
async fn a_push_is_answered_alike_with_and_without_the_router() {
    let server =
        Server::start_with(&[("all", "t", &Scope::ALL), ("looks", "r", &[Scope::Read])], None, Audit::All).await;
    let (id, _registration) = server.connection();
    let (gone, big) = (ConnectionId::random(NodeId::random()), "x".repeat(3000));
    for (id, query, token, body, status) in [
        (&id, "?wait=queued", "t", "{}", 202),
        (&id, "?wait=written&timeout=1ms", "t", "{}", 504),
        (&id, "?wait=never", "t", "{}", 400),
        (&id, "?wait=queued", "t", "\u{fe}", 202),
        (&id, "?wait=queued", "t", big.as_str(), 413),
        (&id, "", "r", "{}", 403),
        (&id, "", "wrong", "{}", 401),
        (&gone, "", "t", "{}", 410),
    ] {
        let (path, token) = (format!("/v1/connections/{id}/messages{query}"), format!("Bearer {token}"));
        let headers = [("authorization", token.as_str()), ("transfer-encoding", "chunked")];
        let direct = server.ask("POST", &path, &headers[..1], body).await;
        let routed = server.ask("POST", &path, &headers, body).await;
        assert_eq!((direct.0.as_u16(), &direct), (status, &routed), "{path}");
    }
}

#[tokio::test]
async fn a_caller_that_does_not_finish_a_head_is_let_go_and_one_that_is_answered_at_length_is_not() {
    let server = Server::start(None).await;
    let mut slow = TcpStream::connect(server.addr).await.expect("connected");
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await.expect("sent");
    let watch = Request::get("/v1/watch").header("host", "localhost").body(Full::<Bytes>::default());
    let stream = TcpStream::connect(server.addr).await.expect("connected");
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    Tasks::new().spawn(connection);
    let mut lines = send.send_request(watch.expect("a request")).await.expect("an answer").into_body();
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let end = tokio::time::timeout(Duration::from_secs(21), slow.read(&mut [0; 100])).await;
    assert_eq!(end.expect("it ends in time").expect("its end"), 0);
    while started.elapsed().as_secs() < 60 {
        lines.frame().await.expect("it goes on").expect("a line");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_holds_up_no_end() {
    let server = Server::start(None).await;
    let mut slow = TcpStream::connect(server.addr).await.expect("connected");
    slow.write_all(b"GET /heal").await.expect("sent");
    // Who came later is answered: what was sent before has been read.
    assert_eq!(server.ask("GET", "/healthz", &[], "").await.0, 200);
    server.stop.send_replace(true);
    tokio::time::pause();
    let end = tokio::time::timeout(Duration::from_secs(21), slow.read(&mut [0; 100])).await;
    assert_eq!(end.expect("it ends in time").expect("its end"), 0);
}

#[test]
fn calls_in_the_documents_are_in_the_table() {
    let (mut found, mut wrong) = (0, Vec::new());
    for page in crate::pages::pages() {
        for (at, _) in page.text.match_indices("/v1/") {
            // In another program's URL, or behind an ellipsis, it is no call.
            let line = page.text[..at].rsplit('\n').next().unwrap_or_default();
            let word = line.rsplit([' ', '`', '(']).next().unwrap_or_default();
            let is_ours = word.is_empty() || word.ends_with(":8001") || word.ends_with("/ws-holdfast-admin:8001");
            let rest = &page.text[at..];
            let end = rest.find(|c: char| c.is_whitespace() || "`?'\"),;…".contains(c)).unwrap_or(rest.len());
            if !is_ours || rest[end..].starts_with('…') {
                continue;
            }
            let path = rest[..end].trim_end_matches(['.', ':']);
            let before = line.trim_end_matches(word).trim_end_matches(['`', ' ']);
            let method =
                before.rsplit([' ', '`']).next().filter(|word| ["GET", "PUT", "POST", "DELETE"].contains(word));
            found += 1;
            let fits = |operation: &&operations::Operation| {
                let mut parts = operation.path.split('/').zip(path.split('/'));
                operation.path.split('/').count() == path.split('/').count()
                    && parts.all(|(known, part)| known == part || known.starts_with('{'))
                    && method.is_none_or(|method| operation.method.eq_ignore_ascii_case(method))
            };
            if !operations::OPERATIONS.iter().any(|operation| fits(&operation)) {
                wrong.push(format!("{}: {} {path}", page.path.display(), method.unwrap_or_default()));
            }
        }
    }
    assert!(wrong.is_empty(), "no such call: {wrong:#?}");
    assert!(found > 25, "found {found} calls");
}

#[tokio::test]
async fn the_console_is_open_strict_and_kept_by_browsers_until_it_changes() {
    let server = Server::start(Some("secret")).await;
    let (head, _) = server.ask_raw("GET", "/", &[], "").await;
    assert_eq!(head.status, 307);
    assert_eq!(head.headers["location"], "console");
    let (head, page) = server.ask_raw("GET", "/console", &[], "").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "text/html; charset=utf-8");
    let page = String::from_utf8(page.to_vec()).expect("text");
    let named: Vec<&str> = page.split('"').filter(|part| part.starts_with("console/")).collect();
    assert_eq!(named, ["console/console.css", "console/console.js"]);
    for path in ["console", "console/console.css", "console/console.js", "console/api.js"] {
        let path = format!("/{path}");
        let (head, body) = server.ask_raw("GET", &path, &[], "").await;
        let header = |name: &str| head.headers[name].to_str().expect("text");
        assert_eq!((head.status.as_u16(), body.is_empty()), (200, false), "{path}");
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(policy.split(';').any(|found| found.trim() == rule), "{policy}");
        }
        assert_eq!((header("x-content-type-options"), header("referrer-policy")), ("nosniff", "no-referrer"));
        assert_eq!(header("cache-control"), "no-cache");
        let tag = header("etag");
        let (again, body) = server.ask_raw("GET", &path, &[("if-none-match", &format!("\"x\", W/{tag}"))], "").await;
        assert_eq!((again.status.as_u16(), body.len()), (304, 0), "{path}");
        assert_eq!(again.headers["etag"], head.headers["etag"]);
        assert_eq!(server.ask_raw("GET", &path, &[("if-none-match", "\"x\"")], "").await.0.status, 200);
    }
    let hidden = Server::start_as(&[], |settings| AdminSettings { console: false, ..settings }).await;
    for path in ["/", "/console", "/console/console.js"] {
        assert_eq!(hidden.ask("GET", path, &[], "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_no_page_but_the_console_may_call() {
    let server = Server::start(None).await;
    for (host, origin, status) in [
        ("127.0.0.1:8001", "http://127.0.0.1:8001", 202),
        ("localhost:8001", "http://localhost:8001", 202),
        ("[::1]:8001", "http://[::1]:8001", 202),
        ("127.0.0.1:8001", "http://127.0.0.1:3000", 403),
        ("127.0.0.1:8001", "http://evil.example", 403),
        ("127.0.0.1:8001", "null", 403),
        // A name that its owner pointed at 127.0.0.1: for the browser it is one origin.
        ("evil.example:8001", "http://evil.example:8001", 403),
    ] {
        let (found, answer) = server.ask("POST", "/v1/drain", &[("host", host), ("origin", origin)], "").await;
        assert_eq!(found.as_u16(), status, "{host} {origin}: {answer}");
    }
    // A page's own GET says no origin.
    assert_eq!(server.ask("GET", "/v1/config", &[("host", "evil.example:8001")], "").await.0, 403);
    assert_eq!(server.ask("GET", "/v1/config", &[("host", "127.0.0.2:8001")], "").await.0, 200);
    assert_eq!(server.ask("GET", "/healthz", &[("host", "evil.example:8001")], "").await.0, 200);
}

#[tokio::test]
async fn connections_are_searched_and_listed_in_pages_the_newest_first() {
    let server = Server::start(None).await;
    let mut kept = Vec::new();
    for user in ["ann", "Ben", "cho", "dora"] {
        kept.push(server.connection_of(user));
    }
    let ids: Vec<String> = kept.iter().rev().map(|(id, _)| id.to_string()).collect();
    assert_eq!(server.ask("PUT", &format!("/v1/groups/room%3A7/members/{}", ids[3]), &[], "").await.0, 204);
    let listed = |path: &str| {
        let (server, path) = (&server, format!("/v1/connections?{path}"));
        async move {
            let (_, answer) = server.ask("GET", &path, &[], "").await;
            let ids = answer["connections"].as_array().expect("a list").iter();
            (answer["total"].as_u64(), ids.map(|c| c["id"].as_str().expect("an ID").to_owned()).collect::<Vec<_>>())
        }
    };
    assert_eq!(listed("").await, (Some(4), ids.clone()));
    assert_eq!(listed("limit=2").await, (Some(4), ids[..2].to_vec()));
    assert_eq!(listed("limit=2&offset=1").await, (Some(4), ids[1..3].to_vec()));
    assert_eq!(listed("offset=3").await, (Some(4), ids[3..].to_vec()));
    assert_eq!(listed("limit=3&offset=9").await, (Some(4), vec![]));
    for (search, found) in [
        ("ben", vec![2]),
        ("OOM%3A7", vec![3]),
        ("127.0.0.1", vec![0, 1, 2, 3]),
        ("%2Fws", vec![0, 1, 2, 3]),
        ("nobody", vec![]),
        ("+", vec![0, 1, 2, 3]),
    ] {
        let found: Vec<String> = found.into_iter().map(|at: usize| ids[at].clone()).collect();
        assert_eq!(listed(&format!("search={search}")).await, (Some(found.len() as u64), found), "{search}");
    }
    assert_eq!(listed(&format!("search={}", &ids[1][12..])).await, (Some(1), vec![ids[1].clone()]));
    assert_eq!(listed("search=127.0.0.1&user=cho").await, (Some(1), vec![ids[1].clone()]));
}
