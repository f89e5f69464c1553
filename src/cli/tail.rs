//! `holdfast tail`: live messages of a running Holdfast, a line each. Must not know how the stream travels.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Args;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::admin::{Target, Unread};
use super::remote::{encoded, plain};
use super::{CliError, EXIT_FAILURE};

/// The longest line of a stream: a payload is cut long before.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Of a payload, for a person.
const DATA_CHARS_MAX: usize = 160;

#[derive(Args)]
pub struct Tail {
    /// Only of this connection
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// Only of this endpoint's path
    #[arg(long, value_name = "PATH")]
    endpoint: Option<String>,
    /// Only of this user
    #[arg(long)]
    user: Option<String>,
    /// Only of members of this group
    #[arg(long)]
    group: Option<String>,
    /// Only messages whose event fits, for instance 'chat.*'
    #[arg(long, value_name = "PATTERN")]
    event: Option<String>,
    /// Only messages that came to this: answered, accepted, written, dropped, gone or an error's code
    #[arg(long)]
    outcome: Option<String>,
    /// Each record as a line of JSON, as the admin API gives it
    #[arg(long)]
    json: bool,
    /// Without what messages say
    #[arg(long)]
    no_data: bool,
    #[command(flatten)]
    target: Target,
}

/// Prints records until the stream ends, or Ctrl-C.
pub async fn tail(tail: Tail) -> Result<ExitCode, CliError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let filters = [
        ("connection", &tail.connection),
        ("endpoint", &tail.endpoint),
        ("user", &tail.user),
        ("group", &tail.group),
        ("event", &tail.event),
        ("outcome", &tail.outcome),
    ];
    let given = filters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
    let path = format!("/v1/watch?{}", given.collect::<Vec<_>>().join("&"));
    tokio::select! {
        result = follow(&tail, &path) => result,
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
    }
}

async fn follow(tail: &Tail, path: &str) -> Result<ExitCode, CliError> {
    let mut stream = tail.target.open(path).await?;
    let mut rest = Vec::new();
    let why = loop {
        match next(&mut stream).await {
            Ok(Some(bytes)) => rest.extend_from_slice(&bytes),
            Ok(None) => break "the server ended the stream".to_owned(),
            Err(error) => break format!("the stream broke off: {error}"),
        }
        let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = rest.drain(..end).collect();
        if rest.len() > LINE_BYTES_MAX {
            break "the stream has a line that is too long".to_owned();
        }
        match print(tail, &whole) {
            // Whoever read it, `head` for instance, has enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            other => other?,
        }
    };
    eprintln!("holdfast: {why}");
    Ok(ExitCode::from(EXIT_FAILURE))
}

async fn next(stream: &mut Unread) -> Result<Option<bytes::Bytes>, String> {
    match stream.frame().await {
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(None),
    }
}

fn print(tail: &Tail, lines: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(mut record) = serde_json::from_slice::<Value>(line) else { continue };
        if record["kind"] == "alive" {
            continue;
        }
        if tail.no_data
            && let Some(record) = record.as_object_mut()
        {
            record.retain(|name, _| name != "data" && name != "binary");
        }
        let text = if tail.json { record.to_string() } else { human(&record) };
        writeln!(out, "{text}")?;
    }
    out.flush()
}

/// One record in one line.
fn human(record: &Value) -> String {
    let text = |name: &str| plain(&record[name]);
    let who = || match &record["user"] {
        Value::Null => text("connection"),
        user => format!("{} {}", text("connection"), plain(user)),
    };
    // Of the time of day a person needs no more than milliseconds.
    let time = record["time"].as_str().and_then(|time| time.get(11..23)).unwrap_or("-").to_owned();
    match (record["kind"].as_str(), record["direction"].as_str()) {
        (Some("message"), Some("in")) => {
            let total = record["stages_us"]["total"].as_f64().map(|us| format!(" {:.1}ms", us / 1000.0));
            let attempts = record["attempts"].as_u64().filter(|count| *count > 1);
            let attempts = attempts.map(|count| format!(" {count} attempts")).unwrap_or_default();
            let upstream = record["upstream"].as_str().map(|name| format!(" {name}")).unwrap_or_default();
            let (total, event) = (total.unwrap_or_default(), text("event"));
            format!("{time} {} > {event} {}{upstream}{total}{attempts}{}", who(), text("outcome"), data(record))
        }
        (Some("message"), _) => format!("{time} {} < {} {}{}", who(), text("cause"), text("outcome"), data(record)),
        (Some("connected"), _) => format!("{time} {} + {} from {}", who(), text("endpoint"), text("remote_addr")),
        (Some("disconnected"), _) => {
            format!("{time} {} - {} {} {}", who(), text("code"), text("cause"), text("reason"))
        }
        (Some("missed"), _) => format!("... {} records missed: this reader is too slow", text("count")),
        _ => record.to_string(),
    }
}

fn data(record: &Value) -> String {
    let size = format!(" {}B", plain(&record["size"]));
    let Some(text) = record["data"].as_str().or_else(|| record["binary"].as_str()) else { return size };
    let shown: String = text.chars().take(DATA_CHARS_MAX).collect();
    let more = if shown.len() < text.len() || record["cut"] == true { "…" } else { "" };
    format!("{size} {}{more}", plain(&Value::String(shown)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_one_harmless_line() {
        let record = json!({"kind": "message", "direction": "in", "time": "2026-01-02T03:04:05.678901Z", "connection": "a-b", "user": "ann",
            "event": "chat.send", "size": 12, "data": "x\u{1b}[2J\n", "cut": false, "upstream": "app", "attempts": 2,
            "outcome": "answered", "stages_us": {"total": 1500}});
        let line = "03:04:05.678 a-b ann > chat.send answered app 1.5ms 2 attempts 12B x\u{fffd}[2J\u{fffd}";
        assert_eq!(human(&record), line);
        let record = json!({"kind": "message", "direction": "out", "time": "2026-01-02T03:04:05.678901Z", "connection": "a-b",
            "size": 500, "data": "y".repeat(300), "cut": false, "cause": "push", "outcome": "written"});
        assert_eq!(human(&record), format!("03:04:05.678 a-b < push written 500B {}…", "y".repeat(160)));
        assert_eq!(human(&json!({"kind": "missed", "count": 3})), "... 3 records missed: this reader is too slow");
    }
}
