//! Commands that look at a running Holdfast or change it, by its admin API: tables for people, JSON with `--json`. Must not know how a
//! call travels.

use std::io::Read;
use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::CliError;
use super::admin::Target;
use super::tail::{Tail, tail};

#[derive(Subcommand)]
pub enum RemoteCommand {
    /// List open connections, or show one
    #[command(after_help = "Examples:\n  holdfast connections --user ann\n  holdfast connections 5MAw-1 --json")]
    Connections {
        /// Only this one, with all that is known of it
        id: Option<String>,
        /// Only of this user
        #[arg(long)]
        user: Option<String>,
        /// Only of this endpoint's path
        #[arg(long, value_name = "PATH")]
        endpoint: Option<String>,
        /// At most so many, 1000 at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        remote: Remote,
    },
    /// Send a message to a connection, a group, a user or everybody
    #[command(
        after_help = "Examples:\n  holdfast push --group room:1 '{\"text\": \"hello\"}'\n  cat photo | holdfast push --user ann --binary -"
    )]
    Push {
        #[command(flatten)]
        to: Recipient,
        /// As binary, not text
        #[arg(long)]
        binary: bool,
        /// The message; `-` reads standard input
        message: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Close a connection, or all of a user's
    #[command(after_help = "Example:\n  holdfast close --user ann --code 4403 --reason 'signed out'")]
    Close {
        #[command(flatten)]
        whose: Closed,
        /// 1000, or 3000 to 4999
        #[arg(long)]
        code: Option<u16>,
        /// Told to the client, at most 123 bytes
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show live messages, with what becomes of them, until Ctrl-C
    #[command(
        after_help = "Examples:\n  holdfast tail --endpoint /ws --event 'chat.*'\n  holdfast tail --json --outcome schema_violation\n\n\
                      It needs a token with the scope `admin`: messages say more than facts about them. `>` came in, `<` goes out."
    )]
    Tail(Tail),
    /// Reload the configuration; no socket notices
    Reload(Remote),
    /// Close every connection at a pace, finish what is in flight, and exit
    Drain(Remote),
    /// Exit 0 if it is ready for connections (or merely alive), else 1: for health checks
    #[command(after_help = "Example:\n  HEALTHCHECK CMD [\"holdfast\", \"probe\", \"--live\"]")]
    Probe {
        /// Alive is enough, as while it drains
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

/// How a running Holdfast is asked, and how its answer is shown.
#[derive(Args)]
pub struct Remote {
    #[command(flatten)]
    target: Target,
    /// The answer as JSON, as the admin API gives it
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Recipient {
    /// To one connection, by its ID
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// To each member of a group
    #[arg(long)]
    group: Option<String>,
    /// To each connection of a user
    #[arg(long)]
    user: Option<String>,
    /// To everybody
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Closed {
    /// The connection's ID
    id: Option<String>,
    /// Each connection of this user
    #[arg(long)]
    user: Option<String>,
}

/// Carries out one command.
pub async fn run(command: RemoteCommand) -> Result<ExitCode, CliError> {
    match command {
        RemoteCommand::Connections { id: Some(id), remote, .. } => {
            remote.ask(Method::GET, &format!("/v1/connections/{}", encoded(&id)), None, one).await
        }
        RemoteCommand::Connections { id: None, user, endpoint, limit, remote } => {
            let mut path = format!("/v1/connections?limit={limit}");
            for (name, value) in [("user", user), ("endpoint", endpoint)] {
                path += &value.map(|value| format!("&{name}={}", encoded(&value))).unwrap_or_default();
            }
            remote.ask(Method::GET, &path, None, table).await
        }
        RemoteCommand::Push { to, binary, message, remote } => {
            let media_type = if binary { "application/octet-stream" } else { "text/plain" };
            let body = (media_type, message_of(message)?);
            remote.ask(Method::POST, &to.path(), Some(body), sum).await
        }
        RemoteCommand::Close { whose, code, reason, remote } => {
            let code = code.map(|code| format!("&code={code}")).unwrap_or_default();
            let path = format!("{}?reason={}{code}", whose.path(), encoded(&reason));
            remote.ask(Method::DELETE, &path, None, sum).await
        }
        RemoteCommand::Tail(arguments) => tail(arguments).await,
        RemoteCommand::Reload(remote) => remote.ask(Method::POST, "/v1/config/reload", None, reloaded).await,
        RemoteCommand::Drain(remote) => remote.ask(Method::POST, "/v1/drain", None, |_| "draining".into()).await,
        RemoteCommand::Probe { live: true, remote } => {
            remote.ask(Method::GET, "/healthz", None, |_| "alive".into()).await
        }
        RemoteCommand::Probe { live: false, remote } => {
            remote.ask(Method::GET, "/readyz", None, |_| "ready".into()).await
        }
    }
}

impl Remote {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
        show: fn(&Value) -> String,
    ) -> Result<ExitCode, CliError> {
        let answer = self.target.call(method, path, body).await?;
        match self.json {
            // A JSON value always prints.
            true => println!("{}", serde_json::to_string_pretty(&answer).unwrap_or_default()),
            false => println!("{}", show(&answer)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Recipient {
    fn path(&self) -> String {
        match (&self.connection, &self.group, &self.user) {
            (Some(id), ..) => format!("/v1/connections/{}/messages", encoded(id)),
            (_, Some(group), _) => format!("/v1/groups/{}/messages", encoded(group)),
            (.., Some(user)) => format!("/v1/users/{}/messages", encoded(user)),
            _ => "/v1/broadcast".into(),
        }
    }
}

impl Closed {
    fn path(&self) -> String {
        match (&self.id, &self.user) {
            (Some(id), _) => format!("/v1/connections/{}", encoded(id)),
            (None, user) => format!("/v1/users/{}/connections", encoded(user.as_deref().unwrap_or_default())),
        }
    }
}

pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn message_of(argument: String) -> Result<Bytes, CliError> {
    if argument != "-" {
        return Ok(argument.into());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// What became of a send or a close.
fn sum(answer: &Value) -> String {
    match (answer["outcome"].as_str(), &answer["delivered"]) {
        (Some(outcome), _) => outcome.to_owned(),
        (None, Value::Number(delivered)) => format!("delivered {delivered}, dropped {}", answer["dropped"]),
        _ => "done".into(),
    }
}

fn reloaded(answer: &Value) -> String {
    let what = if answer["changed"] == true { "applied" } else { "nothing changed" };
    format!("{what}: generation {}", answer["generation"])
}

/// The facts of one connection, a line each.
fn one(answer: &Value) -> String {
    let facts = answer.as_object().into_iter().flatten();
    facts.map(|(name, value)| format!("{name:14} {}", plain(value))).collect::<Vec<_>>().join("\n")
}

/// The columns of connections, each as wide as it must be.
fn table(answer: &Value) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("ID", "id"),
        ("ENDPOINT", "endpoint"),
        ("USER", "user"),
        ("GROUPS", "groups"),
        ("ADDRESS", "remote_addr"),
        ("OPENED", "opened_at"),
        ("RECEIVED", "received"),
        ("SENT", "sent"),
    ];
    let connections = answer["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |connection: &Value| COLUMNS.map(|(_, key)| plain(&connection[key]));
    let rows: Vec<_> =
        std::iter::once(COLUMNS.map(|(title, _)| title.to_owned())).chain(connections.iter().map(row)).collect();
    let widths: Vec<_> =
        (0..COLUMNS.len()).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default()).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    lines.push(format!("{} of {}", connections.len(), answer["total"]));
    lines.join("\n")
}

/// A value as a person reads it: control characters of strangers do nothing to a terminal.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Array(list) if list.is_empty() => "-".into(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_harmless() {
        let answer = json!({"total": 3, "connections": [
            {"id": "a-1", "endpoint": "/ws", "user": "ann\u{1b}[2J", "groups": ["x", "y"], "remote_addr": "[::1]:5", "opened_at": "now",
             "received": 12, "sent": 3},
            {"id": "long-id-2", "endpoint": "/ws", "user": null, "groups": [], "remote_addr": "1.2.3.4:5", "opened_at": "now",
             "received": 0, "sent": 0}
        ]});
        let text = table(&answer);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ID         ENDPOINT  USER     GROUPS  ADDRESS    OPENED  RECEIVED  SENT");
        assert_eq!(lines[1], "a-1        /ws       ann\u{fffd}[2J  x,y     [::1]:5    now     12        3");
        assert_eq!(lines[2], "long-id-2  /ws       -        -       1.2.3.4:5  now     0         0");
        assert_eq!(lines[3], "2 of 3");
    }

    #[test]
    fn names_are_one_segment_of_a_path() {
        let to = Recipient { connection: None, group: Some("room:1/?# ä".into()), user: None, all: false };
        assert_eq!(to.path(), "/v1/groups/room%3A1%2F%3F%23%20%C3%A4/messages");
    }
}
