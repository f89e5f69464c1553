//! A client that writes whatever bytes the test likes, and reads with patience.

use std::net::SocketAddr;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

/// A handshake for `/ws`, but for the empty line at its end.
pub const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: holdfast\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub struct Raw {
    pub stream: TcpStream,
    /// Read already, but not looked at.
    read: Vec<u8>,
}

impl Raw {
    /// A TCP connection on which nothing was said yet.
    pub async fn tcp(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, read: Vec::new() }
    }

    /// One whose receive buffer is as small as the kernel allows.
    pub async fn tcp_with_small_buffer(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1024).expect("a size");
        Self { stream: socket.connect(addr).await.expect("a connection"), read: Vec::new() }
    }

    /// An open WebSocket on `/ws`.
    pub async fn open(addr: SocketAddr) -> Self {
        Self::open_at(addr, "/ws").await
    }

    pub async fn open_at(addr: SocketAddr, path: &str) -> Self {
        let mut raw = Self::tcp(addr).await;
        raw.write(format!("{}\r\n", HANDSHAKE.replace("/ws", path)).as_bytes()).await;
        assert_eq!(raw.status().await, StatusCode::SWITCHING_PROTOCOLS);
        raw
    }

    /// Writes what the other side takes; it may have closed already.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.is_ok_and(|written| written.is_ok())
    }

    /// Reads the head of an answer.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..at + 4).collect();
                return String::from_utf8(head).expect("text");
            }
            assert!(self.fill().await, "ended before the head: {}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Reads the head of an answer; its status.
    pub async fn status(&mut self) -> StatusCode {
        let head = self.head().await;
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
    }

    /// Reads one frame: its first byte and its payload; none once the stream has ended.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(len) = self.read.get(1).map(|len| usize::from(*len)) {
                let (start, len) = match (len, self.read.get(2..4)) {
                    (..126, _) => (2, Some(len)),
                    (126, Some(bytes)) => (4, Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))),
                    (126, None) => (4, None),
                    _ => panic!("no test needs longer frames"),
                };
                if let Some(payload) = len.and_then(|len| self.read.get(start..start + len)) {
                    let frame = (self.read[0], payload.to_vec());
                    self.read.drain(..start + frame.1.len());
                    return Some(frame);
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Reads on to the close frame: its code. None where the stream ended without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            let (first, payload) = self.frame().await?;
            if first == 0x88 {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
    }

    /// Reads until the other side ends.
    pub async fn ended(&mut self) {
        while self.fill().await {}
    }

    async fn fill(&mut self) -> bool {
        let mut space = [0; 4096];
        let count = timeout(PATIENCE, self.stream.read(&mut space)).await.expect("bytes or an end in time");
        let count = count.unwrap_or(0);
        self.read.extend_from_slice(&space[..count]);
        count > 0
    }
}

/// A client's frame, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        len @ ..126 => frame.push(0x80 | u8::try_from(len).expect("small")),
        len @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).expect("small").to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
