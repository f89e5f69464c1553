//! The keys of limits: of the node, of an endpoint, of a user and an address.

use super::Otherwise::{Absent, Is};
use super::Shape::{Choice, Integer, Map, Size};
use super::{GIB, KIB, Key, MANY, Otherwise, Shape, hot};

const PER_SECOND: Shape = Integer(1, 1_000_000);
const BYTES: Shape = Size(1, GIB);
const NO_LIMIT: Otherwise = Absent("no limit");

/// Under the root's `limits`.
pub const NODE: &[Key] = &[
    hot(
        "connections",
        Integer(1, MANY),
        Is("1000000"),
        "Open connections over all endpoints; one more is refused with 503.",
    ),
    hot(
        "connections_per_address",
        Integer(1, MANY),
        NO_LIMIT,
        "Open connections of one client's address (of IPv6 its /64) over all endpoints; one more is refused with 429.",
    ),
    hot(
        "handshakes_per_second",
        PER_SECOND,
        NO_LIMIT,
        "Handshakes, with a burst of one second's worth; more are refused with 429.",
    ),
    hot(
        "handshakes_per_second_per_address",
        PER_SECOND,
        NO_LIMIT,
        "The same for each address. With TLS its connection is cut before the TLS handshake.",
    ),
];

/// Under an endpoint's `limits`.
pub const ENDPOINT: &[Key] = &[
    hot("message_size", BYTES, Is("128KiB"), "Bytes of one message; a larger one closes with 1009."),
    hot(
        "send_buffer",
        Size(KIB, GIB),
        Is("1MiB"),
        "Bytes that may wait for the client to read; over it the client is cut with 4001.",
    ),
    hot("receive_buffer", BYTES, Is("64KiB"), "Bytes read ahead while calls are under way."),
    MESSAGES_PER_SECOND,
    MESSAGES_BURST,
    BYTES_PER_SECOND,
    BYTES_BURST,
    hot(
        "connections",
        Integer(1, MANY),
        Is("100000"),
        "Open connections on this endpoint; one more is refused with 503.",
    ),
    hot("per_user", Map(QUOTA), NO_LIMIT, "What all connections of one user on this endpoint share."),
    hot(
        "per_address",
        Map(QUOTA),
        NO_LIMIT,
        "What all connections of one client's address (of IPv6 its /64) on this endpoint share.",
    ),
    hot(
        "on_excess",
        Choice(&["error", "close"]),
        Is("error"),
        "What the client sees of a message over a rate: an error frame with `retry_after_ms`, or that and close 4501.",
    ),
    hot(
        "invalid_messages",
        Integer(0, 1_000_000),
        Absent("never closes"),
        "Messages refused for what they say that a connection may send; one more closes with 4501.",
    ),
    hot(
        "json_depth",
        // The parser gives up at 128.
        Integer(1, 127),
        Is("64"),
        "Arrays and objects inside each other; a message with more is `invalid_json`. Not where nothing is parsed.",
    ),
    hot(
        "json_values",
        Integer(1, MANY),
        Absent("as many as fit into `message_size`"),
        "Members of objects and elements of arrays in a message, nested ones too; with more it is `invalid_json`.",
    ),
    hot("groups", Integer(0, 100_000), Is("100"), "Groups that one connection may be in."),
];

/// Under `per_user` and `per_address`.
const QUOTA: &[Key] = &[
    MESSAGES_PER_SECOND,
    MESSAGES_BURST,
    BYTES_PER_SECOND,
    BYTES_BURST,
    hot("connections", Integer(1, MANY), NO_LIMIT, "Open connections; one more is refused with 429."),
];

const MESSAGES_PER_SECOND: Key = hot("messages_per_second", PER_SECOND, NO_LIMIT, "Messages; more are `rate_limited`.");

const MESSAGES_BURST: Key =
    hot("messages_burst", PER_SECOND, Absent("one second's worth"), "Messages that may come at once after a pause.");

const BYTES_PER_SECOND: Key = hot("bytes_per_second", BYTES, NO_LIMIT, "Bytes of messages; more are `rate_limited`.");

const BYTES_BURST: Key = hot(
    "bytes_burst",
    BYTES,
    Absent("one second's worth, at least `message_size`"),
    "Bytes that may come at once after a pause; no less than `message_size`.",
);
