//! Reads what a queue's message asks for: its target by header, or a list of commands, or the reply of a worker. Pure; must not know
//! who carries it out.

use bytes::Bytes;

use crate::ids::ConnectionId;
use crate::message::command::{COMMANDS_MEDIA_TYPE, name};
use crate::message::{Command, Payload, Target, essence, one_line};

/// What a message asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// One payload for a target.
    Send { to: Target, payload: Payload },
    List {
        commands: Vec<Command>,
        /// Whom commands without a target are for: the connection that a worker answers.
        sender: Option<ConnectionId>,
    },
}

/// The headers and properties that an order is read from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    pub content_type: Option<&'a str>,
    pub to_connection: Option<&'a str>,
    pub to_group: Option<&'a str>,
    pub to_user: Option<&'a str>,
    pub to_all: bool,
    /// Of a message in a node's own queue: a worker answers this connection.
    pub correlation_id: Option<&'a str>,
}

impl Order {
    /// Reads a message. The error says what is wrong with it; it will be wrong each time it comes.
    pub fn read(head: &Head<'_>, body: Bytes) -> Result<Self, String> {
        Self::parse(head, body).map_err(|reason| one_line(&reason))
    }

    fn parse(head: &Head<'_>, body: Bytes) -> Result<Self, String> {
        let sender = head.correlation_id.and_then(|id| id.parse().ok());
        if head.content_type.is_some_and(|media_type| essence(media_type).eq_ignore_ascii_case(COMMANDS_MEDIA_TYPE)) {
            let commands = Command::parse_list(&body, sender.is_some()).map_err(|error| error.to_string())?;
            return Ok(Self::List { commands, sender });
        }
        let to = match (head.to_connection, head.to_group, head.to_user, head.to_all) {
            (Some(id), None, None, false) => Target::Connection(parse_id("to-connection", id)?),
            (None, Some(group), None, false) => Target::Group(name("group", group)?),
            (None, None, Some(user), false) => Target::User(name("user", user)?),
            (None, None, None, true) => Target::All,
            (None, None, None, false) => match head.correlation_id {
                Some(id) => Target::Connection(parse_id("correlation_id", id)?),
                None => {
                    return Err(format!(
                        "expected a header to-connection, to-group, to-user or to-all, or the content type {COMMANDS_MEDIA_TYPE}"
                    ));
                }
            },
            _ => return Err("expected only one of to-connection, to-group, to-user and to-all".into()),
        };
        Ok(Self::Send { to, payload: Payload::of_media_type(head.content_type, body)? })
    }
}

fn parse_id(what: &str, id: &str) -> Result<ConnectionId, String> {
    id.parse().map_err(|error: crate::ids::InvalidId| format!("{what} {id:?} is {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "abcdefgh-abcdefghijkmnopqrstu";

    fn read(head: Head<'_>, body: &'static str) -> Result<Order, String> {
        Order::read(&head, Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn a_header_names_the_target() {
        let id: ConnectionId = ID.parse().expect("an ID");
        let none = Head::default();
        for (head, to) in [
            (Head { to_connection: Some(ID), ..none }, Target::Connection(id)),
            (Head { to_group: Some("room:1"), ..none }, Target::Group("room:1".into())),
            (Head { to_user: Some("u1"), ..none }, Target::User("u1".into())),
            (Head { to_all: true, ..none }, Target::All),
            (Head { correlation_id: Some(ID), ..none }, Target::Connection(id)),
            (Head { to_group: Some("g"), correlation_id: Some("their own"), ..none }, Target::Group("g".into())),
        ] {
            assert_eq!(read(head, "hi"), Ok(Order::Send { to, payload: Payload::text("hi") }), "{head:?}");
        }
    }

    #[test]
    fn a_list_is_read_by_its_content_type_and_a_worker_s_has_a_sender() {
        let list = Some("application/vnd.holdfast.commands+json; charset=utf-8");
        let answer = Head { content_type: list, correlation_id: Some(ID), ..Head::default() };
        let Ok(Order::List { commands, sender }) = read(answer, r#"[{"send":{"text":"hi"}}]"#) else {
            panic!("no list")
        };
        assert_eq!((commands.len(), sender), (1, ID.parse().ok()));
        let error = read(Head { content_type: list, ..Head::default() }, r#"[{"send":{"text":"hi"}}]"#);
        assert!(error.expect_err("no target").contains("command 0"));
    }

    #[test]
    fn what_cannot_be_carried_out_is_said() {
        let none = Head::default();
        for (head, body, says) in [
            (none, "hi", "expected a header to-connection"),
            (Head { to_all: true, to_user: Some("u"), ..none }, "hi", "only one of"),
            (Head { to_connection: Some("x"), ..none }, "hi", "not a connection ID"),
            (Head { correlation_id: Some("x"), ..none }, "hi", "correlation_id \"x\""),
            (Head { to_group: Some(""), ..none }, "hi", "1 to 256 bytes"),
            (Head { content_type: Some(COMMANDS_MEDIA_TYPE), ..none }, "{", "a JSON list"),
        ] {
            let error = read(head, body).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}
