//! One chat client of the scripted conversation. Must not know the script.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::{Step, text};

/// Frames remembered for the words of a failure.
const SEEN_MAX: usize = 5;

pub(super) struct Client {
    socket: WebSocketStream<TcpStream>,
    /// The connection ID that the handler's greeting told.
    pub connection: String,
}

impl Client {
    /// Connects as `name` and waits for the greeting.
    pub async fn connect(websocket_url: &str, name: &str) -> Step<Self> {
        let uri: http::Uri = websocket_url.parse().map_err(|e| format!("{websocket_url}: {e}"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(80);
        let stream =
            TcpStream::connect((host, port)).await.map_err(|e| format!("cannot connect to {host}:{port}: {e}"))?;
        let url = format!("{websocket_url}?name={name}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.map_err(|e| format!("handshake: {e}"))?;
        let mut client = Self { socket, connection: String::new() };
        let welcome = client.expect("chat.welcome", |frame| frame["name"] == name).await?;
        let id = welcome["connection"].as_str().filter(|id| !id.is_empty());
        client.connection = id.ok_or_else(|| format!("expected a connection ID in {welcome}"))?.to_owned();
        Ok(client)
    }

    pub async fn send_json(&mut self, message: &Value) -> Step<()> {
        self.send_text(&message.to_string()).await
    }

    pub async fn send_text(&mut self, message: &str) -> Step<()> {
        self.socket.send(Message::text(message)).await.map_err(|e| format!("send: {e}"))
    }

    /// The next text frame of this type that `fits`; others are passed over.
    pub async fn expect(&mut self, kind: &str, fits: impl Fn(&Value) -> bool) -> Step<Value> {
        let mut seen = Vec::new();
        loop {
            let frame = match tokio::time::timeout(super::STEP_TIMEOUT * 4 / 5, self.socket.next()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(end) => return Err(format!("expected {kind}, found the end {end:?} after {seen:?}")),
                Err(_) => return Err(format!("expected {kind}, found only {seen:?}")),
            };
            let Message::Text(frame) = frame else {
                if frame.is_close() {
                    return Err(format!("expected {kind}, found {frame:?}"));
                }
                continue;
            };
            let value: Value =
                serde_json::from_str(&frame).map_err(|e| format!("expected JSON: {e}, found {frame}"))?;
            if value["type"] == kind && fits(&value) {
                return Ok(value);
            }
            if seen.len() == SEEN_MAX {
                seen.remove(0);
            }
            seen.push(frame.to_string());
        }
    }

    /// Sends a binary frame and expects the same bytes in the next one.
    pub async fn expect_binary_echo(&mut self, bytes: &[u8]) -> Step<()> {
        self.socket.send(Message::binary(bytes.to_vec())).await.map_err(text)?;
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(back))) if back.as_ref() == bytes => return Ok(()),
                Some(Ok(Message::Binary(back))) => return Err(format!("expected {bytes:?}, found {back:?}")),
                Some(Ok(Message::Text(frame))) if frame.contains(r#""type":"error""#) => {
                    return Err(format!("expected a binary frame, found {frame}"));
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(format!("expected a binary frame, found close {frame:?}"));
                }
                Some(Ok(_)) => {}
                end => return Err(format!("expected a binary frame, found the end {end:?}")),
            }
        }
    }

    /// Closes with 1000 and expects the close to be echoed.
    pub async fn close(mut self) -> Step<()> {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
        self.socket.close(Some(frame)).await.map_err(text)?;
        let mut echoed = None;
        while let Some(frame) = self.socket.next().await {
            match frame {
                Ok(Message::Close(frame)) => echoed = frame.map(|frame| frame.code),
                Ok(_) => {}
                Err(e) => return Err(format!("expected the close to be echoed: {e}")),
            }
        }
        match echoed {
            Some(CloseCode::Normal) => Ok(()),
            other => Err(format!("expected close code 1000 back, found {other:?}")),
        }
    }
}
