//! The keys that concern tokens and what they allow.

use super::Otherwise::{Absent, Is, Required};
use super::Shape::{self, Choice, Duration, File, List, Named, Secret, Text, TextOr, Texts};
use super::{FLAG, HOUR, Key, SECOND, hot};

const ALGORITHM: Shape = Choice(&[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
]);

/// Claims, by name or JSON Pointer, each with the values of which it must hold one.
pub const REQUIRE: Shape = Named(&Texts);

pub const AUTH: &[Key] = &[
    hot(
        "algorithms",
        List(&ALGORITHM),
        Required,
        "The only algorithms taken. Those of one key's kind: HS with `secret`, the others with public keys.",
    ),
    hot("secret", Secret, Absent("see `secret_file`"), "Secret of HS algorithms, 32 bytes at least."),
    hot("secret_file", File, Absent("see `key_file`"), "File with that secret, read anew when it changes."),
    hot(
        "key_file",
        File,
        Absent("see `jwks`"),
        "File with a public key in PEM, or a JWK set; read anew when it changes.",
    ),
    hot(
        "jwks",
        TextOr("url", JWKS),
        Absent("see `secret`"),
        "Where a JWK set is fetched. One of these four is needed.",
    ),
    hot("issuer", Texts, Absent("every issuer"), "What `iss` must be, or one of several."),
    hot("audience", Texts, Absent("every audience"), "What `aud` must be or have, or one of several."),
    hot("leeway", Duration(0, HOUR), Is("5s"), "By how much clocks may differ: added to `exp`, taken from `nbf`."),
    hot(
        "required_claims",
        List(&Text),
        Absent("`exp`"),
        "Claims that a token must have, by name or JSON Pointer. Without `exp` among them tokens may last for ever.",
    ),
    hot(
        "token_from",
        List(&Text),
        Absent("`header` and `subprotocol`"),
        "Where a token may be, in this order: `header` (`Authorization: Bearer`), `subprotocol` (`bearer.<token>`, never chosen), \
         `cookie:NAME`, `query:NAME`, `message` (the first one on the socket).",
    ),
    hot(
        "message_timeout",
        Duration(10, HOUR),
        Is("5s"),
        "How long a first message with the token may take, then 4503.",
    ),
    hot("optional", FLAG, Is("false"), "Takes clients without a token too. A bad token is refused all the same."),
    hot("user", Text, Is("sub"), "The claim that becomes the user, by name or JSON Pointer."),
    hot("groups", Text, Absent("none are joined"), "The claim that lists groups to join."),
    hot("context", Text, Absent("no context"), "The claim that becomes the context; anything but text as JSON."),
    hot("warning", Duration(0, 24 * HOUR), Is("30s"), "How long before its token ends a client is told; 0s never."),
    hot("refresh_event", Text, Is("holdfast.auth"), "Event name of a message that brings a new token under `/token`."),
];

const JWKS: &[Key] = &[
    hot("url", Text, Required, "`http:` or `https:`. Redirects are not followed."),
    hot("refresh", Duration(SECOND, 24 * HOUR), Is("5m"), "How often keys are fetched."),
    hot(
        "refetch_interval",
        Duration(10, HOUR),
        Is("30s"),
        "The least time since the last fetch before a token that names an unknown key brings about another.",
    ),
    hot("timeout", Duration(10, HOUR), Is("5s"), "Of one fetch."),
    hot("ca_file", File, Absent("the system's authorities"), "PEM file of authorities trusted beside the system's."),
];

pub const GROUP: &[Key] = &[
    hot("group", Text, Required, "Group name, or a pattern in which `*` stands for any text."),
    hot(
        "require",
        REQUIRE,
        Absent("nothing is asked"),
        "Claims that a connection must have to be in it; in a value `{*}` is what the star stood for.",
    ),
    hot(
        "conflate",
        Text,
        Absent("every message waits"),
        "JSON Pointer, such as `/symbol`: of the messages with the same value there only the newest waits for a slow client.",
    ),
];
