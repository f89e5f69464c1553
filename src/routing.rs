//! Routing: how an event's name is found in a message, and which route takes it.
//! Knows messages; must not know upstream clients, sockets or configuration files.

pub mod pattern;
pub mod pointer;
pub mod table;
pub mod template;

pub use pattern::{InvalidPattern, Pattern};
pub use pointer::{EventName, Found, InvalidPointer, Pointer};
pub use table::Table;
pub use template::{InvalidTemplate, Template, Unfit, Values};
