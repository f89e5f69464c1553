//! Command lists: any bytes as a list, and lists that are written from the bytes and must read back as they were meant.

use holdfast::codes::CloseCode;
use holdfast::ids::ConnectionId;
use holdfast::message::command::COMMANDS_MAX;
use holdfast::message::{Command, Payload, Target};
use serde_json::{Value, json};

use super::check;

const IDS: [&str; 2] = ["abcdefgh-abcdefghijkmnopqrstu", "00000000-zzzzzzzzzzzzzzzzzzzz"];
const CODES: [u16; 7] = [1000, 1001, 1008, 1011, 1013, 3000, 4999];

pub fn run(data: &[u8]) {
    as_they_are(data);
    read_back(data);
}

fn as_they_are(data: &[u8]) {
    let (answer, order) = (Command::parse_list(data, true), Command::parse_list(data, false));
    if let Ok(commands) = &order {
        assert_eq!(answer.as_ref(), Ok(commands), "an answer may say all that an order may");
        commands.iter().for_each(|command| check::command(command, false));
    }
    match &answer {
        Ok(commands) => {
            assert!(commands.len() <= COMMANDS_MAX);
            commands.iter().for_each(|command| check::command(command, true));
        }
        Err(error) => {
            check::command_error(error);
            assert!(order.is_err(), "an order that is no answer");
        }
    }
}

/// Writes a list that is right, from pieces of the input, and reads it.
fn read_back(data: &[u8]) {
    let (mut list, mut expected) = (Vec::new(), Vec::new());
    for piece in data.chunks(24).take(40) {
        let [kind, choice, rest @ ..] = piece else { continue };
        let Ok(text) = std::str::from_utf8(rest) else { continue };
        let (json, command) = one(*kind, usize::from(*choice), text);
        list.push(json);
        expected.push(command);
    }
    let list = serde_json::to_vec(&list).expect("JSON");
    assert_eq!(Command::parse_list(&list, true), Ok(expected), "{}", String::from_utf8_lossy(&list));
}

fn one(kind: u8, choice: usize, text: &str) -> (Value, Command) {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    let group = format!("g{plain}");
    let id = IDS[choice % 2];
    let connection: Option<ConnectionId> = (choice & 4 == 0).then(|| id.parse().expect("an ID"));
    let with_id = |mut body: Value| {
        if connection.is_some() {
            body["connection"] = json!(id);
        }
        body
    };
    match kind % 5 {
        0 => send(choice, text, &group),
        1 => {
            let code = CODES[choice % CODES.len()];
            let command = Command::Close { to: Target::Sender, code: CloseCode(code), reason: plain.clone() };
            (json!({"close": {"code": code, "reason": plain}}), command)
        }
        2 => (
            json!({"join": with_id(json!({"group": group}))}),
            Command::Join { connection, group: group.as_str().into() },
        ),
        3 => (
            json!({"leave": with_id(json!({"group": group}))}),
            Command::Leave { connection, group: group.as_str().into() },
        ),
        _ => (
            json!({"context": with_id(json!({"value": plain}))}),
            Command::Context { connection, value: plain.as_str().into() },
        ),
    }
}

fn send(choice: usize, text: &str, name: &str) -> (Value, Command) {
    let (to, target) = match choice % 5 {
        0 => (json!({"connection": IDS[0]}), Target::Connection(IDS[0].parse().expect("an ID"))),
        1 => (json!({"user": name}), Target::User(name.into())),
        2 => (json!({"group": name}), Target::Group(name.into())),
        3 => (json!({"all": true}), Target::All),
        _ => (json!({}), Target::Sender),
    };
    let (mut body, payload) = match choice / 5 % 3 {
        0 => (json!({"text": text}), Payload::text(text)),
        1 => (json!({"binary": base64(text.as_bytes())}), Payload::binary(text.as_bytes().to_vec())),
        _ => {
            // JSON if it is some, else the text as a JSON string; `null` is a message like any other.
            let data: Value = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
            (json!({"data": data}), Payload::text(data.to_string()))
        }
    };
    body["to"] = to;
    let except = if choice & 128 != 0 { vec![IDS[1].parse().expect("an ID")] } else { Vec::new() };
    if !except.is_empty() {
        body["to"]["except"] = json!([IDS[1]]);
    }
    (json!({"send": body}), Command::Send { to: target, except, payload })
}

/// Base64 by hand: one more thing that the reader is held against.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let six = usize::try_from(bits >> (18 - 6 * at) & 63).unwrap_or_default();
            out.push(if at <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    out
}
