use std::io::{self, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::*;

const MESSAGE_SIZE: usize = 1000;

/// A client's frame. `len` is the length that its header claims, `form` how many bytes it takes for that: 0, 2 or 8.
fn frame_of(first: u8, mask: [u8; 4], form: usize, len: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match form {
        0 => bytes.push(0x80 | len as u8),
        2 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let form = [0, 2, 8][usize::from(payload.len() > 125) + usize::from(payload.len() > 0xffff)];
    frame_of(first, [0x12, 0x34, 0x56, 0xf8], form, payload.len() as u64, payload)
}

/// Everything that a stream comes to, in pieces of the given sizes, one after another and again from the start.
fn decode(decoder: &mut Decoder, stream: &[u8], pieces: &[usize]) -> (Vec<Decoded>, Option<Violation>) {
    let mut found = Vec::new();
    let mut left = stream;
    for size in pieces.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let (piece, rest) = left.split_at((*size).clamp(1, left.len()));
        left = rest;
        let mut input = piece.to_vec();
        let mut at = 0;
        while at < input.len() {
            match decoder.decode(&mut input, &mut at) {
                Ok(decoded) => found.extend(decoded),
                Err(violation) => return (found, Some(violation)),
            }
        }
    }
    (found, None)
}

fn decoded(stream: &[u8]) -> (Vec<Decoded>, Option<Violation>) {
    decode(&mut Decoder::new(MESSAGE_SIZE), stream, &[usize::MAX])
}

fn text(text: &str) -> Decoded {
    Decoded::Message(Payload::text(text))
}

#[test]
fn messages_control_frames_and_fragments_are_told_apart() {
    let stream = [
        frame(0x81, b"whole"),
        frame(0x01, "fr\u{e4}g".as_bytes().split_at(3).0),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x80, "fr\u{e4}g".as_bytes().split_at(3).1),
        frame(0x82, &[0xff; 300]),
        frame(0x8a, b"pong"),
        frame(0x81, b""),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let close = Ending::new(CloseCode(1000), "bye", Cause::Client);
    let expected = [
        text("whole"),
        Decoded::Ping(Bytes::from_static(b"ping")),
        text("fr\u{e4}g"),
        Decoded::Message(Payload::binary(vec![0xff; 300])),
        Decoded::Pong,
        text(""),
        Decoded::Close(close),
    ];
    for size in [1, 2, 3, 7, 64, usize::MAX] {
        let mut decoder = Decoder::new(MESSAGE_SIZE);
        let (found, violation) = decode(&mut decoder, &stream, &[size]);
        assert_eq!((&found[..], violation), (&expected[..], None), "in pieces of {size}");
        assert!(decoder.partial.is_none(), "nothing is held when nothing is under way");
    }
}

#[test]
fn what_breaks_the_protocol_is_named() {
    let protocol = Violation::Protocol;
    let cases: &[(&[u8], Violation)] = &[
        (&[0x91], protocol("reserved bits are set")),
        (&[0xa1], protocol("reserved bits are set")),
        (&[0xc1], protocol("reserved bits are set")),
        (&[0x83], protocol("reserved opcode")),
        (&[0x8f], protocol("reserved opcode")),
        (&[0x09], protocol("fragmented control frame")),
        (&[0x81, 0x01], protocol("frame without a mask")),
        (&[0x89, 0xfe], protocol("control frame larger than 125 bytes")),
        (&frame(0x80, b""), protocol("continuation of no message")),
        (&[frame(0x01, b"a"), frame(0x81, b"b")].concat(), protocol("message within a message")),
        (&frame_of(0x81, [0; 4], 2, 125, b""), protocol("length not in its shortest form")),
        (&frame_of(0x81, [0; 4], 8, 0xffff, b""), protocol("length not in its shortest form")),
        (&frame_of(0x82, [0; 4], 8, 1 << 63, b""), protocol("length of more than 63 bits")),
        (&frame(0x88, b"x"), protocol("close frame of one byte")),
        (&frame(0x88, &999_u16.to_be_bytes()), protocol("invalid close code")),
        (&frame(0x88, &1005_u16.to_be_bytes()), protocol("invalid close code")),
        (&frame(0x88, &5000_u16.to_be_bytes()), protocol("invalid close code")),
        (&frame(0x88, b"\x03\xe8\xff"), InvalidText.into()),
        (&frame(0x81, b"\xff"), InvalidText.into()),
        (&frame(0x81, b"a\xe2\x82"), InvalidText.into()),
        (&frame_of(0x82, [0; 4], 2, 1001, b""), Violation::TooLarge(1000)),
        (&frame_of(0x82, [0; 4], 8, i64::MAX as u64, b""), Violation::TooLarge(1000)),
        (&[frame(0x02, &[0; 600]), frame_of(0x80, [0; 4], 2, 401, b"")].concat(), Violation::TooLarge(1000)),
    ];
    for (stream, violation) in cases {
        for size in [1, usize::MAX] {
            let found = decode(&mut Decoder::new(MESSAGE_SIZE), stream, &[size]).1;
            assert_eq!(found.as_ref(), Some(violation), "{stream:x?}");
        }
    }
    for code in [1000, 1003, 1007, 1014, 3000, 4999_u16] {
        assert_eq!(decoded(&frame(0x88, &code.to_be_bytes())).1, None, "{code}");
    }
}

#[test]
fn packed_messages_are_told_by_their_first_frame() {
    let packed = |stream: &[u8]| {
        let mut decoder = Decoder::new(MESSAGE_SIZE);
        decoder.allow_packed();
        decode(&mut decoder, stream, &[usize::MAX])
    };
    // What is packed is not text yet.
    let stream =
        [frame(0xc1, b"\xff"), frame(0x42, b"a"), frame(0x89, b""), frame(0x80, b"b"), frame(0x81, b"c")].concat();
    let expected = vec![
        Decoded::Packed(Kind::Text, b"\xff".to_vec()),
        Decoded::Ping(Bytes::new()),
        Decoded::Packed(Kind::Binary, b"ab".to_vec()),
        text("c"),
    ];
    assert_eq!(packed(&stream), (expected, None));
    let reserved = Some(Violation::Protocol("reserved bits are set"));
    for stream in
        [[frame(0x41, b"a"), frame(0xc0, b"b")].concat(), frame(0xc9, b""), frame(0xc8, b""), frame(0xe1, b"")]
    {
        assert_eq!(packed(&stream).1, reserved, "{stream:x?}");
    }
    // It may be somewhat larger than what it becomes, and no more.
    let most = MESSAGE_SIZE + MESSAGE_SIZE / 4 + PACKED_EXCESS_BYTES;
    assert_eq!(packed(&frame(0xc2, &vec![0; most])).1, None);
    assert_eq!(packed(&frame(0xc2, &vec![0; most + 1])).1, Some(Violation::TooLarge(MESSAGE_SIZE)));
}

#[test]
fn a_text_that_cannot_be_one_is_refused_before_its_frame_is_whole() {
    let begun = &frame(0x01, b"good \xed\xa0 more")[..6 + 7];
    assert_eq!(decoded(begun).1, Some(InvalidText.into()));
    let fragments = [frame(0x01, b"good \xf4"), frame(0x00, b"\x90")].concat();
    assert_eq!(decoded(&fragments).1, Some(InvalidText.into()));
}

#[test]
fn fragments_without_end_are_refused_however_little_they_carry() {
    let mut stream = frame(0x01, b"");
    stream.extend(frame(0x00, b"").repeat((MESSAGE_SIZE + FRAMING_BYTES) / 6));
    assert_eq!(decoded(&stream).1, None);
    stream.extend(frame(0x00, b""));
    assert_eq!(decoded(&stream).1, Some(Violation::Endless));
}

#[test]
fn a_large_payload_is_read_straight_into_its_message() {
    use bytes::BufMut;
    let payload: Vec<u8> = (0..100_000).map(|at| b'a' + (at % 26) as u8).collect();
    let stream = frame(0x81, &payload);
    let mut decoder = Decoder::new(usize::MAX);
    let (first, mut rest) = stream.split_at(10_001);
    let mut at = 0;
    assert_eq!(decoder.decode(&mut first.to_vec(), &mut at), Ok(None));
    let mut found = None;
    while let Some(mut space) = decoder.space(1000) {
        let len = rest.len().min(space.remaining_mut()).min(7777);
        assert!(len > 0);
        space.put_slice(&rest[..len]);
        rest = &rest[len..];
        found = decoder.filled().expect("a text");
    }
    at = 0;
    let found = found.or_else(|| decoder.decode(&mut rest.to_vec(), &mut at).expect("a text"));
    assert!(found == Some(Decoded::Message(Payload::text(String::from_utf8(payload).expect("ASCII")))));
    assert!(decoder.partial.is_none());
}

#[test]
fn a_promise_takes_no_space() {
    let mut decoder = Decoder::new(usize::MAX);
    let mut promise = frame_of(0x82, [1; 4], 8, 1 << 40, b"few");
    assert_eq!(decoder.decode(&mut promise, &mut 0), Ok(None));
    assert!(decoder.space(1).is_some_and(|space| bytes::BufMut::remaining_mut(&space) <= 3));
    assert!(decoder.space(4).is_none(), "too little has come");
}

#[test]
fn the_state_of_a_quiet_connection_is_small() {
    assert!(size_of::<Decoder>() <= 24, "{}", size_of::<Decoder>());
}

/// A peer's frame, mostly as it should be.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80]),
        3 => prop::sample::select(vec![0x89_u8, 0x8a]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "[a-z\u{e4}\u{20ac}\u{1f600}]{0,60}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(97_u8..100, 120..400),
        1 => (0_u16..6000, "[a-z]{0,5}").prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat()),
    ];
    (first, payload, any::<[u8; 4]>()).prop_map(|(first, payload, mask)| {
        let form = if payload.len() > 125 { 2 } else { 0 };
        frame_of(first, mask, form, payload.len() as u64, &payload)
    })
}

