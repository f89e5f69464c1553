//! Holds the house rules that a compiler does not: the layers, the sizes of files and functions, the module headers.

#[path = "tidy/links.rs"]
mod links;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first: a module and all that it may use of this crate. Whoever adds an edge adds it here, and to
/// `docs/ARCHITECTURE.md`; no module may use one that stands below it in this list.
const LAYERS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("backoff", &[]),
    ("codes", &[]),
    ("limits", &[]),
    ("message", &["ids", "codes"]),
    ("schema", &["message"]),
    ("routing", &["message"]),
    ("claims", &["routing"]),
    ("revocations", &["claims"]),
    ("session::machine", &["codes", "limits", "message"]),
    ("session::frames", &["codes", "message"]),
    ("mailbox", &["message"]),
    ("connection", &["claims", "ids", "message", "mailbox"]),
    ("registry", &["ids", "connection"]),
    ("tasks", &[]),
    ("drain", &[]),
    ("telemetry", &["tasks"]),
    ("recorder", &["connection", "ids", "mailbox", "message", "routing", "schema", "telemetry"]),
    ("tls", &[]),
    ("amqp", &["backoff", "ids", "tasks", "telemetry"]),
    ("upstream", &["amqp", "backoff", "codes", "ids", "message", "routing", "tasks", "telemetry"]),
    ("tokens", &["backoff", "claims", "message", "tasks", "telemetry", "upstream"]),
    ("snapshot", &["amqp", "claims", "limits", "recorder", "routing", "schema", "telemetry", "tokens", "upstream"]),
    (
        "pipeline",
        &[
            "claims",
            "codes",
            "ids",
            "limits",
            "message",
            "recorder",
            "routing",
            "schema",
            "snapshot",
            "telemetry",
            "tokens",
            "upstream",
        ],
    ),
    (
        "deliver",
        &[
            "claims",
            "codes",
            "connection",
            "ids",
            "mailbox",
            "message",
            "pipeline",
            "recorder",
            "registry",
            "revocations",
            "tasks",
            "telemetry",
            "tokens",
        ],
    ),
    (
        "command",
        &[
            "amqp",
            "claims",
            "codes",
            "connection",
            "deliver",
            "ids",
            "message",
            "registry",
            "revocations",
            "tasks",
            "telemetry",
        ],
    ),
    ("session::deflate", &["message", "session::frames", "snapshot", "telemetry"]),
    (
        "session",
        &[
            "claims",
            "codes",
            "connection",
            "deliver",
            "ids",
            "limits",
            "mailbox",
            "message",
            "pipeline",
            "recorder",
            "session::deflate",
            "session::frames",
            "session::machine",
            "snapshot",
            "telemetry",
        ],
    ),
    (
        "listener",
        &[
            "claims",
            "codes",
            "connection",
            "ids",
            "limits",
            "message",
            "pipeline",
            "session",
            "session::deflate",
            "session::machine",
            "snapshot",
            "tasks",
            "telemetry",
            "tls",
            "tokens",
            "deliver",
        ],
    ),
    (
        "admin",
        &[
            "command",
            "deliver",
            "ids",
            "limits",
            "message",
            "recorder",
            "registry",
            "routing",
            "tasks",
            "telemetry",
            "tls",
        ],
    ),
    (
        "config",
        &[
            "admin",
            "amqp",
            "claims",
            "command",
            "drain",
            "limits",
            "listener",
            "message",
            "recorder",
            "routing",
            "schema",
            "snapshot",
            "telemetry",
            "tls",
            "tokens",
            "upstream",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "amqp",
            "codes",
            "command",
            "config",
            "deliver",
            "drain",
            "ids",
            "limits",
            "listener",
            "mailbox",
            "message",
            "pipeline",
            "registry",
            "session",
            "snapshot",
            "tasks",
            "telemetry",
            "tls",
            "upstream",
        ],
    ),
    ("demo", &["tasks"]),
    ("cli", &["app", "config", "demo", "ids", "tasks", "telemetry", "upstream"]),
];

/// Modules that are pure: they run, and are tested, without a runtime, a socket or a clock.
const PURE: &[&str] = &[
    "ids",
    "backoff",
    "claims",
    "codes",
    "limits",
    "message",
    "revocations",
    "schema",
    "routing",
    "session::deflate",
    "session::frames",
    "session::machine",
    "mailbox",
];
const IMPURE_CRATES: &[&str] =
    &["tokio::", "hyper::", "axum::", "std::net::", "std::fs::", "Instant::now", "SystemTime::now"];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

struct Source {
    path: PathBuf,
    /// The module by its place, for instance `session::machine`.
    module: String,
    text: String,
    /// Without its test module and comments.
    code: String,
}

