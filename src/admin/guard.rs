//! Who may call the admin listener, how often, and what the audit log says of it; one shape for every refusal. Must not know what a
//! call does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::operations::{OPEN_PATHS, Scope, scope_of};
use super::{AdminSettings, Audit, console};
use crate::command::ApiError;
use crate::limits::{Bucket, Rate};

/// The longest refusal of the framework's own that is passed on.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Who calls: where from, and the subject of its certificate, if it showed one.
#[derive(Debug, Clone)]
pub struct Caller {
    pub addr: SocketAddr,
    pub subject: Option<Arc<str>>,
}

/// Lets calls pass, or not. Its rules may be swapped while the listener serves.
pub struct Guard {
    rules: ArcSwap<Rules>,
    calls: Mutex<Bucket>,
    /// The bucket's time counts from here.
    epoch: Instant,
}

struct Rules {
    /// Hashes of the tokens, so that comparing takes the same time whatever is given.
    keys: Vec<Key>,
    rate: Option<Rate>,
    audit: Audit,
    /// A certificate says by which names the listener may be called.
    has_certificate: bool,
}

struct Key {
    name: Arc<str>,
    hash: Hash,
    scopes: Vec<Scope>,
}

type Hash = aws_lc_rs::digest::Digest;

impl Guard {
    pub fn new(settings: &AdminSettings) -> Arc<Self> {
        let rules = ArcSwap::from_pointee(Rules::new(settings));
        Arc::new(Self { rules, calls: Mutex::default(), epoch: Instant::now() })
    }

    /// Calls from now on go by these settings.
    pub fn swap(&self, settings: &AdminSettings) {
        self.rules.store(Arc::new(Rules::new(settings)));
    }

    /// Looks at a request before it is carried out. `matched` is its path in the table of operations.
    pub fn enter<B>(&self, request: &Request<B>, matched: &str) -> Entry {
        let rules = self.rules.load();
        let method = request.method();
        let admitted = match self.is_in_rate(rules.rate) {
            true => admit(&rules, request.headers(), scope_of(method, matched)),
            false => {
                let message = "more calls than admin.requests_per_second";
                Err(Refusal(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)))
            }
        };
        let (token, refusal) = match admitted {
            Ok(token) => (token, None),
            Err(refusal) => (None, Some(refusal)),
        };
        let is_audited = is_audited(method, matched, rules.audit);
        Entry { token, refusal, audited: is_audited.then(|| (method.clone(), request.uri().path().to_owned())) }
    }

    /// False if there were more calls than the rate allows.
    fn is_in_rate(&self, rate: Option<Rate>) -> bool {
        let Some(rate) = rate else { return true };
        let now_ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.calls.lock().take(now_ms, 1, rate).is_ok()
    }
}

/// What the guard says of a request.
pub struct Entry {
    /// The name of the token that let it in, where tokens are asked for.
    token: Option<Arc<str>>,
    refusal: Option<Refusal>,
    /// What the audit log is to tell of it.
    audited: Option<(Method, String)>,
}

impl Entry {
    /// The answer to what is not let in.
    pub fn refusal(&mut self) -> Option<Response> {
        self.refusal.take().map(IntoResponse::into_response)
    }

    /// Tells the audit log how a call was answered.
    pub fn audit(self, caller: &Caller, response: &Response) {
        if let Some((method, path)) = self.audited {
            tracing::info!(
                target: "holdfast::audit",
                caller = %caller.addr,
                token = self.token.as_deref().unwrap_or_default(),
                subject = caller.subject.as_deref(),
                %method,
                path,
                status = response.status().as_u16(),
                "admin call"
            );
        }
    }
}

impl Rules {
    fn new(settings: &AdminSettings) -> Self {
        let key = |token: &super::TokenSettings| Key {
            name: token.name.clone(),
            hash: hash(token.token.expose_secret().as_bytes()),
            scopes: token.scopes.clone(),
        };
        Self {
            keys: settings.tokens.iter().map(key).collect(),
            rate: settings.requests_per_second.map(|per_second| Rate::new(per_second, None)),
            audit: settings.audit,
            has_certificate: settings.tls.is_some(),
        }
    }

