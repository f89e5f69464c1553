//! One binary of integration tests: the real program in this process, real sockets, real upstreams.

#![expect(clippy::disallowed_methods, reason = "tests run no drain")]

mod admin;
mod batch;
mod cli;
mod codes;
mod compression;
mod drain;
mod events;
mod guides;
mod handshake;
mod harness;
mod hostile;
mod idle;
mod limits;
mod outage;
mod process;
mod push;
mod rabbitmq;
mod reload;
mod slow;
mod telemetry;
mod tls;
mod tokens;
mod watch;
