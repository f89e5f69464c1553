//! permessage-deflate over real sockets, with a client that keeps its compressors as the standard has it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use http::Method;

use crate::harness::{HANDSHAKE, Holdfast, Raw, Upstream, eventually, frame, yaml};

const ROUTES: &str = "routes: [{event: $binary, upstream: app}, {event: \"*\", upstream: app}]";
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const NO_TAKEOVER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const TEXT: u8 = 0x81;
const PACKED_TEXT: u8 = 0xc1;

async fn start(app: &Upstream, compression: &str, more: &str) -> Holdfast {
    Holdfast::start(app, &format!("compression: {{level: 3{compression}}}\n{more}\n{ROUTES}")).await
}

/// A client with what it agreed upon.
struct Client {
    raw: Raw,
    answer: Option<String>,
    compress: Compress,
    decompress: Decompress,
}

impl Client {
    async fn open(holdfast: &Holdfast, offer: &str) -> Self {
        let mut raw = Raw::tcp(holdfast.listen).await;
        raw.write(format!("{HANDSHAKE}sec-websocket-extensions: {offer}\r\n\r\n").as_bytes()).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let answer = head.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: ")).map(str::to_owned);
        let compress = Compress::new(Compression::new(6), false);
        Self { raw, answer, compress, decompress: Decompress::new(false) }
    }

    fn keeps(&self, parameter: &str) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.contains(parameter))
    }

    fn pack(&mut self, bytes: &[u8]) -> Vec<u8> {
        if !self.keeps("client_no_context_takeover") {
            self.compress.reset();
        }
        let mut packed = Vec::with_capacity(bytes.len() + 1000);
        self.compress.compress_vec(bytes, &mut packed, FlushCompress::Sync).expect("packed");
        packed.truncate(packed.len() - 4);
        packed
    }

    fn unpack(&mut self, packed: &[u8]) -> String {
        if !self.keeps("server_no_context_takeover") {
            self.decompress.reset(false);
        }
        let mut plain = Vec::with_capacity(1 << 20);
        let packed = [packed, &[0, 0, 0xff, 0xff]].concat();
        self.decompress.decompress_vec(&packed, &mut plain, FlushDecompress::None).expect("unpacked");
        String::from_utf8(plain).expect("a text")
    }

    /// Sends a packed message.
    async fn send(&mut self, text: &str) -> usize {
        let packed = self.pack(text.as_bytes());
        assert!(self.raw.write(&frame(PACKED_TEXT, &packed)).await);
        packed.len()
    }

    /// The next message and its size on the wire; it has to be packed, or plain.
    async fn next(&mut self, is_packed: bool) -> (String, usize) {
        let (first, payload) = self.raw.frame().await.expect("a frame");
        assert_eq!(first, if is_packed { PACKED_TEXT } else { TEXT });
        let text = match is_packed {
            true => self.unpack(&payload),
            false => String::from_utf8(payload.clone()).expect("a text"),
        };
        (text, payload.len())
    }
}

