//! The body of every fuzz target: a plain function over bytes that panics where a property does not hold. libFuzzer calls it from
//! `fuzz_targets/`, and the ordinary test `tests/fuzz.rs` replays the corpus with it. Whatever input is text stays text, so that a
//! seed can be read and written by hand.

pub mod addresses;
pub mod answers;
mod check;
pub mod commands;
pub mod config;
pub mod decode;
pub mod deflate;
pub mod frames;
mod json;
pub mod machine;
mod pipe;
pub mod queue;
pub mod responses;
pub mod templates;
pub mod tokens;

/// What a target does with an input.
pub type Run = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Run)] = &[
    ("addresses", addresses::run),
    ("answers", answers::run),
    ("commands", commands::run),
    ("config", config::run),
    ("decode", decode::run),
    ("deflate", deflate::run),
    ("frames", frames::run),
    ("machine", machine::run),
    ("queue", queue::run),
    ("responses", responses::run),
    ("templates", templates::run),
    ("tokens", tokens::run),
];
