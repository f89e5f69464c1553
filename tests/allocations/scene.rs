//! Holdfast in this process over real sockets, with a handler that echoes and clients that send one message over and over. Neither
//! allocates anything, nor does more than it must: what is counted is Holdfast's. For what counts, not for what it counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use holdfast::app::{self, Running};
use holdfast::config;
use holdfast::telemetry::logging::{self, LogFormat, LogSettings};
use tokio::runtime::Runtime;

const MESSAGE: &str = r#"{"type":"chat.send","room":"lobby","text":"a message of ordinary length"}"#;
const SCHEMA: &str = r#"{"type": "object", "required": ["type"], "properties": {"text": {"type": "string"}}}"#;

/// A started Holdfast with the endpoints `/plain`, `/schema` and `/batch`.
pub struct Scene {
    running: Running,
    _runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let handler = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || answer(stream.expect("a connection")));
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("holdfast.yaml");
        std::fs::write(folder.path().join("schema.json"), SCHEMA).expect("written");
        std::fs::write(&path, configuration(handler)).expect("written");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let running = runtime.block_on(async {
            let loaded = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
            let log = logging::init(&LogSettings { level: "warn".into(), format: LogFormat::Text }).expect("a log");
            app::start(loaded, None, log).await.expect("started")
        });
        Self { running, _runtime: runtime, _folder: folder }
    }

    /// Clients of the endpoint at `path`.
    pub fn connect(&self, path: &str, clients: usize) -> Vec<Client> {
        (0..clients).map(|_| Client::connect(self.running.listen, path)).collect()
    }

    /// Clients that are pushed to by REST.
    pub fn pushed(&self, clients: usize) -> Vec<Pushed> {
        self.connect("/plain", clients).into_iter().map(|client| Pushed::new(client, self.running.admin)).collect()
    }
}

/// One message there and back.
pub trait Exchange {
    fn send(&mut self);
    fn receive(&mut self);
}

/// A WebSocket client that sends one prepared frame over and over, and expects its text back.
pub struct Client {
    stream: TcpStream,
    frame: Vec<u8>,
    answer: Vec<u8>,
    read: Vec<u8>,
}

impl Client {
    fn connect(addr: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let len = u8::try_from(MESSAGE.len()).expect("short");
        assert!(len < 126);
        // A mask of zeros leaves the text as it is.
        let frame = [&[0x81, 0x80 | len, 0, 0, 0, 0], MESSAGE.as_bytes()].concat();
        let answer = [&[0x81, len], MESSAGE.as_bytes()].concat();
        Self { stream, frame, read: vec![0; answer.len()], answer }
    }
}

impl Exchange for Client {
    fn send(&mut self) {
        self.stream.write_all(&self.frame).expect("sent");
    }

    fn receive(&mut self) {
        self.stream.read_exact(&mut self.read).expect("an answer");
        assert!(self.read == self.answer, "another answer than was sent");
    }
}

/// A client whose message is pushed to it by REST, over and over.
pub struct Pushed {
    client: Client,
    admin: TcpStream,
    request: Vec<u8>,
    read: Vec<u8>,
}

impl Pushed {
    fn new(client: Client, admin: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(admin).expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let mut read = vec![0; 1 << 16];
        let opened = client.stream.local_addr().expect("an address");
        stream.write_all(b"GET /v1/connections?limit=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
        let list = body(&mut stream, &mut read);
        let about = find(list, opened.to_string().as_bytes()).expect("the connection in the list");
        let at = list[..about].windows(6).rposition(|window| window == b"\"id\":\"").expect("its ID") + 6;
        let id = list[at..].split(|byte| *byte == b'"').next().map(String::from_utf8_lossy).expect("its end");
        let request = format!(
            "POST /v1/connections/{id}/messages HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{MESSAGE}",
            MESSAGE.len()
        );
        Self { client, admin: stream, request: request.into_bytes(), read }
    }
}

impl Exchange for Pushed {
    fn send(&mut self) {
        self.admin.write_all(&self.request).expect("sent");
    }

    fn receive(&mut self) {
        self.client.receive();
        let answer = body(&mut self.admin, &mut self.read);
        assert!(answer == br#"{"outcome":"written"}"#, "another answer than that it was written");
    }
}

/// Each sends, and then each reads its answer.
pub fn round(clients: &mut [impl Exchange]) {
    clients.iter_mut().for_each(Exchange::send);
    clients.iter_mut().for_each(Exchange::receive);
}

fn configuration(handler: SocketAddr) -> String {
    format!(
        "listen: 127.0.0.1:0\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
         upstreams: {{app: {{http: {{url: \"http://{handler}/events\"}}}}}}\n\
         endpoints:\n\
         - {{path: /plain, routes: [{{event: \"chat.*\", upstream: app}}]}}\n\
         - {{path: /schema, routes: [{{event: chat.send, schema: schema.json, upstream: app}}]}}\n\
         - {{path: /batch, routes: [{{event: chat.send, schema: schema.json, upstream: app, batch: {{max: 100}}}}]}}\n"
    )
}

/// Answers each request on a connection: with the message, or with the message for each event of a batch.
fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("nodelay");
    let (mut request, mut response) = (vec![0; 1 << 16], Vec::with_capacity(1 << 16));
    let mut filled = 0;
    loop {
        let read = stream.read(&mut request[filled..]).unwrap_or(0);
        if read == 0 {
            return;
        }
        filled += read;
        let Some(head) = find(&request[..filled], b"\r\n\r\n") else { continue };
        let length = number_after(&request[..head], b"content-length: ");
        let body = head + 4..head + 4 + length;
        if filled < body.end {
            continue;
        }
        let events = request[body].windows(13).filter(|window| window == b"\"specversion\"").count();
        respond(&mut response, events);
        stream.write_all(&response).expect("sent");
        filled = 0;
    }
}

fn respond(response: &mut Vec<u8>, events: usize) {
    response.clear();
    let (media_type, length) = match events {
        0 => ("application/json", MESSAGE.len()),
        _ => ("application/vnd.holdfast.batch+json", 1 + events * (MESSAGE.len() + 10)),
    };
    let head = format_args!("HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n");
    response.write_fmt(head).expect("memory");
    if events == 0 {
        response.extend_from_slice(MESSAGE.as_bytes());
        return;
    }
    for at in 0..events {
        response.push(if at == 0 { b'[' } else { b',' });
        response.extend_from_slice(b"{\"data\":");
        response.extend_from_slice(MESSAGE.as_bytes());
        response.push(b'}');
    }
    response.push(b']');
}

/// Reads one answer, and gives its body.
fn body<'a>(stream: &mut TcpStream, read: &'a mut [u8]) -> &'a [u8] {
    let mut filled = 0;
    loop {
        filled += stream.read(&mut read[filled..]).expect("an answer");
        if let Some(head) = find(&read[..filled], b"\r\n\r\n") {
            let end = head + 4 + number_after(&read[..head], b"content-length: ");
            if filled >= end {
                return &read[head + 4..end];
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn number_after(text: &[u8], what: &[u8]) -> usize {
    let digits = &text[find(text, what).expect("a length") + what.len()..];
    digits.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}
