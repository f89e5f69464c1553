//! A WebSocket client that waits with a deadline.

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;

/// A connected client.
pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    /// The headers of the handshake's answer.
    pub headers: http::HeaderMap,
}

/// A handshake that was refused.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Client {
    pub async fn connect(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, Refused> {
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a header"));
        }
        let addr = request.uri().authority().expect("an address").as_str().to_owned();
        let stream = TcpStream::connect(addr).await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        match tokio::time::timeout(PATIENCE, client_async(request, stream)).await.expect("an answer in time") {
            Ok((socket, answer)) => Ok(Self { socket, headers: answer.headers().clone() }),
            Err(Error::Http(answer)) => Err(Refused {
                status: answer.status(),
                headers: answer.headers().clone(),
                body: String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned(),
            }),
            Err(error) => panic!("handshake failed: {error}"),
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.expect("sent");
    }

    /// The next message of any kind but ping and pong.
    pub async fn next(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
            match next.expect("an open connection").expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    pub async fn text(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("expected a text message, found {other:?}"),
        }
    }

    pub async fn text_len(&mut self) -> usize {
        self.text().await.len()
    }

    pub async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("expected JSON, found {text}"))
    }

    /// Reads an error frame and gives back its code and the whole.
    pub async fn error(&mut self) -> (String, Value) {
        let frame = self.json().await;
        assert_eq!(frame["type"], "error", "{frame}");
        (frame["code"].as_str().expect("a code").to_owned(), frame)
    }

    /// Reads on to the close frame: its code, and its reason. Other messages are skipped.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Message::Close(Some(frame)) => return (frame.code.into(), frame.reason.as_str().to_owned()),
                Message::Close(None) => return (1005, String::new()),
                _ => {}
            }
        }
    }

    pub async fn close(mut self) {
        // The peer may have closed already.
        let _ = self.socket.close(None).await;
        while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, self.socket.next()).await {}
    }
}