    /// Whose token a request bears. The time that it takes says nothing of how near a guess was.
    fn key(&self, headers: &HeaderMap) -> Option<&Key> {
        let given = headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")?;
        let given = hash(given);
        let same =
            |key: &Key| aws_lc_rs::constant_time::verify_slices_are_equal(key.hash.as_ref(), given.as_ref()).is_ok();
        self.keys.iter().fold(None, |found, key| if same(key) { Some(key) } else { found })
    }
}

/// Lets a request pass if its token has the scope of the call. Without tokens anyone who gets here may call, but of a browser's
/// pages only the console.
pub async fn authorise(
    State(guard): State<Arc<Guard>>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if OPEN_PATHS.contains(&path) || console::serves(path) {
        return next.run(request).await;
    }
    let matched = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let mut entry = guard.enter(&request, matched);
    let response = match entry.refusal() {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    entry.audit(&caller, &response);
    response
}

/// The name of the token that lets a request pass, if one must, or the refusal.
fn admit(rules: &Rules, headers: &HeaderMap, scope: Scope) -> Result<Option<Arc<str>>, Refusal> {
    if rules.keys.is_empty() {
        return match is_foreign(headers, rules.has_certificate) {
            false => Ok(None),
            true => {
                let message = "a listener that has no token may be called from its own console only, under an address or \
                               localhost; set admin.token";
                Err(Refusal(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)))
            }
        };
    }
    let Some(key) = rules.key(headers) else {
        let message = "expected `Authorization: Bearer` with a token of admin.token or admin.tokens";
        return Err(Refusal(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)));
    };
    if !key.scopes.contains(&scope) {
        let message = format!("the token {:?} has not the scope {:?}", key.name, scope.name());
        return Err(Refusal(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)));
    }
    Ok(Some(key.name.clone()))
}

/// True if some page of a browser may be behind a call: it names another origin than this one, or this listener by a name, which its
/// owner may have pointed here to make us its own origin (DNS rebinding).
fn is_foreign(headers: &HeaderMap, has_certificate: bool) -> bool {
    let text = |name| headers.get(name).map(HeaderValue::to_str);
    let Some(host) = text(HOST) else { return headers.contains_key(ORIGIN) };
    let Ok(host) = host else { return true };
    let is_own = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    let is_other_origin = text(ORIGIN).is_some_and(|origin| !origin.is_ok_and(is_own));
    is_other_origin || !(has_certificate || is_address(host))
}

/// True for `localhost` and addresses, with a port or without one. Every call passes here: nothing is allocated.
fn is_address(host: &str) -> bool {
    let name = host.bytes().position(|byte| byte == b':').map_or(host, |colon| &host[..colon]);
    // Mostly an IPv4 address or this one name, with a port: who parses the whole parses the address and the port twice.
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

struct Refusal(ApiError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Calls that change something, or read what messages say; sends only where all are asked for, since there may be thousands a second.
fn is_audited(method: &Method, matched: &str, audit: Audit) -> bool {
    let is_send = matched.ends_with("/messages") || matched == "/v1/broadcast";
    let is_read = method == Method::GET && matched != "/v1/watch";
    !is_read && (audit == Audit::All || !is_send)
}

fn hash(bytes: &[u8]) -> Hash {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
}

/// Gives the framework's own refusals (404, 405, 400, 413) the shape of all others.
pub async fn shape(request: Request<Body>, next: Next) -> Response {
    let response = next.run(request).await;
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if !(response.status().is_client_error() || response.status().is_server_error()) || is_json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let mut message = String::from_utf8_lossy(&text).into_owned();
    if message.is_empty() {
        message = head.status.canonical_reason().unwrap_or("refused").to_lowercase();
    }
    let code = match head.status {
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ => "bad_request",
    };
    let body = ApiError::new(head.status, code, message).body().to_string();
    head.headers.remove(http::header::CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, Body::from(body))
}
