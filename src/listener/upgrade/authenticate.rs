//! Who a client is, by its token: in the handshake, or as the first message on the socket. Must not know how tokens are verified.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Request, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::{Answer, Handshake, Known, Opened, Refusal, Upgrader, choose_subprotocol, refuse, switching};
use crate::claims::Grant;
use crate::codes::{Cause, CloseCode};
use crate::listener::credentials;
use crate::message::{Ending, Payload};
use crate::pipeline::{ConnectFacts, Greeting, Renewal, token_frame};
use crate::session::socket::{Incoming, Socket, Written};
use crate::session::task::CLOSE_TIMEOUT;
use crate::session::{Plain, Stream};
use crate::snapshot::{Endpoint, TokenSource};
use crate::tokens::{Refused, TOKEN_BYTES_MAX};

/// The largest first message, in bytes: a token and what is around it.
const FIRST_MESSAGE_BYTES_MAX: usize = 2 * TOKEN_BYTES_MAX;

/// How a client stands before its handshake is answered.
pub enum Proof {
    /// What its token gives it; nothing where none is asked for.
    Given(Option<Arc<Grant>>),
    /// Its token will be the first message.
    Awaited,
}

impl Upgrader {
    /// Finds and verifies the token of a handshake. The answer that refuses it, if it must be.
    pub(super) async fn authenticate<B>(
        &self,
        endpoint: &Endpoint,
        request: &Request<B>,
        offered: &[String],
        client: SocketAddr,
    ) -> Result<Proof, Answer> {
        let Some(auth) = &endpoint.draft.auth else { return Ok(Proof::Given(None)) };
        let verified = match credentials::token(&auth.sources, request, offered) {
            Some(token) => self.verify(endpoint, &token).await,
            None if auth.sources.contains(&TokenSource::Message) => return Ok(Proof::Awaited),
            None if auth.is_optional => return Ok(Proof::Given(None)),
            None => Err(Refused::Missing),
        };
        self.services.pipeline.count_token(endpoint, &verified);
        let refused = match verified {
            Ok(grant) => return Ok(Proof::Given(Some(Arc::new(grant)))),
            Err(refused) => refused,
        };
        tell(endpoint, client, &refused);
        Err(unauthorized(&refused))
    }

    async fn verify(&self, endpoint: &Endpoint, token: &str) -> Renewal {
        let grant = self.services.pipeline.verify(endpoint, token).await?;
        match self.services.deliver.is_revoked(grant.user.as_deref(), Some(&grant)) {
            true => Err(Refused::Revoked),
            false => Ok(grant),
        }
    }

    /// Answers the handshake of a client that has not shown who it is. Nobody can reach it, and no event tells of it, until it has.
    pub(super) fn open_unproven(
        self: &Arc<Self>,
        endpoint: Arc<Endpoint>,
        mut handshake: Handshake,
        facts: ConnectFacts,
    ) -> Answer {
        let chosen = choose_subprotocol(&endpoint.draft.subprotocols, &handshake.offered, None);
        let answer = switching(&handshake.accept, chosen.as_deref(), handshake.deflate.as_ref());
        // The choice is made: the application's comes too late.
        handshake.offered = chosen.into_iter().collect();
        let this = self.clone();
        self.tasks.spawn(async move {
            let Ok(upgraded) = (&mut handshake.upgrade).await else { return };
            match upgraded.downcast::<TokioIo<TcpStream>>() {
                Ok(parts) => {
                    let stream = Plain::new(parts.io.into_inner());
                    Box::pin(this.prove(endpoint, handshake, facts, stream, parts.read_buf)).await;
                }
                Err(upgraded) => {
                    if let Ok(parts) = Upgraded::downcast::<TokioIo<TlsStream<TcpStream>>>(upgraded) {
                        let stream = parts.io.into_inner();
                        Box::pin(this.prove(endpoint, handshake, facts, stream, parts.read_buf)).await;
                    }
                }
            }
        });
        answer
    }

