//! From the read tree to each module's settings: names that must exist, files that must compile, rules between keys.
//! Must not know how modules work.

mod admin;
mod auth;
mod limits;
mod rabbitmq;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use secrecy::SecretString;

use super::error::{Problem, Problems, did_you_mean};
use super::files::{Files, hex};
use super::outline;
use super::raw::{Entry, Used};
use super::{Fixed, Loaded};
use crate::drain::DrainSettings;
use crate::listener::ListenerSettings;
use crate::recorder::Redaction;
use crate::routing::{EventName, Pattern, Pointer};
use crate::schema::Schema;
use crate::snapshot::{Compression, Draft, EndpointDraft, Heartbeat, OnFailure, RouteDraft, Validate};
use crate::telemetry::logging::{self, LogFormat, LogSettings};
use crate::telemetry::spans::SpanSettings;
use crate::upstream::http::{HttpSettings, Mode, Version};
use crate::upstream::{BatchSettings, Settings, http::HttpUpstream};

/// Builds the settings, or says everything that is wrong.
pub fn build(name: &str, text: &str, root: &Entry, used: &Used, folder: &Path) -> Result<Loaded, Problems> {
    let mut build = Build {
        problems: used.problems.clone(),
        faulty: &used.faulty,
        files: Files::new(folder),
        names: root.get("upstreams").named().map(|(name, _)| name.to_owned()).collect(),
        queues: root
            .get("upstreams")
            .named()
            .filter(|(_, u)| !u.get("amqp").is_absent())
            .map(|(n, _)| n.to_owned())
            .collect(),
        has_broker: !root.get("rabbitmq").is_absent(),
    };
    let fixed = build.fixed(root);
    let upstreams = build.upstreams(root.get("upstreams"));
    let endpoints = build.endpoints(root.get("endpoints"));
    let limits = build.node_limits(root.get("limits"));
    if !build.problems.is_empty() {
        return Err(Problems::new(name, build.problems));
    }
    let hash = hash(text, used, &build.files);
    let outline = Arc::new(outline::of(root, &build.files));
    let files = build.files.all().keys().cloned().collect();
    Ok(Loaded { fixed, draft: Draft { limits, endpoints, upstreams, hash }, outline, files })
}

struct Build<'a> {
    problems: Vec<Problem>,
    faulty: &'a BTreeSet<String>,
    files: Files,
    /// Names of upstreams, whether or not they could be built.
    names: BTreeSet<String>,
    /// Those of them that are exchanges.
    queues: BTreeSet<String>,
    has_broker: bool,
}

