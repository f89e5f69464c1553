//! Whose address a connection has. Input: a line `proxy`, then the bytes of a connection that begins with a PROXY protocol header; or a
//! line `x-forwarded-for` or `forwarded`, then lines of that header. Whatever a client writes, the address that the proxy adds counts.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use holdfast::listener::client_address::read_proxy_header;
use holdfast::listener::{AddressHeader, ProxySettings};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::check;
use super::pipe::Pipe;

const PROXY: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);
const STRANGER: ([u8; 4], u16) = ([203, 0, 113, 9], 4000);
/// What the proxy says of its client.
const CLIENT: [u8; 4] = [198, 51, 100, 7];

pub fn run(data: &[u8]) {
    let mut rest = data;
    match check::line(&mut rest) {
        b"proxy" => proxy_protocol(rest),
        b"x-forwarded-for" => header(AddressHeader::XForwardedFor, "x-forwarded-for", "", rest),
        b"forwarded" => header(AddressHeader::Forwarded, "forwarded", "for=", rest),
        _ => {}
    }
}

fn header(header: AddressHeader, name: &'static str, before: &str, lines: &[u8]) {
    let trusted = vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let settings = ProxySettings { trusted, header, protocol: false };
    let mut headers = HeaderMap::new();
    let values = lines.split(|byte| *byte == b'\n').take(20);
    for value in values.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(HeaderName::from_static(name), value);
    }
    let (proxy, stranger) = (SocketAddr::from(PROXY), SocketAddr::from(STRANGER));
    assert_eq!(settings.client_of(stranger, &headers), stranger, "an untrusted peer's word counts");
    assert_eq!(settings.client_of(proxy, &HeaderMap::new()), proxy);
    // The proxy adds what it knows: as a line of its own, or behind the last one's comma.
    let client = IpAddr::from(CLIENT);
    let word = format!("{before}{client}");
    let last = headers.get_all(name).iter().next_back().map(|value| value.as_bytes().to_vec());
    let mut with_line = headers.clone();
    with_line.append(name, HeaderValue::from_str(&word).expect("a value"));
    assert_eq!(settings.client_of(proxy, &with_line).ip(), client, "{headers:?}");
    if let Some(last) = last {
        let mut with_comma = HeaderMap::new();
        let value = [&last, b", ".as_slice(), word.as_bytes()].concat();
        with_comma.append(name, HeaderValue::from_bytes(&value).expect("a value"));
        assert_eq!(settings.client_of(proxy, &with_comma).ip(), client, "{with_comma:?}");
    }
}

fn proxy_protocol(bytes: &[u8]) {
    let pipe = Pipe::default();
    pipe.ends().input.extend(bytes);
    pipe.ends().has_ended = true;
    let mut stream = pipe.clone();
    let read = pin!(read_proxy_header(&mut stream));
    let Poll::Ready(result) = read.poll(&mut Context::from_waker(Waker::noop())) else { panic!("nothing to wait for") };
    let Ok(address) = result else { return };
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    assert_eq!(pipe.ends().input.len(), bytes.len() - 16 - rest, "not a byte more is read");
    let Some(address) = address else { return };
    assert_eq!(bytes[12], 0x21, "version 2, and not a proxy's own connection");
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let expected = match bytes[13] >> 4 {
        1 => SocketAddr::from((<[u8; 4]>::try_from(&bytes[16..20]).expect("an address"), port(24))),
        2 => SocketAddr::from((<[u8; 16]>::try_from(&bytes[16..32]).expect("an address"), port(48))),
        family => panic!("an address of family {family}"),
    };
    assert_eq!(address, expected);
}