#[test]
fn modules_use_only_what_their_layer_allows() {
    let order: BTreeMap<&str, usize> = LAYERS.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let mut wrong = Vec::new();
    for (name, allowed) in LAYERS {
        wrong
            .extend(allowed.iter().filter(|used| order[*used] >= order[name]).map(|u| format!("table: {name} -> {u}")));
    }
    for source in sources() {
        let Some(layer) = layer_of(&source.module) else {
            if !matches!(source.module.as_str(), "lib" | "main" | "pages" | "simulation") {
                wrong.push(format!("{}: not in the table of layers", source.path.display()));
            }
            continue;
        };
        let allowed = LAYERS[order[layer]].1;
        for used in uses(&source.code) {
            let used_layer = layer_of(&used).unwrap_or("?");
            if used_layer != layer && !allowed.contains(&used_layer) {
                wrong.push(format!("{}: {layer} must not use {used}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_know_no_runtime_socket_or_clock() {
    let mut wrong = Vec::new();
    for source in sources() {
        if layer_of(&source.module).is_some_and(|layer| PURE.contains(&layer)) {
            let found = IMPURE_CRATES.iter().filter(|name| source.code.contains(**name));
            wrong.extend(found.map(|name| format!("{}: {name}", source.path.display())));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
        if lines > FILE_LINES_MAX && !source.path.ends_with("tests.rs") {
            wrong.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path.display()));
        }
        for (name, lines) in functions(&source.text) {
            if lines > FUNCTION_LINES_MAX {
                wrong.push(format!(
                    "{}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}",
                    source.path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let without: Vec<_> = sources()
        .into_iter()
        .filter(|s| !s.text.starts_with("//! ") && !s.path.ends_with("tests.rs"))
        .map(|s| s.path.display().to_string())
        .collect();
    assert!(without.is_empty(), "no //! line at the top: {without:?}");
    assert!(sources().iter().all(|s| !s.path.ends_with("mod.rs")), "`foo.rs` and `foo/`, no `mod.rs`");
}

#[test]
fn the_architecture_page_names_every_module_and_stays_short() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    assert!(page.lines().count() <= 250, "docs/ARCHITECTURE.md has more than 250 lines");
    for (name, _) in LAYERS {
        let name = name.replace("::", "/");
        assert!(page.contains(&format!("`{name}`")), "docs/ARCHITECTURE.md does not name `{name}`");
    }
}

#[test]
fn the_tests_that_the_security_page_names_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let mut code = Vec::new();
    files(&root().join("src"), &mut code);
    files(&root().join("tests"), &mut code);
    let code: String = code.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let named: Vec<&str> =
        page.split('`').skip(1).step_by(2).filter(|text| text.contains("::") && !text.contains(' ')).collect();
    let tests = named.iter().filter(|name| !name.starts_with("holdfast::"));
    let missing: Vec<_> = tests
        .filter(|name| !name.rsplit("::").next().is_some_and(|test| code.contains(&format!("fn {test}("))))
        .collect();
    assert!(missing.is_empty(), "docs/security.md names tests that are not there: {missing:#?}");
    assert!(named.len() > 40, "found {} tests named", named.len());
}

#[test]
fn what_the_guides_show_is_taken_from_the_examples() {
    let mut examples = Vec::new();
    files(&root().join("examples"), &mut examples);
    let texts: Vec<String> = examples.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    for guide in ["express", "fastapi", "rabbitmq-workers"] {
        let page = fs::read_to_string(root().join(format!("docs/guides/{guide}.md"))).expect("the guide");
        let blocks: Vec<&str> = page.split("```").skip(1).step_by(2).collect();
        assert!(blocks.len() > 5, "docs/guides/{guide}.md has {} blocks", blocks.len());
        for block in blocks {
            let shown = block.split_once('\n').map_or(block, |(_, text)| text);
            assert!(
                texts.iter().any(|text| text.contains(shown)),
                "docs/guides/{guide}.md shows what no example has:\n{shown}"
            );
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "found only {} files", found.len());
    found
}

/// Every file under a folder, but for what packages installed.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        match entry.is_dir() {
            true if entry.ends_with("node_modules") => {}
            true => files(&entry, found),
            false => found.push(entry),
        }
    }
}

fn collect(dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&entry).expect("UTF-8");
            let place = entry.strip_prefix(root().join("src")).expect("under src").with_extension("");
            let module = place.to_string_lossy().replace('/', "::");
            // What is compiled for tests only may use whatever it tests.
            let is_test = entry.ends_with("tests.rs") || matches!(module.as_str(), "pages" | "simulation");
            let code = if is_test { String::new() } else { strip(&text) };
            let path = entry.strip_prefix(root()).expect("under the root").to_owned();
            found.push(Source { path, module, text, code });
        }
    }
}

/// Drops comments and everything from the test module on; a file of tests has no code.
fn strip(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

/// The layer that a module belongs to: the longest entry of the table that it starts with.
fn layer_of(module: &str) -> Option<&'static str> {
    let fits = |name: &&str| module == *name || module.strip_prefix(*name).is_some_and(|rest| rest.starts_with("::"));
    LAYERS.iter().map(|(name, _)| *name).filter(fits).max_by_key(|name| name.len())
}

/// Every `crate::…` path in the code; `use crate::{…}` would hide its names from this, so it is refused.
fn uses(code: &str) -> Vec<String> {
    assert!(!code.contains("crate::{"), "write `use crate::a;` and `use crate::b;`, not `use crate::{{a, b}}`");
    code.match_indices("crate::")
        .map(|(at, found)| {
            let path = &code[at + found.len()..];
            let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
            path[..end].trim_end_matches(':').to_owned()
        })
        .collect()
}

/// Functions with their lengths: rustfmt puts a function's last brace at the indentation of its first line.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = line.trim_start().split("fn ").collect::<Vec<_>>();
        let is_head = words.len() > 1
            && words[0].split_whitespace().all(|w| w.starts_with("pub") || w == "async" || w == "const");
        if !is_head || line.trim_end().ends_with('}') || line.trim_end().ends_with(';') {
            continue;
        }
        let end = lines[at..].iter().position(|l| *l == format!("{}}}", " ".repeat(indent)));
        let name = words[1].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        found.push((name.to_owned(), end.map_or(0, |end| end + 1)));
    }
    found
}
