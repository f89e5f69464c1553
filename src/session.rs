//! A session: one connection's life from its handshake to its disconnect event. `machine` decides, `socket` reads and writes,
//! `task` joins them. Knows the machine, the mailbox and the pipeline; must not know the registry or upstreams.

pub mod deflate;
pub mod frames;
mod live;
pub mod machine;
pub mod socket;
pub mod stream;
pub mod task;

pub use machine::Machine;
pub use socket::Socket;
pub use stream::{Plain, Stream};
pub use task::{Services, Session};

#[cfg(test)]
mod tests;
