//! Whose address a connection has: that of its TCP peer, or what a trusted proxy says of the client behind it, by PROXY protocol v2
//! or by a header. An untrusted peer's word never counts. Must not know what an address is used for.

use std::io;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The fixed part of a PROXY v2 header: signature, version, family, length.
const PROXY_HEAD_BYTES: usize = 16;
/// The longest rest that is taken: addresses and some extensions.
const PROXY_REST_BYTES_MAX: usize = 1024;

/// Which header proxies set. Only one counts: the other one would be the client's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
    None,
}

/// Which proxies are believed, and how they speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    pub trusted: Vec<IpNet>,
    pub header: AddressHeader,
    /// Every connection begins with a PROXY protocol header, and comes from a trusted proxy.
    pub protocol: bool,
}

impl ProxySettings {
    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.iter().any(|net| net.contains(&ip))
    }

    /// True if a peer's address is the client's, whatever a request says.
    pub fn is_client(&self, peer: SocketAddr) -> bool {
        self.header == AddressHeader::None || !self.trusts(peer.ip())
    }

    /// The client's address: the last one in the header that no trusted proxy has, if the peer is one. Without a port it is 0.
    pub fn client_of(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.trusts(peer.ip()) {
            return peer;
        }
        let named = match self.header {
            AddressHeader::XForwardedFor => forwarded_for(headers),
            AddressHeader::Forwarded => forwarded(headers),
            AddressHeader::None => return peer,
        };
        let mut client = peer;
        // From the nearest proxy outwards. What cannot be read ends it: nobody vouches for what stands before.
        for address in named.into_iter().rev() {
            let Some(address) = address else { break };
            client = address;
            if !self.trusts(address.ip()) {
                break;
            }
        }
        client
    }
}

/// Reads a PROXY protocol v2 header, and not a byte more. None where a proxy speaks for itself (`LOCAL`, or no address).
pub async fn read_proxy_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut bytes = vec![0; PROXY_HEAD_BYTES];
    stream.read_exact(&mut bytes).await?;
    let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if !bytes.starts_with(ppp::v2::PROTOCOL_PREFIX) || rest > PROXY_REST_BYTES_MAX {
        return Err(wrong("expected a PROXY protocol v2 header".into()));
    }
    bytes.resize(PROXY_HEAD_BYTES + rest, 0);
    stream.read_exact(&mut bytes[PROXY_HEAD_BYTES..]).await?;
    let header = Header::try_from(bytes.as_slice()).map_err(|error| wrong(format!("PROXY protocol: {error}")))?;
    Ok(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(a)) => Some((a.source_address, a.source_port).into()),
        (Command::Proxy, Addresses::IPv6(a)) => Some((a.source_address, a.source_port).into()),
        _ => None,
    })
}

/// The members of `X-Forwarded-For`, in order; none for one that is no address.
fn forwarded_for(headers: &HeaderMap) -> Vec<Option<SocketAddr>> {
    values(headers, "x-forwarded-for").map(|value| address(value.trim())).collect()
}

/// The `for` parameters of `Forwarded`, in order.
fn forwarded(headers: &HeaderMap) -> Vec<Option<SocketAddr>> {
    let for_of = |element: &str| {
        let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?.1;
        address(value.trim().trim_matches('"'))
    };
    values(headers, "forwarded").map(for_of).collect()
}

/// The comma-separated members of a header that may repeat. Each is read by itself: whatever a client wrote before it, what a proxy
/// added counts.
fn values<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(HeaderName::from_static(name)).into_iter();
    let members = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.map(|member| std::str::from_utf8(member).unwrap_or("?"))
}

/// An address with or without a port; IPv6 in brackets or not.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().or_else(|| bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(header: AddressHeader) -> ProxySettings {
        let trusted = ["10.0.0.0/8", "::1/128"].iter().map(|net| net.parse().expect("a network")).collect();
        ProxySettings { trusted, header, protocol: false }
    }

    fn client(header: AddressHeader, peer: &str, name: &'static str, lines: &[&'static str]) -> String {
        let headers =
            lines.iter().map(|line| (HeaderName::from_static(name), line.parse().expect("a value"))).collect();
        settings(header).client_of(peer.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has_is_the_client_s() {
        let xff = |peer, lines| client(AddressHeader::XForwardedFor, peer, "x-forwarded-for", lines);
        assert_eq!(xff("10.0.0.1:5", &["192.0.2.9"]), "192.0.2.9:0");
        assert_eq!(
            xff("10.0.0.1:5", &["6.6.6.6, 192.0.2.9, 10.0.0.2"]),
            "192.0.2.9:0",
            "what it claims itself is not it"
        );
        assert_eq!(xff("10.0.0.1:5", &["6.6.6.6", "192.0.2.9:77"]), "192.0.2.9:77");
        assert_eq!(xff("10.0.0.1:5", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3:0", "inside all the way");
        assert_eq!(xff("10.0.0.1:5", &["6.6.6.6, nonsense"]), "10.0.0.1:5");
        assert_eq!(xff("10.0.0.1:5", &["\u{e9}, 192.0.2.9"]), "192.0.2.9:0", "what it wrote hides nothing");
        assert_eq!(xff("10.0.0.1:5", &[]), "10.0.0.1:5");
        assert_eq!(xff("[::ffff:10.0.0.1]:5", &["2001:db8::1"]), "[2001:db8::1]:0");
    }

    #[test]
    fn an_untrusted_peer_is_never_believed() {
        assert_eq!(client(AddressHeader::XForwardedFor, "192.0.2.1:5", "x-forwarded-for", &["1.1.1.1"]), "192.0.2.1:5");
        assert_eq!(client(AddressHeader::Forwarded, "192.0.2.1:5", "forwarded", &["for=1.1.1.1"]), "192.0.2.1:5");
    }

    #[test]
    fn only_the_configured_header_counts() {
        let forwarded = |lines| client(AddressHeader::Forwarded, "[::1]:5", "forwarded", lines);
        assert_eq!(forwarded(&["for=6.6.6.6, for=\"[2001:db8::7]:4711\";proto=https"]), "[2001:db8::7]:4711");
        assert_eq!(forwarded(&["proto=https;FOR=192.0.2.9"]), "192.0.2.9:0");
        assert_eq!(forwarded(&["for=6.6.6.6, for=_hidden"]), "[::1]:5", "nobody vouches for it");
        assert_eq!(client(AddressHeader::Forwarded, "[::1]:5", "x-forwarded-for", &["1.1.1.1"]), "[::1]:5");
        assert_eq!(client(AddressHeader::None, "[::1]:5", "x-forwarded-for", &["1.1.1.1"]), "[::1]:5");
    }

    #[tokio::test]
    async fn a_proxy_header_is_read_and_what_follows_is_left() {
        use ppp::v2::{Builder, Protocol, Version};
        let addresses: (SocketAddr, SocketAddr) =
            ("192.0.2.9:77".parse().expect("an address"), "10.0.0.1:80".parse().expect("an address"));
        let mut bytes =
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses).build().expect("built");
        bytes.extend(b"GET");
        let mut stream = bytes.as_slice();
        assert_eq!(read_proxy_header(&mut stream).await.expect("read"), Some(addresses.0));
        assert_eq!(stream, b"GET");
        for wrong in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"\r\n"] {
            assert!(read_proxy_header(&mut &*wrong).await.is_err());
        }
    }
}
