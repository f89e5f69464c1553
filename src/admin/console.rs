//! The console: a page of a few files, inside the binary, that calls this listener's own API. Must not know any data: whatever the page
//! shows, it asks for with its user's token.

use std::sync::LazyLock;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};

use super::AdminState;

/// The page runs and loads its own files, calls its own listener, and stands in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

struct File {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal $media_type:ident $file:literal),+ $(,)?) => {
        &[$(File { path: $path, media_type: $media_type, text: include_str!(concat!("console/", $file)) }),+]
    };
}

const FILES: &[File] = files![
    "/console" HTML "index.html",
    "/console/console.css" CSS "console.css",
    "/console/console.js" SCRIPT "console.js",
    "/console/api.js" SCRIPT "api.js",
    "/console/dom.js" SCRIPT "dom.js",
    "/console/stats.js" SCRIPT "stats.js",
    "/console/plot.js" SCRIPT "plot.js",
    "/console/overview.js" SCRIPT "overview.js",
    "/console/connections.js" SCRIPT "connections.js",
    "/console/connection.js" SCRIPT "connection.js",
    "/console/messages.js" SCRIPT "messages.js",
    "/console/send.js" SCRIPT "send.js",
    "/console/configuration.js" SCRIPT "configuration.js",
];

/// By their hashes, as `FILES`: the page is loaded anew only when the program is another.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| FILES.iter().map(|file| tag(file.text)).collect());

/// True for the console's files, which need no token.
pub fn serves(path: &str) -> bool {
    path == "/" || FILES.iter().any(|file| file.path == path)
}

pub fn router() -> Router<AdminState> {
    // Relative, for those who reach the listener under a path of some proxy.
    let to_console = || async { (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "console")]) };
    let router = Router::new().route("/", get(to_console));
    FILES.iter().enumerate().fold(router, |router, (at, file)| router.route(file.path, file_at(at)))
}

fn file_at(at: usize) -> MethodRouter<AdminState> {
    get(move |headers: HeaderMap| async move { answer(&FILES[at], &TAGS[at], &headers) })
}

fn answer(file: &File, tag: &str, asked: &HeaderMap) -> Response {
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
        (ETAG, tag),
    ];
    let known = asked.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    match known.flat_map(|value| value.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag) {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, [(CONTENT_TYPE, file.media_type)], file.text).into_response(),
    }
}

fn tag(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}
