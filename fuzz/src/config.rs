//! Configuration text. Input: a text with variables in its first line, then a configuration file. A file loads, or every problem has
//! its place in the text; secrets are never repeated.

use std::path::Path;

use holdfast::config::keys::{Key, ROOT, Shape};
use holdfast::config::{Problem, load_text};
use holdfast::upstream::Settings;
use secrecy::ExposeSecret as _;

use super::check;

const SECRET: &str = "hunter2-hunter2-hunter2";
/// Nothing is there: what a file names is not found, and no file of this machine counts.
const FOLDER: &str = "/nonexistent/holdfast";

pub fn run(data: &[u8]) {
    let mut rest = data;
    let first = check::line(&mut rest);
    if first.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        replaced(&String::from_utf8_lossy(first));
    }
    if let Ok(text) = std::str::from_utf8(rest) {
        loaded(text);
    }
}

fn environment(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("9000".to_owned()),
        "EMPTY" => Some(String::new()),
        "SECRET" => Some(SECRET.to_owned()),
        _ => None,
    }
}

fn loaded(text: &str) {
    let problems = match load_text("h.yaml", text, Path::new(FOLDER), &environment) {
        Ok(loaded) => {
            let again = load_text("h.yaml", text, Path::new(FOLDER), &environment).map(|again| again.draft.hash);
            assert_eq!(again.ok().as_ref(), Some(&loaded.draft.hash), "the same text is the same configuration");
            assert!(!loaded.draft.endpoints.iter().any(|endpoint| endpoint.path.is_empty()));
            return;
        }
        Err(problems) => problems,
    };
    assert!(!problems.all().is_empty(), "refused without a reason");
    problems.all().iter().for_each(|problem| has_a_place(text, problem));
    for (problem, line) in problems.all().iter().zip(problems.lines()) {
        assert!(line.starts_with("h.yaml:"), "{line:?}");
        assert!(!is_secret(&problem.path) || !line.contains(SECRET), "a secret is repeated: {line}");
    }
}

/// The place is in the text, or just behind its end.
fn has_a_place(text: &str, problem: &Problem) {
    let place = problem.place;
    // YAML's line ends.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.split('\n').collect();
    let line = place.line.checked_sub(1).and_then(|at| usize::try_from(at).ok());
    let Some(line) = line else { panic!("no line: {problem:?}") };
    assert!(line <= lines.len(), "{} lines: {problem:?}", lines.len());
    let len = lines.get(line).map_or(0, |line| line.chars().count());
    assert!((1..=len as u64 + 1).contains(&place.column), "{len} columns: {problem:?}");
}

/// True if the table of keys says that what stands at this path is a secret.
fn is_secret(path: &str) -> bool {
    fn walk(shape: &Shape, path: &str) -> bool {
        match shape {
            Shape::Secret => path.is_empty(),
            Shape::Secrets => true,
            Shape::Map(keys) | Shape::TextOr(_, keys) => keys.iter().any(|key: &Key| {
                let rest = path.strip_prefix(key.name);
                rest.is_some_and(|rest| {
                    let rest = rest.strip_prefix('.').unwrap_or(rest);
                    walk(&key.shape, rest)
                })
            }),
            // A name that the user chose may hold anything, dots too: any cut that leads to a secret counts.
            Shape::Named(shape) => path.match_indices('.').any(|(at, _)| walk(shape, &path[at + 1..])),
            Shape::List(shape) => path.split_once("].").is_some_and(|(_, rest)| walk(shape, rest)),
            _ => false,
        }
    }
    walk(&ROOT, path)
}

/// Variables in a value, against a plain reading of the rules.
fn replaced(text: &str) {
    let quoted = serde_json::to_string(text).expect("JSON");
    let file = format!(
        "upstreams:\n  app: {{http: {{url: \"http://127.0.0.1:3000/\", headers: {{x-text: {quoted}}}}}}}\n\
         endpoints:\n  - {{path: /ws, routes: [{{event: \"*\", upstream: app}}]}}\n"
    );
    let loaded = load_text("h.yaml", &file, Path::new(FOLDER), &environment);
    match (plainly(text), loaded) {
        (Some(expected), Ok(loaded)) => {
            let Some(Settings::Http(http)) = loaded.draft.upstreams.get("app") else { panic!("no upstream") };
            assert_eq!(http.headers[0].1.expose_secret(), expected, "{text:?}");
        }
        (None, Err(problems)) => assert_eq!(problems.all().len(), 1, "{problems}"),
        (expected, loaded) => panic!("{text:?}: {expected:?} and {:?}", loaded.err()),
    }
}

/// `${NAME}`, `${NAME:-default}`, and `$${` for `${`; none where one is open or not set.
fn plainly(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("$${") {
            out += "${";
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (inside, after) = after.split_once('}')?;
            let (name, default) = match inside.find(":-") {
                Some(at) => (&inside[..at], Some(&inside[at + 2..])),
                None => (inside, None),
            };
            out += &match (environment(name), default) {
                (Some(value), None) => value,
                (Some(value), Some(_)) if !value.is_empty() => value,
                (_, Some(default)) => default.to_owned(),
                (None, None) => return None,
            };
            rest = after;
        } else {
            let end = rest.chars().next().map_or(0, char::len_utf8);
            out += &rest[..end];
            rest = &rest[end..];
        }
    }
    Some(out)
}
