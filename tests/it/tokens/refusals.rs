//! Tokens that are none, or not good: all refused in the same way, with one line in the log that does not show them.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::harness::issuer::{Issuer, now};
use crate::harness::{Client, Upstream, eventually, yaml};

const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// Bad tokens with the reason that metrics and log give.
async fn bad_tokens(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let claims = json!({"sub": "ann", "iss": "me", "aud": "chat"});
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        issuer.token(&claims)
    };
    let good = issuer.token(&claims);
    let other = Issuer::start().await;
    let hs = |algorithm, secret: &[u8]| {
        encode(&Header::new(algorithm), &with_exp(&claims), &EncodingKey::from_secret(secret)).expect("a token")
    };
    let none = |alg: &str| {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({"alg": alg, "typ": "JWT"})), part(with_exp(&claims)))
    };
    let nested = {
        let header = Header { cty: Some("JWT".into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &json!(good), &EncodingKey::from_secret(b"x")).expect("a token")
    };
    vec![
        ("algorithm", hs(Algorithm::HS256, issuer.public_pem().as_bytes())),
        ("algorithm", hs(Algorithm::HS512, b"")),
        ("algorithm", none("none")),
        ("algorithm", none("NoNe")),
        ("expired", with("exp", json!(now() - 60.0))),
        ("immature", with("nbf", json!(now() + 60.0))),
        ("issuer", with("iss", json!("you"))),
        ("audience", with("aud", json!(["other"]))),
        ("claim", with("exp", json!(null))),
        ("claim", with("sub", json!("x".repeat(300)))),
        ("signature", other.token(&claims)),
        ("signature", good[..good.len() - 8].to_owned()),
        ("malformed", good[..good.len() / 2].replace('.', "")),
        ("malformed", good.rsplit_once('.').expect("three parts").0.to_owned()),
        ("malformed", format!("{good}.{good}")),
        ("malformed", "a".repeat(9000)),
        ("malformed", nested),
        ("malformed", "null".to_owned()),
    ]
}

fn with_exp(claims: &serde_json::Value) -> serde_json::Value {
    let mut claims = claims.clone();
    claims["exp"] = json!(now() + 60.0);
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_is_answered_401_and_logged_in_one_line_without_it() {
    let (app, issuer) = (Upstream::echo().await, Issuer::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = "auth: {algorithms: [ES256], key_file: key.pem, issuer: me, audience: chat, token_from: [header, \"query:t\"]}\n\
                    routes: [{event: \"*\", upstream: app}]";
    let config = folder.path().join("holdfast.yaml");
    std::fs::write(&config, yaml(&app.url(), "", endpoint)).expect("written");
    std::fs::write(folder.path().join("key.pem"), issuer.public_pem()).expect("written");
    let log_path = folder.path().join("log");
    let log = std::fs::File::create(&log_path).expect("a file");
    let mut child = Command::new(BINARY)
        .args(["run", "--config"])
        .arg(&config)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("started");
    let read = || std::fs::read_to_string(&log_path).unwrap_or_default();
    let listen = eventually("the start", || async {
        let text = read();
        let (_, rest) = text.split_once("listen=")?;
        rest.split_whitespace().next().filter(|_| rest.contains('\n')).map(str::to_owned)
    });
    let url = format!("ws://{}/ws", listen.await);
    let bad = bad_tokens(&issuer).await;
    for (reason, token) in &bad {
        let (header, in_query) = (format!("Bearer {token}"), format!("{url}?t={token}"));
        let by_header = Client::connect(&url, &[("authorization", &header)]).await.err().expect(reason);
        let by_query = Client::connect(&in_query, &[]).await.err().expect(reason);
        for refused in [by_header, by_query] {
            assert_eq!(refused.status, 401, "{reason}: {}", refused.body);
            assert_eq!(refused.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
            assert!(!refused.body.contains(token.as_str()), "{}", refused.body);
        }
    }
    let missing = Client::connect(&url, &[]).await.err().expect("refused");
    assert_eq!(
        (missing.status.as_u16(), &missing.headers["www-authenticate"]),
        (401, &"Bearer".parse().expect("a value"))
    );
    let good = format!("Bearer {}", issuer.token(&json!({"sub": "ann", "iss": "me", "aud": "chat"})));
    Client::connect(&url, &[("authorization", &good)]).await.expect("a good one is still taken");

    let lines = || async { (read().matches("token refused").count() == 2 * bad.len() + 1).then(read) };
    let text = eventually("a line for each", lines).await;
    for (reason, token) in &bad {
        assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason} in {text}");
        assert!(!text.contains(&token[..token.len().min(40)]) || token.len() < 10, "{reason} shows its token: {text}");
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}
