//! The table of every call: the router and `/openapi.json` are both made from it. Must not know what a call does.

use axum::Router;
use axum::routing::{MethodRouter, delete, get, post, put};
use http::Method;

use super::{AdminState, handlers, watch};
use crate::command::{listing, rest, revocations};

/// What a request carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    /// The message, as it is sent.
    Message,
    /// A command list.
    Commands,
    /// `{"level": "…"}`
    Level,
    /// `{"user": "…", "ttl": "…"}`
    Revocation,
}

/// What a token may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything that only looks.
    Read,
    /// Commands: send, close, join, leave.
    Push,
    /// What concerns the program itself: reload, log level, drain; and what messages say.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Push, Self::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Push => "push",
            Self::Admin => "admin",
        }
    }
}

/// The scope that a call needs. `matched` is its path in the table.
pub fn scope_of(method: &Method, matched: &str) -> Scope {
    match matched {
        // What messages say is more than facts about them.
        "/v1/watch" => Scope::Admin,
        _ if method == Method::GET => Scope::Read,
        "/v1/config/reload" | "/v1/log-level" | "/v1/drain" => Scope::Admin,
        _ => Scope::Push,
    }
}

/// One call.
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub summary: &'static str,
    pub query: &'static [(&'static str, &'static str)],
    pub body: Body,
    /// Statuses with what they mean, beside those that every call has.
    pub answers: &'static [(u16, &'static str)],
    handler: fn() -> MethodRouter<AdminState>,
}

const GONE: (u16, &str) = (410, "There is no such connection, or no more");
const BAD: (u16, &str) = (400, "Malformed; the message says how");
const TOO_LARGE: (u16, &str) = (413, "The body is larger than admin.body_size, or than the connection's send buffer");
const INVALID: (u16, &str) = (422, "The message does not fit the push schema; `errors` names each place");
const SUMS: (u16, &str) = (200, "How many connections took it, and how many did not");

/// The path of a push to one connection.
pub const PUSH: &str = "/v1/connections/{id}/messages";

