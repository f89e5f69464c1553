use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::codes::{Cause, ErrorCode};
use crate::pages::hold;

/// What a label may be: words of the code, or where else its values come from.
enum Values {
    Words(Vec<&'static str>),
    From(&'static str),
}

/// The values of each label; what is said of one metric goes before what is said of all.
fn values() -> BTreeMap<(&'static str, &'static str), Values> {
    let words = |text: &'static str| Values::Words(text.split(' ').collect());
    let events = std::iter::once("delivered").chain(ErrorCode::ALL.iter().map(|(code, _)| code.as_str())).collect();
    let of_one = |metric, label, values| ((metric, label), values);
    BTreeMap::from([
        of_one("", "address", Values::From("host and port of one of the upstream's URLs")),
        of_one("", "cause", Values::Words(Cause::ALL.map(Cause::as_str).to_vec())),
        of_one("", "code", Values::From("1002, 1007, 1009 or 4501")),
        of_one("", "connection", words("publishing consuming")),
        of_one("", "endpoint", Values::From("the endpoint's path; `$none` before it is known")),
        of_one("", "form", words("wire plain")),
        of_one("", "mode", words("enforce report")),
        of_one("", "queue", words("commands node")),
        of_one(
            "",
            "route",
            Values::From("the route's pattern; `$connect`, `$disconnect`, `$push`; `$none` where no route takes it"),
        ),
        of_one("", "status", Values::From("the HTTP status")),
        of_one(
            "",
            "upstream",
            Values::From(
                "the upstream's name; `$direct` and `$nodes` are dead letters, receipts and what is handed to other nodes",
            ),
        ),
        of_one(
            "",
            "limit",
            words(
                "messages bytes user_messages user_bytes address_messages address_bytes connections user_connections \
             address_connections node_connections node_address_connections handshakes address_handshakes invalid_messages \
             json_depth json_values tokens",
            ),
        ),
        of_one(
            "holdfast_accept_errors_total",
            "kind",
            words("exhausted other timeout too_large malformed ended proxy_protocol"),
        ),
        of_one("holdfast_amqp_publishes_total", "outcome", words("confirmed returned nacked repeated abandoned")),
        of_one("holdfast_amqp_settled_total", "outcome", words("acked dead_lettered rejected gone")),
        of_one("holdfast_build_info", "kind", Values::From("the version")),
        of_one("holdfast_commands_total", "kind", words("send close join leave context")),
        of_one(
            "holdfast_commands_total",
            "outcome",
            words("written queued done delivered gone full too_large invalid too_many_groups forbidden timed_out"),
        ),
        of_one("holdfast_compressed_bytes_total", "direction", words("received sent")),
        of_one("holdfast_config_reloads_total", "outcome", words("applied unchanged refused")),
        of_one("holdfast_events_total", "outcome", Values::Words(events)),
        of_one("holdfast_jwks_fetches_total", "outcome", words("ok failed")),
        of_one("holdfast_schema_violations_total", "direction", words("message reply push")),
        of_one("holdfast_tls_handshakes_total", "outcome", words("ok failed timeout")),
        of_one(
            "holdfast_tokens_total",
            "outcome",
            words(
                "accepted missing malformed algorithm unknown_key signature expired immature issuer audience claim revoked user no_keys",
            ),
        ),
        of_one(
            "holdfast_upstream_attempts_total",
            "outcome",
            words("ok rejected status timeout connect_error io_error broken"),
        ),
    ])
}

/// The tables of `docs/metrics.md`, made from what is registered.
fn tables() -> [(&'static str, String); 2] {
    let metrics = Metrics::new();
    let values = values();
    let mut of_metrics = String::from("| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n");
    let mut of_labels: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for Description { name, kind, labels, help } in metrics.descriptions() {
        let listed: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        of_metrics += &format!("| `{name}` | {kind} | {} | {} | {help} |\n", listed.join(", "), unit(name));
        for label in *labels {
            let (metric, found) = values
                .get_key_value(&(name.as_str(), *label))
                .or_else(|| values.get_key_value(&("", *label)))
                .map(|((metric, _), found)| (*metric, found))
                .unwrap_or_else(|| panic!("no values for the label {label} of {name}"));
            let text = match found {
                Values::Words(words) => format!("`{}`", words.join("`, `")),
                Values::From(whence) => (*whence).to_owned(),
            };
            of_labels.insert((*label, metric), text);
        }
    }
    assert_eq!(of_labels.len(), values.len(), "values of a label that no metric has");
    let mut page = String::from("| label | of | values |\n|---|---|---|\n");
    for ((label, metric), text) in of_labels {
        let of = if metric.is_empty() { "all".to_owned() } else { format!("`{metric}`") };
        page += &format!("| `{label}` | {of} | {text} |\n");
    }
    [("metrics", of_metrics), ("labels", page)]
}

fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}"))).unwrap_or_default()
}

#[test]
fn the_page_of_metrics_is_what_is_registered() {
    hold("metrics", tables());
}

#[test]
fn the_values_of_labels_are_words_of_the_code() {
    let mut code = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("tests.rs") => {}
                false => code += &std::fs::read_to_string(path).expect("text"),
            }
        }
    }
    for ((metric, label), found) in values() {
        let Values::Words(words) = found else { continue };
        let absent: Vec<_> = words.iter().filter(|word| !code.contains(&format!("\"{word}\""))).collect();
        assert!(absent.is_empty(), "{metric} {label}: {absent:?} is nowhere in the code");
    }
}

#[test]
fn names_are_unique_and_say_their_unit() {
    let metrics = Metrics::new();
    let names: std::collections::BTreeSet<_> = metrics.descriptions().iter().map(|told| &told.name).collect();
    assert_eq!(names.len(), metrics.descriptions().len());
    assert!(names.len() > 40, "found {} metrics", names.len());
    let described =
        metrics.descriptions().iter().filter(|told| told.kind == "histogram" && unit(&told.name).is_empty());
    let without: Vec<_> = described.map(|told| told.name.as_str()).collect();
    assert_eq!(without, ["holdfast_batch_events"], "the others are durations");
}
