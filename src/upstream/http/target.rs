//! One URL of an upstream, taken apart once. Knows the parts of a URL; must not know addresses or connections.

use std::net::IpAddr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use rustls::pki_types::ServerName;

/// A checked URL with what each request to it needs.
#[derive(Debug)]
pub struct Target {
    /// Without brackets, if it is an IPv6 address.
    pub host: String,
    pub port: u16,
    /// The host where it is an address already.
    pub ip: Option<IpAddr>,
    /// How a HTTP/1.1 request begins: its line, and the `host` header.
    pub start: Box<str>,
    /// The whole URL, as HTTP/2 wants it.
    pub absolute: Uri,
    /// There for `https:` only.
    pub server_name: Option<ServerName<'static>>,
}

impl Target {
    /// Checks a URL; the error names what is wrong with it.
    pub fn new(url: &Uri) -> Result<Self, String> {
        let authority = url.authority().ok_or("expected a URL with a host")?;
        if authority.as_str().contains('@') {
            return Err("expected a URL without a user or password: credentials go in `headers`".into());
        }
        let is_tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("expected a URL that begins with http: or https:, found {url}")),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("expected a URL with a host, found {url}"));
        }
        let server_name = match is_tls {
            true => Some(ServerName::try_from(host.clone()).map_err(|_| format!("{host} is not a TLS server name"))?),
            false => None,
        };
        Ok(Self {
            port: url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            ip: host.parse().ok(),
            host,
            start: format!("POST {} HTTP/1.1\r\nhost: {authority}\r\n", path_of(url)).into(),
            absolute: absolute(url, authority, is_tls)?,
            server_name,
        })
    }
}

fn path_of(url: &Uri) -> PathAndQuery {
    url.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
}

fn absolute(url: &Uri, authority: &Authority, is_tls: bool) -> Result<Uri, String> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority.clone());
    parts.path_and_query = Some(path_of(url));
    Uri::from_parts(parts).map_err(|e| format!("{url}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::new(&Uri::from_static("http://app:3000/events?a=1")).expect("valid");
        assert_eq!((target.host.as_str(), target.port, target.ip), ("app", 3000, None));
        assert_eq!(&*target.start, "POST /events?a=1 HTTP/1.1\r\nhost: app:3000\r\n");
        let target = Target::new(&Uri::from_static("https://[::1]")).expect("valid");
        assert_eq!((target.host.as_str(), target.port), ("::1", 443));
        assert_eq!(&*target.start, "POST / HTTP/1.1\r\nhost: [::1]\r\n");
        assert!(target.ip.is_some() && target.server_name.is_some());
    }

    #[test]
    fn what_is_no_url_of_an_upstream_is_refused_without_its_password() {
        for (url, says) in [
            ("/events", "with a host"),
            ("ftp://app/", "http: or https:"),
            ("http://user:hunter2@app/", "credentials go in `headers`"),
        ] {
            let error = Target::new(&Uri::from_static(url)).expect_err(url);
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }
}
