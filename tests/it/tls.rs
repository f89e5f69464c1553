//! TLS on both listeners, client certificates, certificates that change under open sockets, and whose word on an address counts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http::Method;
use ppp::v2::{Builder, Command, Protocol, Version};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::{Client, Holdfast, PATIENCE, Upstream, eventually, yaml};

const ROUTES: &str = "connect: app\nroutes: [{event: \"*\", upstream: app}]";
const TLS: &str = "tls: {certificates: [{cert_file: a.pem, key_file: a.key}, {cert_file: b.pem, key_file: b.key}]}\n";

type Wss = WebSocketStream<TlsStream<TcpStream>>;

/// Certificates with their keys, in PEM.
#[derive(Clone)]
struct Pem {
    cert: String,
    key: String,
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    fn certificate(&self, name: &str) -> Pem {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Pem { cert, key: key.serialize_pem() }
    }

    /// A client that trusts this authority.
    fn client(&self, versions: &[&'static SupportedProtocolVersion], own: Option<&Pem>, alpn: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let config = config.with_root_certificates(roots);
        let mut config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let cert = CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
                config.with_client_auth_cert(vec![cert], key).expect("a client certificate")
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    fn plain_client(&self) -> TlsConnector {
        self.client(&[&rustls::version::TLS13, &rustls::version::TLS12], None, &[])
    }
}

async fn tls(connector: &TlsConnector, addr: SocketAddr, server: &str) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from(server.to_owned()).expect("a name");
    tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await.expect("in time")
}

/// Connects to `/ws`. Refused client certificates show only in the first read.
async fn wss(connector: &TlsConnector, addr: SocketAddr, server: &str) -> Result<Wss, String> {
    let stream = tls(connector, addr, server).await.map_err(|error| error.to_string())?;
    let connecting = client_async(format!("wss://{server}/ws"), stream);
    let connected = tokio::time::timeout(PATIENCE, connecting).await.expect("in time");
    connected.map(|(socket, _)| socket).map_err(|error| error.to_string())
}

async fn echoes(socket: &mut Wss) {
    socket.send(Message::text(r#"{"type":"a"}"#)).await.expect("sent");
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a message") {
            Message::Text(text) => return assert_eq!(text.as_str(), r#"{"type":"a"}"#),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn shown(socket: &Wss) -> CertificateDer<'static> {
    let certificates = socket.get_ref().get_ref().1.peer_certificates().expect("shown");
    certificates[0].clone().into_owned()
}

async fn start(app: &Upstream, head: &str, files: &[(&str, &str)]) -> Holdfast {
    Holdfast::start_yaml(&format!("{head}{}", yaml(&app.url(), "", ROUTES)), files).await
}

fn der(pem: &Pem) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.cert.as_bytes()).expect("PEM")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_chosen_by_name_and_swapped_under_open_sockets() {
    // The full figure is `HOLDFAST_TLS=1000`.
    let count = std::env::var("HOLDFAST_TLS").map_or(100, |n| n.parse().expect("a number"));
    let (app, authority) = (Upstream::echo().await, Authority::new());
    let (a, b) = (authority.certificate("a.example"), authority.certificate("b.example"));
    let files = [("a.pem", &*a.cert), ("a.key", &*a.key), ("b.pem", &*b.cert), ("b.key", &*b.key)];
    let holdfast = start(&app, TLS, &files).await;
    let client = authority.plain_client();
    let mut sockets = Vec::new();
    for n in 0..count {
        let (name, pem) = if n % 2 == 0 { ("a.example", &a) } else { ("b.example", &b) };
        let mut socket = wss(&client, holdfast.listen, name).await.expect("a connection");
        assert_eq!(shown(&socket), der(pem), "{name}");
        echoes(&mut socket).await;
        sockets.push(socket);
    }
    // A file that does not fit changes nothing.
    let folder = holdfast.config_path().parent().expect("a folder").to_owned();
    let next = authority.certificate("a.example");
    std::fs::write(folder.join("a.pem"), &next.cert).expect("written");
    let (status, body) = holdfast.call(Method::POST, "/v1/config/reload", "").await;
    assert_eq!(status, 422);
    let problem = body["problems"][0].as_str().expect("a problem");
    assert!(problem.contains("tls.certificates[0]: the key does not belong to the certificate"), "{problem}");
    assert_eq!(shown(&wss(&client, holdfast.listen, "a.example").await.expect("a connection")), der(&a));
    // Both files of the pair are there: noticed by itself.
    std::fs::write(folder.join("a.key"), &next.key).expect("written");
    let swapped = || async {
        let socket = wss(&client, holdfast.listen, "a.example").await.expect("a connection");
        (shown(&socket) == der(&next)).then_some(())
    };
    eventually("the new certificate", swapped).await;
    for socket in &mut sockets {
        echoes(socket).await;
    }
    assert_eq!(shown(&wss(&client, holdfast.listen, "b.example").await.expect("a connection")), der(&b));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_protocols_are_held_to() {
    let (app, authority) = (Upstream::echo().await, Authority::new());
    let a = authority.certificate("a.example");
    let head = "tls: {certificates: [{cert_file: a.pem, key_file: a.key}], version_min: \"1.3\"}\nhandshake: {timeout: 500ms}\n";
    let holdfast = start(&app, head, &[("a.pem", &a.cert), ("a.key", &a.key)]).await;
    let old = authority.client(&[&rustls::version::TLS12], None, &[]);
    assert!(tls(&old, holdfast.listen, "a.example").await.is_err(), "TLS 1.2");
    let new = authority.client(&[&rustls::version::TLS13], None, &["http/1.1"]);
    echoes(&mut wss(&new, holdfast.listen, "a.example").await.expect("a connection")).await;
    let other = authority.client(&[&rustls::version::TLS13], None, &["h2"]);
    assert!(tls(&other, holdfast.listen, "a.example").await.is_err(), "HTTP/2 alone");
    // Who says nothing, and who speaks no TLS, is let go.
    let mut silent = TcpStream::connect(holdfast.listen).await.expect("a connection");
    let read = tokio::time::timeout(PATIENCE, silent.read_u8()).await.expect("closed in time");
    assert!(read.is_err());
    let mut plain = TcpStream::connect(holdfast.listen).await.expect("a connection");
    plain.write_all(b"GET /ws HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("closed in time");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let count = |outcome: &str| format!("holdfast_tls_handshakes_total{{outcome=\"{outcome}\"}}");
    assert_eq!(holdfast.metric(&count("ok")).await, 1.0);
    assert_eq!(holdfast.metric(&count("timeout")).await, 1.0);
    assert_eq!(holdfast.metric(&count("failed")).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_names_the_user() {
    let (app, authority, strangers) = (Upstream::echo().await, Authority::new(), Authority::new());
    let (a, ann) = (authority.certificate("a.example"), authority.certificate("ann"));
    let files = [("a.pem", &*a.cert), ("a.key", &*a.key), ("ca.pem", &*authority.0.pem())];
    let versions: &[&'static SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    for auth in ["required", "optional"] {
        let head = format!(
            "tls: {{certificates: [{{cert_file: a.pem, key_file: a.key}}], client_ca_file: ca.pem, client_auth: {auth}}}\n"
        );
        let holdfast = start(&app, &head, &files).await;
        let known = authority.client(versions, Some(&ann), &[]);
        let before = app.calls().len();
        echoes(&mut wss(&known, holdfast.listen, "a.example").await.expect("a connection")).await;
        for call in &app.calls()[before..before + 2] {
            assert_eq!(call.header("ce-userid"), "ann", "{}", call.kind());
        }
        let stranger = authority.client(versions, Some(&strangers.certificate("eve")), &[]);
        assert!(wss(&stranger, holdfast.listen, "a.example").await.is_err(), "another authority's");
        let nobody = wss(&authority.plain_client(), holdfast.listen, "a.example").await;
        match auth {
            "required" => assert!(nobody.is_err()),
            _ => {
                echoes(&mut nobody.expect("a connection")).await;
                assert_eq!(app.calls().last().expect("a call").header("ce-userid"), "");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_s_user_with_too_many_connections_is_refused_before_the_application_is_asked() {
    let (app, authority) = (Upstream::echo().await, Authority::new());
    let (a, ann, bob) =
        (authority.certificate("a.example"), authority.certificate("ann"), authority.certificate("bob"));
    let files = [("a.pem", &*a.cert), ("a.key", &*a.key), ("ca.pem", &*authority.0.pem())];
    let head = "tls: {certificates: [{cert_file: a.pem, key_file: a.key}], client_ca_file: ca.pem}\n";
    let endpoint = format!("limits: {{per_user: {{connections: 1}}}}\n{ROUTES}");
    let holdfast = Holdfast::start_yaml(&format!("{head}{}", yaml(&app.url(), "", &endpoint)), &files).await;
    let connect = async |own: &Pem| {
        let client = authority.client(&[&rustls::version::TLS13], Some(own), &[]);
        wss(&client, holdfast.listen, "a.example").await
    };
    let mut socket = connect(&ann).await.expect("a connection");
    echoes(&mut socket).await;
    let refused = connect(&ann).await.expect_err("a second connection");
    assert!(refused.contains("429"), "{refused}");
    assert_eq!(app.calls_of("connect").len(), 1, "nobody was asked about the second");
    assert!(connect(&bob).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_over_its_handshakes_is_cut_before_the_tls_handshake() {
    let (app, authority) = (Upstream::echo().await, Authority::new());
    let a = authority.certificate("a.example");
    let files = [("a.pem", &*a.cert), ("a.key", &*a.key)];
    let tls = "tls: {certificates: [{cert_file: a.pem, key_file: a.key}]}\n";
    let holdfast = start(&app, &format!("{tls}limits: {{handshakes_per_second_per_address: 1}}\n"), &files).await;
    // The whole handshake counts as one.
    echoes(&mut wss(&authority.plain_client(), holdfast.listen, "a.example").await.expect("a connection")).await;
    let mut sockets = Vec::new();
    let mut cut = 0;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(holdfast.listen).await.expect("a connection");
        // Who was let in is waited for: it says nothing, and nothing comes.
        match tokio::time::timeout(std::time::Duration::from_millis(200), stream.read_u8()).await {
            Ok(_) => cut += 1,
            Err(_) => sockets.push(stream),
        }
    }
    assert!(cut > 0, "all were let in");
    let counted = "holdfast_limited_total{endpoint=\"$none\",limit=\"address_handshakes\"}";
    assert!(holdfast.metric(counted).await >= f64::from(cut));
    // A proxy that names the client in the request has no rate of its own.
    let behind = format!("{tls}proxies: {{trusted: [127.0.0.1]}}\nlimits: {{handshakes_per_second_per_address: 1}}\n");
    let holdfast = start(&app, &behind, &files).await;
    for _ in 0..5 {
        assert!(self::tls(&authority.plain_client(), holdfast.listen, "a.example").await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_may_ask_for_certificates_instead_of_a_token() {
    let (app, authority) = (Upstream::echo().await, Authority::new());
    let (a, ops) = (authority.certificate("a.example"), authority.certificate("ops"));
    let admin = "admin: {listen: \"0.0.0.0:0\", tls: {certificates: [{cert_file: a.pem, key_file: a.key}], client_ca_file: ca.pem}}";
    let text = yaml(&app.url(), "", ROUTES).replace("admin: {listen: \"127.0.0.1:0\"}", admin);
    let files = [("a.pem", &*a.cert), ("a.key", &*a.key), ("ca.pem", &*authority.0.pem())];
    let holdfast = Holdfast::start_yaml(&text, &files).await;
    let addr = SocketAddr::from(([127, 0, 0, 1], holdfast.admin.port()));
    let call = |connector: TlsConnector| async move {
        let mut stream = tls(&connector, addr, "a.example").await.ok()?;
        stream.write_all(b"GET /v1/config HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    let known = authority.client(&[&rustls::version::TLS13], Some(&ops), &[]);
    assert!(call(known).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    assert_eq!(call(authority.plain_client()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_s_header_is_believed() {
    let app = Upstream::echo().await;
    for (head, expected) in [
        ("", "127.0.0.1:"),
        ("proxies: {trusted: [10.0.0.0/8]}\n", "127.0.0.1:"),
        ("proxies: {trusted: [127.0.0.1]}\n", "192.0.2.9:0"),
        ("proxies: {trusted: [127.0.0.0/8], header: forwarded}\n", "[2001:db8::7]:4711"),
        ("proxies: {trusted: [127.0.0.1], header: none}\n", "127.0.0.1:"),
    ] {
        let holdfast = start(&app, head, &[]).await;
        let headers =
            [("x-forwarded-for", "6.6.6.6, 192.0.2.9"), ("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:4711\"")];
        let client = Client::connect(&holdfast.url(), &headers).await.expect("a connection");
        let body = app.calls().last().expect("a call").json();
        let address = body["remote_addr"].as_str().expect("an address");
        assert!(address.starts_with(expected), "{head}: {address}");
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_is_spoken_by_trusted_proxies_only() {
    let app = Upstream::echo().await;
    let (client, server) = ("192.0.2.9:77".parse::<SocketAddr>(), "10.0.0.1:80".parse::<SocketAddr>());
    let addresses = (client.expect("an address"), server.expect("an address"));
    let header =
        Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses).build().expect("built");
    let connect = |holdfast: SocketAddr, first: Vec<u8>| async move {
        let mut stream = TcpStream::connect(holdfast).await.expect("a connection");
        stream.write_all(&first).await.ok()?;
        client_async(format!("ws://{holdfast}/ws"), stream).await.ok()
    };
    let trusting =
        start(&app, "proxies: {trusted: [127.0.0.1], protocol: true}\nhandshake: {timeout: 1s}\n", &[]).await;
    let socket = connect(trusting.listen, header.clone()).await;
    assert!(socket.is_some());
    assert_eq!(app.calls().last().expect("a call").json()["remote_addr"], "192.0.2.9:77");
    let calls = app.calls().len();
    assert!(connect(trusting.listen, Vec::new()).await.is_none(), "no header");
    let late = TcpStream::connect(trusting.listen).await.expect("a connection");
    let mut late = late;
    let read = tokio::time::timeout(PATIENCE, late.read_u8()).await.expect("closed in time");
    assert!(read.is_err(), "says nothing");
    let wary = start(&app, "proxies: {trusted: [10.0.0.0/8], protocol: true}\n", &[]).await;
    assert!(connect(wary.listen, header).await.is_none(), "not trusted");
    assert_eq!(app.calls().len(), calls, "nobody was asked");
    let refused = "holdfast_accept_errors_total{kind=\"proxy_protocol\"}";
    assert_eq!((trusting.metric(refused).await, wary.metric(refused).await), (2.0, 1.0));
}
