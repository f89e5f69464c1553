use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};
use proptest::prelude::*;

use super::*;

const SETTINGS: Compression = Compression { level: 6, min_size: 0, context_takeover: true, window_bits: 15 };
/// The examples of RFC 7692 section 7.2.3, each a "Hello".
const HELLO: [&[u8]; 4] = [
    b"\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
    b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
    b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
];

fn terms(server_takes_over: bool, client_takes_over: bool, window_bits: u8) -> Terms {
    Terms { server_takes_over, client_takes_over, server_window_bits: window_bits, client_window_bits: window_bits }
}

fn deflate(takes_over: bool, window_bits: u8) -> Deflate {
    Deflate::new(terms(takes_over, takes_over, window_bits), &SETTINGS)
}

fn agreed(settings: &Compression, offers: &str) -> Option<String> {
    agree(settings, [offers]).map(|terms| terms.to_string())
}

/// Bytes of what was sent and of what was received.
fn held_by(deflate: &Deflate) -> (usize, usize) {
    let bytes = |history: &Option<History>| history.as_ref().map_or(0, |history| history.0.capacity());
    deflate.histories.as_ref().map_or((0, 0), |histories| (bytes(&histories.sent), bytes(&histories.received)))
}

/// A client that keeps its compressors, as the standard has it.
struct Client {
    compress: Compress,
    decompress: Decompress,
}

impl Client {
    fn new(level: u8, window_bits: u8) -> Self {
        Self {
            compress: Compress::new_with_window_bits(flate2::Compression::new(level.into()), false, window_bits),
            decompress: Decompress::new_with_window_bits(false, window_bits),
        }
    }

    fn pack(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(bytes.len() + 1000);
        self.compress.compress_vec(bytes, &mut packed, FlushCompress::Sync).expect("packed");
        // Of nothing behind nothing there is not even a flush.
        packed.truncate(packed.len().saturating_sub(4));
        packed
    }

    /// In small pieces, so that nothing is found that the window does not hold.
    fn unpack(&mut self, packed: &[u8]) -> Vec<u8> {
        let packed = [packed, &[0, 0, 0xff, 0xff]].concat();
        let (mut left, mut plain) = (&packed[..], Vec::new());
        loop {
            let mut piece = Vec::with_capacity(16);
            let before = self.decompress.total_in();
            self.decompress.decompress_vec(left, &mut piece, FlushDecompress::None).expect("unpacked");
            left = &left[(self.decompress.total_in() - before) as usize..];
            plain.extend_from_slice(&piece);
            if left.is_empty() && piece.len() < 16 {
                return plain;
            }
        }
    }
}

#[test]
fn the_examples_of_the_standard_are_read() {
    for packed in HELLO {
        let payload = deflate(false, 15).unpack(Kind::Text, packed, 5);
        assert_eq!(payload, Ok(Payload::text("Hello")), "{packed:x?}");
    }
    for empty in [&b"\x00"[..], b""] {
        assert_eq!(deflate(false, 15).unpack(Kind::Text, empty, 0), Ok(Payload::text("")));
    }
    let mut keeping = deflate(true, 15);
    for packed in [HELLO[0], b"\xf2\x00\x11\x00\x00"] {
        assert_eq!(keeping.unpack(Kind::Text, packed, 5), Ok(Payload::text("Hello")));
    }
    let refused = deflate(false, 15).unpack(Kind::Text, b"\xf2\x00\x11\x00\x00", 5);
    assert_eq!(refused, Err(Violation::Packed), "refers to what was not kept");
    assert_eq!(keeping.pack(&Payload::text("Hello, Hello, Hello")).as_deref().map(|bytes| bytes[0] & 1), Some(0));
}

#[test]
fn what_is_no_whole_message_is_refused() {
    let text = "one two three, one two three, four five six. ".repeat(3);
    let whole = pool::pack(6, 15, &[], text.as_bytes()).expect("smaller");
    for end in 1..whole.len() {
        assert_eq!(pool::unpack(&[], &whole[..end], 1000), Err(Violation::Packed), "cut at {end}");
    }
    for behind in [&b"\x12\x34"[..], b"\xff", b"\x00", b"more"] {
        let found = pool::unpack(&[], &[&whole, behind].concat(), 1000);
        assert!(found.is_err() || found == Ok(text.clone().into()), "{behind:x?}: {found:?}");
    }
    // A reserved kind of block; text that is none.
    assert_eq!(pool::unpack(&[], b"\x07", 1000), Err(Violation::Packed));
    let torn = pool::pack(6, 15, &[], &[0xff; 100]).expect("smaller");
    assert_eq!(deflate(false, 15).unpack(Kind::Text, &torn, 1000), Err(InvalidText.into()));
}

