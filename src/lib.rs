//! Holdfast: a sidecar that owns WebSocket connections so that the application beside it can stay stateless.
//! Events go out to an HTTP handler, commands come in by connection ID. `docs/ARCHITECTURE.md` draws the layers.

pub mod admin;
pub mod amqp;
pub mod app;
pub mod backoff;
pub mod claims;
pub mod cli;
pub mod codes;
pub mod command;
pub mod config;
pub mod connection;
pub mod deliver;
pub mod demo;
pub mod drain;
pub mod ids;
pub mod limits;
pub mod listener;
pub mod mailbox;
pub mod message;
#[cfg(test)]
mod pages;
pub mod pipeline;
pub mod recorder;
pub mod registry;
pub mod revocations;
pub mod routing;
pub mod schema;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod upstream;
