//! Programs that the documents show: each prints its address, and is stopped when it is dropped.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// A program that runs.
pub struct Example {
    pub address: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Example {
    /// Runs the code with an interpreter, on a free port.
    pub async fn start(interpreter: &str, code: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Node goes by the ending; Python does not care.
        let file = folder.path().join("handler.mjs");
        std::fs::write(&file, code).expect("written");
        let mut command = Command::new(interpreter);
        command.arg(&file).arg("0").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{interpreter}: {error}"));
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
        Self { address: line.expect("its address"), _process: process, _folder: folder }
    }
}

/// A page of `docs/`.
pub fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).expect("the page")
}

/// Its first block of code in a language.
pub fn block(page: &str, language: &str) -> String {
    let (_, code) = page.split_once(&format!("```{language}\n")).expect("a block of code");
    code.split_once("```").expect("its end").0.to_owned()
}