#[test]
fn final_blocks_may_come_early_but_not_without_end() {
    // "Hello" in a final block, again and again: the last one has the padding that the standard asks for.
    let last = HELLO[2];
    let again = &last[..last.len() - 1];
    let packed = [again.repeat(3), last.to_vec()].concat();
    assert_eq!(pool::unpack(&[], &packed, 100), Ok(b"Hello".repeat(4)));
    assert_eq!(pool::unpack(&[], again, 100), Ok(b"Hello".to_vec()), "some leave the padding out");
    let endless = b"\x03\x00".repeat(10_000);
    assert_eq!(pool::unpack(&[], &endless, 100), Err(Violation::Packed));
    // What comes behind a final block may refer to what was before it.
    let history = b"0123456789 abcdef ";
    let mut compress = Compress::new(flate2::Compression::new(6), false);
    compress.set_dictionary(&[&history[..], b"Hello"].concat()).expect("a dictionary");
    let mut behind = Vec::with_capacity(100);
    compress.compress_vec(b"Hello 0123456789", &mut behind, FlushCompress::Sync).expect("packed");
    behind.truncate(behind.len() - 4);
    let packed = [again, &behind].concat();
    assert_eq!(pool::unpack(history, &packed, 100), Ok(b"HelloHello 0123456789".to_vec()));
}

#[test]
fn a_bomb_is_cut_at_the_limit() {
    let bomb = pool::pack(9, 15, &[], &vec![0; 10_000_000]).expect("smaller");
    assert!(bomb.len() < 20_000);
    assert_eq!(pool::unpack(&[], &bomb, 1000), Err(Violation::TooLarge(1000)));
    assert_eq!(pool::unpack(&[], &bomb, 9_999_999), Err(Violation::TooLarge(9_999_999)));
    assert_eq!(
        pool::unpack(&[], &bomb, 10_000_000).map(|bytes| (bytes.len(), bytes.capacity())),
        Ok((10_000_000, 10_000_000))
    );
}

