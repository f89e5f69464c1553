//! Schemas that would hurt, and that `holdfast check` therefore refuses in clear words.

use std::process::Command;

use crate::harness::{BINARY, yaml};

/// What `holdfast check` says of a configuration with this schema.
fn check(schema: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let route = "routes: [{event: \"*\", schema: schema.json, upstream: app}]";
    std::fs::write(dir.path().join("holdfast.yaml"), yaml("http://127.0.0.1:1/", "", route)).expect("written");
    std::fs::write(dir.path().join("schema.json"), schema).expect("written");
    let output = Command::new(BINARY).arg("check").arg(dir.path().join("holdfast.yaml")).output().expect("run");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_pattern_that_is_not_linear_is_refused_and_why() {
    for pattern in [r"^(?=.*[0-9]).+$", r"(?!x)y", r"(?<=a)b", r"(?<!a)b", r"^(a+)\\1$", r"(?<n>a)\\k<n>"] {
        for schema in [
            format!(r#"{{"properties": {{"a": {{"pattern": "{pattern}"}}}}}}"#),
            format!(r#"{{"patternProperties": {{"{pattern}": {{}}}}}}"#),
        ] {
            let (code, words) = check(&schema);
            assert_eq!(code, Some(78), "{schema}: {words}");
            assert!(words.contains("schema.json") && words.contains("linear time"), "{schema}: {words}");
            assert!(words.contains("look-around and back-references are not available"), "{schema}: {words}");
        }
    }
    // Linear in the text, but not in what it would take to prepare.
    let (code, words) = check(r#"{"pattern": "((a{1,1000}){1,1000}){1,1000}"}"#);
    assert_eq!(code, Some(78), "{words}");
    assert!(words.contains("schema.json"), "{words}");
    assert_eq!(check(r#"{"pattern": "^(a+)+$"}"#).0, Some(0), "this one is linear here");
}

#[test]
fn a_reference_into_the_network_is_refused_and_nobody_is_called() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let addr = listener.local_addr().expect("an address");
    for reference in [format!("http://{addr}/x.json"), format!("https://{addr}/x.json"), "file:///etc/passwd".into()] {
        for schema in [
            format!(r#"{{"$ref": "{reference}"}}"#),
            format!(r#"{{"$schema": "{reference}"}}"#),
            format!(r#"{{"$id": "http://{addr}/", "$ref": "x.json"}}"#),
        ] {
            let (code, words) = check(&schema);
            assert_eq!(code, Some(78), "{schema}: {words}");
        }
    }
    // The process is gone: whatever it opened would be in the backlog.
    assert!(listener.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}
