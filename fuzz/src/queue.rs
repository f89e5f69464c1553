//! A queue's message to what it asks for. Input: header lines `name: value`, an empty line, the body.

use bytes::Bytes;
use holdfast::command::queue::{Head, Order};
use holdfast::message::command::COMMANDS_MEDIA_TYPE;
use holdfast::message::{Kind, essence};

use super::check;

pub fn run(data: &[u8]) {
    let mut rest = data;
    let mut head = Head::default();
    while let Some(line) = check::text_line(&mut rest).filter(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name {
            "content-type" => head.content_type = Some(value),
            "to-connection" => head.to_connection = Some(value),
            "to-group" => head.to_group = Some(value),
            "to-user" => head.to_user = Some(value),
            "to-all" => head.to_all = true,
            "correlation-id" => head.correlation_id = Some(value),
            _ => {}
        }
    }
    let targets = usize::from(head.to_connection.is_some())
        + usize::from(head.to_group.is_some())
        + usize::from(head.to_user.is_some())
        + usize::from(head.to_all);
    let is_list = head.content_type.is_some_and(|text| essence(text).eq_ignore_ascii_case(COMMANDS_MEDIA_TYPE));
    match Order::read(&head, Bytes::copy_from_slice(rest)) {
        Ok(Order::List { commands, sender }) => {
            assert!(is_list, "a list without its content type");
            commands.iter().for_each(|command| check::command(command, sender.is_some()));
        }
        Ok(Order::Send { to, payload }) => {
            assert!(!is_list && targets <= 1, "{targets} targets");
            assert!(targets == 1 || head.correlation_id.is_some(), "a message for nobody");
            check::target(&to, false);
            check::payload(&payload);
            assert_eq!(payload.bytes(), rest, "the body goes on as it is");
            if head.content_type.is_none() {
                assert_eq!(payload.kind() == Kind::Text, std::str::from_utf8(rest).is_ok());
            }
        }
        Err(reason) => check::words(&reason),
    }
}
