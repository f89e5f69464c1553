//! Tokens of the admin listener that rotate while sockets live.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::Method;

use crate::harness::{Holdfast, Upstream, eventually, request, yaml};

/// The program, killed at the end of the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_file_rotates_and_nobody_is_cut_off() {
    let app = Upstream::echo().await;
    let admin = "admin: {listen: \"127.0.0.1:0\", tokens: {ops: {token_file: ops.token, scopes: [read, admin]}}}";
    let text = yaml(&app.url(), "", "routes: [{event: \"*\", upstream: app}]");
    let text = text.replace("admin: {listen: \"127.0.0.1:0\"}", admin);
    let holdfast = Holdfast::start_yaml(&text, &[("ops.token", "first-token\n")]).await;
    let holdfast = &holdfast;
    let status = |token: &'static str| async move {
        let bearer = format!("Bearer {token}");
        holdfast.call_raw(Method::GET, "/v1/config", &[("authorization", &bearer)], "").await.0.as_u16()
    };
    let mut client = holdfast.connect().await;
    assert_eq!((status("first-token").await, status("second-token").await), (200, 401));
    std::fs::write(holdfast.config_path().with_file_name("ops.token"), "second-token\n").expect("written");
    eventually("the new token", || async { (status("second-token").await == 200).then_some(()) }).await;
    assert_eq!(status("first-token").await, 401);
    client.send(r#"{"type":"a"}"#).await;
    client.text().await;
    // An empty file would leave no token: it is refused, and the last one stays.
    std::fs::write(holdfast.config_path().with_file_name("ops.token"), "").expect("written");
    let bearer = [("authorization", "Bearer second-token")];
    let (refused, _, body) = holdfast.call_raw(Method::POST, "/v1/config/reload", &bearer, "").await;
    assert_eq!(refused, 422);
    assert!(String::from_utf8_lossy(&body).contains("admin.tokens.ops: the token is empty"), "{body:?}");
    assert_eq!(status("second-token").await, 200);
    let (_, headers, _) =
        holdfast.call_raw(Method::OPTIONS, "/v1/config", &[("origin", "https://evil.example")], "").await;
    assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control")), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_calls_are_in_the_audit_log_without_their_token() {
    for (audit, lines) in [("changes", 4), ("all", 5)] {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = |name: &str| dir.path().join(name);
        let admin = format!(
            "admin: {{listen: \"127.0.0.1:0\", audit: {audit}, tokens: {{ci: {{token: s3cret-s3cret, scopes: [read, push]}}}}}}"
        );
        let text = yaml("http://127.0.0.1:1/", "", "routes: [{event: \"*\", upstream: app}]");
        let text = text.replace("admin: {listen: \"127.0.0.1:0\"}", &admin);
        std::fs::write(path("holdfast.yaml"), text).expect("written");
        let log = std::fs::File::create(path("log")).expect("a file");
        let program = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["run", "--config"])
            .arg(path("holdfast.yaml"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let _program = Program(program.expect("started"));
        let read = || std::fs::read_to_string(path("log")).unwrap_or_default();
        let ready = || async {
            let text = read();
            let at = text.find("admin=")?;
            text[at + 6..].split_whitespace().next()?.parse::<SocketAddr>().ok()
        };
        let addr = eventually("ready", ready).await;
        let call = |method: Method, path: &'static str, token: &'static str| async move {
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            request(addr, method, path, &headers, Bytes::from_static(b"{}")).await.0
        };
        let token = "s3cret-s3cret";
        call(Method::GET, "/v1/config", token).await;
        call(Method::GET, "/v1/watch", token).await;
        call(Method::POST, "/v1/broadcast", token).await;
        call(Method::PUT, "/v1/groups/g/members/abcdefgh-abcdefghijkmnopqrstu", token).await;
        call(Method::POST, "/v1/drain", token).await;
        call(Method::POST, "/v1/drain", "guessed-guessed").await;
        let audited = || async {
            let text = read();
            let audited: Vec<String> =
                text.lines().filter(|l| l.contains("holdfast::audit")).map(str::to_owned).collect();
            (audited.len() >= lines).then_some(audited)
        };
        let audited = eventually("the audit log", audited).await;
        assert_eq!(audited.len(), lines, "{audited:#?}");
        let text = read();
        assert!(!text.contains("s3cret") && !text.contains("guessed"), "{text}");
        let join = audited.iter().find(|line| line.contains("/members/")).expect("the join");
        assert!(join.contains("token=\"ci\"") && join.contains("status=410") && join.contains("127.0.0.1:"), "{join}");
        assert!(audited[0].contains("/v1/watch") && audited[0].contains("status=403"), "{audited:#?}");
        assert!(audited[lines - 2].contains("status=403") && audited[lines - 1].contains("status=401"), "{audited:#?}");
    }
}
