//! Counts what a message allocates on its whole way: client, Holdfast, handler and back, over real sockets, in steady state. Each limit
//! is what was measured, and a little.

#[path = "allocations/scene.rs"]
mod scene;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use scene::{Exchange, Scene, round};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Connections that each have one message under way.
const CLIENTS: usize = 16;
const ROUNDS: usize = 100;

/// The path of an endpoint, and the most that one message there and back may allocate.
const LIMITS: [(&str, f64); 3] = [("/plain", 10.5), ("/schema", 16.5), ("/batch", 17.0)];
/// The most that one push by REST may.
const PUSH_LIMIT: f64 = 5.5;

fn main() {
    let scene = Scene::start();
    let mut wrong = 0;
    for (path, most) in LIMITS {
        wrong += usize::from(allocations(path, &mut scene.connect(path, CLIENTS)) > most);
    }
    wrong += usize::from(allocations("push", &mut scene.pushed(CLIENTS)) > PUSH_LIMIT);
    assert_eq!(wrong, 0, "more allocations than allowed: find them, or raise the limit and say why");
}

/// For each message.
fn allocations(what: &str, clients: &mut [impl Exchange]) -> f64 {
    // Pools fill and buffers grow to their size.
    (0..ROUNDS).for_each(|_| round(clients));
    let before = ALLOCATOR.stats();
    (0..ROUNDS).for_each(|_| round(clients));
    let after = ALLOCATOR.stats();
    let each = |count: usize| count as f64 / (CLIENTS * ROUNDS) as f64;
    let allocations = each(after.allocations - before.allocations + after.reallocations - before.reallocations);
    let bytes = each(after.bytes_allocated - before.bytes_allocated);
    println!("{what}: {allocations:.1} allocations, {bytes:.0} bytes for each message");
    allocations
}