fn message(number: usize) -> String {
    format!(r#"{{"type":"quote","number":{number},"text":"{}"}}"#, "the same words in each message, ".repeat(9))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_packed_both_ways_and_counted() {
    let app = Upstream::echo().await;
    let holdfast = start(&app, "", "").await;
    let mut client = Client::open(&holdfast, OFFER).await;
    assert_eq!(client.answer.as_deref(), Some(NO_TAKEOVER));
    let (mut sent, mut received) = (0, 0);
    for number in 0..3 {
        sent += client.send(&message(number)).await;
        let (text, len) = client.next(true).await;
        assert_eq!(text, message(number));
        received += len;
    }
    assert!(received < message(0).len(), "{received}");
    // Small ones are not worth it; a client may send them packed all the same, in fragments too.
    let small = r#"{"type":"small"}"#;
    let packed = client.pack(small.as_bytes());
    let fragments = [frame(0x41, &packed[..5]), frame(0x89, b""), frame(0x80, &packed[5..])].concat();
    client.raw.write(&fragments).await;
    assert_eq!(client.raw.frame().await, Some((0x8a, Vec::new())));
    assert_eq!(client.next(false).await.0, small);
    client.raw.write(&frame(TEXT, small.as_bytes())).await;
    assert_eq!(client.next(false).await.0, small, "what is not packed is taken as it is");
    // The upstream and the limits see what was packed.
    assert_eq!(app.calls_of("message")[0].body, message(0));
    let counted = |direction: &str, form: &str| {
        format!("holdfast_compressed_bytes_total{{endpoint=\"/ws\",direction=\"{direction}\",form=\"{form}\"}}")
    };
    let plain = 3 * message(0).len();
    for (direction, form, bytes) in [
        ("received", "wire", sent + packed.len()),
        ("received", "plain", plain + small.len()),
        ("sent", "wire", received),
        ("sent", "plain", plain),
    ] {
        assert_eq!(holdfast.metric(&counted(direction, form)).await, bytes as f64, "{direction} {form}");
    }
    assert_eq!(holdfast.metric("holdfast_sent_bytes_total{endpoint=\"/ws\"}").await, (plain + 2 * small.len()) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn context_is_taken_over_where_both_sides_keep_it() {
    let app = Upstream::echo().await;
    let holdfast = start(&app, ", context_takeover: true, window_bits: 12", "").await;
    for (offer, answer, server, client_keeps) in [
        (OFFER, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12", true, true),
        (
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; client_max_window_bits=10",
            false,
            true,
        ),
        (
            "permessage-deflate",
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=12",
            true,
            false,
        ),
    ] {
        let mut client = Client::open(&holdfast, offer).await;
        assert_eq!(client.answer.as_deref(), Some(answer));
        let bits = if offer.contains("=10") { 10 } else { 12 };
        client.compress = Compress::new_with_window_bits(Compression::new(6), false, bits);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for number in 0..20 {
            sent.push(client.send(&message(number)).await);
            let (text, len) = client.next(true).await;
            assert_eq!(text, message(number));
            received.push(len);
        }
        assert_eq!(sent[19] * 2 < sent[0], client_keeps, "{offer}: {sent:?}");
        assert_eq!(received[19] * 2 < received[0], server, "{offer}: {received:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_many_is_read_by_each_as_it_agreed() {
    let app = Upstream::echo().await;
    let holdfast = start(&app, "", "").await;
    let offers = ["", OFFER, OFFER, "permessage-deflate; server_max_window_bits=9", "unknown"];
    let mut clients = Vec::new();
    for offer in offers {
        clients.push(Client::open(&holdfast, offer).await);
    }
    eventually("open", || async {
        (holdfast.metric("holdfast_connections{endpoint=\"/ws\"}").await == 5.0).then_some(())
    })
    .await;
    for number in 0..3 {
        let (status, body) = holdfast.call(Method::POST, "/v1/broadcast", message(number)).await;
        assert_eq!((status.as_u16(), &body["delivered"]), (200, &serde_json::json!(5)), "{body}");
        for client in &mut clients {
            let is_packed = client.answer.is_some();
            assert_eq!(client.next(is_packed).await.0, message(number));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_bytes_that_are_hostile_close_with_their_code() {
    let app = Upstream::echo().await;
    let holdfast = start(&app, "", "limits: {message_size: 10KiB}").await;
    let mut packer = Client::open(&holdfast, OFFER).await;
    let bomb = packer.pack(&vec![b' '; 9_000_000]);
    let whole = packer.pack(message(1).as_bytes());
    let not_text = packer.pack(&[0xff; 300]);
    let fits = packer.pack(&vec![b' '; 10 * 1024]);
    let cases = [
        ("a bomb", frame(PACKED_TEXT, &bomb), 1009),
        ("a bomb in fragments", [frame(0x41, &bomb[..10]), frame(0x80, &bomb[10..])].concat(), 1009),
        ("one byte too much", frame(PACKED_TEXT, &packer.pack(&vec![b' '; 10 * 1024 + 1])), 1009),
        ("more packed bytes than any such message has", frame(PACKED_TEXT, &[0; 20_000])[..100].to_vec(), 1009),
        ("truncated", frame(PACKED_TEXT, &whole[..whole.len() / 2]), 1007),
        ("bytes behind the end", frame(PACKED_TEXT, &[&whole[..], b"\xff\xff"].concat()), 1007),
        ("no DEFLATE", frame(PACKED_TEXT, b"\xff\xff\xff"), 1007),
        ("final blocks without end", frame(PACKED_TEXT, &b"\x03\x00".repeat(1000)), 1007),
        ("no text", frame(PACKED_TEXT, &not_text), 1007),
        ("RSV1 in a continuation", [frame(0x41, &whole[..9]), frame(0xc0, &whole[9..])].concat(), 1002),
        ("RSV1 in a ping", frame(0xc9, b""), 1002),
        ("RSV1 in a close", frame(0xc8, b"\x03\xe8"), 1002),
        ("RSV2", frame(0xe1, &whole), 1002),
    ];
    for (what, bytes, code) in cases {
        let mut client = Client::open(&holdfast, OFFER).await;
        client.raw.write(&bytes).await;
        assert_eq!(client.raw.close_code().await, Some(code), "{what}");
    }
    let mut plain = Raw::open(holdfast.listen).await;
    plain.write(&frame(PACKED_TEXT, &whole)).await;
    assert_eq!(plain.close_code().await, Some(1002), "nothing was agreed");
    // As much as is allowed is taken: it is not JSON, and that is all that is wrong with it.
    let mut client = Client::open(&holdfast, OFFER).await;
    client.raw.write(&frame(PACKED_TEXT, &fits)).await;
    assert!(client.next(false).await.0.contains("invalid_json"));
    assert!(app.calls_of("message").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_compression_of_what_is_sent_and_keeps_what_was_agreed() {
    let app = Upstream::echo().await;
    let holdfast = start(&app, "", "").await;
    let mut client = Client::open(&holdfast, OFFER).await;
    client.send(&message(1)).await;
    client.next(true).await;
    std::fs::write(holdfast.config_path(), yaml(&app.url(), "", ROUTES)).expect("written");
    let (status, _) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    assert_eq!(status.as_u16(), 200);
    client.send(&message(2)).await;
    assert_eq!(client.next(false).await.0, message(2));
    assert_eq!(Client::open(&holdfast, OFFER).await.answer, None);
}
