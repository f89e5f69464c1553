//! Holdfast: a sidecar that owns WebSocket connections so that the application beside it can stay stateless.
//! Events go out to an HTTP handler, commands come in by connection ID. `docs/ARCHITECTURE.md` draws the layers.

pub mod codes;
pub mod ids;
pub mod message;
pub mod routing;
pub mod schema;
pub mod snapshot;
pub mod telemetry;
pub mod upstream;
