//! What client and server agree upon in the handshake (RFC 7692 sections 5 and 7.1). Must not know HTTP.

use std::fmt;

use crate::snapshot::Compression;

const NAME: &str = "permessage-deflate";
const SERVER_NO_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";
const WINDOW_BITS_MAX: u8 = 15;
/// The smallest window that our compressor has. A client that asks for 8 bits cannot be served: the library would take 9.
const OUR_WINDOW_BITS_MIN: u8 = 9;

/// What was agreed upon. As text it is the answer to the client's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub server_takes_over: bool,
    pub client_takes_over: bool,
    pub server_window_bits: u8,
    pub client_window_bits: u8,
}

/// What a client offers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Offer {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_window: Option<u8>,
    /// Given, and perhaps with a value.
    client_window: Option<Option<u8>>,
}

/// The terms of the first offer that can be accepted. `headers` are the values of `Sec-WebSocket-Extensions`.
pub fn agree<'a>(settings: &Compression, headers: impl IntoIterator<Item = &'a str>) -> Option<Terms> {
    let offers = headers.into_iter().flat_map(|header| split(header, ','));
    offers.filter_map(read).find_map(|offer| accept(settings, &offer))
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        for (parameter, is_given) in
            [(SERVER_NO_TAKEOVER, !self.server_takes_over), (CLIENT_NO_TAKEOVER, !self.client_takes_over)]
        {
            if is_given {
                write!(f, "; {parameter}")?;
            }
        }
        for (parameter, bits) in [(SERVER_WINDOW, self.server_window_bits), (CLIENT_WINDOW, self.client_window_bits)] {
            if bits < WINDOW_BITS_MAX {
                write!(f, "; {parameter}={bits}")?;
            }
        }
        Ok(())
    }
}

fn accept(settings: &Compression, offer: &Offer) -> Option<Terms> {
    let server_window_bits = offer.server_window.unwrap_or(WINDOW_BITS_MAX).min(settings.window_bits);
    if server_window_bits < OUR_WINDOW_BITS_MIN {
        return None;
    }
    // Only a client that says so can be asked for a smaller window; without that, taking over would cost the largest.
    let client_window_bits = match offer.client_window {
        Some(bits) => bits.unwrap_or(WINDOW_BITS_MAX).min(settings.window_bits),
        None => WINDOW_BITS_MAX,
    };
    Some(Terms {
        server_takes_over: settings.context_takeover && !offer.server_no_takeover,
        client_takes_over: settings.context_takeover
            && !offer.client_no_takeover
            && client_window_bits <= settings.window_bits,
        server_window_bits,
        client_window_bits,
    })
}

/// Reads one offer. None if it is of another extension, or not to be accepted: an unknown parameter, one twice, a value that is none.
fn read(offer: &str) -> Option<Offer> {
    let mut parts = split(offer, ';');
    if parts.next()? != NAME {
        return None;
    }
    let mut read = Offer::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
            None => (part, None),
        };
        let is_first = match (name, value) {
            (SERVER_NO_TAKEOVER, None) => !std::mem::replace(&mut read.server_no_takeover, true),
            (CLIENT_NO_TAKEOVER, None) => !std::mem::replace(&mut read.client_no_takeover, true),
            (SERVER_WINDOW, Some(value)) => read.server_window.replace(window_bits(value)?).is_none(),
            (CLIENT_WINDOW, None) => read.client_window.replace(None).is_none(),
            (CLIENT_WINDOW, Some(value)) => read.client_window.replace(Some(window_bits(value)?)).is_none(),
            _ => false,
        };
        if !is_first {
            return None;
        }
    }
    Some(read)
}

/// 8 to 15 in decimal, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=WINDOW_BITS_MAX).contains(bits))?;
    (value.len() == if bits < 10 { 1 } else { 2 }).then_some(bits)
}

/// A parameter's value may be a quoted string; what is in it has to be a token all the same.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|value| !value.contains('"')),
        None => Some(value),
    }
}

/// The trimmed parts between separators that are in no quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let between = move |c: char| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    };
    text.split(between).map(str::trim)
}
