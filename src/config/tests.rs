use proptest::prelude::*;

use super::*;

fn load_str(text: &str) -> Result<Loaded, Problems> {
    let environment = |name: &str| match name {
        "PORT" => Some("9000".to_owned()),
        "EMPTY" => Some(String::new()),
        "TOKEN" => Some("hunter2-hunter2".to_owned()),
        _ => None,
    };
    load_text("h.yaml", text, Path::new(env!("CARGO_MANIFEST_DIR")), &environment)
}

fn lines(text: &str) -> Vec<String> {
    load_str(text).err().map(|problems| problems.lines()).unwrap_or_default()
}

const MINIMAL: &str = "\
upstreams:
  app: {http: {url: \"http://127.0.0.1:3000/events\"}}
endpoints:
  - path: /ws
    routes: [{event: \"*\", upstream: app}]
";

/// MINIMAL with one text replaced by another.
fn with(old: &str, new: &str) -> String {
    assert!(MINIMAL.contains(old));
    MINIMAL.replace(old, new)
}

#[test]
fn defaults_hold_where_nothing_is_said() {
    let loaded = load_str(MINIMAL).unwrap_or_else(|problems| panic!("{problems}"));
    let endpoint = &loaded.draft.endpoints[0];
    assert_eq!(loaded.fixed.listener.listen.port(), 8000);
    assert_eq!(loaded.fixed.admin.listen.to_string(), "127.0.0.1:8001");
    assert_eq!(endpoint.limits.send_buffer, 1024 * 1024);
    assert_eq!(endpoint.heartbeat.misses, 2);
    assert_eq!(endpoint.routes[0].in_flight, 1);
}

#[test]
fn five_mistakes_are_five_problems_with_their_places() {
    let text = "\
listn: 0.0.0.0:8000
upstreams:
  app: {http: {url: \"http://127.0.0.1:3000/events\", timeout: 5 parsecs}}
endpoints:
  - path: /ws
    heartbeat: {misses: many}
    routes:
      - {event: \"chat.*\", upstream: ap}
      - {event: \"order\", schema: schemas/nowhere.json, upstream: app}
";
    let lines = lines(text);
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert_eq!(lines[0], "h.yaml:1:1: listn: unknown key; did you mean `listen`?");
    for (line, start, says) in [
        (1, "h.yaml:3:62: upstreams.app.http.timeout: expected a duration", "found \"5 parsecs\""),
        (2, "h.yaml:6:25: endpoints[0].heartbeat.misses: expected a whole number of 1 to 100", "found \"many\""),
        (3, "h.yaml:8:37: endpoints[0].routes[0].upstream: no upstream is called \"ap\"", "did you mean `app`?"),
        (4, "h.yaml:9:34: endpoints[0].routes[1].schema: cannot read", "relative to the configuration file"),
    ] {
        assert!(lines[line].starts_with(start) && lines[line].contains(says), "{}", lines[line]);
    }
}

#[test]
fn a_map_that_cannot_be_read_is_one_problem_with_its_place() {
    for key in ["admin", "drain", "log", "handshake", "tracing"] {
        let lines = lines(&format!("{key}: nonsense\n{MINIMAL}"));
        assert_eq!(lines, [format!("h.yaml:1:{}: {key}: expected a map, found a text", key.len() + 3)]);
    }
}

#[test]
fn every_kind_of_problem_is_named() {
    for (old, new, says) in [
        ("path: /ws", "path: ws", "expected a URL path such as `/ws`"),
        ("path: /ws", "event: type\n    path: /ws", "expected a JSON Pointer that starts with '/'"),
        ("path: /ws", "connect: ap\n    path: /ws", "did you mean `app`?"),
        ("path: /ws", "origins: [app.example.com]\n    path: /ws", "expected a scheme and a host"),
        ("path: /ws", "limits: {send_buffer: 1B}\n    path: /ws", "expected 1.0 KiB to 1.0 GiB"),
        (
            "path: /ws",
            "limits: {bytes_per_second: 1KiB, bytes_burst: 1KiB}\n    path: /ws",
            "limits.bytes_burst: smaller than `message_size`: a message of 131072 bytes could not pass at 1024; raise it",
        ),
        (
            "path: /ws",
            "limits: {per_user: {messages_burst: 5}}\n    path: /ws",
            "per_user.messages_burst: a burst without a rate; expected `messages_per_second` beside it",
        ),
        ("path: /ws", "limits: {json_depth: 128}\n    path: /ws", "expected a whole number of 1 to 127"),
        ("path: /ws", "limits: [1]\n    path: /ws", "expected a map, found a list"),
        ("path: /ws", "validate: maybe\n    path: /ws", "expected enforce or report, found \"maybe\""),
        ("  - path: /ws\n", "  -\n", "endpoints[0].path: missing"),
        ("upstreams:", "admin: {listen: \"0.0.0.0:1\"}\nupstreams:", "not on loopback, and there is no token"),
        ("upstreams:", "drain: {window: 10s, deadline: 5s}\nupstreams:", "not longer than the window"),
        ("upstreams:", "log: {level: loud}\nupstreams:", "expected error, warn, info"),
        ("upstreams:", "listen: nowhere\nupstreams:", "expected an address and port"),
        ("upstreams:", "listen: \"${NOPE}\"\nupstreams:", "\"NOPE\" is not set; set it, or give a default"),
        ("upstreams:", "listen: \"${PORT\"\nupstreams:", "`${` without `}`"),
        ("upstreams:", "rabbitmq: {url: x}\nupstreams:", "rabbitmq.url: not an AMQP URL"),
        ("upstreams:", "rabbitmq: {url: []}\nupstreams:", "expected at least one URL"),
        ("upstreams:", "cluster: {}\nupstreams:", "a cluster is not part of this version"),
        ("upstreams:", "tracing: {}\nupstreams:", "tracing.otlp: missing"),
        ("  app: {http", "  A b: {http: {url: \"http://x/\"}}\n  app: {http", "expected a name of `[a-z0-9_-]`"),
        (
            "{http: {url: \"http://127.0.0.1:3000/events\"}}",
            "{amqp: {exchange: x, routing_key: y}}",
            "there is no broker in this file; add `rabbitmq:",
        ),
        ("{http: {url: \"http://127.0.0.1:3000/events\"}}", "{}", "expected what kind of upstream it is"),
        ("http://127.0.0.1:3000/events", "ftp://x", "expected an `http:` or `https:` URL"),
        ("events\"}}", "events\", signing_secret: whsec_x}}", "expected `whsec_` and at least 24 bytes"),
        ("events\"}}", "events\", headers: {\"a b\": c}}}", "is not a header's name"),
        ("event: \"*\"", "event: \"\"", "found an empty string"),
        ("[{event: \"*\"", "[{event: a*, upstream: app}, {event: ab, upstream: app}, {event: \"*\"", "never reached"),
        ("event: \"*\"", "event: \"*\", batch: {wait: 1ms}", "routes[0].batch.max: missing"),
        ("event: \"*\"", "event: $binary, schema: schemas/chat.json", "binary frames have no JSON Schema"),
        (
            "  - path: /ws\n",
            "  - {path: /ws, routes: [{event: \"*\", upstream: app}]}\n  - path: /ws\n",
            "path \"/ws\" already",
        ),
    ] {
        let lines = lines(&with(old, new));
        assert_eq!(lines.len(), 1, "{new}: {lines:#?}");
        assert!(lines[0].contains(says), "{new}: {}", lines[0]);
        assert!(lines[0].starts_with("h.yaml:"), "{}", lines[0]);
    }
}

#[test]
fn variables_are_replaced_in_values() {
    let text = with("upstreams:", "listen: \"127.0.0.1:${PORT}\"\nlimits: {connections: \"${PORT}\"}\nupstreams:")
        .replace("event: \"*\"", "event: \"${NOPE:-x}$${y}${EMPTY:-z}\"");
    let loaded = load_str(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.fixed.listener.listen.port(), 9000);
    assert_eq!(loaded.draft.limits.connections, 9000);
    assert_eq!(loaded.draft.endpoints[0].routes[0].event.as_str(), "x${y}z");
}

#[test]
fn a_secret_is_never_shown() {
    let text = with("upstreams:", "admin: {token: \"${TOKEN}\"}\nupstreams:")
        .replace("events\"", "events\", signing_secret: whsec_hunter2, headers: {authorization: \"hunter2\\u0001\"}");
    let problems = load_str(&text).err().expect("two problems");
    assert_eq!(problems.lines().len(), 2, "{problems}");
    assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    let loaded =
        load_str(&with("upstreams:", "admin: {token: \"${TOKEN}\"}\nupstreams:")).unwrap_or_else(|p| panic!("{p}"));
    assert!(!format!("{:?} {:?}", loaded.fixed, loaded.draft.upstreams).contains("hunter2"));
}

#[test]
fn the_hash_follows_text_files_and_variables() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.json");
    let text = MINIMAL.replace("event: \"*\"", "event: \"${X}\", schema: a.json");
    let hash = |value: &'static str| {
        let environment = move |_: &str| Some(value.to_owned());
        load_text("h.yaml", &text, dir.path(), &environment).unwrap_or_else(|p| panic!("{p}")).draft.hash
    };
    std::fs::write(&file, "{}").expect("written");
    let first = hash("a");
    assert_eq!(first, hash("a"));
    assert_ne!(first, hash("b"));
    std::fs::write(&file, "{ }").expect("written");
    assert_ne!(first, hash("a"));
}

#[test]
fn a_schema_reaches_its_own_folder_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    std::fs::create_dir(dir.path().join("s")).expect("a folder");
    write("outside.json", "{}");
    write("s/b.json", r#"{"type":"string"}"#);
    let load = |schema: &str| {
        write("s/a.json", schema);
        let text = MINIMAL.replace("event: \"*\"", "event: \"*\", schema: s/a.json");
        load_text("h.yaml", &text, dir.path(), &|_| None)
    };
    let loaded = load(r#"{"$ref":"b.json"}"#).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(loaded.files.len(), 2);
    for (schema, says) in [
        (r#"{"$ref":"../outside.json"}"#, "not under the schema's own folder"),
        (r#"{"$ref":"https://example.com/a.json"}"#, "https://example.com/a.json"),
        ("{\n  nope", "a.json:2:3: not JSON"),
        (r#"{"type":"strin"}"#, "s/a.json at /type"),
    ] {
        let problems = load(schema).err().expect("refused").to_string();
        assert!(problems.contains(says) && problems.starts_with("h.yaml:5:"), "{problems}");
    }
}

#[test]
fn every_kind_of_problem_with_rabbitmq_is_named() {
    let broker =
        "rabbitmq: {url: \"amqp://u:hunter2-hunter2@h\"}\nupstreams:\n  q: {amqp: {exchange: x, routing_key: y}}";
    let good = with("upstreams:", broker);
    assert_eq!(lines(&good), Vec::<String>::new());
    for (old, new, says) in [
        ("url: \"amqp://u:hunter2-hunter2@h\"", "url: \"http://u:hunter2-hunter2@h\"", "not an AMQP URL"),
        ("@h\"", "@h\", commands_gone: dead_letter, dead_letter_queue: \"\"", "there is no dead-letter queue"),
        ("@h\"", "@h\", backoff_min: 1m", "longer than `backoff_max`"),
        ("@h\"", "@h\", ca_file: nowhere.pem", "cannot read"),
        ("routing_key: y", "routing_key: \"{evnt}\"", "found \"evnt\"; write for instance"),
        ("routing_key: y", "routing_key: \"{event\"", "expected '}' after '{'"),
        ("routing_key: y", "routing_key: y, declare: maybe", "expected true or passive or false"),
        ("routing_key: y", "routing_key: y, queues: {a: {type: lazy}}", "expected quorum or classic"),
        (", routing_key: y", "", "upstreams.q.amqp.routing_key: missing"),
        ("exchange: x", "exchange: \"{event}\"", "clients could make any number; write `declare: passive`"),
        ("url: \"amqp://u:hunter2-hunter2@h\"", "url: \"u:hunter2-hunter2@h/vh\"", "not an AMQP URL"),
        ("url: \"amqp://u:hunter2-hunter2@h\"", "url: \"amqp:u:hunter2-hunter2@h\"", "not an AMQP URL"),
        ("q: {amqp", "q: {http: {url: \"http://h/\"}, amqp", "not both"),
        (
            "path: /ws",
            "connect: q\n    path: /ws",
            "it answers nothing; write `connect: {upstream: q, accept_on: confirm}`",
        ),
        (
            "upstream: app",
            "upstream: q, batch: {max: 10}",
            "routes[0].batch: \"q\" is an exchange: batches are for HTTP handlers; remove it",
        ),
        ("path: /ws", "connect: {upstream: app, accept_on: confirm}\n    path: /ws", "confirms nothing; leave"),
        (
            "path: /ws",
            "connect: {upstream: q, accept: confirm}\n    path: /ws",
            "connect.accept: unknown key; did you mean",
        ),
    ] {
        assert!(good.contains(old), "{old}");
        let lines = lines(&good.replacen(old, new, 1));
        // A key that is not known leaves the known one at its default, which may be a problem of its own.
        assert!(lines.iter().any(|line| line.contains(says)), "{new}: {lines:#?}");
        assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:#?}");
    }
}

#[test]
fn every_kind_of_problem_with_tokens_is_named() {
    let auth = "path: /ws\n    auth: {algorithms: [RS256], jwks: \"http://id/jwks\"}\n    \
                groups: [{group: \"room:*\", require: {rooms: \"{*}\"}}]";
    let good = with("path: /ws", auth);
    assert_eq!(lines(&good), Vec::<String>::new());
    let secret = "secret: hunter2-hunter2-hunter2-hunter2-hunter2";
    for (old, new, says) in [
        ("algorithms: [RS256]", "algorithms: []", "expected at least one algorithm"),
        ("algorithms: [RS256]", "algorithms: [none]", "expected HS256 or HS384"),
        (", jwks: \"http://id/jwks\"", "", "expected one of `secret`, `secret_file`, `key_file` and `jwks`"),
        ("jwks: ", &format!("{secret}, jwks: "), "expected one of `secret`, `secret_file`, `key_file` and `jwks`"),
        ("jwks: \"http://id/jwks\"", secret, "a secret is for HS256, HS384 and HS512 only"),
        ("jwks: \"http://id/jwks\"", "secret: short", "at least 32 bytes, found 5"),
        ("jwks: \"http://id/jwks\"", "key_file: nowhere.pem", "cannot read"),
        ("http://id/jwks", "id/jwks", "expected an `http:` or `https:` URL"),
        ("jwks: \"http://id/jwks\"", "jwks: {url: \"https://id/\", ca_file: no.pem}", "cannot read"),
        ("[RS256]", "[RS256], token_from: [headers]", "\"headers\" is no place where a token may be; write `header`"),
        ("[RS256]", "[RS256], token_from: [\"query:\"]", "is no place where a token may be"),
        ("[RS256]", "[RS256], token_from: []", "expected at least one place"),
        ("[RS256]", "[RS256], token_from: [message], optional: true", "cannot be told from who will send it"),
        ("[RS256]", "[RS256], user: /a~2", "expected '~0' or '~1'"),
        ("[RS256]", "[RS256], user: \"\"", "expected a claim's name, found none"),
        ("[RS256]", "[RS256], refresh_event: \"\"", "expected an event name"),
        ("group: \"room:*\"", "group: \"*:*\"", "nothing for {*} to stand for; it needs a `group` with one `*`"),
        ("{rooms: \"{*}\"}", "{}", "expected at least one claim"),
        ("{rooms: \"{*}\"}", "{rooms: []}", "expected at least one value"),
        ("event: \"*\"", "event: \"*\", require: {a: \"{*}\"}", "nothing for {*} to stand for"),
        ("event: \"*\"", "event: \"*\", join: \"a:{room}\"", "write for instance `room:{/room}`"),
    ] {
        assert!(good.contains(old), "{old}");
        let lines = lines(&good.replacen(old, new, 1));
        assert!(lines.iter().any(|line| line.contains(says)), "{new}: {lines:#?}");
        assert!(lines.iter().all(|line| !line.contains("hunter2")), "{lines:#?}");
    }
    let nobody = with("event: \"*\"", "event: \"*\", require: {scope: x}");
    assert!(lines(&nobody)[0].contains("the endpoint takes no tokens; add `auth`"), "{:?}", lines(&nobody));
}

#[test]
fn tls_and_proxies_are_checked_with_their_files() {
    let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate");
    let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let dir = tempfile::tempdir().expect("a temp folder");
    for (name, text) in [("a.pem", made.cert.pem()), ("a.key", made.signing_key.serialize_pem()), ("b.key", other)] {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    let problems = |head: &str| {
        let text = with("upstreams:", &format!("{head}\nupstreams:"));
        let loaded = load_text("h.yaml", &text, dir.path(), &|_| None);
        loaded.err().map(|problems| problems.lines()).unwrap_or_default()
    };
    let pair = "certificates: [{cert_file: a.pem, key_file: a.key}]";
    assert_eq!(
        problems(&format!("tls: {{{pair}}}\nproxies: {{trusted: [10.0.0.0/8, \"::1\"]}}")),
        Vec::<String>::new()
    );
    for (head, says) in [
        ("tls: {}".to_owned(), "tls.certificates: missing"),
        ("tls: {certificates: []}".to_owned(), "expected at least one certificate"),
        ("tls: {certificates: [{cert_file: a.pem, key_file: b.key}]}".to_owned(), "[0]: the key does not belong"),
        ("tls: {certificates: [{cert_file: a.key, key_file: a.key}]}".to_owned(), "expected a certificate, found none"),
        ("tls: {certificates: [{cert_file: a.pem, key_file: no.key}]}".to_owned(), "key_file: cannot read"),
        (format!("tls: {{{pair}, client_ca_file: a.key}}"), "client_ca_file: expected at least one certificate"),
        (format!("tls: {{{pair}, version_min: \"1.1\"}}"), "expected 1.2 or 1.3"),
        ("proxies: {}".to_owned(), "proxies.trusted: missing"),
        ("proxies: {trusted: [10.0.0.0/33]}".to_owned(), "expected an address or a network"),
        ("admin: {tokens: {a: {scopes: [read]}}}".to_owned(), "expected one of `token` and `token_file`"),
        ("admin: {tokens: {a: {token: x, token_file: a.key, scopes: [read]}}}".to_owned(), "expected one of"),
        ("admin: {tokens: {a: {token: x, scopes: []}}}".to_owned(), "expected at least one of read, push and admin"),
        ("admin: {tokens: {a: {token: x, scopes: [write]}}}".to_owned(), "expected read or push or admin"),
        ("admin: {tokens: {a: {token_file: no.token, scopes: [read]}}}".to_owned(), "cannot read"),
        (format!("admin: {{listen: \"0.0.0.0:1\", tls: {{{pair}}}}}"), "ask for client certificates by `admin.tls`"),
    ] {
        let lines = problems(&head);
        assert!(lines.len() == 1 && lines[0].contains(says), "{head}: {lines:#?}");
    }
    assert!(problems(&format!("admin: {{listen: \"0.0.0.0:1\", tls: {{{pair}, client_ca_file: a.pem}}}}")).is_empty());
}

#[test]
fn connect_is_a_name_or_a_map_and_a_broker_is_restart_only() {
    let loaded = |text: &str| load_str(text).unwrap_or_else(|problems| panic!("{problems}"));
    for connect in ["connect: app", "connect: {upstream: app}", "connect: {upstream: app, accept_on: answer}"] {
        let loaded = loaded(&with("path: /ws", &format!("{connect}\n    path: /ws")));
        assert_eq!(loaded.draft.endpoints[0].connect.as_deref(), Some("app"), "{connect}");
    }
    let broker = |url: &str| loaded(&with("upstreams:", &format!("rabbitmq: {{url: \"{url}\"}}\nupstreams:")));
    let (old, new) = (broker("amqp://h/%2f"), broker("amqp://i/%2f"));
    assert_eq!(restart_only(&old, &new), ["rabbitmq.url"]);
    assert!(restart_only(&old, &old).is_empty());
    let long = |key: &str, len: usize| {
        let text = format!("rabbitmq: {{url: \"amqp://h\", {key}: {}}}\nupstreams:", "q".repeat(len));
        lines(&with("upstreams:", &text)).len()
    };
    assert_eq!((long("commands_queue", 249), long("commands_queue", 250)), (0, 1), "with `.nodes` behind it");
    assert_eq!((long("dead_letter_queue", 255), long("dead_letter_queue", 256)), (0, 1));
    let vhost = format!("rabbitmq: {{url: \"amqp://h/{}\"}}\nupstreams:", "v".repeat(256));
    assert!(lines(&with("upstreams:", &vhost))[0].contains("at most 255 bytes"));
    let settings = old.fixed.rabbitmq.expect("a broker");
    assert_eq!(settings.commands.queue.as_deref(), Some("holdfast.commands"));
    assert_eq!(settings.commands.dead_letter_queue.as_deref(), Some("holdfast.commands.dead"));
}

fn restart_only(old: &Loaded, new: &Loaded) -> Vec<String> {
    diff(&old.outline, &new.outline).into_iter().filter(|change| change.restart).map(|change| change.path).collect()
}

#[test]
fn restart_only_changes_are_named() {
    let loaded = |text: &str| load_str(text).unwrap_or_else(|p| panic!("{p}"));
    let old = loaded(MINIMAL);
    assert!(restart_only(&old, &old).is_empty());
    let hot = "drain: {window: 1s}\nlimits: {connections: 5}\nlog: {level: debug}\nupstreams:";
    assert!(restart_only(&old, &loaded(&with("upstreams:", hot))).is_empty());
    let cold =
        "listen: 127.0.0.1:1\nadmin: {token: abc}\nhandshake: {timeout: 1s}\nproxies: {trusted: [\"::1\"]}\nupstreams:";
    let changes = restart_only(&old, &loaded(&with("upstreams:", cold)));
    assert_eq!(changes, ["handshake.timeout", "listen", "proxies"]);
}

#[test]
fn the_examples_are_accepted_and_fit_the_printed_schema() {
    let schema = jsonschema::validator_for(&json_schema()).expect("a schema");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for entry in std::fs::read_dir(root.join("config")).expect("config/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "yaml") {
            load(&path).unwrap_or_else(|problems| panic!("{problems}"));
            let text = std::fs::read_to_string(&path).expect("text");
            let value: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
            let errors: Vec<_> = schema.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
            found += 1;
        }
    }
    assert!(found >= 4, "found {found} examples");
}

#[test]
fn configurations_in_the_docs_are_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for page in crate::pages::pages() {
        for block in page.blocks("yaml") {
            // The chart's values are checked with the chart.
            if block.contains("endpoints:") && !block.starts_with("# values.yaml") {
                load_text("docs", &block, root, &|_| None)
                    .unwrap_or_else(|p| panic!("{}: {p}\n{block}", page.path.display()));
                found += 1;
            }
        }
    }
    assert!(found > 5, "found {found} configurations in the docs");
}

#[test]
fn the_reference_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let made = reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "docs/configuration.md is old: UPDATE_DOCS=1 cargo test --lib config");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z:{}\\[\\]\\-\\n \"$]{0,80}") {
        let _ = load_str(&text);
    }

    #[test]
    fn no_value_makes_it_panic(value in "\\PC{0,40}") {
        let quoted = serde_json::to_string(&value).expect("JSON");
        let _ = load_str(&with("path: /ws", &format!("path: {quoted}\n    event: {quoted}")));
    }
}
