//! The head of an HTTP/1.1 response: its status, the headers that may matter, and how its body ends (RFC 9112, section 6.3).
//! Pure; must not know streams.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httparse::{ParserConfig, Response, Status};

use super::{Framing, Http1Error};
use crate::upstream::contract::has_meaning;

const HEADERS_MAX: usize = 100;

/// A head that was read.
#[derive(Debug)]
pub struct Parsed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection stays open behind the body.
    pub is_reusable: bool,
}

/// What the headers say about the body and the connection.
#[derive(Default)]
struct Says {
    length: Option<usize>,
    /// The codings that were applied, `chunked` the last of them.
    chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
}

/// Reads a head and says how long it is; none if it is not whole yet.
pub fn parse(bytes: &[u8]) -> Result<Option<(Parsed, usize)>, Http1Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Http1Error::Parse("too many headers")),
        Err(_) => return Err(Http1Error::Parse("a malformed head")),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Http1Error::Parse("an invalid status"))?;
    let (mut kept, mut says) = (HeaderMap::new(), Says::default());
    for header in response.headers.iter() {
        says.hear(header.name, header.value)?;
        if has_meaning(header.name) {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let name = name.map_err(|_| Http1Error::Parse("an invalid header name"))?;
            kept.append(name, value(header.value)?);
        }
    }
    let framing = says.framing(status);
    let is_1_1 = response.version == Some(1);
    let is_kept = !says.close && (is_1_1 || says.keep_alive);
    // Whoever says both may mean two ends of a body, and HTTP/1.0 knows no chunks.
    let has_one_end = says.chunked.is_none() || (is_1_1 && says.length.is_none());
    let is_reusable = is_kept && framing != Framing::UntilClose && has_one_end;
    Ok(Some((Parsed { status, headers: kept, framing, is_reusable }, length)))
}

/// The commonest value is not copied.
fn value(bytes: &[u8]) -> Result<HeaderValue, Http1Error> {
    match bytes {
        b"application/json" => Ok(HeaderValue::from_static("application/json")),
        _ => HeaderValue::from_bytes(bytes).map_err(|_| Http1Error::Parse("an invalid header value")),
    }
}

impl Says {
    fn hear(&mut self, name: &str, value: &[u8]) -> Result<(), Http1Error> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = length(value).ok_or(Http1Error::Parse("an invalid content-length"))?;
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err(Http1Error::Parse("two values of content-length"));
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // What no coding is called may be read in two ways.
            if !value.is_ascii() {
                return Err(Http1Error::Parse("an invalid transfer-encoding"));
            }
            self.chunked = Some(tokens(value).last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")));
        } else if name.eq_ignore_ascii_case("connection") {
            self.close |= !value.is_ascii() || tokens(value).any(|token| token.eq_ignore_ascii_case(b"close"));
            self.keep_alive |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"keep-alive"));
        }
        Ok(())
    }

    fn framing(&self, status: StatusCode) -> Framing {
        if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Framing::Length(0);
        }
        match (self.chunked, self.length) {
            (Some(true), _) => Framing::Chunked,
            (Some(false), _) | (None, None) => Framing::UntilClose,
            (None, Some(length)) => Framing::Length(length),
        }
    }
}

/// Digits, or the same digits several times (RFC 9112, section 6.3: a list of equal values is one).
fn length(value: &[u8]) -> Option<usize> {
    let mut lengths = tokens(value).map(|digits| {
        let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        text.parse::<usize>().ok()
    });
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Parsed {
        let whole = format!("{text}\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        let (head, length) = parse(whole.as_bytes()).expect("a head").expect("whole");
        assert_eq!(length, whole.len());
        head
    }

    #[test]
    fn the_end_of_a_body_is_found_as_the_standard_says() {
        use Framing::{Chunked, Length, UntilClose};
        for (text, framing, is_reusable) in [
            ("HTTP/1.1 200 OK\ncontent-length: 5", Length(5), true),
            ("HTTP/1.1 200 OK\nContent-Length: 5\nconnection: Close", Length(5), false),
            ("HTTP/1.1 200\ncontent-length: 5, 5", Length(5), true),
            ("HTTP/1.1 200 OK\ntransfer-encoding: chunked", Chunked, true),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, Chunked", Chunked, true),
            ("HTTP/1.1 200 OK\ntransfer-encoding: chunked\ncontent-length: 5", Chunked, false),
            ("HTTP/1.1 200 OK\ntransfer-encoding: gzip", UntilClose, false),
            ("HTTP/1.1 200 OK", UntilClose, false),
            ("HTTP/1.1 204 No Content", Length(0), true),
            ("HTTP/1.1 304 Not Modified\ncontent-length: 5", Length(0), true),
            ("HTTP/1.0 200 OK\ncontent-length: 5", Length(5), false),
            ("HTTP/1.0 200 OK\ncontent-length: 5\nconnection: Keep-Alive", Length(5), true),
            ("HTTP/1.1 200 OK\ncontent-length: 5\nconnection: \u{fc}", Length(5), false),
            ("HTTP/1.0 200 OK\ntransfer-encoding: chunked\nconnection: keep-alive", Chunked, false),
        ] {
            let head = parsed(text);
            assert_eq!((head.framing, head.is_reusable), (framing, is_reusable), "{text}");
        }
    }

    #[test]
    fn only_headers_with_a_meaning_are_kept() {
        let head = parsed(
            "HTTP/1.1 200 OK\nDate: now\nContent-Type: text/plain\nHoldfast-Join: a\nholdfast-join: b\nx-request-id: 1\n\
             content-length: 0",
        );
        let kept: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 3] =
            [("content-type", b"text/plain"), ("holdfast-join", b"a"), ("holdfast-join", b"b")];
        assert_eq!(kept, expected);
    }

    #[test]
    fn what_is_no_head_is_refused_and_what_is_not_whole_awaited() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzi\u{fc}, chunked\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)),
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(Http1Error::Parse(_))), "{text}");
        }
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        for length in 0..whole.len() {
            assert!(matches!(parse(&whole[..length]), Ok(None)), "{length}");
        }
    }
}
