//! What is seen from outside: metrics, logs and spans. Knows names and numbers; must not know the domain's types.

pub mod classic;
pub mod logging;
pub mod metrics;
pub mod spans;

pub use metrics::{CompressionMetrics, EndpointMetrics, Metrics, RouteMetrics};
pub use spans::{Span, Spans};