/// Streams of frames, fragmented texts cut anywhere, sometimes with a byte changed or an end missing.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let fragmented = ("[a-z\u{e4}\u{20ac}\u{1f600}]{1,40}", 1_usize..10).prop_map(|(text, size)| {
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let last = pieces.len() - 1;
        let first = |at| if at == 0 { 1 } else { 0 } | if at == last { 0x80 } else { 0 };
        pieces.iter().enumerate().flat_map(|(at, piece)| frame(first(at), piece)).collect::<Vec<u8>>()
    });
    let close = (prop::sample::select(vec![1000_u16, 1001, 1005, 1012, 2999, 3000, 4999]), "[a-z]{0,5}")
        .prop_map(|(code, reason)| frame(0x88, &[&code.to_be_bytes()[..], reason.as_bytes()].concat()));
    let part = prop_oneof![4 => any_frame(), 3 => fragmented, 1 => close];
    let change = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(part, 1..8), change).prop_map(|(parts, change)| {
        let mut stream = parts.concat();
        if let Some((at, byte)) = change {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream
    })
}

/// Gives a stream in pieces; a read finds at most one, and would block after the last.
struct Chunks<'a> {
    left: &'a [u8],
    size: usize,
}

impl Read for Chunks<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let len = self.left.len().min(space.len()).min(self.size);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        space[..len].copy_from_slice(&self.left[..len]);
        self.left = &self.left[len..];
        Ok(len)
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of a stream: messages up to the close, and whether it found a violation.
fn oracle(stream: &[u8], size: usize) -> (Vec<Decoded>, bool) {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_SIZE)).max_frame_size(Some(MESSAGE_SIZE));
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut stream = Chunks { left: stream, size };
    let mut found = Vec::new();
    loop {
        found.push(match context.read(&mut stream) {
            Ok(tungstenite::Message::Text(read)) => text(read.as_str()),
            Ok(tungstenite::Message::Binary(bytes)) => Decoded::Message(Payload::binary(bytes)),
            Ok(tungstenite::Message::Ping(bytes)) => Decoded::Ping(bytes),
            Ok(tungstenite::Message::Pong(_)) => Decoded::Pong,
            Ok(tungstenite::Message::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                return (found, true);
            }
            Ok(tungstenite::Message::Close(close)) => {
                let code = close.as_ref().map_or(CloseCode::NO_STATUS, |close| CloseCode(close.code.into()));
                let reason = close.map(|close| close.reason.to_string()).unwrap_or_default();
                found.push(Decoded::Close(Ending::new(code, reason, Cause::Client)));
                return (found, false);
            }
            Ok(tungstenite::Message::Frame(_)) => unreachable!("never read"),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (found, false),
            Err(_) => return (found, true),
        });
    }
}

