//! The program as a process of its own: for what signals, limits and the kernel's figures say of it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::{Client, PATIENCE, request};

pub const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// The running program.
pub struct Process {
    child: Killed,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// Removed at the end.
    _dir: Option<TempDir>,
}

impl Process {
    /// `file_limit` is what bash's `ulimit` is to set, `-n 64` for instance.
    pub async fn start(config: &Path, file_limit: Option<&str>) -> Self {
        let limit = file_limit.map(|limit| format!("ulimit {limit}; ")).unwrap_or_default();
        let child = Command::new("bash")
            .args(["-c", &format!("{limit}exec \"$0\" run --config \"$1\""), BINARY])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn();
        let mut child = Killed(child.expect("started"));
        let stderr = child.0.stderr.take().expect("piped");
        let (found, addresses) = tokio::sync::oneshot::channel();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = log.clone();
        // The pipe is read to its end, so that the program never waits for its log.
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line = without_colours(&line);
                if line.contains("holdfast is ready")
                    && let Some(found) = found.take()
                {
                    let _ = found.send((field(&line, "listen="), field(&line, "admin=")));
                }
                kept.lock().push(line);
            }
        });
        let (listen, admin) = tokio::time::timeout(PATIENCE, addresses).await.expect("ready in time").expect("ready");
        Self { child, listen, admin, log, _dir: None }
    }

    /// Starts with a whole configuration and files beside it.
    pub async fn start_yaml(yaml: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        for (name, text) in files.iter().chain(&[("holdfast.yaml", yaml)]) {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let mut process = Self::start(&dir.path().join("holdfast.yaml"), None).await;
        process._dir = Some(dir);
        process
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.0.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for the exit; its code.
    pub async fn exit(&mut self) -> Option<i32> {
        for _ in 0..PATIENCE.as_millis() / 10 {
            if let Some(status) = self.child.0.try_wait().expect("a status") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not gone within {PATIENCE:?}");
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.listen)
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url(), &[]).await.expect("open")
    }

    /// The sum of the metric's values whose line starts with `name`.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, _, body) = request(self.admin, Method::GET, "/metrics", &[], "".into()).await;
        let text = String::from_utf8_lossy(&body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Lines of the log so far, without colours.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Resident bytes now. The most from now on is `peak_bytes`.
    pub fn resident_bytes(&self) -> u64 {
        // 5 makes the kernel count the peak anew (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{}/clear_refs", self.child.0.id()), "5").expect("a running process");
        self.status("VmRSS:")
    }

    /// Time that its threads have run, whatever else the machine does: user and system, in steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.0.id())).expect("a running process");
        let (_, fields) = text.rsplit_once(") ").expect("a name in brackets");
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    pub fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.0.id())).expect("a running process");
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }
}

/// Killed at the end of the test, whatever becomes of it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut escape = false;
    for c in line.chars() {
        match c {
            '\u{1b}' => escape = true,
            'm' if escape => escape = false,
            _ if !escape => plain.push(c),
            _ => {}
        }
    }
    plain
}

/// The address behind `name` in a log line.
fn field(line: &str, name: &str) -> SocketAddr {
    let rest = line.split(name).nth(1).expect("a field");
    rest.split_whitespace().next().and_then(|text| text.parse().ok()).expect("an address")
}
