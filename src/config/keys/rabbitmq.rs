//! The keys that concern RabbitMQ.

use super::Otherwise::{Absent, Is, Required};
use super::Shape::{self, Choice, Duration, File, Integer, Map, Named, Size, Text, Texts};
use super::{FLAG, GIB, HOUR, KIB, Key, SECOND, YEAR, cold, hot};

const DECLARE: Shape = Choice(&["true", "passive", "false"]);
const QUEUE_TYPE: Shape = Choice(&["quorum", "classic"]);
const DECLARE_DOC: &str =
    "`true` makes what is missing, `passive` only looks for it and says what is missing, `false` does neither.";

pub const AMQP: &[Key] = &[
    hot(
        "exchange",
        Text,
        Required,
        "Name or template of the exchange. `\"\"` is the default exchange, which takes a queue's name as routing key.",
    ),
    hot(
        "routing_key",
        Text,
        Required,
        "Template: `{event}`, `{userid}`, `{endpoint}`, `{connectionid}`, or a JSON Pointer such as `{/order/region}`. What a client \
         chose is escaped, so that it adds no segment; `{+event}` puts it in as it is.",
    ),
    hot("declare", DECLARE, Is("true"), DECLARE_DOC),
    hot(
        "type",
        Choice(&["topic", "direct", "fanout", "headers"]),
        Is("topic"),
        "Type of the exchange that is declared.",
    ),
    hot(
        "queues",
        Named(&Map(AMQP_QUEUE)),
        Absent("none"),
        "Durable queues that are declared and bound with the exchange.",
    ),
    hot("persistent", FLAG, Is("true"), "Messages survive a restart of the broker in durable queues."),
    hot(
        "mandatory",
        FLAG,
        Is("true"),
        "A message that no queue takes comes back, and its sender is told `unroutable`. Otherwise it is lost and confirmed.",
    ),
    hot("expiration", Duration(1, YEAR), Absent("none"), "How long a message may wait in a queue."),
    hot("deadline", Duration(1, HOUR), Is("30s"), "Of an event until its confirm, counted from its receipt."),
    hot("window", Integer(1, 10_000), Is("1024"), "Unconfirmed messages on one channel."),
    hot("channels", Integer(1, 64), Is("1"), "Channels. Messages of one connection keep to one."),
];

const AMQP_QUEUE: &[Key] = &[
    hot("bind", Text, Is("#"), "Binding key to the exchange."),
    hot("type", QUEUE_TYPE, Is("quorum"), "Type of the queue."),
];

pub const RABBITMQ: &[Key] = &[
    cold(
        "url",
        Texts,
        Required,
        "`amqp:` or `amqps:` URL with the virtual host as path (`%2f` is `/`). A list is tried in turn.",
    ),
    cold(
        "username_file",
        File,
        Absent("the URL's user"),
        "File with the user's name, read anew for each attempt to connect.",
    ),
    cold("password_file", File, Absent("the URL's password"), "File with the password, read as `username_file` is."),
    cold(
        "ca_file",
        File,
        Absent("the system's authorities"),
        "PEM file of authorities trusted beside the system's, for `amqps:`.",
    ),
    cold("heartbeat", Duration(SECOND, HOUR), Is("10s"), "A broker that is silent for twice this is given up."),
    cold("connect_timeout", Duration(10, HOUR), Is("5s"), "Of one attempt to connect."),
    cold(
        "backoff_min",
        Duration(1, HOUR),
        Is("200ms"),
        "Pause after the first failed attempt; it doubles, with jitter.",
    ),
    cold("backoff_max", Duration(1, HOUR), Is("10s"), "The longest pause."),
    cold(
        "readiness_grace",
        Duration(0, YEAR),
        Is("30s"),
        "`/readyz` stays 200 while the broker is away for less than this; as long as a message's deadline, buffers hold.",
    ),
    cold(
        "commands_queue",
        Text,
        Is("holdfast.commands"),
        "Queue that commands come from, shared by all nodes. `\"\"` consumes nothing but the replies of workers.",
    ),
    cold("commands_declare", DECLARE, Is("true"), DECLARE_DOC),
    cold("commands_type", QUEUE_TYPE, Is("quorum"), "Type of the commands queue and of the dead-letter queue."),
    cold("commands_prefetch", Integer(1, 65_535), Is("256"), "Commands under way, not acked."),
    cold("commands_size", Size(KIB, GIB), Is("1MiB"), "Bytes of one command message; a larger one is dead-lettered."),
    cold(
        "commands_wait",
        Duration(0, HOUR),
        Is("5s"),
        "How long a command waits, unacked, for a client that does not read.",
    ),
    cold(
        "commands_gone",
        Choice(&["drop", "dead_letter"]),
        Is("drop"),
        "What becomes of a command whose connection is gone: counted and acked, or dead-lettered.",
    ),
    cold(
        "dead_letter_queue",
        Text,
        Is("holdfast.commands.dead"),
        "Queue for commands that cannot be carried out. `\"\"` rejects them, and the queue's own policy counts.",
    ),
];
