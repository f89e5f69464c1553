//! Commands (DESIGN section 3) and how a list of them is read from JSON.
//! Knows what a command says; must not know who carries it out or which transport brought it.

use std::sync::Arc;

use base64::Engine as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{CONTEXT_BYTES_MAX, NAME_BYTES_MAX, Payload, one_line};
use crate::codes::CloseCode;
use crate::ids::ConnectionId;

/// The media type of a command list.
pub const COMMANDS_MEDIA_TYPE: &str = "application/vnd.holdfast.commands+json";
/// The most commands that one list may hold.
pub const COMMANDS_MAX: usize = 10_000;
/// The longest close reason, in bytes (RFC 6455 section 5.5: 125 less the code).
pub const REASON_BYTES_MAX: usize = 123;

/// Whom a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The connection whose event is being answered; only in an answer.
    Sender,
    Connection(ConnectionId),
    User(Arc<str>),
    Group(Arc<str>),
    All,
}

/// One command on its way in. Names, codes and sizes are checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Send {
        to: Target,
        except: Vec<ConnectionId>,
        payload: Payload,
    },
    Close {
        to: Target,
        code: CloseCode,
        reason: String,
    },
    /// `connection: None` is the sender.
    Join {
        connection: Option<ConnectionId>,
        group: Arc<str>,
    },
    Leave {
        connection: Option<ConnectionId>,
        group: Arc<str>,
    },
    Context {
        connection: Option<ConnectionId>,
        value: Arc<str>,
    },
}

impl Command {
    /// The command's name, as in JSON and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Send { .. } => "send",
            Self::Close { .. } => "close",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Context { .. } => "context",
        }
    }

    /// Reads a command list. `Sender` targets appear only if `from_answer`; elsewhere a command must name its target.
    pub fn parse_list(json: &[u8], from_answer: bool) -> Result<Vec<Command>, CommandError> {
        let raw: Vec<&RawValue> = serde_json::from_slice(json)
            .map_err(|e| CommandError::new(None, &format!("expected a JSON list of commands: {e}")))?;
        if raw.len() > COMMANDS_MAX {
            let reason = format!("expected at most {COMMANDS_MAX} commands, found {}", raw.len());
            return Err(CommandError::new(None, &reason));
        }
        raw.iter()
            .enumerate()
            .map(|(i, raw)| parse_one(raw.get(), from_answer).map_err(|reason| CommandError::new(Some(i), &reason)))
            .collect()
    }
}

/// Which command of a list is at fault, and why. None of the list was carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", .index.map(|i| format!("command {i}: ")).unwrap_or_default())]
pub struct CommandError {
    /// Position in the list, from 0; none where the list itself cannot be read.
    pub index: Option<usize>,
    pub reason: String,
}