impl Build<'_> {
    fn problem(&mut self, entry: &Entry, problem: impl Into<String>, hint: impl Into<Option<String>>) {
        // Where a whole map could not be read, what would be in it has no place, and nothing more is said of it.
        let is_of_faulty = entry.place.line == 0 && !self.faulty.is_empty();
        if !is_of_faulty && !self.faulty.contains(&entry.path) {
            let (place, path) = (entry.place, entry.path.clone());
            self.problems.push(Problem { place, path, problem: problem.into(), hint: hint.into() });
        }
    }

    fn fixed(&mut self, root: &Entry) -> Fixed {
        let handshake = root.get("handshake");
        let listener = ListenerSettings {
            listen: self.address(root.get("listen")),
            handshake_timeout: duration(handshake.get("timeout")),
            header_size: handshake.get("header_size").size(),
            tls: self.tls(root.get("tls")),
            proxies: self.proxies(root.get("proxies")),
        };
        Fixed {
            listener,
            admin: self.admin(root.get("admin")),
            drain: self.drain(root.get("drain")),
            log: self.log(root.get("log")),
            spans: self.spans(root.get("tracing")),
            rabbitmq: self.rabbitmq(root.get("rabbitmq")),
        }
    }

    fn address(&mut self, entry: &Entry) -> SocketAddr {
        let text = entry.text().unwrap_or_default();
        let text = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}")).unwrap_or(text.to_owned());
        text.parse().unwrap_or_else(|_| {
            let problem = format!("expected an address and port, found {text:?}");
            self.problem(entry, problem, "write for instance `0.0.0.0:8000` or `[::]:8000`".to_owned());
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    fn drain(&mut self, drain: &Entry) -> DrainSettings {
        let settings =
            DrainSettings { window: duration(drain.get("window")), deadline: duration(drain.get("deadline")) };
        if settings.window >= settings.deadline {
            let hint = "make `drain.deadline` longer than `drain.window`".to_owned();
            self.problem(drain.get("deadline"), "the deadline is not longer than the window", hint);
        }
        settings
    }

    fn log(&mut self, log: &Entry) -> LogSettings {
        let level = log.get("level").text().unwrap_or("info").to_owned();
        if let Err(reason) = logging::check_level(&level) {
            self.problem(log.get("level"), reason, "write for instance `info` or `info,holdfast=debug`".to_owned());
        }
        let format = if log.get("format").text() == Some("json") { LogFormat::Json } else { LogFormat::Text };
        LogSettings { level, format }
    }

    fn spans(&mut self, tracing: &Entry) -> Option<SpanSettings> {
        let entry = tracing.get("otlp");
        let endpoint = entry.text()?.to_owned();
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let hint = "write for instance `http://127.0.0.1:4318/v1/traces`".to_owned();
            self.problem(entry, "expected an `http:` or `https:` URL", hint);
        }
        Some(SpanSettings { endpoint, sample_ratio: tracing.get("sample").ratio() })
    }

    fn upstreams(&mut self, entries: &Entry) -> BTreeMap<String, Settings> {
        let mut upstreams = BTreeMap::new();
        for (name, entry) in entries.named() {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(fits) {
                self.problem(entry, format!("expected a name of `[a-z0-9_-]`, found {name:?}"), None);
            }
            let (http, amqp) = (entry.get("http"), entry.get("amqp"));
            match (http.is_absent(), amqp.is_absent()) {
                (true, true) => {
                    if !self.faulty.contains(&amqp.path) && !self.faulty.contains(&http.path) {
                        let hint = "add `http: {url: …}` or `amqp: {exchange: …, routing_key: …}`".to_owned();
                        self.problem(entry, "expected what kind of upstream it is", hint);
                    }
                    continue;
                }
                (true, false) => {
                    let settings = self.amqp(amqp);
                    upstreams.insert(name.to_owned(), Settings::Amqp(settings));
                    continue;
                }
                (false, false) => {
                    self.problem(amqp, "an upstream is `http` or `amqp`, not both", "make two upstreams".to_owned());
                }
                (false, true) => {}
            }
            let before = self.problems.len();
            let settings = self.http(http);
            // What is named with its own place already is not said again.
            if before == self.problems.len()
                && !settings.urls.is_empty()
                && let Err(reason) = HttpUpstream::check(&settings)
            {
                self.problem(http, reason, None);
            }
            upstreams.insert(name.to_owned(), Settings::Http(settings));
        }
        upstreams
    }

    fn http(&mut self, http: &Entry) -> HttpSettings {
        let signing_secret = self.signing_secret(http.get("signing_secret"));
        let mode = match (http.get("mode").text(), &signing_secret) {
            (Some("structured"), _) | (None, Some(_)) => Mode::Structured,
            _ => Mode::Binary,
        };
        let (retry, breaker) = (http.get("retry"), http.get("breaker"));
        let backoff = (duration(retry.get("backoff_min")), duration(retry.get("backoff_max")));
        if backoff.0 > backoff.1 {
            self.problem(retry.get("backoff_min"), "longer than `backoff_max`", "swap them".to_owned());
        }
        HttpSettings {
            urls: self.urls(http.get("url")),
            version: if http.get("version").text() == Some("2") { Version::Http2 } else { Version::Http1 },
            timeout: duration(http.get("timeout")),
            deadline: duration(http.get("deadline")),
            mode,
            signing_secret,
            headers: self.headers(http.get("headers")),
            concurrency: http.get("concurrency").size(),
            waiting: http.get("waiting").size(),
            pool_idle_timeout: duration(http.get("pool_idle_timeout")),
            answer_size: http.get("answer_size").size(),
            backoff_min: backoff.0,
            backoff_max: backoff.1,
            breaker_failures: u32::try_from(breaker.get("failures").size()).unwrap_or(u32::MAX),
            breaker_open: duration(breaker.get("open")),
            dns_refresh: duration(http.get("dns_refresh")),
            ca_pem: self.file_text(http.get("ca_file")),
        }
    }

    /// The text of a file that is named.
    fn file_text(&mut self, entry: &Entry) -> Option<Arc<str>> {
        match self.files.text(entry.text()?) {
            Ok(text) => Some(text.into()),
            Err(reason) => {
                self.problem(entry, reason, "paths are relative to the configuration file".to_owned());
                None
            }
        }
    }

    fn urls(&mut self, entries: &Entry) -> Vec<http::Uri> {
        if entries.list().is_empty() && !entries.is_absent() {
            self.problem(entries, "expected at least one URL", None);
        }
        entries.list().iter().filter_map(|entry| self.url(entry)).collect()
    }

    fn url(&mut self, entry: &Entry) -> Option<http::Uri> {
        let text = entry.text()?;
        let url = text.parse::<http::Uri>().ok();
        let url = url.filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
        if url.is_none() {
            let hint = "write for instance `http://127.0.0.1:3000/events`".to_owned();
            self.problem(entry, format!("expected an `http:` or `https:` URL, found {text:?}"), hint);
        }
        url
    }

    fn signing_secret(&mut self, entry: &Entry) -> Option<SecretString> {
        let text = entry.text()?;
        let decoded = text.strip_prefix("whsec_").map(|key| base64::engine::general_purpose::STANDARD.decode(key));
        if !matches!(&decoded, Some(Ok(key)) if key.len() >= 24) {
            let hint = "make one with `echo whsec_$(head -c 32 /dev/urandom | base64)`".to_owned();
            self.problem(entry, "expected `whsec_` and at least 24 bytes in base64 (Standard Webhooks)", hint);
        }
        Some(SecretString::from(text.to_owned()))
    }

    fn headers(&mut self, entries: &Entry) -> Vec<(http::HeaderName, SecretString)> {
        let mut headers = Vec::new();
        for (name, entry) in entries.named() {
            let Some(text) = entry.text() else { continue };
            match (name.parse::<http::HeaderName>(), http::HeaderValue::from_str(text)) {
                (Ok(name), Ok(_)) => headers.push((name, SecretString::from(text.to_owned()))),
                (Err(_), _) => self.problem(entry, format!("{name:?} is not a header's name"), None),
                (_, Err(_)) => self.problem(entry, "not a header's value: it has control characters", None),
            }
        }
        headers
    }

    fn endpoints(&mut self, entries: &Entry) -> Vec<EndpointDraft> {
        let mut paths = BTreeSet::new();
        let mut endpoints = Vec::new();
        for entry in entries.list() {
            let endpoint = self.endpoint(entry);
            if !endpoint.path.is_empty() && !paths.insert(endpoint.path.clone()) {
                let problem = format!("another endpoint has the path {:?} already", endpoint.path);
                self.problem(entry.get("path"), problem, "each endpoint needs a path of its own".to_owned());
            }
            endpoints.push(endpoint);
        }
        if entries.list().is_empty() && !entries.is_absent() {
            self.problem(entries, "expected at least one endpoint", None);
        }
        endpoints
    }

    fn endpoint(&mut self, entry: &Entry) -> EndpointDraft {
        let path = entry.get("path");
        if path.text().is_some_and(|path| !path.starts_with('/') || path.contains(['?', '#', ' '])) {
            self.problem(path, "expected a URL path such as `/ws`, without query", "start it with `/`".to_owned());
        }
        let heartbeat = entry.get("heartbeat");
        let validate = validate_of(entry.get("validate")).unwrap_or(Validate::Enforce);
        let has_auth = !entry.get("auth").is_absent();
        let (group_rules, conflations) = self.group_rules(entry.get("groups"), has_auth);
        EndpointDraft {
            path: path.text().unwrap_or_default().into(),
            event: self.event_name(entry.get("event")),
            connect: self.connect(entry.get("connect")),
            disconnect: self.upstream_name(entry.get("disconnect")),
            heartbeat: Heartbeat {
                interval: duration(heartbeat.get("interval")),
                timeout: duration(heartbeat.get("timeout")),
                misses: u32::try_from(heartbeat.get("misses").size()).unwrap_or(u32::MAX),
            },
            limits: self.limits(entry.get("limits")),
            idle_timeout: entry.get("idle_timeout").duration(),
            lifetime: entry.get("lifetime").duration(),
            origins: self.origins(entry.get("origins")),
            subprotocols: texts(entry.get("subprotocols")),
            compression: compression(entry.get("compression")),
            validate,
            push_schema: self.schema(entry.get("push_schema")),
            redaction: self.redaction(entry.get("redact")),
            auth: self.auth(entry.get("auth")),
            group_rules,
            conflations,
            routes: self.routes(entry.get("routes"), validate, has_auth),
        }
    }

    fn origins(&mut self, entries: &Entry) -> Vec<String> {
        for entry in entries.list() {
            let Some(origin) = entry.text().filter(|origin| *origin != "*" && *origin != "null") else { continue };
            let host = origin.split_once("://").map(|(_, host)| host);
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                let hint = "write for instance `https://app.example.com`".to_owned();
                self.problem(entry, format!("expected a scheme and a host, found {origin:?}"), hint);
            }
        }
        texts(entries)
    }

    fn event_name(&mut self, entry: &Entry) -> EventName {
        match entry.text() {
            None | Some("none") => EventName::None,
            Some(text) => Pointer::parse(text).map_or_else(
                |error| {
                    self.problem(entry, error.to_string(), "write for instance `/type`, or `none`".to_owned());
                    EventName::None
                },
                EventName::At,
            ),
        }
    }

    fn redaction(&mut self, entries: &Entry) -> Arc<Redaction> {
        let mut pointers = Vec::new();
        for entry in entries.list() {
            match Pointer::parse(entry.text().unwrap_or_default()) {
                Ok(pointer) => pointers.push(pointer),
                Err(error) => self.problem(entry, error.to_string(), "write for instance `/password`".to_owned()),
            }
        }
        Arc::new(Redaction::new(&pointers))
    }

    fn upstream_name(&mut self, entry: &Entry) -> Option<String> {
        let name = entry.text()?;
        if !self.names.contains(name) {
            let known = || self.names.iter().map(String::as_str);
            let list = || format!("known are {}", known().collect::<Vec<_>>().join(", "));
            let hint = did_you_mean(name, known()).unwrap_or_else(list);
            self.problem(entry, format!("no upstream is called {name:?}"), hint);
        }
        Some(name.to_owned())
    }

    fn schema(&mut self, entry: &Entry) -> Option<Arc<Schema>> {
        match self.files.schema(entry.text()?) {
            Ok(schema) => Some(schema),
            Err(reason) => {
                let is_missing = reason.starts_with("cannot read");
                let hint = is_missing.then(|| "paths are relative to the configuration file".to_owned());
                self.problem(entry, reason, hint);
                None
            }
        }
    }

    fn routes(&mut self, entries: &Entry, validate: Validate, has_auth: bool) -> Vec<RouteDraft> {
        let mut routes: Vec<RouteDraft> = Vec::new();
        for entry in entries.list() {
            let Some(route) = self.route(entry, validate, has_auth) else { continue };
            // An earlier pattern that takes this one's text, stars and all, takes everything that this one takes.
            let taken = |earlier: &&RouteDraft| earlier.event.matches(route.event.as_str());
            if let Some(earlier) = routes.iter().find(taken) {
                let problem = format!(
                    "never reached: {:?} before it takes all that {:?} takes",
                    earlier.event.as_str(),
                    route.event.as_str()
                );
                self.problem(entry.get("event"), problem, "put it before that route, or remove it".to_owned());
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, entry: &Entry, validate: Validate, has_auth: bool) -> Option<RouteDraft> {
        let event = entry.get("event");
        let pattern = Pattern::parse(event.text().unwrap_or_default());
        if let (Err(error), Some(_)) = (&pattern, event.text()) {
            self.problem(event, error.to_string(), None);
        }
        let schema = entry.get("schema");
        if event.text() == Some(crate::message::BINARY_EVENT) && !schema.is_absent() {
            self.problem(schema, "binary frames have no JSON Schema", "remove it".to_owned());
        }
        Some(RouteDraft {
            schema: self.schema(schema),
            reply_schema: self.schema(entry.get("reply_schema")),
            validate: validate_of(entry.get("validate")).unwrap_or(validate),
            upstream: self.upstream_name(entry.get("upstream")).unwrap_or_default(),
            in_flight: entry.get("in_flight").size(),
            batch: self.batch(entry),
            deadline: entry.get("deadline").duration(),
            on_failure: match entry.get("on_failure").text() {
                Some("close") => OnFailure::Close,
                _ => OnFailure::Error,
            },
            ack: entry.get("ack").is_true(),
            require: self.require(entry.get("require"), has_auth, false),
            join: self.group_template(entry.get("join")),
            leave: self.group_template(entry.get("leave")),
            event: pattern.ok()?,
        })
    }

    fn batch(&mut self, route: &Entry) -> Option<BatchSettings> {
        let batch = route.get("batch");
        if batch.is_absent() {
            return None;
        }
        if let Some(name) = route.get("upstream").text().filter(|name| self.queues.contains(*name)) {
            let problem = format!("{name:?} is an exchange: batches are for HTTP handlers");
            self.problem(batch, problem, "remove it: a broker's messages need no batches".to_owned());
        }
        let (max, size) = (batch.get("max").size(), batch.get("size").size());
        Some(BatchSettings { max, wait: duration(batch.get("wait")), size })
    }
}

fn compression(entry: &Entry) -> Option<Compression> {
    // The reader holds the numbers to their ranges.
    let small = |name| u8::try_from(entry.get(name).size()).unwrap_or_default();
    (!entry.is_absent()).then(|| Compression {
        level: small("level"),
        min_size: entry.get("min_size").size(),
        context_takeover: entry.get("context_takeover").text() == Some("true"),
        window_bits: small("window_bits"),
    })
}

fn validate_of(entry: &Entry) -> Option<Validate> {
    match entry.text()? {
        "report" => Some(Validate::Report),
        _ => Some(Validate::Enforce),
    }
}

fn duration(entry: &Entry) -> Duration {
    entry.duration().unwrap_or_default()
}

fn texts(entries: &Entry) -> Vec<String> {
    entries.list().iter().filter_map(Entry::text).map(str::to_owned).collect()
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// SHA-256 over the text, every file that it names and every variable that it uses.
fn hash(text: &str, used: &Used, files: &Files) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut add = |part: &str| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    };
    add(text);
    for (path, text) in files.all() {
        add(&path.to_string_lossy());
        add(text);
    }
    for (name, value) in &used.variables {
        add(name);
        add(value);
    }
    hex(context.finish().as_ref())
}
