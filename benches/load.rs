//! The load program: an echo handler, a bare loop to compare with, and clients that measure. `scripts/bench` drives it.
//! Each measurement prints one line for people and one JSON line.

#[path = "load/amqp.rs"]
mod amqp;
#[path = "load/clients.rs"]
mod clients;
#[path = "load/compressed.rs"]
mod compressed;
#[path = "load/flood.rs"]
mod flood;
#[path = "load/hub.rs"]
mod hub;
#[path = "load/measure.rs"]
mod measure;
#[path = "load/peers.rs"]
mod peers;
#[path = "load/servers.rs"]
mod servers;

use std::collections::HashMap;

use clap::{Parser, Subcommand};

/// Holdfast's own, so that the bare loop differs from it by its work only.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Given by `cargo bench`; means nothing here
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// An HTTP handler that answers each event with its own body
    Handler { listen: String },
    /// A bare loop of tokio-tungstenite and a pooled hyper client: what Holdfast is measured against
    Bare { listen: String, upstream: String },
    /// A bare hub: a prepared frame written to each socket of a channel
    Hub { listen: String, publish: String },
    /// A bare loop of tokio-tungstenite and lapin that publishes with confirms
    BareAmqp { listen: String, url: String, queue: String },
    /// Messages there and back, one under way per connection
    Roundtrip(clients::Load),
    /// Quiet connections: memory, connect rate, CPU
    Idle(clients::Load),
    /// Sends to a group of all connections
    Fanout(clients::Load),
    /// Sends to a group of all connections ten times a second until it is killed
    Broadcast(clients::Load),
    /// Sends to single connections by REST
    Push(clients::Load),
    /// Keeps the gateway busy from 127.0.0.2 until it is killed
    Flood(flood::Flood),
    /// Asks at a steady pace from 127.0.0.1: what others feel of a flood
    Steady(clients::Load),
    /// Sends to single connections by RabbitMQ
    Commands {
        #[command(flatten)]
        load: clients::Load,
        #[arg(long)]
        url: String,
        #[arg(long)]
        queue: String,
    },
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match Cli::parse().command {
            Command::Handler { listen } => servers::handler(&listen).await,
            Command::Bare { listen, upstream } => servers::bare(&listen, upstream).await,
            Command::Hub { listen, publish } => hub::hub(&listen, &publish).await,
            Command::BareAmqp { listen, url, queue } => amqp::bare(&listen, &url, &queue).await,
            Command::Commands { load, url, queue } => amqp::commands(load, &url, &queue).await,
            Command::Flood(kind) => flood::flood(kind).await,
            Command::Steady(load) => flood::steady(load).await,
            Command::Roundtrip(load) => clients::roundtrip(load).await,
            Command::Idle(load) => clients::idle(load).await,
            Command::Fanout(load) => clients::fanout(load).await,
            Command::Broadcast(load) => clients::broadcast(load).await,
            Command::Push(load) => clients::push(load).await,
        }
    });
}

/// Prints a result for people and for programs.
fn print(what: &str, figures: &[(&'static str, f64)]) {
    let words: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
    eprintln!("{what}: {}", words.join(", "));
    let map: HashMap<_, _> = figures.iter().copied().collect();
    println!("{}", serde_json::json!({"what": what, "figures": map}));
}