impl CommandError {
    fn new(index: Option<usize>, reason: &str) -> Self {
        Self { index, reason: one_line(reason) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawCommand<'a> {
    #[serde(borrow)]
    Send(RawSend<'a>),
    Close(RawClose),
    Join(RawMember),
    Leave(RawMember),
    Context(RawContext),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSend<'a> {
    to: Option<RawTarget>,
    /// `null` is a message too.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    text: Option<String>,
    binary: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    connection: Option<String>,
    user: Option<String>,
    group: Option<String>,
    all: Option<bool>,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClose {
    to: Option<RawTarget>,
    code: Option<u16>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    connection: Option<String>,
    group: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContext {
    connection: Option<String>,
    value: String,
}

fn parse_one(json: &str, from_answer: bool) -> Result<Command, String> {
    let raw: RawCommand<'_> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    match raw {
        RawCommand::Send(send) => {
            let payload = payload(&send)?;
            let (to, except) = target(send.to, from_answer)?;
            Ok(Command::Send { to, except, payload })
        }
        RawCommand::Close(close) => {
            let (to, except) = target(close.to, from_answer)?;
            if !except.is_empty() {
                return Err("\"except\" is for \"send\" only".into());
            }
            let code = close_code(close.code.unwrap_or(CloseCode::APPLICATION.0))?;
            Ok(Command::Close { to, code, reason: close_reason(close.reason)? })
        }
        RawCommand::Join(m) => {
            Ok(Command::Join { connection: connection(m.connection, from_answer)?, group: name("group", &m.group)? })
        }
        RawCommand::Leave(m) => {
            Ok(Command::Leave { connection: connection(m.connection, from_answer)?, group: name("group", &m.group)? })
        }
        RawCommand::Context(c) => {
            Ok(Command::Context { connection: connection(c.connection, from_answer)?, value: context(&c.value)? })
        }
    }
}

/// A user's or group's name: 1 to `NAME_BYTES_MAX` bytes, no control characters.
pub fn name(what: &str, text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!("expected a {what} of 1 to {NAME_BYTES_MAX} bytes, found {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("expected a {what} without control characters"));
    }
    Ok(text.into())
}

/// A context of at most `CONTEXT_BYTES_MAX` bytes that an HTTP header can carry back.
pub fn context(text: &str) -> Result<Arc<str>, String> {
    if text.len() > CONTEXT_BYTES_MAX {
        return Err(format!("expected a context of at most {CONTEXT_BYTES_MAX} bytes, found {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("expected a context without control characters".into());
    }
    Ok(text.into())
}

/// A close code that an application may choose: 1000, 1001, 1008, 1011 to 1013, or 3000 to 4999.
pub fn close_code(code: u16) -> Result<CloseCode, String> {
    match code {
        1000 | 1001 | 1008 | 1011..=1013 | 3000..=4999 => Ok(CloseCode(code)),
        _ => Err(format!("expected a close code of 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999, found {code}")),
    }
}

/// A close reason that fits a close frame and a line of a log.
pub fn close_reason(reason: String) -> Result<String, String> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(format!("expected a reason of at most {REASON_BYTES_MAX} bytes, found {}", reason.len()));
    }
    if reason.chars().any(char::is_control) {
        return Err("expected a reason without control characters".into());
    }
    Ok(reason)
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn payload(send: &RawSend<'_>) -> Result<Payload, String> {
    match (send.data, &send.text, &send.binary) {
        (Some(data), None, None) => Ok(Payload::text(data.get())),
        (None, Some(text), None) => Ok(Payload::text(text.as_str())),
        (None, None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map(Payload::binary)
            .map_err(|e| format!("expected base64 in \"binary\": {e}")),
        _ => Err("expected exactly one of \"data\", \"text\" and \"binary\"".into()),
    }
}

fn target(raw: Option<RawTarget>, from_answer: bool) -> Result<(Target, Vec<ConnectionId>), String> {
    let raw = raw.unwrap_or_default();
    let except = raw.except.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?;
    let to = match (raw.connection, raw.user, raw.group, raw.all) {
        (Some(id), None, None, None) => Target::Connection(parse_id(&id)?),
        (None, Some(user), None, None) => Target::User(name("user", &user)?),
        (None, None, Some(group), None) => Target::Group(name("group", &group)?),
        (None, None, None, Some(true)) => Target::All,
        (None, None, None, None) if from_answer => Target::Sender,
        _ => {
            return Err(
                "expected \"to\" with exactly one of \"connection\", \"user\", \"group\" and \"all\": true".into()
            );
        }
    };
    Ok((to, except))
}

fn connection(id: Option<String>, from_answer: bool) -> Result<Option<ConnectionId>, String> {
    match id {
        Some(id) => parse_id(&id).map(Some),
        None if from_answer => Ok(None),
        None => Err("expected \"connection\": only in an answer may it be left out".into()),
    }
}

fn parse_id(id: &str) -> Result<ConnectionId, String> {
    id.parse().map_err(|e: crate::ids::InvalidId| format!("{id:?} is {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "abcdefgh-abcdefghijkmnopqrstu";

    #[test]
    fn the_design_s_examples_are_read() {
        let json = format!(
            r#"[{{"send":{{"to":{{"connection":"{ID}"}},"data":{{"any":  "json"}}}}}},
                {{"send":{{"to":{{"group":"room:1","except":["{ID}"]}},"text":"raw text"}}}},
                {{"send":{{"to":{{"user":"u1"}},"binary":"aGk="}}}},
                {{"join":{{"connection":"{ID}","group":"room:1"}}}},
                {{"close":{{"to":{{"connection":"{ID}"}},"code":4400,"reason":"bye"}}}},
                {{"context":{{"connection":"{ID}","value":"opaque"}}}}]"#
        );
        let commands = Command::parse_list(json.as_bytes(), false).expect("valid");
        let id: ConnectionId = ID.parse().expect("an ID");
        assert_eq!(
            commands[0],
            Command::Send { to: Target::Connection(id), except: vec![], payload: Payload::text(r#"{"any":  "json"}"#) }
        );
        assert_eq!(
            commands[2],
            Command::Send { to: Target::User("u1".into()), except: vec![], payload: Payload::binary("hi") }
        );
        assert_eq!(
            commands.iter().map(Command::name).collect::<Vec<_>>(),
            ["send", "send", "send", "join", "close", "context"]
        );
    }

    #[test]
    fn the_sender_is_meant_only_in_an_answer() {
        let json = br#"[{"send":{"text":"hi"}},{"join":{"group":"g"}}]"#;
        assert!(Command::parse_list(json, true).is_ok());
        let error = Command::parse_list(json, false).expect_err("no target");
        assert_eq!(error.index, Some(0));
    }

    #[test]
    fn null_is_a_message() {
        let commands = Command::parse_list(br#"[{"send":{"data":null}}]"#, true);
        let expected = Command::Send { to: Target::Sender, except: vec![], payload: Payload::text("null") };
        assert_eq!(commands, Ok(vec![expected]));
        assert!(Command::parse_list(br#"[{"send":{"data":null,"text":"a"}}]"#, true).is_err());
    }

    #[test]
    fn the_command_at_fault_is_named() {
        for (json, says) in [
            (r#"{"send":{}}"#, "a JSON list"),
            (r#"[{"join":{"group":"g"}},{"sned":{}}]"#, "command 1: unknown variant `sned`"),
            (r#"[{"send":{"text":"a","data":1}}]"#, "exactly one of"),
            (r#"[{"send":{"text":"a","too":1}}]"#, "unknown field `too`"),
            (r#"[{"close":{"code":1005}}]"#, "found 1005"),
            (r#"[{"join":{"group":""}}]"#, "1 to 256 bytes"),
            (r#"[{"send":{"to":{"connection":"nope"},"text":"a"}}]"#, "not a connection ID"),
            (r#"[{"close":{"reason":"a\nb"}}]"#, "without control characters"),
            (r#"[{"a\nb":{}}]"#, r"unknown variant `a\nb`"),
        ] {
            let error = Command::parse_list(json.as_bytes(), true).expect_err(json).to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }
}
