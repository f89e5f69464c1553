//! The handshake (RFC 6455 section 4.2): which requests may become a WebSocket, the connect event, the answer, the session.
//! Knows sessions; must not know routes or how an upstream is asked.

mod authenticate;
mod limits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use authenticate::Proof;

use super::admission::{Admission, Place};
use super::client_address::ProxySettings;
use super::credentials;
use crate::claims::Grant;
use crate::codes::{Cause, CloseCode};
use crate::connection::{Connection, Opening};
use crate::deliver::Registration;
use crate::ids::{ConnectionId, NodeId};
use crate::limits::Meters;
use crate::message::Ending;
use crate::pipeline::{ConnectFacts, Connected, Greeting, Sender};
use crate::session::deflate::{self, Deflate};
use crate::session::{Plain, Services, Session, Socket, Stream};
use crate::snapshot::Endpoint;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::HandshakeLabel;

type Answer = Response<Full<Bytes>>;

/// Who is at the other end of the TCP connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The TCP peer's, or what a proxy said by the PROXY protocol.
    pub addr: SocketAddr,
    /// The subject of its certificate, if it showed one.
    pub user: Option<Arc<str>>,
    /// Its handshake was held against the limits on handshakes before it could say anything.
    pub is_counted: bool,
}

/// Answers handshakes and starts sessions.
pub struct Upgrader {
    pub node: NodeId,
    pub services: Arc<Services>,
    pub admission: Arc<Admission>,
    pub tasks: Tasks,
    pub metrics: Arc<Metrics>,
    pub handshake_timeout: Duration,
    /// Whose word on a client's address counts.
    pub proxies: ProxySettings,
    /// Set while draining: every handshake is refused with 503.
    pub draining: Arc<AtomicBool>,
}

/// A handshake that may be accepted.
struct Handshake {
    id: ConnectionId,
    /// `Sec-WebSocket-Accept`.
    accept: String,
    /// The subprotocols that the client offers.
    offered: Vec<String>,
    peer: Peer,
    /// What its token gave it.
    grant: Option<Arc<Grant>>,
    place: Place,
    meters: Option<Box<Meters>>,
    /// What is agreed upon of compression.
    deflate: Option<Deflate>,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Whom the token names; else whom a certificate does.
    fn user(&self) -> Option<Arc<str>> {
        let granted = self.grant.as_ref().and_then(|grant| grant.user.clone());
        granted.or_else(|| self.peer.user.clone())
    }
}

/// A connection that can be reached; dropping it takes it out again.
struct Known {
    connection: Arc<Connection>,
    registration: Registration,
}

/// A connection whose answer is on its way.
struct Opened {
    services: Arc<Services>,
    endpoint: Arc<Endpoint>,
    connection: Arc<Connection>,
    registration: Registration,
    meters: Option<Box<Meters>>,
    deflate: Option<Deflate>,
    greeting: Box<Greeting>,
    place: Place,
}

impl Opened {
    /// Hands the socket to its session, in a task that holds nothing else.
    fn serve(mut self, tasks: &Tasks, stream: impl Stream, read_ahead: &[u8]) {
        let deflate = self.deflate.take();
        let socket = Socket::new(stream, read_ahead, self.endpoint.draft.limits.message_size);
        self.serve_socket(tasks, socket.with_deflate(deflate));
    }

    /// The same, for a socket that was read before.
    fn serve_socket(self, tasks: &Tasks, socket: Socket<impl Stream>) {
        let Self { services, endpoint, connection, registration, meters, greeting, place, .. } = self;
        let session = Session::new(services, endpoint, connection, registration, socket, meters);
        tasks.spawn(session.run(*greeting, place));
    }

    /// The client left before its answer.
    async fn give_up(self) {
        let Self { services, endpoint, connection, registration, meters, .. } = self;
        drop((registration, meters));
        let ending = Ending::new(CloseCode::ABNORMAL, "left during the handshake", Cause::Client);
        Session::<Plain>::never_opened(&services, &endpoint, &connection, &ending).await;
    }
}

/// A refusal of a handshake.
pub struct Refusal {
    status: StatusCode,
    message: String,
    /// With 429 and 503.
    retry_after_s: u64,
}

