//! Commands that come in by REST: read, carried out by `deliver`, answered with their true outcome.
//! Knows `deliver` and the registry; must not know routes, nor how calls are authorised.

mod error;
pub mod rest;

pub use error::ApiError;
