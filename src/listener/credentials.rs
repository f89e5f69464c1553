//! Where in a handshake a client's token is, and how what bore it is kept from going further. Must not know how tokens are verified.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Request};

use crate::pipeline::ConnectFacts;
use crate::snapshot::TokenSource;

/// What a subprotocol that bears a token starts with.
const SUBPROTOCOL: &str = "bearer.";

/// The first token that a handshake bears, in the order of `sources`.
pub fn token<B>(sources: &[TokenSource], request: &Request<B>, offered: &[String]) -> Option<String> {
    sources.iter().find_map(|source| match source {
        TokenSource::Header => bearer(request.headers()).map(str::to_owned),
        TokenSource::Subprotocol => offered.iter().find_map(|name| name.strip_prefix(SUBPROTOCOL)).map(str::to_owned),
        TokenSource::Cookie(name) => cookie(request.headers(), name).map(str::to_owned),
        TokenSource::Query(name) => {
            let query = request.uri().query().unwrap_or_default();
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        }
        TokenSource::Message => None,
    })
}

/// Takes out of the facts what may bear a token: the application gets the claims instead.
pub fn redact(sources: &[TokenSource], facts: &mut ConnectFacts) {
    for source in sources {
        match source {
            TokenSource::Header => {
                facts.headers.remove(AUTHORIZATION.as_str());
            }
            TokenSource::Subprotocol => {
                facts.subprotocols.retain(|name| !name.starts_with(SUBPROTOCOL));
                if let Some(value) = facts.headers.get_mut("sec-websocket-protocol") {
                    *value = facts.subprotocols.join(", ");
                }
            }
            TokenSource::Cookie(name) => {
                if let Some(value) = facts.headers.get_mut(COOKIE.as_str()) {
                    let others = value.split(';').map(str::trim).filter(|pair| pair.split('=').next() != Some(name));
                    *value = others.collect::<Vec<_>>().join("; ");
                }
            }
            TokenSource::Query(name) => {
                facts.query.remove(name);
            }
            TokenSource::Message => {}
        }
    }
}

/// The subprotocols that may be chosen: a token is none.
pub fn choosable(sources: &[TokenSource], offered: Vec<String>) -> Vec<String> {
    let bears = |name: &String| sources.contains(&TokenSource::Subprotocol) && name.starts_with(SUBPROTOCOL);
    offered.into_iter().filter(|name| !bears(name)).collect()
}

/// RFC 6750 section 2.1; the scheme's name has any case (RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().uri(uri);
        headers.iter().fold(builder, |b, (name, value)| b.header(*name, *value)).body(()).expect("a request")
    }

    #[test]
    fn a_token_is_found_where_the_endpoint_looks_for_it() {
        let request = request(
            "/ws?a=1&token=q.q.q",
            &[("authorization", "bEARER h.h.h"), ("cookie", "a=b; session=\"c.c.c\""), ("cookie", "x=y")],
        );
        let offered = ["chat".to_owned(), "bearer.s.s.s".to_owned()];
        let find = |source| token(&[source], &request, &offered);
        assert_eq!(find(TokenSource::Header).as_deref(), Some("h.h.h"));
        assert_eq!(find(TokenSource::Subprotocol).as_deref(), Some("s.s.s"));
        assert_eq!(find(TokenSource::Cookie("session".into())).as_deref(), Some("c.c.c"));
        assert_eq!(find(TokenSource::Query("token".into())).as_deref(), Some("q.q.q"));
        assert_eq!(find(TokenSource::Query("other".into())), None);
        assert_eq!(find(TokenSource::Message), None);
        let both = [TokenSource::Cookie("none".into()), TokenSource::Subprotocol, TokenSource::Header];
        assert_eq!(token(&both, &request, &offered).as_deref(), Some("s.s.s"), "in the order of the list");
    }

    #[test]
    fn what_bears_a_token_goes_no_further() {
        let sources = [
            TokenSource::Header,
            TokenSource::Subprotocol,
            TokenSource::Cookie("session".into()),
            TokenSource::Query("token".into()),
        ];
        let mut facts = ConnectFacts {
            headers: [
                ("authorization", "Bearer SECRET"),
                ("cookie", "a=b; session=SECRET; c=d"),
                ("sec-websocket-protocol", "chat, bearer.SECRET"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            query: [("token", "SECRET"), ("room", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            subprotocols: vec!["chat".into(), "bearer.SECRET".into()],
            remote_addr: ([127, 0, 0, 1], 1).into(),
        };
        redact(&sources, &mut facts);
        assert!(!format!("{facts:?}").contains("SECRET"), "{facts:?}");
        assert_eq!(facts.headers["cookie"], "a=b; c=d");
        assert_eq!(facts.headers["sec-websocket-protocol"], "chat");
        assert_eq!(choosable(&sources, vec!["bearer.x".into(), "chat".into()]), ["chat"]);
    }
}
