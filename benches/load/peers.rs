//! How a gateway is talked to: Holdfast, or a peer to compare it with. The clients know no other difference between them.

use bytes::Bytes;
use clap::ValueEnum;

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
            Self::SocketIo => format!("{ws}?EIO=4&transport=websocket&id={channel}"),
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
