//! RabbitMQ both ways, against a real broker: events into exchanges, commands out of queues, and what happens when it dies.

mod commands;
mod errors;
mod events;
mod outage;
mod recovery;
mod workers;
