//! Commands that come in by REST or by a queue: read, carried out by `deliver`, answered with their true outcome.
//! Knows `deliver`, the registry and the broker; must not know routes, nor how calls are authorised.

mod error;
pub mod listing;
pub mod queue;
pub mod rest;
pub mod revocations;

pub use error::ApiError;
pub use queue::{CommandQueues, CommandsSettings, Gone};
