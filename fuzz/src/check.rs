//! What several targets hold their results against, and how they take their input apart.

use holdfast::codes::CloseCode;
use holdfast::message::command::{CommandError, REASON_BYTES_MAX};
use holdfast::message::{CONTEXT_BYTES_MAX, Command, Kind, NAME_BYTES_MAX, Payload, Target};

/// The longest fault that is put into words; it goes to logs and headers.
const WORDS_BYTES_MAX: usize = 600;

/// The text up to the next line end, and what follows.
pub fn line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let line = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    line
}

/// The same as text; none where it is not UTF-8.
pub fn text_line<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(line(rest)).ok()
}

/// Everything that a command may hold is within its limits, and names are safe in headers and logs.
pub fn command(command: &Command, may_mean_sender: bool) {
    match command {
        Command::Send { to, payload: found, .. } => {
            target(to, may_mean_sender);
            payload(found);
        }
        Command::Close { to, code, reason } => {
            target(to, may_mean_sender);
            assert!(code.is_sendable(), "{code}");
            assert!(!matches!(*code, CloseCode::PROTOCOL_ERROR | CloseCode::INVALID_UTF8 | CloseCode::TOO_LARGE));
            plain(reason, REASON_BYTES_MAX);
        }
        Command::Join { connection, group } | Command::Leave { connection, group } => {
            assert!(may_mean_sender || connection.is_some(), "a command without a connection");
            name(group);
        }
        Command::Context { connection, value } => {
            assert!(may_mean_sender || connection.is_some(), "a command without a connection");
            plain(value, CONTEXT_BYTES_MAX);
        }
    }
}

pub fn target(target: &Target, may_mean_sender: bool) {
    match target {
        Target::Sender => assert!(may_mean_sender, "a command without a target"),
        Target::Connection(_) | Target::All => {}
        Target::User(text) | Target::Group(text) => name(text),
    }
}

pub fn name(text: &str) {
    assert!(!text.is_empty(), "an empty name");
    plain(text, NAME_BYTES_MAX);
}

pub fn payload(payload: &Payload) {
    if payload.kind() == Kind::Text {
        assert!(std::str::from_utf8(payload.bytes()).is_ok(), "a text that is not UTF-8");
    }
}

pub fn command_error(error: &CommandError) {
    plain(&error.to_string(), WORDS_BYTES_MAX);
}

/// A fault in words: it stays one line of a log, of a bounded length.
pub fn words(text: &str) {
    plain(text, WORDS_BYTES_MAX);
}

fn plain(text: &str, bytes_max: usize) {
    assert!(text.len() <= bytes_max, "{} bytes: {text:?}", text.len());
    assert!(!text.chars().any(char::is_control), "a control character: {text:?}");
}
