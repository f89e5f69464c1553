//! How a gateway is talked to: Holdfast, or a peer to compare it with. The clients know no other difference between them.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::ValueEnum;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// In what a gateway's clients and publishers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    Holdfast,
    /// A client names its channel by `?id=`; `POST /publish?id=` goes to all of it: Nchan, the bare hub, a gateway in Node
    Channels,
    /// The same within Socket.IO's frames
    SocketIo,
    /// A client names its channel by `?id=`; Pushpin's control port publishes
    Pushpin,
}

/// Who is to have a push.
#[derive(Clone, Copy)]
pub enum To<'a> {
    One(&'a str),
    All,
}

/// The channel, or group, of all.
pub const ALL: &str = "bench";

impl Dialect {
    /// Where a client of this channel connects to.
    pub fn url(self, ws: &str, channel: &str) -> String {
        match self {
            Self::Holdfast => ws.to_owned(),
            Self::Channels | Self::Pushpin => format!("{ws}?id={channel}"),
            // Its channel is in the packet that connects.
            Self::SocketIo => format!("{ws}?EIO=4&transport=websocket"),
        }
    }

    /// As a client sends it.
    pub fn wrap(self, message: String) -> String {
        match self {
            Self::SocketIo => format!("42[\"message\",{message}]"),
            _ => message,
        }
    }

    /// Path and body of the POST that pushes.
    pub fn publication(self, to: To<'_>, message: &str) -> (String, Bytes) {
        let channel = match to {
            To::One(id) => id,
            To::All => ALL,
        };
        match (self, to) {
            (Self::Holdfast, To::One(id)) => (format!("/v1/connections/{id}/messages"), message.to_owned().into()),
            (Self::Holdfast, To::All) => (format!("/v1/groups/{ALL}/messages"), message.to_owned().into()),
            (Self::Channels | Self::SocketIo, _) => (format!("/publish?id={channel}"), message.to_owned().into()),
            (Self::Pushpin, _) => {
                let item = serde_json::json!({"channel": channel, "formats": {"ws-message": {"content": message}}});
                ("/publish/".into(), serde_json::json!({"items": [item]}).to_string().into())
            }
        }
    }

    /// Whether this is the answer to a push that `count` clients get. Not every peer says how many.
    pub fn confirms(self, to: To<'_>, count: usize, answer: &str) -> bool {
        match (self, to) {
            (Self::Holdfast, To::One(_)) => answer.contains("written"),
            (Self::Holdfast, To::All) => answer.contains(&format!("\"delivered\":{count}")),
            _ => true,
        }
    }
}

/// A connection to the admin listener, kept as long as the gateway keeps it. Pushpin's control port closes after each answer.
pub struct Admin {
    addr: SocketAddr,
    send: SendRequest<Full<Bytes>>,
}

impl Admin {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self { addr, send: open(addr).await }
    }

    pub async fn call(&mut self, method: Method, path: &str, body: Bytes) -> String {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", "application/json").body(Full::new(body)).expect("a request");
        // The last answer is read before its connection knows that it may send again.
        if self.send.ready().await.is_err() {
            self.send = open(self.addr).await;
        }
        let answer = self.send.send_request(request).await.expect("an answer");
        assert!(answer.status().is_success(), "{} {path}", answer.status());
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without a drain")]
async fn open(addr: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(addr).await.expect("connected");
    stream.set_nodelay(true).expect("nodelay");
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    send
}
