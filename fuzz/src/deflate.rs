//! permessage-deflate both ways. Input: a byte for the terms, one for the largest message, then pieces, each behind its length. Each
//! piece is unpacked as a client's message, and packed as ours for a client that agreed to the same. The handshake's offer is any text.

use holdfast::message::{Kind, Payload};
use holdfast::session::deflate::{Deflate, Terms, agree};
use holdfast::snapshot::Compression;

/// What a length counts, so that one byte reaches messages that fill a window.
const UNIT_BYTES: usize = 16;

pub fn run(data: &[u8]) {
    let [terms, limit, pieces @ ..] = data else { return };
    let window_bits = 9 + terms % 7;
    let takes_over = terms & 0x80 != 0;
    let settings = Compression { level: 1 + limit % 9, min_size: 0, context_takeover: takes_over, window_bits };
    if let Ok(offer) = std::str::from_utf8(pieces)
        && let Some(terms) = agree(&settings, [offer])
    {
        assert!(window_bits >= terms.server_window_bits.max(9) && (8..=15).contains(&terms.client_window_bits));
        assert_eq!(agree(&settings, [terms.to_string().as_str()]), Some(terms), "{terms} is another offer than it was");
    }
    let terms = Terms {
        server_takes_over: takes_over,
        client_takes_over: takes_over,
        server_window_bits: window_bits,
        client_window_bits: window_bits,
    };
    let deflate = || Deflate::new(terms, &settings);
    let (mut ours, mut theirs, mut hostile) = (deflate(), deflate(), deflate());
    let limit = usize::from(*limit) * UNIT_BYTES;
    let mut pieces = pieces;
    while let [len, rest @ ..] = pieces {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*len) * UNIT_BYTES));
        pieces = rest;
        if let Ok(payload) = hostile.unpack(Kind::Binary, piece, limit) {
            assert!(payload.len() <= limit, "{} bytes, at most {limit}", payload.len());
        }
        // Repeated, so that there is something to pack.
        let payload = Payload::binary(piece.repeat(3));
        if let Some(packed) = ours.pack(&payload) {
            assert!(packed.len() < payload.len(), "packed, but not smaller");
            assert!(
                theirs.unpack(Kind::Binary, &packed, payload.len()) == Ok(payload),
                "another message than was packed"
            );
        }
    }
}
