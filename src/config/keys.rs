//! The table of every key: its shape, default and meaning. The reader, the JSON Schema and `docs/configuration.md` all come from it.

mod auth;
mod limits;
mod rabbitmq;

/// What a value may be.
pub enum Shape {
    Text,
    /// Text that never appears in logs, dumps or problems.
    Secret,
    /// The name of a file, relative to the configuration file.
    File,
    /// `250ms`, `5s`, `1m 30s`: at least the first, at most the second, in milliseconds.
    Duration(u64, u64),
    /// `64KiB`, `1MB` or a number of bytes: at least the first, at most the second.
    Size(u64, u64),
    Integer(u64, u64),
    /// 0 to 1.
    Ratio,
    Choice(&'static [&'static str]),
    /// One text, or a list of them.
    Texts,
    /// Names chosen by the user, each with a secret text.
    Secrets,
    /// Names chosen by the user, each with such a value.
    Named(&'static Shape),
    List(&'static Shape),
    Map(&'static [Key]),
    /// A map, or a text that stands for this one key of it.
    TextOr(&'static str, &'static [Key]),
    /// A word of a later version: refused, with what to do instead.
    Reserved(&'static str),
}

/// What holds where the key is left out.
pub enum Otherwise {
    Required,
    /// Nothing; the text says what that means.
    Absent(&'static str),
    Is(&'static str),
}

/// One key of a map.
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub otherwise: Otherwise,
    pub doc: &'static str,
    /// True if a change takes effect by a reload.
    pub hot: bool,
}

use Otherwise::{Absent, Is, Required};
use Shape::{
    Choice, Duration, File, Integer, List, Map, Named, Ratio, Reserved, Secret, Secrets, Size, Text, TextOr, Texts,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;
const MANY: u64 = 100_000_000;

const fn hot(name: &'static str, shape: Shape, otherwise: Otherwise, doc: &'static str) -> Key {
    Key { name, shape, otherwise, doc, hot: true }
}

const fn cold(name: &'static str, shape: Shape, otherwise: Otherwise, doc: &'static str) -> Key {
    Key { name, shape, otherwise, doc, hot: false }
}

/// The whole file.
pub const ROOT: Shape = Map(&[
    cold("listen", Text, Is("0.0.0.0:8000"), "Address and port where WebSocket clients connect."),
    hot("limits", Map(limits::NODE), Absent("the defaults"), "Limits of the whole node; see [limits.md](limits.md)."),
    hot(
        "tls",
        Map(TLS),
        Absent("`ws:` without TLS"),
        "Certificates of `wss:`. Settings and changed files count from the next handshake on; only to begin or end with TLS is a restart.",
    ),
    cold(
        "proxies",
        Map(PROXIES),
        Absent("none is trusted"),
        "Proxies in front, whose word on a client's address counts.",
    ),
    cold("handshake", Map(HANDSHAKE), Absent("the defaults"), "Limits of the handshake."),
    cold("admin", Map(ADMIN), Absent("the defaults"), "The admin listener: REST, health, metrics."),
    hot("drain", Map(DRAIN), Absent("the defaults"), "How the program leaves after SIGTERM or `POST /v1/drain`."),
    hot("log", Map(LOG), Absent("the defaults"), "The log, on standard error."),
    cold("tracing", Map(TRACING), Absent("no spans"), "Export of spans by OpenTelemetry."),
    hot("upstreams", Named(&Map(UPSTREAM)), Required, "Named handlers that take events. Names are `[a-z0-9_-]+`."),
    hot("endpoints", List(&Map(ENDPOINT)), Required, "The URL paths that clients connect to."),
    cold(
        "rabbitmq",
        Map(rabbitmq::RABBITMQ),
        Absent("no broker"),
        "The RabbitMQ broker; see [rabbitmq.md](rabbitmq.md).",
    ),
    cold("cluster", Reserved("a cluster is not part of this version; remove it"), Absent(""), "Reserved for clusters."),
]);

const TLS: &[Key] = &[
    hot(
        "certificates",
        List(&Map(CERTIFICATE)),
        Required,
        "Chosen by the server's name that a client asks for; the first one where none fits.",
    ),
    hot(
        "client_ca_file",
        File,
        Absent("clients show no certificate"),
        "PEM file of authorities that client certificates must come from. The subject's common name becomes the user.",
    ),
    hot(
        "client_auth",
        Choice(&["required", "optional"]),
        Is("required"),
        "With `client_ca_file`: who shows none is refused, or not.",
    ),
    hot("version_min", Choice(&["1.2", "1.3"]), Is("1.2"), "The oldest TLS version spoken."),
];

const CERTIFICATE: &[Key] = &[
    hot("cert_file", File, Required, "PEM file of the certificate and its chain."),
    hot("key_file", File, Required, "PEM file of its key."),
];

const PROXIES: &[Key] = &[
    cold("trusted", List(&Text), Required, "Addresses or networks such as `10.0.0.0/8`. Nobody else is believed."),
    cold(
        "header",
        Choice(&["x-forwarded-for", "forwarded", "none"]),
        Is("x-forwarded-for"),
        "The one header that these proxies set. The last address in it that is not trusted is the client's.",
    ),
    cold(
        "protocol",
        FLAG,
        Is("false"),
        "Every connection begins with a PROXY protocol v2 header; without one, or from an untrusted peer, it is closed.",
    ),
];

const HANDSHAKE: &[Key] = &[
    cold(
        "timeout",
        Duration(10, HOUR),
        Is("10s"),
        "From accept to the request's head, and for the connect event's answer (503 after it).",
    ),
    cold("header_size", Size(8 * KIB, MIB), Is("16KiB"), "Bytes of the request's head; more is answered 431."),
];

const ADMIN: &[Key] = &[
    cold(
        "listen",
        Text,
        Is("127.0.0.1:8001"),
        "Address and port of the admin listener. Not on loopback it needs a token, or client certificates.",
    ),
    hot(
        "token",
        Secret,
        Absent("no token; only on loopback"),
        "Bearer token for everything. Every call but the health probes must bear a token, if there is any.",
    ),
    hot("tokens", Named(&Map(TOKEN)), Absent("none"), "More tokens, by the name that the audit log shows."),
    hot(
        "requests_per_second",
        Integer(1, 1_000_000),
        Absent("no limit"),
        "Calls of all callers together; more are answered 429.",
    ),
    hot(
        "audit",
        Choice(&["changes", "all"]),
        Is("changes"),
        "Calls that the log tells of under `holdfast::audit`: all that change something but sends, or those too.",
    ),
    cold("body_size", Size(KIB, GIB), Is("1MiB"), "Bytes of one request's body; more is answered 413."),
    cold("console", FLAG, Is("true"), "Whether `/console` is served: a page for people, which calls with their token."),
    hot(
        "tls",
        Map(TLS),
        Absent("HTTP without TLS"),
        "As `tls`, for this listener. Required client certificates do instead of a token.",
    ),
];

const TOKEN: &[Key] = &[
    hot("token", Secret, Absent("see `token_file`"), "The token."),
    hot("token_file", File, Absent("see `token`"), "File with the token, read anew when it changes."),
    hot(
        "scopes",
        List(&Choice(&["read", "push", "admin"])),
        Required,
        "`read`: everything that only looks. `push`: send, close, join, leave. `admin`: reload, log level, drain, contents of live messages.",
    ),
];

const DRAIN: &[Key] = &[
    hot("window", Duration(0, HOUR), Is("5s"), "Over how long the closes are spread."),
    hot(
        "deadline",
        Duration(100, HOUR),
        Is("30s"),
        "From the signal to the exit, whatever is left. Longer than `window`.",
    ),
];

const LOG: &[Key] = &[
    hot("level", Text, Is("info"), "`error`, `warn`, `info`, `debug`, or a filter such as `info,holdfast=debug`."),
    cold("format", Choice(&["text", "json"]), Is("text"), "How lines are written."),
];

const TRACING: &[Key] = &[
    cold("otlp", Text, Required, "The collector's OTLP/HTTP URL, for instance `http://127.0.0.1:4318/v1/traces`."),
    cold("sample", Ratio, Is("0.01"), "Share of messages traced, 0 to 1."),
];

const UPSTREAM: &[Key] = &[
    hot("http", Map(HTTP), Absent("see `amqp`"), "An HTTP handler."),
    hot("amqp", Map(rabbitmq::AMQP), Absent("see `http`"), "An exchange of the broker under `rabbitmq`."),
];

const FLAG: Shape = Choice(&["true", "false"]);

const CONNECT: &[Key] = &[
    hot("upstream", Text, Required, "Name of the upstream."),
    hot(
        "accept_on",
        Choice(&["answer", "confirm"]),
        Is("answer"),
        "`answer`: an HTTP handler decides. `confirm`: every handshake whose event the broker confirmed is accepted.",
    ),
];

const HTTP: &[Key] = &[
    hot(
        "url",
        Texts,
        Required,
        "Where events are posted; `http:` or `https:`. A list is balanced, with failing addresses set aside.",
    ),
    hot(
        "version",
        Choice(&["1.1", "2"]),
        Is("1.1"),
        "HTTP version. `2` is spoken with prior knowledge on `http:` URLs.",
    ),
    hot("timeout", Duration(1, HOUR), Is("5s"), "Of one attempt."),
    hot("deadline", Duration(1, HOUR), Is("30s"), "Of an event with all its attempts, counted from its receipt."),
    hot(
        "mode",
        Choice(&["binary", "structured"]),
        Absent("`binary`; `structured` with a `signing_secret`"),
        "CloudEvents content mode.",
    ),
    hot("signing_secret", Secret, Absent("requests are not signed"), "Standard Webhooks secret, `whsec_` and base64."),
    hot("headers", Secrets, Absent("none"), "Headers sent with every request, for instance an API key."),
    hot("concurrency", Integer(1, MANY), Is("1024"), "Requests on the wire at once."),
    hot("waiting", Integer(0, MANY), Is("10000"), "Events that may wait for `concurrency`; one more is `overloaded`."),
    hot(
        "pool_idle_timeout",
        Duration(1, HOUR),
        Is("4s"),
        "Idle connections are closed after this; keep it under the handler's own limit (Node's is 5 s).",
    ),
    hot("answer_size", Size(0, GIB), Is("1MiB"), "The largest answer body taken."),
    hot("retry", Map(RETRY), Absent("the defaults"), "Delays between attempts."),
    hot("breaker", Map(BREAKER), Absent("the defaults"), "When a failing address is set aside."),
    hot("dns_refresh", Duration(100, HOUR), Is("30s"), "How often host names are looked up again."),
    hot(
        "ca_file",
        File,
        Absent("the system's authorities"),
        "PEM file of authorities trusted beside the system's, for `https:`.",
    ),
];

const RETRY: &[Key] = &[
    hot("backoff_min", Duration(1, HOUR), Is("100ms"), "Delay before the first retry; it doubles, with jitter."),
    hot("backoff_max", Duration(1, HOUR), Is("5s"), "The longest delay."),
];

const BREAKER: &[Key] = &[
    hot("failures", Integer(1, 1000), Is("5"), "Failures in a row after which an address is set aside."),
    hot("open", Duration(10, HOUR), Is("1s"), "How long, before one probe is let through; it grows while probes fail."),
];

const ENDPOINT: &[Key] = &[
    hot("path", Text, Required, "The URL path, for instance `/ws`."),
    hot(
        "event",
        Text,
        Is("/type"),
        "JSON Pointer to the event name in a message, or `none`: text frames are `$text`, nothing is parsed.",
    ),
    hot(
        "connect",
        TextOr("upstream", CONNECT),
        Absent("every handshake is accepted"),
        "Upstream that is asked before a handshake is answered.",
    ),
    hot("disconnect", Text, Absent("nobody is told"), "Upstream that is told when a connection has ended."),
    hot("heartbeat", Map(HEARTBEAT), Absent("the defaults"), "Pings for silent clients."),
    hot(
        "limits",
        Map(limits::ENDPOINT),
        Absent("the defaults"),
        "Limits, counted on decoded frames: of each connection where nothing else is said; see [limits.md](limits.md).",
    ),
    hot(
        "idle_timeout",
        Duration(10, YEAR),
        Absent("never"),
        "Time without a message in either direction, then close 4002.",
    ),
    hot("lifetime", Duration(10, YEAR), Absent("never"), "Age at which a connection is closed with 4003."),
    hot(
        "origins",
        List(&Text),
        Absent("every origin"),
        "Allowed `Origin` values of browsers; others are refused with 403.",
    ),
    hot("subprotocols", List(&Text), Absent("none"), "Subprotocols, the preferred first."),
    hot(
        "compression",
        Map(COMPRESSION),
        Absent("nothing is compressed"),
        "permessage-deflate with clients that offer it, from the next handshake on; see [operations.md](operations.md#compression).",
    ),
    hot(
        "validate",
        Choice(&["enforce", "report"]),
        Is("enforce"),
        "What happens to a payload that does not fit its schema: refused, or counted and passed on.",
    ),
    hot(
        "push_schema",
        File,
        Absent("nothing is checked"),
        "JSON Schema file that pushes to this endpoint's connections must fit.",
    ),
    hot(
        "redact",
        List(&Text),
        Absent("nothing is hidden"),
        "JSON Pointers, such as `/password`, whose values nobody who looks at live messages is shown; see [console.md](console.md).",
    ),
    hot(
        "auth",
        Map(auth::AUTH),
        Absent("every client is taken"),
        "JSON Web Tokens that clients must bear; see [security.md](security.md).",
    ),
    hot(
        "groups",
        List(&Map(auth::GROUP)),
        Absent("nothing is asked"),
        "Who may be in which group, and what slow members miss; of each the first rule decides that takes a group's name and says it.",
    ),
    hot("routes", List(&Map(ROUTE)), Required, "Which upstream takes which event; the first match wins."),
];

const COMPRESSION: &[Key] = &[
    hot("level", Integer(1, 9), Required, "1 is the fastest, 9 the smallest; 3 is a good choice."),
    hot("min_size", Size(0, GIB), Is("256B"), "Smaller messages are sent as they are."),
    hot(
        "context_takeover",
        FLAG,
        Is("false"),
        "Messages refer to those before them: smaller, for twice the window in memory for each socket, and nothing shared by a group.",
    ),
    hot("window_bits", Integer(9, 15), Is("15"), "How far back messages refer, as a power of two of bytes: 9 to 15."),
];

const HEARTBEAT: &[Key] = &[
    hot("interval", Duration(10, HOUR), Is("25s"), "Silence after which a ping is sent."),
    hot("timeout", Duration(10, HOUR), Is("5s"), "How long a ping may stay without any byte."),
    hot("misses", Integer(1, 100), Is("2"), "Missed pings after which the connection is closed with 4000."),
];

const ROUTE: &[Key] = &[
    hot(
        "event",
        Text,
        Required,
        "Event name, or a pattern in which `*` stands for any text. `$binary` takes binary frames.",
    ),
    hot("schema", File, Absent("nothing is checked"), "JSON Schema file that the message must fit."),
    hot("reply_schema", File, Absent("nothing is checked"), "JSON Schema file that the upstream's reply must fit."),
    hot("validate", Choice(&["enforce", "report"]), Absent("the endpoint's"), "As on the endpoint, for this route."),
    hot("upstream", Text, Required, "Name of the upstream."),
    hot("in_flight", Integer(1, 64), Is("1"), "Calls of one connection on this route at once. 1 keeps strict order."),
    hot(
        "batch",
        Map(BATCH),
        Absent("a request for each message"),
        "Messages of many connections go in one request; see [events.md](events.md#batches). For HTTP upstreams.",
    ),
    hot("deadline", Duration(1, HOUR), Absent("the upstream's"), "Overrides the upstream's `deadline`."),
    hot(
        "on_failure",
        Choice(&["error", "close"]),
        Is("error"),
        "What the client sees of a message that was not delivered: an error frame, or that and close 4005.",
    ),
    hot(
        "ack",
        FLAG,
        Is("false"),
        "Sends `{\"type\":\"ack\",\"seq\":n}` once the upstream has the message: after a queue's confirm, or an empty answer.",
    ),
    hot(
        "require",
        auth::REQUIRE,
        Absent("nothing is asked"),
        "Claims that the sender's token must hold, such as `{scope: \"chat:write\"}`; else `forbidden`. Of a list one value is enough.",
    ),
    hot(
        "join",
        Text,
        Absent("no group"),
        "Group that the sender joins once the upstream has its message, such as `room:{/room}`, as far as `groups` allow.",
    ),
    hot("leave", Text, Absent("no group"), "Group that the sender leaves then."),
];

const BATCH: &[Key] = &[
    hot("max", Integer(1, 10_000), Required, "Messages in one request, for instance 100."),
    hot(
        "wait",
        Duration(0, 10 * SECOND),
        Is("2ms"),
        "The longest that a message waits for others. It waits only while another request of the route is under way, and for 2 ms \
         after one that has brought several answers.",
    ),
    hot("size", Size(1, GIB), Is("1MiB"), "Bytes of one request's body; a message that is larger goes alone."),
];
