//! What the operating system grants a server of many sockets: raised as far as it may be, and said at start. Must not know what is
//! served.

use std::path::Path;

/// What the kernel would hold ready; see `net.core.somaxconn`.
const BACKLOG_WANTED: u64 = 4096;
/// Files that are not connections: listeners, upstreams, the log, certificates.
const FILES_BESIDE: u64 = 64;

/// Raises the limit on open files to the most that is allowed, and says how many connections fit.
pub fn prepare(connections_max: usize) {
    let before = rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft);
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(files) => tracing::info!(
            files,
            before = before.unwrap_or(files),
            connections_max,
            fit = fit(files).min(connections_max as u64),
            "file limit: each connection needs one"
        ),
        Err(error) => tracing::warn!("cannot raise the file limit: {error}"),
    }
    let backlog = std::fs::read_to_string(Path::new("/proc/sys/net/core/somaxconn"));
    if let Some(backlog) = backlog.ok().and_then(|text| text.trim().parse::<u64>().ok())
        && backlog < BACKLOG_WANTED
    {
        tracing::warn!(
            backlog,
            "net.core.somaxconn is low: more connections than that at once are lost; raise it to {BACKLOG_WANTED}"
        );
    }
}

/// How many connections the limit on open files leaves room for now.
pub fn connections_fit() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(files, _)| fit(files))
}

fn fit(files: u64) -> u64 {
    files.saturating_sub(FILES_BESIDE)
}
