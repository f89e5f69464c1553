//! Clients that really agree to permessage-deflate: their handshake and their one message are bytes of our own, since the client
//! library knows no compression. Once all is quiet the library answers the pings.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::clients::{Load, Socket};

/// FIN, RSV1 and the opcode of a text.
const PACKED_TEXT: u8 = 0xc1;
const IS_MASKED: u8 = 0x80;
const LEN_2_BYTES: u8 = 126;

/// Shakes hands as browsers do, and holds the gateway to its agreeing.
pub async fn open(mut stream: TcpStream, load: &Load, config: WebSocketConfig) -> Socket {
    let path = load.ws["ws://".len()..].find('/').map_or("/", |at| &load.ws["ws://".len() + at..]);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.expect("read") > 0, "closed in the handshake");
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("sec-websocket-extensions: permessage-deflate"),
        "{head}"
    );
    WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await
}

/// Sends a packed message and awaits its packed echo.
pub async fn carry(socket: &mut Socket, message: &str) {
    let stream = socket.get_mut();
    let mut packed = Vec::with_capacity(message.len() + 64);
    let packing =
        Compress::new(Compression::new(6), false).compress_vec(message.as_bytes(), &mut packed, FlushCompress::Sync);
    packing.expect("packed");
    // The end that every message has is not sent.
    packed.truncate(packed.len() - 4);
    // A mask of zeros leaves the bytes as they are.
    let frame = [&[PACKED_TEXT][..], &length(packed.len(), IS_MASKED), &[0; 4], &packed].concat();
    stream.write_all(&frame).await.expect("sent");
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.expect("an echo");
    assert_eq!(head[0], PACKED_TEXT, "the echo is not packed");
    let len = match head[1] {
        LEN_2_BYTES => usize::from(stream.read_u16().await.expect("a length")),
        len => usize::from(len),
    };
    let mut echo = vec![0; len];
    stream.read_exact(&mut echo).await.expect("an echo");
    echo.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut plain = Vec::with_capacity(message.len() + 64);
    Decompress::new(false).decompress_vec(&echo, &mut plain, FlushDecompress::None).expect("unpacked");
    assert_eq!(plain, message.as_bytes(), "another message came back");
}

fn length(bytes: usize, flag: u8) -> Vec<u8> {
    match u8::try_from(bytes) {
        Ok(few) if few < LEN_2_BYTES => vec![flag | few],
        _ => [&[flag | LEN_2_BYTES][..], &u16::try_from(bytes).expect("a small message").to_be_bytes()].concat(),
    }
}
