//! Attacks, over real sockets, on the program as a process. Each shows the answer, a metric that counts it, that another client is
//! served meanwhile, and a bound on the memory that the process took.

mod configuration;
mod frames;
mod handshakes;
mod injection;
mod json;
mod upstreams;

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::{Process, Upstream, eventually, yaml};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * 1024;
/// The longest that the other client may wait for one answer. Tests share a few cores, unoptimised: their own slowness is in it.
const WAIT_MAX: Duration = Duration::from_secs(5);
const ROUTES: &str = "routes: [{event: \"*\", upstream: app}]";

/// A process under attack, and a client beside the attackers.
struct Scene {
    process: Process,
    app: Upstream,
    other: Other,
    resident_before: u64,
}

impl Scene {
    /// Starts with an echoing handler; `endpoint` are further keys of `/ws`.
    async fn start(endpoint: &str) -> Self {
        Self::start_with("", "", endpoint, &[]).await
    }

    /// Starts with further keys at the top, of the upstream and of `/ws`, and with files beside the configuration.
    async fn start_with(top: &str, upstream: &str, endpoint: &str, files: &[(&str, &str)]) -> Self {
        let app = Upstream::echo().await;
        let yaml = format!("{top}\n{}", yaml(&app.url(), upstream, endpoint));
        Self::start_yaml(app, &yaml, files).await
    }

    /// Starts with a second endpoint `/limited` whose further keys these are.
    async fn start_limited(limited: &str) -> Self {
        let app = Upstream::echo().await;
        let yaml = format!("{}  - {{path: /limited, {limited}, {ROUTES}}}\n", yaml(&app.url(), "", ROUTES));
        Self::start_yaml(app, &yaml, &[]).await
    }

    /// Starts with a whole configuration, whose endpoint `/ws` echoes the event `other`.
    async fn start_yaml(app: Upstream, yaml: &str, files: &[(&str, &str)]) -> Self {
        let process = Process::start_yaml(yaml, files).await;
        let other = Other::start(&process).await;
        let resident_before = process.resident_bytes();
        Self { process, app, other, resident_before }
    }

    /// Waits until a metric is at least this.
    async fn counted(&self, metric: &str, least: usize) {
        let process = &self.process;
        eventually(&format!("{metric} {least}"), || async {
            (process.metric(metric).await >= least as f64).then_some(())
        })
        .await;
    }

    /// The attack is over: the other client was served all along, and memory stayed within its bound.
    async fn held(self, growth_max: u64) {
        let growth = self.process.peak_bytes().saturating_sub(self.resident_before);
        let (answers, longest) = self.other.stop().await;
        println!("grew by {} KiB; the other client had {answers} answers, the slowest took {longest:?}", growth / KIB);
        assert!(answers > 0 && longest < WAIT_MAX, "{answers} answers, the slowest took {longest:?}");
        assert!(growth <= growth_max, "grew by {growth} bytes, at most {growth_max} were expected");
    }
}

/// A client that asks without a pause and takes the time.
struct Other {
    stop: oneshot::Sender<()>,
    task: JoinHandle<(usize, Duration)>,
}

impl Other {
    async fn start(process: &Process) -> Self {
        const MESSAGE: &str = r#"{"type":"other"}"#;
        let mut client = process.client().await;
        // What the first messages allocate is not the attack's.
        for _ in 0..20 {
            client.send(MESSAGE).await;
            assert_eq!(client.text().await, MESSAGE);
        }
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut answers, mut longest) = (0, Duration::ZERO);
            // An attack may be over before the first answer.
            loop {
                let sent = Instant::now();
                client.send(MESSAGE).await;
                assert_eq!(client.text().await, MESSAGE);
                longest = longest.max(sent.elapsed());
                answers += 1;
                if stopped.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
                    return (answers, longest);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { stop, task }
    }

    async fn stop(self) -> (usize, Duration) {
        // It ends earlier only by a panic, which the join shows.
        let _ = self.stop.send(());
        self.task.await.expect("every answer")
    }
}