    /// Waits for the token, and starts the session if it is good; else the socket is closed with the reason.
    async fn prove(
        self: Arc<Self>,
        endpoint: Arc<Endpoint>,
        mut handshake: Handshake,
        facts: ConnectFacts,
        stream: impl Stream,
        read_ahead: Bytes,
    ) {
        let Some(auth) = &endpoint.draft.auth else { return };
        let socket = Socket::new(stream, &read_ahead, FIRST_MESSAGE_BYTES_MAX);
        let mut socket = socket.with_deflate(handshake.deflate.take());
        let awaited = timeout(auth.message_timeout, self.first_token(&endpoint, &mut socket)).await;
        let first = match awaited.unwrap_or(Ok(None)) {
            Ok(Some(token)) => self.verify(&endpoint, &token).await,
            Ok(None) => Err(Refused::Missing),
            Err(ending) => {
                turn_away(&mut socket, None, &ending.code, &ending.reason).await;
                return;
            }
        };
        self.services.pipeline.count_token(&endpoint, &first);
        let grant = match first {
            Ok(grant) => Arc::new(grant),
            Err(refused) => {
                tell(&endpoint, handshake.peer.addr, &refused);
                let frame = self.services.pipeline.token_refused(&endpoint, 0, &refused).frame;
                turn_away(&mut socket, frame, &CloseCode::UNAUTHORIZED, "no valid token").await;
                return;
            }
        };
        let left = grant.expires_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        handshake.grant = Some(grant);
        let (known, mut greeting) = match self.introduce(&endpoint, &mut handshake, &facts).await {
            Ok(introduced) => introduced,
            Err(answer) => {
                let reason = format!("refused with {}", answer.status().as_u16());
                let code = match answer.status() {
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => CloseCode::TRY_AGAIN,
                    _ => CloseCode::UNAUTHORIZED,
                };
                turn_away(&mut socket, None, &code, &reason).await;
                return;
            }
        };
        let left_ms = left.and_then(|left| u64::try_from(left.as_millis()).ok());
        greeting.token_frame = Some(token_frame("accepted", left_ms));
        let Known { connection, registration } = known;
        let services = self.services.clone();
        socket.set_message_size(endpoint.draft.limits.message_size);
        let Handshake { place, meters, .. } = handshake;
        let greeting = Box::new(greeting);
        let opened = Opened { services, endpoint, connection, registration, meters, deflate: None, greeting, place };
        opened.serve_socket(&self.tasks, socket);
    }

    /// As for a handshake that bore its token.
    async fn introduce(
        &self,
        endpoint: &Arc<Endpoint>,
        handshake: &mut Handshake,
        facts: &ConnectFacts,
    ) -> Result<(Known, Greeting), Answer> {
        match endpoint.connect {
            Some(_) => self.connect(endpoint, handshake, facts).await,
            None => self.accept_unasked(endpoint, handshake).map_err(Refusal::into_answer),
        }
    }

    /// The token of the first message; none where it brings none. The ending, if the socket closes before.
    async fn first_token<S>(&self, endpoint: &Endpoint, socket: &mut Socket<S>) -> Result<Option<String>, Ending>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let incoming = poll_fn(|cx| {
                // Pongs that wait leave on the way; an error shows in the read.
                let _ = socket.poll_flush(cx, &mut Written::default());
                socket.poll_read(cx)
            });
            match incoming.await {
                Incoming::Message(payload, _) => return Ok(self.services.pipeline.first_token(endpoint, &payload)),
                Incoming::Control => {}
                Incoming::Close(ending) | Incoming::Violation(ending) => return Err(ending),
                Incoming::End => return Err(Ending::new(CloseCode::ABNORMAL, "", Cause::Client)),
            }
        }
    }
}

/// One line for each token that is refused, without anything of it.
fn tell(endpoint: &Endpoint, client: SocketAddr, refused: &Refused) {
    tracing::info!(endpoint = %endpoint.draft.path, client = %client.ip(), reason = refused.name(), "token refused: {refused}");
}

/// RFC 6750 section 3.
fn unauthorized(refused: &Refused) -> Answer {
    if let Refused::NoKeys(_) = refused {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "no token can be checked now; try again").into_answer();
    }
    let mut answer = refuse(StatusCode::UNAUTHORIZED, &format!("the token is refused: {refused}")).into_answer();
    let challenge = match refused {
        Refused::Missing => "Bearer",
        _ => "Bearer error=\"invalid_token\"",
    };
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    answer
}

/// Closes a socket that never became a session: a last frame, the close, and the peer's end of it.
async fn turn_away<S>(socket: &mut Socket<S>, frame: Option<Payload>, code: &CloseCode, reason: &str)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ending = Ending::new(*code, reason, Cause::Server);
    if let Some(frame) = frame {
        socket.queue(frame);
    }
    let mut is_closing = false;
    let closing = poll_fn(|cx| {
        loop {
            match socket.poll_flush(cx, &mut Written::default()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if !is_closing && ending.code.is_sendable() => {
                    is_closing = true;
                    socket.close(&ending);
                }
                Poll::Ready(Ok(())) => {
                    // Its writing half may be gone already.
                    let _ = std::task::ready!(socket.poll_shutdown(cx));
                    return socket.poll_discard(cx);
                }
            }
        }
    });
    // A client that does not end it is left.
    let _ = timeout(CLOSE_TIMEOUT, closing).await;
}