/// Ours, up to the close.
fn ours(stream: &[u8], pieces: &[usize]) -> (Vec<Decoded>, Option<Violation>) {
    let (mut found, mut violation) = decode(&mut Decoder::new(MESSAGE_SIZE), stream, pieces);
    if let Some(at) = found.iter().position(|decoded| matches!(decoded, Decoded::Close(_))) {
        found.truncate(at + 1);
        violation = None;
    }
    (found, violation)
}

/// Where we differ on purpose: what can be no message any more is refused before it is whole; a length has to be in its shortest form;
/// 1014 is a close code.
fn differs_on_purpose(ours: &Option<Violation>, ours_found: &[Decoded], oracle: bool) -> bool {
    match ours {
        Some(Violation::Protocol("length not in its shortest form")) => true,
        // The oracle waits for the rest of the frame, of the header or of the message.
        Some(_) => !oracle,
        None => matches!(ours_found.last(), Some(Decoded::Close(ending)) if ending.code.0 == 1014),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn tungstenite_finds_the_same(
        stream in any_stream(),
        pieces in prop::collection::vec(1_usize..200, 1..5),
        size in 1_usize..200,
        end in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let stream = &stream[..end.map_or(stream.len(), |end| end.index(stream.len()))];
        let (found, violation) = ours(stream, &pieces);
        let (expected, is_violation) = oracle(stream, size);
        if violation.is_some() && is_violation {
            // The oracle may take control frames before it sees that a text is none.
            prop_assert!(expected.starts_with(&found), "{found:?} {expected:?}");
        } else if violation.is_none() && !is_violation {
            prop_assert_eq!(&found, &expected);
        } else {
            prop_assert!(differs_on_purpose(&violation, &found, is_violation), "{violation:?} {is_violation} {found:?}");
            // Whatever is refused early, what came before is the same.
            let both = found.len().min(expected.len()).saturating_sub(usize::from(violation.is_none()));
            prop_assert_eq!(&found[..both], &expected[..both]);
        }
    }

    #[test]
    fn what_is_valid_is_never_refused(
        messages in prop::collection::vec(("[a-z\u{e4}\u{20ac}\u{1f600}]{0,80}", 1_usize..90, any::<bool>()), 1..6),
        pieces in prop::collection::vec(1_usize..100, 1..5),
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (message, size, with_pings) in &messages {
            let fragments: Vec<&[u8]> = message.as_bytes().chunks(*size).collect();
            for (at, fragment) in fragments.iter().enumerate() {
                stream.extend(frame(u8::from(at == 0), fragment));
                if *with_pings {
                    stream.extend(frame(0x89, fragment.get(..3).unwrap_or_default()));
                    expected.push(Decoded::Ping(Bytes::copy_from_slice(fragment.get(..3).unwrap_or_default())));
                }
            }
            stream.extend(frame(if fragments.is_empty() { 0x81 } else { 0x80 }, b""));
            expected.push(text(message));
        }
        prop_assert_eq!(ours(&stream, &pieces), (expected.clone(), None));
        prop_assert_eq!(oracle(&stream, pieces[0]), (expected, false));
    }

    #[test]
    fn the_pieces_that_a_stream_comes_in_change_nothing(
        stream in any_stream(),
        pieces in prop::collection::vec(1_usize..100, 1..5),
    ) {
        prop_assert_eq!(ours(&stream, &pieces), ours(&stream, &[usize::MAX]));
    }

    #[test]
    fn a_mask_is_undone_at_any_place(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        mask in any::<[u8; 4]>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut masked: Vec<u8> = bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let cut = cut.index(masked.len() + 1);
        let (start, end) = masked.split_at_mut(cut);
        unmask(start, mask);
        let mut rotated = mask;
        rotated.rotate_left(cut % 4);
        unmask(end, rotated);
        prop_assert_eq!(masked, bytes);
    }
}