#[test]
fn what_compression_does_not_make_smaller_is_sent_as_it_is() {
    let mut deflate = deflate(true, 15);
    let noise: Vec<u8> = (0..1000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    assert_eq!(deflate.pack(&Payload::binary(noise)), None);
    assert_eq!(deflate.pack(&Payload::text("")), None);
    assert_eq!(held_by(&deflate), (0, 0), "nor does the client keep it");
    deflate.set(Some(&Compression { min_size: 100, ..SETTINGS }));
    assert_eq!(deflate.pack(&Payload::text("a".repeat(99))), None);
    assert!(deflate.pack(&Payload::text("a".repeat(100))).is_some());
    deflate.set(None);
    assert_eq!(deflate.pack(&Payload::text("a".repeat(1000))), None, "compression was turned off");
    assert!(deflate.unpack(Kind::Text, HELLO[0], 100).is_ok(), "what was agreed upon stays");
}

#[test]
fn a_message_to_many_is_packed_once_for_each_level_and_window() {
    let payload = Payload::text("a".repeat(1000)).for_many();
    let packed = |level, window_bits| {
        let settings = Compression { level, ..SETTINGS };
        Deflate::new(terms(false, false, window_bits), &settings).pack(&payload.clone()).expect("smaller")
    };
    let first = packed(6, 15);
    assert_eq!(first.as_ptr(), packed(6, 15).as_ptr());
    assert_ne!(first.as_ptr(), packed(6, 10).as_ptr());
    assert_ne!(first.as_ptr(), packed(1, 15).as_ptr());
}

#[test]
fn a_connection_holds_no_more_than_its_windows() {
    assert_eq!(size_of::<Option<Deflate>>(), 16);
    assert!(deflate(false, 10).histories.is_none());
    let text = Payload::text("0123456789".repeat(100));
    let packed = deflate(true, 10).pack(&text).expect("smaller");
    for (takes_over, held) in [(false, 0), (true, 1024)] {
        let mut deflate = deflate(takes_over, 10);
        for _ in 0..20 {
            deflate.pack(&text);
            deflate.unpack(Kind::Text, &packed, 1000).expect("a text");
        }
        assert_eq!(held_by(&deflate), (held, held));
    }
}

#[test]
fn an_offer_is_accepted_as_far_as_the_settings_go() {
    let plain = Compression { context_takeover: false, ..SETTINGS };
    let none = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let small = Compression { window_bits: 10, ..SETTINGS };
    let cases = [
        (plain, "permessage-deflate", Some(none.to_owned())),
        (plain, "permessage-deflate; client_max_window_bits", Some(none.to_owned())),
        (plain, "permessage-deflate; server_max_window_bits=10", Some(format!("{none}; server_max_window_bits=10"))),
        (plain, "permessage-deflate;server_max_window_bits = \"9\"", Some(format!("{none}; server_max_window_bits=9"))),
        (plain, "permessage-deflate; client_max_window_bits=8", Some(format!("{none}; client_max_window_bits=8"))),
        (plain, "x-webkit-deflate-frame, permessage-deflate", Some(none.to_owned())),
        (plain, "a; b=\"permessage-deflate, x\"; c", None),
        (plain, "", None),
        (plain, "permessage-deflate; unknown", None),
        (plain, "permessage-deflate; unknown, permessage-deflate", Some(none.to_owned())),
        (plain, "permessage-deflate; server_no_context_takeover=1", None),
        (plain, "permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        (plain, "permessage-deflate; client_max_window_bits; client_max_window_bits=10", None),
        (plain, "permessage-deflate; server_max_window_bits", None),
        (plain, "permessage-deflate; server_max_window_bits=7", None),
        (plain, "permessage-deflate; server_max_window_bits=16", None),
        (plain, "permessage-deflate; server_max_window_bits=010", None),
        (plain, "permessage-deflate; server_max_window_bits=+9", None),
        (plain, "permessage-deflate; client_max_window_bits=\"10", None),
        // Ours would take nine bits for eight.
        (plain, "permessage-deflate; server_max_window_bits=8", None),
        (plain, "permessage-deflate; server_max_window_bits=8, permessage-deflate", Some(none.to_owned())),
        (SETTINGS, "permessage-deflate", Some("permessage-deflate".to_owned())),
        (
            SETTINGS,
            "permessage-deflate; client_no_context_takeover",
            Some("permessage-deflate; client_no_context_takeover".to_owned()),
        ),
        (
            SETTINGS,
            "permessage-deflate; server_no_context_takeover",
            Some("permessage-deflate; server_no_context_takeover".to_owned()),
        ),
        // A client that cannot make its window smaller does not take over.
        (
            small,
            "permessage-deflate",
            Some("permessage-deflate; client_no_context_takeover; server_max_window_bits=10".to_owned()),
        ),
        (
            small,
            "permessage-deflate; client_max_window_bits; server_max_window_bits=12",
            Some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=10".to_owned()),
        ),
    ];
    for (settings, offers, answer) in cases {
        assert_eq!(agreed(&settings, offers), answer, "{offers}");
    }
    let two = agree(&plain, ["x-other; a=\"b", "permessage-deflate"]).map(|terms| terms.to_string());
    assert_eq!(two.as_deref(), Some(none), "a header that is none spoils no other");
}

fn any_messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let message = prop_oneof![
        4 => ("[a-d]{1,9}", 1_usize..3000).prop_map(|(word, count)| word.repeat(count).into_bytes()),
        2 => "[ -~]{0,300}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..3000),
    ];
    prop::collection::vec(message, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_client_that_keeps_its_compressors_understands_and_is_understood(
        messages in any_messages(),
        (level, server_takes_over, client_takes_over) in (1_u8..=9, any::<bool>(), any::<bool>()),
        window_bits in 9_u8..=15,
    ) {
        let settings = Compression { level, ..SETTINGS };
        let mut ours = Deflate::new(terms(server_takes_over, client_takes_over, window_bits), &settings);
        let mut client = Client::new(level, window_bits);
        for message in messages {
            if let Some(packed) = ours.pack(&Payload::binary(message.clone())) {
                prop_assert!(packed.len() < message.len());
                if !server_takes_over {
                    client.decompress = Decompress::new_with_window_bits(false, window_bits);
                }
                prop_assert!(client.unpack(&packed) == message);
            }
            if !client_takes_over {
                client.compress.reset();
            }
            let packed = client.pack(&message);
            let unpacked = ours.unpack(Kind::Binary, &packed, message.len());
            prop_assert!(unpacked == Ok(Payload::binary(message)), "{unpacked:?}");
        }
        let most = |takes_over| if takes_over { 1 << window_bits } else { 0 };
        let (sent, received) = held_by(&ours);
        prop_assert!(sent <= most(server_takes_over) && received <= most(client_takes_over));
    }

    #[test]
    fn any_bytes_are_unpacked_or_refused(
        history in prop::collection::vec(any::<u8>(), 0..100),
        mut packed in prop::collection::vec(any::<u8>(), 0..300),
        valid in prop::option::of((any_messages(), any::<prop::sample::Index>(), any::<u8>())),
    ) {
        if let Some((messages, at, byte)) = valid {
            packed = Client::new(6, 15).pack(&messages.concat());
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        if let Ok(plain) = pool::unpack(&history, &packed, 5000) {
            prop_assert!(plain.len() <= 5000);
        }
    }

    #[test]
    fn any_offer_is_read(offer in "(permessage-deflate|x)?([;,=\" ]{0,2}(server|client)?(_no_context_takeover|_max_window_bits)?[0-9=\"]{0,3}){0,4}") {
        if let Some(terms) = agree(&SETTINGS, [offer.as_str()]) {
            // Our own answer is a valid offer, and comes to the same.
            prop_assert_eq!(agree(&SETTINGS, [terms.to_string().as_str()]), Some(terms));
        }
    }
}
