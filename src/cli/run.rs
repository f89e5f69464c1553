//! `holdfast run`: starts, obeys signals, drains, leaves.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, EXIT_FAILURE, refuse};
use crate::app::{self, Running};
use crate::config;
use crate::telemetry::logging;

/// Serves the configuration at `path` until a signal ends it.
pub fn run(path: PathBuf) -> Result<ExitCode, CliError> {
    let loaded = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(refuse(&problems)),
    };
    let log = logging::init(&loaded.fixed.log).map_err(|error| CliError::Log(error.to_string()))?;
    app::system::prepare(loaded.draft.limits.connections);
    runtime()?.block_on(async {
        let running = app::start(loaded, Some(path), log).await?;
        serve(running).await
    })
}

/// Waits for signals: SIGHUP reloads, SIGTERM or SIGINT drains, a second one leaves at once.
pub async fn serve(running: Running) -> Result<ExitCode, CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reloader = running.reloader.clone();
    let drain = running.drain_handle();
    let mut ended = std::pin::pin!(running.wait());
    loop {
        tokio::select! {
            drained = &mut ended => {
                tracing::info!(cut = drained.cut, "bye");
                return Ok(ExitCode::SUCCESS);
            }
            _ = hangup.recv() => {
                // What is wrong is logged, counted and shown by GET /v1/config.
                let _ = reloader.reload("SIGHUP").await;
            }
            _ = terminate.recv() => if !drain.begin() { return Ok(at_once()) },
            _ = interrupt.recv() => if !drain.begin() { return Ok(at_once()) },
        }
    }
}

pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn at_once() -> ExitCode {
    tracing::warn!("second signal: leaving at once");
    ExitCode::from(EXIT_FAILURE)
}
