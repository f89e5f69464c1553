//! One binary of integration tests: the real program in this process, real sockets, real upstreams.

mod codes;
mod drain;
mod events;
mod handshake;
mod harness;
mod outage;
mod process;
mod push;
mod reload;
mod slow;
