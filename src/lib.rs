//! Holdfast: a sidecar that owns WebSocket connections so that the application beside it can stay stateless.
//! Events go out to an HTTP handler, commands come in by connection ID. `docs/ARCHITECTURE.md` draws the layers.

pub mod admin;
pub mod codes;
pub mod demo;
pub mod drain;
pub mod ids;
pub mod listener;
pub mod message;
pub mod routing;
pub mod schema;
pub mod snapshot;
pub mod tasks;
pub mod telemetry;
pub mod upstream;