impl Upgrader {
    /// Answers one request: 101 and a session, or the status that says what is wrong.
    pub async fn answer(self: &Arc<Self>, mut request: Request<Incoming>, peer: Peer) -> Answer {
        let snapshot = self.services.pipeline.snapshot();
        let endpoint = snapshot.endpoint(request.uri().path()).cloned();
        let path = endpoint.as_ref().map_or_else(|| "$none".into(), |endpoint| endpoint.draft.path.clone());
        let addr = self.proxies.client_of(peer.addr, request.headers());
        if !peer.is_counted
            && let Err(refusal) = self.knock(&path, addr.ip())
        {
            return self.finish(&path, refusal.into_answer());
        }
        let Some(endpoint) = endpoint else {
            return self.finish(&path, refuse(StatusCode::NOT_FOUND, "no endpoint at this path").into_answer());
        };
        let peer = Peer { addr, ..peer };
        let checked = self.check(&request, &endpoint);
        let checked = checked.and_then(|checked| Ok((checked, self.meter(&endpoint, &peer, None, None)?)));
        let ((accept, place), meters) = match checked {
            Ok(checked) => checked,
            Err(refusal) => return self.finish(&path, refusal.into_answer()),
        };
        let sources = endpoint.draft.auth.as_ref().map(|auth| auth.sources.as_slice()).unwrap_or_default();
        let offered = subprotocols(request.headers());
        let proof = match self.authenticate(&endpoint, &request, &offered, peer.addr).await {
            Ok(proof) => proof,
            Err(refused) => return self.finish(&path, refused),
        };
        let offered = credentials::choosable(sources, offered);
        let mut facts = facts_of(&request, &offered, addr);
        credentials::redact(sources, &mut facts);
        let mut handshake = Handshake {
            id: ConnectionId::random(self.node),
            accept,
            offered,
            peer,
            grant: None,
            place,
            meters,
            deflate: deflate_of(&endpoint, request.headers()),
            upgrade: hyper::upgrade::on(&mut request),
        };
        let answer = match proof {
            // A token's own was looked at when it was verified; a certificate's subject may be revoked too.
            _ if self.services.deliver.is_revoked(handshake.user().as_deref(), None) => {
                refuse(StatusCode::FORBIDDEN, "revoked").into_answer()
            }
            Proof::Awaited => self.open_unproven(endpoint, handshake, facts),
            Proof::Given(grant) => {
                handshake.grant = grant;
                self.admit(endpoint, handshake, facts).await
            }
        };
        self.finish(&path, answer)
    }

    /// Asks the connect upstream, where there is one, and answers the handshake.
    async fn admit(self: &Arc<Self>, endpoint: Arc<Endpoint>, mut handshake: Handshake, facts: ConnectFacts) -> Answer {
        if endpoint.connect.is_none() {
            return match self.accept_unasked(&endpoint, &mut handshake) {
                Ok((known, greeting)) => self.open(endpoint, handshake, known, greeting),
                Err(refusal) => refusal.into_answer(),
            };
        }
        // A task of its own: a client that leaves in the middle must not stop a connect that the upstream may accept.
        let this = self.clone();
        let connecting = self.tasks.spawn(async move {
            match this.connect(&endpoint, &mut handshake, &facts).await {
                Ok((known, greeting)) => this.open(endpoint, handshake, known, greeting),
                Err(refusal) => refusal,
            }
        });
        connecting.await.unwrap_or_else(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_answer())
    }

