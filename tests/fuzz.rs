//! Replays the corpus of every fuzz target, and some mutations of it, so that an ordinary test run holds what fuzzing found.
//! `scripts/fuzz` looks for more; `HOLDFAST_MUTATIONS=1000000 cargo test --test fuzz frames` tries more without its tools.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Mutations of each target unless more are asked for, all from one fixed seed.
const MUTATIONS: usize = 2000;
const FILES_MAX: usize = 50;
const CORPUS_BYTES_MAX: u64 = 300_000;

#[test]
fn addresses() {
    replay("addresses");
}

#[test]
fn answers() {
    replay("answers");
}

#[test]
fn commands() {
    replay("commands");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn decode() {
    replay("decode");
}

#[test]
fn deflate() {
    replay("deflate");
}

#[test]
fn frames() {
    replay("frames");
}

#[test]
fn machine() {
    replay("machine");
}

#[test]
fn queue() {
    replay("queue");
}

#[test]
fn responses() {
    replay("responses");
}

#[test]
fn templates() {
    replay("templates");
}

#[test]
fn tokens() {
    replay("tokens");
}

#[test]
fn every_target_has_a_small_corpus_and_a_binary() {
    let names: BTreeSet<_> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |folder: &str| -> BTreeSet<String> {
        let paths = files(&fuzz().join(folder));
        paths.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    };
    assert_eq!(stems("corpus"), names);
    assert_eq!(stems("fuzz_targets"), names);
    let mut bytes = 0;
    for name in &names {
        let files = files(&fuzz().join("corpus").join(name));
        assert!((1..=FILES_MAX).contains(&files.len()), "{name}: {} files, at most {FILES_MAX}", files.len());
        bytes += files.iter().map(|file| fs::metadata(file).expect("a file").len()).sum::<u64>();
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes of corpus, at most {CORPUS_BYTES_MAX}");
}

/// Runs a target on its corpus, then on mutations of it. A panic's own words name the property; the file is named here.
fn replay(name: &str) {
    let (_, run) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let seeds: Vec<(String, Vec<u8>)> = files(&fuzz().join("corpus").join(name))
        .into_iter()
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a file")))
        .collect();
    assert!(!seeds.is_empty(), "no corpus");
    let attempt = |what: &str, bytes: &[u8]| {
        let result = std::panic::catch_unwind(|| run(bytes));
        assert!(result.is_ok(), "{what}: {:?}", String::from_utf8_lossy(bytes));
    };
    seeds.iter().for_each(|(path, bytes)| attempt(path, bytes));
    let mut random = StdRng::seed_from_u64(1);
    let mutations = std::env::var("HOLDFAST_MUTATIONS").map_or(MUTATIONS, |text| text.parse().expect("a number"));
    for at in 0..mutations {
        let (path, seed) = &seeds[at % seeds.len()];
        let other = &seeds[random.random_range(0..seeds.len())].1;
        attempt(&format!("mutation {at} of {path}"), &mutate(&mut random, seed.clone(), other));
    }
}

/// A few small changes: a bit, a byte, a piece taken out, said twice or taken from another seed.
fn mutate(random: &mut StdRng, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        let piece = at..(at + random.random_range(0..16)).min(bytes.len());
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.insert(at, random.random()),
            2 => drop(bytes.drain(piece)),
            3 => bytes.extend_from_within(piece),
            _ => {
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}