/// Every call, in the order of the documentation.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: PUSH,
        summary: "Send a message to a connection",
        query: &[
            ("wait", "`written` (default) answers once the bytes are in the socket, `queued` at once"),
            ("timeout", "how long to wait for `written`, for instance `500ms`; 5s unless given, 60s at most"),
        ],
        body: Body::Message,
        answers: &[
            (200, "The bytes are in the socket"),
            (202, "Queued, with wait=queued"),
            BAD,
            GONE,
            TOO_LARGE,
            INVALID,
            (429, "The client does not read fast enough: nothing was queued"),
            (504, "Not written in time; it is queued and may still be written"),
        ],
        handler: || post(rest::push),
    },
    Operation {
        method: "get",
        path: "/v1/connections",
        summary: "List connections, the newest first",
        query: &[
            ("limit", "at most this many, 100 unless given, 1000 at most"),
            ("offset", "leave out this many before them"),
            ("search", "only with this in ID, endpoint, user, address or the name of a group; case does not matter"),
            ("endpoint", "only of this path"),
            ("user", "only of this user"),
        ],
        body: Body::None,
        answers: &[(200, "The connections, and how many there are in total"), BAD],
        handler: || get(listing::list),
    },
    Operation {
        method: "get",
        path: "/v1/connections/{id}",
        summary: "Facts about a connection",
        query: &[],
        body: Body::None,
        answers: &[(200, "The facts"), BAD, GONE],
        handler: || get(rest::get),
    },
    Operation {
        method: "delete",
        path: "/v1/connections/{id}",
        summary: "Close a connection",
        query: CLOSE,
        body: Body::None,
        answers: &[(204, "It closes after what is queued for it"), BAD, GONE],
        handler: || delete(rest::close),
    },
    Operation {
        method: "post",
        path: "/v1/groups/{group}/messages",
        summary: "Send a message to a group",
        query: EXCEPT,
        body: Body::Message,
        answers: &[SUMS, BAD, TOO_LARGE, INVALID],
        handler: || post(rest::group_send),
    },
    Operation {
        method: "get",
        path: "/v1/groups/{group}/members",
        summary: "The members of a group",
        query: &[],
        body: Body::None,
        answers: &[(200, "The IDs of its connections"), BAD],
        handler: || get(rest::group_members),
    },
    Operation {
        method: "put",
        path: "/v1/groups/{group}/members/{id}",
        summary: "Add a connection to a group",
        query: &[],
        body: Body::None,
        answers: &[
            (204, "It is a member"),
            BAD,
            (403, "Its token does not allow the group"),
            (409, "It is in as many groups as it may be"),
            GONE,
        ],
        handler: || put(rest::join),
    },
    Operation {
        method: "delete",
        path: "/v1/groups/{group}/members/{id}",
        summary: "Take a connection out of a group",
        query: &[],
        body: Body::None,
        answers: &[(204, "It is no member"), BAD, GONE],
        handler: || delete(rest::leave),
    },
    Operation {
        method: "post",
        path: "/v1/users/{user}/messages",
        summary: "Send a message to a user's connections",
        query: EXCEPT,
        body: Body::Message,
        answers: &[SUMS, BAD, TOO_LARGE, INVALID],
        handler: || post(rest::user_send),
    },
    Operation {
        method: "get",
        path: "/v1/users/{user}/connections",
        summary: "A user's connections",
        query: &[],
        body: Body::None,
        answers: &[(200, "Their IDs"), BAD],
        handler: || get(rest::user_connections),
    },
    Operation {
        method: "delete",
        path: "/v1/users/{user}/connections",
        summary: "Close a user's connections",
        query: CLOSE,
        body: Body::None,
        answers: &[SUMS, BAD],
        handler: || delete(rest::user_close),
    },
    Operation {
        method: "post",
        path: "/v1/broadcast",
        summary: "Send a message to every connection",
        query: EXCEPT,
        body: Body::Message,
        answers: &[SUMS, BAD, TOO_LARGE, INVALID],
        handler: || post(rest::broadcast),
    },
    Operation {
        method: "post",
        path: "/v1/commands",
        summary: "Carry out a list of commands in order",
        query: &[],
        body: Body::Commands,
        answers: &[(200, "An outcome for each"), (400, "Names the command at fault; none was carried out"), TOO_LARGE],
        handler: || post(rest::commands),
    },
    Operation {
        method: "post",
        path: "/v1/revocations",
        summary: "Close the connections of a user, or of tokens with a claim, and refuse them for a time",
        query: &[],
        body: Body::Revocation,
        answers: &[
            (200, "How many connections are closed, and until when others are refused"),
            BAD,
            TOO_LARGE,
            (507, "There are as many revocations as one node keeps"),
        ],
        handler: || post(revocations::revoke),
    },
    Operation {
        method: "get",
        path: "/v1/revocations",
        summary: "The revocations in force",
        query: &[],
        body: Body::None,
        answers: &[(200, "At most 1000 of them, and how many there are")],
        handler: || get(revocations::list),
    },
    Operation {
        method: "delete",
        path: "/v1/revocations",
        summary: "Take a revocation back",
        query: &[
            ("user", "the user that it is about"),
            ("jti", "or the token's ID"),
            ("claim", "or the claim"),
            ("equals", "with this value"),
        ],
        body: Body::None,
        answers: &[(204, "It is no more"), BAD, (404, "There is no such revocation")],
        handler: || delete(revocations::restore),
    },
    Operation {
        method: "get",
        path: "/v1/watch",
        summary: "Live messages, a JSON object a line, or server-sent events where `Accept` names them, until the program leaves",
        query: &[
            ("connection", "only of this ID"),
            ("endpoint", "only of this path"),
            ("user", "only of this user"),
            ("group", "only of members of this group"),
            ("event", "only messages of clients whose event fits this name or pattern"),
            ("outcome", "only messages with this outcome"),
        ],
        body: Body::None,
        answers: &[
            (200, "The stream; a line `{\"kind\":\"alive\"}` comes at once and in every 5 seconds of silence"),
            BAD,
            (429, "There are as many watchers as there may be"),
            (503, "The program is leaving"),
        ],
        handler: || get(watch::watch),
    },
    Operation {
        method: "get",
        path: "/v1/config",
        summary: "The configuration in use, and the last error",
        query: &[],
        body: Body::None,
        answers: &[(
            200,
            "Generation, hash, time, endpoints, upstreams with breakers and last failures, what the last reload changed, \
             last error",
        )],
        handler: || get(handlers::config),
    },
    Operation {
        method: "post",
        path: "/v1/config/reload",
        summary: "Reload the configuration",
        query: &[],
        body: Body::None,
        answers: &[(200, "The generation in use"), (422, "Every problem; the old configuration stays")],
        handler: || post(handlers::reload),
    },
    Operation {
        method: "get",
        path: "/v1/log-level",
        summary: "The log level",
        query: &[],
        body: Body::None,
        answers: &[(200, "The level")],
        handler: || get(handlers::log_level),
    },
    Operation {
        method: "put",
        path: "/v1/log-level",
        summary: "Change the log level until the next restart or reload",
        query: &[],
        body: Body::Level,
        answers: &[(200, "The level"), BAD, TOO_LARGE],
        handler: || put(handlers::set_log_level),
    },
    Operation {
        method: "post",
        path: "/v1/drain",
        summary: "Begin the drain: the program closes its connections and leaves",
        query: &[],
        body: Body::None,
        answers: &[(202, "The drain has begun")],
        handler: || post(handlers::drain),
    },
    Operation {
        method: "get",
        path: "/healthz",
        summary: "Whether the program is alive; needs no token",
        query: &[],
        body: Body::None,
        answers: &[(200, "It is")],
        handler: || get(handlers::healthz),
    },
    Operation {
        method: "get",
        path: "/readyz",
        summary: "Whether new connections should come here; needs no token",
        query: &[],
        body: Body::None,
        answers: &[(200, "They should"), (503, "The program is draining")],
        handler: || get(handlers::readyz),
    },
    Operation {
        method: "get",
        path: "/metrics",
        summary: "Metrics, in OpenMetrics text where `Accept` names it, else in Prometheus's older one",
        query: &[],
        body: Body::None,
        answers: &[(200, "The metrics")],
        handler: || get(handlers::metrics),
    },
    Operation {
        method: "get",
        path: "/v1/stats",
        summary: "The metrics that the console plots, added up over endpoints and routes",
        query: &[],
        body: Body::None,
        answers: &[(200, "Connections, messages, events by outcome, upstreams with in flight, attempts and latency")],
        handler: || get(handlers::stats),
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        summary: "This description",
        query: &[],
        body: Body::None,
        answers: &[(200, "OpenAPI 3.1")],
        handler: || get(handlers::openapi),
    },
];

const EXCEPT: &[(&str, &str)] = &[("except", "IDs of connections to leave out, separated by commas")];
const CLOSE: &[(&str, &str)] = &[
    ("code", "close code, 4500 unless given; 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999"),
    ("reason", "close reason, at most 123 bytes"),
];

/// Calls that probes make without a token. The console's files need none either.
pub const OPEN_PATHS: &[&str] = &["/healthz", "/readyz"];

/// A router with every call of the table.
pub fn router() -> Router<AdminState> {
    OPERATIONS.iter().fold(Router::new(), |router, operation| router.route(operation.path, (operation.handler)()))
}