    /// What can be said without asking anybody.
    fn check(&self, request: &Request<Incoming>, endpoint: &Endpoint) -> Result<(String, Place), Refusal> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket handshake is a GET request"));
        }
        if !has_token(headers, UPGRADE, "websocket") || !has_token(headers, CONNECTION, "upgrade") {
            return Err(refuse(
                StatusCode::UPGRADE_REQUIRED,
                "this is a WebSocket endpoint; connect with ws:// or wss://",
            ));
        }
        if !request.body().is_end_stream() {
            return Err(refuse(StatusCode::BAD_REQUEST, "a WebSocket handshake has no body"));
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
            return Err(refuse(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13"));
        }
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|key| is_nonce(key)) else {
            return Err(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"));
        };
        check_origin(headers, &endpoint.draft.origins)?;
        if self.draining.load(Ordering::Relaxed) {
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "this server is going away; try again"));
        }
        let endpoint_max = endpoint.draft.limits.connections;
        let all_max = self.services.pipeline.snapshot().limits.connections;
        let place = self.admission.enter(&endpoint.draft.path, endpoint_max, all_max);
        let place = place.map_err(|limit| self.too_many(&endpoint.draft.path, limit, 0))?;
        Ok((derive_accept_key(key.as_bytes()), place))
    }

    /// Asks the connect upstream. The answer that refuses, if it does.
    async fn connect(
        &self,
        endpoint: &Arc<Endpoint>,
        handshake: &mut Handshake,
        facts: &ConnectFacts,
    ) -> Result<(Known, Greeting), Answer> {
        let (user, grant) = (handshake.user(), handshake.grant.clone());
        self.count_user(endpoint, handshake, user.as_ref()).map_err(Refusal::into_answer)?;
        let sender = Sender { id: handshake.id, user, context: None, grant };
        let deadline = Instant::now() + self.handshake_timeout;
        let early = endpoint.accepts_on_confirm().then(|| self.enrol(endpoint, handshake, &Greeting::default()));
        match Box::pin(self.services.pipeline.connect(endpoint, sender, facts, deadline)).await {
            Connected::Accepted(mut greeting) => {
                greeting.join_first(handshake.grant.as_deref());
                let known = early.unwrap_or_else(|| self.enrol(endpoint, handshake, &greeting));
                let user = known.connection.user.as_ref();
                let refusal =
                    match self.services.deliver.is_revoked(user.map(|user| &**user), handshake.grant.as_deref()) {
                        true => Some(refuse(StatusCode::FORBIDDEN, "revoked")),
                        false => self.count_user(endpoint, handshake, user).err(),
                    };
                match refusal {
                    None => Ok((known, greeting)),
                    Some(refusal) => {
                        self.end_unopened(endpoint, known, &refusal);
                        Err(refusal.into_answer())
                    }
                }
            }
            Connected::Refused { status, content_type, body } => Err(refused_by_upstream(status, content_type, body)),
            Connected::Unavailable => {
                let message = "nobody could accept the connection; try again";
                Err(refuse(StatusCode::SERVICE_UNAVAILABLE, message).into_answer())
            }
        }
    }

    /// Ends a connection that was accepted and must be refused all the same. Its refusal does not wait for that.
    fn end_unopened(&self, endpoint: &Arc<Endpoint>, known: Known, refusal: &Refusal) {
        let Known { connection, registration } = known;
        drop(registration);
        let (services, endpoint) = (self.services.clone(), endpoint.clone());
        let ending = Ending::new(CloseCode::ABNORMAL, refusal.message.clone(), Cause::Server);
        self.tasks.spawn(async move {
            Session::<Plain>::never_opened(&services, &endpoint, &connection, &ending).await;
        });
    }

    /// Accepts a handshake where no upstream is asked.
    fn accept_unasked(&self, endpoint: &Endpoint, handshake: &mut Handshake) -> Result<(Known, Greeting), Refusal> {
        let user = handshake.user();
        self.count_user(endpoint, handshake, user.as_ref())?;
        let mut greeting = Greeting::default();
        greeting.join_first(handshake.grant.as_deref());
        Ok((self.enrol(endpoint, handshake, &greeting), greeting))
    }

    /// Makes the connection known: reachable from now on, since a handler may push as soon as it has answered. What is pushed waits
    /// for the session.
    fn enrol(&self, endpoint: &Endpoint, handshake: &Handshake, greeting: &Greeting) -> Known {
        let draft = &endpoint.draft;
        let chosen = choose_subprotocol(&draft.subprotocols, &handshake.offered, greeting.subprotocol.as_deref());
        let connection = Connection::new(Opening {
            id: handshake.id,
            endpoint: draft.path.clone(),
            // The application's word counts more than a token's or a certificate's.
            user: greeting.user.clone().or_else(|| handshake.user()),
            context: greeting.context().or_else(|| handshake.grant.as_ref().and_then(|grant| grant.context.clone())),
            grant: handshake.grant.clone(),
            remote_addr: handshake.peer.addr,
            subprotocol: chosen.map(Into::into),
            send_buffer: draft.limits.send_buffer,
            groups_max: draft.limits.groups,
        });
        let registration = self.services.deliver.register(connection.clone());
        // A revocation may have come since its rights were looked at; from here on it is found by the next one.
        self.services.deliver.close_if_revoked(&connection);
        Known { connection, registration }
    }

    /// Starts the session, which waits for the answer to leave.
    fn open(&self, endpoint: Arc<Endpoint>, handshake: Handshake, known: Known, greeting: Greeting) -> Answer {
        let Known { connection, registration } = known;
        let Handshake { accept, place, meters, deflate, upgrade, .. } = handshake;
        let answer = switching(&accept, connection.subprotocol.as_deref(), deflate.as_ref());
        let services = self.services.clone();
        let greeting = Box::new(greeting);
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let opened = Opened { services, endpoint, connection, registration, meters, deflate, greeting, place };
            match upgrade.await.map(Upgraded::downcast::<TokioIo<TcpStream>>) {
                Ok(Ok(parts)) => opened.serve(&tasks, Plain::new(parts.io.into_inner()), &parts.read_buf),
                Ok(Err(upgraded)) => match upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
                    Ok(parts) => opened.serve(&tasks, parts.io.into_inner(), &parts.read_buf),
                    Err(_) => opened.give_up().await,
                },
                Err(_) => opened.give_up().await,
            }
        });
        answer
    }

    fn finish(&self, endpoint: &str, mut answer: Answer) -> Answer {
        self.count(endpoint, answer.status());
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    fn count(&self, endpoint: &str, status: StatusCode) {
        let label = HandshakeLabel { endpoint: endpoint.into(), status: status.as_str().into() };
        self.metrics.handshakes.get_or_create(&label).inc();
    }
}

