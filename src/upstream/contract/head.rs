//! Where the headers of a request are written: straight into the lines of HTTP/1.1, or into a map for HTTP/2.
//! Must not know what the headers say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most headers that a request has beside those that every one bears.
const HEADERS_MAX: usize = 18;
/// Room for every value of a usual event, so that the buffer is allocated once.
const VALUES_BYTES: usize = 384;

/// Takes headers.
pub trait Head {
    /// Takes those that every request bears.
    fn fixed(&mut self, fixed: &Fixed);

    /// Takes one, whose value is what `write` writes: only visible ASCII.
    fn put(&mut self, name: &'static HeaderName, write: impl FnOnce(&mut Vec<u8>));
}

/// Headers that never change, ready for either way. They may be secret.
pub struct Fixed {
    headers: Vec<(HeaderName, HeaderValue)>,
    lines: Vec<u8>,
}

impl Fixed {
    pub fn new(headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &headers {
            line(&mut lines, name, |lines| lines.extend_from_slice(value.as_bytes()));
        }
        Self { headers, lines }
    }
}

impl std::fmt::Debug for Fixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.headers.iter().map(|(name, _)| name)).finish()
    }
}

/// The lines of HTTP/1.1.
pub struct Lines<'a>(pub &'a mut Vec<u8>);

impl Head for Lines<'_> {
    fn fixed(&mut self, fixed: &Fixed) {
        self.0.extend_from_slice(&fixed.lines);
    }

    fn put(&mut self, name: &'static HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        line(self.0, name, write);
    }
}

/// A map, whose values share one allocation.
pub struct Map {
    headers: HeaderMap,
    values: Vec<u8>,
    /// Names, and where their values end.
    ends: Vec<(&'static HeaderName, usize)>,
}

impl Default for Map {
    fn default() -> Self {
        let headers = HeaderMap::with_capacity(HEADERS_MAX);
        Self { headers, values: Vec::with_capacity(VALUES_BYTES), ends: Vec::with_capacity(HEADERS_MAX) }
    }
}

impl Map {
    pub fn into_headers(self) -> HeaderMap {
        let (mut headers, values) = (self.headers, Bytes::from(self.values));
        let mut begin = 0;
        for (name, end) in self.ends {
            // Only visible ASCII was written, and that is always a value.
            let value = HeaderValue::from_maybe_shared(values.slice(begin..end));
            headers.insert(name, value.unwrap_or(HeaderValue::from_static("")));
            begin = end;
        }
        headers
    }
}

impl Head for Map {
    fn fixed(&mut self, fixed: &Fixed) {
        for (name, value) in &fixed.headers {
            self.headers.append(name, value.clone());
        }
    }

    fn put(&mut self, name: &'static HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.values);
        self.ends.push((name, self.values.len()));
    }
}

fn line(lines: &mut Vec<u8>, name: &HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
    lines.extend_from_slice(name.as_str().as_bytes());
    lines.extend_from_slice(b": ");
    write(lines);
    lines.extend_from_slice(b"\r\n");
}
