//! The drain: phases from running to gone, with a pace and a deadline. Knows tokio; must not know the domain.

use std::time::Duration;

/// Settings of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// Over how long the closes are spread.
    pub window: Duration,
    /// From the signal to the exit, whatever is left.
    pub deadline: Duration,
}