impl Refusal {
    fn into_answer(self) -> Answer {
        let mut answer = Response::new(Full::new(Bytes::from(self.message + "\n")));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self.status {
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after_s));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(http::header::ALLOW, HeaderValue::from_static("GET"));
            }
            _ => {}
        }
        answer
    }
}

fn refuse(status: StatusCode, message: &str) -> Refusal {
    Refusal { status, message: message.to_owned(), retry_after_s: 1 }
}

fn refused_by_upstream(status: u16, content_type: Option<String>, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(&text).ok()) {
        answer.headers_mut().insert(CONTENT_TYPE, value);
    }
    answer
}

fn switching(accept: &str, subprotocol: Option<&str>, deflate: Option<&Deflate>) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // The accept key is base64, and the subprotocol is one that came as a header: both are header values.
    if let Ok(value) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    if let Some(value) = subprotocol.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    if let Some(value) = deflate.and_then(|deflate| HeaderValue::from_str(&deflate.answer()).ok()) {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, value);
    }
    answer
}

/// What the endpoint and the client's offers come to.
fn deflate_of(endpoint: &Endpoint, headers: &HeaderMap) -> Option<Deflate> {
    let settings = endpoint.draft.compression.as_ref()?;
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter().filter_map(|value| value.to_str().ok());
    deflate::agree(settings, offers).map(|terms| Deflate::new(terms, settings))
}

/// Browsers always send `Origin`; other clients need not, and pass.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN).filter(|_| !allowed.is_empty()) else { return Ok(()) };
    let fits = allowed.iter().any(|a| a == "*" || origin.as_bytes().eq_ignore_ascii_case(a.as_bytes()));
    if fits { Ok(()) } else { Err(refuse(StatusCode::FORBIDDEN, "this origin may not connect")) }
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    list(headers, name).any(|value| value.eq_ignore_ascii_case(token))
}

/// The members of a comma-separated header that may repeat.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

fn is_nonce(key: &HeaderValue) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)
}

fn subprotocols(headers: &HeaderMap) -> Vec<String> {
    list(headers, SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect()
}

/// The application's choice, if the client offers it; else the endpoint's first that the client offers.
fn choose_subprotocol(preferred: &[String], offered: &[String], chosen: Option<&str>) -> Option<String> {
    let is_offered = |name: &&str| offered.iter().any(|o| o == name);
    chosen.filter(is_offered).or_else(|| preferred.iter().map(String::as_str).find(is_offered)).map(str::to_owned)
}

fn facts_of(request: &Request<Incoming>, offered: &[String], remote_addr: SocketAddr) -> ConnectFacts {
    let mut facts = ConnectFacts {
        headers: Default::default(),
        query: query_of(request.uri()),
        subprotocols: offered.to_vec(),
        remote_addr,
    };
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined: &mut String = facts.headers.entry(name.as_str().to_owned()).or_default();
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(&value);
    }
    facts
}

fn query_of(uri: &Uri) -> std::collections::BTreeMap<String, String> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn tokens_are_found_in_lists_of_any_case() {
        let headers = headers(&[(CONNECTION, "keep-alive, Upgrade")]);
        assert!(has_token(&headers, CONNECTION, "upgrade"));
        assert!(!has_token(&headers, CONNECTION, "close"));
    }

    #[test]
    fn an_origin_is_held_against_the_list() {
        let allowed = ["https://app.example.com".to_owned()];
        assert!(check_origin(&headers(&[(ORIGIN, "https://app.example.com")]), &allowed).is_ok());
        assert!(check_origin(&headers(&[(ORIGIN, "https://evil.example.com")]), &allowed).is_err());
        assert!(check_origin(&headers(&[(ORIGIN, "null")]), &allowed).is_err());
        assert!(check_origin(&headers(&[]), &allowed).is_ok(), "not a browser");
        assert!(check_origin(&headers(&[(ORIGIN, "https://any.example.com")]), &[]).is_ok());
    }

    #[test]
    fn a_subprotocol_is_chosen_only_of_those_offered() {
        let (preferred, offered) = (["b".to_owned(), "a".to_owned()], ["a".to_owned(), "b".to_owned()]);
        assert_eq!(choose_subprotocol(&preferred, &offered, None).as_deref(), Some("b"));
        assert_eq!(choose_subprotocol(&preferred, &offered, Some("a")).as_deref(), Some("a"));
        assert_eq!(choose_subprotocol(&preferred, &offered, Some("z")).as_deref(), Some("b"));
        assert_eq!(choose_subprotocol(&[], &offered, None), None);
    }

    #[test]
    fn a_key_is_sixteen_bytes() {
        assert!(is_nonce(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")));
        assert!(!is_nonce(&HeaderValue::from_static("dGhl")));
        assert!(!is_nonce(&HeaderValue::from_static("not base64")));
    }
}
