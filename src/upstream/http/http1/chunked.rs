//! A chunked body (RFC 9112, section 7.1), put together as its bytes come in. Pure; must not know streams.

use bytes::{Buf as _, Bytes, BytesMut};
use httparse::Status;

use super::Http1Error;

/// The longest line before a chunk, and the longest trailer line.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// Trailers, which mean nothing here, together.
const TRAILERS_MAX: usize = 100;

/// A body that is being put together.
pub struct Chunks {
    body: BytesMut,
    bytes_max: usize,
    next: Next,
}

/// What the next bytes are.
enum Next {
    Size,
    Data(usize),
    /// The line's end behind a chunk.
    End,
    /// How many there were.
    Trailer(usize),
    Done,
}

impl Chunks {
    pub fn new(bytes_max: usize) -> Self {
        Self { body: BytesMut::new(), bytes_max, next: Next::Size }
    }

    /// Takes what it can; true once the body is whole. Bytes behind it are left.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<bool, Http1Error> {
        loop {
            self.next = match self.next {
                Next::Done => return Ok(true),
                Next::Size => {
                    let (length, size) = match httparse::parse_chunk_size(bytes) {
                        Ok(Status::Complete(found)) if found.0 <= LINE_BYTES_MAX => found,
                        Ok(Status::Partial) if bytes.len() < LINE_BYTES_MAX => return Ok(false),
                        Ok(_) => return Err(Http1Error::Parse("a line that is too long")),
                        Err(_) => return Err(Http1Error::Parse("a malformed chunk")),
                    };
                    bytes.advance(length);
                    let size = usize::try_from(size).map_err(|_| Http1Error::TooLarge)?;
                    if size > self.bytes_max - self.body.len() {
                        return Err(Http1Error::TooLarge);
                    }
                    if size == 0 { Next::Trailer(0) } else { Next::Data(size) }
                }
                Next::Data(size) => {
                    let taken = size.min(bytes.len());
                    self.body.extend_from_slice(&bytes[..taken]);
                    bytes.advance(taken);
                    match size - taken {
                        0 => Next::End,
                        left => {
                            self.next = Next::Data(left);
                            return Ok(false);
                        }
                    }
                }
                Next::End => match line(bytes)? {
                    None => return Ok(false),
                    Some(0) => Next::Size,
                    Some(_) => return Err(Http1Error::Parse("a chunk that is longer than its size")),
                },
                Next::Trailer(before) => match line(bytes)? {
                    None => return Ok(false),
                    Some(0) => Next::Done,
                    Some(_) if before < TRAILERS_MAX => Next::Trailer(before + 1),
                    Some(_) => return Err(Http1Error::Parse("too many trailers")),
                },
            };
        }
    }

    pub fn into_body(self) -> Bytes {
        self.body.freeze()
    }
}

/// Takes a whole line away and says how long it was, without its end.
fn line(bytes: &mut BytesMut) -> Result<Option<usize>, Http1Error> {
    match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        None if bytes.len() >= LINE_BYTES_MAX => Err(Http1Error::Parse("a line that is too long")),
        None => Ok(None),
        Some(end) if end > 0 && bytes[end - 1] == b'\r' => {
            bytes.advance(end + 1);
            Ok(Some(end - 1))
        }
        Some(_) => Err(Http1Error::Parse("a line that ends wrongly")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(text: &[u8], bytes_max: usize) -> Result<Option<(Bytes, usize)>, Http1Error> {
        let (mut chunks, mut bytes) = (Chunks::new(bytes_max), BytesMut::from(text));
        Ok(chunks.decode(&mut bytes)?.then(|| (chunks.into_body(), bytes.len())))
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let text = b"5;name=value\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\nC: d\r\n\r\nnext";
        assert_eq!(decode(text, 6).expect("chunks"), Some((Bytes::from("hello!"), 4)));
        assert_eq!(decode(b"0\r\n\r\n", 0).expect("chunks"), Some((Bytes::new(), 0)));
    }

    #[test]
    fn what_is_wrong_or_too_large_is_refused() {
        for text in ["x\r\n", "-1\r\n", "5\r\nhello!\r\n", "5\r\nhello\n0\r\n\r\n", "fffffffffffffffff\r\n"] {
            assert!(matches!(decode(text.as_bytes(), 100), Err(Http1Error::Parse(_))), "{text}");
        }
        assert!(matches!(decode(b"6\r\n", 5), Err(Http1Error::TooLarge)));
        assert!(matches!(decode(b"3\r\nabc\r\n3\r\n", 5), Err(Http1Error::TooLarge)));
        assert!(matches!(decode(b"ffffffffffffffff\r\n", 5), Err(Http1Error::TooLarge)));
        let endless = [b"1;".as_slice(), &[b'a'; 5000]].concat();
        assert!(matches!(decode(&endless, 5), Err(Http1Error::Parse(_))));
        // However it comes.
        let whole = [&endless[..], b"\r\na\r\n0\r\n\r\n"].concat();
        assert!(matches!(decode(&whole, 5), Err(Http1Error::Parse(_))));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert!(matches!(decode(trailers.as_bytes(), 5), Err(Http1Error::Parse(_))));
    }

    proptest! {
        #[test]
        fn it_matters_not_how_the_bytes_come(parts in prop::collection::vec("[a-z\r\n]{1,20}", 0..6), cut in 1_usize..7) {
            let mut text: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
            text.push_str("0\r\n\r\nrest");
            let (mut chunks, mut bytes) = (Chunks::new(1000), BytesMut::new());
            let mut done = false;
            for piece in text.as_bytes().chunks(cut) {
                bytes.extend_from_slice(piece);
                done = chunks.decode(&mut bytes).expect("chunks");
            }
            prop_assert!(done);
            prop_assert_eq!(chunks.into_body(), parts.concat());
            prop_assert_eq!(bytes, "rest");
        }
    }
}
