//! Puts the client library's errors into words that name what was asked for, where, and as whom. Must not know who asked.

use lapin::ErrorKind;

/// What failed, in the broker's own words where it had any.
pub fn reason(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            let text = error.get_message().as_str().trim();
            if text.is_empty() { format!("code {}", error.get_id()) } else { text.to_owned() }
        }
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::MissingHeartbeatError => "no heartbeat from the broker".to_owned(),
        _ => error.to_string(),
    }
}

/// True if the broker said that an exchange, queue or channel number is not there (404).
pub fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == 404)
}
